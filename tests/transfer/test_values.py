"""Values on their way: what passes, what does not, and that each spelling and digest is the other database's, too."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import dal
from dal import Settings
from dal.core.rows import decode_json, encode_json, instant_text
from dal.digests import canonical, jsonb_text
from dal.transfer.folder import line
from dal.transfer.inventory import Column, Table, inventory
from dal.transfer.moving import open_side
from dal.transfer.side import Range, Side
from dal.transfer.values import (
    BadText,
    Digest,
    Refused,
    Summing,
    form,
    is_clean,
    json_text,
    jsonb_to_text,
    key_text,
    raw_hex,
)
from tests.conftest import SERVERS
from tests.transfer.loose import loosen

TABLES = pytest.mark.parametrize("table", inventory(), ids=lambda table: table.name)

LETTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
TEXT = st.text(LETTERS, max_size=12) | st.sampled_from(
    ["", "\\", "\\u0000", "null", "\ufeff", "\u202e", "\U0010ffff", "é"]
)
INTS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)])
FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [0.0, -0.0, 0.1, 1e15, 1e16, 1.5e300, 5e-324, 1.7976931348623157e308]
)
TIMES = st.datetimes(timezones=st.just(UTC)) | st.sampled_from(
    [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)]
)
JSON = st.recursive(
    st.none() | st.booleans() | INTS | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "uuid": st.uuids(), "text": TEXT, "int": INTS, "float": FLOATS, "bool": st.booleans(), "timestamptz": TIMES,
    "json": JSON.map(lambda value: msgspec.Raw(encode_json(value, "json").encode())), "bytes": st.binary(max_size=40),
}  # fmt: skip


def rows_of(table: Table) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Rows as models have their values; a document as msgspec.Raw, to tell its null from none."""
    columns = [VALUES[c.kind] | st.none() if c.nullable else VALUES[c.kind] for c in table.columns]
    return st.lists(st.tuples(*columns), min_size=1, max_size=5)


def travelling(table: Table, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row as it travels, by the words at the top of dal.transfer.values."""
    spelled: dict[str, Callable[[Any], Any]] = {
        "uuid": str, "timestamptz": lambda value: instant_text(value, "at"), "bytes": bytes.hex,
        "json": lambda value: bytes(value).decode(),
    }  # fmt: skip
    return tuple(
        None if value is None else spelled.get(column.kind, lambda value: value)(value)
        for column, value in zip(table.columns, row, strict=True)
    )


def quiet(rule: str, column: str) -> None:
    raise AssertionError(f"{rule}: {column}")


# --- one spelling -----------------------------------------------------------------------------------------------------


@TABLES
@hypothesis_settings(max_examples=8)
@given(data=st.data())
def test_the_canonical_encoding_is_that_of_dal_digests(table: Table, data: st.DataObject) -> None:
    for row in data.draw(rows_of(table)):
        kinds = ["text" if value is None else c.kind for c, value in zip(table.columns, row, strict=True)]
        values = [
            decode_json(bytes(value)) if kind == "json" else value for kind, value in zip(kinds, row, strict=True)
        ]
        assert form(table).canonical(travelling(table, row)) == canonical(kinds, values)


@TABLES
@hypothesis_settings(max_examples=8)
@given(data=st.data())
def test_a_line_of_a_file_is_the_row(table: Table, data: st.DataObject) -> None:
    for row in data.draw(rows_of(table)):
        travels = travelling(table, row)
        back = form(table).from_wire(msgspec.json.decode(line(travels)), quiet)
        assert list(map(repr, back)) == list(map(repr, travels))


@pytest.fixture(scope="module")
def loose(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Side]]:
    """A side of each dialect whose tables take every row that has the right kinds."""
    server, name = pytestconfig.stash[SERVERS][0], f"loose_{secrets.token_hex(6)}"
    urls = [server.create_database(name), f"sqlite:///{tmp_path_factory.mktemp('loose') / 'loose.db'}"]
    sides = []
    for url in urls:
        dal.connect(url, migrate=True).close()
        loosen(url)
        sides.append(open_side(Settings.from_url(url)))
    yield sides
    for side in sides:
        side.close()
    server.drop_database(name)


@TABLES
@hypothesis_settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_loaded_is_read_again_and_has_the_digest_on_both(
    table: Table, data: st.DataObject, loose: list[Side]
) -> None:
    """On PostgreSQL the digest is computed in SQL, and rows go in by binary COPY."""
    shape = form(table)
    rows = [travelling(table, row) for row in data.draw(rows_of(table))]
    expected = Digest()
    for row in rows:
        expected = expected.plus(*Digest.of(shape.canonical(row)))
    for side in loose:
        with side.writing():
            side.ask(f"delete from {table.name}")
            side.load(shape, iter(rows))
        assert side.digest(table, Range()) == expected, side.dialect
        back = [side.checker(shape)(row, quiet) for row in side.read(table, Range())]
        assert sorted(map(repr, map(plain(table), back))) == sorted(map(repr, map(plain(table), rows))), side.dialect
        whole = Digest()
        for _, digest in side.row_digests(table, Range()):
            whole = whole.plus(*digest)
        assert whole == expected, side.dialect


def plain(table: Table) -> Callable[[tuple[Any, ...]], list[Any]]:
    """A row whose documents do not depend on the order of their keys."""
    return lambda row: [
        json.dumps(json.loads(value), sort_keys=True) if column.kind == "json" and value is not None else value
        for column, value in zip(table.columns, row, strict=True)
    ]


# --- digests ----------------------------------------------------------------------------------------------------------


@given(rows=st.lists(st.binary(max_size=5), max_size=8), seed=st.randoms())
def test_a_digest_is_of_the_rows_in_any_order_and_counts_equal_ones(rows: list[bytes], seed: Any) -> None:
    one, other = Summing(), Summing()
    for row in rows:
        one.add(row)
    seed.shuffle(rows)
    for row in rows:
        other.add(row)
    assert one.digest == other.digest == Digest.parse(str(one.digest))
    other.add(b"x")
    assert other.digest.minus(Digest.of(b"x")) == one.digest
    other.add(b"x")
    assert other.digest not in (one.digest, one.digest.plus(*Digest.of(b"x")))


# --- JSON -------------------------------------------------------------------------------------------------------------


@given(value=JSON, spaced=st.booleans(), ascii_only=st.booleans())
def test_a_document_becomes_what_the_stores_write(value: Any, spaced: bool, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, separators=None if spaced else (",", ":"))
    written = encode_json(json.loads(text), "c")
    assert json_text(text, "c", lambda rule, column: None) == written
    assert json_text(written, "c", quiet) == written, "and that is not changed again"
    assert json.loads(jsonb_to_text(jsonb_text(value), "c", quiet)) == json.loads(written)


@given(text=st.text(st.sampled_from('{}[]",:.0123456789eE+-nulltruefalse\\u d8NaInfity\0\ufeff'), max_size=24))
def test_any_text_is_a_document_of_equal_value_or_is_refused(text: str) -> None:
    try:
        written = json_text(text, "c", lambda rule, column: None)
    except Refused:
        return
    assume("{" not in text or len(json.loads(text, object_pairs_hook=list)) == len(json.loads(text)))
    read, expected = (json.loads(each, parse_float=exactly, parse_int=Decimal) for each in (written, text))
    assert read == expected


def exactly(digits: str) -> Decimal:
    """A number with all its digits; a vast one as its double has them, for so it is written."""
    return Decimal(float(digits)) if abs(float(digits)) >= 1e16 else Decimal(digits)


REFUSED = {
    "json": [
        "",
        "nul",
        "{",
        "{'a':1}",
        '{"a":1,}',
        "[1,]",
        "NaN",
        "[Infinity]",
        "-Infinity",
        "\ufeff{}",
        '"a\tb"',
        "1 2",
        "\0",
        "+1",
        "01",
        ".5",
        "1.",
    ],
    "nul": ['"\\u0000"', '{"\\u0000":1}', '[["\\u0000"]]'],
    "surrogate": ['"\\ud800"', '"\\udc00\\ud800"', '{"\\udfff":1}'],
    "json-number": [
        "1e400",
        "-1E400",
        "[1e-400]",
        "1e-99999999999999999999",
        "1e99999999999999999999",
        "9223372036854775808",
        "-9223372036854775809",
        "1" * 5000,
        "0." + "1" * 5000,
        "0.10000000000000001",
        "123456789012345678901234567890.5",
    ],
    "json-depth": ["[" * 201 + "]" * 201, '{"a":' * 201 + "1" + "}" * 201, "[" * 100_000],
    "json-size": ['"' + "x" * (16 * 2**20 - 1) + '"'],
}


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in REFUSED.items() for text in texts],
                         ids=lambda part: part[:24])  # fmt: skip
def test_a_document_that_is_refused(rule: str, text: str) -> None:
    with pytest.raises(Refused) as refused:
        json_text(text, "c", quiet)
    assert (refused.value.rule, refused.value.where) == (rule, "c")


TAKEN = {
    # what is stored: what is written, and the rules that are noted
    '{"a":1,"a":2}': ('{"a":2}', ["json-duplicate-key"]),
    '[{"b":{"a":1,"a":1}},{"a":0,"a":3}]': ('[{"b":{"a":1}},{"a":3}]', ["json-duplicate-key"] * 2),
    "1e5": ("100000.0", ["json-spelling"]),
    "1.10": ("1.1", ["json-spelling"]),
    "[-0.0,-0]": ("[0.0,0]", ["json-spelling"] * 2),
    "0e-99999999999999999999": ("0.0", ["json-spelling"]),
    "1e16": ("10000000000000000.0", ["json-spelling"]),
    "10000000000000000.0": ("10000000000000000.0", []),
    "[1e16,10000000000000000.0,6e-8]": ("[10000000000000000.0,10000000000000000.0,6e-8]", ["json-spelling"]),
    "6e-08": ("6e-8", ["json-spelling"]),
    "5e-324": ("5e-324", []),
    "0.00001": ("0.00001", []),
    "-9223372036854775808": ("-9223372036854775808", []),
    '{"a" : [1 , 2]}': ('{"a":[1,2]}', []),
    '"\\u00e9\\ud83d\\ude00\\u0041"': ('"é😀A"', []),
    '"\\\\u0000"': ('"\\\\u0000"', []),
    "null": ("null", []),
    '""': ('""', []),
    "[" * 200 + "]" * 200: ("[" * 200 + "]" * 200, []),
    '"' + "x" * (16 * 2**20 - 2) + '"': ('"' + "x" * (16 * 2**20 - 2) + '"', []),
}


@pytest.mark.parametrize("text", TAKEN, ids=lambda text: text[:24])
def test_a_document_that_is_taken(text: str) -> None:
    noted: list[str] = []
    assert json_text(text, "c", lambda rule, column: noted.append(rule)) == TAKEN[text][0]
    assert noted == TAKEN[text][1]


def test_a_document_that_is_no_text() -> None:
    for value, rule in ((b"{}", "type"), (1, "type"), (1.5, "type"), (BadText(b'"\xff"'), "utf8")):
        with pytest.raises(Refused) as refused:
            json_text(value, "c", quiet)
        assert refused.value.rule == rule


# --- other kinds ------------------------------------------------------------------------------------------------------

WRONG: dict[str, list[tuple[Any, str]]] = {
    "int": [
        ("12", "type"),
        ("x", "type"),
        (1.0, "type"),
        (1.5, "type"),
        (b"1", "type"),
        (True, "type"),
        (2**63, "range"),
        (-(2**63) - 1, "range"),
        (math.nan, "type"),
        (BadText(b"\xff"), "utf8"),
        (None, "null"),
    ],
    "float": [("1.5", "type"), (1, "type"), (math.nan, "not-finite"), (math.inf, "not-finite"), (None, "null")],
    "bool": [
        ("f", "type"),
        ("false", "type"),
        ("yes", "type"),
        (2, "bool"),
        (-1, "bool"),
        (1.0, "type"),
        (None, "null"),
    ],
    "uuid": [
        ("", "uuid"),
        ("x", "uuid"),
        (str(UUID(int=10)).upper().replace("0", "A"), "uuid"),
        (UUID(int=1).hex, "uuid"),
        (b"\0" * 16, "type"),
        (1, "type"),
        ("\0", "nul"),
        (None, "null"),
    ],
    "text": [(1, "type"), (1.5, "type"), (b"x", "type"), (BadText(b"\xff"), "utf8"), ("a\0b", "nul"), (None, "null")],
    "bytes": [("x", "type"), (1, "type"), (BadText(b"\xff"), "utf8"), (None, "null")],
    "timestamptz": [
        *(
            (text, "timestamp")
            for text in (
                "",
                "now",
                "yesterday",
                "infinity",
                "0000-00-00",
                "2024-02-30T00:00:00.000000Z",
                "0000-01-01T00:00:00.000000Z",
                "2024-01-01",
                "2024-01-01T00:00:00Z",
                "2024-01-01T00:00:00.000000",
                "2024-01-01 00:00:00.000000Z",
                "2024-01-01T00:00:00.000000+00:00",
                "2024-01-01T24:00:00.000000Z",
                "2024-01-01T00:00:60.000000Z",
                "2024-13-01T00:00:00.000000Z",
                "٢٠٢٤-01-01T00:00:00.000000Z",
                "2024-01-01T00:00:00.000000Z ",
            )
        ),
        (1704067200, "type"),
        (1704067200000, "type"),
        (1704067200.5, "type"),
        (b"now", "type"),
        (BadText(b"\xff"), "utf8"),
        ("a\0b", "nul"),
        (None, "null"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "value", "rule"),
    [(kind, *case) for kind, cases in WRONG.items() for case in cases],
    ids=lambda part: repr(part),
)
def test_a_stored_value_that_is_refused(kind: str, value: Any, rule: str) -> None:
    shape = form(Table("t", (Column("c", kind, False, False),), ("c",), ()))
    with pytest.raises(Refused) as refused:
        shape.from_sqlite((value,), quiet)
    assert (refused.value.rule, refused.value.where) == (rule, "c")
    if kind not in ("bytes", "bool"):
        with pytest.raises(Refused):
            shape.from_postgres((value,), quiet)


def test_a_line_of_a_file_is_checked_as_well() -> None:
    shape = form(Table("t", (Column("c", "text", True, False),), ("c",), ()))
    for raw in (b'["\\ud800"]', b'["\xed\xa0\x80"]'):  # from_wire relies on this
        with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
            msgspec.json.decode(raw)
    for found in (b'["\\ud800"]', {"c": "a"}, None):
        with pytest.raises(Refused) as refused:
            shape.from_wire(found, quiet)
        assert (refused.value.rule, refused.value.where) == ("line", "not a JSON list")
    number = form(Table("t", (Column("c", "int", False, False),), ("c",), ()))
    for text in ("[9223372036854775808]", "[1e5]", "[-99999999999999999999999999]"):
        with pytest.raises(Refused):
            number.from_wire(msgspec.json.decode(text), quiet)
    for row in ([], ["a", "b"]):
        with pytest.raises(Refused) as refused:
            shape.from_wire(row, quiet)
        assert (refused.value.rule, refused.value.where) == ("line", "number of values")


def test_what_is_set_aside_keeps_every_byte() -> None:
    row = (None, 5, -0.0, True, "a\0é", "\ud800", b"\xff", BadText(b"\xfe"))
    kept = [None if value is None else (value[0], bytes.fromhex(value[1])) for value in json.loads(raw_hex(row))]
    assert kept == [None, ("int", b"5"), ("float", b"-0.0"), ("bool", b"True"), ("text", "a\0é".encode()),
                    ("text", b"\xed\xa0\x80"), ("blob", b"\xff"), ("text", b"\xfe")]  # fmt: skip


def test_a_key_is_told_whatever_it_is() -> None:
    assert key_text(["a", 1]) == '["a", 1]'
    assert json.loads(key_text([None, b"\xff", BadText(b"\xfe"), "\ud800"])) == [
        None, ["blob", "ff"], ["text", "fe"], ["text", "eda080"]
    ]  # fmt: skip


def test_a_bound_is_a_key_that_both_databases_can_compare_with() -> None:
    table = Table("t", tuple(Column(kind, kind, False, False) for kind in ("uuid", "text", "int", "timestamptz")),
                  ("uuid", "text", "int", "timestamptz"), ())  # fmt: skip
    clean: list[Any] = [str(UUID(int=1)), "", 0, "2024-01-01T00:00:00.000000Z"]
    assert is_clean(table, clean)
    for place, bad in enumerate(["x", "a\0", 1.5, "infinity"]):
        for value in (bad, None, b"x"):
            assert not is_clean(table, [*clean[:place], value, *clean[place + 1 :]])

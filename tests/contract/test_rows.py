"""Values come back from both databases equal in value and in type. What cannot is refused, with its place."""

from __future__ import annotations

import enum
import json
import math
import random
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import Struct

import dal
from dal import CorruptDatabase, Invalid, Settings
from dal.core.catalog import Catalog
from dal.core.postgres_door import PostgresDoor
from dal.core.rows import (
    KINDS,
    LIST_KINDS,
    MAX_JSON_BYTES,
    MAX_JSON_DEPTH,
    Dialect,
    Json,
    canonical_json,
    decode_json,
    encode_json,
    encoder,
    field_kinds,
)
from dal.core.sqlite_door import SqliteDoor
from dal.dal import MODELS_BY_NAME
from dal.stores.versions import graph_hash

DIALECTS: tuple[Dialect, ...] = ("postgres", "sqlite")
Echo = Callable[..., Any]  # a query: arguments by name, and its answer

# A database is opened once a test and asked for many examples.
kept_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def exact(value: Any) -> Any:
    """A value such that equal means equal in value and type, everywhere inside: 1, 1.0 and True are three."""
    if isinstance(value, dict):
        return {key: exact(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [exact(inner) for inner in value]
    return type(value).__name__, value


# --- every kind of value, through a table of each database ------------------------------------------------------------


class Kinds(Struct, frozen=True):
    """One field of each kind."""

    u: UUID | None
    t: str | None
    i: int | None
    f: float | None
    b: bool | None
    at: datetime | None
    j: Json
    raw: bytes | None
    tags: tuple[str, ...] | None


class Number(Struct, frozen=True):
    number: int


QUERIES = """
-- name: create_kinds(u, t, i, f, b, at, j, raw, tags)^
-- params: u uuid?, t text?, i int?, f float?, b bool?, at timestamptz?, j json?, raw bytes?, tags json?
-- returns: Kinds
-- class: point
insert into kinds (u, t, i, f, b, at, j, raw, tags) values (:u, :t, :i, :f, :b, :at, :j, :raw, :tags)
returning u, t, i, f, b, at, j, raw, tags;

-- name: list_numbers(numbers, texts, ids)
-- params: numbers int[], texts text[], ids uuid[]
-- returns: Number
-- class: report
select i as number from kinds where i = any(:numbers) or t = any(:texts) or u = any(:ids) order by i;

-- name: get_instant(at)$
-- params: at timestamptz
-- returns: timestamptz
-- class: point
select cast(:at as timestamptz);

-- name: get_document(j)$
-- params: j json
-- returns: json
-- class: point
select cast(:j as jsonb);

-- name: get_id(u)$
-- params: u uuid
-- returns: uuid
-- class: point
select cast(:u as uuid);

-- name: get_flag(b)$
-- params: b bool
-- returns: bool
-- class: point
select cast(:b as boolean);
"""
TABLES: dict[Dialect, str] = {
    "postgres": "create table kinds (u uuid, t text, i bigint, f double precision, b boolean, at timestamptz, j jsonb,"
    " raw bytea, tags jsonb)",
    "sqlite": "create table kinds (u text, t text, i integer, f real, b integer, at text, j text, raw blob, tags text)"
    " strict",
}


def twins() -> str:
    """The same queries for SQLite: name lines, and what its SQL says otherwise."""
    lines = [line for line in QUERIES.splitlines() if not line.startswith(("-- params", "-- returns", "-- class"))]
    text = "\n".join(lines)
    for name in ("numbers", "texts", "ids"):
        text = text.replace(f"= any(:{name})", f"in (select value from json_each(:{name}))")
    for kind in ("timestamptz", "jsonb", "uuid", "boolean"):
        text = text.replace(f" as {kind})", f" as {'integer' if kind == 'boolean' else 'text'})")
    return text


@pytest.fixture(params=DIALECTS)
def queries(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """``queries("get_id", u=…)`` on a fresh database."""
    dialect: Dialect = request.param
    for name, text in (("postgres", QUERIES), ("sqlite", twins())):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kinds.sql").write_text(text, encoding="utf-8")
    door: SqliteDoor | PostgresDoor = SqliteDoor()
    if dialect == "postgres":
        door = PostgresDoor(Settings.from_url(request.getfixturevalue("postgres_url")))
    door.run_sql(TABLES[dialect])
    view: Any = Catalog.load(dialect, {"Kinds": Kinds, "Number": Number}, root=tmp_path).view(door)

    def run(name: str, **values: Any) -> Any:
        try:
            getattr(view, name)(**values).send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("a door does not suspend")

    yield run
    door.close()


text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
int64 = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
offsets = st.integers(-(24 * 60 - 1), 24 * 60 - 1).map(lambda minutes: timezone(timedelta(minutes=minutes)))
day = timedelta(days=1)
instants = st.datetimes(datetime.min + day, datetime.max - day, timezones=st.just(UTC) | offsets)
documents = st.recursive(
    st.none() | st.booleans() | int64 | floats | text,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(text, inner, max_size=5),
    max_leaves=15,
)
kinds = st.fixed_dictionaries(
    {
        "u": st.none() | st.uuids(),
        "t": st.none() | text,
        "i": st.none() | int64,
        "f": st.none() | floats,
        "b": st.none() | st.booleans(),
        "at": st.none() | instants,
        "j": documents.filter(lambda value: value is not None),
        "raw": st.none() | st.binary(max_size=40),
        "tags": st.none() | st.lists(text, max_size=4),
    }
)
EXTREMES: list[dict[str, Any]] = [
    {"i": 2**63 - 1, "f": 1.7976931348623157e308, "at": datetime.max.replace(tzinfo=UTC), "raw": bytes(range(256))},
    {"i": -(2**63), "f": 5e-324, "at": datetime.min.replace(tzinfo=UTC), "raw": b"", "t": "", "tags": []},
    {"i": 0, "f": -0.0, "u": UUID(int=0), "t": "\\u0000 \ufeff\u202e\u0301\U0010ffff 'é' \\ %s :x $1 ?"},
    {"f": 0.1 + 0.2, "u": UUID(int=2**128 - 1), "at": datetime(1969, 12, 31, 23, 59, 59, 999999, UTC), "t": "\\"},
    {"f": 1.0, "j": 1.0, "b": False},
    {"f": 1e16, "at": datetime(2024, 2, 29, 12, tzinfo=timezone(timedelta(hours=5, minutes=30))), "t": "null"},
]


@given(kinds)
@settings(kept_fixture, max_examples=120)
def test_a_row_comes_back_as_it_went_in(queries: Echo, row: dict[str, Any]) -> None:
    check_row(queries, row)


@pytest.mark.parametrize("row", EXTREMES, ids=str)
def test_an_extreme_row_comes_back_as_it_went_in(queries: Echo, row: dict[str, Any]) -> None:
    check_row(queries, {name: row.get(name) for name in Kinds.__struct_fields__})


def check_row(queries: Echo, row: dict[str, Any]) -> None:
    stored = queries("create_kinds", **row)
    for name, sent in row.items():
        found = getattr(stored, name)
        if name == "j":
            assert exact(found) == exact(without_minus_zero(sent))
        elif name == "tags" and sent is not None:
            assert found == tuple(sent)
        elif name == "f" and sent is not None:
            assert type(found) is float
            assert struct.pack(">d", found) == struct.pack(">d", sent + 0.0), f"{sent!r} came back as {found!r}"
        else:
            assert (type(found), found) == (type(sent), sent)
    if stored.at is not None:
        assert stored.at.tzinfo is UTC or stored.at.utcoffset() == timedelta(0), "instants are returned in UTC"


def without_minus_zero(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_minus_zero(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_minus_zero(inner) for inner in value]
    return 0.0 if isinstance(value, float) and value == 0 else value


@given(st.uuids(), instants, st.booleans(), documents)
@settings(kept_fixture, max_examples=60)
def test_a_single_value_comes_back_as_it_went_in(queries: Echo, u: UUID, at: datetime, b: bool, j: Any) -> None:
    assert queries("get_id", u=u) == u
    assert (queries("get_instant", at=at), queries("get_instant", at=at).utcoffset()) == (at, timedelta(0))
    assert queries("get_flag", b=b) is b
    assert exact(queries("get_document", j=j)) == exact(without_minus_zero(j))


class Folding(tzinfo):
    """A zone in which every hour comes twice."""

    def utcoffset(self, at: datetime | None) -> timedelta:
        return timedelta(hours=1 if at is not None and at.fold else 2)

    def tzname(self, at: datetime | None) -> str:
        return "folding"

    def dst(self, at: datetime | None) -> timedelta:
        return timedelta(hours=2) - self.utcoffset(at)


def test_an_hour_that_comes_twice_is_two_instants(queries: Echo) -> None:
    once = datetime(2024, 10, 27, 2, 30, tzinfo=Folding())
    assert queries("get_instant", at=once) == datetime(2024, 10, 27, 0, 30, tzinfo=UTC)
    assert queries("get_instant", at=once.replace(fold=1)) == datetime(2024, 10, 27, 1, 30, tzinfo=UTC)


@given(st.lists(kinds, max_size=4), st.lists(int64), st.lists(text), st.lists(st.uuids()), st.data())
@settings(kept_fixture, max_examples=60)
def test_a_list_finds_what_is_in_it(
    queries: Echo,
    rows: list[dict[str, Any]],
    numbers: list[int],
    texts: list[str],
    ids: list[UUID],
    data: st.DataObject,
) -> None:
    wanted = set()
    for at, row in enumerate(rows):
        number = int(uuid4().int >> 66)
        queries("create_kinds", **{**row, "i": number})
        if data.draw(st.booleans(), label=f"ask for row {at}"):
            wanted.add(number)
            target = data.draw(st.sampled_from(["numbers", "texts", "ids"]))
            if target == "texts" and row["t"] is not None:
                texts = [*texts, row["t"]]
            elif target == "ids" and row["u"] is not None:
                ids = [*ids, row["u"]]
            else:
                numbers = [*numbers, number]
    found = {row.number for row in queries("list_numbers", numbers=numbers, texts=texts, ids=tuple(ids))}
    assert wanted <= found


@pytest.mark.parametrize(
    "texts", [["NULL"], ["{a,b}"], ['"'], ["\\"], [""], [" "], [","], ["a", "é'"], ["null", "[1]"]]
)
def test_a_list_takes_any_text_literally(queries: Echo, texts: list[str]) -> None:
    row = dict.fromkeys(Kinds.__struct_fields__)
    for number, value in enumerate([*texts, "other"]):
        queries("create_kinds", **{**row, "i": number, "t": value})
    found = queries("list_numbers", numbers=[], texts=texts, ids=[])
    assert [one.number for one in found] == list(range(len(texts)))


def test_an_empty_list_finds_nothing_and_a_huge_one_is_one_parameter(queries: Echo) -> None:
    row = dict.fromkeys(Kinds.__struct_fields__)
    for number in (5, 69_999, 70_001):
        queries("create_kinds", **{**row, "i": number})
    assert queries("list_numbers", numbers=[], texts=[], ids=[]) == []
    found = queries("list_numbers", numbers=list(range(70_000)), texts=[], ids=[])
    assert [one.number for one in found] == [5, 69_999]


# --- JSON -------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite_db", "postgres_db"])
def stored(request: pytest.FixtureRequest) -> Callable[[Json], dal.Version]:
    """Store a document as a graph and read it back, in another statement."""
    db: dal.Dal[dal.Sync] = request.getfixturevalue(request.param)
    workflow = db.workflows.create("documents", actor="test")

    def store(graph: Json) -> dal.Version:
        made = db.versions.create(workflow.id, graph, actor="test")
        found = db.versions.get(made.id)
        assert found == made, "what a write answers is what a read finds"
        return found

    return store


@given(st.lists(documents, min_size=1, max_size=25))
@settings(kept_fixture, max_examples=60)
def test_a_document_comes_back_equal_in_value_and_type_with_the_same_hash(
    stored: Callable[[Json], dal.Version], many: list[Any]
) -> None:
    version = stored(many)
    assert exact(version.graph) == exact(without_minus_zero(many))
    assert canonical_json(version.graph, "graph") == canonical_json(many, "graph")
    assert version.graph_hash == graph_hash(many) == graph_hash(version.graph)


@pytest.mark.parametrize(
    "graph",
    [None, True, False, 0, 1, -1, 0.0, 1.0, "", " ", "null", [], {}, [[]], [None], {"": None}, 2**63 - 1, -(2**63),
     2**53 + 1, 0.1, 1.5, 1e15, 9999999999999998.0, 1e16, 1.5e300, 5e-324, 1.7976931348623157e308, -1e16, 2.0**63,
     "\\u0000", "\ufeff\u202e\u0301\U0010ffff", {"a.b": 1, "a[0]": 2, "\\": 3, '"': 4, "__proto__": 5}],
    ids=repr,
)  # fmt: skip
def test_a_notable_document_comes_back_as_it_is(stored: Callable[[Json], dal.Version], graph: Any) -> None:
    assert exact(stored(graph).graph) == exact(graph)


def test_minus_zero_becomes_zero(stored: Callable[[Json], dal.Version]) -> None:
    found = stored([-0.0, {"x": -0.0}]).graph
    assert [math.copysign(1, value) for value in (found[0], found[1]["x"])] == [1.0, 1.0]


def test_twenty_thousand_random_doubles_and_integers_come_back(stored: Callable[[Json], dal.Version]) -> None:
    source = random.Random(20)
    doubles = [struct.unpack(">d", source.randbytes(8))[0] for _ in range(20_000)]
    doubles = [value for value in doubles if math.isfinite(value)]
    wholes = [float(source.randrange(10**digits)) for digits in range(1, 308) for _ in range(3)]
    integers = [source.randrange(-(2**63), 2**63) >> source.randrange(64) for _ in range(20_000)]
    found = stored([doubles, wholes, integers]).graph
    for sent, back in zip([doubles, wholes, integers], found, strict=True):
        wrong = [(a, b) for a, b in zip(sent, back, strict=True) if (type(a), a) != (type(b), b)]
        assert wrong == [], f"{len(wrong)} of {len(sent)} numbers changed, such as {wrong[:3]}"


def test_every_character_of_unicode_comes_back(stored: Callable[[Json], dal.Version]) -> None:
    characters = "".join(chr(code) for code in range(1, 0x110000) if not 0xD800 <= code < 0xE000)
    planes = [characters[at : at + 50_000] for at in range(0, len(characters), 50_000)]
    keys = {f"{chr(code)}": code for code in (*range(1, 0x800), 0xFEFF, 0xFFFF, 0x10FFFF)}
    assert stored([planes, keys]).graph == [planes, keys]


def test_a_document_of_200_levels_or_16_mib_comes_back(stored: Callable[[Json], dal.Version]) -> None:
    deep: Any = []
    for _ in range(MAX_JSON_DEPTH - 1):
        deep = [deep]
    assert stored(deep).graph == deep
    large = "é" * ((MAX_JSON_BYTES - 2) // 2)
    assert stored(large).graph == large


def test_the_null_of_json_is_not_the_null_of_sql(sqlite_db: dal.Dal[dal.Sync], postgres_db: dal.Dal[dal.Sync]) -> None:
    for db in (sqlite_db, postgres_db):
        workflow = db.workflows.create("nulls", actor="test")
        version = db.versions.create(workflow.id, None, actor="test", runnable_config=None)
        assert (version.graph, version.runnable_config) == (None, None)
        with db.transaction() as tx:
            row = tx.connection.execute(
                "select graph is null, runnable_config is null from workflow_versions"
            ).fetchone()
        assert [bool(value) for value in row] == [False, True]


def test_what_is_stored_but_is_no_json_is_a_corrupt_database() -> None:
    for text in ("", "{", "nul", b"\xff", "NaN"):
        with pytest.raises(CorruptDatabase):
            decode_json(text)


# --- refusals ---------------------------------------------------------------------------------------------------------


class Word(str):
    pass


class Colour(enum.IntEnum):
    RED = 1


LOOP: list[Any] = [0]
LOOP.append({"again": LOOP})
DEEP: Any = 0
for _ in range(MAX_JSON_DEPTH + 1):
    DEEP = [DEEP]
UNFOLDED: Any = "x" * 100
for _ in range(40):
    UNFOLDED = [UNFOLDED, UNFOLDED]

REFUSED: list[tuple[Any, str, str]] = [
    (math.nan, "graph", "NaN"),
    ([1.0, {"b": [0, math.nan]}], "graph[1].b[1]", "NaN"),
    ({"a": math.inf}, "graph.a", "infinities"),
    ({"a": [-math.inf]}, "graph.a[0]", "infinities"),
    ({"a": {"b": 2**63}}, "graph.a.b", "beyond 64 bits"),
    ([-(2**63) - 1], "graph[0]", "beyond 64 bits"),
    ([10**400], "graph[0]", "beyond 64 bits"),
    ({"a": Decimal("1.5")}, "graph.a", "Decimal"),
    ([Decimal("NaN")], "graph[0]", "Decimal"),
    ({"a": (1, 2)}, "graph.a", "tuple"),
    ([{1, 2}], "graph[0]", "set"),
    ([b"raw"], "graph[0]", "bytes"),
    ([UUID(int=1)], "graph[0]", "UUID"),
    ([datetime(2024, 1, 1, tzinfo=UTC)], "graph[0]", "datetime"),
    ([object()], "graph[0]", "object"),
    (object(), "graph", "object"),
    ([Word("a")], "graph[0]", "Word"),
    ({"a": Colour.RED}, "graph.a", "Colour"),
    ([OrderedDict(a=1)], "graph[0]", "OrderedDict"),
    ({1: "a"}, "graph", "a key of type int"),
    ({"a": {None: 1}}, "graph.a", "a key of type NoneType"),
    ([{Word("a"): 1}], "graph[0]", "a key of type Word"),
    ([{(1, 2): 1}], "graph[0]", "a key of type tuple"),
    ("a\0b", "graph", "NUL"),
    ({"a": ["\0"]}, "graph.a[0]", "NUL"),
    ({"a": {"b\0": 1}}, r"graph.a.b\x00", "NUL"),
    (["\ud800"], "graph[0]", "surrogate"),
    ({"a": "x\udfff"}, "graph.a", "surrogate"),
    ({"\ud83d": 1}, r"graph.\ud83d", "surrogate"),
    ({"é": [math.nan]}, r"graph.\xe9[0]", "NaN"),
    (LOOP, "graph", "nested more than 200 deep, or contains itself"),
    (DEEP, "graph", "nested more than 200 deep"),
    ("x" * (MAX_JSON_BYTES - 1), "graph", "more than 16777216 bytes"),
    (["é" * (MAX_JSON_BYTES // 2)], "graph", "more than 16777216 bytes"),
    (UNFOLDED, "graph", "more than 16777216 bytes"),
    ([1e300] * 60_000, "graph", "more than 16777216 bytes"),
]


@pytest.mark.parametrize(("value", "path", "said"), REFUSED, ids=[f"{path} {said}" for _, path, said in REFUSED])
def test_what_is_no_json_is_invalid_at_its_place(value: Any, path: str, said: str) -> None:
    for encode in (encode_json, canonical_json):
        with pytest.raises(Invalid, match=said) as refused:
            encode(value, "graph")
        found = refused.value.path or ""
        assert found == path or (said.startswith("nested") and found.startswith("graph["))
        assert len(str(refused.value)) < 500


def test_a_path_of_huge_keys_is_cut() -> None:
    with pytest.raises(Invalid) as refused:
        encode_json({"k" * 10_000: math.nan}, "graph")
    assert refused.value.path == "graph." + "k" * 194 + "…"


@pytest.mark.parametrize("letters", ["\\u0000", "a\\\\u0000", "\\\\u0000\\"])
def test_the_letters_of_an_escape_are_no_nul(letters: str) -> None:
    assert json.loads(encode_json([letters], "graph")) == [letters]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary() | st.decimals(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(st.text(st.characters(), max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def is_json(value: Any) -> bool:
    """The value policy, said once more and slowly."""
    if type(value) is dict:
        return all(type(key) is str and is_json(key) and is_json(inner) for key, inner in value.items())
    if type(value) is list:
        return all(map(is_json, value))
    if type(value) is str:
        return "\0" not in value and not any(0xD800 <= ord(character) < 0xE000 for character in value)
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) is bool or (type(value) is int and -(2**63) <= value < 2**63)


@given(anything)
@example([-0.0, 1e16, 1.5e300, 5e-324])
@settings(max_examples=300)
def test_a_value_is_encoded_if_and_only_if_the_policy_takes_it(value: Any) -> None:
    if is_json(value):
        text = encode_json(value, "graph")
        assert exact(json.loads(text)) == exact(without_minus_zero(value)), "the standard library reads it differently"
        assert exact(json.loads(canonical_json(value, "graph"))) == exact(without_minus_zero(value))
        assert exact(decode_json(text)) == exact(without_minus_zero(value))
    else:
        with pytest.raises(Invalid) as refused:
            encode_json(value, "graph")
        assert (refused.value.path or "").startswith("graph")


def test_encoding_changes_nothing_in_the_callers_value() -> None:
    value = {"b": [-0.0, 1e16], "a": {"x": -0.0}}
    text = repr(value)
    canonical_json(value, "graph")
    encode_json(value, "graph")
    assert repr(value) == text


PARAMETERS: list[tuple[str, list[Any], list[Any]]] = [
    ("uuid", [UUID(int=1)], ["7", str(UUID(int=1)), 1, b"1" * 16]),
    ("text", ["", "a"], [1, b"a", "a\0", "\ud800", Word("a")]),
    ("int", [0, 2**63 - 1, -(2**63)], [2**63, -(2**63) - 1, 1.0, "1", True, Decimal(1), Colour.RED]),
    ("float", [0.5, 1e308], [1, "1", math.nan, math.inf, True, Decimal("1.5")]),
    ("bool", [True, False], [1, 0, "true", "t", 0.0]),
    ("bytes", [b"", b"\0\xff"], ["a", bytearray(b"a"), memoryview(b"a"), [1]]),
    (
        "timestamptz",
        [datetime(2024, 1, 1, tzinfo=UTC)],
        [
            datetime(2024, 1, 1),
            datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
            datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-2))),
            datetime(2024, 1, 1, tzinfo=UTC).date(),
            "2024-01-01T00:00:00Z",
            "now",
            1704067200,
        ],
    ),
    ("json", [None, {}], [(1,), math.nan, {1: 2}]),
    ("int[]", [[], [1], (1, 2)], [1, {1}, "12", [1, "2"], [2**63], [None], range(3)]),
    ("text[]", [[], ["a"]], ["a", ["a", 1], ["\0"], [None], {"a": 1}]),
    ("uuid[]", [[], [UUID(int=1)]], [UUID(int=1), ["7"], [None]]),
]


def test_the_table_of_kinds_is_whole() -> None:
    assert {kind for kind, _, _ in PARAMETERS} == KINDS | LIST_KINDS


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("kind", "good", "bad"), PARAMETERS, ids=[kind for kind, _, _ in PARAMETERS])
def test_a_parameter_takes_its_kind_and_nothing_like_it(
    dialect: Dialect, kind: str, good: list[Any], bad: list[Any]
) -> None:
    for nullable in (False, True):
        encode = encoder(kind, nullable=nullable, dialect=dialect)
        for value in good:
            encode(value, "it")
        for value in bad:
            with pytest.raises(Invalid) as refused:
                encode(value, "it")
            assert (refused.value.path or "").startswith("it"), value
        if nullable:
            assert encode(None, "it") is None
        elif kind != "json":
            with pytest.raises(Invalid, match="not NoneType"):
                encode(None, "it")


def test_a_wrong_item_of_a_list_is_named_by_its_place() -> None:
    for dialect in DIALECTS:
        with pytest.raises(Invalid) as refused:
            encoder("int[]", nullable=False, dialect=dialect)([1, 2, "3"], "numbers")
        assert refused.value.path == "numbers[2]"


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS_BY_NAME)
def test_every_field_of_a_model_has_a_kind_that_a_row_can_be_built_from(name: str) -> None:
    for field, kind, nullable in field_kinds(MODELS_BY_NAME[name]):
        assert kind in KINDS | {"texts"}, f"{name}.{field}"
        assert isinstance(nullable, bool)
    with pytest.raises(AttributeError):
        MODELS_BY_NAME[name](*[None] * len(MODELS_BY_NAME[name].__struct_fields__)).id = 1  # type: ignore[attr-defined]

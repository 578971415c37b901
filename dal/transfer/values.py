"""Values on their way from one database to the other: what may pass, under which rule, how it is written and hashed.

Between reading and loading a row is a tuple of plain values, as a line of a batch file holds them: int, float, bool and
None as they are; uuid, text and timestamptz as text; json as its text; bytes in hex. ``Form`` has what a table's rows
need, made once a table as code without a loop, because it runs for every row there is.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from dal.core.rows import MAX_JSON_BYTES, Json, encode_json
from dal.digests import jsonb_text
from dal.errors import Invalid
from dal.transfer.inventory import Column, Table

Row: TypeAlias = tuple[Any, ...]
Origin = Literal["sqlite", "postgres", "wire"]
Note = Callable[[str, str], None]
Checker: TypeAlias = Callable[[Any, Note], Row]

# Why a row is not loaded, and what was changed in one that was. docs/moving.md has the table of them.
QUARANTINED = {
    "type": "a value of another type than its column's",
    "null": "no value where one is needed",
    "range": "an integer beyond 64 bits",
    "bool": "neither 0 nor 1",
    "uuid": "not a UUID as it is written here: 36 characters in lower case",
    "timestamp": "not a time in UTC as it is written here, or none that exists",
    "not-finite": "NaN or an infinity",
    "utf8": "bytes that are not UTF-8",
    "nul": "the character NUL",
    "surrogate": "half of a surrogate pair",
    "hex": "not bytes in hex",
    "json": "not JSON",
    "json-number": "a number in JSON that 64 bits do not hold",
    "json-depth": "JSON nested more than 200 deep",
    "json-size": "more than 16 MiB of JSON",
    "line": "a line that is not a row of the table",
    "constraint": "refused by a constraint of the table, which is named",
    "orphan": "refers to a row that is not there",
}
CHANGED = {
    "json-duplicate-key": "of the values that an object has under one key, the last was kept",
    "json-spelling": "a number in JSON is written otherwise, with the same value",
    "set-null": "what it referred to is not there",
}


class Refused(Exception):
    """A row that is not loaded. rule: of QUARANTINED; where: the column, or the constraint."""

    def __init__(self, rule: str, where: str) -> None:
        super().__init__(f"{rule}: {where}")
        self.rule = rule
        self.where = where


class BadText(bytes):
    """A TEXT value that is not UTF-8."""


# --- JSON -------------------------------------------------------------------------------------------------------------


class _Suspect(ValueError):
    """Not to be taken as it is without a closer look."""


def _plain_float(digits: str) -> float:
    value = float(digits)
    if abs(value) >= 1e16 or (value == 0 and digits[0] == "-"):
        raise _Suspect
    return value


_decode = msgspec.json.Decoder().decode
_decode_plain = msgspec.json.Decoder(float_hook=_plain_float).decode
_encode = msgspec.json.Encoder().encode
_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG = b"0" * 19
_DEPTH = 200


def json_text(text: Any, column: str, note: Note) -> str:
    """A stored document as the data access layer itself would write it. Raises Refused."""
    if type(text) is not str:
        raise Refused("utf8" if type(text) is BadText else "type", column)
    try:
        # What comes out again as it was has no key twice, no number that would be spelled or rounded otherwise.
        if _is_plain(text, raw := text.encode()) and _encode(_decode_plain(raw)) == raw:
            return text
    except (msgspec.DecodeError, UnicodeError, ValueError, RecursionError):
        pass
    return _careful_json_text(text, column, note, lambda value: encode_json(value, column))


def jsonb_to_text(text: Any, column: str, note: Note) -> str:
    """The same of what PostgreSQL printed of a jsonb."""
    if type(text) is str:
        try:
            if _is_plain(text, text.encode()) and jsonb_text(value := _decode_plain(text)) == text:
                return _encode(value).decode()
        except (msgspec.DecodeError, UnicodeError, ValueError, RecursionError):
            pass
    return _careful_json_text(text, column, note, jsonb_text)


def _is_plain(text: str, raw: bytes) -> bool:
    return (
        len(raw) <= MAX_JSON_BYTES
        and ("\\" not in text or "\\u" not in text)
        and text.count("{") + text.count("[") < _DEPTH
        # Of so many digits in a row, two are nine apart wherever one begins to count; most text has no two.
        and (b"00" not in raw[::9].translate(_DIGITS) or _LONG not in raw.translate(_DIGITS))
    )


def _careful_json_text(text: str, column: str, note: Note, spelled: Callable[[float], str]) -> str:
    """spelled: a number as the origin has it when the data access layer wrote it."""

    def note_object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        made = dict(pairs)
        if len(made) < len(pairs):
            note("json-duplicate-key", column)
        return made

    def note_float(digits: str) -> float:
        value = float(digits)
        # Equal to the double as it is written shortest, or as it is exactly: large ones are stored in full.
        if not math.isfinite(value) or (value == 0 and digits.lower().partition("e")[0].strip("-0.")):
            raise Refused("json-number", column)
        if value and Decimal(digits) not in (Decimal(repr(value)), Decimal(value)):
            raise Refused("json-number", column)
        if digits != spelled(value):
            note("json-spelling", column)
        return value

    def note_int(digits: str) -> int:
        if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
            raise Refused("json-number", column)
        if digits == "-0":
            note("json-spelling", column)
        return int(digits)

    def refuse_constant(name: str) -> Json:
        raise Refused("json", column)

    if _size(text, column) > MAX_JSON_BYTES:
        raise Refused("json-size", column)
    try:
        value = json.loads(
            text, object_pairs_hook=note_object, parse_float=note_float, parse_int=note_int,
            parse_constant=refuse_constant,
        )  # fmt: skip
    except RecursionError:
        raise Refused("json-depth", column) from None
    except ValueError:
        raise Refused("json", column) from None
    try:
        return encode_json(value, column)
    except Invalid as refused:
        said = str(refused)
        rules = {"NUL": "nul", "surrogate": "surrogate", "deep": "json-depth", "bytes of JSON": "json-size"}
        raise Refused(next((rule for word, rule in rules.items() if word in said), "json"), column) from None


def _size(text: str, column: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise Refused("surrogate", column) from None


# --- other kinds ------------------------------------------------------------------------------------------------------

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
POSTGRES_EPOCH = 946_684_800_000_000  # 2000-01-01 in microseconds since 1970
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII).fullmatch
_HEX = re.compile(r"(?:[0-9a-f]{2})*").fullmatch


def micros(text: str) -> int:
    """Microseconds since 1970 of a time that was checked."""
    return (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND


def _is_instant(text: str) -> bool:
    if not _INSTANT(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _why(value: Any, column: str, rule: str, wanted: type[Any]) -> Refused:
    """What is wrong with a value that was found to be wrong."""
    if value is None:
        return Refused("null", column)
    if type(value) is BadText:
        return Refused("utf8", column)
    if type(value) is not wanted:
        return Refused("type", column)
    if isinstance(value, str) and "\0" in value:
        return Refused("nul", column)
    if isinstance(value, str) and _has_surrogate(value):
        return Refused("surrogate", column)
    return Refused(rule, column)


_CLEAN: dict[str, Callable[[Any], bool]] = {
    "uuid": lambda value: type(value) is str and bool(_UUID(value)),
    "text": lambda value: type(value) is str and "\0" not in value and not _has_surrogate(value),
    "int": lambda value: type(value) is int,
    "timestamptz": lambda value: type(value) is str and _is_instant(value),
}


def is_clean(table: Table, key: Sequence[Any]) -> bool:
    """Whether both databases can compare with this key."""
    kinds = {column.name: column.kind for column in table.columns}
    return all(_CLEAN[kinds[name]](value) for name, value in zip(table.key, key, strict=True))


def key_text(key: Sequence[Any]) -> str:
    """A key as a report has it: as JSON; a part that JSON cannot say, as its type and bytes."""
    return json.dumps([value if _can_be_said(value) else _raw(value) for value in key])


def _can_be_said(value: Any) -> bool:
    return not isinstance(value, bytes) and not (isinstance(value, str) and _has_surrogate(value))


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


# --- digests ----------------------------------------------------------------------------------------------------------

_MASK = 2**64 - 1
_halves = struct.Struct(">QQ").unpack_from


class Digest(NamedTuple):
    """Of a set of rows, whatever their order: how many, and the sums of the halves of 16 bytes of each row's SHA-256.

    Sums, not XOR: two rows that are equal would undo each other. Modulo 2^64, as bigint has it.
    """

    rows: int = 0
    high: int = 0
    low: int = 0

    def plus(self, rows: int, high: int, low: int) -> Digest:
        """With rows more; the sums of whose halves may be negative, or larger than 64 bits."""
        return Digest(self.rows + rows, self.high + high & _MASK, self.low + low & _MASK)

    def minus(self, other: Digest) -> Digest:
        """Without the rows of another."""
        return self.plus(-other.rows, -other.high, -other.low)

    def __str__(self) -> str:
        return f"{self.rows}:{self.high:016x}{self.low:016x}"

    @classmethod
    def parse(cls, text: str) -> Digest:
        """What ``str`` made."""
        rows, _, sums = text.partition(":")
        return cls(int(rows), int(sums[:16], 16), int(sums[16:], 16))

    @classmethod
    def of(cls, row: bytes) -> Digest:
        """Of one row, in its canonical encoding."""
        return cls.of_hash(hashlib.sha256(row).digest())

    @classmethod
    def of_hash(cls, sha256: bytes) -> Digest:
        """Of one row, whose hash is known."""
        return cls(1, *_halves(sha256))


class Summing:
    """A digest that grows by a row at a time."""

    __slots__ = ("high", "low", "rows")

    def __init__(self) -> None:
        self.rows = self.high = self.low = 0

    def add(self, row: bytes) -> None:
        high, low = _halves(hashlib.sha256(row).digest())
        self.rows += 1
        self.high += high
        self.low += low

    @property
    def digest(self) -> Digest:
        return Digest(self.rows, self.high & _MASK, self.low & _MASK)


# --- a table's rows ---------------------------------------------------------------------------------------------------


class Form(NamedTuple):
    """What the rows of a table need.

    from_sqlite, from_postgres, from_wire: check a row and give it as it travels. Raise Refused.
    canonical: its bytes to be hashed: those of dal.digests.canonical. packed: its bytes in PostgreSQL's binary COPY.
    for_sqlite: its values to be bound.
    """

    table: Table
    from_sqlite: Checker
    from_postgres: Checker
    from_wire: Checker
    canonical: Callable[[Row], bytes]
    packed: Callable[[Row], bytes]
    for_sqlite: Callable[[Row], Row]

    def key(self, row: Sequence[Any]) -> list[Any]:
        """The values of a row's primary key."""
        return [row[place] for place in self.table.places()]


@cache
def form(table: Table) -> Form:
    """The form of a table."""
    return Form(
        table,
        _checker(table, "sqlite"),
        _checker(table, "postgres"),
        _checker(table, "wire"),
        _function("canonical", table, _canonical_lines(table.columns)),
        _function("packed", table, _packed_lines(table.columns)),
        _function("for_sqlite", table, _bound_lines(table.columns)),
    )


_SCOPE: dict[str, Any] = {
    "Refused": Refused, "why": _why, "json_text": json_text, "jsonb_to_text": jsonb_to_text,
    "is_uuid": _UUID, "is_instant": _is_instant,
    "is_hex": _HEX, "isfinite": math.isfinite, "micros": micros,
    "jsonb": lambda text: jsonb_text(_decode(text)), "float_hex": lambda value: struct.pack(">d", value).hex(),
    "unhex": bytes.fromhex, "size": struct.Struct(">i").pack, "int8": struct.Struct(">iq").pack,
    "float8": struct.Struct(">id").pack, "EPOCH": POSTGRES_EPOCH,
}  # fmt: skip


def _function(name: str, table: Table, lines: Sequence[str], arguments: str = "row") -> Any:
    names = ", ".join(f"c{at}" for at in range(len(table.columns)))
    text = f"def {name}({arguments}):\n" + "".join(
        f"    {line}\n" for line in (f"{names}, = row" if arguments == "row" else "", *lines) if line
    )
    scope = dict(_SCOPE)
    exec(compile(text, f"<{name} of {table.name}>", "exec"), scope)  # noqa: S102 - of our own schema's names alone
    return scope[name]


def _checker(table: Table, origin: Origin) -> Checker:
    count = len(table.columns)
    names = ", ".join(f"c{at}" for at in range(count))
    lines = [f"if len(row) != {count}:", "    raise Refused('line', 'number of values')", f"{names}, = row"]
    if origin == "wire":
        lines = ["if type(row) is not list:", "    raise Refused('line', 'not a JSON list')", *lines]
    for at, column in enumerate(table.columns):
        lines += _check_lines(f"c{at}", column, origin)
    return _function("check", table, [*lines, f"return ({names},)"], "row, note")  # type: ignore[no-any-return]


def _check_lines(c: str, column: Column, origin: Origin) -> list[str]:
    name = repr(column.name)
    tests = {
        "uuid": (f"type({c}) is not str or not is_uuid({c})", "uuid", "str"),
        "text": (f"type({c}) is not str or '\\0' in {c}", "type", "str"),  # no reader gives half of a surrogate pair
        "int": (f"type({c}) is not int or not -9223372036854775808 <= {c} <= 9223372036854775807", "range", "int"),
        "float": (f"type({c}) is not float or not isfinite({c})", "not-finite", "float"),
        "timestamptz": (f"type({c}) is not str or not is_instant({c})", "timestamp", "str"),
        "bool": (f"type({c}) is not bool", "bool", "bool"),
        "bytes": (f"type({c}) is not str or not is_hex({c})", "hex", "str"),
    }
    if origin == "sqlite":
        tests["bool"] = f"type({c}) is not int or {c} not in (0, 1)", "bool", "int"
        tests["bytes"] = f"type({c}) is not bytes", "type", "bytes"
    if column.kind == "json":
        reader = "jsonb_to_text" if origin == "postgres" else "json_text"
        lines = [f"{c} = {reader}({c}, {name}, note)"]
    else:
        test, rule, wanted = tests[column.kind]
        lines = [f"if {test}:", f"    raise why({c}, {name}, {rule!r}, {wanted})"]
        if origin == "sqlite" and column.kind == "bool":
            lines.append(f"{c} = {c} == 1")
        elif origin == "sqlite" and column.kind == "bytes":
            lines.append(f"{c} = {c}.hex()")
    if column.nullable:
        return [f"if {c} is not None:", *(f"    {line}" for line in lines)]
    return [f"if {c} is None:", f"    raise Refused('null', {name})", *lines] if column.kind == "json" else lines


def _canonical_lines(columns: Sequence[Column]) -> list[str]:
    spelled = {
        "uuid": "{c}.replace('-', '').encode()",
        "text": "{c}.encode()",
        "int": "str({c}).encode()",
        "float": "float_hex({c}).encode()",
        "bool": "b't' if {c} else b'f'",
        "timestamptz": "str(micros({c})).encode()",
        "json": "jsonb({c}).encode()",
        "bytes": "{c}.encode()",
    }
    lines = []
    for at, column in enumerate(columns):
        c = f"c{at}"
        value = spelled[column.kind].format(c=c)
        if column.nullable:
            lines += [f"if {c} is None:", f"    {c} = b'~'", "else:", f"    {c} = {value}",
                      f"    {c} = b'%d:%b' % (len({c}), {c})"]  # fmt: skip
        else:
            lines += [f"{c} = {value}", f"{c} = b'%d:%b' % (len({c}), {c})"]
    return [*lines, f"return b''.join(({', '.join(f'c{at}' for at in range(len(columns)))},))"]


def _packed_lines(columns: Sequence[Column]) -> list[str]:
    long = {
        "text": "{c}.encode()",
        "json": "b'\\x01' + {c}.encode()",
        "uuid": "unhex({c}.replace('-', ''))",
        "bytes": "unhex({c})",
    }
    short = {
        "int": "int8(8, {c})",
        "float": "float8(8, {c})",
        "bool": "b'\\0\\0\\0\\1\\1' if {c} else b'\\0\\0\\0\\1\\0'",
        "timestamptz": "int8(8, micros({c}) - EPOCH)",
    }
    lines, parts = [], []
    for at, column in enumerate(columns):
        c = f"c{at}"
        if column.kind in long and not column.nullable:
            made = [f"{c} = {long[column.kind].format(c=c)}"]
            parts.append(f"size(len({c}))")
        elif column.kind in long:
            made = [f"{c} = {long[column.kind].format(c=c)}", f"{c} = size(len({c})) + {c}"]
        else:
            made = [f"{c} = {short[column.kind].format(c=c)}"]
        if column.nullable:
            made = [
                f"if {c} is None:",
                f"    {c} = b'\\xff\\xff\\xff\\xff'",
                "else:",
                *(f"    {line}" for line in made),
            ]
        lines += made
        parts.append(c)
    count = struct.pack(">h", len(columns))
    return [*lines, f"return b''.join(({count!r}, {', '.join(parts)},))"]


def _bound_lines(columns: Sequence[Column]) -> list[str]:
    values = []
    for at, column in enumerate(columns):
        c = f"c{at}"
        if column.kind == "bytes":
            c = f"None if {c} is None else unhex({c})"
        values.append(f"int({c})" if column.kind == "bool" and not column.nullable else c)
    return [f"return ({', '.join(values)},)"]


def raw_hex(row: Sequence[Any]) -> str:
    """A row that was refused: the type and the bytes of each value, as JSON, so that nothing of it is lost."""
    return json.dumps([_raw(value) for value in row])


def _raw(value: Any) -> list[str] | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        return ["text" if type(value) is BadText else "blob", value.hex()]
    kind = {str: "text", int: "int", float: "float", bool: "bool"}.get(type(value), type(value).__name__)
    text = value if type(value) is str else repr(value)
    return [kind, text.encode("utf-8", "surrogatepass").hex()]

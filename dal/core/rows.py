"""Values on their way in, rows on their way out: the same on both databases.

A parameter's declared kind decides how it is checked and bound; a model's field types decide how a row becomes one. The
kinds are those of the query files: uuid, text, int, float, bool, timestamptz, json, bytes, and lists such as uuid[].
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, Generic, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec
from msgspec import Struct

from dal.digests import uuid_from_hex
from dal.errors import CorruptDatabase, Invalid

# A recursive union would be the honest type, but dict is invariant: it would refuse every dict[str, int] a caller has.
# What is really accepted is said by encode_json, which checks it.
Json: TypeAlias = Any

Dialect = Literal["postgres", "sqlite"]
T = TypeVar("T")

MAX_JSON_BYTES = 16 * 2**20
MAX_JSON_DEPTH = 200
INT64 = range(-(2**63), 2**63)


class Applied(Struct, Generic[T], frozen=True):
    """What a conditional write answers.

    applied: whether it was done. found: what the statement found in its way, when it was not. row: the row as it is
    now, when it was.
    """

    applied: bool
    found: str | None
    row: T | None


# --- JSON -------------------------------------------------------------------------------------------------------------


class _Refused(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.path: list[str | int] = []

    def as_invalid(self, path: str) -> Invalid:
        """The error for a caller. path: of the document."""
        steps = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in reversed(self.path))
        return Invalid(str(self), path=_shown(path + steps))


class _TooLarge(Exception):
    pass


_encoder = msgspec.json.Encoder()
_sorted_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder()
_PLAIN = frozenset({str, bool, type(None)})
_LEAST, _MOST = INT64[0], INT64[-1]


class Encoded(Struct, frozen=True):
    """A document that was checked and encoded already; passed as a json parameter it is bound as it is."""

    text: str

    @classmethod
    def of(cls, value: Json, path: str) -> Encoded:
        """A document in its canonical form. Raises Invalid as ``encode_json`` does."""
        return cls(canonical_json(value, path).decode())


def encode_json(value: Json, path: str) -> str:
    """A JSON document as text, equal in value and type after a round trip through either database.

    value: dict with str keys, list, str, bool, None, int of 64 bits, finite float; at most 200 deep and 16 MiB encoded.
    A -0.0 becomes 0.0. Raises Invalid, with the path of the first offender, for anything else: NaN, Decimal, NUL, lone
    surrogates, tuples, subclasses.
    """
    if type(value) is Encoded:
        return value.text
    return _encode(value, path, _encoder).decode()


def canonical_json(value: Json, path: str) -> bytes:
    """The same document with sorted keys: the bytes that a content hash is taken of."""
    return _encode(value, path, _sorted_encoder)


def decode_json(text: str | bytes) -> Json:
    """A stored document. Raises CorruptDatabase if it is not JSON."""
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptDatabase("a stored document is not JSON") from error


def check_document(text: str, path: str) -> str:
    """A JSON document that is kept as the text it came as: the text itself, if ``encode_json`` would take what it says.

    Raises Invalid for anything else: what is not JSON, a key given twice, an escaped NUL or lone surrogate.
    """
    if len(check_text(text, path).encode()) > MAX_JSON_BYTES:
        raise Invalid(f"more than {MAX_JSON_BYTES} bytes of JSON", path=path)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_parse_int)
        _walk(value, 1, [MAX_JSON_BYTES])
        if "\\u" in text:
            _check_strings(value)
    except _Refused as refused:
        raise refused.as_invalid(path) from None
    except RecursionError:
        raise Invalid(f"nested more than {MAX_JSON_DEPTH} deep", path=path) from None
    except json.JSONDecodeError as error:
        raise Invalid(f"is not JSON, at character {error.pos}", path=path) from None
    return text


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise _Refused("an object has a key twice")
    return made


def _no_constant(name: str) -> Json:
    raise _Refused(f"{name} is not JSON")


def _parse_int(digits: str) -> int:
    if len(digits) > 20:  # Python refuses to read thousands of them
        raise _Refused("an integer beyond 64 bits")
    return int(digits)


def _encode(value: Json, path: str, encoder: msgspec.json.Encoder) -> bytes:
    room = [MAX_JSON_BYTES]
    try:
        if _walk(value, 1, room):
            value = _spelled_out(value)
        try:
            encoded = encoder.encode(value)
        except UnicodeEncodeError:
            _check_strings(value)
            raise
        if b"\\u0000" in encoded:  # or a harmless backslash before the letters u0000
            _check_strings(value)
    except _Refused as refused:
        raise refused.as_invalid(path) from None
    except _TooLarge:
        encoded = None
    if encoded is None or len(encoded) > MAX_JSON_BYTES:
        raise Invalid(f"more than {MAX_JSON_BYTES} bytes of JSON", path=path)
    return encoded


def _shown(path: str) -> str:
    """A path fit for a message, however long or unprintable the keys in it."""
    safe = path.encode("ascii", "backslashreplace").decode().replace("\0", "\\x00")
    return safe if len(safe) <= 200 else safe[:200] + "…"


def _walk(value: Json, depth: int, room: list[int]) -> bool:
    """Check the types and numbers of a document; tell whether it has floats that need spelling out.

    room: how many bytes the encoded document may still take. Every part is counted at the least it can take, and as
    often as it stands there: a small graph of shared parts may unfold into a document that no memory holds.
    """
    is_dict = type(value) is dict
    if not is_dict and type(value) is not list:
        return _walk_leaf(value, room)
    if depth > MAX_JSON_DEPTH:
        raise _Refused(f"nested more than {MAX_JSON_DEPTH} deep, or contains itself")
    size = len(value) * (5 if is_dict else 2) + 1
    rare = False
    for key, inner in value.items() if is_dict else enumerate(value):
        if is_dict:
            if type(key) is not str:
                raise _Refused(f"a key of type {type(key).__name__}; JSON keys are str")
            size += len(key)
        # The usual leaves are looked at here: a call for each would double the time.
        kind = type(inner)
        if kind is str:
            size += len(inner)
        elif kind is int and _LEAST <= inner <= _MOST:
            pass
        elif kind is not bool and inner is not None:
            try:
                rare |= _walk(inner, depth + 1, room)
            except _Refused as refused:
                refused.path.append(key)
                raise
    _take(room, size)
    return rare


def _walk_leaf(value: Json, room: list[int]) -> bool:
    kind = type(value)
    if kind is int:
        if value not in INT64:
            raise _Refused("an integer beyond 64 bits")
        return False
    if kind is float:
        if not math.isfinite(value):
            raise _Refused("NaN and infinities are not JSON")
        if not _is_rare(value):
            return False
        _take(room, len(format(value, ".1f")) - 2)
        return True
    if kind in _PLAIN:
        return False
    raise _Refused(f"a value of type {kind.__name__}; JSON takes dict, list, str, bool, None, int and float")


def _take(room: list[int], size: int) -> None:
    room[0] -= size
    if room[0] < 0:
        raise _TooLarge


def _is_rare(value: float) -> bool:
    """Floats that jsonb would give back as another type (1e16 as an int) or with another sign (-0.0)."""
    return abs(value) >= 1e16 or (value == 0 and math.copysign(1, value) < 0)


def _spelled_out(value: Json) -> Json:
    if type(value) is dict:
        return {key: _spelled_out(inner) for key, inner in value.items()}
    if type(value) is list:
        return [_spelled_out(inner) for inner in value]
    if type(value) is float and _is_rare(value):
        return msgspec.Raw(format(value + 0.0, ".1f").encode())
    return value


def _check_strings(value: Json) -> None:
    if type(value) is str:
        reason = text_fault(value)
        if reason:
            raise _Refused(reason)
    elif type(value) in (dict, list):
        for key, inner in value.items() if type(value) is dict else enumerate(value):
            try:
                _check_strings(key)
                _check_strings(inner)
            except _Refused as refused:
                refused.path.append(key)
                raise


# --- parameters -------------------------------------------------------------------------------------------------------


def text_fault(value: str) -> str | None:
    """Why a string cannot be stored on both databases, or None."""
    if "\0" in value:
        return "contains the character NUL"
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return "contains a lone surrogate, which is not Unicode text"
    return None


def _wrong_type(wanted: str, value: object, path: str) -> Invalid:
    return Invalid(f"takes {wanted}, not {type(value).__name__}", path=path)


def check_text(value: str, path: str) -> str:
    """The string itself, if it is one that both databases can hold; else Invalid."""
    if type(value) is not str:
        raise _wrong_type("str", value, path)
    reason = text_fault(value)
    if reason:
        raise Invalid(reason, path=path)
    return value


def check_int(value: int, path: str) -> int:
    """The integer itself, if it is one of 64 bits and no bool; else Invalid."""
    if type(value) is not int:
        raise _wrong_type("int", value, path)
    if value not in INT64:
        raise Invalid("an integer beyond 64 bits", path=path)
    return value


def _check_float(value: float, path: str) -> float:
    if type(value) is not float:
        raise _wrong_type("float", value, path)
    if not math.isfinite(value):
        raise Invalid("NaN and infinities are refused", path=path)
    return value + 0.0  # SQLite cannot store -0.0


def check_bool(value: bool, path: str) -> bool:
    """The bool itself; else Invalid."""
    if type(value) is not bool:
        raise _wrong_type("bool", value, path)
    return value


def _check_bytes(value: bytes, path: str) -> bytes:
    if type(value) is not bytes:
        raise _wrong_type("bytes", value, path)
    return value


def _uuid_text(value: UUID, path: str) -> str:
    if not isinstance(value, UUID):
        raise _wrong_type("UUID", value, path)
    return UUID.__str__(value)  # other drivers' UUIDs are subclasses


def instant_text(value: datetime, path: str) -> str:
    """An aware datetime as ``2026-01-31T00:00:00.000000Z``: 27 characters in UTC, which sort as they follow in time."""
    if type(value) is not datetime:
        raise _wrong_type("datetime", value, path)
    if value.tzinfo is None or value.utcoffset() is None:
        raise Invalid("a datetime without time zone; give one, such as datetime.now(UTC)", path=path)
    try:
        return value.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"
    except OverflowError:
        raise Invalid("outside the years 1 to 9999 in UTC", path=path) from None


def _int_text(value: int, path: str) -> str:
    return str(check_int(value, path))


def _float_text(value: float, path: str) -> str:
    return repr(_check_float(value, path))


def _bool_text(value: bool, path: str) -> str:
    return "true" if check_bool(value, path) else "false"


def _bool_int(value: bool, path: str) -> int:
    return 1 if check_bool(value, path) else 0


Encoder: TypeAlias = Callable[[Any, str], object]

# On PostgreSQL all but bytes goes as text of unknown type: the server takes the type from the statement, and a query is
# one prepared statement whatever its values are. (An int that psycopg sized, or a None, would each make another.)
_POSTGRES: Mapping[str, Encoder] = {
    "uuid": _uuid_text,
    "text": check_text,
    "int": _int_text,
    "float": _float_text,
    "bool": _bool_text,
    "timestamptz": instant_text,
    "json": encode_json,
    "bytes": _check_bytes,
}
_SQLITE: Mapping[str, Encoder] = {
    **_POSTGRES,
    "int": check_int,
    "float": _check_float,
    "bool": _bool_int,
}
KINDS = frozenset(_POSTGRES)
LIST_KINDS = frozenset({"uuid[]", "text[]", "int[]"})


def encoder(kind: str, *, nullable: bool, dialect: Dialect) -> Encoder:
    """How a parameter of this kind is checked and bound. Raises Invalid, when called, naming the parameter."""
    encode = (_POSTGRES if dialect == "postgres" else _SQLITE)[kind.removesuffix("[]")]
    if kind in LIST_KINDS:
        encode = _list_encoder(encode, dialect)
    if not nullable:
        return encode
    return lambda value, path: None if value is None else encode(value, path)


def _list_encoder(encode: Encoder, dialect: Dialect) -> Encoder:
    def encode_list(value: Sequence[object], path: str) -> object:
        if type(value) is not list and type(value) is not tuple:
            raise _wrong_type("list or tuple", value, path)
        items = [encode(item, f"{path}[{at}]") for at, item in enumerate(value)]
        return items if dialect == "postgres" else _encoder.encode(items).decode()

    return encode_list


# --- rows -------------------------------------------------------------------------------------------------------------


def field_kinds(model: type[Struct]) -> list[tuple[str, str, bool]]:
    """The fields of a model in order: name, kind, whether None is allowed. A tuple of str is kept as a JSON list."""
    hints = get_type_hints(model)
    fields = []
    for name in model.__struct_fields__:
        hint, nullable = hints[name], hints[name] is Json  # a JSON field's type has no place for saying so
        if hint is not Json and get_origin(hint) in (Union, types.UnionType):
            options = [option for option in get_args(hint) if option is not type(None)]
            nullable, hint = len(options) < len(get_args(hint)), options[0]
        fields.append((name, _kind_of(hint), nullable))
    return fields


def _kind_of(hint: object) -> str:
    if hint is Json:
        return "json"
    if get_origin(hint) is tuple:
        return "texts"
    if get_origin(hint) is Literal:
        return "text"
    plain: dict[object, str] = {
        UUID: "uuid", str: "text", int: "int", float: "float", bool: "bool", datetime: "timestamptz", bytes: "bytes",
    }  # fmt: skip
    return plain[hint]


# What a driver's value still needs to become the field's. psycopg gives UUID, bool, aware datetime in UTC and decoded
# jsonb by itself; sqlite3 gives text and integers.
_FROM_POSTGRES = {"texts": "tuple({})"}
_FROM_SQLITE = {
    "texts": "tuple(json({}))",
    "uuid": "uuid({})",
    "timestamptz": "instant({})",
    "bool": "{} == 1",
    "float": "float({})",  # RETURNING gives a whole number of a REAL column as an integer
    "json": "json({})",
}
RowBuilder: TypeAlias = Callable[[Sequence[Any]], Any]


@cache
def model_builder(model: type[Struct], dialect: Dialect, first: int = 0) -> RowBuilder:
    """A function from a row tuple to a model, its fields starting at column ``first``.

    Made once as one expression without a loop: a generic loop over the fields costs three times as much.
    """
    conversions = _FROM_POSTGRES if dialect == "postgres" else _FROM_SQLITE
    arguments = []
    for at, (_, kind, nullable) in enumerate(field_kinds(model), first):
        value = f"r[{at}]"
        converted = conversions.get(kind, "{}").format(value)
        arguments.append(f"None if {value} is None else {converted}" if nullable and converted != value else converted)
    scope = {"M": model, "uuid": uuid_from_hex, "instant": datetime.fromisoformat, "json": decode_json}
    positional = "*r" if arguments == [f"r[{at}]" for at in range(len(arguments))] else ", ".join(arguments)
    build: RowBuilder = eval(f"lambda r: M({positional})", scope)  # noqa: S307 - only our field numbers are in it
    return build


def applied_builder(model: type[Struct], dialect: Dialect) -> RowBuilder:
    """A function from ``applied, found, columns of the model`` to Applied; refused, it leaves the columns alone."""
    build = model_builder(model, dialect, first=2)
    return lambda row: Applied(True, None, build(row)) if row[0] else Applied(False, row[1], None)


def scalar_builder(kind: str, dialect: Dialect) -> Callable[[Any], Any]:
    """A function from a single value of this kind, as the driver gives it, to Python's; None stays None."""
    conversions: dict[str, Callable[[Any], Any]] = {
        "uuid": uuid_from_hex,
        "timestamptz": datetime.fromisoformat,
        "bool": bool,
        "float": float,
        "json": decode_json,
    }
    convert = conversions.get(kind) if dialect == "sqlite" else None
    return (lambda value: value) if convert is None else lambda value: None if value is None else convert(value)

"""Hashes, keyed digests and identifiers: what must come out the same on every database and in every process."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, SafeUUID

_new = object.__new__
_set = object.__setattr__
_unknown = SafeUUID.unknown


def content_hash(encoded: bytes) -> str:
    """``v1:`` and the SHA-256, in hex, of a document's canonical encoding.

    encoded: UTF-8 of compact JSON with sorted keys, as ``core.rows.canonical_json`` gives it.
    """
    return "v1:" + hashlib.sha256(encoded).hexdigest()


# --- canonical encoding -----------------------------------------------------------------------------------------------
#
# What is hashed of a row has one spelling, whichever database it was read from: a netstring for each column in order,
# ``length:bytes``, and ``~`` for null. Nothing can be moved from one column to the next without changing it.

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_quoted = json.encoder.encode_basestring  # quotes as PostgreSQL does: what need not be escaped is not
_ORDERS = 10_000  # of keys, that are remembered
_orders: dict[tuple[str, ...], list[tuple[str, str]]] = {}


def canonical(kinds: Sequence[str], values: Sequence[Any]) -> bytes:
    """A row as bytes. kinds: of its columns, as in the query files; values: as a model has them.

    text is UTF-8, an int decimal, a bool ``t`` or ``f``, a uuid and bytes lower-case hex, a timestamptz its
    microseconds since 1970, a float the hex of its eight bytes, json as PostgreSQL prints jsonb, None its null.
    """
    parts = []
    for kind, value in zip(kinds, values, strict=True):
        if value is None and kind != "json":
            parts.append(b"~")
        else:
            encoded = _CANONICAL[kind](value)
            parts.append(b"%d:%b" % (len(encoded), encoded))
    return b"".join(parts)


def jsonb_text(value: Any) -> str:
    """A JSON value as ``jsonb::text`` has it: keys by length, then by bytes; numbers without exponents.

    value: as core.rows.encode_json takes it.
    """
    kind = type(value)
    if kind is str:
        return _quoted(value)
    if kind is dict:
        keys = tuple(value)
        parts = []
        for key, start in _orders.get(keys) or _order(keys):
            inner = value[key]
            parts.append(start + (_quoted(inner) if type(inner) is str else jsonb_text(inner)))
        return "{" + ", ".join(parts) + "}"
    if kind is list:
        return "[" + ", ".join([jsonb_text(inner) for inner in value]) + "]"
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if kind is int:
        return str(value)
    # As encode_json sends it: large ones in full, all others as short as they can be told apart.
    shortest = repr(value + 0.0)
    if "e" not in shortest:
        return shortest
    return format(value, ".1f") if abs(value) >= 1e16 else format(Decimal(shortest), "f")


def _order(keys: tuple[str, ...]) -> list[tuple[str, str]]:
    """The keys of an object as jsonb has them, each with how it is written. Documents of a kind have the same keys."""
    ordered = sorted(keys, key=lambda key: (len(key.encode()), key.encode()))
    if len(_orders) >= _ORDERS:
        _orders.clear()
    made = _orders[keys] = [(key, f"{_quoted(key)}: ") for key in ordered]
    return made


_CANONICAL: Mapping[str, Callable[[Any], bytes]] = {
    "text": lambda value: value.encode(),
    "int": lambda value: b"%d" % value,
    "bool": lambda value: b"t" if value else b"f",
    "float": lambda value: struct.pack(">d", value).hex().encode(),
    "bytes": lambda value: value.hex().encode(),
    "uuid": lambda value: value.hex.encode(),
    "timestamptz": lambda value: b"%d" % ((value - _EPOCH) // _MICROSECOND),
    "json": lambda value: jsonb_text(value).encode(),
}


# --- keyed digests ----------------------------------------------------------------------------------------------------


def keyed_digest(key: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA256 of the parts, one behind the other. The caller sees to it that they cannot run into each other."""
    return hmac.digest(key, b"".join(parts), "sha256")


def equal_digests(one: bytes, other: bytes) -> bool:
    """Whether two digests are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one, other)


def derived_key(secret: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose: HKDF-SHA256 without salt (RFC 5869)."""
    extracted = keyed_digest(bytes(32), secret)
    return keyed_digest(extracted, purpose.encode(), b"\x01")


# --- identifiers ------------------------------------------------------------------------------------------------------


def uuid_from_hex(digits: str) -> UUID:
    """A UUID from text that is known to be one, with or without dashes; half the cost of ``UUID(digits)``."""
    value: UUID = _new(UUID)
    _set(value, "int", int(digits.replace("-", ""), 16))
    _set(value, "is_safe", _unknown)
    return value


class Uuid7:
    """UUIDs of version 7 that only grow within a process, even when the clock goes back (RFC 9562, 6.2, method 1).

    48 bits of Unix milliseconds, 42 bits of counter seeded at random each millisecond, 32 bits of randomness.
    """

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        """clock: Unix time in nanoseconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._last = 0
        self._pid = os.getpid()

    def __call__(self) -> UUID:
        milliseconds = self._clock() // 1_000_000
        random = int.from_bytes(os.urandom(9), "big")
        with self._lock:
            if self._pid != os.getpid():
                self._last, self._pid = 0, os.getpid()
            # The top bit of a fresh counter stays clear, so that a busy millisecond has 2^41 steps before it would
            # borrow from the next one; borrowing is what keeps order when the clock stands still or goes back.
            fresh = milliseconds << 42 | random >> 31 & (1 << 41) - 1
            ticks = fresh if fresh > self._last else self._last + 1
            self._last = ticks
        counter = ticks & (1 << 42) - 1
        value = ticks >> 42 << 80 | 7 << 76 | counter >> 30 << 64 | 2 << 62 | (counter & (1 << 30) - 1) << 32
        result: UUID = _new(UUID)
        _set(result, "int", value | random & 0xFFFFFFFF)
        _set(result, "is_safe", _unknown)
        return result


uuid7 = Uuid7()

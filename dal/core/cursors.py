"""Pages and their cursors: opaque text that says where the next page begins, and of which list."""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar
from uuid import UUID

from msgspec import Struct

from dal.core.rows import check_int
from dal.errors import Invalid

T = TypeVar("T")

MAX_LIMIT = 500
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CHECK = 8
_LAST = datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)
NEWEST = (_LAST, UUID(int=2**128 - 1))
FAR = 2**52  # behind every number that a table gives its rows, and 1024 times as many fit into 64 bits
NEWEST_TEXT = (_LAST, "\U0010ffff")  # behind every text, compared as bytes, but those that begin with this no character


class Page(Struct, Generic[T], frozen=True):
    """One page of a list. next: the cursor to pass as ``after`` for the following page; None on the last one."""

    items: Sequence[T]
    next: str | None


def check_limit(limit: int) -> int:
    """The limit itself, if it is 1 to 500; else Invalid."""
    if not 1 <= check_int(limit, "limit") <= MAX_LIMIT:
        raise Invalid(f"{limit}; takes 1 to {MAX_LIMIT}", path="limit")
    return limit


def page(rows: Sequence[T], limit: int, cursor: Callable[[T], str]) -> Page[T]:
    """A page made of up to ``limit + 1`` rows: the extra one tells that there is more."""
    if len(rows) <= limit:
        return Page(rows, None)
    return Page(rows[:limit], cursor(rows[limit - 1]))


def _checksum(scope: str, payload: bytes) -> bytes:
    return hashlib.sha256(scope.encode(errors="backslashreplace") + b"\0" + payload).digest()[:_CHECK]


def _pack(scope: str, payload: bytes) -> str:
    return base64.urlsafe_b64encode(_checksum(scope, payload) + payload).decode().rstrip("=")


def _unpack(scope: str, cursor: str, size: int | None) -> bytes:
    """The payload of a cursor made for the same list, of this size or, with None, of any. The checksum guards against
    mistakes; it is no secret."""
    if type(cursor) is not str:
        raise Invalid(f"takes the text of a cursor, not {type(cursor).__name__}", path="after")
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raw = b""
    check, payload = raw[:_CHECK], raw[_CHECK:]
    if size not in (None, len(payload)) or check != _checksum(scope, payload) or _pack(scope, payload) != cursor:
        raise Invalid("no cursor of this list: pass the 'next' of a page of the same list and filters", path="after")
    return payload


def instant_cursor(scope: str, at: datetime, row_id: UUID) -> str:
    """The cursor behind a row of a list ordered by (instant, id). scope: the list's name and filters."""
    return _pack(scope, struct.pack(">q", (at - _EPOCH) // timedelta(microseconds=1)) + row_id.bytes)


def read_instant_cursor(scope: str, after: str | None) -> tuple[datetime, UUID]:
    """Where to go on from; the far end of time for the first page. Raises Invalid for any other list's cursor."""
    if after is None:
        return NEWEST
    payload = _unpack(scope, after, 24)
    try:
        return _EPOCH + timedelta(microseconds=struct.unpack(">q", payload[:8])[0]), UUID(bytes=payload[8:])
    except OverflowError:  # made by somebody who knows how
        raise Invalid("no cursor of this list: its instant is beyond the calendar", path="after") from None


def instant_text_cursor(scope: str, at: datetime, key: str) -> str:
    """The cursor behind a row of a list ordered by (instant, text compared as bytes)."""
    return _pack(scope, struct.pack(">q", (at - _EPOCH) // timedelta(microseconds=1)) + key.encode())


def read_instant_text_cursor(scope: str, after: str | None) -> tuple[datetime, str]:
    """Where to go on from; the far end of time for the first page. Raises Invalid for any other list's cursor."""
    if after is None:
        return NEWEST_TEXT
    payload = _unpack(scope, after, None)
    try:
        at = _EPOCH + timedelta(microseconds=struct.unpack(">q", payload[:8])[0])
        return at, payload[8:].decode()
    except (OverflowError, struct.error, UnicodeDecodeError):  # made by somebody who knows how
        raise Invalid("no cursor of this list: its instant is beyond the calendar", path="after") from None


def number_cursor(scope: str, number: int) -> str:
    """The cursor behind a row of a list ordered by a number of its own."""
    return _pack(scope, struct.pack(">q", number))


def read_number_cursor(scope: str, after: str | None, first: int) -> int:
    """The number to go on from; ``first`` for the first page. Raises Invalid for any other list's cursor."""
    if after is None:
        return first
    number: int = struct.unpack(">q", _unpack(scope, after, 8))[0]
    return number


def place_cursor(scope: str, is_first: bool, number: int) -> str:
    """The cursor behind a row of two lists that follow each other, each with numbers of its own. is_first: of which."""
    return number_cursor(scope, number * 2 + is_first)


def read_place_cursor(scope: str, after: str | None) -> tuple[bool, int]:
    """The list and the number to go on from. Raises Invalid for any other list's cursor."""
    number = read_number_cursor(scope, after, first=FAR * 2 + 1)
    return number % 2 == 1, number // 2

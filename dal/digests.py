"""Content hashes and identifiers: what must come out the same on every database and in every process."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from uuid import UUID, SafeUUID

_new = object.__new__
_set = object.__setattr__
_unknown = SafeUUID.unknown


def content_hash(encoded: bytes) -> str:
    """``v1:`` and the SHA-256, in hex, of a document's canonical encoding.

    encoded: UTF-8 of compact JSON with sorted keys, as ``core.rows.canonical_json`` gives it.
    """
    return "v1:" + hashlib.sha256(encoded).hexdigest()


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

"""What authenticating leaves behind, gathered in memory until it is flushed: uses, refusals, digests to renew.

Bounded whatever is sent: a refusal counts under its key id only where there is such a token, all others share a line,
and so do those that find the memory full. What is gathered is lost with the process; never is a use counted twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Literal

from msgspec import Struct, field

Reason = Literal["malformed", "unknown", "secret", "address", "revoked", "expired", "early", "workspace", "scope"]

MAX_TOKENS = 10_000  # whose uses are gathered; further ones are not counted
MAX_REFUSALS = 1_000  # lines: a key id, a minute and a reason each
MAX_RENEWED = 1_000
MAX_AGENT = 200  # characters of a user agent that are kept


class Seen(Struct):
    """How often something happened, and the last time of it."""

    count: int
    first_at: datetime
    last_at: datetime
    ip: str | None
    user_agent: str | None

    def add(self, other: Seen) -> None:
        """Count another's, too."""
        self.count += other.count
        self.first_at = min(self.first_at, other.first_at)
        if other.last_at >= self.last_at:
            self.last_at, self.ip, self.user_agent = other.last_at, other.ip, other.user_agent


class Renewal(Struct, frozen=True):
    """A digest under the current pepper, and the one that it is to replace."""

    old: bytes
    new: bytes
    hash_alg: str
    pepper_id: str


RefusalKey = tuple[str, datetime, str]  # key id or '', minute, reason


class Batch(Struct):
    """What was gathered."""

    uses: dict[str, Seen] = field(default_factory=dict)
    refusals: dict[RefusalKey, Seen] = field(default_factory=dict)
    renewals: dict[str, Renewal] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.uses or self.refusals or self.renewals)

    def split(self, most: int) -> tuple[Batch, Batch]:
        """So many lines of one kind, and the rest."""
        if self.uses:
            uses = [*self.uses.items()]
            return Batch(uses=dict(uses[:most])), Batch(dict(uses[most:]), self.refusals, self.renewals)
        if self.refusals:
            refusals = [*self.refusals.items()]
            return Batch(refusals=dict(refusals[:most])), Batch({}, dict(refusals[most:]), self.renewals)
        renewals = [*self.renewals.items()]
        return Batch(renewals=dict(renewals[:most])), Batch({}, {}, dict(renewals[most:]))


class Usage:
    """Gathers, for all callers of one Dal.

    on_first: called, by whichever thread, when there is something to flush. closed: what is counted from now on would
    be lost.
    """

    def __init__(self) -> None:
        self.closed = False
        self._lock = threading.Lock()
        self._batch = Batch()
        self.on_first: Callable[[], None] | None = None

    def __bool__(self) -> bool:
        return bool(self._batch)

    def used(self, key_id: str, now: datetime, ip: str | None, user_agent: str | None) -> None:
        """Count a use."""
        with self._lock:
            is_first = not self._batch
            _put(self._batch.uses, key_id, Seen(1, now, now, ip, user_agent), MAX_TOKENS)
        self._tell(is_first)

    def refused(self, key_id: str, reason: Reason, now: datetime, ip: str | None, user_agent: str | None) -> None:
        """Count a refusal. key_id: '' unless there is such a token."""
        minute = now.replace(second=0, microsecond=0)
        with self._lock:
            is_first = not self._batch
            self._put_refusal((key_id, minute, reason), Seen(1, now, now, ip, user_agent))
        self._tell(is_first)

    def renew(self, key_id: str, renewal: Renewal) -> None:
        """Note a digest to be stored in place of an older one."""
        with self._lock:
            is_first = not self._batch
            if len(self._batch.renewals) < MAX_RENEWED:
                self._batch.renewals[key_id] = renewal
        self._tell(is_first)

    def take(self) -> Batch:
        """All that was gathered, which is the caller's from now on."""
        with self._lock:
            batch, self._batch = self._batch, Batch()
        return batch

    def give_back(self, batch: Batch) -> None:
        """Gather again what could not be stored."""
        with self._lock:
            for key_id, seen in batch.uses.items():
                _put(self._batch.uses, key_id, seen, MAX_TOKENS)
            for key, seen in batch.refusals.items():
                self._put_refusal(key, seen)
            for key_id, renewal in batch.renewals.items():
                if len(self._batch.renewals) < MAX_RENEWED:
                    self._batch.renewals.setdefault(key_id, renewal)
        self._tell(bool(batch))

    def forget(self) -> None:
        """Begin anew, in a process that was forked from the one that gathered; the lock may be held there for ever."""
        self._lock, self._batch, self.on_first = threading.Lock(), Batch(), None

    def _put_refusal(self, key: RefusalKey, seen: Seen) -> None:
        refusals = self._batch.refusals
        if not _put(refusals, key, seen, MAX_REFUSALS):
            # The reasons are few, and so are the minutes between two flushes: a bound of another kind.
            _put(refusals, ("", key[1], key[2]), seen, 2 * MAX_REFUSALS)

    def _tell(self, is_first: bool) -> None:
        if is_first and self.on_first is not None:
            self.on_first()


def _put(lines: dict[RefusalKey, Seen] | dict[str, Seen], key: object, seen: Seen, most: int) -> bool:
    line = lines.get(key)  # type: ignore[call-overload]  # the caller's keys are of its dict's kind
    if line is not None:
        line.add(seen)
    elif len(lines) < most:
        lines[key] = seen  # type: ignore[index]
    else:
        return False
    return True


def readable(user_agent: str) -> str:
    """A user agent as it is kept: whatever a client sent in it, it can be stored and printed."""
    return "".join(each if each.isprintable() else "?" for each in user_agent[:MAX_AGENT])

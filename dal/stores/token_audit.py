"""The audit chain of service tokens: every row carries the digest of itself and of the row before it.

    row_hash = HMAC(key, previous row_hash ‖ canonical(row))        the first one follows 64 zeros
    seal     = HMAC(another key, canonical(number, row_hash))       of the last row, kept in the chain's head

The keys are derived from a pepper, whose id stands in each row: rows that were written before the first pepper changed
are verified for as long as the old one is loaded. Whoever has a pepper can write all rows that carry its id anew, if
they are the last; so retire one that was seen. The head is one row that the writing statement compares and sets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from dal.core.rows import Json, instant_text
from dal.digests import canonical, equal_digests
from dal.errors import CorruptDatabase, PepperMissing
from dal.stores.token_keys import Keyring

GENESIS = "0" * 64


class AuditRow(Struct, frozen=True):
    """One change of a token, as it stands in the chain."""

    number: int  # from 1, without gaps
    key_id: str
    action: str  # minted, imported, rotated, revoked
    actor: str
    at: datetime
    details: Json
    pepper_id: str
    prev_hash: str
    row_hash: str


class AuditHead(Struct, frozen=True):
    """Where the chain ends. Kept elsewhere, it proves later that nothing before it was exchanged."""

    number: int
    row_hash: str


class SealedHead(Struct, frozen=True):
    """The chain's head as it is stored."""

    number: int
    row_hash: str
    pepper_id: str
    seal: str


class AuditFault(Struct, frozen=True):
    """The first row of the chain that does not fit."""

    number: int
    reason: str


class AuditReport(Struct, frozen=True):
    """What became of verifying. rows: how many fitted; head: the last of them; fault: None if the chain is whole."""

    rows: int
    head: AuditHead
    fault: AuditFault | None


START = AuditHead(0, GENESIS)
_KINDS = ("int", "text", "text", "text", "timestamptz", "json", "text")


class Entry(Struct, frozen=True):
    """A change that is to be written down."""

    key_id: str
    action: str
    details: dict[str, Json]


class Links(Struct, frozen=True):
    """Rows behind a head, ready to be written, and the head they make."""

    rows: Sequence[dict[str, Json]]
    head: SealedHead


def link(entries: Sequence[Entry], head: AuditHead, keys: Keyring, actor: str, now: datetime) -> Links:
    """The rows of these changes, as they follow a head."""
    rows: list[dict[str, Json]] = []
    number, last = head.number, head.row_hash
    for entry in entries:
        number += 1
        fields = (number, entry.key_id, entry.action, actor, now, entry.details, keys.current)
        row_hash = _row_hash(last, fields, keys)
        rows.append(
            {
                "number": number, "key_id": entry.key_id, "action": entry.action, "actor": actor,
                "at": instant_text(now, "now"), "details": entry.details, "pepper_id": keys.current,
                "prev_hash": last, "row_hash": row_hash,
            }
        )  # fmt: skip
        last = row_hash
    return Links(rows, SealedHead(number, last, keys.current, _seal(number, last, keys.current, keys)))


def read_head(text: str) -> AuditHead:
    """The head that a statement found, as it names it: ``number:row_hash``, or nothing where there is none."""
    found = re.fullmatch(r"([0-9]{1,19}):([0-9a-f]{64})|", text)
    if found is None:
        raise CorruptDatabase("the head of the audit chain of service tokens is no digest")
    return AuditHead(int(found[1]), found[2]) if found[1] else START


def check_known(rows: Sequence[AuditRow], head: AuditHead) -> AuditFault | None:
    """Whether these rows begin with one that was the head once."""
    if not rows or rows[0].number != head.number:
        return AuditFault(head.number, "is missing")
    return None if rows[0].row_hash == head.row_hash else AuditFault(head.number, "was exchanged")


def check_rows(rows: Sequence[AuditRow], head: AuditHead, keys: Keyring) -> tuple[AuditHead, AuditFault | None]:
    """How far rows follow a head: the last that does, and what is wrong with the next. Raises PepperMissing."""
    for row in rows:
        if row.number != head.number + 1:
            return head, AuditFault(head.number + 1, "is missing")
        if row.prev_hash != head.row_hash:
            return head, AuditFault(row.number, "does not follow the row before it")
        fields = (row.number, row.key_id, row.action, row.actor, row.at, row.details, row.pepper_id)
        if row.pepper_id not in keys:
            named = f"row {row.number} of the audit names {row.pepper_id[:32]!r}"
            raise PepperMissing(f"{named}; it was altered, or that one is gone")
        if not equal_digests(_row_hash(row.prev_hash, fields, keys).encode(), row.row_hash.encode()):
            return head, AuditFault(row.number, "was altered")
        head = AuditHead(row.number, row.row_hash)
    return head, None


def check_head(stored: SealedHead | None, head: AuditHead, keys: Keyring) -> AuditFault | None:
    """Whether the chain's last row is the one that its head names."""
    if stored is None:
        return None if head == START else AuditFault(head.number, "has no head that names it the last row")
    if stored.number > head.number:
        return AuditFault(head.number + 1, "is missing")
    if stored.number < head.number:
        return AuditFault(stored.number + 1, "stands behind the row that the head names the last")
    if stored.row_hash != head.row_hash or not equal_digests(
        _seal(head.number, head.row_hash, stored.pepper_id, keys).encode(), stored.seal.encode()
    ):
        return AuditFault(head.number, "is not the one that the head was sealed with")
    return None


def _row_hash(prev_hash: str, fields: Sequence[object], keys: Keyring) -> str:
    return keys.audit_digest(str(fields[-1]), bytes.fromhex(prev_hash), canonical(_KINDS, fields)).hex()


def _seal(number: int, row_hash: str, pepper_id: str, keys: Keyring) -> str:
    return keys.seal(pepper_id, canonical(("int", "text"), (number, row_hash))).hex()

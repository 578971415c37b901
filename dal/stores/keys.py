"""Idempotency keys: under each, the request that came with it and what its transaction answered.

A key and the work done under it are committed together. So a commit whose answer was lost can be sent again: either the
key is there, and so is the work, or neither is.
"""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from dal.core.face import M, Queries, Store, missing, statement
from dal.core.rows import Json, canonical_json, check_int
from dal.digests import content_hash
from dal.errors import IdempotencyConflict, Invalid, KeyNotFound
from dal.stores.checks import check_key

MAX_PRUNED = 10_000  # in one call, because on one of the databases everybody who writes waits for it


class Key(Struct, frozen=True):
    """A key under which a transaction has committed."""

    key: str
    request_hash: str | None  # content hash of the request; None if none was given
    result: Json  # what the transaction answered
    created_at: datetime


class Claim(Struct, frozen=True):
    """What claiming a key came to. claimed: it was free and is this transaction's; else the rest is what is stored."""

    claimed: bool
    request_hash: str | None
    result: Json


class Asked(Struct, frozen=True):
    """A key, and the hash of the request that came with it."""

    key: str
    request_hash: str | None

    @classmethod
    def of(cls, key: str, request: Json) -> Asked:
        """Both checked, before anything is sent. Raises Invalid."""
        return cls(check_key(key, "key"), None if request is None else content_hash(canonical_json(request, "request")))


class Keys(Store[M]):
    """``db.keys``."""

    @statement
    async def get(self, q: Queries, key: str) -> Key:
        """What is stored under a key. Raises KeyNotFound, also while the transaction that claimed it is in progress."""
        return await q.get_key(key=check_key(key, "key")) or missing(KeyNotFound, key)

    @statement(write=True)
    async def prune(self, q: Queries, before: datetime, *, limit: int = 1000) -> int:
        """Forget keys that were claimed before a time, oldest first; returns how many, fewer than limit at the end.

        limit: 1 to 10,000. A request that comes again after its key was forgotten is done again: keep keys for longer
        than any client goes on asking.
        """
        if not 1 <= check_int(limit, "limit") <= MAX_PRUNED:
            raise Invalid(f"{limit}; takes 1 to {MAX_PRUNED}", path="limit")
        return await q.delete_keys(before=before, limit=limit)


class Claims(Store[M]):
    """The first and the last statement of a transaction that was given a key; for ``Dal.transact`` alone."""

    @statement(write=True)
    async def claim(self, q: Queries, asked: Asked) -> Claim:
        """Take the key, or learn what is stored under it; waits for a transaction in progress that took it.

        Raises IdempotencyConflict if what is stored came with another request.
        """
        claim = None
        while claim is None:  # see claim_key
            claim = await q.claim_key(key=asked.key, request_hash=asked.request_hash, now=self.clock())
        if not claim.claimed and claim.request_hash != asked.request_hash:
            raise IdempotencyConflict("it came with another request", constraint="idempotency_keys_pkey")
        return claim

    @statement(write=True)
    async def settle(self, q: Queries, asked: Asked, result: Json) -> Json:
        """Store what the transaction answers; returns it as it will come back. Raises KeyNotFound if fn pruned it."""
        row = await q.update_key_result(key=asked.key, result=result)
        return (row or missing(KeyNotFound, asked.key)).result

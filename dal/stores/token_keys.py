"""The keys of token digests ("peppers"), kept outside the database: a copy of it alone confirms no guess.

Each row names the pepper its digest was made with. A new pepper, put first, is used from then on; the older ones stay
loaded until no row is left with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime

from dal.digests import derived_key, equal_digests, keyed_digest
from dal.errors import PepperMissing
from dal.stores.token_records import StoredToken
from dal.stores.token_texts import Presented


def _nobody(pepper_id: str) -> StoredToken:
    """What the secret of an unknown key id is compared with, so that it costs what a wrong secret does.

    A row like any other: Python is faster with one class in a place than with two.
    """
    return StoredToken(
        key_id="", name="", kind="svc", scopes=(), workspace_ids=(), allowed_cidrs=None, rate_limit=None,
        created_at=datetime(1, 1, 1, tzinfo=UTC), created_by="", not_before=None, expires_at=None, rotated_from=None,
        rotated_to=None, overlap_until=None, revoked_at=None, revoked_by=None, revocation_reason=None,
        hash_alg="hmac-sha256", pepper_id=pepper_id, secret_hash=bytes(32),
    )  # fmt: skip


class Keyring:
    """Peppers by id, the current one first. Prints its ids alone."""

    def __init__(self, peppers: Mapping[str, bytes]) -> None:
        """peppers: one at least."""
        self._peppers = dict(peppers)
        self.current = next(iter(self._peppers))
        self.nobody = _nobody(self.current)
        self._audit = {name: derived_key(key, "dal-audit-v1") for name, key in self._peppers.items()}
        self._seals = {name: derived_key(key, "dal-audit-head-v1") for name, key in self._peppers.items()}

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self._peppers)})"

    def __contains__(self, pepper_id: str) -> bool:
        return pepper_id in self._peppers

    def digest(self, pepper_id: str, key_id: str, secret: bytes) -> bytes:
        """What is stored of the secret of a token of our form."""
        return keyed_digest(_of(self._peppers, pepper_id), b"dal-token-v1", key_id.encode(), secret)

    def legacy_digest(self, pepper_id: str, token: str) -> bytes:
        """What is stored of a token that another system made, once it was used here; it is also looked up by it."""
        return keyed_digest(_of(self._peppers, pepper_id), b"dal-legacy-v1", token.encode())

    def legacy_digests(self, token: str) -> bytes:
        """All that may be stored of such a token, 32 bytes each: its plain SHA-256, its digest under each pepper."""
        plain = hashlib.sha256(token.encode()).digest()
        return plain + b"".join(self.legacy_digest(name, token) for name in self._peppers)

    def audit_digest(self, pepper_id: str, *parts: bytes) -> bytes:
        """The digest of a row of the audit chain, under a key derived from this pepper."""
        return keyed_digest(_of(self._audit, pepper_id), *parts)

    def seal(self, pepper_id: str, *parts: bytes) -> bytes:
        """The digest of the chain's head, under another."""
        return keyed_digest(_of(self._seals, pepper_id), *parts)


def _of(keys: Mapping[str, bytes], pepper_id: str) -> bytes:
    try:
        return keys[pepper_id]
    except KeyError:
        raise PepperMissing(f"pepper '{pepper_id}' is not among DAL_TOKEN_PEPPERS") from None


def verify(presented: Presented, stored: StoredToken | None, keys: Keyring) -> bool:
    """Whether this is the token that is stored. stored: None where there is no such token; the work is the same."""
    found = keys.nobody if stored is None else stored
    digest = keys.digest(found.pepper_id or keys.current, presented.key_id, presented.secret)
    is_right = equal_digests(digest, found.secret_hash)
    return is_right & (found.kind == presented.kind) & (found.hash_alg == "hmac-sha256")

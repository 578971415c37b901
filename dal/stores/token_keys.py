"""The keys of token digests ("peppers"), kept outside the database: a copy of it alone confirms no guess.

Each row names the pepper its digest was made with. A new pepper, put first, is used from then on; the older ones stay
loaded until no row is left with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal, Protocol

from dal.digests import derived_key, equal_digests, keyed_digest
from dal.errors import PepperMissing
from dal.stores.token_texts import Presented

HashAlg = Literal["hmac-sha256", "sha256-legacy", "hmac-sha256-legacy"]


class Digested(Protocol):
    """What is stored of a token's secret, as far as checking one goes."""

    @property
    def kind(self) -> str: ...
    @property
    def hash_alg(self) -> str: ...
    @property
    def pepper_id(self) -> str | None: ...
    @property
    def secret_hash(self) -> bytes: ...


class _Nobody:
    """What the secret of an unknown key id is compared with, so that it costs what a wrong secret does."""

    kind = "svc"
    hash_alg = "hmac-sha256"
    secret_hash = bytes(32)

    def __init__(self, pepper_id: str) -> None:
        self.pepper_id: str | None = pepper_id


class Keyring:
    """Peppers by id, the current one first. Prints its ids alone."""

    def __init__(self, peppers: Mapping[str, bytes]) -> None:
        """peppers: one at least."""
        self._peppers = dict(peppers)
        self.current = next(iter(self._peppers))
        self.nobody: Digested = _Nobody(self.current)
        self._audit = {name: derived_key(key, "dal-audit-v1") for name, key in self._peppers.items()}
        self._seals = {name: derived_key(key, "dal-audit-head-v1") for name, key in self._peppers.items()}

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self._peppers)})"

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


def verify(presented: Presented, stored: Digested | None, keys: Keyring) -> bool:
    """Whether this is the token that is stored. stored: None where there is no such token; the work is the same."""
    found = keys.nobody if stored is None else stored
    digest = keys.digest(found.pepper_id or keys.current, presented.key_id, presented.secret)
    is_right = equal_digests(digest, found.secret_hash)
    return is_right & (found.kind == presented.kind) & (found.hash_alg == "hmac-sha256")

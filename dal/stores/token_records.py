"""What is known of service tokens: the models of ``db.tokens``."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from msgspec import Struct

from dal.stores.token_texts import Kind, Secret

HashAlg = Literal["hmac-sha256", "sha256-legacy", "hmac-sha256-legacy"]


class TokenRecord(Struct, frozen=True):
    """A service token as it stands, without its secret."""

    key_id: str
    name: str
    kind: Kind
    scopes: tuple[str, ...]
    workspace_ids: tuple[str, ...]
    allowed_cidrs: tuple[str, ...] | None  # None: from everywhere
    rate_limit: int | None  # calls a minute that its server is to allow; kept, not enforced here
    created_at: datetime
    created_by: str
    not_before: datetime | None
    expires_at: datetime | None
    rotated_from: str | None
    rotated_to: str | None
    overlap_until: datetime | None  # until when a rotated token is accepted
    revoked_at: datetime | None
    revoked_by: str | None
    revocation_reason: str | None
    hash_alg: HashAlg
    pepper_id: str | None


class StoredToken(TokenRecord, frozen=True):
    """The same, with the digest of its secret."""

    secret_hash: bytes

    def record(self) -> TokenRecord:
        """Without it."""
        return TokenRecord(*(getattr(self, name) for name in TokenRecord.__struct_fields__))


class Minted(Struct, frozen=True):
    """A new token. secret: the whole token, told this once."""

    record: TokenRecord
    secret: Secret


class TokenUsage(Struct, frozen=True):
    """How often a token was used, as far as it was flushed."""

    key_id: str
    first_used_at: datetime
    last_used_at: datetime
    last_ip: str | None
    last_user_agent: str | None
    use_count: int


class Refusal(Struct, frozen=True):
    """How often one minute saw a token refused for one reason.

    key_id: '' where it was no token of ours. reason: malformed, unknown, secret, address, revoked, expired, early,
    workspace or scope.
    """

    minute_at: datetime  # when it began
    key_id: str
    reason: str
    refusals: int
    first_at: datetime
    last_at: datetime
    last_ip: str | None
    last_user_agent: str | None


class PepperCount(Struct, frozen=True):
    """How many tokens have their digest made with a pepper. pepper_id: None for plain SHA-256, of another system."""

    pepper_id: str | None
    tokens: int

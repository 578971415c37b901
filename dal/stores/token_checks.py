"""What service tokens ask of an argument: rights, addresses, bounds in time. Each check gives what to keep, or raises
Invalid."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec import Struct, UnsetType

from dal.core.rows import Json, check_int, check_text, instant_text
from dal.errors import CorruptDatabase, Invalid
from dal.stores.checks import check_choice, check_length
from dal.stores.token_audit import START, AuditHead
from dal.stores.token_texts import KEY_ID, KINDS, Kind, Secret

MAX_NAME = 128  # characters
MAX_NAME_KEY = 512  # bytes
MAX_GRANTED = 100  # scopes, workspaces, address ranges, of each
MAX_WORD = 128  # characters of a scope or workspace id

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Granted(Struct, frozen=True):
    """What a token is to be, checked."""

    name: str
    name_key: str
    kind: Kind
    scopes: Sequence[str]
    workspace_ids: Sequence[str]
    allowed_cidrs: Sequence[str] | None
    rate_limit: int | None
    not_before: datetime | None
    expires_at: datetime | None

    def details(self) -> dict[str, Json]:
        """For the audit."""
        return {
            "name": self.name,
            "kind": self.kind,
            "scopes": [*self.scopes],
            "workspace_ids": [*self.workspace_ids],
            "allowed_cidrs": None if self.allowed_cidrs is None else [*self.allowed_cidrs],
            "rate_limit": self.rate_limit,
            "not_before": None if self.not_before is None else instant_text(self.not_before, "not_before"),
            "expires_at": None if self.expires_at is None else instant_text(self.expires_at, "expires_at"),
        }


def check_granted(
    now: datetime, name: str, kind: Kind, scopes: Sequence[str], workspace_ids: Sequence[str],
    allowed_cidrs: Sequence[str] | None, rate_limit: int | None, not_before: datetime | None,
    expires_at: datetime | None,
) -> Granted:  # fmt: skip
    """What a token is to grant, and when."""
    name = check_length(check_text(name, "name").strip(), "name", 1, MAX_NAME)
    check_choice(kind, "kind", KINDS)
    if rate_limit is not None and check_int(rate_limit, "rate_limit") < 1:
        raise Invalid(f"{rate_limit}; takes 1 or more, or None", path="rate_limit")
    check_bounds(not_before, expires_at, now)
    return Granted(
        name,
        name_key(name),
        kind,
        check_words(scopes, "scopes"),
        check_words(workspace_ids, "workspace_ids"),
        None if allowed_cidrs is None else check_networks(allowed_cidrs),
        rate_limit,
        not_before,
        expires_at,
    )


def name_key(name: str) -> str:
    """A name as far as it must differ from others': case and the forms of a letter that look alike do not count."""
    key = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    if len(key.encode()) > MAX_NAME_KEY:
        raise Invalid(f"more than {MAX_NAME_KEY} bytes", path="name")
    return key


def check_bounds(not_before: datetime | None, expires_at: datetime | None, now: datetime) -> None:
    """When a token is accepted: from a time, to a later one that is still to come."""
    for value, path in ((not_before, "not_before"), (expires_at, "expires_at")):
        if value is not None:
            instant_text(value, path)
    if expires_at is not None and expires_at <= max(now, not_before or now):
        raise Invalid("must be later than now, and than not_before", path="expires_at")


def later(now: datetime, seconds: int) -> datetime:
    """The end of an overlap."""
    try:
        return now + timedelta(seconds=seconds)
    except OverflowError:
        raise Invalid("ends beyond the year 9999", path="overlap_seconds") from None


def instants(**given: datetime | UnsetType | None) -> dict[str, Json]:
    """Those that were given, as JSON."""
    return {
        name: value if value is None else instant_text(value, name)
        for name, value in given.items()
        if not isinstance(value, UnsetType)
    }


# --- addresses -------------------------------------------------------------------------------------------------------


def is_within(address: Address, cidrs: Sequence[str]) -> bool:
    """Whether an address is in one of these ranges. Raises CorruptDatabase if one of them is none."""
    try:
        return any(address in ipaddress.ip_network(cidr) for cidr in cidrs)
    except ValueError:
        raise CorruptDatabase("a service token is tied to what is no range of addresses") from None


def check_address(ip: str) -> Address:
    """An address; that of IPv4 where it is written as one of IPv6 (::ffff:10.0.0.1)."""
    check_plain(ip, "ip")
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        raise Invalid("takes an IP address, such as 10.0.0.1 or 2001:db8::1", path="ip") from None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    return address.ipv4_mapped or ipaddress.IPv6Address(int(address))  # whichever link it was met on


def check_networks(cidrs: Sequence[str]) -> Sequence[str]:
    """Address ranges in their shortest form, each once; those of IPv4 where they are written as ones of IPv6."""
    if type(cidrs) is not list and type(cidrs) is not tuple:
        raise Invalid(f"takes a list or tuple of str, not {type(cidrs).__name__}", path="allowed_cidrs")
    if not 1 <= len(cidrs) <= MAX_GRANTED:
        raise Invalid(f"{len(cidrs)} ranges; takes 1 to {MAX_GRANTED}, or None for all addresses", path="allowed_cidrs")
    return [*dict.fromkeys(_check_network(cidr, f"allowed_cidrs[{at}]") for at, cidr in enumerate(cidrs))]


def _check_network(cidr: str, path: str) -> str:
    check_plain(cidr, path)
    try:
        network = ipaddress.ip_network(cidr)
    except ValueError:
        allowed = "takes a range such as 10.0.0.0/8 or 2001:db8::/32, with no bit set behind its prefix"
        raise Invalid(allowed, path=path) from None
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    return str(network if mapped is None else ipaddress.ip_network((mapped, network.prefixlen - 96)))


# --- arguments --------------------------------------------------------------------------------------------------------


def check_token_text(token: str | Secret) -> str:
    """What was presented as a token, whatever it is."""
    text = token.reveal() if isinstance(token, Secret) else token
    if type(text) is not str:
        raise Invalid(f"takes str or Secret, not {type(text).__name__}", path="token")
    return text


def check_plain(value: str, path: str) -> str:
    """For what is not stored as it is."""
    if type(value) is not str:
        raise Invalid(f"takes str, not {type(value).__name__}", path=path)
    return value


def check_key_id(value: str, path: str = "key_id") -> str:
    """The public part of a token."""
    if not KEY_ID.fullmatch(check_plain(value, path)):
        raise Invalid("takes 12 letters and digits, the part of a token between dal_svc_ and its secret", path=path)
    return value


def check_sha256(value: str | bytes) -> bytes:
    """A digest of 32 bytes."""
    if type(value) is bytes and len(value) == 32:
        return value
    if type(value) is str and re.fullmatch(r"[0-9A-Fa-f]{64}", value):
        return bytes.fromhex(value)
    raise Invalid("takes a SHA-256 as 64 hex digits or 32 bytes", path="sha256")


def check_words(words: Sequence[str], path: str) -> Sequence[str]:
    """Each once, in the order given."""
    if type(words) is not list and type(words) is not tuple:
        raise Invalid(f"takes a list or tuple of str, not {type(words).__name__}", path=path)
    if len(words) > MAX_GRANTED:
        raise Invalid(f"{len(words)} of them; takes at most {MAX_GRANTED}", path=path)
    return [*dict.fromkeys(check_word(word, f"{path}[{at}]") for at, word in enumerate(words))]


def check_word(word: str, path: str) -> str:
    """A scope or a workspace id."""
    if any(each.isspace() for each in check_length(word, path, 1, MAX_WORD)):
        raise Invalid("contains white space", path=path)
    return word


def check_since(since: AuditHead | None) -> AuditHead:
    """Where verifying begins."""
    if since is None:
        return START
    if type(since) is not AuditHead:
        raise Invalid(f"takes the head of an AuditReport, not {type(since).__name__}", path="since")
    if check_int(since.number, "since.number") < 0 or not re.fullmatch(r"[0-9a-f]{64}", str(since.row_hash)):
        raise Invalid("is no head of an AuditReport", path="since")
    return since

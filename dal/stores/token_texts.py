"""The text of a service token, told apart from everything else without asking anybody.

    dal_svc_<key id: 12 base62>_<secret: 43 base62><checksum: 6 base62>

The key id is public and random; it says which token is meant. The secret has 256 bits. The checksum is the CRC-32 of
everything before it, so that a mistyped token is refused here, and a scanner for leaked secrets has no false alarms.
"""

from __future__ import annotations

import re
import secrets
import zlib
from typing import Final, Literal, NoReturn, get_args

from msgspec import Struct

from dal.digests import equal_digests

Kind = Literal["svc", "usr", "tst"]

ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
KEY_ID: Final = re.compile(r"[0-9A-Za-z]{12}")
LENGTH: Final = 70
PATTERN: Final = r"\bdal_(svc|usr|tst)_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}\b"  # for scanners of leaked secrets
_TOKEN: Final = re.compile(r"dal_(svc|usr|tst)_([0-9A-Za-z]{12})_([0-9A-Za-z]{43})([0-9A-Za-z]{6})")
# Of tokens that were made elsewhere: no white space, nothing but ASCII, and not what begins as one of ours.
_FOREIGN: Final = re.compile(r"(?!dal_)[!-~]{16,256}")


class Secret:
    """A text that does not print itself. ``reveal()`` gives it; nothing else does, and it is neither pickled nor
    encoded."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return equal_digests(self._text.encode(), other._text.encode())

    __hash__ = None  # type: ignore[assignment]  # a table would find it by something else than equality

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled: pass on what reveal() gives, if it must be")


class Presented(Struct, frozen=True):
    """A token of our form, taken apart. Never printed or kept."""

    kind: Kind
    key_id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Presented({self.kind}, {self.key_id})"


def new_key_id() -> str:
    """A key id that nobody has had: 71 bits at random."""
    return _base62(secrets.randbelow(62**12), 12)


def new_secret() -> bytes:
    """A secret as it stands in a token: 43 characters, 256 bits at random."""
    return _base62(secrets.randbelow(62**43), 43).encode()


def token_text(kind: Kind, key_id: str, secret: bytes) -> str:
    """The whole token."""
    body = f"dal_{kind}_{key_id}_{secret.decode()}"
    return body + _checksum(body)


def read_token(text: str) -> Presented | None:
    """The parts of a token; None if the text is none, or was damaged."""
    if len(text) != LENGTH:
        return None
    found = _TOKEN.fullmatch(text)
    if found is None or _checksum(text[: LENGTH - 6]) != found[4]:
        return None
    kind: Kind = found[1]  # type: ignore[assignment]  # the pattern has these three
    return Presented(kind, found[2], found[3].encode())


def is_foreign(text: str) -> bool:
    """Whether a text may be a token that another system made: 16 to 256 visible ASCII characters, not one of ours."""
    return _FOREIGN.fullmatch(text) is not None


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), 6)


def _base62(number: int, length: int) -> str:
    digits = ""
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits = ALPHABET[digit] + digits
    return digits


KINDS: Final = get_args(Kind)

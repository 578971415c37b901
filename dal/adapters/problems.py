"""What an error is over HTTP: a problem of RFC 9457, whichever framework sends it.

Below 500 the client can act, and ``detail`` is the error's own message. From 500 on only the operator can: our message,
which may name hosts, files and tables, belongs in the log, and ``detail`` says what the client may do instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from dal import errors
from dal.errors import (
    CatalogError,
    Closed,
    Conflict,
    CorruptDatabase,
    DalError,
    DiskFull,
    Invalid,
    InvalidState,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    PepperMissing,
    RateLimited,
    SchemaError,
    TokenRefused,
    TransactionAborted,
    Unavailable,
)

MEDIA_TYPE = "application/problem+json"


class Fault(Struct, frozen=True):
    """One thing wrong with a request. path: where, as in ``body.tags[0]`` or ``query.limit``."""

    path: str
    detail: str


class Problem(Struct, frozen=True, omit_defaults=True):
    """The body of an answer that is no success.

    type: a URN for each class of ``dal.errors``, which stays what it is; ``about:blank`` where the status says it all.
    instance: the path of the request. The rest is there where the error has it; retry_after is in whole seconds.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str
    path: str | None = None
    found: str | None = None
    current: int | None = None
    constraint: str | None = None
    retry_after: int | None = None
    errors: Sequence[Fault] = ()


class _Rule(NamedTuple):
    """wait: seconds for Retry-After where the error names none; 0: no such header. advice: the detail from 500 on."""

    status: int
    wait: int = 0
    advice: str = ""


_AGAIN = "Nothing was changed. Send the request again after the time in Retry-After."
_OPERATOR = "The server cannot do this before its operator has acted; its log says more."

# The nearest class counts.
_RULES: Mapping[type[DalError], _Rule] = {
    Invalid: _Rule(422),
    NotFound: _Rule(404),
    Conflict: _Rule(409),
    TokenRefused: _Rule(401),
    InvalidState: _Rule(409),
    TransactionAborted: _Rule(500, 0, "Nothing was changed. This is a mistake in the server's program."),
    Closed: _Rule(503, 1, _AGAIN),  # the server is going away, and another will answer
    Unavailable: _Rule(503, 1, _AGAIN),
    RateLimited: _Rule(429),
    DiskFull: _Rule(503, 30, _AGAIN),
    CorruptDatabase: _Rule(503, 30, _AGAIN),
    PepperMissing: _Rule(503, 30, _OPERATOR),
    OutcomeUnknown: _Rule(
        500, 0, "The change may or may not have been made. Look before you repeat it, or repeat it with its key."
    ),
    SchemaError: _Rule(500, 0, _OPERATOR),
    CatalogError: _Rule(500, 0, _OPERATOR),
    DalError: _Rule(500, 0, _OPERATOR),
}


def problem_of(error: DalError, instance: str) -> Problem:
    """The problem that an error is. instance: the path of the request, percent-encoded, without its query."""
    kinds = [kind for kind in type(error).__mro__ if issubclass(kind, DalError)]
    rule = next(_RULES[kind] for kind in kinds if kind in _RULES)
    wait = max(1, math.ceil(error.retry_after)) if isinstance(error, Overloaded) else rule.wait
    return Problem(
        type=f"urn:workflow-dal:{_kebab(next(kind for kind in kinds if kind.__module__ == errors.__name__).__name__)}",
        title=_headline(kinds),
        status=403 if _is_forbidden(error) else rule.status,
        detail=str(error) if rule.status < 500 else rule.advice,
        instance=instance,
        path=getattr(error, "path", None),
        found=getattr(error, "found", None),
        current=getattr(error, "current", None),
        constraint=getattr(error, "constraint", None),
        retry_after=wait or None,
    )


def challenge_of(error: DalError) -> str | None:
    """The WWW-Authenticate header (RFC 6750) of the answer to an error; None for one that has none."""
    if not isinstance(error, TokenRefused):
        return None
    return f'Bearer error="{"insufficient_scope" if _is_forbidden(error) else "invalid_token"}"'


def _is_forbidden(error: DalError) -> bool:
    """Whether it is known who asks, and another token of theirs may do."""
    return isinstance(error, TokenRefused) and error.found in ("scope", "workspace")


def invalid_request(faults: Sequence[Fault], instance: str) -> Problem:
    """The problem of a request that is wrong before it reaches any method of ours."""
    return Problem(
        type="urn:workflow-dal:invalid-request",
        title="The request is not acceptable",
        status=422,
        detail="; ".join(f"{fault.path}: {fault.detail}" for fault in faults),
        instance=instance,
        path=faults[0].path if faults else None,
        errors=faults,
    )


def _headline(kinds: Sequence[type[DalError]]) -> str:
    return next(kind.__doc__ for kind in kinds if kind.__doc__).strip().splitlines()[0].rstrip(".")


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()

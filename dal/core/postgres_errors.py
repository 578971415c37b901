"""Our error for psycopg's, and what is known of the unit of work that met it."""

from __future__ import annotations

from typing import Literal, TypeAlias

import psycopg

from dal.core.catalog import Query
from dal.errors import (
    FENCED,
    Conflict,
    CorruptDatabase,
    DalError,
    OutcomeUnknown,
    SchemaError,
    Unavailable,
    from_sqlstate,
)

# What was being sent: what changes nothing, or a statement of a transaction whose COMMIT was not sent yet; a write that
# commits by itself; COMMIT.
Phase: TypeAlias = Literal["undone", "write", "commit"]

# The server's word that it ends the session instead of doing what it was asked: terminated by an administrator or a
# shutdown, idle for too long in a transaction or outside. 57P02, a crash, is none: it can come after the commit.
ENDED = frozenset({"57P01", "57P05", "25P03"})

# Refused before anything was done, and perhaps not the next time: no connection left, starting up, a prepared statement
# that this session of a pooler never had, a server that has become a standby.
_PASSING = frozenset({"53300", "57P03", "26000", "25006"})

# The server's function that refuses a statement prepared on a schema that has changed since.
_STALE_SOURCE = "RevalidateCachedQuery"


DriverError = psycopg.Error  # what an application's own statements raise


class Late(psycopg.OperationalError):
    """The unit of work has used up its time; if an answer was awaited, the connection is closed now."""


def is_stale(error: psycopg.Error) -> bool:
    """Whether a prepared statement was refused, before it ran, because the session no longer has it or its plan."""
    return error.sqlstate == "26000" or error.diag.source_function == _STALE_SOURCE


def translate(
    error: psycopg.Error, query: Query | None = None, *, phase: Phase = "undone", lost: bool = False
) -> DalError:
    """Our error for psycopg's, by its SQLSTATE; psycopg's own message may quote a value, so only parts are kept.

    lost: the connection is gone. With the phase, it decides between Unavailable, run again or not, and OutcomeUnknown.
    """
    code = error.sqlstate
    name = query.name if query else None
    undone = phase == "undone" or code in ENDED
    if lost and not undone and code in (None, "57P02"):
        why = "no answer came in time" if isinstance(error, Late) else "the connection was lost"
        fault: DalError = OutcomeUnknown(why, query=name)
    elif code is None:
        unreadable = isinstance(error, psycopg.DataError)
        fault = CorruptDatabase(query=name) if unreadable else Unavailable(first_line(error), query=name)
    else:
        fault = _by_code(error, code, query)
    fault.code = code
    if lost:
        fault.retryable = undone and not isinstance(error, Late)
    elif code in _PASSING or is_stale(error):
        fault.retryable = True
    return fault


def known(error: DalError | DriverError) -> DalError:
    """What is known of a transaction by the error that left its block. The driver's own comes from a statement of the
    application's: COMMIT was not sent."""
    if isinstance(error, DalError):
        return error
    lost = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
    return translate(error, lost=lost or error.sqlstate in ENDED)


def _by_code(error: psycopg.Error, code: str, query: Query | None) -> DalError:
    name = query.name if query else None
    kind = from_sqlstate(code)
    said = error.diag.message_primary or ""
    detail = f"SQLSTATE {code}" if code.startswith("22") else f"{said} (SQLSTATE {code})"
    if code == FENCED:  # the words are ours
        detail = said
    if kind is SchemaError and query is not None:
        detail = f"{detail}, in {query.name}, {query.where()}"
    if issubclass(kind, Conflict):
        detail = f"constraint {error.diag.constraint_name} (SQLSTATE {code})"
    fault = kind(detail, query=name)
    if isinstance(fault, Conflict):
        fault.constraint = error.diag.constraint_name
    return fault


def first_line(error: psycopg.Error) -> str:
    """What psycopg says, without the hints and addresses that follow; of a failure to connect it holds no password."""
    return (str(error).strip().splitlines() or ["no message"])[0]

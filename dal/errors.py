"""Every error a caller can meet, and the table from a driver's code to one of them.

    DalError
    ├─ Invalid (also ValueError; .path)         bad argument; nothing was sent
    ├─ NotFound (also LookupError)
    │  ├─ WorkflowNotFound, VersionNotFound, RunNotFound, TriggerNotFound, KeyNotFound, ExecutionNotFound
    │  ├─ CheckpointNotFound, TokenNotFound
    │  └─ ThreadNotFound, ItemNotFound, AttachmentNotFound
    ├─ Conflict (.constraint)
    │  ├─ AlreadyExists, HandleTaken, VersionTaken, NameTaken
    │  └─ RevisionConflict, IdempotencyConflict, ConstraintViolated
    ├─ TokenRefused (.found)                    it gives no access
    ├─ InvalidState (.found)
    │  ├─ InvalidTransition, LeaseLost, WorkflowArchived, WebhookRefused
    │  └─ AlreadyPublished, NotPublished, TransactionAborted, Closed
    ├─ Unavailable                              trying again may help
    │  ├─ Overloaded (.retry_after)
    │  │  └─ RateLimited
    │  ├─ ReadOnly
    │  ├─ CorruptDatabase
    │  ├─ DiskFull
    │  └─ PepperMissing
    ├─ OutcomeUnknown                           may have been committed; look before repeating
    ├─ SchemaError                              database and code do not fit
    └─ CatalogError                             a query file is wrong

The first line of a class's docstring is its message; what is particular to one case follows it. The driver's own error,
where there is one, is ``__cause__``. No message holds a password, a token or a stored value.
"""

from __future__ import annotations

from collections.abc import Mapping


class DalError(Exception):
    """The data access layer refused or failed."""

    query: str | None
    code: str | None

    def __init__(self, detail: str = "", *, query: str | None = None) -> None:
        """detail: what is particular to this case. query: the named query that was running, if any.

        ``code`` is the SQLSTATE or the name of the SQLite result code, where a database refused.
        """
        # The nearest one: an application's subclass may have no docstring of its own.
        headline = next(kind.__doc__ for kind in type(self).__mro__ if kind.__doc__).strip().splitlines()[0]
        super().__init__(f"{headline.rstrip('.')}: {detail}" if detail else headline)
        self.query = query
        self.code = None
        self._retryable = False

    @property
    def retryable(self) -> bool:
        """Whether it is known that nothing was done, and that running the whole unit of work again may succeed.

        Of a call in a transaction the unit is the transaction. False for OutcomeUnknown, and wherever the same would
        only happen again: a lock or statement timeout, a full disk, a refused value.
        """
        return self._retryable or self.code in RETRYABLE

    @retryable.setter
    def retryable(self, value: bool) -> None:
        self._retryable = value

    def __reduce__(self) -> tuple[object, ...]:
        # The usual way would hand the finished message to __init__ as the detail.
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(kind: type[DalError], args: tuple[object, ...], state: Mapping[str, object]) -> DalError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class Invalid(DalError, ValueError):
    """An argument is not acceptable; nothing was sent to the database."""

    def __init__(self, detail: str = "", *, path: str | None = None, query: str | None = None) -> None:
        """path: the argument, and the place inside it, such as ``graph.nodes[3].name``."""
        super().__init__(f"{path}: {detail}" if path else detail, query=query)
        self.path = path


class NotFound(DalError, LookupError):
    """What was asked for does not exist."""


class WorkflowNotFound(NotFound):
    """No workflow has this id or handle."""


class VersionNotFound(NotFound):
    """The workflow has no such version."""


class RunNotFound(NotFound):
    """No run has this id."""


class TriggerNotFound(NotFound):
    """The workflow has no such trigger."""


class KeyNotFound(NotFound):
    """No transaction has committed under this idempotency key."""


class ExecutionNotFound(NotFound):
    """No execution has this id."""


class CheckpointNotFound(NotFound):
    """No checkpoint has this id, or the workflow has no such one."""


class TokenNotFound(NotFound):
    """No service token has this key id."""


class ThreadNotFound(NotFound):
    """The owner has no chat thread with this id."""


class ItemNotFound(NotFound):
    """The chat thread has no item with this id."""


class AttachmentNotFound(NotFound):
    """The owner has no attachment with this id."""


class Conflict(DalError):
    """The change conflicts with what is stored."""

    def __init__(self, detail: str = "", *, constraint: str | None = None, query: str | None = None) -> None:
        """constraint: the constraint or index that refused, where the database names it."""
        super().__init__(detail, query=query)
        self.constraint = constraint


class AlreadyExists(Conflict):
    """A row with this key exists already."""


class HandleTaken(Conflict):
    """Another active workflow has this handle."""


class VersionTaken(Conflict):
    """Another checkpoint of the workflow has this config_version."""


class NameTaken(Conflict):
    """Another service token that was not revoked has this name."""


class RevisionConflict(Conflict):
    """The workflow was changed by someone else in the meantime."""

    def __init__(self, detail: str = "", *, current: int | None = None, query: str | None = None) -> None:
        """current: the revision now stored; read the workflow again and repeat the change on it."""
        super().__init__(detail, query=query)
        self.current = current


class IdempotencyConflict(Conflict):
    """This idempotency key was used before with other inputs."""


class ConstraintViolated(Conflict):
    """A constraint of the database refused the row."""


class TokenRefused(DalError):
    """The service token gives no access."""

    def __init__(self, detail: str = "", *, found: str | None = None, query: str | None = None) -> None:
        """found: 'revoked', 'expired', 'early', 'workspace' or 'scope', said only to who has the right secret from an
        address that may use it; None whatever else is wrong with the token."""
        super().__init__(detail, query=query)
        self.found = found


class InvalidState(DalError):
    """The operation does not fit the present state."""

    def __init__(self, detail: str = "", *, found: str | None = None, query: str | None = None) -> None:
        """found: the state really found by the refusing statement."""
        super().__init__(detail, query=query)
        self.found = found


class InvalidTransition(InvalidState):
    """The present state does not allow this transition."""


class LeaseLost(InvalidState):
    """The run is not under a lease of this worker."""


class WebhookRefused(InvalidState):
    """The webhook does not accept this request."""


class WorkflowArchived(InvalidState):
    """An archived workflow takes no new version, run or trigger."""


class AlreadyPublished(InvalidState):
    """The workflow is published already."""


class NotPublished(InvalidState):
    """The workflow is not published."""


class TransactionAborted(InvalidState):
    """An earlier statement of this transaction failed; only rolling back is left."""


class Closed(InvalidState):
    """This Dal is closed, or the transaction has ended."""


class Unavailable(DalError):
    """The database cannot answer now; trying again may help."""


class Overloaded(Unavailable):
    """Too many callers are waiting for the database."""

    def __init__(self, detail: str = "", *, retry_after: float = 1.0, query: str | None = None) -> None:
        """retry_after: seconds after which it is worth asking again."""
        super().__init__(detail, query=query)
        self.retry_after = retry_after


class RateLimited(Overloaded):
    """The webhook has taken all the requests that it takes in this window of time."""


class ReadOnly(Unavailable):
    """The database accepts no writes."""


class CorruptDatabase(Unavailable):
    """The database holds something that cannot be read."""


class DiskFull(Unavailable):
    """The database's disk is full."""


class PepperMissing(Unavailable):
    """A key that token digests are made with is not loaded."""


class OutcomeUnknown(DalError):
    """The connection was lost while committing: the change may or may not have been made; look before repeating it."""


class SchemaError(DalError):
    """The database and this version of the code do not fit together."""


class CatalogError(DalError):
    """A query file is wrong."""


# --- what a driver's code means ---------------------------------------------------------------------------------------
#
# PostgreSQL: SQLSTATE, looked up whole and then by its class of two letters. A lost connection has no SQLSTATE; the
# engine knows from the connection itself, and from what it had sent, whether that is Unavailable or OutcomeUnknown.

FENCED = "DAL01"  # raised by the fence's own trigger (dal.transfer)

SQLSTATES: Mapping[str, type[DalError]] = {
    "23505": AlreadyExists,
    "23": ConstraintViolated,
    "25006": ReadOnly,
    FENCED: ReadOnly,
    "P0001": ConstraintViolated,  # raised by a trigger
    "25P02": TransactionAborted,
    "25P03": Unavailable,  # idle in transaction for too long
    "40": Unavailable,  # serialization failure, deadlock
    "3F": SchemaError,  # no schema of the search path exists
    "42501": SchemaError,  # no privilege on an object
    "42": SchemaError,  # undefined table, column or function: the schema is not the one the queries were written for
    "08": Unavailable,
    "22": CorruptDatabase,  # a stored value, or one of ours, that the statement cannot take
    "26000": Unavailable,  # a prepared statement vanished behind a connection pooler
    "0A000": Unavailable,  # cached plan must not change result type: the schema changed under a live connection
    "53100": DiskFull,
    "53": Overloaded,  # out of memory, too many connections
    "54": Invalid,  # a value too large for an index, a statement too deep for the stack
    "55P03": Unavailable,  # lock not available within lock_timeout
    "55": InvalidState,
    "57014": Unavailable,  # statement_timeout
    "57": Unavailable,  # shut down, starting up, terminated
    "58": Unavailable,  # the server's disk or operating system failed
    "XX001": CorruptDatabase,
    "XX002": CorruptDatabase,
}

# SQLite: the extended result code, then the primary one (its low byte).
# https://www.sqlite.org/rescode.html

SQLITE_CODES: Mapping[int, type[DalError]] = {
    2067: AlreadyExists,  # SQLITE_CONSTRAINT_UNIQUE
    1555: AlreadyExists,  # SQLITE_CONSTRAINT_PRIMARYKEY
    1811: ReadOnly,  # SQLITE_CONSTRAINT_TRIGGER: the fence; no other trigger of ours refuses
    19: ConstraintViolated,
    1: SchemaError,  # SQLITE_ERROR: no such table or column
    3: Unavailable,  # SQLITE_PERM
    5: Unavailable,  # SQLITE_BUSY
    6: Unavailable,  # SQLITE_LOCKED
    7: Overloaded,  # SQLITE_NOMEM
    8: ReadOnly,
    9: Unavailable,  # SQLITE_INTERRUPT
    10: Unavailable,  # SQLITE_IOERR
    11: CorruptDatabase,
    13: DiskFull,
    14: Unavailable,  # SQLITE_CANTOPEN
    15: Unavailable,  # SQLITE_PROTOCOL: too many processes began to use the log at once
    17: SchemaError,  # SQLITE_SCHEMA
    18: Invalid,  # SQLITE_TOOBIG
    23: Unavailable,  # SQLITE_AUTH
    26: CorruptDatabase,  # SQLITE_NOTADB
}


# Where nothing was done because two transactions got in each other's way: the whole transaction may be run again.
RETRYABLE = frozenset({"40001", "40P01", "SQLITE_BUSY", "SQLITE_BUSY_SNAPSHOT", "SQLITE_BUSY_RECOVERY"})


def from_sqlstate(code: str) -> type[DalError]:
    """The error that a SQLSTATE stands for; DalError itself for one that is not in the table."""
    return SQLSTATES.get(code) or SQLSTATES.get(code[:2]) or DalError


def from_sqlite_code(code: int | None) -> type[DalError]:
    """The error that an extended SQLite result code stands for; DalError itself for one not in the table."""
    if code is None:
        return DalError
    return SQLITE_CODES.get(code) or SQLITE_CODES.get(code & 0xFF) or DalError

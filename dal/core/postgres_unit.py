"""What runs a body's queries on PostgreSQL: a session for one method, or a transaction in progress."""

from __future__ import annotations

from collections import Counter
from time import monotonic
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from dal.core import forks
from dal.core.catalog import Query
from dal.core.face import Options
from dal.core.postgres_connection import Rows, Values
from dal.core.postgres_errors import Phase
from dal.core.postgres_lender import GRACE, Lender
from dal.errors import Closed, DalError, TransactionAborted, Unavailable

_BEGIN = {
    None: "begin",
    "read committed": "begin isolation level read committed",
    "repeatable read": "begin isolation level repeatable read",
    "serializable": "begin isolation level serializable",
}


class Session:
    """One connection in autocommit mode, for the queries of one method."""

    __slots__ = ("_lender", "_phase", "_prepare", "_ran", "connection")

    def __init__(
        self, lender: Lender, ran: Counter[str], connection: Any, phase: Phase, prepare: bool | None = None
    ) -> None:
        self._lender = lender
        self._ran = ran
        self._phase: Phase = phase
        self._prepare = prepare
        self.connection = connection

    async def execute(self, query: Query, values: Values) -> Rows:
        self._ran[query.name] += 1
        try:
            return await self._lender.wire.execute(
                self.connection, query.statements[0].encoded, values[0], False if query.custom else self._prepare
            )
        except psycopg.Error as error:
            raise await self._lender.fault(error, self.connection, query, phase=self._phase) from error


class Unit:
    """A transaction in progress, and the session of its queries."""

    def __init__(self, owner: object, lender: Lender, ran: Counter[str], options: Options, connection: Any) -> None:
        self.owner = owner
        self.ended = False
        self._connection = connection
        self._until = connection.dal.until
        self._lender = lender
        self._ran = ran
        self._options = options
        self._failed = False
        self._savepoints: list[str] = []

    @property
    def connection(self) -> Any:
        """The connection of a transaction in progress. Raises Closed, TransactionAborted."""
        self._check()
        return self._connection

    async def _command(self, sql: str) -> None:
        try:
            await self._lender.wire.execute(self._connection, sql.encode(), (), False)
        except psycopg.Error as error:
            raise await self._lender.fault(error, self._connection, options=self._options) from error

    async def begin(self) -> None:
        """Start the transaction."""
        isolation = self._options.isolation or ("repeatable read" if self._options.read_only else None)
        await self._command(_BEGIN[isolation] + (" read only" if self._options.read_only else ""))

    async def execute(self, query: Query, values: Values) -> Rows:
        self._ran[query.name] += 1
        self._check(query)
        try:
            return await self._lender.wire.execute(
                self._connection, query.statements[0].encoded, values[0], False if query.custom else None
            )
        except BaseException as error:
            self._failed = True  # cancelled, too: the caller does not know what the statement did
            if isinstance(error, psycopg.Error):
                raise await self._lender.fault(error, self._connection, query, options=self._options) from error
            raise

    def _check(self, query: Query | None = None) -> None:
        name = query.name if query else None
        if self.ended:
            raise Closed("use a transaction inside its with block only", query=name)
        if self._lender.forked:
            raise forks.refusal()
        if self._connection.closed:
            raise self._lost(name)
        status = self._connection.pgconn.transaction_status
        if self._failed or status == TransactionStatus.INERROR:
            raise TransactionAborted("leave the with block, or the savepoint's", query=name)
        if status == TransactionStatus.IDLE:
            raise Closed("the application ended the transaction on its connection", query=name)

    def _lost(self, name: str | None) -> DalError:
        if self._lender.closed:
            return Closed("the database was closed, and the transaction with it", query=name)
        fault = Unavailable("the connection was lost, and the transaction with it", query=name)
        fault.retryable = True
        return fault

    async def commit(self) -> None:
        """End well. Raises TransactionAborted, rolled back, if a statement had failed."""
        self._check()
        phase: Phase = "undone" if self._options.read_only else "commit"
        try:
            await self._lender.wire.execute(self._connection, b"commit", (), False)
        except psycopg.Error as error:
            raise await self._lender.fault(error, self._connection, options=self._options, phase=phase) from error
        finally:
            self.ended = self._connection.pgconn.transaction_status == TransactionStatus.IDLE

    async def roll_back(self) -> None:
        """End without effect; what cannot be rolled back is closed, which has the same effect at the server."""
        if self.ended or self._lender.forked:
            return
        self.ended = True
        if self._connection.closed or self._connection.pgconn.transaction_status == TransactionStatus.IDLE:
            return
        try:
            self._connection.dal.until = monotonic() + GRACE  # the unit's own time may be over
            await self._lender.wire.execute(self._connection, b"rollback", (), False)
        except (psycopg.Error, RuntimeError):  # RuntimeError: its event loop has gone
            self._connection.pgconn.finish()

    async def savepoint(self) -> str:
        """Set a savepoint; returns its name for ``release`` or ``undo``."""
        self._check()
        name = f"dal_{len(self._savepoints) + 1}"
        await self._command(f"savepoint {name}")
        self._savepoints.append(name)
        return name

    async def release(self, name: str) -> None:
        """Keep what was done since the savepoint. Raises TransactionAborted if a statement had failed."""
        self._check()
        await self._command(f"release {name}")
        self._savepoints.remove(name)

    async def undo(self, name: str) -> None:
        """Undo what was done since the savepoint; the transaction is usable again, or left to be rolled back.

        Raises nothing: the caller is leaving by an error of its own.
        """
        self._connection.dal.until = self._until  # a cancelled statement has brought it forward
        try:
            await self._command(f"rollback to {name}")
            await self._command(f"release {name}")
            self._savepoints.remove(name)
            self._failed = False
        except (DalError, ValueError):
            self._failed = True

"""What a body's queries run in on SQLite: a reading connection, or a transaction."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from contextlib import suppress

from dal.core import forks
from dal.core.catalog import Query
from dal.core.face import Options
from dal.core.sqlite_file import File, Rows, Values, roll_back, run_script, translate
from dal.errors import Closed, DalError, TransactionAborted, Unavailable


class Reading:
    """A session for the queries of one read."""

    __slots__ = ("_connection", "_ran")

    def __init__(self, connection: sqlite3.Connection, ran: Counter[str]) -> None:
        self._connection = connection
        self._ran = ran

    async def execute(self, query: Query, values: Values) -> Rows:
        self._ran[query.name] += 1
        try:
            return run_script(self._connection, query, values)
        except sqlite3.Error as error:
            raise translate(error, query) from error


class Unit:
    """A transaction in progress, and the session of its queries. Its connection is its own until it has ended."""

    def __init__(
        self, owner: object, file: File, connection: sqlite3.Connection, options: Options, ran: Counter[str]
    ) -> None:
        self.owner = owner
        self.ended = False
        self.options = options
        self._file = file
        self._own = connection
        self._ran = ran
        self._begun = False
        self._lent = False  # the application has had the connection in hand
        self._failed = False
        self._expired = False
        self._savepoints: list[str] = []
        self._left: sqlite3.Connection | None = None
        self._mutex = threading.Lock()  # a statement and the end of the unit's time exclude each other
        self._ending = threading.Lock()  # an interrupt must not reach whoever has the connection next

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection of a transaction in progress. Raises Closed, Unavailable, TransactionAborted."""
        connection = self._check()
        self._lent = True
        return connection

    def begin(self) -> None:
        """Start the transaction; the caller has the lane, unless it is read only."""
        try:
            if self.options.read_only:
                self._own.execute("begin")
            else:
                self._file.begin_writing()
        except sqlite3.Error as error:
            self.roll_back()
            raise translate(error) from error
        self._begun = True

    async def execute(self, query: Query, values: Values) -> Rows:
        self._ran[query.name] += 1
        with self._mutex:
            connection = self._check(query)
            try:
                return run_script(connection, query, values)
            except BaseException as error:
                self._failed = True
                if isinstance(error, sqlite3.Error):
                    raise (self._too_late(query) if self._expired else translate(error, query)) from error
                raise

    def fail(self) -> None:
        """Leave only rolling back: the caller does not know what its last call did, or does not wait for it."""
        self._failed = True

    def _too_late(self, query: Query | None = None) -> Unavailable:
        limit = self._file.settings.sqlite_tx_timeout
        return Unavailable(
            f"rolled back: it held the database for more than {limit:g} s", query=query.name if query else None
        )

    def _check(self, query: Query | None = None) -> sqlite3.Connection:
        name = query.name if query else None
        if self._file.forked:
            raise forks.refusal()
        if self._expired:
            raise self._too_late(query)
        if self._file.closed:
            raise Closed("the database was closed, and the transaction with it", query=name)
        if self.ended or not self._begun:
            raise Closed("use a transaction inside its with block only", query=name)
        if self._failed:
            raise TransactionAborted("leave the with block, or the savepoint's", query=name)
        if not self._own.in_transaction:
            raise Closed("the application ended the transaction on its connection", query=name)
        return self._own

    def commit(self) -> None:
        """End well. Raises TransactionAborted, rolled back, if a statement had failed."""
        with self._mutex:
            try:
                connection = self._check()
                if self.options.read_only:
                    connection.execute("commit")
                else:
                    self._file.commit()
            except sqlite3.Error as error:
                raise translate(error) from error
            finally:
                self._end()

    def roll_back(self) -> None:
        """End without effect."""
        with self._mutex:
            self._end()

    def expire(self) -> None:
        """End because its time is up; a statement that still runs is stopped."""
        self._expired = not self.ended
        self.interrupt()
        with self._mutex:
            if not self.ended and self._lent and not self.options.read_only:
                with suppress(sqlite3.Error, DalError):
                    self._left = self._file.renew_writer()
            self._end()

    def dispose(self) -> None:
        """Close a connection that nobody but this unit's owner still had."""
        if self._left is not None:
            self._left.close()
            self._left = None

    def interrupt(self) -> None:
        """Stop the statement that runs, if one does."""
        with self._ending:
            if not self.ended:
                self._own.interrupt()

    def _end(self) -> None:
        with self._ending:
            if self.ended:
                return
            self.ended = True
        if not self._file.forked:
            with suppress(sqlite3.ProgrammingError):  # it was closed meanwhile, which has the same effect
                roll_back(self._own)

    def savepoint(self) -> str:
        """Set a savepoint; returns its name for ``release`` or ``undo``."""
        with self._mutex:
            name = f"dal_{len(self._savepoints) + 1}"
            self._command(f"savepoint {name}")
            self._savepoints.append(name)
            return name

    def release(self, name: str) -> None:
        """Keep what was done since the savepoint. Raises TransactionAborted if a statement had failed."""
        with self._mutex:
            self._command(f"release {name}")
            self._savepoints.remove(name)

    def undo(self, name: str) -> None:
        """Undo what was done since the savepoint; the transaction is usable again, or left to be rolled back.

        Raises nothing: the caller is leaving by an error of its own.
        """
        with self._mutex:
            self._failed = False
            try:
                self._command(f"rollback to {name}")
                self._command(f"release {name}")
                self._savepoints.remove(name)
            except (DalError, ValueError):
                self._failed = True

    def _command(self, sql: str) -> None:
        try:
            self._check().execute(sql)
        except sqlite3.Error as error:
            raise translate(error) from error

"""A blocking SQLite connection for what changes or describes the schema."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from dal.core.catalog import Query
from dal.core.sqlite_file import File, Rows, Values, roll_back, run_script, translate


class SqliteDoor:
    """One connection, blocking, for what changes or describes the schema. Without a file: an empty private database."""

    dialect = "sqlite"
    session_pid: int | None = None  # there is no server

    def __init__(self, file: File | None = None) -> None:
        self._file = file
        self.connection = file.writer if file else sqlite3.connect(":memory:", isolation_level=None)

    async def execute(self, query: Query, values: Values) -> Rows:
        try:
            return run_script(self.connection, query, values)
        except sqlite3.Error as error:
            raise translate(error, query) from error

    def run_sql(self, sql: str) -> None:
        """One statement of a migration."""
        try:
            self.connection.execute(sql)
        except sqlite3.Error as error:
            raise translate(error) from error

    @contextmanager
    def lock(self, seconds: float) -> Iterator[None]:
        """Keep other processes out, by one exclusive transaction round all migrations."""
        try:
            try:
                self._file.begin_writing("exclusive") if self._file else self.run_sql("begin exclusive")
            except sqlite3.Error as error:
                raise translate(error) from error
            yield
            self.run_sql("commit")
        finally:
            roll_back(self.connection)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Nothing of its own: the lock is the transaction."""
        yield

    @contextmanager
    def scratch(self) -> Iterator[SqliteDoor]:
        """An empty private database."""
        door = SqliteDoor()
        try:
            yield door
        finally:
            door.close()

    def close(self) -> None:
        if not self._file:
            self.connection.close()

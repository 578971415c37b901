"""The door for schema work: one blocking connection of its own, for what changes or describes the schema."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from dal.core.catalog import Query
from dal.core.postgres_connection import Connection, Rows, Values, connection_arguments, execute
from dal.core.postgres_errors import first_line, translate
from dal.errors import SchemaError, Unavailable
from dal.settings import Settings


class PostgresDoor:
    """One blocking connection of its own."""

    dialect = "postgres"
    _LOCK = 0x64616C  # "dal": one migration at a time in a database

    def __init__(self, settings: Settings) -> None:
        """Connects. Raises Unavailable with the server's words, SchemaError for a server that will not do."""
        self.settings = settings
        try:
            self.connection = Connection.connect(autocommit=True, **connection_arguments(settings))
        except psycopg.Error as error:
            raise Unavailable(first_line(error)) from error
        try:
            self.connection.configure()
        except BaseException:
            self.connection.close()
            raise
        self.connection.dal.rests = False  # nor has it a deadline: a migration takes as long as it takes

    @property
    def session_pid(self) -> int | None:
        """The server process this connection was told it has."""
        return self.connection.info.backend_pid

    async def execute(self, query: Query, values: Values) -> Rows:
        try:
            return execute(self.connection, query.statements[0].encoded, values[0], False)
        except psycopg.Error as error:
            raise translate(error, query) from error

    def run_sql(self, sql: str) -> None:
        """One statement of a migration."""
        try:
            self.connection.execute(sql.encode(), prepare=False)
        except psycopg.Error as error:
            raise translate(error) from error

    @contextmanager
    def lock(self, seconds: float) -> Iterator[None]:
        """Keep other migrations out. Polled: a session that waits inside pg_advisory_lock can deadlock with an index
        being built concurrently. Raises Unavailable when another has it for too long."""
        if self.settings.postgres_pooler != "none":
            raise SchemaError("a migration needs a session of its own: use a DSN that leads past the pooler")
        end = time.monotonic() + seconds
        while not self._value("select pg_try_advisory_lock(%s)", self._LOCK):
            if time.monotonic() > end:
                raise Unavailable(f"another process has been changing the schema for {seconds:g} s")
            time.sleep(0.1)
        try:
            yield
        finally:
            if not self.connection.closed:
                self._value("select pg_advisory_unlock(%s)", self._LOCK)

    def _value(self, sql: str, *values: object) -> Any:
        row = self.connection.execute(sql.encode(), values).fetchone()
        return row and row[0]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One transaction that gives up on a lock after the lock timeout: others queue behind whoever waits for it."""
        limit = round(self.settings.postgres_lock_timeout * 1000)
        try:
            with self.connection.transaction():
                self._value("select set_config('lock_timeout', %s, true)", f"{limit}ms")
                self._value("select set_config('statement_timeout', '0', true)")
                yield
        except psycopg.Error as error:
            raise translate(error) from error

    @contextmanager
    def scratch(self) -> Iterator[PostgresDoor]:
        """An empty schema in a transaction that is rolled back. Raises SchemaError for a role that may make none."""
        try:
            with self.connection.transaction(force_rollback=True):
                name = f"dal_scratch_{self._value('select pg_backend_pid()')}"
                try:
                    self.connection.execute(f"create schema {name}".encode())
                except psycopg.errors.InsufficientPrivilege as error:
                    raise SchemaError(
                        "to compare, the migrations are run in a schema of their own, which is rolled back; the role "
                        "may make none: grant it CREATE on the database, or use a role that has it"
                    ) from error
                self.connection.execute(f"set local search_path to {name}".encode())
                yield self
        except psycopg.Error as error:
            raise translate(error) from error

    def close(self) -> None:
        self.connection.close()

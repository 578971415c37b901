"""PostgreSQL as one side of a transfer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psycopg

from dal.core.postgres_connection import check_server, connection_arguments
from dal.core.postgres_door import PostgresDoor
from dal.core.postgres_errors import first_line, translate
from dal.core.schema import Schema
from dal.dal import load_catalog
from dal.errors import FENCED, CorruptDatabase, InvalidState, Unavailable
from dal.settings import Settings
from dal.transfer.inventory import Table, inventory
from dal.transfer.side import Key, Range, Side
from dal.transfer.values import POSTGRES_EPOCH, Checker, Digest, Form, Refused, Row

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_CHUNK = 256 * 1024
_RUNNER = 0x64616D6F  # "damo": one process loads at a time
_HELPER = 0x64616D68  # "damh": and those that load for it
_PATIENCE = 30.0  # seconds
# The row or a value of it: classes 22 and 23, and what is too large for an index or too deep for a parser.
_OF_A_ROW = ("22", "23", "54")


class PostgresSide(Side):
    """PostgreSQL as one side of a transfer."""

    dialect = "postgres"

    def __init__(self, settings: Settings, clock: Callable[[], datetime]) -> None:
        """Connects. Raises Unavailable, SchemaError."""
        super().__init__(settings, clock)
        self._door: PostgresDoor | None = None
        try:
            self._connection = psycopg.connect(autocommit=True, **connection_arguments(settings))
        except psycopg.Error as error:
            raise Unavailable(first_line(error)) from error
        try:
            check_server(self._connection)
            for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
                self.ask(f"set {name} = 0")
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()
        if self._door:
            self._door.close()

    def schema(self) -> Schema:
        self._door = self._door or PostgresDoor(self.settings)
        return Schema(self._door, load_catalog(self.settings), self.clock)

    def place(self) -> object:
        server = "extract(epoch from pg_postmaster_start_time())::text"
        return self.ask(f"select {server}, oid::text from pg_database where datname = current_database()")

    def check_whole(self) -> None:
        damage = self.schema().damage()
        if damage:
            raise CorruptDatabase("; ".join(f"{found.kind} {found.place} {found.words}" for found in damage))

    def ask(self, sql: str, *values: Any) -> list[Any]:
        try:
            cursor = self._connection.execute(_sql(sql, values), values or None)
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            raise translate(error, lost=self._connection.closed) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        try:
            with self._connection.transaction():
                self.ask("select set_config('dal.loading', 'on', true)")
                yield
        except psycopg.Error as error:
            raise translate(error, phase="commit", lost=self._connection.closed) from error

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        self.ask("begin isolation level repeatable read read only")
        try:
            yield
        finally:
            if not self._connection.closed:
                self.ask("rollback")

    @contextmanager
    def frozen(self, work: Path) -> Iterator[tuple[str, Side]]:
        with self.snapshot():
            standing = self.standing()
            # Without a fence: no transaction has begun to write since, in the whole server.
            since = "" if standing.is_fenced else self.ask("select pg_current_snapshot()::text")[0][0]
            yield f"{standing.state()} {since}", self

    @contextmanager
    def alone(self) -> Iterator[None]:
        if not self.ask(f"select pg_try_advisory_lock({_RUNNER})")[0][0]:
            raise InvalidState("another process is loading into this database", found="loading")
        try:
            self._await_helpers()
            yield
        finally:
            if not self._connection.closed:
                self.ask(f"select pg_advisory_unlock({_RUNNER})")

    def _await_helpers(self) -> None:
        """Those of a process that was killed do not outlast the batch they are at."""
        until = monotonic() + _PATIENCE
        while not self.ask(f"select pg_try_advisory_lock({_HELPER})")[0][0]:
            if monotonic() > until:
                raise InvalidState("another process is still loading into this database", found="loading")
            sleep(0.05)
        self.ask(f"select pg_advisory_unlock({_HELPER})")

    @contextmanager
    def beside(self) -> Iterator[None]:
        self.ask(f"select pg_advisory_lock_shared({_HELPER})")
        yield  # until the connection is closed

    def in_order(self, table: Table, column: str) -> str:
        return f'{column} collate "C"' if _kind(table, column) == "text" else column

    def bound(self, table: Table, column: str) -> str:
        kind = _kind(table, column)
        return {"uuid": "?::uuid", "timestamptz": "?::timestamptz", "int": "?::bigint"}.get(kind, "?::text")

    def shown(self, table: Table, column: str) -> str:
        return _shown(column, _kind(table, column))

    def read_where(self, table: Table, where: str, values: Sequence[Any], limit: int = -1) -> Iterator[Row]:
        shown = ", ".join(_shown(column.name, column.kind) for column in table.columns)
        return self._stream(f"select {shown} from {table.name}{where}{self.ordered(table, limit)}", values)

    def checker(self, form: Form) -> Checker:
        return form.from_postgres

    def _stream(self, sql: str, values: Sequence[Any]) -> Generator[Any, None, None]:
        try:
            with self._connection.cursor() as cursor:
                yield from cursor.stream(_sql(sql, values), values or None)
        except psycopg.Error as error:
            raise translate(error, lost=self._connection.closed) from error

    def digest(self, table: Table, rows: Range) -> Digest:
        where, values = self.within(table, rows)
        hashed = self._hashed(table, f"{_ONCE}, ", where)
        sums = ", ".join(f"sum({self._int8(f'substr(h.hash, {at}, 8)')})" for at in (1, 9))
        row = self.ask(f"select count(*), {sums} from ({hashed}) h", *values)[0]
        return Digest().plus(row[0], int(row[1] or 0), int(row[2] or 0))

    def row_digests(self, table: Table, rows: Range) -> Iterator[tuple[Key, Digest]]:
        where, values = self.within(table, rows)
        key = "".join(f"{self.shown(table, name)}, " for name in table.key)
        for row in self._stream(self._hashed(table, key, where) + self.ordered(table), values):
            yield list(row[:-1]), Digest.of_hash(row[-1])

    def _int8(self, eight: str) -> str:
        """Eight bytes as the bigint that they are; the cast came with 18 and is a tenth of a digest's time faster."""
        if self._connection.info.server_version >= 180000:
            return f"{eight}::bigint"
        return f"('x' || encode({eight}, 'hex'))::bit(64)::bigint"

    def _hashed(self, table: Table, key: str, where: str) -> str:
        """A query for ``key`` and the SHA-256 of each row's canonical encoding: that of dal.digests.canonical."""
        spelled, texts = [], [_ONCE]
        for column in table.columns:
            c = column.name
            if column.kind == "json":
                texts.append(f"{c}::text as {c}_text")
            elif column.kind == "timestamptz":
                micros = f"({self._int8(f'timestamptz_send({c})')} + {POSTGRES_EPOCH})::text"
                texts.append(f"case when isfinite({c}) then {micros} when {c} is not null then 'none' end as {c}_text")
            written = {
                "uuid": f"'32:' || replace({c}::text, '-', '')",
                "text": f"octet_length({c}) || ':' || {c}",
                "int": f"length({c}::text) || ':' || {c}::text",
                "float": f"'16:' || encode(float8send({c}), 'hex')",
                "bool": f"case when {c} then '1:t' when not {c} then '1:f' end",
                "bytes": f"2 * octet_length({c}) || ':' || encode({c}, 'hex')",
            }.get(column.kind, f"octet_length({c}_text) || ':' || {c}_text")
            # Without more brackets than needed: what they hold would be joined first, and copied once more.
            spelled.append(f"coalesce({written}, '~')" if column.nullable or column.kind == "bool" else written)
        names = ", ".join(column.name for column in table.columns)
        hashed = f"sha256(convert_to({' || '.join(spelled)}, 'UTF8'))"
        inner = f"select {names}, {', '.join(texts)} from {table.name}{where}"
        return f"select {key}{hashed} as hash from ({inner}) {table.name}"

    def load(self, form: Form, rows: Iterator[Row]) -> None:
        packed = form.packed
        try:
            with self._connection.cursor().copy(_copy(form.table)) as copy:
                chunk, size = [_HEADER], 0
                for row in rows:
                    data = packed(row)
                    chunk.append(data)
                    size += len(data)
                    if size > _CHUNK:
                        copy.write(b"".join(chunk))
                        chunk, size = [], 0
                copy.write(b"".join([*chunk, b"\xff\xff"]))
        except psycopg.Error as error:
            if (error.sqlstate or "")[:2] in _OF_A_ROW:
                raise Refused("constraint", error.diag.constraint_name or f"SQLSTATE {error.sqlstate}") from error
            raise translate(error, lost=self._connection.closed) from error

    def load_one(self, form: Form, row: Row) -> None:
        with self._connection.transaction():
            self.load(form, iter((row,)))

    def loaded_range(self, form: Form, first: Row, last: Row) -> None:
        pass  # its indexes are kept by the server

    def drop_for_load(self) -> list[str]:
        references = self.drop_references()
        indexes = self.ask(
            "select i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid) from pg_index i "
            "where i.indrelid = any(?::regclass[]) and not i.indisunique order by 1",
            [table.name for table in inventory()],
        )
        for name, _ in indexes:
            self.ask(f"drop index {name}")
        return [*(definition for _, definition in indexes), *references]

    def drop_references(self) -> list[str]:
        keys = self.ask(
            "select c.conrelid::regclass::text, quote_ident(c.conname), pg_get_constraintdef(c.oid) "
            "from pg_constraint c where c.contype = 'f' and c.conrelid = any(?::regclass[]) order by 1, 2",
            [table.name for table in inventory()],
        )
        for table, name, _ in keys:
            self.ask(f"alter table {table} drop constraint {name}")
        return [f"alter table {table} add constraint {name} {definition}" for table, name, definition in keys]

    def references_hold(self) -> bool:
        return True  # a foreign key that is there was checked when it was made

    def set_counters(self) -> None:
        for table in inventory():
            for column in table.columns:
                if column.is_counted:
                    self.ask(
                        f"select setval(pg_get_serial_sequence('{table.name}', '{column.name}'), "
                        f"coalesce(max({column.name}), 1), max({column.name}) is not null) from {table.name}"
                    )

    def analyze(self) -> None:
        for table in inventory():
            self.ask(f"analyze {table.name}")

    def put_fence(self, *, up: bool) -> None:
        tables = [table.name for table in inventory()]
        if not up:
            for name in tables:
                self.ask(f"drop trigger if exists dal_fence on {name}")
            return
        self.ask(
            "create or replace function dal_refuse_writes() returns trigger language plpgsql as $$ begin "
            "raise exception 'the database is fenced: it takes no writes until dal fence off' "
            f"using errcode = '{FENCED}'; end $$"
        )
        for name in tables:
            self.ask(
                f"create trigger dal_fence before insert or update or delete or truncate on {name} for each statement "
                "when (coalesce(current_setting('dal.loading', true), '') <> 'on') execute function dal_refuse_writes()"
            )


def _sql(text: str, values: Sequence[Any]) -> bytes:
    return (text.replace("%", "%%").replace("?", "%s") if values else text).encode()


def _kind(table: Table, name: str) -> str:
    return next(column.kind for column in table.columns if column.name == name)


def _shown(name: str, kind: str) -> str:
    """A column as it travels; a time that has no such form comes as PostgreSQL prints it, and is refused."""
    return {
        "uuid": f"{name}::text",
        "json": f"{name}::text",
        "bytes": f"encode({name}, 'hex')",
        "timestamptz": f"case when {name} >= '0001-01-01Z' and {name} < '9999-12-31T23:59:59.999999Z'::timestamptz "
        f"+ interval '1 microsecond' then to_char({name} at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') "
        f"else {name}::text end",
    }.get(kind, name)


def _copy(table: Table) -> bytes:
    names = ", ".join(column.name for column in table.columns)
    return f"copy {table.name} ({names}) from stdin (format binary)".encode()


# A subquery with a volatile function in its list is not taken apart by the planner, which would write what it computes
# wherever it is used, and compute it there each time. One with OFFSET 0 is not, either, but keeps parallel workers off.
_ONCE = "clock_timestamp() as once"

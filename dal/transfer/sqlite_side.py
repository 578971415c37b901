"""SQLite as one side of a transfer."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

from dal.core.schema import Schema
from dal.core.sqlite_door import SqliteDoor
from dal.core.sqlite_file import File, roll_back, translate
from dal.dal import load_catalog
from dal.digests import uuid7
from dal.errors import CorruptDatabase, DalError, Invalid, InvalidState
from dal.settings import Settings
from dal.transfer.folder import written
from dal.transfer.inventory import Table, inventory
from dal.transfer.side import Key, Range, Side
from dal.transfer.values import BadText, Checker, Digest, Form, Refused, Row, Summing, form, raw_hex

_BATCH = 500  # rows to an executemany


class SqliteSide(Side):
    """SQLite as one side of a transfer."""

    dialect = "sqlite"

    def __init__(self, settings: Settings, clock: Callable[[], datetime]) -> None:
        """Opens the file. Raises Invalid, SchemaError, CorruptDatabase, Unavailable."""
        super().__init__(settings, clock)
        self._file = File(settings)
        self._reader = self._file.take_reader()
        self._is_writing = False

    def close(self) -> None:
        if self._file.closed:
            return
        roll_back(self._reader)
        self._file.give_reader(self._reader)
        self._file.close()

    def schema(self) -> Schema:
        return Schema(SqliteDoor(self._file), load_catalog(self.settings), self.clock)

    def place(self) -> object:
        found = os.stat(self._file.path)
        return found.st_dev, found.st_ino

    def check_whole(self) -> None:
        """Raise CorruptDatabase for a damaged file."""
        with _translated():
            said = self._reader.execute("pragma quick_check(1)").fetchone()[0]
        if said != "ok":
            raise CorruptDatabase(f"{self._file.path}: {said}")

    def ask(self, sql: str, *values: Any) -> list[Any]:
        with _translated():
            return self._connection.execute(sql, values).fetchall()

    @property
    def _connection(self) -> sqlite3.Connection:
        return self._file.writer if self._is_writing else self._reader

    def flag(self, value: bool) -> Any:
        return int(value)

    @contextmanager
    def writing(self) -> Iterator[None]:
        roll_back(self._file.writer)
        with _translated():
            self._file.writer.execute(
                "pragma foreign_keys = off"
            ).fetchall()  # rows come in any order; see find_orphans
            self._file.begin_writing()
        self._is_writing = True
        try:
            yield
            self._file.commit()
        finally:
            self._is_writing = False
            roll_back(self._file.writer)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        self.ask("begin")
        self.ask("select epoch from dal_database")  # the snapshot is taken by the first read
        try:
            yield
        finally:
            roll_back(self._reader)

    @contextmanager
    def frozen(self, work: Path) -> Iterator[tuple[str, Side]]:
        """A copy in the working folder, made once; it outlives this process."""
        copy, mark = work / "snapshot.db", work / "snapshot.txt"
        if not mark.exists():
            for stale in work.glob("snapshot.db*"):
                stale.unlink()
            os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            with _translated():
                self._file.writer.execute("vacuum into ?", (str(copy),))
            place = os.open(copy, os.O_RDONLY)
            os.fsync(place)
            os.close(place)
            with written(mark) as file:
                file.write(f"{self.standing().identity} {uuid7()}".encode())
        state = mark.read_text()
        if state.split()[0] != self.standing().identity:
            raise Invalid(f"{work.parent} is an export of another database, which has not finished", path="DIR")
        with SqliteSide(self.settings.model_copy(update={"sqlite_path": copy}), self.clock) as reader:
            yield state, reader

    @contextmanager
    def alone(self) -> Iterator[None]:
        lock = f"{self._file.path}-transfer"
        place = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_ours = os.path.samestat(os.fstat(place), os.stat(lock))  # else the last one took it away just now
            except OSError:
                is_ours = False
            if not is_ours:
                raise InvalidState("another process is loading into this database", found="loading")
            yield
            with suppress(OSError):
                os.unlink(lock)
        finally:
            os.close(place)

    def beside(self) -> AbstractContextManager[None]:
        raise InvalidState("SQLite has one writer", found="one writer")

    def in_order(self, table: Table, column: str) -> str:
        return column

    def bound(self, table: Table, column: str) -> str:
        return "?"

    def shown(self, table: Table, column: str) -> str:
        return column

    def split(self, table: Table, size: int) -> list[Range]:
        if self.ask(f"select 1 from {table.name} where {' or '.join(f'{name} is null' for name in table.key)} limit 1"):
            return [Range()]  # a null is above and below nothing: no range with a bound would have the row
        try:
            return super().split(table, size)
        except CorruptDatabase:  # a key that would be a bound is not UTF-8
            return [Range()]

    # --- reading ---

    def read_where(self, table: Table, where: str, values: Sequence[Any], limit: int = -1) -> Iterator[Row]:
        names = ", ".join(column.name for column in table.columns)
        rest = f" from {table.name}{where}{self.ordered(table, limit)}"
        given = 0
        try:
            for row in self._connection.execute(f"select {names}{rest}", values):
                yield row
                given += 1
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", None) is not None:  # else it is Python's: a text is not UTF-8
                raise translate(error) from error
            yield from islice(self._read_bytes(table, rest, values), given, None)

    def _read_bytes(self, table: Table, rest: str, values: Sequence[Any]) -> Iterator[Row]:
        """The same rows, for tables with text that is not UTF-8."""
        shown = ", ".join(f"typeof({column.name}), {column.name}" for column in table.columns)
        self._connection.text_factory = bytes
        try:
            for row in self._connection.execute(f"select {shown}{rest}", values):
                yield tuple(_text(kind, value) for kind, value in zip(row[::2], row[1::2], strict=True))
        finally:
            self._connection.text_factory = str

    def checker(self, form: Form) -> Checker:
        return form.from_sqlite

    def digest(self, table: Table, rows: Range) -> Digest:
        summing = Summing()
        for _, encoded in self._encoded(table, rows):
            summing.add(encoded)
        return summing.digest

    def row_digests(self, table: Table, rows: Range) -> Iterator[tuple[Key, Digest]]:
        for row, encoded in self._encoded(table, rows):
            yield form(table).key(row), Digest.of(encoded)

    def _encoded(self, table: Table, rows: Range) -> Generator[tuple[Row, bytes], None, None]:
        """Rows and their canonical bytes; of one that cannot be moved, other bytes."""
        check, canonical = form(table).from_sqlite, form(table).canonical
        for row in self.read(table, rows):
            try:
                yield row, canonical(check(row, _ignore))
            except Refused:
                yield row, raw_hex(row).encode()

    # --- loading ---

    def load(self, form: Form, rows: Iterator[Row]) -> None:
        insert = _insert(form.table)
        bound = map(form.for_sqlite, rows)
        while first := next(bound, None):
            try:
                self._file.writer.executemany(insert, chain((first,), islice(bound, _BATCH - 1)))
            except sqlite3.Error as error:
                raise _refusal(error) from error

    def load_one(self, form: Form, row: Row) -> None:
        try:
            self._file.writer.execute(_insert(form.table), form.for_sqlite(row))
        except sqlite3.Error as error:
            raise _refusal(error) from error

    def loaded_range(self, form: Form, first: Row, last: Row) -> None:
        for text in _TERMS.get(form.table.name, ()):
            place = form.table.places()[0]
            self.ask(text, first[place], last[place])

    def drop_for_load(self) -> list[str]:
        return []

    def drop_references(self) -> list[str]:
        return []  # whoever is writing keeps none

    def references_hold(self) -> bool:
        return not self.ask("select 1 from pragma_foreign_key_check limit 1")

    def set_counters(self) -> None:
        pass  # the next number is one more than the largest there is

    def analyze(self) -> None:
        with self.writing():
            self.ask("analyze")

    def put_fence(self, *, up: bool) -> None:
        for table in inventory():
            for event in ("insert", "update", "delete"):
                name = f"dal_fence_{table.name}_{event}"
                if up:
                    self.ask(
                        f"create trigger {name} before {event} on {table.name} begin select raise(abort, "
                        "'the database is fenced: it takes no writes until dal fence off'); end"
                    )
                else:
                    self.ask(f"drop trigger if exists {name}")


class LoadingSqlite(SqliteSide):
    """SQLite as the side that is loaded: its fence is down inside each transaction that loads, for nobody else."""

    @contextmanager
    def writing(self) -> Iterator[None]:
        with super().writing():
            is_fenced = bool(self.ask("select is_fenced from dal_database")[0][0])
            if is_fenced:
                self.put_fence(up=False)
            yield
            if bool(self.ask("select is_fenced from dal_database")[0][0]):
                self.put_fence(up=False)
                self.put_fence(up=True)


def _ignore(rule: str, column: str) -> None:
    pass


def _text(kind: bytes, value: Any) -> Any:
    if kind != b"text":
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return BadText(value)


def _insert(table: Table) -> str:
    names = ", ".join(column.name for column in table.columns)
    return f"insert into {table.name} ({names}) values ({', '.join('?' * len(table.columns))})"


def _refusal(error: sqlite3.Error) -> Refused | DalError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH):
        return Refused("constraint", str(error).partition(": ")[2] or str(error))
    return translate(error)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error) from error


# --- what only SQLite has ---------------------------------------------------------------------------------------------
#
# The side tables that PostgreSQL has as GIN indexes: of each row the terms of its document, as the query that creates
# the row writes them (sql/sqlite/history.sql, checkpoints.sql, chat.sql). A test compares the two.


_TERM = """substr(n.path, 1, 200)
           || case n.type when 'object' then '{' when 'array' then '[' when 'text' then '"' || substr(n.value, 1, 64)
                          when 'integer' then '#' || n.value
                          when 'real' then '#' || case when n.value = cast(n.value as integer)
                                                       then cast(n.value as integer) else printf('%.12e', n.value) end
                          else '!' || n.type end"""


def _fill(target: str, columns: str, source: str, key: str, document: str) -> str:
    """Fill a side table from the documents of the rows, s, whose keys are between two placeholders."""
    return f"""
with recursive n (s, path, type, value) as (
    select s.rowid, '', r.type, r.value
      from {source} as s cross join json_each('[' || {document} || ']') as r
     where s.{key} >= ? and s.{key} <= ?
     union all
    select n.s, n.path || case n.type when 'array' then '[]' else '.' || json_quote(c.key) end, c.type, c.value
      from n cross join json_each(n.value) as c
     where n.type in ('object', 'array')
)
insert into {target}
select distinct {columns}
  from n cross join {source} as s on s.rowid = n.s"""


_BOTH = "json_object('metadata', json(s.metadata), 'metrics', json(s.metrics))"
_TERMS: dict[str, Sequence[str]] = {
    "executions": [
        _fill("execution_terms (workflow_id, term, started_at, execution_id)",
              f"s.workflow_id, {_TERM}, s.started_at, s.execution_id", "executions", "execution_id", "s.metadata"),
    ],
    "checkpoints": [
        _fill("checkpoint_terms (workflow_id, term, config_version)",
              f"s.workflow_id, {_TERM}, s.config_version", "checkpoints", "id", _BOTH),
    ],
    "chat_threads": [
        _fill("chat_thread_terms (owner, term, created_at, thread)",
              f"s.owner, {_TERM}, s.created_at, s.number", "chat_threads", "number", "s.metadata"),
        "insert into chat_thread_terms (owner, term, created_at, thread) "
        "select owner, '@' || workflow_id, created_at, number from chat_threads "
        "where number >= ? and number <= ? and workflow_id is not null",
    ],
}  # fmt: skip

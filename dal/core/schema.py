"""Migrations: how a database gets its schema, whether it has the one this code needs, and whether it still looks so.

``sql/<dialect>/migrations/NNNN_name.sql``, numbered from 1 without gaps, the same numbers in both dialects, forward
only. A database keeps a ledger of what it has had, with checksums. All of it blocks; asyncio callers use a thread.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

from msgspec import Struct

from dal.core.catalog import Catalog, sql_root
from dal.core.rows import Dialect
from dal.core.tokens import statements
from dal.errors import DalError, SchemaError

LOCK_SECONDS = 30.0
_FILE = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql")


class AppliedMigration(Struct, frozen=True):
    """A migration that a database has had."""

    version: int
    name: str
    sha256: str
    applied_at: datetime
    duration_ms: int
    app_version: str

    @property
    def label(self) -> str:
        """Number and name, as its file has them."""
        return f"{self.version:04}_{self.name}"


class SchemaColumn(Struct, frozen=True):
    """A column, as the database describes it. key_position: from 1 within the primary key; 0 outside."""

    table_name: str
    column_name: str
    type: str
    nullable: bool
    key_position: int


class SchemaIndex(Struct, frozen=True):
    """An index that is not a primary key. columns: as in 'workflow_id, created_at desc'."""

    table_name: str
    index_name: str
    is_unique: bool
    columns: str
    predicate: str | None
    is_valid: bool


class SchemaReference(Struct, frozen=True):
    """A foreign key."""

    table_name: str
    columns: str
    target_table: str
    target_columns: str
    on_delete: str


class ServerFacts(Struct, frozen=True):
    """What a server or library says of itself, of the database and of the session. None: it has no such thing."""

    version: str
    encoding: str
    now: datetime
    is_standby: bool
    size_bytes: int
    durability: str  # settings by name, as in 'fsync on, synchronous_commit on'
    statement_timeout_ms: int | None  # 0: no limit
    lock_timeout_ms: int
    backend_pid: int | None
    max_connections: int | None  # for ordinary roles
    connections: int | None
    oldest_transaction_at: datetime | None  # of another session, in this database


class Damage(Struct, frozen=True):
    """Something that a database itself knows to be broken."""

    kind: str
    place: str
    words: str


MODELS: Sequence[type[Struct]] = (
    AppliedMigration, SchemaColumn, SchemaIndex, SchemaReference, ServerFacts, Damage
)  # fmt: skip


class Migration(Struct, frozen=True):
    """A migration file. sha256: of its text with newlines as \\n, so that a checkout on Windows is no change."""

    version: int
    name: str
    sql: str
    sha256: str

    @property
    def label(self) -> str:
        """Number and name, as its file has them."""
        return f"{self.version:04}_{self.name}"


class Status(Struct, frozen=True):
    """Where a database stands. version: of its newest migration, 0 for none; latest: of this code's."""

    version: int
    latest: int
    applied: Sequence[AppliedMigration]
    pending: Sequence[Migration]


class Door(Protocol):
    """One blocking connection for schema work; each engine has one."""

    dialect: Any

    @property
    def session_pid(self) -> int | None: ...
    async def execute(self, query: Any, values: Any) -> Any: ...
    def run_sql(self, sql: str) -> None: ...
    def lock(self, seconds: float) -> AbstractContextManager[None]: ...
    def transaction(self) -> AbstractContextManager[None]: ...
    def scratch(self) -> AbstractContextManager[Door]: ...
    def close(self) -> None: ...


def app_version() -> str:
    """The installed version of this package."""
    try:
        return version("workflow-dal")
    except PackageNotFoundError:
        return "unknown"


def migrations(dialect: Dialect) -> list[Migration]:
    """The packaged migrations in order. Raises SchemaError for a name or number that does not fit."""
    found: list[Migration] = []
    for path in sorted((sql_root() / dialect / "migrations").glob("*.sql")):
        parts = _FILE.fullmatch(path.name)
        if not parts or int(parts["version"]) != len(found) + 1:
            raise SchemaError(f"{path} is out of order: expected {len(found) + 1:04}_name.sql")
        text = path.read_text(encoding="utf-8")
        found.append(Migration(len(found) + 1, parts["name"], text, hashlib.sha256(text.encode()).hexdigest()))
    return found


class Schema:
    """The schema of the database behind a door."""

    def __init__(self, door: Door, catalog: Catalog, clock: Callable[[], datetime]) -> None:
        self._door = door
        self._catalog = catalog
        self._q: Any = catalog.view(door)
        self._dialect: Dialect = catalog.dialect
        self._clock = clock

    def status(self) -> Status:
        """What the database has had and lacks. Raises SchemaError if its history is not this code's."""
        known = migrations(self._dialect)
        applied = _run(self._q.list_migrations()) if _run(self._q.get_migrations_table()) else []
        for number, row in enumerate(applied, 1):
            if row.version > len(known):
                newest = applied[-1]
                raise SchemaError(
                    f"the database is at migration {newest.label}, made by workflow-dal {newest.app_version}; this "
                    f"installation, {app_version()}, ends at {known[-1].label}: install a newer workflow-dal"
                )
            if row.version != number:
                raise SchemaError(
                    f"the database's ledger, dal_schema_migrations, lacks migration {known[number - 1].label}: restore "
                    "the row, or the database"
                )
            ours = known[number - 1]
            if row.name != ours.name:
                raise SchemaError(
                    f"migration {number} is {row.label} in the database and {ours.label} in this installation: they "
                    "are of different histories; check that they belong together"
                )
            if row.sha256 != ours.sha256:
                raise SchemaError(
                    f"migration {ours.label}.sql was edited after it was applied: restore the file, and put the change "
                    "into a new migration"
                )
        return Status(len(applied), len(known), applied, known[len(applied) :])

    def require(self) -> None:
        """Raise SchemaError unless the database has every migration of this code."""
        status = self.status()
        if status.pending:
            raise SchemaError(
                f"the database is at migration {status.version}, this code needs {status.latest}: run "
                "'dal schema apply', or connect with migrate=True"
            )

    def apply(self) -> list[Migration]:
        """Bring the database up to date; returns what was applied. Safe to call from many processes at once."""
        if not self.status().pending:
            return []
        with self._door.lock(LOCK_SECONDS):
            with _permitted():
                _run(self._q.create_migrations_table())
            done = []
            for migration in self.status().pending:
                with self._door.transaction(), _permitted(), _named(migration):
                    self._apply_one(migration)
                done.append(migration)
            return done

    def _apply_one(self, migration: Migration) -> None:
        begun = time.monotonic()
        for statement in statements(migration.sql, self._dialect, "", str):
            self._door.run_sql(statement.sql)
        _run(
            self._q.create_migration(
                version=migration.version,
                name=migration.name,
                sha256=migration.sha256,
                applied_at=self._clock(),
                duration_ms=round((time.monotonic() - begun) * 1000),
                app_version=app_version(),
            )
        )

    def describe(self) -> Description:
        """What the database looks like from inside."""
        return _describe(self._q)

    def build(self, sql: str) -> Description:
        """What a scratch database or schema looks like after this text; nothing of it stays."""
        with self._door.scratch() as scratch:
            for statement in statements(sql, self._dialect, "", str):
                scratch.run_sql(statement.sql)
            return _describe(self._catalog.view(scratch))

    def verify(self) -> Findings:
        """Compare the database with what the migrations it has had make. Raises SchemaError as ``status`` does."""
        status = self.status()
        if not status.version:
            return Findings([f"none of {status.latest} migrations was applied: run 'dal schema apply'"], [])
        had = migrations(self._dialect)[: status.version]
        expected = self.build(ledger_sql(self._catalog) + "".join(migration.sql for migration in had))
        found = compare(expected, self.describe())
        pending = [f"migration {each.label} is pending: run 'dal schema apply'" for each in status.pending]
        return Findings([*pending, *found.problems], found.extras)

    def facts(self) -> ServerFacts:
        """What the database says of itself."""
        facts: ServerFacts = _run(self._q.get_server_facts())
        return facts

    def damage(self) -> Sequence[Damage]:
        """What the database knows to be broken. On SQLite this reads the whole file."""
        damage: Sequence[Damage] = _run(self._q.list_damage())
        return damage

    @property
    def session_pid(self) -> int | None:
        """The server process that connecting was told of; another one than ``facts`` gives is behind a pooler."""
        return self._door.session_pid


class Description(Struct, frozen=True):
    """A schema as the database describes it."""

    columns: Sequence[SchemaColumn]
    indexes: Sequence[SchemaIndex]
    references: Sequence[SchemaReference]

    def tables(self) -> dict[str, dict[str, Struct]]:
        """The parts of every table, each by what a person would call it."""
        named: dict[str, dict[str, Struct]] = {}
        for column in self.columns:
            named.setdefault(column.table_name, {})[f"column {column.column_name}"] = column
        for index in self.indexes:
            named.setdefault(index.table_name, {})[f"index {index.index_name}"] = index
        for key in self.references:
            named.setdefault(key.table_name, {})[f"foreign key ({key.columns}) to {key.target_table}"] = key
        return named


class Findings(Struct, frozen=True):
    """problems: what is missing or different; extras: what only the database has, such as a DBA's own index."""

    problems: Sequence[str]
    extras: Sequence[str]


def compare(expected: Description, found: Description) -> Findings:
    """How a live schema differs from the one the migrations make."""
    wanted, live = expected.tables(), found.tables()
    problems = [f"table {table} is missing" for table in wanted if table not in live]
    extras = [f"table {table} is none of ours" for table in live if table not in wanted]
    for table in wanted.keys() & live.keys():
        for name, part in wanted[table].items():
            found_part = live[table].get(name)
            if found_part is None:
                problems.append(f"{table}: {name} is missing")
            elif found_part != part and not _is_invalid(found_part):
                problems.append(f"{table}: {name} differs: {_difference(part, found_part)}")
        for name, part in live[table].items():
            if name not in wanted[table]:
                extras.append(f"{table}: {name} is none of ours")
            if _is_invalid(part):
                problems.append(f"{table}: {name} is invalid, as a failed build leaves it: drop it and build it again")
    return Findings(sorted(problems), sorted(extras))


def _is_invalid(part: Struct) -> bool:
    return isinstance(part, SchemaIndex) and not part.is_valid


def _difference(wanted: Struct, live: Struct) -> str:
    fields = [name for name in wanted.__struct_fields__ if getattr(wanted, name) != getattr(live, name)]
    return ", ".join(f"{name} is {getattr(live, name)!r}, should be {getattr(wanted, name)!r}" for name in fields)


def ledger_sql(catalog: Catalog) -> str:
    """The text that makes the ledger's table, as a migration would have it."""
    return catalog.queries["create_migrations_table"].text


@contextmanager
def _permitted() -> Iterator[None]:
    """Say what to do about a role that may not change the schema."""
    try:
        yield
    except SchemaError as error:
        if _root(error).code != "42501":  # insufficient_privilege
            raise
        said = str(_root(error)).partition(": ")[2]
        raise SchemaError(
            f"the role may not change the schema: {said}; run 'dal schema apply' as the role that owns it, or grant "
            "this one CREATE on it"
        ) from error


def _root(error: DalError) -> DalError:
    """The error of ours that a driver's was made into first."""
    while isinstance(error.__cause__, DalError):
        error = error.__cause__
    return error


@contextmanager
def _named(migration: Migration) -> Iterator[None]:
    try:
        yield
    except DalError as error:
        raise SchemaError(f"migration {migration.label}.sql failed: {error.__cause__ or error}") from error


def _describe(q: Any) -> Description:
    return Description(_run(q.list_schema_columns()), _run(q.list_schema_indexes()), _run(q.list_schema_references()))


def _run(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a door's queries do not suspend")

"""Migrations: how a database gets its schema, whether it has the one this code needs, and whether it still looks so.

``sql/<dialect>/migrations/NNNN_name.sql``, numbered from 1 without gaps, the same numbers in both dialects, forward
only. A database keeps a ledger of what it has had, with checksums. All of it blocks; asyncio callers use a thread.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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


MODELS: Sequence[type[Struct]] = (AppliedMigration, SchemaColumn, SchemaIndex, SchemaReference)


class Migration(Struct, frozen=True):
    """A migration file. sha256: of its text with newlines as \\n, so that a checkout on Windows is no change."""

    version: int
    name: str
    sql: str
    sha256: str


class Status(Struct, frozen=True):
    """Where a database stands. version: of its newest migration, 0 for none; latest: of this code's."""

    version: int
    latest: int
    applied: Sequence[AppliedMigration]
    pending: Sequence[Migration]


class Door(Protocol):
    """One blocking connection for schema work; each engine has one."""

    dialect: Any

    async def execute(self, query: Any, values: Any) -> Any: ...
    def run_sql(self, sql: str) -> None: ...
    def lock(self, seconds: float) -> AbstractContextManager[None]: ...
    def transaction(self, *, scratch: bool = False) -> AbstractContextManager[None]: ...
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
        self._q: Any = catalog.view(door)
        self._dialect: Dialect = catalog.dialect
        self._clock = clock

    def status(self) -> Status:
        """What the database has had and lacks. Raises SchemaError if its history is not this code's."""
        known = migrations(self._dialect)
        applied = _run(self._q.list_migrations()) if _run(self._q.get_migrations_table()) else []
        for row in applied:
            if row.version > len(known):
                raise SchemaError(
                    f"the database is at migration {applied[-1].version} ({applied[-1].name}, by workflow-dal "
                    f"{applied[-1].app_version}), this code knows {len(known)}: install a newer workflow-dal"
                )
            ours = known[row.version - 1]
            if row.name != ours.name:
                raise SchemaError(
                    f"migration {row.version} is {row.name} in the database and {ours.name} in this code: they are of "
                    "different histories; check that the database and the installation belong together"
                )
            if row.sha256 != ours.sha256:
                raise SchemaError(
                    f"migration {ours.version:04}_{ours.name}.sql was edited after it was applied; restore the file, "
                    "and put the change into a new migration"
                )
        numbers = [row.version for row in applied]
        if numbers != list(range(1, len(numbers) + 1)):
            lost = min(set(range(1, max(numbers) + 1)) - set(numbers))
            raise SchemaError(f"the database's ledger lacks migration {lost}; restore the row, or the database")
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
            _run(self._q.create_migrations_table())
            done = []
            for migration in self.status().pending:
                with self._door.transaction(), _named(migration):
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
        return Description(
            _run(self._q.list_schema_columns()),
            _run(self._q.list_schema_indexes()),
            _run(self._q.list_schema_references()),
        )

    def build(self, sql: str) -> Description:
        """What a scratch database or schema looks like after this text; nothing of it stays."""
        with self._door.transaction(scratch=True):
            for statement in statements(sql, self._dialect, "", str):
                self._door.run_sql(statement.sql)
            return self.describe()


class Description(Struct, frozen=True):
    """A schema as the database describes it."""

    columns: Sequence[SchemaColumn]
    indexes: Sequence[SchemaIndex]
    references: Sequence[SchemaReference]

    def parts(self) -> Mapping[tuple[str, ...], Struct]:
        """Every part by a name that says where it is."""
        named: dict[tuple[str, ...], Struct] = {("column", c.table_name, c.column_name): c for c in self.columns}
        named.update({("index", i.table_name, i.index_name): i for i in self.indexes})
        named.update({("reference", r.table_name, r.columns): r for r in self.references})
        return named


class Findings(Struct, frozen=True):
    """problems: what is missing or different; extras: what only the database has, such as a DBA's own index."""

    problems: Sequence[str]
    extras: Sequence[str]


def compare(expected: Description, found: Description) -> Findings:
    """How a live schema differs from the one the migrations make."""
    wanted, live = expected.parts(), found.parts()
    problems = []
    for key, part in wanted.items():
        if key not in live:
            problems.append(f"missing {' '.join(key)}")
        elif live[key] != part:
            problems.append(f"different {' '.join(key)}: {_difference(part, live[key])}")
    extras = [f"extra {' '.join(key)}" for key in live if key not in wanted]
    problems += [
        f"index {part.index_name} on {part.table_name} is invalid: drop it and build it again"
        for key, part in live.items()
        if isinstance(part, SchemaIndex) and not part.is_valid and key not in wanted
    ]
    return Findings(problems, extras)


def _difference(wanted: Struct, live: Struct) -> str:
    fields = [name for name in wanted.__struct_fields__ if getattr(wanted, name) != getattr(live, name)]
    return ", ".join(f"{name} is {getattr(live, name)!r}, not {getattr(wanted, name)!r}" for name in fields)


def ledger_sql(catalog: Catalog) -> str:
    """The text that makes the ledger's table, as a migration would have it."""
    return catalog.queries["create_migrations_table"].text


@contextmanager
def _named(migration: Migration) -> Iterator[None]:
    try:
        yield
    except DalError as error:
        raise SchemaError(
            f"migration {migration.version:04}_{migration.name}.sql failed: {error.__cause__ or error}"
        ) from error


def _run(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a door's queries do not suspend")

"""Migrations, the ledger, and the schema as it stands: on both databases, through raw connections where somebody else's
hand is meant, and from a copy of the package where its files are."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

import dal
from dal import SchemaError, Settings
from dal.core.catalog import sql_root
from dal.core.rows import Dialect
from dal.core.schema import (
    Description,
    Migration,
    SchemaIndex,
    compare,
    ledger_sql,
    migrations,
)
from dal.dal import load_catalog, open_schema
from tests.cells import together

ROOT = Path(__file__).resolve().parents[2]
LABELS = [migration.label for migration in migrations("postgres")]
LATEST = len(LABELS)


def raw(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run SQL on a connection of the driver's own; the rows of the last statement, if it has any."""
    opened: Any = (
        sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        if url.startswith("sqlite:")
        else psycopg.connect(url, autocommit=True)
    )
    with closing(opened) as connection:
        for statement in statements:
            cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture(params=["sqlite", "postgres"])
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return request.param  # type: ignore[no-any-return]  # one of the two


@pytest.fixture
def url(dialect: Dialect, make_database: Callable[..., str]) -> str:
    """A database with the schema."""
    return make_database(dialect)


@pytest.fixture
def empty_url(dialect: Dialect, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A database without anything."""
    if dialect == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    url: str = request.getfixturevalue("postgres_url")
    raw(url, "drop schema public cascade", "create schema public")
    return url


# --- applying ---------------------------------------------------------------------------------------------------------


def test_a_fresh_database_gets_every_migration_and_a_ledger_of_them(empty_url: str, dialect: Dialect) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    with open_schema(Settings.from_url(empty_url), clock=lambda: at) as schema:
        before = schema.status()
        assert (before.version, before.latest, list(before.applied)) == (0, LATEST, [])
        assert [migration.label for migration in before.pending] == LABELS
        assert [migration.label for migration in schema.apply()] == LABELS
        after = schema.status()
        assert schema.verify().problems == []
        assert schema.verify().extras == []
    assert (after.version, list(after.pending)) == (LATEST, [])
    assert [row.label for row in after.applied] == LABELS
    for row in after.applied:
        text = (sql_root() / dialect / "migrations" / f"{row.label}.sql").read_text()
        assert row.sha256 == hashlib.sha256(text.encode()).hexdigest()
        assert row.applied_at == at
        assert 0 <= row.duration_ms < 60_000


def test_applying_again_does_nothing(url: str) -> None:
    before = raw(url, "select * from dal_schema_migrations order by version")
    assert len(before) == LATEST
    with open_schema(Settings.from_url(url)) as schema:
        assert schema.apply() == []
    assert raw(url, "select * from dal_schema_migrations order by version") == before


def test_of_eight_threads_that_apply_at_once_one_does_and_the_others_find_it_done(empty_url: str) -> None:
    def apply() -> list[Migration]:
        with open_schema(Settings.from_url(empty_url)) as schema:
            return schema.apply()

    answers = together([apply] * 8)
    assert not any(isinstance(answer, Exception) for answer in answers), answers
    assert sorted(len(answer) for answer in answers if isinstance(answer, list)) == [0] * 7 + [LATEST]
    assert raw(empty_url, "select version from dal_schema_migrations") == [(at,) for at in range(1, LATEST + 1)]


def test_of_four_processes_that_apply_at_once_one_does_and_the_others_find_it_done(empty_url: str) -> None:
    command = [sys.executable, "-m", "dal", "schema", "apply", "--url", empty_url]
    started = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    said = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * 4, said
    assert sum(out.count("applied  0001") for out, _ in said) == 1, said
    assert sum("nothing to do" in out for out, _ in said) == 3, said


def test_a_new_sqlite_file_may_be_met_by_eight_callers_at_once(tmp_path: Path) -> None:
    """Changing the journal mode does not wait by itself: before it was tried again, one call in 150 was locked out."""
    for at in range(20):
        url = f"sqlite:///{tmp_path / str(at)}.db"

        def meet(url: str = url) -> int:
            with dal.connect(url) as db:
                return db.health().schema_version

        assert together([meet] * 8) == [LATEST] * 8


def test_sqlite_is_migrated_on_connecting_unless_told_otherwise(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'fresh.db'}"
    with pytest.raises(SchemaError, match=f"at migration 0, this code needs {LATEST}: run 'dal schema apply'"):
        dal.connect(url, migrate=False)
    assert raw(url, "select name from sqlite_schema") == []
    with dal.connect(url) as db:
        assert db.health().schema_version == LATEST
    dal.connect(url, migrate=False).close()


def test_postgres_is_migrated_only_when_asked(postgres_url: str) -> None:
    raw(postgres_url, "drop schema public cascade", "create schema public")
    for migrate in (None, False):
        with pytest.raises(SchemaError, match=f"at migration 0, this code needs {LATEST}: run 'dal schema apply'"):
            dal.connect(postgres_url, migrate=migrate)
    assert raw(postgres_url, "select tablename from pg_tables where schemaname = 'public'") == []
    with dal.connect(postgres_url, migrate=True) as db:
        assert db.health().schema_version == LATEST
    dal.connect(postgres_url).close()


# --- a history that is not this code's --------------------------------------------------------------------------------


def everything_refuses(url: str, match: str) -> None:
    """Status, apply, verify and connect refuse in the same words, and change nothing."""
    before = raw(url, "select version, name, sha256 from dal_schema_migrations order by version")
    with open_schema(Settings.from_url(url)) as schema:
        for action in (schema.status, schema.require, schema.apply, schema.verify):
            with pytest.raises(SchemaError, match=match):
                action()
    for migrate in (None, True, False):
        with pytest.raises(SchemaError, match=match):
            dal.connect(url, migrate=migrate)
    assert raw(url, "select version, name, sha256 from dal_schema_migrations order by version") == before


def test_an_edited_migration_is_refused_by_name(url: str) -> None:
    raw(url, "update dal_schema_migrations set sha256 = '0123' where version = 1")
    everything_refuses(url, r"migration 0001_workflows\.sql was edited after it was applied")


def test_a_renamed_migration_is_refused_by_both_names(url: str) -> None:
    raw(url, "update dal_schema_migrations set name = 'tables' where version = 1")
    everything_refuses(url, "migration 1 is 0001_tables in the database and 0001_workflows in this installation")


def test_a_newer_database_is_refused_by_name(url: str) -> None:
    raw(
        url,
        "insert into dal_schema_migrations (version, name, sha256, applied_at, duration_ms, app_version)"
        f" select {LATEST + 1}, 'from_the_future', sha256, applied_at, 0, '9.8.7' from dal_schema_migrations"
        " where version = 1",
    )
    label = f"{LATEST + 1:04}_from_the_future"
    everything_refuses(
        url, rf"at migration {label}, made by workflow-dal 9\.8\.7; .* ends at {LABELS[-1]}: install a newer"
    )


RUN = "import sys; sys.path.insert(0, '.'); from dal.cli import main; main()"


class Copy:
    """The package in a folder of its own, whose migrations may be changed, run as a program."""

    def __init__(self, folder: Path) -> None:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "dal", folder / "dal", ignore=ignored)
        shutil.copytree(sql_root(), folder / "sql", ignore=ignored, dirs_exist_ok=True)
        self.folder = folder

    def migration(self, dialect: Dialect, name: str) -> Path:
        return self.folder / "sql" / dialect / "migrations" / name

    def add(self, name: str, sql: str) -> None:
        """A migration more, in both dialects, since their numbers are the same."""
        for dialect in ("postgres", "sqlite"):
            self.migration(dialect, name).write_text(sql)

    def run(self, *arguments: str) -> tuple[int, str]:
        """Exit status, and what was printed on both streams."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("DAL_", "PYTHON"))}
        done = subprocess.run(
            [sys.executable, "-P", "-c", RUN, *arguments],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "copy")


NEXT = f"{LATEST + 1:04}_notes"
NEXT_SQL = "create table notes (id bigint not null, body text not null, constraint notes_pkey primary key (id));\n"


def test_a_new_migration_is_pending_until_it_is_applied_and_then_too_new_for_this_code(
    url: str, dialect: Dialect, copy: Copy
) -> None:
    copy.add(f"{NEXT}.sql", NEXT_SQL if dialect == "postgres" else NEXT_SQL.replace("bigint", "integer"))
    status, said = copy.run("schema", "status", "--url", url)
    assert (status, f"migration {LATEST} of {LATEST + 1}" in said, f"pending  {NEXT}" in said) == (0, True, True), said
    status, said = copy.run("schema", "verify", "--url", url)
    assert (status, f"problem  migration {NEXT} is pending: run 'dal schema apply'" in said) == (1, True), said
    assert said.count("problem  ") == 1, said
    status, said = copy.run("schema", "apply", "--url", url)
    assert (status, f"applied  {NEXT}" in said) == (0, True), said
    status, said = copy.run("schema", "verify", "--url", url)
    assert (status, "as its migrations make it" in said) == (0, True), said
    everything_refuses(url, f"at migration {NEXT}, .*: install a newer workflow-dal")


def test_a_migration_that_fails_is_named_and_leaves_nothing_of_itself(url: str, copy: Copy) -> None:
    copy.add(f"{NEXT}.sql", "create table half (id text);\ninsert into nowhere values (1);\n")
    status, said = copy.run("schema", "apply", "--url", url)
    assert (status, f"migration {NEXT}.sql failed" in said, "nowhere" in said) == (1, True, True), said
    tables = "sqlite_schema where name" if url.startswith("sqlite:") else "pg_tables where tablename"
    assert raw(url, f"select 1 from {tables} = 'half'") == []
    with open_schema(Settings.from_url(url)) as schema:
        assert schema.status().version == LATEST
        assert schema.verify().problems == []


def test_a_lost_row_of_the_ledger_is_named(url: str, copy: Copy) -> None:
    copy.add(f"{NEXT}.sql", NEXT_SQL.replace("bigint", "integer"))
    assert copy.run("schema", "apply", "--url", url)[0] == 0
    raw(url, "delete from dal_schema_migrations where version = 1")
    status, said = copy.run("schema", "status", "--url", url)
    assert (status, "ledger, dal_schema_migrations, lacks migration 0001_workflows" in said) == (1, True), said


def test_a_missing_or_misnamed_file_is_refused_by_name(url: str, dialect: Dialect, copy: Copy) -> None:
    last = copy.migration(dialect, f"{LABELS[-1]}.sql")
    gone = last.rename(last.with_name(f"{LATEST + 1:04}_later.sql"))
    status, said = copy.run("schema", "status", "--url", url)
    assert (status, f"{gone.name} is out of order: expected {LATEST:04}_name.sql" in said) == (1, True), said
    gone.rename(last.with_name(f"{LATEST}_short.sql"))
    status, said = copy.run("schema", "status", "--url", url)
    assert (status, f"{LATEST}_short.sql is out of order: expected {LATEST:04}_name.sql" in said) == (1, True), said


def test_line_ends_of_another_system_are_no_edit(url: str, dialect: Dialect, copy: Copy) -> None:
    first = copy.migration(dialect, "0001_workflows.sql")
    first.write_bytes(first.read_bytes().replace(b"\n", b"\r\n"))
    assert copy.run("schema", "verify", "--url", url)[0] == 0
    first.write_bytes(first.read_bytes() + b"-- a thought\r\n")
    status, said = copy.run("schema", "verify", "--url", url)
    assert (status, "0001_workflows.sql was edited" in said) == (1, True), said


# --- what the schema is -----------------------------------------------------------------------------------------------


def built(url: str, text: str) -> Description:
    with open_schema(Settings.from_url(url)) as schema:
        return schema.build(text)


def from_migrations(url: str, dialect: Dialect) -> Description:
    ledger = ledger_sql(load_catalog(Settings.from_url(url)))
    return built(url, ledger + "".join(migration.sql for migration in migrations(dialect)))


def test_schema_sql_is_what_the_migrations_make(url: str, dialect: Dialect) -> None:
    expected = from_migrations(url, dialect)
    assert len(expected.tables()) >= 7, expected.tables().keys()
    found = compare(expected, built(url, (sql_root() / dialect / "schema.sql").read_text()))
    assert (found.problems, found.extras) == ([], [])


def test_building_leaves_nothing_behind(url: str, dialect: Dialect) -> None:
    catalogue = "sqlite_schema" if dialect == "sqlite" else "pg_namespace"
    before = raw(url, f"select * from {catalogue}")
    from_migrations(url, dialect)
    assert raw(url, f"select * from {catalogue}") == before


# What each type of PostgreSQL is in a STRICT table; checks beside a column narrow it there.
TYPES = {
    "uuid": "text",
    "jsonb": "text",
    "timestamp with time zone": "text",
    "text": "text",
    "bigint": "integer",
    "boolean": "integer",
    "double precision": "real",
    "bytea": "blob",
}


# What documents are found by, where a filter asks what they contain: an index on PostgreSQL, a table on SQLite.
CONTAINMENT = {"executions_metadata_idx": "execution_terms"}


def logical(index: SchemaIndex) -> tuple[str, bool, str, str]:
    """An index without its name, the predicate as PostgreSQL would write it."""
    predicate = re.sub(r"[()]|::text", "", index.predicate or "").lower()
    predicate = re.sub(r"^(\w+) = 0$", r"not \1", re.sub(r"^(\w+) = 1$", r"\1", predicate))
    return index.table_name, index.is_unique, index.columns, predicate


def test_both_dialects_have_the_same_schema(sqlite_url: str, postgres_url: str) -> None:
    ours, theirs = from_migrations(sqlite_url, "sqlite"), from_migrations(postgres_url, "postgres")
    assert set(CONTAINMENT.values()) == ours.tables().keys() - theirs.tables().keys()
    ours = replace(ours, columns=[c for c in ours.columns if c.table_name not in CONTAINMENT.values()])
    found_by = {index.index_name for index in theirs.indexes if index.index_name in CONTAINMENT}
    assert found_by == CONTAINMENT.keys()
    theirs = replace(theirs, indexes=[i for i in theirs.indexes if i.index_name not in CONTAINMENT])

    assert sorted(map(str, ours.columns)) == sorted(str(replace(c, type=TYPES[c.type])) for c in theirs.columns)
    # A unique constraint is an index without a name of its own on SQLite.
    named = {index.index_name: logical(index) for index in ours.indexes if not index.index_name.startswith("sqlite_")}
    assert named == {i.index_name: logical(i) for i in theirs.indexes if i.index_name in named}
    assert sorted(map(logical, ours.indexes)) == sorted(map(logical, theirs.indexes))
    assert len(named) >= 10, named
    assert sorted(map(str, ours.references)) == sorted(map(str, theirs.references))
    assert len(ours.references) >= 7, ours.references


# --- verify -----------------------------------------------------------------------------------------------------------


def findings(url: str) -> tuple[list[str], list[str]]:
    with open_schema(Settings.from_url(url)) as schema:
        found = schema.verify()
    return list(found.problems), list(found.extras)


REWRITE = "update sqlite_schema set sql = replace(sql, {}) where name = '{}'"
DAMAGES = [
    pytest.param(
        ["drop index runs_version_idx"], ["drop index runs_version_idx"],
        "runs: index runs_version_idx is missing", id="index",
    ),
    pytest.param(
        ["alter table workflow_versions drop column notes"], ["alter table workflow_versions drop column notes"],
        "workflow_versions: column notes is missing", id="column",
    ),
    pytest.param(["drop table run_events"], ["drop table run_events"], "table run_events is missing", id="table"),
    pytest.param(
        ["alter table runs alter triggered_by drop not null"],
        ["pragma writable_schema = on",
         REWRITE.format("'triggered_by     text    not null', 'triggered_by text'", "runs")],
        "runs: column triggered_by differs: nullable is True, should be False", id="nullable",
    ),
    pytest.param(
        ["alter table runs alter attempt type integer"],
        ["pragma writable_schema = on", REWRITE.format("'attempt          integer', 'attempt real'", "runs")],
        "runs: column attempt differs: type is '.*', should be '(bigint|integer)'", id="type",
    ),
    pytest.param(
        ["drop index runs_idempotency_key",
         "create index runs_idempotency_key on runs (workflow_id, idempotency_key) where idempotency_key is not null"],
        ["drop index runs_idempotency_key",
         "create index runs_idempotency_key on runs (workflow_id, idempotency_key) where idempotency_key is not null"],
        "runs: index runs_idempotency_key differs: is_unique is False, should be True", id="unique",
    ),
    pytest.param(
        ["drop index workflows_created_idx", "create index workflows_created_idx on workflows (created_at, id desc)"],
        ["drop index workflows_created_idx", "create index workflows_created_idx on workflows (created_at, id desc)"],
        "workflows: index workflows_created_idx differs: columns is 'created_at, id desc', should be "
        "'created_at desc, id desc'", id="direction",
    ),
    pytest.param(
        ["alter table run_events drop constraint run_events_run_fkey"],
        ["pragma writable_schema = on",
         REWRITE.format(
             "'constraint run_events_run_fkey foreign key (run_id) references runs (id) on delete cascade,', ''",
             "run_events")],
        r"run_events: foreign key \(run_id\) to runs is missing", id="foreign key",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("on_postgres", "on_sqlite", "problem"), DAMAGES)
def test_verify_finds_what_was_changed(
    url: str, dialect: Dialect, on_postgres: list[str], on_sqlite: list[str], problem: str
) -> None:
    assert findings(url) == ([], [])
    raw(url, *(on_postgres if dialect == "postgres" else on_sqlite))
    problems, _ = findings(url)
    assert len(problems) == 1, problems
    assert re.fullmatch(problem, problems[0]), problems


def test_verify_finds_an_invalid_index_of_ours(postgres_url: str) -> None:
    raw(postgres_url, "update pg_index set indisvalid = false where indexrelid = 'runs_version_idx'::regclass")
    problems, _ = findings(postgres_url)
    assert problems == [
        "runs: index runs_version_idx is invalid, as a failed build leaves it: drop it and build it again"
    ]


def test_verify_finds_what_a_failed_concurrent_build_left(postgres_url: str) -> None:
    with dal.connect(postgres_url) as db:
        for name in ("one", "two"):
            db.workflows.create(name, actor="test")
    with pytest.raises(psycopg.errors.UniqueViolation):
        raw(postgres_url, "create unique index concurrently my_idx on workflows (created_by)")
    problems, extras = findings(postgres_url)
    assert problems == [
        "workflows: index my_idx is invalid, as a failed build leaves it: drop it and build it again"
    ], problems
    assert extras == ["workflows: index my_idx is none of ours"]


def test_what_only_the_database_has_is_reported_and_accepted(url: str, dialect: Dialect) -> None:
    raw(
        url,
        "create index my_idx on runs (lower(error), name desc) where name is not null",
        "create index my_other_idx on runs (lower(name))",
        "create table mine (id text primary key, other text unique)",
        "alter table workflows add column my_note text",
        "create view my_view as select * from runs",
    )
    problems, extras = findings(url)
    assert problems == []
    assert extras == [
        "runs: index my_idx is none of ours",
        "runs: index my_other_idx is none of ours",
        "table mine is none of ours",
        "workflows: column my_note is none of ours",
    ]
    with dal.connect(url) as db:
        assert db.workflows.create("Beside them", actor="test").revision == 1


def test_verify_of_an_empty_database_says_what_to_run(empty_url: str) -> None:
    problems, extras = findings(empty_url)
    assert problems == [f"none of {LATEST} migrations was applied: run 'dal schema apply'"]
    assert extras == []


# --- roles ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def role(postgres_url: str) -> Iterator[str]:
    """A role that may do nothing yet."""
    name = f"role_{secrets.token_hex(6)}"
    raw(postgres_url, f"create role {name}")
    yield name
    raw(postgres_url, f"drop owned by {name}", f"drop role {name}")


def acting(url: str, role: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}options=-c%20role%3D{role}"


def test_a_role_that_may_not_create_is_told_what_to_do(postgres_url: str, role: str) -> None:
    raw(postgres_url, "drop schema public cascade", "create schema public", f"grant usage on schema public to {role}")
    for attempt in (
        lambda: dal.connect(acting(postgres_url, role), migrate=True),
        lambda: apply_to(acting(postgres_url, role)),
    ):
        with pytest.raises(
            SchemaError,
            match=r"the role may not change the schema: permission denied for schema public .*; run 'dal schema apply'",
        ):
            attempt()


def apply_to(url: str) -> None:
    with open_schema(Settings.from_url(url)) as schema:
        schema.apply()


def test_a_role_that_may_only_read_and_write_can_serve(postgres_url: str, role: str) -> None:
    raw(
        postgres_url,
        f"grant usage on schema public to {role}",
        f"grant select, insert, update, delete on all tables in schema public to {role}",
    )
    with dal.connect(acting(postgres_url, role), migrate=True) as db:  # nothing pending: nothing to be allowed
        assert db.workflows.create("Served", actor="test").name == "Served"


def test_verify_without_the_right_to_make_a_schema_says_which_right(postgres_url: str, role: str) -> None:
    raw(
        postgres_url,
        f"grant usage on schema public to {role}",
        f"grant select on dal_schema_migrations to {role}",
    )
    with pytest.raises(SchemaError, match="the role may make none: grant it CREATE on the database"):
        findings(acting(postgres_url, role))
    database = raw(postgres_url, "select current_database()")[0][0]
    raw(postgres_url, f"grant create on database {database} to {role}")
    assert findings(acting(postgres_url, role)) == ([], [])


def test_a_role_that_may_not_read_the_ledger_is_told_so(postgres_url: str, role: str) -> None:
    raw(postgres_url, f"grant usage on schema public to {role}")
    with pytest.raises(SchemaError, match="permission denied for table dal_schema_migrations"):
        dal.connect(acting(postgres_url, role))


def test_a_search_path_without_a_schema_is_told_as_such(postgres_url: str) -> None:
    url = f"{postgres_url}{'&' if '?' in postgres_url else '?'}options=-c%20search_path%3Dnowhere"
    with pytest.raises(SchemaError, match="no schema has been selected to create in"):
        dal.connect(url, migrate=True)


# --- what a database says of itself -----------------------------------------------------------------------------------


def test_facts_are_those_of_the_database(url: str, dialect: Dialect) -> None:
    with open_schema(Settings.from_url(url)) as schema:
        before = datetime.now(UTC)
        facts = schema.facts()
        assert abs((facts.now - before).total_seconds()) < 60
        assert facts.size_bytes > 50_000
        assert facts.encoding in ("UTF-8", "UTF8")
        assert not facts.is_standby
        assert schema.session_pid == facts.backend_pid
    if dialect == "sqlite":
        assert facts.version == sqlite3.sqlite_version
        assert (facts.durability, facts.lock_timeout_ms) == ("journal_mode wal, synchronous 2", 20)
        assert (facts.max_connections, facts.connections, facts.statement_timeout_ms) == (None, None, None)
    else:
        (version,) = raw(url, "show server_version")[0]
        assert facts.version == version
        assert (facts.statement_timeout_ms, facts.lock_timeout_ms) == (30_000, 5_000)
        assert (facts.connections or 0) >= 1
        assert (facts.max_connections or 0) >= 10


def test_an_open_transaction_is_seen(postgres_url: str) -> None:
    with open_schema(Settings.from_url(postgres_url)) as schema, psycopg.connect(postgres_url) as other:
        assert schema.facts().oldest_transaction_at is None
        (began,) = other.execute("select now()").fetchone() or (None,)
        assert schema.facts().oldest_transaction_at == began


def test_damage_is_found(url: str, dialect: Dialect) -> None:
    with open_schema(Settings.from_url(url)) as schema:
        assert list(schema.damage()) == []
    if dialect == "sqlite":
        run_event = "insert into run_events values ('none', 1, 'me', 'did', '2026-01-01T00:00:00.000000Z', '{}')"
        raw(url, "pragma foreign_keys = off", run_event)
        expected = [("reference", "run_events", "names a row of runs that is not there")]
    else:
        raw(
            url,
            "alter table runs add constraint my_check check (attempt > 0) not valid",
            "update pg_index set indisvalid = false where indexrelid = 'runs_version_idx'::regclass",
        )
        expected = [
            ("constraint", "my_check of runs", "was never validated"),
            ("index", "runs_version_idx", "is invalid, as a failed build leaves it"),
        ]
    with open_schema(Settings.from_url(url)) as schema:
        assert [(each.kind, each.place, each.words) for each in schema.damage()] == expected

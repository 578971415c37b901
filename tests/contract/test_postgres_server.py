"""A PostgreSQL server as the world has it: who is let in, what a DBA has set, what is missing, what does not answer."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID

import psycopg
import pytest
from msgspec import Struct
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import dal
from dal import (
    Closed,
    Dal,
    DalError,
    Overloaded,
    Page,
    ReadOnly,
    SchemaError,
    Settings,
    Sync,
    Unavailable,
)
from tests.cells import Face, Loop, open_db
from tests.server import Server, installations

pytestmark = pytest.mark.skipif(18 not in installations(), reason="no PostgreSQL 18: install the dev extra")

PASSWORD = "hunter2-and-3"
NOW = datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)


def postgres(dsn: str, **overrides: Any) -> Settings:
    return Settings(backend="postgres", postgres_dsn=dsn, **overrides)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of this module's own: what a DBA may do to it is no other test's business."""
    with Server.start(18) as server:
        dal.connect(server.create_database("template_dal"), migrate=True).close()
        sql(
            server.dsn(),
            "set password_encryption = 'scram-sha-256'",
            f"create role guarded login password '{PASSWORD}'",
            "create role plain login",
        )
        rules = [
            "local all all trust",
            "host all guarded 127.0.0.1/32 scram-sha-256",
            "host all all 127.0.0.1/32 trust",
        ]
        path = sql(server.dsn(), "show hba_file")
        sql(server.dsn(), f"copy (select unnest(array{rules})) to '{path}'", "select pg_reload_conf()")
        yield server


def sql(dsn: str, *statements: str) -> Any:
    """Run statements; the first value of the last one's first row."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
        return (cursor.fetchone() or [None])[0] if cursor.description else None


@pytest.fixture
def dsn(server: Server) -> Iterator[str]:
    """A database with the schema."""
    yield server.create_database("life", "template_dal")
    server.drop_database("life")


def as_role(dsn: str, role: str, password: str | None = None) -> str:
    secret = "" if password is None else ":" + quote(password, safe="")
    return dsn.replace("://postgres@", f"://{role}{secret}@")


# --- the same life everywhere -----------------------------------------------------------------------------------------


def plain(value: object) -> object:
    """An answer without its ids, in a form that is equal only if types are too."""
    if isinstance(value, UUID):
        return "an id"
    if isinstance(value, Page):
        return [plain(item) for item in value.items], value.next is not None
    if isinstance(value, Struct):
        return type(value).__name__, {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, DalError):
        return type(value).__name__, re.sub("[0-9a-f-]{36}", "an id", str(value))
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return type(value).__name__, repr(value)


def life(db: Dal[Sync]) -> list[object]:
    """What a workflow goes through, answer by answer."""
    answers: list[object] = []

    def ask(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            answer = call(*args, **kwargs)
        except DalError as error:
            answer = error
        answers.append(plain(answer))
        return answer

    document = {
        "floats": [0.1, 1 / 3, 1e16, -0.0, 5e-324, 1.5e300],
        "ints": [2**53 + 1, -(2**63)],
        "é\\'": "\\u0000 \\ '",
    }
    workflow = ask(
        db.workflows.create, "Straße \\ ' 日本", actor="ann", handle="life", tags=["İ", "\\"], chat_config=document
    )
    ask(db.workflows.create, "other", actor="ann", handle="LIFE")
    ask(db.workflows.update, workflow.id, actor="ann", description="it's \\n", expected_revision=1)
    ask(db.workflows.update, workflow.id, actor="ann", description=None, expected_revision=1)
    ask(db.workflows.publish, workflow.id, actor="ann", require_login=True)
    for number in range(3):
        ask(db.versions.create, workflow.id, {"number": number, **document}, actor="ann", notes="\\")
    ask(db.versions.diff, workflow.id, 1, 2)
    run = ask(db.runs.create, workflow.id, actor="ann", inputs=document, idempotency_key="\\'k")
    ask(db.runs.create, workflow.id, actor="ann", inputs={}, idempotency_key="\\'k")
    ask(db.runs.succeed, run.id, actor="ann")
    ask(db.runs.start, run.id, actor="ann")
    ask(db.runs.succeed, run.id, document, actor="ann")
    with contextlib.suppress(KeyError), db.transaction() as tx:
        ask(tx.workflows.archive, workflow.id, actor="ann")
        with tx.transaction():
            ask(tx.runs.create, workflow.id, actor="ann")
        raise KeyError
    ask(db.transact, lambda tx: tx.runs.cancel(tx.runs.create(workflow.id, actor="ann").id, "no\\", actor="ann"))
    with db.transaction(read_only=True) as tx:
        ask(tx.workflows.resolve, "life")
        ask(tx.runs.list, workflow.id, limit=1)
        ask(tx.workflows.list, tag="\\")
    ask(db.workflows.events, workflow.id, limit=3)
    ask(db.runs.events, run.id)
    return answers


@pytest.fixture(scope="module")
def told() -> list[object]:
    """The life as SQLite has it."""
    with dal.connect("sqlite:///:memory:", clock=lambda: NOW) as db:
        return life(db)


def lived(settings: Settings, migrate: bool | None = None) -> list[object]:
    with dal.connect(settings, migrate=migrate, clock=lambda: NOW) as db:
        return life(db)


@pytest.mark.parametrize("version", [version for version in installations() if version >= 14])
def test_every_server_version_found_here_answers_as_sqlite_does(
    version: int, server: Server, told: list[object]
) -> None:
    with contextlib.nullcontext(server) if version == server.version else Server.start(version) as one:
        dsn = one.create_database(f"on_{version}")
        assert sql(dsn, "show server_version").startswith(str(version))
        assert lived(postgres(dsn), migrate=True) == told


HOSTILE = {
    "DateStyle": "German",
    "TimeZone": "Asia/Kolkata",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "0",
    "standard_conforming_strings": "off",
    "backslash_quote": "off",
    "escape_string_warning": "off",
    "client_encoding": "LATIN1",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "lock_timeout": "1ms",
    "statement_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "row_security": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "plan_cache_mode": "force_generic_plan",
    "enable_indexscan": "off",
    "synchronous_commit": "off",
    "xmloption": "document",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_setting_of_the_database_changes_no_answer(name: str, server: Server, dsn: str, told: list[object]) -> None:
    sql(dsn, f"alter database life set {name} = '{HOSTILE[name]}'")
    assert name.lower() in str(sql(server.dsn(), "select array_agg(setconfig) from pg_db_role_setting")).lower()
    assert lived(postgres(dsn)) == told


def test_all_those_settings_together_on_a_role_change_no_answer_either(server: Server, told: list[object]) -> None:
    dsn = server.create_database("hostile", "template_dal")
    sql(
        dsn, "create role hostile login superuser", *(f"alter role hostile set {n} = '{v}'" for n, v in HOSTILE.items())
    )
    assert lived(postgres(as_role(dsn, "hostile"))) == told


def test_behind_a_pooler_where_nothing_can_be_set_a_fatal_setting_is_refused_by_name(
    dsn: str, told: list[object]
) -> None:
    """No pgbouncer here: the profile for it sends no settings, and that is what counts."""
    sql(dsn, "alter database life set client_encoding = 'LATIN1'")
    assert lived(postgres(dsn, postgres_pooler="pgbouncer")) == told
    sql(dsn, "alter database life set DateStyle = 'German'")
    with pytest.raises(SchemaError, match="DateStyle is 'German, DMY'"):
        dal.connect(postgres(dsn, postgres_pooler="pgbouncer"))


def test_creates_at_once_get_on_under_a_strict_default_isolation(dsn: str) -> None:
    sql(dsn, "alter database life set default_transaction_isolation = 'serializable'")
    with dal.connect(postgres(dsn)) as db, ThreadPoolExecutor(8) as threads:
        workflow = db.workflows.create("w", actor="ann").id
        made = list(threads.map(lambda _: db.versions.create(workflow, {}, actor="ann").number, range(40)))
    assert sorted(made) == list(range(1, 41))


def test_a_search_path_of_the_dbas_own_leads_to_the_schema_that_is_used(server: Server, told: list[object]) -> None:
    dsn = server.create_database("own_schema")
    sql(dsn, "create schema warehouse", "alter database own_schema set search_path = warehouse, public")
    assert lived(postgres(dsn), migrate=True) == told
    assert (
        sql(dsn, "select string_agg(distinct schemaname, ',') from pg_tables where tablename ~ 'runs|dal_'")
        == "warehouse"
    )
    with dal.connect(postgres(dsn)) as db:
        assert len(db.workflows.list().items) == 1


def test_two_schemas_of_one_database_are_two_databases(server: Server, told: list[object]) -> None:
    dsn = server.create_database("two_schemas")
    sql(dsn, "create schema blue", "create schema green")
    for schema in ("blue", "green"):
        assert lived(postgres(f"{dsn}?options=-csearch_path%3D{schema}"), migrate=True) == told


def test_a_database_set_to_read_only_is_read_and_refuses_writes_by_name(dsn: str) -> None:
    with dal.connect(postgres(dsn)) as db:
        workflow = db.workflows.create("w", actor="ann")
    sql(dsn, "alter database life set default_transaction_read_only = on")
    with dal.connect(postgres(dsn)) as db:
        assert db.workflows.get(workflow.id) == workflow
        writes: Sequence[Callable[[], object]] = (
            lambda: db.workflows.create("x", actor="ann"),
            lambda: db.workflows.archive(workflow.id, actor="ann"),
            lambda: db.transact(lambda tx: tx.workflows.archive(workflow.id, actor="ann")),
        )
        for write in writes:
            with pytest.raises(ReadOnly) as caught:
                write()
            assert caught.value.code == "25006"
        assert db.workflows.get(workflow.id) == workflow


def test_a_migration_of_a_read_only_database_is_refused_by_name(server: Server) -> None:
    dsn = server.create_database("read_only_and_empty")
    sql(dsn, "alter database read_only_and_empty set default_transaction_read_only = on")
    with pytest.raises(ReadOnly):
        dal.connect(postgres(dsn), migrate=True)


# --- what is missing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
def test_a_database_that_does_not_keep_utf8_is_refused(encoding: str, server: Server) -> None:
    name = f"in_{encoding.lower()}"
    sql(server.dsn(), f"create database {name} template template0 encoding '{encoding}' locale 'C'")
    with pytest.raises(SchemaError, match=f"encoding is {encoding}; make one with ENCODING 'UTF8'"):
        dal.connect(postgres(server.dsn(name)), migrate=True)
    assert sql(server.dsn(name), "select count(*) from pg_tables where schemaname = 'public'") == 0


def test_a_role_that_may_not_create_is_told_what_is_missing(server: Server) -> None:
    dsn = server.create_database("bare")
    with pytest.raises(SchemaError, match="permission denied for schema public"):
        dal.connect(postgres(as_role(dsn, "plain")), migrate=True)
    with pytest.raises(SchemaError, match="dal schema apply"):
        dal.connect(postgres(as_role(dsn, "plain")))


@pytest.mark.parametrize("table", ["runs", "workflow_tags", "workflow_events", "dal_schema_migrations"])
def test_a_role_that_may_not_read_a_table_is_told_which(table: str, dsn: str) -> None:
    sql(dsn, "grant all on all tables in schema public to plain", f"revoke all on {table} from plain")
    with pytest.raises(SchemaError, match=f"permission denied for table {table}") as caught:
        lived_as_plain(dsn)
    assert caught.value.code == "42501"


def lived_as_plain(dsn: str) -> None:
    with dal.connect(postgres(as_role(dsn, "plain"))) as db:
        workflow = db.workflows.create("w", actor="ann")
        db.runs.list(workflow.id)


def test_a_role_with_the_four_rights_on_the_tables_and_no_more_is_enough(dsn: str, told: list[object]) -> None:
    sql(dsn, "grant select, insert, update, delete on all tables in schema public to plain")
    assert lived(postgres(as_role(dsn, "plain"))) == told


def test_a_search_path_to_nowhere_is_a_schema_error(server: Server) -> None:
    dsn = server.create_database("lost")
    sql(dsn, "alter database lost set search_path = nowhere")
    with pytest.raises(SchemaError):
        dal.connect(postgres(dsn), migrate=True)


def test_a_table_dropped_under_a_running_program_is_a_schema_error_that_names_it(dsn: str) -> None:
    with dal.connect(postgres(dsn)) as db:
        workflow = db.workflows.create("w", actor="ann")
        db.runs.list(workflow.id)
        sql(dsn, "drop table runs cascade")
        with pytest.raises(SchemaError, match='relation "runs" does not exist') as caught:
            db.runs.list(workflow.id)
        assert (caught.value.query, caught.value.code) == ("list_runs", "42P01")
        assert db.workflows.get(workflow.id) == workflow


# --- who is let in ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def port(*, listening: bool) -> Iterator[int]:
    """A port nobody answers at: closed, or open without anybody who speaks."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        if listening:
            deaf.listen(8)
        yield deaf.getsockname()[1]


def everything_said(error: BaseException, log: str) -> str:
    """All that an error could show to anybody: itself, what it stems from, and the log."""
    chain: list[BaseException] = [error]
    while following := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(following)
    shown = "".join(f"{link!s}{link!r}{link.args}{vars(link) if isinstance(link, DalError) else ''}" for link in chain)
    return shown + "".join(traceback.format_exception(error)) + log


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Everything that any logger says, psycopg's own whispers too."""
    for name in ("", "psycopg", "psycopg.pool", "dal"):
        caplog.set_level(logging.DEBUG, logger=name)
    return caplog


REFUSALS: dict[str, tuple[Callable[[str], str], str]] = {
    "wrong password": (lambda dsn: as_role(dsn, "guarded", PASSWORD + "x"), "password authentication failed"),
    "no password": (lambda dsn: as_role(dsn, "guarded"), "no password supplied"),
    "no such role": (lambda dsn: as_role(dsn, "stranger", PASSWORD), 'role "stranger" does not exist'),
    "no such database": (
        lambda dsn: as_role(dsn, "guarded", PASSWORD).replace("/life", "/none"),
        'database "none" does',
    ),
    "no TLS": (lambda dsn: as_role(dsn, "guarded", PASSWORD) + "?sslmode=require", "server does not support SSL"),
    "no such host": (lambda dsn: f"postgresql://guarded:{PASSWORD}@no.such.host.invalid/life", "no.such.host.invalid"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_whoever_is_not_let_in_learns_why_and_nobody_learns_the_password(
    case: str, dsn: str, log: pytest.LogCaptureFixture
) -> None:
    change, says = REFUSALS[case]
    begun = time.monotonic()
    with pytest.raises(Unavailable, match=says) as caught:
        dal.connect(postgres(change(dsn)))
    assert time.monotonic() - begun < 3
    assert log.records, "the log is not being watched"
    assert PASSWORD not in everything_said(caught.value, log.text)


def test_the_right_password_is_said_nowhere_either(dsn: str, log: pytest.LogCaptureFixture) -> None:
    sql(dsn, "grant all on dal_schema_migrations to guarded")
    with dal.connect(postgres(as_role(dsn, "guarded", PASSWORD))) as db:
        with pytest.raises(SchemaError) as caught:
            db.workflows.list()
        shown = f"{db!r}{db.settings!r}{db.settings}{db.health()!r}{vars(db)}"
    assert PASSWORD not in shown + everything_said(caught.value, log.text)


@pytest.mark.parametrize("listening", [False, True], ids=["closed", "deaf"])
def test_a_port_nobody_answers_at_is_unavailable_within_the_connect_timeout(
    listening: bool, log: pytest.LogCaptureFixture
) -> None:
    with port(listening=listening) as number:
        begun = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            dal.connect(
                postgres(f"postgresql://guarded:{PASSWORD}@127.0.0.1:{number}/life", postgres_connect_timeout=2)
            )
        waited = time.monotonic() - begun
    assert waited < 3, f"{waited:.1f} s"
    assert PASSWORD not in everything_said(caught.value, log.text)


def test_a_dsn_may_be_a_url_or_pairs_over_tcp_or_a_socket(server: Server, told: list[object]) -> None:
    name = "it's a \\ name"
    for make in (server.dsn, server.socket_dsn):
        server.create_database(name, "template_dal")
        url = make(name)
        pairs = make_conninfo("", **conninfo_to_dict(url))
        assert "://" not in pairs
        assert lived(postgres(url)) == told
        with dal.connect(postgres(pairs)) as db:
            assert len(db.workflows.list().items) == 1
        server.drop_database(name)


def test_the_next_host_is_tried_when_the_first_is_dead(dsn: str) -> None:
    with port(listening=False) as number:
        several = dsn.replace("@127.0.0.1:", f"@127.0.0.1:{number},127.0.0.1:")
        with dal.connect(postgres(several)) as db:
            assert db.health().schema_version > 0


# --- what does not answer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "code"), [("postgres_lock_timeout", "55P03"), ("postgres_statement_timeout", "57014")]
)
def test_a_statement_waits_as_long_as_its_limit_says(limit: str, code: str, dsn: str) -> None:
    with dal.connect(postgres(dsn, **{limit: "200ms"})) as db, psycopg.connect(dsn) as other:
        workflow = db.workflows.create("w", actor="ann")
        other.execute("select 1 from workflows for update")
        calls: Sequence[Callable[[], object]] = (
            lambda: db.workflows.archive(workflow.id, actor="ann"),
            lambda: db.versions.create(workflow.id, {}, actor="ann"),
            lambda: db.transact(lambda tx: tx.workflows.archive(workflow.id, actor="ann")),
        )
        for call in calls:
            begun = time.monotonic()
            with pytest.raises(Unavailable) as caught:
                call()
            waited = time.monotonic() - begun
            assert (type(caught.value), caught.value.code) == (Unavailable, code)
            assert 0.15 < waited < 2, f"{waited:.2f} s"
        other.rollback()
        assert db.workflows.archive(workflow.id, actor="ann").is_archived


@pytest.fixture(params=["sync", "async"])
def narrow(request: pytest.FixtureRequest, dsn: str, loop: Loop) -> Iterator[Dal[Sync]]:
    """A database with a pool of one connection, for which two callers may wait, half a second."""
    limits: dict[str, Any] = {
        "postgres_pool_max_size": 1,
        "postgres_pool_timeout": "500ms",
        "postgres_pool_max_waiting": 2,
        "postgres_statement_timeout": "500ms",
        "postgres_deadline": "1s",
    }
    face: Face = request.param
    db = open_db(postgres(dsn, **limits), face, lambda: NOW, loop)
    yield db
    db.close()


def waiting(db: Dal[Sync], callers: int, seconds: float = 5) -> None:
    """Return when so many callers wait for a connection."""
    deadline = time.monotonic() + seconds
    while db._engine.figures().get("requests_waiting", 0) < callers:
        assert time.monotonic() < deadline, f"{callers} callers do not wait: {db._engine.figures()}"
        time.sleep(0.005)


def timed(call: Callable[[], object]) -> tuple[object, float]:
    begun = time.monotonic()
    try:
        return call(), time.monotonic() - begun
    except DalError as error:
        return error, time.monotonic() - begun


def test_a_pool_that_is_used_up_is_overloaded_and_says_when_to_come_back(narrow: Dal[Sync]) -> None:
    with ThreadPoolExecutor(2) as threads, narrow.transaction():
        queued = [threads.submit(timed, narrow.workflows.list) for _ in range(2)]
        waiting(narrow, 2)
        third, at_once = threads_result(lambda: timed(narrow.workflows.list))
        late = [future.result(10) for future in queued]
    assert isinstance(third, Overloaded)
    assert (third.retry_after, "2 callers are waiting" in str(third)) == (0.5, True)
    assert at_once < 0.3, f"refused after {at_once:.2f} s"
    for error, waited in late:
        assert isinstance(error, Overloaded), error
        assert error.retry_after == 0.5
        assert 0.4 < waited < 3, f"{waited:.2f} s"
    assert narrow.workflows.list().items == []


def threads_result(call: Callable[[], tuple[object, float]]) -> tuple[object, float]:
    """A call in a thread of its own, which is inside no transaction."""
    found: list[tuple[object, float]] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join(10)
    return found[0]


def test_closing_tells_those_who_wait_and_lets_those_who_work_finish(narrow: Dal[Sync]) -> None:
    with ThreadPoolExecutor(2) as threads, narrow.transaction() as tx:
        workflow = tx.workflows.create("w", actor="ann")
        queued = [threads.submit(timed, narrow.workflows.list) for _ in range(2)]
        waiting(narrow, 2)
        narrow.close()
        answers = [future.result(10) for future in queued]
        assert tx.workflows.get(workflow.id) == workflow
    for error, waited in answers:
        assert isinstance(error, Closed), error
        assert waited < 0.5, f"{waited:.2f} s"
    with pytest.raises(Closed):
        narrow.workflows.list()
    narrow.close()


def test_a_server_that_has_stopped_is_unavailable_until_it_is_back(
    narrow: Dal[Sync], server: Server, log: pytest.LogCaptureFixture
) -> None:
    workflow = narrow.workflows.create("w", actor="ann")
    server.stop()
    try:
        for call in (
            lambda: narrow.workflows.get(workflow.id),
            lambda: narrow.workflows.create("x", actor="ann"),
            lambda: narrow.transact(lambda tx: tx.workflows.list()),
            lambda: narrow.health(),
        ):
            error, waited = timed(call)
            assert type(error) is Unavailable, repr(error)
            assert waited < 2, f"{waited:.2f} s"
    finally:
        server.restart()
    deadline = time.monotonic() + 10
    while isinstance(timed(lambda: narrow.workflows.get(workflow.id))[0], Unavailable) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert narrow.workflows.get(workflow.id) == workflow

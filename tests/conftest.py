"""Databases for every test, the cells of the parity suite, and the check that every query ran in every cell.

The fixtures:

    db                      the database of the cell, opened; a test that asks for it runs once in each cell
    make_db                 more of them on the same database: another face, clock or setting
    url, settings, clock    what `db` is opened with
    raw                     a connection of its own to that database, for what no store does
    sqlite_db, postgres_db  one dialect, blocking face, outside the cells; sqlite_url, postgres_url: what they open
    make_database           a fresh database of either dialect
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest

import dal
from dal import Dal, Settings
from dal.core.face import Sync
from tests.cells import CELLS, PEPPERS, Cell, Clock, Coverage, Dialect, Face, Loop, MakeDb, Servers, open_db

# How long an example takes says more about the machine's other work than about the code.
hypothesis.settings.register_profile("dal", deadline=None)
hypothesis.settings.load_profile("dal")

PARITY = Path(__file__).parent / "parity"
SERVERS = pytest.StashKey[Servers]()
COVERAGE = pytest.StashKey[Coverage]()


def pytest_configure(config: pytest.Config) -> None:
    for name in [name for name in os.environ if name.startswith("DAL_") and not name.startswith("DAL_TEST_")]:
        del os.environ[name]  # a developer's own settings are no part of a test
    config.stash[SERVERS] = Servers(getattr(config, "workerinput", {}).get("servers", {}))
    config.stash[COVERAGE] = Coverage()


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[SERVERS].close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # Any: xdist has no types
    node.workerinput["servers"] = node.config.stash[SERVERS].named()


# --- databases --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "dal.db"
    dal.connect(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def postgres_template(pytestconfig: pytest.Config) -> Iterator[Callable[[int], str]]:
    """The name of a template, by version of the server; each worker has its own, so that no two copy one at a time."""
    made: dict[int, str] = {}

    def template(version: int) -> str:
        if version not in made:
            name = f"template_{secrets.token_hex(6)}"
            dal.connect(pytestconfig.stash[SERVERS][version].create_database(name), migrate=True).close()
            made[version] = name
        return made[version]

    yield template
    for version, name in made.items():
        pytestconfig.stash[SERVERS][version].drop_database(name)


@pytest.fixture
def make_database(
    request: pytest.FixtureRequest, pytestconfig: pytest.Config, tmp_path: Path
) -> Iterator[Callable[..., str]]:
    """A fresh database with the schema: ``make_database('sqlite')`` or ``('postgres')``; returns its URL."""
    made: list[Callable[[], None]] = []

    def make(dialect: Dialect, version: int = 0) -> str:
        name = f"test_{secrets.token_hex(6)}"
        if dialect == "sqlite":
            path = tmp_path / f"{name}.db"
            shutil.copy(request.getfixturevalue("sqlite_template"), path)
            made.append(partial(path.unlink, missing_ok=True))  # pytest keeps the folders of three runs
            return f"sqlite:///{path}"
        server = pytestconfig.stash[SERVERS][version]
        made.append(partial(server.drop_database, name))
        return server.create_database(name, request.getfixturevalue("postgres_template")(version))

    yield make
    for drop in made:
        drop()


@pytest.fixture
def sqlite_url(make_database: Callable[..., str]) -> str:
    return make_database("sqlite")


@pytest.fixture
def postgres_url(make_database: Callable[..., str]) -> str:
    return make_database("postgres")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sqlite_db(sqlite_url: str, clock: Clock) -> Iterator[Dal[Sync]]:
    with dal.connect(Settings.from_url(sqlite_url, token_peppers=PEPPERS), clock=clock) as db:
        yield db


@pytest.fixture
def postgres_db(postgres_url: str, clock: Clock) -> Iterator[Dal[Sync]]:
    with dal.connect(Settings.from_url(postgres_url, token_peppers=PEPPERS), clock=clock) as db:
        yield db


# --- the cells --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=CELLS, ids=str)
def cell(request: pytest.FixtureRequest) -> Cell:
    return request.param  # type: ignore[no-any-return]  # one of CELLS


@pytest.fixture
def url(cell: Cell, make_database: Callable[..., str]) -> str:
    return make_database(cell.dialect, cell.version)


@pytest.fixture
def raw(cell: Cell, url: str) -> Iterator[Callable[[str], list[Any]]]:
    """Runs a statement behind everybody's back; returns its rows."""
    connection: Any = (
        sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
        if cell.dialect == "sqlite"
        else psycopg.connect(url, autocommit=True)
    )

    def run(statement: str) -> list[Any]:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []

    yield run
    connection.close()


@pytest.fixture
def settings(url: str) -> Settings:
    return Settings.from_url(url)


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def make_db(
    cell: Cell, url: str, clock: Clock, loop: Loop, request: pytest.FixtureRequest, pytestconfig: pytest.Config
) -> Iterator[MakeDb]:
    opened: list[tuple[Cell, Dal[Sync]]] = []
    usual_url, usual_clock = url, clock

    def make(
        *, face: Face | None = None, clock: Clock | None = None, url: str | None = None, **overrides: Any
    ) -> Dal[Sync]:
        settings = Settings.from_url(url or usual_url, **{"token_peppers": PEPPERS, **overrides})
        db = open_db(settings, face or cell.face, clock or usual_clock, loop)
        opened.append((Cell(cell.dialect, face or cell.face, cell.version), db))
        return db

    yield make
    for where, db in opened:
        db.close()
        if PARITY in request.path.parents:
            pytestconfig.stash[COVERAGE].add(str(where), db.calls)
    faults = loop.faults[:]
    loop.faults.clear()
    assert not faults, f"the event loop met what nobody waited for: {faults}"


@pytest.fixture
def db(make_db: MakeDb) -> Dal[Sync]:
    return make_db()


# --- every query ran in every cell ------------------------------------------------------------------------------------


def _of_parity(items: Sequence[pytest.Item]) -> set[Path]:
    return {item.path for item in items if PARITY in item.path.parents}


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    if _of_parity(items):
        items[0].config.stash[COVERAGE].whole.append(False)


def pytest_collection_finish(session: pytest.Session) -> None:
    config = session.config
    chosen = config.option.collectonly or any("::" in argument for argument in config.args)
    config.stash[COVERAGE].whole.append(not chosen and _of_parity(session.items) == set(PARITY.rglob("test_*.py")))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    coverage = node.config.stash[COVERAGE]
    calls, whole = getattr(node, "workeroutput", {}).get("coverage", ({}, [False]))
    coverage.whole += whole
    for cell, counts in calls.items():
        coverage.add(cell, counts)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    coverage = session.config.stash[COVERAGE]
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["coverage"] = coverage.calls, coverage.whole
    elif exitstatus == 0 and coverage.whole and all(coverage.whole):
        coverage.missing = coverage.find_missing()
        if coverage.missing:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if missing := config.stash[COVERAGE].missing:
        terminalreporter.section("queries that the parity suite left out: FAILED", red=True)
        terminalreporter.write_line("Every query of a store needs a test in tests/parity that sends it in every cell.")
        for line in missing:
            terminalreporter.write_line(line)

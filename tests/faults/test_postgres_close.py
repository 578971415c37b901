"""The end of a program, or of a caller, while work is going on: P23, P24, and interrupted threads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

import dal
from dal import Closed, Dal, DalError, InvalidState, OutcomeUnknown, Settings, Sync, Unavailable
from tests.cells import Face, Loop, open_db

PATIENCE = 30.0


def sessions(url: str) -> int:
    """How many of our sessions the server has."""
    with psycopg.connect(url) as connection:
        [(count,)] = connection.execute(
            "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'dal'"
        ).fetchall()
        return int(count)


def no_session_is_left(url: str) -> bool:
    end = time.monotonic() + 5
    while time.monotonic() < end:
        if sessions(url) == 0:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(params=["sync", "async"])
def db(request: pytest.FixtureRequest, postgres_url: str, loop: Loop) -> Dal[Sync]:
    face: Face = request.param
    limits: dict[str, Any] = {"postgres_pool_max_size": 4, "postgres_pool_min_size": 4, "postgres_lock_timeout": 30}
    settings = Settings.from_url(postgres_url, **limits)
    return open_db(settings, face, dal.dal.utc_now, loop)


def test_closing_under_load_ends_every_call_and_every_session(
    db: Dal[Sync], postgres_url: str, tally: Callable[[str], Any]
) -> None:
    row = tally("P23 closed under 40 callers")
    workflow = db.workflows.create("w", actor="ann").id
    started = threading.Barrier(41)

    def work(number: int) -> tuple[int, BaseException]:
        done = 0
        while True:
            try:
                if number % 2:
                    db.workflows.get(workflow)
                else:
                    db.transact(lambda tx: tx.workflows.list())
            except DalError as error:
                return done, error
            done += 1
            if done == 1:
                started.wait(PATIENCE)

    with ThreadPoolExecutor(40) as threads:
        callers = [threads.submit(work, number) for number in range(40)]
        started.wait(PATIENCE)
        begun = time.monotonic()
        db.close()
        seconds = time.monotonic() - begun
        row.recoveries.append(seconds)
        assert sessions(postgres_url) == 0, "a session is left when close() has returned"
        db.close()
        for caller in callers:
            done, error = caller.result(PATIENCE)
            assert isinstance(error, Closed), repr(error)
            row.rounds += done
    assert seconds < 2, f"{seconds:.2f} s"
    row.check()


def test_closing_waits_for_who_is_at_work_and_cuts_off_who_takes_too_long(db: Dal[Sync], postgres_url: str) -> None:
    run_at = db.workflows.create("w", actor="ann").id
    with psycopg.connect(postgres_url) as locker, ThreadPoolExecutor(3) as threads:
        locker.execute("lock table workflows in access exclusive mode")
        reading = threads.submit(db.workflows.get, run_at)
        writing = threads.submit(lambda: db.workflows.archive(run_at, actor="ann"))
        holding = threading.Event()
        over = threading.Event()

        def hold_and_use() -> None:
            with db.transaction() as tx:
                connection = tx.connection
                connection.execute("select 1")
                holding.set()
                over.wait(PATIENCE)
                tx.runs.list(run_at)

        held = threads.submit(hold_and_use)
        assert holding.wait(PATIENCE)
        time.sleep(0.2)
        db._engine._core.lender.grace = 0.5  # five, usually
        begun = time.monotonic()
        db.close()
        seconds = time.monotonic() - begun
        assert 0.5 < seconds < 2.5, f"{seconds:.1f} s: the grace for those at work, then they are cut off"
        with pytest.raises((Unavailable, Closed)):
            reading.result(PATIENCE)
        with pytest.raises(OutcomeUnknown):
            writing.result(PATIENCE)
        over.set()
        with pytest.raises(Closed):
            held.result(PATIENCE)
        locker.rollback()
    assert no_session_is_left(postgres_url)


# --- programs that end ------------------------------------------------------------------------------------------------

HEAD = """
import asyncio, logging, os, signal, sys, threading, time, warnings
import dal
from dal import DalError, Settings
settings = Settings.from_url(os.environ["URL"], postgres_pool_max_size=4)
# asyncio's debug mode also complains of steps longer than 0.1 s, which any busy machine has.
logging.getLogger("asyncio").addFilter(lambda record: not str(record.msg).startswith("Executing"))
"""


def program(text: str, url: str, *, signalled: bool = False, others_complain: bool = False) -> str:
    """What a program says, run with every warning an error.

    signalled: send SIGTERM when it has printed its first line. others_complain: only we must have nothing to say.
    """
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", HEAD + textwrap.dedent(text)]
    process = subprocess.Popen(
        command, env={**os.environ, "URL": url}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        first = ""
        if signalled:
            assert process.stdout is not None
            first = process.stdout.readline()
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    complaint = "" if others_complain and "dal/" not in err else err
    assert (process.returncode, complaint) == (0, ""), f"{process.returncode}\n{out}\n{err}"
    return first + out


SIGTERM_SYNC = """
    def leave(*_):
        raise SystemExit(0)
    signal.signal(signal.SIGTERM, leave)
    ended = []
    def work():
        try:
            while True:
                db.transact(lambda tx: tx.workflows.list())
                db.workflows.list()
        except DalError as error:
            ended.append(type(error).__name__)
    threads = [threading.Thread(target=work) for _ in range(16)]
    try:
        with dal.connect(settings) as db:
            for thread in threads: thread.start()
            print("at work", flush=True)
            while True: time.sleep(1)
    finally:
        for thread in threads: thread.join(10)
        print(sorted(set(ended)), len(ended), flush=True)
"""

SIGTERM_ASYNC = """
    ended = []
    async def work(db):
        try:
            while True:
                async with db.transaction() as tx:
                    await tx.workflows.list()
                await db.workflows.list()
        except DalError as error:
            ended.append(type(error).__name__)
    async def main():
        over = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
        async with dal.aconnect(settings) as db:
            tasks = [asyncio.create_task(work(db)) for _ in range(16)]
            print("at work", flush=True)
            await over.wait()
        await asyncio.gather(*tasks)
    asyncio.run(main())
    print(sorted(set(ended)), len(ended), flush=True)
"""


@pytest.mark.parametrize("text", [SIGTERM_SYNC, SIGTERM_ASYNC], ids=["sync", "async"])
def test_sigterm_under_load_ends_a_program_without_a_warning(text: str, postgres_url: str) -> None:
    assert program(text, postgres_url, signalled=True).splitlines()[-1] == "['Closed'] 16"
    assert no_session_is_left(postgres_url)


def test_a_loop_that_ends_under_tasks_that_hold_connections_leaves_no_session(postgres_url: str) -> None:
    """asyncio.run cancels what is left, once and in no order: the pool's own tasks too."""
    text = """
        async def hold(db):
            async with db.transaction() as tx:
                await tx.workflows.list()
                await asyncio.sleep(60)
        async def read(db):
            while True:
                await db.workflows.list()
        async def main():
            db = await dal.aconnect(settings)
            tasks = [asyncio.create_task(hold(db)) for _ in range(2)]
            tasks += [asyncio.create_task(read(db)) for _ in range(6)]
            await asyncio.sleep(0.3)
        for _ in range(5):
            asyncio.run(main())
        print("over")
    """
    assert program(text, postgres_url) == "over\n"
    assert no_session_is_left(postgres_url)


def test_a_loop_closed_under_tasks_leaves_no_session(postgres_url: str) -> None:
    """Nobody cancels them: asyncio and psycopg's pool say so, and we have nothing to add."""
    text = """
        import gc, logging
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it shows the tasks that were destroyed
        loop = asyncio.new_event_loop()
        async def hold(db):
            async with db.transaction() as tx:
                await tx.workflows.list()
                await asyncio.sleep(60)
        async def main():
            global db, task
            db = await dal.aconnect(settings)
            task = asyncio.create_task(hold(db))
            await asyncio.sleep(0.2)
        loop.run_until_complete(main())
        loop.close()
        del task, db
        gc.collect()
        print("over")
    """
    assert program(text, postgres_url, others_complain=True) == "over\n"
    assert no_session_is_left(postgres_url)


def test_a_program_that_forgets_to_close_ends_all_the_same(postgres_url: str) -> None:
    text = """
        db = dal.connect(settings)
        db.workflows.list()
        print("over")
    """
    assert program(text, postgres_url) == "over\n"
    assert no_session_is_left(postgres_url)


# --- callers that are interrupted -------------------------------------------------------------------------------------


def test_a_thread_interrupted_while_it_waits_leaves_the_pool_whole(postgres_url: str) -> None:
    """Ctrl-C strikes the main thread: once while it waits for a connection, once while it waits for the server."""
    text = """
        import psycopg
        settings = Settings.from_url(os.environ["URL"], postgres_pool_max_size=1, postgres_lock_timeout=30)
        def interrupt_soon():
            threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT)).start()
        def settled():
            for _ in range(300):
                figures = db._engine.figures()
                if figures["pool_available"] == figures["pool_size"] == 1: return True
                time.sleep(0.01)
        with dal.connect(settings) as db:
            workflow = db.workflows.create("w", actor="ann").id
            for number in range(3):
                held, over = threading.Event(), threading.Event()
                def hold():
                    with db.transaction() as tx:
                        tx.workflows.list()
                        held.set()
                        over.wait(30)
                holder = threading.Thread(target=hold)
                holder.start()
                held.wait(30)
                interrupt_soon()
                try:
                    db.workflows.list()
                except KeyboardInterrupt:
                    print("interrupted in the queue")
                over.set()
                holder.join()
                assert settled(), db._engine.figures()
                assert db.workflows.get(workflow).id == workflow

                with psycopg.connect(os.environ["URL"]) as locker:
                    locker.execute("lock table workflows in access exclusive mode")
                    interrupt_soon()
                    try:
                        if number % 2:
                            db.workflows.get(workflow)
                        else:
                            db.transact(lambda tx: tx.workflows.get(workflow))
                    except KeyboardInterrupt:
                        print("interrupted at the server")
                assert settled(), db._engine.figures()
                assert db.workflows.get(workflow).id == workflow
        print("over")
    """
    said = program(text, postgres_url).splitlines()
    assert said == ["interrupted in the queue", "interrupted at the server"] * 3 + ["over"]
    assert no_session_is_left(postgres_url)


def test_a_greenlet_killed_while_it_waits_leaves_the_pool_whole(postgres_url: str) -> None:
    text = """
        from gevent import monkey
        monkey.patch_all()
        import asyncio, gevent, os, random, sys, time
        import dal
        from dal import DalError, Settings
        settings = Settings.from_url(os.environ["URL"], postgres_pool_max_size=3)
        dice = random.Random(7)
        def work():
            while True:
                db.transact(lambda tx: (tx.workflows.list(), tx.workflows.get(workflow)))
                db.workflows.get(workflow)
        with dal.connect(settings) as db:
            workflow = db.workflows.create("w", actor="ann").id
            for _ in range(10):
                greenlets = [gevent.spawn(work) for _ in range(12)]
                gevent.sleep(0.05 * dice.random())
                for greenlet in greenlets:
                    greenlet.kill(block=False)
                gevent.joinall(greenlets, timeout=20)
                for _ in range(300):
                    figures = db._engine.figures()
                    if figures["pool_available"] == figures["pool_size"] and not figures["requests_waiting"]: break
                    gevent.sleep(0.01)
                else:
                    raise SystemExit(f"a connection is missing: {figures}")
                assert db.workflows.get(workflow).id == workflow
        print("over")
    """
    command = [sys.executable, "-c", textwrap.dedent(text)]
    done = subprocess.run(
        command, env={**os.environ, "URL": postgres_url}, text=True, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "over\n"), done.stdout + done.stderr
    assert no_session_is_left(postgres_url)


# --- fork -------------------------------------------------------------------------------------------------------------


def in_a_child(work: Callable[[], str]) -> str:
    """What a function says in a process forked from this one."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def run() -> None:
        try:
            sender.send(work())
        except BaseException as error:
            sender.send(f"{type(error).__name__}: {error}")

    child = context.Process(target=run)
    child.start()
    sender.close()
    try:
        said = receiver.recv() if receiver.poll(PATIENCE) else "nothing"
    finally:
        child.join(PATIENCE)
        receiver.close()
    assert child.exitcode == 0
    return str(said)


def refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except InvalidState as error:
        return str(error)
    return "accepted"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # what is tested here, Python 3.12 says
def test_a_forked_child_is_refused_and_its_parent_goes_on(postgres_url: str) -> None:
    """P24. Blocking, with a session at rest and one in a transaction."""
    with dal.connect(Settings.from_url(postgres_url, postgres_pool_max_size=2)) as db:
        workflow = db.workflows.create("w", actor="ann").id
        with db.transaction() as tx:
            tx.workflows.create("in a transaction", actor="ann")

            def child() -> str:
                said = {refusal(lambda: tx.workflows.list()), refusal(lambda: tx.connection)}
                db.close()
                return " | ".join(said)

            assert in_a_child(child).endswith("open another after the fork")
            assert tx.workflows.get(workflow).id == workflow

        def other_child() -> str:
            calls: list[Callable[[], object]] = [
                lambda: db.workflows.get(workflow), lambda: db.transact(lambda tx: None), db.health,
            ]  # fmt: skip
            said = {refusal(call) for call in calls}
            db.close()
            with dal.connect(postgres_url) as own:
                assert len(own.workflows.list().items) == 2
            return " | ".join(said)

        assert in_a_child(other_child).endswith("open another after the fork")
        for _ in range(4):
            assert len(db.workflows.list().items) == 2
        assert db._engine.figures()["broken"] == 0
    assert no_session_is_left(postgres_url)


def test_a_child_forked_from_a_loop_is_refused_and_the_loop_goes_on(postgres_url: str) -> None:
    text = """
        async def main():
            async with dal.aconnect(settings) as db:
                await db.workflows.list()
                warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of what is tested here
                pid = os.fork()
                if pid == 0:
                    code = 1
                    try:
                        db.workflows.list().send(None)
                    except dal.InvalidState as error:
                        code = 0 if "after the fork" in str(error) else 2
                        try:
                            db.close().send(None)
                        except StopIteration:
                            pass
                    os._exit(code)
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
                for _ in range(4):
                    await db.workflows.list()
        asyncio.run(main())
        print("over")
    """
    assert program(text, postgres_url) == "over\n"
    assert no_session_is_left(postgres_url)

"""What only one face has: bodies that suspend, tasks, threads, cancellation, and connections lost in the middle."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

import psycopg
import pytest

import dal
from dal import Async, Dal, Invalid, Settings, Sync
from dal.core.face import M, Queries, Store, statement, transaction
from dal.stores import tokens
from dal.stores.history import History
from dal.stores.runs import Runs
from dal.stores.tokens import Tokens
from tests.cells import PEPPERS, Clock, Dialect, Face, Loop, open_db
from tests.faces.proxy import Proxy

T = TypeVar("T")
DIALECTS: tuple[Dialect, ...] = ("sqlite", "postgres")
PATIENCE = 20.0


@pytest.fixture(params=DIALECTS)
def any_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that happens elsewhere."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.01)


async def until_async(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE:g} s: {what}"
        await asyncio.sleep(0.01)


def busy(figures: dict[str, float]) -> float:
    """Connections that are in somebody's hands, by the pool's own figures."""
    if "readers" in figures:
        return figures["readers"] - figures["readers_idle"] + figures["writing"]
    return figures["pool_size"] - figures["pool_available"]


def a_run(db: Dal[Sync]) -> dal.Run:
    workflow = db.workflows.create("one", actor="test")
    db.versions.create(workflow.id, {}, actor="test")
    return db.runs.create(workflow.id, actor="test")


# --- bodies -----------------------------------------------------------------------------------------------------------


class Dozing(Store[M]):
    """Bodies that await something that is no query."""

    @statement
    async def at_once(self, q: Queries) -> int | None:
        await asyncio.sleep(0)
        return await q.get_schema_version()

    @statement
    async def later(self, q: Queries) -> int | None:
        version = await q.get_schema_version()
        await asyncio.sleep(0)
        return version

    @transaction
    async def in_a_transaction(self, q: Queries) -> int | None:
        version = await q.get_schema_version()
        await asyncio.sleep(0)
        return version

    @statement
    async def not_at_all(self, q: Queries) -> str:
        return "no query, no connection"


BODIES = ("at_once", "later", "in_a_transaction")


@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_suspends_is_a_type_error_on_the_blocking_face_and_keeps_no_connection(
    any_url: str, body: str
) -> None:
    with dal.connect(Settings.from_url(any_url, postgres_pool_max_size=1, sqlite_readers=1)) as db:
        dozing: Dozing[Sync] = Dozing(db._runner, db.clock)
        for _ in range(3):
            with pytest.raises(TypeError, match="awaits something that is no query"):
                getattr(dozing, body)()
            assert db.health().schema_version >= 1, "the only connection was not given back"
        assert busy(db.health().pool) == 1, "health itself has one"


@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_suspends_is_a_type_error_where_bodies_run_in_a_thread(sqlite_url: str, body: str) -> None:
    async def scenario() -> None:
        async with dal.aconnect(Settings.from_url(sqlite_url, sqlite_readers=1)) as db:
            dozing: Dozing[Async] = Dozing(db._runner, db.clock)
            for _ in range(3):
                with pytest.raises(TypeError, match="awaits something that is no query"):
                    await getattr(dozing, body)()
                assert (await db.health()).schema_version >= 1, "the only connection was not given back"

    asyncio.run(scenario())


@pytest.mark.parametrize(("key", "write"), [("anywhere", True), ("name", True), ("idempotency_key", False)])
def test_a_key_must_name_a_keyword_only_argument_of_a_write(key: str, write: bool) -> None:
    async def body(self: Dozing[Any], q: Queries, name: str, *, idempotency_key: str | None = None) -> None:
        raise AssertionError("never run")

    with pytest.raises(TypeError, match="key must name a keyword-only argument of a write"):
        statement(write=write, key=key)(body)


def test_only_a_call_that_gives_its_key_is_keyed() -> None:
    create = Runs.__dict__["create"]
    assert create.is_keyed({"actor": "ann", "idempotency_key": "k"})
    assert not create.is_keyed({"actor": "ann", "idempotency_key": None})
    assert not create.is_keyed({"actor": "ann"})
    assert not Runs.__dict__["start"].is_keyed({"idempotency_key": "k"})


def test_a_body_without_a_query_takes_no_connection(any_url: str) -> None:
    with dal.connect(any_url) as db:
        dozing: Dozing[Sync] = Dozing(db._runner, db.clock)
        assert dozing.not_at_all() == "no query, no connection"
        assert db.calls == Counter()


def test_a_method_shows_its_own_documentation_and_signature(any_url: str) -> None:
    with dal.connect(any_url) as db:
        get: Any = db.runs.get
        listed = db.runs.list
        assert (get.__doc__, get.__name__, get.__module__) == (
            "One run. Raises RunNotFound.", "get", "dal.stores.runs",
        )  # fmt: skip
        assert list(inspect.signature(get).parameters) == ["run_id"]
        assert list(inspect.signature(listed).parameters) == ["workflow_id", "status", "after", "limit"]
        assert inspect.signature(listed).parameters["limit"].kind is inspect.Parameter.KEYWORD_ONLY
        assert inspect.signature(listed).parameters["limit"].default == 50
        assert get.__self__ is db.runs
        assert Runs.get.__doc__ == get.__doc__
        with pytest.raises(TypeError, match="run_id"):
            get()


def test_a_call_on_the_async_face_is_a_coroutine(any_url: str) -> None:
    async def scenario() -> None:
        async with dal.aconnect(any_url) as db:
            workflow = await db.workflows.create("one", actor="test")
            call = db.workflows.get(workflow.id)
            assert asyncio.iscoroutine(call)
            assert await call == workflow
            task = asyncio.create_task(db.workflows.get(workflow.id))
            assert await task == workflow
            assert await asyncio.gather(*(db.workflows.get(workflow.id) for _ in range(20))) == [workflow] * 20
            assert await asyncio.wait_for(db.workflows.get(workflow.id), 5) == workflow

    asyncio.run(scenario())


# --- arguments --------------------------------------------------------------------------------------------------------


@contextmanager
def in_a_thread(work: Callable[[], T]) -> Iterator[Future[T]]:
    with ThreadPoolExecutor(1) as threads:
        yield threads.submit(work)


def test_bad_arguments_are_refused_while_every_connection_is_taken(any_url: str) -> None:
    settings = Settings.from_url(
        any_url, postgres_pool_max_size=1, postgres_pool_timeout=0.3, sqlite_readers=1, sqlite_busy_timeout=0.3
    )
    taken, release = threading.Event(), threading.Event()
    with dal.connect(settings) as db:

        def hold() -> None:
            with db.transaction():
                taken.set()
                release.wait(PATIENCE)

        with in_a_thread(hold) as holding:
            assert taken.wait(PATIENCE)
            try:
                with pytest.raises(dal.Overloaded):
                    db.workflows.create("good", actor="test")
                begun = time.monotonic()
                for _ in range(100):
                    with pytest.raises(Invalid):
                        db.workflows.create("", actor="test")
                    with pytest.raises(Invalid):
                        db.versions.create(uuid4(), {"a": float("nan")}, actor="test")
                assert time.monotonic() - begun < 0.3, "200 refusals waited for something"
            finally:
                release.set()
            holding.result(PATIENCE)


def test_what_a_caller_changes_while_waiting_is_not_stored(any_url: str) -> None:
    async def scenario() -> None:
        async with dal.aconnect(Settings.from_url(any_url, postgres_pool_max_size=1)) as db:
            workflow = await db.workflows.create("one", actor="test")
            graph: dict[str, Any] = {"nodes": [1]}
            tags = ["as", "asked"]
            async with db.transaction():
                # Made outside of this transaction's context, as by another request of the server.
                context = outside.copy()
                waiting = asyncio.create_task(db.versions.create(workflow.id, graph, actor="test"), context=context)
                other = asyncio.create_task(db.workflows.create("two", actor="test", tags=tags), context=context)
                await asyncio.sleep(0.05)
                assert not waiting.done()
                graph["nodes"].append(2)
                graph["more"] = True
                tags.append("late")
            assert (await waiting).graph == {"nodes": [1]}
            assert (await db.versions.latest(workflow.id)).graph == {"nodes": [1]}
            assert (await other).tags == ("as", "asked")

    outside = copy_context()
    asyncio.run(scenario())


# --- threads and hops -------------------------------------------------------------------------------------------------


def test_a_method_on_async_sqlite_is_one_hop_to_a_thread(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hops: list[Any] = []
    submit = ThreadPoolExecutor.submit

    def counting(self: ThreadPoolExecutor, work: Any, *arguments: Any) -> Any:
        hops.append(work)
        return submit(self, work, *arguments)

    async def scenario() -> None:
        async with dal.aconnect(sqlite_url) as db:
            workflow = await db.workflows.create("one", actor="test")
            await db.versions.create(workflow.id, {}, actor="test")
            run = await db.runs.create(workflow.id, actor="test")
            monkeypatch.setattr(ThreadPoolExecutor, "submit", counting)
            calls: dict[str, Awaitable[object]] = {
                "get": db.runs.get(run.id),
                "list": db.workflows.list(),
                "diff": db.versions.diff(workflow.id, 1, 1),
                "update": db.workflows.update(workflow.id, actor="test", name="two"),
                "create": db.runs.create(workflow.id, actor="test"),
                "start": db.runs.start(run.id, actor="test"),
                "health": db.health(),
            }
            for name, call in calls.items():
                hops.clear()
                await call
                assert len(hops) <= 1, f"{name} took {hops}"  # 0: the thread had not yet left the write before

    asyncio.run(scenario())


def test_a_hundred_threads_read_and_write_without_an_error(any_url: str) -> None:
    threads, each = 100, 3
    with dal.connect(any_url) as db:
        workflow = db.workflows.create("one", actor="test")
        start = threading.Barrier(threads)

        def work(number: int) -> list[int]:
            start.wait(PATIENCE)
            numbers = []
            for turn in range(each):
                version = db.versions.create(workflow.id, {"by": number, "turn": turn}, actor="test")
                assert db.versions.get(version.id) == version
                numbers.append(version.number)
            return numbers

        with ThreadPoolExecutor(threads) as pool:
            numbers = [number for own in pool.map(work, range(threads)) for number in own]
        assert sorted(numbers) == list(range(1, threads * each + 1))
        until(lambda: busy(db.health().pool) == 1, "all connections but health's own are given back")


def test_a_hundred_tasks_read_and_write_without_an_error(any_url: str) -> None:
    tasks, each = 100, 3

    async def scenario() -> None:
        async with dal.aconnect(any_url) as db:
            workflow = await db.workflows.create("one", actor="test")

            async def work(number: int) -> list[int]:
                numbers = []
                for turn in range(each):
                    version = await db.versions.create(workflow.id, {"by": number, "turn": turn}, actor="test")
                    assert await db.versions.get(version.id) == version
                    numbers.append(version.number)
                return numbers

            made = await asyncio.gather(*map(work, range(tasks)))
            assert sorted(number for own in made for number in own) == list(range(1, tasks * each + 1))

    asyncio.run(scenario())


# --- cancellation -----------------------------------------------------------------------------------------------------


def idle_in_transaction(url: str) -> int:
    """Sessions of this database that hold a transaction open, none of them ours."""
    if not url.startswith("postgresql"):
        return 0
    with psycopg.connect(url) as connection:
        counted = connection.execute(
            "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
            " and xact_start is not null and backend_type = 'client backend'"
        ).fetchone()
        return int(counted[0]) if counted else 0


async def settled(db: Dal[Async], url: str) -> None:
    """All connections are back and no transaction is open."""
    end = time.monotonic() + PATIENCE
    while (found := (busy((await db.health()).pool), idle_in_transaction(url))) != (1, 0):
        assert time.monotonic() < end, f"{found[0] - 1:g} connections are lost, {found[1]} transactions are open"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 13])
def test_a_cancelled_call_leaves_the_pool_whole_and_its_change_done_or_not(any_url: str, steps: int) -> None:
    async def scenario() -> None:
        async with dal.aconnect(any_url) as db:
            workflow = await db.workflows.create("one", actor="test")
            tasks = [
                asyncio.create_task(db.versions.create(workflow.id, {"number": number}, actor="test"))
                for number in range(30)
            ]
            for _ in range(steps):
                await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            await settled(db, any_url)
            assert {type(answer) for answer in ended} <= {dal.Version, asyncio.CancelledError}
            assert not [answer for answer in ended[1::2] if isinstance(answer, BaseException)], "others were cancelled"
            stored = (await db.versions.list(workflow.id, limit=500)).items
            told = [answer for answer in ended if isinstance(answer, dal.Version)]
            assert {version.number for version in told} <= {version.number for version in stored}
            assert [version.number for version in reversed(stored)] == list(range(1, len(stored) + 1))
            again = await db.versions.create(workflow.id, {}, actor="test")
            assert again.number == len(stored) + 1

    asyncio.run(scenario())


def test_a_cancelled_transaction_is_undone(any_url: str) -> None:
    async def scenario() -> None:
        async with dal.aconnect(Settings.from_url(any_url, postgres_pool_max_size=2)) as db:
            workflow = await db.workflows.create("one", actor="test")
            inside = asyncio.Event()

            async def work() -> None:
                async with db.transaction() as tx:
                    await tx.versions.create(workflow.id, {}, actor="test")
                    async with tx.transaction() as inner:
                        await inner.versions.create(workflow.id, {}, actor="test")
                        inside.set()
                        await asyncio.sleep(PATIENCE)

            for _ in range(5):
                inside.clear()
                task = asyncio.create_task(work())
                await inside.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await settled(db, any_url)
            assert (await db.versions.list(workflow.id)).items in ([], ())
            assert (await db.versions.create(workflow.id, {}, actor="test")).number == 1

    asyncio.run(scenario())


def test_a_call_that_waits_at_the_server_ends_when_cancelled(postgres_url: str) -> None:
    async def scenario() -> None:
        async with dal.aconnect(Settings.from_url(postgres_url, postgres_lock_timeout=PATIENCE)) as db:
            workflow = await db.workflows.create("one", actor="test")
            with psycopg.connect(postgres_url) as other:
                other.execute("lock table workflows in access exclusive mode")
                task = asyncio.create_task(db.workflows.update(workflow.id, actor="test", name="two"))
                await until_async(lambda: waiting_for_a_lock(postgres_url, "update_workflow"), "the update waits")
                begun = time.monotonic()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert time.monotonic() - begun < 5
                await until_async(
                    lambda: not waiting_for_a_lock(postgres_url, "update_workflow"), "the server stopped it too"
                )
            await settled(db, postgres_url)
            assert (await db.workflows.get(workflow.id)).name == "one"
            assert (await db.workflows.update(workflow.id, actor="test", name="two")).name == "two"

    asyncio.run(scenario())


# --- connections lost in the middle -----------------------------------------------------------------------------------


def waiting_for_a_lock(url: str, query: str) -> list[int]:
    """The server processes in which a named query waits for a lock."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            " and query like %s",
            [f"%/* dal:{query} */%"],
        ).fetchall()
    return [pid for (pid,) in found]


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    with Proxy(postgres_url) as proxy:
        yield proxy


@pytest.fixture(params=["sync", "async"])
def lossy_db(request: pytest.FixtureRequest, proxy: Proxy, clock: Clock, loop: Loop) -> Iterator[Dal[Sync]]:
    """A database behind a connection that can be cut."""
    face: Face = request.param
    db = open_db(proxy.settings(postgres_lock_timeout=PATIENCE), face, clock, loop)
    yield db
    db.close()


@contextmanager
def held(url: str, lock: str) -> Iterator[Callable[[], None]]:
    """A lock in a session of its own. Yields what lets go of it early."""
    with psycopg.connect(url) as connection:
        connection.execute(lock.encode())
        yield connection.rollback


def test_a_write_whose_connection_is_lost_may_have_been_done(
    lossy_db: Dal[Sync], proxy: Proxy, postgres_url: str
) -> None:
    run = a_run(lossy_db)
    lock = "lock table runs in access exclusive mode"
    with (
        held(postgres_url, lock) as let_go,
        in_a_thread(partial(lossy_db.runs.start, run.id, actor="test")) as call,
    ):
        until(lambda: waiting_for_a_lock(postgres_url, "mark_run_running"), "the write waits for the table")
        proxy.cut()
        with pytest.raises(dal.OutcomeUnknown) as raised:
            call.result(PATIENCE)
        assert raised.value.query == "mark_run_running"
        assert isinstance(raised.value.__cause__, psycopg.OperationalError)
        assert lossy_db.calls["mark_run_running"] == 1, "a write is never sent again"
        let_go()
        # The server did not notice: what was unknown to the caller comes to be done.
        until(lambda: lossy_db.runs.get(run.id).status == "running", "the write is done after all")
    with pytest.raises(dal.InvalidTransition):
        lossy_db.runs.start(run.id, actor="test")


def test_a_write_that_the_server_itself_ended_was_not_done_and_is_sent_again(
    lossy_db: Dal[Sync], postgres_url: str
) -> None:
    run = a_run(lossy_db)
    lock = "lock table runs in access exclusive mode"

    def gone(pid: int) -> bool:
        return pid not in waiting_for_a_lock(postgres_url, "mark_run_running")

    with (
        held(postgres_url, lock) as let_go,
        in_a_thread(partial(lossy_db.runs.start, run.id, actor="test")) as call,
        psycopg.connect(postgres_url, autocommit=True) as killer,
    ):
        for _ in range(3):
            until(lambda: waiting_for_a_lock(postgres_url, "mark_run_running"), "the write waits for the table")
            [pid] = waiting_for_a_lock(postgres_url, "mark_run_running")
            killer.execute("select pg_terminate_backend(%s)", [pid])  # it says 57P01, before it could commit
            until(partial(gone, pid), "that attempt is over")
        let_go()
        assert call.result(PATIENCE).status == "running"
    assert lossy_db.calls["mark_run_running"] == 4
    assert len(lossy_db.runs.events(run.id).items) == 2, "created and started, once each"


@pytest.mark.parametrize("how", ["cut", "terminate"])
def test_a_read_whose_connection_is_lost_is_asked_once_more(
    lossy_db: Dal[Sync], proxy: Proxy, postgres_url: str, how: str
) -> None:
    run = a_run(lossy_db)
    before = lossy_db.calls.get("get_run", 0)
    lock = "lock table runs in access exclusive mode"

    def lose() -> None:
        [pid] = waiting_for_a_lock(postgres_url, "get_run")
        with psycopg.connect(postgres_url, autocommit=True) as killer:
            if how == "cut":
                proxy.cut()
            killer.execute("select pg_terminate_backend(%s)", [pid])
        until(lambda: pid not in waiting_for_a_lock(postgres_url, "get_run"), "the first session is gone")

    with held(postgres_url, lock) as let_go, in_a_thread(partial(lossy_db.runs.get, run.id)) as call:
        until(lambda: waiting_for_a_lock(postgres_url, "get_run"), "the read waits for the table")
        lose()
        until(lambda: waiting_for_a_lock(postgres_url, "get_run"), "the read is asked again on another connection")
        let_go()
        assert call.result(PATIENCE) == run
    assert lossy_db.calls["get_run"] == before + 2

    with held(postgres_url, lock), in_a_thread(partial(lossy_db.runs.get, run.id)) as call:
        for attempt in ("first", "second"):
            until(lambda: waiting_for_a_lock(postgres_url, "get_run"), f"the {attempt} attempt waits for the table")
            lose()
        with pytest.raises(dal.Unavailable):
            call.result(PATIENCE)
    assert lossy_db.calls["get_run"] == before + 4, "once more, and no further"
    assert lossy_db.runs.get(run.id) == run


def test_a_transaction_whose_connection_is_lost_before_its_end_was_not_done(lossy_db: Dal[Sync], proxy: Proxy) -> None:
    run = a_run(lossy_db)

    def work() -> None:
        with lossy_db.transaction() as tx:
            tx.runs.start(run.id, actor="test")
            proxy.cut()
            tx.runs.succeed(run.id, actor="test")

    with pytest.raises(dal.Unavailable):
        work()
    assert lossy_db.runs.get(run.id).status == "pending"


def test_a_transaction_whose_connection_is_lost_at_its_end_may_have_been_done(
    lossy_db: Dal[Sync], proxy: Proxy, postgres_url: str
) -> None:
    run = a_run(lossy_db)
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        # A trigger that runs at COMMIT, and waits there.
        admin.execute(
            "create function wait_at_commit() returns trigger language plpgsql as"
            " $$ begin perform pg_advisory_xact_lock(4711); return null; end $$"
        )
        admin.execute(
            "create constraint trigger wait_at_commit after update on runs deferrable initially deferred"
            " for each row execute function wait_at_commit()"
        )

    def work() -> None:
        with lossy_db.transaction() as tx:
            tx.runs.start(run.id, actor="test")

    def committing() -> object:
        with psycopg.connect(postgres_url) as connection:
            return connection.execute(
                "select pid from pg_stat_activity where datname = current_database()"
                " and wait_event_type = 'Lock' and query = 'commit'"
            ).fetchone()

    with held(postgres_url, "select pg_advisory_xact_lock(4711)") as let_go, in_a_thread(work) as call:
        until(committing, "COMMIT waits for the trigger")
        proxy.cut()
        with pytest.raises(dal.OutcomeUnknown):
            call.result(PATIENCE)
        let_go()
        until(lambda: lossy_db.runs.get(run.id).status == "running", "the transaction is done after all")


def test_a_call_after_the_loss_of_every_connection_works_again(lossy_db: Dal[Sync], proxy: Proxy) -> None:
    run = a_run(lossy_db)
    for _ in range(3):
        proxy.cut()
        assert lossy_db.runs.get(run.id) == run


# --- streams ----------------------------------------------------------------------------------------------------------


def test_a_stream_of_one_face_is_none_of_the_other(any_url: str) -> None:
    async def use() -> None:
        async with dal.aconnect(any_url) as db:
            await db.history.start("e", "w")
            await db.history.append_steps("e", [1, 2])
            stream: Any = db.history.stream("e")
            with pytest.raises(TypeError, match=r"History\.stream is for 'async for' here"):
                next(stream)
            assert [step.payload async for step in stream] == [1, 2]

    asyncio.run(use())
    with dal.connect(any_url) as db:
        stream: Any = db.history.stream("e")

        async def read() -> None:
            await anext(stream)

        with pytest.raises(TypeError, match=r"History\.stream is for a plain 'for' here"):
            asyncio.run(read())
        assert [step.payload for step in db.history.stream("e")] == [1, 2]


def test_a_stream_is_documented_like_a_method() -> None:
    for stream in (History.stream, History[Sync].stream):
        assert inspect.getdoc(stream) == inspect.getdoc(History.stream.page.body)
    with dal.connect("sqlite:///:memory:") as db:
        assert str(inspect.signature(db.history.stream)).startswith("(execution_id: 'str', *, after:")
        assert "bounded memory" in (db.history.stream.__doc__ or "")


def test_between_its_portions_a_stream_holds_no_connection(any_url: str) -> None:
    settings = Settings.from_url(any_url, postgres_pool_max_size=1, sqlite_readers=1)
    with dal.connect(settings) as db:
        db.history.start("e", "w")
        db.history.append_steps("e", list(range(600)))
        stream = db.history.stream("e")
        assert next(stream).idx == 0
        assert busy(db.health().pool) <= 1, "the one that health itself was asked on"
        assert [db.history.append_step("e", None).idx, db.history.steps("e", limit=1).items[0].idx] == [600, 0]
        assert [step.idx for step in stream] == list(range(1, 601))


# --- what is done in portions -----------------------------------------------------------------------------------------


def test_a_method_in_portions_is_documented_like_any_other() -> None:
    for method in (Tokens.verify_audit, Tokens[Sync].verify_audit):
        assert inspect.getdoc(method) == inspect.getdoc(Tokens.verify_audit.portion.body)
    with dal.connect("sqlite:///:memory:") as db:
        assert str(inspect.signature(db.tokens.verify_audit)).startswith("(*, since:")
        assert "bounded memory" in (db.tokens.verify_audit.__doc__ or "")


def test_between_its_portions_a_method_holds_no_connection(any_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_VERIFIED", 1)
    settings = Settings.from_url(any_url, token_peppers=PEPPERS, postgres_pool_max_size=1, sqlite_readers=1)
    with dal.connect(settings) as db:
        for name in "abc":
            db.tokens.mint(name, actor="ann")
        with ThreadPoolExecutor(4) as others:
            answers = [others.submit(db.tokens.verify_audit) for _ in range(4)]
            assert [answer.result(60).rows for answer in answers] == [3] * 4
        assert db.calls["list_audit_chain"] == 4 * 4, "one for each row, and one that found no more"

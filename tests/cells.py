"""The four cells of the parity suite: each database through each face, all looking like the blocking one.

On the async cells the Dal lives on an event loop in a thread of its own; a call from a test becomes a task there, and
the test waits for it. So one test text serves every cell, threads of a test are concurrent tasks on that loop, and
nothing of the async face is left out.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Literal, Protocol, TypeVar, cast
from uuid import UUID

import psycopg

import dal
from dal import Dal, DalError, Settings
from dal.core.face import Async, Items, Store, Sync
from dal.dal import load_catalog
from dal.stores.runs import Run, RunStatus
from tests.server import Server, installations

T = TypeVar("T")
Dialect = Literal["sqlite", "postgres"]
Face = Literal["sync", "async"]
PATIENCE = 60.0  # seconds after which a call counts as hung
PEPPERS = "test=dGhlIHBlcHBlciBvZiBhbGwgdGVzdHMsIDMyIGJ5dGU="  # of every Dal here, unless a test says otherwise


@dataclass(frozen=True)
class Cell:
    """Where a test runs. version: PostgreSQL's major one; 0 for SQLite and for the only server of a usual run."""

    dialect: Dialect
    face: Face
    version: int = 0

    def __str__(self) -> str:
        return f"{self.dialect}{self.version or ''}-{self.face}"


# DAL_TEST_POSTGRES_VERSIONS=all: cells for each PostgreSQL found, not for the usual one alone.
USUAL = 18
VERSIONS = tuple(installations()) if os.environ.get("DAL_TEST_POSTGRES_VERSIONS") == "all" else (0,)
CELLS = (
    Cell("sqlite", "sync"),
    Cell("sqlite", "async"),
    *(Cell("postgres", face, version) for version in VERSIONS for face in ("sync", "async")),
)

# Queries that no method of a Dal sends, so that there is no cell to send them in; tests/contract runs them.
NOT_OF_A_STORE = frozenset(
    {
        # migrations, before there is a Dal
        "create_migrations_table", "get_migrations_table", "list_migrations", "create_migration",
        # dal schema verify
        "list_schema_columns", "list_schema_indexes", "list_schema_references",
        # dal doctor, whose answers are each database's own
        "get_server_facts", "list_damage",
    }
)  # fmt: skip


class Coverage:
    """Which queries this run, or this worker of it, sent in which cell.

    whole: an entry for each process that collected tests: whether nothing of tests/parity was left out of it.
    """

    def __init__(self) -> None:
        self.calls: dict[str, dict[str, int]] = {}
        self.whole: list[bool] = []
        self.missing: list[str] = []

    def add(self, cell: str, calls: Mapping[str, int]) -> None:
        """Count what one Dal sent."""
        self.calls[cell] = dict(Counter(self.calls.get(cell, {})) + Counter(calls))

    def find_missing(self) -> list[str]:
        """Lines such as ``get_run was never sent in sqlite-async, postgres-async``."""
        lines = []
        for name in sorted(load_catalog(Settings()).queries.keys() - NOT_OF_A_STORE):
            cells = [cell for cell in map(str, CELLS) if not self.calls.get(cell, {}).get(name)]
            if cells:
                lines.append(f"{name} was never sent in {', '.join(cells)}")
        return lines


class Servers:
    """The PostgreSQL servers of a run, started when first asked for; named: those that run already, by version."""

    def __init__(self, named: Mapping[int, str]) -> None:
        self._servers = {version: Server.named(dsn) for version, dsn in named.items()}

    def __getitem__(self, version: int) -> Server:
        version = version or USUAL
        if version not in self._servers:
            usual = version == USUAL  # DAL_TEST_POSTGRES_DSN, where it is set, stands in for this one
            self._servers[version] = Server.of_this_run(version) if usual else Server.start(version)
        return self._servers[version]

    def named(self) -> dict[int, str]:
        """The DSN of each version that the cells need, all of them running."""
        return {version: self[version].dsn() for version in {USUAL, *filter(None, VERSIONS)}}

    def close(self) -> None:
        """End those that were started here."""
        for server in self._servers.values():
            server.close()


class Clock:
    """What is passed as ``clock=``: the real time until ``set`` stops it, and from then on what the test says."""

    def __init__(self) -> None:
        self._now: datetime | None = None

    def __call__(self) -> datetime:
        return self._now or datetime.now(UTC)

    def set(self, now: datetime) -> datetime:
        """Stop the clock at this time."""
        self._now = now
        return now

    def advance(self, **span: float) -> datetime:
        """Move a stopped clock on, or back: ``advance(seconds=1)``; returns the new time."""
        return self.set(self() + timedelta(**span))


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.faults: list[str] = []  # what nobody waited for, such as an exception in a forgotten task
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _, fault: self.faults.append(f"{fault}"))
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cell", daemon=True)
        self._thread.start()

    def run(self, work: Callable[[], Any]) -> Any:
        """Call ``work`` in a task of its own, await what it returns, and wait for that.

        The task runs in the caller's context, and what it sets there is the caller's afterwards: a transaction that was
        entered counts as entered by this caller, as it does between two awaits of a coroutine.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("a blocking call inside the loop would wait for itself")
        context = copy_context()
        answer: Future[Any] = Future()

        async def go() -> None:
            try:
                value = work()
                answer.set_result(await value if inspect.isawaitable(value) else value)
            except BaseException as error:
                answer.set_exception(error)

        def begin() -> None:
            task = self._loop.create_task(go(), context=context)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._loop.call_soon_threadsafe(begin)
        try:
            return answer.result(PATIENCE)
        finally:
            for variable, value in context.items():
                if variable.get(None) is not value:
                    variable.set(value)

    def close(self) -> None:
        """Stop the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


class Blocking:
    """An object of the async face, or of an async driver, whose calls block."""

    def __init__(self, inner: Any, loop: Loop) -> None:
        self._inner = inner
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if isinstance(value, (Store, psycopg.AsyncConnection)):
            return type(self)(value, self._loop)
        calls = inspect.isroutine(value) or isinstance(value, partial)  # a sqlite3.Connection is callable, too
        return (lambda *args, **kwargs: self._call(value, *args, **kwargs)) if calls else value

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        answer = self._loop.run(lambda: function(*args, **kwargs))
        if isinstance(answer, Items):
            return self._items(answer)
        return Blocking(answer, self._loop) if isinstance(answer, psycopg.AsyncCursor) else answer

    def _items(self, items: Items[Any]) -> Iterator[Any]:
        while True:
            try:
                yield self._loop.run(items.__anext__)
            except StopAsyncIteration:
                return

    def transaction(self, **options: Any) -> Block:
        """The block of a transaction, or of a savepoint."""
        return Block(self._inner.transaction(**options), self._loop)

    def transact(self, fn: Callable[[Any], Any], **options: Any) -> Any:
        """The callback form; the callback runs in a thread, so that it may block."""

        async def attempt(tx: Any) -> Any:
            return await asyncio.to_thread(fn, Blocking(tx, self._loop))

        return self._loop.run(lambda: self._inner.transact(attempt, **options))


class Block:
    """``async with``, as ``with``."""

    def __init__(self, inner: Any, loop: Loop) -> None:
        self._inner = inner
        self._loop = loop

    def __enter__(self) -> Blocking:
        return Blocking(self._loop.run(self._inner.__aenter__), self._loop)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return cast("bool | None", self._loop.run(lambda: self._inner.__aexit__(kind, error, trace)))


class MakeDb(Protocol):
    """Open the test's database: by default as its cell does. overrides: of Settings, by name."""

    def __call__(
        self, *, face: Face | None = None, clock: Clock | None = None, url: str | None = None, **overrides: Any
    ) -> Dal[Sync]: ...


def open_db(settings: Settings, face: Face, clock: Callable[[], datetime], loop: Loop) -> Dal[Sync]:
    """A Dal on a database that has its schema; on the async face one that lives in the loop and blocks its callers."""
    if face == "sync":
        return dal.connect(settings, clock=clock)

    async def opened() -> Dal[Async]:
        return await dal.aconnect(settings, clock=clock)

    return cast("Dal[Sync]", Blocking(loop.run(opened), loop))


def together(jobs: Sequence[Callable[[], T]]) -> list[T | DalError]:
    """Start all jobs at the same moment, each in a thread; what each returned, or the error of ours that it raised."""
    start = threading.Barrier(len(jobs))

    def run(job: Callable[[], T]) -> T | DalError:
        start.wait(PATIENCE)
        try:
            return job()
        except DalError as error:
            return error

    with ThreadPoolExecutor(len(jobs)) as threads:
        return list(threads.map(run, jobs))


def every_run(db: Dal[Sync], workflow: UUID, status: RunStatus | None = None) -> list[Run]:
    """All runs of a workflow, newest first."""
    found: list[Run] = []
    after = None
    while True:
        page = db.runs.list(workflow, status=status, after=after, limit=500)
        found += page.items
        after = page.next
        if after is None:
            return found


def stored(connection: sqlite3.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, those within which FTS5 keeps words among them: it gives no rows itself."""
    tables = connection.execute(
        "select name from pragma_table_list where schema = 'main' and type in ('table', 'shadow') order by name"
    ).fetchall()
    return {name: connection.execute(f"select * from {name}").fetchall() for (name,) in tables}

"""Bodies on SQLite: one writer lane and a few readers for each file and process.

A write waits in the lane's line and shares a commit with those around it (sqlite_lane.py); an interactive transaction
holds the lane until it ends or its time is up. From asyncio the lane has a thread of its own and so has each reader: a
body costs one hop, and a hundred waiting callers hold no threads.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from dal.core.catalog import Catalog, Query
from dal.core.face import Method, Options, Retries, Started, enter, leave, refuse_nested, units_of
from dal.core.sqlite_file import File, Rows, Values, waited
from dal.core.sqlite_lane import AsyncLane, BlockingLane, once
from dal.core.sqlite_unit import Reading, Unit
from dal.errors import DalError

T = TypeVar("T")


class _Writing:
    """A session in which every query is a transaction of its own, whatever its body raises afterwards."""

    __slots__ = ("_lane", "_ran")

    def __init__(self, lane: BlockingLane | AsyncLane, ran: Counter[str]) -> None:
        self._lane = lane
        self._ran = ran

    async def execute(self, query: Query, values: Values) -> Rows:
        self._ran[query.name] += 1
        answer = self._lane.write(query, values)
        return answer if isinstance(answer, tuple) else await answer


def _run_transaction(unit: Unit, started: Started[T]) -> T:
    """Run a started body to its end in a transaction that nobody else sees, blocking."""
    unit.begin()
    try:
        answer = started.finish(unit)
        unit.commit()
        return answer
    finally:
        unit.roll_back()


# --- blocking ---------------------------------------------------------------------------------------------------------


class SqliteSync:
    """Runs bodies in the calling thread."""

    def __init__(self, file: File, catalog: Catalog) -> None:
        self.file = file
        self.catalog = catalog
        self.ran: Counter[str] = Counter()
        self._lane = BlockingLane(file)
        self._close_later = False  # by who is inside a transaction, once that has ended

    def __call__(self, method: Method[Any, ..., T], store: Any, /, *args: Any, **kwargs: Any) -> T:
        refuse_nested(self)
        self.file.check_open()
        if method.kind == "transaction":
            return self.retry(lambda: self._attempt(method, store, args, kwargs))
        return self._attempt(method, store, args, kwargs)

    def _attempt(self, method: Method[Any, ..., T], store: Any, args: Any, kwargs: Any) -> T:
        started = Started(method, store, self.catalog.view(), args, kwargs)
        if started.done:
            return started.value
        if method.kind == "write":
            return started.finish(_Writing(self._lane, self.ran))
        if method.kind == "read":
            connection = self.file.take_reader()
            try:
                return started.finish(Reading(connection, self.ran))
            finally:
                self.file.give_reader(connection)
        with self._held(method.options) as (connection, _):
            return _run_transaction(Unit(self, self.file, connection, method.options, self.ran), started)

    def retry(self, attempt: Callable[[], T], *, keyed: bool = False) -> T:
        """Run a whole transaction, and again if another process was in its way, within the busy timeout.

        keyed: it has an idempotency key; then it is run again after a lost commit, too.
        """
        retries = Retries(self.file.settings.sqlite_busy_timeout, keyed=keyed)
        while True:
            try:
                return attempt()
            except DalError as error:
                delay = retries.wait(error)
            time.sleep(delay)

    @contextmanager
    def _held(self, options: Options) -> Iterator[tuple[sqlite3.Connection, Callable[[], None]]]:
        """Have a connection for a transaction. Yields it, and what gives it back early."""
        if not options.read_only:
            with self._lane.turn() as release:
                yield self.file.writer, release
            return
        connection = self.file.take_reader()
        release = once(partial(self.file.give_reader, connection))
        try:
            yield connection, release
        finally:
            release()

    @contextmanager
    def unit(self, options: Options) -> Iterator[Unit]:
        """An interactive transaction."""
        refuse_nested(self)
        self.file.check_open()
        with self._held(options) as (connection, release):
            unit = Unit(self, self.file, connection, options, self.ran)

            def expire() -> None:
                unit.expire()
                release()

            timer = threading.Timer(self.file.settings.sqlite_tx_timeout, expire)
            timer.daemon = True
            before = None
            try:
                unit.begin()
                timer.start()
                before = enter(unit)
                yield unit
                unit.commit()
            finally:
                if before is not None:
                    leave(before)
                timer.cancel()
                unit.roll_back()
                unit.dispose()
        if self._close_later:
            self.close()

    @contextmanager
    def savepoint(self, unit: Unit) -> Iterator[None]:
        """A nested transaction."""
        name = unit.savepoint()
        try:
            yield
            unit.release(name)
        except BaseException:
            unit.undo(name)
            raise

    def within(self, unit: Unit) -> Callable[..., Any]:
        """The runner of a transaction's stores."""

        def run(method: Method[Any, ..., T], store: Any, /, *args: Any, **kwargs: Any) -> T:
            started = Started(method, store, self.catalog.view(), args, kwargs)
            if started.done:
                return started.value
            if method.kind != "transaction":
                return started.finish(unit)
            with self.savepoint(unit):
                return started.finish(unit)

        return run

    def figures(self) -> dict[str, float]:
        """The engine's figures at this moment, and its lane's."""
        readers = {"readers": float(len(self.file.readers)), "readers_idle": float(self.file.idle.qsize())}
        return {**readers, **self._lane.figures()}

    def close(self) -> None:
        """Refuse new callers and those that wait, let those that run end, then close. Nothing happens in a forked
        process."""
        if self.file.forked:
            return
        self.file.closing = True
        self._close_later = bool(units_of(self))
        if self._close_later:
            return
        with self._lane.closing():
            if self.file.closed:
                return
            spared = set(self.file.readers)
            end = time.monotonic() + self.file.settings.sqlite_busy_timeout
            with suppress(queue.Empty):
                while spared:
                    spared.discard(self.file.idle.get(timeout=max(0.0, end - time.monotonic())))
            self.file.close(spared)


# --- asyncio ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reader:
    """A connection that reads, and the thread that is its."""

    connection: sqlite3.Connection
    thread: ThreadPoolExecutor


class SqliteAsync:
    """Runs bodies in threads: one for all writing, one for each reader; a body is one hop."""

    def __init__(self, file: File, catalog: Catalog) -> None:
        self.file = file
        self.catalog = catalog
        self.ran: Counter[str] = Counter()
        self._writer = ThreadPoolExecutor(1, "dal-sqlite-writer")
        self._lane = AsyncLane(file, self._writer)
        # The last one used first: threads that take turns cost a read a sixth of its time.
        self._idle = [_Reader(each, ThreadPoolExecutor(1, "dal-sqlite-reader")) for each in file.readers]
        self._readers = [*self._idle]
        self._free = asyncio.Semaphore(len(self._idle))
        self._threads: dict[Unit, ThreadPoolExecutor] = {}  # in which a transaction's statements run
        self._expiring = ThreadPoolExecutor(1, "dal-sqlite-expiry")  # nobody else's: time is up when it is up
        self._close_later = False  # by who is inside a transaction, once that has ended

    async def __call__(self, method: Method[Any, ..., T], store: Any, /, *args: Any, **kwargs: Any) -> T:
        refuse_nested(self)
        self.file.check_open()
        if method.kind == "transaction":
            return await self.retry(lambda: self._attempt(method, store, args, kwargs))
        return await self._attempt(method, store, args, kwargs)

    async def _attempt(self, method: Method[Any, ..., T], store: Any, args: Any, kwargs: Any) -> T:
        started = Started(method, store, self.catalog.view(), args, kwargs)
        if started.done:
            return started.value
        if method.kind == "write":
            return await started.resume(_Writing(self._lane, self.ran))
        if method.kind == "read":
            reader = await self._take_reader()
            try:
                session = Reading(reader.connection, self.ran)
                return await self._hop(reader.thread, reader.connection.interrupt, started.finish, session)
            finally:
                self._give_reader(reader)
        async with self._held(method.options) as (connection, thread, _):
            unit = Unit(self, self.file, connection, method.options, self.ran)
            return await self._hop(thread, partial(self._stop, unit), _run_transaction, unit, started)

    async def retry(self, attempt: Callable[[], Awaitable[T]], *, keyed: bool = False) -> T:
        """Run a whole transaction, and again if another process was in its way, within the busy timeout.

        keyed: it has an idempotency key; then it is run again after a lost commit, too.
        """
        retries = Retries(self.file.settings.sqlite_busy_timeout, keyed=keyed)
        while True:
            try:
                return await attempt()
            except DalError as error:
                delay = retries.wait(error)
            await asyncio.sleep(delay)

    async def _hop(
        self, thread: ThreadPoolExecutor, stop: Callable[[], None] | None, work: Callable[..., T], *args: Any
    ) -> T:
        """Run work in a thread and wait for its end, even when cancelled: it holds a connection until then.

        stop: makes work that was begun end early; None: work that ends something, and is done whoever is cancelled.
        """
        try:
            job = thread.submit(work, *args)
        except RuntimeError:
            self.file.check_open()
            raise
        future = asyncio.wrap_future(job)
        try:
            return await (future if stop else asyncio.shield(future))
        except asyncio.CancelledError:
            # The cancelled future knows nothing of the thread; the job knows whether it can still be stopped.
            if not stop or not job.cancel():
                if stop:
                    stop()
                await _settled(asyncio.wrap_future(job))
                if thread is self._writer:
                    self.file.give_up.clear()
            raise

    def _stop(self, unit: Unit) -> None:
        """End early what a transaction does."""
        unit.fail()
        if not unit.options.read_only:
            self.file.give_up.set()
        unit.interrupt()

    async def _take_reader(self) -> _Reader:
        """A connection and its thread, to be given back when the read or transaction has ended."""
        if self._free.locked():
            limit = self.file.settings.sqlite_busy_timeout
            try:
                async with asyncio.timeout(limit):
                    await self._free.acquire()
            except TimeoutError:
                raise waited(limit, "a reader") from None
        else:
            await self._free.acquire()
        return self._idle.pop()

    def _give_reader(self, reader: _Reader) -> None:
        if self.file.closed:
            reader.connection.close()  # it was spared then
        self._idle.append(reader)
        self._free.release()

    @asynccontextmanager
    async def _held(
        self, options: Options
    ) -> AsyncIterator[tuple[sqlite3.Connection, ThreadPoolExecutor, Callable[[], None]]]:
        """Have a connection for a transaction. Yields it, its thread, and what gives it back early."""
        if not options.read_only:
            async with self._lane.turn() as release:
                yield self.file.writer, self._writer, release
            return
        reader = await self._take_reader()
        release = once(partial(self._give_reader, reader))
        try:
            yield reader.connection, reader.thread, release
        finally:
            release()

    @asynccontextmanager
    async def unit(self, options: Options) -> AsyncIterator[Unit]:
        """An interactive transaction."""
        refuse_nested(self)
        self.file.check_open()
        async with self._held(options) as (connection, thread, release):
            unit = Unit(self, self.file, connection, options, self.ran)
            self._threads[unit] = thread
            try:
                await self._hop(thread, partial(self._stop, unit), unit.begin)
                watchdog = asyncio.create_task(self._expire(unit, release))
                before = enter(unit)
                try:
                    yield unit
                finally:
                    leave(before)
                    watchdog.cancel()
                await self._hop(thread, partial(self._stop, unit), unit.commit)
            finally:
                try:
                    await self._hop(thread, None, self._end, unit)
                finally:
                    del self._threads[unit]
        if self._close_later:
            await self.close()

    @staticmethod
    def _end(unit: Unit) -> None:
        unit.roll_back()
        unit.dispose()

    async def _expire(self, unit: Unit, release: Callable[[], None]) -> None:
        await asyncio.sleep(self.file.settings.sqlite_tx_timeout)
        # Not in the unit's thread: a statement may be running there, which expire stops.
        await asyncio.shield(asyncio.wrap_future(self._expiring.submit(unit.expire)))
        release()

    @asynccontextmanager
    async def savepoint(self, unit: Unit) -> AsyncIterator[None]:
        """A nested transaction."""
        thread = self._thread_of(unit)
        name = await self._hop(thread, None, unit.savepoint)
        try:
            yield
            await self._hop(thread, partial(self._stop, unit), unit.release, name)
        except BaseException:
            await self._hop(thread, None, unit.undo, name)
            raise

    def _thread_of(self, unit: Unit) -> ThreadPoolExecutor:
        # One that has ended only refuses, wherever it is asked.
        return self._threads.get(unit, self._writer)

    def within(self, unit: Unit) -> Callable[..., Any]:
        """The runner of a transaction's stores."""

        async def run(method: Method[Any, ..., T], store: Any, /, *args: Any, **kwargs: Any) -> T:
            started = Started(method, store, self.catalog.view(), args, kwargs)
            if started.done:
                return started.value
            thread, stop = self._thread_of(unit), partial(self._stop, unit)
            try:
                if method.kind != "transaction":
                    return await self._hop(thread, stop, started.finish, unit)
                async with self.savepoint(unit):
                    return await self._hop(thread, stop, started.finish, unit)
            except asyncio.CancelledError:
                unit.fail()
                raise

        return run

    def figures(self) -> dict[str, float]:
        """The engine's figures at this moment, and its lane's."""
        readers = {"readers": float(len(self._readers)), "readers_idle": float(len(self._idle))}
        return {**readers, **self._lane.figures()}

    async def close(self) -> None:
        """Refuse new callers and those that wait, let those that run end, then close. Nothing happens in a forked
        process."""
        if self.file.forked:
            return
        self.file.closing = True
        self._close_later = bool(units_of(self))
        if self._close_later:
            return
        async with self._lane.closing():
            if self.file.closed:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(self.file.settings.sqlite_busy_timeout):
                    for _ in self._readers:
                        await self._free.acquire()
            spared = [reader.connection for reader in self._readers if reader not in self._idle]
            await self._hop(self._writer, None, self.file.close, spared)
        for thread in (self._writer, self._expiring, *(reader.thread for reader in self._readers)):
            thread.shutdown(wait=False)


async def _settled(future: asyncio.Future[Any]) -> None:
    while not future.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([future])
    if not future.cancelled():
        future.exception()  # looked at: the caller learns of the cancellation instead

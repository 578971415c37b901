"""psycopg's pool as a "wire": the calls that wait for the network, written twice.

They are coroutines, and those of the blocking wire never suspend. Everything above a wire is written once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any, Protocol, TypeVar

import psycopg_pool

from dal.core.postgres_connection import (
    AsyncConnection,
    Connection,
    Rows,
    connection_arguments,
    emptied,
    execute,
    has_rows,
)
from dal.settings import Settings

T = TypeVar("T")

log = logging.getLogger("dal.postgres")


def _pool_arguments(settings: Settings) -> dict[str, Any]:
    return {
        "kwargs": {
            "autocommit": True,
            "prepare_threshold": None if settings.postgres_pooler == "pgbouncer" else 5,
            **connection_arguments(settings),
        },
        "min_size": settings.postgres_pool_min_size,
        "max_size": settings.postgres_pool_max_size,
        "max_waiting": settings.postgres_pool_max_waiting,
        "timeout": settings.postgres_pool_timeout,
        "max_idle": settings.postgres_pool_max_idle,
        "max_lifetime": settings.postgres_pool_max_lifetime,
        # One further attempt after a second, and then no more of them unless somebody waits: psycopg_pool would double
        # its pauses, so that a server down for a minute would be missed for another one.
        "reconnect_timeout": 1.0,
        "name": "dal",
        "open": False,
    }


class Wire(Protocol):
    """The calls that wait. failure: why no connection could be made, the last time that none could."""

    pool: Any
    failure: list[str]

    async def open(self) -> None: ...
    async def close(self, seconds: float) -> None: ...
    async def take(self, seconds: float) -> Any: ...
    async def give(self, connection: Any) -> None: ...
    async def execute(self, connection: Any, sql: bytes, values: Sequence[object], prepare: bool | None) -> Rows: ...
    async def drain(self) -> None: ...
    async def sleep(self, seconds: float) -> None: ...
    async def to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Run what must not be left half done, whoever is cancelled meanwhile."""
        ...

    def check(self) -> None:
        """Start replacing the broken ones among the connections at rest; nothing happens while that is going on."""
        ...

    def cut(self, connection: Any) -> None:
        """End what a borrower is doing with it, wherever that stands."""
        ...


class _Queue(deque[Any]):
    """A pool's waiting clients; mine.client: the last one that this thread put there."""

    def __init__(self) -> None:
        super().__init__()
        self.mine = threading.local()

    def append(self, client: Any, /) -> None:
        self.mine.client = client
        super().append(client)


class _BlockingPool(psycopg_pool.ConnectionPool[Connection]):
    """A pool whose waiting callers may be interrupted.

    psycopg_pool forgets a waiting client only on an Exception. After a KeyboardInterrupt, or gevent's GreenletExit and
    Timeout, it would hand a connection to a caller who is gone.
    """

    _waiting: _Queue

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._waiting = _Queue()

    def getconn(self, timeout: float | None = None) -> Connection:
        mine = self._waiting.mine
        mine.client = None
        try:
            return super().getconn(timeout)
        except Exception:
            raise
        except BaseException:
            client = mine.client
            if client is not None and not client.fail(psycopg_pool.PoolTimeout()) and client.conn is not None:
                client.conn._pool = self
                self.putconn(client.conn)
            raise


class BlockingWire:
    """What waits, by blocking the thread."""

    def __init__(self, settings: Settings) -> None:
        self.failure: list[str] = []
        self.pool = _BlockingPool(
            connection_class=type("Connection", (Connection,), {"failure": self.failure}),
            configure=Connection.configure,
            reconnect_failed=_ask_again,
            **_pool_arguments(settings),
        )
        self._checking: threading.Thread | None = None
        self._one_check = threading.Lock()

    async def open(self) -> None:
        self.pool.open()

    async def close(self, seconds: float) -> None:
        self.pool.close(seconds)
        if self._checking is not None:
            self._checking.join(seconds)

    async def take(self, seconds: float) -> Connection:
        return self.pool.getconn(seconds)

    async def give(self, connection: Connection) -> None:
        self.pool.putconn(connection)

    async def execute(self, connection: Connection, sql: bytes, values: Sequence[object], prepare: bool | None) -> Rows:
        return execute(connection, sql, values, prepare)

    async def drain(self) -> None:
        self.pool.drain()

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - the blocking wire

    async def to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        return await work

    def check(self) -> None:
        if self._one_check.acquire(blocking=False):
            self._checking = threading.Thread(target=self._check, name="dal-check", daemon=True)
            self._checking.start()

    def _check(self) -> None:
        try:
            self.pool.check()
        except Exception:
            log.exception("the pool could not be checked")
        finally:
            self._one_check.release()

    def cut(self, connection: Connection) -> None:
        connection.dal.until = -math.inf  # whoever waits for the server on it notices
        if connection.lock.acquire(blocking=False):  # nobody waits on it
            try:
                connection.close()
            finally:
                connection.lock.release()


class AsyncWire:
    """What waits, in the running event loop."""

    def __init__(self, settings: Settings) -> None:
        self.failure: list[str] = []
        self.pool: psycopg_pool.AsyncConnectionPool[AsyncConnection] = psycopg_pool.AsyncConnectionPool(
            connection_class=type("AsyncConnection", (AsyncConnection,), {"failure": self.failure}),
            configure=AsyncConnection.configure,
            reconnect_failed=_ask_again_async,
            **_pool_arguments(settings),
        )
        self._checking: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self.pool.open()

    async def close(self, seconds: float) -> None:
        await self.pool.close(seconds)
        if self._checking is not None and not self._checking.done():
            await asyncio.wait([self._checking], timeout=seconds)
            self._checking.cancel()

    async def take(self, seconds: float) -> AsyncConnection:
        task = asyncio.current_task()
        asked = task.cancelling() if task else 0
        connection = await self.pool.getconn(seconds)
        if task and task.cancelling() > asked:
            # Until Python 3.12 wait_for, in which callers queue, drops a cancellation that comes with the answer.
            await self.give(connection)
            raise asyncio.CancelledError
        return connection

    async def give(self, connection: AsyncConnection) -> None:
        try:
            await self.to_its_end(self.pool.putconn(connection))
        except RuntimeError:  # its event loop was closed, and with it the pool's own tasks
            connection.pgconn.finish()

    async def execute(
        self, connection: AsyncConnection, sql: bytes, values: Sequence[object], prepare: bool | None
    ) -> Rows:
        cursor = connection.dal_cursor
        await cursor.execute(sql, values, prepare=prepare)
        if not has_rows(cursor):
            return (), cursor.rowcount
        return emptied(cursor, await cursor.fetchall())

    async def drain(self) -> None:
        await self.to_its_end(self.pool.drain())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            waiting = work.send(None)
        except StopIteration as stop:
            answer: T = stop.value
            return answer  # as nearly always: a task for it would cost a tenth of a point read
        task: asyncio.Task[T] = asyncio.create_task(_resumed(work, waiting))
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            if not task.cancelled():
                task.exception()  # looked at: the caller learns of the cancellation instead
            raise cancelled
        return task.result()

    def check(self) -> None:
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check(), name="dal-check")

    async def _check(self) -> None:
        try:
            await self.pool.check()
        except Exception:
            log.exception("the pool could not be checked")

    def cut(self, connection: AsyncConnection) -> None:
        connection.dal.until = -math.inf
        if not connection.lock.locked():
            connection.pgconn.finish()


async def _resumed(work: Coroutine[Any, Any, T], waiting: Any) -> T:
    answer: T = await _Resumed(work, waiting)
    return answer


class _Resumed:
    """A coroutine that has been started elsewhere and waits for what it has yielded, to be awaited to its end."""

    def __init__(self, work: Coroutine[Any, Any, Any], waiting: Any) -> None:
        self._work = work
        self._waiting = waiting

    def __await__(self) -> Generator[Any, Any, Any]:
        waiting = self._waiting
        while True:
            resume: Callable[[Any], Any]
            try:
                heard = yield waiting
                resume = self._work.send
            except BaseException as error:
                resume, heard = self._work.throw, error
            try:
                waiting = resume(heard)
            except StopIteration as stop:
                return stop.value


def _ask_again(pool: psycopg_pool.ConnectionPool[Any]) -> None:
    """Go on trying to connect while somebody waits; those who come later start an attempt of their own."""
    if pool.get_stats().get("requests_waiting"):
        pool.check()  # what psycopg_pool has for it: it lets a pool grow that has given up


async def _ask_again_async(pool: psycopg_pool.AsyncConnectionPool[Any]) -> None:
    if pool.get_stats().get("requests_waiting"):
        await pool.check()

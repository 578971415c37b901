"""Bodies on PostgreSQL: one psycopg pool, blocking or asyncio, behind one engine.

The engine is written once, as coroutines over the few calls that wait for the network. Behind the blocking face those
calls are psycopg's blocking ones in the dress of coroutines, so nothing suspends and the engine is driven by ``send``.

Connections are in autocommit mode; BEGIN and COMMIT are sent where a transaction is meant. Each keeps one cursor, whose
type lookups are made once: a quarter of a point read's time.

What is run again: a read once, when its connection was lost; a write and a whole transaction while it is known that
nothing was done and the deadline allows; what carries a key also when the outcome is unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from dal.core.catalog import Catalog
from dal.core.face import Method, Options, Retries, Started, enter, leave, may_run_again, refuse_nested, units_of
from dal.core.postgres_errors import DriverError, Phase, known
from dal.core.postgres_lender import Lender
from dal.core.postgres_pool import AsyncWire, BlockingWire, Wire
from dal.core.postgres_unit import Session, Unit
from dal.errors import DalError, ReadOnly
from dal.settings import Settings

T = TypeVar("T")


class _Core:
    """The engine, over a wire."""

    def __init__(self, settings: Settings, catalog: Catalog, wire: Wire) -> None:
        self.settings = settings
        self.catalog = catalog
        self.wire = wire
        self.lender = Lender(settings, wire)
        self.ran: Counter[str] = Counter()

    async def run(self, method: Method[Any, ..., T], store: Any, args: Any, kwargs: Any) -> T:
        """Run a method outside any transaction of the caller's."""
        refuse_nested(self)
        if method.kind == "transaction":
            return await self.retry(lambda: self._transaction(method, store, args, kwargs))
        started = Started(method, store, self.catalog.view(), args, kwargs)
        if started.done:
            return started.value
        phase: Phase = "undone" if method.kind == "read" else "write"
        session: Session | None = None
        try:
            session = Session(self.lender, self.ran, await self.lender.take(), phase)
            return await started.resume(session)
        except DalError as error:
            keyed = method.is_keyed(kwargs)
            if session is None or not may_run_again(error, keyed=keyed):
                raise
            fault = error
        finally:
            if session is not None:
                await self.lender.give(session.connection)

        async def attempt() -> T:
            started = Started(method, store, self.catalog.view(), args, kwargs)
            connection = await self.lender.take(probe=True)
            try:
                return await started.resume(Session(self.lender, self.ran, connection, phase, prepare=False))
            finally:
                await self.lender.give(connection)

        if phase == "undone":
            self.lender.counts["retried"] += 1
            return await attempt()
        return await self._run_again(attempt, fault, keyed=keyed)

    async def _transaction(self, method: Method[Any, ..., T], store: Any, args: Any, kwargs: Any) -> T:
        started = Started(method, store, self.catalog.view(), args, kwargs)
        if started.done:
            return started.value
        async with self.unit(method.options, nested=True) as unit:
            return await started.resume(unit)

    async def run_within(self, unit: Unit, method: Method[Any, ..., T], store: Any, args: Any, kwargs: Any) -> T:
        """Run a method in a transaction; a method that is one itself becomes a savepoint."""
        started = Started(method, store, self.catalog.view(), args, kwargs)
        if started.done:
            return started.value
        if method.kind != "transaction":
            return await started.resume(unit)
        async with self.savepoint(unit):
            return await started.resume(unit)

    async def retry(self, attempt: Callable[[], Coroutine[Any, Any, T]], *, keyed: bool = False) -> T:
        """Run a whole unit of work, and again while it is known that nothing was done, within the deadline.

        keyed: it carries a key, so that it takes effect once however often it is run: again after OutcomeUnknown, too.
        """
        try:
            return await attempt()
        except (DalError, DriverError) as error:
            fault = error
        return await self._run_again(attempt, fault, keyed=keyed)

    async def _run_again(
        self, attempt: Callable[[], Coroutine[Any, Any, T]], fault: DalError | DriverError, *, keyed: bool
    ) -> T:
        """Go on with what has failed once, if it may be. A transaction takes its deadline anew with each attempt."""
        retries = Retries(self.settings.postgres_deadline, keyed=keyed)
        moved = False
        while True:
            if moved and isinstance(fault, ReadOnly):
                raise fault
            moved = moved or isinstance(fault, ReadOnly)
            meant = known(fault)
            try:
                delay = retries.wait(meant)
            except DalError as leaving:
                if leaving is meant and fault is not meant:
                    raise fault from fault.__cause__  # an application's own statement failed: in the driver's words
                raise
            self.lender.counts["retried"] += 1
            await self.wire.sleep(delay)
            try:
                return await attempt()
            except (DalError, DriverError) as error:
                fault = error

    @asynccontextmanager
    async def unit(self, options: Options, *, nested: bool = False) -> AsyncIterator[Unit]:
        """A transaction. nested: a method's own, which its caller does not see."""
        refuse_nested(self)
        connection = await self.lender.take()
        unit = Unit(self, self.lender, self.ran, options, connection)
        try:
            await unit.begin()
            before = () if nested else enter(unit)
            try:
                yield unit
            finally:
                if not nested:
                    leave(before)
            await unit.commit()
        finally:
            await self.wire.to_its_end(self._end(unit, connection))

    async def _end(self, unit: Unit, connection: Any) -> None:
        try:
            await unit.roll_back()
        finally:
            await self.lender.give(connection)

    @asynccontextmanager
    async def savepoint(self, unit: Unit) -> AsyncIterator[None]:
        """A nested transaction."""
        name = await unit.savepoint()
        try:
            yield
            await unit.release(name)
        except BaseException:
            await unit.undo(name)
            raise

    async def close(self) -> None:
        """Close the pool: waiting callers get Closed, running calls a few seconds to end in."""
        await self.lender.close([unit.connection for unit in units_of(self) if isinstance(unit, Unit)])


# --- the two faces ----------------------------------------------------------------------------------------------------


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends. Raises TypeError if it does."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    coroutine.close()
    raise TypeError("a store's body awaits something that is no query; that works on the async face only")


class Driven:
    """An async context manager that never suspends, as a blocking one."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __enter__(self) -> Any:
        return drive(self._inner.__aenter__())

    def __exit__(self, *raised: Any) -> Any:
        return drive(self._inner.__aexit__(*raised))


class PostgresSync:
    """Runs bodies on the blocking pool."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        """Opens the pool; connections are made in the background."""
        self._core = _Core(settings, catalog, BlockingWire(settings))
        self.ran = self._core.ran
        self.figures = self._core.lender.figures
        drive(self._core.wire.open())

    def __call__(self, method: Method[Any, ..., T], store: Any, /, *args: Any, **kwargs: Any) -> T:
        return drive(self._core.run(method, store, args, kwargs))

    def retry(self, attempt: Callable[[], T], *, keyed: bool = False) -> T:
        """Run a whole unit of work, and again while it is known that nothing was done, within the deadline.

        keyed: it carries a key, so that it takes effect once however often it is run: again after OutcomeUnknown, too.
        """

        async def run() -> T:
            return attempt()

        return drive(self._core.retry(run, keyed=keyed))

    def unit(self, options: Options) -> Driven:
        """An interactive transaction."""
        return Driven(self._core.unit(options))

    def savepoint(self, unit: Unit) -> Driven:
        """A nested transaction."""
        return Driven(self._core.savepoint(unit))

    def within(self, unit: Unit) -> Callable[..., Any]:
        """The runner of a transaction's stores."""

        def run(method: Method[Any, ..., T], store: Any, /, *args: Any, **kwargs: Any) -> T:
            return drive(self._core.run_within(unit, method, store, args, kwargs))

        return run

    def close(self) -> None:
        """Close the pool: waiting callers get Closed, running calls a few seconds to end in."""
        drive(self._core.close())


class PostgresAsync:
    """Runs bodies on the asyncio pool, in the loop that opened it."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._core = _Core(settings, catalog, AsyncWire(settings))
        self.ran = self._core.ran
        self.figures = self._core.lender.figures
        self.retry = self._core.retry
        self.unit = self._core.unit
        self.savepoint = self._core.savepoint

    async def open(self) -> None:
        """Open the pool; connections are made in the background."""
        await self._core.wire.open()

    def __call__(self, method: Method[Any, ..., T], store: Any, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, T]:
        return self._core.run(method, store, args, kwargs)

    def within(self, unit: Unit) -> Callable[..., Any]:
        """The runner of a transaction's stores."""

        def run(method: Method[Any, ..., T], store: Any, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, T]:
            return self._core.run_within(unit, method, store, args, kwargs)

        return run

    async def close(self) -> None:
        """Close the pool: waiting callers get Closed, running calls a few seconds to end in."""
        await self._core.close()

"""The writer lane of a SQLite file: who writes next, and how many writes share one commit.

Whoever finds the lane free leads: it takes the writes that wait, in their order, runs each in a savepoint of one
transaction, commits once, and only then are their callers answered. So a hundred writers wait for the disk together. A
write that fails undoes itself alone; one that takes the whole transaction with it (a full disk) leaves the others to be
run again, each by itself. Then the lane goes to the next in line. A transaction takes its turn like a write, and has
the lane to itself.

The line is bounded, and first come, first served.
"""

from __future__ import annotations

import asyncio
import copy
import sqlite3
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from functools import partial
from types import BuiltinFunctionType

from dal.core.catalog import Query
from dal.core.sqlite_file import File, Rows, Values, roll_back, run_script, translate, waited
from dal.errors import Closed, DalError, InvalidState, OutcomeUnknown, Overloaded

MOST = 256  # writes in one group: it bounds how long the first of them waits for the last


class Place:
    """A place in the line. gate: what its owner waits at; None for one who need not wait.

    given: the lane is its owner's, who must pass it on. heir: whom to, once decided; a None in it: nobody waits.
    left: its owner is done with it. fault: it will never be given.
    """

    __slots__ = ("fault", "gate", "given", "heir", "left")

    def __init__(self) -> None:
        self.gate: threading.Event | asyncio.Future[None] | None = None
        self.given = self.left = False
        self.heir: list[Place | None] = []
        self.fault: BaseException | None = None


class Write(Place):
    """A query in the line, and what came of it.

    begun: the transaction it is in has begun, so it can no longer be taken back. dropped: nobody waits for it any more.
    settled: its outcome is known. told: its caller's loop has been told so.
    """

    __slots__ = ("begun", "dropped", "query", "rows", "settled", "told", "values")

    def __init__(self, query: Query, values: Values) -> None:
        super().__init__()
        self.query = query
        self.values = values
        self.rows: Rows = ((), 0)
        self.begun = self.dropped = self.settled = self.told = False

    def fail(self, error: BaseException) -> None:
        """Keep what went wrong, as an error of ours."""
        if isinstance(error, sqlite3.Error):
            self.fault = translate(error, self.query)
            self.fault.__cause__ = error
        elif isinstance(error, DalError):
            # A copy for each caller: a raised exception collects its own traceback.
            self.fault = copy.copy(error)
            self.fault.query, self.fault.__cause__ = self.query.name, error.__cause__
        else:
            self.fault = error

    def answer(self) -> Rows:
        """The rows; raises what went wrong."""
        if self.fault is not None:
            raise self.fault
        return self.rows


def _unfailed(group: Sequence[Write]) -> list[Write]:
    """Those that somebody waits for and that did not fail by themselves."""
    return [each for each in group if not each.fault and not each.dropped]


class Lane:
    """The line and the one transaction at its head, whoever waits and however."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._mutex = threading.Lock()  # of all below; never held while anything waits
        self._line: deque[Place] = deque()
        self._taken = False
        self._closed = False
        self._beginning: list[Write] = []  # a group whose transaction waits for another process's to end
        self._alone: Write | None = None  # in a transaction of its own
        self.commits = 0
        self.writes = 0

    def figures(self) -> dict[str, float]:
        """The lane's figures: whether it is taken and how many wait; since it was opened, writes and their commits."""
        return {
            "writing": float(self._taken),
            "writers_waiting": float(len(self._line)),
            "writes": float(self.writes),
            "commits": float(self.commits),
        }

    # --- the line ---

    def _join(self, place: Place, *, closing: bool = False) -> bool:
        """Stand in line; True if the lane was free and is this place's now. Raises Closed, Overloaded."""
        with self._mutex:
            if self._closed and not closing:
                raise Closed("open another with dal.connect")
            if not self._taken:
                self._taken = place.given = True
                return True
            if len(self._line) >= self._file.settings.sqlite_max_waiting and not closing:
                raise Overloaded(f"{len(self._line)} callers are waiting for their turn to write", retry_after=1.0)
            place.gate = self._new_gate()
            self._line.append(place)
            return False

    def _new_gate(self) -> threading.Event | asyncio.Future[None]:
        raise NotImplementedError

    def _leave(self, place: Place) -> bool:
        """Leave the line; False if the place is in it no more."""
        with self._mutex, suppress(ValueError):
            self._line.remove(place)
            return True
        return False

    def _drop(self, write: Write) -> bool:
        """Nobody waits for this write any more; whether that is early enough for it never to be done."""
        with self._mutex:
            write.dropped = True
            if self._beginning and all(each.dropped for each in self._beginning):
                self._file.give_up.set()
            return not write.begun and not write.settled

    def _choose(self, place: Place) -> Place | None:
        """Decide whose the lane is after this place, and tell; None: nobody's. Asked again, it says the same.

        So it may be interrupted anywhere, and be run again; in this order, nobody gets lost.
        """
        with self._mutex:
            if not place.heir:
                if not self._line:
                    self._taken = False
                    place.heir.append(None)
                else:
                    heir = self._line[0]
                    heir.given = True
                    place.heir.append(heir)
            heir_or_none = place.heir[0]
            if heir_or_none is not None and self._line and self._line[0] is heir_or_none:
                self._line.popleft()
            return heir_or_none

    def _shut(self) -> None:
        """Refuse who comes, and who waits."""
        with self._mutex:
            self._closed = True
            left = list(self._line)
            self._line.clear()
        for place in left:
            place.fault = Closed("it was closed meanwhile; open another with dal.connect")
        self._tell(left)

    def _tell(self, places: Sequence[Place]) -> None:
        """Wake the owners of places that are settled, or in the line no more."""
        raise NotImplementedError

    # --- a group ---

    def _run_group(self, first: Write) -> None:
        """Run a write and those that wait behind it, and answer them."""
        if not isinstance(time.sleep, BuiltinFunctionType):
            # gevent's: its greenlets join the line only here, while threads do so whenever the disk is waited for.
            seen = -1
            while seen < len(self._line):
                seen = len(self._line)
                time.sleep(0)
        group = [first]
        try:
            self._gather(group)
            self._run(group)
        except Exception as error:
            self._settle([each for each in group if not each.settled], error)
        except BaseException:
            # Thrown into this thread from outside, such as KeyboardInterrupt: nobody else's write is lost by it.
            with self._mutex:
                waiting = set(self._line)
                again = [each for each in group[1:] if not (each.settled or each.dropped or each in waiting)]
                for each in again:
                    each.begun, each.fault = False, None
                self._line.extendleft(reversed(again))
            raise
        finally:
            self._tell([each for each in group if each.settled])

    def _gather(self, group: list[Write]) -> None:
        """Add the writes at the head of the line."""
        with self._mutex:
            while self._line and len(group) < MOST:
                place = self._line[0]
                if not isinstance(place, Write):
                    break
                group.append(place)
                self._line.popleft()

    def _run(self, group: list[Write]) -> None:
        with self._mutex:
            self._beginning = group
        begun: list[Write] = []
        rest: list[Write] = []
        try:
            try:
                self._file.begin_writing()
            finally:
                begun = self._begin(group)
            rest = self._run_begun(begun)
        except sqlite3.Error as error:
            self._settle(group, error)
        finally:
            with self._mutex:
                self._alone = None
            with suppress(sqlite3.Error):
                roll_back(self._file.writer)
        self._settle([each for each in group if each not in rest] if rest else group)
        for each in rest:
            self._run([each])

    def _begin(self, group: list[Write]) -> list[Write]:
        """From here on a write of the group cannot be taken back; returns those that somebody still waits for."""
        with self._mutex:
            self._beginning = []
            self._file.give_up.clear()
            begun = [each for each in group if not each.dropped]
            for each in begun:
                each.begun = True
            if len(begun) == 1:
                self._alone = begun[0]
            return begun

    def _run_begun(self, begun: list[Write]) -> list[Write]:
        """Run writes in the transaction that has begun, and commit; returns those to be run again, each by itself."""
        writer = self._file.writer
        committing = False
        try:
            for each in begun:
                self._run_one(each, savepoint=len(begun) > 1)
                if not writer.in_transaction:  # SQLite undid all of it, not only this write
                    return _unfailed(begun)
            if not _unfailed(begun):
                return []
            committing = True
            self._file.commit()
            self._settle(begun)
            self.commits += 1
            self.writes += len(_unfailed(begun))
        except (sqlite3.Error, DalError) as error:
            if len(begun) > 1 and not isinstance(error, OutcomeUnknown):
                return _unfailed(begun)  # such as a constraint that is deferred: one of them breaks it
            for each in begun:
                each.fail(each.fault or error)
        except BaseException:
            if committing and not writer.in_transaction:
                self._settle(begun)
            raise
        return []

    def _run_one(self, each: Write, *, savepoint: bool) -> None:
        writer = self._file.writer
        if savepoint:
            writer.execute("savepoint dal_write")
        try:
            each.rows = run_script(writer, each.query, each.values)
        except Exception as error:
            each.fail(error)
        if not writer.in_transaction:
            return
        if savepoint:
            if each.fault or each.dropped:
                writer.execute("rollback to dal_write")
            writer.execute("release dal_write")

    def _settle(self, group: Sequence[Write], error: BaseException | None = None) -> None:
        with self._mutex:
            for each in group:
                if error is not None:
                    each.fail(error)
                each.settled = True

    def _interrupt(self, write: Write) -> None:
        """Stop a write that nobody waits for, if no other shares its transaction."""
        with self._mutex:
            if self._alone is write:
                self._file.writer.interrupt()


# --- threads ----------------------------------------------------------------------------------------------------------


class BlockingLane(Lane):
    """The lane of threads: one of those that write leads, and no thread is kept for it."""

    def write(self, query: Query, values: Values) -> Rows:
        """Run a query in a transaction; returns once it is committed. Raises DalError."""
        write = Write(query, values)
        try:
            if self._join(write) or self._wait(write):
                self._run_group(write)
        finally:
            thrown = None
            while not write.left:
                try:
                    self._abandon(write)
                except Exception:
                    raise
                except BaseException as error:  # an interrupt must not keep the lane from the next
                    thrown = error
            if thrown is not None:
                raise thrown
        return write.answer()

    def turn(self) -> AbstractContextManager[Callable[[], None]]:
        """Have the lane, with nobody else in it. Yields what gives it back early."""
        return self._turn()

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Refuse all who wait and all to come, and have the lane once its present owner passes it on."""
        self._shut()
        with self._turn(closing=True):
            yield

    @contextmanager
    def _turn(self, *, closing: bool = False) -> Iterator[Callable[[], None]]:
        place = Place()
        try:
            if not self._join(place, closing=closing):
                self._wait(place, closing=closing)
            yield partial(self._abandon, place)
        finally:
            thrown = None
            while not place.left:
                try:
                    self._abandon(place)
                except Exception:
                    raise
                except BaseException as error:  # as in write
                    thrown = error
            if thrown is not None:
                raise thrown

    def _wait(self, place: Place, *, closing: bool = False) -> bool:
        """Wait until the lane is this place's: True; or until its write is settled: False."""
        gate, limit = place.gate, self._file.settings.sqlite_busy_timeout
        assert isinstance(gate, threading.Event)
        if not gate.wait(None if closing else limit) and self._leave(place):
            raise waited(limit, "its turn to write")
        gate.wait()  # a group that it is in already is waited for
        if place.fault is not None and not isinstance(place, Write):
            raise place.fault
        return place.given

    def _abandon(self, place: Place) -> None:
        """Pass the lane on, or leave the line or the group. May be interrupted, and be run again."""
        if place.left:
            return
        if place.given:
            heir = self._choose(place)
            if heir is not None:
                self._tell([heir])
        elif not self._leave(place) and isinstance(place, Write) and not place.settled:
            self._drop(place)
        place.left = not place.given or bool(place.heir)

    def _new_gate(self) -> threading.Event:
        return threading.Event()

    def _tell(self, places: Sequence[Place]) -> None:
        for place in places:
            if isinstance(place.gate, threading.Event):
                place.gate.set()


# --- asyncio ----------------------------------------------------------------------------------------------------------


class AsyncLane(Lane):
    """The lane of tasks: a thread of its own leads, and those who wait hold none."""

    def __init__(self, file: File, thread: ThreadPoolExecutor) -> None:
        super().__init__(file)
        self._thread = thread
        self._loop = asyncio.get_running_loop()

    async def write(self, query: Query, values: Values) -> Rows:
        """Run a query in a transaction; returns once it is committed. Raises DalError.

        Cancelled, it is taken back, or undone, or done, and known to be one of them.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise InvalidState("this Dal belongs to another event loop: open one with dal.aconnect in this one")
        write = Write(query, values)
        if self._join(write):
            write.gate = self._new_gate()
            self._thread.submit(self._lead, write)
        try:
            await self._wait(write)
        except asyncio.CancelledError:
            if not self._leave(write) and not self._drop(write):
                self._interrupt(write)
                await self._told(write)
            raise
        return write.answer()

    def turn(self) -> AbstractAsyncContextManager[Callable[[], None]]:
        """Have the lane, with nobody else in it. Yields what gives it back early."""
        return self._turn()

    @asynccontextmanager
    async def closing(self) -> AsyncIterator[None]:
        """Refuse all who wait and all to come, and have the lane once its present owner passes it on."""
        self._shut()
        async with self._turn(closing=True):
            yield

    @asynccontextmanager
    async def _turn(self, *, closing: bool = False) -> AsyncIterator[Callable[[], None]]:
        place = Place()
        if not self._join(place, closing=closing):
            try:
                await self._wait(place, closing=closing)
            except asyncio.CancelledError:
                if not self._leave(place) and place.given:
                    self._pass_on(place)
                raise
            if place.fault is not None:
                raise place.fault
        release = once(partial(self._pass_on, place))
        try:
            yield release
        finally:
            release()

    async def _wait(self, place: Place, *, closing: bool = False) -> None:
        assert isinstance(place.gate, asyncio.Future)
        if closing:
            await place.gate
            return
        limit = self._file.settings.sqlite_busy_timeout
        timer = self._loop.call_later(limit, self._expire, place, limit)
        try:
            await place.gate
        finally:
            timer.cancel()

    def _expire(self, place: Place, limit: float) -> None:
        if self._leave(place):
            place.fault = waited(limit, "its turn to write")
            self._wake([place])

    async def _told(self, write: Write) -> None:
        """Wait, whatever is cancelled meanwhile, for a write to end."""
        while not write.told:
            write.gate = self._loop.create_future()
            with suppress(asyncio.CancelledError):
                await write.gate

    def _lead(self, write: Write) -> None:
        """In the lane's thread: run group after group, until a transaction's turn comes or nobody is in line."""
        place: Place | None = write
        while isinstance(place, Write):
            self._run_group(place)
            place = self._choose(place)
        if place is not None:
            self._tell([place])

    def _pass_on(self, place: Place) -> None:
        heir = self._choose(place)
        if isinstance(heir, Write):
            self._thread.submit(self._lead, heir)
        elif heir is not None:
            self._tell([heir])

    def _new_gate(self) -> asyncio.Future[None]:
        return self._loop.create_future()

    def _tell(self, places: Sequence[Place]) -> None:
        with suppress(RuntimeError):  # the loop is closed, and with it all who waited
            self._loop.call_soon_threadsafe(self._wake, places)

    @staticmethod
    def _wake(places: Sequence[Place]) -> None:
        for place in places:
            if isinstance(place, Write):
                place.told = True
            if isinstance(place.gate, asyncio.Future) and not place.gate.done():
                place.gate.set_result(None)


def once(action: Callable[[], None]) -> Callable[[], None]:
    """The action, done by whoever calls first and by nobody after."""
    token = threading.Lock()

    def first() -> None:
        if token.acquire(blocking=False):
            action()

    return first

"""Bodies on SQLite: one writer lane and a few readers for each file and process.

The lane is a lock around the one writing connection. A write holds it for one transaction; an interactive transaction
holds it until it ends or its time is up. From asyncio the lane is an asyncio lock and a thread of its own, so a body
costs one hop, and a hundred waiting callers hold no threads.
"""

from __future__ import annotations

import asyncio
import errno
import os
import queue
import sqlite3
import stat
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from dal.core.catalog import Catalog, Query
from dal.core.face import Method, Options, Retries, Started, enter, leave, refuse_nested
from dal.errors import (
    Closed,
    Conflict,
    CorruptDatabase,
    DalError,
    Invalid,
    Overloaded,
    SchemaError,
    TransactionAborted,
    Unavailable,
    from_sqlite_code,
)
from dal.settings import Settings

T = TypeVar("T")

APPLICATION_ID = 0x64616C31  # "dal1", in the file's header: tells our files from other people's
OLDEST = (3, 38, 0)


# --- one file, its connections ----------------------------------------------------------------------------------------


def translate(error: sqlite3.Error, query: Query | None = None) -> DalError:
    """Our error for sqlite3's, by its code. SQLite's messages name tables and columns, never a value."""
    code = getattr(error, "sqlite_errorcode", None)
    kind = from_sqlite_code(code)
    name = query.name if query else None
    detail = str(error)
    if kind is Invalid:
        detail = "a value or row is larger than SQLite takes"
    if kind is SchemaError and query is not None:
        detail = f"{detail}, in {query.name}, {query.where()}"
    if code is None and isinstance(error, sqlite3.ProgrammingError):
        kind = Closed
    elif code is None and isinstance(error, sqlite3.OperationalError):  # its words would quote the text
        kind, detail = CorruptDatabase, "a stored text is not UTF-8"
    ours = kind(detail, query=name)
    if isinstance(ours, Conflict):
        ours.constraint = (
            detail.partition(": ")[2] or None
        )  # SQLite names columns for uniques, the constraint for checks
    ours.code = getattr(error, "sqlite_errorname", None)
    return ours


class File:
    """A database file as one process uses it: a writing connection, readers, and the pragmas both are checked for."""

    def __init__(self, settings: Settings) -> None:
        """Opens the file, made if missing with mode 0600. Raises Invalid, SchemaError, CorruptDatabase, Unavailable."""
        self.settings = settings
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.path = self._place(settings.sqlite_path)
        _check_library()
        self.lane = threading.Lock()
        self.give_up = threading.Event()  # the caller of the write in the lane was cancelled
        self.readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._all: list[sqlite3.Connection] = []
        self.closed = False
        try:
            _look(self.path)
            self.writer = self._open(write=True)
            for _ in range(settings.sqlite_readers):
                self.readers.put(self._open(write=False))
        except sqlite3.Error as error:
            self._close_all()
            raise _opening_fault(self.path, error) from error
        except DalError:
            self._close_all()
            raise

    def _place(self, path: Path) -> Path:
        if str(path) == ":memory:":
            # A real in-memory database has one connection, so no readers; a private file behaves like any other.
            self._folder = tempfile.TemporaryDirectory(prefix="dal-")
            path = Path(self._folder.name) / "memory.db"
        try:
            if path.is_symlink():
                raise Invalid(f"{path} is a symbolic link; name the file it means", path="DAL_SQLITE_PATH")
            if path.is_dir():
                raise Invalid(f"{path} is a directory; name a file in it", path="DAL_SQLITE_PATH")
            if path.exists() and not path.is_file():
                raise Invalid(f"{path} is a device, a pipe or a socket; name a file", path="DAL_SQLITE_PATH")
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_file(path)
        except OSError as error:
            raise Invalid(f"{path} cannot be opened for writing: {error.strerror}", path="DAL_SQLITE_PATH") from error
        return path

    def _open(self, *, write: bool) -> sqlite3.Connection:
        connection = sqlite3.connect(
            _uri(self.path, "mode=rw" if write else "mode=ro"),
            uri=True,
            timeout=self.settings.sqlite_busy_timeout,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        self._all.append(connection)
        if write and not _is_ours(connection, self.path):
            connection.execute(f"pragma application_id = {APPLICATION_ID}")
        wanted = {
            "journal_mode": "wal",
            "synchronous": {"normal": 1, "full": 2, "extra": 3}[self.settings.sqlite_synchronous],
            "foreign_keys": 1,
            "recursive_triggers": 1,
            "cell_size_check": 1,
            "journal_size_limit": 64 * 2**20,
            "cache_size": -64 * 1024 if write else -16 * 1024,
            "query_only": 0 if write else 1,
        }
        for pragma, value in wanted.items():
            if pragma != "journal_mode" or write:
                _when_free(partial(connection.execute, f"pragma {pragma} = {value}"), self.settings.sqlite_busy_timeout)
            found = connection.execute(f"pragma {pragma}").fetchone()[0]
            if found != value:
                raise Unavailable(
                    f"{self.path}: pragma {pragma} stays {found}, {value} is needed. Write-ahead logging needs a local "
                    "disk; a network file system has none"
                )
        if write:
            # It waits in short turns of its own, see _when_free; a reader never waits for a writer.
            connection.execute("pragma busy_timeout = 20").fetchall()
        return connection

    def take_reader(self) -> sqlite3.Connection:
        """A reading connection; give it back with ``readers.put``. Raises Overloaded when none comes free in time."""
        self.check_open()
        try:
            return self.readers.get(timeout=self.settings.sqlite_busy_timeout)
        except queue.Empty:
            raise _waited(self.settings.sqlite_busy_timeout, "a reader") from None

    def begin_writing(self, kind: Literal["immediate", "exclusive"] = "immediate") -> None:
        """Begin a transaction on the writing connection, waiting for other processes up to the busy timeout.

        Raises sqlite3.OperationalError; at once when ``give_up`` is set.
        """
        begin = partial(self.writer.execute, f"begin {kind}")
        _when_free(begin, self.settings.sqlite_busy_timeout, self.give_up)

    def take_lane(self) -> None:
        """Wait for the turn to write. Raises Overloaded when it does not come in time."""
        self.check_open()
        if not self.lane.acquire(timeout=self.settings.sqlite_busy_timeout):
            raise _waited(self.settings.sqlite_busy_timeout, "its turn to write")
        if self.closed:
            self.lane.release()
            self.check_open()

    def check_open(self) -> None:
        if self.closed:
            raise Closed("open another with dal.connect")

    def close(self) -> None:
        """Close every connection; the last one folds the write-ahead log into the file. Calling again does nothing.

        A connection is not closed under a statement: readers are waited for, as long as the busy timeout.
        """
        if self.closed:
            return
        self.closed = True
        with suppress(queue.Empty):
            for _ in self._all[1:]:
                self.readers.get(timeout=self.settings.sqlite_busy_timeout)
        self._close_all()

    def _close_all(self) -> None:
        for connection in reversed(self._all):
            connection.close()
        self._all.clear()
        if self._folder:
            self._folder.cleanup()


_making = threading.Lock()


def _make_file(path: Path) -> None:
    """Make the file, mode 0600, unless it is there; raise OSError if it cannot be written to.

    A file that is there is not opened: closing it again would drop the locks that this process's other connections have
    on it (https://www.sqlite.org/howtocorrupt.html, 2.2), and another process would delete the log under them.
    """
    with _making, suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR))
    effective = os.access in os.supports_effective_ids
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=effective):
        raise PermissionError(errno.EACCES, "no permission, or a read-only disk")
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=effective):
        raise PermissionError(errno.EACCES, "its directory must be writable too, for the write-ahead log")


def _uri(path: Path, options: str) -> str:
    return f"file:{quote(os.fsencode(path))}?{options}"


def _look(path: Path) -> None:
    """Refuse a file that is not ours before it is opened in earnest, which could write to it: recover its log, say.

    Raises CorruptDatabase, SchemaError. An immutable connection sees the file alone, and takes and drops no lock.
    """
    # Asked first: another caller may be making the file, who marks it before it has a log.
    has_log = path.with_name(f"{path.name}-wal").exists()
    connection = sqlite3.connect(_uri(path, "mode=ro&immutable=1"), uri=True)
    try:
        if not _is_ours(connection, path) and has_log:
            raise _foreign(path)  # its tables are still in its log
    except sqlite3.Error:
        pass  # perhaps another process is writing; the connection in earnest will see
    finally:
        connection.close()


def _is_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file bears our mark; a new one does not. Raises CorruptDatabase, SchemaError for others' files."""
    try:
        # In this order: another caller may be making the file, who marks it before it makes any table.
        is_empty = connection.execute("select count(*) from sqlite_schema").fetchone()[0] == 0
        found = connection.execute("pragma application_id").fetchone()[0]
        if found == APPLICATION_ID:
            return True
        if found == 0 and is_empty:
            return False
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            raise CorruptDatabase(f"{path} is no SQLite database, or its header is damaged") from error
        raise
    raise _foreign(path)


def _foreign(path: Path) -> SchemaError:
    return SchemaError(f"{path} is another application's SQLite database; name a file of its own")


def _waited(seconds: float, what: str) -> Overloaded:
    return Overloaded(f"a caller waited {seconds:g} s for {what}", retry_after=seconds)


def _when_free(action: Callable[[], object], seconds: float, give_up: threading.Event | None = None) -> None:
    """Try again while another connection is in the way.

    SQLite itself does not wait to change the journal mode: where several processes open a new file at once, all but one
    are told at once that it is busy. And where it does wait, it hears of no interrupt.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            action()
            return
        except sqlite3.OperationalError as error:
            over = time.monotonic() > end or (give_up is not None and give_up.is_set())
            if over or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
        time.sleep(0.005)


def _check_library() -> None:
    if sqlite3.sqlite_version_info < OLDEST:
        raise SchemaError(f"SQLite {sqlite3.sqlite_version} is too old; {'.'.join(map(str, OLDEST))} is needed")
    with sqlite3.connect(":memory:") as probe:
        options = {row[0] for row in probe.execute("pragma compile_options")}
    probe.close()
    if "ENABLE_FTS5" not in options:
        raise SchemaError("this Python's SQLite is built without FTS5, which search needs")


def _opening_fault(path: Path, error: sqlite3.Error) -> DalError:
    ours = translate(error)
    if isinstance(ours, CorruptDatabase):
        fault: DalError = CorruptDatabase(f"{path}: {error}")
    else:
        fault = Unavailable(f"{path}: {error}")
    fault.code = ours.code
    return fault


# --- running queries --------------------------------------------------------------------------------------------------


def _run_script(
    connection: sqlite3.Connection, query: Query, values: tuple[tuple[object, ...], ...]
) -> tuple[Sequence[Any], int]:
    """Run a query's statements; the rows of the one that answers rows, and the count of the last change."""
    rows: Sequence[Any] = ()
    count = 0
    for statement, bound in zip(query.statements, values, strict=True):
        cursor = connection.execute(statement.sql, bound)
        if cursor.description is not None:
            rows = cursor.fetchall()
        else:
            count = cursor.rowcount
    return rows, count


def _roll_back(connection: sqlite3.Connection) -> None:
    # SQLITE_FULL and others end the transaction by themselves; ROLLBACK would then be an error of its own.
    if connection.in_transaction:
        connection.execute("rollback")


class _Reading:
    """A session for the queries of one read."""

    __slots__ = ("_connection", "_ran")

    def __init__(self, connection: sqlite3.Connection, ran: Counter[str]) -> None:
        self._connection = connection
        self._ran = ran

    async def execute(self, query: Query, values: tuple[tuple[object, ...], ...]) -> tuple[Sequence[Any], int]:
        self._ran[query.name] += 1
        try:
            return _run_script(self._connection, query, values)
        except sqlite3.Error as error:
            raise translate(error, query) from error


class _Writing:
    """A session in which every query is a transaction of its own, whatever its body raises afterwards."""

    __slots__ = ("_file", "_ran")

    def __init__(self, file: File, ran: Counter[str]) -> None:
        self._file = file
        self._ran = ran

    async def execute(self, query: Query, values: tuple[tuple[object, ...], ...]) -> tuple[Sequence[Any], int]:
        self._ran[query.name] += 1
        writer = self._file.writer
        self._file.take_lane()
        try:
            self._file.begin_writing()
            answer = _run_script(writer, query, values)
            writer.execute("commit")
            return answer
        except sqlite3.Error as error:
            raise translate(error, query) from error
        finally:
            try:
                _roll_back(writer)
            finally:
                self._file.lane.release()


class Unit:
    """A transaction in progress, and the session of its queries."""

    def __init__(self, owner: object, file: File, options: Options, ran: Counter[str]) -> None:
        self.owner = owner
        self.ended = False
        self._file = file
        self.options = options
        self._ran = ran
        self._failed = False
        self._expired = False
        self._savepoints: list[str] = []
        self._connection: sqlite3.Connection | None = None  # until it has begun
        self.thread: ThreadPoolExecutor | None = None  # on the async face, of a transaction that only reads
        # A statement and the end of the unit's time exclude each other.
        self._mutex = threading.Lock()

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection of a transaction in progress. Raises Closed, Unavailable, TransactionAborted."""
        return self._check()

    def begin(self) -> None:
        """Start the transaction; the caller holds the lane, unless it is read only."""
        self._connection = self._file.take_reader() if self.options.read_only else self._file.writer
        try:
            if self.options.read_only:
                self._connection.execute("begin")
            else:
                self._file.begin_writing()
        except sqlite3.Error as error:
            self.roll_back()
            raise translate(error) from error

    async def execute(self, query: Query, values: tuple[tuple[object, ...], ...]) -> tuple[Sequence[Any], int]:
        self._ran[query.name] += 1
        with self._mutex:
            connection = self._check(query)
            try:
                return _run_script(connection, query, values)
            except BaseException as error:
                self._failed = True
                if isinstance(error, sqlite3.Error):
                    raise translate(error, query) from error
                raise

    def fail(self) -> None:
        """Leave only rolling back: the caller does not know what its last call did."""
        self._failed = True

    def _check(self, query: Query | None = None) -> sqlite3.Connection:
        name = query.name if query else None
        if self._expired:
            limit = self._file.settings.sqlite_tx_timeout
            raise Unavailable(f"rolled back: it held the database for more than {limit:g} s", query=name)
        if self.ended or self._connection is None:
            raise Closed("use a transaction inside its with block only", query=name)
        if self._failed:
            raise TransactionAborted("leave the with block, or the savepoint's", query=name)
        if not self._connection.in_transaction:
            raise Closed("the application ended the transaction on its connection", query=name)
        return self._connection

    def commit(self) -> None:
        """End well. Raises TransactionAborted, rolled back, if a statement had failed."""
        with self._mutex:
            try:
                self._check().execute("commit")
            except sqlite3.Error as error:
                raise translate(error) from error
            finally:
                self._end()

    def roll_back(self) -> None:
        """End without effect."""
        with self._mutex:
            self._end()

    def expire(self) -> None:
        """End because its time is up."""
        with self._mutex:
            if not self.ended:
                self._expired = True
                self._end()

    def _end(self) -> None:
        if self.ended:
            return
        self.ended = True
        if self._connection is None:
            return
        try:
            _roll_back(self._connection)
        finally:
            if self.options.read_only:
                self._file.readers.put(self._connection)

    def savepoint(self) -> str:
        """Set a savepoint; returns its name for ``release`` or ``undo``."""
        with self._mutex:
            name = f"dal_{len(self._savepoints) + 1}"
            self._command(f"savepoint {name}")
            self._savepoints.append(name)
            return name

    def release(self, name: str) -> None:
        """Keep what was done since the savepoint. Raises TransactionAborted if a statement had failed."""
        with self._mutex:
            self._command(f"release {name}")
            self._savepoints.remove(name)

    def undo(self, name: str) -> None:
        """Undo what was done since the savepoint; the transaction is usable again, or left to be rolled back.

        Raises nothing: the caller is leaving by an error of its own.
        """
        with self._mutex:
            self._failed = False
            try:
                self._command(f"rollback to {name}")
                self._command(f"release {name}")
                self._savepoints.remove(name)
            except (DalError, ValueError):
                self._failed = True

    def _command(self, sql: str) -> None:
        try:
            self._check().execute(sql)
        except sqlite3.Error as error:
            raise translate(error) from error


def _run_method(file: File, owner: object, method: Method[Any, ..., T], started: Started[T], ran: Counter[str]) -> T:
    """Run a started body to its end, blocking. A transaction's lane is held by the caller."""
    if method.kind == "write":
        return started.finish(_Writing(file, ran))
    if method.kind == "read":
        connection = file.take_reader()
        try:
            return started.finish(_Reading(connection, ran))
        finally:
            file.readers.put(connection)
    unit = Unit(owner, file, method.options, ran)
    unit.begin()
    try:
        answer = started.finish(unit)
        unit.commit()
        return answer
    finally:
        unit.roll_back()


# --- the two faces ----------------------------------------------------------------------------------------------------


class SqliteSync:
    """Runs bodies in the calling thread."""

    def __init__(self, file: File, catalog: Catalog) -> None:
        self.file = file
        self.catalog = catalog
        self.ran: Counter[str] = Counter()

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
        if method.kind != "transaction" or method.options.read_only:
            return _run_method(self.file, self, method, started, self.ran)
        with self._lane(True):
            return _run_method(self.file, self, method, started, self.ran)

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
    def _lane(self, needed: bool) -> Iterator[Callable[[], None]]:
        """Hold the lane, if it is needed. Yields what gives it back early."""
        if not needed:
            yield lambda: None
            return
        self.file.take_lane()
        release = _once(self.file.lane.release)
        try:
            yield release
        finally:
            release()

    @contextmanager
    def unit(self, options: Options) -> Iterator[Unit]:
        """An interactive transaction."""
        refuse_nested(self)
        unit = Unit(self, self.file, options, self.ran)
        with self._lane(not options.read_only) as release:
            unit.begin()

            def expire() -> None:
                unit.expire()
                release()

            timer = threading.Timer(self.file.settings.sqlite_tx_timeout, expire)
            timer.daemon = True
            timer.start()
            before = enter(unit)
            try:
                yield unit
                unit.commit()
            finally:
                leave(before)
                timer.cancel()
                unit.roll_back()

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
        """The pool's figures at this moment."""
        return _figures(self.file)

    def close(self) -> None:
        """Wait for the writer, then close."""
        with suppress(Closed), self._lane(True):  # somebody else may be closing it
            self.file.close()


class SqliteAsync:
    """Runs bodies in threads: one for all writing, one for each reader; a body is one hop."""

    def __init__(self, file: File, catalog: Catalog) -> None:
        self.file = file
        self.catalog = catalog
        self.ran: Counter[str] = Counter()
        self._lane = asyncio.Lock()
        self._writer = ThreadPoolExecutor(1, "dal-sqlite-writer")
        # One thread each, the last one used first: threads that take turns cost a read a sixth of its time.
        readers = file.settings.sqlite_readers
        self._readers = [ThreadPoolExecutor(1, "dal-sqlite-reader") for _ in range(readers)]
        self._idle = [*self._readers]
        self._free = asyncio.Semaphore(readers)

    async def __call__(self, method: Method[Any, ..., T], store: Any, /, *args: Any, **kwargs: Any) -> T:
        refuse_nested(self)
        self.file.check_open()

        async def attempt() -> T:
            started = Started(method, store, self.catalog.view(), args, kwargs)
            if started.done:
                return started.value
            if method.kind == "read" or method.options.read_only:
                thread = await self._take_reader()
                try:
                    return await self._hop(thread, _run_method, self.file, self, method, started, self.ran)
                finally:
                    self._give_reader(thread)
            async with self._turn():
                return await self._hop(self._writer, _run_method, self.file, self, method, started, self.ran)

        return await (self.retry(attempt) if method.kind == "transaction" else attempt())

    async def retry(self, attempt: Callable[[], Any], *, keyed: bool = False) -> Any:
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

    async def _hop(self, threads: ThreadPoolExecutor, work: Callable[..., T], *args: Any, sure: bool = False) -> T:
        """Run work in a thread and wait for its end, even when cancelled: it holds a connection until then.

        sure: work that ends something, and so is done to its end whoever is cancelled.
        """
        try:
            job = threads.submit(work, *args)
        except RuntimeError:
            self.file.check_open()
            raise
        future = asyncio.wrap_future(job)
        try:
            return await (asyncio.shield(future) if sure else future)
        except asyncio.CancelledError:
            # The cancelled future knows nothing of the thread; the job knows whether it can still be stopped.
            if sure or not job.cancel():
                if threads is self._writer and not sure:
                    self.file.give_up.set()
                    self.file.writer.interrupt()
                await _settled(asyncio.wrap_future(job))
                self.file.give_up.clear()
            raise

    async def _take_reader(self) -> ThreadPoolExecutor:
        """One of the threads that read, to be given back when its read or transaction has ended.

        There are as many as connections: whoever has one finds a connection free, and those who wait block no thread.
        """
        if self._free.locked():
            limit = self.file.settings.sqlite_busy_timeout
            try:
                async with asyncio.timeout(limit):
                    await self._free.acquire()
            except TimeoutError:
                raise _waited(limit, "a reader") from None
        else:
            await self._free.acquire()
        return self._idle.pop()

    def _give_reader(self, thread: ThreadPoolExecutor) -> None:
        self._idle.append(thread)
        self._free.release()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[Callable[[], None]]:
        """Hold the lane. Yields what gives it back early."""
        limit = self.file.settings.sqlite_busy_timeout
        try:
            async with asyncio.timeout(limit):
                await self._lane.acquire()
        except TimeoutError:
            raise _waited(limit, "its turn to write") from None
        release = _once(self._lane.release)
        try:
            yield release
        finally:
            release()

    @asynccontextmanager
    async def unit(self, options: Options) -> AsyncIterator[Unit]:
        """An interactive transaction."""
        refuse_nested(self)
        self.file.check_open()
        unit = Unit(self, self.file, options, self.ran)
        if not options.read_only:
            async with self._turn() as release, self._opened(unit, self._writer, release):
                yield unit
            return
        unit.thread = await self._take_reader()
        try:
            async with self._opened(unit, unit.thread, lambda: None):
                yield unit
        finally:
            self._give_reader(unit.thread)

    async def _expire(self, unit: Unit, thread: ThreadPoolExecutor, release: Callable[[], None]) -> None:
        await asyncio.sleep(self.file.settings.sqlite_tx_timeout)
        await self._hop(thread, unit.expire, sure=True)
        release()

    @asynccontextmanager
    async def _opened(self, unit: Unit, thread: ThreadPoolExecutor, release: Callable[[], None]) -> AsyncIterator[None]:
        try:
            await self._hop(thread, unit.begin)
            watchdog = asyncio.create_task(self._expire(unit, thread, release))
            before = enter(unit)
            try:
                yield
            finally:
                leave(before)
                watchdog.cancel()
            await self._hop(thread, unit.commit)
        finally:
            await self._hop(thread, unit.roll_back, sure=True)

    @asynccontextmanager
    async def savepoint(self, unit: Unit) -> AsyncIterator[None]:
        """A nested transaction."""
        threads = unit.thread or self._writer
        name = await self._hop(threads, unit.savepoint, sure=True)
        try:
            yield
            await self._hop(threads, unit.release, name)
        except BaseException:
            await self._hop(threads, unit.undo, name, sure=True)
            raise

    def within(self, unit: Unit) -> Callable[..., Any]:
        """The runner of a transaction's stores."""

        async def run(method: Method[Any, ..., T], store: Any, /, *args: Any, **kwargs: Any) -> T:
            started = Started(method, store, self.catalog.view(), args, kwargs)
            if started.done:
                return started.value
            threads = unit.thread or self._writer
            try:
                if method.kind != "transaction":
                    return await self._hop(threads, started.finish, unit)
                async with self.savepoint(unit):
                    return await self._hop(threads, started.finish, unit)
            except asyncio.CancelledError:
                unit.fail()
                raise

        return run

    def figures(self) -> dict[str, float]:
        """The pool's figures at this moment."""
        return _figures(self.file)

    async def close(self) -> None:
        """Wait for the writer, then close."""
        if self.file.closed:
            return
        async with self._turn():
            await self._hop(self._writer, self.file.close)
        for thread in (self._writer, *self._readers):
            thread.shutdown(wait=False)


async def _settled(future: asyncio.Future[Any]) -> None:
    while not future.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([future])
    if not future.cancelled():
        future.exception()  # looked at: the caller learns of the cancellation instead


def _once(action: Callable[[], None]) -> Callable[[], None]:
    """The action, done by whoever calls first and by nobody after."""
    token = threading.Lock()

    def first() -> None:
        if token.acquire(blocking=False):
            action()

    return first


def _figures(file: File) -> dict[str, float]:
    idle = float(file.readers.qsize())
    readers = float(file.settings.sqlite_readers)
    return {"readers": readers, "readers_idle": idle, "writing": float(file.lane.locked())}


# --- the door for schema work -----------------------------------------------------------------------------------------


class SqliteDoor:
    """One connection, blocking, for what changes or describes the schema. Without a file: an empty private database."""

    dialect = "sqlite"
    session_pid: int | None = None  # there is no server

    def __init__(self, file: File | None = None) -> None:
        self._file = file
        self.connection = file.writer if file else sqlite3.connect(":memory:", isolation_level=None)

    async def execute(self, query: Query, values: tuple[tuple[object, ...], ...]) -> tuple[Sequence[Any], int]:
        try:
            return _run_script(self.connection, query, values)
        except sqlite3.Error as error:
            raise translate(error, query) from error

    def run_sql(self, sql: str) -> None:
        """One statement of a migration."""
        try:
            self.connection.execute(sql)
        except sqlite3.Error as error:
            raise translate(error) from error

    @contextmanager
    def lock(self, seconds: float) -> Iterator[None]:
        """Keep other processes out, by one exclusive transaction round all migrations."""
        if self._file:
            self._file.take_lane()
        try:
            try:
                self._file.begin_writing("exclusive") if self._file else self.run_sql("begin exclusive")
            except sqlite3.Error as error:
                raise translate(error) from error
            yield
            self.run_sql("commit")
        finally:
            _roll_back(self.connection)
            if self._file:
                self._file.lane.release()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Nothing of its own: the lock is the transaction."""
        yield

    @contextmanager
    def scratch(self) -> Iterator[SqliteDoor]:
        """An empty private database."""
        door = SqliteDoor()
        try:
            yield door
        finally:
            door.close()

    def close(self) -> None:
        if not self._file:
            self.connection.close()

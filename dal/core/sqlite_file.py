"""One SQLite file as one process uses it: how it is opened, its connections, and who checkpoints its log.

A file has one writing connection and a few readers. A checkpoint copies the write-ahead log into the file, and SQLite
before 3.51.3 can damage the file when one runs just after another (https://www.sqlite.org/wal.html#walresetbug). So
only a commit checkpoints, and of all processes' commits only the one that holds the file's lock file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import queue
import sqlite3
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

from dal.core import forks
from dal.core.catalog import Query
from dal.errors import (
    Closed,
    Conflict,
    CorruptDatabase,
    DalError,
    Invalid,
    OutcomeUnknown,
    Overloaded,
    SchemaError,
    Unavailable,
    from_sqlite_code,
)
from dal.settings import Settings

Rows: TypeAlias = tuple[Sequence[Any], int]
Values: TypeAlias = tuple[tuple[object, ...], ...]

APPLICATION_ID = 0x64616C31  # "dal1", in the file's header: tells our files from other people's
OLDEST = (3, 38, 0)
LOOK_ROUND = (
    0.1  # seconds between two looks at the names of files that are only read; before a write there is always one
)
CHECKPOINT_PAGES = 1000  # of log, after which a commit folds it into the file: SQLite's own default


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

    forked: bool

    def __init__(self, settings: Settings) -> None:
        """Opens the file, made if missing with mode 0600. Raises Invalid, SchemaError, CorruptDatabase, Unavailable."""
        self.settings = settings
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.path = self._place(settings.sqlite_path)
        _check_library()
        self.give_up = threading.Event()  # the caller of the write in progress was cancelled
        self.readers: list[sqlite3.Connection] = []
        self.idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()  # of those that read
        self._all: list[sqlite3.Connection] = []
        self._lock: int | None = None
        self._checkpoints: bool | None = False  # what SQLite was told last; None: it is not known
        self.closing = False  # nobody new is served
        self.closed = False
        self._known: dict[str, tuple[int, int]] = {}  # the file and its log, by name: device and inode
        self._look_again = 0.0
        try:
            _look(self.path)
            self.writer = self._open(write=True)
            for _ in range(settings.sqlite_readers):
                self.readers.append(self._open(write=False))
                self.idle.put(self.readers[-1])
            self._lock = _open_lock(self.path)
            self._look_round()
            forks.watch(self)
        except sqlite3.Error as error:
            self._close_all()
            raise _opening_fault(self.path, error) from error
        except OSError as error:
            self._close_all()
            raise Unavailable(f"{self.path}-lock cannot be opened: {error.strerror}") from error
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
            "wal_autocheckpoint": 0,  # see commit
            "cache_size": -64 * 1024 if write else -8 * 1024,
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
        """A reading connection; give it back with ``give_reader``. Raises Overloaded when none comes free in time."""
        self.check_open()
        try:
            return self.idle.get(timeout=self.settings.sqlite_busy_timeout)
        except queue.Empty:
            if self.closing:
                raise Closed("it was closed meanwhile; open another with dal.connect") from None
            raise waited(self.settings.sqlite_busy_timeout, "a reader") from None

    def give_reader(self, connection: sqlite3.Connection) -> None:
        """End the use of a reading connection."""
        if self.closed:
            connection.close()  # it was spared then
        else:
            self.idle.put(connection)

    def begin_writing(self, kind: Literal["immediate", "exclusive"] = "immediate") -> None:
        """Begin a transaction on the writing connection, waiting for other processes up to the busy timeout.

        Raises sqlite3.OperationalError, at once when ``give_up`` is set; Unavailable for a file that was taken away.
        """
        self._look_round()
        begin = partial(self.writer.execute, f"begin {kind}")
        _when_free(begin, self.settings.sqlite_busy_timeout, self.give_up)

    def commit(self) -> None:
        """Commit on the writing connection, and checkpoint a long log unless another process is doing so.

        A checkpoint is safe here even in an old SQLite: the lock is held from before the commit, so the log has a frame
        that no other checkpoint has seen. Raises DalError: OutcomeUnknown if the disk failed.
        """
        mine = self._try_lock()
        try:
            if mine != self._checkpoints:
                pages = CHECKPOINT_PAGES if mine else 0
                self._checkpoints = None
                self.writer.execute(f"pragma wal_autocheckpoint = {pages}").fetchall()
                self._checkpoints = mine
            self.writer.execute("commit")
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_IOERR:
                raise translate(error) from error
            # Undone here, but after a power cut now the log might be found to be whole.
            unknown = OutcomeUnknown(f"the disk failed, {error}")
            unknown.code = getattr(error, "sqlite_errorname", None)
            raise unknown from error
        finally:
            if mine and self._lock is not None:
                fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _try_lock(self) -> bool:
        if self._lock is None:
            return False
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def check_open(self) -> None:
        """Raise Closed once closed, InvalidState in a forked process, Unavailable when the file was taken away."""
        if self.forked:
            raise forks.refusal()
        if self.closing:
            raise Closed("open another with dal.connect")
        if time.monotonic() >= self._look_again:
            self._look_round()

    def _look_round(self) -> None:
        """See that the file and its log still have their names.

        SQLite does not look. It would go on with a log that another process replaces, and then answer wrongly and
        checkpoint the mixture; or write to a file that nobody will open again.
        """
        self._look_again = time.monotonic() + LOOK_ROUND
        for name in (str(self.path), f"{self.path}-wal"):
            known = self._known.get(name)
            try:
                found = os.stat(name)
            except FileNotFoundError:
                if known is None:
                    continue  # the log is made by the first who writes
                found = None
            if known is None and found is not None:
                self._known[name] = found.st_dev, found.st_ino
            elif found is None or known != (found.st_dev, found.st_ino):
                raise Unavailable(
                    f"{name} was deleted, moved or replaced while it was open; put back what was there, close the "
                    "database in every process, and open it again"
                )

    def renew_writer(self) -> sqlite3.Connection:
        """Write through another connection from now on; returns the one before, which can write no more.

        For a connection that an application still has in hand when its transaction's time is up.
        """
        old, fresh = self.writer, self._open(write=True)
        old.execute("pragma query_only = 1").fetchall()
        self.writer, self._checkpoints = fresh, False
        self._all.remove(old)
        return old

    def close(self, spared: Collection[sqlite3.Connection] = ()) -> None:
        """Close every connection; the last one folds the write-ahead log into the file. Calling again does nothing.

        spared: readers still in use, for to close one under a statement would crash; they are told to stop, and closed
        when they are given back.
        """
        self.closing = True
        if not self.closed:
            self.closed = True
            for connection in spared:
                connection.interrupt()
                self._all.remove(connection)
            self._close_all()

    def _close_all(self) -> None:
        for connection in reversed(self._all):
            connection.close()
        self._all.clear()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
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


def _open_lock(path: Path) -> int:
    """The lock file. It is never deleted: who had it open already would lock a file that nobody else sees."""
    return os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, stat.S_IRUSR | stat.S_IWUSR)


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


def waited(seconds: float, what: str) -> Overloaded:
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


def run_script(connection: sqlite3.Connection, query: Query, values: Values) -> Rows:
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


def roll_back(connection: sqlite3.Connection) -> None:
    # SQLITE_FULL and others end the transaction by themselves; ROLLBACK would then be an error of its own.
    if connection.in_transaction:
        connection.execute("rollback")

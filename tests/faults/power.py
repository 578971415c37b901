"""A disk that loses its power: what SQLite had written but not synced is there or not, sector by sector.

A virtual file system over the ordinary one. It keeps, for each file, what was synced, and what was written and cut off
since; ``Disk.image`` makes of that a directory as it could be found after a power cut at that moment. Locks, shared
memory and reading are the ordinary ones; what is on the real disk is what a process sees that goes on living.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import apsw

T = TypeVar("T")
SECTOR = 512  # what a disk writes whole or not at all
Change = tuple[int, bytes | None]  # where, and what was written; None: cut off there


@dataclass
class Content:
    """A file: as it was last synced, and what was done to it since, in order."""

    synced: bytes = b""
    changes: list[Change] = field(default_factory=list)
    is_durable: bool = False  # its name is in the directory, whatever happens

    def after_a_cut(self, chance: random.Random, survival: float) -> bytes | None:
        """What is found later; None: no such file. survival: how likely a change is to have reached the disk.

        A sector is as it was at some moment since the sync: the disk writes it from memory, where changes add up.
        """
        if not self.is_durable and chance.random() >= survival:
            return None
        touched: dict[int, list[int]] = {}
        for number, (at, data) in enumerate(self.changes):
            for sector in _sectors(at, data or b""):
                touched.setdefault(sector, []).append(number)
        last = {each: chance.choice(by) if chance.random() < survival else -1 for each, by in touched.items()}
        image = bytearray(self.synced)
        for number, (at, data) in enumerate(self.changes):
            if data is None and chance.random() < survival:
                del image[at:]
            for sector in _sectors(at, data or b""):
                if data is not None and number <= last[sector]:
                    begin, end = max(at, sector * SECTOR), min(at + len(data), (sector + 1) * SECTOR)
                    _put(image, begin, data[begin - at : end - at])
        return bytes(image)

    def sync(self) -> None:
        """Every change has reached the disk."""
        image = bytearray(self.synced)
        for at, data in self.changes:
            if data is None:
                del image[at:]
            else:
                _put(image, at, data)
        self.synced = bytes(image)
        self.changes.clear()
        self.is_durable = True  # SQLite syncs the directory with a new log's first sync


def _sectors(at: int, data: bytes) -> range:
    return range(at // SECTOR, (at + len(data) - 1) // SECTOR + 1) if data else range(0)


def _put(image: bytearray, at: int, data: bytes) -> None:
    image.extend(bytes(max(0, at + len(data) - len(image))))
    image[at : at + len(data)] = data


class Disk(apsw.VFS):
    """A file system that remembers what was synced.

    at: called before every change and every sync, while no other thread can change anything.
    lies: says that it has synced, and has not.
    """

    def __init__(self, name: str, *, lies: bool = False, at: Callable[[], None] = lambda: None) -> None:
        super().__init__(name, "")
        self.lies = lies
        self.name = name
        self.at = at
        self.lock = threading.RLock()
        self.files: dict[str, Content] = {}
        self.calls = 0

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None or flags[0] & apsw.SQLITE_OPEN_DELETEONCLOSE:
            return apsw.VFSFile("", name, flags)
        with self.lock:
            if path not in self.files:
                found = Path(path).read_bytes() if os.path.exists(path) else None  # nobody has it open, or it were here
                self.files[path] = Content(found or b"", is_durable=found is not None)
            return File(self, self.files[path], name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        with self.lock:
            self.changing()
            super().xDelete(filename, syncdir)
            self.files.pop(filename, None)  # as if the directory were synced: SQLite has the content elsewhere by then

    def is_folding(self) -> bool:
        """Whether the log is just being folded into the database file: that has changes which are not synced."""
        return any(content.changes for path, content in self.files.items() if path.endswith(".db"))

    def changing(self) -> None:
        """Something is about to change, or to be synced."""
        self.calls += 1
        self.at()

    def image(self, folder: Path, chance: random.Random) -> None:
        """Fill an empty folder with what a power cut now would leave. The shared memory is gone, or is rubbish."""
        with self.lock:
            survival = chance.choice([0.0, 1.0, chance.random(), chance.random()])
            for path, content in self.files.items():
                found = content.after_a_cut(chance, survival)
                if found is not None:
                    (folder / Path(path).name).write_bytes(found)
                if path.endswith("-wal") and chance.random() < 0.5:
                    (folder / Path(path).name.replace("-wal", "-shm")).write_bytes(chance.randbytes(32 * 1024))


class File(apsw.VFSFile):
    """An open file of a Disk."""

    def __init__(self, disk: Disk, content: Content, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        self._content = content

    def xWrite(self, data: Any, offset: int) -> None:  # Any: collections.abc.Buffer came with Python 3.12
        with self._disk.lock:
            self._disk.changing()
            super().xWrite(data, offset)
            self._content.changes.append((offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        with self._disk.lock:
            self._disk.changing()
            super().xTruncate(newsize)
            self._content.changes.append((newsize, None))

    def xSync(self, flags: int) -> None:
        with self._disk.lock:  # not synced in truth: nobody pulls the plug of this machine
            self._disk.changing()
            if not self._disk.lies:
                self._content.sync()


# --- what stands in for sqlite3.connect -------------------------------------------------------------------------------


class Cursor:
    """The part of sqlite3.Cursor that our engine uses; the answer is whole when execute returns."""

    def __init__(self, rows: list[Any], description: tuple[Any, ...] | None, rowcount: int) -> None:
        self._rows = rows
        self.description = description
        self.rowcount = rowcount

    def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    def fetchone(self) -> Any:
        return self._rows.pop(0) if self._rows else None

    def __iter__(self) -> Any:
        return iter(self.fetchall())

    def close(self) -> None: ...


class Connection:
    """The part of sqlite3.Connection that our engine uses, in autocommit, on a file of another file system.

    The standard library's SQLite is a library of its own, which cannot see file systems that are registered with
    apsw's. The database beneath is SQLite all the same: nothing is made up here, only passed on under other names.
    """

    isolation_level = None

    def __init__(self, name: str, vfs: str, timeout: float) -> None:
        self._inner = passed_on(
            lambda: apsw.Connection(name, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI, vfs=vfs)
        )
        self._inner.set_busy_timeout(int(timeout * 1000))

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Cursor:
        described: list[Any] = []

        def before(cursor: apsw.Cursor, *_: object) -> bool:
            described.extend(cursor.get_description())
            return True

        def run() -> Cursor:
            cursor = self._inner.cursor()
            cursor.exec_trace = before
            rows = list(cursor.execute(sql, tuple(values)))
            changes = sql.split(None, 1)[0].lower() in ("insert", "update", "delete", "replace")
            return Cursor(rows, tuple(described) or None, self._inner.changes() if changes else -1)

        return passed_on(run)

    @property
    def in_transaction(self) -> bool:
        return bool(self._inner.in_transaction)

    def interrupt(self) -> None:
        self._inner.interrupt()

    def cursor(self) -> Connection:
        return self

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def close(self) -> None:
        passed_on(self._inner.close)


KINDS: dict[int, type[sqlite3.DatabaseError]] = {
    apsw.SQLITE_CONSTRAINT: sqlite3.IntegrityError,
    apsw.SQLITE_MISMATCH: sqlite3.IntegrityError,
    apsw.SQLITE_TOOBIG: sqlite3.DataError,
    apsw.SQLITE_MISUSE: sqlite3.ProgrammingError,
    apsw.SQLITE_CORRUPT: sqlite3.DatabaseError,
    apsw.SQLITE_NOTADB: sqlite3.DatabaseError,
}


def passed_on(call: Callable[[], T]) -> T:
    """What the call answers; its error as the one that sqlite3 has for the same code."""
    try:
        return call()
    except apsw.Error as error:
        code = int(getattr(error, "extendedresult", apsw.SQLITE_MISUSE))
        theirs = KINDS.get(code & 0xFF, sqlite3.OperationalError)(str(error))
        theirs.sqlite_errorcode = code
        theirs.sqlite_errorname = str(apsw.mapping_extended_result_codes.get(code) or apsw.mapping_result_codes[code])
        raise theirs from error


def connect_through(vfs: str, folder: Path, usual: Callable[..., Any] = sqlite3.connect) -> Callable[..., Any]:
    """A sqlite3.connect that opens what lies in the folder through the file system, and anything else as usual."""

    def connect(database: Any, timeout: float = 5.0, **options: Any) -> Any:
        if quote(str(folder)) not in str(database):  # a URI
            return usual(database, timeout=timeout, **options)
        return Connection(database, vfs, timeout)

    return connect

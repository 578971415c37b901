"""An export: a folder of batch files, and a manifest that says what is in them.

    manifest.json              what it is of, and of each file how many rows, its SHA-256, and the digest of its rows
    <table>-000001.jsonl       a row a line, a list of values in the order of the manifest's columns
    quarantine.jsonl           rows that cannot be moved, with the reason

A file is written under another name and renamed when it is on the disk, with mode 0600; the manifest comes last. A name
in a manifest is one of ours or is refused: nothing outside the folder is opened.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple

import msgspec

from dal.core.schema import app_version, migrations
from dal.errors import Invalid
from dal.transfer.inventory import inventory
from dal.transfer.values import Row

FORMAT = 1
MANIFEST = "manifest.json"
QUARANTINE = "quarantine.jsonl"
WORK = ".export"  # what an export that goes on needs; gone when it has ended
NAME = re.compile(r"([a-z_]+)-(\d{6,})\.jsonl(\.zst)?")
_encode = msgspec.json.Encoder().encode


class FileEntry(NamedTuple):
    """A batch file. last: the key of its last row. quarantined: rows of this batch that are in quarantine.jsonl."""

    file: str
    rows: int
    quarantined: int
    sha256: str
    digest: str
    last: list[Any]

    def number(self) -> int:
        found = NAME.fullmatch(self.file)
        assert found  # checked when the manifest was read
        return int(found[2])


def zstandard() -> Any:
    """The module that packs files, or None where none is installed."""
    try:
        import zstandard
    except ImportError:
        return None
    return zstandard


# --- writing ----------------------------------------------------------------------------------------------------------


class Sums:
    """A file's bytes pass through, and are counted into its SHA-256."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._file.write(data)

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.sha256.update(data)
        return data

    def flush(self) -> None:
        self._file.flush()


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """A file that is there whole or not at all, mode 0600."""
    draft = path.with_name(f"{path.name}.part")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """See that names in a folder outlast a power cut."""
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def line(row: Row) -> bytes:
    """A row as a line of a batch file."""
    return _encode(row) + b"\n"


@contextmanager
def batch_file(folder: Path, table: str, number: int, *, packed: bool) -> Iterator[tuple[str, Sums, Any]]:
    """A batch file to be written: its name, its sums, and what lines are written to."""
    name = f"{table}-{number:06}.jsonl{'.zst' if packed else ''}"
    with written(folder / name) as file:
        sums = Sums(file)
        if not packed:
            buffered = io.BufferedWriter(_Raw(sums), 1024 * 1024)
            yield name, sums, buffered
            buffered.flush()
            return
        with zstandard().ZstdCompressor(level=3).stream_writer(sums, closefd=False) as packer:
            buffered = io.BufferedWriter(_Raw(packer), 1024 * 1024)
            yield name, sums, buffered
            buffered.flush()


class _Raw(io.RawIOBase):
    """What io.BufferedWriter needs of a thing that can be written to."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._file.write(bytes(data))
        return len(data)


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """The manifest, sealed with the SHA-256 of what it says."""
    sealed = {**content, "seal": seal(content)}
    with written(folder / MANIFEST) as file:
        file.write(json.dumps(sealed, indent=1).encode() + b"\n")


def seal(content: Mapping[str, Any]) -> str:
    """The SHA-256 of a manifest but for its seal."""
    rest = {key: value for key, value in content.items() if key != "seal"}
    return hashlib.sha256(msgspec.json.encode(rest, order="sorted")).hexdigest()


def schema_labels() -> list[str]:
    """The migrations of this installation, by which two databases are known to have the same tables."""
    return [migration.label for migration in migrations("postgres")]


def columns() -> dict[str, list[str]]:
    """The columns of each table, in the order of the values in a line."""
    return {table.name: [column.name for column in table.columns] for table in inventory()}


# --- reading ----------------------------------------------------------------------------------------------------------


class _Source(msgspec.Struct):
    epoch: int


class _Quarantine(msgspec.Struct):
    rows: int
    sha256: str


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    file: str
    rows: Annotated[int, msgspec.Meta(ge=0)]
    quarantined: Annotated[int, msgspec.Meta(ge=0)]
    sha256: str
    digest: Annotated[str, msgspec.Meta(pattern="^[0-9]+:[0-9a-f]{32}$")]
    last: list[Any]


class _Manifest(msgspec.Struct):
    """What a reader of a manifest needs it to have."""

    source: _Source
    batches: dict[str, list[_Batch]]
    quarantine: _Quarantine
    peppers: list[str]


class Folder:
    """A finished export. Raises Invalid, naming the file, for whatever is not as the manifest says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._check_folder()
        try:
            with self._open(MANIFEST) as file:
                content = json.loads(file.read())
            is_sealed = isinstance(content, dict) and content.get("seal") == seal(content)
        except (ValueError, RecursionError) as error:
            raise self.fault(MANIFEST, f"is not JSON: {error}") from error
        if not is_sealed:
            raise self.fault(MANIFEST, "was altered or damaged: its seal does not fit what it says; export again")
        self.content: dict[str, Any] = content
        self._check_content()
        self._check_files()

    def fault(self, name: str, words: str) -> Invalid:
        """What is wrong with one of its files."""
        return Invalid(f"{self.path / name} {words}", path="DIR")

    def _check_folder(self) -> None:
        if not self.path.is_dir():
            raise Invalid(f"{self.path} is no directory", path="DIR")
        if (self.path / WORK).exists():
            raise Invalid(f"{self.path} is an export that has not finished: run the same dal export again", path="DIR")
        if not (self.path / MANIFEST).exists():
            raise Invalid(f"{self.path} has no {MANIFEST}: it is no export, or not a whole one", path="DIR")

    def _check_content(self) -> None:
        content = self.content
        if content.get("format") != FORMAT:
            raise self.fault(MANIFEST, f"has format {content.get('format')!r}, this version reads {FORMAT}")
        ours, theirs = schema_labels(), content.get("schema")
        if theirs != ours:
            newest = theirs[-1] if isinstance(theirs, list) and theirs else "none"
            raise self.fault(
                MANIFEST,
                f"is of a database at migration {newest}, made by workflow-dal {content.get('made_by')}; this "
                f"installation, {app_version()}, is at {ours[-1]}: bring the older one up to date and export again",
            )
        if content.get("columns") != columns():
            raise self.fault(MANIFEST, "lists other tables or columns than its migrations make")
        try:
            msgspec.convert(content, _Manifest)
        except msgspec.ValidationError as error:
            raise self.fault(MANIFEST, f"lacks what every manifest has: {error}") from error
        if content["batches"].keys() != columns().keys():
            raise self.fault(MANIFEST, "lists other tables than its migrations make")
        for name, entries in self.entries.items():
            for number, entry in enumerate(entries, 1):
                found = NAME.fullmatch(entry.file)
                if not found or (found[1], int(found[2])) != (name, number):
                    raise self.fault(MANIFEST, f"names a file that no export has in this place: {entry.file!r}")

    def _check_files(self) -> None:
        wanted = {MANIFEST, QUARANTINE, *(entry.file for _, entry in self._listed())}
        found = {item.name for item in self.path.iterdir()}
        for name in sorted(wanted - found):
            raise self.fault(name, "is missing")
        for name in sorted(found - wanted):
            raise self.fault(name, "is no file of this export: take it away")
        for name in sorted(wanted):
            if not stat.S_ISREG((self.path / name).lstat().st_mode):
                raise self.fault(name, "is no ordinary file")

    def _listed(self) -> Iterator[tuple[str, FileEntry]]:
        for name, batches in self.content["batches"].items():
            for batch in batches:
                yield name, FileEntry(**batch)

    @cached_property
    def entries(self) -> dict[str, list[FileEntry]]:
        """The batch files of each table, in order."""
        listed: dict[str, list[FileEntry]] = {table.name: [] for table in inventory()}
        for name, entry in self._listed():
            listed[name].append(entry)
        return listed

    def _open(self, name: str) -> IO[bytes]:
        try:
            return os.fdopen(os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
        except OSError as error:
            raise self.fault(name, f"cannot be read: {error.strerror}") from error

    def lines(self, name: str, sha256: str) -> Iterator[bytes]:
        """The lines of a file. Raises Invalid at its end if the file is another than this SHA-256 says."""
        with self._open(name) as file:
            sums = Sums(file)
            try:
                yield from io.BufferedReader(_Readable(self._unpacked(name, sums)), 1024 * 1024)
            except Exception as error:
                if not type(error).__name__ == "ZstdError":
                    raise
                raise self.fault(name, f"cannot be unpacked: {error}") from error
            while sums.read(1024 * 1024):  # what is behind the end of a packed file
                pass
        if sums.sha256.hexdigest() != sha256:
            raise self.fault(name, "was altered, cut or damaged: its SHA-256 is another than the manifest's")

    def _unpacked(self, name: str, sums: Sums) -> Any:
        if not name.endswith(".zst"):
            return sums
        if zstandard() is None:
            raise self.fault(name, "is packed with zstd: pip install zstandard")
        return zstandard().ZstdDecompressor().stream_reader(sums, read_across_frames=True)

    def check_bytes(self, name: str, sha256: str) -> None:
        """Read a file to its end. Raises Invalid."""
        for _ in self.lines(name, sha256):
            pass


class _Readable(io.RawIOBase):
    """What io.BufferedReader needs of a thing that can be read from."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def last_keys(entries: Sequence[FileEntry]) -> list[tuple[list[Any] | None, list[Any] | None]]:
    """The range of keys that each file stands for; the first and the last have no bound."""
    ends: list[list[Any] | None] = [None, *(entry.last for entry in entries[:-1]), None]
    return list(pairwise(ends)) if entries else []

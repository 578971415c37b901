"""What happens to a SQLite file from outside: where it lies takes no log or no writes, and its log is lost or spoilt.

tests/contract/test_sqlite_file.py has the other places, and the files that are not ours.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dal
from dal import Invalid, Settings, Unavailable
from dal.dal import utc_now
from tests.cells import PATIENCE, Face, Loop, open_db
from tests.disks import make_read_only, mounted
from tests.faults.power import connect_through
from tests.faults.whole import damage, refusal

ROOT = Path(__file__).parents[2]


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that holds a database, and takes no writes."""
    with mounted(tmp_path / "disk", "20m") as place:
        with dal.connect(f"sqlite:///{place}/dal.db") as db:
            db.workflows.create("w", actor="ann")
        make_read_only(place)
        yield place


@pytest.mark.parametrize("name", ["dal.db", "new.db", "new folder/new.db"])
def test_a_file_system_that_takes_no_writes_is_refused_at_once_and_says_so(name: str, read_only_disk: Path) -> None:
    """C57."""
    before = {each.name: each.read_bytes() for each in read_only_disk.iterdir()}
    with pytest.raises(Invalid, match=r"cannot be opened for writing.*[Rr]ead-only") as caught:
        dal.connect(f"sqlite:///{read_only_disk}/{name}")
    assert caught.value.path == "DAL_SQLITE_PATH"
    assert {each.name: each.read_bytes() for each in read_only_disk.iterdir()} == before


@pytest.mark.parametrize("what", ["a link", "a directory"])
def test_a_lock_file_that_is_no_file_is_refused_and_says_so(what: str, sqlite_url: str, tmp_path: Path) -> None:
    """A link could lead to a file of somebody else's, and its lock with it."""
    lock = Path(sqlite_url.removeprefix("sqlite:///") + "-lock")
    if what == "a link":
        lock.symlink_to(tmp_path / "elsewhere")
    else:
        lock.mkdir()
    with pytest.raises(Unavailable, match=f"{lock} cannot be opened: "):
        dal.connect(sqlite_url)
    assert not (tmp_path / "elsewhere").exists()
    lock.unlink() if what == "a link" else lock.rmdir()
    with dal.connect(sqlite_url) as db:
        assert db.workflows.create("w", actor="ann").name == "w"


def test_a_file_system_without_shared_memory_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C57: what a network's file system is to SQLite, which has one of that kind for those without locks."""
    monkeypatch.setattr(sqlite3, "connect", connect_through("unix-dotfile", tmp_path))
    with pytest.raises(Unavailable, match="Write-ahead logging needs a local disk"):
        dal.connect(f"sqlite:///{tmp_path}/dal.db")
    monkeypatch.undo()
    with dal.connect(f"sqlite:///{tmp_path}/dal.db") as db:  # moved to a local disk
        assert db.workflows.list().items == []
        assert damage(db) == []


def elsewhere(url: str, call: str) -> str:
    """What another process prints of a call on its own db, or of the error that it ends with."""
    code = f"""
import dal
try:
    with dal.connect({url!r}) as db:
        print({call})
except dal.DalError as error:
    print(type(error).__name__, error.code)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.strip()


@pytest.mark.parametrize("face", ["sync", "async"])
def test_a_log_deleted_under_an_open_database_is_refused_and_loses_nothing(
    face: Face, sqlite_url: str, loop: Loop, tally: Any
) -> None:
    """C59. Whoever has it open still holds the deleted log, and folds it in when closing; SQLite refuses others until
    then.

    It can do so because the shared memory tells of frames that the new log has not. Where the shared memory was deleted
    as well, another process sees the file as of the last checkpoint, and of the two logs one is lost.
    """
    row = tally("C59 SQLite: the log is deleted while open")
    settings = Settings.from_url(sqlite_url)
    db = open_db(settings, face, utc_now, loop)
    names = [db.workflows.create(f"w{number}", actor="ann").name for number in range(5)]
    Path(f"{settings.sqlite_path}-wal").unlink()
    for number in range(5, 10):
        error = refusal(lambda number=number: db.workflows.create(f"w{number}", actor="ann"))  # type: ignore[misc]
        assert isinstance(error, Unavailable)
        assert "-wal was deleted" in str(error)
        assert elsewhere(sqlite_url, "db.workflows.list()") == "Unavailable SQLITE_IOERR_SHORT_READ"
        row.rounds += 1
    assert isinstance(refusal(db.workflows.list), Unavailable), "reads are refused within a tenth of a second"
    db.close()
    with dal.connect(settings) as again:
        row.lost = len(set(names) - {flow.name for flow in again.workflows.list().items})
        assert damage(again) == []
    row.check()


def test_a_log_deleted_just_after_a_checkpoint_is_noticed_before_two_logs_are_written(sqlite_url: str) -> None:
    """C59. All frames of the log are in the file then, so another process begins a new log, which this one reads past:
    it takes frames of the deleted log for the other's, and what it answers and checkpoints is neither."""
    with dal.connect(sqlite_url) as db:
        names = [db.workflows.create(f"w{number}", actor="ann").name for number in range(5)]
        with db.transaction() as tx:
            connection = tx.connection
        assert connection.execute("pragma wal_checkpoint").fetchone()[0] == 0
        Path(sqlite_url.removeprefix("sqlite:///") + "-wal").unlink()
        names.append(elsewhere(sqlite_url, "db.workflows.create('theirs', actor='bob').name"))
        assert names[-1] == "theirs"
        found: list[str] = []
        error = refusal(lambda: found.extend(flow.name for flow in db.workflows.list().items))
        assert error is not None or sorted(found) == sorted(names)


def flipped(log: bytes) -> bytes:
    middle = len(log) // 2
    return bytes([*log[:middle], log[middle] ^ 1, *log[middle + 1 :]])


SPOILT: dict[str, tuple[Callable[[bytes], bytes], range]] = {
    # what becomes of the log of a killed process, and how many of its 10 writes may then be there
    "nothing": (lambda log: log, range(10, 11)),
    "empty": (lambda log: b"", range(1)),
    "zeros": (lambda log: bytes(len(log)), range(1)),
    "rubbish": (lambda log: os.urandom(len(log)), range(1)),
    "a bit flipped": (flipped, range(1, 10)),
    "more at its end": (lambda log: log + os.urandom(9000), range(10, 11)),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_log_is_used_as_far_as_it_is_whole(case: str, sqlite_url: str) -> None:
    """C58. Each frame has a checksum of all before it: what does not fit, and all after it, is as if never written."""
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    code = f"""
import dal, os
db = dal.connect({sqlite_url!r})
for number in range(10):
    db.workflows.create(str(number), actor="ann")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=PATIENCE)
    log = path.with_name(f"{path.name}-wal")
    spoil, expected = SPOILT[case]
    log.write_bytes(spoil(log.read_bytes()))
    with dal.connect(sqlite_url) as db:
        assert damage(db) == []
        found = [flow.name for flow in reversed(db.workflows.list().items)]
        assert len(found) in expected
        assert found == [str(number) for number in range(len(found))]
        db.workflows.create("after", actor="ann")
        assert damage(db) == []


def test_a_write_to_a_file_that_was_moved_meanwhile_is_refused_or_is_in_the_file_that_was_moved(
    sqlite_url: str, tmp_path: Path
) -> None:
    """C59. SQLite folds no log into a file that has lost its name, so what is written from then on has no file."""
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    with dal.connect(sqlite_url) as db:
        path.rename(tmp_path / "moved.db")
        error = refusal(lambda: db.workflows.create("after", actor="ann"))
    with dal.connect(f"sqlite:///{tmp_path}/moved.db") as db:
        assert error is not None or [flow.name for flow in db.workflows.list().items] == ["after"]
    Path(f"{path}-wal").unlink(missing_ok=True)

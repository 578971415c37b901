"""A SQLite file as the world has it: where it lies, who may touch it, what is in it, and who else has it open."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

import pytest

import dal
from dal import CorruptDatabase, Dal, DalError, Invalid, SchemaError, Settings, Sync, Unavailable

ROOT = Path(__file__).parents[2]


def opened(path: Path | str, **overrides: object) -> Dal[Sync]:
    return dal.connect(Settings(backend="sqlite", sqlite_path=path, **overrides))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def bytes_of(path: Path) -> dict[str, bytes]:
    """A database file and all that stands beside it under its name. Only for files that nobody here has open: reading
    one would drop this process's locks on it."""
    return {found.name: found.read_bytes() for found in path.parent.glob(f"{path.name}*")}


def python(code: str, *arguments: object, flags: tuple[str, ...] = (), **variables: str) -> str:
    """What a Python of its own prints; it must end well and complain of nothing."""
    ended = subprocess.run(
        [sys.executable, *flags, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, ""), f"exit status {ended.returncode}: {ended.stderr}"
    return ended.stdout


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dal.db"


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder, and a user to whom permissions mean something: root may write everywhere."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "of nobody"
        folder.mkdir()
        if os.geteuid() != 0:
            yield folder
            return
        nobody = pwd.getpwnam("nobody")
        Path(name).chmod(0o711)
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        os.seteuid(nobody.pw_uid)
        try:
            yield folder
        finally:
            os.seteuid(0)


# --- where it lies ----------------------------------------------------------------------------------------------------


def test_the_file_and_the_folder_made_for_it_are_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "made" / "for it" / "dal.db"
    before = os.umask(0)
    try:
        with opened(path) as db:
            db.workflows.create("w", actor="ann")
            found = {name.name: mode(name) for name in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert found == dict.fromkeys(["dal.db", "dal.db-lock", "dal.db-shm", "dal.db-wal"], 0o600)
    assert mode(path.parent) == 0o700


NAMES = [
    "we?ird", "a#b", "100%41", "%00", "über 日本", "e\u0301", "new\nline", "a'b", 'a"b', " ", "-", "\\", "a&b=c", "x;y",
    "file:x?mode=memory", "x.db?mode=ro&cache=shared", ":memory:x", "\udcff is no UTF-8",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_the_name_of_the_file(name: str, tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path}/{quote(os.fsencode(name))}", None):
        settings = Settings.from_url(url) if url else Settings(backend="sqlite", sqlite_path=tmp_path / name)
        with dal.connect(settings) as db:
            db.workflows.create("w", actor="ann")
    assert sorted(found.name for found in tmp_path.iterdir()) == [name, f"{name}-lock"]
    with opened(tmp_path / name) as db:
        assert len(db.workflows.list().items) == 2


def loop(folder: Path) -> Path:
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def link(folder: Path) -> Path:
    opened(folder / "target.db").close()
    (folder / "link.db").symlink_to(folder / "target.db")
    return folder / "link.db"


def below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "dal.db"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def listening(folder: Path) -> Path:
    with contextlib.chdir(folder), contextlib.closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind("socket")  # its path may be 108 bytes long
    return folder / "socket"


PLACES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a directory": (lambda folder: folder, "is a directory"),
    "a link": (link, "is a symbolic link"),
    "a link to itself": (loop, "is a symbolic link"),
    "below a link to itself": (lambda folder: loop(folder) / "dal.db", "cannot be opened for writing"),
    "below a file": (below_a_file, "cannot be opened for writing"),
    "a name of 300 letters": (lambda folder: folder / ("x" * 300), "File name too long"),
    "a path of 9,000 letters": (lambda folder: folder / ("x/" * 4500) / "dal.db", "File name too long"),
    "a pipe": (pipe, "is a device, a pipe or a socket"),
    "a socket": (listening, "is a device, a pipe or a socket"),
    "a device": (lambda _: Path("/dev/null"), "is a device, a pipe or a socket"),
    "where no file can be": (lambda _: Path("/proc/self/dal.db"), "cannot be opened for writing"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_cannot_be_a_database_is_refused_with_its_setting_named(place: str, tmp_path: Path) -> None:
    where, says = PLACES[place]
    path = where(tmp_path)
    with pytest.raises(Invalid, match=says) as caught:
        opened(path)
    assert caught.value.path == "DAL_SQLITE_PATH"


def test_a_folder_may_be_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    opened(tmp_path / "link" / "dal.db").close()
    assert (tmp_path / "real" / "dal.db").is_file()


READ_ONLY: dict[str, tuple[int, int, str]] = {
    # modes of the file, if there is one, and of its folder
    "the file": (0o400, 0o700, "no permission, or a read-only disk"),
    "the file, not even to be read": (0o000, 0o700, "no permission, or a read-only disk"),
    "the folder": (0o600, 0o500, "its directory must be writable too"),
    "the folder, of a file to be made": (-1, 0o500, "Permission denied"),
    "the folder, not even to be entered": (0o600, 0o400, "Permission denied|no permission"),
}


@pytest.mark.parametrize("case", READ_ONLY)
def test_what_may_not_be_written_to_is_refused_at_once_and_says_so(case: str, unprivileged: Path) -> None:
    path = unprivileged / "dal.db"
    file_mode, folder_mode, says = READ_ONLY[case]
    if file_mode >= 0:
        opened(path).close()
        path.chmod(file_mode)
    unprivileged.chmod(folder_mode)
    try:
        with pytest.raises(Invalid, match=says) as caught:
            opened(path)
    finally:
        unprivileged.chmod(0o700)
    assert caught.value.path == "DAL_SQLITE_PATH"
    assert "cannot be opened for writing" in str(caught.value)


def test_memory_is_a_private_database_that_goes_away() -> None:
    with dal.connect("sqlite:///:memory:") as one, dal.connect("sqlite:///:memory:") as other:
        one.workflows.create("w", actor="ann")
        assert len(one.workflows.list().items) == 1
        assert len(other.workflows.list().items) == 0
        with one.transaction() as tx:
            folder = Path(tx.connection.execute("pragma database_list").fetchone()[2]).parent
        assert mode(folder) == 0o700
    assert not folder.exists()


# --- what is in it ----------------------------------------------------------------------------------------------------


def another_applications(path: Path, *statements: str) -> None:
    """A database of somebody else, whose process died with its log unfinished."""
    code = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement)
os._exit(0)
"""
    python(code, path, *statements)


FOREIGN: dict[str, tuple[Callable[[Path], object], type[DalError], str]] = {
    "prose": (lambda path: path.write_text("This is no database.\n" * 500), CorruptDatabase, "no SQLite database"),
    "a few bytes": (lambda path: path.write_bytes(b"SQLite"), CorruptDatabase, "no SQLite database"),
    "zeros": (lambda path: path.write_bytes(bytes(8192)), CorruptDatabase, "no SQLite database"),
    "a header alone": (lambda path: path.write_bytes(b"SQLite format 3\0"), CorruptDatabase, "its header is damaged"),
    "tables": (
        lambda path: another_applications(path, "create table t (x)"),
        SchemaError,
        "another application's SQLite database",
    ),
    "tables in a log": (
        lambda path: another_applications(path, "pragma journal_mode = wal", "create table t (x)"),
        SchemaError,
        "another application's SQLite database",
    ),
    "rows in a log": (
        lambda path: another_applications(
            path, "create table t (x)", "pragma journal_mode = wal", "insert into t values (1)"
        ),
        SchemaError,
        "another application's SQLite database",
    ),
    "another mark": (
        lambda path: another_applications(path, "pragma application_id = 7"),
        SchemaError,
        "another application's SQLite database",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_file_of_somebody_elses_is_refused_and_left_as_it_is(case: str, path: Path) -> None:
    make, kind, says = FOREIGN[case]
    make(path)
    before = bytes_of(path)
    with pytest.raises(kind, match=says) as caught:
        opened(path)
    assert type(caught.value) is kind
    assert str(path) in str(caught.value)
    assert bytes_of(path) == before


def test_an_empty_file_is_as_good_as_none(path: Path) -> None:
    path.touch()
    with opened(path) as db:
        assert db.health().schema_version > 0


def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(path: Path) -> None:
    opened(path).close()
    with contextlib.closing(sqlite3.connect(path)) as newer:
        newer.execute(
            "insert into dal_schema_migrations select version + 98, 'from_the_future', sha256, applied_at, 1, '9.9'"
            "  from dal_schema_migrations where version = 1"
        )
        newer.commit()
    before = bytes_of(path)
    with pytest.raises(SchemaError, match=r"0099_from_the_future.*: install a newer workflow-dal"):
        opened(path)
    assert bytes_of(path) == before


def read_whole(path: Path, workflow: UUID) -> None:
    """Every page of a database."""
    with opened(path) as db:
        db.workflows.list()
        db.versions.list(workflow, limit=500)
        db.workflows.events(workflow, limit=500)


def test_a_file_cut_short_anywhere_is_corrupt_and_stays_as_it_is(tmp_path: Path) -> None:
    whole = tmp_path / "whole.db"
    with opened(whole) as db:
        workflow = db.workflows.create("w", actor="ann").id
        for number in range(20):
            db.versions.create(workflow, {"number": number, "text": "x" * 5000}, actor="ann")
    content = whole.read_bytes()
    pages = len(content) // 4096
    assert pages > 30
    for length in [16, 100, 4095, 4097, *range(4096, len(content), 4096)]:
        cut = tmp_path / f"cut at {length}.db"
        cut.write_bytes(content[:length])
        with pytest.raises(CorruptDatabase) as caught:
            read_whole(cut, workflow)
        assert type(caught.value) is CorruptDatabase, f"cut at {length} of {len(content)} bytes: {caught.value!r}"
        assert cut.read_bytes() == content[:length], f"cut at {length} of {len(content)} bytes, and changed"


# --- how it is used ---------------------------------------------------------------------------------------------------

PRAGMAS = {
    "journal_mode": "wal",
    "foreign_keys": 1,
    "recursive_triggers": 1,
    "cell_size_check": 1,
    "journal_size_limit": 64 * 2**20,
    "busy_timeout": 1234,
    "locking_mode": "normal",
    "encoding": "UTF-8",
    "mmap_size": 0,
}


@pytest.mark.parametrize(("synchronous", "level"), [("normal", 1), ("full", 2), ("extra", 3)])
def test_every_connection_has_the_pragmas_it_needs(synchronous: str, level: int, path: Path) -> None:
    together = threading.Barrier(3)

    def read(pragma_source: sqlite3.Connection) -> dict[str, object]:
        names = [*PRAGMAS, "synchronous", "query_only"]
        return {name: (pragma_source.execute(f"pragma {name}").fetchone() or [None])[0] for name in names}

    def of_a_reader(_: int) -> tuple[int, dict[str, object]]:
        with db.transaction(read_only=True) as tx:
            together.wait(10)
            return id(tx.connection), read(tx.connection)

    with opened(path, sqlite_synchronous=synchronous, sqlite_readers=3, sqlite_busy_timeout="1234ms") as db:
        with db.transaction() as tx:
            assert read(tx.connection) == {**PRAGMAS, "synchronous": level, "query_only": 0, "busy_timeout": 20}
        with ThreadPoolExecutor(3) as threads:
            readers = dict(threads.map(of_a_reader, range(3)))
    assert len(readers) == 3
    for found in readers.values():
        assert found == {**PRAGMAS, "synchronous": level, "query_only": 1}


def test_the_library_has_what_search_will_need(path: Path) -> None:
    with opened(path) as db, db.transaction() as tx:
        tx.connection.execute("create virtual table temp.searched using fts5 (body)")
        tx.connection.execute("insert into searched values ('one two three')")
        assert tx.connection.execute("select count(*) from searched where searched match 'tw*'").fetchone() == (1,)


def test_what_was_written_is_there_after_reopening_and_the_log_is_folded_in(path: Path) -> None:
    with opened(path) as db:
        workflow = db.workflows.create("w", actor="ann", tags=["a"])
        version = db.versions.create(workflow.id, {"n": 1}, actor="ann")
        assert path.with_name("dal.db-wal").stat().st_size > 0
    assert sorted(found.name for found in path.parent.iterdir()) == ["dal.db", "dal.db-lock"]
    with opened(path) as db:
        assert db.workflows.get(workflow.id) == workflow
        assert db.versions.latest(workflow.id) == version


def test_what_a_killed_process_wrote_is_there(path: Path) -> None:
    code = """
import dal, os, signal, sys
db = dal.connect("sqlite:///" + sys.argv[1])
for number in range(5):
    print(db.workflows.create(f"w{number}", actor="ann").name, flush=True)
with db.transaction() as tx:
    tx.workflows.create("unfinished", actor="ann")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with opened(path) as db:
        assert [found.name for found in reversed(db.workflows.list().items)] == killed.stdout.split()
        assert len(killed.stdout.split()) == 5


# --- who else has it open ---------------------------------------------------------------------------------------------

WRITER = """
import dal, sys
with dal.connect("sqlite:///" + sys.argv[1]) as db:
    for number in range(int(sys.argv[2])):
        db.workflows.create("w", actor="ann")
print(len(db.calls))
"""


def test_a_second_opening_in_one_process_keeps_the_first_ones_locks(path: Path) -> None:
    """Else another process, closing, would take itself for the last user, and delete the log that others write to."""
    with opened(path) as first:
        first.workflows.create("one", actor="ann")
        opened(path).close()
        with opened(path):
            python(WRITER, path, 1)
            assert path.with_name("dal.db-wal").exists(), "the log was deleted under a database in use"
            first.workflows.create("three", actor="ann")
            seen = python(
                "import dal, sys\nwith dal.connect('sqlite:///' + sys.argv[1]) as db:\n"
                "    print([row.name for row in db.workflows.list().items])",
                path,
            )
    assert seen == "['three', 'w', 'one']\n"


def test_two_openings_in_one_process_take_turns_writing(path: Path) -> None:
    with opened(path, sqlite_synchronous="normal") as one, opened(path, sqlite_synchronous="normal") as other:
        with ThreadPoolExecutor(8) as threads:
            made = list(threads.map(lambda n: (one, other)[n % 2].workflows.create(f"w{n}", actor="ann"), range(400)))
        names = {row.name for db in (one, other) for row in db.workflows.list(limit=500).items}
    assert len({row.id for row in made}) == len(names) == 400


def test_processes_that_start_at_once_on_a_new_file_all_write(path: Path) -> None:
    path = path.parent / "new folder" / "dal.db"
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: python(WRITER, path, 50), range(4)))
    with opened(path) as db:
        assert len(db.workflows.list(limit=500).items) == 200


def test_a_file_that_another_process_keeps_to_itself_is_unavailable_within_the_busy_timeout(path: Path) -> None:
    opened(path).close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("pragma locking_mode = exclusive")
        other.execute("begin immediate")
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="database is locked") as caught:
            opened(path, sqlite_busy_timeout=0.3)
        waited = time.monotonic() - begun
    assert caught.value.code == "SQLITE_BUSY"
    assert waited < 3, f"{waited:.2f} s"


# --- how Python is run ------------------------------------------------------------------------------------------------

LIFE = """
import asyncio, dal, sys
url, close = sys.argv[1], sys.argv[2]

def told(call, *args, **kwargs):
    try:
        return call(*args, **kwargs)
    except dal.DalError as error:
        return type(error).__name__, getattr(error, "path", None), getattr(error, "found", None)

def life(db):
    w = db.workflows.create("Invoices", actor="ann", handle="invoices", tags=["a", "b"])
    print(w.revision, told(db.workflows.create, "Other", actor="ann", handle="INVOICES"))
    print(db.workflows.update(w.id, actor="bob", name="Bills").revision, told(db.workflows.update, w.id, actor="bob"))
    print(told(db.workflows.update, w.id, actor="bob", name="x", expected_revision=1))
    print([db.versions.create(w.id, {"n": n}, actor="ann").number for n in range(3)], db.versions.diff(w.id, 1, 2))
    r = db.runs.create(w.id, actor="ann", inputs={"x": 1.5}, idempotency_key="k")
    print(db.runs.create(w.id, actor="ann", inputs={"x": 1.5}, idempotency_key="k").id == r.id)
    print(told(db.runs.create, w.id, actor="ann", idempotency_key="k"), told(db.runs.succeed, r.id, actor="ann"))
    print(db.runs.start(r.id, actor="ann").status, told(db.runs.start, r.id, actor="ann"))
    print(db.runs.succeed(r.id, {"y": [None]}, actor="ann").output, db.runs.events(r.id).items[-1].action)
    try:
        with db.transaction() as tx:
            tx.workflows.archive(w.id, actor="ann")
            with tx.transaction():
                tx.workflows.create("inner", actor="ann")
            print(told(db.workflows.get, w.id), told(tx.versions.create, w.id, {}, actor="ann"))
            raise KeyError
    except KeyError:
        print(len(db.workflows.list().items), db.transact(lambda tx: tx.workflows.get(w.id).is_archived))
    page = db.runs.list(w.id, limit=1)
    print(len(page.items), page.next, told(db.runs.list, w.id, after="x"))
    print(told(db.versions.create, w.id, {1: 2}, actor="ann"), told(db.workflows.create, "", actor="ann"))

async def alife():
    asyncio.get_running_loop().slow_callback_duration = 10  # a busy machine's slow steps are no complaint of ours
    db = await dal.aconnect(url)
    w = await db.workflows.create("Invoices", actor="ann")
    made = await asyncio.gather(*(db.versions.create(w.id, n, actor="ann") for n in range(20)))
    print(sorted(version.number for version in made) == list(range(1, 21)))
    async with db.transaction() as tx:
        run = await tx.runs.create(w.id, actor="ann")
        print((await tx.runs.start(run.id, actor="ann")).status)
    async with db.transaction(read_only=True) as tx:
        print((await tx.runs.get(run.id)).status, len((await tx.versions.list(w.id)).items))
    if close == "close":
        await db.close()

db = dal.connect(url)
life(db)
if close == "close":
    db.close()
asyncio.run(alife())
print("end")
"""


def test_without_asserts_everything_answers_the_same(tmp_path: Path) -> None:
    plain = python(LIFE, f"sqlite:///{tmp_path}/plain.db", "close")
    assert plain.splitlines()[-1] == "end"
    assert python(LIFE, f"sqlite:///{tmp_path}/optimized.db", "close", PYTHONOPTIMIZE="1") == plain


def test_with_every_check_of_python_on_there_is_nothing_to_complain_of(tmp_path: Path) -> None:
    """-W error makes each warning an exception, development mode turns on asyncio's debugging and ResourceWarning."""
    said = python(
        LIFE, f"sqlite:///{tmp_path}/dal.db", "close", flags=("-X", "dev", "-W", "error"), PYTHONASYNCIODEBUG="1"
    )
    assert said.splitlines()[-1] == "end"


def test_a_database_that_is_never_closed_lets_the_interpreter_end(tmp_path: Path) -> None:
    path = tmp_path / "dal.db"
    # Newer Pythons warn of a connection left open; without -W that is kept from the terminal.
    said = python(LIFE, f"sqlite:///{path}", "forget")
    assert said.splitlines()[-1] == "end"
    with opened(path) as db:
        assert len(db.workflows.list().items) == 2

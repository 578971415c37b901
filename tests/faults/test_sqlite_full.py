"""A disk that is full, or takes no more, at every step of a write: typed errors, nothing by half, and it goes on after.

C60 by SQLite's own limit of pages and by a small file system of the test's own; C61 by the limit that the system sets
to a process's files.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dal
from dal import Dal, DiskFull, Settings, Sync
from dal.dal import utc_now
from tests.cells import PATIENCE, Face, Loop, open_db
from tests.disks import leave_room, mounted
from tests.faults.whole import damage, dump, ids, query, refusal

ROOT = Path(__file__).parents[2]
LARGE = {"text": "x" * 20_000}  # several pages of SQLite, so that a disk can be full at several places
ACTOR = "ann" * 170
Call = Callable[[Dal[Sync]], object]


@pytest.fixture(params=["sync", "async"])
def lite(request: pytest.FixtureRequest, sqlite_url: str, loop: Loop) -> Iterator[Dal[Sync]]:
    """A SQLite database through each face."""
    db = open_db(Settings.from_url(sqlite_url), request.param, utc_now, loop)
    yield db
    db.close()


def writing(db: Dal[Sync]) -> Any:
    """The connection that writes, an sqlite3.Connection."""
    with db.transaction() as tx:
        return tx.connection


def a_flow(db: Dal[Sync]) -> Any:
    return db.workflows.create("w", actor="ann", tags=["old"]).id


def a_version(db: Dal[Sync]) -> Any:
    return db.versions.create(a_flow(db), {}, actor="ann").workflow_id


def a_run(db: Dal[Sync]) -> Any:
    return db.runs.create(a_version(db), actor="ann").id


def several(db: Dal[Sync], flow: Any) -> None:
    with db.transaction() as tx:
        tx.versions.create(flow, {}, actor="ann")
        tx.workflows.update(flow, actor="ann", tags=["a", "b"])
        with tx.transaction():
            tx.runs.start(tx.runs.create(flow, actor="ann", inputs=LARGE).id, actor="ann")


# name: what it needs, made while there is room; and the write
WRITES: dict[str, tuple[Callable[[Dal[Sync]], Any], Callable[[Dal[Sync], Any], object]]] = {
    "workflows.create": (
        lambda _: None,
        lambda db, _: db.workflows.create("w", actor=ACTOR, tags=["a", "b", "c"], chat_config=LARGE),
    ),
    "workflows.update": (
        a_flow,
        lambda db, id: db.workflows.update(id, actor=ACTOR, tags=["a", "b"], chat_config=LARGE),
    ),
    "workflows.archive": (a_flow, lambda db, id: db.workflows.archive(id, actor=ACTOR)),
    "workflows.unarchive": (
        lambda db: db.workflows.archive(a_flow(db), actor="ann").id,
        lambda db, id: db.workflows.unarchive(id, actor=ACTOR),
    ),
    "workflows.publish": (a_flow, lambda db, id: db.workflows.publish(id, actor=ACTOR)),
    "workflows.unpublish": (
        lambda db: db.workflows.publish(a_flow(db), actor="ann").id,
        lambda db, id: db.workflows.unpublish(id, actor=ACTOR),
    ),
    "versions.create": (a_flow, lambda db, id: db.versions.create(id, LARGE, actor=ACTOR)),
    "versions.set_runnable_config": (
        a_version,
        lambda db, id: db.versions.set_runnable_config(id, 1, LARGE, actor=ACTOR),
    ),
    "runs.create": (a_version, lambda db, id: db.runs.create(id, actor=ACTOR, inputs=LARGE, idempotency_key="k")),
    "runs.start": (a_run, lambda db, id: db.runs.start(id, actor=ACTOR)),
    "runs.succeed": (
        lambda db: db.runs.start(a_run(db), actor="ann").id,
        lambda db, id: db.runs.succeed(id, LARGE, actor=ACTOR),
    ),
    "runs.fail": (a_run, lambda db, id: db.runs.fail(id, "x" * 9000, actor=ACTOR)),
    "runs.cancel": (a_run, lambda db, id: db.runs.cancel(id, "x" * 9000, actor=ACTOR)),
    "a transaction": (a_flow, several),
}


def refusals_until_done(db: Dal[Sync], call: Callable[[], object], give: Callable[[], None]) -> int:
    """How often the disk was full before the call succeeded, given a little more each time; nothing changes before."""
    before = dump(db)
    for refused in range(100):
        error = refusal(call)
        if error is None:
            return refused
        assert (type(error), error.code) == (DiskFull, "SQLITE_FULL"), repr(error)
        assert dump(db) == before, "refused, and yet something was written"
        give()
    raise AssertionError("100 pages, and still the disk is full")


def test_a_write_that_finds_no_room_is_undone_and_succeeds_once_there_is_room(
    lite: Dal[Sync], tally: Any, rounds: Any
) -> None:
    """C60, at each page that a write needs: those that it asks for first, and the last one."""
    row = tally("C60 SQLite: no room, for each method that writes")
    connection = writing(lite)
    most = 0

    def give() -> None:
        nonlocal most
        most += 1
        assert connection.execute(f"pragma max_page_count = {most}").fetchone()[0] == most

    for name, (prepare, write) in WRITES.items():
        connection.execute("pragma max_page_count = 1000000").fetchall()
        subjects = [prepare(lite) for _ in range(40)]
        most = connection.execute("pragma page_count").fetchone()[0] - 1
        give()
        refused, enough = 0, rounds(12, 40)
        while subjects and refused < enough:
            refused += refusals_until_done(lite, partial(write, lite, subjects.pop()), give)
        assert refused > 0, f"{name}: there was always room"
        row.rounds += refused
        assert damage(lite) == [], name
    row.check()


def test_of_writes_that_share_a_commit_those_without_room_alone_are_refused(
    lite: Dal[Sync], tally: Any, rounds: Any
) -> None:
    """A full disk undoes the whole transaction, but not the writes of others in it."""
    row = tally("C60 SQLite: no room for one of a group")
    connection = writing(lite)
    for _ in range(rounds(3, 30)):
        flows = [a_flow(lite) for _ in range(20)]
        known = ids(lite)
        graphs = [{"text": "x" * 200_000} if number % 4 == 1 else {"n": number} for number in range(20)]
        with ThreadPoolExecutor(21) as threads:
            with lite.transaction():  # the others wait in line until it ends
                jobs = [
                    threads.submit(lite.versions.create, flow, graph, actor="ann")
                    for flow, graph in zip(flows, graphs, strict=True)
                ]
                end = time.monotonic() + PATIENCE
                while threads.submit(lite.health).result().pool["writers_waiting"] < 20:
                    assert time.monotonic() < end, "the writers did not all come to wait"
                    time.sleep(0.005)
                pages = connection.execute("pragma page_count").fetchone()[0]
                connection.execute(f"pragma max_page_count = {pages + 20}").fetchall()
            errors = [job.exception(PATIENCE) for job in jobs]
        made = {str(job.result().id) for job, error in zip(jobs, errors, strict=True) if error is None}
        assert [type(error) for error in errors] == [
            DiskFull if number % 4 == 1 else type(None) for number in range(20)
        ]
        found = ids(lite) - known
        row.rounds += 1
        row.lost += len(made - found)
        assert found == made, "refused, and yet it is there"
        assert damage(lite) == []
        connection.execute("pragma max_page_count = 1000000").fetchall()
        for flow, graph in zip(flows, graphs, strict=True):
            lite.versions.create(flow, graph, actor="ann")
    row.check()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    with mounted(tmp_path / "disk", "6m") as place:
        yield place


@pytest.mark.parametrize("face", ["sync", "async"])
def test_a_full_file_system_refuses_writes_answers_reads_and_is_used_again_once_there_is_room(
    face: Face, small_disk: Path, loop: Loop, tally: Any, rounds: Any
) -> None:
    row = tally("C60 SQLite: a full file system")
    settings = Settings(backend="sqlite", sqlite_path=small_disk / "dal.db")
    db = open_db(settings, face, utc_now, loop)
    flow = a_flow(db)
    refused = 0
    for room in range(0, 30, rounds(3, 1)):
        before = dump(db)
        leave_room(small_disk, room)
        error = refusal(lambda: db.versions.create(flow, LARGE, actor="ann"))
        if error is not None:
            refused += 1
            assert type(error) is DiskFull, f"room for {room} pages: {error!r}"
            assert dump(db) == before, f"room for {room} pages: refused, and yet something was written"
        versions = len(db.versions.list(flow, limit=500).items)
        (small_disk / "filler").unlink()
        begun = time.monotonic()
        version = db.versions.create(flow, {"room": room}, actor="ann")
        row.recoveries.append(time.monotonic() - begun)
        assert version.number == versions + 1
        row.rounds += 1
    assert 2 <= refused < row.rounds, "the disk was to be full, and was to have room"
    assert damage(db) == []
    db.close()
    with dal.connect(settings) as again:
        assert damage(again) == []
    row.check()


LIMITED = """
import dal, os, resource, sys
from dal import DalError

db = dal.connect("sqlite:///" + sys.argv[1])
log = sys.argv[1] + "-wal"
flow = db.workflows.create("w", actor="ann").id
for room in range(0, 40_000, int(sys.argv[2])):
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(log) + room, resource.RLIM_INFINITY))
    try:
        print("made", room, db.versions.create(flow, {"room": room, "text": "x" * 20_000}, actor="ann").id)
    except DalError as error:
        print(type(error).__name__, room, error.code)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert [found.name for found in db.workflows.list().items] == ["w"]
    print("made", room, db.versions.create(flow, {"small": room}, actor="ann").id, flush=True)
os._exit(0)  # as if killed: the log is left as it is
"""


def test_a_log_that_may_not_grow_refuses_writes_and_the_next_opener_finds_all_that_was_answered(
    sqlite_url: str, tally: Any, rounds: Any
) -> None:
    """C61: EFBIG stands for a quota and for an error of the disk, at every length that the log can be cut off at."""
    row = tally("C61 SQLite: the log may not grow")
    path = sqlite_url.removeprefix("sqlite:///")
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, path, str(rounds(3001, 211))], cwd=ROOT, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = [line.split() for line in ended.stdout.splitlines()]
    refused = [line for line in lines if line[0] != "made"]
    made = {line[2] for line in lines if line[0] == "made"}
    assert len(refused) >= 3
    assert {line[0] for line in refused} <= {"DiskFull", "Unavailable", "OutcomeUnknown"}, refused
    with dal.connect(sqlite_url) as db:
        assert damage(db) == []
        found = {id for (id,) in query(db, "select id from workflow_versions")}
        unknown = sum(line[0] == "OutcomeUnknown" for line in refused)
        row.lost = len(made - found)
        assert len(found - made) <= unknown, f"{len(found - made)} more than was answered, {unknown} of them unknown"
    row.rounds = len(refused)
    row.check()


STARTED = """
import dal, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    dal.connect("sqlite:///" + sys.argv[1])
except dal.DalError as error:
    print(type(error).__name__, error.code)
"""


@pytest.mark.parametrize(("size", "code"), [(0, "SHMOPEN"), (100, "SHMSIZE"), (5000, "SHMSIZE"), (20_000, "SHMSIZE")])
def test_shared_memory_that_may_not_be_made_is_told_and_leaves_the_file_alone(
    size: int, code: str, sqlite_url: str
) -> None:
    """C61: 32 KiB of it are made when a file is opened."""
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    before = path.read_bytes()
    command = [sys.executable, "-c", STARTED, str(path), str(size)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.split() == ["Unavailable", f"SQLITE_IOERR_{code}"]
    assert path.read_bytes() == before
    with dal.connect(sqlite_url) as db:
        assert db.workflows.create("w", actor="ann").name == "w"

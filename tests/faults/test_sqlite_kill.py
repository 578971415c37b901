"""kill -9 of processes that write to a SQLite file: what they were told is there, once, and the next one goes on."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import dal
from dal import Dal, Sync
from tests.cells import PATIENCE
from tests.faults.killed import CALLS
from tests.faults.whole import damage, names, query

ROOT = Path(__file__).parents[2]
WRITERS = {"ann": "sync", "bob": "async", "eve": "sync"}


class Writer:
    """A process of tests/faults/killed.py, begun again where it was killed."""

    def __init__(self, url: str, workflow: UUID, name: str) -> None:
        self.next = 0  # the number of the run and the transaction that are asked for first
        self._command = [sys.executable, "-m", "tests.faults.killed", "writer"]
        self._command += [url, WRITERS[name], str(workflow), name]
        self.acknowledged: dict[str, str] = {}  # idempotency key: id of the run, or of a transaction's workflow
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # Unbuffered: communicate would not know of what readline had read ahead.
        self.process = subprocess.Popen(
            [*self._command, str(self.next)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )

    def wait_until_ready(self) -> None:
        assert self.process
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line == b"ready\n", self.process.communicate()[1] or line

    def kill(self) -> None:
        """Also notes what was acknowledged; the next process begins after the last transaction that was."""
        assert self.process
        self.process.kill()
        said, complaint = self.process.communicate(timeout=PATIENCE)
        assert not complaint, complaint
        for what, id in map(str.split, said.decode().splitlines()):
            assert self.acknowledged.get(what, id) == id, f"{what} was {self.acknowledged[what]}, and is {id}"
            self.acknowledged[what] = id
            if what.startswith("pair-"):
                self.next = int(what.rpartition("-")[2]) + 1


@pytest.fixture
def writers(sqlite_url: str) -> Iterator[list[Writer]]:
    with dal.connect(sqlite_url) as db:
        flow = db.workflows.create("all runs", actor="ann").id
        db.versions.create(flow, {}, actor="ann")
    made = [Writer(sqlite_url, flow, name) for name in WRITERS]
    yield made
    for writer in made:
        if writer.process and writer.process.poll() is None:
            writer.process.kill()
            writer.process.communicate()


def lost_and_doubled(db: Dal[Sync], writers: list[Writer]) -> tuple[list[str], list[str]]:
    found = dict(query(db, "select idempotency_key, id from runs union all select name, id from workflows"))
    lost = [key for writer in writers for key, id in writer.acknowledged.items() if found.get(key) != id]
    half = query(db, "select name from workflows where name like 'pair-%' and last_version <> 1")
    lost += [f"half of {name}" for (name,) in half]
    return lost, [name for name, count in names(db).items() if count > 1]


def test_killed_writers_lose_and_double_nothing(
    sqlite_url: str, writers: list[Writer], tally: Any, rounds: Any
) -> None:
    row = tally("SQLite: kill -9 of 3 writing processes")
    for number in range(rounds(3, 50)):
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.wait_until_ready()
        for writer in random.sample(writers, len(writers)):
            time.sleep(random.uniform(0, 0.15))
            writer.kill()
        begun = time.monotonic()
        with dal.connect(sqlite_url) as db:
            db.workflows.create(f"next {number}", actor="ann")
            row.recoveries.append(time.monotonic() - begun)
            assert damage(db) == []
            lost, doubled = lost_and_doubled(db, writers)
        row.rounds += 1
        row.lost += len(lost)
        row.doubled += len(doubled)
        assert not lost, f"round {number}: {lost[:5]}"
    assert min(writer.next for writer in writers) > 0, "a writer was never told anything"
    row.check()


def counts(path: Path) -> tuple[list[int], list[str]]:
    """How many rows each table has, and what is wrong with the file."""
    tables = ["workflows", "workflow_tags", "workflow_versions", "runs", "workflow_events", "run_events"]
    with dal.connect(f"sqlite:///{path}") as db:
        found = [query(db, f"select count(*) from {table}")[0][0] for table in tables]
        archived = query(db, "select count(*) from workflows where is_archived")[0][0]
        return [*found, archived], damage(db)


def test_a_process_killed_at_any_statement_of_a_write_has_done_all_of_it_or_nothing(
    tmp_path: Path, sqlite_template: Path, tally: Any, rounds: Any
) -> None:
    """C62, in methods of several statements and in transactions, also with a savepoint inside."""
    row = tally("C62 SQLite: kill -9 at every statement of a write")
    shutil.copy(sqlite_template, tmp_path / "begin.db")
    shutil.copy(sqlite_template, tmp_path / "expected.db")
    after = [counts(tmp_path / "expected.db")[0]]  # after[n]: once n calls were made
    for call in CALLS:
        with dal.connect(f"sqlite:///{tmp_path}/expected.db") as db:
            call(db)
        after.append(counts(tmp_path / "expected.db")[0])
    assert len({tuple(each) for each in after}) == len(CALLS) + 1, "each call is to be told from the one before"

    step = rounds(4, 1)
    first = random.randrange(1, step + 1)
    command = [sys.executable, "-m", "tests.faults.killed", "statements", str(tmp_path), str(first), str(step)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert (ended.returncode, ended.stderr) == (0, "")
    copies = [line.split() for line in ended.stdout.splitlines()]
    for acknowledged, copy in copies:
        found, wrong = counts(tmp_path / copy)
        told = int(acknowledged)
        assert wrong == [], copy
        assert found in after, f"{copy}: {found} is no whole number of calls: {after}"
        row.lost += after.index(found) < told
        # A call that had committed, but had not answered yet, may be there.
        assert after.index(found) <= told + 1, f"{copy}: {after.index(found)} calls are there, {told} were answered"
        row.rounds += 1
    assert copies[-1][0] == str(len(CALLS)), "the last one was to get to the end"
    assert len(copies) * step > 5 * len(CALLS), "fewer statements than the calls must have"
    row.check()


def frames(log: Path, page: int = 4096) -> Iterator[int]:
    """Lengths to which a write-ahead log may be cut: between its frames, and within each."""
    for end in range(32, log.stat().st_size + 1, 24 + page):
        yield from (end - 7, end, end + 12)


def test_a_log_cut_short_anywhere_holds_the_writes_up_to_there(
    tmp_path: Path, sqlite_url: str, tally: Any, rounds: Any
) -> None:
    """What is left of a log is used as far as it is whole, in the order of its writes."""
    row = tally("SQLite: the log of a killed process cut short")
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    writes = rounds(3, 20)
    code = f"""
import dal, os, signal
db = dal.connect({sqlite_url!r})
for number in range({writes}):
    db.workflows.create(str(number), actor="ann", tags=["a"])
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=PATIENCE)
    log = path.with_name(f"{path.name}-wal")
    seen = []
    for length in frames(log):
        copy = tmp_path / f"{length}.db"
        shutil.copy(path, copy)
        copy.with_name(f"{copy.name}-wal").write_bytes(log.read_bytes()[:length])
        with dal.connect(f"sqlite:///{copy}") as db:
            found = [flow.name for flow in reversed(db.workflows.list().items)]
            assert damage(db) == [], length
        assert found == [str(number) for number in range(len(found))], length
        seen.append(len(found))
        row.rounds += 1
        copy.unlink()
    assert seen == sorted(seen)
    assert set(seen) == set(range(writes + 1))
    log.unlink()
    row.check()

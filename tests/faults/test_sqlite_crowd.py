"""Many at one SQLite file: processes that open it at once, writers by the hundred, readers that stay."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import dal
from dal import Dal, Settings, Sync, Unavailable
from dal.doctor import examine
from tests.cells import PATIENCE, Clock, Face, Loop, open_db
from tests.faults.whole import damage, query, refusal

ROOT = Path(__file__).parents[2]
MIB = 2**20


def path_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def test_processes_that_open_a_new_file_at_once_all_find_the_schema_made_once(
    tmp_path: Path, tally: Any, rounds: Any
) -> None:
    row = tally("SQLite: 8 processes open a new file at once")
    row.rounds = rounds(5, 100)
    command = [sys.executable, "-m", "tests.faults.crowd", "start", str(tmp_path), str(row.rounds), "8"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    for number in range(row.rounds):
        with dal.connect(f"sqlite:///{tmp_path}/{number}.db") as db:
            made = {name for (name,) in query(db, "select name from workflows")}
            row.lost += len({f"{number}.{child}" for child in range(8)} - made)
            row.doubled += query(db, "select count(*) - count(distinct version) from dal_schema_migrations")[0][0]
            assert damage(db) == []
    row.check()


# --- writers ----------------------------------------------------------------------------------------------------------


class Crowd:
    """Processes of tests/faults/crowd.py that write versions of one workflow."""

    def __init__(self, url: str) -> None:
        self.url = url
        with dal.connect(url) as db:
            self.workflow = db.workflows.create("w", actor="ann").id
        self.processes: list[subprocess.Popen[str]] = []

    def add(self, how: str, writers: int, each: int) -> subprocess.Popen[str]:
        """A process that is ready to begin."""
        command = [sys.executable, "-m", "tests.faults.crowd", "write", self.url, how, str(self.workflow)]
        # It says no more than that until it is told to begin, so that readline has nothing to read ahead.
        process = subprocess.Popen(
            [*command, str(writers), str(each)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.processes.append(process)
        assert process.stdout
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
        return process

    def begin(self) -> None:
        for process in self.processes:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()

    def answers(self) -> list[dict[str, Any]]:
        """What each process said at its end."""
        said = [process.communicate(timeout=3 * PATIENCE) for process in self.processes]
        assert [complaint for _, complaint in said if complaint] == []
        return [json.loads(answer) for answer, _ in said]


@pytest.fixture
def crowd(sqlite_url: str) -> Iterator[Crowd]:
    crowd = Crowd(sqlite_url)
    yield crowd
    for process in crowd.processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


def check_numbers(url: str, workflow: UUID, callers: list[Any], row: Any) -> None:
    """Every answered version is there, once; each caller's in the order of its calls."""
    errors = [caller for caller in callers if isinstance(caller, str)]
    assert errors == []
    assert [caller for caller in callers if caller != sorted(caller)] == [], "not in the order of the calls"
    answered = [number for caller in callers for number in caller]
    with dal.connect(url) as db:
        stored = [n for (n,) in query(db, "select number from workflow_versions where workflow_id = ?", str(workflow))]
        assert damage(db) == []
    row.lost += len(set(answered) - set(stored))
    row.doubled += len(answered) - len(set(answered))
    assert sorted(stored) == list(range(1, len(answered) + 1))


@pytest.mark.parametrize("how", ["threads", "asyncio", "gevent"])
def test_a_hundred_writers_of_one_process_are_never_busy_and_keep_their_order(
    how: str, crowd: Crowd, tally: Any, rounds: Any
) -> None:
    row = tally(f"SQLite: 100 writers, {how}")
    row.rounds = rounds(30, 200)
    crowd.add(how, 100, row.rounds)
    crowd.begin()
    [answer] = crowd.answers()
    check_numbers(crowd.url, crowd.workflow, answer["numbers"], row)
    assert answer["writes"] == 100 * row.rounds
    assert answer["commits"] < answer["writes"] / 4, "a hundred that wait are to share their commits"
    row.check()


def test_a_hundred_writers_of_four_processes_are_never_busy(crowd: Crowd, tally: Any, rounds: Any) -> None:
    row = tally("SQLite: 100 writers of 4 processes")
    row.rounds = rounds(10, 50)
    for how in ("threads", "asyncio", "threads", "asyncio"):
        crowd.add(how, 25, row.rounds)
    crowd.begin()
    with dal.connect(crowd.url):  # so that no other is the last to close the file, who would fold in all of the log
        before = path_of(crowd.url).stat().st_size
        callers = [caller for answer in crowd.answers() for caller in answer["numbers"]]
        log = path_of(f"{crowd.url}-wal").stat().st_size
        assert path_of(crowd.url).stat().st_size > before, "one of them was to fold the log into the file"
        assert log < 16 * MIB
    assert len(callers) == 100
    check_numbers(crowd.url, crowd.workflow, callers, row)
    row.check()


def test_writers_go_on_when_a_process_that_stood_still_goes_on(
    crowd: Crowd, sqlite_url: str, tally: Any, rounds: Any
) -> None:
    """SIGSTOP, for as long as the others wait at most; what they are told then is that they may try again."""
    row = tally("SQLite: a writing process stands still for 0.5 s")
    settings = Settings.from_url(sqlite_url, sqlite_busy_timeout=0.3)
    stopped = crowd.add("threads", 4, 100_000)
    crowd.begin()
    names: list[str] = []
    with dal.connect(settings) as db:

        def write() -> None:
            names.append(db.workflows.create(f"w{len(names)}", actor="ann").name)

        for _ in range(rounds(4, 50)):
            time.sleep(0.05)
            stopped.send_signal(signal.SIGSTOP)
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                error = refusal(write)
                assert error is None or (type(error), error.code) == (Unavailable, "SQLITE_BUSY"), repr(error)
                db.workflows.list()  # whatever stands still, reading goes on
            stopped.send_signal(signal.SIGCONT)
            begun = time.monotonic()
            while (error := refusal(write)) is not None:
                assert error.code == "SQLITE_BUSY", repr(error)
            row.recoveries.append(time.monotonic() - begun)
            row.rounds += 1
        stopped.kill()
        stopped.communicate()
        found = [name for (name,) in query(db, "select name from workflows where name <> 'w'")]
        row.lost = len(set(names) - set(found))
        row.doubled = len(found) - len(set(found))
        assert damage(db) == []
    row.check()


# --- readers ----------------------------------------------------------------------------------------------------------


def the_log(settings: Settings) -> tuple[str, str]:
    """What dal doctor says of the write-ahead log."""
    return next((check.verdict, check.words) for check in examine(settings) if check.name == "write-ahead log")


def test_a_reader_that_stays_keeps_no_writer_out_and_the_log_is_folded_in_once_it_leaves(
    sqlite_url: str, tally: Any, rounds: Any
) -> None:
    row = tally("SQLite: a reader stays while others write")
    settings = Settings.from_url(sqlite_url, sqlite_tx_timeout=300)
    path = path_of(sqlite_url)
    log = path.with_name(f"{path.name}-wal")
    with dal.connect(settings) as db, dal.connect(settings) as other:
        flow = db.workflows.create("w", actor="ann").id
        over = threading.Event()

        def go_on_writing(_: int) -> int:
            made = 0
            while not over.is_set() or made == 0:
                other.versions.create(flow, {}, actor="ann")
                made += 1
            return made

        with ThreadPoolExecutor(4) as threads:
            with db.transaction(read_only=True) as tx:
                assert tx.versions.list(flow).items == []
                for _ in range(17):
                    other.versions.create(flow, {"text": "x" * 4 * MIB}, actor="ann")
                writers = [threads.submit(go_on_writing, n) for n in range(4)]
                time.sleep(rounds(1, 60))
                over.set()
                made = 17 + sum(writer.result(PATIENCE) for writer in writers)
                assert tx.versions.list(flow).items == [], "a reader sees one moment"
                assert log.stat().st_size > 64 * MIB
                verdict, words = the_log(settings)
                assert verdict == "warn"
                assert "something has been reading for long" in words
            row.rounds = made
        assert db.versions.latest(flow).number == made
        for _ in range(10):
            other.versions.create(flow, {}, actor="ann")
        assert log.stat().st_size <= 64 * MIB, "10 writes after the reader has left"
        assert path.stat().st_size > 68 * MIB, "what the log held is to be in the file"
        assert the_log(settings)[0] == "ok"
        row.lost = made + 10 - db.versions.latest(flow).number
        assert damage(db) == []
    row.check()


@pytest.mark.parametrize("face", ["sync", "async"])
def test_reading_waits_for_no_writer_of_any_process(face: Face, sqlite_url: str, loop: Loop) -> None:
    settings = Settings.from_url(sqlite_url, sqlite_busy_timeout=0.2)
    db = open_db(settings, face, Clock(), loop)
    db.workflows.create("before", actor="ann")
    with contextlib.closing(sqlite3.connect(path_of(sqlite_url), isolation_level=None)) as other:
        other.execute("begin exclusive")
        other.execute("update workflows set name = 'never'")
        found = [db.workflows.list().items[0].name for _ in range(200)]
        error = refusal(lambda: db.workflows.create("w", actor="ann"))
        assert error is not None
        assert (type(error), error.code) == (Unavailable, "SQLITE_BUSY")
        other.execute("rollback")
    assert set(found) == {"before"}
    assert db.workflows.create("after", actor="ann").name == "after"
    db.close()


# --- the clock --------------------------------------------------------------------------------------------------------


def test_numbers_and_ids_go_on_when_the_clock_goes_back(sqlite_db: Dal[Sync], sqlite_url: str, clock: Clock) -> None:
    """B53, within a database and after it was opened again."""
    clock.set(dal.dal.utc_now())
    flow = sqlite_db.workflows.create("w", actor="ann")
    ids: list[UUID] = [flow.id]
    for hours in (0, -1, -24 * 365, 2):
        clock.advance(hours=hours)
        for db in (sqlite_db, dal.connect(sqlite_url, clock=clock)):
            version = db.versions.create(flow.id, {}, actor="ann")
            run = db.runs.create(flow.id, actor="ann")
            assert run.version_id == version.id, "the latest version is the one made last, whatever its time"
            db.runs.start(run.id, actor="ann")
            db.runs.succeed(run.id, actor="ann")
            assert [event.number for event in db.runs.events(run.id).items] == [1, 2, 3]
            ids += [version.id, run.id]
            if db is not sqlite_db:
                db.close()
    assert ids == sorted(ids)
    assert [version.number for version in sqlite_db.versions.list(flow.id).items] == list(range(8, 0, -1))
    events = sqlite_db.workflows.events(flow.id).items
    assert [event.number for event in events] == list(range(1, 10))
    assert [event.at for event in events] != sorted(event.at for event in events), "the clock did go back"

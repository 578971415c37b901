"""kill -9 of what moves the data, and of the server it loads: the same command goes on, and nothing is there twice."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dal
from dal import Settings
from dal.transfer import moving
from dal.transfer.sources import tally as counted
from tests.cells import Dialect
from tests.faults.conftest import Tally
from tests.server import Server

STEPS = 1200
BATCH = 25


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of some hundred batches."""
    path = tmp_path_factory.mktemp("source") / "source.db"
    with dal.connect(f"sqlite:///{path}") as db:
        for number in range(40):
            db.workflows.create(f"flow {number}", actor="ann", tags=["a", f"b{number}"])
            db.history.start(f"e{number}", "w", metadata={"n": number})
            db.history.append_steps(f"e{number}", [{"at": at, "of": number} for at in range(STEPS // 40)])
        db.chat.save_thread("o", "t")
        for number in range(60):
            db.chat.add_item("o", "t", f"i{number}", type="m", item="1", body=f"words {number}")
    return path


def settings(url: str) -> Settings:
    return Settings.from_url(url)


def begun(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "dal", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )


def batches(url: str) -> int:
    """How many lines the ledger has; 0 while there is none to be read."""
    try:
        with moving.open_side(settings(url)) as side:
            last = side.last_transfer()
            return len(side.batches(last.id)) if last else 0
    except dal.DalError:
        return 0


def check(source_url: str, url: str, row: Tally) -> None:
    """All of it is there once, its ledger says so, and it takes writes."""
    found = moving.verify(settings(source_url), settings(url))
    row.lost += sum(max(each.source.rows - each.target.rows, 0) for each in found.tables)
    row.doubled += sum(max(each.target.rows - each.source.rows, 0) for each in found.tables)
    assert found.is_equal, found.differences
    with moving.open_side(settings(url)) as side:
        last = side.last_transfer()
        assert last
        assert last.state == "done"
        sums = counted(side.batches(last.id))
        assert {each.table: each.target for each in found.tables} == {name: sums[name][2] for name in sums}
    with dal.connect(url) as db:
        db.workflows.create("after it", actor="ann")


def killed_at(process: subprocess.Popen[bytes], url: str, lines: int, patience: float) -> bool:
    """Kill a process once its ledger has so many lines, or after a while; whether it was still running."""
    until = time.monotonic() + patience
    while process.poll() is None and time.monotonic() < until and batches(url) < lines:
        time.sleep(0.01)
    alive = process.poll() is None
    process.kill()
    process.communicate()
    return alive


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
@pytest.mark.parametrize("how", ["move", "import"])
def test_kill_9_of_the_tool(
    source: Path, dialect: Dialect, how: str, make_database: Callable[..., str], tmp_path: Path,
    tally: Callable[[str], Tally], rounds: Callable[[int, int], int],
) -> None:  # fmt: skip
    row = tally(f"kill -9 of dal {how}, {dialect}")
    shutil.copy(source, tmp_path / "source.db")
    here, there = f"sqlite:///{tmp_path / 'source.db'}", make_database(dialect)
    words = ["move", here, there, "--batch-rows", str(BATCH), "--workers", "2"]
    if how == "import":
        moving.export_to(settings(here), tmp_path / "export", size=BATCH)
        words = ["import", str(tmp_path / "export"), "--url", there, "--workers", "2"]
    chance = random.Random(f"{dialect} {how}")
    wanted, lines = rounds(2, 13), 0
    while row.rounds < wanted:
        lines += chance.randint(1, max(1, 110 // wanted))
        if not killed_at(begun(*words), there, lines, 60):
            break  # it had ended: nothing is left to kill
        row.rounds += 1
    ended = begun(*words, "--json")
    said = ended.communicate(timeout=120)[0].decode()
    assert ended.returncode == 0, said
    check(here, there, row)
    row.check()


def test_kill_9_of_an_export(source: Path, tmp_path: Path, tally: Callable[[str], Tally], rounds: Any) -> None:
    """It goes on from the same state, whatever was written meanwhile."""
    row = tally("kill -9 of dal export")
    shutil.copy(source, tmp_path / "source.db")
    here, folder, restored = (
        f"sqlite:///{tmp_path / 'source.db'}",
        tmp_path / "export",
        f"sqlite:///{tmp_path / 'back.db'}",
    )
    words = ["export", str(folder), "--url", here, "--batch-rows", str(BATCH)]
    chance = random.Random(5)
    for _ in range(rounds(2, 12)):
        process = begun(*words)
        files = len(list(folder.glob("*.jsonl*"))) + chance.randint(1, 12)
        while process.poll() is None and len(list(folder.glob("*.jsonl*"))) < files:
            time.sleep(0.005)
        if process.poll() is not None:
            process.communicate()
            break
        process.kill()
        process.communicate()
        row.rounds += 1
    with dal.connect(here) as db:
        db.workflows.create("written meanwhile", actor="ann")
    if not (folder / "manifest.json").exists():
        ended = begun(*words)
        said = ended.communicate(timeout=120)[0].decode()
        assert ended.returncode == 0, said
    moving.import_from(folder, settings(restored))
    found = moving.verify(settings(f"sqlite:///{source}"), settings(restored))
    row.lost, row.doubled = len(found.differences), 0
    assert found.is_equal, "the state of before the first kill"
    row.check()


def test_kill_9_of_the_server_that_is_loaded(
    source: Path, tmp_path: Path, tally: Callable[[str], Tally], rounds: Callable[[int, int], int]
) -> None:
    row = tally("kill -9 of PostgreSQL under dal move")
    shutil.copy(source, tmp_path / "source.db")
    here = f"sqlite:///{tmp_path / 'source.db'}"
    chance = random.Random(7)
    with Server.start() as server:
        there = server.create_database("loaded")
        words = ["move", here, there, "--batch-rows", str(BATCH), "--workers", "2"]
        lines = 0
        for _ in range(rounds(1, 10)):
            process = begun(*words)
            lines += chance.randint(1, 12)
            while process.poll() is None and batches(there) < lines:
                time.sleep(0.01)
            if process.poll() is not None:
                process.communicate()
                break
            server.kill()
            said = process.communicate(timeout=120)[0].decode()
            assert process.returncode == 1, said
            assert said.startswith("dal: "), said
            assert "Traceback" not in said
            server.restart()
            row.rounds += 1
        ended = begun(*words)
        said = ended.communicate(timeout=120)[0].decode()
        assert ended.returncode == 0, said
        check(here, there, row)
    row.check()


def test_a_second_loader_is_refused_and_a_paused_one_goes_on(
    source: Path, make_database: Callable[..., str], tmp_path: Path
) -> None:
    for dialect in ("sqlite", "postgres"):
        shutil.copy(source, tmp_path / f"{dialect}.db")
        here, there = f"sqlite:///{tmp_path / f'{dialect}.db'}", make_database(dialect)
        words = ["move", here, there, "--batch-rows", str(BATCH), "--workers", "2"]
        first = begun(*words)
        while first.poll() is None and batches(there) < 3:
            time.sleep(0.01)
        os.kill(first.pid, signal.SIGSTOP)
        try:
            second = begun(*words)
            said = second.communicate(timeout=120)[0].decode()
            assert second.returncode == 1, said
        finally:
            os.kill(first.pid, signal.SIGCONT)
        ended = first.communicate(timeout=120)[0].decode()
        assert first.returncode == 0, ended
        check(here, there, Tally("two"))

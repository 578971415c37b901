"""Processes that share work: what they answer, how they fail, and that none of them outlasts who leads them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import dal
from dal import Settings
from dal.errors import DiskFull, InvalidState, Unavailable
from dal.transfer import loading, moving
from dal.transfer.moving import open_side, open_target
from dal.transfer.workers import can_be_shared, share


class Doing(NamedTuple):
    """Work of a test. folder: where each process leaves its number as long as it runs."""

    folder: Path

    @contextmanager
    def opened(self) -> Iterator[Callable[[str], str]]:
        mark = self.folder / str(os.getpid())
        mark.touch()
        yield do
        mark.unlink()


def do(task: str) -> str:
    word, _, rest = task.partition(" ")
    if word == "fail":
        raise DiskFull(rest)
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "nap":
        time.sleep(float(rest))
    return f"did {task}"


@pytest.fixture(autouse=True)
def findable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # by which a process finds this module


def test_every_task_is_done_once(tmp_path: Path) -> None:
    for count in (1, 2, 5):
        assert sorted(share(Doing(tmp_path), ["a", "b", "c"], count)) == ["did a", "did b", "did c"]
    assert list(share(Doing(tmp_path), [], 2)) == []


def test_an_error_comes_back_as_it_was_and_ends_the_others(tmp_path: Path) -> None:
    done, tasks = list[str](), ["a", "fail of a worker", *("nap 0.05" for _ in range(200))]
    with pytest.raises(DiskFull, match="of a worker"):
        done.extend(share(Doing(tmp_path), tasks, 2))
    assert len(done) < 100
    assert [mark for mark in tmp_path.iterdir() if is_running(int(mark.name))] == []


def test_one_that_dies_is_told_from_one_that_is_done(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="ended, with status -9"):
        list(share(Doing(tmp_path), ["a", "die", "b"], 1))


LEADER = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell takes away from what it runs behind itself
from dal.transfer.workers import share
from tests.transfer.test_workers import Doing
for answer in share(Doing(Path(sys.argv[1])), ["nap 0.02"] * 10_000, 2):
    print(answer, flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_none_outlasts_its_leader(tmp_path: Path, how: signal.Signals) -> None:
    leader = subprocess.Popen(
        [sys.executable, "-c", LEADER, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert leader.stdout
    leader.stdout.readline()
    begun = [int(mark.name) for mark in tmp_path.iterdir()]
    assert begun
    leader.send_signal(how)
    leader.communicate(timeout=30)
    until = time.monotonic() + 30
    while any(map(is_running, begun)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(is_running, begun))


def is_running(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def test_a_clock_made_in_place_keeps_the_work_in_this_process(tmp_path: Path) -> None:
    settings = Settings.from_url(f"sqlite:///{tmp_path / 'a.db'}")
    with open_target(settings) as side:
        assert can_be_shared(Opening(side.reopening))
        side.clock = lambda: datetime(2026, 1, 1, tzinfo=UTC)
        assert not can_be_shared(Opening(side.reopening))
        with pytest.raises(InvalidState, match="one writer"), side.beside():
            pass


class Opening(NamedTuple):
    opens: Callable[[], object]

    @contextmanager
    def opened(self) -> Iterator[Callable[[str], str]]:
        yield do


def test_nobody_loads_before_those_of_a_dead_loader_are_done(make_database: Callable[..., str]) -> None:
    """A process that still commits a batch, whose leader was killed, and the next leader, who would load it again."""
    settings = Settings.from_url(make_database("postgres"))
    helper = open_side(settings)
    with helper.beside():
        ended = threading.Timer(0.5, helper.close)
        begun = time.monotonic()
        ended.start()
        with open_side(settings) as leader, leader.alone():
            assert time.monotonic() - begun > 0.4
        ended.join()
    with open_side(settings) as leader, leader.alone():
        pass


@pytest.mark.parametrize(("worth", "processes"), [(0, [2]), (1_000, [])])
def test_two_load_where_there_is_enough(
    worth: int, processes: list[int], tmp_path: Path, make_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = Settings.from_url(f"sqlite:///{tmp_path / 'a.db'}"), Settings.from_url(make_database("postgres"))
    with dal.connect(here) as db:
        for number in range(30):
            db.workflows.create(f"flow {number}", actor="ann")
    asked = list[int]()

    def noticed(work: Any, tasks: Any, count: int) -> Iterator[Any]:
        asked.append(count)
        return share(work, tasks, count)

    monkeypatch.setattr(loading, "share", noticed)
    monkeypatch.setattr(loading, "_WORTH_IT", worth)
    report = moving.move(here, there, size=7)
    assert (asked, report.state, report.loaded["workflows"]) == (processes, "done", 30)

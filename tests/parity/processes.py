"""Processes of their own for tests of races: ``python -m tests.parity.processes``, four that stay for the next test.

Each reads lines, ``[URL, FACE, WHAT, ARGUMENT, COUNT]``: opens the database, says when it is ready, waits for another
line, does the same thing that many times at once, closes the database, and prints the answers as JSON. To start one
costs more than all it is asked to do.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from dal import Dal, DalError, Settings, Sync, Tx
from dal.dal import utc_now
from dal.digests import uuid7
from tests.cells import PATIENCE, PEPPERS, Face, Loop, open_db, together


def create_version(db: Dal[Sync], workflow: str) -> int:
    """Answers its number."""
    return db.versions.create(UUID(workflow), {"by": "another process"}, actor="ann").number


def create_once(db: Dal[Sync], key: str) -> str:
    """Create a workflow under an idempotency key; answers its id."""

    def work(tx: Tx[Sync]) -> str:
        return str(tx.workflows.create("by another process", actor="ann").id)

    return db.transact(work, key=key)


def claim_all(db: Dal[Sync], worker: str) -> list[str]:
    """Claim seven at a time until none is left; answers the ids."""
    claimed: list[str] = []
    while runs := db.runs.claim(worker, lease_seconds=60, limit=7):
        claimed += [str(run.id) for run in runs]
    return claimed


def dispatch_all(db: Dal[Sync], now: str) -> list[str]:
    """Fire what is due, until nothing is; answers the ids of the runs."""
    fired: list[str] = []
    while runs := db.triggers.dispatch_due(datetime.fromisoformat(now), 40):
        fired += [str(run.id) for run in runs]
    return fired


def append_step(db: Dal[Sync], execution: str) -> int:
    """Answers its place."""
    return db.history.append_step(execution, {"by": "another process"}).idx


def append_to_a_fresh_one(db: Dal[Sync], prefix: str) -> int:
    """Start an execution of its own, and append to it; answers the step's place."""
    execution = db.history.start(f"{prefix}-{uuid7()}", "fresh").execution_id
    return db.history.append_step(execution, {"by": "another process"}).idx


def record_checkpoint(db: Dal[Sync], workflow: str) -> int:
    """Record a checkpoint as the best; answers its version."""
    return db.checkpoints.record(workflow, runnable_config={"by": "another process"}, is_best=True).config_version


def mark_best(db: Dal[Sync], workflow: str) -> int:
    """Mark one of the first ten as the best, another one each time; answers its version."""
    first = db.checkpoints.list(workflow).items[::-1][:10]
    return db.checkpoints.mark_best(first[uuid7().int % 10].id).config_version


def rotate(db: Dal[Sync], key_id: str) -> str:
    """Rotate a service token; answers the key id of its successor."""
    return db.tokens.rotate(key_id, actor="ann").record.key_id


def add_item(db: Dal[Sync], thread: str) -> int:
    """Answers its number."""
    return db.chat.add_item("ann", thread, str(uuid7()), type="message", item="{}", body="added together").seq


WHAT: dict[str, Callable[[Dal[Sync], str], Any]] = {
    each.__name__: each
    for each in (
        *(create_version, create_once, claim_all, dispatch_all, append_step, append_to_a_fresh_one),
        *(record_checkpoint, mark_best, rotate, add_item),
    )
}


class Crew:
    """The four processes, which end with the one that started them: their input does."""

    def __init__(self) -> None:
        command, root = [sys.executable, "-m", "tests.parity.processes"], Path(__file__).parents[2]
        self._children = [
            subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(4)
        ]

    def tell(self, line: str) -> None:
        """A line for each of them."""
        for child in self._children:
            assert child.stdin
            child.stdin.write(f"{line}\n")
            child.stdin.flush()

    def answers(self) -> list[str]:
        """A line of each of them."""
        lines = [child.stdout.readline() for child in self._children if child.stdout]
        assert all(lines), "a process has ended"
        return lines

    def end(self) -> None:
        """Whatever they are doing."""
        for child in self._children:
            child.kill()
            child.wait()


_crews: list[Crew] = []


@atexit.register
def _end_crews() -> None:
    while _crews:
        _crews.pop().end()


def in_processes(url: str, face: Face, what: Callable[[Dal[Sync], str], object], argument: str, count: int) -> Any:
    """What it answered, ``count`` times at once in each of four processes; errors of ours as text."""
    if not _crews:
        _crews.append(Crew())
    [crew] = _crews
    hung = threading.Timer(PATIENCE, crew.end)
    hung.start()
    try:
        crew.tell(json.dumps([url, face, what.__name__, argument, count]))
        assert crew.answers() == ["ready\n"] * 4
        crew.tell("go")
        return [answer for line in crew.answers() for answer in json.loads(line)]
    except BaseException:
        _end_crews()  # who knows what they are at
        raise
    finally:
        hung.cancel()


def main() -> None:
    loop = Loop()
    for line in sys.stdin:
        url, face, what, argument, count = json.loads(line)
        db = open_db(Settings.from_url(url, token_peppers=PEPPERS), face, utc_now, loop)
        print("ready", flush=True)
        sys.stdin.readline()
        answers = together([partial(WHAT[what], db, argument)] * count)
        db.close()
        print(json.dumps([repr(answer) if isinstance(answer, DalError) else answer for answer in answers]), flush=True)
    loop.close()


if __name__ == "__main__":
    main()

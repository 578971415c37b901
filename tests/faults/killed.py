"""Processes that are killed, for test_sqlite_kill.py: they print what was acknowledged, as it is.

    python -m tests.faults.killed writer URL FACE WORKFLOW_ID NAME FIRST
    python -m tests.faults.killed statements FOLDER FIRST STEP

writer: makes runs with the idempotency keys NAME-FIRST, NAME-FIRST+1, …, and after each of them a transaction with the
key pair-NAME-…, without end; prints "ready", then a line "key id" for each.
statements: for k of FIRST, FIRST+STEP, …, in a copy of FOLDER/begin.db, does everything in CALLS and is killed when
SQLite begins the k-th statement on the writing connection; stops after the first k that was not reached. Prints a line
for each k: how many calls were acknowledged, and the name of the copy.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import dal
from dal import Dal, Settings, Sync
from dal.dal import utc_now
from tests.cells import Loop, open_db


def say(line: str) -> None:
    """At once and whole, whatever kills this process afterwards."""
    os.write(1, f"{line}\n".encode())


def writer(url: str, face: str, workflow: str, name: str, first: str) -> None:
    loop = Loop()
    db = open_db(Settings.from_url(url), "async" if face == "async" else "sync", utc_now, loop)
    flow = UUID(workflow)
    say("ready")
    number = int(first)
    while True:
        key = f"{name}-{number}"
        run = db.runs.create(flow, actor="ann", inputs={"of": key}, idempotency_key=key)
        say(f"{key} {run.id}")

        def pair(tx: Any, of: str = key) -> str:
            made = tx.workflows.create(f"pair-{of}", actor="ann", tags=["a"])
            tx.versions.create(made.id, {"of": of}, actor="ann")
            return str(made.id)

        say(f"pair-{key} {db.transact(pair, key=f'pair-{key}')}")
        number += 1


def in_a_transaction(db: Dal[Sync]) -> None:
    with db.transaction() as tx:
        flow = tx.workflows.create("three", actor="ann", tags=["a", "b"])
        tx.versions.create(flow.id, {}, actor="ann")
        with tx.transaction():
            tx.runs.start(tx.runs.create(flow.id, actor="ann").id, actor="ann")


# After each of them the tables have another number of rows, or of archived workflows, than before.
CALLS: list[Callable[[Dal[Sync]], Any]] = [
    lambda db: db.workflows.create("one", actor="ann", tags=["a", "b"]),
    lambda db: db.versions.create(db.workflows.list().items[0].id, {}, actor="ann"),
    lambda db: db.workflows.update(db.workflows.list().items[0].id, actor="ann", tags=["c"], handle="h"),
    lambda db: db.runs.create(db.workflows.list().items[0].id, actor="ann"),
    lambda db: db.workflows.archive(db.workflows.list().items[0].id, actor="ann"),
    in_a_transaction,
]


def die_at(statement: int) -> Callable[[str], None]:
    """For set_trace_callback: kill this process when SQLite begins its n-th statement."""
    lock, begun = threading.Lock(), 0

    def trace(_: str) -> None:
        nonlocal begun
        with lock:
            begun += 1
            if begun == statement:
                os.kill(os.getpid(), signal.SIGKILL)

    return trace


def statements(folder: str, first: str, step: str) -> None:
    begin, number, is_over = Path(folder) / "begin.db", int(first) - int(step), False
    while not is_over:
        number += int(step)
        copy = begin.with_name(f"{number}.db")
        shutil.copy(begin, copy)
        reader, writing = os.pipe()
        if not (child := os.fork()):
            db = dal.connect(f"sqlite:///{copy}")
            with db.transaction() as tx:
                connection = tx.connection  # the one that writes
            connection.set_trace_callback(die_at(number))
            for call in CALLS:
                call(db)
                os.write(writing, b".")
            os._exit(0)
        os.close(writing)
        with open(reader, "rb") as told:
            acknowledged = len(told.read())
        status = os.waitpid(child, 0)[1]
        is_over = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
        if not is_over and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            raise SystemExit(f"statement {number}: the process ended with status {status}")
        say(f"{acknowledged} {copy.name}")


if __name__ == "__main__":
    jobs: dict[str, Callable[..., None]] = {"writer": writer, "statements": statements}
    jobs[sys.argv[1]](*sys.argv[2:])

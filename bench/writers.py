"""A hundred writers on one SQLite file, synchronous=full, that all wait for the disk: threads, tasks, greenlets.

Beside the DAL, which lets those that wait share a commit, the same statements through the standard library, one commit
for each write, one writer at a time. How much a shared commit saves is the disk's to say: see the line that bench
prints of what a sync takes.

    python -m bench.writers FILE      greenlets: reads "raw 200" or "dal 200" a line, writes, says "done"
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from bench.measure import Contender, Row
from dal.core.face import Async, Sync
from dal.core.rows import instant_text
from dal.dal import Dal, connect, load_catalog
from dal.settings import Settings

WRITERS = 100
GOAL = 8.0
STATEMENTS = tuple(statement.sql for statement in load_catalog(Settings()).queries["create_run"].statements)


class OneCommitEach:
    """A writing connection that threads take turns with."""

    def __init__(self, path: Path, workflow: UUID) -> None:
        self._workflow = str(workflow)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in ("synchronous = full", "foreign_keys = on", "cache_size = -65536"):
            self._connection.execute(f"pragma {pragma}")
        catalog = load_catalog(Settings())
        self._orders = [statement.params for statement in catalog.queries["create_run"].statements]

    def write(self) -> str:
        """One run."""
        values = {
            "id": str(uuid4()), "workflow_id": self._workflow, "version_id": None, "triggered_by": "bench",
            "inputs": "{}", "runnable_config": None, "tags": "[]", "callbacks": "[]", "metadata": "{}", "name": None,
            "idempotency_key": None, "actor": "bench", "now": instant_text(datetime.now(UTC), ""),
        }  # fmt: skip
        with self._lock:
            self._connection.execute("begin immediate")
            for sql, order in zip(STATEMENTS, self._orders, strict=True):
                answer = self._connection.execute(sql, [values[name] for name in order]).fetchall()
            self._connection.execute("commit")
        return str(answer[0][6])

    def close(self) -> None:
        self._connection.close()


def shares(calls: int) -> list[int]:
    """How many writes each writer does."""
    return [calls // WRITERS + (number < calls % WRITERS) for number in range(WRITERS)]


def a_workflow(db: Dal[Sync]) -> UUID:
    """One that has a version."""
    flow = db.workflows.create("bench", actor="bench")
    db.versions.create(flow.id, {}, actor="bench")
    return flow.id


def rows(settings: Settings, db: Dal[Sync], runner: asyncio.Runner, async_db: Dal[Async]) -> Iterator[Row]:
    """A row for each kind of writer."""
    flow = a_workflow(db)
    raw = OneCommitEach(settings.sqlite_path, flow)

    def turns(threads: ThreadPoolExecutor, write: Callable[[], object]) -> Callable[[int], None]:
        def several(calls: int) -> None:
            for _ in range(calls):
                write()

        def run(calls: int) -> None:
            for _ in threads.map(several, shares(calls)):
                pass

        return run

    async def tasks(calls: int) -> None:
        async def several(calls: int) -> None:
            for _ in range(calls):
                await async_db.runs.create(flow, actor="bench")

        await asyncio.gather(*map(several, shares(calls)))

    async def one() -> str:
        return (await async_db.runs.create(flow, actor="bench")).triggered_by

    with ThreadPoolExecutor(WRITERS) as threads:
        anchor = Contender("one commit a write", turns(threads, raw.write), raw.write)
        ours = turns(threads, lambda: db.runs.create(flow, actor="bench"))
        answer = Contender("DAL", ours, lambda: db.runs.create(flow, actor="bench").triggered_by, GOAL)
        yield Row("SQLite: 100 writers, threads: throughput", [anchor, answer], "higher")
        awaited = Contender("DAL", lambda calls: runner.run(tasks(calls)), lambda: runner.run(one()), GOAL)
        yield Row("SQLite: 100 writers, asyncio: throughput", [anchor, awaited], "higher")
    raw.close()
    with Greenlets(settings.sqlite_path) as greenlets:
        both = [
            Contender(name, lambda calls, who=who: greenlets.ask(who, calls), lambda: "bench", goal)  # type: ignore[misc]
            for name, who, goal in (("one commit a write", "raw", None), ("DAL", "dal", GOAL))
        ]
        yield Row("SQLite: 100 writers, gevent: throughput", both, "higher")


class Greenlets:
    """A process under gevent that writes when it is asked to."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-m", "bench.writers", str(path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, who: str, calls: int) -> None:
        """Have that many writes done."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(who, calls, file=self._process.stdin, flush=True)
        if self._process.stdout.readline() != "done\n":
            raise RuntimeError("the process under gevent failed")

    def __enter__(self) -> Greenlets:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def sync_time() -> str:
    """What a sync of 4 KiB takes where the benchmark's files are, as a sentence."""
    times = []
    with tempfile.NamedTemporaryFile(prefix="dal-bench-") as file:
        for _ in range(100):
            file.write(b"x" * 4096)
            file.flush()
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
    return f"A sync of the disk takes {statistics.median(times) * 1000:.2f} ms here, in the median."


def main(path: Path) -> None:
    """The process under gevent; everything that it patches is patched before this runs."""
    import gevent.pool

    pool: Any = gevent.pool.Pool(WRITERS)
    with connect(Settings(backend="sqlite", sqlite_path=path)) as db:
        flow = a_workflow(db)
        raw = OneCommitEach(path, flow)
        writes: dict[str, Callable[[], object]] = {"raw": raw.write, "dal": lambda: db.runs.create(flow, actor="bench")}
        for line in sys.stdin:
            who, calls = line.split()

            def several(calls: int, write: Callable[[], object] = writes[who]) -> None:
                for _ in range(calls):
                    write()

            pool.map(several, shares(int(calls)))
            print("done", flush=True)
        raw.close()


if __name__ == "__main__":
    import gevent.monkey

    gevent.monkey.patch_all()
    main(Path(sys.argv[1]))

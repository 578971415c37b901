"""Processes that crowd on one SQLite file, for test_sqlite_crowd.py.

    python -m tests.faults.crowd start FOLDER ROUNDS COUNT
    python -m tests.faults.crowd write URL HOW WORKFLOW_ID WRITERS EACH

start: COUNT processes at once open FOLDER/<round>.db, which none has made yet, make a workflow and close it again; a
line for each that failed.
write: so many writers at once, in threads, in asyncio's tasks or in gevent's greenlets, each make so many versions of
the workflow, one after another; says "ready", waits for a line, and prints the numbers of each writer's versions in
the order of its calls, or the error that it met, as JSON, with the figures of the pool.
"""

from __future__ import annotations

import sys

if "gevent" in sys.argv:
    from gevent import monkey

    monkey.patch_all()

import asyncio
import json
import os
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import dal


def start(folder: str, rounds: str, count: str) -> None:
    for number in range(int(rounds)):
        gate, opening = os.pipe()
        children = []
        for child in range(int(count)):
            pid = os.fork()
            if not pid:
                os.close(opening)
                os.read(gate, 1)  # until the other end is closed
                os._exit(_open(f"sqlite:///{folder}/{number}.db", f"{number}.{child}", child % 2 == 0))
            children.append(pid)
        os.close(gate)
        os.close(opening)
        for pid in children:
            status = os.waitpid(pid, 0)[1]
            if status:
                print(f"round {number}: status {status}")


def _open(url: str, name: str, blocking: bool) -> int:
    async def in_a_loop() -> None:
        async with dal.aconnect(url) as db:
            await db.workflows.create(name, actor="ann")

    try:
        if blocking:
            with dal.connect(url) as db:
                db.workflows.create(name, actor="ann")
        else:
            asyncio.run(in_a_loop())
    except BaseException:
        print(f"{name}: {traceback.format_exc()}", flush=True)
        return 1
    return 0


def _say(answers: list[Any], figures: dict[str, float]) -> None:
    numbers = [repr(each) if isinstance(each, BaseException) else each for each in answers]
    print(json.dumps({"numbers": numbers, **figures}), flush=True)


def in_threads(url: str, workflow: UUID, writers: int, each: int) -> None:
    def one(_: int) -> Any:
        try:
            return [db.versions.create(workflow, {}, actor="ann").number for _ in range(each)]
        except dal.DalError as error:
            return error

    with dal.connect(url) as db, ThreadPoolExecutor(writers) as threads:
        print("ready", flush=True)
        sys.stdin.readline()
        _say(list(threads.map(one, range(writers))), db.health().pool)


def in_tasks(url: str, workflow: UUID, writers: int, each: int) -> None:
    async def main() -> None:
        async with dal.aconnect(url) as db:

            async def one(by_one: bool) -> list[int]:
                if by_one:
                    return [(await db.versions.create(workflow, {}, actor="ann")).number for _ in range(each)]
                # Not waited for one by one: they stand in line in the order of the calls.
                calls = [asyncio.ensure_future(db.versions.create(workflow, {}, actor="ann")) for _ in range(each)]
                return [version.number for version in await asyncio.gather(*calls)]

            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            answers = await asyncio.gather(*(one(n % 2 == 0) for n in range(writers)), return_exceptions=True)
            _say(answers, (await db.health()).pool)

    asyncio.run(main())


def write(url: str, how: str, workflow: str, writers: str, each: str) -> None:
    # gevent has made greenlets of threads, if it was asked to.
    run = in_tasks if how == "asyncio" else in_threads
    run(url, UUID(workflow), int(writers), int(each))


if __name__ == "__main__":
    jobs: dict[str, Callable[..., None]] = {"start": start, "write": write}
    jobs[sys.argv[1]](*sys.argv[2:])

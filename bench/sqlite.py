"""The rows on SQLite.

Raw is the standard library's sqlite3 on the same file, its connection set like the DAL's. A raw tuple holds text where
the DAL's row holds UUIDs, datetimes and JSON values, so there is a second anchor: the same conversion written by hand.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiosql

from bench import writers
from bench.data import SMALL, Seed, seed
from bench.measure import Contender, Row
from dal.core.cursors import NEWEST
from dal.core.face import Async, Sync
from dal.core.rows import instant_text
from dal.dal import Dal, aconnect, connect, load_catalog
from dal.settings import Settings

PAGE = 50

_COUNT_VERSION = """
update workflows set last_version = last_version + 1, last_event = last_event + 1
 where id = ? and is_archived = 0
returning last_version, last_event"""
_INSERT_VERSION = """
insert into workflow_versions (id, workflow_id, number, graph, graph_hash, metadata, created_at, created_by, updated_at)
values (?, ?, ?, ?, ?, '{}', ?, ?, ?)
returning id, workflow_id, number, graph, graph_hash, mermaid, metadata, runnable_config, notes, created_at, created_by,
          updated_at"""
_INSERT_EVENT = """
insert into workflow_events (workflow_id, number, actor, action, at, metadata)
values (?, ?, ?, 'version_created', ?, ?)"""


@dataclass(slots=True)
class _Workflow:
    """What an application without a DAL would keep a workflow in."""

    id: UUID
    handle: str | None
    name: str
    slug: str
    description: str | None
    tags: tuple[str, ...]
    draft_access: str
    is_archived: bool
    is_public: bool
    published_at: datetime | None
    published_by: str | None
    require_login: bool
    chat_config: Any
    revision: int
    created_at: datetime
    created_by: str
    updated_at: datetime


def _converted(row: Any) -> _Workflow:
    return _Workflow(
        UUID(row[0]),
        row[1],
        row[2],
        row[3],
        row[4],
        tuple(json.loads(row[5])),
        row[6],
        bool(row[7]),
        bool(row[8]),
        None if row[9] is None else datetime.fromisoformat(row[9]),
        row[10],
        bool(row[11]),
        None if row[12] is None else json.loads(row[12]),
        row[13],
        datetime.fromisoformat(row[14]),
        row[15],
        datetime.fromisoformat(row[16]),
    )


def _times(call: Callable[[int], Any]) -> Callable[[int], None]:
    def run(calls: int) -> None:
        for number in range(calls):
            call(number)

    return run


def _contender(
    name: str, call: Callable[[int], Any], seen: Callable[[Any], object], budget: float | None = None
) -> Contender:
    return Contender(name, _times(call), lambda: seen(call(3)), budget)


def rows() -> Iterator[Row]:
    """Every row, on a file of its own that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="dal-bench-") as folder:
        path = Path(folder) / "bench.db"
        settings = Settings(backend="sqlite", sqlite_path=path)
        texts = {name: query.text for name, query in load_catalog(settings).queries.items()}
        with connect(settings) as db, _open(path, write=False) as reader, _open(path, write=True) as writer:
            data = seed(db)
            yield from _blocking(db, reader, writer, texts, data)
            with asyncio.Runner() as runner, _opened(runner, settings) as async_db:
                yield from _asyncio(runner, async_db, reader, texts, data)
                yield from writers.rows(settings, db, runner, async_db)


@contextmanager
def _open(path: Path, *, write: bool) -> Iterator[sqlite3.Connection]:
    mode, cache = ("rw", 64) if write else ("ro", 8)
    connection = sqlite3.connect(f"file:{path}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False)
    try:
        for pragma in ("synchronous = full", "foreign_keys = on", f"cache_size = {-cache * 1024}"):
            connection.execute(f"pragma {pragma}")
        yield connection
    finally:
        connection.close()


@contextmanager
def _opened(runner: asyncio.Runner, settings: Settings) -> Iterator[Dal[Async]]:
    async def opened() -> Dal[Async]:
        return await aconnect(settings)

    async def closed() -> None:
        await db.close()

    db = runner.run(opened())
    try:
        yield db
    finally:
        runner.run(closed())


def _blocking(
    db: Dal[Sync], reader: sqlite3.Connection, writer: sqlite3.Connection, texts: Mapping[str, str], data: Seed
) -> Iterator[Row]:
    ids, keys, count = data.workflows, [str(id) for id in data.workflows], len(data.workflows)
    point, page = texts["get_workflow"], texts["list_runs"]
    heavy = {"workflow_id": str(data.heavy), "limit": PAGE + 1}
    heavy |= {"after_at": instant_text(NEWEST[0], ""), "after_id": str(NEWEST[1])}
    peer = aiosql.from_str(
        f"-- name: get_workflow(id)^\n{point}\n\n-- name: list_runs(workflow_id, after_at, after_id, limit)\n{page}",
        "sqlite3",
    )

    def raw_point(n: int) -> Any:
        return reader.execute(point, {"id": keys[n % count]}).fetchone()

    def by_hand(n: int) -> _Workflow:
        return _converted(reader.execute(point, {"id": str(ids[n % count])}).fetchone())

    def our_point(n: int) -> Any:
        return db.workflows.get(ids[n % count])

    yield Row(
        "SQLite: point read, sync",
        [
            _contender("raw tuple", raw_point, lambda row: row[0]),
            _contender("DAL", our_point, lambda workflow: str(workflow.id), 1.15),
            _contender("aiosql alone", lambda n: peer.get_workflow(reader, id=keys[n % count]), lambda row: row[0]),
        ],
    )
    yield Row(
        "SQLite: point read, sync",
        [
            _contender("raw, typed by hand", by_hand, lambda workflow: workflow.id),
            _contender("DAL", our_point, lambda workflow: workflow.id, 1.15),
        ],
    )
    yield Row(
        "SQLite: page of 50 runs, sync",
        [
            _contender("raw tuples", lambda _: reader.execute(page, heavy).fetchall(), _ids),
            _contender("DAL", lambda _: db.runs.list(data.heavy, limit=PAGE).items, _ids),
            _contender("aiosql alone", lambda _: list(peer.list_runs(reader, **heavy)), _ids),
        ],
    )

    def raw_version(n: int) -> Any:
        key, now = keys[n % count], instant_text(datetime.now(UTC), "")
        canonical = json.dumps(SMALL, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        graph_hash = "v1:" + hashlib.sha256(canonical.encode()).hexdigest()
        writer.execute("begin immediate")
        number, event = writer.execute(_COUNT_VERSION, [key]).fetchone()
        values = [str(uuid4()), key, number, json.dumps(SMALL), graph_hash, now, "bench", now]
        row = writer.execute(_INSERT_VERSION, values).fetchone()
        writer.execute(_INSERT_EVENT, [key, event, "bench", now, json.dumps({"number": number})])
        writer.execute("commit")
        return row

    yield Row(
        "SQLite: create version, sync",
        [
            _contender("raw, 3 statements", raw_version, lambda row: json.loads(row[3])),
            _contender(
                "DAL", lambda n: db.versions.create(ids[n % count], SMALL, actor="bench"), lambda v: v.graph, 1.05
            ),
        ],
    )


def _ids(page: Any) -> list[str]:
    return [str(getattr(row, "id", None) or row[0]) for row in page][:PAGE]


def _asyncio(
    runner: asyncio.Runner, db: Dal[Async], reader: sqlite3.Connection, texts: Mapping[str, str], data: Seed
) -> Iterator[Row]:
    ids, keys, count = data.workflows, [str(id) for id in data.workflows], len(data.workflows)
    point = texts["get_workflow"]

    def fetch(key: str) -> Any:
        return reader.execute(point, {"id": key}).fetchone()

    def fetch_typed(id: UUID) -> _Workflow:
        return _converted(reader.execute(point, {"id": str(id)}).fetchone())

    def contender(
        name: str,
        call: Callable[[int], Coroutine[Any, Any, Any]],
        seen: Callable[[Any], object],
        budget: float | None = None,
    ) -> Contender:
        async def times(calls: int) -> None:
            for number in range(calls):
                await call(number)

        return Contender(name, lambda calls: runner.run(times(calls)), lambda: seen(runner.run(call(3))), budget)

    with ThreadPoolExecutor(4) as threads:

        async def one_hop(n: int) -> Any:
            return await asyncio.get_running_loop().run_in_executor(threads, fetch, keys[n % count])

        async def one_hop_typed(n: int) -> Any:
            return await asyncio.get_running_loop().run_in_executor(threads, fetch_typed, ids[n % count])

        def our_point(n: int) -> Coroutine[Any, Any, Any]:
            return db.workflows.get(ids[n % count])

        yield Row(
            "SQLite: point read, async",
            [
                contender("raw tuple, one hop", one_hop, lambda row: row[0]),
                contender("DAL", our_point, lambda workflow: str(workflow.id), 1.05),
            ],
        )
        yield Row(
            "SQLite: point read, async",
            [
                contender("typed by hand, one hop", one_hop_typed, lambda workflow: workflow.id),
                contender("DAL", our_point, lambda workflow: workflow.id, 1.05),
            ],
        )

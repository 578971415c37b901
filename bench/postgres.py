"""The rows on PostgreSQL.

Raw is psycopg as people write it: `with pool.connection()`, `connection.execute`, autocommit, statements prepared after
five calls, jsonb through the standard library's json, rows as tuples. The DAL answers with typed rows.

Both use one and the same pool, the DAL's. On a small machine a query takes 35 µs if its server process happens to run
on the client's processor, and 90 µs if it does not: with pools of their own, the luck of the draw would be measured.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import aiosql
import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from bench.data import BIG, SMALL, Seed, seed
from bench.measure import Contender, Row
from dal.core.cursors import NEWEST
from dal.core.face import Async, Sync
from dal.dal import Dal, aconnect, connect, load_catalog
from dal.settings import Settings

POOL = 10
TASKS = 100
PAGE = 50

Pool = ConnectionPool[Connection[tuple[Any, ...]]]
AsyncPool = AsyncConnectionPool[AsyncConnection[tuple[Any, ...]]]
Call = Callable[[int], Any]
AsyncCall = Callable[[int], Coroutine[Any, Any, Any]]

_COUNT_VERSION = """
update workflows set last_version = last_version + 1, last_event = last_event + 1
 where id = %s and not is_archived
returning last_version, last_event"""
_INSERT_VERSION = """
insert into workflow_versions (id, workflow_id, number, graph, graph_hash, metadata, created_at, created_by, updated_at)
values (%s, %s, %s, %s, %s, '{}', %s, %s, %s)
returning id, workflow_id, number, graph, graph_hash, mermaid, metadata, runnable_config, notes, created_at, created_by,
          updated_at"""
_INSERT_EVENT = """
insert into workflow_events (workflow_id, number, actor, action, at, metadata)
values (%s, %s, %s, 'version_created', %s, %s)"""


def rows(dsn: str) -> Iterator[Row]:
    """Every row, on an empty database; the pools are open while it is iterated. Raises SystemExit for any other."""
    with psycopg.connect(dsn) as connection:
        if connection.execute("select 1 from pg_tables where schemaname = 'public' limit 1").fetchone():
            raise SystemExit("This database has tables already; the benchmark needs an empty one of its own.")
    settings = Settings.from_url(dsn, postgres_pool_min_size=POOL, postgres_pool_max_size=POOL)
    texts = {name: query.text for name, query in load_catalog(settings).queries.items()}
    with connect(settings, migrate=True) as db:
        data = seed(db)
        pool: Pool = _pool_of(db)
        with pool.connection() as connection:
            connection.execute("vacuum (analyze)")
        yield from _blocking(db, pool, texts, data)
    with asyncio.Runner() as runner, _opened(runner, settings) as async_db:
        yield from _asyncio(runner, async_db, _pool_of(async_db), texts, data)


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


@contextmanager
def _within(runner: asyncio.Runner, db: Dal[Async]) -> Iterator[Any]:
    """A transaction that stays open while rows are measured."""

    async def begin() -> Any:
        return await transaction.__aenter__()

    async def end() -> None:
        await transaction.__aexit__(None, None, None)

    transaction = db.transaction()
    tx = runner.run(begin())
    try:
        yield tx
    finally:
        runner.run(end())


def _pool_of(db: Dal[Any]) -> Any:
    """The DAL's own pool. Applications have no way to it; here it is taken from inside."""
    return db._engine._core.wire.pool


# --- what both faces share --------------------------------------------------------------------------------------------


def _spelled_for_psycopg(text: str) -> str:
    """A statement of the DAL's own, with psycopg's named parameters."""
    return re.sub(r"(?<!:):(\w+)", r"%(\1)s", text)


def _peer(texts: Mapping[str, str], adapter: str) -> Any:
    """aiosql alone, with its stock adapter: rows as tuples."""
    heads = {"get_workflow": "(id)^", "list_runs": "(workflow_id, after_at, after_id, limit)"}
    return aiosql.from_str(
        "\n\n".join(f"-- name: {name}{head}\n{texts[name]}" for name, head in heads.items()), adapter
    )


def _first_page(workflow_id: UUID) -> dict[str, object]:
    """Like the DAL's, with the row beyond the page that tells whether there is another."""
    return {"workflow_id": workflow_id, "after_at": NEWEST[0], "after_id": NEWEST[1], "limit": PAGE + 1}


def _version_row(workflow_id: UUID, number: int, graph: Any, now: datetime) -> list[object]:
    canonical = json.dumps(graph, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    graph_hash = "v1:" + hashlib.sha256(canonical.encode()).hexdigest()
    return [uuid4(), workflow_id, number, Jsonb(graph), graph_hash, now, "bench", now]


def _run_row(workflow_id: UUID) -> dict[str, object]:
    return {
        "id": uuid4(), "workflow_id": workflow_id, "version_id": None, "triggered_by": "bench",
        "inputs": Jsonb({"ticket": 7}), "runnable_config": None, "tags": Jsonb([]), "callbacks": Jsonb([]),
        "metadata": Jsonb({}), "name": None, "idempotency_key": None, "actor": "bench", "now": datetime.now(UTC),
    }  # fmt: skip


def _config_row(workflow_id: UUID) -> dict[str, object]:
    now = datetime.now(UTC)
    return {"workflow_id": workflow_id, "number": 1, "runnable_config": Jsonb(BIG), "actor": "bench", "now": now}


def _ids(page: Any) -> list[str]:
    return [str(getattr(row, "id", None) or row[0]) for row in page][:PAGE]


# --- blocking ---------------------------------------------------------------------------------------------------------


def _times(call: Call) -> Callable[[int], None]:
    def run(calls: int) -> None:
        for number in range(calls):
            call(number)

    return run


def _blocking(db: Dal[Sync], pool: Pool, texts: Mapping[str, str], data: Seed) -> Iterator[Row]:
    sql = {name: _spelled_for_psycopg(text) for name, text in texts.items()}
    peer = _peer(texts, "psycopg")
    ids, page = data.workflows, _first_page(data.heavy)

    def one(name: str, values: Mapping[str, object]) -> Any:
        with pool.connection() as connection:
            return connection.execute(sql[name], values).fetchone()

    def contender(name: str, call: Call, seen: Callable[[Any], object], budget: float | None = None) -> Contender:
        return Contender(name, _times(call), lambda: seen(call(3)), budget)

    def peer_point(number: int) -> Any:
        with pool.connection() as connection:
            return peer.get_workflow(connection, id=ids[number % len(ids)])

    yield Row(
        "PostgreSQL: point read, sync, pool",
        [
            contender("raw", lambda n: one("get_workflow", {"id": ids[n % len(ids)]}), lambda row: row[0]),
            contender("DAL", lambda n: db.workflows.get(ids[n % len(ids)]), lambda workflow: workflow.id, 1.0),
            contender("aiosql alone", peer_point, lambda row: row[0]),
        ],
    )

    with db.transaction() as tx:
        held = tx.connection  # one for both

        def raw_held(n: int) -> Any:
            return held.execute(sql["get_workflow"], {"id": ids[n % len(ids)]}).fetchone()

        yield Row(
            "PostgreSQL: point read, sync, held",
            [
                contender("raw", raw_held, lambda row: row[0]),
                contender("DAL", lambda n: tx.workflows.get(ids[n % len(ids)]), lambda workflow: workflow.id, 1.0),
            ],
        )

    def raw_page(_: int) -> Any:
        with pool.connection() as connection:
            return connection.execute(sql["list_runs"], page).fetchall()

    def peer_page(_: int) -> Any:
        with pool.connection() as connection:
            return list(peer.list_runs(connection, **page))

    yield Row(
        "PostgreSQL: page of 50 runs, sync",
        [
            contender("raw", raw_page, _ids),
            contender("DAL", lambda _: db.runs.list(data.heavy, limit=PAGE).items, _ids, 1.1),
            contender("aiosql alone", peer_page, _ids),
        ],
    )

    def raw_version(n: int) -> Any:
        now = datetime.now(UTC)
        with pool.connection() as connection, connection.transaction():
            counted = connection.execute(_COUNT_VERSION, [ids[n % len(ids)]]).fetchone()
            assert counted is not None  # the workflow is there
            values = _version_row(ids[n % len(ids)], counted[0], SMALL, now)
            row = connection.execute(_INSERT_VERSION, values).fetchone()
            connection.execute(
                _INSERT_EVENT, [ids[n % len(ids)], counted[1], "bench", now, Jsonb({"number": counted[0]})]
            )
        return row

    yield Row(
        "PostgreSQL: create version, sync",
        [
            contender("raw, 3 statements", raw_version, lambda row: row[3]),
            contender(
                "DAL", lambda n: db.versions.create(ids[n % len(ids)], SMALL, actor="bench"), lambda v: v.graph, 0.7
            ),
        ],
    )
    yield Row(
        "PostgreSQL: insert one (create run), sync",
        [
            contender("raw, same statement", lambda n: one("create_run", _run_row(ids[n % 50])), lambda row: row[7]),
            contender(
                "DAL",
                lambda n: db.runs.create(ids[n % 50], actor="bench", inputs={"ticket": 7}),
                lambda run: run.inputs,
                1.05,
            ),
        ],
    )
    yield Row(
        "PostgreSQL: read 4 KB of JSON, sync",
        [
            contender("raw, stdlib json", lambda _: one("get_version", {"id": data.big}), lambda row: row[3]),
            contender("DAL", lambda _: db.versions.get(data.big), lambda version: version.graph, 0.9),
        ],
    )
    yield Row(
        "PostgreSQL: write 4 KB of JSON, sync",
        [
            contender(
                "raw, stdlib json",
                lambda n: one("update_version_config", _config_row(ids[n % len(ids)])),
                lambda row: row[7],
            ),
            contender(
                "DAL",
                lambda n: db.versions.set_runnable_config(ids[n % len(ids)], 1, BIG, actor="bench"),
                lambda version: version.runnable_config,
                1.0,
            ),
        ],
    )


# --- asyncio ----------------------------------------------------------------------------------------------------------


def _asyncio(
    runner: asyncio.Runner, db: Dal[Async], pool: AsyncPool, texts: Mapping[str, str], data: Seed
) -> Iterator[Row]:
    sql = {name: _spelled_for_psycopg(text) for name, text in texts.items()}
    peer = _peer(texts, "apsycopg")
    ids, page = data.workflows, _first_page(data.heavy)

    def contender(name: str, call: AsyncCall, seen: Callable[[Any], object], budget: float | None = None) -> Contender:
        async def times(calls: int) -> None:
            for number in range(calls):
                await call(number)

        return Contender(name, lambda calls: runner.run(times(calls)), lambda: seen(runner.run(call(3))), budget)

    async def raw_point(n: int) -> Any:
        async with pool.connection() as connection:
            return await (await connection.execute(sql["get_workflow"], {"id": ids[n % len(ids)]})).fetchone()

    async def peer_point(n: int) -> Any:
        async with pool.connection() as connection:
            return await peer.get_workflow(connection, id=ids[n % len(ids)])

    def our_point(n: int) -> Coroutine[Any, Any, Any]:
        return db.workflows.get(ids[n % len(ids)])

    yield Row(
        "PostgreSQL: point read, async, pool",
        [
            contender("raw", raw_point, lambda row: row[0]),
            contender("DAL", our_point, lambda workflow: workflow.id, 1.05),
            contender("aiosql alone", peer_point, lambda row: row[0]),
        ],
    )

    with _within(runner, db) as tx:
        held = tx.connection

        async def raw_held(n: int) -> Any:
            return await (await held.execute(sql["get_workflow"], {"id": ids[n % len(ids)]})).fetchone()

        yield Row(
            "PostgreSQL: point read, async, held",
            [
                contender("raw", raw_held, lambda row: row[0]),
                contender("DAL", lambda n: tx.workflows.get(ids[n % len(ids)]), lambda workflow: workflow.id, 1.05),
            ],
        )

    async def raw_page(_: int) -> Any:
        async with pool.connection() as connection:
            return await (await connection.execute(sql["list_runs"], page)).fetchall()

    async def our_page(_: int) -> Any:
        return (await db.runs.list(data.heavy, limit=PAGE)).items

    async def peer_page(_: int) -> Any:
        async with pool.connection() as connection:
            return [row async for row in peer.list_runs(connection, **page)]

    yield Row(
        "PostgreSQL: page of 50 runs, async",
        [
            contender("raw", raw_page, _ids),
            contender("DAL", our_page, _ids, 1.1),
            contender("aiosql alone", peer_page, _ids),
        ],
    )

    async def raw_version(n: int) -> Any:
        now = datetime.now(UTC)
        async with pool.connection() as connection, connection.transaction():
            counted = await (await connection.execute(_COUNT_VERSION, [ids[n % len(ids)]])).fetchone()
            assert counted is not None  # the workflow is there
            values = _version_row(ids[n % len(ids)], counted[0], SMALL, now)
            row = await (await connection.execute(_INSERT_VERSION, values)).fetchone()
            await connection.execute(
                _INSERT_EVENT, [ids[n % len(ids)], counted[1], "bench", now, Jsonb({"number": counted[0]})]
            )
        return row

    yield Row(
        "PostgreSQL: create version, async",
        [
            contender("raw, 3 statements", raw_version, lambda row: row[3]),
            contender(
                "DAL", lambda n: db.versions.create(ids[n % len(ids)], SMALL, actor="bench"), lambda v: v.graph, 0.7
            ),
        ],
    )

    def tasks(call: AsyncCall) -> Callable[[int], None]:
        async def share(first: int, calls: int) -> None:
            for number in range(first, calls, TASKS):
                await call(number)

        async def all_shares(calls: int) -> None:
            async with asyncio.TaskGroup() as group:
                for first in range(TASKS):
                    group.create_task(share(first, calls))

        return lambda calls: runner.run(all_shares(calls))

    yield Row(
        f"PostgreSQL: point reads of {TASKS} tasks, pool of {POOL}: throughput",
        [
            Contender("raw", tasks(raw_point), lambda: runner.run(raw_point(3))[0]),
            Contender("DAL", tasks(our_point), lambda: runner.run(our_point(3)).id, 1.0),
        ],
        better="higher",
    )

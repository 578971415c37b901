"""What mypy and pyright must take as it stands: both faces, transactions, stores of one's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from datetime import datetime
from typing import assert_type
from uuid import UUID

import dal
from dal import Async, Dal, Health, Page, Run, RunStatus, Step, Sync, Tx, Workflow
from dal.core.face import M, Queries, Store, missing, statement, transaction


class Reports(Store[M]):
    """A store of an application's own, on the packaged queries."""

    @statement
    async def status(self, q: Queries, run_id: UUID) -> RunStatus:
        """How a run stands."""
        run = await q.get_run(run_id=run_id) or missing(dal.RunNotFound, run_id)
        return run.status

    @statement(write=True)
    async def begin(self, q: Queries, run_id: UUID, *, actor: str = "nobody") -> bool:
        """Start a run; whether it was pending."""
        answer = await q.mark_run_running(run_id=run_id, actor=actor, now=self.clock())
        return answer is not None and answer.applied

    @transaction(read_only=True)
    async def all_numbers(self, q: Queries, workflow_id: UUID) -> Sequence[int]:
        """The numbers of a workflow's versions."""
        versions = await q.list_versions(workflow_id=workflow_id, before=2**63 - 1, limit=100)
        return [version.number for version in versions]


def blocking(db: Dal[Sync], run_id: UUID) -> None:
    assert_type(db.runs.get(run_id), Run)
    assert_type(db.runs.list(run_id, status="pending", limit=5), Page[Run])
    assert_type(db.runs.get(run_id).started_at, datetime | None)
    assert_type(db.health(), Health)
    assert_type(db.workflows.update(run_id, actor="a", handle=None), Workflow)
    with db.transaction(isolation="serializable") as tx:
        assert_type(tx, Tx[Sync])
        tx.runs.start(run_id, actor="a")
        with tx.transaction() as inner:
            assert_type(inner.runs.succeed(run_id, {"answer": [1, 2.5, None]}, actor="a"), Run)
    assert_type(db.transact(lambda tx: tx.runs.get(run_id).name), str | None)
    assert_type(db.transact(lambda tx: tx.runs.get(run_id).name, key="k", request={"n": 1}), str | None)
    assert_type(db.keys.get("k").key, str)
    assert_type(db.history.stream("e", after=None), Iterator[Step])
    assert_type([step.idx for step in db.history.stream("e")], list[int])
    assert_type(db.tokens.mint("ci", actor="a", scopes=["x"]).secret, dal.Secret)
    assert_type(db.tokens.authenticate("t", scopes=("x",)), dal.TokenRecord)
    assert_type(db.tokens.verify_audit(since=None), dal.AuditReport)
    mine: Reports[Sync] = Reports(db._runner, db.clock)
    assert_type(mine.begin(run_id, actor="b"), bool)
    assert_type(mine.all_numbers(run_id), Sequence[int])
    db.close()


async def waiting(db: Dal[Async], run_id: UUID) -> None:
    assert_type(await db.runs.get(run_id), Run)
    await assert_type(db.runs.get(run_id), Coroutine[object, object, Run])
    task = asyncio.create_task(db.runs.get(run_id))
    assert_type(await task, Run)
    assert_type(await asyncio.gather(db.runs.get(run_id), db.health()), tuple[Run, Health])
    assert_type(await asyncio.wait_for(db.runs.get(run_id), 5), Run)
    async with db.transaction() as tx:
        assert_type(tx, Tx[Async])
        await tx.runs.start(run_id, actor="a")
        async with tx.transaction() as inner:
            await inner.runs.fail(run_id, "no", actor="a")
    assert_type(db.history.stream("e"), AsyncIterator[Step])
    assert_type([step.idx async for step in db.history.stream("e")], list[int])
    assert_type((await db.tokens.mint("ci", actor="a")).record, dal.TokenRecord)
    assert_type(await db.tokens.verify_audit(), dal.AuditReport)
    mine: Reports[Async] = Reports(db._runner, db.clock)
    assert_type(await mine.status(run_id), RunStatus)
    await db.close()


async def opened() -> None:
    with dal.connect("sqlite:///:memory:") as blocking_db:
        assert_type(blocking_db, Dal[Sync])
    async with dal.aconnect("sqlite:///:memory:") as db:
        assert_type(db, Dal[Async])
    assert_type(await dal.aconnect(), Dal[Async])

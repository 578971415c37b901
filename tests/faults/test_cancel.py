"""Callers who vanish: every method is cancelled at every await, and afterwards nothing shows that they were there."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import random
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest

import dal
from dal import Async, Dal
from dal.core.face import Method, Repeated
from dal.stores.chat import Chat
from dal.stores.checkpoints import Checkpoints
from dal.stores.history import History
from dal.stores.keys import Keys
from dal.stores.runs import Runs
from dal.stores.token_texts import token_text
from dal.stores.tokens import Tokens
from dal.stores.triggers import Triggers
from dal.stores.versions import Versions
from dal.stores.workflows import Workflows
from tests.cells import PEPPERS

PATIENCE = 30.0
Call = Callable[[], Awaitable[object]]


# --- cancelling at one await ------------------------------------------------------------------------------------------


class Stepped:
    """A coroutine whose task is cancelled at its awaits from number `at` on, `times` of them."""

    def __init__(self, work: Coroutine[Any, Any, Any], at: int, times: int) -> None:
        self._work = work
        self._at = range(at, at + times)
        self.steps = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        resume: Callable[[Any], Any] = self._work.send
        heard: Any = None
        while True:
            try:
                waiting = resume(heard)
            except StopIteration as stop:
                return stop.value
            if self.steps in self._at:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            self.steps += 1
            try:
                heard = yield waiting
                resume = self._work.send
            except BaseException as error:
                resume, heard = self._work.throw, error


async def cancelled_at(call: Call, at: int, times: int) -> bool:
    """Run a call in a task of its own and cancel it at an await. Whether it had such an await."""

    async def work() -> object:
        return await call()

    stepped = Stepped(work(), at, times)

    async def run() -> None:
        await stepped

    async with asyncio.timeout(PATIENCE):
        [outcome] = await asyncio.gather(run(), return_exceptions=True)
    assert outcome is None or isinstance(outcome, (asyncio.CancelledError, dal.Unavailable)), repr(outcome)
    return stepped.steps > at


# --- every method -----------------------------------------------------------------------------------------------------


@dataclass
class Ground:
    """What a call is made on: a workflow with two versions, the second one published, and a run in each state."""

    db: Dal[Async]
    workflow: UUID
    version: UUID
    hash: str
    pending: UUID
    running: UUID

    @classmethod
    async def fresh(cls, db: Dal[Async]) -> Ground:
        workflow = (await db.workflows.create("ground", actor="ann", tags=["a"])).id
        version = await db.versions.create(workflow, {"number": 1}, actor="ann")
        await db.versions.create(workflow, {"number": 2}, actor="ann")
        pending = (await db.runs.create(workflow, actor="ann")).id
        running = (await db.runs.create(workflow, actor="ann")).id
        await db.runs.start(running, actor="ann")
        return cls(db, workflow, version.id, version.graph_hash, pending, running)

    async def state(self) -> object:
        """All that a call on it can change, without times and identifiers."""
        workflow = await self.db.workflows.get(self.workflow)
        versions = await self.db.versions.list(self.workflow)
        runs = await self.db.runs.list(self.workflow)
        events = [len((await self.db.runs.events(run.id)).items) for run in runs.items]
        return (
            (workflow.name, workflow.handle, workflow.is_archived, workflow.is_public, workflow.revision),
            sorted((version.number, repr(version.runnable_config)) for version in versions.items),
            sorted(zip([run.status for run in runs.items], events, strict=True)),
            (len((await self.db.workflows.events(self.workflow)).items), *await self._of_other_stores()),
            len((await self.db.workflows.list(limit=500)).items),
        )

    async def _of_other_stores(self) -> list[object]:
        db, id = self.db, str(self.workflow)
        executions = (await db.history.list(id)).items
        checkpoints = (await db.checkpoints.list(id)).items
        tokens = [token for token in (await db.tokens.list(active=False, limit=500)).items if token.name.startswith(id)]
        threads = (await db.chat.list_threads(id)).items
        items = (await db.chat.list_items(id, id)).items if threads else []
        try:
            attachment = (await db.chat.get_attachment(id, id)).name
        except dal.AttachmentNotFound:
            attachment = ""
        return [
            [(each.status, each.step_count) for each in executions],
            [(each.config_version, each.is_best) for each in checkpoints],
            sorted((each.name[-1], each.rotated_to is None, each.revoked_at is None) for each in tokens),
            [each.title for each in threads], [(each.seq, each.item) for each in items], attachment,
        ]  # fmt: skip


async def in_a_transaction(ground: Ground) -> None:
    async with ground.db.transaction() as tx:
        await tx.runs.start(ground.pending, actor="ann")
        async with tx.transaction() as inner:
            await inner.versions.create(ground.workflow, {"number": 3}, actor="ann")
        await tx.runs.succeed(ground.pending, actor="ann")


async def transacted(ground: Ground) -> None:
    async def work(tx: dal.Tx[Async]) -> None:
        await tx.runs.start(ground.pending, actor="ann")
        await tx.runs.succeed(ground.pending, actor="ann")

    await ground.db.transact(work)


async def keyed(ground: Ground) -> None:
    async def work(tx: dal.Tx[Async]) -> str:
        return (await tx.runs.start(ground.pending, actor="ann")).status

    await ground.db.transact(work, key=str(ground.pending))


async def looked(ground: Ground) -> None:
    async with ground.db.transaction(read_only=True) as tx:
        await tx.runs.get(ground.pending)
        await tx.workflows.list()


# So late that what is scheduled for once a year is due, and every lease has run out.
LATER = datetime(2100, 1, 2, tzinfo=UTC)


async def leased(ground: Ground) -> None:
    await ground.db.runs.claim("w", lease_seconds=60, workflow_id=ground.workflow)


async def scheduled(ground: Ground) -> None:
    await ground.db.triggers.set_cron(ground.workflow, "0 0 1 1 *", actor="ann")


async def hooked(ground: Ground) -> None:
    await ground.db.triggers.set_webhook(ground.workflow, actor="ann")


async def begun(ground: Ground) -> None:
    await ground.db.history.start(str(ground.workflow), str(ground.workflow), metadata={"a": 1})


async def recorded(ground: Ground) -> None:
    id = str(ground.workflow)
    await ground.db.checkpoints.record(id, id=id, runnable_config=1, metrics={"m": 1}, is_best=True)


MINTED: dict[UUID, dal.Minted] = {}


async def minted(ground: Ground) -> None:
    MINTED[ground.workflow] = await ground.db.tokens.mint(f"{ground.workflow} 1", actor="ann")


async def used(ground: Ground) -> None:
    await minted(ground)
    await authenticated(ground)


async def authenticated(ground: Ground) -> None:
    token = MINTED.get(ground.workflow)
    await ground.db.tokens.authenticate(token.secret if token else token_text("svc", "0" * 12, b"0" * 43))


def key_id(ground: Ground) -> str:
    token = MINTED.get(ground.workflow)
    return token.record.key_id if token else "0" * 12


async def imported(ground: Ground) -> None:
    digest = hashlib.sha256(ground.workflow.bytes).digest()
    await ground.db.tokens.import_legacy(f"{ground.workflow} 2", digest, actor="ann")


async def said(ground: Ground) -> None:
    """A thread with an item, of an owner and with ids of its own."""
    id = str(ground.workflow)
    await ground.db.chat.save_thread(id, id, title="words")
    await ground.db.chat.add_item(id, id, id, type="m", item="1", body="words")
    await attached(ground)


async def attached(ground: Ground) -> None:
    id = str(ground.workflow)
    await ground.db.chat.save_attachment(id, id, type="file", name="n", mime_type="m")


async def failed(ground: Ground) -> None:
    await ground.db.runs.fail(ground.pending, "why", actor="ann")


CASES: dict[str, tuple[Callable[[Ground], Awaitable[object]] | None, Callable[[Ground], Awaitable[object]]]] = {
    "workflows.create": (None, lambda g: g.db.workflows.create("another", actor="ann")),
    "workflows.get": (None, lambda g: g.db.workflows.get(g.workflow)),
    "workflows.resolve": (None, lambda g: g.db.workflows.resolve(g.workflow)),
    "workflows.list": (None, lambda g: g.db.workflows.list()),
    "workflows.update": (None, lambda g: g.db.workflows.update(g.workflow, actor="ann", name="renamed")),
    "workflows.archive": (None, lambda g: g.db.workflows.archive(g.workflow, actor="ann")),
    "workflows.unarchive": (
        lambda g: g.db.workflows.archive(g.workflow, actor="ann"),
        lambda g: g.db.workflows.unarchive(g.workflow, actor="ann"),
    ),
    "workflows.publish": (None, lambda g: g.db.workflows.publish(g.workflow, actor="ann")),
    "workflows.unpublish": (
        lambda g: g.db.workflows.publish(g.workflow, actor="ann"),
        lambda g: g.db.workflows.unpublish(g.workflow, actor="ann"),
    ),
    "workflows.events": (None, lambda g: g.db.workflows.events(g.workflow)),
    "versions.create": (None, lambda g: g.db.versions.create(g.workflow, {"number": 3}, actor="ann")),
    "versions.get": (None, lambda g: g.db.versions.get(g.version)),
    "versions.get_number": (None, lambda g: g.db.versions.get_number(g.workflow, 1)),
    "versions.latest": (None, lambda g: g.db.versions.latest(g.workflow)),
    "versions.find_by_hash": (None, lambda g: g.db.versions.find_by_hash(g.workflow, g.hash)),
    "versions.list": (None, lambda g: g.db.versions.list(g.workflow)),
    "versions.set_runnable_config": (
        None,
        lambda g: g.db.versions.set_runnable_config(g.workflow, 1, {"a": 1}, actor="ann"),
    ),
    "versions.diff": (None, lambda g: g.db.versions.diff(g.workflow, 1, 2)),
    "runs.create": (None, lambda g: g.db.runs.create(g.workflow, actor="ann", idempotency_key="k")),
    "runs.get": (None, lambda g: g.db.runs.get(g.pending)),
    "runs.list": (None, lambda g: g.db.runs.list(g.workflow)),
    "runs.start": (None, lambda g: g.db.runs.start(g.pending, actor="ann")),
    "runs.succeed": (None, lambda g: g.db.runs.succeed(g.running, {"a": 1}, actor="ann")),
    "runs.fail": (None, lambda g: g.db.runs.fail(g.running, "why", actor="ann")),
    "runs.cancel": (None, lambda g: g.db.runs.cancel(g.pending, actor="ann")),
    "runs.events": (None, lambda g: g.db.runs.events(g.pending)),
    "runs.claim": (None, lambda g: g.db.runs.claim("w", lease_seconds=60, workflow_id=g.workflow)),
    "runs.heartbeat": (leased, lambda g: g.db.runs.heartbeat(g.pending, "w", lease_seconds=60)),
    "runs.requeue_expired": (leased, lambda g: g.db.runs.requeue_expired(LATER, 500)),
    "runs.counts": (None, lambda g: g.db.runs.counts(g.workflow)),
    "triggers.set_cron": (None, lambda g: g.db.triggers.set_cron(g.workflow, "0 0 1 1 *", actor="ann")),
    "triggers.get_cron": (scheduled, lambda g: g.db.triggers.get_cron(g.workflow)),
    "triggers.delete_cron": (scheduled, lambda g: g.db.triggers.delete_cron(g.workflow, actor="ann")),
    "triggers.dispatch_due": (scheduled, lambda g: g.db.triggers.dispatch_due(LATER, 500)),
    "triggers.set_webhook": (None, lambda g: g.db.triggers.set_webhook(g.workflow, actor="ann")),
    "triggers.get_webhook": (hooked, lambda g: g.db.triggers.get_webhook(g.workflow)),
    "triggers.delete_webhook": (hooked, lambda g: g.db.triggers.delete_webhook(g.workflow, actor="ann")),
    "triggers.dispatch_webhook": (
        hooked,
        lambda g: g.db.triggers.dispatch_webhook(g.workflow, {}, source_ip=None, dedupe_key="k"),
    ),
    "triggers.set_retry_policy": (None, lambda g: g.db.triggers.set_retry_policy(g.workflow, actor="ann")),
    "triggers.get_retry_policy": (None, lambda g: g.db.triggers.get_retry_policy(g.workflow)),
    "triggers.schedule_retry": (failed, lambda g: g.db.triggers.schedule_retry(g.pending, LATER)),
    "triggers.dispatch_manual": (
        None,
        lambda g: g.db.triggers.dispatch_manual(g.workflow, [(None, 1), (None, 2)], actor="ann"),
    ),
    "workflows.search": (None, lambda g: g.db.workflows.search("ground")),
    "workflows.make_searchable": (None, lambda g: g.db.workflows.make_searchable()),
    "history.start": (None, begun),
    "history.get": (begun, lambda g: g.db.history.get(str(g.workflow))),
    "history.list": (None, lambda g: g.db.history.list(str(g.workflow))),
    "history.find": (begun, lambda g: g.db.history.find(str(g.workflow), metadata={"a": 1})),
    "history.append_step": (begun, lambda g: g.db.history.append_step(str(g.workflow), 1)),
    "history.append_steps": (begun, lambda g: g.db.history.append_steps(str(g.workflow), [1, 2])),
    "history.steps": (begun, lambda g: g.db.history.steps(str(g.workflow))),
    "history.complete": (begun, lambda g: g.db.history.complete(str(g.workflow))),
    "history.fail": (begun, lambda g: g.db.history.fail(str(g.workflow), "why")),
    "history.cancel": (begun, lambda g: g.db.history.cancel(str(g.workflow))),
    "history.prune": (None, lambda g: g.db.history.prune(datetime(2001, 1, 1, tzinfo=UTC))),
    "checkpoints.record": (None, recorded),
    "checkpoints.get": (recorded, lambda g: g.db.checkpoints.get(str(g.workflow))),
    "checkpoints.latest": (recorded, lambda g: g.db.checkpoints.latest(str(g.workflow))),
    "checkpoints.best": (recorded, lambda g: g.db.checkpoints.best(str(g.workflow))),
    "checkpoints.list": (None, lambda g: g.db.checkpoints.list(str(g.workflow))),
    "checkpoints.find": (recorded, lambda g: g.db.checkpoints.find(str(g.workflow), metrics={"m": 1})),
    "checkpoints.top": (recorded, lambda g: g.db.checkpoints.top(str(g.workflow), "m")),
    "checkpoints.mark_best": (recorded, lambda g: g.db.checkpoints.mark_best(str(g.workflow))),
    "tokens.mint": (None, minted),
    "tokens.import_legacy": (None, imported),
    "tokens.authenticate": (minted, authenticated),
    "tokens.rotate": (minted, lambda g: g.db.tokens.rotate(key_id(g), actor="ann")),
    "tokens.revoke": (minted, lambda g: g.db.tokens.revoke(key_id(g), "why", actor="ann")),
    "tokens.get": (minted, lambda g: g.db.tokens.get(key_id(g))),
    "tokens.list": (None, lambda g: g.db.tokens.list()),
    "tokens.usage": (used, lambda g: g.db.tokens.usage([key_id(g)])),
    "tokens.peppers": (None, lambda g: g.db.tokens.peppers()),
    "tokens.audit": (minted, lambda g: g.db.tokens.audit(key_id(g))),
    "tokens.refusals": (None, lambda g: g.db.tokens.refusals()),
    "tokens.prune_refusals": (None, lambda g: g.db.tokens.prune_refusals(datetime(2001, 1, 1, tzinfo=UTC))),
    "tokens.verify_audit": (minted, lambda g: g.db.tokens.verify_audit()),
    "tokens.flush_usage": (used, lambda g: g.db.tokens.flush_usage()),
    "chat.save_thread": (None, lambda g: g.db.chat.save_thread(str(g.workflow), str(g.workflow))),
    "chat.get_thread": (said, lambda g: g.db.chat.get_thread(str(g.workflow), str(g.workflow))),
    "chat.list_threads": (None, lambda g: g.db.chat.list_threads(str(g.workflow))),
    "chat.delete_thread": (said, lambda g: g.db.chat.delete_thread(str(g.workflow), str(g.workflow))),
    "chat.add_item": (
        said,
        lambda g: g.db.chat.add_item(str(g.workflow), str(g.workflow), f"{g.workflow}+", type="m", item="2"),
    ),
    "chat.save_item": (
        said,
        lambda g: g.db.chat.save_item(str(g.workflow), str(g.workflow), str(g.workflow), type="m", item="2"),
    ),
    "chat.get_item": (said, lambda g: g.db.chat.get_item(str(g.workflow), str(g.workflow), str(g.workflow))),
    "chat.list_items": (said, lambda g: g.db.chat.list_items(str(g.workflow), str(g.workflow))),
    "chat.delete_item": (said, lambda g: g.db.chat.delete_item(str(g.workflow), str(g.workflow), str(g.workflow))),
    "chat.save_attachment": (None, attached),
    "chat.get_attachment": (said, lambda g: g.db.chat.get_attachment(str(g.workflow), str(g.workflow))),
    "chat.update_attachment": (
        said,
        lambda g: g.db.chat.update_attachment(str(g.workflow), str(g.workflow), details={}, storage_path="a"),
    ),
    "chat.list_stored_attachments": (said, lambda g: g.db.chat.list_stored_attachments()),
    "chat.delete_attachment": (said, lambda g: g.db.chat.delete_attachment(str(g.workflow), str(g.workflow))),
    "chat.search": (said, lambda g: g.db.chat.search(str(g.workflow), "word")),
    "chat.prune": (None, lambda g: g.db.chat.prune(datetime(2001, 1, 1, tzinfo=UTC))),
    "keys.get": (keyed, lambda g: g.db.keys.get(str(g.pending))),
    "keys.prune": (None, lambda g: g.db.keys.prune(before=datetime(2001, 1, 1, tzinfo=UTC))),
    "transact(key)": (None, keyed),
    "health": (None, lambda g: g.db.health()),
    "transaction": (None, in_a_transaction),
    "transaction(read_only)": (None, looked),
    "transact": (None, transacted),
}


def test_every_method_of_the_stores_is_among_the_cases() -> None:
    stores = {"workflows": Workflows, "versions": Versions, "runs": Runs, "triggers": Triggers, "keys": Keys,
              "history": History, "checkpoints": Checkpoints, "tokens": Tokens, "chat": Chat}  # fmt: skip
    methods = {f"{name}.{method}" for name, store in stores.items() for method, value in inspect.getmembers(store)
               if isinstance(value, (Method, Repeated))}  # fmt: skip
    assert len(methods) > 80
    assert methods - CASES.keys() == set()


@pytest.fixture(params=["sqlite", "postgres"])
def any_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


def opened(url: str) -> AbstractAsyncContextManager[Dal[Async]]:
    return dal.aconnect(
        dal.Settings.from_url(url, postgres_pool_max_size=3, postgres_pool_timeout=PATIENCE, token_peppers=PEPPERS)
    )


async def whole(db: Dal[Async], url: str) -> None:
    """Wait until nothing is lent and nobody waits; fail if that does not come, or a transaction stays open."""
    if db.settings.backend != "postgres":
        return
    for _ in range(500):
        figures = db._engine.figures()
        if figures["pool_available"] == figures["pool_size"] and not figures["requests_waiting"]:
            break
        await asyncio.sleep(0.01)
    else:
        raise AssertionError(f"a connection is missing: {figures}")
    with psycopg.connect(url) as connection:
        [(open_transactions,)] = connection.execute(
            "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
            " and (state like 'idle in transaction%' or state = 'active')"
        ).fetchall()
    assert open_transactions == 0


@pytest.mark.parametrize("times", [1, 3], ids=["once", "again-and-again"])
def test_a_call_cancelled_at_any_await_is_done_or_not_and_leaves_nothing_behind(
    any_url: str, times: int, tally: Callable[[str], Any]
) -> None:
    row = tally(f"P11 every method cancelled at every await, {any_url.partition(':')[0]}, {times} x")

    async def at_every_await(db: Dal[Async], name: str) -> int:
        prepare, call = CASES[name]
        at = 0
        while True:
            ground = await Ground.fresh(db)
            if prepare:
                await prepare(ground)
            before = await ground.state()
            had_such_an_await = await cancelled_at(lambda ground=ground: call(ground), at, times)  # type: ignore[misc]
            await whole(db, any_url)
            found = await ground.state()
            if found == before:
                await call(ground)
                after = await ground.state()
                if not had_such_an_await:
                    return at
                reference = after
            elif had_such_an_await:
                reference = None  # done: compared with what the call does undisturbed
            else:
                return at
            row.rounds += 1
            if reference is None:
                other = await Ground.fresh(db)
                if prepare:
                    await prepare(other)
                await call(other)
                expected = await other.state()
                found = await ground.state()
                assert found[:4] == expected[:4], f"{name}, await {at}: half done"  # type: ignore[index]
            at += 1
            assert at < 200, f"{name} never ends"

    async def main() -> None:
        async with opened(any_url) as db:
            await db.workflows.create("first", actor="ann")
            for name in CASES:
                awaits = await at_every_await(db, name)
                assert awaits > 0, f"{name} has no await to be cancelled at"

    asyncio.run(main())
    row.check()


def test_calls_cancelled_at_random_leave_no_connection_behind(
    any_url: str, tally: Callable[[str], Any], rounds: Callable[[int, int], int]
) -> None:
    row = tally(f"P11 calls cancelled at random, {any_url.partition(':')[0]}")
    dice = random.Random(11)
    names = sorted(CASES)

    async def vanish(db: Dal[Async], ground: Ground, name: str) -> None:
        async def work() -> object:
            return await CASES[name][1](ground)

        task = asyncio.create_task(work())
        await asyncio.sleep(dice.random() * dice.choice([0.0005, 0.005, 0.02]))
        task.cancel()
        if dice.random() < 0.3:
            await asyncio.sleep(0)
            task.cancel()
        async with asyncio.timeout(PATIENCE):
            [outcome] = await asyncio.gather(task, return_exceptions=True)
        if isinstance(outcome, BaseException):
            # InvalidState: several callers meet on one ground. NotFound: nobody has used the key that is looked for.
            # Conflict, TokenRefused: what is made was made, or never was. Unavailable: the cancellation closed the
            # connection.
            expected = (
                asyncio.CancelledError, dal.InvalidState, dal.NotFound, dal.Conflict, dal.TokenRefused, dal.Unavailable
            )  # fmt: skip
            assert isinstance(outcome, expected), f"{name}: {outcome!r}"

    async def main() -> None:
        async with opened(any_url) as db:
            for _ in range(rounds(40, 400) // 20):
                ground = await Ground.fresh(db)
                async with asyncio.timeout(PATIENCE * 2):
                    await asyncio.gather(*(vanish(db, ground, dice.choice(names)) for _ in range(20)))
                row.rounds += 20
                await whole(db, any_url)
                await ground.state()
                fresh = await Ground.fresh(db)
                await in_a_transaction(fresh)
                assert (await db.runs.get(fresh.pending)).status == "succeeded"

    asyncio.run(main())
    row.check()


def test_a_call_cancelled_while_it_gives_its_connection_back_gives_it_back(postgres_url: str) -> None:
    """The pool's lock is held by others for a moment only; here it is held for long, to be waited for surely."""

    async def main() -> None:
        async with opened(postgres_url) as db:
            pool = db._engine._core.wire.pool
            for _ in range(3):
                await whole(db, postgres_url)
                task = asyncio.create_task(_list(db))
                for _ in range(100):
                    if db._engine.figures()["pool_available"] < db._engine.figures()["pool_size"]:
                        break
                    await asyncio.sleep(0)
                async with pool._lock:
                    await asyncio.sleep(0.1)
                    for _ in range(3):
                        task.cancel()
                        await asyncio.sleep(0)
                    assert not task.done()
                [outcome] = await asyncio.gather(task, return_exceptions=True)
                assert isinstance(outcome, asyncio.CancelledError)
            await whole(db, postgres_url)

    asyncio.run(main())


async def _list(db: Dal[Async]) -> None:
    await db.workflows.list()

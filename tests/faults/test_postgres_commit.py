"""B56: the connection that carries a COMMIT is lost, before the server has it or after it has answered."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

import dal
from dal import Dal, OutcomeUnknown, Sync
from tests.cells import Clock, Face, Loop, every_run, open_db
from tests.faces.proxy import COMMIT, Loss, Proxy

PATIENCE = 30.0
LOSSES: tuple[Loss, Loss] = ("before it arrived", "after it was done")


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    with Proxy(postgres_url) as proxy:
        yield proxy


@pytest.fixture(params=["sync", "async"])
def db(request: pytest.FixtureRequest, proxy: Proxy, clock: Clock, loop: Loop) -> Iterator[Dal[Sync]]:
    face: Face = request.param
    db = open_db(proxy.settings(postgres_pool_max_size=4), face, clock, loop)
    yield db
    db.close()


def a_workflow(db: Dal[Sync]) -> UUID:
    """One with a version, so that it takes runs."""
    workflow = db.workflows.create("w", actor="ann").id
    db.versions.create(workflow, {}, actor="ann")
    return workflow


def test_a_keyed_create_is_done_once_however_its_connection_is_lost(
    db: Dal[Sync], proxy: Proxy, tally: Callable[[str], Any], rounds: Callable[[int, int], int]
) -> None:
    row = tally("B56 keyed create, its request or answer lost")
    workflow = a_workflow(db)
    for number in range(rounds(20, 200)):
        proxy.lose(b"dal:create_run ", LOSSES[number % 2])
        run = db.runs.create(workflow, actor="ann", idempotency_key=f"k{number}")
        row.rounds += 1
        row.lost += db.runs.get(run.id) != run
    assert proxy.losses == row.rounds, "each create met its loss"
    row.doubled = len(db.runs.list(workflow, limit=500).items) - row.rounds
    figures = db._engine.figures()
    assert figures["unknown"] == row.rounds
    assert figures["retried"] == row.rounds
    row.check()


def test_without_a_key_a_create_is_never_sent_twice(
    db: Dal[Sync], proxy: Proxy, tally: Callable[[str], Any], rounds: Callable[[int, int], int]
) -> None:
    row = tally("B56 create without a key, its request or answer lost")
    workflow = a_workflow(db)
    answered = 0
    for number in range(rounds(10, 100)):
        proxy.lose(b"dal:create_run ", LOSSES[number % 2])
        with pytest.raises(OutcomeUnknown) as raised:
            db.runs.create(workflow, actor="ann", name=f"n{number}")
        assert (raised.value.query, raised.value.retryable) == ("create_run", False)
        row.rounds += 1
        answered += number % 2
    stored = [run.name for run in db.runs.list(workflow, limit=500).items]
    row.doubled = len(stored) - len(set(stored))
    assert len(stored) == answered, "those whose answer was lost are there, the others are not"
    assert db.calls["create_run"] == row.rounds
    row.check()


def test_a_lost_commit_is_unknown_and_what_was_lost_before_it_is_done_again(
    db: Dal[Sync], proxy: Proxy, tally: Callable[[str], Any], rounds: Callable[[int, int], int]
) -> None:
    row = tally("B56 transact, a statement or the COMMIT lost")
    workflow = a_workflow(db)
    words = [b"begin\0", b"dal:create_run ", b"dal:mark_run_running ", COMMIT]
    expected: list[str] = []
    for number in range(rounds(16, 160)):
        word, answered = words[number % 4], number // 4 % 2 == 1
        name = f"n{number}"

        def work(tx: dal.Tx[Sync], name: str = name) -> None:
            tx.runs.start(tx.runs.create(workflow, actor="ann", name=name).id, actor="ann")

        proxy.lose(word, LOSSES[answered])
        row.rounds += 1
        if word == COMMIT:
            with pytest.raises(OutcomeUnknown):
                db.transact(work)
            expected += [name] if answered else []
        else:
            db.transact(work)
            expected.append(name)
    assert proxy.losses == row.rounds
    stored = [run.name for run in db.runs.list(workflow, status="running", limit=500).items]
    row.lost = len(set(expected) - set(stored))
    row.doubled = len(stored) - len(set(stored))
    assert set(stored) == set(expected)
    row.check()


def test_a_unit_of_work_with_a_key_is_run_again_after_a_lost_commit(db: Dal[Sync], proxy: Proxy) -> None:
    """What `transact` does with a key is built on this; the key's own row is its affair."""
    workflow = a_workflow(db)
    attempts = []

    def once() -> str:
        attempts.append(1)
        with db.transaction() as tx:
            return str(tx.runs.create(workflow, actor="ann", idempotency_key="k").id)

    async def once_async() -> str:
        attempts.append(1)
        async with inner.transaction() as tx:
            return str((await tx.runs.create(workflow, actor="ann", idempotency_key="k")).id)

    inner: Any = getattr(db, "_inner", db)  # on the async face the test's own wrapper stands before it
    for answered in (False, True):
        attempts.clear()
        proxy.lose_commit(LOSSES[answered])
        if inner is db:
            first = db._engine.retry(once, keyed=True)
        else:
            first = db._loop.run(lambda: inner._engine.retry(once_async, keyed=True))  # type: ignore[attr-defined]
        assert len(attempts) == 2
        assert str(db.runs.list(workflow).items[0].id) == first
    assert len(db.runs.list(workflow).items) == 1


def test_keyed_creates_of_many_callers_on_a_network_that_breaks_are_each_done_once(
    postgres_url: str, proxy: Proxy, tally: Callable[[str], Any], rounds: Callable[[int, int], int]
) -> None:
    row = tally("B56 24 callers with keys, connections cut at random")
    each = rounds(8, 80)
    over = threading.Event()

    def cut() -> None:
        while not over.wait(random.uniform(0.02, 0.06)):
            proxy.cut()

    with dal.connect(proxy.settings(postgres_pool_max_size=8)) as db, ThreadPoolExecutor(25) as threads:
        workflow = a_workflow(db)

        def write(caller: int) -> list[str]:
            return [
                str(db.runs.create(workflow, actor="ann", idempotency_key=f"{caller}-{number}").id)
                for number in range(each)
            ]

        cutting = threads.submit(cut)
        acknowledged = [run for caller in threads.map(write, range(24), timeout=300) for run in caller]
        over.set()
        cutting.result(PATIENCE)
    with dal.connect(postgres_url) as db:
        stored = [str(run.id) for run in every_run(db, workflow)]
    row.rounds = len(acknowledged)
    row.lost = len(set(acknowledged) - set(stored))
    row.doubled = len(stored) - 24 * each
    row.check()

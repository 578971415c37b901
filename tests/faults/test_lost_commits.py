"""B56, the connection lost during COMMIT: with an idempotency key the work is done once, without one we say so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import pytest

from dal import Dal, OutcomeUnknown, Sync, Tx
from tests.cells import Clock, Face, Loop, open_db
from tests.faces.proxy import Loss, Proxy
from tests.faults.conftest import Tally

each_face = pytest.mark.parametrize("face", get_args(Face))
each_loss = pytest.mark.parametrize("loss", get_args(Loss), ids=lambda loss: loss.replace(" ", "_"))
Open = Callable[..., Any]


@pytest.fixture
def opened(clock: Clock, loop: Loop) -> Open:
    """A database that is reached through a proxy, and closed at the block's end."""

    @contextmanager
    def open_through(proxy: Proxy, face: Face, **options: Any) -> Iterator[Dal[Sync]]:
        db = open_db(proxy.settings(**options), face, clock, loop)
        try:
            yield db
        finally:
            db.close()

    return open_through


def create(name: str) -> Callable[[Tx[Sync]], str]:
    return lambda tx: str(tx.workflows.create(name, actor="ann").id)


def made(db: Dal[Sync]) -> dict[str, list[str]]:
    """The ids of all workflows, by name."""
    found: dict[str, list[str]] = {}
    for workflow in db.workflows.list(limit=500).items:
        found.setdefault(workflow.name, []).append(str(workflow.id))
    return found


@each_face
@each_loss
def test_with_a_key_a_lost_commit_takes_effect_exactly_once(
    postgres_url: str,
    postgres_db: Dal[Sync],
    opened: Open,
    face: Face,
    loss: Loss,
    tally: Callable[[str], Tally],
    rounds: Callable[[int, int], int],
) -> None:
    row = tally(f"B56 COMMIT lost {loss}, with a key, {face}")
    answers: dict[str, str] = {}
    with Proxy(postgres_url) as proxy, opened(proxy, face) as db:
        for number in range(rounds(5, 200)):
            proxy.lose_commit(loss)
            begun = time.monotonic()
            answers[f"{number}"] = db.transact(create(f"{number}"), key=f"k{number}")
            row.recoveries.append(time.monotonic() - begun)
            row.rounds += 1
        assert proxy.losses == row.rounds
        assert answers["0"] == db.transact(create("0"), key="k0")
    found = made(postgres_db)
    row.lost = sum(answer not in found.get(name, []) for name, answer in answers.items())
    row.doubled = sum(len(ids) - 1 for ids in found.values())
    row.check()


@each_face
@each_loss
def test_without_a_key_a_lost_commit_is_told_as_unknown_and_not_repeated(
    postgres_url: str, postgres_db: Dal[Sync], opened: Open, face: Face, loss: Loss
) -> None:
    with Proxy(postgres_url) as proxy, opened(proxy, face) as db:
        proxy.lose_commit(loss)
        with pytest.raises(OutcomeUnknown):
            db.transact(create("once"))
        assert proxy.losses == 1
    kept = {"before it arrived": {0}, "while it ran": {0, 1}, "after it was done": {1}}
    assert len(made(postgres_db).get("once", [])) in kept[loss]


@each_face
@each_loss
def test_a_lost_commit_whose_repeat_cannot_reach_the_server_stays_unknown_until_the_key_is_given_again(
    postgres_url: str, postgres_db: Dal[Sync], opened: Open, face: Face, loss: Loss
) -> None:
    work = create("once")
    limits = {
        "postgres_deadline": 0.6, "postgres_statement_timeout": 0.5, "postgres_lock_timeout": 0.4,
        "postgres_pool_timeout": 0.2,
    }  # fmt: skip
    with Proxy(postgres_url) as proxy, opened(proxy, face, **limits) as db:
        proxy.lose_commit(loss)

        def work_while_the_way_is_being_closed(tx: Tx[Sync]) -> str:
            proxy.stop_listening()
            return work(tx)

        # Unavailable would say that nothing was changed, which nobody knows.
        with pytest.raises(OutcomeUnknown):
            db.transact(work_while_the_way_is_being_closed, key="k")
        assert proxy.losses == 1
    answer = postgres_db.transact(work, key="k")
    assert made(postgres_db) == {"once": [answer]}

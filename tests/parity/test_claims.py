"""Runs as a queue: claims, leases, heartbeats and what happens when a worker is lost, the same in every cell."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from dal import Dal, Invalid, InvalidTransition, LeaseLost, Run, RunNotFound, Sync, Version
from tests.cells import Cell, Clock, MakeDb, together
from tests.parity.make import NOBODY, NOON, a_run, a_version, trail
from tests.parity.processes import claim_all, in_processes


def claimed(db: Dal[Sync], worker: str = "w1", version: Version | None = None, lease_seconds: float = 60) -> Run:
    """A run of its own workflow under a lease."""
    run = a_run(db, version)
    (found,) = db.runs.claim(worker, lease_seconds=lease_seconds, workflow_id=run.workflow_id)
    assert found.id == run.id
    return found


def retry_of(db: Dal[Sync], run: Run, failed_at: datetime) -> Run:
    """The run that does this one again, once it has failed."""
    db.runs.fail(run.id, "no", actor="ann")
    retry = db.triggers.schedule_retry(run.id, failed_at)
    assert retry is not None
    return retry


def ids(runs: Any) -> list[UUID]:
    return [run.id for run in runs]


# --- claim ------------------------------------------------------------------------------------------------------------


def test_a_claimed_run_is_running_under_a_lease(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    run = a_run(db, inputs={"n": 1}, tags=["t"], idempotency_key="k")
    now = clock.advance(seconds=5)
    (found,) = db.runs.claim("worker 1", lease_seconds=90)
    expected = {name: getattr(run, name) for name in run.__struct_fields__}
    expected |= {"status": "running", "started_at": now, "updated_at": now}
    expected |= {"lease_owner": "worker 1", "lease_expires_at": now + timedelta(seconds=90)}
    assert found == Run(**expected)
    assert db.runs.get(run.id) == found
    assert trail(db.runs.events(run.id)) == [(1, "ann", "created"), (2, "worker 1", "claimed")]


def test_the_oldest_runs_are_claimed_first_and_no_more_than_asked_for(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    version = a_version(db)
    runs: list[Run] = []
    for _ in range(5):
        clock.advance(seconds=-1)  # created_at decides, not the order of writing
        runs.insert(0, a_run(db, version))
    clock.set(NOON)
    assert ids(db.runs.claim("w", lease_seconds=1, limit=2)) == ids(runs[:2])
    assert ids(db.runs.claim("w", lease_seconds=1)) == ids(runs[2:3])
    assert ids(db.runs.claim("w", lease_seconds=1, limit=500)) == ids(runs[3:])
    assert db.runs.claim("w", lease_seconds=1, limit=500) == []


def test_the_runs_of_one_workflow_are_claimed_alone_if_asked_for(db: Dal[Sync]) -> None:
    first, mine, last = a_run(db), a_run(db), a_run(db)
    assert ids(db.runs.claim("w", lease_seconds=1, limit=9, workflow_id=mine.workflow_id)) == [mine.id]
    assert db.runs.claim("w", lease_seconds=1, workflow_id=mine.workflow_id) == []
    assert db.runs.claim("w", lease_seconds=1, workflow_id=NOBODY) == []
    assert ids(db.runs.claim("w", lease_seconds=1, limit=9)) == [first.id, last.id]


@pytest.mark.parametrize("of_workflow", [False, True])
def test_a_retry_is_in_line_from_its_time_on_and_not_before(db: Dal[Sync], clock: Clock, of_workflow: bool) -> None:
    clock.set(NOON)
    version = a_version(db)
    chosen = {"workflow_id": version.workflow_id if of_workflow else None}
    db.triggers.set_retry_policy(version.workflow_id, actor="ann", initial_delay_seconds=30, jitter_factor=0)
    retry = retry_of(db, a_run(db, version), NOON)
    assert retry.retry_at == NOON + timedelta(seconds=30)
    clock.set(NOON + timedelta(seconds=30) - timedelta(microseconds=1))
    younger = a_run(db, version)
    assert ids(db.runs.claim("w", lease_seconds=1, limit=9, **chosen)) == [younger.id]
    later = a_run(db, version)
    clock.advance(seconds=60)
    latest = a_run(db, version)
    assert ids(db.runs.claim("w", lease_seconds=1, limit=9, **chosen)) == [later.id, retry.id, latest.id]


@pytest.mark.parametrize("of_workflow", [False, True])
def test_runs_from_a_clock_that_was_ahead_are_claimed_last(db: Dal[Sync], clock: Clock, of_workflow: bool) -> None:
    version = a_version(db)
    chosen = {"workflow_id": version.workflow_id if of_workflow else None}
    clock.set(NOON + timedelta(hours=1))
    ahead = [a_run(db, version) for _ in range(3)]
    waiting = retry_of(db, a_run(db, version), clock())
    clock.set(NOON)
    usual = a_run(db, version)
    assert ids(db.runs.claim("w", lease_seconds=1, limit=3, **chosen)) == [usual.id, *ids(ahead[:2])]
    assert ids(db.runs.claim("w", lease_seconds=1, limit=9, **chosen)) == [ahead[2].id]
    clock.set(NOON + timedelta(hours=2))
    assert ids(db.runs.claim("w", lease_seconds=1, limit=9, **chosen)) == [waiting.id]


def test_only_pending_runs_are_claimed(db: Dal[Sync]) -> None:
    version = a_version(db)
    started, failed, cancelled = (a_run(db, version) for _ in range(3))
    db.runs.start(started.id, actor="ann")
    db.runs.fail(failed.id, "no", actor="ann")
    db.runs.cancel(cancelled.id, actor="ann")
    assert db.runs.claim("w", lease_seconds=1, limit=9) == []
    assert trail(db.runs.events(cancelled.id)) == [(1, "ann", "created"), (2, "ann", "cancelled")]


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"worker": ""}, "worker"), ({"worker": "w" * 513}, "worker"), ({"worker": None}, "worker"),
        ({"lease_seconds": 0}, "lease_seconds"), ({"lease_seconds": -1}, "lease_seconds"),
        ({"lease_seconds": 86_401}, "lease_seconds"), ({"lease_seconds": float("nan")}, "lease_seconds"),
        ({"lease_seconds": True}, "lease_seconds"), ({"lease_seconds": "60"}, "lease_seconds"),
        ({"limit": 0}, "limit"), ({"limit": 501}, "limit"), ({"limit": True}, "limit"),
        ({"workflow_id": "x"}, "workflow_id"), ({"lease_seconds": 1e-9}, "lease_seconds"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_a_claim_refuses_what_makes_no_sense(db: Dal[Sync], given: dict[str, Any], path: str) -> None:
    run = a_run(db)
    with pytest.raises(Invalid) as refused:
        db.runs.claim(**{"worker": "w", "lease_seconds": 60, **given})
    assert refused.value.path == path
    assert db.runs.get(run.id) == run


def test_8_workers_claim_each_of_1000_runs_once(db: Dal[Sync], make_db: MakeDb, cell: Cell, url: str) -> None:
    version = a_version(db)
    made: list[Run] = []
    for _ in range(10):
        made += db.triggers.dispatch_manual(version.workflow_id, [(None, n) for n in range(100)], actor="ann")
    in_threads = [make_db(), make_db(face="async"), make_db(face="sync"), db]

    def work() -> Any:
        answers: list[Any] = together([lambda at=at: claim_all(in_threads[at], f"thread {at}") for at in range(4)])  # type: ignore[misc]
        return [run for answer in answers for run in answer]

    # Four threads and tasks here, and one worker in each of four processes.
    here, there = together([work, lambda: [run for answer in in_processes(url, cell.face, claim_all, "process", 1)
                                           for run in answer]])  # fmt: skip
    assert isinstance(here, list), here
    assert isinstance(there, list), there
    counts = Counter([*here, *there])
    assert set(counts) == {str(run.id) for run in made}
    assert set(counts.values()) == {1}, (
        f"{sum(count > 1 for count in counts.values())} runs were claimed more than once"
    )
    assert all(event == [(1, "ann", "created"), (2, event[1][1], "claimed")]
               for event in (trail(db.runs.events(run.id)) for run in made[::50]))  # fmt: skip
    assert db.runs.counts(version.workflow_id)["running"] == 1000, json.dumps(db.runs.counts(version.workflow_id))


# --- the owner of a lease ---------------------------------------------------------------------------------------------

End = Callable[[Dal[Sync], Run, "str | None"], Run]
ENDS: dict[str, End] = {
    "succeeded": lambda db, run, worker: db.runs.succeed(run.id, {"sum": 3}, actor="bob", worker=worker),
    "failed": lambda db, run, worker: db.runs.fail(run.id, "no route", actor="bob", worker=worker),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_owner_of_a_lease_ends_the_run_and_the_lease_with_it(db: Dal[Sync], clock: Clock, end: str) -> None:
    clock.set(NOON)
    run = claimed(db)
    now = clock.advance(seconds=1)
    ended = ENDS[end](db, run, "w1")
    assert (ended.status, ended.lease_owner, ended.lease_expires_at) == (end, None, None)
    assert (ended.started_at, ended.completed_at) == (NOON, now)
    assert db.runs.get(run.id) == ended
    assert trail(db.runs.events(run.id))[2:] == [(3, "bob", end)]


@pytest.mark.parametrize("worker", [None, "w2", "W1", "w1 "])
@pytest.mark.parametrize("end", ENDS)
def test_nobody_else_ends_a_run_under_a_lease(db: Dal[Sync], end: str, worker: str | None) -> None:
    run = claimed(db)
    with pytest.raises(LeaseLost) as refused:
        ENDS[end](db, run, worker)
    assert refused.value.found == "running"
    assert db.runs.get(run.id) == run
    assert len(db.runs.events(run.id).items) == 2


def test_a_lease_that_has_run_out_is_its_owners_until_somebody_notices(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    run = claimed(db, lease_seconds=10)
    clock.advance(hours=1)
    renewed = db.runs.heartbeat(run.id, "w1", lease_seconds=10)
    assert renewed.lease_expires_at == NOON + timedelta(hours=1, seconds=10)
    clock.advance(hours=1)
    assert db.runs.succeed(run.id, actor="w1", worker="w1").status == "succeeded"


@pytest.mark.parametrize("end", ENDS)
def test_a_worker_without_a_lease_ends_nothing(db: Dal[Sync], end: str) -> None:
    started = db.runs.start(a_run(db).id, actor="ann")
    with pytest.raises(LeaseLost) as refused:
        ENDS[end](db, started, "w1")
    assert refused.value.found == "running"
    pending = a_run(db)
    with pytest.raises(LeaseLost) as refused:
        ENDS[end](db, pending, "w1")
    assert refused.value.found == "pending"
    assert (db.runs.get(started.id), db.runs.get(pending.id)) == (started, pending)
    assert ENDS[end](db, started, None).status == end


@pytest.mark.parametrize("end", ENDS)
def test_a_worker_is_told_the_end_that_its_run_has_had_already(db: Dal[Sync], end: str) -> None:
    run = claimed(db)
    cancelled = db.runs.cancel(run.id, "not needed", actor="ann")
    assert (cancelled.status, cancelled.lease_owner, cancelled.lease_expires_at) == ("cancelled", None, None)
    with pytest.raises(InvalidTransition) as refused:
        ENDS[end](db, run, "w1")
    assert refused.value.found == "cancelled"
    with pytest.raises(LeaseLost) as lost:
        db.runs.heartbeat(run.id, "w1", lease_seconds=10)
    assert lost.value.found == "cancelled"
    assert db.runs.get(run.id) == cancelled


def test_a_heartbeat_moves_the_end_of_the_lease_and_nothing_else(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    run = claimed(db)
    now = clock.advance(seconds=30)
    renewed = db.runs.heartbeat(run.id, "w1", lease_seconds=0.5)
    expected = {name: getattr(run, name) for name in run.__struct_fields__}
    assert renewed == Run(**expected | {"lease_expires_at": now + timedelta(seconds=0.5), "updated_at": now})
    assert db.runs.get(run.id) == renewed
    assert len(db.runs.events(run.id).items) == 2, "a heartbeat is no event"


def test_a_heartbeat_of_another_worker_is_refused(db: Dal[Sync]) -> None:
    run, started, pending = claimed(db), db.runs.start(a_run(db).id, actor="ann"), a_run(db)
    for target, worker, found in [(run, "w2", "running"), (started, "w1", "running"), (pending, "w1", "pending")]:
        with pytest.raises(LeaseLost, match=str(target.id)) as refused:
            db.runs.heartbeat(target.id, worker, lease_seconds=10)
        assert refused.value.found == found
        assert db.runs.get(target.id) == target


def test_a_run_that_there_is_not_has_no_lease(db: Dal[Sync]) -> None:
    with pytest.raises(RunNotFound, match=str(NOBODY)):
        db.runs.heartbeat(NOBODY, "w1", lease_seconds=10)
    with pytest.raises(RunNotFound):
        db.runs.succeed(NOBODY, actor="w1", worker="w1")
    with pytest.raises(RunNotFound):
        db.runs.fail(NOBODY, "e", actor="w1", worker="w1")


@pytest.mark.parametrize("worker", ["", "w" * 513, 5])
def test_a_worker_has_a_name(db: Dal[Sync], worker: Any) -> None:
    run = claimed(db)
    calls: list[Callable[[], Run]] = [
        lambda: db.runs.succeed(run.id, actor="ann", worker=worker),
        lambda: db.runs.fail(run.id, "e", actor="ann", worker=worker),
        lambda: db.runs.heartbeat(run.id, worker, lease_seconds=10),
    ]
    for call in calls:
        with pytest.raises(Invalid) as refused:
            call()
        assert refused.value.path == "worker"
    assert db.runs.get(run.id) == run


# --- lost workers -----------------------------------------------------------------------------------------------------


def test_a_run_whose_lease_has_run_out_waits_again_with_its_attempt(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    run = claimed(db, lease_seconds=10)
    clock.advance(seconds=10, microseconds=-1)
    assert db.runs.requeue_expired() == []
    now = clock.advance(microseconds=1)
    (requeued,) = db.runs.requeue_expired(actor="janitor")
    expected = {name: getattr(run, name) for name in run.__struct_fields__}
    expected |= {"status": "pending", "lease_owner": None, "lease_expires_at": None, "started_at": None}
    assert requeued == Run(**expected | {"updated_at": now})
    assert db.runs.get(run.id) == requeued
    event = db.runs.events(run.id).items[-1]
    assert (event.number, event.actor, event.action, event.metadata) == (3, "janitor", "requeued", {"worker": "w1"})
    with pytest.raises(LeaseLost) as refused:
        db.runs.succeed(run.id, actor="w1", worker="w1")
    assert refused.value.found == "pending"
    (again,) = db.runs.claim("w2", lease_seconds=10)
    assert (again.id, again.attempt, again.started_at) == (run.id, 1, now)
    with pytest.raises(LeaseLost):
        db.runs.heartbeat(run.id, "w1", lease_seconds=10)
    assert db.runs.succeed(run.id, actor="w2", worker="w2").status == "succeeded"


def test_the_longest_expired_are_requeued_first_at_the_time_that_is_told(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    runs = [claimed(db, lease_seconds=seconds) for seconds in (30, 10, 20, 40)]
    db.runs.start(a_run(db).id, actor="ann")
    at = NOON + timedelta(seconds=30)
    assert ids(db.runs.requeue_expired(at, 2)) == sorted([runs[1].id, runs[2].id])
    assert ids(db.runs.requeue_expired(at, 2)) == [runs[0].id]
    assert db.runs.requeue_expired(at, 2) == []
    assert db.runs.get(runs[3].id) == runs[3]


@pytest.mark.parametrize("given", [{"limit": 0}, {"limit": 501}, {"actor": ""}, {"now": datetime(2026, 1, 1)}], ids=str)
def test_requeueing_refuses_what_makes_no_sense(db: Dal[Sync], given: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as refused:
        db.runs.requeue_expired(**given)
    assert refused.value.path == next(iter(given))


def test_of_an_owner_and_the_requeuers_one_has_the_run(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    version = a_version(db)
    for number in range(40):
        run = claimed(db, version=version, lease_seconds=10)
        clock.advance(seconds=10)
        answers: list[object] = together([
            lambda run=run: db.runs.succeed(run.id, actor="w1", worker="w1"),  # type: ignore[misc]
            db.runs.requeue_expired,
            db.runs.requeue_expired,
        ])  # fmt: skip
        requeued = [found for answer in answers[1:] if isinstance(answer, list) for found in answer]
        if isinstance(answers[0], Run):
            assert requeued == [], f"round {number}"
            assert db.runs.get(run.id).status == "succeeded"
        else:
            assert isinstance(answers[0], LeaseLost), f"round {number}: {answers}"
            assert ids(requeued) == [run.id], f"round {number}: {answers}"
            db.runs.cancel(run.id, actor="ann")
        assert len(db.runs.events(run.id).items) <= 4


# --- counts -----------------------------------------------------------------------------------------------------------


def test_runs_are_counted_by_state_and_since_a_time(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    version = a_version(db)
    nothing = dict.fromkeys(("pending", "running", "succeeded", "failed", "cancelled"), 0)
    assert db.runs.counts(version.workflow_id) == nothing
    for _ in range(3):
        a_run(db, version)
    db.runs.cancel(a_run(db, version).id, actor="ann")
    later = clock.advance(seconds=1)
    db.runs.start(a_run(db, version).id, actor="ann")
    a_run(db)
    assert db.runs.counts(version.workflow_id) == {**nothing, "pending": 3, "cancelled": 1, "running": 1}
    assert db.runs.counts(version.workflow_id, later) == {**nothing, "running": 1}
    assert db.runs.counts(version.workflow_id, later + timedelta(microseconds=1)) == nothing
    assert db.runs.counts(version.workflow_id, datetime(1, 1, 1, tzinfo=UTC))["pending"] == 3
    assert db.runs.counts(NOBODY) == nothing

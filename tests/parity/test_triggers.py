"""Retries and runs that people start, the same in every cell."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from dal import (
    Dal,
    Invalid,
    InvalidTransition,
    RetryPolicy,
    Run,
    RunNotFound,
    Sync,
    Version,
    VersionNotFound,
    WorkflowArchived,
    WorkflowNotFound,
)
from dal.stores.retries import retry_delay
from tests.cells import Clock, MakeDb, together
from tests.parity.make import NOBODY, NOON, a_run, a_version, a_workflow, trail


def a_failed_run(db: Dal[Sync], version: Version | None = None, **given: Any) -> Run:
    return db.runs.fail(a_run(db, version, **given).id, "no route", actor="ann")


def a_version_with(db: Dal[Sync], **policy: Any) -> Version:
    """A version of a workflow that has this policy."""
    version = a_version(db)
    db.triggers.set_retry_policy(version.workflow_id, actor="ann", **policy)
    return version


# --- policies ---------------------------------------------------------------------------------------------------------


def test_a_workflow_has_the_default_policy_until_it_is_given_one(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    workflow = a_workflow(db)
    default = db.triggers.get_retry_policy(workflow.id)
    assert default == RetryPolicy(
        workflow_id=workflow.id, max_attempts=3, initial_delay_seconds=30.0, backoff_factor=2.0,
        max_delay_seconds=300.0,
        jitter_factor=0.1, created_at=None, created_by=None, updated_at=None,
    )  # fmt: skip
    own = db.triggers.set_retry_policy(
        workflow.id, actor="bob", max_attempts=5, initial_delay_seconds=1, backoff_factor=1, max_delay_seconds=None,
        jitter_factor=0,
    )  # fmt: skip
    assert own == RetryPolicy(workflow.id, 5, 1.0, 1.0, None, 0.0, NOON, "bob", NOON)
    assert db.triggers.get_retry_policy(workflow.id) == own
    assert trail(db.workflows.events(workflow.id))[-1] == (2, "bob", "retry_policy_set")
    later = clock.advance(seconds=1)
    again = db.triggers.set_retry_policy(workflow.id, actor="eve")
    assert again == RetryPolicy(workflow.id, created_at=NOON, created_by="bob", updated_at=later)
    assert db.triggers.get_retry_policy(workflow.id) == again
    assert all(
        type(getattr(again, name)) is float for name in ("initial_delay_seconds", "backoff_factor", "jitter_factor")
    )


def test_a_policy_needs_a_workflow_that_is_not_archived(db: Dal[Sync]) -> None:
    for call in (db.triggers.get_retry_policy, partial(db.triggers.set_retry_policy, actor="ann")):
        with pytest.raises(WorkflowNotFound, match=str(NOBODY)):
            call(NOBODY)
    workflow = a_workflow(db)
    db.workflows.archive(workflow.id, actor="ann")
    with pytest.raises(WorkflowArchived):
        db.triggers.set_retry_policy(workflow.id, actor="ann")
    assert db.triggers.get_retry_policy(workflow.id) == RetryPolicy(workflow.id)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"max_attempts": 0}, "max_attempts"), ({"max_attempts": 1001}, "max_attempts"),
        ({"max_attempts": 1.0}, "max_attempts"),
        ({"initial_delay_seconds": -1}, "initial_delay_seconds"),
        ({"initial_delay_seconds": "1"}, "initial_delay_seconds"),
        ({"initial_delay_seconds": float("nan")}, "initial_delay_seconds"), ({"backoff_factor": 0.9}, "backoff_factor"),
        ({"backoff_factor": float("inf")}, "backoff_factor"), ({"backoff_factor": True}, "backoff_factor"),
        ({"max_delay_seconds": 29}, "max_delay_seconds"), ({"max_delay_seconds": 1e9}, "max_delay_seconds"),
        ({"jitter_factor": 1.1}, "jitter_factor"), ({"jitter_factor": -0.1}, "jitter_factor"), ({"actor": ""}, "actor"),
        ({"initial_delay_seconds": 10**400}, "initial_delay_seconds"),
    ],
    ids=lambda value: str(value)[:50],
)  # fmt: skip
def test_a_policy_refuses_what_cannot_be_one(db: Dal[Sync], given: dict[str, Any], path: str) -> None:
    workflow = a_workflow(db)
    with pytest.raises(Invalid) as refused:
        db.triggers.set_retry_policy(workflow.id, **{"actor": "ann", **given})
    assert refused.value.path == path
    assert len(db.workflows.events(workflow.id).items) == 1


# --- retries ----------------------------------------------------------------------------------------------------------


def test_a_retry_is_the_failed_run_again_with_its_next_attempt(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    version = a_version_with(db, initial_delay_seconds=10, jitter_factor=0)
    failed = a_failed_run(
        db, version, inputs={"n": [1, None, 2.5]}, runnable_config={"limit": 5}, tags=["t"], callbacks=[{"u": 1}],
        metadata={"m": 1}, name="März", triggered_by="mail", idempotency_key="k",
    )  # fmt: skip
    now = clock.advance(seconds=3)
    retry = db.triggers.schedule_retry(failed.id, NOON + timedelta(seconds=1), actor="beat")
    assert retry is not None
    expected = {name: getattr(failed, name) for name in failed.__struct_fields__}
    expected |= {"id": retry.id, "status": "pending", "error": None, "completed_at": None, "idempotency_key": None}
    expected |= {"attempt": 2, "retry_of": failed.id, "retry_at": NOON + timedelta(seconds=11)}
    assert retry == Run(**expected | {"created_at": now, "updated_at": now})
    assert db.runs.get(retry.id) == retry
    assert db.runs.get(failed.id) == failed
    assert trail(db.runs.events(retry.id)) == [(1, "beat", "created")]


def test_asking_twice_for_a_retry_answers_the_same(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    version = a_version_with(db)
    failed = a_failed_run(db, version)
    retry = db.triggers.schedule_retry(failed.id, NOON)
    clock.advance(hours=1)
    assert db.triggers.schedule_retry(failed.id, clock()) == retry
    assert retry is not None
    started = db.runs.start(retry.id, actor="ann")
    db.triggers.set_retry_policy(version.workflow_id, actor="ann", max_attempts=1)
    db.workflows.archive(version.workflow_id, actor="ann")
    assert db.triggers.schedule_retry(failed.id, clock()) == started, "whatever has changed since"
    assert len(db.runs.list(version.workflow_id).items) == 2


def test_32_who_ask_at_once_for_a_retry_get_one(db: Dal[Sync], make_db: MakeDb) -> None:
    version = a_version(db)
    dbs = [db, make_db(face="sync"), make_db(face="async")]
    for number in range(5):
        failed = a_failed_run(db, version)
        answers = together([partial(dbs[at % 3].triggers.schedule_retry, failed.id, NOON) for at in range(32)])
        assert all(isinstance(answer, Run) for answer in answers), f"round {number}: {answers}"
        assert len({answer.id for answer in answers if isinstance(answer, Run)}) == 1, f"round {number}"
    assert len(db.runs.list(version.workflow_id).items) == 10


def test_there_is_no_retry_after_the_last_attempt(db: Dal[Sync]) -> None:
    run, attempts = a_failed_run(db), []
    while retry := db.triggers.schedule_retry(run.id, NOON):
        attempts.append(retry.attempt)
        run = db.runs.fail(retry.id, "no", actor="ann")
    assert attempts == [2, 3], "three attempts by default, the first one counts"
    assert db.triggers.schedule_retry(run.id, NOON) is None
    assert len(db.runs.list(run.workflow_id).items) == 3
    db.triggers.set_retry_policy(run.workflow_id, actor="ann", max_attempts=4)
    more = db.triggers.schedule_retry(run.id, NOON)
    assert more is not None
    assert more.attempt == 4
    only = a_failed_run(db, a_version_with(db, max_attempts=1))
    assert db.triggers.schedule_retry(only.id, NOON) is None


def test_each_attempt_waits_longer_up_to_the_most(db: Dal[Sync]) -> None:
    version = a_version_with(db, max_attempts=9, initial_delay_seconds=1.5, backoff_factor=3, max_delay_seconds=50,
                             jitter_factor=0)  # fmt: skip
    run, waits = a_failed_run(db, version), []
    while retry := db.triggers.schedule_retry(run.id, NOON):
        assert retry.retry_at is not None
        waits.append((retry.retry_at - NOON).total_seconds())
        run = db.runs.fail(retry.id, "no", actor="ann")
    assert waits == [1.5, 4.5, 13.5, 40.5, 50, 50, 50, 50]


def test_jitter_spreads_retries_and_is_each_runs_own(db: Dal[Sync]) -> None:
    version = a_version_with(db, initial_delay_seconds=100, jitter_factor=0.2)
    waits = []
    for _ in range(40):
        failed = a_failed_run(db, version)
        retry = db.triggers.schedule_retry(failed.id, NOON)
        assert retry is not None
        assert retry.retry_at is not None
        waits.append((retry.retry_at - NOON).total_seconds())
        policy = db.triggers.get_retry_policy(version.workflow_id)
        assert retry.retry_at - NOON == retry_delay(policy, failed.id, 1)
    assert all(80 <= wait <= 120 for wait in waits), waits
    assert len(set(waits)) == 40
    assert min(waits) < 95 < 105 < max(waits)


def test_a_delay_of_any_policy_stays_below_two_years() -> None:
    wild = RetryPolicy(NOBODY, 1000, 31_536_000.0, 100.0, None, 1.0)
    assert all(retry_delay(wild, UUID(int=n), 1000) <= timedelta(days=730) for n in range(100))


@pytest.mark.parametrize("state", ["pending", "running", "succeeded", "cancelled"])
def test_only_a_failed_run_is_retried(db: Dal[Sync], state: str) -> None:
    run = a_run(db)
    if state in ("running", "succeeded"):
        db.runs.start(run.id, actor="ann")
    if state == "succeeded":
        db.runs.succeed(run.id, actor="ann")
    if state == "cancelled":
        db.runs.cancel(run.id, actor="ann")
    with pytest.raises(InvalidTransition, match=str(run.id)) as refused:
        db.triggers.schedule_retry(run.id, NOON)
    assert refused.value.found == state
    assert len(db.runs.list(run.workflow_id).items) == 1


def test_an_archived_workflow_and_an_unknown_run_have_no_retry(db: Dal[Sync]) -> None:
    failed = a_failed_run(db)
    db.workflows.archive(failed.workflow_id, actor="ann")
    with pytest.raises(WorkflowArchived):
        db.triggers.schedule_retry(failed.id, NOON)
    with pytest.raises(RunNotFound, match=str(NOBODY)):
        db.triggers.schedule_retry(NOBODY, NOON)


@pytest.mark.parametrize("given", [{"failed_at": datetime(2026, 1, 1)}, {"failed_at": None}, {"actor": ""},
                                   {"failed_at": datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)}], ids=str)  # fmt: skip
def test_a_retry_refuses_what_makes_no_sense(db: Dal[Sync], given: dict[str, Any]) -> None:
    failed = a_failed_run(db)
    with pytest.raises(Invalid) as refused:
        db.triggers.schedule_retry(failed.id, **{"failed_at": NOON, **given})
    assert refused.value.path == next(iter(given))
    assert len(db.runs.list(failed.workflow_id).items) == 1


# --- runs that people start -------------------------------------------------------------------------------------------


def test_runs_are_dispatched_in_the_order_given(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    first = a_version(db, runnable_config={"v": 1})
    latest = a_version(db, db.workflows.get(first.workflow_id), runnable_config={"v": 2})
    inputs: list[Any] = [{"a": [1, None]}, None, "text", "", 0, 1.0, True, [], "2", 1e16, {"\u2028": "\\u0000"}]
    asked = [(first.id if at % 2 else None, value) for at, value in enumerate(inputs)]
    runs = db.triggers.dispatch_manual(first.workflow_id, asked, actor="bob", label="by hand")
    assert [(type(run.inputs), run.inputs) for run in runs] == [(type(value), value) for value in inputs]
    assert [run.version_id for run in runs] == [first.id if at % 2 else latest.id for at in range(len(inputs))]
    assert runs[0] == Run(
        id=runs[0].id, workflow_id=first.workflow_id, version_id=latest.id, status="pending", triggered_by="by hand",
        inputs={"a": [1, None]}, runnable_config={"v": 2}, tags=(), callbacks=[], metadata={}, name=None, output=None,
        error=None, attempt=1, retry_of=None, retry_at=None, idempotency_key=None, lease_owner=None,
        lease_expires_at=None, created_at=NOON, started_at=None, completed_at=None, updated_at=NOON,
    )  # fmt: skip
    assert [db.runs.get(run.id) for run in runs] == runs
    assert trail(db.runs.events(runs[-1].id)) == [(1, "bob", "created")]
    assert db.triggers.dispatch_manual(first.workflow_id, [(None, 1)], actor="bob")[0].triggered_by == "manual"


def test_100_runs_are_dispatched_at_once(db: Dal[Sync]) -> None:
    version = a_version(db)
    runs = db.triggers.dispatch_manual(version.workflow_id, [(None, n) for n in range(100)], actor="bob")
    assert [run.inputs for run in runs] == list(range(100))
    assert len(db.runs.list(version.workflow_id, limit=500).items) == 100


def test_runs_are_dispatched_all_or_none(db: Dal[Sync]) -> None:
    version, other = a_version(db), a_version(db)
    for missing in (other.id, NOBODY):
        asked: Sequence[Any] = [(None, 1), (version.id, 2), (missing, 3), (UUID(int=1), 4)]
        with pytest.raises(VersionNotFound, match=str(missing)):
            db.triggers.dispatch_manual(version.workflow_id, asked, actor="bob")
    assert db.runs.list(version.workflow_id).items == []
    with pytest.raises(VersionNotFound, match="latest"):
        db.triggers.dispatch_manual(a_workflow(db).id, [(None, 1)], actor="bob")
    with pytest.raises(WorkflowNotFound, match=str(NOBODY)):
        db.triggers.dispatch_manual(NOBODY, [(None, 1)], actor="bob")
    db.workflows.archive(version.workflow_id, actor="ann")
    with pytest.raises(WorkflowArchived):
        db.triggers.dispatch_manual(version.workflow_id, [(None, 1)], actor="bob")
    assert db.runs.list(version.workflow_id).items == []


DEEP: Any = []
for _ in range(199):
    DEEP = [DEEP]


def test_inputs_of_a_dispatch_may_be_as_deep_as_any(db: Dal[Sync]) -> None:
    version = a_version(db)
    (run,) = db.triggers.dispatch_manual(version.workflow_id, [(None, DEEP)], actor="bob")
    assert run.inputs == DEEP
    assert a_run(db, version, inputs=run.inputs).inputs == DEEP


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"runs": []}, "runs"), ({"runs": [(None, 1)] * 101}, "runs"), ({"runs": None}, "runs"),
        ({"runs": "ab"}, "runs"),
        ({"runs": [(None, 1), (None,)]}, "runs[1]"), ({"runs": [5]}, "runs[0]"), ({"runs": ["ab"]}, "runs[0]"),
        ({"runs": [("x", 1)]}, "runs[0][0]"), ({"runs": [(None, {"a": {1}})]}, "runs[0][1].a"),
        ({"runs": [(None, float("nan"))]}, "runs[0][1]"), ({"runs": [(None, "x" * 9_000_000)] * 2}, "runs"),
        ({"runs": [(None, [DEEP])]}, "runs[0][1]" + "[0]" * 200), ({"label": ""}, "label"), ({"actor": ""}, "actor"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_dispatch_refuses_what_makes_no_sense(db: Dal[Sync], given: dict[str, Any], path: str) -> None:
    workflow = a_version(db).workflow_id
    with pytest.raises(Invalid) as refused:
        db.triggers.dispatch_manual(workflow, **{"runs": [(None, 1)], "actor": "bob", **given})
    assert refused.value.path is not None
    assert path.startswith(refused.value.path.removesuffix("…"))
    assert db.runs.list(workflow).items == []

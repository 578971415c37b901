"""Runs: the state machine, idempotency keys and the audit trail, the same in every cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

import pytest

from dal import (
    Dal,
    IdempotencyConflict,
    Invalid,
    InvalidTransition,
    Run,
    RunNotFound,
    RunStatus,
    Sync,
    VersionNotFound,
    WorkflowArchived,
)
from tests.cells import Clock
from tests.parity.make import NOBODY, NOON, a_run, a_version, a_workflow, trail

INPUTS = {"customer": {"id": 7, "name": "Ünal"}, "amounts": [1, 2.5, None, True]}


# --- create -----------------------------------------------------------------------------------------------------------


def test_a_new_run_is_pending_on_the_latest_version_with_sensible_defaults(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    first = a_version(db)
    latest = a_version(db, db.workflows.get(first.workflow_id))
    run = db.runs.create(first.workflow_id, actor="ann")
    assert run == Run(
        id=run.id, workflow_id=first.workflow_id, version_id=latest.id, status="pending", triggered_by="ann", inputs={},
        runnable_config=None, tags=(), callbacks=[], metadata={}, name=None, output=None, error=None, attempt=1,
        retry_of=None, retry_at=None, idempotency_key=None, lease_owner=None, lease_expires_at=None, created_at=NOON,
        started_at=None, completed_at=None, updated_at=NOON,
    )  # fmt: skip
    assert run.id.version == 7
    assert db.runs.get(run.id) == run


def test_everything_given_comes_back_as_it_was(db: Dal[Sync]) -> None:
    version = a_version(db)
    a_version(db, db.workflows.get(version.workflow_id))
    run = db.runs.create(
        version.workflow_id,
        actor="ann",
        version_id=version.id,
        inputs=INPUTS,
        runnable_config={"recursion_limit": 5},
        tags=["B", "a", "b"],
        callbacks=[{"url": "https://example.org/?a=1&b=%20"}],
        metadata={"source": "mail"},
        name="März",
        triggered_by="cron",
        idempotency_key="order 7",
    )
    given = (run.version_id, run.inputs, run.runnable_config, run.tags, run.callbacks, run.metadata, run.name)
    assert given == (
        version.id, INPUTS, {"recursion_limit": 5}, ("b", "a"), [{"url": "https://example.org/?a=1&b=%20"}],
        {"source": "mail"}, "März",
    )  # fmt: skip
    assert (run.triggered_by, run.idempotency_key) == ("cron", "order 7")
    assert db.runs.get(run.id) == run
    assert db.runs.list(version.workflow_id).items == [run]


def test_the_runnable_config_is_the_versions_unless_given(db: Dal[Sync]) -> None:
    version = a_version(db, runnable_config={"limit": 1})
    assert a_run(db, version).runnable_config == {"limit": 1}
    assert a_run(db, version, runnable_config={}).runnable_config == {}
    assert a_run(db, version, runnable_config={"limit": 2}).runnable_config == {"limit": 2}
    earlier = a_run(db, version)
    db.versions.set_runnable_config(version.workflow_id, 1, {"limit": 3}, actor="ann")
    assert a_run(db, version).runnable_config == {"limit": 3}
    assert db.runs.get(earlier.id).runnable_config == {"limit": 1}


@pytest.mark.parametrize("inputs", [0, "", False, [], [None], 1e16], ids=repr)
def test_inputs_and_output_may_be_any_json_value(db: Dal[Sync], inputs: object) -> None:
    run = a_run(db, inputs=inputs)
    db.runs.start(run.id, actor="ann")
    db.runs.succeed(run.id, inputs, actor="ann")
    stored = db.runs.get(run.id)
    for value in (run.inputs, stored.inputs, stored.output):
        assert (value, type(value)) == (inputs, type(inputs))


def test_a_run_needs_a_version_of_its_own_workflow(db: Dal[Sync]) -> None:
    mine, other = a_version(db), a_version(db)
    for version_id in (other.id, NOBODY):
        with pytest.raises(VersionNotFound, match=str(version_id)):
            db.runs.create(mine.workflow_id, version_id=version_id, actor="ann")
    with pytest.raises(VersionNotFound):
        db.runs.create(a_workflow(db).id, actor="ann")
    assert db.runs.list(mine.workflow_id).items == []


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"actor": ""}, "triggered_by"), ({"triggered_by": "t" * 513}, "triggered_by"), ({"tags": "x"}, "tags"),
        ({"actor": "", "triggered_by": "cron"}, "actor"), ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": "k" * 513}, "idempotency_key"), ({"inputs": {"a": {1}}}, "inputs.a"),
        ({"inputs": {1: 2}}, "inputs"), ({"callbacks": float("inf")}, "callbacks"),
        ({"metadata": "\ud800"}, "metadata"), ({"name": 5}, "name"), ({"name": "a\0"}, "name"),
        ({"version_id": "x"}, "version_id"),
        ({"runnable_config": {"x": 2**64}}, "runnable_config.x"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)  # fmt: skip
def test_a_run_refuses_what_a_field_cannot_hold(db: Dal[Sync], given: dict[str, Any], path: str) -> None:
    workflow = a_version(db).workflow_id
    with pytest.raises(Invalid) as refused:
        db.runs.create(workflow, **{"actor": "ann", **given})
    assert refused.value.path == path
    assert db.runs.list(workflow).items == []


# --- the state machine ------------------------------------------------------------------------------------------------

Act = Callable[[Dal[Sync], Run], Run]
ACTS: Mapping[RunStatus, Act] = {
    "running": lambda db, run: db.runs.start(run.id, actor="bob"),
    "succeeded": lambda db, run: db.runs.succeed(run.id, {"sum": 3}, actor="bob"),
    "failed": lambda db, run: db.runs.fail(run.id, "no route to host", actor="bob"),
    "cancelled": lambda db, run: db.runs.cancel(run.id, "not needed", actor="bob"),
}
PATHS: Mapping[RunStatus, list[RunStatus]] = {
    "pending": [],
    "running": ["running"],
    "succeeded": ["running", "succeeded"],
    "failed": ["running", "failed"],
    "cancelled": ["cancelled"],
}
ALLOWED: set[tuple[RunStatus, RunStatus]] = {
    ("pending", "running"),
    ("pending", "failed"),
    ("pending", "cancelled"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "cancelled"),
}


def test_the_table_of_transitions_knows_every_state() -> None:
    assert set(PATHS) == set(get_args(RunStatus)) == {"pending", *ACTS}


@pytest.mark.parametrize("wanted", ACTS)
@pytest.mark.parametrize("state", PATHS)
def test_every_transition_is_made_or_refused_with_the_state_found(
    db: Dal[Sync], clock: Clock, state: RunStatus, wanted: RunStatus
) -> None:
    clock.set(NOON)
    run = a_run(db, inputs=INPUTS, idempotency_key="k")
    for step in PATHS[state]:
        clock.advance(seconds=1)
        run = ACTS[step](db, run)
    events = trail(db.runs.events(run.id))
    now = clock.advance(seconds=1)
    if (state, wanted) not in ALLOWED:
        with pytest.raises(InvalidTransition) as refused:
            ACTS[wanted](db, run)
        assert refused.value.found == state
        assert db.runs.get(run.id) == run
        assert trail(db.runs.events(run.id)) == events
        return
    changed = ACTS[wanted](db, run)
    expected = {name: getattr(run, name) for name in run.__struct_fields__}
    expected |= {"status": wanted, "updated_at": now}
    expected |= {"started_at": now} if wanted == "running" else {"completed_at": now}
    expected |= {"output": {"sum": 3}} if wanted == "succeeded" else {}
    expected |= {"error": {"failed": "no route to host", "cancelled": "not needed"}.get(wanted)}
    assert changed == Run(**expected)
    assert db.runs.get(run.id) == changed
    action = "started" if wanted == "running" else wanted
    assert trail(db.runs.events(run.id)) == [*events, (len(events) + 1, "bob", action)]


def test_an_unknown_run_is_not_found_by_any_method(db: Dal[Sync]) -> None:
    run = a_run(db)
    unknown = Run(**{name: getattr(run, name) for name in run.__struct_fields__} | {"id": NOBODY})
    get: Act = lambda db, run: db.runs.get(run.id)  # noqa: E731 - as the others
    for act in (*ACTS.values(), get):
        with pytest.raises(RunNotFound, match=str(NOBODY)):
            act(db, unknown)
    assert db.runs.events(NOBODY).items == []
    assert db.runs.list(NOBODY).items == []


def test_an_output_and_a_reason_may_be_left_out(db: Dal[Sync]) -> None:
    done, given_up = a_run(db), a_run(db)
    db.runs.start(done.id, actor="ann")
    assert db.runs.succeed(done.id, actor="ann").output is None
    assert db.runs.cancel(given_up.id, actor="ann").error is None


@pytest.mark.parametrize("error", ["", "long " * 100_000, "Ünïcode 🧾\n\tline"], ids=["empty", "long", "unicode"])
def test_an_error_is_kept_as_it_was_told(db: Dal[Sync], error: str) -> None:
    run = a_run(db)
    assert db.runs.fail(run.id, error, actor="ann").error == error
    assert db.runs.get(run.id).error == error


@pytest.mark.parametrize("text", [None, 5, "a\0", "\ud800"])
def test_an_error_is_text(db: Dal[Sync], text: Any) -> None:
    run = a_run(db)
    with pytest.raises(Invalid) as refused:
        db.runs.fail(run.id, text, actor="ann")
    assert refused.value.path == "error"
    if text is not None:
        with pytest.raises(Invalid) as refused:
            db.runs.cancel(run.id, text, actor="ann")
        assert refused.value.path == "reason"
    assert db.runs.get(run.id) == run


@pytest.mark.parametrize("actor", ["", "a" * 513, None])
def test_every_transition_names_an_actor(db: Dal[Sync], actor: Any) -> None:
    run = a_run(db)
    calls: list[Callable[[], Run]] = [
        lambda: db.runs.start(run.id, actor=actor),
        lambda: db.runs.succeed(run.id, actor=actor),
        lambda: db.runs.fail(run.id, "e", actor=actor),
        lambda: db.runs.cancel(run.id, actor=actor),
    ]
    for call in calls:
        with pytest.raises(Invalid) as refused:
            call()
        assert refused.value.path == "actor"
    assert db.runs.get(run.id) == run


def test_a_run_of_an_archived_workflow_goes_on_to_its_end(db: Dal[Sync]) -> None:
    run = a_run(db)
    db.workflows.archive(run.workflow_id, actor="ann")
    db.runs.start(run.id, actor="ann")
    assert db.runs.succeed(run.id, actor="ann").status == "succeeded"


def test_the_trail_of_a_run_has_who_and_when(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    run = a_run(db)
    started = clock.advance(seconds=1)
    db.runs.start(run.id, actor="worker 1")
    failed = clock.advance(seconds=1)
    db.runs.fail(run.id, "e", actor="worker 2")
    events = db.runs.events(run.id).items
    assert [(event.number, event.actor, event.action, event.at, event.metadata) for event in events] == [
        (1, "ann", "created", NOON, {}), (2, "worker 1", "started", started, {}), (3, "worker 2", "failed", failed, {}),
    ]  # fmt: skip


# --- list -------------------------------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first_by_workflow_and_state(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    version = a_version(db)
    a_run(db)
    ids = {}
    for state, path in PATHS.items():
        clock.advance(seconds=-10)  # created_at decides, not the order of writing
        run = a_run(db, version)
        for step in path:
            run = ACTS[step](db, run)
        ids[state] = run.id
    assert [run.id for run in db.runs.list(version.workflow_id).items] == list(ids.values())
    for state, id in ids.items():
        assert [run.id for run in db.runs.list(version.workflow_id, status=state).items] == [id], state


@pytest.mark.parametrize("status", ["Pending", "", "done", 5, b"pending"])
def test_a_list_refuses_a_state_that_there_is_not(db: Dal[Sync], status: Any) -> None:
    with pytest.raises(Invalid) as refused:
        db.runs.list(NOBODY, status=status)
    assert refused.value.path == "status"


# --- idempotency ------------------------------------------------------------------------------------------------------


def test_the_same_key_and_inputs_answer_the_first_run(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    version = a_version(db)
    first = a_run(db, version, inputs={"a": 1, "b": [2]}, idempotency_key="order 7", tags=["first"])
    clock.advance(minutes=1)
    again = db.runs.create(
        version.workflow_id, inputs={"b": [2], "a": 1}, idempotency_key="order 7", actor="bob", tags=["second"]
    )
    assert again == first
    started = db.runs.start(first.id, actor="ann")
    assert a_run(db, version, inputs={"a": 1, "b": [2]}, idempotency_key="order 7") == started
    assert db.runs.list(version.workflow_id).items == [started]
    assert trail(db.runs.events(first.id)) == [(1, "ann", "created"), (2, "ann", "started")]


def test_a_key_used_with_other_inputs_or_another_version_is_a_conflict(db: Dal[Sync]) -> None:
    version = a_version(db)
    second = a_version(db, db.workflows.get(version.workflow_id))
    elsewhere = a_version(db)
    first = a_run(db, version, inputs={"n": 1}, idempotency_key="k")
    others: list[dict[str, Any]] = [
        {"inputs": {"n": 2}}, {"inputs": {"n": 1.0}}, {"inputs": {"n": True}}, {"inputs": {}}, {"inputs": []},
        {"inputs": {"n": 1}, "version_id": second.id}, {"inputs": {"n": 1}, "version_id": elsewhere.id},
        {"inputs": {"n": 1}, "version_id": NOBODY},
    ]  # fmt: skip
    for other in others:
        with pytest.raises(IdempotencyConflict) as refused:
            db.runs.create(version.workflow_id, actor="ann", idempotency_key="k", **other)
        assert refused.value.constraint == "runs_idempotency_key", other
    assert db.runs.list(version.workflow_id).items == [first]


def test_a_key_without_a_version_answers_the_first_run_whatever_is_latest_now(db: Dal[Sync]) -> None:
    version = a_version(db)
    first = db.runs.create(version.workflow_id, idempotency_key="k", actor="ann")
    a_version(db, db.workflows.get(version.workflow_id))
    assert db.runs.create(version.workflow_id, idempotency_key="k", actor="ann") == first


def test_a_key_counts_for_one_workflow_as_it_is_written(db: Dal[Sync]) -> None:
    mine, other = a_version(db), a_version(db)
    runs = [
        a_run(db, version, idempotency_key=key, inputs={"n": n})
        for n, (version, key) in enumerate([(mine, "k"), (other, "k"), (mine, "K"), (mine, " k"), (mine, "%")])
    ]
    assert len({run.id for run in runs}) == 5


def test_runs_without_a_key_are_all_made(db: Dal[Sync]) -> None:
    version = a_version(db)
    assert len({a_run(db, version, inputs={"same": 1}).id for _ in range(3)}) == 3


def test_a_key_answers_its_run_even_after_the_workflow_was_archived(db: Dal[Sync]) -> None:
    version = a_version(db)
    first = a_run(db, version, idempotency_key="k")
    db.workflows.archive(version.workflow_id, actor="ann")
    assert a_run(db, version, idempotency_key="k") == first
    with pytest.raises(WorkflowArchived):
        a_run(db, version, idempotency_key="other")
    with pytest.raises(IdempotencyConflict):
        a_run(db, version, idempotency_key="k", inputs={"other": 1})

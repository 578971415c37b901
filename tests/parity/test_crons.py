"""Schedules: when they fire, what a fire makes, and that it makes it once; the same in every cell."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from dal import Cron, Dal, Invalid, Run, Sync, TriggerNotFound, Version, WorkflowArchived, WorkflowNotFound
from tests.cells import Cell, Clock, MakeDb, together
from tests.parity.make import NOBODY, NOON, a_run, a_version, a_workflow, trail
from tests.parity.processes import dispatch_all, in_processes

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def a_cron(db: Dal[Sync], expression: str = "* * * * *", version: Version | None = None, **given: Any) -> Cron:
    """A schedule of a new workflow that has a version."""
    version = version or a_version(db)
    return db.triggers.set_cron(version.workflow_id, expression, actor="ann", **given)


def fire_times(db: Dal[Sync], clock: Clock, cron: Cron, until: datetime) -> list[datetime]:
    """When a schedule fires if somebody looks in time, each run ended at once."""
    fired = []
    while (at := db.triggers.get_cron(cron.workflow_id).next_fire_at) is not None and at <= until:
        clock.set(at)
        for run in db.triggers.dispatch_due():
            db.runs.cancel(run.id, actor="ann")
            fired.append(at)
            assert db.triggers.get_cron(cron.workflow_id).last_fired_at == at
    return fired


# --- set, get, delete -------------------------------------------------------------------------------------------------


def test_a_schedule_is_stored_with_the_time_of_its_first_fire(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON + timedelta(seconds=1))
    workflow = a_workflow(db)
    cron = db.triggers.set_cron(
        workflow.id, " 30  14 * *  mon-fri ", actor="bob", timezone="Europe/Berlin", allow_overlapping=True,
        start_at=datetime(2026, 3, 4, 9, tzinfo=timezone(HOUR)), end_at=utc("2026-04-01T00:00"),
    )  # fmt: skip
    assert cron == Cron(
        workflow_id=workflow.id, expression="30 14 * * mon-fri", timezone="Europe/Berlin", allow_overlapping=True,
        start_at=utc("2026-03-04T08:00"), end_at=utc("2026-04-01T00:00"), next_fire_at=utc("2026-03-04T13:30"),
        last_fired_at=None, created_at=clock(), created_by="bob", updated_at=clock(),
    )  # fmt: skip
    assert db.triggers.get_cron(workflow.id) == cron
    event = db.workflows.events(workflow.id).items[-1]
    assert (event.actor, event.action, event.at) == ("bob", "cron_set", clock())
    assert event.metadata == {"expression": "30 14 * * mon-fri", "timezone": "Europe/Berlin"}


def test_a_schedule_replaces_the_one_before(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    first = a_cron(db, "0 15 * * *", start_at=NOON)
    later = clock.advance(minutes=1)
    second = db.triggers.set_cron(first.workflow_id, "0 16 * * *", actor="bob", timezone="Asia/Tokyo")
    assert second == Cron(
        workflow_id=first.workflow_id, expression="0 16 * * *", timezone="Asia/Tokyo", allow_overlapping=False,
        start_at=None, end_at=None, next_fire_at=utc("2026-03-02T07:00"), last_fired_at=None, created_at=NOON,
        created_by="ann", updated_at=later,
    )  # fmt: skip
    assert db.triggers.get_cron(first.workflow_id) == second


@pytest.mark.parametrize("change", [{}, {"allow_overlapping": True}], ids=["the same", "overlapping"])
def test_a_fire_that_is_due_stays_due_if_the_same_times_are_set_again(
    db: Dal[Sync], clock: Clock, change: dict[str, Any]
) -> None:
    clock.set(NOON)
    window: dict[str, Any] = {"start_at": NOON, "end_at": NOON + DAY}
    cron = a_cron(db, "30 12 * * *", **window)
    clock.advance(hours=1)
    again = db.triggers.set_cron(cron.workflow_id, "30 12 * * *", actor="ann", **window, **change)
    assert again.next_fire_at == cron.next_fire_at == NOON + 30 * MINUTE
    assert len(db.triggers.dispatch_due()) == 1
    for other in ({"timezone": "Europe/Paris"}, {"end_at": NOON + 2 * DAY}, {"start_at": NOON + MINUTE}):
        moved = db.triggers.set_cron(cron.workflow_id, "30 12 * * *", actor="ann", **window | other)
        assert moved.next_fire_at is None or moved.next_fire_at > clock(), other


def test_a_schedule_that_is_deleted_fires_no_more(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    cron = a_cron(db)
    (run,) = db.triggers.dispatch_due()
    db.triggers.delete_cron(cron.workflow_id, actor="bob")
    clock.advance(hours=1)
    assert db.triggers.dispatch_due() == []
    assert db.runs.get(run.id) == run
    assert trail(db.workflows.events(cron.workflow_id))[-2:] == [(3, "ann", "cron_set"), (4, "bob", "cron_deleted")]
    for call in (db.triggers.get_cron, partial(db.triggers.delete_cron, actor="bob")):
        with pytest.raises(TriggerNotFound, match=str(cron.workflow_id)):
            call(cron.workflow_id)
    assert len(db.workflows.events(cron.workflow_id).items) == 4
    with pytest.raises(TriggerNotFound):
        db.triggers.get_cron(NOBODY)
    with pytest.raises(TriggerNotFound):
        db.triggers.delete_cron(NOBODY, actor="bob")


def test_a_schedule_needs_a_workflow_that_is_not_archived(db: Dal[Sync]) -> None:
    with pytest.raises(WorkflowNotFound, match=str(NOBODY)):
        db.triggers.set_cron(NOBODY, "* * * * *", actor="ann")
    workflow = a_workflow(db)
    db.workflows.archive(workflow.id, actor="ann")
    with pytest.raises(WorkflowArchived):
        db.triggers.set_cron(workflow.id, "* * * * *", actor="ann")
    with pytest.raises(TriggerNotFound):
        db.triggers.get_cron(workflow.id)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        *(({"expression": text}, "expression") for text in (
            "", "* * * *", "* * * * * *", "@daily", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8",
            "a * * * *", "*/0 * * * *", "5-1 * * * *", "* * * * MON#6", "0 0 30 2 *", "1,2,,3 * * * *", "* * L-1 * *",
            "*" * 257, 5, None, "* * * * \0")),
        *(({"timezone": name}, "timezone") for name in (
            "", "localtime", "Europe", "Europe/Nowhere", "europe/berlin", "../../etc/passwd", "/etc/passwd", "CEST", 5,
            "posix/UTC", "a\0")),
        *(({name: value}, name) for name in ("start_at", "end_at") for value in (
            datetime(2026, 1, 1), utc("2026-01-01T00:00:01"), utc("2026-01-01T00:00:00.000001"), "2026-01-01T00:00Z")),
        ({"start_at": utc("2026-01-01T00:01"), "end_at": utc("2026-01-01T00:00")}, "end_at"),
        ({"allow_overlapping": 1}, "allow_overlapping"), ({"actor": ""}, "actor"),
    ],
    ids=lambda value: str(value)[:60].replace("\0", "NUL"),
)  # fmt: skip
def test_a_schedule_refuses_what_cannot_be_one(db: Dal[Sync], given: dict[str, Any], path: str) -> None:
    workflow = a_workflow(db)
    with pytest.raises(Invalid) as refused:
        db.triggers.set_cron(workflow.id, **{"expression": "* * * * *", "actor": "ann", **given})
    assert refused.value.path == path
    assert len(db.workflows.events(workflow.id).items) == 1


# --- a fire -----------------------------------------------------------------------------------------------------------


def test_a_fire_makes_a_pending_run_of_the_latest_version_and_moves_on(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON + MINUTE)
    version = a_version(db)
    latest = a_version(db, db.workflows.get(version.workflow_id), runnable_config={"limit": 5})
    cron = a_cron(db, "30 12 * * *", version, timezone="UTC")
    assert db.triggers.dispatch_due() == []
    now = clock.set(NOON + 31 * MINUTE)
    (run,) = db.triggers.dispatch_due(actor="beat")
    assert run == Run(
        id=run.id, workflow_id=cron.workflow_id, version_id=latest.id, status="pending", triggered_by="cron",
        inputs={"scheduled_at": "2026-03-01T12:30:00.000000Z", "timezone": "UTC"}, runnable_config={"limit": 5},
        tags=(), callbacks=[], metadata={}, name=None, output=None, error=None, attempt=1, retry_of=None, retry_at=None,
        idempotency_key="cron:2026-03-01T12:30:00.000000Z", lease_owner=None, lease_expires_at=None, created_at=now,
        started_at=None, completed_at=None, updated_at=now,
    )  # fmt: skip
    assert db.runs.get(run.id) == run
    assert trail(db.runs.events(run.id)) == [(1, "beat", "created")]
    moved = db.triggers.get_cron(cron.workflow_id)
    assert (moved.last_fired_at, moved.next_fire_at) == (NOON + 30 * MINUTE, NOON + DAY + 30 * MINUTE)
    assert moved.updated_at == cron.updated_at
    assert db.triggers.dispatch_due() == []


def test_a_fire_is_due_at_its_time_and_not_before(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON + MINUTE)
    a_cron(db, "30 12 * * *")
    at = NOON + 30 * MINUTE
    assert db.triggers.dispatch_due(at - timedelta(microseconds=1)) == []
    assert len(db.triggers.dispatch_due(at)) == 1


def test_the_longest_due_fire_first_and_no_more_than_asked_for(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    crons = [a_cron(db, f"{minute} 13 * * *") for minute in (30, 10, 20)]
    clock.set(NOON + 2 * HOUR)
    fired = [[run.workflow_id for run in db.triggers.dispatch_due(limit=2)] for _ in range(3)]
    assert fired == [[crons[1].workflow_id, crons[2].workflow_id], [crons[0].workflow_id], []]


def test_missed_fires_collapse_into_the_newest(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON + MINUTE)
    expressions = {"minute": "* * * * *", "hour": "15 * * * *", "day": "0 6 * * *", "month": "0 0 1 * *"}
    every = {name: a_cron(db, expression) for name, expression in expressions.items()}
    clock.set(NOON + 7 * DAY + timedelta(seconds=30))  # a week of downtime
    keys = {run.workflow_id: run.idempotency_key for run in db.triggers.dispatch_due()}
    assert keys == {
        every["minute"].workflow_id: "cron:2026-03-08T12:00:00.000000Z",
        every["hour"].workflow_id: "cron:2026-03-08T11:15:00.000000Z",
        every["day"].workflow_id: "cron:2026-03-08T06:00:00.000000Z",
    }
    following = {name: db.triggers.get_cron(cron.workflow_id).next_fire_at for name, cron in every.items()}
    assert following == {
        "minute": utc("2026-03-08T12:01"), "hour": utc("2026-03-08T12:15"), "day": utc("2026-03-09T06:00"),
        "month": utc("2026-04-01T00:00"),
    }  # fmt: skip
    assert db.triggers.dispatch_due() == []


def test_nothing_fires_while_a_cron_run_is_unfinished_unless_they_may_overlap(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    alone, together_ = a_cron(db), a_cron(db, allow_overlapping=True)
    first = {run.workflow_id: run for run in db.triggers.dispatch_due()}
    assert set(first) == {alone.workflow_id, together_.workflow_id}
    db.runs.start(first[alone.workflow_id].id, actor="ann")
    for minute in (1, 2, 3):
        clock.set(NOON + minute * MINUTE)
        assert [run.workflow_id for run in db.triggers.dispatch_due()] == [together_.workflow_id], minute
    a_run(db, db.versions.latest(alone.workflow_id))  # which no schedule made, and is in no schedule's way
    db.runs.succeed(first[alone.workflow_id].id, actor="ann")
    clock.advance(seconds=10)
    (late,) = db.triggers.dispatch_due()
    assert late.idempotency_key == "cron:2026-03-01T12:03:00.000000Z", "of those held back the newest alone"
    assert db.triggers.get_cron(alone.workflow_id).next_fire_at == NOON + 4 * MINUTE


def test_a_retry_of_a_cron_run_counts_as_one(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    a_cron(db)
    (run,) = db.triggers.dispatch_due()
    db.runs.fail(run.id, "no", actor="ann")
    retry = db.triggers.schedule_retry(run.id, clock())
    assert retry is not None
    assert retry.triggered_by == "cron"
    clock.advance(minutes=1)
    assert db.triggers.dispatch_due() == []
    db.runs.cancel(retry.id, actor="ann")
    assert len(db.triggers.dispatch_due()) == 1


def test_a_workflow_held_back_does_not_take_the_place_of_another(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    for _ in range(3):
        a_cron(db)
    assert len(db.triggers.dispatch_due()) == 3
    free = a_cron(db, "2 12 * * *")
    clock.advance(minutes=5)
    assert [run.workflow_id for run in db.triggers.dispatch_due(limit=1)] == [free.workflow_id]


def test_a_workflow_without_a_version_fires_nothing_and_moves_on(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON + MINUTE)
    workflow = a_workflow(db)
    db.triggers.set_cron(workflow.id, "30 12 * * *", actor="ann")
    clock.set(NOON + HOUR)
    assert db.triggers.dispatch_due() == []
    assert db.triggers.get_cron(workflow.id).next_fire_at == NOON + DAY + 30 * MINUTE
    a_version(db, workflow)
    assert db.triggers.dispatch_due() == []


def test_a_fire_makes_one_run_even_if_the_schedule_is_made_anew(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    cron = a_cron(db, "0 12 * * *", allow_overlapping=True)
    assert len(db.triggers.dispatch_due()) == 1
    db.triggers.delete_cron(cron.workflow_id, actor="ann")
    again = db.triggers.set_cron(cron.workflow_id, "0 12 * * *", actor="ann", allow_overlapping=True)
    assert again.next_fire_at == NOON
    assert db.triggers.dispatch_due() == []
    assert db.triggers.get_cron(cron.workflow_id).next_fire_at == NOON + DAY
    assert len(db.runs.list(cron.workflow_id).items) == 1


# --- windows and calendars --------------------------------------------------------------------------------------------


def test_a_window_holds_its_first_and_last_minute(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    start, end = NOON + HOUR, NOON + HOUR + 2 * MINUTE
    cron = a_cron(db, start_at=start, end_at=end)
    assert cron.next_fire_at == start
    assert fire_times(db, clock, cron, NOON + DAY) == [start, start + MINUTE, end]
    assert db.triggers.get_cron(cron.workflow_id).next_fire_at is None
    clock.advance(days=1)
    assert db.triggers.dispatch_due() == []


def test_a_fire_that_was_missed_counts_only_within_the_window(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    cron = a_cron(db, "*/10 * * * *", end_at=NOON + 25 * MINUTE)
    clock.set(NOON + 7 * DAY)
    (run,) = db.triggers.dispatch_due()
    assert run.idempotency_key == "cron:2026-03-01T12:20:00.000000Z"
    assert db.triggers.get_cron(cron.workflow_id).next_fire_at is None


def test_a_window_that_is_over_or_too_short_never_fires(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    assert a_cron(db, end_at=NOON - MINUTE).next_fire_at is None
    assert a_cron(db, "0 9 * * *", start_at=NOON, end_at=NOON + HOUR).next_fire_at is None
    assert db.triggers.dispatch_due(NOON + DAY) == []


def test_29_february_fires_every_four_years(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    cron = a_cron(db, "0 6 29 2 *", timezone="America/New_York")
    found = fire_times(db, clock, cron, utc("2041-01-01T00:00"))
    assert found == [utc(f"{year}-02-29T11:00") for year in (2028, 2032, 2036, 2040)]


def test_the_last_day_of_a_month_and_the_second_monday(db: Dal[Sync], clock: Clock) -> None:
    clock.set(utc("2026-01-15T00:00"))
    for expression, days in (
        ("0 0 L * *", ("01-31", "02-28", "03-31", "04-30")),
        ("0 0 * * MON#2", ("02-09", "03-09", "04-13")),
    ):
        clock.set(utc("2026-01-15T00:00"))
        cron = a_cron(db, expression)
        assert fire_times(db, clock, cron, utc("2026-05-01T00:00")) == [utc(f"2026-{day}T00:00") for day in days]
        db.triggers.delete_cron(cron.workflow_id, actor="ann")


# By zone and expression, the fires round a change of clocks.
GAPS_AND_FOLDS: dict[str, tuple[str, str, str, str, list[str]]] = {
    # 29 March 2026: 02:00 to 03:00
    "Berlin, in the gap": ("Europe/Berlin", "30 2 * * *", "2026-03-27T12:00", "2026-03-30T12:00",
                           ["2026-03-28T01:30", "2026-03-29T01:00", "2026-03-30T00:30"]),
    "Berlin, thrice in the gap": ("Europe/Berlin", "0,20,40 2 * * *", "2026-03-29T00:30", "2026-03-29T12:00",
                                  ["2026-03-29T01:00"]),
    "Berlin, every half hour over the gap": ("Europe/Berlin", "*/30 * * * *", "2026-03-29T00:15", "2026-03-29T01:45",
                                             ["2026-03-29T00:30", "2026-03-29T01:00", "2026-03-29T01:30"]),
    # 25 October 2026: 03:00 to 02:00
    "Berlin, in the fold": ("Europe/Berlin", "30 2 * * *", "2026-10-24T12:00", "2026-10-26T12:00",
                            ["2026-10-25T00:30", "2026-10-26T01:30"]),
    "Berlin, every half hour over the fold": ("Europe/Berlin", "*/30 2 * * *", "2026-10-24T23:45", "2026-10-25T02:45",
                                              ["2026-10-25T00:00", "2026-10-25T00:30", "2026-10-25T01:00",
                                               "2026-10-25T01:30"]),
    # 8 March and 1 November 2026
    "New York, in the gap": ("America/New_York", "15 2 8 3 *", "2026-03-01T12:00", "2026-03-09T12:00",
                             ["2026-03-08T07:00"]),
    "New York, in the fold": ("America/New_York", "15 1 1 11 *", "2026-10-20T12:00", "2026-11-02T12:00",
                              ["2026-11-01T05:15"]),
    # 5 April 2026: 02:00 to 01:30; 4 October: 02:00 to 02:30
    "Lord Howe, every quarter over the fold": ("Australia/Lord_Howe", "*/15 1,2 * * *", "2026-04-04T13:50",
                                               "2026-04-04T16:00",
                                               ["2026-04-04T14:00", "2026-04-04T14:15", "2026-04-04T14:30",
                                                "2026-04-04T14:45", "2026-04-04T15:00", "2026-04-04T15:15",
                                                "2026-04-04T15:30", "2026-04-04T15:45", "2026-04-04T16:00"]),
    "Lord Howe, in the gap": ("Australia/Lord_Howe", "10 2 4 10 *", "2026-10-01T00:00", "2026-10-05T00:00",
                              ["2026-10-03T15:30"]),
    # 29 March 2026: 00:00 to 01:00, so that the day begins at one
    "Azores, midnight in the gap": ("Atlantic/Azores", "0 0 * * *", "2026-03-28T02:00", "2026-03-30T02:00",
                                    ["2026-03-29T01:00", "2026-03-30T00:00"]),
    "Azores, after the gap": ("Atlantic/Azores", "*/20 1 * * SUN", "2026-03-28T02:00", "2026-03-30T02:00",
                              ["2026-03-29T01:00", "2026-03-29T01:20", "2026-03-29T01:40"]),
    "Kolkata, which has none": ("Asia/Kolkata", "30 2 * * *", "2026-03-28T12:00", "2026-03-30T12:00",
                                ["2026-03-28T21:00", "2026-03-29T21:00"]),
}  # fmt: skip


@pytest.mark.parametrize("case", GAPS_AND_FOLDS)
def test_schedules_go_by_the_clock_on_the_wall_when_it_is_changed(db: Dal[Sync], clock: Clock, case: str) -> None:
    timezone, expression, begin, end, expected = GAPS_AND_FOLDS[case]
    clock.set(utc(begin))
    cron = a_cron(db, expression, timezone=timezone)
    assert fire_times(db, clock, cron, utc(end)) == [utc(text) for text in expected]


@pytest.mark.parametrize("case", GAPS_AND_FOLDS)
def test_a_dispatcher_that_comes_late_fires_the_newest_over_a_change_of_clocks(
    db: Dal[Sync], clock: Clock, case: str
) -> None:
    timezone, expression, begin, end, expected = GAPS_AND_FOLDS[case]
    clock.set(utc(begin))
    a_cron(db, expression, timezone=timezone)
    clock.set(utc(end))
    (run,) = db.triggers.dispatch_due()
    assert run.idempotency_key == f"cron:{expected[-1]}:00.000000Z"


# --- archived ---------------------------------------------------------------------------------------------------------


def test_an_archived_workflow_fires_nothing_and_goes_on_from_when_it_is_back(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON + MINUTE)
    cron = a_cron(db, "30 * * * *")
    db.workflows.archive(cron.workflow_id, actor="ann")
    assert db.triggers.get_cron(cron.workflow_id).next_fire_at is None
    clock.set(NOON + 5 * HOUR)
    assert db.triggers.dispatch_due() == []
    db.workflows.archive(cron.workflow_id, actor="ann")
    db.workflows.unarchive(cron.workflow_id, actor="ann")
    assert db.triggers.dispatch_due() == [], "what was due meanwhile is past"
    assert db.triggers.get_cron(cron.workflow_id).next_fire_at == NOON + 5 * HOUR + 30 * MINUTE
    clock.set(NOON + 5 * HOUR + 30 * MINUTE)
    db.workflows.unarchive(cron.workflow_id, actor="ann")  # which it is not
    assert len(db.triggers.dispatch_due()) == 1


def test_nothing_fires_once_archiving_was_told_done(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    for number in range(10):
        cron = a_cron(db, allow_overlapping=True)
        told: list[int] = []

        def archive(id: UUID = cron.workflow_id, told: list[int] = told) -> object:
            db.workflows.archive(id, actor="ann")
            told.append(len(db.runs.list(id).items))
            return told

        jobs: list[Callable[[], object]] = [db.triggers.dispatch_due, archive, db.triggers.dispatch_due]
        together(jobs)
        assert told == [len(db.runs.list(cron.workflow_id).items)], f"round {number}"


# --- many dispatchers -------------------------------------------------------------------------------------------------


def test_8_dispatchers_fire_200_due_schedules_200_times(
    db: Dal[Sync], make_db: MakeDb, cell: Cell, url: str, clock: Clock
) -> None:
    clock.set(NOON)
    version = a_version(db)
    crons = [a_cron(db, "*/5 * * * *", allow_overlapping=number % 2 == 0) for number in range(199)]
    crons.append(a_cron(db, "*/5 * * * *", version))
    now = clock.set(NOON + 20 * MINUTE).isoformat()
    dispatchers = [db, make_db(), make_db(face="sync"), make_db(face="async")]

    def here() -> Any:
        answers: list[Any] = together([partial(dispatch_all, each, now) for each in dispatchers])
        return [run for answer in answers for run in answer]

    def there() -> Any:
        return [run for answer in in_processes(url, cell.face, dispatch_all, now, 1) for run in answer]

    runs = [run for answer in together([here, there]) for run in answer]  # type: ignore[union-attr]
    assert (len(runs), len(set(runs))) == (200, 200), "each dispatcher is told of the runs that it made"
    made = Counter(run.workflow_id for cron in crons for run in db.runs.list(cron.workflow_id).items)
    assert made == Counter({cron.workflow_id: 1 for cron in crons})
    keys = {run.idempotency_key for cron in crons for run in db.runs.list(cron.workflow_id).items}
    assert keys == {"cron:2026-03-01T12:20:00.000000Z"}
    states = {(each.next_fire_at, each.last_fired_at) for each in
              (db.triggers.get_cron(cron.workflow_id) for cron in crons)}  # fmt: skip
    assert states == {(NOON + 25 * MINUTE, NOON + 20 * MINUTE)}


def test_a_schedule_changed_while_it_is_dispatched_ends_as_it_was_changed(db: Dal[Sync], clock: Clock) -> None:
    for number in range(20):
        clock.set(NOON + MINUTE)
        cron = a_cron(db, "0 * * * *", allow_overlapping=True)
        clock.set(NOON + HOUR)
        change = partial(db.triggers.set_cron, cron.workflow_id, "30 9 * * *", actor="ann", allow_overlapping=True)
        jobs: list[Callable[[], object]] = [db.triggers.dispatch_due, change, db.triggers.dispatch_due]
        together(jobs)
        found = db.triggers.get_cron(cron.workflow_id)
        assert (found.expression, found.next_fire_at) == ("30 9 * * *", utc("2026-03-02T09:30")), f"round {number}"
        fired = [run.idempotency_key for run in db.runs.list(cron.workflow_id).items]
        assert fired == ["cron:2026-03-01T13:00:00.000000Z"][: len(fired)], f"round {number}"


def test_a_fire_in_a_transaction_that_is_undone_is_still_due(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    cron = a_cron(db)
    with suppress(ZeroDivisionError), db.transaction() as tx:
        assert len(tx.triggers.dispatch_due()) == 1
        raise ZeroDivisionError
    assert db.triggers.get_cron(cron.workflow_id) == cron
    assert len(db.triggers.dispatch_due()) == 1


@pytest.mark.parametrize(
    "given", [{"now": datetime(2026, 1, 1)}, {"now": "x"}, {"limit": 0}, {"limit": 501}, {"actor": ""}], ids=str
)
def test_dispatching_refuses_what_makes_no_sense(db: Dal[Sync], given: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as refused:
        db.triggers.dispatch_due(**given)
    assert refused.value.path == next(iter(given))


def test_a_schedule_that_cannot_be_read_does_not_stop_the_others(
    db: Dal[Sync], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    clock.set(NOON)
    broken, good = a_cron(db), a_cron(db)
    with db.transaction() as tx:
        tx.connection.execute(
            f"update cron_triggers set timezone = 'Mars/Olympus' where workflow_id = '{broken.workflow_id}'"
        )
    with caplog.at_level(logging.ERROR, "dal.triggers"):
        assert [run.workflow_id for run in db.triggers.dispatch_due()] == [good.workflow_id]
    assert str(broken.workflow_id) in caplog.text

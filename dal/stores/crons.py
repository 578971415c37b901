"""Schedules: a workflow's cron expression, and the time of its next fire, kept in the row.

However many dispatchers ask at once, a fire makes one run: the statement that makes the run also moves the schedule on,
and only from the time it was read with.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from msgspec import Struct

from dal.core.cursors import check_limit
from dal.core.face import M, Queries, Store, applied, missing, statement
from dal.core.rows import check_bool, instant_text
from dal.digests import uuid7
from dal.errors import Invalid, TriggerNotFound, WorkflowArchived, WorkflowNotFound
from dal.stores.checks import check_key
from dal.stores.runs import Run, in_line
from dal.stores.schedules import check_expression, check_timezone, fires, first_fire, newest_fire

_log = logging.getLogger("dal.triggers")


class Cron(Struct, frozen=True):
    """A workflow's schedule."""

    workflow_id: UUID
    expression: str  # five fields
    timezone: str  # of the IANA
    allow_overlapping: bool
    start_at: datetime | None
    end_at: datetime | None
    next_fire_at: datetime | None  # nothing fires before; None when nothing will, or the workflow is archived
    last_fired_at: datetime | None  # the time that fired, not when somebody came to fire it
    created_at: datetime
    created_by: str
    updated_at: datetime


class Crons(Store[M]):
    """The schedules among ``db.triggers``."""

    @statement(write=True)
    async def set_cron(
        self,
        q: Queries,
        workflow_id: UUID,
        expression: str,
        *,
        actor: str,
        timezone: str = "UTC",
        allow_overlapping: bool = False,
        start_at: datetime | None = None,
        end_at: datetime | None = None,
    ) -> Cron:
        """Give a workflow a schedule, or replace the one it has.

        expression: five fields as in a crontab; names of months and days, L and # are known. timezone: such as
        Europe/Berlin. start_at, end_at: the first and the last time that may fire, whole minutes, start_at first.
        The first fire is the first one from now on; a fire that is due stays due if the same schedule is set again.
        Raises WorkflowNotFound, WorkflowArchived.
        """
        now = self.clock()
        expression, timezone = check_expression(expression), check_timezone(timezone)
        start, end = _check_minute(start_at, "start_at"), _check_minute(end_at, "end_at")
        if start and end and start > end:
            raise Invalid("lies before start_at", path="end_at")
        answer = applied(
            await q.set_cron(
                workflow_id=workflow_id,
                expression=expression,
                timezone=timezone,
                allow_overlapping=check_bool(allow_overlapping, "allow_overlapping"),
                start_at=start,
                end_at=end,
                next_fire_at=first_fire(expression, timezone, max(start or now, now), end),
                actor=check_key(actor, "actor"),
                now=now,
            ),
            WorkflowNotFound,
            workflow_id,
        )
        if answer.row is None:
            raise WorkflowArchived(str(workflow_id), found=answer.found)
        return answer.row

    @statement
    async def get_cron(self, q: Queries, workflow_id: UUID) -> Cron:
        """A workflow's schedule. Raises TriggerNotFound."""
        return await q.get_cron(workflow_id=workflow_id) or missing(TriggerNotFound, f"cron of {workflow_id}")

    @statement(write=True)
    async def delete_cron(self, q: Queries, workflow_id: UUID, *, actor: str) -> None:
        """Take a workflow's schedule away; runs that it made stay. Raises TriggerNotFound."""
        deleted = await q.delete_cron(workflow_id=workflow_id, actor=check_key(actor, "actor"), now=self.clock())
        if not deleted:
            missing(TriggerNotFound, f"cron of {workflow_id}")

    @statement(write=True)
    async def dispatch_due(
        self, q: Queries, now: datetime | None = None, limit: int = 50, *, actor: str = "cron"
    ) -> Sequence[Run]:
        """Fire what is due, the longest due first: the pending runs that this call made, of the latest versions.

        now: the clock's by default. limit: how many schedules to look at, 1 to 500; what another dispatcher fires
        meanwhile is not among them. Of several fires missed, the newest alone makes a run. Without allow_overlapping
        nothing fires while a run of the workflow with triggered_by 'cron' is unfinished; the fire stays due. A workflow
        without a version makes none, and its schedule moves on. Two round trips: it reads, then writes once for all.
        """
        due = self.clock() if now is None else now
        check_key(actor, "actor")
        found = await q.list_due_crons(now=due, limit=check_limit(limit))
        moves = [move for move in (_move(cron, due) for cron in found) if move]
        if not moves:
            return []
        return in_line(await q.create_cron_runs(fires=moves, actor=actor, now=self.clock()))


def _check_minute(value: datetime | None, path: str) -> datetime | None:
    if value is None:
        return None
    instant_text(value, path)
    minute = value.astimezone(UTC)
    if minute.second or minute.microsecond:
        raise Invalid("takes a whole minute", path=path)
    return minute


def _move(cron: Cron, now: datetime) -> dict[str, object] | None:
    """What is to become of a schedule that is due, as create_cron_runs takes it."""
    last = min(now, cron.end_at or now)
    assert cron.next_fire_at is not None  # it is due
    try:
        fire = newest_fire(cron.expression, cron.timezone, cron.next_fire_at, last)
        after = next(fires(cron.expression, cron.timezone, now), None)
    except Exception:  # written past the store, or by a host that knows more time zones; the others are to fire
        _log.exception("the cron trigger of workflow %s cannot be read: it does not fire", cron.workflow_id)
        return None
    if after and cron.end_at and after > cron.end_at:
        after = None
    at = _text(fire)
    return {
        "workflow_id": str(cron.workflow_id),
        "seen_at": _text(cron.next_fire_at),
        "expression": cron.expression,
        "timezone": cron.timezone,
        "end_at": _text(cron.end_at),
        "fire_at": at,
        "next_at": _text(after),
        "run_id": str(uuid7()),
        "key": f"cron:{at}",
        "inputs": {"scheduled_at": at, "timezone": cron.timezone},
    }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else instant_text(moment, "fires")

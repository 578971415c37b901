"""Runs: one execution of a version, from pending over running to an end, with an audit trail.

    pending ──start, claim──▶ running ──succeed──▶ succeeded
       │  ◀──requeue_expired──  ├──────fail─────▶ failed
       └──fail, cancel────────▶ └─────cancel────▶ cancelled

Every transition is one conditional statement: of two that race, one is told yes, and the other the state really found.
Claimed runs are under a lease: only its owner ends them well or badly, until it has run out and they are pending again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, NoReturn, get_args
from uuid import UUID

from msgspec import Struct

from dal.core.cursors import (
    Page,
    check_limit,
    instant_cursor,
    number_cursor,
    page,
    read_instant_cursor,
    read_number_cursor,
)
from dal.core.face import M, Queries, Store, applied, missing, statement
from dal.core.rows import Applied, Encoded, Json, check_text, instant_text
from dal.digests import uuid7
from dal.errors import (
    IdempotencyConflict,
    Invalid,
    InvalidTransition,
    LeaseLost,
    RunNotFound,
    VersionNotFound,
    WorkflowArchived,
    WorkflowNotFound,
)
from dal.stores.checks import check_choice, check_key, check_number, check_tags
from dal.stores.workflows import Event

RunStatus = Literal["pending", "running", "succeeded", "failed", "cancelled"]

MAX_LEASE_SECONDS = 86_400.0
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


class Run(Struct, frozen=True):
    """A run as it stands."""

    id: UUID
    workflow_id: UUID
    version_id: UUID
    status: RunStatus
    triggered_by: str
    inputs: Json
    runnable_config: Json
    tags: tuple[str, ...]
    callbacks: Json
    metadata: Json
    name: str | None
    output: Json
    error: str | None  # of a failed run, or the reason of a cancelled one
    attempt: int  # from 1
    retry_of: UUID | None
    retry_at: datetime | None
    idempotency_key: str | None
    lease_owner: str | None  # the worker that claimed it, while it is running
    lease_expires_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime


class StatusCount(Struct, frozen=True):
    """How many runs are in a state."""

    status: RunStatus
    count: int


def in_line(runs: Sequence[Run]) -> Sequence[Run]:
    """Runs in the order in which they are claimed: the longest in line first, a retry from its retry_at on."""
    return sorted(runs, key=lambda run: (run.retry_at or run.created_at, run.id))


class Runs(Store[M]):
    """``db.runs``."""

    @statement(write=True, key="idempotency_key")
    async def create(
        self,
        q: Queries,
        workflow_id: UUID,
        *,
        actor: str,
        version_id: UUID | None = None,
        inputs: Json | None = None,
        runnable_config: Json = None,
        tags: Sequence[str] = (),
        callbacks: Json | None = None,
        metadata: Json | None = None,
        name: str | None = None,
        triggered_by: str | None = None,
        idempotency_key: str | None = None,
    ) -> Run:
        """A pending run.

        version_id: of this workflow; the latest version by default. inputs, metadata: {} by default; callbacks: [].
        runnable_config: the version's by default. triggered_by: the actor by default. idempotency_key: 1 to 512 bytes;
        given again for the same workflow with the same inputs, it answers the first run and makes no other, and
        a connection lost in the call is no OutcomeUnknown: the call is repeated.
        Raises WorkflowNotFound, WorkflowArchived, VersionNotFound; IdempotencyConflict if the key was used with other
        inputs or another version.
        """
        asked = Encoded.of({} if inputs is None else inputs, "inputs")
        new_id = uuid7()
        answer = applied(
            await q.create_run(
                id=new_id,
                workflow_id=workflow_id,
                version_id=version_id,
                triggered_by=check_key(actor if triggered_by is None else triggered_by, "triggered_by"),
                inputs=asked,
                runnable_config=runnable_config,
                tags=check_tags(tags),
                callbacks=[] if callbacks is None else callbacks,
                metadata={} if metadata is None else metadata,
                name=name,
                idempotency_key=None if idempotency_key is None else check_key(idempotency_key, "idempotency_key"),
                actor=check_key(actor, "actor"),
                now=self.clock(),
            ),
            WorkflowNotFound,
            workflow_id,
        )
        run = answer.row
        if run is None:
            if answer.found == "archived":
                raise WorkflowArchived(str(workflow_id), found=answer.found)
            missing(VersionNotFound, f"{version_id or 'latest'} of workflow {workflow_id}")
        if run.id != new_id and (Encoded.of(run.inputs, "inputs") != asked or version_id not in (None, run.version_id)):
            raise IdempotencyConflict(f"run {run.id} has it", constraint="runs_idempotency_key")
        return run

    @statement
    async def get(self, q: Queries, run_id: UUID) -> Run:
        """One run. Raises RunNotFound."""
        return await q.get_run(run_id=run_id) or missing(RunNotFound, run_id)

    @statement
    async def list(
        self,
        q: Queries,
        workflow_id: UUID,
        *,
        status: RunStatus | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[Run]:
        """The runs of a workflow, newest first; none if there is no such workflow. limit: 1 to 500."""
        if status is not None:
            check_choice(status, "status", get_args(RunStatus))
        scope = f"runs:{workflow_id}:{status}"
        after_at, after_id = read_instant_cursor(scope, after)
        more = check_limit(limit) + 1
        if status is None:
            rows = await q.list_runs(workflow_id=workflow_id, after_at=after_at, after_id=after_id, limit=more)
        else:
            rows = await q.list_runs_by_status(
                workflow_id=workflow_id, status=status, after_at=after_at, after_id=after_id, limit=more
            )
        return page(rows, limit, lambda last: instant_cursor(scope, last.created_at, last.id))

    @statement(write=True)
    async def start(self, q: Queries, run_id: UUID, *, actor: str) -> Run:
        """pending → running. Raises RunNotFound; InvalidTransition with the state found."""
        return _moved(
            await q.mark_run_running(run_id=run_id, actor=check_key(actor, "actor"), now=self.clock()),
            run_id,
            "running",
        )

    @statement(write=True)
    async def succeed(
        self, q: Queries, run_id: UUID, output: Json = None, *, actor: str, worker: str | None = None
    ) -> Run:
        """running → succeeded, with the output.

        worker: whose lease the run is under; None for a run without one. Raises RunNotFound; InvalidTransition with the
        state found; LeaseLost if the lease is another worker's, or nobody's.
        """
        return _ended(
            await q.mark_run_succeeded(
                run_id=run_id, output=output, worker=_worker(worker), actor=check_key(actor, "actor"), now=self.clock()
            ),
            run_id,
            "succeeded",
            worker,
        )

    @statement(write=True)
    async def fail(self, q: Queries, run_id: UUID, error: str, *, actor: str, worker: str | None = None) -> Run:
        """pending or running → failed; ``triggers.schedule_retry`` makes a run that tries again.

        worker: as for ``succeed``. Raises RunNotFound; InvalidTransition with the state found; LeaseLost.
        """
        return _ended(
            await q.mark_run_failed(
                run_id=run_id,
                error=check_text(error, "error"),
                worker=_worker(worker),
                actor=check_key(actor, "actor"),
                now=self.clock(),
            ),
            run_id,
            "failed",
            worker,
        )

    @statement(write=True)
    async def cancel(self, q: Queries, run_id: UUID, reason: str | None = None, *, actor: str) -> Run:
        """pending or running → cancelled, under a lease or not; the reason is kept as the run's error.

        Raises RunNotFound; InvalidTransition with the state found.
        """
        return _moved(
            await q.mark_run_cancelled(run_id=run_id, reason=reason, actor=check_key(actor, "actor"), now=self.clock()),
            run_id,
            "cancelled",
        )

    @statement(write=True)
    async def claim(
        self, q: Queries, worker: str, *, lease_seconds: float, limit: int = 1, workflow_id: UUID | None = None
    ) -> Sequence[Run]:
        """Pending runs become running under a lease of this worker; fewer than limit, or none, if no more are waiting.

        The longest in line come first: since created_at, a retry since its retry_at, before which it is not claimed.
        However many workers claim at once, none gets the run of another. worker: 1 to 512 bytes, a name of its own for
        each process that claims. lease_seconds: up to a day. limit: 1 to 500. workflow_id: of this workflow only.
        """
        check_key(worker, "worker")
        now = self.clock()
        expires = now + _lease(lease_seconds)
        most = check_limit(limit)
        if workflow_id is None:
            return in_line(await q.claim_runs(worker=worker, lease_expires_at=expires, limit=most, now=now))
        return in_line(
            await q.claim_runs_of_workflow(
                workflow_id=workflow_id, worker=worker, lease_expires_at=expires, limit=most, now=now
            )
        )

    @statement(write=True)
    async def heartbeat(self, q: Queries, run_id: UUID, worker: str, *, lease_seconds: float) -> Run:
        """The worker's lease ends so many seconds from now, even if it had run out and nobody had noticed.

        Raises RunNotFound; LeaseLost, with the state found, if the run is not running under a lease of this worker:
        then stop working on it.
        """
        now = self.clock()
        answer = applied(
            await q.update_run_lease(
                run_id=run_id, worker=check_key(worker, "worker"), lease_expires_at=now + _lease(lease_seconds), now=now
            ),
            RunNotFound,
            run_id,
        )
        return answer.row or _lost(run_id, worker, answer.found)

    @statement(write=True)
    async def requeue_expired(
        self, q: Queries, now: datetime | None = None, limit: int = 100, *, actor: str = "lease"
    ) -> Sequence[Run]:
        """Running runs whose lease ended at ``now`` or before become pending again, the longest ended first.

        Their attempt stays, and they keep their place in the line. now: the clock's by default. limit: 1 to 500.
        Returns them as they are now.
        """
        at = self.clock()
        due = at if now is None else now
        instant_text(due, "now")
        return in_line(await q.requeue_runs(due=due, limit=check_limit(limit), actor=check_key(actor, "actor"), now=at))

    @statement
    async def counts(self, q: Queries, workflow_id: UUID, since: datetime | None = None) -> Mapping[RunStatus, int]:
        """How many runs of a workflow are in each state; of those created at ``since`` or later, if given.

        All five states are there. Its work grows with the number of runs it counts.
        """
        rows = await q.count_runs(workflow_id=workflow_id, since=_BEGINNING if since is None else since)
        return {row.status: row.count for row in rows}

    @statement
    async def events(self, q: Queries, run_id: UUID, *, after: str | None = None, limit: int = 50) -> Page[Event]:
        """The audit trail of a run, oldest first; empty if there is no such run."""
        scope = f"run-events:{run_id}"
        number = read_number_cursor(scope, after, first=0)
        rows = await q.list_run_events(run_id=run_id, after=number, limit=check_limit(limit) + 1)
        return page(rows, limit, lambda last: number_cursor(scope, last.number))


def _moved(answer: Applied[Run] | None, run_id: UUID, wanted: RunStatus) -> Run:
    row = applied(answer, RunNotFound, run_id).row
    if row is None:
        assert answer is not None  # applied saw to it
        raise InvalidTransition(f"run {run_id} is {answer.found}, not to become {wanted}", found=answer.found)
    return row


def _ended(answer: Applied[Run] | None, run_id: UUID, wanted: RunStatus, worker: str | None) -> Run:
    if answer is not None and (answer.found == "lease" or (answer.found == "pending" and worker is not None)):
        _lost(run_id, worker, answer.found)
    return _moved(answer, run_id, wanted)


def _lost(run_id: UUID, worker: str | None, found: str | None) -> NoReturn:
    state = "running" if found == "lease" else found
    whose = "needs the worker that has its lease" if worker is None else "is under no lease of this worker"
    raise LeaseLost(f"run {run_id} is {state}, and {whose}", found=state)


def _worker(worker: str | None) -> str | None:
    return None if worker is None else check_key(worker, "worker")


def _lease(seconds: float) -> timedelta:
    lease = timedelta(seconds=check_number(seconds, "lease_seconds", 0, MAX_LEASE_SECONDS))
    if not lease:
        raise Invalid("takes more than 0 seconds", path="lease_seconds")
    return lease

"""Retries: a workflow's policy, and the run that does a failed one again after a delay, longer with each attempt."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from uuid import UUID

from msgspec import Struct

from dal.core.face import M, Queries, Store, applied, missing, statement
from dal.core.rows import check_int, instant_text
from dal.digests import uuid7
from dal.errors import Invalid, InvalidTransition, RunNotFound, WorkflowArchived, WorkflowNotFound
from dal.stores.checks import check_key, check_number
from dal.stores.runs import Run

YEAR = 365 * 86_400.0
MAX_ATTEMPTS = 1000


class RetryPolicy(Struct, frozen=True):
    """How often and how late a workflow's failed runs are done again. The last three are None for the default."""

    workflow_id: UUID
    max_attempts: int = 3  # the first one counts
    initial_delay_seconds: float = 30.0
    backoff_factor: float = 2.0
    max_delay_seconds: float | None = 300.0  # before jitter
    jitter_factor: float = 0.1
    created_at: datetime | None = None
    created_by: str | None = None
    updated_at: datetime | None = None


class FailedRun(Struct, frozen=True):
    """What decides whether and when a run is done again. The policy is None where the workflow has none of its own."""

    status: str
    attempt: int
    is_retried: bool
    max_attempts: int | None
    initial_delay_seconds: float | None
    backoff_factor: float | None
    max_delay_seconds: float | None
    jitter_factor: float | None


def retry_delay(policy: RetryPolicy, run_id: UUID, attempt: int) -> timedelta:
    """How long after this attempt failed the next may begin.

    initial × factor ^ (attempt - 1), at most max_delay_seconds and never more than a year; then more or less by up to
    jitter_factor of that, by as much each time it is asked of the same run.
    """
    most = YEAR if policy.max_delay_seconds is None else policy.max_delay_seconds
    try:
        delay = policy.initial_delay_seconds * policy.backoff_factor ** (attempt - 1)
    except OverflowError:
        delay = most
    chance = int.from_bytes(hashlib.sha256(run_id.bytes).digest()[:6], "big") / 2**48
    return timedelta(seconds=min(delay, most) * (1 + policy.jitter_factor * (2 * chance - 1)))


class Retries(Store[M]):
    """The policies of retries among ``db.triggers``."""

    @statement(write=True)
    async def set_retry_policy(
        self,
        q: Queries,
        workflow_id: UUID,
        *,
        actor: str,
        max_attempts: int = 3,
        initial_delay_seconds: float = 30.0,
        backoff_factor: float = 2.0,
        max_delay_seconds: float | None = 300.0,
        jitter_factor: float = 0.1,
    ) -> RetryPolicy:
        """Give a workflow a policy, or replace the one it has; it counts for retries scheduled from now on.

        max_attempts: 1 to 1000, the first one counts. initial_delay_seconds: 0 to a year. backoff_factor: 1 to 100.
        max_delay_seconds: from the initial one to a year, or None. jitter_factor: 0 to 1.
        Raises WorkflowNotFound, WorkflowArchived.
        """
        if not 1 <= check_int(max_attempts, "max_attempts") <= MAX_ATTEMPTS:
            raise Invalid(f"{max_attempts}; takes 1 to {MAX_ATTEMPTS}", path="max_attempts")
        initial = check_number(initial_delay_seconds, "initial_delay_seconds", 0, YEAR)
        most = (
            None if max_delay_seconds is None else check_number(max_delay_seconds, "max_delay_seconds", initial, YEAR)
        )
        answer = applied(
            await q.set_retry_policy(
                workflow_id=workflow_id,
                max_attempts=max_attempts,
                initial_delay_seconds=initial,
                backoff_factor=check_number(backoff_factor, "backoff_factor", 1, 100),
                max_delay_seconds=most,
                jitter_factor=check_number(jitter_factor, "jitter_factor", 0, 1),
                actor=check_key(actor, "actor"),
                now=self.clock(),
            ),
            WorkflowNotFound,
            workflow_id,
        )
        if answer.row is None:
            raise WorkflowArchived(str(workflow_id), found=answer.found)
        return answer.row

    @statement
    async def get_retry_policy(self, q: Queries, workflow_id: UUID) -> RetryPolicy:
        """A workflow's policy, the default if it has none of its own. Raises WorkflowNotFound."""
        answer = applied(await q.get_retry_policy(workflow_id=workflow_id), WorkflowNotFound, workflow_id)
        return answer.row or RetryPolicy(workflow_id)

    @statement(write=True)
    async def schedule_retry(
        self, q: Queries, run_id: UUID, failed_at: datetime, *, actor: str = "retry"
    ) -> Run | None:
        """The pending run that does a failed one again, with attempt + 1 and retry_at; None after the last attempt.

        Asked twice, by whomever, it answers the same run. All else it has of the failed one. Two round trips: the delay
        is computed here, so that both databases have the same. Raises RunNotFound; InvalidTransition with the state
        found if the run is not failed; WorkflowArchived.
        """
        instant_text(failed_at, "failed_at")
        check_key(actor, "actor")
        failed = await q.get_failed_run(run_id=run_id) or missing(RunNotFound, run_id)
        policy = _policy(failed)
        if failed.status == "failed" and failed.attempt >= policy.max_attempts and not failed.is_retried:
            return None
        try:
            retry_at = failed_at + retry_delay(policy, run_id, failed.attempt)
        except OverflowError:
            raise Invalid("so late that a retry would be beyond the calendar", path="failed_at") from None
        answer = applied(
            await q.create_retry(id=uuid7(), run_id=run_id, retry_at=retry_at, actor=actor, now=self.clock()),
            RunNotFound,
            run_id,
        )
        if answer.row is None:
            if answer.found == "archived":
                raise WorkflowArchived(f"of run {run_id}", found=answer.found)
            raise InvalidTransition(f"run {run_id} is {answer.found}, not to be retried", found=answer.found)
        return answer.row


def _policy(failed: FailedRun) -> RetryPolicy:
    """The policy that counts for a run; whose it is does not matter here."""
    nobody = UUID(int=0)
    if failed.max_attempts is None:
        return RetryPolicy(nobody)
    return RetryPolicy(
        nobody,
        failed.max_attempts,
        failed.initial_delay_seconds or 0.0,
        failed.backoff_factor or 1.0,
        failed.max_delay_seconds,
        failed.jitter_factor or 0.0,
    )

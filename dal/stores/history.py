"""Run history: executions and their steps.

    running ──complete──▶ completed
       ├──────fail──────▶ error
       └─────cancel─────▶ cancelled

Steps are numbered from 0 without gaps by the appending statement itself, and only a running execution takes any. An
execution is known by a text of the caller's, often the id of a run; nothing else in the database is asked about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, get_args

from msgspec import Struct

from dal.core.cursors import (
    Page,
    check_limit,
    instant_text_cursor,
    number_cursor,
    page,
    read_instant_text_cursor,
    read_number_cursor,
)
from dal.core.face import M, Queries, Store, applied, missing, statement, stream
from dal.core.rows import MAX_JSON_BYTES, Applied, Json, check_int, check_text, encode_json
from dal.errors import AlreadyExists, ExecutionNotFound, Invalid, InvalidTransition
from dal.stores.checks import check_choice, check_filter, check_length, check_tags

ExecutionStatus = Literal["running", "completed", "error", "cancelled"]

MAX_ID = 128  # characters
MAX_APPENDED = 1000
MAX_PRUNED = 1000  # in one call, because on one of the databases everybody who writes waits for it
_STREAMED_STEPS = 500
_STREAMED_BYTES = 2**20


class Execution(Struct, frozen=True):
    """An execution as it stands, without its steps."""

    execution_id: str
    workflow_id: str
    inputs: Json
    runnable_config: Json
    tags: tuple[str, ...]
    callbacks: Json
    metadata: Json
    run_name: str | None
    status: ExecutionStatus
    started_at: datetime
    completed_at: datetime | None
    error: str | None  # of a failed execution, or the reason of a cancelled one
    trace_id: str | None
    trace_started_at: datetime | None  # when the first steps were appended
    trace_completed_at: datetime | None  # when an execution with steps ended
    trace_last_span_at: datetime | None  # when the last steps were appended
    step_count: int


class Step(Struct, frozen=True):
    """One step of an execution's history."""

    execution_id: str
    idx: int  # from 0, without gaps
    at: datetime
    payload: Json


class StreamedStep(Struct, frozen=True):
    """A step, with the word whether another one follows."""

    execution_id: str
    idx: int
    at: datetime
    payload: Json
    is_last: bool


class History(Store[M]):
    """``db.history``."""

    @statement(write=True)
    async def start(
        self,
        q: Queries,
        execution_id: str,
        workflow_id: str,
        *,
        inputs: Json | None = None,
        runnable_config: Json = None,
        tags: Sequence[str] = (),
        callbacks: Json | None = None,
        metadata: Json | None = None,
        run_name: str | None = None,
        trace_id: str | None = None,
    ) -> Execution:
        """A running execution without steps.

        execution_id, workflow_id: 1 to 128 characters. inputs, metadata: {} by default; callbacks: []. Every value in
        the metadata is indexed, for ``find``. Raises AlreadyExists if there is an execution with this id.
        """
        row = await q.create_execution(
            execution_id=_check_id(execution_id, "execution_id"),
            workflow_id=_check_id(workflow_id, "workflow_id"),
            inputs={} if inputs is None else inputs,
            runnable_config=runnable_config,
            tags=check_tags(tags),
            callbacks=[] if callbacks is None else callbacks,
            metadata={} if metadata is None else metadata,
            run_name=run_name,
            trace_id=trace_id,
            now=self.clock(),
        )
        if row is None:
            raise AlreadyExists("an execution has this id", constraint="executions_pkey")
        return row

    @statement
    async def get(self, q: Queries, execution_id: str) -> Execution:
        """One execution, without its steps. Raises ExecutionNotFound."""
        row = await q.get_execution(execution_id=_check_id(execution_id, "execution_id"))
        return row or missing(ExecutionNotFound, execution_id)

    @statement
    async def list(
        self,
        q: Queries,
        workflow_id: str,
        *,
        status: ExecutionStatus | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[Execution]:
        """The executions of a workflow, newest first; none if nothing of it was executed. limit: 1 to 500."""
        if status is not None:
            check_choice(status, "status", get_args(ExecutionStatus))
        scope = f"executions:{_check_id(workflow_id, 'workflow_id')}:{status}"
        after_at, after_id = read_instant_text_cursor(scope, after)
        more = check_limit(limit) + 1
        if status is None:
            rows = await q.list_executions(workflow_id=workflow_id, after_at=after_at, after_id=after_id, limit=more)
        else:
            rows = await q.list_executions_by_status(
                workflow_id=workflow_id, status=status, after_at=after_at, after_id=after_id, limit=more
            )
        return page(rows, limit, lambda last: instant_text_cursor(scope, last.started_at, last.execution_id))

    @statement
    async def find(
        self, q: Queries, workflow_id: str, *, metadata: Json, after: str | None = None, limit: int = 50
    ) -> Page[Execution]:
        """The executions of a workflow whose metadata contain these, newest first. limit: 1 to 500.

        metadata: a dict of at most 100 values. Contained as ``@>`` of jsonb has it: an object has at least these
        keys, with values that contain these; an array has at least these elements, in any order and however often;
        text, numbers, true, false and null are equal, and 1 is 1.0. {} is contained in every object.
        """
        wanted = check_filter(metadata, "metadata")
        scope = f"find-executions:{_check_id(workflow_id, 'workflow_id')}:{wanted.text}"
        after_at, after_id = read_instant_text_cursor(scope, after)
        rows = await q.find_executions(
            workflow_id=workflow_id, metadata=wanted, after_at=after_at, after_id=after_id, limit=check_limit(limit) + 1
        )
        return page(rows, limit, lambda last: instant_text_cursor(scope, last.started_at, last.execution_id))

    @statement(write=True)
    async def complete(self, q: Queries, execution_id: str) -> Execution:
        """running → completed. Raises ExecutionNotFound; InvalidTransition with the state found."""
        return _ended(
            await q.mark_execution_ended(
                execution_id=_check_id(execution_id, "execution_id"), status="completed", error=None, now=self.clock()
            ),
            execution_id,
            "completed",
        )

    @statement(write=True)
    async def fail(self, q: Queries, execution_id: str, error: str) -> Execution:
        """running → error. Raises ExecutionNotFound; InvalidTransition with the state found."""
        return _ended(
            await q.mark_execution_ended(
                execution_id=_check_id(execution_id, "execution_id"),
                status="error",
                error=check_text(error, "error"),
                now=self.clock(),
            ),
            execution_id,
            "error",
        )

    @statement(write=True)
    async def cancel(self, q: Queries, execution_id: str, reason: str | None = None) -> Execution:
        """running → cancelled; the reason is kept as the execution's error.

        Raises ExecutionNotFound; InvalidTransition with the state found.
        """
        return _ended(
            await q.mark_execution_ended(
                execution_id=_check_id(execution_id, "execution_id"),
                status="cancelled",
                error=None if reason is None else check_text(reason, "reason"),
                now=self.clock(),
            ),
            execution_id,
            "cancelled",
        )

    @statement(write=True)
    async def append_step(self, q: Queries, execution_id: str, payload: Json) -> Step:
        """Add the next step to a running execution and return it.

        payload: any JSON value. Raises ExecutionNotFound; InvalidTransition once the execution has ended.
        """
        answer = await q.append_steps(
            execution_id=_check_id(execution_id, "execution_id"),
            payloads=[encode_json(payload, "payload")],
            now=self.clock(),
        )
        return _appended(answer, execution_id)[0]

    @statement(write=True)
    async def append_steps(self, q: Queries, execution_id: str, payloads: Sequence[Json]) -> Sequence[Step]:
        """Add the next steps to a running execution, all or none and one behind the other, and return them.

        payloads: a list or tuple of 1 to 1,000 JSON values, together at most 16 MiB encoded.
        Raises ExecutionNotFound; InvalidTransition once the execution has ended.
        """
        answer = await q.append_steps(
            execution_id=_check_id(execution_id, "execution_id"), payloads=_encode_all(payloads), now=self.clock()
        )
        return _appended(answer, execution_id)

    @statement
    async def steps(self, q: Queries, execution_id: str, *, after: str | None = None, limit: int = 50) -> Page[Step]:
        """The steps of an execution, oldest first; empty if there is no such execution. limit: 1 to 500."""
        scope = f"steps:{_check_id(execution_id, 'execution_id')}"
        rows = await q.list_steps(
            execution_id=execution_id,
            after=read_number_cursor(scope, after, first=-1),
            limit=check_limit(limit) + 1,
        )
        return page(rows, limit, lambda last: number_cursor(scope, last.idx))

    @stream
    async def stream(self, q: Queries, execution_id: str, *, after: str | None = None) -> Page[Step]:
        """All steps of an execution, oldest first, in bounded memory; none if there is no such execution.

        Read with ``for``, or ``async for``. after: a cursor of ``steps`` to begin behind. The steps are asked for in
        portions, each a statement of its own, so nothing is held meanwhile and steps appended meanwhile are seen. A
        portion is as many as 500 steps or about 1 MiB of payloads as stored, and at least one step.
        """
        scope = f"steps:{_check_id(execution_id, 'execution_id')}"
        rows = await q.list_steps_sized(
            execution_id=execution_id,
            after=read_number_cursor(scope, after, first=-1),
            limit=_STREAMED_STEPS,
            bytes=_STREAMED_BYTES,
        )
        found = [Step(row.execution_id, row.idx, row.at, row.payload) for row in rows]
        is_over = not rows or rows[-1].is_last
        return Page(found, None if is_over else number_cursor(scope, rows[-1].idx))

    @statement(write=True)
    async def prune(self, q: Queries, before: datetime, *, limit: int = 100) -> int:
        """Forget executions that ended before a time, oldest end first, with their steps; returns how many, fewer than
        limit at the end. Running ones stay.

        limit: 1 to 1,000 executions, whatever number of steps they have.
        """
        if not 1 <= check_int(limit, "limit") <= MAX_PRUNED:
            raise Invalid(f"{limit}; takes 1 to {MAX_PRUNED}", path="limit")
        return await q.delete_executions(before=before, limit=limit)


def _check_id(value: str, path: str) -> str:
    return check_length(value, path, 1, MAX_ID)


def _encode_all(payloads: Sequence[Json]) -> list[str]:
    if type(payloads) is not list and type(payloads) is not tuple:
        raise Invalid(f"takes a list or tuple, not {type(payloads).__name__}", path="payloads")
    if not 1 <= len(payloads) <= MAX_APPENDED:
        raise Invalid(f"{len(payloads)} steps; takes 1 to {MAX_APPENDED}", path="payloads")
    encoded, room = [], MAX_JSON_BYTES
    for at, payload in enumerate(payloads):
        text = encode_json(payload, f"payloads[{at}]")
        room -= len(text)
        if room < 0:
            raise Invalid(f"more than {MAX_JSON_BYTES} bytes of JSON together", path="payloads")
        encoded.append(text)
    return encoded


def _appended(answer: Sequence[Applied[Step]], execution_id: str) -> list[Step]:
    if not answer:
        missing(ExecutionNotFound, execution_id)
    steps = [each.row for each in answer if each.row is not None]
    if not steps:
        found = answer[0].found
        raise InvalidTransition(f"execution {_shown(execution_id)} is {found}, and takes no more steps", found=found)
    return steps


def _ended(answer: Applied[Execution] | None, execution_id: str, wanted: ExecutionStatus) -> Execution:
    row = applied(answer, ExecutionNotFound, execution_id).row
    if row is None:
        assert answer is not None  # applied saw to it
        raise InvalidTransition(
            f"execution {_shown(execution_id)} is {answer.found}, not to become {wanted}", found=answer.found
        )
    return row


def _shown(execution_id: str) -> str:
    return execution_id.encode("ascii", "backslashreplace").decode()

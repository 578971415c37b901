"""The endpoints: each one call of the DAL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import msgspec
from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from dal.adapters.fastapi import Database, StructResponse
from examples.server.bodies import (
    After,
    Cancellation,
    Ended,
    Failure,
    Key,
    Limit,
    Metadata,
    NewExecution,
    NewRun,
    NewSteps,
    NewVersion,
    NewWorkflow,
    Publication,
    Status,
    Success,
    WorkflowChange,
    refused,
)
from examples.server.callers import Actor, Admitted
from examples.server.once import Once, repeatable

workflows = APIRouter(prefix="/workflows", tags=["workflows"], dependencies=[Admitted])
runs = APIRouter(prefix="/runs", tags=["runs"], dependencies=[Admitted])
executions = APIRouter(prefix="/executions", tags=["history"], dependencies=[Admitted])


# --- workflows --------------------------------------------------------------------------------------------------------


@workflows.post("", status_code=201)
async def create_workflow(body: NewWorkflow, actor: Actor, once: Once) -> StructResponse:
    """A new workflow."""
    return await once(lambda db: db.workflows.create(**body.model_dump(), actor=actor), 201)


@workflows.get("")
async def list_workflows(
    db: Database, tag: str | None = None, include_archived: bool = False, after: After = None, limit: Limit = 50
) -> StructResponse:
    """Workflows, newest first."""
    return StructResponse(await db.workflows.list(tag=tag, include_archived=include_archived, after=after, limit=limit))


@workflows.get("/{ref}")
async def get_workflow(ref: str, db: Database) -> StructResponse:
    """One workflow, by its handle or its id."""
    return StructResponse(await db.workflows.resolve(ref))


@workflows.patch("/{id}")
async def update_workflow(id: UUID, body: WorkflowChange, actor: Actor, db: Database) -> StructResponse:
    """Change what is given; with expected_revision only if nobody else has changed it since."""
    return StructResponse(await db.workflows.update(id, **body.model_dump(exclude_unset=True), actor=actor))


@workflows.post("/{id}/archive")
async def archive_workflow(id: UUID, actor: Actor, once: Once) -> StructResponse:
    """Archive and unpublish."""
    return await once(lambda db: db.workflows.archive(id, actor=actor))


@workflows.post("/{id}/unarchive")
async def unarchive_workflow(id: UUID, actor: Actor, once: Once) -> StructResponse:
    """Make active again."""
    return await once(lambda db: db.workflows.unarchive(id, actor=actor))


@workflows.post("/{id}/publish")
async def publish_workflow(id: UUID, actor: Actor, once: Once, body: Publication | None = None) -> StructResponse:
    """Make public."""
    require_login = body is not None and body.require_login
    return await once(lambda db: db.workflows.publish(id, require_login=require_login, actor=actor))


@workflows.post("/{id}/unpublish")
async def unpublish_workflow(id: UUID, actor: Actor, once: Once) -> StructResponse:
    """Make private again."""
    return await once(lambda db: db.workflows.unpublish(id, actor=actor))


@workflows.get("/{id}/events")
async def list_workflow_events(id: UUID, db: Database, after: After = None, limit: Limit = 50) -> StructResponse:
    """The audit trail of a workflow and its versions, oldest first."""
    return StructResponse(await db.workflows.events(id, after=after, limit=limit))


# --- versions ---------------------------------------------------------------------------------------------------------


@workflows.post("/{id}/versions", status_code=201)
async def create_version(id: UUID, body: NewVersion, actor: Actor, once: Once) -> StructResponse:
    """The next version of a workflow."""
    return await once(lambda db: db.versions.create(id, **body.model_dump(), actor=actor), 201)


@workflows.get("/{id}/versions")
async def list_versions(id: UUID, db: Database, after: After = None, limit: Limit = 50) -> StructResponse:
    """The versions of a workflow, newest first."""
    return StructResponse(await db.versions.list(id, after=after, limit=limit))


@workflows.get("/{id}/versions/latest")
async def get_version_latest(id: UUID, db: Database) -> StructResponse:
    """The newest version of a workflow."""
    return StructResponse(await db.versions.latest(id))


@workflows.get("/{id}/versions/{number}")
async def get_version(id: UUID, number: int, db: Database) -> StructResponse:
    """One version of a workflow, by its number."""
    return StructResponse(await db.versions.get_number(id, number))


# --- runs -------------------------------------------------------------------------------------------------------------


@workflows.post("/{id}/runs", status_code=201)
async def create_run(id: UUID, body: NewRun, actor: Actor, db: Database, key: Key = None) -> StructResponse:
    """A pending run of the workflow's latest version. The run itself keeps its key."""
    with repeatable(key):
        run = await db.runs.create(id, **body.model_dump(), actor=actor, idempotency_key=key)
    return StructResponse(run, 201)


@workflows.get("/{id}/runs")
async def list_runs(
    id: UUID, db: Database, status: Status = None, after: After = None, limit: Limit = 50
) -> StructResponse:
    """The runs of a workflow, newest first."""
    return StructResponse(await db.runs.list(id, status=status, after=after, limit=limit))


@runs.get("/{id}")
async def get_run(id: UUID, db: Database) -> StructResponse:
    """One run."""
    return StructResponse(await db.runs.get(id))


@runs.post("/{id}/start")
async def start_run(id: UUID, actor: Actor, once: Once) -> StructResponse:
    """pending → running."""
    return await once(lambda db: db.runs.start(id, actor=actor))


@runs.post("/{id}/succeed")
async def succeed_run(id: UUID, body: Success, actor: Actor, once: Once) -> StructResponse:
    """running → succeeded."""
    return await once(lambda db: db.runs.succeed(id, body.output, actor=actor))


@runs.post("/{id}/fail")
async def fail_run(id: UUID, body: Failure, actor: Actor, once: Once) -> StructResponse:
    """pending or running → failed."""
    return await once(lambda db: db.runs.fail(id, body.error, actor=actor))


@runs.post("/{id}/cancel")
async def cancel_run(id: UUID, actor: Actor, once: Once, body: Cancellation | None = None) -> StructResponse:
    """pending or running → cancelled."""
    reason = body.reason if body else None
    return await once(lambda db: db.runs.cancel(id, reason, actor=actor))


@runs.get("/{id}/events")
async def list_run_events(id: UUID, db: Database, after: After = None, limit: Limit = 50) -> StructResponse:
    """The audit trail of a run, oldest first."""
    return StructResponse(await db.runs.events(id, after=after, limit=limit))


# --- history ----------------------------------------------------------------------------------------------------------


@executions.post("", status_code=201)
async def start_execution(body: NewExecution, once: Once) -> StructResponse:
    """A running execution without steps."""
    return await once(lambda db: db.history.start(**body.model_dump()), 201)


@executions.get("")
async def list_executions(
    workflow_id: str, db: Database, status: Ended = None, metadata: Metadata = None, after: After = None,
    limit: Limit = 50,
) -> StructResponse:  # fmt: skip
    """The executions of a workflow, newest first: all, those with a status, or those whose metadata contain these."""
    if metadata is None:
        return StructResponse(await db.history.list(workflow_id, status=status, after=after, limit=limit))
    if status is not None:
        raise refused("query", "metadata", "give status or metadata, not both")
    try:
        wanted = msgspec.json.decode(metadata)
    except msgspec.DecodeError as error:
        raise refused("query", "metadata", str(error)) from error
    return StructResponse(await db.history.find(workflow_id, metadata=wanted, after=after, limit=limit))


@executions.get("/{id}")
async def get_execution(id: str, db: Database) -> StructResponse:
    """One execution, without its steps."""
    return StructResponse(await db.history.get(id))


@executions.post("/{id}/steps", status_code=201)
async def append_steps(id: str, body: NewSteps, once: Once) -> StructResponse:
    """Add the next steps. Send an Idempotency-Key, and a request that is sent again adds none."""
    return await once(lambda db: db.history.append_steps(id, body.payloads), 201)


@executions.get("/{id}/steps")
async def list_steps(id: str, db: Database, after: After = None, limit: Limit = 50) -> StructResponse:
    """The steps of an execution, oldest first."""
    return StructResponse(await db.history.steps(id, after=after, limit=limit))


@executions.get("/{id}/steps/stream")
async def stream_steps(id: str, db: Database, after: After = None) -> StreamingResponse:
    """All steps of an execution, oldest first, a JSON document a line, however many there are."""
    await db.history.get(id)  # once the answer has begun, there is no other status to be told

    async def lines() -> AsyncIterator[bytes]:
        async for step in db.history.stream(id, after=after):
            yield msgspec.json.encode(step) + b"\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@executions.post("/{id}/complete")
async def complete_execution(id: str, once: Once) -> StructResponse:
    """running → completed."""
    return await once(lambda db: db.history.complete(id))


@executions.post("/{id}/fail")
async def fail_execution(id: str, body: Failure, once: Once) -> StructResponse:
    """running → error."""
    return await once(lambda db: db.history.fail(id, body.error))


@executions.post("/{id}/cancel")
async def cancel_execution(id: str, once: Once, body: Cancellation | None = None) -> StructResponse:
    """running → cancelled."""
    return await once(lambda db: db.history.cancel(id, body.reason if body else None))

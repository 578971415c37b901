"""What requests carry: headers, query parameters, bodies. Only their form is checked here; the rules are the DAL's."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Query
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict

from dal import DraftAccess, ExecutionStatus, Json, RunStatus

# Sent again with the same request, it gets the first answer again.
Key = Annotated[str | None, Header(alias="Idempotency-Key")]
After = Annotated[str | None, Query(description="the `next` of the page before")]
Limit = Annotated[int, Query(description="1 to 500")]
Status = Annotated[RunStatus | None, Query()]
Ended = Annotated[ExecutionStatus | None, Query()]
Metadata = Annotated[str | None, Query(description='what they contain, as JSON: {"customer": "acme"}')]


def refused(place: str, name: str, words: str) -> RequestValidationError:
    """A request that is wrong in a way that FastAPI does not find by itself; place: header or query."""
    return RequestValidationError([{"type": "value_error", "loc": (place, name), "msg": words}])


class Body(BaseModel):
    """A misspelt member is refused, not ignored."""

    model_config = ConfigDict(extra="forbid")


class NewWorkflow(Body):
    """POST /workflows."""

    name: str
    handle: str | None = None
    description: str | None = None
    tags: list[str] = []
    draft_access: DraftAccess = "personal"
    chat_config: Json = None


class WorkflowChange(Body):
    """PATCH /workflows/{id}: what is left out stays as it is."""

    name: str = ""
    handle: str | None = None
    description: str | None = None
    tags: list[str] = []
    draft_access: DraftAccess = "personal"
    chat_config: Json = None
    expected_revision: int | None = None


class Publication(Body):
    """POST /workflows/{id}/publish."""

    require_login: bool = False


class NewVersion(Body):
    """POST /workflows/{id}/versions."""

    graph: Json
    mermaid: str | None = None
    metadata: Json = None
    runnable_config: Json = None
    notes: str | None = None


class NewRun(Body):
    """POST /workflows/{id}/runs."""

    inputs: Json = None
    runnable_config: Json = None
    tags: list[str] = []
    metadata: Json = None
    name: str | None = None


class Success(Body):
    """POST /runs/{id}/succeed."""

    output: Json = None


class Failure(Body):
    """POST /runs/{id}/fail, POST /executions/{id}/fail."""

    error: str


class Cancellation(Body):
    """POST /runs/{id}/cancel, POST /executions/{id}/cancel."""

    reason: str | None = None


class NewExecution(Body):
    """POST /executions."""

    execution_id: str
    workflow_id: str
    inputs: Json = {}
    runnable_config: Json = None
    tags: list[str] = []
    metadata: Json = {}
    run_name: str | None = None
    trace_id: str | None = None


class NewSteps(Body):
    """POST /executions/{id}/steps: 1 to 1,000 of them, all or none."""

    payloads: list[Json]

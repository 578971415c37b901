"""Optimizer checkpoints: the configurations that were tried for a workflow, how each did, and which is the best.

Checkpoints are numbered by the recording statement itself, and nothing of one changes. Whether it is the best stands
with its workflow: at most one is, however many are recorded or marked as best at once. A workflow is known by a text of
the caller's; nothing else in the database is asked about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from dal.core.cursors import Page, check_limit, number_cursor, page, read_number_cursor
from dal.core.face import M, Queries, Store, missing, statement
from dal.core.rows import Encoded, Json, check_bool, check_int
from dal.digests import uuid7
from dal.errors import AlreadyExists, CheckpointNotFound, Invalid, VersionTaken
from dal.stores.checks import check_filter, check_length

MAX_ID = 128  # characters
MAX_VERSION = 2**53 - 1  # what every reader of JSON takes exactly
MAX_METRICS = 1000  # because each is a row of its own
_NEWEST = 2**63 - 1
_VERSION_KEY = "checkpoints_version_key"


class Checkpoint(Struct, frozen=True):
    """One checkpoint, and whether it is the best of its workflow."""

    id: str
    workflow_id: str
    config_version: int  # 1, 2, 3 … for each workflow, unless another number was given
    runnable_config: Json
    metrics: Json
    metadata: Json
    artifact_url: str | None
    is_best: bool  # when it was read
    created_at: datetime


class Checkpoints(Store[M]):
    """``db.checkpoints``."""

    @statement(write=True)
    async def record(
        self,
        q: Queries,
        workflow_id: str,
        *,
        runnable_config: Json,
        id: str | None = None,
        config_version: int | None = None,
        metrics: Json | None = None,
        metadata: Json | None = None,
        artifact_url: str | None = None,
        is_best: bool = False,
    ) -> Checkpoint:
        """A new checkpoint of a workflow.

        workflow_id, id: 1 to 128 characters; an id is made if none is given. config_version: 1 to 2**53 - 1; by default
        the one behind the workflow's highest, however many callers record at once. metrics: a dict of at most 1,000
        names of 1 to 128 characters; those whose value is a number can be sorted by, with ``top``. metadata: a dict.
        Every value in either is indexed, for ``find``. is_best: in the place of the one that was the best.
        Raises AlreadyExists if there is a checkpoint with this id, VersionTaken if the workflow has the version.
        """
        if config_version is not None and not 1 <= check_int(config_version, "config_version") <= MAX_VERSION:
            raise Invalid(f"{config_version}; takes 1 to {MAX_VERSION}", path="config_version")
        try:
            answer = await q.create_checkpoint(
                id=str(uuid7()) if id is None else _check_id(id, "id"),
                workflow_id=_check_id(workflow_id, "workflow_id"),
                config_version=config_version,
                runnable_config=runnable_config,
                metrics={} if metrics is None else _check_metrics(metrics),
                metadata={} if metadata is None else _check_dict(metadata, "metadata"),
                artifact_url=artifact_url,
                is_best=check_bool(is_best, "is_best"),
                now=self.clock(),
            )
        except AlreadyExists as error:
            if error.constraint != _VERSION_KEY:
                raise
            raise _version_taken(workflow_id, config_version) from error
        assert answer is not None  # it is one row in any case
        if answer.row is not None:
            return answer.row
        if answer.found == "version":
            raise _version_taken(workflow_id, config_version)
        raise AlreadyExists("a checkpoint has this id", constraint="checkpoints_pkey")

    @statement
    async def get(self, q: Queries, id: str) -> Checkpoint:
        """One checkpoint. Raises CheckpointNotFound."""
        return await q.get_checkpoint(id=_check_id(id, "id")) or missing(CheckpointNotFound, id)

    @statement
    async def latest(self, q: Queries, workflow_id: str) -> Checkpoint:
        """The checkpoint with the highest version. Raises CheckpointNotFound if the workflow has none."""
        found = await q.get_checkpoint_latest(workflow_id=_check_id(workflow_id, "workflow_id"))
        return found or missing(CheckpointNotFound, f"latest of workflow {workflow_id}")

    @statement
    async def best(self, q: Queries, workflow_id: str) -> Checkpoint:
        """The checkpoint last recorded or marked as the best. Raises CheckpointNotFound if none of the workflow was."""
        found = await q.get_checkpoint_best(workflow_id=_check_id(workflow_id, "workflow_id"))
        return found or missing(CheckpointNotFound, f"best of workflow {workflow_id}")

    @statement
    async def list(
        self, q: Queries, workflow_id: str, *, after: str | None = None, limit: int = 50
    ) -> Page[Checkpoint]:
        """The checkpoints of a workflow, highest version first; none if nothing of it was recorded. limit: 1 to 500."""
        scope = f"checkpoints:{_check_id(workflow_id, 'workflow_id')}"
        before = read_number_cursor(scope, after, first=_NEWEST)
        rows = await q.list_checkpoints(workflow_id=workflow_id, before=before, limit=check_limit(limit) + 1)
        return page(rows, limit, lambda last: number_cursor(scope, last.config_version))

    @statement
    async def find(
        self,
        q: Queries,
        workflow_id: str,
        *,
        metadata: Json | None = None,
        metrics: Json | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[Checkpoint]:
        """The checkpoints of a workflow whose metadata, metrics or both contain these, highest version first.

        metadata, metrics: a dict of at most 100 values; at least one of them. Contained as in ``history.find``.
        limit: 1 to 500.
        """
        if metadata is None and metrics is None:
            raise Invalid("give metadata, metrics or both", path="metadata")
        in_metadata = check_filter({} if metadata is None else metadata, "metadata")
        in_metrics = check_filter({} if metrics is None else metrics, "metrics")
        scope = f"find-checkpoints:{_check_id(workflow_id, 'workflow_id')}:{in_metadata.text}:{in_metrics.text}"
        rows = await q.find_checkpoints(
            workflow_id=workflow_id,
            metadata=in_metadata,
            metrics=in_metrics,
            before=read_number_cursor(scope, after, first=_NEWEST),
            limit=check_limit(limit) + 1,
        )
        return page(rows, limit, lambda last: number_cursor(scope, last.config_version))

    @statement
    async def top(
        self, q: Queries, workflow_id: str, metric: str, *, limit: int = 50, lowest_first: bool = False
    ) -> Sequence[Checkpoint]:
        """The checkpoints of a workflow with the highest numbers for a metric, highest first.

        metric: a name in the metrics, of 1 to 128 characters. Checkpoints without it, or with something else than a
        number, are left out. Numbers are compared as floats of 64 bits; of equal ones the highest version comes first.
        limit: 1 to 500. lowest_first: the same order from its other end, as for a loss.
        """
        select = q.list_checkpoints_lowest if check_bool(lowest_first, "lowest_first") else q.list_checkpoints_highest
        return await select(
            workflow_id=_check_id(workflow_id, "workflow_id"),
            metric=_check_id(metric, "metric"),
            limit=check_limit(limit),
        )

    @statement(write=True)
    async def mark_best(self, q: Queries, id: str) -> Checkpoint:
        """Make a checkpoint the best of its workflow, in the place of the one that was. Raises CheckpointNotFound."""
        return await q.mark_checkpoint_best(id=_check_id(id, "id")) or missing(CheckpointNotFound, id)


def _check_id(value: str, path: str) -> str:
    return check_length(value, path, 1, MAX_ID)


def _check_dict(value: Json, path: str) -> Encoded:
    if type(value) is not dict:
        raise Invalid(f"takes a dict, not {type(value).__name__}", path=path)
    return Encoded.of(value, path)


def _check_metrics(value: Json) -> Encoded:
    encoded = _check_dict(value, "metrics")  # whose keys are text, then
    if len(value) > MAX_METRICS:
        raise Invalid(f"{len(value)} metrics; takes at most {MAX_METRICS}", path="metrics")
    for name in value:
        if not 1 <= len(name) <= MAX_ID:
            raise Invalid(f"a name of {len(name)} characters; takes 1 to {MAX_ID}", path="metrics")
    return encoded


def _version_taken(workflow_id: str, config_version: int | None) -> VersionTaken:
    which = "the next" if config_version is None else config_version  # the next: if rows were written past the store
    shown = workflow_id.encode("ascii", "backslashreplace").decode()
    return VersionTaken(f"version {which} of workflow {shown}", constraint=_VERSION_KEY)

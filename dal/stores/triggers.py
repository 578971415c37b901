"""Triggers: what makes runs. Webhooks, schedules and retries have modules of their own; here is what people start."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec

from dal.core.face import M, Queries, missing, statement
from dal.core.rows import MAX_JSON_BYTES, Encoded, Json
from dal.digests import uuid7
from dal.errors import Invalid, VersionNotFound, WorkflowArchived, WorkflowNotFound
from dal.stores.checks import check_key
from dal.stores.crons import Crons
from dal.stores.retries import Retries
from dal.stores.runs import Run
from dal.stores.webhooks import Webhooks

MAX_MANUAL = 100


class Triggers(Webhooks[M], Crons[M], Retries[M]):
    """``db.triggers``."""

    @statement(write=True)
    async def dispatch_manual(
        self,
        q: Queries,
        workflow_id: UUID,
        runs: Sequence[tuple[UUID | None, Json]],
        *,
        actor: str,
        label: str = "manual",
    ) -> Sequence[Run]:
        """1 to 100 pending runs at once, all or none, in the order given.

        runs: for each the id of a version of this workflow, None for the latest, and the inputs; together at most 16
        MiB. label: the runs' triggered_by. Raises WorkflowNotFound, WorkflowArchived; VersionNotFound naming the first
        version that is not there.
        """
        answers = await q.create_manual_runs(
            workflow_id=workflow_id,
            items=_items(runs),
            triggered_by=check_key(label, "label"),
            actor=check_key(actor, "actor"),
            now=self.clock(),
        )
        if not answers:
            missing(WorkflowNotFound, workflow_id)
        made = [answer.row for answer in answers if answer.row]
        if not made:
            found = answers[0].found or ""
            if found == "archived":
                raise WorkflowArchived(str(workflow_id), found=found)
            missing(VersionNotFound, f"{found.removeprefix('version ')} of workflow {workflow_id}")
        return made


def _items(runs: Sequence[tuple[UUID | None, Json]]) -> Encoded:
    """The items of a dispatch as one document. Each one's inputs are checked alone: they are stored alone."""
    if type(runs) is not list and type(runs) is not tuple:
        raise Invalid(f"takes a list or tuple, not {type(runs).__name__}", path="runs")
    if not 1 <= len(runs) <= MAX_MANUAL:
        raise Invalid(f"{len(runs)} runs; takes 1 to {MAX_MANUAL}", path="runs")
    pieces = []
    for at, item in enumerate(runs):
        if type(item) not in (tuple, list) or len(item) != 2:
            raise Invalid("takes a pair: the id of a version, or None, and the inputs", path=f"runs[{at}]")
        version_id, inputs = item
        if version_id is not None and not isinstance(version_id, UUID):
            raise Invalid(f"takes UUID or None, not {type(version_id).__name__}", path=f"runs[{at}][0]")
        head = {"id": str(uuid7()), "version_id": None if version_id is None else UUID.__str__(version_id)}
        document = Encoded.of(inputs, f"runs[{at}][1]").text
        pieces.append(f'{msgspec.json.encode(head).decode()[:-1]},"inputs":{document}}}')
    if sum(map(len, pieces)) > MAX_JSON_BYTES:
        raise Invalid(f"more than {MAX_JSON_BYTES} bytes of inputs", path="runs")
    return Encoded(f"[{','.join(pieces)}]")

"""Versions: the graphs of a workflow, numbered from 1 without gaps. A graph never changes once it is stored."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from msgspec import Struct

from dal.core.cursors import Page, check_limit, number_cursor, page, read_number_cursor
from dal.core.face import M, Queries, Store, applied, missing, statement
from dal.core.rows import Encoded, Json, check_int
from dal.digests import content_hash, uuid7
from dal.errors import VersionNotFound, WorkflowArchived, WorkflowNotFound
from dal.stores.checks import check_key

_NEWEST = 2**63 - 1


class Version(Struct, frozen=True):
    """One version of a workflow."""

    id: UUID
    workflow_id: UUID
    number: int  # 1, 2, 3 … for each workflow
    graph: Json
    graph_hash: str  # v1: and the SHA-256 of the graph as compact JSON with sorted keys
    mermaid: str | None
    metadata: Json
    runnable_config: Json
    notes: str | None
    created_at: datetime
    created_by: str
    updated_at: datetime


def graph_hash(graph: Json) -> str:
    """The content hash that a graph is stored under; the same on every database. Raises Invalid."""
    return _hash(Encoded.of(graph, "graph"))


def _hash(graph: Encoded) -> str:
    return content_hash(graph.text.encode())


class Versions(Store[M]):
    """``db.versions``."""

    @statement(write=True)
    async def create(
        self,
        q: Queries,
        workflow_id: UUID,
        graph: Json,
        *,
        actor: str,
        mermaid: str | None = None,
        metadata: Json | None = None,
        runnable_config: Json = None,
        notes: str | None = None,
    ) -> Version:
        """The next version of a workflow; its number follows the last one's, however many callers create at once.

        graph: any JSON value, at most 16 MiB encoded. Raises WorkflowNotFound, WorkflowArchived.
        """
        document = Encoded.of(graph, "graph")
        answer = applied(
            await q.create_version(
                id=uuid7(),
                workflow_id=workflow_id,
                graph=document,
                graph_hash=_hash(document),
                mermaid=mermaid,
                metadata={} if metadata is None else metadata,
                runnable_config=runnable_config,
                notes=notes,
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
    async def get(self, q: Queries, id: UUID) -> Version:
        """One version. Raises VersionNotFound."""
        return await q.get_version(id=id) or missing(VersionNotFound, id)

    @statement
    async def get_number(self, q: Queries, workflow_id: UUID, number: int) -> Version:
        """The version of a workflow with this number. Raises VersionNotFound."""
        found = await q.get_version_number(workflow_id=workflow_id, number=number)
        return found or missing(VersionNotFound, f"number {number} of workflow {workflow_id}")

    @statement
    async def latest(self, q: Queries, workflow_id: UUID) -> Version:
        """The version with the highest number. Raises VersionNotFound if the workflow has none, or does not exist."""
        found = await q.get_version_latest(workflow_id=workflow_id)
        return found or missing(VersionNotFound, f"latest of workflow {workflow_id}")

    @statement
    async def find_by_hash(self, q: Queries, workflow_id: UUID, hash: str) -> Version:
        """The newest version whose graph has this content hash. Raises VersionNotFound."""
        found = await q.get_version_by_hash(workflow_id=workflow_id, graph_hash=check_key(hash, "hash"))
        return found or missing(VersionNotFound, f"graph {hash} of workflow {workflow_id}")

    @statement
    async def list(self, q: Queries, workflow_id: UUID, *, after: str | None = None, limit: int = 50) -> Page[Version]:
        """The versions of a workflow, newest first; none if there is no such workflow. limit: 1 to 500."""
        scope = f"versions:{workflow_id}"
        before = read_number_cursor(scope, after, first=_NEWEST)
        rows = await q.list_versions(workflow_id=workflow_id, before=before, limit=check_limit(limit) + 1)
        return page(rows, limit, lambda last: number_cursor(scope, last.number))

    @statement(write=True)
    async def set_runnable_config(
        self, q: Queries, workflow_id: UUID, number: int, config: Json, *, actor: str
    ) -> Version:
        """Replace a version's runnable_config; None clears it. Raises VersionNotFound."""
        version = await q.update_version_config(
            workflow_id=workflow_id,
            number=number,
            runnable_config=config,
            actor=check_key(actor, "actor"),
            now=self.clock(),
        )
        return version or missing(VersionNotFound, f"number {number} of workflow {workflow_id}")

    @statement
    async def diff(self, q: Queries, workflow_id: UUID, a: int, b: int) -> Sequence[str]:
        """The lines of a unified diff from version ``a`` to version ``b``, no line ends; empty if the graphs are equal.

        The graphs are compared as JSON indented by 2 with sorted keys. Raises VersionNotFound naming the missing one.
        """
        numbers = [check_int(a, "a"), check_int(b, "b")]
        found = await q.list_versions_numbered(workflow_id=workflow_id, numbers=numbers)
        graphs = {version.number: version.graph for version in found}
        for number in numbers:
            if number not in graphs:
                missing(VersionNotFound, f"number {number} of workflow {workflow_id}")
        return list(
            difflib.unified_diff(_pretty(graphs[a]), _pretty(graphs[b]), f"version {a}", f"version {b}", lineterm="")
        )


def _pretty(graph: Json) -> list[str]:
    return json.dumps(graph, indent=2, sort_keys=True, ensure_ascii=False).split("\n")

"""Rows to test with, and what tests of every store do with pages."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from dal import Dal, Execution, Minted, Page, Run, Sync, Version, Workflow

T = TypeVar("T")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOBODY = UUID("0190c8a0-0000-7000-8000-000000000000")  # the id of nothing


def a_workflow(db: Dal[Sync], name: str = "Invoices", **given: Any) -> Workflow:
    return db.workflows.create(name, actor="ann", **given)


def a_version(db: Dal[Sync], workflow: Workflow | None = None, graph: Any = None, **given: Any) -> Version:
    """A version with a small graph, of a new workflow by default."""
    workflow = workflow or a_workflow(db)
    return db.versions.create(workflow.id, {"nodes": []} if graph is None else graph, actor="ann", **given)


def a_run(db: Dal[Sync], version: Version | None = None, **given: Any) -> Run:
    """A pending run, of a new workflow by default."""
    version = version or a_version(db)
    return db.runs.create(version.workflow_id, version_id=version.id, actor="ann", **given)


EXECUTIONS = itertools.count(1)


def an_execution(db: Dal[Sync], workflow_id: str = "invoices", **given: Any) -> Execution:
    """A running execution without steps; its id sorts behind those made before."""
    return db.history.start(given.pop("execution_id", f"e{next(EXECUTIONS):08}"), workflow_id, **given)


TOKENS = itertools.count(1)


def a_token(db: Dal[Sync], name: str | None = None, **given: Any) -> Minted:
    """A service token, by default with a name that none had before."""
    return db.tokens.mint(name or f"token {next(TOKENS)}", actor="ann", **given)


def all_pages(page: Callable[..., Page[T]], limit: int, between: Callable[[], object] | None = None) -> list[T]:
    """Every item of a list, page by page; ``between`` is called after each page."""
    items: list[T] = []
    cursor: str | None = None
    for _ in range(1000):
        found = page(after=cursor, limit=limit)
        items += found.items
        if found.next is None:
            return items
        assert len(found.items) == limit, f"a page of {len(found.items)} has a next one; the limit is {limit}"
        cursor = found.next
        if between:
            between()
    raise AssertionError("1000 pages and no end")


def trail(page: Page[Any]) -> list[tuple[int, str, str]]:
    """An audit trail as (number, actor, action), oldest first."""
    return [(event.number, event.actor, event.action) for event in page.items]

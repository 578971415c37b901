"""A database as a workflow server has after some weeks, the same every time: a few heavy workflows, many light ones.

Written with COPY, because a hundred thousand calls of the DAL would take a minute; what it leaves is what those calls
would leave: numbers without gaps, counters that agree, an event for every change.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from random import Random
from uuid import UUID

import psycopg

from dal.stores.versions import graph_hash

WORKFLOWS = 2000
HEAVY = 4  # workflows
HEAVY_RUNS = 5000  # of each
LIGHT_RUNS = 20  # at most
TAGS = 40

_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_BLOCK = 500  # rows
_EVENTS = {"pending": 1, "running": 2, "succeeded": 3, "failed": 3, "cancelled": 2}  # of a run, by its status


@dataclass(frozen=True)
class SeededRun:
    """A run, and what reading it must say."""

    id: UUID
    workflow_id: UUID
    status: str
    ticket: int  # its inputs


@dataclass(frozen=True)
class SeededWorkflow:
    """A workflow, and what reading it must say."""

    id: UUID
    handle: str
    created_at: datetime
    tags: tuple[str, ...]
    versions: int
    runs: list[SeededRun] = field(default_factory=list)


def graph(number: int) -> object:
    """The graph of version ``number`` of any workflow."""
    nodes = [{"id": f"step-{at}", "type": "agent", "config": {"retries": at % 3}} for at in range(number % 7 + 2)]
    return {"nodes": nodes, "edges": [[at, at + 1] for at in range(len(nodes) - 1)], "revision": number}


def make() -> list[SeededWorkflow]:
    """The workflows with their runs, oldest first; the heavy ones come first."""
    random = Random(2026)
    made = []
    for number in range(WORKFLOWS):
        at = _BEGIN + timedelta(minutes=number)
        tags = (f"team-{number % TAGS}", "daily") if number % 2 else (f"team-{number % TAGS}",)
        workflow = SeededWorkflow(_id(random, at), f"flow-{number}", at, tags, 30 if number < HEAVY else 1 + number % 3)
        for ticket in range(HEAVY_RUNS if number < HEAVY else random.randrange(LIGHT_RUNS + 1)):
            status = random.choices([*_EVENTS], [2, 1, 80, 12, 5])[0]
            workflow.runs.append(SeededRun(_id(random, _run_at(at, ticket)), workflow.id, status, ticket))
        made.append(workflow)
    return made


def refuse_used(dsn: str) -> None:
    """Raise SystemExit for a database that has tables already: somebody may need it."""
    with psycopg.connect(dsn) as connection:
        if connection.execute("select 1 from pg_tables where schemaname = 'public' limit 1").fetchone():
            raise SystemExit("This database has tables already; the load test needs an empty one of its own.")


def write(dsn: str, workflows: list[SeededWorkflow]) -> None:
    """Fill a database that has the schema and nothing else."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        with connection.transaction():
            _copy(connection, "workflows", _workflow_rows(workflows))
            _copy(connection, "workflow_tags", _tag_rows(workflows))
            _copy(connection, "workflow_versions", _version_rows(workflows))
            _copy(connection, "workflow_events", _workflow_event_rows(workflows))
            _copy(connection, "runs", _run_rows(workflows))
            _copy(connection, "run_events", _run_event_rows(workflows))
        connection.execute("vacuum (analyze)")


def _id(random: Random, at: datetime) -> UUID:
    """A UUID of version 7 for this instant."""
    milliseconds = int(at.timestamp() * 1000)
    return UUID(int=milliseconds << 80 | 7 << 76 | random.getrandbits(12) << 64 | 2 << 62 | random.getrandbits(62))


def _version_id(workflow: SeededWorkflow, number: int) -> UUID:
    return UUID(int=workflow.id.int + number)


def _run_at(at: datetime, ticket: int) -> datetime:
    return at + timedelta(seconds=60 + 7 * ticket)


Values = dict[str, object]


def _copy(connection: psycopg.Connection[tuple[object, ...]], table: str, rows: Iterable[Values]) -> None:
    """Write rows of one shape, as text. The generated values hold no tab, line end or backslash."""
    pending = iter(rows)
    block = list(islice(pending, _BLOCK))
    with connection.cursor().copy(f"copy {table} ({', '.join(block[0])}) from stdin") as copy:
        while block:
            copy.write("".join(map(_line, block)))
            block = list(islice(pending, _BLOCK))


def _line(row: Values) -> str:
    return "\t".join(["\\N" if value is None else str(value) for value in row.values()]) + "\n"


def _workflow_rows(workflows: list[SeededWorkflow]) -> Iterator[Values]:
    for number, workflow in enumerate(workflows):
        yield {
            "id": workflow.id, "handle": workflow.handle, "name": f"Flow {number}", "slug": workflow.handle,
            "description": "Reads the inbox and files the answer.", "tags": json.dumps(workflow.tags),
            "draft_access": "personal", "last_version": workflow.versions, "last_event": workflow.versions + 1,
            "created_at": workflow.created_at, "created_by": "seed", "updated_at": workflow.created_at,
        }  # fmt: skip


def _tag_rows(workflows: list[SeededWorkflow]) -> Iterator[Values]:
    for workflow in workflows:
        for tag in workflow.tags:
            yield {
                "workflow_id": workflow.id, "tag": tag, "created_at": workflow.created_at, "is_archived": False
            }  # fmt: skip


def _version_rows(workflows: list[SeededWorkflow]) -> Iterator[Values]:
    graphs = {number: (json.dumps(graph(number)), graph_hash(graph(number))) for number in range(1, 31)}
    for workflow in workflows:
        for number in range(1, workflow.versions + 1):
            text, digest = graphs[number]
            at = workflow.created_at + timedelta(seconds=number)
            yield {
                "id": _version_id(workflow, number), "workflow_id": workflow.id, "number": number, "graph": text,
                "graph_hash": digest, "metadata": "{}", "created_at": at, "created_by": "seed", "updated_at": at,
            }  # fmt: skip


def _workflow_event_rows(workflows: list[SeededWorkflow]) -> Iterator[Values]:
    for workflow in workflows:
        for number in range(1, workflow.versions + 2):
            yield {
                "workflow_id": workflow.id, "number": number, "actor": "seed",
                "action": "created" if number == 1 else "version_created",
                "at": workflow.created_at + timedelta(seconds=number - 1),
                "metadata": "{}" if number == 1 else json.dumps({"number": number - 1}),
            }  # fmt: skip


def _run_rows(workflows: list[SeededWorkflow]) -> Iterator[Values]:
    for workflow in workflows:
        for run in workflow.runs:
            at = _run_at(workflow.created_at, run.ticket)
            ended = run.status not in ("pending", "running")
            started = run.status not in ("pending", "cancelled")
            yield {
                "id": run.id, "workflow_id": workflow.id, "version_id": _version_id(workflow, workflow.versions),
                "status": run.status, "triggered_by": "seed",
                "inputs": json.dumps({"ticket": run.ticket, "text": "Where is my order?"}), "tags": "[]",
                "callbacks": "[]", "metadata": '{"source": "mail"}',
                "output": '{"answer": "On its way."}' if run.status == "succeeded" else None,
                "error": "the model did not answer" if run.status == "failed" else None,
                "last_event": _EVENTS[run.status], "created_at": at,
                "started_at": at + timedelta(seconds=1) if started else None,
                "completed_at": at + timedelta(seconds=2) if ended else None, "updated_at": at,
            }  # fmt: skip


def _run_event_rows(workflows: list[SeededWorkflow]) -> Iterator[Values]:
    for workflow in workflows:
        for run in workflow.runs:
            at = _run_at(workflow.created_at, run.ticket)
            actions = ["created", "cancelled"] if run.status == "cancelled" else ["created", "started", run.status]
            for number, action in enumerate(actions[: _EVENTS[run.status]], 1):
                yield {
                    "run_id": run.id, "number": number, "actor": "seed", "action": action,
                    "at": at + timedelta(seconds=number - 1), "metadata": "{}",
                }  # fmt: skip

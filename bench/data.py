"""The same rows for everybody: workflows, versions and runs, made through the DAL on either database."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from dal.core.face import Sync
from dal.dal import Dal

WORKFLOWS = 200
RUNS = 200  # of the one heavy workflow


@dataclass(frozen=True)
class Seed:
    """Ids to ask for. workflows: each with one version whose graph is small; versions: their ids, in the same order.
    big: the id of a version with a graph of 4 KB."""

    workflows: list[UUID]
    versions: list[UUID]
    heavy: UUID
    big: UUID


def graph(nodes: int) -> Any:
    """A graph as a workflow editor stores one; about 170 bytes a node."""
    return {
        "nodes": [
            {
                "id": f"node-{number}",
                "type": ("trigger", "agent", "tool", "condition")[number % 4],
                "position": {"x": number * 120.5, "y": number % 7 * 80},
                "config": {"retries": number % 3, "timeout_seconds": 30, "label": f"Schritt {number} – prüfen"},
            }
            for number in range(nodes)
        ],
        "edges": [[f"node-{number}", f"node-{number + 1}"] for number in range(nodes - 1)],
    }


SMALL = graph(2)
BIG = graph(21)
assert 3_800 < len(json.dumps(BIG)) < 4_300, len(json.dumps(BIG))


def seed(db: Dal[Sync]) -> Seed:
    """Fill an empty database, in one transaction."""
    workflows, versions = [], []
    with db.transaction() as tx:
        for number in range(WORKFLOWS):
            made = tx.workflows.create(
                f"Workflow {number}",
                actor="bench",
                handle=f"workflow-{number}",
                description="Reads the inbox, asks a model, files the answer.",
                tags=["inbox", f"team-{number % 9}"],
            )
            workflows.append(made.id)
            versions.append(tx.versions.create(made.id, SMALL, actor="bench").id)
        heavy = workflows[0]
        for number in range(RUNS):
            run = tx.runs.create(heavy, actor="bench", inputs={"ticket": number, "text": "Where is my order?"})
            if number % 3:
                tx.runs.start(run.id, actor="bench")
            if number % 3 == 2:
                tx.runs.succeed(run.id, {"answer": "On its way.", "score": 0.75}, actor="bench")
        big = tx.versions.create(workflows[1], BIG, actor="bench").id
    return Seed(workflows, versions, heavy, big)

"""What happens on the demo's day: workflows and runs out of a random generator, the same for the same seed."""

from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime, timedelta

from msgspec import Struct

import dal
from dal import Json, RunStatus

SEED = 2026
WORKFLOWS = 120

TEAMS = {
    "finance": ("ada", ("supplier invoices", "card payments", "expense reports", "tax filings")),
    "support": ("bruno", ("support tickets", "refund requests", "bug reports", "customer reviews")),
    "sales": ("chen", ("new leads", "price quotes", "signed contracts", "trial accounts")),
    "people": ("dora", ("job applications", "leave requests", "payroll changes", "training plans")),
    "logistics": ("emeka", ("purchase orders", "stock levels", "delivery notes", "customs forms")),
    "data": ("freya", ("nightly exports", "web analytics", "sensor readings", "survey answers")),
}
ACTIONS = ("Import", "Check", "Approve", "Sort", "Summarise", "Forward", "Translate", "Report")
FAULTS = ("api.example.com answered 503", "row 17 has no amount", "the approval ran out of time")
FATES: tuple[RunStatus, ...] = (
    "succeeded", "succeeded", "succeeded", "succeeded", "succeeded", "succeeded", "failed", "cancelled", "running",
    "pending",
)  # fmt: skip


class RunPlan(Struct, frozen=True):
    """A run to make. fate: the state it is to end in, or to be left in."""

    fate: RunStatus
    inputs: Json
    output: Json
    fault: str


class Plan(Struct, frozen=True):
    """A workflow to make, with its graphs from the first version to the last, and its runs in order."""

    name: str
    handle: str
    description: str | None
    tags: tuple[str, ...]
    draft_access: dal.DraftAccess
    owner: str
    graphs: tuple[Json, ...]
    runs: tuple[RunPlan, ...]


def plans(seed: int) -> list[Plan]:
    """The workflows of the day, the same for the same seed."""
    chance = random.Random(seed)
    ideas = [(team, action, thing) for team, (_, things) in TEAMS.items() for action in ACTIONS for thing in things]
    return [_plan(chance, *idea) for idea in chance.sample(ideas, WORKFLOWS)]


def _plan(chance: random.Random, team: str, action: str, thing: str) -> Plan:
    name = f"{action} {thing}"
    tags = [team, *chance.sample(["daily", "critical", "pilot", "customer-facing"], chance.randint(0, 2))]
    graphs = [_graph(chance, team, thing)]
    for _ in range(chance.choice([0, 0, 1, 1, 2, 3])):
        graphs.append(_slower(graphs[-1]))
    return Plan(
        name=name,
        handle=name.lower().replace(" ", "-"),
        description=chance.choice([None, f"{action}s {thing} for the {team} team."]),
        tags=tuple(tags),
        draft_access=chance.choice(["personal", "authenticated", "workspace"]),
        owner=TEAMS[team][0],
        graphs=tuple(graphs),
        runs=tuple(
            RunPlan(
                fate=chance.choice(FATES),
                inputs={"batch": number, "items": chance.randint(1, 400), "dry_run": chance.random() < 0.1},
                output={"done": chance.randint(1, 400), "cost": round(chance.uniform(0.01, 9.0), 4)},
                fault=chance.choice(FAULTS),
            )
            for number in range(1, chance.randint(1, 6))
        ),
    )


def _graph(chance: random.Random, team: str, thing: str) -> Json:
    steps: list[dict[str, Json]] = [
        {"type": "http_request", "url": f"https://api.example.com/{thing.replace(' ', '/')}", "method": "GET"},
        {"type": "model", "prompt": f"Classify these {thing}.", "temperature": chance.choice([0.0, 0.2, 0.7])},
        {"type": "approval", "group": team, "within_hours": chance.choice([4, 24, 72])},
        {"type": "email", "to": [f"{team}@example.com"], "attach": chance.random() < 0.3},
    ]
    chosen = [{"type": chance.choice(["webhook", "schedule", "form"])}, *chance.sample(steps, chance.randint(2, 4))]
    nodes = [{"id": f"n{at}", "timeout_seconds": 30, **step} for at, step in enumerate(chosen)]
    return {"nodes": nodes, "edges": [[f"n{at}", f"n{at + 1}"] for at in range(len(nodes) - 1)]}


def _slower(graph: Json) -> Json:
    """The graph with more patience in its last node."""
    *others, last = graph["nodes"]
    return {**graph, "nodes": [*others, {**last, "timeout_seconds": last["timeout_seconds"] * 2}]}


class Clock:
    """The day's clock: a few seconds later each time it is read, so that no two rows have the same time."""

    def __init__(self) -> None:
        self._ticks = itertools.count()
        self.now = datetime(2026, 1, 5, 7, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        # next() on a count is one step, whichever thread takes it.
        self.now = datetime(2026, 1, 5, 7, 0, tzinfo=UTC) + next(self._ticks) * timedelta(seconds=7)
        return self.now

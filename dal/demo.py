"""``dal demo``: a workflow server's day, made from a fixed seed, with every answer checked against what it must be.

The text is the same on every database, so it holds no ids, no times of day and no figures of the machine. Most of the
day goes through the blocking face of the public interface, the rush hour through the asyncio one.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

import dal
from dal import Async, Dal, DalError, Json, Page, Run, RunStatus, Settings, Sync, Version, Workflow
from dal.stores.versions import graph_hash

E = TypeVar("E", bound=DalError)
T = TypeVar("T")

SEED = 2026
WORKFLOWS = 120
AT_ONCE = 64
PAGE = 25
STATUSES: tuple[RunStatus, ...] = get_args(RunStatus)


# --- what happens on that day -----------------------------------------------------------------------------------------

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


# --- checking and telling ---------------------------------------------------------------------------------------------


class WrongAnswer(Exception):
    """The database answered something else than it must."""


class Account:
    """What is told of the day, and how many answers were checked."""

    def __init__(self, console: Console) -> None:
        self.checked = 0
        self.names: dict[UUID, str] = {}  # what an id in a message stands for
        self.part = ""
        self._console = console
        self._parts = itertools.count(1)

    def chapter(self, title: str) -> None:
        """Begin a part."""
        self.part = f"{next(self._parts)}. {title}"
        self._console.print()
        self._console.rule(f"[bold]{self.part}", align="left", style="dim", characters="-")

    def say(self, text: str) -> None:
        """A paragraph, or lines."""
        self._console.print(text, markup=False)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None) -> None:
        """A table; a column whose name starts with > is aligned to the right."""
        table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="", header_style="bold")
        for column in columns:
            justify: Literal["left", "right"] = "right" if column.startswith(">") else "left"
            table.add_column(column.lstrip(">"), justify=justify, overflow="fold")
        for row in rows:
            table.add_row(*[str(cell).replace("[", r"\[") for cell in row])
        self._console.print(table)

    def same(self, what: str, got: T, wanted: T) -> T:
        """Check an answer. Raises WrongAnswer."""
        self.checked += 1
        if not _equal(got, wanted):
            raise WrongAnswer(f"{what}: {_difference(got, wanted)}")
        return got

    def show(self, asked: str, error: DalError) -> None:
        """A refusal, as its caller sees it, with names for ids."""
        message = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", self._name, str(error))
        self._console.print(Padding(Text(asked), (1, 0, 0, 2)))
        said = Text.assemble((f"{type(error).__name__}: ", "bold"), message)
        self._console.print(Padding(said, (0, 0, 0, 4)))

    def refused(self, asked: str, kind: type[E], call: Callable[[], object]) -> E:
        """Check that a call is refused, with this error and no other. Raises WrongAnswer."""
        self.checked += 1
        try:
            answer = call()
        except DalError as error:
            if type(error) is not kind:
                raise WrongAnswer(f"{asked}: {type(error).__name__} ({error}), expected {kind.__name__}") from error
            return error
        raise WrongAnswer(f"{asked}: answered {answer!r:.200}, expected {kind.__name__}")

    def _name(self, found: re.Match[str]) -> str:
        return f"<{self.names.get(UUID(found[0]), 'id')}>"


def _equal(got: object, wanted: object) -> bool:
    """Whether two answers are equal, in JSON too: to Python alone, 1, 1.0 and True are the same."""
    return got == wanted and msgspec.json.encode(got, order="sorted") == msgspec.json.encode(wanted, order="sorted")


def _difference(got: object, wanted: object) -> str:
    """Both; of two rows of one model, the first field that differs, and of two lists, the first row."""
    if isinstance(got, list) and isinstance(wanted, list) and len(got) == len(wanted):
        at = next(at for at, pair in enumerate(zip(got, wanted, strict=True)) if not _equal(*pair))
        return f"number {at + 1} of {len(got)}: {_difference(got[at], wanted[at])}"
    if isinstance(got, list) and isinstance(wanted, list):
        return f"{len(got)} rows, expected {len(wanted)}"
    if type(got) is type(wanted) and isinstance(got, Struct):
        fields = [name for name in got.__struct_fields__ if not _equal(getattr(got, name), getattr(wanted, name))]
        name = next((name for name in fields if name != "id"), fields[0])  # an id tells a reader nothing
        return f"{name} is {getattr(got, name)!r:.300}, expected {getattr(wanted, name)!r:.300}"
    return f"got {got!r:.300}, expected {wanted!r:.300}"


def all_pages(read: Callable[[str | None], Page[T]]) -> list[T]:
    """Every item of a list, page after page; read: the page behind a cursor."""
    items: list[T] = []
    after: str | None = None
    while True:
        page = read(after)
        items += page.items
        if page.next is None:
            return items
        after = page.next


# --- the day ----------------------------------------------------------------------------------------------------------


class Day:
    """The day on the blocking face. The dicts hold what the database must answer, oldest first."""

    def __init__(self, db: Dal[Sync], clock: Clock, account: Account, seed: int) -> None:
        self.db = db
        self.clock = clock
        self.account = account
        self.plans = plans(seed)
        self.flows: dict[str, Workflow] = {}  # by the handle they were planned with
        self.versions: dict[UUID, list[Version]] = {}
        self.runs: dict[UUID, list[Run]] = {}
        self.trail: dict[UUID, list[tuple[str, str]]] = {}  # actor and action of a workflow's events

    def newest(self, test: Callable[[Workflow], bool]) -> list[Workflow]:
        """The workflows that pass a test, as every list must have them."""
        return sorted(filter(test, self.flows.values()), key=lambda flow: flow.created_at, reverse=True)

    def note(self, handle: str, what: str, got: Workflow, wanted: Workflow, action: str, actor: str) -> Workflow:
        """Check the answer to a change of a workflow, and expect it from now on."""
        self.flows[handle] = self.account.same(what, got, wanted)
        self.trail[got.id].append((actor, action))
        return got

    def changed(self, flow: Workflow, **fields: Any) -> Workflow:
        """The workflow as it must be after a change of these fields just now."""
        return replace(flow, revision=flow.revision + 1, updated_at=self.clock.now, **fields)

    def make_workflows(self) -> None:
        """Create, get, resolve."""
        same, db = self.account.same, self.db
        self.account.chapter("Six teams write down their work")
        for plan in self.plans:
            made = db.workflows.create(
                plan.name, actor=plan.owner, handle=plan.handle.upper(), description=plan.description, tags=plan.tags,
                draft_access=plan.draft_access,
            )  # fmt: skip
            wanted = Workflow(
                id=made.id, handle=plan.handle, name=plan.name, slug=plan.handle, description=plan.description,
                tags=plan.tags, draft_access=plan.draft_access, is_archived=False, is_public=False, published_at=None,
                published_by=None, require_login=False, chat_config=None, revision=1, created_at=self.clock.now,
                created_by=plan.owner, updated_at=self.clock.now,
            )  # fmt: skip
            self.account.names[made.id] = plan.name
            self.trail[made.id], self.versions[made.id], self.runs[made.id] = [], [], []
            self.note(plan.handle, f"creating {plan.name}", made, wanted, "created", plan.owner)
        for flow in self.flows.values():
            same(f"getting {flow.name} by id", db.workflows.get(flow.id), flow)
            same(f"resolving {flow.handle}", db.workflows.resolve(str(flow.handle).upper()), flow)
        self.account.say(
            f"{len(self.flows)} workflows are created, and each is found again by its id and by its handle. The newest:"
        )
        self.account.table(
            ("handle", "owner", "tags", "access"),
            [
                (flow.handle, flow.created_by, ", ".join(flow.tags), flow.draft_access)
                for flow in same("the first page of workflows", db.workflows.list(limit=5).items, self._first(5))
            ],
        )

    def _first(self, count: int) -> list[Workflow]:
        return self.newest(lambda flow: not flow.is_archived)[:count]

    def make_versions(self) -> None:
        """Create versions, find them in every way, compare two."""
        same, db = self.account.same, self.db
        self.account.chapter("Their graphs are kept as versions")
        for plan in self.plans:
            flow = self.flows[plan.handle]
            for number, graph in enumerate(plan.graphs, 1):
                notes = "first draft" if number == 1 else "more patience"
                made = db.versions.create(flow.id, graph, actor=plan.owner, notes=notes, metadata={"editor": "canvas"})
                wanted = Version(
                    id=made.id, workflow_id=flow.id, number=number, graph=graph, graph_hash=graph_hash(graph),
                    mermaid=None, metadata={"editor": "canvas"}, runnable_config=None, notes=notes,
                    created_at=self.clock.now, created_by=plan.owner, updated_at=self.clock.now,
                )  # fmt: skip
                self.versions[flow.id].append(same(f"version {number} of {flow.name}", made, wanted))
                self.trail[flow.id].append((plan.owner, "version_created"))
        for flow in self.flows.values():
            known = self.versions[flow.id]
            same(f"the versions of {flow.name}", list(db.versions.list(flow.id).items), known[::-1])
            same(f"the latest version of {flow.name}", db.versions.latest(flow.id), known[-1])
            same(f"version 1 of {flow.name}", db.versions.get_number(flow.id, 1), known[0])
            found = db.versions.find_by_hash(flow.id, known[0].graph_hash)
            same(f"the version of {flow.name} with the first graph", found, known[0])
        total = sum(map(len, self.versions.values()))
        plan = max(self.plans, key=lambda plan: (len(plan.graphs), plan.handle))
        flow = self.flows[plan.handle]
        self.account.say(
            f"{total} versions, numbered from 1 in each workflow and found by number and by content hash. "
            f"What changed in {flow.name} from version 1 to version {len(plan.graphs)}:\n"
        )
        lines = db.versions.diff(flow.id, 1, len(plan.graphs))
        patience = ['-      "timeout_seconds": 30', f'+      "timeout_seconds": {30 * 2 ** (len(plan.graphs) - 1)}']
        changes = [line.rstrip(",") for line in lines if re.match(r"[-+] ", line)]
        same(f"the changed lines of {flow.name}", changes, patience)
        self.account.say("\n".join(f"    {line}" for line in lines))

    def make_runs(self) -> None:
        """Create runs and take each to its fate."""
        same, db = self.account.same, self.db
        self.account.chapter("Runs come and go")
        for plan in self.plans:
            flow = self.flows[plan.handle]
            latest = self.versions[flow.id][-1]
            for number, run_plan in enumerate(plan.runs, 1):
                made = db.runs.create(
                    flow.id, actor="scheduler", inputs=run_plan.inputs, tags=["demo"], idempotency_key=f"batch-{number}"
                )
                wanted = Run(
                    id=made.id, workflow_id=flow.id, version_id=latest.id, status="pending", triggered_by="scheduler",
                    inputs=run_plan.inputs, runnable_config=None, tags=("demo",), callbacks=[], metadata={}, name=None,
                    output=None, error=None, attempt=1, retry_of=None, retry_at=None,
                    idempotency_key=f"batch-{number}", lease_owner=None, lease_expires_at=None,
                    created_at=self.clock.now, started_at=None, completed_at=None, updated_at=self.clock.now,
                )  # fmt: skip
                what = f"run {number} of {flow.name}"
                self.account.names[made.id] = f"{number} of {flow.name}"
                self.runs[flow.id].append(self._live(what, same(f"creating {what}", made, wanted), run_plan))
        counts: Counter[str] = Counter()
        for flow in self.flows.values():
            known = self.runs[flow.id][::-1]
            same(f"the runs of {flow.name}", list(db.runs.list(flow.id).items), known)
            for status in STATUSES:
                wanted_runs = [run for run in known if run.status == status]
                found = list(db.runs.list(flow.id, status=status).items)
                counts[status] += len(same(f"the {status} runs of {flow.name}", found, wanted_runs))
        self.account.say(f"{counts.total()} runs are created, and taken where chance sends them:")
        self.account.table(("state", ">runs"), [(status, counts[status]) for status in STATUSES])

    def _live(self, what: str, run: Run, plan: RunPlan) -> Run:
        """Take a run to its fate; the run as it must be then."""
        same, runs = self.account.same, self.db.runs
        trail = [("scheduler", "created")]
        if plan.fate in ("running", "succeeded", "failed"):
            got = runs.start(run.id, actor="worker-1")
            wanted = replace(run, status="running", started_at=self.clock.now, updated_at=self.clock.now)
            run = same(f"starting {what}", got, wanted)
            trail.append(("worker-1", "started"))
        if plan.fate in ("succeeded", "failed", "cancelled"):
            if plan.fate == "succeeded":
                got, actor = runs.succeed(run.id, plan.output, actor="worker-1"), "worker-1"
            elif plan.fate == "failed":
                got, actor = runs.fail(run.id, plan.fault, actor="worker-1"), "worker-1"
            else:
                got, actor = runs.cancel(run.id, "no longer needed", actor="grace"), "grace"
            error = {"failed": plan.fault, "cancelled": "no longer needed"}.get(plan.fate)
            output = plan.output if plan.fate == "succeeded" else None
            ended = {"status": plan.fate, "output": output, "error": error}
            wanted = replace(run, completed_at=self.clock.now, updated_at=self.clock.now, **ended)
            run = same(f"ending {what}", got, wanted)
            trail.append((actor, plan.fate))
        same(f"getting {what}", runs.get(run.id), run)
        events = runs.events(run.id).items
        same(f"the audit trail of {what}", [(event.actor, event.action) for event in events], trail)
        return run

    def change_workflows(self) -> None:
        """Update, publish, archive; list, page and filter what is left."""
        same, db = self.account.same, self.db
        self.account.chapter("Work changes")
        handles = list(self.flows)
        for handle in handles[::6]:
            flow = self.flows[handle]
            name = f"{flow.name} (new)"
            got = db.workflows.update(
                flow.id, actor="grace", name=name, description=None, expected_revision=flow.revision
            )
            slug = f"{handle}-new"
            wanted = self.changed(flow, name=name, slug=slug, description=None)
            self.note(handle, f"renaming {flow.name}", got, wanted, "updated", "grace")
        for handle in handles[::5]:
            flow = self.flows[handle]
            got = db.workflows.publish(flow.id, actor=flow.created_by, require_login=True)
            published = {"is_public": True, "published_by": flow.created_by, "require_login": True}
            wanted = self.changed(flow, published_at=self.clock.now, **published)
            self.note(handle, f"publishing {flow.name}", got, wanted, "published", flow.created_by)
        for handle in handles[::10]:
            flow = self.flows[handle]
            got = db.workflows.archive(flow.id, actor="grace")
            hidden = {"is_public": False, "published_at": None, "published_by": None, "require_login": False}
            wanted = self.changed(flow, is_archived=True, **hidden)
            self.note(handle, f"archiving {flow.name}", got, wanted, "archived", "grace")
        self._page_through()
        flow = self.flows[handles[0]]
        same(f"resolving {handles[0]}, archived", db.workflows.resolve(handles[0]), flow)
        self.account.refused(
            f"resolving {handles[0]} among active workflows",
            dal.WorkflowNotFound,
            lambda: db.workflows.resolve(handles[0], include_archived=False),
        )
        events = list(db.workflows.events(flow.id).items)
        found = [(event.actor, event.action) for event in events]
        same(f"the audit trail of {flow.name}", found, self.trail[flow.id])
        same("the numbers in that trail", [event.number for event in events], list(range(1, len(events) + 1)))
        self.account.table(
            (">no.", "who", "did", "detail"),
            [(event.number, event.actor, event.action, _plain(event.metadata)) for event in events],
            title=f"The audit trail of {flow.name}:",
        )

    def _page_through(self) -> None:
        same, list_ = self.account.same, self.db.workflows.list
        active = all_pages(lambda after: list_(after=after, limit=PAGE))
        same("the active workflows, page after page", active, self.newest(lambda flow: not flow.is_archived))
        everything = all_pages(lambda after: list_(include_archived=True, after=after, limit=PAGE))
        same("all workflows, page after page", everything, self.newest(lambda flow: True))
        published = sum(flow.is_public for flow in everything)
        self.account.say(
            f"Read in pages of {PAGE}, newest first: {len(everything)} workflows, {len(active)} of them active and "
            f"{published} public."
        )
        columns = ("tag", "owner", ">active", ">archived", ">runs")
        self.account.table(columns, [self._with_tag(team) for team in TEAMS])

    def _with_tag(self, team: str) -> tuple[str, str, int, int, int]:
        same, list_ = self.account.same, self.db.workflows.list
        active = all_pages(lambda after: list_(tag=team, after=after, limit=7))
        wanted = self.newest(lambda flow: not flow.is_archived and team in flow.tags)
        same(f"the active workflows tagged {team}", active, wanted)
        everything = list(list_(tag=team.upper(), include_archived=True, limit=100).items)
        same(f"all workflows tagged {team}", everything, self.newest(lambda flow: team in flow.tags))
        runs = sum(len(self.runs[flow.id]) for flow in everything)
        return team, TEAMS[team][0], len(active), len(everything) - len(active), runs

    def be_refused(self) -> None:
        """What may not be, as the caller sees it."""
        db, account = self.db, self.account
        account.chapter("What is refused, and how its caller sees it")
        flow, other = self._first(2)
        archived = self.newest(lambda flow: flow.is_archived)[0]
        run = next(run for runs in self.runs.values() for run in runs if run.status == "succeeded")

        def refused(asked: str, kind: type[E], call: Callable[[], object]) -> E:
            error = account.refused(asked, kind, call)
            account.show(asked, error)
            return error

        transition = refused(
            "Start a run that has ended", dal.InvalidTransition, lambda: db.runs.start(run.id, actor="worker-2")
        )
        account.same("the state that was found", transition.found, "succeeded")
        refused(
            "Create a workflow with a handle in use",
            dal.HandleTaken,
            lambda: db.workflows.create("Mine", actor="ada", handle=flow.handle),
        )
        stale = flow.revision + 1
        conflict = refused(
            "Update a workflow, from a revision that it does not have",
            dal.RevisionConflict,
            lambda: db.workflows.update(flow.id, actor="ada", description="?", expected_revision=stale),
        )
        account.same("the present revision", conflict.current, flow.revision)
        refused(
            "Use an idempotency key again for other inputs",
            dal.IdempotencyConflict,
            lambda: db.runs.create(run.workflow_id, actor="ada", inputs={"batch": -1}, idempotency_key="batch-1"),
        )
        refused("Run an archived workflow", dal.WorkflowArchived, lambda: db.runs.create(archived.id, actor="ada"))
        refused("Find a workflow that is not there", dal.WorkflowNotFound, lambda: db.workflows.resolve("make-coffee"))
        refused(
            "Store a graph that is no JSON",
            dal.Invalid,
            lambda: db.versions.create(flow.id, {"nodes": [{"weight": float("nan")}]}, actor="ada"),
        )
        account.say("")
        first = self.runs[run.workflow_id][0]
        again = db.runs.create(
            run.workflow_id, actor="scheduler", inputs=first.inputs, tags=["demo"], idempotency_key="batch-1"
        )
        account.same("the run of an idempotency key used twice", again, first)
        account.refused("a transaction that fails", dal.HandleTaken, lambda: self._fail_halfway(flow, other))
        account.same("a workflow after its transaction failed", db.workflows.get(other.id), other)
        account.same("its runs", list(db.runs.list(other.id).items), self.runs[other.id][::-1])
        account.say(
            "An idempotency key used again with the same inputs answers its first run, and makes no second one. A "
            "transaction that renames a workflow, adds a run and then meets a taken handle leaves no trace."
        )

    def _fail_halfway(self, flow: Workflow, other: Workflow) -> None:
        with self.db.transaction() as tx:
            tx.workflows.update(other.id, actor="ada", name="Halfway")
            tx.runs.create(other.id, actor="ada")
            tx.workflows.create("One too many", actor="ada", handle=flow.handle)

    def rush_hour(self) -> None:
        """The same database through asyncio, many callers at once."""
        self.account.chapter("Rush hour: asyncio, many callers at once")
        flow = self._first(1)[0]
        asyncio.run(self._rush(flow, len(self.versions[flow.id])))
        self.account.say(
            f"{AT_ONCE} tasks create versions of {flow.name} at once: the numbers have no gap and no repeat. "
            f"{AT_ONCE} runs are each started by two workers at once: {AT_ONCE} starts are told yes, and the other "
            f"{AT_ONCE} that the run is running already. {AT_ONCE // 2} of them are ended and cancelled at once: each "
            "has one end, and nobody was told otherwise."
        )

    async def _rush(self, flow: Workflow, before: int) -> None:
        same = self.account.same
        async with dal.aconnect(self.db.settings, clock=self.clock) as db:
            graphs = [{"nodes": [{"id": "n0", "type": "form", "field": at}], "edges": []} for at in range(AT_ONCE)]
            made = await asyncio.gather(*[db.versions.create(flow.id, graph, actor="crowd") for graph in graphs])
            numbers = list(range(before + 1, before + AT_ONCE + 1))
            same("the numbers of versions made at once", sorted(version.number for version in made), numbers)
            same("their graphs", [version.graph for version in made], graphs)
            page = await db.versions.list(flow.id, limit=500)
            wanted = sorted(made, key=lambda version: -version.number)
            same("those versions in a list", list(page.items)[:AT_ONCE], wanted)
            jobs = [db.runs.create(flow.id, actor="crowd", version_id=version.id) for version in made]
            runs = await asyncio.gather(*jobs)
            same("the versions of runs made at once", [run.version_id for run in runs], [each.id for each in made])
            for each in runs:
                self.account.names[each.id] = f"one of {flow.name}"
            starts = [db.runs.start(run.id, actor=worker) for run in runs for worker in ("worker-1", "worker-2")]
            told = await asyncio.gather(*starts, return_exceptions=True)
            for one, other in zip(told[::2], told[1::2], strict=True):
                same("of two starts of a run", sorted([_told(one), _told(other)]), ["refused: running", "running"])
            ends = await asyncio.gather(*[_end_twice(db, run.id) for run in runs[::2]])
            for run, answers in zip(runs[::2], ends, strict=True):
                final = (await db.runs.get(run.id)).status
                same("of a run ended and cancelled at once", sorted(answers), sorted([final, f"refused: {final}"]))


async def _end_twice(db: Dal[Async], run_id: UUID) -> list[str]:
    told = await asyncio.gather(
        db.runs.succeed(run_id, {}, actor="worker-1"), db.runs.cancel(run_id, actor="grace"), return_exceptions=True
    )
    return [_told(answer) for answer in told]


def _told(answer: Run | BaseException) -> str:
    """What a caller learnt of a run's state. Raises what is neither an answer nor a refused transition."""
    if isinstance(answer, dal.InvalidTransition):
        return f"refused: {answer.found}"
    if isinstance(answer, BaseException):
        raise answer
    return answer.status


def _plain(metadata: Json) -> str:
    shown = {key: ", ".join(value) if isinstance(value, list) else value for key, value in metadata.items()}
    return "; ".join(f"{key}: {value}" for key, value in shown.items())


# --- running it -------------------------------------------------------------------------------------------------------


def run(url: str | None, console: Console, *, keep: Path | None = None, seed: int = SEED) -> bool:
    """Live the day on a database and tell of it; whether every answer was right.

    url: the database, which must hold no workflow; without it a SQLite file at ``keep``, or a temporary one. Raises
    InvalidState for one that holds workflows, and what ``connect`` raises.
    """
    with _database(url, keep) as settings:
        with dal.connect(settings, migrate=True) as db:
            if db.workflows.list(include_archived=True, limit=1).items:
                raise dal.InvalidState("the database holds workflows, and the demo takes an empty one")
        account = Account(console)
        try:
            _live(settings, account, seed)
        except (WrongAnswer, dal.Invalid, dal.NotFound, dal.Conflict, dal.InvalidState) as error:
            said = str(error) if isinstance(error, WrongAnswer) else f"unexpected {type(error).__name__}: {error}"
            console.print(f"\nWrong answer. {account.part}: {said}", style="bold red", markup=False)
            return False
    return True


@contextmanager
def _database(url: str | None, keep: Path | None) -> Iterator[Settings]:
    if url is not None:
        yield Settings.from_url(url)
    elif keep is not None:
        yield Settings(backend="sqlite", sqlite_path=keep)
    else:
        with tempfile.TemporaryDirectory(prefix="dal-demo-") as folder:
            yield Settings(backend="sqlite", sqlite_path=Path(folder) / "demo.db")


def _live(settings: Settings, account: Account, seed: int) -> None:
    clock = Clock()
    with dal.connect(settings, clock=clock) as db:
        day = Day(db, clock, account, seed)
        account.say("workflow-dal: a day of a workflow server")
        for part in (
            day.make_workflows, day.make_versions, day.make_runs, day.change_workflows, day.be_refused, day.rush_hour
        ):  # fmt: skip
            part()
        account.chapter("The end of the day")
        account.say(f"{account.checked:,} answers were checked, and all are right.")

"""The demo's day: six teams write down their work, and it runs. The rush hour goes through asyncio, all else blocks."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar, get_args
from uuid import UUID

from msgspec.structs import replace

import dal
from dal import Async, Dal, DalError, Json, Run, RunStatus, Sync, Version, Workflow
from dal.demo.account import Account, all_pages
from dal.demo.plan import TEAMS, Clock, RunPlan, plans
from dal.stores.versions import graph_hash

E = TypeVar("E", bound=DalError)

AT_ONCE = 64
PAGE = 25
STATUSES: tuple[RunStatus, ...] = get_args(RunStatus)


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
                for flow in same("the first page of workflows", db.workflows.list(limit=5).items, self.first(5))
            ],
        )

    def first(self, count: int) -> list[Workflow]:
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
        flow, other = self.first(2)
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
        flow = self.first(1)[0]
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

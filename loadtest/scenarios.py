"""What the users do: reads, lists and writes, each call's answer looked at."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from typing import Any, ClassVar
from uuid import UUID

from gevent import sleep
from locust import User, task
from locust.env import Environment
from locust.exception import RescheduleTask

from dal.core.face import Sync
from dal.dal import Dal
from loadtest.recorder import Failed, Recorder, now
from loadtest.seed import HEAVY, SeededRun, SeededWorkflow, graph

PAGE = 50
WALK = 3  # pages


class Load(Environment):
    """Locust's environment, and what all users share."""

    db: Dal[Sync]
    recorder: Recorder
    rates: dict[str, float]
    workflows: list[SeededWorkflow]
    runs: list[SeededRun]
    ended: bool  # users make no further call
    tagged: Counter[str]  # workflows at the beginning, by tag
    created: dict[UUID, list[int]]  # numbers of the versions that users made, by workflow

    def attach(self, db: Dal[Sync], recorder: Recorder, rates: dict[str, float], seeded: list[SeededWorkflow]) -> None:
        """Give the users what they work with."""
        self.db, self.recorder, self.rates, self.workflows = db, recorder, rates, seeded
        self.runs = [run for workflow in seeded for run in workflow.runs]
        self.ended = False
        self.tagged = Counter(tag for workflow in seeded for tag in workflow.tags)
        self.created = defaultdict(list)


class Caller(User):
    """A user whose calls fall due at random moments at a steady rate, answered or not."""

    abstract = True
    scenario: ClassVar[str]
    environment: Load
    _count = 0

    def on_start(self) -> None:
        type(self)._count += 1
        self.random = Random(f"{self.scenario} {type(self)._count}")
        self.db = self.environment.db
        self._due = now()
        sleep(self.wait_time())

    def wait_time(self) -> float:
        """Seconds until the next call is due; 0 if it was due while the last one was still running."""
        if self.environment.ended:
            return 3600.0
        self._due += self.random.expovariate(self.environment.rates[self.scenario])
        self._late = self._due < now()
        return max(0.0, self._due - now())

    def call(self, query: str, method: Callable[[], Any], check: Callable[[Any], str]) -> Any:
        """Make a call; ends the task if it fails.

        A call that fell due while the user was busy counts from then: else one slow answer would hide the delay of all
        those behind it. One that the user was free for counts from its beginning, whenever the timer woke him.
        """
        if self.environment.ended:
            raise RescheduleTask  # and be stopped while waiting, not inside a query
        due = self._due if self._late else now()
        self._late = False
        try:
            return self.environment.recorder.call(self.scenario, query, due, method, check)
        except Failed:
            raise RescheduleTask from None

    def any_workflow(self) -> SeededWorkflow:
        """A heavy one every third time."""
        among = self.environment.workflows[:HEAVY] if self.random.random() < 0.33 else self.environment.workflows
        return self.random.choice(among)


def _unless(right: bool, answer: Any) -> str:
    return "" if right else f"wrong answer: {answer!r:.150}"


class Reader(Caller):
    """Opens single things."""

    scenario = "reads"

    @task(2)
    def get_run(self) -> None:
        run = self.random.choice(self.environment.runs)
        self.call(
            "get_run",
            lambda: self.db.runs.get(run.id),
            lambda found: _unless(
                (found.id, found.workflow_id, found.status, found.inputs["ticket"])
                == (run.id, run.workflow_id, run.status, run.ticket),
                found,
            ),
        )

    @task(2)
    def resolve_workflow(self) -> None:
        workflow = self.any_workflow()
        references: list[str | UUID] = [workflow.handle, workflow.id, str(workflow.id)]
        reference = self.random.choice(references)
        self.call(
            "resolve_workflow",
            lambda: self.db.workflows.resolve(reference),
            lambda found: _unless(
                (found.id, found.handle, found.tags) == (workflow.id, workflow.handle, workflow.tags), found
            ),
        )

    @task(1)
    def get_version_latest(self) -> None:
        workflow = self.any_workflow()
        self.call(
            "get_version_latest",
            lambda: self.db.versions.latest(workflow.id),
            lambda found: _unless(
                found.workflow_id == workflow.id
                and found.number >= workflow.versions
                and found.graph == graph(found.graph["revision"]),
                found,
            ),
        )


class Lister(Caller):
    """Walks through lists by their cursors, up to three pages each time."""

    scenario = "lists"

    def walk(self, query: str, method: Callable[..., Any], right: Callable[[Any], bool], least: int) -> None:
        """Turn pages, newest first. right: of an item. least: how many items the whole list has at least."""
        seen: list[Any] = []
        after: str | None = None
        for _ in range(WALK):
            here = after

            def check(page: Any, before: Sequence[Any] = tuple(seen)) -> str:
                items = [*before, *page.items]
                keys = [(item.created_at, item.id) for item in items]
                full = len(page.items) == PAGE if page.next else len(items) >= least
                ordered = all(a > b for a, b in pairwise(keys))
                return _unless(full and ordered and all(map(right, page.items)), page)

            page = self.call(query, lambda: method(after=here, limit=PAGE), check)  # noqa: B023 - called at once
            seen += page.items
            after = page.next
            if after is None:
                return

    @task(3)
    def list_runs(self) -> None:
        workflow = self.any_workflow()
        self.walk(
            "list_runs",
            lambda **page: self.db.runs.list(workflow.id, **page),
            lambda run: run.workflow_id == workflow.id,
            len(workflow.runs),
        )

    @task(1)
    def list_runs_by_status(self) -> None:
        workflow = self.any_workflow()
        status: Any = self.random.choice(["succeeded", "failed"])
        self.walk(
            "list_runs_by_status",
            lambda **page: self.db.runs.list(workflow.id, status=status, **page),
            lambda run: (run.workflow_id, run.status) == (workflow.id, status),
            sum(run.status == status for run in workflow.runs),
        )

    @task(1)
    def list_workflows(self) -> None:
        least = len(self.environment.workflows)
        self.walk("list_workflows", self.db.workflows.list, lambda workflow: not workflow.is_archived, least)

    @task(1)
    def list_workflows_by_tag(self) -> None:
        tag = self.random.choice(self.any_workflow().tags)
        self.walk(
            "list_workflows_by_tag",
            lambda **page: self.db.workflows.list(tag=tag, **page),
            lambda workflow: tag in workflow.tags,
            self.environment.tagged[tag],
        )


class Writer(Caller):
    """Takes runs through their life, and saves new versions."""

    scenario = "writes"

    @task(3)
    def life_of_a_run(self) -> None:
        workflow = self.any_workflow()
        inputs = {"ticket": self.random.randrange(10**9), "text": "Where is my order?"}
        output = {"answer": "On its way.", "score": self.random.random()}
        run = self.call(
            "create_run",
            lambda: self.db.runs.create(workflow.id, actor="load", inputs=inputs),
            lambda run: _unless((run.workflow_id, run.status, run.inputs) == (workflow.id, "pending", inputs), run),
        )
        self.call(
            "mark_run_running",
            lambda: self.db.runs.start(run.id, actor="load"),
            lambda started: _unless((started.id, started.status) == (run.id, "running"), started),
        )
        self.call(
            "mark_run_succeeded",
            lambda: self.db.runs.succeed(run.id, output, actor="load"),
            lambda ended: _unless((ended.id, ended.status, ended.output) == (run.id, "succeeded", output), ended),
        )

    @task(2)
    def create_version(self) -> None:
        workflow = self.any_workflow()
        document = graph(self.random.randrange(1, 30))
        version = self.call(
            "create_version",
            lambda: self.db.versions.create(workflow.id, document, actor="load"),
            lambda made: _unless(
                made.workflow_id == workflow.id and made.number > workflow.versions and made.graph == document, made
            ),
        )
        self.environment.created[workflow.id].append(version.number)

    @task(1)
    def create_workflow(self) -> None:
        name = f"Made under load {self.random.randrange(10**9)}"

        def both() -> Any:
            with self.db.transaction() as tx:
                workflow = tx.workflows.create(name, actor="load", tags=["made"])
                return workflow, tx.versions.create(workflow.id, graph(1), actor="load")

        self.call(
            "create_workflow",
            both,
            lambda made: _unless((made[0].name, made[1].workflow_id, made[1].number) == (name, made[0].id, 1), made),
        )

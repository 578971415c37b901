"""The demo's night: what a server does by itself, with nobody at a desk."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import dal
from dal import Async, Dal, Json, Run, Sync, Tx, Workflow
from dal.demo.account import all_pages
from dal.demo.day import AT_ONCE, Day

JOBS = 12
WEEK = timedelta(days=7)


class Night:
    """What happens to the workflows that the day has left."""

    def __init__(self, day: Day) -> None:
        self.day = day
        self.db = day.db
        self.clock = day.clock
        self.account = day.account

    def _flow(self, name: str) -> Workflow:
        """One more workflow, with one version."""
        flow = self.db.workflows.create(name, actor="grace", tags=["night"])
        self.account.names[flow.id] = name
        self.db.versions.create(flow.id, {"nodes": ["begin", "end"]}, actor="grace")
        return flow

    def _named(self, runs: list[Run]) -> list[Run]:
        self.account.names.update({run.id: f"{at}" for at, run in enumerate(runs, 1)})
        return runs

    def share_work(self) -> None:
        """Claims, leases, a worker that is lost."""
        same, runs = self.account.same, self.db.runs
        self.account.chapter("Night: workers share what waits")
        flow = self._flow("Sort the post")
        wanted: list[tuple[None, Json]] = [(None, {"sack": number}) for number in range(1, JOBS + 1)]
        waiting = self._named(list(self.db.triggers.dispatch_manual(flow.id, wanted, actor="grace")))
        same("the inputs of runs made at once", [run.inputs for run in waiting], [inputs for _, inputs in wanted])
        claims: dict[str, list[Run]] = {}
        for worker in ("worker-1", "worker-2", "worker-3"):
            claims[worker] = list(runs.claim(worker, lease_seconds=60, limit=5, workflow_id=flow.id))
            same(f"the owner that {worker}'s runs name", {run.lease_owner for run in claims[worker]}, {worker})
        claimed = [run.id for worker in claims for run in claims[worker]]
        same("the claimed runs, in line", claimed, [run.id for run in waiting])
        for run in claims["worker-1"] + claims["worker-3"]:
            runs.succeed(run.id, {"sorted": True}, actor="worker", worker=run.lease_owner)
        lost = claims["worker-2"]
        error = self.account.refused(
            "ending a run of another worker",
            dal.LeaseLost,
            lambda: runs.succeed(lost[0].id, actor="worker-1", worker="worker-1"),
        )
        later = self.clock.now + timedelta(minutes=5)
        back = [run.id for run in runs.requeue_expired(later)]
        same("the runs of a worker that is lost", sorted(back), sorted(run.id for run in lost))
        again = list(runs.claim("worker-1", lease_seconds=60, limit=100, workflow_id=flow.id))
        same("those runs, claimed again", [(run.id, run.attempt) for run in again], [(run.id, 1) for run in lost])
        for run in again:
            runs.succeed(run.id, {"sorted": True}, actor="worker-1", worker="worker-1")
        counts = runs.counts(flow.id, since=flow.created_at)
        same("the runs by state", {state: count for state, count in counts.items() if count}, {"succeeded": JOBS})
        self.account.say(
            f"{JOBS} runs are made by one call, and three workers claim up to five each: "
            f"{', '.join(f'{worker} has {len(mine)}' for worker, mine in claims.items())}, none of them twice. "
            f"worker-2 is lost. When its leases have run out, its {len(back)} runs wait again in their old places, and "
            f"worker-1 does them. All {JOBS} have succeeded, once each. Before that, worker-1 was told of one of them:"
        )
        self.account.show("End a run that another worker has claimed", error)

    def fire_triggers(self) -> None:
        """Schedules after a week without anybody to fire them, a webhook called twice, retries."""
        same, db = self.account.same, self.db
        self.account.chapter("Schedules, webhooks and retries")
        flows = [self._flow(name) for name in ("Send the digest", "Count the stock", "Back up the files")]
        plans = [("30 2 * * *", "Europe/Berlin"), ("0 6 * * MON-FRI", "America/New_York"), ("*/15 * * * *", "UTC")]
        for flow, (expression, timezone) in zip(flows, plans, strict=True):
            db.triggers.set_cron(flow.id, expression, timezone=timezone, actor="grace")
        # In Berlin the clocks went from 02:00 to 03:00 that night: half past two is at the end of the gap.
        now = datetime(2026, 3, 29, 6, 1, tzinfo=UTC)
        fired = {run.workflow_id: run for run in db.triggers.dispatch_due(now)}
        newest = ["2026-03-29T01:00:00.000000Z", "2026-03-27T10:00:00.000000Z", "2026-03-29T06:00:00.000000Z"]
        same(
            "the fires after weeks without a dispatcher",
            [fired[flow.id].inputs["scheduled_at"] for flow in flows],
            newest,
        )
        same("what a second dispatcher fires", list(db.triggers.dispatch_due(now)), [])
        following = [db.triggers.get_cron(flow.id).next_fire_at for flow in flows]
        self.account.say(
            "Three schedules, and nobody to fire them until 29 March, 06:01 UTC. Each makes one run, of its newest "
            "fire; a second dispatcher has nothing left to do. That night clocks in Berlin skipped half past two."
        )
        self.account.table(
            ("workflow", "schedule", "in", "fired (UTC)", "next (UTC)"),
            [
                (flow.name, expression, timezone.partition("/")[2] or timezone, fire[5:16].replace("T", " "),
                 f"{after:%m-%d %H:%M}" if after else "-")
                for flow, (expression, timezone), fire, after in zip(flows, plans, newest, following, strict=True)
            ],
        )  # fmt: skip
        self._call_webhook(flows[0])
        self._retry(flows[1], fired[flows[1].id])

    def _call_webhook(self, flow: Workflow) -> None:
        same, triggers = self.account.same, self.db.triggers
        triggers.set_webhook(flow.id, secret_headers=["X-Signature"], actor="grace")
        headers = {"X-Signature": "sha256=aa", "Cookie": "session=1", "X-Event": "push"}
        called = [
            triggers.dispatch_webhook(
                flow.id, {"order": 7}, headers=headers, source_ip="192.0.2.1", dedupe_key="delivery-7"
            )
            for _ in range(2)
        ]
        same("the run of a delivery made twice", called[1], called[0])
        same("the headers that are kept", called[0].inputs["headers"], {"x-event": "push"})
        self.account.say(
            "A webhook is called twice with one delivery number and makes one run, which keeps neither the cookie nor "
            "the signature."
        )

    def _retry(self, flow: Workflow, run: Run) -> None:
        same, db = self.account.same, self.db
        db.triggers.set_retry_policy(flow.id, max_attempts=3, jitter_factor=0, actor="grace")
        waits = []
        for attempt in (1, 2, 3):
            db.runs.start(run.id, actor="worker-1")
            failed = db.runs.fail(run.id, "the scanner is off", actor="worker-1")
            assert failed.completed_at is not None
            retry = db.triggers.schedule_retry(run.id, failed.completed_at)
            same(f"retry {attempt}, asked for again", db.triggers.schedule_retry(run.id, failed.completed_at), retry)
            if retry is None:
                break
            same(f"the attempt behind {attempt}", (retry.attempt, retry.retry_of), (attempt + 1, run.id))
            assert retry.retry_at is not None
            waits.append(int((retry.retry_at - failed.completed_at).total_seconds()))
            run = retry
        same("the waits, and the attempts", (waits, run.attempt), ([30, 60], 3))
        self.account.say(
            f"A run fails, is tried again after {waits[0]} s and after {waits[1]} s, and then no more: its policy says "
            "three attempts, the first one counted."
        )

    def ask_again(self) -> None:
        """A transaction with an idempotency key."""
        same, db = self.account.same, self.db
        self.account.chapter("A client that lost the answer asks again")
        flow = self._flow("Pay the suppliers")

        def pay(tx: Tx[Sync]) -> Json:
            run = tx.runs.create(flow.id, inputs={"amount": 70}, actor="ada")
            return {"run": str(run.id)}

        answers = [db.transact(pay, key="payment-70", request={"amount": 70}) for _ in range(3)]
        same("the answers to one payment", answers, answers[:1] * 3)
        same("its runs", [str(run.id) for run in db.runs.list(flow.id).items], [answers[0]["run"]])
        error = self.account.refused(
            "the key for another payment",
            dal.IdempotencyConflict,
            lambda: db.transact(pay, key="payment-70", request={"amount": 71}),
        )
        self.account.say("A payment is ordered three times with one key, made once, and answered the same each time.")
        self.account.show("Use the key for another payment", error)

    def write_history(self) -> None:
        """Executions, their steps from many hands at once, what is found by its metadata."""
        same, history = self.account.same, self.db.history
        self.account.chapter("Every step is written down")
        customers = ("acme", "globex", "initech")
        started = []
        for number in range(1, 13):
            metadata = {"customer": customers[number % 3], "plan": {"seats": number, "trial": number % 2 == 0}}
            started.append(history.start(f"post-{number}", "post", metadata=metadata))
        for number in range(2, 13):
            payloads: list[Json] = [{"node": f"n{at}", "ms": at * 10} for at in range(number)]
            steps = list(history.append_steps(f"post-{number}", payloads))
            same("the steps of a list", [(step.idx, step.payload) for step in steps], list(enumerate(payloads)))
        asyncio.run(self._append_at_once("post-1"))
        read = all_pages(lambda after: history.steps("post-1", after=after, limit=20))
        same("the steps in pages", [step.idx for step in read], list(range(AT_ONCE)))
        same("the steps in a stream", list(history.stream("post-1")), read)
        found = all_pages(lambda after: history.find("post", metadata={"customer": "acme"}, after=after, limit=2))
        acme = [each.execution_id for each in started if each.metadata["customer"] == "acme"]
        same("the executions of one customer", [each.execution_id for each in found], acme[::-1])
        trials = history.find("post", metadata={"customer": "acme", "plan": {"trial": True}}).items
        wanted = [each.execution_id for each in started[::-1]
                  if each.metadata["customer"] == "acme" and each.metadata["plan"]["trial"]]  # fmt: skip
        same("those on trial", [each.execution_id for each in trials], wanted)
        for each in started[:10]:
            history.complete(each.execution_id)
        history.fail("post-11", "the printer is out of paper")
        error = self.account.refused(
            "a step behind the end", dal.InvalidTransition, lambda: history.append_step("post-11", {})
        )
        states = Counter(each.status for each in all_pages(lambda after: history.list("post", after=after, limit=5)))
        same("the executions by state", dict(states), {"completed": 10, "error": 1, "running": 1})
        self.account.say(
            f"12 executions; {AT_ONCE} tasks append a step to one of them at once, and its steps are numbered 0 to "
            f"{AT_ONCE - 1}, in pages and in a stream. {len(acme)} executions are found by their customer, "
            f"{len(wanted)} of them on trial, through an index over everything in their metadata."
        )
        self.account.show("Add a step to an execution that has ended", error)
        self.account.say("")
        pruned = history.prune(self.clock.now + WEEK, limit=8)
        same("the rest", len(history.list("post").items), len(started) - pruned)
        self.account.say(f"The oldest {pruned} are forgotten, with their steps, and {len(started) - pruned} are left.")

    async def _append_at_once(self, execution_id: str) -> None:
        async with dal.aconnect(self.db.settings, clock=self.clock) as db:
            await self._append(db, execution_id)

    async def _append(self, db: Dal[Async], execution_id: str) -> None:
        steps = await asyncio.gather(*[db.history.append_step(execution_id, {"task": at}) for at in range(AT_ONCE)])
        places = sorted(step.idx for step in steps)
        self.account.same("the places of steps appended at once", places, list(range(AT_ONCE)))

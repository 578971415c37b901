"""The demo's night: what a server does by itself, with nobody at a desk."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

import dal
from dal import Async, Dal, Json, Run, Sync, Tx, Workflow
from dal.demo.account import all_pages
from dal.demo.day import AT_ONCE, Day

JOBS = 12
SAID = (
    "Are all invoices paid?",
    "All but one: the invoice of the printer's shop.",
    "Why not?",
    "Nobody has signed it.",
    "Then let Chen sign the Invoice today.",
)
ACCURACIES = (0.61, 0.66, 0.64, 0.71, 0.78, 0.75, 0.83, 0.81)
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

    def improve_prompts(self) -> None:
        """Checkpoints of an optimizer, from many hands at once."""
        same, checkpoints = self.account.same, self.db.checkpoints
        self.account.chapter("A prompt gets better")
        for version, accuracy in enumerate(ACCURACIES, 1):
            made = checkpoints.record(
                "sort-post",
                runnable_config={"temperature": version / 10},
                metrics={"accuracy": accuracy, "cost": {"tokens": 100 * version}},
                metadata={"model": "small" if version % 2 else "large"},
                is_best=accuracy == max(ACCURACIES[:version]),
            )
            same("the version of a checkpoint", made.config_version, version)
        ranking = sorted(range(len(ACCURACIES)), key=lambda at: -ACCURACIES[at])
        best = checkpoints.best("sort-post")
        same("the best", best.config_version, ranking[0] + 1)
        top = checkpoints.top("sort-post", "accuracy", limit=3)
        same("the three best", [each.config_version for each in top], [at + 1 for at in ranking[:3]])
        small = checkpoints.find("sort-post", metadata={"model": "small"}).items
        same("those of a model", [each.config_version for each in small], list(range(len(ACCURACIES), 0, -1))[1::2])
        asyncio.run(self._record_at_once())
        self.account.say(
            f"{len(ACCURACIES)} checkpoints of one workflow are versions 1 to {len(ACCURACIES)}; {len(small)} of them "
            f"are found by their model. Of another workflow {AT_ONCE} are recorded at once, each as the best: their "
            "versions have no gap, and one is the best. The three with the highest accuracy, of the first one:"
        )
        self.account.table(
            (">version", ">accuracy", "model", "best"),
            [
                (each.config_version, each.metrics["accuracy"], each.metadata["model"], "yes" if each.is_best else "")
                for each in top
            ],
        )

    async def _record_at_once(self) -> None:
        async with dal.aconnect(self.db.settings, clock=self.clock) as db:
            config: Json = {"temperature": 0.5}
            made = await asyncio.gather(
                *[db.checkpoints.record("count-stock", runnable_config=config, is_best=True) for _ in range(AT_ONCE)]
            )
            versions = sorted(each.config_version for each in made)
            self.account.same("the versions of checkpoints made at once", versions, list(range(1, AT_ONCE + 1)))
            listed = (await db.checkpoints.list("count-stock", limit=500)).items
            best = await db.checkpoints.best("count-stock")
            self.account.same("the best of them", [each for each in listed if each.is_best], [best])

    def check_callers(self) -> None:
        """Service tokens: made, used, refused, rotated, revoked, and the chain of all that."""
        same, tokens = self.account.same, self.db.tokens
        self.account.chapter("Who may call")
        minted = tokens.mint(
            "Night shift", actor="grace", scopes=["runs:read", "runs:write"], allowed_cidrs=["192.0.2.0/24"]
        )
        first, here = minted.secret.reveal(), "192.0.2.7"
        same("who calls", tokens.authenticate(first, ip=here, scopes=["runs:read"]), minted.record)
        told: list[tuple[str, str]] = []

        def ask(asked: str, token: str, ip: str = here, scopes: Sequence[str] = ()) -> None:
            error = self.account.refused(
                asked, dal.TokenRefused, lambda: tokens.authenticate(token, ip=ip, scopes=scopes)
            )
            told.append((asked, error.found or "-"))

        ask("a mistyped token", first[:-1] + ("0" if first[-1] != "0" else "1"))
        ask("the token, from another address", first, ip="198.51.100.1")
        ask("the token, for what it does not grant", first, scopes=["workflows:delete"])
        successor = tokens.rotate(minted.record.key_id, actor="grace", overlap_seconds=0)
        ask("the token, after it was rotated without overlap", first)
        second = successor.secret.reveal()
        same("the successor", tokens.authenticate(second, ip=here), successor.record)
        tokens.revoke(successor.record.key_id, "the laptop was lost", actor="grace")
        ask("its successor, after it was revoked", second)
        same("what callers are told", [found for _, found in told], ["-", "-", "scope", "revoked", "revoked"])
        report = tokens.verify_audit()
        same("the chain of what was done", (report.rows > 0, report.fault), (True, None))
        same("the tokens in use", list(tokens.list().items), [])
        self.account.say(
            "A token is made and told once; the database has a keyed digest of it. Each time it is used it is read, so "
            "that a revocation counts at once:"
        )
        self.account.table(("refused", "and told"), told)
        self.account.say("What was made, rotated and revoked is a chain of digests, and nothing in it was altered.")

    def talk(self) -> None:
        """Chat: items in order, documents byte for byte, what another owner sees, search."""
        same, chat = self.account.same, self.db.chat
        self.account.chapter("What was said")
        thread = chat.save_thread("ada", "talk-1", title="Supplier invoices of May", metadata={"team": "finance"})
        chat.save_thread("bruno", "talk-2", title="Invoices again")
        documents = [f'{{"text":  "{said}", "n": 1e2}}' for said in SAID]
        for number, (said, document) in enumerate(zip(SAID, documents, strict=True), 1):
            item = chat.add_item("ada", "talk-1", f"message-{number}", type="message", item=document, body=said)
            same("the place of an item", item.seq, number)
        read = all_pages(lambda after: chat.list_items("ada", "talk-1", after=after, limit=2))
        same("the documents, byte for byte", [item.item for item in read], documents)
        back = all_pages(lambda after: chat.list_items("ada", "talk-1", order="desc", after=after, limit=2))
        same("the items from the end", back, read[::-1])
        error = self.account.refused(
            "another owner's thread", dal.ThreadNotFound, lambda: chat.list_items("bruno", "talk-1")
        )
        hits = chat.search("ada", "invoi").items
        wanted = sorted([None, *(f"message-{at}" for at, said in enumerate(SAID, 1) if "nvoice" in said)], key=str)
        same("what is found", sorted([hit.item_id for hit in hits], key=str), wanted)
        pages = all_pages(lambda after: self.db.workflows.search("invoices supp", after=after, limit=2))
        found = [flow.id for flow in pages]
        flows = [flow for flow in self.day.flows.values() if not flow.is_archived and "supplier invoices" in flow.name]
        same("the workflows that are found", sorted(found), sorted(flow.id for flow in flows))
        self.account.say(
            f"{len(SAID)} items of a thread come back byte for byte, from both ends. A search for 'invoi' in what is "
            "Ada's finds, the newest first:"
        )
        self.account.say("".join(f"\n    {hit.snippet.marked()}" for hit in hits))
        self.account.say(f"\nAnd 'invoices supp' is found in {len(found)} workflows.")
        self.account.show("Read a thread of Ada as Bruno", error)
        moved = replace(thread, updated_at=read[-1].created_at)
        same("the thread, changed with its last item", chat.get_thread("ada", "talk-1"), moved)

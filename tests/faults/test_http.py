"""A hundred HTTP clients, and the server in front of the database and the database itself restarted under them.

A client that is refused, cut off, or told 503 sends the same request again, under the same key, and now and then one
hangs up before the answer and does so, too. So every write of a scenario is acknowledged in the end, and what is stored
afterwards must be exactly that.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

import dal
from dal import Dal, Page, Sync
from tests.api import Api, Client
from tests.faults.conftest import WHOLE, Tally
from tests.server import Server

CLIENTS = 100
REQUESTS = 10  # of one scenario
HANGS_UP = 10  # one write in so many is sent twice, the first time by a client that does not wait for the answer
PATIENCE = 30.0  # seconds; a request that takes longer hangs


class Acknowledged(NamedTuple):
    """What a scenario was told: the ids of what it made."""

    workflow: str
    version: str
    run: str


class Users:
    """The clients together: what they sent, what they were told, and what was no right answer."""

    def __init__(self) -> None:
        self.acknowledged: list[Acknowledged] = []
        self.answers: Counter[int] = Counter()
        self.writes = 0
        self.cut_off = 0
        self.hung = 0
        self.successes = 0
        self.wrong: list[str] = []
        self._another = asyncio.Condition()

    async def succeeded(self, times: int) -> None:
        """Wait for so many successes in all."""
        async with self._another:
            await self._another.wait_for(lambda: self.successes >= times)

    async def send(self, web: Client, method: str, path: str, status: int, body: object = None) -> Any:
        """One request, sent until it is answered. A write is sent under a key, which stays the same."""
        headers: dict[str, str] = {}
        hang_up = False
        if method != "GET":
            headers = {"Idempotency-Key": str(uuid4()), "X-Actor": "tester"}
            self.writes += 1
            hang_up = self.writes % HANGS_UP == 0
        while True:
            try:
                async with asyncio.timeout(PATIENCE):
                    answer = await web.request(method, path, body, headers, hang_up=hang_up)
            except ConnectionAbortedError:
                hang_up = False  # sent again at once, while the server may still be at it
                continue
            except ConnectionError:
                self.cut_off += 1
                await asyncio.sleep(0.2)  # a hundred that come sooner keep the server from starting
                continue
            except TimeoutError:
                self.hung += 1
                raise
            self.answers[answer.status] += 1
            if answer.status == 503 and answer.headers.get("retry-after", "").isdigit():
                assert answer.headers["content-type"] == "application/problem+json"
                await asyncio.sleep(max(1, int(answer.headers["retry-after"])))
                continue
            if answer.status != status:
                self.wrong.append(f"{method} {path}: {answer.status} {answer.text}")
                raise AssertionError(self.wrong[-1])
            async with self._another:
                self.successes += 1
                self._another.notify_all()
            return answer.json()

    def expect(self, what: str, found: object, wanted: object) -> None:
        """Note an answer that is not what it must be."""
        if found != wanted:
            self.wrong.append(f"{what}: {found!r} instead of {wanted!r}")

    async def scenario(self, web: Client, name: str) -> None:
        """REQUESTS requests: a workflow, its version, a run of it from beginning to end, and all of it read back."""
        send = partial(self.send, web)
        graph = {"nodes": [name, "b"], "weight": 0.5}
        flow = await send("POST", "/workflows", 201, {"name": name, "tags": ["load"]})
        place = f"/workflows/{flow['id']}"
        version = await send("POST", f"{place}/versions", 201, {"graph": graph})
        run = await send("POST", f"{place}/runs", 201, {"inputs": {"name": name}})
        started = await send("POST", f"/runs/{run['id']}/start", 200)
        found = await send("GET", f"/runs/{run['id']}", 200)
        self.expect("a run read back", found, started)
        done = await send("POST", f"/runs/{run['id']}/succeed", 200, {"output": {"rows": 7}})
        self.acknowledged.append(Acknowledged(flow["id"], version["id"], run["id"]))

        self.expect("states", [each["status"] for each in (run, started, done)], ["pending", "running", "succeeded"])
        self.expect("a workflow", await send("GET", place, 200), flow)
        stored = await send("GET", f"{place}/versions/1", 200)
        self.expect("a version", (stored["id"], stored["graph"]), (version["id"], graph))
        self.expect("runs", await send("GET", f"{place}/runs", 200), {"items": [done], "next": None})
        events = await send("GET", f"/runs/{run['id']}/events", 200)
        actions = [event["action"] for event in events["items"]]
        self.expect("events of a run", actions, ["created", "started", "succeeded"])


async def drive(port: int, scenarios: int, restarts: Sequence[Callable[[], None]]) -> tuple[Users, list[float]]:
    """Let the clients work, and restart one thing after the other meanwhile.

    Returns the clients, and for each restart how long after it the first request succeeded.
    """
    recoveries: list[float] = []
    users = Users()
    total = CLIENTS * scenarios * REQUESTS

    async def client(number: int) -> None:
        async with Client(port) as web:
            for turn in range(scenarios):
                await users.scenario(web, f"client {number} turn {turn}")

    async def restart() -> None:
        for number, again in enumerate(restarts, 1):
            await users.succeeded(total * number // (len(restarts) + 1))
            await asyncio.to_thread(again)
            back = time.monotonic()
            await users.succeeded(users.successes + 1)
            recoveries.append(time.monotonic() - back)

    async with asyncio.timeout(240), asyncio.TaskGroup() as tasks:
        for number in range(CLIENTS):
            tasks.create_task(client(number))
        tasks.create_task(restart())
    return users, recoveries


def every(page: Callable[[str | None], Page[Any]]) -> list[Any]:
    """All items of a list."""
    items: list[Any] = []
    after = None
    while True:
        found = page(after)
        items += found.items
        after = found.next
        if after is None:
            return items


def compare(db: Dal[Sync], users: Users, row: Tally) -> None:
    """Count what was acknowledged and is not there, and what is there and was not acknowledged, or not once."""
    flows = every(lambda after: db.workflows.list(limit=500, after=after))
    found = Counter(("workflow", str(flow.id)) for flow in flows)
    for flow in flows:
        found.update(("version", str(version.id)) for version in db.versions.list(flow.id).items)
        runs = db.runs.list(flow.id).items
        found.update(("run", str(run.id)) for run in runs)
        for run in runs:
            found.update(("event", f"{run.id} {event.action}") for event in db.runs.events(run.id).items)
    told: Counter[tuple[str, str]] = Counter()
    for each in users.acknowledged:
        told.update([("workflow", each.workflow), ("version", each.version), ("run", each.run)])
        told.update(("event", f"{each.run} {action}") for action in ("created", "started", "succeeded"))
    row.lost += (told - found).total()
    row.doubled += (found - told).total()


def check(url: str, api: Api, row: Tally, scenarios: int, restarts: Sequence[Callable[[], None]]) -> None:
    """Run the clients, and judge what they were told and what is stored."""
    users, recoveries = asyncio.run(drive(api.port, scenarios, restarts))
    row.rounds += len(restarts)
    row.hung += users.hung
    row.recoveries += recoveries
    assert users.wrong == []
    assert len(users.acknowledged) == CLIENTS * scenarios
    assert sum(users.answers[status] for status in (200, 201)) == CLIENTS * scenarios * REQUESTS
    assert users.answers.keys() <= {200, 201, 503}
    assert users.cut_off > 0, "the server was not missed while it was away"
    api.stop()
    assert "Traceback" not in api.words(), api.words()
    with dal.connect(url) as db:
        compare(db, users, row)
    row.check()


@pytest.fixture
def scenarios(rounds: Callable[[int, int], int]) -> int:
    """How many each client goes through: 1,000 requests together, or 3,000."""
    return rounds(1, 3)


def test_nothing_is_lost_or_doubled_when_the_server_on_sqlite_is_restarted_under_100_clients(
    tmp_path: Path, tally: Callable[[str], Tally], scenarios: int
) -> None:
    url = f"sqlite:///{tmp_path / 'api.db'}"
    with Api(url, tmp_path / "api.log") as api:
        check(url, api, tally("HTTP server restarted under 100 clients, SQLite"), scenarios, [api.restart])


def test_nothing_is_lost_or_doubled_when_postgresql_and_the_server_are_restarted_under_100_clients(
    tmp_path: Path, tally: Callable[[str], Tally], scenarios: int
) -> None:
    with Server.start() as server:
        url = server.create_database("api")
        restarts = [partial(server.restart, "fast"), *([partial(server.restart, "immediate")] if WHOLE else [])]
        with Api(url, tmp_path / "api.log") as api:
            row = tally("PostgreSQL and HTTP server restarted under 100 clients")
            check(url, api, row, scenarios, [*restarts, api.restart])

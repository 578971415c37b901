"""examples/server: every endpoint on both databases, its keys, its command line, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

import dal
from dal import Settings
from examples.server.app import create_app
from tests.api import ROOT, Answer, Api, Client
from tests.cells import PEPPERS
from tests.server import free_port

ANA = {"X-Actor": "ana"}


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, make_database: Callable[..., str]) -> str:
    return make_database(request.param)


@asynccontextmanager
async def serving(database: str) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(database)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test", headers=ANA) as web,
    ):
        yield web


async def tell(
    web: httpx.AsyncClient, method: str, path: str, body: object = None, status: int = 200, **more: Any
) -> Any:
    """The body of an answer with the expected status."""
    answer = await web.request(method, path, json=body, **more)
    assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
    return answer.json()


def test_the_life_of_a_workflow_and_its_runs_over_http(database: str) -> None:
    async def live() -> None:
        async with serving(database) as web:
            flow = await tell(web, "POST", "/workflows", {"name": "Invoices", "handle": "inv", "tags": ["a"]}, 201)
            place = f"/workflows/{flow['id']}"
            assert await tell(web, "GET", "/workflows/inv") == await tell(web, "GET", place) == flow
            changed = await tell(web, "PATCH", place, {"name": "Bills", "expected_revision": 1})
            assert (changed["name"], changed["handle"], changed["revision"]) == ("Bills", "inv", 2)
            assert (await tell(web, "PATCH", place, {"name": "C", "expected_revision": 1}, 409))["current"] == 2
            assert (await tell(web, "POST", f"{place}/publish", {"require_login": True}))["require_login"] is True
            assert (await tell(web, "POST", f"{place}/publish", status=409))["found"] == "published"
            assert (await tell(web, "POST", f"{place}/unpublish"))["is_public"] is False

            for number in (1, 2):
                version = await tell(web, "POST", f"{place}/versions", {"graph": {"n": number}}, 201)
                assert version["number"] == number
            assert await tell(web, "GET", f"{place}/versions/2") == await tell(web, "GET", f"{place}/versions/latest")
            page = await tell(web, "GET", f"{place}/versions?limit=1")
            rest = await tell(web, "GET", f"{place}/versions?limit=1&after={page['next']}")
            assert [each["number"] for each in page["items"] + rest["items"]] == [2, 1]
            assert rest["next"] is None

            made = [await tell(web, "POST", f"{place}/runs", {"inputs": {"n": n}}, 201) for n in range(3)]
            first, second, third = (f"/runs/{run['id']}" for run in made)
            assert (await tell(web, "POST", f"{first}/start"))["status"] == "running"
            assert (await tell(web, "POST", f"{first}/succeed", {"output": 7}))["output"] == 7
            assert (await tell(web, "POST", f"{first}/succeed", {"output": 8}, 409))["found"] == "succeeded"
            assert (await tell(web, "POST", f"{second}/fail", {"error": "no"}))["status"] == "failed"
            assert (await tell(web, "POST", f"{third}/cancel", {"reason": "late"}))["error"] == "late"
            assert (await tell(web, "GET", first))["status"] == "succeeded"
            assert len((await tell(web, "GET", f"{place}/runs"))["items"]) == 3
            assert [run["id"] for run in (await tell(web, "GET", f"{place}/runs?status=failed"))["items"]] == [
                made[1]["id"]
            ]
            events = (await tell(web, "GET", f"{first}/events"))["items"]
            assert [(event["number"], event["actor"]) for event in events] == [(1, "ana"), (2, "ana"), (3, "ana")]

            assert (await tell(web, "POST", f"{place}/archive"))["is_archived"] is True
            refused = await tell(web, "POST", f"{place}/runs", {}, 409)
            assert refused["type"] == "urn:workflow-dal:workflow-archived"
            assert (await tell(web, "GET", "/workflows"))["items"] == []
            assert len((await tell(web, "GET", "/workflows?include_archived=true&tag=A"))["items"]) == 1
            assert (await tell(web, "POST", f"{place}/unarchive"))["is_archived"] is False
            assert len((await tell(web, "GET", f"{place}/events?limit=500"))["items"]) >= 6

    asyncio.run(live())


def test_a_request_sent_again_under_its_key_gets_the_first_answer(database: str) -> None:
    async def live() -> None:
        async with serving(database) as web:

            async def twice(path: str, body: object, status: int, other: object) -> Any:
                key = {"Idempotency-Key": str(uuid4())}
                first = await tell(web, "POST", path, body, status, headers=key)
                assert await tell(web, "POST", path, body, status, headers=key) == first
                refused = await tell(web, "POST", path, other, 409, headers=key)
                assert refused["type"] == "urn:workflow-dal:idempotency-conflict"
                return first

            flow = await twice("/workflows", {"name": "Invoices"}, 201, {"name": "Bills"})
            place = f"/workflows/{flow['id']}"
            version = await twice(f"{place}/versions", {"graph": {"a": 1}}, 201, {"graph": {"a": 2}})
            run = await twice(f"{place}/runs", {"inputs": {"a": 1}}, 201, {"inputs": {"a": 2}})
            assert (version["number"], run["version_id"]) == (1, version["id"])

            # Without the key the second of these would be refused: the run has moved on.
            key = {"Idempotency-Key": "start"}
            started = await tell(web, "POST", f"/runs/{run['id']}/start", headers=key)
            await tell(web, "POST", f"/runs/{run['id']}/cancel")
            assert await tell(web, "POST", f"/runs/{run['id']}/start", headers=key) == started
            await tell(web, "POST", f"/runs/{run['id']}/start", status=409)

            assert len((await tell(web, "GET", "/workflows"))["items"]) == 1
            assert len((await tell(web, "GET", f"/runs/{run['id']}/events"))["items"]) == 3

    asyncio.run(live())


def test_the_same_request_sent_twice_at_once_under_a_key_is_done_once(database: str) -> None:
    async def live() -> None:
        async with serving(database) as web:
            key = {"Idempotency-Key": "one"}
            asked = (tell(web, "POST", "/workflows", {"name": "Invoices"}, 201, headers=key) for _ in range(20))
            answers = await asyncio.gather(*asked)
            assert len({answer["id"] for answer in answers}) == 1
            assert len((await tell(web, "GET", "/workflows"))["items"]) == 1

    asyncio.run(live())


def test_a_refusal_keeps_the_key_free(database: str) -> None:
    async def live() -> None:
        async with serving(database) as web:
            await tell(web, "POST", "/workflows", {"name": "A", "handle": "h"}, 201)
            body, key = {"name": "B", "handle": "h"}, {"Idempotency-Key": "k"}
            assert (await tell(web, "POST", "/workflows", body, 409, headers=key))["type"].endswith(":handle-taken")
            await tell(web, "POST", "/workflows/h", status=405)
            old = await tell(web, "GET", "/workflows/h")
            await tell(web, "POST", f"/workflows/{old['id']}/archive")
            await tell(web, "POST", "/workflows", body, 201, headers=key)

    asyncio.run(live())


@pytest.mark.parametrize(
    ("method", "path", "body", "where"),
    [
        ("POST", "/workflows", {"name": "A", "nmae": "B"}, "body.nmae"),
        ("POST", "/workflows", {"name": "A", "tags": [7]}, "body.tags[0]"),
        ("POST", "/workflows", {"name": ""}, "name"),
        ("GET", "/workflows?limit=0", None, "limit"),
        ("GET", "/workflows?after=x", None, "after"),
        ("GET", "/workflows?limit=x", None, "query.limit"),
        ("GET", "/runs/7", None, "path.id"),
    ],
)
def test_a_wrong_request_is_told_where(method: str, path: str, body: object, where: str, sqlite_url: str) -> None:
    async def live() -> None:
        async with serving(sqlite_url) as web:
            assert (await tell(web, method, path, body, 422))["path"] == where

    asyncio.run(live())


def test_a_write_names_who_acts(sqlite_url: str) -> None:
    async def live() -> None:
        async with serving(sqlite_url) as web:
            del web.headers["X-Actor"]
            told = await tell(web, "POST", "/workflows", {"name": "A"}, 422)
            assert [fault["path"] for fault in told["errors"]] == ["header.X-Actor"]

    asyncio.run(live())


def test_a_graph_that_json_has_not_is_refused_with_its_place(sqlite_url: str) -> None:
    async def live() -> None:
        async with serving(sqlite_url) as web:
            flow = await tell(web, "POST", "/workflows", {"name": "A"}, 201)
            answer = await web.post(
                f"/workflows/{flow['id']}/versions",
                content=b'{"graph": {"x": [NaN]}}',
                headers={"content-type": "application/json"},
            )
            assert (answer.status_code, answer.json()["path"]) == (422, "graph.x[0]")

    asyncio.run(live())


# --- history ----------------------------------------------------------------------------------------------------------


def test_the_life_of_an_execution_over_http(database: str) -> None:
    async def live() -> None:
        async with serving(database) as web:
            new = {
                "execution_id": "e-1",
                "workflow_id": "w",
                "inputs": {"n": 1},
                "tags": ["a"],
                "metadata": {"env": "prod"},
            }
            started = await tell(web, "POST", "/executions", new, 201)
            assert (started["status"], started["step_count"], started["metadata"]) == ("running", 0, {"env": "prod"})
            assert await tell(web, "GET", "/executions/e-1") == started
            assert (await tell(web, "POST", "/executions", new, 409))["type"].endswith(":already-exists")
            for number in range(3):
                payloads = [{"n": number}, [number], None]
                steps = await tell(web, "POST", "/executions/e-1/steps", {"payloads": payloads}, 201)
                assert [step["idx"] for step in steps] == [3 * number, 3 * number + 1, 3 * number + 2]
            page = await tell(web, "GET", "/executions/e-1/steps?limit=5")
            rest = await tell(web, "GET", f"/executions/e-1/steps?after={page['next']}")
            assert [step["idx"] for step in page["items"] + rest["items"]] == list(range(9))
            answer = await web.get(f"/executions/e-1/steps/stream?after={page['next']}")
            assert answer.headers["content-type"] == "application/x-ndjson"
            assert [json.loads(line) for line in answer.text.splitlines()] == rest["items"]
            assert (await tell(web, "POST", "/executions/e-1/complete"))["status"] == "completed"
            late = await tell(web, "POST", "/executions/e-1/steps", {"payloads": [1]}, 409)
            assert (late["type"], late["found"]) == ("urn:workflow-dal:invalid-transition", "completed")

            for number, metadata in enumerate([{"env": "test"}, {"env": "prod", "tags": [{"by": "ana"}]}], 2):
                other = {"execution_id": f"e-{number}", "workflow_id": "w", "metadata": metadata}
                await tell(web, "POST", "/executions", other, 201)
            assert (await tell(web, "POST", "/executions/e-2/fail", {"error": "no"}))["error"] == "no"
            assert (await tell(web, "POST", "/executions/e-3/cancel", {"reason": "late"}))["status"] == "cancelled"

            async def found(**query: str) -> list[str]:
                answer = await tell(web, "GET", "/executions", params={"workflow_id": "w", **query})
                return [each["execution_id"] for each in answer["items"]]

            assert await found() == ["e-3", "e-2", "e-1"]
            assert await found(status="error") == ["e-2"]
            assert await found(metadata='{"env": "prod"}') == ["e-3", "e-1"]
            assert await found(metadata='{"tags": [{"by": "ana"}]}') == ["e-3"]
            assert await found(metadata='{"env": "none"}') == []
            lost = await tell(web, "GET", "/executions/e-9/steps/stream", status=404)
            assert lost["type"] == "urn:workflow-dal:execution-not-found"

    asyncio.run(live())


def test_steps_that_are_sent_again_under_a_key_are_appended_once(database: str) -> None:
    async def live() -> None:
        async with serving(database) as web:
            key = {"Idempotency-Key": "k"}
            await tell(web, "POST", "/executions", {"execution_id": "e", "workflow_id": "w"}, 201, headers=key)
            for path, body in (("/executions/e/steps", {"payloads": [1, 2]}), ("/executions/e/complete", None)):
                key = {"Idempotency-Key": path}
                status = 201 if body else 200
                first = await tell(web, "POST", path, body, status, headers=key)
                assert await tell(web, "POST", path, body, status, headers=key) == first
            assert (await tell(web, "GET", "/executions/e"))["step_count"] == 2

    asyncio.run(live())


@pytest.mark.parametrize(
    ("method", "path", "body", "where"),
    [
        ("POST", "/executions", {"execution_id": "e"}, "body.workflow_id"),
        ("POST", "/executions", {"execution_id": "", "workflow_id": "w"}, "execution_id"),
        ("POST", "/executions/e/steps", {"payloads": []}, "payloads"),
        ("GET", "/executions", None, "query.workflow_id"),
        ("GET", "/executions?workflow_id=w&status=odd", None, "query.status"),
        ("GET", "/executions?workflow_id=w&metadata={", None, "query.metadata"),
        ("GET", "/executions?workflow_id=w&metadata=[]", None, "metadata"),
        ("GET", "/executions?workflow_id=w&metadata={}&status=error", None, "query.metadata"),
    ],
)
def test_a_wrong_request_about_history_is_told_where(
    method: str, path: str, body: object, where: str, sqlite_url: str
) -> None:
    async def live() -> None:
        async with serving(sqlite_url) as web:
            assert (await tell(web, method, path, body, 422))["path"] == where

    asyncio.run(live())


# --- tokens -----------------------------------------------------------------------------------------------------------


def a_token(url: str, name: str, *scopes: str) -> str:
    """As an operator makes it, while the server runs or before."""
    granted = [word for scope in scopes for word in ("--scope", scope)]
    made = subprocess.run(
        [sys.executable, "-m", "dal", "tokens", "mint", name, *granted, "--actor", "test", "--url", url],
        cwd=ROOT, env={**os.environ, "DAL_TOKEN_PEPPERS": PEPPERS}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return made.stdout.strip()


def test_with_tokens_every_endpoint_but_the_probes_needs_one(database: str, tmp_path: Path) -> None:
    with Api(
        database, tmp_path / "log", options=["--tokens"], environment={"DAL_TOKEN_PEPPERS": PEPPERS}
    ) as api, httpx.Client(base_url=api.address) as web:  # fmt: skip
        assert "there is no token yet: dal tokens mint" in api.words()
        described = web.get("/openapi.json").json()
        asked = 0
        for path, methods in described["paths"].items():
            for method in methods:
                answer = web.request(method, re.sub(r"\{[^}]*\}", "x", path), headers=ANA)
                if path in ("/live", "/ready"):
                    assert answer.status_code == 200
                    continue
                asked += 1
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), f"{method} {path}"
        assert asked >= 30
        reader, writer = a_token(database, "reader", "read"), a_token(database, "writer", "read", "write")

        def ask(token: str, method: str, path: str, body: object = None) -> httpx.Response:
            return web.request(method, path, json=body, headers={"Authorization": f"Bearer {token}", **ANA})

        made = ask(writer, "POST", "/workflows", {"name": "Invoices"})
        assert made.status_code == 201
        place = f"/workflows/{made.json()['id']}"
        (event,) = ask(reader, "GET", f"{place}/events").json()["items"]
        assert event["actor"] == "writer", "not who a header says"
        refused = ask(reader, "POST", f"{place}/archive")
        assert (refused.status_code, refused.json()["found"]) == (403, "scope")
        started = ask(writer, "POST", "/executions", {"execution_id": "e", "workflow_id": "w"})
        assert (started.status_code, ask(reader, "GET", "/executions/e").json()) == (201, started.json())
        assert ask(reader, "POST", "/executions/e/steps", {"payloads": [1]}).status_code == 403

        with dal.connect(Settings.from_url(database, token_peppers=PEPPERS)) as db:
            writers = writer.split("_")[2]
            successor = db.tokens.rotate(writers, actor="ana", overlap_seconds=0).secret.reveal()
            assert ask(writer, "GET", place).status_code == 401, "it is refused at once, in another process"
            assert ask(successor, "POST", f"{place}/archive").status_code == 200
            api.stop()
            words = api.words()
            assert [token for token in (reader, writer, successor) if token[21:29] in words] == []
            (usage,) = db.tokens.usage([writers])  # stored at the end
            assert (usage.use_count, usage.last_ip) == (2, "127.0.0.1")
            assert db.tokens.usage([reader.split("_")[2]])[0].use_count == 2


def test_with_tokens_on_postgresql_the_server_says_that_it_needs_peppers(postgres_url: str) -> None:
    done = run("--url", postgres_url, "--tokens", "--port", str(free_port()))
    assert done.returncode == 2
    assert "DAL_TOKEN_PEPPERS" in done.stderr


def test_a_stream_of_many_steps_is_whole(database: str, tmp_path: Path) -> None:
    with dal.connect(database) as db:
        db.history.start("long", "w")
        for at in range(0, 3000, 1000):
            db.history.append_steps("long", [{"n": at + n, "fill": "x" * 200} for n in range(1000)])
    with (
        Api(database, tmp_path / "log") as api,
        httpx.stream("GET", f"{api.address}/executions/long/steps/stream") as lines,
    ):
        numbers = [json.loads(line)["payload"]["n"] for line in lines.iter_lines()]
    assert numbers == list(range(3000))


# --- the process ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["TOKENS=1"]], ids=str)
def test_make_serve_starts_a_server_that_ends_when_told_to(more: list[str], tmp_path: Path) -> None:
    port = free_port()
    url = f"sqlite:///{tmp_path / 'served.db'}"
    # Not to install anything, if .venv is older than pyproject.toml: this run of the tests has what it needs.
    printed = subprocess.run(
        ["make", "--no-print-directory", "-n", "-o", ".venv/.installed", "serve", f"PORT={port}", f"URL={url}", *more],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    command = printed.strip().removeprefix("exec ").replace(".venv/bin/python", shlex.quote(sys.executable))
    with Api(url, tmp_path / "log", port=port, command=shlex.split(command)) as api:
        assert httpx.get(f"{api.address}/workflows").status_code == (401 if more else 200)
        api.stop()
    assert "Application shutdown complete" in api.words()
    with dal.connect(url, migrate=False) as db:  # it made the tables
        assert db.workflows.list().items == []
    assert not (tmp_path / "served.db-wal").exists(), "the database was not closed"


def test_a_server_told_to_end_finishes_the_request_it_has(tmp_path: Path) -> None:
    """The request waits for a writer of another process, which goes on when the server has been told to end."""
    path = tmp_path / "api.db"
    with Api(f"sqlite:///{path}", tmp_path / "log") as api, ThreadPoolExecutor(1) as other:

        async def create() -> Answer:
            async with Client(api.port) as client:
                return await client.request("POST", "/workflows", {"name": "Late"}, ANA)

        with sqlite3.connect(path, isolation_level=None) as writer:
            writer.execute("begin immediate")
            asked = other.submit(asyncio.run, create())
            with pytest.raises(TimeoutError):
                asked.result(0.5)
            api.terminate()
            with pytest.raises(TimeoutError):
                asked.result(0.5)
            writer.execute("commit")
        writer.close()
        assert asked.result(30).status == 201
        assert api.wait() == 0
    with dal.connect(f"sqlite:///{path}") as db:
        assert [flow.name for flow in db.workflows.list().items] == ["Late"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "examples.server", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)


def test_its_help_names_every_option() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert set(re.findall(r"(?<!\S)--[a-z-]+", done.stdout.partition("options:")[2].partition("\n\n")[0])) == {
        "--help", "--url", "--host", "--port", "--log-level", "--grace", "--no-migrate",
        "--tokens", "--chat",
    }  # fmt: skip


def test_a_database_it_cannot_open_ends_it_without_showing_the_password(tmp_path: Path) -> None:
    wrong = run("--url", "mysql://u:hunter2@host/db")
    assert wrong.returncode == 2
    assert "a database URL must be" in wrong.stderr
    gone = run("--url", "postgresql://u:hunter2@127.0.0.1:1/db", "--port", str(free_port()))
    assert gone.returncode == 3
    new = run("--url", f"sqlite:///{tmp_path / 'new.db'}", "--no-migrate", "--port", str(free_port()))
    assert new.returncode == 3
    assert "hunter2" not in wrong.stderr + gone.stderr + new.stderr + wrong.stdout + gone.stdout

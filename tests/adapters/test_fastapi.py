"""dal.adapters.fastapi: errors as problems, transactions that end before the response, the life of the Dal, probes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import httpx
import msgspec
import pytest
from fastapi import Body, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import Response
from starlette.types import Message, Receive, Scope, Send

import dal
from dal import Dal, DalError, Page, Settings, Sync, Workflow, errors
from dal.adapters.fastapi import (
    Database,
    ReadTransaction,
    StructResponse,
    Transaction,
    add_problem_handlers,
    lifespan,
    router,
)
from tests.server import Server

SECRET = "hunter2"


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, make_database: Callable[..., str]) -> str:
    return make_database(request.param)


@pytest.fixture
def stored(database: str) -> Iterator[Dal[Sync]]:
    """The same database through connections of its own: what others see of it."""
    with dal.connect(database) as db:
        yield db


def an_app(database: str | Settings) -> FastAPI:
    app = FastAPI(lifespan=lifespan(database))
    add_problem_handlers(app)
    app.include_router(router(bound=0.5))
    return app


@asynccontextmanager
async def serving(app: FastAPI, asgi: Any = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application within its lifespan. asgi: what stands in front of it."""
    transport = httpx.ASGITransport(asgi or app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as web:
        yield web


def use(app: FastAPI, work: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with serving(app) as web:
            await work(web)

    asyncio.run(run())


def ask(app: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    """The answer to one request."""
    answers: list[httpx.Response] = []

    async def work(web: httpx.AsyncClient) -> None:
        answers.append(await web.request(method, path, **options))

    use(app, work)
    return answers[0]


def problem(answer: httpx.Response) -> dict[str, Any]:
    """The problem that an answer is, after what every problem has to have."""
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "instance"} <= told.keys()
    assert told["status"] == answer.status_code
    assert None not in told.values()
    assert answer.headers.get("retry-after") == (str(told["retry_after"]) if "retry_after" in told else None)
    return told


# --- errors -----------------------------------------------------------------------------------------------------------

# Error, status, the end of its type, Retry-After, members of its own.
MAPPING: list[tuple[DalError, int, str, int | None, dict[str, object]]] = [
    (errors.Invalid("takes 1 to 500", path="limit"), 422, "invalid", None, {"path": "limit"}),
    (errors.NotFound("x"), 404, "not-found", None, {}),
    (errors.WorkflowNotFound("x"), 404, "workflow-not-found", None, {}),
    (errors.VersionNotFound("x"), 404, "version-not-found", None, {}),
    (errors.RunNotFound("x"), 404, "run-not-found", None, {}),
    (errors.TriggerNotFound("x"), 404, "trigger-not-found", None, {}),
    (errors.KeyNotFound("x"), 404, "key-not-found", None, {}),
    (errors.ExecutionNotFound("x"), 404, "execution-not-found", None, {}),
    (errors.CheckpointNotFound("x"), 404, "checkpoint-not-found", None, {}),
    (errors.ThreadNotFound("x"), 404, "thread-not-found", None, {}),
    (errors.ItemNotFound("x"), 404, "item-not-found", None, {}),
    (errors.AttachmentNotFound("x"), 404, "attachment-not-found", None, {}),
    (errors.Conflict("x"), 409, "conflict", None, {}),
    (errors.AlreadyExists("x", constraint="runs_pkey"), 409, "already-exists", None, {"constraint": "runs_pkey"}),
    (errors.HandleTaken("x", constraint="c"), 409, "handle-taken", None, {"constraint": "c"}),
    (errors.VersionTaken("x", constraint="c"), 409, "version-taken", None, {"constraint": "c"}),
    (errors.TokenNotFound("x"), 404, "token-not-found", None, {}),
    (errors.TokenRefused(), 401, "token-refused", None, {}),
    (errors.TokenRefused("x", found="revoked"), 401, "token-refused", None, {"found": "revoked"}),
    (errors.TokenRefused("x", found="scope"), 403, "token-refused", None, {"found": "scope"}),
    (errors.TokenRefused("x", found="workspace"), 403, "token-refused", None, {"found": "workspace"}),
    (errors.NameTaken("x", constraint="c"), 409, "name-taken", None, {"constraint": "c"}),
    (errors.RevisionConflict("x", current=7), 409, "revision-conflict", None, {"current": 7}),
    (errors.IdempotencyConflict("x", constraint="c"), 409, "idempotency-conflict", None, {"constraint": "c"}),
    (errors.ConstraintViolated("x", constraint="c"), 409, "constraint-violated", None, {"constraint": "c"}),
    (errors.InvalidState("x", found="odd"), 409, "invalid-state", None, {"found": "odd"}),
    (errors.InvalidTransition("x", found="failed"), 409, "invalid-transition", None, {"found": "failed"}),
    (errors.LeaseLost("x", found="running"), 409, "lease-lost", None, {"found": "running"}),
    (errors.WebhookRefused("x", found="method"), 409, "webhook-refused", None, {"found": "method"}),
    (errors.WorkflowArchived("x", found="archived"), 409, "workflow-archived", None, {"found": "archived"}),
    (errors.AlreadyPublished("x", found="public"), 409, "already-published", None, {"found": "public"}),
    (errors.NotPublished("x", found="private"), 409, "not-published", None, {"found": "private"}),
    (errors.TransactionAborted("x"), 500, "transaction-aborted", None, {}),
    (errors.Closed("x"), 503, "closed", 1, {}),
    (errors.Unavailable("x"), 503, "unavailable", 1, {}),
    (errors.Overloaded("x", retry_after=4.2), 503, "overloaded", 5, {}),
    (errors.Overloaded("x", retry_after=0.01), 503, "overloaded", 1, {}),
    (errors.RateLimited("x", retry_after=59.5), 429, "rate-limited", 60, {}),
    (errors.ReadOnly("x"), 503, "read-only", 1, {}),
    (errors.CorruptDatabase("x"), 503, "corrupt-database", 30, {}),
    (errors.DiskFull("x"), 503, "disk-full", 30, {}),
    (errors.PepperMissing("x"), 503, "pepper-missing", 30, {}),
    (errors.OutcomeUnknown("x"), 500, "outcome-unknown", None, {}),
    (errors.SchemaError("x"), 500, "schema-error", None, {}),
    (errors.CatalogError("x"), 500, "catalog-error", None, {}),
    (errors.DalError("x"), 500, "dal-error", None, {}),
]


def raising(error: BaseException) -> FastAPI:
    app = FastAPI()
    add_problem_handlers(app)

    @app.get("/a b/{name}")
    async def fail(name: str) -> None:
        raise error

    @app.websocket("/socket")
    async def fail_socket(socket: WebSocket) -> None:
        await socket.accept()
        raise error

    return app


@pytest.mark.parametrize(("error", "status", "name", "wait", "members"), MAPPING, ids=lambda each: type(each).__name__)
def test_an_error_of_ours_is_a_problem_with_its_status_and_members(
    error: DalError, status: int, name: str, wait: int | None, members: dict[str, object]
) -> None:
    answer = ask(raising(error), "GET", "/a%20b/é?token=" + SECRET)
    told = problem(answer)
    assert (answer.status_code, told["type"]) == (status, f"urn:workflow-dal:{name}")
    assert told["title"] == (type(error).__doc__ or "").splitlines()[0].rstrip(".")
    assert told["instance"] == "/a%20b/%C3%A9"
    assert told.get("retry_after") == wait
    challenge = {401: 'Bearer error="invalid_token"', 403: 'Bearer error="insufficient_scope"'}.get(status)
    assert answer.headers.get("www-authenticate") == challenge
    assert {key: told[key] for key in told.keys() & {"path", "found", "current", "constraint"}} == members
    assert told["detail"] == str(error) or status >= 500


def test_the_table_of_errors_leaves_none_out() -> None:
    known = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, DalError)}
    assert {type(error) for error, *_ in MAPPING} == known


def test_an_error_of_the_application_keeps_its_words_and_has_the_type_of_its_nearest_class_here() -> None:
    class QuotaUsedUp(dal.Conflict):
        """The team has used up its runs.

        Until midnight.
        """

    told = problem(ask(raising(QuotaUsedUp("team 7")), "GET", "/a b/x"))
    assert (told["type"], told["status"]) == ("urn:workflow-dal:conflict", 409)
    assert (told["title"], told["detail"]) == (
        "The team has used up its runs", "The team has used up its runs: team 7"
    )  # fmt: skip


@pytest.mark.parametrize("kind", [errors.Unavailable, errors.OutcomeUnknown, errors.SchemaError, RuntimeError])
def test_a_fault_of_the_server_is_told_to_its_log_and_not_to_its_client(
    kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "dal.http"):
        answer = ask(raising(kind(f"connection to server at db.internal failed {SECRET}")), "GET", "/a b/x")
    assert problem(answer)["status"] >= 500
    assert "db.internal" not in answer.text
    assert "Traceback" not in answer.text
    logged = [record.getMessage() for record in caplog.records if record.name == "dal.http"]
    # Whoever serves the application logs what is none of ours, with its traceback.
    assert [line for line in logged if line.startswith("GET /a%20b/x: ") and "db.internal" in line] or (
        kind is RuntimeError and not logged
    )


def test_a_refusal_is_no_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "dal.http"):
        assert ask(raising(errors.RunNotFound("x")), "GET", "/a b/x").status_code == 404
    assert [record for record in caplog.records if record.name == "dal.http"] == []


def test_an_unknown_path_and_a_wrong_method_are_problems_too() -> None:
    lost, wrong = (ask(raising(ValueError("x")), method, path) for method, path in (("GET", "/"), ("PUT", "/a b/x")))
    assert (problem(lost)["type"], problem(lost)["title"], lost.status_code) == ("about:blank", "Not Found", 404)
    assert (problem(wrong)["status"], wrong.headers["allow"]) == (405, "GET")


def test_an_http_exception_keeps_its_headers_and_a_form_of_its_own() -> None:
    plain = ask(raising(HTTPException(401, "No token", {"WWW-Authenticate": "Bearer"})), "GET", "/a b/x")
    assert (problem(plain)["detail"], plain.headers["www-authenticate"]) == ("No token", "Bearer")
    assert ask(raising(HTTPException(418, {"code": 7})), "GET", "/a b/x").json() == {"detail": {"code": 7}}
    assert ask(raising(HTTPException(304)), "GET", "/a b/x").content == b""
    assert problem(ask(raising(HTTPException(499, "Gone away")), "GET", "/a b/x"))["title"] == "499"


def test_a_request_of_the_wrong_form_is_told_where_and_not_what_it_held() -> None:
    app = FastAPI()
    add_problem_handlers(app)

    @app.post("/")
    async def post(tags: Annotated[list[int], Body(embed=True)], limit: int) -> None: ...

    told = problem(ask(app, "POST", "/?limit=x", json={"tags": [1, SECRET]}))
    assert (told["type"], told["status"], told["path"]) == ("urn:workflow-dal:invalid-request", 422, "query.limit")
    assert [each["path"] for each in told["errors"]] == ["query.limit", "body.tags[1]"]
    assert all(each["detail"] for each in told["errors"])
    assert SECRET not in str(told)
    broken = problem(ask(app, "POST", "/?limit=1", content=b'{"a": ', headers={"content-type": "application/json"}))
    assert (broken["status"], broken["path"]) == (422, "body[6]")


def test_a_client_that_hangs_up_while_its_request_is_read_is_no_error_of_the_server() -> None:
    app = FastAPI()
    add_problem_handlers(app)
    sent: list[Message] = []

    @app.post("/")
    async def read(request: Request) -> None:
        await request.body()

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
    asyncio.run(app(scope, receive, send))  # an unexpected error would be raised here, to be logged by the server
    assert sent[0]["status"] == 400


def test_an_error_in_a_web_socket_closes_it_and_is_raised_to_its_server() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    app = raising(errors.RunNotFound("x"))
    scope = {"type": "websocket", "path": "/socket", "headers": [], "query_string": b"", "subprotocols": []}
    with pytest.raises(dal.RunNotFound):
        asyncio.run(app(scope, receive, send))
    assert [message["type"] for message in sent] == ["websocket.accept"]


# --- transactions -----------------------------------------------------------------------------------------------------


def names(db: Dal[Sync]) -> list[str]:
    return [flow.name for flow in db.workflows.list().items]


def test_the_commit_is_done_before_the_response_begins(database: str, stored: Dal[Sync]) -> None:
    app = an_app(database)
    seen: list[list[str]] = []

    @app.post("/")
    async def create(tx: Transaction) -> StructResponse:
        flow = await tx.workflows.create("Invoices", actor="ana")
        await tx.versions.create(flow.id, {}, actor="ana")
        assert await asyncio.to_thread(names, stored) == []
        return StructResponse(flow, 201)

    async def watching(scope: Scope, receive: Receive, send: Send) -> None:
        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.append(await asyncio.to_thread(names, stored))
            await send(message)

        await app(scope, receive, tell)

    async def run() -> None:
        async with serving(app, watching) as web:
            assert (await web.post("/")).status_code == 201

    asyncio.run(run())
    assert seen == [["Invoices"]]


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (lambda: (_ for _ in ()).throw(HTTPException(418, "no")), 418),
        (lambda: (_ for _ in ()).throw(errors.HandleTaken("x")), 409),
        (lambda: (_ for _ in ()).throw(RuntimeError("x")), 500),
        (lambda: StructResponse(object()), 500),
    ],
    ids=["HTTPException", "DalError", "RuntimeError", "an answer that is no JSON"],
)
def test_an_error_of_the_handler_undoes_what_it_did(
    fault: Callable[[], object], status: int, database: str, stored: Dal[Sync]
) -> None:
    app = an_app(database)

    @app.post("/")
    async def create(tx: Transaction) -> None:
        await tx.workflows.create("Invoices", actor="ana")
        fault()

    async def work(web: httpx.AsyncClient) -> None:
        assert (await web.post("/")).status_code == status
        assert names(stored) == []
        assert (await web.get("/ready")).status_code == 200

    use(app, work)
    assert names(stored) == []


def test_a_commit_that_postgresql_refuses_is_told(make_database: Callable[..., str]) -> None:
    app = an_app(make_database("postgres"))

    @app.post("/")
    async def create(tx: Transaction) -> Response:
        await tx.connection.execute("create table notes (id int unique deferrable initially deferred)")
        await tx.connection.execute("insert into notes values (1), (1)")
        return Response(status_code=201)

    told = problem(ask(app, "POST", "/"))
    assert (told["status"], told["constraint"]) == (409, "notes_id_key")


def test_a_transaction_that_sqlite_ended_for_its_length_is_told(sqlite_url: str) -> None:
    app = an_app(Settings.from_url(sqlite_url, sqlite_tx_timeout=0.05))

    @app.post("/")
    async def create(tx: Transaction) -> Response:
        await tx.workflows.create("Invoices", actor="ana")
        await asyncio.sleep(0.5)
        return Response(status_code=201)

    assert problem(ask(app, "POST", "/"))["type"] == "urn:workflow-dal:unavailable"


def test_a_read_transaction_is_one_view_and_refuses_to_write(database: str, stored: Dal[Sync]) -> None:
    app = an_app(database)

    @app.get("/")
    async def look(tx: ReadTransaction, write: bool = False) -> StructResponse:
        before = await tx.workflows.list()
        await asyncio.to_thread(stored.workflows.create, "Invoices", actor="ana")
        if write:
            await tx.workflows.create("More", actor="ana")
        return StructResponse([before, await tx.workflows.list()])

    async def work(web: httpx.AsyncClient) -> None:
        before, after = (await web.get("/")).json()
        assert before == after == {"items": [], "next": None}
        assert problem(await web.get("/?write=true"))["type"] == "urn:workflow-dal:read-only"

    use(app, work)
    assert names(stored) == ["Invoices", "Invoices"]


def test_the_database_itself_is_refused_inside_a_transaction(database: str, stored: Dal[Sync]) -> None:
    app = an_app(database)

    @app.post("/")
    async def create(tx: Transaction, db: Database) -> None:
        await tx.workflows.create("Invoices", actor="ana")
        await db.workflows.list()

    assert problem(ask(app, "POST", "/"))["type"] == "urn:workflow-dal:invalid-state"
    assert names(stored) == []


# --- answers ----------------------------------------------------------------------------------------------------------


def test_structs_come_back_from_a_response_as_they_are(database: str, stored: Dal[Sync]) -> None:
    app = an_app(database)
    made = stored.workflows.create("Rechnungen für März", tags=["a"], chat_config={"n": 2**60}, actor="ana")

    @app.get("/workflows/{id}")
    async def get(id: UUID, db: Database) -> StructResponse:
        return StructResponse(await db.workflows.get(id))

    @app.get("/workflows")
    async def pages(db: Database) -> StructResponse:
        return StructResponse(await db.workflows.list())

    async def work(web: httpx.AsyncClient) -> None:
        one = await web.get(f"/workflows/{made.id}")
        assert one.headers["content-type"] == "application/json"
        assert msgspec.json.decode(one.content, type=Workflow) == made
        assert one.json()["created_at"] == made.created_at.isoformat().replace("+00:00", "Z")
        page = msgspec.json.decode((await web.get("/workflows")).content, type=Page[Workflow])
        assert page.items == [made]
        assert "/workflows/{id}" in (await web.get("/openapi.json")).json()["paths"]

    use(app, work)


# --- the life of the Dal ----------------------------------------------------------------------------------------------


def test_the_application_s_own_lifespan_runs_while_the_database_is_open(database: str) -> None:
    heard: list[object] = []

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncGenerator[dict[str, object]]:
        heard.append(len((await app.state.dal.workflows.list()).items))
        yield {"greeting": "hello"}
        heard.append(len((await app.state.dal.workflows.list()).items))

    app = FastAPI(lifespan=lifespan(database, inner=own))

    async def run() -> None:
        async with app.router.lifespan_context(app) as state:
            heard.append(state)
            await app.state.dal.workflows.create("Invoices", actor="ana")
        with pytest.raises(dal.Closed):
            await app.state.dal.workflows.list()

    asyncio.run(run())
    assert heard == [0, {"greeting": "hello"}, 1]


def test_an_application_may_be_started_again(database: str) -> None:
    app = an_app(database)
    for _ in range(2):
        assert ask(app, "GET", "/ready").status_code == 200


def test_settings_of_the_environment_name_the_database(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAL_SQLITE_PATH", sqlite_url.removeprefix("sqlite:///"))
    app = FastAPI(lifespan=lifespan())

    async def run() -> None:
        async with app.router.lifespan_context(app):
            assert str(app.state.dal.settings.sqlite_path) == os.environ["DAL_SQLITE_PATH"]

    asyncio.run(run())


def test_a_database_without_the_schema_ends_the_start(tmp_path: Path) -> None:
    app = FastAPI(lifespan=lifespan(f"sqlite:///{tmp_path / 'new.db'}", migrate=False))

    async def run() -> None:
        async with app.router.lifespan_context(app):
            raise AssertionError("it started")

    with pytest.raises(dal.SchemaError):
        asyncio.run(run())


def test_an_application_without_the_lifespan_is_told_to_use_it() -> None:
    app = FastAPI()
    app.include_router(router())
    transport = httpx.ASGITransport(app)

    async def run() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as web:
            with pytest.raises(RuntimeError, match=r"no database is open.*lifespan"):
                await web.get("/ready")
            assert (await web.get("/live")).status_code == 200

    asyncio.run(run())


def test_a_request_after_the_end_may_go_to_another_server(database: str) -> None:
    app = an_app(database)

    async def run() -> None:
        async with serving(app):
            pass
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as web:
            told = problem(await web.get("/ready"))
            assert (told["type"], told["retry_after"]) == ("urn:workflow-dal:closed", 1)

    asyncio.run(run())


# --- probes -----------------------------------------------------------------------------------------------------------


def test_a_live_server_asks_its_database_nothing(database: str) -> None:
    app = an_app(database)

    async def work(web: httpx.AsyncClient) -> None:
        before = app.state.dal.calls
        assert (await web.get("/live")).json() == {"status": "alive"}
        assert app.state.dal.calls == before
        assert (await web.get("/ready")).json().keys() == {"status", "schema_version", "latency_ms"}
        assert app.state.dal.calls != before

    use(app, work)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("delete from dal_schema_migrations", 503),
        ("drop table dal_schema_migrations", 503),
        ("insert into dal_schema_migrations values (99, 'new', '', '2026-01-31T00:00:00.000000Z', 1, '')", 200),
    ],
    ids=["a migration missing", "no ledger", "a newer migration"],
)
def test_a_server_is_ready_while_its_database_has_every_migration_it_needs(
    change: str, status: int, database: str, stored: Dal[Sync]
) -> None:
    async def work(web: httpx.AsyncClient) -> None:
        assert (await web.get("/ready")).status_code == 200
        with stored.transaction() as tx:
            tx.connection.execute(change)
        answer = await web.get("/ready")
        assert answer.status_code == status
        if status == 503:
            told = problem(answer)
            assert (told["type"], told["retry_after"]) == ("urn:workflow-dal:schema-error", 1)

    use(an_app(database), work)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.05)


def test_a_server_is_not_ready_while_postgresql_is_down_and_is_again_afterwards() -> None:
    with Server.start() as server:
        url = server.create_database("app")
        dal.connect(url, migrate=True).close()

        async def work(web: httpx.AsyncClient) -> None:
            assert (await web.get("/ready")).status_code == 200
            await asyncio.to_thread(server.stop)
            told = problem(await web.get("/ready"))
            assert (told["status"], told["type"]) == (503, "urn:workflow-dal:unavailable")
            assert "127.0.0.1" not in str(told)
            assert (await web.get("/live")).status_code == 200
            await asyncio.to_thread(server.restart)

            async def ready() -> bool:
                return (await web.get("/ready")).status_code == 200

            await until(ready)

        use(an_app(url), work)


def send(sign: signal.Signals, pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # a worker of the server that had just come to its end
            os.kill(pid, sign)


def test_a_frozen_postgresql_is_asked_once_however_often_readiness_is() -> None:
    with Server.start() as server:
        url = server.create_database("app")
        dal.connect(url, migrate=True).close()
        app = an_app(url)

        async def work(web: httpx.AsyncClient) -> None:
            assert (await web.get("/ready")).status_code == 200
            before = app.state.dal.calls["get_schema_version"]
            frozen = server.processes()
            send(signal.SIGSTOP, frozen)
            try:
                async with asyncio.timeout(20):  # the bound is 0.5 s; without it the deadline would be, 35 s
                    answers = await asyncio.gather(*(web.get("/ready") for _ in range(20)))
                    answers.append(await web.get("/ready"))
            finally:
                send(signal.SIGCONT, frozen)
            assert {problem(answer)["type"] for answer in answers} == {"urn:workflow-dal:unavailable"}
            assert app.state.dal.calls["get_schema_version"] == before + 1

            async def ready() -> bool:
                return (await web.get("/ready")).status_code == 200

            await until(ready)

        use(app, work)

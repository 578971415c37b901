"""FastAPI on a Dal: its life, what handlers ask for, what errors look like, whether it may be sent requests.

    app = FastAPI(lifespan=lifespan("sqlite:///workflows.db"))
    add_problem_handlers(app)
    app.include_router(router())

    @app.get("/workflows/{id}")
    async def get(id: UUID, db: Database) -> StructResponse:
        return StructResponse(await db.workflows.get(id))

Needs the extra: ``pip install 'workflow-dal[fastapi]'``.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from fastapi import APIRouter, Depends, FastAPI
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.models import HTTPBearer
from fastapi.requests import HTTPConnection, Request
from fastapi.responses import JSONResponse, Response
from fastapi.security.base import SecurityBase
from msgspec.structs import replace
from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import ClientDisconnect
from starlette.types import Lifespan

from dal.adapters.problems import MEDIA_TYPE, Fault, Problem, challenge_of, invalid_request, problem_of
from dal.core.face import Async
from dal.core.rows import Dialect
from dal.core.schema import migrations
from dal.dal import Dal, Health, Tx, aconnect
from dal.errors import DalError, Invalid, SchemaError, TokenRefused, Unavailable
from dal.settings import Settings
from dal.stores.token_records import TokenRecord

__all__ = [
    "Database",
    "ReadTransaction",
    "StructResponse",
    "Transaction",
    "add_problem_handlers",
    "authenticate",
    "bearer",
    "lifespan",
    "router",
    "token",
]

log = logging.getLogger("dal.http")


# --- the life of a Dal ------------------------------------------------------------------------------------------------


def lifespan(
    database: str | Settings | None = None, *, migrate: bool | None = None, inner: Lifespan[FastAPI] | None = None
) -> Lifespan[FastAPI]:
    """A lifespan for ``FastAPI(lifespan=…)``: opens the database before the first request, closes it after the last.

    database, migrate: as for ``dal.aconnect``; what it raises ends the start. inner: the application's own lifespan,
    begun when the database is open and ended before it closes; what it yields is passed on. The Dal is
    ``app.state.dal``; calls on it after the end raise Closed.
    """

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncGenerator[Mapping[str, Any] | None]:
        async with aconnect(database, migrate=migrate) as app.state.dal:
            if inner is None:
                yield None
                return
            async with inner(app) as state:
                yield state

    return run  # type: ignore[return-value]  # Starlette's type has one form for each of the two, and none for both


# --- what handlers ask for --------------------------------------------------------------------------------------------


async def get_database(connection: HTTPConnection) -> Dal[Async]:
    """The Dal of the application. Raises RuntimeError in one without our lifespan."""
    db = getattr(connection.app.state, "dal", None)
    if not isinstance(db, Dal):
        raise RuntimeError("no database is open: FastAPI(lifespan=dal.adapters.fastapi.lifespan(url)) opens one")
    return db


Database = Annotated[Dal[Async], Depends(get_database)]


async def open_transaction(db: Database) -> AsyncGenerator[Tx[Async]]:
    """A transaction for the length of a handler."""
    async with db.transaction() as tx:
        yield tx


async def open_read_transaction(db: Database) -> AsyncGenerator[Tx[Async]]:
    """One consistent view for the length of a handler."""
    async with db.transaction(read_only=True) as tx:
        yield tx


# scope="function": ended before the response is sent. Otherwise FastAPI ends what a dependency began after that, and a
# client would be told of a change that is not there yet, or never will be.
Transaction = Annotated[Tx[Async], Depends(open_transaction, scope="function")]
ReadTransaction = Annotated[Tx[Async], Depends(open_read_transaction, scope="function")]


# --- who asks ---------------------------------------------------------------------------------------------------------


class _Bearer(SecurityBase):
    def __init__(self) -> None:
        self.model = HTTPBearer(description="A service token, as 'dal tokens mint' prints it.")
        self.scheme_name = "token"

    async def __call__(self, connection: HTTPConnection) -> str | None:
        headers = connection.headers.getlist("authorization")
        scheme, _, text = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
        return text.strip() or None if scheme.lower() == "bearer" else None


bearer = _Bearer()  # a dependency: the text behind "Authorization: Bearer", unchecked; None without, or with two
Text = Annotated[str | None, Depends(bearer)]


async def authenticate(
    connection: HTTPConnection,
    db: Dal[Async],
    text: str | None,
    *,
    scopes: Sequence[str] = (),
    workspace: str | None = None,
    legacy: bool = False,
) -> TokenRecord:
    """The token that a request carries, if it may be used now, from the client's address, for this. One round trip.

    text: what ``bearer`` gives. scopes, workspace, legacy: as for ``db.tokens.authenticate``. Raises HTTPException with
    401 if there is no token, TokenRefused if it is refused; in a web socket WebSocketException for both.
    """
    try:
        if text is not None:
            return await db.tokens.authenticate(
                text,
                ip=_address(connection),
                user_agent=connection.headers.get("user-agent"),
                workspace=workspace,
                scopes=scopes,
                legacy=legacy,
            )
    except TokenRefused:
        if connection.scope["type"] == "http":
            raise
    if connection.scope["type"] != "http":
        raise WebSocketException(1008, "a service token is needed")
    raise HTTPException(401, "A service token is needed: Authorization: Bearer dal_…", {"WWW-Authenticate": "Bearer"})


def token(
    *,
    scopes: Sequence[str] | Callable[..., Any] = (),
    workspace: Callable[..., Any] | None = None,
    legacy: bool = False,
) -> Callable[..., Awaitable[TokenRecord]]:
    """A dependency that asks for a service token: ``Annotated[TokenRecord, Depends(token(scopes=["runs:read"]))]``.

    scopes: what the token must grant, or a dependency that says so for each request. workspace: a dependency that gives
    the id of the workspace that is asked for, or None: a function with the parameters of a handler. legacy: as for
    ``db.tokens.authenticate``. Errors as for ``authenticate``.
    """

    if isinstance(scopes, str):
        raise Invalid("takes a list of them, or a dependency", path="scopes")
    wanted = Depends(scopes if callable(scopes) else _always([*scopes]))
    place = Depends(workspace or _always(None))

    async def caller(
        connection: HTTPConnection, db: Database, text: Text, scopes: Any = wanted, workspace: Any = place
    ) -> TokenRecord:
        return await authenticate(connection, db, text, scopes=scopes, workspace=workspace, legacy=legacy)

    return caller


def _always(value: object) -> Callable[[], Awaitable[Any]]:
    async def give() -> Any:
        return value

    return give


def _address(connection: HTTPConnection) -> str | None:
    """Where a request comes from, if that is an address: a socket in the file system has none."""
    host = connection.client.host if connection.client else ""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return host


# --- what is sent back ------------------------------------------------------------------------------------------------


class StructResponse(JSONResponse):
    """JSON of msgspec structs, and of what they hold: UUIDs, and instants as RFC 3339 in UTC. Return it from a handler:
    FastAPI's own encoder, which everything else passes through, knows no structs."""

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


class ProblemResponse(StructResponse):
    """A problem, with Retry-After where it names a time."""

    media_type = MEDIA_TYPE

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        own = {} if problem.retry_after is None else {"Retry-After": str(problem.retry_after)}
        super().__init__(problem, problem.status, headers={**(headers or {}), **own})


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error as a problem of RFC 9457: ours, FastAPI's and Starlette's, and with 500 any other.

    An HTTPException keeps its headers, and its whole form where its detail is no text. Ours from 500 on are logged by
    ``dal.http``, without a traceback; of any other error the server logs one, as it does without this.
    """
    app.add_exception_handler(DalError, _answer_ours)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, _answer_unexpected)


async def _answer_ours(request: Request, error: Exception) -> Response:
    if not isinstance(error, DalError) or request.scope["type"] != "http":
        raise error  # a web socket has no response; its server closes it and logs why
    problem = problem_of(error, _instance(request))
    if problem.status >= 500:
        _log(request, problem, error)
    challenge = challenge_of(error)
    return ProblemResponse(problem, {"WWW-Authenticate": challenge} if challenge else None)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Without its "input", which may be a secret, and NaN besides. Each once: several dependencies may ask for a header.
    faults = dict.fromkeys(Fault(_path(each["loc"]), str(each["msg"])) for each in error.errors())
    return ProblemResponse(invalid_request([*faults], _instance(request)))


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if not isinstance(error.detail, str) or error.status_code < 400:
        return await http_exception_handler(request, error)
    return ProblemResponse(_blank(request, error.status_code, error.detail), error.headers)


async def _answer_nobody(request: Request, error: Exception) -> Response:
    # What FastAPI answers, where it reads the body itself: a client that hung up is no error of the server.
    return ProblemResponse(_blank(request, 400, "The client hung up before its request was whole."))


async def _answer_unexpected(request: Request, error: Exception) -> Response:
    return ProblemResponse(_blank(request, 500, "The server met an error it did not expect; its log says more."))


def _blank(request: Request, status: int, detail: str) -> Problem:
    try:
        title = HTTPStatus(status).phrase
    except ValueError:  # a number that HTTP has not given a meaning yet
        title = str(status)
    return Problem("about:blank", title, status, detail, _instance(request))


def _instance(request: Request) -> str:
    return quote(request.scope["path"])


def _log(request: Request, problem: Problem, error: DalError) -> None:
    level = logging.WARNING if problem.status == 503 else logging.ERROR
    log.log(level, "%s %s: %s (%s)", request.method, problem.instance, error, error.query or "no query")


def _path(steps: Sequence[str | int]) -> str:
    """('body', 'tags', 0) as body.tags[0]."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


# --- whether it lives, and may be sent requests -----------------------------------------------------------------------


def router(*, bound: float = 2.0) -> APIRouter:
    """``GET /live`` and ``GET /ready``, to be included under any prefix.

    /live: the process answers; the database is not asked, so that nobody restarts us for its faults. /ready: within
    ``bound`` seconds the database answered and had every migration of this code; else a problem, 503 with Retry-After.
    Newer migrations do no harm to readiness, or applying one would take every server out of service at once.
    """
    routes = APIRouter(tags=["health"])
    probe = _Probe(bound)

    @routes.get("/live")
    async def live() -> StructResponse:
        """Whether the process answers."""
        return StructResponse({"status": "alive"})

    @routes.get("/ready")
    async def ready(request: Request, db: Database) -> StructResponse:
        """Whether requests can be served."""
        try:
            health = await probe(db)
        except DalError as error:
            problem = problem_of(error, _instance(request))
            problem = replace(problem, status=503, retry_after=problem.retry_after or 1)
            _log(request, problem, error)
            return ProblemResponse(problem)
        told = {"status": "ready", "schema_version": health.schema_version, "latency_ms": health.latency_ms}
        return StructResponse(told)

    return routes


class _Probe:
    """Asks a database whether it is ready. One question is under way at a time, however many ask, and however long a
    frozen database takes: it is not cancelled, which could take as long again."""

    def __init__(self, bound: float) -> None:
        self._bound = bound
        self._asked: asyncio.Task[Health] | None = None

    async def __call__(self, db: Dal[Async]) -> Health:
        """Raises Unavailable after the bound, SchemaError if migrations are missing, and what ``db.health`` does."""
        if self._asked is None or self._asked.done():
            self._asked = asyncio.ensure_future(_ask(db))
            self._asked.add_done_callback(lambda asked: asked.cancelled() or asked.exception())  # perhaps nobody waits
        asked = self._asked
        await asyncio.wait({asked}, timeout=self._bound)
        if not asked.done():
            raise Unavailable(f"no answer within {self._bound:g} s", query="get_schema_version")
        return asked.result()


async def _ask(db: Dal[Async]) -> Health:
    health = await db.health()
    needed = _needed(db.settings.backend)
    if health.schema_version < needed:
        raise SchemaError(f"the database is at migration {health.schema_version}, this code needs {needed}")
    return health


@cache
def _needed(dialect: Dialect) -> int:
    return len(migrations(dialect))

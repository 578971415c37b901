"""dal.adapters.fastapi: who asks. What a request without a good token is told, and what is kept of one with it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request, WebSocket
from starlette.types import Message

import dal
from dal import Dal, Invalid, Minted, Settings, Sync, TokenRecord, TokenRefused
from dal.adapters.fastapi import (
    Database,
    StructResponse,
    add_problem_handlers,
    authenticate,
    bearer,
    lifespan,
    token,
)
from dal.stores.token_texts import token_text
from tests.cells import PEPPERS


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, make_database: Callable[..., str]) -> Settings:
    return Settings.from_url(make_database(request.param), token_peppers=PEPPERS)


@pytest.fixture
def stored(settings: Settings) -> Iterator[Dal[Sync]]:
    """The same database through connections of its own."""
    with dal.connect(settings) as db:
        yield db


def mint(db: Dal[Sync], **rights: Any) -> Minted:
    return db.tokens.mint("ci", actor="ana", **rights)


def bearing(minted: Minted) -> dict[str, str]:
    return {"Authorization": f"Bearer {minted.secret.reveal()}"}


def scopes_of(request: Request) -> list[str]:
    return ["read" if request.method == "GET" else "write"]


async def place_of(workspace_id: str) -> str:
    return workspace_id


def an_app(settings: Settings) -> FastAPI:
    app = FastAPI(lifespan=lifespan(settings))
    add_problem_handlers(app)

    @app.get("/me")
    async def me(caller: Annotated[TokenRecord, Depends(token())]) -> StructResponse:
        return StructResponse(caller)

    @app.get("/runs")
    async def runs(caller: Annotated[TokenRecord, Depends(token(scopes=["runs:read", "runs:list"]))]) -> StructResponse:
        return StructResponse(caller.name)

    @app.get("/things")
    @app.post("/things")
    async def things(caller: Annotated[TokenRecord, Depends(token(scopes=scopes_of))]) -> StructResponse:
        return StructResponse(caller.name)

    @app.get("/w/{workspace_id}", dependencies=[Depends(token(workspace=place_of))])
    async def at_work() -> StructResponse:
        return StructResponse("here")

    @app.get("/legacy")
    async def legacy(caller: Annotated[TokenRecord, Depends(token(legacy=True))]) -> StructResponse:
        return StructResponse(caller.name)

    @app.get("/perhaps")
    async def perhaps(request: Request, db: Database, text: Annotated[str | None, Depends(bearer)]) -> StructResponse:
        return StructResponse("nobody" if text is None else (await authenticate(request, db, text)).name)

    @app.websocket("/socket")
    async def socket(socket: WebSocket, caller: Annotated[TokenRecord, Depends(token(scopes=["talk"]))]) -> None:
        await socket.accept()
        await socket.send_text(caller.name)
        await socket.close()

    return app


def use(
    settings: Settings, work: Callable[[httpx.AsyncClient], Awaitable[None]], client: tuple[str, int] = ("10.0.0.7", 1)
) -> None:
    app = an_app(settings)

    async def run() -> None:
        transport = httpx.ASGITransport(app, client=client, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as web,
        ):
            await work(web)

    asyncio.run(run())


def ask(
    settings: Settings, path: str, headers: Any = None, method: str = "GET", client: tuple[str, int] = ("10.0.0.7", 1)
) -> httpx.Response:
    answers: list[httpx.Response] = []

    async def work(web: httpx.AsyncClient) -> None:
        answers.append(await web.request(method, path, headers=headers))

    use(settings, work, client)
    return answers[0]


def test_a_good_token_says_who_asks_and_its_use_is_counted(settings: Settings, stored: Dal[Sync]) -> None:
    minted = mint(stored)
    answer = ask(settings, "/me", {**bearing(minted), "User-Agent": "curl/8"})
    assert (answer.status_code, answer.json()["key_id"]) == (200, minted.record.key_id)
    assert "secret" not in answer.text
    (usage,) = stored.tokens.usage([minted.record.key_id])
    assert (usage.use_count, usage.last_ip, usage.last_user_agent) == (1, "10.0.0.7", "curl/8")


def test_the_word_bearer_is_read_in_any_case(settings: Settings, stored: Dal[Sync]) -> None:
    text = mint(stored).secret.reveal()
    for header in (f"bearer {text}", f"BEARER   {text} "):
        assert ask(settings, "/me", {"Authorization": header}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer  ")],
        [("Authorization", "Basic YTpi")],
        [("Authorization", "dal_svc_x")],
        [("Authorization", "Bearer a"), ("Authorization", "Bearer b")],
    ],
    ids=str,
)
def test_a_request_without_a_token_is_told_that_one_is_needed(headers: list[tuple[str, str]], sqlite_url: str) -> None:
    answer = ask(Settings.from_url(sqlite_url), "/me", headers)
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["type"] == "about:blank"


@pytest.mark.parametrize("text", ["nonsense", "x" * 60_000, "dal_svc_ä", "two words", "\x00"], ids=len)
def test_what_is_no_token_is_refused_without_asking_the_database(text: str, settings: Settings) -> None:
    async def work(web: httpx.AsyncClient) -> None:
        app: Any = web._transport.app  # type: ignore[attr-defined]  # httpx has no other way to it
        before = app.state.dal.calls
        answer = await web.get("/me", headers=[(b"Authorization", f"Bearer {text}".encode())])
        assert (answer.status_code, answer.json()["type"]) == (401, "urn:workflow-dal:token-refused")
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
        assert text not in answer.text
        assert app.state.dal.calls == before

    use(settings, work)


def test_a_wrong_secret_an_unknown_token_and_a_wrong_address_look_alike(settings: Settings, stored: Dal[Sync]) -> None:
    minted, other = mint(stored), stored.tokens.mint("other", actor="ana", allowed_cidrs=["192.168.0.0/16"])
    wrong, unknown = (token_text("svc", key_id, b"0" * 43) for key_id in (minted.record.key_id, "0" * 12))
    answers = [
        ask(settings, "/me", {"Authorization": f"Bearer {wrong}"}),
        ask(settings, "/me", {"Authorization": f"Bearer {unknown}"}),
        ask(settings, "/me", bearing(other)),
    ]
    assert {(answer.status_code, answer.text, answer.headers["www-authenticate"]) for answer in answers} == {
        (401, answers[0].text, 'Bearer error="invalid_token"')
    }
    assert {each.reason for each in stored.tokens.refusals().items} == {"secret", "unknown", "address"}


def test_who_is_known_and_may_not_is_told_403(settings: Settings, stored: Dal[Sync]) -> None:
    minted = mint(stored, scopes=["runs:read"], workspace_ids=["one"])
    for path, found in (("/runs", "scope"), ("/w/two", "workspace")):
        answer = ask(settings, path, bearing(minted))
        told = answer.json()
        assert (answer.status_code, told["type"], told["found"]) == (403, "urn:workflow-dal:token-refused", found)
        assert answer.headers["www-authenticate"] == 'Bearer error="insufficient_scope"'
    assert ask(settings, "/w/one", bearing(minted)).json() == "here"


def test_a_token_that_has_ended_is_told_so_with_401(settings: Settings, stored: Dal[Sync]) -> None:
    minted = mint(stored)
    stored.tokens.revoke(minted.record.key_id, "lost", actor="ana")
    answer = ask(settings, "/me", bearing(minted))
    assert (answer.status_code, answer.json()["found"]) == (401, "revoked")
    assert answer.json()["detail"] == "The service token gives no access: it was revoked"
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


def test_scopes_may_depend_on_the_request(settings: Settings, stored: Dal[Sync]) -> None:
    minted = mint(stored, scopes=["read"])
    assert ask(settings, "/things", bearing(minted)).status_code == 200
    assert ask(settings, "/things", bearing(minted), "POST").status_code == 403


def test_scopes_as_one_text_are_a_mistake_that_is_found_at_once() -> None:
    with pytest.raises(Invalid, match="scopes: takes a list"):
        token(scopes="runs:read")


def test_addresses_are_those_of_the_client_and_none_where_it_has_none(settings: Settings, stored: Dal[Sync]) -> None:
    minted = mint(stored, allowed_cidrs=["10.0.0.0/8"])
    for host, status in (
        ("10.0.0.7", 200),
        ("::ffff:10.0.0.7", 200),
        ("11.0.0.7", 401),
        ("testclient", 401),
        ("", 401),
    ):
        assert ask(settings, "/me", bearing(minted), client=(host, 1)).status_code == status, host
    other = stored.tokens.mint("anywhere", actor="ana")
    for host in ("fe80::1%eth0", "testclient", ""):
        assert ask(settings, "/me", bearing(other), client=(host, 1)).status_code == 200, host


def test_legacy_tokens_are_taken_only_where_it_says_so(settings: Settings, stored: Dal[Sync]) -> None:
    text = "token-of-another-system"
    stored.tokens.import_legacy("old", hashlib.sha256(text.encode()).hexdigest(), actor="ana")
    headers = {"Authorization": f"Bearer {text}"}
    assert ask(settings, "/me", headers).status_code == 401
    assert ask(settings, "/legacy", headers).json() == "old"


def test_a_handler_can_look_for_itself(settings: Settings, stored: Dal[Sync]) -> None:
    assert ask(settings, "/perhaps").json() == "nobody"
    assert ask(settings, "/perhaps", bearing(mint(stored))).json() == "ci"
    assert ask(settings, "/perhaps", {"Authorization": "Bearer x"}).status_code == 401


def test_one_request_is_one_round_trip_and_one_use(settings: Settings, stored: Dal[Sync]) -> None:
    minted = mint(stored)

    async def work(web: httpx.AsyncClient) -> None:
        app: Any = web._transport.app  # type: ignore[attr-defined]  # httpx has no other way to it
        before = sum(app.state.dal.calls.values())
        for _ in range(3):
            assert (await web.get("/me", headers=bearing(minted))).status_code == 200
        assert sum(app.state.dal.calls.values()) - before == 3

    use(settings, work)
    assert stored.tokens.usage([minted.record.key_id])[0].use_count == 3


def test_a_missing_pepper_is_the_operators_to_mend_and_not_a_refusal(postgres_url: str) -> None:
    with dal.connect(Settings.from_url(postgres_url, token_peppers=PEPPERS)) as db:
        headers = bearing(mint(db))
    answer = ask(Settings.from_url(postgres_url), "/me", headers)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert "DAL_TOKEN_PEPPERS" not in answer.text


def test_openapi_has_the_scheme() -> None:
    described = an_app(Settings.from_url("sqlite:///never-opened.db")).openapi()
    assert described["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert described["paths"]["/me"]["get"]["security"] == [{"token": []}]
    assert [each["name"] for each in described["paths"]["/w/{workspace_id}"]["get"]["parameters"]] == ["workspace_id"]
    assert "parameters" not in described["paths"]["/runs"]["get"]


def test_a_web_socket_is_closed_before_it_is_open_unless_the_token_is_good(
    settings: Settings, stored: Dal[Sync], caplog: pytest.LogCaptureFixture
) -> None:
    good = mint(stored, scopes=["talk"])
    other = stored.tokens.mint("other", actor="ana")

    def talk(headers: dict[str, str]) -> list[Message]:
        app, sent = an_app(settings), list[Message]()
        scope = {
            "type": "websocket", "path": "/socket", "query_string": b"", "subprotocols": [], "client": ("10.0.0.7", 1),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }  # fmt: skip

        async def receive() -> Message:
            return {"type": "websocket.connect"}

        async def send(message: Message) -> None:
            sent.append(message)

        async def run() -> None:
            async with app.router.lifespan_context(app):
                await app(scope, receive, send)

        asyncio.run(run())
        return sent

    accepted = talk(bearing(good))
    assert [message["type"] for message in accepted] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert accepted[1]["text"] == "ci"
    for headers in ({}, bearing(other), {"Authorization": "Bearer x"}):
        (closed,) = talk(headers)
        assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
    assert "Traceback" not in caplog.text


def test_no_answer_and_no_log_line_repeats_a_token(
    settings: Settings, stored: Dal[Sync], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    minted = mint(stored)
    text = minted.secret.reveal()
    stored.tokens.revoke(minted.record.key_id, "lost", actor="ana")
    told = [
        ask(settings, path, {"Authorization": f"Bearer {given}"}).text
        for path in ("/me", "/runs", "/w/a", "/legacy", "/perhaps")
        for given in (text, text[:-1], text + "x")
    ]
    logged = [
        json.dumps(record.__dict__, default=str) for record in caplog.records if not record.name.startswith("httpx")
    ]
    everything = "\n".join([*told, *logged])
    assert minted.record.key_id not in "".join(told)
    assert [text[at : at + 8] for at in range(21, 62) if text[at : at + 8] in everything] == []


def test_our_error_raised_by_a_handler_has_the_challenge_too(sqlite_url: str) -> None:
    app = FastAPI(lifespan=lifespan(sqlite_url))
    add_problem_handlers(app)

    @app.get("/")
    async def refuse() -> None:
        raise TokenRefused("it was revoked", found="revoked")

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as web:
            return await web.get("/")

    assert asyncio.run(run()).headers["www-authenticate"] == 'Bearer error="invalid_token"'

"""ChatKit's own server on our stores: every request it knows, and the example server's endpoint over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from chatkit.actions import Action
from chatkit.server import ChatKitServer, NonStreamingResult, StreamingResult
from chatkit.store import NotFoundError
from chatkit.types import (
    AssistantMessageContent,
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    ClientToolCallItem,
    HiddenContextItem,
    StructuredInputFreeform,
    StructuredInputItem,
    SyncCustomActionResponse,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadItemReplacedEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
    WidgetItem,
)

import dal
from dal.adapters.chatkit import ChatKitStore
from examples.server.app import create_app
from tests.api import Api
from tests.cells import PEPPERS

AT = datetime(2026, 5, 4, 12, 30, tzinfo=UTC)
ANN, BOB = {"X-Actor": "ann"}, {"X-Actor": "bob"}


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, make_database: Callable[..., str]) -> str:
    return make_database(request.param)


# --- every request of the SDK -----------------------------------------------------------------------------------------


class Scripted(ChatKitServer[str]):
    """Does what the first word of a message says."""

    def item(self, kind: type[Any], thread: ThreadMetadata, **given: Any) -> Any:
        id = given.pop("id", None) or self.store.generate_item_id("message", thread, "ann")
        return kind(id=id, thread_id=thread.id, created_at=AT, **given)

    def answer(self, thread: ThreadMetadata, text: str, **given: Any) -> Any:
        content = [AssistantMessageContent(text=text)] if text else []
        return self.item(AssistantMessageItem, thread, content=content, **given)

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: str
    ) -> AsyncIterator[ThreadStreamEvent]:
        if input_user_message is None:
            yield ThreadItemDoneEvent(item=self.answer(thread, "Thanks."))
            return
        match input_user_message.content[0].text.split():
            case ["tool", *_]:
                yield ThreadItemDoneEvent(
                    item=self.item(ClientToolCallItem, thread, call_id="c", name="f", arguments={})
                )
            case ["ask", *_]:
                inputs = [StructuredInputFreeform(id="q", question="Which?")]
                yield ThreadItemDoneEvent(item=self.item(StructuredInputItem, thread, inputs=inputs))
            case ["widget", *_]:
                card = {"type": "Card", "children": [{"type": "Text", "value": "Pay?"}]}
                yield ThreadItemDoneEvent(item=self.item(WidgetItem, thread, id="wid", widget=card))
            case ["change", *_]:
                yield ThreadItemDoneEvent(item=self.item(HiddenContextItem, thread, content={"for": "the model"}))
                first, second = self.answer(thread, "one"), self.answer(thread, "two")
                yield ThreadItemDoneEvent(item=first)
                yield ThreadItemDoneEvent(item=second)
                yield ThreadItemReplacedEvent(item=self.answer(thread, "changed", id=first.id))
                yield ThreadItemRemovedEvent(item_id=second.id)
                thread.metadata["seen"] = True
            case ["stall", *_]:
                item = self.answer(thread, "")
                yield ThreadItemAddedEvent(item=item)
                delta = AssistantMessageContentPartTextDelta(content_index=0, delta="So far")
                yield ThreadItemUpdatedEvent(item_id=item.id, update=delta)
                await asyncio.Event().wait()
            case words:
                thread.title = " ".join(words)
                yield ThreadItemDoneEvent(item=self.answer(thread, f"You said {' '.join(words)}"))

    async def action(
        self, thread: ThreadMetadata, action: Action[str, Any], sender: WidgetItem | None, context: str
    ) -> AsyncIterator[ThreadStreamEvent]:
        yield ThreadItemDoneEvent(item=self.answer(thread, f"{action.type} on {sender.id if sender else None}"))

    async def sync_action(
        self, thread: ThreadMetadata, action: Action[str, Any], sender: WidgetItem | None, context: str
    ) -> SyncCustomActionResponse:
        return SyncCustomActionResponse(updated_item=sender)


class Conversation:
    """What a client asks of a server, for one owner."""

    def __init__(self, server: ChatKitServer[str], owner: str = "ann") -> None:
        self.server = server
        self.owner = owner

    async def ask(self, type: str, **params: Any) -> Any:
        """The events of a streaming request, the answer to any other."""
        result = await self.server.process(json.dumps({"type": type, "params": params}), self.owner)
        if isinstance(result, NonStreamingResult):
            return json.loads(result.json)
        return [json.loads(line.removeprefix(b"data: ")) async for line in result]

    async def texts(self, thread: str) -> list[str]:
        """What the items of a thread say, oldest first; the type of those that say nothing."""
        items = (await self.ask("items.list", thread_id=thread, order="asc"))["data"]
        return [item["content"][0]["text"] if "content" in item else item["type"] for item in items]


def message(text: str, *attachments: str) -> dict[str, Any]:
    return {
        "content": [{"type": "input_text", "text": text}],
        "attachments": list(attachments),
        "inference_options": {},
    }


@asynccontextmanager
async def conversing(database: str) -> AsyncIterator[Conversation]:
    async with dal.aconnect(database) as db:
        yield Conversation(Scripted(ChatKitStore(db, lambda owner: owner)))


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def test_every_request_of_a_chatkit_server_works(database: str) -> None:
    async def live() -> None:
        async with conversing(database) as on:
            events = await on.ask("threads.create", input=message("hello there"))
            assert kinds(events) == [
                "thread.created", "thread.item.done", "stream_options", "thread.item.done", "thread.updated",
            ]  # fmt: skip
            thread = events[0]["thread"]["id"]
            assert events[-1]["thread"]["title"] == "hello there"
            assert await on.texts(thread) == ["hello there", "You said hello there"]

            await on.ask("threads.add_user_message", thread_id=thread, input=message("tool please"))
            await on.ask("threads.add_client_tool_output", thread_id=thread, result={"n": [1, 0.5, None]})
            call = (await on.ask("items.list", thread_id=thread, order="desc"))["data"][1]
            assert (call["status"], call["output"]) == ("completed", {"n": [1, 0.5, None]})

            asked = await on.ask("threads.add_user_message", thread_id=thread, input=message("ask me"))
            question = asked[-1]["item"]["id"]
            answers = {"status": "answered", "answers": {"q": {"values": ["Red"]}}}
            await on.ask("threads.add_structured_input", thread_id=thread, item_id=question, input=answers)

            await on.ask("threads.add_user_message", thread_id=thread, input=message("widget please"))
            press = {"thread_id": thread, "item_id": "wid", "action": {"type": "pay", "payload": {}}}
            await on.ask("threads.custom_action", **press)
            updated = await on.ask("threads.sync_custom_action", **press)
            assert updated["updated_item"]["widget"]["children"][0]["value"] == "Pay?"

            events = await on.ask("threads.add_user_message", thread_id=thread, input=message("change it"))
            assert "thread.item.replaced" in kinds(events)
            said = [
                *("hello there", "You said hello there", "tool please", "client_tool_call", "Thanks."),
                *("ask me", "structured_input", "Thanks.", "widget please", "widget", "pay on wid"),
                *("change it", "changed"),
            ]
            assert await on.texts(thread) == said  # and what is hidden is not told
            whole = await on.ask("threads.get_by_id", thread_id=thread)
            assert len(whole["items"]["data"]) == len(said)
            stored = await on.server.store.load_thread(thread, "ann")
            assert stored.metadata == {"seen": True}

            await on.ask("threads.update", thread_id=thread, title="Renamed")
            assert [each["title"] for each in (await on.ask("threads.list"))["data"]] == ["Renamed"]
            assert await on.ask("items.feedback", thread_id=thread, item_ids=[question], kind="positive") == {}
            with pytest.raises(NotImplementedError):
                await on.ask("input.transcribe", audio_base64="", mime_type="audio/webm")
            assert await on.ask("threads.delete", thread_id=thread) == {}
            assert (await on.ask("threads.list"))["data"] == []
            with pytest.raises(NotFoundError):
                await on.ask("threads.get_by_id", thread_id=thread)

    asyncio.run(live())


def test_a_retry_after_a_message_fifty_items_back_takes_the_rest_away(database: str) -> None:
    async def live() -> None:
        async with conversing(database) as on:
            thread = (await on.ask("threads.create", input=message("hello")))[0]["thread"]["id"]
            store = on.server.store
            for number in range(50):  # more than the SDK reads in a page, and all of one time
                item = AssistantMessageItem(id=f"m{number}", thread_id=thread, created_at=AT, content=[])
                await store.add_thread_item(thread, item, "ann")
            first = (await on.ask("items.list", thread_id=thread, order="asc", limit=1))["data"][0]["id"]
            events = await on.ask("threads.retry_after_item", thread_id=thread, item_id=first)
            assert kinds(events) == ["stream_options", "thread.item.done"]
            assert await on.texts(thread) == ["hello", "You said hello"]
            for item_id, error in (("lost", None), (events[1]["item"]["id"], ValueError)):
                if error is None:
                    assert await on.ask("threads.retry_after_item", thread_id=thread, item_id=item_id) == []
                else:
                    with pytest.raises(error, match="not a user message"):
                        await on.ask("threads.retry_after_item", thread_id=thread, item_id=item_id)
            assert await on.texts(thread) == ["hello", "You said hello"]

    asyncio.run(live())


def test_a_stream_that_is_cancelled_keeps_what_was_said_so_far(database: str) -> None:
    async def live() -> None:
        async with conversing(database) as on:
            thread = (await on.ask("threads.create", input=message("hello")))[0]["thread"]["id"]
            told = asyncio.Event()

            async def listen() -> None:
                request = {
                    "type": "threads.add_user_message",
                    "params": {"thread_id": thread, "input": message("stall")},
                }
                result = await on.server.process(json.dumps(request), "ann")
                assert isinstance(result, StreamingResult)
                async for event in result:
                    if b"So far" in event:
                        told.set()

            listener = asyncio.create_task(listen())
            await told.wait()
            listener.cancel()
            with pytest.raises(asyncio.CancelledError):
                await listener
            assert await on.texts(thread) == ["hello", "You said hello", "stall", "So far"]
            last = await on.server.store.load_thread_items(thread, None, 1, "desc", "ann")
            assert last.data[0].type == "sdk_hidden_context"

    asyncio.run(live())


def test_another_owners_conversation_is_not_found_by_any_request(database: str) -> None:
    async def live() -> None:
        async with conversing(database) as on:
            events = await on.ask("threads.create", input=message("widget please"))
            thread = events[0]["thread"]["id"]
            before = await on.ask("threads.get_by_id", thread_id=thread)
            bob = Conversation(on.server, "bob")
            user = events[1]["item"]["id"]
            press = {"thread_id": thread, "item_id": "wid", "action": {"type": "pay", "payload": {}}}
            for type, params in (
                ("threads.get_by_id", {"thread_id": thread}),
                ("threads.list", {"after": thread}),
                ("items.list", {"thread_id": thread}),
                ("threads.add_user_message", {"thread_id": thread, "input": message("mine")}),
                ("threads.add_client_tool_output", {"thread_id": thread, "result": 1}),
                ("threads.add_structured_input", {"thread_id": thread, "item_id": user, "input": {}}),
                ("threads.retry_after_item", {"thread_id": thread, "item_id": user}),
                ("threads.custom_action", press),
                ("threads.sync_custom_action", press),
                ("threads.update", {"thread_id": thread, "title": "mine"}),
                ("threads.delete", {"thread_id": thread}),
            ):
                with pytest.raises(NotFoundError):
                    await bob.ask(type, **params)
            assert await on.ask("threads.get_by_id", thread_id=thread) == before
            assert (await bob.ask("threads.list"))["data"] == []

    asyncio.run(live())


# --- the example server, over HTTP ------------------------------------------------------------------------------------


class Web:
    """A client of the example server."""

    def __init__(self, http: httpx.AsyncClient, headers: dict[str, str]) -> None:
        self.http = http
        self.headers = headers

    async def ask(self, type: str, status: int = 200, **params: Any) -> Any:
        """The events of a streaming request, the JSON of any other."""
        sent = {"type": type, "params": params}
        async with self.http.stream("POST", "/chatkit", json=sent, headers=self.headers) as answer:
            text = (await answer.aread()).decode()
        assert answer.status_code == status, f"{type}: {answer.status_code} {text}"
        if not answer.headers["content-type"].startswith("text/event-stream"):
            return json.loads(text)
        events = text.split("\n\n")
        assert events.pop() == ""
        return [json.loads(event.removeprefix("data: ")) for event in events]

    async def send(self, method: str, path: str, status: int, **more: Any) -> httpx.Response:
        answer = await self.http.request(method, path, headers=self.headers, **more)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer


@asynccontextmanager
async def serving(database: str, directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(database, attachments=directory)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as http,
    ):
        yield http


def count(directory: Path) -> int:
    return sum(path.is_file() for path in directory.rglob("*"))


async def a_whole_conversation(web: Web, other: Web, directory: Path) -> None:
    """Attach, create, stream, go on, look back, retry, search, delete; the other one finds nothing of it."""
    content = bytes(range(256)) * 300
    file = await web.ask("attachments.create", name="may.pdf", size=len(content), mime_type="application/pdf")
    assert "metadata" not in file
    upload = file["upload_descriptor"]
    assert upload["method"] == "PUT"
    place = upload["url"]
    await other.send("PUT", place, 404, content=content)
    assert (await web.send("PUT", place, 422, content=content + b"!")).json()["path"] == "size"
    await web.send("GET", place, 404)
    await web.send("PUT", place, 204, content=content)
    read = await web.send("GET", place, 200)
    assert read.content == content
    assert read.headers["content-type"] == "application/pdf"
    assert read.headers["content-disposition"] == 'attachment; filename="may.pdf"'
    assert read.headers["x-content-type-options"] == "nosniff"
    await other.send("GET", place, 404)
    await other.ask("attachments.delete", 404, attachment_id=file["id"])
    await other.ask("threads.create", 200, input=message("hello"))
    lost = await other.ask("threads.list")
    await other.ask("threads.add_user_message", 404, thread_id=lost["data"][0]["id"], input=message("x", file["id"]))

    events = await web.ask("threads.create", input=message("Is May paid", file["id"]))
    thread = events[0]["thread"]["id"]
    deltas = [event["update"]["delta"] for event in events if "delta" in event.get("update", {})]
    assert deltas == ["You said: ", "Is ", "May ", "paid ", f"may.pdf has {len(content)} bytes. "]
    done = [event["item"] for event in events if event["type"] == "thread.item.done"]
    assert [item["type"] for item in done] == ["user_message", "assistant_message"]
    assert done[1]["content"][0]["text"] == "".join(deltas)
    assert done[0]["attachments"][0]["id"] == file["id"]
    assert "upload_descriptor" not in done[0]["attachments"][0]
    assert [event["thread"]["title"] for event in events if event["type"] == "thread.updated"] == ["Is May paid"]

    await web.ask("threads.add_user_message", thread_id=thread, input=message("And June"))
    items = (await web.ask("items.list", thread_id=thread, order="asc", limit=3))["data"]
    rest = (await web.ask("items.list", thread_id=thread, order="asc", limit=3, after=items[-1]["id"]))["data"]
    assert [item["type"] for item in items + rest] == ["user_message", "assistant_message"] * 2
    assert [items[0], items[1]] == done
    again = await web.ask("threads.retry_after_item", thread_id=thread, item_id=done[0]["id"])
    assert again[-1]["item"]["content"] == done[1]["content"]
    assert [item["id"] for item in (await web.ask("threads.get_by_id", thread_id=thread))["items"]["data"]] == [
        done[0]["id"], again[-1]["item"]["id"],
    ]  # fmt: skip
    await web.ask("threads.update", thread_id=thread, title="Bills")
    assert (await web.ask("threads.list"))["data"][0]["title"] == "Bills"

    hits = (await web.send("GET", "/chatkit/search?text=paid", 200)).json()["items"]
    assert {hit["item_id"] for hit in hits} == {done[0]["id"], again[-1]["item"]["id"]}
    assert (await other.send("GET", "/chatkit/search?text=paid", 200)).json()["items"] == []

    for request in ("threads.get_by_id", "threads.delete", "items.list"):
        assert "no chat thread" in (await other.ask(request, 404, thread_id=thread))["detail"]
    await other.ask("threads.retry_after_item", 404, thread_id=thread, item_id=done[0]["id"])
    await web.ask("items.list", 404, thread_id=thread, after="lost")

    unsent = await web.ask("attachments.create", name="b", size=1, mime_type="text/plain")
    await web.send("PUT", unsent["upload_descriptor"]["url"], 204, content=b"b")
    assert count(directory) == 2
    await web.ask("attachments.delete", attachment_id=unsent["id"])
    assert count(directory) == 1
    await web.send("GET", unsent["upload_descriptor"]["url"], 404)
    await web.ask("threads.delete", thread_id=thread)
    await web.ask("threads.get_by_id", 404, thread_id=thread)
    await web.send("GET", place, 404)  # gone with its thread; its file waits for a sweep
    assert (await web.ask("threads.list"))["data"] == []


def test_a_whole_conversation_over_http(database: str, tmp_path: Path) -> None:
    async def live() -> None:
        async with serving(database, tmp_path / "files") as http:
            await a_whole_conversation(Web(http, ANN), Web(http, BOB), tmp_path / "files")

    asyncio.run(live())


def test_a_wrong_request_is_told_where(sqlite_url: str, tmp_path: Path) -> None:
    async def live() -> None:
        async with serving(sqlite_url, tmp_path / "files") as http:
            web = Web(http, ANN)
            lost = await web.ask("threads.get_by_id", 422)
            assert lost["path"] == "body.threads.get_by_id.params.thread_id"
            assert (await web.ask("threads.guess", 422))["type"] == "urn:workflow-dal:invalid-request"
            await web.send("POST", "/chatkit", 422, content=b"{")
            assert (await web.ask("threads.list", 422, limit=501))["path"] == "limit"
            assert (await web.ask("threads.list", 422, limit=-1))["path"] == "limit"
            big = {"name": "a", "size": 2**40, "mime_type": "text/plain"}
            assert (await web.ask("attachments.create", 422, **big))["path"] == "size"
            text = await web.ask("threads.create", input=message("a\0"))
            assert text[0]["type"] == "thread.created"  # the SDK has begun to answer before it stores the message
            assert (await Web(http, {}).ask("threads.list", 422))["path"] == "header.X-Actor"
            for path in ("/chatkit/attachments/..%2F..%2Fetc%2Fpasswd", "/chatkit/attachments/lost"):
                await web.send("GET", path, 404)
                await web.send("PUT", path, 404, content=b"x")
            assert not (tmp_path / "files").exists()

    asyncio.run(live())


def test_a_server_with_tokens_serves_no_chat_without_one(sqlite_url: str, tmp_path: Path) -> None:
    settings = dal.Settings.from_url(sqlite_url, token_peppers=PEPPERS)
    with dal.connect(settings) as db:
        ann, bob, reader = (
            db.tokens.mint(name, actor="t", scopes=scopes).secret.reveal()
            for name, scopes in (("ann", ["read", "write"]), ("bob", ["read", "write"]), ("reader", ["read"]))
        )
    options = ["--tokens", "--chat", str(tmp_path / "files")]
    with Api(sqlite_url, tmp_path / "log", options=options, environment={"DAL_TOKEN_PEPPERS": PEPPERS}) as api:

        async def live() -> None:
            async with httpx.AsyncClient(base_url=api.address, timeout=60) as http:
                for headers in ({}, ANN):
                    await Web(http, headers).ask("threads.list", 401)
                    for method, path in (("GET", "search?text=a"), ("GET", "attachments/a"), ("PUT", "attachments/a")):
                        await Web(http, headers).send(method, f"/chatkit/{path}", 401)
                bearers = [Web(http, {"Authorization": f"Bearer {token}"}) for token in (ann, bob, reader)]
                await bearers[2].ask("threads.list", 403)
                await bearers[2].send("GET", "/chatkit/search?text=a", 200)
                await a_whole_conversation(bearers[0], bearers[1], tmp_path / "files")

        asyncio.run(live())
        api.stop()
    said = (tmp_path / "log").read_text()
    assert not [token for token in (ann, bob, reader) if token in said]

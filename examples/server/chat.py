"""A ChatKit server that answers without a model, its endpoints, and those for the bytes of attachments."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple

from chatkit.server import ChatKitServer, NonStreamingResult, StreamingResult
from chatkit.store import NotFoundError
from chatkit.types import (
    AssistantMessageContent,
    AssistantMessageContentPartAdded,
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    AttachmentUploadDescriptor,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
)
from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response, StreamingResponse
from pydantic import AnyUrl, ValidationError

from dal import Async, Dal
from dal.adapters.chatkit import ChatKitStore, DirectoryAttachmentStore
from dal.adapters.fastapi import Database, StructResponse
from examples.server.bodies import After, Limit
from examples.server.callers import Actor, Admitted

chat = APIRouter(prefix="/chatkit", tags=["chat"], dependencies=[Admitted])


class Caller(NamedTuple):
    """What the stores are told of a request. address: of this server, as the client knows it, with a slash behind."""

    owner: str
    address: str


class CannedServer(ChatKitServer[Caller]):
    """Repeats what it is told, word by word: what a model would do costs money and says something else each time."""

    def __init__(self, db: Dal[Async], directory: Path) -> None:
        store: ChatKitStore[Caller] = ChatKitStore(db, lambda caller: caller.owner)
        self.files = DirectoryAttachmentStore(store, directory, upload=_upload)
        super().__init__(store, self.files)

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: Caller
    ) -> AsyncIterator[ThreadStreamEvent]:
        """An answer to a message, and a title for a thread that has none."""
        if input_user_message is None:
            return
        words = [f"{word} " for part in input_user_message.content for word in part.text.split()]
        if thread.title is None:
            thread.title = "".join(words).strip()[:80] or "Untitled"
        sizes = [
            f"{each.name} has {(await self.files.path(each.id, context)).stat().st_size} bytes"
            for each in input_user_message.attachments
        ]
        words = ["You said: ", *words, *(f"{size}. " for size in sizes)]
        answer = AssistantMessageItem(
            id=self.store.generate_item_id("message", thread, context),
            thread_id=thread.id,
            created_at=datetime.now(UTC),
            content=[],
        )
        yield ThreadItemAddedEvent(item=answer)
        part = AssistantMessageContentPartAdded(content_index=0, content=AssistantMessageContent(text=""))
        yield ThreadItemUpdatedEvent(item_id=answer.id, update=part)
        for word in words:
            delta = AssistantMessageContentPartTextDelta(content_index=0, delta=word)
            yield ThreadItemUpdatedEvent(item_id=answer.id, update=delta)
        answer.content = [AssistantMessageContent(text="".join(words))]
        yield ThreadItemDoneEvent(item=answer)


def _upload(id: str, caller: Caller) -> AttachmentUploadDescriptor:
    # No credentials in it: it is stored with the attachment. The client sends those that it sends with everything.
    return AttachmentUploadDescriptor(url=AnyUrl(f"{caller.address}chatkit/attachments/{id}"), method="PUT")


async def _served(request: Request) -> CannedServer:
    server: CannedServer = request.app.state.chat
    return server


async def _calling(request: Request, actor: Actor) -> Caller:
    return Caller(actor, str(request.base_url))


Served = Annotated[CannedServer, Depends(_served)]
Calling = Annotated[Caller, Depends(_calling)]


@chat.post("")
async def converse(request: Request, server: Served, caller: Calling) -> Response:
    """Whatever ChatKit's client asks: JSON, or events as they come."""
    try:
        result = await server.process(await request.body(), caller)
        if isinstance(result, NonStreamingResult):
            return Response(result.json, media_type="application/json")
        return await _streaming(result)
    except NotFoundError as error:
        raise HTTPException(404, str(error)) from error
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        raise RequestValidationError([{**fault, "loc": ("body", *fault["loc"])} for fault in faults]) from error


async def _streaming(result: StreamingResult) -> StreamingResponse:
    """The first event is waited for: what is wrong with a request still has a status of its own then."""
    events = aiter(result)
    first = await anext(events, b"")

    async def rest() -> AsyncIterator[bytes]:
        yield first
        async for event in events:
            yield event

    return StreamingResponse(rest(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


@chat.get("/search")
async def search_chat(text: str, db: Database, actor: Actor, after: After = None, limit: Limit = 50) -> StructResponse:
    """Titles and messages of the caller's that have these words."""
    return StructResponse(await db.chat.search(actor, text, after=after, limit=limit))


@chat.put("/attachments/{id}", status_code=204)
async def write_attachment(id: str, request: Request, server: Served, caller: Calling) -> None:
    """The bytes of an attachment, as the body of the request."""
    try:
        await server.files.write(id, request.stream(), caller)
    except NotFoundError as error:
        raise HTTPException(404, str(error)) from error


@chat.get("/attachments/{id}")
async def read_attachment(id: str, server: Served, caller: Calling) -> FileResponse:
    """The bytes of an attachment."""
    try:
        known = await server.store.load_attachment(id, caller)
        path = await server.files.path(id, caller)
    except NotFoundError as error:
        raise HTTPException(404, str(error)) from error
    # Somebody uploaded it: a browser is to save it, whatever it says it is, and not to run it as a page of ours.
    return FileResponse(
        path, media_type=known.mime_type, filename=known.name, headers={"X-Content-Type-Options": "nosniff"}
    )

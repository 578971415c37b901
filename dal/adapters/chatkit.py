"""ChatKit's ``Store`` and ``AttachmentStore`` on a Dal, so that a ChatKit server keeps its conversations in it.

    store = ChatKitStore(db, owner_of=lambda context: context.user_id)
    files = DirectoryAttachmentStore(store, "/var/lib/chat", upload=lambda id, context: AttachmentUploadDescriptor(…))
    server = MyServer(store, files)         # your subclass of chatkit.server.ChatKitServer

Needs the extra: ``pip install 'workflow-dal[chatkit]'``.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from chatkit.store import AttachmentStore, NotFoundError, Store, StoreItemType, default_generate_id
from chatkit.types import (
    AssistantMessageItem,
    Attachment,
    AttachmentCreateParams,
    AttachmentUploadDescriptor,
    FileAttachment,
    ImageAttachment,
    Page,
    StructuredInputItem,
    ThreadItem,
    ThreadMetadata,
    UserMessageItem,
    WidgetItem,
)
from chatkit.version import __version__ as chatkit_version
from pydantic import AnyUrl, BaseModel, TypeAdapter, ValidationError

from dal.adapters.files import Directory
from dal.core.face import Async
from dal.core.rows import Json, text_fault
from dal.dal import Dal
from dal.digests import uuid7
from dal.errors import Invalid, NotFound, SchemaError
from dal.stores import chat
from dal.stores.chat import Order

__all__ = ["ChatKitStore", "DirectoryAttachmentStore", "searchable_text"]

TContext = TypeVar("TContext")
T = TypeVar("T")

MAX_FILE_BYTES = 20 * 2**20
_MIME_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(\s*;\s*[\w.+-]+=([\w.+-]+|\"[\w.+ -]*\"))*", re.ASCII)

_ITEM: TypeAdapter[ThreadItem] = TypeAdapter(ThreadItem)
_ATTACHMENT: TypeAdapter[Attachment] = TypeAdapter(Attachment)

# What of a model has a column of its own; the rest of it is kept in the row's details. items: the server hands
# save_thread a whole Thread at times.
_OF_THREAD = {"id", "title", "status", "metadata", "items"}
_OF_ATTACHMENT = {"id", "thread_id", "type", "name", "mime_type"}


class ChatKitStore(Store[TContext], Generic[TContext]):
    """What a ChatKit server keeps, in ``db.chat``: threads, items, and what is known of attachments.

    Whatever is not the owner's raises chatkit's NotFoundError, as an unknown ``after`` does. Any other error is one of
    ``dal.errors``; Invalid, for what cannot be stored, a wrong order or a limit that is not 1 to 500, is a ValueError.
    """

    def __init__(
        self,
        db: Dal[Async],
        owner_of: Callable[[TContext], str],
        *,
        workflow_of: Callable[[ThreadMetadata], str | None] = lambda thread: None,
    ) -> None:
        """owner_of: who asks, by the context of a request: 1 to 512 bytes. workflow_of: the workflow that a thread is
        about, for ``db.chat.list_threads``, if any."""
        self.db = db
        self.owner_of = owner_of
        self._workflow_of = workflow_of

    # Those of the SDK have eight hexadecimal digits: among 80,000 items two of one id are to be expected.

    def generate_thread_id(self, context: TContext) -> str:
        """``thr_`` and a UUIDv7."""
        return _new_id("thread")

    def generate_item_id(self, item_type: StoreItemType, thread: ThreadMetadata, context: TContext) -> str:
        """ChatKit's prefix for the kind of item and a UUIDv7."""
        return _new_id(item_type)

    # --- threads ---

    async def load_thread(self, thread_id: str, context: TContext) -> ThreadMetadata:
        """A thread as it was saved last. Raises NotFoundError."""
        with _lost():
            return _thread(await self.db.chat.get_thread(self.owner_of(context), thread_id))

    async def save_thread(self, thread: ThreadMetadata, context: TContext) -> None:
        """A new thread, or another content for one, which keeps its place in lists.

        A created_at without zone is local time, as the SDK writes it. Raises NotFoundError if another owner has the id.
        """
        _check(thread, "thread", {"title", "metadata"})
        with _dumping("thread"):
            given = thread.model_dump(mode="json", exclude={"items"})
        with _lost():
            await self.db.chat.save_thread(
                self.owner_of(context),
                thread.id,
                title=thread.title,
                workflow_id=self._workflow_of(thread),
                status=given["status"],
                metadata=given["metadata"],
                details=_rest(given, _OF_THREAD),
                created_at=_instant(thread.created_at),
            )

    async def load_threads(self, limit: int, after: str | None, order: str, context: TContext) -> Page[ThreadMetadata]:
        """The owner's threads by created_at, those of one time as they were first saved."""
        with _lost():
            found = await self.db.chat.list_threads(
                self.owner_of(context), order=cast(Order, order), after=after, limit=limit
            )
        return Page(data=[_thread(row) for row in found.items], has_more=found.next is not None, after=found.next)

    async def delete_thread(self, thread_id: str, context: TContext) -> None:
        """Take a thread away, with its items and what is known of its attachments."""
        with _lost():
            await self.db.chat.delete_thread(self.owner_of(context), thread_id)

    # --- items ---

    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: TContext
    ) -> Page[ThreadItem]:
        """The items of a thread in the order in which they were added, whatever their created_at say."""
        with _lost():
            found = await self.db.chat.list_items(
                self.owner_of(context), thread_id, order=cast(Order, order), after=after, limit=limit
            )
        return Page(data=[_item(row) for row in found.items], has_more=found.next is not None, after=found.next)

    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        """The next item of a thread; the same again is no change.

        Raises AlreadyExists if the id has another content, or another thread.
        """
        given = self._given(item)
        with _lost():
            await self.db.chat.add_item(self.owner_of(context), thread_id, item.id, **given)

    async def save_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        """Another content for an item, which keeps its place, or the next item of the thread."""
        given = self._given(item)
        with _lost():
            await self.db.chat.save_item(self.owner_of(context), thread_id, item.id, **given)

    async def load_item(self, thread_id: str, item_id: str, context: TContext) -> ThreadItem:
        """One item of a thread. Raises NotFoundError."""
        with _lost():
            return _item(await self.db.chat.get_item(self.owner_of(context), thread_id, item_id))

    async def delete_thread_item(self, thread_id: str, item_id: str, context: TContext) -> None:
        """Take an item away. Raises NotFoundError."""
        with _lost():
            await self.db.chat.delete_item(self.owner_of(context), thread_id, item_id)

    def text_of(self, item: ThreadItem) -> str:
        """What ``db.chat.search`` finds an item by, which a subclass may decide."""
        return searchable_text(item)

    def _given(self, item: ThreadItem) -> dict[str, Any]:
        _check(item, "item")
        with _dumping("item"):
            document = item.model_dump_json()
        return {
            "type": item.type,
            "item": document,
            "body": self.text_of(item),
            "created_at": _instant(item.created_at),
        }

    # --- attachments ---

    async def save_attachment(self, attachment: Attachment, context: TContext) -> None:
        """What is known of a new attachment, or another content for one. Where its bytes are stays.

        Raises NotFoundError if another owner has the id, or the thread.
        """
        _check(attachment, "attachment")
        with _lost():
            await self.db.chat.save_attachment(
                self.owner_of(context),
                attachment.id,
                type=attachment.type,
                name=attachment.name,
                mime_type=attachment.mime_type,
                thread_id=attachment.thread_id,
                details=_details(attachment),
            )

    async def load_attachment(self, attachment_id: str, context: TContext) -> Attachment:
        """What is known of an attachment. Raises NotFoundError."""
        with _lost():
            return _attachment(await self.db.chat.get_attachment(self.owner_of(context), attachment_id))

    async def delete_attachment(self, attachment_id: str, context: TContext) -> None:
        """Forget an attachment; its bytes are the attachment store's. Raises NotFoundError."""
        with _lost():
            await self.db.chat.delete_attachment(self.owner_of(context), attachment_id)


class DirectoryAttachmentStore(AttachmentStore[TContext], Generic[TContext]):
    """Attachments whose bytes are files in one directory, which every process that serves them can reach.

    Their names in it are random; the database alone knows which is whose, and is asked each time. No two databases may
    share a directory: to a sweep the files of the other would be nobody's.
    """

    def __init__(
        self,
        store: ChatKitStore[TContext],
        directory: str | Path,
        *,
        upload: Callable[[str, TContext], AttachmentUploadDescriptor],
        preview_url: Callable[[str, TContext], str] | None = None,
        max_bytes: int = MAX_FILE_BYTES,
    ) -> None:
        """upload: where a client is to send the bytes of an attachment, by its id; stored until they are there, so that
        no lasting secret should be in it. preview_url: where an image can be seen; without, images are files like
        others. max_bytes: of one file.
        """
        self._store = store
        self._files = Directory(Path(directory))
        self._upload = upload
        self._preview_url = preview_url
        self._max_bytes = max_bytes

    def generate_attachment_id(self, mime_type: str, context: TContext) -> str:
        """``atc_`` and a UUIDv7."""
        return _new_id("attachment")

    async def create_attachment(self, input: AttachmentCreateParams, context: TContext) -> Attachment:
        """An attachment without bytes, which the server saves. Raises Invalid for a size beyond max_bytes, and for a
        mime_type that is none; an empty one is application/octet-stream."""
        if not 0 <= input.size <= self._max_bytes:
            raise Invalid(f"{input.size} bytes; takes 0 to {self._max_bytes}", path="size")
        mime_type = input.mime_type or "application/octet-stream"
        if not _MIME_TYPE.fullmatch(mime_type):
            raise Invalid("takes a MIME type, such as text/plain", path="mime_type")
        id = self.generate_attachment_id(mime_type, context)
        known: dict[str, Any] = {
            "id": id,
            "name": input.name,
            "mime_type": mime_type,
            "upload_descriptor": self._upload(id, context),
            "metadata": {"size": input.size},
        }
        if self._preview_url is not None and mime_type.startswith("image/"):
            return ImageAttachment(**known, preview_url=AnyUrl(self._preview_url(id, context)))
        return FileAttachment(**known)

    async def write(self, attachment_id: str, chunks: AsyncIterable[bytes], context: TContext) -> Attachment:
        """The bytes of an attachment, in place of any that it had; all of them, or none are kept.

        Raises NotFoundError, Invalid if they are not as many as were announced or more than max_bytes, and OSError.
        """
        owner = self._store.owner_of(context)
        with _lost():
            row = await self._store.db.chat.get_attachment(owner, attachment_id)
            attachment = _attachment(row)
            attachment.upload_descriptor = None
            name = await self._files.write(chunks, most=self._max_bytes, size=_announced(attachment))
            try:
                row_now = await self._store.db.chat.update_attachment(
                    owner, attachment_id, details=_details(attachment), storage_path=name
                )
            except NotFound:
                await self._files.remove(name)
                raise
        await self._files.remove(row.storage_path)
        return _attachment(row_now)

    async def path(self, attachment_id: str, context: TContext) -> Path:
        """The file with the bytes of an attachment, to read. Raises NotFoundError, also if there are none yet."""
        with _lost():
            row = await self._store.db.chat.get_attachment(self._store.owner_of(context), attachment_id)
        path = self._files.path(row.storage_path)
        if path is None:
            raise NotFoundError(f"The attachment has no bytes here: {attachment_id}")
        return path

    async def delete_attachment(self, attachment_id: str, context: TContext) -> None:
        """Take the bytes of an attachment away; the server then deletes what is known of it. Raises NotFoundError."""
        with _lost():
            row = await self._store.db.chat.get_attachment(self._store.owner_of(context), attachment_id)
        await self._files.remove(row.storage_path)

    async def sweep(self, older_than: timedelta = timedelta(days=1)) -> int:
        """Take away the files that no attachment names: of deleted threads, of uploads that were cut off; how many.

        older_than: when they were last written; longer than any upload takes.
        """
        unwanted = await self._files.older_than(older_than.total_seconds())
        after = None
        while unwanted:
            page = await self._store.db.chat.list_stored_attachments(after=after, limit=500)
            unwanted.difference_update(str(row.storage_path) for row in page.items)
            after = page.next
            if after is None:
                break
        return await self._files.sweep(unwanted)


# --- from rows to models ----------------------------------------------------------------------------------------------


def _thread(row: chat.Thread) -> ThreadMetadata:
    return _read(
        f"thread {row.id}",
        ThreadMetadata.model_validate,
        {
            "created_at": row.created_at,  # of a thread that ChatKit did not save
            **_fields(row.details),
            "id": row.id,
            "title": row.title,
            "metadata": row.metadata,
        }
        | ({} if row.status is None else {"status": row.status}),
    )


def _item(row: chat.Item) -> ThreadItem:
    return _read(f"item {row.id} of type {row.type}", _ITEM.validate_json, row.item)


def _attachment(row: chat.Attachment) -> Attachment:
    return _read(
        f"attachment {row.id}",
        _ATTACHMENT.validate_python,
        {
            **_fields(row.details),
            "id": row.id,
            "thread_id": row.thread_id,
            "type": row.type,
            "name": row.name,
            "mime_type": row.mime_type,
        },
    )


def _fields(details: Json) -> dict[str, Any]:
    return details if isinstance(details, dict) else {}


def _read(what: str, validate: Callable[[Any], T], value: Any) -> T:
    """A model from what is stored. Raises SchemaError for what this release of ChatKit has no model for."""
    try:
        return validate(value)
    except ValidationError as error:
        place = ".".join(map(str, error.errors(include_input=False, include_url=False)[0]["loc"]))
        told = f"openai-chatkit {chatkit_version} cannot read {what}, at '{place}'; install the release that wrote it"
    raise SchemaError(told)  # outside the block: pydantic's own error shows what is stored


# --- from models to rows ----------------------------------------------------------------------------------------------


def _new_id(kind: StoreItemType) -> str:
    return f"{default_generate_id(kind).partition('_')[0]}_{uuid7().hex}"


def _details(attachment: Attachment) -> Json:
    with _dumping("attachment"):
        return _rest(attachment.model_dump(mode="json"), _OF_ATTACHMENT)


def _rest(given: Mapping[str, Any], columns: set[str]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in columns}


def _announced(attachment: Attachment) -> int | None:
    size = (attachment.metadata or {}).get("size")
    return size if type(size) is int else None


def _instant(value: datetime) -> datetime:
    if value.utcoffset() is not None:
        return value
    try:
        return value.astimezone(UTC)
    except (OverflowError, OSError, ValueError):
        raise Invalid("outside the years 1 to 9999 in UTC", path="created_at") from None


def _check(model: BaseModel, path: str, fields: set[str] | None = None) -> None:
    """Refuse what pydantic would write as something else (null for NaN) or not at all, and say where it is."""
    with _dumping(path):
        _check_value(model.model_dump(include=fields), path)


def _check_value(value: object, path: str) -> None:
    if isinstance(value, str):
        reason = text_fault(value)
        if reason:
            raise Invalid(reason, path=path)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise Invalid("NaN and infinities are not JSON", path=path)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(key, str) and text_fault(key):
                raise Invalid(f"a key {text_fault(key)}", path=path)
            _check_value(inner, f"{path}.{key}")
    elif isinstance(value, list | tuple | set | frozenset):
        for at, inner in enumerate(value):
            _check_value(inner, f"{path}[{at}]")


@contextmanager
def _dumping(path: str) -> Iterator[None]:
    """What pydantic cannot write as JSON is Invalid."""
    try:
        yield
    except Invalid:
        raise
    except (ValueError, RecursionError):  # PydanticSerializationError is a ValueError
        raise Invalid("has a value that JSON has not, or contains itself", path=path) from None


@contextmanager
def _lost() -> Iterator[None]:
    """Our NotFound as ChatKit's."""
    try:
        yield
    except NotFound as error:
        raise NotFoundError(str(error)) from error


def searchable_text(item: ThreadItem) -> str:
    """What was said in an item, a line each: the text of messages, the names of what is attached to them, the text to
    copy of a widget, questions and their answers.

    Nothing of a hidden item, since snippets are shown to users; nor of tasks, workflows, tool calls and images.
    """
    return "\n".join(text for text in _said(item) if text)


def _said(item: ThreadItem) -> Iterable[str | None]:
    if isinstance(item, UserMessageItem):
        yield from (part.text for part in item.content)
        yield from (each.name for each in item.attachments)
    elif isinstance(item, AssistantMessageItem):
        yield from (part.text for part in item.content)
    elif isinstance(item, WidgetItem):
        yield item.copy_text
    elif isinstance(item, StructuredInputItem):
        for asked in item.inputs:
            yield asked.question
            if asked.answer is not None:
                yield from asked.answer.values

"""dal.adapters.chatkit: ChatKit's Store and AttachmentStore on both databases."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from chatkit.store import NotFoundError, StoreItemType, default_generate_id
from chatkit.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    Attachment,
    AttachmentCreateParams,
    AttachmentUploadDescriptor,
    ClientToolCallItem,
    ClosedStatus,
    CustomTask,
    EndOfTurnItem,
    FileAttachment,
    GeneratedImage,
    GeneratedImageItem,
    HiddenContextItem,
    ImageAttachment,
    InferenceOptions,
    LockedStatus,
    Page,
    SDKHiddenContextItem,
    StructuredInputAnswer,
    StructuredInputFreeform,
    StructuredInputItem,
    TaskItem,
    Thread,
    ThreadItem,
    ThreadMetadata,
    UserMessageItem,
    UserMessageTagContent,
    UserMessageTextContent,
    WidgetItem,
    Workflow,
    WorkflowItem,
)
from pydantic import AnyUrl

import dal
from dal import Async, Dal, Invalid
from dal.adapters.chatkit import ChatKitStore, DirectoryAttachmentStore
from dal.adapters.files import Directory

AT = datetime(2026, 5, 4, 12, 30, 0, 123456)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, make_database: Callable[..., str]) -> str:
    return make_database(request.param)


class Setting(NamedTuple):
    """An open database and a store on it, whose context is the owner."""

    db: Dal[Async]
    store: ChatKitStore[str]


@asynccontextmanager
async def opened(database: str) -> AsyncIterator[Setting]:
    async with dal.aconnect(database) as db:
        yield Setting(db, ChatKitStore(db, lambda owner: owner))


def on(database: str, body: Callable[[Setting], Coroutine[Any, Any, None]]) -> None:
    """Run a test's body with a store."""

    async def live() -> None:
        async with opened(database) as setting:
            await body(setting)

    asyncio.run(live())


def a_thread(id: str = "thr_1", **given: Any) -> ThreadMetadata:
    return ThreadMetadata(id=id, **{"created_at": AT, **given})


def said(id: str, text: str = "hello", thread: str = "thr_1", **given: Any) -> AssistantMessageItem:
    content = [AssistantMessageContent(text=text)]
    return AssistantMessageItem(id=id, thread_id=thread, content=content, **{"created_at": AT, **given})


def hidden(content: Any, id: str = "itm") -> HiddenContextItem:
    return HiddenContextItem(id=id, thread_id="thr_1", created_at=AT, content=content)


def asked(id: str, text: str, **given: Any) -> UserMessageItem:
    return UserMessageItem(
        id=id,
        thread_id="thr_1",
        created_at=AT,
        content=[UserMessageTextContent(text=text)],
        inference_options=InferenceOptions(),
        **given,
    )


async def every(load: Callable[[str | None], Awaitable[Page[Any]]]) -> list[str]:
    """The ids of a list, page by page; each page says truly whether there are more."""
    found: list[str] = []
    after = None
    while True:
        page = await load(after)
        found += [each.id for each in page.data]
        assert page.has_more is (page.after is not None)
        if page.after is None:
            return found
        assert page.after == page.data[-1].id
        after = page.after
        assert len(found) < 1000, "the list has no end"


WIDGET = {"type": "Card", "id": "c", "children": [{"type": "Text", "value": "paid", "weight": "bold"}]}
KINDS: list[ThreadItem] = [
    UserMessageItem(
        id="u",
        thread_id="thr_1",
        created_at=AT,
        content=[UserMessageTextContent(text="Where is"), UserMessageTagContent(id="t", text="may", data={"n": 0.1})],
        attachments=[FileAttachment(id="atc_1", name="may.pdf", mime_type="application/pdf", metadata={"a": [1]})],
        quoted_text="quoted",
        inference_options=InferenceOptions(model="m"),
    ),
    said("a", "It is \u202e paid 🎈 \\u0000"),
    ClientToolCallItem(id="c", thread_id="thr_1", created_at=AT, call_id="x", name="f", arguments={"b": 1, "a": 2**53}),
    WidgetItem.model_validate(
        {"id": "w", "thread_id": "thr_1", "created_at": AT, "widget": WIDGET, "copy_text": "copied"}
    ),
    GeneratedImageItem(id="g", thread_id="thr_1", created_at=AT, image=GeneratedImage(id="i", url="http://x/y")),
    StructuredInputItem(
        id="s",
        thread_id="thr_1",
        created_at=AT,
        inputs=[StructuredInputFreeform(id="q", question="Which?", answer=StructuredInputAnswer(values=["Red"]))],
    ),
    WorkflowItem(
        id="f",
        thread_id="thr_1",
        created_at=AT,
        workflow=Workflow(type="custom", tasks=[CustomTask(title="secretly")]),
    ),
    TaskItem(id="k", thread_id="thr_1", created_at=AT, task=CustomTask(title="secretly")),
    hidden({"secretly": None, "n": [1.0, 1e16]}, "h"),
    SDKHiddenContextItem(id="sh", thread_id="thr_1", created_at=AT, content="secretly"),
    EndOfTurnItem(id="e", thread_id="thr_1", created_at=AT.replace(tzinfo=timezone(timedelta(hours=5, minutes=30)))),
]


# --- what is stored comes back ----------------------------------------------------------------------------------------


def test_an_item_of_every_kind_comes_back_and_its_document_byte_for_byte(database: str) -> None:
    async def body(on: Setting) -> None:
        await on.store.save_thread(a_thread(), "ann")
        for item in KINDS:
            await on.store.add_thread_item("thr_1", item, "ann")
        for item in KINDS:
            assert await on.store.load_item("thr_1", item.id, "ann") == item
            row = await on.db.chat.get_item("ann", "thr_1", item.id)
            assert (row.item, row.type) == (item.model_dump_json(), item.type)
        assert (await on.store.load_thread_items("thr_1", None, 50, "asc", "ann")).data == KINDS

    on(database, body)


def test_the_kinds_of_this_test_are_all_that_the_sdk_has() -> None:
    known = {each.model_fields["type"].default for each in ThreadItem.__origin__.__args__}  # type: ignore[attr-defined]
    assert {item.type for item in KINDS} == known


def test_a_thread_comes_back_and_a_second_save_replaces_all_but_its_place(database: str) -> None:
    async def body(on: Setting) -> None:
        first = a_thread(
            title="May", status=LockedStatus(reason="r"), allowed_image_domains=["x"], metadata={"n": [1, 0.5, None]}
        )
        await on.store.save_thread(first, "ann")
        assert await on.store.load_thread("thr_1", "ann") == first
        assert first.created_at.tzinfo is None
        await on.store.save_thread(a_thread("thr_2", created_at=AT + timedelta(seconds=1)), "ann")
        second = a_thread(status=ClosedStatus(), created_at=AT + timedelta(days=1))
        await on.store.save_thread(second, "ann")
        found = await on.store.load_threads(10, None, "asc", "ann")
        assert found.data == [second, a_thread("thr_2", created_at=AT + timedelta(seconds=1))]
        # As the server saves it when respond() gives a new thread its title.
        whole = Thread(**a_thread(title="whole").model_dump(), items=Page(data=[said("msg")]))
        await on.store.save_thread(whole, "ann")
        assert await on.store.load_thread("thr_1", "ann") == a_thread(title="whole")

    on(database, body)


def test_an_attachment_comes_back_and_a_second_save_replaces_it(database: str) -> None:
    async def body(on: Setting) -> None:
        upload = AttachmentUploadDescriptor(url=AnyUrl("http://x/up"), method="PUT", headers={"a": "b"})
        given: list[Attachment] = [
            FileAttachment(id="f", name="é.txt", mime_type="text/plain", upload_descriptor=upload, metadata={"n": 1}),
            ImageAttachment(id="i", name="", mime_type="image/png", preview_url=AnyUrl("http://x/i")),
        ]
        await on.store.save_thread(a_thread(), "ann")
        for attachment in given:
            await on.store.save_attachment(attachment, "ann")
            assert await on.store.load_attachment(attachment.id, "ann") == attachment
            sent = attachment.model_copy(update={"thread_id": "thr_1", "upload_descriptor": None})
            await on.store.save_attachment(sent, "ann")
            assert await on.store.load_attachment(attachment.id, "ann") == sent
        await on.store.delete_attachment("f", "ann")
        await on.store.delete_thread("thr_1", "ann")
        for id in "fi":
            with pytest.raises(NotFoundError):
                await on.store.load_attachment(id, "ann")

    on(database, body)


def test_an_item_is_added_once_saved_in_its_place_and_deleted(database: str) -> None:
    async def body(on: Setting) -> None:
        store = on.store
        await store.save_thread(a_thread(), "ann")
        await store.save_thread(a_thread("thr_2"), "ann")
        for number in range(3):
            await store.add_thread_item("thr_1", said(f"m{number}"), "ann")
        await store.add_thread_item("thr_1", said("m1"), "ann")  # sent again
        with pytest.raises(dal.AlreadyExists):
            await store.add_thread_item("thr_1", said("m1", "other"), "ann")
        with pytest.raises(dal.AlreadyExists):
            await store.add_thread_item("thr_2", said("m1"), "ann")
        changed = said("m0", "changed", created_at=AT + timedelta(days=1))
        await store.save_item("thr_1", changed, "ann")
        await store.save_item("thr_1", said("m3"), "ann")  # an upsert
        with pytest.raises(NotFoundError):
            await store.save_item("thr_2", said("m0"), "ann")
        found = await store.load_thread_items("thr_1", None, 50, "asc", "ann")
        assert found.data == [changed, said("m1"), said("m2"), said("m3")]
        await store.delete_thread_item("thr_1", "m1", "ann")
        for call in (store.load_item, store.delete_thread_item):
            with pytest.raises(NotFoundError):
                await call("thr_1", "m1", "ann")
        assert [row.seq for row in (await on.db.chat.list_items("ann", "thr_1")).items] == [1, 3, 4]

    on(database, body)


# --- lists ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_items_of_one_time_come_once_each_in_pages_of_two(database: str, order: str) -> None:
    async def body(on: Setting) -> None:
        await on.store.save_thread(a_thread(), "ann")
        added = ["z", "b", "y", "a", "m"]
        for id in added:
            await on.store.add_thread_item("thr_1", said(id), "ann")
        found = await every(lambda after: on.store.load_thread_items("thr_1", after, 2, order, "ann"))
        assert found == (added if order == "asc" else added[::-1])
        last = await on.store.load_thread_items("thr_1", None, 5, order, "ann")
        assert (last.has_more, last.after) == (False, None)

    on(database, body)


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_threads_of_one_time_come_once_each_in_pages_of_two(database: str, order: str) -> None:
    async def body(on: Setting) -> None:
        for id in "zbyam":
            await on.store.save_thread(a_thread(id), "ann")
            await on.store.save_thread(a_thread(f"other-{id}"), "bob")
        found = await every(lambda after: on.store.load_threads(2, after, order, "ann"))
        assert found == [*("zbyam" if order == "asc" else "maybz")]

    on(database, body)


def test_threads_are_in_the_order_of_their_instants_whatever_their_zones(database: str) -> None:
    async def body(on: Setting) -> None:
        noon = datetime(2026, 5, 4, 12, tzinfo=UTC)
        times = {
            "second": noon,
            "first": (noon - timedelta(minutes=30)).astimezone(timezone(timedelta(hours=5, minutes=30))),
            "third": (noon + timedelta(microseconds=1)).astimezone(timezone(-timedelta(hours=11))),
            "fourth": (noon + timedelta(hours=1)).astimezone().replace(tzinfo=None),  # local time
        }
        for id, at in times.items():
            await on.store.save_thread(a_thread(id, created_at=at), "ann")
        found = await on.store.load_threads(50, None, "asc", "ann")
        assert [thread.id for thread in found.data] == ["first", "second", "third", "fourth"]
        assert {thread.id: thread.created_at for thread in found.data} == times

    on(database, body)


def test_an_after_that_is_not_there_is_no_first_page(database: str) -> None:
    async def body(on: Setting) -> None:
        store = on.store
        for owner, thread in (("ann", "thr_1"), ("ann", "thr_2"), ("bob", "thr_3")):
            await store.save_thread(a_thread(thread), owner)
            for number in range(2):
                await store.add_thread_item(thread, said(f"{thread}-{number}"), owner)
        await store.delete_thread_item("thr_1", "thr_1-0", "ann")
        for order in ("asc", "desc"):
            for after in ("lost", "thr_1-0", "thr_2-0", "thr_3-0"):
                with pytest.raises(NotFoundError):
                    await store.load_thread_items("thr_1", after, 2, order, "ann")
            for after in ("lost", "thr_3"):
                with pytest.raises(NotFoundError):
                    await store.load_threads(2, after, order, "ann")
        await store.delete_thread("thr_2", "ann")
        with pytest.raises(NotFoundError):
            await store.load_threads(2, "thr_2", "asc", "ann")

    on(database, body)


@pytest.mark.parametrize(
    ("limit", "order", "path"),
    [
        *((limit, "asc", "limit") for limit in (0, -1, 501, 10**9, True, "5")),
        *((5, order, "order") for order in ("", "ASC; drop", "ascending", None)),
    ],
)
def test_a_wrong_limit_or_order_is_a_value_error(sqlite_url: str, limit: Any, order: Any, path: str) -> None:
    async def body(on: Setting) -> None:
        await on.store.save_thread(a_thread(), "ann")
        for call in (
            on.store.load_threads(limit, None, order, "ann"),
            on.store.load_thread_items("thr_1", None, limit, order, "ann"),
        ):
            with pytest.raises(ValueError, match=path) as refused:
                await call
            assert isinstance(refused.value, Invalid)
            assert refused.value.path == path

    on(sqlite_url, body)


# --- whose it is ------------------------------------------------------------------------------------------------------


def test_what_is_another_owners_is_not_found_anywhere(database: str, tmp_path: Path) -> None:
    async def body(on: Setting) -> None:
        store, files = on.store, in_directory(on, tmp_path)
        await store.save_thread(a_thread(title="Ann's"), "ann")
        await store.save_thread(a_thread("thr_bob"), "bob")
        await store.add_thread_item("thr_1", said("msg"), "ann")
        file = await announced(on, files, b"bytes")
        await files.write(file.id, chunks(b"bytes"), "ann")

        async def everything() -> list[Any]:
            return [
                await store.load_thread("thr_1", "ann"),
                await store.load_thread_items("thr_1", None, 50, "asc", "ann"),
                await on.db.chat.get_attachment("ann", file.id),
                (await files.path(file.id, "ann")).read_bytes(),
            ]

        before = await everything()
        stolen = FileAttachment(id="atc_new", name="n", mime_type="m/m", thread_id="thr_1")
        for call in (
            store.load_thread("thr_1", "bob"),
            store.save_thread(a_thread(title="Bob's"), "bob"),
            store.delete_thread("thr_1", "bob"),
            store.load_threads(5, "thr_1", "asc", "bob"),
            store.load_thread_items("thr_1", None, 5, "asc", "bob"),
            store.add_thread_item("thr_1", said("new"), "bob"),
            store.add_thread_item("thr_1", said("msg"), "bob"),
            store.save_item("thr_1", said("msg", "Bob's"), "bob"),
            store.save_item("thr_bob", said("msg", "Bob's"), "bob"),
            store.load_item("thr_1", "msg", "bob"),
            store.load_item("thr_bob", "msg", "bob"),
            store.delete_thread_item("thr_1", "msg", "bob"),
            store.delete_thread_item("thr_bob", "msg", "bob"),
            store.load_attachment(file.id, "bob"),
            store.save_attachment(stolen.model_copy(update={"id": file.id, "thread_id": None}), "bob"),
            store.save_attachment(stolen, "bob"),
            store.delete_attachment(file.id, "bob"),
            files.path(file.id, "bob"),
            files.write(file.id, chunks(b"other"), "bob"),
            files.delete_attachment(file.id, "bob"),
        ):
            with pytest.raises(NotFoundError):
                await call
            assert await everything() == before
        with pytest.raises(dal.AlreadyExists):
            await store.add_thread_item("thr_bob", said("msg"), "bob")
        assert [each.id for each in (await store.load_threads(5, None, "asc", "bob")).data] == ["thr_bob"]
        assert len(stored(tmp_path)) == 1

    on(database, body)


@pytest.mark.parametrize("owner", ["", None, 7, "x" * 513])
def test_a_context_without_an_owner_is_refused(sqlite_url: str, owner: Any) -> None:
    async def body(on: Setting) -> None:
        for call in (
            on.store.save_thread(a_thread(), owner),
            on.store.load_threads(5, None, "asc", owner),
            on.store.save_attachment(FileAttachment(id="a", name="n", mime_type="m/m"), owner),
        ):
            with pytest.raises(Invalid, match="owner"):
                await call

    on(sqlite_url, body)


# --- what cannot be stored --------------------------------------------------------------------------------------------

CIRCLE: dict[str, Any] = {}
CIRCLE["again"] = CIRCLE
DEEP: list[Any] = []
for _ in range(201):
    DEEP = [DEEP]


UNSTORABLE: list[tuple[ThreadItem, str, str]] = [
    (said("m", "a\0b"), "item.content[0].text", "contains the character NUL"),
    (said("m", "a\ud800"), "item.content[0].text", "contains a lone surrogate, which is not Unicode text"),
    (hidden({"a": [1, math.nan]}), "item.content.a[1]", "NaN and infinities are not JSON"),
    (hidden([{"b": -math.inf}]), "item.content[0].b", "NaN and infinities are not JSON"),
    (hidden({"a\0": 1}), "item.content", "a key contains the character NUL"),
    (hidden({"\ud800": 1}), "item.content", "a key contains a lone surrogate, which is not Unicode text"),
    (hidden(2**64), "item.content", "an integer beyond 64 bits"),
    (hidden(DEEP), "item", "nested more than 200 deep, or contains itself"),
    (hidden(CIRCLE), "item", "has a value that JSON has not, or contains itself"),
    (hidden(object()), "item", "has a value that JSON has not, or contains itself"),
    (hidden("x" * 2**24), "item", f"more than {2**24} bytes of JSON"),
    (said("", "a"), "id", "0 bytes; takes 1 to 512"),
    (
        said("m", created_at=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))),
        "created_at",
        "outside the years",
    ),
]


def test_an_item_that_cannot_be_stored_is_refused_in_the_same_words(database: str) -> None:
    async def body(on: Setting) -> None:
        await on.store.save_thread(a_thread(), "ann")
        before = on.db.calls
        for item, path, reason in UNSTORABLE:
            for call in (on.store.add_thread_item, on.store.save_item):
                with pytest.raises(Invalid) as refused:
                    await call("thr_1", item, "ann")
                assert (refused.value.path or "").startswith(path), refused.value
                assert reason in str(refused.value)
        assert on.db.calls == before, "something was sent"

    on(database, body)


def test_a_thread_or_an_attachment_that_cannot_be_stored_is_refused(database: str) -> None:
    async def body(on: Setting) -> None:
        def file(**given: Any) -> FileAttachment:
            return FileAttachment(**{"id": "a", "name": "n", "mime_type": "m/m", **given})

        before = on.db.calls
        for call, path in (
            (on.store.save_thread(a_thread(title="a\0"), "ann"), "thread.title"),
            (on.store.save_thread(a_thread(title="x" * 4097), "ann"), "title"),
            (on.store.save_thread(a_thread(metadata={"a": [math.nan]}), "ann"), "thread.metadata.a[0]"),
            (on.store.save_thread(a_thread(metadata={"a": "\ud800"}), "ann"), "thread.metadata.a"),
            (on.store.save_thread(a_thread(metadata={"a": 2**63}), "ann"), "metadata.a"),
            (on.store.save_thread(a_thread(metadata={"a": CIRCLE}), "ann"), "thread"),
            (on.store.save_thread(a_thread(created_at=datetime.max.replace(tzinfo=WEST)), "ann"), "created_at"),
            (on.store.save_thread(a_thread("a\0"), "ann"), "id"),
            (on.store.save_attachment(file(name="a\0"), "ann"), "attachment.name"),
            (on.store.save_attachment(file(metadata={"a": math.inf}), "ann"), "attachment.metadata.a"),
            (on.store.save_attachment(file(metadata={"a": object()}), "ann"), "attachment"),
            (on.store.save_attachment(file(mime_type=""), "ann"), "mime_type"),
        ):
            with pytest.raises(Invalid) as refused:
                await call
            assert refused.value.path == path
        assert on.db.calls == before, "something was sent"

    on(database, body)


WEST = timezone(-timedelta(hours=1))


@pytest.mark.parametrize(
    ("kind", "document", "place"),
    [
        ("hologram", '{"id": "m", "type": "hologram", "thread_id": "thr_1", "secret": 1}', "''"),
        ("assistant_message", '{"id": "m", "type": "assistant_message", "secret": 1}', "'assistant_message.thread_id'"),
    ],
)
def test_what_another_release_stored_is_an_error_that_names_it_and_stays(
    sqlite_url: str, kind: str, document: str, place: str
) -> None:
    async def body(on: Setting) -> None:
        await on.store.save_thread(a_thread(), "ann")
        await on.db.chat.add_item("ann", "thr_1", "m", type=kind, item=document)
        for call in (
            on.store.load_item("thr_1", "m", "ann"),
            on.store.load_thread_items("thr_1", None, 5, "asc", "ann"),
        ):
            with pytest.raises(dal.SchemaError) as refused:
                await call
            assert f"cannot read item m of type {kind}, at {place}" in str(refused.value)
            assert "secret" not in str(refused.value)
            assert refused.value.__cause__ is None
        assert (await on.db.chat.get_item("ann", "thr_1", "m")).item == document
        await on.store.delete_thread_item("thr_1", "m", "ann")

    on(sqlite_url, body)


def test_a_thread_and_an_attachment_that_the_application_saved_are_read(sqlite_url: str) -> None:
    async def body(on: Setting) -> None:
        made = await on.db.chat.save_thread("ann", "thr_1", title="By hand", details=[1])
        thread = await on.store.load_thread("thr_1", "ann")
        assert (thread.title, thread.created_at, thread.status.type) == ("By hand", made.created_at, "active")
        await on.db.chat.save_attachment("ann", "a", type="file", name="n", mime_type="m/m", details=None)
        assert await on.store.load_attachment("a", "ann") == FileAttachment(id="a", name="n", mime_type="m/m")
        await on.db.chat.save_attachment("ann", "a", type="tape", name="n", mime_type="m/m")
        with pytest.raises(dal.SchemaError, match="attachment a"):
            await on.store.load_attachment("a", "ann")

    on(sqlite_url, body)


# --- ids, callers at once, search -------------------------------------------------------------------------------------


def test_ids_have_chatkits_prefixes_and_are_long_enough(sqlite_url: str, tmp_path: Path) -> None:
    async def body(on: Setting) -> None:
        kinds: list[StoreItemType] = ["message", "tool_call", "task", "workflow", "attachment", "sdk_hidden_context"]
        made = [on.store.generate_item_id(kind, a_thread(), "ann") for kind in kinds]
        made += [on.store.generate_thread_id("ann")]
        made += [in_directory(on, tmp_path).generate_attachment_id("text/plain", "ann")]
        usual = [default_generate_id(kind) for kind in (*kinds, "thread", "attachment")]
        assert [id.partition("_")[0] for id in made] == [id.partition("_")[0] for id in usual]
        assert all(len(id.partition("_")[2]) == 32 for id in made)
        assert len({on.store.generate_thread_id("ann") for _ in range(1000)}) == 1000

    on(sqlite_url, body)


def test_items_added_at_once_are_numbered_without_gaps_and_none_is_lost(database: str) -> None:
    async def body(on: Setting) -> None:
        await on.store.save_thread(a_thread(), "ann")
        await asyncio.gather(*(on.store.add_thread_item("thr_1", said(f"m{n}"), "ann") for n in range(20)))
        rows = (await on.db.chat.list_items("ann", "thr_1")).items
        assert [row.seq for row in rows] == list(range(1, 21))
        found = await every(lambda after: on.store.load_thread_items("thr_1", after, 3, "asc", "ann"))
        assert found == [row.id for row in rows]
        assert {*found} == {f"m{n}" for n in range(20)}

    on(database, body)


def test_what_was_said_is_found_and_what_is_hidden_is_not(database: str) -> None:
    async def body(on: Setting) -> None:
        await on.store.save_thread(a_thread(title="Orders of May"), "ann")
        for item in KINDS:
            await on.store.add_thread_item("thr_1", item, "ann")

        async def hits(text: str, owner: str = "ann") -> list[str | None]:
            return [hit.item_id for hit in (await on.db.chat.search(owner, text)).items]

        assert await hits("orders") == [None]
        assert await hits("where may") == ["u"]
        assert await hits("may pdf") == ["u"]
        assert await hits("paid") == ["a"]  # and not the widget's JSON
        assert await hits("copied") == ["w"]
        assert await hits("which red") == ["s"]
        assert await hits("secretly") == await hits("quoted") == []
        assert await hits("paid", "bob") == []
        await on.store.save_item("thr_1", said("a", "changed"), "ann")
        assert (await hits("paid"), await hits("changed")) == ([], ["a"])

    on(database, body)


def test_a_subclass_decides_what_is_searched_and_workflow_of_what_a_thread_is_about(sqlite_url: str) -> None:
    class Shouting(ChatKitStore[str]):
        def text_of(self, item: ThreadItem) -> str:
            return f"shouted {item.id}"

    async def body(on: Setting) -> None:
        store = Shouting(on.db, lambda owner: owner, workflow_of=lambda thread: thread.metadata.get("workflow"))
        for id, metadata in (("thr_1", {"workflow": "w"}), ("thr_2", {})):
            await store.save_thread(a_thread(id, metadata=metadata), "ann")
        await store.add_thread_item("thr_1", said("m"), "ann")
        assert [hit.item_id for hit in (await on.db.chat.search("ann", "shouted m")).items] == ["m"]
        assert [row.id for row in (await on.db.chat.list_threads("ann", workflow_id="w")).items] == ["thr_1"]
        assert [row.id for row in (await on.db.chat.list_threads("ann", metadata={"workflow": "w"})).items] == ["thr_1"]

    on(sqlite_url, body)


# --- attachments in a directory ---------------------------------------------------------------------------------------


def in_directory(on: Setting, tmp_path: Path, **options: Any) -> DirectoryAttachmentStore[str]:
    def upload(id: str, owner: str) -> AttachmentUploadDescriptor:
        return AttachmentUploadDescriptor(url=AnyUrl(f"http://test/{owner}/{id}"), method="PUT")

    return DirectoryAttachmentStore(on.store, tmp_path / "files", upload=upload, **options)


async def announced(
    on: Setting, files: DirectoryAttachmentStore[str], content: bytes, owner: str = "ann", **given: Any
) -> Attachment:
    """What a client gets before it sends the bytes."""
    asked = {"name": "may.pdf", "size": len(content), "mime_type": "application/pdf", **given}
    attachment = await files.create_attachment(AttachmentCreateParams(**asked), owner)
    await on.store.save_attachment(attachment, owner)
    return attachment


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def stored(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "files").rglob("*") if path.is_file())


def test_bytes_are_written_whole_read_replaced_and_deleted(database: str, tmp_path: Path) -> None:
    async def body(on: Setting) -> None:
        files = in_directory(on, tmp_path)
        content = bytes(range(256)) * 1000
        made = await announced(on, files, content)
        assert made.upload_descriptor is not None
        assert str(made.upload_descriptor.url) == f"http://test/ann/{made.id}"
        with pytest.raises(NotFoundError, match="no bytes"):
            await files.path(made.id, "ann")
        done = await files.write(made.id, chunks(content[:1], b"", content[1:]), "ann")
        assert (
            done
            == made.model_copy(update={"upload_descriptor": None})
            == await on.store.load_attachment(made.id, "ann")
        )
        path = await files.path(made.id, "ann")
        assert path.read_bytes() == content
        assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent, path.parent.parent)] == [
            0o600, 0o700, 0o700,
        ]  # fmt: skip
        assert "may" not in str(path.relative_to(tmp_path))
        assert made.id not in str(path)

        await on.store.save_thread(a_thread(), "ann")  # sent with a message: the server saves it again
        await on.store.save_attachment(done.model_copy(update={"thread_id": "thr_1"}), "ann")
        assert await files.path(made.id, "ann") == path

        await files.write(made.id, chunks(content[::-1]), "ann")  # sent again
        assert (await files.path(made.id, "ann")).read_bytes() == content[::-1]
        assert len(stored(tmp_path)) == 1
        await files.delete_attachment(made.id, "ann")
        assert stored(tmp_path) == []
        with pytest.raises(NotFoundError):
            await files.path(made.id, "ann")
        await files.delete_attachment(made.id, "ann")  # the server was stopped before it deleted the rest
        await on.store.delete_attachment(made.id, "ann")
        with pytest.raises(NotFoundError):
            await files.delete_attachment(made.id, "ann")

    on(database, body)


def test_an_empty_file_is_one_and_an_image_has_a_preview(sqlite_url: str, tmp_path: Path) -> None:
    async def body(on: Setting) -> None:
        files = in_directory(on, tmp_path, preview_url=lambda id, owner: f"http://test/see/{id}")
        empty = await announced(on, files, b"", mime_type="")
        assert (empty.type, empty.mime_type) == ("file", "application/octet-stream")
        await files.write(empty.id, chunks(), "ann")
        assert (await files.path(empty.id, "ann")).read_bytes() == b""
        image = await announced(on, files, b"png", mime_type="image/png; q=1")
        assert isinstance(image, ImageAttachment)
        assert str(image.preview_url) == f"http://test/see/{image.id}"
        assert isinstance(await announced(on, in_directory(on, tmp_path), b"", mime_type="image/png"), FileAttachment)

    on(sqlite_url, body)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"size": 1001}, "size"),
        ({"size": -1}, "size"),
        ({"mime_type": "text"}, "mime_type"),
        ({"mime_type": "text/html\r\nX: y"}, "mime_type"),
        ({"mime_type": "text/"}, "mime_type"),
        ({"name": "a\0"}, "attachment.name"),
        ({"name": "x" * 4097}, "name"),
    ],
)
def test_an_attachment_that_cannot_be_is_refused(
    sqlite_url: str, tmp_path: Path, given: dict[str, Any], path: str
) -> None:
    async def body(on: Setting) -> None:
        with pytest.raises(Invalid) as refused:
            await announced(on, in_directory(on, tmp_path, max_bytes=1000), b"", **given)
        assert refused.value.path == path
        assert not (tmp_path / "files").exists()

    on(sqlite_url, body)


def test_too_many_bytes_too_few_and_an_upload_that_breaks_off_leave_nothing(database: str, tmp_path: Path) -> None:
    class Broken(Exception):
        pass

    async def breaking() -> AsyncIterator[bytes]:
        yield b"by"
        raise Broken

    async def endless() -> AsyncIterator[bytes]:
        for number in range(1000):
            assert number < 5, "it reads on and on"
            yield b"x" * 400

    async def body(on: Setting) -> None:
        files = in_directory(on, tmp_path, max_bytes=1000)
        made = await announced(on, files, b"bytes")
        for sent, error, words in (
            (chunks(b"bytes", b"!"), Invalid, "more than 5 bytes"),
            (chunks(b"byte"), Invalid, "4 bytes came, where 5 were announced"),
            (breaking(), Broken, "^$"),
        ):
            with pytest.raises(error, match=words):
                await files.write(made.id, sent, "ann")
            assert stored(tmp_path) == []
        # Of one that another program made nothing is announced.
        await on.db.chat.save_attachment("ann", "a", type="file", name="n", mime_type="m/m")
        with pytest.raises(Invalid, match="more than 1000 bytes"):
            await files.write("a", endless(), "ann")
        assert stored(tmp_path) == []
        with pytest.raises(NotFoundError, match="no bytes"):
            await files.path(made.id, "ann")
        assert await on.store.load_attachment(made.id, "ann") == made
        await files.write(made.id, chunks(b"bytes"), "ann")
        with pytest.raises(Invalid):
            await files.write(made.id, chunks(b"longer than that"), "ann")
        assert (await files.path(made.id, "ann")).read_bytes() == b"bytes"

    on(database, body)


def test_an_upload_that_is_cancelled_leaves_nothing(sqlite_url: str, tmp_path: Path) -> None:
    async def body(on: Setting) -> None:
        files = in_directory(on, tmp_path)
        made = await announced(on, files, b"bytes")
        begun = asyncio.Event()

        async def stalling() -> AsyncIterator[bytes]:
            yield b"by"
            begun.set()
            await asyncio.Event().wait()

        upload = asyncio.create_task(files.write(made.id, stalling(), "ann"))
        await begun.wait()
        assert len(stored(tmp_path)) == 1
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        assert stored(tmp_path) == []

    on(sqlite_url, body)


def test_an_attachment_that_is_deleted_during_its_upload_stays_deleted(database: str, tmp_path: Path) -> None:
    async def body(on: Setting) -> None:
        files = in_directory(on, tmp_path)
        made = await announced(on, files, b"bytes")

        async def meanwhile() -> AsyncIterator[bytes]:
            yield b"by"
            await files.delete_attachment(made.id, "ann")
            await on.store.delete_attachment(made.id, "ann")
            yield b"tes"

        with pytest.raises(NotFoundError):
            await files.write(made.id, meanwhile(), "ann")
        with pytest.raises(NotFoundError):
            await on.store.load_attachment(made.id, "ann")
        assert stored(tmp_path) == []

    on(database, body)


def test_no_id_and_no_stored_path_leads_out_of_the_directory(database: str, tmp_path: Path) -> None:
    async def body(on: Setting) -> None:
        secret = tmp_path / "secret"
        secret.write_text("secret")
        files = in_directory(on, tmp_path)
        await announced(on, files, b"")
        for id in ("../secret", "../../secret", str(secret), "..", "%2e%2e/secret", "a\0"):
            for call in (
                files.path(id, "ann"),
                files.write(id, chunks(b"x"), "ann"),
                files.delete_attachment(id, "ann"),
            ):
                with pytest.raises((NotFoundError, Invalid)):
                    await call
        for number, path in enumerate(("../secret", str(secret), "ab/../../secret", "", f"ab/{'0' * 32}\n", "a\\b")):
            given: Any = {"type": "file", "name": "../secret", "mime_type": "m/m", "storage_path": path}
            await on.db.chat.save_attachment("ann", f"odd/../{number}", **given)
            with pytest.raises(NotFoundError):
                await files.path(f"odd/../{number}", "ann")
            await files.delete_attachment(f"odd/../{number}", "ann")
        await files.write("odd/../0", chunks(b"inside"), "ann")
        assert (await files.path("odd/../0", "ann")).read_bytes() == b"inside"
        assert (await files.path("odd/../0", "ann")).is_relative_to(tmp_path / "files")
        assert secret.read_text() == "secret"

    on(database, body)


KILLED = """
import asyncio, os, signal, sys
import dal
from dal.adapters.chatkit import ChatKitStore, DirectoryAttachmentStore

async def chunks():
    yield b"x" * 100_000
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with dal.aconnect(sys.argv[1]) as db:
        store = ChatKitStore(db, lambda owner: owner)
        await DirectoryAttachmentStore(store, sys.argv[2], upload=None).write(sys.argv[3], chunks(), "ann")

asyncio.run(main())
"""


def test_what_a_killed_process_leaves_is_read_by_nobody_and_swept(sqlite_url: str, tmp_path: Path) -> None:
    async def body(on: Setting) -> None:
        files = in_directory(on, tmp_path)
        kept, cut, gone = [await announced(on, files, b"x" * 200_000) for _ in range(3)]
        for each in (kept, gone):
            await files.write(each.id, chunks(b"x" * 200_000), "ann")
        command = [sys.executable, "-W", "ignore", "-c", KILLED, sqlite_url, str(tmp_path / "files"), cut.id]
        assert (await asyncio.to_thread(subprocess.run, command)).returncode == -signal.SIGKILL
        assert len(stored(tmp_path)) == 3
        with pytest.raises(NotFoundError):
            await files.path(cut.id, "ann")
        # Killed when its file was whole, and before the database was told.
        await Directory(tmp_path / "files").write(chunks(b"y"), most=1)
        await on.store.save_thread(a_thread(), "ann")
        await on.store.save_attachment(gone.model_copy(update={"thread_id": "thr_1"}), "ann")
        await on.store.delete_thread("thr_1", "ann")
        (tmp_path / "files" / "00").mkdir(exist_ok=True)
        (tmp_path / "files" / "00" / "notes").write_text("somebody else's")

        assert await files.sweep() == 0  # nothing here is a day old
        assert len(stored(tmp_path)) == 5
        assert await files.sweep(timedelta(0)) == 3
        assert stored(tmp_path) == sorted([await files.path(kept.id, "ann"), tmp_path / "files" / "00" / "notes"])
        assert await files.sweep(timedelta(0)) == 0

    on(sqlite_url, body)


def test_sweeps_at_once_with_uploads_take_nothing_of_them(database: str, tmp_path: Path) -> None:
    async def body(on: Setting) -> None:
        files = in_directory(on, tmp_path)
        made = [await announced(on, files, b"bytes") for _ in range(20)]
        await asyncio.gather(
            *(files.write(each.id, chunks(b"by", b"tes"), "ann") for each in made), *(files.sweep() for _ in range(20))
        )
        assert {(await files.path(each.id, "ann")).read_bytes() for each in made} == {b"bytes"}
        assert len(stored(tmp_path)) == 20
        twice = await asyncio.gather(*(files.write(made[0].id, chunks(b"bytes"), "ann") for _ in range(5)))
        assert len(twice) == 5
        await files.sweep(timedelta(0))
        assert len(stored(tmp_path)) == 20
        assert (await files.path(made[0].id, "ann")).read_bytes() == b"bytes"

    on(database, body)


def test_a_sweep_takes_what_is_old_enough_and_no_directory_is_no_files(sqlite_url: str, tmp_path: Path) -> None:
    async def body(on: Setting) -> None:
        files = in_directory(on, tmp_path)
        assert await files.sweep(timedelta(0)) == 0
        directory = Directory(tmp_path / "files")
        old, new = [await directory.write(chunks(b"y"), most=1) for _ in range(2)]
        os.utime(tmp_path / "files" / old, (0, 0))
        assert await files.sweep() == 1
        assert stored(tmp_path) == [tmp_path / "files" / new]

    on(sqlite_url, body)

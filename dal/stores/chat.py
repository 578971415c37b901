"""Chat: threads, their items in order, attachments, and a search in them.

Everything belongs to an owner, a text of the caller's that every method names: what is another one's is not found, and
an id that another one has cannot be saved under. Items are numbered from 1 in their thread by the adding statement
itself. The document of an item is JSON as text, and comes back byte for byte; what is searched of it is its ``body``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypeVar

from msgspec import Struct

from dal.core.cursors import FAR, Page, check_limit, page, place_cursor, read_place_cursor
from dal.core.face import M, Queries, Store, applied, missing, statement
from dal.core.rows import MAX_JSON_BYTES, Applied, Json, check_document, check_int, check_text
from dal.core.search import Snippet, keyed, owner_key, pieces, snippet, wanted, words
from dal.errors import AlreadyExists, AttachmentNotFound, Invalid, ItemNotFound, NotFound, ThreadNotFound
from dal.stores.checks import check_choice, check_filter, check_key, check_length

Order = Literal["asc", "desc"]
T = TypeVar("T", bound="Thread | Item")

MAX_TITLE = 4096  # characters
MAX_PRUNED = 1000  # in one call, because on one of the databases everybody who writes waits for it


class Thread(Struct, frozen=True):
    """A thread as it stands, without its items."""

    id: str
    owner: str
    title: str | None
    workflow_id: str | None
    status: Json
    metadata: Json
    details: Json
    created_at: datetime
    updated_at: datetime  # when it or an item of it was saved last


class Item(Struct, frozen=True):
    """An item of a thread."""

    id: str
    thread_id: str
    seq: int  # from 1 in each thread; that of a deleted item is not given again
    type: str
    item: str  # the document, as it was given
    created_at: datetime


class Attachment(Struct, frozen=True):
    """What is known of a file. Where its bytes are is the caller's business."""

    id: str
    owner: str
    thread_id: str | None
    type: str
    name: str
    mime_type: str
    details: Json
    storage_path: str | None
    created_at: datetime


class FoundText(Struct, frozen=True):
    """A title, or a part of an item's body, that has the words that were searched for."""

    thread_id: str
    title: str | None
    item_id: str | None
    number: int
    is_title: bool
    created_at: datetime
    text: str


class Hit(Struct, frozen=True):
    """What a search found. item_id: None where it is the title of the thread that has the words."""

    thread_id: str
    title: str | None  # of the thread
    item_id: str | None
    created_at: datetime  # of the item, or of the thread
    snippet: Snippet


class Chat(Store[M]):
    """``db.chat``."""

    # --- threads ---

    @statement(write=True)
    async def save_thread(
        self,
        q: Queries,
        owner: str,
        id: str,
        *,
        title: str | None = None,
        workflow_id: str | None = None,
        status: Json = None,
        metadata: Json | None = None,
        details: Json | None = None,
        created_at: datetime | None = None,
    ) -> Thread:
        """A new thread, or another content for one, all of it; created_at stays.

        owner, id, workflow_id: 1 to 512 bytes. title: at most 4,096 characters. status: any JSON value. metadata: {} by
        default; every value in it is indexed, for ``list_threads``. details: {} by default, for what is only kept.
        created_at: now by default. Raises ThreadNotFound if another owner has a thread with this id.
        """
        if title is not None:
            check_length(title, "title", 0, MAX_TITLE)
        now = self.clock()
        thread = await q.save_thread(
            id=check_key(id, "id"),
            owner=check_key(owner, "owner"),
            title=title,
            title_terms=keyed(words(title or ""), owner_key(owner)),
            workflow_id=None if workflow_id is None else check_key(workflow_id, "workflow_id"),
            status=status,
            metadata={} if metadata is None else metadata,
            details={} if details is None else details,
            created_at=now if created_at is None else created_at,
            now=now,
        )
        return thread or missing(ThreadNotFound, id)

    @statement
    async def get_thread(self, q: Queries, owner: str, id: str) -> Thread:
        """One thread, without its items. Raises ThreadNotFound."""
        found = await q.get_thread(id=check_key(id, "id"), owner=check_key(owner, "owner"))
        return found or missing(ThreadNotFound, id)

    @statement
    async def list_threads(
        self,
        q: Queries,
        owner: str,
        *,
        order: Order = "desc",
        after: str | None = None,
        limit: int = 50,
        workflow_id: str | None = None,
        metadata: Json | None = None,
    ) -> Page[Thread]:
        """An owner's threads by created_at, 'desc' for the newest first; those of one time as they were first saved.

        after: the id of a thread; ``next`` of a page is that of its last one. limit: 1 to 500. workflow_id: only those
        about it. metadata: a dict of at most 100 values, which a thread's metadata must contain as ``history.find`` has
        it. Raises ThreadNotFound if the owner has no thread ``after``.
        """
        newest_first = _is_descending(order)
        more = check_limit(limit) + 1
        check_key(owner, "owner")
        after = None if after is None else check_key(after, "after")
        workflow_id = None if workflow_id is None else check_key(workflow_id, "workflow_id")
        if metadata is not None:
            find = q.find_threads if newest_first else q.find_threads_oldest
            contained = check_filter(metadata, "metadata")
            rows = await find(owner=owner, metadata=contained, workflow_id=workflow_id, after=after, limit=more)
        elif workflow_id is not None:
            of_workflow = q.list_threads_of_workflow if newest_first else q.list_threads_of_workflow_oldest
            rows = await of_workflow(owner=owner, workflow_id=workflow_id, after=after, limit=more)
        else:
            rows = await (q.list_threads if newest_first else q.list_threads_oldest)(
                owner=owner, after=after, limit=more
            )
        return _page(rows, limit, ThreadNotFound, after)

    @statement(write=True)
    async def delete_thread(self, q: Queries, owner: str, id: str) -> None:
        """Take a thread away, with its items and attachments. Raises ThreadNotFound."""
        _gone(await q.delete_thread(id=check_key(id, "id"), owner=check_key(owner, "owner")), ThreadNotFound, id)

    @statement(write=True)
    async def prune(self, q: Queries, before: datetime, *, limit: int = 100) -> int:
        """Forget threads of any owner in which nothing was saved since a time, oldest first, with their items and
        attachments; returns how many threads, fewer than limit at the end.

        limit: 1 to 1,000 threads, whatever number of items they have.
        """
        if not 1 <= check_int(limit, "limit") <= MAX_PRUNED:
            raise Invalid(f"{limit}; takes 1 to {MAX_PRUNED}", path="limit")
        return await q.delete_threads(before=before, limit=limit)

    # --- items ---

    @statement(write=True)
    async def add_item(
        self,
        q: Queries,
        owner: str,
        thread_id: str,
        id: str,
        *,
        type: str,
        item: str,
        body: str = "",
        created_at: datetime | None = None,
    ) -> Item:
        """The next item of a thread. The same again, with type, item and body as they are, is no change.

        id: 1 to 512 bytes, given once whatever the thread. type: 1 to 512 bytes. item: a JSON document as text, at most
        16 MiB. body: the text to search in, at most as long. created_at: now by default; the order is that of adding.
        Raises ThreadNotFound; AlreadyExists if the id has another content, or another thread.
        """
        given = _item(owner, thread_id, id, type, item, body)
        texts = pieces(body)
        key = owner_key(owner)
        firsts, terms = [piece.first for piece in texts], [keyed(piece.words, key) for piece in texts]
        now = self.clock()
        while True:
            answer = applied(
                await q.add_item(
                    **given, firsts=firsts, terms=terms, created_at=now if created_at is None else created_at, now=now
                ),
                ThreadNotFound,
                thread_id,
            )
            if answer.row is not None:
                return answer.row
            if answer.found != "again":  # see add_item
                raise AlreadyExists("an item has this id, with another content", constraint="chat_items_id_key")

    @statement(write=True)
    async def save_item(
        self,
        q: Queries,
        owner: str,
        thread_id: str,
        id: str,
        *,
        type: str,
        item: str,
        body: str = "",
        created_at: datetime | None = None,
    ) -> Item:
        """Another content for an item, all of it, or the next item of the thread; seq and created_at stay.

        Arguments as for ``add_item``. Raises ThreadNotFound; ItemNotFound if an item of another thread has this id.
        """
        given = _item(owner, thread_id, id, type, item, body)
        texts = pieces(body)
        key = owner_key(owner)
        now = self.clock()
        answer = applied(
            await q.save_item(
                **given,
                firsts=[piece.first for piece in texts],
                terms=[keyed(piece.words, key) for piece in texts],
                created_at=now if created_at is None else created_at,
                now=now,
            ),
            ThreadNotFound,
            thread_id,
        )
        return answer.row or missing(ItemNotFound, id)

    @statement
    async def get_item(self, q: Queries, owner: str, thread_id: str, id: str) -> Item:
        """One item of a thread. Raises ItemNotFound."""
        found = await q.get_item(
            id=check_key(id, "id"), thread_id=check_key(thread_id, "thread_id"), owner=check_key(owner, "owner")
        )
        return found or missing(ItemNotFound, id)

    @statement
    async def list_items(
        self,
        q: Queries,
        owner: str,
        thread_id: str,
        *,
        order: Order = "asc",
        after: str | None = None,
        limit: int = 50,
    ) -> Page[Item]:
        """The items of a thread in the order in which they were added, or with 'desc' the other way round.

        after: the id of an item; ``next`` of a page is that of its last one. limit: 1 to 500.
        Raises ThreadNotFound; ItemNotFound if the thread has no item ``after``.
        """
        newest_first = _is_descending(order)
        rows = await (q.list_items_newest if newest_first else q.list_items)(
            thread_id=check_key(thread_id, "thread_id"),
            owner=check_key(owner, "owner"),
            after=None if after is None else check_key(after, "after"),
            limit=check_limit(limit) + 1,
        )
        if not rows:
            missing(ThreadNotFound, thread_id)
        return _page(rows, limit, ItemNotFound, after)

    @statement(write=True)
    async def delete_item(self, q: Queries, owner: str, thread_id: str, id: str) -> None:
        """Take an item away. Raises ItemNotFound."""
        count = await q.delete_item(
            id=check_key(id, "id"), thread_id=check_key(thread_id, "thread_id"), owner=check_key(owner, "owner")
        )
        _gone(count, ItemNotFound, id)

    # --- attachments ---

    @statement(write=True)
    async def save_attachment(
        self,
        q: Queries,
        owner: str,
        id: str,
        *,
        type: str,
        name: str,
        mime_type: str,
        thread_id: str | None = None,
        details: Json | None = None,
        storage_path: str | None = None,
    ) -> Attachment:
        """A new attachment, or another content for one, all of it; created_at stays.

        id, type, mime_type: 1 to 512 bytes. name: at most 4,096 characters. thread_id: a thread of the owner's, with
        which it is taken away; None while it belongs to none. details: {} by default. storage_path: by default the one
        that it has, if any.
        Raises ThreadNotFound; AttachmentNotFound if another owner has an attachment with this id.
        """
        answer = await q.save_attachment(
            id=check_key(id, "id"),
            owner=check_key(owner, "owner"),
            thread_id=None if thread_id is None else check_key(thread_id, "thread_id"),
            type=check_key(type, "type"),
            name=check_length(name, "name", 0, MAX_TITLE),
            mime_type=check_key(mime_type, "mime_type"),
            details={} if details is None else details,
            storage_path=storage_path,
            now=self.clock(),
        )
        answer = applied(answer, AttachmentNotFound, id)
        if answer.row is None and answer.found == "thread":
            missing(ThreadNotFound, thread_id)
        return answer.row or missing(AttachmentNotFound, id)

    @statement(write=True)
    async def update_attachment(
        self, q: Queries, owner: str, id: str, *, details: Json, storage_path: str
    ) -> Attachment:
        """Other details, and where the bytes are, for an attachment that is there. Raises AttachmentNotFound."""
        found = await q.update_attachment(
            id=check_key(id, "id"), owner=check_key(owner, "owner"), details=details, storage_path=storage_path
        )
        return found or missing(AttachmentNotFound, id)

    @statement
    async def get_attachment(self, q: Queries, owner: str, id: str) -> Attachment:
        """One attachment. Raises AttachmentNotFound."""
        found = await q.get_attachment(id=check_key(id, "id"), owner=check_key(owner, "owner"))
        return found or missing(AttachmentNotFound, id)

    @statement(write=True)
    async def delete_attachment(self, q: Queries, owner: str, id: str) -> None:
        """Take an attachment away; what its storage_path names is left alone. Raises AttachmentNotFound."""
        count = await q.delete_attachment(id=check_key(id, "id"), owner=check_key(owner, "owner"))
        _gone(count, AttachmentNotFound, id)

    @statement
    async def list_stored_attachments(
        self, q: Queries, *, after: str | None = None, limit: int = 50
    ) -> Page[Attachment]:
        """The attachments of all owners that have a storage_path, by their ids: to find the files that none names.

        after: the ``next`` of a page, which is the id of its last one. limit: 1 to 500.
        """
        behind = "" if after is None else check_key(after, "after")
        rows = await q.list_stored_attachments(after=behind, limit=check_limit(limit) + 1)
        return page(rows, limit, lambda last: last.id)

    # --- search ---

    @statement
    async def search(
        self, q: Queries, owner: str, text: str, *, after: str | None = None, limit: int = 50
    ) -> Page[Hit]:
        """What an owner finds by the words of a text; nothing if there is no word in it.

        First the threads that have all of them in their title, then the items that have them in their body, of each
        what was added last first.

        Words are compared without case and diacritics, and the last one is the beginning of a word. A body of more than
        65,536 characters is searched in parts of so many: one of them has to have all words. limit: 1 to 500.
        Raises Invalid for more than 64 words.
        """
        check_key(owner, "owner")
        asked = wanted(check_text(text, "text"), "text")
        scope = f"search-chat:{owner}:{asked}"
        is_title, place = read_place_cursor(scope, after)
        check_limit(limit)
        if asked is None:
            return Page([], None)
        rows = await q.search_chat(
            owner=owner,
            words=asked.keyed(owner_key(owner)),
            before_thread=place if is_title else 0,
            before_item=FAR if is_title else place,
            limit=limit + 1,
        )
        found = page(rows, limit, lambda last: place_cursor(scope, last.is_title, last.number))
        hits = [
            Hit(row.thread_id, row.title, row.item_id, row.created_at, snippet(row.text, asked)) for row in found.items
        ]
        return Page(hits, found.next)


def _is_descending(order: Order) -> bool:
    return check_choice(order, "order", ("asc", "desc")) == "desc"


def _item(owner: str, thread_id: str, id: str, type: str, item: str, body: str) -> dict[str, str]:
    """The checked arguments of an item, by the names that its queries have for them."""
    if len(check_text(body, "body").encode()) > MAX_JSON_BYTES:
        raise Invalid(f"more than {MAX_JSON_BYTES} bytes", path="body")
    return {
        "id": check_key(id, "id"),
        "thread_id": check_key(thread_id, "thread_id"),
        "owner": check_key(owner, "owner"),
        "type": check_key(type, "type"),
        "item": check_document(item, "item"),
        "body": body,
    }


def _page(rows: Sequence[Applied[T]], limit: int, error: type[NotFound], after: str | None) -> Page[T]:
    """A page of a list that goes on behind the id of a row."""
    if rows and rows[0].found == "after":
        missing(error, after)
    found = [each.row for each in rows if each.row is not None]
    return page(found, limit, lambda last: last.id)


def _gone(count: int, error: type[NotFound], id: str) -> None:
    if not count:
        missing(error, id)

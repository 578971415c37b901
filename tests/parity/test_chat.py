"""Chat: threads, their items in order, attachments, whose they are, and what is found in them; in every cell."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from dal import (
    AlreadyExists,
    Attachment,
    AttachmentNotFound,
    Dal,
    DalError,
    Invalid,
    Item,
    ItemNotFound,
    Page,
    Sync,
    Thread,
    ThreadNotFound,
)
from dal.core.search import PIECE, owner_key
from dal.stores import chat
from tests.cells import Cell, Clock, MakeDb, together
from tests.parity.make import NOON
from tests.parity.processes import add_item, in_processes

NUMBER = itertools.count(1)


def a_thread(db: Dal[Sync], owner: str = "ann", **given: Any) -> str:
    """The id of a new thread."""
    return db.chat.save_thread(owner, given.pop("id", f"t{next(NUMBER):06}"), **given).id


def an_item(db: Dal[Sync], thread: str, body: str = "", owner: str = "ann", **given: Any) -> str:
    """The id of a new item."""
    id = given.pop("id", f"i{next(NUMBER):06}")
    return db.chat.add_item(owner, thread, id, **{"type": "message", "item": "{}", **given}, body=body).id


def ids(found: Any) -> list[str]:
    return [each.id for each in found]


def every(page: Callable[..., Page[Any]], limit: int) -> list[str]:
    """The ids of a list, page by page, each behind the last id of the one before."""
    found: list[str] = []
    after = None
    while True:
        some = page(after=after, limit=limit)
        found += ids(some.items)
        if some.next is None:
            return found
        assert (len(some.items), some.next) == (limit, some.items[-1].id)
        after = some.next


def hits(db: Dal[Sync], text: str, owner: str = "ann") -> list[str]:
    """What is found: ids of items, or of threads by their title."""
    return [hit.item_id or hit.thread_id for hit in db.chat.search(owner, text, limit=500).items]


def kinds(answers: Any) -> Counter[str]:
    return Counter(type(answer).__name__ for answer in answers)


# --- threads ----------------------------------------------------------------------------------------------------------


def test_a_thread_comes_back_as_it_was_given(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    given: dict[str, Any] = {
        "title": "Über alles",
        "workflow_id": "flow-1",
        "status": {"type": "locked", "reason": None},
        "metadata": {"a": [1, 1.5, None]},
        "details": {"domains": ["x"]},
    }
    made = db.chat.save_thread("ann", "t", **given)
    assert made == Thread(id="t", owner="ann", created_at=NOON, updated_at=NOON, **given)
    assert made == db.chat.get_thread("ann", "t")


def test_what_is_not_given_is_empty(db: Dal[Sync]) -> None:
    made = db.chat.save_thread("ann", "t")
    assert (made.title, made.workflow_id, made.status, made.metadata, made.details) == (None, None, None, {}, {})


def test_saving_again_replaces_all_but_the_time_at_which_it_was_made(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    long_ago = datetime(2001, 2, 3, 4, 5, 6, 7, tzinfo=UTC)
    db.chat.save_thread("ann", "t", title="first", metadata={"a": 1}, workflow_id="w", created_at=long_ago)
    clock.advance(seconds=5)
    again = db.chat.save_thread("ann", "t", title="second", details={"b": 2}, created_at=NOON)
    assert (again.title, again.metadata, again.details, again.workflow_id) == ("second", {}, {"b": 2}, None)
    assert (again.created_at, again.updated_at) == (long_ago, clock())
    assert again == db.chat.get_thread("ann", "t")
    assert list(db.chat.list_threads("ann", metadata={"a": 1}).items) == []
    assert list(db.chat.list_threads("ann", workflow_id="w").items) == []
    assert (hits(db, "first"), hits(db, "second")) == ([], ["t"])


def test_items_move_the_time_of_their_thread_on_and_a_clock_that_goes_back_does_not(
    db: Dal[Sync], clock: Clock
) -> None:
    clock.set(NOON)
    thread = a_thread(db)

    def passed() -> float:
        return (db.chat.get_thread("ann", thread).updated_at - NOON).total_seconds()

    clock.advance(seconds=5)
    item = an_item(db, thread)
    assert passed() == 5
    clock.advance(seconds=5)
    db.chat.save_item("ann", thread, item, type="message", item="[]")
    assert passed() == 10
    clock.advance(seconds=-60)
    an_item(db, thread)
    db.chat.save_thread("ann", thread)
    assert passed() == 10


def test_64_that_save_one_thread_at_once_make_one(db: Dal[Sync]) -> None:
    jobs = [partial(db.chat.save_thread, "ann", "t", title=f"Number {n}", metadata={"n": n}) for n in range(64)]
    assert kinds(together(jobs)) == {"Thread": 64}
    [kept] = db.chat.list_threads("ann").items
    n = kept.metadata["n"]
    assert kept.title == f"Number {n}"
    assert [hits(db, f"number {m} x"[:-2]) for m in range(64) if m == n] == [["t"]]
    assert ids(db.chat.list_threads("ann", metadata={"n": n}).items) == ["t"]
    assert [m for m in range(64) if db.chat.list_threads("ann", metadata={"n": m}).items] == [n]


def test_an_id_that_two_owners_want_at_once_is_the_first_ones(db: Dal[Sync]) -> None:
    answers = together([partial(db.chat.save_thread, f"owner-{n % 4}", "wanted") for n in range(64)])
    made = [answer.owner for answer in answers if isinstance(answer, Thread)]
    assert len(set(made)) == 1
    assert kinds(answers) == {"Thread": len(made), "ThreadNotFound": 64 - len(made)}
    assert len(made) == 16


# --- lists of threads -------------------------------------------------------------------------------------------------


def test_threads_are_listed_by_their_time_and_those_of_one_time_as_they_came(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    made = [a_thread(db, id=f"t{n}", workflow_id=f"w{n % 2}", metadata={"n": n % 3}) for n in (5, 3, 4, 1, 2)]
    old = a_thread(db, created_at=NOON - timedelta(days=1), workflow_id="w0", metadata={"n": 0})
    a_thread(db, "bob")
    for filters, expected in (
        ({}, [old, *made]),
        ({"workflow_id": "w0"}, [old, "t4", "t2"]),
        ({"metadata": {"n": 2}}, ["t5", "t2"]),
        ({"metadata": {}}, [old, *made]),
        ({"metadata": {"n": 0}, "workflow_id": "w0"}, [old]),
        ({"metadata": {"n": 2}, "workflow_id": "w1"}, ["t5"]),
        ({"metadata": {"n": [2]}}, []),
        ({"workflow_id": "none"}, []),
    ):
        for limit in (1, 2, 500):
            listed = partial(db.chat.list_threads, "ann", **filters)
            assert every(partial(listed, order="asc"), limit) == expected, filters
            assert every(partial(listed, order="desc"), limit) == expected[::-1], filters
            assert every(listed, limit) == expected[::-1], "newest first"


def test_threads_are_found_by_what_their_metadata_contain(db: Dal[Sync]) -> None:
    made = [
        a_thread(
            db, id=f"t{n}", metadata={"labels": [{"a": n % 2, "b": n}], "x": {"y": n / 2}}, workflow_id=f"w{n % 3}"
        )
        for n in range(6)
    ]

    def found(workflow_id: str | None = None, **metadata: Any) -> list[str]:
        return ids(db.chat.list_threads("ann", metadata=metadata, order="asc", workflow_id=workflow_id).items)

    assert found(labels=[{"a": 1}]) == ["t1", "t3", "t5"]
    assert found("w2", labels=[{"a": 1}]) == ["t5"]
    assert found(labels=[{"a": 1, "b": 2}]) == []
    assert found(labels=[{}], x={}) == made
    assert found(x={"y": 1}) == ["t2"] == found(x={"y": 1.0})
    assert found(x={"y": 0.5}) == ["t1"]
    assert found("w9") == []


# --- items ------------------------------------------------------------------------------------------------------------


def test_items_are_numbered_from_one_and_their_documents_kept_byte_for_byte(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    thread = a_thread(db)
    documents = [
        '{"b":1, "a":1.0,\n "c": 1e2, "d": -0.0, "e": 1E400000000000000000000}'.replace(
            "1E400000000000000000000", "[]"
        ),
        " [1, 2]\t",
        '"\\u00e9é\\ud83d\\ude00"',
        "0",
        "null",
        '{"created_at": "2026-01-01T12:00:00", "": ""}',
        "12345678901234567.0",
        '"\\\\u0000 \\/"',
    ]
    for number, document in enumerate(documents, 1):
        made = db.chat.add_item("ann", thread, f"i{number}", type="message", item=document, created_at=clock())
        assert made == Item(f"i{number}", thread, number, "message", document, NOON)
        assert made == db.chat.get_item("ann", thread, made.id)
    listed = db.chat.list_items("ann", thread).items
    assert [item.item for item in listed] == documents
    assert [item.seq for item in listed] == list(range(1, 9))


def test_five_items_of_one_time_come_once_in_pages_of_two_both_ways(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    thread = a_thread(db)
    made = [an_item(db, thread, id=f"i{n}", created_at=NOON) for n in (3, 1, 5, 2, 4)]
    items = partial(db.chat.list_items, "ann", thread)
    assert every(items, 2) == made == every(partial(items, order="asc"), 2)
    assert every(partial(items, order="desc"), 2) == made[::-1]
    assert every(items, 5) == made == every(items, 500)


def test_a_list_behind_an_item_goes_on_there_whatever_is_added_or_taken_away(db: Dal[Sync]) -> None:
    thread = a_thread(db)
    made = [an_item(db, thread) for _ in range(6)]
    first = db.chat.list_items("ann", thread, limit=3)
    assert first.next == made[2]
    more = an_item(db, thread)
    db.chat.delete_item("ann", thread, made[4])
    assert ids(db.chat.list_items("ann", thread, after=first.next).items) == [made[3], made[5], more]
    assert ids(db.chat.list_items("ann", thread, after=more).items) == []
    assert ids(db.chat.list_items("ann", thread, after=made[0], order="desc").items) == []
    with pytest.raises(ItemNotFound, match=made[4]):
        db.chat.list_items("ann", thread, after=made[4])


def test_the_same_item_again_is_no_change_and_another_one_is_refused(db: Dal[Sync]) -> None:
    thread, other = a_thread(db), a_thread(db)
    first = db.chat.add_item("ann", thread, "i", type="message", item='{"a": 1}', body="words")
    an_item(db, thread)
    assert db.chat.add_item("ann", thread, "i", type="message", item='{"a": 1}', body="words") == first
    for where, change in (
        (thread, {"item": '{"a":1}'}),
        (thread, {"type": "task"}),
        (thread, {"body": "word"}),
        (other, {}),
    ):
        given: Any = {"type": "message", "item": '{"a": 1}', "body": "words", **change}
        with pytest.raises(AlreadyExists, match="with another content") as refused:
            db.chat.add_item("ann", where, "i", **given)
        assert refused.value.constraint == "chat_items_id_key"
    assert db.chat.get_item("ann", thread, "i") == first
    assert [item.seq for item in db.chat.list_items("ann", thread).items] == [1, 2]
    assert db.chat.list_items("ann", other) == Page([], None)
    assert an_item(db, other) == db.chat.list_items("ann", other).items[0].id
    assert db.chat.list_items("ann", other).items[0].seq == 1, "a refusal takes no number"


def test_saving_an_item_again_keeps_its_place_and_time(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    thread, other = a_thread(db), a_thread(db)
    made = [an_item(db, thread, f"before {n}") for n in range(3)]
    clock.advance(seconds=5)
    saved = db.chat.save_item("ann", thread, made[1], type="task", item="[1]", body="afterwards", created_at=clock())
    assert saved == Item(made[1], thread, 2, "task", "[1]", NOON) == db.chat.get_item("ann", thread, made[1])
    new = db.chat.save_item("ann", thread, "new", type="task", item="2", body="before 3")
    assert (new.seq, new.created_at) == (4, clock())
    assert (hits(db, "before"), hits(db, "after")) == (["new", made[2], made[0]], [made[1]])
    with pytest.raises(ItemNotFound, match=r"no item with this id: new"):
        db.chat.save_item("ann", other, "new", type="task", item="3")
    assert db.chat.get_item("ann", thread, "new") == new
    assert an_item(db, thread) == db.chat.list_items("ann", thread).items[4].id
    assert [item.seq for item in db.chat.list_items("ann", thread).items] == [1, 2, 3, 4, 5]


def test_a_deleted_item_is_gone_and_its_number_too(db: Dal[Sync]) -> None:
    thread = a_thread(db)
    made = [an_item(db, thread, "something to find") for _ in range(3)]
    db.chat.delete_item("ann", thread, made[2])
    assert (ids(db.chat.list_items("ann", thread).items), hits(db, "find")) == (made[:2], made[1::-1])
    for call in (db.chat.get_item, db.chat.delete_item):
        with pytest.raises(ItemNotFound):
            call("ann", thread, made[2])
    assert db.chat.add_item("ann", thread, made[2], type="message", item="{}").seq == 4


def test_a_message_of_two_megabytes_is_kept_and_found_by_its_last_word(db: Dal[Sync]) -> None:
    thread = a_thread(db)
    body = " ".join(f"wörd{n}" for n in range(190_000)) + " needle"
    document = f'{{"text": "{body}"}}'
    assert len(body) > 1_700_000
    db.chat.add_item("ann", thread, "large", type="message", item=document, body=body)
    assert db.chat.get_item("ann", thread, "large").item == document
    for query in ("needle", "nee", "word189999 needle", "word0 word1", "word100000"):
        [hit] = db.chat.search("ann", query).items
        assert hit.item_id == "large"
        assert hit.snippet.marks, query
    assert hits(db, "word") == ["large"], "found in every part, and told once"
    assert hits(db, "word0 needle") == [], "no part of it has both"
    db.chat.save_item("ann", thread, "large", type="message", item="0", body="short needle")
    assert (hits(db, "needle"), hits(db, "word")) == (["large"], [])


# --- attachments ------------------------------------------------------------------------------------------------------


def test_an_attachment_comes_back_as_it_was_given_and_goes_with_its_thread(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    thread = a_thread(db)
    given: dict[str, Any] = {"type": "image", "name": "é.png", "mime_type": "image/png", "storage_path": "a/b"}
    made = db.chat.save_attachment("ann", "a", **given, details={"size": 1.5})
    assert made == Attachment("a", "ann", None, "image", "é.png", "image/png", {"size": 1.5}, "a/b", NOON)
    assert made == db.chat.get_attachment("ann", "a")
    clock.advance(seconds=1)
    moved = db.chat.save_attachment("ann", "a", type="file", name="", mime_type="x", thread_id=thread)
    assert moved == Attachment("a", "ann", thread, "file", "", "x", {}, "a/b", NOON)
    loose = db.chat.save_attachment("ann", "b", **given)
    db.chat.delete_thread("ann", thread)
    for call in (db.chat.get_attachment, db.chat.delete_attachment):
        with pytest.raises(AttachmentNotFound):
            call("ann", "a")
    assert db.chat.get_attachment("ann", "b") == loose
    db.chat.delete_attachment("ann", "b")
    with pytest.raises(AttachmentNotFound):
        db.chat.get_attachment("ann", "b")
    with pytest.raises(ThreadNotFound):
        db.chat.save_attachment("ann", "c", **given, thread_id=thread)


def test_bytes_are_given_to_an_attachment_that_is_there_and_make_none(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    thread = a_thread(db)
    db.chat.save_attachment("ann", "a", type="file", name="n", mime_type="m", thread_id=thread, details={"size": 1})
    clock.advance(seconds=1)
    stored = db.chat.update_attachment("ann", "a", details={"at": None}, storage_path="f/1")
    assert stored == Attachment("a", "ann", thread, "file", "n", "m", {"at": None}, "f/1", NOON)
    assert db.chat.get_attachment("ann", "a") == stored
    db.chat.delete_attachment("ann", "a")
    with pytest.raises(AttachmentNotFound):
        db.chat.update_attachment("ann", "a", details={}, storage_path="f/2")
    with pytest.raises(AttachmentNotFound):
        db.chat.get_attachment("ann", "a")


def test_stored_attachments_are_listed_whosever_they_are(db: Dal[Sync]) -> None:
    stored = [
        db.chat.save_attachment(f"o{n % 3}", f"a{n}", type="t", name="n", mime_type="m", storage_path=f"f/{n}")
        for n in range(7)
    ]
    db.chat.save_attachment("o1", "a35", type="t", name="n", mime_type="m")
    assert list(db.chat.list_stored_attachments().items) == stored
    assert every(db.chat.list_stored_attachments, 2) == ids(stored)
    assert ids(db.chat.list_stored_attachments(after="a35").items) == ["a4", "a5", "a6"]


# --- whose it is ------------------------------------------------------------------------------------------------------


def test_what_is_another_owners_is_not_found_anywhere(db: Dal[Sync]) -> None:
    mine, yours = a_thread(db, "bob", title="Bob's words"), a_thread(db, title="Ann's words", metadata={"a": 1})
    item = an_item(db, yours, "secret words")
    db.chat.save_attachment("ann", "file", type="file", name="f", mime_type="m", thread_id=yours)
    before = everything(db, yours)
    given: Any = {"type": "message", "item": "{}"}
    file: Any = {"type": "file", "name": "f", "mime_type": "m"}
    c = db.chat
    refused: list[tuple[type[DalError], Callable[[], object]]] = [
        (ThreadNotFound, lambda: c.get_thread("bob", yours)),
        (ThreadNotFound, lambda: c.save_thread("bob", yours, title="mine now")),
        (ThreadNotFound, lambda: c.delete_thread("bob", yours)),
        (ThreadNotFound, lambda: c.list_threads("bob", after=yours)),
        (ThreadNotFound, lambda: c.list_threads("bob", after=yours, order="asc")),
        (ThreadNotFound, lambda: c.list_threads("bob", after=yours, workflow_id="w")),
        (ThreadNotFound, lambda: c.list_threads("bob", after=yours, metadata={})),
        (ThreadNotFound, lambda: c.list_items("bob", yours)),
        (ThreadNotFound, lambda: c.list_items("bob", yours, after=item, order="desc")),
        (ItemNotFound, lambda: c.list_items("bob", mine, after=item)),
        (ThreadNotFound, lambda: c.add_item("bob", yours, "new", **given)),
        (ThreadNotFound, lambda: c.add_item("bob", yours, item, **given)),
        (AlreadyExists, lambda: c.add_item("bob", mine, item, **given)),
        (AlreadyExists, lambda: c.add_item("bob", mine, item, **given, body="secret words")),
        (ThreadNotFound, lambda: c.save_item("bob", yours, "new", **given)),
        (ThreadNotFound, lambda: c.save_item("bob", yours, item, **given)),
        (ItemNotFound, lambda: c.save_item("bob", mine, item, **given)),
        (ItemNotFound, lambda: c.get_item("bob", yours, item)),
        (ItemNotFound, lambda: c.get_item("bob", mine, item)),
        (ItemNotFound, lambda: c.get_item("ann", mine, item)),
        (ItemNotFound, lambda: c.delete_item("bob", yours, item)),
        (ItemNotFound, lambda: c.delete_item("bob", mine, item)),
        (AttachmentNotFound, lambda: c.get_attachment("bob", "file")),
        (AttachmentNotFound, lambda: c.delete_attachment("bob", "file")),
        (AttachmentNotFound, lambda: c.update_attachment("bob", "file", details={}, storage_path="x")),
        (AttachmentNotFound, lambda: c.save_attachment("bob", "file", **file)),
        (AttachmentNotFound, lambda: c.save_attachment("bob", "file", **file, thread_id=mine)),
        (ThreadNotFound, lambda: c.save_attachment("bob", "new", **file, thread_id=yours)),
    ]
    for number, (error, call) in enumerate(refused):
        with pytest.raises(error):
            call()
        assert everything(db, yours) == before, f"call {number} changed something"
    assert ids(c.list_threads("bob", metadata={}).items) == [mine]
    assert list(c.list_threads("bob", metadata={"a": 1}).items) == []
    assert hits(db, "words", "bob") == [mine]
    assert hits(db, "words") == [yours, item]
    assert hits(db, "words", "eve") == []
    assert list(c.list_items("bob", mine).items) == []


def everything(db: Dal[Sync], thread: str) -> list[Any]:
    c = db.chat
    return [c.get_thread("ann", thread), c.list_items("ann", thread), c.get_attachment("ann", "file")]


def test_ids_and_owners_are_compared_byte_by_byte(db: Dal[Sync]) -> None:
    odd = ["a", "A", "a ", " a", "%", "_", "é", "e\u0301", "'; drop table chat_threads; --", "../x", "日" * 170, "*"]
    for number, id in enumerate(odd):
        db.chat.save_thread(id, id, title=f"needle {number}")
        db.chat.add_item(id, id, id, type="m", item=str(number), body="needle")
        db.chat.save_attachment(id, id, type="t", name=str(number), mime_type="m", thread_id=id)
    for number, id in enumerate(odd):
        assert ids(db.chat.list_threads(id).items) == [id]
        assert [item.item for item in db.chat.list_items(id, id).items] == [str(number)]
        assert db.chat.get_item(id, id, id).item == str(number)
        assert db.chat.get_attachment(id, id).name == str(number)
        assert hits(db, "needle", id) == [id, id]


def two_with_one_key() -> tuple[str, str]:
    seen: dict[str, str] = {}
    for number in itertools.count():
        key = owner_key(f"owner-{number}")
        if key in seen:
            return seen[key], f"owner-{number}"
        seen[key] = f"owner-{number}"
    raise AssertionError("a hash without collisions")


@pytest.mark.parametrize("count", [3, 1100])
def test_two_owners_whose_words_have_one_key_do_not_find_each_others(db: Dal[Sync], count: int) -> None:
    owners = two_with_one_key()
    for owner in owners:
        a_thread(db, owner, id=owner, title="A needle")
    for first in range(0, count, 275):
        with db.transaction() as tx:
            for n, owner in itertools.product(range(first, min(count, first + 275)), owners):
                tx.chat.add_item(owner, owner, f"{owner}-{n}", type="m", item="1", body=f"a needle n{n}")
    for owner in owners:
        expected = [owner, *(f"{owner}-{n}" for n in range(count)[::-1])]
        found = db.chat.search(owner, "needle", limit=50).items
        assert [hit.item_id or hit.thread_id for hit in found] == expected[:50]
        assert hits(db, "needle", owner) == expected[:500]
        assert hits(db, f"n{count - 1} needle", owner) == expected[1:2]


# --- search -----------------------------------------------------------------------------------------------------------


def test_titles_come_first_then_items_each_those_added_last(db: Dal[Sync]) -> None:
    first = a_thread(db, title="Rechnung für Äpfel")
    bodies = ["Eine Rechnung", "nichts", "Die RECHNUNGEN von ann", "Rechner"]
    items = [an_item(db, first, body) for body in bodies]
    second = a_thread(db, title="rechnung zwei", created_at=NOON - timedelta(days=9))
    later = an_item(db, first, "rechnung")
    assert hits(db, "Rechnung") == [second, first, later, items[2], items[0]]
    assert hits(db, "rechn") == [second, first, later, items[3], items[2], items[0]]
    assert hits(db, "rechnung apfel") == [first]
    assert hits(db, "eine rech") == [items[0]]
    assert hits(db, "rech eine") == []
    assert hits(db, "ann") == [items[2]], "words are of one title or one item"
    assert hits(db, "") == hits(db, " !? ") == hits(db, "rechnung nirgends") == []


def test_what_is_found_comes_in_pages_across_titles_and_items(db: Dal[Sync]) -> None:
    threads = [a_thread(db, title=f"needle {n}") for n in range(5)]
    items = [an_item(db, threads[n % 5], f"a needle {n}") for n in range(7)]
    expected = [*threads[::-1], *items[::-1]]
    for limit in (1, 2, 5, 6, 12, 500):
        found: list[str] = []
        after = None
        while True:
            page = db.chat.search("ann", "needle", after=after, limit=limit)
            found += [hit.item_id or hit.thread_id for hit in page.items]
            after = page.next
            if after is None:
                break
            assert len(page.items) == limit
        assert found == expected, limit
    cursor = db.chat.search("ann", "needle", limit=3).next
    added = an_item(db, threads[0], "needle")
    rest = [hit.item_id or hit.thread_id for hit in db.chat.search("ann", "needle", after=cursor).items]
    assert rest == [*expected[3:5], added, *expected[5:]]
    for other in (
        lambda: db.chat.search("ann", "needles", after=cursor),
        lambda: db.chat.search("bob", "needle", after=cursor),
        lambda: db.workflows.search("needle", after=cursor),
    ):
        with pytest.raises(Invalid, match="no cursor of this list"):
            other()


@pytest.mark.parametrize("count", [150, 1100])
def test_many_hits_are_found_in_the_same_order_as_few(db: Dal[Sync], count: int) -> None:
    made = []
    for first in range(0, count, 275):
        with db.transaction() as tx:
            for n in range(first, min(count, first + 275)):
                thread = tx.chat.save_thread("ann", f"t{n}", title="all" if n % 2 else "other all").id
                tx.chat.save_thread("bob", f"b{n}", title="all")
                made.append(tx.chat.add_item("ann", thread, f"i{n}", type="m", item="1", body=f"all n{n} m{n % 2}").id)
    expected = [*(f"t{n}" for n in range(count)[::-1]), *made[::-1]]
    found: list[str] = []
    after = None
    while True:
        page = db.chat.search("ann", "all", after=after, limit=50)
        found += [hit.item_id or hit.thread_id for hit in page.items]
        after = page.next
        if after is None:
            break
    assert found == expected
    assert hits(db, "m1 all") == made[1::2][::-1][:500]
    assert hits(db, f"all n{count - 1}") == [made[-1]]


def test_a_hit_tells_where_it_stands_and_shows_the_words(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    thread = a_thread(db, title="An Straßen")
    clock.advance(seconds=1)
    item = an_item(db, thread, "In <b>Strasse</b> 7\n" + "and so on " * 50)
    title, message = db.chat.search("ann", "STRASSE").items
    assert (title.thread_id, title.item_id, title.title, title.created_at) == (thread, None, "An Straßen", NOON)
    assert title.snippet.marked("[", "]") == "An [Straßen]"
    assert (message.thread_id, message.item_id, message.title) == (thread, item, "An Straßen")
    assert message.created_at == clock()
    assert message.snippet.marked("[", "]").startswith("In <b>[Strasse]</b> 7 and so on ")
    assert message.snippet.text.endswith("…")
    assert len(message.snippet.text) <= 241


def test_a_change_of_many_pieces_leaves_none_behind(db: Dal[Sync]) -> None:
    thread = a_thread(db)
    long = "lost " * (PIECE // 5 * 2) + "end"
    an_item(db, thread, long, id="i")
    for body, word in (("short", "short"), (long, "end"), ("", "nothing"), (long + " more", "more")):
        db.chat.save_item("ann", thread, "i", type="m", item="{}", body=body)
        expected = [word] if body else []
        assert [each for each in ("short", "end", "nothing", "more") if hits(db, f"{each}")] == [
            *(["end"] if word == "more" else []), *expected,
        ], body[:20]  # fmt: skip
        assert hits(db, "lost") == (["i"] if body.startswith("lost") else [])
    db.chat.delete_item("ann", thread, "i")
    assert hits(db, "lost") == []


# --- races ------------------------------------------------------------------------------------------------------------


def test_80_at_once_in_4_processes_add_items_1_to_80(db: Dal[Sync], cell: Cell, url: str) -> None:
    thread = a_thread(db)
    answers = in_processes(url, cell.face, add_item, thread, 20)
    assert sorted(answers, key=str) == sorted(range(1, 81), key=str)
    items = db.chat.list_items("ann", thread, limit=500).items
    assert [item.seq for item in items] == list(range(1, 81))
    assert hits(db, "together") == ids(items)[::-1]


def test_one_item_that_many_add_at_once_is_added_once_and_leaves_no_gap(db: Dal[Sync], make_db: MakeDb) -> None:
    dbs = [db, make_db(face="sync"), make_db(face="async")]
    for number in range(10):
        thread = a_thread(db)
        jobs: list[Callable[[], Any]] = [
            partial(dbs[n % 3].chat.add_item, "ann", thread, f"same-{number}", type="m", item="1") for n in range(6)
        ]
        jobs += [
            partial(dbs[n % 3].chat.add_item, "ann", thread, f"x-{number}", type="m", item=f"{n}") for n in range(6)
        ]
        jobs += [
            partial(dbs[n % 3].chat.save_item, "ann", thread, f"y-{number}", type="m", item=f"{n}") for n in range(6)
        ]
        answers = together(jobs)
        assert kinds(answers[:6]) == {"Item": 6}, f"round {number}: {answers}"
        assert kinds(answers[6:12]) == {"Item": 1, "AlreadyExists": 5}, f"round {number}: {answers}"
        assert kinds(answers[12:]) == {"Item": 6}, f"round {number}: {answers}"
        assert sorted(item.seq for item in db.chat.list_items("ann", thread).items) == [1, 2, 3], f"round {number}"


def test_an_id_that_two_threads_want_at_once_is_of_one_of_them(db: Dal[Sync]) -> None:
    for number in range(10):
        threads = [a_thread(db) for _ in range(8)]
        call = db.chat.add_item if number % 2 else db.chat.save_item
        answers = together([partial(call, "ann", thread, f"one-{number}", type="m", item="1") for thread in threads])
        refused = "AlreadyExists" if number % 2 else "ItemNotFound"
        assert kinds(answers) == {"Item": 1, refused: 7}, f"round {number}: {answers}"
        kept = [item for thread in threads for item in db.chat.list_items("ann", thread).items]
        assert [(item.id, item.seq) for item in kept] == [(f"one-{number}", 1)]
        for thread in threads:
            assert db.chat.add_item("ann", thread, f"{thread}-next", type="m", item="1").seq in (1, 2)
            assert len(db.chat.list_items("ann", thread).items) == db.chat.list_items("ann", thread).items[-1].seq


def test_a_thread_that_is_deleted_while_items_are_added_leaves_none(db: Dal[Sync]) -> None:
    for number in range(20):
        thread = a_thread(db)
        jobs: list[Callable[[], Any]] = [partial(an_item, db, thread, "orphan") for _ in range(6)]
        jobs.append(partial(db.chat.save_item, "ann", thread, f"s{number}", type="m", item="1", body="orphan"))
        jobs.append(
            partial(db.chat.save_attachment, "ann", f"a{number}", type="t", name="n", mime_type="m", thread_id=thread)
        )
        jobs.insert(3, partial(db.chat.delete_thread, "ann", thread))
        answers = together(jobs)
        deleted = answers.pop(3)
        assert deleted is None, f"round {number}: {deleted}"
        assert set(kinds(answers)) <= {"str", "Item", "Attachment", "ThreadNotFound"}, answers
        with pytest.raises(ThreadNotFound):
            db.chat.list_items("ann", thread)
        with pytest.raises(AttachmentNotFound):
            db.chat.get_attachment("ann", f"a{number}")
    assert hits(db, "orphan") == []


def test_saves_of_one_item_at_once_leave_the_words_of_one(db: Dal[Sync]) -> None:
    thread = a_thread(db)
    long = "filler " * (PIECE // 7 * 2)
    for number in range(10):
        id = an_item(db, thread, "at first")
        bodies = [f"{long} only{n}x" if n % 2 else f"only{n}x" for n in range(6)]
        jobs = [
            partial(db.chat.save_item, "ann", thread, id, type="m", item=f"{n}", body=body)
            for n, body in enumerate(bodies)
        ]
        assert kinds(together(jobs)) == {"Item": 6}
        kept = int(db.chat.get_item("ann", thread, id).item)
        assert [n for n in range(6) if id in hits(db, f"only{n}x")] == [kept], f"round {number}"
        assert (id in hits(db, "filler")) is (kept % 2 == 1), f"round {number}"


# --- forgetting -------------------------------------------------------------------------------------------------------


def test_pruning_forgets_the_oldest_threads_in_which_nothing_happens(db: Dal[Sync], clock: Clock) -> None:
    made = []
    for n in range(6):
        clock.set(NOON + timedelta(minutes=n))
        made.append(a_thread(db, "ann" if n % 2 else "bob", title=f"needle{n}", metadata={"n": n}))
        an_item(db, made[-1], f"needle{n}", "ann" if n % 2 else "bob", id=f"item-{n}")
    db.chat.save_attachment("ann", "file", type="t", name="n", mime_type="m", thread_id=made[1])
    clock.set(NOON + timedelta(hours=1))
    an_item(db, made[0], owner="bob")  # goes on
    before = NOON + timedelta(minutes=5)

    def left() -> list[int]:
        found = {*ids(db.chat.list_threads("ann").items), *ids(db.chat.list_threads("bob").items)}
        return [n for n in range(6) if made[n] in found]

    assert db.chat.prune(NOON) == 0
    assert (db.chat.prune(before, limit=2), left()) == (2, [0, 3, 4, 5])
    assert (db.chat.prune(before), left()) == (2, [0, 5])
    assert db.chat.prune(before) == 0
    for n in range(1, 5):
        owner = "ann" if n % 2 else "bob"
        assert hits(db, f"needle{n}", owner) == []
        assert list(db.chat.list_threads(owner, metadata={"n": n}).items) == []
    with pytest.raises(AttachmentNotFound):
        db.chat.get_attachment("ann", "file")
    assert db.chat.prune(NOON.replace(year=9999)) == 2
    assert a_thread(db, id=made[1], metadata={"n": 1}) == made[1]
    assert an_item(db, made[1], "needle1", id="item-1") == "item-1"
    assert hits(db, "needle1") == ["item-1"]


def test_8_that_prune_at_once_forget_each_thread_once(db: Dal[Sync]) -> None:
    for n in range(40):
        an_item(db, a_thread(db, title="word", metadata={"n": [1]}), f"word {n}")
    prune: Callable[[], int] = partial(db.chat.prune, NOON.replace(year=9999), limit=4)
    pruned = together([prune] * 8)
    assert all(isinstance(count, int) and count <= 4 for count in pruned), pruned
    rest = sum(iter(prune, 0))
    assert sum(count for count in pruned if isinstance(count, int)) + rest == 40
    assert hits(db, "word") == []


def test_what_is_undone_leaves_nothing(db: Dal[Sync]) -> None:
    thread = a_thread(db, title="kept")
    item = an_item(db, thread, "kept")
    before = (db.chat.get_thread("ann", thread), db.chat.list_items("ann", thread))
    with pytest.raises(ZeroDivisionError), db.transaction() as tx:  # noqa: PT012 - the block is what is tested
        tx.chat.save_thread("ann", thread, title="lost")
        tx.chat.save_item("ann", thread, item, type="m", item="1", body="lost")
        tx.chat.add_item("ann", thread, "other", type="m", item="1", body="lost")
        tx.chat.save_thread("ann", "new", title="lost", metadata={"a": 1})
        assert [hit.item_id or hit.thread_id for hit in tx.chat.search("ann", "lost").items] == [
            "new", thread, "other", item,
        ]  # fmt: skip
        raise ZeroDivisionError
    assert (db.chat.get_thread("ann", thread), db.chat.list_items("ann", thread)) == before
    assert (hits(db, "lost"), hits(db, "kept")) == ([], [thread, item])


# --- what is refused before anything is sent --------------------------------------------------------------------------


def every_id(db: Dal[Sync]) -> dict[str, tuple[str, Callable[[Any], Any]]]:
    """A call for each place of an id, with the path that Invalid names."""
    c = db.chat
    item: Any = {"type": "m", "item": "1"}
    file: Any = {"type": "t", "name": "n", "mime_type": "m"}
    return {
        "save_thread, owner": ("owner", lambda v: c.save_thread(v, "t")),
        "save_thread": ("id", lambda v: c.save_thread("o", v)),
        "get_thread, owner": ("owner", lambda v: c.get_thread(v, "t")),
        "get_thread": ("id", lambda v: c.get_thread("o", v)),
        "list_threads, owner": ("owner", c.list_threads),
        "delete_thread": ("id", lambda v: c.delete_thread("o", v)),
        "add_item, thread": ("thread_id", lambda v: c.add_item("o", v, "i", **item)),
        "add_item, owner": ("owner", lambda v: c.add_item(v, "t", "i", **item)),
        "add_item": ("id", lambda v: c.add_item("o", "t", v, **item)),
        "add_item, type": ("type", lambda v: c.add_item("o", "t", "i", type=v, item="1")),
        "save_item, thread": ("thread_id", lambda v: c.save_item("o", v, "i", **item)),
        "save_item": ("id", lambda v: c.save_item("o", "t", v, **item)),
        "get_item, thread": ("thread_id", lambda v: c.get_item("o", v, "i")),
        "get_item": ("id", lambda v: c.get_item("o", "t", v)),
        "list_items, owner": ("owner", lambda v: c.list_items(v, "t")),
        "list_items": ("thread_id", lambda v: c.list_items("o", v)),
        "delete_item": ("id", lambda v: c.delete_item("o", "t", v)),
        "save_attachment": ("id", lambda v: c.save_attachment("o", v, **file)),
        "save_attachment, owner": ("owner", lambda v: c.save_attachment(v, "a", **file)),
        "save_attachment, type": ("mime_type", lambda v: c.save_attachment("o", "a", **{**file, "mime_type": v})),
        "update_attachment": ("id", lambda v: c.update_attachment("o", v, details={}, storage_path="x")),
        "get_attachment": ("id", lambda v: c.get_attachment("o", v)),
        "delete_attachment": ("id", lambda v: c.delete_attachment("o", v)),
        "search, owner": ("owner", lambda v: c.search(v, "text")),
    }


@pytest.mark.parametrize("value", ["", "x" * 513, "é" * 257, "a\0", "\ud800", 5, None, b"e", True], ids=repr)
def test_an_id_that_cannot_be_is_refused(db: Dal[Sync], value: Any) -> None:
    before = db.calls
    for name, (path, call) in every_id(db).items():
        with pytest.raises(Invalid) as refused:
            call(value)
        assert refused.value.path == path, name
    if value is not None:
        optional: list[tuple[str, Callable[[], Any]]] = [
            ("workflow_id", lambda: db.chat.save_thread("o", "t", workflow_id=value)),
            ("workflow_id", lambda: db.chat.list_threads("o", workflow_id=value)),
            ("after", lambda: db.chat.list_threads("o", after=value)),
            ("after", lambda: db.chat.list_threads("o", after=value, metadata={})),
            ("after", lambda: db.chat.list_items("o", "t", after=value)),
            ("after", lambda: db.chat.list_stored_attachments(after=value)),
            (
                "thread_id",
                lambda: db.chat.save_attachment("o", "a", type="t", name="n", mime_type="m", thread_id=value),
            ),
        ]
        for path, call_optional in optional:
            with pytest.raises(Invalid) as refused:
                call_optional()
            assert refused.value.path == path
    assert db.calls == before


DOCUMENTS: dict[str, tuple[Any, str, str]] = {
    "not JSON": ("{", "item", "is not JSON, at character 1"),
    "empty": ("", "item", "is not JSON"),
    "NaN": ('{"a": [NaN]}', "item", "NaN is not JSON"),
    "infinity": ("-Infinity", "item", "-Infinity is not JSON"),
    "a key twice": ('{"a": 1, "a": 1}', "item", "a key twice"),
    "escaped NUL": ('{"a": ["\\u0000"]}', "item.a[0]", "NUL"),
    "escaped NUL in a key": ('{"\\u0000": 1}', "item", "NUL"),
    "lone surrogate": ('["\\ud800"]', "item[0]", "lone surrogate"),
    "large int": ('{"n": 9223372036854775808}', "item.n", "beyond 64 bits"),
    "huge int": ("1" * 5000, "item", "beyond 64 bits"),
    "huge float": ("[1e400]", "item[0]", "infinities"),
    "deep": ("[" * 201 + "]" * 201, "item", "200 deep"),
    "bottomless": ("[" * 100_000, "item", "200 deep"),
    "trailing comma": ("[1,]", "item", "is not JSON"),
    "byte order mark": ("\ufeff1", "item", "is not JSON"),
    "raw NUL": ('"\0"', "item", "NUL"),
    "raw surrogate": ('"\ud800"', "item", "lone surrogate"),
    "large": (f'"{"x" * 2**24}"', "item", "16777216 bytes"),
    "a dict": ({"a": 1}, "item", "takes str, not dict"),
    "bytes": (b"{}", "item", "takes str, not bytes"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_that_cannot_be_kept_is_refused(db: Dal[Sync], name: str) -> None:
    value, path, reason = DOCUMENTS[name]
    before = db.calls
    for call in (db.chat.add_item, db.chat.save_item):
        with pytest.raises(Invalid, match=reason) as refused:
            call("o", "t", "i", type="m", item=value)
        assert refused.value.path is not None
        assert refused.value.path.startswith(path)
    assert db.calls == before


def test_documents_at_the_limits_are_kept(db: Dal[Sync]) -> None:
    thread = a_thread(db)
    for number, document in enumerate(
        [
            "[" * 200 + "]" * 200,
            f'"{"x" * (2**24 - 2)}"',
            "[9223372036854775807, -9223372036854775808]",
            '{"a": {"a": 1}}',
        ]
    ):
        db.chat.add_item("ann", thread, f"i{number}", type="m", item=document)
        assert db.chat.get_item("ann", thread, f"i{number}").item == document


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (lambda c: c.save_thread("o", "t", title="x" * 4097), "title"),
        (lambda c: c.save_thread("o", "t", title="a\0"), "title"),
        (lambda c: c.save_thread("o", "t", title=5), "title"),
        (lambda c: c.save_thread("o", "t", status=math.nan), "status"),
        (lambda c: c.save_thread("o", "t", metadata={"a": (1,)}), "metadata.a"),
        (lambda c: c.save_thread("o", "t", details={"a": "\ud800"}), "details.a"),
        (lambda c: c.save_thread("o", "t", created_at=NOON.replace(tzinfo=None)), "created_at"),
        (lambda c: c.save_thread("o", "t", created_at="now"), "created_at"),
        (lambda c: c.list_threads("o", order="ASC; drop"), "order"),
        (lambda c: c.list_threads("o", order=None), "order"),
        (lambda c: c.list_threads("o", limit=0), "limit"),
        (lambda c: c.list_threads("o", limit=501), "limit"),
        (lambda c: c.list_threads("o", metadata=[1]), "metadata"),
        (lambda c: c.list_items("o", "t", order="ascending"), "order"),
        (lambda c: c.list_items("o", "t", limit=True), "limit"),
        (lambda c: c.list_items("o", "t", limit=10**9), "limit"),
        (lambda c: c.add_item("o", "t", "i", type="m", item="1", body="a\0"), "body"),
        (lambda c: c.add_item("o", "t", "i", type="m", item="1", body="\ud800"), "body"),
        (lambda c: c.add_item("o", "t", "i", type="m", item="1", body="x" * (2**24 + 1)), "body"),
        (lambda c: c.add_item("o", "t", "i", type="m", item="1", body=None), "body"),
        (lambda c: c.save_item("o", "t", "i", type="m", item="1", created_at=NOON.replace(tzinfo=None)), "created_at"),
        (lambda c: c.save_attachment("o", "a", type="t", name="a\0", mime_type="m"), "name"),
        (lambda c: c.save_attachment("o", "a", type="t", name="n", mime_type="m", details={1: 2}), "details"),
        (lambda c: c.save_attachment("o", "a", type="t", name="n", mime_type="m", storage_path=5), "storage_path"),
        (lambda c: c.update_attachment("o", "a", details={"n": math.nan}, storage_path="x"), "details.n"),
        (lambda c: c.update_attachment("o", "a", details={}, storage_path=None), "storage_path"),
        (lambda c: c.list_stored_attachments(limit=501), "limit"),
        (lambda c: c.search("o", None), "text"),
        (lambda c: c.search("o", "a\0"), "text"),
        (lambda c: c.search("o", "\ud800"), "text"),
        (lambda c: c.search("o", " ".join(map(str, range(65)))), "text"),
        (lambda c: c.search("o", "a", limit=0), "limit"),
        (lambda c: c.search("o", "", limit=0), "limit"),
        (lambda c: c.search("o", "a", after="x"), "after"),
        (lambda c: c.prune(NOON, limit=0), "limit"),
        (lambda c: c.prune(NOON, limit=1001), "limit"),
        (lambda c: c.prune(NOON.replace(tzinfo=None)), "before"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_sent(
    db: Dal[Sync], call: Callable[[chat.Chat[Sync]], object], path: str
) -> None:
    before = db.calls
    with pytest.raises(Invalid) as refused:
        call(db.chat)
    assert (refused.value.path, db.calls) == (path, before)

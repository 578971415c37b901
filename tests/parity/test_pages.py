"""Pages: every list gives every item once, in its order, and takes no cursor but its own; the same in every cell."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest

from dal import Dal, Invalid, Page, Sync
from tests.cells import Clock, MakeDb
from tests.parity.make import NOON, a_checkpoint, a_run, a_token, a_version, a_workflow, all_pages, an_execution


class Listed(NamedTuple):
    """A list: page(after=, limit=) reads it, add() makes one more item and gives what identifies it, key(item) too."""

    page: Callable[..., Page[Any]]
    add: Callable[[], object]
    key: Callable[[Any], object]
    newest_first: bool = True


def _id(item: Any) -> object:
    return item.id


def _execution(item: Any) -> object:
    return item.execution_id


def _number(item: Any) -> object:
    return item.number


def workflows(db: Dal[Sync]) -> Listed:
    return Listed(db.workflows.list, lambda: a_workflow(db).id, _id)


def workflows_and_archived_ones(db: Dal[Sync]) -> Listed:
    def add() -> object:
        return db.workflows.archive(a_workflow(db).id, actor="ann").id

    return Listed(lambda **given: db.workflows.list(include_archived=True, **given), add, _id)


def workflows_by_tag(db: Dal[Sync]) -> Listed:
    a_workflow(db, tags=["other"])
    add = lambda: a_workflow(db, tags=["other", "wanted"]).id  # noqa: E731
    return Listed(lambda **given: db.workflows.list(tag="wanted", **given), add, _id)


def workflows_and_archived_ones_by_tag(db: Dal[Sync]) -> Listed:
    def add() -> object:
        return db.workflows.archive(a_workflow(db, tags=["wanted"]).id, actor="ann").id

    return Listed(lambda **given: db.workflows.list(tag="wanted", include_archived=True, **given), add, _id)


def versions(db: Dal[Sync]) -> Listed:
    a_version(db)
    workflow = a_workflow(db)
    add = lambda: a_version(db, workflow).number  # noqa: E731
    return Listed(lambda **given: db.versions.list(workflow.id, **given), add, _number)


def runs(db: Dal[Sync]) -> Listed:
    a_run(db)
    version = a_version(db)
    return Listed(lambda **given: db.runs.list(version.workflow_id, **given), lambda: a_run(db, version).id, _id)


def runs_by_status(db: Dal[Sync]) -> Listed:
    version = a_version(db)
    a_run(db, version)

    def add() -> object:
        return db.runs.start(a_run(db, version).id, actor="ann").id

    return Listed(lambda **given: db.runs.list(version.workflow_id, status="running", **given), add, _id)


def workflow_events(db: Dal[Sync]) -> Listed:
    a_version(db)
    workflow = db.workflows.create("Invoices", actor="ann")

    def add() -> object:
        return db.workflows.update(workflow.id, actor="ann", name="Invoices").revision

    def page(**given: Any) -> Page[Any]:
        return db.workflows.events(workflow.id, **given)

    return Listed(page, add, _number, newest_first=False)


def executions(db: Dal[Sync]) -> Listed:
    an_execution(db, "another")
    return Listed(partial(db.history.list, "invoices"), lambda: an_execution(db).execution_id, _execution)


def executions_by_status(db: Dal[Sync]) -> Listed:
    an_execution(db)
    add = lambda: db.history.complete(an_execution(db).execution_id).execution_id  # noqa: E731
    return Listed(partial(db.history.list, "invoices", status="completed"), add, _execution)


def executions_found(db: Dal[Sync]) -> Listed:
    an_execution(db, metadata={"a": [{"b": 1}, {"c": 2}]})
    add = lambda: an_execution(db, metadata={"a": [{"b": 1, "c": 2}]}).execution_id  # noqa: E731
    return Listed(partial(db.history.find, "invoices", metadata={"a": [{"b": 1, "c": 2}]}), add, _execution)


def steps(db: Dal[Sync]) -> Listed:
    id = an_execution(db).execution_id
    page = partial(db.history.steps, id)
    return Listed(page, lambda: db.history.append_step(id, {}).idx, lambda step: step.idx, newest_first=False)


def checkpoints(db: Dal[Sync]) -> Listed:
    a_checkpoint(db, "another")
    return Listed(partial(db.checkpoints.list, "tuning"), lambda: a_checkpoint(db).id, _id)


def checkpoints_found(db: Dal[Sync]) -> Listed:
    a_checkpoint(db, metadata={"a": [{"b": 1}, {"c": 2}]}, metrics={"m": 1})
    wanted: dict[str, Any] = {"metadata": {"a": [{"b": 1, "c": 2}]}, "metrics": {"m": 1}}
    return Listed(partial(db.checkpoints.find, "tuning", **wanted), lambda: a_checkpoint(db, **wanted).id, _id)


def workflows_searched(db: Dal[Sync]) -> Listed:
    a_workflow(db, "Other")
    return Listed(partial(db.workflows.search, "invo"), lambda: a_workflow(db).id, _id)


def workflows_and_archived_ones_searched(db: Dal[Sync]) -> Listed:
    def add() -> object:
        return db.workflows.archive(a_workflow(db, "Other", description="invoice").id, actor="ann").id

    return Listed(partial(db.workflows.search, "invo", include_archived=True), add, _id)


NEXT = itertools.count()


def a_thread(db: Dal[Sync], owner: str = "ann", **given: Any) -> str:
    return db.chat.save_thread(owner, f"t{next(NEXT)}", **given).id


def an_item(db: Dal[Sync], thread: str, body: str = "", owner: str = "ann") -> str:
    return db.chat.add_item(owner, thread, f"i{next(NEXT)}", type="message", item="1", body=body).id


def threads(db: Dal[Sync]) -> Listed:
    a_thread(db, "another")
    return Listed(partial(db.chat.list_threads, "ann"), lambda: a_thread(db), _id)


def threads_of_a_workflow_oldest_first(db: Dal[Sync]) -> Listed:
    a_thread(db)
    page = partial(db.chat.list_threads, "ann", workflow_id="w", order="asc")
    return Listed(page, lambda: a_thread(db, workflow_id="w"), _id, newest_first=False)


def threads_found(db: Dal[Sync]) -> Listed:
    a_thread(db, metadata={"a": [{"b": 1}, {"c": 2}]})
    add = lambda: a_thread(db, metadata={"a": [{"b": 1, "c": 2}]})  # noqa: E731
    return Listed(partial(db.chat.list_threads, "ann", metadata={"a": [{"b": 1, "c": 2}]}), add, _id)


def items(db: Dal[Sync]) -> Listed:
    thread, other = a_thread(db), a_thread(db)
    an_item(db, other)
    return Listed(partial(db.chat.list_items, "ann", thread), lambda: an_item(db, thread), _id, newest_first=False)


def items_newest_first(db: Dal[Sync]) -> Listed:
    thread = a_thread(db)
    return Listed(partial(db.chat.list_items, "ann", thread, order="desc"), lambda: an_item(db, thread), _id)


def titles_searched(db: Dal[Sync]) -> Listed:
    a_thread(db, "another", title="Needle")
    page = partial(db.chat.search, "ann", "need")
    return Listed(page, lambda: a_thread(db, title="A needle"), lambda hit: hit.thread_id)


def items_searched(db: Dal[Sync]) -> Listed:
    thread = a_thread(db)
    an_item(db, a_thread(db, "another"), "Needle", "another")
    page = partial(db.chat.search, "ann", "need")
    return Listed(page, lambda: an_item(db, thread, "A needle"), lambda hit: hit.item_id)


LISTS = [
    workflows, workflows_and_archived_ones, workflows_by_tag, workflows_and_archived_ones_by_tag, versions, runs,
    runs_by_status, workflow_events, executions, executions_by_status, executions_found, steps,
    checkpoints, checkpoints_found,
    workflows_searched, workflows_and_archived_ones_searched, threads, threads_of_a_workflow_oldest_first,
    threads_found, items, items_newest_first, titles_searched, items_searched,
]  # fmt: skip
each_list = pytest.mark.parametrize("listed", LISTS, ids=lambda function: function.__name__)


@each_list
def test_pages_of_7_give_every_item_once_though_all_times_are_equal(
    db: Dal[Sync], clock: Clock, listed: Callable[[Dal[Sync]], Listed]
) -> None:
    clock.set(NOON)
    list_ = listed(db)
    before = [list_.key(item) for item in list_.page(limit=500).items]
    made = [*before, *(list_.add() for _ in range(100 - len(before)))]
    expected = made[::-1] if list_.newest_first else made
    for limit in (7, 50, 99, 100, 500):
        found = [list_.key(item) for item in all_pages(list_.page, limit)]
        assert found == expected, f"limit {limit}: {len(found)} of 100 items, {len(set(found))} distinct"


@each_list
def test_what_is_made_while_paging_neither_repeats_nor_hides_an_item(
    db: Dal[Sync], listed: Callable[[Dal[Sync]], Listed]
) -> None:
    list_ = listed(db)
    before = [list_.key(item) for item in list_.page(limit=500).items]
    old = [*before, *(list_.add() for _ in range(20 - len(before)))]
    new: list[object] = []

    def add_up_to_5() -> None:
        if len(new) < 5:
            new.append(list_.add())

    found = [list_.key(item) for item in all_pages(list_.page, 3, add_up_to_5)]
    assert found == (old[::-1] if list_.newest_first else old + new)


def test_a_thousand_runs_of_one_instant_come_in_pages_of_7_each_once(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    version = a_version(db)
    with db.transaction() as tx:
        made = [a_run(tx, version).id for _ in range(1000)]  # type: ignore[arg-type]  # has the stores of a Dal
    found = [run.id for run in all_pages(lambda **given: db.runs.list(version.workflow_id, **given), 7)]
    assert found == made[::-1], f"{len(found)} items, {len(set(found))} distinct"


def test_the_trail_of_a_run_comes_in_pages_and_grows_at_its_end(db: Dal[Sync]) -> None:
    run = a_run(db)
    first = db.runs.events(run.id, limit=1)
    assert ([event.action for event in first.items], first.next) == (["created"], None)
    db.runs.start(run.id, actor="ann")
    first = db.runs.events(run.id, limit=1)
    db.runs.succeed(run.id, actor="ann")
    second = db.runs.events(run.id, limit=1, after=first.next)
    third = db.runs.events(run.id, limit=1, after=second.next)
    shown = [event.action for page in (first, second, third) for event in page.items]
    assert (shown, third.next) == (["created", "started", "succeeded"], None)


def test_a_page_holds_50_items_unless_told_otherwise(db: Dal[Sync]) -> None:
    for _ in range(51):
        a_workflow(db)
    first = db.workflows.list()
    assert (len(first.items), first.next is None) == (50, False)
    second = db.workflows.list(after=first.next)
    assert (len(second.items), second.next) == (1, None)


def test_a_cursor_is_good_for_any_face_and_any_limit(db: Dal[Sync], make_db: MakeDb) -> None:
    ids = [a_workflow(db).id for _ in range(6)][::-1]
    cursor = db.workflows.list(limit=2).next
    assert isinstance(cursor, str)
    for other in (make_db(face="sync"), make_db(face="async")):
        assert [item.id for item in other.workflows.list(after=cursor, limit=3).items] == ids[2:5]


# --- what is refused --------------------------------------------------------------------------------------------------


def every_list(db: Dal[Sync]) -> dict[str, Callable[..., Page[Any]]]:
    """Every list, by every filter that changes it, of two items at least each."""
    pages: dict[str, Callable[..., Page[Any]]] = {
        "workflows": db.workflows.list,
        "workflows, archived too": lambda **given: db.workflows.list(include_archived=True, **given),
        "workflows by tag a": lambda **given: db.workflows.list(tag="a", **given),
        "workflows by tag b": lambda **given: db.workflows.list(tag="b", **given),
        "workflows by tag a, archived too": lambda **given: db.workflows.list(tag="a", include_archived=True, **given),
    }
    for name in ("one", "two"):
        workflow = a_workflow(db, tags=["a", "b"]).id
        for _ in range(2):
            db.versions.create(workflow, {}, actor="ann")
            run = db.runs.start(db.runs.create(workflow, actor="ann").id, actor="ann").id
            db.runs.create(workflow, actor="ann")
        pages |= {
            f"versions of {name}": lambda w=workflow, **given: db.versions.list(w, **given),
            f"runs of {name}": lambda w=workflow, **given: db.runs.list(w, **given),
            f"running runs of {name}": lambda w=workflow, **given: db.runs.list(w, status="running", **given),
            f"pending runs of {name}": lambda w=workflow, **given: db.runs.list(w, status="pending", **given),
            f"events of {name}": lambda w=workflow, **given: db.workflows.events(w, **given),
            f"events of a run of {name}": lambda r=run, **given: db.runs.events(r, **given),
        }
        execution = an_execution(db, name, metadata={"a": 1, "b": 2}).execution_id
        db.history.complete(execution)
        db.history.complete(an_execution(db, name, metadata={"a": 1, "b": 2}).execution_id)
        running = [an_execution(db, name).execution_id for _ in range(2)]
        db.history.append_steps(running[0], [1, 2])
        pages |= {
            f"executions of {name}": partial(db.history.list, name),
            f"running executions of {name}": partial(db.history.list, name, status="running"),
            f"completed executions of {name}": partial(db.history.list, name, status="completed"),
            f"executions of {name} with a": partial(db.history.find, name, metadata={"a": 1}),
            f"executions of {name} with b": partial(db.history.find, name, metadata={"b": 2}),
            f"steps of {name}": partial(db.history.steps, running[0]),
        }
        for _ in range(2):
            a_checkpoint(db, name, metadata={"a": 1}, metrics={"a": 1})
        pages |= {
            f"checkpoints of {name}": partial(db.checkpoints.list, name),
            f"checkpoints of {name} with a": partial(db.checkpoints.find, name, metadata={"a": 1}),
            f"checkpoints of {name} that measured a": partial(db.checkpoints.find, name, metrics={"a": 1}),
        }
        token = db.tokens.rotate(a_token(db).record.key_id, actor="ann").record.key_id
        db.tokens.rotate(token, actor="ann")
        for reasons in (("scope", "unknown"), ("workspace", "malformed")):
            for key_id, reason in zip((token, ""), reasons, strict=True):
                db._desk.usage.refused(key_id, reason, NOON, None, None)  # type: ignore[arg-type]  # one of them
        pages |= {
            f"audit of token {name}": partial(db.tokens.audit, token),
            f"refusals of token {name}": partial(db.tokens.refusals, token),
        }
        for n in range(2):
            thread = db.chat.save_thread(name, f"{name}-{n}", title="a b").id
            db.chat.add_item(name, thread, thread, type="message", item="1", body="a b")
        pages |= {
            f"what {name} finds with a": partial(db.chat.search, name, "a"),
            f"what {name} finds with b": partial(db.chat.search, name, "b"),
        }
    db.tokens.flush_usage()
    pages |= {
        "tokens": db.tokens.list,
        "all tokens": partial(db.tokens.list, active=False),
        "refusals": db.tokens.refusals,
        "refusals of what is no token": partial(db.tokens.refusals, ""),
        "workflows with a": partial(db.workflows.search, "a"),
        "workflows with b": partial(db.workflows.search, "b"),
        "workflows with a, archived too": partial(db.workflows.search, "a", include_archived=True),
    }
    return pages


def test_a_cursor_is_refused_by_every_other_list_and_filter(db: Dal[Sync]) -> None:
    pages = every_list(db)
    cursors = {name: page(limit=1).next for name, page in pages.items()}
    assert len(set(cursors.values()) - {None}) == len(pages) == 50
    for name, page in pages.items():
        for origin, cursor in cursors.items():
            if origin == name:
                assert len(page(limit=1, after=cursor).items) == 1, name
                continue
            with pytest.raises(Invalid) as refused:
                print(f"{name} took the cursor of {origin}: {page(limit=1, after=cursor)}")  # seen only if it did
            assert refused.value.path == "after"


def test_a_damaged_cursor_is_refused(db: Dal[Sync]) -> None:
    pages = every_list(db)
    for name in (
        "workflows",
        "versions of one",
        "events of one",
        "events of a run of two",
        "executions of one",
        "steps of two",
        "checkpoints of one",
        "checkpoints of one with a",
        "tokens",
        "audit of token one",
        "refusals",
        "refusals of token two",
        "what one finds with a",
    ):
        cursor = pages[name](limit=1).next or ""
        flipped = [cursor[:at] + ("B" if letter == "A" else "A") + cursor[at + 1 :] for at, letter in enumerate(cursor)]
        damaged: list[Any] = [
            *flipped, cursor[:-1], cursor[1:], cursor + "A", cursor + "=", f" {cursor}", cursor + "\n",
            cursor.swapcase(), "", "x", "ü", "\0", "0" * 10_000, cursor.encode(), 1, True, [cursor],
        ]  # fmt: skip
        for after in damaged:
            with pytest.raises(Invalid) as refused:
                print(f"{name} took {after!r}: {pages[name](after=after)}")  # seen only if it did
            assert refused.value.path == "after"


@pytest.mark.parametrize("limit", [0, -1, 501, 10**9, 2**70, True, "5", 5.0, None])
def test_a_limit_is_1_to_500(db: Dal[Sync], limit: Any) -> None:
    for name, page in every_list(db).items():
        with pytest.raises(Invalid) as refused:
            print(f"{name} took limit={limit!r}: {page(limit=limit)}")  # seen only if it did
        assert refused.value.path == "limit"
        assert len(page(limit=500).items) >= 2

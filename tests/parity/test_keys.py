"""Idempotency keys: what is done under one is done once, however often and by whomever it is asked; in every cell."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from dal import (
    Dal,
    DalError,
    IdempotencyConflict,
    Invalid,
    InvalidState,
    Key,
    KeyNotFound,
    SchemaError,
    Sync,
    TransactionAborted,
    Tx,
    WorkflowNotFound,
)
from dal.digests import content_hash
from tests.cells import PATIENCE, Cell, Clock, MakeDb, together
from tests.parity.make import NOON
from tests.parity.processes import create_once, in_processes


class Stop(BaseException):
    """What no handler of Exception sees, as KeyboardInterrupt."""


class Work:
    """What is done under a key: creates a workflow, counts that it did, and answers its id; or what it is told to."""

    def __init__(self, answer: Any = ..., error: BaseException | None = None, name: str = "made") -> None:
        self.ran = 0
        self._answer, self._error, self._name = answer, error, name

    def __call__(self, tx: Tx[Sync]) -> Any:
        self.ran += 1
        id = str(tx.workflows.create(self._name, actor="ann").id)
        if self._error is not None:
            raise self._error
        return id if self._answer is ... else self._answer


def names(db: Dal[Sync]) -> list[str]:
    """Of all workflows, oldest first."""
    return [workflow.name for workflow in db.workflows.list(limit=500).items][::-1]


def typed(value: object) -> object:
    """A document in a form that is equal only if types are equal too."""
    if isinstance(value, list):
        return [typed(inner) for inner in value]
    if isinstance(value, dict):
        return {key: typed(inner) for key, inner in value.items()}
    return type(value).__name__, repr(value)


# --- once -------------------------------------------------------------------------------------------------------------


def test_a_key_given_again_answers_the_first_answer_and_runs_nothing(db: Dal[Sync], make_db: MakeDb) -> None:
    work = Work()
    first = db.transact(work, key="order 1")
    assert [str(workflow.id) for workflow in db.workflows.list().items] == [first]
    for other in (db, make_db(face="sync"), make_db(face="async")):
        assert other.transact(work, key="order 1") == first
        assert other.transact(Work(name="something else"), key="order 1") == first
    assert (work.ran, names(db)) == (1, ["made"])


def test_another_key_is_another_piece_of_work(db: Dal[Sync]) -> None:
    keys = ["k", "K", "k ", " k", "é", "e\u0301", "%", "_", "'; drop table idempotency_keys; --", "x" * 512, "é" * 256]
    works = [Work(answer=number) for number in range(len(keys))]
    for _ in range(2):
        assert [db.transact(work, key=key) for work, key in zip(works, keys, strict=True)] == list(range(len(keys)))
    assert {work.ran for work in works} == {1}


def test_without_a_key_everything_runs_each_time_and_no_key_is_stored(db: Dal[Sync], clock: Clock) -> None:
    work = Work(answer=("not", {"json"}))
    assert [db.transact(work), db.transact(work)] == [("not", {"json"})] * 2
    assert work.ran == 2
    assert db.keys.prune(clock() + timedelta(days=1)) == 0


@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError(), Stop(), WorkflowNotFound("mine")],
    ids=lambda error: type(error).__name__,
)
def test_work_that_raises_leaves_nothing_and_the_key_free(db: Dal[Sync], error: BaseException) -> None:
    failing = Work(error=error)
    for _ in range(2):
        with pytest.raises(type(error)) as raised:
            db.transact(failing, key="k", request={"n": 1})
        assert raised.value is error
    assert (failing.ran, names(db)) == (2, [])
    with pytest.raises(KeyNotFound):
        db.keys.get("k")
    assert db.transact(Work(answer="done"), key="k", request={"n": 2}) == "done"


def test_work_that_hides_a_failed_statement_leaves_nothing_and_the_key_free(db: Dal[Sync]) -> None:
    def hide(tx: Tx[Sync]) -> str:
        run = tx.workflows.create("lost", actor="ann").id
        tx.connection.execute("drop table run_events")
        with pytest.raises(SchemaError):
            tx.runs.events(run)
        return "done"

    with pytest.raises(TransactionAborted):
        db.transact(hide, key="k")
    assert names(db) == []
    assert db.transact(Work(answer="done"), key="k") == "done"


# --- the request ------------------------------------------------------------------------------------------------------

REQUESTS: list[Any] = [None, {}, [], 0, 0.0, False, "", {"n": 1}, {"n": 1.0}, {"n": [1]}]


def test_the_same_key_with_another_request_is_refused_and_changes_nothing(db: Dal[Sync]) -> None:
    for at, first in enumerate(REQUESTS):
        key, work = f"k{at}", Work(answer=at)
        assert db.transact(work, key=key, request=first) == at
        stored = db.keys.get(key)
        for other in REQUESTS[:at] + REQUESTS[at + 1 :]:
            with pytest.raises(IdempotencyConflict) as refused:
                db.transact(work, key=key, request=other)
            assert refused.value.constraint == "idempotency_keys_pkey"
        assert db.transact(work, key=key, request=first) == at
        assert (work.ran, db.keys.get(key)) == (1, stored)
    assert len(names(db)) == len(REQUESTS)


def test_a_request_is_the_same_whatever_the_order_of_its_keys(db: Dal[Sync]) -> None:
    work = Work()
    first = db.transact(work, key="k", request={"a": 1, "b": {"c": [1, 2], "d": None}})
    assert db.transact(work, key="k", request={"b": {"d": None, "c": [1, 2]}, "a": 1}) == first
    assert work.ran == 1


# --- the answer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, 1, -1, 2**63 - 1, -(2**63), 2**53 + 1, 0.0, 1.0, 0.1, 1e15, 1e16, 1.5e300, 5e-324, "",
        "null", "\\u0000", "𝄞 \u202e", [], {}, [[]], [None, True, 1, 1.0, "1"], {"": {"a": [1, {"b": 2.0}]}, "é": None},
        [[[[1e22]]]], {"id": "0190c8a0-0000-7000-8000-000000000000", "n": 3},
    ],
    ids=repr,
)  # fmt: skip
def test_an_answer_comes_back_equal_in_value_and_type(db: Dal[Sync], value: Any) -> None:
    work = Work(answer=value)
    answers = [db.transact(work, key="k") for _ in range(3)]
    assert [typed(answer) for answer in answers] == [typed(value)] * 3
    assert typed(db.keys.get("k").result) == typed(value)


def test_the_first_answer_is_already_what_repeats_will_answer(db: Dal[Sync]) -> None:
    given: Any = {"n": -0.0, "list": [1]}
    first = db.transact(lambda tx: given, key="k")
    assert typed(first) == typed({"n": 0.0, "list": [1]}) == typed(db.transact(Work(), key="k"))
    first["list"].append(2)
    assert given["list"] == [1], "the answer is none of the callback's own objects"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ((1, 2), "result"), ({"a": (1,)}, "result.a"), ({1: 2}, "result"), (math.nan, "result"),
        ([0, math.inf], "result[1]"), (2**63, "result"), ({"a": ["\0"]}, "result.a[0]"),
        ("\ud800", "result"), ({"id": UUID(int=1)}, "result.id"), (NOON, "result"), (b"1", "result"),
        (object, "result"),
    ],
    ids=repr,
)  # fmt: skip
def test_an_answer_that_is_not_json_is_refused_and_the_work_undone(db: Dal[Sync], value: Any, path: str) -> None:
    with pytest.raises(Invalid) as refused:
        db.transact(Work(answer=value), key="k")
    assert refused.value.path == path
    assert names(db) == []
    with pytest.raises(KeyNotFound):
        db.keys.get("k")
    assert db.transact(Work(answer="done"), key="k") == "done"


def test_a_model_is_no_answer_but_its_id_is(db: Dal[Sync]) -> None:
    with pytest.raises(Invalid, match="Workflow"):
        db.transact(lambda tx: tx.workflows.create("lost", actor="ann"), key="k")
    id = db.transact(lambda tx: str(tx.workflows.create("kept", actor="ann").id), key="k")
    assert (db.workflows.get(UUID(id)).name, names(db)) == ("kept", ["kept"])


# --- what is refused before anything is sent --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"key": ""}, "key"), ({"key": "x" * 513}, "key"), ({"key": "é" * 257}, "key"), ({"key": "a\0"}, "key"),
        ({"key": "\udfff"}, "key"), ({"key": 5}, "key"), ({"key": b"k"}, "key"), ({"key": True}, "key"),
        ({"request": {}}, "key"), ({"key": None, "request": 0}, "key"), ({"key": "k", "request": (1,)}, "request"),
        ({"key": "k", "request": {"a": [math.nan]}}, "request.a[0]"),
        ({"key": "k", "request": {"a": "\0"}}, "request.a"), ({"key": "k", "isolation": "chaos"}, "isolation"),
    ],
    ids=repr,
)  # fmt: skip
def test_bad_arguments_are_refused_and_nothing_is_sent(db: Dal[Sync], arguments: dict[str, Any], path: str) -> None:
    before, work = db.calls, Work()
    with pytest.raises(Invalid) as refused:
        db.transact(work, **arguments)
    assert (refused.value.path, work.ran, db.calls) == (path, 0, before)


def test_inside_a_transaction_a_key_is_refused_as_any_call_of_the_database_is(db: Dal[Sync]) -> None:
    work = Work()
    with db.transaction() as tx, pytest.raises(InvalidState, match="call tx"):
        print(tx.workflows.list(), db.transact(work, key="k"))  # seen only if it was not refused
    assert (work.ran, names(db)) == (0, [])


# --- races ------------------------------------------------------------------------------------------------------------


def test_of_64_at_once_with_one_key_one_does_it_and_all_get_its_answer(db: Dal[Sync], make_db: MakeDb) -> None:
    dbs = [db, make_db(face="sync"), make_db(face="async")]
    for number in range(3):
        work = Work()
        answers = together([partial(dbs[at % 3].transact, work, key=f"k{number}") for at in range(64)])
        assert len(set(map(repr, answers))) == 1, f"round {number}: {set(map(repr, answers))}"
        assert (work.ran, db.keys.get(f"k{number}").result) == (1, answers[0]), f"round {number}"
    assert names(db) == ["made"] * 3


def test_64_at_once_in_4_processes_get_one_answer(db: Dal[Sync], cell: Cell, url: str) -> None:
    answers = in_processes(url, cell.face, create_once, "k", 16)
    assert answers == [str(workflow.id) for workflow in db.workflows.list().items] * 64


def test_while_the_first_ones_fail_the_next_one_does_it(db: Dal[Sync]) -> None:
    turns = iter(range(16))
    lock = threading.Lock()

    def work(tx: Tx[Sync]) -> int:
        with lock:
            turn = next(turns)
        tx.workflows.create(f"turn {turn}", actor="ann")
        if turn < 3:
            raise WorkflowNotFound("mine")
        return turn

    answers = together([partial(db.transact, work, key="k")] * 16)
    failed = [answer for answer in answers if isinstance(answer, DalError)]
    assert [type(answer) for answer in failed] == [WorkflowNotFound] * 3
    assert [answer for answer in answers if not isinstance(answer, DalError)] == [3] * 13
    assert names(db) == ["turn 3"]


def test_32_at_once_with_one_key_and_two_requests_agree_on_one(db: Dal[Sync]) -> None:
    work = Work()
    answers = together([partial(db.transact, work, key="k", request={"n": at % 2}) for at in range(32)])
    assert sorted(type(answer).__name__ for answer in answers) == ["IdempotencyConflict"] * 16 + ["str"] * 16
    assert (work.ran, names(db)) == (1, ["made"])


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_every_isolation_does_it_once(db: Dal[Sync], isolation: Any) -> None:
    work = Work()
    answers = together([partial(db.transact, work, key="k", isolation=isolation)] * 16)
    answers.append(db.transact(work, key="k", isolation=isolation))
    assert answers == [db.keys.get("k").result] * 17
    assert names(db) == ["made"]


@pytest.mark.parametrize("commit", [True, False], ids=["committed", "undone"])
def test_whoever_comes_while_it_is_being_done_waits_for_the_outcome(db: Dal[Sync], commit: bool) -> None:
    at_work, go_on = threading.Event(), threading.Event()

    def slow(tx: Tx[Sync]) -> str:
        tx.workflows.create("slow", actor="ann")
        at_work.set()
        assert go_on.wait(PATIENCE)
        if not commit:
            raise WorkflowNotFound("mine")
        return "slow"

    answers: list[Any] = []
    first = threading.Thread(target=lambda: answers.extend(together([partial(db.transact, slow, key="k")])))
    first.start()
    assert at_work.wait(PATIENCE)
    with pytest.raises(KeyNotFound):  # it is nobody's business yet
        db.keys.get("k")
    second = threading.Thread(
        target=lambda: answers.extend(together([partial(db.transact, Work(answer="quick", name="quick"), key="k")]))
    )
    second.start()
    second.join(0.15)
    assert (second.is_alive(), answers) == (True, []), "it did not wait"
    go_on.set()
    first.join(PATIENCE)
    second.join(PATIENCE)
    if commit:
        assert (answers, names(db)) == (["slow", "slow"], ["slow"])
    else:
        assert (sorted(map(repr, answers))[0], names(db)) == ("'quick'", ["quick"])


# --- what is stored, and forgetting it --------------------------------------------------------------------------------


def test_a_key_says_what_was_answered_when_and_to_which_request(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    db.transact(Work(answer={"n": 1}), key="plain")
    clock.advance(seconds=1)
    db.transact(Work(answer=[2]), key="asked", request={"b": 1, "a": 2})
    assert db.keys.get("plain") == Key("plain", None, {"n": 1}, NOON)
    asked = db.keys.get("asked")
    assert (asked.result, asked.created_at) == ([2], NOON + timedelta(seconds=1))
    assert asked.request_hash == content_hash(b'{"a":2,"b":1}')


@pytest.mark.parametrize("key", ["none", "PLAIN", "plain ", "%"])
def test_a_key_that_nobody_used_is_not_found(db: Dal[Sync], key: str) -> None:
    db.transact(Work(), key="plain")
    with pytest.raises(KeyNotFound, match=f"{key}$"):
        db.keys.get(key)


def test_pruning_forgets_the_oldest_keys_in_batches_and_their_work_can_be_done_again(
    db: Dal[Sync], clock: Clock
) -> None:
    def left() -> list[int]:
        return [at for at in range(10) if at in stored(f"k{at}")]

    def stored(key: str) -> list[Any]:
        try:
            return [db.keys.get(key).result]
        except KeyNotFound:
            return []

    for at in (5, 1, 3, 0, 2, 4):
        clock.set(NOON + timedelta(seconds=at))
        db.transact(Work(answer=at), key=f"k{at}")
    for at in (7, 6):  # at the same moment: the first by name goes first
        clock.set(NOON + timedelta(seconds=6))
        db.transact(Work(answer=at), key=f"k{at}")
    clock.advance(seconds=-3600)  # it is the clock of the claim that counts, not that of the pruning
    assert db.keys.prune(NOON) == 0
    assert (db.keys.prune(NOON + timedelta(seconds=5), limit=2), left()) == (2, [2, 3, 4, 5, 6, 7])
    assert (db.keys.prune(NOON + timedelta(seconds=5), limit=9), left()) == (3, [5, 6, 7])
    assert (db.keys.prune(NOON + timedelta(days=1), limit=2), left()) == (2, [7])
    assert (db.keys.prune(NOON + timedelta(days=1)), left()) == (1, [])
    again = Work(answer="again")
    assert (db.transact(again, key="k3", request="another"), again.ran) == ("again", 1)


def test_pruning_in_a_transaction_that_is_undone_forgets_nothing(db: Dal[Sync]) -> None:
    db.transact(Work(answer="kept"), key="k")
    with pytest.raises(ZeroDivisionError), db.transaction() as tx:  # noqa: PT012 - the block is what is tested
        assert tx.keys.prune(NOON.replace(year=9999)) == 1
        raise ZeroDivisionError
    assert db.keys.get("k").result == "kept"


def test_work_that_prunes_its_own_key_is_undone(db: Dal[Sync]) -> None:
    def prune(tx: Tx[Sync]) -> int:
        tx.workflows.create("lost", actor="ann")
        return tx.keys.prune(NOON.replace(year=9999))

    with pytest.raises(KeyNotFound):
        db.transact(prune, key="k")
    assert names(db) == []


def test_8_that_prune_at_once_forget_each_key_once(db: Dal[Sync]) -> None:
    for at in range(40):
        db.transact(Work(answer=at), key=f"k{at}")
    prune: Callable[[], int] = partial(db.keys.prune, NOON.replace(year=9999), limit=4)
    pruned = together([prune] * 8)
    assert all(isinstance(count, int) and count <= 4 for count in pruned), pruned
    left = sum(at_once for at_once in iter(prune, 0))
    assert sum(count for count in pruned if isinstance(count, int)) + left == 40


@pytest.mark.parametrize("limit", [0, -1, 10_001, 2**63, True, "5", None])
def test_another_number_of_keys_to_prune_is_refused(db: Dal[Sync], limit: Any) -> None:
    with pytest.raises(Invalid) as refused:
        db.keys.prune(NOON, limit=limit)
    assert refused.value.path == "limit"
    assert [db.keys.prune(NOON, limit=limit) for limit in (1, 10_000)] == [0, 0]


@pytest.mark.parametrize("before", [NOON.replace(tzinfo=None), "2026-01-01", None, 0])
def test_a_time_without_zone_to_prune_before_is_refused(db: Dal[Sync], before: Any) -> None:
    with pytest.raises(Invalid) as refused:
        db.keys.prune(before)
    assert refused.value.path == "before"


@pytest.mark.parametrize("key", ["", "x" * 513, "a\0", 5])
def test_a_key_that_cannot_be_is_refused(db: Dal[Sync], key: Any) -> None:
    with pytest.raises(Invalid) as refused:
        db.keys.get(key)
    assert refused.value.path == "key"

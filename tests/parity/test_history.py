"""Run history: executions, their steps in order, and what is found by its metadata; in every cell."""

from __future__ import annotations

import hashlib
import itertools
import math
import tracemalloc
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from dal import (
    AlreadyExists,
    Dal,
    DalError,
    Execution,
    ExecutionNotFound,
    Invalid,
    InvalidTransition,
    Step,
    Sync,
)
from dal.stores import history
from tests.cells import Cell, Clock, MakeDb, together
from tests.parity.make import NOON, all_pages, an_execution
from tests.parity.processes import append_step, append_to_a_fresh_one, in_processes


def ids(executions: Any) -> list[str]:
    return [execution.execution_id for execution in executions]


def kinds(answers: Any) -> Counter[str]:
    return Counter(type(answer).__name__ for answer in answers)


def places(steps: Any) -> list[int]:
    return [step.idx for step in steps]


def found(db: Dal[Sync], workflow_id: str = "invoices", **metadata: Any) -> list[str]:
    return ids(db.history.find(workflow_id, metadata=metadata).items)


# --- one execution ----------------------------------------------------------------------------------------------------


def test_an_execution_comes_back_as_it_was_given(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    given: dict[str, Any] = {
        "inputs": {"n": [1, 1.5, None]},
        "runnable_config": {"model": "small"},
        "tags": ["Nightly ", "b", "nightly"],
        "callbacks": [{"url": "x"}],
        "metadata": {"customer": "é", "size": {"x": 1}},
        "run_name": "one",
        "trace_id": "00-ab",
    }
    started = db.history.start("run-1", "invoices", **given)
    expected = Execution(
        execution_id="run-1",
        workflow_id="invoices",
        **{**given, "tags": ("nightly", "b")},
        status="running",
        started_at=NOON,
        completed_at=None,
        error=None,
        trace_started_at=None,
        trace_completed_at=None,
        trace_last_span_at=None,
        step_count=0,
    )
    assert started == expected == db.history.get("run-1")


def test_what_is_not_given_is_empty(db: Dal[Sync]) -> None:
    made = an_execution(db)
    assert (made.inputs, made.runnable_config, made.tags, made.callbacks, made.metadata) == ({}, None, (), [], {})
    assert (made.run_name, made.trace_id) == (None, None)


def test_an_id_is_given_once(db: Dal[Sync]) -> None:
    first = an_execution(db, metadata={"a": 1}, execution_id="x")
    db.history.append_step("x", {})
    with pytest.raises(AlreadyExists) as refused:
        an_execution(db, "another", metadata={"a": 2}, execution_id="x")
    assert refused.value.constraint == "executions_pkey"
    assert db.history.get("x") == Execution(
        **{
            **{name: getattr(first, name) for name in first.__struct_fields__},
            "step_count": 1,
            "trace_started_at": db.history.get("x").trace_started_at,
            "trace_last_span_at": db.history.get("x").trace_last_span_at,
        }
    )
    assert (found(db, a=1), found(db, a=2), found(db, "another", a=2)) == (["x"], [], [])


def test_of_64_that_start_one_execution_one_does(db: Dal[Sync]) -> None:
    answers = together([lambda: an_execution(db, execution_id="wanted")] * 64)
    assert kinds(answers) == {"Execution": 1, "AlreadyExists": 63}


ODD_IDS = [
    "a",
    "A",
    "a ",
    " a",
    "%",
    "_",
    "é",
    "e\u0301",
    "'; drop table executions; --",
    "../x",
    "日" * 128,
    "\U0010fffd",
]


def test_ids_are_compared_byte_by_byte(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    for number, id in enumerate(ODD_IDS):
        db.history.start(id, id, metadata={"n": number})
        db.history.append_step(id, number)
    for number, id in enumerate(ODD_IDS):
        assert db.history.get(id).metadata == {"n": number}
        assert [step.payload for step in db.history.steps(id).items] == [number]
        assert ids(db.history.list(id).items) == [id] == found(db, id, n=number)
    for id in ODD_IDS:
        db.history.start(f"{id}!"[-128:], "together")
    expected = sorted((f"{id}!"[-128:] for id in ODD_IDS), key=str.encode, reverse=True)
    assert ids(all_pages(partial(db.history.list, "together"), 5)) == expected


# --- steps ------------------------------------------------------------------------------------------------------------


def test_steps_are_numbered_from_zero_without_gaps(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    id = an_execution(db).execution_id
    assert [db.history.append_step(id, {"n": n}).idx for n in range(3)] == [0, 1, 2]
    clock.advance(seconds=1)
    more = db.history.append_steps(id, ["three", None, [5]])
    assert list(more) == [Step(id, idx, clock(), payload) for idx, payload in ((3, "three"), (4, None), (5, [5]))]
    assert places(db.history.append_steps(id, ("six",))) == [6]
    assert db.history.append_step(id, 7) == Step(id, 7, clock(), 7)
    assert places(db.history.steps(id).items) == list(range(8))
    assert [step.payload for step in db.history.steps(id).items] == [
        {"n": 0}, {"n": 1}, {"n": 2}, "three", None, [5], "six", 7,
    ]  # fmt: skip
    assert db.history.get(id).step_count == 8


PAYLOADS: list[Any] = [
    0.1 + 0.2, 5e-324, 1e16, 2**53 + 1, -(2**63), -0.0, 1.0, 1, True, None, "", "{}", '"', "\\u0000", "\U0010ffff",
    [], {}, {"": [None]}, {"b": 1, "a": [1, 1.0, 1e300]}, "x" * 100_000,
]  # fmt: skip


def typed(value: Any) -> str:
    """Equal only if types are too, whatever the order of keys; -0.0 as it is kept."""
    if isinstance(value, dict):
        return repr(sorted((key, typed(inner)) for key, inner in value.items()))
    if isinstance(value, list):
        return repr([typed(inner) for inner in value])
    return repr(value + 0.0) if isinstance(value, float) else repr(value)


def test_payloads_come_back_equal_in_value_and_type_together_and_alone(db: Dal[Sync]) -> None:
    id = an_execution(db).execution_id
    together_ = db.history.append_steps(id, PAYLOADS)
    alone = [db.history.append_step(id, payload) for payload in PAYLOADS]
    expected = [typed(payload) for payload in PAYLOADS]
    for answer in (together_, alone, db.history.steps(id, limit=len(PAYLOADS)).items, list(db.history.stream(id))[20:]):
        assert [typed(step.payload) for step in answer] == expected


def test_the_first_steps_begin_the_trace_and_later_ones_move_its_last_span(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    id = an_execution(db).execution_id

    def trace() -> list[float | None]:
        execution = db.history.get(id)
        times = (execution.trace_started_at, execution.trace_last_span_at, execution.trace_completed_at)
        return [None if time is None else (time - NOON).total_seconds() for time in times]

    assert trace() == [None, None, None]
    clock.advance(seconds=1)
    db.history.append_step(id, 1)
    assert trace() == [1, 1, None]
    clock.advance(seconds=4)
    db.history.append_steps(id, [2, 3])
    assert trace() == [1, 5, None]
    clock.advance(seconds=-3600)
    step = db.history.append_step(id, 4)
    assert step.at == clock(), "a step keeps the time at which it was appended"
    assert trace() == [1, 5, None], "but a clock that goes back does not set back the trace"
    clock.advance(seconds=3602)
    db.history.complete(id)
    assert trace() == [1, 5, 7]


def test_an_execution_without_steps_ends_without_a_trace(db: Dal[Sync]) -> None:
    ended = db.history.complete(an_execution(db, trace_id="00-ab").execution_id)
    assert (ended.trace_id, ended.trace_started_at, ended.trace_completed_at) == ("00-ab", None, None)


@pytest.mark.parametrize("end", ["complete", "fail", "cancel"])
def test_an_execution_that_has_ended_takes_no_steps(db: Dal[Sync], end: str) -> None:
    id = an_execution(db).execution_id
    db.history.append_step(id, 1)
    ended = getattr(db.history, end)(id, *["why"] * (end == "fail"))
    for append in (partial(db.history.append_step, id, 2), partial(db.history.append_steps, id, [2, 3])):
        with pytest.raises(InvalidTransition, match=f"execution {id} is {ended.status}, and takes no") as refused:
            append()
        assert refused.value.found == ended.status
    assert (db.history.get(id), places(db.history.steps(id).items)) == (ended, [0])


def test_steps_of_nothing_are_refused_and_none_are_listed(db: Dal[Sync]) -> None:
    for call in (
        lambda: db.history.append_step("none", 1), lambda: db.history.append_steps("none", [1]),
        lambda: db.history.complete("none"), lambda: db.history.fail("none", "why"),
        lambda: db.history.cancel("none"), lambda: db.history.get("none"),
    ):  # fmt: skip
        with pytest.raises(ExecutionNotFound, match=r"none$"):
            call()
    assert list(db.history.steps("none").items) == [] == list(db.history.stream("none"))


def test_steps_come_in_pages_and_grow_at_their_end(db: Dal[Sync]) -> None:
    id = an_execution(db).execution_id
    db.history.append_steps(id, list(range(10)))
    first = db.history.steps(id, limit=6)
    assert (places(first.items), places(db.history.steps(id, after=first.next).items)) == ([*range(6)], [6, 7, 8, 9])
    db.history.append_step(id, 10)
    assert places(db.history.steps(id, after=first.next).items) == [6, 7, 8, 9, 10]
    assert places(all_pages(partial(db.history.steps, id), 3)) == list(range(11))


# --- races ------------------------------------------------------------------------------------------------------------


def test_80_at_once_in_4_processes_append_steps_0_to_79(db: Dal[Sync], cell: Cell, url: str) -> None:
    id = an_execution(db).execution_id
    answers = in_processes(url, cell.face, append_step, id, 20)
    assert sorted(answers, key=str) == sorted(range(80), key=str)
    assert places(db.history.steps(id, limit=500).items) == list(range(80))
    assert db.history.get(id).step_count == 80


def test_80_at_once_in_4_processes_append_to_80_fresh_executions(db: Dal[Sync], cell: Cell, url: str) -> None:
    assert in_processes(url, cell.face, append_to_a_fresh_one, "fresh", 20) == [0] * 80
    made = db.history.list("fresh", limit=500).items
    assert [execution.step_count for execution in made] == [1] * 80


def test_100_that_append_a_few_at_once_leave_each_few_together(db: Dal[Sync], make_db: MakeDb) -> None:
    id = an_execution(db).execution_id
    dbs = [db, make_db(face="sync"), make_db(face="async")]
    answers = together([partial(dbs[n % 3].history.append_steps, id, [n] * (1 + n % 4)) for n in range(100)])
    assert not [answer for answer in answers if isinstance(answer, DalError)]
    steps = all_pages(partial(db.history.steps, id), 500)
    assert places(steps) == list(range(250))
    groups = [(payload, len(list(group))) for payload, group in itertools.groupby(step.payload for step in steps)]
    assert sorted(groups) == [(n, 1 + n % 4) for n in range(100)]


def test_an_end_comes_before_or_after_each_step_that_races_it(db: Dal[Sync]) -> None:
    for number in range(20):
        id = an_execution(db).execution_id
        jobs: list[Callable[[], Any]] = [partial(db.history.append_step, id, n) for n in range(8)]
        jobs.insert(4, partial(db.history.complete, id))
        answers = together(jobs)
        kept = [answer.idx for answer in answers if isinstance(answer, Step)]
        refused = [answer.found for answer in answers if isinstance(answer, InvalidTransition)]
        assert (sorted(kept), refused) == (list(range(len(kept))), ["completed"] * (8 - len(kept))), f"round {number}"
        assert places(db.history.steps(id).items) == list(range(len(kept))), f"round {number}"
        assert db.history.get(id).step_count == len(kept), f"round {number}"


# --- its end ----------------------------------------------------------------------------------------------------------

ENDS: dict[str, tuple[str, tuple[Any, ...], str | None]] = {
    "complete": ("completed", (), None),
    "fail": ("error", ("no answer",), "no answer"),
    "cancel": ("cancelled", ("not needed",), "not needed"),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_running_execution_ends_once(db: Dal[Sync], clock: Clock, end: str) -> None:
    clock.set(NOON)
    id = an_execution(db).execution_id
    clock.advance(seconds=5)
    status, given, error = ENDS[end]
    ended = getattr(db.history, end)(id, *given)
    assert (ended.status, ended.error, ended.completed_at) == (status, error, clock())
    assert ended == db.history.get(id)
    for again, (wanted, given, _) in ENDS.items():
        with pytest.raises(InvalidTransition, match=f"is {status}, not to become {wanted}$") as refused:
            getattr(db.history, again)(id, *given)
        assert refused.value.found == status
    assert ended == db.history.get(id)


def test_a_cancel_needs_no_reason(db: Dal[Sync]) -> None:
    assert db.history.cancel(an_execution(db).execution_id).error is None


def test_an_execution_ends_in_one_way_however_many_ends_it_is_given(db: Dal[Sync]) -> None:
    for number in range(20):
        id = an_execution(db).execution_id
        ends: list[Callable[[], Any]] = [
            partial(db.history.complete, id), partial(db.history.fail, id, "why"), partial(db.history.cancel, id),
        ]  # fmt: skip
        answers = together(ends * 2)
        assert kinds(answers) == {"Execution": 1, "InvalidTransition": 5}, f"round {number}: {answers}"
        status = db.history.get(id).status
        assert {a.found for a in answers if isinstance(a, InvalidTransition)} == {status}, f"round {number}"


def test_what_is_undone_leaves_nothing(db: Dal[Sync]) -> None:
    id = an_execution(db, metadata={"a": 1}).execution_id
    before = db.history.get(id)
    with pytest.raises(ZeroDivisionError), db.transaction() as tx:  # noqa: PT012 - the block is what is tested
        tx.history.start("other", "invoices", metadata={"a": 1})
        tx.history.append_steps(id, [1, 2])
        assert places(tx.history.stream(id)) == [0, 1]
        tx.history.complete(id)
        raise ZeroDivisionError
    assert (db.history.get(id), list(db.history.steps(id).items), found(db, a=1)) == (before, [], [id])


# --- lists ------------------------------------------------------------------------------------------------------------


def test_a_list_holds_the_executions_of_its_workflow_and_status(db: Dal[Sync]) -> None:
    made = {end: an_execution(db).execution_id for end in ENDS}
    for end, id in made.items():
        getattr(db.history, end)(id, *ENDS[end][1])
    running = an_execution(db).execution_id
    an_execution(db, "another")
    assert ids(db.history.list("invoices").items) == [running, *list(made.values())[::-1]]
    for end, id in made.items():
        assert ids(db.history.list("invoices", status=ENDS[end][0]).items) == [id]  # type: ignore[arg-type]  # a status
    assert ids(db.history.list("invoices", status="running").items) == [running]
    assert list(db.history.list("Invoices").items) == []


def test_an_execution_moves_from_one_status_list_to_another(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    made = [an_execution(db).execution_id for _ in range(5)]
    clock.advance(seconds=1)
    db.history.complete(made[2])
    assert ids(db.history.list("invoices", status="completed").items) == [made[2]]
    assert ids(db.history.list("invoices", status="running").items) == [made[4], made[3], made[1], made[0]]


# --- finding ----------------------------------------------------------------------------------------------------------


def test_executions_are_found_by_what_their_metadata_contain_newest_first(db: Dal[Sync]) -> None:
    made = [
        an_execution(
            db, metadata={"env": env, "order": n, "labels": ["all", f"l{n % 3}"], "size": {"x": n % 2, "y": 0}}
        )
        for n, env in enumerate(["test", "prod"] * 5)
    ]
    an_execution(db, "another", metadata={"env": "prod", "order": 1})
    names = ids(made)

    def expected(*numbers: int) -> list[str]:
        return [names[number] for number in numbers]

    assert found(db) == names[::-1]
    assert found(db, env="prod") == expected(9, 7, 5, 3, 1)
    assert found(db, env="prod", order=7) == expected(7)
    assert found(db, order=7.0) == expected(7)
    assert found(db, labels=["l1"]) == expected(7, 4, 1)
    assert found(db, labels=["l1", "all"], env="prod") == expected(7, 1)
    assert found(db, size={"x": 1}) == expected(9, 7, 5, 3, 1)
    assert found(db, size={}) == names[::-1]
    assert found(db, size={"x": 2}) == found(db, env="staging") == found(db, size=[]) == found(db, env=None) == []
    assert found(db, "another", env="prod") != []
    assert found(db, "a third", env="prod") == []


def test_what_is_found_comes_in_pages(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    made = [an_execution(db, metadata={"n": n % 2, "labels": [{"a": n % 3, "b": 1}]}).execution_id for n in range(30)]
    for metadata, expected in (({"n": 1}, made[1::2]), ({"labels": [{"a": 0, "b": 1}]}, made[::3]), ({}, made)):
        for limit in (1, 4, 500):
            assert ids(all_pages(partial(db.history.find, "invoices", metadata=metadata), limit)) == expected[::-1]
    cursor = db.history.find("invoices", metadata={"n": 1}, limit=1).next
    for other in ({"n": 0}, {}, {"n": 1, "m": 1}):
        with pytest.raises(Invalid, match="no cursor of this list"):
            db.history.find("invoices", metadata=other, after=cursor)


def test_the_rarest_value_is_found_among_common_ones_however_they_lie(db: Dal[Sync]) -> None:
    with db.transaction() as tx:
        for n in range(400):
            tx.history.start(f"x{n:04}", "w", metadata={"old": n < 200, "tenth": n % 10, "one": n if n == 77 else -1})
    assert found(db, "w", old=True, one=77) == ["x0077"] == found(db, "w", old=True, tenth=7, one=77)
    assert found(db, "w", old=True, tenth=7) == [f"x{n:04}" for n in range(197, 0, -10)]
    assert found(db, "w", old=False, one=77) == []


def test_a_value_that_an_array_has_twice_is_one(db: Dal[Sync]) -> None:
    id = an_execution(db, metadata={"a": [1, 1.0, 1, {"b": 2}, {"b": 2}]}).execution_id
    assert found(db, a=[1]) == found(db, a=[{"b": 2}, 1, 1]) == [id]


# --- streaming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 499, 500, 501, 1200])
def test_a_stream_gives_every_step_once_in_order(db: Dal[Sync], count: int) -> None:
    id = an_execution(db).execution_id
    for first in range(0, count, 1000):
        db.history.append_steps(id, list(range(first, min(count, first + 1000))))
    steps = list(db.history.stream(id))
    assert [(step.idx, step.payload) for step in steps] == [(n, n) for n in range(count)]
    assert all(type(step) is Step for step in steps)


def test_a_stream_holds_no_more_than_about_a_mebibyte_of_payloads(db: Dal[Sync]) -> None:
    id = an_execution(db).execution_id
    noise = "".join(hashlib.sha256(b"%d" % number).hexdigest() for number in range(8000))  # 512 KB, hardly compressible
    for number in range(8):
        db.history.append_step(id, {"n": number, "text": f"{number}{noise}"})
    before = db.calls.get("list_steps_sized", 0)
    stream = db.history.stream(id)
    taken = [next(stream).idx for _ in range(2)]
    assert (taken, db.calls["list_steps_sized"] - before <= 2) == ([0, 1], True)
    assert places(stream) == list(range(2, 8))
    portions = db.calls["list_steps_sized"] - before
    assert portions == 3, f"8 steps of 512 KB came in {portions} portions, and not in 3, 3 and 2"


def test_a_stream_of_20_mib_takes_less_than_4_of_memory(db: Dal[Sync]) -> None:
    id = an_execution(db).execution_id
    for first in range(0, 20_000, 1000):
        db.history.append_steps(id, [{"n": first + n, "text": "x" * 1000} for n in range(1000)])
    stream = db.history.stream(id)
    next(stream)
    tracemalloc.start()
    try:
        count = 1 + sum(1 for _ in stream)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert count == 20_000
    assert peak < 4, f"{peak:.1f} MiB at once"


def test_a_stream_sees_what_is_appended_meanwhile_and_may_be_left(db: Dal[Sync]) -> None:
    id = an_execution(db).execution_id
    db.history.append_steps(id, list(range(600)))
    stream = db.history.stream(id)
    assert places(itertools.islice(stream, 500)) == list(range(500))
    db.history.append_step(id, 600)
    assert next(stream).idx == 500
    left = db.history.stream(id)
    assert next(left).idx == 0
    del left
    assert places(stream) == list(range(501, 601))
    assert next(stream, None) is None, "an iterator that is over stays over"


def test_a_stream_goes_on_behind_a_cursor_of_the_steps(db: Dal[Sync]) -> None:
    id = an_execution(db).execution_id
    db.history.append_steps(id, list(range(700)))
    cursor = db.history.steps(id, limit=100).next
    assert places(db.history.stream(id, after=cursor)) == list(range(100, 700))
    assert places(db.history.stream(execution_id=id, after=cursor)) == list(range(100, 700))
    other = an_execution(db).execution_id
    with pytest.raises(Invalid, match="no cursor of this list"):
        list(db.history.stream(other, after=cursor))


# --- pruning ----------------------------------------------------------------------------------------------------------


def test_pruning_forgets_what_ended_first_with_its_steps_and_terms(db: Dal[Sync], clock: Clock) -> None:
    made = []
    for n in range(6):
        clock.set(NOON + timedelta(minutes=n))
        made.append(an_execution(db, metadata={"n": n, "labels": [{"a": n}]}).execution_id)
        db.history.append_steps(made[-1], [1, 2, 3])
    for n in (4, 0, 2, 5):  # 1 and 3 go on
        clock.advance(minutes=1)
        db.history.complete(made[n])
    end = db.history.get(made[5]).completed_at
    assert end is not None

    def left() -> list[int]:
        return [n for n in range(6) if made[n] in ids(db.history.list("invoices").items)]

    assert db.history.prune(NOON) == 0
    assert (db.history.prune(end, limit=2), left()) == (2, [1, 2, 3, 5])
    assert (db.history.prune(end), left()) == (1, [1, 3, 5])
    for n in (0, 2, 4):
        assert (found(db, n=n), list(db.history.steps(made[n]).items)) == ([], [])
        with pytest.raises(ExecutionNotFound):
            db.history.get(made[n])
    assert (db.history.prune(end + timedelta(days=1), limit=1), left()) == (1, [1, 3])
    assert (db.history.prune(NOON.replace(year=9999)), left()) == (0, [1, 3])
    clock.set(NOON)
    db.history.start(made[0], "invoices", metadata={"n": "again"})
    assert (found(db, n=0), found(db, n="again"), found(db, labels=[{"a": 3}])) == ([], [made[0]], [made[3]])
    assert list(db.history.steps(made[0]).items) == []


def test_8_that_prune_at_once_forget_each_execution_once(db: Dal[Sync]) -> None:
    for _ in range(40):
        db.history.complete(an_execution(db, metadata={"a": [1, "x"]}).execution_id)
    prune: Callable[[], int] = partial(db.history.prune, NOON.replace(year=9999), limit=4)
    pruned = together([prune] * 8)
    assert all(isinstance(count, int) and count <= 4 for count in pruned), pruned
    rest = sum(iter(prune, 0))
    assert sum(count for count in pruned if isinstance(count, int)) + rest == 40
    assert found(db, a=[1]) == []


# --- what is refused before anything is sent --------------------------------------------------------------------------


def every_call(db: Dal[Sync]) -> dict[str, tuple[str, Callable[[Any], Any]]]:
    """A call for each place of an argument, with the path that Invalid names."""
    h = db.history
    return {
        "start, execution": ("execution_id", lambda v: h.start(v, "w")),
        "start, workflow": ("workflow_id", lambda v: h.start("e", v)),
        "get": ("execution_id", h.get),
        "list": ("workflow_id", h.list),
        "find": ("workflow_id", lambda v: h.find(v, metadata={})),
        "complete": ("execution_id", h.complete),
        "fail": ("execution_id", lambda v: h.fail(v, "why")),
        "cancel": ("execution_id", h.cancel),
        "append one": ("execution_id", lambda v: h.append_step(v, 1)),
        "append": ("execution_id", lambda v: h.append_steps(v, [1])),
        "steps": ("execution_id", h.steps),
        "stream": ("execution_id", lambda v: list(h.stream(v))),
    }


@pytest.mark.parametrize("value", ["", "x" * 129, "a\0", "\ud800", 5, None, b"e", True], ids=repr)
def test_an_id_that_cannot_be_is_refused(db: Dal[Sync], value: Any) -> None:
    before = db.calls
    for name, (path, call) in every_call(db).items():
        with pytest.raises(Invalid) as refused:
            call(value)
        assert refused.value.path == path, name
    assert db.calls == before


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (lambda h: h.start("e", "w", inputs=math.nan), "inputs"),
        (lambda h: h.start("e", "w", metadata={"a": (1,)}), "metadata.a"),
        (lambda h: h.start("e", "w", tags="ab"), "tags"),
        (lambda h: h.start("e", "w", run_name=5), "run_name"),
        (lambda h: h.start("e", "w", trace_id="a\0"), "trace_id"),
        (lambda h: h.append_step("e", {"a": [math.inf]}), "payload.a[0]"),
        (lambda h: h.append_steps("e", []), "payloads"),
        (lambda h: h.append_steps("e", [1] * 1001), "payloads"),
        (lambda h: h.append_steps("e", {"a": 1}), "payloads"),
        (lambda h: h.append_steps("e", iter([1])), "payloads"),
        (lambda h: h.append_steps("e", [1, {"a": "\0"}]), "payloads[1].a"),
        (lambda h: h.append_steps("e", ["x" * 9_000_000, "x" * 9_000_000]), "payloads"),
        (lambda h: h.fail("e", None), "error"),
        (lambda h: h.cancel("e", 5), "reason"),
        (lambda h: h.list("w", status="failed"), "status"),
        (lambda h: h.list("w", limit=501), "limit"),
        (lambda h: h.find("w", metadata=[1]), "metadata"),
        (lambda h: h.find("w", metadata={"a": {1}}), "metadata.a"),
        (lambda h: h.find("w", metadata={}, after="x"), "after"),
        (lambda h: h.steps("e", limit=0), "limit"),
        (lambda h: list(h.stream("e", after="x")), "after"),
        (lambda h: h.prune(NOON, limit=0), "limit"),
        (lambda h: h.prune(NOON, limit=1001), "limit"),
        (lambda h: h.prune(NOON, limit=True), "limit"),
        (lambda h: h.prune(NOON.replace(tzinfo=None)), "before"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_sent(
    db: Dal[Sync], call: Callable[[history.History[Sync]], object], path: str
) -> None:
    before = db.calls
    with pytest.raises(Invalid) as refused:
        call(db.history)
    assert (refused.value.path, db.calls) == (path, before)

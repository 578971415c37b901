"""Optimizer checkpoints: their numbers, the best one, and what is found by metadata and metrics; in every cell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from dal import AlreadyExists, Checkpoint, CheckpointNotFound, Dal, DalError, Invalid, Sync, Tx, VersionTaken
from dal.stores.checkpoints import MAX_METRICS, MAX_VERSION, Checkpoints
from tests.cells import Cell, Clock, MakeDb, together
from tests.parity.make import NOON, a_checkpoint, all_pages
from tests.parity.processes import in_processes, mark_best, record_checkpoint


def versions(checkpoints: Any) -> list[int]:
    return [checkpoint.config_version for checkpoint in checkpoints]


def kinds(answers: Any) -> Counter[str]:
    return Counter(type(answer).__name__ for answer in answers)


def found(db: Dal[Sync], workflow_id: str = "tuning", **wanted: Any) -> list[int]:
    return versions(db.checkpoints.find(workflow_id, **wanted).items)


def every(db: Dal[Sync], workflow_id: str = "tuning") -> list[Checkpoint]:
    return all_pages(partial(db.checkpoints.list, workflow_id), 500)


def bests(db: Dal[Sync], workflow_id: str = "tuning") -> list[int]:
    """The versions of those that say that they are the best, as a list tells and ``get`` does."""
    told = versions(each for each in every(db, workflow_id) if each.is_best)
    assert told == versions(each for each in every(db, workflow_id) if db.checkpoints.get(each.id).is_best)
    return told


# --- one checkpoint ---------------------------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_as_it_was_given(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    given: dict[str, Any] = {
        "id": "c-1",
        "runnable_config": {"model": "small", "temperature": 0.5, "tools": [None]},
        "metrics": {"accuracy": 0.75, "tokens": 12, "by_class": {"a": 1.0}, "note": "é"},
        "metadata": {"search": "grid", "labels": [{"name": "eu"}]},
        "artifact_url": "s3://bucket/c-1",
    }
    recorded = db.checkpoints.record("tuning", **given)
    expected = Checkpoint(**given, workflow_id="tuning", config_version=1, is_best=False, created_at=NOON)
    assert recorded == expected == db.checkpoints.get("c-1") == db.checkpoints.latest("tuning")
    assert list(db.checkpoints.list("tuning").items) == [expected]


def test_what_is_not_given_is_empty_and_an_id_is_made(db: Dal[Sync]) -> None:
    made = db.checkpoints.record("tuning", runnable_config=None)
    assert (made.runnable_config, made.metrics, made.metadata, made.artifact_url) == (None, {}, {}, None)
    assert (UUID(made.id).version, made.is_best, made.config_version) == (7, False, 1)
    assert db.checkpoints.get(made.id) == made


def test_an_id_is_given_once_and_a_refusal_leaves_nothing(db: Dal[Sync]) -> None:
    first = a_checkpoint(db, id="x", metadata={"a": 1}, metrics={"m": 1})
    for workflow in ("tuning", "another"):
        for version in (None, 1, 7):
            with pytest.raises(AlreadyExists) as refused:
                a_checkpoint(
                    db, workflow, id="x", config_version=version, is_best=True, metadata={"a": 2}, metrics={"m": 2}
                )
            assert (type(refused.value), refused.value.constraint) == (AlreadyExists, "checkpoints_pkey")
    assert (every(db), every(db, "another"), bests(db)) == ([first], [], [])
    assert (found(db, metadata={"a": 2}), found(db, metrics={"m": 2})) == ([], [])
    assert versions(db.checkpoints.top("tuning", "m")) == [1]
    assert (a_checkpoint(db).config_version, a_checkpoint(db, "another").config_version) == (2, 1)


ODD_IDS = ["a", "A", "a ", " a", "%", "_", "é", "e\u0301", "'; drop table checkpoints; --", "日" * 128, "\U0010fffd"]


def test_ids_workflows_and_metrics_are_compared_byte_by_byte(db: Dal[Sync]) -> None:
    for number, id in enumerate(ODD_IDS):
        db.checkpoints.record(id, id=id, runnable_config=number, metrics={id: number}, is_best=True)
    for number, id in enumerate(ODD_IDS):
        assert db.checkpoints.get(id).runnable_config == number
        for answer in (
            [db.checkpoints.latest(id)],
            [db.checkpoints.best(id)],
            db.checkpoints.list(id).items,
            db.checkpoints.top(id, id),
            db.checkpoints.find(id, metrics={id: number}).items,
        ):
            assert [checkpoint.id for checkpoint in answer] == [id]


def test_what_there_is_not_is_not_found(db: Dal[Sync]) -> None:
    a_checkpoint(db, "another")
    c = db.checkpoints
    for call in (
        partial(c.get, "none"), partial(c.latest, "none"), partial(c.best, "none"), partial(c.mark_best, "none"),
        partial(c.best, "another"),
    ):  # fmt: skip
        with pytest.raises(CheckpointNotFound):
            call()
    assert (every(db, "none"), found(db, "none", metadata={}), list(c.top("none", "m"))) == ([], [], [])


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_versions_are_numbered_from_1_for_each_workflow(db: Dal[Sync]) -> None:
    assert [a_checkpoint(db).config_version for _ in range(3)] == [1, 2, 3]
    assert [a_checkpoint(db, "another").config_version for _ in range(2)] == [1, 2]
    assert (versions(every(db)), db.checkpoints.latest("tuning").config_version) == ([3, 2, 1], 3)


def test_numbers_go_on_from_the_largest_that_was_given(db: Dal[Sync]) -> None:
    assert a_checkpoint(db, config_version=5).config_version == 5
    assert a_checkpoint(db).config_version == 6
    assert a_checkpoint(db, config_version=2).config_version == 2
    assert a_checkpoint(db).config_version == 7
    assert (versions(every(db)), db.checkpoints.latest("tuning").config_version) == ([7, 6, 5, 2], 7)
    a_checkpoint(db, "another", config_version=MAX_VERSION)
    assert a_checkpoint(db, "another").config_version == MAX_VERSION + 1


def test_a_version_is_given_once_for_each_workflow(db: Dal[Sync]) -> None:
    first = a_checkpoint(db)
    for _ in range(2):
        with pytest.raises(VersionTaken, match=r"version 1 of workflow tuning$") as refused:
            a_checkpoint(db, config_version=1, is_best=True, metadata={"a": 2}, metrics={"m": 2})
        assert refused.value.constraint == "checkpoints_version_key"
    assert (every(db), bests(db), found(db, metadata={"a": 2})) == ([first], [], [])
    assert (a_checkpoint(db, "another", config_version=1).config_version, a_checkpoint(db).config_version) == (1, 2)


# --- the best ---------------------------------------------------------------------------------------------------------


def test_the_best_is_the_one_last_said_to_be(db: Dal[Sync]) -> None:
    first, second = a_checkpoint(db, is_best=True), a_checkpoint(db)
    other = a_checkpoint(db, "another", is_best=True)
    assert (first.is_best, second.is_best, bests(db), db.checkpoints.best("tuning")) == (True, False, [1], first)
    third = a_checkpoint(db, is_best=True)
    assert (third.is_best, bests(db), db.checkpoints.best("tuning")) == (True, [3], third)
    for number in (2, 2, 1):
        marked = db.checkpoints.mark_best([first, second][number - 1].id)
        assert (marked.config_version, marked.is_best, bests(db)) == (number, True, [number])
        assert db.checkpoints.best("tuning") == marked == db.checkpoints.get(marked.id)
    a_checkpoint(db)
    assert (bests(db), db.checkpoints.best("another"), db.checkpoints.latest("tuning").is_best) == ([1], other, False)


def test_every_way_of_reading_tells_the_best_from_the_others(db: Dal[Sync]) -> None:
    for number in range(3):
        a_checkpoint(db, metrics={"m": number}, is_best=number == 2)
    c = db.checkpoints
    reads: list[Callable[[], Sequence[Checkpoint]]] = [
        lambda: c.list("tuning").items,
        lambda: c.find("tuning", metadata={}).items,
        lambda: c.top("tuning", "m"),
        lambda: c.top("tuning", "m", lowest_first=True),
    ]
    for read in reads:
        assert {each.config_version: each.is_best for each in read()} == {1: False, 2: False, 3: True}
    assert c.latest("tuning").is_best


# --- races ------------------------------------------------------------------------------------------------------------


def test_200_that_record_at_once_have_200_dense_versions_and_one_best(db: Dal[Sync], make_db: MakeDb) -> None:
    dbs = [db, make_db(face="sync"), make_db(face="async")]
    jobs = [partial(a_checkpoint, dbs[n % 3], is_best=n % 2 == 0, metrics={"n": n}) for n in range(200)]
    answers = together(jobs)
    assert kinds(answers) == {"Checkpoint": 200}
    made = [answer for answer in answers if isinstance(answer, Checkpoint)]
    assert sorted(versions(made)) == list(range(1, 201)) == versions(every(db))[::-1]
    # The one that came last of those that were to be the best.
    assert bests(db) == [max(each.config_version for each in made if each.is_best)]
    assert db.checkpoints.best("tuning").config_version == bests(db)[0]
    assert {each.metrics["n"] for each in made} == set(range(200))
    assert len(db.checkpoints.top("tuning", "n", limit=500)) == 200


def test_200_at_once_in_4_processes_have_200_dense_versions_and_one_best(db: Dal[Sync], cell: Cell, url: str) -> None:
    answers = in_processes(url, cell.face, record_checkpoint, "tuning", 50)
    assert sorted(answers, key=str) == sorted(range(1, 201), key=str)
    assert versions(every(db)) == list(range(200, 0, -1))
    assert bests(db) == [200], "each was recorded as the best, and the last one is"


def test_80_at_once_in_4_processes_leave_one_best(db: Dal[Sync], cell: Cell, url: str) -> None:
    for _ in range(10):
        a_checkpoint(db)
    answers = in_processes(url, cell.face, mark_best, "tuning", 20)
    assert kinds(answers) == {"int": 80}
    assert len(bests(db)) == 1
    assert bests(db)[0] in answers


def test_marking_and_recording_at_once_leave_one_best(db: Dal[Sync], make_db: MakeDb) -> None:
    dbs = [db, make_db(face="sync"), make_db(face="async")]
    made = [a_checkpoint(db) for _ in range(10)]
    jobs: list[Callable[[], Any]] = []
    for n in range(40):
        jobs.append(partial(dbs[n % 3].checkpoints.mark_best, made[n % 10].id))
        jobs.append(partial(a_checkpoint, dbs[n % 3], is_best=True))
    assert kinds(together(jobs)) == {"Checkpoint": 80}
    assert (versions(every(db)), len(bests(db))) == (list(range(50, 0, -1)), 1)


def test_who_has_recorded_in_a_transaction_compares_and_marks_alone(db: Dal[Sync]) -> None:
    a_checkpoint(db, metrics={"m": -1}, is_best=True)

    def keep_the_better(tx: Tx[Sync], value: int) -> int:
        trial = a_checkpoint(tx, metrics={"m": value})
        if value > tx.checkpoints.best("tuning").metrics["m"]:
            tx.checkpoints.mark_best(trial.id)
        return value

    values = [7 * n % 20 for n in range(20)]
    answers = together([partial(db.transact, partial(keep_the_better, value=value)) for value in values])
    assert answers == values
    assert db.checkpoints.best("tuning").metrics == {"m": 19}


def test_of_64_that_take_one_id_one_does(db: Dal[Sync]) -> None:
    answers = together([partial(a_checkpoint, db, f"w{n % 4}", id="wanted", is_best=True) for n in range(64)])
    assert kinds(answers) == {"Checkpoint": 1, "AlreadyExists": 63}
    assert {a.constraint for a in answers if isinstance(a, AlreadyExists)} == {"checkpoints_pkey"}
    winner = db.checkpoints.get("wanted")
    assert [len(every(db, f"w{n}")) for n in range(4)].count(1) == 1
    assert [bests(db, f"w{n}") for n in range(4)].count([1]) == 1
    assert [a_checkpoint(db, f"w{n}").config_version for n in range(4)] == [
        2 if winner.workflow_id == f"w{n}" else 1 for n in range(4)
    ]


def test_of_64_that_take_one_version_one_does_and_the_others_numbers_are_their_own(db: Dal[Sync]) -> None:
    jobs = [partial(a_checkpoint, db, config_version=20 if n % 2 else None) for n in range(64)]
    answers = together(jobs)
    numbered = kinds(answers[1::2])
    assert kinds(answers[::2]) == {"Checkpoint": 32}
    assert numbered in ({"Checkpoint": 1, "VersionTaken": 31}, {"VersionTaken": 32}), numbered
    numbers = versions(answer for answer in answers if isinstance(answer, Checkpoint))
    assert sorted(numbers) == versions(every(db))[::-1]
    assert len(set(numbers)) == len(numbers)
    assert a_checkpoint(db).config_version == max(numbers) + 1


def test_what_is_undone_leaves_nothing(db: Dal[Sync]) -> None:
    first = a_checkpoint(db, is_best=True)
    with pytest.raises(ZeroDivisionError), db.transaction() as tx:  # noqa: PT012 - the block is what is tested
        second = a_checkpoint(tx, metadata={"a": 1}, metrics={"m": 1}, is_best=True)
        assert (second.config_version, tx.checkpoints.best("tuning")) == (2, second)
        tx.checkpoints.mark_best(first.id)
        raise ZeroDivisionError
    assert (every(db), bests(db), found(db, metadata={"a": 1}), found(db, metrics={})) == ([first], [1], [], [1])
    assert list(db.checkpoints.top("tuning", "m")) == []
    assert a_checkpoint(db).config_version == 2


def test_a_transaction_goes_on_behind_a_refusal(db: Dal[Sync]) -> None:
    a_checkpoint(db, id="x")
    with db.transaction() as tx:
        with pytest.raises(AlreadyExists):
            a_checkpoint(tx, id="x")
        with pytest.raises(VersionTaken):
            a_checkpoint(tx, config_version=1)
        assert a_checkpoint(tx).config_version == 2
    assert versions(every(db)) == [2, 1]


# --- lists and finding ------------------------------------------------------------------------------------------------


def test_checkpoints_are_found_by_metadata_metrics_or_both_highest_version_first(db: Dal[Sync]) -> None:
    for n in range(10):
        a_checkpoint(
            db,
            metadata={"search": "grid" if n % 2 else "random", "labels": ["all", f"l{n % 3}"]},
            metrics={"epoch": n % 5, "accuracy": n / 8, "metadata": "grid"},
        )
    a_checkpoint(db, "another", metadata={"search": "grid"}, metrics={"epoch": 1})
    assert found(db, metadata={}) == found(db, metrics={}) == list(range(10, 0, -1))
    assert found(db, metadata={"search": "grid"}) == [10, 8, 6, 4, 2]
    assert found(db, metrics={"epoch": 1}) == [7, 2] == found(db, metrics={"epoch": 1.0})
    assert found(db, metadata={"search": "grid"}, metrics={"epoch": 1}) == [2]
    assert found(db, metadata={"labels": ["l1", "all"]}, metrics={"accuracy": 0.5}) == [5]
    assert found(db, metrics={"accuracy": 0.125}) == [2]
    assert found(db, metadata={"metadata": "grid"}) == found(db, metrics={"search": "grid"}) == []
    assert found(db, metadata={"epoch": 1}) == found(db, metadata={"metrics": {}}) == []
    assert found(db, "another", metadata={"search": "grid"}) == [1]


def test_what_is_found_comes_in_pages(db: Dal[Sync]) -> None:
    with db.transaction() as tx:
        for n in range(30):
            a_checkpoint(tx, metadata={"labels": [{"a": n % 3, "b": 1}]}, metrics={"n": n % 2})
    for wanted, expected in (
        ({"metrics": {"n": 1}}, range(2, 31, 2)),
        ({"metadata": {"labels": [{"a": 0, "b": 1}]}}, range(1, 31, 3)),
        ({"metadata": {"labels": [{"a": 0}]}, "metrics": {"n": 1}}, range(4, 31, 6)),
        ({"metadata": {}}, range(1, 31)),
    ):
        for limit in (1, 4, 500):
            pages = all_pages(partial(db.checkpoints.find, "tuning", **wanted), limit)
            assert versions(pages) == list(expected)[::-1]
    cursor = db.checkpoints.find("tuning", metrics={"n": 1}, limit=1).next
    others: list[dict[str, Any]] = [
        {"metrics": {"n": 0}}, {"metadata": {"n": 1}}, {"metadata": {}}, {"metrics": {"n": 1}, "metadata": {"a": 1}},
    ]  # fmt: skip
    for other in others:
        with pytest.raises(Invalid, match="no cursor of this list"):
            db.checkpoints.find("tuning", **other, after=cursor)
    assert len(db.checkpoints.find("tuning", metrics={"n": 1}, metadata={}, after=cursor).items) == 14


def test_a_page_goes_on_where_it_ended_though_more_are_recorded(db: Dal[Sync]) -> None:
    for _ in range(6):
        a_checkpoint(db)
    first = db.checkpoints.list("tuning", limit=2)
    a_checkpoint(db)
    assert (versions(first.items), versions(db.checkpoints.list("tuning", after=first.next).items)) == (
        [6, 5],
        [4, 3, 2, 1],
    )


# --- the top ----------------------------------------------------------------------------------------------------------


def test_the_top_are_those_with_the_highest_numbers(db: Dal[Sync]) -> None:
    values: list[Any] = [0.5, 2, "9", None, True, [9], {"m": 9}, 0.5, -1, 2.0]
    for value in values:
        a_checkpoint(db, metrics={"m": value, "other": 1})
    a_checkpoint(db, metrics={"other": 1})
    a_checkpoint(db, "another", metrics={"m": 100})
    assert versions(db.checkpoints.top("tuning", "m")) == [10, 2, 8, 1, 9]
    assert versions(db.checkpoints.top("tuning", "m", lowest_first=True)) == [9, 1, 8, 2, 10]
    assert versions(db.checkpoints.top("tuning", "m", limit=2)) == [10, 2]
    assert versions(db.checkpoints.top("tuning", "m", limit=2, lowest_first=True)) == [9, 1]
    assert list(db.checkpoints.top("tuning", "M")) == [] == list(db.checkpoints.top("tuning", "m.m"))


NUMBERS: list[float] = [
    -(2**63), -1e300, -1.5, -5e-324, 0, 5e-324, 1e-300, 0.1, 0.3, 0.1 + 0.2, 1, 1.0000000000000002, 10, 1e15, 1e16,
    2**63 - 1, 1e300, 1.7976931348623157e308,
]  # fmt: skip


def test_numbers_are_ordered_by_their_values_however_they_are_written(db: Dal[Sync]) -> None:
    shuffled = sorted(NUMBERS, key=lambda number: str(number)[::-1])
    for number in shuffled:
        a_checkpoint(db, metrics={"m": number})
    top = [checkpoint.metrics["m"] for checkpoint in db.checkpoints.top("tuning", "m")]
    assert top == sorted(NUMBERS, reverse=True)
    assert top[::-1] == [checkpoint.metrics["m"] for checkpoint in db.checkpoints.top("tuning", "m", lowest_first=True)]


# --- what is refused before anything is sent --------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "x" * 129, "a\0", "\ud800", 5, None, b"e", True], ids=repr)
def test_an_id_that_cannot_be_is_refused(db: Dal[Sync], value: Any) -> None:
    c = db.checkpoints
    calls: dict[str, tuple[str, Callable[[], object]]] = {
        "record, workflow": ("workflow_id", partial(c.record, value, runnable_config=1)),
        "get": ("id", partial(c.get, value)),
        "mark": ("id", partial(c.mark_best, value)),
        "latest": ("workflow_id", partial(c.latest, value)),
        "best": ("workflow_id", partial(c.best, value)),
        "list": ("workflow_id", partial(c.list, value)),
        "find": ("workflow_id", partial(c.find, value, metadata={})),
        "top": ("workflow_id", partial(c.top, value, "m")),
        "top, metric": ("metric", partial(c.top, "w", value)),
    }
    if value is not None:
        calls["record"] = ("id", partial(c.record, "w", id=value, runnable_config=1))
    before = db.calls
    for name, (path, call) in calls.items():
        with pytest.raises(Invalid) as refused:
            call()
        assert refused.value.path == path, name
    assert db.calls == before


class Metrics(dict[str, Any]):
    """A subclass."""


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (lambda c: c.record("w", runnable_config=math.nan), "runnable_config"),
        (lambda c: c.record("w", runnable_config=1, metrics={"m": math.inf}), "metrics.m"),
        (lambda c: c.record("w", runnable_config=1, metrics={1: 1}), "metrics"),
        (lambda c: c.record("w", runnable_config=1, metrics=[1]), "metrics"),
        (lambda c: c.record("w", runnable_config=1, metrics="m"), "metrics"),
        (lambda c: c.record("w", runnable_config=1, metrics=Metrics()), "metrics"),
        (lambda c: c.record("w", runnable_config=1, metrics={"": 1}), "metrics"),
        (lambda c: c.record("w", runnable_config=1, metrics={"m" * 129: 1}), "metrics"),
        (lambda c: c.record("w", runnable_config=1, metrics={f"{n}": n for n in range(MAX_METRICS + 1)}), "metrics"),
        (lambda c: c.record("w", runnable_config=1, metadata={"a": (1,)}), "metadata.a"),
        (lambda c: c.record("w", runnable_config=1, metadata=[]), "metadata"),
        (lambda c: c.record("w", runnable_config=1, artifact_url=b"s3://"), "artifact_url"),
        (lambda c: c.record("w", runnable_config=1, artifact_url="a\0"), "artifact_url"),
        (lambda c: c.record("w", runnable_config=1, is_best=1), "is_best"),
        (lambda c: c.record("w", runnable_config=1, is_best=None), "is_best"),
        (lambda c: c.record("w", runnable_config=1, config_version=0), "config_version"),
        (lambda c: c.record("w", runnable_config=1, config_version=MAX_VERSION + 1), "config_version"),
        (lambda c: c.record("w", runnable_config=1, config_version=2**63), "config_version"),
        (lambda c: c.record("w", runnable_config=1, config_version=True), "config_version"),
        (lambda c: c.record("w", runnable_config=1, config_version=1.0), "config_version"),
        (lambda c: c.record("w", runnable_config=1, config_version="1"), "config_version"),
        (lambda c: c.list("w", limit=501), "limit"),
        (lambda c: c.list("w", after="x"), "after"),
        (lambda c: c.find("w"), "metadata"),
        (lambda c: c.find("w", metadata=[1]), "metadata"),
        (lambda c: c.find("w", metrics=[1]), "metrics"),
        (lambda c: c.find("w", metadata={"a": {1}}), "metadata.a"),
        (lambda c: c.find("w", metrics={"a": [1] * 100}), "metrics"),
        (lambda c: c.find("w", metadata={}, after="x"), "after"),
        (lambda c: c.top("w", "m", limit=0), "limit"),
        (lambda c: c.top("w", "m", limit=True), "limit"),
        (lambda c: c.top("w", "m", lowest_first=None), "lowest_first"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_sent(
    db: Dal[Sync], call: Callable[[Checkpoints[Sync]], object], path: str
) -> None:
    before = db.calls
    with pytest.raises(Invalid) as refused:
        call(db.checkpoints)
    assert (refused.value.path, db.calls) == (path, before)


def test_1000_metrics_of_128_characters_are_taken(db: Dal[Sync]) -> None:
    names = [f"{n:04}" + "日" * 124 for n in range(MAX_METRICS)]
    made = a_checkpoint(db, "日" * 128, metrics=dict.fromkeys(names, 1))
    assert [db.checkpoints.top("日" * 128, name) for name in (names[0], names[-1])] == [[made], [made]]


def test_a_clock_without_zone_is_refused_and_nothing_is_kept(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON.replace(tzinfo=None))
    with pytest.raises(DalError):
        a_checkpoint(db)
    clock.set(NOON)
    assert (every(db), a_checkpoint(db).config_version) == ([], 1)

"""Races: of callers that want the same thing at the same time, the database lets the right ones win; in every cell."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, cast

import pytest

from dal import (
    AlreadyPublished,
    Dal,
    DalError,
    HandleTaken,
    IdempotencyConflict,
    InvalidTransition,
    RevisionConflict,
    Run,
    Sync,
    Version,
    Workflow,
    WorkflowArchived,
)
from tests.cells import PATIENCE, Cell, MakeDb, together
from tests.parity.make import a_run, a_version, a_workflow, all_pages, trail
from tests.parity.processes import create_version, in_processes

T = TypeVar("T")
Job = Callable[[], T]


def race(rounds: Sequence[Sequence[Job[T]]]) -> list[list[T | DalError]]:
    """Round by round, start the jobs of a round at the same moment, each in its own lasting thread."""
    lanes = list(zip(*rounds, strict=True))
    start = threading.Barrier(len(lanes))

    def run(jobs: Sequence[Job[T]]) -> list[T | DalError]:
        answers: list[T | DalError] = []
        for job in jobs:
            start.wait(PATIENCE)
            try:
                answers.append(job())
            except DalError as error:
                answers.append(error)
        return answers

    with ThreadPoolExecutor(len(lanes)) as threads:
        return [list(answers) for answers in zip(*threads.map(run, lanes), strict=True)]


def kinds(answers: Sequence[object]) -> Counter[str]:
    """How many answers there are of each type."""
    return Counter(type(answer).__name__ for answer in answers)


def numbers_of_events(db: Dal[Sync], workflow_id: Any) -> list[int]:
    return [event.number for event in all_pages(partial(db.workflows.events, workflow_id), 500)]


# --- dense numbers ----------------------------------------------------------------------------------------------------


def test_64_at_once_create_versions_1_to_64(db: Dal[Sync]) -> None:
    workflow = a_workflow(db)
    versions = together([lambda: a_version(db, workflow)] * 64)
    assert kinds(versions) == {"Version": 64}
    assert sorted(version.number for version in versions if isinstance(version, Version)) == list(range(1, 65))
    assert [version.number for version in db.versions.list(workflow.id, limit=500).items] == list(range(64, 0, -1))
    assert numbers_of_events(db, workflow.id) == list(range(1, 66))


def test_two_databases_on_both_faces_create_versions_without_a_gap(db: Dal[Sync], make_db: MakeDb) -> None:
    workflow = a_workflow(db)
    others = [make_db(face="sync"), make_db(face="async")]
    versions = together([partial(a_version, other, workflow) for other in others for _ in range(16)])
    assert sorted(v.number for v in versions if isinstance(v, Version)) == list(range(1, 33)), kinds(versions)


def test_4_processes_create_versions_1_to_64(db: Dal[Sync], cell: Cell, url: str) -> None:
    workflow = a_workflow(db)
    numbers = in_processes(url, cell.face, create_version, str(workflow.id), 16)
    assert sorted(numbers, key=str) == sorted(range(1, 65), key=str)
    assert numbers_of_events(db, workflow.id) == list(range(1, 66))


CHANGES: dict[str, Callable[[Any, Any], object]] = {
    "update": lambda db, id: db.workflows.update(id, actor="ann", name="B", tags=["b", "a"]),
    "retag": lambda db, id: db.workflows.update(id, actor="ann", tags=["c", "old"], handle=f"h{id.hex[-20:]}"),
    "create version": lambda db, id: db.versions.create(id, {}, actor="ann"),
    "configure": lambda db, id: db.versions.set_runnable_config(id, 1, {}, actor="ann"),
    "create run": lambda db, id: db.runs.create(id, actor="ann"),
    "publish": lambda db, id: db.workflows.publish(id, actor="ann"),
    "unpublish": lambda db, id: db.workflows.unpublish(id, actor="ann"),
    "archive": lambda db, id: db.workflows.archive(id, actor="ann"),
    "unarchive": lambda db, id: db.workflows.unarchive(id, actor="ann"),
}


def check_the_lists_by_tag(db: Dal[Sync], id: Any, case: str) -> None:
    """The lists by tag find a workflow, one of the two newest, by its own tags alone."""
    workflow = db.workflows.get(id)
    for tag in ("old", "a", "b", "c"):
        for archived in (False, True):
            newest = db.workflows.list(tag=tag, include_archived=archived, limit=2).items
            is_found = id in {each.id for each in newest}
            is_wanted = tag in workflow.tags and (archived or not workflow.is_archived)
            assert is_found == is_wanted, f"{case}: tag {tag}, include_archived={archived}, on {workflow}"


def test_changes_of_every_kind_at_once_are_each_made_or_refused_whole(db: Dal[Sync]) -> None:
    for number in range(5):
        id = a_version(db, a_workflow(db, tags=["old"])).workflow_id
        changes: list[Job[object]] = [partial(change, db, id) for change in CHANGES.values()]
        answers = [answer for answers in race([changes] * 5) for answer in answers]
        refused = [answer for answer in answers if isinstance(answer, DalError)]
        expected = {"WorkflowArchived", "AlreadyPublished", "NotPublished"}
        assert kinds(refused).keys() <= expected, f"round {number}: {kinds(refused)}"
        numbers = numbers_of_events(db, id)
        assert numbers == list(range(1, len(numbers) + 1)), f"round {number}"
        versions = [each.number for each in db.versions.list(id, limit=500).items]
        assert versions == list(range(len(versions), 0, -1)), f"round {number}"
        check_the_lists_by_tag(db, id, f"round {number}")


# --- one run, two wishes ----------------------------------------------------------------------------------------------


def test_of_two_starts_of_one_run_200_times_exactly_one_is_told_yes(db: Dal[Sync]) -> None:
    version = a_version(db)
    runs = [a_run(db, version) for _ in range(200)]
    rounds = [[partial(db.runs.start, run.id, actor=actor) for actor in ("ann", "bob")] for run in runs]
    for number, (run, answers) in enumerate(zip(runs, race(rounds), strict=True)):
        assert kinds(answers) == {"Run": 1, "InvalidTransition": 1}, f"round {number}: {answers}"
        refused = next(answer for answer in answers if isinstance(answer, InvalidTransition))
        assert refused.found == "running", f"round {number} found {refused.found}"
        assert [action for _, _, action in trail(db.runs.events(run.id))] == ["created", "started"]


def test_a_run_whose_cancel_was_told_yes_ends_cancelled(db: Dal[Sync]) -> None:
    version = a_version(db)
    runs = [a_run(db, version) for _ in range(200)]
    rounds: list[list[Job[Run]]] = [
        [partial(db.runs.start, run.id, actor="ann"), partial(db.runs.cancel, run.id, actor="bob")] for run in runs
    ]
    for number, (run, (start, cancel)) in enumerate(zip(runs, race(rounds), strict=True)):
        assert isinstance(cancel, Run), f"round {number}: a run that is not over can be cancelled, but {cancel!r}"
        assert db.runs.get(run.id) == cancel, f"round {number}"
        actions = [action for _, _, action in trail(db.runs.events(run.id))]
        if isinstance(start, InvalidTransition):
            assert (start.found, actions) == ("cancelled", ["created", "cancelled"]), f"round {number}"
        else:
            assert isinstance(start, Run), f"round {number}: {start!r}"
            assert actions == ["created", "started", "cancelled"], f"round {number}"


def test_a_run_ends_in_one_way_however_many_ends_it_is_given(db: Dal[Sync]) -> None:
    version = a_version(db)
    runs = [db.runs.start(a_run(db, version).id, actor="ann") for _ in range(50)]
    rounds: list[list[Job[Run]]] = [
        [
            partial(db.runs.succeed, run.id, "out", actor="ann"),
            partial(db.runs.fail, run.id, "error", actor="bob"),
            partial(db.runs.cancel, run.id, actor="eve"),
        ]
        for run in runs
    ]
    for number, (run, answers) in enumerate(zip(runs, race(rounds), strict=True)):
        won = [answer for answer in answers if isinstance(answer, Run)]
        found = {answer.found for answer in answers if isinstance(answer, InvalidTransition)}
        assert (len(won), kinds(answers)["InvalidTransition"]) == (1, 2), f"round {number}: {answers}"
        assert found == {won[0].status}, f"round {number}: the losers found {found}"
        assert db.runs.get(run.id) == won[0]


# --- one handle -------------------------------------------------------------------------------------------------------


def test_of_64_creators_of_one_handle_1_has_it(db: Dal[Sync]) -> None:
    answers = together([lambda: a_workflow(db, handle="wanted")] * 64)
    assert kinds(answers) == {"Workflow": 1, "HandleTaken": 63}
    assert [workflow.handle for workflow in db.workflows.list().items] == ["wanted"]


def test_of_two_updates_to_one_handle_one_wins(db: Dal[Sync]) -> None:
    first, second = a_workflow(db), a_workflow(db)
    rounds = [
        [partial(db.workflows.update, each.id, actor="ann", handle=f"h{number}") for each in (first, second)]
        for number in range(100)
    ]
    for number, answers in enumerate(race(rounds)):
        assert kinds(answers) == {"Workflow": 1, "HandleTaken": 1}, f"round {number}: {answers}"
    events = [len(numbers_of_events(db, each.id)) for each in (first, second)]
    assert sum(events) == 2 + 100, f"{events} events: two of being created, and one for each update that won"


def meet_in_a_transaction(
    db: Dal[Sync], first: Callable[[Any], object], second: Job[T], *, commit: bool = True, must_wait: bool = True
) -> T | DalError:
    """What ``second()`` answers that begins while a transaction is open in which ``first(tx)`` was done.

    must_wait: fail unless it waits for the end of that transaction.
    """
    answers: list[T | DalError] = []

    def run() -> None:
        answers.extend(together([second]))

    other = threading.Thread(target=run)
    with suppress(ZeroDivisionError), db.transaction() as tx:
        first(tx)
        other.start()
        time.sleep(0.15 if must_wait else 0.01)
        assert not (must_wait and answers), f"{answers[0]!r} did not wait for the open transaction"
        if not commit:
            raise ZeroDivisionError
    other.join(PATIENCE)
    return answers[0]


WISHES: dict[str, Callable[[Any, Workflow], Workflow]] = {
    "create": lambda db, _: db.workflows.create("Rival", actor="bob", handle="wanted"),
    "update": lambda db, mine: db.workflows.update(mine.id, actor="bob", handle="wanted"),
    "unarchive": lambda db, mine: db.workflows.unarchive(mine.id, actor="bob"),
}


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("commit", [True, False], ids=["committed", "undone"])
def test_a_handle_wanted_while_another_is_taking_it_waits_for_the_outcome(
    db: Dal[Sync], wish: str, commit: bool
) -> None:
    mine = a_workflow(db, handle="wanted" if wish == "unarchive" else None)
    if wish == "unarchive":
        db.workflows.archive(mine.id, actor="ann")
    before = db.workflows.get(mine.id)
    answer = meet_in_a_transaction(
        db, lambda tx: a_workflow(tx, handle="wanted"), lambda: WISHES[wish](db, mine), commit=commit
    )
    if commit:
        assert isinstance(answer, HandleTaken), repr(answer)
        assert answer.constraint == "workflows_handle_key"
        assert db.workflows.get(mine.id) == before
    else:
        assert isinstance(answer, Workflow), repr(answer)
        assert (answer.handle, answer.is_archived) == ("wanted", False)
    assert [each.handle for each in db.workflows.list().items].count("wanted") == 1


# --- archived or not --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["versions", "runs"])
def test_nothing_is_made_after_archiving_was_told_done(db: Dal[Sync], what: str) -> None:
    made = 0
    for number in range(10):
        version = a_version(db)
        id = version.workflow_id
        listed: Callable[..., Any] = db.versions.list if what == "versions" else db.runs.list
        create: Callable[..., Any] = (
            partial(db.versions.create, id, {}) if what == "versions" else partial(db.runs.create, id)
        )
        count_when_told: list[int] = []

        def archive(id: Any = id, listed: Any = listed, told: list[int] = count_when_told) -> Workflow:
            archived = db.workflows.archive(id, actor="ann")
            told.append(len(listed(id, limit=500).items))
            return archived

        def create_until_refused(create: Any = create) -> Any:
            for count in range(100):
                try:
                    create(actor="bob")
                except WorkflowArchived:
                    return count
            return 100

        jobs: list[Job[Any]] = [*[create_until_refused] * 4, archive]
        *counts, archived = together(jobs)
        assert isinstance(archived, Workflow), f"round {number}: {archived!r}"
        assert kinds(counts) == {"int": 4}, f"round {number}: {counts}"
        made = len(listed(id, limit=500).items)
        assert count_when_told == [made], f"round {number}: {count_when_told} when told, {made} afterwards"
        assert made == sum(cast("list[int]", counts)) + (what == "versions"), (
            f"round {number}: {counts} told done, {made} there"
        )


@pytest.mark.parametrize("commit", [True, False], ids=["committed", "undone"])
@pytest.mark.parametrize("what", ["versions", "runs"])
def test_what_is_made_while_archiving_waits_for_the_outcome(db: Dal[Sync], what: str, commit: bool) -> None:
    version = a_version(db)
    create: dict[str, Job[Any]] = {
        "versions": lambda: db.versions.create(version.workflow_id, {}, actor="bob"),
        "runs": lambda: db.runs.create(version.workflow_id, actor="bob"),
    }
    answer = meet_in_a_transaction(
        db, lambda tx: tx.workflows.archive(version.workflow_id, actor="ann"), create[what], commit=commit
    )
    assert type(answer) is (WorkflowArchived if commit else {"versions": Version, "runs": Run}[what]), repr(answer)


STARTS: dict[str, Callable[[Any, Any], object]] = {
    "active": lambda db, id: None,
    "archived": CHANGES["archive"],
    "public": CHANGES["publish"],
}


def answered(job: Job[object]) -> str:
    """The type of the answer or refusal."""
    try:
        return type(job()).__name__
    except DalError as error:
        return type(error).__name__


@pytest.mark.parametrize("start", STARTS)
def test_a_change_that_waited_for_another_answers_as_if_it_had_come_after(db: Dal[Sync], start: str) -> None:
    def fresh() -> Any:
        id = a_version(db, a_workflow(db, tags=["old"])).workflow_id
        db.workflows.update(id, actor="ann", handle=f"w{id.hex[-20:]}")
        STARTS[start](db, id)
        return id

    def state(id: Any) -> tuple[object, ...]:
        workflow = db.workflows.get(id)
        actions = [action for _, _, action in trail(db.workflows.events(id))]
        made = len(db.versions.list(id).items), len(db.runs.list(id).items)
        flags = workflow.name, workflow.tags, workflow.is_archived, workflow.is_public, workflow.revision
        return *flags, actions, made

    for first, change_first in CHANGES.items():
        for second, change_second in CHANGES.items():
            raced, serial = fresh(), fresh()
            after_waiting = meet_in_a_transaction(
                db,
                lambda tx, change=change_first, id=raced: answered(partial(change, tx, id)),  # type: ignore[misc]
                partial(answered, partial(change_second, db, raced)),
                must_wait=False,  # some pairs do not touch each other
            )
            answered(partial(change_first, db, serial))
            in_turn = answered(partial(change_second, db, serial))
            case = f"{first}, then {second} while it is open"
            assert after_waiting == in_turn, f"{case}: {after_waiting}, and {in_turn} when it is not"
            assert state(raced) == state(serial), case
            check_the_lists_by_tag(db, raced, case)


# --- one key, one revision --------------------------------------------------------------------------------------------


def test_32_creators_with_one_key_get_one_run(db: Dal[Sync]) -> None:
    version = a_version(db)
    for number in range(5):
        runs = together([lambda key=f"k{number}": a_run(db, version, idempotency_key=key)] * 32)  # type: ignore[misc]
        assert kinds(runs) == {"Run": 32}, f"round {number}: {kinds(runs)}"
        ids = {run.id for run in runs if isinstance(run, Run)}
        assert len(ids) == 1, f"round {number}: {len(ids)} runs for one key"
        assert trail(db.runs.events(ids.pop())) == [(1, "ann", "created")]
    assert len(db.runs.list(version.workflow_id).items) == 5


def test_creators_with_one_key_and_two_minds_agree_on_one_run(db: Dal[Sync]) -> None:
    version = a_version(db)
    answers = together([partial(a_run, db, version, inputs={"n": n % 2}, idempotency_key="k") for n in range(32)])
    assert kinds(answers) == {"Run": 16, "IdempotencyConflict": 16}
    assert len({answer.id for answer in answers if isinstance(answer, Run)}) == 1
    assert all(answer.constraint for answer in answers if isinstance(answer, IdempotencyConflict))
    assert len(db.runs.list(version.workflow_id).items) == 1


def test_of_16_updates_made_on_one_revision_1_wins(db: Dal[Sync]) -> None:
    workflow = a_workflow(db)
    answers = together(
        [partial(db.workflows.update, workflow.id, actor="ann", name=f"n{n}", expected_revision=1) for n in range(16)]
    )
    assert kinds(answers) == {"Workflow": 1, "RevisionConflict": 15}
    assert {answer.current for answer in answers if isinstance(answer, RevisionConflict)} == {2}
    won = next(answer for answer in answers if isinstance(answer, Workflow))
    assert db.workflows.get(workflow.id) == won


def test_of_16_publishers_1_publishes(db: Dal[Sync]) -> None:
    workflow = a_workflow(db)
    answers = together([partial(db.workflows.publish, workflow.id, actor=f"a{n}") for n in range(16)])
    assert kinds(answers) == {"Workflow": 1, "AlreadyPublished": 15}
    assert {answer.found for answer in answers if isinstance(answer, AlreadyPublished)} == {"published"}
    won = next(answer for answer in answers if isinstance(answer, Workflow))
    assert db.workflows.get(workflow.id) == won

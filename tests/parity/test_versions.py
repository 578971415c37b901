"""Versions: numbered without gaps, hashed, compared and configured, the same in every cell."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import Any

import pytest

from dal import Dal, Invalid, Sync, Version, VersionNotFound, WorkflowArchived
from tests.cells import Clock
from tests.parity.make import NOBODY, NOON, a_version, a_workflow, trail

GRAPH = {
    "nodes": [{"id": "träge", "kind": "http", "retries": 3, "ratio": 0.5}, {"id": "b", "on": True, "note": None}],
    "edges": [["träge", "b"]],
    "€": "\u2028 </script> \\u0000",
}


# --- create -----------------------------------------------------------------------------------------------------------


def test_a_new_version_has_what_was_given_and_sensible_defaults(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    workflow = a_workflow(db)
    version = db.versions.create(workflow.id, GRAPH, actor="bob")
    assert version == Version(
        id=version.id, workflow_id=workflow.id, number=1, graph=GRAPH, graph_hash=version.graph_hash, mermaid=None,
        metadata={}, runnable_config=None, notes=None, created_at=NOON, created_by="bob", updated_at=NOON,
    )  # fmt: skip
    assert version.id.version == 7
    assert db.versions.get(version.id) == version


def test_everything_given_comes_back_as_it_was(db: Dal[Sync]) -> None:
    version = a_version(
        db, graph=GRAPH, mermaid="graph TD\n a-->b", metadata=["m"], runnable_config={"tags": []}, notes="ü\n"
    )
    given = (version.mermaid, version.metadata, version.runnable_config, version.notes)
    assert given == ("graph TD\n a-->b", ["m"], {"tags": []}, "ü\n")
    found = [
        db.versions.get(version.id),
        db.versions.get_number(version.workflow_id, 1),
        db.versions.latest(version.workflow_id),
        db.versions.find_by_hash(version.workflow_id, version.graph_hash),
        *db.versions.list(version.workflow_id).items,
    ]
    assert found == [version] * 5


def test_numbers_are_1_2_3_for_each_workflow(db: Dal[Sync]) -> None:
    first, second = a_workflow(db), a_workflow(db)
    numbers = [(db.versions.create(each.id, {}, actor="ann").number) for each in (first, second, first, first, second)]
    assert numbers == [1, 1, 2, 3, 2]
    assert [version.number for version in db.versions.list(first.id).items] == [3, 2, 1]
    assert db.versions.latest(first.id).number == 3


def test_a_version_that_was_refused_or_rolled_back_leaves_no_gap(db: Dal[Sync]) -> None:
    workflow = a_version(db).workflow_id
    db.workflows.archive(workflow, actor="ann")
    with pytest.raises(WorkflowArchived):
        db.versions.create(workflow, {}, actor="ann")
    db.workflows.unarchive(workflow, actor="ann")
    with suppress(ZeroDivisionError), db.transaction() as tx:
        assert tx.versions.create(workflow, {}, actor="ann").number == 2
        raise ZeroDivisionError
    with pytest.raises(Invalid):
        db.versions.create(workflow, {"x": float("nan")}, actor="ann")
    assert db.versions.create(workflow, {}, actor="ann").number == 2


@pytest.mark.parametrize(
    "graph", [None, 0, -1.5, "", "text", True, [], {}, [None], 2**53 + 1, -(2**63), 1e16], ids=repr
)
def test_a_graph_may_be_any_json_value(db: Dal[Sync], graph: object) -> None:
    version = db.versions.create(a_workflow(db).id, graph, actor="ann")
    for stored in (version.graph, db.versions.get(version.id).graph):
        assert (stored, type(stored)) == (graph, type(graph))


def test_what_the_caller_changes_after_the_call_is_not_stored(db: Dal[Sync]) -> None:
    graph: dict[str, Any] = {"nodes": []}
    version = a_version(db, graph=graph)
    graph["nodes"].append("late")
    assert db.versions.get(version.id).graph == {"nodes": []}


# --- hashes -----------------------------------------------------------------------------------------------------------


def test_the_hash_is_sha_256_of_compact_json_with_sorted_keys(db: Dal[Sync]) -> None:
    compact = json.dumps(GRAPH, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert a_version(db, graph=GRAPH).graph_hash == f"v1:{hashlib.sha256(compact.encode()).hexdigest()}"


def test_the_hash_does_not_depend_on_the_order_of_keys(db: Dal[Sync]) -> None:
    workflow = a_workflow(db)
    one = a_version(db, workflow, {"a": {"x": 1, "y": 2}, "b": 3})
    two = a_version(db, workflow, {"b": 3, "a": {"y": 2, "x": 1}})
    other = a_version(db, workflow, {"b": 3, "a": {"y": 2, "x": 1.0}})
    assert one.graph_hash == two.graph_hash != other.graph_hash


def test_find_by_hash_gives_the_newest_of_this_workflow(db: Dal[Sync]) -> None:
    workflow, elsewhere = a_workflow(db), a_workflow(db)
    graphs: list[Any] = ["same", "other", "same", "other still"]
    versions = [a_version(db, workflow, graph) for graph in graphs]
    assert db.versions.find_by_hash(workflow.id, versions[0].graph_hash) == versions[2]
    for workflow_id, hash in ((elsewhere.id, versions[0].graph_hash), (workflow.id, "v1:0"), (NOBODY, "v1:0")):
        with pytest.raises(VersionNotFound):
            db.versions.find_by_hash(workflow_id, hash)


# --- finding ----------------------------------------------------------------------------------------------------------


def test_an_unknown_version_is_not_found_by_any_method(db: Dal[Sync]) -> None:
    workflow = a_version(db).workflow_id
    without = a_workflow(db)
    calls: list[Any] = [
        lambda: db.versions.get(NOBODY),
        lambda: db.versions.get_number(workflow, 0),
        lambda: db.versions.get_number(workflow, 2),
        lambda: db.versions.get_number(workflow, -1),
        lambda: db.versions.get_number(NOBODY, 1),
        lambda: db.versions.latest(without.id),
        lambda: db.versions.latest(NOBODY),
        lambda: db.versions.set_runnable_config(workflow, 2, {}, actor="ann"),
        lambda: db.versions.set_runnable_config(NOBODY, 1, {}, actor="ann"),
        lambda: db.versions.diff(workflow, 1, 2),
        lambda: db.versions.diff(NOBODY, 1, 1),
        lambda: db.runs.create(without.id, actor="ann"),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(VersionNotFound):
            print(f"call {number} answered {call()}")  # seen only where it answers
    assert db.versions.list(NOBODY).items == []


@pytest.mark.parametrize("number", [True, "1", 1.0, None, 2**63])
def test_a_number_is_an_integer_of_64_bits(db: Dal[Sync], number: Any) -> None:
    workflow = a_version(db).workflow_id
    for call in (
        lambda: db.versions.get_number(workflow, number),
        lambda: db.versions.set_runnable_config(workflow, number, {}, actor="ann"),
        lambda: db.versions.diff(workflow, 1, number),
    ):
        with pytest.raises(Invalid):
            call()


# --- runnable_config --------------------------------------------------------------------------------------------------


def test_a_version_can_be_configured_again_and_its_graph_stays(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    first = a_version(db, graph=GRAPH, runnable_config={"old": 1})
    second = a_version(db, db.workflows.get(first.workflow_id))
    later = clock.advance(minutes=1)
    changed = db.versions.set_runnable_config(first.workflow_id, 1, {"new": [2]}, actor="bob")
    expected = {name: getattr(first, name) for name in first.__struct_fields__}
    assert changed == Version(**{**expected, "runnable_config": {"new": [2]}, "updated_at": later})
    assert db.versions.get(first.id) == changed
    assert db.versions.get(second.id) == second
    assert db.versions.set_runnable_config(first.workflow_id, 1, None, actor="eve").runnable_config is None
    assert db.versions.get(first.id).runnable_config is None
    assert trail(db.workflows.events(first.workflow_id)) == [
        (1, "ann", "created"), (2, "ann", "version_created"), (3, "ann", "version_created"),
        (4, "bob", "version_configured"), (5, "eve", "version_configured"),
    ]  # fmt: skip


# --- diff -------------------------------------------------------------------------------------------------------------


def test_a_diff_is_unified_over_pretty_json_with_sorted_keys(db: Dal[Sync]) -> None:
    workflow = a_workflow(db)
    a_version(db, workflow, {"nodes": ["a", "ä"], "name": "n"})
    a_version(db, workflow, {"name": "n", "nodes": ["a", "b"]})
    assert db.versions.diff(workflow.id, 1, 2) == [
        "--- version 1",
        "+++ version 2",
        "@@ -2,6 +2,6 @@",
        '   "name": "n",',
        '   "nodes": [',
        '     "a",',
        '-    "ä"',
        '+    "b"',
        "   ]",
        " }",
    ]
    back = db.versions.diff(workflow.id, 2, 1)
    assert [back[0], back[1], back[6], back[7]] == ["--- version 2", "+++ version 1", '-    "b"', '+    "ä"']


def test_a_diff_of_equal_graphs_is_empty(db: Dal[Sync]) -> None:
    workflow = a_workflow(db)
    a_version(db, workflow, {"a": 1, "b": 2})
    a_version(db, workflow, {"b": 2, "a": 1})
    assert db.versions.diff(workflow.id, 1, 2) == []
    assert db.versions.diff(workflow.id, 1, 1) == []


def test_a_diff_names_the_version_that_is_missing(db: Dal[Sync]) -> None:
    workflow = a_version(db).workflow_id
    for a, b, lost in ((1, 7, 7), (8, 1, 8), (8, 9, 8)):
        with pytest.raises(VersionNotFound, match=f"number {lost} of workflow {workflow}"):
            db.versions.diff(workflow, a, b)

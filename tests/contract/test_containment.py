"""What "contains" means to ``find``: the same on both databases, and the same as the plain words of its docstring."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dal import Dal, Invalid, Sync
from dal.stores.checks import MAX_FILTER_VALUES, check_filter

# Few names and values, so that documents meet; some are alike to one who looks at their text, or at a part of it.
KEYS = st.sampled_from(["a", "b", "", "0", "a.b", "[]", 'q"\\', "é", "e\u0301", "k" * 250, "k" * 250 + "x"])
LEAVES = st.one_of(
    st.sampled_from(
        [None, True, False, 0, 1, -1, 1.0, 0.5, 1e16, 10**16, 2**53, 2**53 + 1, float(2**53), 2**63 - 1, float(2**63)]
    ),
    st.sampled_from([-0.0, 5e-324, 1e-323, 0.1, 0.1 + 2**-56, 1 / 3, 1e300, 1e300 * (1 + 2**-52), -(2**63)]),
    st.sampled_from(
        ["", "1", "true", "null", "{}", "[]", "a", "A", "é", "e\u0301", "\n", "x" * 64, "x" * 65, "x" * 90]
    ),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4),
)
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)
OBJECTS = st.dictionaries(KEYS, DOCUMENTS, max_size=4)


@st.composite
def parts(draw: st.DrawFn, document: Any, depth: int = 0) -> Any:
    """Most of what is drawn is contained in the document, and what is not is nearly so."""
    if depth and draw(st.integers(0, 9)) == 0:
        return draw(DOCUMENTS)
    if isinstance(document, dict):
        kept = draw(st.lists(st.sampled_from(sorted(document)), unique=True)) if document else []
        return {key: draw(parts(document[key], depth + 1)) for key in kept}
    if isinstance(document, list):
        kept = draw(st.lists(st.sampled_from(range(len(document))), max_size=4)) if document else []
        return [draw(parts(document[at], depth + 1)) for at in kept]
    return document


@st.composite
def questions(draw: st.DrawFn) -> tuple[list[Any], Any]:
    documents = draw(st.lists(OBJECTS, min_size=1, max_size=5))
    odd = draw(st.lists(DOCUMENTS.filter(lambda each: each is not None), max_size=1))
    return documents + odd, draw(st.one_of(parts(documents[0]), OBJECTS))


def contains(document: Any, wanted: Any) -> bool:
    """The docstring of ``find``, in Python."""
    if isinstance(wanted, dict):
        return isinstance(document, dict) and all(
            key in document and contains(document[key], inner) for key, inner in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(document, list) and all(any(contains(each, inner) for each in document) for inner in wanted)
    if isinstance(wanted, bool) or isinstance(document, bool):
        return document is wanted
    return not isinstance(document, (list, dict)) and document == wanted


NUMBER = itertools.count()


def found(db: Dal[Sync], documents: list[Any], wanted: Any) -> list[int]:
    """Which of the documents ``find`` finds."""
    workflow = f"w{next(NUMBER)}"
    with db.transaction() as tx:
        for at, document in enumerate(documents):
            tx.history.start(f"{workflow}-{at}", workflow, metadata=document)
    items = db.history.find(workflow, metadata=wanted).items
    assert [documents[int(item.execution_id.rpartition("-")[2])] for item in items] == [i.metadata for i in items]
    return sorted(int(item.execution_id.rpartition("-")[2]) for item in items)


def found_among_checkpoints(db: Dal[Sync], documents: list[Any], wanted: Any) -> list[int]:
    """Which of the documents ``checkpoints.find`` finds, where half of what is wanted is in the metrics, and half in
    the metadata; each document is both."""
    workflow = f"w{next(NUMBER)}"
    with db.transaction() as tx:
        for document in documents:
            tx.checkpoints.record(workflow, runnable_config=None, metadata=document, metrics=document)
    halves = [dict(list(wanted.items())[half::2]) for half in (0, 1)]
    items = db.checkpoints.find(workflow, metadata=halves[0], metrics=halves[1]).items
    return sorted(item.config_version - 1 for item in items)


PAIRS: list[tuple[Any, Any, bool]] = [
    ({"a": 1}, {}, True),
    ({}, {}, True),
    ([], {}, False),
    ({"a": 1, "b": 2}, {"a": 1}, True),
    ({"a": 1}, {"a": 1, "b": 2}, False),
    ({"a": 1}, {"a": 1.0}, True),
    ({"a": 1}, {"a": True}, False),
    ({"a": "1"}, {"a": 1}, False),
    ({"a": None}, {"a": None}, True),
    ({}, {"a": None}, False),
    ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": 1}}}, True),
    ({"a": {"b": 1}}, {"a": {}}, True),
    ({"a": [1]}, {"a": {}}, False),
    ({"a": [1, 2, 3]}, {"a": [3, 1, 1]}, True),
    ({"a": [1, 2]}, {"a": [1, 4]}, False),
    ({"a": [1]}, {"a": []}, True),
    ({"a": [1]}, {"a": 1}, False),
    ({"a": [{"b": 1}, {"c": 2}]}, {"a": [{"b": 1, "c": 2}]}, False),
    ({"a": [{"b": 1, "c": 2}]}, {"a": [{"b": 1}, {"c": 2}]}, True),
    ({"a": [[1, 2], [3]]}, {"a": [[1], [3]]}, True),
    ({"a": [[1], [2]]}, {"a": [[1, 2]]}, False),
    ({"a": [1, [2]]}, {"a": [2]}, False),
    ({"a": ["x"]}, {"a": "x"}, False),
    ({"a": "x"}, {"a": ["x"]}, False),
    ([{}], {}, False),
    ("x", {}, False),
    (0.5, {}, False),
    ({"a": 2**53 + 1}, {"a": float(2**53)}, False),
    ({"a": "x" * 65}, {"a": "x" * 64}, False),
    ({"k" * 250: 1}, {"k" * 250 + "x": 1}, False),
    ({"a.b": 1}, {"a": {"b": 1}}, False),
    ({"a": {"b": 1}}, {'a".b': 1}, False),
]


@pytest.mark.parametrize(("document", "wanted", "is_contained"), PAIRS, ids=repr)
def test_containment_is_what_postgresql_says_it_is(
    sqlite_db: Dal[Sync], postgres_db: Dal[Sync], document: Any, wanted: Any, is_contained: bool
) -> None:
    answers = {len(found(db, [document], wanted)) == 1 for db in (sqlite_db, postgres_db)}
    assert answers == {is_contained} == {contains(document, wanted)}


@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(questions())
@example(([{"a": [1, {"b": 2}]}, {"a": [{"b": 2}, 1]}], {"a": [{"b": 2}]}))
def test_no_documents_are_found_on_one_database_alone(
    sqlite_db: Dal[Sync], postgres_db: Dal[Sync], question: tuple[list[Any], Any]
) -> None:
    documents, wanted = question
    expected = [at for at, document in enumerate(documents) if contains(document, wanted)]
    answers = {db.settings.backend: found(db, documents, wanted) for db in (sqlite_db, postgres_db)}
    assert answers == {"sqlite": expected, "postgres": expected}


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(questions())
def test_no_checkpoints_are_found_on_one_database_alone(
    sqlite_db: Dal[Sync], postgres_db: Dal[Sync], question: tuple[list[Any], Any]
) -> None:
    documents = [each for each in question[0] if isinstance(each, dict) and all(0 < len(key) <= 128 for key in each)]
    expected = [at for at, document in enumerate(documents) if contains(document, question[1])]
    for db in (sqlite_db, postgres_db):
        assert found_among_checkpoints(db, documents, question[1]) == expected, db.settings.backend


def test_a_document_to_look_for_is_an_object_of_at_most_so_many_values() -> None:
    full = {"a": [1] * (MAX_FILTER_VALUES - 2)}
    assert check_filter(full, "metadata").text == '{"a":[' + ",".join("1" * 98) + "]}"
    for bad, reason in (
        ({"a": [1] * (MAX_FILTER_VALUES - 1)}, "more than 100 values"),
        ({"a": {"b": [{}] * 98}}, "more than 100 values"),
        ([], "takes a dict, not list"),
        (None, "takes a dict, not NoneType"),
        ("a", "takes a dict, not str"),
    ):
        with pytest.raises(Invalid, match=reason) as refused:
            check_filter(bad, "metadata")
        assert refused.value.path == "metadata"

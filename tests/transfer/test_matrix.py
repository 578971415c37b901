"""From each dialect to each, and back: the same rows, side tables that the stores themselves would have written, and
stores that go on where they were."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import dal
from dal.transfer import moving
from dal.transfer.inventory import inventory
from tests.cells import Dialect, stored
from tests.transfer.conftest import DOCUMENTS, counts, differing_tables, execute, settings_of

Make = Callable[[Dialect], str]
WAYS: list[tuple[Dialect, Dialect]] = [
    ("sqlite", "postgres"), ("postgres", "sqlite"), ("sqlite", "sqlite"), ("postgres", "postgres")
]  # fmt: skip


def move(one: str, other: str, **given: Any) -> dict[str, int]:
    report = moving.move(settings_of(one), settings_of(other), **given)
    assert (report.state, report.problems, report.differences, report.samples) == ("done", [], [], [])
    assert report.source == report.loaded == counts(other)
    return report.loaded


def carry(one: str, other: str, folder: Path, **given: Any) -> None:
    """The same over files."""
    moving.export_to(settings_of(one), folder, **given)
    report = moving.import_from(folder, settings_of(other))
    assert (report.state, report.problems, report.samples) == ("done", [], [])


def content(url: str) -> dict[str, list[Any]]:
    """What a SQLite file holds, JSON by its value; of FTS5, which words are in which row."""
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    tables = {
        name: rows
        for name, rows in stored(connection).items()
        if not name.startswith(("dal_", "sqlite_")) and "_fts" not in name
    }
    for name in ("chat_threads", "chat_texts", "workflow_texts"):
        connection.execute(f"create virtual table temp.{name}_words using fts5vocab('main', '{name}_fts', 'row')")
        tables[f"{name}_words"] = connection.execute(
            f"select term, doc from temp.{name}_words order by term"
        ).fetchall()
    connection.close()
    documents = {(table.name, at) for table in inventory() for at, c in enumerate(table.columns) if c.kind == "json"}

    def valued(name: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
        values = list(row)
        for at, value in enumerate(row):
            if (name, at) in documents and value is not None:
                values[at] = json.dumps(json.loads(value), sort_keys=True)
        return tuple(values)

    return {name: sorted((valued(name, row) for row in rows), key=repr) for name, rows in tables.items()}


def test_every_table_has_rows_to_be_moved(day: str) -> None:
    assert [name for name, count in counts(day).items() if not count] == []


@pytest.mark.parametrize(("one", "other"), WAYS, ids=lambda way: way)
def test_all_of_it_goes_there_and_comes_back(day: str, make_empty: Make, one: Dialect, other: Dialect) -> None:
    first, second, third = (day if one == "sqlite" else make_empty(one)), make_empty(other), make_empty(one)
    if first != day:
        move(day, first)
    moved = move(first, second, size=37, workers=2)
    assert differing_tables(first, second) == []
    assert move(second, third, size=1000) == moved
    assert differing_tables(first, third) == []
    if one == "sqlite":
        assert content(third) == content(day)
    elif other == "sqlite":
        assert content(second) == content(day)


@pytest.mark.parametrize(("one", "other"), WAYS, ids=lambda way: way)
@pytest.mark.parametrize("packed", [True, False], ids=["zstd", "plain"])
def test_and_over_files(day: str, make_empty: Make, one: Dialect, other: Dialect, packed: bool, tmp_path: Path) -> None:
    first, second = (day if one == "sqlite" else make_empty(one)), make_empty(other)
    if first != day:
        move(day, first)
    carry(first, second, tmp_path / "export", size=91, packed=packed)
    assert differing_tables(first, second) == []


@pytest.mark.parametrize("other", ["sqlite", "postgres"])
def test_the_stores_go_on_where_they_were(day: str, make_empty: Make, other: Dialect) -> None:
    target = make_empty(other)
    with dal.connect(settings_of(day)) as db:
        flow = next(flow for flow in db.workflows.list(limit=500).items if db.versions.list(flow.id).items)
        number = db.versions.latest(flow.id).number
        revision = db.workflows.get(flow.id).revision
        best = db.checkpoints.best(next(iter(_checkpointed(day))))
        found = [hit.item_id for hit in db.chat.search("ada", "invoi").items]
        pending = db.runs.counts(flow.id)
        audit = db.tokens.verify_audit()
        minted = db.tokens.mint("after-the-day", actor="ana")
    move(day, target)
    with dal.connect(settings_of(target)) as db:
        assert db.versions.create(flow.id, {"new": 1}, actor="ana").number == number + 1
        assert db.workflows.update(flow.id, name="Renamed", actor="ana").revision == revision + 1
        assert db.history.append_step("x-3", {"next": True}).idx == 2
        assert [step.payload for step in db.history.steps("x-20").items] == [DOCUMENTS[20]] * 2
        assert db.chat.add_item("ada", "talk-1", "one-more", type="message", item="{}", body="xyzzy").seq == 6
        assert [hit.item_id for hit in db.chat.search("ada", "xyz").items] == ["one-more"]
        assert [hit.item_id for hit in db.chat.search("ada", "invoi").items] == found
        assert db.chat.get_item("ada", "with-files", "long").item == '{"kept":  "byte for byte", "n": 1.0e2 }'
        db.chat.save_thread("ada", "a-new-one", title="zebra")
        assert [hit.thread_id for hit in db.chat.search("ada", "zeb").items] == ["a-new-one"]
        assert db.checkpoints.best(best.workflow_id) == best
        assert db.tokens.authenticate(minted.secret.reveal()).name == "after-the-day"
        assert (db.tokens.verify_audit().rows, db.tokens.verify_audit().fault) == (audit.rows + 1, None)
        assert db.runs.counts(flow.id) == pending
        for number in (3, 20):  # by what the side tables or indexes say
            wanted = {"is": DOCUMENTS[number]}
            assert f"x-{number}" in [one.execution_id for one in db.history.find("extremes", metadata=wanted).items]


def _checkpointed(url: str) -> list[str]:
    return [row[0] for row in execute(url, "select workflow_id from checkpoint_heads where best_id is not null")]


LETTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
TEXT = st.text(LETTERS, max_size=60)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(LETTERS, max_size=8), inner, max_size=4),
    max_leaves=12,
)


@hypothesis_settings(max_examples=4, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(rows=st.lists(st.tuples(JSON, TEXT, st.datetimes()), min_size=30, max_size=60))
def test_whatever_is_stored_arrives(rows: list[tuple[Any, str, Any]], make_empty: Make) -> None:
    first, second, third = make_empty("sqlite"), make_empty("postgres"), make_empty("sqlite")
    with dal.connect(settings_of(first)) as db:
        db.history.start("e", "w")
        for number, (document, text, at) in enumerate(rows):
            db.history.append_step("e", document)
            db.chat.save_thread("o", f"t{number}", title=text, metadata={"is": document}, created_at=at.astimezone())
            db.workflows.create(f"{number} {text}"[:64].strip(), actor="a", description=text)
    move(first, second, size=11)
    move(second, third, size=7)
    assert differing_tables(first, third) == []
    assert content(first) == content(third)


def test_ids_that_look_like_sql_and_keys_at_the_ends_of_batches(make_empty: Make) -> None:
    """Keys of all lengths, as texts of any letters; every size of batch puts bounds between others of them."""
    first, second = make_empty("sqlite"), make_empty("postgres")
    names = ["'", '"', "%s", "?", ":a", "$1", "\\", "ß", "\u00e9", "e\u0301", "🦉", "Z", "z", "a" * 128, "_", " "]
    with dal.connect(settings_of(first)) as db:
        for name in names:
            db.history.start(name, name)
            db.history.append_steps(name, [name, name, name])
            db.transact(lambda tx: None, key=name)
    for size in (1, 2, 3):
        target = make_empty("postgres")
        moving.set_fence(settings_of(first), None)
        move(first, target, size=size)
        assert differing_tables(first, target) == []
        second = target
    move(second, make_empty("sqlite"), size=2)
    assert UUID(execute(second, "select cast(identity as text) from dal_database")[0][0]).version == 4

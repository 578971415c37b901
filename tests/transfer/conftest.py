"""A database with rows in every table, and databases to move it to."""

from __future__ import annotations

import io
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from rich.console import Console

import dal
from dal import Settings
from dal.demo.account import Account
from dal.demo.day import Day
from dal.demo.night import Night
from dal.demo.plan import SEED, Clock
from dal.transfer import moving
from dal.transfer.inventory import inventory
from tests.cells import PEPPERS, Dialect

# Documents whose values another database could take for others.
DOCUMENTS: list[Any] = [
    None, True, 0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 0.0, 0.1, 1.0, 1e15, 1e16, 1.5e300, 5e-324, 1e-7, "", "null",
    "\\u0000",
    "‮ \ufeff é é 🦉 \U0010ffff", "'; drop table runs; --", [], {}, [[]], {"": {"b": 1, "aa": 2, "ä": 3}},
    {"z": [1, 1.0, "1", None, {"y": "\t\n\x01\x7f"}]},
]  # fmt: skip


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with rows of every store: the demo's day, and what is extreme. To be copied."""
    path = tmp_path_factory.mktemp("filled") / "day.db"
    settings = Settings.from_url(f"sqlite:///{path}", token_peppers=PEPPERS)
    clock = Clock()
    with dal.connect(settings, clock=clock) as db:
        day = Day(db, clock, Account(Console(file=io.StringIO())), SEED)
        night = Night(day)
        for part in (
            day.make_workflows, day.make_versions, day.make_runs, day.change_workflows, night.fire_triggers,
            night.ask_again, night.write_history, night.improve_prompts, night.check_callers, night.talk,
        ):  # fmt: skip
            part()
        for number, document in enumerate(DOCUMENTS):
            db.history.start(
                f"x-{number}", "extremes", inputs={"is": document}, metadata={"is": document}, tags=["ü", "-"]
            )
            db.history.append_steps(f"x-{number}", [document] * 2)
        db.chat.save_thread("ada", "with-files", metadata={"deep": [DOCUMENTS[-1]]})
        db.chat.save_attachment("ada", "file-1", thread_id="with-files", type="file", name="ä.pdf", mime_type="a/b")
        text = '{"kept":  "byte for byte", "n": 1.0e2 }'
        db.chat.add_item("ada", "with-files", "long", type="message", item=text, body="wort " * 20_000)
    return path


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with a row or a few of what the cases alter. To be copied."""
    path = tmp_path_factory.mktemp("base") / "base.db"
    with dal.connect(settings_of(f"sqlite:///{path}")) as db:
        flow = db.workflows.create("base", actor="ann", tags=["a"])
        db.versions.create(flow.id, {"nodes": []}, actor="ann")
        first = db.runs.create(flow.id, actor="ann")
        db.triggers.set_retry_policy(flow.id, actor="ann")
        db.history.start("base", "w", inputs={"a": 1}, metadata={"b": 2})
        db.history.append_steps("base", [1, 2])
        for number in range(2):
            made = db.checkpoints.record("w", runnable_config={}, metrics={"loss": 0.5 + number})
        db.checkpoints.mark_best(made.id)
        db.tokens.mint("base", actor="ann")
        db.transact(lambda tx: None, key="base")
        db.chat.save_thread("o", "t", workflow_id="w")
        db.chat.add_item("o", "t", "i", type="m", item="1", body="words")
        assert first.workflow_id == flow.id
    return path


@pytest.fixture
def day(filled: Path, tmp_path: Path) -> str:
    """A copy of that, its URL."""
    shutil.copy(filled, tmp_path / "day.db")
    return f"sqlite:///{tmp_path / 'day.db'}"


@pytest.fixture
def make_empty(make_database: Callable[..., str], tmp_path: Path) -> Callable[[Dialect], str]:
    """The URL of an empty database."""
    count = iter(range(1000))

    def make(dialect: Dialect) -> str:
        return (
            make_database("postgres") if dialect == "postgres" else f"sqlite:///{tmp_path / f'empty{next(count)}.db'}"
        )

    return make


def settings_of(url: str, **given: Any) -> Settings:
    """Settings with the peppers of the filled database."""
    return Settings.from_url(url, token_peppers=PEPPERS, **given)


def differing_tables(one: str, other: str) -> list[str]:
    """The tables in which two databases differ."""
    return [table.table for table in moving.verify(settings_of(one), settings_of(other)).tables if not table.is_equal]


def counts(url: str) -> dict[str, int]:
    """How many rows each table has."""
    with moving.open_side(settings_of(url)) as side:
        return {table.name: side.count(table) for table in inventory()}


def execute(url: str, sql: str, *values: Any) -> list[Any]:
    """A statement by a connection that knows nothing of us."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()
    with psycopg.connect(url, autocommit=True) as server:
        cursor = server.execute(sql.replace("?", "%s").encode(), values or None)
        return cursor.fetchall() if cursor.description else []

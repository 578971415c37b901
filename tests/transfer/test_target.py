"""Targets and sources that are not what a transfer needs, or that somebody is at meanwhile."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

import dal
from dal import cli
from dal.transfer import loading, moving
from dal.transfer.inventory import inventory
from tests.cells import PATIENCE, Dialect
from tests.transfer.conftest import differing_tables, execute, settings_of
from tests.transfer.loose import change

DIALECTS = pytest.mark.parametrize("dialect", ["sqlite", "postgres"])


class Case(NamedTuple):
    """What is done to a target that is loaded by half, and the words with which the same command then ends."""

    what: str
    result: str
    says: str
    statements: tuple[str, ...]


# By a connection that knows nothing of us; the fence is taken down as somebody would who is determined.
ROW = "insert into idempotency_keys (key, result, created_at) values ('more', '1', '2024-01-01T00:00:00.000000Z')"
HALF = [
    Case("a row added to a target between kill and resume", "refused, naming the table",
         r"its ledger does not explain .*idempotency_keys has 2 rows, its ledger 1", (ROW,)),
    Case("a row taken from it", "refused, naming the table",
         r"its ledger does not explain .*run_events has \d+ rows, its ledger",
         ("delete from run_events where number = 1",)),
    Case("a line taken from its ledger", "refused, naming the table",
         r"its ledger does not explain .*execution_steps has 2 rows, its ledger 0",
         ("delete from dal_transfer_batches where table_name = 'execution_steps'",)),
    Case("a value altered in it", "loaded, compared, not opened; names the row",
         r'differs  executions \["base"\]: differs', ("update executions set run_name = 'altered'",)),
    Case("a number altered in its ledger", "loaded, compared, not opened; names the table",
         r"PROBLEM  chat_items: what it holds",
         (f"update dal_transfer_batches set digest = '1:{'0' * 32}' where table_name = 'chat_items'",)),
]  # fmt: skip
TARGETS = [(case.what, case.result) for case in HALF] + [
    ("a target that is not empty", "refused, naming the table"),
    ("a target that is fenced", "refused"),
    ("a target that is the source", "refused"),
    ("another source for a target that is loaded by half", "refused, naming the first"),
    ("a second process for the same target", "refused"),
    ("a process stopped for a while, another begun meanwhile", "the other refused; the first goes on and ends well"),
    ("a target altered after it was loaded", "`dal verify` exits with 1 and names table and key"),
    ("12 KB in a column of a PostgreSQL index that is not unique", "stopped, naming the index; not opened"),
    ("a source that lacks a column, or has one more", "refused, naming it"),
    ("a source with a migration that this version does not know", "refused"),
    ("a source that is damaged", "refused"),
    ("a source whose last commits are in its write-ahead log alone", "all of it arrives"),
    ("a source whose fence is taken down meanwhile", "stopped; the target is not opened"),
]


@pytest.fixture
def source(base: Path, tmp_path: Path) -> str:
    shutil.copy(base, tmp_path / "source.db")
    return f"sqlite:///{tmp_path / 'source.db'}"


def run(*words: str, status: int) -> str:
    done = CliRunner().invoke(cli.app, words)
    said = f"{done.output}\n{done.exception}"
    assert done.exit_code == status, said
    return said


def half_loaded(source: str, target: str) -> None:
    """All batches are there, and what comes behind them is not."""

    def stop(progress: loading.Progress) -> None:
        if progress.phase == "rebuild":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        moving.move(settings_of(source), settings_of(target), tell=stop)


def without_fence(url: str, *statements: str) -> None:
    """Statements of somebody who takes the fence away and puts it up again."""
    if url.startswith("postgres"):
        for statement in statements:
            execute(url, f"set dal.loading = 'on'; {statement}")
        return
    fence = execute(url, "select name, sql from sqlite_schema where name like 'dal_fence%'")
    assert fence
    for statement in (*(f"drop trigger {name}" for name, _ in fence), *statements, *(made for _, made in fence)):
        execute(url, statement)


# --- a target that is loaded by half ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "dialect"),
    [*((case, "postgres") for case in HALF), (HALF[2], "sqlite"), (HALF[3], "sqlite")],
    ids=lambda part: part if isinstance(part, str) else part.what,
)
def test_a_half_loaded_target_that_somebody_was_at(
    case: Case, dialect: Dialect, source: str, make_database: Callable[..., str]
) -> None:
    target = make_database(dialect)
    half_loaded(source, target)
    without_fence(target, *case.statements)
    said = run("move", source, target, status=1)
    assert re.search(case.says, said), said
    with dal.connect(settings_of(target)) as db, pytest.raises(dal.ReadOnly):
        db.workflows.create("x", actor="a")


@DIALECTS
def test_a_half_loaded_target_takes_no_other_source(
    dialect: Dialect, source: str, make_database: Callable[..., str], tmp_path: Path
) -> None:
    target = make_database(dialect)
    half_loaded(source, target)
    other = f"sqlite:///{tmp_path / 'other.db'}"
    with dal.connect(settings_of(other)) as db:
        db.workflows.create("x", actor="a")
    for words in (["move", other, target], ["move", "--no-fence", source, target]):
        assert "the target is being loaded from SQLite file" in run(*words, status=1)
    assert not moving.standing(settings_of(other))[0].is_fenced, "it was refused before"
    with dal.connect(settings_of(other)) as db:
        db.workflows.create("y", actor="a")
    assert moving.move(settings_of(source), settings_of(target)).state == "done"


# --- a target that is not for this ------------------------------------------------------------------------------------


@DIALECTS
def test_a_target_that_is_not_empty_or_fenced_or_the_source(
    dialect: Dialect, source: str, make_database: Callable[..., str]
) -> None:
    full, fenced = make_database(dialect), make_database(dialect)
    with dal.connect(settings_of(full)) as db:
        db.workflows.create("x", actor="a")
    assert "it is not empty: workflows has 1 rows" in run("move", source, full, status=1)
    moving.set_fence(settings_of(fenced), "by hand")
    assert "the target is fenced" in run("move", source, fenced, status=1)
    assert "source and target are the same database" in run("move", full, full, status=1)
    assert not moving.standing(settings_of(source))[0].is_fenced
    assert not moving.standing(settings_of(full))[0].is_fenced


@DIALECTS
def test_a_target_that_was_altered_after_it_was_loaded(
    dialect: Dialect, source: str, make_database: Callable[..., str]
) -> None:
    target = make_database(dialect)
    run("move", source, target, status=0)
    run("verify", source, target, status=0)
    execute(target, "update chat_items set body = 'other'")
    execute(target, ROW)
    said = run("verify", source, target, status=1)
    assert "differs  chat_items [1]: differs" in said
    assert 'differs  idempotency_keys ["more"]: only in the target' in said
    found = json.loads(run("verify", source, target, "--json", status=1).rpartition("\n")[0])
    assert {row["table"] for row in found["differences"]} == {"idempotency_keys", "chat_items"}
    assert "was done before" in run("move", source, target, status=0)


# --- two at once ------------------------------------------------------------------------------------------------------


@DIALECTS
def test_a_stopped_process_keeps_others_out_and_goes_on(
    dialect: Dialect, make_database: Callable[..., str], tmp_path: Path
) -> None:
    source, target = make_database("sqlite"), make_database(dialect)
    steps = 100 if dialect == "sqlite" else 200
    with dal.connect(settings_of(source)) as db:
        db.history.start("e", "w")
        db.history.append_steps("e", list(range(steps)))
    words = ["move", source, target, "--batch-rows", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dal", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=clean()
    )
    try:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and not execute(target, "select 1 from dal_transfer_batches limit 1"):
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{process.pid}/stat")
        while time.monotonic() < until and stat.read_text().rpartition(")")[2][1] not in "TZ":  # stopped, or ended
            time.sleep(0.01)
        count = len(execute(target, "select 1 from dal_transfer_batches"))
        assert 0 < count < steps, "it was stopped in the middle"
        if dialect == "postgres":  # a stopped writer of SQLite may hold the file
            assert "another process is loading into this database" in run(*words, status=1)
        else:
            with pytest.raises((dal.InvalidState, dal.Overloaded, dal.Unavailable, dal.Conflict)):
                moving.move(settings_of(source), settings_of(target, sqlite_busy_timeout=1), size=1)
    finally:
        process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert differing_tables(source, target) == []
    assert execute(target, "select sum(loaded), count(*) from dal_transfer_batches") == [(steps + 1, steps + 1)]


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("DAL_")}


# --- sources ----------------------------------------------------------------------------------------------------------


@DIALECTS
def test_a_source_with_other_columns_or_migrations(dialect: Dialect, make_database: Callable[..., str]) -> None:
    target = make_database("sqlite")
    for statement, says in (
        ("alter table runs add column more text", "runs lacks a column, or has one that is none of ours: more"),
        ("alter table chat_texts rename column first to begin", "chat_texts lacks .*: begin, first"),
        ("insert into dal_schema_migrations select 9999, 'later', sha256, applied_at, duration_ms, app_version "
         "from dal_schema_migrations where version = 1", "9999|newer"),
        ("delete from dal_schema_migrations where version = (select max(version) from dal_schema_migrations)",
         "this code needs"),
    ):  # fmt: skip
        source = make_database(dialect)
        execute(source, statement)
        for words in (["move", source, target], ["move", "--dry-run", source, target]):
            said = run(*words, status=1)
            assert re.search(says, said), said
    assert execute(target, "select count(*) from dal_transfers") == [(0,)]


def test_a_value_that_no_index_takes(source: str, make_database: Callable[..., str]) -> None:
    """Unique indexes are there during the load, and refuse such a row by itself; these are made behind it."""
    target = make_database("postgres")
    change(source, "chat_threads", "true", workflow_id="".join(chr(0x4E00 + 7919 * at % 20_000) for at in range(4000)))
    said = run("move", source, target, status=1)
    assert "does not fit into an index" in said
    assert "CREATE INDEX chat_threads_owner_workflow_idx" in said
    with dal.connect(settings_of(target)) as db, pytest.raises(dal.ReadOnly):
        db.workflows.create("x", actor="a")


def test_a_source_that_is_damaged(source: str, make_database: Callable[..., str]) -> None:
    path = Path(source.removeprefix("sqlite:///"))
    data = bytearray(path.read_bytes())
    page = execute(source, "select rootpage from sqlite_schema where name = 'sqlite_autoindex_runs_1'")[0][0]
    data[(page - 1) * 4096 : (page - 1) * 4096 + 200] = os.urandom(200)
    path.write_bytes(data)
    target = make_database("sqlite")
    with pytest.raises(dal.CorruptDatabase):
        moving.move(settings_of(source), settings_of(target))
    with pytest.raises(dal.CorruptDatabase):
        moving.export_to(settings_of(source), path.parent / "export")


def test_a_source_whose_log_was_not_folded_in(source: str, make_database: Callable[..., str], tmp_path: Path) -> None:
    connection = sqlite3.connect(source.removeprefix("sqlite:///"))
    connection.execute("pragma wal_autocheckpoint = 0")
    connection.execute(ROW)
    connection.commit()
    for name in ("source.db", "source.db-wal"):  # as after a power cut: no -shm, nobody who has it open
        shutil.copy(tmp_path / name, tmp_path / name.replace("source", "copy"))
    connection.close()
    target = make_database("postgres")
    assert moving.move(settings_of(f"sqlite:///{tmp_path / 'copy.db'}"), settings_of(target)).state == "done"
    assert differing_tables(source, target) == []
    assert len(execute(target, "select 1 from idempotency_keys where key = 'more'")) == 1


@DIALECTS
def test_a_source_whose_fence_is_taken_down_meanwhile(
    dialect: Dialect, source: str, make_database: Callable[..., str]
) -> None:
    target = make_database(dialect)

    def tell(progress: loading.Progress) -> None:
        if progress.phase == "load" and progress.table == "runs":
            moving.set_fence(settings_of(source), None)
            change(source, "runs", "true", name="written meanwhile")

    with pytest.raises(dal.InvalidState, match="fence was taken down meanwhile"):
        moving.move(settings_of(source), settings_of(target), workers=1, tell=tell)
    with dal.connect(settings_of(target)) as db, pytest.raises(dal.ReadOnly):
        db.workflows.create("x", actor="a")
    assert "being loaded from" in run("move", source, target, status=1), "fenced again it is another state"


def test_a_dry_run_writes_nothing(source: str, make_database: Callable[..., str], tmp_path: Path) -> None:
    target = make_database("postgres")
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix == ".db"}
    run("move", "--dry-run", source, target, status=0)
    run("move", "--dry-run", source, f"sqlite:///{tmp_path / 'none.db'}", status=0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix == ".db"} == files
    assert "source.db" in files
    assert {execute(target, f"select count(*) from {table.name}")[0][0] for table in inventory()} == {0}
    assert execute(target, "select epoch from dal_database") == [(1,)]

"""``dal demo``: the same account on both databases, and a wrong answer is noticed."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from rich.console import Console

import dal
from dal import demo
from dal.core.catalog import sql_root

ROOT = Path(__file__).resolve().parents[2]


def run_demo(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real program, its output into a pipe."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DAL_", "COLUMNS"))}
    return subprocess.run(
        [sys.executable, "-m", "dal", "demo", *arguments],
        cwd=ROOT, env=inherited | environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def empty(postgres_url: str) -> str:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")
    return postgres_url


def test_the_account_is_the_same_on_both_databases_word_for_word(postgres_url: str, tmp_path: Path) -> None:
    ours = run_demo(TMPDIR=str(tmp_path))
    theirs = run_demo("--url", empty(postgres_url))
    assert (ours.returncode, theirs.returncode) == (0, 0), ours.stderr + theirs.stderr
    assert ours.stdout == theirs.stdout
    assert list(tmp_path.iterdir()) == []  # the temporary file is gone
    assert ours.stderr == "dal demo, on a SQLite file of its own\n"
    assert theirs.stderr.startswith("dal demo, on postgresql://")


def test_the_account_fits_80_plain_columns_and_tells_what_was_promised() -> None:
    said = run_demo().stdout
    assert max(map(len, said.splitlines())) <= 80
    assert said.isascii() or "\x1b" not in said
    for part in (
        "120 workflows are created",
        "296 runs are created",
        "Read in pages of 25",
        "InvalidTransition: The present state does not allow this transition",
        "HandleTaken: Another active workflow has this handle",
        "64 tasks create versions of",
        "worker-1 has 5, worker-2 has 5, worker-3 has 2",
        "Send the digest 30 2 * * * Berlin 03-29 01:00 03-30 00:30",
        "its steps are numbered 0 to 63",
        "Of another workflow 64 are recorded at once, each as the best",
        "its successor, after it was revoked revoked",
        "All but one: the **invoice** of the printer's shop.",
    ):
        assert part in " ".join(said.split())
    (checked,) = re.findall(r"([\d,]+) answers were checked, and all are right", said)
    assert int(checked.replace(",", "")) > 3000


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_other_days_end_well_too(seed: int, tmp_path: Path) -> None:
    said = io.StringIO()
    assert demo.run(None, Console(file=said, width=80), keep=tmp_path / "day.db", seed=seed), said.getvalue()
    assert "answers were checked" in said.getvalue()


def test_plans_depend_on_the_seed_alone() -> None:
    assert demo.plans(5) == demo.plans(5)
    assert demo.plans(5) != demo.plans(6)
    handles = [plan.handle for plan in demo.plans(5)]
    assert len(set(handles)) == len(handles) == demo.WORKFLOWS


def test_the_file_can_be_kept(tmp_path: Path) -> None:
    kept = tmp_path / "kept.db"
    done = run_demo("--keep", kept)
    assert done.returncode == 0, done.stderr
    with dal.connect(f"sqlite:///{kept}") as db:
        kept_flows = db.workflows.list(include_archived=True, limit=500).items
        assert len([flow for flow in kept_flows if "night" not in flow.tags]) == demo.WORKFLOWS
    again = run_demo("--keep", kept)
    assert (again.returncode, again.stdout) == (1, "")
    assert "the database holds workflows, and the demo takes an empty one" in again.stderr


def test_a_database_in_use_is_refused_and_left_alone(make_database: Callable[..., str]) -> None:
    for dialect in ("sqlite", "postgres"):
        url = make_database(dialect)
        with dal.connect(url) as db:
            mine = db.workflows.archive(db.workflows.create("Mine", actor="me").id, actor="me")
        done = run_demo("--url", url)
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        assert "the database holds workflows" in done.stderr
        with dal.connect(url) as db:
            assert list(db.workflows.list(include_archived=True).items) == [mine]


def test_keep_and_url_exclude_each_other() -> None:
    done = run_demo("--keep", "x.db", "--url", "sqlite:///y.db")
    assert (done.returncode, done.stdout) == (2, "")
    assert not (ROOT / "x.db").exists()


# What somebody might edit in a query file, in a directory of overrides, and what the demo says of it.
EDITS = [
    ("workflows.sql", "list_workflows", "order by created_at desc, id desc", "order by created_at, id",
     "1. Six teams write down their work: the first page of workflows: number 1 of 5"),
    ("versions.sql", "get_version_latest", "order by number desc", "order by number",
     "2. Their graphs are kept as versions: the latest version of"),
    ("versions.sql", "get_version_number", "number, graph,", "number, replace(graph, ':30', ':30.0') as graph,",
     "2. Their graphs are kept as versions: version 1 of"),
    ("runs.sql", "list_runs_by_status", "status = :status", "status <> :status",
     "3. Runs come and go: the pending runs of"),
    ("workflows.sql", "list_workflows_all_by_tag", ":limit", "case when :limit > 10 then 10 else :limit end",
     "4. Work changes: all workflows tagged"),
    ("workflows.sql", "resolve_workflow", ":include_archived", "not :include_archived",
     "4. Work changes: unexpected WorkflowNotFound"),
    ("runs.sql", "claim_runs_of_workflow", "limit :limit", "limit min(:limit, 1)",
     "7. Night: workers share what waits: the claimed runs, in line"),
    ("history.sql", "list_steps", "idx > :after", "idx >= :after",
     "10. Every step is written down: the steps in pages"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "query", "was", "becomes", "said"), EDITS, ids=[edit[1] for edit in EDITS])
def test_a_wrong_answer_is_named_and_fails(
    file: str, query: str, was: str, becomes: str, said: str, tmp_path: Path
) -> None:
    text = (sql_root() / "sqlite" / file).read_text()
    (only,) = re.findall(rf"^-- name: {query}\(.*?(?=^-- name: |\Z)", text, re.MULTILINE | re.DOTALL)
    header, _, body = only.partition("\n")
    assert was in body, body
    (tmp_path / "sqlite").mkdir()
    (tmp_path / "sqlite" / file).write_text(f"{header}\n{body.replace(was, becomes)}")
    done = run_demo(DAL_SQL_DIR=str(tmp_path))
    plain = " ".join(done.stdout.split())
    assert done.returncode == 1, done.stdout
    assert f"Wrong answer. {said}" in plain, done.stdout + done.stderr
    assert "answers were checked" not in plain


def test_a_wrong_answer_of_postgres_fails_as_well(postgres_url: str, tmp_path: Path) -> None:
    text = (sql_root() / "postgres" / "versions.sql").read_text()
    (only,) = re.findall(r"^-- name: get_version_by_hash\(.*?(?=^-- name: |\Z)", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "postgres").mkdir()
    edited = only.replace("workflow_id = :workflow_id", "workflow_id <> :workflow_id")
    assert edited != only
    (tmp_path / "postgres" / "versions.sql").write_text(edited)
    done = run_demo("--url", postgres_url, DAL_SQL_DIR=str(tmp_path))
    assert done.returncode == 1
    plain = " ".join(done.stdout.split())
    assert "Wrong answer. 2. Their graphs are kept as versions: unexpected VersionNotFound" in plain, done.stderr

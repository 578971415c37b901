"""The load test in small: it passes, it bites, and it sends its load to this machine alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import yaml

from dal.core.catalog import Catalog
from dal.dal import MODELS_BY_NAME
from loadtest.loopback import refuse_elsewhere
from loadtest.recorder import percentile

ROOT = Path(__file__).resolve().parents[2]
QUERIES = (
    "get_run", "get_version_latest", "resolve_workflow", "list_runs", "list_runs_by_status", "list_workflows",
    "list_workflows_by_tag", "create_run", "create_version", "create_workflow", "mark_run_running",
    "mark_run_succeeded",
)  # fmt: skip


def targets(path: Path, reads: float) -> Path:
    """Targets that no machine misses, but for those of the reads; and arrivals enough for a short run."""
    easy = 30_000
    path.write_text(f"""
        scenarios:
          reads: {{share: 40, rate: 20, p95_ms: {reads}, queries: {{get_run: {reads}}}}}
          lists: {{share: 30, rate: 10, p95_ms: {easy}, queries: {{}}}}
          writes: {{share: 30, rate: 10, p95_ms: {easy}, queries: {{}}}}
    """)
    return path


def load(url: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtest", "--url", url, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def empty_url(postgres_url: str) -> str:
    """A database without any table, as `make` gives one."""
    with psycopg.connect(postgres_url) as connection:
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")
    return postgres_url


def test_a_short_run_passes_and_looks_at_every_answer(empty_url: str, tmp_path: Path) -> None:
    found = load(empty_url, "--users", 10, "--seconds", 5, "--targets", targets(tmp_path / "easy.yaml", 30_000))
    assert found.returncode == 0, found.stdout + found.stderr
    lines = {line.split()[0]: line for line in found.stdout.splitlines() if line.startswith(" ")}
    assert set(QUERIES) <= set(lines), found.stdout
    assert " 0 failures" in found.stdout
    assert found.stderr == "", "users were stopped in the middle of a query, or the pool was closed under them"
    with psycopg.connect(empty_url) as connection:
        runs, trails = connection.execute(
            "select count(*), count(*) filter (where last_event ="
            " (select count(*) from run_events e where e.run_id = r.id)) from runs r"
        ).fetchall()[0]
    assert runs == trails, f"{runs - trails} of {runs} runs have a trail with gaps"


def test_every_target_is_of_a_query_that_the_users_send() -> None:
    scenarios = yaml.safe_load((ROOT / "loadtest/targets.yaml").read_text())["scenarios"]
    named = [query for scenario in scenarios.values() for query in scenario["queries"]]
    assert sorted(named) == sorted(QUERIES)
    assert set(named) <= set(Catalog.load("postgres", MODELS_BY_NAME).queries)
    assert sum(scenario["share"] for scenario in scenarios.values()) == 100


def test_a_missed_target_fails_the_run_and_is_named(empty_url: str, tmp_path: Path) -> None:
    found = load(empty_url, "--users", 10, "--seconds", 1, "--targets", targets(tmp_path / "absurd.yaml", 0.001))
    assert found.returncode == 1, found.stdout + found.stderr
    missed = [line.split()[0] for line in found.stdout.splitlines() if line.endswith("missed")]
    assert missed == ["reads", "get_run"], found.stdout


def test_a_wrong_answer_fails_the_run(empty_url: str, tmp_path: Path) -> None:
    """An override that keeps the contract and answers another run's inputs."""
    packaged = (ROOT / "sql/postgres/runs.sql").read_text()
    begin = packaged.index("-- name: get_run(")
    wrong = packaged[begin : packaged.index("-- name:", begin + 1)].replace(" inputs,", " '{\"ticket\": -1}'::jsonb,")
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres/runs.sql").write_text(wrong)
    easy = targets(tmp_path / "easy.yaml", 30_000)
    found = load(empty_url, "--users", 10, "--seconds", 1, "--targets", easy, DAL_SQL_DIR=str(tmp_path))
    assert found.returncode == 1, found.stdout + found.stderr
    assert "reads get_run: AssertionError: wrong answer: Run(" in found.stdout


def test_a_database_that_has_tables_is_left_alone(postgres_url: str) -> None:
    found = load(postgres_url, "--users", 10, "--seconds", 1)
    assert found.returncode != 0
    assert "has tables already" in found.stderr
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("select count(*) from workflows").fetchall() == [(0,)]


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://db.example.com/dal",
        "postgresql://127.0.0.1,10.0.0.7/dal",
        "postgresql:///dal?hostaddr=192.168.1.9",
        "host=10.0.0.7 dbname=dal",
        "service=production",
    ],
)
def test_load_is_not_sent_over_a_network(dsn: str) -> None:
    with pytest.raises(SystemExit, match=r"not this machine|service file"):
        refuse_elsewhere(dsn)


@pytest.mark.parametrize(
    "dsn",
    ["postgresql://me@127.0.0.1:5432/dal", "postgresql://[::1]/dal", "postgresql:///dal", "host=/run dbname=dal"],
)
def test_load_is_sent_to_this_machine(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGHOST", raising=False)
    refuse_elsewhere(dsn)
    if "127" not in dsn and "::1" not in dsn and "/run" not in dsn:
        monkeypatch.setenv("PGHOST", "db.example.com")
        with pytest.raises(SystemExit, match=r"db\.example\.com"):
            refuse_elsewhere(dsn)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, part) for part in (0.5, 0.95, 0.99, 1)] == [50, 95, 99, 100]
    assert percentile([7.0], 0.95) == 7
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)

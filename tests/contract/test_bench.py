"""The benchmark in small: every row runs and is printed. Never a time: those are for reading."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from bench.measure import Contender, Result, Row, measure
from bench.tokens import welch

ROOT = Path(__file__).resolve().parents[2]
POSTGRES = [
    "point read, sync, pool", "point read, sync, held", "page of 50 runs, sync", "create version, sync",
    "insert one (create run), sync", "read 4 KB of JSON, sync", "write 4 KB of JSON, sync", "point read, async, pool",
    "point read, async, held", "page of 50 runs, async", "create version, async",
    "point reads of 100 tasks, pool of 10: throughput",
]  # fmt: skip
SQLITE = [
    "point read, sync", "point read, sync", "page of 50 runs, sync", "create version, sync", "point read, async",
    "point read, async", "100 writers, threads: throughput", "100 writers, asyncio: throughput",
    "100 writers, gevent: throughput",
]  # fmt: skip


def table(*arguments: str) -> list[list[str]]:
    """The cells of the table's lines, without its head."""
    command = [sys.executable, "-m", "bench", "--quick", *arguments]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (found.returncode, found.stderr) == (0, ""), found.stdout + found.stderr
    lines = [line for line in found.stdout.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def ours(cells: list[list[str]]) -> list[str]:
    return [line[0] for line in cells if line[2] == "DAL"]


@pytest.fixture
def empty_url(postgres_url: str) -> str:
    """A database without any table, as `make` gives one."""
    with psycopg.connect(postgres_url) as connection:
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")
    return postgres_url


def test_every_row_runs_on_both_databases_and_is_printed_beside_its_budget(empty_url: str) -> None:
    cells = table("--url", empty_url)
    wanted = [f"PostgreSQL: {title}" for title in POSTGRES] + [f"SQLite: {title}" for title in SQLITE]
    assert ours(cells) == wanted
    for line in cells:
        assert float(line[3].strip("*")) > 0, line
        assert re.fullmatch(r"([≤≥] \d\.\d\d (met|missed)|)", f"{line[5]} {line[6]}".strip()), line


def test_without_a_server_sqlite_alone_is_measured() -> None:
    assert ours(table()) == [f"SQLite: {title}" for title in SQLITE]


def test_the_times_of_refused_tokens_are_compared_on_both_databases(empty_url: str) -> None:
    command = [sys.executable, "-m", "bench.tokens", "--samples", "300", "--url", empty_url]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (found.returncode in (0, 1), found.stderr) == (True, ""), found.stdout + found.stderr
    lines = [line for line in found.stdout.splitlines() if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [line[0] for line in cells] == ["verify", "verify", "authenticate, SQLite", "authenticate, PostgreSQL"]
    assert [line[4] in ("alike", "TOLD APART") for line in cells] == [True, True, False, False]
    assert found.returncode == any(line[4] == "TOLD APART" for line in cells)


def test_welchs_t_tells_two_samples_apart_and_one_from_itself_not() -> None:
    one = [100 + at % 7 for at in range(1000)]
    assert welch(one, one) == welch([5, 5], [5, 5]) == 0
    assert welch([each + 1 for each in one], one) > 10
    assert welch(one, [each + 1 for each in one]) < -10
    assert welch([5, 5], [6, 6]) == float("inf")


def test_a_database_that_has_tables_is_left_alone(postgres_url: str) -> None:
    command = [sys.executable, "-m", "bench", "--quick", "--url", postgres_url]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode != 0
    assert "has tables already" in found.stderr


def test_contenders_that_do_not_answer_alike_are_not_compared() -> None:
    row = Row("a row", [Contender("right", lambda _: None, lambda: 1), Contender("wrong", lambda _: None, lambda: 2)])
    with pytest.raises(RuntimeError, match="right answers 1, wrong 2"):
        measure(row, rounds=1, seconds=0.001)


def test_a_ratio_compares_with_the_anchor_of_the_same_round() -> None:
    def spin(times: int) -> Contender:
        def run(calls: int) -> None:
            for _ in range(calls * times):
                sum(range(100))

        return Contender(f"{times} times", run, lambda: None, 1.0)

    (slower,) = measure(Row("a row", [spin(1), spin(20)]), rounds=5, seconds=0.002)
    assert slower.ratio > 5, f"twenty times the work took {slower.ratio:.1f} times as long"
    (faster,) = measure(Row("a row", [spin(20), spin(1)], better="higher"), rounds=5, seconds=0.002)
    assert faster.ratio > 5, f"a twentieth of the work was done {faster.ratio:.1f} times as often"


@pytest.mark.parametrize(
    ("ratio", "budget", "better", "verdict"),
    [(1.05, 1.05, "lower", "met"), (1.06, 1.05, "lower", "missed"), (1.0, 1.0, "higher", "met"),
     (0.99, 1.0, "higher", "missed"), (9.0, None, "lower", "")],
)  # fmt: skip
def test_a_budget_is_met_up_to_its_last_digit(ratio: float, budget: float | None, better: str, verdict: str) -> None:
    result = Result("a row", "raw", "DAL", ratio, ratio, ratio, budget, better, 1.0, ratio)  # type: ignore[arg-type]
    assert result.verdict == verdict

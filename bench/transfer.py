"""Loading run history into PostgreSQL: dal import beside psql's \\copy of the same rows into the same table.

    python -m bench.transfer --url postgresql://…                 2,000,000 steps, about 1 GB
    python -m bench.transfer --url postgresql://… --rows 100000

Both take turns, each on a database of its own. \\copy finds the executions there; dal import loads them, too, checks
every value and the files' SHA-256, makes indexes and foreign keys again behind the load, analyzes, and compares
digests; of all this \\copy does what keys and indexes do by themselves.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg

import dal
from dal.core.rows import instant_text

STEPS_EACH = 200  # steps of an execution
ROUNDS = 3
EXECUTION = "execution_id, workflow_id, inputs, tags, callbacks, metadata, status, started_at, completed_at, step_count"
WORDS = ("retry", "fetch", "embed", "rank", "summarize", "route", "merge", "branch", "persist", "notify", "classify")

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


def _payload(chance: random.Random, idx: int) -> str:
    """A step as a graph server notes it: node, status, times, some output."""
    text = " ".join(chance.choices(WORDS, k=chance.randint(15, 60)))
    return json.dumps(
        {
            "node": chance.choice(WORDS), "status": "ok", "attempt": 1, "index": idx,
            "timing": {"queued_ms": chance.randint(0, 900), "ran_ms": chance.randint(1, 60_000)},
            "usage": {"in": chance.randint(10, 4000), "out": chance.randint(9, 900), "cost": round(chance.random(), 4)},
            "output": {"text": text, "score": round(chance.random(), 6), "tags": chance.sample(WORDS, 3), "end": False},
        },
        separators=(",", ":"),
    )  # fmt: skip


def make_source(path: Path, rows: int) -> None:
    """A SQLite database with this many steps, written as fast as SQLite takes them."""
    dal.connect(f"sqlite:///{path}").close()
    chance = random.Random(1)
    payloads = [_payload(chance, idx) for idx in range(5000)]
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma synchronous = off").fetchall()
    connection.execute("begin")

    def executions() -> Iterator[tuple[Any, ...]]:
        for number in range(-(-rows // STEPS_EACH)):
            at = instant_text(BEGUN + timedelta(seconds=number), "at")
            count = min(STEPS_EACH, rows - number * STEPS_EACH)
            yield (
                f"execution-{number:08}",
                f"workflow-{number % 50}",
                "{}",
                "[]",
                "[]",
                "{}",
                "completed",
                at,
                at,
                count,
            )

    def steps() -> Iterator[tuple[Any, ...]]:
        for number in range(rows):
            at = instant_text(BEGUN + timedelta(milliseconds=number * 7), "at")
            yield f"execution-{number // STEPS_EACH:08}", number % STEPS_EACH, at, payloads[number % len(payloads)]

    connection.executemany(f"insert into executions ({EXECUTION}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", executions())
    connection.executemany("insert into execution_steps values (?, ?, ?, ?)", steps())
    connection.execute("commit")
    connection.close()


def write_text(path: Path, text: Path) -> None:
    """The steps once more, in the text format of COPY."""
    connection = sqlite3.connect(path)
    with text.open("w") as file:
        for row in connection.execute("select execution_id, idx, at, payload from execution_steps"):
            file.write(f"{row[0]}\t{row[1]}\t{row[2]}\t{row[3]}\n".replace("\\", "\\\\"))
    connection.close()


@contextmanager
def database(url: str, name: str) -> Iterator[str]:
    """An empty database with the schema; dropped again."""
    parts = urlsplit(url)
    mine = urlunsplit(parts._replace(path=f"/{name}"))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"drop database if exists {name} with (force)".encode())
        connection.execute(f"create database {name}".encode())
        try:
            dal.connect(mine, migrate=True).close()
            yield mine
        finally:
            connection.execute(f"drop database {name} with (force)".encode())


def by_psql(url: str, source: Path, text: Path) -> float:
    """Seconds of \\copy; the executions are there before."""
    with database(url, "bench_copy") as mine:
        here = sqlite3.connect(source)
        into = f"copy executions ({EXECUTION}) from stdin".encode()
        with psycopg.connect(mine, autocommit=True) as connection, connection.cursor().copy(into) as copy:
            for row in here.execute(f"select {EXECUTION} from executions"):
                copy.write_row(row)
        here.close()
        begun = time.monotonic()
        subprocess.run(
            ["psql", "--no-psqlrc", "--quiet", "--dbname", mine, "--set", "ON_ERROR_STOP=1", "--command",
             f"\\copy execution_steps (execution_id, idx, at, payload) from '{text}'"],
            check=True,
        )  # fmt: skip
        return time.monotonic() - begun


def by_dal(command: Sequence[str], source: Path, verified: bool) -> tuple[float, dict[str, Any], float, float]:
    """Seconds of a command on its own, what it reported, MiB, and seconds of dal verify.

    MiB: the most memory that it and each process it began ever had, added up.
    """
    begun = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "dal", *command, "--json"], stdout=subprocess.PIPE)
    most: dict[int, int] = {}

    def watch() -> None:
        while process.poll() is None:
            for number in [process.pid, *_children(process.pid)]:
                most[number] = max(most.get(number, 0), _most_memory(number))
            time.sleep(0.1)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    output = process.communicate()[0]
    spent = time.monotonic() - begun
    thread.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {output.decode()}")
    checked = 0.0
    if verified:
        begun = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "dal", "verify", f"sqlite:///{source}", command[-1]],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        checked = time.monotonic() - begun
    return spent, json.loads(output), sum(most.values()) / 1024, checked


def _children(parent: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except OSError:  # it has ended, or this is no Linux
        return []


def _most_memory(process: int) -> int:
    """KiB; 0 of one that has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def main(arguments: Sequence[str]) -> int:
    """Run as the command line asks; the exit status."""
    parser = argparse.ArgumentParser("python -m bench.transfer", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", metavar="DSN", required=True, help="a PostgreSQL server to make databases on")
    parser.add_argument("--rows", type=int, default=2_000_000, metavar="N", help="steps (2,000,000)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"turns of each ({ROUNDS})")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="dal-bench-"))
    try:
        _measure(options.url, options.rows, options.rounds, folder)
    finally:
        shutil.rmtree(folder)
    return 0


def _measure(url: str, rows: int, rounds: int, folder: Path) -> None:
    source, text, export = folder / "source.db", folder / "steps.txt", folder / "export"
    make_source(source, rows)
    write_text(source, text)
    size = text.stat().st_size / 2**20
    spent, _, most, _ = by_dal(["export", str(export), "--url", f"sqlite:///{source}"], source, False)
    print(
        f"{rows:,} steps, {size:,.0f} MiB as text; dal export: {rows / spent:,.0f} rows/s, {most:.0f} MiB", flush=True
    )
    print(
        "| round | psql \\copy, rows/s | dal import, rows/s | ratio | of it load | verify / load | MiB | dal verify |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    ratios, checks = [], []
    for number in range(1, rounds + 1):
        theirs = by_psql(url, source, text)
        with database(url, "bench_import") as mine:
            ours, report, most, checked = by_dal(["import", str(export), "--url", mine], source, number == 1)
        seconds = report["seconds"]
        load = seconds["load"] + seconds["rebuild"]
        ratios.append(theirs / ours)
        checks.append(seconds["verify"] / load)
        cells = [
            f"{number}", f"{rows / theirs:,.0f}", f"{rows / ours:,.0f}", f"**{theirs / ours:.2f}**",
            f"{load:.1f} of {ours:.1f} s", f"{checks[-1]:.2f}", f"{most:.0f}", f"{checked:.1f} s" if checked else "",
        ]  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)
    print(f"ratio, median of {rounds}: {statistics.median(ratios):.2f}; verify / load: {statistics.median(checks):.2f}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

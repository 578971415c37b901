"""Measure and print: one Markdown table, a line for each contender beside its anchor and budget.

    python -m bench --url postgresql://…   PostgreSQL (an empty database) and SQLite
    python -m bench                        SQLite alone

The exit status is 0 whatever was missed: times are for reading, on a machine that others may be using too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import chain

import psycopg

from bench import postgres, sqlite, writers
from bench.measure import Result, Row, measure

HEAD = (
    "| what | beside | who | ratio | quartiles | budget | | µs beside | µs |",
    "|---|---|---|---|---|---|---|---|---|",
)


def line(result: Result) -> str:
    """One line of the table."""
    sign = "≤" if result.better == "lower" else "≥"
    budget = "" if result.budget is None else f"{sign} {result.budget:.2f}"
    ratio = f"**{result.ratio:.2f}**" if result.budget is not None else f"{result.ratio:.2f}"
    cells = [
        result.title, result.anchor, result.name, ratio, f"{result.low:.2f}–{result.high:.2f}", budget, result.verdict,
        f"{result.anchor_us:.0f}", f"{result.us:.0f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def every_row(dsn: str | None) -> Iterator[Row]:
    """The rows in the order they are printed in."""
    return chain(postgres.rows(dsn), sqlite.rows()) if dsn else sqlite.rows()


def main(arguments: Sequence[str]) -> int:
    """Run as the command line asks; the exit status."""
    parser = argparse.ArgumentParser("python -m bench", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--url", metavar="DSN", help="an empty PostgreSQL database; without it SQLite alone is measured"
    )
    parser.add_argument("--rounds", type=int, default=41, metavar="N", help="how often everybody takes a turn (41)")
    parser.add_argument("--seconds", type=float, default=0.04, metavar="S", help="how long a turn takes (0.04)")
    parser.add_argument("--quick", action="store_true", help="one short round: shows that everything runs")
    parser.add_argument("--only", default="", metavar="TEXT", help="only rows with this text in their title")
    options = parser.parse_args(arguments)
    rounds, seconds = (1, 0.002) if options.quick else (options.rounds, options.seconds)
    results = []
    print(*HEAD, sep="\n", flush=True)
    for row in every_row(options.url):
        if options.only in row.title:
            for result in measure(row, rounds, seconds):
                print(line(result), flush=True)
                results.append(result)
    verdicts = [result.verdict for result in results if result.verdict]
    print(
        f"\n{verdicts.count('met')} of {len(verdicts)} budgets met; ratios are medians of {rounds} interleaved rounds."
    )
    server = f", PostgreSQL {_version(options.url)}" if options.url else ""
    print(f"Python {sys.version.split()[0]}, psycopg {psycopg.__version__} ({psycopg.pq.__impl__}){server}")
    print(writers.sync_time())
    return 0


def _version(dsn: str) -> str:
    with psycopg.connect(dsn) as connection:
        return connection.info.parameter_status("server_version") or "?"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

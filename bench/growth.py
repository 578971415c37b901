"""Whether the work of a query follows the size of its tables: 1,000,000 runs, or chat items, against 10,000.

    python -m bench.growth --url postgresql://…   PostgreSQL (a server to make databases on) and SQLite
    python -m bench.growth                        SQLite alone
    python -m bench.growth list_runs claim_runs   these queries alone

The rows are those that plans are recorded on (tests/plans/seed.*.sql) at a scale of 100; the values are those of
tests/plans/params.yaml. Rows touched, as EXPLAIN ANALYZE counts them, on PostgreSQL; instructions of the virtual
machine on SQLite, and the pages that searches read, because what FTS5 does inside is no instruction: the same on every
machine, so that the exit status is 1 if a query does more than 1.5 times the work. tests/plans/test_growth.py asks the
same at a scale of 10.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from dal.core.catalog import Catalog
from dal.dal import MODELS_BY_NAME
from dal.guard import capture_postgres, capture_sqlite
from dal.guard.capture import Skipped, Sources
from dal.guard.scratch import private_sqlite
from dal.guard.trees import Work

FACTOR = 1.5  # how much more work may be, however many more rows there are
LEVELS = 20  # pages that an index may have grown by, over that
SCALES = (1, 100)

# A line for each query whose work must not follow the size of its tables.
QUERIES = (
    "list_workflows",
    "list_runs",
    "list_runs_by_status",
    "claim_runs",
    "claim_runs_of_workflow",
    "requeue_runs",
    "list_due_crons",
    "create_cron_runs",
    "create_webhook_run",
    "create_retry",
    "create_manual_runs",
    "list_executions",
    "list_executions_by_status",
    "find_executions",
    "list_steps",
    "list_steps_sized",
    "create_checkpoint",
    "get_checkpoint_latest",
    "list_checkpoints",
    "find_checkpoints",
    "list_checkpoints_highest",
    "list_checkpoints_lowest",
    "mark_checkpoint_best",
    "get_stored_token",
    "get_legacy_token",
    "list_tokens",
    "list_tokens_all",
    "list_token_audit",
    "list_audit_chain",
    "create_token",
    "rotate_token",
    "record_token_uses",
    "list_token_refusals_of",
    "search_workflows",
    "search_workflows_all",
    "list_threads",
    "list_threads_oldest",
    "list_threads_of_workflow",
    "list_threads_of_workflow_oldest",
    "find_threads",
    "find_threads_oldest",
    "add_item",
    "save_item",
    "list_items",
    "list_items_newest",
    "search_chat",
)

Works = dict[tuple[str, str], Work]  # by query and case


def figure(work: Work) -> int:
    """What is compared: rows touched on PostgreSQL, instructions on SQLite."""
    return work.steps or work.rows_touched


def known() -> Sequence[str]:
    """Names in the list that no query has, or that no values are given for."""
    queries, sources = Catalog.load("postgres", MODELS_BY_NAME).queries, Sources()
    return [name for name in QUERIES if name not in queries or isinstance(sources.cases(queries[name]), Skipped)]


def _cases(
    catalog: Catalog, sources: Sources, names: Sequence[str]
) -> Iterator[tuple[str, Mapping[str, Mapping[str, object]]]]:
    for name in names:
        cases = sources.cases(catalog.queries[name])
        assert not isinstance(cases, Skipped), f"{name} has no values"
        yield name, cases


def on_sqlite(names: Sequence[str], scale: int) -> tuple[Works, Works]:
    """The work of these queries, in a file that is made and deleted; and the pages that a search for a rare word reads
    there, in the place of instructions."""
    catalog, sources = Catalog.load("sqlite", MODELS_BY_NAME), Sources()
    with TemporaryDirectory() as folder:
        path = Path(folder, "rows.db")
        with private_sqlite(catalog, path=str(path)) as connection:
            connection.execute("pragma synchronous = off")
            capture_sqlite.fill(connection, sources, scale)
            works = {
                (name, case): capture_sqlite.work_of(connection, query, query.bind(values))
                for name, cases in _cases(catalog, sources, names)
                for query in [catalog.queries[name]]
                for case, values in cases.items()
            }
        pages = {
            ("search_chat", case): Work(rows, steps=read)
            for case in (RARE if "search_chat" in names and CAN_COUNT else ())
            for rows, read in [pages_read(path, case)]
        }
    return works, pages


CAN_COUNT = Path("/proc/self/io").exists()  # only Linux counts what a process reads
RARE = ("rare", "rare_next", "rare_beginning", "rare_and_common")  # cases of search_chat


def pages_read(path: Path, case: str) -> tuple[int, int]:
    """What a search by a connection that has read nothing yet returns, and how many pages it reads of the file."""
    query, sources = Catalog.load("sqlite", MODELS_BY_NAME).queries["search_chat"], Sources()
    values = query.bind(sources.cases(query)[case])  # type: ignore[index]  # there are cases
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma mmap_size = 0")
        [size] = connection.execute("pragma page_size").fetchone()
        connection.execute("select count(*) from sqlite_schema").fetchone()
        before = _bytes_read()
        rows = connection.execute(query.statements[0].sql, values[0]).fetchall()
        return len(rows), (_bytes_read() - before) // size


def _bytes_read() -> int:
    """By this process so far, whether from a disk or not."""
    return int(Path("/proc/self/io").read_text("ascii").split("rchar: ")[1].split()[0])


def on_postgres(url: str, names: Sequence[str], scale: int) -> Works:
    """The same, in a database that is made and dropped."""
    catalog, sources = Catalog.load("postgres", MODELS_BY_NAME), Sources()
    with capture_postgres.filled(url, catalog, sources, scale) as connection:
        return {
            (name, case): work
            for name, cases in _cases(catalog, sources, names)
            for case, work in capture_postgres.works_of(connection, catalog.queries[name], cases).items()
        }


def compared(title: str, unit: str, small: Works, large: Works, *, floor: int = 0) -> int:
    """Print a table; how many lines of it are too much. floor: more than that besides."""
    many = f"{SCALES[1] * 10_000:,}"
    print(f"\n{title}\n\n| query | case | {unit} on 10,000 | on {many} | ratio |\n|---|---|---|---|---|")
    bad = 0
    for (name, case), work in small.items():
        before, after = figure(work), figure(large[name, case])
        is_bad = after > FACTOR * max(before, 1) + floor
        ratio = f"{after / before:.2f}" if before else ""
        print(f"| {name} | {case} | {before:,} | {after:,} | {ratio}{' <-- too much' if is_bad else ''} |")
        bad += is_bad
    return bad


def main(arguments: Sequence[str]) -> int:
    """Run as the command line asks; the exit status."""
    parser = argparse.ArgumentParser("python -m bench.growth", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", metavar="DSN", help="a PostgreSQL whose role may make databases; else SQLite alone")
    parser.add_argument("queries", metavar="QUERY", nargs="*", help="of those that are asked of; all by default")
    options = parser.parse_args(arguments)
    names = options.queries or QUERIES
    if unknown := set(names) - set(QUERIES):
        parser.error(f"not asked of: {', '.join(sorted(unknown))}")
    begun = time.monotonic()
    works, pages = zip(*(on_sqlite(names, scale) for scale in SCALES), strict=True)
    bad = compared("SQLite", "instructions", *works)
    if pages[0]:
        bad += compared("SQLite, searches", "pages", *pages, floor=LEVELS)
    if options.url:
        bad += compared("PostgreSQL", "rows touched", *(on_postgres(options.url, names, scale) for scale in SCALES))
    print(f"\n{bad} do more than {FACTOR} times the work; {time.monotonic() - begun:.0f} s")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

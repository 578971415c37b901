"""Whether the work of a query follows the size of its tables: 1,000,000 runs against 10,000.

    python -m bench.growth --url postgresql://…   PostgreSQL (a server to make databases on) and SQLite
    python -m bench.growth                        SQLite alone

The rows are those that plans are recorded on (tests/plans/seed.*.sql) at a scale of 100; the values are those of
tests/plans/params.yaml. Rows touched, as EXPLAIN ANALYZE counts them, on PostgreSQL; instructions of the virtual
machine on SQLite: the same on every machine, so that the exit status is 1 if a query does more than 1.5 times the work.
tests/plans/test_growth.py asks the same at a scale of 10.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from dal.core.catalog import Catalog
from dal.dal import MODELS_BY_NAME
from dal.guard import capture_postgres, capture_sqlite
from dal.guard.capture import Skipped, Sources
from dal.guard.scratch import private_sqlite
from dal.guard.trees import Work

FACTOR = 1.5  # how much more work may be, however many more rows there are
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
)

Works = dict[tuple[str, str], Work]  # by query and case


def figure(work: Work) -> int:
    """What is compared: rows touched on PostgreSQL, instructions on SQLite."""
    return work.steps or work.rows_touched


def known() -> Sequence[str]:
    """Names in the list that no query has, or that no values are given for."""
    queries, sources = Catalog.load("postgres", MODELS_BY_NAME).queries, Sources()
    return [name for name in QUERIES if name not in queries or isinstance(sources.cases(queries[name]), Skipped)]


def _cases(catalog: Catalog, sources: Sources) -> Iterator[tuple[str, Mapping[str, Mapping[str, object]]]]:
    for name in QUERIES:
        cases = sources.cases(catalog.queries[name])
        assert not isinstance(cases, Skipped), f"{name} has no values"
        yield name, cases


def on_sqlite(scale: int) -> Works:
    """The work of every query of the list, in a temporary file."""
    catalog, sources = Catalog.load("sqlite", MODELS_BY_NAME), Sources()
    with private_sqlite(catalog, path="") as connection:
        capture_sqlite.fill(connection, sources, scale)
        return {
            (name, case): capture_sqlite.work_of(connection, query, query.bind(values))
            for name, cases in _cases(catalog, sources)
            for query in [catalog.queries[name]]
            for case, values in cases.items()
        }


def on_postgres(url: str, scale: int) -> Works:
    """The same, in a database that is made and dropped."""
    catalog, sources = Catalog.load("postgres", MODELS_BY_NAME), Sources()
    with capture_postgres.filled(url, catalog, sources, scale) as connection:
        return {
            (name, case): work
            for name, cases in _cases(catalog, sources)
            for case, work in capture_postgres.works_of(connection, catalog.queries[name], cases).items()
        }


def compared(title: str, unit: str, small: Works, large: Works) -> int:
    """Print a table; how many lines of it are too much."""
    many = f"{SCALES[1] * 10_000:,}"
    print(f"\n{title}\n\n| query | case | {unit} on 10,000 | on {many} | ratio |\n|---|---|---|---|---|")
    bad = 0
    for (name, case), work in small.items():
        before, after = figure(work), figure(large[name, case])
        is_bad = after > FACTOR * max(before, 1)
        ratio = f"{after / before:.2f}" if before else ""
        print(f"| {name} | {case} | {before:,} | {after:,} | {ratio}{' <-- too much' if is_bad else ''} |")
        bad += is_bad
    return bad


def main(arguments: Sequence[str]) -> int:
    """Run as the command line asks; the exit status."""
    parser = argparse.ArgumentParser("python -m bench.growth", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", metavar="DSN", help="a PostgreSQL whose role may make databases; else SQLite alone")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    bad = compared("SQLite", "instructions", *map(on_sqlite, SCALES))
    if options.url:
        bad += compared("PostgreSQL", "rows touched", *(on_postgres(options.url, scale) for scale in SCALES))
    print(f"\n{bad} do more than {FACTOR} times the work; {time.monotonic() - begun:.0f} s")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""How SQLite executes a query: EXPLAIN QUERY PLAN, and the instructions its virtual machine takes.

Without ANALYZE, as the engine uses it; then again with it, since a DBA may run it.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from dal.core.catalog import Catalog, Query
from dal.guard.capture import SIZES, CannotCapture, Capture, Case, Rows, Skipped, Sources
from dal.guard.scratch import describe, private_sqlite
from dal.guard.steps import Step, aliases_of, parse_step
from dal.guard.trees import Work


def version() -> str:
    """The SQLite in use, as snapshots name it."""
    return ".".join(sqlite3.sqlite_version.split(".")[:2])


def capture_sqlite(
    catalog: Catalog, sources: Sources, changes: Sequence[str] = (), rows: Rows | None = None
) -> dict[str, Capture | Skipped | CannotCapture]:
    """Every query of the catalog. changes: statements run after the migrations, to see what they would do; with rows
    that are there already, they are run on those.

    Raises CannotCapture.
    """
    try:
        return _capture_all(catalog, sources, changes, rows)
    except sqlite3.Error as error:
        raise CannotCapture(f"SQLite says: {error}") from error


def _capture_all(
    catalog: Catalog, sources: Sources, changes: Sequence[str], rows: Rows | None
) -> dict[str, Capture | Skipped | CannotCapture]:
    with ExitStack() as stack:
        databases = {}
        for size, scale in SIZES.items():
            connection = stack.enter_context(private_sqlite(catalog, () if rows else changes))
            if rows:
                _copy(rows.sqlite[scale], connection)
                for sql in changes:
                    connection.execute(sql)
            else:
                fill(connection, sources, scale)
            databases[size] = connection
        taken: dict[str, Capture | Skipped | CannotCapture] = {}
        for query in catalog.queries.values():
            try:
                taken[query.name] = _capture(query, sources, databases)
            except CannotCapture as problem:
                taken[query.name] = problem
        large = databases["large"]
        large.execute("analyze")
        names = _index_names(large)
        for name, capture in taken.items():
            if isinstance(capture, Capture):
                after = {case: _steps(large, capture.query, bound, names) for case, bound in _bound(capture, sources)}
                moved = {case: steps for case, steps in after.items() if steps != capture.cases[case].steps}
                taken[name] = replace(capture, analyzed=moved)
        return taken


def fill(connection: sqlite3.Connection, sources: Sources, scale: int) -> None:
    """Fill a database from the seed. scale: what :scale is in it."""
    connection.execute("begin")
    for sql in sources.seed("sqlite", scale):
        connection.execute(sql)
    connection.execute("commit")


def _copy(path: Path, connection: sqlite3.Connection) -> None:
    with closing(sqlite3.connect(path)) as source:
        source.backup(connection)


def _bound(capture: Capture, sources: Sources) -> list[tuple[str, tuple[tuple[object, ...], ...]]]:
    cases = sources.cases(capture.query)
    assert not isinstance(cases, Skipped)  # a capture was taken
    return [(case, capture.query.bind(values)) for case, values in cases.items()]


def _capture(query: Query, sources: Sources, databases: Mapping[str, sqlite3.Connection]) -> Capture | Skipped:
    cases = sources.cases(query)
    if isinstance(cases, Skipped):
        return cases
    done = {}
    for case, values in cases.items():
        try:
            bound = query.bind(values)
            steps = _steps(databases["large"], query, bound, _index_names(databases["large"]))
            work = {size: work_of(connection, query, bound) for size, connection in databases.items()}
        except (sqlite3.Error, ValueError) as error:
            raise CannotCapture(f"{query.name}, case {case}: SQLite says: {error}") from error
        done[case] = Case(work["large"].returned, steps=steps, work=work)
    return Capture(query, version(), done)


def _steps(
    connection: sqlite3.Connection, query: Query, bound: Sequence[Sequence[object]], names: Mapping[str, str]
) -> list[Step]:
    steps = []
    aliases = aliases_of(query, describe(connection))
    for at, (statement, values) in enumerate(zip(query.statements, bound, strict=True)):
        depths: dict[int, int] = {}
        for key, parent, _, detail in connection.execute(f"explain query plan {statement.sql}", values):
            depths[key] = depths.get(parent, -1) + 1
            steps.append(parse_step(detail, at + 1, depths[key], aliases[at], names))
    return steps


def work_of(connection: sqlite3.Connection, query: Query, bound: Sequence[Sequence[Any]]) -> Work:
    """Run the query twice and undo it; count the second time, when every statement is prepared already."""
    _run(connection, query, bound)
    return _run(connection, query, bound)


def _run(connection: sqlite3.Connection, query: Query, bound: Sequence[Sequence[Any]]) -> Work:
    steps, returned = 0, 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection.execute("begin immediate")
    connection.set_progress_handler(count, 1)
    try:
        for statement, values in zip(query.statements, bound, strict=True):
            cursor = connection.execute(statement.sql, values)
            if cursor.description is not None:
                returned = len(cursor.fetchall())
    finally:
        connection.set_progress_handler(None, 1)
        connection.execute("rollback")
    return Work(returned, steps=steps)


def _index_names(connection: sqlite3.Connection) -> dict[str, str]:
    """What SQLite calls sqlite_autoindex_runs_1, by the name of the constraint that made it."""
    names = {}
    tables = connection.execute("select name, sql from sqlite_schema where type = 'table' and sql is not null")
    for table, sql in tables.fetchall():
        constraints = re.findall(r"constraint\s+(\w+)\s+(?:primary\s+key|unique)\s*\(([^)]*)\)", sql, re.IGNORECASE)
        by_columns = {re.sub(r"\s", "", columns): name for name, columns in constraints}
        listed = connection.execute("select name from pragma_index_list(?) where origin <> 'c'", (table,))
        for (index,) in listed.fetchall():
            columns = connection.execute("select name from pragma_index_info(?)", (index,)).fetchall()
            names[index] = by_columns.get(",".join(column for (column,) in columns), index)
    return names

"""How PostgreSQL executes a query: EXPLAIN on a database made for it, filled from the seed, with statistics as large
as policy.yaml says the tables will be.

The planner takes a table's rows from its real pages and the density that pg_class notes. So a small table plans like a
large one once its reltuples are scaled up, which takes a superuser before PostgreSQL 18.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import psycopg
from psycopg.conninfo import make_conninfo

from dal.core.catalog import Catalog, Query
from dal.core.postgres_connection import connection_arguments
from dal.core.postgres_door import PostgresDoor
from dal.errors import DalError
from dal.guard.capture import SIZES, CannotCapture, Capture, Case, Cases, Rows, Skipped, Sources
from dal.guard.scratch import schema_statements
from dal.guard.trees import Tree, Work, from_explain, work_of
from dal.settings import Settings

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

PINNED_ID = "pg-pinned-1"
# All other settings of the planner are set to what PostgreSQL is built with.
PINNED: Mapping[str, str] = {
    "jit": "off", "max_parallel_workers_per_gather": "0", "random_page_cost": "1.1", "seq_page_cost": "1",
    "effective_cache_size": "4GB", "work_mem": "4MB", "hash_mem_multiplier": "2", "geqo": "off",
    "from_collapse_limit": "8", "join_collapse_limit": "8", "default_statistics_target": "1000",
    "cursor_tuple_fraction": "0.1", "timezone": "UTC", "statement_timeout": "0", "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}  # fmt: skip
VACUUMS = 20  # tries, 19 s in all
CAUTIOUS = "4"  # random_page_cost as PostgreSQL is built, and as many servers are left


def capture_postgres(
    url: str, catalog: Catalog, sources: Sources, changes: Sequence[str] = (), rows: Rows | None = None
) -> dict[str, Capture | Skipped | CannotCapture]:
    """Every query of the catalog. url: of a server on which this makes and drops databases of its own.

    changes: statements run after the migrations, to see what they would do; with rows that are there already, they are
    run on those. Raises CannotCapture.
    """
    taken: dict[str, Capture | Skipped | CannotCapture] = {}
    try:
        works: dict[str, dict[str, dict[str, Work]]] = {}
        with filled(url, catalog, sources, SIZES["small"], changes, rows) as connection:
            for query, cases in _wanted(catalog, sources, taken):
                with _noted(taken, query), _tidied(connection, query, sources):
                    works[query.name] = {"small": works_of(connection, query, cases)}
        with filled(url, catalog, sources, SIZES["large"], changes, rows) as connection:
            for query, cases in _wanted(catalog, sources, taken):
                with _noted(taken, query), _tidied(connection, query, sources):
                    works[query.name]["large"] = works_of(connection, query, cases)
                    taken[query.name] = _capture(connection, query, cases, works[query.name])
    except psycopg.errors.InsufficientPrivilege as error:
        raise CannotCapture(
            f"PostgreSQL says: {error.diag.message_primary}. Taking plans needs a role that may make databases, and "
            "before PostgreSQL 18 a superuser, on a server that is not in use: 'make plans' brings its own"
        ) from error
    except psycopg.Error as error:
        raise CannotCapture(f"PostgreSQL says: {error.diag.message_primary or error}") from error
    return taken


def _wanted(
    catalog: Catalog, sources: Sources, taken: dict[str, Capture | Skipped | CannotCapture]
) -> Iterator[tuple[Query, Cases]]:
    for query in catalog.queries.values():
        if isinstance(taken.get(query.name), (Skipped, CannotCapture)):
            continue
        try:
            cases = sources.cases(query)
        except CannotCapture as problem:
            taken[query.name] = problem
            continue
        if isinstance(cases, Skipped):
            taken[query.name] = cases
        else:
            yield query, cases


@contextmanager
def _noted(taken: dict[str, Capture | Skipped | CannotCapture], query: Query) -> Iterator[None]:
    try:
        yield
    except (psycopg.Error, DalError) as error:
        said = error.diag.message_primary if isinstance(error, psycopg.Error) else None
        taken[query.name] = CannotCapture(f"{query.name}: PostgreSQL says: {said or error}")


# --- a database like the one in production ----------------------------------------------------------------------------


@contextmanager
def filled(
    url: str,
    catalog: Catalog,
    sources: Sources,
    scale: int,
    changes: Sequence[str] = (),
    rows: Rows | None = None,
) -> Iterator[Connection]:
    """A database of its own, filled from the seed; dropped at the end. scale: what :scale is in the seed."""
    name, template = f"dal_plans_{secrets.token_hex(6)}", rows.postgres[scale] if rows else "template0"
    door = PostgresDoor(Settings.from_url(url))
    try:
        door.connection.execute(
            f"create database {name} template {template} encoding 'UTF8' lc_collate 'C' lc_ctype 'C'".encode()
        )
        try:
            arguments = connection_arguments(Settings.from_url(url))
            given = {key: value for key, value in arguments.items() if key != "dbname"}
            target = make_conninfo(**{**given, "dbname": name})
            with psycopg.connect(target, autocommit=True, prepare_threshold=None) as connection:
                _pin(connection)
                if rows is None:
                    fill(connection, catalog, sources, scale, changes)
                else:
                    for sql in changes:
                        connection.execute(sql.encode())
                _enlarge(connection, sources)
                yield connection
        finally:
            door.connection.execute(f"drop database {name} with (force)".encode())
    finally:
        door.close()


def _pin(connection: Connection) -> None:
    odd = connection.execute(
        "select name, boot_val from pg_settings where category like 'Query Tuning%' and context = 'user'"
        "   and setting is distinct from boot_val"
    ).fetchall()
    for name, value in {**dict(odd), **PINNED}.items():
        connection.execute("select set_config(%s, %s, false)", (name, value))


def _profile(sources: Sources) -> Mapping[str, Any]:
    tables: Mapping[str, Any] = sources.policy["tables"]
    return {table: facts for table, facts in tables.items() if facts.get("only", "postgres") == "postgres"}


def fill(connection: Connection, catalog: Catalog, sources: Sources, scale: int, changes: Sequence[str] = ()) -> None:
    """Make the tables, and fill them from the seed. scale: what :scale is in it."""
    profile = _profile(sources)
    for sql in (*schema_statements(catalog), *changes):
        connection.execute(sql.encode())
    for table, facts in profile.items():
        connection.execute(f"alter table {table} set (autovacuum_enabled = false)".encode())
        for column, distinct in facts.get("distinct", {}).items():
            connection.execute(f"alter table {table} alter column {column} set (n_distinct = {distinct})".encode())
    with connection.transaction(), _references_later(connection):
        for sql in sources.seed("postgres", scale):
            connection.execute(sql.encode())


def _enlarge(connection: Connection, sources: Sources) -> None:
    profile = _profile(sources)
    _vacuum(connection, profile, "freeze, analyze")
    for table, facts in profile.items():
        _tell_sizes(connection, _enlarged(connection, table, facts["rows"]))


@contextmanager
def _references_later(connection: Connection) -> Iterator[None]:
    """Foreign keys go, and come back at the end: row by row, they are a quarter of the work of filling."""
    keys = connection.execute(
        "select format('alter table %s ', conrelid::regclass), format('constraint %I ', conname),"
        "       pg_get_constraintdef(oid) from pg_constraint where contype = 'f' order by oid"
    ).fetchall()
    for table, name, _ in keys:
        connection.execute(f"{table} drop {name}".encode())
    yield
    for table, name, definition in keys:
        connection.execute(f"{table} add {name} {definition}".encode())


def _vacuum(connection: Connection, tables: Iterable[str], options: str) -> None:
    """Leave no dead row, and every page known to be visible to all: what a query touches depends on both.

    A snapshot that another session takes while it connects may be older than the rows, and keep a vacuum from its work.
    """
    left = None
    for attempt in range(VACUUMS):
        time.sleep(0.1 * attempt)
        connection.execute(f"vacuum ({options}) {', '.join(tables)}".encode())
        left = connection.execute(
            "select string_agg(relname, ', ' order by relname) from pg_class"
            " where oid = any(%s::regclass[]) and relallvisible < relpages",
            (list(tables),),
        ).fetchone()
        if left == (None,):
            return
    raise CannotCapture(f"another session keeps old rows of {left[0] if left else '?'} from being vacuumed: end it")


@contextmanager
def _tidied(connection: Connection, query: Query, sources: Sources) -> Iterator[None]:
    """Vacuum what a query leaves behind that was undone: the next one would count its dead rows."""
    before = _written(connection, sources) if query.writes else {}
    try:
        yield
    finally:
        after = _written(connection, sources) if query.writes else {}
        tables = [table for table, rows in after.items() if rows is None or rows != before[table]]
        if tables:
            sizes = [size for table in tables for size in _enlarged(connection, table)]
            _vacuum(connection, tables, "index_cleanup on")
            _tell_sizes(connection, sizes)


def _written(connection: Connection, sources: Sources) -> dict[str, int | None]:
    """How many rows were ever written to each table, undone ones too; None where PostgreSQL cannot be asked in time."""
    profile = _profile(sources)
    if connection.info.server_version < 150000:
        return dict.fromkeys(profile)
    connection.execute("select pg_stat_force_next_flush()")
    rows = connection.execute(
        "select relname, n_tup_ins + n_tup_upd + n_tup_del from pg_stat_user_tables where relname = any(%s)",
        (list(profile),),
    )
    return dict(rows.fetchall())


def _enlarged(connection: Connection, table: str, rows: int | None = None) -> list[tuple[int, str, float]]:
    """Oid, name and rows of a table and its indexes, as the planner knows them, or as if the table had so many rows."""
    return connection.execute(
        "with t as (select oid, greatest(reltuples, 1) as has from pg_class where oid = %s::regclass)"
        " select c.oid, c.relname, (c.reltuples * coalesce(%s / t.has, 1))::real from t, pg_class c"
        "  where c.oid = t.oid or c.oid in (select indexrelid from pg_index where indrelid = t.oid)",
        (table, rows),
    ).fetchall()


def _tell_sizes(connection: Connection, sizes: Iterable[tuple[int, str, float]]) -> None:
    """Tell the planner how many rows tables and indexes have."""
    for oid, name, tuples in sizes:
        if connection.info.server_version >= 180000:
            connection.execute(
                "select pg_restore_relation_stats('schemaname', 'public', 'relname', %s::text, 'reltuples', %s::real)",
                (name, tuples),
            )
        else:
            connection.execute("update pg_class set reltuples = %s where oid = %s", (tuples, oid))


# --- one query --------------------------------------------------------------------------------------------------------


def literal(value: object) -> str:
    """A bound value as SQL text of no type, as the engine sends it."""
    if value is None:
        return "null"
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'"
    if isinstance(value, list):
        items = ['"' + str(each).replace("\\", "\\\\").replace('"', '\\"') + '"' for each in value]
        return literal("{" + ",".join(items) + "}")
    return "'" + str(value).replace("'", "''") + "'"


def execute_text(query: Query, values: Mapping[str, Any], name: str = "dal_plan") -> str:
    """EXECUTE of the prepared query with these values. Raises Invalid."""
    arguments = ", ".join(map(literal, query.bind(values)[0]))
    return f"execute {name}({arguments})" if arguments else f"execute {name}"


@contextmanager
def prepared(connection: Connection, query: Query, mode: str, name: str = "dal_plan") -> Iterator[None]:
    """The query as a prepared statement. mode: generic or custom, how it is to be planned."""
    connection.execute("select set_config('plan_cache_mode', %s, false)", (f"force_{mode}_plan",))
    connection.execute(f"prepare {name} as {query.statements[0].sql}".encode())
    try:
        yield
    finally:
        if connection.info.transaction_status != psycopg.pq.TransactionStatus.INERROR:
            connection.execute(f"deallocate {name}".encode())


def _explain(connection: Connection, query: Query, values: Mapping[str, Any], options: str = "") -> Mapping[str, Any]:
    row = connection.execute(f"explain (format json{options}) {execute_text(query, values)}".encode()).fetchone()
    assert row is not None  # EXPLAIN answers one
    plan: Mapping[str, Any] = row[0][0]["Plan"]
    return plan


_COUNTED = ", analyze, buffers, timing off, summary off"


def works_of(connection: Connection, query: Query, cases: Cases) -> dict[str, Work]:
    """What the plan that serves a query does, by case: run twice, undone, the second run counted."""
    done = {}
    with prepared(connection, query, "custom" if query.custom else "generic"):
        for case, values in cases.items():
            for _ in range(2):
                with connection.transaction(force_rollback=True):
                    done[case] = work_of(_explain(connection, query, values, _COUNTED))
    return done


def _capture(connection: Connection, query: Query, cases: Cases, works: Mapping[str, Mapping[str, Work]]) -> Capture:
    params = query.statements[0].params
    anything = next(iter(cases.values()))
    with prepared(connection, query, "generic"):
        generic = from_explain(_explain(connection, query, anything), params)
    custom: dict[str, Tree] = {}
    with prepared(connection, query, "custom"):
        for case, values in cases.items():
            custom[case] = from_explain(_explain(connection, query, values), params)
    done = {
        case: Case(
            works["large"][case].returned,
            plan=custom[case] if custom[case].hash != generic.hash else None,
            work={size: works[size][case] for size in SIZES},
        )
        for case in cases
    }
    cautious, cautious_work = None, {}
    connection.execute("select set_config('random_page_cost', %s, false)", (CAUTIOUS,))
    try:
        with prepared(connection, query, "generic"):
            tree = from_explain(_explain(connection, query, anything), params)
        if tree.hash != generic.hash:
            cautious, cautious_work = tree, works_of(connection, query, cases)
    finally:
        connection.execute("select set_config('random_page_cost', %s, false)", (PINNED["random_page_cost"],))
    version = str(connection.info.server_version // 10000)
    return Capture(query, version, done, generic, cautious, cautious_work)

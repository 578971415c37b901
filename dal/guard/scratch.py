"""Databases made for a moment, from the migrations: to prepare statements on, and to ask what is unique."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import psycopg
from msgspec import Struct

from dal.core.catalog import Catalog
from dal.core.postgres_door import PostgresDoor
from dal.core.postgres_errors import translate
from dal.core.schema import ledger_sql, migrations
from dal.core.tokens import statements
from dal.settings import Settings


class Table(Struct, frozen=True):
    """A table as the migrations make it, the same in both dialects. keys: the columns of each unique key."""

    columns: frozenset[str]
    keys: Sequence[frozenset[str]]


def schema_statements(catalog: Catalog) -> Iterator[str]:
    """What makes an empty database ours: the ledger's table, then the migrations in order."""
    texts = [ledger_sql(catalog), *(migration.sql for migration in migrations(catalog.dialect))]
    for text in texts:
        for statement in statements(text, catalog.dialect, "", str):
            yield statement.sql


@contextmanager
def private_sqlite(
    catalog: Catalog, changes: Sequence[str] = (), *, path: str = ":memory:"
) -> Iterator[sqlite3.Connection]:
    """An empty database with the schema, and with these statements run after the migrations. path: in memory by
    default; "" is a temporary file."""
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=512)
    try:
        connection.execute("pragma foreign_keys = 1")
        connection.execute("pragma recursive_triggers = 1")
        for sql in (*schema_statements(catalog), *changes):
            connection.execute(sql)
        yield connection
    finally:
        connection.close()


def describe(connection: sqlite3.Connection) -> Mapping[str, Table]:
    """The tables of a SQLite database. Partial indexes and those over nullable columns are no keys; of a virtual table,
    which has no other, the rowid is."""
    tables = {}
    names = connection.execute(
        "select name, type from pragma_table_list where type in ('table', 'virtual') and name not like 'sqlite%'"
    )
    for name, kind in names.fetchall():
        info = connection.execute('select name, "notnull", pk from pragma_table_info(?)', (name,)).fetchall()
        required = {column for column, not_null, key in info if not_null or key}
        keys = [frozenset(column for column, _, key in info if key)]
        unique = connection.execute(
            'select name from pragma_index_list(?) where "unique" and not partial', (name,)
        ).fetchall()
        for (index,) in unique:
            columns = connection.execute("select name from pragma_index_info(?)", (index,)).fetchall()
            keys.append(frozenset(column for (column,) in columns if column))
        if kind == "virtual":
            required.add("rowid")
            keys.append(frozenset({"rowid"}))
        usable = [key for key in dict.fromkeys(keys) if key and key <= required]
        tables[name] = Table(frozenset(column for column, _, _ in info) | required, usable)
    return tables


@contextmanager
def private_postgres(
    url: str, catalog: Catalog, changes: Sequence[str] = ()
) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A connection inside a transaction whose current schema is new and has the tables; all of it is rolled back.

    Safe on any database: nobody else sees the schema. Raises Unavailable, or what a role without CREATE gets.
    """
    door = PostgresDoor(Settings.from_url(url))
    try:
        with door.connection.transaction(force_rollback=True):
            door.connection.execute("create schema dal_guard")
            door.connection.execute("set local search_path to dal_guard")
            for sql in (*schema_statements(catalog), *changes):
                door.connection.execute(sql.encode())
            yield door.connection
    except psycopg.Error as error:
        raise translate(error) from error
    finally:
        door.close()

"""What is moved, beside what each database says it has."""

from __future__ import annotations

import pytest

from dal.transfer.inventory import KINDS, Table, inventory
from tests.transfer.conftest import execute

# Tables that only SQLite has: made again from the rows they are about.
MADE_AGAIN = {"execution_terms", "checkpoint_terms", "chat_thread_terms"}
FULL_TEXT = ("chat_threads_fts", "chat_texts_fts", "workflow_texts_fts")
STORED = {"uuid": "text", "text": "text", "int": "integer", "float": "real", "bool": "integer",
          "timestamptz": "text", "json": "text", "bytes": "blob"}  # fmt: skip
TABLES = {table.name: table for table in inventory()}

COLUMNS = """
select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), not a.attnotnull, a.attidentity <> ''
  from pg_attribute a join pg_class c on c.oid = a.attrelid
 where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace and a.attnum > 0 and not a.attisdropped
 order by c.relname, a.attnum"""
KEYS = """
select t.relname, k.contype, array(select attname::text from unnest(k.conkey) with ordinality as u (n, o)
                                     join pg_attribute a on a.attrelid = k.conrelid and a.attnum = n order by o),
       f.relname, array(select attname::text from unnest(k.confkey) with ordinality as u (n, o)
                          join pg_attribute a on a.attrelid = k.confrelid and a.attnum = n order by o), k.confdeltype
  from pg_constraint k join pg_class t on t.oid = k.conrelid left join pg_class f on f.oid = k.confrelid
 where t.relnamespace = 'public'::regnamespace and k.contype in ('p', 'f')"""


def test_it_is_what_postgresql_has(postgres_url: str) -> None:
    named = {"timestamp with time zone": "timestamptz"}
    found: dict[str, list[tuple[object, ...]]] = {}
    for table, column, kind, nullable, is_counted in execute(postgres_url, COLUMNS):
        if not table.startswith("dal_"):
            found.setdefault(table, []).append((column, KINDS[named.get(kind, kind)], nullable, is_counted))
    assert {name: [tuple(column) for column in table.columns] for name, table in TABLES.items()} == found


def test_and_its_keys(postgres_url: str) -> None:
    deleting = {"c": "cascade", "n": "set null", "a": None}
    keys, references = {}, set()
    for table, kind, mine, other, theirs, deletes in execute(postgres_url, KEYS):
        if table.startswith("dal_"):
            continue
        if kind == "p":
            keys[table] = tuple(mine)
        else:
            references.add((table, tuple(mine), other, tuple(theirs), deleting[deletes]))
    assert {name: table.key for name, table in TABLES.items()} == keys
    assert {
        (name, tuple(one.columns), one.target, tuple(one.target_columns), one.on_delete)
        for name, table in TABLES.items()
        for one in table.references
    } == references


def test_every_table_of_sqlite_is_moved_or_made_again(sqlite_url: str) -> None:
    names = {row[0] for row in execute(sqlite_url, "select name from sqlite_schema where type = 'table'")}
    rest = {name for name in names - TABLES.keys() if not name.startswith(("dal_", "sqlite_", *FULL_TEXT))}
    assert (rest, TABLES.keys() - names) == (MADE_AGAIN, set())


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_sqlite_has_the_same_columns_in_the_same_order(sqlite_url: str, table: Table) -> None:
    rows = execute(sqlite_url, f"select name, lower(type), \"notnull\", pk from pragma_table_info('{table.name}')")
    assert [(name, kind, not wanted) for name, kind, wanted, _ in rows] == [
        (column.name, STORED[column.kind], column.nullable) for column in table.columns
    ]
    assert [name for name, _, _, place in sorted(rows, key=lambda row: row[3]) if place] == list(table.key)
    keys = execute(
        sqlite_url, f'select "from", "table", lower(on_delete) from pragma_foreign_key_list(\'{table.name}\')'
    )
    assert {(mine, other, None if deletes == "no action" else deletes) for mine, other, deletes in keys} == {
        (mine, one.target, one.on_delete) for one in table.references for mine in one.columns
    }


def test_what_is_referred_to_comes_first() -> None:
    seen: set[str] = set()
    for table in inventory():
        assert {one.target for one in table.references} <= seen | {table.name}
        seen.add(table.name)

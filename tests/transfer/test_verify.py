"""``dal verify`` finds whatever single value or row is altered, and names it."""

from __future__ import annotations

import json
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from dal.transfer import moving
from dal.transfer import verify as comparing
from dal.transfer.inventory import Column, Table, inventory
from dal.transfer.side import Range, Side
from dal.transfer.values import Refused, form
from tests.conftest import SERVERS
from tests.transfer.conftest import settings_of


class Pair:
    """A source, a target that was loaded from it, and a connection that keeps no rule of the target's."""

    def __init__(self, source: str, target: str) -> None:
        moving.move(settings_of(source), settings_of(target))
        self.source: Side = moving.open_side(settings_of(source))
        self.target: Side = moving.open_side(settings_of(target))
        self.connection: Any = (
            psycopg.connect(target, autocommit=True)
            if target.startswith("postgres")
            else sqlite3.connect(target.removeprefix("sqlite:///"), isolation_level=None)
        )
        if target.startswith("postgres"):
            for table, name in self.connection.execute(
                "select conrelid::regclass::text, conname from pg_constraint where contype in ('c', 'f') "
                "and conrelid <> 0"
            ).fetchall():
                self.run(f"alter table {table} drop constraint {name}")
            self.connection.execute("set session_replication_role = replica")
        else:
            self.connection.execute("pragma ignore_check_constraints = on")

    def run(self, sql: str, *values: Any) -> None:
        """A change behind everybody's back."""
        if self.target.dialect == "postgres":
            self.connection.execute(sql.replace("?", "%s").encode(), values)
        else:
            self.connection.execute(sql, values)

    def differences(self, table: Table) -> list[tuple[str, str]]:
        """What a comparison of this table names: keys, and how they differ."""
        found = comparing.verify(self.source, self.target, only=[table.name])
        assert found.is_equal == (not found.differences)
        assert {each.table for each in found.differences} <= {table.name}
        return [(each.key, each.how) for each in found.differences]

    def close(self) -> None:
        self.connection.close()
        self.source.close()
        self.target.close()


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def pair(
    request: pytest.FixtureRequest, pytestconfig: pytest.Config, filled: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    shutil.copy(filled, folder / "source.db")
    server = pytestconfig.stash[SERVERS][0] if request.param == "postgres" else None
    name = f"pair_{secrets.token_hex(6)}"
    target = server.create_database(name) if server else f"sqlite:///{folder / 'target.db'}"
    pair = Pair(f"sqlite:///{folder / 'source.db'}", target)
    yield pair
    pair.close()
    if server:
        server.drop_database(name)


NEW = {
    "int": 7, "timestamptz": "2031-01-01T00:00:00.000000Z", "json": "{}", "float": 7.5, "uuid": str(UUID(int=7)),
    "text": "x",
}  # fmt: skip


def other_value(column: Column, value: Any) -> Any:
    """A value of the column's kind that is another one."""
    if value is None:
        return NEW[column.kind]
    changed: dict[str, Callable[[], Any]] = {
        "uuid": lambda: value[:-1] + ("0" if value[-1] != "0" else "1"),
        "text": lambda: value[:-1] + ("x" if value[-1:] != "x" else "y"),
        "int": lambda: value + 1_000_000,
        "float": lambda: value + 0.5,
        "bool": lambda: not value,
        "timestamptz": lambda: value[:20] + f"{(int(value[20:26]) + 1) % 1000000:06}Z",
        "json": lambda: json.dumps([json.loads(value)]),
        "bytes": lambda: bytes(reversed(bytes.fromhex(value))) + b"!",
    }
    return changed[column.kind]()


@pytest.mark.parametrize("table", inventory(), ids=lambda table: table.name)
def test_every_altered_column_is_found(pair: Pair, table: Table) -> None:
    row = next(pair.source.read(table, Range()))
    row = pair.source.checker(form(table))(row, lambda rule, column: None)
    key = form(table).key(row)
    assert pair.differences(table) == []
    where = " and ".join(f"{name} = {pair.target.bound(table, name)}" for name in table.key)
    for column, value in zip(table.columns, row, strict=True):
        if column.name in table.key:
            continue
        other = other_value(column, value)
        bound = int(other) if column.kind == "bool" and pair.target.dialect == "sqlite" else other
        back = int(value) if column.kind == "bool" and pair.target.dialect == "sqlite" else value
        back = bytes.fromhex(value) if column.kind == "bytes" else back
        place = "?::jsonb" if column.kind == "json" and pair.target.dialect == "postgres" else "?"
        pair.run(f"update {table.name} set {column.name} = {place} where {where}", bound, *key)
        assert pair.differences(table) == [(json.dumps(key), "differs")], column.name
        pair.run(f"update {table.name} set {column.name} = {place} where {where}", back, *key)
    assert pair.differences(table) == []


@pytest.mark.parametrize("table", inventory(), ids=lambda table: table.name)
def test_a_row_that_is_missing_or_too_many_is_found(pair: Pair, table: Table) -> None:
    shape = form(table)
    rows = [pair.source.checker(shape)(row, lambda rule, column: None) for row in pair.source.read(table, Range())]
    row = rows[len(rows) // 2]
    key = json.dumps(shape.key(row))
    where = " and ".join(f"{name} = {pair.target.bound(table, name)}" for name in table.key)
    pair.run(f"delete from {table.name} where {where}", *shape.key(row))
    assert pair.differences(table) == [(key, "only in the source")]
    with moving.open_side(pair.target.settings) as target, target.writing():
        target.load_one(shape, row)
    assert pair.differences(table) == []
    # The same row under another key: one too many, none missing.
    at = table.places()[-1]
    more = tuple(other_value(table.columns[at], value) if place == at else value for place, value in enumerate(row))
    more = tuple(f"{value}!" if c.name in ("id", "key") and c.kind == "text" and place != at else value
                 for place, (c, value) in enumerate(zip(table.columns, more, strict=True)))  # fmt: skip
    pair.run(f"delete from {table.name} where {where}", *shape.key(row))
    wanted = {(key, "only in the source"), (json.dumps(shape.key(more)), "only in the target")}
    try:
        with moving.open_side(pair.target.settings) as target, target.writing():
            target.load_one(shape, more)
    except Refused:
        assert table.name in ("service_token_chain", "chat_texts"), "their keys are within bounds, by a check"
        wanted = {(key, "only in the source")}
    assert set(pair.differences(table)) == wanted
    pair.run(f"delete from {table.name} where {where}", *shape.key(more))
    with moving.open_side(pair.target.settings) as target, target.writing():
        target.load_one(shape, row)
    assert pair.differences(table) == []

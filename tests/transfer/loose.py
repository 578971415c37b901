"""Databases that take what ours refuse: the same tables without types, keys and checks, to be filled with anything."""

from __future__ import annotations

from typing import Any

from dal.transfer.inventory import inventory, table_named
from tests.transfer.conftest import execute


class Text(bytes):
    """Bytes that SQLite stores as a TEXT, be they UTF-8 or not."""


def loosen(url: str, *names: str) -> None:
    """Make tables anew that take any value; all of them by default. Their rows stay, where they have any."""
    for name in names or [table.name for table in inventory()]:
        columns = ", ".join(column.name for column in table_named(name).columns)
        if url.startswith("sqlite"):
            made = [f"create table {name} ({columns})", f"insert into {name} select * from loose", "drop table loose"]
            statements = [f"create table loose as select {columns} from {name}", f"drop table {name}", *made]
        else:
            made = [f"insert into loose select {columns} from {name}", f"drop table {name} cascade"]
            statements = [f"create table loose (like {name})", *made, f"alter table loose rename to {name}"]
        for statement in statements:
            execute(url, statement)


def change(url: str, name: str, where: str, /, **values: Any) -> None:
    """Write values into the rows of a table, of SQLite, for which a condition holds."""
    marks = [f"{column} = {_mark(value)}" for column, value in values.items()]
    execute(url, f"update {name} set {', '.join(marks)} where {where}", *values.values())


def double(url: str, name: str, where: str, /, **values: Any) -> None:
    """A row once more, with other values in some columns; of SQLite."""
    columns = [column.name for column in table_named(name).columns]
    listed = ", ".join(_mark(values[column]) if column in values else column for column in columns)
    given = [values[column] for column in columns if column in values]
    execute(url, f"insert into {name} ({', '.join(columns)}) select {listed} from {name} where {where}", *given)


def _mark(value: Any) -> str:
    return "cast(? as text)" if isinstance(value, Text) else "?"

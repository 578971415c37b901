"""A query as a DBA looks at it: listed, shown as a client takes it, run and explained with values, undone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any
from uuid import UUID

import psycopg
from msgspec import Struct
from psycopg import RawCursor

from dal.core.catalog import Catalog, Param, Query
from dal.core.postgres_errors import translate as translate_postgres
from dal.core.rows import Dialect
from dal.core.sqlite_file import translate as translate_sqlite
from dal.dal import MODELS_BY_NAME, connect, load_catalog
from dal.errors import Invalid
from dal.guard.capture import value_of
from dal.guard.capture_postgres import execute_text, literal, prepared
from dal.guard.findings import short
from dal.settings import Settings

# What a parameter is shown with when no value is given for it.
_SAMPLES: Mapping[str, Any] = {
    "uuid": UUID(int=0), "text": "text", "int": 1, "float": 1.0, "bool": False,
    "timestamptz": datetime(2026, 1, 1, tzinfo=UTC), "json": {}, "bytes": b"",
}  # fmt: skip
_POSTGRES_TYPES = {"int": "bigint", "float": "double precision", "json": "jsonb", "bytes": "bytea"}


class Answer(Struct, frozen=True):
    """Rows as the driver gave them."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def find(catalog: Catalog, name: str) -> Query:
    """A query by its name. Raises Invalid with the nearest there are."""
    if name in catalog.queries:
        return catalog.queries[name]
    near = get_close_matches(name, catalog.queries, n=3)
    raise Invalid(f"no query is called {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ""), path="NAME")


# --- values -----------------------------------------------------------------------------------------------------------


def parse_values(query: Query, given: Sequence[str], *, whole: bool = True) -> dict[str, Any]:
    """Values from words such as ``limit=50``. Raises Invalid naming the parameter.

    Each is read by its declared kind: JSON for json and lists, hexadecimal for bytes; ``name=null`` is null where that
    is allowed. whole: every parameter is needed; otherwise a sample stands in for one that is missing.
    """
    words = {name: word for name, _, word in (each.partition("=") for each in given)}
    by_name = {param.name: param for param in query.params}
    for word in given:
        name, sign, _ = word.partition("=")
        if not sign and name in by_name:
            raise Invalid(f"{word!r} has no value: write {word}=…", path=name)
        if name not in by_name:
            takes = ", ".join(map(str, query.params)) or "no parameters"
            raise Invalid(f"{word!r} is no parameter; {query.name} takes {takes}", path=name)
    if whole and (missing := [str(param) for param in query.params if param.name not in words]):
        raise Invalid(f"{query.name} needs {', '.join(missing)}: write name=value for each")
    values = {name: _parsed(by_name[name], word) for name, word in words.items()}
    for param in query.params:
        if param.name not in values:
            sample = _SAMPLES[param.kind.removesuffix("[]")]
            values[param.name] = [sample] if param.kind.endswith("[]") else sample
    query.bind(values)
    return values


def _parsed(param: Param, word: str) -> Any:
    if word == "null" and param.nullable:
        return None
    try:
        if param.kind in ("text", "uuid", "timestamptz", "bytes"):
            return value_of(param, word)
        return value_of(param, json.loads(word))
    except (ValueError, TypeError) as error:
        raise Invalid(f"{word!r} is no {param.kind}: {error}", path=param.name) from None


# --- show -------------------------------------------------------------------------------------------------------------


def show(name: str, given: Sequence[str], client: str | None = None) -> str:
    """A query as one reads it, or as psql or the sqlite3 shell takes it. client: 'psql', 'sqlite' or None for the
    dialect of the settings. Raises Invalid."""
    settings = Settings.load()
    dialect: Dialect = settings.backend if client is None else "postgres" if client == "psql" else "sqlite"
    query = find(Catalog.load(dialect, MODELS_BY_NAME, settings.sql_dir, refused=[]), name)
    values = parse_values(query, given, whole=False)
    if client is None:
        return text_of(query)
    return psql_text(query, values) if client == "psql" else sqlite_text(query, values)


def text_of(query: Query) -> str:
    """The query with what its header says above it."""
    doc = query.doc or Catalog.load("postgres", MODELS_BY_NAME).queries[query.name].doc
    head = [query.contract, *doc.splitlines(), f"class {query.class_}, {short(query.path, query.line)}"]
    return "\n".join([*(f"-- {line}" for line in head), query.text]) + "\n"


def psql_text(query: Query, values: Mapping[str, Any]) -> str:
    """The query for psql: its parameters as variables, then its text. Paste it whole. query: of PostgreSQL."""
    bound = dict(zip(query.statements[0].params, query.bind(values)[0], strict=True))
    lines = []
    for param in query.params:
        item = param.kind.removesuffix("[]")
        type_ = _POSTGRES_TYPES.get(item, item) + "[]" * param.kind.endswith("[]")
        # A variable stands in the text as it is, so that it holds an expression, quotes and all.
        expression = f"{literal(bound[param.name])}::{type_}"
        quoted = expression.replace("\\", "\\\\").replace("'", "''")
        lines.append(f"\\set {param.name} '{quoted}'")
    return "\n".join([*lines, text_of(query)])


def sqlite_text(query: Query, values: Mapping[str, Any]) -> str:
    """The query for the sqlite3 shell: its parameters, then its text. query: of SQLite."""
    bound: dict[str, object] = {}
    for statement, row in zip(query.statements, query.bind(values), strict=True):
        bound |= dict(zip(statement.params, row, strict=True))
    lines = [".parameter init"]
    for param in query.params:
        # The shell takes the word for an expression, and unquotes it first.
        word = _sqlite_literal(bound[param.name]).replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'.parameter set :{param.name} "{word}"')
    return "\n".join([*lines, text_of(query)])


def _sqlite_literal(value: object) -> str:
    if value is None or isinstance(value, (int, float)):
        return "null" if value is None else repr(value)
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return "'" + str(value).replace("'", "''") + "'"


def plain(value: Any) -> Any:
    """A column's value as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, UUID) else value


def word(value: Any) -> str:
    """A column's value as one prints it."""
    found = plain(value)
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


# --- run and explain --------------------------------------------------------------------------------------------------


class _Undo(Exception):
    pass


@contextmanager
def undone(settings: Settings) -> Iterator[Any]:
    """The driver's connection to a database, in a transaction that is rolled back."""
    try:
        with connect(settings, migrate=False) as db, db.transaction() as tx:
            yield tx.connection
            raise _Undo
    except _Undo:
        pass
    except psycopg.Error as error:
        raise translate_postgres(error) from error
    except sqlite3.Error as error:
        raise translate_sqlite(error) from error


def run(settings: Settings, name: str, given: Sequence[str]) -> Answer | int:
    """Run a query with these values and undo it: its rows, or the count of those it changed. Raises DalError."""
    query = find(load_catalog(settings), name)
    values = query.bind(parse_values(query, given))
    answer: Answer | int = 0
    with undone(settings) as connection:
        for statement, bound in zip(query.statements, values, strict=True):
            if query.dialect == "postgres":
                cursor = RawCursor(connection)
                cursor.execute(statement.encoded, bound)
            else:
                cursor = connection.execute(statement.sql, bound)
            if cursor.description is not None:
                answer = Answer([column[0] for column in cursor.description], cursor.fetchall())
            elif not isinstance(answer, Answer):
                answer = cursor.rowcount
    return answer


def explain(settings: Settings, name: str, given: Sequence[str]) -> str:
    """How this database executes a query with these values, and what that took; it is undone. Raises DalError."""
    query = find(load_catalog(settings), name)
    values = parse_values(query, given)
    with undone(settings) as connection:
        if query.dialect == "sqlite":
            return "\n".join(_explain_sqlite(connection, query, values))
        return "\n".join(_explain_postgres(connection, query, values))
    raise AssertionError("undone hides nothing but its own end")


def _explain_sqlite(connection: sqlite3.Connection, query: Query, values: Mapping[str, Any]) -> Iterator[str]:
    bound = query.bind(values)
    for number, (statement, row) in enumerate(zip(query.statements, bound, strict=True), 1):
        if len(query.statements) > 1:
            yield f"statement {number}"
        depths: dict[int, int] = {}
        for key, parent, _, detail in connection.execute(f"explain query plan {statement.sql}", row):
            depths[key] = depths.get(parent, 0) + 1
            yield "  " * depths[key] + detail
        steps = [0]

        def count(steps: list[int] = steps) -> int:
            steps[0] += 1
            return 0

        connection.set_progress_handler(count, 1)
        connection.execute(statement.sql, row).fetchall()
        connection.set_progress_handler(None, 1)
        yield f"  {steps[0]:,} steps of the virtual machine"


def _explain_postgres(
    connection: psycopg.Connection[tuple[Any, ...]], query: Query, values: Mapping[str, Any]
) -> Iterator[str]:
    serving = "custom" if query.custom else "generic"
    kinds = {"custom": "planned with these values", "generic": "planned for any values"}
    for mode in sorted(kinds, key=lambda mode: mode != serving):
        with prepared(connection, query, mode, "dal_explain"):
            yield f"{kinds[mode]}{', as it will be served' if mode == serving else ''}:"
            connection.execute("savepoint dal_explain")
            text = f"explain (analyze, buffers) {execute_text(query, values, 'dal_explain')}"
            for (line,) in connection.execute(text.encode()).fetchall():
                yield f"  {line}"
            connection.execute("rollback to savepoint dal_explain")
        yield ""

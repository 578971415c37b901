"""Whether a database understands every statement, and whether its answer fits the model.

Rules, by id: prepare (the server's words), parameter-type, rows (names and order of the columns), row-type.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from msgspec import Struct
from psycopg.pq import DiagnosticField, ExecStatus

from dal.core.catalog import Query
from dal.core.rows import field_kinds
from dal.guard.findings import Finding, of_query, short
from dal.guard.source import shown_at, source_offset

# The types that PostgreSQL gives the kinds of parameters and of a model's fields.
OIDS: Mapping[str, int] = {
    "uuid": 2950, "text": 25, "int": 20, "float": 701, "bool": 16, "timestamptz": 1184, "json": 3802, "bytes": 17,
    "texts": 3802, "uuid[]": 2951, "text[]": 1009, "int[]": 1016,
}  # fmt: skip
_DUMMIES: Mapping[str, object] = {
    "uuid": "00000000-0000-0000-0000-000000000000", "text": "x", "int": 1, "float": 1.0, "bool": 1,
    "timestamptz": "2026-01-01T00:00:00.000000Z", "json": "[]", "bytes": b"",
}  # fmt: skip


def columns(query: Query, models: Mapping[str, type[Struct]]) -> list[tuple[str, str]] | None:
    """What a query's rows must be: name and kind of each column; None for no rows; a scalar's name is ''."""
    if query.op == "!":
        return None
    if query.op == "$":
        return [("", query.returns)]
    model = query.returns.removeprefix("Applied[").removesuffix("]")
    fields = [(name, kind) for name, kind, _ in field_kinds(models[model])]
    return [("applied", "bool"), ("found", "text"), *fields] if query.returns != model else fields


def _rows(query: Query, expected: Sequence[tuple[str, str]] | None, found: Sequence[str] | None) -> list[Finding]:
    """The finding, if the names differ. found: None where the query gives no rows."""
    if expected is None:
        if found is None or query.dialect == "sqlite":
            return []
        return [of_query("rows", query, f"answers rows ({', '.join(found)}), but '!' promises a count")]
    if found is None:
        return [of_query("rows", query, f"answers no rows; {query.returns} is promised", "end it with a select")]
    if query.op == "$":
        if len(found) == 1:
            return []
        return [
            of_query("rows", query, f"answers {len(found)} columns ({', '.join(found)}), but '$' promises one value")
        ]
    wanted = [name for name, _ in expected]
    if wanted == list(found):
        return []
    return [
        of_query(
            "rows",
            query,
            f"the select list is not what {query.returns} has, in its order",
            f"write the select list as the fields of {query.returns} stand; or change the model",
            _beside("select list", found, query.returns, wanted),
        )
    ]


def _beside(left_title: str, left: Sequence[str], right_title: str, right: Sequence[str]) -> list[str]:
    width = max(map(len, [left_title, *left]))
    lines = [f"  {left_title:<{width}}   {right_title}"]
    for at in range(max(len(left), len(right))):
        mine, other = (side[at] if at < len(side) else "" for side in (left, right))
        lines.append(f"{' ' if mine == other else '*'} {mine:<{width}}   {other}".rstrip())
    return lines


# --- SQLite -----------------------------------------------------------------------------------------------------------


def check_sqlite(
    connection: sqlite3.Connection, queries: Mapping[str, Query], models: Mapping[str, type[Struct]]
) -> list[Finding]:
    """Prepare every statement on an empty database, and look at the columns of the one that answers rows."""
    findings = []
    connection.execute("pragma foreign_keys = 0")
    connection.execute("pragma ignore_check_constraints = 1")
    for query in queries.values():
        broken = _sqlite_faults(connection, query)
        findings += broken or _sqlite_rows(connection, query, columns(query, models))
    return findings


def _sqlite_faults(connection: sqlite3.Connection, query: Query) -> list[Finding]:
    for at, statement in enumerate(query.statements):
        try:
            connection.execute(f"explain {statement.sql}", [None] * len(statement.params)).fetchall()
        except sqlite3.Error as error:
            return [_refused(query, str(error), _sqlite_place(query, at, str(error)))]
    return []


def _sqlite_place(query: Query, statement: int, words: str) -> int | None:
    """Where in the query's text SQLite stumbled, as far as its words tell: this Python has no other way to ask."""
    sql = query.statements[statement].sql
    named = re.search(r'near "(.+)"', words) or re.search(
        r"(?:no such \w+|ambiguous column name): (?:main\.)?(\S+)", words
    )
    if not named:
        return None
    places = [found.start() for found in re.finditer(rf"(?<![\w.]){re.escape(named[1])}(?!\w)", sql)]
    return source_offset(query, statement, places[0]) if len(places) == 1 else None


def _sqlite_rows(
    connection: sqlite3.Connection, query: Query, expected: Sequence[tuple[str, str]] | None
) -> list[Finding]:
    kinds = {param.name: param.kind for param in query.params}
    answers: list[list[str]] = []
    connection.execute("begin")
    try:
        for statement in query.statements:
            values = [_DUMMIES.get(kinds[name], "[]") for name in statement.params]
            cursor = connection.execute(statement.sql, values)
            if cursor.description is not None:
                answers.append([column[0] for column in cursor.description])
                cursor.fetchall()
    except sqlite3.Error as error:
        return [_refused(query, str(error), None)]
    finally:
        connection.execute("rollback")
    if len(answers) > 1:
        return [of_query("rows", query, f"{len(answers)} of its statements answer rows", "let one of them answer")]
    return _rows(query, expected, answers[0] if answers else None)


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def check_postgres(
    connection: psycopg.Connection[tuple[object, ...]],
    queries: Mapping[str, Query],
    models: Mapping[str, type[Struct]],
) -> list[Finding]:
    """Prepare every statement and compare the types the server inferred. connection: in a transaction."""
    findings = []
    rows: list[Any] = connection.execute("select oid, format_type(oid, null) from pg_type").fetchall()
    types: dict[int, str] = dict(rows)
    for query in queries.values():
        connection.execute("savepoint dal_guard")
        findings += _postgres_faults(connection, query, columns(query, models), types)
        connection.execute("rollback to savepoint dal_guard")
    return findings


def _postgres_faults(
    connection: psycopg.Connection[tuple[object, ...]],
    query: Query,
    expected: Sequence[tuple[str, str]] | None,
    types: Mapping[int, str],
) -> list[Finding]:
    pgconn = connection.pgconn
    answer = pgconn.prepare(b"", query.statements[0].encoded)
    if answer.status != ExecStatus.COMMAND_OK:
        said = (answer.error_field(DiagnosticField.MESSAGE_PRIMARY) or b"refused").decode()
        hint = (answer.error_field(DiagnosticField.MESSAGE_HINT) or b"").decode()
        position = answer.error_field(DiagnosticField.STATEMENT_POSITION)
        place = source_offset(query, 0, int(position) - 1) if position else None
        return [_refused(query, said, place, hint)]
    described = pgconn.describe_prepared(b"")
    findings = []
    by_name = {param.name: param for param in query.params}
    for at, name in enumerate(query.statements[0].params):
        inferred = described.param_type(at)
        if inferred != OIDS[by_name[name].kind]:
            findings.append(
                of_query(
                    "parameter-type", query,
                    f":{name} is declared {by_name[name].kind}, and the statement takes {_type(types, inferred)}",
                    f"cast it where it is used first, :{name}::{types[OIDS[by_name[name].kind]]}; or declare the other",
                )
            )  # fmt: skip
    names = [(described.fname(at) or b"").decode() for at in range(described.nfields)]
    wrong_names = _rows(query, expected, names or None)
    if wrong_names or expected is None:
        return findings + wrong_names
    for at, (name, kind) in enumerate(expected):
        if described.ftype(at) != OIDS[kind]:
            findings.append(
                of_query(
                    "row-type", query,
                    f"column {name or names[at]} is {_type(types, described.ftype(at))}, its field is {kind}",
                    f"cast it: {name or names[at]}::{types[OIDS[kind]]}; or change the model",
                )
            )  # fmt: skip
    return findings


def _type(types: Mapping[int, str], oid: int) -> str:
    return types.get(oid, f"type {oid}")


def _refused(query: Query, said: str, place: int | None, hint: str = "") -> Finding:
    server = "PostgreSQL" if query.dialect == "postgres" else "SQLite"
    if place is None:
        return of_query("prepare", query, f"{server} says: {said}", hint)
    line, detail = shown_at(query, place)
    return Finding("prepare", short(query.path, line), f"{server} says: {said}", hint, query.name, tuple(detail))

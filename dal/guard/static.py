"""What can be said about a query from its text alone.

Rules, by id: unused-query, select-star, offset, optional-filter, limit-without-order, limit-without-unique-order, cast,
keyword-case, white-space, twin-differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import dal
from dal.core.catalog import Query
from dal.core.tokens import tokens
from dal.guard.findings import Finding, of_query, short
from dal.guard.scratch import Table
from dal.guard.source import Group, file_text, find, line_of, parse

KEYWORDS = frozenset(
    re.findall(
        r"\w+",
        "all and any as asc between by case cast coalesce conflict constraint create cross current default delete "
        "desc distinct do drop else end except exists false filter first for from full group having if in inner "
        "insert intersect into is join key last lateral left like limit locked materialized merge natural not nothing "
        "null nulls offset on or order outer over partition primary recursive references returning right select set "
        "share skip strict table then true union unique update using values view when where window with within "
        "without ",
    )
)
_CLAUSES = frozenset({"where", "group", "having", "window", "order", "limit", "offset", "for", "returning", "fetch"})
_SET_OPERATIONS = ("union", "intersect", "except")
_CALLED = re.compile(r"\b_?q\.([a-z][a-z0-9_]*)|[\"']([a-z][a-z0-9_]*)[\"']")


def check(queries: Mapping[str, Query], tables: Mapping[str, Table]) -> list[Finding]:
    """Every static finding on the queries of one dialect. tables: what is unique in them."""
    findings = []
    for query in queries.values():
        findings += [finding for group in parse(query.text, query.dialect) for finding in _statement(query, group)]
        for group in parse(query.text, query.dialect):
            for inner in group.groups():
                findings += _limits(query, inner, tables)
        findings += _spelling(query)
    for path in sorted({query.path for query in queries.values()}):
        findings += _white_space(path)
    return findings


def check_unused(queries: Mapping[str, Query]) -> list[Finding]:
    """Queries that nothing in the package calls."""
    called: set[str] = set()
    package = Path(dal.__file__).parent
    for path in sorted(package.rglob("*.py")):
        if path.is_relative_to(package / "guard"):
            continue
        called.update(name for found in _CALLED.findall(path.read_text(encoding="utf-8")) for name in found if name)
    return [
        of_query(
            "unused-query", query, "no store calls it", f"call q.{name} in dal/stores/{query.store}.py, or drop it"
        )
        for name, query in queries.items()
        if name not in called
    ]


def check_twins(postgres: Mapping[str, Query], sqlite: Mapping[str, Query]) -> list[Finding]:
    """SQLite twins that do in several statements what PostgreSQL does in one, without a word about why."""
    return [
        of_query(
            "twin-differs",
            twin,
            f"{len(twin.statements)} statements, where PostgreSQL has {len(postgres[name].statements)}",
            "say why in a '-- differs:' line below the name",
        )
        for name, twin in sqlite.items()
        if name in postgres and len(twin.statements) != len(postgres[name].statements) and not twin.differs
    ]


# --- one statement ----------------------------------------------------------------------------------------------------


def _at(rule: str, query: Query, at: int, message: str, mend: str) -> Finding:
    return Finding(rule, short(query.path, line_of(query, at)), message, mend, query.name)


def _statement(query: Query, statement: Group) -> Iterator[Finding]:
    for group in statement.groups():
        words = group.words()
        for at, word in enumerate(words):
            before = words[at - 1] if at else ""
            if word == "*" and before in ("select", "distinct", "all", "returning", ".", ","):
                yield _at(
                    "select-star", query, group.offset(at), "* takes whatever columns the table has on that day",
                    "name the columns, in the order of the model's fields",
                )  # fmt: skip
            elif word == "offset" and before != ".":
                yield _at(
                    "offset", query, group.offset(at), "offset reads all rows that it skips, and pages shift meanwhile",
                    "go on after the last row's key: where (created_at, id) < (:after_at, :after_id)",
                )  # fmt: skip
            elif word.startswith(":") and not query.writes and _is_optional(words, at):
                name = word[1:]
                yield _at(
                    "optional-filter", query, group.offset(at),
                    f"({word} is null or …) is planned for both cases at once, and so reads the whole table",
                    f"make two queries, one that filters by {name} and one that does not; let the store choose",
                )  # fmt: skip


def _is_optional(words: Sequence[str], at: int) -> bool:
    """Whether the parameter here is compared with null as one way out of a condition."""
    end = at + 1
    if words[end : end + 2] == ["::", *words[end + 1 : end + 2]]:
        end += 2
    if words[end : end + 2] != ["is", "null"]:
        return False
    return words[end + 2 : end + 3] == ["or"] or (at > 0 and words[at - 1] == "or")


def _spelling(query: Query) -> Iterator[Finding]:
    before = ""
    for token in tokens(query.text, query.dialect):
        if token.kind != "text" or token.text.isspace():
            before = token.text if token.kind == "quoted" else before
            continue
        if token.text.lower() in KEYWORDS and token.text != token.text.lower() and before != ".":
            yield _at(
                "keyword-case", query, token.at, f"{token.text}: keywords are written in lower case",
                f"write {token.text.lower()}",
            )  # fmt: skip
        elif token.text == "::" and query.dialect == "sqlite":
            yield _at("cast", query, token.at, "SQLite has no ::", "write cast(… as …)")
        before = token.text


def _white_space(path: Path) -> Iterator[Finding]:
    for number, line in enumerate(file_text(path).split("\n"), 1):
        if "\t" in line:
            yield Finding("white-space", short(path, number), "a tab", "indent with spaces")
        elif line != line.rstrip():
            yield Finding("white-space", short(path, number), "white space at the end of the line", "take it away")


# --- limit and order --------------------------------------------------------------------------------------------------


def _limits(query: Query, group: Group, tables: Mapping[str, Table]) -> Iterator[Finding]:
    words = group.words()
    limit = find(words, "limit")
    if limit < 0 or (limit and words[limit - 1] == "."):
        return
    order = max((at for at in range(limit) if words[at : at + 2] == ["order", "by"]), default=-1)
    if order < 0:
        yield _at(
            "limit-without-order", query, group.offset(limit), "which rows a limit leaves is chance without an order",
            "order by a unique key",
        )  # fmt: skip
        return
    select = max((at for at in range(order) if words[at] == "select"), default=-1)
    if select < 0 or any(word in _SET_OPERATIONS for word in words[:order]):
        return
    loose = _undetermined(group, words, select, order, limit, tables)
    if loose:
        keys = " or ".join("(" + ", ".join(sorted(key)) + ")" for key in tables[loose].keys)
        yield _at(
            "limit-without-unique-order", query, group.offset(order),
            f"rows of {loose} that are equal in the order may come in any, and pages may lose or repeat them",
            f"end the order with a unique key of {loose}: {keys}",
        )  # fmt: skip


def _undetermined(
    group: Group, words: Sequence[str], select: int, order: int, limit: int, tables: Mapping[str, Table]
) -> str | None:
    """The first table of a select whose rows its order does not tell apart.

    A column is determined by standing in the order, by being compared with a value, or with a determined column; a
    table is when a unique key of it is. Tables that are selects themselves count as determined.
    """
    begin = find(words, "from", start=select, end=order)
    if begin < 0:
        return None
    end = next((at for at in range(begin, order) if words[at] in _CLAUSES), order)
    aliases = _aliases(words, begin + 1, end, tables)

    def column(at: int) -> tuple[str, str] | None:
        """The alias and name of the column whose last word stands here."""
        if at < 0 or not re.fullmatch(r"\w+", words[at]):
            return None
        if at >= 2 and words[at - 1] == ".":
            return (words[at - 2], words[at]) if words[at - 2] in aliases else None
        owners = [alias for alias, table in aliases.items() if words[at] in tables[table].columns]
        return (owners[0], words[at]) if len(owners) == 1 else None

    determined: set[tuple[str, str]] = set()
    for at in range(order + 2, limit):
        ends_item = at + 1 == limit or words[at + 1] in (",", "asc", "desc", "nulls")
        found = column(at) if ends_item else None
        if found:
            determined.add(found)
    pairs: list[tuple[tuple[str, str], tuple[str, str]]] = []
    if "or" not in words[begin:order]:
        for at in range(begin, order):
            if words[at] != "=":
                continue
            left = column(at - 1)
            after = at + 3 if words[at + 2 : at + 3] == ["."] else at + 1
            right = column(after)
            if left and right:
                pairs.append((left, right))
            elif left and re.match(r"[:'\d]", words[at + 1]):
                determined.add(left)
    return _first_loose(aliases, tables, determined, pairs)


def _first_loose(
    aliases: Mapping[str, str],
    tables: Mapping[str, Table],
    determined: set[tuple[str, str]],
    pairs: Sequence[tuple[tuple[str, str], tuple[str, str]]],
) -> str | None:
    before = -1
    while before != len(determined):
        before = len(determined)
        for left, right in pairs:
            if left in determined or right in determined:
                determined |= {left, right}
        for alias, name in aliases.items():
            if any({(alias, column) for column in key} <= determined for key in tables[name].keys):
                determined |= {(alias, column) for column in tables[name].columns}
    for alias, name in aliases.items():
        if not any({(alias, column) for column in key} <= determined for key in tables[name].keys):
            return name
    return None


def _aliases(words: Sequence[str], begin: int, end: int, tables: Mapping[str, Table]) -> dict[str, str]:
    """The tables of a from clause by the name they go by in it."""
    aliases: dict[str, str] = {}
    for at in range(begin, end):
        if words[at - 1] in ("from", "join", ",", "lateral") and words[at] in tables:
            after = at + 2 if words[at + 1 : at + 2] == ["as"] else at + 1
            alias = words[after] if after < end and re.fullmatch(r"\w+", words[after]) else ""
            plain = not alias or alias in KEYWORDS
            aliases[words[at] if plain else alias] = words[at]
    return aliases

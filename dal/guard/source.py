"""From a place in a statement, as a server counts it, back to the query file; and SQL cut into nested words."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dal.core.catalog import Query
from dal.core.tokens import Dialect, Token, tokens

# --- where ------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def _text(path: Path, changed: int) -> str:
    return path.read_text(encoding="utf-8-sig")


def file_text(path: Path) -> str:
    """The text of a query file."""
    return _text(path, os.stat(path).st_mtime_ns)


def line_of(query: Query, at: int = 0) -> int:
    """The line of the file that an offset in the query's text stands on."""
    text = file_text(query.path)
    header = sum(map(len, text.splitlines(keepends=True)[: query.line - 1]))
    start = text.find(query.text, header)
    return query.line if start < 0 else text.count("\n", 0, start + at) + 1


def source_offset(query: Query, statement: int, at: int) -> int:
    """The offset in the query's text of a place in one of its compiled statements. at: from 0, in characters."""
    after_tag = query.statements[statement].sql.index("*/") + 2
    there, number, here, begun = 0, 0, 0, False
    names: dict[str, int] = {}
    for token in tokens(query.text, query.dialect):
        if token.kind == "end":
            number += 1
        if number > statement:
            break
        blank = token.kind in ("comment", "end") or token.text.isspace()
        if number < statement or (blank and not begun):
            continue
        here, begun = token.at, True
        if token.kind == "param":
            length = 1 + len(str(names.setdefault(token.text, len(names) + 1)))
        else:
            length = 1 if token.kind == "comment" else len(token.text)
        if at < there + length:
            return here + (max(at - there, 0) if token.kind in ("text", "quoted") else 0)
        there = max(there + length, after_tag)  # the tag stands behind the first word
    return here


def shown_at(query: Query, at: int) -> tuple[int, list[str]]:
    """The line that an offset in the query's text stands on, and that line with a caret under the place."""
    begin = query.text.rfind("\n", 0, at) + 1
    end = query.text.find("\n", at)
    line = query.text[begin : len(query.text) if end < 0 else end]
    return line_of(query, at), [line, " " * (at - begin) + "^"]


# --- words ------------------------------------------------------------------------------------------------------------


@dataclass
class Group:
    """What stands between a pair of parentheses, or a whole statement. Comments and white space are left out."""

    at: int
    items: list[Token | Group] = field(default_factory=list)

    def words(self) -> list[str]:
        """The items in lower case; a group within is '(', a quoted piece as it is."""
        return [
            "(" if isinstance(item, Group) else item.text if item.kind == "quoted" else item.text.lower()
            for item in self.items
        ]

    def offset(self, index: int) -> int:
        """Where an item begins in the text."""
        return self.items[index].at

    def groups(self) -> Iterator[Group]:
        """This group and all within it."""
        yield self
        for item in self.items:
            if isinstance(item, Group):
                yield from item.groups()


def parse(sql: str, dialect: Dialect) -> list[Group]:
    """The statements of a text as nested groups."""
    done: list[Group] = []
    stack = [Group(0)]
    for token in tokens(sql, dialect):
        if token.kind == "comment" or token.text.isspace():
            continue
        if token.kind == "end":
            done.append(stack[0])
            stack = [Group(token.at + 1)]
        elif token.text == "(":
            inner = Group(token.at)
            stack[-1].items.append(inner)
            stack.append(inner)
        elif token.text == ")" and len(stack) > 1:
            stack.pop()
        else:
            stack[-1].items.append(token)
    return done


def find(words: Sequence[str], *wanted: str, start: int = 0, end: int | None = None) -> int:
    """The first place where these words follow each other, or -1."""
    limit = (len(words) if end is None else end) - len(wanted) + 1
    for at in range(start, limit):
        if tuple(words[at : at + len(wanted)]) == wanted:
            return at
    return -1

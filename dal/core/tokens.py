"""SQL text cut into tokens, as far as finding its parameters and statement ends needs.

aiosql looks for ``:name`` with a regular expression, which is wrong inside dollar quotes, escaped strings, comments and
array slices. This is a lexer instead: it knows the quoting rules of both dialects and, but for the body of a trigger,
nothing of their grammar.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

Dialect = Literal["postgres", "sqlite"]
Kind = Literal["text", "quoted", "comment", "param", "end"]


class Token(NamedTuple):
    """One piece of SQL. kind: text · quoted (a string or a quoted name) · comment · param · end (a semicolon)."""

    kind: Kind
    text: str
    at: int  # offset in the source


class SqlSyntax(ValueError):
    """The text cannot be cut into tokens. at: the offset where the offending token begins."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.at = at


_STRING = r"'(?:[^']|'')*'"
_NAME = r"[^\W\d]\w*"
_COMMON = rf"""
    (?P<line>--[^\n]*)
  | (?P<block>/\*)
  | (?P<string>{_STRING})
  | (?P<name>"(?:[^"]|"")*")
  | (?P<cast>::)
  | (?P<param>:{_NAME})
  | (?P<end>;)
"""
_WORD = r"(?P<word>[^\W\d][\w$]*|\d[\w.]*) | (?P<space>\s+)"  # first, since most of a text is that
_RULES = {
    "postgres": re.compile(
        rf"""(?![eE]')(?:{_WORD})
           | (?P<escape>\b[eE]'(?:[^'\\]|\\.|'')*')
           | (?P<dollar>\$(?P<tag>(?:{_NAME})?)\$.*?\$(?P=tag)\$)
           | (?P<place>\$\d+)
           | {_COMMON} | (?P<open>[eE]'|['"]|\$(?:{_NAME})?\$) | (?P<other>.)""",
        re.VERBOSE | re.DOTALL,
    ),
    "sqlite": re.compile(
        rf"""{_WORD}
           | (?P<bracket>\[[^\]]*\]|`(?:[^`]|``)*`)
           | (?P<place>\?\d*|[@$]\w+|:\d\w*)
           | {_COMMON} | (?P<open>['"`[]) | (?P<other>.)""",
        re.VERBOSE | re.DOTALL,
    ),
}
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("word", "space", "cast", "other"), "text"),
    **dict.fromkeys(("string", "name", "escape", "dollar", "bracket"), "quoted"),
    **dict.fromkeys(("line", "block"), "comment"),
    "param": "param",
    "end": "end",
}
_REFUSED = {
    "place": "is the driver's placeholder: write :name instead",
    "open": "opens a quotation that never closes",
}


def tokens(sql: str, dialect: Dialect) -> Iterator[Token]:
    """The tokens of a text, in order and without gaps. Raises SqlSyntax at the first that is malformed."""
    match, at, before = _RULES[dialect].match, 0, ""
    while at < len(sql):
        found = match(sql, at)
        assert found is not None and found.lastgroup is not None  # the last alternative takes any character
        rule, text = found.lastgroup, found.group()
        if rule in _REFUSED:
            raise SqlSyntax(f"{text} {_REFUSED[rule]}", at)
        if rule == "block":
            text = _block_comment(sql, at, nested=dialect == "postgres")
        kind = "text" if rule == "param" and _continues(before) else _KINDS[rule]
        yield Token(kind, text, at)
        before = text[-1]
        at += len(text)


def _continues(before: str) -> bool:
    """Whether a colon after this character goes on with what came before, as in the slice ``a[1:n]`` or ``a[b:c]``."""
    return before.isalnum() or before in ("_", ")", "]", '"', ":")


def _block_comment(sql: str, start: int, *, nested: bool) -> str:
    if not nested:
        end = sql.find("*/", start + 2)
        if end >= 0:
            return sql[start : end + 2]
        raise SqlSyntax("/* opens a comment that never closes", start)
    depth = 0
    for mark in re.finditer(r"/\*|\*/", sql[start:]):
        depth += 1 if mark.group() == "/*" else -1
        if depth == 0:
            return sql[start : start + mark.end()]
    raise SqlSyntax("/* opens a comment that never closes", start)


class Statement(NamedTuple):
    """One statement as a driver takes it. params: the names its numbered placeholders stand for, in order."""

    sql: str
    params: tuple[str, ...]
    encoded: bytes  # the same, in UTF-8


def statements(
    sql: str, dialect: Dialect, tag: str, placeholder: Callable[[int], str], cut: Iterable[Token] | None = None
) -> list[Statement]:
    """Compile a text of one or more statements, each ended by a semicolon.

    A parameter used twice in a statement is one placeholder, so its type is inferred from both uses. Comments go, the
    tag follows the first word, all else stays as written. A trigger is one statement, up to an ``end`` that stands by
    itself. cut: the text's tokens, where they are there already. Raises SqlSyntax when the last semicolon is missing.
    """
    done: list[Statement] = []
    pieces: list[str] = []
    names: dict[str, int] = {}
    for token in cut or tokens(sql, dialect):
        if token.kind == "param":
            pieces.append(placeholder(names.setdefault(token.text[1:], len(names) + 1)))
        elif token.kind == "end":
            body = _tidy(pieces)
            if not body:
                raise SqlSyntax("a semicolon without a statement before it", token.at)
            if _TRIGGER.match(body) and not _END.search(body):
                pieces.append(";")
                continue
            sent = tagged(body, tag)
            done.append(Statement(sent, tuple(names), sent.encode()))
            pieces, names = [], {}
        else:
            pieces.append(" " if token.kind == "comment" else token.text)
    if _tidy(pieces):
        raise SqlSyntax("the statement does not end with a semicolon", len(sql.rstrip()))
    return done


_TRIGGER = re.compile(r"create\s+(?:temp\w*\s+)?trigger\b(?=.*\bbegin\b)", re.IGNORECASE | re.DOTALL)
_END = re.compile(r";\s*end\Z", re.IGNORECASE)


def tagged(sql: str, tag: str) -> str:
    """A statement with the tag behind its first word; in front, pg_stat_statements of PostgreSQL 18 would drop it."""
    word = re.match(r"\w*", sql)
    assert word is not None  # it matches nothing too
    return f"{word.group()} {tag}{sql[word.end() :]}" if tag else sql


def _tidy(pieces: Sequence[str]) -> str:
    return "".join(pieces).strip()

"""SQLite's plans: the lines of EXPLAIN QUERY PLAN, whose wording differs between releases, as steps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec import Struct

from dal.core.catalog import Query
from dal.guard.source import parse

_STEP = re.compile(
    r"(?P<op>SEARCH|SCAN) (?:TABLE )?(?P<alias>\S+)(?: AS \S+)?"
    r"(?P<virtual> VIRTUAL TABLE INDEX \S*)?"
    r"(?: USING (?P<auto>AUTOMATIC )?(?:PARTIAL )?(?P<covering>COVERING )?"
    r"(?:INDEX(?: (?P<index>[^\s(]+))?|INTEGER PRIMARY KEY|(?P<key>PRIMARY KEY)))?"
    r"(?: \((?P<cols>.*?)\))?(?: LEFT-JOIN)?(?: EXISTS)?"
)


class Step(Struct, frozen=True, omit_defaults=True):
    """One line of a plan. op: search, scan, or in few words what else. alias: where it is not the table's own name.
    statement: which of the script's, from 1. depth: inside how many other steps."""

    op: str
    table: str | None = None
    alias: str | None = None
    index: str | None = None
    cols: Sequence[str] = ()
    covering: bool = False
    statement: int = 1
    depth: int = 0

    def line(self) -> str:
        """The step as printed."""
        words = [self.op, self.table or "", self.alias or ""]
        if self.index:
            words.append(f"using {'covering ' if self.covering else ''}{self.index}")
        if self.cols:
            words.append("(" + ", ".join(self.cols) + ")")
        return f"{self.statement}  {'  ' * self.depth}{' '.join(filter(None, words))}"

    @property
    def place(self) -> tuple[int, str]:
        """Which reading of which table: the statement, and the name the table goes by in it."""
        return self.statement, self.alias or self.table or ""


def parse_step(detail: str, statement: int, depth: int, aliases: Mapping[str, str], indexes: Mapping[str, str]) -> Step:
    """A line as a step. aliases: the tables of the statement. indexes: names for those that SQLite named itself."""
    found = _STEP.fullmatch(detail.strip())
    if not found or detail.strip() == "SCAN CONSTANT ROW":
        return Step(op=" ".join(detail.lower().split()), statement=statement, depth=depth)
    # Each column is named without its comparison, which is (a,b)<(?,?) for a row of them.
    cols = [re.split(r"[<>=]", part)[0].strip("() ?") for part in re.split(r" AND |,", found["cols"] or "")]
    index = found["index"] or ("primary key" if found["key"] else None)
    if found["auto"]:
        index = "an automatic index"
    elif index is None and " PRIMARY KEY" in detail:
        index = "rowid"
    table = aliases.get(found["alias"], found["alias"])
    return Step(
        op=found["op"].lower(),
        table=table,
        alias=None if table == found["alias"] else found["alias"],
        index=indexes.get(index, index) if index else None,
        cols=() if found["virtual"] else tuple(col for col in cols if col),
        covering=found["covering"] is not None,
        statement=statement,
        depth=depth,
    )


def aliases_of(query: Query, tables: Mapping[str, object]) -> list[dict[str, str]]:
    """For each statement of a query, the tables in it by the name they go by."""
    found = []
    for statement in parse(query.text, query.dialect):
        aliases: dict[str, str] = {}
        for group in statement.groups():
            words = group.words()
            for at, word in enumerate(words):
                if word not in tables or (at and words[at - 1] == "."):
                    continue
                after = at + 2 if words[at + 1 : at + 2] == ["as"] else at + 1
                if after < len(words) and re.fullmatch(r"[a-z_]\w*", words[after]):
                    aliases.setdefault(words[after], word)
                aliases[word] = word
        found.append(aliases)
    return found

"""PostgreSQL's plans as text that is the same from day to day and from server to server: structure and conditions, no
figures. A line a node, and below it, marked with a dot, its conditions.

Two plans are the same when they are the same but for constants and parameters.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

# What EXPLAIN calls a condition; these decide what a plan reads, so they are part of it.
_CONDITIONS = (
    "Index Cond", "Recheck Cond", "TID Cond", "Filter", "One-Time Filter", "Hash Cond", "Merge Cond", "Join Filter",
    "Conflict Filter", "Sort Key", "Presorted Key", "Group Key", "Cache Key",
)  # fmt: skip
_CAST = r"(?:::(?:timestamp with(?:out)? time zone|double precision|\w+)(?:\[\])?)?"
_CONSTANT = re.compile(
    rf"\(InitPlan \d+\)(?:\.col\d+)?|'(?:[^']|'')*'{_CAST}|\$\d+|(?<!:):\w+|(?<![\w.])\d+(?:\.\d+)?(?![\w.])"
    r"|\b(?:true|false)\b"
)
_SCAN = re.compile(
    r"(?P<indent> *)(?P<kind>Seq|Sample|Index|Index Only|Bitmap Heap|Tid|Tid Range) Scan(?: backward)?"
    r"(?: using (?P<index>\S+))? on (?P<table>\S+)(?: (?P<alias>\S+))?"
)
_BITMAP = re.compile(r"(?P<indent> *)Bitmap Index Scan using (?P<index>\S+)")
_CHANGE = re.compile(r"(?P<indent> *)(?P<kind>Update|Delete) on (?P<table>\S+)(?: (?P<alias>\S+))?")


class Scan(Struct, frozen=True):
    """A place where a plan reads a table. index: None for a table read from end to end. changes: it finds the rows that
    an update or delete is about."""

    table: str
    alias: str
    index: str | None
    line: str
    changes: bool = False


class Tree(Struct, frozen=True):
    """A plan. sorted_rows: what the planner expects the largest sort below a limit to hold, 0 without one; no part of
    the plan's identity."""

    lines: Sequence[str]
    sorted_rows: float = 0

    @property
    def hash(self) -> str:
        """Eight hex digits of the plan without its constants."""
        return hashlib.sha256("\n".join(map(masked, self.lines)).encode()).hexdigest()[:8]

    @property
    def text(self) -> str:
        """The plan as a snapshot holds it."""
        return "".join(f"{line}\n" for line in self.lines)

    @property
    def scans(self) -> list[Scan]:
        """Where it reads tables, in the order of its lines."""
        return list(_scans(self.lines))


def masked(line: str) -> str:
    """A line without its constants and parameters."""
    return _CONSTANT.sub("?", line)


def _scans(lines: Sequence[str]) -> Iterator[Scan]:
    changed: list[tuple[int, str]] = []
    for at, line in enumerate(lines):
        depth = len(line) - len(line.lstrip())
        changed = [(deep, alias) for deep, alias in changed if deep < depth]
        if found := _CHANGE.match(line):
            changed.append((depth, found["alias"] or found["table"]))
        found = _SCAN.fullmatch(line)
        if not found:
            continue
        index = found["index"]
        if found["kind"] == "Bitmap Heap":
            below = (_BITMAP.fullmatch(each) for each in lines[at + 1 :])
            index = next((each["index"] for each in below if each), None)
        elif found["kind"].startswith("Tid"):
            index = "ctid"
        alias = found["alias"] or found["table"]
        yield Scan(found["table"], alias, index, line.strip(), (changed or [(0, "")])[-1][1] == alias)


def from_explain(plan: Mapping[str, Any], params: Sequence[str]) -> Tree:
    """The tree of EXPLAIN (FORMAT JSON). params: the names behind $1, $2, …"""
    return Tree(list(_lines(plan, 0, params)), max(_sorts(plan, below_limit=False), default=0))


def _lines(plan: Mapping[str, Any], depth: int, params: Sequence[str]) -> Iterator[str]:
    if name := plan.get("Subplan Name"):
        yield "  " * depth + re.sub(r" \(returns .*\)", "", name) + ":"
        depth += 1
    yield "  " * depth + _title(plan)
    for key in _CONDITIONS:
        if key in plan:
            text = ", ".join(plan[key]) if isinstance(plan[key], list) else plan[key]
            yield f"{'  ' * depth}  · {key.lower()}: {_named(text, params)}"
    for inner in plan.get("Plans", ()):
        yield from _lines(inner, depth + 1, params)


def _title(plan: Mapping[str, Any]) -> str:
    kind: str = plan["Operation"] if plan["Node Type"] == "ModifyTable" else plan["Node Type"]
    if plan.get("Strategy") in ("Hashed", "Sorted", "Mixed"):
        kind = f"{plan['Strategy']} {kind}"
    if plan.get("Join Type", "Inner") != "Inner":
        kind += f" ({plan['Join Type'].lower()})"
    if plan.get("Scan Direction") == "Backward":
        kind += " backward"
    for key, word in (("Index Name", "using"), ("CTE Name", "on"), ("Function Name", "on"), ("Relation Name", "on")):
        if key in plan:
            kind += f" {word} {plan[key]}"
    if plan.get("Alias", plan.get("Relation Name")) != plan.get("Relation Name") and "Relation Name" in plan:
        kind += f" {plan['Alias']}"
    if "Conflict Resolution" in plan:
        arbiters = ", ".join(plan.get("Conflict Arbiter Indexes", ()))
        kind += f", on conflict {plan['Conflict Resolution'].lower()} ({arbiters})"
    return kind


def _named(condition: str, params: Sequence[str]) -> str:
    def name(found: re.Match[str]) -> str:
        at = int(found[1])
        return f":{params[at - 1]}" if 1 <= at <= len(params) else found[0]

    return re.sub(r"\$(\d+)", name, condition)


def _sorts(plan: Mapping[str, Any], *, below_limit: bool) -> Iterator[float]:
    kind = plan["Node Type"]
    if below_limit and kind == "Sort":
        yield plan["Plan Rows"]
    below_limit = (below_limit or kind == "Limit") and kind != "Aggregate"
    for inner in plan.get("Plans", ()):
        yield from _sorts(inner, below_limit=below_limit and "Subplan Name" not in inner)


class Work(Struct, frozen=True):
    """What a plan did: figures that are the same on every machine.

    rows_touched: rows read from tables, those a condition then dropped included; buffers: pages looked at; both of
    PostgreSQL. steps: instructions of SQLite's virtual machine.
    """

    returned: int
    rows_touched: int = 0
    buffers: int = 0
    steps: int = 0


def work_of(plan: Mapping[str, Any]) -> Work:
    """What EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) counted."""
    nodes = list(_nodes(plan))
    touched = sum(
        (node["Actual Rows"] + sum(node.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Index Recheck")))
        * node["Actual Loops"]
        for node in nodes
        if node["Node Type"].endswith("Scan") and "Relation Name" in node
    )
    # A changing CTE that nobody reads is run when the rest is over, and is not in the sum of its parent.
    read = {node["CTE Name"] for node in nodes if "CTE Name" in node}
    late = [
        node
        for node in nodes
        if node["Node Type"] == "ModifyTable" and node.get("Subplan Name", "").removeprefix("CTE ") not in {"", *read}
    ]
    buffers = sum(node.get("Shared Hit Blocks", 0) + node.get("Shared Read Blocks", 0) for node in (plan, *late))
    return Work(round(plan["Actual Rows"] * plan["Actual Loops"]), round(touched), buffers)


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)

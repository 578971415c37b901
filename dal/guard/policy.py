"""What a plan must not do, whatever was recorded. The rules, by id: scan-large, dml-scan, must-use, automatic-index,
rows-budget, rows-grow, sort-under-limit. Their figures stand in tests/plans/policy.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from dal.core.catalog import Query
from dal.guard.capture import Capture, Cases
from dal.guard.findings import Finding, of_query
from dal.guard.snapshots import grown
from dal.guard.trees import Tree, Work


class Policy(Struct, frozen=True):
    """policy.yaml."""

    large_table: int
    tables: Mapping[str, Any]
    budgets: Mapping[str, Mapping[str, float]]
    growth: Mapping[str, float]
    drift: Mapping[str, float]
    sorted_rows: int

    def is_large(self, table: str | None) -> bool:
        """Whether a table is not to be read from end to end."""
        return self.rows(table) >= self.large_table

    def rows(self, table: str | None) -> int:
        """How large a table is taken to be; one that policy.yaml does not know is large."""
        facts = self.tables.get(table or "")
        return int(facts["rows"]) if facts else self.large_table

    def budget(self, query: Query, values: Mapping[str, Any]) -> float | None:
        """How many rows a case of a query may touch; None for any number."""
        if query.rows is not None:
            return query.rows
        budget, what = self.budgets[query.class_], "write" if query.writes else "read"
        if f"{what}_per_limit" in budget:
            return budget[f"{what}_per_limit"] * max(1, int(values.get("limit", 1)))
        return budget.get(what)


def check(capture: Capture, policy: Policy, cases: Cases) -> list[Finding]:
    """What is wrong with the way one database executes a query."""
    if capture.query.dialect == "postgres":
        return [*_postgres(capture, policy), *_work(capture, policy, cases)]
    return [*_sqlite(capture, policy), *_work(capture, policy, cases)]


def name_of(capture: Capture) -> str:
    """The database a capture was taken on."""
    return f"{'PostgreSQL' if capture.query.dialect == 'postgres' else 'SQLite'} {capture.version}"


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def trees(capture: Capture) -> dict[str, Tree]:
    """The plans a query may be served with, each once, by what they are."""
    custom = {f"custom plan of {name}": case.plan for name, case in capture.cases.items() if case.plan}
    if capture.query.custom and len(custom) == len(capture.cases):
        return custom
    assert capture.generic is not None  # of PostgreSQL there always is one
    found = {"generic plan": capture.generic, **custom}
    if capture.cautious:
        found["generic plan at random_page_cost 4"] = capture.cautious
    once = {tree.hash: name for name, tree in reversed(found.items())}
    return {name: tree for name, tree in found.items() if once[tree.hash] == name}


def _postgres(capture: Capture, policy: Policy) -> Iterator[Finding]:
    query = capture.query
    for kind, tree in trees(capture).items():
        shown = [line if line.strip() not in _bad(tree, policy) else f"{line}   <--" for line in tree.lines]
        if query.class_ != "report":
            for scan in tree.scans:
                if scan.index is None and policy.is_large(scan.table):
                    yield of_query(
                        "dml-scan" if scan.changes else "scan-large", query,
                        f"{name_of(capture)}, {kind}: {scan.line} reads all of its {policy.rows(scan.table):,} rows"
                        f"{' to find those to change' if scan.changes else ''}",
                        "compare a column that leads an index, or add an index in a migration",
                        shown,
                    )  # fmt: skip
            if tree.sorted_rows > policy.sorted_rows:
                yield of_query(
                    "sort-under-limit", query,
                    f"{name_of(capture)}, {kind}: about {tree.sorted_rows:,.0f} rows are sorted to keep the first few",
                    "give the order an index: the columns compared with =, then those of the order, in its directions",
                    shown,
                )  # fmt: skip
        if query.uses and query.uses not in {scan.index for scan in tree.scans}:
            yield of_query(
                "must-use", query, f"{name_of(capture)}, {kind}: the header says it uses {query.uses}; it does not",
                f"see that the conditions fit {query.uses}, or take the header line away", shown,
            )  # fmt: skip


def _bad(tree: Tree, policy: Policy) -> set[str]:
    return {scan.line for scan in tree.scans if scan.index is None and policy.is_large(scan.table)}


# --- SQLite -----------------------------------------------------------------------------------------------------------


def _sqlite(capture: Capture, policy: Policy) -> Iterator[Finding]:
    query = capture.query
    plans = {f"case {name}": case.steps for name, case in capture.cases.items()}
    plans |= {f"case {name}, after analyze": steps for name, steps in capture.analyzed.items()}
    seen: set[tuple[str, str]] = set()
    for kind, steps in plans.items():
        shown = [step.line() for step in steps]
        for step in steps:
            rule = _wrong(query, step.op, step.table, step.index, policy)
            if rule is None or (rule, step.line()) in seen:
                continue
            seen.add((rule, step.line()))
            message = f"reads all of its {policy.rows(step.table):,} rows"
            if rule == "automatic-index":
                message = "makes an index for this one statement, since there is none"
            yield of_query(
                rule, query, f"{name_of(capture)}, {kind}: {step.line()[3:].strip()} {message}",
                "compare a column that leads an index, or add an index in a migration",
                [line if line != step.line() else f"{line}   <--" for line in shown],
            )  # fmt: skip
        named = {step.index for step in steps} | {f"{step.table}_pkey" for step in steps if step.index == "primary key"}
        if query.uses and query.uses not in named:
            yield of_query(
                "must-use", query, f"{name_of(capture)}, {kind}: the header says it uses {query.uses}; it does not",
                f"see that the conditions fit {query.uses}, or take the header line away", shown,
            )  # fmt: skip


def _wrong(query: Query, op: str, table: str | None, index: str | None, policy: Policy) -> str | None:
    if index == "an automatic index":
        return "automatic-index"
    if op == "scan" and index is None and table in policy.tables and policy.is_large(table):
        if query.class_ == "report":
            return None
        return "dml-scan" if query.writes else "scan-large"
    return None


# --- what it did ------------------------------------------------------------------------------------------------------


def _work(capture: Capture, policy: Policy, cases: Cases) -> Iterator[Finding]:
    if capture.query.class_ == "report":
        return
    served = {name: case.work["large"] for name, case in capture.cases.items()}
    yield from _over_budget(capture, policy, cases, served, name_of(capture), _serving(capture))
    if capture.cautious and not capture.query.custom:
        where = f"{name_of(capture)} at random_page_cost 4"
        yield from _over_budget(capture, policy, cases, capture.cautious_work, where, capture.cautious.lines)
    yield from _growing(capture, policy)


def _over_budget(
    capture: Capture, policy: Policy, cases: Cases, works: Mapping[str, Work], where: str, plan: Sequence[str]
) -> Iterator[Finding]:
    query, told, most = capture.query, [], 0
    for name, work in works.items():
        budget = policy.budget(query, cases[name])
        if budget is not None and work.rows_touched > budget:
            told.append(
                f"case {name}: {work.rows_touched:,} rows touched to return {work.returned} ({budget:,.0f} allowed)"
            )
            most = max(most, work.rows_touched)
    if told:
        yield of_query(
            "rows-budget", query,
            "\n".join([f"{where}: more work than a {_act(query)} of class {query.class_} may do", *told]),
            f"find the rows by an index; where so many are right, say so in the header: -- plan: rows {most}",
            plan,
        )  # fmt: skip


def _act(query: Query) -> str:
    return "write" if query.writes else "read"


def _growing(capture: Capture, policy: Policy) -> Iterator[Finding]:
    told = []
    for name, case in capture.cases.items():
        small, large = case.work["small"], case.work["large"]
        if grown("rows_touched", small.rows_touched, large.rows_touched, policy.growth):
            told.append(f"case {name}: {small.rows_touched:,} rows touched, then {large.rows_touched:,}")
        if grown("work", small.steps, large.steps, policy.growth):
            told.append(f"case {name}: {small.steps:,} steps of the virtual machine, then {large.steps:,}")
    if told:
        yield of_query(
            "rows-grow", capture.query,
            "\n".join([f"{name_of(capture)}: more work on ten times the rows", *told]),
            "its work must not follow the size of the table: find the rows by an index, in its order",
            _serving(capture),
        )  # fmt: skip


def _serving(capture: Capture) -> Sequence[str]:
    """The lines of the plan that serves, or of the first case's where each has its own."""
    first = next(iter(capture.cases.values()))
    if capture.query.dialect == "sqlite":
        return [step.line() for step in first.steps]
    tree = (first.plan if capture.query.custom else None) or capture.generic
    return tree.lines if tree else ()

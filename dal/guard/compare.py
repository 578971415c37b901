"""A query's plans against those recorded. The rules, by id: missing-snapshot, stale-snapshot, orphan-snapshot,
bad-snapshot, index-lost, index-swapped, plan-changed, answer-changed, work-grew, bad-accept, expired-accept."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from dal.core.catalog import Query
from dal.guard import snapshots
from dal.guard.capture import Capture
from dal.guard.capture_postgres import PINNED_ID
from dal.guard.findings import Finding, of_query, short
from dal.guard.policy import Policy, name_of
from dal.guard.snapshots import Snapshot
from dal.guard.trees import masked

WIDTH = 140  # of two plans beside each other


def accept_command(query: Query) -> str:
    """What a DBA types who has looked at a change and finds it good."""
    return f"dal plans accept {query.name}{' --url URL' if query.dialect == 'postgres' else ''}"


def check_file(query: Query, twin: Query, snapshot: Snapshot | None, path: Path) -> list[Finding]:
    """What can be said without a database: whether the file is there, and of these statements."""
    if snapshot is None:
        return [
            of_query(
                "missing-snapshot", query, f"{short(path)} does not exist: no plan of it was ever looked at",
                f"give it values in tests/plans/params.yaml, then: dal plans record {query.name}",
            )
        ]  # fmt: skip
    findings = []
    if (snapshot.get("contract"), snapshot.get("class")) != (snapshots.contract_of(query), query.class_):
        findings.append(_stale(query, path, "its header has changed"))
    for each in (query, twin):
        own = snapshot.get(each.dialect)
        if own and own["sql"] != each.fingerprint:
            findings.append(_stale(each, path, "its statement has changed"))
        elif own and own.get("settings") not in (None, PINNED_ID):
            findings.append(_stale(each, path, f"the settings that plans are taken with ({PINNED_ID}) have changed"))
        elif own is None and snapshot.get("recorded") is not False:
            findings.append(_unrecorded(each, each.dialect))
    return findings


def _unrecorded(query: Query, what: str) -> Finding:
    command = accept_command(query).replace("accept", "record", 1)
    return of_query("missing-snapshot", query, f"nothing is recorded of {what}", command)


def _stale(query: Query, path: Path, what: str) -> Finding:
    return of_query(
        "stale-snapshot", query, f"{what} since {short(path)} was recorded",
        f"look at what it does now (dal queries explain {query.name} …), then: {accept_command(query)}",
    )  # fmt: skip


def check_plans(capture: Capture, snapshot: Snapshot, policy: Policy) -> list[Finding]:
    """How a capture differs from what was recorded of that database."""
    query = capture.query
    recorded, known = snapshots.section(snapshot, query.dialect, capture.version)
    if recorded is None:
        return []  # check_file has said so
    now = snapshots.plain(capture)
    found = (
        list(_plans(capture, recorded, now))
        or list(_cases(capture, recorded, now))
        or list(_figures(capture, recorded, now, policy))
    )
    if known or any(finding.rule == "index-lost" for finding in found):
        return found
    # Another release may plan otherwise, and nobody has looked at that yet.
    return [
        Finding(
            each.rule, each.where, f"{each.message}\n{name_of(capture)} was never recorded; {known_ones(recorded)} was",
            f"to pin it for this version, too: {accept_command(query)}", each.query, each.detail, "warning",
        )
        for each in found
    ]  # fmt: skip


def known_ones(recorded: Snapshot) -> str:
    """The versions that were recorded, for a message."""
    return ", ".join([*recorded["verified_on"], *recorded.get("versions", {})])


# --- the plans themselves ---------------------------------------------------------------------------------------------


def _plans(capture: Capture, was: Snapshot, now: Snapshot) -> Iterator[Finding]:
    """Differences of the plan that all values share."""
    if capture.query.dialect == "sqlite":
        if was["steps"] != now["steps"]:
            yield _sqlite_change(capture, was["steps"], now["steps"], "")
        elif was.get("analyzed") != now.get("analyzed"):
            before, after = was.get("analyzed") or {}, now.get("analyzed") or {}
            case = next(name for name in {**before, **after} if before.get(name) != after.get(name))
            yield _sqlite_change(
                capture, before.get(case, was["steps"]), after.get(case, now["steps"]), f", case {case}, after analyze"
            )
        return
    if was["generic"]["hash"] != now["generic"]["hash"]:
        yield _postgres_change(capture, was["generic"], now["generic"], "generic plan")
        return
    before, after = (each["cautious" if "cautious" in each else "generic"] for each in (was, now))
    if before["hash"] != after["hash"]:
        yield _postgres_change(capture, before, after, "generic plan at random_page_cost 4")


def _cases(capture: Capture, was: Snapshot, now: Snapshot) -> Iterator[Finding]:
    """Differences of the plans for single cases."""
    query = capture.query
    if was["cases"].keys() != now["cases"].keys():
        gone, new = set(was["cases"]) - set(now["cases"]), set(now["cases"]) - set(was["cases"])
        told = [f"gone: {', '.join(sorted(gone))}"] * bool(gone) + [f"new: {', '.join(sorted(new))}"] * bool(new)
        yield of_query(
            "stale-snapshot", query, f"params.yaml has other cases than the snapshot ({'; '.join(told)})",
            accept_command(query),
        )  # fmt: skip
        return
    for case in was["cases"]:
        before, after = snapshots.plan_of(was, case), snapshots.plan_of(now, case)
        if query.dialect == "sqlite":
            if before != after:
                yield _sqlite_change(capture, before, after, f", case {case}")
        elif before["hash"] != after["hash"]:
            yield _postgres_change(capture, before, after, f"custom plan of {case}")


def _postgres_change(capture: Capture, was: Snapshot, now: Snapshot, kind: str) -> Finding:
    before, after = snapshots.tree_of(was), snapshots.tree_of(now)
    indexes = [{scan.alias: (scan.table, scan.index, scan.line) for scan in tree.scans} for tree in (before, after)]
    rule, said = _index_change(*indexes)
    return _changed(capture, rule, f"{name_of(capture)}, {kind}", said, before.lines, after.lines)


def _sqlite_change(capture: Capture, was: Any, now: Any, case: str) -> Finding:
    before, after = snapshots.steps_of(was), snapshots.steps_of(now)
    indexes = [
        {step.place: (step.table, step.index, step.line()[3:].strip()) for step in steps if step.table}
        for steps in (before, after)
    ]
    rule, said = _index_change(*indexes)
    lines = [[step.line() for step in steps] for steps in (before, after)]
    return _changed(capture, rule, f"{name_of(capture)}{case}", said, *lines)


def _index_change(
    was: Mapping[Any, tuple[str | None, str | None, str]], now: Mapping[Any, tuple[str | None, str | None, str]]
) -> tuple[str, tuple[str, str] | None]:
    """The rule, and the line before and after that shows it. By alias, so that a self join keeps both its sides."""
    swapped = None
    for place, (table, index, line) in was.items():
        if index is None:
            continue
        others = [found for found in now.values() if found[0] == table]
        found = now.get(place) or (others[0] if others else None)
        if found and found[1] is None:
            return "index-lost", (line, found[2])
        if found and found[1] != index and swapped is None:
            swapped = line, found[2]
    return ("index-swapped", swapped) if swapped else ("plan-changed", None)


def _changed(
    capture: Capture, rule: str, where: str, said: tuple[str, str] | None, was: Sequence[str], now: Sequence[str]
) -> Finding:
    words = {"index-lost": "an index is no longer used", "index-swapped": "another index is used"}
    message = f"{where}: {words.get(rule, 'another plan than recorded')}"
    if said:
        message += f"\nwas  {said[0]}\nis   {said[1]}"
    query = capture.query
    return of_query(
        rule, query, message,
        f"if the new plan is as good: {accept_command(query)}", side_by_side(was, now),
    )  # fmt: skip


def side_by_side(was: Sequence[str], now: Sequence[str]) -> list[str]:
    """Two plans beside each other, the lines that differ marked; one below the other where they are too wide."""
    pairs: list[tuple[str, str, str]] = []
    left_keys, right_keys = ([masked(line).strip() for line in lines] for lines in (was, now))
    for tag, a, b, c, d in difflib.SequenceMatcher(None, left_keys, right_keys, autojunk=False).get_opcodes():
        for at in range(max(b - a, d - c)):
            left = was[a + at] if a + at < b else ""
            right = now[c + at] if c + at < d else ""
            pairs.append((" " if tag == "equal" else "*", left, right))
    width = max(len(left) for left in ["recorded", *was])
    if width + max(map(len, now), default=0) > WIDTH:
        before = [f"{mark} {left}" for mark, left, _ in pairs if left]
        after = [f"{mark} {right}" for mark, _, right in pairs if right]
        return ["  recorded", *before, "", "  now", *after]
    lines = [f"{mark} {left:<{width}} | {right}".rstrip() for mark, left, right in pairs]
    return [f"  {'recorded':<{width}} | now", *lines]


# --- figures ----------------------------------------------------------------------------------------------------------


def _figures(capture: Capture, was: Snapshot, now: Snapshot, policy: Policy) -> Iterator[Finding]:
    query = capture.query
    for case, after in now["cases"].items():
        before = was["cases"][case]
        if before["returned"] != after["returned"]:
            yield of_query(
                "answer-changed", query,
                f"{name_of(capture)}, case {case}: returned {before['returned']} rows, now {after['returned']}",
                f"if the seed or the values were meant to change: {accept_command(query)}",
            )  # fmt: skip
            continue
        told = [
            f"{figure} {size} {old[size]:,}, now {count:,}"
            for (figure, old), counts in zip(
                snapshots.figures(before).items(), snapshots.figures(after).values(), strict=True
            )
            for size, count in counts.items()
            if snapshots.grown(figure, old[size], count, policy.drift)
        ]
        if told:
            yield of_query(
                "work-grew", query, f"{name_of(capture)}, case {case}, by the same plan: {'; '.join(told)}",
                f"if so much more work is right: {accept_command(query)}",
            )  # fmt: skip


# --- accepted ---------------------------------------------------------------------------------------------------------


def apply_accepted(
    findings: Sequence[Finding], snapshot: Snapshot | None, path: Path, today: date | None = None
) -> list[Finding]:
    """The findings without those that the snapshot accepts; an entry that is not whole, or over, is one itself."""
    left = list(findings)
    for entry in (snapshot or {}).get("accept") or []:
        lacking = [
            key for key in ("rule", "reason", "by", "until") if not isinstance(entry, dict) or not entry.get(key)
        ]
        until = None if lacking else entry["until"]
        if lacking or not isinstance(until, date):
            left.append(
                Finding(
                    "bad-accept", short(path), f"an accept entry needs rule, reason, by and until (a date): {entry}",
                    query=path.stem,
                )
            )  # fmt: skip
        elif until < (today or datetime.now(UTC).date()):
            left.append(
                Finding(
                    "expired-accept", short(path),
                    f"{entry['rule']} was accepted by {entry['by']} until {until}: {entry['reason']}",
                    "mend the query, or give a new date", query=path.stem,
                )
            )  # fmt: skip
        else:
            left = [finding for finding in left if finding.rule != entry["rule"]]
    return left

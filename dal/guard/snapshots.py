"""Snapshot files: one a query, both databases in it, nothing that changes by itself.

    tests/plans/<store>/<query>.yaml

Figures that moved within the drift which policy.yaml allows are not rewritten, so recording again changes no file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from dal.core.catalog import Query
from dal.guard.capture import Capture, parsed
from dal.guard.capture_postgres import PINNED_ID
from dal.guard.steps import Step
from dal.guard.trees import Tree

FORMAT = 1
LIKE = "same as "  # another case
Snapshot = dict[str, Any]  # as in the file


def contract_of(query: Query) -> str:
    """Eight hex digits that change with what a caller relies on."""
    return hashlib.sha256(query.contract.encode()).hexdigest()[:8]


def path_of(folder: Path, query: Query) -> Path:
    """Where a query's snapshot stands."""
    return folder / query.store / f"{query.name}.yaml"


def read(path: Path) -> Snapshot | None:
    """A snapshot, or None where there is none. Raises ValueError for a file that is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        found = parsed(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path} is no snapshot of format {FORMAT}; delete it and record it again")
    return found


def section(snapshot: Snapshot | None, dialect: str, version: str) -> tuple[Snapshot | None, bool]:
    """What is recorded of one database, and whether on this version of it."""
    own: Snapshot | None = (snapshot or {}).get(dialect)
    if own is None:
        return None, False
    for names, plans in own.get("versions", {}).items():
        if version in names.split(", "):
            return {**own, **plans}, True
    return own, version in own["verified_on"]


def plan_of(recorded: Snapshot, case: str) -> Any:
    """The plan that serves a case: a tree as recorded, or a list of steps."""
    kind, shared = ("custom", "generic") if "generic" in recorded else ("steps", "steps")
    plan = recorded["cases"][case][kind]
    if plan == "same":
        return recorded[shared]
    return recorded["cases"][plan.removeprefix(LIKE)][kind] if isinstance(plan, str) else plan


# --- from a capture ---------------------------------------------------------------------------------------------------


def plain(capture: Capture) -> Snapshot:
    """A database's section, as newly recorded."""
    head: Snapshot = {"sql": capture.query.fingerprint}
    if capture.query.dialect == "postgres":
        head["settings"] = PINNED_ID
    return {**head, "verified_on": [capture.version], **_plans(capture)}


def _plans(capture: Capture) -> Snapshot:
    cases: Snapshot = {}
    if capture.query.dialect == "postgres":
        assert capture.generic is not None  # of PostgreSQL there always is one
        seen = {capture.generic.hash: "same"}
        for name, case in capture.cases.items():
            own = case.plan or capture.generic
            cases[name] = {"custom": seen.get(own.hash, _tree(own)), "returned": case.returned}
            seen.setdefault(own.hash, LIKE + name)
            for figure in ("rows_touched", "buffers"):
                cases[name][figure] = {size: getattr(work, figure) for size, work in case.work.items()}
        cautious = {"cautious": _tree(capture.cautious)} if capture.cautious else {}
        return {"generic": _tree(capture.generic), **cautious, "cases": cases}
    shared = _steps(next(iter(capture.cases.values())).steps)
    known = [(shared, "same")]
    for name, case in capture.cases.items():
        steps = _steps(case.steps)
        like = next((word for other, word in known if other == steps), None)
        cases[name] = {"steps": like or steps, "returned": case.returned}
        cases[name]["work"] = {size: work.steps for size, work in case.work.items()}
        known.append((steps, LIKE + name))
    moved = {case: _steps(steps) for case, steps in capture.analyzed.items()}
    return {"steps": shared, **({"analyzed": moved} if moved else {}), "cases": cases}


def _tree(tree: Tree) -> Snapshot:
    return {"hash": tree.hash, "tree": tree.text}


def _steps(steps: Sequence[Step]) -> list[Snapshot]:
    # As they come back from a file: a tuple would not equal its list.
    return [msgspec.to_builtins(step) | ({"cols": list(step.cols)} if step.cols else {}) for step in steps]


def figures(case: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """The counted figures of a recorded case, by name and size."""
    return {name: dict(case[name]) for name in ("rows_touched", "buffers", "work") if name in case}


def identity(recorded: Snapshot) -> Any:
    """What makes a section's plans the plans they are: all but figures, constants and wording."""
    plans = {case: plan_of(recorded, case) for case in recorded["cases"]}
    own = {case: plan["hash"] if isinstance(plan, dict) else plan for case, plan in plans.items()}
    trees = {name: recorded[name]["hash"] for name in ("generic", "cautious") if name in recorded}
    return trees, recorded.get("steps"), recorded.get("analyzed"), own


def within(was: Mapping[str, Any], now: Mapping[str, Any], drift: Mapping[str, float]) -> bool:
    """Whether a case's figures are as recorded, but for what may differ from run to run."""
    if was["returned"] != now["returned"]:
        return False
    before, after = figures(was), figures(now)
    return before.keys() == after.keys() and not any(
        grown(name, before[name][size], count, drift) or grown(name, count, before[name][size], drift)
        for name, counts in after.items()
        for size, count in counts.items()
    )


def grown(figure: str, was: int, now: int, limits: Mapping[str, float]) -> bool:
    """Whether a figure is larger than before by the allowed factor and by more than the floor."""
    kind = {"rows_touched": "rows", "buffers": "buffers", "work": "steps"}[figure]
    return now > was * limits[kind] and now > was + limits[f"{kind}_floor"]


# --- into a file ------------------------------------------------------------------------------------------------------


def merged(query: Query, old: Snapshot | None, captures: Sequence[Capture], drift: Mapping[str, float]) -> Snapshot:
    """The snapshot after recording on these databases; what was recorded of another one stays."""
    new: Snapshot = {"format": FORMAT, "query": query.name, "class": query.class_, "contract": contract_of(query)}
    for dialect in ("postgres", "sqlite"):
        if old and dialect in old:
            new[dialect] = old[dialect]
    for capture in captures:
        dialect = capture.query.dialect
        new[dialect] = _merged_section(new.get(dialect), capture, drift)
    ordered = {key: new[key] for key in (*list(new)[:4], "postgres", "sqlite") if key in new}
    return {**ordered, "accept": (old or {}).get("accept") or []}


def _merged_section(old: Snapshot | None, capture: Capture, drift: Mapping[str, float]) -> Snapshot:
    fresh, version = plain(capture), capture.version
    if old is None or (old["sql"], old.get("settings")) != (fresh["sql"], fresh.get("settings")):
        return fresh
    # Each recorded form of the plans, the first one first, with the versions it was seen on.
    first = {key: value for key, value in old.items() if key not in ("sql", "settings", "verified_on", "versions")}
    forms = [(first, list(old["verified_on"]))]
    forms += [(plans, names.split(", ")) for names, plans in old.get("versions", {}).items()]
    now = _plans(capture)
    if version == forms[0][1][-1] and identity(first) != identity(now):
        return fresh  # it changed where it was recorded: what was seen elsewhere says nothing any more
    forms = [(plans, [each for each in names if each != version]) for plans, names in forms]
    for at, (plans, names) in enumerate(forms):
        # A release that does more work by the same plan is recorded beside the others, not over them.
        if identity(plans) == identity(now) and (not names or _with_figures(plans, now, drift) == plans):
            forms[at] = _with_figures(plans, now, drift), [*names, version]
            break
    else:
        forms.append((now, [version]))
    (first, seen), *others = [(plans, sorted(names, key=_number)) for plans, names in forms if names]
    head = {key: value for key, value in fresh.items() if key in ("sql", "settings")}
    versions = {", ".join(names): plans for plans, names in sorted(others, key=lambda form: _number(form[1][0]))}
    return {**head, "verified_on": seen, **first, **({"versions": versions} if versions else {})}


def _with_figures(old: Snapshot, now: Snapshot, drift: Mapping[str, float]) -> Snapshot:
    cases = {
        case: old["cases"][case] if within(old["cases"][case], figures_now, drift) else figures_now
        for case, figures_now in now["cases"].items()
    }
    return {**old, "cases": cases}


def _number(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


class _Block(str):
    """Text over several lines."""


class _Quoted(str):
    """Text that some reader of YAML might take for a number."""


class _Flow(dict[str, Any]):
    """A mapping on one line."""


def _dressed(value: Any, key: str = "") -> Any:
    """A value with the looks it has in a file."""
    if isinstance(value, str):
        return _Block(value) if key == "tree" else _Quoted(value) if key in ("hash", "sql", "contract") else value
    if isinstance(value, list):
        return [
            _Quoted(each) if key == "verified_on" else _Flow(each) if isinstance(each, dict) else each for each in value
        ]
    if isinstance(value, dict):
        inner = {name: _dressed(each, name) for name, each in value.items()}
        one_line = "returned" in inner and isinstance(inner.get("custom", inner.get("steps")), str)
        return _Flow(inner) if one_line or key in ("rows_touched", "buffers", "work") else inner
    return value


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


_Dumper.add_representer(
    _Block, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|")
)
_Dumper.add_representer(
    _Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style='"')
)
_Dumper.add_representer(
    _Flow, lambda dumper, items: dumper.represent_mapping("tag:yaml.org,2002:map", dict(items), flow_style=True)
)
_Dumper.add_representer(
    list,
    lambda dumper, items: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", items, flow_style=not any(isinstance(each, dict) for each in items)
    ),
)


def dump(snapshot: Snapshot) -> str:
    """The text of a snapshot's file."""
    dressed = {key: value if key == "accept" else _dressed(value, key) for key, value in snapshot.items()}
    return yaml.dump(dressed, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)


def tree_of(recorded: Snapshot) -> Tree:
    """A recorded tree."""
    return Tree(recorded["tree"].splitlines())


def steps_of(recorded: Sequence[Snapshot]) -> list[Step]:
    """Recorded steps."""
    return [msgspec.convert(step, Step) for step in recorded]

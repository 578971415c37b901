"""What a capture holds, and what it is made on: the seed, the parameters, the sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from msgspec import Struct

from dal.core.catalog import Param, Query, sql_root
from dal.core.tokens import Dialect, statements
from dal.errors import Invalid
from dal.guard.steps import Step
from dal.guard.trees import Tree, Work

SIZES: Mapping[str, int] = {"small": 1, "large": 10}  # what :scale is in the seed


class CannotCapture(Exception):
    """The plans cannot be taken here, or not for this query; nothing is said about whether they are good."""


class Case(Struct, frozen=True):
    """A query with one set of values. plan: of the custom plan, where PostgreSQL makes another one for these values;
    steps: SQLite's. work: by size."""

    returned: int
    plan: Tree | None = None
    steps: Sequence[Step] = ()
    work: Mapping[str, Work] = {}


class Capture(Struct, frozen=True):
    """How one database executes one query.

    version: the major one, as '18' or '3.40'. generic: PostgreSQL's plan for whatever values come. cautious: the same
    on a server that takes random reads for slow, where it is another one, and cautious_work what it does by case.
    analyzed: SQLite's steps by case once ANALYZE has been run, where they are others.
    """

    query: Query
    version: str
    cases: Mapping[str, Case]
    generic: Tree | None = None
    cautious: Tree | None = None
    cautious_work: Mapping[str, Work] = {}
    analyzed: Mapping[str, Sequence[Step]] = {}


class Skipped(Struct, frozen=True):
    """A query that has no plan worth recording, and why."""

    reason: str


Cases = Mapping[str, Mapping[str, Any]]


class Rows(Struct, frozen=True):
    """Databases that hold the rows of the seed already, by scale, to be copied: most of the time goes into making them.
    sqlite: files; postgres: names of databases to which nobody is connected."""

    sqlite: Mapping[int, Path]
    postgres: Mapping[int, str]


_SAFE = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


def parsed(text: str) -> Any:
    """What safe_load gives, by the parser in C where there is one: ten times as fast. Raises YAMLError."""
    return yaml.load(text, Loader=_SAFE)  # noqa: S506 - both are safe


class Sources:
    """The folder of snapshots, and what stands in it beside them: params.yaml, policy.yaml, the seeds."""

    def __init__(self, folder: Path | None = None) -> None:
        """Raises CannotCapture where there is no such folder, as in an installation without a checkout."""
        self.folder = folder or sql_root().parent / "tests" / "plans"
        if not (self.folder / "params.yaml").is_file():
            raise CannotCapture(f"{self.folder} has no params.yaml; name the folder of the plans with --folder")
        self._params: Mapping[str, Any] = self._yaml("params.yaml")

    def _yaml(self, name: str) -> Any:
        return parsed((self.folder / name).read_text(encoding="utf-8"))

    @cached_property
    def policy(self) -> Any:
        """The budgets and table sizes."""
        return self._yaml("policy.yaml")

    def seed(self, dialect: Dialect, scale: int) -> list[str]:
        """The statements that fill a database."""
        text = (self.folder / f"seed.{dialect}.sql").read_text(encoding="utf-8")
        return [statement.sql for statement in statements(text, dialect, "", lambda _: str(scale))]

    def cases(self, query: Query) -> Cases | Skipped:
        """The values to run a query with, by case. Raises CannotCapture, saying what to write into params.yaml."""
        found = (self._params.get(query.store) or {}).get(query.name)
        if found is None:
            names = ", ".join(f"{param.name}: …" for param in query.params)
            raise CannotCapture(
                f"{self.folder / 'params.yaml'} has no values for {query.name}: under {query.store}, write "
                f"{query.name}: {{usual: {{{names}}}}}"
            )
        if found.get("recorded") is False:
            return Skipped(found["reason"])
        return {case: self._values(query, case, given or {}) for case, given in found.items()}

    def _values(self, query: Query, case: str, given: Mapping[str, Any]) -> dict[str, Any]:
        if set(given) != {param.name for param in query.params}:
            raise CannotCapture(f"params.yaml: {query.name}, case {case}, has other parameters than {query.contract}")
        try:
            return {param.name: value_of(param, given[param.name]) for param in query.params}
        except (ValueError, TypeError, Invalid) as error:
            raise CannotCapture(f"params.yaml: {query.name}, case {case}: {error}") from error


def value_of(param: Param, given: Any) -> Any:
    """A value as Python has it, from one that YAML or JSON can hold. Raises ValueError or TypeError."""
    if given is None or param.kind in ("text", "int", "float", "bool", "json"):
        return given
    if param.kind.endswith("[]"):
        item = Param(param.name, param.kind[:-2], False)
        return [value_of(item, each) for each in given]
    if param.kind == "uuid":
        return UUID(given)
    if param.kind == "timestamptz":
        return datetime.fromisoformat(given)
    return bytes.fromhex(given)

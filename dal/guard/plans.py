"""Record how every query is executed, and see later that it still is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec
from msgspec import Struct

from dal.core.catalog import Catalog, Query
from dal.core.tokens import Dialect
from dal.dal import MODELS_BY_NAME
from dal.guard import compare, policy, snapshots
from dal.guard.capture import CannotCapture, Capture, Rows, Skipped, Sources
from dal.guard.capture_postgres import capture_postgres
from dal.guard.capture_sqlite import capture_sqlite
from dal.guard.findings import Finding, of_query, short
from dal.guard.policy import Policy

Taken = Mapping[str, Capture | Skipped | CannotCapture]


class Recorded(Struct, frozen=True):
    """What recording did. written, removed: files; unchanged: how many others it looked at."""

    written: Sequence[Path]
    removed: Sequence[Path]
    unchanged: int
    findings: Sequence[Finding]


class Plans:
    """The plans of every query, taken now. Making one takes them: on SQLite, and on PostgreSQL where a URL is given."""

    def __init__(
        self,
        url: str | None = None,
        *,
        folder: Path | None = None,
        overrides: Path | None = None,
        changes: Mapping[Dialect, Sequence[str]] = MappingProxyType({}),
        root: Path | None = None,
        rows: Rows | None = None,
    ) -> None:
        """url: of a server on which databases can be made; its own database is left alone. folder: of the snapshots,
        tests/plans by default. overrides: a DAL_SQL_DIR. changes: statements run after the migrations, to see what they
        would do, by dialect. root: the packaged ``sql/`` by default. rows: of the same seed and migrations. Raises
        CannotCapture, CatalogError.
        """
        self.sources = Sources(folder)
        self.policy = msgspec.convert(self.sources.policy, Policy)
        catalogs = {
            dialect: Catalog.load(dialect, MODELS_BY_NAME, overrides, root=root) for dialect in ("postgres", "sqlite")
        }
        self.queries: Mapping[str, Query] = catalogs["postgres"].queries
        self.twins: Mapping[str, Query] = catalogs["sqlite"].queries
        self.taken: list[Taken] = [capture_sqlite(catalogs["sqlite"], self.sources, changes.get("sqlite", ()), rows)]
        if url is not None:
            tried = changes.get("postgres", ())
            self.taken.append(capture_postgres(url, catalogs["postgres"], self.sources, tried, rows))

    @property
    def databases(self) -> list[str]:
        """Those the plans were taken on, with their versions."""
        captures = [[each for each in taken.values() if isinstance(each, Capture)] for taken in self.taken]
        return [policy.name_of(each[0]) for each in captures if each]

    def check(self, names: Sequence[str] = ()) -> list[Finding]:
        """Everything wrong with these queries, or with all: by the policy, and against what was recorded."""
        findings = []
        for query in self._chosen(names):
            path = snapshots.path_of(self.sources.folder, query)
            try:
                snapshot = snapshots.read(path)
            except ValueError as error:
                findings.append(of_query("bad-snapshot", query, str(error)))
                continue
            found = compare.check_file(query, self.twins[query.name], snapshot, path)
            for taken in self._of(query):
                found += self._judge(taken, snapshot)
            findings += compare.apply_accepted(found, snapshot, path)
        return findings if names else findings + self._orphans()

    def record(self, names: Sequence[str] = ()) -> Recorded:
        """Write the snapshots of these queries, or of all, and remove those of queries that are gone.

        What the policy refuses is written, too, and reported.
        """
        written, removed, unchanged = [], [], 0
        findings: list[Finding] = []
        for query in self._chosen(names):
            path = snapshots.path_of(self.sources.folder, query)
            try:
                old = snapshots.read(path)
            except ValueError:
                old = None
            text = self._recorded(query, old)
            if text is not None and (not path.exists() or path.read_text(encoding="utf-8") != text):
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
                written.append(path)
            else:
                unchanged += 1
            found = [finding for taken in self._of(query) for finding in self._judge(taken, None)]
            # Without a server, PostgreSQL's part stays as it was.
            found += compare.check_file(query, self.twins[query.name], snapshots.read(path), path)
            findings += compare.apply_accepted(found, old, path)
        for orphan in () if names else self._orphan_files():
            orphan.unlink()
            removed.append(orphan)
        return Recorded(written, removed, unchanged, findings)

    def _recorded(self, query: Query, old: snapshots.Snapshot | None) -> str | None:
        taken = self._of(query)
        skipped = next((each for each in taken if isinstance(each, Skipped)), None)
        if skipped:
            head = {"format": snapshots.FORMAT, "query": query.name, "class": query.class_}
            return snapshots.dump(
                {**head, "contract": snapshots.contract_of(query), "recorded": False, "reason": skipped.reason}
            )
        captures = [each for each in taken if isinstance(each, Capture)]
        if len(captures) < len(taken):
            return None
        return snapshots.dump(snapshots.merged(query, old, captures, self.policy.drift))

    def _chosen(self, names: Sequence[str]) -> list[Query]:
        for name in names:
            if name not in self.queries:
                raise CannotCapture(f"no query is called {name}; 'dal queries list' shows them all")
        return [self.queries[name] for name in names or self.queries]

    def _of(self, query: Query) -> list[Capture | Skipped | CannotCapture]:
        return [taken[query.name] for taken in self.taken]

    def _judge(self, taken: Capture | Skipped | CannotCapture, snapshot: snapshots.Snapshot | None) -> list[Finding]:
        """What is wrong with what was taken. snapshot: to compare it with, if there is one."""
        if isinstance(taken, CannotCapture):
            return [Finding("cannot-capture", short(self.sources.folder / "params.yaml"), str(taken))]
        if isinstance(taken, Skipped):
            return []
        cases = self.sources.cases(taken.query)
        assert not isinstance(cases, Skipped)  # since this is none
        found = policy.check(taken, self.policy, cases)
        return found + (compare.check_plans(taken, snapshot, self.policy) if snapshot else [])

    def _orphan_files(self) -> list[Path]:
        known = {snapshots.path_of(self.sources.folder, query) for query in self.queries.values()}
        return [path for path in sorted(self.sources.folder.glob("*/*.yaml")) if path not in known]

    def _orphans(self) -> list[Finding]:
        return [
            Finding(
                "orphan-snapshot", short(path), f"no query is called {path.stem}", "delete it, or 'dal plans record'"
            )
            for path in self._orphan_files()
        ]

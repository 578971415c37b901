"""``dal check``: the gates a query file passes before it is used, fastest first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from dal.core.catalog import Catalog, Query
from dal.core.rows import Dialect
from dal.dal import MODELS_BY_NAME
from dal.errors import CatalogError
from dal.guard import prepare, static
from dal.guard.findings import Finding, short
from dal.guard.scratch import describe, private_postgres, private_sqlite

DIALECTS: Sequence[Dialect] = ("postgres", "sqlite")


class Gate(Struct, frozen=True):
    """A gate that was passed, or not. looked_at: in words."""

    name: str
    looked_at: str
    findings: Sequence[Finding]


def check(url: str | None = None, *, overrides: Path | None = None, root: Path | None = None) -> Iterator[Gate]:
    """Each gate as it is done; none after one that leaves nothing to look at.

    url: a PostgreSQL to prepare on, where everything happens in a schema that is rolled back; None leaves that gate
    out. overrides: a DAL_SQL_DIR. root: the packaged ``sql/`` by default.
    """
    refused: list[CatalogError] = []
    catalogs: dict[Dialect, Catalog] = {}
    for dialect in DIALECTS:
        try:
            catalogs[dialect] = Catalog.load(dialect, MODELS_BY_NAME, overrides, root=root, refused=refused)
        except CatalogError as fault:
            refused.append(fault)
            break
    counts = ", ".join(f"{len(catalog.queries)} of {dialect}" for dialect, catalog in catalogs.items())
    unique = list(dict.fromkeys(str(fault).partition(": ")[2] for fault in refused))
    yield Gate("catalog", f"queries: {counts or 'none could be read'}", list(map(_catalog_fault, unique)))
    if len(catalogs) < len(DIALECTS):
        return
    queries: dict[Dialect, Mapping[str, Query]] = {dialect: catalog.queries for dialect, catalog in catalogs.items()}
    with private_sqlite(catalogs["sqlite"]) as connection:
        tables = describe(connection)
        found = [finding for each in queries.values() for finding in static.check(each, tables)]
        found += static.check_unused(queries["postgres"]) + static.check_twins(queries["postgres"], queries["sqlite"])
        yield Gate("static", f"{len(tables)} tables, {_files(queries)} files", _once(found))
        found = prepare.check_sqlite(connection, queries["sqlite"], MODELS_BY_NAME)
        yield Gate("prepare and rows on SQLite", _statements(queries["sqlite"]), found)
    if url is None:
        return
    with private_postgres(url, catalogs["postgres"]) as server:
        found = prepare.check_postgres(server, queries["postgres"], MODELS_BY_NAME)
        version = server.info.server_version // 10000
        yield Gate(f"prepare and rows on PostgreSQL {version}", _statements(queries["postgres"]), found)


def _catalog_fault(words: str) -> Finding:
    """The catalog's own words, file and line first."""
    found = re.match(r"(?P<path>.+?):(?P<line>\d+): (?P<rest>.*)", words, re.DOTALL)
    if not found:
        return Finding("catalog", "sql", words)
    return Finding("catalog", short(Path(found["path"]), int(found["line"])), found["rest"])


def _files(queries: Mapping[Dialect, Mapping[str, Query]]) -> int:
    return len({query.path for each in queries.values() for query in each.values()})


def _statements(queries: Mapping[str, Query]) -> str:
    return f"{sum(len(query.statements) for query in queries.values())} statements"


def _once(findings: Sequence[Finding]) -> list[Finding]:
    return list(dict.fromkeys(findings))

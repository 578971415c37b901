"""Databases with the rows of the seed, filled once a process: that takes longer than all that is asked of them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import psycopg
import pytest

from dal.core.catalog import Catalog
from dal.dal import MODELS_BY_NAME
from dal.guard import capture_postgres, capture_sqlite
from dal.guard.capture import SIZES, Rows, Sources
from dal.guard.scratch import private_sqlite
from tests.cells import USUAL
from tests.conftest import SERVERS

MakeRows = Callable[[int], Rows]  # by version of PostgreSQL


@pytest.fixture(scope="session")
def sqlite_rows(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A file by scale."""
    catalog, folder, files = Catalog.load("sqlite", MODELS_BY_NAME), tmp_path_factory.mktemp("rows"), {}
    for scale in SIZES.values():
        files[scale] = folder / f"{scale}.db"
        with private_sqlite(catalog, path=str(files[scale])) as connection:
            connection.execute("pragma synchronous = off")
            capture_sqlite.fill(connection, Sources(), scale)
    return files


@pytest.fixture(scope="session")
def rows(pytestconfig: pytest.Config, sqlite_rows: dict[int, Path]) -> Iterator[MakeRows]:
    catalog, made = Catalog.load("postgres", MODELS_BY_NAME), []

    @cache
    def make(version: int) -> Rows:
        server, names = pytestconfig.stash[SERVERS][version], {}
        for scale in SIZES.values():
            names[scale] = f"rows_{scale}_{secrets.token_hex(6)}"
            with psycopg.connect(server.dsn(), autocommit=True) as connection:
                connection.execute(
                    f"create database {names[scale]} template template0 encoding 'UTF8' lc_collate 'C' lc_ctype 'C'"
                )
            made.append((server, names[scale]))
            with psycopg.connect(server.dsn(names[scale]), autocommit=True) as connection:
                capture_postgres.fill(connection, catalog, Sources(), scale)
        return Rows(sqlite_rows, names)

    yield lambda version: make(version or USUAL)
    for server, name in made:
        server.drop_database(name)

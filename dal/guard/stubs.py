"""``dal/core/queries.pyi``: every query's parameters and answer as types, written from the SQL headers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import dal.core
from dal.core.catalog import Catalog, Param, Query
from dal.dal import MODELS_BY_NAME

PATH = Path(dal.core.__file__).with_name("queries.pyi")

_TYPES = {
    "uuid": "UUID",
    "text": "str",
    "int": "int",
    "float": "float",
    "bool": "bool",
    "timestamptz": "datetime",
    "json": "Json",
    "bytes": "bytes",
    "uuid[]": "Sequence[UUID]",
    "text[]": "Sequence[str]",
    "int[]": "Sequence[int]",
}
_HEAD = '''"""The named queries as a store's body sees them. Written by `make generate` from sql/postgres/*.sql."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from dal.core.rows import Applied, Json
{imports}

class Queries:
'''


def render() -> str:
    """The text that the file should hold."""
    queries = Catalog.load("postgres", MODELS_BY_NAME).queries
    modules: dict[str, set[str]] = {}
    for query in queries.values():
        model = MODELS_BY_NAME.get(query.returns.removeprefix("Applied[").removesuffix("]"))
        if model is not None:
            modules.setdefault(model.__module__, set()).add(model.__name__)
    imports = "\n".join(f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(modules.items()))
    return _HEAD.format(imports=imports) + "\n".join(_methods(queries))


def _methods(queries: Mapping[str, Query]) -> list[str]:
    return [
        f"    async def {query.name}({_parameters(query.params)}) -> {_answer(query)}:\n"
        f'        """{query.store}.sql: {" ".join(query.doc.split())}"""\n'
        for query in sorted(queries.values(), key=lambda query: (query.store, query.line))
    ]


def _parameters(params: tuple[Param, ...]) -> str:
    if not params:
        return "self"
    return "self, *, " + ", ".join(
        f"{param.name}: {_TYPES[param.kind]}{' | None' if param.nullable else ''}" for param in params
    )


def _answer(query: Query) -> str:
    if query.op == "!":
        return "int"
    if query.op == "$":
        return f"{_TYPES[query.returns]} | None"
    return f"{query.returns} | None" if query.op == "^" else f"list[{query.returns}]"

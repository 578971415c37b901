"""What the commands of the program share: options, where the database is, how something is said."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any, NoReturn

import typer

from dal.errors import SchemaError
from dal.settings import Settings

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The database: sqlite:///relative.db, sqlite:////absolute.db or postgresql://...; by default what DAL_* "
        "variables and dal.yaml say. A password given here can be seen by other users of the machine.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def fail(error: object) -> NoReturn:
    """Say what is wrong and exit with status 1."""
    print(f"dal: {error}", file=sys.stderr)
    sys.exit(1)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2))


def refuse_missing(settings: Settings) -> None:
    """Raise SchemaError rather than make an empty file in order to look at it."""
    if settings.backend == "sqlite" and not os.path.exists(settings.sqlite_path):
        raise SchemaError(f"{settings.sqlite_path} does not exist; 'dal schema apply' makes it")

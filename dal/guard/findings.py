"""What a gate has to say: findings, and how they are printed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from dal.core.catalog import Query

Severity = Literal["error", "warning"]


class Finding(Struct, frozen=True):
    """One thing wrong with one query, or with a file.

    rule: its stable id, as in docs/for-dbas.md. where: file:line. message: what is wrong. mend: what to do about it.
    detail: lines that show it, such as a statement with a caret, or two plans side by side.
    """

    rule: str
    where: str
    message: str
    mend: str = ""
    query: str | None = None
    detail: Sequence[str] = ()
    severity: Severity = "error"


def of_query(
    rule: str, query: Query, message: str, mend: str = "", detail: Sequence[str] = (), severity: Severity = "error"
) -> Finding:
    """A finding about a query, at the line of its header."""
    return Finding(rule, short(query.path, query.line), message, mend, query.name, tuple(detail), severity)


def short(path: Path, line: int | None = None) -> str:
    """A path as it is best typed from here, with its line."""
    try:
        path = path.relative_to(Path.cwd())
    except ValueError:
        path = Path(os.fspath(path))
    return str(path) if line is None else f"{path}:{line}"


def failed(findings: Iterable[Finding]) -> bool:
    """Whether any of them is an error."""
    return any(finding.severity == "error" for finding in findings)


def as_text(finding: Finding) -> str:
    """The finding as a person reads it, over several lines."""
    head = f"{finding.severity:<8}{finding.rule}  {finding.query or ''}".rstrip() + f"  {finding.where}"
    lines = [head, *_indented(finding.message)]
    lines += [f"          {line}".rstrip() for line in finding.detail]
    if finding.mend:
        lines += _indented(f"to mend: {finding.mend}")
    return "\n".join(lines)


def as_data(finding: Finding) -> Any:
    """The finding as plain data, for JSON."""
    return msgspec.to_builtins(finding)


def _indented(text: str) -> list[str]:
    return [f"        {line}" for line in text.splitlines()]

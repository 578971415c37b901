"""What mypy --strict and pyright must refuse, line by line, and what they must take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = sorted((Path(__file__).parent / "misuse").glob("*.py"))
Places = dict[tuple[str, int], str]  # file and line, and what stands or was said there


def marked() -> Places:
    """The lines that must be refused."""
    return {
        (path.name, number): line.strip()
        for path in SAMPLES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if line.endswith("# refused")
    }


def run(*command: str) -> str:
    # MYPYPATH: the package may not be installed. The rest: pyright's wrapper looks for newer versions on the network.
    environment = {**os.environ, "MYPYPATH": str(ROOT), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command, *map(str, SAMPLES)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode in (0, 1), f"{command[0]} did not run:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@cache
def mypy() -> Places:
    options = ["--strict", "--config-file=", f"--cache-dir={ROOT / '.mypy_cache' / 'misuse'}", "--no-error-summary"]
    lines = run("mypy", *options, "--output=json").splitlines()
    found: Places = {}
    for error in map(json.loads, lines):
        if error["severity"] == "error":
            found[Path(error["file"]).name, error["line"]] = error["message"]
    return found


@cache
def pyright() -> Places:
    answer = json.loads(run("pyright", "--outputjson", f"--pythonpath={sys.executable}"))
    assert answer["summary"]["filesAnalyzed"] == len(SAMPLES)
    return {
        (Path(error["file"]).name, error["range"]["start"]["line"] + 1): error["message"]
        for error in answer["generalDiagnostics"]
        if error["severity"] == "error"
    }


def test_the_samples_are_there() -> None:
    assert len(SAMPLES) >= 7
    unmarked = [path.name for path in SAMPLES if not any(path.name == name for name, _ in marked())]
    assert unmarked == ["good.py"], "every sample but the good one holds a line to be refused"


@pytest.mark.parametrize("checker", [mypy, pyright], ids=["mypy", "pyright"])
def test_exactly_the_marked_lines_are_refused(checker: Callable[[], Places]) -> None:
    found, wanted = checker(), marked()
    taken = {place: wanted[place] for place in wanted.keys() - found.keys()}
    assert taken == {}, "misuse that is not refused"
    refused = {place: found[place] for place in found.keys() - wanted.keys()}
    assert refused == {}, "good lines that are refused"

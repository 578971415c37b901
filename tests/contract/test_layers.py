"""Who may know what: no dialect and no clock in a store, SQL in its files, errors in docstrings, imports downwards."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dal
from dal import DalError, errors
from dal.core.face import Method, Repeated
from dal.stores import keys, runs, tokens, versions, workflows

PACKAGE = Path(dal.__file__).parent
STORES = sorted((PACKAGE / "stores").glob("*.py"))
STORE_CLASSES = (workflows.Workflows, versions.Versions, runs.Runs, keys.Keys, keys.Claims, tokens.Tokens)
ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, DalError)}

# Where SQL may be composed: the machine, the guards, and the way from one database to the other.
WITH_SQL = {"core", "guard", "transfer"}
KEYWORDS = (
    "select|insert|update|delete|merge|with|values|create|alter|drop|truncate|begin|commit|rollback|savepoint|release"
    "|pragma|explain|analyze|vacuum|grant|revoke|lock|copy|listen|notify|attach|reindex|declare|fetch|set"
)
SQL = re.compile(rf"\s*(/\*.*?\*/\s*|--[^\n]*\n\s*)*({KEYWORDS}|{KEYWORDS.upper()})\s+\S", re.DOTALL)
# Sentences of a command line or a message, which begin with the same words.
PROSE = re.compile(
    r"(with|create|set|release|update|drop|lock|copy|fetch|explain|declare) (a|an|the|every|each|its|no)\b"
)


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def literals(tree: ast.Module) -> Iterator[ast.Constant]:
    """Every string of a module but docstrings; of an f-string, the part that it begins with."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    prose = {id(node.body[0].value) for node in ast.walk(tree)
             if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)}  # fmt: skip
    later = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values[1:]}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose | later:
            yield node


def test_no_store_knows_a_database() -> None:
    assert len(STORES) > 3
    found = [
        f"{path}:{number}: {line.strip()}"
        for path in sorted((PACKAGE / "stores").rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search("sqlite|postgres|psycopg", line, re.IGNORECASE)
    ]
    assert found == []


def test_no_string_outside_the_machine_is_sql() -> None:
    found: dict[bool, list[str]] = {True: [], False: []}
    for path, tree in sources():
        for literal in literals(tree):
            if SQL.match(str(literal.value)) and not PROSE.match(str(literal.value)):
                allowed = path.relative_to(PACKAGE).parts[0] in WITH_SQL
                found[allowed].append(f"{path}:{literal.lineno}: {str(literal.value)[:60]!r}")
    assert found[False] == [], "SQL belongs in sql/"
    assert len(found[True]) > 20, "the test sees no SQL where there is some"


def test_imports_go_downwards() -> None:
    command = (
        "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    )
    done = subprocess.run([sys.executable, "-c", command], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout, done.stdout


@pytest.mark.parametrize("path", STORES, ids=lambda path: path.stem)
def test_a_store_takes_the_time_from_its_clock_and_keeps_nothing_in_the_process(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (ast.Attribute, ast.Name))}
    assert not names & {"datetime.now", "datetime.utcnow", "time.time", "time.time_ns", "date.today"}
    assert not names & {"threading.Lock", "asyncio.Lock", "Lock", "cache", "lru_cache", "functools.cache"}
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.Global, ast.Nonlocal))]


def test_every_public_name_of_a_store_is_a_method_with_a_decorator_and_a_docstring() -> None:
    seen = 0
    for store in STORE_CLASSES:
        for name, value in vars(store).items():
            if not name.startswith("_"):
                assert isinstance(value, (Method, Repeated)), f"{store.__name__}.{name} lacks a decorator"
                assert value.__doc__, f"{store.__name__}.{name} lacks a docstring"
                assert len(value.__doc__.strip()) > 20
                seen += 1
    assert seen >= 25, f"only {seen} methods were found"


def raised(body: ast.AST, helpers: dict[str, ast.AST]) -> set[str]:
    """The errors of ours that a body names, but to catch them or in a type; those of its module's helpers too."""
    found: set[str] = set()
    pending = list(ast.iter_child_nodes(body))
    while pending:
        node = pending.pop()
        if isinstance(node, ast.ExceptHandler):
            pending += node.body
        elif isinstance(node, ast.AnnAssign):
            pending += [node.value] if node.value else []
        elif isinstance(node, ast.arg):
            continue
        else:
            pending += ast.iter_child_nodes(node)
            if isinstance(node, ast.Name) and node.id in ERRORS:
                found.add(node.id)
            elif isinstance(node, ast.Name) and node.id in helpers and helpers[node.id] is not body:
                found |= raised(helpers[node.id], helpers)
    return found


def test_every_method_of_a_store_names_its_errors() -> None:
    seen, silent = 0, []
    for path in STORES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        helpers: dict[str, ast.AST] = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(tree):
            if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_"):
                # Invalid may come from any argument; the docstring gives the ranges instead.
                for error in sorted(raised(node, helpers) - {"Invalid", "DalError"}):
                    seen += 1
                    if not re.search(rf"\b{error}\b", ast.get_docstring(node) or ""):
                        silent.append(f"{path}:{node.lineno}: {node.name} raises {error} and does not say so")
    assert silent == []
    assert seen > 25, f"only {seen} errors were found in the stores"


def test_every_module_says_what_it_is_for() -> None:
    silent = [str(path) for path, tree in sources() if tree.body and not ast.get_docstring(tree)]
    assert silent == []

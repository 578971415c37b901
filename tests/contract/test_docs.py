"""README.md and docs/: every command and snippet runs here, or says in a comment above it why it does not.

The blocks of a document share one Python namespace, one directory and two databases that have the schema: the SQLite
file that DAL_SQLITE_PATH names, and a PostgreSQL that every ``postgresql://…`` in a snippet stands for. A block builds
on the Python and SQL above it. One marked ``output`` is what the block above it printed; ``…`` in it is any text.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
import typer
import yaml

import dal
from dal import Dal, DalError, Run, Settings, Sync, Workflow, cli, errors
from dal.core.catalog import Catalog
from dal.dal import MODELS_BY_NAME
from tests.cells import PEPPERS
from tests.server import Server

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKING = [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")

RUNNABLE = ("python", "sh", "sql", "yaml", "output")
# What a block without a language may hold: trees, forms of a DSN, headers of a file. Nothing to be typed.
TYPED = re.compile(r"^(\$|(dal|make|pip|python|psql|sqlite3|docker|git) [a-z-])", re.MULTILINE)
MARK = re.compile(r"<!-- not in tests: (.*) -->")
URL = re.compile(r"postgresql://[^\s\"'`)]+")
# The machine that runs the tests has these; any other program is for a reader who has it.
PROGRAMS = ("cat", "dal", "grep", "make", "mkdir", "python")


@dataclass(frozen=True)
class Block:
    """One fenced block. line: of its first line of text. why_not: what a mark above says; None without one."""

    file: Path
    line: int
    language: str
    text: str
    why_not: str | None

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}"


def blocks_of(file: Path) -> list[Block]:
    """The fenced blocks of a document, in order."""
    found: list[Block] = []
    lines = file.read_text("utf-8").splitlines()
    opened: int | None = None
    for at, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if opened is None:
            opened = at
            continue
        assert line == "```", f"{file}:{at + 1}: a fence is open"
        mark = MARK.fullmatch(lines[opened - 1]) if opened else None
        text = "\n".join(lines[opened + 1 : at]) + "\n"
        found.append(Block(file, opened + 2, lines[opened][3:], text, mark and mark[1]))
        opened = None
    assert opened is None, f"{file}: the last fence is open"
    return found


BLOCKS = {file: blocks_of(file) for file in DOCUMENTS}


# --- running a document -----------------------------------------------------------------------------------------------


class Session:
    """A document being run, block by block."""

    def __init__(self, blocks: list[Block], folder: Path, *, sqlite: str | None = None) -> None:
        """sqlite: the URL that stands in for every SQLite URL of the document."""
        self.blocks = blocks
        self.folder = folder
        self._sqlite = sqlite
        self._names: dict[str, Any] = {"__name__": "document"}
        self._printed: dict[Block, str] = {}
        self._server: Server | None = None
        self._postgres = ""
        (folder / "bin").mkdir()
        for name, command in {"dal": f"{sys.executable} -m dal", "python": sys.executable}.items():
            (folder / "bin" / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (folder / "bin" / name).chmod(0o755)
        (folder / "work").mkdir()
        dal.connect(f"sqlite:///{folder / 'dal.db'}").close()

    def run(self, block: Block) -> None:
        """Run this block, after those it builds on that have not run yet."""
        above = self.blocks[: self.blocks.index(block)]
        needed = [each for each in above if each.language in ("python", "sql") and "-- name:" not in each.text]
        if block.language == "output":
            needed.append(above[-1])
        for each in (*needed, block):
            if each.why_not is None and each not in self._printed:
                self._printed[each] = getattr(self, f"_run_{each.language}")(each)

    def _run_python(self, block: Block) -> str:
        text = self._with_databases(block.text)
        code = compile("\n" * (block.line - 1) + text, str(block.file), "exec")
        printed = io.StringIO()
        with contextlib.chdir(self.folder / "work"), contextlib.redirect_stdout(printed):
            exec(code, self._names)  # noqa: S102 - our own documents
        return printed.getvalue()

    def _run_sh(self, block: Block) -> str:
        printed = ""
        for command in commands_of(block):
            if command.program == "make":
                continue  # a test below looks at its target; to run it would be to run this test
            assert command.program in PROGRAMS, f"{command}: mark what cannot run"
            environment = {name: value for name, value in os.environ.items() if not name.startswith(("DAL_", "PYTEST"))}
            environment |= {
                "DAL_SQLITE_PATH": str(self.folder / "dal.db"),
                "HOME": str(self.folder),
                "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
            }
            done = subprocess.run(
                ["sh", "-ec", self._with_databases(command.text)],
                cwd=ROOT if command.program == "grep" else self.folder / "work",
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=180,  # for a hang; dal plans fills two databases
            )
            said = f"{done.stdout}\n{done.stderr}"
            assert done.returncode == command.status, f"{command}\nended with {done.returncode}:\n{said}"
            printed += done.stdout
        return printed

    def _run_sql(self, block: Block) -> str:
        if "-- name:" in block.text:  # shown as it stands in its file
            files = [path.read_text("utf-8") for path in (ROOT / "sql").glob("*/*.sql")]
            assert [text for text in files if block.text in text], f"{block}: no file in sql/ holds this text"
            return ""
        with psycopg.connect(self._dsn(), autocommit=True) as connection:
            for statement in filter(None, map(str.strip, re.sub(r"--.*", "", block.text).split(";"))):
                connection.execute(statement)
        return ""

    def _run_yaml(self, block: Block) -> str:
        assert yaml.safe_load(block.text), f"{block}: no YAML in it"
        return ""

    def _run_output(self, block: Block) -> str:
        said = self._printed[self.blocks[self.blocks.index(block) - 1]]
        wanted = re.escape(block.text.strip()).replace("…", "(?s:.*?)")
        printed = "\n".join(line.rstrip() for line in said.strip().splitlines())
        assert re.fullmatch(wanted, printed), f"{block}: this was printed instead:\n{said}"
        return ""

    def _with_databases(self, text: str) -> str:
        if self._sqlite is not None:
            text = re.sub(r"sqlite:///[^\s\"'`)]+", lambda _: str(self._sqlite), text)
        return URL.sub(lambda _: self._dsn(), text) if URL.search(text) and self._sqlite is None else text

    def _dsn(self) -> str:
        """The PostgreSQL of this document, made when first asked for."""
        if self._server is None:
            self._server = Server.of_this_run()
            self._postgres = self._server.create_database(f"docs_{secrets.token_hex(6)}")
            dal.connect(self._postgres, migrate=True).close()
        return self._postgres

    def close(self) -> None:
        """Close what the document left open, and drop its databases."""
        for value in self._names.values():
            if isinstance(value, Dal):
                value.close()
        if self._server is not None:
            self._server.drop_database(self._postgres.partition("?")[0].rpartition("/")[2])


@dataclass(frozen=True)
class Command:
    """One command of a shell block. status: what it is to end with, as a comment behind it says; 0 without one."""

    where: str
    text: str
    status: int

    @property
    def program(self) -> str:
        """The first word that sets no variable."""
        return next(word for word in self.text.split() if not re.match(r"[A-Z_]+=", word))

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def commands_of(block: Block) -> Iterator[Command]:
    """The commands of a shell block. A line that ends in a backslash goes on, and so does a text up to END."""
    lines = enumerate(block.text.splitlines(), block.line)
    for at, text in lines:
        status = re.search(r"# exit status (\d)$", text)
        command = re.sub(r"(^|\s+)#.*", "", text).strip()
        while command.endswith("\\"):
            command = command.removesuffix("\\") + next(lines)[1]
        if "<<'END'" in command:
            while not command.endswith("\nEND"):
                command += "\n" + next(lines)[1]
        if command:
            yield Command(f"{block.file}:{at}", command, int(status[1]) if status else 0)


@dataclass
class Sessions:
    """The sessions of this process, made when first asked for."""

    make_folder: Callable[[str], Path]
    made: dict[Path, Session] = field(default_factory=dict)

    def of(self, file: Path) -> Session:
        if file not in self.made:
            self.made[file] = Session(BLOCKS[file], self.make_folder(file.stem))
        return self.made[file]


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sessions]:
    sessions = Sessions(tmp_path_factory.mktemp)
    yield sessions
    for session in sessions.made.values():
        session.close()


@pytest.mark.parametrize(
    "block",
    [
        block
        for file, blocks in BLOCKS.items()
        for block in blocks
        if block.language and block.why_not is None and file.parent.name != "runbooks"  # tests/transfer runs these
    ],
    ids=str,
)
def test_a_snippet_of_the_documents_does_what_it_says(block: Block, sessions: Sessions) -> None:
    sessions.of(block.file).run(block)


def test_the_examples_of_the_readme_answer_the_same_on_postgresql(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAL_TOKEN_PEPPERS", PEPPERS)  # which SQLite makes by itself
    blocks = [block for block in BLOCKS[ROOT / "README.md"] if block.language in ("python", "output")]
    session = Session(blocks, tmp_path, sqlite=postgres_url)
    for block in blocks:
        session.run(block)
    session.close()


@pytest.mark.parametrize("database", ["sqlite_url", "postgres_url"])
def test_the_server_on_the_first_screen_of_the_readme_serves(database: str, request: pytest.FixtureRequest) -> None:
    block = BLOCKS[ROOT / "README.md"][0]
    assert block.language == "python"
    assert block.line < 12, "the example has left the first screen"
    names: dict[str, Any] = {"__name__": "document"}
    exec(block.text.replace("sqlite:///workflows.db", request.getfixturevalue(database)), names)  # noqa: S102
    app = names["app"]

    async def use() -> None:
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as web:
            made = await web.post("/workflows", params={"name": "Invoices"})
            assert made.status_code == 201, made.text
            found = await web.get(f"/workflows/{made.json()['id']}")
            assert (found.status_code, found.json()) == (200, made.json())
            lost = await web.get(f"/workflows/{UUID(int=0)}")
            assert (lost.status_code, lost.json()["type"]) == (404, "urn:workflow-dal:workflow-not-found")

    asyncio.run(use())


# --- nothing escapes being run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_block_is_run_or_says_why_not(file: Path) -> None:
    text = file.read_text("utf-8")
    fences = len(re.findall(r"^\s*(?:```|~~~)", text, re.MULTILINE))
    assert fences == 2 * len(BLOCKS[file]), "a fence is indented or made of tildes, so that its block is not seen"
    assert len(MARK.findall(text)) == sum(block.why_not is not None for block in BLOCKS[file]), "a mark stands alone"
    for block in BLOCKS[file]:
        assert block.language in ("", *RUNNABLE), f"{block}: nothing runs {block.language}"
        if block.language == "" and block.why_not is None:
            assert not TYPED.search(block.text), f"{block}: a command, in a block without a language"
        if block.language == "sh" and block.why_not is None:
            for command in commands_of(block):
                assert command.program in PROGRAMS, f"{command}: mark what cannot run"


def test_the_make_commands_of_unmarked_blocks_are_run_by_continuous_integration() -> None:
    run = {"help"} | _made_by("test") | _made_by("demo")  # .ci/run; and `dal demo` has a test of its own
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("exec make test")
    for block in (block for blocks in BLOCKS.values() for block in blocks if block.language == "sh"):
        for command in commands_of(block):
            if command.program == "make" and block.why_not is None:
                assert command.text.split()[1] in run, f"{command}: neither make test nor make demo runs it"


def _made_by(target: str) -> set[str]:
    """A target of the Makefile and all it depends on."""
    found = re.search(rf"^{re.escape(target)}:([^#\n]*)", MAKEFILE, re.MULTILINE)
    return {target}.union(*map(_made_by, found[1].split())) if found else set()


def commands_in(file: Path) -> Iterator[str]:
    """Commands as prose and blocks name them: what stands in backticks, and the commands of blocks, run or not."""
    prose = re.sub(r"^```.*?^```$", "", file.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    yield from (" ".join(found.split()) for found in re.findall(r"`([^`]+)`", prose))
    for block in blocks_of(file):
        if block.language == "sh":
            yield from (command.text for command in commands_of(block))


@pytest.mark.parametrize("file", LINKING, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_make_target_and_dal_command_that_is_named_exists(file: Path) -> None:
    for text in commands_in(file):
        command = re.sub(r"^([A-Z_]+=\S+ )*", "", text)
        if found := re.fullmatch(r"make ([a-z][a-z-]*)\b.*", command):
            assert re.search(rf"^{re.escape(found[1])}:", MAKEFILE, re.MULTILINE), f"no target: {command}"
        if command.startswith("dal "):
            _check_command(command)


def _check_command(command: str) -> None:
    """Refuse a command or an option that the program does not know."""
    words = [word for word in re.split(r"[ =]", command)[1:] if word]
    found: Any = typer.main.get_command(cli.app)  # Any: click's classes, which typer has under a name of its own
    while words and words[0] in (inner := _commands(found)):
        found = inner[words.pop(0)]
    if inner := _commands(found):
        assert not words or words[0].startswith("-"), f"'{command}': there is no '{words[0]}' but {sorted(inner)}"
    known = {"--help"}.union(*((*parameter.opts, *parameter.secondary_opts) for parameter in found.params))
    unknown = [word for word in words if word.startswith("--") and word not in known]
    assert not unknown, f"'{command}': no option {unknown}, but {sorted(known)}"


def _commands(command: Any) -> dict[str, Any]:
    """The commands of a group; none of a command."""
    return getattr(command, "commands", {})


def _leaves(command: Any, name: str) -> Iterator[str]:
    for word, inner in _commands(command).items():
        yield from _leaves(inner, f"{name} {word}")
    if not _commands(command):
        yield name


def test_every_command_of_the_program_is_in_the_documents() -> None:
    text = " ".join("\n".join(file.read_text("utf-8") for file in DOCUMENTS).split())
    commands = list(_leaves(typer.main.get_command(cli.app), "dal"))
    assert {"dal demo", "dal doctor", "dal schema apply"} <= set(commands)
    assert [command for command in commands if not re.search(rf"\b{command}\b", text)] == []


# --- what documents say of the repository -----------------------------------------------------------------------------


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("file", LINKING, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_link_leads_somewhere(file: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", file.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        place, _, anchor = target.partition("#")
        if "://" in target:
            continue
        other = (file.parent / place).resolve() if place else file
        assert other.exists(), f"{target} is not there"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", other.read_text("utf-8"), re.MULTILINE)
            assert anchor in map(_anchor, headings), f"{target}: no such heading"


@pytest.mark.parametrize("file", LINKING, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_path_that_is_named_exists(file: Path) -> None:
    tops = "|".join(("sql", "dal", "tests", "docs", "loadtest", "bench", "examples", r"\.ci"))
    text = file.read_text("utf-8")
    named = set(re.findall(rf"(?<![\w./<-])((?:{tops})/[\w./-]*\w/?)(?![\w<*{{…/])", text))
    lost = {path for path in named if not path.startswith("dal/sql/") and not (ROOT / path).exists()}
    assert not lost, f"{len(lost)} of {len(named)} paths are not there"


def test_every_name_of_the_package_that_the_documents_use_exists() -> None:
    for file in DOCUMENTS:
        for name in set(re.findall(r"(?<![\w./:-])dal\.([A-Za-z_]\w*)", file.read_text("utf-8"))):
            others = ("yaml", "db", "adapters", "catalog", "http", "triggers")  # two files, a package, loggers
            known = hasattr(dal, name) or name in others
            assert known, f"{file.name}: there is no dal.{name}"


def test_the_page_for_dbas_explains_every_rule_of_the_guard() -> None:
    text = (ROOT / "docs" / "for-dbas.md").read_text("utf-8").partition("## What is checked")[2]
    rows = re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)
    explained = [rule for row in rows for rule in re.findall(r"`([a-z-]+)`", row)]
    words = {
        word for path in (ROOT / "dal" / "guard").glob("*.py") for word in re.findall(r'"([a-z-]+)"', path.read_text())
    }
    assert len(set(explained)) == len(explained)
    assert {word for word in words if "-" in word} - set(explained) == set(), "rules without an explanation"
    assert set(explained) - words == set(), "explanations without a rule"


def test_the_page_on_architecture_names_every_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    modules = {path.name for path in (ROOT / "dal").rglob("*.py*") if path.suffix in (".py", ".pyi")}
    lost = sorted(name for name in modules - {"__init__.py", "__main__.py"} if not re.search(rf"\b{name}\b", text))
    assert not lost, f"docs/architecture.md says nothing of {lost}"


def test_the_changelog_ends_with_the_version_that_is_built() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert f"\n## [{version[1]}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


# --- docs/troubleshooting.md ------------------------------------------------------------------------------------------


def _error_classes() -> Mapping[str, type[DalError]]:
    found = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    return {name: value for name, value in found.items() if issubclass(value, DalError)}


def _entries() -> dict[str, str]:
    text = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    pieces = re.split(r"^### (\w+)$", text, flags=re.MULTILINE)
    names = pieces[1::2]
    assert len(set(names)) == len(names), "an error has two entries"
    return dict(zip(names, pieces[2::2], strict=True))


def test_every_error_has_its_entry_and_every_entry_its_error() -> None:
    assert set(_entries()) == set(_error_classes())


def test_an_entry_begins_with_the_message_as_it_reads_and_says_what_to_do() -> None:
    for name, text in _entries().items():
        headline = (_error_classes()[name].__doc__ or "").splitlines()[0].rstrip(".")
        message = re.match(r"\s*> (.*)", text)
        assert message, f"{name} begins with no message"
        assert message[1].startswith(headline), f"{name}: '{message[1]}' does not begin with '{headline}'"
        assert "**Do:** " in text, f"{name} does not say what to do"


# How each is met: on the SQLite of a workflow "invoices" with one version and one run, or on PostgreSQL.


def _meet_catalog_error(folder: Path) -> None:
    (folder / "postgres").mkdir()
    (folder / "postgres" / "runs.sql").write_text(
        "-- Ours.\n\n-- name: get_run(run_id)^\n-- params: run_id uuid\n-- returns: Run\n-- class: point\n"
        "select 1 where 1 = :id and 2 = :run_id;\n"
    )
    Catalog.load("postgres", MODELS_BY_NAME, root=folder)


def _meet_corrupt_database(folder: Path) -> None:
    with contextlib.chdir(folder):
        Path("dal.db").write_text("Dear diary, " * 100)
        dal.connect("sqlite:///dal.db")


def _meet_disk_full(db: Dal[Sync], flow: Workflow) -> None:
    with db.transaction() as tx:
        tx.connection.execute("pragma max_page_count = 1")
        tx.versions.create(flow.id, {"nodes": "n" * 1_000_000}, actor="ana")


def _meet_nested_call(db: Dal[Sync], flow: Workflow) -> None:
    with db.transaction():
        db.workflows.get(flow.id)


def _meet_closed(db: Dal[Sync], flow: Workflow) -> None:
    with db.transaction() as tx:
        pass
    tx.workflows.get(flow.id)


def _meet_archived(db: Dal[Sync], flow: Workflow) -> None:
    db.workflows.archive(flow.id, actor="ana")
    db.versions.create(flow.id, {}, actor="ana")


def _meet_transition(db: Dal[Sync], run: Run) -> None:
    db.runs.cancel(run.id, actor="ana")
    db.runs.succeed(run.id, actor="worker")


def _meet_a_lost_lease(db: Dal[Sync], run: Run) -> None:
    db.runs.claim("worker-1", lease_seconds=60)
    db.runs.succeed(run.id, actor="ana")


def _meet_rules(db: Dal[Sync], flow: Workflow) -> None:
    db.triggers.set_webhook(flow.id, actor="ana")
    db.triggers.dispatch_webhook(flow.id, {}, method="GET", source_ip=None)


def _meet_a_limit(db: Dal[Sync], flow: Workflow) -> None:
    db.triggers.set_webhook(flow.id, rate_limit=1, rate_window_seconds=86_400, actor="ana")
    for _ in range(3):  # midnight may come between two
        db.triggers.dispatch_webhook(flow.id, {}, source_ip=None)


def _meet_published(db: Dal[Sync], flow: Workflow) -> None:
    db.workflows.publish(flow.id, actor="ana")
    db.workflows.publish(flow.id, actor="ana")


def _meet_aborted(db: Dal[Sync]) -> None:
    with db.transaction() as tx:
        with contextlib.suppress(psycopg.Error):
            tx.connection.execute("select 1 / 0")
        tx.workflows.list()


def _meet_read_only(db: Dal[Sync]) -> None:
    with db.transaction(read_only=True) as tx:
        tx.workflows.create("Invoices", actor="ana")


def _meet_rule_of_a_dba(db: Dal[Sync], rule: str) -> None:
    with db.transaction() as tx:
        tx.connection.execute(rule)
    for _ in range(2):
        db.workflows.create("Invoices", actor="ana")


def _meet_overload(url: str) -> None:
    settings = Settings.from_url(url, postgres_pool_max_size=1, postgres_pool_timeout=0.1)
    with dal.connect(settings) as db, db.transaction(), ThreadPoolExecutor(1) as another:
        another.submit(db.workflows.list).result()


def _meet_no_pepper(url: str) -> None:
    with dal.connect(url) as db:
        db.tokens.mint("ci", actor="ana")


NAN = {"nodes": [{"x": float("nan")}]}
ON_SQLITE: Mapping[str, Callable[[Dal[Sync], Workflow, Run], object]] = {
    "Invalid": lambda db, flow, run: db.versions.create(flow.id, NAN, actor="ana"),
    "WorkflowNotFound": lambda db, flow, run: (db.workflows.archive(flow.id, actor="ana"),
                                               db.workflows.resolve("invoices", include_archived=False)),
    "VersionNotFound": lambda db, flow, run: db.versions.get_number(flow.id, 3),
    "RunNotFound": lambda db, flow, run: db.runs.get(flow.id),
    "ExecutionNotFound": lambda db, flow, run: db.history.get("run-4711"),
    "CheckpointNotFound": lambda db, flow, run: db.checkpoints.best("support-agent"),
    "ThreadNotFound": lambda db, flow, run: db.chat.get_thread("ana", "thr_4711"),
    "ItemNotFound": lambda db, flow, run: db.chat.get_item("ana", "thr_4711", "msg_4711"),
    "AttachmentNotFound": lambda db, flow, run: db.chat.get_attachment("ana", "atc_4711"),
    "KeyNotFound": lambda db, flow, run: db.keys.get("booking:4711"),
    "TokenNotFound": lambda db, flow, run: db.tokens.get("4f1Qz0aB7xYk"),
    "TokenRefused": lambda db, flow, run: db.tokens.authenticate("dal_svc_"),
    "NameTaken": lambda db, flow, run: [db.tokens.mint(name, actor="ana") for name in ("Straße", "STRASSE")],
    "TriggerNotFound": lambda db, flow, run: db.triggers.dispatch_webhook(flow.id, {}, source_ip=None),
    "LeaseLost": lambda db, flow, run: _meet_a_lost_lease(db, run),
    "WebhookRefused": lambda db, flow, run: _meet_rules(db, flow),
    "RateLimited": lambda db, flow, run: _meet_a_limit(db, flow),
    "HandleTaken": lambda db, flow, run: db.workflows.create("Other", handle="invoices", actor="ana"),
    "VersionTaken": lambda db, flow, run: [
        db.checkpoints.record("support-agent", config_version=1, runnable_config={}) for _ in range(2)],
    "RevisionConflict": lambda db, flow, run: db.workflows.update(flow.id, name="B", expected_revision=7, actor="ana"),
    "IdempotencyConflict": lambda db, flow, run: db.runs.create(
        flow.id, inputs={"other": True}, idempotency_key="key", actor="ana"),
    "InvalidState": lambda db, flow, run: _meet_nested_call(db, flow),
    "InvalidTransition": lambda db, flow, run: _meet_transition(db, run),
    "WorkflowArchived": lambda db, flow, run: _meet_archived(db, flow),
    "AlreadyPublished": lambda db, flow, run: _meet_published(db, flow),
    "NotPublished": lambda db, flow, run: db.workflows.unpublish(flow.id, actor="ana"),
    "Closed": lambda db, flow, run: _meet_closed(db, flow),
    "DiskFull": lambda db, flow, run: _meet_disk_full(db, flow),
}  # fmt: skip
ON_POSTGRES: Mapping[str, Callable[[Dal[Sync]], object]] = {
    "AlreadyExists": lambda db: _meet_rule_of_a_dba(db, "create unique index workflows_slug_key on workflows (slug)"),
    "ConstraintViolated": lambda db: _meet_rule_of_a_dba(
        db, "alter table workflows add constraint workflows_name_rule check (name <> 'Invoices')"),
    "TransactionAborted": _meet_aborted,
    "ReadOnly": _meet_read_only,
}  # fmt: skip
ELSEWHERE: Mapping[str, Callable[[Path, str], object]] = {
    "Unavailable": lambda folder, url: dal.connect("postgresql://127.0.0.1:1/dal"),
    "CorruptDatabase": lambda folder, url: _meet_corrupt_database(folder),
    "SchemaError": lambda folder, url: dal.connect(f"sqlite:///{folder / 'new.db'}", migrate=False),
    "CatalogError": lambda folder, url: _meet_catalog_error(folder),
    "Overloaded": lambda folder, url: _meet_overload(url),
    "PepperMissing": lambda folder, url: _meet_no_pepper(url),
}
# The families that are not raised as such, a code no server sends at will, and a connection cut within a commit.
NOT_MET = {"NotFound", "Conflict", "DalError", "OutcomeUnknown"}


def _check_met(name: str, meet: Callable[[], object]) -> None:
    """Meet an error, and compare what it says with the example in its entry."""
    example = re.match(r"\s*> (.*)", _entries()[name])
    assert example
    with pytest.raises(_error_classes()[name]) as met:
        meet()
    assert type(met.value) is _error_classes()[name]
    assert re.fullmatch(re.escape(example[1]).replace("…", ".+"), str(met.value)), str(met.value)


@pytest.mark.parametrize("name", ON_SQLITE)
def test_the_example_of_an_entry_is_what_sqlite_users_meet(name: str, sqlite_db: Dal[Sync]) -> None:
    flow = sqlite_db.workflows.create("Invoices", handle="invoices", actor="ana")
    sqlite_db.versions.create(flow.id, {}, actor="ana")
    run = sqlite_db.runs.create(flow.id, idempotency_key="key", actor="ana")
    _check_met(name, lambda: ON_SQLITE[name](sqlite_db, flow, run))


@pytest.mark.parametrize("name", ON_POSTGRES)
def test_the_example_of_an_entry_is_what_postgresql_users_meet(name: str, postgres_db: Dal[Sync]) -> None:
    _check_met(name, lambda: ON_POSTGRES[name](postgres_db))


@pytest.mark.parametrize("name", ELSEWHERE)
def test_the_example_of_an_entry_is_what_users_meet_on_connecting(name: str, tmp_path: Path, postgres_url: str) -> None:
    _check_met(name, lambda: ELSEWHERE[name](tmp_path, postgres_url))


def test_no_entry_is_left_without_a_try() -> None:
    assert {*ON_SQLITE, *ON_POSTGRES, *ELSEWHERE} == set(_error_classes()) - NOT_MET


def test_every_error_can_be_caught_by_a_name_of_the_package() -> None:
    assert [name for name in _error_classes() if getattr(dal, name, None) is not getattr(errors, name)] == []

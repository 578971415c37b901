"""docs/runbooks: the commands of each, in order, as an operator gives them."""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import dal
from dal import Settings, cli
from dal.transfer import moving
from dal.transfer.side import Side
from dal.transfer.sources import SideSource
from tests.cells import PEPPERS
from tests.contract.test_docs import URL, blocks_of, commands_of
from tests.server import Server

RUNBOOKS = Path(__file__).resolve().parents[2] / "docs" / "runbooks"
SOURCE, TARGET = "sqlite:///workflows.db", "postgresql://dal@db/workflows"


class Operator:
    """Gives a runbook's commands in a folder. databases: the PostgreSQL that stands for each URL."""

    def __init__(self, folder: Path, databases: Callable[[str], str]) -> None:
        self.folder = folder
        self.database = databases
        self.sqlite = f"sqlite:///{folder / 'workflows.db'}"

    def follow(self, name: str, *, part: str = "") -> str:
        """Every command of a runbook, or of one part of it; what was printed. Fails at the first wrong exit status."""
        text = (RUNBOOKS / name).read_text("utf-8")
        begin = text.index(f"\n## {part}") if part else 0
        lines = range(text[:begin].count("\n"), text[: text.find("\n## ", begin + 1) % len(text)].count("\n") + 1)
        said = ""
        for block in blocks_of(RUNBOOKS / name):
            if block.language == "sh" and (not part or block.line in lines):
                assert block.why_not is None, "an operator would give it"
                for command in commands_of(block):
                    said += self.give(command.text, command.status)
        return said

    def give(self, text: str, status: int = 0) -> str:
        """One command; what it printed."""
        program, *words = shlex.split(URL.sub(lambda url: self.database(url[0]), text))
        assert program == "dal", f"{text}: an operator has dal, and nothing else of ours"
        with contextlib.chdir(self.folder):
            # Within this process: the program itself has tests of its own, and to start it takes a second each time.
            done = CliRunner().invoke(cli.app, words, env={"DAL_TOKEN_PEPPERS": PEPPERS})
        assert done.exit_code == status, f"{text}\nended with {done.exit_code}, {done.exception}:\n{done.output}"
        return done.stdout


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    server = Server.of_this_run()
    made: dict[str, str] = {}

    def database(url: str) -> str:
        if url not in made:
            made[url] = server.create_database(f"runbook_{secrets.token_hex(6)}")
        return made[url]

    operator = Operator(tmp_path, database)
    with dal.connect(Settings.from_url(operator.sqlite, token_peppers=PEPPERS)) as db:
        flow = db.workflows.create("Monthly invoices", handle="invoices", actor="ana")
        for month in range(12):
            db.versions.create(flow.id, {"month": month}, actor="ana")
        run = db.runs.create(flow.id, inputs={}, actor="ana")
        db.history.start(str(run.id), str(flow.id), metadata={"customer": "acme"})
        db.history.append_steps(str(run.id), [{"step": number} for number in range(50)])
        db.chat.save_thread("ana", "thr_1", title="Invoices")
        db.tokens.mint("ci", actor="ana")
    yield operator
    for url in made.values():
        server.drop_database(url.partition("?")[0].rpartition("/")[2])


def test_a_server_moves_to_postgresql_writes_there_and_goes_back(operator: Operator) -> None:
    said = operator.follow("migrate.md")
    assert re.search(r"database \S+, epoch \d+: takes writes\n.*: fenced, moved to postgresql://", said)
    assert "DIFFERS" not in said
    with dal.connect(operator.database(TARGET)) as db:
        flow = db.workflows.resolve("invoices")
        assert db.versions.create(flow.id, {"written": "there"}, actor="ana").number == 13
    operator.follow("roll-back.md", part="2. After writes")
    with dal.connect(f"sqlite:///{operator.folder / 'workflows-2.db'}") as db:
        assert db.versions.latest(flow.id).graph == {"written": "there"}
        assert db.versions.create(flow.id, {}, actor="ana").number == 14
    with dal.connect(operator.sqlite) as db, pytest.raises(dal.ReadOnly):
        db.versions.create(flow.id, {}, actor="ana")


def test_a_server_goes_back_before_anything_was_written(operator: Operator) -> None:
    operator.follow("migrate.md")
    operator.follow("roll-back.md", part="1. Before the first write")
    with dal.connect(operator.sqlite) as db:
        assert db.versions.create(db.workflows.resolve("invoices").id, {}, actor="ana").number == 13
    with dal.connect(operator.database(TARGET)) as db, pytest.raises(dal.ReadOnly):
        db.workflows.create("Too late", actor="ana")


@pytest.mark.parametrize("part", ["Go on", "Give up"])
def test_a_move_that_was_cut_off(operator: Operator, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off in the middle of its batches; the ledger has some of them."""
    left = iter(range(5))

    def cut_off(self: SideSource, job: object) -> object:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return Side.read(self.side, job.table, job.range)  # type: ignore[attr-defined]

    source, target = Settings.from_url(operator.sqlite), Settings.from_url(operator.database(TARGET))
    with monkeypatch.context() as patch:
        patch.setattr(SideSource, "rows", cut_off)
        with pytest.raises(KeyboardInterrupt):
            moving.move(source, target, workers=1)
    said = operator.follow("partial-failure.md", part="See where it is")
    assert "fenced, moved to" in said
    assert "is being loaded" in said
    operator.follow("partial-failure.md", part=part)
    url = operator.database(TARGET) if part == "Go on" else operator.sqlite
    with dal.connect(url) as db:
        assert db.versions.create(db.workflows.resolve("invoices").id, {}, actor="ana").number == 13

"""``dal demo``: a workflow server's day, made from a fixed seed, with every answer checked against what it must be.

The text is the same on every database, so it holds no ids, no times of day and no figures of the machine. It goes
through the public interface alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr
from rich.console import Console

import dal
from dal import Settings
from dal.demo.account import Account, WrongAnswer
from dal.demo.day import Day
from dal.demo.move import Move
from dal.demo.night import Night
from dal.demo.plan import SEED, WORKFLOWS, Clock, plans
from dal.peppers import new_pepper

__all__ = ["SEED", "WORKFLOWS", "plans", "run"]


def run(
    url: str | None, console: Console, *, keep: Path | None = None, to: str | None = None, seed: int = SEED
) -> bool:
    """Live the day on a database and tell of it; whether every answer was right.

    url: the database, which must hold no workflow; without it a SQLite file at ``keep``, or a temporary one. to: an
    empty database that it is moved to in the end; without it another temporary file. Raises InvalidState for one that
    holds workflows, and what ``connect`` raises.
    """
    with _database(url, keep) as found, tempfile.TemporaryDirectory(prefix="dal-demo-") as folder:
        settings = _peppered(found)
        with dal.connect(settings, migrate=True) as db:
            if db.workflows.list(include_archived=True, limit=1).items:
                raise dal.InvalidState("the database holds workflows, and the demo takes an empty one")
        account = Account(console)
        try:
            _live(settings, account, seed, to, Path(folder))
        except (WrongAnswer, dal.Invalid, dal.NotFound, dal.Conflict, dal.InvalidState) as error:
            said = str(error) if isinstance(error, WrongAnswer) else f"unexpected {type(error).__name__}: {error}"
            console.print(f"\nWrong answer. {account.part}: {said}", style="bold red", markup=False)
            return False
    return True


@contextmanager
def _database(url: str | None, keep: Path | None) -> Iterator[Settings]:
    if url is not None:
        yield Settings.from_url(url)
    elif keep is not None:
        yield Settings(backend="sqlite", sqlite_path=keep)
    else:
        with tempfile.TemporaryDirectory(prefix="dal-demo-") as folder:
            yield Settings(backend="sqlite", sqlite_path=Path(folder) / "demo.db")


def _peppered(settings: Settings) -> Settings:
    """With a key for the demo's tokens where none is set. Nobody keeps it, and they are not to be used after it."""
    if settings.token_peppers is not None:
        return settings
    return settings.model_copy(update={"token_peppers": SecretStr(new_pepper())})


def _live(settings: Settings, account: Account, seed: int, to: str | None, folder: Path) -> None:
    clock = Clock()
    with dal.connect(settings, clock=clock) as db:
        day = Day(db, clock, account, seed)
        account.say("workflow-dal: a day of a workflow server")
        night = Night(day)
        for part in (
            day.make_workflows, day.make_versions, day.make_runs, day.change_workflows, day.be_refused, day.rush_hour,
            night.share_work, night.fire_triggers, night.ask_again, night.write_history,
            night.improve_prompts, night.check_callers, night.talk,
        ):  # fmt: skip
            part()
        Move(day, settings, to, folder).there_and_back()
        account.chapter("The end of the day")
        account.say(f"{account.checked:,} answers were checked, and all are right.")

"""Power cuts under our SQLite engine, simulated by tests/faults/power.py: what was acknowledged is there afterwards.

A life is a process's use of a file, cut off several times: each cut leaves an image of the disk, which the ordinary
engine opens. The next life begins with the last image of the one before, so that recovery is cut off, too.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

import dal
from dal import Dal, Settings, Sync
from dal.dal import utc_now
from tests.cells import Face, Loop, open_db, together
from tests.faults.power import Disk, connect_through
from tests.faults.whole import damage, ids, names

WRITERS = 4


@dataclass(frozen=True)
class Given:
    """How a disk is used, and what it is worth."""

    level: str  # of synchronous
    cuts: int
    seed: int
    cuts_of_a_life: int = 5
    lies: bool = False
    awaits_folding: bool = True  # with every other cut


@dataclass
class Life:
    """What was acknowledged before each cut, and the folder that the cut left."""

    cuts: list[tuple[frozenset[str], Path]] = field(default_factory=list)
    folding: int = 0  # cuts while the log was being folded into the file


def write(db: Dal[Sync], chance: random.Random, acknowledged: set[str], is_over: Callable[[], bool]) -> None:
    """What an application does, until it is over. acknowledged: ids of what exists, and of what has become of it."""
    while not is_over():
        flow = db.workflows.create("w", actor="ann", tags=["a", "b"])
        acknowledged.add(str(flow.id))
        graph = {"text": "x" * chance.choice([10, 1000, 50_000])}
        for _ in range(chance.randrange(3)):
            acknowledged.add(str(db.versions.create(flow.id, graph, actor="ann").id))
        with db.transaction() as tx:
            flow = tx.workflows.create("pair", actor="ann")
            version = tx.versions.create(flow.id, graph, actor="ann")
        acknowledged |= {str(flow.id), str(version.id)}
        run = db.runs.create(flow.id, actor="ann", idempotency_key=f"key of {flow.id}")
        acknowledged.add(str(run.id))
        db.runs.start(run.id, actor="ann")
        acknowledged.add(f"{run.id} running")


def live(folder: Path, images: Path, face: Face, loop: Loop, chance: random.Random, given: Given) -> Life:
    """Use the file in a folder, on a disk that is cut off at random changes and syncs.

    Folding the log into the file comes rarely, so that every other cut waits for it, though not for ever.
    """
    life, acknowledged = Life(), set[str]()
    disk = Disk(f"power {folder.name}", lies=given.lies)
    next_cut, latest = chance.randrange(1, 40), 0

    def cut() -> None:
        nonlocal next_cut, latest
        if latest and disk.is_folding():
            next_cut, latest = disk.calls + chance.randrange(40), 0
        if len(life.cuts) == given.cuts_of_a_life or disk.calls < max(next_cut, latest):
            return
        next_cut = disk.calls + chance.randrange(1, 200)
        latest = disk.calls + 5000 if given.awaits_folding and len(life.cuts) % 2 == 0 else 0
        life.folding += disk.is_folding()
        image = Path(tempfile.mkdtemp(dir=images))
        disk.image(image, chance)
        life.cuts.append((frozenset(acknowledged), image))

    disk.at = cut
    with pytest.MonkeyPatch.context() as patch:
        # The engine finds this name in the module each time it opens a connection, and has no other way to open one.
        patch.setattr(sqlite3, "connect", connect_through(disk.name, folder))
        settings = Settings(backend="sqlite", sqlite_path=folder / "dal.db", sqlite_synchronous=given.level)
        db = open_db(settings, face, utc_now, loop)
        assert disk.files, "the engine did not open its file through this disk"
        writers = [random.Random(chance.random()) for _ in range(WRITERS)]
        jobs = [
            lambda seed=each: write(db, seed, acknowledged, lambda: len(life.cuts) == given.cuts_of_a_life)
            for each in writers
        ]
        ended = together(jobs)
        db.close()
    disk.unregister()
    assert ended == [None] * WRITERS, ended
    assert len(life.cuts) == given.cuts_of_a_life
    return life


def survey(image: Path) -> tuple[set[str], list[str]]:
    """What the ordinary engine finds after a cut, and what is wrong with it; it then takes another write."""
    try:
        return _survey(image)
    except (dal.DalError, sqlite3.Error) as error:
        return set(), [repr(error)]


def _survey(image: Path) -> tuple[set[str], list[str]]:
    with dal.connect(f"sqlite:///{image}/dal.db") as db:
        wrong = damage(db)
        found = ids(db)
        with db.transaction(read_only=True) as tx:
            running = tx.connection.execute("select id from runs where status = 'running'").fetchall()
            alone = tx.connection.execute(
                "select id from workflows where name = 'pair' and last_version = 0"
            ).fetchall()
        wrong += [f"half a transaction: {id}" for (id,) in alone]
        wrong += [f"{count} of {name}" for name, count in names(db).items() if count > 1 and str(name)[:3] == "key"]
        db.workflows.create("after", actor="ann")
        wrong += damage(db)
    return found | {f"{id} running" for (id,) in running}, wrong


@dataclass
class Outcome:
    """Of all cuts: how many lost something that was acknowledged, and what was wrong with the files."""

    cuts: int = 0
    folding: int = 0
    lost: int = 0
    damaged: list[str] = field(default_factory=list)


@pytest.fixture
def cut_off(sqlite_template: Path, loop: Loop) -> Iterator[Callable[[Given], Outcome]]:
    """Cut off a disk; its seed makes a failure repeat nearly the same."""
    with tempfile.TemporaryDirectory() as name:

        def run(given: Given) -> Outcome:
            chance, outcome, before = random.Random(given.seed), Outcome(), Path(name) / "first"
            before.mkdir()
            shutil.copy(sqlite_template, before / "dal.db")
            for number in range(-(-given.cuts // given.cuts_of_a_life)):
                images = Path(name) / f"life {number}"
                images.mkdir()
                known = survey(before)[0]  # a disk that lost something is not asked for it again
                face: Literal["sync", "async"] = ("sync", "async")[number % 2]
                life = live(before, images, face, loop, chance, given)
                outcome.folding += life.folding
                shutil.copytree(life.cuts[-1][1], again := Path(name) / f"begin of {number + 1}")
                for acknowledged, image in life.cuts:
                    found, wrong = survey(image)
                    outcome.cuts += 1
                    outcome.lost += not acknowledged | known <= found
                    outcome.damaged += wrong
                shutil.rmtree(images)
                shutil.rmtree(before)
                before = again
            return outcome

        yield run


def test_a_power_cut_loses_nothing_acknowledged_and_leaves_nothing_half(
    cut_off: Callable[[Given], Outcome], tally: Any, rounds: Any
) -> None:
    row = tally("SQLite: power cut, synchronous=FULL")
    seed = random.randrange(2**32)
    outcome = cut_off(Given("full", rounds(20, 300), seed))
    row.rounds, row.lost = outcome.cuts, outcome.lost
    assert outcome.damaged == [], f"seed {seed}"
    assert outcome.folding > 0, f"seed {seed}: no cut came while the log was being folded into the file"
    row.check()


def test_power_cuts_do_lose_something_where_commits_are_not_synced(cut_off: Callable[[Given], Outcome]) -> None:
    """The control: under NORMAL a commit is synced at the next checkpoint, so that nearly every cut loses some.

    Else the test above would prove nothing. The file is whole all the same.
    """
    seed = random.randrange(2**32)
    outcome = cut_off(Given("normal", 30, seed, awaits_folding=False))
    assert outcome.damaged == [], f"seed {seed}"
    assert outcome.lost > 0, f"seed {seed}"


def test_power_cuts_do_damage_where_the_disk_only_says_that_it_has_synced(cut_off: Callable[[Given], Outcome]) -> None:
    """The control of damage: nothing but the order of its syncs keeps a file whole."""
    seeds = [random.randrange(2**32) for _ in range(5)]  # most cuts do none: 20 of one seed may all be lucky
    assert any(cut_off(Given("full", 20, seed, cuts_of_a_life=20, lies=True)).damaged for seed in seeds), seeds

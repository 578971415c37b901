"""Disks and hosts that a transfer meets: read-only, full, with another time; and sources that hold nothing, or much."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

import dal
from dal.transfer import loading, moving
from dal.transfer.inventory import inventory
from tests.cells import Dialect
from tests.disks import leave_room, make_read_only, mounted
from tests.server import Server
from tests.transfer.conftest import counts, differing_tables, execute, settings_of

PLACES = [
    ("a source on a read-only disk", "refused, saying so; a copy of it can be moved"),
    ("no room on the target's disk", "stopped with `DiskFull`; with room again the same command goes on"),
    ("hosts whose clocks are 20 years apart", "all of it arrives; what was cut off goes on"),
    ("a source without a row", "moved, and equal"),
    ("100 MB of JSON in a row", "quarantine `json-size`, all of it kept"),
]


def test_a_source_on_a_read_only_disk(base: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "20m") as disk:
        shutil.copy(base, disk / "source.db")
        make_read_only(disk)
        here, there = settings_of(f"sqlite:///{disk / 'source.db'}"), settings_of(f"sqlite:///{tmp_path / 'target.db'}")
        for attempt in (
            lambda: moving.move(here, there),
            lambda: moving.move(here, there, fence=False),
            lambda: moving.export_to(here, tmp_path / "export"),
        ):
            with pytest.raises(dal.Invalid, match="a read-only disk"):
                attempt()
        assert not (tmp_path / "target.db").exists()
        assert not (tmp_path / "export").exists()
        shutil.copy(disk / "source.db", tmp_path / "copy.db")
    assert moving.move(settings_of(f"sqlite:///{tmp_path / 'copy.db'}"), there).state == "done"
    assert differing_tables(f"sqlite:///{base}", f"sqlite:///{tmp_path / 'target.db'}") == []


def refused_for_room(source: str, target: str) -> None:
    with pytest.raises(dal.DiskFull):
        moving.move(settings_of(source), settings_of(target), size=37, workers=2)


@pytest.mark.parametrize(("pages", "begun"), [(12, False), (60, True), (400, True)])
def test_no_room_for_a_target_in_sqlite(day: str, pages: int, begun: bool, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "30m") as disk:
        target = f"sqlite:///{disk / 'target.db'}"
        dal.connect(target).close()
        leave_room(disk, pages)
        refused_for_room(day, target)
        (disk / "filler").unlink()
        report = moving.move(settings_of(day), settings_of(target), size=37)
        assert report.state == "done"
        assert (report.resumed > 0) == begun
        assert differing_tables(day, target) == []


def test_no_room_for_a_target_in_postgresql(day: str) -> None:
    with Server.start() as server:
        data = Path(execute(server.dsn(), "show data_directory")[0][0])
        with mounted(data.parent / "disk", "60m") as disk:
            space = disk / "space"
            space.mkdir()
            os.chown(space, data.stat().st_uid, data.stat().st_gid)
            execute(server.dsn(), f"create tablespace small location '{space}'")
            execute(server.dsn(), "create database tight template template0 tablespace small")
            target = server.dsn("tight")
            dal.connect(target, migrate=True).close()
            leave_room(disk, 20)
            refused_for_room(day, target)
            (disk / "filler").unlink()
            report = moving.move(settings_of(day), settings_of(target), size=37, workers=2)
            assert report.state == "done"
            assert report.resumed > 0
            assert differing_tables(day, target) == []
            server.drop_database("tight")
            execute(server.dsn(), "drop tablespace small")


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_clocks_that_are_years_apart(dialect: Dialect, base: Path, make_empty: Callable[[Dialect], str]) -> None:
    """The later transfer into a database has the earlier time; and it is cut off."""
    first, there = make_empty("sqlite"), make_empty(dialect)
    dal.connect(first).close()
    dal.connect(there, migrate=True).close()
    ahead = moving.move(settings_of(first), settings_of(there), clock=lambda: datetime(2046, 1, 1, tzinfo=UTC))
    assert ahead.state == "done"
    source = make_empty("sqlite")
    shutil.copy(base, source.removeprefix("sqlite:///"))
    behind = lambda: datetime(2006, 1, 1, tzinfo=UTC)  # noqa: E731

    def cut_off(progress: loading.Progress) -> None:
        if progress.phase == "load" and progress.table == "runs":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        moving.move(settings_of(source), settings_of(there), clock=behind, tell=cut_off)
    with pytest.raises(dal.InvalidState, match="has not finished loading"):
        moving.set_fence(settings_of(there), None)
    report = moving.move(settings_of(source), settings_of(there), clock=behind)
    assert report.resumed > 0
    assert report.state == "done"
    assert report.transfer_id != ahead.transfer_id
    assert differing_tables(source, there) == []


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_a_source_without_a_row(dialect: Dialect, make_empty: Callable[[Dialect], str], tmp_path: Path) -> None:
    source, there, back = make_empty("sqlite"), make_empty(dialect), make_empty("sqlite")
    dal.connect(source).close()
    report = moving.move(settings_of(source), settings_of(there))
    assert (report.state, sum(report.loaded.values())) == ("done", 0)
    exported = moving.export_to(settings_of(there), tmp_path / "export")
    assert sum(exported.rows.values()) == 0
    assert moving.import_from(tmp_path / "export", settings_of(back)).state == "done"
    assert set(counts(back).values()) == {0}
    assert len(counts(back)) == len(inventory())


LARGE = """
import resource, sys
from dal.transfer import moving
from tests.transfer.conftest import settings_of
report = moving.move(settings_of(sys.argv[1]), settings_of(sys.argv[2]))
print(report.state, sum(report.quarantined.values()), report.samples[0].rule)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_100_mb_in_a_row(base: Path, make_database: Callable[..., str], tmp_path: Path) -> None:
    shutil.copy(base, tmp_path / "source.db")
    source, target = f"sqlite:///{tmp_path / 'source.db'}", make_database("postgres")
    document = '"' + "x" * 100_000_000 + '"'
    execute(source, "update execution_steps set payload = ? where idx = 0", document)
    ended = subprocess.run(
        [sys.executable, "-c", LARGE, source, target],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = ended.stdout.splitlines()
    assert said[0] == "held 1 json-size: payload"
    assert int(said[1]) < 1500, "MiB of memory"
    kept = execute(target, "select row from dal_transfer_quarantine")[0][0]
    assert document.encode().hex() in kept

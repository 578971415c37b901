"""An export that somebody or something has been at: refused, and by its name."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import dal
from dal import Invalid, cli
from dal.transfer import moving
from dal.transfer.folder import MANIFEST, WORK, Folder, write_manifest
from dal.transfer.inventory import inventory
from tests.cells import PEPPERS, Dialect
from tests.transfer.conftest import counts, differing_tables, execute, settings_of

STEPS = "execution_steps-000001.jsonl"
RUNS = "runs-000001.jsonl"
BEFORE, BEHIND = "the export is refused, before any row is read", "the file is refused, its rows are not loaded"


def export_of(source: Path, folder: Path, **given: Any) -> Path:
    moving.export_to(settings_of(f"sqlite:///{source}"), folder, **given)
    return folder


@pytest.fixture(scope="session")
def exported(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_of(base, tmp_path_factory.mktemp("exported") / "plain", size=1000)


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    shutil.copytree(exported, tmp_path / "export")
    return tmp_path / "export"


# --- what is done to it -----------------------------------------------------------------------------------------------

Work = Callable[[Path], None]
DONE: list[tuple[str, str, str, Work]] = []


def done(what: str, result: str, says: str) -> Callable[[Work], Work]:
    """A case: what is done, what becomes of it, and the words of the error."""

    def keep(work: Work) -> Work:
        DONE.append((what, result, says, work))
        return work

    return keep


def forged(folder: Path, alter: Callable[[dict[str, Any]], None]) -> None:
    """The manifest altered, and sealed as if it were genuine."""
    content = json.loads((folder / MANIFEST).read_text("utf-8"))
    alter(content)
    write_manifest(folder, {key: value for key, value in content.items() if key != "seal"})


def summed(folder: Path, name: str, lines: list[bytes]) -> None:
    """Other lines in a file, with its SHA-256 in a manifest sealed anew."""
    (folder / name).write_bytes(b"".join(lines))

    def alter(content: dict[str, Any]) -> None:
        entry = content["batches"][name[:-13]][0]
        entry["sha256"] = hashlib.sha256(b"".join(lines)).hexdigest()
        entry["rows"] = len(lines)

    forged(folder, alter)


def named(text: str) -> Work:
    """The manifest names another file, in the place of a table's first."""
    return lambda folder: forged(folder, lambda content: content["batches"]["runs"][0].update(file=text))


def lines_of(folder: Path, name: str = STEPS) -> list[bytes]:
    return (folder / name).read_bytes().splitlines(keepends=True)


@done("a bit of the manifest flipped", BEFORE, rf"{MANIFEST} (was altered|is not JSON)")
def _(folder: Path) -> None:
    flip(folder / MANIFEST, random.Random(7))


@done("a bit of a file flipped", BEHIND, f"{STEPS} was altered, cut or damaged")
def _(folder: Path) -> None:
    flip(folder / STEPS, random.Random(8))


@done("a file cut", BEHIND, f"{STEPS} was altered, cut or damaged")
def _(folder: Path) -> None:
    os.truncate(folder / STEPS, 40)


@done("a file cut to nothing", BEHIND, f"{STEPS} was altered, cut or damaged")
def _(folder: Path) -> None:
    os.truncate(folder / STEPS, 0)


@done("a line added", BEHIND, f"{STEPS} was altered, cut or damaged")
def _(folder: Path) -> None:
    (folder / STEPS).write_bytes((folder / STEPS).read_bytes() + b"[]\n")


@done("lines in another order", BEHIND, f"{STEPS} was altered, cut or damaged")
def _(folder: Path) -> None:
    (folder / STEPS).write_bytes(b"".join(reversed(lines_of(folder))))


@done("lines in another order, the manifest forged to fit", BEHIND, f"{STEPS} has its rows in another order")
def _(folder: Path) -> None:
    summed(folder, STEPS, list(reversed(lines_of(folder))))


@done("a file taken away", BEFORE, f"{STEPS} is missing")
def _(folder: Path) -> None:
    (folder / STEPS).unlink()


@done("a file added", BEFORE, "notes.txt is no file of this export")
def _(folder: Path) -> None:
    (folder / "notes.txt").write_text("x")


@done("a file renamed", BEFORE, f"{STEPS} is missing")
def _(folder: Path) -> None:
    (folder / STEPS).rename(folder / "execution_steps-000002.jsonl")


@done("two files with each other's names", BEHIND, "was altered, cut or damaged")
def _(folder: Path) -> None:
    (folder / STEPS).rename(folder / "x")
    (folder / RUNS).rename(folder / STEPS)
    (folder / "x").rename(folder / RUNS)


@done("a link in the place of a file", BEFORE, f"{STEPS} is no ordinary file")
def _(folder: Path) -> None:
    (folder / STEPS).rename(folder.parent / "elsewhere")
    (folder / STEPS).symlink_to(folder.parent / "elsewhere")


@done("a pipe in the place of a file", BEFORE, f"{STEPS} is no ordinary file")
def _(folder: Path) -> None:
    (folder / STEPS).unlink()
    os.mkfifo(folder / STEPS)


@done("a link in the place of the manifest", BEFORE, f"{MANIFEST} cannot be read")
def _(folder: Path) -> None:
    (folder / MANIFEST).rename(folder.parent / "elsewhere")
    (folder / MANIFEST).symlink_to(folder.parent / "elsewhere")


for path in (
    "../elsewhere.jsonl",
    "/etc/passwd",
    "runs-000001.jsonl/../../x",
    "executions-000001.jsonl",
    "runs-1.jsonl",
):
    done(f"a forged manifest that names `{path}`", BEFORE, f"{MANIFEST} names a file that no export has")(named(path))


@done("a manifest without its seal's due", BEFORE, f"{MANIFEST} was altered or damaged")
def _(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text("utf-8"))
    content["source"]["epoch"] += 1
    (folder / MANIFEST).write_text(json.dumps(content))


@done("a manifest of an older schema", BEFORE, f"{MANIFEST} is of a database at migration .*: bring the older one up")
def _(folder: Path) -> None:
    forged(folder, lambda content: content["schema"].pop())


@done("a manifest of a newer schema", BEFORE, f"{MANIFEST} is of a database at migration 9999")
def _(folder: Path) -> None:
    forged(folder, lambda content: content["schema"].append("9999_later"))


@done("a manifest with another column", BEFORE, f"{MANIFEST} lists other tables or columns")
def _(folder: Path) -> None:
    forged(folder, lambda content: content["columns"]["runs"].append("more"))


@done("a manifest of another format", BEFORE, f"{MANIFEST} has format 2, this version reads 1")
def _(folder: Path) -> None:
    forged(folder, lambda content: content.update(format=2))


@done("an export that has not finished", BEFORE, "is an export that has not finished")
def _(folder: Path) -> None:
    (folder / WORK).mkdir()


@done("no manifest", BEFORE, f"has no {MANIFEST}")
def _(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


FILES = [(what, result) for what, result, _, _ in DONE]


@pytest.mark.parametrize("case", DONE, ids=lambda case: case[0])
def test_it_is_refused_by_name(case: tuple[str, str, str, Work], folder: Path, tmp_path: Path) -> None:
    _, result, says, work = case
    work(folder)
    target = settings_of(f"sqlite:///{tmp_path / 'target.db'}")
    with pytest.raises(Invalid, match=says):
        moving.check_export(folder)
    with pytest.raises(Invalid, match=says):
        moving.import_from(folder, target)
    assert (tmp_path / "target.db").exists() == (result != BEFORE)
    if result == BEHIND:
        name = re.search(r"(\w+)-000001", says)
        with moving.open_side(target) as side:
            last = side.last_transfer()
            assert last
            assert last.state == "loading"
            loaded = {batch.table for batch in side.batches(last.id)}
            assert not {name[1] if name else "execution_steps"} & loaded
        with dal.connect(target) as db, pytest.raises(dal.ReadOnly):
            db.workflows.create("x", actor="a")


@pytest.mark.parametrize("packed", [True, False], ids=["zstd", "plain"])
def test_a_bit_flipped_anywhere_in_any_file(base: Path, tmp_path: Path, packed: bool) -> None:
    folder = export_of(base, tmp_path / "export", size=1000, packed=packed)
    chance = random.Random(packed)
    files = sorted(path for path in folder.iterdir() if path.stat().st_size)
    assert len(files) > 12
    for path in files:
        whole = path.read_bytes()
        for _ in range(4):
            flip(path, chance)
            with pytest.raises(Invalid, match=re.escape(path.name)):
                moving.check_export(folder)
            path.write_bytes(whole[: chance.randrange(len(whole))])
            with pytest.raises(Invalid, match=re.escape(path.name)):
                moving.check_export(folder)
            path.write_bytes(whole)
    assert not moving.check_export(folder).refused


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_a_forger_who_alters_a_row_is_found_by_its_digest(
    folder: Path, dialect: Dialect, make_database: Callable[..., str]
) -> None:
    """Whoever can forge all sums can forge the digest, too; this is what is left over of a slip."""
    summed(folder, STEPS, [line.replace(b'"1"', b'"7"') for line in lines_of(folder)])
    target = make_database(dialect)
    done = CliRunner().invoke(cli.app, ["import", str(folder), "--url", target])
    assert done.exit_code == 1
    assert "PROBLEM  execution_steps: what it holds, 2:" in done.output
    with dal.connect(settings_of(target)) as db, pytest.raises(dal.ReadOnly):
        db.workflows.create("x", actor="a")


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
@pytest.mark.parametrize("rows", [0, 1, 6, 7, 8])
def test_as_many_rows_as_a_batch_has_and_one_more_or_less(
    rows: int, dialect: Dialect, make_database: Callable[..., str], tmp_path: Path
) -> None:
    source, target = make_database("sqlite"), make_database(dialect)
    with dal.connect(settings_of(source)) as db:
        for number in range(rows):
            db.transact(lambda tx: None, key=f"k{number}")
    export = moving.export_to(settings_of(source), tmp_path / "export", size=7)
    assert sum(export.rows.values()) == export.rows["idempotency_keys"] == rows
    entries = Folder(tmp_path / "export").entries["idempotency_keys"]
    assert [entry.rows for entry in entries] == [7] * (rows // 7) + ([rows % 7] if rows % 7 else [])
    assert moving.import_from(tmp_path / "export", settings_of(target)).state == "done"
    assert differing_tables(source, target) == []
    assert counts(target)["idempotency_keys"] == rows


def test_a_row_of_15_megabytes(make_database: Callable[..., str], tmp_path: Path) -> None:
    source, target = make_database("sqlite"), make_database("postgres")
    with dal.connect(settings_of(source)) as db:
        db.history.start("e", "w", inputs={"long": "ä" * 7_500_000, "wide": list(range(1000))})
    moving.export_to(settings_of(source), tmp_path / "export", packed=True)
    assert moving.import_from(tmp_path / "export", settings_of(target)).state == "done"
    assert differing_tables(source, target) == []


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_an_export_names_peppers_and_holds_none(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text("utf-8"))
    assert content["peppers"] == ["test"]
    secret = PEPPERS.partition("=")[2]
    for path in folder.iterdir():
        assert secret not in path.read_text("utf-8")
        assert path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_no_password_is_kept_or_said(base: Path, make_database: Callable[..., str], tmp_path: Path) -> None:
    plain = make_database("postgres")
    url = re.sub(r"//(\w+)@", r"//\1:s3cret-w0rd@", plain)
    assert "s3cret-w0rd" in url
    shutil.copy(base, tmp_path / "source.db")
    first, last = f"sqlite:///{tmp_path / 'source.db'}", f"sqlite:///{tmp_path / 'last.db'}"
    said = ""
    for words in (["move", first, url], ["move", url, last], ["move", url, last, "--json"], ["verify", url, last],
                  ["export", str(tmp_path / "export"), "--url", url], ["fence", "status", "--url", url],
                  ["move", first, re.sub(r":\d+/", ":1/", url)]):  # fmt: skip
        done = CliRunner().invoke(cli.app, words)
        said += done.output + str(done.exception)
    assert "s3cret-w0rd" not in said
    assert said.count("found equal") == 2
    for where in (first, plain, last):
        for table in ("dal_transfers", "dal_database", "dal_transfer_batches"):
            assert "s3cret-w0rd" not in str(execute(where, f"select * from {table}"))
    assert "s3cret-w0rd" not in (tmp_path / "export" / MANIFEST).read_text("utf-8")
    assert len(execute(last, "select source from dal_transfers")) == 1
    assert {table.name for table in inventory()} == counts(last).keys()

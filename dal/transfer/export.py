"""A database written into a folder: one state of it, in batch files."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from dal.core.schema import app_version
from dal.errors import Invalid, InvalidState
from dal.transfer.folder import (
    FORMAT,
    MANIFEST,
    NAME,
    QUARANTINE,
    WORK,
    FileEntry,
    batch_file,
    columns,
    line,
    schema_labels,
    sync_folder,
    write_manifest,
    written,
)  # fmt: skip
from dal.transfer.inventory import inventory
from dal.transfer.loading import Progress, Tell, noting, set_aside
from dal.transfer.side import Held, Range, Side
from dal.transfer.values import Refused, Row, Summing, form

_PROGRESS = "progress.jsonl"


class Exported(NamedTuple):
    """What an export holds: rows and rows set aside by table, changes by rule; kept: files that were there already."""

    rows: dict[str, int]
    quarantined: Counter[str]
    changed: Counter[str]
    kept: int


class _Written(NamedTuple):
    table: str
    entry: FileEntry
    held: list[Held]
    changed: dict[str, int]


def export(
    side: Side, folder: Path, *, size: int, packed: bool, clock: Callable[[], datetime], tell: Tell = lambda p: None
) -> Exported:
    """Write the database into a folder, or go on with an export that was cut off.

    size: rows to a file. packed: with zstd. What was cut off goes on from the same state of the database, or begins
    anew where that is gone. Raises Invalid for a folder that has something else in it, DiskFull, Unavailable.
    """
    side.schema().require()
    _prepare(folder)
    work = folder / WORK
    with _alone(work):
        with side.frozen(work) as (state, reader):
            done = _resume(folder, work, state, size)
            tallies = {(batch.table, batch.entry.number()): batch for batch in done}
            for table in inventory():
                total = reader.count(table)
                rows = 0
                for number, bounds in enumerate(reader.split(table, size), 1):
                    batch = tallies.get((table.name, number))
                    if batch is None:
                        batch = _write(reader, folder, table.name, number, bounds, packed)
                        tallies[table.name, number] = batch
                        _note(work, batch)
                    rows += batch.entry.rows + batch.entry.quarantined
                    tell(Progress("export", table.name, rows, total))
            batches = sorted(tallies.values(), key=lambda batch: (batch.table, batch.entry.number()))
            _finish(reader, folder, batches, clock)
        shutil.rmtree(work)
    sync_folder(folder)
    rows_of = Counter[str]({table.name: 0 for table in inventory()})
    held, changed = Counter[str](), Counter[str]()
    for batch in batches:
        rows_of[batch.table] += batch.entry.rows
        held[batch.table] += batch.entry.quarantined
        changed.update(batch.changed)
    return Exported(dict(rows_of), held, changed, len(done))


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = [item.name for item in folder.iterdir()]
        if MANIFEST in found and WORK not in found:
            raise Invalid(f"{folder} holds a finished export; name another folder", path="DIR")
        if found and WORK not in found:
            raise Invalid(f"{folder} is not empty; name another folder", path="DIR")
        (folder / WORK).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise Invalid(f"{folder} cannot be written to: {error.strerror}", path="DIR") from error


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    place = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InvalidState("another process is writing this export", found="exporting") from None
        yield
    finally:
        os.close(place)


def _resume(folder: Path, work: Path, state: str, size: int) -> list[_Written]:
    """The batches that are written already, of the same state; else none, and the folder is emptied."""
    head = {"state": state, "size": size}
    progress = work / _PROGRESS
    known = []
    for text in progress.read_bytes().splitlines() if progress.exists() else ():
        with suppress(ValueError):  # empty, or cut off
            known.append(json.loads(text))
    if known and known[0] == head:
        batches = [
            _Written(item["table"], FileEntry(**item["entry"]), [Held(**row) for row in item["held"]], item["changed"])
            for item in known[1:]
        ]
        names = {batch.entry.file for batch in batches}
        _clear(folder, keep=names)
        return [batch for batch in batches if (folder / batch.entry.file).exists()]
    _clear(folder, keep=set())
    with written(progress) as file:
        file.write(json.dumps(head).encode() + b"\n")
    return []


def _clear(folder: Path, keep: set[str]) -> None:
    for item in folder.iterdir():
        name = item.name.removesuffix(".part")
        if item.name not in keep and (name in (MANIFEST, QUARANTINE) or NAME.fullmatch(name)):
            item.unlink()


def _note(work: Path, batch: _Written) -> None:
    with open(work / _PROGRESS, "ab") as file:
        if file.tell():
            file.write(b"\n")  # behind a line that was cut off
        text = {"table": batch.table, "entry": batch.entry._asdict(), "held": [row._asdict() for row in batch.held],
                "changed": batch.changed}  # fmt: skip
        file.write(json.dumps(text).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _write(reader: Side, folder: Path, name: str, number: int, bounds: Range, packed: bool) -> _Written:
    table = next(table for table in inventory() if table.name == name)
    shape, summing, held, changed = form(table), Summing(), list[Held](), Counter[str]()
    check = reader.checker(shape)
    last: Row | None = None
    with batch_file(folder, name, number, packed=packed) as (file_name, sums, file):
        for place, raw in enumerate(reader.read(table, bounds)):
            noted = Counter[str]()
            try:
                row = check(raw, noting(noted, table))
            except Refused as refused:
                held.append(set_aside(shape, number, place, raw, refused))
                continue
            file.write(line(row))
            summing.add(shape.canonical(row))
            changed += noted
            last = row
    key = shape.key(last) if last is not None else list(bounds.upto or ())
    entry = FileEntry(file_name, summing.rows, len(held), sums.sha256.hexdigest(), str(summing.digest), key)
    return _Written(name, entry, held, dict(changed))


def _finish(reader: Side, folder: Path, batches: list[_Written], clock: Callable[[], datetime]) -> None:
    sums = hashlib.sha256()
    with written(folder / QUARANTINE) as file:
        for batch in batches:
            for row in batch.held:
                text = json.dumps(row._asdict()).encode() + b"\n"
                sums.update(text)
                file.write(text)
    standing = reader.standing()
    listed: dict[str, list[Any]] = {table.name: [] for table in inventory()}
    for batch in batches:
        listed[batch.table].append(batch.entry._asdict())
    write_manifest(
        folder,
        {
            "format": FORMAT,
            "made_by": app_version(),
            "made_at": clock().isoformat(),
            "source": {"dialect": reader.dialect, "identity": standing.identity, "epoch": standing.epoch},
            "schema": schema_labels(),
            "columns": columns(),
            "batches": listed,
            "quarantine": {"rows": sum(len(batch.held) for batch in batches), "sha256": sums.hexdigest()},
            "peppers": peppers(reader),
        },
    )


def peppers(side: Side) -> list[str]:
    """The ids of the peppers that service tokens and the audit chain of this database need, to be loaded beside it."""
    rows = side.ask(
        "select pepper_id from service_tokens where pepper_id is not null union "
        "select pepper_id from service_token_audit union select pepper_id from service_token_chain order by 1"
    )
    return [row[0] for row in rows]

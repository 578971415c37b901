"""Where the rows of a transfer come from: a folder, or a database itself. Either gives them in batches."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from dal.errors import Invalid, InvalidState
from dal.transfer.folder import QUARANTINE, FileEntry, Folder, last_keys
from dal.transfer.inventory import Reference, Table, inventory
from dal.transfer.side import Batch, Held, Range, Side, without_parent
from dal.transfer.values import QUARANTINED, Checker, Digest, Form

_decode = msgspec.json.Decoder(list[Any]).decode


class Job(NamedTuple):
    """One batch. rows, digest: what is known of it beforehand. entry: its file."""

    table: Table
    number: int
    range: Range
    rows: int | None = None
    digest: Digest | None = None
    entry: FileEntry | None = None


class Source(Protocol):
    """Where rows come from. fingerprint: equal for the same rows in the same batches. epoch: of the source's fence."""

    name: str
    fingerprint: str
    epoch: int
    plan: str  # what the ledger keeps, so that the same batches are found again

    def jobs(self) -> list[Job]: ...
    def rows(self, job: Job) -> Iterator[Any]:
        """The rows of a batch, to be checked. Raises Invalid at the end for a file that is not what it should be."""
        ...

    def checker(self, form: Form) -> Checker:
        """What makes of a row of ``rows`` one as it travels."""
        ...

    def count(self, table: Table) -> int: ...
    def refused(self) -> list[Held]:
        """Rows that the source itself set aside."""
        ...

    def orphans(self, table: Table, reference: Reference) -> Iterator[Any]:
        """Rows that refer to one that is not there, as far as the source can tell."""
        ...

    def confirm(self) -> None:
        """Raise InvalidState if the source may have changed meanwhile."""

    @property
    def reopening(self) -> Callable[[], Source]:
        """What opens the same rows again, in another process."""
        ...

    def close(self) -> None: ...


class FolderSource:
    """A finished export."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.name = f"export {folder.path.resolve()}"
        self.fingerprint = folder.content["seal"]
        self.epoch = int(folder.content["source"]["epoch"])
        self.plan = "{}"

    def jobs(self) -> list[Job]:
        made = []
        for table in inventory():
            entries = self.folder.entries[table.name]
            for entry, (after, upto) in zip(entries, last_keys(entries), strict=True):
                digest = Digest.parse(entry.digest)
                made.append(Job(table, entry.number(), Range(after, upto), entry.rows, digest, entry))
        return made

    def rows(self, job: Job) -> Iterator[Any]:
        assert job.entry
        decode, key_of, is_ordered = _decode, itemgetter(*job.table.places()), True
        after, upto = (key and (tuple(key) if len(key) > 1 else key[0]) for key in job.range)  # as key_of gives it
        last: Any = after
        for line in self.folder.lines(job.entry.file, job.entry.sha256):
            row: Any = line
            try:
                row = decode(line)
                key = key_of(row)
                if (last is not None and key < last) or (upto is not None and key > upto):
                    is_ordered = False
                last = key
            except (msgspec.DecodeError, UnicodeDecodeError, IndexError, TypeError):
                pass  # no row of this table, which the check will say
            yield row
        if not is_ordered:
            raise self.folder.fault(job.entry.file, "has its rows in another order than an export, or another file's")

    def checker(self, form: Form) -> Checker:
        return form.from_wire

    def count(self, table: Table) -> int:
        return sum(entry.rows + entry.quarantined for entry in self.folder.entries[table.name])

    def refused(self) -> list[Held]:
        try:
            lines = self.folder.lines(QUARANTINE, self.folder.content["quarantine"]["sha256"])
            return [self._held(json.loads(line)) for line in lines]
        except (TypeError, KeyError, ValueError, RecursionError) as error:
            if isinstance(error, Invalid):
                raise
            raise Invalid(
                f"{self.folder.path / QUARANTINE} has a line that is none of an export's", path="DIR"
            ) from error

    def _held(self, said: Any) -> Held:
        held = msgspec.convert(list(Held(**said)), Held)
        if held.table not in self.folder.entries or held.rule.partition(":")[0] not in QUARANTINED:
            raise ValueError(held.table)
        return held

    def orphans(self, table: Table, reference: Reference) -> Iterator[Any]:
        return iter(())  # files cannot be asked

    def confirm(self) -> None:
        pass

    @staticmethod
    def at(path: Path) -> FolderSource:
        """The export in a folder. Raises Invalid."""
        return FolderSource(Folder(path))

    @property
    def reopening(self) -> Callable[[], FolderSource]:
        return partial(FolderSource.at, self.folder.path)

    def close(self) -> None:
        pass


class SideSource:
    """A database, read in the batches that a plan says."""

    def __init__(self, side: Side, name: str, plan: str, *, is_fenced: bool) -> None:
        self.side = side
        self.name = name
        self.plan = plan
        self.is_fenced = is_fenced
        self.standing = side.standing()
        self.epoch = self.standing.epoch
        self.fingerprint = self.standing.state() + ("" if is_fenced else ", which goes on")

    @staticmethod
    def planned(side: Side, size: int) -> str:
        """The batches of a database as it is now."""
        return json.dumps({table.name: side.split(table, size) for table in inventory()})

    def jobs(self) -> list[Job]:
        planned = json.loads(self.plan)
        return [
            Job(table, number, Range(*bounds))
            for table in inventory()
            for number, bounds in enumerate(planned[table.name], 1)
        ]

    def rows(self, job: Job) -> Iterator[Any]:
        return self.side.read(job.table, job.range)

    def checker(self, form: Form) -> Checker:
        return self.side.checker(form)

    def count(self, table: Table) -> int:
        return self.side.count(table)

    def refused(self) -> list[Held]:
        return []

    def orphans(self, table: Table, reference: Reference) -> Iterator[Any]:
        return self.side.read_where(table, without_parent(table, reference), ())

    def confirm(self) -> None:
        if self.is_fenced and self.side.standing() != self.standing:
            raise InvalidState("the source's fence was taken down meanwhile: it may have changed", found="unfenced")

    @staticmethod
    def again(side: Callable[[], Side], name: str, plan: str, is_fenced: bool) -> SideSource:
        """The same database, opened once more."""
        return SideSource(side(), name, plan, is_fenced=is_fenced)

    @property
    def reopening(self) -> Callable[[], SideSource]:
        return partial(SideSource.again, self.side.reopening, self.name, self.plan, self.is_fenced)

    def close(self) -> None:
        self.side.close()


def tally(batches: Sequence[Batch]) -> dict[str, tuple[int, int, Digest]]:
    """Of each table how many rows were loaded, how many quarantined, and the digest of those loaded."""
    loaded: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    digests = {table.name: Digest() for table in inventory()}
    for batch in batches:
        loaded[batch.table] += batch.loaded
        kept[batch.table] += batch.quarantined
        digests[batch.table] = digests[batch.table].plus(*batch.digest)
    return {name: (loaded[name], kept[name], digest) for name, digest in digests.items()}


def changes(batches: Sequence[Batch]) -> Counter[str]:
    """How many values were changed, by rule and column."""
    changed = Counter[str]()
    for batch in batches:
        changed.update(batch.changed)
    return changed

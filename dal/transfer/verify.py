"""Whether two databases hold the same rows: each side's digests of its own, and where they differ, which rows."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import NamedTuple

from dal.errors import Invalid
from dal.transfer.inventory import Table, inventory
from dal.transfer.loading import SAMPLES, Difference, Progress, Tell, differing
from dal.transfer.side import Range, Side
from dal.transfer.values import Digest, key_text

_CHUNK = 5_000  # rows that are compared one by one, where more of them differ


class Compared(NamedTuple):
    """A table on both sides."""

    table: str
    source: Digest
    target: Digest

    @property
    def is_equal(self) -> bool:
        return self.source == self.target


class Verdict(NamedTuple):
    """Every table, and the first rows that differ."""

    tables: list[Compared]
    differences: list[Difference]

    @property
    def is_equal(self) -> bool:
        return all(table.is_equal for table in self.tables)


def verify(source: Side, target: Side, *, only: Collection[str] = (), tell: Tell = lambda progress: None) -> Verdict:
    """Compare every row of two databases. Their own tables, whose names begin with dal_, are none of it.

    only: the names of tables; all of them by default. Raises Invalid for a name that is none.
    """
    known = {table.name for table in inventory()}
    for name in only:
        if name not in known:
            raise Invalid(f"{name!r} is none of the tables that are moved", path="table")
    source.schema().require()
    target.schema().require()
    tables, differences = [], list[Difference]()
    with source.snapshot(), target.snapshot():
        for table in (table for table in inventory() if not only or table.name in only):
            compared = Compared(table.name, *_both(source, target, table, Range()))
            tables.append(compared)
            if not compared.is_equal and len(differences) < SAMPLES:
                differences += _differences(source, target, table, SAMPLES - len(differences))
            tell(Progress("verify", table.name, compared.source.rows, compared.source.rows))
    return Verdict(tables, differences)


def _both(source: Side, target: Side, table: Table, rows: Range) -> tuple[Digest, Digest]:
    """The digests of a range, at the same time: one waits for a server, or for its disk."""
    found: list[Digest] = []
    faults: list[BaseException] = []

    def there() -> None:
        try:
            found.append(target.digest(table, rows))
        except BaseException as error:
            faults.append(error)

    thread = threading.Thread(target=there, daemon=True)
    thread.start()
    try:
        here = source.digest(table, rows)
    finally:
        thread.join()
    if faults:
        raise faults[0]
    return here, found[0]


def _differences(source: Side, target: Side, table: Table, limit: int) -> list[Difference]:
    found: list[Difference] = []
    for rows in source.split(table, _CHUNK) or [Range()]:
        here, there = _both(source, target, table, rows)
        if here != there:
            for key, how in differing(source.row_digests(table, rows), target.row_digests(table, rows)):
                found.append(Difference(table.name, key_text(key), how))
                if len(found) >= limit:
                    return found
    return found

"""The whole of a transfer: export, import, move, verify and fence, of databases named by their settings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from dal.dal import utc_now
from dal.digests import uuid7
from dal.errors import Invalid, SchemaError
from dal.settings import Settings, where
from dal.transfer import verify as comparing
from dal.transfer.export import Exported, export
from dal.transfer.folder import Folder
from dal.transfer.loading import Looked, Report, Tell, check_all, load, refuse_used
from dal.transfer.postgres_side import PostgresSide
from dal.transfer.side import Side, Standing, Transfer, refuse_columns, refuse_loading
from dal.transfer.sources import FolderSource, SideSource
from dal.transfer.sqlite_side import LoadingSqlite, SqliteSide
from dal.transfer.verify import Verdict

Clock = Callable[[], datetime]
BATCH_ROWS = 10_000
_quiet: Tell = lambda progress: None  # noqa: E731


def open_side(settings: Settings, clock: Clock = utc_now) -> Side:
    """A database that is there already. Raises SchemaError for a missing or foreign one, Unavailable."""
    if settings.backend == "postgres":
        return PostgresSide(settings, clock)
    if not settings.sqlite_path.exists():
        raise SchemaError(f"{settings.sqlite_path} does not exist")
    return SqliteSide(settings, clock)


def open_target(settings: Settings, clock: Clock = utc_now) -> Side:
    """A database to be loaded; it is given the schema if it is empty."""
    side: Side = PostgresSide(settings, clock) if settings.backend == "postgres" else LoadingSqlite(settings, clock)
    try:
        side.schema().apply()
    except BaseException:
        side.close()
        raise
    return side


def _source(settings: Settings, clock: Clock) -> Side:
    side = open_side(settings, clock)
    try:
        side.schema().require()
        refuse_columns(side)
        refuse_loading(side)
        side.check_whole()
    except BaseException:
        side.close()
        raise
    return side


def _workers(target: Side, wanted: int | None) -> int | None:
    return wanted if target.dialect == "postgres" else 1  # SQLite has one writer


def _check_size(size: int) -> None:
    if not 1 <= size <= 1_000_000:
        raise Invalid(f"takes 1 to 1,000,000, not {size}", path="batch_rows")


def export_to(
    settings: Settings, folder: Path, *, size: int = BATCH_ROWS, packed: bool = False, clock: Clock = utc_now,
    tell: Tell = _quiet,
) -> Exported:  # fmt: skip
    """Write a database into a folder. See export.export."""
    _check_size(size)
    with _source(settings, clock) as side:
        return export(side, folder, size=size, packed=packed, clock=clock, tell=tell)


def import_from(
    folder: Path,
    settings: Settings,
    *,
    accept: int = 0,
    workers: int | None = None,
    clock: Clock = utc_now,
    tell: Tell = _quiet,
) -> Report:
    """Load an export into a database, or go on with it. See loading.load."""
    source = FolderSource(Folder(folder))
    with open_target(settings, clock) as target:
        return load(source, target, accept=accept, workers=_workers(target, workers), tell=tell)


def check_export(folder: Path, *, tell: Tell = _quiet) -> Looked:
    """What importing an export would meet, without a database. See loading.check_all."""
    return check_all(FolderSource(Folder(folder)), tell)


@contextmanager
def _moving(source: Side, target: Side, name: str, to: str, size: int, fenced: bool) -> Iterator[SideSource]:
    last = target.last_transfer()
    with ExitStack() as stack:
        if fenced:
            if not source.standing().is_fenced:
                refuse_used(target)  # before anybody is kept from writing
            source.fence(f"moved to {to}")
            moving = SideSource(source, name, "", is_fenced=True)
        else:
            stack.enter_context(source.snapshot())
            moving = SideSource(source, name, "", is_fenced=False)
            moving.fingerprint += f", read as {uuid7()}"  # what is read later is another state
        goes_on = last and last.state != "done" and last.fingerprint == moving.fingerprint
        moving.plan = last.plan if last and goes_on else SideSource.planned(source, size)
        yield moving


def move(
    source: Settings, target: Settings, *, size: int = BATCH_ROWS, accept: int = 0, fence: bool = True,
    workers: int | None = None, clock: Clock = utc_now, tell: Tell = _quiet,
) -> Report:  # fmt: skip
    """Load one database into another, or go on with it, without files between. See loading.load.

    fence: the source takes no more writes, from before the first row is read; it stays so. Without it the rows are
    those of one moment, writes after it are not moved, and what is cut off cannot go on.
    """
    _check_size(size)
    with ExitStack() as stack:
        here = stack.enter_context(_source(source, clock))
        there = stack.enter_context(open_target(target, clock))
        if here.place() == there.place():
            raise Invalid("source and target are the same database", path="TARGET")
        moving = stack.enter_context(_moving(here, there, where(source), where(target), size, fence))
        many = _workers(there, workers) if fence else 1
        return load(moving, there, accept=accept, workers=many, tell=tell)


def check_move(source: Settings, *, clock: Clock = utc_now, tell: Tell = _quiet) -> Looked:
    """What moving a database would meet; nothing is written."""
    with _source(source, clock) as side, side.snapshot():
        return check_all(SideSource(side, where(source), SideSource.planned(side, BATCH_ROWS), is_fenced=False), tell)


def verify(
    one: Settings, other: Settings, *, only: Collection[str] = (), clock: Clock = utc_now, tell: Tell = _quiet
) -> Verdict:
    """Compare two databases row by row. See verify.verify."""
    with open_side(one, clock) as here, open_side(other, clock) as there:
        return comparing.verify(here, there, only=only, tell=tell)


def standing(settings: Settings, clock: Clock = utc_now) -> tuple[Standing, Transfer | None]:
    """Who a database is, whether it is fenced, and the transfer that has not finished loading it."""
    with open_side(settings, clock) as side:
        side.schema().require()
        last = side.last_transfer()
        return side.standing(), last if last and last.state != "done" else None


def set_fence(settings: Settings, reason: str | None, clock: Clock = utc_now) -> Standing:
    """Let a database refuse writes, or with None take them again. Raises InvalidState for one that is being loaded."""
    with open_side(settings, clock) as side:
        side.schema().require()
        refuse_loading(side)
        return side.fence(reason)

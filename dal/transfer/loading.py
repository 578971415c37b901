"""Loading a source into a database: batch by batch, each in one transaction with its line in the ledger.

Whatever ends the process, and wherever, the ledger is right: the same command goes on with what is missing. A target
that its ledger does not explain is refused. While it is loaded the target takes no other writes.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, NamedTuple

from dal.digests import uuid7
from dal.errors import InvalidState
from dal.transfer.inventory import Reference, Table, inventory
from dal.transfer.side import Batch, Held, Key, Range, Side, State, Transfer, without_parent
from dal.transfer.sources import Job, Source, changes, tally
from dal.transfer.values import BadText, Digest, Form, Note, Refused, Row, Summing, form, key_text, raw_hex
from dal.transfer.workers import can_be_shared, share

SAMPLES = 20  # rows that a report names
_WORTH_IT = 50_000  # rows, that take longer than two processes need to start


class Progress(NamedTuple):
    """How far it is. phase: load, orphans, rebuild, analyze or verify. of: None while it is not known."""

    phase: str
    table: str
    rows: int
    of: int | None


Tell = Callable[[Progress], None]


class Difference(NamedTuple):
    """A row that is not the same on both sides. how: 'only in the source', 'only in the target' or 'differs'."""

    table: str
    key: str
    how: str


@dataclass
class Report:
    """What became of a transfer. state: done, or held where rows were quarantined that nobody has accepted.

    source, loaded, quarantined: rows by table. changed: how many values by rule and column. was_done: by an earlier
    call; nothing was done now. seconds: by phase.
    """

    transfer_id: str
    state: State = "loading"
    source: dict[str, int] = field(default_factory=dict)
    loaded: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    changed: Counter[str] = field(default_factory=Counter)
    samples: list[Held] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    resumed: int = 0
    was_done: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether every row of the source is loaded or in the quarantine, and what is loaded is what was read."""
        return not self.differences and not self.problems


def load(
    source: Source, target: Side, *, accept: int = 0, workers: int | None = 1, tell: Tell = lambda progress: None
) -> Report:
    """Load a source, or go on with it. accept: as many quarantined rows as are accepted, exactly.

    workers: processes, each with a connection; more than one only where the target takes several writers. None: two,
    if there is enough to load that starting them pays. Raises InvalidState for a target that is not empty and not
    explained, Invalid for a damaged export, Unavailable.
    """
    target.schema().require()
    with target.alone():
        transfer = _begun(source, target)
        report = Report(transfer.id)
        if transfer.state == "done":
            return _as_it_was(target, transfer, report)
        known = {(batch.table, batch.number) for batch in target.batches(transfer.id)}
        report.resumed = len(known)
        with _Timed(report, "load"):
            _load_all(source, target, transfer, known, workers, tell)
            source.confirm()
        with _Timed(report, "rebuild"):
            tell(Progress("rebuild", "", 0, None))
            if not target.rebuild(transfer.id):
                tell(Progress("orphans", "", 0, None))
                target.part_references(transfer.id)
                _set_orphans_aside(target, transfer.id)
                target.rebuild(transfer.id)
            target.set_counters()
            target.analyze()
        with _Timed(report, "verify"):
            _compare(source, target, transfer, report, tell)
        _conclude(source, target, transfer, accept, report)
        return report


def _as_it_was(target: Side, transfer: Transfer, report: Report) -> Report:
    """Of a transfer that was done before: nothing is done again, and the target may have changed since."""
    batches = target.batches(transfer.id)
    for name, (loaded, kept, _) in tally(batches).items():
        report.source[name], report.loaded[name], report.quarantined[name] = loaded + kept, loaded, kept
    report.changed = changes(batches)
    report.state, report.was_done = "done", True
    return report


class _Timed:
    def __init__(self, report: Report, phase: str) -> None:
        self._report, self._phase = report, phase

    def __enter__(self) -> None:
        self._begun = monotonic()

    def __exit__(self, *error: object) -> None:
        self._report.seconds[self._phase] = monotonic() - self._begun


def _begun(source: Source, target: Side) -> Transfer:
    """The transfer to go on with, one that is done already, or a new one. Raises InvalidState."""
    last = target.last_transfer()
    if last and last.fingerprint == source.fingerprint:
        if last.state != "done":
            _refuse_unexplained(target, last.id)
        return last
    refuse_used(target)
    target.begin(Transfer(str(uuid7()), source.name, source.fingerprint, "loading", source.plan, "[]"))
    begun = target.last_transfer()
    assert begun
    return begun


def refuse_used(target: Side) -> None:
    """Raise InvalidState for a target that nothing can be loaded into anew."""
    last = target.last_transfer()
    if last and last.state != "done":
        raise InvalidState(
            f"the target is being loaded from {last.source} ({last.fingerprint}), which this is not: go on with that, "
            "or use an empty database",
            found=last.state,
        )
    _refuse_unexplained(target, None)
    if target.standing().is_fenced:
        raise InvalidState("the target is fenced: dal fence off, or use another", found="fenced")


def _refuse_unexplained(target: Side, transfer_id: str | None) -> None:
    found = target.unexplained(transfer_id)
    if found:
        why = "its ledger does not explain what it holds" if transfer_id else "it is not empty"
        raise InvalidState(
            f"the target is refused, {why}: {'; '.join(found)}: use an empty database", found="not empty"
        )


# --- batches ----------------------------------------------------------------------------------------------------------


def _load_all(
    source: Source,
    target: Side,
    transfer: Transfer,
    known: set[tuple[str, int]],
    workers: int | None,
    tell: Tell,
) -> None:
    _note_refused(source, target, transfer.id, known)
    jobs = [job for job in source.jobs() if (job.table.name, job.number) not in known]
    done = Counter[str]()
    for batch in target.batches(transfer.id):
        done[batch.table] += batch.loaded + batch.quarantined
    totals = {table.name: source.count(table) for table in inventory()}
    if workers is None:
        workers = 2 if sum(totals.values()) - done.total() > _WORTH_IT else 1
    for batch in _batches(source, target, transfer.id, jobs, workers):
        done[batch.table] += batch.loaded + batch.quarantined
        tell(Progress("load", batch.table, done[batch.table], totals[batch.table]))


def _batches(source: Source, target: Side, transfer_id: str, jobs: Sequence[Job], workers: int) -> Iterator[Batch]:
    shared = _Loading(source.reopening, target.reopening, transfer_id)
    if workers > 1 and can_be_shared(shared):
        yield from share(shared, jobs, workers)
    else:
        yield from map(_Loader(source, target, transfer_id).load, jobs)


class _Loading(NamedTuple):
    """What a process does that loads beside others."""

    source: Callable[[], Source]
    target: Callable[[], Side]
    transfer_id: str

    @contextmanager
    def opened(self) -> Iterator[Callable[[Job], Batch]]:
        collect_seldom()
        with closing(self.source()) as source, self.target() as target, target.beside():
            yield _Loader(source, target, self.transfer_id).load


def collect_seldom() -> None:
    """Rows come and go by the million and never in circles: looking for circles took a tenth of a load."""
    gc.freeze()
    gc.set_threshold(100_000)


def _note_refused(source: Source, target: Side, transfer_id: str, known: set[tuple[str, int]]) -> None:
    """What an export had set aside goes into the ledger as batch 0 of its table."""
    refused = source.refused()
    for name in sorted({held.table for held in refused}):
        if (name, 0) not in known:
            mine = [Held(name, 0, place, *held[3:]) for place, held in enumerate(refused) if held.table == name]
            with target.writing():
                target.note(transfer_id, Batch(name, 0, 0, len(mine), Digest()), mine)


class _Loader:
    """Loads one batch after another."""

    def __init__(self, source: Source, target: Side, transfer_id: str) -> None:
        self._source = source
        self._target = target
        self._transfer_id = transfer_id

    def load(self, job: Job) -> Batch:
        """Load a batch, in one go or, where a row is refused, row by row."""
        with suppress(Refused):
            return self._at_once(job)
        # Out of the handler: the error keeps the rows' cursor open, beside which PostgreSQL has no place for another.
        return self._one_by_one(job)

    def _at_once(self, job: Job) -> Batch:
        changed = Counter[str]()
        rows = _Checked(self._source, job, noting(changed, job.table))
        target = self._target
        with target.writing():
            target.load(rows.form, iter(rows))
            if rows.first is not None and rows.last is not None:
                target.loaded_range(rows.form, rows.first, rows.last)
            batch = Batch(job.table.name, job.number, rows.count, 0, job.digest or rows.summing.digest, changed)
            target.note(self._transfer_id, batch)
        return batch

    def _one_by_one(self, job: Job) -> Batch:
        shape, target, summing = form(job.table), self._target, Summing()
        check = self._source.checker(shape)
        held: list[Held] = []
        first = last = None
        changed = Counter[str]()
        with target.writing():
            for place, raw in enumerate(self._source.rows(job)):
                noted = Counter[str]()
                try:
                    row = check(raw, noting(noted, job.table))
                    target.load_one(shape, row)
                except Refused as refused:
                    held.append(set_aside(shape, job.number, place, raw, refused))
                else:
                    summing.add(shape.canonical(row))
                    changed += noted
                    first, last = row if first is None else first, row
            if first is not None and last is not None:
                target.loaded_range(shape, first, last)
            batch = Batch(job.table.name, job.number, summing.rows, len(held), summing.digest, changed)
            target.note(self._transfer_id, batch, held)
        return batch


def noting(changed: Counter[str], table: Table) -> Note:
    """Count what is changed, by rule and column."""

    def note(rule: str, column: str) -> None:
        changed[f"{rule}: {table.name}.{column}"] += 1

    return note


class _Checked:
    """The rows of a batch on their way: checked, counted, and hashed unless their digest is known."""

    def __init__(self, source: Source, job: Job, note: Note) -> None:
        self.form = form(job.table)
        self.first: Row | None = None
        self.last: Row | None = None
        self.count = 0
        self.summing = Summing()
        self._source, self._job, self._note = source, job, note

    def __iter__(self) -> Iterator[Row]:
        check, shape, note = self._source.checker(self.form), self.form, self._note
        canonical = None if self._job.digest else shape.canonical
        add = self.summing.add
        row: Row | None = None
        for raw in self._source.rows(self._job):
            row = check(raw, note)
            if canonical:
                add(canonical(row))
            if not self.count:
                self.first = row
            self.count += 1
            yield row
        self.last = row
        if self._job.rows is not None and self._job.rows != self.count:
            raise Refused("line", "number of rows")  # the closer look counts what there is


def set_aside(shape: Form, number: int, place: int, raw: Any, refused: Refused) -> Held:
    """What is kept of a row that is not loaded."""
    values = list(raw) if isinstance(raw, (list, tuple)) else [raw]
    try:
        key = key_text(shape.key(values))
    except IndexError:
        key = "?"
    return Held(shape.table.name, number, place, key, str(refused), raw_hex(values))


# --- after the last batch ---------------------------------------------------------------------------------------------


def _set_orphans_aside(target: Side, transfer_id: str) -> None:
    """Quarantine rows that refer to rows that are not there, and then those that referred to these."""
    moved = True
    while moved:
        moved = False
        for table in inventory():
            for reference in table.references:
                while _orphans(target, transfer_id, table, reference):
                    moved = True


def _orphans(target: Side, transfer_id: str, table: Table, reference: Reference) -> bool:
    shape, where = form(table), without_parent(table, reference)
    if not target.ask(f"select 1 from {table.name}{where} limit 1"):
        return False
    held, changed = list[Held](), Counter[str]()
    digest, loaded = Digest(), 0
    with target.writing():
        number = min([0, *(batch.number for batch in target.batches(transfer_id) if batch.table == table.name)]) - 1
        for place, raw in enumerate(list(target.read_where(table, where, (), limit=500))):
            row = target.checker(shape)(raw, lambda rule, column: None)
            digest = digest.minus(Digest.of(shape.canonical(row)))
            key = shape.key(row)
            place_of = " and ".join(f"{name} = {target.bound(table, name)}" for name in table.key)
            if reference.on_delete == "set null":
                cleared = tuple(
                    None if column.name in reference.columns else value
                    for column, value in zip(table.columns, row, strict=True)
                )
                digest = digest.plus(*Digest.of(shape.canonical(cleared)))
                names = ", ".join(f"{name} = null" for name in reference.columns)
                target.ask(f"update {table.name} set {names} where {place_of}", *key)
                changed[f"set-null: {table.name}.{', '.join(reference.columns)}"] += 1
            else:
                loaded -= 1
                held.append(set_aside(shape, number, place, row, Refused("orphan", ", ".join(reference.columns))))
                target.ask(f"delete from {table.name} where {place_of}", *key)
        target.note(transfer_id, Batch(table.name, number, loaded, len(held), digest, changed), held)
    return True


def _compare(source: Source, target: Side, transfer: Transfer, report: Report, tell: Tell) -> None:
    """The target's own digests beside those of the ledger, and the source's count of rows beside both."""
    batches = target.batches(transfer.id)
    sums, report.changed = tally(batches), changes(batches)
    for table in inventory():
        loaded, kept, digest = sums[table.name]
        tell(Progress("verify", table.name, 0, loaded))
        count = source.count(table)
        report.source[table.name], report.loaded[table.name], report.quarantined[table.name] = count, loaded, kept
        if count != loaded + kept:
            report.problems.append(
                f"{table.name}: the source has {count:,} rows; {loaded:,} loaded, {kept:,} quarantined"
            )
        found = target.digest(table, Range())
        if found != digest:
            report.differences += _differences(source, target, table, report)
            report.problems.append(f"{table.name}: what it holds, {found}, is not what was loaded, {digest}")
        tell(Progress("verify", table.name, loaded, loaded))


def _differences(source: Source, target: Side, table: Table, report: Report) -> list[Difference]:
    """The first rows that are not the same; those in quarantine are none."""
    shape, found = form(table), list[Difference]()
    held = {row.key for row in target.held(report.transfer_id, 1_000_000) if row.table == table.name}

    def digests(job: Job) -> Iterator[tuple[Key, Digest]]:
        for raw in source.rows(job):
            with suppress(Refused):
                row = source.checker(shape)(raw, lambda rule, column: None)
                yield shape.key(row), Digest.of(shape.canonical(row))

    for job in source.jobs():
        if job.table == table and len(found) < SAMPLES:
            pairs = differing(digests(job), target.row_digests(table, job.range))
            found += [
                Difference(table.name, key_text(key), how)
                for key, how in pairs
                if not (how == "only in the source" and key_text(key) in held)
            ][: SAMPLES - len(found)]
    return found


def differing(source: Iterator[tuple[Key, Digest]], target: Iterator[tuple[Key, Digest]]) -> Iterator[tuple[Key, str]]:
    """Keys of rows that are not the same. Both come in order of their keys, compared as bytes."""
    one, other = next(source, None), next(target, None)
    while one or other:
        mine = None if one is None else _sortable(one[0])
        theirs = None if other is None else _sortable(other[0])
        if one and (theirs is None or (mine is not None and mine < theirs)):
            yield one[0], "only in the source"
            one = next(source, None)
        elif other and (mine is None or (theirs is not None and theirs < mine)):
            yield other[0], "only in the target"
            other = next(target, None)
        else:
            assert one and other
            if one[1] != other[1]:
                yield one[0], "differs"
            one, other = next(source, None), next(target, None)


def _sortable(key: Key) -> list[Any]:
    """As SQLite orders values of whatever type: null, numbers, texts by their bytes, other bytes."""
    return [_ranked(value) for value in key]


def _ranked(value: Any) -> tuple[Any, ...]:
    if value is None:
        return (0,)
    if isinstance(value, str):
        return 2, value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return 2 if type(value) is BadText else 3, value
    return 1, value


def _conclude(source: Source, target: Side, transfer: Transfer, accept: int, report: Report) -> None:
    """Open the target if all is well, or say what is not."""
    report.samples = target.held(transfer.id, SAMPLES)
    report.problems += target.schema().verify().problems
    kept = sum(report.quarantined.values())
    report.state = "done" if report.is_whole and kept == accept else "held"
    target.end(transfer.id, report.state, source.epoch)


class Looked(NamedTuple):
    """What loading would meet. refused: rows that do not pass, by table; changed: how many values by rule."""

    refused: Counter[str]
    samples: list[Held]
    changed: Counter[str]


def check_all(source: Source, tell: Tell = lambda progress: None) -> Looked:
    """Look at every row and load none.

    What only a target's constraints would refuse is not seen, nor which rows would follow others into quarantine.
    """
    look = _Looking()
    for held in source.refused():
        look.add(held)
    done = Counter[str]()
    last: tuple[Table, Key] | None = None
    for job in source.jobs():
        shape = form(job.table)
        check = source.checker(shape)
        for place, raw in enumerate(source.rows(job)):
            done[job.table.name] += 1
            noted = Counter[str]()
            try:
                key = shape.key(check(raw, noting(noted, job.table)))
                if last == (job.table, key):
                    raise Refused("constraint", "primary key")
            except Refused as refused:
                look.add(set_aside(shape, job.number, place, raw, refused))
            else:
                look.changed += noted
                last = job.table, key
        tell(Progress("check", job.table.name, done[job.table.name], source.count(job.table)))
    for table in inventory():
        for reference in table.references:
            for place, raw in enumerate(source.orphans(table, reference)):
                with suppress(Refused):  # which is counted already
                    row = source.checker(form(table))(raw, lambda rule, column: None)
                    where = ", ".join(reference.columns)
                    if reference.on_delete == "set null":
                        look.changed[f"set-null: {table.name}.{where}"] += 1
                    else:
                        look.add(set_aside(form(table), 0, place, row, Refused("orphan", where)))
    return Looked(look.refused, look.samples, look.changed)


class _Looking:
    def __init__(self) -> None:
        self.refused, self.changed, self.samples = Counter[str](), Counter[str](), list[Held]()

    def add(self, held: Held) -> None:
        self.refused[held.table] += 1
        if len(self.samples) < SAMPLES:
            self.samples.append(held)

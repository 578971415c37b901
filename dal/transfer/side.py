"""One database of a transfer, whichever dialect it is: what is asked of it, and the statements that both understand.

A side has a connection of its own and blocks; a process that works beside another opens it again, ``reopening``.
Statements are written with ``?``; names in them come from the inventory alone.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from dal.core.rows import instant_text
from dal.core.schema import Schema
from dal.errors import ConstraintViolated, Invalid, InvalidState, SchemaError
from dal.settings import Settings
from dal.transfer.inventory import Reference, Table, inventory
from dal.transfer.values import Checker, Digest, Form, Row, is_clean

Key = list[Any]
State = Literal["loading", "held", "done"]


class Range(NamedTuple):
    """Rows whose key is above ``after`` and up to ``upto``; None: no bound on that side."""

    after: Key | None = None
    upto: Key | None = None


class Standing(NamedTuple):
    """Who a database is and whether it takes writes. epoch: one more each time that this was changed, and when."""

    identity: str
    epoch: int
    is_fenced: bool
    reason: str | None
    changed_at: str | None

    def state(self) -> str:
        """Equal as long as a fenced database is the same; a copy that was fenced later has the epoch, but not this."""
        return f"{self.identity} at epoch {self.epoch} of {self.changed_at}"


class Transfer(NamedTuple):
    """A transfer that a database was, or is, the target of. fingerprint: what makes it the same transfer again."""

    id: str
    source: str
    fingerprint: str
    state: State
    plan: str
    rebuild: str


class Batch(NamedTuple):
    """A line of the ledger. number: from 1; 0 and below are what was done besides loading. changed: values by rule."""

    table: str
    number: int
    loaded: int
    quarantined: int
    digest: Digest
    changed: Mapping[str, int] = MappingProxyType({})


class Held(NamedTuple):
    """A row that was not loaded. key: its primary key as JSON; row: its values, see values.raw_hex."""

    table: str
    number: int
    place: int
    key: str
    rule: str
    row: str


class Side(ABC):
    """One database of a transfer. Its errors are dal's, but for those of ``load``."""

    dialect: Literal["sqlite", "postgres"]

    def __init__(self, settings: Settings, clock: Callable[[], datetime]) -> None:
        self.settings = settings
        self.clock = clock

    # --- what a dialect says in its own way ---

    @abstractmethod
    def close(self) -> None: ...
    @abstractmethod
    def schema(self) -> Schema: ...
    @abstractmethod
    def ask(self, sql: str, *values: Any) -> list[Any]:
        """Rows of one statement, which may be none."""

    @abstractmethod
    def writing(self) -> AbstractContextManager[None]:
        """A transaction that may write, the fence notwithstanding. Raises DalError."""

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[None]:
        """One state of the database for all that is read inside."""

    @abstractmethod
    def frozen(self, work: Path) -> AbstractContextManager[tuple[str, Side]]:
        """One state of the database: its name, the same as long as it is the same state, and a side to read it from."""

    @abstractmethod
    def alone(self) -> AbstractContextManager[None]:
        """No other process loads into this database meanwhile. Raises InvalidState if one does."""

    @abstractmethod
    def beside(self) -> AbstractContextManager[None]:
        """Load for a process that is ``alone``. As long as one does, and should that process be gone, nobody else is.

        Raises InvalidState where there is but one writer.
        """

    @abstractmethod
    def in_order(self, table: Table, column: str) -> str:
        """The column as it is ordered and compared: text by its bytes."""

    @abstractmethod
    def bound(self, table: Table, column: str) -> str:
        """The placeholder for a value of this column."""

    @abstractmethod
    def read_where(self, table: Table, where: str, values: Sequence[Any], limit: int = -1) -> Iterator[Row]:
        """The rows as they are stored, in order of their keys; not checked yet. limit: the first so many."""

    @abstractmethod
    def place(self) -> object:
        """Where it is: equal for two sides of one database, and only for these. A copy has the identity, too."""

    @abstractmethod
    def check_whole(self) -> None:
        """Raise CorruptDatabase for a database that is damaged, as far as it can be seen soon."""

    @abstractmethod
    def checker(self, form: Form) -> Checker:
        """What makes of a row that was read one as it travels. It raises Refused."""

    @abstractmethod
    def digest(self, table: Table, rows: Range) -> Digest: ...
    @abstractmethod
    def row_digests(self, table: Table, rows: Range) -> Iterator[tuple[Key, Digest]]:
        """Each row's key and digest, in order of their keys."""

    @abstractmethod
    def load(self, form: Form, rows: Iterator[Row]) -> None:
        """Insert checked rows, all or none. Raises Refused if the database does not take one of them."""

    @abstractmethod
    def load_one(self, form: Form, row: Row) -> None:
        """Insert a row, within ``writing``, which goes on if it is refused. Raises Refused."""

    @abstractmethod
    def loaded_range(self, form: Form, first: Row, last: Row) -> None:
        """Make what belongs to the rows just loaded, from this one to that, and is not moved itself."""

    @abstractmethod
    def drop_for_load(self) -> list[str]:
        """Drop what loading goes better without; the statements that make it again."""

    @abstractmethod
    def drop_references(self) -> list[str]:
        """Drop the foreign keys that cannot be set aside otherwise; the statements that make them again."""

    @abstractmethod
    def references_hold(self) -> bool:
        """Whether what every foreign key refers to is there; the keys themselves are there already."""

    @abstractmethod
    def set_counters(self) -> None:
        """Let the database go on numbering behind the largest number there is."""

    @abstractmethod
    def analyze(self) -> None: ...
    @abstractmethod
    def put_fence(self, *, up: bool) -> None:
        """Make or drop the triggers that refuse writes."""

    # --- what both say alike ---

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def reopening(self) -> Callable[[], Side]:
        """What opens the same database again, in another process."""
        return partial(type(self), self.settings, self.clock)

    def now(self) -> str:
        return instant_text(self.clock(), "clock")

    def count(self, table: Table) -> int:
        return int(self.ask(f"select count(*) from {table.name}")[0][0])

    def standing(self) -> Standing:
        """Who this is."""
        row = self.ask(
            "select cast(identity as text), epoch, is_fenced, reason, cast(changed_at as text) from dal_database"
        )[0]
        return Standing(row[0], int(row[1]), bool(row[2]), row[3], row[4])

    def fence(self, reason: str | None) -> Standing:
        """Refuse writes, for this reason, or with None take them again; a state that is there already stays.

        Raises InvalidState for a database that is being loaded.
        """
        with self.writing():
            self._set_fence(reason)
        return self.standing()

    def _set_fence(self, reason: str | None, epoch: int = 0) -> None:
        found = self.standing()
        if found.is_fenced == (reason is not None):
            return
        self.put_fence(up=reason is not None)
        self.ask(
            "update dal_database set is_fenced = ?, epoch = ?, reason = ?, changed_at = ?",
            *(self.flag(reason is not None), max(found.epoch, epoch) + 1, reason, self.now()),
        )

    def flag(self, value: bool) -> Any:
        """A bool as it is bound."""
        return value

    def read(self, table: Table, rows: Range) -> Iterator[Row]:
        """The rows of a range as they are stored, in order of their keys; not checked yet."""
        return self.read_where(table, *self.within(table, rows))

    def split(self, table: Table, size: int) -> list[Range]:
        """The whole table in ranges of so many rows, or more where a key that is not as it should be stood between."""
        key = ", ".join(table.key)
        order = ", ".join(self.in_order(table, name) for name in table.key)
        shown = ", ".join(self.shown(table, name) for name in table.key)
        ends = self.ask(
            f"select {shown} from (select {key}, row_number() over (order by {order}) as place from {table.name}) t "
            f"where place % {size:d} = 0 order by place"
        )
        total = self.count(table)
        if total % size == 0:  # behind the last row there is nothing to bound
            ends = ends[:-1]
        bounds: list[Key | None] = [None, *(list(row) for row in ends if is_clean(table, row)), None]
        return [Range(after, upto) for after, upto in pairwise(bounds)] if total else []

    @abstractmethod
    def shown(self, table: Table, column: str) -> str:
        """The column as it travels."""

    def within(self, table: Table, rows: Range) -> tuple[str, list[Any]]:
        """A where clause for a range, and its values."""
        conditions, values = list[str](), list[Any]()
        left = ", ".join(self.in_order(table, name) for name in table.key)
        right = ", ".join(self.bound(table, name) for name in table.key)
        for operator, bound in ((">", rows.after), ("<=", rows.upto)):
            if bound is not None:
                conditions.append(f"({left}) {operator} ({right})")
                values += bound
        return (f" where {' and '.join(conditions)}" if conditions else ""), values

    def ordered(self, table: Table, limit: int = -1) -> str:
        """An order by clause, by the key; and a limit if there is one."""
        order = " order by " + ", ".join(self.in_order(table, name) for name in table.key)
        return order if limit < 0 else f"{order} limit {limit:d}"

    # --- the ledger ---

    def last_transfer(self) -> Transfer | None:
        """The transfer that has not finished, of which there is one at most, or else the one that began last."""
        rows = self.ask(
            "select cast(id as text), source, fingerprint, state, cast(plan as text), cast(rebuild as text) "
            "from dal_transfers order by state = 'done', started_at desc, id desc limit 1"
        )
        return Transfer(*rows[0]) if rows else None

    def begin(self, transfer: Transfer) -> None:
        """Fence this database, drop what loading goes better without, and note the transfer: all or nothing."""
        with self.writing():
            self._set_fence(f"transfer {transfer.id} is being loaded")
            rebuild = json.dumps(self.drop_for_load())
            self.ask(
                "insert into dal_transfers (id, source, fingerprint, state, plan, rebuild, started_at) "
                "values (?, ?, ?, ?, ?, ?, ?)",
                *(transfer.id, transfer.source, transfer.fingerprint, "loading", transfer.plan, rebuild, self.now()),
            )

    def batches(self, transfer_id: str) -> list[Batch]:
        """The ledger of a transfer."""
        rows = self.ask(
            "select table_name, number, loaded, quarantined, digest, cast(changed as text) from dal_transfer_batches "
            "where transfer_id = ? order by table_name, number",
            transfer_id,
        )
        return [Batch(row[0], row[1], row[2], row[3], Digest.parse(row[4]), json.loads(row[5])) for row in rows]

    def note(self, transfer_id: str, batch: Batch, held: Sequence[Held] = ()) -> None:
        """Write a line of the ledger and what was quarantined with it, within ``writing``."""
        self.ask(
            "insert into dal_transfer_batches (transfer_id, table_name, number, loaded, quarantined, digest, changed, "
            "loaded_at) values (?, ?, ?, ?, ?, ?, ?, ?)",
            *(transfer_id, batch.table, batch.number, batch.loaded, batch.quarantined, str(batch.digest)),
            *(json.dumps(dict(batch.changed)), self.now()),
        )
        for row in held:
            self.ask(
                "insert into dal_transfer_quarantine (transfer_id, table_name, number, place, key, rule, row) "
                "values (?, ?, ?, ?, ?, ?, ?)",
                *(transfer_id, *row),
            )

    def held(self, transfer_id: str, limit: int) -> list[Held]:
        """What was quarantined, so many rows of it."""
        rows = self.ask(
            "select table_name, number, place, key, rule, row from dal_transfer_quarantine where transfer_id = ? "
            f"order by table_name, number, place limit {limit:d}",
            transfer_id,
        )
        return [Held(*row) for row in rows]

    def end(self, transfer_id: str, state: State, epoch: int) -> None:
        """Note how the transfer ended; done, the fence comes down."""
        with self.writing():
            if state == "done":
                self._set_fence(None, epoch)
            self.ask(
                "update dal_transfers set state = ?, finished_at = ? where id = ? and state <> ?",
                *(state, self.now(), transfer_id, "done"),
            )

    def rebuild(self, transfer_id: str) -> bool:
        """Make again what was dropped for the load, a statement a transaction; whether every reference holds, too."""
        [[dropped]] = self.ask("select cast(rebuild as text) from dal_transfers where id = ?", transfer_id)
        left: list[str] = json.loads(dropped)
        try:
            while left:
                statement = left.pop(0)
                with self.writing():
                    self._rebuild_one(statement)
                    self.ask("update dal_transfers set rebuild = ? where id = ?", json.dumps(left), transfer_id)
        except ConstraintViolated:  # a foreign key could not be made
            return False
        return self.references_hold()

    def _rebuild_one(self, statement: str) -> None:
        try:
            self.ask(statement)
        except Invalid as error:
            raise InvalidState(
                f"a row that was loaded does not fit into an index: {error}, in {statement}: mend the source, and use "
                "an empty database",
                found="loading",
            ) from error

    def part_references(self, transfer_id: str) -> None:
        """Drop the foreign keys that were made again already: they would take rows along that the ledger has."""
        with self.writing():
            made = self.drop_references()
            [[left]] = self.ask("select cast(rebuild as text) from dal_transfers where id = ?", transfer_id)
            rebuild = json.dumps([*made, *json.loads(left)])
            self.ask("update dal_transfers set rebuild = ? where id = ?", rebuild, transfer_id)

    def unexplained(self, transfer_id: str | None) -> list[str]:
        """Tables whose rows are not as many as the ledger says, in words."""
        loaded: dict[str, int] = {}
        for batch in self.batches(transfer_id) if transfer_id else ():
            loaded[batch.table] = loaded.get(batch.table, 0) + batch.loaded
        found = [(table.name, self.count(table), loaded.get(table.name, 0)) for table in inventory()]
        return [f"{name} has {count:,} rows, its ledger {known:,}" for name, count, known in found if count != known]


def without_parent(table: Table, reference: Reference) -> str:
    """A where clause for the rows that refer to one that is not there."""
    mine = [f"{table.name}.{name}" for name in reference.columns]
    theirs = [f"parent.{name}" for name in reference.target_columns]
    present = " and ".join(f"{name} is not null" for name in mine)
    same = " and ".join(f"{one} = {other}" for one, other in zip(theirs, mine, strict=True))
    return f" where {present} and not exists (select 1 from {reference.target} parent where {same})"


def refuse_columns(side: Side) -> None:
    """Raise SchemaError for a database with other columns than are moved: what those hold would be lost."""
    found: dict[str, set[str]] = {table.name: set() for table in inventory()}
    for column in side.schema().describe().columns:
        found.setdefault(column.table_name, set()).add(column.column_name)
    for table in inventory():
        if odd := found[table.name] ^ {column.name for column in table.columns}:
            raise SchemaError(f"{table.name} lacks a column, or has one that is none of ours: {', '.join(sorted(odd))}")


def refuse_loading(side: Side) -> None:
    """Raise InvalidState for a database that a transfer has not finished loading."""
    last = side.last_transfer()
    if last and last.state != "done":
        raise InvalidState(
            f"transfer {last.id} from {last.source} has not finished loading it; finish that with the same command, or "
            "use an empty database instead",
            found=last.state,
        )

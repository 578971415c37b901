"""Transactions: all or nothing, savepoints, what may not be done in them, and running again; the same in every cell."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest

import dal
from dal import (
    Closed,
    Dal,
    DalError,
    Invalid,
    InvalidState,
    InvalidTransition,
    ReadOnly,
    SchemaError,
    Settings,
    Sync,
    TransactionAborted,
    Tx,
    Unavailable,
    WorkflowNotFound,
)
from dal.core.schema import migrations
from tests.cells import CELLS, Blocking, Cell, MakeDb, together
from tests.parity.make import a_run, a_version, trail

SQLITE = [cell for cell in CELLS if cell.dialect == "sqlite"]
POSTGRES = [cell for cell in CELLS if cell.dialect == "postgres"]


class Stop(BaseException):
    """What no handler of Exception sees, as KeyboardInterrupt."""


each_error = pytest.mark.parametrize(
    "error", [ZeroDivisionError(), Stop(), WorkflowNotFound("mine")], ids=lambda error: type(error).__name__
)


def names(db: Dal[Sync] | Tx[Sync]) -> list[str]:
    """Of all workflows, oldest first."""
    return [workflow.name for workflow in db.workflows.list(limit=500).items][::-1]


def create(db: Dal[Sync] | Tx[Sync], name: str) -> Any:
    return db.workflows.create(name, actor="ann")


def fail_a_statement(tx: Tx[Sync]) -> None:
    """Make a statement of a store fail at the database: its table is gone, as far as this transaction knows."""
    tx.connection.execute("drop table run_events")
    with pytest.raises(SchemaError):
        tx.runs.events(create(tx, "of a table that is gone").id)


# --- all or nothing ---------------------------------------------------------------------------------------------------


def test_a_transaction_takes_effect_when_its_block_ends_and_not_before(db: Dal[Sync], make_db: MakeDb) -> None:
    other = make_db()
    with db.transaction() as tx:
        workflow = create(tx, "one")
        run = a_run(tx, a_version(tx, workflow))  # type: ignore[arg-type]  # a Tx has the stores of a Dal
        assert tx.runs.start(run.id, actor="ann").status == "running"
        assert names(tx) == ["one"]
        assert names(other) == []
    assert names(other) == names(db) == ["one"]
    assert db.runs.get(run.id).status == "running"
    assert trail(db.workflows.events(workflow.id)) == [(1, "ann", "created"), (2, "ann", "version_created")]


@each_error
def test_an_exception_undoes_everything_and_passes_through(db: Dal[Sync], error: BaseException) -> None:
    before = a_version(db)
    with pytest.raises(type(error)) as raised, db.transaction() as tx:  # noqa: PT012 - the block is what is tested
        create(tx, "lost")
        tx.versions.create(before.workflow_id, {"lost": 1}, actor="ann")
        raise error
    assert raised.value is error
    assert names(db) == ["Invoices"]
    assert db.versions.list(before.workflow_id).items == [before]
    assert [number for number, _, _ in trail(db.workflows.events(before.workflow_id))] == [1, 2]
    assert create(db, "after").revision == 1


def test_a_refusal_that_is_caught_leaves_the_transaction_usable(db: Dal[Sync]) -> None:
    run = a_run(db)
    with db.transaction() as tx:
        tx.workflows.create("first", actor="ann", handle="taken")
        with pytest.raises(dal.HandleTaken):
            tx.workflows.create("second", actor="ann", handle="taken")
        with pytest.raises(InvalidTransition):
            tx.runs.succeed(run.id, actor="ann")
        with pytest.raises(WorkflowNotFound):
            tx.workflows.resolve("nobody")
        with pytest.raises(Invalid):
            create(tx, "")
        create(tx, "third")
    assert names(db) == ["Invoices", "first", "third"]


def test_transactions_side_by_side_are_each_whole(db: Dal[Sync]) -> None:
    def pair(number: int) -> bool:
        with suppress(ZeroDivisionError), db.transaction() as tx:
            create(tx, f"{number}")
            create(tx, f"{number}")
            if number % 3 == 0:
                raise ZeroDivisionError
        return True

    assert together([lambda number=number: pair(number) for number in range(12)]) == [True] * 12  # type: ignore[misc]
    assert sorted(names(db), key=int) == [f"{n}" for n in range(12) if n % 3 for _ in range(2)]


def test_an_empty_transaction_ends_well(db: Dal[Sync]) -> None:
    for options in ({}, {"read_only": True}):
        with db.transaction(**options), suppress(ZeroDivisionError):  # type: ignore[arg-type]
            raise ZeroDivisionError
    create(db, "after")


# --- savepoints -------------------------------------------------------------------------------------------------------


def test_a_savepoint_undoes_its_own_block_and_no_more(db: Dal[Sync]) -> None:
    with db.transaction() as tx:
        create(tx, "before")
        with suppress(ZeroDivisionError), tx.transaction() as inner:
            create(inner, "lost")
            create(tx, "lost too")
            raise ZeroDivisionError
        with tx.transaction() as inner:
            create(inner, "kept")
        create(tx, "after")
        assert names(tx) == ["before", "kept", "after"]
    assert names(db) == ["before", "kept", "after"]


def test_savepoints_nest(db: Dal[Sync]) -> None:
    with db.transaction() as tx:
        with tx.transaction() as one:
            create(one, "1")
            with suppress(Stop), one.transaction() as two:
                create(two, "2")
                with two.transaction() as three:
                    create(three, "3")
                raise Stop
            with one.transaction() as again:
                create(again, "4")
                with suppress(ZeroDivisionError), again.transaction() as deepest:
                    create(deepest, "5")
                    raise ZeroDivisionError
        for number in range(50):
            with tx.transaction():
                create(tx, f"s{number}")
    assert names(db) == ["1", "4", *(f"s{number}" for number in range(50))]


def test_a_kept_savepoint_goes_with_its_transaction(db: Dal[Sync]) -> None:
    with suppress(ZeroDivisionError), db.transaction() as tx:
        with tx.transaction() as inner:
            create(inner, "lost")
        raise ZeroDivisionError
    assert names(db) == []


# --- read only and isolation ------------------------------------------------------------------------------------------


def test_a_read_only_transaction_refuses_every_write(db: Dal[Sync]) -> None:
    run = a_run(db)
    writes: list[Callable[[Tx[Sync]], object]] = [
        lambda tx: create(tx, "lost"),
        lambda tx: tx.workflows.update(run.workflow_id, actor="ann", name="Lost"),
        lambda tx: tx.workflows.archive(run.workflow_id, actor="ann"),
        lambda tx: tx.workflows.unarchive(run.workflow_id, actor="ann"),
        lambda tx: tx.workflows.publish(run.workflow_id, actor="ann"),
        lambda tx: tx.workflows.unpublish(run.workflow_id, actor="ann"),
        lambda tx: tx.versions.create(run.workflow_id, {}, actor="ann"),
        lambda tx: tx.versions.set_runnable_config(run.workflow_id, 1, {}, actor="ann"),
        lambda tx: tx.runs.create(run.workflow_id, actor="ann"),
        lambda tx: tx.runs.start(run.id, actor="ann"),
        lambda tx: tx.runs.succeed(run.id, actor="ann"),
        lambda tx: tx.runs.fail(run.id, "lost", actor="ann"),
        lambda tx: tx.runs.cancel(run.id, actor="ann"),
    ]
    with db.transaction(read_only=True) as tx:
        for number, write in enumerate(writes):
            with pytest.raises(ReadOnly), tx.transaction():
                print(f"write {number} answered {write(tx)}")  # seen only if it did
        assert tx.runs.get(run.id) == run
    assert names(db) == ["Invoices"]
    assert db.runs.list(run.workflow_id).items == [run]


def test_a_read_only_transaction_sees_one_moment(db: Dal[Sync], make_db: MakeDb) -> None:
    other = make_db()
    create(db, "old")
    with db.transaction(read_only=True) as tx:
        assert names(tx) == ["old"]
        create(other, "new")
        assert names(other) == ["old", "new"]
        assert names(tx) == ["old"]
    assert names(db) == ["old", "new"]


def test_reading_goes_on_beside_an_open_transaction(db: Dal[Sync]) -> None:
    create(db, "old")
    with db.transaction() as tx:
        create(tx, "new")

        def read_in_one() -> list[str]:
            with db.transaction(read_only=True) as reading:
                return names(reading)

        assert together([lambda: names(db), read_in_one]) == [["old"], ["old"]]


@pytest.mark.parametrize("isolation", [None, "read committed", "repeatable read", "serializable"])
@pytest.mark.parametrize("read_only", [False, True])
def test_every_isolation_is_taken(db: Dal[Sync], isolation: Any, read_only: bool) -> None:
    create(db, "one")
    with db.transaction(isolation=isolation, read_only=read_only) as tx:
        assert names(tx) == ["one"]
        if not read_only:
            create(tx, "two")
    assert names(db) == (["one"] if read_only else ["one", "two"])
    assert db.transact(names, isolation=isolation) == names(db)


@pytest.mark.parametrize("isolation", ["read uncommitted", "SERIALIZABLE", "", 5])
def test_another_isolation_is_refused(db: Dal[Sync], isolation: Any) -> None:
    with pytest.raises(Invalid) as refused:
        db.transaction(isolation=isolation)
    assert refused.value.path == "isolation"
    with pytest.raises(Invalid) as refused:
        db.transact(names, isolation=isolation)
    assert refused.value.path == "isolation"


@pytest.mark.parametrize("cell", POSTGRES, indirect=True, ids=str)  # SQLite lets nobody else write meanwhile
@pytest.mark.parametrize(
    ("isolation", "seen"), [("read committed", ["old", "new"]), ("repeatable read", ["old"]), ("serializable", ["old"])]
)
def test_isolation_decides_what_is_seen_of_others(
    db: Dal[Sync], make_db: MakeDb, isolation: Any, seen: list[str]
) -> None:
    other = make_db()
    create(db, "old")
    with db.transaction(isolation=isolation) as tx:
        names(tx)
        create(other, "new")
        assert names(tx) == seen


# --- after a failed statement -----------------------------------------------------------------------------------------


def test_after_a_failed_statement_only_leaving_is_left(db: Dal[Sync]) -> None:
    run = a_run(db)
    with pytest.raises(TransactionAborted), db.transaction() as tx:  # noqa: PT012 - the block is what is tested
        create(tx, "lost")
        fail_a_statement(tx)
        calls: list[Callable[[], object]] = [
            lambda: names(tx),
            lambda: create(tx, "lost"),
            lambda: tx.transaction().__enter__(),
        ]
        for call in calls:
            with pytest.raises(TransactionAborted):
                call()
    assert names(db) == ["Invoices"]
    assert trail(db.runs.events(run.id)) == [(1, "ann", "created")]


def test_after_a_failed_statement_an_exception_passes_through(db: Dal[Sync]) -> None:
    with pytest.raises(ZeroDivisionError), db.transaction() as tx:  # noqa: PT012 - the block is what is tested
        fail_a_statement(tx)
        raise ZeroDivisionError
    assert names(db) == []


def test_a_savepoint_heals_a_failed_statement(db: Dal[Sync]) -> None:
    run = a_run(db)
    with db.transaction() as tx:
        create(tx, "before")
        with suppress(ZeroDivisionError), tx.transaction() as inner:
            fail_a_statement(inner)
            raise ZeroDivisionError
        assert trail(tx.runs.events(run.id)) == [(1, "ann", "created")]
        with pytest.raises(TransactionAborted), tx.transaction() as inner:
            fail_a_statement(inner)
        create(tx, "after")
        with pytest.raises(TransactionAborted), tx.transaction() as inner, inner.transaction() as deepest:
            fail_a_statement(deepest)
        create(tx, "at last")
    assert names(db) == ["Invoices", "before", "after", "at last"]


# --- where a transaction may be used ----------------------------------------------------------------------------------


def test_a_transaction_is_closed_once_its_block_has_ended(db: Dal[Sync]) -> None:
    with db.transaction() as committed:
        workflow = create(committed, "kept")
    with suppress(ZeroDivisionError), db.transaction() as undone:
        raise ZeroDivisionError
    with db.transaction(read_only=True) as read:
        pass
    calls: list[Callable[[Tx[Sync]], object]] = [
        lambda tx: tx.workflows.get(workflow.id),
        lambda tx: create(tx, "late"),
        lambda tx: tx.transaction().__enter__(),
    ]
    for tx in (committed, undone, read):
        for call in calls:
            with pytest.raises(Closed):
                call(tx)
    assert names(db) == ["kept"]


def test_inside_a_block_the_database_itself_is_refused(db: Dal[Sync]) -> None:
    workflow = create(db, "before")
    calls: list[Callable[[], object]] = [
        lambda: db.workflows.get(workflow.id),
        lambda: create(db, "lost"),
        lambda: db.transaction().__enter__(),
        lambda: db.transaction(read_only=True).__enter__(),
        lambda: db.transact(names),
        lambda: db.health(),
    ]
    for read_only in (False, True):
        with db.transaction(read_only=read_only) as tx:
            for number, call in enumerate(calls):
                with pytest.raises(InvalidState, match="call tx"):
                    print(f"call {number} answered {call()}")  # seen only if it did
            with tx.transaction(), pytest.raises(InvalidState, match="call tx"):
                names(db)
            assert names(tx) == ["before"]
        for call in calls[:1]:
            call()
    create(db, "after")
    assert names(db) == ["before", "after"]


def test_inside_a_callback_the_database_itself_is_refused(db: Dal[Sync]) -> None:
    def refused(tx: Tx[Sync]) -> str:
        create(tx, "kept")
        with pytest.raises(InvalidState, match="call tx"):
            create(db, "lost")
        return "done"

    assert db.transact(refused) == "done"
    assert names(db) == ["kept"]


def test_inside_a_block_another_database_is_welcome(db: Dal[Sync], make_db: MakeDb) -> None:
    other = make_db()
    with db.transaction() as tx:
        create(tx, "mine")
        assert names(other) == []
        with other.transaction(read_only=True) as reading:
            assert names(reading) == []
            with pytest.raises(InvalidState, match="call tx"):
                names(other)
        assert names(tx) == ["mine"]
    assert names(other) == ["mine"]


# --- the driver's connection ------------------------------------------------------------------------------------------


def test_the_drivers_own_connection_belongs_to_the_transaction(db: Dal[Sync], cell: Cell) -> None:
    kinds = {
        "sqlite-sync": sqlite3.Connection,
        "sqlite-async": sqlite3.Connection,
        "postgres-sync": psycopg.Connection,
        "postgres-async": psycopg.AsyncConnection,
    }
    with db.transaction() as tx:
        connection: Any = tx.connection
        found = connection._inner if isinstance(connection, Blocking) else connection
        assert isinstance(found, kinds[f"{cell.dialect}-{cell.face}"])
        connection.execute("create table orders (number integer primary key, workflow_name text)")
        connection.execute("insert into orders values (1, 'one')")
        create(tx, "one")
    with suppress(ZeroDivisionError), db.transaction() as tx:
        tx.connection.execute("insert into orders values (2, 'lost')")
        create(tx, "lost")
        with suppress(Stop), tx.transaction():
            tx.connection.execute("delete from orders")
            raise Stop
        assert tx.connection.execute("select count(*) from orders").fetchone() == (2,)
        raise ZeroDivisionError
    with db.transaction(read_only=True) as tx:
        rows = tx.connection.execute(
            "select o.number, w.name from orders o join workflows w on w.name = o.workflow_name"
        ).fetchall()
    assert (rows, names(db)) == ([(1, "one")], ["one"])


@pytest.mark.parametrize("word", ["commit", "rollback"])
def test_a_transaction_ended_behind_our_back_is_told(db: Dal[Sync], word: str) -> None:
    with pytest.raises(Closed, match="ended the transaction"), db.transaction() as tx:  # noqa: PT012
        create(tx, "theirs")
        tx.connection.execute(word)
    assert names(db) == (["theirs"] if word == "commit" else [])
    with db.transaction() as tx:
        create(tx, "after")
    assert names(db)[-1] == "after"


# --- transact ---------------------------------------------------------------------------------------------------------


def test_transact_commits_and_returns_what_its_callback_returns(db: Dal[Sync]) -> None:
    workflow = db.transact(lambda tx: create(tx, "one"))
    assert db.workflows.get(workflow.id) == workflow


@each_error
def test_transact_runs_once_when_its_callback_raises(db: Dal[Sync], error: BaseException) -> None:
    seen: list[Tx[Sync]] = []

    def fails(tx: Tx[Sync]) -> None:
        seen.append(tx)
        create(tx, "lost")
        raise error

    with pytest.raises(type(error)) as raised:
        db.transact(fails)
    assert raised.value is error
    assert (len(seen), names(db)) == (1, [])
    with pytest.raises(Closed):
        names(seen[0])


@pytest.mark.parametrize("cell", POSTGRES, indirect=True, ids=str)  # on SQLite two writers never overlap
def test_transact_runs_again_after_a_serialization_failure(db: Dal[Sync]) -> None:
    meet = threading.Barrier(2)
    seen: dict[int, list[Tx[Sync]]] = {0: [], 1: []}

    def count_and_add(number: int) -> int:
        def body(tx: Tx[Sync]) -> int:
            seen[number].append(tx)
            count = len(names(tx))
            if len(seen[number]) == 1:
                meet.wait(10)
            create(tx, f"{count}")
            return count

        return db.transact(body, isolation="serializable")

    found = together([lambda: count_and_add(0), lambda: count_and_add(1)])
    attempts = [len(txs) for txs in seen.values()]
    assert sorted(found, key=str) == [0, 1], f"{found}: both counted before either added, after {attempts} attempts"
    assert names(db) == ["0", "1"]
    assert sum(attempts) >= 3, f"{attempts} attempts: nothing collided"
    for tx in (txs[0] for txs in seen.values()):
        with pytest.raises(Closed):
            names(tx)


@pytest.mark.parametrize("cell", POSTGRES, indirect=True, ids=str)  # on SQLite two writers never overlap
def test_a_transaction_that_is_no_callback_is_not_run_again(db: Dal[Sync]) -> None:
    meet = threading.Barrier(2)

    def count_and_add() -> int:
        with db.transaction(isolation="serializable") as tx:
            count = len(names(tx))
            meet.wait(10)
            create(tx, f"{count}")
        return count

    found = together([count_and_add, count_and_add])
    lost = [answer for answer in found if isinstance(answer, DalError)]
    assert len(lost) == 1, f"{found}: exactly one has to lose"
    assert (type(lost[0]), lost[0].code) == (Unavailable, "40001")
    assert names(db) == ["0"]


@pytest.mark.parametrize("cell", POSTGRES, indirect=True, ids=str)  # on SQLite two writers never overlap
def test_transact_runs_again_after_a_deadlock(db: Dal[Sync]) -> None:
    ids = [create(db, name).id for name in ("a", "b")]
    meet = threading.Barrier(2)
    attempts = [0, 0]

    def touch_both(first: int) -> str:
        def body(tx: Tx[Sync]) -> str:
            attempts[first] += 1
            tx.workflows.update(ids[first], actor="ann", description=f"first {first}")
            if attempts[first] == 1:
                meet.wait(10)
            tx.workflows.update(ids[1 - first], actor="ann", description=f"second {first}")
            return "done"

        return db.transact(body)

    assert together([lambda: touch_both(0), lambda: touch_both(1)]) == ["done", "done"]
    assert sum(attempts) >= 3, f"{attempts} attempts: one of the two has to lose at least once"
    assert [db.workflows.get(id).revision for id in ids] == [3, 3]


@contextmanager
def somebody_writing(settings: Settings) -> Iterator[Callable[[], None]]:
    """Another program that holds SQLite's write lock, until what this yields is called or the block ends."""
    connection = sqlite3.connect(settings.sqlite_path, isolation_level=None, check_same_thread=False)
    connection.execute("begin immediate")
    try:
        yield connection.rollback
    finally:
        connection.close()


@pytest.mark.parametrize("cell", SQLITE, indirect=True, ids=str)  # PostgreSQL has no lock on the whole database
def test_transact_runs_again_when_another_program_was_writing(make_db: MakeDb, settings: Settings) -> None:
    db = make_db(sqlite_busy_timeout=0.5)
    with somebody_writing(settings) as stop:
        for refused in (lambda: db.transaction().__enter__(), lambda: db.transact(lambda tx: create(tx, "lost"))):
            with pytest.raises(Unavailable) as busy:
                refused()
            assert busy.value.code == "SQLITE_BUSY"
        timer = threading.Timer(0.75, stop)  # after the first attempt gave up, before the second does
        timer.start()
        db.transact(lambda tx: create(tx, "kept"))
        timer.join()
    assert names(db) == ["kept"]


# --- SQLite: a transaction holds the only writer ----------------------------------------------------------------------


@pytest.mark.parametrize("cell", SQLITE, indirect=True, ids=str)  # PostgreSQL has many writers
def test_a_transaction_past_its_time_is_rolled_back_and_others_go_on(make_db: MakeDb) -> None:
    db = make_db(sqlite_tx_timeout=0.3)
    waited: list[float] = []

    def write_beside() -> None:
        begun = time.monotonic()
        create(db, "beside")
        waited.append(time.monotonic() - begun)

    other = threading.Thread(target=write_beside)
    with pytest.raises(Unavailable, match=r"0\.3 s"), db.transaction() as tx:  # noqa: PT012
        create(tx, "lost")
        other.start()
        other.join(10)
        with pytest.raises(Unavailable, match=r"0\.3 s"):
            create(tx, "late")
        with pytest.raises(Unavailable, match=r"0\.3 s"):
            names(tx)
    assert waited[0] < 5, f"the other writer waited {waited[0]:.2f} s for a transaction of 0.3 s"
    assert names(db) == ["beside"]
    with db.transaction() as tx:
        create(tx, "after")
    assert names(db) == ["beside", "after"]


@pytest.mark.parametrize("cell", SQLITE, indirect=True, ids=str)  # PostgreSQL has many writers
def test_a_transaction_past_its_time_passes_the_callers_exception_through(make_db: MakeDb) -> None:
    db = make_db(sqlite_tx_timeout=0.1)
    with pytest.raises(ZeroDivisionError), db.transaction() as tx:  # noqa: PT012
        create(tx, "lost")
        time.sleep(0.3)
        raise ZeroDivisionError
    assert create(db, "after").name == "after"
    assert names(db) == ["after"]


# --- closing and health -----------------------------------------------------------------------------------------------


def test_a_closed_database_refuses_everything_and_may_be_closed_again(db: Dal[Sync]) -> None:
    workflow = create(db, "one")
    db.close()
    db.close()
    calls: list[Callable[[], object]] = [
        lambda: db.workflows.get(workflow.id),
        lambda: create(db, "late"),
        lambda: db.versions.create(workflow.id, {}, actor="ann"),
        lambda: db.transaction().__enter__(),
        lambda: db.transaction(read_only=True).__enter__(),
        lambda: db.transact(names),
        lambda: db.health(),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(Closed):
            print(f"call {number} answered {call()}")  # seen only if it did


def test_what_was_written_is_there_when_opened_again(db: Dal[Sync], make_db: MakeDb) -> None:
    workflow = create(db, "one")
    db.close()
    assert make_db().workflows.get(workflow.id) == workflow


def test_health_tells_backend_schema_latency_and_pool(db: Dal[Sync], cell: Cell) -> None:
    health = db.health()
    assert (health.backend, health.schema_version) == (cell.dialect, len(migrations(cell.dialect)))
    assert 0 < health.latency_ms < 10_000
    assert health.pool
    assert all(type(figure) is float for figure in health.pool.values()), health.pool


def test_calls_are_counted_by_query(db: Dal[Sync]) -> None:
    workflow = create(db, "one")
    before = db.calls
    for _ in range(3):
        db.workflows.get(workflow.id)
    with db.transaction() as tx:
        tx.workflows.get(workflow.id)
    with pytest.raises(Invalid):
        create(db, "")
    after = db.calls
    assert {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name)} == {
        "get_workflow": 4
    }


# --- what an application does to a transaction that it should not -----------------------------------------------------


def test_what_follows_a_transaction_that_the_application_ended_is_refused(db: Dal[Sync]) -> None:
    def end_it_and_go_on() -> None:
        with db.transaction() as tx:
            create(tx, "kept by the application's own commit")
            tx.connection.execute("commit")
            create(tx, "would commit by itself")

    with pytest.raises(Closed, match="the application ended the transaction"):
        end_it_and_go_on()
    assert names(db) == ["kept by the application's own commit"]


def test_the_connection_is_not_to_be_had_after_the_transaction(db: Dal[Sync]) -> None:
    with db.transaction() as tx:
        assert tx.connection is not None
    with pytest.raises(Closed):
        tx.connection.execute("select 1")

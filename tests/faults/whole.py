"""Whether a database is whole, and what is in it; asked of an open Dal, whose own connections do not disturb it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from dal import Dal, DalError, Sync
from tests.cells import stored

# Rows that a method makes only half if it is cut in two. Each answers the ids of what is not whole.
HALVES = {
    "a workflow's events": """
        select w.id from workflows w left join workflow_events e on e.workflow_id = w.id
         group by w.id having count(e.number) <> w.last_event or max(e.number) is not w.last_event""",
    "a workflow's versions": """
        select w.id from workflows w left join workflow_versions v on v.workflow_id = w.id
         group by w.id having count(v.number) <> w.last_version or coalesce(max(v.number), 0) <> w.last_version""",
    "a workflow's tags": """
        select w.id from workflows w
         where (select count(*) from workflow_tags t where t.workflow_id = w.id) <> json_array_length(w.tags)""",
    "a run's events": """
        select r.id from runs r left join run_events e on e.run_id = r.id
         group by r.id having count(e.number) <> r.last_event or max(e.number) is not r.last_event""",
}


def damage(db: Dal[Sync]) -> list[str]:
    """What is wrong with a SQLite database: its pages, its references, or something of ours done by half."""
    found = []
    with db.transaction(read_only=True) as tx:
        execute = tx.connection.execute
        found += [row[0] for row in execute("pragma integrity_check") if row[0] != "ok"]
        found += [f"a reference of {row[0]} to {row[2]}" for row in execute("pragma foreign_key_check")]
        for what, query in HALVES.items():
            found += [f"{what}: {row[0]}" for row in execute(query)]
    return found


def ids(db: Dal[Sync]) -> set[str]:
    """The ids of every workflow, version and run."""
    with db.transaction(read_only=True) as tx:
        every = "select id from workflows union all select id from workflow_versions union all select id from runs"
        return {row[0] for row in tx.connection.execute(every)}


def names(db: Dal[Sync]) -> Counter[str]:
    """How often each name of a workflow, and each idempotency key of a run, is stored."""
    every = "select name from workflows union all select idempotency_key from runs where idempotency_key is not null"
    with db.transaction(read_only=True) as tx:
        return Counter(row[0] for row in tx.connection.execute(every))


def query(db: Dal[Sync], sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """The rows of a query of the test's own."""
    with db.transaction(read_only=True) as tx:
        return [tuple(row) for row in tx.connection.execute(sql, values)]


def dump(db: Dal[Sync]) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table."""
    with db.transaction(read_only=True) as tx:
        return {table: sorted(rows, key=repr) for table, rows in stored(tx.connection).items()}


def refusal(call: Callable[[], object]) -> DalError | None:
    """The error of ours that a call ends with, if it does."""
    try:
        call()
    except DalError as error:
        return error
    return None

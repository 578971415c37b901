"""The work of the queries that servers live by does not follow the size of the tables: the same on ten times the rows.

What `dal plans` allows for all queries has floors, below which it says nothing; here there is none. Rows touched, as
EXPLAIN ANALYZE counts them, on PostgreSQL; instructions of the virtual machine, by its progress handler, on SQLite.
`make bench-growth` asks the same at a hundred times the rows.
"""

from __future__ import annotations

import pytest

from bench.growth import FACTOR, QUERIES, figure, known
from dal.guard.capture import Capture
from dal.guard.plans import Plans
from tests.plans.test_plans import MakeDatabase, once


@pytest.fixture
def plans(make_database: MakeDatabase) -> Plans:
    """The plans of the queries as they are: taken once a process, for the tests beside this one, too."""
    return once("growth", lambda: Plans(make_database("postgres")))


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
@pytest.mark.parametrize("name", QUERIES)
def test_ten_times_the_rows_are_not_more_work(plans: Plans, name: str, dialect: str) -> None:
    capture = plans.taken[dialect == "postgres"][name]
    assert isinstance(capture, Capture), capture
    assert capture.query.dialect == dialect
    for case, found in capture.cases.items():
        small, large = figure(found.work["small"]), figure(found.work["large"])
        assert large <= FACTOR * max(small, 1), f"{name}, case {case}: {small:,}, and {large:,} on ten times the rows"


def test_every_query_that_is_asked_of_is_there() -> None:
    assert known() == []

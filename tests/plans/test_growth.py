"""The work of the queries that servers live by does not follow the size of the tables: the same on ten times the rows.

What `dal plans` allows for all queries has floors, below which it says nothing; here there is none. Rows touched, as
EXPLAIN ANALYZE counts them, on PostgreSQL; instructions of the virtual machine, by its progress handler, on SQLite.
`make bench-growth` asks the same at a hundred times the rows.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.growth import CAN_COUNT, FACTOR, LEVELS, QUERIES, RARE, figure, known, pages_read
from dal.guard.capture import Capture
from dal.guard.plans import Plans
from tests.cells import VERSIONS
from tests.plans.conftest import MakeRows
from tests.plans.test_plans import MakeDatabase, taken

pytestmark = pytest.mark.xdist_group("plans")


@pytest.fixture
def plans(make_database: MakeDatabase, rows: MakeRows) -> Plans:
    return taken(VERSIONS[-1], make_database, rows)


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
@pytest.mark.parametrize("name", QUERIES)
def test_ten_times_the_rows_are_not_more_work(plans: Plans, name: str, dialect: str) -> None:
    capture = plans.taken[dialect == "postgres"][name]
    assert isinstance(capture, Capture), capture
    assert capture.query.dialect == dialect
    for case, found in capture.cases.items():
        small, large = figure(found.work["small"]), figure(found.work["large"])
        assert large <= FACTOR * max(small, 1), f"{name}, case {case}: {small:,}, and {large:,} on ten times the rows"


# --- a rare word among 100,000 items ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", RARE)
def test_a_search_for_a_rare_word_touches_few_rows_of_100_000_and_scans_none(plans: Plans, case: str) -> None:
    capture = plans.taken[True]["search_chat"]
    assert isinstance(capture, Capture), capture
    limit = plans.sources.cases(capture.query)[case]["limit"]  # type: ignore[index]  # there are cases
    done = capture.cases[case]
    assert done.returned >= 1
    assert done.work["large"].rows_touched <= 4 * limit, f"{done.work['large'].rows_touched} rows"
    assert [scan.line for scan in (done.plan or capture.generic).scans if scan.index is None] == []  # type: ignore[union-attr]
    lite = plans.taken[False]["search_chat"]
    assert isinstance(lite, Capture), lite
    assert lite.cases[case].returned == done.returned
    scanned = {step.table for step in lite.cases[case].steps if step.op == "scan"}
    assert scanned & plans.policy.tables.keys() == set(), "an FTS5 table is searched, though its plan says scan"
    assert "chat_texts_fts" in scanned


@pytest.mark.skipif(not CAN_COUNT, reason="only Linux counts what a process reads")
def test_a_search_for_a_rare_word_reads_as_many_pages_of_ten_times_the_items(sqlite_rows: dict[int, Path]) -> None:
    found: dict[str, list[tuple[int, int]]] = {case: [] for case in RARE}
    for scale in (1, 10):
        for case in RARE:
            found[case].append(pages_read(sqlite_rows[scale], case))
    for case, ((few, small), (many, large)) in found.items():
        assert few >= 1 <= many, case
        assert large <= FACTOR * small + LEVELS, f"{case}: {small} pages of 10,000 items, {large} of 100,000"
        assert large <= 4 * 51, f"{case}: {large} pages of 100,000 items"


def test_every_query_that_is_asked_of_is_there() -> None:
    assert known() == []

"""The table of faults: what each test here did to a database or a server, and what became of the writes.

tally       a row of the table: tally("P1 idle backends terminated") once a test, then its counts
rounds      how often: rounds(3, 50) is 3 in `make test` and 50 in `make faults`
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest

WHOLE = os.environ.get("DAL_TEST_FAULTS") == "all"
Row = dict[str, Any]


@dataclass
class Tally:
    """What came of one fault. recoveries: seconds from the fault's end to the first success, one for each round.

    lost: acknowledged writes that are not there; doubled: writes found twice; hung: calls that ended by no answer.
    """

    fault: str
    rounds: int = 0
    lost: int = 0
    doubled: int = 0
    hung: int = 0
    recoveries: list[float] = field(default_factory=list)

    def check(self) -> None:
        """Fail unless there were rounds, and nothing was lost, doubled or hung."""
        assert self.rounds > 0
        found = f"{self.fault}: {self.lost} lost, {self.doubled} doubled, {self.hung} hung"
        assert (self.lost, self.doubled, self.hung) == (0, 0, 0), found


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Tally]]:
    made: list[Tally] = []

    def make(fault: str) -> Tally:
        made.append(Tally(fault))
        return made[-1]

    yield make
    request.node.user_properties += [("fault", asdict(each)) for each in made]


@pytest.fixture
def rounds() -> Callable[[int, int], int]:
    return lambda few, whole: whole if WHOLE else few


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows: list[tuple[Row, bool]] = []
    reports = [report for kind in terminalreporter.stats.values() for report in kind if hasattr(report, "when")]
    failed = {report.nodeid for report in reports if report.failed}
    for report in reports:
        if report.when == "teardown":
            rows += [(row, report.nodeid in failed) for name, row in report.user_properties if name == "fault"]
    if not rows:
        return
    terminalreporter.section("faults")
    heads = f"{'rounds':>7} {'lost':>5} {'doubled':>8} {'hung':>5}"
    terminalreporter.write_line(f"{'fault':58} {heads}  recovery, median / longest")
    for row, failure in sorted(rows, key=lambda each: str(each[0]["fault"])):
        spans = sorted(row["recoveries"])
        recovery = f"{spans[len(spans) // 2]:.2f} s / {spans[-1]:.2f} s" if spans else "-"
        counts = f"{row['rounds']:>7} {row['lost']:>5} {row['doubled']:>8} {row['hung']:>5}"
        terminalreporter.write_line(f"{row['fault']:58} {counts}  {recovery}{'  FAILED' if failure else ''}")

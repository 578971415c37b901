"""Side by side: every contender of a row runs in turn, round after round, and only ratios within a round are compared.

A shared machine is slow for a second and fast for the next; what runs in turn is slow and fast together. Turns are
short and rounds many, for the same reason. Absolute times are printed for information and are never a verdict.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher"]

_WARM_CALLS = 120  # a statement is prepared after five calls on each connection of a pool of ten
_MOST_CALLS = 20_000


@dataclass(frozen=True)
class Contender:
    """Somebody who can do a row's work.

    run(n): does it n times. answer(): does it once and tells what came of it, as plain values that must be the same for
    every contender of the row. budget: of the ratio to the anchor; None: nothing is promised.
    """

    name: str
    run: Callable[[int], None]
    answer: Callable[[], object]
    budget: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of work and who does it. The first contender is the anchor, whose ratio is 1.

    better: what the ratio compares, time taken (lower) or calls done in the same time (higher).
    """

    title: str
    contenders: Sequence[Contender]
    better: Better = "lower"


@dataclass(frozen=True)
class Result:
    """One cell. ratio: the median over the rounds, low and high its quartiles. anchor_us, us: medians for one call."""

    title: str
    anchor: str
    name: str
    ratio: float
    low: float
    high: float
    budget: float | None
    better: Better
    anchor_us: float
    us: float

    @property
    def verdict(self) -> str:
        """'met' or 'missed'; empty where nothing was promised."""
        if self.budget is None:
            return ""
        met = self.ratio <= self.budget if self.better == "lower" else self.ratio >= self.budget
        return "met" if met else "missed"


@contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection, for every contender alike; what lives already is out of its sight."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def measure(row: Row, rounds: int, seconds: float) -> list[Result]:
    """A result for each contender but the anchor. seconds: how long the anchor's turn in a round takes, about.

    Raises RuntimeError when the contenders do not give the same answer.
    """
    anchor, *others = row.contenders
    expected = anchor.answer()
    for contender in row.contenders:
        if (answer := contender.answer()) != expected:
            raise RuntimeError(f"{row.title}: {anchor.name} answers {expected!r}, {contender.name} {answer!r}")
        contender.run(_WARM_CALLS)
    calls = max(1, min(_MOST_CALLS, round(seconds / max(_timed(anchor.run, _WARM_CALLS) / _WARM_CALLS, 1e-7))))
    taken: dict[str, list[float]] = {contender.name: [] for contender in row.contenders}
    with quiet():
        for number in range(rounds):
            # Every other round backwards, so that nobody always runs behind the same neighbour.
            for contender in row.contenders if number % 2 == 0 else reversed(row.contenders):
                taken[contender.name].append(_timed(contender.run, calls) / calls * 1e6)
    return [_result(row, anchor, other, taken) for other in others]


def _timed(run: Callable[[int], None], calls: int) -> float:
    begun = time.perf_counter()
    run(calls)
    return time.perf_counter() - begun


def _result(row: Row, anchor: Contender, other: Contender, taken: dict[str, list[float]]) -> Result:
    ratios = [mine / base for mine, base in zip(taken[other.name], taken[anchor.name], strict=True)]
    if row.better == "higher":
        ratios = [1 / ratio for ratio in ratios]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Result(
        row.title,
        anchor.name,
        other.name,
        middle,
        low,
        high,
        other.budget,
        row.better,
        statistics.median(taken[anchor.name]),
        statistics.median(taken[other.name]),
    )

"""Every call's time, and what came of it. Locust's own figures are whole milliseconds: 0 for a query of 0.4."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dal.core.face import Sync
from dal.dal import Dal

if TYPE_CHECKING:
    from locust.env import Environment  # which makes gevent's of the whole process

now = time.perf_counter


@dataclass(frozen=True, slots=True)
class Sample:
    """One answered call, in seconds. total: since it was due. waited: of that, for a connection."""

    scenario: str
    query: str
    total: float
    waited: float


class Failed(Exception):
    """A call raised, or its answer was wrong; it has been recorded."""


class Recorder:
    """Times calls, and inside them the wait for one of the pool's connections. running: calls now under way."""

    def __init__(self, db: Dal[Sync], locust: Environment) -> None:
        """Looks over the shoulder of the DAL's pool. locust: is told of every call as well."""
        self.samples: list[Sample] = []
        self.failures: dict[str, int] = defaultdict(int)
        self.running = 0
        self._fire: Callable[..., None] = locust.events.request.fire
        self._local = threading.local()
        pool = db._engine._core.wire.pool
        self._take = pool.getconn
        pool.getconn = self._timed_take

    def _timed_take(self, seconds: float) -> Any:
        begun = now()
        try:
            return self._take(seconds)
        finally:
            self._local.waited = now() - begun

    def call(
        self, scenario: str, query: str, due: float, method: Callable[[], Any], check: Callable[[Any], str]
    ) -> Any:
        """Run a method that sends this query, and record it.

        due: when it should have begun, by ``now``. check: what is wrong with an answer; empty if nothing is. Raises
        Failed.
        """
        self._local.waited = 0.0
        wrong: Exception | None = None
        answer = None
        self.running += 1
        try:
            answer = method()
        except Exception as error:
            wrong = error
        finally:
            self.running -= 1
        total = now() - due
        if wrong is None and (reason := check(answer)):
            wrong = AssertionError(reason)
        milliseconds = total * 1000
        self._fire(
            request_type=scenario,
            name=query,
            response_time=milliseconds,
            response_length=0,
            exception=wrong,
            context={},
        )
        if wrong is not None:
            self.failures[f"{scenario} {query}: {type(wrong).__name__}: {wrong}"[:300]] += 1
            raise Failed from wrong
        self.samples.append(Sample(scenario, query, total, self._local.waited))
        return answer

    def forget(self) -> None:
        """Start measuring anew; failures are kept."""
        self.samples.clear()


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least this part of the values does not exceed. Raises ValueError without values."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(len(values) * part) - 1)]

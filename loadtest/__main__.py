"""Users against PostgreSQL through the DAL's blocking face, under gevent; the exit status is the verdict.

    python -m loadtest --url postgresql://…      an empty database, on this machine

0: every p95 is within its target and every answer was right. Anything else: not so, or it could not be run.
"""

from __future__ import annotations

# Locust makes gevent's of the standard library's threads, locks and sockets, which must be done before other imports.
# isort: off
import locust  # noqa: F401

# isort: on
import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent
import yaml

import dal
from dal.settings import Settings
from loadtest import seed
from loadtest.loopback import refuse_elsewhere
from loadtest.recorder import Recorder, Sample, percentile
from loadtest.scenarios import Caller, Lister, Load, Reader, Writer

TARGETS = Path(__file__).with_name("targets.yaml")
SCENARIOS: tuple[type[Caller], ...] = (Reader, Lister, Writer)
POOL = 10
STOP_TIMEOUT = 10  # seconds
MOST_FAULTS = 20  # printed
LEAST_SAMPLES = 20  # below that, a p95 is the slowest call


@dataclass(frozen=True)
class Line:
    """One line of the report: a scenario, or one query of it. Times in milliseconds; target None: only told."""

    scenario: str
    query: str
    calls: int
    p50: float
    p95: float
    p99: float
    slowest: float
    waited_p95: float
    locust_p95: float | None
    target: float | None

    @property
    def verdict(self) -> str:
        """'met', or what is wrong; empty without a target."""
        if self.target is None:
            return ""
        if self.calls < LEAST_SAMPLES:
            return f"only {self.calls} calls"
        return "met" if self.p95 <= self.target else "missed"


def lines(samples: Sequence[Sample], targets: Mapping[str, Any], load: Load) -> Iterator[Line]:
    """The report: each scenario, below it its queries."""
    for scenario, target in targets.items():
        own = [sample for sample in samples if sample.scenario == scenario]
        yield _line(scenario, "", own, target["p95_ms"], None)
        for query in sorted({sample.query for sample in own} | set(target["queries"])):
            entry = load.stats.entries.get((query, scenario))
            cross_check = entry.get_response_time_percentile(0.95) if entry else None
            some = [sample for sample in own if sample.query == query]
            yield _line(scenario, query, some, target["queries"].get(query), cross_check)


def _line(scenario: str, query: str, some: Sequence[Sample], target: float | None, cross_check: float | None) -> Line:
    totals = [sample.total * 1000 for sample in some] or [float("nan")]
    waits = [sample.waited * 1000 for sample in some] or [float("nan")]
    return Line(
        scenario,
        query,
        len(some),
        percentile(totals, 0.5),
        percentile(totals, 0.95),
        percentile(totals, 0.99),
        max(totals),
        percentile(waits, 0.95),
        cross_check,
        target,
    )


def wrong_numbers(load: Load) -> list[str]:
    """What is wrong with the versions that the users made: a number twice, or one missing."""
    faults = []
    seeded = {workflow.id: workflow.versions for workflow in load.workflows}
    for workflow, numbers in load.created.items():
        expected = list(range(seeded[workflow] + 1, seeded[workflow] + len(numbers) + 1))
        if sorted(numbers) != expected:
            faults.append(f"workflow {workflow} got versions {sorted(numbers)}, not {expected}")
    return faults


def run(dsn: str, users: int, seconds: float, targets: Mapping[str, Any]) -> int:
    """Seed the database, let the users loose, report; the exit status."""
    settings = Settings.from_url(dsn, postgres_pool_min_size=POOL, postgres_pool_max_size=POOL)
    seed.refuse_used(dsn)
    seeded = seed.make()
    db = dal.connect(settings, migrate=True)
    load = Load(user_classes=list(SCENARIOS), stop_timeout=STOP_TIMEOUT)
    events: Any = load.events  # Any: its methods have no types
    events.quitting.add_listener(lambda **_: db.close())
    try:
        seed.write(dsn, seeded)
        recorder = Recorder(db, load)
        load.attach(db, recorder, {name: target["rate"] for name, target in targets.items()}, seeded)
        for caller in SCENARIOS:
            caller.fixed_count = max(1, round(users * targets[caller.scenario]["share"] / 100))
        runner = load.create_local_runner()
        runner.start(sum(caller.fixed_count for caller in SCENARIOS), spawn_rate=100)
        gevent.sleep(min(5.0, seconds / 4))  # statements are prepared, caches filled
        recorder.forget()
        load.stats.reset_all()
        gevent.sleep(seconds)
        samples = list(recorder.samples)
        load.ended = True
        with gevent.Timeout(STOP_TIMEOUT, False):
            while recorder.running:
                gevent.sleep(0.01)
        runner.quit()
        pool = db.health().pool
        faults = [f"{count} × {what}" for what, count in recorder.failures.items()] + wrong_numbers(load)
    finally:
        events.quitting.fire(environment=load, reverse=True)
    report = list(lines(samples, targets, load))
    print_report(report)
    print(f"{len(samples) / seconds:.0f} calls a second; {len(faults)} failures")
    print(f"{pool.get('requests_queued', 0):.0f} of {pool['requests_num']:.0f} requests for a connection had to wait")
    for fault in faults[:MOST_FAULTS]:
        print(fault)
    missed = [line for line in report if line.verdict not in ("", "met")]
    return 1 if missed or faults else 0


def print_report(report: Sequence[Line]) -> None:
    """The table."""
    print(
        f"{'scenario':10}{'query':24}{'calls':>7}{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}{'waiting':>9}{'locust':>8}"
        f"{'target':>8}  (ms; waiting: for a connection, p95; locust: its own p95)"
    )
    for line in report:
        cells = "".join(f"{value:8.2f}" for value in (line.p50, line.p95, line.p99, line.slowest))
        locust_p95 = "" if line.locust_p95 is None else f"{line.locust_p95:.0f}"
        target = "" if line.target is None else f"{line.target:g}"
        name = f"{line.scenario if not line.query else '':10}{line.query or 'all':24}"
        print(f"{name}{line.calls:7}{cells}{line.waited_p95:9.2f}{locust_p95:>8}{target:>8}  {line.verdict}")


def main(arguments: Sequence[str]) -> int:
    """Run as the command line asks; the exit status."""
    parser = argparse.ArgumentParser("python -m loadtest", description="Users against PostgreSQL; p95 targets.")
    parser.add_argument("--url", required=True, metavar="DSN", help="an empty PostgreSQL database on this machine")
    parser.add_argument("--users", type=int, default=100, metavar="N", help="how many, over all scenarios (100)")
    parser.add_argument("--seconds", type=float, default=45, metavar="S", help="how long is measured (45)")
    parser.add_argument("--targets", type=Path, default=TARGETS, metavar="FILE", help="the demands (targets.yaml)")
    options = parser.parse_args(arguments)
    refuse_elsewhere(options.url)
    return run(options.url, options.users, options.seconds, yaml.safe_load(options.targets.read_text())["scenarios"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

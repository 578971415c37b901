"""Whether the time tells an unknown service token from one whose secret is wrong.

    python -m bench.tokens                        checking a token, and the whole call on SQLite
    python -m bench.tokens --url postgresql://…   on PostgreSQL (an empty database), too

Both kinds take turns in an order drawn at random, as in dudect (https://eprint.iacr.org/2016/1123): Welch's t of their
times, as they are and without the slowest hundredth, stays below 4.5 where they cannot be told apart. That is asked of
checking alone, and the exit status is 1 if it is missed. Of the whole call, whose time is the database's for the most
part, the difference of the medians is printed: some row is read in both cases, so that it is small.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

import dal
from bench.measure import quiet
from dal import Settings, TokenRefused
from dal.stores.token_keys import Keyring, verify
from dal.stores.token_records import StoredToken
from dal.stores.token_texts import Presented, new_key_id, new_secret, token_text

LIMIT = 4.5
WARM = 500
_PEPPERS = "bench=" + "A" * 43 + "="

Call = Callable[[], object]


class Compared(NamedTuple):
    """Two kinds of calls. t, cropped: Welch's, of all times and without the slowest hundredth; medians in ns."""

    title: str
    kinds: tuple[str, str]
    t: float
    cropped: float
    medians: tuple[float, float]

    @property
    def is_alike(self) -> bool:
        """Whether they cannot be told apart."""
        return max(abs(self.t), abs(self.cropped)) < LIMIT


def welch(one: Sequence[int], other: Sequence[int]) -> float:
    """Welch's t of two samples; 0 where neither varies and both are the same."""
    difference = statistics.fmean(one) - statistics.fmean(other)
    error = (statistics.variance(one) / len(one) + statistics.variance(other) / len(other)) ** 0.5
    return difference / error if error else (0.0 if not difference else float("inf"))


def compare(title: str, kinds: tuple[str, str], draw: Callable[[int], Call], samples: int) -> Compared:
    """Take so many times of each kind. draw(kind): a call of it, made ready outside the time taken."""
    order = [kind for kind in (0, 1) for _ in range(samples)]
    random.shuffle(order)
    times: tuple[list[int], list[int]] = ([], [])
    clock = time.perf_counter_ns
    with quiet():
        for at in range(WARM):
            draw(at % 2)()
        for kind in order:
            call = draw(kind)
            begun = clock()
            call()
            times[kind].append(clock() - begun)
    slow = sorted([*times[0], *times[1]])[int(2 * samples * 0.99)]
    cropped = [[each for each in kind if each < slow] or [slow, slow] for kind in times]
    medians = statistics.median(times[0]), statistics.median(times[1])
    return Compared(title, kinds, welch(*times), welch(*cropped), medians)


def checking(samples: int) -> list[Compared]:
    """``verify`` given a row or none, and given a digest that differs in its first byte or in its last."""
    keys = Keyring({"bench": hashlib.sha256(b"bench").digest()})

    def stored(digest: bytes) -> StoredToken:
        return msgspec.structs.replace(keys.nobody, secret_hash=digest)

    def presented() -> Presented:
        return Presented("svc", new_key_id(), new_secret())

    def unknown_or_wrong(kind: int) -> Call:
        row = stored(random.randbytes(32))  # made either way, as if one had been read
        return partial(verify, presented(), row if kind else None, keys)

    def first_or_last(kind: int) -> Call:
        token = presented()
        digest = bytearray(keys.digest("bench", token.key_id, token.secret))
        digest[-kind] ^= 1
        return partial(verify, token, stored(bytes(digest)), keys)

    return [
        compare("verify", ("unknown", "wrong secret"), unknown_or_wrong, samples),
        compare("verify", ("first byte wrong", "last byte wrong"), first_or_last, samples),
    ]


def calling(title: str, settings: Settings, samples: int) -> Compared:
    """``authenticate`` on a database of a hundred tokens."""
    with dal.connect(settings, migrate=True) as db:
        key_ids = [db.tokens.mint(f"token {at}", actor="bench").record.key_id for at in range(100)]

        def refused(text: str) -> None:
            with suppress(TokenRefused):
                db.tokens.authenticate(text)

        def unknown_or_wrong(kind: int) -> Call:
            key_id, other = random.choice(key_ids), new_key_id()
            return partial(refused, token_text("svc", key_id if kind else other, new_secret()))

        return compare(title, ("unknown", "wrong secret"), unknown_or_wrong, samples)


def line(found: Compared, asked: bool) -> str:
    """One line of the table."""
    before, after = found.medians
    verdict = ("alike" if found.is_alike else "TOLD APART") if asked else ""
    cells = [
        found.title, f"{found.kinds[0]} · {found.kinds[1]}", f"{found.t:.2f}", f"{found.cropped:.2f}", verdict,
        f"{before / 1000:.2f}", f"{after / 1000:.2f}", f"{(after - before) / before:+.1%}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main(arguments: Sequence[str]) -> int:
    """Run as the command line asks; the exit status."""
    parser = argparse.ArgumentParser("python -m bench.tokens", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", metavar="DSN", help="an empty PostgreSQL database; without it SQLite alone")
    parser.add_argument("--samples", type=int, default=20_000, metavar="N", help="times of each kind (20000)")
    options = parser.parse_args(arguments)
    print("| what | kinds | t | t, cropped | | µs | µs | medians |\n|---|---|---|---|---|---|---|---|", flush=True)
    checked = checking(options.samples)
    for found in checked:
        print(line(found, asked=True), flush=True)
    with tempfile.TemporaryDirectory(prefix="dal-bench-") as folder:
        given: dict[str, Any] = {"token_peppers": _PEPPERS}
        targets = {"SQLite": Settings.from_url(f"sqlite:///{Path(folder) / 'dal.db'}", **given)}
        if options.url:
            targets["PostgreSQL"] = Settings.from_url(options.url, **given)
        for name, settings in targets.items():
            print(line(calling(f"authenticate, {name}", settings, options.samples), asked=False), flush=True)
    print(f"\n{options.samples:,} of each kind, in an order drawn at random; |t| < {LIMIT} cannot be told apart.")
    return 0 if all(found.is_alike for found in checked) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

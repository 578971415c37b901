"""Content hashes and identifiers: the same everywhere, and never twice."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import RFC_4122, UUID, SafeUUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dal.core.rows import canonical_json, encode_json
from dal.digests import Uuid7, canonical, content_hash, jsonb_text, uuid7, uuid_from_hex
from dal.stores.versions import graph_hash

MILLISECOND = 1_000_000


class Clock:
    """Unix nanoseconds, as a test sets them."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def milliseconds(value: UUID) -> int:
    return value.int >> 80


# --- identifiers ------------------------------------------------------------------------------------------------------


def test_an_id_has_the_bits_of_version_7_and_the_time_it_was_made() -> None:
    before = time.time_ns() // MILLISECOND
    made = [uuid7() for _ in range(1000)]
    after = time.time_ns() // MILLISECOND
    assert {(value.version, value.variant) for value in made} == {(7, RFC_4122)}
    assert all(before <= milliseconds(value) <= after + 1 for value in made), "RFC 9562: 48 bits of Unix milliseconds"


def test_an_id_is_a_uuid_like_any_other() -> None:
    made = uuid7()
    same = UUID(str(made))
    assert (made, hash(made), repr(made), made.is_safe) == (same, hash(same), repr(same), SafeUUID.unknown)
    assert type(made) is UUID


@given(st.uuids(), st.booleans(), st.booleans())
def test_a_uuid_is_read_from_its_text(value: UUID, dashes: bool, upper: bool) -> None:
    text = str(value) if dashes else value.hex
    found = uuid_from_hex(text.upper() if upper else text)
    assert (found, type(found), found.is_safe) == (value, UUID, SafeUUID.unknown)


def test_ids_grow_within_a_millisecond() -> None:
    make = Uuid7(Clock(5 * MILLISECOND))
    made = [make() for _ in range(10_000)]
    assert made == sorted(set(made)), "RFC 9562, 6.2: a counter keeps the order"
    assert {milliseconds(value) for value in made} == {5}


def test_ids_grow_when_the_clock_goes_back() -> None:
    clock = Clock(10**9 * MILLISECOND)
    make = Uuid7(clock)
    made = []
    for hours in (0, -1, 1, -3, 0, 0, -1000, 2):
        clock.now += hours * 3_600_000 * MILLISECOND
        made += [make() for _ in range(100)]
    assert made == sorted(set(made))
    assert all(value.version == 7 and value.variant == RFC_4122 for value in made)
    latest = clock.now // MILLISECOND + 1001 * 3_600_000
    assert max(map(milliseconds, made)) <= latest, "the time in an id never runs ahead of the latest clock"


def test_ids_grow_with_the_clock() -> None:
    clock = Clock(0)
    make = Uuid7(clock)
    made = []
    for clock.now in range(0, 1000 * MILLISECOND, MILLISECOND):
        made.append(make())
    assert [milliseconds(value) for value in made] == list(range(1000))


def test_the_last_instant_of_year_9999_has_an_id() -> None:
    last = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    value = Uuid7(Clock(last // timedelta(microseconds=1) * 1000))()
    assert milliseconds(value) == last // timedelta(milliseconds=1)
    assert (value.version, value.variant) == (7, RFC_4122)


def test_each_thread_sees_its_ids_grow_and_none_is_made_twice() -> None:
    threads, each = 8, 4000
    start = threading.Barrier(threads)

    def work(_: int) -> list[UUID]:
        start.wait()
        return [uuid7() for _ in range(each)]

    with ThreadPoolExecutor(threads) as pool:
        made = list(pool.map(work, range(threads)))
    for own in made:
        assert own == sorted(own), "an id made later is larger"
    distinct = len(set().union(*made))
    assert distinct == threads * each, f"{threads * each - distinct} ids were made twice"


FORK = """
import os
from dal.digests import Uuid7

# A clock that went back: were the state alone to decide, parent and child would count on from the same number.
times = iter([9_000_000])
make = Uuid7(lambda: next(times, 7_000_000))
make()
child = os.fork()
made = [str(make()) for _ in range(500)]
assert child == 0 or os.waitpid(child, 0)[1] == 0  # one speaks after the other
print(*made, sep="\\n", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_makes_other_ids() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True)
    made = [UUID(line) for line in done.stdout.split()]
    assert len(made) == 1000
    # The counter itself starts anew: else only the 32 random bits at the end would keep the two apart.
    counters = {value.int >> 32 for value in made}
    assert len(counters) == 1000, f"parent and child share {1000 - len(counters)} of 500 numbers"


# --- content hashes ---------------------------------------------------------------------------------------------------

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner),
    max_leaves=12,
)


def independent(value: Any) -> str:
    """The hash by its definition, with the standard library: compact JSON, keys sorted by their UTF-8, UTF-8."""

    def ordered(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: ordered(part[key]) for key in sorted(part, key=str.encode)}
        return [ordered(inner) for inner in part] if isinstance(part, list) else part

    text = json.dumps(ordered(value), ensure_ascii=False, separators=(",", ":"))
    return "v1:" + hashlib.sha256(text.encode()).hexdigest()


@given(documents)
def test_a_content_hash_is_what_its_definition_says(document: Any) -> None:
    assert graph_hash(document) == independent(document)


@given(st.dictionaries(text, st.integers(-5, 5)), st.randoms())
def test_the_order_of_keys_does_not_change_a_hash(document: dict[str, int], random: Any) -> None:
    shuffled = list(document.items())
    random.shuffle(shuffled)
    assert graph_hash(dict(shuffled)) == graph_hash(document)


def test_hashes_stay_what_they_were() -> None:
    # Stored hashes are compared with new ones for years: these may never change.
    assert content_hash(b"{}") == "v1:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    graph = {"nodes": [{"id": "b", "x": 1.5}, {"id": "a", "x": -0.0, "y": 1e16}], "ü": None, "a\n": [True, 2**63 - 1]}
    encoded = (
        '{"a\\n":[true,9223372036854775807],'
        '"nodes":[{"id":"b","x":1.5},{"id":"a","x":0.0,"y":10000000000000000.0}],"ü":null}'
    )
    assert canonical_json(graph, "graph") == encoded.encode()
    assert graph_hash(graph) == "v1:" + hashlib.sha256(encoded.encode()).hexdigest()


@pytest.mark.parametrize(
    ("one", "other"), [(1, 1.0), (True, 1), (None, "null"), ("", None), ([], {}), ("1", 1), (0, False)]
)
def test_values_of_another_type_have_another_hash(one: Any, other: Any) -> None:
    assert graph_hash(one) != graph_hash(other)


def test_equal_values_have_one_hash() -> None:
    assert graph_hash(-0.0) == graph_hash(0.0)
    assert graph_hash(1e16) == graph_hash(float(10**16))


# --- canonical encoding -----------------------------------------------------------------------------------------------

INSTANT = datetime(2026, 3, 1, 12, 0, 0, 1, UTC)


def test_a_row_is_a_netstring_for_each_column() -> None:
    values = ("é", 7, True, False, b"\0\xff", UUID(int=1), INSTANT, -0.5, {"bb": 1, "a": [None, "x"]}, None, None)
    kinds = ("text", "int", "bool", "bool", "bytes", "uuid", "timestamptz", "float", "json", "json", "text")
    assert canonical(kinds, values) == (
        b"2:\xc3\xa91:71:t1:f4:00ff32:00000000000000000000000000000001"
        b'16:1772366400000001' b'16:bfe0000000000000' b'27:{"a": [null, "x"], "bb": 1}' b"4:null~"
    )  # fmt: skip


@given(st.lists(st.text(), min_size=1), st.lists(st.text(), min_size=1))
def test_different_rows_have_different_encodings(one: list[str], other: list[str]) -> None:
    encoded = [canonical(["text"] * len(row), row) for row in (one, other)]
    assert (encoded[0] == encoded[1]) == (one == other)


def test_an_instant_is_the_same_in_every_zone() -> None:
    elsewhere = INSTANT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert canonical(["timestamptz"], [INSTANT]) == canonical(["timestamptz"], [elsewhere])
    for year in (1, 1969, 9999):
        instant = INSTANT.replace(year=year)
        microseconds = int(canonical(["timestamptz"], [instant]).partition(b":")[2])
        assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds) == instant


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), inner, max_size=4),
)  # fmt: skip
EDGES: list[Any] = [
    1e16, 1e15, 123456789012345680.0, 5e-324, 1.7976931348623157e308, -0.0, 1.0, 1e-7, 2**63 - 1, -(2**63), "\x7f",
    "\u2028", "\b\f\n\r\t\"\\/\x01\x1f", {"": 1, "é": 2, "zz": 3, "a": 4, "日": 5}, [], {}, [[]], "\U0010ffff",
]  # fmt: skip


def test_json_is_printed_as_postgres_prints_jsonb(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:

        def printed(value: Any) -> str:
            [text] = connection.execute("select (%s::jsonb)::text", [encode_json(value, "value")]).fetchone() or ()
            return str(text)

        for value in EDGES:
            assert jsonb_text(value) == printed(value)

        @given(JSON)
        def check(value: Any) -> None:
            assert jsonb_text(value) == printed(value)

        check()

"""When the usage of service tokens is flushed: after a while, at close, and never in anybody's way; on every face."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import dal
from dal import Dal, DalError, InvalidState, Settings, Sync, TokenRefused, flusher
from dal import usage as usage_module
from dal.stores.token_texts import new_key_id, new_secret, token_text
from dal.usage import Batch, Renewal, Usage
from tests.cells import PATIENCE, PEPPERS, Cell, MakeDb
from tests.parity.make import a_token

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
Raw = Callable[[str], list[Any]]


def until(found: Callable[[], object]) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def uses(raw: Raw) -> int:
    return sum(row[0] for row in raw("select use_count from service_token_usage"))


def flushers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "dal-token-usage"]


# --- by itself --------------------------------------------------------------------------------------------------------


def test_what_is_counted_is_flushed_without_being_asked(
    make_db: MakeDb, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flusher, "INTERVAL", 0.05)
    db = make_db()
    token = a_token(db)
    for expected in (1, 2):
        db.tokens.authenticate(token.secret)
        until(lambda: uses(raw) == expected)  # noqa: B023 - it is called before the next turn
    with suppress(TokenRefused):
        db.tokens.authenticate("nonsense")
    until(lambda: raw("select reason from service_token_refusals") == [("malformed",)])


def test_it_is_not_flushed_before_its_time_and_then_once(make_db: MakeDb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flusher, "INTERVAL", 0.3)
    db = make_db()
    token = a_token(db)
    for _ in range(50):
        db.tokens.authenticate(token.secret)
    until(lambda: db.calls.get("record_token_uses"))
    for _ in range(50):
        db.tokens.authenticate(token.secret)
    db.close()
    assert db.calls["record_token_uses"] <= 3, "one when its time had come, one at close, one if it came again between"


def test_what_could_not_be_flushed_is_flushed_later(
    make_db: MakeDb, raw: Raw, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(flusher, "INTERVAL", 0.05)
    db = make_db()
    token = a_token(db)
    raw("alter table service_token_usage rename to elsewhere")
    db.tokens.authenticate(token.secret)
    until(lambda: "could not be stored" in caplog.text)
    raw("alter table elsewhere rename to service_token_usage")
    until(lambda: uses(raw) == 1)


# --- at close ---------------------------------------------------------------------------------------------------------


def test_close_flushes_and_nothing_does_afterwards(make_db: MakeDb, raw: Raw) -> None:
    db = make_db()
    token = a_token(db)
    db.tokens.authenticate(token.secret)
    assert uses(raw) == 0
    db.close()
    assert uses(raw) == 1
    db.close()
    with pytest.raises(DalError):
        db.tokens.authenticate(token.secret)
    assert uses(raw) == 1
    until(lambda: not flushers())


def test_close_flushes_while_others_are_at_it(make_db: MakeDb, raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flusher, "INTERVAL", 0.001)
    db = make_db()
    tokens = [a_token(db) for _ in range(4)]
    counts = [0] * 4

    def work(at: int) -> None:
        with suppress(DalError):
            while True:
                db.tokens.authenticate(tokens[at].secret)
                counts[at] += 1

    threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: min(counts) > 20)
    db.close()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert sum(counts) - 4 <= uses(raw) <= sum(counts) + 4, "four were in the middle of a call when it was closed"


def test_close_does_not_wait_for_a_database_that_does_not_answer(
    make_db: MakeDb, cell: Cell, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flusher, "LAST", 0.2)
    db = make_db(sqlite_busy_timeout=1)
    db.tokens.authenticate(a_token(db).secret)
    raw("begin immediate" if cell.dialect == "sqlite" else "begin")
    if cell.dialect == "postgres":
        raw("lock table service_token_usage in access exclusive mode")
    closing = threading.Thread(target=db.close)
    closing.start()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    raw("rollback")


def test_a_transaction_that_is_open_at_close_loses_uses_and_no_more(make_db: MakeDb, raw: Raw) -> None:
    db = make_db(face="sync")
    token = a_token(db)
    with suppress(DalError), db.transaction() as tx:
        tx.tokens.authenticate(token.secret)
        db.close()
    assert uses(raw) == 0
    db.close()


# --- nobody is kept ---------------------------------------------------------------------------------------------------

FORGETFUL = """
import asyncio, sys
import dal
settings = dal.Settings.from_url(sys.argv[1], token_peppers=sys.argv[2])
async def go():
    db = await dal.aconnect(settings)
    token = await db.tokens.mint("async", actor="ann")
    await db.tokens.authenticate(token.secret)
    await db.close() if sys.argv[3] == "closed" else None
asyncio.run(go())
db = dal.connect(settings)
db.tokens.authenticate(db.tokens.mint("sync", actor="ann").secret)
db.close() if sys.argv[3] == "closed" else None
print("done")
"""


@pytest.mark.parametrize("how", ["closed", "forgotten"])
def test_a_process_ends_though_there_is_something_to_flush(sqlite_url: str, how: str) -> None:
    command = [sys.executable, "-W", "ignore::ResourceWarning", "-c", FORGETFUL, sqlite_url, PEPPERS, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=flusher.INTERVAL - 10)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert (done.stderr == "") or how == "forgotten", done.stderr


def test_a_dal_that_is_forgotten_is_not_kept_by_its_timer(sqlite_url: str) -> None:
    db: Dal[Sync] | None = dal.connect(Settings.from_url(sqlite_url, token_peppers=PEPPERS))
    assert db is not None
    db.tokens.authenticate(a_token(db).secret)
    gone = weakref.ref(db)
    [thread] = flushers()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from Python 3.13 on, of connections that nobody closed
        db = None
        gc.collect()
    assert gone() is None
    thread.cancel()  # type: ignore[attr-defined]  # a Timer
    thread.join()


def test_a_forked_process_counts_nothing_and_flushes_nothing(sqlite_url: str) -> None:
    db = dal.connect(Settings.from_url(sqlite_url, token_peppers=PEPPERS))
    token = a_token(db)
    db.tokens.authenticate(token.secret)
    usage = db.tokens._desk.usage
    usage._lock.acquire()  # as another thread may have it at the moment of the fork

    def child(answers: Any) -> None:
        logging.disable()
        found: list[str] = []
        for call in (lambda: db.tokens.authenticate(token.secret), db.tokens.flush_usage):
            try:
                call()
            except InvalidState:
                found.append("refused")
        db.close()
        answers.send((found, bool(usage), [thread.name for thread in threading.enumerate()][1:]))

    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=child, args=(theirs,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from Python 3.12 on, of forks beside threads
        process.start()
    usage._lock.release()
    assert ours.poll(PATIENCE)
    assert ours.recv() == (["refused", "refused"], False, [])
    process.join(PATIENCE)
    assert process.exitcode == 0
    db.close()
    with dal.connect(sqlite_url) as again:
        assert [use.use_count for use in again.tokens.usage([token.record.key_id])] == [1]
    assert os.path.exists(sqlite_url.removeprefix("sqlite:///"))


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_memory_is_bounded_whatever_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_module, "MAX_REFUSALS", 100)
    monkeypatch.setattr(usage_module, "MAX_TOKENS", 50)
    monkeypatch.setattr(usage_module, "MAX_RENEWED", 10)
    usage = Usage()
    for at in range(1000):
        usage.refused(f"key {at}", "secret", NOW + timedelta(minutes=at % 3), None, None)
        usage.refused("", "unknown", NOW, None, None)
        usage.used(f"key {at}", NOW, None, None)
        usage.renew(f"key {at}", Renewal(b"", b"", "", ""))
    batch = usage.take()
    assert (len(batch.refusals), len(batch.uses), len(batch.renewals)) == (100 + 3, 50, 10)
    assert sum(seen.count for seen in batch.refusals.values()) == 2000
    assert sum(seen.count for key, seen in batch.refusals.items() if key[0] == "") == 2000 - 99
    usage.used("other", NOW, None, None)
    usage.give_back(batch)
    usage.give_back(batch)
    kept = usage.take()
    assert (len(kept.refusals), len(kept.uses)) == (100 + 3, 50)


def test_what_is_given_back_is_added_to_what_came_meanwhile() -> None:
    usage = Usage()
    told: list[int] = []
    usage.on_first = lambda: told.append(1)
    usage.used("key", NOW, "10.0.0.1", "curl")
    usage.used("key", NOW + timedelta(seconds=1), "10.0.0.2", None)
    batch = usage.take()
    usage.used("key", NOW - timedelta(seconds=1), "10.0.0.3", None)
    usage.give_back(batch)
    [seen] = usage.take().uses.values()
    assert (seen.count, seen.first_at, seen.last_at, seen.ip) == (
        3, NOW - timedelta(seconds=1), NOW + timedelta(seconds=1), "10.0.0.2")  # fmt: skip
    assert (len(told), bool(usage)) == (3, False)


@pytest.mark.parametrize("most", [1, 2, 100])
def test_a_batch_is_stored_in_portions_of_one_kind(most: int) -> None:
    usage = Usage()
    for at in range(3):
        usage.used(f"key {at}", NOW, None, None)
        usage.refused(f"key {at}", "scope", NOW, None, None)
        usage.renew(f"key {at}", Renewal(b"", b"", "", ""))
    rest, portions = usage.take(), []
    while rest:
        some, rest = rest.split(most)
        portions.append((len(some.uses), len(some.refusals), len(some.renewals)))
        assert sum(map(bool, portions[-1])) == 1
    assert [sum(column) for column in zip(*portions, strict=True)] == [3, 3, 3]
    assert (Batch().split(5)[0], bool(Batch())) == (Batch(), False)


def test_a_million_refusals_of_unknown_tokens_are_one_line() -> None:
    usage = Usage()
    for _ in range(100_000):
        usage.refused("", "unknown", NOW, "10.0.0.1", "curl")
    [seen] = usage.take().refusals.values()
    assert seen.count == 100_000


def test_random_key_ids_fill_neither_memory_nor_table(sqlite_db: Dal[Sync]) -> None:
    for _ in range(300):
        with suppress(TokenRefused):
            sqlite_db.tokens.authenticate(token_text("svc", new_key_id(), new_secret()))
    assert len(sqlite_db.tokens._desk.usage._batch.refusals) <= 2, "a line a minute"

"""Service tokens: minting, checking, rotating, revoking, and what is counted meanwhile; in every cell."""

from __future__ import annotations

import hashlib
import logging
import secrets
import sqlite3
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dal import (
    AlreadyExists,
    Dal,
    DalError,
    Invalid,
    InvalidState,
    Minted,
    NameTaken,
    PepperCount,
    PepperMissing,
    Secret,
    Sync,
    TokenNotFound,
    TokenRecord,
    TokenRefused,
)
from dal.peppers import new_pepper
from dal.stores.token_texts import new_key_id, new_secret, token_text
from tests.cells import PATIENCE, PEPPERS, Cell, Clock, MakeDb, stored, together
from tests.parity.make import NOON, a_token, all_pages
from tests.parity.processes import in_processes, rotate

NOBODY = "nobodynobody"


def refusal(db: Dal[Sync], token: str | Secret, **given: Any) -> str | None:
    """What is said of a token that is refused."""
    with pytest.raises(TokenRefused) as caught:
        db.tokens.authenticate(token, **given)
    return caught.value.found


def accepted(db: Dal[Sync], token: str | Secret, **given: Any) -> bool:
    try:
        db.tokens.authenticate(token, **given)
    except TokenRefused:
        return False
    return True


def another_secret(minted: Minted) -> str:
    """A token that only its secret is wrong with."""
    return token_text(minted.record.kind, minted.record.key_id, new_secret())


def kinds(answers: list[Any]) -> Counter[str]:
    return Counter(type(answer).__name__ for answer in answers)


def reasons(db: Dal[Sync], key_id: str | None = None) -> dict[tuple[str, str], int]:
    """Refusals by key id and reason, of all minutes, once they are flushed."""
    db.tokens.flush_usage()
    counts: Counter[tuple[str, str]] = Counter()
    for row in db.tokens.refusals(key_id, limit=500).items:
        counts[row.key_id, row.reason] += row.refusals
    return dict(counts)


# --- minting ----------------------------------------------------------------------------------------------------------


def test_a_token_is_what_was_asked_for(db: Dal[Sync], clock: Clock) -> None:
    now = clock.set(NOON)
    minted = db.tokens.mint(
        "  Nightly  build ",
        actor="ann",
        kind="usr",
        scopes=["runs:read", "runs:write", "runs:read"],
        workspace_ids=("w1",),
        allowed_cidrs=["10.0.0.0/8", "::ffff:192.168.1.0/120", "2001:db8::/32", "10.0.0.0/8", "127.0.0.1"],
        rate_limit=60,
        not_before=now,
        expires_at=now + timedelta(days=90),
    )
    record = minted.record
    assert record == db.tokens.get(record.key_id) == db.tokens.authenticate(minted.secret, ip="10.0.0.1")
    assert record == TokenRecord(
        key_id=record.key_id, name="Nightly  build", kind="usr", scopes=("runs:read", "runs:write"),
        workspace_ids=("w1",), allowed_cidrs=("10.0.0.0/8", "192.168.1.0/24", "2001:db8::/32", "127.0.0.1/32"),
        rate_limit=60, created_at=NOON, created_by="ann", not_before=NOON, expires_at=NOON + timedelta(days=90),
        rotated_from=None, rotated_to=None, overlap_until=None, revoked_at=None, revoked_by=None,
        revocation_reason=None, hash_alg="hmac-sha256", pepper_id="test",
    )  # fmt: skip
    assert minted.secret.reveal().startswith(f"dal_usr_{record.key_id}_")


def test_what_is_not_given_grants_nothing(db: Dal[Sync]) -> None:
    minted = db.tokens.mint("ci", actor="ann")
    record = minted.record
    assert (record.kind, record.scopes, record.workspace_ids, record.allowed_cidrs) == ("svc", (), (), None)
    assert (record.rate_limit, record.not_before, record.expires_at) == (None, None, None)
    assert accepted(db, minted.secret)
    assert refusal(db, minted.secret, scopes=["runs:read"]) == "scope"
    assert refusal(db, minted.secret, workspace="w1") == "workspace"


SAME_NAMES = [("CI", "ci"), ("Straße", "STRASSE"), ("é", "e\u0301"), ("ｃｉ", "CI"), ("ſ", "S"), ("ΑΣ", "ας")]


@pytest.mark.parametrize(("one", "other"), SAME_NAMES, ids=ascii)
def test_a_name_is_had_by_one_whatever_its_case(db: Dal[Sync], one: str, other: str) -> None:
    first = db.tokens.mint(one, actor="ann").record
    for again in (one, other, f" {other}\t"):
        with pytest.raises(NameTaken) as refused:
            db.tokens.mint(again, actor="ann")
        assert refused.value.constraint == "service_tokens_name_key"
        with pytest.raises(NameTaken):
            db.tokens.import_legacy(again, secrets.token_bytes(32), actor="ann")
    db.tokens.revoke(first.key_id, "lost", actor="ann")
    assert db.tokens.mint(other, actor="ann").record.name == other


def test_names_that_differ_in_more_are_different_names(db: Dal[Sync]) -> None:
    names = ["i", "ı", "İ", "I2", "a b", "a  b", "%", "_", "' or 1=1 --", "日本", "\U0001f600"]
    for name in names:
        a_token(db, name)
    assert sorted(record.name for record in db.tokens.list().items) == sorted(names)


@pytest.mark.parametrize("names", [["wanted", "WANTED"], ["Straße", "STRASSE"]], ids=ascii)
def test_of_64_that_mint_one_name_one_does(db: Dal[Sync], names: list[str]) -> None:
    jobs = [partial(db.tokens.mint, names[at % 2], actor="ann") for at in range(64)]
    assert kinds(together(jobs)) == {"Minted": 1, "NameTaken": 63}
    assert (len(db.tokens.list().items), db.tokens.verify_audit().rows) == (1, 1)
    assert db.tokens.verify_audit().fault is None


def test_many_mint_at_once_and_the_chain_is_whole(db: Dal[Sync], make_db: MakeDb) -> None:
    others = [db, make_db(face="sync"), make_db(face="async")]
    jobs = [partial(others[at % 3].tokens.mint, f"token {at}", actor="ann") for at in range(48)]
    assert kinds(together(jobs)) == {"Minted": 48}
    report = db.tokens.verify_audit()
    assert (report.rows, report.head.number, report.fault) == (48, 48, None)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"name": "  "}, "name"),
    "long name": ({"name": "x" * 129}, "name"),
    "long key": ({"name": "\ufdfa" * 60}, "name"),
    "nul": ({"name": "a\0b"}, "name"),
    "surrogate": ({"name": "\ud800"}, "name"),
    "name of another type": ({"name": b"ci"}, "name"),
    "no actor": ({"actor": ""}, "actor"),
    "kind": ({"kind": "SVC"}, "kind"),
    "scope with a blank": ({"scopes": ["a b"]}, "scopes[0]"),
    "empty scope": ({"scopes": ["a", ""]}, "scopes[1]"),
    "scopes as text": ({"scopes": "admin"}, "scopes"),
    "many scopes": ({"scopes": [str(at) for at in range(101)]}, "scopes"),
    "scope of another type": ({"scopes": [1]}, "scopes[0]"),
    "workspace": ({"workspace_ids": ["w\n"]}, "workspace_ids[0]"),
    "no address": ({"allowed_cidrs": []}, "allowed_cidrs"),
    "host bits": ({"allowed_cidrs": ["10.0.0.1/8"]}, "allowed_cidrs[0]"),
    "no range": ({"allowed_cidrs": ["10.0.0.0/8", "everywhere"]}, "allowed_cidrs[1]"),
    "range as a number": ({"allowed_cidrs": [167772160]}, "allowed_cidrs[0]"),
    "many ranges": ({"allowed_cidrs": [f"10.0.0.{at}" for at in range(101)]}, "allowed_cidrs"),
    "no rate": ({"rate_limit": 0}, "rate_limit"),
    "bool for a rate": ({"rate_limit": True}, "rate_limit"),
    "rate beyond 64 bits": ({"rate_limit": 2**63}, "rate_limit"),
    "naive": ({"expires_at": datetime(2030, 1, 1)}, "expires_at"),
    "over before it began": ({"not_before": datetime(2031, 1, 1, tzinfo=UTC),
                              "expires_at": datetime(2030, 1, 1, tzinfo=UTC)}, "expires_at"),
    "over already": ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "expires_at"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_minted_is_refused_before_anything_is_sent(db: Dal[Sync], wrong: str) -> None:
    given, path = WRONG[wrong]
    before = db.calls
    with pytest.raises(Invalid) as refused:
        db.tokens.mint(**{"name": "ci", "actor": "ann", **given})
    assert (refused.value.path, db.calls) == (path, before)


# --- what is no token -------------------------------------------------------------------------------------------------


def test_what_is_no_token_is_refused_without_asking(db: Dal[Sync]) -> None:
    text = a_token(db).secret.reveal()
    before = db.calls
    for wrong in (
        "", "x", text[:-1], text + "0", text[1:], f" {text}", f"{text}\n", f"Bearer {text}", text.upper(),
        text.swapcase(), text.replace("dal_svc", "dal_usr"), text.replace("_", "-"), text[:30] + "é" + text[31:],
        text[:30] + "\0" + text[31:], text[:30] + "\ud800" + text[31:], "x" * 2**20, "é" * 70, "٣" * 70, "dal_svc_",
        text[:8] + text[9:] + text[8], text[:21] + text[22] + text[21] + text[23:],
    ):  # fmt: skip
        if wrong != text:  # two equal characters change places
            assert refusal(db, wrong) is None, ascii(wrong)[:100]
    other: Any
    for other in (None, 7, text.encode(), [text]):
        with pytest.raises(Invalid) as refused:
            db.tokens.authenticate(other)
        assert refused.value.path == "token"
    assert db.calls == before
    assert reasons(db).keys() == {("", "malformed")}


def test_an_unknown_token_and_a_wrong_secret_are_told_the_same(db: Dal[Sync]) -> None:
    minted = a_token(db)
    unknown = token_text("svc", new_key_id(), new_secret())
    other_kind = token_text("usr", minted.record.key_id, minted.secret.reveal()[21:64].encode())
    errors = []
    for token in (unknown, another_secret(minted), other_kind, unknown[:-1] + "!"):
        with pytest.raises(TokenRefused) as caught:
            db.tokens.authenticate(token)
        error = caught.value
        errors.append((type(error), str(error), error.args, error.found, error.query, error.code, error.__cause__,
                       error.__context__, error.retryable, repr(error)))  # fmt: skip
    assert len(set(errors)) == 1, errors
    assert reasons(db) == {
        ("", "unknown"): 1,
        ("", "malformed"): 1,
        (minted.record.key_id, "secret"): 2,
    }


def test_an_unknown_token_is_no_other_whatever_row_is_read_in_its_place(make_db: MakeDb) -> None:
    db = make_db()
    unknown = [token_text("svc", key_id, new_secret()) for key_id in ("0" * 12, "z" * 12, "Z" * 12, new_key_id())]
    for tokens in (0, 1, 2, 5):
        while len(db.tokens.list().items) < tokens:
            a_token(db)
        for token in unknown:
            assert refusal(db, token) is None
    assert reasons(db) == {("", "unknown"): 16}
    other = make_db(token_peppers=new_pepper())
    for token in unknown:
        assert refusal(other, token) is None, "though the pepper of every row is missing"


def test_authenticating_is_one_query(db: Dal[Sync]) -> None:
    minted = a_token(db)
    asked = {
        "right": minted.secret.reveal(),
        "wrong": another_secret(minted),
        "unknown": token_text("svc", NOBODY, new_secret()),
    }
    for token in asked.values():
        before = Counter(db.calls)
        accepted(db, token, ip="10.0.0.1", user_agent="curl", scopes=["a"], workspace="b")
        assert Counter(db.calls) - before == {"get_stored_token": 1}
    before = Counter(db.calls)
    accepted(db, secrets.token_urlsafe(48), legacy=True)
    assert Counter(db.calls) - before == {"get_legacy_token": 1}


# --- what a token grants ----------------------------------------------------------------------------------------------


def test_scopes_and_workspaces_are_granted_in_whole_or_not(db: Dal[Sync]) -> None:
    token = a_token(db, scopes=["runs:read", "runs:write"], workspace_ids=["w1", "w2"]).secret
    for scopes in ([], ["runs:read"], ["runs:write", "runs:read"], ("runs:read", "runs:read")):
        assert accepted(db, token, scopes=scopes, workspace="w2")
    for scopes in (["runs"], ["RUNS:READ"], ["runs:read", "admin"], ["runs:*"]):
        assert refusal(db, token, scopes=scopes) == "scope"
    for workspace in ("w", "W1", "w3"):
        assert refusal(db, token, workspace=workspace) == "workspace"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"scopes": "runs:read"}, "scopes"), ({"workspace": ""}, "workspace"), ({"workspace": 7}, "workspace"),
        ({"user_agent": b"x"}, "user_agent"), ({"ip": 7}, "ip"), ({"ip": "localhost"}, "ip"), ({"ip": ""}, "ip"),
        ({"ip": "10.0.0.0/8"}, "ip"),
    ]  # fmt: skip
    for given, path in wrong:
        with pytest.raises(Invalid) as refused:
            db.tokens.authenticate(token, **given)
        assert refused.value.path == path


WITHIN = ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3", "::ffff:a01:203", "2001:db8:ffff::1", "192.168.1.255",
          "fe80::1%eth0", "203.0.113.7"]  # fmt: skip
WITHOUT = ["9.255.255.255", "11.0.0.0", "::ffff:11.0.0.1", "2001:db9::", "::10.0.0.1", "192.168.2.0", "fe81::1",
           "203.0.113.6", "::1", "127.0.0.1"]  # fmt: skip
RANGES = ["10.0.0.0/8", "2001:db8::/32", "::ffff:192.168.1.0/120", "fe80::/16", "203.0.113.7"]


def test_a_token_may_be_tied_to_addresses(db: Dal[Sync]) -> None:
    minted = a_token(db, allowed_cidrs=RANGES)
    for ip in WITHIN:
        assert accepted(db, minted.secret, ip=ip), ip
    for other in (*WITHOUT, None):
        assert refusal(db, minted.secret, ip=other) is None, other
    assert reasons(db) == {(minted.record.key_id, "address"): len(WITHOUT) + 1}
    everywhere = a_token(db, allowed_cidrs=["0.0.0.0/0"]).secret
    assert accepted(db, everywhere, ip="203.0.113.1")
    assert accepted(db, everywhere, ip="::ffff:203.0.113.1")
    assert not accepted(db, everywhere, ip="2001:db8::1")


def test_who_asks_from_elsewhere_learns_nothing_of_the_token(db: Dal[Sync]) -> None:
    minted = a_token(db, allowed_cidrs=["10.0.0.0/8"])
    db.tokens.revoke(minted.record.key_id, "lost", actor="ann")
    assert refusal(db, minted.secret, ip="11.0.0.1") is None
    assert refusal(db, minted.secret, ip="10.0.0.1") == "revoked"
    assert refusal(db, another_secret(minted), ip="10.0.0.1") is None


def test_a_token_is_accepted_from_its_beginning_until_before_its_end(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    tick = timedelta(microseconds=1)
    begin, end = NOON + timedelta(hours=1), (NOON + timedelta(hours=2)).astimezone(timezone(timedelta(hours=5.5)))
    token = a_token(db, not_before=begin, expires_at=end).secret
    for now in (begin, end - tick):
        clock.set(now)
        assert accepted(db, token), now
    for now, says in ((NOON, "early"), (begin - tick, "early"), (end, "expired"), (end + tick, "expired")):
        clock.set(now)
        assert refusal(db, token) == says, now


def test_the_clock_that_goes_back_revives_nothing_but_what_it_says(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    lasting = a_token(db, expires_at=NOON + timedelta(minutes=5))
    revoked = a_token(db)
    clock.advance(minutes=5)
    assert refusal(db, lasting.secret) == "expired"
    db.tokens.revoke(revoked.record.key_id, "lost", actor="ann")
    clock.advance(minutes=-10)
    assert accepted(db, lasting.secret)
    assert refusal(db, revoked.secret) == "revoked"
    assert db.tokens.rotate(lasting.record.key_id, actor="ann").record.created_at == clock()
    assert db.tokens.verify_audit().fault is None


# --- rotating ---------------------------------------------------------------------------------------------------------


def test_a_rotated_token_is_accepted_beside_its_successor_until_the_overlap_ends(db: Dal[Sync], clock: Clock) -> None:
    now = clock.set(NOON)
    old = db.tokens.mint("ci", actor="ann", scopes=["a"], workspace_ids=["w"], allowed_cidrs=["10.0.0.0/8"],
                         rate_limit=5, kind="tst", expires_at=now + timedelta(days=1))  # fmt: skip
    clock.advance(minutes=1)
    new = db.tokens.rotate(old.record.key_id, actor="bob", overlap_seconds=60)
    kept = ("name", "kind", "scopes", "workspace_ids", "allowed_cidrs", "rate_limit", "not_before", "expires_at")
    assert [getattr(new.record, name) for name in kept] == [getattr(old.record, name) for name in kept]
    assert (new.record.rotated_from, new.record.created_by) == (old.record.key_id, "bob")
    assert new.secret != old.secret
    stored = db.tokens.get(old.record.key_id)
    assert (stored.rotated_to, stored.overlap_until) == (new.record.key_id, clock() + timedelta(minutes=1))
    assert stored.revoked_at is None
    for token in (old, new):
        assert accepted(db, token.secret, ip="10.0.0.1", scopes=["a"], workspace="w")
    clock.advance(seconds=59.999999)
    assert accepted(db, old.secret, ip="10.0.0.1")
    clock.advance(seconds=0.000001)
    assert refusal(db, old.secret, ip="10.0.0.1") == "expired"
    assert accepted(db, new.secret, ip="10.0.0.1")


def test_without_an_overlap_the_old_token_is_refused_at_once(db: Dal[Sync], make_db: MakeDb) -> None:
    other = make_db()
    old = a_token(db, "ci")
    assert accepted(other, old.secret)
    new = db.tokens.rotate(old.record.key_id, actor="bob", overlap_seconds=0)
    assert [refusal(each, old.secret) for each in (other, db)] == ["revoked", "revoked"]
    assert accepted(other, new.secret)
    stored = db.tokens.get(old.record.key_id)
    assert (stored.revoked_at, stored.revoked_by, stored.revocation_reason) == (
        new.record.created_at, "bob", "rotated")  # fmt: skip
    assert stored.overlap_until == new.record.created_at


def test_what_has_ended_is_not_rotated(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    rotated, revoked, expired = (a_token(db, expires_at=NOON + timedelta(hours=1)).record.key_id for _ in range(3))
    db.tokens.rotate(rotated, actor="ann", expires_at=None)
    db.tokens.revoke(revoked, "lost", actor="ann")
    clock.advance(hours=1)
    before = db.tokens.list(active=False).items
    for key_id, state in ((rotated, "rotated"), (revoked, "revoked"), (expired, "expired")):
        with pytest.raises(InvalidState) as refused:
            db.tokens.rotate(key_id, actor="ann")
        assert (refused.value.found, key_id in str(refused.value)) == (state, True)
    with pytest.raises(TokenNotFound):
        db.tokens.rotate(NOBODY, actor="ann")
    wrong: list[tuple[dict[str, Any], str]] = [
        *(({"overlap_seconds": value}, "overlap_seconds") for value in (-1, 7_776_001, True, 0.5)),
        *(({"key_id": value}, "key_id") for value in ("short", f"{rotated}\n", None)),
        ({"actor": ""}, "actor"),
        ({"expires_at": NOON}, "expires_at"),
    ]
    for given, path in wrong:
        with pytest.raises(Invalid) as invalid:
            db.tokens.rotate(**{"key_id": rotated, "actor": "ann", **given})
        assert invalid.value.path == path
    assert db.tokens.list(active=False).items == before


def test_a_successor_may_last_longer_and_not_end_before_it_begins(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    begin = NOON + timedelta(days=1)
    old = a_token(db, not_before=begin, expires_at=NOON + timedelta(days=2)).record
    for ends in (NOON + timedelta(hours=1), begin):
        with pytest.raises(Invalid) as refused:
            db.tokens.rotate(old.key_id, actor="ann", expires_at=ends)
        assert refused.value.path == "expires_at"
    assert db.tokens.get(old.key_id) == old
    second = db.tokens.rotate(old.key_id, actor="ann", expires_at=NOON + timedelta(days=9)).record
    assert (second.not_before, second.expires_at) == (begin, NOON + timedelta(days=9))
    assert db.tokens.rotate(second.key_id, actor="ann", expires_at=None).record.expires_at is None
    assert db.tokens.verify_audit().rows == 5


def test_of_50_that_rotate_one_token_one_does(db: Dal[Sync], make_db: MakeDb) -> None:
    old = a_token(db, "ci")
    others = [db, make_db(face="sync"), make_db(face="async")]
    jobs = [partial(others[at % 3].tokens.rotate, old.record.key_id, actor="ann") for at in range(50)]
    answers = together(jobs)
    assert kinds(answers) == {"Minted": 1, "InvalidState": 49}
    assert {answer.found for answer in answers if isinstance(answer, InvalidState)} == {"rotated"}
    [winner] = [answer for answer in answers if isinstance(answer, Minted)]
    assert db.tokens.get(old.record.key_id).rotated_to == winner.record.key_id
    assert accepted(db, winner.secret)
    assert [record.key_id for record in db.tokens.list().items] == [winner.record.key_id, old.record.key_id]
    report = db.tokens.verify_audit()
    assert (report.rows, report.fault) == (3, None)


def test_of_processes_that_rotate_one_token_one_does(db: Dal[Sync], url: str, cell: Cell) -> None:
    old = a_token(db, "ci")
    answers = in_processes(url, cell.face, rotate, old.record.key_id, 8)
    winners = [answer for answer in answers if not str(answer).startswith("InvalidState")]
    assert (len(answers), winners) == (32, [db.tokens.get(old.record.key_id).rotated_to])
    assert db.tokens.verify_audit().fault is None


def test_a_name_goes_from_token_to_successor(db: Dal[Sync]) -> None:
    first = a_token(db, "ci").record
    second = db.tokens.rotate(first.key_id, actor="ann").record
    with pytest.raises(NameTaken):
        db.tokens.mint("CI", actor="ann")
    db.tokens.revoke(first.key_id, "lost", actor="ann")
    with pytest.raises(NameTaken):
        db.tokens.mint("CI", actor="ann")
    db.tokens.revoke(second.key_id, "lost", actor="ann")
    assert db.tokens.mint("CI", actor="ann").record.rotated_from is None


# --- revoking ---------------------------------------------------------------------------------------------------------

# Says 'yes', or what it was told, of each token that it reads; the Dal stays open meanwhile.
LOOK = """
import sys
from dal import Settings, TokenRefused
from dal.dal import utc_now
from tests.cells import Loop, open_db
loop = Loop()
db = open_db(Settings.from_url(sys.argv[1], token_peppers=sys.argv[3]), sys.argv[2], utc_now, loop)
for line in sys.stdin:
    try:
        db.tokens.authenticate(line.strip())
        print("yes", flush=True)
    except TokenRefused as refused:
        print(refused.found, flush=True)
db.close()
loop.close()
"""


def test_a_revocation_counts_at_once_in_other_processes(db: Dal[Sync], url: str, cell: Cell) -> None:
    tokens = [a_token(db) for _ in range(5)]
    command = [sys.executable, "-c", LOOK, url, cell.face, PEPPERS]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin
        assert child.stdout

        def ask(token: Minted) -> str:
            print(token.secret.reveal(), file=child.stdin, flush=True)
            return child.stdout.readline().strip()  # type: ignore[union-attr]

        for token in tokens:
            assert ask(token) == "yes"
            db.tokens.revoke(token.record.key_id, "lost", actor="ann")
            assert ask(token) == "revoked"
        child.stdin.close()
        assert child.wait(PATIENCE) == 0
    assert {use.use_count for use in db.tokens.usage([token.record.key_id for token in tokens])} == {1}, (
        "flushed at close"
    )


def test_a_token_is_revoked_once(db: Dal[Sync], clock: Clock) -> None:
    now = clock.set(NOON)
    key_id = a_token(db).record.key_id
    first = db.tokens.revoke(key_id, "found in a log", actor="ann")
    assert (first.revoked_at, first.revoked_by, first.revocation_reason) == (now, "ann", "found in a log")
    clock.advance(hours=1)
    assert db.tokens.revoke(key_id, "again", actor="bob") == first == db.tokens.get(key_id)
    assert [row.action for row in db.tokens.audit(key_id).items] == ["minted", "revoked"]
    assert kinds(together([partial(db.tokens.revoke, a_token(db).record.key_id, "x", actor="ann")] * 20)) == {
        "TokenRecord": 20
    }
    assert db.tokens.verify_audit().rows == 4
    with pytest.raises(TokenNotFound):
        db.tokens.revoke(NOBODY, "lost", actor="ann")
    for reason in ("", "x" * 1025, "a\0", 7):
        with pytest.raises(Invalid) as refused:
            db.tokens.revoke(key_id, reason, actor="ann")  # type: ignore[arg-type]
        assert refused.value.path == "reason"


def test_a_token_in_its_overlap_can_be_revoked(db: Dal[Sync]) -> None:
    old = a_token(db)
    new = db.tokens.rotate(old.record.key_id, actor="ann", overlap_seconds=3600)
    db.tokens.revoke(old.record.key_id, "lost", actor="ann")
    assert refusal(db, old.secret) == "revoked"
    assert accepted(db, new.secret)


def test_a_change_and_its_audit_row_are_undone_together(db: Dal[Sync]) -> None:
    kept = a_token(db)

    def within(tx: Any) -> None:
        with tx.transaction():
            tx.tokens.mint("undone twice", actor="ann")
            raise ZeroDivisionError

    def change(tx: Any) -> None:
        tx.tokens.mint("undone", actor="ann")
        tx.tokens.rotate(kept.record.key_id, actor="ann")
        with pytest.raises(ZeroDivisionError):
            within(tx)
        tx.tokens.revoke(kept.record.key_id, "lost", actor="ann")
        assert (tx.tokens.verify_audit().rows, tx.tokens.verify_audit().fault) == (5, None)
        raise ZeroDivisionError

    def attempt() -> None:
        with db.transaction() as tx:
            change(tx)

    with pytest.raises(ZeroDivisionError):
        attempt()
    assert accepted(db, kept.secret)
    assert (db.tokens.verify_audit().rows, db.tokens.verify_audit().fault) == (1, None)
    db.transact(lambda tx: tx.tokens.mint("undone", actor="ann").record.key_id)
    assert a_token(db).record.name
    assert (db.tokens.verify_audit().rows, db.tokens.verify_audit().fault) == (3, None)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_the_list_has_what_is_accepted_or_will_be(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    hour = timedelta(hours=1)
    made: dict[str, str] = {}
    bounds: dict[str, Any] = {"lasting": {"expires_at": NOON + 3 * hour}, "ended": {"expires_at": NOON + hour},
                              "early": {"not_before": NOON + 9 * hour}}  # fmt: skip
    for name in ("plain", "lasting", "ended", "early", "rotated", "overlapping", "revoked"):
        made[name] = db.tokens.mint(name, actor="ann", **bounds.get(name, {})).record.key_id
        clock.advance(seconds=1)
    for name, overlap in (("rotated", 60), ("overlapping", 10_000)):
        made[f"{name}'s successor"] = db.tokens.rotate(made[name], actor="ann", overlap_seconds=overlap).record.key_id
        clock.advance(seconds=1)
    db.tokens.revoke(made["revoked"], "lost", actor="ann")
    clock.set(NOON + hour)
    names = {key_id: name for name, key_id in made.items()}
    everything = [names[record.key_id] for record in all_pages(partial(db.tokens.list, active=False), 2)]
    assert everything == [*made][::-1]
    active = [names[record.key_id] for record in all_pages(db.tokens.list, 2)]
    assert active == [name for name in everything if name not in ("ended", "rotated", "revoked")]
    with pytest.raises(Invalid) as refused:
        db.tokens.list(active=1)  # type: ignore[arg-type]
    assert refused.value.path == "active"


def test_tokens_and_refusals_of_one_instant_come_in_pages_each_once(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    made = [a_token(db) for _ in range(40)]
    key_ids = sorted((token.record.key_id for token in made), reverse=True)
    for limit in (7, 20, 40, 41):
        assert [record.key_id for record in all_pages(db.tokens.list, limit)] == key_ids
    for token in made:
        accepted(db, another_secret(token))
        accepted(db, token.secret, scopes=["a"])
    accepted(db, "nonsense")
    db.tokens.flush_usage()
    expected = [(key_id, reason) for key_id in key_ids for reason in ("secret", "scope")] + [("", "malformed")]
    for limit in (7, 80, 81, 82):
        assert [(row.key_id, row.reason) for row in all_pages(db.tokens.refusals, limit)] == expected


def test_the_audit_says_who_did_what(db: Dal[Sync], clock: Clock) -> None:
    now = clock.set(NOON)
    old = db.tokens.mint("ci", actor="ann", scopes=["a"], expires_at=NOON + timedelta(days=1)).record
    new = db.tokens.rotate(old.key_id, actor="bob", overlap_seconds=60, expires_at=None).record
    db.tokens.revoke(old.key_id, "gelöscht \u2028 \x7f\x01", actor="cyd")
    rows = db.tokens.audit(old.key_id).items
    assert [(row.number, row.action, row.actor, row.at) for row in rows] == [
        (1, "minted", "ann", now), (2, "rotated", "bob", now), (4, "revoked", "cyd", now)]  # fmt: skip
    assert rows[0].details == {
        "name": "ci", "kind": "svc", "scopes": ["a"], "workspace_ids": [], "allowed_cidrs": None, "rate_limit": None,
        "not_before": None, "expires_at": "2026-03-02T12:00:00.000000Z"}  # fmt: skip
    assert [row.details for row in rows[1:]] == [
        {"rotated_to": new.key_id, "overlap_seconds": 60}, {"reason": "gelöscht \u2028 \x7f\x01"}]  # fmt: skip
    [row] = db.tokens.audit(new.key_id).items
    assert (row.number, row.action, row.details) == (3, "minted", {"rotated_from": old.key_id, "expires_at": None})
    assert [row.number for row in all_pages(partial(db.tokens.audit, old.key_id), 1)] == [1, 2, 4]
    assert db.tokens.audit(NOBODY).items == []


def test_who_asks_for_what_is_not_there_is_told_so(db: Dal[Sync]) -> None:
    with pytest.raises(TokenNotFound, match=NOBODY):
        db.tokens.get(NOBODY)
    wrong: Any
    for wrong in ("", "x" * 11, "x" * 13, "éééééééééééé", None, 7):
        for call in (db.tokens.get, db.tokens.audit):
            with pytest.raises(Invalid) as refused:
                call(wrong)
            assert refused.value.path == "key_id"
    assert db.tokens.usage([]) == db.tokens.usage([NOBODY]) == []
    for wrong, path in ((NOBODY, "key_ids"), ([NOBODY] * 501, "key_ids"), ([NOBODY, "x"], "key_ids[1]")):
        with pytest.raises(Invalid) as refused:
            db.tokens.usage(wrong)
        assert refused.value.path == path


# --- what is counted --------------------------------------------------------------------------------------------------


def test_uses_are_counted_and_stored_when_they_are_flushed(db: Dal[Sync], clock: Clock, make_db: MakeDb) -> None:
    clock.set(NOON)
    one, two = a_token(db), a_token(db)
    other = make_db()
    for at in range(5):
        clock.set(NOON + timedelta(seconds=at))
        assert accepted(db, one.secret, ip="10.0.0.1", user_agent=f"curl/{at}")
    assert accepted(other, one.secret, ip="::ffff:10.0.0.9", user_agent="x\0\ud800\n" + "y" * 500)
    assert accepted(other, two.secret)
    assert db.tokens.usage([one.record.key_id]) == []
    clock.set(NOON + timedelta(hours=1))
    assert (other.tokens.flush_usage(), db.tokens.flush_usage(), db.tokens.flush_usage()) == (2, 5, 0)
    [first, second] = sorted(
        db.tokens.usage([two.record.key_id, one.record.key_id]), key=lambda use: use.key_id != one.record.key_id
    )
    assert (first.use_count, first.first_used_at, first.last_used_at) == (6, NOON, NOON + timedelta(seconds=4))
    assert (second.use_count, second.last_ip, second.last_user_agent) == (1, None, None)
    # Both say that they were last, at the same time: whoever was stored last has it.
    assert (first.last_ip, first.last_user_agent) == ("10.0.0.1", "curl/4")
    clock.set(NOON + timedelta(seconds=2))
    assert accepted(other, one.secret, ip="::ffff:10.0.0.9", user_agent="x\0\ud800\n" + "y" * 500)
    other.tokens.flush_usage()
    assert db.tokens.usage([one.record.key_id])[0].last_ip == "10.0.0.1", "an older use is not the last one"
    clock.set(NOON + timedelta(seconds=9))
    assert accepted(other, one.secret, ip="::ffff:10.0.0.9", user_agent="x\0\ud800\n" + "y" * 500)
    other.tokens.flush_usage()
    [last] = db.tokens.usage([one.record.key_id])
    assert (last.use_count, last.last_ip, last.last_user_agent) == (8, "10.0.0.9", "x???" + "y" * 196)


def test_a_flush_is_a_query_for_each_kind_however_many_uses(db: Dal[Sync]) -> None:
    tokens = [a_token(db) for _ in range(20)]
    db.tokens.flush_usage()
    for token in tokens * 3:
        accepted(db, token.secret)
        accepted(db, another_secret(token))
    before = Counter(db.calls)
    assert db.tokens.flush_usage() == 120
    assert Counter(db.calls) - before == {"record_token_uses": 1, "record_token_refusals": 1}
    before = Counter(db.calls)
    assert db.tokens.flush_usage() == 0
    assert Counter(db.calls) == before


def test_flushes_at_once_count_every_use(db: Dal[Sync], make_db: MakeDb) -> None:
    tokens = [a_token(db) for _ in range(30)]
    others = [db, *(make_db(face=face) for face in ("sync", "async", "sync", "async"))]
    for number, other in enumerate(others):
        for token in tokens[::-1] if number % 2 else tokens:
            accepted(other, token.secret)
            accepted(other, another_secret(token))
    assert together([other.tokens.flush_usage for other in others]) == [60] * 5
    assert {use.use_count for use in db.tokens.usage([token.record.key_id for token in tokens])} == {5}
    assert set(reasons(db).values()) == {5}


def test_refusals_are_counted_by_minute_key_and_reason(db: Dal[Sync], clock: Clock) -> None:
    minute = clock.set(NOON)
    token = a_token(db)
    for at in (0, 59.999999, 60, 61):
        clock.set(minute + timedelta(seconds=at))
        accepted(db, another_secret(token), ip="10.0.0.1", user_agent="curl")
        accepted(db, token.secret, scopes=["a"])
    db.tokens.flush_usage()
    key_id = token.record.key_id
    rows = db.tokens.refusals(key_id).items
    later = minute + timedelta(minutes=1)
    assert [(row.minute_at, row.reason, row.refusals) for row in rows] == [
        (later, "secret", 2), (later, "scope", 2), (minute, "secret", 2), (minute, "scope", 2)]  # fmt: skip
    assert rows == db.tokens.refusals().items
    assert (rows[2].first_at, rows[2].last_at) == (minute, minute + timedelta(seconds=59.999999))
    assert (rows[2].last_ip, rows[2].last_user_agent, rows[3].last_ip) == ("10.0.0.1", "curl", None)
    for listed in (partial(db.tokens.refusals, key_id), db.tokens.refusals):
        assert all_pages(listed, 1) == rows
    assert db.tokens.refusals("").items == []
    with pytest.raises(Invalid):
        db.tokens.refusals("x")
    assert db.tokens.prune_refusals(later, limit=1) == 1
    assert db.tokens.prune_refusals(later) == 1
    assert db.tokens.refusals().items == rows[:2]
    for limit in (0, 10_001, True):
        with pytest.raises(Invalid):
            db.tokens.prune_refusals(later, limit=limit)


def test_unknown_tokens_make_one_row_a_minute_however_many_they_are(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    before = Counter(db.calls)
    for _ in range(1500):
        accepted(db, token_text("svc", new_key_id(), new_secret()))
    assert reasons(db) == {("", "unknown"): 1500}
    assert Counter(db.calls) - before == {
        "get_stored_token": 1500,
        "record_token_refusals": 1,
        "list_token_refusals": 1,
    }


def test_uses_that_could_not_be_stored_are_kept(db: Dal[Sync]) -> None:
    token = a_token(db)
    accepted(db, token.secret)
    accepted(db, another_secret(token))

    def attempt() -> None:
        with db.transaction(read_only=True) as tx:
            tx.tokens.flush_usage()

    for _ in range(2):
        with pytest.raises(DalError):
            attempt()
    assert db.tokens.usage([token.record.key_id]) == []
    assert db.tokens.flush_usage() == 2
    assert db.tokens.usage([token.record.key_id])[0].use_count == 1


# --- peppers ----------------------------------------------------------------------------------------------------------


def test_a_new_pepper_is_taken_up_token_by_token(make_db: MakeDb) -> None:
    old_one, new_one = new_pepper(), new_pepper()
    old_id, new_id = old_one.partition("=")[0], new_one.partition("=")[0]
    before = make_db(token_peppers=old_one)
    used, unused = a_token(before), a_token(before)
    db = make_db(token_peppers=f"{new_one},{old_one}")
    assert accepted(db, used.secret)
    assert accepted(before, used.secret), "not renewed before the flush"
    assert db.tokens.peppers() == [PepperCount(old_id, 2)]
    db.tokens.flush_usage()
    assert sorted(db.tokens.peppers(), key=lambda count: count.pepper_id == new_id) == [
        PepperCount(old_id, 1), PepperCount(new_id, 1)]  # fmt: skip
    assert db.tokens.get(used.record.key_id).pepper_id == new_id
    with pytest.raises(PepperMissing, match=new_id):
        before.tokens.authenticate(used.secret)
    for token in (used, unused, used):
        assert accepted(db, token.secret)
    db.tokens.flush_usage()
    assert db.tokens.peppers() == [PepperCount(new_id, 2)]
    after = make_db(token_peppers=new_one)
    assert accepted(after, used.secret)
    assert not accepted(after, another_secret(used))
    assert [db.tokens.verify_audit().fault, before.tokens.verify_audit().fault] == [None, None]
    with pytest.raises(PepperMissing, match=old_id):
        after.tokens.verify_audit()


def test_a_token_that_was_renewed_meanwhile_is_not_renewed_twice(make_db: MakeDb) -> None:
    old, new, newest = new_pepper(), new_pepper(), new_pepper()
    token = a_token(make_db(token_peppers=old))
    one, other = make_db(token_peppers=f"{new},{old}"), make_db(token_peppers=f"{newest},{old},{new}")
    for each in (one, other):
        assert accepted(each, token.secret)
    for each in (one, other):
        each.tokens.flush_usage()
    assert one.tokens.get(token.record.key_id).pepper_id == new.partition("=")[0]
    assert accepted(one, token.secret)


def test_the_audit_is_verified_across_a_change_of_the_pepper(make_db: MakeDb) -> None:
    old, new = new_pepper(), new_pepper()
    before = make_db(token_peppers=old)
    key_id = a_token(before).record.key_id
    db = make_db(token_peppers=f"{new},{old}")
    middle = before.tokens.verify_audit().head
    db.tokens.rotate(key_id, actor="ann")
    ids = [row.pepper_id for row in db.tokens.audit(key_id).items]
    assert ids == [old.partition("=")[0], new.partition("=")[0]]
    assert (db.tokens.verify_audit().rows, db.tokens.verify_audit().fault) == (3, None)
    after = make_db(token_peppers=new)
    with pytest.raises(PepperMissing):
        after.tokens.verify_audit()
    report = after.tokens.verify_audit(since=middle)
    assert (report.rows, report.fault) == (2, None)


def test_without_a_pepper_postgres_refuses_and_sqlite_makes_one(
    make_db: MakeDb, cell: Cell, caplog: pytest.LogCaptureFixture
) -> None:
    db = make_db(token_peppers=None)
    some_token = token_text("svc", NOBODY, new_secret())
    if cell.dialect == "postgres":
        for call in (
            partial(db.tokens.mint, "ci", actor="ann"),
            partial(db.tokens.authenticate, some_token),
            partial(db.tokens.rotate, NOBODY, actor="ann"),
            db.tokens.verify_audit,
        ):
            before = db.calls
            with pytest.raises(PepperMissing, match="dal tokens pepper"):
                call()
            assert db.calls == before
        assert db.tokens.list().items == []
        return
    place = Path(f"{db.settings.sqlite_path}.peppers")
    assert not place.exists(), "nothing is made before it is needed"
    with caplog.at_level(logging.INFO, "dal"):
        token = db.tokens.mint("ci", actor="ann")
        assert accepted(db, token.secret)
    assert [str(place) in record.getMessage() for record in caplog.records] == [True]
    assert place.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in place.parent.glob(f"*{place.name}*")) == [place.name]
    assert accepted(make_db(token_peppers=None), token.secret)
    secret = place.read_text().splitlines()[-1].partition("=")[2]
    assert secret not in caplog.text
    place.unlink()
    with pytest.raises(PepperMissing, match=token.record.pepper_id):
        make_db(token_peppers=None).tokens.authenticate(token.secret)
    place.write_text("nonsense")
    with pytest.raises(PepperMissing, match="pair 1"):
        make_db(token_peppers=None).tokens.authenticate(token.secret)
    place.unlink()
    place.mkdir()
    with pytest.raises(PepperMissing, match=place.name):
        make_db(token_peppers=None).tokens.authenticate(token.secret)


# --- tokens of another system -----------------------------------------------------------------------------------------


def test_a_token_of_another_system_is_taken_and_its_digest_renewed(make_db: MakeDb) -> None:
    old, new = new_pepper(), new_pepper()
    db = make_db(token_peppers=old)
    text = secrets.token_urlsafe(48)
    plain = hashlib.sha256(text.encode())
    made = db.tokens.import_legacy("old ci", plain.hexdigest(), actor="ann", scopes=["a"], allowed_cidrs=["10.0.0.0/8"])
    assert (made.hash_alg, made.pepper_id, db.tokens.peppers()) == ("sha256-legacy", None, [PepperCount(None, 1)])
    assert refusal(db, text, ip="10.0.0.1") is None, "only where it is asked for"
    assert db.tokens.authenticate(text, ip="10.0.0.1", scopes=["a"], legacy=True) == made
    assert refusal(db, text, ip="11.0.0.1", legacy=True) is None
    assert refusal(db, text, ip="10.0.0.1", scopes=["b"], legacy=True) == "scope"
    assert refusal(db, text[:-1] + "!", ip="10.0.0.1", legacy=True) is None
    db.tokens.flush_usage()
    renewed = db.tokens.get(made.key_id)
    assert (renewed.hash_alg, renewed.pepper_id) == ("hmac-sha256-legacy", old.partition("=")[0])
    assert accepted(db, text, ip="10.0.0.1", legacy=True)
    after = make_db(token_peppers=f"{new},{old}")
    assert accepted(after, text, ip="10.0.0.1", legacy=True)
    after.tokens.flush_usage()
    assert after.tokens.peppers() == [PepperCount(new.partition("=")[0], 1)]
    only = make_db(token_peppers=new)
    assert accepted(only, text, ip="10.0.0.1", legacy=True)
    assert only.tokens.usage([made.key_id])[0].use_count == 2
    successor = only.tokens.rotate(made.key_id, actor="ann", overlap_seconds=0)
    assert refusal(only, text, ip="10.0.0.1", legacy=True) == "revoked"
    assert (successor.record.hash_alg, successor.record.scopes) == ("hmac-sha256", ("a",))
    assert accepted(only, successor.secret, ip="10.0.0.1")
    assert [row.action for row in db.tokens.audit(made.key_id).items] == ["imported", "rotated"]


def test_a_hash_is_brought_in_once(db: Dal[Sync]) -> None:
    digest = secrets.token_bytes(32)
    db.tokens.import_legacy("one", digest, actor="ann")
    with pytest.raises(AlreadyExists) as refused:
        db.tokens.import_legacy("two", digest.hex().upper(), actor="ann")
    assert refused.value.constraint == "service_tokens_legacy_key"
    for wrong in (digest[:-1], digest.hex()[:-1], "g" * 64, f"{digest.hex()}\n", bytearray(digest), 7, None):
        with pytest.raises(Invalid) as invalid:
            db.tokens.import_legacy("two", wrong, actor="ann")  # type: ignore[arg-type]
        assert invalid.value.path == "sha256"
    jobs = [partial(db.tokens.import_legacy, f"three {at}", b"3" * 32, actor="ann") for at in range(20)]
    assert kinds(together(jobs)) == {"TokenRecord": 1, "AlreadyExists": 19}
    assert db.tokens.verify_audit().rows == 2


def test_what_another_system_cannot_have_made_is_refused_without_asking(db: Dal[Sync]) -> None:
    before = db.calls
    for text in ("", "short", "x" * 15, "x" * 257, "x" * 2**20, "a b" * 10, "é" * 20, "x" * 20 + "\n", "x\0" * 20,
                 f"dal_{'x' * 30}", "dal_svc_" + "0" * 62):  # fmt: skip
        assert refusal(db, text, legacy=True) is None
    assert db.calls == before
    assert refusal(db, "x" * 16, legacy=True) is None
    assert db.calls != before


# --- secrecy ----------------------------------------------------------------------------------------------------------


def dump(cell: Cell, db: Dal[Sync], raw: Callable[[str], list[Any]]) -> str:
    """All that the database holds."""
    if cell.dialect == "sqlite":
        connection = sqlite3.connect(db.settings.sqlite_path)
        text = repr(stored(connection))
        connection.close()
        return text
    tables = [row[0] for row in raw("select tablename from pg_tables where schemaname = current_schema()")]
    assert "service_tokens" in tables
    return "\n".join(str(row) for table in tables for row in raw(f"select t::text from {table} t"))


def pieces(secret: str) -> set[str]:
    return {secret[at : at + 8] for at in range(len(secret) - 7)}


def test_no_piece_of_a_secret_is_anywhere(
    db: Dal[Sync], cell: Cell, raw: Callable[[str], list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[object] = []

    def call(job: Callable[[], Any]) -> Any:
        try:
            answer = job()
        except DalError as error:
            said.extend([str(error), repr(error), error.args, vars(error), "".join(traceback.format_exception(error))])
            return None
        said.extend([repr(answer), str(answer), f"{answer}", f"{answer!r:>10}"])
        return answer

    minted = [
        call(partial(db.tokens.mint, f"token {at}", actor="ann", allowed_cidrs=["10.0.0.0/8"])) for at in range(5)
    ]
    minted.append(call(partial(db.tokens.rotate, minted[0].record.key_id, actor="ann")))
    minted.append(call(partial(db.tokens.rotate, minted[1].record.key_id, actor="ann", overlap_seconds=0)))
    foreign = secrets.token_urlsafe(48)
    call(partial(db.tokens.import_legacy, "foreign", hashlib.sha256(foreign.encode()).digest(), actor="ann"))
    for token in minted:
        text = token.secret.reveal()
        for given in (
            text,
            token.secret,
            text[:-1],
            f" {text}",
            text.swapcase(),
            another_secret(token),
            text[:60] + "é" * 10,
        ):
            for ip in ("10.0.0.1", "11.0.0.1"):
                call(partial(db.tokens.authenticate, given, ip=ip, scopes=["a"], workspace="w", user_agent="curl"))
                call(partial(db.tokens.authenticate, given, ip=ip, user_agent="curl", legacy=True))
        call(partial(db.tokens.authenticate, text, ip="nowhere"))
        call(partial(db.tokens.get, text))
        call(partial(db.tokens.revoke, text, "lost", actor="ann"))
        call(partial(db.tokens.authenticate, [text]))  # type: ignore[arg-type]
    for given in (foreign, foreign + "x", foreign[::-1]):
        call(partial(db.tokens.authenticate, given, legacy=True))
    call(partial(db.tokens.mint, "token 0", actor="ann"))
    call(partial(db.tokens.revoke, minted[2].record.key_id, "lost", actor="ann"))
    call(db.tokens.flush_usage)
    for read in (db.tokens.list, db.tokens.refusals, db.tokens.verify_audit, db.tokens.peppers):
        call(read)
    said.append(repr(db.settings))
    everything = "\n".join([*map(str, said), caplog.text, dump(cell, db, raw)])
    assert all(token.record.key_id in everything for token in minted)
    wanted = set().union(*(pieces(token.secret.reveal()[21:]) for token in minted), pieces(foreign))
    wanted |= pieces(PEPPERS.partition("=")[2])
    found = [piece for piece in wanted if piece in everything]
    assert found == [], f"of {len(wanted)} pieces, in {len(everything)} characters"

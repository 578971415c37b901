"""The audit chain of service tokens: whatever is done to it behind our back is found, and where; in every cell."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from dal import AuditFault, AuditHead, CorruptDatabase, Dal, Invalid, PepperMissing, Sync
from dal.stores import tokens as module
from tests.cells import MakeDb, together
from tests.parity.make import a_token

Raw = Callable[[str], list[Any]]

ROWS = 8


@pytest.fixture
def chain(db: Dal[Sync]) -> Dal[Sync]:
    """Eight rows: three tokens, one of them rotated twice, one revoked."""
    first = a_token(db, scopes=["a"]).record.key_id
    a_token(db)
    third = a_token(db).record.key_id
    second = db.tokens.rotate(first, actor="ann").record.key_id
    db.tokens.rotate(second, actor="ann", overlap_seconds=0)
    db.tokens.revoke(third, "lost", actor="bob")
    assert fault(db) is None
    return db


def fault(db: Dal[Sync], **given: Any) -> AuditFault | None:
    return db.tokens.verify_audit(**given).fault


def test_a_whole_chain_is_verified_to_its_head(chain: Dal[Sync]) -> None:
    report = chain.tokens.verify_audit()
    assert (report.rows, report.head.number, report.fault) == (ROWS, ROWS, None)
    assert chain.tokens.verify_audit(since=report.head).rows == 0
    empty = chain.tokens.verify_audit(since=AuditHead(0, "0" * 64))
    assert empty == report


def test_an_empty_chain_is_whole(db: Dal[Sync]) -> None:
    report = db.tokens.verify_audit()
    assert (report.rows, report.head, report.fault) == (0, AuditHead(0, "0" * 64), None)


ALTERED = {
    "key_id": "'nobodynobody'", "action": "'imported'", "actor": "'eve'", "details": """'{"reason": "none"}'""",
    "pepper_id": "'other'", "prev_hash": f"'{'1' * 64}'", "row_hash": f"'{'1' * 64}'",
}  # fmt: skip


@pytest.mark.parametrize("column", ALTERED)
@pytest.mark.parametrize("number", [1, 4, ROWS])
def test_an_altered_row_is_named(chain: Dal[Sync], raw: Raw, column: str, number: int) -> None:
    if column == "pepper_id":
        raw(f"update service_token_audit set pepper_id = 'other' where number = {number}")
        with pytest.raises(PepperMissing, match=f"row {number} of the audit names 'other'"):
            chain.tokens.verify_audit()
        return
    raw(f"update service_token_audit set {column} = {ALTERED[column]} where number = {number}")
    report = chain.tokens.verify_audit()
    assert report.fault is not None
    assert (report.fault.number, report.rows, report.head.number) == (number, number - 1, number - 1)
    assert report.fault.reason == ("does not follow the row before it" if column == "prev_hash" else "was altered")


def test_a_time_altered_by_a_microsecond_is_found(chain: Dal[Sync], raw: Raw) -> None:
    [[at]] = raw("select at from service_token_audit where number = 3")
    other = f"'{at[:-2]}{(int(at[-2]) + 1) % 10}Z'" if isinstance(at, str) else "at + interval '1 microsecond'"
    raw(f"update service_token_audit set at = {other} where number = 3")
    assert fault(chain) == AuditFault(3, "was altered")


@pytest.mark.parametrize("number", range(1, ROWS))
def test_a_deleted_row_is_named(chain: Dal[Sync], raw: Raw, number: int) -> None:
    raw(f"delete from service_token_audit where number = {number}")
    assert fault(chain) == AuditFault(number, "is missing")


@pytest.mark.parametrize("number", range(1, ROWS))
def test_a_row_deleted_without_a_gap_is_found(chain: Dal[Sync], raw: Raw, number: int) -> None:
    raw(f"delete from service_token_audit where number = {number}")
    for later in range(number + 1, ROWS + 1):
        raw(f"update service_token_audit set number = {later - 1} where number = {later}")
    assert fault(chain) == AuditFault(number, "does not follow the row before it")


@pytest.mark.parametrize("number", range(1, ROWS))
def test_rows_that_changed_places_are_found(chain: Dal[Sync], raw: Raw, number: int) -> None:
    for one, other in ((number, 100), (number + 1, number), (100, number + 1)):
        raw(f"update service_token_audit set number = {other} where number = {one}")
    assert fault(chain) == AuditFault(number, "does not follow the row before it")


@pytest.mark.parametrize("kept", range(ROWS))
def test_a_tail_that_was_cut_off_is_missing(chain: Dal[Sync], raw: Raw, kept: int) -> None:
    raw(f"delete from service_token_audit where number > {kept}")
    assert fault(chain) == AuditFault(kept + 1, "is missing")


@pytest.mark.parametrize("kept", range(1, ROWS))
def test_a_tail_that_was_cut_off_with_the_head_set_back_is_found(chain: Dal[Sync], raw: Raw, kept: int) -> None:
    raw(f"delete from service_token_audit where number > {kept}")
    raw(
        f"update service_token_chain set number = {kept}, "
        f"row_hash = (select row_hash from service_token_audit where number = {kept})"
    )
    assert fault(chain) == AuditFault(kept, "is not the one that the head was sealed with")


def test_without_its_head_the_chain_may_have_lost_its_tail(chain: Dal[Sync], raw: Raw) -> None:
    raw("delete from service_token_chain")
    assert fault(chain) == AuditFault(ROWS, "has no head that names it the last row")
    raw("delete from service_token_audit")
    assert fault(chain) == AuditFault(1, "is missing"), "there are tokens, and each was minted or imported"


def test_an_older_state_with_its_own_head_is_found_by_who_kept_a_newer_one(chain: Dal[Sync], raw: Raw) -> None:
    [head] = raw("select number, row_hash, pepper_id, seal from service_token_chain")
    kept = chain.tokens.verify_audit().head
    key_id = a_token(chain).record.key_id
    newer = chain.tokens.verify_audit().head
    raw(f"delete from service_token_audit where number > {head[0]}")
    raw(f"update service_token_chain set number = {head[0]}, row_hash = '{head[1]}', seal = '{head[3]}'")
    assert fault(chain) is None, "this was once the whole chain"
    assert fault(chain, since=kept) is None
    assert fault(chain, since=newer) == AuditFault(ROWS + 1, "is missing")
    chain.tokens.revoke(key_id, "lost", actor="ann")
    assert fault(chain) is None
    assert fault(chain, since=newer) == AuditFault(ROWS + 1, "was exchanged")


def test_a_row_added_behind_the_head_is_found(chain: Dal[Sync], raw: Raw) -> None:
    [[last]] = raw(f"select row_hash from service_token_audit where number = {ROWS}")
    raw(
        "insert into service_token_audit (number, key_id, action, actor, at, details, pepper_id, prev_hash, row_hash) "
        f"select {ROWS + 1}, key_id, action, actor, at, details, pepper_id, '{last}', row_hash "
        f"from service_token_audit where number = {ROWS}"
    )
    assert fault(chain) == AuditFault(ROWS + 1, "was altered")


def test_a_change_made_behind_an_altered_head_goes_on_from_there(chain: Dal[Sync], raw: Raw) -> None:
    raw(f"update service_token_chain set row_hash = '{'1' * 64}'")
    assert fault(chain) == AuditFault(ROWS, "is not the one that the head was sealed with")
    a_token(chain)
    assert fault(chain) == AuditFault(ROWS + 1, "does not follow the row before it")


def test_a_head_that_is_no_digest_stops_every_change(chain: Dal[Sync], raw: Raw, make_db: MakeDb) -> None:
    raw("update service_token_chain set row_hash = 'nonsense'")
    for db in (chain, make_db()):
        with pytest.raises(CorruptDatabase):
            a_token(db)
    assert fault(chain) == AuditFault(ROWS, "is not the one that the head was sealed with")


@pytest.mark.parametrize("portion", [1, 3, ROWS, ROWS + 1])
def test_it_is_read_in_portions(chain: Dal[Sync], raw: Raw, monkeypatch: pytest.MonkeyPatch, portion: int) -> None:
    monkeypatch.setattr(module, "_VERIFIED", portion)
    before = chain.calls.get("list_audit_chain", 0)
    report = chain.tokens.verify_audit()
    assert (report.rows, report.fault) == (ROWS, None)
    assert chain.calls["list_audit_chain"] - before == ROWS // portion + 1
    raw("update service_token_audit set actor = 'eve' where number = 7")
    assert fault(chain) == AuditFault(7, "was altered")
    raw("delete from service_token_audit where number > 3")
    assert fault(chain) == AuditFault(4, "is missing")


def test_verifying_goes_on_while_tokens_are_minted(chain: Dal[Sync], make_db: MakeDb, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_VERIFIED", 2)
    other = make_db()
    jobs: list[Callable[[], Any]] = [partial(a_token, chain if at % 2 else other) for at in range(20)]
    jobs[::4] = [partial(db.tokens.verify_audit) for db in (chain, other, chain, other, chain)]
    reports: list[Any] = together(jobs)[::4]
    assert [report.fault for report in reports] == [None] * 5
    assert chain.tokens.verify_audit().rows == ROWS + 15


def test_what_is_no_head_is_refused(db: Dal[Sync]) -> None:
    wrong: Any
    for wrong in (7, "0" * 64, (0, "0" * 64), AuditHead(-1, "0" * 64), AuditHead(1, "x"), AuditHead(True, "0" * 64)):
        with pytest.raises(Invalid) as refused:
            db.tokens.verify_audit(since=wrong)
        assert str(refused.value.path).startswith("since")

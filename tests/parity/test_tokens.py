"""Service tokens: minting, authenticating, rotating, revoking, and what is written down of it."""

from __future__ import annotations

import pytest

from dal import Dal, Sync, TokenRefused


def test_a_minted_token_is_accepted_and_its_secret_is_told_once(db: Dal[Sync]) -> None:
    minted = db.tokens.mint("ci", actor="ann", scopes=["runs:read"])
    text = minted.secret.reveal()
    assert db.tokens.authenticate(text) == minted.record
    assert db.tokens.authenticate(minted.secret, ip="10.0.0.1", scopes=["runs:read"]) == minted.record
    with pytest.raises(TokenRefused):
        db.tokens.authenticate(text[:-1] + "0")
    successor = db.tokens.rotate(minted.record.key_id, actor="bob")
    assert db.tokens.authenticate(successor.secret) == successor.record
    db.tokens.revoke(minted.record.key_id, "gone", actor="bob")
    with pytest.raises(TokenRefused):
        db.tokens.authenticate(text)
    assert db.tokens.flush_usage() > 0
    print(
        db.tokens.usage([minted.record.key_id]),
        db.tokens.refusals(),
        db.tokens.peppers(),
        db.tokens.list(),
        db.tokens.audit(minted.record.key_id),
    )
    print(db.tokens.verify_audit())
    db.tokens.import_legacy("old", "ab" * 32, actor="ann")

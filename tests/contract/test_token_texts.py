"""What a service token looks like, what a Secret keeps to itself, and which key a digest is made with."""

from __future__ import annotations

import copy
import hashlib
import hmac
import json
import logging
import pickle
import re
import string
import zlib
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dal import Minted, PepperMissing, Secret, TokenRecord
from dal.digests import derived_key
from dal.peppers import new_pepper
from dal.settings import Peppers, parse_peppers
from dal.stores.token_keys import Keyring, verify
from dal.stores.token_records import StoredToken
from dal.stores.token_texts import (
    ALPHABET,
    LENGTH,
    PATTERN,
    Kind,
    is_foreign,
    new_key_id,
    new_secret,
    read_token,
    token_text,
)

base62 = st.sampled_from(ALPHABET)
words = st.builds(
    token_text,
    st.sampled_from(["svc", "usr", "tst"]),
    st.text(base62, min_size=12, max_size=12),
    st.text(base62, min_size=43, max_size=43).map(str.encode),
)


def a_text(kind: Kind = "svc") -> str:
    return token_text(kind, new_key_id(), new_secret())


# --- the form ---------------------------------------------------------------------------------------------------------


@given(words)
def test_a_token_has_the_form_that_is_promised_to_scanners(text: str) -> None:
    assert (len(text), text.isascii()) == (70, True)
    assert re.fullmatch(PATTERN, text)
    for around in (f"key={text}", f"'{text}'", f"Bearer {text}\n", f"{text}."):
        assert [found.group() for found in re.finditer(PATTERN, around)] == [text]
    kind, key_id, rest = text.removeprefix("dal_").split("_")
    presented = read_token(text)
    assert presented is not None
    assert (presented.kind, presented.key_id, presented.secret.decode()) == (kind, key_id, rest[:43])


def test_the_checksum_is_the_crc_32_of_what_stands_before_it() -> None:
    text = a_text()
    value = 0
    for digit in text[64:]:
        value = value * 62 + (string.digits + string.ascii_uppercase + string.ascii_lowercase).index(digit)
    assert value == zlib.crc32(text[:64].encode())


@given(words, st.data())
def test_a_token_with_one_character_changed_is_none(text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, LENGTH - 1))
    other = data.draw(st.one_of(base62, st.characters()).filter(lambda each: each != text[at]))
    assert read_token(text[:at] + other + text[at + 1 :]) is None


def test_no_character_of_a_token_can_be_changed_for_another() -> None:
    text = a_text()
    for at in range(LENGTH):
        for other in map(chr, range(128)):
            changed = text[:at] + other + text[at + 1 :]
            assert (read_token(changed) is None) == (other != text[at]), f"{other!r} for {text[at]!r} at {at}"


@given(words, st.integers(0, LENGTH - 2))
def test_a_token_with_two_neighbours_exchanged_is_none(text: str, at: int) -> None:
    changed = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    assert changed == text or read_token(changed) is None


@given(st.text())
def test_other_text_is_no_token(text: str) -> None:
    assert read_token(text) is None
    assert read_token("dal_svc_" + text) is None
    assert read_token(("dal_svc_" + text * 70)[:70]) is None


def test_a_million_ids_and_secrets_are_all_different() -> None:
    assert len({new_key_id() for _ in range(1_000_000)}) == 1_000_000
    made = [new_secret() for _ in range(100_000)]
    assert len(set(made)) == len(made)
    assert {len(each) for each in made} == {43}
    counts = [sum(each.count(digit.encode()) for each in made[:20_000]) for digit in ALPHABET]
    expected = 20_000 * 43 / 62
    assert sum((count - expected) ** 2 / expected for count in counts) < 140, "chi squared, 61 degrees of freedom"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x" * 16, True), ("x" * 256, True), ("~!-._" * 4, True), ("x" * 15, False), ("x" * 257, False), ("", False),
        ("x" * 15 + " ", False), ("x" * 16 + "\n", False), ("x" * 16 + "\x7f", False), ("é" * 16, False),
        ("dal_" + "x" * 20, False), ("dal-" + "x" * 20, True), ("x\0" * 10, False),
    ],
)  # fmt: skip
def test_what_another_system_may_have_made_is_short_and_visible(text: str, expected: bool) -> None:
    assert is_foreign(text) is expected


# --- Secret -----------------------------------------------------------------------------------------------------------


def test_a_secret_shows_itself_to_nobody() -> None:
    text = a_text()
    secret = Secret(text)
    minted = Minted(_record(), secret)
    shown = [
        str(secret), repr(secret), f"{secret}", f"{secret:>20}", f"{secret!r}",
        "%s %r" % (secret, secret), "{}".format(secret),  # noqa: UP031, UP032
        repr([secret]), repr({"a": secret}), repr(minted), str(minted), repr(vars(type(secret))), ascii(secret),
        str(msgspec.structs.asdict(minted)), str(copy.copy(secret)), str(copy.deepcopy([minted])), str(dir(secret)),
        logging.makeLogRecord({"msg": "%s", "args": (secret,)}).getMessage(),
    ]  # fmt: skip
    for each in shown:
        assert [piece for at in range(len(text) - 7) if (piece := text[at : at + 8]) in each] == []
    assert secret.reveal() == text
    assert not hasattr(secret, "__dict__")


def _record() -> TokenRecord:
    return TokenRecord("k", "n", "svc", (), (), None, None, *[None] * 12)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "write",
    [pickle.dumps, json.dumps, msgspec.json.encode, msgspec.msgpack.encode, yaml.safe_dump, yaml.dump, bytes, iter, len,
     lambda secret: secret + "x", lambda secret: "x" + secret, lambda secret: {secret: 1}, lambda secret: secret[0],
     lambda secret: "".join([secret]), lambda secret: pickle.dumps(Minted(_record(), secret)),
     lambda secret: msgspec.json.encode(Minted(_record(), secret)), msgspec.to_builtins],
)  # fmt: skip
def test_a_secret_is_not_written_anywhere(write: Any) -> None:
    text = a_text()
    with pytest.raises((TypeError, yaml.YAMLError)) as refused:
        write(Secret(text))
    assert text[21:] not in str(refused.value)


def test_secrets_are_equal_if_their_texts_are() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert Secret("é") == copy.copy(Secret("é"))


# --- keys -------------------------------------------------------------------------------------------------------------


def keyring(*names: str) -> Keyring:
    return Keyring({name: hashlib.sha256(name.encode()).digest() for name in names})


def stored_as(pepper_id: str | None, secret_hash: bytes, **given: Any) -> StoredToken:
    """A row, as far as checking goes."""
    return msgspec.structs.replace(keyring("a").nobody, pepper_id=pepper_id, secret_hash=secret_hash, **given)


def test_a_digest_is_an_hmac_of_form_key_id_and_secret() -> None:
    keys = keyring("a", "b")
    pepper = hashlib.sha256(b"b").digest()
    expected = hmac.new(pepper, b"dal-token-v1" + b"k" * 12 + b"s" * 43, "sha256").digest()
    assert keys.digest("b", "k" * 12, b"s" * 43) == expected != keys.digest("a", "k" * 12, b"s" * 43)
    assert (keys.current, repr(keys)) == ("a", "Keyring(a, b)")
    with pytest.raises(PepperMissing, match="'c'"):
        keys.digest("c", "k" * 12, b"s" * 43)


def test_keys_for_the_audit_follow_from_the_pepper_by_hkdf() -> None:
    # RFC 5869 with SHA-256, no salt, one block.
    extracted = hmac.new(b"", b"pepper", "sha256").digest()
    assert derived_key(b"pepper", "dal-audit-v1") == hmac.new(extracted, b"dal-audit-v1\x01", "sha256").digest()
    # Its test case 3, whose info is empty: the first 32 bytes.
    assert derived_key(b"\x0b" * 22, "").hex() == "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"


def test_a_token_is_right_only_with_its_row() -> None:
    keys = keyring("a", "b")
    presented = read_token(a_text())
    assert presented is not None
    right = keys.digest("b", presented.key_id, presented.secret)
    assert verify(presented, stored_as("b", right), keys) is True
    wrong = [
        None, stored_as("a", right), stored_as("b", right[:-1] + bytes([right[-1] ^ 1])), stored_as("b", bytes(32)),
        stored_as("b", right, kind="usr"),
        stored_as(None, hashlib.sha256(presented.secret).digest(), hash_alg="sha256-legacy"),
        stored_as("b", right, hash_alg="hmac-sha256-legacy"),
    ]  # fmt: skip
    for stored in wrong:
        assert verify(presented, stored, keys) is False
    with pytest.raises(PepperMissing):
        verify(presented, stored_as("c", right), keys)


def test_a_new_pepper_is_what_the_setting_takes() -> None:
    made = new_pepper()
    [(name, key)] = parse_peppers(made).items()
    assert (len(key), made.startswith(f"{name}=")) == (32, True)
    assert new_pepper() != made
    assert made.partition("=")[2] not in repr(Peppers({name: key})) + repr(Keyring({name: key}))

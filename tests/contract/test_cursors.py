"""Cursors: what a page hands out is read back as it was, and nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from dal import Invalid, Page
from dal.core.cursors import (
    MAX_LIMIT,
    NEWEST,
    check_limit,
    instant_cursor,
    number_cursor,
    page,
    read_instant_cursor,
    read_number_cursor,
)

FIRST = -1
instants = st.datetimes(timezones=st.just(UTC))
numbers = st.integers(-(2**63), 2**63 - 1)
scopes = st.text(max_size=20)
URL_SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
characters = st.sampled_from(URL_SAFE) | st.characters()


def instant(scope: str, at: datetime, row_id: UUID) -> tuple[str, Callable[[str], Any]]:
    return instant_cursor(scope, at, row_id), lambda cursor: read_instant_cursor(scope, cursor)


def number(scope: str, value: int) -> tuple[str, Callable[[str], Any]]:
    return number_cursor(scope, value), lambda cursor: read_number_cursor(scope, cursor, FIRST)


# A cursor, and what reads it.
cursors = st.builds(instant, scopes, instants, st.uuids()) | st.builds(number, scopes, numbers)


def refused(read: Callable[[Any], Any], cursor: Any) -> Invalid:
    with pytest.raises(Invalid) as error:
        read(cursor)
    assert error.value.path == "after"
    return error.value


@given(scopes, instants, st.uuids())
@example("", datetime.min.replace(tzinfo=UTC), UUID(int=0))
@example("", *NEWEST)
@example("", datetime(1969, 12, 31, 23, 59, 59, 999999, UTC), UUID(int=1))
def test_a_cursor_of_an_instant_and_an_id_reads_back(scope: str, at: datetime, row_id: UUID) -> None:
    cursor = instant_cursor(scope, at, row_id)
    assert read_instant_cursor(scope, cursor) == (at, row_id)
    assert read_instant_cursor(scope, cursor)[0].utcoffset() == at.utcoffset()
    assert set(cursor) <= set(URL_SAFE), f"{cursor} would need quoting in a URL"


@given(scopes, numbers)
@example("", -(2**63))
@example("", 2**63 - 1)
def test_a_cursor_of_a_number_reads_back(scope: str, value: int) -> None:
    cursor = number_cursor(scope, value)
    assert read_number_cursor(scope, cursor, FIRST) == value
    assert set(cursor) <= set(URL_SAFE), f"{cursor} would need quoting in a URL"


def test_no_cursor_means_the_first_page() -> None:
    assert read_instant_cursor("any", None) == NEWEST
    assert read_number_cursor("any", None, FIRST) == FIRST


@given(cursors, st.data())
def test_a_cursor_with_one_character_changed_is_invalid(
    made: tuple[str, Callable[[str], Any]], data: st.DataObject
) -> None:
    cursor, read = made
    at = data.draw(st.integers(0, len(cursor) - 1))
    other = data.draw(characters)
    assume(other != cursor[at])
    refused(read, cursor[:at] + other + cursor[at + 1 :])


def test_every_change_of_one_character_is_noticed() -> None:
    # All of them, for one cursor: base64 leaves bits unused in the last character, which a decoder may ignore.
    for cursor, read in (number("events", 7), instant("runs", NEWEST[0], UUID(int=5))):
        changed = [
            cursor[:at] + other + cursor[at + 1 :]
            for at in range(len(cursor))
            for other in URL_SAFE
            if other != cursor[at]
        ]
        assert len(changed) == 63 * len(cursor)
        for text in changed:
            refused(read, text)


@given(cursors, st.data())
def test_a_cursor_cut_or_lengthened_is_invalid(made: tuple[str, Callable[[str], Any]], data: st.DataObject) -> None:
    cursor, read = made
    at = data.draw(st.integers(0, len(cursor)))
    refused(read, cursor[:at] + data.draw(st.text(min_size=1)) + cursor[at:])
    shorter = cursor[:at] + cursor[at + data.draw(st.integers(1, len(cursor))) :]
    if shorter != cursor:
        refused(read, shorter)


@pytest.mark.parametrize("extra", ["=", "==", "\n", " ", "\0", "A", "%3D"])
@pytest.mark.parametrize("before", [True, False])
def test_padding_and_spaces_are_no_part_of_a_cursor(extra: str, before: bool) -> None:
    cursor, read = number("events", 7)
    refused(read, extra + cursor if before else cursor + extra)


@given(scopes, scopes, instants, st.uuids(), numbers)
def test_a_cursor_of_another_list_is_invalid(mine: str, other: str, at: datetime, row_id: UUID, value: int) -> None:
    assume(mine != other)
    refused(lambda cursor: read_instant_cursor(mine, cursor), instant_cursor(other, at, row_id))
    refused(lambda cursor: read_number_cursor(mine, cursor, FIRST), number_cursor(other, value))
    refused(lambda cursor: read_number_cursor(mine, cursor, FIRST), instant_cursor(mine, at, row_id))
    refused(lambda cursor: read_instant_cursor(mine, cursor), number_cursor(mine, value))


def test_a_list_that_is_named_by_no_unicode_text_has_no_cursors() -> None:
    # A caller who passes any text for an id meets this before the id is checked.
    refused(lambda cursor: read_instant_cursor("runs:\ud800", cursor), instant_cursor("runs:?", *NEWEST))


@given(st.text() | st.text(URL_SAFE, max_size=60))
@example("")
@example("\ud800")
@example("A" * 1_000_000)
@example("ä" * 43)
def test_any_other_text_is_invalid_and_nothing_worse(text: str) -> None:
    refused(lambda cursor: read_instant_cursor("runs", cursor), text)
    refused(lambda cursor: read_number_cursor("events", cursor, FIRST), text)


@pytest.mark.parametrize("value", [b"abc", 7, 0, False, [], UUID(int=1)])
def test_a_cursor_of_another_type_is_invalid_and_names_the_type(value: object) -> None:
    assert type(value).__name__ in str(refused(lambda cursor: read_instant_cursor("runs", cursor), value))
    assert type(value).__name__ in str(refused(lambda cursor: read_number_cursor("events", cursor, FIRST), value))


@pytest.mark.parametrize("limit", [0, -1, MAX_LIMIT + 1, 10**9, 2**63, True, False, "5", 5.0, None, [5]])
def test_a_limit_outside_1_to_500_is_invalid(limit: Any) -> None:
    with pytest.raises(Invalid) as error:
        check_limit(limit)
    assert error.value.path == "limit"


def test_a_limit_inside_is_taken() -> None:
    assert [check_limit(limit) for limit in (1, 50, MAX_LIMIT)] == [1, 50, 500]


@given(st.lists(numbers, max_size=6), st.integers(1, 5))
def test_a_page_has_a_cursor_if_and_only_if_there_is_more(rows: list[int], limit: int) -> None:
    rows = rows[: limit + 1]
    found = page(rows, limit, lambda row: f"after {row}")
    expected = Page(rows[:limit], f"after {rows[limit - 1]}" if len(rows) > limit else None)
    assert found == expected

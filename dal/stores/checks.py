"""What stores ask of an argument beyond its type. Each check returns the value to store, or raises Invalid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from dal.core.rows import Encoded, Json, check_text
from dal.errors import Invalid

MAX_KEY_BYTES = 512
MAX_FILTER_VALUES = 100  # because a document may have to be compared with each of them

L = TypeVar("L", bound=str)


def check_key(value: str, path: str) -> str:
    """Text that is looked up by: 1 to 512 bytes of UTF-8, because an index entry has to hold it."""
    size = len(check_text(value, path).encode())
    if not 1 <= size <= MAX_KEY_BYTES:
        raise Invalid(f"{size} bytes; takes 1 to {MAX_KEY_BYTES}", path=path)
    return value


def check_length(value: str, path: str, low: int, high: int) -> str:
    """Text of so many characters."""
    if not low <= len(check_text(value, path)) <= high:
        raise Invalid(f"{len(value)} characters; takes {low} to {high}", path=path)
    return value


def check_number(value: float, path: str, low: float, high: float) -> float:
    """A number from low to high, an int too, as a float."""
    if type(value) is not int and type(value) is not float:
        raise Invalid(f"takes a number, not {type(value).__name__}", path=path)
    if not low <= value <= high:  # nor NaN
        raise Invalid(f"takes a number from {low:g} to {high:g}", path=path)
    return float(value)


def check_choice(value: L, path: str, choices: Sequence[str]) -> L:
    """One of a few words."""
    if type(value) is not str or value not in choices:
        shown = f"'{check_text(value, path)[:40]}'" if type(value) is str else type(value).__name__
        raise Invalid(f"{shown}; takes {', '.join(choices)}", path=path)
    return value


def check_tags(value: Sequence[str], path: str = "tags") -> list[str]:
    """Tags trimmed, in lower case, each once, in the order given."""
    if type(value) is not list and type(value) is not tuple:
        raise Invalid(f"takes a list or tuple of str, not {type(value).__name__}", path=path)
    return list(dict.fromkeys(check_tag(tag, f"{path}[{at}]") for at, tag in enumerate(value)))


def check_tag(value: str, path: str) -> str:
    """One tag, trimmed, in lower case."""
    return check_key(check_text(value, path).strip().lower(), path)


def check_filter(value: Json, path: str) -> Encoded:
    """An object that documents are to contain: at most 100 values, objects and arrays among them.

    Nothing but an object, because ``@>`` of jsonb has another rule for a single value at the top than inside.
    """
    if type(value) is not dict:
        raise Invalid(f"takes a dict, not {type(value).__name__}", path=path)
    encoded = Encoded.of(value, path)
    count, waiting = 0, [value]
    while waiting:
        each: Json = waiting.pop()
        count += 1
        if type(each) is dict:
            waiting += each.values()
        elif type(each) is list:
            waiting += each
        if count > MAX_FILTER_VALUES:
            raise Invalid(f"more than {MAX_FILTER_VALUES} values to look for", path=path)
    return encoded

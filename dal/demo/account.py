"""Checking the demo's answers, and telling of them: no ids, no times of day, no figures of the machine."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dal import DalError, Page

E = TypeVar("E", bound=DalError)
T = TypeVar("T")


class WrongAnswer(Exception):
    """The database answered something else than it must."""


class Account:
    """What is told of the day, and how many answers were checked."""

    def __init__(self, console: Console) -> None:
        self.checked = 0
        self.names: dict[UUID, str] = {}  # what an id in a message stands for
        self.part = ""
        self._console = console
        self._parts = itertools.count(1)

    def chapter(self, title: str) -> None:
        """Begin a part."""
        self.part = f"{next(self._parts)}. {title}"
        self._console.print()
        self._console.rule(f"[bold]{self.part}", align="left", style="dim", characters="-")

    def say(self, text: str) -> None:
        """A paragraph, or lines."""
        self._console.print(text, markup=False)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None) -> None:
        """A table; a column whose name starts with > is aligned to the right."""
        table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="", header_style="bold")
        for column in columns:
            justify: Literal["left", "right"] = "right" if column.startswith(">") else "left"
            table.add_column(column.lstrip(">"), justify=justify, overflow="fold")
        for row in rows:
            table.add_row(*[str(cell).replace("[", r"\[") for cell in row])
        self._console.print(table)

    def same(self, what: str, got: T, wanted: T) -> T:
        """Check an answer. Raises WrongAnswer."""
        self.checked += 1
        if not _equal(got, wanted):
            raise WrongAnswer(f"{what}: {_difference(got, wanted)}")
        return got

    def show(self, asked: str, error: DalError) -> None:
        """A refusal, as its caller sees it, with names for ids."""
        message = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", self._name, str(error))
        self._console.print(Padding(Text(asked), (1, 0, 0, 2)))
        said = Text.assemble((f"{type(error).__name__}: ", "bold"), message)
        self._console.print(Padding(said, (0, 0, 0, 4)))

    def refused(self, asked: str, kind: type[E], call: Callable[[], object]) -> E:
        """Check that a call is refused, with this error and no other. Raises WrongAnswer."""
        self.checked += 1
        try:
            answer = call()
        except DalError as error:
            if type(error) is not kind:
                raise WrongAnswer(f"{asked}: {type(error).__name__} ({error}), expected {kind.__name__}") from error
            return error
        raise WrongAnswer(f"{asked}: answered {answer!r:.200}, expected {kind.__name__}")

    def _name(self, found: re.Match[str]) -> str:
        return f"<{self.names.get(UUID(found[0]), 'id')}>"


def _equal(got: object, wanted: object) -> bool:
    """Whether two answers are equal, in JSON too: to Python alone, 1, 1.0 and True are the same."""
    return got == wanted and msgspec.json.encode(got, order="sorted") == msgspec.json.encode(wanted, order="sorted")


def _difference(got: object, wanted: object) -> str:
    """Both; of two rows of one model, the first field that differs, and of two lists, the first row."""
    if isinstance(got, list) and isinstance(wanted, list) and len(got) == len(wanted):
        at = next(at for at, pair in enumerate(zip(got, wanted, strict=True)) if not _equal(*pair))
        return f"number {at + 1} of {len(got)}: {_difference(got[at], wanted[at])}"
    if isinstance(got, list) and isinstance(wanted, list):
        return f"{len(got)} rows, expected {len(wanted)}"
    if type(got) is type(wanted) and isinstance(got, Struct):
        fields = [name for name in got.__struct_fields__ if not _equal(getattr(got, name), getattr(wanted, name))]
        name = next((name for name in fields if name != "id"), fields[0])  # an id tells a reader nothing
        return f"{name} is {getattr(got, name)!r:.300}, expected {getattr(wanted, name)!r:.300}"
    return f"got {got!r:.300}, expected {wanted!r:.300}"


def all_pages(read: Callable[[str | None], Page[T]]) -> list[T]:
    """Every item of a list, page after page; read: the page behind a cursor."""
    items: list[T] = []
    after: str | None = None
    while True:
        page = read(after)
        items += page.items
        if page.next is None:
            return items
        after = page.next

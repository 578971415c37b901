"""What a process forked from another must not touch: connections and locks that both would then have.

    forks.watch(engine)     engine.forked is False from now on, and True in every process forked from this one

One hook for the process rather than a question for each call: asking for the process's id costs a system call.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol
from weakref import WeakKeyDictionary

from dal.errors import InvalidState


class Watched(Protocol):
    """What has a connection to lose. forked: whether it was opened by a process that this one was forked from."""

    forked: bool


_watched: WeakKeyDictionary[Watched, Callable[[], None] | None] = WeakKeyDictionary()


def watch(engine: Watched, in_child: Callable[[], None] | None = None) -> None:
    """Keep ``engine.forked`` true to its name. in_child: called once in the child, where no other thread runs; it must
    not hold the engine."""
    engine.forked = False
    _watched[engine] = in_child


def refusal() -> InvalidState:
    """The error of whoever uses an engine that was opened before the fork."""
    return InvalidState("this process was forked after the database was opened: open another after the fork")


def _mark() -> None:
    for engine, in_child in list(_watched.items()):
        engine.forked = True
        if in_child is not None:
            in_child()


os.register_at_fork(after_in_child=_mark)

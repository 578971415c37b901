"""One async body, two typed faces.

A store's method is written once, as a coroutine function. A decorator makes it a descriptor, and a phantom type
parameter says what a caller gets: ``Store[Sync]`` answers, ``Store[Async]`` answers once awaited. How the body is run
is the engine's business; this module knows no database.

A body runs up to its first query before any connection is taken: it yields NEED when that query's arguments are checked
and encoded. So bad input is refused without a connection, and what a caller changes after the call is not stored.
"""

from __future__ import annotations

import functools
import inspect
import random
import time
import types
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    overload,
)

from dal.core.cursors import Page
from dal.core.rows import Applied
from dal.errors import DalError, InvalidState, NotFound, OutcomeUnknown, Unavailable


class _Need:
    """Awaited by a body's first query: its arguments are checked and encoded, now a session is needed."""

    def __await__(self) -> Generator[object, None, None]:
        yield NEED


NEED = _Need()


class View:
    """The queries as a store's body sees them. The catalog makes a subclass with a method for each query.

    session: None until the engine, asked through NEED, sets it.
    """

    __slots__ = ("session",)
    session: Any

    def __init__(self, session: Any = None) -> None:
        self.session = session


if TYPE_CHECKING:
    from dal.core.queries import Queries
else:
    Queries = View

__all__ = ["Async", "Queries", "Store", "Sync", "applied", "missing", "repeated", "statement", "stream", "transaction"]


class Sync:
    """The face of blocking code: methods return their answer."""


class Async:
    """The face of asyncio code: methods return an awaitable of their answer."""


M = TypeVar("M", Sync, Async)
S = TypeVar("S", contravariant=True)
P = ParamSpec("P")
T = TypeVar("T")

Kind: TypeAlias = Literal["read", "write", "transaction"]
Isolation: TypeAlias = Literal["read committed", "repeatable read", "serializable"]


class Runner(Protocol):
    """An engine, or a transaction of one: runs the body of a method, blocking or as a coroutine."""

    def __call__(self, method: Method[Any, ..., Any], store: Any, /, *args: Any, **kwargs: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Options:
    """How a transaction is opened. SQLite is always serializable; there isolation asks for nothing more."""

    read_only: bool = False
    isolation: Isolation | None = None


class Store(Generic[M]):
    """The base of every store: a runner, and the clock that stamps what it writes."""

    def __init__(self, runner: Runner, clock: Callable[[], datetime]) -> None:
        self._runner = runner
        self.clock = clock


class Method(Generic[S, P, T]):
    """A store's method, seen through an instance as a plain callable of the store's face."""

    def __init__(
        self,
        body: Callable[Concatenate[S, Queries, P], Coroutine[Any, Any, T]],
        kind: Kind,
        options: Options,
        key: str | None = None,
    ) -> None:
        self.body = body
        self.kind = kind
        self.options = options
        self.key = key
        functools.update_wrapper(self, body)  # type: ignore[arg-type]  # a descriptor is documented like a function
        self._function = self._documented()

    def is_keyed(self, arguments: Mapping[str, object]) -> bool:
        """Whether a call with these keyword arguments carries a key: run twice, it takes effect once."""
        return self.key is not None and arguments.get(self.key) is not None

    def _documented(self) -> Callable[..., Any]:
        """What a store's method is made of: a plain function, so that help() and editors show the body's own words."""

        def call(store: Any, /, *args: Any, **kwargs: Any) -> Any:
            return store._runner(self, store, *args, **kwargs)

        functools.update_wrapper(call, self.body)
        signature = inspect.signature(self.body)
        parameters = [parameter for name, parameter in signature.parameters.items() if name != "q"]
        call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # inspect looks there
        return call

    @overload
    def __get__(self, store: None, owner: object) -> Method[S, P, T]: ...
    @overload
    def __get__(self, store: Store[Sync], owner: object) -> Callable[P, T]: ...
    @overload
    def __get__(self, store: Store[Async], owner: object) -> Callable[P, Coroutine[object, object, T]]: ...
    # object, not Any: mypy would take asyncio.gather of two methods for Any.
    def __get__(self, store: Any, owner: object) -> Any:
        if store is None:
            return self
        return types.MethodType(self._function, store)


Body: TypeAlias = Callable[Concatenate[S, Queries, P], Coroutine[Any, Any, T]]


@overload
def statement(body: Body[S, P, T], /) -> Method[S, P, T]: ...
@overload
def statement(*, write: bool = False, key: str | None = None) -> Callable[[Body[S, P, T]], Method[S, P, T]]: ...
def statement(body: Any = None, /, *, write: bool = False, key: str | None = None) -> Any:
    """A method of one statement, autocommitted: a read, or with ``write=True`` a write.

    key: names the keyword argument under which a write takes effect once, however often it is run. A call that gives it
    is run again when it is not known what became of it. Raises TypeError where it names no such argument.
    """
    kind: Kind = "write" if write else "read"
    if body is not None:
        return Method(body, kind, Options())

    def method(body: Any) -> Any:
        if key is not None:
            named = inspect.signature(body).parameters.get(key)
            if not write or named is None or named.kind is not inspect.Parameter.KEYWORD_ONLY:
                raise TypeError(f"{body.__qualname__}: key must name a keyword-only argument of a write, not {key}")
        return Method(body, kind, Options(), key)

    return method


@overload
def transaction(body: Body[S, P, T], /) -> Method[S, P, T]: ...
@overload
def transaction(
    *, read_only: bool = False, isolation: Isolation | None = None
) -> Callable[[Body[S, P, T]], Method[S, P, T]]: ...
def transaction(body: Any = None, /, *, read_only: bool = False, isolation: Isolation | None = None) -> Any:
    """A method of several statements, all or nothing. It may be run again after a deadlock or a lost race, so it must
    have no effect but its queries."""
    if body is not None:
        return Method(body, "transaction", Options())
    return lambda body: Method(body, "transaction", Options(read_only, isolation))


class Items(Generic[T]):
    """The items of a list, page after page: an iterator on the blocking face, an async iterator on the other.

    One page is held at a time, and between two of them nothing of the database.
    """

    def __init__(self, ask: Callable[..., Any], name: str) -> None:
        """ask: the next page, or an awaitable of it; takes ``after`` from the second on."""
        self._ask: Callable[..., Any] | None = ask
        self._name = name
        self._ready: deque[T] = deque()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        while not self._ready and self._ask:
            page = self._ask()
            if inspect.iscoroutine(page):
                page.close()
                raise TypeError(f"{self._name} is for 'async for' here")
            self._take(page)
        if self._ready:
            return self._ready.popleft()
        raise StopIteration

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        while not self._ready and self._ask:
            page = self._ask()
            if not inspect.isawaitable(page):
                raise TypeError(f"{self._name} is for a plain 'for' here")
            self._take(await page)
        if self._ready:
            return self._ready.popleft()
        raise StopAsyncIteration

    def _take(self, page: Page[T]) -> None:
        self._ready.extend(page.items)
        ask = self._ask
        assert ask is not None  # it has just answered
        if isinstance(ask, functools.partial):
            ask = ask.func
        self._ask = None if page.next is None else functools.partial(ask, after=page.next)


class Stream(Generic[S, P, T]):
    """A store's method that gives the items of all pages, seen through an instance as one that returns an iterator."""

    def __init__(self, body: Callable[Concatenate[S, Queries, P], Coroutine[Any, Any, Page[T]]]) -> None:
        self.page = Method(body, "read", Options())
        functools.update_wrapper(self, body)  # type: ignore[arg-type]  # a descriptor is documented like a function
        self._function = self._documented()

    def _documented(self) -> Callable[..., Any]:
        def call(store: Any, /, *args: Any, **kwargs: Any) -> Any:
            page = self.page.__get__(store, type(store))
            return Items(lambda **after: page(*args, **{**kwargs, **after}), self.page.body.__qualname__)

        functools.update_wrapper(call, self.page._function)
        call.__signature__ = inspect.signature(self.page._function)  # type: ignore[attr-defined]  # inspect looks there
        return call

    @overload
    def __get__(self, store: None, owner: object) -> Stream[S, P, T]: ...
    @overload
    def __get__(self, store: Store[Sync], owner: object) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, store: Store[Async], owner: object) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, store: Any, owner: object) -> Any:
        if store is None:
            return self
        return types.MethodType(self._function, store)


def stream(body: Callable[Concatenate[S, Queries, P], Coroutine[Any, Any, Page[T]]], /) -> Stream[S, P, T]:
    """A method that iterates over a list of any length. Its body answers one page, behind the cursor ``after``."""
    return Stream(body)


class Repeated(Generic[S, P, T]):
    """A store's method in portions, each a statement of its own, seen through an instance as a plain callable."""

    def __init__(
        self, body: Callable[Concatenate[S, Queries, T | None, P], Coroutine[Any, Any, tuple[T, bool]]]
    ) -> None:
        self.portion: Method[S, ..., tuple[T, bool]] = Method(body, "read", Options())
        functools.update_wrapper(self, body)  # type: ignore[arg-type]  # a descriptor is documented like a function
        self._function = self._documented()

    def _documented(self) -> Callable[..., Any]:
        def call(store: Any, /, *args: Any, **kwargs: Any) -> Any:
            portion = self.portion.__get__(store, type(store))
            first = portion(None, *args, **kwargs)
            if inspect.isawaitable(first):
                return _repeated_async(first, portion, args, kwargs)
            answer, is_last = first
            while not is_last:
                answer, is_last = portion(answer, *args, **kwargs)
            return answer

        functools.update_wrapper(call, self.portion.body)
        signature = inspect.signature(self.portion._function)
        kept = [each for at, each in enumerate(signature.parameters.values()) if at != 1]  # behind self: ours
        call.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]  # inspect looks there
        return call

    @overload
    def __get__(self, store: None, owner: object) -> Repeated[S, P, T]: ...
    @overload
    def __get__(self, store: Store[Sync], owner: object) -> Callable[P, T]: ...
    @overload
    def __get__(self, store: Store[Async], owner: object) -> Callable[P, Coroutine[object, object, T]]: ...
    def __get__(self, store: Any, owner: object) -> Any:
        if store is None:
            return self
        return types.MethodType(self._function, store)


async def _repeated_async(first: Any, portion: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    answer, is_last = await first
    while not is_last:
        answer, is_last = await portion(answer, *args, **kwargs)
    return answer


def repeated(
    body: Callable[Concatenate[S, Queries, T | None, P], Coroutine[Any, Any, tuple[T, bool]]], /
) -> Repeated[S, P, T]:
    """A method that reads what may be of any length. Its body does a portion, and answers how far it came and whether
    that was the last; it is given the answer of the portion before, None at first."""
    return Repeated(body)


# --- driving a body ---------------------------------------------------------------------------------------------------


class Started(Generic[T]):
    """A body that has run up to its first query. done: it needed none and its answer is ``value``."""

    __slots__ = ("_body", "_name", "_view", "done", "value")

    def __init__(self, method: Method[Any, ..., T], store: Any, view: View, args: Any, kwargs: Any) -> None:
        self._view = view
        self._name = method.body.__qualname__
        self._body = method.body(store, view, *args, **kwargs)  # type: ignore[arg-type]  # Queries is a View at run time
        self.done = False
        self.value: T
        try:
            asked = self._body.send(None)
        except StopIteration as stop:
            self.done, self.value = True, stop.value
        else:
            if asked is not NEED:
                raise self._misuse()

    def finish(self, session: Any) -> T:
        """Run the rest on a session that never suspends. Raises TypeError if the body awaits anything else."""
        self._view.session = session
        try:
            self._body.send(None)
        except StopIteration as stop:
            answer: T = stop.value
            return answer
        raise self._misuse()

    @types.coroutine
    def resume(self, session: Any) -> Generator[Any, Any, T]:
        """Run the rest on a session that awaits its driver."""
        self._view.session = session
        answer: T = yield from self._body
        return answer

    def _misuse(self) -> TypeError:
        self._body.close()
        return TypeError(f"{self._name} awaits something that is no query; a store's body awaits its queries only")


# --- running a unit of work again -------------------------------------------------------------------------------------


def delays(seconds: float) -> Iterator[float]:
    """How long to wait before each further attempt, with jitter, until ``seconds`` have passed since the first."""
    end = time.monotonic() + seconds
    delay = 0.005
    while time.monotonic() + delay < end:
        yield delay * random.uniform(0.5, 1.5)  # noqa: S311 - spreads callers, protects nothing
        delay = min(delay * 2, 0.5)


def may_run_again(error: DalError, *, keyed: bool = False) -> bool:
    """Whether the whole unit of work may be run again: nothing was done, or its key would tell what was (keyed)."""
    return error.retryable or (keyed and isinstance(error, OutcomeUnknown))


class Retries:
    """Whether and when one transaction is run again, failure by failure."""

    def __init__(self, seconds: float, *, keyed: bool) -> None:
        """seconds: how long from now it may be begun again. keyed: it has an idempotency key, under which a second
        commit has no second effect, so it is run again even if the first may have been made."""
        self._waits = delays(seconds)
        self._keyed = keyed
        self._unknown: OutcomeUnknown | None = None

    def wait(self, error: DalError) -> float:
        """How many seconds to wait before the next attempt. Raises what is to leave, if there is to be none."""
        if self._keyed and isinstance(error, OutcomeUnknown):
            self._unknown = error
        # Unavailable says that nothing was changed; once a commit may have been made, only an answer can say so.
        doubt = self._unknown if isinstance(error, (OutcomeUnknown, Unavailable)) else None
        delay = next(self._waits, None) if doubt or may_run_again(error) else None
        if delay is None:
            raise doubt or error
        return delay


# --- the transaction a caller is in -----------------------------------------------------------------------------------


class OpenUnit(Protocol):
    """A transaction in progress. owner: the engine it belongs to."""

    owner: object
    ended: bool


# All that the caller is inside of, outermost first: a program may use two databases at once.
_current: ContextVar[tuple[OpenUnit, ...]] = ContextVar("dal_transactions", default=())


def refuse_nested(owner: object) -> None:
    """Refuse a call on a database inside whose transaction the caller is: it would wait for itself, or not see it."""
    if any(unit.owner is owner and not unit.ended for unit in _current.get()):
        raise InvalidState("inside 'with db.transaction() as tx' call tx.…, not db.…")


def units_of(owner: object) -> list[OpenUnit]:
    """The transactions on a database that the caller is inside of."""
    return [unit for unit in _current.get() if unit.owner is owner and not unit.ended]


def enter(unit: OpenUnit) -> tuple[OpenUnit, ...]:
    """Note that the caller is inside a unit; returns what was noted before, for ``leave``."""
    before = _current.get()
    _current.set((*before, unit))
    return before


def leave(before: tuple[OpenUnit, ...]) -> None:
    """End what ``enter`` began. A plain set: frameworks may leave in another context than they entered in."""
    _current.set(before)


# --- what stores say of an answer -------------------------------------------------------------------------------------


def missing(error: type[NotFound], what: object) -> NoReturn:
    """Raise ``error`` about what was asked for; made to stand behind ``or``."""
    raise error(str(what)[:200].encode("ascii", "backslashreplace").decode())


def applied(answer: Applied[T] | None, error: type[NotFound], what: object) -> Applied[T]:
    """The answer of a conditional write; no answer means that what it was to change does not exist."""
    return answer or missing(error, what)

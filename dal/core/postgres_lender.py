"""Who has which connection: lent when it answers, for as long as a unit of work may take, and back whatever happens."""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Collection
from time import monotonic
from typing import Any

import psycopg
import psycopg_pool

from dal.core import forks
from dal.core.catalog import Query
from dal.core.face import Options
from dal.core.postgres_connection import PROBE
from dal.core.postgres_errors import ENDED, Late, Phase, is_stale, translate
from dal.core.postgres_pool import Wire
from dal.errors import Closed, DalError, OutcomeUnknown, Overloaded, ReadOnly, Unavailable
from dal.settings import Settings

GRACE = 5.0  # seconds: what running calls get when the database is closed, and a rollback at the end of its unit
CALM = 5.0  # seconds between two replacements of the whole pool


class Lender:
    """The pool, as the engine uses it.

    counts: since it was opened: `timeouts` and `refused` of callers who got no connection, `broken` connections found,
    and what the engine adds: `retried` units of work, `unknown` outcomes.
    """

    forked: bool

    def __init__(self, settings: Settings, wire: Wire) -> None:
        self.settings = settings
        self.wire = wire
        self._deadline = settings.postgres_deadline
        self._patience = settings.postgres_pool_timeout
        self.counts: Counter[str] = Counter(timeouts=0, refused=0, broken=0, retried=0, unknown=0)
        self.closed = False
        self.grace = GRACE
        self._lent: set[Any] = set()
        self._distrusted = 0.0  # connections at rest since before then are probed, however short their rest was
        self._drained = -CALM
        pool = weakref.ref(wire.pool)
        forks.watch(self, lambda: _leave_behind(pool()))

    async def take(self, *, probe: bool = False) -> Any:
        """A connection that answers, for one unit of work. Raises Overloaded, Unavailable, Closed, InvalidState.

        probe: ask it even if it was in use a moment ago.
        """
        if self.forked:
            raise forks.refusal()
        connection = await self._next(self._patience)
        kept, now = connection.dal, monotonic()
        if probe or now - kept.rested > PROBE or kept.rested <= self._distrusted or connection.closed:
            connection = await self._answering(connection, now + self._patience)
            kept, now = connection.dal, monotonic()
        kept.rests, kept.until = False, now + self._deadline
        return connection

    async def _answering(self, connection: Any, end: float) -> Any:
        """This connection, or the next one that answers."""
        while True:
            try:
                connection.dal.rests, connection.dal.until = False, monotonic() + PROBE
                if not connection.closed:
                    await self.wire.execute(connection, b"", (), False)
                    return connection
            except psycopg.Error:
                pass
            except BaseException:
                await self.give(connection)
                raise
            self.counts["broken"] += 1
            await self.give(connection, broken=True)
            self.distrust()
            left = end - monotonic()
            if left <= 0:
                raise self._none(self._patience)
            connection = await self._next(left)

    async def _next(self, seconds: float) -> Any:
        """The pool's next connection, in whatever state it is."""
        try:
            connection = await self.wire.take(seconds)
        except psycopg_pool.TooManyRequests as error:
            self.counts["refused"] += 1
            if not self._lent and self.wire.pool.get_stats().get("connections_errors", 0):
                # Callers that gave up still count as waiting, until there is a connection to pass them over with.
                raise self._none(None) from error
            waiting = self.settings.postgres_pool_max_waiting
            detail = f"{waiting} callers are waiting for a connection"
            raise Overloaded(detail, retry_after=self._patience) from error
        except psycopg_pool.PoolTimeout as error:
            self.counts["timeouts"] += 1
            raise self._none(self._patience) from error
        except psycopg_pool.PoolClosed:
            raise Closed("open another with dal.connect") from None
        self._lent.add(connection)
        return connection

    def _none(self, waited: float | None) -> DalError:
        """Why there was no connection: all are in use, or none can be made."""
        if self._lent and waited is not None:  # the pool counts connections that it has yet to make, too
            return Overloaded(f"a caller waited {waited:g} s for a connection", retry_after=waited)
        why = next(iter(self.wire.failure), "the log says why")
        within = "" if waited is None else f" in {waited:g} s"
        fault = Unavailable(f"no connection could be made{within}; {why}")
        fault.retryable = True
        return fault

    async def give(self, connection: Any, *, broken: bool = False) -> None:
        """Take a connection back; the pool replaces one that is closed, or broken, or stale."""
        kept = connection.dal
        if self.forked:
            return
        if broken or kept.is_stale:
            connection.pgconn.finish()
        kept.rests, kept.until, kept.rested = True, math.inf, monotonic()
        self._lent.discard(connection)
        await self.wire.give(connection)

    async def fault(
        self,
        error: psycopg.Error,
        connection: Any,
        query: Query | None = None,
        *,
        phase: Phase = "undone",
        options: Options | None = None,
    ) -> DalError:
        """Our error for psycopg's, after what follows from it for the connection and the pool. options: of the
        transaction it was met in."""
        lost = bool(connection.closed) or error.sqlstate in ENDED
        if lost and phase != "undone" and not isinstance(error, Late) and connection.dal_cursor.pgresult is not None:
            # It was answered. What failed is psycopg's forgetting of another statement, prepared long ago.
            fault: DalError = OutcomeUnknown("the connection was lost", query=query.name if query else None)
        else:
            fault = translate(error, query, phase=phase, lost=lost)
        if isinstance(fault, OutcomeUnknown):
            self.counts["unknown"] += 1
        if lost:
            self.counts["broken"] += 1
            connection.dal.is_stale = True
            self.distrust()
        elif is_stale(error):
            connection.dal.is_stale = True
        elif isinstance(fault, ReadOnly):
            if options is not None and options.read_only:
                fault.retryable = False  # as it was asked for
            else:
                await self.replace()
        return fault

    def distrust(self) -> None:
        """A connection was lost: look whether those at rest still are what they seem."""
        self._distrusted = monotonic()
        if not self.closed:
            self.wire.check()

    async def replace(self) -> None:
        """Replace every connection, those in use once they are given back: they lead to the wrong server."""
        if monotonic() - self._drained > CALM:
            self._drained = monotonic()
            await self.wire.drain()

    def figures(self) -> dict[str, float]:
        """The pool's figures at this moment, as psycopg_pool names them, and our counts."""
        stats = {**self.wire.pool.get_stats(), **self.counts}
        return {name: float(value) for name, value in stats.items()}

    async def close(self, spared: Collection[Any] = ()) -> None:
        """Close the pool: waiting callers get Closed, running calls have GRACE to end in, and are cut off then.

        spared: connections of transactions that the caller itself is inside of. They are closed as those end.
        """
        if self.forked or self.closed:
            return
        self.closed = True
        await self.wire.to_its_end(self._close(spared))

    async def _close(self, spared: Collection[Any]) -> None:
        await self.wire.close(PROBE)
        await self._returned(self.grace, spared)
        for connection in self._lent.difference(spared):
            self.wire.cut(connection)
        await self._returned(PROBE, spared)

    async def _returned(self, seconds: float, spared: Collection[Any]) -> None:
        """Wait until the other connections are back, or the time is up."""
        end = monotonic() + seconds
        while self._lent.difference(spared) and monotonic() < end:
            await self.wire.sleep(0.01)


def _leave_behind(pool: Any) -> None:
    """Keep a forked child's copy of a pool from stopping threads it does not have, under locks that nobody releases."""
    if pool is not None:
        pool._closed = True

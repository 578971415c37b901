"""What flushes the usage of tokens without being asked: a minute after the first use, and when the Dal is closed.

Nothing waits for it: the thread, or the event loop's timer, is there only while something is to be flushed, ends with
the Dal, and keeps neither a process nor a Dal alive. What cannot be stored then is tried again a minute later.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from dal.core import forks
from dal.errors import DalError
from dal.usage import Usage

log = logging.getLogger(__name__)

INTERVAL = 60.0  # seconds from the first use on
LAST = 2.0  # seconds for the flush of a Dal that is closed


class _Flusher:
    forked: bool

    def __init__(self, usage: Usage, flush: Callable[[], Any]) -> None:
        """flush: a bound method, of which no hold is kept."""
        self.usage = usage
        self._flush = weakref.WeakMethod(flush)
        self._ended = False
        usage.on_first = self.arm
        watched = weakref.ref(usage)
        forks.watch(self, lambda: _forget(watched()))

    def arm(self) -> None:
        """See to it that there is a flush within the interval."""
        raise NotImplementedError


def _forget(usage: Usage | None) -> None:
    if usage is not None:
        usage.forget()


class Flusher(_Flusher):
    """For blocking code."""

    def __init__(self, usage: Usage, flush: Callable[[], Any]) -> None:
        super().__init__(usage, flush)
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._timer: threading.Timer | None = None

    def arm(self) -> None:
        with self._lock:
            if self._ended or self._timer is not None:
                return
            timer = threading.Timer(INTERVAL, self._fire)
            timer.daemon = True
            timer.name = "dal-token-usage"
            with suppress(RuntimeError):  # no more threads, for now or because the process ends: then at close
                timer.start()
                self._timer = timer

    def _fire(self) -> None:
        with self._lock:
            self._timer = None
        self._try()
        if self.usage:
            self.arm()

    def _try(self) -> None:
        flush = self._flush()
        if flush is not None:
            with self._flushing:
                try:
                    flush()
                except DalError as error:
                    log.warning("the usage of service tokens could not be stored: %s", error)

    def end(self) -> None:
        """Flush what there is, within a bound, and nothing from now on."""
        if self.forked:
            return
        self.usage.closed = True
        with self._lock:
            self._ended = True
            if self._timer is not None:
                self._timer.cancel()
        if not self.usage and not self._flushing.locked():
            return
        # In a thread, because a server that does not answer may take longer than whoever closes will wait.
        last = threading.Thread(target=copy_context().run, args=(self._try,), name="dal-token-usage", daemon=True)
        with suppress(RuntimeError):  # none is to be had
            last.start()
            last.join(LAST)


class AsyncFlusher(_Flusher):
    """For asyncio code; made in the loop that the Dal belongs to."""

    def __init__(self, usage: Usage, flush: Callable[[], Any]) -> None:
        super().__init__(usage, flush)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def arm(self) -> None:
        with suppress(RuntimeError):  # the loop has gone, and the Dal with it
            self._loop.call_soon_threadsafe(self._arm)

    def _arm(self) -> None:
        if not self._ended and self._timer is None:
            self._timer = self._loop.call_later(INTERVAL, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._task = self._loop.create_task(self._try_and_arm())

    async def _try_and_arm(self) -> None:
        await self._try()
        if self.usage:
            self._arm()

    async def _try(self) -> None:
        flush = self._flush()
        if flush is not None:
            try:
                await flush()
            except DalError as error:
                log.warning("the usage of service tokens could not be stored: %s", error)

    async def end(self) -> None:
        """Flush what there is, within a bound, and nothing from now on."""
        if self.forked:
            return
        self.usage.closed = self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST):
                if self._task is not None:
                    await asyncio.wait([self._task])
                if self.usage:
                    await self._try()

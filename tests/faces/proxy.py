"""A TCP proxy in front of PostgreSQL that counts what the server says: one ReadyForQuery ends one round trip.

    with Proxy(dsn) as proxy, dal.connect(proxy.settings()) as db:
        with proxy.trips() as trips:
            db.runs.get(run_id)
        assert trips.count == 1

It can also be a bad network: `cut` breaks what is open, `freeze` lets nothing pass, `lose` takes one message or its
answer away.

It reads the messages of the protocol (https://www.postgresql.org/docs/current/protocol-message-formats.html) and passes
every byte on unchanged. The connection is plain, so that they can be read.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from psycopg import conninfo

from dal import Settings

READY = "Z"


class Trips:
    """What was counted, once the block has ended. said: the server's messages by their letter."""

    def __init__(self) -> None:
        self.said: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """Round trips."""
        return self.said[READY]


class Messages:
    """The server's side of one connection, cut into messages as the bytes come in."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._skip = 0  # bytes of a message that are still to come

    def feed(self, data: bytes) -> Iterator[str]:
        """The letters of the messages that begin in these bytes, each once its length is known."""
        self._rest += data
        while self._rest:
            if self._skip:
                passed = min(self._skip, len(self._rest))
                self._skip -= passed
                del self._rest[:passed]
            elif len(self._rest) < 5:
                return
            else:
                letter = chr(self._rest[0])
                self._skip = int.from_bytes(self._rest[1:5], "big") - 4
                del self._rest[:5]
                yield letter


class Proxy:
    """Listens on a port of its own until the block ends."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        target = conninfo.conninfo_to_dict(dsn)
        self._host, self._port = str(target.get("host", "127.0.0.1")), int(target.get("port") or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._said: Counter[str] = Counter()
        self._open: list[socket.socket] = []
        self._ever: list[socket.socket] = []  # closed at the end alone: another thread may be reading
        self._threads: list[threading.Thread] = []
        self._flows = threading.Event()
        self._flows.set()
        self._loses: list[tuple[bytes, bool]] = []
        self._muted: set[socket.socket] = set()
        self.lost = 0

    def settings(self, **options: Any) -> Settings:  # Any: as for Settings
        """Settings that lead through the proxy, with one connection, so that a pool's growth is not counted."""
        port = self._listener.getsockname()[1]
        through = {"host": "127.0.0.1", "hostaddr": None, "port": port, "sslmode": "disable", "gssencmode": "disable"}
        dsn = conninfo.make_conninfo(self._dsn, **through)
        return Settings(**{"backend": "postgres", "postgres_dsn": dsn, "postgres_pool_max_size": 1, **options})

    @contextlib.contextmanager
    def trips(self) -> Iterator[Trips]:
        """Count what the server says while the block runs."""
        trips = Trips()
        with self._lock:
            before = self._said.copy()
        yield trips
        with self._lock:
            trips.said = self._said - before

    def cut(self) -> None:
        """Break every connection, as a lost network does; new ones are let through."""
        with self._lock:
            ends, self._open = self._open, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def freeze(self) -> None:
        """Let nothing pass any more, without closing anything, as a network that drops packets; until `thaw`."""
        self._flows.clear()

    def thaw(self) -> None:
        """Let everything pass again, what was held back first."""
        self._flows.set()

    def lose(self, text: bytes, *, answered: bool) -> None:
        """Break the connection that next sends this text: before the server has it, or when the server has answered.

        Text of a statement is sent the first few times only; later its prepared name is. `lost` counts.
        """
        with self._lock:
            self._loses.append((text, answered))

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.thaw()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)
        for end in self._ever:
            end.close()

    def _start(self, work: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                client, _ = self._listener.accept()
                server = self._connect()
                for end in (client, server):
                    if end.family != socket.AF_UNIX:
                        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._open += [client, server]
                    self._ever += [client, server]
                self._start(self._pump, client, server, None)
                self._start(self._pump, server, client, Messages())

    def _connect(self) -> socket.socket:
        if not self._host.startswith("/"):
            return socket.create_connection((self._host, self._port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{self._host}/.s.PGSQL.{self._port}")
        return server

    def _pump(self, source: socket.socket, target: socket.socket, messages: Messages | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flows.wait()
                if messages is not None:
                    # Counted before the bytes go on: whoever has its answer finds it counted.
                    with self._lock:
                        self._said.update(messages.feed(data))
                if self._is_lost(data, source, target, from_server=messages is not None):
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _is_lost(self, data: bytes, source: socket.socket, target: socket.socket, *, from_server: bool) -> bool:
        """Whether these bytes do not go on. Once an answer is to be lost, the first bytes of it are."""
        with self._lock:
            if from_server:
                return source in self._muted
            for rule in self._loses:
                if rule[0] in data:
                    self._loses.remove(rule)
                    self.lost += 1
                    if rule[1]:
                        self._muted.add(target)
                    return not rule[1]
        return False

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
from typing import Any, Literal, Self

from psycopg import conninfo

from dal import Settings
from tests.cells import PEPPERS

READY = "Z"
COMMIT = b"commit\0"  # as its message ends, whether it is prepared or not
Loss = Literal["before it arrived", "while it ran", "after it was done"]


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
        self._losses: list[tuple[bytes, Loss]] = []
        self.losses = 0
        self._flows = threading.Event()
        self._flows.set()
        self._open: list[socket.socket] = []
        self._ever: list[socket.socket] = []  # closed at the end alone: another thread may be reading
        self._threads: list[threading.Thread] = []

    def settings(self, **options: Any) -> Settings:  # Any: as for Settings
        """Settings that lead through the proxy, with one connection, so that a pool's growth is not counted."""
        port = self._listener.getsockname()[1]
        through = {"host": "127.0.0.1", "hostaddr": None, "port": port, "sslmode": "disable", "gssencmode": "disable"}
        dsn = conninfo.make_conninfo(self._dsn, **through)
        usual = {"postgres_pool_max_size": 1, "token_peppers": PEPPERS}
        return Settings(**{"backend": "postgres", "postgres_dsn": dsn, **usual, **options})

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
        _hang_up(*ends)

    def lose_commit(self, loss: Loss) -> None:
        """Break the connection that sends the next COMMIT."""
        self.lose(COMMIT, loss)

    def lose(self, text: bytes, loss: Loss) -> None:
        """Break the connection that next sends this text: before the server hears of it, at the same time, or in place
        of its answer. ``losses`` counts how often that came to pass.

        A statement's text is sent the first few times only; later its prepared name is.
        """
        with self._lock:
            self._losses.append((text, loss))

    def _loss_of(self, data: bytes) -> Loss | None:
        """What is to become of these bytes of a client."""
        with self._lock:
            for text, loss in self._losses:
                if text in data:
                    self._losses.remove((text, loss))
                    self.losses += 1
                    return loss
        return None

    def freeze(self) -> None:
        """Let nothing pass any more, without closing anything, as a network that drops packets; until `thaw`."""
        self._flows.clear()

    def thaw(self) -> None:
        """Let everything pass again, what was held back first."""
        self._flows.set()

    def stop_listening(self) -> None:
        """Refuse new connections from now on."""
        with contextlib.suppress(OSError):  # done before
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.thaw()
        self.stop_listening()
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
                committing = threading.Event()
                self._start(self._ask, client, server, committing)
                self._start(self._answer, server, client, committing)

    def _connect(self) -> socket.socket:
        if not self._host.startswith("/"):
            return socket.create_connection((self._host, self._port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{self._host}/.s.PGSQL.{self._port}")
        return server

    def _ask(self, client: socket.socket, server: socket.socket, unanswered: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                self._flows.wait()
                loss = self._loss_of(data)
                if loss == "before it arrived":
                    break
                if loss == "while it ran":
                    _hang_up(client)  # first, so that no answer gets through
                    server.sendall(data)
                    break
                if loss == "after it was done":
                    unanswered.set()
                server.sendall(data)
        _hang_up(client, server)

    def _answer(self, server: socket.socket, client: socket.socket, unanswered: threading.Event) -> None:
        messages = Messages()
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                self._flows.wait()
                # Counted before the bytes go on: whoever has its answer finds it counted.
                with self._lock:
                    self._said.update(messages.feed(data))
                if unanswered.is_set():
                    break
                client.sendall(data)
        _hang_up(server, client)


def _hang_up(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)

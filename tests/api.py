"""The example server as a process of its own, and a client that costs little, for tests that talk HTTP to it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.server import free_port

ROOT = Path(__file__).resolve().parents[1]


class Api:
    """``python -m examples.server``, or another command that starts it. log: the file its words go to.

    options: more of its own. environment: DAL_… variables, of which it gets no others.
    """

    def __init__(
        self,
        url: str,
        log: Path,
        *,
        port: int | None = None,
        command: Sequence[str] = (),
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = port or free_port()
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._command = [*command] or [
            *(sys.executable, "-m", "examples.server", "--log-level", "warning"),
            *("--url", url, "--port", str(self.port), *options),
        ]
        self._environment = environment or {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it is ready."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("DAL_", "MAKE"))}
        environment |= self._environment
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end = time.monotonic() + 60
        while not self._ready():
            assert self._process.poll() is None, f"it ended with {self._process.returncode}:\n{self.words()}"
            assert time.monotonic() < end, f"it is not ready:\n{self.words()}"
            time.sleep(0.02)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/ready", timeout=10) as answer:  # noqa: S310 - our own server
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False

    def terminate(self) -> None:
        """Tell it to end."""
        assert self._process
        self._process.terminate()

    def wait(self) -> int:
        """Its exit status, when it has ended."""
        assert self._process
        return self._process.wait(60)

    def stop(self) -> None:
        """Tell it to end, and see it end well."""
        self.terminate()
        status = self.wait()
        assert status == 0, f"it ended with {status}:\n{self.words()}"

    def restart(self) -> None:
        """Stop it and start it again on the same port."""
        self.stop()
        self.start()

    def words(self) -> str:
        """All it has said so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Answer(NamedTuple):
    """What came back. headers: by their names in lower case."""

    status: int
    headers: Mapping[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


class Client:
    """One client of a server on 127.0.0.1, with one connection that it keeps: a hundred of them cost less than the
    server they ask, which httpx's do not (4.3 s of CPU for 1,000 requests, where the server took 1.1 s)."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(
        self, method: str, path: str, body: object, headers: Mapping[str, str], *, hang_up: bool = False
    ) -> Answer:
        """One request and its answer. Raises ConnectionError when refused, or cut off before the answer was whole.

        hang_up: close the connection when the request is sent, as a client that loses its network seems to.
        """
        sent = b"" if body is None else json.dumps(body).encode()
        kind = {"content-type": "application/json"} if sent else {}
        lines = {"host": f"127.0.0.1:{self._port}", "content-length": str(len(sent)), **kind, **headers}
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            writer.write(f"{head}\r\n".encode() + sent)
            await writer.drain()
            if hang_up:
                raise ConnectionAbortedError("closed by the client")
            status, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
            told = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest if line)}
            answer = Answer(
                int(status.split()[1]), told, (await reader.readexactly(int(told["content-length"]))).decode()
            )
        except asyncio.IncompleteReadError as error:
            self.close()
            raise ConnectionError("closed by the server") from error
        except BaseException:
            self.close()
            raise
        if told.get("connection") == "close":
            self.close()
        return answer

    def close(self) -> None:
        """Let the connection go; the next request makes another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._streams is not None:
            writer = self._streams[1]
            self.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

"""Connections to PostgreSQL: what they are opened with, what is kept on them, and when waiting for an answer ends."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from time import monotonic
from typing import Any, ClassVar, Self, TypeAlias, TypeVar

import msgspec
import psycopg
from psycopg import RawCursor, conninfo
from psycopg.raw_cursor import AsyncRawCursor
from psycopg.types.json import set_json_loads

from dal.core.postgres_errors import Late, first_line
from dal.errors import Invalid, SchemaError
from dal.settings import Settings

T = TypeVar("T")
Rows: TypeAlias = tuple[Sequence[Any], int]
Values: TypeAlias = tuple[tuple[object, ...], ...]

OLDEST = 140000
PROBE = 1.0  # seconds: how long a connection may rest without being probed, and how long its answer may take

# What a role, a database or a server may have set otherwise, so that a value or a statement would mean something else.
_SESSION = {
    "timezone": "UTC",
    "datestyle": "ISO",
    "intervalstyle": "iso_8601",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "client_encoding": "UTF8",
    "default_transaction_isolation": "read committed",  # under another, two creates at once would collide
}


# --- settings ---------------------------------------------------------------------------------------------------------


def connection_arguments(settings: Settings) -> dict[str, Any]:
    """What psycopg connects with: the DSN's own words, and ours where a difference would change an answer.

    Raises Invalid for a DSN that cannot be read; what it holds is not shown.
    """
    assert settings.postgres_dsn is not None  # Settings refuses this backend without one
    dsn = settings.postgres_dsn.get_secret_value()
    try:
        given = conninfo.conninfo_to_dict(dsn)
    except (psycopg.ProgrammingError, UnicodeDecodeError):
        given = None
    if given is None:  # outside the except block: the complaint quotes the DSN
        raise Invalid("cannot be read as a URL or as key=value pairs", path="DAL_POSTGRES_DSN")
    places = f"{given.get('host', '')}{given.get('dbname', '')}"
    if "://" in dsn and ("@" in places or not re.fullmatch(r"[\d,]*", str(given.get("port", "")))):
        # Part of the password would stand for a host or port, and be shown by whoever cannot connect there.
        raise Invalid("host and port cannot be told from the password: write its @ as %40, its / as %2F",
                      path="DAL_POSTGRES_DSN")  # fmt: skip
    ours: dict[str, Any] = {
        # libpq takes whole seconds, 2 at least
        "connect_timeout": max(2, math.ceil(settings.postgres_connect_timeout)),
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 15000,
        "application_name": "dal",
    }
    arguments = {**ours, **{key: value for key, value in given.items() if value is not None}, "client_encoding": "UTF8"}
    if settings.postgres_pooler == "none":
        limits = {
            "statement_timeout": round(settings.postgres_statement_timeout * 1000),
            "lock_timeout": round(settings.postgres_lock_timeout * 1000),
            "idle_in_transaction_session_timeout": round(settings.postgres_deadline * 1000),
        }
        # The last one counts: a DSN may set other limits, but not what an answer depends on.
        arguments["options"] = f"{_options(limits)} {given.get('options') or ''} {_options(_SESSION)}"
    return arguments


def _options(settings: Mapping[str, object]) -> str:
    escaped = {name: str(value).replace(" ", "\\ ") for name, value in settings.items()}
    return " ".join(f"-c {name}={value}" for name, value in escaped.items())


def check_server(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Refuse a server we would answer differently on. Costs no round trip: the server said it all on connecting."""
    if connection.info.server_version < OLDEST:
        version = connection.info.server_version // 10000
        raise SchemaError(f"PostgreSQL {version} is too old; {OLDEST // 10000} is needed")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise SchemaError(f"the database's encoding is {encoding}; make one with ENCODING 'UTF8'")
    style = connection.info.parameter_status("DateStyle") or ""
    if not style.startswith("ISO"):  # behind a pooler, where we set nothing
        raise SchemaError(f"DateStyle is '{style}'; behind a pooler, run: alter role … set datestyle = 'ISO'")


# --- connections ------------------------------------------------------------------------------------------------------


class Lent:
    """What we keep on a connection. Times are of time.monotonic."""

    until: float = math.inf  # when its unit of work must have ended
    rests = True  # whether it is in the pool
    rested: float = 0.0  # since when it has been in the pool
    is_stale = False  # not to be given back to the pool: a statement it prepared is no longer good


def _bounded(connection: Any, work: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
    """psycopg's dialogue with the server, ended when the connection's time is up. Raises Late.

    psycopg calls its generators at least ten times a second, whether the server speaks or not; so neither a server that
    is silent nor one that sends a byte a second lasts longer, and an answer that comes at once costs one look at the
    clock. Before anything is sent the connection stays as it is, to be rolled back.
    """
    kept: Lent = connection.dal
    if kept.rests:  # pool.check(), which belongs to no unit of work
        kept = Lent()
        kept.until = monotonic() + PROBE
    if monotonic() >= kept.until:
        raise Late("the unit of work has used up its time")
    send = work.send
    try:
        state = send(None)
        while True:
            state = send((yield state))
            if monotonic() >= kept.until:  # asked again each time: closing the pool brings it forward
                connection.pgconn.finish()
                raise Late("no answer in time")
    except StopIteration as stop:
        answer: T = stop.value
        return answer


def hasten(connection: Any) -> None:
    """Give a server that is asked to cancel a statement a moment to do so; psycopg would give it ten seconds."""
    kept: Lent = connection.dal
    kept.until = min(kept.until, monotonic() + 2 * PROBE)


# Looked up once, and called with arguments by position: half of what super().wait(…) costs on every statement.
_wait: Callable[..., Any] = psycopg.Connection.wait
_wait_async: Callable[..., Any] = psycopg.AsyncConnection.wait


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A blocking connection with our limits and the cursor it keeps."""

    failure: ClassVar[list[str]] = []  # of the wire that it belongs to: why the last attempt to connect failed
    dal: Lent
    dal_cursor: RawCursor[tuple[Any, ...]]
    dal_lock: threading.Lock  # a transaction may be shared by threads, the kept cursor may not

    @classmethod
    def connect(cls, *args: Any, **kwargs: Any) -> Self:
        try:
            connection = super().connect(*args, **kwargs)
        except psycopg.Error as error:
            cls.failure[:] = [first_line(error)]
            raise
        cls.failure.clear()
        return connection

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        return _wait(self, _bounded(self, gen), interval, timeout)

    def cancel_safe(self, *, timeout: float = PROBE) -> None:
        hasten(self)
        super().cancel_safe(timeout=min(timeout, PROBE))

    def configure(self) -> None:
        """Check the server, and make the cursor. Raises SchemaError."""
        check_server(self)
        self.dal = Lent()
        self.dal.rested = monotonic()
        self.dal_cursor = RawCursor(self)
        self.dal_lock = threading.Lock()
        set_json_loads(msgspec.json.decode, context=self.dal_cursor)


class AsyncConnection(psycopg.AsyncConnection[tuple[Any, ...]]):
    """An asyncio connection with our limits and the cursor it keeps."""

    failure: ClassVar[list[str]] = []
    dal: Lent
    dal_cursor: AsyncRawCursor[tuple[Any, ...]]

    @classmethod
    async def connect(cls, *args: Any, **kwargs: Any) -> Self:
        try:
            connection = await super().connect(*args, **kwargs)
        except psycopg.Error as error:
            cls.failure[:] = [first_line(error)]
            raise
        cls.failure.clear()
        return connection

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        return _wait_async(self, _bounded(self, gen), interval, timeout)

    async def cancel_safe(self, *, timeout: float = PROBE) -> None:  # noqa: ASYNC109 - psycopg's own signature
        hasten(self)
        await super().cancel_safe(timeout=min(timeout, PROBE))

    async def configure(self) -> None:
        """Check the server, and make the cursor. Raises SchemaError."""
        check_server(self)
        self.dal = Lent()
        self.dal.rested = monotonic()
        self.dal_cursor = AsyncRawCursor(self)
        set_json_loads(msgspec.json.decode, context=self.dal_cursor)


def has_rows(cursor: Any) -> bool:
    """Whether the statement can answer rows; asking `description` would take a quarter of a point read."""
    return bool(cursor.pgresult.nfields)


def emptied(cursor: Any, rows: Sequence[Any]) -> Rows:
    """The rows; the kept cursor lets go of libpq's copy of them, which may be large."""
    count = cursor.rowcount
    cursor.pgresult.clear()
    return rows, count


def execute(connection: Connection, sql: bytes, values: Sequence[object], prepare: bool | None) -> Rows:
    """Run one statement, blocking: its rows, and how many it changed. prepare: None once it was run often."""
    cursor = connection.dal_cursor
    with connection.dal_lock:
        cursor.execute(sql, values, prepare=prepare)
        if not has_rows(cursor):
            return (), cursor.rowcount
        return emptied(cursor, cursor.fetchall())

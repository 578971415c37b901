"""Bodies on PostgreSQL: one psycopg pool, blocking or asyncio, behind one engine.

The engine is written once, as coroutines over the few calls that wait for the network. Behind the blocking face those
calls are psycopg's blocking ones in the dress of coroutines, so nothing suspends and the engine is driven by ``send``.

Connections are in autocommit mode; BEGIN and COMMIT are sent where a transaction is meant. Each keeps one cursor, whose
type lookups are made once: a quarter of a point read's time.
"""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec
import psycopg
import psycopg_pool
from psycopg import RawCursor, conninfo
from psycopg.pq import TransactionStatus
from psycopg.raw_cursor import AsyncRawCursor
from psycopg.types.json import set_json_loads

from dal.core.catalog import Catalog, Query
from dal.core.face import Method, Options, Retries, Started, enter, leave, refuse_nested
from dal.errors import (
    Closed,
    Conflict,
    CorruptDatabase,
    DalError,
    Invalid,
    OutcomeUnknown,
    Overloaded,
    SchemaError,
    TransactionAborted,
    Unavailable,
    from_sqlstate,
)
from dal.settings import Settings

T = TypeVar("T")
Rows: TypeAlias = tuple[Sequence[Any], int]
Values: TypeAlias = tuple[tuple[object, ...], ...]

OLDEST = 140000

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
_BEGIN = {
    None: "begin",
    "read committed": "begin isolation level read committed",
    "repeatable read": "begin isolation level repeatable read",
    "serializable": "begin isolation level serializable",
}


# --- settings and errors ----------------------------------------------------------------------------------------------


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


def translate(error: psycopg.Error, query: Query | None = None, *, unknown: bool = False) -> DalError:
    """Our error for psycopg's, by its SQLSTATE; psycopg's own message may quote a value, so only parts are kept.

    unknown: the connection was lost while a commit was under way.
    """
    code = error.sqlstate
    name = query.name if query else None
    # 57P02: the server crashes; that message can come after the commit was written.
    if unknown and code in (None, "57P02"):
        fault: DalError = OutcomeUnknown("the connection was lost", query=name)
    elif code is None:
        unreadable = isinstance(error, psycopg.DataError)
        fault = CorruptDatabase(query=name) if unreadable else Unavailable(_first_line(error), query=name)
    else:
        kind = from_sqlstate(code)
        said = error.diag.message_primary or ""
        detail = f"SQLSTATE {code}" if code.startswith("22") else f"{said} (SQLSTATE {code})"
        if kind is SchemaError and query is not None:
            detail = f"{detail}, in {query.name}, {query.where()}"
        if issubclass(kind, Conflict):
            detail = f"constraint {error.diag.constraint_name} (SQLSTATE {code})"
        fault = kind(detail, query=name)
        if isinstance(fault, Conflict):
            fault.constraint = error.diag.constraint_name
    fault.code = code
    return fault


def _first_line(error: psycopg.Error) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


def _check_server(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
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


# --- what waits for the network, twice --------------------------------------------------------------------------------


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    dal_cursor: RawCursor[tuple[Any, ...]]
    dal_lock: threading.Lock  # a transaction may be shared by threads, the kept cursor may not


class _AsyncConnection(psycopg.AsyncConnection[tuple[Any, ...]]):
    dal_cursor: AsyncRawCursor[tuple[Any, ...]]


class _Wire(Protocol):
    """The calls that wait. Coroutines all; the blocking wire's never suspend."""

    pool: Any
    lent: set[Any]

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def take(self) -> Any: ...
    async def give(self, connection: Any) -> None: ...
    async def execute(self, connection: Any, sql: bytes, values: Sequence[object], prepare: bool | None) -> Rows: ...
    async def shut(self, connection: Any) -> None: ...
    async def sleep(self, seconds: float) -> None: ...


def _pool_arguments(settings: Settings) -> dict[str, Any]:
    return {
        "kwargs": {
            "autocommit": True,
            "prepare_threshold": None if settings.postgres_pooler == "pgbouncer" else 5,
            **connection_arguments(settings),
        },
        "min_size": settings.postgres_pool_min_size,
        "max_size": settings.postgres_pool_max_size,
        "max_waiting": settings.postgres_pool_max_waiting,
        "timeout": settings.postgres_pool_timeout,
        "max_idle": settings.postgres_pool_max_idle,
        "max_lifetime": settings.postgres_pool_max_lifetime,
        "name": "dal",
        "open": False,
    }


class _BlockingWire:
    def __init__(self, settings: Settings) -> None:
        self.pool = psycopg_pool.ConnectionPool(
            connection_class=_Connection, configure=self._configure, **_pool_arguments(settings)
        )
        self.lent: set[_Connection] = set()

    @staticmethod
    def _configure(connection: _Connection) -> None:
        _check_server(connection)
        connection.dal_cursor = RawCursor(connection)
        connection.dal_lock = threading.Lock()
        set_json_loads(msgspec.json.decode, context=connection.dal_cursor)

    async def open(self) -> None:
        self.pool.open()

    async def close(self) -> None:
        self.pool.close()

    async def take(self) -> _Connection:
        connection = self.pool.getconn()
        self.lent.add(connection)
        return connection

    async def give(self, connection: _Connection) -> None:
        self.lent.discard(connection)
        self.pool.putconn(connection)

    @staticmethod
    async def execute(connection: _Connection, sql: bytes, values: Sequence[object], prepare: bool | None) -> Rows:
        cursor = connection.dal_cursor
        with connection.dal_lock:
            cursor.execute(sql, values, prepare=prepare)
            if not _has_rows(cursor):
                return (), cursor.rowcount
            return _emptied(cursor, cursor.fetchall())

    async def shut(self, connection: _Connection) -> None:
        connection.close()

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - the blocking wire


class _AsyncWire:
    def __init__(self, settings: Settings) -> None:
        self.pool = psycopg_pool.AsyncConnectionPool(
            connection_class=_AsyncConnection, configure=self._configure, **_pool_arguments(settings)
        )
        self.lent: set[_AsyncConnection] = set()

    @staticmethod
    async def _configure(connection: _AsyncConnection) -> None:
        _check_server(connection)
        connection.dal_cursor = AsyncRawCursor(connection)
        set_json_loads(msgspec.json.decode, context=connection.dal_cursor)

    async def open(self) -> None:
        await self.pool.open()

    async def close(self) -> None:
        await self.pool.close()

    async def take(self) -> _AsyncConnection:
        connection = await self.pool.getconn()
        self.lent.add(connection)
        return connection

    async def give(self, connection: _AsyncConnection) -> None:
        self.lent.discard(connection)
        await self.pool.putconn(connection)

    async def execute(
        self, connection: _AsyncConnection, sql: bytes, values: Sequence[object], prepare: bool | None
    ) -> Rows:
        cursor = connection.dal_cursor
        await cursor.execute(sql, values, prepare=prepare)
        if not _has_rows(cursor):
            return (), cursor.rowcount
        return _emptied(cursor, await cursor.fetchall())

    async def shut(self, connection: _AsyncConnection) -> None:
        await connection.close()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _has_rows(cursor: Any) -> bool:
    """Whether the statement can answer rows; asking `description` would take a quarter of a point read."""
    return bool(cursor.pgresult.nfields)


def _emptied(cursor: Any, rows: Sequence[Any]) -> Rows:
    """The rows; the kept cursor lets go of libpq's copy of them, which may be large."""
    count = cursor.rowcount
    cursor.pgresult.clear()
    return rows, count


# --- running queries --------------------------------------------------------------------------------------------------

# The server's function that refuses a statement prepared on a schema that has changed since. Refused before it ran,
# like one that another server behind a pooler never prepared (26000), it may run again on a fresh connection.
_STALE_SOURCE = "RevalidateCachedQuery"


class _Session:
    """One connection in autocommit mode, for the queries of one method."""

    __slots__ = ("_core", "connection", "is_stale")

    def __init__(self, core: _Core, connection: Any) -> None:
        self._core = core
        self.connection = connection
        self.is_stale = False

    async def execute(self, query: Query, values: Values) -> Rows:
        self._core.ran[query.name] += 1
        try:
            return await self._core.wire.execute(
                self.connection, query.statements[0].encoded, values[0], False if query.custom else None
            )
        except psycopg.Error as error:
            self.is_stale = error.sqlstate == "26000" or error.diag.source_function == _STALE_SOURCE
            raise translate(error, query, unknown=query.writes and self.is_lost) from error

    @property
    def is_lost(self) -> bool:
        """Whether the connection is gone."""
        return bool(self.connection.closed)


class Unit:
    """A transaction in progress, and the session of its queries."""

    def __init__(self, core: _Core, options: Options, connection: Any) -> None:
        self.owner: object = core
        self.ended = False
        self._connection = connection
        self._core = core
        self._options = options
        self._failed = False
        self._savepoints: list[str] = []

    @property
    def connection(self) -> Any:
        """The connection of a transaction in progress. Raises Closed, TransactionAborted."""
        self._check()
        return self._connection

    async def _command(self, sql: str) -> None:
        try:
            await self._core.wire.execute(self._connection, sql.encode(), (), False)
        except psycopg.Error as error:
            raise translate(error) from error

    async def begin(self) -> None:
        """Start the transaction."""
        isolation = self._options.isolation or ("repeatable read" if self._options.read_only else None)
        await self._command(_BEGIN[isolation] + (" read only" if self._options.read_only else ""))

    async def execute(self, query: Query, values: Values) -> Rows:
        self._core.ran[query.name] += 1
        self._check(query)
        try:
            return await self._core.wire.execute(
                self._connection, query.statements[0].encoded, values[0], False if query.custom else None
            )
        except BaseException as error:
            self._failed = True  # cancelled, too: the caller does not know what the statement did
            if isinstance(error, psycopg.Error):
                raise translate(error, query) from error
            raise

    def _check(self, query: Query | None = None) -> None:
        name = query.name if query else None
        if self.ended:
            raise Closed("use a transaction inside its with block only", query=name)
        if self._connection.closed:
            raise Unavailable("the connection was lost, and the transaction with it", query=name)
        status = self._connection.pgconn.transaction_status
        if self._failed or status == TransactionStatus.INERROR:
            raise TransactionAborted("leave the with block, or the savepoint's", query=name)
        if status == TransactionStatus.IDLE:
            raise Closed("the application ended the transaction on its connection", query=name)

    async def commit(self) -> None:
        """End well. Raises TransactionAborted, rolled back, if a statement had failed."""
        self._check()
        try:
            await self._core.wire.execute(self._connection, b"commit", (), False)
        except psycopg.Error as error:
            raise translate(error, unknown=bool(self._connection.closed)) from error
        finally:
            self.ended = self._connection.pgconn.transaction_status == TransactionStatus.IDLE

    async def roll_back(self) -> None:
        """End without effect; what cannot be rolled back is closed, which has the same effect at the server."""
        if self.ended:
            return
        self.ended = True
        if self._connection.closed or self._connection.pgconn.transaction_status == TransactionStatus.IDLE:
            return
        try:
            await self._command("rollback")
        except DalError:
            await self._core.wire.shut(self._connection)

    async def savepoint(self) -> str:
        """Set a savepoint; returns its name for ``release`` or ``undo``."""
        self._check()
        name = f"dal_{len(self._savepoints) + 1}"
        await self._command(f"savepoint {name}")
        self._savepoints.append(name)
        return name

    async def release(self, name: str) -> None:
        """Keep what was done since the savepoint. Raises TransactionAborted if a statement had failed."""
        self._check()
        await self._command(f"release {name}")
        self._savepoints.remove(name)

    async def undo(self, name: str) -> None:
        """Undo what was done since the savepoint; the transaction is usable again, or left to be rolled back.

        Raises nothing: the caller is leaving by an error of its own.
        """
        try:
            await self._command(f"rollback to {name}")
            await self._command(f"release {name}")
            self._savepoints.remove(name)
            self._failed = False
        except (DalError, ValueError):
            self._failed = True


class _Core:
    """The engine, over a wire."""

    def __init__(self, settings: Settings, catalog: Catalog, wire: _Wire) -> None:
        self.settings = settings
        self.catalog = catalog
        self.wire = wire
        self.ran: Counter[str] = Counter()

    async def take(self) -> Any:
        """A connection of the pool. Raises Overloaded, Unavailable, Closed."""
        limit = self.settings.postgres_pool_timeout
        try:
            return await self.wire.take()
        except psycopg_pool.TooManyRequests as error:
            if not self.wire.lent and self.wire.pool.get_stats().get("connections_errors", 0):
                # Callers that gave up still count as waiting, until there is a connection to pass them over with.
                raise Unavailable("no connection can be made; the log says why") from error
            waiting = self.settings.postgres_pool_max_waiting
            raise Overloaded(f"{waiting} callers are waiting for a connection", retry_after=limit) from error
        except psycopg_pool.PoolTimeout as error:
            if self.wire.lent:  # the pool counts connections that it has yet to make, too
                raise Overloaded(f"a caller waited {limit:g} s for a connection", retry_after=limit) from error
            raise Unavailable(f"no connection could be made in {limit:g} s; the log says why") from error
        except psycopg_pool.PoolClosed:
            raise Closed("open another with dal.connect") from None

    async def run(self, method: Method[Any, ..., T], store: Any, args: Any, kwargs: Any) -> T:
        """Run a method outside any transaction of the caller's."""
        refuse_nested(self)

        async def attempt() -> T:
            started = Started(method, store, self.catalog.view(), args, kwargs)
            if started.done:
                return started.value
            async with self.unit(method.options, nested=True) as unit:
                return await started.resume(unit)

        if method.kind == "transaction":
            return await self.retry(attempt)
        started = Started(method, store, self.catalog.view(), args, kwargs)
        if started.done:
            return started.value
        session = _Session(self, await self.take())
        try:
            return await started.resume(session)
        except DalError:
            again = session.is_stale or (method.kind == "read" and session.is_lost)
            if not again:
                raise
            await self.wire.shut(session.connection)
        finally:
            await self.wire.give(session.connection)
        started = Started(method, store, self.catalog.view(), args, kwargs)
        session = _Session(self, await self.take())
        try:
            return await started.resume(session)
        finally:
            await self.wire.give(session.connection)

    async def run_within(self, unit: Unit, method: Method[Any, ..., T], store: Any, args: Any, kwargs: Any) -> T:
        """Run a method in a transaction; a method that is one itself becomes a savepoint."""
        started = Started(method, store, self.catalog.view(), args, kwargs)
        if started.done:
            return started.value
        if method.kind != "transaction":
            return await started.resume(unit)
        async with self.savepoint(unit):
            return await started.resume(unit)

    async def retry(self, attempt: Callable[[], Coroutine[Any, Any, T]], *, keyed: bool = False) -> T:
        """Run a whole transaction, and again after a collision, within the deadline.

        keyed: it has an idempotency key; then it is run again after a lost commit, too.
        """
        retries = Retries(self.settings.postgres_deadline, keyed=keyed)
        while True:
            try:
                return await attempt()
            except DalError as error:
                delay = retries.wait(error)
            await self.wire.sleep(delay)

    @asynccontextmanager
    async def unit(self, options: Options, *, nested: bool = False) -> AsyncIterator[Unit]:
        """A transaction. nested: a method's own, which its caller does not see."""
        refuse_nested(self)
        connection = await self.take()
        unit = Unit(self, options, connection)
        try:
            await unit.begin()
            before = () if nested else enter(unit)
            try:
                yield unit
            finally:
                if not nested:
                    leave(before)
            await unit.commit()
        finally:
            try:
                await unit.roll_back()
            finally:
                await self.wire.give(connection)

    @asynccontextmanager
    async def savepoint(self, unit: Unit) -> AsyncIterator[None]:
        """A nested transaction."""
        name = await unit.savepoint()
        try:
            yield
            await unit.release(name)
        except BaseException:
            await unit.undo(name)
            raise

    def figures(self) -> dict[str, float]:
        """The pool's figures at this moment, as psycopg_pool names them."""
        return {name: float(value) for name, value in self.wire.pool.get_stats().items()}


# --- the two faces ----------------------------------------------------------------------------------------------------


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends. Raises TypeError if it does."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    coroutine.close()
    raise TypeError("a store's body awaits something that is no query; that works on the async face only")


class Driven:
    """An async context manager that never suspends, as a blocking one."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __enter__(self) -> Any:
        return drive(self._inner.__aenter__())

    def __exit__(self, *raised: Any) -> Any:
        return drive(self._inner.__aexit__(*raised))


class PostgresSync:
    """Runs bodies on the blocking pool."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        """Opens the pool; connections are made in the background."""
        self._core = _Core(settings, catalog, _BlockingWire(settings))
        self.ran = self._core.ran
        self.figures = self._core.figures
        drive(self._core.wire.open())

    def __call__(self, method: Method[Any, ..., T], store: Any, /, *args: Any, **kwargs: Any) -> T:
        return drive(self._core.run(method, store, args, kwargs))

    def retry(self, attempt: Callable[[], T], *, keyed: bool = False) -> T:
        """Run a whole transaction, and again after a collision, within the deadline; keyed, after a lost commit too."""

        async def run() -> T:
            return attempt()

        return drive(self._core.retry(run, keyed=keyed))

    def unit(self, options: Options) -> Driven:
        """An interactive transaction."""
        return Driven(self._core.unit(options))

    def savepoint(self, unit: Unit) -> Driven:
        """A nested transaction."""
        return Driven(self._core.savepoint(unit))

    def within(self, unit: Unit) -> Callable[..., Any]:
        """The runner of a transaction's stores."""

        def run(method: Method[Any, ..., T], store: Any, /, *args: Any, **kwargs: Any) -> T:
            return drive(self._core.run_within(unit, method, store, args, kwargs))

        return run

    def close(self) -> None:
        """Close the pool; waiting callers get Closed."""
        drive(self._core.wire.close())


class PostgresAsync:
    """Runs bodies on the asyncio pool, in the loop that opened it."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._core = _Core(settings, catalog, _AsyncWire(settings))
        self.ran = self._core.ran
        self.figures = self._core.figures
        self.retry = self._core.retry
        self.unit = self._core.unit
        self.savepoint = self._core.savepoint

    async def open(self) -> None:
        """Open the pool; connections are made in the background."""
        await self._core.wire.open()

    def __call__(self, method: Method[Any, ..., T], store: Any, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, T]:
        return self._core.run(method, store, args, kwargs)

    def within(self, unit: Unit) -> Callable[..., Any]:
        """The runner of a transaction's stores."""

        def run(method: Method[Any, ..., T], store: Any, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, T]:
            return self._core.run_within(unit, method, store, args, kwargs)

        return run

    async def close(self) -> None:
        """Close the pool; waiting callers get Closed."""
        await self._core.wire.close()


# --- the door for schema work -----------------------------------------------------------------------------------------


class PostgresDoor:
    """One blocking connection of its own, for what changes or describes the schema."""

    dialect = "postgres"
    _LOCK = 0x64616C  # "dal": one migration at a time in a database

    def __init__(self, settings: Settings) -> None:
        """Connects. Raises Unavailable with the server's words, SchemaError for a server that will not do."""
        self.settings = settings
        try:
            self.connection = _Connection.connect(autocommit=True, **connection_arguments(settings))
        except psycopg.Error as error:
            raise Unavailable(_first_line(error)) from error
        try:
            _BlockingWire._configure(self.connection)
        except BaseException:
            self.connection.close()
            raise

    @property
    def session_pid(self) -> int | None:
        """The server process this connection was told it has."""
        return self.connection.info.backend_pid

    async def execute(self, query: Query, values: Values) -> Rows:
        try:
            return await _BlockingWire.execute(self.connection, query.statements[0].encoded, values[0], False)
        except psycopg.Error as error:
            raise translate(error, query) from error

    def run_sql(self, sql: str) -> None:
        """One statement of a migration."""
        try:
            self.connection.execute(sql.encode(), prepare=False)
        except psycopg.Error as error:
            raise translate(error) from error

    @contextmanager
    def lock(self, seconds: float) -> Iterator[None]:
        """Keep other migrations out. Polled: a session that waits inside pg_advisory_lock can deadlock with an index
        being built concurrently. Raises Unavailable when another has it for too long."""
        if self.settings.postgres_pooler != "none":
            raise SchemaError("a migration needs a session of its own: use a DSN that leads past the pooler")
        end = time.monotonic() + seconds
        while not self._value("select pg_try_advisory_lock(%s)", self._LOCK):
            if time.monotonic() > end:
                raise Unavailable(f"another process has been changing the schema for {seconds:g} s")
            time.sleep(0.1)
        try:
            yield
        finally:
            if not self.connection.closed:
                self._value("select pg_advisory_unlock(%s)", self._LOCK)

    def _value(self, sql: str, *values: object) -> Any:
        row = self.connection.execute(sql.encode(), values).fetchone()
        return row and row[0]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One transaction that gives up on a lock after the lock timeout: others queue behind whoever waits for it."""
        limit = round(self.settings.postgres_lock_timeout * 1000)
        try:
            with self.connection.transaction():
                self._value("select set_config('lock_timeout', %s, true)", f"{limit}ms")
                self._value("select set_config('statement_timeout', '0', true)")
                yield
        except psycopg.Error as error:
            raise translate(error) from error

    @contextmanager
    def scratch(self) -> Iterator[PostgresDoor]:
        """An empty schema in a transaction that is rolled back. Raises SchemaError for a role that may make none."""
        try:
            with self.connection.transaction(force_rollback=True):
                name = f"dal_scratch_{self._value('select pg_backend_pid()')}"
                try:
                    self.connection.execute(f"create schema {name}".encode())
                except psycopg.errors.InsufficientPrivilege as error:
                    raise SchemaError(
                        "to compare, the migrations are run in a schema of their own, which is rolled back; the role "
                        "may make none: grant it CREATE on the database, or use a role that has it"
                    ) from error
                self.connection.execute(f"set local search_path to {name}".encode())
                yield self
        except psycopg.Error as error:
            raise translate(error) from error

    def close(self) -> None:
        self.connection.close()

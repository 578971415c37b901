"""``Dal``: the stores on one database, and the ways to open and close it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeVar, overload

from msgspec import Struct

from dal.core.catalog import Catalog
from dal.core.face import Async, Isolation, M, Options, Queries, Store, Sync, statement
from dal.core.postgres import PostgresAsync, PostgresSync
from dal.core.postgres_door import PostgresDoor
from dal.core.rows import Json
from dal.core.schema import MODELS, Schema
from dal.core.sqlite import SqliteAsync, SqliteSync
from dal.core.sqlite_door import SqliteDoor
from dal.core.sqlite_file import File
from dal.errors import CatalogError, Invalid
from dal.flusher import AsyncFlusher, Flusher
from dal.peppers import keyring_of
from dal.settings import Settings
from dal.stores.crons import Cron
from dal.stores.history import Execution, History, Step, StreamedStep
from dal.stores.keys import Asked, Claim, Claims, Key, Keys
from dal.stores.retries import FailedRun, RetryPolicy
from dal.stores.runs import Run, Runs, StatusCount
from dal.stores.token_audit import AuditRow, SealedHead
from dal.stores.token_keys import Keyring
from dal.stores.token_records import PepperCount, Refusal, StoredToken, TokenRecord, TokenUsage
from dal.stores.tokens import Desk, Tokens
from dal.stores.triggers import Triggers
from dal.stores.versions import Version, Versions
from dal.stores.webhooks import Webhook
from dal.stores.workflows import Event, Workflow, Workflows
from dal.usage import Usage

T = TypeVar("T")
Clock = Callable[[], datetime]


class Health(Struct, frozen=True):
    """How a database answers now.

    latency_ms: of one small query, waiting for a connection included. pool: the engine's own figures.
    """

    backend: str
    schema_version: int
    latency_ms: float
    pool: dict[str, float]


_MODELS: tuple[type[Struct], ...] = (
    *(Workflow, Event, Version, Run, StatusCount, Key, Claim),
    *(Cron, Webhook, RetryPolicy, FailedRun),
    *(Execution, Step, StreamedStep),
    *(TokenRecord, StoredToken, TokenUsage, Refusal, PepperCount, AuditRow, SealedHead),
    *MODELS,
)
MODELS_BY_NAME = {model.__name__: model for model in _MODELS}


def utc_now() -> datetime:
    """The clock a Dal uses unless it is given another."""
    return datetime.now(UTC)


class Stores(Store[M]):
    """Every store, run by one engine or one transaction."""

    def __init__(self, runner: Any, clock: Clock, desk: Desk) -> None:
        super().__init__(runner, clock)
        self._desk = desk
        self.workflows: Workflows[M] = Workflows(runner, clock)
        self.versions: Versions[M] = Versions(runner, clock)
        self.runs: Runs[M] = Runs(runner, clock)
        self.triggers: Triggers[M] = Triggers(runner, clock)
        self.keys: Keys[M] = Keys(runner, clock)
        self.history: History[M] = History(runner, clock)
        self.tokens: Tokens[M] = Tokens(runner, clock, desk)


class Tx(Stores[M]):
    """A transaction: its stores' methods take effect together when it ends well, or not at all."""

    def __init__(self, engine: Any, unit: Any, clock: Clock, desk: Desk) -> None:
        super().__init__(engine.within(unit), clock, desk.within())
        self._engine = engine
        self._unit = unit

    @property
    def connection(self) -> Any:
        """The driver's own connection, for the application's own tables: sqlite3.Connection, psycopg.Connection or
        psycopg.AsyncConnection. What is done on it belongs to this transaction; it must not be ended there.

        A statement of the application's own that fails aborts the transaction on PostgreSQL, and does not on SQLite:
        let its error leave the block. Read a cursor to its end, or close it, before the block ends: on SQLite an open
        one keeps the connection in the past for whoever has it next. Raises Closed once the transaction has ended.
        """
        return self._unit.connection

    @overload
    def transaction(self: Tx[Sync]) -> AbstractContextManager[Tx[Sync]]: ...
    @overload
    def transaction(self: Tx[Async]) -> AbstractAsyncContextManager[Tx[Async]]: ...
    def transaction(self) -> Any:
        """A savepoint: leaving its block by an exception undoes what was done inside it, and no more."""
        return (_nested_async if _is_async(self._engine) else _nested)(self)


class Dal(Stores[M]):
    """The stores on one database. Made by ``connect`` (Dal[Sync]) or ``aconnect`` (Dal[Async])."""

    def __init__(self, engine: Any, settings: Settings, clock: Clock, keys: Callable[[], Keyring]) -> None:
        super().__init__(engine, clock, Desk(keys, Usage()))
        self._engine = engine
        self.settings = settings
        flush: Any = self.tokens  # of either face
        self._flusher = (AsyncFlusher if _is_async(engine) else Flusher)(self._desk.usage, flush.flush_usage)

    def __repr__(self) -> str:
        return f"<Dal on {self.settings.backend}>"

    @overload
    def transaction(
        self: Dal[Sync], *, read_only: bool = False, isolation: Isolation | None = None
    ) -> AbstractContextManager[Tx[Sync]]: ...
    @overload
    def transaction(
        self: Dal[Async], *, read_only: bool = False, isolation: Isolation | None = None
    ) -> AbstractAsyncContextManager[Tx[Async]]: ...
    def transaction(self, *, read_only: bool = False, isolation: Isolation | None = None) -> Any:
        """Several methods, all or nothing: ``with db.transaction() as tx``, and inside it ``tx.runs.create(...)``.

        read_only: one consistent view of the database, no writes. isolation: on PostgreSQL 'read committed' unless read
        only; SQLite is always serializable. Never run again by itself, though on PostgreSQL two that change the same
        workflow can deadlock: see ``transact``. On SQLite it holds the only writer, for at most DAL_SQLITE_TX_TIMEOUT.
        Raises InvalidState when entered inside itself, and for ``db.…`` calls inside its block, those of tasks that
        were started in the block too.
        """
        if isolation not in (None, "read committed", "repeatable read", "serializable"):
            raise Invalid("takes 'read committed', 'repeatable read' or 'serializable'", path="isolation")
        options = Options(read_only, isolation)
        if _is_async(self._engine):
            return _transaction_async(self._engine, options, self.clock, self._desk)
        return _transaction(self._engine, options, self.clock, self._desk)

    @overload
    def transact(
        self: Dal[Sync],
        fn: Callable[[Tx[Sync]], T],
        *,
        isolation: Isolation | None = None,
        key: str | None = None,
        request: Json = None,
    ) -> T: ...
    @overload
    def transact(
        self: Dal[Async],
        fn: Callable[[Tx[Async]], Awaitable[T]],
        *,
        isolation: Isolation | None = None,
        key: str | None = None,
        request: Json = None,
    ) -> Awaitable[T]: ...
    def transact(
        self,
        fn: Callable[[Any], Any],
        *,
        isolation: Isolation | None = None,
        key: str | None = None,
        request: Json = None,
    ) -> Any:
        """Run ``fn(tx)`` in a transaction, and again in a fresh one after a deadlock, a serialization failure or a busy
        SQLite, with jitter and within a deadline; returns what it returns. It must have no effect outside ``tx``.

        key: an idempotency key, 1 to 512 bytes, one namespace for the whole database. What is done under it is done
        once: given again, by whomever, it answers what fn answered the first time and runs nothing; while another
        caller is at it, it waits for the outcome. Then a commit whose answer was lost is run again, too. If fn raises,
        nothing is kept and the key stays free. fn returns a JSON value (of a model: its id as str, or
        ``msgspec.json.decode(msgspec.json.encode(model))``); anything else is Invalid and undone. ``db.keys.prune``
        forgets old keys.
        request: what was asked, any JSON value but None. Its hash is kept with the key, and the same key with another
        request, or with none, is refused. Raises IdempotencyConflict, Invalid, OutcomeUnknown.
        """
        if key is None and request is not None:
            raise Invalid("a request is compared with the one stored under its key; give a key", path="key")
        asked = None if key is None else Asked.of(key, request)
        if _is_async(self._engine):

            async def attempt_async() -> Any:
                async with self.transaction(isolation=isolation) as tx:  # type: ignore[attr-defined]  # async engine
                    if asked is None:
                        return await fn(tx)
                    claims = Claims[Async](tx._runner, self.clock)
                    claim = await claims.claim(asked)
                    return await claims.settle(asked, await fn(tx)) if claim.claimed else claim.result

            return self._engine.retry(attempt_async, keyed=asked is not None)

        def attempt() -> Any:
            with self.transaction(isolation=isolation) as tx:  # type: ignore[attr-defined]  # blocking engine
                if asked is None:
                    return fn(tx)
                claims = Claims[Sync](tx._runner, self.clock)
                claim = claims.claim(asked)
                return claims.settle(asked, fn(tx)) if claim.claimed else claim.result

        return self._engine.retry(attempt, keyed=asked is not None)

    @statement
    async def health(self, q: Queries) -> Health:
        """Ask the database for its schema version, and time it. Raises Unavailable or its kin when it cannot answer."""
        begun = time.perf_counter()
        version = await q.get_schema_version()
        latency = (time.perf_counter() - begun) * 1000
        return Health(self.settings.backend, version or 0, round(latency, 3), self._engine.figures())

    @property
    def calls(self) -> dict[str, int]:
        """How often each named query was sent since this Dal was opened."""
        return dict(self._engine.ran)

    @overload
    def close(self: Dal[Sync]) -> None: ...
    @overload
    def close(self: Dal[Async]) -> Awaitable[None]: ...
    def close(self) -> Any:
        """Flush the usage of service tokens and close every connection. Later calls raise Closed; closing again does
        nothing.

        The flush gets two seconds, and from then on what any running call gets.
        """
        if isinstance(self._flusher, AsyncFlusher):
            return _close_async(self._flusher, self._engine)
        self._flusher.end()
        return self._engine.close()

    def __enter__(self: Dal[Sync]) -> Dal[Sync]:
        if _is_async(self._engine):
            raise TypeError("this Dal is for asyncio: write 'async with'")
        return self

    def __exit__(
        self: Dal[Sync], kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self: Dal[Async]) -> Dal[Async]:
        if not _is_async(self._engine):
            raise TypeError("this Dal is for blocking code: write 'with', or open it with dal.aconnect")
        return self

    async def __aexit__(
        self: Dal[Async], kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _is_async(engine: Any) -> bool:
    return isinstance(engine, (SqliteAsync, PostgresAsync))


async def _close_async(flusher: AsyncFlusher, engine: Any) -> None:
    try:
        await flusher.end()
    finally:
        await engine.close()


@contextmanager
def _transaction(engine: Any, options: Options, clock: Clock, desk: Desk) -> Generator[Tx[Sync]]:
    with engine.unit(options) as unit:
        yield Tx(engine, unit, clock, desk)


@asynccontextmanager
async def _transaction_async(engine: Any, options: Options, clock: Clock, desk: Desk) -> AsyncGenerator[Tx[Async]]:
    async with engine.unit(options) as unit:
        yield Tx(engine, unit, clock, desk)


@contextmanager
def _nested(tx: Any) -> Generator[Tx[Sync]]:
    with tx._engine.savepoint(tx._unit):
        yield tx


@asynccontextmanager
async def _nested_async(tx: Any) -> AsyncGenerator[Tx[Async]]:
    async with tx._engine.savepoint(tx._unit):
        yield tx


# --- opening ----------------------------------------------------------------------------------------------------------


def load_catalog(settings: Settings) -> Catalog:
    """The queries of the settings' dialect, overrides included. Raises CatalogError for a packaged one.

    An override that does not fit is refused with an error in the log, and the packaged query goes on serving.
    """
    refused: list[CatalogError] = []
    catalog = Catalog.load(settings.backend, MODELS_BY_NAME, settings.sql_dir, refused=refused)
    for fault in refused:
        logging.getLogger("dal.catalog").error("override refused, the packaged query serves: %s", fault)
    return catalog


def _prepare(settings: Settings, migrate: bool | None, clock: Clock) -> tuple[Catalog, File | None]:
    """Load the queries and bring or check the schema. The file is open afterwards; on PostgreSQL there is none."""
    catalog = load_catalog(settings)
    file = File(settings) if settings.backend == "sqlite" else None
    try:
        door = PostgresDoor(settings) if file is None else SqliteDoor(file)
        try:
            schema = Schema(door, catalog, clock)
            if migrate or (migrate is None and file is not None):
                schema.apply()
            schema.require()
        finally:
            door.close()
    except BaseException:
        if file is not None:
            file.close()
        raise
    return catalog, file


def connect(
    database: str | Settings | None = None, *, migrate: bool | None = None, clock: Clock = utc_now
) -> Dal[Sync]:
    """Open a database for blocking code.

    database: a URL, ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``sqlite:///:memory:`` or ``postgresql://…``;
    Settings; or None for the settings of the environment and the YAML file. migrate: apply pending migrations; by
    default on SQLite only. clock: what stamps every write, an aware datetime.
    Raises Invalid, SchemaError, CatalogError, Unavailable.
    """
    settings = Settings.load(database)
    keys = keyring_of(settings)
    catalog, file = _prepare(settings, migrate, clock)
    engine = PostgresSync(settings, catalog) if file is None else SqliteSync(file, catalog)
    return Dal(engine, settings, clock, keys)


class aconnect:
    """Open a database for asyncio code: ``async with aconnect(url) as db``, or ``db = await aconnect(url)``.

    It belongs to the running event loop. Arguments and errors as for ``connect``.
    """

    def __init__(
        self, database: str | Settings | None = None, *, migrate: bool | None = None, clock: Clock = utc_now
    ) -> None:
        self._arguments = (database, migrate, clock)
        self._db: Dal[Async] | None = None

    def __await__(self) -> Generator[Any, Any, Dal[Async]]:
        return self._open().__await__()

    async def _open(self) -> Dal[Async]:
        database, migrate, clock = self._arguments
        settings = Settings.load(database)
        keys = keyring_of(settings)
        preparing = asyncio.ensure_future(asyncio.to_thread(_prepare, settings, migrate, clock))
        try:
            catalog, file = await asyncio.shield(preparing)
        except asyncio.CancelledError:
            preparing.add_done_callback(_close_prepared)
            raise
        if file is not None:
            return Dal(SqliteAsync(file, catalog), settings, clock, keys)
        engine = PostgresAsync(settings, catalog)
        try:
            await engine.open()
        except BaseException:
            await engine.close()
            raise
        return Dal(engine, settings, clock, keys)

    async def __aenter__(self) -> Dal[Async]:
        self._db = await self._open()
        return self._db

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._db is not None  # __aenter__ has run
        await self._db.close()


def _close_prepared(preparing: asyncio.Future[tuple[Catalog, File | None]]) -> None:
    """Close a file that was opened for a caller who has been cancelled since."""
    if not preparing.cancelled() and preparing.exception() is None:
        file = preparing.result()[1]
        if file is not None:
            file.close()


@contextmanager
def open_schema(settings: Settings, clock: Clock = utc_now) -> Generator[Schema]:
    """The schema of a database, to look at or to change, without opening the stores."""
    catalog = load_catalog(settings)
    file = File(settings) if settings.backend == "sqlite" else None
    door = PostgresDoor(settings) if file is None else SqliteDoor(file)
    try:
        yield Schema(door, catalog, clock)
    finally:
        door.close()
        if file is not None:
            file.close()

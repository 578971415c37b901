"""SQLite and PostgreSQL side by side: the same calls in the same order, every answer and every error compared.

Hypothesis makes up the calls: every method of every store, pages walked with cursors, transactions and savepoints that
end well or badly, values from the whole of the value policy and some from beyond it. Ids are made anew for each
database, so they are compared by the name that this machine gave them when they were made. Service tokens are drawn
alike for both, so that their audit chains are equal to the last digit.

HYPOTHESIS_PROFILE=long tries for minutes instead of seconds.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import math
import operator
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec import Struct

from dal import Dal, DalError, Minted, Page, RunNotFound, Settings, Sync, flusher
from dal.stores import tokens
from dal.stores.token_texts import ALPHABET, token_text
from dal.stores.versions import graph_hash
from tests.cells import PEPPERS, Clock, Face, Loop, open_db

START = datetime(2026, 1, 1, tzinfo=UTC)
TABLES = (
    "run_events", "runs", "workflow_versions", "workflow_events", "workflow_tags", "cron_triggers", "webhook_triggers",
    "retry_policies", "workflow_texts", "workflows", "idempotency_keys", "execution_steps", "executions",
    "checkpoint_metrics", "checkpoint_heads", "checkpoints", "service_token_usage", "service_token_refusals",
    "service_token_audit", "service_token_chain", "service_tokens", "chat_texts", "chat_items", "chat_attachments",
    "chat_threads", "own",
)  # fmt: skip
ON_SQLITE = ("execution_terms", "checkpoint_terms", "chat_thread_terms")  # what are indexes on PostgreSQL
IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
PROFILE = settings(
    max_examples=1500 if IS_LONG else 100,
    stateful_step_count=80 if IS_LONG else 50,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


# --- what is compared -------------------------------------------------------------------------------------------------


class Ref(NamedTuple):
    """An id by the name it has on both sides, such as ``run 3``."""

    name: str


class Cursor(NamedTuple):
    """Where a list goes on, on either side; of which list, and with which filters."""

    listed: str
    arguments: tuple[Any, ...]
    filters: tuple[tuple[str, Any], ...]
    after: tuple[str, str]


_UUID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Names:
    """The ids of one side, by name and back."""

    def __init__(self) -> None:
        self.ids: dict[str, UUID] = {}
        self.names: dict[str, str] = {}

    def add(self, name: str, id: UUID) -> None:
        self.ids[name] = id
        self.names[str(id)] = name

    def into(self, value: object, side: int) -> Any:
        """An argument, with this side's ids and cursors in the place of names."""
        if isinstance(value, Ref):
            return self.ids[value.name]
        if isinstance(value, Cursor):
            return value.after[side]
        if type(value) is list and any(type(item) is tuple and isinstance(item[0], Ref) for item in value):
            return [(self.into(item[0], side), *item[1:]) for item in value]
        return value

    def out_of(self, value: object) -> object:
        """An answer in a form that is equal on both sides only if it is the same in value and type, ids by name."""
        if isinstance(value, Entered):
            return "entered"
        if isinstance(value, Page):
            return "Page", [self.out_of(item) for item in value.items], value.next is not None
        if isinstance(value, Struct):
            fields = {name: self.out_of(getattr(value, name)) for name in value.__struct_fields__}
            return type(value).__name__, fields
        if isinstance(value, DalError):
            return self._error(value)
        if isinstance(value, UUID):
            return Ref(self.names.get(str(value), str(value)))
        if isinstance(value, str):
            return self._named(value)
        if isinstance(value, (list, tuple)):
            return type(value).__name__, [self.out_of(item) for item in value]
        if isinstance(value, dict):
            return "dict", sorted((self._named(key), self.out_of(inner)) for key, inner in value.items())
        return type(value).__name__, repr(value)

    def _named(self, text: str) -> str:
        return _UUID.sub(lambda found: self.names.get(found[0], found[0]), text)

    def _error(self, error: DalError) -> object:
        """An error's class, words and attributes; where a database refused in words of its own, not those."""
        attributes = {"path", "found", "current", "retry_after", "query"} | (set() if error.code else {"constraint"})
        told = {name: self.out_of(getattr(error, name, None)) for name in sorted(attributes)}
        return type(error).__name__, told, "" if error.code else self._named(str(error))


# --- values -----------------------------------------------------------------------------------------------------------

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
TEXT = st.one_of(st.none(), WORDS)
ACTOR = st.sampled_from(["ann", "bob", "Ωλ", "'; --", "x" * 512])
NAME = st.one_of(st.sampled_from(["Invoices", " Straße ", "x" * 128, "日本"]), WORDS.filter(str.strip))
HANDLE = st.sampled_from(["a", "A", "b", "c-1", None])
TAGS = st.lists(st.sampled_from(["x", "X ", "y", "%", "É", "e\u0301", "_", "z" * 512]), max_size=4)
ACCESS = st.sampled_from(["personal", "authenticated", "workspace"])
KEY = st.sampled_from([None, "k1", "k2", "'"])
TRANSACTION_KEYS = ["k1", "k2", "K1", "é", "e\u0301", "'"]
NUMBER = st.sampled_from([1, 1, 2, 2, 3, 4, 0, 2**63 - 1])
LIMIT = st.sampled_from([1, 2, 3, 5, 50, 500])
LEAF = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    WORDS,
    st.sampled_from([-0.0, 1e16, 5e-324, 2**53 + 1, "\\u0000", 1, 1.0, True]),
)
JSON = st.recursive(
    LEAF, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(WORDS, inner, max_size=4)), max_leaves=8
)
EXECUTION = st.sampled_from(["e1", "e2", "e3", "E1", "é", "日" * 128, "none"])
FLOW = st.sampled_from(["w1", "w1", "w2", "%"])
SMALL = st.one_of(
    st.sampled_from([1, 1.0, "a", None, True, 0.5]), st.lists(st.sampled_from([1, "a", {"a": 1}]), max_size=3)
)
METADATA = st.one_of(
    st.dictionaries(st.sampled_from("abc"), SMALL, max_size=3),
    st.dictionaries(st.sampled_from("abc"), st.dictionaries(st.sampled_from("ab"), SMALL, max_size=2), max_size=2),
    st.dictionaries(WORDS, JSON, max_size=2),
)
CHECKPOINT = st.sampled_from([None, None, "c1", "c2", "C1", "日" * 128])
METRIC = st.sampled_from(["a", "b", "loss", "é"])
METRICS = st.one_of(
    st.dictionaries(METRIC, st.one_of(st.sampled_from([1, 1.0, 0.5, -1, 2**53 + 1, float(2**53)]), LEAF), max_size=4),
    st.dictionaries(METRIC, JSON, max_size=2),
)
OWNER = st.sampled_from(["ann", "ann", "bob", "%"])
THREAD = st.sampled_from(["t1", "t1", "t2", "T1", "é", "none"])
ITEM = st.sampled_from(["i1", "i2", "i3", "I1", "日", "none"])
FILE = st.sampled_from(["f1", "f2", "none"])
DOCUMENT = st.sampled_from(['{"a": 1}', '{"a":1}', "[1e2, -0.0]", '"\\u00e9"', " null "])
PROSE = st.one_of(
    st.lists(st.sampled_from(["Invoice", "paid", "Straße", "é", "北京", "x2", "of"]), max_size=5).map(" ".join), WORDS
)
QUESTION = st.sampled_from(
    ["invoice", "INV", "strasse", "paid invoice", "e", "北京", "京", "of x", "", "!", "'\"*:&", "z"]
)
EXECUTION_STATUS = st.sampled_from(["running", "completed", "error", "cancelled"])
STATUS = st.sampled_from(["pending", "running", "succeeded", "failed", "cancelled"])
TRIGGERS = ("cron", "webhook", "retry_policy")
WORKER = st.sampled_from([None, "w1", "w1", "w2"])
LEASE = st.sampled_from([0.5, 1, 60, 86_400])
EXPRESSION = st.sampled_from(["* * * * *", "*/7 * * * *", "30 2 * * *", "0 0 29 2 *", "0 0 L * MON", "* 1 * * 7"])
ZONE = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])
WINDOW = st.sampled_from([None, START, START + timedelta(minutes=1), START + timedelta(days=1), START - timedelta(1)])
HEADERS = st.dictionaries(
    st.sampled_from(["X-A", "x-b", "Cookie", "x-'"]), st.sampled_from(["", "1", "Ü", '"']), max_size=3
)
QUERY = st.dictionaries(
    st.sampled_from(["a", "A", "é", "e\u0301", '"', "", "$.a"]), st.sampled_from(["", "1"]), max_size=3
)
RULES: dict[str, st.SearchStrategy[Any]] = {
    "methods": st.sampled_from([["POST"], ["get", "put"]]),
    "required_headers": st.sampled_from([{}, {}, {"X-A": "1"}, {"x-b": None, "Cookie": None}, {"x-'": "Ü"}]),
    "required_query": st.sampled_from([{}, {}, {"a": None}, {"é": "1", "A": ""}, {'"': None}]),
    "secret_headers": st.sampled_from([[], ["X-B"], ["x-'", "x-none"]]),
    "secret_query": st.sampled_from([[], ["a"], ['"', "$.a"], [" "]]),
    "rate_limit": st.sampled_from([None, 1, 2, 3]),
    "rate_window_seconds": st.sampled_from([1, 7, 86_400]),
}

GRANTED: dict[str, st.SearchStrategy[Any]] = {
    "kind": st.sampled_from(["svc", "usr", "tst"]),
    "scopes": st.lists(st.sampled_from(["a", "A", "é", "e\u0301", "'"]), max_size=3),
    "workspace_ids": st.lists(st.sampled_from(["w1", "w2"]), max_size=2),
    "allowed_cidrs": st.sampled_from([None, ["10.0.0.0/8"], ["::ffff:10.0.0.0/104", "2001:db8::/32"]]),
    "rate_limit": st.sampled_from([None, 1, 2**63 - 1]),
    "not_before": st.sampled_from([None, START - timedelta(1), START + timedelta(seconds=1)]),
    "expires_at": st.sampled_from([None, START + timedelta(seconds=2), START + timedelta(days=1)]),
}
TOKEN_NAME = st.sampled_from(["ci", "CI", "Straße", "STRASSE", "i", "İ", " ｃｉ ", "x" * 128, "日本"])
FOREIGN = st.sampled_from([f"made-elsewhere-{letter}" for letter in "abc"])

BAD: dict[str, st.SearchStrategy[Any]] = {
    "text": st.sampled_from(["a\0", "\ud800", 5, "", "x" * 2000, True, None]),
    "json": st.sampled_from(
        [math.nan, [math.inf], {"a": [2**63]}, "\0", {"\udfff": 1}, (1,), {1: 2}, {"a": UUID(int=1)}]
    ),
    "int": st.sampled_from([-1, 2**63, True, "1", None]),
    "id": st.sampled_from([UUID(int=0), UUID(int=2**128 - 1), str(UUID(int=0)), 7]),
    "cursor": st.sampled_from(["", "no cursor", "AAAA", 5]),
    "limit": st.sampled_from([0, 501, True, "5"]),
}
# Calls with a place for one bad value; 'workflow' and 'run' stand for one that there is.
BAD_CALLS: Sequence[tuple[str, str, tuple[Any, ...], dict[str, Any]]] = (
    ("text", "workflows.create", ("?",), {"actor": "ann"}),
    ("text", "workflows.create", ("w",), {"actor": "ann", "handle": "?"}),
    ("text", "workflows.create", ("w",), {"actor": "?"}),
    ("text", "workflows.update", ("workflow",), {"actor": "ann", "description": "?"}),
    ("text", "workflows.update", ("workflow",), {"actor": "ann", "draft_access": "?"}),
    ("text", "workflows.resolve", ("?",), {}),
    ("text", "workflows.list", (), {"tag": "?"}),
    ("text", "versions.create", ("workflow", {}), {"actor": "ann", "notes": "?"}),
    ("text", "runs.create", ("workflow",), {"actor": "ann", "idempotency_key": "?"}),
    ("text", "keys.get", ("?",), {}),
    ("text", "runs.fail", ("run", "?"), {"actor": "ann"}),
    ("text", "runs.cancel", ("run",), {"actor": "?"}),
    ("text", "runs.list", ("workflow",), {"status": "?"}),
    ("json", "workflows.update", ("workflow",), {"actor": "ann", "chat_config": "?"}),
    ("json", "versions.create", ("workflow", "?"), {"actor": "ann"}),
    ("json", "versions.set_runnable_config", ("workflow", 1, "?"), {"actor": "ann"}),
    ("json", "runs.create", ("workflow",), {"actor": "ann", "inputs": "?"}),
    ("json", "runs.succeed", ("run", "?"), {"actor": "ann"}),
    ("int", "versions.get_number", ("workflow", "?"), {}),
    ("int", "versions.diff", ("workflow", 1, "?"), {}),
    ("int", "workflows.update", ("workflow",), {"actor": "ann", "name": "w", "expected_revision": "?"}),
    ("id", "workflows.get", ("?",), {}),
    ("id", "workflows.resolve", ("?",), {}),
    ("id", "workflows.update", ("?",), {"actor": "ann", "name": "w"}),
    ("id", "workflows.archive", ("?",), {"actor": "ann"}),
    ("id", "workflows.unarchive", ("?",), {"actor": "ann"}),
    ("id", "workflows.publish", ("?",), {"actor": "ann"}),
    ("id", "workflows.unpublish", ("?",), {"actor": "ann"}),
    ("id", "workflows.events", ("?",), {}),
    ("id", "versions.create", ("?", {}), {"actor": "ann"}),
    ("id", "versions.get", ("?",), {}),
    ("id", "versions.latest", ("?",), {}),
    ("id", "versions.list", ("?",), {}),
    ("id", "runs.create", ("?",), {"actor": "ann"}),
    ("id", "runs.create", ("workflow",), {"actor": "ann", "version_id": "?"}),
    ("id", "runs.get", ("?",), {}),
    ("id", "runs.start", ("?",), {"actor": "ann"}),
    ("id", "runs.events", ("?",), {}),
    ("text", "runs.claim", ("?",), {"lease_seconds": 1}),
    ("text", "runs.succeed", ("run",), {"actor": "ann", "worker": "?"}),
    ("text", "runs.heartbeat", ("run", "?"), {"lease_seconds": 1}),
    ("id", "runs.heartbeat", ("?", "w1"), {"lease_seconds": 1}),
    ("id", "runs.claim", ("w1",), {"lease_seconds": 1, "workflow_id": "?"}),
    ("id", "runs.counts", ("?",), {}),
    ("limit", "runs.claim", ("w1",), {"lease_seconds": 1, "limit": "?"}),
    ("limit", "runs.requeue_expired", (), {"limit": "?"}),
    ("limit", "triggers.dispatch_due", (), {"limit": "?"}),
    ("text", "triggers.set_cron", ("workflow", "?"), {"actor": "ann"}),
    ("text", "triggers.set_cron", ("workflow", "* * * * *"), {"actor": "ann", "timezone": "?"}),
    ("text", "triggers.dispatch_webhook", ("workflow", {}), {"source_ip": "?"}),
    ("json", "triggers.dispatch_webhook", ("workflow", "?"), {"source_ip": None}),
    ("text", "triggers.dispatch_webhook", ("workflow", {}), {"source_ip": None, "dedupe_key": "?"}),
    ("json", "triggers.dispatch_manual", ("workflow", "?"), {"actor": "ann"}),
    ("id", "triggers.get_cron", ("?",), {}),
    ("id", "triggers.set_cron", ("?", "* * * * *"), {"actor": "ann"}),
    ("id", "triggers.delete_cron", ("?",), {"actor": "ann"}),
    ("id", "triggers.get_webhook", ("?",), {}),
    ("id", "triggers.set_webhook", ("?",), {"actor": "ann"}),
    ("id", "triggers.delete_webhook", ("?",), {"actor": "ann"}),
    ("id", "triggers.get_retry_policy", ("?",), {}),
    ("id", "triggers.set_retry_policy", ("?",), {"actor": "ann"}),
    ("id", "triggers.schedule_retry", ("?", START), {}),
    ("int", "triggers.set_retry_policy", ("workflow",), {"actor": "ann", "max_attempts": "?"}),
    ("int", "triggers.set_webhook", ("workflow",), {"actor": "ann", "rate_limit": "?"}),
    ("cursor", "workflows.list", (), {"after": "?"}),
    ("cursor", "versions.list", ("workflow",), {"after": "?"}),
    ("cursor", "runs.events", ("run",), {"after": "?"}),
    ("text", "history.start", ("?", "w1"), {}),
    ("text", "history.get", ("?",), {}),
    ("text", "history.list", ("w1",), {"status": "?"}),
    ("json", "history.append_step", ("e1", "?"), {}),
    ("json", "history.append_steps", ("e1", "?"), {}),
    ("json", "history.find", ("w1",), {"metadata": "?"}),
    ("cursor", "history.find", ("w1",), {"metadata": {}, "after": "?"}),
    ("cursor", "history.steps", ("e1",), {"after": "?"}),
    ("limit", "history.prune", (START,), {"limit": "?"}),
    ("text", "checkpoints.record", ("?",), {"runnable_config": 1, "id": "c3"}),
    ("text", "checkpoints.record", ("w1",), {"runnable_config": 1, "id": "?"}),
    ("text", "checkpoints.record", ("w1",), {"runnable_config": 1, "id": "c3", "artifact_url": "?"}),
    ("json", "checkpoints.record", ("w1",), {"runnable_config": "?"}),
    ("json", "checkpoints.record", ("w1",), {"runnable_config": 1, "metrics": "?"}),
    ("json", "checkpoints.record", ("w1",), {"runnable_config": 1, "metadata": "?"}),
    ("int", "checkpoints.record", ("w1",), {"runnable_config": 1, "id": "c3", "config_version": "?"}),
    ("text", "checkpoints.get", ("?",), {}),
    ("text", "checkpoints.mark_best", ("?",), {}),
    ("text", "checkpoints.best", ("?",), {}),
    ("text", "checkpoints.top", ("w1", "?"), {}),
    ("limit", "checkpoints.top", ("w1", "a"), {"limit": "?"}),
    ("json", "checkpoints.find", ("w1",), {"metadata": "?"}),
    ("json", "checkpoints.find", ("w1",), {"metrics": "?"}),
    ("cursor", "checkpoints.list", ("w1",), {"after": "?"}),
    ("cursor", "checkpoints.find", ("w1",), {"metrics": {}, "after": "?"}),
    ("text", "workflows.search", ("?",), {}),
    ("cursor", "workflows.search", ("invoice",), {"after": "?"}),
    ("limit", "workflows.make_searchable", (), {"limit": "?"}),
    ("text", "chat.save_thread", ("?", "t9"), {}),
    ("text", "chat.save_thread", ("ann", "t1"), {"title": "?"}),
    ("json", "chat.save_thread", ("ann", "t1"), {"status": "?"}),
    ("text", "chat.get_thread", ("ann", "?"), {}),
    ("text", "chat.list_threads", ("ann",), {"order": "?"}),
    ("text", "chat.list_threads", ("ann",), {"after": "?"}),
    ("json", "chat.list_threads", ("ann",), {"metadata": "?"}),
    ("limit", "chat.list_threads", ("ann",), {"limit": "?"}),
    ("text", "chat.add_item", ("ann", "t1", "i9"), {"type": "m", "item": "?"}),
    ("text", "chat.add_item", ("ann", "t1", "i9"), {"type": "m", "item": "1", "body": "?"}),
    ("text", "chat.save_item", ("ann", "t1", "i9"), {"type": "?", "item": "1"}),
    ("text", "chat.list_items", ("ann", "t1"), {"after": "?"}),
    ("text", "chat.save_attachment", ("ann", "f1"), {"type": "m", "name": "?", "mime_type": "m"}),
    ("text", "chat.search", ("ann", "?"), {}),
    ("cursor", "chat.search", ("ann", "invoice"), {"after": "?"}),
    ("limit", "chat.prune", (START,), {"limit": "?"}),
    ("limit", "workflows.list", (), {"limit": "?"}),
    ("limit", "keys.prune", (START,), {"limit": "?"}),
    ("limit", "runs.list", ("workflow",), {"limit": "?"}),
    ("text", "tokens.mint", ("?",), {"actor": "ann"}),
    ("text", "tokens.mint", ("w",), {"actor": "?"}),
    ("text", "tokens.mint", ("w",), {"actor": "ann", "kind": "?"}),
    ("json", "tokens.mint", ("w",), {"actor": "ann", "scopes": "?"}),
    ("int", "tokens.mint", ("w",), {"actor": "ann", "rate_limit": "?"}),
    ("json", "tokens.mint", ("w",), {"actor": "ann", "allowed_cidrs": "?"}),
    ("text", "tokens.authenticate", ("?",), {}),
    ("text", "tokens.authenticate", ("?",), {"legacy": True}),
    ("text", "tokens.authenticate", ("x",), {"ip": "?"}),
    ("text", "tokens.get", ("?",), {}),
    ("text", "tokens.revoke", ("nobodynobody", "?"), {"actor": "ann"}),
    ("int", "tokens.rotate", ("nobodynobody",), {"actor": "ann", "overlap_seconds": "?"}),
    ("cursor", "tokens.list", (), {"after": "?"}),
    ("cursor", "tokens.audit", ("nobodynobody",), {"after": "?"}),
    ("cursor", "tokens.refusals", (), {"after": "?"}),
    ("limit", "tokens.prune_refusals", (START,), {"limit": "?"}),
)


def some(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Keyword arguments, each there or not."""
    return st.fixed_dictionaries({}, optional=strategies)


def kept(document: object) -> object:
    """A document as it comes back: -0.0 loses its sign."""
    if isinstance(document, dict):
        return {key: kept(inner) for key, inner in document.items()}
    if isinstance(document, list):
        return [kept(inner) for inner in document]
    return document + 0.0 if isinstance(document, float) else document


# --- the machine ------------------------------------------------------------------------------------------------------


class Undo(Exception):
    """Leaves a block without effect."""


class Entered:
    """The block of a transaction or savepoint, and what it gave."""

    def __init__(self, block: Any) -> None:
        self.block = block
        self.scope = block.__enter__()

    def leave(self, *, ends_well: bool) -> None:
        if ends_well:
            self.block.__exit__(None, None, None)
        else:
            with contextlib.suppress(Undo):
                self.block.__exit__(Undo, Undo(), None)


class Sides:
    """The two databases, opened once, emptied for every life of the machine."""

    def __init__(self, sqlite_url: str, postgres_url: str, face: Face, loop: Loop) -> None:
        self.clock = Clock()
        limits: dict[str, Any] = {"sqlite_tx_timeout": 300, "sqlite_synchronous": "normal", "postgres_pool_max_size": 2,
                                  "token_peppers": PEPPERS}  # fmt: skip
        self.drawn = Random()
        self.dbs: tuple[Dal[Sync], Dal[Sync]] = (
            open_db(Settings.from_url(sqlite_url, **limits), face, self.clock, loop),
            open_db(Settings.from_url(postgres_url, postgres_deadline=300, **limits), face, self.clock, loop),
        )
        self.raw = (
            sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None),
            psycopg.connect(postgres_url, autocommit=True),
        )
        for connection in self.raw:
            connection.execute("create table own (n bigint)")

    def empty(self) -> None:
        self.raw[0].execute("begin")
        for table in (*TABLES, *ON_SQLITE):
            self.raw[0].execute(f"delete from {table}")
        self.raw[0].execute("commit")
        self.raw[1].execute(f"truncate {', '.join(TABLES)}")
        for db in self.dbs:
            db._desk.usage.take()

    def draw(self, length: int) -> str:
        """What stands for a random text; the same for the first side as for the second."""
        return "".join(self.drawn.choices(ALPHABET, k=length))

    def close(self) -> None:
        for connection in self.raw:
            connection.close()
        for db in self.dbs:
            db.close()


class Machine(RuleBasedStateMachine):
    """One life of two databases."""

    workflows: Bundle[Ref] = Bundle("workflows")
    versions: Bundle[Ref] = Bundle("versions")
    runs: Bundle[Ref] = Bundle("runs")
    checkpoints: Bundle[Ref] = Bundle("checkpoints")
    cursors: Bundle[Cursor] = Bundle("cursors")
    tokens: Bundle[Minted] = Bundle("tokens")

    sides: ClassVar[Sides]

    def __init__(self) -> None:
        super().__init__()
        sides = self.sides
        sides.empty()
        sides.clock.set(START)
        self.sent = [db.calls for db in sides.dbs]
        self.names = (Names(), Names())
        self.made = 0
        self.tries = 0
        self.blocks: list[list[Entered]] = []  # one a side
        self.entered: list[Entered] = []
        self.read_only = False
        self.is_sound = True
        workflow = self.make("workflow", "workflows.create", "first", actor="ann", handle="a", tags=["x"])
        version = self.make("version", "versions.create", workflow, {"n": 1}, actor="ann", runnable_config={"c": 1})
        self.first = (workflow, version, self.make("run", "runs.create", workflow, actor="ann"))

    def scope(self, side: int) -> Any:
        """What stores are called on: the innermost transaction, or the database."""
        return self.blocks[-1][side].scope if self.blocks else self.sides.dbs[side]

    # --- calling both ---

    def compare(self, what: str, outcomes: Sequence[object]) -> None:
        lite, post = (names.out_of(outcome) for names, outcome in zip(self.names, outcomes, strict=True))
        if lite != post:
            self.is_sound = False
            raise AssertionError(f"{what}\n  SQLite:     {lite}\n  PostgreSQL: {post}")

    def try_both(self, what: str, call: Callable[[int], object], makes: str = "") -> list[Any] | None:
        """Both answers, compared; None if both refused alike. makes: a word for each row that is new in the answers."""
        outcomes: list[Any] = []
        self.tries += 1
        for side in (0, 1):
            self.sides.drawn.seed(self.tries)
            try:
                outcomes.append(call(side))
            except DalError as error:
                outcomes.append(error)
        if makes and not any(isinstance(outcome, DalError) for outcome in outcomes):
            rows = [outcome if isinstance(outcome, list) else [outcome] * (outcome is not None) for outcome in outcomes]
            kinds = makes.split() if " " in makes else itertools.repeat(makes)
            for kind, *ids in zip(kinds, *([row.id for row in side] for side in rows), strict=False):
                self._name(kind, ids)
        self.compare(what, outcomes)
        return None if isinstance(outcomes[0], DalError) else outcomes

    def _name(self, kind: str, ids: Sequence[UUID]) -> None:
        if not any(str(id) in names.names for names, id in zip(self.names, ids, strict=True)):
            self.made += 1
            for names, id in zip(self.names, ids, strict=True):
                names.add(f"{kind} {self.made}", id)

    def both(self, method: str, /, *args: Any, makes: str = "", **kwargs: Any) -> list[Any] | None:
        def call(side: int) -> object:
            into = functools.partial(self.names[side].into, side=side)
            function = operator.attrgetter(method)(self.scope(side))
            return function(*map(into, args), **{name: into(value) for name, value in kwargs.items()})

        return self.try_both(f"{method}{args}{kwargs}", call, makes)

    def make(self, kind: str, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """A new row's name for a bundle; nothing if it was refused."""
        answers = self.both(method, *args, makes=kind, **kwargs)
        return multiple() if answers is None else Ref(self.names[0].names[str(answers[0].id)])

    def make_all(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """The new runs' names for a bundle."""
        answers = self.both(method, *args, makes="run", **kwargs)
        return multiple(*(Ref(self.names[0].names[str(run.id)]) for run in answers[0]) if answers else ())

    # --- what there is from the start ---

    @initialize(target=workflows)
    def first_workflow(self) -> Any:
        return self.first[0]

    @initialize(target=versions)
    def first_version(self) -> Any:
        return self.first[1]

    @initialize(target=runs)
    def first_run(self) -> Any:
        return self.first[2]

    # --- what is refused ---

    @rule(call=st.sampled_from(BAD_CALLS), workflow=workflows, run=runs, data=st.data())
    def ask_badly(self, call: Any, workflow: Ref, run: Ref, data: st.DataObject) -> None:
        kind, method, arguments, keywords = call
        value = data.draw(BAD[kind], label="value")

        def filled(given: Any) -> Any:
            return {"?": value, "workflow": workflow, "run": run}.get(given, given) if type(given) is str else given

        makes = method.removesuffix("s.create") if method.endswith(".create") else ""  # some are good here and there
        makes = {"triggers.dispatch_webhook": "run", "checkpoints.record": "checkpoint"}.get(method, makes)
        self.both(
            method, *map(filled, arguments), makes=makes, **{key: filled(given) for key, given in keywords.items()}
        )

    # --- time ---

    @rule(seconds=st.sampled_from([0.000001, 1, 86400, -3600]))
    def pass_time(self, seconds: float) -> None:
        self.sides.clock.advance(seconds=seconds)

    # --- workflows ---

    @rule(
        target=workflows,
        name=NAME,
        actor=ACTOR,
        given=some(handle=HANDLE, description=TEXT, tags=TAGS, draft_access=ACCESS, chat_config=JSON),
    )
    def create_workflow(self, name: str, actor: str, given: dict[str, Any]) -> Any:
        return self.make("workflow", "workflows.create", name, actor=actor, **given)

    @rule(
        workflow=workflows,
        actor=ACTOR,
        given=some(name=NAME, description=TEXT, tags=TAGS, draft_access=ACCESS, chat_config=JSON),
    )
    def update_workflow(self, workflow: Ref, actor: str, given: dict[str, Any]) -> None:
        self.both("workflows.update", workflow, actor=actor, **given)

    @rule(workflow=workflows, handle=HANDLE, expected=st.sampled_from([None, None, 1, 2, 3]))
    def update_handle(self, workflow: Ref, handle: str | None, expected: int | None) -> None:
        self.both("workflows.update", workflow, actor="ann", handle=handle, expected_revision=expected)

    @rule(workflow=workflows, handle=HANDLE)
    def swap(self, workflow: Ref, handle: str | None) -> None:
        """An archived workflow lends its handle to another, and is wanted back."""
        self.both("workflows.archive", workflow, actor="ann")
        self.both("workflows.create", "heir", actor="ann", handle=handle, makes="workflow")
        self.both("workflows.unarchive", workflow, actor="ann")

    @rule(workflow=workflows, verb=st.sampled_from(["archive", "unarchive", "unpublish"]), actor=ACTOR)
    def change_state(self, workflow: Ref, verb: str, actor: str) -> None:
        self.both(f"workflows.{verb}", workflow, actor=actor)

    @rule(workflow=workflows, require_login=st.booleans())
    def publish(self, workflow: Ref, require_login: bool) -> None:
        self.both("workflows.publish", workflow, actor="ann", require_login=require_login)

    @rule(workflow=workflows)
    def get_workflow(self, workflow: Ref) -> None:
        self.both("workflows.get", workflow)

    @rule(
        ref=st.one_of(workflows, st.sampled_from(["a", "A", "b", "c-1", "none"])),
        given=some(include_archived=st.booleans()),
    )
    def resolve(self, ref: Any, given: dict[str, Any]) -> None:
        self.both("workflows.resolve", ref, **given)

    @rule(handle=st.sampled_from(["a", "b", "d", "d"]), seconds=st.sampled_from([0, 1, -1]))
    def leave_two_archived(self, handle: str, seconds: int) -> None:
        """Of two archived workflows with one handle, the one changed last is meant by it."""
        for _ in range(2):
            workflow = self.make("workflow", "workflows.create", "former", actor="ann", handle=handle)
            if isinstance(workflow, Ref):
                self.both("workflows.archive", workflow, actor="ann")
            self.sides.clock.advance(seconds=seconds)
        for include_archived in (True, False):
            self.both("workflows.resolve", handle, include_archived=include_archived)

    # --- versions ---

    @rule(
        target=versions,
        workflow=workflows,
        graph=JSON,
        given=some(mermaid=TEXT, metadata=JSON, runnable_config=JSON, notes=TEXT),
    )
    def create_version(self, workflow: Ref, graph: Any, given: dict[str, Any]) -> Any:
        answers = self.both("versions.create", workflow, graph, actor="ann", makes="version", **given)
        if answers is None:
            return multiple()
        self.compare(f"the graph {graph!r} came back as {answers[0].graph!r}", [answers[0].graph, kept(graph)])
        return Ref(self.names[0].names[str(answers[0].id)])

    @rule(target=versions, workflow=workflows, count=st.integers(1, 6))
    def create_versions(self, workflow: Ref, count: int) -> Any:
        return multiple(*(self.make("version", "versions.create", workflow, {}, actor="ann") for _ in range(count)))

    @rule(version=versions)
    def get_version(self, version: Ref) -> None:
        self.both("versions.get", version)

    @rule(workflow=workflows, number=NUMBER)
    def get_number(self, workflow: Ref, number: int) -> None:
        self.both("versions.get_number", workflow, number)

    @rule(workflow=workflows)
    def latest(self, workflow: Ref) -> None:
        self.both("versions.latest", workflow)

    @rule(workflow=workflows, graph=st.one_of(st.just({}), st.just({"n": 1}), JSON))
    def find_by_hash(self, workflow: Ref, graph: Any) -> None:
        self.both("versions.find_by_hash", workflow, graph_hash(graph))

    @rule(workflow=workflows, a=NUMBER, b=NUMBER)
    def diff(self, workflow: Ref, a: int, b: int) -> None:
        self.both("versions.diff", workflow, a, b)

    @rule(workflow=workflows, number=NUMBER, config=JSON, actor=ACTOR)
    def set_runnable_config(self, workflow: Ref, number: int, config: Any, actor: str) -> None:
        self.both("versions.set_runnable_config", workflow, number, config, actor=actor)

    # --- runs ---

    @rule(
        target=runs,
        workflow=workflows,
        actor=ACTOR,
        version=st.one_of(st.none(), st.none(), versions),
        given=some(
            inputs=JSON, runnable_config=JSON, tags=TAGS, callbacks=JSON, metadata=JSON, name=TEXT, triggered_by=ACTOR,
            idempotency_key=KEY,
        ),
    )  # fmt: skip
    def create_run(self, workflow: Ref, actor: str, version: Any, given: dict[str, Any]) -> Any:
        return self.make("run", "runs.create", workflow, actor=actor, version_id=version, **given)

    @rule(target=runs, workflow=workflows, key=KEY, inputs=st.sampled_from([None, {}, {"n": 1}, {"n": 1.0}]))
    def create_keyed_runs(self, workflow: Ref, key: str | None, inputs: Any) -> Any:
        """A key means one run of a workflow, and another run of another workflow."""
        other = self.make("workflow", "workflows.create", "other", actor="ann")
        made = []
        for place in (workflow, other):
            if isinstance(place, Ref):
                self.both("versions.create", place, {}, actor="ann", makes="version")
                made.append(self.make("run", "runs.create", place, actor="ann", idempotency_key=key, inputs=inputs))
        return multiple(*(run for run in made if isinstance(run, Ref)))

    @rule(target=runs, workflow=workflows, count=st.integers(1, 6))
    def create_runs(self, workflow: Ref, count: int) -> Any:
        return multiple(*(self.make("run", "runs.create", workflow, actor="ann") for _ in range(count)))

    @rule(target=runs, workflow=workflows, output=JSON, end=st.sampled_from(["", "succeed", "fail", "cancel"]))
    def create_and_start_run(self, workflow: Ref, output: Any, end: str) -> Any:
        run = self.make("run", "runs.create", workflow, actor="ann")
        if isinstance(run, Ref):
            self.both("runs.start", run, actor="ann")
            if end:
                self.both(f"runs.{end}", run, output if end == "succeed" else "why", actor="ann")
        return run

    @rule(run=runs, actor=ACTOR)
    def start(self, run: Ref, actor: str) -> None:
        self.both("runs.start", run, actor=actor)

    @rule(run=runs, given=some(output=JSON, worker=WORKER), actor=ACTOR)
    def succeed(self, run: Ref, given: dict[str, Any], actor: str) -> None:
        self.both("runs.succeed", run, actor=actor, **given)

    @rule(run=runs, error=WORDS, actor=ACTOR, given=some(worker=WORKER))
    def fail(self, run: Ref, error: str, actor: str, given: dict[str, Any]) -> None:
        self.both("runs.fail", run, error, actor=actor, **given)

    @rule(run=runs, reason=TEXT, actor=ACTOR)
    def cancel(self, run: Ref, reason: str, actor: str) -> None:
        self.both("runs.cancel", run, reason, actor=actor)

    @rule(run=runs)
    def get_run(self, run: Ref) -> None:
        self.both("runs.get", run)

    @rule(worker=WORKER.filter(bool), lease=LEASE, limit=LIMIT, workflow=st.one_of(st.none(), workflows))
    def claim(self, worker: str, lease: float, limit: int, workflow: Ref | None) -> None:
        self.both("runs.claim", worker, lease_seconds=lease, limit=limit, workflow_id=workflow)

    @rule(run=runs, worker=WORKER.filter(bool), lease=LEASE)
    def heartbeat(self, run: Ref, worker: str, lease: float) -> None:
        self.both("runs.heartbeat", run, worker, lease_seconds=lease)

    @rule(seconds=st.sampled_from([-60, 0, 60, 86_400]), limit=LIMIT)
    def requeue_expired(self, seconds: float, limit: int) -> None:
        self.both("runs.requeue_expired", self.sides.clock() + timedelta(seconds=seconds), limit)

    @rule(workflow=workflows, since=st.sampled_from([None, START, START + timedelta(seconds=1)]))
    def counts(self, workflow: Ref, since: datetime | None) -> None:
        self.both("runs.counts", workflow, since)

    @rule(target=runs, workflow=workflows, worker=WORKER.filter(bool), seconds=st.sampled_from([0, 1, 400]))
    def claim_fail_and_retry(self, workflow: Ref, worker: str, seconds: float) -> Any:
        run = self.make("run", "runs.create", workflow, actor="ann")
        self.both("runs.claim", worker, lease_seconds=60, limit=500, workflow_id=workflow)
        if not isinstance(run, Ref):
            return multiple()
        self.both("runs.fail", run, "no", actor="ann", worker=worker)
        self.sides.clock.advance(seconds=seconds)
        return self.retry(run, 0)

    # --- triggers ---

    @rule(
        workflow=workflows,
        expression=EXPRESSION,
        given=some(timezone=ZONE, allow_overlapping=st.booleans(), start_at=WINDOW, end_at=WINDOW),
    )
    def set_cron(self, workflow: Ref, expression: str, given: dict[str, Any]) -> None:
        self.both("triggers.set_cron", workflow, expression, actor="ann", **given)

    @rule(workflow=workflows, kind=st.sampled_from(["cron", "webhook"]))
    def delete_trigger(self, workflow: Ref, kind: str) -> None:
        self.both(f"triggers.delete_{kind}", workflow, actor="ann")

    @rule(workflow=workflows)
    def get_triggers(self, workflow: Ref) -> None:
        for kind in TRIGGERS:
            self.both(f"triggers.get_{kind}", workflow)

    @rule(target=runs, seconds=st.sampled_from([-1, 0, 60, 604_800]), limit=LIMIT)
    def dispatch_due(self, seconds: float, limit: int) -> Any:
        return self.make_all("triggers.dispatch_due", self.sides.clock() + timedelta(seconds=seconds), limit)

    @rule(target=runs, workflow=workflows, expression=EXPRESSION, overlapping=st.booleans())
    def set_and_dispatch_due(self, workflow: Ref, expression: str, overlapping: bool) -> Any:
        self.both("triggers.set_cron", workflow, expression, actor="ann", allow_overlapping=overlapping)
        self.sides.clock.advance(days=1)
        return self.make_all("triggers.dispatch_due")

    @rule(workflow=workflows, given=some(**RULES))
    def set_webhook(self, workflow: Ref, given: dict[str, Any]) -> None:
        self.both("triggers.set_webhook", workflow, actor="ann", **given)

    @rule(
        target=runs,
        workflow=workflows,
        payload=JSON,
        rules=st.one_of(st.none(), some(**RULES)),
        given=some(
            dedupe_key=st.sampled_from(["k1", "k2"]), method=st.sampled_from(["POST", "get"]), headers=HEADERS,
            query=QUERY,
        ),
    )  # fmt: skip
    def dispatch_webhook(self, workflow: Ref, payload: Any, rules: Any, given: dict[str, Any]) -> Any:
        if rules is not None:
            self.both("triggers.set_webhook", workflow, actor="ann", **rules)
        return self.make("run", "triggers.dispatch_webhook", workflow, payload, source_ip="::1", **given)

    @rule(
        workflow=workflows,
        given=some(
            max_attempts=st.integers(1, 4), initial_delay_seconds=st.sampled_from([0, 0.1]),
            backoff_factor=st.sampled_from([1, 1.7]), max_delay_seconds=st.sampled_from([None, 100]),
        ),
    )  # fmt: skip
    def set_retry_policy(self, workflow: Ref, given: dict[str, Any]) -> None:
        self.both("triggers.set_retry_policy", workflow, actor="ann", jitter_factor=0, **given)

    @rule(target=runs, run=runs, seconds=st.sampled_from([-1, 0, 3600]))
    def schedule_retry(self, run: Ref, seconds: float) -> Any:
        return self.retry(run, seconds)

    def retry(self, run: Ref, seconds: float) -> Any:
        """Jitter goes by a run's id, which each database has made itself: first a policy without it."""
        found = self.both("runs.get", run)
        if found is None:
            return multiple()
        workflow = Ref(self.names[0].names[str(found[0].workflow_id)])
        if self.both("triggers.set_retry_policy", workflow, actor="ann", jitter_factor=0) is None:
            return multiple()
        failed_at = self.sides.clock() + timedelta(seconds=seconds)
        answers = self.both("triggers.schedule_retry", run, failed_at, makes="run")
        return multiple() if answers is None or answers[0] is None else Ref(self.names[0].names[str(answers[0].id)])

    @rule(
        target=runs,
        workflow=workflows,
        items=st.lists(st.tuples(st.one_of(st.none(), st.none(), versions), JSON), min_size=1, max_size=4),
        label=ACTOR,
    )
    def dispatch_manual(self, workflow: Ref, items: list[Any], label: str) -> Any:
        return self.make_all("triggers.dispatch_manual", workflow, items, actor="ann", label=label)

    # --- run history ---

    @rule(
        id=EXECUTION,
        workflow=FLOW,
        metadata=METADATA,
        given=some(inputs=JSON, runnable_config=JSON, tags=TAGS, callbacks=JSON, run_name=TEXT, trace_id=TEXT),
    )
    def start_execution(self, id: str, workflow: str, metadata: Any, given: dict[str, Any]) -> None:
        if id != "none":
            self.both("history.start", id, workflow, metadata=metadata, **given)

    @rule(id=EXECUTION, payloads=st.lists(JSON, min_size=1, max_size=5), alone=st.booleans())
    def append(self, id: str, payloads: list[Any], alone: bool) -> None:
        if alone:
            self.both("history.append_step", id, payloads[0])
        else:
            self.both("history.append_steps", id, payloads)

    @rule(id=EXECUTION, end=st.sampled_from(["complete", "fail", "cancel", "cancel"]), words=WORDS)
    def end_execution(self, id: str, end: str, words: str) -> None:
        self.both(f"history.{end}", id, *[words] * (end != "complete"))

    @rule(id=EXECUTION)
    def get_execution(self, id: str) -> None:
        self.both("history.get", id)

    @rule(id=EXECUTION)
    def stream(self, id: str) -> None:
        self.try_both(f"history.stream({id})", lambda side: list(self.scope(side).history.stream(id)))

    @rule(seconds=st.sampled_from([-3600, 0, 0.000001, 3600]), limit=st.sampled_from([1, 1, 2, 1000]))
    def prune_history(self, seconds: float, limit: int) -> None:
        self.both("history.prune", self.sides.clock() + timedelta(seconds=seconds), limit=limit)

    # --- checkpoints ---

    @rule(
        target=checkpoints,
        workflow=FLOW,
        id=CHECKPOINT,
        version=st.sampled_from([None, None, None, 1, 2, 3, 7]),
        config=JSON,
        given=some(metrics=METRICS, metadata=METADATA, artifact_url=TEXT, is_best=st.booleans()),
    )
    def record_checkpoint(
        self, workflow: str, id: str | None, version: int | None, config: Any, given: dict[str, Any]
    ) -> Any:
        return self.make(
            "checkpoint", "checkpoints.record", workflow, id=id, config_version=version, runnable_config=config, **given
        )

    @rule(target=checkpoints, workflow=FLOW, metrics=st.lists(METRICS, min_size=1, max_size=5))
    def record_checkpoints(self, workflow: str, metrics: list[Any]) -> Any:
        made = [
            self.make("checkpoint", "checkpoints.record", workflow, runnable_config=None, metrics=each, metadata=each)
            for each in metrics
        ]
        return multiple(*(each for each in made if isinstance(each, Ref)))

    @rule(checkpoint=checkpoints)
    def mark_best(self, checkpoint: Ref) -> None:
        self.both("checkpoints.mark_best", checkpoint)

    @rule(checkpoint=checkpoints)
    def get_checkpoint(self, checkpoint: Ref) -> None:
        self.both("checkpoints.get", checkpoint)

    @rule(workflow=FLOW)
    def latest_and_best(self, workflow: str) -> None:
        self.both("checkpoints.latest", workflow)
        self.both("checkpoints.best", workflow)

    @rule(workflow=FLOW, metric=METRIC, limit=LIMIT, given=some(lowest_first=st.booleans()))
    def top(self, workflow: str, metric: str, limit: int, given: dict[str, Any]) -> None:
        self.both("checkpoints.top", workflow, metric, limit=limit, **given)

    # --- service tokens ---

    def mint_all(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        answers = self.both(method, *args, **kwargs)
        return multiple() if answers is None else answers[0]

    @initialize(target=tokens)
    def first_token(self) -> Any:
        return self.mint_all("tokens.mint", "first", actor="ann", scopes=["a"], workspace_ids=["w1"])

    @rule(target=tokens, name=TOKEN_NAME, actor=ACTOR.filter(lambda actor: len(actor) <= 128), given=some(**GRANTED))
    def mint(self, name: str, actor: str, given: dict[str, Any]) -> Any:
        return self.mint_all("tokens.mint", name, actor=actor, **given)

    @rule(
        target=tokens,
        token=tokens,
        overlap=st.sampled_from([0, 1, 300]),
        given=some(expires_at=st.sampled_from([None, START, START + timedelta(seconds=1), START + timedelta(days=9)])),
    )
    def rotate(self, token: Minted, overlap: int, given: dict[str, Any]) -> Any:
        return self.mint_all("tokens.rotate", token.record.key_id, actor="bob", overlap_seconds=overlap, **given)

    @rule(token=tokens, reason=st.sampled_from(["lost", "\u2028\x01", "x" * 1024]))
    def revoke(self, token: Minted, reason: str) -> None:
        self.both("tokens.revoke", token.record.key_id, reason, actor="cyd")

    @rule(
        token=tokens,
        wrong=st.sampled_from(["", "", "", "secret", "unknown", "damaged"]),
        given=some(ip=st.sampled_from([None, "10.0.0.1", "::ffff:11.0.0.1", "2001:db8::1"]), user_agent=WORDS,
                   workspace=st.sampled_from(["w1", "w3"]), scopes=GRANTED["scopes"], legacy=st.booleans()),
    )  # fmt: skip
    def authenticate(self, token: Minted, wrong: str, given: dict[str, Any]) -> None:
        kind, key_id, text = token.record.kind, token.record.key_id, token.secret.reveal()
        presented = {
            "": text,
            "secret": token_text(kind, key_id, b"0" * 43),
            "unknown": token_text(kind, "0" * 12, text[21:64].encode()),
            "damaged": text[:-1],
        }[wrong]
        self.both("tokens.authenticate", presented, **given)

    @rule(name=TOKEN_NAME, text=FOREIGN, given=some(**GRANTED))
    def import_legacy(self, name: str, text: str, given: dict[str, Any]) -> None:
        self.both("tokens.import_legacy", name, hashlib.sha256(text.encode()).hexdigest(), actor="ann", **given)

    @rule(text=FOREIGN, given=some(ip=st.just("10.0.0.1"), scopes=GRANTED["scopes"]))
    def authenticate_legacy(self, text: str, given: dict[str, Any]) -> None:
        self.both("tokens.authenticate", text, legacy=True, **given)

    @precondition(lambda self: not self.blocks)  # what a transaction flushes and undoes is lost
    @rule()
    def flush(self) -> None:
        self.both("tokens.flush_usage")

    @rule(token=tokens)
    def look_at_a_token(self, token: Minted) -> None:
        self.both("tokens.get", token.record.key_id)
        self.both("tokens.usage", [token.record.key_id])
        self.both("tokens.verify_audit")

    @rule(target=cursors, active=st.booleans(), limit=LIMIT)
    def list_tokens(self, active: bool, limit: int) -> Any:
        return self.page("tokens.list", (), {"active": active}, limit, None)

    @rule(target=cursors, token=tokens, limit=LIMIT, listed=st.sampled_from(["tokens.audit", "tokens.refusals"]))
    def list_of_a_token(self, token: Minted, limit: int, listed: str) -> Any:
        return self.page(listed, (token.record.key_id,), {}, limit, None)

    @rule(target=cursors, key_id=st.sampled_from([None, ""]), limit=LIMIT)
    def list_refusals(self, key_id: str | None, limit: int) -> Any:
        return self.page("tokens.refusals", (key_id,), {}, limit, None)

    @rule(seconds=st.sampled_from([-3600, 0, 60, 3600]), limit=st.sampled_from([1, 2, 1000]))
    def prune_refusals(self, seconds: float, limit: int) -> None:
        self.both("tokens.prune_refusals", self.sides.clock() + timedelta(seconds=seconds), limit=limit)

    # --- chat ---

    @rule(
        owner=OWNER,
        id=THREAD,
        metadata=METADATA,
        given=some(
            title=st.one_of(st.none(), PROSE), workflow_id=FLOW, status=JSON, details=JSON,
            created_at=st.sampled_from([START, START - timedelta(days=1)]),
        ),
    )  # fmt: skip
    def save_thread(self, owner: str, id: str, metadata: Any, given: dict[str, Any]) -> None:
        if id != "none":
            self.both("chat.save_thread", owner, id, metadata=metadata, **given)

    @rule(
        owner=OWNER,
        thread=THREAD,
        id=ITEM,
        document=DOCUMENT,
        body=PROSE,
        new=st.booleans(),
        given=some(created_at=st.sampled_from([START, START - timedelta(days=1)])),
    )
    def put_item(
        self, owner: str, thread: str, id: str, document: str, body: str, new: bool, given: dict[str, Any]
    ) -> None:
        if id != "none":
            method = "chat.add_item" if new else "chat.save_item"
            self.both(method, owner, thread, id, type="message", item=document, body=body, **given)

    @rule(owner=OWNER, thread=st.one_of(st.none(), THREAD), id=FILE, details=JSON, path=TEXT, name=WORDS)
    def save_attachment(self, owner: str, thread: str | None, id: str, details: Any, path: Any, name: str) -> None:
        if id != "none":
            given = {"type": "file", "mime_type": "m", "name": name, "details": details, "storage_path": path}
            self.both("chat.save_attachment", owner, id, thread_id=thread, **given)

    @rule(owner=OWNER, thread=THREAD, item=ITEM, file=FILE)
    def get_of_chat(self, owner: str, thread: str, item: str, file: str) -> None:
        self.both("chat.get_thread", owner, thread)
        self.both("chat.get_item", owner, thread, item)
        self.both("chat.get_attachment", owner, file)

    @rule(owner=OWNER, thread=THREAD, item=ITEM, file=FILE, what=st.sampled_from(["thread", "item", "attachment"]))
    def delete_of_chat(self, owner: str, thread: str, item: str, file: str, what: str) -> None:
        ids = {"thread": (thread,), "item": (thread, item), "attachment": (file,)}[what]
        self.both(f"chat.delete_{what}", owner, *ids)

    @rule(
        owner=OWNER,
        limit=LIMIT,
        filters=some(
            after=THREAD, workflow_id=FLOW, metadata=METADATA, order=st.sampled_from(["asc", "desc", "down"])
        ),
    )  # fmt: skip
    def list_threads(self, owner: str, limit: int, filters: dict[str, Any]) -> None:
        self.both("chat.list_threads", owner, limit=limit, **filters)

    @rule(owner=OWNER, thread=THREAD, limit=LIMIT, filters=some(after=ITEM, order=st.sampled_from(["asc", "desc"])))
    def list_items(self, owner: str, thread: str, limit: int, filters: dict[str, Any]) -> None:
        self.both("chat.list_items", owner, thread, limit=limit, **filters)

    @rule(seconds=st.sampled_from([-3600, 0, 0.000001, 3600]), limit=st.sampled_from([1, 1, 2, 1000]))
    def prune_chat(self, seconds: float, limit: int) -> None:
        self.both("chat.prune", self.sides.clock() + timedelta(seconds=seconds), limit=limit)

    @rule(target=cursors, owner=OWNER, text=st.one_of(QUESTION, PROSE), limit=LIMIT)
    def search_chat(self, owner: str, text: str, limit: int) -> Any:
        return self.page("chat.search", (owner, text), {}, limit, None)

    @rule(
        target=cursors, text=st.one_of(QUESTION, PROSE, NAME), limit=LIMIT, filters=some(include_archived=st.booleans())
    )
    def search_workflows(self, text: str, limit: int, filters: dict[str, Any]) -> Any:
        return self.page("workflows.search", (text,), filters, limit, None)

    @rule()
    def make_searchable(self) -> None:
        self.both("workflows.make_searchable")

    # --- pages ---

    def page(self, listed: str, arguments: tuple[Any, ...], filters: dict[str, Any], limit: Any, after: Any) -> Any:
        answers = self.both(listed, *arguments, **filters, limit=limit, after=after)
        if answers is None or answers[0].next is None:
            return multiple()
        return Cursor(listed, arguments, tuple(filters.items()), (answers[0].next, answers[1].next))

    @rule(
        target=cursors,
        filters=some(include_archived=st.booleans(), tag=st.sampled_from(["x", "X", " y", "%", "none"])),
        limit=LIMIT,
    )
    def list_workflows(self, filters: dict[str, Any], limit: int) -> Any:
        return self.page("workflows.list", (), filters, limit, None)

    @rule(
        target=cursors, workflow=workflows, limit=LIMIT, listed=st.sampled_from(["workflows.events", "versions.list"])
    )
    def list_of_workflow(self, workflow: Ref, limit: int, listed: str) -> Any:
        return self.page(listed, (workflow,), {}, limit, None)

    @rule(
        target=cursors,
        workflow=workflows,
        limit=LIMIT,
        filters=some(status=STATUS),
    )
    def list_runs(self, workflow: Ref, limit: int, filters: dict[str, Any]) -> Any:
        return self.page("runs.list", (workflow,), filters, limit, None)

    @rule(target=cursors, run=runs, limit=LIMIT)
    def list_run_events(self, run: Ref, limit: int) -> Any:
        return self.page("runs.events", (run,), {}, limit, None)

    @rule(target=cursors, workflow=FLOW, limit=LIMIT, filters=some(status=EXECUTION_STATUS))
    def list_executions(self, workflow: str, limit: int, filters: dict[str, Any]) -> Any:
        return self.page("history.list", (workflow,), filters, limit, None)

    @rule(target=cursors, workflow=FLOW, limit=LIMIT, metadata=METADATA)
    def find_executions(self, workflow: str, limit: int, metadata: Any) -> Any:
        return self.page("history.find", (workflow,), {"metadata": metadata}, limit, None)

    @rule(target=cursors, id=EXECUTION, limit=LIMIT)
    def list_steps(self, id: str, limit: int) -> Any:
        return self.page("history.steps", (id,), {}, limit, None)

    @rule(target=cursors, workflow=FLOW, limit=LIMIT)
    def list_checkpoints(self, workflow: str, limit: int) -> Any:
        return self.page("checkpoints.list", (workflow,), {}, limit, None)

    @rule(
        target=cursors,
        workflow=FLOW,
        limit=LIMIT,
        filters=st.one_of(some(metadata=METADATA), some(metadata=METADATA, metrics=METRICS)),
    )
    def find_checkpoints(self, workflow: str, limit: int, filters: dict[str, Any]) -> Any:
        return self.page("checkpoints.find", (workflow,), filters, limit, None)

    @rule(target=cursors, cursor=cursors, limit=LIMIT)
    def walk_on(self, cursor: Cursor, limit: int) -> Any:
        return self.page(cursor.listed, cursor.arguments, dict(cursor.filters), limit, cursor)

    @rule(cursor=cursors, other=cursors)
    def walk_on_with_another_lists_cursor(self, cursor: Cursor, other: Cursor) -> None:
        self.both(cursor.listed, *cursor.arguments, **dict(cursor.filters), after=other)

    # --- transactions ---

    @precondition(lambda self: not self.blocks)
    @rule(
        read_only=st.sampled_from([False, False, False, True]),
        isolation=st.sampled_from([None, None, "read committed", "repeatable read", "serializable", "chaos"]),
    )
    def begin(self, read_only: bool, isolation: str | None) -> None:
        if self.enter(read_only=read_only, isolation=isolation):
            self.read_only = read_only

    @precondition(lambda self: 0 < len(self.blocks) < 4)
    @rule()
    def savepoint(self) -> None:
        self.enter()

    def enter(self, **options: Any) -> bool:
        def call(side: int) -> Entered:
            self.entered.append(Entered(self.scope(side).transaction(**options)))
            return self.entered[-1]

        blocks = self.try_both(f"transaction({options})", call)
        if blocks is not None:
            self.blocks.append(blocks)
        return blocks is not None

    @precondition(lambda self: self.blocks)
    @rule(ends_well=st.booleans())
    def leave(self, ends_well: bool) -> None:
        blocks = self.blocks.pop()
        outcomes: list[object] = [None, None]
        for side in (1, 0):  # the inner one first, as two with statements would
            self.entered.remove(blocks[side])
            try:
                blocks[side].leave(ends_well=ends_well)
            except DalError as error:
                outcomes[side] = error
        self.compare(f"leave(ends_well={ends_well})", outcomes)

    @precondition(lambda self: self.blocks)
    @rule(workflow=workflows)
    def forget_the_transaction(self, workflow: Ref) -> None:
        blocks, self.blocks = self.blocks, []
        try:
            self.both("workflows.get", workflow)
            self.both("workflows.archive", workflow, actor="ann")
            self.enter()
        finally:
            self.blocks = blocks + self.blocks

    @precondition(lambda self: self.blocks and not self.read_only)
    @rule(number=st.integers(0, 9))
    def write_to_a_table_of_the_applications_own(self, number: int) -> None:
        for side in (0, 1):
            self.scope(side).connection.execute(f"insert into own values ({number})")

    @precondition(lambda self: not self.blocks)
    @rule(target=runs, workflow=workflows, fails=st.booleans())
    def transact(self, workflow: Ref, fails: bool) -> Any:
        def work(tx: Any, id: Any) -> Any:
            version = tx.versions.create(id, {"made": "together"}, actor="ann")
            run = tx.runs.create(id, actor="ann")
            started = tx.runs.start(run.id, actor="ann")
            if fails:
                tx.runs.start(run.id, actor="ann")
            return [version, started]

        def call(side: int) -> object:
            id = self.names[side].into(workflow, side)
            return self.sides.dbs[side].transact(lambda tx: work(tx, id))

        if fails:
            self._transact_in_vain(call)
            return multiple()
        answers = self.try_both(f"transact({workflow})", call, makes="version run")
        return multiple() if answers is None else Ref(self.names[0].names[str(answers[0][1].id)])

    def _transact_in_vain(self, call: Callable[[int], object]) -> None:
        """What was made and undone has no name, so only the kinds of the errors are compared."""
        kinds = []
        for side in (0, 1):
            with pytest.raises(DalError) as caught:
                call(side)
            kinds.append((type(caught.value).__name__, getattr(caught.value, "found", None)))
        assert kinds[0] == kinds[1], f"transact, failing: SQLite {kinds[0]}, PostgreSQL {kinds[1]}"

    # --- idempotency keys ---

    @precondition(lambda self: not self.blocks)
    @rule(
        key=st.sampled_from(TRANSACTION_KEYS),
        request=st.sampled_from([None, None, {}, {"n": 1}, {"n": 1.0}]),
        answer=JSON,
        fails=st.sampled_from([False, False, False, True]),
    )
    def transact_under_a_key(self, key: str, request: Any, answer: Any, fails: bool) -> None:
        def work(tx: Any) -> Any:
            tx.connection.execute("insert into own values (10)")
            if fails:
                raise RunNotFound("mine")
            return answer

        self.try_both(
            f"transact({key!r}, {request}) answers {answer!r}, fails {fails}",
            lambda side: self.sides.dbs[side].transact(work, key=key, request=request),
        )

    @rule(key=st.sampled_from(TRANSACTION_KEYS))
    def get_key(self, key: str) -> None:
        self.both("keys.get", key)

    @rule(seconds=st.sampled_from([-3600, 0, 0.000001, 3600]), limit=st.sampled_from([1, 1, 2, 1000]))
    def prune(self, seconds: float, limit: int) -> None:
        self.both("keys.prune", self.sides.clock() + timedelta(seconds=seconds), limit=limit)

    # --- the end ---

    def teardown(self) -> None:
        while self.entered:
            with contextlib.suppress(DalError):
                self.entered.pop().leave(ends_well=False)
        self.blocks.clear()
        if self.is_sound:
            self.compare_everything()

    def compare_everything(self) -> None:
        """Both databases, whole, as lists show them; and which queries it took."""
        for tag in (None, "x", "y", "%", "É".lower(), "_"):
            for include_archived in (False, True):
                self.walk("workflows.list", tag=tag, include_archived=include_archived)
        for name in list(self.names[0].ids):
            if name.startswith("workflow"):
                for listed in ("workflows.events", "versions.list", "runs.list"):
                    self.walk(listed, Ref(name))
                self.both("runs.counts", Ref(name))
                for kind in TRIGGERS:
                    self.both(f"triggers.get_{kind}", Ref(name))
            elif name.startswith("run"):
                self.walk("runs.events", Ref(name))
        for workflow in ("w1", "w2", "%"):
            self.walk("history.list", workflow)
            self.walk("history.find", workflow, metadata={})
            self.walk("checkpoints.list", workflow)
            self.walk("checkpoints.find", workflow, metrics={})
            self.both("checkpoints.best", workflow)
            for metric in ("a", "loss"):
                self.both("checkpoints.top", workflow, metric)
        for id in ("e1", "e2", "e3", "E1", "é", "日" * 128):
            self.walk("history.steps", id)
        for owner in ("ann", "bob", "%"):
            for order in ("asc", "desc"):
                self.walk("chat.list_threads", owner, order=order)
                self.walk("chat.list_threads", owner, order=order, metadata={})
            for text in ("invoice", "paid", "e", "o", "北京", "strasse"):
                self.walk("chat.search", owner, text)
            for thread in ("t1", "t2", "T1", "é"):
                self.both("chat.list_items", owner, thread, limit=500)
        for text in ("x", "strasse", "w", "日"):
            self.walk("workflows.search", text, include_archived=True)
        for key in TRANSACTION_KEYS:
            self.both("keys.get", key)
        self.both("tokens.flush_usage")
        for active in (False, True):
            self.walk("tokens.list", active=active)
        self.walk("tokens.refusals")
        self.both("tokens.peppers")
        answers = self.both("tokens.verify_audit")
        assert answers is not None
        assert answers[0].fault is None, f"the audit chain: {answers[0]}"
        own = [connection.execute("select n from own order by n").fetchall() for connection in self.sides.raw]
        assert own[0] == own[1], f"the application's own table: SQLite {own[0]}, PostgreSQL {own[1]}"
        sent = [
            {name: count - before.get(name, 0) for name, count in db.calls.items() if count != before.get(name, 0)}
            for db, before in zip(self.sides.dbs, self.sent, strict=True)
        ]
        assert sent[0] == sent[1], f"queries sent: SQLite {sent[0]}, PostgreSQL {sent[1]}"

    def walk(self, listed: str, *arguments: Any, **filters: Any) -> None:
        after: Any = None
        while True:
            answers = self.both(listed, *arguments, **filters, limit=4, after=after)
            assert answers is not None, f"{listed}{arguments}{filters} was refused"
            if answers[0].next is None:
                return
            after = Cursor(listed, arguments, (), (answers[0].next, answers[1].next))


@pytest.fixture(params=["sync", "async"])
def sides(request: pytest.FixtureRequest, sqlite_url: str, postgres_url: str, loop: Loop) -> Iterator[Sides]:
    sides = Sides(sqlite_url, postgres_url, request.param, loop)
    yield sides
    sides.close()


def test_sqlite_and_postgresql_answer_alike_whatever_they_are_asked(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flusher, "INTERVAL", 1e6)  # when they are flushed is for the machine to say
    monkeypatch.setattr(tokens, "new_key_id", lambda: sides.draw(12))
    monkeypatch.setattr(tokens, "new_secret", lambda: sides.draw(43).encode())
    run_state_machine_as_test(type("Machine", (Machine,), {"sides": sides}), settings=PROFILE)

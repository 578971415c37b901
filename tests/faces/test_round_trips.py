"""Round trips to PostgreSQL, counted on the wire: one a method, BEGIN and COMMIT counted."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
import pytest

import dal
from dal import Dal, Sync
from dal.core.face import Method, Repeated, Stream
from dal.stores.chat import Chat, Order
from dal.stores.checkpoints import Checkpoints
from dal.stores.history import History
from dal.stores.keys import Keys
from dal.stores.runs import Runs
from dal.stores.token_texts import token_text
from dal.stores.tokens import Tokens
from dal.stores.triggers import Triggers
from dal.stores.versions import Versions
from dal.stores.workflows import Workflows
from tests.cells import Clock, Face, Loop, open_db
from tests.faces.proxy import Messages, Proxy

T = TypeVar("T")
WARM = 6  # psycopg prepares a statement when it is sent for the sixth time, which takes a round trip of its own


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    with Proxy(postgres_url) as proxy:
        yield proxy


@pytest.fixture(params=["sync", "async"])
def db(request: pytest.FixtureRequest, proxy: Proxy, clock: Clock, loop: Loop) -> Iterator[Dal[Sync]]:
    face: Face = request.param
    db = open_db(proxy.settings(), face, clock, loop)
    yield db
    db.close()


# --- every method -----------------------------------------------------------------------------------------------------


class Account:
    """Calls, and what each took on the wire."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self.trips: dict[str, int] = {}

    def __call__(self, name: str, call: Callable[[], T]) -> T:
        with self._proxy.trips() as trips:
            answer = call()
        self.trips[name] = trips.count
        return answer

    def refused(self, name: str, call: Callable[[], object], error: type[dal.DalError]) -> None:
        with self._proxy.trips() as trips, pytest.raises(error):
            call()
        self.trips[f"{name}: {error.__name__}"] = trips.count


def a_life(db: Dal[Sync], call: Account) -> None:
    """Every method of every store, and the ways in which a statement says no."""
    handle = f"h{uuid4().hex}"
    new = partial(db.workflows.create, "One", actor="a", handle=handle, tags=["t"])
    id = call("workflows.create", new).id
    call.refused("workflows.create", new, dal.HandleTaken)
    call("workflows.get", partial(db.workflows.get, id))
    call.refused("workflows.get", partial(db.workflows.get, uuid4()), dal.WorkflowNotFound)
    call("workflows.resolve: by handle", partial(db.workflows.resolve, handle))
    call("workflows.resolve: by id", partial(db.workflows.resolve, id))
    for archived, tag in itertools.product((False, True), (None, "t")):
        some = partial(db.workflows.list, include_archived=archived, tag=tag, limit=1)
        page = call(f"workflows.list: archived {archived}, tag {tag}", some)
        call(f"workflows.list: archived {archived}, tag {tag}, next", partial(some, after=page.next))
    change = partial(db.workflows.update, id, actor="a", name="Two", expected_revision=1)
    call("workflows.update", change)
    call.refused("workflows.update", change, dal.RevisionConflict)
    call("workflows.publish", partial(db.workflows.publish, id, actor="a"))
    call.refused("workflows.publish", partial(db.workflows.publish, id, actor="a"), dal.AlreadyPublished)
    call("workflows.unpublish", partial(db.workflows.unpublish, id, actor="a"))
    call.refused("workflows.unpublish", partial(db.workflows.unpublish, id, actor="a"), dal.NotPublished)
    call("workflows.archive", partial(db.workflows.archive, id, actor="a"))
    call.refused("versions.create", partial(db.versions.create, id, {}, actor="a"), dal.WorkflowArchived)
    call("workflows.unarchive", partial(db.workflows.unarchive, id, actor="a"))
    call("workflows.events", partial(db.workflows.events, id))

    version = call("versions.create", partial(db.versions.create, id, {"nodes": [1]}, actor="a"))
    db.versions.create(id, {"nodes": [2]}, actor="a")
    call("versions.get", partial(db.versions.get, version.id))
    call("versions.get_number", partial(db.versions.get_number, id, 1))
    call("versions.latest", partial(db.versions.latest, id))
    call("versions.find_by_hash", partial(db.versions.find_by_hash, id, version.graph_hash))
    call("versions.list", partial(db.versions.list, id, limit=1))
    call("versions.diff", partial(db.versions.diff, id, 1, 2))
    call("versions.set_runnable_config", partial(db.versions.set_runnable_config, id, 1, {"a": 1}, actor="a"))

    ask = partial(db.runs.create, id, actor="a", idempotency_key="k")
    run = call("runs.create", ask)
    call("runs.create: the same key again", ask)
    call.refused("runs.create", partial(ask, inputs={"x": 1}), dal.IdempotencyConflict)
    call("runs.get", partial(db.runs.get, run.id))
    call.refused("runs.get", partial(db.runs.get, uuid4()), dal.RunNotFound)
    call("runs.start", partial(db.runs.start, run.id, actor="a"))
    call.refused("runs.start", partial(db.runs.start, run.id, actor="a"), dal.InvalidTransition)
    call("runs.succeed", partial(db.runs.succeed, run.id, {"out": 1}, actor="a"))
    call("runs.fail", partial(db.runs.fail, db.runs.create(id, actor="a").id, "no", actor="a"))
    call("runs.cancel", partial(db.runs.cancel, db.runs.create(id, actor="a").id, "enough", actor="a"))
    call("runs.list", partial(db.runs.list, id, limit=1))
    call("runs.list: by status", partial(db.runs.list, id, status="failed"))
    call("runs.events", partial(db.runs.events, run.id))
    db.runs.create(id, actor="a")
    [held] = call("runs.claim: of a workflow", partial(db.runs.claim, "w", lease_seconds=60, workflow_id=id))
    call("runs.claim", partial(db.runs.claim, "w", lease_seconds=60))
    call("runs.heartbeat", partial(db.runs.heartbeat, held.id, "w", lease_seconds=60))
    call.refused("runs.heartbeat", partial(db.runs.heartbeat, held.id, "v", lease_seconds=60), dal.LeaseLost)
    call.refused("runs.succeed", partial(db.runs.succeed, held.id, actor="a"), dal.LeaseLost)
    call("runs.requeue_expired", partial(db.runs.requeue_expired, dal.dal.utc_now() + timedelta(days=1)))
    call("runs.counts", partial(db.runs.counts, id))
    triggers(db, call, id)

    ids = [uuid4().hex for _ in range(4)]
    call("history.start", partial(db.history.start, ids[0], handle, metadata={"a": 1}))
    call.refused("history.start", partial(db.history.start, ids[0], handle), dal.AlreadyExists)
    call("history.get", partial(db.history.get, ids[0]))
    call.refused("history.get", partial(db.history.get, "none"), dal.ExecutionNotFound)
    call("history.append_step", partial(db.history.append_step, ids[0], {"n": 1}))
    call("history.append_steps", partial(db.history.append_steps, ids[0], [{"n": 2}] * 3))
    call.refused("history.append_steps", partial(db.history.append_steps, "none", [1]), dal.ExecutionNotFound)
    call("history.steps", partial(db.history.steps, ids[0], limit=1))
    call("history.stream", lambda: list(db.history.stream(ids[0])))
    call("history.complete", partial(db.history.complete, ids[0]))
    call.refused("history.complete", partial(db.history.complete, ids[0]), dal.InvalidTransition)
    call.refused("history.append_step", partial(db.history.append_step, ids[0], 1), dal.InvalidTransition)
    for other in ids[1:]:
        db.history.start(other, handle)
    call("history.fail", partial(db.history.fail, ids[1], "no"))
    call("history.cancel", partial(db.history.cancel, ids[2], "enough"))
    call("history.list", partial(db.history.list, handle, limit=1))
    call("history.list: by status", partial(db.history.list, handle, status="error"))
    call("history.find", partial(db.history.find, handle, metadata={"a": 1}))
    call("history.prune", partial(db.history.prune, dal.dal.utc_now(), limit=1))

    checkpoints(db, call, handle)
    service_tokens(db, call, handle)
    call("workflows.search", partial(db.workflows.search, "two", limit=1))
    call("workflows.search: archived too", partial(db.workflows.search, "two", include_archived=True))
    call("workflows.make_searchable", db.workflows.make_searchable)
    chat(db, call)

    db.transact(lambda tx: "done", key=handle)
    call("keys.get", partial(db.keys.get, handle))
    call.refused("keys.get", partial(db.keys.get, "none"), dal.KeyNotFound)
    call("keys.prune", partial(db.keys.prune, dal.dal.utc_now(), limit=1))
    call("health", db.health)


def chat(db: Dal[Sync], call: Account) -> None:
    of = db.chat
    orders: tuple[Order, ...] = ("asc", "desc")
    thread, item, file = (uuid4().hex for _ in range(3))
    given: Any = {"type": "m", "item": "{}", "body": "some words"}
    about: Any = {"type": "t", "name": "n", "mime_type": "m"}
    call("chat.save_thread", partial(of.save_thread, "ann", thread, title="words", metadata={"a": 1}))
    call("chat.save_thread: again", partial(of.save_thread, "ann", thread, title="words", metadata={"a": 1}))
    call.refused("chat.save_thread", partial(of.save_thread, "bob", thread), dal.ThreadNotFound)
    call("chat.get_thread", partial(of.get_thread, "ann", thread))
    for order, workflow, metadata in itertools.product(orders, (None, "w"), (None, {"a": 1})):
        listed = partial(of.list_threads, "ann", order=order, workflow_id=workflow, metadata=metadata)
        call(f"chat.list_threads: {order}, workflow {workflow}, metadata {metadata}", listed)
    call.refused("chat.list_threads", partial(of.list_threads, "ann", after="none"), dal.ThreadNotFound)
    add = partial(of.add_item, "ann", thread, item, **given)
    call("chat.add_item", add)
    call("chat.add_item: the same again", add)
    call.refused("chat.add_item", partial(add, item="1"), dal.AlreadyExists)
    call("chat.save_item", partial(of.save_item, "ann", thread, item, **given))
    call.refused("chat.save_item", partial(of.save_item, "ann", "none", item, **given), dal.ThreadNotFound)
    call("chat.get_item", partial(of.get_item, "ann", thread, item))
    call("chat.list_items", partial(of.list_items, "ann", thread))
    call("chat.list_items: desc", partial(of.list_items, "ann", thread, order="desc"))
    call.refused("chat.list_items", partial(of.list_items, "ann", thread, after="none"), dal.ItemNotFound)
    call("chat.search", partial(of.search, "ann", "words"))
    call("chat.save_attachment", partial(of.save_attachment, "ann", file, thread_id=thread, **about))
    call("chat.get_attachment", partial(of.get_attachment, "ann", file))
    call("chat.update_attachment", partial(of.update_attachment, "ann", file, details={}, storage_path="a"))
    call("chat.list_stored_attachments", of.list_stored_attachments)
    call("chat.delete_attachment", partial(of.delete_attachment, "ann", file))
    call("chat.delete_item", partial(of.delete_item, "ann", thread, item))
    call("chat.delete_thread", partial(of.delete_thread, "ann", thread))
    call("chat.prune", partial(of.prune, dal.dal.utc_now()))


def triggers(db: Dal[Sync], call: Account, id: UUID) -> None:
    of = db.triggers
    call("triggers.set_cron", partial(of.set_cron, id, "* * * * *", actor="a", allow_overlapping=True))
    call("triggers.get_cron", partial(of.get_cron, id))
    later = dal.dal.utc_now() + timedelta(minutes=2)
    assert len(call("triggers.dispatch_due", partial(of.dispatch_due, later))) == 1
    assert call("triggers.dispatch_due: nothing is due", partial(of.dispatch_due, later)) == []
    call("triggers.delete_cron", partial(of.delete_cron, id, actor="a"))
    call.refused("triggers.delete_cron", partial(of.delete_cron, id, actor="a"), dal.TriggerNotFound)
    call("triggers.set_webhook", partial(of.set_webhook, id, actor="a", rate_limit=1, rate_window_seconds=86_400))
    call("triggers.get_webhook", partial(of.get_webhook, id))
    ask = partial(of.dispatch_webhook, id, {}, source_ip=None)
    call("triggers.dispatch_webhook", partial(ask, dedupe_key="k"))
    call("triggers.dispatch_webhook: the same key again", partial(ask, dedupe_key="k"))
    call.refused("triggers.dispatch_webhook", ask, dal.RateLimited)
    call.refused("triggers.dispatch_webhook", partial(ask, method="GET"), dal.WebhookRefused)
    call("triggers.delete_webhook", partial(of.delete_webhook, id, actor="a"))
    call("triggers.set_retry_policy", partial(of.set_retry_policy, id, actor="a", max_attempts=2))
    call("triggers.get_retry_policy", partial(of.get_retry_policy, id))
    failed = db.runs.fail(db.runs.create(id, actor="a").id, "no", actor="a")
    retry = call("triggers.schedule_retry", partial(of.schedule_retry, failed.id, later))
    assert retry
    db.runs.fail(retry.id, "no", actor="a")
    call("triggers.schedule_retry: the last", partial(of.schedule_retry, retry.id, later))
    call("triggers.dispatch_manual", partial(of.dispatch_manual, id, [(None, {})] * 2, actor="a"))


def checkpoints(db: Dal[Sync], call: Account, workflow: str) -> None:
    of = db.checkpoints
    ask = partial(of.record, workflow, runnable_config={"a": 1}, metrics={"m": 1}, metadata={"a": 1})
    id = call("checkpoints.record", ask).id
    call("checkpoints.record: the best", partial(ask, is_best=True))
    call("checkpoints.record: numbered", partial(ask, config_version=7))
    call.refused("checkpoints.record", partial(ask, id=id), dal.AlreadyExists)
    call.refused("checkpoints.record", partial(ask, config_version=7), dal.VersionTaken)
    call("checkpoints.get", partial(of.get, id))
    call.refused("checkpoints.get", partial(of.get, "none"), dal.CheckpointNotFound)
    call("checkpoints.latest", partial(of.latest, workflow))
    call("checkpoints.best", partial(of.best, workflow))
    call("checkpoints.list", partial(of.list, workflow, limit=1))
    call("checkpoints.mark_best", partial(of.mark_best, id))
    call.refused("checkpoints.mark_best", partial(of.mark_best, "none"), dal.CheckpointNotFound)
    call("checkpoints.find", partial(of.find, workflow, metadata={"a": 1}))
    call("checkpoints.find: by metrics", partial(of.find, workflow, metrics={"m": 1}))
    call("checkpoints.top", partial(of.top, workflow, "m"))
    call("checkpoints.top: lowest first", partial(of.top, workflow, "m", lowest_first=True))


def service_tokens(db: Dal[Sync], call: Account, name: str) -> None:
    of = db.tokens
    minted = call("tokens.mint", partial(of.mint, name, actor="a"))
    call.refused("tokens.mint", partial(of.mint, name.upper(), actor="a"), dal.NameTaken)
    key_id, right = minted.record.key_id, minted.secret.reveal()
    call("tokens.authenticate", partial(of.authenticate, right, ip="::1", user_agent="x"))
    call.refused("tokens.authenticate: scope", partial(of.authenticate, right, scopes=["x"]), dal.TokenRefused)
    call.refused(
        "tokens.authenticate: secret", partial(of.authenticate, token_text("svc", key_id, b"0" * 43)), dal.TokenRefused
    )
    call.refused(
        "tokens.authenticate: unknown",
        partial(of.authenticate, token_text("svc", "0" * 12, b"0" * 43)),
        dal.TokenRefused,
    )
    call.refused("tokens.authenticate: legacy", partial(of.authenticate, name * 2, legacy=True), dal.TokenRefused)
    call("tokens.get", partial(of.get, key_id))
    call.refused("tokens.get", partial(of.get, "0" * 12), dal.TokenNotFound)
    call("tokens.list", partial(of.list, limit=1))
    call("tokens.list: all", partial(of.list, active=False, limit=1))
    successor = call("tokens.rotate", partial(of.rotate, key_id, actor="a"))
    call.refused("tokens.rotate", partial(of.rotate, key_id, actor="a"), dal.InvalidState)
    call("tokens.revoke", partial(of.revoke, successor.record.key_id, "over", actor="a"))
    call("tokens.revoke: again", partial(of.revoke, successor.record.key_id, "over", actor="a"))
    call.refused("tokens.revoke", partial(of.revoke, "0" * 12, "over", actor="a"), dal.TokenNotFound)
    digest = hashlib.sha256(name.encode()).digest()
    call("tokens.import_legacy", partial(of.import_legacy, f"{name}2", digest, actor="a"))
    call.refused("tokens.import_legacy", partial(of.import_legacy, name, digest, actor="a"), dal.AlreadyExists)
    call("tokens.audit", partial(of.audit, key_id))
    of.flush_usage()
    of.authenticate(right)
    call("tokens.flush_usage", of.flush_usage)
    call("tokens.usage", partial(of.usage, [key_id]))
    call("tokens.peppers", of.peppers)
    call("tokens.refusals", of.refusals)
    call("tokens.refusals: of one", partial(of.refusals, key_id))
    call("tokens.prune_refusals", partial(of.prune_refusals, dal.dal.utc_now(), limit=1))
    call("tokens.verify_audit", of.verify_audit)


# What is computed in between stands in no statement: the time of a fire, the delay of a retry, the words of workflows
# that an earlier version wrote, which are asked for and stored in one transaction. The audit chain is read to its end,
# and its head after it.
MORE = {
    "triggers.dispatch_due": 2,
    "triggers.schedule_retry": 2,
    "workflows.make_searchable": 3,
    "tokens.verify_audit": 2,
}


def test_every_method_is_one_round_trip_but_for_three(db: Dal[Sync], proxy: Proxy) -> None:
    for _ in range(WARM):
        a_life(db, Account(proxy))
    call = Account(proxy)
    a_life(db, call)
    stores = {"workflows": Workflows, "versions": Versions, "runs": Runs, "triggers": Triggers, "history": History,
              "checkpoints": Checkpoints, "keys": Keys, "tokens": Tokens, "chat": Chat}  # fmt: skip
    methods = {f"{store}.{name}" for store, kind in stores.items() for name, each in inspect.getmembers(kind)
               if isinstance(each, (Method, Repeated, Stream))}  # fmt: skip
    assert len(methods) > 50
    assert methods - {name.partition(":")[0] for name in call.trips} == set(), "these are not measured"
    assert {name: count for name, count in call.trips.items() if count != 1} == MORE, "these take more than one"


def test_a_transaction_is_a_round_trip_more_for_its_begin_and_one_for_its_end(db: Dal[Sync], proxy: Proxy) -> None:
    for _ in range(WARM):
        a_life(db, Account(proxy))
    id = db.workflows.create("One", actor="a").id
    with proxy.trips() as trips, db.transaction() as tx:
        tx.versions.create(id, {}, actor="a")
        tx.runs.create(id, actor="a")
    assert trips.count == 4, f"BEGIN, two statements and COMMIT took {trips.count}"

    with proxy.trips() as trips, db.transaction(read_only=True) as tx:
        tx.workflows.get(id)
    assert trips.count == 3, f"BEGIN, one statement and COMMIT took {trips.count}"

    with proxy.trips() as trips, db.transaction(isolation="serializable") as tx:
        tx.versions.create(id, {}, actor="a")
        with tx.transaction() as inner:
            inner.runs.create(id, actor="a")
    assert trips.count == 6, f"BEGIN, SAVEPOINT, two statements, RELEASE and COMMIT took {trips.count}"

    with proxy.trips() as trips:
        db.transact(lambda tx: tx.runs.create(id, actor="a"))
    assert trips.count == 3, f"BEGIN, one statement and COMMIT took {trips.count}"

    work = partial(db.transact, lambda tx: str(tx.runs.create(id, actor="a").id))
    for number in range(WARM):
        work(key=f"warm {number}")
    with proxy.trips() as trips:
        first = work(key="k")
    assert trips.count == 5, f"BEGIN, the key, one statement, the answer and COMMIT took {trips.count}"
    for _ in range(WARM):
        work(key="k")
    with proxy.trips() as trips:
        assert work(key="k") == first
    assert trips.count == 3, f"BEGIN, the key and COMMIT took {trips.count}"

    def give_up() -> None:
        with db.transaction() as tx:
            tx.runs.create(id, actor="a")
            raise ZeroDivisionError

    # After a ROLLBACK psycopg lets go of all that it had prepared, which is a round trip of its own.
    with proxy.trips() as trips, pytest.raises(ZeroDivisionError):
        give_up()
    assert trips.count == 4, f"BEGIN, one statement, ROLLBACK and DEALLOCATE ALL took {trips.count}"
    with proxy.trips() as trips, pytest.raises(ZeroDivisionError):
        give_up()
    assert trips.count == 3, f"BEGIN, one statement and ROLLBACK took {trips.count}"


def test_an_argument_that_is_refused_takes_no_round_trip(db: Dal[Sync], proxy: Proxy) -> None:
    db.health()
    stores: Any = db  # whose types are what is wrong
    with proxy.trips() as trips:
        for call in (
            partial(stores.runs.get, "7"),
            partial(stores.runs.list, uuid4(), limit=0),
            partial(stores.versions.create, uuid4(), {"a": {1, 2}}, actor="a"),
            partial(stores.workflows.create, "", actor="a"),
            partial(stores.transaction, isolation="chaos"),
            partial(stores.transact, str, key=""),
            partial(stores.transact, str, key="k", request={1, 2}),
            partial(stores.tokens.mint, "", actor="a"),
            partial(stores.tokens.authenticate, b"dal_svc_"),
            partial(stores.tokens.rotate, "7", actor="a"),
        ):
            with pytest.raises(dal.Invalid):
                call()
        for wrong in ("", "x" * 70, "x" * 2**20, token_text("svc", "0" * 12, b"0" * 43)[:-1] + "x"):
            with pytest.raises(dal.TokenRefused):
                db.tokens.authenticate(wrong)
    assert trips.said == Counter(), f"the server said {trips.said}"


# --- prepared statements ----------------------------------------------------------------------------------------------


def test_a_query_is_one_prepared_statement_whatever_its_values(db: Dal[Sync]) -> None:
    id = db.workflows.create("One", actor="a").id
    version = db.versions.create(id, {}, actor="a")

    def given(pattern: int, names: dict[str, object]) -> dict[str, object]:
        """Some of the arguments: those whose bit is set."""
        return {name: value for bit, (name, value) in enumerate(names.items()) if pattern >> bit & 1}

    stores: Any = db  # whose arguments are put together here
    calls = 0
    for pattern in range(128):
        text = "long" * pattern
        optional = {"version_id": version.id, "runnable_config": {"a": pattern}, "name": text, "idempotency_key": text}
        run = stores.runs.create(id, actor="a", **given(pattern, optional))
        optional = {"mermaid": text, "runnable_config": [2**53 + pattern, 0.5], "notes": None, "metadata": {}}
        stores.versions.create(id, pattern * 10.0**pattern, actor="a", **given(pattern, optional))
        optional = {
            "handle": f"h-{pattern}-{uuid4().hex}",
            "description": text[:1000],
            "chat_config": {},
            "tags": ["x"],
        }
        made = stores.workflows.create("Two", actor="a", **given(pattern, optional))
        optional = {
            "name": "Three", "handle": None, "description": None, "tags": [], "draft_access": "workspace",
            "chat_config": None, "expected_revision": 1,
        }  # fmt: skip
        if pattern & 63:
            stores.workflows.update(made.id, actor="a", **given(pattern, optional))
        stores.workflows.resolve((made.id, f"none-{pattern}", str(made.id))[0 if pattern & 1 else 2])
        stores.versions.get_number(id, 1)
        stores.versions.list(id, limit=(1, 500)[pattern & 1])
        stores.versions.diff(id, 1, 1 + pattern)
        stores.versions.set_runnable_config(id, 1, (None, {"a": 1}, 7)[pattern % 3], actor="a")
        stores.runs.cancel(run.id, (None, "enough")[pattern & 1], actor="a")
        calls += 11
    with db.transaction() as tx:
        rows = tx.connection.execute("select statement, parameter_types::text from pg_prepared_statements").fetchall()
    prepared = Counter(re.search(r"dal:(\w+)|$", statement)[1] for statement, _ in rows)  # type: ignore[index]
    assert prepared.keys() >= {
        "create_run",
        "create_version",
        "create_workflow",
        "update_workflow",
        "mark_run_cancelled",
    }
    assert {name: count for name, count in prepared.items() if count != 1} == {}, f"after {calls} calls"


# --- the proxy itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5, 7, 100])
def test_messages_are_cut_right_however_the_bytes_arrive(size: int) -> None:
    stream = b"".join(
        letter.encode() + (len(body) + 4).to_bytes(4, "big") + body
        for letter, body in [("R", b"\0\0\0\0"), ("Z", b"I"), ("D", b"Z\0\0\0\5I" * 40), ("C", b""), ("Z", b"T")]
    )
    messages = Messages()
    found = [letter for at in range(0, len(stream), size) for letter in messages.feed(stream[at : at + size])]
    assert found == ["R", "Z", "D", "C", "Z"]


def test_the_proxy_counts_what_a_driver_does(proxy: Proxy) -> None:
    dsn = proxy.settings().postgres_dsn
    assert dsn is not None
    with psycopg.connect(dsn.get_secret_value(), autocommit=True) as connection:
        with proxy.trips() as trips:
            connection.execute("select generate_series(1, 5000)")
        assert (trips.count, trips.said["D"]) == (1, 5000)
        with proxy.trips() as trips, connection.transaction():
            connection.execute("select 1")
            connection.execute("select 2")
        assert trips.count == 4
        with proxy.trips() as trips:
            connection.execute("select 3", prepare=True)
        assert trips.count == 2, "to prepare is a round trip of its own"

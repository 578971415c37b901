"""Webhooks: what a request must be like, what is kept of it, and how many make runs; the same in every cell."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from dal import (
    Dal,
    DalError,
    Invalid,
    Overloaded,
    RateLimited,
    Run,
    Sync,
    TriggerNotFound,
    Tx,
    Version,
    VersionNotFound,
    Webhook,
    WebhookRefused,
    WorkflowArchived,
    WorkflowNotFound,
)
from tests.cells import Clock, MakeDb, together
from tests.parity.make import NOBODY, NOON, a_run, a_version, a_workflow, trail

PAYLOAD = {"order": {"id": 7, "name": "Ünal"}, "amounts": [1, 2.5, None, True, 1e16]}


def a_webhook(db: Dal[Sync], version: Version | None = None, **given: Any) -> Webhook:
    """A webhook of a new workflow that has a version."""
    version = version or a_version(db)
    return db.triggers.set_webhook(version.workflow_id, actor="ann", **given)


def asked(db: Dal[Sync] | Tx[Sync], webhook: Webhook, payload: Any = None, **given: Any) -> Run:
    return db.triggers.dispatch_webhook(webhook.workflow_id, payload, source_ip="192.0.2.1", **given)


# --- set, get, delete -------------------------------------------------------------------------------------------------


def test_a_webhook_is_stored_as_it_will_be_compared(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    workflow = a_workflow(db)
    webhook = db.triggers.set_webhook(
        workflow.id, actor="bob", methods=["post", "PUT", "Post"], required_headers={"X-Event": "push", "X-Any": None},
        required_query={"Source": "git", "q": None}, secret_ref="github/1", secret_headers=["X-Sig", "x-sig"],
        secret_query=["token"], rate_limit=10, rate_window_seconds=30,
    )  # fmt: skip
    assert webhook == Webhook(
        workflow_id=workflow.id, methods=("POST", "PUT"), required_headers={"x-event": "push", "x-any": None},
        required_query={"Source": "git", "q": None}, secret_ref="github/1", secret_headers=("x-sig",),
        secret_query=("token",), rate_limit=10, rate_window_seconds=30, created_at=NOON, created_by="bob",
        updated_at=NOON,
    )  # fmt: skip
    assert db.triggers.get_webhook(workflow.id) == webhook
    assert trail(db.workflows.events(workflow.id))[-1] == (2, "bob", "webhook_set")
    later = clock.advance(seconds=1)
    plain = db.triggers.set_webhook(workflow.id, actor="eve")
    assert plain == Webhook(
        workflow_id=workflow.id, methods=("POST",), required_headers={}, required_query={}, secret_ref=None,
        secret_headers=(), secret_query=(), rate_limit=None, rate_window_seconds=None, created_at=NOON,
        created_by="bob", updated_at=later,
    )  # fmt: skip
    assert db.triggers.get_webhook(workflow.id) == plain


def test_a_webhook_that_is_deleted_takes_no_request(db: Dal[Sync]) -> None:
    webhook = a_webhook(db)
    run = asked(db, webhook)
    db.triggers.delete_webhook(webhook.workflow_id, actor="bob")
    assert trail(db.workflows.events(webhook.workflow_id))[-1] == (4, "bob", "webhook_deleted")
    calls: list[Callable[[], object]] = [
        partial(db.triggers.get_webhook, webhook.workflow_id),
        partial(db.triggers.delete_webhook, webhook.workflow_id, actor="bob"),
        partial(asked, db, webhook),
    ]
    for call in calls:
        with pytest.raises(TriggerNotFound, match=str(webhook.workflow_id)):
            call()
    assert db.runs.list(webhook.workflow_id).items == [run]
    assert len(db.workflows.events(webhook.workflow_id).items) == 4
    with pytest.raises(TriggerNotFound):
        db.triggers.get_webhook(NOBODY)
    with pytest.raises(TriggerNotFound):
        db.triggers.delete_webhook(NOBODY, actor="bob")


def test_a_webhook_needs_a_workflow_that_is_not_archived(db: Dal[Sync]) -> None:
    with pytest.raises(WorkflowNotFound, match=str(NOBODY)):
        db.triggers.set_webhook(NOBODY, actor="ann")
    workflow = a_workflow(db)
    db.workflows.archive(workflow.id, actor="ann")
    with pytest.raises(WorkflowArchived):
        db.triggers.set_webhook(workflow.id, actor="ann")


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"methods": []}, "methods"), ({"methods": "POST"}, "methods"), ({"methods": ["P OST"]}, "methods[0]"),
        ({"methods": ["POST", 5]}, "methods[1]"), ({"required_headers": ["x"]}, "required_headers"),
        ({"required_headers": {"x y": None}}, "required_headers"),
        ({"required_headers": {"": None}}, "required_headers"),
        ({"required_headers": {"x": 5}}, "required_headers.x"), ({"required_headers": {5: "x"}}, "required_headers"),
        ({"required_headers": {"Authorization": "Basic abc"}}, "required_headers.authorization"),
        ({"required_headers": {"X-Sig": "abc"}, "secret_headers": ["x-sig"]}, "required_headers.x-sig"),
        ({"required_query": {"t": "abc"}, "secret_query": ["t"]}, "required_query.t"),
        ({"required_query": {"": "x"}}, "required_query"), ({"required_query": {"a": "\0"}}, "required_query.a"),
        ({"required_headers": {f"x{n}": None for n in range(101)}}, "required_headers"),
        ({"secret_headers": "x"}, "secret_headers"), ({"secret_headers": ["a b"]}, "secret_headers[0]"),
        ({"secret_query": [""]}, "secret_query[0]"), ({"secret_ref": ""}, "secret_ref"),
        ({"secret_ref": "s" * 513}, "secret_ref"), ({"rate_limit": 0}, "rate_limit"),
        ({"rate_limit": True}, "rate_limit"),
        ({"rate_limit": 1_000_001}, "rate_limit"), ({"rate_limit": 1, "rate_window_seconds": 0}, "rate_window_seconds"),
        ({"rate_limit": 1, "rate_window_seconds": 86_401}, "rate_window_seconds"), ({"actor": ""}, "actor"),
    ],
    ids=lambda value: str(value)[:70].replace("\0", "NUL"),
)  # fmt: skip
def test_a_webhook_refuses_what_cannot_be_asked(db: Dal[Sync], given: dict[str, Any], path: str) -> None:
    workflow = a_workflow(db)
    with pytest.raises(Invalid) as refused:
        db.triggers.set_webhook(workflow.id, **{"actor": "ann", **given})
    assert refused.value.path == path
    assert len(db.workflows.events(workflow.id).items) == 1


# --- a request --------------------------------------------------------------------------------------------------------


def test_a_request_makes_a_pending_run_of_the_latest_version(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    version = a_version(db)
    latest = a_version(db, db.workflows.get(version.workflow_id), runnable_config={"limit": 5})
    webhook = a_webhook(db, version, methods=["PATCH"])
    run = db.triggers.dispatch_webhook(
        webhook.workflow_id, PAYLOAD, source_ip="2001:DB8::1", method="patch", headers={"X-Event": "push",
        "Accept": ""},
        query={"Q": "ä&b", "": "x"}, dedupe_key="delivery 1", actor="hooks",
    )  # fmt: skip
    inputs = {
        "body": PAYLOAD, "headers": {"x-event": "push", "accept": ""}, "method": "PATCH", "query": {"Q": "ä&b",
        "": "x"},
        "source_ip": "2001:db8::1",
    }  # fmt: skip
    assert run == Run(
        id=run.id, workflow_id=webhook.workflow_id, version_id=latest.id, status="pending", triggered_by="webhook",
        inputs=inputs, runnable_config={"limit": 5}, tags=(), callbacks=[], metadata={}, name=None, output=None,
        error=None, attempt=1, retry_of=None, retry_at=None, idempotency_key="webhook:delivery 1", lease_owner=None,
        lease_expires_at=None, created_at=NOON, started_at=None, completed_at=None, updated_at=NOON,
    )  # fmt: skip
    assert type(run.inputs["body"]["amounts"][4]) is float
    assert db.runs.get(run.id) == run
    assert trail(db.runs.events(run.id)) == [(1, "hooks", "created")]


@pytest.mark.parametrize("payload", [None, 0, "", "text", False, [], {}, [None]], ids=repr)
def test_a_payload_may_be_any_json_value(db: Dal[Sync], payload: object) -> None:
    run = asked(db, a_webhook(db), payload)
    assert (run.inputs["body"], type(run.inputs["body"])) == (payload, type(payload))
    assert (run.inputs["headers"], run.inputs["query"], run.inputs["method"]) == ({}, {}, "POST")


def test_credentials_of_a_request_are_not_kept(db: Dal[Sync]) -> None:
    webhook = a_webhook(
        db,
        secret_headers=["X-Hub-Signature-256"],
        secret_query=["token", "quo\"te'"],
        required_headers={"Cookie": None},
    )
    headers = {
        "Authorization": "Bearer s3cret-1", "COOKIE": "s3cret-2", "Proxy-Authorization": "s3cret-3",
        "x-hub-signature-256": "s3cret-4", "X-Api-Key": "s3cret-5", "x-kept": "yes",
    }  # fmt: skip
    run = asked(db, webhook, headers=headers, query={"token": "s3cret-6", "quo\"te'": "s3cret-7", "page": "1"})
    assert (run.inputs["headers"], run.inputs["query"]) == ({"x-kept": "yes"}, {"page": "1"})
    shown = f"{db.runs.get(run.id)}{db.runs.events(run.id)}{db.triggers.get_webhook(webhook.workflow_id)}"
    assert "s3cret" not in shown
    with pytest.raises(WebhookRefused) as refused:
        asked(db, webhook, headers={"Authorization": "Bearer s3cret-1"})
    assert "s3cret" not in f"{refused.value}{refused.value.found}"


RULES: dict[str, Any] = {
    "methods": ["POST", "PUT"],
    "required_headers": {"X-Event": "push", "x-any": None},
    "required_query": {"source": "git", "Ü": None},
}
GOOD: dict[str, Any] = {"headers": {"x-event": "push", "X-ANY": ""}, "query": {"source": "git", "Ü": "", "more": "1"}}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, None), ({"method": "put"}, None), ({"method": "GET"}, "method"),
        ({"headers": {"x-any": "1"}}, "header x-event"),
        ({"headers": {"x-event": "Push", "x-any": "1"}}, "header x-event"),
        ({"headers": {"x-event": "push"}}, "header x-any"), ({"headers": {}}, "header x-any"),
        ({"query": {"source": "git"}}, "query Ü"), ({"query": {"Source": "git", "Ü": ""}}, "query source"),
        ({"query": {}}, "query source"), ({"headers": {}, "query": {}, "method": "GET"}, "method"),
    ],
)  # fmt: skip
def test_a_request_is_held_to_the_rules_of_its_webhook(
    db: Dal[Sync], change: dict[str, Any], found: str | None
) -> None:
    webhook = a_webhook(db, **RULES)
    if found is None:
        assert asked(db, webhook, **{**GOOD, **change}).status == "pending"
        return
    for key in (None, "k"):
        with pytest.raises(WebhookRefused, match=str(webhook.workflow_id)) as refused:
            asked(db, webhook, dedupe_key=key, **{**GOOD, **change})
        assert refused.value.found == found
    assert db.runs.list(webhook.workflow_id).items == []


def test_what_is_in_the_way_is_told_by_name(db: Dal[Sync]) -> None:
    with pytest.raises(WorkflowNotFound, match=str(NOBODY)):
        db.triggers.dispatch_webhook(NOBODY, {}, source_ip=None)
    none = a_version(db)
    with pytest.raises(TriggerNotFound, match=str(none.workflow_id)):
        db.triggers.dispatch_webhook(none.workflow_id, {}, source_ip=None)
    workflow = a_workflow(db)
    db.triggers.set_webhook(workflow.id, actor="ann", rate_limit=1)
    with pytest.raises(VersionNotFound):
        db.triggers.dispatch_webhook(workflow.id, {}, source_ip=None)
    webhook = a_webhook(db)
    first = asked(db, webhook, dedupe_key="k")
    db.workflows.archive(webhook.workflow_id, actor="ann")
    with pytest.raises(WorkflowArchived):
        asked(db, webhook)
    assert asked(db, webhook, dedupe_key="k") == first, "its run was made before"


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"payload": {"a": {1}}}, "payload.a"), ({"payload": float("nan")}, "payload"), ({"payload": "a\0"}, "payload"),
        ({"source_ip": "x"}, "source_ip"), ({"source_ip": ""}, "source_ip"), ({"source_ip": 5}, "source_ip"),
        ({"dedupe_key": ""}, "dedupe_key"), ({"dedupe_key": "k" * 505}, "dedupe_key"),
        ({"dedupe_key": 5}, "dedupe_key"),
        ({"method": ""}, "method"), ({"method": "A B"}, "method"), ({"method": None}, "method"),
        ({"headers": {"a b": "x"}}, "headers"), ({"headers": {"a": None}}, "headers.a"),
        ({"headers": [("a", "b")]}, "headers"),
        ({"headers": {"a": "\0"}}, "headers.a"), ({"query": {"a": 5}}, "query"), ({"query": {5: "a"}}, "query"),
        ({"query": "a=b"}, "query"), ({"actor": ""}, "actor"),
    ],
    ids=lambda value: str(value)[:50].replace("\0", "NUL"),
)  # fmt: skip
def test_a_request_refuses_what_a_run_cannot_hold(db: Dal[Sync], given: dict[str, Any], path: str) -> None:
    webhook = a_webhook(db)
    with pytest.raises(Invalid) as refused:
        db.triggers.dispatch_webhook(webhook.workflow_id, **{"payload": {}, "source_ip": None, **given})
    assert refused.value.path == path
    assert db.runs.list(webhook.workflow_id).items == []


# --- once for a key ---------------------------------------------------------------------------------------------------


def test_the_same_dedupe_key_answers_the_first_run_whatever_else_is_sent(db: Dal[Sync]) -> None:
    webhook = a_webhook(db)
    first = asked(db, webhook, {"n": 1}, dedupe_key="d" * 504)
    db.versions.create(webhook.workflow_id, {}, actor="ann")
    assert asked(db, webhook, {"n": 2}, dedupe_key="d" * 504, headers={"x": "y"}) == first
    started = db.runs.start(first.id, actor="ann")
    assert asked(db, webhook, {"n": 1}, dedupe_key="d" * 504) == started
    assert asked(db, webhook, {"n": 1}, dedupe_key="D" * 504).id != first.id
    assert len(db.triggers.get_webhook(webhook.workflow_id).methods) == 1
    assert trail(db.runs.events(first.id)) == [(1, "webhook", "created"), (2, "ann", "started")]


def test_a_dedupe_key_is_no_key_of_the_applications_own(db: Dal[Sync]) -> None:
    version = a_version(db)
    mine = a_run(db, version, idempotency_key="k")
    webhook = a_webhook(db, version)
    other = a_webhook(db)
    assert len({mine.id, asked(db, webhook, dedupe_key="k").id, asked(db, other, dedupe_key="k").id}) == 3


def test_32_requests_with_one_key_make_one_run(db: Dal[Sync], make_db: MakeDb) -> None:
    version = a_version(db)
    webhook = a_webhook(db, version, rate_limit=1000)
    dbs = [db, make_db(face="sync"), make_db(face="async")]
    for number in range(5):
        answers = together([partial(asked, dbs[at % 3], webhook, at, dedupe_key=f"k{number}") for at in range(32)])
        assert all(isinstance(answer, Run) for answer in answers), f"round {number}: {answers}"
        assert len({answer.id for answer in answers if isinstance(answer, Run)}) == 1, f"round {number}"
    runs = db.runs.list(version.workflow_id).items
    assert len(runs) == 5
    assert [trail(db.runs.events(run.id)) for run in runs] == [[(1, "webhook", "created")]] * 5


def test_a_request_in_a_transaction_that_is_undone_leaves_no_key(db: Dal[Sync]) -> None:
    webhook = a_webhook(db, rate_limit=1)
    with suppress(ZeroDivisionError), db.transaction() as tx:
        undone = asked(tx, webhook, dedupe_key="k")
        raise ZeroDivisionError
    assert asked(db, webhook, dedupe_key="k").id != undone.id


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_window_takes_so_many_requests_and_tells_when_the_next_begins(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON + timedelta(seconds=10, microseconds=7))
    webhook = a_webhook(db, rate_limit=3, rate_window_seconds=60)
    first = asked(db, webhook, dedupe_key="k")
    for _ in range(2):
        asked(db, webhook)
    with pytest.raises(RateLimited) as refused:
        asked(db, webhook)
    assert isinstance(refused.value, Overloaded)
    assert refused.value.retry_after == 50.0
    assert asked(db, webhook, dedupe_key="k") == first, "it makes no run, and so it counts for nothing"
    clock.set(NOON + timedelta(seconds=59, microseconds=999_999))
    with pytest.raises(RateLimited) as refused:
        asked(db, webhook, dedupe_key="new")
    assert refused.value.retry_after == 1.0
    clock.set(NOON + timedelta(seconds=60))
    for _ in range(3):
        asked(db, webhook)
    with pytest.raises(RateLimited):
        asked(db, webhook)
    clock.set(NOON)  # the clock goes back
    asked(db, webhook)
    assert len(db.runs.list(webhook.workflow_id).items) == 7


def test_a_request_that_is_refused_counts_for_nothing(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    webhook = a_webhook(db, rate_limit=1, required_headers={"x": None})
    for _ in range(3):
        with pytest.raises(WebhookRefused):
            asked(db, webhook)
    asked(db, webhook, headers={"x": ""})
    with pytest.raises(RateLimited):
        asked(db, webhook, headers={"x": ""})
    with pytest.raises(WebhookRefused):
        asked(db, webhook)


def test_setting_a_webhook_again_begins_a_new_count(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    webhook = a_webhook(db, rate_limit=1)
    asked(db, webhook)
    db.triggers.set_webhook(webhook.workflow_id, actor="ann", rate_limit=1, rate_window_seconds=30)
    asked(db, webhook)
    with pytest.raises(RateLimited) as refused:
        asked(db, webhook)
    assert refused.value.retry_after == 30.0
    db.triggers.set_webhook(webhook.workflow_id, actor="ann")
    for _ in range(3):
        asked(db, webhook)


def test_of_64_requests_at_once_a_window_takes_as_many_as_it_may(db: Dal[Sync], make_db: MakeDb, clock: Clock) -> None:
    clock.set(NOON)
    dbs = [db, make_db(face="sync"), make_db(face="async")]
    webhook = a_webhook(db, rate_limit=20)
    answers = together([partial(asked, dbs[at % 3], webhook, at) for at in range(64)])
    refused = [answer for answer in answers if isinstance(answer, DalError)]
    assert {type(answer) for answer in refused} == {RateLimited}, refused
    assert len(refused) == 44
    assert len(db.runs.list(webhook.workflow_id, limit=100).items) == 20

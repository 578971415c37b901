"""Webhooks: what a request must be like to make a run of a workflow, how many may, and what is kept of it.

Whether there is a run is decided by the statement that makes it: the rules as they are then, the request's dedupe key,
the count of the window. No secret is kept: a webhook names one of the vault, and the server that owns both checks it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from ipaddress import ip_address
from typing import Any, NoReturn
from uuid import UUID

from msgspec import Struct

from dal.core.face import M, Queries, Store, applied, missing, statement
from dal.core.rows import Encoded, Json, check_int, check_text
from dal.digests import uuid7
from dal.errors import (
    Invalid,
    RateLimited,
    TriggerNotFound,
    VersionNotFound,
    WebhookRefused,
    WorkflowArchived,
    WorkflowNotFound,
)
from dal.stores.checks import check_key
from dal.stores.runs import Run

# Of these no value is ever looked at here, and none is sent to the database.
CREDENTIALS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key", "x-auth-token", "x-access-token"}
)
KEY_PREFIX = "webhook:"
MAX_NAMES = 100
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # RFC 9110: what methods and names of headers are made of


class Webhook(Struct, frozen=True):
    """What a workflow's webhook asks of a request. required_*: by name the value, or None for any value."""

    workflow_id: UUID
    methods: tuple[str, ...]  # in capitals
    required_headers: Json  # names in lower case
    required_query: Json
    secret_ref: str | None  # what the secret is called where secrets are kept
    secret_headers: tuple[str, ...]  # never kept with a run
    secret_query: tuple[str, ...]
    rate_limit: int | None  # runs in a window
    rate_window_seconds: int | None
    created_at: datetime
    created_by: str
    updated_at: datetime


class Webhooks(Store[M]):
    """The webhooks among ``db.triggers``."""

    @statement(write=True)
    async def set_webhook(
        self,
        q: Queries,
        workflow_id: UUID,
        *,
        actor: str,
        methods: Sequence[str] = ("POST",),
        required_headers: Mapping[str, str | None] | None = None,
        required_query: Mapping[str, str | None] | None = None,
        secret_ref: str | None = None,
        secret_headers: Sequence[str] = (),
        secret_query: Sequence[str] = (),
        rate_limit: int | None = None,
        rate_window_seconds: int = 60,
    ) -> Webhook:
        """Give a workflow a webhook, or replace the one it has; the count of requests begins anew.

        required_headers, required_query: what a request must carry, by name its value, or None for any. secret_ref: the
        name of a secret, never the secret. secret_headers, secret_query: names whose values are not kept with a run;
        those of authorization, cookie and the like never are, and no value of a secret can be required here.
        rate_limit: so many runs in each window of rate_window_seconds, 1 to 86,400, counted from 1970 on.
        Raises WorkflowNotFound, WorkflowArchived.
        """
        secrets = _check_names(secret_headers, "secret_headers", lower=True)
        secret_names = _check_names(secret_query, "secret_query", lower=False)
        answer = applied(
            await q.set_webhook(
                workflow_id=workflow_id,
                methods=_check_methods(methods),
                required_headers=_check_required(
                    _lowered(required_headers, "required_headers"), CREDENTIALS.union(secrets), "required_headers"
                ),
                required_query=_check_required(
                    _named(required_query, "required_query"), frozenset(secret_names), "required_query"
                ),
                secret_ref=None if secret_ref is None else check_key(secret_ref, "secret_ref"),
                secret_headers=secrets,
                secret_query=secret_names,
                rate_limit=None if rate_limit is None else _check_count(rate_limit, "rate_limit", 1_000_000),
                rate_window_seconds=_window(rate_limit, rate_window_seconds),
                actor=check_key(actor, "actor"),
                now=self.clock(),
            ),
            WorkflowNotFound,
            workflow_id,
        )
        if answer.row is None:
            raise WorkflowArchived(str(workflow_id), found=answer.found)
        return answer.row

    @statement
    async def get_webhook(self, q: Queries, workflow_id: UUID) -> Webhook:
        """A workflow's webhook. Raises TriggerNotFound."""
        return await q.get_webhook(workflow_id=workflow_id) or missing(TriggerNotFound, f"webhook of {workflow_id}")

    @statement(write=True)
    async def delete_webhook(self, q: Queries, workflow_id: UUID, *, actor: str) -> None:
        """Take a workflow's webhook away; runs that it made stay. Raises TriggerNotFound."""
        deleted = await q.delete_webhook(workflow_id=workflow_id, actor=check_key(actor, "actor"), now=self.clock())
        if not deleted:
            missing(TriggerNotFound, f"webhook of {workflow_id}")

    @statement(write=True, key="dedupe_key")
    async def dispatch_webhook(
        self,
        q: Queries,
        workflow_id: UUID,
        payload: Json,
        *,
        source_ip: str | None,
        dedupe_key: str | None = None,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        actor: str = "webhook",
    ) -> Run:
        """A pending run of the latest version, whose inputs are body, headers, method, query and source_ip.

        dedupe_key: 1 to 504 bytes, such as a delivery's id; given again, whatever the payload, it answers the first run
        and counts for no limit. Names of headers are taken in lower case. The secret is not checked here: do that
        first.
        Raises WorkflowNotFound, TriggerNotFound; WebhookRefused with ``.found`` as 'method', 'header x-event' or
        'query token'; WorkflowArchived, VersionNotFound; RateLimited with ``.retry_after``.
        """
        given, now = _lowered(headers, "headers"), self.clock()
        shown = {
            name: "" if name in CREDENTIALS else check_text(value, f"headers.{name}") for name, value in given.items()
        }
        asked = {name: check_text(value, "query") for name, value in _named(query, "query").items()}
        kept = {name: value for name, value in shown.items() if name not in CREDENTIALS}
        Encoded.of(payload, "payload")  # for the path in its complaint; in the inputs it is one deeper
        inputs = {
            "body": payload,
            "headers": kept,
            "method": _check_method(method, "method"),
            "query": asked,
            "source_ip": None if source_ip is None else _check_ip(source_ip),
        }
        seconds = int(now.timestamp())
        answer = applied(
            await q.create_webhook_run(
                id=uuid7(),
                workflow_id=workflow_id,
                method=_check_method(method, "method"),
                headers=shown,
                query=asked,
                inputs=inputs,
                idempotency_key=None if dedupe_key is None else _dedupe(dedupe_key),
                seconds=seconds,
                actor=check_key(actor, "actor"),
                now=now,
            ),
            WorkflowNotFound,
            workflow_id,
        )
        return answer.row or _refuse(answer.found or "", workflow_id, seconds)


def _refuse(found: str, workflow_id: UUID, seconds: int) -> NoReturn:
    if found == "webhook":
        missing(TriggerNotFound, f"webhook of {workflow_id}")
    if found == "version":
        missing(VersionNotFound, f"latest of workflow {workflow_id}")
    if found == "archived":
        raise WorkflowArchived(str(workflow_id), found=found)
    if found.startswith("rate "):
        window = int(found.removeprefix("rate "))
        wait = window - seconds % window
        raise RateLimited(f"workflow {workflow_id}, the next begins in {wait} s", retry_after=float(wait))
    shown = found.encode("ascii", "backslashreplace").decode()[:200]
    raise WebhookRefused(f"{shown} of a request to workflow {workflow_id}", found=found)


# --- arguments --------------------------------------------------------------------------------------------------------


def _check_method(value: str, path: str) -> str:
    if not _TOKEN.fullmatch(check_text(value, path)):
        raise Invalid("takes the name of an HTTP method, such as POST", path=path)
    return value.upper()


def _check_methods(value: Sequence[str]) -> list[str]:
    if type(value) is not list and type(value) is not tuple:
        raise Invalid(f"takes a list or tuple of str, not {type(value).__name__}", path="methods")
    methods = list(dict.fromkeys(_check_method(method, f"methods[{at}]") for at, method in enumerate(value)))
    if not 1 <= len(methods) <= MAX_NAMES:
        raise Invalid(f"{len(methods)} methods; takes 1 to {MAX_NAMES}", path="methods")
    return methods


def _check_header(name: str, path: str) -> str:
    if not _TOKEN.fullmatch(check_text(name, path)):
        raise Invalid("takes names of headers, such as X-Event", path=path)
    return name.lower()


def _check_names(value: Sequence[str], path: str, *, lower: bool) -> list[str]:
    if type(value) is not list and type(value) is not tuple:
        raise Invalid(f"takes a list or tuple of str, not {type(value).__name__}", path=path)
    check = _check_header if lower else check_key
    names = list(dict.fromkeys(check(name, f"{path}[{at}]") for at, name in enumerate(value)))
    if len(names) > MAX_NAMES:
        raise Invalid(f"{len(names)} names; takes at most {MAX_NAMES}", path=path)
    return names


def _named(value: Mapping[str, Any] | None, path: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Invalid(f"takes a mapping, not {type(value).__name__}", path=path)
    return {check_text(name, path): inner for name, inner in value.items()}


def _lowered(value: Mapping[str, Any] | None, path: str) -> dict[str, Any]:
    return {_check_header(name, path): inner for name, inner in _named(value, path).items()}


def _check_required(value: dict[str, Any], secret: frozenset[str], path: str) -> dict[str, str | None]:
    if len(value) > MAX_NAMES:
        raise Invalid(f"{len(value)} names; takes at most {MAX_NAMES}", path=path)
    for name, wanted in value.items():
        check_key(name, path)
        if wanted is not None:
            check_text(wanted, f"{path}.{name}")
            if name in secret:
                raise Invalid("is a secret, whose value is not kept here; take None", path=f"{path}.{name}")
    return value


def _check_count(value: int, path: str, most: int) -> int:
    if not 1 <= check_int(value, path) <= most:
        raise Invalid(f"{value}; takes 1 to {most}", path=path)
    return value


def _window(rate_limit: int | None, seconds: int) -> int | None:
    return None if rate_limit is None else _check_count(seconds, "rate_window_seconds", 86_400)


def _check_ip(value: str) -> str:
    try:
        return str(ip_address(check_text(value, "source_ip")))
    except ValueError as error:
        if isinstance(error, Invalid):
            raise
        raise Invalid("takes an IPv4 or IPv6 address", path="source_ip") from None


def _dedupe(value: str) -> str:
    key = KEY_PREFIX + check_text(value, "dedupe_key")
    if value == "":
        raise Invalid("0 bytes; takes 1 to 504", path="dedupe_key")
    return check_key(key, "dedupe_key")

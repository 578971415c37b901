"""Workflows: named, found, published and archived, with an audit trail of every change.

Times are UTC with microseconds. Every method that changes something writes its audit event in the same statement.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, get_args
from uuid import UUID

from msgspec import UNSET, Struct, UnsetType

from dal.core.cursors import (
    FAR,
    Page,
    check_limit,
    instant_cursor,
    number_cursor,
    page,
    place_cursor,
    read_instant_cursor,
    read_number_cursor,
    read_place_cursor,
)
from dal.core.face import M, Queries, Store, applied, missing, statement, transaction
from dal.core.rows import Applied, Json, check_bool, check_int, check_text
from dal.core.search import wanted, words
from dal.digests import uuid7
from dal.errors import (
    AlreadyExists,
    AlreadyPublished,
    HandleTaken,
    Invalid,
    NotPublished,
    RevisionConflict,
    WorkflowArchived,
    WorkflowNotFound,
)
from dal.stores.checks import check_choice, check_key, check_length, check_tag, check_tags

DraftAccess = Literal["personal", "authenticated", "workspace"]

MAX_INDEXED = 10_000  # in one call, because on one of the databases everybody who writes waits for it
_SEARCHED_TAGS = 65_536  # characters

_HANDLE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class Workflow(Struct, frozen=True):
    """A workflow as it stands."""

    id: UUID
    handle: str | None  # unique among workflows that are not archived
    name: str
    slug: str  # made from the name
    description: str | None
    tags: tuple[str, ...]
    draft_access: DraftAccess
    is_archived: bool
    is_public: bool
    published_at: datetime | None
    published_by: str | None
    require_login: bool
    chat_config: Json
    revision: int  # from 1, one more with every change
    created_at: datetime
    created_by: str
    updated_at: datetime


class FoundWorkflow(Workflow, frozen=True):
    """A workflow that was searched for. number: of its words. is_name: its name has all of them."""

    number: int
    is_name: bool


class NamedWorkflow(Struct, frozen=True):
    """What is searched of a workflow."""

    id: UUID
    name: str
    description: str | None
    tags: tuple[str, ...]


class Event(Struct, frozen=True):
    """One entry of an audit trail."""

    number: int  # from 1 for each workflow or run, without gaps
    actor: str
    action: str
    at: datetime
    metadata: Json


def check_handle(value: str) -> str:
    """A handle in lower case: letters and digits in groups joined by single hyphens, at most 64, not like a UUID."""
    handle = check_length(value, "handle", 1, 64).lower()
    if not value.isascii() or not _HANDLE.fullmatch(handle):  # U+212A, the Kelvin sign, has a lower case k
        raise Invalid("takes letters a to z and digits, in groups joined by single hyphens", path="handle")
    if _as_uuid(handle):
        raise Invalid("is shaped as a UUID, which would hide the workflow with that id", path="handle")
    return handle


def _as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def slugify(name: str) -> str:
    """A name as part of an address: ASCII letters, digits and single hyphens; 'workflow' if nothing is left."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "workflow"


def _check_name(value: str) -> str:
    return check_length(check_text(value, "name").strip(), "name", 1, 128)


def _check_description(value: str | None) -> str | None:
    return None if value is None else check_length(value, "description", 0, 1024)


def _terms(text: str, key: str = "t") -> str:
    return "".join(f"{key}{word} " for word in words(text))


def _name_terms(name: str) -> str:
    return _terms(name, "n") + _terms(name)


def _tag_terms(tags: Sequence[str]) -> str:
    """As many of the words as an index entry is sure to hold."""
    return _terms(" ".join(tags)[:_SEARCHED_TAGS])


class Workflows(Store[M]):
    """``db.workflows``."""

    @statement(write=True)
    async def create(
        self,
        q: Queries,
        name: str,
        *,
        actor: str,
        handle: str | None = None,
        description: str | None = None,
        tags: Sequence[str] = (),
        draft_access: DraftAccess = "personal",
        chat_config: Json = None,
    ) -> Workflow:
        """A new workflow.

        name: 1 to 128 characters once trimmed. handle: lower-cased; letters, digits, single hyphens, at most 64.
        description: at most 1024 characters. tags: trimmed, lower-cased, each once, in the order given.
        Raises HandleTaken if a workflow that is not archived has the handle.
        """
        name = _check_name(name)
        tags = check_tags(tags)
        workflow = await q.create_workflow(
            id=uuid7(),
            handle=None if handle is None else check_handle(handle),
            name=name,
            slug=slugify(name),
            description=_check_description(description),
            tags=tags,
            draft_access=check_choice(draft_access, "draft_access", get_args(DraftAccess)),
            chat_config=chat_config,
            name_terms=_name_terms(name),
            description_terms=_terms(description or ""),
            tag_terms=_tag_terms(tags),
            actor=check_key(actor, "actor"),
            now=self.clock(),
        )
        if workflow is None:
            raise HandleTaken(str(handle).lower(), constraint="workflows_handle_key")
        return workflow

    @statement
    async def get(self, q: Queries, id: UUID) -> Workflow:
        """One workflow, archived or not. Raises WorkflowNotFound."""
        return await q.get_workflow(id=id) or missing(WorkflowNotFound, id)

    @statement
    async def resolve(self, q: Queries, ref: str | UUID, *, include_archived: bool = True) -> Workflow:
        """The workflow a user means by a handle or an id.

        An active workflow's handle counts first, then the handle of the archived workflow changed last, then the id.
        Raises WorkflowNotFound.
        """
        text = str(ref) if isinstance(ref, UUID) else check_length(ref, "ref", 1, 128)
        found = await q.resolve_workflow(handle=text.lower(), id=_as_uuid(text), include_archived=include_archived)
        return found or missing(WorkflowNotFound, text)

    @statement
    async def list(
        self,
        q: Queries,
        *,
        include_archived: bool = False,
        tag: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[Workflow]:
        """Workflows, newest first. tag: only those that have it, compared in lower case. limit: 1 to 500."""
        check_bool(include_archived, "include_archived")
        if tag is not None:
            tag = check_tag(tag, "tag")
        scope = f"workflows:{include_archived}:{tag}"
        after_at, after_id = read_instant_cursor(scope, after)
        more = check_limit(limit) + 1
        if tag is None:
            query = q.list_workflows_all if include_archived else q.list_workflows
            rows = await query(after_at=after_at, after_id=after_id, limit=more)
        else:
            by_tag = q.list_workflows_all_by_tag if include_archived else q.list_workflows_by_tag
            rows = await by_tag(tag=tag, after_at=after_at, after_id=after_id, limit=more)
        return page(rows, limit, lambda last: instant_cursor(scope, last.created_at, last.id))

    @statement
    async def search(
        self,
        q: Queries,
        text: str,
        *,
        include_archived: bool = False,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[Workflow]:
        """Workflows that have every word of a text in their name, description or tags; none if it has no word.

        Words are compared without case and diacritics, and the last one is the beginning of a word. Those that have all
        in their name come first, and of these and of the others those made last. limit: 1 to 500.
        Raises Invalid for more than 64 words.
        """
        check_bool(include_archived, "include_archived")
        asked = wanted(check_text(text, "text"), "text")
        scope = f"search-workflows:{include_archived}:{asked}"
        is_first, place = read_place_cursor(scope, after)
        check_limit(limit)
        if asked is None:
            return Page([], None)
        rows = await (q.search_workflows_all if include_archived else q.search_workflows)(
            name_words=asked.keyed("n"),
            words=asked.keyed("t"),
            before_name=place if is_first else 0,
            before=FAR if is_first else place,
            limit=limit + 1,
        )
        found = page(rows, limit, lambda last: place_cursor(scope, last.is_name, last.number))
        return Page([_plain(row) for row in found.items], found.next)

    @transaction
    async def make_searchable(self, q: Queries, *, limit: int = 1000) -> int:
        """Make workflows searchable that an earlier version wrote; returns how many, fewer than limit at the end.

        ``dal schema apply`` does it until none is left; so does ``connect`` where it applied a migration.
        limit: 1 to 10,000.
        """
        if not 1 <= check_int(limit, "limit") <= MAX_INDEXED:
            raise Invalid(f"{limit}; takes 1 to {MAX_INDEXED}", path="limit")
        found = await q.list_workflows_unsearchable(limit=limit)
        if found:
            await q.create_workflow_texts(
                ids=[each.id for each in found],
                name_terms=[_name_terms(each.name) for each in found],
                description_terms=[_terms(each.description or "") for each in found],
                tag_terms=[_tag_terms(each.tags) for each in found],
            )
        return len(found)

    @statement(write=True)
    async def update(
        self,
        q: Queries,
        id: UUID,
        *,
        actor: str,
        handle: str | UnsetType | None = UNSET,
        name: str | UnsetType = UNSET,
        description: str | UnsetType | None = UNSET,
        tags: Sequence[str] | UnsetType = UNSET,
        draft_access: DraftAccess | UnsetType = UNSET,
        chat_config: Json | UnsetType = UNSET,
        expected_revision: int | None = None,
    ) -> Workflow:
        """Change what is given and leave the rest; None clears handle, description and chat_config.

        expected_revision: the revision the change was made on; another one is RevisionConflict, with the present one.
        Raises WorkflowNotFound, RevisionConflict, HandleTaken.
        """
        given = {
            "handle": handle, "name": name, "description": description, "tags": tags, "draft_access": draft_access,
            "chat_config": chat_config,
        }  # fmt: skip
        fields = [field for field, value in given.items() if value is not UNSET]
        if not fields:
            raise Invalid(f"nothing to change; give at least one of {', '.join(given)}")
        new_name = None if name is UNSET else _check_name(name)
        new_description = None if description is UNSET else _check_description(description)
        new_tags = None if tags is UNSET else check_tags(tags)
        try:
            answer = await q.update_workflow(
                id=id,
                expected_revision=None
                if expected_revision is None
                else check_int(expected_revision, "expected_revision"),
                set_handle=handle is not UNSET,
                handle=None if handle is UNSET or handle is None else check_handle(handle),
                set_name=name is not UNSET,
                name=new_name,
                slug=None if new_name is None else slugify(new_name),
                set_description=description is not UNSET,
                description=new_description,
                set_tags=tags is not UNSET,
                tags=new_tags,
                set_draft_access=draft_access is not UNSET,
                draft_access=(
                    None if draft_access is UNSET else check_choice(draft_access, "draft_access", get_args(DraftAccess))
                ),
                set_chat_config=chat_config is not UNSET,
                chat_config=None if chat_config is UNSET else chat_config,
                name_terms=None if new_name is None else _name_terms(new_name),
                description_terms=_terms(new_description or ""),
                tag_terms=None if new_tags is None else _tag_terms(new_tags),
                fields=fields,
                actor=check_key(actor, "actor"),
                now=self.clock(),
            )
        except AlreadyExists as error:
            _unless_handle(error)
            raise _handle_taken(id) from error
        answer = applied(answer, WorkflowNotFound, id)
        if answer.row is None and answer.found == "handle":
            raise _handle_taken(id)
        if answer.row is None:
            raise RevisionConflict(
                f"expected revision {expected_revision}, found {answer.found}", current=int(answer.found or 0)
            )
        return answer.row

    @statement(write=True)
    async def archive(self, q: Queries, id: UUID, *, actor: str) -> Workflow:
        """Archive and unpublish: it takes no new version, run or trigger from now on. Again is no change.

        Raises WorkflowNotFound.
        """
        archived = await q.archive_workflow(id=id, actor=check_key(actor, "actor"), now=self.clock())
        return archived or missing(WorkflowNotFound, id)

    @statement(write=True)
    async def unarchive(self, q: Queries, id: UUID, *, actor: str) -> Workflow:
        """Make active again, unpublished. Again is no change.

        Raises WorkflowNotFound; HandleTaken if another active workflow has its handle by now.
        """
        try:
            answer = await q.unarchive_workflow(id=id, actor=check_key(actor, "actor"), now=self.clock())
        except AlreadyExists as error:
            _unless_handle(error)
            raise _handle_taken(id) from error
        row = applied(answer, WorkflowNotFound, id).row
        if row is None:
            raise _handle_taken(id)
        return row

    @statement(write=True)
    async def publish(self, q: Queries, id: UUID, *, actor: str, require_login: bool = False) -> Workflow:
        """Make public. Raises WorkflowNotFound, AlreadyPublished, WorkflowArchived."""
        answer = applied(
            await q.publish_workflow(
                id=id, require_login=require_login, actor=check_key(actor, "actor"), now=self.clock()
            ),
            WorkflowNotFound,
            id,
        )
        if answer.row is None:
            refusal = WorkflowArchived if answer.found == "archived" else AlreadyPublished
            raise refusal(str(id), found=answer.found)
        return answer.row

    @statement(write=True)
    async def unpublish(self, q: Queries, id: UUID, *, actor: str) -> Workflow:
        """Make private again. Raises WorkflowNotFound, NotPublished."""
        answer: Applied[Workflow] = applied(
            await q.unpublish_workflow(id=id, actor=check_key(actor, "actor"), now=self.clock()), WorkflowNotFound, id
        )
        if answer.row is None:
            raise NotPublished(str(id), found=answer.found)
        return answer.row

    @statement
    async def events(self, q: Queries, id: UUID, *, after: str | None = None, limit: int = 50) -> Page[Event]:
        """The audit trail of a workflow and its versions, oldest first; empty if there is no such workflow."""
        scope = f"workflow-events:{id}"
        number = read_number_cursor(scope, after, first=0)
        rows = await q.list_workflow_events(workflow_id=id, after=number, limit=check_limit(limit) + 1)
        return page(rows, limit, lambda last: number_cursor(scope, last.number))


def _plain(row: FoundWorkflow) -> Workflow:
    return Workflow(*(getattr(row, name) for name in Workflow.__struct_fields__))


def _unless_handle(error: AlreadyExists) -> None:
    """Raise what is not about the handle: a DBA may have added a unique index."""
    if error.constraint != "workflows_handle_key":
        raise error


def _handle_taken(id: UUID) -> HandleTaken:
    return HandleTaken(f"wanted by workflow {id}", constraint="workflows_handle_key")

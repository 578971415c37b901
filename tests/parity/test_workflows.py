"""Workflows: created, found, changed, published and archived, the same in every cell."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest

from dal import (
    AlreadyPublished,
    Dal,
    HandleTaken,
    Invalid,
    NotPublished,
    RevisionConflict,
    Sync,
    Workflow,
    WorkflowArchived,
    WorkflowNotFound,
)
from tests.cells import Clock, MakeDb, together
from tests.parity.make import NOBODY, NOON, a_version, a_workflow, all_pages, trail

CHAT = {"prompts": ["Hello", "What is due?"], "models": [{"name": "small", "limit": 10}], "none": None}
UUID_TEXT = "0190c8a0-0000-7000-8000-000000000000"


# --- create and get ---------------------------------------------------------------------------------------------------


def test_a_new_workflow_has_what_was_given_and_sensible_defaults(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    workflow = db.workflows.create("Invoices", actor="ann")
    assert workflow == Workflow(
        id=workflow.id, handle=None, name="Invoices", slug="invoices", description=None, tags=(),
        draft_access="personal", is_archived=False, is_public=False, published_at=None, published_by=None,
        require_login=False, chat_config=None, revision=1, created_at=NOON, created_by="ann", updated_at=NOON,
    )  # fmt: skip
    assert workflow.id.version == 7
    assert db.workflows.get(workflow.id) == workflow


def test_everything_given_comes_back_as_it_was(db: Dal[Sync], make_db: MakeDb) -> None:
    workflow = db.workflows.create(
        "Übersicht: März 2026 🧾",
        actor="änn",
        handle="Month-End-2",
        description="",
        tags=["finance"],
        draft_access="workspace",
        chat_config=CHAT,
    )
    shown = (workflow.name, workflow.slug, workflow.handle, workflow.description, workflow.tags)
    assert shown == ("Übersicht: März 2026 🧾", "ubersicht-marz-2026", "month-end-2", "", ("finance",))
    assert (workflow.draft_access, workflow.chat_config, workflow.created_by) == ("workspace", CHAT, "änn")
    assert make_db(face="sync").workflows.get(workflow.id) == workflow
    assert make_db(face="async").workflows.get(workflow.id) == workflow


def test_times_are_kept_to_the_microsecond_and_returned_in_utc(db: Dal[Sync], clock: Clock) -> None:
    clock.set(datetime(2026, 3, 1, 17, 30, 0, 123456, timezone(timedelta(hours=5, minutes=30))))
    workflow = a_workflow(db)
    for seen in (workflow.created_at, db.workflows.get(workflow.id).created_at):
        assert seen == datetime(2026, 3, 1, 12, 0, 0, 123456, UTC)
        assert seen.utcoffset() == timedelta(0), f"{seen} is not in UTC"


def test_what_the_caller_changes_after_the_call_is_not_stored(db: Dal[Sync]) -> None:
    config = {"prompts": ["first"]}
    workflow = a_workflow(db, chat_config=config)
    config["prompts"].append("second")
    assert db.workflows.get(workflow.id).chat_config == {"prompts": ["first"]}


@pytest.mark.parametrize("value", [0, "", False, [], {}, 1.5])
def test_a_chat_config_may_be_any_json_value(db: Dal[Sync], value: object) -> None:
    stored = db.workflows.get(a_workflow(db, chat_config=value).id).chat_config
    assert (stored, type(stored)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "kept", "slug"),
    [
        ("  padded\t", "padded", "padded"),
        ("x", "x", "x"),
        ("n" * 128, "n" * 128, "n" * 128),
        ("🧾" * 128, "🧾" * 128, "workflow"),
        ("日本", "日本", "workflow"),
        ("--A  b__C--", "--A  b__C--", "a-b-c"),
        ("'; drop table workflows; --", "'; drop table workflows; --", "drop-table-workflows"),
    ],
)
def test_a_name_is_trimmed_and_makes_the_slug(db: Dal[Sync], name: str, kept: str, slug: str) -> None:
    workflow = db.workflows.create(name, actor="ann")
    assert (workflow.name, workflow.slug) == (kept, slug)


@pytest.mark.parametrize("name", ["", "  ", "n" * 129, "a\0b", "\ud800", None, 5, b"x"])
def test_a_name_is_1_to_128_characters_of_text(db: Dal[Sync], name: Any) -> None:
    with pytest.raises(Invalid) as refused:
        db.workflows.create(name, actor="ann")
    assert refused.value.path == "name"
    assert db.workflows.list().items == []


def test_a_description_is_at_most_1024_characters(db: Dal[Sync]) -> None:
    assert db.workflows.get(a_workflow(db, description="🧾" * 1024).id).description == "🧾" * 1024
    with pytest.raises(Invalid) as refused:
        a_workflow(db, description="d" * 1025)
    assert refused.value.path == "description"


def test_tags_are_trimmed_lower_cased_and_distinct_in_the_order_given(db: Dal[Sync]) -> None:
    workflow = a_workflow(db, tags=[" Zeta ", "alpha", "ZETA", "Ärger", "10", "alpha\t"])
    assert workflow.tags == ("zeta", "alpha", "ärger", "10")
    assert db.workflows.get(workflow.id).tags == workflow.tags


@pytest.mark.parametrize(
    ("tags", "path"),
    [
        (["ok", " "], "tags[1]"), (["t" * 513], "tags[0]"), (["é" * 257], "tags[0]"), (["a\0"], "tags[0]"),
        ([1], "tags[0]"), ("one", "tags"), ({"one"}, "tags"), (None, "tags"),
    ],
)  # fmt: skip
def test_a_tag_is_1_to_512_bytes_of_text(db: Dal[Sync], tags: Any, path: str) -> None:
    with pytest.raises(Invalid) as refused:
        a_workflow(db, tags=tags)
    assert refused.value.path == path


@pytest.mark.parametrize("access", ["personal", "authenticated", "workspace"])
def test_draft_access_takes_its_three_words(db: Dal[Sync], access: Any) -> None:
    assert a_workflow(db, draft_access=access).draft_access == access


@pytest.mark.parametrize("access", ["Personal", "", "public", None, 1])
def test_draft_access_takes_no_other_word(db: Dal[Sync], access: Any) -> None:
    with pytest.raises(Invalid) as refused:
        a_workflow(db, draft_access=access)
    assert refused.value.path == "draft_access"


def test_an_unknown_workflow_is_not_found_by_any_method(db: Dal[Sync]) -> None:
    calls: list[Any] = [
        lambda: db.workflows.get(NOBODY),
        lambda: db.workflows.resolve(NOBODY),
        lambda: db.workflows.resolve("nobody"),
        lambda: db.workflows.update(NOBODY, actor="ann", name="x"),
        lambda: db.workflows.update(NOBODY, actor="ann", name="x", expected_revision=1),
        lambda: db.workflows.archive(NOBODY, actor="ann"),
        lambda: db.workflows.unarchive(NOBODY, actor="ann"),
        lambda: db.workflows.publish(NOBODY, actor="ann"),
        lambda: db.workflows.unpublish(NOBODY, actor="ann"),
        lambda: db.versions.create(NOBODY, {}, actor="ann"),
        lambda: db.runs.create(NOBODY, actor="ann"),
        lambda: db.runs.create(NOBODY, version_id=NOBODY, idempotency_key="k", actor="ann"),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(WorkflowNotFound) as refused:
            call()
        assert "nobody" in str(refused.value) or UUID_TEXT in str(refused.value), f"call {number}: {refused.value}"
    assert db.workflows.events(NOBODY).items == []


# --- handles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handle", "kept"),
    [("a", "a"), ("0", "0"), ("Month-End", "month-end"), ("a-b-c-1", "a-b-c-1"), ("h" * 64, "h" * 64)],
)
def test_a_handle_is_lower_cased(db: Dal[Sync], handle: str, kept: str) -> None:
    workflow = a_workflow(db, handle=handle)
    assert workflow.handle == kept
    assert db.workflows.resolve(handle) == db.workflows.resolve(kept) == workflow


@pytest.mark.parametrize(
    "handle",
    [
        "", "-", "-a", "a-", "a--b", "a b", " a", "a_b", "a.b", "a/b", "ä", "ſ", "İ", "\N{KELVIN SIGN}", "a\n", "a\0",
        "h" * 65, UUID_TEXT, UUID_TEXT.upper(), UUID_TEXT.replace("-", ""), 7, b"a",
    ],
)  # fmt: skip
def test_a_handle_of_another_shape_is_refused(db: Dal[Sync], handle: Any) -> None:
    with pytest.raises(Invalid) as refused:
        a_workflow(db, handle=handle)
    assert refused.value.path == "handle"
    workflow = a_workflow(db)
    with pytest.raises(Invalid) as refused:
        db.workflows.update(workflow.id, actor="ann", handle=handle)
    assert refused.value.path == "handle"
    assert db.workflows.get(workflow.id) == workflow


def test_a_handle_belongs_to_one_active_workflow(db: Dal[Sync]) -> None:
    first = a_workflow(db, handle="invoices")
    other = a_workflow(db, handle="other")
    with pytest.raises(HandleTaken) as on_create:
        a_workflow(db, handle="INVOICES")
    with pytest.raises(HandleTaken) as on_update:
        db.workflows.update(other.id, actor="ann", handle="Invoices", name="Renamed")
    assert on_create.value.constraint == on_update.value.constraint == "workflows_handle_key"
    assert [workflow.id for workflow in db.workflows.list().items] == [other.id, first.id]
    assert db.workflows.get(other.id) == other
    assert trail(db.workflows.events(other.id)) == [(1, "ann", "created")]


def test_any_number_of_workflows_have_no_handle(db: Dal[Sync]) -> None:
    first, second = a_workflow(db), a_workflow(db, handle="second")
    assert db.workflows.update(second.id, actor="ann", handle=None).handle is None
    db.workflows.archive(first.id, actor="ann")
    assert not db.workflows.unarchive(first.id, actor="ann").is_archived


def test_a_workflow_may_be_given_its_own_handle_again(db: Dal[Sync]) -> None:
    workflow = a_workflow(db, handle="mine")
    assert db.workflows.update(workflow.id, actor="ann", handle="MINE").handle == "mine"


def test_an_archived_workflow_frees_its_handle_and_may_take_one_that_is_in_use(db: Dal[Sync]) -> None:
    first = a_workflow(db, handle="invoices")
    db.workflows.archive(first.id, actor="ann")
    second = a_workflow(db, handle="invoices")
    third = a_workflow(db, handle="third")
    db.workflows.archive(third.id, actor="ann")
    assert db.workflows.update(third.id, actor="ann", handle="invoices").handle == "invoices"
    assert db.workflows.resolve("invoices") == second


# --- resolve ----------------------------------------------------------------------------------------------------------


def test_resolve_takes_an_id_in_every_spelling(db: Dal[Sync]) -> None:
    workflow = a_workflow(db, handle="named")
    text = str(workflow.id)
    for spelling in (workflow.id, text, text.upper(), text.replace("-", "")):
        assert db.workflows.resolve(spelling) == workflow, f"{spelling} did not resolve"


def test_resolve_prefers_the_active_handle_then_the_archived_one_changed_last(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    first, second = (a_workflow(db, handle=handle) for handle in ("invoices", "second"))
    db.workflows.archive(first.id, actor="ann")
    clock.advance(seconds=1)
    db.workflows.archive(second.id, actor="ann")
    db.workflows.update(second.id, actor="ann", handle="invoices")
    assert db.workflows.resolve("invoices").id == second.id
    clock.advance(seconds=1)
    db.workflows.update(first.id, actor="ann", description="touched last")
    assert db.workflows.resolve("invoices").id == first.id
    active = a_workflow(db, handle="invoices")
    clock.advance(seconds=1)
    db.workflows.update(second.id, actor="ann", description="touched after the active one")
    assert db.workflows.resolve("Invoices").id == active.id


def test_resolve_leaves_archived_ones_out_when_told(db: Dal[Sync]) -> None:
    workflow = a_workflow(db, handle="invoices")
    assert db.workflows.resolve("invoices", include_archived=False) == workflow
    assert db.workflows.resolve(workflow.id, include_archived=False) == workflow
    archived = db.workflows.archive(workflow.id, actor="ann")
    for ref in ("invoices", workflow.id):
        assert db.workflows.resolve(ref) == archived
        with pytest.raises(WorkflowNotFound):
            db.workflows.resolve(ref, include_archived=False)


@pytest.mark.parametrize("ref", ["", "r" * 129, "a\0b", "\udfff", None, 5])
def test_resolve_refuses_what_is_no_reference(db: Dal[Sync], ref: Any) -> None:
    with pytest.raises(Invalid) as refused:
        db.workflows.resolve(ref)
    assert refused.value.path == "ref"


@pytest.mark.parametrize("ref", ["%", "_", "*", "in%", "'; drop table workflows; --", "ünknown", UUID_TEXT[:-1]])
def test_resolve_takes_a_reference_as_it_is_written(db: Dal[Sync], ref: str) -> None:
    a_workflow(db, handle="invoices")
    with pytest.raises(WorkflowNotFound):
        db.workflows.resolve(ref)


# --- list -------------------------------------------------------------------------------------------------------------


def test_workflows_are_listed_newest_first_and_archived_ones_when_asked_for(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    ids = []
    for _ in range(4):
        clock.advance(seconds=-1)  # created_at decides, not the order of writing
        ids.append(a_workflow(db).id)
    db.workflows.archive(ids[1], actor="ann")
    assert [each.id for each in db.workflows.list().items] == [ids[0], ids[2], ids[3]]
    assert [each.id for each in db.workflows.list(include_archived=True).items] == ids


def test_a_list_by_tag_follows_every_change_of_tags_and_of_being_archived(db: Dal[Sync]) -> None:
    first = a_workflow(db, tags=["red", "blue"])
    second = a_workflow(db, tags=["Red"])
    a_workflow(db, tags=["reddish", "r"])

    def listed(tag: str, **options: Any) -> list[Any]:
        return [each.id for each in db.workflows.list(tag=tag, **options).items]

    assert listed(" RED ") == [second.id, first.id]
    db.workflows.update(first.id, actor="ann", tags=["green", "blue"])
    assert (listed("red"), listed("green"), listed("blue")) == ([second.id], [first.id], [first.id])
    db.workflows.archive(first.id, actor="ann")
    assert (listed("green"), listed("green", include_archived=True)) == ([], [first.id])
    db.workflows.update(first.id, actor="ann", tags=["white"])
    assert (listed("white"), listed("white", include_archived=True)) == ([], [first.id])
    db.workflows.unarchive(first.id, actor="ann")
    assert (listed("white"), listed("green")) == ([first.id], [])
    db.workflows.update(first.id, actor="ann", tags=[])
    assert listed("white", include_archived=True) == []


@pytest.mark.parametrize("tag", ["%", "r_d", "re*", "[r]ed", "'"])
def test_a_tag_is_compared_as_it_is_written(db: Dal[Sync], tag: str) -> None:
    a_workflow(db, tags=["red"])
    odd = a_workflow(db, tags=[tag])
    assert [each.id for each in db.workflows.list(tag=tag).items] == [odd.id]


@pytest.mark.parametrize("tag", ["", "  ", 5, "t" * 513])
def test_a_list_refuses_what_is_no_tag(db: Dal[Sync], tag: Any) -> None:
    with pytest.raises(Invalid) as refused:
        db.workflows.list(tag=tag)
    assert (refused.value.path or "").startswith("tag")


# --- update -----------------------------------------------------------------------------------------------------------

CHANGES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"handle": "New-Handle"}, {"handle": "new-handle"}),
    ({"handle": None}, {"handle": None}),
    ({"name": " New  Name "}, {"name": "New  Name", "slug": "new-name"}),
    ({"description": "new"}, {"description": "new"}),
    ({"description": ""}, {"description": ""}),
    ({"description": None}, {"description": None}),
    ({"tags": ["B", "a", "b"]}, {"tags": ("b", "a")}),
    ({"tags": ()}, {"tags": ()}),
    ({"draft_access": "workspace"}, {"draft_access": "workspace"}),
    ({"chat_config": [1, None]}, {"chat_config": [1, None]}),
    ({"chat_config": None}, {"chat_config": None}),
    ({"name": "Two", "tags": ["t"], "handle": "two"}, {"name": "Two", "slug": "two", "tags": ("t",), "handle": "two"}),
]


@pytest.mark.parametrize(("given", "changed"), CHANGES, ids=lambda value: "-".join(value))
def test_an_update_changes_what_is_given_and_nothing_else(
    db: Dal[Sync], clock: Clock, given: dict[str, Any], changed: dict[str, Any]
) -> None:
    clock.set(NOON)
    before = a_workflow(db, handle="old", description="old", tags=["old"], chat_config=CHAT)
    later = clock.advance(minutes=1)
    after = db.workflows.update(before.id, actor="bob", **given)
    expected = {name: getattr(before, name) for name in before.__struct_fields__}
    assert after == Workflow(**{**expected, **changed, "revision": 2, "updated_at": later})
    assert db.workflows.get(before.id) == after
    event = db.workflows.events(before.id).items[-1]
    assert (event.number, event.actor, event.action, event.at) == (2, "bob", "updated", later)
    assert set(event.metadata) == {"fields"}
    assert sorted(event.metadata["fields"]) == sorted(given)


def test_an_update_that_gives_nothing_is_refused(db: Dal[Sync]) -> None:
    workflow = a_workflow(db)
    with pytest.raises(Invalid, match="nothing to change"):
        db.workflows.update(workflow.id, actor="ann")
    with pytest.raises(Invalid, match="nothing to change"):
        db.workflows.update(workflow.id, actor="ann", expected_revision=1)
    assert db.workflows.get(workflow.id) == workflow


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"name": None}, "name"), ({"name": " "}, "name"), ({"tags": None}, "tags"), ({"tags": [""]}, "tags[0]"),
        ({"draft_access": None}, "draft_access"), ({"description": "d" * 1025}, "description"),
        ({"chat_config": float("nan")}, "chat_config"), ({"name": "x", "expected_revision": "1"}, "expected_revision"),
        ({"name": "x", "expected_revision": True}, "expected_revision"),
    ],
    ids=str,
)  # fmt: skip
def test_an_update_refuses_what_a_field_cannot_hold(db: Dal[Sync], given: dict[str, Any], path: str) -> None:
    workflow = a_workflow(db)
    with pytest.raises(Invalid) as refused:
        db.workflows.update(workflow.id, actor="ann", **given)
    assert refused.value.path == path
    assert db.workflows.get(workflow.id) == workflow


def test_a_change_made_on_an_old_revision_is_refused_with_the_present_one(db: Dal[Sync]) -> None:
    workflow = a_workflow(db)
    second = db.workflows.update(workflow.id, actor="ann", name="Second", expected_revision=1)
    assert second.revision == 2
    for stale in (1, 3, 0, -1, 2**63 - 1):
        with pytest.raises(RevisionConflict) as refused:
            db.workflows.update(workflow.id, actor="bob", name="Lost", expected_revision=stale)
        assert refused.value.current == 2, f"expected_revision={stale}"
    assert db.workflows.get(workflow.id) == second
    assert trail(db.workflows.events(workflow.id)) == [(1, "ann", "created"), (2, "ann", "updated")]


def test_the_revision_is_looked_at_before_the_handle(db: Dal[Sync]) -> None:
    a_workflow(db, handle="taken")
    workflow = a_workflow(db)
    with pytest.raises(RevisionConflict):
        db.workflows.update(workflow.id, actor="ann", handle="taken", expected_revision=7)


# --- archive and publish ----------------------------------------------------------------------------------------------


def test_archiving_unpublishes_and_is_done_once(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    workflow = a_workflow(db)
    db.workflows.publish(workflow.id, actor="ann", require_login=True)
    later = clock.advance(minutes=1)
    archived = db.workflows.archive(workflow.id, actor="bob")
    public = (archived.is_public, archived.published_at, archived.published_by, archived.require_login)
    assert public == (False, None, None, False)
    assert (archived.is_archived, archived.revision, archived.updated_at) == (True, 3, later)
    clock.advance(minutes=1)
    assert db.workflows.archive(workflow.id, actor="eve") == archived
    assert db.workflows.get(workflow.id) == archived
    assert trail(db.workflows.events(workflow.id))[2:] == [(3, "bob", "archived")]


def test_unarchiving_makes_active_unpublished_and_is_done_once(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    workflow = a_workflow(db, handle="mine")
    assert db.workflows.unarchive(workflow.id, actor="eve") == workflow
    db.workflows.publish(workflow.id, actor="ann")
    db.workflows.archive(workflow.id, actor="ann")
    later = clock.advance(minutes=1)
    active = db.workflows.unarchive(workflow.id, actor="bob")
    assert (active.is_archived, active.is_public, active.handle, active.updated_at) == (False, False, "mine", later)
    assert db.workflows.unarchive(workflow.id, actor="eve") == active == db.workflows.get(workflow.id)
    assert [action for _, _, action in trail(db.workflows.events(workflow.id))] == [
        "created", "published", "archived", "unarchived",
    ]  # fmt: skip


def test_unarchiving_needs_the_handle_to_be_free(db: Dal[Sync]) -> None:
    first = a_workflow(db, handle="invoices")
    archived = db.workflows.archive(first.id, actor="ann")
    second = a_workflow(db, handle="invoices")
    with pytest.raises(HandleTaken) as refused:
        db.workflows.unarchive(first.id, actor="ann")
    assert refused.value.constraint == "workflows_handle_key"
    assert db.workflows.get(first.id) == archived
    db.workflows.archive(second.id, actor="ann")
    assert not db.workflows.unarchive(first.id, actor="ann").is_archived


def test_an_archived_workflow_takes_no_version_run_or_publication(db: Dal[Sync]) -> None:
    version = a_version(db)
    db.workflows.archive(version.workflow_id, actor="ann")
    calls: list[Any] = [
        lambda: db.versions.create(version.workflow_id, {}, actor="ann"),
        lambda: db.runs.create(version.workflow_id, actor="ann"),
        lambda: db.runs.create(version.workflow_id, version_id=version.id, idempotency_key="k", actor="ann"),
        lambda: db.workflows.publish(version.workflow_id, actor="ann"),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(WorkflowArchived) as refused:
            call()
        assert refused.value.found == "archived", f"call {number} found {refused.value.found}"
    assert [each.number for each in db.versions.list(version.workflow_id).items] == [1]
    assert db.runs.list(version.workflow_id).items == []
    db.workflows.unarchive(version.workflow_id, actor="ann")
    assert db.versions.create(version.workflow_id, {}, actor="ann").number == 2


def test_publishing_says_who_when_and_how(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    workflow = a_workflow(db)
    later = clock.advance(minutes=1)
    public = db.workflows.publish(workflow.id, actor="bob", require_login=True)
    shown = (public.is_public, public.published_at, public.published_by, public.require_login, public.updated_at)
    assert shown == (True, later, "bob", True, later)
    with pytest.raises(AlreadyPublished) as refused:
        db.workflows.publish(workflow.id, actor="eve")
    assert refused.value.found == "published"
    assert db.workflows.get(workflow.id) == public
    private = db.workflows.unpublish(workflow.id, actor="bob")
    hidden = (private.is_public, private.published_at, private.published_by, private.require_login, private.revision)
    assert hidden == (False, None, None, False, 3)
    assert not db.workflows.publish(workflow.id, actor="bob").require_login


def test_what_is_not_public_cannot_be_unpublished(db: Dal[Sync]) -> None:
    workflow = a_workflow(db)
    archived = db.workflows.archive(a_workflow(db).id, actor="ann")
    for id in (workflow.id, archived.id):
        with pytest.raises(NotPublished) as refused:
            db.workflows.unpublish(id, actor="ann")
        assert refused.value.found == "unpublished"
    assert db.workflows.get(workflow.id) == workflow


@pytest.mark.parametrize("flag", [0, 1, None, "yes"])
def test_require_login_is_a_bool(db: Dal[Sync], flag: Any) -> None:
    with pytest.raises(Invalid) as refused:
        db.workflows.publish(a_workflow(db).id, actor="ann", require_login=flag)
    assert refused.value.path == "require_login"


# --- the audit trail --------------------------------------------------------------------------------------------------


def test_the_trail_tells_every_change_in_order_with_who_and_when(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    id = db.workflows.create("Invoices", actor="ann").id
    steps: list[tuple[str, Any, Any]] = [
        ("updated", lambda actor: db.workflows.update(id, actor=actor, name="B"), {"fields": ["name"]}),
        ("version_created", lambda actor: db.versions.create(id, {}, actor=actor), {"number": 1}),
        ("version_created", lambda actor: db.versions.create(id, [], actor=actor), {"number": 2}),
        ("version_configured", lambda actor: db.versions.set_runnable_config(id, 1, {}, actor=actor), {"number": 1}),
        ("published", lambda actor: db.workflows.publish(id, actor=actor, require_login=True), {"require_login": True}),
        ("unpublished", lambda actor: db.workflows.unpublish(id, actor=actor), {}),
        ("published", lambda actor: db.workflows.publish(id, actor=actor), {"require_login": False}),
        ("archived", lambda actor: db.workflows.archive(id, actor=actor), {}),
        ("unarchived", lambda actor: db.workflows.unarchive(id, actor=actor), {}),
    ]  # fmt: skip
    expected: list[Any] = [(1, "ann", "created", NOON, {})]
    for number, (action, call, metadata) in enumerate(steps, 2):
        at = clock.advance(seconds=1)
        call(f"actor {number}")
        expected.append((number, f"actor {number}", action, at, metadata))
    events = db.workflows.events(id).items
    assert [(event.number, event.actor, event.action, event.at, event.metadata) for event in events] == expected


@pytest.mark.parametrize("actor", ["", "a" * 513, "a\0", None, 5])
def test_every_change_names_an_actor_of_1_to_512_bytes(db: Dal[Sync], actor: Any) -> None:
    workflow = a_workflow(db)
    calls: list[Any] = [
        lambda: db.workflows.create("x", actor=actor),
        lambda: db.workflows.update(workflow.id, actor=actor, name="x"),
        lambda: db.workflows.archive(workflow.id, actor=actor),
        lambda: db.workflows.unarchive(workflow.id, actor=actor),
        lambda: db.workflows.publish(workflow.id, actor=actor),
        lambda: db.workflows.unpublish(workflow.id, actor=actor),
        lambda: db.versions.create(workflow.id, {}, actor=actor),
        lambda: db.versions.set_runnable_config(workflow.id, 1, {}, actor=actor),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(Invalid) as refused:
            call()
        assert refused.value.path == "actor", f"call {number}: {refused.value}"
    assert trail(db.workflows.events(workflow.id)) == [(1, "ann", "created")]


# --- search -----------------------------------------------------------------------------------------------------------


def found(db: Dal[Sync], text: str, **given: Any) -> list[str]:
    return [flow.name for flow in db.workflows.search(text, **given).items]


def test_workflows_are_found_by_name_description_and_tags_those_by_name_first(db: Dal[Sync]) -> None:
    a_workflow(db, "Rechnungen prüfen", description="monthly", tags=["Büro"])
    a_workflow(db, "Mahnung", description="about a Rechnung", tags=["büro", "dunning"])
    a_workflow(db, "Ablage", tags=["rechnungen", "monthly"])
    a_workflow(db, "rechnung")
    assert found(db, "RECHNUNG") == ["rechnung", "Rechnungen prüfen", "Ablage", "Mahnung"]
    assert found(db, "rechnungen") == ["Rechnungen prüfen", "Ablage"]
    assert found(db, "buro rech") == ["Mahnung", "Rechnungen prüfen"], "words may stand in different places"
    assert found(db, "monthly büro") == ["Rechnungen prüfen"]
    assert found(db, "rech monthly") == [], "only the last word is a beginning"
    assert found(db, "prufen rechnungen monthly") == ["Rechnungen prüfen"]
    assert found(db, "") == found(db, "!?") == found(db, "nirgends") == []


def test_a_change_of_a_workflow_changes_what_it_is_found_by(db: Dal[Sync]) -> None:
    flow = a_workflow(db, "alpha", description="beta", tags=["gamma"])
    other = a_workflow(db, "other beta")
    db.workflows.update(flow.id, actor="ann", name="delta")
    assert (found(db, "alpha"), found(db, "delta"), found(db, "delta beta gamma")) == ([], ["delta"], ["delta"])
    db.workflows.update(flow.id, actor="ann", description=None)
    assert (found(db, "beta"), found(db, "delta gamma")) == (["other beta"], ["delta"])
    db.workflows.update(flow.id, actor="ann", tags=["beta"])
    assert (found(db, "gamma"), found(db, "beta")) == ([], ["other beta", "delta"])
    with pytest.raises(RevisionConflict):
        db.workflows.update(flow.id, actor="ann", name="epsilon", expected_revision=1)
    db.workflows.update(flow.id, actor="ann", draft_access="workspace")
    assert (found(db, "epsilon"), found(db, "delta")) == ([], ["delta"])
    db.workflows.update(other.id, actor="ann", name="beta delta")
    assert found(db, "delta") == ["beta delta", "delta"]


def test_archived_workflows_are_found_only_if_asked_for(db: Dal[Sync]) -> None:
    made = [a_workflow(db, f"needle {n}") for n in range(4)]
    db.workflows.archive(made[1].id, actor="ann")
    db.workflows.archive(made[3].id, actor="ann")
    assert found(db, "needle") == ["needle 2", "needle 0"]
    assert found(db, "needle", include_archived=True) == ["needle 3", "needle 2", "needle 1", "needle 0"]
    db.workflows.unarchive(made[3].id, actor="ann")
    assert found(db, "needle") == ["needle 3", "needle 2", "needle 0"]


@pytest.mark.parametrize("count", [30, 1100])
def test_many_workflows_are_found_in_the_same_order_as_few(db: Dal[Sync], count: int) -> None:
    with db.transaction() as tx:
        for n in range(count):
            tx.workflows.create(f"all {n}" if n % 3 else f"{n}", description="all", actor="ann", tags=[f"half-{n % 2}"])
    expected = [f"all {n}" for n in range(count)[::-1] if n % 3] + [f"{n}" for n in range(count)[::-1] if not n % 3]
    names = [flow.name for flow in all_pages(partial(db.workflows.search, "all"), 50)]
    assert names == expected
    odd = [int(name.split()[-1]) for name in found(db, "half 1 all", limit=500)]
    assert odd == list(range(count))[1::2][::-1][:500], "no name has all three words"


def test_what_has_no_words_yet_gets_them_oldest_first(db: Dal[Sync], clock: Clock) -> None:
    clock.set(NOON)
    for n in range(5):
        clock.advance(seconds=-1)
        a_workflow(db, f"needle {n}", description="text", tags=["tag"])
    with db.transaction() as tx:
        tx.connection.execute("delete from workflow_texts")
    assert found(db, "needle") == []
    assert [db.workflows.make_searchable(limit=2) for _ in range(4)] == [2, 2, 1, 0]
    assert found(db, "needle") == [f"needle {n}" for n in range(5)], "the last one was made first, by its own time"
    assert found(db, "tag text needle 3") == ["needle 3"]
    for limit in (0, 10_001, True):
        with pytest.raises(Invalid, match="limit"):
            db.workflows.make_searchable(limit=limit)


def test_many_that_make_searchable_at_once_leave_none_out(db: Dal[Sync]) -> None:
    for n in range(40):
        a_workflow(db, f"needle {n}")
    with db.transaction() as tx:
        tx.connection.execute("delete from workflow_texts")
    jobs: list[Callable[[], Any]] = [partial(db.workflows.make_searchable, limit=7) for _ in range(8)]
    flow = db.workflows.list(limit=1).items[0]
    jobs.append(partial(db.workflows.update, flow.id, actor="ann", name="thread"))
    answers = together(jobs)
    assert all(isinstance(answer, (int, Workflow)) for answer in answers), answers
    rest = sum(iter(partial(db.workflows.make_searchable, limit=7), 0))
    # One that read before another committed does some once more, to the same end.
    assert sum(answer for answer in answers if isinstance(answer, int)) + rest >= 40
    assert (len(found(db, "needle")), found(db, "thread")) == (39, ["thread"])

"""A method takes its own arguments, each of its own type."""

from uuid import UUID

from dal import Async, Dal, Sync


def blocking(db: Dal[Sync], run_id: UUID) -> None:
    db.runs.get("0190d1c4-0000-7000-8000-000000000000")  # refused
    db.runs.get()  # refused
    db.runs.get(run_id, run_id)  # refused
    db.runs.get(id=run_id)  # refused
    db.runs.start(run_id)  # refused
    db.runs.start(run_id, "actor")  # refused
    db.runs.start(run_id, actor=7)  # refused
    db.runs.list(run_id, status="done")  # refused
    db.runs.list(run_id, limit="5")  # refused
    db.workflows.create("name", actor="a", draft_access="everybody")  # refused
    db.workflows.create("name", actor="a", tags=[1])  # refused
    db.workflows.update(run_id, actor="a", name=None)  # refused
    db.transaction(isolation="chaos")  # refused
    db.runs.remove(run_id)  # refused
    db.chat.list_items("a", "t", order="up")  # refused
    db.chat.add_item("a", "t", "i", type="m", item={"n": 1})  # refused


async def waiting(db: Dal[Async], run_id: UUID) -> None:
    await db.runs.get("0190d1c4-0000-7000-8000-000000000000")  # refused
    await db.runs.start(run_id, actor=7)  # refused
    await db.runs.list(run_id, status="done")  # refused
    await db.runs.remove(run_id)  # refused

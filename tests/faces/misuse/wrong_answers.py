"""An answer has the fields of its model, of their own types, and none can be set."""

from datetime import datetime
from uuid import UUID

from dal import Async, Dal, Sync


def blocking(db: Dal[Sync], run_id: UUID) -> None:
    run = db.runs.get(run_id)
    print(run.state)  # refused
    print(run.started_at.isoformat())  # refused
    number: int = run.name  # refused
    run.status = "failed"  # refused
    page = db.runs.list(run_id)
    print(page.rows)  # refused
    print(page.items[0].state)  # refused
    at: datetime = page.items[0].created_at
    print(number, at)


async def waiting(db: Dal[Async], run_id: UUID) -> None:
    run = await db.runs.get(run_id)
    print(run.state)  # refused
    print((await db.workflows.get(run_id)).handle.upper())  # refused

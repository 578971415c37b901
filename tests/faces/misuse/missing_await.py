"""The async face answers once awaited."""

from uuid import UUID

from dal import Async, Dal, Run


async def used_as_a_row(db: Dal[Async], run_id: UUID) -> str:
    run = db.runs.get(run_id)
    return run.status  # refused


async def returned_as_a_row(db: Dal[Async], run_id: UUID) -> Run:
    return db.runs.get(run_id)  # refused


async def forgotten(db: Dal[Async], run_id: UUID) -> None:
    db.runs.start(run_id, actor="a")  # refused
    await db.runs.start(run_id, actor="a")


async def forgotten_in_a_transaction(db: Dal[Async], run_id: UUID) -> None:
    async with db.transaction() as tx:
        tx.runs.start(run_id, actor="a")  # refused


async def items_of_a_page(db: Dal[Async]) -> list[str]:
    return [workflow.name for workflow in db.workflows.list().items]  # refused

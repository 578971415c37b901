"""The blocking face answers at once."""

from uuid import UUID

from dal import Dal, Sync


async def awaited(db: Dal[Sync], run_id: UUID) -> str:
    return (await db.runs.get(run_id)).status  # refused


async def awaited_in_a_transaction(db: Dal[Sync], run_id: UUID) -> None:
    with db.transaction() as tx:
        await tx.runs.start(run_id, actor="a")  # refused


async def awaited_page(db: Dal[Sync]) -> None:
    await db.workflows.list()  # refused

"""A Dal of one face is no Dal of the other."""

from uuid import UUID

import dal
from dal import Async, Dal, Run, Sync, Tx
from dal.stores.runs import Runs


def blocking(db: Dal[Sync], run_id: UUID) -> Run:
    return db.runs.get(run_id)


async def waiting(db: Dal[Async], run_id: UUID) -> Run:
    return await db.runs.get(run_id)


async def mixed(sync_db: Dal[Sync], async_db: Dal[Async], run_id: UUID) -> None:
    blocking(async_db, run_id)  # refused
    await waiting(sync_db, run_id)  # refused
    blocking(sync_db, run_id)
    await waiting(async_db, run_id)


async def entered_the_wrong_way(sync_db: Dal[Sync], async_db: Dal[Async]) -> None:
    async with sync_db.transaction():  # refused
        pass
    with async_db.transaction():  # refused
        pass
    with async_db:  # refused
        pass
    async with sync_db:  # refused
        pass


async def iterated_the_wrong_way(sync_db: Dal[Sync], async_db: Dal[Async]) -> None:
    async for _ in sync_db.history.stream("e"):  # refused
        pass
    for _ in async_db.history.stream("e"):  # refused
        pass
    await async_db.history.stream("e")  # refused
    for _ in sync_db.history.stream(5):  # refused
        pass


async def repeated_the_wrong_way(sync_db: Dal[Sync], async_db: Dal[Async]) -> None:
    await sync_db.tokens.verify_audit()  # refused
    print(async_db.tokens.verify_audit().fault)  # refused
    sync_db.tokens.verify_audit(7)  # refused


def opened_as_the_other() -> None:
    db: Dal[Async] = dal.connect("sqlite:///:memory:")  # refused
    print(db)


def a_store_of_the_other(db: Dal[Sync]) -> Runs[Async]:
    return db.runs  # refused


def callback_of_the_other(db: Dal[Sync]) -> None:
    async def step(tx: Tx[Async]) -> Run:
        return await tx.runs.get(UUID(int=1))

    db.transact(step)  # refused

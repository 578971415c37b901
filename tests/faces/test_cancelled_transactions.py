"""Transactions of the async face that are cancelled at awkward moments, or hold every reader: nobody else notices."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import dal


@pytest.fixture(params=["sqlite", "postgres"])
def any_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


def test_a_read_only_transaction_cancelled_before_it_began_leaves_the_writer_alone(tmp_path: Path) -> None:
    async def main() -> int:
        async with dal.aconnect(f"sqlite:///{tmp_path}/a.db") as db:

            async def look() -> None:
                async with db.transaction(read_only=True) as tx:
                    await tx.workflows.list()

            async def write(number: int) -> None:
                async with db.transaction() as tx:
                    await tx.workflows.create(f"{number} a", actor="ann")
                    await tx.workflows.create(f"{number} b", actor="ann")

            for number in range(100):
                looking = [asyncio.create_task(look()) for _ in range(4)]
                writing = asyncio.create_task(write(number))
                for _ in range(number % 5):
                    await asyncio.sleep(0)
                for task in looking:
                    task.cancel()
                await writing
                await asyncio.gather(*looking, return_exceptions=True)
            return len((await db.workflows.list(limit=500)).items)

    assert asyncio.run(main()) == 200


def test_transactions_that_hold_every_reader_go_on_reading_while_others_wait(tmp_path: Path) -> None:
    """Readers that wait must not occupy the threads that those transactions read in."""

    async def main() -> None:
        settings = dal.Settings(backend="sqlite", sqlite_path=tmp_path / "c.db", sqlite_readers=2)
        async with dal.aconnect(settings) as db:
            flow = await db.workflows.create("read", actor="ann")
            opened = asyncio.Semaphore(0)
            others_wait = asyncio.Event()

            async def look_twice() -> bool:
                async with db.transaction(read_only=True) as tx:
                    await tx.workflows.get(flow.id)
                    opened.release()
                    await others_wait.wait()
                    await tx.workflows.get(flow.id)
                    return waiting[0].done()

            async def look() -> str:
                return (await db.workflows.get(flow.id)).name

            holding = [asyncio.create_task(look_twice()) for _ in range(2)]
            for _ in holding:
                await opened.acquire()
            waiting = [asyncio.create_task(look()) for _ in range(8)]
            await asyncio.sleep(0.05)
            others_wait.set()
            first, _ = await asyncio.gather(*holding)
            assert not first, "a read got in although both readers were held"
            assert await asyncio.gather(*waiting) == ["read"] * 8

    asyncio.run(main())


def test_a_write_that_waits_for_another_process_can_be_cancelled_while_it_waits(tmp_path: Path) -> None:
    """The lock is given back only after the cancellation was delivered."""

    async def main() -> None:
        async with dal.aconnect(f"sqlite:///{tmp_path}/b.db") as db:
            with closing(sqlite3.connect(tmp_path / "b.db", isolation_level=None)) as other:
                other.execute("begin immediate")
                waiting = asyncio.create_task(db.workflows.create("never", actor="ann"))
                await asyncio.sleep(0.1)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                assert other.in_transaction
                other.execute("rollback")
            assert (await db.workflows.create("after", actor="ann")).name == "after"
            assert len((await db.workflows.list()).items) == 1

    asyncio.run(main())


@pytest.mark.parametrize("number", range(20))
def test_a_cancelled_call_leaves_a_transaction_only_rolling_back(number: int, any_url: str) -> None:
    async def main() -> None:
        async with dal.aconnect(any_url) as db:

            async def go_on_after_a_cancelled_call() -> None:
                async with db.transaction() as tx:
                    call = asyncio.create_task(tx.workflows.create("cancelled", actor="ann"))
                    for _ in range(1 + number % 3):
                        await asyncio.sleep(0)
                    call.cancel()
                    await asyncio.gather(call, return_exceptions=True)
                    assert call.cancelled()
                    await tx.workflows.create("after", actor="ann")

            with pytest.raises((dal.TransactionAborted, dal.Unavailable)):  # Unavailable: the connection was closed
                await go_on_after_a_cancelled_call()
            assert (await db.workflows.list()).items == []

    asyncio.run(main())


def test_a_cancelled_savepoint_leaves_as_a_cancellation(any_url: str) -> None:
    async def main() -> None:
        async with dal.aconnect(any_url) as db:

            async def nested() -> None:
                async with db.transaction() as tx:
                    for _ in range(20):
                        async with tx.transaction():
                            await tx.workflows.create("x", actor="ann")

            ended: list[BaseException | None] = []
            for steps in range(60):
                task = asyncio.create_task(nested())
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                ended += await asyncio.gather(task, return_exceptions=True)
            others = [end for end in ended if end is not None and not isinstance(end, asyncio.CancelledError)]
            assert not others, others[:3]
            assert ended.count(None) < 30, "most were to be cancelled before their end"

    asyncio.run(main())

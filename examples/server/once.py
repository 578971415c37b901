"""A change that is made once for each Idempotency-Key, however often its request arrives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, TypeAlias

import msgspec
from fastapi import Depends, HTTPException, Request

from dal import Async, Dal, Json, OutcomeUnknown, Tx
from dal.adapters.fastapi import Database, StructResponse
from examples.server.bodies import Key
from examples.server.callers import Actor

Change: TypeAlias = Callable[[Dal[Async] | Tx[Async]], Awaitable[msgspec.Struct | Sequence[msgspec.Struct]]]


@contextmanager
def repeatable(key: str | None) -> Iterator[None]:
    """With a key, an unknown outcome is no riddle for the client: it sends the request again, and gets the answer."""
    try:
        yield
    except OutcomeUnknown as error:
        if key is None:
            raise
        told = "The change may or may not have been made. Send the request again, with the same Idempotency-Key."
        raise HTTPException(503, told, {"Retry-After": "1"}) from error


class Maker:
    """What a handler makes its change with. Without a key it is one plain call; with one it is kept with its answer."""

    def __init__(self, request: Request, db: Database, actor: Actor, key: Key = None) -> None:
        self._request = request
        self._db = db
        self._actor = actor
        self._key = key

    async def __call__(self, change: Change, status: int = 200) -> StructResponse:
        """Make the change, or find it made, and answer what it answered."""
        if self._key is None:
            return StructResponse(await change(self._db), status)

        async def answer(tx: Tx[Async]) -> Json:
            # Through JSON: msgspec.to_builtins would leave the tuples, which the DAL refuses.
            return msgspec.json.decode(msgspec.json.encode(await change(tx)))

        # The same key for anything else is a mistake of the client's, and is refused.
        request: Json = {
            "method": self._request.method,
            "path": self._request.url.path,
            "actor": self._actor,  # two may be spelled alike in the key
            "body": await self._request.json() if await self._request.body() else None,
        }
        with repeatable(self._key):
            # All keys of a database are one namespace, which other clients and programs use too.
            key = f"http:{self._actor}:{self._key}"
            return StructResponse(await self._db.transact(answer, key=key, request=request), status)


Once = Annotated[Maker, Depends()]

"""Who calls: a service token's owner where the server asks for tokens, else whoever a header says it is."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Request

from dal.adapters.fastapi import Database, authenticate, bearer
from examples.server.bodies import refused


async def admitted(request: Request, db: Database, text: Annotated[str | None, Depends(bearer)]) -> str | None:
    """The name of the caller's token, which must grant "read" or "write"; None in a server that asks for none."""
    if not request.app.state.with_tokens:
        return None
    wanted = "read" if request.method in ("GET", "HEAD") else "write"
    return (await authenticate(request, db, text, scopes=[wanted])).name


async def acting(
    name: Annotated[str | None, Depends(admitted)], header: Annotated[str | None, Header(alias="X-Actor")] = None
) -> str:
    """Who acts, for the audit trail. What a header says anybody can say: without tokens this is for trying out."""
    if name is not None:
        return name
    if header is None:
        raise refused("header", "X-Actor", "Field required")
    return header


Admitted = Depends(admitted)
Actor = Annotated[str, Depends(acting)]

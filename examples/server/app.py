"""The application: a database, the endpoints, who may use them, the form of errors, the probes."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

from dal import Settings
from dal.adapters.fastapi import add_problem_handlers, lifespan, router
from examples.server.routes import executions, runs, workflows

log = logging.getLogger("server")


def create_app(
    database: str | Settings | None = None,
    *,
    migrate: bool = True,
    with_tokens: bool = False,
    attachments: Path | None = None,
) -> FastAPI:
    """A workflow server on a database, which gets its tables on starting unless migrate is False.

    with_tokens: everything but the probes and the description asks for a service token that grants "read" or "write".
    attachments: a directory for those of chats; with it there is a ChatKit endpoint, too.
    """
    app = FastAPI(title="Workflows", lifespan=lifespan(database, migrate=migrate, inner=_begin))
    app.state.with_tokens = with_tokens
    app.state.attachments = attachments
    add_problem_handlers(app)
    app.include_router(router())
    for each in (workflows, runs, executions):
        app.include_router(each)
    if attachments is not None:
        from examples.server.chat import chat  # here: ChatKit takes longer to import than all the rest

        app.include_router(chat)
    return app


@asynccontextmanager
async def _begin(app: FastAPI) -> AsyncGenerator[None]:
    if app.state.attachments is not None:
        from examples.server.chat import CannedServer

        app.state.chat = CannedServer(app.state.dal, app.state.attachments)
    if app.state.with_tokens and not (await app.state.dal.tokens.list(limit=1)).items:
        # Not a token itself: a log is read by many, and kept.
        log.warning("there is no token yet: dal tokens mint NAME --scope read --scope write --url …")
    yield

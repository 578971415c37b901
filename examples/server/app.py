"""The application: a database, the endpoints, the form of errors, the probes."""

from __future__ import annotations

from fastapi import FastAPI

from dal import Settings
from dal.adapters.fastapi import add_problem_handlers, lifespan, router
from examples.server.routes import runs, workflows


def create_app(database: str | Settings | None = None, *, migrate: bool = True) -> FastAPI:
    """A workflow server on a database, which gets its tables on starting unless migrate is False."""
    app = FastAPI(title="Workflows", lifespan=lifespan(database, migrate=migrate))
    add_problem_handlers(app)
    app.include_router(router())
    app.include_router(workflows)
    app.include_router(runs)
    return app

"""python -m examples.server: serve the workflow API until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from dal import Invalid, Settings
from examples.server.app import create_app

EPILOG = """
A DSN with a password is better given as DAL_BACKEND=postgres and DAL_POSTGRES_DSN=… than as --url, which everybody on
this machine can read. On SIGTERM running requests are finished and every connection is closed; a second Ctrl-C does not
wait. GET /docs describes the API, /live and /ready are for whoever looks after the process. With --tokens every other
request needs "Authorization: Bearer …"; "dal tokens mint NAME --scope read --scope write" on the same database prints a
token for it.
"""


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, or the given words."""
    parser = argparse.ArgumentParser(
        "python -m examples.server", description="A small workflow API on workflow-dal.", epilog=EPILOG
    )
    add = parser.add_argument
    add("--url", help="sqlite:///… or postgresql://…; by default what DAL_… variables and dal.yaml say")
    add("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    add("--port", default=8000, type=int, help="the port to listen on (%(default)s)")
    add("--log-level", default="info", choices=["debug", "info", "warning", "error"], help="(%(default)s)")
    add("--grace", default=30, type=int, metavar="SECONDS", help="for running requests to end (%(default)s)")
    add("--no-migrate", action="store_true", help="refuse a database without the schema instead of making it")
    add(
        "--tokens", action="store_true", help="ask for a service token; without, X-Actor says who acts, and is believed"
    )
    add(
        "--chat",
        type=Path,
        metavar="DIR",
        help="serve ChatKit on /chatkit, and keep what is attached in this directory",
    )
    read = parser.parse_args(arguments)
    try:
        read.settings = Settings.load(read.url)
        if read.tokens and read.settings.backend == "postgres" and not read.settings.peppers():
            parser.error("--tokens needs DAL_TOKEN_PEPPERS on PostgreSQL; 'dal tokens pepper' makes one")
    except Invalid as error:
        parser.error(str(error))
    return read


def main() -> None:
    """Serve until told to stop; exit status 0 then, 3 if the database cannot be opened or the port is taken."""
    read = read_arguments()
    logging.basicConfig(level=read.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    # Uvicorn sends itself the signal again when all is done, which would end us as if killed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        create_app(read.settings, migrate=not read.no_migrate, with_tokens=read.tokens, attachments=read.chat),
        host=read.host,
        port=read.port,
        log_level=read.log_level,
        timeout_graceful_shutdown=read.grace,
    )


if __name__ == "__main__":
    main()

"""B66: behind pgbouncer in transaction mode, where two statements in a row may meet two sessions of the server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

import dal
from dal import SchemaError, Settings, Unavailable
from tests.cells import every_run
from tests.server import Server, installations

# Debian keeps it out of an ordinary user's PATH.
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = [
    pytest.mark.skipif(18 not in installations(), reason="no PostgreSQL 18: install the dev extra"),
    pytest.mark.skipif(PGBOUNCER is None, reason="no pgbouncer on PATH: apt-get install pgbouncer"),
]

PATIENCE = 60.0
CLIENTS = 40

CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={server} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 8
max_client_conn = 200
server_reset_query_always = 0
logfile = {folder}/log
"""


class Bouncer:
    """A pgbouncer of the test's own in front of a database; it can be killed and started again."""

    def __init__(self, dsn: str, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        server = psycopg.conninfo.conninfo_to_dict(dsn)["port"]
        self._file = folder / "pgbouncer.ini"
        self._file.write_text(CONFIGURATION.format(server=server, port=self.port, folder=folder))
        self._account: dict[str, Any] = {}
        if os.geteuid() == 0:  # as which it refuses to run
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            self._account = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self.dsn = f"postgresql://postgres@127.0.0.1:{self.port}/life"
        self.start()

    def start(self) -> None:
        assert PGBOUNCER is not None  # else the module is skipped
        self._process = subprocess.Popen(
            [PGBOUNCER, "-q", str(self._file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._account
        )
        end = time.monotonic() + 10
        while True:
            try:
                psycopg.connect(self.dsn).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < end, "pgbouncer does not answer"
                time.sleep(0.02)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server.start(18) as server:
        yield server


@pytest.fixture
def bouncer(server: Server) -> Iterator[Bouncer]:
    dsn = server.create_database("life")
    dal.connect(dsn, migrate=True).close()
    with tempfile.TemporaryDirectory(prefix="dal-pgb-", dir="/tmp") as folder:
        bouncer = Bouncer(dsn, Path(folder))
        yield bouncer
        bouncer.kill()
    server.drop_database("life")


def settings(bouncer: Bouncer, **overrides: Any) -> Settings:
    wide: dict[str, Any] = {"postgres_pool_max_size": CLIENTS, "postgres_pooler": "pgbouncer"}
    return Settings(**{"backend": "postgres", "postgres_dsn": bouncer.dsn, **wide, **overrides})


def session(dsn: str) -> list[tuple[str, str]]:
    """All that is set in whatever session comes next, and how."""
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
        return connection.execute(
            "select name, setting from pg_settings where source = 'session' and name <> 'application_name'"
        ).fetchall()


def test_40_clients_share_8_sessions_without_an_error_and_leave_nothing_set(
    bouncer: Bouncer, tally: Callable[[str], Any], rounds: Callable[[int, int], int]
) -> None:
    row = tally(f"B66 {CLIENTS} clients behind pgbouncer, transaction mode")
    before = session(bouncer.dsn)
    each = rounds(8, 60)
    with dal.connect(settings(bouncer)) as db, ThreadPoolExecutor(CLIENTS) as threads:
        workflow = db.workflows.create("w", actor="ann").id
        db.versions.create(workflow, {}, actor="ann")

        def client(number: int) -> int:
            for turn in range(each):
                key = f"{number}-{turn}"
                run = db.runs.create(workflow, actor="ann", idempotency_key=key)
                db.runs.start(run.id, actor="ann")
                with db.transaction() as tx:
                    tx.runs.succeed(run.id, {"turn": turn}, actor="ann")
                    with tx.transaction() as inner:
                        inner.runs.get(run.id)
                db.transact(partial(_events, run.id), isolation="serializable")
                with db.transaction(read_only=True) as tx:
                    assert tx.runs.get(run.id).status == "succeeded"
                assert db.workflows.get(workflow).id == workflow
                assert db.health().schema_version > 0
            return each

        row.rounds = sum(threads.map(client, range(CLIENTS), timeout=300))
        figures = db._engine.figures()
        assert (figures["broken"], figures["unknown"], figures["retried"]) == (0, 0, 0)
        ended = len(every_run(db, workflow, "succeeded"))
    row.lost = CLIENTS * each - ended
    assert {tuple(found) for _ in range(20) for found in session(bouncer.dsn)} == set(before)
    row.check()


def _events(run: UUID, tx: dal.Tx[dal.Sync]) -> None:
    assert len(tx.runs.events(run).items) == 3


def test_a_cancelled_call_gives_its_session_back(bouncer: Bouncer) -> None:
    async def main() -> None:
        async with dal.aconnect(settings(bouncer, postgres_pool_max_size=4)) as db:
            workflow = (await db.workflows.create("w", actor="ann")).id
            for number in range(20):
                calls = [asyncio.create_task(_read(db, workflow)) for _ in range(8)]
                await asyncio.sleep(number * 0.0005)
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
                assert (await db.workflows.get(workflow)).id == workflow

    asyncio.run(main())


async def _read(db: dal.Dal[dal.Async], workflow: Any) -> None:
    async with db.transaction() as tx:
        await tx.workflows.get(workflow)


def test_a_pgbouncer_that_is_killed_is_waited_for_and_keyed_writes_are_done_once(
    bouncer: Bouncer, tally: Callable[[str], Any], rounds: Callable[[int, int], int]
) -> None:
    row = tally("B66 pgbouncer killed under 16 callers")
    with dal.connect(settings(bouncer, postgres_pool_max_size=8)) as db, ThreadPoolExecutor(16) as threads:
        workflow = db.workflows.create("w", actor="ann").id
        db.versions.create(workflow, {}, actor="ann")
        end = time.monotonic() + rounds(2, 20)

        def client(number: int) -> list[str]:
            done: list[str] = []
            while time.monotonic() < end:
                key = f"{number}-{len(done)}"
                done.append(str(db.runs.create(workflow, actor="ann", idempotency_key=key).id))
                with contextlib.suppress(Unavailable):  # a read is asked once more, and may meet two losses
                    db.workflows.get(workflow)
            return done

        callers = [threads.submit(client, number) for number in range(16)]
        while time.monotonic() < end - 1:
            time.sleep(0.5)
            bouncer.kill()
            time.sleep(0.2)
            bouncer.start()
            row.rounds += 1
        acknowledged = [run for caller in callers for run in caller.result(PATIENCE)]
        stored = every_run(db, workflow)
    row.lost = len(set(acknowledged) - {str(run.id) for run in stored})
    row.doubled = len(stored) - len({run.idempotency_key for run in stored})
    assert len(acknowledged) > 0
    row.check()


def test_a_migration_through_pgbouncer_is_refused_by_name(bouncer: Bouncer, server: Server) -> None:
    server.create_database("bare")
    with pytest.raises(SchemaError, match="past the pooler"):
        dal.connect(settings(bouncer, postgres_dsn=bouncer.dsn.replace("/life", "/bare")), migrate=True)

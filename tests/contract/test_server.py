"""The private PostgreSQL itself: that it starts, copies databases, comes back with its data, and never stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from tests import server as module
from tests.server import VARIABLE, Server, installations, main

pytestmark = pytest.mark.skipif(18 not in installations(), reason="no PostgreSQL 18: install the dev extra")


def ask(dsn: str, query: str) -> object:
    """The first value of the first row; nothing from a statement without rows."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(query)
        return cursor.fetchall()[0][0] if cursor.description else None


def command_line(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.server", *arguments]


def waiting(told: str) -> subprocess.Popen[str]:
    """The command line, running a command that prints something and waits until nobody listens."""
    command = command_line("--", sys.executable, "-c", f"import os, sys; print({told}, flush=True); sys.stdin.read()")
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def gone(pid: int, seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while (running := module._runs(pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not running


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server.start(18) as server:
        yield server


@pytest.fixture
def database(server: Server) -> Iterator[str]:
    """A database with one row."""
    dsn = server.create_database("one row")
    ask(dsn, "create table t as select 7 as x")
    yield dsn
    server.drop_database("one row")


def test_the_server_has_the_version_asked_for_and_the_settings_of_tests(server: Server) -> None:
    assert server.version == 18
    settings = ("server_version_num", "fsync", "autovacuum", "jit", "max_connections", "TimeZone", "server_encoding")
    with psycopg.connect(server.dsn()) as connection:
        found = [connection.execute("select current_setting(%s)", [name]).fetchall()[0][0] for name in settings]
    assert found[0].startswith("18")
    assert found[1:] == ["off", "off", "off", "200", "UTC", "UTF8"]


def test_both_addresses_lead_to_the_same_database(server: Server, database: str) -> None:
    assert database == server.dsn("one row")
    assert database.startswith("postgresql://postgres@127.0.0.1:")
    assert ask(database, "select x from t") == ask(server.socket_dsn("one row"), "select x from t") == 7
    assert ask(server.socket_dsn("one row"), "select inet_server_addr()") is None


def test_a_database_is_cloned_and_dropped_in_spite_of_its_users(server: Server, database: str) -> None:
    clone = server.create_database("clone", template="one row")
    with closing(psycopg.connect(clone, autocommit=True)) as user:
        assert user.execute("update t set x = x + 1 returning x").fetchall() == [(8,)]
        server.drop_database("clone")
    server.drop_database("clone")  # which is no longer there
    assert ask(database, "select x from t") == 7


def test_data_survive_a_restart_a_crash_and_a_kill(server: Server, database: str) -> None:
    server.restart()
    assert ask(database, "update t set x = x + 1 returning x") == 8
    server.restart("immediate")
    assert ask(database, "update t set x = x + 1 returning x") == 9
    family = server.processes()
    server.kill()
    assert len(family) > 1
    assert all(gone(pid, 0) for pid in family)
    server.restart()
    assert ask(database, "select x from t") == 9


def test_a_closed_server_leaves_no_process_and_no_folder() -> None:
    with Server.start(18) as server:
        folder, family = Path(str(server._folder)), server.processes()
        server.stop()
        assert server.processes() == []
        assert folder.is_dir()
    assert all(gone(pid, 0) for pid in family)
    assert not folder.exists()
    with pytest.raises(RuntimeError, match="has not closed it"):
        server.restart()


def test_a_server_goes_with_a_process_that_is_killed() -> None:
    with waiting(f"os.environ['{VARIABLE}']") as child:
        assert child.stdout
        dsn = child.stdout.readline().strip()
        pid = ask(dsn, "select pg_read_file('postmaster.pid')")
        folder = ask(dsn, "select current_setting('data_directory')")
        child.kill()
    assert gone(int(str(pid).split()[0]))
    deadline = time.monotonic() + 5
    while Path(str(folder)).parent.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(str(folder)).parent.exists()


def test_a_command_gets_a_database_and_a_server_and_its_status_is_passed_on() -> None:
    look = (
        "import os, psycopg, sys; from tests.server import Server;"
        f"named = Server.named(os.environ['{VARIABLE}']); named.create_database('another');"
        "print(psycopg.connect(sys.argv[1]).info.dbname, named.version); sys.exit(3)"
    )
    answer = subprocess.run(command_line("--", sys.executable, "-c", look, "{dsn}"), capture_output=True, text=True)
    assert answer.stderr == ""
    assert (answer.stdout, answer.returncode) == ("dal 18\n", 3)


def test_the_list_tells_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert f"18  {installations()[18]}\n" in capsys.readouterr().out


def test_a_named_server_gives_databases_and_cannot_be_stopped(server: Server, database: str) -> None:
    for named in Server.named(server.dsn()), Server.named("host=127.0.0.1 user=postgres port=" + str(server._port)):
        assert ask(named.create_database("copy", "one row"), "select x from t") == 7
        named.drop_database("copy")
        for end in named.stop, named.restart, named.kill:
            with pytest.raises(RuntimeError, match="that started a server"):
                end()
        named.close()
    assert server.processes()


def test_a_role_that_may_not_make_databases_is_refused(server: Server) -> None:
    ask(server.dsn(), "create role poor login")
    with pytest.raises(RuntimeError, match='CREATEDB; "poor" has neither'):
        Server.named(server.dsn().replace("postgres@", "poor@"))


def test_a_run_has_one_server_and_its_workers_find_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(Server, "start", lambda version: server)
    assert Server.of_this_run() is server
    worker = Server.of_this_run()
    assert worker is not server
    assert worker.dsn() == os.environ[VARIABLE] == server.dsn()


def test_a_version_that_is_not_here_is_told_with_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"No PostgreSQL 7 here \(found: .*18.*dev extra.*DAL_TEST_POSTGRES_DSN="):
        Server.start(7)


def test_a_server_that_cannot_start_says_why_and_is_cleaned_up() -> None:
    with pytest.raises(RuntimeError, match="no_such_setting"):
        Server.start(18, settings={"no_such_setting": 1})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts it as somebody else")
def test_programs_that_nobody_can_reach_are_copied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_base", lambda in_memory: tmp_path)
    programs = tmp_path / "closed" / "package" / "pginstall" / "bin"
    programs.mkdir(parents=True)
    (programs / "postgres").write_text("#!/bin/sh\necho ran")
    (programs / "postgres").chmod(0o700)
    copied = module._open_to_all(programs)
    assert copied != programs
    assert (copied / "postgres").stat().st_mode & 0o777 == 0o755
    assert module._open_to_all(programs) == copied
    assert subprocess.run([copied / "postgres"], capture_output=True).stdout == b"ran\n"


def test_terminating_the_command_line_terminates_the_command() -> None:
    with waiting("'ready'") as child:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        child.terminate()
        assert child.wait(10) == 128 + signal.SIGTERM

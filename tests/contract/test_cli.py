"""The program: what it prints, on which stream, and the status it exits with. Mostly run in this process, from ``main``
on, which is all that the ``dal`` script calls."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from msgspec.structs import replace

import dal
from dal import Settings, cli, doctor
from dal.core.rows import Dialect
from dal.core.schema import ServerFacts, app_version, migrations
from dal.doctor import Check, examine, file_system, judge_server, resets_wal

ROOT = Path(__file__).resolve().parents[2]
LATEST = len(migrations("postgres"))
# Nobody listens there, and the password must not come back.
UNREACHABLE = "postgresql://user:s3cretword@127.0.0.1:1/nowhere"


class Said(NamedTuple):
    """How a run of the program ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """``run('schema', 'status')``: the program, in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["dal", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return Said(ended.value.code if isinstance(ended.value.code, int) else 0, out, err)

    return call


@pytest.fixture(params=["sqlite", "postgres"])
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return request.param  # type: ignore[no-any-return]  # one of the two


@pytest.fixture
def url(dialect: Dialect, make_database: Callable[..., str]) -> str:
    return make_database(dialect)


def path_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


# --- the frame --------------------------------------------------------------------------------------------------------


def test_the_version_is_that_of_the_package(run: Run) -> None:
    assert run("--version") == Said(0, f"dal {app_version()}\n", "")


def test_python_m_dal_is_the_program() -> None:
    done = subprocess.run([sys.executable, "-m", "dal", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout[:4], done.stderr) == (0, "dal ", "")


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["demo"],
        ["doctor"],
        ["schema"],
        ["schema", "status"],
        ["schema", "apply"],
        ["tokens"],
        ["tokens", "audit", "verify"],
    ],
)
def test_every_command_has_help(run: Run, command: list[str]) -> None:
    said = run(*command, "--help")
    assert (said.status, said.err) == (0, "")
    assert "Usage: dal" in said.out


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["schema", "nonsense"], ["doctor", "--nonsense"], ["demo", "--url"], ["doctor", "extra"]],
    ids=" ".join,
)
def test_a_wrong_command_line_exits_with_2(run: Run, arguments: list[str]) -> None:
    said = run(*arguments)
    assert (said.status, said.out) == (2, ""), said
    assert "Error" in said.err
    assert "Traceback" not in said.err


COMMANDS = [
    *(["schema", "status"], ["schema", "apply"], ["schema", "verify"], ["doctor"], ["demo"]),
    *(["tokens", "list"], ["tokens", "audit", "verify"], ["tokens", "pepper", "--rows"]),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_error_of_ours_is_one_line_and_status_1(run: Run, command: list[str]) -> None:
    said = run(*command, "--url", "mysql://user:s3cretword@host/x")
    assert (said.status, said.out, said.err.count("\n")) == (1, "", 1), said
    assert said.err.startswith("dal: An argument is not acceptable")
    assert "not mysql://" in said.err
    assert "s3cretword" not in said.err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_password_is_shown_when_the_server_does_not_answer(run: Run, command: list[str]) -> None:
    said = run(*command, "--url", UNREACHABLE)
    assert said.status == 1
    assert "port 1 failed" in said.out + said.err, said
    assert "s3cretword" not in said.out + said.err
    assert "Traceback" not in said.err


def test_no_password_is_shown_when_the_server_answers(run: Run, postgres_url: str) -> None:
    with_password = postgres_url.replace("postgres@", "postgres:s3cretword@", 1)
    assert with_password != postgres_url
    for command in (["schema", "status"], ["schema", "status", "--json"], ["schema", "verify", "--json"], ["doctor"]):
        said = run(*command, "--url", with_password)
        assert said.status == 0, said
        assert ":***@" in said.out, said
        assert "s3cretword" not in said.out + said.err


def test_an_old_terminal_is_no_reason_to_fail(tmp_path: Path) -> None:
    name = tmp_path / "größe.db"
    done = subprocess.run(
        [sys.executable, "-m", "dal", "schema", "apply", "--url", f"sqlite:///{name}"],
        cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert r"gr\xf6\xdfe.db: migration " in done.stdout


# --- which database ---------------------------------------------------------------------------------------------------


def test_without_a_url_the_environment_names_the_database_and_with_one_the_url(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAL_SQLITE_PATH", "from-environment.db")
    assert run("schema", "apply").status == 0
    assert Path("from-environment.db").exists()
    assert run("schema", "apply", "--url", "sqlite:///from-url.db").status == 0
    assert Path("from-url.db").exists()


def test_without_a_url_dal_yaml_names_the_database(run: Run) -> None:
    Path("dal.yaml").write_text("sqlite_path: from-yaml.db\n")
    said = run("schema", "apply")
    assert (said.status, Path("from-yaml.db").exists()) == (0, True), said
    said = run("doctor")
    assert "SQLite at from-yaml.db; settings come from the file dal.yaml" in said.out


# --- schema -----------------------------------------------------------------------------------------------------------


def test_status_apply_status(run: Run) -> None:
    where = ["--url", "sqlite:///new.db"]
    for command in ("status", "verify"):
        said = run("schema", command, *where)
        assert (said.status, said.out) == (1, "")
        assert "new.db does not exist; 'dal schema apply' makes it" in said.err
    assert not Path("new.db").exists()
    said = run("schema", "apply", *where)
    assert (said.status, said.err) == (0, "")
    applied = "".join(f"  applied  {migration.label}\n" for migration in migrations("sqlite"))
    assert said.out == f"{applied}SQLite file new.db: migration {LATEST} of {LATEST}\n"
    said = run("schema", "apply", *where)
    assert said == Said(0, f"SQLite file new.db: migration {LATEST} of {LATEST}, nothing to do\n", "")
    said = run("schema", "status", *where)
    assert said.out.startswith(f"SQLite file new.db: migration {LATEST} of {LATEST}\n  applied  0001_workflows  20")


def test_status_of_a_database_without_tables_lists_what_is_pending(run: Run, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")
    said = run("schema", "status", "--url", postgres_url)
    assert (said.status, said.err) == (0, "")
    assert f"migration 0 of {LATEST}\n  pending  0001_workflows\n" in said.out
    assert said.out.endswith("Run 'dal schema apply' to bring it up to date.\n")
    told = json.loads(run("schema", "status", "--json", "--url", postgres_url).out)
    assert (told["version"], told["applied"], told["pending"][0]) == (0, [], "0001_workflows")
    assert run("schema", "verify", "--url", postgres_url).status == 1
    assert run("doctor", "--url", postgres_url).status == 1


def test_status_as_json_has_the_ledger(run: Run, url: str) -> None:
    told = json.loads(run("schema", "status", "--url", url, "--json").out)
    assert set(told) == {"database", "version", "latest", "applied", "pending"}
    assert (told["version"], told["latest"], told["pending"]) == (LATEST, LATEST, [])
    first = told["applied"][0]
    assert (first["version"], first["name"], len(first["sha256"])) == (1, "workflows", 64)
    assert datetime.fromisoformat(first["applied_at"]).utcoffset() == timedelta()


def test_verify_exits_with_1_for_a_problem_and_not_for_an_index_of_your_own(
    run: Run, url: str, dialect: Dialect
) -> None:
    def change(sql: str) -> None:
        if dialect == "sqlite":
            with closing(sqlite3.connect(path_of(url), isolation_level=None)) as connection:
                connection.execute(sql)
        else:
            with psycopg.connect(url, autocommit=True) as server:
                server.execute(sql)

    said = run("schema", "verify", "--url", url)
    assert (said.status, said.out.endswith(": as its migrations make it\n")) == (0, True), said
    change("create index my_idx on runs (name)")
    said = run("schema", "verify", "--url", url)
    assert (said.status, said.out.splitlines()[0]) == (0, "  extra    runs: index my_idx is none of ours"), said
    change("drop index runs_version_idx")
    said = run("schema", "verify", "--url", url)
    assert said.status == 1
    assert said.out.splitlines()[0] == "  problem  runs: index runs_version_idx is missing"
    assert said.out.endswith(": 1 problem\n")
    told = json.loads(run("schema", "verify", "--url", url, "--json").out)
    assert told["problems"] == ["runs: index runs_version_idx is missing"]
    assert told["extras"] == ["runs: index my_idx is none of ours"]


def test_a_history_of_another_code_is_one_line_and_status_1(run: Run, sqlite_url: str) -> None:
    with closing(sqlite3.connect(path_of(sqlite_url), isolation_level=None)) as connection:
        connection.execute("update dal_schema_migrations set sha256 = ''")
    for command in ("status", "apply", "verify"):
        said = run("schema", command, "--url", sqlite_url)
        assert (said.status, said.out, said.err.count("\n")) == (1, "", 1), said
        assert "0001_workflows.sql was edited after it was applied" in said.err


# --- doctor -----------------------------------------------------------------------------------------------------------


def verdicts(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.verdict for check in checks}


def words(checks: list[Check], name: str) -> str:
    (found,) = [check.words for check in checks if check.name == name]
    return found


def test_the_doctor_looks_at_everything_and_is_content(run: Run, url: str, dialect: Dialect) -> None:
    said = run("doctor", "--url", url)
    assert (said.status, said.err) == (0, ""), said
    names = {line[6:].partition(":")[0] for line in said.out.splitlines()}
    common = {"settings", "schema", "damage", "durability", "fence"}
    own = {
        "sqlite": {"access", "file system", "disk", "write-ahead log", "library"},
        "postgres": {"server", "role", "pooler", "time limits", "connections", "clock", "oldest transaction"},
    }
    assert names == common | own[dialect]
    assert not [line for line in said.out.splitlines() if line.startswith("fail")], said.out
    assert f"schema: migration {LATEST} of {LATEST}" in said.out
    told = json.loads(run("doctor", "--json", "--url", url).out)
    assert {check["name"] for check in told} == names
    assert {check["verdict"] for check in told} <= {"ok", "warn"}


def test_the_doctor_tells_of_a_fence(run: Run, url: str) -> None:
    assert run("fence", "on", "--url", url, "--reason", "a backup").status == 0
    said = run("doctor", "--url", url)
    assert said.status == 0, "a fence is no damage"
    assert "warn  fence: it takes no writes: a backup; 'dal fence off' takes the fence down" in said.out


def test_the_doctor_does_not_make_the_file_it_looks_for(run: Run) -> None:
    said = run("doctor", "--url", "sqlite:///not-there.db")
    assert (said.status, "not-there.db is not there yet" in said.out) == (0, True), said
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("path", ["x" * 300, "folder", "/"], ids=["too long", "directory", "root"])
def test_a_path_that_can_be_no_database_is_told_without_a_traceback(run: Run, path: str) -> None:
    Path("folder").mkdir()
    for command in (["doctor"], ["schema", "status"], ["schema", "apply"]):
        said = run(*command, "--url", f"sqlite:///{path}")
        assert said.status == 1, (command, said)
        assert path in said.out + said.err
        assert "Traceback" not in said.err


def test_the_doctor_warns_of_a_file_that_others_may_open(run: Run, sqlite_url: str) -> None:
    path_of(sqlite_url).chmod(0o644)
    path_of(sqlite_url).parent.chmod(0o770)
    said = run("doctor", "--url", sqlite_url)
    assert said.status == 0
    (line,) = [line for line in said.out.splitlines() if "access:" in line]
    assert line.startswith("warn  access: others may open the file (0644): chmod 600 ")
    assert "others may put files beside it (0770): chmod 700 " in line


def test_the_doctor_fails_for_a_row_that_refers_to_nothing(run: Run, sqlite_url: str) -> None:
    with closing(sqlite3.connect(path_of(sqlite_url), isolation_level=None)) as connection:
        connection.execute("insert into run_events values ('x', 1, 'me', 'did', '2026-01-01T00:00:00.000000Z', '{}')")
    said = run("doctor", "--url", sqlite_url)
    assert said.status == 1
    assert "fail  damage: reference run_events names a row of runs that is not there\n" in said.out


def test_the_doctor_fails_for_a_file_with_overwritten_pages(run: Run, sqlite_url: str) -> None:
    with dal.connect(sqlite_url) as db:
        for number in range(100):
            db.workflows.create(f"Number {number}", actor="test")
    size = path_of(sqlite_url).stat().st_size
    with path_of(sqlite_url).open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * (size // 4))
    said = run("doctor", "--url", sqlite_url)
    assert said.status == 1, said
    assert "fail  " in said.out


def test_the_doctor_says_what_is_wrong_with_a_file_that_is_no_database(run: Run) -> None:
    Path("letter.db").write_text("Dear reader, this is no database. " * 100)
    said = run("doctor", "--url", "sqlite:///letter.db")
    assert said.status == 1
    assert "fail  connection: The database holds something that cannot be read" in said.out
    assert Path("letter.db").read_text().startswith("Dear reader")


def test_the_doctor_warns_of_a_large_write_ahead_log(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "WAL_LIMIT", 1000)
    with dal.connect(sqlite_url) as db:
        db.workflows.create("Written, not yet in the file", actor="test")
        checks = examine(Settings.from_url(sqlite_url))
    assert verdicts(checks)["write-ahead log"] == "warn"
    assert "KiB: something has been reading for long" in words(checks, "write-ahead log")


def test_the_doctor_knows_the_versions_of_sqlite_that_can_damage_a_file() -> None:
    bad = ("3.38.0", "3.44.5", "3.45.0", "3.45.7", "3.50.6", "3.51.0", "3.51.2")
    good = ("3.44.6", "3.44.7", "3.50.7", "3.50.12", "3.51.3", "3.52.0", "3.53.1", "4.0.0")
    assert {version for version in bad + good if resets_wal(version)} == set(bad)


def test_the_file_system_is_that_of_the_closest_mount(tmp_path: Path) -> None:
    home = tmp_path.resolve()
    mounts = tmp_path / "mountinfo"
    octal = str(home / "with space").replace(" ", r"\040")
    mounts.write_text(
        f"1 0 8:1 / / rw - ext4 /dev/root rw\n"
        f"2 1 0:50 / {home} rw shared:1 - nfs4 server:/export rw\n"
        f"3 2 0:51 / {home}-other rw - xfs /dev/x rw\n"
        f"4 2 0:52 / {octal} rw,noatime shared:2 master:3 - tmpfs tmpfs rw\n"
    )
    assert file_system(home / "dal.db", mounts) == "nfs4"
    assert file_system(home / "with space" / "dal.db", mounts) == "tmpfs"
    assert file_system(home.parent / "dal.db", mounts) == "ext4"
    assert file_system(home, tmp_path / "not-there") is None
    assert doctor.REMOTE.fullmatch("nfs4")
    assert not doctor.REMOTE.fullmatch("ext4")


def test_a_server_that_does_not_answer_is_a_check_that_failed() -> None:
    checks = examine(Settings.from_url(UNREACHABLE))
    assert verdicts(checks) == {"settings": "ok", "connection": "fail"}
    assert words(checks, "settings").startswith("postgresql://user:***@127.0.0.1:1/nowhere;")


def test_time_limits_and_pooler_are_those_in_force(postgres_url: str) -> None:
    settings = Settings.from_url(postgres_url, postgres_statement_timeout=12, postgres_lock_timeout="700ms")
    checks = examine(settings)
    assert words(checks, "time limits") == "statement_timeout 12000 ms, lock_timeout 700 ms"
    assert (verdicts(checks)["time limits"], verdicts(checks)["pooler"]) == ("ok", "ok")
    pooled = examine(Settings.from_url(postgres_url, postgres_pooler="pgbouncer"))
    assert (verdicts(pooled)["time limits"], verdicts(pooled)["pooler"]) == ("warn", "warn")
    assert "ALTER ROLE" in words(pooled, "time limits")
    assert words(pooled, "pooler") == "DAL_POSTGRES_POOLER is pgbouncer, but the server answers itself"


NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
SOUND = ServerFacts(
    version="18.4", encoding="UTF8", now=NOW, is_standby=False, size_bytes=5 * 2**30,
    durability="fsync on, synchronous_commit on", statement_timeout_ms=30_000, lock_timeout_ms=5_000, backend_pid=42,
    max_connections=97, connections=12, oldest_transaction_at=NOW - timedelta(seconds=3),
)  # fmt: skip


def judged(facts: ServerFacts, session_pid: int | None = 42) -> list[Check]:
    settings = Settings.from_url("postgresql://host/dal")
    return list(judge_server(settings, facts, session_pid, NOW, NOW + timedelta(milliseconds=2)))


def test_a_sound_server_passes() -> None:
    assert set(verdicts(judged(SOUND)).values()) == {"ok"}
    assert words(judged(SOUND), "server") == "PostgreSQL 18.4, UTF8, 5.0 GiB"
    assert words(judged(SOUND), "oldest transaction") == "began 3 s ago"


@pytest.mark.parametrize(
    ("name", "verdict", "change", "said"),
    [
        ("role", "fail", {"is_standby": True}, "a standby, which takes no writes"),
        ("connections", "warn", {"connections": 88}, "88 of 97 in use; a process of ours takes up to 10"),
        ("clock", "warn", {"now": NOW - timedelta(seconds=5)}, "off by 5.0 s"),
        ("clock", "warn", {"now": NOW + timedelta(seconds=5)}, "off by 5.0 s"),
        ("time limits", "warn", {"statement_timeout_ms": 0}, "statement_timeout none, lock_timeout 5000 ms, although"),
        ("oldest transaction", "warn", {"oldest_transaction_at": NOW - timedelta(hours=1)}, "began 3600 s ago: it "),
        ("durability", "warn", {"durability": "fsync off, synchronous_commit on"}, "a crash can undo"),
        ("durability", "warn", {"durability": "fsync on, synchronous_commit off"}, "a crash can undo"),
        ("pooler", "warn", {"backend_pid": 43}, "set DAL_POSTGRES_POOLER=pgbouncer"),
    ],
)  # fmt: skip
def test_each_fact_of_a_server_can_spoil_one_check(
    name: str, verdict: str, change: dict[str, object], said: str
) -> None:
    checks = judged(replace(SOUND, **change))
    assert [check.name for check in checks if check.verdict != "ok"] == [name]
    assert verdicts(checks)[name] == verdict
    assert said in words(checks, name)

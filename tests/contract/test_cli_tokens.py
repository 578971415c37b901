"""``dal tokens``: what each command prints and where, its exit status, and that no secret is printed but by design."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import pty
import re
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

import dal
from dal import cli
from dal.core.rows import Dialect
from dal.settings import parse_peppers
from dal.stores.token_texts import PATTERN
from tests.cells import PEPPERS, stored

ROOT = Path(__file__).resolve().parents[2]


class Said(NamedTuple):
    """How a run of the program ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """``run('tokens', 'list', stdin='…')``: the program, in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, stdin: str | bytes = "") -> Said:
        given = stdin if isinstance(stdin, bytes) else stdin.encode()
        monkeypatch.setattr(sys, "argv", ["dal", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
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
def url(dialect: Dialect, make_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A database for tokens: the commands find it by themselves, as they do in a service's environment."""
    made = make_database(dialect)
    monkeypatch.setenv("DAL_TOKEN_PEPPERS", PEPPERS)
    _name(made, monkeypatch)
    return made


@pytest.fixture
def sqlite(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same on SQLite, whose peppers are in a file beside it."""
    _name(sqlite_url, monkeypatch)
    return Path(sqlite_url.removeprefix("sqlite:///"))


def _name(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if url.startswith("sqlite:///"):
        monkeypatch.setenv("DAL_SQLITE_PATH", url.removeprefix("sqlite:///"))
    else:
        monkeypatch.setenv("DAL_BACKEND", "postgres")
        monkeypatch.setenv("DAL_POSTGRES_DSN", url)


def key_of(token: str) -> str:
    return token.split("_")[2]


def minted(run: Run, *arguments: str) -> str:
    """A new token, as a shell would catch it."""
    said = run("tokens", "mint", *arguments)
    assert said.status == 0, said.err
    return said.out.rstrip("\n")


# --- mint -------------------------------------------------------------------------------------------------------------


def test_mint_prints_the_token_alone_on_standard_output(run: Run, url: str) -> None:
    said = run("tokens", "mint", "ci", "--actor", "ana")
    assert said.status == 0
    assert re.fullmatch(PATTERN + r"\n", said.out)
    key_id = key_of(said.out)
    assert said.err == f"{key_id} is ci, expires: never. The token is shown this once.\n"
    with dal.connect(url) as db:
        assert db.tokens.authenticate(said.out.strip()).created_by == "ana"


def test_mint_says_all_that_is_asked_of_it_to_the_store(run: Run, url: str) -> None:
    until = datetime(2091, 1, 31, 12, tzinfo=UTC)
    token = minted(
        run, *("deploy", "--kind", "usr", "--scope", "runs:read", "--scope", "runs:write", "--workspace", "w1"),
        *("--cidr", "10.0.0.0/8", "--cidr", "::1/128", "--rate-limit", "60"),
        *("--not-before", "2026-01-31T00:00:00+01:00", "--expires", until.isoformat(), "--actor", "ana"),
    )  # fmt: skip
    assert token.startswith("dal_usr_")
    with dal.connect(url) as db:
        record = db.tokens.get(key_of(token))
    assert (record.name, record.kind, record.created_by) == ("deploy", "usr", "ana")
    assert (record.scopes, record.workspace_ids) == (("runs:read", "runs:write"), ("w1",))
    assert (record.allowed_cidrs, record.rate_limit) == (("10.0.0.0/8", "::1/128"), 60)
    assert (record.not_before, record.expires_at) == (datetime(2026, 1, 30, 23, tzinfo=UTC), until)


def test_mint_as_json_has_the_token_beside_its_record(run: Run, url: str) -> None:
    said = run("tokens", "mint", "ci", "--json", "--scope", "a", "--actor", "ana")
    told = json.loads(said.out)
    assert re.fullmatch(PATTERN, told["token"])
    assert (told["key_id"], told["name"], told["scopes"]) == (key_of(told["token"]), "ci", ["a"])
    assert "secret_hash" not in told
    assert told["token"] not in said.err


def test_the_actor_is_whoever_runs_it_unless_another_is_named(
    run: Run, sqlite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "bo")
    first = minted(run, "one")
    with dal.connect(f"sqlite:///{sqlite}") as db:
        assert db.tokens.get(key_of(first)).created_by == "bo"


def test_a_user_without_a_name_is_asked_to_give_one(run: Run, sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    said = run("tokens", "mint", "ci")
    assert (said.status, said.out) == (2, "")
    assert "--actor" in said.err


@pytest.mark.parametrize(("given", "days"), [("90d", 90.0), ("12h", 0.5), ("86400", 1.0), (" 30 min", 1 / 48)])
def test_a_span_is_counted_from_now(given: str, days: float, run: Run, sqlite: Path) -> None:
    before = datetime.now(UTC)
    token = minted(run, "ci", "--expires", given)
    with dal.connect(f"sqlite:///{sqlite}") as db:
        ends = db.tokens.get(key_of(token)).expires_at
    assert ends is not None
    assert before <= ends - timedelta(days=days) <= datetime.now(UTC)


@pytest.mark.parametrize("given", ["", "tomorrow", "-1d", "5 parsecs", "2027-01-31", "2027-01-31T00:00:00", "9" * 30])
def test_a_time_that_is_none_is_a_wrong_command_line(given: str, run: Run, sqlite: Path) -> None:
    for command in (["mint", "ci"], ["rotate", "0" * 12]):
        said = run("tokens", *command, "--expires", given)
        assert (said.status, said.out) == (2, ""), said
        assert "--expires" in said.err
    assert not sqlite.with_name(f"{sqlite.name}.peppers").exists(), "nothing was to be done"


def test_a_time_out_of_range_is_refused_too(run: Run, sqlite: Path) -> None:
    assert run("tokens", "mint", "ci", "--expires", "999999999d").status == 2
    assert run("tokens", "mint", "ci", "--expires", "2001-01-31T00:00:00Z").status == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ci", "--kind", "robot"], "kind"),
        (["ci", "--scope", "a b"], "scopes[0]"),
        (["ci", "--cidr", "10.0.0.0/99"], "allowed_cidrs[0]"),
        (["ci", "--rate-limit", "0"], "rate_limit"),
        ([" "], "name"),
        (["taken"], "Another service token"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_the_store_refuses_is_one_line_and_status_1(
    arguments: list[str], words: str, run: Run, sqlite: Path
) -> None:
    minted(run, "taken")
    said = run("tokens", "mint", *arguments)
    assert (said.status, said.out, said.err.count("\n")) == (1, "", 1), said
    assert words in said.err


def test_a_token_that_cannot_be_written_is_named_so_that_it_can_be_revoked(sqlite: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dal", "tokens", "mint", "ci"],
            cwd=ROOT, env={**os.environ, "LOGNAME": "ana"}, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    with dal.connect(f"sqlite:///{sqlite}") as db:
        (record,) = db.tokens.list().items
    assert done.returncode == 1
    assert done.stderr.endswith(
        f"dal: the token could not be written: No space left on device. Nobody has it: revoke {record.key_id}\n"
    )


def test_no_command_makes_a_database_that_is_not_there(run: Run) -> None:
    commands = [
        *(
            ["mint", "ci"],
            ["rotate", "0" * 12],
            ["revoke", "0" * 12, "--reason", "x"],
            ["import"],
            ["list"],
            ["verify"],
        ),
        *(["audit", "list", "0" * 12], ["audit", "refusals"], ["audit", "verify"], ["pepper", "--rows"]),
    ]
    for command in commands:
        said = run("tokens", *command, "--url", "sqlite:///new.db", stdin="" if command == ["import"] else "a token")
        assert (said.status, said.out) == (1, ""), (command, said)
        assert "new.db does not exist; 'dal schema apply' makes it" in said.err
    assert list(Path().iterdir()) == []


def test_postgresql_without_peppers_says_what_makes_one(
    run: Run, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAL_TOKEN_PEPPERS", raising=False)
    said = run("tokens", "mint", "ci", "--url", postgres_url)
    assert (said.status, said.out) == (1, "")
    assert "'dal tokens pepper' makes one" in said.err


# --- rotate and revoke ------------------------------------------------------------------------------------------------


def test_rotate_prints_the_successor_and_keeps_the_old_one_for_a_while(run: Run, url: str) -> None:
    old = minted(run, "ci", "--scope", "a", "--expires", "90d")
    said = run("tokens", "rotate", key_of(old), "--overlap", "1h", "--actor", "ana")
    assert said.status == 0
    assert re.fullmatch(PATTERN + r"\n", said.out)
    with dal.connect(url) as db:
        before, after = db.tokens.authenticate(old), db.tokens.authenticate(said.out.strip())
    assert before.overlap_until is not None
    assert before.rotated_to == after.key_id
    assert (after.name, after.scopes, after.expires_at) == ("ci", ("a",), before.expires_at)
    assert timedelta(minutes=59) < before.overlap_until - datetime.now(UTC) <= timedelta(hours=1)
    again = run("tokens", "rotate", key_of(old))
    assert (again.status, again.out) == (1, "")
    assert "rotated" in again.err


def test_rotate_without_an_overlap_refuses_the_old_one_at_once(run: Run, url: str) -> None:
    old = minted(run, "ci", "--expires", "90d")
    told = json.loads(run("tokens", "rotate", key_of(old), "--overlap", "0", "--expires", "never", "--json").out)
    assert run("tokens", "verify", stdin=old).status == 1
    assert run("tokens", "verify", stdin=told["token"]).status == 0
    assert (told["rotated_from"], told["expires_at"]) == (key_of(old), None)


@pytest.mark.parametrize("given", ["", "soon", "-1", "1.5", "500ms"])
def test_an_overlap_that_is_none_is_a_wrong_command_line(given: str, run: Run, sqlite: Path) -> None:
    said = run("tokens", "rotate", "0" * 12, "--overlap", given)
    assert (said.status, said.out) == (2, ""), said


def test_revoke_refuses_a_token_and_says_of_its_successor_that_it_goes_on(run: Run, url: str) -> None:
    old = minted(run, "ci")
    new = run("tokens", "rotate", key_of(old)).out.strip()
    said = run("tokens", "revoke", key_of(old), "--reason", "laptop lost", "--actor", "ana")
    assert said.status == 0
    assert re.fullmatch(rf"{key_of(old)} \(ci\) was revoked at 2\d{{3}}-\d\d-\d\d \d\d:\d\d:\d\dZ\n", said.out)
    assert said.err == f"its successor {key_of(new)} goes on\n"
    refused = run("tokens", "verify", stdin=old)
    assert (refused.status, refused.out) == (1, "")
    assert refused.err == "dal: The service token gives no access: it was revoked\n"
    told = json.loads(run("tokens", "revoke", key_of(new), "--reason", "x", "--actor", "bo", "--json").out)
    assert (told["key_id"], told["revoked_by"], told["revocation_reason"]) == (key_of(new), "bo", "x")


def test_a_token_that_is_not_there_is_status_1(run: Run, url: str) -> None:
    for command in (["rotate", "0" * 12], ["revoke", "0" * 12, "--reason", "x"]):
        said = run("tokens", *command)
        assert (said.status, said.out, said.err) == (1, "", f"dal: No service token has this key id: {'0' * 12}\n")


# --- import -----------------------------------------------------------------------------------------------------------


def hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def test_import_brings_in_tokens_that_are_then_accepted_and_renewed(run: Run, url: str) -> None:
    lines = [
        {
            "name": "old-ci",
            "sha256": hashed("orcheo-token-of-ci"),
            "scopes": ["a"],
            "expires_at": "2091-01-31T00:00:00Z",
        },
        {"name": "old-bo", "sha256": hashed("orcheo-token-of-bo"), "kind": "usr", "allowed_cidrs": ["10.0.0.0/8"]},
    ]
    said = run("tokens", "import", "--actor", "ana", stdin="\n\n".join(map(json.dumps, lines)))
    assert said == Said(0, "brought in 2 tokens\n", "")
    assert json.loads(run("tokens", "pepper", "--rows", "--json").out)[1] == {
        "pepper_id": None, "tokens": 2, "loaded": False, "current": False
    }  # fmt: skip
    assert run("tokens", "verify", stdin="orcheo-token-of-ci").status == 1, "only with --legacy"
    assert run("tokens", "verify", "--legacy", stdin="orcheo-token-of-bo").status == 1, "only from its addresses"
    for _ in range(2):  # by its plain SHA-256, and by what replaced that
        found = run("tokens", "verify", "--legacy", "--json", stdin="orcheo-token-of-ci\n")
        assert (found.status, json.loads(found.out)["name"]) == (0, "old-ci")
    counts = {each["pepper_id"]: each["tokens"] for each in json.loads(run("tokens", "pepper", "--rows", "--json").out)}
    assert counts == {"test": 1, None: 1}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"name": "b"}', "sha256"),
        ('{"name": "b", "sha256": "abc"}', "sha256"),
        ('{"name": 7, "sha256": "abc"}', "$.name"),
        (json.dumps({"name": "b", "sha256": hashed("x"), "scope": ["x"]}), "scope"),
        (json.dumps({"name": "b", "sha256": hashed("x"), "expires_at": "2091-01-31T00:00:00"}), "expires_at"),
        (json.dumps({"name": "taken", "sha256": hashed("x")}), "Another service token"),
        (json.dumps({"name": "b", "sha256": hashed("a")}), "exists already"),
        ("dear diary", "JSON"),
        ("[]", "object"),
    ],
)  # fmt: skip
def test_import_names_the_line_that_is_wrong_and_brings_in_nothing(
    line: str, words: str, run: Run, sqlite: Path
) -> None:
    minted(run, "taken")
    first = json.dumps({"name": "a", "sha256": hashed("a")})
    said = run("tokens", "import", stdin=f"{first}\n\n{line}\n")
    assert (said.status, said.out, said.err.count("\n")) == (1, "", 1), said
    assert said.err.startswith("dal: line 3: ")
    assert words in said.err
    with dal.connect(f"sqlite:///{sqlite}") as db:
        assert [record.name for record in db.tokens.list().items] == ["taken"]
        assert db.tokens.verify_audit().rows == 1


def test_import_of_what_is_no_text_is_refused(run: Run, sqlite: Path) -> None:
    said = run("tokens", "import", stdin=b'{"name": "\xff"}')
    assert (said.status, said.out, said.err.count("\n")) == (1, "", 1), said


# --- list -------------------------------------------------------------------------------------------------------------


def test_list_shows_the_state_and_the_use_of_each(run: Run, url: str) -> None:
    used = minted(run, "used", "--scope", "a", "--scope", "b")
    run("tokens", "verify", stdin=used)
    run("tokens", "verify", stdin=used)
    gone = minted(run, "gone")
    run("tokens", "revoke", key_of(gone), "--reason", "x")
    old = minted(run, "turned", "--expires", "2091-01-31T00:00:00Z")
    new = run("tokens", "rotate", key_of(old), "--expires", "never").out.strip()
    early = minted(run, "early", "--not-before", "2091-01-31T00:00:00Z")
    said = run("tokens", "list")
    assert (said.status, said.err) == (0, "")
    time = r"2\d{3}-\d\d-\d\d \d\d:\d\d:\d\dZ"
    wanted = [
        rf"{key_of(early)}  svc  early    early  never used",
        rf"{key_of(new)}  svc  active   turned  never used",
        rf"{key_of(old)}  svc  overlap  turned  never used, until {time}",
        rf"{key_of(used)}  svc  active   used  \[a b\]  used 2 times, last {time}",
    ]
    lines = said.out.splitlines()
    assert len(lines) == len(wanted)
    assert [line for line, form in zip(lines, wanted, strict=True) if not re.fullmatch(form, line)] == []
    everything = json.loads(run("tokens", "list", "--all", "--json").out)
    assert [(each["name"], each["state"]) for each in everything] == [
        ("early", "early"), ("turned", "active"), ("turned", "overlap"), ("gone", "revoked"), ("used", "active")
    ]  # fmt: skip
    assert [each["usage"] and each["usage"]["use_count"] for each in everything] == [None, None, None, None, 2]
    assert everything[-1]["usage"]["last_user_agent"] == "dal tokens verify"


def test_list_goes_through_all_pages_unless_told_how_many(run: Run, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dal.cli_tokens.PAGE", 3)
    with dal.connect(url) as db:
        for number in range(7):
            db.tokens.mint(f"token-{number}", actor="ana")
    assert len(run("tokens", "list").out.splitlines()) == 7
    said = run("tokens", "list", "--limit", "5")
    assert (len(said.out.splitlines()), said.err) == (5, "there are more\n")
    assert "token-6" in said.out.splitlines()[0]
    assert run("tokens", "list", "--limit", "7").err == ""
    assert len(json.loads(run("tokens", "list", "--json", "--limit", "4").out)) == 4
    assert run("tokens", "list", "--limit", "0").status == 2


def test_an_empty_list_is_empty(run: Run, url: str) -> None:
    assert run("tokens", "list") == Said(0, "", "")
    assert run("tokens", "list", "--json") == Said(0, "[]\n", "")


def test_what_somebody_named_a_token_does_not_steer_the_terminal(run: Run, sqlite: Path) -> None:
    token = minted(run, "a\x1b[31mb\nc", "--actor", "x\ty")
    out = run("tokens", "list").out + run("tokens", "audit", "list", key_of(token)).out
    out += run("tokens", "verify", stdin=token).out
    assert r"a\x1b[31mb\nc" in out
    assert r"by x\ty" in out
    assert "\x1b" not in out


# --- verify -----------------------------------------------------------------------------------------------------------


def test_verify_says_who_it_is(run: Run, url: str) -> None:
    token = minted(run, "ci", "--scope", "a", "--workspace", "w", "--cidr", "10.0.0.0/8")
    said = run("tokens", "verify", "--ip", "10.1.2.3", "--workspace", "w", "--scope", "a", stdin=f"  {token}\n")
    assert (said.status, said.err) == (0, "")
    assert said.out == (
        f"key id      {key_of(token)}\nname        ci\nkind        svc\nscopes      a\nworkspaces  w\n"
        "addresses   10.0.0.0/8\nexpires     never\n"
    )
    told = json.loads(run("tokens", "verify", "--ip", "10.1.2.3", "--json", stdin=token).out)
    assert (told["accepted"], told["key_id"], told["workspace_ids"]) == (True, key_of(token), ["w"])


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--ip", "10.0.0.1", "--scope", "b"], "scope"),
        (["--ip", "10.0.0.1", "--workspace", "b"], "workspace"),
        (["--ip", "11.0.0.1"], None),
        ([], None),
    ],
    ids=str,
)
def test_verify_exits_with_1_and_says_what_it_may(
    arguments: list[str], found: str | None, run: Run, sqlite: Path
) -> None:
    token = minted(run, "ci", "--scope", "a", "--workspace", "w", "--cidr", "10.0.0.0/8")
    said = run("tokens", "verify", *arguments, stdin=token)
    assert (said.status, said.out, said.err.count("\n")) == (1, "", 1), said
    assert said.err.startswith("dal: The service token gives no access")
    said = run("tokens", "verify", *arguments, "--json", stdin=token)
    assert (said.status, json.loads(said.out), said.err) == (1, {"accepted": False, "found": found}, "")


@pytest.mark.parametrize("given", [b"nonsense", b"\xff\xfe\0", "dal_svc_ä".encode(), b"x" * 1_000_000], ids=len)
def test_verify_refuses_whatever_is_no_token(given: bytes, run: Run, url: str) -> None:
    said = run("tokens", "verify", stdin=given)
    assert said == Said(1, "", "dal: The service token gives no access.\n")


def test_verify_without_a_token_says_so(run: Run, sqlite: Path) -> None:
    for given in ("", " \n"):
        said = run("tokens", "verify", stdin=given)
        assert (said.status, said.out, said.err) == (1, "", "dal: there is no token on standard input\n")


def test_verify_asks_on_a_terminal_and_shows_nothing_of_the_answer(run: Run, sqlite: Path) -> None:
    token = minted(run, "ci")
    child, terminal = pty.fork()
    if child == 0:  # only what may be called in a forked process: another program begins at once
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "dal", "tokens", "verify", "--url", f"sqlite:///{sqlite}"])  # noqa: S606
    seen, end = b"", time.monotonic() + 60
    while b"Token: " not in seen and time.monotonic() < end:
        seen += os.read(terminal, 4096)
    os.write(terminal, f"{token}\n".encode())
    try:
        while time.monotonic() < end and (more := os.read(terminal, 4096)):
            seen += more
    except OSError:  # how a terminal ends on Linux
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, seen
    assert f"key id      {key_of(token)}".encode() in seen
    assert token[21:].encode() not in seen


# --- the audit --------------------------------------------------------------------------------------------------------


def test_audit_list_tells_what_was_done_with_a_token(run: Run, url: str) -> None:
    token = minted(run, "ci", "--actor", "ana")
    run("tokens", "rotate", key_of(token), "--overlap", "0", "--actor", "bo")
    said = run("tokens", "audit", "list", key_of(token))
    assert (said.status, said.err) == (0, "")
    first, second = said.out.splitlines()
    assert re.fullmatch(r'1  2\d{3}-\d\d-\d\d \d\d:\d\d:\d\dZ  minted  by ana  \{.*"name": "ci".*\}', first)
    assert re.fullmatch(r'2  2\d{3}-\d\d-\d\d \d\d:\d\d:\d\dZ  rotated  by bo  \{.*"overlap_seconds": 0.*\}', second)
    told = json.loads(run("tokens", "audit", "list", key_of(token), "--json").out)
    assert [(row["number"], row["action"], row["actor"]) for row in told] == [
        (1, "minted", "ana"),
        (2, "rotated", "bo"),
    ]
    said = run("tokens", "audit", "list", key_of(token), "--limit", "1")
    assert (said.out.count("\n"), said.err) == (1, "there are more\n")
    assert run("tokens", "audit", "list", "0" * 12) == Said(0, "", "")
    assert run("tokens", "audit", "list", "short").status == 1


def test_audit_refusals_tells_who_was_refused(run: Run, url: str) -> None:
    token = minted(run, "ci")
    for _ in range(2):
        run("tokens", "verify", "--scope", "b", "--ip", "10.0.0.1", stdin=token)
    run("tokens", "verify", stdin="nonsense")
    told = json.loads(run("tokens", "audit", "refusals", "--json").out)
    assert sum(each["refusals"] for each in told) == 3
    assert {(each["key_id"], each["reason"]) for each in told} == {(key_of(token), "scope"), ("", "malformed")}
    said = run("tokens", "audit", "refusals", key_of(token))
    assert (said.status, said.err) == (0, "")
    for line in said.out.splitlines():
        assert re.fullmatch(
            rf"2\d{{3}}-\d\d-\d\d \d\d:\d\dZ  {key_of(token)}  scope      \d times?  10\.0\.0\.1  dal tokens verify",
            line,
        )


def change(url: str, sql: str) -> None:
    """Somebody with access to the tables."""
    if url.startswith("sqlite:///"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            connection.execute(sql)
    else:
        with psycopg.connect(url, autocommit=True) as server:
            server.execute(sql)


def test_audit_verify_is_content_with_a_whole_chain_and_names_the_row_that_is_not(run: Run, url: str) -> None:
    assert run("tokens", "audit", "verify") == Said(0, f"0 rows fit, head 0:{'0' * 64}\n", "")
    token = minted(run, "ci")
    said = run("tokens", "audit", "verify")
    assert (said.status, said.err) == (0, "")
    assert re.fullmatch(r"1 row fits, head 1:[0-9a-f]{64}\n", said.out)
    head = said.out.split()[-1]
    run("tokens", "rotate", key_of(token))
    assert run("tokens", "audit", "verify").out.startswith("3 rows fit, head 3:")
    assert run("tokens", "audit", "verify", "--since", head).out.startswith("2 rows fit, head 3:")
    change(url, "update service_token_audit set actor = 'nobody' where number = 2")
    said = run("tokens", "audit", "verify")
    assert (said.status, said.out, said.err) == (1, f"1 row fits, head {head}\n", "dal: row 2 was altered\n")
    said = run("tokens", "audit", "verify", "--json")
    assert (said.status, json.loads(said.out)["fault"]) == (1, {"number": 2, "reason": "was altered"})


def test_audit_verify_since_a_head_finds_out_a_chain_that_was_put_back(run: Run, url: str) -> None:
    minted(run, "one")
    change(url, "create table saved as select * from service_token_chain")
    minted(run, "two")
    head = run("tokens", "audit", "verify").out.split()[-1]
    for sql in (
        "delete from service_token_audit where number = 2",
        "delete from service_token_chain",
        "insert into service_token_chain select * from saved",
    ):
        change(url, sql)
    assert run("tokens", "audit", "verify").status == 0, "an older state fits by itself"
    said = run("tokens", "audit", "verify", "--since", head)
    assert (said.status, said.err.count("\n")) == (1, 1), said
    assert said.err.startswith("dal: row 2 ")


@pytest.mark.parametrize("given", ["", "1", "1:abc", f"-1:{'0' * 64}", "0" * 64])
def test_a_head_that_is_none_is_a_wrong_command_line(given: str, run: Run, sqlite: Path) -> None:
    said = run("tokens", "audit", "verify", f"--since={given}")
    assert (said.status, said.out) == (2, ""), said
    assert "--since" in said.err


# --- peppers ----------------------------------------------------------------------------------------------------------


def test_pepper_prints_one_that_the_settings_take_and_needs_no_database(run: Run) -> None:
    said = run("tokens", "pepper", "--url", "sqlite:///not-there.db")
    assert said.status == 0
    assert said.out.count("\n") == 1
    ((name, key),) = parse_peppers(said.out).items()
    assert (len(key), said.out.startswith(f"{name}=")) == (32, True)
    assert "DAL_TOKEN_PEPPERS" in said.err
    assert said.out.strip() not in said.err
    assert run("tokens", "pepper").out != said.out
    assert list(Path().iterdir()) == []


def test_a_new_pepper_is_used_at_once_and_the_rows_move_to_it_as_they_are_used(
    run: Run, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = minted(run, "one"), minted(run, "two")
    new = run("tokens", "pepper").out.strip()
    name = new.partition("=")[0]
    monkeypatch.setenv("DAL_TOKEN_PEPPERS", f"{new},{PEPPERS}")
    assert run("tokens", "pepper", "--rows").out == f"       0  {name:<32}  current\n       2  {'test':<32}  loaded\n"
    assert run("tokens", "verify", stdin=first).status == 0
    assert run("tokens", "pepper", "--rows").out == f"       1  {name:<32}  current\n       1  {'test':<32}  loaded\n"
    monkeypatch.setenv("DAL_TOKEN_PEPPERS", new)
    assert run("tokens", "pepper", "--rows").out.endswith(f"       1  {'test':<32}  NOT LOADED: they are refused\n")
    assert json.loads(run("tokens", "pepper", "--rows", "--json").out) == [
        {"pepper_id": name, "tokens": 1, "loaded": True, "current": True},
        {"pepper_id": "test", "tokens": 1, "loaded": False, "current": False},
    ]
    assert run("tokens", "verify", stdin=first).status == 0
    said = run("tokens", "verify", stdin=second)
    assert (said.status, said.out) == (1, "")
    assert "pepper 'test' is not among DAL_TOKEN_PEPPERS" in said.err
    said = run("tokens", "audit", "verify")
    assert (said.status, "row 1 of the audit names 'test'" in said.err) == (1, True), "it was written under the first"


def test_when_all_peppers_are_lost_the_audit_begins_anew_behind_what_there_is(
    run: Run, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = minted(run, "ci", "--scope", "a")
    (last,) = json.loads(run("queries", "run", "get_audit_head", "--json").out)
    monkeypatch.setenv("DAL_TOKEN_PEPPERS", run("tokens", "pepper").out.strip())
    said = run("tokens", "verify", stdin=old)
    assert (said.status, said.out, "A key that token digests are made with is not loaded" in said.err) == (1, "", True)
    assert json.loads(run("tokens", "list", "--json").out)[0]["scopes"] == ["a"]
    assert run("tokens", "audit", "list", key_of(old)).status == 0
    assert run("tokens", "audit", "verify").status == 1
    assert run("tokens", "revoke", key_of(old), "--reason", "its pepper is lost").status == 0
    new = minted(run, "ci", "--scope", "a")
    assert run("tokens", "verify", stdin=new).status == 0
    said = run("tokens", "audit", "verify", "--since", f"{last['number']}:{last['row_hash']}")
    assert (said.status, said.out.partition(",")[0]) == (0, "2 rows fit"), said


def test_pepper_puts_a_new_one_first_into_the_file_of_a_sqlite_database(run: Run, sqlite: Path) -> None:
    file = Path(f"{sqlite}.peppers")
    token = minted(run, "ci")
    (old,) = parse_peppers(file.read_text())
    said = run("tokens", "pepper", "--file", str(file))
    new, *others = parse_peppers(file.read_text())
    assert said == Said(0, f"{new} is the first in {file} from the next start of a process on\n", "")
    assert others == [old]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(path.name for path in file.parent.glob(".*")) == [], "a draft was left behind"
    assert run("tokens", "verify", stdin=token).status == 0
    counts = {each["pepper_id"]: each["tokens"] for each in json.loads(run("tokens", "pepper", "--rows", "--json").out)}
    assert counts == {new: 1, old: 0}
    assert run("tokens", "audit", "verify").status == 0


def test_pepper_makes_a_file_that_is_not_there_and_spoils_none_that_is_another(run: Run) -> None:
    assert run("tokens", "pepper", "--file", "new").status == 0
    assert (len(parse_peppers(Path("new").read_text())), stat.S_IMODE(Path("new").stat().st_mode)) == (1, 0o600)
    Path("letter").write_text("Dear reader")
    for place in ("letter", "no/where", "."):
        said = run("tokens", "pepper", "--file", place)
        assert (said.status, said.out, said.err.count("\n")) == (1, "", 1), said
    assert Path("letter").read_text() == "Dear reader"
    assert run("tokens", "pepper", "--file", "new", "--rows").status == 2


# --- no secret where none belongs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [["revoke", "TOKEN", "--reason", "x"], ["rotate", "TOKEN"], ["verify", "TOKEN"], ["audit", "list", "TOKEN"],
     ["mint", "TOKEN"], ["list", "--url", "sqlite:///TOKEN"], ["verify", "--token=TOKEN"], ["TOKEN"]],
    ids=" ".join,
)  # fmt: skip
def test_a_token_on_the_command_line_is_refused_and_not_repeated(command: list[str], run: Run, sqlite: Path) -> None:
    token = minted(run, "ci")
    for given in (token, token[:-1], f"{token}x", f"Bearer {token}"):  # damaged ones have most of a secret, too
        arguments = [each.replace("TOKEN", given) for each in command]
        said = run("tokens", *arguments)
        assert (said.status, said.out) == (2, ""), said
        assert "stands on the command line" in said.err
        assert pieces(token[8:]) & pieces(said.err) == set()


def test_a_legacy_token_on_the_command_line_of_verify_is_not_repeated(run: Run, sqlite: Path) -> None:
    said = run("tokens", "verify", "--legacy", "orcheo-token-of-ci", "more")
    assert (said.status, said.out) == (2, "")
    assert "standard input" in said.err
    assert "orcheo" not in said.err


def pieces(text: str) -> set[str]:
    """Every 8 characters that stand beside each other."""
    return {text[at : at + 8] for at in range(len(text) - 7)}


def dump(url: str) -> Iterator[str]:
    """All that a database holds, as text."""
    if url.startswith("sqlite:///"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            yield repr(stored(connection))
        return
    with psycopg.connect(url) as server:
        for (table,) in server.execute("select oid::regclass::text from pg_class where relkind = 'r' and "
                                       "relnamespace = 'public'::regnamespace").fetchall():  # fmt: skip
            yield from (str(row[0]) for row in server.execute(f"select t::text from {table} as t".encode()))


def test_no_piece_of_a_secret_is_anywhere_but_where_it_was_asked_for(
    run: Run, url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command, when it works and when it does not; then all that was printed, logged and stored is searched."""
    caplog.set_level(logging.DEBUG)
    printed: list[str] = []

    def do(*arguments: str, stdin: str = "", status: int = 0) -> str:
        said = run("tokens", *arguments, stdin=stdin)
        assert said.status == status, (arguments, said)
        printed.append(said.err)
        return said.out

    def told(*arguments: str, stdin: str = "", status: int = 0) -> None:
        printed.append(do(*arguments, stdin=stdin, status=status))

    first = do("mint", "one", "--scope", "a", "--cidr", "10.0.0.0/8").strip()
    second = json.loads(do("mint", "two", "--json"))["token"]
    third = do("rotate", key_of(first)).strip()
    fourth = json.loads(do("rotate", key_of(second), "--overlap", "0", "--json"))["token"]
    new = do("pepper").strip()
    legacy = "legacy-token-of-another-system"
    do("import", stdin=json.dumps({"name": "old", "sha256": hashed(legacy)}))
    monkeypatch.setenv("DAL_TOKEN_PEPPERS", f"{new},{PEPPERS}")
    for token in (first, second, third, fourth):
        for arguments, status in (
            *((["--ip", "10.0.0.1"], int(token == second)), (["--ip", "10.0.0.1", "--json"], int(token == second))),
            *((["--ip", "10.0.0.1", "--scope", "b"], 1), (["--ip", "10.0.0.1", "--scope", "b", "--json"], 1)),
            (["--ip", "nowhere"], 1),
        ):
            told("verify", *arguments, stdin=token, status=status)
        told("verify", stdin=token[:-1], status=1)
        told("verify", token, status=2)
        told("revoke", token, "--reason", "x", status=2)
    told("verify", "--legacy", stdin=legacy)
    told("verify", legacy, status=2)
    told("revoke", key_of(third), "--reason", "x")
    told("verify", stdin=third, status=1)
    for command in (["list", "--all"], ["audit", "list", key_of(first)], ["audit", "refusals"], ["audit", "verify"],
                    ["pepper", "--rows"]):  # fmt: skip
        told(*command)
        told(*command, "--json")
    monkeypatch.setenv("DAL_TOKEN_PEPPERS", f"{new},spoilt={PEPPERS[5:]}!")
    told("list", status=1)
    secrets = {piece for token in (first, second, third, fourth) for piece in pieces(token[21:])}
    secrets |= pieces(legacy) | pieces(new.partition("=")[2]) | pieces(PEPPERS.partition("=")[2])
    text = "\n".join([*printed, caplog.text, *dump(url)])
    assert key_of(first) in text
    assert "service_token" in text
    assert secrets & pieces(text) == set()

"""Settings: precedence, every rule with its message, secrets that show nowhere, and docs/configuration.md."""

from __future__ import annotations

import base64
import json
import logging
import os
import pprint
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from dal.errors import Invalid
from dal.settings import Peppers, Settings, parse_peppers, redact_dsn

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "configuration.md").read_text("utf-8")
DSN = "postgresql://dal@localhost/dal"
KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No DAL_* variable, an empty home and an empty working directory."""
    for name in list(os.environ):
        if name.upper().startswith("DAL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def refusal(make: Callable[[], object]) -> str:
    with pytest.raises(Invalid) as caught:
        make()
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


# --- sources ----------------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_specification(tmp_path: Path) -> None:
    assert Settings().redacted() == {
        "backend": "sqlite",
        "sqlite_path": str(tmp_path / "home/.dal/dal.db"),
        "sqlite_synchronous": "full",
        "sqlite_busy_timeout": 10,
        "sqlite_tx_timeout": 5,
        "sqlite_readers": 4,
        "sqlite_max_waiting": 10000,
        "postgres_dsn": None,
        "postgres_pool_min_size": 1,
        "postgres_pool_max_size": 10,
        "postgres_pool_timeout": 5,
        "postgres_pool_max_waiting": 200,
        "postgres_pool_max_idle": 300,
        "postgres_pool_max_lifetime": 1800,
        "postgres_connect_timeout": 5,
        "postgres_statement_timeout": 30,
        "postgres_lock_timeout": 5,
        "postgres_deadline": 35,
        "postgres_pooler": "none",
        "sql_dir": None,
        "token_peppers": None,
    }


def test_arguments_win_over_environment_over_yaml_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("dal.yaml").write_text("sqlite_readers: 5\npostgres_pool_max_size: 5\nsqlite_tx_timeout: 7s\n")
    monkeypatch.setenv("DAL_SQLITE_READERS", "6")
    monkeypatch.setenv("DAL_POSTGRES_POOL_MAX_SIZE", "6")
    settings = Settings(sqlite_readers=7)
    found = settings.sqlite_readers, settings.postgres_pool_max_size, settings.sqlite_tx_timeout
    assert (found, settings.sqlite_busy_timeout) == ((7, 6, 7.0), 10.0)


def test_a_url_and_its_overrides_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAL_BACKEND", "postgres")
    monkeypatch.setenv("DAL_POSTGRES_DSN", DSN)
    monkeypatch.setenv("DAL_SQLITE_READERS", "6")
    monkeypatch.setenv("DAL_SQLITE_TX_TIMEOUT", "6")
    settings = Settings.load("sqlite:///a.db?readers=2&busy_timeout=1s", sqlite_busy_timeout="2s")
    assert (settings.backend, str(settings.sqlite_path), settings.sqlite_readers) == ("sqlite", "a.db", 2)
    assert (settings.sqlite_busy_timeout, settings.sqlite_tx_timeout) == (2.0, 6.0)


def test_the_file_that_DAL_CONFIG_names_is_read_instead_of_dal_yaml(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Path("dal.yaml").write_text("sqlite_readers: 5\n")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "other.yaml").write_text("\ufeffbackend:\nsqlite_tx_timeout: 1 min\n")
    monkeypatch.setenv("DAL_CONFIG", "~/other.yaml")
    assert (Settings().backend, Settings().sqlite_readers, Settings().sqlite_tx_timeout) == ("sqlite", 4, 60.0)
    monkeypatch.setenv("DAL_CONFIG", "")
    assert Settings().sqlite_readers == 5


def test_an_empty_variable_is_unset_and_an_empty_argument_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("dal.yaml").write_text("sqlite_path: from-yaml.db\n")
    for name in Settings.model_fields:
        monkeypatch.setenv(f"DAL_{name.upper()}", "")
    assert str(Settings().sqlite_path) == "from-yaml.db"
    assert "DAL_SQLITE_PATH must be a path" in refusal(lambda: Settings(sqlite_path=""))


def test_every_setting_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given_there = {
        "backend": ("Postgres", "postgres"),
        "sqlite_path": ("~/x.db", tmp_path / "home/x.db"),
        "sqlite_synchronous": ("EXTRA", "extra"),
        "postgres_dsn": (DSN, SecretStr(DSN)),
        "postgres_pooler": ("PgBouncer", "pgbouncer"),
        "postgres_deadline": ("2h", 7200.0),
        "sql_dir": ("~/sql", tmp_path / "home/sql"),
        "token_peppers": (f"a={KEY}", SecretStr(f"a={KEY}")),
    }
    for name in Settings.model_fields:
        text, value = given_there.get(name, (" 9 ", 9))
        monkeypatch.setenv(f"DAL_{name.upper()}", text)
        given_there[name] = (text, value)
    settings = Settings()
    assert {name: getattr(settings, name) for name in Settings.model_fields} == {
        name: value for name, (_, value) in given_there.items()
    }


def test_the_backend_goes_back_to_the_untouched_sqlite_file_by_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("dal.yaml").write_text(f"backend: postgres\npostgres_dsn: {DSN}\nsqlite_path: /var/lib/dal/dal.db\n")
    assert Settings().backend == "postgres"
    monkeypatch.setenv("DAL_BACKEND", "sqlite")
    back = Settings()
    assert (back.backend, str(back.sqlite_path)) == ("sqlite", "/var/lib/dal/dal.db")


def test_settings_make_no_file_and_no_directory(tmp_path: Path) -> None:
    Settings(sql_dir="nowhere", token_peppers="nowhere", sqlite_path="nowhere/dal.db")
    assert list(tmp_path.iterdir()) == []


def test_settings_are_immutable() -> None:
    with pytest.raises(Invalid, match="backend: settings are immutable"):
        Settings().backend = "postgres"


# --- wrong files and unknown names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("!!python/object/apply:os.mkdir [made]", "not allowed at line 1"),
        ("sqlite_path: !!python/name:os.system", "not allowed at line 1"),
        ("backend: sqlite\nsqlite_path: !Mine x", "not allowed at line 2"),
        ("backend: [", "is not valid YAML at line"),
        ("sqlite_path: 2024-99-99", "is not valid YAML"),
        ("a: &a [1]\nb: *hunter2", "is not valid YAML at line 2"),
        ("\x00", "is not valid YAML"),
        ("[" * 5000, "is not valid YAML"),
        ("- backend", "must hold settings"),
        ("1: sqlite", "must hold settings"),
        ("postgresql://u:hunter2@h/d", "must hold settings"),
        ("backend: postgres\npostgres_dsn: 7\nsqlite_readers: 0", "DAL_POSTGRES_DSN in dal.yaml must start with"),
        ("sqlite_reader: 4", "unknown setting 'sqlite_reader' in dal.yaml; did you mean sqlite_readers?"),
        ("DAL_BACKEND: sqlite", "unknown setting 'DAL_BACKEND' in dal.yaml; did you mean backend?"),
        ("postgresql://u:hunter2@h/d: 1", "unknown setting a value that looks like a DSN"),
        ("sqlite_synchronous: off", "DAL_SQLITE_SYNCHRONOUS in dal.yaml must be full, normal or extra (off is refused"),
        ("sqlite_readers: {a: 1}", "must be a whole number from 1 to 1000, not a value of type dict"),
        ("sqlite_path: 2024-01-01", "must be a path, not a URL and not empty, not a value of type date"),
        ("sqlite_readers: 0x" + "f" * 9000, "not a value of type int"),
        (
            "a: &a [x, x, x, x, x, x, x, x, x]\n"
            + "\n".join(f"{n}: &{n} [{', '.join([f'*{p}'] * 9)}]" for p, n in zip("abcdefgh", "bcdefghi", strict=True))
            + "\nsqlite_path: *i",
            "must be a path, not a URL and not empty, not a value of type list",
        ),
    ],
)
def test_a_wrong_yaml_file_is_refused_without_quoting_it(text: str, said: str, tmp_path: Path) -> None:
    Path("dal.yaml").write_text(text)
    message = refusal(Settings)
    assert said in message, message
    assert "dal.yaml" in message
    assert "hunter2" not in message
    assert len(message) < 2000
    assert [path.name for path in tmp_path.iterdir()] == ["dal.yaml"]


def test_an_empty_yaml_file_sets_nothing() -> None:
    Path("dal.yaml").write_text("# nothing yet\n")
    assert Settings().backend == "sqlite"


@pytest.mark.parametrize("made", ["missing", "directory", "latin-1"])
def test_a_named_file_must_exist_and_be_readable(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if made == "directory":
        Path("here.yaml").mkdir()
    if made == "latin-1":
        Path("here.yaml").write_bytes("sqlite_path: Straße".encode("latin-1"))
    monkeypatch.setenv("DAL_CONFIG", "here.yaml")
    said = {"missing": "No such file", "directory": "Is a directory", "latin-1": "not valid YAML in UTF-8"}
    assert re.search(f"configuration file 'here.yaml' .*{said[made]}", refusal(Settings))


def test_a_dsn_in_DAL_CONFIG_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAL_CONFIG", "postgresql://u:hunter2@h/d")
    assert "hunter2" not in refusal(Settings)


@pytest.mark.parametrize(
    ("name", "said"),
    [("postgres_dns", "did you mean postgres_dsn?"), ("Sqlite_pth", "did you mean sqlite_path?"), ("zzz", "'zzz'")],
)
def test_an_unknown_argument_is_refused_with_the_nearest_name(name: str, said: str) -> None:
    message = refusal(lambda: Settings(**{name: "hunter2"}))
    assert message.endswith(said)
    assert "hunter2" not in message


def test_a_misspelt_variable_is_warned_of_and_foreign_ones_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("DAL_POSTGRES_DNS", "DAL_TEST_POSTGRES_DSN", "DAL_CONFIG", "DAL_WHATEVER", "OTHER_SQLITE_PATH"):
        monkeypatch.setenv(name, "" if name == "DAL_CONFIG" else "hunter2")
    with caplog.at_level(logging.WARNING, logger="dal.settings"):
        Settings()
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        (
            "dal.settings",
            "environment variable DAL_POSTGRES_DNS is not a setting and is ignored; did you mean DAL_POSTGRES_DSN?",
        )
    ]


# --- one value --------------------------------------------------------------------------------------------------------

DURATIONS = [name for name, field in Settings.model_fields.items() if field.annotation is float]
HUGE = pytest.param(10**5000, id="huge")  # more digits than Python prints
LONG = pytest.param("9" * 5000, id="long")
COUNTS = [name for name, field in Settings.model_fields.items() if field.annotation is int]


def test_durations_and_counts_are_what_this_file_takes_them_for() -> None:
    assert (len(DURATIONS), len(COUNTS)) == (9, 5)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[
            ("5", 5.0),
            (5, 5.0),
            (2.5, 2.5),
            ("2.5", 2.5),
            ("5s", 5.0),
            ("5 sec", 5.0),
            (" 1500ms ", 1.5),
            ("2 Min", 120.0),
        ],
        *[("1h", 3600.0), ("24 d", 2_073_600.0), (timedelta(minutes=1), 60.0), ("0.5 min", 30.0)],
    ],
)
def test_a_duration_is_seconds_or_text_with_a_unit(text: object, seconds: float) -> None:
    assert Settings(sqlite_busy_timeout=text).sqlite_busy_timeout == seconds
    assert type(Settings(sqlite_busy_timeout=text).sqlite_busy_timeout) is float


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize(
    "wrong",
    [
        *[0, -1, "0", "-5s", "", "s", "5 m", "5 lightyears", "1e3", "1,5", "inf", "nan", "25 d", HUGE, LONG],
        *[float("nan"), float("inf"), True, None, [5], b"5", "٥"],
    ],
)
def test_a_wrong_duration_is_refused(name: str, wrong: object) -> None:
    message = refusal(lambda: Settings(**{name: wrong}))
    assert f"DAL_{name.upper()} must be at least 1 " in message
    assert "at most 24 days, in seconds or written as 500ms, 5s, 30 min, 2h, 1d, not " in message


def test_a_duration_is_never_so_short_that_it_would_mean_no_limit() -> None:
    assert Settings(postgres_statement_timeout="1ms").postgres_statement_timeout == 0.001
    assert "must be at least 1 ms" in refusal(lambda: Settings(postgres_statement_timeout="0.9ms"))
    assert "must be at least 1 s (libpq" in refusal(lambda: Settings(postgres_connect_timeout="999ms"))


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("wrong", [0, -1, 1_000_001, 1.0, "1.0", "", "ten", True, None, "1_0", HUGE, LONG])
def test_a_wrong_count_is_refused(name: str, wrong: object) -> None:
    assert re.search(
        f"DAL_{name.upper()} must be a whole number from 1 to 10+, not ", refusal(lambda: Settings(**{name: wrong}))
    )


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"backend": "mysql"}, "DAL_BACKEND must be sqlite or postgres, not 'mysql'"),
        ({"backend": None}, "DAL_BACKEND must be sqlite or postgres, not None"),
        ({"backend": "postgres"}, "DAL_POSTGRES_DSN is required when DAL_BACKEND is postgres"),
        ({"postgres_pooler": "odyssey"}, "DAL_POSTGRES_POOLER must be none or pgbouncer, not 'odyssey'"),
        (
            {"sqlite_synchronous": "off"},
            "DAL_SQLITE_SYNCHRONOUS must be full, normal or extra (off is refused: a power cut would corrupt the "
            "database), not 'off'",
        ),
        ({"sqlite_path": "a\0b"}, "DAL_SQLITE_PATH must be a path, not a URL and not empty, not 'a\\x00b'"),
        ({"sqlite_path": "sqlite:///x"}, "DAL_SQLITE_PATH must be a path, not a URL and not empty, not a value that"),
        ({"sqlite_path": " "}, "DAL_SQLITE_PATH must be a path, not a URL and not empty, not ' '"),
        ({"sqlite_path": None}, "DAL_SQLITE_PATH must be a path, not a URL and not empty, not None"),
        ({"sqlite_path": "~no-such-user/x"}, "DAL_SQLITE_PATH must name a home directory that exists"),
        ({"sql_dir": ""}, "DAL_SQL_DIR must be a path, not a URL and not empty, not ''"),
        ({"postgres_dsn": ""}, "DAL_POSTGRES_DSN must start with postgresql:// or postgres://, or be key=value pairs"),
        ({"postgres_dsn": "mysql://u:hunter2@h/d"}, "DAL_POSTGRES_DSN must start with"),
        ({"postgres_dsn": "POSTGRESQL://u:hunter2@h"}, "DAL_POSTGRES_DSN must start with"),
        ({"postgres_dsn": "hunter2"}, "DAL_POSTGRES_DSN must start with"),
        ({"postgres_dsn": "postgresql://u:hunter2\0@h"}, "DAL_POSTGRES_DSN must start with"),
        ({"postgres_dsn": 5432}, "DAL_POSTGRES_DSN must start with"),
        (
            {"postgres_pool_min_size": 11},
            "DAL_POSTGRES_POOL_MAX_SIZE must be at least DAL_POSTGRES_POOL_MIN_SIZE (11), not 10 (the default)",
        ),
        (
            {"postgres_pool_min_size": 3, "postgres_pool_max_size": "2"},
            "DAL_POSTGRES_POOL_MAX_SIZE must be at least DAL_POSTGRES_POOL_MIN_SIZE (3), not 2",
        ),
        (
            {"postgres_deadline": "30s"},
            "DAL_POSTGRES_DEADLINE must be longer than DAL_POSTGRES_STATEMENT_TIMEOUT (30 s), not 30.0",
        ),
        ({"token_peppers": ""}, "DAL_TOKEN_PEPPERS must be id=base64 pairs separated by commas, or the path of a file"),
        ({"token_peppers": "a=hunter2"}, "DAL_TOKEN_PEPPERS must have base64 of at least 16 bytes in pair 1"),
    ],
)
def test_a_wrong_value_is_refused_with_its_variable_and_what_is_allowed(given_: dict[str, object], said: str) -> None:
    message = refusal(lambda: Settings(**given_))
    assert said in message
    assert "hunter2" not in message
    with pytest.raises(Invalid) as caught:
        Settings(**given_)
    assert caught.value.path == said.split()[0]


def test_all_wrong_settings_of_a_load_stand_in_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("dal.yaml").write_text("sqlite_tx_timeout: soon\n")
    monkeypatch.setenv("DAL_SQLITE_READERS", "many")
    message = refusal(lambda: Settings(backend="postgres", postgres_pool_min_size=11, nonsense=1))
    assert message.split(": ", 1)[1].splitlines() == [
        "5 settings are wrong:",
        "  DAL_SQLITE_TX_TIMEOUT in dal.yaml must be at least 1 ms and at most 24 days, in seconds or written as 500ms,"
        " 5s, 30 min, 2h, 1d, not 'soon'",
        "  DAL_SQLITE_READERS must be a whole number from 1 to 1000, not 'many'",
        "  DAL_POSTGRES_DSN is required when DAL_BACKEND is postgres",
        "  DAL_POSTGRES_POOL_MAX_SIZE must be at least DAL_POSTGRES_POOL_MIN_SIZE (11), not 10 (the default)",
        "  unknown setting 'nonsense'",
    ]


def test_what_depends_on_another_setting_follows_it() -> None:
    settings = Settings(postgres_pool_max_size=3, postgres_statement_timeout="1 min")
    assert (settings.postgres_pool_max_waiting, settings.postgres_deadline) == (60, 65.0)
    assert Settings(postgres_pool_max_size=3, postgres_pool_max_waiting=1).postgres_pool_max_waiting == 1


def test_a_missing_home_does_not_keep_anyone_from_postgres() -> None:
    settings = Settings(backend="postgres", postgres_dsn=DSN, sqlite_path="~no-such-user/x")
    assert str(settings.sqlite_path) == "~no-such-user/x"


def test_a_dsn_is_kept_as_it_stands_but_for_the_newline_at_its_end() -> None:
    for dsn in (
        DSN,
        "postgres://h",
        "host=a dbname=b",
        " host = 'a b'",
        "postgresql://a,b:1/d?target_session_attrs=any",
    ):
        kept = Settings(postgres_dsn=f"{dsn}\n").postgres_dsn
        assert kept is not None
        assert kept.get_secret_value() == dsn
    assert Settings(postgres_dsn=SecretStr(DSN)) == Settings(postgres_dsn=DSN)


# --- URLs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///dal.db", "dal.db"),
        ("sqlite:///a/b.db", "a/b.db"),
        ("sqlite:////a/b.db", "/a/b.db"),
        ("SQLite:///dal.db?", "dal.db"),
        ("sqlite:///:memory:", ":memory:"),
        ("sqlite:///a%20b%3Fc%23d%25.db", "a b?c#d%.db"),
        ("sqlite:///Stra%C3%9Fe#1 é.db", "Straße#1 é.db"),
        ("sqlite:///%FF.db", "\udcff.db"),
        ("sqlite:///./~/x", "./~/x"),
    ],
)
def test_a_sqlite_url_has_three_slashes_for_relative_and_four_for_absolute(url: str, path: str) -> None:
    settings = Settings.from_url(url)
    assert (settings.backend, settings.sqlite_path) == ("sqlite", Path(path))


def test_a_postgres_url_is_the_dsn() -> None:
    for url in (DSN, "postgres://u:p%40@a,b/d?sslmode=require"):
        settings = Settings.from_url(url, postgres_pool_max_size=2)
        assert settings.postgres_dsn == SecretStr(url)
        assert (settings.backend, settings.postgres_pool_max_size) == ("postgres", 2)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        *[(url, "a database URL must be sqlite:///relative, sqlite:////absolute, sqlite:///:memory: or postgresql://...")
          for url in ("", "dal.db", "sqlite:", "sqlite://", "sqlite://host/x", "host=h password=hunter2", "hunter2")],
        ("mysql://u:hunter2@h/d", "postgresql://..., not mysql://"),
        ("postgresql+psycopg://u:hunter2@h/d", "postgresql://..., not postgresql+psycopg://"),
        ("POSTGRESQL://u:hunter2@h/d", "postgresql://..., not POSTGRESQL://"),
        ("u:hunter2@mysql://h", "a database URL must be"),
        ("sqlite:///", "names no file; write sqlite:///:memory:"),
        ("sqlite:///?readers=2", "names no file"),
        ("sqlite:///x?reader=2", "option 'reader' is unknown; allowed are synchronous, busy_timeout, tx_timeout, r"),
        ("sqlite:///x?path=y", "option 'path' is unknown"),
        ("sqlite:///x?sqlite_readers=2", "option 'sqlite_readers' is unknown"),
        ("sqlite:///x?password=hunter2", "option 'password' is unknown"),
        ("sqlite:///x?readers=2&readers=3", "option 'readers' is given twice"),
        ("sqlite:///x?readers", "DAL_SQLITE_READERS must be a whole number from 1 to 1000, not ''"),
        ("sqlite:///x?synchronous=off", "off is refused"),
        ("sqlite:///x%00y", "DAL_SQLITE_PATH must be a path"),
    ],
)  # fmt: skip
def test_a_wrong_url_is_refused_with_what_is_allowed(url: str, said: str) -> None:
    message = refusal(lambda: Settings.load(url))
    assert said in message, message
    assert "hunter2" not in message


def test_load_takes_what_a_caller_has() -> None:
    ready = Settings(sqlite_readers=2)
    assert Settings.load(ready) is ready
    assert Settings.load(None, sqlite_readers=2) == ready == Settings.load(sqlite_readers=2)
    assert "not int" in refusal(lambda: Settings.load(5))  # type: ignore[arg-type]
    assert "not PosixPath" in refusal(lambda: Settings.load(Path("x")))  # type: ignore[arg-type]
    assert "takes no overrides" in refusal(lambda: Settings.load(ready, sqlite_readers=3))


# --- peppers ----------------------------------------------------------------------------------------------------------


def test_peppers_are_pairs_or_a_file_of_them_in_the_given_order(tmp_path: Path) -> None:
    other = base64.urlsafe_b64encode(b"\xff" * 16).decode()
    (tmp_path / "p").write_text(f"# made by hand\nz={KEY}\n\na={other}\n")
    for value in (f"z={KEY},a={other}", f" z={KEY}\na={other},", "p", str(tmp_path / "p"), "./p"):
        found = Settings(token_peppers=value).peppers()
        assert list(found.items()) == [("z", bytes(range(32))), ("a", b"\xff" * 16)], value
    assert Settings().peppers() == {}


def test_peppers_print_their_ids_only() -> None:
    settings = Settings(token_peppers=f"p1={KEY}")
    assert f"{settings.peppers()}" == repr(settings.peppers()) == pprint.pformat(settings.peppers()) == "Peppers(p1)"
    assert settings.redacted()["token_peppers"] == "***"
    for text in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert KEY not in text


SHORT = base64.b64encode(b"fifteen bytes..").decode()


@pytest.mark.parametrize(
    "text",
    [
        f"a={KEY},a={KEY}", f"a={KEY},b={SHORT}", f"a={KEY},b=!!!", f"a={KEY},b", f"a={KEY},={KEY}", "a=", f"a={KEY}=",
        "#", f"a={KEY},{'i' * 33}={KEY}", f"a={KEY},é={KEY}", KEY[:30] + "==",
    ],
)  # fmt: skip
def test_damaged_peppers_are_refused_at_load_and_named_by_their_place(text: str) -> None:
    message = refusal(lambda: Settings(token_peppers=text))
    assert re.search(r"in pair [12]$|at least one", message), message
    for part in re.split("[=,]", text):
        assert len(part) < 5 or part not in message
    with pytest.raises(ValueError, match="must"):
        parse_peppers(text)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"a=hunter2"])
def test_a_pepper_file_that_cannot_serve_is_refused_when_it_is_needed(content: bytes | None) -> None:
    if content is not None:
        Path("peppers").write_bytes(content)
    message = refusal(Settings(token_peppers="peppers").peppers)
    assert "DAL_TOKEN_PEPPERS " in message
    assert "hunter2" not in message


def test_a_bare_key_taken_for_a_path_is_not_repeated() -> None:
    message = refusal(Settings(token_peppers="c2VjcmV0" * 40).peppers)
    assert message.endswith("DAL_TOKEN_PEPPERS is neither id=base64 pairs nor a file of them that can be read")


def test_peppers_is_a_dict() -> None:
    assert Peppers(a=b"x") == {"a": b"x"}


# --- secrets show nowhere ---------------------------------------------------------------------------------------------

MARK = "Zq9xW"  # at both ends of every generated password, so that even a part of it is recognised
passwords = st.text(
    st.one_of(
        st.sampled_from("@:/?#&='\"\\%+ \t\n[],;$!*{}<>^|~`"), st.characters(exclude_categories=["Cs"], min_codepoint=1)
    ),
    max_size=20,
).map(lambda middle: f"{MARK}{middle}{MARK}")


def quoted(text: str) -> str:
    """A value of a key=value DSN."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def bare(text: str) -> str:
    """The same without quotes: a backslash before everything special."""
    return re.sub(r"([\s\\'])", r"\\\1", text)


WELL_FORMED: list[Callable[[str], str]] = [
    lambda pw: f"postgresql://dal:{quote(pw, safe='')}@db1:5432,db2/dal?sslmode=require",
    lambda pw: f"postgres://dal@[::1]/dal?password={quote(pw, safe='')}&application_name=x",
    lambda pw: f"postgresql:///dal?host=/run/pg&sslpassword={quote(pw, safe='')}&passfile={quote(pw, safe='')}",
    lambda pw: f"postgresql://h/dal?oauth_client_secret={quote(pw, safe='')}&%70assword={quote(pw, safe='')}",
    lambda pw: f"host=db1,db2 port = 5432 user='d a l' password={quoted(pw)} dbname=dal",
    lambda pw: f"password = {quoted(pw)}\n\thost=db1",
    lambda pw: f"host=db1 password={bare(pw)} passfile={bare(pw)} sslpassword={quoted(pw)}",
    lambda pw: f"dbname={quoted(f'postgresql://u:{pw}@h/d')} host=x",
]
# What people type who forget to encode or to quote; some of these libpq would refuse or read differently.
CARELESS: list[Callable[[str], str]] = [
    lambda pw: f"postgresql://dal:{pw}@db1:5432/dal",
    lambda pw: f"postgresql://dal:{pw}@db1:5432/dal?user=a@b",
    lambda pw: f"postgresql://dal:{pw}",
    lambda pw: f"postgresql://dal:{pw}/db",
    lambda pw: f"postgresql://h/dal?password={pw}",
    lambda pw: f"postgresql://h?password={pw}",
    lambda pw: f"postgresql://h/dal&password={pw}",
    lambda pw: f"postgresql://h&password={pw}",
    lambda pw: f"postgresql://password={pw}",
    lambda pw: f"postgresql://h/dal?sslmode=require;password={pw}",
    lambda pw: f"host=h password={pw}",
    lambda pw: f"host=h password='{pw}' user=x",
    lambda pw: f"host=h pasword={pw}",
    lambda pw: f"host=h password={pw}' user=x",
    lambda pw: f"postgresql+psycopg://dal:{pw}@db1/dal",
    lambda pw: f"POSTGRES://dal:{pw}@db1/dal",
]


def everything_raised(make: Callable[[], object]) -> Iterator[str]:
    """All that a caller, a log or an error tracker could print of an error: its texts, its chain, its traceback."""
    try:
        made = make()
    except Exception as error:
        chain: list[BaseException] = []
        following: BaseException | None = error
        while following is not None:
            chain.append(following)
            following = following.__cause__ or following.__context__
        for link in chain:
            yield from (str(link), repr(link), repr(link.args), repr(vars(link)))
            for frame, _ in traceback.walk_tb(link.__traceback__):
                if "pydantic" in frame.f_code.co_filename:
                    yield repr(frame.f_locals)
        yield "".join(traceback.format_exception(error))
    else:
        yield repr(made)


def everything_shown(dsn: str) -> Iterator[str]:
    yield redact_dsn(dsn)
    for make in (
        lambda: Settings(postgres_dsn=dsn),
        lambda: Settings(backend="postgres", postgres_dsn=dsn, postgres_pool_min_size=0),
        lambda: Settings(backend=dsn, sqlite_path=dsn, sqlite_readers=dsn, sql_dir=f"{dsn}://", postgres_deadline=dsn),
        lambda: Settings(**{dsn: dsn}),
        lambda: Settings.load(dsn),
        lambda: Settings.load(dsn, postgres_pool_min_size=0),
    ):
        yield from everything_raised(make)
    try:
        settings = Settings(postgres_dsn=dsn)
    except Invalid:
        return
    yield from (repr(settings), str(settings), f"{settings}", pprint.pformat(settings), json.dumps(settings.redacted()))
    yield from (settings.model_dump_json(), repr(settings.model_dump()), repr(vars(settings)))
    yield from (repr(settings.postgres_dsn), repr(list(settings)), str(settings.redacted()))
    yield from everything_raised(lambda: setattr(settings, "postgres_dsn", dsn))
    yield repr(settings.model_copy(update={"postgres_dsn": dsn}))


@settings(deadline=None)
@given(password=passwords, form=st.sampled_from(WELL_FORMED))
def test_no_part_of_a_password_ever_shows(password: str, form: Callable[[str], str]) -> None:
    for text in everything_shown(form(password)):
        assert MARK not in text, text


@settings(deadline=None)
@given(password=passwords, form=st.sampled_from(CARELESS))
@example(password=f"{MARK}@h:1/zz?user=abc{MARK}", form=CARELESS[0])
@example(password=f"{MARK}/a{MARK}", form=CARELESS[0])
@example(password=f"{MARK}@y{MARK}", form=CARELESS[5])
def test_a_carelessly_written_password_does_not_show_either(password: str, form: Callable[[str], str]) -> None:
    encodings = (password, repr(password)[1:-1], quote(password), json.dumps(password)[1:-1])
    for text in everything_shown(form(password)):
        for encoded in encodings:
            assert encoded not in text, text


@settings(deadline=None)
@given(password=passwords)
def test_a_password_from_the_environment_or_a_file_is_in_no_frame(password: str) -> None:
    dsn = WELL_FORMED[0](password)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAL_POSTGRES_DSN", dsn)
        patch.setenv("DAL_SQLITE_READERS", "0")
        Path("dal.yaml").write_text(yaml.safe_dump({"postgres_dsn": dsn, "token_peppers": f"a={password}"}))
        with pytest.raises(Invalid) as caught:
            Settings()
    frames = [
        frame for frame, _ in traceback.walk_tb(caught.value.__traceback__) if frame.f_code.co_filename != __file__
    ]
    assert frames, "the error does not come from dal/settings.py"
    assert MARK not in "".join([str(caught.value), *(repr(frame.f_locals) for frame in frames)])


PIECES = [
    *(
        "postgresql://",
        "postgres://",
        "u",
        ":sEcReT",
        "sEcReT",
        "@",
        "h",
        ":5432",
        "[::1]",
        ",",
        "/",
        "db",
        "?",
        "&",
        "%40",
    ),
    *("password=", "sslpassword=", "user=", "dbname=", "options=", "host", "=", "'", "\\", " ", "\n", "#", "%"),
]


@settings(deadline=None, max_examples=500)
@given(parts=st.lists(st.sampled_from(PIECES), max_size=12))
def test_what_libpq_takes_for_a_password_is_not_shown_and_the_rest_is_kept(parts: list[str]) -> None:
    dsn = "".join(parts)
    try:
        read = conninfo_to_dict(dsn)
    except (ProgrammingError, UnicodeDecodeError):
        return
    shown = redact_dsn(dsn)
    if shown != "postgresql://***":
        kept = conninfo_to_dict(shown)
        assert kept.keys() == read.keys(), shown
        assert all(kept[name] in ("***", read[name]) for name in read), shown
    if "sEcReT" in f"{read.pop('password', '')}{read.pop('sslpassword', '')}" and "sEcReT" not in str(read):
        assert "sEcReT" not in shown


@settings(deadline=None)
@given(text=st.text())
def test_redaction_takes_any_text(text: str) -> None:
    for dsn in (text, f"postgresql://{text}", f"host={text}"):
        assert isinstance(redact_dsn(dsn), str)


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://u:p@h:5432/db?sslmode=require", "postgresql://u:***@h:5432/db?sslmode=require"),
        ("postgres://u@a:1,b:2/db?password=p&user=x", "postgres://u@a:1,b:2/db?password=***&user=x"),
        ("postgresql://u:@h", "postgresql://u:***@h"),
        ("postgresql://:p@h", "postgresql://:***@h"),
        ("postgresql://", "postgresql://"),
        ("postgresql:///db?host=/run/pg&port=1", "postgresql:///db?host=/run/pg&port=1"),
        ("postgresql://%2Frun%2Fpg/db", "postgresql://%2Frun%2Fpg/db"),
        ("postgresql://u:p?w@[fe80::1%25eth0]:1/db", "postgresql://u:***@[fe80::1%25eth0]:1/db"),
        (
            "postgresql://h/d?options=-c%20search_path%3Dx&ssl=true",
            "postgresql://h/d?options=-c%20search_path%3Dx&ssl=true",
        ),
        ("host=h password=p dbname='a b'", "host=h password=*** dbname='a b'"),
        (r"host=h password='it\'s \\ me' user=x", "host=h password=*** user=x"),
        (r"host=h password=it\ is user=x", "host=h password=*** user=x"),
        ("host = h  port=\n5432", "host=h port=5432"),
        ("host=h password='open", "postgresql://***"),
        ("host=h passwd=p", "postgresql://***"),
        ("postgresql://u:p@w@h/d", "postgresql://***"),
        ("postgresql://u:p/w@h/d", "postgresql://***"),
        ("postgresql://u:secret/d", "postgresql://***"),
        ("postgresql://h/d?password=a&b=c", "postgresql://***"),
        ("mysql://u:p@h", "postgresql://***"),
        ("", "postgresql://***"),
    ],
)
def test_a_dsn_is_shown_without_its_password(dsn: str, shown: str) -> None:
    assert redact_dsn(dsn) == shown


# --- the document -----------------------------------------------------------------------------------------------------

ROW = re.compile(r"^\| `(\w+)` \| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def blocks(language: str) -> list[tuple[str, str]]:
    """The fenced blocks in a language, each with the line above it."""
    pieces = re.split(r"^```(\w*)$", DOCUMENT, flags=re.MULTILINE)
    assert len(pieces) % 4 == 1, "a fence is open"
    return [
        (pieces[at - 1].rstrip("\n").rsplit("\n", 1)[-1], pieces[at + 1])
        for at in range(1, len(pieces), 4)
        if pieces[at] == language
    ]


def test_the_document_lists_every_setting_with_its_default_and_description() -> None:
    rows = ROW.findall(DOCUMENT)
    assert [row[0] for row in rows] == list(Settings.model_fields)
    for name, variable, default, description, _ in rows:
        field = Settings.model_fields[name]
        assert variable == f"DAL_{name.upper()}"
        assert description == field.description, name
        if default.startswith("`"):
            assert getattr(Settings(**{name: default.strip("`")}), name) == getattr(Settings(), name), name
        elif default == "unset":
            assert getattr(Settings(), name) is None, name
        else:
            assert field.default_factory is not None, name


def test_the_computed_defaults_are_those_of_the_document() -> None:
    assert "With the defaults the deadline is 35 s and 200 callers may wait." in DOCUMENT
    assert (Settings().postgres_deadline, Settings().postgres_pool_max_waiting) == (35.0, 200)


def test_the_yaml_example_of_the_document_loads() -> None:
    [(_, text)] = blocks("yaml")
    Path("dal.yaml").write_text(text)
    settings = Settings()
    assert settings.backend == "postgres"
    assert set(yaml.safe_load(text)) == settings.model_fields_set


def test_the_commands_of_the_document_run() -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    commands = [text for above, text in blocks("sh") if not above.startswith("<!-- not in tests: ")]
    assert len(commands) == 2
    for command in commands:
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(["sh", "-ec", command], env=environment, capture_output=True, text=True, check=True)
        assert re.match(r"backend='sqlite'|p[0-9a-f]{8}=", done.stdout), done

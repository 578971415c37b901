"""Settings: which database, and within which limits.

Sources, the first that knows a setting wins: keyword arguments, ``DAL_*`` environment variables, a YAML file (the one
``DAL_CONFIG`` names, or ``dal.yaml`` in the working directory), defaults. Nothing here opens, makes or connects to
anything: directories and files are the engine's affair. docs/configuration.md holds the same table with advice.

No text that leaves this module holds a password or a pepper. Errors are therefore raised outside the ``except`` block
that noticed them: an exception kept as ``__context__`` would carry the raw input along.
"""

from __future__ import annotations

import base64
import logging
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import parse_qsl, unquote, unquote_plus

import yaml
from pydantic import BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from dal.errors import Invalid

log = logging.getLogger(__name__)

UNITS: Final = {"ms": 0.001, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
LONGEST: Final = 2_147_483.0  # both databases count a timeout in milliseconds, in 32 bits
SECRETS: Final = frozenset({"postgres_dsn", "token_peppers"})
URLS: Final = "sqlite:///relative, sqlite:////absolute, sqlite:///:memory: or postgresql://..."


# --- one value, checked: each takes what a source gave and raises ValueError with what is allowed ---------------------


def _words(*allowed: str, refused: str = "") -> BeforeValidator:
    """One of a few words, in any case."""

    def check(value: object) -> str:
        word = value.strip().lower() if isinstance(value, str) else None
        if word not in allowed:
            raise ValueError(f"must be {', '.join(allowed[:-1])} or {allowed[-1]}{refused}")
        return word

    return BeforeValidator(check)


def _whole(low: int, high: int) -> BeforeValidator:
    """A whole number; pydantic alone would take True, 4.0 and "4.0" too."""

    def check(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,9}\s*", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return BeforeValidator(check)


def _duration(shortest: float, because: str = "") -> BeforeValidator:
    """Seconds as a number, or text with a unit."""

    def check(value: object) -> float:
        seconds: float | int | None = None
        if isinstance(value, str):
            found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", value.lower())
            if found and found[2] in {"", *UNITS}:
                seconds = float(found[1]) * UNITS.get(found[2], 1.0)
        elif isinstance(value, timedelta):
            seconds = value.total_seconds()
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            seconds = value
        if seconds is None or not shortest <= seconds <= LONGEST:  # refuses NaN as well
            allowed = f"at least {_span(shortest)}{because} and at most 24 days"
            raise ValueError(f"must be {allowed}, in seconds or written as 500ms, 5s, 30 min, 2h, 1d")
        return float(seconds)

    return BeforeValidator(check)


def _path(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, (str, Path)) or not str(value).strip() or "\0" in str(value) or "://" in str(value):
        raise ValueError("must be a path, not a URL and not empty")
    path = os.path.expanduser(value)
    # A container's user may have no home; the SQLite default must not stop it from using PostgreSQL.
    if str(path).startswith("~") and info.data.get("backend") != "postgres":
        raise ValueError("must name a home directory that exists, or be an absolute path")
    return Path(path)


def _optional_path(value: object, info: ValidationInfo) -> Path | None:
    return None if value is None else _path(value, info)


def _at_least_min(value: int, info: ValidationInfo) -> int:
    if value < (least := info.data.get("postgres_pool_min_size", 1)):
        raise ValueError(f"must be at least DAL_POSTGRES_POOL_MIN_SIZE ({least})")
    return value


def _longer_than_statements(value: float, info: ValidationInfo) -> float:
    if value <= (least := info.data.get("postgres_statement_timeout", 0)):
        raise ValueError(f"must be longer than DAL_POSTGRES_STATEMENT_TIMEOUT ({_span(least)})")
    return value


def _text_of(value: object) -> str | None:
    """The text of a str or SecretStr, without the newline that a secret read from a file ends in."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    return text.strip("\r\n") if isinstance(text, str) else None


def _dsn(value: object, info: ValidationInfo) -> SecretStr | None:
    """Only what can be told without a driver; the engine refuses the rest."""
    if value is None:
        if info.data.get("backend") == "postgres":
            raise ValueError("is required when DAL_BACKEND is postgres")
        return None
    text = _text_of(value)
    if text is None or "\0" in text or not re.match(r"postgres(ql)?://|\s*[a-z_]+\s*=", text):
        raise ValueError("must start with postgresql:// or postgres://, or be key=value pairs")
    return SecretStr(text)


def _pepper_text(value: object) -> SecretStr | None:
    if value is None:
        return None
    text = _text_of(value)
    if text is None or not text.strip():
        raise ValueError("must be id=base64 pairs separated by commas, or the path of a file of them")
    if _PAIR.match(text):
        parse_peppers(text)
    return SecretStr(text)


Backend = Annotated[Literal["sqlite", "postgres"], _words("sqlite", "postgres")]
Pooler = Annotated[Literal["none", "pgbouncer"], _words("none", "pgbouncer")]
Synchronous = Annotated[
    Literal["full", "normal", "extra"],
    _words("full", "normal", "extra", refused=" (off is refused: a power cut would corrupt the database)"),
]
Count = Annotated[int, _whole(1, 1000)]
Seconds = Annotated[float, _duration(0.001)]
WholeSeconds = Annotated[float, _duration(1, " (libpq counts whole seconds)")]
FilePath = Annotated[Path, BeforeValidator(_path)]


# --- the settings -----------------------------------------------------------------------------------------------------


class Settings(BaseSettings):
    """What `connect` needs to know. Immutable; prints itself without secrets; a wrong value is `Invalid`.

    Durations are given as seconds or as text such as ``500ms``, ``5s``, ``30 min``, and kept as seconds.
    """

    model_config = SettingsConfigDict(
        env_prefix="DAL_", env_ignore_empty=True, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    # A rule that compares two settings stands at the later one: pydantic checks fields in this order.
    backend: Backend = Field("sqlite", description="The database of all stores: `sqlite` or `postgres`, in any case.")
    sqlite_path: FilePath = Field(
        Path("~/.dal/dal.db"),
        description="The SQLite file, on a local disk; made on connecting; `:memory:` is private and deleted at close.",
    )
    sqlite_synchronous: Synchronous = Field(
        "full", description="When SQLite waits for the disk: `full`, `normal` or `extra`; `off` is refused."
    )
    sqlite_busy_timeout: Seconds = Field(
        10.0, description="How long a statement waits for another process that writes; more than 0."
    )
    sqlite_tx_timeout: Seconds = Field(
        5.0, description="How long an interactive transaction may last before it is rolled back; more than 0."
    )
    sqlite_readers: Count = Field(4, description="Connections that read while another writes; 1 to 1000.")
    sqlite_max_waiting: Annotated[int, _whole(1, 1_000_000)] = Field(
        10_000, description="Callers that may wait for their turn to write, the next one is `Overloaded`; 1 to 1000000."
    )
    postgres_dsn: Annotated[SecretStr | None, BeforeValidator(_dsn)] = Field(
        None,
        description="Where PostgreSQL is: a URL or key=value pairs; required when the backend is `postgres`; secret.",
    )
    postgres_pool_min_size: Count = Field(1, description="Connections kept open when idle; 1 to 1000.")
    postgres_pool_max_size: Annotated[int, BeforeValidator(_at_least_min), _whole(1, 1000)] = Field(
        10, description="Connections open at most, in one process; from the minimum size to 1000."
    )
    postgres_pool_timeout: Seconds = Field(
        5.0, description="How long a caller waits for a connection before `Overloaded`; more than 0."
    )
    postgres_pool_max_waiting: Annotated[int, _whole(1, 1_000_000)] = Field(
        default_factory=lambda data: 20 * int(data["postgres_pool_max_size"]),
        description="Callers that may wait for a connection, the next one is `Overloaded` at once; 1 to 1000000.",
    )
    postgres_pool_max_idle: Seconds = Field(
        300.0, description="How long a connection above the minimum size may be idle before it is closed; more than 0."
    )
    postgres_pool_max_lifetime: Seconds = Field(
        1800.0, description="The age at which a connection is replaced; more than 0."
    )
    postgres_connect_timeout: WholeSeconds = Field(
        5.0, description="How long one attempt to connect may take, for each address; at least 1 s."
    )
    postgres_statement_timeout: Seconds = Field(
        30.0, description="How long the server works on one statement before it gives up; more than 0."
    )
    postgres_lock_timeout: Seconds = Field(
        5.0, description="How long a statement waits for a lock that another session holds; more than 0."
    )
    postgres_deadline: Annotated[float, BeforeValidator(_longer_than_statements), _duration(0.001)] = Field(
        default_factory=lambda data: 5.0 + float(data["postgres_statement_timeout"]),
        description="How long the client waits for a whole unit of work; more than the statement timeout.",
    )
    postgres_pooler: Pooler = Field(
        "none", description="What stands between us and the server: `none` or `pgbouncer`, in any case."
    )
    sql_dir: Annotated[Path | None, BeforeValidator(_optional_path)] = Field(
        None, description="A directory of query files that override the packaged ones."
    )
    token_peppers: Annotated[SecretStr | None, BeforeValidator(_pepper_text)] = Field(
        None,
        description="Keys of token hashes, the current one first: id=base64 of 16 bytes or more, separated by commas, "
        "or a file of them; secret.",
    )

    def __init__(self, **values: Any) -> None:  # Any: a value of any type is answered with Invalid
        _warn_of_misspelt_variables()
        refusal: Invalid | None = None
        try:
            super().__init__(**values)
        except ValidationError as error:
            refusal = _refusal(error.errors(include_url=False), values)
        if refusal:
            raise refusal

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, InitSettingsSource(settings_cls, _read_yaml(_yaml_file()))

    @classmethod
    def from_url(cls, url: str, **overrides: Any) -> Self:  # Any: as in __init__
        """Settings for the database at url; overrides, then the url, win over every other source.

        url: ``sqlite:///relative``, ``sqlite:////absolute`` (percent-decoded; ``?readers=2`` sets DAL_SQLITE_READERS),
        ``sqlite:///:memory:``, or a PostgreSQL URL, which is kept as it stands.
        """
        if re.match(r"postgres(ql)?://", url):
            return cls(**{"backend": "postgres", "postgres_dsn": url, **overrides})
        scheme, _, place = url.partition("://")
        if scheme.lower() != "sqlite" or not place.startswith("/"):
            # A scheme is the one part of a refused URL that surely holds no secret.
            known = f", not {scheme}://" if place and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme) else ""
            raise Invalid(f"a database URL must be {URLS}{known}", path="url")
        place, _, query = place[1:].partition("?")
        if not place:
            raise Invalid("names no file; write sqlite:///:memory: for a private database", path="url")
        # A file name is bytes to the system: what is not UTF-8 travels as surrogates, as in os.fsdecode.
        path = unquote(place, errors="surrogateescape")
        return cls(**{"backend": "sqlite", "sqlite_path": path, **_sqlite_options(query), **overrides})

    @classmethod
    def load(cls, url_or_settings: str | Settings | None = None, **overrides: Any) -> Settings:  # Any: as in __init__
        """Settings from whatever a caller has: a URL over the other sources, settings as they are, or None."""
        if url_or_settings is None:
            return cls(**overrides)
        if isinstance(url_or_settings, str):
            return cls.from_url(url_or_settings, **overrides)
        if not isinstance(url_or_settings, Settings):
            raise Invalid(f"must be a URL, Settings or None, not {type(url_or_settings).__name__}", path="settings")
        if overrides:
            raise Invalid("a Settings object takes no overrides", path=next(iter(overrides)))
        return url_or_settings

    def peppers(self) -> Peppers:
        """The token keys by id, the current one first; empty when none are set. Reads the file if one is named."""
        try:
            return _peppers(self.token_peppers) if self.token_peppers else Peppers()
        except ValueError as error:
            problem = str(error)
        raise Invalid(f"DAL_TOKEN_PEPPERS {problem}")

    def redacted(self) -> dict[str, object]:
        """Every setting, fit for a log or JSON: the DSN without its password, the peppers as ``***``."""
        shown: dict[str, object] = {}
        for name, value in vars(self).items():  # none yet, where a debugger asks in the middle of __init__
            if name in SECRETS and value is not None:
                value = redact_dsn(_text_of(value) or "") if name == "postgres_dsn" else "***"
            shown[name] = str(value) if isinstance(value, Path) else value
        return shown

    def __setattr__(self, name: str, value: object) -> None:
        # Pydantic's refusal shows the value even with hide_input_in_errors.
        raise Invalid("settings are immutable; make new ones", path=name)

    def __repr_args__(self) -> Iterable[tuple[str, object]]:
        return self.redacted().items()  # pydantic's repr and str, and rich's, are made of this


# --- where values come from -------------------------------------------------------------------------------------------


def _yaml_file() -> Path | None:
    named = os.environ.get("DAL_CONFIG")
    if named:
        return Path(os.path.expanduser(named))
    return Path("dal.yaml") if os.path.isfile("dal.yaml") else None


def _read_yaml(path: Path | None) -> dict[str, Any]:  # Any: InitSettingsSource asks for it
    """The settings in a YAML file; a key without a value is as good as absent."""
    if path is None:
        return {}
    found: object = None
    problem = ""
    try:
        found = yaml.safe_load(path.read_text("utf-8-sig"))
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except yaml.MarkedYAMLError as error:  # its own text quotes the line, and with it perhaps a password
        place = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        tag = isinstance(error, yaml.constructor.ConstructorError)
        problem = f"holds a tag or a value that is not allowed{place}" if tag else f"is not valid YAML{place}"
    except Exception:  # safe_load lets out whatever int(), datetime() and the like say to a scalar
        problem = "is not valid YAML in UTF-8"
    if not problem and not (found is None or (isinstance(found, dict) and all(isinstance(key, str) for key in found))):
        problem = "must hold settings, one `name: value` a line"
    if problem:
        raise Invalid(f"configuration file {_shown(str(path))} {problem}")
    return {key: value for key, value in found.items() if value is not None} if isinstance(found, dict) else {}


def _warn_of_misspelt_variables() -> None:
    known = {"DAL_CONFIG", *(_variable(name) for name in Settings.model_fields)}
    for name in sorted({name.upper() for name in os.environ} - known):
        if name.startswith("DAL_") and not name.startswith("DAL_TEST_"):
            for near in get_close_matches(name, known, n=1, cutoff=0.8):
                log.warning("environment variable %s is not a setting and is ignored; did you mean %s?", name, near)


def _variable(name: str) -> str:
    return f"DAL_{name.upper()}"


def _sqlite_options(query: str) -> dict[str, str]:
    """``?readers=2`` as settings: the names of the SQLite settings without their prefix, the path excepted."""
    allowed = [name[7:] for name in Settings.model_fields if name.startswith("sqlite_") and name != "sqlite_path"]
    options: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in allowed or f"sqlite_{key}" in options:
            problem = "is given twice" if key in allowed else f"is unknown; allowed are {', '.join(allowed)}"
            raise Invalid(f"option {_shown(key)} {problem}", path="url")
        options[f"sqlite_{key}"] = value
    return options


# --- what a refusal says ----------------------------------------------------------------------------------------------


def _refusal(wrong: list[ErrorDetails], arguments: dict[str, Any]) -> Invalid:  # Any: as in Settings.__init__
    """One error for all wrong settings of a load: for each its variable, what is allowed, the value unless secret."""
    file = _yaml_file()
    in_file = _read_yaml(file)
    lines: dict[str, str] = {}
    for error in wrong:
        name = str(error["loc"][0])
        given = name in arguments or bool(os.environ.get(_variable(name)))
        place = f" in {file}" if name in in_file and not given else ""
        if error["type"] == "extra_forbidden":
            near = get_close_matches(name.lower().removeprefix("dal_"), Settings.model_fields, n=1)
            lines[name if name.isidentifier() else _shown(name)] = (
                f"unknown setting {_shown(name)}{place}{f'; did you mean {near[0]}?' if near else ''}"
            )
        elif error["type"] != "default_factory_not_called":  # that one only follows from another of the list
            reason = error.get("ctx", {}).get("error", error["msg"])
            default = "" if given or place else " (the default)"
            value = "" if name in SECRETS else f", not {_shown(error['input'])}{default}"
            lines[_variable(name)] = f"{_variable(name)}{place} {reason}{value}"
    several = f"{len(lines)} settings are wrong:\n  " if len(lines) > 1 else ""
    refusal = Invalid(several + "\n  ".join(lines.values()))
    refusal.path = next(iter(lines)) if len(lines) == 1 else None  # not as an argument: the message names it already
    return refusal


def _shown(value: object) -> str:
    """A wrong value, short; a DSN that strayed into another setting stays hidden."""
    if isinstance(value, str) and re.search(r"://|[=@]", value):
        return "a value that looks like a DSN"
    if isinstance(value, (str, float, Path)) or (isinstance(value, int) and value.bit_length() <= 64):
        text = repr(str(value) if isinstance(value, Path) else value)
        return text if len(text) <= 200 else f"{text[:200]}..."
    return (
        "None" if value is None else f"a value of type {type(value).__name__}"
    )  # the repr of a YAML alias bomb fills the memory


def _span(seconds: float) -> str:
    return f"{seconds * 1000:g} ms" if seconds < 1 else f"{seconds:g} s"


# --- secrets ----------------------------------------------------------------------------------------------------------

_PAIR: Final = re.compile(r"\s*(?:#|[A-Za-z0-9_.-]{1,32}=)")


class Peppers(dict[str, bytes]):
    """Token keys by id, the current one first; shows its ids only."""

    def __repr__(self) -> str:
        return f"Peppers({', '.join(self)})"


def parse_peppers(text: str) -> Peppers:
    """``id=base64`` pairs separated by commas or newlines; a line that starts with # is a comment.

    Raises ValueError, which names a pair by its place: in a damaged text even what stands for an id may be a secret.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    found = Peppers()
    for number, pair in enumerate([pair.strip() for line in lines for pair in line.split(",") if pair.strip()], 1):
        name, _, encoded = pair.partition("=")
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,32}", name) or name in found:
            raise ValueError(f"must have an id of its own, 1 to 32 letters, digits, _ . or -, in pair {number}")
        key = b""
        with suppress(ValueError):
            key = base64.b64decode(encoded.replace("-", "+").replace("_", "/"), validate=True)
        if len(key) < 16:
            raise ValueError(f"must have base64 of at least 16 bytes in pair {number}")
        found[name] = key
    if not found:
        raise ValueError("must hold at least one id=base64 pair")
    return found


def _peppers(secret: SecretStr) -> Peppers:
    text = secret.get_secret_value()
    if not _PAIR.match(text):
        try:
            text = Path(os.path.expanduser(text)).read_text("utf-8")
        except (OSError, ValueError):
            text = ""
        if not text:
            raise ValueError("is neither id=base64 pairs nor a file of them that can be read")
    return parse_peppers(text)


_MASKED: Final = re.compile(r".*pass.*|sslkeylogfile|.*secret|scram_.*_key")
_KNOWN: Final = re.compile(  # to show the name or value of any other would show the rest of a password with & or space
    r"host(addr)?|port|dbname|user|password|passfile|options|service|servicefile|replication|application_name"
    r"|fallback_application_name|client_encoding|channel_binding|connect_timeout|target_session_attrs"
    r"|load_balance_hosts|tcp_user_timeout|(min|max)_protocol_version|require(ssl|peer|_auth)"
    r"|(ssl|gss|krb|keepalives|oauth_|scram_)[a-z_]*"
)
# Stricter than libpq where that is safer: at most one @, a port of digits, no & or = outside the query. A password with
# a raw @ or /, or with its @ forgotten, makes a URL that does not match, and then nothing of it is shown.
_HOST: Final = r"(?:\[[\w:.%]*\]|[\w.%~-]*)(?::[0-9]{0,5})?"
_URL: Final = re.compile(
    rf"(?P<scheme>postgres(?:ql)?://)(?:(?P<user>[^:@/?&=]*)(?P<password>:[^@/]*)?@)?(?P<hosts>{_HOST}(?:,{_HOST})*)"
    r"(?P<dbname>/[^?@&=]*)?(?:\?(?P<query>[^@]*))?",
    re.DOTALL,
)
_KEY_VALUE: Final = re.compile(
    r"\s*([a-z_]+)\s*=\s*('(?:[^'\\]|\\.)*'(?=\s|\Z)|(?!')(?:[^\s\\]|\\.)*)", re.DOTALL | re.ASCII
)


def where(settings: Settings) -> str:
    """The database that settings name, fit to be printed and kept."""
    if settings.postgres_dsn is not None and settings.backend == "postgres":
        return redact_dsn(settings.postgres_dsn.get_secret_value())
    return f"SQLite file {settings.sqlite_path}"


def redact_dsn(dsn: str) -> str:
    """A DSN fit to be printed: every password in it is ``***``, and all of it where it is not plainly a DSN."""
    shown = _redacted_url(dsn) if re.match(r"postgres(ql)?://", dsn) else _redacted_pairs(dsn)
    return "postgresql://***" if shown is None else shown


def _redacted_url(dsn: str) -> str | None:
    found = _URL.fullmatch(dsn)
    if not found:
        return None
    user, hosts, dbname = found["user"], found["hosts"], found["dbname"] or ""
    pairs = [pair.partition("=") for pair in found["query"].split("&")] if found["query"] else []
    if any(not _KNOWN.fullmatch(key) or not equals for key, equals, _ in pairs):
        return None
    query = "&".join(f"{key}={_kept(key, value, unquote_plus(value))}" for key, _, value in pairs)
    credentials = "" if user is None else f"{user}:***@" if found["password"] else f"{user}@"
    return f"{found['scheme']}{credentials}{hosts}{dbname}{'?' if query else ''}{query}"


def _redacted_pairs(dsn: str) -> str | None:
    text, shown, at = dsn.rstrip(), [], 0
    while at < len(text):
        found = _KEY_VALUE.match(text, at)
        if not found or not _KNOWN.fullmatch(found[1]):
            return None
        shown.append(f"{found[1]}={_kept(found[1], found[2], found[2])}")
        at = found.end()
    return " ".join(shown) or None


def _kept(key: str, value: str, decoded: str) -> str:
    """The value as written, unless it is secret or a whole URL, such as dbname=postgresql://user:password@host."""
    return "***" if _MASKED.fullmatch(key) or "://" in decoded or "password" in decoded else value

"""``dal doctor``: whether a database is whole, and whether it is set up as this library counts on. Changes no data."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from msgspec import Struct

from dal.core.schema import Schema, ServerFacts
from dal.dal import open_schema
from dal.errors import DalError
from dal.settings import Settings, redact_dsn
from dal.transfer import moving

Verdict = Literal["ok", "warn", "fail"]

MIB = 2**20
GIB = 2**30
WAL_LIMIT = 64 * MIB  # what journal_size_limit brings it back to
SKEW = timedelta(seconds=1)
LONG = timedelta(minutes=5)
REMOTE = re.compile(r"nfs.*|cifs|smb.*|9p|afs|ceph|glusterfs|lustre|vboxsf|virtiofs|fuse\..*")


class Check(Struct, frozen=True):
    """One thing looked at. words: what was found, and what to do about it unless it is ok."""

    name: str
    verdict: Verdict
    words: str


def examine(settings: Settings) -> list[Check]:
    """Look at everything; what cannot be reached is a check that failed, not an error."""
    checks = [_settings(settings)]
    if settings.backend == "sqlite":
        path = settings.sqlite_path
        try:
            if not path.exists():
                return [*checks, Check("file", "ok", f"{path} is not there yet; connecting makes it")]
            checks += [_modes(path), _file_system(path), _disk(path), _wal(path)]
        except OSError as error:
            return [*checks, Check("file", "fail", f"{path}: {error.strerror}")]
    try:
        with open_schema(settings) as schema:
            asked = datetime.now(UTC)
            facts = schema.facts()
            answered = datetime.now(UTC)
            if settings.backend == "sqlite":
                checks += [_library(facts.version), _storage(facts)]
            else:
                checks += judge_server(settings, facts, schema.session_pid, asked, answered)
            checks += [*_attempt("schema", lambda: _schema(schema)), *_attempt("damage", lambda: _damage(schema))]
        if any(check.name == "schema" and check.verdict == "ok" for check in checks):
            checks += _attempt("fence", lambda: _fence(settings))
    except DalError as error:
        checks.append(Check("connection", "fail", str(error)))
    return checks


def _attempt(name: str, look: Callable[[], Check]) -> Iterator[Check]:
    try:
        yield look()
    except DalError as error:
        yield Check(name, "fail", str(error))


# --- on both ----------------------------------------------------------------------------------------------------------


def _settings(settings: Settings) -> Check:
    """Which database, and which sources of settings there are besides the command line, which wins over them."""
    if settings.backend == "postgres" and settings.postgres_dsn is not None:
        place = redact_dsn(settings.postgres_dsn.get_secret_value())
    else:
        place = f"SQLite at {settings.sqlite_path}"
    named = sorted(name for name in map(_variable, Settings.model_fields) if os.environ.get(name))
    file = os.environ.get("DAL_CONFIG") or ("dal.yaml" if Path("dal.yaml").is_file() else None)
    sources = [*named, *([f"the file {file}"] if file else [])]
    return Check("settings", "ok", f"{place}; settings come from {', '.join(sources) or 'defaults'}")


def _variable(name: str) -> str:
    return f"DAL_{name.upper()}"


def _schema(schema: Schema) -> Check:
    status = schema.status()
    if status.pending:
        return Check("schema", "fail", f"migration {status.version} of {status.latest}; run 'dal schema apply'")
    return Check("schema", "ok", f"migration {status.version} of {status.latest}; 'dal schema verify' looks closer")


def _damage(schema: Schema) -> Check:
    found = schema.damage()
    if found:
        shown = "; ".join(f"{damage.kind} {damage.place} {damage.words}" for damage in found[:5])
        return Check("damage", "fail", shown + (f"; and {len(found) - 5} more" if len(found) > 5 else ""))
    return Check("damage", "ok", "none that the database knows of")


def _fence(settings: Settings) -> Check:
    standing, loading = moving.standing(settings)
    if loading is not None:
        words = f"transfer {loading.id} from {loading.source} has not finished loading it; give the same command again"
        return Check("fence", "fail", words)
    if standing.is_fenced:
        return Check("fence", "warn", f"it takes no writes: {standing.reason}; 'dal fence off' takes the fence down")
    return Check("fence", "ok", "it takes writes")


# --- SQLite -----------------------------------------------------------------------------------------------------------


def _modes(path: Path) -> Check:
    file, folder = (stat.S_IMODE(place.stat().st_mode) for place in (path, path.absolute().parent))
    wrong = []
    if file & 0o077:
        wrong.append(f"others may open the file ({file:04o}): chmod 600 {path}")
    if folder & 0o022 and not folder & stat.S_ISVTX:
        wrong.append(f"others may put files beside it ({folder:04o}): chmod 700 {path.absolute().parent}")
    return Check("access", "warn" if wrong else "ok", "; ".join(wrong) or f"file {file:04o}, directory {folder:04o}")


def _file_system(path: Path) -> Check:
    kind = file_system(path)
    if kind is None:
        return Check("file system", "ok", "unknown here; SQLite needs a local disk")
    if REMOTE.fullmatch(kind):
        return Check("file system", "warn", f"{kind} looks like a network's or a host's; SQLite needs a local disk")
    return Check("file system", "ok", kind)


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The type of the file system that holds a path; None where the system does not say, as on macOS."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return None
    place, best, kind = path.resolve(), -1, None
    for line in lines:  # … mount point, options, …, "-", type, …; the last one mounted on a point counts
        before, _, after = line.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4]))
        if place.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split()[0]
    return kind


def _disk(path: Path) -> Check:
    free = shutil.disk_usage(path.absolute().parent).free
    words = f"{_size(free)} free, the file has {_size(path.stat().st_size)}"
    return Check("disk", "fail" if free < 64 * MIB else "warn" if free < GIB else "ok", words)


def _wal(path: Path) -> Check:
    log = Path(f"{path}-wal")
    size = log.stat().st_size if log.exists() else 0
    if size > WAL_LIMIT:
        words = f"{_size(size)}: something has been reading for long, so it cannot be folded into the file"
        return Check("write-ahead log", "warn", words)
    return Check("write-ahead log", "ok", _size(size))


def _library(version: str) -> Check:
    if resets_wal(version):
        words = (
            f"SQLite {version} has the WAL-reset bug: processes of ours keep clear of it, but another program that "
            "writes to the file, or checkpoints it, can damage it; use 3.51.3 or newer, 3.50.7 or 3.44.6"
        )
        return Check("library", "warn", words)
    return Check("library", "ok", f"SQLite {version}")


def resets_wal(version: str) -> bool:
    """Whether this SQLite has the WAL-reset bug: two processes that checkpoint at once can damage the file.

    https://www.sqlite.org/wal.html#walresetbug
    """
    major, minor, patch = (*map(int, version.split(".")), 0, 0)[:3]
    backported = (minor == 50 and patch >= 7) or (minor == 44 and patch >= 6)
    return (major, minor, patch) < (3, 51, 3) and not backported


def _storage(facts: ServerFacts) -> Check:
    safe = re.search(r"journal_mode wal, synchronous [23]", facts.durability)
    words = facts.durability if safe else f"{facts.durability}: a power cut can undo the last commits"
    return Check("durability", "ok" if safe else "warn", words)


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def judge_server(
    settings: Settings, facts: ServerFacts, session_pid: int | None, asked: datetime, answered: datetime
) -> Iterator[Check]:
    """What facts mean. session_pid: as connecting was told; asked, answered: our clock around the question."""
    yield Check("server", "ok", f"PostgreSQL {facts.version}, {facts.encoding}, {_size(facts.size_bytes)}")
    if facts.is_standby:
        yield Check("role", "fail", "a standby, which takes no writes; name the primary")
    else:
        yield Check("role", "ok", "primary")
    yield _pooler(settings, facts, session_pid)
    yield _limits(settings, facts)
    yield _connections(settings, facts)
    yield _clock(facts, asked, answered)
    yield _transactions(facts)
    off = [word for word in ("fsync off", "synchronous_commit off") if word in facts.durability]
    words = f"{facts.durability}: a crash can undo what was acknowledged" if off else facts.durability
    yield Check("durability", "warn" if off else "ok", words)


def _pooler(settings: Settings, facts: ServerFacts, session_pid: int | None) -> Check:
    between = facts.backend_pid != session_pid
    if between and settings.postgres_pooler == "none":
        words = "something answers for the server, as a connection pooler does; set DAL_POSTGRES_POOLER=pgbouncer"
        return Check("pooler", "warn", words)
    if not between and settings.postgres_pooler != "none":
        words = f"DAL_POSTGRES_POOLER is {settings.postgres_pooler}, but the server answers itself"
        return Check("pooler", "warn", words)
    return Check("pooler", "ok", settings.postgres_pooler)


def _limits(settings: Settings, facts: ServerFacts) -> Check:
    found = {"statement_timeout": facts.statement_timeout_ms or 0, "lock_timeout": facts.lock_timeout_ms}
    shown = ", ".join(f"{name} {f'{value} ms' if value else 'none'}" for name, value in found.items())
    if settings.postgres_pooler != "none":
        unset = [name for name, value in found.items() if not value]
        words = f"{shown}: behind a pooler they are the role's, ALTER ROLE … SET {unset[0]} = …" if unset else shown
        return Check("time limits", "warn" if unset else "ok", words)
    wanted = {
        "statement_timeout": round(settings.postgres_statement_timeout * 1000),
        "lock_timeout": round(settings.postgres_lock_timeout * 1000),
    }
    if found != wanted:
        asked = ", ".join(f"{name} {value} ms" for name, value in wanted.items())
        return Check("time limits", "warn", f"{shown}, although the settings ask for {asked}")
    return Check("time limits", "ok", shown)


def _connections(settings: Settings, facts: ServerFacts) -> Check:
    used, allowed, ours = facts.connections or 0, facts.max_connections or 0, settings.postgres_pool_max_size
    words = f"{used} of {allowed} in use; a process of ours takes up to {ours}"
    return Check("connections", "warn" if used + ours > allowed else "ok", words)


def _clock(facts: ServerFacts, asked: datetime, answered: datetime) -> Check:
    skew = max(asked - facts.now, facts.now - answered, timedelta())
    if skew > SKEW:
        return Check("clock", "warn", f"the server's is off by {skew.total_seconds():.1f} s from ours: set both by NTP")
    return Check("clock", "ok", "the server's agrees with ours")


def _transactions(facts: ServerFacts) -> Check:
    if facts.oldest_transaction_at is None:
        return Check("oldest transaction", "ok", "none")
    age = max(facts.now - facts.oldest_transaction_at, timedelta())
    words = f"began {age.total_seconds():.0f} s ago"
    if age > LONG:
        return Check(
            "oldest transaction", "warn", f"{words}: it keeps VACUUM from removing old rows; see pg_stat_activity"
        )
    return Check("oldest transaction", "ok", words)


def _size(size: int) -> str:
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"

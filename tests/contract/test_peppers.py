"""Where the keys of token digests come from, and that a SQLite database gets them once, whoever asks first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import dal
from dal import Invalid, PepperMissing, Settings
from dal.peppers import keyring_of, new_pepper

ASK = """
import sys
from dal import Settings
from dal.peppers import keyring_of
keys = keyring_of(Settings.from_url(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(keys().current, keys().digest(keys().current, "k", b"s").hex(), flush=True)
"""


def test_of_many_processes_one_makes_the_file_and_all_have_its_key(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'dal.db'}"
    children = [
        subprocess.Popen([sys.executable, "-c", ASK, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(12)
    ]
    for child in children:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin
        child.stdin.write("go\n")
        child.stdin.flush()
    answers = {child.communicate(timeout=60)[0] for child in children}
    assert len(answers) == 1, answers
    assert [path.name for path in tmp_path.iterdir()] == ["dal.db.peppers"], "no half-made file is left"


def test_a_database_is_the_same_by_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    relative = keyring_of(Settings.from_url("sqlite:///real/dal.db"))
    linked = keyring_of(Settings.from_url(f"sqlite:///{tmp_path / 'link' / 'dal.db'}"))
    monkeypatch.chdir("/")
    assert relative().current == linked().current
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["dal.db.peppers"]


def test_a_private_database_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with dal.connect("sqlite:///:memory:") as db, dal.connect("sqlite:///:memory:") as other:
        token = db.tokens.mint("ci", actor="ann")
        assert db.tokens.authenticate(token.secret) == token.record
        assert other.tokens.mint("ci", actor="ann").record.pepper_id != token.record.pepper_id
    assert [*tmp_path.iterdir()] == []


def test_a_file_of_the_settings_is_read_once_and_refused_on_connecting(tmp_path: Path) -> None:
    place = tmp_path / "peppers"
    url, one, other = f"sqlite:///{tmp_path / 'dal.db'}", new_pepper(), new_pepper()
    for content in (None, "", "nonsense", "a=b"):
        if content is not None:
            place.write_text(content)
        with pytest.raises(Invalid, match="DAL_TOKEN_PEPPERS") as refused:
            dal.connect(Settings.from_url(url, token_peppers=str(place)))
        assert "nonsense" not in str(refused.value)
    assert not (tmp_path / "dal.db").exists()
    place.write_text(f"# ours\n{one}\n{other}\n")
    with dal.connect(Settings.from_url(url, token_peppers=str(place))) as db:
        place.unlink()
        assert db.tokens.mint("ci", actor="ann").record.pepper_id == one.partition("=")[0]
    assert not (tmp_path / "dal.db.peppers").exists()


def test_a_folder_that_takes_no_file_is_named(tmp_path: Path) -> None:
    keys = keyring_of(Settings.from_url(f"sqlite:///{tmp_path / 'none' / 'dal.db'}"))
    with pytest.raises(PepperMissing, match=r"dal\.db\.peppers: No such file"):
        keys()
    (tmp_path / "none").mkdir()
    assert keys().current, "it is tried again"

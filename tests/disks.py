"""File systems of a test's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(place: Path, size: str) -> Iterator[Path]:
    """A file system in memory, of a size such as 6m; the test is skipped where nobody lets us mount one."""
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "dal-test", str(place)], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"mounting a small file system needs to be root here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def make_read_only(place: Path) -> None:
    """Let a file system take no more writes."""
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)


def leave_room(disk: Path, pages: int) -> None:
    """Fill the file system but for so many pages, with a file named filler."""
    free = os.statvfs(disk)
    size = (free.f_bavail - pages) * free.f_frsize
    with open(disk / "filler", "wb") as filler:
        if size > 0:
            os.posix_fallocate(filler.fileno(), 0, size)

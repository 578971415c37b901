"""Files in one directory, each under a name that is made for it: written whole or not at all, and swept when unwanted.

Nothing of a name comes from a caller: neither an id nor the name of an upload is ever part of a path.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import time
from collections.abc import AsyncIterable, Iterator
from pathlib import Path
from typing import BinaryIO

from dal.errors import Invalid

_NAME = re.compile(r"[0-9a-f]{2}/[0-9a-f]{32}")
_PART = ".part"  # of a file that is not whole yet, or never will be


class Directory:
    """A directory of ours, made with its first file, mode 0700. A file's name is relative to it, as in ``3f/09…``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def write(self, chunks: AsyncIterable[bytes], *, most: int, size: int | None = None) -> str:
        """A new file of these bytes, mode 0600, on the disk when this returns; its name.

        most: how many bytes it may have. size: how many it must have, if that is known. Raises Invalid for more or
        fewer, and what the file system does. Then, and when it is cancelled, nobody learns the name of a file that the
        last moment may have left.
        """
        name = _new_name()
        whole, part = self._root / name, self._root / (name + _PART)
        room = most if size is None else min(size, most)
        file = await asyncio.to_thread(self._create, part)
        try:
            count = 0
            async for chunk in chunks:
                count += len(chunk)
                if count > room:
                    raise Invalid(f"more than {room} bytes came", path="size")
                await asyncio.to_thread(file.write, chunk)
            if size is not None and count != size:
                raise Invalid(f"{count} bytes came, where {size} were announced", path="size")
            await asyncio.to_thread(self._finish, file, part, whole)
        except BaseException:
            with contextlib.suppress(OSError):  # a full disk has said so already
                file.close()  # waits for a write that a cancellation left running
            part.unlink(missing_ok=True)
            raise
        return name

    def path(self, name: str | None) -> Path | None:
        """Where a file is, if it is there; None for any name that was not made here."""
        if name is None or not _NAME.fullmatch(name):
            return None
        path = self._root / name
        return path if path.is_file() else None

    async def remove(self, name: str | None) -> None:
        """Take a file away, if it is there."""
        path = self.path(name)
        if path is not None:
            await asyncio.to_thread(path.unlink, missing_ok=True)

    async def older_than(self, seconds: float) -> set[str]:
        """The names of what was last written so long ago or longer, of unfinished files too."""
        latest = time.time() - seconds
        return await asyncio.to_thread(lambda: set(self._older(latest)))

    async def sweep(self, names: set[str]) -> int:
        """Take away what ``older_than`` named; how many there were."""

        def sweep() -> int:
            for name in names:
                (self._root / name).unlink(missing_ok=True)
            return len(names)

        return await asyncio.to_thread(sweep)

    def _create(self, part: Path) -> BinaryIO:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        part.parent.mkdir(mode=0o700, exist_ok=True)
        return os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")

    def _finish(self, file: BinaryIO, part: Path, whole: Path) -> None:
        with file:
            file.flush()
            os.fsync(file.fileno())
        part.rename(whole)
        for folder in (whole.parent, self._root):
            _sync(folder)

    def _older(self, latest: float) -> Iterator[str]:
        for path in self._root.glob("[0-9a-f][0-9a-f]/*"):
            name = path.relative_to(self._root).as_posix()
            if not _NAME.fullmatch(name.removesuffix(_PART)):
                continue
            with contextlib.suppress(FileNotFoundError):  # it became whole, or another sweep was faster
                if path.lstat().st_mtime <= latest:
                    yield name


def _new_name() -> str:
    digits = secrets.token_hex(16)
    return f"{digits[:2]}/{digits}"


def _sync(folder: Path) -> None:
    """A name is on the disk when its directory is."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

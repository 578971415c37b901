"""Where the keys of token digests come from: the settings, or for a SQLite file without any, a file beside it.

That file is made once, by whichever process comes first, readable by its owner alone. It belongs with the database: a
copy of the database without it accepts no token.
"""

from __future__ import annotations

import base64
import logging
import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dal.errors import Invalid, PepperMissing
from dal.settings import Peppers, Settings, parse_peppers
from dal.stores.token_keys import Keyring

log = logging.getLogger(__name__)


def new_pepper() -> str:
    """A fresh key as DAL_TOKEN_PEPPERS takes it: ``id=base64`` of 32 random bytes."""
    return f"p{secrets.token_hex(4)}={base64.b64encode(secrets.token_bytes(32)).decode()}"


def keyring_of(settings: Settings) -> Callable[[], Keyring]:
    """A function that gives the keys of a database, and raises PepperMissing while there are none.

    Raises Invalid for a DAL_TOKEN_PEPPERS that cannot be read.
    """
    set_ones = settings.peppers()
    made: list[Keyring] = [Keyring(set_ones)] if set_ones else []
    place = _place(settings)
    is_private = str(settings.sqlite_path) == ":memory:"
    making = threading.Lock()

    def keyring() -> Keyring:
        if not made:
            with making:
                if not made:
                    made.append(Keyring(_of_file(place, is_private=is_private)))
        return made[0]

    return keyring


def loaded_peppers(settings: Settings) -> Peppers:
    """The keys of a database that are there, the current one first; none are made. Raises as ``keyring_of`` does."""
    set_ones, place = settings.peppers(), _place(settings)
    return set_ones if set_ones or place is None or not place.exists() else _read(place)


def put_first(place: Path) -> str:
    """Put a fresh key before those of a file, which is made if there is none, readable by its owner alone; returns the
    new key's id. A process that reads the file meanwhile finds the old keys or the new ones.

    Raises PepperMissing if what is there cannot be read or written.
    """
    pepper, place = new_pepper(), Path(os.path.realpath(place))
    try:
        old = ""
        if place.exists():
            _read(place)
            old = place.read_text("utf-8")
        with _draft(place, f"{pepper}\n{old}") as name:
            if place.exists():  # it stays with its owner, whoever runs this
                os.chown(name, place.stat().st_uid, place.stat().st_gid)
            os.replace(name, place)
    except OSError as error:
        raise PepperMissing(f"{place}: {error.strerror}") from None
    return pepper.partition("=")[0]


def _place(settings: Settings) -> Path | None:
    # One file, by whatever name its database is opened; and found again after the working directory changes.
    return Path(f"{os.path.realpath(settings.sqlite_path)}.peppers") if settings.backend == "sqlite" else None


def _of_file(place: Path | None, *, is_private: bool) -> Peppers:
    if place is None:
        raise PepperMissing("DAL_TOKEN_PEPPERS is not set; 'dal tokens pepper' makes one")
    if is_private:  # and gone with its database
        return parse_peppers(new_pepper())
    try:
        if not place.exists() and _make(place):
            log.warning("made %s: the key of this database's service tokens; back it up apart from the database", place)
    except OSError as error:
        raise PepperMissing(f"{place}: {error.strerror}") from None
    return _read(place)


def _read(place: Path) -> Peppers:
    try:
        return parse_peppers(place.read_text("utf-8"))
    except OSError as error:
        problem = f"{place}: {error.strerror}"
    except (ValueError, Invalid) as error:
        problem = f"{place} {error}"
    raise PepperMissing(problem)


def _make(place: Path) -> bool:
    """Make the file unless another process does so first: whoever reads it finds it whole."""
    with _draft(place, f"# Keys of service tokens, the current one first.\n{new_pepper()}\n") as name:
        try:
            os.link(name, place)
        except FileExistsError:
            return False
    return True


@contextmanager
def _draft(place: Path, text: str) -> Iterator[str]:
    """A file beside a place, with mode 0600, to be linked or moved there; its folder is on the disk afterwards."""
    handle, name = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        yield name
        folder = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)

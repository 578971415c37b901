"""Words: what text is cut into to be searched, and what a search asks for.

One tokenizer for both databases, which are given its words and cut none themselves. A word is a run of letters, digits
and the marks that belong to them, compatibility forms as usual ones, case and diacritics gone: ``Straßen-Café`` is
``strassen`` and ``cafe``. Scripts that are written without spaces have no such runs; of those every character is a word
and every two that follow each other are another.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from unicodedata import category, combining, normalize

from msgspec import Struct

from dal.errors import Invalid

MAX_WORD = 64  # characters, of which a word is known by the first
MAX_WORDS = 64  # that a search may ask for
PIECE = 2**16  # characters of a text that are searched together
MAX_PIECES = 1024
_PIECE_BYTES = 500_000  # of the words of a piece, because a tsvector holds no more than 2^20
_KEY = 6  # characters; the indexes for prefixes in the migrations count on it
_SNIPPET = 240  # characters
_BEFORE = 60  # of them, before the first word found

# Thai, Lao, Myanmar, Khmer; Japanese syllables; Han.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3031-\u3035\u303b\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUNS = re.compile(f"([{_UNSPACED}]+)|[^{_UNSPACED}]+")
_ANY_UNSPACED = re.compile(f"[{_UNSPACED}]")
_ASCII_WORDS = re.compile(r"[0-9a-z]+")
_VOICING = "\u3099\u309a"  # the marks that tell the Japanese syllable ga from ka: no diacritics


class _Folds(dict[int, str]):
    """What becomes of each character, found out when it is first met: text for str.translate."""

    def __missing__(self, code: int) -> str:
        folded = _fold(chr(code))
        if len(self) < 2**16:
            self[code] = folded
        return folded


def _fold(char: str) -> str:
    """A character in small letters without diacritics; a space for what parts words, nothing for what does neither."""
    plain = normalize("NFKD", normalize("NFKD", char.casefold()).casefold())
    return "".join(map(_part, plain))


def _part(char: str) -> str:
    if char.isalnum() or char in _VOICING:
        return char
    kind = category(char)
    if char == "\u200b":  # the zero-width space
        return " "
    if kind == "Cf" or (kind[0] == "M" and (combining(char) or _is_selector(char))):
        return ""
    return char if kind[0] == "M" else " "


def _is_selector(char: str) -> bool:
    return "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef" or char in "\u034f\u180b\u180c\u180d"


_FOLDS = _Folds()


def words(text: str) -> list[str]:
    """The words of a text, each once, in the order in which they first stand in it."""
    return list(dict.fromkeys(_words(text, alone=True)))


def _words(text: str, *, alone: bool) -> Iterator[str]:
    """alone: with each character of an unspaced run as a word, too; else only where the run is that one character."""
    if text.isascii():
        for word in _ASCII_WORDS.findall(text.lower()):
            yield word[:MAX_WORD]
        return
    folded = normalize("NFC", text.translate(_FOLDS))
    spaced = _ANY_UNSPACED.search(folded) is None
    for word in folded.split():
        if spaced:
            yield word[:MAX_WORD]
            continue
        for run in _RUNS.finditer(word):
            if run[1]:
                yield from _parts(run[1], alone=alone)
            else:
                yield run[0][:MAX_WORD]


def _parts(run: str, *, alone: bool) -> Iterator[str]:
    for at, char in enumerate(run):
        if alone or len(run) == 1:
            yield char
        if at + 1 < len(run):
            yield run[at : at + 2]


# --- what is stored ---------------------------------------------------------------------------------------------------


def owner_key(owner: str) -> str:
    """Six letters and digits for an owner, in front of each of his words. Two owners may have the same: who finds a row
    has to look whose it is."""
    return base64.b32encode(hashlib.sha256(owner.encode()).digest())[:_KEY].decode().lower()


def keyed(found: Sequence[str], key: str) -> str:
    """Words as they are stored and asked for: each behind its key, joined by spaces."""
    return " ".join(key + word for word in found)


class Piece(Struct, frozen=True):
    """A part of a text that is searched by itself. first: where it begins, in characters from 1."""

    first: int
    words: Sequence[str]


def pieces(text: str) -> list[Piece]:
    """A text as pieces of at most 65,536 characters, one of them at least; a word is not cut where one can help it."""
    found: list[Piece] = []
    at = 0
    while not found or at < len(text):
        size = PIECE
        while True:
            end = _end(text, at, size)
            own = words(text[at:end])
            if sum(len(word.encode()) + _KEY for word in own) <= _PIECE_BYTES:
                break
            size //= 2
        found.append(Piece(at + 1, own))
        at = end
    return found[:MAX_PIECES]


def _end(text: str, at: int, size: int) -> int:
    """Behind the last white space in the piece's last sixteenth, or where it is full."""
    end = at + size
    if end >= len(text):
        return len(text)
    return next((place for place in range(end, end - size // 16, -1) if text[place - 1].isspace()), end)


# --- what is asked for ------------------------------------------------------------------------------------------------


class Wanted(Struct, frozen=True):
    """What a search asks for: all of these words, and one that begins so."""

    words: Sequence[str]
    prefix: str

    def keyed(self, key: str) -> str:
        """The words as a query takes them: the last one is the beginning of one."""
        return keyed((*self.words, self.prefix), key)

    def has(self, word: str) -> bool:
        """Whether a word is one of those asked for."""
        return word.startswith(self.prefix) or word in self.words


def wanted(text: str, path: str) -> Wanted | None:
    """What a search text asks for; None if there is no word in it. Raises Invalid for too many."""
    found = list(_words(text, alone=False))
    if not found:
        return None
    whole = list(dict.fromkeys(found[:-1]))
    if len(whole) >= MAX_WORDS:
        raise Invalid(f"more than {MAX_WORDS} words to look for", path=path)
    return Wanted(whole, found[-1])


# --- what is shown ----------------------------------------------------------------------------------------------------


class Snippet(Struct, frozen=True):
    """A part of a text round the first word found. marks: from where to where in it the words found stand."""

    text: str
    marks: Sequence[tuple[int, int]]

    def marked(self, before: str = "**", after: str = "**", escape: Callable[[str], str] = str) -> str:
        """The text with each word found between two others.

        escape: what is done to all of the text itself, such as ``html.escape``.
        """
        made, at = [], 0
        for start, end in self.marks:
            made += [escape(self.text[at:start]), before, escape(self.text[start:end]), after]
            at = end
        return "".join([*made, escape(self.text[at:])])


def snippet(text: str, asked: Wanted) -> Snippet:
    """About 240 characters of a text from shortly before the first word found; its beginning if there is none."""
    first = next(_marks(text, asked), (0, 0))[0]
    start = _snap(text, first - _BEFORE, first) if first > _BEFORE else 0
    stop = start + _SNIPPET
    end = _snap(text, stop, stop - _BEFORE) if stop < len(text) else len(text)
    shown = re.sub(r"\s", " ", text[start:end])
    shown = shown.rstrip() if end < len(text) else shown
    marks = [(at, min(to, len(shown))) for at, to in _merged(_marks(shown, asked))]
    lead, tail = "…" * (start > 0), "…" * (end < len(text))
    return Snippet(lead + shown + tail, tuple((at + len(lead), to + len(lead)) for at, to in marks))


def _snap(text: str, at: int, towards: int) -> int:
    """The end of white space nearest to a place, on the way to another; the place itself if there is none."""
    step = 1 if towards > at else -1
    return next((place for place in range(at, towards + step, step) if text[place - 1].isspace()), at)


def _marks(text: str, asked: Wanted) -> Iterator[tuple[int, int]]:
    """From where to where the words asked for stand, in order; some may overlap."""
    for chunk in re.finditer(r"\S+", text):
        if any(map(asked.has, _words(chunk[0], alone=True))):
            yield from _marks_in(chunk[0], chunk.start(), asked)


def _marks_in(chunk: str, offset: int, asked: Wanted) -> Iterator[tuple[int, int]]:
    letters: list[tuple[str, int, int]] = []
    for at, char in enumerate(chunk + " ", offset):
        folded = _FOLDS[ord(char)]
        if not folded and letters:  # a diacritic belongs to the letter before it
            letters[-1] = (*letters[-1][:2], at + 1)
        for part in folded:
            if part == " ":
                yield from _marks_of_word(letters, asked)
                letters = []
            else:
                letters.append((part, at, at + 1))


def _marks_of_word(letters: Sequence[tuple[str, int, int]], asked: Wanted) -> Iterator[tuple[int, int]]:
    """letters: of one word, each with the places where it begins and ends."""
    if not letters:
        return
    word = normalize("NFC", "".join(part for part, _, _ in letters))
    if len(word) != len(letters):  # letters were joined, so that only the whole word has places
        if any(map(asked.has, _words(word, alone=True))):
            yield letters[0][1], letters[-1][2]
        return
    for run in _RUNS.finditer(word):
        if not run[1]:
            if asked.has(run[0][:MAX_WORD]):
                yield letters[run.start()][1], letters[run.end() - 1][2]
            continue
        for at in range(run.start(), run.end()):
            for size in (1, 2):
                if at + size <= run.end() and asked.has(word[at : at + size]):
                    yield letters[at][1], letters[at + size - 1][2]


def _merged(marks: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    last: tuple[int, int] | None = None
    for mark in marks:
        if last and mark[0] <= last[1]:
            last = (last[0], max(last[1], mark[1]))
        else:
            if last:
                yield last
            last = mark
    if last:
        yield last

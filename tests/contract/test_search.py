"""What a word is to a search, what is shown of a hit, and that both databases find the same."""

from __future__ import annotations

import html
import itertools
import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dal import Dal, Hit, Invalid, Snippet, Sync
from dal.core.search import (
    MAX_WORD,
    MAX_WORDS,
    PIECE,
    Wanted,
    keyed,
    owner_key,
    pieces,
    snippet,
    wanted,
    words,
)

# --- words ------------------------------------------------------------------------------------------------------------

WORDS: list[tuple[str, list[str]]] = [
    ("", []),
    (" \t\n.,;!?-_", []),
    ("Hello, hello world", ["hello", "world"]),
    ("snake_case don't a.b@c.de", ["snake", "case", "don", "t", "a", "b", "c", "de"]),
    ("Straßen-Café ÄRGER", ["strassen", "cafe", "arger"]),
    ("cafe\u0301 caf\u00e9", ["cafe"]),
    ("İstanbul ISTANBUL ıstanbul", ["istanbul", "ıstanbul"]),
    ("ﬁne ＦＵＬＬ x² №5 ½", ["fine", "full", "x2", "no5", "1", "2"]),
    ("Σίσυφος ΣΊΣΥΦΟΣ", ["σισυφοσ"]),
    ("Ёлка елка", ["елка"]),
    ("हिन्दी हिंदी", ["हिनदी", "हिंदी"]),
    ("한국어 조선말", ["한국어", "조선말"]),
    ("soft\u00adhyphen zero\u200bwidth jo\u200din", ["softhyphen", "zero", "width", "join"]),
    ("1.700.000 4711 0x1F", ["1", "700", "000", "4711", "0x1f"]),
    ("❤️ 🎉 → €", []),
    ("我在北京", ["我", "我在", "在", "在北", "北", "北京", "京"]),
    ("北", ["北"]),
    ("第3章 v2版", ["第", "3", "章", "v2", "版"]),
    ("ガ が か", ["ガ", "が", "か"]),
    ("ｶﾞ か\u3099", ["ガ", "が"]),
    ("x" * (MAX_WORD + 5), ["x" * MAX_WORD]),
    ("\u0301alone", ["alone"]),
]


@pytest.mark.parametrize(("text", "expected"), WORDS, ids=repr)
def test_words_are_runs_of_letters_and_digits_without_case_and_diacritics(text: str, expected: list[str]) -> None:
    assert words(text) == expected


ANY = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
SPACED = st.text(st.characters(codec="utf-8", categories=["Lu", "Ll", "Nd", "Mn", "Mc", "Zs", "Po"]), max_size=40)


@settings(max_examples=500)
@given(st.one_of(ANY, SPACED))
@example("ﷺ")
@example("ǅ ŉ ǰ ΐ ﬃ ẞ")
@example("가\u1100\u1161")
def test_a_word_is_made_of_its_own_kind(text: str) -> None:
    for word in words(text):
        assert 1 <= len(word) <= MAX_WORD
        assert " " not in word
        assert word.isascii() is (word.encode().isalnum() and word.isascii()), "ASCII is letters and digits only"
        assert word == word.casefold() == unicodedata.normalize("NFC", word)
        assert word in words(word), "it is the word of itself"


@settings(max_examples=300)
@given(st.one_of(ANY, SPACED))
def test_case_and_form_make_no_difference(text: str) -> None:
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert words(unicodedata.normalize(form, text)) == words(text)
    assert words(text.casefold()) == words(text)


def test_an_owner_has_a_key_of_six_letters_and_digits() -> None:
    keys = {owner_key(owner) for owner in ["", "ann", "Ann", "b", "é" * 200, *map(str, range(500))]}
    assert len(keys) == 505
    assert all(len(key) == 6 and key.isascii() and key.isalnum() and key == key.lower() for key in keys)
    assert owner_key("owner-1") == "hemips", "stored words begin with it, and it stands in tests/plans"
    assert keyed(["a", "b"], "k") == "ka kb"


# --- pieces -----------------------------------------------------------------------------------------------------------


def test_a_short_text_is_one_piece_even_an_empty_one() -> None:
    assert [(piece.first, list(piece.words)) for piece in pieces("")] == [(1, [])]
    assert [(piece.first, list(piece.words)) for piece in pieces("a b")] == [(1, ["a", "b"])]
    assert len(pieces("x" * PIECE)) == 1


@settings(max_examples=30)
@given(
    st.sampled_from(["word{} ", "wörd{} ", "字{} ", "{}\n", "x{}", "ﷺ{} ", "㌖{}", "\U00020000{}"]), st.integers(0, 99)
)
def test_a_long_text_is_cut_between_words_and_nothing_of_it_is_lost(form: str, start: int) -> None:
    text = "".join(map(form.format, range(start, start + 60_000)))
    cut = pieces(text)
    firsts = [piece.first for piece in cut]
    assert firsts[0] == 1
    assert len(cut) > 1
    ends = [*(first - 1 for first in firsts[1:]), len(text)]
    for piece, end in zip(cut, ends, strict=True):
        assert 0 < end - piece.first + 1 <= PIECE
        assert list(piece.words) == words(text[piece.first - 1 : end])
        assert sum(len(word.encode()) + 6 for word in piece.words) <= 500_000, "or a tsvector would not hold it"
        if form[-1].isspace():
            assert text[end - 1].isspace()


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_the_last_word_is_the_beginning_of_one() -> None:
    assert wanted("Rote Grütze ro", "text") == Wanted(["rote", "grutze"], "ro")
    assert wanted("a a a", "text") == Wanted(["a"], "a")
    assert wanted("北京 天", "text") == Wanted(["北京"], "天")
    assert wanted(" ,. ", "text") is None is wanted("", "text")
    assert Wanted(["rote"], "ro").keyed("k") == "krote kro"


def test_a_search_asks_for_at_most_so_many_words() -> None:
    assert wanted(" ".join(map(str, range(MAX_WORDS))), "text") is not None
    with pytest.raises(Invalid, match="more than 64 words") as refused:
        wanted(" ".join(map(str, range(MAX_WORDS + 1))), "text")
    assert refused.value.path == "text"


# --- what is shown ----------------------------------------------------------------------------------------------------


def shown(text: str, query: str) -> str:
    asked = wanted(query, "text")
    assert asked is not None
    return snippet(text, asked).marked("[", "]")


SHOWN: list[tuple[str, str, str]] = [
    ("Die Straße nach Kölln", "strasse koll", "Die [Straße] nach [Kölln]"),
    ("a\nb\tc", "b", "a [b] c"),
    ("cafe\u0301 <b>Café</b>", "cafe", "[cafe\u0301] <b>[Café]</b>"),
    ("我在北京的", "北京", "我在[北京]的"),
    ("北京北京", "北京", "[北京北京]"),
    ("か\u3099く", "が", "[か\u3099く]"),
    ("ﬁne print", "fi", "[ﬁne] print"),
    ("nothing here", "else", "nothing here"),
    ("", "else", ""),
]


@pytest.mark.parametrize(("text", "query", "expected"), SHOWN, ids=repr)
def test_the_words_found_are_marked(text: str, query: str, expected: str) -> None:
    assert shown(text, query) == expected


def test_a_long_text_is_shown_round_the_first_word_found() -> None:
    text = " ".join(f"word{n}" for n in range(1000))
    made = shown(text, "word502 word500")
    assert made.startswith("…word493 word494 ")
    assert "word499 [word500] word501 [word502] word503" in made
    assert made.endswith(" word522…")
    assert shown(text, "word99").startswith("…word91 ")
    assert shown(text, "word99").partition(" word100 ")[0].endswith(" word98 [word99]")
    assert shown(text, "word0").startswith("[word0] word1")
    assert shown(text, "word999").endswith("[word999]")


def test_a_snippet_can_be_shown_in_html() -> None:
    found = Snippet("a <b> & c", ((3, 4), (8, 9)))
    assert found.marked("<mark>", "</mark>", html.escape) == "a &lt;<mark>b</mark>&gt; &amp; <mark>c</mark>"


@settings(max_examples=300)
@given(st.one_of(ANY, SPACED), st.data())
def test_a_snippet_of_a_text_with_the_words_marks_one(text: str, data: st.DataObject) -> None:
    found = words(text)
    if not found:
        return
    query = data.draw(st.sampled_from(found))
    made = snippet(text, wanted(query, "text") or Wanted([], ""))
    assert made.marks, f"{query!r} in {text!r}"
    ends = [place for mark in made.marks for place in mark]
    assert ends == sorted(ends)
    assert 0 <= ends[0] < ends[-1] <= len(made.text)
    assert made.marked("", "") == made.text


# --- both databases find the same -------------------------------------------------------------------------------------

# Few words, so that texts meet; some are alike to one who compares them otherwise than we do.
PARTS = st.sampled_from(
    ["a", "A", "ab", "abc", "b", "é", "e\u0301", "e", "strasse", "Straße", "İ", "i", "ı", "ﬁ", "fi", "٣", "3", "x²",
     "x2", "北京", "北", "京北", "が", "か\u3099", "か", "हिन्दी", "हि", "ไทย", "한국", "한", "\u1112\u1161\u11ab",
     "ß" * 70, "ß" * 40, "'", '"', "*", ":*", "&", "|", "!", "(", ")", "-", "^", "AND", "OR", "NOT", "NEAR", "terms",
     "<->", "\\", "%", "_", "null", "a'b", '"a" *', "a:*", "a AND b",
     "\u200b", "\ufe0f", "🎉", "\U0010ffff", "\ufeff", "ﷺ", "½"]
)  # fmt: skip
TEXTS = st.one_of(st.lists(PARTS, min_size=1, max_size=5).map(" ".join), st.lists(PARTS, max_size=4).map("".join), ANY)
NUMBER = itertools.count()


@st.composite
def questions(draw: st.DrawFn) -> tuple[list[str], str]:
    """Texts, and a search that is likely to find some: mostly pieces of one, or nearly."""
    texts = draw(st.lists(TEXTS, min_size=1, max_size=6))
    some = draw(st.sampled_from(texts))
    start, end = sorted((draw(st.integers(0, len(some))), draw(st.integers(0, len(some)))))
    return texts, draw(st.one_of(TEXTS, st.just(some), st.just(some[start:end]), st.just(some[:end])))


def has(text: str, query: str) -> bool:
    """The docstring of ``search``, in Python."""
    asked, found = wanted(query, "text"), words(text)
    assert asked is not None
    return set(asked.words) <= set(found) and any(word.startswith(asked.prefix) for word in found)


def found_in_chat(db: Dal[Sync], texts: Sequence[str], query: str) -> tuple[list[str], list[str]]:
    """The ids found, as one page and as pages of two."""
    owner = f"owner-{next(NUMBER)}"
    with db.transaction() as tx:
        for at, text in enumerate(texts):
            tx.chat.save_thread(owner, f"{owner}/t{at}", title=text)
            tx.chat.add_item(owner, f"{owner}/t{at}", f"{owner}/i{at}", type="m", item="{}", body=text)
    whole = db.chat.search(owner, query)
    pages: list[Hit] = []
    after: str | None = None
    while True:
        page = db.chat.search(owner, query, after=after, limit=2)
        pages += page.items
        after = page.next
        if after is None:
            break
    assert list(whole.items) == pages
    for hit in pages:
        assert hit.snippet.marks
    ids = [(hit.item_id or hit.thread_id).partition("/")[2] for hit in pages]
    expected = [f"{kind}{at}" for kind in "ti" for at in range(len(texts))[::-1] if query_has(texts[at], query)]
    return ids, expected


def query_has(text: str, query: str) -> bool:
    return wanted(query, "text") is not None and has(text, query)


@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(questions())
@example((["a b", "b a c", "ab"], "a b"))
@example((["北京", "京北", "我在北京"], "北京"))
@example((["'", "''"], "'"))
def test_no_message_is_found_on_one_database_alone(
    sqlite_db: Dal[Sync], postgres_db: Dal[Sync], question: tuple[list[str], str]
) -> None:
    texts, query = question
    answers = {db.settings.backend: found_in_chat(db, texts, query) for db in (sqlite_db, postgres_db)}
    assert answers["sqlite"] == answers["postgres"]
    found, expected = answers["sqlite"]
    assert found == expected


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(questions(), st.data())
def test_no_workflow_is_found_on_one_database_alone(
    sqlite_db: Dal[Sync], postgres_db: Dal[Sync], question: tuple[list[str], str], data: st.DataObject
) -> None:
    texts, query = question
    mark = f"mark{next(NUMBER)}x"
    places = [data.draw(st.sampled_from(["name", "description", "tag"])) for _ in texts]
    query = f"{mark} {query}"
    answers = {}
    for db in (sqlite_db, postgres_db):
        with db.transaction() as tx:
            for at, (text, place) in enumerate(zip(texts, places, strict=True)):
                text = text[:100]
                given: dict[str, object] = {"description": text} if place == "description" else {}
                if place == "tag" and text.strip():
                    given = {"tags": [text]}
                name = f"{mark} {text}" if place == "name" else mark
                tx.workflows.create(f"{name} @{at}", actor="a", **given)  # type: ignore[arg-type]  # str or a list of it
        answers[db.settings.backend] = [flow.name.rpartition("@")[2] for flow in db.workflows.search(query).items]
    assert answers["sqlite"] == answers["postgres"]
    if wanted(query, "text") == Wanted([], mark):
        assert len(answers["sqlite"]) == len(texts)

"""The lexer: parameters are found where they are meant, and nothing else of a statement changes."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dal.core.tokens import Dialect, SqlSyntax, Token, statements, tagged, tokens

DIALECTS: tuple[Dialect, ...] = ("postgres", "sqlite")
MARK: dict[Dialect, str] = {"postgres": "$", "sqlite": "?"}
TAG = "/* dal:any */"


def compiled(sql: str, dialect: Dialect) -> list[tuple[str, tuple[str, ...]]]:
    """SQL and parameters of each statement."""
    done = statements(sql, dialect, TAG, lambda number: f"{MARK[dialect]}{number}")
    assert [statement.encoded.decode() for statement in done] == [statement.sql for statement in done]
    return [(statement.sql, statement.params) for statement in done]


# --- traps ------------------------------------------------------------------------------------------------------------

# A statement, what it becomes (@1 being the first placeholder), and its parameters.
Trap = tuple[str, str, tuple[str, ...]]
BOTH: list[Trap] = [
    ("select 1 -- :x\n;", "select 1", ()),
    ("select 1 -- don't\n + :x;", "select 1  \n + @1", ("x",)),
    ("select 1 /* :x ; ' */ + :y;", "select 1   + @1", ("y",)),
    ("select /* it's */ :x;", "select   @1", ("x",)),
    ("select ':x', 'it''s :y', ':z''';", "select ':x', 'it''s :y', ':z'''", ()),
    ('select ":x", "a "":y""";', 'select ":x", "a "":y"""', ()),
    ("select '%s', '%', ';', '::', '?', '$1', '--', '/*', :x;", "select '%s', '%', ';', '::', '?', '$1', '--', '/*', @1", ("x",)),  # noqa: E501
    ("select a % b, '%%' from t where x like '%x%' and a = :a;", "select a % b, '%%' from t where x like '%x%' and a = @1", ("a",)),  # noqa: E501
    ("select 1 /* %s :name ? $1 :: */ -- %s :name ? $1 ::\n;", "select 1", ()),
    (":first;", "@1", ("first",)),
    (":a,:b,:a;", "@1,@2,@1", ("a", "b")),
    ("select(:a)-:b*:a=:c;", "select(@1)-@2*@1=@3", ("a", "b", "c")),
    ("where :a and :aa and :a_1 and :A;", "where @1 and @2 and @3 and @4", ("a", "aa", "a_1", "A")),
    ("select '\n:x\n', :y;", "select '\n:x\n', @1", ("y",)),
    ("select 'ü:x' as \"é\", :y;", "select 'ü:x' as \"é\", @1", ("y",)),
    ("select '-- name: no(header)', :y;", "select '-- name: no(header)', @1", ("y",)),
    ("select ''';', :y;", "select ''';', @1", ("y",)),
    ("select a$b, a$1, a$b$, :x;", "select a$b, a$1, a$b$, @1", ("x",)),
]  # fmt: skip
ONLY: dict[Dialect, list[Trap]] = {
    "postgres": [
        (r"select E'it\'s :x', e'\\', :y;", r"select E'it\'s :x', e'\\', @1", ("y",)),
        (r"select E'a''b\\\' :x' || :y;", r"select E'a''b\\\' :x' || @1", ("y",)),
        (r"select type'\', :y;", r"select type'\', @1", ("y",)),
        ("select $$ :x ' ; -- $$, :y;", "select $$ :x ' ; -- $$, @1", ("y",)),
        ("select $a$ :x $b$ $$ ; $a$, :y;", "select $a$ :x $b$ $$ ; $a$, @1", ("y",)),
        ("select $é$ :x $é$, :y;", "select $é$ :x $é$, @1", ("y",)),
        ("select é$b$, :y, $$ :z $$;", "select é$b$, @1, $$ :z $$", ("y",)),
        ("select :x::text, (:y)::int[], '1'::int;", "select @1::text, (@2)::int[], '1'::int", ("x", "y")),
        ("select cast(:x as text)::date::text;", "select cast(@1 as text)::date::text", ("x",)),
        ("select a[1:2], a[b:c], a[f(1):n], a[b[1]:n];", "select a[1:2], a[b:c], a[f(1):n], a[b[1]:n]", ()),
        ('select a["b":n], "a"[1:2], :x;', 'select a["b":n], "a"[1:2], @1', ("x",)),
        ("select doc ? 'key', doc ?| b, doc @> :d;", "select doc ? 'key', doc ?| b, doc @> @1", ("d",)),
        ("select a /* x /* nested :n */ :m */ , :y;", "select a   , @1", ("y",)),
        ("select f(a => :x, b := :y);", "select f(a => @1, b := @2)", ("x", "y")),
        ("select 5e3, 1.5, .5, 0x1F, 1_000, :x;", "select 5e3, 1.5, .5, 0x1F, 1_000, @1", ("x",)),
    ],
    "sqlite": [
        ("select [:x], [it's], `:y`, ```:z`, :w;", "select [:x], [it's], `:y`, ```:z`, @1", ("w",)),
        ("select '\\', :x;", "select '\\', @1", ("x",)),
        ("select a /* x /* not nested */ , :y;", "select a   , @1", ("y",)),
        ("select doc ->> '$.a[0]', :x;", "select doc ->> '$.a[0]', @1", ("x",)),
    ],
}


@pytest.mark.parametrize(
    ("dialect", "sql", "expected", "params"),
    [(dialect, *trap) for dialect in DIALECTS for trap in BOTH + ONLY[dialect]],
)
def test_a_parameter_is_found_only_where_one_is_meant(
    dialect: Dialect, sql: str, expected: str, params: tuple[str, ...]
) -> None:
    for number in range(1, len(params) + 1):
        expected = expected.replace(f"@{number}", f"{MARK[dialect]}{number}")
    assert compiled(sql, dialect) == [(tagged(expected, TAG), params)]


@pytest.mark.parametrize(
    ("dialect", "sql", "at", "said"),
    [
        ("postgres", "select 'abc;", 7, "never closes"),
        ("postgres", "select E'abc\\';", 7, "never closes"),
        ("postgres", 'select "abc;', 7, "never closes"),
        ("postgres", "select 1 /* a /* b */ ;", 9, "never closes"),
        ("postgres", "select $$ abc $a$;", 7, "never closes"),
        ("postgres", "select $a$ abc $$;", 7, "never closes"),
        ("postgres", "select $1;", 7, "write :name"),
        ("postgres", "select 1", 8, "semicolon"),
        ("postgres", "select 1; select 2 \n\n", 18, "semicolon"),
        ("postgres", "select 1;;", 9, "without a statement"),
        ("postgres", "; select 1;", 0, "without a statement"),
        ("postgres", "/* only a comment */ ;", 21, "without a statement"),
        ("sqlite", "select 'abc;", 7, "never closes"),
        ("sqlite", "select `abc;", 7, "never closes"),
        ("sqlite", "select [abc;", 7, "never closes"),
        ("sqlite", "select 1 /* abc ;", 9, "never closes"),
        ("sqlite", "select ?;", 7, "write :name"),
        ("sqlite", "select ?12;", 7, "write :name"),
        ("sqlite", "select @a;", 7, "write :name"),
        ("sqlite", "select $a;", 7, "write :name"),
        ("sqlite", "select :1;", 7, "write :name"),
        ("sqlite", "select 1", 8, "semicolon"),
    ],
)
def test_what_cannot_be_read_is_refused_where_it_begins(dialect: Dialect, sql: str, at: int, said: str) -> None:
    with pytest.raises(SqlSyntax, match=said) as refused:
        compiled(sql, dialect)
    assert refused.value.at == at, f"{sql!r} is wrong at {at}, the error says {refused.value.at}"


# --- properties -------------------------------------------------------------------------------------------------------

# Whatever a regular expression might fall for.
HOOKS = [
    ":x", ":x::y", "'", '"', "--", "/*", "*/", "$$", "$t$", "$", "$1", "?", "@a", ";", "%s", "%", "\\", "[", "]", "`",
    "::", ":", "\n", "\r\n", " ", "e'", "E'\\'", "é", "\x00", "name", "1", "- -",
]  # fmt: skip
noise = st.lists(st.sampled_from(HOOKS) | st.text(max_size=3), max_size=6).map("".join)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_é]{0,5}", fullmatch=True)


def bounded(body: str, close: str) -> bool:
    """Whether the end mark that follows a body is the first one."""
    return (body + close).index(close) == len(body)


def quoted(open: str, close: str, escape: str) -> st.SearchStrategy[str]:
    return noise.map(lambda body: open + body.replace(close, escape) + close)


def slashed(open: str, quote: str) -> st.SearchStrategy[str]:
    return noise.map(lambda body: open + body.replace("\\", "\\\\").replace("'", quote) + "'")


words = st.sampled_from(
    ["select", "a.b", "x_1", "é", "1", "2.5e3", "||", "->>", "<=", "(", ")", ",", "*", "%", "=", "a$b", "a$1", "type"]
)
pieces: dict[Dialect, st.SearchStrategy[str]] = {
    "postgres": st.one_of(
        words,
        st.sampled_from(["x::text", "a[1:2]", "a[b:c]", "a[f(1):n]", 'a["b":n]', "a[b[1]:c]", "'1'::int", "doc ? 'k'"]),
        quoted("'", "'", "''"),
        quoted('"', '"', '""'),
        slashed("E'", "\\'"),
        slashed("e'", "''"),
        st.tuples(noise, st.sampled_from(["$$", "$t$", "$é_1$"]))
        .filter(lambda made: bounded(*made))
        .map(lambda made: made[1] + made[0] + made[1]),
    ),
    "sqlite": st.one_of(
        words, quoted("'", "'", "''"), quoted('"', '"', '""'), quoted("`", "`", "``"), quoted("[", "]", "")
    ),
}

# Block comments nest in PostgreSQL only. quiet: a body that neither opens nor closes one.
quiet = noise.filter(lambda body: not {"/*", "*/"} & {a + b for a, b in zip(f" {body}", f"{body} ", strict=True)})
nesting = st.recursive(
    quiet.map(lambda body: f"/* {body} */"),
    lambda inner: st.lists(inner, max_size=3).map(lambda parts: f"/*{' '.join(parts)}*/"),
    max_leaves=4,
)
blocks: dict[Dialect, st.SearchStrategy[str]] = {
    "postgres": nesting,
    "sqlite": noise.filter(lambda body: bounded(body, "*/")).map(lambda body: f"/*{body}*/"),
}
tails: dict[Dialect, Sequence[str]] = {
    "postgres": ["", ")", ",", "::text", "->>'a'", "::int[]", "||"],
    "sqlite": ["", ")", ",", "->>'a'", "||"],
}


@st.composite
def a_statement(draw: st.DrawFn, dialect: Dialect) -> tuple[str, str, tuple[str, ...]]:
    """A statement made of random pieces, what it must become, and its parameters in the order of their first use."""
    source, becomes, used = "", "", list[str]()
    for kind in draw(st.lists(st.sampled_from(["piece", "param", "block", "line"]), max_size=8)):
        if kind == "param":
            name = draw(names)
            used += [] if name in used else [name]
            before, after = draw(st.sampled_from(["", "(", ",", "=", "-", "||"])), draw(st.sampled_from(tails[dialect]))
            source += f"{before}:{name}{after}"
            becomes += f"{before}{MARK[dialect]}{used.index(name) + 1}{after}"
        elif kind == "piece":
            piece = draw(pieces[dialect])
            source, becomes = source + piece, becomes + piece
        else:
            source += draw(blocks[dialect]) if kind == "block" else f"--{draw(noise).replace(chr(10), '')}\n"
            becomes += " " if kind == "block" else " \n"
        space = draw(st.sampled_from([" ", "\n", "\t", " \r\n "]))
        source, becomes = source + space, becomes + space
    return f"{source}select 1;", f"{becomes}select 1", tuple(used)


@given(st.data())
@settings(max_examples=150)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_piece_but_a_parameter_or_comment_stays_byte_for_byte(dialect: Dialect, data: st.DataObject) -> None:
    made = data.draw(st.lists(a_statement(dialect), max_size=3))
    expected = [(tagged(becomes.strip(), TAG), params) for _, becomes, params in made]
    assert compiled("".join(source for source, _, _ in made), dialect) == expected


def test_a_comment_of_sqlite_ends_at_the_first_mark_that_ends_one() -> None:
    assert compiled("select /*/* a */ 1;", "sqlite") == [(tagged("select   1", TAG), ())]
    assert compiled("select /*/*/ 1;", "sqlite") == [(tagged("select   1", TAG), ())]


@given(st.one_of(st.text(), noise, st.lists(noise, max_size=8).map(" ".join)))
@example("$\n$")
@example("$$$")
@example("/*/")
@example("'''")
@example("e'\\")
@settings(max_examples=200)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_tokens_of_any_text_join_back_to_it_or_it_is_refused_in_place(dialect: Dialect, sql: str) -> None:
    cut, refused_at = cut_up(sql, dialect)
    so_far = "".join(token.text for token in cut)
    assert sql.startswith(so_far)
    assert [token.at for token in cut] == [len("".join(token.text for token in cut[:n])) for n in range(len(cut))]
    assert len(so_far) == (len(sql) if refused_at is None else refused_at)


def cut_up(sql: str, dialect: Dialect) -> tuple[list[Token], int | None]:
    """The tokens up to the first fault, and where that is."""
    cut: list[Token] = []
    try:
        cut.extend(tokens(sql, dialect))
    except SqlSyntax as error:
        return cut, error.at
    return cut, None


@given(st.one_of(st.text(), noise, st.lists(noise, max_size=8).map(";".join)))
@settings(max_examples=200)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_whatever_is_compiled_either_works_or_is_a_syntax_error_of_ours(dialect: Dialect, sql: str) -> None:
    try:
        done = compiled(sql, dialect)
    except SqlSyntax:
        return
    for statement, params in done:
        assert TAG in statement
        assert len(set(params)) == len(params)


TRIGGERS = [
    "create trigger t after insert on a begin insert into b values (new.x); end",
    "CREATE TEMP TRIGGER t after insert on a when new.x > 1 BEGIN\n delete from b;\n select ';end;';\n /* ; end */ END",
    "create trigger t after delete on a begin select case when 1 then 2 end; select 3; end",
]


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_a_trigger_is_one_statement_with_those_in_its_body(trigger: str) -> None:
    sql = f"select 1; {trigger}; select 2;"
    first, middle, last = statements(sql, "sqlite", "", str)
    assert (first.sql, last.sql) == ("select 1", "select 2")
    assert middle.sql.count(";") == trigger.replace("/* ; end */", "").count(";")
    with sqlite3.connect(":memory:") as connection:
        connection.execute("create table a (x)")
        connection.execute("create table b (x)")
        connection.execute(middle.sql)


def test_a_trigger_without_an_end_is_refused() -> None:
    with pytest.raises(SqlSyntax, match="semicolon"):
        statements("create trigger t after insert on a begin select 1; select 2;", "sqlite", "", str)

"""The catalog: what aiosql would lose in silence is an error with file and line, and aiosql makes the rest."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiosql.queries
import psycopg
import pytest
from msgspec import Struct

import dal
from dal import CatalogError, Invalid, Settings
from dal.core.catalog import Catalog, read_file, split_file, sql_root
from dal.core.postgres_door import PostgresDoor
from dal.core.sqlite_door import SqliteDoor
from dal.core.tokens import Dialect
from dal.dal import MODELS_BY_NAME, load_catalog

DIALECTS: tuple[Dialect, ...] = ("postgres", "sqlite")
HERE = "§"  # in a file of these tests: the line that the error must name


class Row(Struct, frozen=True):
    a: int


MODELS: dict[str, type[Struct]] = {"Row": Row}
GET_ROW = """-- name: get_row(id)^
-- One row.
-- params: id int
-- returns: Row
-- class: point
select a from rows where id = :id;
"""
TWIN = """-- name: get_row(id)^
select a from rows where id = :id;
"""
GET_TWO = GET_ROW.replace("get_row", "get_two")
TWIN_TWO = TWIN.replace("get_row", "get_two")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder shaped like sql/, with one query in both dialects."""
    write(tmp_path, {"postgres/rows.sql": GET_ROW, "sqlite/rows.sql": TWIN})
    return tmp_path


def write(root: Path, files: dict[str, str]) -> str | None:
    """Write the files; returns ``path:line`` of the line that is marked."""
    marked = None
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace(HERE, ""), encoding="utf-8")
        if HERE in text:
            marked = f"{path}:{text[: text.index(HERE)].count(chr(10)) + 1}"
    return marked


def refusal(root: Path, dialect: Dialect = "postgres", overrides: Path | None = None) -> str:
    with pytest.raises(CatalogError) as refused:
        Catalog.load(dialect, MODELS, overrides, root=root)
    return str(refused.value)


# --- one file ---------------------------------------------------------------------------------------------------------

FAULTS: dict[str, tuple[str, str]] = {
    "SQL before the first header": (f"{HERE}select 1;\n{GET_ROW}", "before the first '-- name:'"),
    "SQL without any header": (f"-- A file.\n{HERE}select 1;\n", "before the first '-- name:'"),
    "a directive before the first header": (f"{HERE}-- class: point\n{GET_ROW}", "before the first '-- name:'"),
    "a misspelt header": (f"{GET_ROW}\n{HERE}-- nmae: get_two()^\nselect 2;\n", "did you mean 'name:'"),
    "a header of another word": (f"{GET_ROW}\n{HERE}-- query: get_two()^\nselect 2;\n", "did you mean 'name:'"),
    "a header in capitals": (f"{GET_ROW}\n{HERE}-- Name: get_two()^\nselect 2;\n", "did you mean 'name:'"),
    "a misspelt params line": (GET_ROW.replace("-- params", f"{HERE}-- parms"), "did you mean 'params:'"),
    "a misspelt returns line": (GET_ROW.replace("-- returns", f"{HERE}-- return"), "did you mean 'returns:'"),
    "a misspelt class line": (GET_ROW.replace("-- class", f"{HERE}-- clas"), "did you mean 'class:'"),
    "a directive given twice": (GET_ROW.replace("-- class", f"-- class: hot\n{HERE}-- class"), "given twice"),
    "a directive below the SQL": (f"{GET_ROW}{HERE}-- plan: custom\n", "stands apart from its header"),
    "a directive below a blank line": (GET_ROW.replace("select", f"\n{HERE}-- plan: custom\nselect"), "stands apart"),
    "a directive inside the SQL": (GET_ROW.replace("where", f"\n{HERE}-- differs: no\nwhere"), "stands apart"),
    "an undeclared parameter": (HERE + GET_ROW.replace("= :id", "= :id and b = :other"), "uses :other"),
    "an unused parameter": (HERE + GET_ROW.replace("(id)", "(id, b)").replace("id int", "id int, b int"), "declares b"),
    "a parameter used in a comment only": (HERE + GET_ROW.replace("id = :id", "true /* :id */"), "declares id"),
    "a parameter used in a string only": (HERE + GET_ROW.replace("id = :id", "b = ':id'"), "declares id"),
    "parameters in another order": (
        GET_ROW.replace("(id)", "(id, b)").replace("-- params: id int", f"{HERE}-- params: b int, id int"),
        r"the name line has \(id, b\), the params line \(b, id\)",
    ),
    "a parameter without a kind": (
        GET_ROW.replace("-- params: id int", f"{HERE}-- params: id"),
        "'id' is no parameter",
    ),
    "a parameter of no known kind": (GET_ROW.replace("-- params: id int", f"{HERE}-- params: id serial"), "a kind of"),
    "a list of no known kind": (GET_ROW.replace("-- params: id int", f"{HERE}-- params: id json[]"), "a kind of"),
    "a parameter named twice": (HERE + GET_ROW.replace("(id)", "(id, id)"), "named twice"),
    "no params line": (HERE + GET_ROW.replace("-- params: id int\n", ""), "no '-- params:' line"),
    "no class line": (HERE + GET_ROW.replace("-- class: point\n", ""), "no '-- class:' line"),
    "no returns line": (HERE + GET_ROW.replace("-- returns: Row\n", ""), "names its model in a 'returns' line"),
    "an unknown class": (GET_ROW.replace("-- class: point", f"{HERE}-- class: points"), "'points' is no class"),
    "an unknown model": (GET_ROW.replace("-- returns: Row", f"{HERE}-- returns: Rwo"), "did you mean Row"),
    "an unknown model, applied": (GET_ROW.replace("-- returns: Row", f"{HERE}-- returns: Applied[Two]"), "'Two'"),
    "a bracket not closed": (
        GET_ROW.replace("-- returns: Row", f"{HERE}-- returns: Applied[Row"),
        "no model is called",
    ),
    "a bracket not opened": (GET_ROW.replace("-- returns: Row", f"{HERE}-- returns: Row]"), "no model is called"),
    "another generic": (GET_ROW.replace("-- returns: Row", f"{HERE}-- returns: list[Row]"), "no model is called"),
    "a scalar for many rows": (GET_ROW.replace("-- returns: Row", f"{HERE}-- returns: int"), "no model is called"),
    "a model for a scalar": (
        GET_ROW.replace("^", "$").replace("-- returns: Row", f"{HERE}-- returns: Row"),
        "answers a scalar",
    ),
    "a model for a count": (
        GET_ROW.replace("^", "!").replace("-- returns: Row", f"{HERE}-- returns: Row"),
        "answers a count",
    ),
    "an unknown plan": (GET_ROW.replace("select", f"{HERE}-- plan: fast\nselect"), "'fast' is no plan"),
    "a plan that uses nothing": (GET_ROW.replace("select", f"{HERE}-- plan: uses\nselect"), "'uses' is no plan"),
    **{
        f"operator {operator}": (HERE + GET_ROW.replace("^", operator), "is not used here")
        for operator in ("<!", "*!", "#", "?", "^^", "^ $", " many")
    },
    **{
        f"header {header}": (HERE + GET_ROW.replace("get_row(id)^", header), "is no header")
        for header in ("get-row(id)^", "GetRow(id)^", "get_row^", "get_row", "(id)^", "1row(id)^", "get_row(id", "")
    },
    **{
        f"a query called {name}": (HERE + GET_ROW.replace("get_row", name), f"no query can be called '{name}'")
        for name in ("class", "session", "load_from_list", "driver_adapter", "available_queries")
    },
    **{
        f"a parameter called {name}": (
            HERE + re.sub(r"\bid\b(?! =)", name, GET_ROW),
            f"no parameter can be called '{name}'",
        )
        for name in ("self", "conn", "from")
    },
    "in (:list)": (HERE + GET_ROW.replace("= :id", "in (:id)"), r"write = any\(:ids\)"),
    "not in ( :list )": (HERE + GET_ROW.replace("= :id", "NOT IN\n( /* a list */ :id )"), r"write = any\(:ids\)"),
    "two statements": (HERE + GET_ROW + "select 2;\n", "is 2 statements; on PostgreSQL a query is one"),
    "a header that lacks its colon": (f"{HERE}{GET_ROW}\n-- name get_two()^\nselect 2;\n", "is 2 statements"),
    "no SQL": (f"{GET_ROW}\n{HERE}-- name: get_two()!\n-- class: point\n", "has no SQL"),
    "only a comment for SQL": (f"{GET_ROW}\n{HERE}-- name: get_two()!\n-- class: point\n\n/* later */\n", "has no SQL"),
    "no semicolon": (GET_ROW.replace("rows where id = :id;", f"rows\n{HERE} where id = :id"), "end with a semicolon"),
    "no semicolon before the next query": (
        GET_ROW.replace("select a", "\n\nselect a").replace("rows where id = :id;", f"rows\n{HERE} where id = :id\n\n")
        + "-- name: get_two()^\nselect 2;\n",
        "end with a semicolon",
    ),
    "a semicolon too many": (GET_ROW.replace(":id;", f":id;\n{HERE};"), "semicolon without a statement"),
    "a quotation that never closes": (GET_ROW + f"\n-- name: get_two()^\nselect 1,\n{HERE} 'two;\n", "never closes"),
    "a comment that never closes": (GET_ROW + f"\n{HERE}/* select 1;\n", "never closes"),
    "a driver's placeholder": (GET_ROW.replace("where id = :id", f"where id =\n{HERE} $1"), "write :name instead"),
    "a name twice": (f"{GET_ROW}\n{HERE}{GET_ROW}", "get_row is defined twice; first at"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_file_is_refused_with_its_line(root: Path, fault: str) -> None:
    text, said = FAULTS[fault]
    where = write(root, {"postgres/rows.sql": text})
    message = refusal(root)
    assert message.startswith(f"A query file is wrong: {where}: "), message
    assert re.search(said, message), message
    assert refusal(root, "sqlite") == message, "SQLite takes the contract from the same file"


def test_a_header_inside_a_string_or_a_block_comment_is_none(root: Path) -> None:
    text = GET_ROW.replace("a from", "length('\n-- name: get_two()^\n') + a /*\n-- name: get_three()^\n*/ from")
    write(root, {"postgres/rows.sql": text})
    queries = read_file(root / "postgres/rows.sql", "postgres", MODELS)
    assert [query.name for query in queries] == ["get_row"]
    assert "-- name: get_two()^" in queries[0].statements[0].sql
    assert "get_three" not in queries[0].statements[0].sql


def test_prose_may_stand_anywhere_and_hold_anything(root: Path) -> None:
    text = f"""-- Rows: it's "prose"; select $1, :x and ?
-- Note: these are not directives. See also: nothing. http://example.org/a:b

{GET_ROW.replace("-- One row.", "-- One row, don't you know: a.")}
-- About what follows; isn't it.

/* -- class: none */
{GET_TWO.replace("select a", "select a -- that's a :comment; ' so" + chr(10))}
-- The end; "
"""
    write(root, {"postgres/rows.sql": text})
    assert [query.name for query in read_file(root / "postgres/rows.sql", "postgres", MODELS)] == ["get_row", "get_two"]


def test_a_file_from_another_system_reads_the_same(root: Path) -> None:
    path = root / "postgres/rows.sql"
    [expected] = read_file(path, "postgres", MODELS)
    path.write_bytes(b"\xef\xbb\xbf" + GET_ROW.replace("\n", "\r\n").encode())
    [found] = read_file(path, "postgres", MODELS)
    assert (found.contract, found.line, found.doc, found.statements) == (
        expected.contract, expected.line, expected.doc, expected.statements,
    )  # fmt: skip


def test_a_file_that_is_not_utf8_or_not_a_file_is_a_catalog_error(root: Path) -> None:
    path = root / "postgres/rows.sql"
    path.write_bytes(GET_ROW.encode() + "-- Zeilen für später\n".encode("latin-1"))
    assert refusal(root).endswith(f"{path}:7: is not UTF-8")
    path.unlink()
    path.mkdir()
    assert f"{path} cannot be read" in refusal(root)


def test_an_installation_without_query_files_says_so(tmp_path: Path) -> None:
    assert "the installation is incomplete" in refusal(tmp_path)


def test_a_name_that_aiosql_makes_for_itself_is_a_catalog_error(root: Path) -> None:
    # aiosql adds list_rows_cursor to every query of many rows.
    many = GET_ROW.replace("^", "").replace("get_row", "list_rows")
    write(root, {"postgres/rows.sql": many + GET_ROW.replace("get_row", "list_rows_cursor")})
    assert re.search(r"postgres/rows\.sql: .*list_rows_cursor", refusal(root))


# --- two dialects -----------------------------------------------------------------------------------------------------

TWINS: dict[str, tuple[dict[str, str], str]] = {
    "a name twice in a dialect": (
        {"postgres/more.sql": GET_ROW, "postgres/rows.sql": HERE + GET_ROW},
        "get_row is defined twice; first at .*more",
    ),
    "a name twice in SQLite": (
        {"sqlite/rows.sql": f"{TWIN}{HERE}{TWIN}"},
        "get_row is defined twice; first at .*sqlite/rows.sql:1",
    ),
    "a name in PostgreSQL only": (
        {"postgres/rows.sql": f"{GET_ROW}\n{HERE}{GET_TWO}"},
        "get_two has no twin in sql/sqlite",
    ),
    "a name in SQLite only": (
        {"sqlite/rows.sql": f"{TWIN}{HERE}{TWIN_TWO}"},
        "get_two has no twin in the other dialect",
    ),
    "a twin in another file": ({"sqlite/rows.sql": "", "sqlite/more.sql": HERE + TWIN}, "get_row stands in rows.sql"),
    "another operator": (
        {"sqlite/rows.sql": HERE + TWIN.replace("^", "")},
        r"the name line differs from .*rows\.sql:1",
    ),
    "another parameter": ({"sqlite/rows.sql": HERE + TWIN.replace("(id)", "(number)")}, "the name line differs from"),
    "a parameter less": ({"sqlite/rows.sql": HERE + TWIN.replace("(id)", "()")}, "the name line differs from"),
    "params in the twin": (
        {"sqlite/rows.sql": HERE + TWIN.replace("\n", "\n-- params: id int\n", 1)},
        "'params:' belongs in",
    ),
    "returns in the twin": (
        {"sqlite/rows.sql": HERE + TWIN.replace("\n", "\n-- returns: Row\n", 1)},
        "'returns:' belongs",
    ),
    "class in the twin": (
        {"sqlite/rows.sql": HERE + TWIN.replace("\n", "\n-- class: point\n", 1)},
        "'class:' belongs in",
    ),
    "an undeclared parameter in the twin": ({"sqlite/rows.sql": HERE + TWIN.replace(":id", ":id + :b")}, "uses :b"),
    "an unused parameter in the twin": ({"sqlite/rows.sql": HERE + TWIN.replace(":id", "1")}, "declares id"),
    "in (:list) in the twin": ({"sqlite/rows.sql": HERE + TWIN.replace("= :id", "in (:id)")}, "json_each"),
    "a placeholder in the twin": (
        {"sqlite/rows.sql": TWIN.replace("select", f"select\n{HERE}?,")},
        "write :name instead",
    ),
    "a misspelt directive in the twin": (
        {"sqlite/rows.sql": TWIN.replace("\n", f"\n{HERE}-- difers: much\n", 1)},
        "did you mean 'differs:'",
    ),
}


@pytest.mark.parametrize("fault", TWINS)
def test_dialects_that_do_not_match_are_refused_with_the_line(root: Path, fault: str) -> None:
    files, said = TWINS[fault]
    where = write(root, files)
    message = refusal(root, "sqlite")
    assert message.startswith(f"A query file is wrong: {where}: "), message
    assert re.search(said, message), message


# --- what a query knows -----------------------------------------------------------------------------------------------


def test_a_header_says_all_that_is_known_of_a_query(root: Path) -> None:
    text = """-- Rows.

-- name: list_rows(after, names, low)
-- Rows behind a number,
-- in order.
-- params: after int, names text[],
--         low float?
-- returns: Row
-- class: page
-- plan: uses rows_idx
select a from rows where id > :after and name = any(:names) and (:low is null or a >= :low);

-- name: update_row(id, doc)$
-- params: id uuid, doc json
-- returns: timestamptz
-- class: hot
-- plan: custom
update rows set doc = :doc where id = :id returning at;
"""
    write(root, {"postgres/rows.sql": text})
    many, one = read_file(root / "postgres/rows.sql", "postgres", MODELS)
    assert many.contract == "list_rows(after int, names text[], low float?) -> Row"
    assert (many.doc, many.class_, many.uses, many.custom) == (
        "Rows behind a number,\nin order.",
        "page",
        "rows_idx",
        False,
    )
    assert (many.store, many.line, many.where()) == ("rows", 3, f"{root}/postgres/rows.sql:3")
    assert many.statements[0].params == ("after", "names", "low")
    assert not many.writes
    assert one.contract == "update_row(id uuid, doc json)$ -> timestamptz"
    assert (one.class_, one.uses, one.custom, one.line, one.writes) == ("hot", None, True, 13, True)


@pytest.mark.parametrize(
    ("sql", "writes"),
    [
        ("select a from rows", False),
        ("select a from rows for update", False),
        ("select a from rows FOR  NO KEY\nUPDATE skip locked", False),
        ("select 'update rows' as a, $$ don't insert $$ as b from rows", False),
        ('select "update" as a from rows where deleted_at is null', False),
        ("select a /* update */ from rows -- insert\n", False),
        ("insert into rows values (1)", True),
        ("UPDATE rows set a = 1", True),
        ("with x as (delete from rows returning a) select a from x", True),
        ("with l as (select a from rows for update) update rows r set a = 1 from l", True),
        ("merge/**/into rows using t on true when matched then do nothing", True),
    ],
)
def test_a_query_is_known_to_write_by_its_words(root: Path, sql: str, writes: bool) -> None:
    write(root, {"postgres/rows.sql": f"-- name: one()!\n-- class: point\n{sql};\n"})
    [query] = read_file(root / "postgres/rows.sql", "postgres", MODELS)
    assert query.writes == writes


def test_a_fingerprint_changes_with_the_statement_and_with_nothing_else(root: Path) -> None:
    def fingerprint(text: str) -> str:
        write(root, {"postgres/rows.sql": text})
        return read_file(root / "postgres/rows.sql", "postgres", MODELS)[0].fingerprint

    first = fingerprint(GET_ROW)
    assert fingerprint(GET_ROW.replace("One row.", "A row.").replace("select a", "select  -- a\n  a")) == first
    assert fingerprint(GET_ROW.replace("select a", "select b")) != first
    assert len(first) == 8


def test_a_script_of_sqlite_binds_each_statement_its_own_parameters(root: Path) -> None:
    contract = GET_ROW.replace("(id)", "(id, b)").replace("id int", "id int, b text").replace(":id;", ":id and b = :b;")
    script = "-- name: get_row(id, b)^\nupdate rows set b = :b;\nselect a from rows where id = :id and b = :b;\n"
    write(root, {"postgres/rows.sql": contract, "sqlite/rows.sql": script})
    query = Catalog.load("sqlite", MODELS, root=root).queries["get_row"]
    assert [statement.params for statement in query.statements] == [("b",), ("id", "b")]
    assert query.bind({"id": 1, "b": "x"}) == (("x",), (1, "x"))


# --- aiosql makes the functions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_query_function_is_aiosqls_own(dialect: Dialect) -> None:
    catalog = Catalog.load(dialect, MODELS_BY_NAME)
    assert catalog.queries
    for name, query in catalog.queries.items():
        method = getattr(catalog.view, name)
        function = inspect.getclosurevars(method).nonlocals["function"]
        assert isinstance(function.__self__, aiosql.queries.Queries), name
        assert function.__func__.parameters == [param.name for param in query.params]
        assert function.__func__.sql == ";\n".join(statement.sql for statement in query.statements)
        assert query.contract in (method.__doc__ or "")
        assert query.doc in (method.__doc__ or "")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_statement_has_the_tag_of_its_query_behind_its_first_word(dialect: Dialect) -> None:
    for name, query in Catalog.load(dialect, MODELS_BY_NAME).queries.items():
        for statement in query.statements:
            assert statement.sql.split(None, 1)[1].startswith(f"/* dal:{name} */"), statement.sql


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("arguments", [{}, {"id": uuid4()}, {"run_id": uuid4(), "id": 1}, {"Run_id": uuid4()}])
def test_wrong_argument_names_are_a_type_error_that_names_the_right_ones(
    dialect: Dialect, arguments: dict[str, Any]
) -> None:
    view = Catalog.load(dialect, MODELS_BY_NAME).view()
    call = getattr(view, "get_run")(**arguments)  # noqa: B009 - the stubs refuse what is tested here
    with pytest.raises(TypeError, match=rf"get_run takes \['run_id'\], got {re.escape(str(sorted(arguments)))}"):
        call.send(None)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_value_that_is_refused_names_the_query_and_the_parameter(dialect: Dialect) -> None:
    call = Catalog.load(dialect, MODELS_BY_NAME).view().get_run(run_id="7")  # type: ignore[attr-defined]  # made at run time
    with pytest.raises(Invalid) as refused:
        call.send(None)
    assert (refused.value.query, refused.value.path) == ("get_run", "run_id")


def test_the_database_sees_the_tag(
    sqlite_db: dal.Dal[dal.Sync], postgres_db: dal.Dal[dal.Sync], postgres_url: str
) -> None:
    seen: list[str] = []
    with sqlite_db.transaction(read_only=True) as tx:
        tx.connection.set_trace_callback(seen.append)
        tx.runs.list(uuid4())
        tx.connection.set_trace_callback(None)
    with postgres_db.transaction() as tx, psycopg.connect(postgres_url) as other:
        tx.runs.list(uuid4())
        last = "select query from pg_stat_activity where pid = %s"
        seen += other.execute(last, [tx.connection.info.backend_pid]).fetchone() or ()
    assert len(seen) == 2
    assert [text.startswith("select /* dal:list_runs */ id") for text in seen] == [True, True], seen


TRAP: dict[Dialect, str] = {
    "postgres": r"""select '%s :n ? $1 :: %' || E'it\'s :n' || $$ :n ' $$ || $n$ $$ :n $n$ || :x::text
       || (array['a', 'b', 'c'])[2:3]::text || (5 % 3) /* :n /* ' */ */ -- don't :n
       || (:x like '%x%')::text;""",
    "sqlite": r"""select '%s :n ? $1 :: %' || 'it''s :n' || ' :n '' ' || ' $$ :n ' || :x
       || '{b,c}' || (5 % 3) /* :n ' */ -- don't :n
       || iif(:x like '%x%', 'true', 'false');""",
}


def test_the_traps_of_a_regular_expression_run_on_both_databases(tmp_path: Path, postgres_url: str) -> None:
    header = "-- name: get_trap(x)$\n-- params: x text\n-- returns: text\n-- class: point\n"
    write(
        tmp_path,
        {"postgres/t.sql": header + TRAP["postgres"], "sqlite/t.sql": "-- name: get_trap(x)$\n" + TRAP["sqlite"]},
    )
    answers = []
    for door in (SqliteDoor(), PostgresDoor(Settings.from_url(postgres_url))):
        dialect: Dialect = "sqlite" if isinstance(door, SqliteDoor) else "postgres"
        try:
            call = Catalog.load(dialect, {}, root=tmp_path).view(door).get_trap(x="a%s'x")  # type: ignore[attr-defined]
            with pytest.raises(StopIteration) as done:
                call.send(None)
            answers.append(done.value.value)
        finally:
            door.close()
    assert answers[0] == answers[1] == "%s :n ? $1 :: %it's :n :n '  $$ :n a%s'x{b,c}2true"


# --- overrides --------------------------------------------------------------------------------------------------------


def test_an_override_replaces_one_query_and_leaves_the_others(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write(root, {"postgres/rows.sql": GET_ROW + GET_TWO})
    write(root, {"sqlite/rows.sql": TWIN + TWIN_TWO})
    mine = tmp_path_factory.mktemp("mine")
    write(mine, {"postgres/rows.sql": GET_ROW.replace("select a", "select a + 1 as a")})
    write(mine, {"sqlite/rows.sql": TWIN.replace("select a", "select a + 2 as a")})
    for dialect, added in (("postgres", "+ 1"), ("sqlite", "+ 2")):
        catalog = Catalog.load(dialect, MODELS, mine, root=root)  # type: ignore[arg-type]  # a Dialect
        assert catalog.queries["get_row"].statements[0].sql.startswith(f"select /* dal:get_row */ a {added}")
        assert catalog.queries["get_row"].path == mine / dialect / "rows.sql"
        assert catalog.queries["get_two"].path == root / dialect / "rows.sql"
        function = inspect.getclosurevars(catalog.view.get_row).nonlocals["function"]  # type: ignore[attr-defined]
        assert added in function.__func__.sql


def test_an_edited_override_is_read_again_when_the_database_is_opened_again(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mine = tmp_path_factory.mktemp("mine")
    found = []
    for column in ("b", "c"):
        write(mine, {"postgres/rows.sql": GET_ROW.replace("select a", f"select {column} as a")})
        found.append(Catalog.load("postgres", MODELS, mine, root=root).queries["get_row"].statements[0].sql)
    assert [text.removeprefix("select /* dal:get_row */ ")[:1] for text in found] == ["b", "c"]


OVERRIDES: dict[str, tuple[dict[str, str], str]] = {
    "a name that nothing has": (
        {"postgres/rows.sql": HERE + GET_TWO},
        "get_two overrides nothing",
    ),
    "another contract": (
        {"postgres/rows.sql": HERE + GET_ROW.replace("id int", "id text")},
        r"changes the contract: get_row\(id int\)\^ -> Row",
    ),
    "another answer": (
        {"postgres/rows.sql": HERE + GET_ROW.replace(": Row", ": Applied[Row]")},
        "changes the contract",
    ),
    "a fault of its own": ({"postgres/rows.sql": HERE + GET_ROW.replace(":id;", ":id + :b;")}, "uses :b"),
    "a name twice": ({"postgres/rows.sql": f"{GET_ROW}\n{HERE}{GET_ROW}"}, "get_row is defined twice; first at"),
    "another file": ({"postgres/mine.sql": HERE + GET_ROW}, "get_row stands in rows.sql"),
}


@pytest.mark.parametrize("fault", OVERRIDES)
def test_an_override_that_does_not_fit_is_refused_with_its_line(
    root: Path, tmp_path_factory: pytest.TempPathFactory, fault: str
) -> None:
    files, said = OVERRIDES[fault]
    mine = tmp_path_factory.mktemp("mine")
    where = write(mine, files)
    message = refusal(root, overrides=mine)
    assert message.startswith(f"A query file is wrong: {where}: "), message
    assert re.search(said, message), message


def test_a_folder_whose_overrides_would_not_be_seen_is_refused(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mine = tmp_path_factory.mktemp("mine")
    assert "is no folder of overrides" in refusal(root, overrides=mine / "typo")
    write(mine, {"rows.sql": GET_ROW})
    assert "is no folder of overrides" in refusal(root, overrides=mine)


def test_an_override_from_the_settings_is_what_the_database_is_asked(sqlite_url: str, tmp_path: Path) -> None:
    packaged = load_catalog(Settings()).queries["get_schema_version"].text
    write(
        tmp_path / "mine",
        {"sqlite/meta.sql": f"-- name: get_schema_version()$\n{packaged.replace('max', '100 + max')}"},
    )
    settings = Settings.from_url(sqlite_url, sql_dir=tmp_path / "mine")
    with dal.connect(sqlite_url) as usual, dal.connect(settings) as overridden:
        assert overridden.health().schema_version == 100 + usual.health().schema_version


# --- the packaged queries ---------------------------------------------------------------------------------------------


def test_every_packaged_query_says_what_it_answers() -> None:
    undocumented = [q.where() for q in Catalog.load("postgres", MODELS_BY_NAME).queries.values() if not q.doc]
    assert undocumented == []


def test_a_script_of_sqlite_says_why_it_differs() -> None:
    queries = Catalog.load("sqlite", MODELS_BY_NAME).queries.values()
    silent = [query.where() for query in queries if len(query.statements) > 1 and not query.differs]
    assert silent == [], "several statements where PostgreSQL has one need a '-- differs:' line"


def test_every_file_stands_in_both_dialects() -> None:
    names = [{path.name for path in (sql_root() / dialect).glob("*.sql")} for dialect in DIALECTS]
    assert names[0] == names[1]
    for dialect in DIALECTS:
        for path in (sql_root() / dialect).glob("*.sql"):
            assert path.name == "schema.sql" or split_file(path, dialect), f"{path} holds no query"


def calls(body: ast.AsyncFunctionDef, helpers: Mapping[str, ast.AsyncFunctionDef]) -> set[str]:
    """The queries that a body runs, by itself or in a coroutine of its module."""
    found = {
        node.attr
        for node in ast.walk(body)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "q"
    }
    for node in ast.walk(body):
        name = node.func if isinstance(node, ast.Call) else None
        named = name.attr if isinstance(name, ast.Attribute) else name.id if isinstance(name, ast.Name) else ""
        if named in helpers and helpers[named] is not body:
            found |= calls(helpers[named], helpers)
    return found


def methods() -> Iterator[tuple[str, set[str], bool]]:
    """The methods of the stores: a name, the queries, whether the decorator says that it writes."""
    for path in sorted((Path(dal.__file__).parent / "stores").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        bodies = [each for each in ast.walk(tree) if isinstance(each, ast.AsyncFunctionDef)]
        helpers = {each.name: each for each in bodies if each.name.startswith("_")}
        for node in bodies:
            if node.args.args[:1] and node.args.args[0].arg == "self":
                for decorator in map(ast.unparse, node.decorator_list):
                    if decorator.startswith(("statement", "repeated")):
                        yield f"{path.stem}.{node.name}", calls(node, helpers), "write=True" in decorator


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_method_is_declared_as_writing_if_its_query_writes(dialect: Dialect) -> None:
    queries = Catalog.load(dialect, MODELS_BY_NAME).queries
    checked, wrong = 0, []
    for name, called, writes in methods():
        assert called, f"{name} runs no query"
        checked += len(called)
        # One that writes may read before: dispatch_due reads what is due.
        wrong += (
            [f"{name}: {', '.join(sorted(called))}"] if any(queries[query].writes for query in called) != writes else []
        )
    assert wrong == [], "decorator and SQL disagree on what writes"
    assert checked > 25, f"only {checked} calls were found"

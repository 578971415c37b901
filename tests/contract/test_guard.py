"""The guard: what it says of query files that are wrong, on both dialects, and that it keeps quiet about those we have.

Most files here are overrides of one query, which is how a DBA's edit meets the gates.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

import dal
from dal import Settings, cli
from dal.core.catalog import Catalog, sql_root
from dal.core.rows import Dialect
from dal.dal import MODELS_BY_NAME, load_catalog
from dal.errors import Invalid, SchemaError
from dal.guard import gates, pages, stubs
from dal.guard.findings import Finding, as_text, failed
from dal.guard.prepare import check_postgres, check_sqlite
from dal.guard.scratch import describe, private_postgres, private_sqlite
from dal.guard.steps import parse_step
from dal.guard.trees import Tree, from_explain, masked
from tests.server import installations

POSTGRES = {query.name: query for query in Catalog.load("postgres", MODELS_BY_NAME).queries.values()}
SQLITE = {query.name: query for query in Catalog.load("sqlite", MODELS_BY_NAME).queries.values()}
OF: dict[Dialect, Any] = {"postgres": POSTGRES, "sqlite": SQLITE}
DIALECTS: Sequence[Dialect] = ("postgres", "sqlite")


@pytest.fixture
def overrides(tmp_path: Path) -> Path:
    """An empty DAL_SQL_DIR."""
    for dialect in DIALECTS:
        (tmp_path / "mine" / dialect).mkdir(parents=True)
    return tmp_path / "mine"


def rewrite(overrides: Path, name: str, change: Callable[[str], str], dialect: Dialect = "postgres") -> Path:
    """Override one query with its own text, changed; returns the file."""
    query = OF[dialect][name]
    lines = query.path.read_text("utf-8").splitlines()[query.line - 1 :]
    nexts = [at for at, line in enumerate(lines) if at and line.startswith("-- name:")]
    text = "\n".join(lines[: nexts[0] if nexts else None]).rstrip() + "\n"
    changed = change(text)
    assert changed != text, "the change changes nothing"
    path: Path = overrides / dialect / query.path.name
    with path.open("a", encoding="utf-8") as file:
        file.write(changed)
    return path


def swap(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


def found(overrides: Path | None = None, url: str | None = None, root: Path | None = None) -> list[Finding]:
    return [finding for gate in gates.check(url, overrides=overrides, root=root) for finding in gate.findings]


def told(findings: Sequence[Finding]) -> str:
    return "\n\n".join(map(as_text, findings)) or "nothing was found"


def only(findings: Sequence[Finding]) -> Finding:
    assert len(findings) == 1, told(findings)
    return findings[0]


# --- all is well ------------------------------------------------------------------------------------------------------


def test_our_own_queries_pass_every_gate_on_both_databases(postgres_url: str) -> None:
    passed = list(gates.check(postgres_url))
    assert [gate.name.rstrip("0123456789") for gate in passed] == [
        "catalog", "static", "prepare and rows on SQLite", "prepare and rows on PostgreSQL ",
    ]  # fmt: skip
    assert not found(url=postgres_url), told(found(url=postgres_url))


def test_preparing_leaves_nothing_behind_on_a_server(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        before = schemas(connection)
        found(url=postgres_url)
        assert schemas(connection) == before


def schemas(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return connection.execute(
        "select n.nspname, count(c.oid) from pg_namespace n left join pg_class c on c.relnamespace = n.oid"
        " where n.nspname !~ '^pg_' group by 1 order by 1"
    ).fetchall()


# --- static rules -----------------------------------------------------------------------------------------------------

LIST = "list_runs"
COLUMNS = re.compile(r"select id,.*?updated_at\n", re.DOTALL)
MAYBE = swap("status = :status and", "(:status is null or status = :status) and")
MAYBE_TURNED = swap("status = :status and", "(status = :status or :status is null) and")
MAYBE_CAST = swap("status = :status and", "(:status::text is null or status = :status) and")
CASES: list[tuple[str, str, Callable[[str], str], Dialect, str]] = [
    ("select-star", LIST, lambda text: COLUMNS.sub("select *\n", text), "postgres", "*"),
    ("select-star", LIST, lambda text: COLUMNS.sub("select runs.*\n", text), "postgres", "*"),
    ("offset", LIST, swap("limit :limit;", "limit :limit offset 10;"), "postgres", "offset"),
    ("offset", LIST, swap("limit :limit;", "limit :limit offset 10;"), "sqlite", "offset"),
    ("optional-filter", "list_runs_by_status", MAYBE, "postgres", ":status"),
    ("optional-filter", "list_runs_by_status", MAYBE_TURNED, "sqlite", ":status"),
    ("optional-filter", "list_runs_by_status", MAYBE_CAST, "postgres", ":status"),
    ("limit-without-order", LIST, swap("order by created_at desc, id desc\n", "\n"), "postgres", "limit"),
    ("limit-without-unique-order", LIST, swap("desc, id desc\n", "desc\n"), "postgres", "order"),
    ("limit-without-unique-order", "list_versions", swap("by number desc", "by created_at desc"), "sqlite", "order"),
    ("limit-without-unique-order", "list_workflows_by_tag", swap("workflow_id desc\n         ", "tag\n         "),
     "postgres", "order"),
    ("cast", LIST, swap("limit :limit", "limit :limit::integer"), "sqlite", "::"),
    ("keyword-case", LIST, swap("order by", "ORDER BY"), "postgres", "ORDER"),
    ("white-space", LIST, swap("  from runs\n", "  from runs \n"), "postgres", "from runs"),
    ("white-space", LIST, swap("  from runs\n", "\tfrom runs\n"), "sqlite", "from runs"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "name", "change", "dialect", "at"), CASES)
def test_a_rule_of_writing_is_told_with_its_line_and_what_to_do(
    overrides: Path, rule: str, name: str, change: Callable[[str], str], dialect: Dialect, at: str
) -> None:
    path = rewrite(overrides, name, change, dialect)
    findings = [finding for finding in found(overrides) if finding.rule == rule]
    assert findings, told(found(overrides))
    line = int(findings[0].where.rpartition(":")[2])
    assert findings[0].where.startswith(str(path))
    assert at in path.read_text("utf-8").splitlines()[line - 1]
    assert findings[0].mend


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("update_version_config", swap("where workflow_id = :workflow_id and",
                                       "where (:runnable_config is null or true) and workflow_id = :workflow_id and")),
        (LIST, swap("order by created_at desc, id desc", "order by runs.created_at desc, runs.id")),
        (LIST, swap("  from runs\n", "  from runs /* SELECT * OFFSET */\n")),
        (LIST, swap("and (created_at", "and status <> 'SELECT *' and (created_at")),
        ("get_version_latest", swap("order by number desc", "order by id, number")),
        ("list_versions", swap("  from workflow_versions\n where workflow_id = :workflow_id and",
                               "  from workflow_versions as v\n where v.workflow_id = :workflow_id and")),
    ],
)  # fmt: skip
def test_what_only_looks_like_a_fault_is_let_through(overrides: Path, name: str, change: Callable[[str], str]) -> None:
    rewrite(overrides, name, change)
    assert not found(overrides), told(found(overrides))


def test_an_order_is_unique_through_a_join_on_the_other_tables_key(overrides: Path) -> None:
    rewrite(
        overrides,
        "list_workflow_events",
        swap(
            "  from workflow_events\n",
            "  from workflow_events\n  join workflows w on w.id = workflow_events.workflow_id\n",
        ),
    )
    assert not found(overrides), told(found(overrides))


def test_an_order_is_not_unique_when_a_join_may_multiply_its_rows(overrides: Path) -> None:
    def joined(text: str) -> str:
        text = text.replace("from workflow_events\n", "from workflow_events e join run_events r on r.actor = e.actor\n")
        return text.replace("order by number", "order by e.number")

    rewrite(overrides, "list_workflow_events", joined)
    finding = next(each for each in found(overrides) if each.rule == "limit-without-unique-order")
    assert "unique key of run_events: (number, run_id)" in finding.mend


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of sql/ to change."""
    shutil.copytree(sql_root(), tmp_path / "sql")
    return tmp_path / "sql"


def test_a_query_that_no_store_calls_is_told(root: Path) -> None:
    for dialect in DIALECTS:
        with (root / dialect / "runs.sql").open("a", encoding="utf-8") as file:
            contract = "-- params: run_id uuid\n-- returns: text\n-- class: point\n" if dialect == "postgres" else ""
            file.write(f"\n-- name: get_run_name(run_id)$\n{contract}select name from runs where id = :run_id;\n")
    finding = only(found(root=root))
    assert (finding.rule, finding.query) == ("unused-query", "get_run_name")
    assert "q.get_run_name in dal/stores/runs.py" in finding.mend


def test_a_twin_of_several_statements_says_why(root: Path) -> None:
    path = root / "sqlite/runs.sql"
    text = path.read_text("utf-8")
    before, _, after = text.partition("-- name: mark_run_running")
    path.write_text(before + "-- name: mark_run_running" + re.sub(r"-- differs:.*\n", "", after, count=1), "utf-8")
    finding = only(found(root=root))
    assert (finding.rule, finding.query) == ("twin-differs", "mark_run_running")
    assert "3 statements, where PostgreSQL has 1" in finding.message


# --- prepare ----------------------------------------------------------------------------------------------------------


def test_a_missing_column_is_told_in_the_servers_words_with_a_caret(overrides: Path, postgres_url: str) -> None:
    path = rewrite(
        overrides, LIST, swap("where workflow_id = :workflow_id", "where /* its\n own */ workflow = :workflow_id")
    )
    finding = only(found(overrides, postgres_url))
    assert finding.rule == "prepare"
    assert finding.message == 'PostgreSQL says: column "workflow" does not exist'
    line = finding.where.removeprefix(f"{path}:")
    source = path.read_text("utf-8").splitlines()[int(line) - 1]
    assert finding.detail[0] == source
    assert source[finding.detail[1].index("^") :].startswith("workflow = ")


@pytest.mark.parametrize(
    ("change", "words", "at"),
    [
        (swap(":workflow_id and", ":workflow_id and and"), 'near "and": syntax error', None),
        (swap("where workflow_id =", "where workflow ="), "no such column: workflow", "workflow ="),
        (swap("from runs", "from rums"), "no such table: rums", "rums"),
        (swap("limit :limit", "limitt :limit"), 'near "limitt": syntax error', "limitt"),
    ],
)
def test_what_sqlite_refuses_is_told_in_its_words(
    overrides: Path, change: Callable[[str], str], words: str, at: str | None
) -> None:
    rewrite(overrides, LIST, change, "sqlite")
    finding = next(each for each in found(overrides) if each.rule == "prepare")
    assert finding.message == f"SQLite says: {words}"
    if at:
        assert finding.detail[0][finding.detail[1].index("^") :].startswith(at)


def test_every_statement_of_a_script_is_prepared(overrides: Path) -> None:
    rewrite(overrides, "mark_run_running", swap("insert into run_events", "insert into run_event"), "sqlite")
    assert only(found(overrides)).message == "SQLite says: no such table: run_event"


def test_a_parameter_of_another_type_than_declared_is_told(overrides: Path, postgres_url: str) -> None:
    rewrite(overrides, LIST, swap("limit :limit", "limit :limit::integer"))
    finding = only(found(overrides, postgres_url))
    assert finding.rule == "parameter-type"
    assert finding.message == ":limit is declared int, and the statement takes integer"


def test_a_parameter_that_the_server_cannot_type_is_told(overrides: Path, postgres_url: str) -> None:
    rewrite(overrides, LIST, swap("limit :limit", "and :limit is not null limit 5"))
    findings = [each for each in found(overrides, postgres_url) if each.rule in ("prepare", "parameter-type")]
    assert findings, told(found(overrides, postgres_url))


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_select_list_that_is_not_the_models_fields_is_shown_beside_them(
    overrides: Path, postgres_url: str, dialect: Dialect
) -> None:
    rewrite(
        overrides,
        "get_run",
        swap("select id, workflow_id, version_id,", "select id, version_id, workflow_id,"),
        dialect,
    )
    finding = only(found(overrides, postgres_url))
    assert finding.rule == "rows"
    lines = [" ".join(line.split()) for line in finding.detail]
    assert lines[0] == "select list Run"
    assert "* version_id workflow_id" in lines
    assert "* workflow_id version_id" in lines
    assert "id id" in lines


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_column_too_few_is_told(overrides: Path, postgres_url: str, dialect: Dialect) -> None:
    rewrite(overrides, "get_run", swap("error, attempt,", "error,"), dialect)
    finding = only(found(overrides, postgres_url))
    assert finding.rule == "rows"
    assert any(line.split()[-2:] == ["retry_of", "attempt"] for line in finding.detail), told([finding])


def test_a_column_of_another_type_than_its_field_is_told(overrides: Path, postgres_url: str) -> None:
    rewrite(overrides, "get_run", swap("error, attempt,", "error, attempt::int as attempt,"))
    finding = only(found(overrides, postgres_url))
    assert finding.rule == "row-type"
    assert finding.message == "column attempt is integer, its field is int"
    assert "attempt::bigint" in finding.mend


def test_a_change_that_answers_no_row_is_told(overrides: Path) -> None:
    def without_answer(text: str) -> str:
        return text[: text.rindex("select changes() = 1 as applied")]

    rewrite(overrides, "mark_run_running", without_answer, "sqlite")
    finding = only(found(overrides))
    assert (finding.rule, finding.message) == ("rows", "answers no rows; Applied[Run] is promised")


def test_two_answers_of_one_script_are_told(overrides: Path) -> None:
    rewrite(overrides, "mark_run_running", lambda text: text + "select 1;\n", "sqlite")
    assert only(found(overrides)).message == "2 of its statements answer rows"


# --- overrides --------------------------------------------------------------------------------------------------------


def broken(text: str) -> str:
    return text.replace("limit)", "limit, extra)").replace("limit int", "limit int, extra int")


def test_a_broken_override_is_refused_and_the_packaged_query_serves(
    overrides: Path, sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = rewrite(overrides, LIST, swap("limit)", "limit, extra)"), "sqlite")
    rewrite(overrides, "get_run", swap("where id = :run_id", "where id = :run_id and 1 = 1"), "sqlite")
    settings = Settings.from_url(sqlite_url, sql_dir=overrides)
    with caplog.at_level(logging.ERROR, "dal.catalog"):
        queries = load_catalog(settings).queries
    assert queries[LIST].path == SQLITE[LIST].path
    assert queries["get_run"].path == path, "an override that fits is used, even beside one that does not"
    said = only_line(caplog)
    assert said.startswith("override refused, the packaged query serves: ")
    assert f"{path}:1: the name line differs from" in said
    with dal.connect(settings) as db:
        workflow = db.workflows.create("One", actor="user")
        db.versions.create(workflow.id, {}, actor="user")
        run = db.runs.create(workflow.id, actor="user")
        assert db.runs.list(workflow.id).items == [run]


def only_line(caplog: pytest.LogCaptureFixture) -> str:
    lines = [record.getMessage() for record in caplog.records if record.name == "dal.catalog"]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("select 1;", "SQL before the first '-- name:' would never run"),
        ("-- name: get_nothing()\n-- class: point\n-- returns: Run\nselect 1;", "overrides nothing"),
        ("-- name: get_run(run_id)^\n-- params: run_id uuid\n-- returns: Workflow\n-- class: point\nselect :run_id;",
         "the override changes the contract"),
        ("-- name: get_run(run_id)^\n-- params: run_id uuid\n-- returns: Run\n-- class: point\nselect ':run_id;",
         "opens a quotation that never closes"),
    ],
)  # fmt: skip
def test_check_calls_a_refused_override_an_error(overrides: Path, text: str, reason: str) -> None:
    (overrides / "postgres/runs.sql").write_text(text + "\n", "utf-8")
    finding = next(each for each in found(overrides) if each.rule == "catalog")
    assert reason in finding.message
    assert re.search(r"postgres/runs\.sql:\d+$", finding.where)


def test_a_header_says_how_a_query_is_to_be_executed(overrides: Path) -> None:
    line = "-- class: page\n-- plan: uses runs_workflow_created_idx, rows 60, custom\n"
    rewrite(overrides, LIST, swap("-- class: page\n", line))
    query = Catalog.load("postgres", MODELS_BY_NAME, overrides).queries[LIST]
    assert (query.uses, query.rows, query.custom) == ("runs_workflow_created_idx", 60, True)
    (overrides / "postgres/runs.sql").write_text("", "utf-8")
    rewrite(overrides, LIST, swap("-- class: page\n", "-- class: page\n-- plan: custum\n"))
    assert "'custum' is no plan: custom, or uses and an index, or rows and a number" in only(found(overrides)).message


def test_a_directory_that_is_none_is_told_rather_than_passed_over(
    tmp_path: Path, sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert "is no folder of overrides" in only([*found(tmp_path / "typo")]).message
    load_catalog(Settings.from_url(sqlite_url, sql_dir=tmp_path / "typo"))
    assert "is no folder of overrides" in only_line(caplog)


def test_a_broken_packaged_file_ends_the_check_with_its_line(root: Path) -> None:
    path = root / "postgres/runs.sql"
    path.write_text(path.read_text("utf-8").replace("-- class: page", "-- class: pages", 1), "utf-8")
    passed = list(gates.check(root=root))
    assert [gate.name for gate in passed] == ["catalog"]
    assert "'pages' is no class" in only(passed[0].findings).message


# --- the program ------------------------------------------------------------------------------------------------------


class Said(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """``run('check')``: the program, in an empty directory."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")

    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["dal", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return Said(ended.value.code if isinstance(ended.value.code, int) else 0, out, err)

    return call


def test_check_exits_with_1_and_says_what_is_wrong(run: Run, overrides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("check").status == 0
    rewrite(overrides, LIST, swap("limit :limit;", "limit :limit offset 10;"))
    monkeypatch.setenv("DAL_SQL_DIR", str(overrides))
    said = run("check")
    assert said.status == 1
    assert "wrong  static" in said.out
    assert "to mend: go on after the last row's key" in said.out
    as_json = run("check", "--json")
    assert as_json.status == 1
    assert [finding["rule"] for finding in json.loads(as_json.out)] == ["offset"]


def test_generate_check_tells_a_stale_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("generate", "--check").status == 0
    mine = tmp_path / "queries.pyi"
    mine.write_text("# old\n", "utf-8")
    monkeypatch.setattr(stubs, "PATH", mine)
    stale = run("generate", "--check")
    assert (stale.status, mine.read_text("utf-8")) == (1, "# old\n")
    assert stale.err.rstrip().endswith("make generate")
    assert run("generate").status == 0
    assert mine.read_text("utf-8") == stubs.render()
    assert run("generate", "--check").status == 0


def test_plans_without_their_folder_say_so_and_exit_with_2(run: Run, tmp_path: Path) -> None:
    said = run("plans", "check", "--folder", str(tmp_path))
    assert said.status == 2
    assert "params.yaml" in said.err


def test_plans_of_a_query_that_is_not_there_are_refused_at_once(run: Run) -> None:
    said = run("plans", "check", "get_rum")
    assert said.status == 1
    assert "did you mean get_run" in said.err


def test_plans_check_tries_a_change_of_the_schema(run: Run) -> None:
    said = run("plans", "check", "list_workflows_all", "--try", "drop index workflows_created_idx")
    assert said.status == 1
    assert "looked at 1 queries on SQLite" in said.out
    assert "index-lost  list_workflows_all" in said.out
    assert run("plans", "check", "list_runs", "--try", "drop index nothing").status == 2


def test_queries_list_shows_each_with_its_place(run: Run) -> None:
    lines = run("queries", "list").out.splitlines()
    assert len(lines) == len(POSTGRES)
    assert any(re.match(r"list_runs +page +Run … +.*runs\.sql:\d+$", line) for line in lines), lines[:3]
    listed = json.loads(run("queries", "list", "--json").out)
    assert {each["name"] for each in listed} == POSTGRES.keys()


def test_a_query_that_is_not_there_is_answered_with_the_nearest(run: Run) -> None:
    said = run("queries", "show", "get_rum")
    assert said.status == 1
    assert "did you mean get_run" in said.err


# --- queries for a client ---------------------------------------------------------------------------------------------

# Words that a client's own quoting could spoil.
AWKWARD = 'O\'Hara "x" \\n :tags $1 %'


# Documents that have to be lists, where any other value is shown as an object.
LISTS = {
    "create_cron_runs": ["fires=[]"],
    "create_manual_runs": ["items=[]"],
    "create_token": ["entries=[]"],
    "rotate_token": ["entries=[]"],
    "revoke_token": ["entries=[]"],
    "record_token_uses": ["uses=[]"],
    "record_token_refusals": ["refusals=[]"],
    "renew_token_hashes": ["tokens=[]"],
}


def test_what_is_shown_for_psql_runs_there(postgres_url: str, run: Run, tmp_path: Path) -> None:
    psql = psql_program()
    for name in POSTGRES:
        values = LISTS.get(name, [f"name={AWKWARD}"] if name == "create_workflow" else [])
        path = tmp_path / "query.sql"
        path.write_text(run("queries", "show", name, *values, "--psql").out, "utf-8")
        done = subprocess.run(
            [
                psql,
                "-X",
                "-v",
                "ON_ERROR_STOP=1",
                "-At",
                "-d",
                postgres_url,
                "-c",
                "begin",
                "-f",
                path,
                "-c",
                "rollback",
            ],
            capture_output=True,
            text=True,
        )
        # A sample may break a constraint, which is checked after the statement was understood.
        refused = re.search(r"ERROR: +(?!.*violates)(.*)", done.stderr)
        assert not refused, f"{name}: {done.stderr}"


def psql_program() -> str:
    return str(list(installations().values())[-1] / "psql")


def test_what_is_shown_for_the_sqlite_shell_has_the_values_in_it(run: Run, sqlite_url: str) -> None:
    """The shell is not everywhere, so its reading of .parameter is done here: words, then an expression."""
    out = run("queries", "show", "create_workflow", f"name={AWKWARD}", "description=null", "--sqlite").out
    values = {}
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as connection:
        for name, word in re.findall(r'^\.parameter set (:\w+) "(.*)"$', out, re.MULTILINE):
            expression = re.sub(r"\\(.)", r"\1", word)
            values[name[1:]] = connection.execute(f"select {expression}").fetchone()[0]
        statement = out[out.index("insert into workflows ") :].partition(";")[0]
        values["draft_access"] = "personal"
        values["tags"] = "[]"
        row = connection.execute(f"{statement} returning name, description", values).fetchone()
        connection.rollback()
    connection.close()
    assert row == (AWKWARD, None)


def test_the_sqlite_shell_itself_reads_what_is_shown(run: Run, sqlite_url: str, tmp_path: Path) -> None:
    shell = shutil.which("sqlite3")
    if shell is None:
        pytest.skip("the sqlite3 shell is not installed on this machine")
    shown = run("queries", "show", "list_workflows_by_tag", f"tag={AWKWARD}", "limit=3", "--sqlite").out
    text = shown + "select :tag, :limit;\n"
    done = subprocess.run(
        [shell, "-batch", "-bail", sqlite_url.removeprefix("sqlite:///")], input=text, capture_output=True, text=True
    )
    assert (done.stderr, done.stdout) == ("", f"{AWKWARD}|3\n")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_run_shows_the_rows_and_undoes_what_it_did(
    make_database: Callable[..., str], run: Run, dialect: Dialect
) -> None:
    url = make_database(dialect)
    words = [
        "id=01900000-0000-7000-8000-000000000001", "handle=null", "name=Ünicode", "slug=u", "description=null",
        'tags=["a"]', "draft_access=personal", "chat_config=null", "actor=me", "now=2026-01-01T00:00:00Z",
    ]  # fmt: skip
    for _ in range(2):  # twice: the first left nothing behind
        said = run("queries", "run", "create_workflow", *words, "--url", url)
        assert said.status == 0, said.err
        assert re.search(r"^name +Ünicode$", said.out, re.MULTILINE)
        assert said.out.rstrip().endswith("1 row")
    as_json = json.loads(run("queries", "run", "create_workflow", *words, "--url", url, "--json").out)
    assert as_json[0]["id"] == "01900000-0000-7000-8000-000000000001"
    with dal.connect(url) as db:
        assert db.workflows.list().items == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_explain_shows_how_and_undoes_it(make_database: Callable[..., str], run: Run, dialect: Dialect) -> None:
    url = make_database(dialect)
    said = run(
        "queries", "explain", "list_versions_numbered", "workflow_id=01900000-0000-7000-8000-000000000001",
        "numbers=[1,2]", "--url", url,
    )  # fmt: skip
    assert said.status == 0, said.err
    if dialect == "postgres":
        assert said.out.startswith("planned with these values, as it will be served:"), said.out
        assert "planned for any values:" in said.out
        assert "Execution Time" in said.out
    else:
        assert "SEARCH workflow_versions" in said.out
        assert re.search(r"\d+ steps of the virtual machine", said.out)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ["limit=50"],
            "list_runs needs workflow_id uuid, after_at timestamptz, after_id uuid: write name=value for each",
        ),
        (["limit=many"], "limit: 'many' is no int"),
        (["limit=true"], "limit: takes int"),
        (["limit=null"], "limit: takes int"),
        (["workflow_id=1"], "workflow_id: '1' is no uuid"),
        (["after_at=yesterday"], "after_at: 'yesterday' is no timestamptz"),
        (["after_at=2026-01-01T00:00:00"], "after_at: a datetime without time zone"),
        (["size=3"], "'size=3' is no parameter; list_runs takes workflow_id uuid"),
        (["limit"], "'limit' has no value: write limit="),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(words: list[str], reason: str) -> None:
    with pytest.raises(Invalid) as refused:
        pages.parse_values(POSTGRES[LIST], words, whole=len(words) == 1 and words == ["limit=50"])
    assert reason in str(refused.value)


def test_a_database_without_its_schema_is_not_given_one_by_looking(run: Run, tmp_path: Path) -> None:
    said = run(
        "queries",
        "run",
        "get_run",
        "run_id=01900000-0000-7000-8000-000000000001",
        "--url",
        f"sqlite:///{tmp_path}/no.db",
    )
    assert said.status == 1
    assert "dal schema apply" in said.err
    assert not (tmp_path / "no.db").exists()
    with pytest.raises(SchemaError):
        pages.run(Settings.from_url("sqlite:///:memory:"), "get_run", ["run_id=01900000-0000-7000-8000-000000000001"])


# --- trees and steps --------------------------------------------------------------------------------------------------


def test_trees_differ_by_structure_and_not_by_constants() -> None:
    one = Tree(["Index Scan using runs_pkey on runs", "  · index cond: (id = :run_id)"])
    other = Tree(["Index Scan using runs_pkey on runs", "  · index cond: (id = '0190'::uuid)"])
    third = Tree(["Index Scan using runs_pkey on runs", "  · index cond: (retry_of = :run_id)"])
    assert one.hash == other.hash != third.hash


@pytest.mark.parametrize(
    ("line", "same"),
    [
        (
            "ROW(at, id) < ROW(:at, :id)",
            "ROW(at, id) < ROW('2026-01-01 00:00:00+00'::timestamp with time zone, 'x'::uuid)",
        ),
        ("(id = (InitPlan 1).col1)", "(id = $0)"),
        ("number = ANY (:numbers)", "number = ANY ('{3,250}'::bigint[])"),
        ("(number > 5)", "(number > '7'::bigint)"),
        ("(a = 'it''s')", "(a = 'x')"),
    ],
)
def test_constants_are_masked(line: str, same: str) -> None:
    assert masked(line) == masked(same)


def test_casts_of_columns_and_names_with_digits_are_not_masked() -> None:
    assert masked("((id)::text = u_1.id)") == "((id)::text = u_1.id)"


def test_a_self_join_keeps_both_its_sides() -> None:
    plan = {
        "Node Type": "Nested Loop", "Join Type": "Inner",
        "Plans": [
            {"Node Type": "Seq Scan", "Relation Name": "runs", "Alias": "a"},
            {"Node Type": "Index Scan", "Relation Name": "runs", "Alias": "b", "Index Name": "runs_pkey"},
        ],
    }  # fmt: skip
    scans = from_explain(plan, []).scans
    assert [(scan.alias, scan.index) for scan in scans] == [("a", None), ("b", "runs_pkey")]


def test_a_scan_that_finds_the_rows_to_change_is_known_from_others() -> None:
    tree = Tree(["Delete on runs r", "  Nested Loop", "    Seq Scan on runs r", "    Seq Scan on workflows w"])
    assert [scan.changes for scan in tree.scans] == [True, False]


@pytest.mark.parametrize(
    ("detail", "line"),
    [
        ("SEARCH r USING INDEX sqlite_autoindex_runs_1 (id=?) LEFT-JOIN", "search runs r using runs_pkey (id)"),
        ("SEARCH TABLE runs AS r USING INDEX i (a=? AND (b,c)<(?,?))", "search runs using i (a, b, c)"),
        ("SEARCH e USING PRIMARY KEY (run_id=? AND number>?)", "search e using primary key (run_id, number)"),
        ("SCAN runs", "scan runs"),
        ("SCAN runs USING COVERING INDEX i", "scan runs using covering i"),
        ("SCAN CONSTANT ROW", "scan constant row"),
        ("SCAN json_each VIRTUAL TABLE INDEX 1:", "scan json_each"),
        ("SEARCH r USING AUTOMATIC COVERING INDEX (id=?)", "search runs r using covering an automatic index (id)"),
        ("SEARCH t USING INTEGER PRIMARY KEY (rowid=?)", "search t using rowid (rowid)"),
        ("USE TEMP B-TREE FOR ORDER BY", "use temp b-tree for order by"),
    ],
)  # fmt: skip
def test_a_line_of_sqlites_plan_is_read_whatever_the_release(detail: str, line: str) -> None:
    step = parse_step(detail, 1, 0, {"r": "runs"}, {"sqlite_autoindex_runs_1": "runs_pkey"})
    assert step.line() == f"1  {line}"


def test_partial_and_nullable_indexes_are_no_unique_keys() -> None:
    with private_sqlite(
        Catalog.load("sqlite", MODELS_BY_NAME), ["create unique index x on runs (retry_of)"]
    ) as connection:
        tables = describe(connection)
    assert tables["runs"].keys == [frozenset({"id"})]
    assert tables["workflows"].keys == [frozenset({"id"})]
    assert frozenset({"workflow_id", "number"}) in tables["workflow_versions"].keys


def test_the_gates_can_be_used_alone(postgres_url: str) -> None:
    with private_postgres(postgres_url, Catalog.load("postgres", MODELS_BY_NAME)) as server:
        assert check_postgres(server, POSTGRES, MODELS_BY_NAME) == []
    with private_sqlite(Catalog.load("sqlite", MODELS_BY_NAME)) as connection:
        assert check_sqlite(connection, SQLITE, MODELS_BY_NAME) == []
    assert not failed([])

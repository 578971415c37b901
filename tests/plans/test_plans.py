"""How every query is executed, on both databases, against the files beside this one; and that a plan gone bad is told.

Taking all plans costs tens of seconds a server, so it is done once, and once more for a database with faults.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import psycopg
import pytest
import yaml
from msgspec.structs import replace

from dal.core.catalog import Catalog
from dal.dal import MODELS_BY_NAME
from dal.guard import capture_postgres, policy, snapshots
from dal.guard.capture import CannotCapture, Capture, Rows, Skipped, Sources
from dal.guard.findings import Finding, as_text, failed
from dal.guard.plans import Plans
from dal.guard.policy import Policy
from dal.guard.scratch import describe, private_sqlite
from dal.guard.steps import Step
from dal.guard.trees import Tree
from tests.cells import VERSIONS
from tests.plans.conftest import MakeRows

pytestmark = pytest.mark.xdist_group("plans")  # in one process, where what they look at is taken once
FOLDER = Path(__file__).parent
MakeDatabase = Callable[..., str]
_TAKEN: dict[object, Plans] = {}


def once(key: object, take: Callable[[], Plans]) -> Plans:
    if key not in _TAKEN:
        _TAKEN[key] = take()
    return _TAKEN[key]


def taken(version: int, make_database: MakeDatabase, rows: MakeRows) -> Plans:
    """The plans of the queries as they are, taken once a process, for the tests of growth, too."""
    return once(version, lambda: Plans(make_database("postgres", version), rows=rows(version)))


@pytest.fixture(params=VERSIONS, ids=lambda version: f"postgres{version or ''}")
def plans(request: pytest.FixtureRequest, make_database: MakeDatabase, rows: MakeRows) -> Plans:
    """The plans of the queries as they are, on SQLite and on one PostgreSQL."""
    return taken(request.param, make_database, rows)


@pytest.fixture
def of_usual(make_database: MakeDatabase, rows: MakeRows) -> Plans:
    """The same, on the usual server."""
    return taken(VERSIONS[-1], make_database, rows)


def copied(plans: Plans, folder: Path) -> Plans:
    """The same plans beside a copy of the files, which may be changed."""
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    mine = copy.copy(plans)
    mine.sources = Sources(folder)
    return mine


def told(findings: Sequence[Finding]) -> str:
    return "\n\n".join(map(as_text, findings))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a snapshot."""
    snapshot = yaml.safe_load(path.read_text("utf-8"))
    change(snapshot)
    path.write_text(snapshots.dump(snapshot), "utf-8")


# --- the queries as they are ------------------------------------------------------------------------------------------


def test_every_query_is_executed_as_recorded_and_within_the_policy(plans: Plans) -> None:
    findings = plans.check()
    assert not failed(findings), f"{len(findings)} findings on {', '.join(plans.databases)}:\n\n{told(findings)}"


def test_recording_again_changes_no_file(plans: Plans, tmp_path: Path) -> None:
    mine = copied(plans, tmp_path / "plans")
    known = yaml.safe_load((FOLDER / "runs/get_run.yaml").read_text("utf-8"))
    known_versions = set(known["postgres"]["verified_on"] + known["sqlite"]["verified_on"])
    first, again = mine.record(), mine.record()
    if {database.split()[1] for database in plans.databases} <= known_versions:
        assert ([path.name for path in first.written], first.removed) == ([], [])
    assert ([path.name for path in again.written], again.unchanged) == ([], len(plans.queries))


def test_both_seeds_give_the_same_rows(of_usual: Plans, postgres_url: str) -> None:
    catalog = Catalog.load("sqlite", MODELS_BY_NAME)
    instants = {"sqlite": "{}", "postgres": """to_char({} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""}
    digests: dict[str, dict[str, tuple[int, str]]] = {"sqlite": {}, "postgres": {}}
    with private_sqlite(catalog) as lite, psycopg.connect(postgres_url) as server:
        server.execute("truncate dal_schema_migrations")
        for sql in of_usual.sources.seed("sqlite", 1):
            lite.execute(sql)
        for sql in of_usual.sources.seed("postgres", 1):
            server.execute(sql.encode())
        none = {"execution_terms", "checkpoint_terms", "chat_thread_terms"}
        none |= {"dal_database"}  # each database is another one
        none |= {name for name in describe(lite) if name.endswith("_fts")}
        for table in describe(lite).keys() - none:
            columns = lite.execute("select name, pk from pragma_table_info(?)", (table,)).fetchall()
            order = ", ".join(name for name, key in columns if key)
            for dialect, connection in (("sqlite", lite), ("postgres", server)):
                shown = [instants[dialect].format(name) if name.endswith(("_at", "_until", "_before")) or name == "at"
                         else name for name, _ in columns]  # fmt: skip
                digests[dialect][table] = digest(connection, f"select {', '.join(shown)} from {table} order by {order}")
    assert digests["sqlite"] == digests["postgres"]
    assert digests["sqlite"]["runs"][0] == 10_000


def digest(connection: Any, sql: str) -> tuple[int, str]:
    rows = [[plain(value) for value in row] for row in connection.execute(sql).fetchall()]
    return len(rows), hashlib.sha256(repr(rows).encode()).hexdigest()


def plain(value: Any) -> Any:
    """A value the same from both drivers: documents parsed, booleans as numbers, ids as text."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        return msgspec.json.decode(value)
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, (int, str, dict, list, type(None))) else str(value)


def test_dead_rows_that_another_session_keeps_are_waited_for(
    of_usual: Plans, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_postgres, "VACUUMS", 2)
    with psycopg.connect(postgres_url, autocommit=True) as server, psycopg.connect(postgres_url) as other:
        other.execute("set transaction isolation level repeatable read")
        other.execute("select count(*) from workflows")
        server.execute(of_usual.sources.seed("postgres", 1)[1].encode())
        with pytest.raises(CannotCapture, match="another session keeps old rows of workflows from being vacuumed"):
            capture_postgres._vacuum(server, ["workflows", "runs"], "freeze")
        other.rollback()
        capture_postgres._vacuum(server, ["workflows", "runs"], "freeze")


# --- a plan gone bad --------------------------------------------------------------------------------------------------

OVERRIDES = {
    # A literal limit lets a plan for any values sort all runs of a heavy workflow, where random reads count as slow.
    "list_runs": ("limit :limit;", "limit 51;"),
    "get_run": ("where id = :run_id", "where id::text = :run_id::text"),
    "list_run_events": ("order by number\n limit :limit", "order by number\n limit :limit offset 0"),
}  # fmt: skip


@pytest.fixture
def broken(make_database: MakeDatabase, tmp_path: Path, rows: MakeRows) -> Plans:
    """Three queries rewritten, and two indexes gone."""
    return once("broken", lambda: take_broken(make_database("postgres"), tmp_path / "overrides", rows(0)))


def take_broken(url: str, overrides: Path, rows: Rows) -> Plans:
    queries = Catalog.load("postgres", MODELS_BY_NAME).queries
    folder = overrides / "postgres"
    folder.mkdir(parents=True)
    text = ""
    for name, (old, new) in OVERRIDES.items():
        query = queries[name]
        lines = query.path.read_text("utf-8").splitlines()[query.line - 1 :]
        header = "\n".join(line for line in lines[: next(at for at, line in enumerate(lines) if line[:2] != "--")])
        changed = query.text.replace(old, new)
        if name == "list_runs":
            changed = changed.replace("(:after_at, :after_id)", "(:after_at, :after_id) and :limit > 0")
        assert changed != query.text
        text += f"{header}\n{changed}\n\n"
    (folder / "runs.sql").write_text(text, "utf-8")
    changes = ["drop index workflows_created_idx", "drop index runs_workflow_status_created_idx"]
    return Plans(url, overrides=overrides, changes={"sqlite": changes, "postgres": changes}, rows=rows)


def rules(plans: Plans, name: str, dialect: str | None = None) -> dict[str, Finding]:
    words = {"postgres": "PostgreSQL", "sqlite": "SQLite", None: ""}[dialect]
    return {finding.rule: finding for finding in plans.check([name]) if words in finding.message}


@pytest.mark.parametrize("dialect", ["postgres", "sqlite"])
def test_a_dropped_index_is_told_by_name_with_both_plans(broken: Plans, dialect: str) -> None:
    found = rules(broken, "list_workflows_all", dialect)
    assert {"scan-large", "index-lost", "rows-grow"} <= found.keys(), told(list(found.values()))
    assert ("sort-under-limit" in found) is (dialect == "postgres"), "SQLite does not say how many rows it sorts"
    lost = as_text(found["index-lost"])
    assert "using workflows_created_idx" in lost.split("was  ")[1].splitlines()[0]
    assert "workflows_created_idx" not in lost.split("is   ")[1].splitlines()[0]
    assert "| now" in lost, "the two plans stand beside each other"
    assert found["index-lost"].mend.partition(": ")[2].startswith("dal plans accept list_workflows_all")
    assert f"sql/{dialect}/workflows.sql:{broken.twins['list_workflows_all'].line}" in lost or dialect == "postgres"
    assert "100,000 rows" in found["scan-large"].message


@pytest.mark.parametrize("dialect", ["postgres", "sqlite"])
def test_another_index_in_its_place_is_told(broken: Plans, dialect: str) -> None:
    found = rules(broken, "list_runs_by_status", dialect)
    assert "index-swapped" in found, told(list(found.values()))
    assert "runs_workflow_status_created_idx" in found["index-swapped"].message.split("was  ")[1].splitlines()[0]
    assert "runs_workflow_created_idx" in found["index-swapped"].message.split("is   ")[1]


def test_reading_a_status_by_the_wrong_index_exceeds_the_budget_of_a_page(broken: Plans) -> None:
    finding = rules(broken, "list_runs_by_status", "postgres")["rows-budget"]
    assert "case heavy_rare: " in finding.message
    assert "(204 allowed)" in finding.message


def test_a_query_that_no_longer_fits_its_index_is_told(broken: Plans) -> None:
    found = rules(broken, "get_run", "postgres")
    assert {"scan-large", "index-lost", "rows-budget", "rows-grow"} <= found.keys(), told(list(found.values()))
    assert "100,000 rows touched to return 1 (5 allowed)" in found["rows-budget"].message
    assert "10,000 rows touched, then 100,000" in found["rows-grow"].message
    assert "10,000,000 rows" in found["scan-large"].message
    assert found["scan-large"].where.endswith(f"runs.sql:{broken.queries['get_run'].line}")


def test_a_plan_that_sorts_a_heavy_workflow_is_told_before_a_server_chooses_it(broken: Plans) -> None:
    finding = rules(broken, "list_runs")["rows-budget"]
    assert "random_page_cost 4" in finding.message
    assert "case heavy: 10,000 rows touched to return 51 (204 allowed)" in finding.message


def test_a_changed_statement_needs_to_be_looked_at_whatever_its_plan(broken: Plans) -> None:
    found = rules(broken, "list_run_events")
    assert set(found) == {"stale-snapshot"}, told(list(found.values()))
    assert "dal plans accept list_run_events" in found["stale-snapshot"].mend


def test_queries_that_nothing_happened_to_are_not_accused(broken: Plans) -> None:
    touched = {"list_runs_by_status", "list_workflows_all", "count_runs", "list_workflows_unsearchable", *OVERRIDES}
    untouched = [name for name in broken.queries if name not in touched]
    findings = broken.check(untouched)
    assert not failed(findings), told(findings)


# --- rules that no query of ours can break now ------------------------------------------------------------------------


def judged(plans: Plans, name: str, dialect: int, plan: Sequence[Any] = (), **header: Any) -> list[str]:
    """The rules that a capture breaks, with another plan and other words in its query's header."""
    capture = plans.taken[dialect][name]
    assert isinstance(capture, Capture)
    if plan and dialect == POSTGRES:
        capture = replace(capture, generic=Tree(list(plan)))
    elif plan:
        capture = replace(capture, cases={case: replace(each, steps=plan) for case, each in capture.cases.items()})
    query = dataclasses.replace(capture.query, **header)
    cases = plans.sources.cases(query)
    assert not isinstance(cases, Skipped)
    return [finding.rule for finding in policy.check(replace(capture, query=query), plans.policy, cases)]


SQLITE, POSTGRES = 0, 1


@pytest.mark.parametrize("dialect", [SQLITE, POSTGRES])
def test_an_index_that_the_header_demands_has_to_be_used(of_usual: Plans, dialect: int) -> None:
    assert judged(of_usual, "list_runs", dialect, uses="runs_workflow_created_idx") == []
    assert set(judged(of_usual, "list_runs", dialect, uses="runs_version_idx")) == {"must-use"}


def test_the_header_sets_the_budget_of_rows(of_usual: Plans) -> None:
    assert judged(of_usual, "list_runs", POSTGRES, rows=51) == []
    assert judged(of_usual, "list_runs", POSTGRES, rows=50) == ["rows-budget"]


def test_a_report_may_read_all_of_a_table(of_usual: Plans) -> None:
    scan = ["Seq Scan on runs"]
    assert judged(of_usual, "list_runs", POSTGRES, scan) == ["scan-large"]
    assert judged(of_usual, "list_runs", POSTGRES, scan, class_="report") == []


def test_a_small_table_may_be_read_whole(of_usual: Plans) -> None:
    assert judged(of_usual, "list_runs", POSTGRES, ["Seq Scan on dal_schema_migrations"]) == []


def test_a_change_that_finds_its_rows_by_reading_all_is_told_as_such(of_usual: Plans) -> None:
    plan = ["Update on runs", "  Seq Scan on runs", "    · filter: (name = :name)"]
    assert judged(of_usual, "mark_run_running", POSTGRES, plan) == ["dml-scan"]
    assert judged(of_usual, "mark_run_running", SQLITE, [Step("scan", "runs")]) == ["dml-scan"]


def test_an_index_made_for_one_statement_is_told(of_usual: Plans) -> None:
    steps = [Step("search", "runs", index="an automatic index", cols=["name"])]
    assert judged(of_usual, "list_runs", SQLITE, steps) == ["automatic-index"]


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_query_without_a_file_is_told(of_usual: Plans, tmp_path: Path) -> None:
    mine = copied(of_usual, tmp_path / "plans")
    (tmp_path / "plans/runs/get_run.yaml").unlink()
    findings = mine.check()
    assert [(each.rule, each.query) for each in findings if each.severity == "error"] == [
        ("missing-snapshot", "get_run")
    ]
    assert "dal plans record get_run" in findings[0].mend


def test_a_query_without_values_says_what_to_write(of_usual: Plans, tmp_path: Path) -> None:
    mine = copied(of_usual, tmp_path / "plans")
    path = tmp_path / "plans/params.yaml"
    path.write_text(path.read_text("utf-8").replace("  get_run:\n", "  forgotten:\n"), "utf-8")
    with pytest.raises(CannotCapture, match=r"under runs, write get_run: \{usual: \{run_id: …\}\}"):
        Sources(tmp_path / "plans").cases(mine.queries["get_run"])


def test_a_file_without_a_query_is_told_and_removed_by_recording(of_usual: Plans, tmp_path: Path) -> None:
    mine = copied(of_usual, tmp_path / "plans")
    orphan = tmp_path / "plans/runs/get_gone.yaml"
    shutil.copy(tmp_path / "plans/runs/get_run.yaml", orphan)
    assert [each.rule for each in mine.check() if each.severity == "error"] == ["orphan-snapshot"]
    assert mine.record().removed == [orphan]
    assert not orphan.exists()


def test_accepting_one_query_leaves_the_files_of_others(of_usual: Plans, tmp_path: Path) -> None:
    mine = copied(of_usual, tmp_path / "plans")
    for name in ("get_run", "list_runs"):
        edit(tmp_path / f"plans/runs/{name}.yaml", lambda snapshot: snapshot["sqlite"].update(sql="00000000"))
    done = mine.record(["get_run"])
    assert [path.name for path in done.written] == ["get_run.yaml"]
    assert [(each.rule, each.query) for each in mine.check() if each.severity == "error"] == [
        ("stale-snapshot", "list_runs")
    ]


def test_more_work_by_the_same_plan_is_told_with_its_figures(of_usual: Plans, tmp_path: Path) -> None:
    mine = copied(of_usual, tmp_path / "plans")
    path = tmp_path / "plans/runs/list_runs.yaml"

    def lighter(snapshot: dict[str, Any]) -> None:
        case = snapshot["postgres"]["cases"]["heavy"]
        case["rows_touched"] = {"small": 20, "large": 20}

    edit(path, lighter)
    findings = mine.check(["list_runs"])
    assert [finding.rule for finding in findings] == ["work-grew"], told(findings)
    assert "rows_touched small 20, now 51" in findings[0].message


@pytest.mark.parametrize(
    ("entry", "rule"),
    [
        ({"rule": "scan-large", "reason": "rare", "by": "dba", "until": "2999-01-31"}, None),
        ({"rule": "scan-large", "reason": "rare", "by": "dba", "until": "2020-01-31"}, "expired-accept"),
        ({"rule": "scan-large", "reason": "rare", "by": "dba"}, "bad-accept"),
        ({"rule": "scan-large", "reason": "rare", "by": "dba", "until": "soon"}, "bad-accept"),
    ],
)
def test_an_accepted_rule_is_silent_until_its_date(
    broken: Plans, tmp_path: Path, entry: dict[str, str], rule: str | None
) -> None:
    mine = copied(broken, tmp_path / "plans")
    path = tmp_path / "plans/runs/get_run.yaml"
    text = "".join(f"\n    {key}: {value}" for key, value in entry.items())
    path.write_text(path.read_text("utf-8").replace("accept: []", f"accept:\n  -{text[4:]}"), "utf-8")
    found = [finding.rule for finding in mine.check(["get_run"])]
    assert ("scan-large" in found) is (rule is not None), found
    assert rule is None or rule in found
    mine.record(["get_run"])
    assert "reason: rare" in path.read_text("utf-8"), "recording keeps what was accepted"


def test_a_damaged_file_is_told_and_recorded_anew(of_usual: Plans, tmp_path: Path) -> None:
    mine = copied(of_usual, tmp_path / "plans")
    path = tmp_path / "plans/runs/get_run.yaml"
    path.write_text("{", "utf-8")
    assert [finding.rule for finding in mine.check(["get_run"])] == ["bad-snapshot"]
    assert not failed(mine.record(["get_run"]).findings)
    assert not failed(mine.check(["get_run"]))


def test_recording_without_a_server_tells_what_is_missing_of_postgresql(of_usual: Plans, tmp_path: Path) -> None:
    mine = copied(of_usual, tmp_path / "plans")
    mine.taken = mine.taken[:1]
    path = tmp_path / "plans/runs/get_run.yaml"
    edit(path, lambda snapshot: snapshot["postgres"].update(sql="00000000"))
    stale = mine.record(["get_run"]).findings
    assert [(each.rule, each.mend.rpartition("then: ")[2]) for each in stale] == [
        ("stale-snapshot", "dal plans accept get_run --url URL")
    ]
    path.unlink()
    missing = mine.record(["get_run"]).findings
    assert [(each.rule, each.mend) for each in missing] == [("missing-snapshot", "dal plans record get_run --url URL")]


# --- versions ---------------------------------------------------------------------------------------------------------


def test_a_plan_that_only_another_release_makes_gets_its_own_entry(of_usual: Plans, tmp_path: Path) -> None:
    mine = copied(of_usual, tmp_path / "plans")
    path = tmp_path / "plans/runs/list_runs.yaml"
    capture = of_usual.taken[1]["list_runs"]
    other = replace(capture, version="99", generic=replace(capture.generic, lines=["Elsewhere"]))  # type: ignore[type-var,union-attr]
    mine.taken = [mine.taken[0], {**of_usual.taken[1], "list_runs": other}]
    warned = mine.check(["list_runs"])
    assert [(each.rule, each.severity) for each in warned] == [("plan-changed", "warning")], told(warned)
    assert "PostgreSQL 99 was never recorded" in warned[0].message
    mine.record(["list_runs"])
    snapshot = yaml.safe_load(path.read_text("utf-8"))
    assert list(snapshot["postgres"]["versions"]) == ["99"]
    assert mine.check(["list_runs"]) == []
    mine.taken = list(of_usual.taken)
    assert not failed(mine.check(["list_runs"])), "the others' plan is as it was"


def test_the_policy_knows_every_table() -> None:
    ours = msgspec.convert(Sources().policy, Policy)
    with private_sqlite(Catalog.load("sqlite", MODELS_BY_NAME)) as connection:
        assert set(ours.tables) == {name for name in describe(connection) if not name.endswith("_fts")}


def test_a_role_that_may_not_make_databases_is_told_what_is_needed(postgres_url: str, rows: MakeRows) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("drop role if exists dal_plans_nobody")
        connection.execute("create role dal_plans_nobody login password 'nobody'")
        parts = psycopg.conninfo.conninfo_to_dict(postgres_url, user="dal_plans_nobody", password="nobody")
        url = "postgresql:///?" + urlencode(parts)
        try:
            with pytest.raises(CannotCapture, match="needs a role that may make databases"):
                Plans(url, rows=rows(VERSIONS[-1]))
        finally:
            connection.execute("drop role dal_plans_nobody")


def test_sqlite_has_the_indexes_that_the_plans_name() -> None:
    with private_sqlite(Catalog.load("sqlite", MODELS_BY_NAME)) as connection:
        names = {name for (name,) in connection.execute("select name from sqlite_schema where type = 'index'")}
        constraints = " ".join(
            sql for (sql,) in connection.execute("select sql from sqlite_schema where sql is not null")
        )
    for path in sorted(FOLDER.glob("*/*.yaml")):
        steps = (yaml.safe_load(path.read_text("utf-8")).get("sqlite") or {}).get("steps", [])
        for step in steps:
            index = step.get("index", "rowid")
            assert index in names | {"rowid", "primary key"} or f"constraint {index} " in constraints, (
                path.name,
                index,
            )

"""What sources hold that no database of ours would take: found beforehand, set aside, never changed silently.

The numbers are those of the list of faults. The table of them in docs/moving.md is made here: each of its rows is what
one test saw. DAL_TEST_WRITE_DOCS=1 writes it anew.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from typer.testing import CliRunner

import dal
from dal import cli
from dal.transfer import moving
from dal.transfer.inventory import inventory
from dal.transfer.loading import differing
from dal.transfer.side import Held, Range, Side
from dal.transfer.sources import tally
from dal.transfer.values import key_text
from tests.cells import PEPPERS, Dialect
from tests.transfer.conftest import execute, settings_of
from tests.transfer.loose import Text, change, double, loosen
from tests.transfer.test_folder import FILES
from tests.transfer.test_places import PLACES
from tests.transfer.test_target import TARGETS

MOVING = Path(__file__).resolve().parents[2] / "docs" / "moving.md"
BEGIN, END = "<!-- faults: begin -->\n", "<!-- faults: end -->\n"
REFUSES, TAKES, CONVERTS = "refuses it", "takes it", "converts it"
PASSES = "passes"
FLOW, TOKEN = UUID(int=0xF0), "base00000000"


@pytest.fixture
def source(base: Path, tmp_path: Path) -> str:
    shutil.copy(base, tmp_path / "source.db")
    return f"sqlite:///{tmp_path / 'source.db'}"


class Case(NamedTuple):
    """An input. sqlite: what a SQLite database of ours does with it. dry, loaded: what is said of it, and becomes of
    it."""

    number: int
    what: str
    loose: Sequence[str]
    put: Callable[[str], None]
    sqlite: str
    dry: str
    loaded: str


def told(rules: Counter[str], changed: Counter[str]) -> str:
    """What became of a source, as the table has it."""
    parts = [f"quarantine `{rule}`{f' ×{count}' if count > 1 else ''}" for rule, count in sorted(rules.items())]
    return ", ".join([*parts, *(f"changed `{name}`" for name in sorted(names_of(changed)))]) or PASSES


def names_of(changed: Mapping[str, int]) -> Counter[str]:
    """How many values were changed, by rule."""
    names = Counter[str]()
    for rule, count in changed.items():
        names[rule.partition(":")[0]] += count
    return names


# --- one row with one odd value ---------------------------------------------------------------------------------------

CASES: list[Case] = []
BASES: dict[str, tuple[str, str, Callable[[int], str]]] = {
    "executions": ("execution_id = 'base'", "execution_id", lambda n: f"case-{n}"),
    "workflows": ("rowid = 1", "id", lambda n: str(UUID(int=n + 1))),
    "checkpoint_metrics": ("config_version = 1 and metric = 'loss'", "metric", lambda n: f"m{n}"),
    "service_tokens": ("rowid = 1", "key_id", lambda n: f"case{n:08}"),
}  # fmt: skip


def one(number: int, what: str, becomes: str, sqlite: str = REFUSES, table: str = "executions", **values: Any) -> None:
    """A case of one more row of a table. becomes: a rule; with ! in front one that only the load finds."""
    where, key, name = BASES[table]
    given = {key: name(len(CASES)), **values}
    if table == "service_tokens":
        given["name_key"] = given[key]

    def put(url: str) -> None:
        double(url, table, where, **given)

    rule = becomes.removeprefix("!")
    says = f"changed `{rule}`" if rule in ("json-duplicate-key", "json-spelling") else f"quarantine `{rule}`"
    loaded = says if rule else PASSES
    CASES.append(Case(number, what, [table], put, sqlite, PASSES if becomes[:1] == "!" else loaded, loaded))


def document(number: int, what: str, text: Any, becomes: str, sqlite: str = REFUSES) -> None:
    one(number, what, becomes, sqlite, inputs=text)


def at(what: str, value: Any, becomes: str = "timestamp", sqlite: str = REFUSES) -> None:
    one(79, what, becomes, sqlite, started_at=value)


one(72, "`many` in an INTEGER", "type", step_count="many")
one(73, "2.5 in an INTEGER", "type", step_count=2.5)
one(73, "2.0 in an INTEGER", "type", CONVERTS, step_count=2.0)
one(74, "`'12'` in an INTEGER", "type", CONVERTS, step_count="12")
one(75, "a BLOB in a TEXT", "type", run_name=b"blob")
one(75, "a BLOB as a key", "type", execution_id=b"blob")
one(75, "a TEXT in a BLOB", "type", table="service_tokens", secret_hash="x" * 32)
one(75, "an INTEGER in a REAL", "type", CONVERTS, table="checkpoint_metrics", value=5)
one(75, "text in a REAL", "type", table="checkpoint_metrics", value="much")
one(75, "an infinity in a REAL", "not-finite", TAKES, table="checkpoint_metrics", value=float("inf"))
one(75, "NaN in a REAL, which SQLite makes null", "null", table="checkpoint_metrics", value=float("nan"))
one(76, "bytes that are not UTF-8, in a TEXT", "utf8", TAKES, run_name=Text(b"a\xffb"))
one(76, "half of a surrogate pair, in a TEXT", "utf8", TAKES, run_name=Text(b"\xed\xa0\x80"))
one(76, "a key that is not UTF-8", "utf8", TAKES, execution_id=Text(b"k\xff"))
one(76, "a document that is not UTF-8", "utf8", TAKES, error=Text(b"\xc3"))
one(77, "NUL in a TEXT", "nul", TAKES, run_name="a\0b")
one(77, "NUL in a key", "nul", TAKES, execution_id="a\0b")
for value in ("f", "false", "yes"):
    one(78, f"`{value}` in a bool", "type", table="workflows", require_login=value)
one(78, "2 in a bool", "bool", table="workflows", require_login=2)
one(78, "null in a bool", "null", table="workflows", require_login=None)
one(78, "no UUID in a UUID", "uuid", TAKES, table="workflows", id="workflow-1")
one(78, "a UUID in capitals", "uuid", TAKES, table="workflows", id=str(UUID(int=2**127 + 10)).upper().replace("8", "A"))
at("seconds since 1970, an INTEGER", 1704067200, "type")
at("milliseconds since 1970, as text", "1704067200000")
for text in ("", "now", "yesterday", "infinity", "0000-00-00"):
    at(f"`{text}`" if text else "an empty time", text)
at("a time without a zone", "2024-01-01T00:00:00.000000")
at("a time with an offset", "2024-01-01T00:00:00.000000+05:30")
at("a time in another format", "2024-01-01 00:00:00")
at("a time without a fraction", "2024-01-01T00:00:00Z")
at("30 February", "2024-02-30T00:00:00.000000Z", sqlite=TAKES)
at("hour 24", "2024-01-01T24:00:00.000000Z", sqlite=TAKES)
at("a leap second", "2016-12-31T23:59:60.000000Z", sqlite=TAKES)
at("the year 0", "0000-01-01T00:00:00.000000Z", sqlite=TAKES)
at("letters in the shape of a time", "abcd-ef-ghTij:kl:mn.opqrstZ", sqlite=TAKES)
at("the first moment of the year 1", "0001-01-01T00:00:00.000000Z", "", TAKES)
at("the last microsecond of the year 9999", "9999-12-31T23:59:59.999999Z", "", TAKES)
document(80, "`{'a':1}` as JSON", "{'a':1}", "json")
document(80, "an empty document", "", "json")
document(80, "`NaN` in JSON", '{"a":NaN}', "json")
document(80, "`Infinity` in JSON", "[Infinity]", "json")
document(80, "half of a surrogate pair, escaped, in JSON", '"\\ud800"', "surrogate", TAKES)
document(80, "`\\u0000` in JSON", '{"a":"\\u0000"}', "nul", TAKES)
document(80, "`\\u0000` in a key of JSON", '{"\\u0000":1}', "nul", TAKES)
document(80, "a backslash and the letters u0000 in JSON", '"\\\\u0000"', "", TAKES)
document(80, "an object with a key twice", '{"a":1,"a":2}', "json-duplicate-key", TAKES)
document(80, "a comma too many in JSON", "[1,]", "json")
document(80, "a byte order mark before JSON", "\ufeff{}", "json")
document(80, "JSON as a BLOB", b"{}", "type")
document(80, "JSON nested 201 deep", "[" * 201 + "]" * 201, "json-depth", TAKES)
document(80, "JSON nested 200 deep", "[" * 200 + "]" * 200, "", TAKES)
document(80, "`1.10`, `1e5` and `-0.0` in JSON", "[1.10,1e5,-0.0]", "json-spelling", TAKES)
document(80, "`null` in JSON, which is not the null of SQL", "null", "", TAKES)
one(81, "2^31 + 1", "", TAKES, step_count=2**31 + 1)
one(81, "2^63 − 1", "", TAKES, step_count=2**63 - 1)
one(81, "2^63, which SQLite makes a REAL", "type", step_count=float(2**63))
document(81, "2^63 in JSON", "[9223372036854775808]", "json-number", TAKES)
document(81, "`1e400` in JSON", "1e400", "json-number", TAKES)
document(81, "`0.10000000000000001` in JSON", "0.10000000000000001", "json-number", TAKES)
one(82, "null as a key", "null", execution_id=None)
one(82, "an empty key", "!constraint", execution_id="")
one(82, "a key of 129 letters", "!constraint", execution_id="k" * 129)
one(82, "a status that is none", "!constraint", status="paused")
one(82, "a digest of a token that is too short", "!constraint", table="service_tokens", secret_hash=b"short")
VALUES = len(CASES)  # behind these come cases that are loaded each by itself
document(80, "16 MiB and a byte of JSON", '"' + "x" * (16 * 2**20 - 1) + '"', "json-size", TAKES)


# --- rows beside rows -------------------------------------------------------------------------------------------------


def beside(
    number: int, what: str, dry: str, loaded: str, sqlite: str = REFUSES, loose: Sequence[str] = ()
) -> Callable[[Callable[[str], None]], None]:
    """A case of several rows, which a function puts there."""
    return lambda put: CASES.append(Case(number, what, loose, put, sqlite, dry, loaded))


@beside(82, "a key that is there twice", "quarantine `constraint`", "quarantine `constraint`", loose=["executions"])
def _(url: str) -> None:
    double(url, "executions", "execution_id = 'base'", run_name="the same key")


@beside(83, "a step of a history that is not there", "quarantine `orphan`", "quarantine `orphan`")
def _(url: str) -> None:
    double(url, "execution_steps", "idx = 1", execution_id="gone")


@beside(83, "a run of a version of another workflow", "quarantine `orphan`", "quarantine `orphan` ×2")
def _(url: str) -> None:
    change(url, "runs", "true", version_id=str(UUID(int=1)))


@beside(83, "a history that is set aside takes its two steps along", "quarantine `type`",
        "quarantine `orphan` ×2, quarantine `type`", loose=["executions"])  # fmt: skip
def _(url: str) -> None:
    change(url, "executions", "true", step_count="many")


@beside(83, "the best checkpoint is set aside, with its metric", "quarantine `nul`",
        "quarantine `nul`, quarantine `orphan`, changed `set-null`", TAKES)  # fmt: skip
def _(url: str) -> None:
    change(url, "checkpoints", "config_version = 2", artifact_url="a\0b")


@beside(83, "the best checkpoint is not there", "changed `set-null`", "changed `set-null`")
def _(url: str) -> None:
    change(url, "checkpoint_heads", "true", best_id="gone")


@beside(83, "tokens rotated from each other, in a circle", PASSES, PASSES, TAKES)
def _(url: str) -> None:
    double(url, "service_tokens", "name = 'base'", key_id=TOKEN, name="b", name_key="b", secret_hash=b"x" * 32)
    execute(url, "update service_tokens set rotated_from = (select other.key_id from service_tokens other "
                 "where other.key_id <> service_tokens.key_id)")  # fmt: skip


@beside(84, "two tokens in force, `API-Key` and `api-key`", PASSES, "quarantine `constraint`", loose=["service_tokens"])
def _(url: str) -> None:
    for key, name in (("twice0000001", "API-Key"), ("twice0000002", "api-key")):
        double(url, "service_tokens", "name = 'base'", key_id=key, name=name, name_key="api-key")


@beside(84, "names that differ in case alone, of workflows and histories", PASSES, PASSES, TAKES)
def _(url: str) -> None:
    for number, name in enumerate(("Straße", "STRASSE", "strasse", "İ", "ı", "é", "e\u0301", "é ")):
        double(url, "executions", "execution_id = 'base'", execution_id=name)
        double(url, "workflows", "name = 'base'", id=str(UUID(int=900 + number)), name=name)


# --- and what becomes of them -----------------------------------------------------------------------------------------


def rules(rows: Sequence[Held]) -> Counter[str]:
    return Counter(row.rule.partition(":")[0] for row in rows)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.number} {case.what}")
def test_a_source_with_it(case: Case, source: str, tmp_path: Path) -> None:
    """By itself: SQLite's own word, the dry run's, and what is loaded into another file."""
    if case.sqlite != CONVERTS:
        assert stands_in_our_schema(source, case) == (case.sqlite == TAKES)
    loosen(source, *case.loose)
    case.put(source)
    before = (tmp_path / "source.db").read_bytes()
    found = moving.check_move(settings_of(source))
    assert told(rules(found.samples), found.changed) == case.dry
    assert found.refused.total() == len(found.samples)
    assert (tmp_path / "source.db").read_bytes() == before

    if case in CASES[:VALUES]:
        return  # it is loaded with all the others, below
    target = settings_of(f"sqlite:///{tmp_path / 'target.db'}")
    report = moving.move(settings_of(source), target)
    count = sum(report.quarantined.values())
    assert told(rules(report.samples), report.changed) == case.loaded
    assert {name: report.loaded[name] + report.quarantined[name] for name in report.source} == report.source
    assert (report.state, report.problems, report.differences) == ("held" if count else "done", [], [])
    if count:
        for other in (count - 1, count + 1):
            assert moving.move(settings_of(source), target, accept=other).state == "held"
        with dal.connect(target) as db, pytest.raises(dal.ReadOnly, match="fenced"):
            db.workflows.create("x", actor="a")
        assert moving.move(settings_of(source), target, accept=count).state == "done"
    with dal.connect(target) as db:
        db.workflows.create("x", actor="a")


def stands_in_our_schema(source: str, case: Case) -> bool:
    """Whether a database of ours takes the rows, from a connection that keeps its rules."""
    path = source.removeprefix("sqlite:///")
    shutil.copy(path, f"{path}.tried")
    try:
        case.put(f"sqlite:///{path}.tried")
    except sqlite3.IntegrityError:
        return False
    connection = sqlite3.connect(f"{path}.tried")
    broken = connection.execute("pragma foreign_key_check").fetchall()
    connection.close()
    return not broken


def test_what_sqlite_converts_is_no_longer_what_it_was(source: str) -> None:
    for case in CASES:
        if case.sqlite == CONVERTS:
            case.put(source)
    rows = execute(source, "select step_count, typeof(step_count) from executions where step_count <> 2")
    assert rows == [(12, "integer")]
    assert execute(source, "select value, typeof(value) from checkpoint_metrics where value > 2") == [(5.0, "real")]


@pytest.mark.parametrize("over", ["move", "files"])
@pytest.mark.parametrize("dialect", ["postgres", "sqlite"])
def test_all_of_it_at_once(
    source: str, dialect: Dialect, over: str, make_database: Callable[..., str], tmp_path: Path
) -> None:
    """Each odd row alone is set aside, in batches that others are in; every other arrives as it was."""
    loosen(source, *{name for case in CASES[:VALUES] for name in case.loose})
    for case in CASES[:VALUES]:
        case.put(source)
    target = make_database(dialect)
    words = ["move", source, target, "--batch-rows", "7"]
    if over == "files":
        exported = moving.export_to(settings_of(source), tmp_path / "export", size=7, packed=True)
        assert names_of(exported.changed) == {"json-duplicate-key": 1, "json-spelling": 3}
        words = ["import", str(tmp_path / "export"), "--url", target]

    def run(*more: str, status: int) -> Any:
        done = CliRunner().invoke(cli.app, [*words, "--json", *more], env={"DAL_TOKEN_PEPPERS": PEPPERS})
        assert done.exit_code == status, done.output
        return json.loads(done.stdout)

    expected = Counter(case.loaded[12:-1] for case in CASES[:VALUES] if case.loaded.startswith("quarantine"))
    seen = run("--dry-run", status=1)
    assert sum(seen["quarantined"].values()) == expected.total() - sum(c.dry != c.loaded for c in CASES[:VALUES])
    report = run(status=1)
    assert (report["state"], report["problems"], report["differences"]) == ("held", [], [])
    assert sum(report["quarantined"].values()) == expected.total()
    assert {name: report["loaded"][name] + report["quarantined"][name] for name in report["source"]} == report["source"]
    changed = {"json-duplicate-key": 1, "json-spelling": 3} if over == "move" else {}  # the export has told it
    assert names_of(report["changed"]) == names_of(seen["changed"]) == changed
    run("--accept-quarantine", str(expected.total() + 1), status=1)
    with dal.connect(settings_of(target)) as db, pytest.raises(dal.ReadOnly):
        db.workflows.create("x", actor="a")
    with moving.open_side(settings_of(source)) as here, moving.open_side(settings_of(target)) as there:
        held = there.held(there.last_transfer().id, 1000)  # type: ignore[union-attr]
        assert rules(held) == expected
        assert missing(here, there) == {(row.table, row.key) for row in held}
        sums = tally(there.batches(there.last_transfer().id))  # type: ignore[union-attr]
        assert {name: loaded for name, (loaded, _, _) in sums.items()} == {t.name: there.count(t) for t in inventory()}
    run("--accept-quarantine", str(expected.total()), status=0)
    with dal.connect(settings_of(target)) as db:
        db.workflows.create("x", actor="a")
        assert db.history.get("base").inputs == {"a": 1}
    assert run(status=0)["was_done"]


def missing(here: Side, there: Side) -> set[tuple[str, str]]:
    """The rows of the source that are not in the target; all others are equal."""
    found = set()
    for table in inventory():
        pairs = differing(here.row_digests(table, Range()), there.row_digests(table, Range()))
        for key, how in pairs:
            assert how == "only in the source", (table.name, key, how)
            found.add((table.name, key_text(key)))
    return found


@pytest.mark.parametrize("only", ["", "a run of a version of another workflow"], ids=["all", "one"])
def test_orphans_on_postgresql(only: str, source: str, make_database: Callable[..., str]) -> None:
    """A foreign key that is there again would take children along, uncounted, or not let go of them."""
    for case in CASES[VALUES:]:
        if case.number == 83 and case.what.startswith(only):
            loosen(source, *case.loose)
            case.put(source)
    target = make_database("postgres")
    report = moving.move(settings_of(source), settings_of(target))
    assert (report.problems, report.differences) == ([], [])
    assert {name: report.loaded[name] + report.quarantined[name] for name in report.source} == report.source
    assert rules(report.samples) == ({"orphan": 2} if only else {"orphan": 6, "type": 1, "nul": 1})
    assert report.changed == ({} if only else {"set-null: checkpoint_heads.best_id": 1})
    count = sum(report.quarantined.values())
    assert moving.move(settings_of(source), settings_of(target), accept=count).state == "done"


@pytest.mark.parametrize("dialect", ["postgres", "sqlite"])
def test_odd_rows_of_postgresql(source: str, dialect: Dialect, make_database: Callable[..., str]) -> None:
    """Which it would have only without our constraints; and what others put into its types."""
    middle, target = make_database("postgres"), make_database(dialect)
    moving.move(settings_of(source), settings_of(middle))
    loosen(middle, "executions", "execution_steps", "service_tokens", "checkpoint_heads")
    double(middle, "executions", "execution_id = 'base'", run_name="the same key")
    for number, (column, value) in enumerate(
        [("started_at", "infinity"), ("started_at", "0044-03-15 BC"), ("started_at", "10000-01-01Z"), ("status", "?"),
         ("inputs", "[1.10]"), ("inputs", "[1e400]"), ("inputs", "[0.10000000000000001]"), ("inputs", "1" * 300)]
    ):  # fmt: skip
        double(middle, "executions", "execution_id = 'base' limit 1", execution_id=f"case-{number}", **{column: value})
    double(middle, "execution_steps", "idx = 1", execution_id="gone")
    double(middle, "service_tokens", "true limit 1", key_id="twice0000001")
    change(middle, "checkpoint_heads", "true", best_id="gone")
    found = moving.check_move(settings_of(middle))
    seen = {"timestamp": 3, "json-number": 3, "orphan": 1}
    assert rules(found.samples) == {**seen, "constraint": 1}
    assert found.changed == {"set-null: checkpoint_heads.best_id": 1, "json-spelling: executions.inputs": 1}
    report = moving.move(settings_of(middle), settings_of(target))
    assert (rules(report.samples), report.changed) == ({**seen, "constraint": 3}, found.changed)
    assert (report.problems, report.differences) == ([], [])
    assert moving.move(settings_of(middle), settings_of(target), accept=10).state == "done"


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_in_the_docs_is_what_was_seen() -> None:
    lines = ["| a source has | SQLite, by our schema | dry run | loaded |", "|---|---|---|---|"]
    for case in sorted(CASES, key=lambda case: case.number):
        lines.append(f"| {case.what} | {case.sqlite} | {case.dry} | {case.loaded} |")
    lines += ["", "| done | what becomes of it |", "|---|---|"]
    lines += [f"| {what} | {result} |" for what, result in [*FILES, *TARGETS, *PLACES]]
    text = MOVING.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = before + BEGIN + "\n".join(lines) + "\n" + END + after
    if os.environ.get("DAL_TEST_WRITE_DOCS") == "1":
        MOVING.write_text(made, "utf-8")
    assert made == MOVING.read_text("utf-8"), "run this test with DAL_TEST_WRITE_DOCS=1"

"""``dal``: the program. It parses, calls and prints; what it says is found out elsewhere.

Exit status: 0 when all is well, 1 when something is wrong and said so, 2 when the command line is.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dal import cli_transfer
from dal import demo as demonstration
from dal import doctor as examination
from dal.cli_tokens import tokens_app
from dal.core.rows import Dialect
from dal.core.schema import app_version
from dal.dal import connect, load_catalog, open_schema
from dal.errors import DalError
from dal.guard import gates, pages, stubs
from dal.guard.capture import CannotCapture
from dal.guard.findings import Finding, as_data, as_text, failed, short
from dal.guard.plans import Plans
from dal.settings import Settings, where
from dal.terminal import AsJson, Url, fail, print_json, refuse_missing

app = typer.Typer(
    name="dal",
    help="A data access layer for a workflow server: named SQL files, one interface, SQLite and PostgreSQL.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,  # its tracebacks show local variables, and those hold passwords
)
schema_app = typer.Typer(
    help="What a database has of the migrations, and bringing it up to date.", no_args_is_help=True
)
app.add_typer(schema_app, name="schema")
app.add_typer(tokens_app, name="tokens")
cli_transfer.add_to(app)
TOKEN = re.compile(r"dal_(svc|usr|tst)_[0-9A-Za-z]{12}_[0-9A-Za-z]")  # a damaged one has most of a secret in it


def main() -> None:
    """Run the program on the arguments of the process."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does: an old terminal is no reason to fail
    if any(TOKEN.search(argument) for argument in sys.argv[1:]):  # before anything repeats it in an error
        print(
            "dal: a service token stands on the command line, where other users can read it: revoke it. 'dal tokens "
            "verify' reads one from standard input; KEY_ID is only the 12 letters and digits behind dal_svc_",
            file=sys.stderr,
        )
        sys.exit(2)
    try:
        app(prog_name="dal")
    except DalError as error:
        fail(error)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"dal {app_version()}")
        raise typer.Exit


@app.callback()
def _dal(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


# --- demo and doctor --------------------------------------------------------------------------------------------------


@app.command()
def demo(
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="An empty database to work in.", show_default=False),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="PATH", help="Make the SQLite file at PATH and leave it there to look at."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="URL", help="An empty database to move to in the end.", show_default=False),
    ] = None,
) -> None:
    """Work through a few hundred workflows, versions and runs, and check every answer.

    On a temporary SQLite file unless told otherwise. In the end the data move to another database and come back to a
    third: temporary files, unless --to names one for the first step. The database that --url names gets the tables it
    lacks and keeps what the demo wrote; one that holds workflows already is refused. Exits with 1 if an answer is
    wrong.
    """
    if url is not None and keep is not None:
        raise typer.BadParameter("give --keep or --url, not both", param_hint="--keep")
    place = f"SQLite file {keep}" if keep else where(Settings.load(url)) if url else "a SQLite file of its own"
    print(f"dal demo, on {place}", file=sys.stderr)
    console = Console(highlight=False, emoji=False)
    console.width = min(console.width, 100)
    if not demonstration.run(url, console, keep=keep, to=to):
        sys.exit(1)


@app.command()
def doctor(url: Url = None, as_json: AsJson = False) -> None:
    """Look a database over: what it is, whether it is whole, and whether it is set up well.

    Changes no data. Exits with 1 if something is wrong; a warning alone is no reason.
    """
    checks = examination.examine(Settings.load(url))
    if as_json:
        print_json([{"name": check.name, "verdict": check.verdict, "words": check.words} for check in checks])
    else:
        for check in checks:
            print(f"{check.verdict:<5} {check.name}: {check.words}")
    if any(check.verdict == "fail" for check in checks):
        sys.exit(1)


# --- schema -----------------------------------------------------------------------------------------------------------


@schema_app.command()
def status(url: Url = None, as_json: AsJson = False) -> None:
    """Which migrations the database has had, and which it lacks.

    Changes nothing. Exits with 1 if the database and this installation do not belong together: a newer database, an
    edited, renamed or missing migration.
    """
    settings = Settings.load(url)
    refuse_missing(settings)
    with open_schema(settings) as schema:
        found = schema.status()
    if as_json:
        print_json(
            {
                "database": where(settings),
                "version": found.version,
                "latest": found.latest,
                "applied": [
                    {
                        "version": row.version,
                        "name": row.name,
                        "sha256": row.sha256,
                        "applied_at": row.applied_at.isoformat(),
                        "duration_ms": row.duration_ms,
                        "app_version": row.app_version,
                    }
                    for row in found.applied
                ],
                "pending": [migration.label for migration in found.pending],
            }
        )
        return
    print(f"{where(settings)}: migration {found.version} of {found.latest}")
    for row in found.applied:
        print(f"  applied  {row.label}  {row.applied_at:%Y-%m-%d %H:%M:%S}Z  by workflow-dal {row.app_version}")
    for migration in found.pending:
        print(f"  pending  {migration.label}")
    if found.pending:
        print("Run 'dal schema apply' to bring it up to date.")


@schema_app.command()
def apply(url: Url = None) -> None:
    """Apply the migrations that the database lacks.

    Safe to run again, and from many processes at once: one works, the others wait and find nothing left to do.
    """
    settings = Settings.load(url)
    with open_schema(settings) as schema:
        done = schema.apply()
        found = schema.status()
    for migration in done:
        print(f"  applied  {migration.label}")
    with connect(settings, migrate=False) as db:
        count = sum(iter(db.workflows.make_searchable, 0))
    if count:
        print(f"  made searchable  {count} workflow{'' if count == 1 else 's'} of an earlier version")
    print(f"{where(settings)}: migration {found.version} of {found.latest}{'' if done else ', nothing to do'}")


@schema_app.command()
def verify(url: Url = None, as_json: AsJson = False) -> None:
    """Compare the database with what its migrations make: tables, columns, keys, indexes, foreign keys.

    Exits with 1 if something is missing, different, invalid or pending. What only the database has, such as an index of
    your own, is reported and accepted. On PostgreSQL the migrations are run in a schema of their own that is rolled
    back, which takes the CREATE privilege on the database.
    """
    settings = Settings.load(url)
    refuse_missing(settings)
    with open_schema(settings) as schema:
        findings = schema.verify()
    if as_json:
        print_json({"database": where(settings), "problems": findings.problems, "extras": findings.extras})
    else:
        for line in findings.problems:
            print(f"  problem  {line}")
        for line in findings.extras:
            print(f"  extra    {line}")
        count = len(findings.problems)
        verdict = f"{count} problem{'' if count == 1 else 's'}" if count else "as its migrations make it"
        print(f"{where(settings)}: {verdict}")
    if findings.problems:
        sys.exit(1)


# --- queries, plans, generated files (dal.guard) ----------------------------------------------------------------------

plans_app = typer.Typer(
    help="How each database executes each query: record it, check it, accept a change.", no_args_is_help=True
)
queries_app = typer.Typer(help="The named queries: list, show, run and explain them.", no_args_is_help=True)
app.add_typer(plans_app, name="plans")
app.add_typer(queries_app, name="queries")

Server = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="A PostgreSQL server, postgresql://...; without it, SQLite alone is looked at.",
        show_default=False,
    ),
]
Names = Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Queries; all of them by default.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A query.")]
Values = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE...",
        help="Its parameters, each read by its declared kind: JSON for json and lists, null for a null.",
    ),
]
Folder = Annotated[
    Path | None, typer.Option("--folder", metavar="PATH", help="Where the plans are; tests/plans by default.")
]
Try = Annotated[
    list[str] | None,
    typer.Option(
        "--try",
        metavar="SQL",
        help="A change of the schema to see the effect of, such as an index: on PostgreSQL with --url, else on SQLite.",
    ),
]


@app.command()
def generate(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 if it is out of date.")] = False,
) -> None:
    """Write dal/core/queries.pyi, which tells mypy and editors what each query takes and answers."""
    text = stubs.render()
    if check and (not stubs.PATH.exists() or stubs.PATH.read_text(encoding="utf-8") != text):
        fail(f"{short(stubs.PATH)} is not what the headers of sql/postgres say: make generate")
    if not check:
        stubs.PATH.write_text(text, encoding="utf-8")
        print(f"wrote {short(stubs.PATH)}")


@app.command()
def check(url: Server = None, as_json: AsJson = False) -> None:
    """Check the query files: contracts, rules of writing, whether each database understands each statement.

    On SQLite in memory; with --url on PostgreSQL too, in a schema of its own that is rolled back. Overrides named by
    DAL_SQL_DIR are checked in the place of what they override. Exits with 1 if anything is wrong.
    """
    findings: list[Finding] = []
    for gate in gates.check(url, overrides=Settings.load().sql_dir):
        findings += gate.findings
        if not as_json:
            print(f"{'wrong' if failed(gate.findings) else 'ok':<6} {gate.name}  ({gate.looked_at})")
    _report(findings, as_json)


def _report(findings: Sequence[Finding], as_json: bool) -> None:
    """Print findings; exit with 2 if something could not be looked at, with 1 if one is an error."""
    if as_json:
        print_json([as_data(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"\n{as_text(finding)}")
    if any(finding.rule == "cannot-capture" for finding in findings):
        sys.exit(2)
    if failed(findings):
        sys.exit(1)


# --- plans ------------------------------------------------------------------------------------------------------------


def _plans(
    names: Sequence[str] | None, url: str | None, folder: Path | None, changes: Sequence[str] | None = None
) -> Plans:
    for name in names or ():
        pages.find(load_catalog(Settings.load()), name)
    try:
        tried: dict[Dialect, Sequence[str]] = {"postgres" if url else "sqlite": changes or ()}
        return Plans(url, folder=folder, overrides=Settings.load().sql_dir, changes=tried)
    except CannotCapture as problem:
        print(f"dal: {problem}", file=sys.stderr)
        sys.exit(2)


@plans_app.command("check")
def check_plans(
    names: Names = None, url: Server = None, changes: Try = None, folder: Folder = None, as_json: AsJson = False
) -> None:
    """Compare how queries are executed now with what was recorded, and hold them to tests/plans/policy.yaml.

    PostgreSQL's plans are taken in a database that is made on the server and dropped again, which takes a superuser.
    Exits with 1 if anything changed or a rule is broken, with 2 if the plans cannot be taken.
    """
    plans = _plans(names, url, folder, changes)
    findings = plans.check(names or ())
    if not as_json:
        print(f"looked at {len(names or plans.queries)} queries on {' and '.join(plans.databases)}")
    _report(findings, as_json)


@plans_app.command("record")
def record_plans(names: Names = None, url: Server = None, folder: Folder = None) -> None:
    """Write how queries are executed into tests/plans, one file a query, and remove the files of queries that are gone.

    Exits with 1 if a plan breaks a rule of tests/plans/policy.yaml; it is recorded all the same.
    """
    _record(names or (), url, folder)


@plans_app.command("accept")
def accept_plans(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="The queries whose new plans are good.")],
    url: Server = None,
    folder: Folder = None,
) -> None:
    """Write how these queries are executed now, and leave all other files as they are."""
    _record(names, url, folder)


def _record(names: Sequence[str], url: str | None, folder: Path | None) -> None:
    try:
        done = _plans(names, url, folder).record(names)
    except CannotCapture as problem:
        print(f"dal: {problem}", file=sys.stderr)
        sys.exit(2)
    for path in done.written:
        print(f"wrote   {short(path)}")
    for path in done.removed:
        print(f"removed {short(path)}")
    print(f"{len(done.written)} written, {done.unchanged} unchanged, {len(done.removed)} removed")
    _report(done.findings, as_json=False)


# --- queries ----------------------------------------------------------------------------------------------------------


@queries_app.command("list")
def list_queries(as_json: AsJson = False) -> None:
    """Every query: its name and parameters, what it answers, its class, where it stands."""
    found = load_catalog(Settings.load()).queries.values()
    if as_json:
        print_json(
            [
                {"name": q.name, "store": q.store, "contract": q.contract, "class": q.class_, "where": q.where()}
                for q in found
            ]
        )
        return
    width = max(len(query.name) for query in found)
    for query in found:
        answer = f"{query.returns}{'' if query.op else ' …'}" if query.op != "!" else "count"
        print(f"{query.name:<{width}}  {query.class_:<6}  {answer:<20}  {short(query.path, query.line)}")


@queries_app.command("show")
def show_query(
    name: Name,
    values: Values = None,
    psql: Annotated[bool, typer.Option("--psql", help="As psql takes it, parameters first.")] = False,
    sqlite: Annotated[bool, typer.Option("--sqlite", help="As the sqlite3 shell takes it, parameters first.")] = False,
) -> None:
    """A query with its contract; with --psql or --sqlite it can be pasted there, parameters that are not given standing
    at a sample."""
    if psql and sqlite:
        raise typer.BadParameter("give --psql or --sqlite, not both", param_hint="--psql")
    print(pages.show(name, values or (), "psql" if psql else "sqlite" if sqlite else None), end="")


@queries_app.command("run")
def run_query(name: Name, values: Values = None, url: Url = None, as_json: AsJson = False) -> None:
    """Run a query with these values and print its rows. What it changes is rolled back."""
    settings = Settings.load(url)
    refuse_missing(settings)
    answer = pages.run(settings, name, values or ())
    if isinstance(answer, int):
        print_json({"changed": answer}) if as_json else print(f"{answer} rows changed, and undone")
        return
    if as_json:
        print_json([dict(zip(answer.columns, map(pages.plain, row), strict=True)) for row in answer.rows])
        return
    for row in answer.rows:
        width = max(map(len, answer.columns))
        print(
            "\n".join(
                f"{column:<{width}}  {pages.word(value)}" for column, value in zip(answer.columns, row, strict=True)
            )
        )
        print()
    print(f"{len(answer.rows)} row{'' if len(answer.rows) == 1 else 's'}")


@queries_app.command("explain")
def explain_query(name: Name, values: Values = None, url: Url = None) -> None:
    """Run a query with these values and print how the database executed it. What it changes is rolled back."""
    settings = Settings.load(url)
    refuse_missing(settings)
    print(pages.explain(settings, name, values or ()))

"""``dal export``, ``import``, ``move``, ``verify`` and ``fence``: they parse, call dal.transfer and print."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from dal.settings import Settings
from dal.terminal import AsJson, Url, print_json
from dal.transfer import moving
from dal.transfer.folder import zstandard
from dal.transfer.loading import Difference, Looked, Progress, Report, Tell, collect_seldom
from dal.transfer.side import Held, Standing
from dal.transfer.values import CHANGED, QUARANTINED

fence_app = typer.Typer(
    help="Let a database refuse writes, for every process, whether it knows of the fence or not.", no_args_is_help=True
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the export.")]
Place = Annotated[str, typer.Argument(metavar="SOURCE", help="A database's URL, as --url takes it elsewhere.")]
Goal = Annotated[str, typer.Argument(metavar="TARGET", help="The URL of an empty database; a missing file is made.")]
BatchRows = Annotated[int, typer.Option("--batch-rows", metavar="N", help="Rows to a batch, which is one transaction.")]
Accept = Annotated[
    int,
    typer.Option(
        "--accept-quarantine",
        metavar="N",
        help="Be content with N rows in quarantine, exactly. --dry-run shows what would not pass, but not rows that "
        "the target refuses or that lose their parent: the first load tells the whole number.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", min=1, max=64,
        help="Processes that load into PostgreSQL at once; by default 2, or 1 for few rows. 1 with --no-fence.",
    ),
]  # fmt: skip
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Look at every row, write nothing, and say what would not pass.")
]


def add_to(app: typer.Typer) -> None:
    """Make these commands part of the program."""
    app.command("export")(export)
    app.command("import")(import_)
    app.command("move")(move)
    app.command("verify")(verify)
    app.add_typer(fence_app, name="fence")


@contextmanager
def _shown(as_json: bool) -> Iterator[Tell]:
    """Bars on a terminal: a line a table, with the rate and the time left. Nothing where nobody looks."""
    if as_json or not sys.stderr.isatty():
        yield lambda progress: None
        return
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(progress: Progress) -> None:
            name = f"{progress.phase} {progress.table}".strip()
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=progress.of)
            bars.update(tasks[name], completed=progress.rows, total=progress.of)

        yield tell


class _Rate(TextColumn):
    def __init__(self) -> None:
        super().__init__("{task.speed}")

    def render(self, task: object) -> object:  # type: ignore[override]
        from rich.text import Text

        speed = getattr(task, "speed", None)
        return Text(f"{speed:,.0f} rows/s" if speed else "")


def export(
    folder: Folder,
    url: Url = None,
    batch_rows: BatchRows = moving.BATCH_ROWS,
    packed: Annotated[
        bool | None, typer.Option("--zstd/--no-zstd", help="Pack the files; if zstd is installed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the database into a folder: every row of one moment, in batch files with their SHA-256.

    Writes go on meanwhile. Cut off, the same command goes on with what is missing. The files hold what the database
    holds, digests of service tokens and chats among it: they are readable by their owner only; keep it so.
    """
    if packed and zstandard() is None:
        raise typer.BadParameter("the package zstandard is not installed", param_hint="--zstd")
    pack = packed if packed is not None else zstandard() is not None
    with _shown(as_json) as tell:
        done = moving.export_to(Settings.load(url), folder, size=batch_rows, packed=pack, tell=tell)
    total, kept = sum(done.rows.values()), sum(done.quarantined.values())
    if as_json:
        print_json(
            {
                "rows": done.rows,
                "quarantined": dict(+done.quarantined),
                "changed": dict(done.changed),
                "kept": done.kept,
            }
        )
    else:
        _print_changes(done.changed)
        print(f"{folder}: {total:,} rows, {kept:,} in quarantine")
    if kept:
        print(
            f"dal: {kept:,} rows cannot be moved; they are in {folder / 'quarantine.jsonl'}, with why", file=sys.stderr
        )


def import_(
    folder: Folder,
    url: Url = None,
    dry_run: DryRun = False,
    accept: Accept = 0,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Load an export into an empty database, of either dialect, and check that it is the same.

    Exits with 0 only if every row of the export is in the database, or is in quarantine and was accepted. Cut off at
    any moment, the same command goes on. Until it has ended well the database takes no other writes.
    """
    if dry_run:
        with _shown(as_json) as tell:
            found = moving.check_export(folder, tell=tell)
        _end_dry(found, as_json)
    collect_seldom()
    with _shown(as_json) as tell:
        report = moving.import_from(folder, Settings.load(url), accept=accept, workers=workers, tell=tell)
    _end(report, accept, as_json)


def move(
    source: Place,
    target: Goal,
    dry_run: DryRun = False,
    batch_rows: BatchRows = moving.BATCH_ROWS,
    accept: Accept = 0,
    fence: Annotated[
        bool, typer.Option("--fence/--no-fence", help="Let the source refuse writes, from now on.")
    ] = True,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Load one database into another, without files between, and check that it is the same.

    The source is fenced first, and stays so: it takes no more writes. Without the fence, what is written after the move
    began is not moved, and a move that was cut off cannot go on. Exits as dal import does.
    """
    one, other = Settings.load(source), Settings.load(target)
    if dry_run:
        with _shown(as_json) as tell:
            found = moving.check_move(one, tell=tell)
        _end_dry(found, as_json)
    collect_seldom()
    with _shown(as_json) as tell:
        report = moving.move(one, other, size=batch_rows, accept=accept, fence=fence, workers=workers, tell=tell)
    _end(report, accept, as_json)


def verify(
    source: Place,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The other database's URL.")],
    tables: Annotated[
        list[str] | None, typer.Option("--table", metavar="NAME", help="A table to compare, once or more; else all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare every row of two databases, of whichever dialect: each computes digests of its own.

    Exits with 1 if they differ, and names the first rows that do. Changes nothing.
    """
    with _shown(as_json) as tell:
        found = moving.verify(Settings.load(source), Settings.load(target), only=tables or (), tell=tell)
    if as_json:
        print_json(
            {
                "equal": found.is_equal,
                "tables": {
                    each.table: {"source": str(each.source), "target": str(each.target)} for each in found.tables
                },
                "differences": [_difference(each) for each in found.differences],
            }
        )
    else:
        for each in found.tables:
            rows = _rows(each.source.rows, each.target.rows)
            print(f"{'equal  ' if each.is_equal else 'DIFFERS'}  {each.table}: {rows}")
        _print_differences(found.differences)
    if not found.is_equal:
        sys.exit(1)


# --- fence ------------------------------------------------------------------------------------------------------------


@fence_app.command("on")
def fence_on(
    url: Url = None,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; 'dal fence status' tells it.")
    ] = "by hand",
    as_json: AsJson = False,
) -> None:
    """Let the database refuse writes from now on. Waits for transactions that write at this moment."""
    _print_standing(moving.set_fence(Settings.load(url), reason), as_json)


@fence_app.command("off")
def fence_off(url: Url = None, as_json: AsJson = False) -> None:
    """Let the database take writes again. After a move: what is written to the source now is not in the target."""
    _print_standing(moving.set_fence(Settings.load(url), None), as_json)


@fence_app.command("status")
def fence_status(url: Url = None, as_json: AsJson = False) -> None:
    """Whether the database refuses writes, and why."""
    _print_standing(moving.standing(Settings.load(url))[0], as_json)


def _print_standing(standing: Standing, as_json: bool) -> None:
    if as_json:
        print_json(standing._asdict())
    else:
        state = f"fenced, {standing.reason}" if standing.is_fenced else "takes writes"
        print(f"database {standing.identity}, epoch {standing.epoch}: {state}")


# --- how it ended -----------------------------------------------------------------------------------------------------


def _end(report: Report, accept: int, as_json: bool) -> None:
    """Print a report, and exit with 1 unless all is well."""
    kept = sum(report.quarantined.values())
    if report.was_done and not as_json:
        print(f"transfer {report.transfer_id} was done before; nothing is left to do")
        return
    if as_json:
        print_json(
            {
                "transfer": report.transfer_id,
                "state": report.state,
                "source": report.source,
                "loaded": report.loaded,
                "quarantined": report.quarantined,
                "changed": dict(report.changed),
                "samples": [_held(row) for row in report.samples],
                "problems": report.problems,
                "differences": [_difference(each) for each in report.differences],
                "batches_loaded_before": report.resumed,
                "was_done": report.was_done,
                "seconds": report.seconds,
            }
        )
    else:
        for name, count in report.source.items():
            print(f"  {name}: {_rows(count, report.loaded[name])}{_aside(report.quarantined[name])}")
        _print_changes(report.changed)
        _print_held(report.samples, kept)
        for words in report.problems:
            print(f"PROBLEM  {words}")
        _print_differences(report.differences)
        seconds = ", ".join(f"{phase} {spent:.1f} s" for phase, spent in report.seconds.items())
        total, loaded = sum(report.source.values()), sum(report.loaded.values())
        print(
            f"transfer {report.transfer_id}: {total:,} rows of the source, {loaded:,} loaded and found equal, "
            f"{kept:,} in quarantine ({seconds})"
        )
    if report.state != "done":
        if report.is_whole:
            print(
                f"dal: {kept:,} rows are in quarantine and {accept:,} were accepted; the target takes no writes yet. "
                f"Run the same command with --accept-quarantine {kept}, or mend the source and use an empty database",
                file=sys.stderr,
            )
        else:
            print(
                "dal: the target is not what the source is; it takes no writes. Use an empty database", file=sys.stderr
            )
        sys.exit(1)


def _end_dry(found: Looked, as_json: bool) -> NoReturn:
    total = found.refused.total()
    if as_json:
        samples = [_held(row) for row in found.samples]
        print_json({"quarantined": dict(found.refused), "changed": dict(found.changed), "samples": samples})
    else:
        _print_changes(found.changed)
        _print_held(found.samples, total)
        print(f"{total:,} rows would go into quarantine; nothing was written")
    sys.exit(1 if total else 0)


def _rows(source: int, target: int) -> str:
    return f"{source:,} rows" if source == target else f"{source:,} rows in the source, {target:,} in the target"


def _aside(count: int) -> str:
    return f", {count:,} in quarantine" if count else ""


def _print_changes(changed: Counter[str]) -> None:
    for rule, count in sorted(changed.items()):
        print(f"changed  {rule}: {count:,} ({CHANGED[rule.partition(':')[0]]})")


def _print_held(samples: Sequence[Held], total: int) -> None:
    for row in samples:
        print(f"quarantine  {row.table} {row.key}: {row.rule} ({QUARANTINED[row.rule.partition(':')[0]]})")
    if total > len(samples):
        print(f"quarantine  … and {total - len(samples):,} more")


def _print_differences(differences: Sequence[Difference]) -> None:
    for each in differences:
        print(f"differs  {each.table} {each.key}: {each.how}")


def _held(row: Held) -> dict[str, object]:
    return {"table": row.table, "key": row.key, "rule": row.rule}


def _difference(each: Difference) -> dict[str, str]:
    return each._asdict()

"""``dal tokens``: service tokens from the command line.

A new token and a new pepper stand alone on standard output, for a shell to catch; all else is said on standard error. A
token that is to be checked comes from standard input, never from the command line, which other users can read.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import msgspec
import typer
from msgspec import UNSET, Struct, structs

from dal.core.cursors import Page
from dal.core.face import Sync
from dal.dal import Dal, Tx, connect
from dal.errors import Conflict, Invalid, TokenRefused
from dal.peppers import loaded_peppers, new_pepper, put_first
from dal.settings import UNITS, Settings
from dal.stores.token_audit import AuditHead
from dal.stores.token_records import Minted, TokenRecord, TokenUsage
from dal.stores.token_texts import Kind
from dal.terminal import AsJson, Url, fail, print_json, refuse_missing

T = TypeVar("T")
R = TypeVar("R", bound=Struct)
PAGE = 500
MAX_TOKEN = 4096  # bytes that are read of what is said to be a token

tokens_app = typer.Typer(help="Service tokens: what callers identify themselves with.", no_args_is_help=True)
audit_app = typer.Typer(help="What was done with tokens, and whether the record of it is whole.", no_args_is_help=True)
tokens_app.add_typer(audit_app, name="audit")


# --- options ----------------------------------------------------------------------------------------------------------


def _me() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise typer.BadParameter("give one: this user has no name", param_hint="--actor") from None


KeyId = Annotated[
    str, typer.Argument(metavar="KEY_ID", help="The 12 letters and digits behind dal_svc_, never a whole token.")
]
Actor = Annotated[
    str,
    typer.Option(
        "--actor",
        metavar="NAME",
        default_factory=_me,
        show_default="your user name",
        help="Who does it, for the audit.",
    ),
]
Expires = Annotated[
    str | None,
    typer.Option("--expires", metavar="WHEN", help="Until when: 90d or 12h from now, 2027-01-31T00:00:00Z, or never."),
]
Limit = Annotated[
    int | None, typer.Option("--limit", metavar="N", min=1, show_default="all of them", help="At most so many.")
]


def _span(text: str) -> timedelta | None:
    found = re.fullmatch(r"\s*([0-9]{1,9})\s*([a-z]*)\s*", text.lower())
    if found is None or found[2] not in {"", *UNITS}:
        return None
    return timedelta(seconds=int(found[1]) * UNITS.get(found[2], 1.0))


def _instant(text: str | None, hint: str) -> datetime | None:
    """A time, or a span from now on; None for never, or if none was given."""
    if text is None or text == "never":
        return None
    try:
        span = _span(text)
        instant = datetime.fromisoformat(text) if span is None else datetime.now(UTC) + span
        if instant.tzinfo is not None:
            return instant
    except (ValueError, OverflowError):
        pass
    raise typer.BadParameter("takes 90d or 12h, 2027-01-31T00:00:00Z, or never", param_hint=hint)


def _seconds(text: str, hint: str) -> int:
    span = _span(text)
    if span is None or span.microseconds:
        raise typer.BadParameter("takes seconds, or 5min, 24h, 7d", param_hint=hint)
    return int(span.total_seconds())


# --- making and ending tokens -----------------------------------------------------------------------------------------


@tokens_app.command()
def mint(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is; unique among the tokens in use.")],
    actor: Actor,
    kind: Annotated[str, typer.Option("--kind", help="svc of a service, usr of a person, tst of a test.")] = "svc",
    scopes: Annotated[list[str] | None, typer.Option("--scope", help="What it may do; once for each.")] = None,
    workspaces: Annotated[list[str] | None, typer.Option("--workspace", help="Where it may; once for each.")] = None,
    cidrs: Annotated[
        list[str] | None,
        typer.Option("--cidr", metavar="RANGE", help="From where, such as 10.0.0.0/8; once for each, else from all."),
    ] = None,
    rate_limit: Annotated[
        int | None, typer.Option("--rate-limit", metavar="N", help="Calls a minute, for its server to keep to.")
    ] = None,
    not_before: Annotated[str | None, typer.Option("--not-before", metavar="WHEN", help="From when on.")] = None,
    expires: Expires = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it, this once: only a digest of it is kept.

    The token alone is on standard output, so that a shell can catch it: TOKEN=$(dal tokens mint ci --expires 90d)
    """
    bounds = {
        "not_before": _instant(not_before, "--not-before"),
        "expires_at": _instant(expires, "--expires"),
    }
    with _opened(url) as db:
        minted = db.tokens.mint(
            name,
            actor=actor,
            kind=cast(Kind, kind),  # the store looks
            scopes=scopes or [],
            workspace_ids=workspaces or [],
            allowed_cidrs=cidrs or None,
            rate_limit=rate_limit,
            **bounds,
        )
    _hand_over(minted, as_json)


@tokens_app.command()
def rotate(
    key_id: KeyId,
    actor: Actor,
    overlap: Annotated[
        str, typer.Option("--overlap", metavar="SPAN", help="How long the old one is accepted, too; 0: not at all.")
    ] = "5min",
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="WHEN", show_default="as the old one", help="Until when; as for mint."),
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Give a token a successor with the same name and rights, and print that one, this once, as mint does."""
    seconds = _seconds(overlap, "--overlap")
    until = UNSET if expires is None else _instant(expires, "--expires")
    with _opened(url) as db:
        minted = db.tokens.rotate(key_id, actor=actor, overlap_seconds=seconds, expires_at=until)
    _hand_over(minted, as_json)


@tokens_app.command()
def revoke(
    key_id: KeyId,
    actor: Actor,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Refuse a token from now on, everywhere. A successor that it has is another token, and goes on."""
    with _opened(url) as db:
        record = db.tokens.revoke(key_id, reason, actor=actor)
    if as_json:
        print_json(_data(record))
        return
    print(f"{record.key_id} ({_shown(record.name)}) was revoked at {_time(record.revoked_at)}")
    if record.rotated_to:
        print(f"its successor {record.rotated_to} goes on", file=sys.stderr)


class Legacy(Struct, forbid_unknown_fields=True):
    """A line of ``dal tokens import``."""

    name: str
    sha256: str
    kind: Kind = "svc"
    scopes: Sequence[str] = []
    workspace_ids: Sequence[str] = []
    allowed_cidrs: Sequence[str] | None = None
    rate_limit: int | None = None
    not_before: datetime | None = None
    expires_at: datetime | None = None


@tokens_app.command("import")
def import_tokens(actor: Actor, url: Url = None) -> None:
    """Bring in tokens that another system made, of which it keeps the plain SHA-256.

    Standard input has a JSON object a line: name and sha256 (64 hex digits), and what else mint takes: kind, scopes,
    workspace_ids, allowed_cidrs, rate_limit, not_before, expires_at. All are brought in, or none.
    """
    lines: list[tuple[int, Legacy]] = []
    for at, line in enumerate(sys.stdin.buffer, 1):
        if line.strip():
            try:
                lines.append((at, msgspec.json.decode(line, type=Legacy)))
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:  # they show no value
                fail(f"line {at}: {error}")
    at = 0

    def bring(tx: Tx[Sync]) -> None:
        nonlocal at
        for number, each in lines:
            at = number
            tx.tokens.import_legacy(actor=actor, **structs.asdict(each))

    with _opened(url) as db:
        try:
            db.transact(bring)
        except (Invalid, Conflict) as error:
            fail(f"line {at}: {error}")
    print(f"brought in {len(lines)} token{'' if len(lines) == 1 else 's'}")


# --- looking ----------------------------------------------------------------------------------------------------------


@tokens_app.command("list")
def list_tokens(
    everything: Annotated[bool, typer.Option("--all", help="Those that are refused by now, too.")] = False,
    limit: Limit = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Tokens, newest first, and how often each was used as far as that was stored, which is at most a minute late."""
    now = datetime.now(UTC)
    told: list[object] = []
    with _opened(url) as db:
        for records in _pages(lambda at, most: db.tokens.list(active=not everything, after=at, limit=most), limit):
            uses = {each.key_id: each for each in db.tokens.usage([record.key_id for record in records])}
            for record in records:
                use, state = uses.get(record.key_id), _state(record, now)
                if as_json:
                    told.append({**_data(record), "state": state, "usage": use and _data(use)})
                else:
                    print(_line(record, state, use))
    if as_json:
        print_json(told)


def _state(record: TokenRecord, now: datetime) -> str:
    if record.revoked_at is not None:
        return "revoked"
    if record.expires_at is not None and record.expires_at <= now:
        return "expired"
    if record.overlap_until is not None:
        return "rotated" if record.overlap_until <= now else "overlap"
    return "early" if record.not_before is not None and record.not_before > now else "active"


def _line(record: TokenRecord, state: str, use: TokenUsage | None) -> str:
    ends = [each for each in (record.expires_at, record.overlap_until) if each is not None]
    used = "never used" if use is None else f"used {_times(use.use_count)}, last {_time(use.last_used_at)}"
    until = f", until {_time(min(ends))}" if ends and state != "revoked" else ""
    scopes = f"  [{_shown(' '.join(record.scopes))}]" if record.scopes else ""
    return f"{record.key_id}  {record.kind}  {state:<7}  {_shown(record.name)}{scopes}  {used}{until}"


@tokens_app.command("verify", context_settings={"allow_extra_args": True})
def verify_token(
    context: typer.Context,
    ip: Annotated[str | None, typer.Option("--ip", metavar="ADDRESS", help="As if it came from there.")] = None,
    workspace: Annotated[str | None, typer.Option("--workspace", help="Whether it may there.")] = None,
    scopes: Annotated[list[str] | None, typer.Option("--scope", help="Whether it may this; once for each.")] = None,
    legacy: Annotated[bool, typer.Option("--legacy", help="Take tokens of another system, too.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Say whose a token is, or why it is refused, with exit status 1.

    The token is read from standard input, or asked for on a terminal, and not shown there. This counts as a use of it,
    or as a refusal.
    """
    if context.args:  # the usual error would repeat them, and they are secret most likely
        raise typer.BadParameter("the token comes from standard input, not from here, where others can read it")
    token = _read_token()
    with _opened(url) as db:
        try:
            record = db.tokens.authenticate(
                token, ip=ip, user_agent="dal tokens verify", workspace=workspace, scopes=scopes or [], legacy=legacy
            )
        except TokenRefused as refused:
            if as_json:
                print_json({"accepted": False, "found": refused.found})
                sys.exit(1)
            raise
    if as_json:
        print_json({"accepted": True, **_data(record)})
        return
    print(f"key id      {record.key_id}\nname        {_shown(record.name)}\nkind        {record.kind}")
    print(f"scopes      {_shown(' '.join(record.scopes)) or 'none'}")
    print(f"workspaces  {_shown(' '.join(record.workspace_ids)) or 'none'}")
    print(f"addresses   {' '.join(record.allowed_cidrs) if record.allowed_cidrs else 'all'}")
    print(f"expires     {_time(record.expires_at)}")
    if record.rotated_to:
        print(f"rotated to  {record.rotated_to}, accepted until {_time(record.overlap_until)}")


def _read_token() -> str:
    if sys.stdin.isatty():
        found = getpass.getpass("Token: ")
    else:
        found = sys.stdin.buffer.read(MAX_TOKEN).decode(errors="replace")
    return found.strip() or fail("there is no token on standard input")


# --- the audit --------------------------------------------------------------------------------------------------------


@audit_app.command("list")
def list_audit(key_id: KeyId, limit: Limit = None, url: Url = None, as_json: AsJson = False) -> None:
    """What was done with a token and by whom, oldest first."""
    with _opened(url) as db:
        rows = _pages(lambda at, most: db.tokens.audit(key_id, after=at, limit=most), limit)
        _print_rows(
            rows,
            lambda row: (
                f"{row.number}  {_time(row.at)}  {row.action}  by {_shown(row.actor)}  {json.dumps(row.details)}"
            ),
            as_json,
        )


@audit_app.command("refusals")
def list_refusals(
    key_id: Annotated[
        str | None, typer.Argument(metavar="[KEY_ID]", help="Of one token; of all by default.", show_default=False)
    ] = None,
    limit: Limit = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Who was refused and why, newest minute first. Without a key id: it was no token of this database."""
    with _opened(url) as db:
        rows = _pages(lambda at, most: db.tokens.refusals(key_id, after=at, limit=most), limit)
        _print_rows(
            rows,
            lambda row: (
                f"{row.minute_at:%Y-%m-%d %H:%M}Z  {row.key_id or '-':<12}  {row.reason:<9}  {_times(row.refusals)}"
                f"  {row.last_ip or '-'}  {_shown(row.last_user_agent or '-')}"
            ),
            as_json,
        )


@audit_app.command("verify")
def verify_audit(
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="HEAD", help="The head of an earlier time: look only at what is behind it."),
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Verify the chain that every change of a token is a row of; exits with 1 at the first row that does not fit.

    Keep the head that it prints elsewhere: with --since it finds out that the whole table was put back to an older
    state.
    """
    head = None if since is None else _head(since)
    with _opened(url) as db:
        report = db.tokens.verify_audit(since=head)
    if as_json:
        print_json(_data(report))
    else:
        count = f"{report.rows} row{'' if report.rows == 1 else 's'}"
        print(f"{count} fit{'s' if report.rows == 1 else ''}, head {report.head.number}:{report.head.row_hash}")
    if report.fault is not None:
        fail(f"row {report.fault.number} {report.fault.reason}")


def _head(text: str) -> AuditHead:
    found = re.fullmatch(r"([0-9]{1,18}):([0-9a-f]{64})", text)
    if found is None:
        raise typer.BadParameter("takes NUMBER:HASH, as 'dal tokens audit verify' prints it", param_hint="--since")
    return AuditHead(int(found[1]), found[2])


# --- peppers ----------------------------------------------------------------------------------------------------------


@tokens_app.command()
def pepper(
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", metavar="PATH", help="Put it first in this file, and do not print it.", show_default=False
        ),
    ] = None,
    rows: Annotated[
        bool, typer.Option("--rows", help="Make none; say how many tokens are left with each, and which are loaded.")
    ] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Make a pepper, the key of token digests, and print it as DAL_TOKEN_PEPPERS takes it: id=base64.

    The pepper alone is on standard output. With --rows nothing is made, and the database is asked.
    """
    if rows:
        if file is not None:
            raise typer.BadParameter("give --file or --rows, not both", param_hint="--rows")
        _print_peppers(url, as_json)
        return
    if file is None:
        _print_secret(new_pepper())
        print(
            "Put it before the others in DAL_TOKEN_PEPPERS, or first in the file that it names, and keep those: each "
            "is needed until 'dal tokens pepper --rows' names it no more. Where several processes are at work, put it "
            "last and restart them all before you put it first.",
            file=sys.stderr,
        )
    else:
        print(f"{put_first(file)} is the first in {file} from the next start of a process on")


def _print_peppers(url: str | None, as_json: bool) -> None:
    with _opened(url) as db:
        counts = {each.pepper_id: each.tokens for each in db.tokens.peppers()}
    loaded = [*loaded_peppers(db.settings)]
    ids: list[str | None] = [*loaded, *(name for name in counts if name not in loaded)]
    told = [
        {"pepper_id": name, "tokens": counts.get(name, 0), "loaded": name in loaded, "current": name in loaded[:1]}
        for name in ids
    ]
    if as_json:
        print_json(told)
        return
    for name, each in zip(ids, told, strict=True):
        words = (
            "none: plain SHA-256, of another system" if name is None
            else "current" if each["current"] else "loaded" if each["loaded"] else "NOT LOADED: they are refused"
        )  # fmt: skip
        print(f"{each['tokens']:>8}  {name or '-':<32}  {words}")


# --- saying it --------------------------------------------------------------------------------------------------------


def _opened(url: str | None) -> Dal[Sync]:
    settings = Settings.load(url)
    refuse_missing(settings)
    return connect(settings, migrate=False)


def _pages(ask: Callable[[str | None, int], Page[T]], limit: int | None) -> Iterator[Sequence[T]]:
    """All pages of a list, or as many items as are asked for."""
    after, left = None, limit
    while left != 0:
        page = ask(after, PAGE if left is None else min(PAGE, left))
        yield page.items
        after, left = page.next, None if left is None else left - len(page.items)
        if after is None:
            return
    print("there are more", file=sys.stderr)


def _print_rows(pages: Iterator[Sequence[R]], line: Callable[[R], str], as_json: bool) -> None:
    told: list[object] = []
    for rows in pages:
        for row in rows:
            told.append(_data(row)) if as_json else print(line(row))
    if as_json:
        print_json(told)


def _hand_over(minted: Minted, as_json: bool) -> None:
    """Print a token, once and whole, or say that it is lost."""
    record, token = minted.record, minted.secret.reveal()
    try:
        _print_secret(json.dumps({"token": token, **_data(record)}, indent=2) if as_json else token)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the program's end would try it again
        fail(f"the token could not be written: {error.strerror}. Nobody has it: revoke {record.key_id}")
    print(
        f"{record.key_id} is {_shown(record.name)}, expires: {_time(record.expires_at)}. The token is shown this once.",
        file=sys.stderr,
    )


def _print_secret(text: str) -> None:
    print(text, flush=True)


def _data(row: Struct) -> dict[str, Any]:  # Any: it is only printed
    data: dict[str, Any] = msgspec.to_builtins(row)
    return data


def _times(number: int) -> str:
    return f"{number} time{'' if number == 1 else 's'}"


def _time(instant: datetime | None) -> str:
    return "never" if instant is None else f"{instant:%Y-%m-%d %H:%M:%S}Z"


def _shown(text: str) -> str:
    """A text that somebody chose, without what a terminal would obey."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)

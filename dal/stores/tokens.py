"""Service tokens: minting, checking, rotating and revoking what callers identify themselves with.

    minted ──rotate──▶ rotated: accepted until its overlap ends, beside its successor
       └─────revoke──▶ revoked

The database holds a keyed digest of each token's secret; the keys ("peppers") are elsewhere (token_keys.py). Every
change is a row of the audit chain (token_audit.py), in the same statement. One read decides on every call, so that a
revocation counts at once, everywhere; nothing of it is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from msgspec import UNSET, UnsetType

from dal.core.cursors import (
    Page,
    check_limit,
    instant_text_cursor,
    number_cursor,
    page,
    read_instant_text_cursor,
    read_number_cursor,
)
from dal.core.face import M, Queries, Store, applied, missing, repeated, statement
from dal.core.rows import Applied, Json, check_bool, check_int, instant_text
from dal.errors import (
    AlreadyExists,
    Closed,
    DalError,
    Invalid,
    InvalidState,
    NameTaken,
    OutcomeUnknown,
    TokenNotFound,
    TokenRefused,
)
from dal.stores.checks import check_key, check_length
from dal.stores.token_audit import (
    START,
    AuditFault,
    AuditHead,
    AuditReport,
    AuditRow,
    Entry,
    check_head,
    check_known,
    check_rows,
    link,
    read_head,
)
from dal.stores.token_checks import (
    Address,
    Granted,
    check_address,
    check_bounds,
    check_granted,
    check_key_id,
    check_plain,
    check_sha256,
    check_since,
    check_token_text,
    check_word,
    check_words,
    instants,
    is_within,
    later,
)
from dal.stores.token_keys import Keyring, verify
from dal.stores.token_records import HashAlg, Minted, PepperCount, Refusal, StoredToken, TokenRecord, TokenUsage
from dal.stores.token_texts import (
    Kind,
    Secret,
    is_foreign,
    new_key_id,
    new_secret,
    read_token,
    token_text,
)
from dal.usage import Batch, Reason, Renewal, Seen, Usage, readable

MAX_OVERLAP = 90 * 86_400
MAX_PRUNED = 10_000
MAX_ASKED = 500
_FLUSHED = 500  # lines in one statement
_VERIFIED = 500


class Desk:
    """What the stores of one Dal share: the keys, what is to be flushed, and where the audit chain was seen to end.

    A transaction has one of its own, because what it saw may be undone.
    """

    def __init__(self, keys: Callable[[], Keyring], usage: Usage, head: AuditHead = START) -> None:
        """keys: raises PepperMissing where there are none."""
        self.keys = keys
        self.usage = usage
        self.head = head

    def within(self) -> Desk:
        """For a transaction."""
        return Desk(self.keys, self.usage, self.head)


class Tokens(Store[M]):
    """``db.tokens``."""

    def __init__(self, runner: Any, clock: Callable[[], datetime], desk: Desk) -> None:
        super().__init__(runner, clock)
        self._desk = desk

    def _now(self) -> datetime:
        now = self.clock()
        instant_text(now, "now")  # it is compared before it is bound
        return now

    @statement(write=True)
    async def mint(
        self,
        q: Queries,
        name: str,
        *,
        actor: str,
        kind: Kind = "svc",
        scopes: Sequence[str] = (),
        workspace_ids: Sequence[str] = (),
        allowed_cidrs: Sequence[str] | None = None,
        rate_limit: int | None = None,
        not_before: datetime | None = None,
        expires_at: datetime | None = None,
    ) -> Minted:
        """A new token, whose secret is told this once.

        name: 1 to 128 characters, trimmed; unique, whatever its case, among those neither revoked nor rotated.
        kind: 'svc', 'usr' or 'tst'. scopes, workspace_ids: what it grants, at most 100 each, of 1 to 128 characters
        without white space; () grants none. allowed_cidrs: the addresses that may use it, 1 to 100 ranges such as
        '10.0.0.0/8'; None for all. expires_at: later than now and than not_before.
        Raises NameTaken, PepperMissing.
        """
        keys, now = self._desk.keys(), self._now()
        granted = check_granted(
            now, name, kind, scopes, workspace_ids, allowed_cidrs, rate_limit, not_before, expires_at
        )
        key_id, secret = new_key_id(), new_secret()
        record = await self._create(
            q, "minted", granted, key_id, keys.digest(keys.current, key_id, secret), "hmac-sha256", actor, now, keys
        )
        return Minted(record, Secret(token_text(kind, key_id, secret)))

    @statement(write=True)
    async def import_legacy(
        self,
        q: Queries,
        name: str,
        sha256: str | bytes,
        *,
        actor: str,
        kind: Kind = "svc",
        scopes: Sequence[str] = (),
        workspace_ids: Sequence[str] = (),
        allowed_cidrs: Sequence[str] | None = None,
        rate_limit: int | None = None,
        not_before: datetime | None = None,
        expires_at: datetime | None = None,
    ) -> TokenRecord:
        """A token that another system made and keeps the plain SHA-256 of; ``authenticate(…, legacy=True)`` takes it.

        sha256: 64 hex digits, or 32 bytes. The rest as for ``mint``. Its digest is replaced by a keyed one when it is
        used for the first time. Raises NameTaken; AlreadyExists if a token with this hash was brought in before;
        PepperMissing.
        """
        keys, now = self._desk.keys(), self._now()
        granted = check_granted(
            now, name, kind, scopes, workspace_ids, allowed_cidrs, rate_limit, not_before, expires_at
        )
        digest = check_sha256(sha256)
        return await self._create(q, "imported", granted, new_key_id(), digest, "sha256-legacy", actor, now, keys)

    async def _create(
        self, q: Queries, action: str, granted: Granted, key_id: str, digest: bytes, hash_alg: HashAlg, actor: str,
        now: datetime, keys: Keyring,
    ) -> TokenRecord:  # fmt: skip
        check_key(actor, "actor")
        change = _Change(self._desk, [Entry(key_id, action, granted.details())], keys, actor, now)
        while change.is_open:
            answer = await q.create_token(
                key_id=key_id,
                name=granted.name,
                name_key=granted.name_key,
                kind=granted.kind,
                secret_hash=digest,
                hash_alg=hash_alg,
                pepper_id=None if hash_alg == "sha256-legacy" else keys.current,
                scopes=granted.scopes,
                workspace_ids=granted.workspace_ids,
                allowed_cidrs=granted.allowed_cidrs,
                rate_limit=granted.rate_limit,
                not_before=granted.not_before,
                expires_at=granted.expires_at,
                actor=actor,
                now=now,
                **change.links(),
            )
            change.settle(answer)
        if change.row is None:
            if change.found == "hash":
                raise AlreadyExists("a token with this hash", constraint="service_tokens_legacy_key")
            raise NameTaken(
                f"'{granted.name.encode('ascii', 'backslashreplace').decode()}'", constraint="service_tokens_name_key"
            )
        return change.row

    @statement
    async def authenticate(
        self,
        q: Queries,
        token: str | Secret,
        *,
        ip: str | None = None,
        user_agent: str | None = None,
        workspace: str | None = None,
        scopes: Sequence[str] = (),
        legacy: bool = False,
    ) -> TokenRecord:
        """The record of the token that this is, if it may be used now, from here, for this. One round trip.

        ip: the caller's address; a token that is tied to addresses is refused without. workspace, scopes: what is asked
        for; the token must grant all of it. legacy: take tokens of another system, too (``import_legacy``); without it,
        what is not of our form costs no round trip, with it texts of 16 to 256 visible ASCII characters cost one.
        Raises TokenRefused, the same for whatever is wrong with the token or the address; only who has its secret is
        told 'revoked', 'expired', 'early', 'workspace' or 'scope'. PepperMissing if its digest cannot be checked.
        Closed, once the Dal is being closed.
        """
        if self._desk.usage.closed:
            raise Closed("open another with dal.connect")
        text = check_token_text(token)
        address = None if ip is None else check_address(ip)
        agent = None if user_agent is None else readable(check_plain(user_agent, "user_agent"))
        wanted = check_words(scopes, "scopes")
        if workspace is not None:
            check_word(workspace, "workspace")
        now = self._now()
        keys = None
        found: StoredToken | None
        is_right = False
        reason: Reason = "unknown"
        presented = read_token(text)
        if presented is not None:
            keys = self._desk.keys()
            stored = await q.get_stored_token(key_id=presented.key_id)
            found = stored if stored is not None and stored.key_id == presented.key_id else None
            is_right = verify(presented, found, keys)
        elif legacy and is_foreign(text):
            keys = self._desk.keys()
            found = await q.get_legacy_token(hashes=keys.legacy_digests(text))
            is_right = found is not None
        else:
            found, reason = None, "malformed"
        seen = (now, None if address is None else str(address), agent)
        if found is None or not is_right:
            self._desk.usage.refused(found.key_id if found else "", "secret" if found else reason, *seen)
            raise TokenRefused
        refusal = _refusal(found, address, workspace, wanted, now)
        if refusal is not None:
            self._desk.usage.refused(found.key_id, refusal, *seen)
            raise TokenRefused if refusal == "address" else TokenRefused(_REFUSALS[refusal], found=refusal)
        self._desk.usage.used(found.key_id, *seen)
        assert keys is not None  # it was right
        if found.pepper_id != keys.current:
            if presented is None:
                new, alg = keys.legacy_digest(keys.current, text), "hmac-sha256-legacy"
            else:
                new, alg = keys.digest(keys.current, found.key_id, presented.secret), "hmac-sha256"
            self._desk.usage.renew(found.key_id, Renewal(found.secret_hash, new, alg, keys.current))
        return found.record()

    @statement(write=True)
    async def rotate(
        self,
        q: Queries,
        key_id: str,
        *,
        actor: str,
        overlap_seconds: int = 300,
        expires_at: datetime | UnsetType | None = UNSET,
    ) -> Minted:
        """A successor with the same name and rights, whose secret is told this once. The old token is accepted for
        overlap_seconds more, 0 to 90 days; with 0 it is revoked at once.

        expires_at: of the successor; the old token's unless given, None for never. Of two that rotate a token at once
        one wins. A token of another system gets a successor of our form.
        Raises TokenNotFound; InvalidState with 'revoked', 'rotated' or 'expired'; PepperMissing.
        """
        keys, now = self._desk.keys(), self._now()
        check_key_id(key_id)
        check_key(actor, "actor")
        if not 0 <= check_int(overlap_seconds, "overlap_seconds") <= MAX_OVERLAP:
            raise Invalid(f"{overlap_seconds}; takes 0 to {MAX_OVERLAP}", path="overlap_seconds")
        if expires_at is not UNSET:
            check_bounds(None, expires_at, now)
        new_id, secret = new_key_id(), new_secret()
        entries = [
            Entry(key_id, "rotated", {"rotated_to": new_id, "overlap_seconds": overlap_seconds}),
            Entry(new_id, "minted", {"rotated_from": key_id, **instants(expires_at=expires_at)}),
        ]
        change = _Change(self._desk, entries, keys, actor, now)
        while change.is_open:
            answer = await q.rotate_token(
                key_id=key_id,
                new_key_id=new_id,
                secret_hash=keys.digest(keys.current, new_id, secret),
                pepper_id=keys.current,
                set_expires_at=expires_at is not UNSET,
                expires_at=None if expires_at is UNSET else expires_at,
                overlap_until=later(now, overlap_seconds),
                actor=actor,
                now=now,
                **change.links(),
            )
            change.settle(applied(answer, TokenNotFound, key_id))
        if change.found == "bounds":
            raise Invalid("must be later than the token's not_before", path="expires_at")
        if change.row is None:
            raise InvalidState(f"token {key_id} is {change.found}, and cannot be rotated", found=change.found)
        return Minted(change.row, Secret(token_text(change.row.kind, new_id, secret)))

    @statement(write=True)
    async def revoke(self, q: Queries, key_id: str, reason: str, *, actor: str) -> TokenRecord:
        """Refuse a token from now on, in its overlap too; one that is revoked already stays as it is.

        reason: 1 to 1,024 characters. Its successor, if it has one, is another token. Raises TokenNotFound,
        PepperMissing.
        """
        keys, now = self._desk.keys(), self._now()
        check_key_id(key_id)
        check_key(actor, "actor")
        check_length(reason, "reason", 1, 1024)
        change = _Change(self._desk, [Entry(key_id, "revoked", {"reason": reason})], keys, actor, now)
        while change.is_open:
            answer = await q.revoke_token(
                key_id=key_id,
                reason=reason,
                actor=actor,
                now=now,
                **change.links(),
            )
            change.settle(applied(answer, TokenNotFound, key_id))
        assert change.row is not None  # it was there
        return change.row

    @statement
    async def get(self, q: Queries, key_id: str) -> TokenRecord:
        """One token, of whatever state. Raises TokenNotFound."""
        return await q.get_token(key_id=check_key_id(key_id)) or missing(TokenNotFound, key_id)

    @statement
    async def list(
        self, q: Queries, *, active: bool = True, after: str | None = None, limit: int = 50
    ) -> Page[TokenRecord]:
        """Tokens, newest first. limit: 1 to 500.

        active: those alone that are accepted now, those in their overlap among them, or will be from ``not_before`` on.
        """
        scope = f"tokens:{check_bool(active, 'active')}"
        after_at, after_id = read_instant_text_cursor(scope, after)
        more = check_limit(limit) + 1
        if active:
            rows = await q.list_tokens(now=self._now(), after_at=after_at, after_id=after_id, limit=more)
        else:
            rows = await q.list_tokens_all(after_at=after_at, after_id=after_id, limit=more)
        return page(rows, limit, lambda last: instant_text_cursor(scope, last.created_at, last.key_id))

    @statement
    async def usage(self, q: Queries, key_ids: Sequence[str]) -> Sequence[TokenUsage]:
        """How often tokens were used, by key id, for those of the list that were. key_ids: at most 500.

        As far as it was flushed, which is at most once a minute.
        """
        if type(key_ids) is not list and type(key_ids) is not tuple:
            raise Invalid(f"takes a list or tuple of str, not {type(key_ids).__name__}", path="key_ids")
        if len(key_ids) > MAX_ASKED:
            raise Invalid(f"{len(key_ids)} key ids; takes at most {MAX_ASKED}", path="key_ids")
        return await q.list_token_usage(
            key_ids=[check_key_id(each, f"key_ids[{at}]") for at, each in enumerate(key_ids)]
        )

    @statement
    async def peppers(self, q: Queries) -> Sequence[PepperCount]:
        """How many tokens that were not revoked have their digest made with each pepper.

        An old pepper may be taken out of DAL_TOKEN_PEPPERS when it is no longer named here, and audit rows that were
        written under it need no longer be verified.
        """
        return await q.count_tokens_by_pepper()

    @statement
    async def audit(self, q: Queries, key_id: str, *, after: str | None = None, limit: int = 50) -> Page[AuditRow]:
        """What was changed of a token, by whom, oldest first; empty if there is no such token. limit: 1 to 500."""
        scope = f"token-audit:{check_key_id(key_id)}"
        rows = await q.list_token_audit(
            key_id=key_id, after=read_number_cursor(scope, after, first=0), limit=check_limit(limit) + 1
        )
        return page(rows, limit, lambda last: number_cursor(scope, last.number))

    @statement
    async def refusals(
        self, q: Queries, key_id: str | None = None, *, after: str | None = None, limit: int = 50
    ) -> Page[Refusal]:
        """Who was refused and why, by minute, newest first, as far as it was flushed. limit: 1 to 500.

        key_id: of one token; '' for what was no token of ours; None for all.
        """
        if key_id:
            check_key_id(key_id)
        scope = f"token-refusals:{key_id}"
        after_at, after_key = read_instant_text_cursor(scope, after)
        more = check_limit(limit) + 1
        if key_id is None:
            after_id, _, after_reason = after_key.partition(":")
            rows = await q.list_token_refusals(
                after_minute=after_at, after_key_id=after_id, after_reason=after_reason, limit=more
            )
            return page(
                rows, limit, lambda last: instant_text_cursor(scope, last.minute_at, f"{last.key_id}:{last.reason}")
            )
        rows = await q.list_token_refusals_of(key_id=key_id, after_minute=after_at, after_reason=after_key, limit=more)
        return page(rows, limit, lambda last: instant_text_cursor(scope, last.minute_at, last.reason))

    @statement(write=True)
    async def prune_refusals(self, q: Queries, before: datetime, *, limit: int = 1000) -> int:
        """Forget refusals of minutes before a time, oldest first; returns how many, fewer than limit at the end.

        limit: 1 to 10,000.
        """
        if not 1 <= check_int(limit, "limit") <= MAX_PRUNED:
            raise Invalid(f"{limit}; takes 1 to {MAX_PRUNED}", path="limit")
        return await q.delete_token_refusals(before=before, limit=limit)

    @repeated
    async def verify_audit(
        self, q: Queries, seen: AuditReport | None, *, since: AuditHead | None = None
    ) -> tuple[AuditReport, bool]:
        """Verify the audit chain, row by row, in bounded memory.

        since: the ``head`` of an earlier report, kept elsewhere. Only rows behind it are looked at then; and a chain
        that was exchanged for an older state of itself, head and all, is found out, which without it is not.
        The report names the first row that was altered, deleted, moved or cut off. Rows that are written meanwhile are
        verified, too. Raises PepperMissing for a row whose pepper is no longer loaded.
        """
        keys = self._desk.keys()
        report = seen or AuditReport(0, check_since(since), None)
        begun = head = report.head
        is_first = seen is None and begun != START
        rows = await q.list_audit_chain(after=begun.number - is_first, limit=_VERIFIED)
        fault = check_known(rows, begun) if is_first else None
        if fault is None:
            head, fault = check_rows(rows[is_first:], begun, keys)
        is_last = fault is not None
        if not is_last and len(rows) < _VERIFIED:
            is_empty = head == START and not await q.get_tokens_exist()
            stored = await q.get_audit_head()
            late: Sequence[AuditRow] = []
            if stored is not None and stored.number > head.number:  # rows were written meanwhile, or are gone
                late = await q.list_audit_chain(after=head.number, limit=_VERIFIED)
                head, fault = check_rows(late, head, keys)
            is_last = fault is not None or not late
            if fault is None and is_last:
                fault = check_head(stored, head, keys)
            if fault is None and is_last and head == START and not is_empty:
                fault = AuditFault(1, "is missing")  # every token has a row that says where it came from
        return AuditReport(report.rows + head.number - begun.number, head, fault), is_last

    @statement(write=True)
    async def flush_usage(self, q: Queries) -> int:
        """Store uses and refusals that were counted since the last time; returns how many.

        This happens by itself within a minute of the first of them, and when the Dal is closed. What cannot be stored
        is kept for the next time; what may have been stored (OutcomeUnknown) is not counted again, and what a
        transaction stored that is undone is lost.
        """
        usage = self._desk.usage
        batch: Batch = usage.take()
        stored = 0
        try:
            while batch:
                some, rest = batch.split(_FLUSHED)
                stored += await _store(q, some)
                batch = rest
        except BaseException as error:
            is_undone = isinstance(error, DalError) and not isinstance(error, OutcomeUnknown)
            usage.give_back(batch if is_undone else batch.split(_FLUSHED)[1])
            raise
        return stored


# --- changes, one behind the other ------------------------------------------------------------------------------------


class _Change:
    """A change on its way, with its rows of the audit chain: on the head that was seen last, and again on the one that
    turned out to be there. found, row: what became of it."""

    def __init__(self, desk: Desk, entries: Sequence[Entry], keys: Keyring, actor: str, now: datetime) -> None:
        self.is_open = True
        self.found: str | None = None
        self.row: TokenRecord | None = None
        self._desk = desk
        self._head = desk.head
        self._link = partial(link, entries, keys=keys, actor=actor, now=now)
        self._links = self._link(self._head)
        self._now = now

    def links(self) -> dict[str, Any]:
        """The arguments about the chain, which every change has."""
        made = self._links.head
        return {
            "head_number": self._head.number, "head_hash": self._head.row_hash, "entries": self._links.rows,
            "number": made.number, "row_hash": made.row_hash, "sealed_by": made.pepper_id, "seal": made.seal,
        }  # fmt: skip

    def settle(self, answer: Applied[TokenRecord] | None) -> None:
        """Take the answer, unless it is that the head has moved. Raises CorruptDatabase if it is no head any more."""
        assert answer is not None  # a statement that finds something to change has something to say
        moved = (answer.found or "").removeprefix("moved:")
        if answer.row is None and moved != answer.found:
            self._head = self._desk.head = read_head(moved)
            self._links = self._link(self._head)
            return
        self.is_open, self.found, self.row = False, answer.found, answer.row
        if answer.row is not None and answer.row.revoked_at in (None, self._now):  # not one that was revoked before
            self._desk.head = AuditHead(self._links.head.number, self._links.head.row_hash)


# --- what a caller may do ---------------------------------------------------------------------------------------------

_REFUSALS: Mapping[str, str] = {
    "revoked": "it was revoked",
    "expired": "its time is over",
    "early": "its time has yet to come",
    "workspace": "it does not grant this workspace",
    "scope": "it does not grant all of these scopes",
}


def _refusal(
    found: StoredToken, address: Address | None, workspace: str | None, scopes: Sequence[str], now: datetime
) -> Reason | None:
    """Why the right token gives no access; where it is asked from comes first, because that alone is told to nobody."""
    if found.allowed_cidrs is not None and (address is None or not is_within(address, found.allowed_cidrs)):
        return "address"
    if found.revoked_at is not None:
        return "revoked"
    if any(end is not None and now >= end for end in (found.expires_at, found.overlap_until)):
        return "expired"
    if found.not_before is not None and now < found.not_before:
        return "early"
    if workspace is not None and workspace not in found.workspace_ids:
        return "workspace"
    if not set(scopes) <= set(found.scopes):
        return "scope"
    return None


# --- flushing ---------------------------------------------------------------------------------------------------------


async def _store(q: Queries, batch: Batch) -> int:
    """Store what one statement takes, all of one kind; returns how many uses or refusals it was."""
    if batch.uses:
        await q.record_token_uses(uses=[{"key_id": key_id, **_line(seen)} for key_id, seen in batch.uses.items()])
        return sum(seen.count for seen in batch.uses.values())
    if batch.refusals:
        await q.record_token_refusals(
            refusals=[
                {"minute_at": instant_text(minute, "minute"), "key_id": key_id, "reason": reason, **_line(seen)}
                for (key_id, minute, reason), seen in batch.refusals.items()
            ]
        )
        return sum(seen.count for seen in batch.refusals.values())
    await q.renew_token_hashes(
        tokens=[
            {"key_id": key_id, "hash_alg": each.hash_alg, "pepper_id": each.pepper_id}
            for key_id, each in batch.renewals.items()
        ],
        hashes=b"".join(each.old + each.new for each in batch.renewals.values()),
    )
    return 0


def _line(seen: Seen) -> dict[str, Json]:
    return {
        "count": seen.count,
        "first_at": instant_text(seen.first_at, "first_at"),
        "last_at": instant_text(seen.last_at, "last_at"),
        "ip": seen.ip,
        "user_agent": seen.user_agent,
    }

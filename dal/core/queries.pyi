"""The named queries as a store's body sees them. Written by `make generate` from sql/postgres/*.sql."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from dal.core.rows import Applied, Json
from dal.core.schema import AppliedMigration, Damage, SchemaColumn, SchemaIndex, SchemaReference, ServerFacts
from dal.stores.chat import Attachment, FoundText, Item, Thread
from dal.stores.checkpoints import Checkpoint
from dal.stores.crons import Cron
from dal.stores.history import Execution, Step, StreamedStep
from dal.stores.keys import Claim, Key
from dal.stores.retries import FailedRun, RetryPolicy
from dal.stores.runs import Run, StatusCount
from dal.stores.token_audit import AuditRow, SealedHead
from dal.stores.token_records import PepperCount, Refusal, StoredToken, TokenRecord, TokenUsage
from dal.stores.versions import Version
from dal.stores.webhooks import Webhook
from dal.stores.workflows import Event, FoundWorkflow, NamedWorkflow, Workflow

class Queries:
    async def save_thread(self, *, id: str, owner: str, title: str | None, title_terms: str, workflow_id: str | None, status: Json, metadata: Json, details: Json, created_at: datetime, now: datetime) -> Thread | None:
        """chat.sql: A new thread, or another content for one, which keeps its created_at. No row: another owner has the id."""

    async def get_thread(self, *, id: str, owner: str) -> Thread | None:
        """chat.sql: One thread, without its items."""

    async def list_threads(self, *, owner: str, after: str | None, limit: int) -> list[Applied[Thread]]:
        """chat.sql: Threads of an owner, newest first, those behind one of them or from the first on. One row refused with 'after': there is no such thread."""

    async def list_threads_oldest(self, *, owner: str, after: str | None, limit: int) -> list[Applied[Thread]]:
        """chat.sql: The same, oldest first."""

    async def list_threads_of_workflow(self, *, owner: str, workflow_id: str, after: str | None, limit: int) -> list[Applied[Thread]]:
        """chat.sql: Threads of an owner about a workflow, newest first, as list_threads has them."""

    async def list_threads_of_workflow_oldest(self, *, owner: str, workflow_id: str, after: str | None, limit: int) -> list[Applied[Thread]]:
        """chat.sql: The same, oldest first."""

    async def find_threads(self, *, owner: str, metadata: Json, workflow_id: str | None, after: str | None, limit: int) -> list[Applied[Thread]]:
        """chat.sql: Threads of an owner whose metadata contain an object, as @> has it, of one workflow or, with null, of any; newest first, as list_threads has them. Planned with its values: what many have is found soonest in the order of the page, what few have in the index."""

    async def find_threads_oldest(self, *, owner: str, metadata: Json, workflow_id: str | None, after: str | None, limit: int) -> list[Applied[Thread]]:
        """chat.sql: The same, oldest first."""

    async def delete_thread(self, *, id: str, owner: str) -> int:
        """chat.sql: Take a thread away, with its items and attachments."""

    async def delete_threads(self, *, before: datetime, limit: int) -> int:
        """chat.sql: Forget threads, oldest first, that were made before a time and in which nothing was saved since, with their items and attachments. What another is deleting is left to it."""

    async def add_item(self, *, id: str, thread_id: str, owner: str, type: str, item: str, body: str, firsts: Sequence[int], terms: Sequence[str], created_at: datetime, now: datetime) -> Applied[Item] | None:
        """chat.sql: The next item of a thread, with its pieces; the same again answers what is stored. Refused with 'taken': the id has another content; with 'again': another transaction had it, was waited for, and has committed since, so that the same statement, sent again, sees what it stored. No row: there is no such thread."""

    async def save_item(self, *, id: str, thread_id: str, owner: str, type: str, item: str, body: str, firsts: Sequence[int], terms: Sequence[str], created_at: datetime, now: datetime) -> Applied[Item] | None:
        """chat.sql: The next item of a thread, or another content for one, which keeps its seq and created_at. Refused with 'taken': another thread has the id. No row: there is no such thread. Pieces are upserted, which finds those that this statement, having waited for the thread, cannot see; those that it cannot delete are told from an item's own by its count of pieces."""

    async def get_item(self, *, id: str, thread_id: str, owner: str) -> Item | None:
        """chat.sql: One item of a thread."""

    async def list_items(self, *, thread_id: str, owner: str, after: str | None, limit: int) -> list[Applied[Item]]:
        """chat.sql: The items of a thread, oldest first, those behind one of them or from the first on. One row refused: with 'after' if there is no such item in it; with 'end' if nothing follows. No row: there is no such thread."""

    async def list_items_newest(self, *, thread_id: str, owner: str, after: str | None, limit: int) -> list[Applied[Item]]:
        """chat.sql: The same, newest first."""

    async def delete_item(self, *, id: str, thread_id: str, owner: str) -> int:
        """chat.sql: Take an item away. Its number is not given again."""

    async def save_attachment(self, *, id: str, owner: str, thread_id: str | None, type: str, name: str, mime_type: str, details: Json, storage_path: str | None, now: datetime) -> Applied[Attachment] | None:
        """chat.sql: A new attachment, or another content for one, which keeps its created_at, and its storage_path where none is given. Refused with 'taken': another owner has the id; with 'thread': there is no such thread."""

    async def update_attachment(self, *, id: str, owner: str, details: Json, storage_path: str) -> Attachment | None:
        """chat.sql: Where the bytes of an attachment are, and other details. One that was taken away meanwhile is not made again."""

    async def get_attachment(self, *, id: str, owner: str) -> Attachment | None:
        """chat.sql: One attachment."""

    async def list_stored_attachments(self, *, after: str, limit: int) -> list[Attachment]:
        """chat.sql: The attachments of all owners that have a storage_path, by their ids, from behind one."""

    async def delete_attachment(self, *, id: str, owner: str) -> int:
        """chat.sql: Take an attachment away; what it names stays where it is stored."""

    async def search_chat(self, *, owner: str, words: str, before_thread: int, before_item: int, limit: int) -> list[FoundText]:
        """chat.sql: What an owner finds by words: threads by their titles, then items by their text, those added last first. Of an item that is found by several pieces, the first. before_thread, before_item: 2^52 for the first page, 0 where a list is over. What few rows have is found in the index and sorted; what more have, in the order of the page. Which it is, the rows themselves tell: f and g are some of those that have the words, in whatever order, and all of them if there are few. The planner could not tell, since it knows nothing of rare words. So each way is written such that no other index fits it: f and g look for an owner and a number that are no columns, the others for terms that are none; and an owner's rows are a stretch of an index, lest the planner sort all of a busy owner's."""

    async def create_checkpoint(self, *, id: str, workflow_id: str, config_version: int | None, runnable_config: Json, metrics: Json, metadata: Json, artifact_url: str | None, is_best: bool, now: datetime) -> Applied[Checkpoint] | None:
        """checkpoints.sql: A checkpoint, under the number given or, with null, the one behind the highest so far; the best one from now on, if it is said to be. Refused with 'id' or 'version', which another has. One that took either meanwhile is refused by its constraint, and the head that was moved for it is moved back with the statement."""

    async def get_checkpoint(self, *, id: str) -> Checkpoint | None:
        """checkpoints.sql: One checkpoint."""

    async def get_checkpoint_latest(self, *, workflow_id: str) -> Checkpoint | None:
        """checkpoints.sql: A workflow's checkpoint with the highest version."""

    async def get_checkpoint_best(self, *, workflow_id: str) -> Checkpoint | None:
        """checkpoints.sql: A workflow's best checkpoint."""

    async def list_checkpoints(self, *, workflow_id: str, before: int, limit: int) -> list[Checkpoint]:
        """checkpoints.sql: Checkpoints of a workflow, highest version first, one page; before is the largest integer for the first."""

    async def find_checkpoints(self, *, workflow_id: str, metadata: Json, metrics: Json, before: int, limit: int) -> list[Checkpoint]:
        """checkpoints.sql: Checkpoints of a workflow whose metadata contain an object, as @> has it, and whose metrics contain another; highest version first, one page. {} is contained in all. Planned with its values, as find_executions is."""

    async def list_checkpoints_highest(self, *, workflow_id: str, metric: str, limit: int) -> list[Checkpoint]:
        """checkpoints.sql: The checkpoints of a workflow with the highest numbers for a metric, highest first; of equal ones the highest version. Materialized, or else all checkpoints of the workflow are read beside them: it is taken for one with a few."""

    async def list_checkpoints_lowest(self, *, workflow_id: str, metric: str, limit: int) -> list[Checkpoint]:
        """checkpoints.sql: The checkpoints of a workflow with the lowest numbers for a metric, lowest first; of equal ones the lowest version. Materialized for the same reason."""

    async def mark_checkpoint_best(self, *, id: str) -> Checkpoint | None:
        """checkpoints.sql: Seat a checkpoint as its workflow's best one, in the place of another."""

    async def create_execution(self, *, execution_id: str, workflow_id: str, inputs: Json, runnable_config: Json | None, tags: Json, callbacks: Json, metadata: Json, run_name: str | None, trace_id: str | None, now: datetime) -> Execution | None:
        """history.sql: A running execution without steps. No row: there is one with this id."""

    async def get_execution(self, *, execution_id: str) -> Execution | None:
        """history.sql: One execution, without its steps."""

    async def list_executions(self, *, workflow_id: str, after_at: datetime, after_id: str, limit: int) -> list[Execution]:
        """history.sql: Executions of a workflow, newest first, one page."""

    async def list_executions_by_status(self, *, workflow_id: str, status: str, after_at: datetime, after_id: str, limit: int) -> list[Execution]:
        """history.sql: Executions of a workflow in one state, newest first, one page."""

    async def find_executions(self, *, workflow_id: str, metadata: Json, after_at: datetime, after_id: str, limit: int) -> list[Execution]:
        """history.sql: Executions of a workflow whose metadata contain an object, as @> has it; newest first, one page. Planned with its values: what many have is found soonest in the order of the page, what few have in the index."""

    async def mark_execution_ended(self, *, execution_id: str, status: str, error: str | None, now: datetime) -> Applied[Execution] | None:
        """history.sql: running → completed, error or cancelled. Refused with the state found. A trace that began ends with it."""

    async def append_steps(self, *, execution_id: str, payloads: Sequence[str], now: datetime) -> list[Applied[Step]]:
        """history.sql: Steps behind those that an execution has, in the order given; payloads holds the text of each document. The first ones begin the trace, and its last span is never set back. One row refused with the state found: the execution has ended. No row: there is none."""

    async def list_steps(self, *, execution_id: str, after: int, limit: int) -> list[Step]:
        """history.sql: The steps of an execution, oldest first, one page; after is -1 for the first."""

    async def list_steps_sized(self, *, execution_id: str, after: int, limit: int, bytes: int) -> list[StreamedStep]:
        """history.sql: The same, ended early where the payloads, as stored, come to so many bytes; with the word whether there are more."""

    async def delete_executions(self, *, before: datetime, limit: int) -> int:
        """history.sql: Forget the executions that ended first, before a time, with their steps. What another is deleting is left to it."""

    async def claim_key(self, *, key: str, request_hash: str | None, now: datetime) -> Claim | None:
        """keys.sql: Take a key for this transaction, or say what was stored under it. No row: another transaction had it, was waited for, and has committed since; the same statement, sent again, sees what it stored."""

    async def update_key_result(self, *, key: str, result: Json) -> Key | None:
        """keys.sql: Store what the transaction that claimed the key answers."""

    async def get_key(self, *, key: str) -> Key | None:
        """keys.sql: One key, and what was answered under it."""

    async def delete_keys(self, *, before: datetime, limit: int) -> int:
        """keys.sql: Forget the oldest keys that were claimed before a time. What another is deleting is left to it."""

    async def create_migrations_table(self) -> int:
        """meta.sql: The ledger of migrations; there before the first of them."""

    async def get_migrations_table(self) -> bool | None:
        """meta.sql: Whether the ledger is there, as seen along the search path."""

    async def list_migrations(self) -> list[AppliedMigration]:
        """meta.sql: The migrations a database has had, in order."""

    async def create_migration(self, *, version: int, name: str, sha256: str, applied_at: datetime, duration_ms: int, app_version: str) -> int:
        """meta.sql: Note a migration in the transaction that made it."""

    async def get_schema_version(self) -> int | None:
        """meta.sql: The newest migration a database has had; null for none."""

    async def list_schema_columns(self) -> list[SchemaColumn]:
        """meta.sql: Every column of the current schema: table, column, declared type, whether it may be null, place in the primary key."""

    async def list_schema_indexes(self) -> list[SchemaIndex]:
        """meta.sql: Every index of the current schema that is not a primary key: its columns in order with their direction, its predicate, and whether it can be used."""

    async def list_schema_references(self) -> list[SchemaReference]:
        """meta.sql: Every foreign key of the current schema: from which columns to which, and what a delete does."""

    async def get_server_facts(self) -> ServerFacts | None:
        """meta.sql: What the server says of itself, of this database and of this session. Of other sessions it counts all, and knows the transactions of those that this role may look at."""

    async def list_damage(self) -> list[Damage]:
        """meta.sql: What the database itself knows to be broken: indexes that cannot be used, constraints that nobody made sure of, pages with a wrong checksum. No row: nothing it knows of."""

    async def create_run(self, *, id: UUID, workflow_id: UUID, version_id: UUID | None, triggered_by: str, inputs: Json, runnable_config: Json | None, tags: Json, callbacks: Json, metadata: Json, name: str | None, idempotency_key: str | None, actor: str, now: datetime) -> Applied[Run] | None:
        """runs.sql: A pending run of a version, the latest if version_id is null. The row is the first run if the idempotency key was used before: its id is not the one given. Refused with 'archived', or with 'version' if the workflow has no such version."""

    async def get_run(self, *, run_id: UUID) -> Run | None:
        """runs.sql: One run."""

    async def list_runs(self, *, workflow_id: UUID, after_at: datetime, after_id: UUID, limit: int) -> list[Run]:
        """runs.sql: Runs of a workflow, newest first, one page."""

    async def list_runs_by_status(self, *, workflow_id: UUID, status: str, after_at: datetime, after_id: UUID, limit: int) -> list[Run]:
        """runs.sql: Runs of a workflow in one state, newest first, one page."""

    async def mark_run_running(self, *, run_id: UUID, actor: str, now: datetime) -> Applied[Run] | None:
        """runs.sql: pending → running. Refused with the state found."""

    async def mark_run_succeeded(self, *, run_id: UUID, output: Json, worker: str | None, actor: str, now: datetime) -> Applied[Run] | None:
        """runs.sql: running → succeeded. Refused with the state found, or with 'lease' if it is not the worker that has it; no worker is that of a run without one."""

    async def mark_run_failed(self, *, run_id: UUID, error: str, worker: str | None, actor: str, now: datetime) -> Applied[Run] | None:
        """runs.sql: pending or running → failed. Refused as mark_run_succeeded is; a worker has no pending run."""

    async def mark_run_cancelled(self, *, run_id: UUID, reason: str | None, actor: str, now: datetime) -> Applied[Run] | None:
        """runs.sql: pending or running → cancelled, the reason kept as the run's error. Refused with the state found."""

    async def claim_runs(self, *, worker: str, lease_expires_at: datetime, limit: int, now: datetime) -> list[Run]:
        """runs.sql: Pending runs become running under a lease: those that have waited longest, a retry since the time it was put off to. What another is claiming is left to it, and that is for a moment more than it takes: enough of each of the two lines."""

    async def claim_runs_of_workflow(self, *, workflow_id: UUID, worker: str, lease_expires_at: datetime, limit: int, now: datetime) -> list[Run]:
        """runs.sql: claim_runs, of one workflow."""

    async def update_run_lease(self, *, run_id: UUID, worker: str, lease_expires_at: datetime, now: datetime) -> Applied[Run] | None:
        """runs.sql: A running run's lease ends at another time. Refused with the state found, or with 'lease' if another worker has it, or nobody."""

    async def requeue_runs(self, *, due: datetime, limit: int, actor: str, now: datetime) -> list[Run]:
        """runs.sql: Running runs whose lease ended at a time or before become pending again, the longest ended first. What another is changing is left to it."""

    async def count_runs(self, *, workflow_id: UUID, since: datetime) -> list[StatusCount]:
        """runs.sql: How many runs of a workflow, created at a time or later, are in each state."""

    async def list_run_events(self, *, run_id: UUID, after: int, limit: int) -> list[Event]:
        """runs.sql: The audit trail of a run, oldest first, one page; after is 0 for the first."""

    async def create_token(self, *, key_id: str, name: str, name_key: str, kind: str, secret_hash: bytes, hash_alg: str, pepper_id: str | None, scopes: Json, workspace_ids: Json, allowed_cidrs: Json | None, rate_limit: int | None, not_before: datetime | None, expires_at: datetime | None, actor: str, now: datetime, head_number: int, head_hash: str, entries: Json, number: int, row_hash: str, sealed_by: str, seal: str) -> Applied[TokenRecord] | None:
        """tokens.sql: A new token, with its row of the audit chain. Refused with 'name', which another has that was neither revoked nor rotated; with 'hash', which a token of another system has; or with the head that was found."""

    async def rotate_token(self, *, key_id: str, new_key_id: str, secret_hash: bytes, pepper_id: str, set_expires_at: bool, expires_at: datetime | None, overlap_until: datetime, actor: str, now: datetime, head_number: int, head_hash: str, entries: Json, number: int, row_hash: str, sealed_by: str, seal: str) -> Applied[TokenRecord] | None:
        """tokens.sql: A successor with the same rights, and the end of the old token: at overlap_until, or now if that is now; with their rows of the audit chain. Refused with what the old token is, 'revoked', 'rotated' or 'expired'; with 'bounds', if the successor would end before it begins; or with the head that was found."""

    async def revoke_token(self, *, key_id: str, reason: str, actor: str, now: datetime, head_number: int, head_hash: str, entries: Json, number: int, row_hash: str, sealed_by: str, seal: str) -> Applied[TokenRecord] | None:
        """tokens.sql: Revoke, with the row of the audit chain; a token that is revoked already stays as it is. Refused with the head that was found."""

    async def get_stored_token(self, *, key_id: str) -> StoredToken | None:
        """tokens.sql: A token, and what is stored of its secret; where there is none with this id, some other one, because reading none would take less time."""

    async def get_legacy_token(self, *, hashes: bytes) -> StoredToken | None:
        """tokens.sql: The same of a token that another system made, by all that may be stored of it, 32 bytes each; of two, the older."""

    async def get_token(self, *, key_id: str) -> TokenRecord | None:
        """tokens.sql: One token, of whatever state."""

    async def list_tokens(self, *, now: datetime, after_at: datetime, after_id: str, limit: int) -> list[TokenRecord]:
        """tokens.sql: Tokens that are accepted or will be, newest first, one page. Those that have expired and that nobody revoked are passed by."""

    async def list_tokens_all(self, *, after_at: datetime, after_id: str, limit: int) -> list[TokenRecord]:
        """tokens.sql: Tokens of whatever state, newest first, one page."""

    async def count_tokens_by_pepper(self) -> list[PepperCount]:
        """tokens.sql: How many tokens that were not revoked have their digest made with each pepper."""

    async def list_token_audit(self, *, key_id: str, after: int, limit: int) -> list[AuditRow]:
        """tokens.sql: What was changed of a token, oldest first, one page; after is 0 for the first."""

    async def list_audit_chain(self, *, after: int, limit: int) -> list[AuditRow]:
        """tokens.sql: The audit chain of all tokens, oldest first, one page; after is 0 for the first."""

    async def get_audit_head(self) -> SealedHead | None:
        """tokens.sql: Where the audit chain ends, as it was sealed; no row before the first change."""

    async def get_tokens_exist(self) -> bool | None:
        """tokens.sql: Whether any token was ever made here."""

    async def list_token_usage(self, *, key_ids: Sequence[str]) -> list[TokenUsage]:
        """tokens.sql: How often tokens were used, for those that were."""

    async def record_token_uses(self, *, uses: Json) -> int:
        """tokens.sql: Add to how often tokens were used. In the order of their key ids, so that two that do so at once do not deadlock."""

    async def record_token_refusals(self, *, refusals: Json) -> int:
        """tokens.sql: Add to how often callers were refused, by minute, key id and reason; in that order, for the same reason."""

    async def renew_token_hashes(self, *, tokens: Json, hashes: bytes) -> int:
        """tokens.sql: Replace digests by those under the current pepper, each if it still is what it was when the token was presented. tokens: key_id, hash_alg and pepper_id of each; hashes: of each the old and the new one, 32 bytes each."""

    async def list_token_refusals(self, *, after_minute: datetime, after_key_id: str, after_reason: str, limit: int) -> list[Refusal]:
        """tokens.sql: Refusals, newest minute first, one page."""

    async def list_token_refusals_of(self, *, key_id: str, after_minute: datetime, after_reason: str, limit: int) -> list[Refusal]:
        """tokens.sql: Refusals of one token, newest minute first, one page."""

    async def delete_token_refusals(self, *, before: datetime, limit: int) -> int:
        """tokens.sql: Forget the oldest refusals, of minutes before a time. What another is deleting is left to it."""

    async def set_cron(self, *, workflow_id: UUID, expression: str, timezone: str, allow_overlapping: bool, start_at: datetime | None, end_at: datetime | None, next_fire_at: datetime | None, actor: str, now: datetime) -> Applied[Cron] | None:
        """triggers.sql: Make a workflow's schedule, or replace it. A fire that is due stays due if the times are the same as before. Refused with 'archived'."""

    async def get_cron(self, *, workflow_id: UUID) -> Cron | None:
        """triggers.sql: A workflow's schedule."""

    async def delete_cron(self, *, workflow_id: UUID, actor: str, now: datetime) -> bool | None:
        """triggers.sql: Take a workflow's schedule away. False if there was none."""

    async def list_due_crons(self, *, now: datetime, limit: int) -> list[Cron]:
        """triggers.sql: Schedules to look at: a fire is due, and no unfinished run is in its way. The longest due first."""

    async def create_cron_runs(self, *, fires: Json, actor: str, now: datetime) -> list[Run]:
        """triggers.sql: Move schedules on, each from the time it was read with, and make a run of the latest version for each that fires; a fire is null where none is due yet. Left out: what was moved or changed since, or is being changed now; what is archived; what has an unfinished run and may not overlap. The run's idempotency key is the fire's own, so that it cannot fire twice even if its schedule is set back."""

    async def set_webhook(self, *, workflow_id: UUID, methods: Json, required_headers: Json, required_query: Json, secret_ref: str | None, secret_headers: Json, secret_query: Json, rate_limit: int | None, rate_window_seconds: int | None, actor: str, now: datetime) -> Applied[Webhook] | None:
        """triggers.sql: Make a workflow's webhook, or replace it; its count of requests begins anew. Refused with 'archived'."""

    async def get_webhook(self, *, workflow_id: UUID) -> Webhook | None:
        """triggers.sql: A workflow's webhook."""

    async def delete_webhook(self, *, workflow_id: UUID, actor: str, now: datetime) -> bool | None:
        """triggers.sql: Take a workflow's webhook away. False if there was none."""

    async def create_webhook_run(self, *, id: UUID, workflow_id: UUID, method: str, headers: Json, query: Json, inputs: Json, idempotency_key: str | None, seconds: int, actor: str, now: datetime) -> Applied[Run] | None:
        """triggers.sql: A run of the latest version for a request, without what the webhook calls secret; the first run if the idempotency key was used before. seconds: since 1970. Refused with 'webhook' if there is none; with 'method', or 'header' or 'query' and the name of what is missing; with 'archived'; with 'version' if there is none; with 'rate' and the seconds of the window that is full."""

    async def set_retry_policy(self, *, workflow_id: UUID, max_attempts: int, initial_delay_seconds: float, backoff_factor: float, max_delay_seconds: float | None, jitter_factor: float, actor: str, now: datetime) -> Applied[RetryPolicy] | None:
        """triggers.sql: Make a workflow's policy of retries, or replace it. Refused with 'archived'."""

    async def get_retry_policy(self, *, workflow_id: UUID) -> Applied[RetryPolicy] | None:
        """triggers.sql: A workflow's policy of retries; 'default' if none was set."""

    async def get_failed_run(self, *, run_id: UUID) -> FailedRun | None:
        """triggers.sql: What decides whether and when a run is retried. Its workflow's policy is null if none was set."""

    async def create_retry(self, *, id: UUID, run_id: UUID, retry_at: datetime, actor: str, now: datetime) -> Applied[Run] | None:
        """triggers.sql: A pending run that does a failed one again from a time on; the first such run if there is one. Refused with the state found if that is not failed, or with 'archived'."""

    async def create_manual_runs(self, *, workflow_id: UUID, items: Json, triggered_by: str, actor: str, now: datetime) -> list[Applied[Run]]:
        """triggers.sql: A pending run for each item {id, version_id, inputs}, of the latest version where version_id is null: all of them, or none and one row, refused with 'archived', or with 'version' and the one that the workflow has not."""

    async def create_version(self, *, id: UUID, workflow_id: UUID, graph: Json, graph_hash: str, mermaid: str | None, metadata: Json, runnable_config: Json | None, notes: str | None, actor: str, now: datetime) -> Applied[Version] | None:
        """versions.sql: The next version. Refused with 'archived'."""

    async def get_version(self, *, id: UUID) -> Version | None:
        """versions.sql: One version."""

    async def get_version_number(self, *, workflow_id: UUID, number: int) -> Version | None:
        """versions.sql: A workflow's version with this number."""

    async def get_version_latest(self, *, workflow_id: UUID) -> Version | None:
        """versions.sql: A workflow's version with the highest number."""

    async def get_version_by_hash(self, *, workflow_id: UUID, graph_hash: str) -> Version | None:
        """versions.sql: A workflow's newest version whose graph has this content hash."""

    async def list_versions(self, *, workflow_id: UUID, before: int, limit: int) -> list[Version]:
        """versions.sql: Versions of a workflow, newest first, one page; before is the largest integer for the first."""

    async def list_versions_numbered(self, *, workflow_id: UUID, numbers: Sequence[int]) -> list[Version]:
        """versions.sql: The versions of a workflow that have these numbers, lowest first. Planned with its values: a plan for any values reads all versions of the workflow, 3000 rows where 2 were asked for."""

    async def update_version_config(self, *, workflow_id: UUID, number: int, runnable_config: Json | None, actor: str, now: datetime) -> Version | None:
        """versions.sql: Set or clear a version's runnable_config."""

    async def create_workflow(self, *, id: UUID, handle: str | None, name: str, slug: str, description: str | None, tags: Json, draft_access: str, chat_config: Json | None, name_terms: str, description_terms: str, tag_terms: str, actor: str, now: datetime) -> Workflow | None:
        """workflows.sql: A new workflow with its first audit event. No row: an active workflow has the handle."""

    async def get_workflow(self, *, id: UUID) -> Workflow | None:
        """workflows.sql: One workflow, archived or not."""

    async def resolve_workflow(self, *, handle: str | None, id: UUID | None, include_archived: bool) -> Workflow | None:
        """workflows.sql: The workflow that a reference means: the active one with this handle, else the archived one last changed, else the one with this id. handle or id is null where the reference cannot be one."""

    async def list_workflows(self, *, after_at: datetime, after_id: UUID, limit: int) -> list[Workflow]:
        """workflows.sql: Active workflows, newest first, one page."""

    async def list_workflows_all(self, *, after_at: datetime, after_id: UUID, limit: int) -> list[Workflow]:
        """workflows.sql: Workflows, archived ones too, newest first, one page."""

    async def list_workflows_by_tag(self, *, tag: str, after_at: datetime, after_id: UUID, limit: int) -> list[Workflow]:
        """workflows.sql: Active workflows with a tag, newest first, one page."""

    async def list_workflows_all_by_tag(self, *, tag: str, after_at: datetime, after_id: UUID, limit: int) -> list[Workflow]:
        """workflows.sql: Workflows with a tag, archived ones too, newest first, one page."""

    async def update_workflow(self, *, id: UUID, expected_revision: int | None, set_handle: bool, handle: str | None, set_name: bool, name: str | None, slug: str | None, set_description: bool, description: str | None, set_tags: bool, tags: Json | None, set_draft_access: bool, draft_access: str | None, set_chat_config: bool, chat_config: Json | None, name_terms: str | None, description_terms: str | None, tag_terms: str | None, fields: Json, actor: str, now: datetime) -> Applied[Workflow] | None:
        """workflows.sql: Change what is given. Refused with what was found: the present revision, where another is expected; or 'handle', which an active workflow has."""

    async def archive_workflow(self, *, id: UUID, actor: str, now: datetime) -> Workflow | None:
        """workflows.sql: Archive and unpublish, and stop its schedule; one that is archived already stays as it is."""

    async def unarchive_workflow(self, *, id: UUID, actor: str, now: datetime) -> Applied[Workflow] | None:
        """workflows.sql: Make an archived workflow active, its schedule from now on; one that is active stays as it is. Refused with 'handle' if an active one has it."""

    async def publish_workflow(self, *, id: UUID, require_login: bool, actor: str, now: datetime) -> Applied[Workflow] | None:
        """workflows.sql: Make public. Refused with 'archived' or 'published'."""

    async def unpublish_workflow(self, *, id: UUID, actor: str, now: datetime) -> Applied[Workflow] | None:
        """workflows.sql: Make private again. Refused with 'unpublished'."""

    async def list_workflow_events(self, *, workflow_id: UUID, after: int, limit: int) -> list[Event]:
        """workflows.sql: The audit trail of a workflow, oldest first, one page; after is 0 for the first."""

    async def search_workflows(self, *, name_words: str, words: str, before_name: int, before: int, limit: int) -> list[FoundWorkflow]:
        """workflows.sql: Active workflows that have all words, the last one the beginning of one: those that have them all in their name, then the others, of each those made last first. name_words, words: the same behind n, behind t. before_name, before: 2^52 for the first page, 0 where a list is over. What few have is found in the index and sorted; what more have, in the order of the page; see search_chat."""

    async def search_workflows_all(self, *, name_words: str, words: str, before_name: int, before: int, limit: int) -> list[FoundWorkflow]:
        """workflows.sql: The same, archived workflows too."""

    async def list_workflows_unsearchable(self, *, limit: int) -> list[NamedWorkflow]:
        """workflows.sql: Workflows that lack words, which an earlier version wrote, those made first first; kept as they are until the transaction ends. What another is looking after is left to it."""

    async def create_workflow_texts(self, *, ids: Sequence[UUID], name_terms: Sequence[str], description_terms: Sequence[str], tag_terms: Sequence[str]) -> int:
        """workflows.sql: The words of workflows that lack some, in the order given."""

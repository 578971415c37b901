-- The schema as it stands after every migration, to be read. A test builds a database from this file and one from the
-- migrations, and compares them.

create table dal_schema_migrations (
    version     bigint      not null,
    name        text        not null,
    sha256      text        not null,
    applied_at  timestamptz not null,
    duration_ms bigint      not null,
    app_version text        not null,
    constraint dal_schema_migrations_pkey primary key (version)
);

create table workflows (
    id            uuid        not null,
    handle        text,
    name          text        not null,
    slug          text        not null,
    description   text,
    tags          jsonb       not null,
    draft_access  text        not null,
    is_archived   boolean     not null default false,
    is_public     boolean     not null default false,
    published_at  timestamptz,
    published_by  text,
    require_login boolean     not null default false,
    chat_config   jsonb,
    revision      bigint      not null default 1,
    last_version  bigint      not null default 0,
    last_event    bigint      not null default 0,
    created_at    timestamptz not null,
    created_by    text        not null,
    updated_at    timestamptz not null,
    constraint workflows_pkey primary key (id),
    constraint workflows_handle_check check (length(handle) between 1 and 64),
    constraint workflows_name_check check (length(name) between 1 and 128),
    constraint workflows_description_check check (length(description) <= 1024),
    constraint workflows_draft_access_check check (draft_access in ('personal', 'authenticated', 'workspace')),
    constraint workflows_published_check check (is_public = (published_at is not null)),
    constraint workflows_archived_check check (not (is_archived and is_public))
) with (fillfactor = 85);

create unique index workflows_handle_key on workflows (handle) where not is_archived;
create index workflows_archived_handle_idx on workflows (handle) where is_archived;
create index workflows_created_idx on workflows (created_at desc, id desc);
create index workflows_active_created_idx on workflows (created_at desc, id desc) where not is_archived;

create table workflow_tags (
    workflow_id uuid        not null,
    tag         text        not null,
    created_at  timestamptz not null,
    is_archived boolean     not null,
    constraint workflow_tags_pkey primary key (workflow_id, tag),
    constraint workflow_tags_workflow_fkey foreign key (workflow_id) references workflows (id) on delete cascade
);

create index workflow_tags_tag_idx on workflow_tags (tag, created_at desc, workflow_id desc);
create index workflow_tags_active_tag_idx on workflow_tags (tag, created_at desc, workflow_id desc)
    where not is_archived;

create table workflow_events (
    workflow_id uuid        not null,
    number      bigint      not null,
    actor       text        not null,
    action      text        not null,
    at          timestamptz not null,
    metadata    jsonb       not null,
    constraint workflow_events_pkey primary key (workflow_id, number),
    constraint workflow_events_workflow_fkey foreign key (workflow_id) references workflows (id) on delete cascade
);

create table workflow_versions (
    id              uuid        not null,
    workflow_id     uuid        not null,
    number          bigint      not null,
    graph           jsonb       not null,
    graph_hash      text        not null,
    mermaid         text,
    metadata        jsonb       not null,
    runnable_config jsonb,
    notes           text,
    created_at      timestamptz not null,
    created_by      text        not null,
    updated_at      timestamptz not null,
    constraint workflow_versions_pkey primary key (id),
    constraint workflow_versions_number_key unique (workflow_id, number),
    constraint workflow_versions_id_key unique (workflow_id, id),
    constraint workflow_versions_number_check check (number >= 1),
    constraint workflow_versions_workflow_fkey foreign key (workflow_id) references workflows (id) on delete cascade
);

create index workflow_versions_hash_idx on workflow_versions (workflow_id, graph_hash, number desc);

create table runs (
    id               uuid        not null,
    workflow_id      uuid        not null,
    version_id       uuid        not null,
    status           text        not null,
    triggered_by     text        not null,
    inputs           jsonb       not null,
    runnable_config  jsonb,
    tags             jsonb       not null,
    callbacks        jsonb       not null,
    metadata         jsonb       not null,
    name             text,
    output           jsonb,
    error            text,
    attempt          bigint      not null default 1,
    retry_of         uuid,
    retry_at         timestamptz,
    idempotency_key  text,
    lease_owner      text,
    lease_expires_at timestamptz,
    last_event       bigint      not null default 0,
    created_at       timestamptz not null,
    started_at       timestamptz,
    completed_at     timestamptz,
    updated_at       timestamptz not null,
    constraint runs_pkey primary key (id),
    constraint runs_status_check check (status in ('pending', 'running', 'succeeded', 'failed', 'cancelled')),
    constraint runs_completed_check check ((completed_at is null) = (status in ('pending', 'running'))),
    constraint runs_lease_check check ((lease_owner is null) = (lease_expires_at is null)),
    constraint runs_attempt_check check (attempt >= 1),
    constraint runs_workflow_fkey foreign key (workflow_id) references workflows (id) on delete cascade,
    constraint runs_version_fkey foreign key (workflow_id, version_id) references workflow_versions (workflow_id, id),
    constraint runs_retry_fkey foreign key (retry_of) references runs (id)
) with (fillfactor = 85);

create index runs_workflow_created_idx on runs (workflow_id, created_at desc, id desc);
create index runs_workflow_status_created_idx on runs (workflow_id, status, created_at desc, id desc);
create index runs_version_idx on runs (version_id);
create unique index runs_retry_key on runs (retry_of) where retry_of is not null;
create unique index runs_idempotency_key on runs (workflow_id, idempotency_key) where idempotency_key is not null;
-- Two lines in each, to claim from: runs without retry_at by age, and retries by when they are due.
create index runs_pending_idx on runs (retry_at, created_at, id) where status = 'pending';
create index runs_workflow_pending_idx on runs (workflow_id, retry_at, created_at, id) where status = 'pending';
create index runs_lease_idx on runs (lease_expires_at, id) where lease_expires_at is not null;
create index runs_cron_unfinished_idx on runs (workflow_id) where triggered_by = 'cron' and completed_at is null;

create table run_events (
    run_id   uuid        not null,
    number   bigint      not null,
    actor    text        not null,
    action   text        not null,
    at       timestamptz not null,
    metadata jsonb       not null,
    constraint run_events_pkey primary key (run_id, number),
    constraint run_events_run_fkey foreign key (run_id) references runs (id) on delete cascade
);

create table idempotency_keys (
    key          text        collate "C" not null, -- compared as bytes, as in the other dialect: a key means nothing
    request_hash text,
    result       jsonb       not null,
    created_at   timestamptz not null,
    constraint idempotency_keys_pkey primary key (key),
    constraint idempotency_keys_key_check check (octet_length(key) between 1 and 512)
) with (fillfactor = 85);

create index idempotency_keys_created_idx on idempotency_keys (created_at, key);

create table cron_triggers (
    workflow_id       uuid        not null,
    expression        text        not null,
    timezone          text        not null,
    allow_overlapping boolean     not null,
    start_at          timestamptz,
    end_at            timestamptz,
    next_fire_at      timestamptz, -- nothing fires before; null when nothing will
    last_fired_at     timestamptz,
    created_at        timestamptz not null,
    created_by        text        not null,
    updated_at        timestamptz not null,
    constraint cron_triggers_pkey primary key (workflow_id),
    constraint cron_triggers_window_check check (start_at <= end_at),
    constraint cron_triggers_workflow_fkey foreign key (workflow_id) references workflows (id) on delete cascade
) with (fillfactor = 85);

create index cron_triggers_due_idx on cron_triggers (next_fire_at, workflow_id) where next_fire_at is not null;

create table webhook_triggers (
    workflow_id         uuid        not null,
    methods             jsonb       not null,
    required_headers    jsonb       not null,
    required_query      jsonb       not null,
    secret_ref          text,
    secret_headers      jsonb       not null,
    secret_query        jsonb       not null,
    rate_limit          bigint,
    rate_window_seconds bigint,
    window_number       bigint      not null, -- of the window that was counted last, since 1970
    window_count        bigint      not null,
    created_at          timestamptz not null,
    created_by          text        not null,
    updated_at          timestamptz not null,
    constraint webhook_triggers_pkey primary key (workflow_id),
    constraint webhook_triggers_rate_check check ((rate_limit is null) = (rate_window_seconds is null)),
    constraint webhook_triggers_limit_check check (rate_limit >= 1),
    constraint webhook_triggers_seconds_check check (rate_window_seconds >= 1),
    constraint webhook_triggers_workflow_fkey foreign key (workflow_id) references workflows (id) on delete cascade
) with (fillfactor = 85);

create table retry_policies (
    workflow_id           uuid             not null,
    max_attempts          bigint           not null,
    initial_delay_seconds double precision not null,
    backoff_factor        double precision not null,
    max_delay_seconds     double precision,
    jitter_factor         double precision not null,
    created_at            timestamptz      not null,
    created_by            text             not null,
    updated_at            timestamptz      not null,
    constraint retry_policies_pkey primary key (workflow_id),
    constraint retry_policies_attempts_check check (max_attempts >= 1),
    constraint retry_policies_initial_check check (initial_delay_seconds >= 0),
    constraint retry_policies_backoff_check check (backoff_factor >= 1),
    constraint retry_policies_max_check check (max_delay_seconds >= initial_delay_seconds),
    constraint retry_policies_jitter_check check (jitter_factor between 0 and 1),
    constraint retry_policies_workflow_fkey foreign key (workflow_id) references workflows (id) on delete cascade
);

create table executions (
    execution_id       text        collate "C" not null, -- compared as bytes, as in the other dialect
    workflow_id        text        collate "C" not null,
    inputs             jsonb       not null,
    runnable_config    jsonb,
    tags               jsonb       not null,
    callbacks          jsonb       not null,
    metadata           jsonb       not null,
    run_name           text,
    status             text        not null,
    started_at         timestamptz not null,
    completed_at       timestamptz,
    error              text,
    trace_id           text,
    trace_started_at   timestamptz,
    trace_completed_at timestamptz,
    trace_last_span_at timestamptz,
    step_count         bigint      not null,
    constraint executions_pkey primary key (execution_id),
    constraint executions_execution_id_check check (length(execution_id) between 1 and 128),
    constraint executions_workflow_id_check check (length(workflow_id) between 1 and 128),
    constraint executions_status_check check (status in ('running', 'completed', 'error', 'cancelled')),
    constraint executions_completed_check check ((completed_at is null) = (status = 'running')),
    constraint executions_step_count_check check (step_count >= 0)
) with (fillfactor = 80);

create index executions_workflow_started_idx on executions (workflow_id, started_at desc, execution_id desc);
create index executions_workflow_status_started_idx
    on executions (workflow_id, status, started_at desc, execution_id desc);
create index executions_completed_idx on executions (completed_at, execution_id) where completed_at is not null;
create index executions_metadata_idx on executions using gin (metadata jsonb_path_ops);

create table execution_steps (
    execution_id text        collate "C" not null,
    idx          bigint      not null,
    at           timestamptz not null,
    payload      jsonb       not null,
    constraint execution_steps_pkey primary key (execution_id, idx),
    constraint execution_steps_idx_check check (idx >= 0),
    constraint execution_steps_execution_fkey foreign key (execution_id) references executions (execution_id)
        on delete cascade
);

create table checkpoints (
    id              text        collate "C" not null, -- compared as bytes, as in the other dialect
    workflow_id     text        collate "C" not null,
    config_version  bigint      not null,
    runnable_config jsonb       not null,
    metrics         jsonb       not null,
    metadata        jsonb       not null,
    artifact_url    text,
    created_at      timestamptz not null,
    constraint checkpoints_pkey primary key (id),
    constraint checkpoints_version_key unique (workflow_id, config_version),
    constraint checkpoints_id_check check (length(id) between 1 and 128),
    constraint checkpoints_workflow_id_check check (length(workflow_id) between 1 and 128),
    constraint checkpoints_config_version_check check (config_version >= 1),
    constraint checkpoints_metrics_check check (jsonb_typeof(metrics) = 'object'),
    constraint checkpoints_metadata_check check (jsonb_typeof(metadata) = 'object')
);

create index checkpoints_metrics_idx on checkpoints using gin (metrics jsonb_path_ops);
create index checkpoints_metadata_idx on checkpoints using gin (metadata jsonb_path_ops);

-- One row a workflow: the number that the next checkpoint goes on from, and the one that is best.
create table checkpoint_heads (
    workflow_id  text   collate "C" not null,
    last_version bigint not null,
    best_id      text   collate "C",
    constraint checkpoint_heads_pkey primary key (workflow_id),
    constraint checkpoint_heads_best_key unique (best_id),
    constraint checkpoint_heads_last_version_check check (last_version >= 1),
    constraint checkpoint_heads_best_fkey foreign key (best_id) references checkpoints (id) on delete set null
) with (fillfactor = 80);

-- The numbers in a checkpoint's metrics once more, in an order that an index gives.
create table checkpoint_metrics (
    workflow_id    text             collate "C" not null,
    config_version bigint           not null,
    metric         text             collate "C" not null,
    value          double precision not null,
    constraint checkpoint_metrics_pkey primary key (workflow_id, config_version, metric),
    constraint checkpoint_metrics_checkpoint_fkey foreign key (workflow_id, config_version)
        references checkpoints (workflow_id, config_version) on delete cascade
);

create index checkpoint_metrics_value_idx on checkpoint_metrics (workflow_id, metric, value, config_version);

create table service_tokens (
    key_id            text        collate "C" not null, -- compared as bytes, as in the other dialect
    name              text        not null,
    name_key          text        collate "C" not null, -- the name as far as case and width do not matter
    kind              text        not null,
    secret_hash       bytea       not null,
    hash_alg          text        not null,
    pepper_id         text        collate "C",
    scopes            jsonb       not null,
    workspace_ids     jsonb       not null,
    allowed_cidrs     jsonb,
    rate_limit        bigint,
    created_at        timestamptz not null,
    created_by        text        not null,
    not_before        timestamptz,
    expires_at        timestamptz,
    rotated_from      text        collate "C",
    rotated_to        text        collate "C",
    overlap_until     timestamptz,
    revoked_at        timestamptz,
    revoked_by        text,
    revocation_reason text,
    constraint service_tokens_pkey primary key (key_id),
    constraint service_tokens_key_id_check check (key_id ~ '^[0-9A-Za-z]{12}$'),
    constraint service_tokens_name_check check (length(name) between 1 and 128),
    constraint service_tokens_kind_check check (kind in ('svc', 'usr', 'tst')),
    constraint service_tokens_secret_hash_check check (length(secret_hash) = 32),
    constraint service_tokens_hash_alg_check
        check (hash_alg in ('hmac-sha256', 'sha256-legacy', 'hmac-sha256-legacy')),
    constraint service_tokens_pepper_check check ((pepper_id is null) = (hash_alg = 'sha256-legacy')),
    constraint service_tokens_rate_limit_check check (rate_limit >= 1),
    constraint service_tokens_bounds_check check (expires_at > not_before),
    constraint service_tokens_rotated_check check ((rotated_to is null) = (overlap_until is null)),
    constraint service_tokens_revoked_by_check check ((revoked_at is null) = (revoked_by is null)),
    constraint service_tokens_reason_check check ((revoked_at is null) = (revocation_reason is null)),
    constraint service_tokens_rotated_from_fkey foreign key (rotated_from) references service_tokens (key_id)
) with (fillfactor = 85);

create unique index service_tokens_name_key on service_tokens (name_key)
    where revoked_at is null and rotated_to is null;
create unique index service_tokens_legacy_key on service_tokens (secret_hash) where hash_alg <> 'hmac-sha256';
create unique index service_tokens_rotated_from_key on service_tokens (rotated_from) where rotated_from is not null;
create index service_tokens_created_idx on service_tokens (created_at desc, key_id desc);
create index service_tokens_active_created_idx on service_tokens (created_at desc, key_id desc)
    where revoked_at is null;
create index service_tokens_pepper_idx on service_tokens (pepper_id);

create table service_token_usage (
    key_id          text        collate "C" not null,
    first_used_at   timestamptz not null,
    last_used_at    timestamptz not null,
    last_ip         text,
    last_user_agent text,
    use_count       bigint      not null,
    constraint service_token_usage_pkey primary key (key_id),
    constraint service_token_usage_use_count_check check (use_count >= 1),
    constraint service_token_usage_key_id_fkey foreign key (key_id) references service_tokens (key_id)
        on delete cascade
) with (fillfactor = 70);

-- Without a foreign key: that somebody was refused outlives the token, and a line with no key id is about no token.
create table service_token_refusals (
    minute_at       timestamptz not null,
    key_id          text        collate "C" not null,
    reason          text        collate "C" not null,
    refusals        bigint      not null,
    first_at        timestamptz not null,
    last_at         timestamptz not null,
    last_ip         text,
    last_user_agent text,
    constraint service_token_refusals_pkey primary key (minute_at, key_id, reason),
    constraint service_token_refusals_refusals_check check (refusals >= 1)
) with (fillfactor = 85);

create index service_token_refusals_key_idx on service_token_refusals (key_id, minute_at desc, reason desc);

-- Without a foreign key, too. row_hash and prev_hash are lower-case hex.
create table service_token_audit (
    number    bigint      not null,
    key_id    text        collate "C" not null,
    action    text        not null,
    actor     text        not null,
    at        timestamptz not null,
    details   jsonb       not null,
    pepper_id text        not null,
    prev_hash text        not null,
    row_hash  text        not null,
    constraint service_token_audit_pkey primary key (number),
    constraint service_token_audit_number_check check (number >= 1),
    constraint service_token_audit_action_check check (action in ('minted', 'imported', 'rotated', 'revoked')),
    constraint service_token_audit_prev_hash_check check (length(prev_hash) = 64),
    constraint service_token_audit_row_hash_check check (length(row_hash) = 64)
);

create index service_token_audit_key_idx on service_token_audit (key_id, number);

-- The chain's head: no row before the first change, one from then on.
create table service_token_chain (
    id        bigint not null,
    number    bigint not null,
    row_hash  text   not null,
    pepper_id text   not null,
    seal      text   not null,
    constraint service_token_chain_pkey primary key (id),
    constraint service_token_chain_id_check check (id = 1),
    constraint service_token_chain_number_check check (number >= 1)
);

create table chat_threads (
    number      bigint      generated by default as identity,
    id          text        collate "C" not null, -- compared as bytes, as in the other dialect
    owner       text        collate "C" not null,
    title       text,
    title_terms text        not null,
    workflow_id text        collate "C",
    status      jsonb       not null,
    metadata    jsonb       not null,
    details     jsonb       not null,
    last_seq    bigint      not null default 0,
    created_at  timestamptz not null,
    updated_at  timestamptz not null,
    constraint chat_threads_pkey primary key (number),
    constraint chat_threads_id_key unique (id),
    constraint chat_threads_id_check check (octet_length(id) between 1 and 512),
    constraint chat_threads_owner_check check (octet_length(owner) between 1 and 512)
) with (fillfactor = 80);

create index chat_threads_owner_created_idx on chat_threads (owner, created_at desc, number desc);
create index chat_threads_owner_workflow_idx on chat_threads (owner, workflow_id, created_at desc, number desc)
    where workflow_id is not null;
create index chat_threads_owner_number_idx on chat_threads (owner, number);
create index chat_threads_created_idx on chat_threads (created_at, number);
create index chat_threads_metadata_idx on chat_threads using gin (metadata jsonb_path_ops);
create index chat_threads_terms_idx on chat_threads using gin (array_to_tsvector(string_to_array(title_terms, ' ')));

create table chat_items (
    number     bigint      generated by default as identity,
    id         text        collate "C" not null,
    thread_id  text        collate "C" not null,
    seq        bigint      not null,
    type       text        not null,
    item       text        not null, -- a JSON document, kept byte for byte
    body       text        not null,
    pieces     bigint      not null,
    created_at timestamptz not null,
    constraint chat_items_pkey primary key (number),
    constraint chat_items_id_key unique (id),
    constraint chat_items_seq_key unique (thread_id, seq),
    constraint chat_items_id_check check (octet_length(id) between 1 and 512),
    constraint chat_items_seq_check check (seq >= 1),
    constraint chat_items_pieces_check check (pieces >= 1),
    constraint chat_items_thread_fkey foreign key (thread_id) references chat_threads (id) on delete cascade
);

-- first: the place in the item's body where a piece begins, in characters from 1.
create table chat_texts (
    item  bigint not null,
    piece bigint not null,
    owner text   collate "C" not null,
    first bigint not null,
    terms text   not null,
    constraint chat_texts_pkey primary key (item, piece),
    constraint chat_texts_piece_check check (piece between 0 and 1023),
    constraint chat_texts_item_fkey foreign key (item) references chat_items (number) on delete cascade
);

create index chat_texts_owner_idx on chat_texts (owner, item, piece);
create index chat_texts_terms_idx on chat_texts using gin (array_to_tsvector(string_to_array(terms, ' ')));

create table chat_attachments (
    id           text        collate "C" not null,
    owner        text        collate "C" not null,
    thread_id    text        collate "C",
    type         text        not null,
    name         text        not null,
    mime_type    text        not null,
    details      jsonb       not null,
    storage_path text,
    created_at   timestamptz not null,
    constraint chat_attachments_pkey primary key (id),
    constraint chat_attachments_id_check check (octet_length(id) between 1 and 512),
    constraint chat_attachments_owner_check check (octet_length(owner) between 1 and 512),
    constraint chat_attachments_thread_fkey foreign key (thread_id) references chat_threads (id) on delete cascade
);

create index chat_attachments_thread_idx on chat_attachments (thread_id) where thread_id is not null;

-- The words of a workflow, each behind the letter of where it stands: t in any of name, description and tags, n in the
-- name. Each column's words end in a space. A workflow without a row here, or with a null in it, is not searchable yet; see
-- db.workflows.make_searchable.
create table workflow_texts (
    number            bigint generated by default as identity,
    workflow_id       uuid   not null,
    name_terms        text,
    description_terms text,
    tag_terms         text,
    constraint workflow_texts_pkey primary key (number),
    constraint workflow_texts_workflow_key unique (workflow_id),
    constraint workflow_texts_workflow_fkey foreign key (workflow_id) references workflows (id) on delete cascade
);

create index workflow_texts_terms_idx on workflow_texts
    using gin (array_to_tsvector(string_to_array(rtrim(name_terms || description_terms || tag_terms), ' ')));

-- One row, from the first day on. epoch: of the fence, one more each time that it is put up or taken down, so that nothing
-- was written between two looks at a fenced database with the same epoch.
create table dal_database (
    id         bigint      not null,
    identity   uuid        not null,
    epoch      bigint      not null,
    is_fenced  boolean     not null,
    reason     text,
    changed_at timestamptz,
    constraint dal_database_pkey primary key (id),
    constraint dal_database_id_check check (id = 1),
    constraint dal_database_epoch_check check (epoch >= 1)
);

insert into dal_database (id, identity, epoch, is_fenced) values (1, gen_random_uuid(), 1, false);

-- plan: the batches that the source is moved in. rebuild: statements that make again what the load runs without.
create table dal_transfers (
    id          uuid        not null,
    source      text        not null,
    fingerprint text        not null,
    state       text        not null,
    plan        jsonb       not null,
    rebuild     jsonb       not null,
    started_at  timestamptz not null,
    finished_at timestamptz,
    constraint dal_transfers_pkey primary key (id),
    constraint dal_transfers_state_check check (state in ('loading', 'held', 'done'))
);

-- The ledger: a row for each batch, in the commit that loaded it. changed: how many values, by rule and column.
create table dal_transfer_batches (
    transfer_id uuid        not null,
    table_name  text        not null,
    number      bigint      not null,
    loaded      bigint      not null,
    quarantined bigint      not null,
    changed     jsonb       not null,
    digest      text        not null,
    loaded_at   timestamptz not null,
    constraint dal_transfer_batches_pkey primary key (transfer_id, table_name, number),
    constraint dal_transfer_batches_transfer_fkey foreign key (transfer_id) references dal_transfers (id) on delete cascade
);

-- Rows that were not loaded. row: its values as the source has them, in hex.
create table dal_transfer_quarantine (
    transfer_id uuid   not null,
    table_name  text   not null,
    number      bigint not null,
    place       bigint not null,
    key         text   not null,
    rule        text   not null,
    row         text   not null,
    constraint dal_transfer_quarantine_pkey primary key (transfer_id, table_name, number, place),
    constraint dal_transfer_quarantine_transfer_fkey foreign key (transfer_id) references dal_transfers (id)
        on delete cascade
);

-- The schema as it stands after every migration, to be read. A test builds a database from this file and one from the
-- migrations, and compares them.

create table dal_schema_migrations (
    version     integer not null,
    name        text    not null,
    sha256      text    not null,
    applied_at  text    not null,
    duration_ms integer not null,
    app_version text    not null,
    constraint dal_schema_migrations_pkey primary key (version)
) strict;

create table workflows (
    id            text    not null,
    handle        text,
    name          text    not null,
    slug          text    not null,
    description   text,
    tags          text    not null,
    draft_access  text    not null,
    is_archived   integer not null default 0,
    is_public     integer not null default 0,
    published_at  text,
    published_by  text,
    require_login integer not null default 0,
    chat_config   text,
    revision      integer not null default 1,
    last_version  integer not null default 0,
    last_event    integer not null default 0,
    created_at    text    not null,
    created_by    text    not null,
    updated_at    text    not null,
    constraint workflows_pkey primary key (id),
    constraint workflows_handle_check check (length(handle) between 1 and 64),
    constraint workflows_name_check check (length(name) between 1 and 128),
    constraint workflows_description_check check (length(description) <= 1024),
    constraint workflows_draft_access_check check (draft_access in ('personal', 'authenticated', 'workspace')),
    constraint workflows_published_check check (is_public = (published_at is not null)),
    constraint workflows_archived_check check (not (is_archived and is_public)),
    constraint workflows_tags_json check (json_valid(tags)),
    constraint workflows_is_archived_bool check (is_archived in (0, 1)),
    constraint workflows_is_public_bool check (is_public in (0, 1)),
    constraint workflows_published_at_instant check (published_at glob '????-??-??T??:??:??.??????Z'),
    constraint workflows_require_login_bool check (require_login in (0, 1)),
    constraint workflows_chat_config_json check (chat_config is null or json_valid(chat_config)),
    constraint workflows_created_at_instant check (created_at glob '????-??-??T??:??:??.??????Z'),
    constraint workflows_updated_at_instant check (updated_at glob '????-??-??T??:??:??.??????Z')
) strict;

create unique index workflows_handle_key on workflows (handle) where is_archived = 0;
create index workflows_archived_handle_idx on workflows (handle) where is_archived = 1;
create index workflows_created_idx on workflows (created_at desc, id desc);
create index workflows_active_created_idx on workflows (created_at desc, id desc) where is_archived = 0;

create table workflow_tags (
    workflow_id text    not null,
    tag         text    not null,
    created_at  text    not null,
    is_archived integer not null,
    constraint workflow_tags_pkey primary key (workflow_id, tag),
    constraint workflow_tags_workflow_fkey foreign key (workflow_id) references workflows (id) on delete cascade,
    constraint workflow_tags_created_at_instant check (created_at glob '????-??-??T??:??:??.??????Z'),
    constraint workflow_tags_is_archived_bool check (is_archived in (0, 1))
) strict, without rowid;

create index workflow_tags_tag_idx on workflow_tags (tag, created_at desc, workflow_id desc);
create index workflow_tags_active_tag_idx on workflow_tags (tag, created_at desc, workflow_id desc)
    where is_archived = 0;

create table workflow_events (
    workflow_id text    not null,
    number      integer not null,
    actor       text    not null,
    action      text    not null,
    at          text    not null,
    metadata    text    not null,
    constraint workflow_events_pkey primary key (workflow_id, number),
    constraint workflow_events_workflow_fkey foreign key (workflow_id) references workflows (id) on delete cascade,
    constraint workflow_events_at_instant check (at glob '????-??-??T??:??:??.??????Z'),
    constraint workflow_events_metadata_json check (json_valid(metadata))
) strict, without rowid;

create table workflow_versions (
    id              text    not null,
    workflow_id     text    not null,
    number          integer not null,
    graph           text    not null,
    graph_hash      text    not null,
    mermaid         text,
    metadata        text    not null,
    runnable_config text,
    notes           text,
    created_at      text    not null,
    created_by      text    not null,
    updated_at      text    not null,
    constraint workflow_versions_pkey primary key (id),
    constraint workflow_versions_number_key unique (workflow_id, number),
    constraint workflow_versions_id_key unique (workflow_id, id),
    constraint workflow_versions_number_check check (number >= 1),
    constraint workflow_versions_workflow_fkey foreign key (workflow_id) references workflows (id) on delete cascade,
    constraint workflow_versions_graph_json check (json_valid(graph)),
    constraint workflow_versions_metadata_json check (json_valid(metadata)),
    constraint workflow_versions_runnable_config_json check (runnable_config is null or json_valid(runnable_config)),
    constraint workflow_versions_created_at_instant check (created_at glob '????-??-??T??:??:??.??????Z'),
    constraint workflow_versions_updated_at_instant check (updated_at glob '????-??-??T??:??:??.??????Z')
) strict;

create index workflow_versions_hash_idx on workflow_versions (workflow_id, graph_hash, number desc);

create table runs (
    id               text    not null,
    workflow_id      text    not null,
    version_id       text    not null,
    status           text    not null,
    triggered_by     text    not null,
    inputs           text    not null,
    runnable_config  text,
    tags             text    not null,
    callbacks        text    not null,
    metadata         text    not null,
    name             text,
    output           text,
    error            text,
    attempt          integer not null default 1,
    retry_of         text,
    retry_at         text,
    idempotency_key  text,
    lease_owner      text,
    lease_expires_at text,
    last_event       integer not null default 0,
    created_at       text    not null,
    started_at       text,
    completed_at     text,
    updated_at       text    not null,
    constraint runs_pkey primary key (id),
    constraint runs_status_check check (status in ('pending', 'running', 'succeeded', 'failed', 'cancelled')),
    constraint runs_completed_check check ((completed_at is null) = (status in ('pending', 'running'))),
    constraint runs_lease_check check ((lease_owner is null) = (lease_expires_at is null)),
    constraint runs_attempt_check check (attempt >= 1),
    constraint runs_workflow_fkey foreign key (workflow_id) references workflows (id) on delete cascade,
    constraint runs_version_fkey foreign key (workflow_id, version_id) references workflow_versions (workflow_id, id),
    constraint runs_retry_fkey foreign key (retry_of) references runs (id),
    constraint runs_inputs_json check (json_valid(inputs)),
    constraint runs_runnable_config_json check (runnable_config is null or json_valid(runnable_config)),
    constraint runs_tags_json check (json_valid(tags)),
    constraint runs_callbacks_json check (json_valid(callbacks)),
    constraint runs_metadata_json check (json_valid(metadata)),
    constraint runs_output_json check (output is null or json_valid(output)),
    constraint runs_retry_at_instant check (retry_at glob '????-??-??T??:??:??.??????Z'),
    constraint runs_lease_expires_at_instant check (lease_expires_at glob '????-??-??T??:??:??.??????Z'),
    constraint runs_created_at_instant check (created_at glob '????-??-??T??:??:??.??????Z'),
    constraint runs_started_at_instant check (started_at glob '????-??-??T??:??:??.??????Z'),
    constraint runs_completed_at_instant check (completed_at glob '????-??-??T??:??:??.??????Z'),
    constraint runs_updated_at_instant check (updated_at glob '????-??-??T??:??:??.??????Z')
) strict;

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
    run_id   text    not null,
    number   integer not null,
    actor    text    not null,
    action   text    not null,
    at       text    not null,
    metadata text    not null,
    constraint run_events_pkey primary key (run_id, number),
    constraint run_events_run_fkey foreign key (run_id) references runs (id) on delete cascade,
    constraint run_events_at_instant check (at glob '????-??-??T??:??:??.??????Z'),
    constraint run_events_metadata_json check (json_valid(metadata))
) strict, without rowid;

create table idempotency_keys (
    key          text not null,
    request_hash text,
    result       text not null,
    created_at   text not null,
    constraint idempotency_keys_pkey primary key (key),
    constraint idempotency_keys_key_check check (length(cast(key as blob)) between 1 and 512),
    constraint idempotency_keys_result_json check (json_valid(result)),
    constraint idempotency_keys_created_at_instant check (created_at glob '????-??-??T??:??:??.??????Z')
) strict, without rowid;

create index idempotency_keys_created_idx on idempotency_keys (created_at, key);

create table cron_triggers (
    workflow_id       text    not null,
    expression        text    not null,
    timezone          text    not null,
    allow_overlapping integer not null,
    start_at          text,
    end_at            text,
    next_fire_at      text, -- nothing fires before; null when nothing will
    last_fired_at     text,
    created_at        text    not null,
    created_by        text    not null,
    updated_at        text    not null,
    constraint cron_triggers_pkey primary key (workflow_id),
    constraint cron_triggers_window_check check (start_at <= end_at),
    constraint cron_triggers_workflow_fkey foreign key (workflow_id) references workflows (id) on delete cascade,
    constraint cron_triggers_allow_overlapping_bool check (allow_overlapping in (0, 1)),
    constraint cron_triggers_start_at_instant check (start_at glob '????-??-??T??:??:??.??????Z'),
    constraint cron_triggers_end_at_instant check (end_at glob '????-??-??T??:??:??.??????Z'),
    constraint cron_triggers_next_fire_at_instant check (next_fire_at glob '????-??-??T??:??:??.??????Z'),
    constraint cron_triggers_last_fired_at_instant check (last_fired_at glob '????-??-??T??:??:??.??????Z'),
    constraint cron_triggers_created_at_instant check (created_at glob '????-??-??T??:??:??.??????Z'),
    constraint cron_triggers_updated_at_instant check (updated_at glob '????-??-??T??:??:??.??????Z')
) strict, without rowid;

create index cron_triggers_due_idx on cron_triggers (next_fire_at, workflow_id) where next_fire_at is not null;

create table webhook_triggers (
    workflow_id         text    not null,
    methods             text    not null,
    required_headers    text    not null,
    required_query      text    not null,
    secret_ref          text,
    secret_headers      text    not null,
    secret_query        text    not null,
    rate_limit          integer,
    rate_window_seconds integer,
    window_number       integer not null, -- of the window that was counted last, since 1970
    window_count        integer not null,
    created_at          text    not null,
    created_by          text    not null,
    updated_at          text    not null,
    constraint webhook_triggers_pkey primary key (workflow_id),
    constraint webhook_triggers_rate_check check ((rate_limit is null) = (rate_window_seconds is null)),
    constraint webhook_triggers_limit_check check (rate_limit >= 1),
    constraint webhook_triggers_seconds_check check (rate_window_seconds >= 1),
    constraint webhook_triggers_workflow_fkey foreign key (workflow_id) references workflows (id) on delete cascade,
    constraint webhook_triggers_methods_json check (json_valid(methods)),
    constraint webhook_triggers_required_headers_json check (json_valid(required_headers)),
    constraint webhook_triggers_required_query_json check (json_valid(required_query)),
    constraint webhook_triggers_secret_headers_json check (json_valid(secret_headers)),
    constraint webhook_triggers_secret_query_json check (json_valid(secret_query)),
    constraint webhook_triggers_created_at_instant check (created_at glob '????-??-??T??:??:??.??????Z'),
    constraint webhook_triggers_updated_at_instant check (updated_at glob '????-??-??T??:??:??.??????Z')
) strict, without rowid;

create table retry_policies (
    workflow_id           text    not null,
    max_attempts          integer not null,
    initial_delay_seconds real    not null,
    backoff_factor        real    not null,
    max_delay_seconds     real,
    jitter_factor         real    not null,
    created_at            text    not null,
    created_by            text    not null,
    updated_at            text    not null,
    constraint retry_policies_pkey primary key (workflow_id),
    constraint retry_policies_attempts_check check (max_attempts >= 1),
    constraint retry_policies_initial_check check (initial_delay_seconds >= 0),
    constraint retry_policies_backoff_check check (backoff_factor >= 1),
    constraint retry_policies_max_check check (max_delay_seconds >= initial_delay_seconds),
    constraint retry_policies_jitter_check check (jitter_factor between 0 and 1),
    constraint retry_policies_workflow_fkey foreign key (workflow_id) references workflows (id) on delete cascade,
    constraint retry_policies_created_at_instant check (created_at glob '????-??-??T??:??:??.??????Z'),
    constraint retry_policies_updated_at_instant check (updated_at glob '????-??-??T??:??:??.??????Z')
) strict, without rowid;

create table executions (
    execution_id       text    not null,
    workflow_id        text    not null,
    inputs             text    not null,
    runnable_config    text,
    tags               text    not null,
    callbacks          text    not null,
    metadata           text    not null,
    run_name           text,
    status             text    not null,
    started_at         text    not null,
    completed_at       text,
    error              text,
    trace_id           text,
    trace_started_at   text,
    trace_completed_at text,
    trace_last_span_at text,
    step_count         integer not null,
    constraint executions_pkey primary key (execution_id),
    constraint executions_execution_id_check check (length(execution_id) between 1 and 128),
    constraint executions_workflow_id_check check (length(workflow_id) between 1 and 128),
    constraint executions_status_check check (status in ('running', 'completed', 'error', 'cancelled')),
    constraint executions_completed_check check ((completed_at is null) = (status = 'running')),
    constraint executions_step_count_check check (step_count >= 0),
    constraint executions_inputs_json check (json_valid(inputs)),
    constraint executions_runnable_config_json check (runnable_config is null or json_valid(runnable_config)),
    constraint executions_tags_json check (json_valid(tags)),
    constraint executions_callbacks_json check (json_valid(callbacks)),
    constraint executions_metadata_json check (json_valid(metadata)),
    constraint executions_started_at_instant check (started_at glob '????-??-??T??:??:??.??????Z'),
    constraint executions_completed_at_instant check (completed_at glob '????-??-??T??:??:??.??????Z'),
    constraint executions_trace_started_at_instant check (trace_started_at glob '????-??-??T??:??:??.??????Z'),
    constraint executions_trace_completed_at_instant check (trace_completed_at glob '????-??-??T??:??:??.??????Z'),
    constraint executions_trace_last_span_at_instant check (trace_last_span_at glob '????-??-??T??:??:??.??????Z')
) strict;

create index executions_workflow_started_idx on executions (workflow_id, started_at desc, execution_id desc);
create index executions_workflow_status_started_idx
    on executions (workflow_id, status, started_at desc, execution_id desc);
create index executions_completed_idx on executions (completed_at, execution_id) where completed_at is not null;

-- What PostgreSQL keeps in executions_metadata_idx: a row for each value in an execution's metadata, under its path, as
-- create_execution writes it. Without a foreign key, which would need an index of its own and double the table.
create table execution_terms (
    workflow_id  text not null,
    term         text not null,
    started_at   text not null,
    execution_id text not null,
    constraint execution_terms_pkey primary key (workflow_id, term, started_at, execution_id)
) strict, without rowid;

create table execution_steps (
    execution_id text    not null,
    idx          integer not null,
    at           text    not null,
    payload      text    not null,
    constraint execution_steps_pkey primary key (execution_id, idx),
    constraint execution_steps_idx_check check (idx >= 0),
    constraint execution_steps_execution_fkey foreign key (execution_id) references executions (execution_id)
        on delete cascade,
    constraint execution_steps_at_instant check (at glob '????-??-??T??:??:??.??????Z'),
    constraint execution_steps_payload_json check (json_valid(payload))
) strict, without rowid;

create table checkpoints (
    id              text    not null,
    workflow_id     text    not null,
    config_version  integer not null,
    runnable_config text    not null,
    metrics         text    not null,
    metadata        text    not null,
    artifact_url    text,
    created_at      text    not null,
    constraint checkpoints_pkey primary key (id),
    constraint checkpoints_version_key unique (workflow_id, config_version),
    constraint checkpoints_id_check check (length(id) between 1 and 128),
    constraint checkpoints_workflow_id_check check (length(workflow_id) between 1 and 128),
    constraint checkpoints_config_version_check check (config_version >= 1),
    constraint checkpoints_metrics_check check (json_type(metrics) = 'object'),
    constraint checkpoints_metadata_check check (json_type(metadata) = 'object'),
    constraint checkpoints_runnable_config_json check (json_valid(runnable_config)),
    constraint checkpoints_metrics_json check (json_valid(metrics)),
    constraint checkpoints_metadata_json check (json_valid(metadata)),
    constraint checkpoints_created_at_instant check (created_at glob '????-??-??T??:??:??.??????Z')
) strict;

-- What PostgreSQL keeps in checkpoints_metrics_idx and checkpoints_metadata_idx: a row for each value in either, under
-- its path, as create_checkpoint writes it. Without a foreign key, as execution_terms is.
create table checkpoint_terms (
    workflow_id    text    not null,
    term           text    not null,
    config_version integer not null,
    constraint checkpoint_terms_pkey primary key (workflow_id, term, config_version)
) strict, without rowid;

-- One row a workflow: the number that the next checkpoint goes on from, and the one that is best.
create table checkpoint_heads (
    workflow_id  text    not null,
    last_version integer not null,
    best_id      text,
    constraint checkpoint_heads_pkey primary key (workflow_id),
    constraint checkpoint_heads_best_key unique (best_id),
    constraint checkpoint_heads_last_version_check check (last_version >= 1),
    constraint checkpoint_heads_best_fkey foreign key (best_id) references checkpoints (id) on delete set null
) strict, without rowid;

-- The numbers in a checkpoint's metrics once more, in an order that an index gives.
create table checkpoint_metrics (
    workflow_id    text    not null,
    config_version integer not null,
    metric         text    not null,
    value          real    not null,
    constraint checkpoint_metrics_pkey primary key (workflow_id, config_version, metric),
    constraint checkpoint_metrics_checkpoint_fkey foreign key (workflow_id, config_version)
        references checkpoints (workflow_id, config_version) on delete cascade
) strict, without rowid;

create index checkpoint_metrics_value_idx on checkpoint_metrics (workflow_id, metric, value, config_version);

create table service_tokens (
    key_id            text    not null,
    name              text    not null,
    name_key          text    not null, -- the name as far as case and width do not matter
    kind              text    not null,
    secret_hash       blob    not null,
    hash_alg          text    not null,
    pepper_id         text,
    scopes            text    not null,
    workspace_ids     text    not null,
    allowed_cidrs     text,
    rate_limit        integer,
    created_at        text    not null,
    created_by        text    not null,
    not_before        text,
    expires_at        text,
    rotated_from      text,
    rotated_to        text,
    overlap_until     text,
    revoked_at        text,
    revoked_by        text,
    revocation_reason text,
    constraint service_tokens_pkey primary key (key_id),
    constraint service_tokens_key_id_check check (length(key_id) = 12 and key_id not glob '*[^0-9A-Za-z]*'),
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
    constraint service_tokens_rotated_from_fkey foreign key (rotated_from) references service_tokens (key_id),
    constraint service_tokens_scopes_json check (json_valid(scopes)),
    constraint service_tokens_workspace_ids_json check (json_valid(workspace_ids)),
    constraint service_tokens_allowed_cidrs_json check (allowed_cidrs is null or json_valid(allowed_cidrs)),
    constraint service_tokens_created_at_instant check (created_at glob '????-??-??T??:??:??.??????Z'),
    constraint service_tokens_not_before_instant check (not_before glob '????-??-??T??:??:??.??????Z'),
    constraint service_tokens_expires_at_instant check (expires_at glob '????-??-??T??:??:??.??????Z'),
    constraint service_tokens_overlap_until_instant check (overlap_until glob '????-??-??T??:??:??.??????Z'),
    constraint service_tokens_revoked_at_instant check (revoked_at glob '????-??-??T??:??:??.??????Z')
) strict;

create unique index service_tokens_name_key on service_tokens (name_key)
    where revoked_at is null and rotated_to is null;
create unique index service_tokens_legacy_key on service_tokens (secret_hash) where hash_alg <> 'hmac-sha256';
create unique index service_tokens_rotated_from_key on service_tokens (rotated_from) where rotated_from is not null;
create index service_tokens_created_idx on service_tokens (created_at desc, key_id desc);
create index service_tokens_active_created_idx on service_tokens (created_at desc, key_id desc)
    where revoked_at is null;
create index service_tokens_pepper_idx on service_tokens (pepper_id);

create table service_token_usage (
    key_id          text    not null,
    first_used_at   text    not null,
    last_used_at    text    not null,
    last_ip         text,
    last_user_agent text,
    use_count       integer not null,
    constraint service_token_usage_pkey primary key (key_id),
    constraint service_token_usage_use_count_check check (use_count >= 1),
    constraint service_token_usage_key_id_fkey foreign key (key_id) references service_tokens (key_id)
        on delete cascade,
    constraint service_token_usage_first_used_at_instant check (first_used_at glob '????-??-??T??:??:??.??????Z'),
    constraint service_token_usage_last_used_at_instant check (last_used_at glob '????-??-??T??:??:??.??????Z')
) strict;

-- Without a foreign key: that somebody was refused outlives the token, and a line with no key id is about no token.
create table service_token_refusals (
    minute_at       text    not null,
    key_id          text    not null,
    reason          text    not null,
    refusals        integer not null,
    first_at        text    not null,
    last_at         text    not null,
    last_ip         text,
    last_user_agent text,
    constraint service_token_refusals_pkey primary key (minute_at, key_id, reason),
    constraint service_token_refusals_refusals_check check (refusals >= 1),
    constraint service_token_refusals_minute_at_instant check (minute_at glob '????-??-??T??:??:??.??????Z'),
    constraint service_token_refusals_first_at_instant check (first_at glob '????-??-??T??:??:??.??????Z'),
    constraint service_token_refusals_last_at_instant check (last_at glob '????-??-??T??:??:??.??????Z')
) strict;

create index service_token_refusals_key_idx on service_token_refusals (key_id, minute_at desc, reason desc);

-- Without a foreign key, too. row_hash and prev_hash are lower-case hex.
create table service_token_audit (
    number    integer not null,
    key_id    text    not null,
    action    text    not null,
    actor     text    not null,
    at        text    not null,
    details   text    not null,
    pepper_id text    not null,
    prev_hash text    not null,
    row_hash  text    not null,
    constraint service_token_audit_pkey primary key (number),
    constraint service_token_audit_number_check check (number >= 1),
    constraint service_token_audit_action_check check (action in ('minted', 'imported', 'rotated', 'revoked')),
    constraint service_token_audit_prev_hash_check check (length(prev_hash) = 64),
    constraint service_token_audit_row_hash_check check (length(row_hash) = 64),
    constraint service_token_audit_details_json check (json_valid(details)),
    constraint service_token_audit_at_instant check (at glob '????-??-??T??:??:??.??????Z')
) strict;

create index service_token_audit_key_idx on service_token_audit (key_id, number);

-- The chain's head: no row before the first change, one from then on.
create table service_token_chain (
    id        integer not null,
    number    integer not null,
    row_hash  text    not null,
    pepper_id text    not null,
    seal      text    not null,
    constraint service_token_chain_pkey primary key (id),
    constraint service_token_chain_id_check check (id = 1),
    constraint service_token_chain_number_check check (number >= 1)
) strict;

create table chat_threads (
    number      integer not null,
    id          text    not null,
    owner       text    not null,
    title       text,
    title_terms text    not null,
    workflow_id text,
    status      text    not null,
    metadata    text    not null,
    details     text    not null,
    last_seq    integer not null default 0,
    created_at  text    not null,
    updated_at  text    not null,
    constraint chat_threads_pkey primary key (number),
    constraint chat_threads_id_key unique (id),
    constraint chat_threads_id_check check (length(cast(id as blob)) between 1 and 512),
    constraint chat_threads_owner_check check (length(cast(owner as blob)) between 1 and 512),
    constraint chat_threads_status_json check (json_valid(status)),
    constraint chat_threads_metadata_json check (json_valid(metadata)),
    constraint chat_threads_details_json check (json_valid(details)),
    constraint chat_threads_created_at_instant check (created_at glob '????-??-??T??:??:??.??????Z'),
    constraint chat_threads_updated_at_instant check (updated_at glob '????-??-??T??:??:??.??????Z')
) strict;

create index chat_threads_owner_created_idx on chat_threads (owner, created_at desc, number desc);
create index chat_threads_owner_workflow_idx on chat_threads (owner, workflow_id, created_at desc, number desc)
    where workflow_id is not null;
create index chat_threads_created_idx on chat_threads (created_at, number);

-- What PostgreSQL keeps in chat_threads_metadata_idx: a row for each value in a thread's metadata, under its path, and one
-- for its workflow, as save_thread writes them.
create table chat_thread_terms (
    owner      text    not null,
    term       text    not null,
    created_at text    not null,
    thread     integer not null,
    constraint chat_thread_terms_pkey primary key (owner, term, created_at, thread),
    constraint chat_thread_terms_thread_fkey foreign key (thread) references chat_threads (number) on delete cascade
) strict, without rowid;

create index chat_thread_terms_thread_idx on chat_thread_terms (thread);

create table chat_items (
    number     integer not null,
    id         text    not null,
    thread_id  text    not null,
    seq        integer not null,
    type       text    not null,
    item       text    not null, -- a JSON document, kept byte for byte
    body       text    not null,
    pieces     integer not null,
    created_at text    not null,
    constraint chat_items_pkey primary key (number),
    constraint chat_items_id_key unique (id),
    constraint chat_items_seq_key unique (thread_id, seq),
    constraint chat_items_id_check check (length(cast(id as blob)) between 1 and 512),
    constraint chat_items_seq_check check (seq >= 1),
    constraint chat_items_pieces_check check (pieces >= 1),
    constraint chat_items_thread_fkey foreign key (thread_id) references chat_threads (id) on delete cascade,
    constraint chat_items_created_at_instant check (created_at glob '????-??-??T??:??:??.??????Z')
) strict;

-- first: the place in the item's body where a piece begins, in characters from 1.
create table chat_texts (
    item  integer not null,
    piece integer not null,
    owner text    not null,
    first integer not null,
    terms text    not null,
    constraint chat_texts_pkey primary key (item, piece),
    constraint chat_texts_piece_check check (piece between 0 and 1023),
    constraint chat_texts_item_fkey foreign key (item) references chat_items (number) on delete cascade
) strict, without rowid;

create table chat_attachments (
    id           text not null,
    owner        text not null,
    thread_id    text,
    type         text not null,
    name         text not null,
    mime_type    text not null,
    details      text not null,
    storage_path text,
    created_at   text not null,
    constraint chat_attachments_pkey primary key (id),
    constraint chat_attachments_id_check check (length(cast(id as blob)) between 1 and 512),
    constraint chat_attachments_owner_check check (length(cast(owner as blob)) between 1 and 512),
    constraint chat_attachments_thread_fkey foreign key (thread_id) references chat_threads (id) on delete cascade,
    constraint chat_attachments_details_json check (json_valid(details)),
    constraint chat_attachments_created_at_instant check (created_at glob '????-??-??T??:??:??.??????Z')
) strict;

create index chat_attachments_thread_idx on chat_attachments (thread_id) where thread_id is not null;

-- The words of a workflow, each behind the letter of where it stands: t in any of name, description and tags, n in the
-- name. Each column's words end in a space. A workflow without a row here, or with a null in it, is not searchable yet; see
-- db.workflows.make_searchable.
create table workflow_texts (
    number            integer not null,
    workflow_id       text    not null,
    name_terms        text,
    description_terms text,
    tag_terms         text,
    constraint workflow_texts_pkey primary key (number),
    constraint workflow_texts_workflow_key unique (workflow_id),
    constraint workflow_texts_workflow_fkey foreign key (workflow_id) references workflows (id) on delete cascade
) strict;

-- What PostgreSQL keeps in chat_threads_terms_idx, chat_texts_terms_idx and workflow_texts_terms_idx. They hold no text,
-- only which rows have a word, and are kept up by the triggers. The tokenizer leaves our words as they are: it splits at
-- ASCII that is no letter or digit, and has no letters to make small. prefix: one and two letters behind the key.
create virtual table chat_threads_fts using fts5 (
    terms, content = '', columnsize = 0, detail = none, tokenize = 'ascii', prefix = '7 8'
);
create virtual table chat_texts_fts using fts5 (
    terms, content = '', columnsize = 0, detail = none, tokenize = 'ascii', prefix = '7 8'
);
create virtual table workflow_texts_fts using fts5 (
    terms, content = '', columnsize = 0, detail = none, tokenize = 'ascii', prefix = '2 3'
);

create trigger chat_threads_fts_insert after insert on chat_threads
begin
    insert into chat_threads_fts (rowid, terms) values (new.number, new.title_terms);
end;

create trigger chat_threads_fts_update after update of title_terms on chat_threads
    when old.title_terms <> new.title_terms
begin
    insert into chat_threads_fts (chat_threads_fts, rowid, terms) values ('delete', old.number, old.title_terms);
    insert into chat_threads_fts (rowid, terms) values (new.number, new.title_terms);
end;

create trigger chat_threads_fts_delete after delete on chat_threads
begin
    insert into chat_threads_fts (chat_threads_fts, rowid, terms) values ('delete', old.number, old.title_terms);
end;

create trigger chat_texts_fts_insert after insert on chat_texts
begin
    insert into chat_texts_fts (rowid, terms) values (new.item * 1024 + new.piece, new.terms);
end;

create trigger chat_texts_fts_update after update of terms on chat_texts
    when old.terms <> new.terms
begin
    insert into chat_texts_fts (chat_texts_fts, rowid, terms) values ('delete', old.item * 1024 + old.piece, old.terms);
    insert into chat_texts_fts (rowid, terms) values (new.item * 1024 + new.piece, new.terms);
end;

create trigger chat_texts_fts_delete after delete on chat_texts
begin
    insert into chat_texts_fts (chat_texts_fts, rowid, terms) values ('delete', old.item * 1024 + old.piece, old.terms);
end;

create trigger workflow_texts_fts_insert after insert on workflow_texts
begin
    insert into workflow_texts_fts (rowid, terms)
    values (new.number, new.name_terms || new.description_terms || new.tag_terms);
end;

create trigger workflow_texts_fts_update after update on workflow_texts
begin
    insert into workflow_texts_fts (workflow_texts_fts, rowid, terms)
    values ('delete', old.number, old.name_terms || old.description_terms || old.tag_terms);
    insert into workflow_texts_fts (rowid, terms)
    values (new.number, new.name_terms || new.description_terms || new.tag_terms);
end;

create trigger workflow_texts_fts_delete after delete on workflow_texts
begin
    insert into workflow_texts_fts (workflow_texts_fts, rowid, terms)
    values ('delete', old.number, old.name_terms || old.description_terms || old.tag_terms);
end;

-- One row, from the first day on. epoch: of the fence, one more each time that it is put up or taken down, so that nothing
-- was written between two looks at a fenced database with the same epoch.
create table dal_database (
    id         integer not null,
    identity   text    not null,
    epoch      integer not null,
    is_fenced  integer not null,
    reason     text,
    changed_at text,
    constraint dal_database_pkey primary key (id),
    constraint dal_database_id_check check (id = 1),
    constraint dal_database_epoch_check check (epoch >= 1),
    constraint dal_database_is_fenced_bool check (is_fenced in (0, 1)),
    constraint dal_database_changed_at_instant check (changed_at glob '????-??-??T??:??:??.??????Z')
) strict;

insert into dal_database (id, identity, epoch, is_fenced)
select 1, substr(h, 1, 8) || '-' || substr(h, 9, 4) || '-4' || substr(h, 14, 3) || '-8' || substr(h, 18, 3) || '-'
              || substr(h, 21, 12), 1, 0
  from (select lower(hex(randomblob(16))) as h);

-- plan: the batches that the source is moved in. rebuild: statements that make again what the load runs without.
create table dal_transfers (
    id          text not null,
    source      text not null,
    fingerprint text not null,
    state       text not null,
    plan        text not null,
    rebuild     text not null,
    started_at  text not null,
    finished_at text,
    constraint dal_transfers_pkey primary key (id),
    constraint dal_transfers_state_check check (state in ('loading', 'held', 'done')),
    constraint dal_transfers_plan_json check (json_valid(plan)),
    constraint dal_transfers_rebuild_json check (json_valid(rebuild)),
    constraint dal_transfers_started_at_instant check (started_at glob '????-??-??T??:??:??.??????Z'),
    constraint dal_transfers_finished_at_instant check (finished_at glob '????-??-??T??:??:??.??????Z')
) strict;

-- The ledger: a row for each batch, in the commit that loaded it. changed: how many values, by rule and column.
create table dal_transfer_batches (
    transfer_id text    not null,
    table_name  text    not null,
    number      integer not null,
    loaded      integer not null,
    quarantined integer not null,
    changed     text    not null,
    digest      text    not null,
    loaded_at   text    not null,
    constraint dal_transfer_batches_pkey primary key (transfer_id, table_name, number),
    constraint dal_transfer_batches_transfer_fkey foreign key (transfer_id) references dal_transfers (id) on delete cascade,
    constraint dal_transfer_batches_changed_json check (json_valid(changed)),
    constraint dal_transfer_batches_loaded_at_instant check (loaded_at glob '????-??-??T??:??:??.??????Z')
) strict, without rowid;

-- Rows that were not loaded. row: its values as the source has them, in hex.
create table dal_transfer_quarantine (
    transfer_id text    not null,
    table_name  text    not null,
    number      integer not null,
    place       integer not null,
    key         text    not null,
    rule        text    not null,
    row         text    not null,
    constraint dal_transfer_quarantine_pkey primary key (transfer_id, table_name, number, place),
    constraint dal_transfer_quarantine_transfer_fkey foreign key (transfer_id) references dal_transfers (id)
        on delete cascade
) strict, without rowid;

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
create index runs_retry_idx on runs (retry_of) where retry_of is not null;
create unique index runs_idempotency_key on runs (workflow_id, idempotency_key) where idempotency_key is not null;

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

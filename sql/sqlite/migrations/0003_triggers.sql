-- Runs as a queue: what is pending, in the order it is claimed in; which leases have run out. Then triggers, which make
-- runs: webhooks, schedules, retries. One row for each workflow and kind.

-- Two lines in each, to claim from: runs without retry_at by age, and retries by when they are due.
create index runs_pending_idx on runs (retry_at, created_at, id) where status = 'pending';
create index runs_workflow_pending_idx on runs (workflow_id, retry_at, created_at, id) where status = 'pending';
create index runs_lease_idx on runs (lease_expires_at, id) where lease_expires_at is not null;
create index runs_cron_unfinished_idx on runs (workflow_id) where triggered_by = 'cron' and completed_at is null;

-- A run is retried once; its retry may be retried in turn.
drop index runs_retry_idx;
create unique index runs_retry_key on runs (retry_of) where retry_of is not null;

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

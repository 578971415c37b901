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

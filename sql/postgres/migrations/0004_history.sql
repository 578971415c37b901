-- Run history: what was executed, and every step of it in order.

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

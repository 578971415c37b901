-- Run history: what was executed, and every step of it in order.

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

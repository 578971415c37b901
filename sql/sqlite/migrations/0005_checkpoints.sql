-- Optimizer checkpoints: what was tried, how it did, and which of it is the best.

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

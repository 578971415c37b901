-- Optimizer checkpoints: what was tried, how it did, and which of it is the best.

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

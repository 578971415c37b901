-- Moving the data: who this database is and whether it takes writes, and what was loaded into it from elsewhere.

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

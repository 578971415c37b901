-- Moving the data: who this database is and whether it takes writes, and what was loaded into it from elsewhere.

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

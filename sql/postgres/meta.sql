-- The machine's own queries: which migrations a database has, and what its schema looks like from inside.

-- name: create_migrations_table()!
-- The ledger of migrations; there before the first of them.
-- class: report
create table if not exists dal_schema_migrations (
    version     bigint      not null,
    name        text        not null,
    sha256      text        not null,
    applied_at  timestamptz not null,
    duration_ms bigint      not null,
    app_version text        not null,
    constraint dal_schema_migrations_pkey primary key (version)
);

-- name: get_migrations_table()$
-- Whether the ledger is there, as seen along the search path.
-- returns: bool
-- class: report
select to_regclass('dal_schema_migrations') is not null;

-- name: list_migrations()
-- The migrations a database has had, in order.
-- returns: AppliedMigration
-- class: report
select version, name, sha256, applied_at, duration_ms, app_version
  from dal_schema_migrations
 order by version;

-- name: create_migration(version, name, sha256, applied_at, duration_ms, app_version)!
-- Note a migration in the transaction that made it.
-- params: version int, name text, sha256 text, applied_at timestamptz, duration_ms int, app_version text
-- class: report
insert into dal_schema_migrations (version, name, sha256, applied_at, duration_ms, app_version)
values (:version, :name, :sha256, :applied_at, :duration_ms, :app_version);

-- name: get_schema_version()$
-- The newest migration a database has had; null for none.
-- returns: int
-- class: point
select max(version) from dal_schema_migrations;

-- name: list_schema_columns()
-- Every column of the current schema: table, column, declared type, whether it may be null, place in the primary key.
-- returns: SchemaColumn
-- class: report
select c.relname::text as table_name, a.attname::text as column_name, format_type(a.atttypid, a.atttypmod) as type,
       not a.attnotnull as nullable, coalesce(array_position(k.conkey, a.attnum), 0)::bigint as key_position
  from pg_class c
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  left join pg_constraint k on k.conrelid = c.oid and k.contype = 'p'
 where c.relnamespace = current_schema()::regnamespace and c.relkind = 'r'
 order by c.relname, a.attnum;

-- name: list_schema_indexes()
-- Every index of the current schema that is not a primary key: its columns in order with their direction, its predicate,
-- and whether it can be used.
-- returns: SchemaIndex
-- class: report
select t.relname::text as table_name, i.relname::text as index_name, x.indisunique as is_unique,
       (select string_agg(pg_get_indexdef(x.indexrelid, n, true)
                          || case when x.indoption[n - 1] & 1 = 1 then ' desc' else '' end, ', ' order by n)
          from generate_series(1, x.indnkeyatts) as n) as columns,
       pg_get_expr(x.indpred, x.indrelid) as predicate, x.indisvalid as is_valid
  from pg_index x
  join pg_class i on i.oid = x.indexrelid
  join pg_class t on t.oid = x.indrelid
 where t.relnamespace = current_schema()::regnamespace and t.relkind = 'r' and not x.indisprimary
 order by t.relname, i.relname;

-- name: list_schema_references()
-- Every foreign key of the current schema: from which columns to which, and what a delete does.
-- returns: SchemaReference
-- class: report
select t.relname::text as table_name,
       (select string_agg(a.attname, ', ' order by o.n)
          from unnest(k.conkey) with ordinality as o (attnum, n)
          join pg_attribute a on a.attrelid = k.conrelid and a.attnum = o.attnum) as columns,
       f.relname::text as target_table,
       (select string_agg(a.attname, ', ' order by o.n)
          from unnest(k.confkey) with ordinality as o (attnum, n)
          join pg_attribute a on a.attrelid = k.confrelid and a.attnum = o.attnum) as target_columns,
       case k.confdeltype when 'c' then 'cascade' when 'n' then 'set null' when 'd' then 'set default'
                          when 'r' then 'restrict' else 'no action' end as on_delete
  from pg_constraint k
  join pg_class t on t.oid = k.conrelid
  join pg_class f on f.oid = k.confrelid
 where t.relnamespace = current_schema()::regnamespace and k.contype = 'f'
 order by t.relname, columns;

-- name: get_server_facts()^
-- What the server says of itself, of this database and of this session. Of other sessions it counts all, and knows the
-- transactions of those that this role may look at.
-- returns: ServerFacts
-- class: report
select current_setting('server_version') as version, getdatabaseencoding()::text as encoding,
       clock_timestamp() as now, pg_is_in_recovery() as is_standby,
       pg_database_size(current_database()) as size_bytes,
       'fsync ' || current_setting('fsync') || ', synchronous_commit ' || current_setting('synchronous_commit')
           as durability,
       (select setting::bigint from pg_settings where name = 'statement_timeout') as statement_timeout_ms,
       (select setting::bigint from pg_settings where name = 'lock_timeout') as lock_timeout_ms,
       pg_backend_pid()::bigint as backend_pid,
       current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint
           as max_connections,
       count(*) filter (where backend_type = 'client backend') as connections,
       min(xact_start) filter (where pid <> pg_backend_pid() and datname = current_database())
           as oldest_transaction_at
  from pg_stat_activity;

-- name: list_damage()
-- What the database itself knows to be broken: indexes that cannot be used, constraints that nobody made sure of, pages
-- with a wrong checksum. No row: nothing it knows of.
-- returns: Damage
-- class: report
select 'index' as kind, i.relname::text as place, 'is invalid, as a failed build leaves it' as words
  from pg_index x
  join pg_class i on i.oid = x.indexrelid
 where i.relnamespace = current_schema()::regnamespace and not x.indisvalid
 union all
select 'constraint', c.conname || ' of ' || t.relname, 'was never validated'
  from pg_constraint c
  join pg_class t on t.oid = c.conrelid
 where c.connamespace = current_schema()::regnamespace and not c.convalidated
 union all
select 'checksum', d.datname::text, d.checksum_failures || ' pages had a wrong checksum'
  from pg_stat_database d
 where d.datname = current_database() and d.checksum_failures > 0
 order by kind, place;

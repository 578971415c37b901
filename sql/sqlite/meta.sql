-- The machine's own queries: which migrations a database has, and what its schema looks like from inside.

-- name: create_migrations_table()!
create table if not exists dal_schema_migrations (
    version     integer not null,
    name        text    not null,
    sha256      text    not null,
    applied_at  text    not null,
    duration_ms integer not null,
    app_version text    not null,
    constraint dal_schema_migrations_pkey primary key (version)
) strict;

-- name: get_migrations_table()$
select count(*) from sqlite_schema where type = 'table' and name = 'dal_schema_migrations';

-- name: list_migrations()
select version, name, sha256, applied_at, duration_ms, app_version
  from dal_schema_migrations
 order by version;

-- name: create_migration(version, name, sha256, applied_at, duration_ms, app_version)!
insert into dal_schema_migrations (version, name, sha256, applied_at, duration_ms, app_version)
values (:version, :name, :sha256, :applied_at, :duration_ms, :app_version);

-- name: get_schema_version()$
select max(version) from dal_schema_migrations;

-- name: list_schema_columns()
-- differs: the FTS5 tables, which are indexes there, are told of as tables.
select t.name as table_name, c.name as column_name, lower(c.type) as type, c."notnull" = 0 as nullable,
       c.pk as key_position
  from pragma_table_list as t
  join pragma_table_info(t.name) as c
 where t.schema = 'main' and t.type in ('table', 'virtual') and t.name not like 'sqlite\_%' escape '\'
 order by t.name, c.cid;

-- name: list_schema_indexes()
-- differs: an index made by a unique constraint has no name of its own here, so the name is sqlite_autoindex_…. The
-- triggers that keep up the FTS5 tables are told of, too.
select i.tbl_name as table_name, i.name as index_name, l."unique" as is_unique,
       (select group_concat(coalesce(c.name, '(expression)') || case when c."desc" then ' desc' else '' end, ', ')
          from pragma_index_xinfo(i.name) as c where c.key) as columns,
       trim(substr(i.sql, nullif(instr(lower(i.sql), ' where '), 0) + 7)) as predicate, 1 as is_valid
  from sqlite_schema as i
  join pragma_index_list(i.tbl_name) as l on l.name = i.name
 where i.type = 'index' and l.origin <> 'pk'
 union all
select tbl_name, name, 0, 'trigger', null, 1 from sqlite_schema where type = 'trigger'
 order by table_name, index_name;

-- name: list_schema_references()
select t.name as table_name, group_concat(k."from", ', ') as columns, k."table" as target_table,
       group_concat(coalesce(k."to", 'id'), ', ') as target_columns, lower(k.on_delete) as on_delete
  from pragma_table_list as t
  join pragma_foreign_key_list(t.name) as k
 where t.schema = 'main' and t.type = 'table'
 group by t.name, k.id
 order by t.name, columns;

-- name: get_server_facts()^
-- differs: what only a server has is null; lock_timeout_ms is one turn of waiting, which the engine repeats until the
-- busy timeout is over.
select sqlite_version() as version, (select encoding from pragma_encoding) as encoding,
       strftime('%Y-%m-%dT%H:%M:%f000Z', 'now') as now, 0 as is_standby,
       (select page_count from pragma_page_count) * (select page_size from pragma_page_size) as size_bytes,
       'journal_mode ' || (select journal_mode from pragma_journal_mode)
           || ', synchronous ' || (select synchronous from pragma_synchronous) as durability,
       null as statement_timeout_ms, (select timeout from pragma_busy_timeout) as lock_timeout_ms,
       null as backend_pid, null as max_connections, null as connections, null as oldest_transaction_at;

-- name: list_damage()
-- differs: reads the whole file, since SQLite keeps no record of damage.
select 'file' as kind, 'quick_check' as place, quick_check as words
  from pragma_quick_check
 where quick_check <> 'ok'
 union all
select 'reference', "table" || coalesce(' row ' || rowid, ''), 'names a row of ' || parent || ' that is not there'
  from pragma_foreign_key_check
 order by kind, place;

-- Chat: threads, the items of each in order of seq, attachments, and what is searched in them. Each belongs to an owner,
-- whom every query names: a row of another one is not found. Items are numbered by the thread's last_seq, which the adding
-- statement raises.
-- What is searched are words that Python cut (dal/core/search.py): title_terms of a thread, and the pieces of an item in
-- chat_texts. A search takes the words asked for as one text, joined by spaces; the last is the beginning of one. The
-- FTS5 tables are kept up by triggers.
-- A thread's metadata stand once more in chat_thread_terms, to be found by, as an execution's do in execution_terms;
-- besides, its workflow as @ and the id.
-- Grows to about: threads 1e5, terms 1e6, items 1e6, pieces 1e6, attachments 1e5 rows.

-- name: save_thread(id, owner, title, title_terms, workflow_id, status, metadata, details, created_at, now)^
-- differs: a script in one transaction. It writes the terms, which the other dialect has in an index.
insert into chat_threads (id, owner, title, title_terms, workflow_id, status, metadata, details, created_at, updated_at)
values (:id, :owner, :title, :title_terms, :workflow_id, :status, :metadata, :details, :created_at, :now)
    on conflict (id) do update
   set title = excluded.title, title_terms = excluded.title_terms, workflow_id = excluded.workflow_id,
       status = excluded.status, metadata = excluded.metadata, details = excluded.details,
       updated_at = max(updated_at, excluded.updated_at)
 where owner = excluded.owner;
delete from chat_thread_terms
 where thread = (select number from chat_threads where id = :id and owner = :owner);
with recursive n (path, type, value) as (
    select '', r.type, r.value
      from json_each('[' || :metadata || ']') as r
     union all
    select n.path || case n.type when 'array' then '[]' else '.' || json_quote(c.key) end, c.type, c.value
      from n cross join json_each(n.value) as c
     where n.type in ('object', 'array')
)
insert into chat_thread_terms (owner, term, created_at, thread)
select distinct t.owner,
       substr(n.path, 1, 200)
           || case n.type when 'object' then '{' when 'array' then '[' when 'text' then '"' || substr(n.value, 1, 64)
                          when 'integer' then '#' || n.value
                          when 'real' then '#' || case when n.value = cast(n.value as integer)
                                                       then cast(n.value as integer) else printf('%.12e', n.value) end
                          else '!' || n.type end,
       t.created_at, t.number
  from chat_threads t cross join n
 where t.id = :id and t.owner = :owner;
insert into chat_thread_terms (owner, term, created_at, thread)
select owner, '@' || workflow_id, created_at, number
  from chat_threads
 where id = :id and owner = :owner and workflow_id is not null;
select id, owner, title, workflow_id, status, metadata, details, created_at, updated_at
  from chat_threads
 where id = :id and owner = :owner;

-- name: get_thread(id, owner)^
select id, owner, title, workflow_id, status, metadata, details, created_at, updated_at
  from chat_threads
 where id = :id and owner = :owner;

-- name: list_threads(owner, after, limit)
with a (created_at, number) as materialized (
    select created_at, number from chat_threads where id = :after and owner = :owner
     union all
    select '9999-12-31T23:59:59.999999Z', 9223372036854775807 where :after is null
)
select applied, found, id, owner, title, workflow_id, status, metadata, details, created_at, updated_at
  from (select applied, found, id, owner, title, workflow_id, status, metadata, details, created_at, updated_at, number
          from (select 1 as applied, null as found, id, owner, title, workflow_id, status, metadata, details,
                       created_at, updated_at, number
                  from chat_threads
                 where owner = :owner
                   and (created_at, number) < ((select a.created_at from a), (select a.number from a))
                 order by created_at desc, number desc
                 limit :limit)
         union all
        select 0, 'after', null, null, null, null, null, null, null, null, null, null
         where not exists (select 1 from a))
 order by created_at desc, number desc;

-- name: list_threads_oldest(owner, after, limit)
with a (created_at, number) as materialized (
    select created_at, number from chat_threads where id = :after and owner = :owner
     union all
    select '0001-01-01T00:00:00.000000Z', 0 where :after is null
)
select applied, found, id, owner, title, workflow_id, status, metadata, details, created_at, updated_at
  from (select applied, found, id, owner, title, workflow_id, status, metadata, details, created_at, updated_at, number
          from (select 1 as applied, null as found, id, owner, title, workflow_id, status, metadata, details,
                       created_at, updated_at, number
                  from chat_threads
                 where owner = :owner
                   and (created_at, number) > ((select a.created_at from a), (select a.number from a))
                 order by created_at, number
                 limit :limit)
         union all
        select 0, 'after', null, null, null, null, null, null, null, null, null, null
         where not exists (select 1 from a))
 order by created_at, number;

-- name: list_threads_of_workflow(owner, workflow_id, after, limit)
with a (created_at, number) as materialized (
    select created_at, number from chat_threads where id = :after and owner = :owner
     union all
    select '9999-12-31T23:59:59.999999Z', 9223372036854775807 where :after is null
)
select applied, found, id, owner, title, workflow_id, status, metadata, details, created_at, updated_at
  from (select applied, found, id, owner, title, workflow_id, status, metadata, details, created_at, updated_at, number
          from (select 1 as applied, null as found, id, owner, title, workflow_id, status, metadata, details,
                       created_at, updated_at, number
                  from chat_threads
                 where owner = :owner and workflow_id = :workflow_id
                   and (created_at, number) < ((select a.created_at from a), (select a.number from a))
                 order by created_at desc, number desc
                 limit :limit)
         union all
        select 0, 'after', null, null, null, null, null, null, null, null, null, null
         where not exists (select 1 from a))
 order by created_at desc, number desc;

-- name: list_threads_of_workflow_oldest(owner, workflow_id, after, limit)
with a (created_at, number) as materialized (
    select created_at, number from chat_threads where id = :after and owner = :owner
     union all
    select '0001-01-01T00:00:00.000000Z', 0 where :after is null
)
select applied, found, id, owner, title, workflow_id, status, metadata, details, created_at, updated_at
  from (select applied, found, id, owner, title, workflow_id, status, metadata, details, created_at, updated_at, number
          from (select 1 as applied, null as found, id, owner, title, workflow_id, status, metadata, details,
                       created_at, updated_at, number
                  from chat_threads
                 where owner = :owner and workflow_id = :workflow_id
                   and (created_at, number) > ((select a.created_at from a), (select a.number from a))
                 order by created_at, number
                 limit :limit)
         union all
        select 0, 'after', null, null, null, null, null, null, null, null, null, null
         where not exists (select 1 from a))
 order by created_at, number;

-- name: find_threads(owner, metadata, workflow_id, after, limit)
-- differs: SQLite has no @>; find_executions tells how this works. Here w has the term of the workflow, too, and the
-- rarest term is the one whose first hundred reach furthest into the list.
with recursive n (path, type, value) as (
    select '', r.type, r.value
      from json_each('[' || :metadata || ']') as r
     union all
    select n.path || case n.type when 'array' then '[]' else '.' || json_quote(c.key) end, c.type, c.value
      from n cross join json_each(n.value) as c
     where n.type in ('object', 'array')
), a (created_at, number) as materialized (
    select created_at, number from chat_threads where id = :after and owner = :owner
     union all
    select '9999-12-31T23:59:59.999999Z', 9223372036854775807 where :after is null
), w (term, rough) as materialized (
    select substr(n.path, 1, 200)
           || case n.type when 'object' then '{' when 'array' then '[' when 'text' then '"' || substr(n.value, 1, 64)
                          when 'integer' then '#' || n.value
                          when 'real' then '#' || case when n.value = cast(n.value as integer)
                                                       then cast(n.value as integer) else printf('%.12e', n.value) end
                          else '!' || n.type end,
           max(instr(n.path, '[]') or length(n.path) >= 200 or n.type = 'real'
               or n.type = 'text' and length(n.value) >= 64)
      from n
     where n.type not in ('object', 'array') or n.value in ('{}', '[]')
     group by 1
     union all
    select '@' || :workflow_id, 0 where :workflow_id is not null
), d (term) as materialized (
    select w.term
      from w
     order by (select printf('%04d', count(*)) || coalesce(min(c.created_at), '')
                 from (select o.created_at
                         from chat_thread_terms o
                        where o.owner = :owner and o.term = w.term
                          and (o.created_at, o.thread) < ((select a.created_at from a), (select a.number from a))
                        order by o.created_at desc, o.thread desc, o.term
                        limit 100) c),
              w.term
     limit 1
), f (id, parent, key, type, atom, children, turn) as materialized (
    select e.id, e.parent, e.key, e.type, e.atom,
           (select count(*) from json_tree(:metadata) c where c.parent = e.id),
           row_number() over (order by e.id desc)
      from json_tree(:metadata) e
)
select applied, found, id, owner, title, workflow_id, status, metadata, details, created_at, updated_at
  from (select applied, found, id, owner, title, workflow_id, status, metadata, details, created_at, updated_at, number
          from (select 1 as applied, null as found, t.id, t.owner, t.title, t.workflow_id, t.status, t.metadata, t.details,
                       t.created_at, t.updated_at, t.number
                  from chat_thread_terms k cross join chat_threads t on t.number = k.thread
                 where k.owner = :owner and k.term = (select d.term from d)
                   and (k.created_at, k.thread) < ((select a.created_at from a), (select a.number from a))
                   and not exists (
                       select 1
                         from w
                        where not exists (
                              select 1
                                from chat_thread_terms o
                               where o.owner = :owner and o.term = w.term
                                 and o.created_at = k.created_at and o.thread = k.thread))
                   and case when (select max(w.rough) from w) then (
                       with recursive m (id, parent, key, type, atom) as materialized (
                           select j.id, j.parent, j.key, j.type, j.atom from json_tree(t.metadata) j
                       ), g (turn, found) as (
                           select 0, '{}'
                            union all
                           select f.turn, json_set(g.found, '$."' || f.id || '"', json((
                                  select json_group_array(json_array(m.id, m.parent, m.key))
                                    from (select ',' || group_concat(e.id) || ',' as ids
                                            from (select p.value ->> '$[1]' as id
                                                    from f c cross join json_each(g.found, '$."' || c.id || '"') p
                                                   where +c.parent = f.id and (f.type = 'array' or p.value ->> '$[2]' = c.key)
                                                   group by 1
                                                  having count(distinct c.id) = f.children) e) h
                                   cross join m
                                   where case when f.type in ('integer', 'real') then m.type in ('integer', 'real') and m.atom = f.atom
                                              when f.type = 'text' then m.type = 'text' and m.atom = f.atom
                                              when f.children = 0 then m.type = f.type
                                              else m.type = f.type and instr(h.ids, ',' || m.id || ',') end)))
                             from g cross join f on +f.turn = g.turn + 1
                       )
                       select exists (
                              select 1
                                from json_each(g.found, '$."0"') p
                               where p.value ->> '$[0]' = 0)
                         from g cross join f on +f.turn = g.turn
                        where +f.id = 0) else true end
                 order by k.created_at desc, k.thread desc, k.term
                 limit :limit)
         union all
        select 0, 'after', null, null, null, null, null, null, null, null, null, null
         where not exists (select 1 from a))
 order by created_at desc, number desc;

-- name: find_threads_oldest(owner, metadata, workflow_id, after, limit)
-- differs: SQLite has no @>; as find_threads, the other way round.
with recursive n (path, type, value) as (
    select '', r.type, r.value
      from json_each('[' || :metadata || ']') as r
     union all
    select n.path || case n.type when 'array' then '[]' else '.' || json_quote(c.key) end, c.type, c.value
      from n cross join json_each(n.value) as c
     where n.type in ('object', 'array')
), a (created_at, number) as materialized (
    select created_at, number from chat_threads where id = :after and owner = :owner
     union all
    select '0001-01-01T00:00:00.000000Z', 0 where :after is null
), w (term, rough) as materialized (
    select substr(n.path, 1, 200)
           || case n.type when 'object' then '{' when 'array' then '[' when 'text' then '"' || substr(n.value, 1, 64)
                          when 'integer' then '#' || n.value
                          when 'real' then '#' || case when n.value = cast(n.value as integer)
                                                       then cast(n.value as integer) else printf('%.12e', n.value) end
                          else '!' || n.type end,
           max(instr(n.path, '[]') or length(n.path) >= 200 or n.type = 'real'
               or n.type = 'text' and length(n.value) >= 64)
      from n
     where n.type not in ('object', 'array') or n.value in ('{}', '[]')
     group by 1
     union all
    select '@' || :workflow_id, 0 where :workflow_id is not null
), d (term) as materialized (
    select w.term
      from w
     order by (select count(*)
                 from (select 1
                         from chat_thread_terms o
                        where o.owner = :owner and o.term = w.term
                          and (o.created_at, o.thread) > ((select a.created_at from a), (select a.number from a))
                        order by o.created_at, o.thread, o.term
                        limit 100) c),
              (select max(c.created_at)
                 from (select o.created_at
                         from chat_thread_terms o
                        where o.owner = :owner and o.term = w.term
                          and (o.created_at, o.thread) > ((select a.created_at from a), (select a.number from a))
                        order by o.created_at, o.thread, o.term
                        limit 100) c) desc,
              w.term
     limit 1
), f (id, parent, key, type, atom, children, turn) as materialized (
    select e.id, e.parent, e.key, e.type, e.atom,
           (select count(*) from json_tree(:metadata) c where c.parent = e.id),
           row_number() over (order by e.id desc)
      from json_tree(:metadata) e
)
select applied, found, id, owner, title, workflow_id, status, metadata, details, created_at, updated_at
  from (select applied, found, id, owner, title, workflow_id, status, metadata, details, created_at, updated_at, number
          from (select 1 as applied, null as found, t.id, t.owner, t.title, t.workflow_id, t.status, t.metadata, t.details,
                       t.created_at, t.updated_at, t.number
                  from chat_thread_terms k cross join chat_threads t on t.number = k.thread
                 where k.owner = :owner and k.term = (select d.term from d)
                   and (k.created_at, k.thread) > ((select a.created_at from a), (select a.number from a))
                   and not exists (
                       select 1
                         from w
                        where not exists (
                              select 1
                                from chat_thread_terms o
                               where o.owner = :owner and o.term = w.term
                                 and o.created_at = k.created_at and o.thread = k.thread))
                   and case when (select max(w.rough) from w) then (
                       with recursive m (id, parent, key, type, atom) as materialized (
                           select j.id, j.parent, j.key, j.type, j.atom from json_tree(t.metadata) j
                       ), g (turn, found) as (
                           select 0, '{}'
                            union all
                           select f.turn, json_set(g.found, '$."' || f.id || '"', json((
                                  select json_group_array(json_array(m.id, m.parent, m.key))
                                    from (select ',' || group_concat(e.id) || ',' as ids
                                            from (select p.value ->> '$[1]' as id
                                                    from f c cross join json_each(g.found, '$."' || c.id || '"') p
                                                   where +c.parent = f.id and (f.type = 'array' or p.value ->> '$[2]' = c.key)
                                                   group by 1
                                                  having count(distinct c.id) = f.children) e) h
                                   cross join m
                                   where case when f.type in ('integer', 'real') then m.type in ('integer', 'real') and m.atom = f.atom
                                              when f.type = 'text' then m.type = 'text' and m.atom = f.atom
                                              when f.children = 0 then m.type = f.type
                                              else m.type = f.type and instr(h.ids, ',' || m.id || ',') end)))
                             from g cross join f on +f.turn = g.turn + 1
                       )
                       select exists (
                              select 1
                                from json_each(g.found, '$."0"') p
                               where p.value ->> '$[0]' = 0)
                         from g cross join f on +f.turn = g.turn
                        where +f.id = 0) else true end
                 order by k.created_at, k.thread, k.term
                 limit :limit)
         union all
        select 0, 'after', null, null, null, null, null, null, null, null, null, null
         where not exists (select 1 from a))
 order by created_at, number;

-- name: delete_thread(id, owner)!
delete from chat_threads where id = :id and owner = :owner;

-- name: delete_threads(before, limit)!
-- differs: no SKIP LOCKED; BEGIN IMMEDIATE keeps others out.
delete from chat_threads
 where number in (
       select number
         from chat_threads
        where created_at < :before and updated_at < :before
        order by created_at, number
        limit :limit);

-- name: add_item(id, thread_id, owner, type, item, body, firsts, terms, created_at, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
update chat_threads
   set last_seq = last_seq + 1, updated_at = max(updated_at, :now)
 where id = :thread_id and owner = :owner and not exists (select 1 from chat_items c where c.id = :id);
insert into chat_items (id, thread_id, seq, type, item, body, pieces, created_at)
select :id, id, last_seq, :type, :item, :body, json_array_length(:terms), :created_at
  from chat_threads
 where id = :thread_id and changes() = 1;
insert into chat_texts (item, piece, owner, first, terms)
select i.number, p.key, :owner, :firsts ->> p.key, p.value
  from chat_items i cross join json_each(:terms) p
 where i.id = :id and changes() = 1;
select i.id is not null as applied, 'taken' as found, i.id, i.thread_id, i.seq, i.type, i.item, i.created_at
  from chat_threads t
  left join chat_items i
    on i.id = :id and i.thread_id = t.id and i.type = :type and i.item = :item and i.body = :body
 where t.id = :thread_id and t.owner = :owner;

-- name: save_item(id, thread_id, owner, type, item, body, firsts, terms, created_at, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
insert into chat_items (id, thread_id, seq, type, item, body, pieces, created_at)
select :id, t.id, t.last_seq + 1, :type, :item, :body, json_array_length(:terms), :created_at
  from chat_threads t
 where t.id = :thread_id and t.owner = :owner
    on conflict (id) do update
   set type = excluded.type, item = excluded.item, body = excluded.body, pieces = excluded.pieces
 where thread_id = excluded.thread_id;
update chat_threads
   set last_seq = max(last_seq, (select c.seq from chat_items c where c.id = :id)), updated_at = max(updated_at, :now)
 where id = :thread_id and changes() = 1;
insert into chat_texts (item, piece, owner, first, terms)
select i.number, p.key, :owner, :firsts ->> p.key, p.value
  from chat_items i cross join json_each(:terms) p
 where i.id = :id and changes() = 1
    on conflict (item, piece) do update set first = excluded.first, terms = excluded.terms;
delete from chat_texts
 where item = (select c.number from chat_items c where c.id = :id) and piece >= json_array_length(:terms)
   and changes() > 0;
select i.id is not null as applied, 'taken' as found, i.id, i.thread_id, i.seq, i.type, i.item, i.created_at
  from chat_threads t
  left join chat_items i on i.id = :id and i.thread_id = t.id
 where t.id = :thread_id and t.owner = :owner;

-- name: get_item(id, thread_id, owner)^
select i.id, i.thread_id, i.seq, i.type, i.item, i.created_at
  from chat_items i
  join chat_threads t on t.id = i.thread_id
 where i.id = :id and i.thread_id = :thread_id and t.owner = :owner;

-- name: list_items(thread_id, owner, after, limit)
with t as materialized (
    select id from chat_threads where id = :thread_id and owner = :owner
), a (seq) as materialized (
    select seq from chat_items where id = :after and thread_id = :thread_id
     union all
    select 0 where :after is null
)
select i.id is not null as applied, case when exists (select 1 from a) then 'end' else 'after' end as found,
       i.id, i.thread_id, i.seq, i.type, i.item, i.created_at
  from t
  left join (
       select id, thread_id, seq, type, item, created_at
         from chat_items
        where thread_id = :thread_id and seq > (select a.seq from a)
        order by seq
        limit :limit) i
    on i.thread_id = t.id
 order by i.seq;

-- name: list_items_newest(thread_id, owner, after, limit)
with t as materialized (
    select id from chat_threads where id = :thread_id and owner = :owner
), a (seq) as materialized (
    select seq from chat_items where id = :after and thread_id = :thread_id
     union all
    select 9223372036854775807 where :after is null
)
select i.id is not null as applied, case when exists (select 1 from a) then 'end' else 'after' end as found,
       i.id, i.thread_id, i.seq, i.type, i.item, i.created_at
  from t
  left join (
       select id, thread_id, seq, type, item, created_at
         from chat_items
        where thread_id = :thread_id and seq < (select a.seq from a)
        order by seq desc
        limit :limit) i
    on i.thread_id = t.id
 order by i.seq desc;

-- name: delete_item(id, thread_id, owner)!
delete from chat_items
 where id = :id and thread_id = (select t.id from chat_threads t where t.id = :thread_id and t.owner = :owner);

-- name: save_attachment(id, owner, thread_id, type, name, mime_type, details, storage_path, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
insert into chat_attachments (id, owner, thread_id, type, name, mime_type, details, storage_path, created_at)
select :id, :owner, :thread_id, :type, :name, :mime_type, :details, :storage_path, :now
 where :thread_id is null or exists (select 1 from chat_threads t where t.id = :thread_id and t.owner = :owner)
    on conflict (id) do update
   set thread_id = excluded.thread_id, type = excluded.type, name = excluded.name, mime_type = excluded.mime_type,
       details = excluded.details, storage_path = coalesce(excluded.storage_path, storage_path)
 where owner = excluded.owner;
select a.id is not null as applied,
       case when :thread_id is null or exists (
                 select 1 from chat_threads t where t.id = :thread_id and t.owner = :owner) then 'taken' else 'thread'
            end as found,
       a.id, a.owner, a.thread_id, a.type, a.name, a.mime_type, a.details, a.storage_path, a.created_at
  from (select 1) left join chat_attachments a on a.id = :id and changes() = 1;

-- name: update_attachment(id, owner, details, storage_path)^
update chat_attachments
   set details = :details, storage_path = :storage_path
 where id = :id and owner = :owner
returning id, owner, thread_id, type, name, mime_type, details, storage_path, created_at;

-- name: get_attachment(id, owner)^
select id, owner, thread_id, type, name, mime_type, details, storage_path, created_at
  from chat_attachments
 where id = :id and owner = :owner;

-- name: list_stored_attachments(after, limit)
select id, owner, thread_id, type, name, mime_type, details, storage_path, created_at
  from chat_attachments
 where storage_path is not null and id > :after
 order by id
 limit :limit;

-- name: delete_attachment(id, owner)!
delete from chat_attachments where id = :id and owner = :owner;

-- name: search_chat(owner, words, before_thread, before_item, limit)
-- differs: FTS5 gives the rows that have the words in the order of the page, one by one. The number of a piece is its
-- item's times 1024, and its own.
select thread_id, title, item_id, number, is_title, created_at, text
  from (select t.id as thread_id, t.title, null as item_id, t.number, 1 as is_title, t.created_at, t.title as text
          from (select f.rowid as number
                  from chat_threads_fts f
                 where chat_threads_fts match '"' || replace(:words, ' ', '" AND "') || '" *'
                   and f.rowid < :before_thread
                   and (select o.owner from chat_threads o where o.number = f.rowid) = :owner
                 order by f.rowid desc
                 limit :limit) x
         cross join chat_threads t on t.number = x.number
         union all
        select t.id, t.title, i.id, i.number, 0, i.created_at, substr(i.body, x.first, 65536)
          from (select f.rowid / 1024 as item,
                       (select c.first from chat_texts c where c.item = f.rowid / 1024 and c.piece = f.rowid % 1024)
                           as first
                  from chat_texts_fts f
                 where chat_texts_fts match '"' || replace(:words, ' ', '" AND "') || '" *'
                   and f.rowid < :before_item * 1024
                   and (select c.owner from chat_texts c where c.item = f.rowid / 1024 and c.piece = f.rowid % 1024)
                       = :owner
                   and case when f.rowid % 1024 = 0 then true else not exists (
                       select 1
                         from chat_texts_fts
                        where chat_texts_fts match '"' || replace(:words, ' ', '" AND "') || '" *'
                          and rowid >= f.rowid / 1024 * 1024 and rowid < f.rowid) end
                 order by f.rowid desc
                 limit :limit) x
         cross join chat_items i on i.number = x.item
         cross join chat_threads t on t.id = i.thread_id)
 order by is_title desc, number desc
 limit :limit;

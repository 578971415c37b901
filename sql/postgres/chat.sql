-- Chat: threads, the items of each in order of seq, attachments, and what is searched in them. Each belongs to an owner,
-- whom every query names: a row of another one is not found. Items are numbered by the thread's last_seq, which the adding
-- statement raises while it holds the thread.
-- What is searched are words that Python cut (dal/core/search.py): title_terms of a thread, and the pieces of an item in
-- chat_texts. A search takes the words asked for as one text, joined by spaces; the last is the beginning of one.
-- Grows to about: threads 1e5, items 1e6, pieces 1e6, attachments 1e5 rows.

-- name: save_thread(id, owner, title, title_terms, workflow_id, status, metadata, details, created_at, now)^
-- A new thread, or another content for one, which keeps its created_at. No row: another owner has the id.
-- params: id text, owner text, title text?, title_terms text, workflow_id text?, status json, metadata json, details json,
--         created_at timestamptz, now timestamptz
-- returns: Thread
-- class: point
insert into chat_threads (id, owner, title, title_terms, workflow_id, status, metadata, details, created_at, updated_at)
values (:id, :owner, :title, :title_terms, :workflow_id, :status, :metadata, :details, :created_at, :now)
    on conflict (id) do update
   set title = excluded.title, title_terms = excluded.title_terms, workflow_id = excluded.workflow_id,
       status = excluded.status, metadata = excluded.metadata, details = excluded.details,
       updated_at = greatest(chat_threads.updated_at, excluded.updated_at)
 where chat_threads.owner = excluded.owner
returning id, owner, title, workflow_id, status, metadata, details, created_at, updated_at;

-- name: get_thread(id, owner)^
-- One thread, without its items.
-- params: id text, owner text
-- returns: Thread
-- class: point
select id, owner, title, workflow_id, status, metadata, details, created_at, updated_at
  from chat_threads
 where id = :id and owner = :owner;

-- name: list_threads(owner, after, limit)
-- Threads of an owner, newest first, those behind one of them or from the first on. One row refused with 'after': there
-- is no such thread.
-- params: owner text, after text?, limit int
-- returns: Applied[Thread]
-- class: page
with a as (
    select created_at, number from chat_threads where id = :after and owner = :owner
     union all
    select '9999-12-31T23:59:59.999999Z', 9223372036854775807 where :after::text is null
)
select applied, found, id, owner, title, workflow_id, status, metadata, details, created_at, updated_at
  from ((select true as applied, null as found, id, owner, title, workflow_id, status, metadata, details, created_at,
                updated_at, number
           from chat_threads
          where owner = :owner and (created_at, number) < ((select a.created_at from a), (select a.number from a))
          order by created_at desc, number desc
          limit :limit)
          union all
        select false, 'after', null, null, null, null, null, null, null, null, null, null
         where not exists (select from a)) h
 order by created_at desc, number desc;

-- name: list_threads_oldest(owner, after, limit)
-- The same, oldest first.
-- params: owner text, after text?, limit int
-- returns: Applied[Thread]
-- class: page
with a as (
    select created_at, number from chat_threads where id = :after and owner = :owner
     union all
    select '0001-01-01T00:00:00Z', 0 where :after::text is null
)
select applied, found, id, owner, title, workflow_id, status, metadata, details, created_at, updated_at
  from ((select true as applied, null as found, id, owner, title, workflow_id, status, metadata, details, created_at,
                updated_at, number
           from chat_threads
          where owner = :owner and (created_at, number) > ((select a.created_at from a), (select a.number from a))
          order by created_at, number
          limit :limit)
          union all
        select false, 'after', null, null, null, null, null, null, null, null, null, null
         where not exists (select from a)) h
 order by created_at, number;

-- name: list_threads_of_workflow(owner, workflow_id, after, limit)
-- Threads of an owner about a workflow, newest first, as list_threads has them.
-- params: owner text, workflow_id text, after text?, limit int
-- returns: Applied[Thread]
-- class: page
with a as (
    select created_at, number from chat_threads where id = :after and owner = :owner
     union all
    select '9999-12-31T23:59:59.999999Z', 9223372036854775807 where :after::text is null
)
select applied, found, id, owner, title, workflow_id, status, metadata, details, created_at, updated_at
  from ((select true as applied, null as found, id, owner, title, workflow_id, status, metadata, details, created_at,
                updated_at, number
           from chat_threads
          where owner = :owner and workflow_id = :workflow_id
            and (created_at, number) < ((select a.created_at from a), (select a.number from a))
          order by created_at desc, number desc
          limit :limit)
          union all
        select false, 'after', null, null, null, null, null, null, null, null, null, null
         where not exists (select from a)) h
 order by created_at desc, number desc;

-- name: list_threads_of_workflow_oldest(owner, workflow_id, after, limit)
-- The same, oldest first.
-- params: owner text, workflow_id text, after text?, limit int
-- returns: Applied[Thread]
-- class: page
with a as (
    select created_at, number from chat_threads where id = :after and owner = :owner
     union all
    select '0001-01-01T00:00:00Z', 0 where :after::text is null
)
select applied, found, id, owner, title, workflow_id, status, metadata, details, created_at, updated_at
  from ((select true as applied, null as found, id, owner, title, workflow_id, status, metadata, details, created_at,
                updated_at, number
           from chat_threads
          where owner = :owner and workflow_id = :workflow_id
            and (created_at, number) > ((select a.created_at from a), (select a.number from a))
          order by created_at, number
          limit :limit)
          union all
        select false, 'after', null, null, null, null, null, null, null, null, null, null
         where not exists (select from a)) h
 order by created_at, number;

-- name: find_threads(owner, metadata, workflow_id, after, limit)
-- Threads of an owner whose metadata contain an object, as @> has it, of one workflow or, with null, of any; newest first,
-- as list_threads has them. Planned with its values: what many have is found soonest in the order of the page, what few
-- have in the index.
-- params: owner text, metadata json, workflow_id text?, after text?, limit int
-- returns: Applied[Thread]
-- class: page
-- plan: custom
with a as (
    select created_at, number from chat_threads where id = :after and owner = :owner
     union all
    select '9999-12-31T23:59:59.999999Z', 9223372036854775807 where :after::text is null
)
select applied, found, id, owner, title, workflow_id, status, metadata, details, created_at, updated_at
  from ((select true as applied, null as found, id, owner, title, workflow_id, status, metadata, details, created_at,
                updated_at, number
           from chat_threads
          where owner = :owner and metadata @> :metadata
            and case when :workflow_id::text is null then true else workflow_id = :workflow_id end
            and (created_at, number) < ((select a.created_at from a), (select a.number from a))
          order by created_at desc, number desc
          limit :limit)
          union all
        select false, 'after', null, null, null, null, null, null, null, null, null, null
         where not exists (select from a)) h
 order by created_at desc, number desc;

-- name: find_threads_oldest(owner, metadata, workflow_id, after, limit)
-- The same, oldest first.
-- params: owner text, metadata json, workflow_id text?, after text?, limit int
-- returns: Applied[Thread]
-- class: page
-- plan: custom
with a as (
    select created_at, number from chat_threads where id = :after and owner = :owner
     union all
    select '0001-01-01T00:00:00Z', 0 where :after::text is null
)
select applied, found, id, owner, title, workflow_id, status, metadata, details, created_at, updated_at
  from ((select true as applied, null as found, id, owner, title, workflow_id, status, metadata, details, created_at,
                updated_at, number
           from chat_threads
          where owner = :owner and metadata @> :metadata
            and case when :workflow_id::text is null then true else workflow_id = :workflow_id end
            and (created_at, number) > ((select a.created_at from a), (select a.number from a))
          order by created_at, number
          limit :limit)
          union all
        select false, 'after', null, null, null, null, null, null, null, null, null, null
         where not exists (select from a)) h
 order by created_at, number;

-- name: delete_thread(id, owner)!
-- Take a thread away, with its items and attachments.
-- params: id text, owner text
-- class: point
delete from chat_threads where id = :id and owner = :owner;

-- name: delete_threads(before, limit)!
-- Forget threads, oldest first, that were made before a time and in which nothing was saved since, with their items and
-- attachments. What another is deleting is left to it.
-- params: before timestamptz, limit int
-- class: batch
delete from chat_threads
 where number = any (array(
       select number
         from chat_threads
        where created_at < :before and updated_at < :before
        order by created_at, number
        limit :limit
          for update skip locked));

-- name: add_item(id, thread_id, owner, type, item, body, firsts, terms, created_at, now)^
-- The next item of a thread, with its pieces; the same again answers what is stored. Refused with 'taken': the id has
-- another content; with 'again': another transaction had it, was waited for, and has committed since, so that the same
-- statement, sent again, sees what it stored. No row: there is no such thread.
-- params: id text, thread_id text, owner text, type text, item text, body text, firsts int[], terms text[],
--         created_at timestamptz, now timestamptz
-- returns: Applied[Item]
-- class: point
with l as (
    select id, last_seq from chat_threads where id = :thread_id and owner = :owner for update
), i as (
    insert into chat_items (id, thread_id, seq, type, item, body, pieces, created_at)
    select :id, l.id, l.last_seq + 1, :type, :item, :body, cardinality(:terms::text[]), :created_at
      from l
        on conflict (id) do nothing
    returning number, id, thread_id, seq, type, item, created_at
), u as (
    update chat_threads t
       set last_seq = i.seq, updated_at = greatest(t.updated_at, :now)
      from i
     where t.id = i.thread_id
), x as (
    insert into chat_texts (item, piece, owner, first, terms)
    select i.number, p.number - 1, :owner, p.first, p.terms
      from i cross join unnest(:firsts::bigint[], :terms::text[]) with ordinality as p (first, terms, number)
), r as (
    select id, thread_id, seq, type, item, created_at from i
     union all
    select c.id, c.thread_id, c.seq, c.type, c.item, c.created_at
      from l join chat_items c on c.id = :id and c.thread_id = l.id
     where c.type = :type and c.item = :item and c.body = :body
)
select r.id is not null as applied,
       case when exists (select from chat_items c where c.id = :id) then 'taken' else 'again' end as found,
       r.id, r.thread_id, r.seq, r.type, r.item, r.created_at
  from l left join r on true;

-- name: save_item(id, thread_id, owner, type, item, body, firsts, terms, created_at, now)^
-- The next item of a thread, or another content for one, which keeps its seq and created_at. Refused with 'taken': another
-- thread has the id. No row: there is no such thread.
-- Pieces are upserted, which finds those that this statement, having waited for the thread, cannot see; those that it
-- cannot delete are told from an item's own by its count of pieces.
-- params: id text, thread_id text, owner text, type text, item text, body text, firsts int[], terms text[],
--         created_at timestamptz, now timestamptz
-- returns: Applied[Item]
-- class: point
with l as (
    select id, last_seq from chat_threads where id = :thread_id and owner = :owner for update
), i as (
    insert into chat_items (id, thread_id, seq, type, item, body, pieces, created_at)
    select :id, l.id, l.last_seq + 1, :type, :item, :body, cardinality(:terms::text[]), :created_at
      from l
        on conflict (id) do update
       set type = excluded.type, item = excluded.item, body = excluded.body, pieces = excluded.pieces
     where chat_items.thread_id = excluded.thread_id
    returning number, id, thread_id, seq, type, item, pieces, created_at
), u as (
    update chat_threads t
       set last_seq = greatest(t.last_seq, i.seq), updated_at = greatest(t.updated_at, :now)
      from i
     where t.id = i.thread_id
), x as (
    insert into chat_texts (item, piece, owner, first, terms)
    select i.number, p.number - 1, :owner, p.first, p.terms
      from i cross join unnest(:firsts::bigint[], :terms::text[]) with ordinality as p (first, terms, number)
        on conflict (item, piece) do update set first = excluded.first, terms = excluded.terms
), d as (
    delete from chat_texts c using i where c.item = i.number and c.piece >= i.pieces
)
select i.id is not null as applied, 'taken' as found, i.id, i.thread_id, i.seq, i.type, i.item, i.created_at
  from l left join i on true;

-- name: get_item(id, thread_id, owner)^
-- One item of a thread.
-- params: id text, thread_id text, owner text
-- returns: Item
-- class: point
select i.id, i.thread_id, i.seq, i.type, i.item, i.created_at
  from chat_items i
  join chat_threads t on t.id = i.thread_id
 where i.id = :id and i.thread_id = :thread_id and t.owner = :owner;

-- name: list_items(thread_id, owner, after, limit)
-- The items of a thread, oldest first, those behind one of them or from the first on. One row refused: with 'after' if
-- there is no such item in it; with 'end' if nothing follows. No row: there is no such thread.
-- params: thread_id text, owner text, after text?, limit int
-- returns: Applied[Item]
-- class: page
with t as (
    select id from chat_threads where id = :thread_id and owner = :owner
), a as (
    select seq from chat_items where id = :after and thread_id = :thread_id
     union all
    select 0 where :after::text is null
)
select i.id is not null as applied, case when exists (select from a) then 'end' else 'after' end as found,
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
-- The same, newest first.
-- params: thread_id text, owner text, after text?, limit int
-- returns: Applied[Item]
-- class: page
with t as (
    select id from chat_threads where id = :thread_id and owner = :owner
), a as (
    select seq from chat_items where id = :after and thread_id = :thread_id
     union all
    select 9223372036854775807 where :after::text is null
)
select i.id is not null as applied, case when exists (select from a) then 'end' else 'after' end as found,
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
-- Take an item away. Its number is not given again.
-- params: id text, thread_id text, owner text
-- class: point
delete from chat_items i
 using chat_threads t
 where i.id = :id and i.thread_id = :thread_id and t.id = i.thread_id and t.owner = :owner;

-- name: save_attachment(id, owner, thread_id, type, name, mime_type, details, storage_path, now)^
-- A new attachment, or another content for one, which keeps its created_at, and its storage_path where none is given.
-- Refused with 'taken': another owner has the id; with 'thread': there is no such thread.
-- params: id text, owner text, thread_id text?, type text, name text, mime_type text, details json, storage_path text?,
--         now timestamptz
-- returns: Applied[Attachment]
-- class: point
with l as (
    select id from chat_threads where id = :thread_id and owner = :owner for key share
), a as (
    insert into chat_attachments (id, owner, thread_id, type, name, mime_type, details, storage_path, created_at)
    select :id, :owner, :thread_id, :type, :name, :mime_type, :details, :storage_path, :now
     where :thread_id::text is null or exists (select from l)
        on conflict (id) do update
       set thread_id = excluded.thread_id, type = excluded.type, name = excluded.name, mime_type = excluded.mime_type,
           details = excluded.details,
           storage_path = coalesce(excluded.storage_path, chat_attachments.storage_path)
     where chat_attachments.owner = excluded.owner
    returning id, owner, thread_id, type, name, mime_type, details, storage_path, created_at
)
select a.id is not null as applied,
       case when :thread_id::text is null or exists (select from l) then 'taken' else 'thread' end as found,
       a.id, a.owner, a.thread_id, a.type, a.name, a.mime_type, a.details, a.storage_path, a.created_at
  from (select) o left join a on true;

-- name: update_attachment(id, owner, details, storage_path)^
-- Where the bytes of an attachment are, and other details. One that was taken away meanwhile is not made again.
-- params: id text, owner text, details json, storage_path text
-- returns: Attachment
-- class: point
update chat_attachments
   set details = :details, storage_path = :storage_path
 where id = :id and owner = :owner
returning id, owner, thread_id, type, name, mime_type, details, storage_path, created_at;

-- name: get_attachment(id, owner)^
-- One attachment.
-- params: id text, owner text
-- returns: Attachment
-- class: point
select id, owner, thread_id, type, name, mime_type, details, storage_path, created_at
  from chat_attachments
 where id = :id and owner = :owner;

-- name: list_stored_attachments(after, limit)
-- The attachments of all owners that have a storage_path, by their ids, from behind one.
-- params: after text, limit int
-- returns: Attachment
-- class: page
select id, owner, thread_id, type, name, mime_type, details, storage_path, created_at
  from chat_attachments
 where storage_path is not null and id > :after
 order by id
 limit :limit;

-- name: delete_attachment(id, owner)!
-- Take an attachment away; what it names stays where it is stored.
-- params: id text, owner text
-- class: point
delete from chat_attachments where id = :id and owner = :owner;

-- name: search_chat(owner, words, before_thread, before_item, limit)
-- What an owner finds by words: threads by their titles, then items by their text, those added last first. Of an item that
-- is found by several pieces, the first. before_thread, before_item: 2^52 for the first page, 0 where a list is over.
-- What few rows have is found in the index and sorted; what more have, in the order of the page. Which it is, the rows
-- themselves tell: f and g are some of those that have the words, in whatever order, and all of them if there are few. The
-- planner could not tell, since it knows nothing of rare words. So each way is written such that no other index fits it: f
-- and g look for an owner and a number that are no columns, the others for terms that are none; and an owner's rows are a
-- stretch of an index, lest the planner sort all of a busy owner's.
-- params: owner text, words text, before_thread int, before_item int, limit int
-- returns: FoundText
-- class: page
-- plan: rows 1500
with q as (
    select ('''' || replace(:words, ' ', ''' & ''') || ''':*')::tsquery as query
), f as materialized (
    select t.number
      from chat_threads t
     where array_to_tsvector(string_to_array(t.title_terms, ' ')) @@ (select q.query from q)
       and t.owner || '' = :owner and t.number + 0 < :before_thread
     fetch first (2 * :limit::bigint) rows only
), g as materialized (
    select x.item, x.piece, x.first
      from chat_texts x
     where array_to_tsvector(string_to_array(x.terms, ' ')) @@ (select q.query from q)
       and x.owner || '' = :owner and x.item + 0 < :before_item
     fetch first (20 * :limit::bigint) rows only
)
select thread_id, title, item_id, number, is_title, created_at, text
  from (select t.id as thread_id, t.title, null as item_id, t.number, true as is_title, t.created_at, t.title as text
          from ((select f.number
                   from f
                  where (select count(*) from f) < 2 * :limit
                  order by f.number desc
                  limit :limit)
                  union all
                (select t.number
                   from chat_threads t
                  where (select count(*) from f) >= 2 * :limit
                    and (t.owner, t.number) < (:owner, :before_thread) and (t.owner, t.number) >= (:owner, 0)
                    and array_to_tsvector(string_to_array(t.title_terms || '', ' ')) @@ (select q.query from q)
                  order by t.owner desc, t.number desc
                  limit :limit)) x
          join chat_threads t on t.number = x.number
         union all
        select t.id, t.title, i.id, i.number, false, i.created_at, substr(i.body, x.first::integer, 65536)
          from ((select distinct on (g.item) g.item, g.first
                   from g
                  where (select count(*) from g) < 20 * :limit
                    and case when g.piece = 0 then true
                        else g.piece < (select c.pieces from chat_items c where c.number = g.item) end
                  order by g.item desc, g.piece
                  limit :limit)
                  union all
                (select x.item, x.first
                   from chat_texts x
                  where (select count(*) from g) >= 20 * :limit
                    and (x.owner, x.item) < (:owner, :before_item) and (x.owner, x.item) >= (:owner, 0)
                    and array_to_tsvector(string_to_array(x.terms || '', ' ')) @@ (select q.query from q)
                    and case when x.piece = 0 then true
                        else x.piece < (select c.pieces from chat_items c where c.number = x.item)
                             and not exists (
                                 select
                                   from chat_texts o
                                  where o.item = x.item and o.piece < x.piece
                                    and array_to_tsvector(string_to_array(o.terms || '', ' '))
                                        @@ (select q.query from q)) end
                  order by x.owner desc, x.item desc, x.piece desc
                  limit :limit)) x
          join chat_items i on i.number = x.item
          join chat_threads t on t.id = i.thread_id) h
 order by is_title desc, number desc
 limit :limit;

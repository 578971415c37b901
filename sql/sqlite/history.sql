-- Run history: one row per execution, with a small state machine, and its steps in order of idx. running → completed |
-- error | cancelled. Steps are numbered by the execution's step_count, which the appending statement raises, so that
-- they have no gaps however many append at once.
-- An execution's metadata stand once more in execution_terms, to be found by: a term is the path of a value, then its
-- type and the value, all cut to a length that an index holds. Terms narrow; whether a document contains another is
-- decided by the document. docs/decisions/0005-containment.md has the form and why.
-- Grows to about: executions 1e6, terms 1e7, steps 2e7 rows.

-- name: create_execution(execution_id, workflow_id, inputs, runnable_config, tags, callbacks, metadata, run_name, trace_id, now)^
-- differs: a script in one transaction; changes() tells whether the id was free. It writes the terms, which the other
-- dialect has in an index.
insert into executions (execution_id, workflow_id, inputs, runnable_config, tags, callbacks, metadata, run_name, status,
                        started_at, trace_id, step_count)
values (:execution_id, :workflow_id, :inputs, :runnable_config, :tags, :callbacks, :metadata, :run_name, 'running',
        :now, :trace_id, 0)
    on conflict (execution_id) do nothing;
select execution_id, workflow_id, inputs, runnable_config, tags, callbacks, metadata, run_name, status, started_at,
       completed_at, error, trace_id, trace_started_at, trace_completed_at, trace_last_span_at, step_count
  from executions
 where execution_id = :execution_id and changes() = 1;
with recursive n (path, type, value) as (
    select '', r.type, r.value
      from json_each('[' || :metadata || ']') as r
     union all
    select n.path || case n.type when 'array' then '[]' else '.' || json_quote(c.key) end, c.type, c.value
      from n cross join json_each(n.value) as c
     where n.type in ('object', 'array')
)
insert into execution_terms (workflow_id, term, started_at, execution_id)
select distinct :workflow_id,
       substr(n.path, 1, 200)
           || case n.type when 'object' then '{' when 'array' then '[' when 'text' then '"' || substr(n.value, 1, 64)
                          when 'integer' then '#' || n.value
                          when 'real' then '#' || case when n.value = cast(n.value as integer)
                                                       then cast(n.value as integer) else printf('%.12e', n.value) end
                          else '!' || n.type end,
       :now, :execution_id
  from n
 where changes() = 1;

-- name: get_execution(execution_id)^
select execution_id, workflow_id, inputs, runnable_config, tags, callbacks, metadata, run_name, status, started_at,
       completed_at, error, trace_id, trace_started_at, trace_completed_at, trace_last_span_at, step_count
  from executions
 where execution_id = :execution_id;

-- name: list_executions(workflow_id, after_at, after_id, limit)
select execution_id, workflow_id, inputs, runnable_config, tags, callbacks, metadata, run_name, status, started_at,
       completed_at, error, trace_id, trace_started_at, trace_completed_at, trace_last_span_at, step_count
  from executions
 where workflow_id = :workflow_id and (started_at, execution_id) < (:after_at, :after_id)
 order by started_at desc, execution_id desc
 limit :limit;

-- name: list_executions_by_status(workflow_id, status, after_at, after_id, limit)
select execution_id, workflow_id, inputs, runnable_config, tags, callbacks, metadata, run_name, status, started_at,
       completed_at, error, trace_id, trace_started_at, trace_completed_at, trace_last_span_at, step_count
  from executions
 where workflow_id = :workflow_id and status = :status and (started_at, execution_id) < (:after_at, :after_id)
 order by started_at desc, execution_id desc
 limit :limit;

-- name: find_executions(workflow_id, metadata, after_at, after_id, limit)
-- differs: SQLite has no @>. w holds the terms of the object asked for, leaves alone, since they imply the rest; rough
-- where having them is not yet containing it. d is the rarest of them, the one whose newest hundred reach back
-- furthest: its executions are walked in the order of the page, and those that lack another term are passed by. Where
-- it is rough, the documents themselves are compared, from the leaves up: g holds, for each value asked for, the places
-- in an execution's metadata that contain it, as id, parent and key of json_tree.
with recursive n (path, type, value) as (
    select '', r.type, r.value
      from json_each('[' || :metadata || ']') as r
     union all
    select n.path || case n.type when 'array' then '[]' else '.' || json_quote(c.key) end, c.type, c.value
      from n cross join json_each(n.value) as c
     where n.type in ('object', 'array')
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
), d (term) as materialized (
    select w.term
      from w
     order by (select printf('%04d', count(*)) || coalesce(min(c.started_at), '')
                 from (select o.started_at
                         from execution_terms o
                        where o.workflow_id = :workflow_id and o.term = w.term
                          and (o.started_at, o.execution_id) < (:after_at, :after_id)
                        order by o.started_at desc, o.execution_id desc, o.term
                        limit 100) c),
              w.term
     limit 1
), f (id, parent, key, type, atom, children, turn) as materialized (
    select a.id, a.parent, a.key, a.type, a.atom,
           (select count(*) from json_tree(:metadata) c where c.parent = a.id),
           row_number() over (order by a.id desc)
      from json_tree(:metadata) a
)
select x.execution_id, x.workflow_id, x.inputs, x.runnable_config, x.tags, x.callbacks, x.metadata, x.run_name,
       x.status, x.started_at, x.completed_at, x.error, x.trace_id, x.trace_started_at, x.trace_completed_at,
       x.trace_last_span_at, x.step_count
  from execution_terms k cross join executions x on x.execution_id = k.execution_id
 where k.workflow_id = :workflow_id and k.term = (select d.term from d)
   and (k.started_at, k.execution_id) < (:after_at, :after_id)
   and not exists (
       select 1
         from w
        where not exists (
              select 1
                from execution_terms o
               where o.workflow_id = :workflow_id and o.term = w.term
                 and o.started_at = k.started_at and o.execution_id = k.execution_id))
   and case when (select max(w.rough) from w) then (
       with recursive m (id, parent, key, type, atom) as materialized (
           select t.id, t.parent, t.key, t.type, t.atom from json_tree(x.metadata) t
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
 order by k.started_at desc, k.execution_id desc, k.term
 limit :limit;

-- name: mark_execution_ended(execution_id, status, error, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
update executions
   set status = :status, error = :error, completed_at = :now,
       trace_completed_at = case when trace_started_at is not null then :now end
 where execution_id = :execution_id and status = 'running';
select changes() = 1 as applied, status as found,
       execution_id, workflow_id, inputs, runnable_config, tags, callbacks, metadata, run_name, status, started_at,
       completed_at, error, trace_id, trace_started_at, trace_completed_at, trace_last_span_at, step_count
  from executions
 where execution_id = :execution_id;

-- name: append_steps(execution_id, payloads, now)
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
update executions
   set step_count = step_count + json_array_length(:payloads),
       trace_started_at = coalesce(trace_started_at, :now),
       trace_last_span_at = max(coalesce(trace_last_span_at, :now), :now)
 where execution_id = :execution_id and status = 'running';
insert into execution_steps (execution_id, idx, at, payload)
select x.execution_id, x.step_count - json_array_length(:payloads) + p.key, :now, p.value
  from executions x cross join json_each(:payloads) p
 where x.execution_id = :execution_id and changes() = 1;
select s.execution_id is not null as applied, x.status as found, s.execution_id, s.idx, s.at, s.payload
  from executions x
  left join execution_steps s
    on s.execution_id = x.execution_id and s.idx >= x.step_count - json_array_length(:payloads) and changes() > 0
 where x.execution_id = :execution_id
 order by s.idx;

-- name: list_steps(execution_id, after, limit)
select execution_id, idx, at, payload
  from execution_steps
 where execution_id = :execution_id and idx > :after
 order by idx
 limit :limit;

-- name: list_steps_sized(execution_id, after, limit, bytes)
with sizes as (
    select idx, sum(size) over (order by idx) - size as before
      from (select idx, length(payload) as size
              from execution_steps
             where execution_id = :execution_id and idx > :after
             order by idx
             limit :limit) as n
)
select s.execution_id, s.idx, s.at, s.payload,
       s.idx + 1 = (select x.step_count from executions x where x.execution_id = :execution_id) as is_last
  from execution_steps s
 where s.execution_id = :execution_id and s.idx > :after
   and s.idx <= (select max(idx) from sizes where before < :bytes)
 order by s.idx;

-- name: delete_executions(before, limit)!
-- differs: no SKIP LOCKED; BEGIN IMMEDIATE keeps others out. The terms go first, each found by its whole key.
delete from execution_terms
 where (workflow_id, term, started_at, execution_id) in (
       with recursive n (execution_id, path, type, value) as (
           select v.execution_id, '', r.type, r.value
             from (select execution_id, metadata
                     from executions
                    where completed_at < :before
                    order by completed_at, execution_id
                    limit :limit) v
            cross join json_each('[' || v.metadata || ']') as r
            union all
           select n.execution_id, n.path || case n.type when 'array' then '[]' else '.' || json_quote(c.key) end,
                  c.type, c.value
             from n cross join json_each(n.value) as c
            where n.type in ('object', 'array')
       )
       select x.workflow_id,
              substr(n.path, 1, 200)
           || case n.type when 'object' then '{' when 'array' then '[' when 'text' then '"' || substr(n.value, 1, 64)
                          when 'integer' then '#' || n.value
                          when 'real' then '#' || case when n.value = cast(n.value as integer)
                                                       then cast(n.value as integer) else printf('%.12e', n.value) end
                          else '!' || n.type end,
              x.started_at, x.execution_id
         from n cross join executions x on x.execution_id = n.execution_id);
delete from executions
 where execution_id in (
       select execution_id
         from executions
        where completed_at < :before
        order by completed_at, execution_id
        limit :limit);

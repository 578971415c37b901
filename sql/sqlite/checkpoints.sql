-- Optimizer checkpoints: numbered 1, 2, 3 … for each workflow by the workflow's row in checkpoint_heads, which says which
-- of them is the best one, too; whether a checkpoint is the best is never stored with it. Nothing of a checkpoint changes.
-- The numbers in its metrics stand once more in checkpoint_metrics, to be sorted by; and all values in its metadata and
-- metrics in checkpoint_terms, to be found by, as those of executions do: history.sql and
-- docs/decisions/0005-containment.md say how. Both documents are one there, with the two of them as its values.
-- Grows to about: checkpoints 1e6, heads 1e5, metrics 4e6, terms 1e7 rows.

-- name: create_checkpoint(id, workflow_id, config_version, runnable_config, metrics, metadata, artifact_url, is_best, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything. The checkpoint
-- comes before its head, since nobody else is numbering. It writes the terms, which the other dialect has in indexes.
insert into checkpoints (id, workflow_id, config_version, runnable_config, metrics, metadata, artifact_url, created_at)
select :id, :workflow_id,
       coalesce(:config_version,
                (select h.last_version + 1 from checkpoint_heads h where h.workflow_id = :workflow_id), 1),
       :runnable_config, :metrics, :metadata, :artifact_url, :now
 where true
    on conflict (id) do nothing
    on conflict (workflow_id, config_version) do nothing;
insert into checkpoint_heads (workflow_id, last_version, best_id)
select c.workflow_id, c.config_version, case when :is_best then c.id end
  from checkpoints c
 where c.id = :id and changes() = 1
    on conflict (workflow_id) do update
   set last_version = max(last_version, excluded.last_version), best_id = coalesce(excluded.best_id, best_id);
select changes() = 1 as applied,
       case when exists (select 1 from checkpoints o where o.id = :id) then 'id' else 'version' end as found,
       c.id, c.workflow_id, c.config_version, c.runnable_config, c.metrics, c.metadata, c.artifact_url,
       :is_best as is_best, c.created_at
  from (select 1) left join checkpoints c on c.id = :id and changes() = 1;
with recursive n (path, type, value) as (
    select '', r.type, r.value
      from json_each(json_array(json_object('metadata', json(:metadata), 'metrics', json(:metrics)))) as r
     union all
    select n.path || case n.type when 'array' then '[]' else '.' || json_quote(e.key) end, e.type, e.value
      from n cross join json_each(n.value) as e
     where n.type in ('object', 'array')
)
insert into checkpoint_terms (workflow_id, term, config_version)
select distinct c.workflow_id,
       substr(n.path, 1, 200)
           || case n.type when 'object' then '{' when 'array' then '[' when 'text' then '"' || substr(n.value, 1, 64)
                          when 'integer' then '#' || n.value
                          when 'real' then '#' || case when n.value = cast(n.value as integer)
                                                       then cast(n.value as integer) else printf('%.12e', n.value) end
                          else '!' || n.type end,
       c.config_version
  from checkpoints c cross join n
 where c.id = :id and changes() = 1;
insert into checkpoint_metrics (workflow_id, config_version, metric, value)
select c.workflow_id, c.config_version, e.key, e.value
  from checkpoints c cross join json_each(c.metrics) e
 where c.id = :id and e.type in ('integer', 'real') and changes() > 0;

-- name: get_checkpoint(id)^
select c.id, c.workflow_id, c.config_version, c.runnable_config, c.metrics, c.metadata, c.artifact_url,
       coalesce(h.best_id = c.id, 0) as is_best, c.created_at
  from checkpoints c
  left join checkpoint_heads h on h.workflow_id = c.workflow_id
 where c.id = :id;

-- name: get_checkpoint_latest(workflow_id)^
select c.id, c.workflow_id, c.config_version, c.runnable_config, c.metrics, c.metadata, c.artifact_url,
       coalesce(h.best_id = c.id, 0) as is_best, c.created_at
  from checkpoints c
  left join checkpoint_heads h on h.workflow_id = c.workflow_id
 where c.workflow_id = :workflow_id
 order by c.config_version desc
 limit 1;

-- name: get_checkpoint_best(workflow_id)^
select c.id, c.workflow_id, c.config_version, c.runnable_config, c.metrics, c.metadata, c.artifact_url,
       1 as is_best, c.created_at
  from checkpoint_heads h
  join checkpoints c on c.id = h.best_id
 where h.workflow_id = :workflow_id;

-- name: list_checkpoints(workflow_id, before, limit)
select c.id, c.workflow_id, c.config_version, c.runnable_config, c.metrics, c.metadata, c.artifact_url,
       coalesce(h.best_id = c.id, 0) as is_best, c.created_at
  from checkpoints c
  left join checkpoint_heads h on h.workflow_id = c.workflow_id
 where c.workflow_id = :workflow_id and c.config_version < :before
 order by c.config_version desc
 limit :limit;

-- name: find_checkpoints(workflow_id, metadata, metrics, before, limit)
-- differs: SQLite has no @>. The form is that of find_executions, which says what w, d, f and g are; the document is
-- metadata and metrics in one.
with recursive n (path, type, value) as (
    select '', r.type, r.value
      from json_each(json_array(json_object('metadata', json(:metadata), 'metrics', json(:metrics)))) as r
     union all
    select n.path || case n.type when 'array' then '[]' else '.' || json_quote(e.key) end, e.type, e.value
      from n cross join json_each(n.value) as e
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
     order by (select printf('%04d%020d', count(*), min(c.config_version))
                 from (select o.config_version
                         from checkpoint_terms o
                        where o.workflow_id = :workflow_id and o.term = w.term and o.config_version < :before
                        order by o.config_version desc, o.term
                        limit 100) c),
              w.term
     limit 1
), f (id, parent, key, type, atom, children, turn) as materialized (
    select a.id, a.parent, a.key, a.type, a.atom,
           (select count(*) from json_tree(json_object('metadata', json(:metadata), 'metrics', json(:metrics))) c
             where c.parent = a.id),
           row_number() over (order by a.id desc)
      from json_tree(json_object('metadata', json(:metadata), 'metrics', json(:metrics))) a
)
select x.id, x.workflow_id, x.config_version, x.runnable_config, x.metrics, x.metadata, x.artifact_url,
       coalesce(b.best_id = x.id, 0) as is_best, x.created_at
  from checkpoint_terms k
 cross join checkpoints x on x.workflow_id = k.workflow_id and x.config_version = k.config_version
  left join checkpoint_heads b on b.workflow_id = k.workflow_id
 where k.workflow_id = :workflow_id and k.term = (select d.term from d) and k.config_version < :before
   and not exists (
       select 1
         from w
        where not exists (
              select 1
                from checkpoint_terms o
               where o.workflow_id = :workflow_id and o.term = w.term and o.config_version = k.config_version))
   and case when (select max(w.rough) from w) then (
       with recursive m (id, parent, key, type, atom) as materialized (
           select t.id, t.parent, t.key, t.type, t.atom
             from json_tree(json_object('metadata', json(x.metadata), 'metrics', json(x.metrics))) t
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
 order by k.config_version desc, k.term
 limit :limit;

-- name: list_checkpoints_highest(workflow_id, metric, limit)
select c.id, c.workflow_id, c.config_version, c.runnable_config, c.metrics, c.metadata, c.artifact_url,
       coalesce(h.best_id = c.id, 0) as is_best, c.created_at
  from checkpoint_metrics m
  join checkpoints c on c.workflow_id = m.workflow_id and c.config_version = m.config_version
  left join checkpoint_heads h on h.workflow_id = m.workflow_id
 where m.workflow_id = :workflow_id and m.metric = :metric
 order by m.value desc, m.config_version desc
 limit :limit;

-- name: list_checkpoints_lowest(workflow_id, metric, limit)
select c.id, c.workflow_id, c.config_version, c.runnable_config, c.metrics, c.metadata, c.artifact_url,
       coalesce(h.best_id = c.id, 0) as is_best, c.created_at
  from checkpoint_metrics m
  join checkpoints c on c.workflow_id = m.workflow_id and c.config_version = m.config_version
  left join checkpoint_heads h on h.workflow_id = m.workflow_id
 where m.workflow_id = :workflow_id and m.metric = :metric
 order by m.value, m.config_version
 limit :limit;

-- name: mark_checkpoint_best(id)^
-- differs: a script in one transaction.
update checkpoint_heads
   set best_id = :id
 where workflow_id = (select c.workflow_id from checkpoints c where c.id = :id);
select c.id, c.workflow_id, c.config_version, c.runnable_config, c.metrics, c.metadata, c.artifact_url,
       1 as is_best, c.created_at
  from checkpoints c
 where c.id = :id and changes() = 1;

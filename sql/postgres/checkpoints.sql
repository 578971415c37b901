-- Optimizer checkpoints: numbered 1, 2, 3 … for each workflow by the workflow's row in checkpoint_heads, which says which
-- of them is the best one, too; whether a checkpoint is the best is never stored with it. Nothing of a checkpoint changes.
-- The numbers in its metrics stand once more in checkpoint_metrics, to be sorted by.
-- Grows to about: checkpoints 1e6, heads 1e5, metrics 4e6 rows.

-- name: create_checkpoint(id, workflow_id, config_version, runnable_config, metrics, metadata, artifact_url, is_best, now)^
-- A checkpoint, under the number given or, with null, the one behind the highest so far; the best one from now on, if it
-- is said to be. Refused with 'id' or 'version', which another has. One that took either meanwhile is refused by its
-- constraint, and the head that was moved for it is moved back with the statement.
-- params: id text, workflow_id text, config_version int?, runnable_config json, metrics json, metadata json,
--         artifact_url text?, is_best bool, now timestamptz
-- returns: Applied[Checkpoint]
-- class: point
with f as (
    select case when exists (select from checkpoints where id = :id) then 'id'
                when exists (select from checkpoints
                              where workflow_id = :workflow_id and config_version = :config_version::bigint)
                then 'version' end as found
), h as (
    insert into checkpoint_heads as h (workflow_id, last_version, best_id)
    select :workflow_id, coalesce(:config_version::bigint, 1), case when :is_best then :id end
      from f
     where f.found is null
        on conflict (workflow_id) do update
       set last_version = greatest(h.last_version, coalesce(:config_version::bigint, h.last_version + 1)),
           best_id = coalesce(excluded.best_id, h.best_id)
    returning h.workflow_id, coalesce(:config_version::bigint, h.last_version) as config_version
), c as (
    insert into checkpoints (id, workflow_id, config_version, runnable_config, metrics, metadata, artifact_url,
                             created_at)
    select :id, h.workflow_id, h.config_version, :runnable_config, :metrics, :metadata, :artifact_url, :now
      from h
    returning id, workflow_id, config_version, runnable_config, metrics, metadata, artifact_url, created_at
), m as (
    insert into checkpoint_metrics (workflow_id, config_version, metric, value)
    select c.workflow_id, c.config_version, e.key, e.value::double precision
      from c cross join jsonb_each(c.metrics) as e (key, value)
     where jsonb_typeof(e.value) = 'number'
)
select c.id is not null as applied, f.found,
       c.id, c.workflow_id, c.config_version, c.runnable_config, c.metrics, c.metadata, c.artifact_url,
       :is_best::boolean as is_best, c.created_at
  from f left join c on true;

-- name: get_checkpoint(id)^
-- One checkpoint.
-- params: id text
-- returns: Checkpoint
-- class: point
select c.id, c.workflow_id, c.config_version, c.runnable_config, c.metrics, c.metadata, c.artifact_url,
       coalesce(h.best_id = c.id, false) as is_best, c.created_at
  from checkpoints c
  left join checkpoint_heads h on h.workflow_id = c.workflow_id
 where c.id = :id;

-- name: get_checkpoint_latest(workflow_id)^
-- A workflow's checkpoint with the highest version.
-- params: workflow_id text
-- returns: Checkpoint
-- class: point
select c.id, c.workflow_id, c.config_version, c.runnable_config, c.metrics, c.metadata, c.artifact_url,
       coalesce(h.best_id = c.id, false) as is_best, c.created_at
  from checkpoints c
  left join checkpoint_heads h on h.workflow_id = c.workflow_id
 where c.workflow_id = :workflow_id
 order by c.config_version desc
 limit 1;

-- name: get_checkpoint_best(workflow_id)^
-- A workflow's best checkpoint.
-- params: workflow_id text
-- returns: Checkpoint
-- class: point
select c.id, c.workflow_id, c.config_version, c.runnable_config, c.metrics, c.metadata, c.artifact_url,
       true as is_best, c.created_at
  from checkpoint_heads h
  join checkpoints c on c.id = h.best_id
 where h.workflow_id = :workflow_id;

-- name: list_checkpoints(workflow_id, before, limit)
-- Checkpoints of a workflow, highest version first, one page; before is the largest integer for the first.
-- params: workflow_id text, before int, limit int
-- returns: Checkpoint
-- class: page
select c.id, c.workflow_id, c.config_version, c.runnable_config, c.metrics, c.metadata, c.artifact_url,
       coalesce(h.best_id = c.id, false) as is_best, c.created_at
  from checkpoints c
  left join checkpoint_heads h on h.workflow_id = c.workflow_id
 where c.workflow_id = :workflow_id and c.config_version < :before
 order by c.config_version desc
 limit :limit;

-- name: find_checkpoints(workflow_id, metadata, metrics, before, limit)
-- Checkpoints of a workflow whose metadata contain an object, as @> has it, and whose metrics contain another; highest
-- version first, one page. {} is contained in all. Planned with its values, as find_executions is.
-- params: workflow_id text, metadata json, metrics json, before int, limit int
-- returns: Checkpoint
-- class: page
-- plan: custom
select c.id, c.workflow_id, c.config_version, c.runnable_config, c.metrics, c.metadata, c.artifact_url,
       coalesce(h.best_id = c.id, false) as is_best, c.created_at
  from checkpoints c
  left join checkpoint_heads h on h.workflow_id = c.workflow_id
 where c.workflow_id = :workflow_id and c.metadata @> :metadata and c.metrics @> :metrics
   and c.config_version < :before
 order by c.config_version desc
 limit :limit;

-- name: list_checkpoints_highest(workflow_id, metric, limit)
-- The checkpoints of a workflow with the highest numbers for a metric, highest first; of equal ones the highest version.
-- Materialized, or else all checkpoints of the workflow are read beside them: it is taken for one with a few.
-- params: workflow_id text, metric text, limit int
-- returns: Checkpoint
-- class: page
with m as materialized (
    select workflow_id, config_version, value
      from checkpoint_metrics
     where workflow_id = :workflow_id and metric = :metric
     order by value desc, config_version desc
     limit :limit
)
select c.id, c.workflow_id, c.config_version, c.runnable_config, c.metrics, c.metadata, c.artifact_url,
       coalesce(h.best_id = c.id, false) as is_best, c.created_at
  from m
  join checkpoints c on c.workflow_id = m.workflow_id and c.config_version = m.config_version
  left join checkpoint_heads h on h.workflow_id = m.workflow_id
 order by m.value desc, m.config_version desc;

-- name: list_checkpoints_lowest(workflow_id, metric, limit)
-- The checkpoints of a workflow with the lowest numbers for a metric, lowest first; of equal ones the lowest version.
-- Materialized for the same reason.
-- params: workflow_id text, metric text, limit int
-- returns: Checkpoint
-- class: page
with m as materialized (
    select workflow_id, config_version, value
      from checkpoint_metrics
     where workflow_id = :workflow_id and metric = :metric
     order by value, config_version
     limit :limit
)
select c.id, c.workflow_id, c.config_version, c.runnable_config, c.metrics, c.metadata, c.artifact_url,
       coalesce(h.best_id = c.id, false) as is_best, c.created_at
  from m
  join checkpoints c on c.workflow_id = m.workflow_id and c.config_version = m.config_version
  left join checkpoint_heads h on h.workflow_id = m.workflow_id
 order by m.value, m.config_version;

-- name: mark_checkpoint_best(id)^
-- Seat a checkpoint as its workflow's best one, in the place of another.
-- params: id text
-- returns: Checkpoint
-- class: point
update checkpoint_heads h
   set best_id = c.id
  from checkpoints c
 where c.id = :id and h.workflow_id = c.workflow_id
returning c.id, c.workflow_id, c.config_version, c.runnable_config, c.metrics, c.metadata, c.artifact_url,
          true as is_best, c.created_at;

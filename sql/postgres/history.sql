-- Run history: one row per execution, with a small state machine, and its steps in order of idx. running → completed |
-- error | cancelled. Steps are numbered by the execution's step_count, which the appending statement raises, so that
-- they have no gaps however many append at once.
-- Grows to about: executions 1e6, steps 2e7 rows.

-- name: create_execution(execution_id, workflow_id, inputs, runnable_config, tags, callbacks, metadata, run_name, trace_id, now)^
-- A running execution without steps. No row: there is one with this id.
-- params: execution_id text, workflow_id text, inputs json, runnable_config json?, tags json, callbacks json,
--         metadata json, run_name text?, trace_id text?, now timestamptz
-- returns: Execution
-- class: point
insert into executions (execution_id, workflow_id, inputs, runnable_config, tags, callbacks, metadata, run_name, status,
                        started_at, trace_id, step_count)
values (:execution_id, :workflow_id, :inputs, :runnable_config, :tags, :callbacks, :metadata, :run_name, 'running',
        :now, :trace_id, 0)
    on conflict (execution_id) do nothing
returning execution_id, workflow_id, inputs, runnable_config, tags, callbacks, metadata, run_name, status, started_at,
          completed_at, error, trace_id, trace_started_at, trace_completed_at, trace_last_span_at, step_count;

-- name: get_execution(execution_id)^
-- One execution, without its steps.
-- params: execution_id text
-- returns: Execution
-- class: point
select execution_id, workflow_id, inputs, runnable_config, tags, callbacks, metadata, run_name, status, started_at,
       completed_at, error, trace_id, trace_started_at, trace_completed_at, trace_last_span_at, step_count
  from executions
 where execution_id = :execution_id;

-- name: list_executions(workflow_id, after_at, after_id, limit)
-- Executions of a workflow, newest first, one page.
-- params: workflow_id text, after_at timestamptz, after_id text, limit int
-- returns: Execution
-- class: page
select execution_id, workflow_id, inputs, runnable_config, tags, callbacks, metadata, run_name, status, started_at,
       completed_at, error, trace_id, trace_started_at, trace_completed_at, trace_last_span_at, step_count
  from executions
 where workflow_id = :workflow_id and (started_at, execution_id) < (:after_at, :after_id)
 order by started_at desc, execution_id desc
 limit :limit;

-- name: list_executions_by_status(workflow_id, status, after_at, after_id, limit)
-- Executions of a workflow in one state, newest first, one page.
-- params: workflow_id text, status text, after_at timestamptz, after_id text, limit int
-- returns: Execution
-- class: page
select execution_id, workflow_id, inputs, runnable_config, tags, callbacks, metadata, run_name, status, started_at,
       completed_at, error, trace_id, trace_started_at, trace_completed_at, trace_last_span_at, step_count
  from executions
 where workflow_id = :workflow_id and status = :status and (started_at, execution_id) < (:after_at, :after_id)
 order by started_at desc, execution_id desc
 limit :limit;

-- name: find_executions(workflow_id, metadata, after_at, after_id, limit)
-- Executions of a workflow whose metadata contain an object, as @> has it; newest first, one page.
-- Planned with its values: what many have is found soonest in the order of the page, what few have in the index.
-- params: workflow_id text, metadata json, after_at timestamptz, after_id text, limit int
-- returns: Execution
-- class: page
-- plan: custom
select execution_id, workflow_id, inputs, runnable_config, tags, callbacks, metadata, run_name, status, started_at,
       completed_at, error, trace_id, trace_started_at, trace_completed_at, trace_last_span_at, step_count
  from executions
 where workflow_id = :workflow_id and metadata @> :metadata
   and (started_at, execution_id) < (:after_at, :after_id)
 order by started_at desc, execution_id desc
 limit :limit;

-- name: mark_execution_ended(execution_id, status, error, now)^
-- running → completed, error or cancelled. Refused with the state found. A trace that began ends with it.
-- params: execution_id text, status text, error text?, now timestamptz
-- returns: Applied[Execution]
-- class: point
with l as (
    select execution_id, status from executions where execution_id = :execution_id for update
), x as (
    update executions x
       set status = :status, error = :error, completed_at = :now,
           trace_completed_at = case when x.trace_started_at is not null then :now::timestamptz end
      from l
     where x.execution_id = l.execution_id and l.status = 'running'
    returning x.execution_id, x.workflow_id, x.inputs, x.runnable_config, x.tags, x.callbacks, x.metadata, x.run_name,
              x.status, x.started_at, x.completed_at, x.error, x.trace_id, x.trace_started_at, x.trace_completed_at,
              x.trace_last_span_at, x.step_count
)
select x.execution_id is not null as applied, l.status as found,
       x.execution_id, x.workflow_id, x.inputs, x.runnable_config, x.tags, x.callbacks, x.metadata, x.run_name,
       x.status, x.started_at, x.completed_at, x.error, x.trace_id, x.trace_started_at, x.trace_completed_at,
       x.trace_last_span_at, x.step_count
  from l left join x on true;

-- name: append_steps(execution_id, payloads, now)
-- Steps behind those that an execution has, in the order given; payloads holds the text of each document. The first
-- ones begin the trace, and its last span is never set back. One row refused with the state found: the execution has ended.
-- No row: there is none.
-- params: execution_id text, payloads text[], now timestamptz
-- returns: Applied[Step]
-- class: hot
-- plan: rows 20
with l as (
    select execution_id, status from executions where execution_id = :execution_id for update
), x as (
    update executions x
       set step_count = x.step_count + cardinality(:payloads::text[]),
           trace_started_at = coalesce(x.trace_started_at, :now),
           trace_last_span_at = greatest(x.trace_last_span_at, :now)
      from l
     where x.execution_id = l.execution_id and l.status = 'running'
    returning x.execution_id, x.step_count - cardinality(:payloads::text[]) as first
), s as (
    insert into execution_steps (execution_id, idx, at, payload)
    select x.execution_id, x.first + p.number - 1, :now, p.payload::jsonb
      from x cross join unnest(:payloads::text[]) with ordinality as p (payload, number)
    returning execution_id, idx, at, payload
)
select s.execution_id is not null as applied, l.status as found, s.execution_id, s.idx, s.at, s.payload
  from l left join s on true
 order by s.idx;

-- name: list_steps(execution_id, after, limit)
-- The steps of an execution, oldest first, one page; after is -1 for the first.
-- params: execution_id text, after int, limit int
-- returns: Step
-- class: page
select execution_id, idx, at, payload
  from execution_steps
 where execution_id = :execution_id and idx > :after
 order by idx
 limit :limit;

-- name: list_steps_sized(execution_id, after, limit, bytes)
-- The same, ended early where the payloads, as stored, come to so many bytes; with the word whether there are more.
-- params: execution_id text, after int, limit int, bytes int
-- returns: StreamedStep
-- class: page
with sizes as (
    select idx, sum(size) over (order by idx) - size as before
      from (select idx, pg_column_size(payload) as size
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
-- Forget the executions that ended first, before a time, with their steps. What another is deleting is left to it.
-- params: before timestamptz, limit int
-- class: batch
delete from executions
 where execution_id = any (array(
       select execution_id
         from executions
        where completed_at < :before
        order by completed_at, execution_id
        limit :limit
          for update skip locked));

-- Runs: one a row, with a small state machine. pending → running → succeeded | failed | cancelled; pending → failed |
-- cancelled; running → pending when a lease has run out. Every transition locks the row, looks, and changes it, in one
-- statement. A run under a lease is ended by the lease's owner alone, or cancelled.
-- Grows to about: runs 1e7, events 4e7 rows.

-- name: create_run(id, workflow_id, version_id, triggered_by, inputs, runnable_config, tags, callbacks, metadata, name, idempotency_key, actor, now)^
-- A pending run of a version, the latest if version_id is null. The row is the first run if the idempotency key was used
-- before: its id is not the one given. Refused with 'archived', or with 'version' if the workflow has no such version.
-- params: id uuid, workflow_id uuid, version_id uuid?, triggered_by text, inputs json, runnable_config json?, tags json,
--         callbacks json, metadata json, name text?, idempotency_key text?, actor text, now timestamptz
-- returns: Applied[Run]
-- class: point
with w as (
    select id, is_archived from workflows where id = :workflow_id for share
), o as (
    select version_id from runs where workflow_id = :workflow_id and idempotency_key = :idempotency_key
), v as (
    select v.id, v.runnable_config
      from workflow_versions v
     where v.workflow_id = :workflow_id
       and v.id = coalesce((select version_id from o), :version_id,
                           (select n.id from workflow_versions n where n.workflow_id = :workflow_id
                             order by n.number desc limit 1))
), r as (
    insert into runs as r (id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks,
                           metadata, name, idempotency_key, last_event, created_at, updated_at)
    select :id, w.id, v.id, 'pending', :triggered_by, :inputs, coalesce(:runnable_config, v.runnable_config), :tags,
           :callbacks, :metadata, :name, :idempotency_key, 1, :now, :now
      from w cross join v
     where not w.is_archived or exists (select from o)
        on conflict (workflow_id, idempotency_key) where idempotency_key is not null
        do update set idempotency_key = excluded.idempotency_key
    returning r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
              r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at,
              r.idempotency_key, r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at,
              r.updated_at
), e as (
    insert into run_events (run_id, number, actor, action, at, metadata)
    select id, 1, :actor, 'created', :now, '{}' from r where id = :id
)
select r.id is not null as applied, case when w.is_archived then 'archived' else 'version' end as found,
       r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
       r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at, r.idempotency_key,
       r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at, r.updated_at
  from w left join r on true;

-- name: get_run(run_id)^
-- One run.
-- params: run_id uuid
-- returns: Run
-- class: point
select id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata, name,
       output, error, attempt, retry_of, retry_at, idempotency_key, lease_owner, lease_expires_at, created_at,
       started_at, completed_at, updated_at
  from runs
 where id = :run_id;

-- name: list_runs(workflow_id, after_at, after_id, limit)
-- Runs of a workflow, newest first, one page.
-- params: workflow_id uuid, after_at timestamptz, after_id uuid, limit int
-- returns: Run
-- class: page
select id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata, name,
       output, error, attempt, retry_of, retry_at, idempotency_key, lease_owner, lease_expires_at, created_at,
       started_at, completed_at, updated_at
  from runs
 where workflow_id = :workflow_id and (created_at, id) < (:after_at, :after_id)
 order by created_at desc, id desc
 limit :limit;

-- name: list_runs_by_status(workflow_id, status, after_at, after_id, limit)
-- Runs of a workflow in one state, newest first, one page.
-- params: workflow_id uuid, status text, after_at timestamptz, after_id uuid, limit int
-- returns: Run
-- class: page
select id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata, name,
       output, error, attempt, retry_of, retry_at, idempotency_key, lease_owner, lease_expires_at, created_at,
       started_at, completed_at, updated_at
  from runs
 where workflow_id = :workflow_id and status = :status and (created_at, id) < (:after_at, :after_id)
 order by created_at desc, id desc
 limit :limit;

-- name: mark_run_running(run_id, actor, now)^
-- pending → running. Refused with the state found.
-- params: run_id uuid, actor text, now timestamptz
-- returns: Applied[Run]
-- class: point
with l as (
    select id, status from runs where id = :run_id for update
), r as (
    update runs r
       set status = 'running', started_at = :now, last_event = r.last_event + 1, updated_at = :now
      from l
     where r.id = l.id and l.status = 'pending'
    returning r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
              r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at,
              r.idempotency_key, r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at,
              r.updated_at,
              r.last_event
), e as (
    insert into run_events (run_id, number, actor, action, at, metadata)
    select id, last_event, :actor, 'started', :now, '{}' from r
)
select r.id is not null as applied, l.status as found,
       r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
       r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at, r.idempotency_key,
       r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at, r.updated_at
  from l left join r on true;

-- name: mark_run_succeeded(run_id, output, worker, actor, now)^
-- running → succeeded. Refused with the state found, or with 'lease' if it is not the worker that has it; no worker is
-- that of a run without one.
-- params: run_id uuid, output json, worker text?, actor text, now timestamptz
-- returns: Applied[Run]
-- class: point
with l as (
    select id,
           case when status = 'running' and lease_owner is distinct from :worker then 'lease' else status end as found
      from runs
     where id = :run_id
       for update
), r as (
    update runs r
       set status = 'succeeded', output = :output, lease_owner = null, lease_expires_at = null, completed_at = :now,
           last_event = r.last_event + 1, updated_at = :now
      from l
     where r.id = l.id and l.found = 'running'
    returning r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
              r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at,
              r.idempotency_key, r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at,
              r.updated_at,
              r.last_event
), e as (
    insert into run_events (run_id, number, actor, action, at, metadata)
    select id, last_event, :actor, 'succeeded', :now, '{}' from r
)
select r.id is not null as applied, l.found,
       r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
       r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at, r.idempotency_key,
       r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at, r.updated_at
  from l left join r on true;

-- name: mark_run_failed(run_id, error, worker, actor, now)^
-- pending or running → failed. Refused as mark_run_succeeded is; a worker has no pending run.
-- params: run_id uuid, error text, worker text?, actor text, now timestamptz
-- returns: Applied[Run]
-- class: point
with l as (
    select id, case when status = 'running' and lease_owner is distinct from :worker then 'lease'
                    when status = 'pending' and :worker is not null then 'unleased' else status end as found
      from runs
     where id = :run_id
       for update
), r as (
    update runs r
       set status = 'failed', error = :error, lease_owner = null, lease_expires_at = null, completed_at = :now,
           last_event = r.last_event + 1, updated_at = :now
      from l
     where r.id = l.id and l.found in ('pending', 'running')
    returning r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
              r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at,
              r.idempotency_key, r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at,
              r.updated_at,
              r.last_event
), e as (
    insert into run_events (run_id, number, actor, action, at, metadata)
    select id, last_event, :actor, 'failed', :now, '{}' from r
)
select r.id is not null as applied, case l.found when 'unleased' then 'pending' else l.found end as found,
       r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
       r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at, r.idempotency_key,
       r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at, r.updated_at
  from l left join r on true;

-- name: mark_run_cancelled(run_id, reason, actor, now)^
-- pending or running → cancelled, the reason kept as the run's error. Refused with the state found.
-- params: run_id uuid, reason text?, actor text, now timestamptz
-- returns: Applied[Run]
-- class: point
with l as (
    select id, status from runs where id = :run_id for update
), r as (
    update runs r
       set status = 'cancelled', error = :reason, lease_owner = null, lease_expires_at = null, completed_at = :now,
           last_event = r.last_event + 1, updated_at = :now
      from l
     where r.id = l.id and l.status in ('pending', 'running')
    returning r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
              r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at,
              r.idempotency_key, r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at,
              r.updated_at,
              r.last_event
), e as (
    insert into run_events (run_id, number, actor, action, at, metadata)
    select id, last_event, :actor, 'cancelled', :now, '{}' from r
)
select r.id is not null as applied, l.status as found,
       r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
       r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at, r.idempotency_key,
       r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at, r.updated_at
  from l left join r on true;

-- name: claim_runs(worker, lease_expires_at, limit, now)
-- Pending runs become running under a lease: those that have waited longest, a retry since the time it was put off to.
-- What another is claiming is left to it, and that is for a moment more than it takes: enough of each of the two lines.
-- params: worker text, lease_expires_at timestamptz, limit int, now timestamptz
-- returns: Run
-- class: batch
with a as (
    select id
      from runs
     where status = 'pending' and retry_at is null
     order by retry_at, created_at, id
     limit :limit
       for update skip locked
), b as (
    select id
      from runs
     where status = 'pending' and retry_at <= :now
     order by retry_at, created_at, id
     limit :limit
       for update skip locked
), r as (
    update runs r
       set status = 'running', lease_owner = :worker, lease_expires_at = :lease_expires_at, started_at = :now,
           last_event = r.last_event + 1, updated_at = :now
     where r.id = any (array(select c.id
                               from runs c
                              where c.id = any (array(select id from a union all select id from b))
                              order by coalesce(c.retry_at, c.created_at), c.id
                              limit :limit))
    returning r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
              r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at,
              r.idempotency_key, r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at,
              r.updated_at,
              r.last_event
), e as (
    insert into run_events (run_id, number, actor, action, at, metadata)
    select id, last_event, :worker, 'claimed', :now, '{}' from r
)
select id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata, name,
       output, error, attempt, retry_of, retry_at, idempotency_key, lease_owner, lease_expires_at, created_at,
       started_at, completed_at, updated_at
  from r;

-- name: claim_runs_of_workflow(workflow_id, worker, lease_expires_at, limit, now)
-- claim_runs, of one workflow.
-- params: workflow_id uuid, worker text, lease_expires_at timestamptz, limit int, now timestamptz
-- returns: Run
-- class: batch
with a as (
    select id
      from runs
     where status = 'pending' and workflow_id = :workflow_id and retry_at is null
     order by retry_at, created_at, id
     limit :limit
       for update skip locked
), b as (
    select id
      from runs
     where status = 'pending' and workflow_id = :workflow_id and retry_at <= :now
     order by retry_at, created_at, id
     limit :limit
       for update skip locked
), r as (
    update runs r
       set status = 'running', lease_owner = :worker, lease_expires_at = :lease_expires_at, started_at = :now,
           last_event = r.last_event + 1, updated_at = :now
     where r.id = any (array(select c.id
                               from runs c
                              where c.id = any (array(select id from a union all select id from b))
                              order by coalesce(c.retry_at, c.created_at), c.id
                              limit :limit))
    returning r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
              r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at,
              r.idempotency_key, r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at,
              r.updated_at,
              r.last_event
), e as (
    insert into run_events (run_id, number, actor, action, at, metadata)
    select id, last_event, :worker, 'claimed', :now, '{}' from r
)
select id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata, name,
       output, error, attempt, retry_of, retry_at, idempotency_key, lease_owner, lease_expires_at, created_at,
       started_at, completed_at, updated_at
  from r;

-- name: update_run_lease(run_id, worker, lease_expires_at, now)^
-- A running run's lease ends at another time. Refused with the state found, or with 'lease' if another worker has it,
-- or nobody.
-- params: run_id uuid, worker text, lease_expires_at timestamptz, now timestamptz
-- returns: Applied[Run]
-- class: point
with l as (
    select id,
           case when status = 'running' and lease_owner is distinct from :worker then 'lease' else status end as found
      from runs
     where id = :run_id
       for update
), r as (
    update runs r
       set lease_expires_at = :lease_expires_at, updated_at = :now
      from l
     where r.id = l.id and l.found = 'running'
    returning r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
              r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at,
              r.idempotency_key, r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at,
              r.updated_at
)
select r.id is not null as applied, l.found,
       r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
       r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at, r.idempotency_key,
       r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at, r.updated_at
  from l left join r on true;

-- name: requeue_runs(due, limit, actor, now)
-- Running runs whose lease ended at a time or before become pending again, the longest ended first. What another is
-- changing is left to it.
-- params: due timestamptz, limit int, actor text, now timestamptz
-- returns: Run
-- class: batch
with a as (
    select id, lease_owner
      from runs
     where status = 'running' and lease_expires_at <= :due
     order by lease_expires_at, id
     limit :limit
       for update skip locked
), r as (
    update runs r
       set status = 'pending', lease_owner = null, lease_expires_at = null, started_at = null,
           last_event = r.last_event + 1, updated_at = :now
     where r.id = any (array(select id from a))
    returning r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
              r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at,
              r.idempotency_key, r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at,
              r.updated_at,
              r.last_event
), e as (
    insert into run_events (run_id, number, actor, action, at, metadata)
    select r.id, r.last_event, :actor, 'requeued', :now, jsonb_build_object('worker', a.lease_owner)
      from r join a on a.id = r.id
)
select id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata, name,
       output, error, attempt, retry_of, retry_at, idempotency_key, lease_owner, lease_expires_at, created_at,
       started_at, completed_at, updated_at
  from r;

-- name: count_runs(workflow_id, since)
-- How many runs of a workflow, created at a time or later, are in each state.
-- params: workflow_id uuid, since timestamptz
-- returns: StatusCount
-- class: report
with s (status) as (
    values ('pending'), ('running'), ('succeeded'), ('failed'), ('cancelled')
)
select s.status,
       (select count(*)
          from runs r
         where r.workflow_id = :workflow_id and r.status = s.status and r.created_at >= :since) as count
  from s;

-- name: list_run_events(run_id, after, limit)
-- The audit trail of a run, oldest first, one page; after is 0 for the first.
-- params: run_id uuid, after int, limit int
-- returns: Event
-- class: page
select number, actor, action, at, metadata
  from run_events
 where run_id = :run_id and number > :after
 order by number
 limit :limit;

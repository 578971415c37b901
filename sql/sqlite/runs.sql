-- Runs: one a row, with a small state machine. pending → running → succeeded | failed | cancelled; pending → failed |
-- cancelled; running → pending when a lease has run out. Every transition locks the row, looks, and changes it, in one
-- statement. A run under a lease is ended by the lease's owner alone, or cancelled.
-- Grows to about: runs 1e7, events 4e7 rows.

-- name: create_run(id, workflow_id, version_id, triggered_by, inputs, runnable_config, tags, callbacks, metadata, name, idempotency_key, actor, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
insert into runs (id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata,
                  name, idempotency_key, last_event, created_at, updated_at)
select :id, w.id, v.id, 'pending', :triggered_by, :inputs, coalesce(:runnable_config, v.runnable_config), :tags,
       :callbacks, :metadata, :name, :idempotency_key, 1, :now, :now
  from workflows w
  join workflow_versions v
    on v.workflow_id = w.id
   and v.id = coalesce(:version_id, (select n.id from workflow_versions n where n.workflow_id = :workflow_id
                                      order by n.number desc limit 1))
 where w.id = :workflow_id and w.is_archived = 0
    on conflict (workflow_id, idempotency_key) where idempotency_key is not null do nothing;
insert into run_events (run_id, number, actor, action, at, metadata)
select :id, 1, :actor, 'created', :now, '{}'
 where changes() = 1;
select r.id is not null as applied, case when w.is_archived then 'archived' else 'version' end as found,
       r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
       r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at, r.idempotency_key,
       r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at, r.updated_at
  from workflows w
  left join runs r
    on r.id = coalesce((select k.id from runs k
                         where k.workflow_id = :workflow_id and k.idempotency_key = :idempotency_key), :id)
 where w.id = :workflow_id;

-- name: get_run(run_id)^
select id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata, name,
       output, error, attempt, retry_of, retry_at, idempotency_key, lease_owner, lease_expires_at, created_at,
       started_at, completed_at, updated_at
  from runs
 where id = :run_id;

-- name: list_runs(workflow_id, after_at, after_id, limit)
select id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata, name,
       output, error, attempt, retry_of, retry_at, idempotency_key, lease_owner, lease_expires_at, created_at,
       started_at, completed_at, updated_at
  from runs
 where workflow_id = :workflow_id and (created_at, id) < (:after_at, :after_id)
 order by created_at desc, id desc
 limit :limit;

-- name: list_runs_by_status(workflow_id, status, after_at, after_id, limit)
select id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata, name,
       output, error, attempt, retry_of, retry_at, idempotency_key, lease_owner, lease_expires_at, created_at,
       started_at, completed_at, updated_at
  from runs
 where workflow_id = :workflow_id and status = :status and (created_at, id) < (:after_at, :after_id)
 order by created_at desc, id desc
 limit :limit;

-- name: mark_run_running(run_id, actor, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
update runs
   set status = 'running', started_at = :now, last_event = last_event + 1, updated_at = :now
 where id = :run_id and status = 'pending';
insert into run_events (run_id, number, actor, action, at, metadata)
select id, last_event, :actor, 'started', :now, '{}'
  from runs
 where id = :run_id and changes() = 1;
select changes() = 1 as applied, status as found,
       id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata, name,
       output, error, attempt, retry_of, retry_at, idempotency_key, lease_owner, lease_expires_at, created_at,
       started_at, completed_at, updated_at
  from runs
 where id = :run_id;

-- name: mark_run_succeeded(run_id, output, worker, actor, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
update runs
   set status = 'succeeded', output = :output, lease_owner = null, lease_expires_at = null, completed_at = :now,
       last_event = last_event + 1, updated_at = :now
 where id = :run_id and status = 'running' and lease_owner is :worker;
insert into run_events (run_id, number, actor, action, at, metadata)
select id, last_event, :actor, 'succeeded', :now, '{}'
  from runs
 where id = :run_id and changes() = 1;
select changes() = 1 as applied, case status when 'running' then 'lease' else status end as found,
       id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata, name,
       output, error, attempt, retry_of, retry_at, idempotency_key, lease_owner, lease_expires_at, created_at,
       started_at, completed_at, updated_at
  from runs
 where id = :run_id;

-- name: mark_run_failed(run_id, error, worker, actor, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
update runs
   set status = 'failed', error = :error, lease_owner = null, lease_expires_at = null, completed_at = :now,
       last_event = last_event + 1, updated_at = :now
 where id = :run_id and status in ('pending', 'running') and lease_owner is :worker;
insert into run_events (run_id, number, actor, action, at, metadata)
select id, last_event, :actor, 'failed', :now, '{}'
  from runs
 where id = :run_id and changes() = 1;
select changes() = 1 as applied, case status when 'running' then 'lease' else status end as found,
       id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata, name,
       output, error, attempt, retry_of, retry_at, idempotency_key, lease_owner, lease_expires_at, created_at,
       started_at, completed_at, updated_at
  from runs
 where id = :run_id;

-- name: mark_run_cancelled(run_id, reason, actor, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
update runs
   set status = 'cancelled', error = :reason, lease_owner = null, lease_expires_at = null, completed_at = :now,
       last_event = last_event + 1, updated_at = :now
 where id = :run_id and status in ('pending', 'running');
insert into run_events (run_id, number, actor, action, at, metadata)
select id, last_event, :actor, 'cancelled', :now, '{}'
  from runs
 where id = :run_id and changes() = 1;
select changes() = 1 as applied, status as found,
       id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata, name,
       output, error, attempt, retry_of, retry_at, idempotency_key, lease_owner, lease_expires_at, created_at,
       started_at, completed_at, updated_at
  from runs
 where id = :run_id;

-- name: claim_runs(worker, lease_expires_at, limit, now)
-- differs: a script in one transaction, which keeps others out without SKIP LOCKED; the events come first, while the
-- runs can still be told by their state.
insert into run_events (run_id, number, actor, action, at, metadata)
select id, last_event + 1, :worker, 'claimed', :now, '{}'
  from runs
 where id in (
       select id
         from (select id, since
                 from (select id, created_at as since
                         from runs
                        where status = 'pending' and retry_at is null
                        order by retry_at, created_at, id
                        limit :limit)
                union all
               select id, since
                 from (select id, retry_at as since
                         from runs
                        where status = 'pending' and retry_at <= :now
                        order by retry_at, created_at, id
                        limit :limit))
        order by since, id
        limit :limit);
update runs
   set status = 'running', lease_owner = :worker, lease_expires_at = :lease_expires_at, started_at = :now,
       last_event = last_event + 1, updated_at = :now
 where id in (
       select id
         from (select id, since
                 from (select id, created_at as since
                         from runs
                        where status = 'pending' and retry_at is null
                        order by retry_at, created_at, id
                        limit :limit)
                union all
               select id, since
                 from (select id, retry_at as since
                         from runs
                        where status = 'pending' and retry_at <= :now
                        order by retry_at, created_at, id
                        limit :limit))
        order by since, id
        limit :limit)
returning id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata, name,
          output, error, attempt, retry_of, retry_at, idempotency_key, lease_owner, lease_expires_at, created_at,
          started_at, completed_at, updated_at;

-- name: claim_runs_of_workflow(workflow_id, worker, lease_expires_at, limit, now)
-- differs: a script in one transaction, which keeps others out without SKIP LOCKED; the events come first, while the
-- runs can still be told by their state.
insert into run_events (run_id, number, actor, action, at, metadata)
select id, last_event + 1, :worker, 'claimed', :now, '{}'
  from runs
 where id in (
       select id
         from (select id, since
                 from (select id, created_at as since
                         from runs
                        where status = 'pending' and workflow_id = :workflow_id and retry_at is null
                        order by retry_at, created_at, id
                        limit :limit)
                union all
               select id, since
                 from (select id, retry_at as since
                         from runs
                        where status = 'pending' and workflow_id = :workflow_id and retry_at <= :now
                        order by retry_at, created_at, id
                        limit :limit))
        order by since, id
        limit :limit);
update runs
   set status = 'running', lease_owner = :worker, lease_expires_at = :lease_expires_at, started_at = :now,
       last_event = last_event + 1, updated_at = :now
 where id in (
       select id
         from (select id, since
                 from (select id, created_at as since
                         from runs
                        where status = 'pending' and workflow_id = :workflow_id and retry_at is null
                        order by retry_at, created_at, id
                        limit :limit)
                union all
               select id, since
                 from (select id, retry_at as since
                         from runs
                        where status = 'pending' and workflow_id = :workflow_id and retry_at <= :now
                        order by retry_at, created_at, id
                        limit :limit))
        order by since, id
        limit :limit)
returning id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata, name,
          output, error, attempt, retry_of, retry_at, idempotency_key, lease_owner, lease_expires_at, created_at,
          started_at, completed_at, updated_at;

-- name: update_run_lease(run_id, worker, lease_expires_at, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
update runs
   set lease_expires_at = :lease_expires_at, updated_at = :now
 where id = :run_id and status = 'running' and lease_owner = :worker;
select changes() = 1 as applied, case status when 'running' then 'lease' else status end as found,
       id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata, name,
       output, error, attempt, retry_of, retry_at, idempotency_key, lease_owner, lease_expires_at, created_at,
       started_at, completed_at, updated_at
  from runs
 where id = :run_id;

-- name: requeue_runs(due, limit, actor, now)
-- differs: a script in one transaction, which keeps others out without SKIP LOCKED; the events come first, while the
-- runs can still be told by their state.
insert into run_events (run_id, number, actor, action, at, metadata)
select id, last_event + 1, :actor, 'requeued', :now, json_object('worker', lease_owner)
  from runs
 where id in (
       select id
         from runs
        where status = 'running' and lease_expires_at <= :due
        order by lease_expires_at, id
        limit :limit);
update runs
   set status = 'pending', lease_owner = null, lease_expires_at = null, started_at = null,
       last_event = last_event + 1, updated_at = :now
 where id in (
       select id
         from runs
        where status = 'running' and lease_expires_at <= :due
        order by lease_expires_at, id
        limit :limit)
returning id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata, name,
          output, error, attempt, retry_of, retry_at, idempotency_key, lease_owner, lease_expires_at, created_at,
          started_at, completed_at, updated_at;

-- name: count_runs(workflow_id, since)
with s (status) as (
    values ('pending'), ('running'), ('succeeded'), ('failed'), ('cancelled')
)
select s.status,
       (select count(*)
          from runs r
         where r.workflow_id = :workflow_id and r.status = s.status and r.created_at >= :since) as count
  from s;

-- name: list_run_events(run_id, after, limit)
select number, actor, action, at, metadata
  from run_events
 where run_id = :run_id and number > :after
 order by number
 limit :limit;

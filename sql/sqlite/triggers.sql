-- Triggers: what makes runs. One row for each workflow and kind: a webhook, a schedule, a policy of retries.
-- What decides whether there is a run stands in the statement that makes it: the time of the next fire, the key of a
-- request, the count of a window, the run that is retried.
-- Grows to about: workflows 1e5 of each kind.

-- name: set_cron(workflow_id, expression, timezone, allow_overlapping, start_at, end_at, next_fire_at, actor, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
insert into cron_triggers as t (workflow_id, expression, timezone, allow_overlapping, start_at, end_at, next_fire_at,
                                created_at, created_by, updated_at)
select id, :expression, :timezone, :allow_overlapping, :start_at, :end_at, :next_fire_at, :now, :actor, :now
  from workflows
 where id = :workflow_id and is_archived = 0
    on conflict (workflow_id) do update
   set expression = excluded.expression, timezone = excluded.timezone,
       allow_overlapping = excluded.allow_overlapping, start_at = excluded.start_at, end_at = excluded.end_at,
       next_fire_at = case when t.expression = excluded.expression and t.timezone = excluded.timezone
                            and t.start_at is excluded.start_at
                            and t.end_at is excluded.end_at
                           then t.next_fire_at else excluded.next_fire_at end,
       updated_at = excluded.updated_at;
update workflows
   set last_event = last_event + 1
 where id = :workflow_id and changes() = 1;
insert into workflow_events (workflow_id, number, actor, action, at, metadata)
select id, last_event, :actor, 'cron_set', :now, json_object('expression', :expression, 'timezone', :timezone)
  from workflows
 where id = :workflow_id and changes() = 1;
select changes() = 1 as applied, 'archived' as found,
       t.workflow_id, t.expression, t.timezone, t.allow_overlapping, t.start_at, t.end_at, t.next_fire_at,
       t.last_fired_at, t.created_at, t.created_by, t.updated_at
  from workflows w left join cron_triggers t on t.workflow_id = w.id
 where w.id = :workflow_id;

-- name: get_cron(workflow_id)^
select workflow_id, expression, timezone, allow_overlapping, start_at, end_at, next_fire_at, last_fired_at, created_at,
       created_by, updated_at
  from cron_triggers
 where workflow_id = :workflow_id;

-- name: delete_cron(workflow_id, actor, now)$
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
delete from cron_triggers
 where workflow_id = :workflow_id;
update workflows
   set last_event = last_event + 1
 where id = :workflow_id and changes() = 1;
insert into workflow_events (workflow_id, number, actor, action, at, metadata)
select id, last_event, :actor, 'cron_deleted', :now, '{}'
  from workflows
 where id = :workflow_id and changes() = 1;
select changes() = 1 as deleted;

-- name: list_due_crons(now, limit)
select t.workflow_id, t.expression, t.timezone, t.allow_overlapping, t.start_at, t.end_at, t.next_fire_at,
       t.last_fired_at, t.created_at, t.created_by, t.updated_at
  from cron_triggers t
 where t.next_fire_at <= :now
   and (t.allow_overlapping = 1
        or (select count(*)
              from runs u
             where u.workflow_id = t.workflow_id and u.triggered_by = 'cron' and u.completed_at is null) = 0)
 order by t.next_fire_at, t.workflow_id
 limit :limit;

-- name: create_cron_runs(fires, actor, now)
-- differs: a script in one transaction; the runs come first, and tell which schedules are to be moved on.
insert into runs (id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata,
                  attempt, idempotency_key, last_event, created_at, updated_at)
select f.value ->> 'run_id', w.id, v.id, 'pending', 'cron', f.value -> 'inputs', v.runnable_config, '[]', '[]', '{}', 1,
       f.value ->> 'key', 1, :now, :now
  from json_each(:fires) as f
 cross join workflows w on w.id = f.value ->> 'workflow_id' and w.is_archived = 0
 cross join cron_triggers t on t.workflow_id = w.id
 cross join workflow_versions v
    on v.workflow_id = w.id
   and v.number = (select max(n.number) from workflow_versions n where n.workflow_id = w.id)
 where f.value ->> 'fire_at' is not null
   and t.next_fire_at = f.value ->> 'seen_at' and t.expression = f.value ->> 'expression'
   and t.timezone = f.value ->> 'timezone' and t.end_at is f.value ->> 'end_at'
   and (t.allow_overlapping = 1
        or not exists (select 1 from runs u
                        where u.workflow_id = t.workflow_id and u.triggered_by = 'cron' and u.completed_at is null))
    on conflict (workflow_id, idempotency_key) where idempotency_key is not null do nothing;
insert into run_events (run_id, number, actor, action, at, metadata)
select r.id, 1, :actor, 'created', :now, '{}'
  from json_each(:fires) as f cross join runs r on r.id = f.value ->> 'run_id';
update cron_triggers
   set next_fire_at = moved.next_at, last_fired_at = coalesce(moved.fire_at, last_fired_at)
  from (select t.workflow_id, f.value ->> 'next_at' as next_at, f.value ->> 'fire_at' as fire_at
          from json_each(:fires) as f
         cross join workflows w on w.id = f.value ->> 'workflow_id' and w.is_archived = 0
         cross join cron_triggers t on t.workflow_id = w.id
         where t.next_fire_at = f.value ->> 'seen_at' and t.expression = f.value ->> 'expression'
           and t.timezone = f.value ->> 'timezone' and t.end_at is f.value ->> 'end_at'
           and (f.value ->> 'fire_at' is null or w.last_version = 0
                or exists (select 1 from runs r
                            where r.workflow_id = t.workflow_id and r.idempotency_key = f.value ->> 'key'))) as moved
 where cron_triggers.workflow_id = moved.workflow_id;
select r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
       r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at, r.idempotency_key,
       r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at, r.updated_at
  from json_each(:fires) as f cross join runs r on r.id = f.value ->> 'run_id';

-- name: set_webhook(workflow_id, methods, required_headers, required_query, secret_ref, secret_headers, secret_query, rate_limit, rate_window_seconds, actor, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
insert into webhook_triggers as t (workflow_id, methods, required_headers, required_query, secret_ref,
                                   secret_headers, secret_query, rate_limit, rate_window_seconds, window_number,
                                   window_count, created_at, created_by, updated_at)
select id, :methods, :required_headers, :required_query, :secret_ref, :secret_headers, :secret_query, :rate_limit,
       :rate_window_seconds, 0, 0, :now, :actor, :now
  from workflows
 where id = :workflow_id and is_archived = 0
    on conflict (workflow_id) do update
   set methods = excluded.methods, required_headers = excluded.required_headers,
       required_query = excluded.required_query, secret_ref = excluded.secret_ref,
       secret_headers = excluded.secret_headers, secret_query = excluded.secret_query,
       rate_limit = excluded.rate_limit, rate_window_seconds = excluded.rate_window_seconds,
       window_number = 0, window_count = 0, updated_at = excluded.updated_at;
update workflows
   set last_event = last_event + 1
 where id = :workflow_id and changes() = 1;
insert into workflow_events (workflow_id, number, actor, action, at, metadata)
select id, last_event, :actor, 'webhook_set', :now, '{}'
  from workflows
 where id = :workflow_id and changes() = 1;
select changes() = 1 as applied, 'archived' as found,
       t.workflow_id, t.methods, t.required_headers, t.required_query, t.secret_ref, t.secret_headers,
       t.secret_query, t.rate_limit, t.rate_window_seconds, t.created_at, t.created_by, t.updated_at
  from workflows w left join webhook_triggers t on t.workflow_id = w.id
 where w.id = :workflow_id;

-- name: get_webhook(workflow_id)^
select workflow_id, methods, required_headers, required_query, secret_ref, secret_headers, secret_query, rate_limit,
       rate_window_seconds, created_at, created_by, updated_at
  from webhook_triggers
 where workflow_id = :workflow_id;

-- name: delete_webhook(workflow_id, actor, now)$
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
delete from webhook_triggers
 where workflow_id = :workflow_id;
update workflows
   set last_event = last_event + 1
 where id = :workflow_id and changes() = 1;
insert into workflow_events (workflow_id, number, actor, action, at, metadata)
select id, last_event, :actor, 'webhook_deleted', :now, '{}'
  from workflows
 where id = :workflow_id and changes() = 1;
select changes() = 1 as deleted;

-- name: create_webhook_run(id, workflow_id, method, headers, query, inputs, idempotency_key, seconds, actor, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
insert into runs (id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata,
                  attempt, idempotency_key, last_event, created_at, updated_at)
select :id, w.id, v.id, 'pending', 'webhook',
       json_set(:inputs, '$.headers', json((select json_group_object(g.key, g.value)
                                              from json_each(:inputs, '$.headers') as g
                                             where g.key not in (select value from json_each(h.secret_headers)))),
                '$.query', json((select json_group_object(g.key, g.value)
                                   from json_each(:inputs, '$.query') as g
                                  where g.key not in (select value from json_each(h.secret_query))))),
       v.runnable_config, '[]', '[]', '{}', 1, :idempotency_key, 1, :now, :now
  from workflows w
  join webhook_triggers h on h.workflow_id = w.id
  join workflow_versions v
    on v.id = (select n.id from workflow_versions n where n.workflow_id = :workflow_id order by n.number desc limit 1)
 where w.id = :workflow_id and w.is_archived = 0
   and (h.rate_limit is null or h.window_number <> :seconds / h.rate_window_seconds or h.window_count < h.rate_limit)
   and case when not exists (select 1 from json_each(h.methods) as m where m.value = :method) then 'method'
            else coalesce(
                 (select min('header ' || need.key)
                    from json_each(h.required_headers) as need
                   where not exists (select 1 from json_each(:headers) as g
                                      where g.key = need.key and g.value = coalesce(need.value, g.value))),
                 (select min('query ' || need.key)
                    from json_each(h.required_query) as need
                   where not exists (select 1 from json_each(:query) as g
                                      where g.key = need.key and g.value = coalesce(need.value, g.value)))) end is null
    on conflict (workflow_id, idempotency_key) where idempotency_key is not null do nothing;
insert into run_events (run_id, number, actor, action, at, metadata)
select :id, 1, :actor, 'created', :now, '{}'
 where changes() = 1;
update webhook_triggers
   set window_number = :seconds / rate_window_seconds,
       window_count = case window_number when :seconds / rate_window_seconds then window_count + 1 else 1 end
 where workflow_id = :workflow_id and rate_limit is not null and changes() = 1;
select h.found is null and r.id is not null as applied,
       case when h.workflow_id is null then 'webhook' when h.found is not null then h.found
            when w.is_archived then 'archived' when w.last_version = 0 then 'version'
            else 'rate ' || h.rate_window_seconds end as found,
       r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
       r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at, r.idempotency_key,
       r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at, r.updated_at
  from workflows w
  left join (
       select h.workflow_id, h.rate_window_seconds,
              case when not exists (select 1 from json_each(h.methods) as m where m.value = :method) then 'method'
                   else coalesce(
                        (select min('header ' || need.key)
                           from json_each(h.required_headers) as need
                          where not exists (select 1 from json_each(:headers) as g
                                             where g.key = need.key and g.value = coalesce(need.value, g.value))),
                        (select min('query ' || need.key)
                           from json_each(h.required_query) as need
                          where not exists (select 1 from json_each(:query) as g
                                             where g.key = need.key and g.value = coalesce(need.value, g.value))))
              end as found
         from webhook_triggers h
        where h.workflow_id = :workflow_id) h on h.workflow_id = w.id
  left join runs r
    on r.id = coalesce((select k.id from runs k
                         where k.workflow_id = :workflow_id and k.idempotency_key = :idempotency_key), :id)
   and h.workflow_id is not null
 where w.id = :workflow_id;

-- name: set_retry_policy(workflow_id, max_attempts, initial_delay_seconds, backoff_factor, max_delay_seconds, jitter_factor, actor, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
insert into retry_policies as t (workflow_id, max_attempts, initial_delay_seconds, backoff_factor, max_delay_seconds,
                                 jitter_factor, created_at, created_by, updated_at)
select id, :max_attempts, :initial_delay_seconds, :backoff_factor, :max_delay_seconds, :jitter_factor, :now,
       :actor, :now
  from workflows
 where id = :workflow_id and is_archived = 0
    on conflict (workflow_id) do update
   set max_attempts = excluded.max_attempts, initial_delay_seconds = excluded.initial_delay_seconds,
       backoff_factor = excluded.backoff_factor, max_delay_seconds = excluded.max_delay_seconds,
       jitter_factor = excluded.jitter_factor, updated_at = excluded.updated_at;
update workflows
   set last_event = last_event + 1
 where id = :workflow_id and changes() = 1;
insert into workflow_events (workflow_id, number, actor, action, at, metadata)
select id, last_event, :actor, 'retry_policy_set', :now, '{}'
  from workflows
 where id = :workflow_id and changes() = 1;
select changes() = 1 as applied, 'archived' as found,
       t.workflow_id, t.max_attempts, t.initial_delay_seconds, t.backoff_factor, t.max_delay_seconds,
       t.jitter_factor, t.created_at, t.created_by, t.updated_at
  from workflows w left join retry_policies t on t.workflow_id = w.id
 where w.id = :workflow_id;

-- name: get_retry_policy(workflow_id)^
select t.workflow_id is not null as applied, 'default' as found,
       t.workflow_id, t.max_attempts, t.initial_delay_seconds, t.backoff_factor, t.max_delay_seconds,
       t.jitter_factor, t.created_at, t.created_by, t.updated_at
  from workflows w left join retry_policies t on t.workflow_id = w.id
 where w.id = :workflow_id;

-- name: get_failed_run(run_id)^
select r.status, r.attempt, n.id is not null as is_retried, p.max_attempts, p.initial_delay_seconds, p.backoff_factor,
       p.max_delay_seconds, p.jitter_factor
  from runs r
  left join retry_policies p on p.workflow_id = r.workflow_id
  left join runs n on n.retry_of = r.id
 where r.id = :run_id;

-- name: create_retry(id, run_id, retry_at, actor, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
insert into runs (id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata,
                  name, attempt, retry_of, retry_at, last_event, created_at, updated_at)
select :id, s.workflow_id, s.version_id, 'pending', s.triggered_by, s.inputs, s.runnable_config, s.tags, s.callbacks,
       s.metadata, s.name, s.attempt + 1, s.id, :retry_at, 1, :now, :now
  from runs s join workflows w on w.id = s.workflow_id
 where s.id = :run_id and s.status = 'failed' and w.is_archived = 0
    on conflict (retry_of) where retry_of is not null do nothing;
insert into run_events (run_id, number, actor, action, at, metadata)
select :id, 1, :actor, 'created', :now, '{}'
 where changes() = 1;
select r.id is not null as applied, case s.status when 'failed' then 'archived' else s.status end as found,
       r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
       r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at, r.idempotency_key,
       r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at, r.updated_at
  from runs s left join runs r on r.retry_of = s.id
 where s.id = :run_id;

-- name: create_manual_runs(workflow_id, items, triggered_by, actor, now)
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
with n (id) as (
    select id from workflow_versions where workflow_id = :workflow_id order by number desc limit 1
)
insert into runs (id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata,
                  attempt, last_event, created_at, updated_at)
select i.value ->> 'id', w.id, v.id, 'pending', :triggered_by, i.value -> 'inputs', v.runnable_config, '[]', '[]', '{}',
       1, 1, :now, :now
  from workflows w
 cross join json_each(:items) as i
 cross join workflow_versions v
    on v.workflow_id = w.id and v.id = coalesce(i.value ->> 'version_id', (select id from n))
 where w.id = :workflow_id and w.is_archived = 0
   and not exists (
       select 1
         from json_each(:items) as i
        where not exists (
              select 1
                from workflow_versions v
               where v.workflow_id = :workflow_id
                 and v.id = coalesce(i.value ->> 'version_id', (select id from n))));
insert into run_events (run_id, number, actor, action, at, metadata)
select r.id, 1, :actor, 'created', :now, '{}'
  from json_each(:items) as i cross join runs r on r.id = i.value ->> 'id';
with n (id) as (
    select id from workflow_versions where workflow_id = :workflow_id order by number desc limit 1
)
select r.id is not null as applied,
       case when w.is_archived then 'archived'
            else 'version ' || coalesce(
       (select i.value ->> 'version_id'
         from json_each(:items) as i
        where not exists (
              select 1
                from workflow_versions v
               where v.workflow_id = :workflow_id
                 and v.id = coalesce(i.value ->> 'version_id', (select id from n)))
        order by i.key
        limit 1), 'latest') end as found,
       r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
       r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at, r.idempotency_key,
       r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at, r.updated_at
  from workflows w left join runs r on r.id in (select i.value ->> 'id' from json_each(:items) as i)
 where w.id = :workflow_id
 order by r.id;

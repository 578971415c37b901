-- Triggers: what makes runs. One row for each workflow and kind: a webhook, a schedule, a policy of retries.
-- What decides whether there is a run stands in the statement that makes it: the time of the next fire, the key of a
-- request, the count of a window, the run that is retried.
-- Grows to about: workflows 1e5 of each kind.

-- name: set_cron(workflow_id, expression, timezone, allow_overlapping, start_at, end_at, next_fire_at, actor, now)^
-- Make a workflow's schedule, or replace it. A fire that is due stays due if the times are the same as before. Refused
-- with 'archived'.
-- params: workflow_id uuid, expression text, timezone text, allow_overlapping bool, start_at timestamptz?,
--         end_at timestamptz?, next_fire_at timestamptz?, actor text, now timestamptz
-- returns: Applied[Cron]
-- class: point
with l as (
    select id, case when is_archived then 'archived' end as found from workflows where id = :workflow_id for update
), p as (
    update workflows w
       set last_event = w.last_event + 1
      from l
     where w.id = l.id and l.found is null
    returning w.id, w.last_event
), t as (
    insert into cron_triggers as t (workflow_id, expression, timezone, allow_overlapping, start_at, end_at, next_fire_at,
                                    created_at, created_by, updated_at)
    select p.id, :expression, :timezone, :allow_overlapping, :start_at, :end_at, :next_fire_at, :now, :actor, :now
      from p
        on conflict (workflow_id) do update
       set expression = excluded.expression, timezone = excluded.timezone,
           allow_overlapping = excluded.allow_overlapping, start_at = excluded.start_at, end_at = excluded.end_at,
           next_fire_at = case when t.expression = excluded.expression and t.timezone = excluded.timezone
                                and t.start_at is not distinct from excluded.start_at
                                and t.end_at is not distinct from excluded.end_at
                               then t.next_fire_at else excluded.next_fire_at end,
           updated_at = excluded.updated_at
    returning t.workflow_id, t.expression, t.timezone, t.allow_overlapping, t.start_at, t.end_at, t.next_fire_at,
              t.last_fired_at, t.created_at, t.created_by, t.updated_at
), e as (
    insert into workflow_events (workflow_id, number, actor, action, at, metadata)
    select id, last_event, :actor, 'cron_set', :now,
           jsonb_build_object('expression', :expression::text, 'timezone', :timezone::text)
      from p
)
select t.workflow_id is not null as applied, l.found,
       t.workflow_id, t.expression, t.timezone, t.allow_overlapping, t.start_at, t.end_at, t.next_fire_at,
       t.last_fired_at, t.created_at, t.created_by, t.updated_at
  from l left join t on true;

-- name: get_cron(workflow_id)^
-- A workflow's schedule.
-- params: workflow_id uuid
-- returns: Cron
-- class: point
select workflow_id, expression, timezone, allow_overlapping, start_at, end_at, next_fire_at, last_fired_at, created_at,
       created_by, updated_at
  from cron_triggers
 where workflow_id = :workflow_id;

-- name: delete_cron(workflow_id, actor, now)$
-- Take a workflow's schedule away. False if there was none.
-- params: workflow_id uuid, actor text, now timestamptz
-- returns: bool
-- class: point
with l as (
    select id from workflows where id = :workflow_id for update
), d as (
    delete from cron_triggers t using l where t.workflow_id = l.id returning t.workflow_id
), p as (
    update workflows w
       set last_event = w.last_event + 1
      from d
     where w.id = d.workflow_id
    returning w.id, w.last_event
), e as (
    insert into workflow_events (workflow_id, number, actor, action, at, metadata)
    select id, last_event, :actor, 'cron_deleted', :now, '{}' from p
)
select exists (select from d) as deleted;

-- name: list_due_crons(now, limit)
-- Schedules to look at: a fire is due, and no unfinished run is in its way. The longest due first.
-- params: now timestamptz, limit int
-- returns: Cron
-- class: page
select t.workflow_id, t.expression, t.timezone, t.allow_overlapping, t.start_at, t.end_at, t.next_fire_at,
       t.last_fired_at, t.created_at, t.created_by, t.updated_at
  from cron_triggers t
 where t.next_fire_at <= :now
   and (t.allow_overlapping
        or (select count(*)
              from runs u
             where u.workflow_id = t.workflow_id and u.triggered_by = 'cron' and u.completed_at is null) = 0)
 order by t.next_fire_at, t.workflow_id
 limit :limit;

-- name: create_cron_runs(fires, actor, now)
-- Move schedules on, each from the time it was read with, and make a run of the latest version for each that fires; a
-- fire is null where none is due yet. Left out: what was moved or changed since, or is being changed now; what is
-- archived; what has an unfinished run and may not overlap. The run's idempotency key is the fire's own, so that it
-- cannot fire twice even if its schedule is set back.
-- params: fires json, actor text, now timestamptz
-- returns: Run
-- class: batch
-- plan: rows 40
with f as (
    select workflow_id, seen_at, expression, timezone, end_at, fire_at, next_at, run_id, key, inputs
      from jsonb_to_recordset(:fires) as f (
               workflow_id uuid, seen_at timestamptz, expression text, timezone text, end_at timestamptz,
               fire_at timestamptz, next_at timestamptz, run_id uuid, key text, inputs jsonb)
), w as (
    select w.id from f join workflows w on w.id = f.workflow_id where not w.is_archived for share of w skip locked
), t as (
    select t.workflow_id, f.fire_at, f.next_at, f.run_id, f.key, f.inputs
      from f
      join w on w.id = f.workflow_id
      join cron_triggers t on t.workflow_id = f.workflow_id
     where t.next_fire_at = f.seen_at and t.expression = f.expression and t.timezone = f.timezone
       and t.end_at is not distinct from f.end_at
       and (f.fire_at is null or t.allow_overlapping
            or not exists (select from runs u
                            where u.workflow_id = t.workflow_id and u.triggered_by = 'cron' and u.completed_at is null))
       for update of t skip locked
), r as (
    insert into runs as r (id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks,
                           metadata, attempt, idempotency_key, last_event, created_at, updated_at)
    select t.run_id, t.workflow_id, v.id, 'pending', 'cron', t.inputs, v.runnable_config, '[]', '[]', '{}', 1, t.key,
           1, :now, :now
      from t
      join workflow_versions v
        on v.workflow_id = t.workflow_id
       and v.number = (select max(n.number) from workflow_versions n where n.workflow_id = t.workflow_id)
     where t.fire_at is not null
        on conflict (workflow_id, idempotency_key) where idempotency_key is not null do nothing
    returning r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
              r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at,
              r.idempotency_key, r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at,
              r.updated_at
), e as (
    insert into run_events (run_id, number, actor, action, at, metadata)
    select id, 1, :actor, 'created', :now, '{}' from r
), u as (
    update cron_triggers c
       set next_fire_at = t.next_at, last_fired_at = coalesce(t.fire_at, c.last_fired_at)
      from t
     where c.workflow_id = t.workflow_id
)
select id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata, name,
       output, error, attempt, retry_of, retry_at, idempotency_key, lease_owner, lease_expires_at, created_at,
       started_at, completed_at, updated_at
  from r;

-- name: set_webhook(workflow_id, methods, required_headers, required_query, secret_ref, secret_headers, secret_query, rate_limit, rate_window_seconds, actor, now)^
-- Make a workflow's webhook, or replace it; its count of requests begins anew. Refused with 'archived'.
-- params: workflow_id uuid, methods json, required_headers json, required_query json, secret_ref text?,
--         secret_headers json, secret_query json, rate_limit int?, rate_window_seconds int?, actor text, now timestamptz
-- returns: Applied[Webhook]
-- class: point
with l as (
    select id, case when is_archived then 'archived' end as found from workflows where id = :workflow_id for update
), p as (
    update workflows w
       set last_event = w.last_event + 1
      from l
     where w.id = l.id and l.found is null
    returning w.id, w.last_event
), t as (
    insert into webhook_triggers as t (workflow_id, methods, required_headers, required_query, secret_ref,
                                       secret_headers, secret_query, rate_limit, rate_window_seconds, window_number,
                                       window_count, created_at, created_by, updated_at)
    select p.id, :methods, :required_headers, :required_query, :secret_ref, :secret_headers, :secret_query, :rate_limit,
           :rate_window_seconds, 0, 0, :now, :actor, :now
      from p
        on conflict (workflow_id) do update
       set methods = excluded.methods, required_headers = excluded.required_headers,
           required_query = excluded.required_query, secret_ref = excluded.secret_ref,
           secret_headers = excluded.secret_headers, secret_query = excluded.secret_query,
           rate_limit = excluded.rate_limit, rate_window_seconds = excluded.rate_window_seconds,
           window_number = 0, window_count = 0, updated_at = excluded.updated_at
    returning t.workflow_id, t.methods, t.required_headers, t.required_query, t.secret_ref, t.secret_headers,
              t.secret_query, t.rate_limit, t.rate_window_seconds, t.created_at, t.created_by, t.updated_at
), e as (
    insert into workflow_events (workflow_id, number, actor, action, at, metadata)
    select id, last_event, :actor, 'webhook_set', :now, '{}'
      from p
)
select t.workflow_id is not null as applied, l.found,
       t.workflow_id, t.methods, t.required_headers, t.required_query, t.secret_ref, t.secret_headers,
       t.secret_query, t.rate_limit, t.rate_window_seconds, t.created_at, t.created_by, t.updated_at
  from l left join t on true;

-- name: get_webhook(workflow_id)^
-- A workflow's webhook.
-- params: workflow_id uuid
-- returns: Webhook
-- class: point
select workflow_id, methods, required_headers, required_query, secret_ref, secret_headers, secret_query, rate_limit,
       rate_window_seconds, created_at, created_by, updated_at
  from webhook_triggers
 where workflow_id = :workflow_id;

-- name: delete_webhook(workflow_id, actor, now)$
-- Take a workflow's webhook away. False if there was none.
-- params: workflow_id uuid, actor text, now timestamptz
-- returns: bool
-- class: point
with l as (
    select id from workflows where id = :workflow_id for update
), d as (
    delete from webhook_triggers t using l where t.workflow_id = l.id returning t.workflow_id
), p as (
    update workflows w
       set last_event = w.last_event + 1
      from d
     where w.id = d.workflow_id
    returning w.id, w.last_event
), e as (
    insert into workflow_events (workflow_id, number, actor, action, at, metadata)
    select id, last_event, :actor, 'webhook_deleted', :now, '{}' from p
)
select exists (select from d) as deleted;

-- name: create_webhook_run(id, workflow_id, method, headers, query, inputs, idempotency_key, seconds, actor, now)^
-- A run of the latest version for a request, without what the webhook calls secret; the first run if the idempotency key
-- was used before. seconds: since 1970. Refused with 'webhook' if there is none; with 'method', or 'header' or 'query'
-- and the name of what is missing; with 'archived'; with 'version' if there is none; with 'rate' and the seconds of
-- the window that is full.
-- params: id uuid, workflow_id uuid, method text, headers json, query json, inputs json, idempotency_key text?,
--         seconds int, actor text, now timestamptz
-- returns: Applied[Run]
-- class: point
with w as (
    select id, is_archived, last_version from workflows where id = :workflow_id for share
), h as (
    select h.workflow_id, h.secret_headers, h.secret_query, h.rate_limit, h.rate_window_seconds,
           case when not h.methods @> to_jsonb(:method::text) then 'method'
                else coalesce((select min('header ' || need.key collate "C")
                                 from jsonb_each(h.required_headers) as need
                                where case need.value when 'null' then (:headers::jsonb -> need.key) is null
                                      else (:headers::jsonb -> need.key) is distinct from need.value end),
                              (select min('query ' || need.key collate "C")
                                 from jsonb_each(h.required_query) as need
                                where case need.value when 'null' then (:query::jsonb -> need.key) is null
                                      else (:query::jsonb -> need.key) is distinct from need.value end)) end as found
      from webhook_triggers h join w on w.id = h.workflow_id
), o as (
    select version_id from runs where workflow_id = :workflow_id and idempotency_key = :idempotency_key
), c as (
    update webhook_triggers t
       set window_number = :seconds / t.rate_window_seconds,
           window_count = case t.window_number when :seconds / t.rate_window_seconds then t.window_count + 1 else 1 end
      from h cross join w
     where t.workflow_id = h.workflow_id and h.found is null and not w.is_archived and w.last_version > 0
       and not exists (select from o)
       and (t.window_number <> :seconds / t.rate_window_seconds or t.window_count < t.rate_limit)
    returning t.workflow_id
), v as (
    select v.id, v.runnable_config
      from workflow_versions v
     where v.workflow_id = :workflow_id
       and v.id = coalesce((select version_id from o),
                           (select n.id from workflow_versions n where n.workflow_id = :workflow_id
                             order by n.number desc limit 1))
), r as (
    insert into runs as r (id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks,
                           metadata, attempt, idempotency_key, last_event, created_at, updated_at)
    select :id, w.id, v.id, 'pending', 'webhook',
           jsonb_set(jsonb_set(:inputs, '{headers}', (:inputs::jsonb -> 'headers')
                                                      - array(select jsonb_array_elements_text(h.secret_headers))),
                     '{query}', (:inputs::jsonb -> 'query') - array(select jsonb_array_elements_text(h.secret_query))),
           v.runnable_config, '[]', '[]', '{}', 1, :idempotency_key, 1, :now, :now
      from w cross join h cross join v
     where h.found is null
       and (exists (select from o)
            or not w.is_archived and (h.rate_limit is null or exists (select from c)))
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
select r.id is not null as applied,
       case when h.workflow_id is null then 'webhook' when h.found is not null then h.found
            when w.is_archived then 'archived' when not exists (select from v) then 'version'
            else 'rate ' || h.rate_window_seconds end as found,
       r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
       r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at, r.idempotency_key,
       r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at, r.updated_at
  from w left join h on true left join r on true;

-- name: set_retry_policy(workflow_id, max_attempts, initial_delay_seconds, backoff_factor, max_delay_seconds, jitter_factor, actor, now)^
-- Make a workflow's policy of retries, or replace it. Refused with 'archived'.
-- params: workflow_id uuid, max_attempts int, initial_delay_seconds float, backoff_factor float,
--         max_delay_seconds float?, jitter_factor float, actor text, now timestamptz
-- returns: Applied[RetryPolicy]
-- class: point
with l as (
    select id, case when is_archived then 'archived' end as found from workflows where id = :workflow_id for update
), p as (
    update workflows w
       set last_event = w.last_event + 1
      from l
     where w.id = l.id and l.found is null
    returning w.id, w.last_event
), t as (
    insert into retry_policies as t (workflow_id, max_attempts, initial_delay_seconds, backoff_factor, max_delay_seconds,
                                     jitter_factor, created_at, created_by, updated_at)
    select p.id, :max_attempts, :initial_delay_seconds, :backoff_factor, :max_delay_seconds, :jitter_factor, :now,
           :actor, :now
      from p
        on conflict (workflow_id) do update
       set max_attempts = excluded.max_attempts, initial_delay_seconds = excluded.initial_delay_seconds,
           backoff_factor = excluded.backoff_factor, max_delay_seconds = excluded.max_delay_seconds,
           jitter_factor = excluded.jitter_factor, updated_at = excluded.updated_at
    returning t.workflow_id, t.max_attempts, t.initial_delay_seconds, t.backoff_factor, t.max_delay_seconds,
              t.jitter_factor, t.created_at, t.created_by, t.updated_at
), e as (
    insert into workflow_events (workflow_id, number, actor, action, at, metadata)
    select id, last_event, :actor, 'retry_policy_set', :now, '{}'
      from p
)
select t.workflow_id is not null as applied, l.found,
       t.workflow_id, t.max_attempts, t.initial_delay_seconds, t.backoff_factor, t.max_delay_seconds,
       t.jitter_factor, t.created_at, t.created_by, t.updated_at
  from l left join t on true;

-- name: get_retry_policy(workflow_id)^
-- A workflow's policy of retries; 'default' if none was set.
-- params: workflow_id uuid
-- returns: Applied[RetryPolicy]
-- class: point
select t.workflow_id is not null as applied, 'default' as found,
       t.workflow_id, t.max_attempts, t.initial_delay_seconds, t.backoff_factor, t.max_delay_seconds,
       t.jitter_factor, t.created_at, t.created_by, t.updated_at
  from workflows w left join retry_policies t on t.workflow_id = w.id
 where w.id = :workflow_id;

-- name: get_failed_run(run_id)^
-- What decides whether and when a run is retried. Its workflow's policy is null if none was set.
-- params: run_id uuid
-- returns: FailedRun
-- class: point
select r.status, r.attempt, n.id is not null as is_retried, p.max_attempts, p.initial_delay_seconds, p.backoff_factor,
       p.max_delay_seconds, p.jitter_factor
  from runs r
  left join retry_policies p on p.workflow_id = r.workflow_id
  left join runs n on n.retry_of = r.id
 where r.id = :run_id;

-- name: create_retry(id, run_id, retry_at, actor, now)^
-- A pending run that does a failed one again from a time on; the first such run if there is one. Refused with the state
-- found if that is not failed, or with 'archived'.
-- params: id uuid, run_id uuid, retry_at timestamptz, actor text, now timestamptz
-- returns: Applied[Run]
-- class: point
with s as (
    select id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks, metadata, name,
           attempt
      from runs
     where id = :run_id
), w as (
    select w.id, w.is_archived from workflows w join s on s.workflow_id = w.id for share of w
), o as (
    select id from runs where retry_of = :run_id
), r as (
    insert into runs as r (id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks,
                           metadata, name, attempt, retry_of, retry_at, last_event, created_at, updated_at)
    select :id, s.workflow_id, s.version_id, 'pending', s.triggered_by, s.inputs, s.runnable_config, s.tags, s.callbacks,
           s.metadata, s.name, s.attempt + 1, s.id, :retry_at, 1, :now, :now
      from s join w on w.id = s.workflow_id
     where s.status = 'failed' and (not w.is_archived or exists (select from o))
        on conflict (retry_of) where retry_of is not null
        do update set retry_of = excluded.retry_of
    returning r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
              r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at,
              r.idempotency_key, r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at,
              r.updated_at
), e as (
    insert into run_events (run_id, number, actor, action, at, metadata)
    select id, 1, :actor, 'created', :now, '{}' from r where id = :id
)
select r.id is not null as applied, case s.status when 'failed' then 'archived' else s.status end as found,
       r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
       r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at, r.idempotency_key,
       r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at, r.updated_at
  from s left join r on true;

-- name: create_manual_runs(workflow_id, items, triggered_by, actor, now)
-- A pending run for each item {id, version_id, inputs}, of the latest version where version_id is null: all of them, or
-- none and one row, refused with 'archived', or with 'version' and the one that the workflow has not.
-- params: workflow_id uuid, items json, triggered_by text, actor text, now timestamptz
-- returns: Applied[Run]
-- class: batch
-- plan: rows 40
with w as (
    select id, is_archived from workflows where id = :workflow_id for share
), i as (
    select i.number, (i.item ->> 'id')::uuid as id, (i.item ->> 'version_id')::uuid as version_id,
           i.item -> 'inputs' as inputs
      from jsonb_array_elements(:items) with ordinality as i (item, number)
), n as (
    select id from workflow_versions where workflow_id = :workflow_id order by number desc limit 1
), m as materialized (
    select id, workflow_id, runnable_config
      from workflow_versions
     where id = any (array(select coalesce(i.version_id, n.id) from i left join n on true))
), v as (
    select i.id, m.id as version_id, m.runnable_config, i.inputs
      from i join m on m.id = coalesce(i.version_id, (select id from n)) and m.workflow_id = :workflow_id
), r as (
    insert into runs as r (id, workflow_id, version_id, status, triggered_by, inputs, runnable_config, tags, callbacks,
                           metadata, attempt, last_event, created_at, updated_at)
    select v.id, w.id, v.version_id, 'pending', :triggered_by, v.inputs, v.runnable_config, '[]', '[]', '{}', 1, 1, :now,
           :now
      from w cross join v
     where not w.is_archived and (select count(*) from v) = (select count(*) from i)
    returning r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
              r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at,
              r.idempotency_key, r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at,
              r.updated_at
), e as (
    insert into run_events (run_id, number, actor, action, at, metadata)
    select id, 1, :actor, 'created', :now, '{}' from r
)
select r.id is not null as applied,
       case when w.is_archived then 'archived'
            else 'version ' || coalesce((select i.version_id::text
                                           from i
                                          where i.id not in (select id from v)
                                          order by i.number
                                          limit 1), 'latest') end as found,
       r.id, r.workflow_id, r.version_id, r.status, r.triggered_by, r.inputs, r.runnable_config, r.tags,
       r.callbacks, r.metadata, r.name, r.output, r.error, r.attempt, r.retry_of, r.retry_at, r.idempotency_key,
       r.lease_owner, r.lease_expires_at, r.created_at, r.started_at, r.completed_at, r.updated_at
  from w left join r on true
 order by r.id;

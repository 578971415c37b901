-- The data that plans are recorded on, the same rows as seed.sqlite.sql gives. :scale is 1 or 10.
-- Half of the runs belong to five heavy workflows, the other half to all others; workflow 1 has most versions and events.
-- Ids end in a number: workflow …0001, version …(number of its workflow × 100000 + its own number), run …0001.

insert into dal_schema_migrations (version, name, sha256, applied_at, duration_ms, app_version)
select n, 'migration', '00', timestamptz '2026-01-01T00:00:00Z', 1, '1'
  from generate_series(1, 10) as n;

insert into workflows (id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at,
                       published_by, revision, last_version, last_event, created_at, created_by, updated_at)
select ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
       case when n % 10 = 0 then 'retired-' || ((n / 10) % (25 * :scale)) when n % 4 <> 3 then 'flow-' || n end,
       'Workflow ' || n, 'workflow-' || n, case when n % 3 = 0 then 'What workflow ' || n || ' does' end,
       jsonb_build_array('team-' || (n % 2), 'topic-' || (n % 50), 'owner-' || n), 'personal',
       n % 10 = 0, n % 7 = 0 and n % 10 <> 0,
       case when n % 7 = 0 and n % 10 <> 0 then timestamptz '2026-01-20T00:00:00Z' end,
       case when n % 7 = 0 and n % 10 <> 0 then 'user-1' end,
       1, case when n = 1 then 300 * :scale else 2 end, case when n = 1 then 500 * :scale else 3 end,
       timestamptz '2026-01-01T00:00:00Z' + n * interval '1 minute', 'user-' || (n % 40),
       timestamptz '2026-01-01T00:00:00Z' + n * interval '1 minute'
  from generate_series(1, 1000 * :scale) as n;

insert into workflow_tags (workflow_id, tag, created_at, is_archived)
select w.id, tag.value, w.created_at, w.is_archived
  from workflows w cross join jsonb_array_elements_text(w.tags) as tag (value)
 order by w.id, tag.value;

insert into workflow_events (workflow_id, number, actor, action, at, metadata)
select w.id, e.number, 'user-' || (e.number % 40), case e.number when 1 then 'created' else 'version_created' end,
       w.created_at + e.number * interval '1 second', '{}'
  from workflows w cross join generate_series(1, w.last_event) as e (number)
 order by w.id, e.number;

insert into workflow_versions (id, workflow_id, number, graph, graph_hash, metadata, created_at, created_by, updated_at)
select ('01a00000-0000-7000-8000-' || lpad(to_hex(n::bigint * 100000 + v.number), 12, '0'))::uuid,
       ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, v.number,
       jsonb_build_object('nodes', jsonb_build_array('start', 'step-' || v.number, 'end')),
       'v1:' || lpad(to_hex(v.number % 100), 64, '0'), '{}',
       timestamptz '2026-01-15T00:00:00Z' + v.number * interval '1 second', 'user-' || (n % 40),
       timestamptz '2026-01-15T00:00:00Z' + v.number * interval '1 second'
  from generate_series(1, 1000 * :scale) as n
 cross join lateral generate_series(1, case when n = 1 then 300 * :scale else 2 end) as v (number);

insert into runs (id, workflow_id, version_id, status, triggered_by, inputs, tags, callbacks, metadata, idempotency_key,
                  last_event, created_at, started_at, completed_at, updated_at)
select ('01b00000-0000-7000-8000-' || lpad(to_hex(m), 12, '0'))::uuid,
       ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
       ('01a00000-0000-7000-8000-' || lpad(to_hex(n::bigint * 100000 + 1), 12, '0'))::uuid,
       status, 'user-' || (m % 40), jsonb_build_object('order', m), '[]', '[]', '{}',
       case when m % 3 = 0 then 'key-' || m end, case status when 'pending' then 1 when 'running' then 2 else 3 end,
       at, case when status <> 'pending' then at end, case when status not in ('pending', 'running') then at end, at
  from generate_series(1, 10000 * :scale) as m
 cross join lateral (
       select case when m % 2 = 0 then 1 + (m / 2) % 5 else 6 + (m / 2) % (1000 * :scale - 5) end as n,
              case when (m / 10) % 20 < 13 then 'succeeded' when (m / 10) % 20 < 16 then 'failed'
                   when (m / 10) % 20 < 17 then 'cancelled' when (m / 10) % 20 < 18 then 'running'
                   else 'pending' end as status,
              timestamptz '2026-02-01T00:00:00Z' + m * interval '1 second' as at) as r;

insert into run_events (run_id, number, actor, action, at, metadata)
select r.id, e.number, r.triggered_by,
       case e.number when 1 then 'created' when 2 then 'started' else r.status end, r.created_at, '{}'
  from runs r cross join generate_series(1, r.last_event) as e (number)
 order by r.id, e.number;

insert into idempotency_keys (key, request_hash, result, created_at)
select 'order-' || n, case when n % 2 = 0 then 'v1:' || lpad(to_hex(n % 100), 64, '0') end,
       jsonb_build_object('run', n), timestamptz '2026-02-01T00:00:00Z' + n * interval '1 second'
  from generate_series(1, 2000 * :scale) as n;

-- Some pending runs are retries that are not due, more of them in a larger seed; half of the running ones have a lease.
update runs
   set attempt = 2, retry_at = timestamptz '2026-03-01T00:00:01Z' + (created_at - timestamptz '2026-02-01T00:00:00Z')
 where status = 'pending' and id::text ~ '[048c]$';

update runs
   set lease_owner = 'worker-1', lease_expires_at = timestamptz '2026-02-27T00:00:00Z' + (created_at - timestamptz '2026-02-01T00:00:00Z')
 where status = 'running' and id::text ~ '[02468ace]$';

-- As many in a larger seed: schedules that the runs of their workflow hold back.
update runs
   set triggered_by = 'cron'
 where status in ('pending', 'running') and created_at < timestamptz '2026-02-01T00:20:00Z';

insert into cron_triggers (workflow_id, expression, timezone, allow_overlapping, start_at, end_at, next_fire_at,
                           last_fired_at, created_at, created_by, updated_at)
select ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, '*/5 * * * *', 'Europe/Berlin', n % 2 = 0, null,
       null, case when n % 3 = 0 then timestamptz '2026-02-28T00:00:00Z' + n * interval '1 second'
                  when n % 3 = 1 then timestamptz '2026-03-02T00:00:00Z' + n * interval '1 second' end, null,
       timestamptz '2026-02-01T00:00:00Z', 'user-' || (n % 40), timestamptz '2026-02-01T00:00:00Z'
  from generate_series(1, 1000 * :scale) as n
 where n % 10 <> 0;

insert into webhook_triggers (workflow_id, methods, required_headers, required_query, secret_ref, secret_headers,
                              secret_query, rate_limit, rate_window_seconds, window_number, window_count, created_at,
                              created_by, updated_at)
select ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, '["POST"]', '{"x-sig": null, "x-event": "push"}',
       '{}', 'secret-' || n, '["x-sig"]', '[]', case when n % 3 = 0 then 5 end, case when n % 3 = 0 then 60 end, 0, 0,
       timestamptz '2026-02-01T00:00:00Z', 'user-' || (n % 40), timestamptz '2026-02-01T00:00:00Z'
  from generate_series(1, 1000 * :scale) as n
 where n % 2 = 1;

insert into retry_policies (workflow_id, max_attempts, initial_delay_seconds, backoff_factor, max_delay_seconds,
                            jitter_factor, created_at, created_by, updated_at)
select ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 5, 10, 1.5, case when n % 3 = 0 then 600 end, 0,
       timestamptz '2026-02-01T00:00:00Z', 'user-' || (n % 40), timestamptz '2026-02-01T00:00:00Z'
  from generate_series(1, 1000 * :scale) as n
 where n % 2 = 1;

-- Half of the executions belong to five heavy workflows, the other half to all others; execution 170 has most steps.
-- Whatever the scale, the heavy workflow has 20 executions of each customer, and half of its own in production.

insert into executions (execution_id, workflow_id, inputs, runnable_config, tags, callbacks, metadata, run_name, status,
                        started_at, completed_at, error, trace_started_at, trace_completed_at, trace_last_span_at,
                        step_count)
select 'execution-' || m, 'flow-' || n, jsonb_build_object('order', m), null, '[]', '[]',
       jsonb_build_object('env', case m / 10 % 2 when 0 then 'production' else 'test' end, 'order', m,
                          'labels', jsonb_build_array(jsonb_build_object('name', 'label-' || (m % 7), 'value', m % 3)),
                          'customer', 'customer-' || ((m / 10) % (50 * :scale))),
       null, status, at, case when status <> 'running' then at + interval '1 minute' end,
       case when status in ('error', 'cancelled') then 'why' end, case when steps > 0 then at end,
       case when steps > 0 and status <> 'running' then at + interval '1 minute' end, case when steps > 0 then at end, steps
  from generate_series(1, 10000 * :scale) as m
 cross join lateral (
       select case when m % 2 = 0 then 1 + (m / 2) % 5 else 6 + (m / 2) % (1000 * :scale - 5) end as n,
              case when (m / 10) % 20 < 13 then 'completed' when (m / 10) % 20 < 16 then 'error'
                   when (m / 10) % 20 < 17 then 'cancelled' else 'running' end as status,
              case m when 170 then 5000 * :scale else m % 3 end as steps,
              timestamptz '2026-02-01T00:00:00Z' + m * interval '1 second' as at) as r;

insert into execution_steps (execution_id, idx, at, payload)
select x.execution_id, s.idx, x.started_at, jsonb_build_object('step', s.idx)
  from executions x cross join lateral generate_series(0, x.step_count - 1) as s (idx)
 order by x.execution_id, s.idx;

-- Service tokens. Of ten, one was revoked, and one was rotated into the one behind it; of fifty, two are of another
-- system; of a hundred, one has expired. Half of the audit chain is about the first, half of the refusals about nobody.

insert into service_tokens (key_id, name, name_key, kind, secret_hash, hash_alg, pepper_id, scopes, workspace_ids,
                            allowed_cidrs, rate_limit, created_at, created_by, expires_at, rotated_from, rotated_to,
                            overlap_until, revoked_at, revoked_by, revocation_reason)
select 't' || lpad(n::text, 11, '0'), 'Token ' || n - (n % 10 = 4)::int, 'token ' || n - (n % 10 = 4)::int, 'svc',
       convert_to(lpad(n::text, 32, '0'), 'UTF8'),
       case n % 50 when 7 then 'sha256-legacy' when 8 then 'hmac-sha256-legacy' else 'hmac-sha256' end,
       case n % 50 when 7 then null else case n % 3 when 0 then 'second' else 'first' end end, '["runs:read"]', '[]', null,
       null, at, 'user-' || (n % 40), case n % 100 when 11 then timestamptz '2026-02-01T00:00:00Z' end,
       case n % 10 when 4 then 't' || lpad((n - 1)::text, 11, '0') end,
       case n % 10 when 3 then 't' || lpad((n + 1)::text, 11, '0') end, case n % 10 when 3 then at end,
       case n % 10 when 0 then at end, case n % 10 when 0 then 'user-1' end, case n % 10 when 0 then 'lost' end
  from generate_series(1, 1000 * :scale) as n
 cross join lateral (select timestamptz '2026-01-01T00:00:00Z' + n * interval '1 minute' as at) as r;

insert into service_token_usage (key_id, first_used_at, last_used_at, last_ip, last_user_agent, use_count)
select 't' || lpad(n::text, 11, '0'), timestamptz '2026-02-01T00:00:00Z', timestamptz '2026-02-28T00:00:00Z', '10.0.0.1',
       'curl', n
  from generate_series(1, 1000 * :scale) as n
 where n % 2 = 0;

insert into service_token_refusals (minute_at, key_id, reason, refusals, first_at, last_at, last_ip, last_user_agent)
select at, case when n % 2 = 0 then '' else 't' || lpad((1 + (n / 2) % (100 * :scale))::text, 11, '0') end,
       case when n % 2 = 0 then 'unknown' else 'secret' end, n, at, at + interval '59 seconds', '10.0.0.1', 'curl'
  from generate_series(1, 5000 * :scale) as n
 cross join lateral (select timestamptz '2026-02-01T00:00:00Z' + n / 4 * interval '1 minute' as at) as r
    on conflict (minute_at, key_id, reason) do nothing;

insert into service_token_audit (number, key_id, action, actor, at, details, pepper_id, prev_hash, row_hash)
select n, 't' || lpad((case when n % 2 = 0 then 1 else 1 + (n / 2) % (1000 * :scale) end)::text, 11, '0'), 'minted',
       'user-' || (n % 40), timestamptz '2026-02-01T00:00:00Z' + n * interval '1 second', '{}', 'first',
       lpad((n - 1)::text, 64, '0'), lpad(n::text, 64, '0')
  from generate_series(1, 10000 * :scale) as n;

insert into service_token_chain (id, number, row_hash, pepper_id, seal)
values (1, 2000000, repeat('f', 64), 'first', '00');

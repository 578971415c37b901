-- The data that plans are recorded on, the same rows as seed.postgres.sql gives. :scale is 1 or 10.
-- Half of the runs belong to five heavy workflows, the other half to all others; workflow 1 has most versions and events.
-- Ids end in a number: workflow …0001, version …(number of its workflow × 100000 + its own number), run …0001.

insert into dal_schema_migrations (version, name, sha256, applied_at, duration_ms, app_version)
with recursive s (n) as (select 1 union all select n + 1 from s where n < 10)
select n, 'migration', '00', '2026-01-01T00:00:00.000000Z', 1, '1'
  from s;

insert into workflows (id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at,
                       published_by, revision, last_version, last_event, created_at, created_by, updated_at)
with recursive s (n) as (select 1 union all select n + 1 from s where n < 1000 * :scale)
select printf('01900000-0000-7000-8000-%012x', n),
       case when n % 10 = 0 then 'retired-' || ((n / 10) % (25 * :scale)) when n % 4 <> 3 then 'flow-' || n end,
       'Workflow ' || n, 'workflow-' || n, case when n % 3 = 0 then 'What workflow ' || n || ' does' end,
       json_array('team-' || (n % 2), 'topic-' || (n % 50), 'owner-' || n), 'personal',
       n % 10 = 0, n % 7 = 0 and n % 10 <> 0,
       case when n % 7 = 0 and n % 10 <> 0 then '2026-01-20T00:00:00.000000Z' end,
       case when n % 7 = 0 and n % 10 <> 0 then 'user-1' end,
       1, case when n = 1 then 300 * :scale else 2 end, case when n = 1 then 500 * :scale else 3 end,
       strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2026-01-01', n || ' minutes'), 'user-' || (n % 40),
       strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2026-01-01', n || ' minutes')
  from s;

insert into workflow_tags (workflow_id, tag, created_at, is_archived)
select w.id, tag.value, w.created_at, w.is_archived
  from workflows w cross join json_each(w.tags) as tag
 order by w.id, tag.value;

insert into workflow_events (workflow_id, number, actor, action, at, metadata)
with recursive e (id, at, number, last) as (
    select id, created_at, 1, last_event from workflows
     union all
    select id, at, number + 1, last from e where number < last
)
select id, number, 'user-' || (number % 40), case number when 1 then 'created' else 'version_created' end,
       strftime('%Y-%m-%dT%H:%M:%S.000000Z', at, number || ' seconds'), '{}'
  from e
 order by id, number;

insert into workflow_versions (id, workflow_id, number, graph, graph_hash, metadata, created_at, created_by, updated_at)
with recursive v (n, number) as (
    select 1, 1
     union all
    select case when number < case when n = 1 then 300 * :scale else 2 end then n else n + 1 end,
           case when number < case when n = 1 then 300 * :scale else 2 end then number + 1 else 1 end
      from v
     where n < 1000 * :scale or number < 2
)
select printf('01a00000-0000-7000-8000-%012x', n * 100000 + number), printf('01900000-0000-7000-8000-%012x', n), number,
       json_object('nodes', json_array('start', 'step-' || number, 'end')), printf('v1:%064x', number % 100), '{}',
       strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2026-01-15', number || ' seconds'), 'user-' || (n % 40),
       strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2026-01-15', number || ' seconds')
  from v;

insert into runs (id, workflow_id, version_id, status, triggered_by, inputs, tags, callbacks, metadata, idempotency_key,
                  last_event, created_at, started_at, completed_at, updated_at)
with recursive s (m) as (select 1 union all select m + 1 from s where m < 10000 * :scale),
r as (
    select m, case when m % 2 = 0 then 1 + (m / 2) % 5 else 6 + (m / 2) % (1000 * :scale - 5) end as n,
           case when (m / 10) % 20 < 13 then 'succeeded' when (m / 10) % 20 < 16 then 'failed'
                when (m / 10) % 20 < 17 then 'cancelled' when (m / 10) % 20 < 18 then 'running'
                else 'pending' end as status,
           strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2026-02-01', m || ' seconds') as at
      from s
)
select printf('01b00000-0000-7000-8000-%012x', m), printf('01900000-0000-7000-8000-%012x', n),
       printf('01a00000-0000-7000-8000-%012x', n * 100000 + 1),
       status, 'user-' || (m % 40), json_object('order', m), '[]', '[]', '{}',
       case when m % 3 = 0 then 'key-' || m end, case status when 'pending' then 1 when 'running' then 2 else 3 end,
       at, case when status <> 'pending' then at end, case when status not in ('pending', 'running') then at end, at
  from r;

insert into run_events (run_id, number, actor, action, at, metadata)
select r.id, e.value, r.triggered_by,
       case e.value when 1 then 'created' when 2 then 'started' else r.status end, r.created_at, '{}'
  from runs r cross join json_each('[1, 2, 3]') as e
 where e.value <= r.last_event
 order by r.id, e.value;

insert into idempotency_keys (key, request_hash, result, created_at)
with recursive s (n) as (select 1 union all select n + 1 from s where n < 2000 * :scale)
select 'order-' || n, case when n % 2 = 0 then printf('v1:%064x', n % 100) end, json_object('run', n),
       strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2026-02-01', n || ' seconds')
  from s;

-- Some pending runs are retries that are not due, more of them in a larger seed; half of the running ones have a lease.
update runs
   set attempt = 2,
       retry_at = strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2026-03-01T00:00:01',
                           (unixepoch(created_at) - unixepoch('2026-02-01')) || ' seconds')
 where status = 'pending' and id glob '*[048c]';

update runs
   set lease_owner = 'worker-1',
       lease_expires_at = strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2026-02-27',
                                   (unixepoch(created_at) - unixepoch('2026-02-01')) || ' seconds')
 where status = 'running' and id glob '*[02468ace]';

-- As many in a larger seed: schedules that the runs of their workflow hold back.
update runs
   set triggered_by = 'cron'
 where status in ('pending', 'running') and created_at < '2026-02-01T00:20:00.000000Z';

insert into cron_triggers (workflow_id, expression, timezone, allow_overlapping, start_at, end_at, next_fire_at,
                           last_fired_at, created_at, created_by, updated_at)
with recursive s (n) as (select 1 union all select n + 1 from s where n < 1000 * :scale)
select printf('01900000-0000-7000-8000-%012x', n), '*/5 * * * *', 'Europe/Berlin', n % 2 = 0, null, null,
       case when n % 3 = 0 then strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2026-02-28', n || ' seconds')
            when n % 3 = 1 then strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2026-03-02', n || ' seconds') end, null,
       '2026-02-01T00:00:00.000000Z', 'user-' || (n % 40), '2026-02-01T00:00:00.000000Z'
  from s
 where n % 10 <> 0;

insert into webhook_triggers (workflow_id, methods, required_headers, required_query, secret_ref, secret_headers,
                              secret_query, rate_limit, rate_window_seconds, window_number, window_count, created_at,
                              created_by, updated_at)
with recursive s (n) as (select 1 union all select n + 1 from s where n < 1000 * :scale)
select printf('01900000-0000-7000-8000-%012x', n), '["POST"]', '{"x-sig": null, "x-event": "push"}', '{}', 'secret-' || n,
       '["x-sig"]', '[]', case when n % 3 = 0 then 5 end, case when n % 3 = 0 then 60 end, 0, 0,
       '2026-02-01T00:00:00.000000Z', 'user-' || (n % 40), '2026-02-01T00:00:00.000000Z'
  from s
 where n % 2 = 1;

insert into retry_policies (workflow_id, max_attempts, initial_delay_seconds, backoff_factor, max_delay_seconds,
                            jitter_factor, created_at, created_by, updated_at)
with recursive s (n) as (select 1 union all select n + 1 from s where n < 1000 * :scale)
select printf('01900000-0000-7000-8000-%012x', n), 5, 10, 1.5, case when n % 3 = 0 then 600 end, 0,
       '2026-02-01T00:00:00.000000Z', 'user-' || (n % 40), '2026-02-01T00:00:00.000000Z'
  from s
 where n % 2 = 1;

-- Half of the executions belong to five heavy workflows, the other half to all others; execution 170 has most steps.
-- Whatever the scale, the heavy workflow has 20 executions of each customer, and half of its own in production.

insert into executions (execution_id, workflow_id, inputs, runnable_config, tags, callbacks, metadata, run_name, status,
                        started_at, completed_at, error, trace_started_at, trace_completed_at, trace_last_span_at,
                        step_count)
with recursive s (m) as (select 1 union all select m + 1 from s where m < 10000 * :scale),
r as (
    select m, case when m % 2 = 0 then 1 + (m / 2) % 5 else 6 + (m / 2) % (1000 * :scale - 5) end as n,
           case when (m / 10) % 20 < 13 then 'completed' when (m / 10) % 20 < 16 then 'error'
                when (m / 10) % 20 < 17 then 'cancelled' else 'running' end as status,
           case m when 170 then 5000 * :scale else m % 3 end as steps,
           strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2026-02-01', m || ' seconds') as at,
           strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2026-02-01', (m + 60) || ' seconds') as ended
      from s
)
select 'execution-' || m, 'flow-' || n, json_object('order', m), null, '[]', '[]',
       json_object('env', case m / 10 % 2 when 0 then 'production' else 'test' end, 'order', m,
                   'labels', json_array(json_object('name', 'label-' || (m % 7), 'value', m % 3)),
                   'customer', 'customer-' || ((m / 10) % (50 * :scale))),
       null, status, at, case when status <> 'running' then ended end,
       case when status in ('error', 'cancelled') then 'why' end, case when steps > 0 then at end,
       case when steps > 0 and status <> 'running' then ended end, case when steps > 0 then at end, steps
  from r;

-- Written out, like those of the checkpoints below, because the documents are alike and create_execution's way takes
-- twice as long.
insert into execution_terms (workflow_id, term, started_at, execution_id)
select x.workflow_id, t.value, x.started_at, x.execution_id
  from executions x
 cross join json_each(json_array(
       '{', '."labels"[', '."labels"[]{', '."env""' || (x.metadata ->> 'env'), '."order"#' || (x.metadata ->> 'order'),
       '."labels"[]."name""' || (x.metadata ->> '$.labels[0].name'),
       '."labels"[]."value"#' || (x.metadata ->> '$.labels[0].value'),
       '."customer""' || (x.metadata ->> 'customer'))) as t
 order by x.workflow_id, t.value, x.started_at, x.execution_id;

insert into execution_steps (execution_id, idx, at, payload)
with recursive s (execution_id, idx, at, count) as (
    select execution_id, 0, started_at, step_count from executions where step_count > 0
     union all
    select execution_id, idx + 1, at, count from s where idx + 1 < count
)
select execution_id, idx, at, json_object('step', idx)
  from s
 order by execution_id, idx;

-- Half of the checkpoints belong to five heavy workflows, the other half to all others.
-- Whatever the scale, the heavy workflow has 20 checkpoints of each study and bucket, and half of its own by grid search.

insert into checkpoints (id, workflow_id, config_version, runnable_config, metrics, metadata, artifact_url, created_at)
with recursive s (m) as (select 1 union all select m + 1 from s where m < 10000 * :scale),
r as (
    select m, case when m % 2 = 0 then 1 + (m / 2) % 5 else 6 + (m / 2) % (1000 * :scale - 5) end as n,
           case when m % 2 = 0 then (m / 2 + 4) / 5 else 1 + (m / 2) / (1000 * :scale - 5) end as version
      from s
)
select 'checkpoint-' || m, 'flow-' || n, version, json_object('model', 'small', 'trial', m),
       json_object('note', 'none', 'bucket', (m / 10) % (50 * :scale), 'accuracy', (m % 1000 * 7919 % 1000 + 0.5) / 1000),
       json_object('study', 'study-' || ((m / 10) % (50 * :scale)),
                   'labels', json_array(json_object('name', 'label-' || (m % 7), 'value', m % 3)),
                   'search', case m / 10 % 2 when 0 then 'grid' else 'random' end),
       null, strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2026-02-01', m || ' seconds')
  from r;

-- Written out, because the documents are alike and create_checkpoint's way takes three times as long.
insert into checkpoint_terms (workflow_id, term, config_version)
select c.workflow_id, t.value, c.config_version
  from checkpoints c
 cross join json_each(json_array(
       '{', '."metadata"{', '."metrics"{', '."metadata"."labels"[', '."metadata"."labels"[]{',
       '."metadata"."search""' || (c.metadata ->> 'search'), '."metadata"."study""' || (c.metadata ->> 'study'),
       '."metadata"."labels"[]."name""' || (c.metadata ->> '$.labels[0].name'),
       '."metadata"."labels"[]."value"#' || (c.metadata ->> '$.labels[0].value'),
       '."metrics"."accuracy"#' || printf('%.12e', c.metrics ->> 'accuracy'),
       '."metrics"."bucket"#' || (c.metrics ->> 'bucket'), '."metrics"."note""none')) as t
 order by c.workflow_id, t.value, c.config_version;

insert into checkpoint_heads (workflow_id, last_version, best_id)
select workflow_id, max(config_version), min(id) filter (where config_version = 1)
  from checkpoints
 group by workflow_id
 order by workflow_id;

insert into checkpoint_metrics (workflow_id, config_version, metric, value)
select c.workflow_id, c.config_version, e.key, e.value
  from checkpoints c cross join json_each(c.metrics) e
 where e.type in ('integer', 'real')
 order by c.workflow_id, c.config_version, e.key;

-- Service tokens. Of ten, one was revoked, and one was rotated into the one behind it; of fifty, two are of another
-- system; of a hundred, one has expired. Half of the audit chain is about the first, half of the refusals about nobody.

insert into service_tokens (key_id, name, name_key, kind, secret_hash, hash_alg, pepper_id, scopes, workspace_ids,
                            allowed_cidrs, rate_limit, created_at, created_by, expires_at, rotated_from, rotated_to,
                            overlap_until, revoked_at, revoked_by, revocation_reason)
with recursive s (n) as (select 1 union all select n + 1 from s where n < 1000 * :scale),
r as (select n, strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2026-01-01', n || ' minutes') as at from s)
select printf('t%011d', n), 'Token ' || (n - (n % 10 = 4)), 'token ' || (n - (n % 10 = 4)), 'svc',
       cast(printf('%032d', n) as blob),
       case n % 50 when 7 then 'sha256-legacy' when 8 then 'hmac-sha256-legacy' else 'hmac-sha256' end,
       case n % 50 when 7 then null else case n % 3 when 0 then 'second' else 'first' end end, '["runs:read"]', '[]', null,
       null, at, 'user-' || (n % 40), case n % 100 when 11 then '2026-02-01T00:00:00.000000Z' end,
       case n % 10 when 4 then printf('t%011d', n - 1) end, case n % 10 when 3 then printf('t%011d', n + 1) end,
       case n % 10 when 3 then at end, case n % 10 when 0 then at end, case n % 10 when 0 then 'user-1' end,
       case n % 10 when 0 then 'lost' end
  from r;

insert into service_token_usage (key_id, first_used_at, last_used_at, last_ip, last_user_agent, use_count)
with recursive s (n) as (select 1 union all select n + 1 from s where n < 1000 * :scale)
select printf('t%011d', n), '2026-02-01T00:00:00.000000Z', '2026-02-28T00:00:00.000000Z', '10.0.0.1', 'curl', n
  from s
 where n % 2 = 0;

insert into service_token_refusals (minute_at, key_id, reason, refusals, first_at, last_at, last_ip, last_user_agent)
with recursive s (n) as (select 1 union all select n + 1 from s where n < 5000 * :scale),
r as (
    select n, strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2026-02-01', (n / 4) || ' minutes') as at,
           strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2026-02-01', (n / 4) || ' minutes', '59 seconds') as last_at
      from s
)
select at, case when n % 2 = 0 then '' else printf('t%011d', 1 + (n / 2) % (100 * :scale)) end,
       case when n % 2 = 0 then 'unknown' else 'secret' end, n, at, last_at, '10.0.0.1', 'curl'
  from r
 where true
    on conflict (minute_at, key_id, reason) do nothing;

insert into service_token_audit (number, key_id, action, actor, at, details, pepper_id, prev_hash, row_hash)
with recursive s (n) as (select 1 union all select n + 1 from s where n < 10000 * :scale)
select n, printf('t%011d', case when n % 2 = 0 then 1 else 1 + (n / 2) % (1000 * :scale) end), 'minted',
       'user-' || (n % 40), strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2026-02-01', n || ' seconds'), '{}', 'first',
       printf('%064d', n - 1), printf('%064d', n)
  from s;

insert into service_token_chain (id, number, row_hash, pepper_id, seal)
values (1, 2000000, replace(hex(zeroblob(32)), '0', 'f'), 'first', '00');

-- The words of a workflow, as the store cuts them.

insert into workflow_texts (number, workflow_id, name_terms, description_terms, tag_terms)
with recursive s (n) as (select 1 union all select n + 1 from s where n < 1000 * :scale)
select n, printf('01900000-0000-7000-8000-%012x', n), 'nworkflow n' || n || ' tworkflow t' || n || ' ',
       case when n % 3 = 0 then 'twhat tworkflow t' || n || ' tdoes ' else '' end,
       'tteam t' || (n % 2) || ' ttopic t' || (n % 50) || ' towner t' || n || ' '
  from s;

-- Half of the threads belong to five heavy owners, the other half to all others. Thread 1000, of owner 1, has half of
-- the items. Whatever the scale, owner 1 has 20 threads of each customer, 20 with a needle in their title and 20 items with
-- one in their text. hemips is the key of owner 1's words; those of the others are made up.

insert into chat_threads (number, id, owner, title, title_terms, workflow_id, status, metadata, details, last_seq,
                          created_at, updated_at)
with recursive s (n) as (select 1 union all select n + 1 from s where n < 2000 * :scale),
t as (
    select n, case when n % 2 = 0 then 1 + (n / 2) % 5 else 6 + (n / 2) % (400 * :scale - 5) end as owner from s
)
select n, 'thread-' || n, 'owner-' || owner, 'Thread ' || n || case when n % (100 * :scale) = 0 then ' needle' else '' end,
       case owner when 1 then 'hemips' else printf('o%05d', owner) end || 'thread '
           || case owner when 1 then 'hemips' else printf('o%05d', owner) end || n
           || case when n % (100 * :scale) = 0 then ' hemipsneedle' else '' end,
       case when n % 5 < 3 then 'flow-' || (n / 10 % 3) end, '{"type": "active"}',
       json_object('env', case n / 10 % 2 when 0 then 'production' else 'test' end, 'order', n,
                   'labels', json_array(json_object('name', 'label-' || (n % 7), 'value', n % 3)),
                   'customer', 'customer-' || ((n / 10) % (10 * :scale))),
       '{}', case n when 1000 then 5003 * :scale else 3 end,
       strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2026-02-01', n || ' minutes'),
       strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2026-02-01', (n + 60) || ' minutes')
  from t;

insert into chat_thread_terms (owner, term, created_at, thread)
with recursive n (thread, path, type, value) as (
    select number, '', 'object', metadata from chat_threads
     union all
    select n.thread, n.path || case n.type when 'array' then '[]' else '.' || json_quote(c.key) end, c.type, c.value
      from n cross join json_each(n.value) as c
     where n.type in ('object', 'array')
)
select t.owner, n.path || case n.type when 'object' then '{' when 'array' then '['
                                      when 'text' then '"' || n.value else '#' || n.value end,
       t.created_at, t.number
  from n cross join chat_threads t on t.number = n.thread
 union all
select owner, '@' || workflow_id, created_at, number from chat_threads where workflow_id is not null;

insert into chat_items (number, id, thread_id, seq, type, item, body, pieces, created_at)
with recursive s (m) as (select 1 union all select m + 1 from s where m < 10000 * :scale),
i as (
    select m, case when m % 2 = 0 then 1000 else 1 + (m / 2) % (2000 * :scale) end as thread from s
)
select m, 'item-' || m, 'thread-' || thread, row_number() over (partition by thread order by m), 'user_message',
       '{"n": ' || m || '}', 'Message ' || m || ' about topic ' || (m % 50), 1,
       strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2026-02-01', m || ' seconds')
  from i;

insert into chat_texts (item, piece, owner, first, terms)
with t as (
    select i.number, t.owner, case t.owner when 'owner-1' then 'hemips' else printf('o%05d', substr(t.owner, 7)) end as k
      from chat_items i cross join chat_threads t on t.id = i.thread_id
)
select number, 0, owner, 1,
       k || 'message ' || k || number || ' ' || k || 'about ' || k || 'topic ' || k || (number % 50)
           || case when number / 10 % 2 = 0 then ' ' || k || 'common' else '' end
           || case when number % (500 * :scale) = 10 then ' ' || k || 'needle' else '' end
  from t
 order by number;

insert into chat_attachments (id, owner, thread_id, type, name, mime_type, details, storage_path, created_at)
with recursive s (n) as (select 1 union all select n + 1 from s where n < 500 * :scale)
select 'file-' || n, t.owner, case when n % 5 > 0 then t.id end, 'file', 'file-' || n || '.txt', 'text/plain', '{}',
       'files/' || n, t.created_at
  from s cross join chat_threads t on t.number = s.n;

-- In one piece each, as FTS5 makes them of its own accord in time.
insert into workflow_texts_fts (workflow_texts_fts) values ('optimize');
insert into chat_threads_fts (chat_threads_fts) values ('optimize');
insert into chat_texts_fts (chat_texts_fts) values ('optimize');

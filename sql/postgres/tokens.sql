-- Service tokens: who may call, how often they did, who was refused, and what was changed by whom.
-- A change is a row of the audit chain as well, whose digest the caller makes from that of the row before it. So the
-- caller says on which head it built; where another is found ('moved:' number ':' row_hash), nothing is done, and the
-- caller builds anew. The head is locked first: changes come one after the other, and do not deadlock.
-- Uses, refusals and renewed digests arrive in batches, apart from the changes.
-- Grows to about: tokens 1e5, usage 1e5, audit 1e6, refusals 1e6 rows.

-- name: create_token(key_id, name, name_key, kind, secret_hash, hash_alg, pepper_id, scopes, workspace_ids, allowed_cidrs, rate_limit, not_before, expires_at, actor, now, head_number, head_hash, entries, number, row_hash, sealed_by, seal)^
-- A new token, with its row of the audit chain. Refused with 'name', which another has that was neither revoked nor
-- rotated; with 'hash', which a token of another system has; or with the head that was found.
-- params: key_id text, name text, name_key text, kind text, secret_hash bytes, hash_alg text, pepper_id text?,
--         scopes json, workspace_ids json, allowed_cidrs json?, rate_limit int?, not_before timestamptz?,
--         expires_at timestamptz?, actor text, now timestamptz, head_number int, head_hash text, entries json,
--         number int, row_hash text, sealed_by text, seal text
-- returns: Applied[TokenRecord]
-- class: point
with c as (
    select number, row_hash from service_token_chain where id = 1 for update
), l as (
    select case when exists (select from service_tokens o
                              where o.name_key = :name_key and o.revoked_at is null and o.rotated_to is null)
                then 'name'
                when :hash_alg <> 'hmac-sha256' and exists (
                     select from service_tokens o
                      where o.secret_hash = :secret_hash and o.hash_alg <> 'hmac-sha256') then 'hash'
                when coalesce(c.number, 0) <> :head_number or coalesce(c.row_hash, :head_hash) <> :head_hash
                then 'moved:' || coalesce(c.number || ':' || c.row_hash, '') end as found
      from (values (1)) as o (id) left join c on true
), h as (
    insert into service_token_chain as k (id, number, row_hash, pepper_id, seal)
    select 1, :number, :row_hash, :sealed_by, :seal from l where found is null
        on conflict (id) do update set number = excluded.number, row_hash = excluded.row_hash,
                                       pepper_id = excluded.pepper_id, seal = excluded.seal
                                 where k.number = :head_number
    returning id
), t as (
    insert into service_tokens (key_id, name, name_key, kind, secret_hash, hash_alg, pepper_id, scopes, workspace_ids,
                                allowed_cidrs, rate_limit, created_at, created_by, not_before, expires_at)
    select :key_id, :name, :name_key, :kind, :secret_hash, :hash_alg, :pepper_id, :scopes, :workspace_ids,
           :allowed_cidrs, :rate_limit, :now, :actor, :not_before, :expires_at
      from h
    returning key_id, name, kind, scopes, workspace_ids, allowed_cidrs, rate_limit, created_at, created_by,
              not_before, expires_at, rotated_from, rotated_to, overlap_until, revoked_at, revoked_by,
              revocation_reason, hash_alg, pepper_id
), a as (
    insert into service_token_audit (number, key_id, action, actor, at, details, pepper_id, prev_hash, row_hash)
    select e.number, e.key_id, e.action, e.actor, e.at, e.details, e.pepper_id, e.prev_hash, e.row_hash
      from h cross join jsonb_to_recordset(:entries) as e (number bigint, key_id text, action text, actor text,
                                                           at timestamptz, details jsonb, pepper_id text,
                                                           prev_hash text, row_hash text)
)
select t.key_id is not null as applied, coalesce(l.found, 'moved:') as found,
       t.key_id, t.name, t.kind, t.scopes, t.workspace_ids, t.allowed_cidrs, t.rate_limit, t.created_at, t.created_by,
       t.not_before, t.expires_at, t.rotated_from, t.rotated_to, t.overlap_until, t.revoked_at, t.revoked_by,
       t.revocation_reason, t.hash_alg, t.pepper_id
  from l left join t on true;

-- name: rotate_token(key_id, new_key_id, secret_hash, pepper_id, set_expires_at, expires_at, overlap_until, actor, now, head_number, head_hash, entries, number, row_hash, sealed_by, seal)^
-- A successor with the same rights, and the end of the old token: at overlap_until, or now if that is now; with their
-- rows of the audit chain. Refused with what the old token is, 'revoked', 'rotated' or 'expired'; with 'bounds', if the
-- successor would end before it begins; or with the head that was found.
-- params: key_id text, new_key_id text, secret_hash bytes, pepper_id text, set_expires_at bool,
--         expires_at timestamptz?, overlap_until timestamptz, actor text, now timestamptz, head_number int,
--         head_hash text, entries json, number int, row_hash text, sealed_by text, seal text
-- returns: Applied[TokenRecord]
-- class: point
with c as (
    select number, row_hash from service_token_chain where id = 1 for update
), l as (
    select o.key_id,
           case when o.revoked_at is not null then 'revoked'
                when o.rotated_to is not null then 'rotated'
                when o.expires_at <= :now then 'expired'
                when :set_expires_at and :expires_at <= o.not_before then 'bounds'
                when coalesce(c.number, 0) <> :head_number or coalesce(c.row_hash, :head_hash) <> :head_hash
                then 'moved:' || coalesce(c.number || ':' || c.row_hash, '') end as found
      from service_tokens o left join c on true
     where o.key_id = :key_id
       for update of o
), h as (
    insert into service_token_chain as k (id, number, row_hash, pepper_id, seal)
    select 1, :number, :row_hash, :sealed_by, :seal from l where found is null
        on conflict (id) do update set number = excluded.number, row_hash = excluded.row_hash,
                                       pepper_id = excluded.pepper_id, seal = excluded.seal
                                 where k.number = :head_number
    returning id
), u as (
    update service_tokens o
       set rotated_to = :new_key_id, overlap_until = :overlap_until,
           revoked_at = case when :overlap_until <= :now then :now end,
           revoked_by = case when :overlap_until <= :now then :actor end,
           revocation_reason = case when :overlap_until <= :now then 'rotated' end
      from l cross join h
     where o.key_id = l.key_id
    returning o.key_id, o.name, o.name_key, o.kind, o.scopes, o.workspace_ids, o.allowed_cidrs, o.rate_limit,
              o.not_before, o.expires_at
), t as (
    insert into service_tokens (key_id, name, name_key, kind, secret_hash, hash_alg, pepper_id, scopes, workspace_ids,
                                allowed_cidrs, rate_limit, created_at, created_by, not_before, expires_at, rotated_from)
    select :new_key_id, u.name, u.name_key, u.kind, :secret_hash, 'hmac-sha256', :pepper_id, u.scopes, u.workspace_ids,
           u.allowed_cidrs, u.rate_limit, :now, :actor, u.not_before,
           case when :set_expires_at then :expires_at else u.expires_at end, u.key_id
      from u
    returning key_id, name, kind, scopes, workspace_ids, allowed_cidrs, rate_limit, created_at, created_by,
              not_before, expires_at, rotated_from, rotated_to, overlap_until, revoked_at, revoked_by,
              revocation_reason, hash_alg, pepper_id
), a as (
    insert into service_token_audit (number, key_id, action, actor, at, details, pepper_id, prev_hash, row_hash)
    select e.number, e.key_id, e.action, e.actor, e.at, e.details, e.pepper_id, e.prev_hash, e.row_hash
      from h cross join jsonb_to_recordset(:entries) as e (number bigint, key_id text, action text, actor text,
                                                           at timestamptz, details jsonb, pepper_id text,
                                                           prev_hash text, row_hash text)
)
select t.key_id is not null as applied, coalesce(l.found, 'moved:') as found,
       t.key_id, t.name, t.kind, t.scopes, t.workspace_ids, t.allowed_cidrs, t.rate_limit, t.created_at, t.created_by,
       t.not_before, t.expires_at, t.rotated_from, t.rotated_to, t.overlap_until, t.revoked_at, t.revoked_by,
       t.revocation_reason, t.hash_alg, t.pepper_id
  from l left join t on true;

-- name: revoke_token(key_id, reason, actor, now, head_number, head_hash, entries, number, row_hash, sealed_by, seal)^
-- Revoke, with the row of the audit chain; a token that is revoked already stays as it is. Refused with the head that
-- was found.
-- params: key_id text, reason text, actor text, now timestamptz, head_number int, head_hash text, entries json,
--         number int, row_hash text, sealed_by text, seal text
-- returns: Applied[TokenRecord]
-- class: point
with c as (
    select number, row_hash from service_token_chain where id = 1 for update
), l as (
    select o.key_id, o.name, o.kind, o.scopes, o.workspace_ids, o.allowed_cidrs, o.rate_limit, o.created_at,
           o.created_by, o.not_before, o.expires_at, o.rotated_from, o.rotated_to, o.overlap_until, o.revoked_at,
           o.revoked_by, o.revocation_reason, o.hash_alg, o.pepper_id,
           case when o.revoked_at is not null then 'revoked'
                when coalesce(c.number, 0) <> :head_number or coalesce(c.row_hash, :head_hash) <> :head_hash
                then 'moved:' || coalesce(c.number || ':' || c.row_hash, '') end as found
      from service_tokens o left join c on true
     where o.key_id = :key_id
       for update of o
), h as (
    insert into service_token_chain as k (id, number, row_hash, pepper_id, seal)
    select 1, :number, :row_hash, :sealed_by, :seal from l where found is null
        on conflict (id) do update set number = excluded.number, row_hash = excluded.row_hash,
                                       pepper_id = excluded.pepper_id, seal = excluded.seal
                                 where k.number = :head_number
    returning id
), t as (
    update service_tokens o
       set revoked_at = :now, revoked_by = :actor, revocation_reason = :reason
      from l cross join h
     where o.key_id = l.key_id
    returning o.key_id, o.name, o.kind, o.scopes, o.workspace_ids, o.allowed_cidrs, o.rate_limit, o.created_at,
              o.created_by, o.not_before, o.expires_at, o.rotated_from, o.rotated_to, o.overlap_until, o.revoked_at,
              o.revoked_by, o.revocation_reason, o.hash_alg, o.pepper_id
), a as (
    insert into service_token_audit (number, key_id, action, actor, at, details, pepper_id, prev_hash, row_hash)
    select e.number, e.key_id, e.action, e.actor, e.at, e.details, e.pepper_id, e.prev_hash, e.row_hash
      from h cross join jsonb_to_recordset(:entries) as e (number bigint, key_id text, action text, actor text,
                                                           at timestamptz, details jsonb, pepper_id text,
                                                           prev_hash text, row_hash text)
)
select true as applied, null as found,
       t.key_id, t.name, t.kind, t.scopes, t.workspace_ids, t.allowed_cidrs, t.rate_limit, t.created_at, t.created_by,
       t.not_before, t.expires_at, t.rotated_from, t.rotated_to, t.overlap_until, t.revoked_at, t.revoked_by,
       t.revocation_reason, t.hash_alg, t.pepper_id
  from t
 union all
select found = 'revoked', coalesce(found, 'moved:'),
       key_id, name, kind, scopes, workspace_ids, allowed_cidrs, rate_limit, created_at, created_by, not_before,
       expires_at, rotated_from, rotated_to, overlap_until, revoked_at, revoked_by, revocation_reason, hash_alg,
       pepper_id
  from l
 where not exists (select from t);

-- name: get_stored_token(key_id)^
-- A token, and what is stored of its secret; where there is none with this id, some other one, because reading none
-- would take less time.
-- params: key_id text
-- returns: StoredToken
-- class: point
select key_id, name, kind, scopes, workspace_ids, allowed_cidrs, rate_limit, created_at, created_by, not_before,
       expires_at, rotated_from, rotated_to, overlap_until, revoked_at, revoked_by, revocation_reason, hash_alg,
       pepper_id,
       secret_hash
  from service_tokens
 where key_id = coalesce((select o.key_id from service_tokens o where o.key_id >= :key_id order by o.key_id limit 1),
                         (select min(o.key_id) from service_tokens o));

-- name: get_legacy_token(hashes)^
-- The same of a token that another system made, by all that may be stored of it, 32 bytes each; of two, the older.
-- params: hashes bytes
-- returns: StoredToken
-- class: point
select key_id, name, kind, scopes, workspace_ids, allowed_cidrs, rate_limit, created_at, created_by, not_before,
       expires_at, rotated_from, rotated_to, overlap_until, revoked_at, revoked_by, revocation_reason, hash_alg,
       pepper_id,
       secret_hash
  from service_tokens
 where secret_hash = any (array(select substr(:hashes::bytea, n * 32 + 1, 32)
                                  from generate_series(0, length(:hashes::bytea) / 32 - 1) as n))
   and hash_alg <> 'hmac-sha256'
 order by created_at, key_id
 limit 1;

-- name: get_token(key_id)^
-- One token, of whatever state.
-- params: key_id text
-- returns: TokenRecord
-- class: point
select key_id, name, kind, scopes, workspace_ids, allowed_cidrs, rate_limit, created_at, created_by, not_before,
       expires_at, rotated_from, rotated_to, overlap_until, revoked_at, revoked_by, revocation_reason, hash_alg,
       pepper_id
  from service_tokens
 where key_id = :key_id;

-- name: list_tokens(now, after_at, after_id, limit)
-- Tokens that are accepted or will be, newest first, one page. Those that have expired and that nobody revoked are
-- passed by.
-- params: now timestamptz, after_at timestamptz, after_id text, limit int
-- returns: TokenRecord
-- class: page
select key_id, name, kind, scopes, workspace_ids, allowed_cidrs, rate_limit, created_at, created_by, not_before,
       expires_at, rotated_from, rotated_to, overlap_until, revoked_at, revoked_by, revocation_reason, hash_alg,
       pepper_id
  from service_tokens
 where revoked_at is null and (created_at, key_id) < (:after_at, :after_id)
   and coalesce(expires_at > :now, true) and coalesce(overlap_until > :now, true)
 order by created_at desc, key_id desc
 limit :limit;

-- name: list_tokens_all(after_at, after_id, limit)
-- Tokens of whatever state, newest first, one page.
-- params: after_at timestamptz, after_id text, limit int
-- returns: TokenRecord
-- class: page
select key_id, name, kind, scopes, workspace_ids, allowed_cidrs, rate_limit, created_at, created_by, not_before,
       expires_at, rotated_from, rotated_to, overlap_until, revoked_at, revoked_by, revocation_reason, hash_alg,
       pepper_id
  from service_tokens
 where (created_at, key_id) < (:after_at, :after_id)
 order by created_at desc, key_id desc
 limit :limit;

-- name: count_tokens_by_pepper()
-- How many tokens that were not revoked have their digest made with each pepper.
-- returns: PepperCount
-- class: report
select pepper_id, count(*) as tokens
  from service_tokens
 where revoked_at is null
 group by pepper_id
 order by pepper_id nulls first;

-- name: list_token_audit(key_id, after, limit)
-- What was changed of a token, oldest first, one page; after is 0 for the first.
-- params: key_id text, after int, limit int
-- returns: AuditRow
-- class: page
select number, key_id, action, actor, at, details, pepper_id, prev_hash, row_hash
  from service_token_audit
 where key_id = :key_id and number > :after
 order by number
 limit :limit;

-- name: list_audit_chain(after, limit)
-- The audit chain of all tokens, oldest first, one page; after is 0 for the first.
-- params: after int, limit int
-- returns: AuditRow
-- class: page
select number, key_id, action, actor, at, details, pepper_id, prev_hash, row_hash
  from service_token_audit
 where number > :after
 order by number
 limit :limit;

-- name: get_audit_head()^
-- Where the audit chain ends, as it was sealed; no row before the first change.
-- returns: SealedHead
-- class: point
select number, row_hash, pepper_id, seal
  from service_token_chain
 where id = 1;

-- name: get_tokens_exist()$
-- Whether any token was ever made here.
-- returns: bool
-- class: point
select min(key_id) is not null from service_tokens;

-- name: list_token_usage(key_ids)
-- How often tokens were used, for those that were.
-- params: key_ids text[]
-- returns: TokenUsage
-- class: batch
select key_id, first_used_at, last_used_at, last_ip, last_user_agent, use_count
  from service_token_usage
 where key_id = any (:key_ids)
 order by key_id;

-- name: record_token_uses(uses)!
-- Add to how often tokens were used. In the order of their key ids, so that two that do so at once do not deadlock.
-- params: uses json
-- class: batch
insert into service_token_usage as u (key_id, first_used_at, last_used_at, last_ip, last_user_agent, use_count)
select t.key_id, n.first_at, n.last_at, n.ip, n.user_agent, n.count
  from jsonb_to_recordset(:uses) as n (key_id text, first_at timestamptz, last_at timestamptz, ip text,
                                       user_agent text, count bigint)
  join service_tokens t on t.key_id = n.key_id
 order by t.key_id
    on conflict (key_id) do update
   set first_used_at = least(u.first_used_at, excluded.first_used_at),
       last_used_at = greatest(u.last_used_at, excluded.last_used_at),
       last_ip = case when excluded.last_used_at >= u.last_used_at then excluded.last_ip else u.last_ip end,
       last_user_agent = case when excluded.last_used_at >= u.last_used_at then excluded.last_user_agent
                              else u.last_user_agent end,
       use_count = u.use_count + excluded.use_count;

-- name: record_token_refusals(refusals)!
-- Add to how often callers were refused, by minute, key id and reason; in that order, for the same reason.
-- params: refusals json
-- class: batch
insert into service_token_refusals as r (minute_at, key_id, reason, refusals, first_at, last_at, last_ip,
                                         last_user_agent)
select n.minute_at, n.key_id, n.reason, n.count, n.first_at, n.last_at, n.ip, n.user_agent
  from jsonb_to_recordset(:refusals) as n (minute_at timestamptz, key_id text, reason text, first_at timestamptz,
                                           last_at timestamptz, ip text, user_agent text, count bigint)
 order by n.minute_at, n.key_id, n.reason
    on conflict (minute_at, key_id, reason) do update
   set refusals = r.refusals + excluded.refusals,
       first_at = least(r.first_at, excluded.first_at),
       last_at = greatest(r.last_at, excluded.last_at),
       last_ip = case when excluded.last_at >= r.last_at then excluded.last_ip else r.last_ip end,
       last_user_agent = case when excluded.last_at >= r.last_at then excluded.last_user_agent
                              else r.last_user_agent end;

-- name: renew_token_hashes(tokens, hashes)!
-- Replace digests by those under the current pepper, each if it still is what it was when the token was presented.
-- tokens: key_id, hash_alg and pepper_id of each; hashes: of each the old and the new one, 32 bytes each.
-- params: tokens json, hashes bytes
-- class: batch
with n as (
    select o.key_id, e.value ->> 'hash_alg' as hash_alg, e.value ->> 'pepper_id' as pepper_id,
           substr(:hashes::bytea, (e.at::int - 1) * 64 + 33, 32) as new_hash
      from jsonb_array_elements(:tokens) with ordinality as e (value, at)
      join service_tokens o on o.key_id = e.value ->> 'key_id'
     where o.secret_hash = substr(:hashes::bytea, (e.at::int - 1) * 64 + 1, 32)
     order by o.key_id
       for update of o
)
update service_tokens o
   set secret_hash = n.new_hash, hash_alg = n.hash_alg, pepper_id = n.pepper_id
  from n
 where o.key_id = n.key_id;

-- name: list_token_refusals(after_minute, after_key_id, after_reason, limit)
-- Refusals, newest minute first, one page.
-- params: after_minute timestamptz, after_key_id text, after_reason text, limit int
-- returns: Refusal
-- class: page
select minute_at, key_id, reason, refusals, first_at, last_at, last_ip, last_user_agent
  from service_token_refusals
 where (minute_at, key_id, reason) < (:after_minute, :after_key_id, :after_reason)
 order by minute_at desc, key_id desc, reason desc
 limit :limit;

-- name: list_token_refusals_of(key_id, after_minute, after_reason, limit)
-- Refusals of one token, newest minute first, one page.
-- params: key_id text, after_minute timestamptz, after_reason text, limit int
-- returns: Refusal
-- class: page
select minute_at, key_id, reason, refusals, first_at, last_at, last_ip, last_user_agent
  from service_token_refusals
 where key_id = :key_id and (minute_at, reason) < (:after_minute, :after_reason)
 order by minute_at desc, reason desc
 limit :limit;

-- name: delete_token_refusals(before, limit)!
-- Forget the oldest refusals, of minutes before a time. What another is deleting is left to it.
-- params: before timestamptz, limit int
-- class: batch
delete from service_token_refusals
 where (minute_at, key_id, reason) in (
       select minute_at, key_id, reason
         from service_token_refusals
        where minute_at < :before
        order by minute_at, key_id, reason
        limit :limit
          for update skip locked);

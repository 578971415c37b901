-- Service tokens: who may call, how often they did, who was refused, and what was changed by whom.
-- A change is a row of the audit chain as well, whose digest the caller makes from that of the row before it. So the
-- caller says on which head it built; where another is found ('moved:' number ':' row_hash), nothing is done, and the
-- caller builds anew.
-- Uses, refusals and renewed digests arrive in batches, apart from the changes.
-- Grows to about: tokens 1e5, usage 1e5, audit 1e6, refusals 1e6 rows.

-- name: create_token(key_id, name, name_key, kind, secret_hash, hash_alg, pepper_id, scopes, workspace_ids, allowed_cidrs, rate_limit, not_before, expires_at, actor, now, head_number, head_hash, entries, number, row_hash, sealed_by, seal)^
-- differs: a script in one transaction, whose first statement moves the head if all is well; changes() tells.
insert into service_token_chain (id, number, row_hash, pepper_id, seal)
select 1, :number, :row_hash, :sealed_by, :seal
 where coalesce((select number from service_token_chain where id = 1), 0) = :head_number
   and coalesce((select row_hash from service_token_chain where id = 1), :head_hash) = :head_hash
   and not exists (select 1 from service_tokens o
                    where o.name_key = :name_key and o.revoked_at is null and o.rotated_to is null)
   and not (:hash_alg <> 'hmac-sha256' and exists (
            select 1 from service_tokens o where o.secret_hash = :secret_hash and o.hash_alg <> 'hmac-sha256'))
    on conflict (id) do update set number = excluded.number, row_hash = excluded.row_hash,
                                   pepper_id = excluded.pepper_id, seal = excluded.seal;
insert into service_token_audit (number, key_id, action, actor, at, details, pepper_id, prev_hash, row_hash)
select e.value ->> '$.number', e.value ->> '$.key_id', e.value ->> '$.action', e.value ->> '$.actor',
       e.value ->> '$.at', e.value -> '$.details', e.value ->> '$.pepper_id', e.value ->> '$.prev_hash',
       e.value ->> '$.row_hash'
  from json_each(:entries) e
 where changes() = 1;
insert into service_tokens (key_id, name, name_key, kind, secret_hash, hash_alg, pepper_id, scopes, workspace_ids,
                            allowed_cidrs, rate_limit, created_at, created_by, not_before, expires_at)
select :key_id, :name, :name_key, :kind, :secret_hash, :hash_alg, :pepper_id, :scopes, :workspace_ids, :allowed_cidrs,
       :rate_limit, :now, :actor, :not_before, :expires_at
 where changes() = 1;
select d.done as applied,
       case when exists (select 1 from service_tokens o
                          where o.name_key = :name_key and o.revoked_at is null and o.rotated_to is null)
            then 'name'
            when :hash_alg <> 'hmac-sha256' and exists (
                 select 1 from service_tokens o where o.secret_hash = :secret_hash and o.hash_alg <> 'hmac-sha256')
            then 'hash'
            else 'moved:' || coalesce(
                 (select number || ':' || row_hash from service_token_chain where id = 1), '') end as found,
       t.key_id, t.name, t.kind, t.scopes, t.workspace_ids, t.allowed_cidrs, t.rate_limit, t.created_at, t.created_by,
       t.not_before, t.expires_at, t.rotated_from, t.rotated_to, t.overlap_until, t.revoked_at, t.revoked_by,
       t.revocation_reason, t.hash_alg, t.pepper_id
  from (select changes() = 1 as done) d
  left join service_tokens t on t.key_id = :key_id and d.done;

-- name: rotate_token(key_id, new_key_id, secret_hash, pepper_id, set_expires_at, expires_at, overlap_until, actor, now, head_number, head_hash, entries, number, row_hash, sealed_by, seal)^
-- differs: a script in one transaction, whose first statement moves the head if all is well; changes() tells.
insert into service_token_chain (id, number, row_hash, pepper_id, seal)
select 1, :number, :row_hash, :sealed_by, :seal
 where coalesce((select number from service_token_chain where id = 1), 0) = :head_number
   and coalesce((select row_hash from service_token_chain where id = 1), :head_hash) = :head_hash
   and exists (select 1 from service_tokens o
                where o.key_id = :key_id and o.revoked_at is null and o.rotated_to is null
                  and coalesce(o.expires_at > :now, true)
                  and not (:set_expires_at and coalesce(:expires_at <= o.not_before, false)))
    on conflict (id) do update set number = excluded.number, row_hash = excluded.row_hash,
                                   pepper_id = excluded.pepper_id, seal = excluded.seal;
update service_tokens
   set rotated_to = :new_key_id, overlap_until = :overlap_until,
       revoked_at = case when :overlap_until <= :now then :now end,
       revoked_by = case when :overlap_until <= :now then :actor end,
       revocation_reason = case when :overlap_until <= :now then 'rotated' end
 where key_id = :key_id and changes() = 1;
insert into service_tokens (key_id, name, name_key, kind, secret_hash, hash_alg, pepper_id, scopes, workspace_ids,
                            allowed_cidrs, rate_limit, created_at, created_by, not_before, expires_at, rotated_from)
select :new_key_id, u.name, u.name_key, u.kind, :secret_hash, 'hmac-sha256', :pepper_id, u.scopes, u.workspace_ids,
       u.allowed_cidrs, u.rate_limit, :now, :actor, u.not_before,
       case when :set_expires_at then :expires_at else u.expires_at end, u.key_id
  from service_tokens u
 where u.key_id = :key_id and changes() = 1;
insert into service_token_audit (number, key_id, action, actor, at, details, pepper_id, prev_hash, row_hash)
select e.value ->> '$.number', e.value ->> '$.key_id', e.value ->> '$.action', e.value ->> '$.actor',
       e.value ->> '$.at', e.value -> '$.details', e.value ->> '$.pepper_id', e.value ->> '$.prev_hash',
       e.value ->> '$.row_hash'
  from json_each(:entries) e
 where changes() = 1;
select t.key_id is not null as applied,
       case when o.revoked_at is not null then 'revoked'
            when o.rotated_to is not null then 'rotated'
            when o.expires_at <= :now then 'expired'
            when :set_expires_at and :expires_at <= o.not_before then 'bounds'
            else 'moved:' || coalesce(
                 (select number || ':' || row_hash from service_token_chain where id = 1), '') end as found,
       t.key_id, t.name, t.kind, t.scopes, t.workspace_ids, t.allowed_cidrs, t.rate_limit, t.created_at, t.created_by,
       t.not_before, t.expires_at, t.rotated_from, t.rotated_to, t.overlap_until, t.revoked_at, t.revoked_by,
       t.revocation_reason, t.hash_alg, t.pepper_id
  from service_tokens o
  left join service_tokens t on t.key_id = :new_key_id
 where o.key_id = :key_id;

-- name: revoke_token(key_id, reason, actor, now, head_number, head_hash, entries, number, row_hash, sealed_by, seal)^
-- differs: a script in one transaction, whose first statement moves the head if all is well; changes() tells.
insert into service_token_chain (id, number, row_hash, pepper_id, seal)
select 1, :number, :row_hash, :sealed_by, :seal
 where coalesce((select number from service_token_chain where id = 1), 0) = :head_number
   and coalesce((select row_hash from service_token_chain where id = 1), :head_hash) = :head_hash
   and exists (select 1 from service_tokens o where o.key_id = :key_id and o.revoked_at is null)
    on conflict (id) do update set number = excluded.number, row_hash = excluded.row_hash,
                                   pepper_id = excluded.pepper_id, seal = excluded.seal;
insert into service_token_audit (number, key_id, action, actor, at, details, pepper_id, prev_hash, row_hash)
select e.value ->> '$.number', e.value ->> '$.key_id', e.value ->> '$.action', e.value ->> '$.actor',
       e.value ->> '$.at', e.value -> '$.details', e.value ->> '$.pepper_id', e.value ->> '$.prev_hash',
       e.value ->> '$.row_hash'
  from json_each(:entries) e
 where changes() = 1;
update service_tokens
   set revoked_at = :now, revoked_by = :actor, revocation_reason = :reason
 where key_id = :key_id and changes() = 1;
select revoked_at is not null as applied,
       'moved:' || coalesce((select number || ':' || row_hash from service_token_chain where id = 1), '') as found,
       key_id, name, kind, scopes, workspace_ids, allowed_cidrs, rate_limit, created_at, created_by, not_before,
       expires_at, rotated_from, rotated_to, overlap_until, revoked_at, revoked_by, revocation_reason, hash_alg,
       pepper_id
  from service_tokens
 where key_id = :key_id;

-- name: get_stored_token(key_id)^
select key_id, name, kind, scopes, workspace_ids, allowed_cidrs, rate_limit, created_at, created_by, not_before,
       expires_at, rotated_from, rotated_to, overlap_until, revoked_at, revoked_by, revocation_reason, hash_alg,
       pepper_id,
       secret_hash
  from service_tokens
 where key_id = coalesce((select o.key_id from service_tokens o where o.key_id >= :key_id order by o.key_id limit 1),
                         (select min(o.key_id) from service_tokens o));

-- name: get_legacy_token(hashes)^
select key_id, name, kind, scopes, workspace_ids, allowed_cidrs, rate_limit, created_at, created_by, not_before,
       expires_at, rotated_from, rotated_to, overlap_until, revoked_at, revoked_by, revocation_reason, hash_alg,
       pepper_id,
       secret_hash
  from service_tokens
 where secret_hash in (
       with recursive s (n) as (select 0 union all select n + 1 from s where n + 1 < length(:hashes) / 32)
       select substr(:hashes, n * 32 + 1, 32) from s)
   and hash_alg <> 'hmac-sha256'
 order by created_at, key_id
 limit 1;

-- name: get_token(key_id)^
select key_id, name, kind, scopes, workspace_ids, allowed_cidrs, rate_limit, created_at, created_by, not_before,
       expires_at, rotated_from, rotated_to, overlap_until, revoked_at, revoked_by, revocation_reason, hash_alg,
       pepper_id
  from service_tokens
 where key_id = :key_id;

-- name: list_tokens(now, after_at, after_id, limit)
select key_id, name, kind, scopes, workspace_ids, allowed_cidrs, rate_limit, created_at, created_by, not_before,
       expires_at, rotated_from, rotated_to, overlap_until, revoked_at, revoked_by, revocation_reason, hash_alg,
       pepper_id
  from service_tokens
 where revoked_at is null and (created_at, key_id) < (:after_at, :after_id)
   and coalesce(expires_at > :now, true) and coalesce(overlap_until > :now, true)
 order by created_at desc, key_id desc
 limit :limit;

-- name: list_tokens_all(after_at, after_id, limit)
select key_id, name, kind, scopes, workspace_ids, allowed_cidrs, rate_limit, created_at, created_by, not_before,
       expires_at, rotated_from, rotated_to, overlap_until, revoked_at, revoked_by, revocation_reason, hash_alg,
       pepper_id
  from service_tokens
 where (created_at, key_id) < (:after_at, :after_id)
 order by created_at desc, key_id desc
 limit :limit;

-- name: count_tokens_by_pepper()
select pepper_id, count(*) as tokens
  from service_tokens
 where revoked_at is null
 group by pepper_id
 order by pepper_id nulls first;

-- name: list_token_audit(key_id, after, limit)
select number, key_id, action, actor, at, details, pepper_id, prev_hash, row_hash
  from service_token_audit
 where key_id = :key_id and number > :after
 order by number
 limit :limit;

-- name: list_audit_chain(after, limit)
select number, key_id, action, actor, at, details, pepper_id, prev_hash, row_hash
  from service_token_audit
 where number > :after
 order by number
 limit :limit;

-- name: get_audit_head()^
select number, row_hash, pepper_id, seal
  from service_token_chain
 where id = 1;

-- name: get_tokens_exist()$
select min(key_id) is not null from service_tokens;

-- name: list_token_usage(key_ids)
select key_id, first_used_at, last_used_at, last_ip, last_user_agent, use_count
  from service_token_usage
 where key_id in (select value from json_each(:key_ids))
 order by key_id;

-- name: record_token_uses(uses)!
insert into service_token_usage as u (key_id, first_used_at, last_used_at, last_ip, last_user_agent, use_count)
select t.key_id, n.value ->> '$.first_at', n.value ->> '$.last_at', n.value ->> '$.ip', n.value ->> '$.user_agent',
       n.value ->> '$.count'
  from json_each(:uses) n
  join service_tokens t on t.key_id = n.value ->> '$.key_id'
 where true
    on conflict (key_id) do update
   set first_used_at = min(u.first_used_at, excluded.first_used_at),
       last_used_at = max(u.last_used_at, excluded.last_used_at),
       last_ip = case when excluded.last_used_at >= u.last_used_at then excluded.last_ip else u.last_ip end,
       last_user_agent = case when excluded.last_used_at >= u.last_used_at then excluded.last_user_agent
                              else u.last_user_agent end,
       use_count = u.use_count + excluded.use_count;

-- name: record_token_refusals(refusals)!
insert into service_token_refusals as r (minute_at, key_id, reason, refusals, first_at, last_at, last_ip,
                                         last_user_agent)
select n.value ->> '$.minute_at', n.value ->> '$.key_id', n.value ->> '$.reason', n.value ->> '$.count',
       n.value ->> '$.first_at', n.value ->> '$.last_at', n.value ->> '$.ip', n.value ->> '$.user_agent'
  from json_each(:refusals) n
 where true
    on conflict (minute_at, key_id, reason) do update
   set refusals = r.refusals + excluded.refusals,
       first_at = min(r.first_at, excluded.first_at),
       last_at = max(r.last_at, excluded.last_at),
       last_ip = case when excluded.last_at >= r.last_at then excluded.last_ip else r.last_ip end,
       last_user_agent = case when excluded.last_at >= r.last_at then excluded.last_user_agent
                              else r.last_user_agent end;

-- name: renew_token_hashes(tokens, hashes)!
update service_tokens as o
   set secret_hash = substr(:hashes, n.key * 64 + 33, 32), hash_alg = n.value ->> '$.hash_alg',
       pepper_id = n.value ->> '$.pepper_id'
  from json_each(:tokens) n
 where o.key_id = n.value ->> '$.key_id' and o.secret_hash = substr(:hashes, n.key * 64 + 1, 32);

-- name: list_token_refusals(after_minute, after_key_id, after_reason, limit)
select minute_at, key_id, reason, refusals, first_at, last_at, last_ip, last_user_agent
  from service_token_refusals
 where (minute_at, key_id, reason) < (:after_minute, :after_key_id, :after_reason)
 order by minute_at desc, key_id desc, reason desc
 limit :limit;

-- name: list_token_refusals_of(key_id, after_minute, after_reason, limit)
select minute_at, key_id, reason, refusals, first_at, last_at, last_ip, last_user_agent
  from service_token_refusals
 where key_id = :key_id and (minute_at, reason) < (:after_minute, :after_reason)
 order by minute_at desc, reason desc
 limit :limit;

-- name: delete_token_refusals(before, limit)!
-- differs: no SKIP LOCKED; BEGIN IMMEDIATE keeps others out.
delete from service_token_refusals
 where (minute_at, key_id, reason) in (
       select minute_at, key_id, reason
         from service_token_refusals
        where minute_at < :before
        order by minute_at, key_id, reason
        limit :limit);

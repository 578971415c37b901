-- Idempotency keys: one a row, claimed by the first statement of a transaction and given its answer by the last, so that
-- key, answer and work are committed together or not at all.
-- Grows to about: 1e6 rows, as long as they are kept.

-- name: claim_key(key, request_hash, now)^
-- Take a key for this transaction, or say what was stored under it. No row: another transaction had it, was waited for,
-- and has committed since; the same statement, sent again, sees what it stored.
-- params: key text, request_hash text?, now timestamptz
-- returns: Claim
-- class: point
with c as (
    insert into idempotency_keys (key, request_hash, result, created_at)
    values (:key, :request_hash, 'null', :now)
        on conflict (key) do nothing
    returning request_hash, result
)
select true as claimed, request_hash, result from c
 union all
select false, request_hash, result from idempotency_keys where key = :key and not exists (select from c);

-- name: update_key_result(key, result)^
-- Store what the transaction that claimed the key answers.
-- params: key text, result json
-- returns: Key
-- class: point
update idempotency_keys
   set result = :result
 where key = :key
returning key, request_hash, result, created_at;

-- name: get_key(key)^
-- One key, and what was answered under it.
-- params: key text
-- returns: Key
-- class: point
select key, request_hash, result, created_at
  from idempotency_keys
 where key = :key;

-- name: delete_keys(before, limit)!
-- Forget the oldest keys that were claimed before a time. What another is deleting is left to it.
-- params: before timestamptz, limit int
-- class: batch
delete from idempotency_keys
 where key = any (array(
       select key
         from idempotency_keys
        where created_at < :before
        order by created_at, key
        limit :limit
          for update skip locked));

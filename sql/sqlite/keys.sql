-- Idempotency keys: one a row, claimed by the first statement of a transaction and given its answer by the last, so that
-- key, answer and work are committed together or not at all.
-- Grows to about: 1e6 rows, as long as they are kept.

-- name: claim_key(key, request_hash, now)^
-- differs: a script in one transaction; changes() tells whether the key was free. Nobody else writes meanwhile, so that
-- there always is a row.
insert into idempotency_keys (key, request_hash, result, created_at)
values (:key, :request_hash, 'null', :now)
    on conflict (key) do nothing;
select changes() = 1 as claimed, request_hash, result
  from idempotency_keys
 where key = :key;

-- name: update_key_result(key, result)^
update idempotency_keys
   set result = :result
 where key = :key
returning key, request_hash, result, created_at;

-- name: get_key(key)^
select key, request_hash, result, created_at
  from idempotency_keys
 where key = :key;

-- name: delete_keys(before, limit)!
-- differs: no SKIP LOCKED; BEGIN IMMEDIATE keeps others out.
delete from idempotency_keys
 where key in (
       select key
         from idempotency_keys
        where created_at < :before
        order by created_at, key
        limit :limit);

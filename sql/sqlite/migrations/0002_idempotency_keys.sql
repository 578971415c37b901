-- Idempotency keys: a transaction that was given one leaves a row here, in the same commit, with what it answered.

create table idempotency_keys (
    key          text not null,
    request_hash text,
    result       text not null,
    created_at   text not null,
    constraint idempotency_keys_pkey primary key (key),
    constraint idempotency_keys_key_check check (length(cast(key as blob)) between 1 and 512),
    constraint idempotency_keys_result_json check (json_valid(result)),
    constraint idempotency_keys_created_at_instant check (created_at glob '????-??-??T??:??:??.??????Z')
) strict, without rowid;

create index idempotency_keys_created_idx on idempotency_keys (created_at, key);

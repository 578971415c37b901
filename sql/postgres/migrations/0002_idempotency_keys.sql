-- Idempotency keys: a transaction that was given one leaves a row here, in the same commit, with what it answered.

create table idempotency_keys (
    key          text        collate "C" not null, -- compared as bytes, as in the other dialect: a key means nothing
    request_hash text,
    result       jsonb       not null,
    created_at   timestamptz not null,
    constraint idempotency_keys_pkey primary key (key),
    constraint idempotency_keys_key_check check (octet_length(key) between 1 and 512)
) with (fillfactor = 85);

create index idempotency_keys_created_idx on idempotency_keys (created_at, key);

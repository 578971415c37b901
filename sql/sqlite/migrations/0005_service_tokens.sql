-- Service tokens: who may call, how often they did, who was refused, and a chain of what was changed.

create table service_tokens (
    key_id            text    not null,
    name              text    not null,
    name_key          text    not null, -- the name as far as case and width do not matter
    kind              text    not null,
    secret_hash       blob    not null,
    hash_alg          text    not null,
    pepper_id         text,
    scopes            text    not null,
    workspace_ids     text    not null,
    allowed_cidrs     text,
    rate_limit        integer,
    created_at        text    not null,
    created_by        text    not null,
    not_before        text,
    expires_at        text,
    rotated_from      text,
    rotated_to        text,
    overlap_until     text,
    revoked_at        text,
    revoked_by        text,
    revocation_reason text,
    constraint service_tokens_pkey primary key (key_id),
    constraint service_tokens_key_id_check check (length(key_id) = 12 and key_id not glob '*[^0-9A-Za-z]*'),
    constraint service_tokens_name_check check (length(name) between 1 and 128),
    constraint service_tokens_kind_check check (kind in ('svc', 'usr', 'tst')),
    constraint service_tokens_secret_hash_check check (length(secret_hash) = 32),
    constraint service_tokens_hash_alg_check
        check (hash_alg in ('hmac-sha256', 'sha256-legacy', 'hmac-sha256-legacy')),
    constraint service_tokens_pepper_check check ((pepper_id is null) = (hash_alg = 'sha256-legacy')),
    constraint service_tokens_rate_limit_check check (rate_limit >= 1),
    constraint service_tokens_bounds_check check (expires_at > not_before),
    constraint service_tokens_rotated_check check ((rotated_to is null) = (overlap_until is null)),
    constraint service_tokens_revoked_by_check check ((revoked_at is null) = (revoked_by is null)),
    constraint service_tokens_reason_check check ((revoked_at is null) = (revocation_reason is null)),
    constraint service_tokens_rotated_from_fkey foreign key (rotated_from) references service_tokens (key_id),
    constraint service_tokens_scopes_json check (json_valid(scopes)),
    constraint service_tokens_workspace_ids_json check (json_valid(workspace_ids)),
    constraint service_tokens_allowed_cidrs_json check (allowed_cidrs is null or json_valid(allowed_cidrs)),
    constraint service_tokens_created_at_instant check (created_at glob '????-??-??T??:??:??.??????Z'),
    constraint service_tokens_not_before_instant check (not_before glob '????-??-??T??:??:??.??????Z'),
    constraint service_tokens_expires_at_instant check (expires_at glob '????-??-??T??:??:??.??????Z'),
    constraint service_tokens_overlap_until_instant check (overlap_until glob '????-??-??T??:??:??.??????Z'),
    constraint service_tokens_revoked_at_instant check (revoked_at glob '????-??-??T??:??:??.??????Z')
) strict;

create unique index service_tokens_name_key on service_tokens (name_key)
    where revoked_at is null and rotated_to is null;
create unique index service_tokens_legacy_key on service_tokens (secret_hash) where hash_alg <> 'hmac-sha256';
create unique index service_tokens_rotated_from_key on service_tokens (rotated_from) where rotated_from is not null;
create index service_tokens_created_idx on service_tokens (created_at desc, key_id desc);
create index service_tokens_active_created_idx on service_tokens (created_at desc, key_id desc)
    where revoked_at is null;
create index service_tokens_pepper_idx on service_tokens (pepper_id);

create table service_token_usage (
    key_id          text    not null,
    first_used_at   text    not null,
    last_used_at    text    not null,
    last_ip         text,
    last_user_agent text,
    use_count       integer not null,
    constraint service_token_usage_pkey primary key (key_id),
    constraint service_token_usage_use_count_check check (use_count >= 1),
    constraint service_token_usage_key_id_fkey foreign key (key_id) references service_tokens (key_id)
        on delete cascade,
    constraint service_token_usage_first_used_at_instant check (first_used_at glob '????-??-??T??:??:??.??????Z'),
    constraint service_token_usage_last_used_at_instant check (last_used_at glob '????-??-??T??:??:??.??????Z')
) strict;

-- Without a foreign key: that somebody was refused outlives the token, and a line with no key id is about no token.
create table service_token_refusals (
    minute_at       text    not null,
    key_id          text    not null,
    reason          text    not null,
    refusals        integer not null,
    first_at        text    not null,
    last_at         text    not null,
    last_ip         text,
    last_user_agent text,
    constraint service_token_refusals_pkey primary key (minute_at, key_id, reason),
    constraint service_token_refusals_refusals_check check (refusals >= 1),
    constraint service_token_refusals_minute_at_instant check (minute_at glob '????-??-??T??:??:??.??????Z'),
    constraint service_token_refusals_first_at_instant check (first_at glob '????-??-??T??:??:??.??????Z'),
    constraint service_token_refusals_last_at_instant check (last_at glob '????-??-??T??:??:??.??????Z')
) strict;

create index service_token_refusals_key_idx on service_token_refusals (key_id, minute_at desc, reason desc);

-- Without a foreign key, too. row_hash and prev_hash are lower-case hex.
create table service_token_audit (
    number    integer not null,
    key_id    text    not null,
    action    text    not null,
    actor     text    not null,
    at        text    not null,
    details   text    not null,
    pepper_id text    not null,
    prev_hash text    not null,
    row_hash  text    not null,
    constraint service_token_audit_pkey primary key (number),
    constraint service_token_audit_number_check check (number >= 1),
    constraint service_token_audit_action_check check (action in ('minted', 'imported', 'rotated', 'revoked')),
    constraint service_token_audit_prev_hash_check check (length(prev_hash) = 64),
    constraint service_token_audit_row_hash_check check (length(row_hash) = 64),
    constraint service_token_audit_details_json check (json_valid(details)),
    constraint service_token_audit_at_instant check (at glob '????-??-??T??:??:??.??????Z')
) strict;

create index service_token_audit_key_idx on service_token_audit (key_id, number);

-- The chain's head: no row before the first change, one from then on.
create table service_token_chain (
    id        integer not null,
    number    integer not null,
    row_hash  text    not null,
    pepper_id text    not null,
    seal      text    not null,
    constraint service_token_chain_pkey primary key (id),
    constraint service_token_chain_id_check check (id = 1),
    constraint service_token_chain_number_check check (number >= 1)
) strict;

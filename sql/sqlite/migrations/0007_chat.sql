-- Chat: threads, their items in order, attachments; and what is searched in them and in workflows.
-- Columns called terms hold words as dal/core/search.py cuts them, joined by spaces: each begins with the owner's key, so
-- that a search reads no other owner's. An item's text stands in chat_texts, cut into pieces.

create table chat_threads (
    number      integer not null,
    id          text    not null,
    owner       text    not null,
    title       text,
    title_terms text    not null,
    workflow_id text,
    status      text    not null,
    metadata    text    not null,
    details     text    not null,
    last_seq    integer not null default 0,
    created_at  text    not null,
    updated_at  text    not null,
    constraint chat_threads_pkey primary key (number),
    constraint chat_threads_id_key unique (id),
    constraint chat_threads_id_check check (length(cast(id as blob)) between 1 and 512),
    constraint chat_threads_owner_check check (length(cast(owner as blob)) between 1 and 512),
    constraint chat_threads_status_json check (json_valid(status)),
    constraint chat_threads_metadata_json check (json_valid(metadata)),
    constraint chat_threads_details_json check (json_valid(details)),
    constraint chat_threads_created_at_instant check (created_at glob '????-??-??T??:??:??.??????Z'),
    constraint chat_threads_updated_at_instant check (updated_at glob '????-??-??T??:??:??.??????Z')
) strict;

create index chat_threads_owner_created_idx on chat_threads (owner, created_at desc, number desc);
create index chat_threads_owner_workflow_idx on chat_threads (owner, workflow_id, created_at desc, number desc)
    where workflow_id is not null;
create index chat_threads_created_idx on chat_threads (created_at, number);

-- What PostgreSQL keeps in chat_threads_metadata_idx: a row for each value in a thread's metadata, under its path, and one
-- for its workflow, as save_thread writes them.
create table chat_thread_terms (
    owner      text    not null,
    term       text    not null,
    created_at text    not null,
    thread     integer not null,
    constraint chat_thread_terms_pkey primary key (owner, term, created_at, thread),
    constraint chat_thread_terms_thread_fkey foreign key (thread) references chat_threads (number) on delete cascade
) strict, without rowid;

create index chat_thread_terms_thread_idx on chat_thread_terms (thread);

create table chat_items (
    number     integer not null,
    id         text    not null,
    thread_id  text    not null,
    seq        integer not null,
    type       text    not null,
    item       text    not null, -- a JSON document, kept byte for byte
    body       text    not null,
    pieces     integer not null,
    created_at text    not null,
    constraint chat_items_pkey primary key (number),
    constraint chat_items_id_key unique (id),
    constraint chat_items_seq_key unique (thread_id, seq),
    constraint chat_items_id_check check (length(cast(id as blob)) between 1 and 512),
    constraint chat_items_seq_check check (seq >= 1),
    constraint chat_items_pieces_check check (pieces >= 1),
    constraint chat_items_thread_fkey foreign key (thread_id) references chat_threads (id) on delete cascade,
    constraint chat_items_created_at_instant check (created_at glob '????-??-??T??:??:??.??????Z')
) strict;

-- first: the place in the item's body where a piece begins, in characters from 1.
create table chat_texts (
    item  integer not null,
    piece integer not null,
    owner text    not null,
    first integer not null,
    terms text    not null,
    constraint chat_texts_pkey primary key (item, piece),
    constraint chat_texts_piece_check check (piece between 0 and 1023),
    constraint chat_texts_item_fkey foreign key (item) references chat_items (number) on delete cascade
) strict, without rowid;

create table chat_attachments (
    id           text not null,
    owner        text not null,
    thread_id    text,
    type         text not null,
    name         text not null,
    mime_type    text not null,
    details      text not null,
    storage_path text,
    created_at   text not null,
    constraint chat_attachments_pkey primary key (id),
    constraint chat_attachments_id_check check (length(cast(id as blob)) between 1 and 512),
    constraint chat_attachments_owner_check check (length(cast(owner as blob)) between 1 and 512),
    constraint chat_attachments_thread_fkey foreign key (thread_id) references chat_threads (id) on delete cascade,
    constraint chat_attachments_details_json check (json_valid(details)),
    constraint chat_attachments_created_at_instant check (created_at glob '????-??-??T??:??:??.??????Z')
) strict;

create index chat_attachments_thread_idx on chat_attachments (thread_id) where thread_id is not null;

-- The words of a workflow, each behind the letter of where it stands: t in any of name, description and tags, n in the
-- name. Each column's words end in a space. A workflow without a row here, or with a null in it, is not searchable yet; see
-- db.workflows.make_searchable.
create table workflow_texts (
    number            integer not null,
    workflow_id       text    not null,
    name_terms        text,
    description_terms text,
    tag_terms         text,
    constraint workflow_texts_pkey primary key (number),
    constraint workflow_texts_workflow_key unique (workflow_id),
    constraint workflow_texts_workflow_fkey foreign key (workflow_id) references workflows (id) on delete cascade
) strict;

-- What PostgreSQL keeps in chat_threads_terms_idx, chat_texts_terms_idx and workflow_texts_terms_idx. They hold no text,
-- only which rows have a word, and are kept up by the triggers. The tokenizer leaves our words as they are: it splits at
-- ASCII that is no letter or digit, and has no letters to make small. prefix: one and two letters behind the key.
create virtual table chat_threads_fts using fts5 (
    terms, content = '', columnsize = 0, detail = none, tokenize = 'ascii', prefix = '7 8'
);
create virtual table chat_texts_fts using fts5 (
    terms, content = '', columnsize = 0, detail = none, tokenize = 'ascii', prefix = '7 8'
);
create virtual table workflow_texts_fts using fts5 (
    terms, content = '', columnsize = 0, detail = none, tokenize = 'ascii', prefix = '2 3'
);

create trigger chat_threads_fts_insert after insert on chat_threads
begin
    insert into chat_threads_fts (rowid, terms) values (new.number, new.title_terms);
end;

create trigger chat_threads_fts_update after update of title_terms on chat_threads
    when old.title_terms <> new.title_terms
begin
    insert into chat_threads_fts (chat_threads_fts, rowid, terms) values ('delete', old.number, old.title_terms);
    insert into chat_threads_fts (rowid, terms) values (new.number, new.title_terms);
end;

create trigger chat_threads_fts_delete after delete on chat_threads
begin
    insert into chat_threads_fts (chat_threads_fts, rowid, terms) values ('delete', old.number, old.title_terms);
end;

create trigger chat_texts_fts_insert after insert on chat_texts
begin
    insert into chat_texts_fts (rowid, terms) values (new.item * 1024 + new.piece, new.terms);
end;

create trigger chat_texts_fts_update after update of terms on chat_texts
    when old.terms <> new.terms
begin
    insert into chat_texts_fts (chat_texts_fts, rowid, terms) values ('delete', old.item * 1024 + old.piece, old.terms);
    insert into chat_texts_fts (rowid, terms) values (new.item * 1024 + new.piece, new.terms);
end;

create trigger chat_texts_fts_delete after delete on chat_texts
begin
    insert into chat_texts_fts (chat_texts_fts, rowid, terms) values ('delete', old.item * 1024 + old.piece, old.terms);
end;

create trigger workflow_texts_fts_insert after insert on workflow_texts
begin
    insert into workflow_texts_fts (rowid, terms)
    values (new.number, new.name_terms || new.description_terms || new.tag_terms);
end;

create trigger workflow_texts_fts_update after update on workflow_texts
begin
    insert into workflow_texts_fts (workflow_texts_fts, rowid, terms)
    values ('delete', old.number, old.name_terms || old.description_terms || old.tag_terms);
    insert into workflow_texts_fts (rowid, terms)
    values (new.number, new.name_terms || new.description_terms || new.tag_terms);
end;

create trigger workflow_texts_fts_delete after delete on workflow_texts
begin
    insert into workflow_texts_fts (workflow_texts_fts, rowid, terms)
    values ('delete', old.number, old.name_terms || old.description_terms || old.tag_terms);
end;

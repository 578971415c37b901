-- Workflows: what a user names, finds, publishes and archives. Their tags stand twice: in order on the workflow, to be
-- read with it, and one a row in workflow_tags, to be found by.
-- What is searched are words that Python cut (dal/core/search.py), in workflow_texts: those of name, description and tags,
-- each behind a t, and those of the name behind an n, too. workflow_texts_fts is kept up by triggers.
-- Grows to about: workflows 1e5, tags 3e5, events 1e6 rows.

-- name: create_workflow(id, handle, name, slug, description, tags, draft_access, chat_config, name_terms, description_terms, tag_terms, actor, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
insert into workflows (id, handle, name, slug, description, tags, draft_access, chat_config, last_event, created_at,
                       created_by, updated_at)
values (:id, :handle, :name, :slug, :description, :tags, :draft_access, :chat_config, 1, :now, :actor, :now)
    on conflict (handle) where is_archived = 0 do nothing;
insert into workflow_events (workflow_id, number, actor, action, at, metadata)
select id, last_event, :actor, 'created', :now, '{}'
  from workflows
 where id = :id and changes() = 1;
select id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at, published_by,
       require_login, chat_config, revision, created_at, created_by, updated_at
  from workflows
 where id = :id;
insert into workflow_tags (workflow_id, tag, created_at, is_archived)
select w.id, tag.value, w.created_at, w.is_archived
  from workflows w cross join json_each(w.tags) as tag
 where w.id = :id
    on conflict (workflow_id, tag) do nothing;
insert into workflow_texts (workflow_id, name_terms, description_terms, tag_terms)
select id, :name_terms, :description_terms, :tag_terms
  from workflows
 where id = :id;

-- name: get_workflow(id)^
select id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at, published_by,
       require_login, chat_config, revision, created_at, created_by, updated_at
  from workflows
 where id = :id;

-- name: resolve_workflow(handle, id, include_archived)^
select id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at, published_by,
       require_login, chat_config, revision, created_at, created_by, updated_at
  from workflows
 where id = coalesce(
         (select w.id from workflows w where w.handle = :handle and w.is_archived = 0),
         (select w.id from workflows w where w.handle = :handle and w.is_archived = 1 and :include_archived
           order by w.updated_at desc, w.id desc limit 1),
         :id)
   and (is_archived = 0 or :include_archived);

-- name: list_workflows(after_at, after_id, limit)
select id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at, published_by,
       require_login, chat_config, revision, created_at, created_by, updated_at
  from workflows
 where is_archived = 0 and (created_at, id) < (:after_at, :after_id)
 order by created_at desc, id desc
 limit :limit;

-- name: list_workflows_all(after_at, after_id, limit)
select id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at, published_by,
       require_login, chat_config, revision, created_at, created_by, updated_at
  from workflows
 where (created_at, id) < (:after_at, :after_id)
 order by created_at desc, id desc
 limit :limit;

-- name: list_workflows_by_tag(tag, after_at, after_id, limit)
select w.id, w.handle, w.name, w.slug, w.description, w.tags, w.draft_access, w.is_archived, w.is_public,
       w.published_at, w.published_by, w.require_login, w.chat_config, w.revision, w.created_at, w.created_by,
       w.updated_at
  from (select workflow_id, created_at
          from workflow_tags
         where tag = :tag and is_archived = 0 and (created_at, workflow_id) < (:after_at, :after_id)
         order by created_at desc, workflow_id desc
         limit :limit) t
  join workflows w on w.id = t.workflow_id
 order by t.created_at desc, t.workflow_id desc;

-- name: list_workflows_all_by_tag(tag, after_at, after_id, limit)
select w.id, w.handle, w.name, w.slug, w.description, w.tags, w.draft_access, w.is_archived, w.is_public,
       w.published_at, w.published_by, w.require_login, w.chat_config, w.revision, w.created_at, w.created_by,
       w.updated_at
  from (select workflow_id, created_at
          from workflow_tags
         where tag = :tag and (created_at, workflow_id) < (:after_at, :after_id)
         order by created_at desc, workflow_id desc
         limit :limit) t
  join workflows w on w.id = t.workflow_id
 order by t.created_at desc, t.workflow_id desc;

-- name: update_workflow(id, expected_revision, set_handle, handle, set_name, name, slug, set_description, description, set_tags, tags, set_draft_access, draft_access, set_chat_config, chat_config, name_terms, description_terms, tag_terms, fields, actor, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
update workflows as w
   set handle = case when :set_handle then :handle else handle end,
       name = case when :set_name then :name else name end,
       slug = case when :set_name then :slug else slug end,
       description = case when :set_description then :description else description end,
       tags = case when :set_tags then :tags else tags end,
       draft_access = case when :set_draft_access then :draft_access else draft_access end,
       chat_config = case when :set_chat_config then :chat_config else chat_config end,
       revision = revision + 1, last_event = last_event + 1, updated_at = :now
 where id = :id
   and (:expected_revision is null or revision = :expected_revision)
   and not (:set_handle and is_archived = 0 and exists (
            select 1 from workflows o where o.handle = :handle and o.is_archived = 0 and o.id <> w.id));
insert into workflow_events (workflow_id, number, actor, action, at, metadata)
select id, last_event, :actor, 'updated', :now, json_object('fields', json(:fields))
  from workflows
 where id = :id and changes() = 1;
select changes() = 1 as applied, case when revision <> :expected_revision then cast(revision as text) else 'handle' end as found,
       id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at, published_by,
       require_login, chat_config, revision, created_at, created_by, updated_at
  from workflows
 where id = :id;
insert into workflow_texts (workflow_id, name_terms, description_terms, tag_terms)
select id, case when :set_name then :name_terms end, case when :set_description then :description_terms end,
       case when :set_tags then :tag_terms end
  from workflows
 where id = :id and changes() = 1 and (:set_name or :set_description or :set_tags)
    on conflict (workflow_id) do update
   set name_terms = case when :set_name then excluded.name_terms else name_terms end,
       description_terms = case when :set_description then excluded.description_terms else description_terms end,
       tag_terms = case when :set_tags then excluded.tag_terms else tag_terms end;
delete from workflow_tags
 where workflow_id = :id and tag not in (select value from workflows w, json_each(w.tags) where w.id = :id);
insert into workflow_tags (workflow_id, tag, created_at, is_archived)
select w.id, tag.value, w.created_at, w.is_archived
  from workflows w cross join json_each(w.tags) as tag
 where w.id = :id
    on conflict (workflow_id, tag) do nothing;

-- name: archive_workflow(id, actor, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
update workflows
   set is_archived = 1, is_public = 0, published_at = null, published_by = null, require_login = 0,
       revision = revision + 1, last_event = last_event + 1, updated_at = :now
 where id = :id and is_archived = 0;
insert into workflow_events (workflow_id, number, actor, action, at, metadata)
select id, last_event, :actor, 'archived', :now, '{}'
  from workflows
 where id = :id and changes() = 1;
update cron_triggers
   set next_fire_at = null
 where workflow_id = :id and changes() = 1;
select id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at, published_by,
       require_login, chat_config, revision, created_at, created_by, updated_at
  from workflows
 where id = :id;
update workflow_tags
   set is_archived = (select w.is_archived from workflows w where w.id = :id)
 where workflow_id = :id;

-- name: unarchive_workflow(id, actor, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
update workflows as w
   set is_archived = 0, revision = revision + 1, last_event = last_event + 1, updated_at = :now
 where id = :id and is_archived = 1
   and not exists (select 1 from workflows o where o.handle = w.handle and o.is_archived = 0);
insert into workflow_events (workflow_id, number, actor, action, at, metadata)
select id, last_event, :actor, 'unarchived', :now, '{}'
  from workflows
 where id = :id and changes() = 1;
update cron_triggers
   set next_fire_at = :now
 where workflow_id = :id and changes() = 1;
select is_archived = 0 as applied, 'handle' as found,
       id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at, published_by,
       require_login, chat_config, revision, created_at, created_by, updated_at
  from workflows
 where id = :id;
update workflow_tags
   set is_archived = (select w.is_archived from workflows w where w.id = :id)
 where workflow_id = :id;

-- name: publish_workflow(id, require_login, actor, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
update workflows
   set is_public = 1, published_at = :now, published_by = :actor, require_login = :require_login,
       revision = revision + 1, last_event = last_event + 1, updated_at = :now
 where id = :id and is_archived = 0 and is_public = 0;
insert into workflow_events (workflow_id, number, actor, action, at, metadata)
select id, last_event, :actor, 'published', :now, json_object('require_login', json(case when require_login then 'true' else 'false' end))
  from workflows
 where id = :id and changes() = 1;
select changes() = 1 as applied, case when is_archived then 'archived' else 'published' end as found,
       id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at, published_by,
       require_login, chat_config, revision, created_at, created_by, updated_at
  from workflows
 where id = :id;

-- name: unpublish_workflow(id, actor, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
update workflows
   set is_public = 0, published_at = null, published_by = null, require_login = 0,
       revision = revision + 1, last_event = last_event + 1, updated_at = :now
 where id = :id and is_public = 1;
insert into workflow_events (workflow_id, number, actor, action, at, metadata)
select id, last_event, :actor, 'unpublished', :now, '{}'
  from workflows
 where id = :id and changes() = 1;
select changes() = 1 as applied, 'unpublished' as found,
       id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at, published_by,
       require_login, chat_config, revision, created_at, created_by, updated_at
  from workflows
 where id = :id;

-- name: list_workflow_events(workflow_id, after, limit)
select number, actor, action, at, metadata
  from workflow_events
 where workflow_id = :workflow_id and number > :after
 order by number
 limit :limit;

-- name: search_workflows(name_words, words, before_name, before, limit)
-- differs: FTS5 gives the rows that have the words in the order of the page, one by one.
select id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at, published_by,
       require_login, chat_config, revision, created_at, created_by, updated_at,
       number, is_name
  from (select w.id, w.handle, w.name, w.slug, w.description, w.tags, w.draft_access, w.is_archived, w.is_public,
               w.published_at, w.published_by, w.require_login, w.chat_config, w.revision, w.created_at,
               w.created_by, w.updated_at,
               x.number, 1 as is_name
          from (select f.rowid as number
                  from workflow_texts_fts f
                 where workflow_texts_fts match '"' || replace(:name_words, ' ', '" AND "') || '" *'
                   and f.rowid < :before_name
                   and not (select a.is_archived
                              from workflow_texts o
                              join workflows a on a.id = o.workflow_id
                             where o.number = f.rowid)
                 order by f.rowid desc
                 limit :limit) x
         cross join workflow_texts o on o.number = x.number
         cross join workflows w on w.id = o.workflow_id
         union all
        select w.id, w.handle, w.name, w.slug, w.description, w.tags, w.draft_access, w.is_archived, w.is_public,
               w.published_at, w.published_by, w.require_login, w.chat_config, w.revision, w.created_at,
               w.created_by, w.updated_at,
               x.number, 0
          from (select f.rowid as number
                  from workflow_texts_fts f
                 where workflow_texts_fts match '("' || replace(:words, ' ', '" AND "') || '" *) NOT ("'
                                                || replace(:name_words, ' ', '" AND "') || '" *)'
                   and f.rowid < :before
                   and not (select a.is_archived
                              from workflow_texts o
                              join workflows a on a.id = o.workflow_id
                             where o.number = f.rowid)
                 order by f.rowid desc
                 limit :limit) x
         cross join workflow_texts o on o.number = x.number
         cross join workflows w on w.id = o.workflow_id)
 order by is_name desc, number desc
 limit :limit;

-- name: search_workflows_all(name_words, words, before_name, before, limit)
-- differs: as search_workflows.
select id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at, published_by,
       require_login, chat_config, revision, created_at, created_by, updated_at,
       number, is_name
  from (select w.id, w.handle, w.name, w.slug, w.description, w.tags, w.draft_access, w.is_archived, w.is_public,
               w.published_at, w.published_by, w.require_login, w.chat_config, w.revision, w.created_at,
               w.created_by, w.updated_at,
               x.number, 1 as is_name
          from (select f.rowid as number
                  from workflow_texts_fts f
                 where workflow_texts_fts match '"' || replace(:name_words, ' ', '" AND "') || '" *'
                   and f.rowid < :before_name
                 order by f.rowid desc
                 limit :limit) x
         cross join workflow_texts o on o.number = x.number
         cross join workflows w on w.id = o.workflow_id
         union all
        select w.id, w.handle, w.name, w.slug, w.description, w.tags, w.draft_access, w.is_archived, w.is_public,
               w.published_at, w.published_by, w.require_login, w.chat_config, w.revision, w.created_at,
               w.created_by, w.updated_at,
               x.number, 0
          from (select f.rowid as number
                  from workflow_texts_fts f
                 where workflow_texts_fts match '("' || replace(:words, ' ', '" AND "') || '" *) NOT ("'
                                                || replace(:name_words, ' ', '" AND "') || '" *)'
                   and f.rowid < :before
                 order by f.rowid desc
                 limit :limit) x
         cross join workflow_texts o on o.number = x.number
         cross join workflows w on w.id = o.workflow_id)
 order by is_name desc, number desc
 limit :limit;

-- name: list_workflows_unsearchable(limit)
-- differs: nobody else writes meanwhile.
select w.id, w.name, w.description, w.tags
  from workflows w
 where (select x.name_terms || x.description_terms || x.tag_terms
          from workflow_texts x
         where x.workflow_id = w.id) is null
 order by w.created_at, w.id
 limit :limit;

-- name: create_workflow_texts(ids, name_terms, description_terms, tag_terms)!
insert into workflow_texts (workflow_id, name_terms, description_terms, tag_terms)
select x.value, :name_terms ->> x.key, :description_terms ->> x.key, :tag_terms ->> x.key
  from json_each(:ids) x
 where true
 order by x.key
    on conflict (workflow_id) do update
   set name_terms = excluded.name_terms, description_terms = excluded.description_terms, tag_terms = excluded.tag_terms;

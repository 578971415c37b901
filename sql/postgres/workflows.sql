-- Workflows: what a user names, finds, publishes and archives. Their tags stand twice: in order on the workflow, to be
-- read with it, and one a row in workflow_tags, to be found by.
-- A statement that has waited for a workflow's lock sees that row as it is now, and all others as they were before. So
-- rows of workflow_tags and workflow_texts are upserted, which finds those it cannot see; one that it cannot delete is
-- left, and the lists by tag look at the workflow's own tags too.
-- What is searched are words that Python cut (dal/core/search.py), in workflow_texts: those of name, description and tags,
-- each behind a t, and those of the name behind an n, too.
-- Grows to about: workflows 1e5, tags 3e5, events 1e6 rows.

-- name: create_workflow(id, handle, name, slug, description, tags, draft_access, chat_config, name_terms, description_terms, tag_terms, actor, now)^
-- A new workflow with its first audit event. No row: an active workflow has the handle.
-- params: id uuid, handle text?, name text, slug text, description text?, tags json, draft_access text,
--         chat_config json?, name_terms text, description_terms text, tag_terms text, actor text, now timestamptz
-- returns: Workflow
-- class: point
with w as (
    insert into workflows (id, handle, name, slug, description, tags, draft_access, chat_config, last_event,
                           created_at, created_by, updated_at)
    values (:id, :handle, :name, :slug, :description, :tags, :draft_access, :chat_config, 1, :now, :actor, :now)
        on conflict (handle) where not is_archived do nothing
    returning id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at,
              published_by, require_login, chat_config, revision, created_at, created_by, updated_at
), t as (
    insert into workflow_tags (workflow_id, tag, created_at, is_archived)
    select w.id, tag.value, w.created_at, false
      from w cross join jsonb_array_elements_text(w.tags) as tag (value)
), x as (
    insert into workflow_texts (workflow_id, name_terms, description_terms, tag_terms)
    select id, :name_terms, :description_terms, :tag_terms from w
), e as (
    insert into workflow_events (workflow_id, number, actor, action, at, metadata)
    select id, 1, :actor, 'created', :now, '{}' from w
)
select id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at, published_by,
       require_login, chat_config, revision, created_at, created_by, updated_at
  from w;

-- name: get_workflow(id)^
-- One workflow, archived or not.
-- params: id uuid
-- returns: Workflow
-- class: point
select id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at, published_by,
       require_login, chat_config, revision, created_at, created_by, updated_at
  from workflows
 where id = :id;

-- name: resolve_workflow(handle, id, include_archived)^
-- The workflow that a reference means: the active one with this handle, else the archived one last changed, else the one
-- with this id. handle or id is null where the reference cannot be one.
-- params: handle text?, id uuid?, include_archived bool
-- returns: Workflow
-- class: point
select id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at, published_by,
       require_login, chat_config, revision, created_at, created_by, updated_at
  from workflows
 where id = coalesce(
         (select w.id from workflows w where w.handle = :handle and not w.is_archived),
         (select w.id from workflows w where w.handle = :handle and w.is_archived and :include_archived
           order by w.updated_at desc, w.id desc limit 1),
         :id)
   and (not is_archived or :include_archived);

-- name: list_workflows(after_at, after_id, limit)
-- Active workflows, newest first, one page.
-- params: after_at timestamptz, after_id uuid, limit int
-- returns: Workflow
-- class: page
select id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at, published_by,
       require_login, chat_config, revision, created_at, created_by, updated_at
  from workflows
 where not is_archived and (created_at, id) < (:after_at, :after_id)
 order by created_at desc, id desc
 limit :limit;

-- name: list_workflows_all(after_at, after_id, limit)
-- Workflows, archived ones too, newest first, one page.
-- params: after_at timestamptz, after_id uuid, limit int
-- returns: Workflow
-- class: page
select id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at, published_by,
       require_login, chat_config, revision, created_at, created_by, updated_at
  from workflows
 where (created_at, id) < (:after_at, :after_id)
 order by created_at desc, id desc
 limit :limit;

-- name: list_workflows_by_tag(tag, after_at, after_id, limit)
-- Active workflows with a tag, newest first, one page.
-- params: tag text, after_at timestamptz, after_id uuid, limit int
-- returns: Workflow
-- class: page
select w.id, w.handle, w.name, w.slug, w.description, w.tags, w.draft_access, w.is_archived, w.is_public,
       w.published_at, w.published_by, w.require_login, w.chat_config, w.revision, w.created_at, w.created_by,
       w.updated_at
  from (select workflow_id, created_at
          from workflow_tags
         where tag = :tag and not is_archived and (created_at, workflow_id) < (:after_at, :after_id)
           and (select o.tags from workflows o where o.id = workflow_id) ? tag
         order by created_at desc, workflow_id desc
         limit :limit) t
  join workflows w on w.id = t.workflow_id
 order by t.created_at desc, t.workflow_id desc;

-- name: list_workflows_all_by_tag(tag, after_at, after_id, limit)
-- Workflows with a tag, archived ones too, newest first, one page.
-- params: tag text, after_at timestamptz, after_id uuid, limit int
-- returns: Workflow
-- class: page
select w.id, w.handle, w.name, w.slug, w.description, w.tags, w.draft_access, w.is_archived, w.is_public,
       w.published_at, w.published_by, w.require_login, w.chat_config, w.revision, w.created_at, w.created_by,
       w.updated_at
  from (select workflow_id, created_at
          from workflow_tags
         where tag = :tag and (created_at, workflow_id) < (:after_at, :after_id)
           and (select o.tags from workflows o where o.id = workflow_id) ? tag
         order by created_at desc, workflow_id desc
         limit :limit) t
  join workflows w on w.id = t.workflow_id
 order by t.created_at desc, t.workflow_id desc;

-- name: update_workflow(id, expected_revision, set_handle, handle, set_name, name, slug, set_description, description, set_tags, tags, set_draft_access, draft_access, set_chat_config, chat_config, name_terms, description_terms, tag_terms, fields, actor, now)^
-- Change what is given. Refused with what was found: the present revision, where another is expected; or 'handle', which
-- an active workflow has.
-- params: id uuid, expected_revision int?, set_handle bool, handle text?, set_name bool, name text?, slug text?,
--         set_description bool, description text?, set_tags bool, tags json?, set_draft_access bool, draft_access text?,
--         set_chat_config bool, chat_config json?, name_terms text?, description_terms text?, tag_terms text?, fields json,
--         actor text, now timestamptz
-- returns: Applied[Workflow]
-- class: point
with l as (
    select w.id,
           case when w.revision <> :expected_revision then w.revision::text
                when :set_handle and not w.is_archived and exists (
                     select from workflows o where o.handle = :handle and not o.is_archived and o.id <> w.id)
                then 'handle' end as found
      from workflows w
     where w.id = :id
       for update
), u as (
    update workflows w
       set handle = case when :set_handle then :handle else w.handle end,
           name = case when :set_name then :name else w.name end,
           slug = case when :set_name then :slug else w.slug end,
           description = case when :set_description then :description else w.description end,
           tags = case when :set_tags then :tags else w.tags end,
           draft_access = case when :set_draft_access then :draft_access else w.draft_access end,
           chat_config = case when :set_chat_config then :chat_config else w.chat_config end,
           revision = w.revision + 1, last_event = w.last_event + 1, updated_at = :now
      from l
     where w.id = l.id and l.found is null
    returning w.id, w.handle, w.name, w.slug, w.description, w.tags, w.draft_access, w.is_archived, w.is_public,
              w.published_at, w.published_by, w.require_login, w.chat_config, w.revision, w.created_at,
              w.created_by, w.updated_at,
              w.last_event
), d as (
    delete from workflow_tags t
     using u
     where t.workflow_id = u.id and :set_tags and not u.tags ? t.tag
), t as (
    insert into workflow_tags (workflow_id, tag, created_at, is_archived)
    select u.id, tag.value, u.created_at, u.is_archived
      from u cross join jsonb_array_elements_text(u.tags) as tag (value)
     where :set_tags
        on conflict (workflow_id, tag) do update set is_archived = excluded.is_archived
                                              where workflow_tags.is_archived <> excluded.is_archived
), x as (
    insert into workflow_texts (workflow_id, name_terms, description_terms, tag_terms)
    select u.id, case when :set_name then :name_terms end, case when :set_description then :description_terms end,
           case when :set_tags then :tag_terms end
      from u
     where :set_name or :set_description or :set_tags
        on conflict (workflow_id) do update
       set name_terms = case when :set_name then excluded.name_terms else workflow_texts.name_terms end,
           description_terms = case when :set_description then excluded.description_terms
                                    else workflow_texts.description_terms end,
           tag_terms = case when :set_tags then excluded.tag_terms else workflow_texts.tag_terms end
), e as (
    insert into workflow_events (workflow_id, number, actor, action, at, metadata)
    select id, last_event, :actor, 'updated', :now, jsonb_build_object('fields', :fields::jsonb) from u
)
select u.id is not null as applied, l.found,
       u.id, u.handle, u.name, u.slug, u.description, u.tags, u.draft_access, u.is_archived, u.is_public,
       u.published_at, u.published_by, u.require_login, u.chat_config, u.revision, u.created_at, u.created_by,
       u.updated_at
  from l left join u on true;

-- name: archive_workflow(id, actor, now)^
-- Archive and unpublish, and stop its schedule; one that is archived already stays as it is.
-- params: id uuid, actor text, now timestamptz
-- returns: Workflow
-- class: point
with l as (
    select id, not is_archived as changes from workflows where id = :id for update
), u as (
    update workflows w
       set is_archived = true, is_public = false, published_at = null, published_by = null, require_login = false,
           revision = w.revision + l.changes::int, last_event = w.last_event + l.changes::int,
           updated_at = case when l.changes then :now else w.updated_at end
      from l
     where w.id = l.id
    returning w.id, w.handle, w.name, w.slug, w.description, w.tags, w.draft_access, w.is_archived, w.is_public,
              w.published_at, w.published_by, w.require_login, w.chat_config, w.revision, w.created_at,
              w.created_by, w.updated_at,
              w.last_event, l.changes
), t as (
    insert into workflow_tags (workflow_id, tag, created_at, is_archived)
    select u.id, tag.value, u.created_at, true
      from u cross join jsonb_array_elements_text(u.tags) as tag (value)
     where u.changes
        on conflict (workflow_id, tag) do update set is_archived = true
), c as (
    update cron_triggers c set next_fire_at = null from u where c.workflow_id = u.id and u.changes
), e as (
    insert into workflow_events (workflow_id, number, actor, action, at, metadata)
    select id, last_event, :actor, 'archived', :now, '{}' from u where changes
)
select id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at, published_by,
       require_login, chat_config, revision, created_at, created_by, updated_at
  from u;

-- name: unarchive_workflow(id, actor, now)^
-- Make an archived workflow active, its schedule from now on; one that is active stays as it is. Refused with 'handle' if
-- an active one has it.
-- params: id uuid, actor text, now timestamptz
-- returns: Applied[Workflow]
-- class: point
with l as (
    select w.id, w.is_archived as changes,
           case when w.is_archived and exists (
                     select from workflows o
                      where o.handle = w.handle and not o.is_archived and o.id <> w.id) then 'handle' end as found
      from workflows w
     where w.id = :id
       for update
), u as (
    update workflows w
       set is_archived = false, revision = w.revision + l.changes::int, last_event = w.last_event + l.changes::int,
           updated_at = case when l.changes then :now else w.updated_at end
      from l
     where w.id = l.id and l.found is null
    returning w.id, w.handle, w.name, w.slug, w.description, w.tags, w.draft_access, w.is_archived, w.is_public,
              w.published_at, w.published_by, w.require_login, w.chat_config, w.revision, w.created_at,
              w.created_by, w.updated_at,
              w.last_event, l.changes
), t as (
    insert into workflow_tags (workflow_id, tag, created_at, is_archived)
    select u.id, tag.value, u.created_at, false
      from u cross join jsonb_array_elements_text(u.tags) as tag (value)
     where u.changes
        on conflict (workflow_id, tag) do update set is_archived = false
), c as (
    update cron_triggers c set next_fire_at = :now from u where c.workflow_id = u.id and u.changes
), e as (
    insert into workflow_events (workflow_id, number, actor, action, at, metadata)
    select id, last_event, :actor, 'unarchived', :now, '{}' from u where changes
)
select u.id is not null as applied, l.found,
       u.id, u.handle, u.name, u.slug, u.description, u.tags, u.draft_access, u.is_archived, u.is_public,
       u.published_at, u.published_by, u.require_login, u.chat_config, u.revision, u.created_at, u.created_by,
       u.updated_at
  from l left join u on true;

-- name: publish_workflow(id, require_login, actor, now)^
-- Make public. Refused with 'archived' or 'published'.
-- params: id uuid, require_login bool, actor text, now timestamptz
-- returns: Applied[Workflow]
-- class: point
with l as (
    select id, case when is_archived then 'archived' when is_public then 'published' end as found
      from workflows
     where id = :id
       for update
), u as (
    update workflows w
       set is_archived = false, /* as l found it: a check is made first on the row as it was before the lock */
           is_public = true, published_at = :now, published_by = :actor, require_login = :require_login,
           revision = w.revision + 1, last_event = w.last_event + 1, updated_at = :now
      from l
     where w.id = l.id and l.found is null
    returning w.id, w.handle, w.name, w.slug, w.description, w.tags, w.draft_access, w.is_archived, w.is_public,
              w.published_at, w.published_by, w.require_login, w.chat_config, w.revision, w.created_at,
              w.created_by, w.updated_at,
              w.last_event
), e as (
    insert into workflow_events (workflow_id, number, actor, action, at, metadata)
    select id, last_event, :actor, 'published', :now, jsonb_build_object('require_login', require_login) from u
)
select u.id is not null as applied, l.found,
       u.id, u.handle, u.name, u.slug, u.description, u.tags, u.draft_access, u.is_archived, u.is_public,
       u.published_at, u.published_by, u.require_login, u.chat_config, u.revision, u.created_at, u.created_by,
       u.updated_at
  from l left join u on true;

-- name: unpublish_workflow(id, actor, now)^
-- Make private again. Refused with 'unpublished'.
-- params: id uuid, actor text, now timestamptz
-- returns: Applied[Workflow]
-- class: point
with l as (
    select id, case when not is_public then 'unpublished' end as found from workflows where id = :id for update
), u as (
    update workflows w
       set is_public = false, published_at = null, published_by = null, require_login = false,
           revision = w.revision + 1, last_event = w.last_event + 1, updated_at = :now
      from l
     where w.id = l.id and l.found is null
    returning w.id, w.handle, w.name, w.slug, w.description, w.tags, w.draft_access, w.is_archived, w.is_public,
              w.published_at, w.published_by, w.require_login, w.chat_config, w.revision, w.created_at,
              w.created_by, w.updated_at,
              w.last_event
), e as (
    insert into workflow_events (workflow_id, number, actor, action, at, metadata)
    select id, last_event, :actor, 'unpublished', :now, '{}' from u
)
select u.id is not null as applied, l.found,
       u.id, u.handle, u.name, u.slug, u.description, u.tags, u.draft_access, u.is_archived, u.is_public,
       u.published_at, u.published_by, u.require_login, u.chat_config, u.revision, u.created_at, u.created_by,
       u.updated_at
  from l left join u on true;

-- name: list_workflow_events(workflow_id, after, limit)
-- The audit trail of a workflow, oldest first, one page; after is 0 for the first.
-- params: workflow_id uuid, after int, limit int
-- returns: Event
-- class: page
select number, actor, action, at, metadata
  from workflow_events
 where workflow_id = :workflow_id and number > :after
 order by number
 limit :limit;

-- name: search_workflows(name_words, words, before_name, before, limit)
-- Active workflows that have all words, the last one the beginning of one: those that have them all in their name, then the
-- others, of each those made last first. name_words, words: the same behind n, behind t. before_name, before: 2^52 for the
-- first page, 0 where a list is over. What few have is found in the index and sorted; what more have, in the order of the
-- page; see search_chat.
-- params: name_words text, words text, before_name int, before int, limit int
-- returns: FoundWorkflow
-- class: page
-- plan: rows 5000
with n as (
    select ('''' || replace(:name_words, ' ', ''' & ''') || ''':*')::tsquery as in_name,
           ('''' || replace(:words, ' ', ''' & ''') || ''':*')::tsquery as in_any
), q as (
    select n.in_name, n.in_any && !! n.in_name as in_others from n
), f as materialized (
    select x.number, x.workflow_id
      from workflow_texts x
     where :before_name > 20 * :limit::bigint
       and array_to_tsvector(string_to_array(rtrim(x.name_terms || x.description_terms || x.tag_terms), ' '))
           @@ (select q.in_name from q)
       and x.number + 0 < :before_name
     fetch first (20 * :limit::bigint) rows only
), g as materialized (
    select x.number, x.workflow_id
      from workflow_texts x
     where :before > 20 * :limit::bigint
       and array_to_tsvector(string_to_array(rtrim(x.name_terms || x.description_terms || x.tag_terms), ' '))
           @@ (select q.in_others from q)
       and x.number + 0 < :before
     fetch first (20 * :limit::bigint) rows only
)
select id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at, published_by,
       require_login, chat_config, revision, created_at, created_by, updated_at,
       number, is_name
  from (select w.id, w.handle, w.name, w.slug, w.description, w.tags, w.draft_access, w.is_archived, w.is_public,
               w.published_at, w.published_by, w.require_login, w.chat_config, w.revision, w.created_at,
               w.created_by, w.updated_at,
               x.number, true as is_name
          from ((select f.number, f.workflow_id
                   from f
                  where (select count(*) from f) < 20 * :limit
                    and not (select o.is_archived from workflows o where o.id = f.workflow_id)
                  order by f.number desc
                  limit :limit)
                  union all
                (select x.number, x.workflow_id
                   from workflow_texts x
                  where ((select count(*) from f) >= 20 * :limit or :before_name <= 20 * :limit::bigint)
                    and x.number < :before_name
                    and array_to_tsvector(string_to_array(
                            rtrim(x.name_terms || x.description_terms || x.tag_terms || ' '), ' '))
                        @@ (select q.in_name from q)
                    and not (select o.is_archived from workflows o where o.id = x.workflow_id)
                  order by x.number desc
                  limit :limit)) x
          join workflows w on w.id = x.workflow_id
         union all
        select w.id, w.handle, w.name, w.slug, w.description, w.tags, w.draft_access, w.is_archived, w.is_public,
               w.published_at, w.published_by, w.require_login, w.chat_config, w.revision, w.created_at,
               w.created_by, w.updated_at,
               x.number, false
          from ((select g.number, g.workflow_id
                   from g
                  where (select count(*) from g) < 20 * :limit
                    and not (select o.is_archived from workflows o where o.id = g.workflow_id)
                  order by g.number desc
                  limit :limit)
                  union all
                (select x.number, x.workflow_id
                   from workflow_texts x
                  where ((select count(*) from g) >= 20 * :limit or :before <= 20 * :limit::bigint)
                    and x.number < :before
                    and array_to_tsvector(string_to_array(
                            rtrim(x.name_terms || x.description_terms || x.tag_terms || ' '), ' '))
                        @@ (select q.in_others from q)
                    and not (select o.is_archived from workflows o where o.id = x.workflow_id)
                  order by x.number desc
                  limit :limit)) x
          join workflows w on w.id = x.workflow_id) h
 order by is_name desc, number desc
 limit :limit;

-- name: search_workflows_all(name_words, words, before_name, before, limit)
-- The same, archived workflows too.
-- params: name_words text, words text, before_name int, before int, limit int
-- returns: FoundWorkflow
-- class: page
-- plan: rows 5000
with n as (
    select ('''' || replace(:name_words, ' ', ''' & ''') || ''':*')::tsquery as in_name,
           ('''' || replace(:words, ' ', ''' & ''') || ''':*')::tsquery as in_any
), q as (
    select n.in_name, n.in_any && !! n.in_name as in_others from n
), f as materialized (
    select x.number, x.workflow_id
      from workflow_texts x
     where :before_name > 20 * :limit::bigint
       and array_to_tsvector(string_to_array(rtrim(x.name_terms || x.description_terms || x.tag_terms), ' '))
           @@ (select q.in_name from q)
       and x.number + 0 < :before_name
     fetch first (20 * :limit::bigint) rows only
), g as materialized (
    select x.number, x.workflow_id
      from workflow_texts x
     where :before > 20 * :limit::bigint
       and array_to_tsvector(string_to_array(rtrim(x.name_terms || x.description_terms || x.tag_terms), ' '))
           @@ (select q.in_others from q)
       and x.number + 0 < :before
     fetch first (20 * :limit::bigint) rows only
)
select id, handle, name, slug, description, tags, draft_access, is_archived, is_public, published_at, published_by,
       require_login, chat_config, revision, created_at, created_by, updated_at,
       number, is_name
  from (select w.id, w.handle, w.name, w.slug, w.description, w.tags, w.draft_access, w.is_archived, w.is_public,
               w.published_at, w.published_by, w.require_login, w.chat_config, w.revision, w.created_at,
               w.created_by, w.updated_at,
               x.number, true as is_name
          from ((select f.number, f.workflow_id
                   from f
                  where (select count(*) from f) < 20 * :limit
                  order by f.number desc
                  limit :limit)
                  union all
                (select x.number, x.workflow_id
                   from workflow_texts x
                  where ((select count(*) from f) >= 20 * :limit or :before_name <= 20 * :limit::bigint)
                    and x.number < :before_name
                    and array_to_tsvector(string_to_array(
                            rtrim(x.name_terms || x.description_terms || x.tag_terms || ' '), ' '))
                        @@ (select q.in_name from q)
                  order by x.number desc
                  limit :limit)) x
          join workflows w on w.id = x.workflow_id
         union all
        select w.id, w.handle, w.name, w.slug, w.description, w.tags, w.draft_access, w.is_archived, w.is_public,
               w.published_at, w.published_by, w.require_login, w.chat_config, w.revision, w.created_at,
               w.created_by, w.updated_at,
               x.number, false
          from ((select g.number, g.workflow_id
                   from g
                  where (select count(*) from g) < 20 * :limit
                  order by g.number desc
                  limit :limit)
                  union all
                (select x.number, x.workflow_id
                   from workflow_texts x
                  where ((select count(*) from g) >= 20 * :limit or :before <= 20 * :limit::bigint)
                    and x.number < :before
                    and array_to_tsvector(string_to_array(
                            rtrim(x.name_terms || x.description_terms || x.tag_terms || ' '), ' '))
                        @@ (select q.in_others from q)
                  order by x.number desc
                  limit :limit)) x
          join workflows w on w.id = x.workflow_id) h
 order by is_name desc, number desc
 limit :limit;

-- name: list_workflows_unsearchable(limit)
-- Workflows that lack words, which an earlier version wrote, those made first first; kept as they are until the transaction
-- ends. What another is looking after is left to it.
-- params: limit int
-- returns: NamedWorkflow
-- class: report
select w.id, w.name, w.description, w.tags
  from workflows w
 where (select x.name_terms || x.description_terms || x.tag_terms
          from workflow_texts x
         where x.workflow_id = w.id) is null
 order by w.created_at, w.id
 limit :limit
   for update skip locked;

-- name: create_workflow_texts(ids, name_terms, description_terms, tag_terms)!
-- The words of workflows that lack some, in the order given.
-- params: ids uuid[], name_terms text[], description_terms text[], tag_terms text[]
-- class: report
insert into workflow_texts (workflow_id, name_terms, description_terms, tag_terms)
select x.id, x.name_terms, x.description_terms, x.tag_terms
  from unnest(:ids::uuid[], :name_terms::text[], :description_terms::text[], :tag_terms::text[]) with ordinality
       as x (id, name_terms, description_terms, tag_terms, place)
 order by x.place
    on conflict (workflow_id) do update
   set name_terms = excluded.name_terms, description_terms = excluded.description_terms, tag_terms = excluded.tag_terms;

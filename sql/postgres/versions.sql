-- Versions: the graphs of a workflow, numbered 1, 2, 3 … without gaps by a counter on the workflow. A graph never changes.
-- Grows to about: versions 1e6 rows.

-- name: create_version(id, workflow_id, graph, graph_hash, mermaid, metadata, runnable_config, notes, actor, now)^
-- The next version. Refused with 'archived'.
-- params: id uuid, workflow_id uuid, graph json, graph_hash text, mermaid text?, metadata json, runnable_config json?,
--         notes text?, actor text, now timestamptz
-- returns: Applied[Version]
-- class: point
with l as (
    select id, case when is_archived then 'archived' end as found from workflows where id = :workflow_id for update
), p as (
    update workflows w
       set last_version = w.last_version + 1, last_event = w.last_event + 1
      from l
     where w.id = l.id and l.found is null
    returning w.id, w.last_version, w.last_event
), v as (
    insert into workflow_versions (id, workflow_id, number, graph, graph_hash, mermaid, metadata, runnable_config,
                                   notes, created_at, created_by, updated_at)
    select :id, p.id, p.last_version, :graph, :graph_hash, :mermaid, :metadata, :runnable_config, :notes, :now, :actor,
           :now
      from p
    returning id, workflow_id, number, graph, graph_hash, mermaid, metadata, runnable_config, notes, created_at,
              created_by, updated_at
), e as (
    insert into workflow_events (workflow_id, number, actor, action, at, metadata)
    select id, last_event, :actor, 'version_created', :now, jsonb_build_object('number', last_version) from p
)
select v.id is not null as applied, l.found,
       v.id, v.workflow_id, v.number, v.graph, v.graph_hash, v.mermaid, v.metadata, v.runnable_config, v.notes,
       v.created_at, v.created_by, v.updated_at
  from l left join v on true;

-- name: get_version(id)^
-- One version.
-- params: id uuid
-- returns: Version
-- class: point
select id, workflow_id, number, graph, graph_hash, mermaid, metadata, runnable_config, notes, created_at,
       created_by, updated_at
  from workflow_versions
 where id = :id;

-- name: get_version_number(workflow_id, number)^
-- A workflow's version with this number.
-- params: workflow_id uuid, number int
-- returns: Version
-- class: point
select id, workflow_id, number, graph, graph_hash, mermaid, metadata, runnable_config, notes, created_at,
       created_by, updated_at
  from workflow_versions
 where workflow_id = :workflow_id and number = :number;

-- name: get_version_latest(workflow_id)^
-- A workflow's version with the highest number.
-- params: workflow_id uuid
-- returns: Version
-- class: point
select id, workflow_id, number, graph, graph_hash, mermaid, metadata, runnable_config, notes, created_at,
       created_by, updated_at
  from workflow_versions
 where workflow_id = :workflow_id
 order by number desc
 limit 1;

-- name: get_version_by_hash(workflow_id, graph_hash)^
-- A workflow's newest version whose graph has this content hash.
-- params: workflow_id uuid, graph_hash text
-- returns: Version
-- class: point
select id, workflow_id, number, graph, graph_hash, mermaid, metadata, runnable_config, notes, created_at,
       created_by, updated_at
  from workflow_versions
 where workflow_id = :workflow_id and graph_hash = :graph_hash
 order by number desc
 limit 1;

-- name: list_versions(workflow_id, before, limit)
-- Versions of a workflow, newest first, one page; before is the largest integer for the first.
-- params: workflow_id uuid, before int, limit int
-- returns: Version
-- class: page
select id, workflow_id, number, graph, graph_hash, mermaid, metadata, runnable_config, notes, created_at,
       created_by, updated_at
  from workflow_versions
 where workflow_id = :workflow_id and number < :before
 order by number desc
 limit :limit;

-- name: list_versions_numbered(workflow_id, numbers)
-- The versions of a workflow that have these numbers, lowest first. Planned with its values: a plan for any values reads
-- all versions of the workflow, 3000 rows where 2 were asked for.
-- params: workflow_id uuid, numbers int[]
-- returns: Version
-- class: point
-- plan: custom
select id, workflow_id, number, graph, graph_hash, mermaid, metadata, runnable_config, notes, created_at,
       created_by, updated_at
  from workflow_versions
 where workflow_id = :workflow_id and number = any(:numbers)
 order by number;

-- name: update_version_config(workflow_id, number, runnable_config, actor, now)^
-- Set or clear a version's runnable_config.
-- params: workflow_id uuid, number int, runnable_config json?, actor text, now timestamptz
-- returns: Version
-- class: point
with v as (
    update workflow_versions
       set runnable_config = :runnable_config, updated_at = :now
     where workflow_id = :workflow_id and number = :number
    returning id, workflow_id, number, graph, graph_hash, mermaid, metadata, runnable_config, notes, created_at,
              created_by, updated_at
), p as (
    update workflows w set last_event = w.last_event + 1 from v where w.id = v.workflow_id
    returning w.id, w.last_event
), e as (
    insert into workflow_events (workflow_id, number, actor, action, at, metadata)
    select p.id, p.last_event, :actor, 'version_configured', :now, jsonb_build_object('number', v.number)
      from p cross join v
)
select id, workflow_id, number, graph, graph_hash, mermaid, metadata, runnable_config, notes, created_at,
       created_by, updated_at
  from v;

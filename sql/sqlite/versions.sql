-- Versions: the graphs of a workflow, numbered 1, 2, 3 … without gaps by a counter on the workflow. A graph never changes.
-- Grows to about: versions 1e6 rows.

-- name: create_version(id, workflow_id, graph, graph_hash, mermaid, metadata, runnable_config, notes, actor, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
update workflows
   set last_version = last_version + 1, last_event = last_event + 1
 where id = :workflow_id and is_archived = 0;
insert into workflow_versions (id, workflow_id, number, graph, graph_hash, mermaid, metadata, runnable_config, notes,
                               created_at, created_by, updated_at)
select :id, id, last_version, :graph, :graph_hash, :mermaid, :metadata, :runnable_config, :notes, :now, :actor, :now
  from workflows
 where id = :workflow_id and changes() = 1;
insert into workflow_events (workflow_id, number, actor, action, at, metadata)
select id, last_event, :actor, 'version_created', :now, json_object('number', last_version)
  from workflows
 where id = :workflow_id and changes() = 1;
select changes() = 1 as applied, 'archived' as found,
       v.id, v.workflow_id, v.number, v.graph, v.graph_hash, v.mermaid, v.metadata, v.runnable_config, v.notes,
       v.created_at, v.created_by, v.updated_at
  from workflows w left join workflow_versions v on v.id = :id
 where w.id = :workflow_id;

-- name: get_version(id)^
select id, workflow_id, number, graph, graph_hash, mermaid, metadata, runnable_config, notes, created_at,
       created_by, updated_at
  from workflow_versions
 where id = :id;

-- name: get_version_number(workflow_id, number)^
select id, workflow_id, number, graph, graph_hash, mermaid, metadata, runnable_config, notes, created_at,
       created_by, updated_at
  from workflow_versions
 where workflow_id = :workflow_id and number = :number;

-- name: get_version_latest(workflow_id)^
select id, workflow_id, number, graph, graph_hash, mermaid, metadata, runnable_config, notes, created_at,
       created_by, updated_at
  from workflow_versions
 where workflow_id = :workflow_id
 order by number desc
 limit 1;

-- name: get_version_by_hash(workflow_id, graph_hash)^
select id, workflow_id, number, graph, graph_hash, mermaid, metadata, runnable_config, notes, created_at,
       created_by, updated_at
  from workflow_versions
 where workflow_id = :workflow_id and graph_hash = :graph_hash
 order by number desc
 limit 1;

-- name: list_versions(workflow_id, before, limit)
select id, workflow_id, number, graph, graph_hash, mermaid, metadata, runnable_config, notes, created_at,
       created_by, updated_at
  from workflow_versions
 where workflow_id = :workflow_id and number < :before
 order by number desc
 limit :limit;

-- name: list_versions_numbered(workflow_id, numbers)
select id, workflow_id, number, graph, graph_hash, mermaid, metadata, runnable_config, notes, created_at,
       created_by, updated_at
  from workflow_versions
 where workflow_id = :workflow_id and number in (select value from json_each(:numbers))
 order by number;

-- name: update_version_config(workflow_id, number, runnable_config, actor, now)^
-- differs: a script in one transaction; changes() tells whether the statement before it did anything.
update workflow_versions
   set runnable_config = :runnable_config, updated_at = :now
 where workflow_id = :workflow_id and number = :number;
update workflows
   set last_event = last_event + 1
 where id = :workflow_id and changes() = 1;
insert into workflow_events (workflow_id, number, actor, action, at, metadata)
select id, last_event, :actor, 'version_configured', :now, json_object('number', :number)
  from workflows
 where id = :workflow_id and changes() = 1;
select id, workflow_id, number, graph, graph_hash, mermaid, metadata, runnable_config, notes, created_at,
       created_by, updated_at
  from workflow_versions
 where workflow_id = :workflow_id and number = :number;

"""In a store's body the queries are those of the SQL files, with their parameters and their answers."""

from uuid import UUID

from dal import Run, RunNotFound
from dal.core.face import M, Queries, Store, missing, statement


class Mine(Store[M]):
    @statement
    async def unknown_query(self, q: Queries, run_id: UUID) -> Run:
        return await q.get_runn(run_id=run_id) or missing(RunNotFound, run_id)  # refused

    @statement
    async def wrong_name(self, q: Queries, run_id: UUID) -> Run:
        return await q.get_run(id=run_id) or missing(RunNotFound, run_id)  # refused

    @statement
    async def wrong_type(self, q: Queries, run_id: str) -> Run:
        return await q.get_run(run_id=run_id) or missing(RunNotFound, run_id)  # refused

    @statement
    async def no_name(self, q: Queries, run_id: UUID) -> Run:
        return await q.get_run(run_id) or missing(RunNotFound, run_id)  # refused

    @statement
    async def too_few(self, q: Queries, run_id: UUID) -> Run:
        return await q.get_run() or missing(RunNotFound, run_id)  # refused

    @statement
    async def null_where_none_may_be(self, q: Queries) -> Run | None:
        return await q.get_run(run_id=None)  # refused

    @statement
    async def not_awaited(self, q: Queries, run_id: UUID) -> Run:
        return q.get_run(run_id=run_id) or missing(RunNotFound, run_id)  # refused

    @statement
    async def maybe_none(self, q: Queries, run_id: UUID) -> Run:
        return await q.get_run(run_id=run_id)  # refused

    @statement
    async def attribute_of_maybe_none(self, q: Queries, run_id: UUID) -> str:
        return (await q.get_run(run_id=run_id)).status  # refused

    @statement
    async def attribute_of_a_list(self, q: Queries, workflow_id: UUID) -> str:
        return (await q.list_versions(workflow_id=workflow_id, before=9, limit=1)).notes  # refused

    @statement
    async def wrong_attribute_of_a_row(self, q: Queries, workflow_id: UUID) -> list[int]:
        return [row.no for row in await q.list_versions(workflow_id=workflow_id, before=9, limit=1)]  # refused

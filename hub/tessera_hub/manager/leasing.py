"""Leases: what a Proxy is told of runs that it is to start."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import structlog
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.api.context import Context
from tessera_hub.manager.checkpoints import last_checkpoint
from tessera_hub.manager.tokens import run_token
from tessera_hub.schemas.protocol import Lease
from tessera_hub.schemas.stored import stored_spec
from tessera_hub.schemas.tasks import TaskKind
from tessera_hub.store.tables import Principal, Queue, RunRow, TaskRow, Tenant

log = structlog.get_logger(__name__)


async def leases(session: AsyncSession, context: Context, run_ids: Sequence[UUID], most: int) -> list[Lease]:
    """Return the leases of the first *most* of these runs that can be read, in the same order."""
    found: list[Lease] = []
    left = list(run_ids)
    while left and len(found) < most:
        some, left = left[: most - len(found)], left[most - len(found) :]
        query = (
            select(RunRow, TaskRow, Tenant.name, Principal.hub_name, Queue.path)
            .join(TaskRow, TaskRow.id == RunRow.task_id)
            .join(Tenant, Tenant.id == TaskRow.tenant_id)
            .join(Principal, Principal.id == TaskRow.principal_id)
            .outerjoin(Queue, Queue.id == TaskRow.queue_id)
            .where(RunRow.id.in_(some))
        )
        rows = {row[0].id: row for row in await session.execute(query, execution_options={"populate_existing": True})}
        for run_id in some:
            if run_id not in rows:
                continue
            run, task, tenant, owner, queue = rows[run_id]
            try:
                found.append(await _lease(session, context, run, task, tenant=tenant, owner=owner, queue=queue))
            except ValidationError as error:  # the cluster's other runs are not held up by a row that nobody can read
                log.error("run_unreadable", run=str(run.id), error=str(error))
    return found


async def _lease(
    session: AsyncSession, context: Context, run: RunRow, task: TaskRow, *, tenant: str, owner: str, queue: str | None
) -> Lease:
    return Lease(
        run_id=run.id,
        task_id=task.id,
        attempt=run.attempt,
        lease_token=run.lease_token or "",
        run_token=run_token(context.settings.secret, run.id, run.lease_token or ""),
        tenant=tenant,
        tenant_id=task.tenant_id,
        principal_id=task.principal_id,
        owner=owner,
        queue=queue,
        spec=stored_spec(task.spec),
        card_class=run.card_class,
        managed_by="spawner" if task.kind == TaskKind.WORKSPACE.value else "proxy",
        checkpoint=await last_checkpoint(session, task.id, run.attempt),
    )

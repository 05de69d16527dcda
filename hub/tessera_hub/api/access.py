"""What a caller may see: one place, used by every route that takes an id.

The owner, as long as they belong to the task's tenant, and operators see all of a task. Members of its tenant see the row in
lists (what runs, since when, how much it holds: that is the queue they share), never its specification, logs, files or cost.
Everything else does not exist for them. Files of the tenant's store are open to members who know their hash.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import ColumnElement, true
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.api.auth import Caller
from tessera_hub.api.errors import not_found
from tessera_hub.store.tables import TaskRow
from tessera_hub.tasks.views import TaskRecord, fetch, records


def listed(caller: Caller) -> ColumnElement[bool]:
    """Return the condition of tasks whose rows *caller* may list."""
    if caller.operator:
        return true()
    return TaskRow.tenant_id.in_(caller.tenants.values())


def owns(caller: Caller, task: TaskRow) -> bool:
    """Whether *caller* may see and change all of *task*."""
    return caller.operator or (task.principal_id == caller.principal_id and task.tenant_id in caller.tenants.values())


async def own_task(session: AsyncSession, caller: Caller, task_id: UUID) -> TaskRecord:
    """Return the task if *caller* owns it or is an operator.

    Raises:
        Problem: 404, also for a task of somebody else.
    """
    found = await fetch(session, records().where(TaskRow.id == task_id))
    if not found or not owns(caller, found[0].task):
        raise not_found("task")
    return found[0]


def member_tenant(caller: Caller, tenant: str) -> int | None:
    """Return the id of *tenant* if *caller* belongs to it, None otherwise."""
    return caller.tenants.get(tenant)

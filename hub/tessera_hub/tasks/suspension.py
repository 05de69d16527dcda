"""Holding a running task still and letting it go on: a wish at the task, which its Manager turns into orders."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.schemas.tasks import Phase, TaskKind
from tessera_hub.store.notify import cluster_topic, note
from tessera_hub.store.tables import Cluster, RunRow, TaskRow
from tessera_hub.tasks.machine import TransitionError, announce

CAPABILITY: Final = "suspend"
AT_CLUSTER: Final = frozenset({Phase.DISPATCHED, Phase.PENDING, Phase.STARTING, Phase.RUNNING, Phase.SUSPENDED, Phase.UNKNOWN})
"""Phases in which the wish is taken; it is carried out as soon as the run works."""


async def request_suspension(session: AsyncSession, task_id: UUID, wanted: bool) -> TaskRow:
    """Wish that a task is suspended, or goes on; a repeat changes nothing. The cluster's next sync carries it out.

    A suspended task keeps its memory and cards and pays for them; only its processors are free.

    Raises:
        TransitionError: ``task.not_suspendable``: it is not at a cluster, is a workspace, or its cluster cannot do it.
    """
    task = (
        await session.scalars(
            select(TaskRow).where(TaskRow.id == task_id).with_for_update(), execution_options={"populate_existing": True}
        )
    ).one()
    run = (await session.scalars(select(RunRow).where(RunRow.id == task.run_id))).one()
    cluster = await session.get(Cluster, run.cluster_id) if run.cluster_id is not None else None
    able = cluster is not None and CAPABILITY in cluster.capabilities and task.kind != TaskKind.WORKSPACE.value
    if Phase(task.phase) not in AT_CLUSTER or not able:
        raise TransitionError("task.not_suspendable", f"task {task_id} is {task.phase}")
    if task.suspend_requested != wanted:
        task.suspend_requested = wanted
        task.version += 1
        announce(session, task, run)
        note(session, cluster_topic(run.cluster_id or 0))
    return task

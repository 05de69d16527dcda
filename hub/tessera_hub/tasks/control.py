"""Cancelling, retrying and what follows the end of a run."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.schemas.stored import stored_lifecycle
from tessera_hub.schemas.tasks import Phase
from tessera_hub.store.notify import cluster_topic, note
from tessera_hub.store.tables import RunRow, TaskRow
from tessera_hub.tasks.machine import TransitionError, announce, transition
from tessera_hub.tasks.reasons import reason
from tessera_hub.tasks.storing import add_run


async def request_cancel(session: AsyncSession, task_id: UUID, *, actor: str, why: str = "cancel") -> TaskRow:
    """Cancel a task: at once while it waits, else by an order to its cluster. A repeat changes nothing.

    Args:
        why: ``cancel``, or ``preempt`` to make room: then a task that has not started returns to the queue, and one that runs
            gets its grace and is treated as its ``on_preemption`` says. A cancel overrides a preemption.

    Returns:
        The task; ``cancel_requested_at`` stays set until the cluster reported the end.
    """
    task = (
        await session.scalars(
            select(TaskRow).where(TaskRow.id == task_id).with_for_update(), execution_options={"populate_existing": True}
        )
    ).one()
    if Phase(task.phase).final:
        return task
    if task.cancel_requested_at is None or (why == "cancel" and task.cancel_why == "preempt"):
        task.cancel_requested_at, task.cancel_why = datetime.now(UTC), why
        task.version += 1
        announce(session, task)
    run = (
        await session.scalars(
            select(RunRow).where(RunRow.id == task.run_id).with_for_update(), execution_options={"populate_existing": True}
        )
    ).one()
    # What was claimed may begin any moment, whatever the service has heard of it: its cluster is to end it.
    if why == "preempt" and Phase(run.phase) in (Phase.QUEUED, Phase.RESERVED) and run.claimed_by is None:
        task.cancel_requested_at = task.cancel_why = None
        if Phase(run.phase) is Phase.RESERVED:
            await transition(session, run.id, Phase.QUEUED, actor=actor, reasons=[reason("policy.preempted", by=actor)])
        return task
    # Queued: nothing started anywhere. Reserved: the Proxy has not seen it, its lease token is void with the phase.
    if why != "preempt" and Phase(run.phase) in (Phase.QUEUED, Phase.RESERVED):
        await transition(session, run.id, Phase.CANCELLED, actor=actor, reasons=[reason("policy.cancelled", by=actor)])
    elif run.cluster_id is not None:
        note(session, cluster_topic(run.cluster_id))
    return task


async def retry(session: AsyncSession, task_id: UUID, *, actor: str, excluded: list[str] | None = None) -> TaskRow:
    """Queue a new attempt of a task whose latest run ended.

    Raises:
        TransitionError: ``task.not_final``.
    """
    task = (
        await session.scalars(
            select(TaskRow).where(TaskRow.id == task_id).with_for_update(), execution_options={"populate_existing": True}
        )
    ).one()
    if not Phase(task.phase).final:
        raise TransitionError("task.not_final", f"task {task_id} is still {task.phase}")
    now = datetime.now(UTC)
    task.run_id, task.attempts = uuid4(), task.attempts + 1
    task.phase, task.version = Phase.QUEUED.value, task.version + 1
    task.started_at = task.finished_at = task.cancel_requested_at = task.cancel_why = None
    task.suspend_requested = False
    add_run(session, task.run_id, task.id, task.queue_id, attempt=task.attempts, actor=actor, now=now, excluded=excluded)
    announce(session, task)
    return task


RETRIED_CODES = frozenset(
    {"cell.error", "script.exit", "kernel.died", "limit.memory", "cluster.lost", "cluster.start_failed", "disk.full"}
)
"""Failures that another attempt may cure; a broken notebook or an unknown kernel is not among them."""


async def after_end(session: AsyncSession, run_id: UUID, *, code: str = "") -> bool:
    """Start the next attempt if the task's lifecycle asks for one; return whether it did.

    Called in the transaction that ended the run, with the code of its first reason.
    """
    run = (await session.scalars(select(RunRow).where(RunRow.id == run_id))).one()
    task = (await session.scalars(select(TaskRow).where(TaskRow.id == run.task_id))).one()
    if task.run_id != run.id or (task.cancel_requested_at is not None and task.cancel_why != "preempt"):
        return False
    lifecycle = stored_lifecycle(task.spec)
    phase = Phase(run.phase)
    failed = phase is Phase.FAILED and code in RETRIED_CODES and task.attempts <= lifecycle.retries
    preempted = phase is Phase.PREEMPTED and lifecycle.on_preemption == "requeue"
    if not (failed or preempted):
        return False
    await retry(session, task.id, actor="service")
    return True

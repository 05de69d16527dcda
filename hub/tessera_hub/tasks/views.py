"""Rows to the schemas of the API."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_billing.accrual import Accrual as BilledAccrual
from tessera_billing.accrual import task_accruals
from tessera_hub.scheduling.standing import Standing, standings
from tessera_hub.schemas.stored import stored_spec
from tessera_hub.schemas.tasks import Accrual, Phase, Progress, Run, Task, TaskDetail, TaskEvent, TaskKind
from tessera_hub.store.tables import Cluster, Principal, Queue, RunRow, TaskEventRow, TaskRow, Tenant
from tessera_hub.tasks.reasons import localised, reason


@dataclass(slots=True)
class TaskRecord:
    """A task with the names it is shown with and its latest run."""

    task: TaskRow
    run: RunRow
    owner: str
    tenant: str
    queue: str
    cluster: str | None
    standing: Standing | None = None
    """Where it waits; None when it does not."""
    accrual: BilledAccrual | None = None


Records = Select[TaskRow, RunRow, str, str, str, str]


def records() -> Records:
    """Return the query that all lists and details start from."""
    return (
        select(TaskRow, RunRow, Principal.hub_name, Tenant.name, Queue.path, Cluster.name)
        .join(RunRow, RunRow.id == TaskRow.run_id)
        .join(Principal, Principal.id == TaskRow.principal_id)
        .join(Tenant, Tenant.id == TaskRow.tenant_id)
        .join(Queue, Queue.id == TaskRow.queue_id)
        .outerjoin(Cluster, Cluster.id == RunRow.cluster_id)
    )


async def fetch(session: AsyncSession, query: Records) -> list[TaskRecord]:
    """Run *query* (made from :func:`records`) and add where each waits and what each costs, three queries in all."""
    fresh = {"populate_existing": True}
    found = [
        TaskRecord(row[0], row[1], row[2], row[3], row[4], row[5])
        for row in (await session.execute(query, execution_options=fresh)).all()
    ]
    waiting = [r.run.id for r in found if r.run.phase == Phase.QUEUED.value]
    if waiting:
        known = await standings(session, waiting)
        for record in found:
            record.standing = known.get(record.run.id)
    begun = [
        str(r.task.id) for r in found if r.task.attempts > 1 or r.task.started_at is not None or r.run.cluster_id is not None
    ]
    if begun:
        accruals = await session.run_sync(lambda s: task_accruals(s.connection(), begun, int(time.time())))
        for record in found:
            record.accrual = accruals.get(str(record.task.id))
    return found


def accrual_view(accrual: BilledAccrual) -> Accrual:
    """Return live cost as the API shows it."""
    return Accrual(
        currency=accrual.currency,
        micro=accrual.amount_micro,
        nano_per_hour=accrual.rate_nano_per_hour,
        as_of=datetime.fromtimestamp(accrual.as_of, UTC),
    )


def task_view(record: TaskRecord) -> Task:
    """Return a task as lists show it, texts in the current language."""
    return Task.model_validate(_fields(record))


def _fields(record: TaskRecord) -> dict[str, Any]:
    task, run = record.task, record.run
    reasons = [localised(r) for r in run.reasons]
    position = None
    if run.phase == Phase.QUEUED.value:
        if task.not_before is not None and task.not_before > datetime.now(UTC):
            reasons = [localised(reason("policy.not_before", at=task.not_before.isoformat()))]
        elif record.standing is not None:
            reasons = [localised(r) for r in record.standing.reasons]
            position = record.standing.position
    entry = task.spec.get("entry")
    return {
        "id": task.id,
        "name": task.name,
        "kind": TaskKind(task.kind),
        "owner": record.owner,
        "tenant": record.tenant,
        "queue": record.queue,
        "priority": task.priority,
        "phase": Phase(task.phase),
        "cancel_requested": task.cancel_requested_at is not None and not Phase(task.phase).final,
        "cluster": record.cluster,
        "attempts": task.attempts,
        "reasons": reasons,
        "position": position,
        "progress": Progress.model_validate(run.progress or {}),
        "resources": task.request,
        "cost": accrual_view(record.accrual) if record.accrual else None,
        "entry": entry,
        "created_at": task.created_at,
        "started_at": task.started_at,
        "finished_at": task.finished_at,
        "run_id": run.id,
        "version": task.version,
    }


async def detail_view(session: AsyncSession, record: TaskRecord) -> TaskDetail:
    """Return a task with its specification and all runs."""
    rows = await session.execute(
        select(RunRow, Cluster.name)
        .outerjoin(Cluster, Cluster.id == RunRow.cluster_id)
        .where(RunRow.task_id == record.task.id)
        .order_by(RunRow.attempt)
    )
    runs = [run_view(row[0], row[1]) for row in rows.all()]
    return TaskDetail.model_validate(_fields(record) | {"spec": stored_spec(record.task.spec), "runs": runs})


def run_view(run: RunRow, cluster: str | None) -> Run:
    """Return a run as the API shows it."""
    return Run(
        id=run.id,
        task_id=run.task_id,
        attempt=run.attempt,
        phase=Phase(run.phase),
        cluster=cluster,
        native_id=run.native_id,
        reasons=[localised(r) for r in run.reasons],
        progress=Progress.model_validate(run.progress or {}),
        exit_code=run.exit_code,
        queued_at=run.queued_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        unknown_since=run.unknown_since,
    )


async def events_view(session: AsyncSession, task_id: UUID) -> list[TaskEvent]:
    """Return what happened to a task, oldest first."""
    query = select(TaskEventRow).where(TaskEventRow.task_id == task_id).order_by(TaskEventRow.at, TaskEventRow.recorded_at)
    rows: Sequence[TaskEventRow] = (await session.scalars(query)).all()
    return [
        TaskEvent(
            id=row.id,
            run_id=row.run_id,
            at=row.at,
            actor=row.actor,
            kind=row.kind,
            phase_from=Phase(row.phase_from) if row.phase_from else None,
            phase_to=Phase(row.phase_to) if row.phase_to else None,
            reason=localised(row.reason) if row.reason else None,
            detail=row.detail,
        )
        for row in rows
    ]

"""Where a waiting run stands: read from the verdict of its lane that the last cycle stored, and its own place in the queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.tasks import Phase, QueuePosition
from tessera_hub.store.tables import Decision, RunRow, TaskRow


@dataclass(frozen=True, slots=True)
class Standing:
    """Why a run waits, ranked, and its place."""

    reasons: tuple[Reason, ...]
    position: QueuePosition


def due(now: datetime) -> ColumnElement[bool]:
    """Return the condition that a task is not planned for later than *now*."""
    return or_(TaskRow.not_before.is_(None), TaskRow.not_before <= now)


async def standings(session: AsyncSession, run_ids: Sequence[UUID]) -> dict[UUID, Standing]:
    """Return the standing of the queued ones among *run_ids*: one query, which orders each of their queues once.

    What is planned for later stands nowhere yet, and is before nobody.
    """
    queues = select(RunRow.queue_id).where(RunRow.id.in_(list(run_ids)))
    before = func.rank().over(partition_by=RunRow.queue_id, order_by=(TaskRow.priority.desc(), RunRow.queued_at))
    ranked = (
        select(RunRow.id, RunRow.decision_id, (before - 1).label("ahead"))
        .join(TaskRow, TaskRow.id == RunRow.task_id)
        .where(RunRow.phase == Phase.QUEUED.value, RunRow.queue_id.in_(queues), due(datetime.now(UTC)))
        .subquery()
    )
    query = (
        select(ranked.c.id, ranked.c.ahead, Decision.body)
        .outerjoin(Decision, Decision.id == ranked.c.decision_id)
        .where(ranked.c.id.in_(list(run_ids)))
    )
    found: dict[UUID, Standing] = {}
    for row in (await session.execute(query)).all():
        body = row.body or {}
        eta = body.get("eta_seconds")
        position = QueuePosition(
            position=row.ahead + 1,
            ahead_tasks=row.ahead,
            ahead_centi_cards=int(body.get("ahead_centi_cards") or 0),
            eta_seconds_p50=eta,
            eta_seconds_p90=None,
        )
        reasons = tuple(Reason.model_validate(r) for r in body.get("reasons", ()))
        found[row.id] = Standing(reasons, position)
    return found

"""What an attempt left in its checkpoint directory, handed to the next one."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.schemas.bounds import STORED
from tessera_hub.schemas.tasks import InputFile
from tessera_hub.store.tables import RunCheckpoint, RunRow, TaskEventRow


async def last_checkpoint(session: AsyncSession, task_id: UUID, attempt: int) -> list[InputFile]:
    """Return the files of the newest complete checkpoint of an earlier attempt, empty if there is none.

    A checkpoint is complete when the end of its run tells how many files it has and as many have arrived: what a lost
    cluster had begun to send is not used.
    """
    if attempt <= 1:
        return []
    ends = (
        await session.execute(
            select(RunRow.id, TaskEventRow.detail)
            .join(TaskEventRow, TaskEventRow.run_id == RunRow.id)
            .where(RunRow.task_id == task_id, RunRow.attempt < attempt, TaskEventRow.phase_to.is_not(None))
            .order_by(RunRow.attempt.desc(), TaskEventRow.recorded_at.desc())
        )
    ).all()
    for run_id, detail in ends:
        count = detail.get("checkpoint")
        if not isinstance(count, int) or count < 1:
            continue
        query = select(RunCheckpoint).where(RunCheckpoint.run_id == run_id).order_by(RunCheckpoint.path)
        rows = (await session.scalars(query)).all()
        if len(rows) == count:
            files = [{"path": row.path, "sha256": row.sha256, "size": row.size, "mode": row.mode} for row in rows]
            return [InputFile.model_validate(file, context=STORED) for file in files]
    return []

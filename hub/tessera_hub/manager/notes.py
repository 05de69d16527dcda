"""Notes: what a person is to know of a run that went on, such as result files that were not kept."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.schemas.protocol import RunEvent
from tessera_hub.schemas.reasons import Reason
from tessera_hub.store.tables import RunRow, TaskEventRow
from tessera_hub.tasks.machine import announce, lock_run, note_of

SHOWN: Final = frozenset({"outputs.cut", "output.truncated"})
"""Codes that stay among the run's reasons to its end, also when it succeeded; others are events only."""


async def take_note(session: AsyncSession, cluster: str, event: RunEvent) -> None:
    """Store a note once, as an event of the task and, if something was lost, among the run's reasons."""
    if event.reason is None:
        return
    run, task = await lock_run(session, event.run_id)
    if await session.get(TaskEventRow, event.event_id) is not None:
        return
    found = event.reason.model_dump(mode="json")
    at = min(event.at, datetime.now(UTC))
    session.add(note_of(run, task, event.reason, actor=f"cluster:{cluster}", at=at, event_id=event.event_id))
    if event.reason.code in SHOWN:
        run.reasons = [*(r for r in run.reasons if r.get("code") != event.reason.code), found]
        task.version += 1
        announce(session, task, run)


def with_notes(run: RunRow, reason: Reason | None) -> list[Reason]:
    """Return the reasons of a run at its end: why it ended, then the notes that are shown."""
    notes = [Reason.model_validate(found) for found in run.reasons if found.get("code") in SHOWN]
    return [*([reason] if reason else []), *notes]

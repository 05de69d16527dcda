"""Silence of Proxies: suspect, unreachable, and what is lost; a reservation nobody takes up returns to the queue.

Silence is not failure, and an outage of the service is no silence: every timer counts from the later of the last contact and the
start of this process.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import select

from tessera_hub.api.context import Context
from tessera_hub.schemas.stored import is_readable, stored_lifecycle
from tessera_hub.schemas.tasks import Phase, TaskKind
from tessera_hub.store.notify import SCHEDULE, note
from tessera_hub.store.tables import Cluster, RunRow, TaskRow
from tessera_hub.tasks.control import retry
from tessera_hub.tasks.machine import transition
from tessera_hub.tasks.reasons import reason

SWEEP_SECONDS: Final = 3600.0
PART_SECONDS: Final = 86_400.0
"""An upload that got no byte for so long is given up, and its bytes with it."""
ON_CLUSTER = tuple(p.value for p in (Phase.DISPATCHED, Phase.PENDING, Phase.STARTING, Phase.RUNNING, Phase.SUSPENDED))


async def run(context: Context) -> None:
    """Look at all clusters a few times per shortest timer, until cancelled."""
    started = datetime.now(UTC)
    interval = min(1.0, context.settings.timers.suspect / 5)
    swept_at = 0.0
    while True:
        await look(context, started)
        if time.monotonic() - swept_at > SWEEP_SECONDS:
            swept_at = time.monotonic()
            await asyncio.to_thread(context.blobs.sweep, PART_SECONDS)
        await asyncio.sleep(interval)


async def look(context: Context, started: datetime) -> None:
    """Apply the timers once."""
    timers = context.settings.timers
    async with context.store.read() as session:
        clusters = (await session.scalars(select(Cluster).where(Cluster.state != "never_connected"))).all()
        reserved = (
            await session.execute(
                select(RunRow.id, RunRow.reserved_at)
                .join(TaskRow, TaskRow.id == RunRow.task_id)
                .where(RunRow.phase == Phase.RESERVED.value, TaskRow.kind != TaskKind.WORKSPACE.value)
            )
        ).all()
    now = datetime.now(UTC)
    for cluster in clusters:
        silent = (now - max(cluster.last_contact_at or started, started)).total_seconds()
        state = "unreachable" if silent > timers.unreachable else "suspect" if silent > timers.suspect else "ok"
        if state != cluster.state or state == "unreachable":
            await _silent(context, cluster.id, state, lost=silent > timers.lost)
    for run in reserved:
        if run.reserved_at and now - max(run.reserved_at, started) > timedelta(seconds=timers.lease_ack):
            async with context.store.write() as session:
                row = await session.get(RunRow, run.id, populate_existing=True, with_for_update=True)
                if row is not None and row.phase == Phase.RESERVED.value and row.claimed_by is None:
                    task = (await session.scalars(select(TaskRow).where(TaskRow.id == row.task_id))).one()
                    # What cannot be read is in no lease, and no other Proxy would take it up, either.
                    readable = is_readable(task.spec)
                    to, why = (Phase.QUEUED, "cluster.back_pressure") if readable else (Phase.FAILED, "task.unreadable")
                    await transition(session, run.id, to, actor="service", reasons=[reason(why)])


async def _silent(context: Context, cluster_id: int, state: str, *, lost: bool) -> None:
    async with context.store.write() as session:
        cluster = await session.get(Cluster, cluster_id, populate_existing=True, with_for_update=True)
        if cluster is None:
            return
        recent = (
            cluster.last_contact_at is not None
            and (datetime.now(UTC) - cluster.last_contact_at).total_seconds() <= context.settings.timers.suspect
        )
        if state != "ok" and recent:
            return  # it spoke meanwhile
        if cluster.state != state:
            cluster.state = state
            note(session, SCHEDULE)
        if state != "unreachable":
            return
        query = (
            select(RunRow.id, RunRow.phase, TaskRow.id.label("task_id"), TaskRow.spec)
            .join(TaskRow, TaskRow.id == RunRow.task_id)
            .where(RunRow.cluster_id == cluster_id, TaskRow.kind != TaskKind.WORKSPACE.value)
            .where(RunRow.phase.in_((*ON_CLUSTER, Phase.UNKNOWN.value)))
        )
        for run in (await session.execute(query)).all():
            if run.phase != Phase.UNKNOWN.value:
                await transition(session, run.id, Phase.UNKNOWN, actor="service", reasons=[reason("cluster.unreachable")])
            elif lost and stored_lifecycle(run.spec).on_lost == "requeue":
                await transition(session, run.id, Phase.FAILED, actor="service", reasons=[reason("cluster.lost")])
                await retry(session, run.task_id, actor="service")

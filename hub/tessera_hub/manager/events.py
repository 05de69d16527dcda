"""What a Proxy tells: events of runs, and facts for the ledger."""

from __future__ import annotations

import time
from typing import Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_billing.events import Action, Evidence, MeterEvent
from tessera_billing.ledger import record
from tessera_hub.manager.notes import take_note, with_notes
from tessera_hub.manager.reconcile import as_given_back, store_progress
from tessera_hub.schemas.protocol import MeteringAnswer, MeteringRequest, RunEvent, RunReport
from tessera_hub.schemas.tasks import Phase, TaskKind
from tessera_hub.store.tables import Cluster, Queue, RunRow, TaskEventRow, TaskRow, Tenant
from tessera_hub.tasks.control import after_end
from tessera_hub.tasks.machine import FOLLOWS, transition

Verdict = Literal["accepted", "duplicate", "stale"]


async def take_event(session: AsyncSession, cluster_id: int, cluster: str, event: RunEvent) -> Verdict:
    """Apply one event. Its id makes a repeat harmless; a step that is past is a duplicate; a stale lease is refused."""
    run = await session.get(RunRow, event.run_id, populate_existing=True)
    if run is None or run.cluster_id != cluster_id or run.lease_token != event.lease_token:
        return "stale"
    if event.kind == "progress":
        if event.progress is not None and not Phase(run.phase).final:
            report = RunReport(
                run_id=event.run_id, lease_token=event.lease_token, phase=Phase(run.phase), progress=event.progress, at=event.at
            )
            await store_progress(session, report)
        return "accepted"
    if event.kind == "note":
        await take_note(session, cluster, event)
        return "accepted"
    if event.kind != "phase" or event.phase is None:
        return "accepted"
    if await session.get(TaskEventRow, event.event_id) is not None:
        return "duplicate"
    before = Phase(run.phase)
    phase, why = await as_given_back(session, run.id, await as_ordered(session, run, event.phase), event.reason)
    if phase is before:
        if event.exit_code is not None and run.exit_code is None:
            run.exit_code = event.exit_code
        return "accepted"
    if phase not in FOLLOWS[before]:
        # What is over stays over: for the Proxy the end has been told. A run that ended here otherwise is fenced by sync.
        return "duplicate"
    done = await transition(
        session,
        event.run_id,
        phase,
        actor=f"cluster:{cluster}",
        reasons=with_notes(run, why) if phase.final else [why] if why else [],
        lease_token=event.lease_token,
        at=event.at,
        event_id=event.event_id,
        exit_code=event.exit_code,
        native_id=event.native_id,
        detail=event.detail,
    )
    if done is not None and phase.final:
        await after_end(session, event.run_id, code=why.code if why else "")
    return "accepted"


async def as_ordered(session: AsyncSession, run: RunRow, phase: Phase) -> Phase:
    """Return the phase as it was wanted: who cancels a task while it is being preempted wants it cancelled."""
    if phase is not Phase.PREEMPTED:
        return phase
    why = await session.scalar(select(TaskRow.cancel_why).where(TaskRow.id == run.task_id, TaskRow.run_id == run.id))
    return Phase.CANCELLED if why == "cancel" else phase


async def meter(session: AsyncSession, cluster: Cluster, request: MeteringRequest) -> MeteringAnswer:
    """Record facts with tenant, person and task of their runs, and keep the checkpoint, in the caller's transaction.

    Once a run is claimed, only the subject that did so is billed: of two starts of the same run at most one is. Facts about runs
    of other clusters are dropped: a cluster can bill only what was placed on it.
    """
    ids = {event.run_id for event in request.events}
    rows = (
        await session.execute(
            select(RunRow.id, RunRow.claimed_by, TaskRow, Tenant.name, Queue.path)
            .join(TaskRow, TaskRow.id == RunRow.task_id)
            .join(Tenant, Tenant.id == TaskRow.tenant_id)
            .join(Queue, Queue.id == TaskRow.queue_id)
            .where(RunRow.id.in_(ids), RunRow.cluster_id == cluster.id)
        )
    ).all()
    owners = {row[0]: row for row in rows}
    now = int(time.time())
    events: list[MeterEvent] = []
    for event in request.events:
        found = owners.get(event.run_id)
        if found is None:
            continue
        _run_id, claimed, task, tenant, queue = found
        # A service claims once, and each of its pods is a subject below the one that did.
        whole = event.subject.partition("/")[0] if task.kind == TaskKind.SERVICE.value else event.subject
        if claimed not in (None, whole):
            continue
        events.append(
            MeterEvent(
                cluster=cluster.name,
                subject=event.subject,
                action=Action(event.action),
                effective_at=event.effective_at,
                observed_at=max(event.observed_at, now),
                tenant=tenant,
                principal=f"principal:{task.principal_id}",
                task_id=str(task.id),
                run_id=str(event.run_id),
                kind=task.kind,
                queue=queue,
                spec=event.spec,
                source=event.source,
                evidence=Evidence(event.evidence or "engine"),
            )
        )
    recorded = await session.run_sync(lambda s: record(s.connection(), events))
    cluster.meter_checkpoint = request.checkpoint
    return MeteringAnswer(accepted=recorded.accepted, duplicate=recorded.duplicate, checkpoint=request.checkpoint)

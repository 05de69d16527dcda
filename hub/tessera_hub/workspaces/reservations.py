"""What the spawner is granted, and what it reports: start and end, which are metered here."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_billing.events import Action, Evidence, MeterEvent
from tessera_billing.ledger import events_of, record
from tessera_hub.api.context import Context
from tessera_hub.environments import is_open
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.stored import stored_spec
from tessera_hub.schemas.tasks import Phase, TaskKind
from tessera_hub.schemas.workspaces import Reservation, WorkspaceState
from tessera_hub.store.tables import Cluster, Principal, Queue, RunRow, TaskRow, Tenant, WorkspaceActivity
from tessera_hub.tasks.machine import LIVE, TransitionError, announce, lock_run, transition
from tessera_hub.tasks.reasons import reason
from tessera_hub.workspaces.idleness import why_idle

GRANTED: Final = (Phase.RESERVED, Phase.DISPATCHED, Phase.PENDING, Phase.STARTING)


async def live_workspace(session: AsyncSession, principal_id: int, server: str) -> TaskRow | None:
    """Return the workspace of that server which has not ended, None if there is none."""
    query = (
        select(TaskRow)
        .where(
            TaskRow.principal_id == principal_id,
            TaskRow.kind == TaskKind.WORKSPACE.value,
            TaskRow.server_name == server,
            TaskRow.phase.in_(LIVE),
        )
        .order_by(TaskRow.created_at.desc())
    )
    return (await session.scalars(query, execution_options={"populate_existing": True})).first()


async def workspace_key(session: AsyncSession, principal_id: int, server: str) -> str:
    """Return the idempotency key of the server's next workspace, so that two requests at once make one task."""
    query = select(func.count()).where(
        TaskRow.principal_id == principal_id, TaskRow.kind == TaskKind.WORKSPACE.value, TaskRow.server_name == server
    )
    return f"workspace/{server}/{int(await session.scalar(query) or 0)}"


async def reservation_of(session: AsyncSession, context: Context, user: str, server: str) -> Reservation:
    """Return what the server of the hub's present user of that name is granted now."""
    model = await context.hub.user(user)
    if model is None:
        return Reservation(state="none")
    query = select(Principal).where(
        Principal.issuer == context.settings.hub_api_url,
        Principal.kind == "user",
        Principal.hub_name == user,
        Principal.hub_created == model["created"],
    )
    principal = (await session.scalars(query)).first()
    task = await live_workspace(session, principal.id, server) if principal is not None else None
    if principal is None or task is None:
        return Reservation(state="none")
    run = await session.get(RunRow, task.run_id, populate_existing=True)
    assert run is not None
    spec = stored_spec(task.spec)
    granted = Phase(run.phase) in GRANTED and run.lease_token is not None and task.cancel_requested_at is None
    # Who has lost the environment since the request starts nothing; the keeper ends the reservation and says why.
    granted = granted and is_open(context.settings.environment_rules, spec.environment, model["groups"])
    if not granted:
        waiting = Phase(run.phase) is Phase.QUEUED
        return Reservation(state="waiting" if waiting else "none", task_id=str(task.id), run_id=str(run.id))
    tenant = await session.get(Tenant, task.tenant_id)
    cluster = await session.get(Cluster, run.cluster_id)
    queue = await session.get(Queue, task.queue_id)
    assert tenant is not None and cluster is not None and run.lease_token is not None  # noqa: PT018
    return Reservation(
        state="granted",
        task_id=str(task.id),
        run_id=str(run.id),
        lease_token=run.lease_token,
        principal_id=principal.id,
        tenant_id=tenant.id,
        tenant=tenant.name,
        cluster=cluster.name,
        queue=queue.path if queue is not None else "",
        spec=spec,
        card_class=run.card_class,
        expires_at=run.expires_at,
    )


async def report(session: AsyncSession, run_id: UUID, state: WorkspaceState, *, actor: str) -> None:
    """Take a spawner's report: move the run and meter its start and end.

    Raises:
        TransitionError: ``run.unknown``, ``run.stale_lease``, or ``run.illegal_transition`` for a run that has ended.
    """
    run, task = await lock_run(session, run_id)
    if run.lease_token != state.lease_token:
        raise TransitionError("run.stale_lease", f"run {run_id}: the lease token is not the current one")
    to = Phase(state.phase)
    charge = {d: int(a) for d, a in run.charge.items() if int(a)}
    before = Phase(run.phase)
    reasons = [reason(state.reason, **state.detail)] if state.reason else []
    if to.final and task.cancel_why == "limit":
        reasons = [reason("limit.time")]
    if to.final and task.cancel_why == "idle" and task.cancel_requested_at is not None:
        reasons = [why_idle(await session.get(WorkspaceActivity, run.id), task.cancel_requested_at)]
    if to is Phase.SUCCEEDED and before is not Phase.RUNNING and before is not Phase.UNKNOWN and task.cancel_requested_at:
        to = Phase.CANCELLED
    if to is before is Phase.STARTING:
        await store_reasons(session, run, task, reasons)
        return
    done = await transition(
        session, run_id, to, actor=actor, reasons=reasons, lease_token=state.lease_token, at=state.at, native_id=state.native_id
    )
    if done is None:
        return
    if to is Phase.RUNNING:
        run.expires_at = None
        await meter(session, run, task, Action.START, done.at, charge)
    elif to.final and run.started_at is not None:
        await meter(session, run, task, Action.STOP, done.at)


async def store_reasons(session: AsyncSession, run: RunRow, task: TaskRow, reasons: list[Reason]) -> None:
    """Keep why a server takes its time to start, which changes while its phase does not."""
    new = [reason.model_dump(mode="json") for reason in reasons]
    if new != (run.reasons or []):
        run.reasons = new
        task.version += 1
        announce(session, task, run)


async def meter(
    session: AsyncSession,
    run: RunRow,
    task: TaskRow,
    action: Action,
    at: datetime,
    spec: dict[str, int] | None = None,
    evidence: Evidence = Evidence.ENGINE,
) -> None:
    """Write one event of a workspace to the ledger, in the caller's transaction."""
    tenant = await session.get(Tenant, task.tenant_id)
    queue = await session.get(Queue, task.queue_id)
    cluster = await session.get(Cluster, run.cluster_id)
    assert tenant is not None and queue is not None and cluster is not None  # noqa: PT018
    event = MeterEvent(
        cluster=cluster.name,
        subject=f"workspace/{run.id}",
        action=action,
        effective_at=int(at.timestamp()),
        observed_at=int(time.time()),
        tenant=tenant.name,
        principal=f"principal:{task.principal_id}",
        task_id=str(task.id),
        run_id=str(run.id),
        kind=task.kind,
        queue=queue.path,
        spec=spec or {},
        source="spawner",
        evidence=evidence,
    )
    await session.run_sync(lambda s: record(s.connection(), [event]))


async def last_seen(session: AsyncSession, run: RunRow) -> datetime | None:
    """Return when the workspace was last known to live: what nobody saw afterwards is not billed."""
    cluster = await session.get(Cluster, run.cluster_id)
    assert cluster is not None
    subject = (cluster.name, f"workspace/{run.id}")
    events = (await session.run_sync(lambda s: events_of(s.connection(), [subject]))).get(subject, [])
    return max((datetime.fromtimestamp(e.effective_at, UTC) for e in events), default=None)

"""Sync: take the report, answer with desired minus reported.

Orders follow from the database and the report alone, so a lost, repeated or late answer heals itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from pydantic import ValidationError
from sqlalchemy import Row, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.api.context import Context
from tessera_hub.manager.checkpoints import last_checkpoint
from tessera_hub.manager.membership import UNSTARTED, Pair
from tessera_hub.manager.queues import desired_queues
from tessera_hub.manager.tokens import run_token
from tessera_hub.schemas.protocol import Cancel, Lease, RunReport, SyncAnswer, SyncRequest
from tessera_hub.schemas.reasons import MAY_HAVE_BEGUN, Reason
from tessera_hub.schemas.stored import stored_lifecycle, stored_spec
from tessera_hub.schemas.tasks import Phase, TaskKind
from tessera_hub.store.notify import SCHEDULE, note
from tessera_hub.store.tables import Cluster, Principal, Queue, RunRow, TaskRow, Tenant
from tessera_hub.tasks.control import after_end
from tessera_hub.tasks.machine import FOLLOWS, LIVE, announce, lock_run, transition
from tessera_hub.tasks.reasons import reason

log = structlog.get_logger(__name__)

WAITING: Final = frozenset({Phase.DISPATCHED, Phase.PENDING, Phase.STARTING})
"""Phases at a cluster before user code runs."""
PIECE: Final = 1000
"""Runs that one statement names."""


@dataclass(slots=True)
class Seen:
    """Runs that were reported in an epoch; kept per process. Without it a missing run is UNKNOWN first, never lost at once."""

    epoch: int
    runs: set[UUID] = field(default_factory=set)
    since: datetime = field(default_factory=lambda: datetime.now(UTC))


_seen: dict[tuple[int, int], Seen] = {}


async def take_report(session: AsyncSession, context: Context, cluster: Cluster, request: SyncRequest) -> bool:
    """Store contact, inventory and phases; return False for a report older than the last one, which changes nothing."""
    if request.seq < cluster.last_seq:
        return False
    cluster.last_seq, cluster.last_contact_at, cluster.accept_max = request.seq, datetime.now(UTC), request.accept_max
    if cluster.state != "ok":
        cluster.state = "ok"
        note(session, SCHEDULE)
    if request.inventory is not None and request.inventory_hash != cluster.inventory_hash:
        cluster.inventory = request.inventory.model_dump(mode="json")
        cluster.inventory_hash = request.inventory_hash
        cluster.version += 1
        note(session, SCHEDULE)
    first = cluster.first_contact
    cluster.first_contact = False
    await session.flush()
    seen = _seen.get((id(context), cluster.id))
    if seen is None or seen.epoch != cluster.epoch:
        seen = _seen[id(context), cluster.id] = Seen(cluster.epoch)
    stored = await _stored(session, request.runs)
    for report in request.runs:
        await _apply_phase(session, cluster, report, stored.get(report.run_id))
    if not first:
        await _missing(session, context, cluster, request, seen)
    seen.runs |= {report.run_id for report in request.runs}
    return True


async def _stored(session: AsyncSession, reports: Sequence[RunReport]) -> dict[UUID, Row[Any]]:
    """Return what is stored of the reported runs: a cluster reports all it has at each sync, and most have not changed."""
    query = select(
        *(RunRow.id, RunRow.phase, RunRow.lease_token, RunRow.cluster_id, RunRow.progress, RunRow.reasons),
        TaskRow.kind,
    ).join(TaskRow, TaskRow.id == RunRow.task_id)
    found: dict[UUID, Row[Any]] = {}
    for start in range(0, len(reports), PIECE):
        piece = [report.run_id for report in reports[start : start + PIECE]]
        found |= {row.id: row for row in await session.execute(query.where(RunRow.id.in_(piece)))}
    return found


async def _apply_phase(session: AsyncSession, cluster: Cluster, report: RunReport, found: Row[Any] | None) -> None:
    """Move a run to where its cluster says it is, if the lease is current and the step is known."""
    if found is None or found.cluster_id != cluster.id or found.lease_token != report.lease_token:
        return
    if found.kind == TaskKind.WORKSPACE.value:
        return  # its spawner tells
    before = Phase(found.phase)
    phase, why = await as_given_back(session, report.run_id, report.phase, report.reason)
    if phase is not before and phase in FOLLOWS[before]:
        done = await transition(
            session,
            report.run_id,
            phase,
            actor=f"cluster:{cluster.name}",
            reasons=[why] if why else [],
            lease_token=report.lease_token,
            at=report.at,
            native_id=report.native_id,
        )
        if done is not None and phase.final:
            await after_end(session, report.run_id, code=why.code if why else "")
    elif report.phase is before and before in WAITING:
        await _store_reason(session, report, found.reasons or [])
    if report.progress is not None and not before.final:
        await store_progress(session, report)


async def as_given_back(session: AsyncSession, run_id: UUID, phase: Phase, why: Reason | None) -> tuple[Phase, Reason | None]:
    """Return phase and reason; of a run that is given back, by what is stored of it, locked: a claim may come at the same time.

    What was to be cancelled is, and what only had to make room has done so. Not begun again is what may have begun unseen, if it
    was claimed, and what had begun before nothing was heard of it.
    """
    if phase is not Phase.QUEUED:
        return phase, why
    run, task = await lock_run(session, run_id)
    if task.cancel_requested_at is not None and task.cancel_why != "preempt":
        return Phase.CANCELLED, reason("policy.cancelled")
    unseen = run.claimed_by is not None and why is not None and why.detail.get(MAY_HAVE_BEGUN) is True
    begun = Phase(run.phase) is Phase.UNKNOWN and run.started_at is not None
    if unseen or begun:
        return Phase.FAILED, reason("cluster.lost").model_copy(update={"message": why.message if why else ""})
    task.cancel_requested_at = task.cancel_why = None
    return phase, why


async def _store_reason(session: AsyncSession, report: RunReport, stored: list[dict[str, Any]]) -> None:
    """Keep why a run waits at its cluster, which changes while its phase does not."""
    new = [] if report.reason is None else [report.reason.model_dump(mode="json")]
    if new == stored:
        return
    run, task = await lock_run(session, report.run_id)
    run.reasons = new
    task.version += 1
    announce(session, task, run)


async def store_progress(session: AsyncSession, report: RunReport) -> None:
    """Keep how far a run is; a late report never takes it back."""
    assert report.progress is not None
    run, task = await lock_run(session, report.run_id)
    new = report.progress.model_dump(mode="json")
    old = run.progress or {}
    if new == old or int(old.get("cells_done") or 0) > report.progress.cells_done:
        return
    run.progress = new
    task.version += 1
    announce(session, task, run)


async def _missing(session: AsyncSession, context: Context, cluster: Cluster, request: SyncRequest, seen: Seen) -> None:
    """Runs that should be at the cluster and are not reported: gone if this session has shown them, else UNKNOWN first."""
    reported = {report.run_id for report in request.runs}
    query = (
        select(RunRow.id, RunRow.phase, RunRow.claimed_by, TaskRow.cancel_requested_at)
        .join(TaskRow, TaskRow.id == RunRow.task_id)
        .where(RunRow.cluster_id == cluster.id, RunRow.phase.in_(LIVE), TaskRow.kind != TaskKind.WORKSPACE.value)
    )
    now = datetime.now(UTC)
    for run in (await session.execute(query)).all():
        if run.id in reported or (run.claimed_by is None and run.phase in (*UNSTARTED, Phase.UNKNOWN.value)):
            continue
        lost = run.id in seen.runs or now - seen.since > timedelta(seconds=context.settings.timers.lost)
        if run.cancel_requested_at is not None:
            to, why = Phase.CANCELLED, reason("policy.cancelled")
        elif lost:
            to, why = Phase.FAILED, reason("cluster.lost")
        else:
            to, why = Phase.UNKNOWN, reason("cluster.lost")
        if to not in FOLLOWS[Phase(run.phase)]:
            continue
        done = await transition(session, run.id, to, actor=f"cluster:{cluster.name}", reasons=[why])
        if done is not None and to.final:
            await after_end(session, run.id, code=why.code)


async def orders(
    session: AsyncSession, context: Context, cluster: Cluster, request: SyncRequest, members: Collection[Pair], *, first: bool
) -> SyncAnswer:
    """Return what the Proxy is to do now. Reads only.

    Args:
        members: owners and tenants whose unstarted runs may be leased (:mod:`tessera_hub.manager.membership`).
        first: it is the first contact of an epoch, which ends and forgets nothing.
    """
    answer = SyncAnswer(ack_seq=request.seq, inventory_hash=cluster.inventory_hash, next_wait=context.settings.timers.sync_wait)
    reports = {report.run_id: report for report in request.runs}
    rows = (
        await session.execute(
            select(RunRow, TaskRow)
            .join(TaskRow, TaskRow.id == RunRow.task_id)
            .where(or_(RunRow.cluster_id == cluster.id, RunRow.id.in_(list(reports))))
            .where(or_(RunRow.phase.in_(LIVE), RunRow.id.in_(list(reports)))),
            execution_options={"populate_existing": True},
        )
    ).all()
    known = {run.id: (run, task) for run, task in rows}
    for report in request.runs:
        pair = known.get(report.run_id)
        _order_for(answer, cluster, report, pair[0] if pair else None, pair[1] if pair else None, first=first)
    if "queues" in cluster.capabilities:
        queues = await desired_queues(session, cluster)
        answer.queues = queues if queues.hash != request.queues_hash else None
    room = request.accept_max
    for run, task in sorted(known.values(), key=lambda pair: pair[0].reserved_at or pair[0].queued_at):
        if room <= 0 or run.id in reports or run.cluster_id != cluster.id or run.lease_token is None:
            continue
        workspace = task.kind == TaskKind.WORKSPACE.value
        fresh = run.phase in (*UNSTARTED, Phase.UNKNOWN.value) and run.claimed_by is None
        starts = run.phase in UNSTARTED or (fresh and not workspace)
        if starts and (task.principal_id, task.tenant_id) not in members:
            continue
        if task.cancel_requested_at is None and (fresh or (workspace and run.phase in LIVE)):
            try:
                answer.leases.append(await _lease(session, context, run, task))
            except ValidationError as error:  # the cluster's other runs are not held up by a row that nobody can read
                log.error("run_unreadable", run=str(run.id), error=str(error))
                continue
            room -= 1
    return answer


def _order_for(
    answer: SyncAnswer, cluster: Cluster, report: RunReport, run: RunRow | None, task: TaskRow | None, *, first: bool
) -> None:
    current = run is not None and run.cluster_id == cluster.id and run.lease_token == report.lease_token
    over = report.phase.final or report.phase is Phase.QUEUED
    if run is None or task is None or not current or Phase(run.phase).final:
        if first:
            return  # the first contact of an epoch never deletes
        workspace = task is not None and task.kind == TaskKind.WORKSPACE.value
        if over or workspace:
            answer.forget.append(report.run_id)
        else:
            answer.cancels.append(Cancel(run_id=report.run_id, lease_token=report.lease_token, why="stale", grace_seconds=0))
        return
    if task.cancel_requested_at is not None and not over and task.kind != TaskKind.WORKSPACE.value:
        grace = stored_lifecycle(task.spec).grace_seconds
        why = "preempt" if task.cancel_why == "preempt" else "cancel"
        answer.cancels.append(Cancel(run_id=run.id, lease_token=run.lease_token, why=why, grace_seconds=grace))
    elif task.suspend_requested and report.phase is Phase.RUNNING:
        answer.suspends.append(run.id)
    elif not task.suspend_requested and report.phase is Phase.SUSPENDED:
        answer.resumes.append(run.id)


async def _lease(session: AsyncSession, context: Context, run: RunRow, task: TaskRow) -> Lease:
    tenant = await session.get(Tenant, task.tenant_id)
    principal = await session.get(Principal, task.principal_id)
    assert tenant is not None and principal is not None and run.lease_token is not None  # noqa: PT018
    return Lease(
        run_id=run.id,
        task_id=task.id,
        attempt=run.attempt,
        lease_token=run.lease_token,
        run_token=run_token(context.settings.secret, run.id, run.lease_token),
        tenant=tenant.name,
        tenant_id=tenant.id,
        principal_id=principal.id,
        owner=principal.hub_name,
        queue=await session.scalar(select(Queue.path).where(Queue.id == task.queue_id)),
        spec=stored_spec(task.spec),
        card_class=run.card_class,
        managed_by="spawner" if task.kind == TaskKind.WORKSPACE.value else "proxy",
        checkpoint=await last_checkpoint(session, task.id, run.attempt),
    )


def says_something(answer: SyncAnswer) -> bool:
    """Whether the answer holds an order that a repeat of the same cancel would not."""
    return bool(answer.leases or answer.cancels or answer.forget or answer.suspends or answer.resumes or answer.queues)

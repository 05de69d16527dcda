"""Sync: take the report, answer with desired minus reported.

Orders follow from the database and the report alone, so a lost, repeated or late answer heals itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.api.context import Context
from tessera_hub.manager.leasing import leases
from tessera_hub.manager.membership import UNSTARTED, Pair
from tessera_hub.manager.queues import desired_queues
from tessera_hub.schemas.protocol import Cancel, RunReport, SyncAnswer, SyncRequest
from tessera_hub.schemas.reasons import MAY_HAVE_BEGUN, Reason
from tessera_hub.schemas.stored import stored_lifecycle
from tessera_hub.schemas.tasks import Phase, TaskKind
from tessera_hub.store.notify import SCHEDULE, note
from tessera_hub.store.tables import Cluster, RunRow, TaskRow
from tessera_hub.tasks.control import after_end
from tessera_hub.tasks.machine import FOLLOWS, GOES_ON, LIVE, Step, advance, announce, lock_run, lock_runs, transition
from tessera_hub.tasks.reasons import reason

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
    stored = await _stored(session, cluster, request.runs)
    await _take_phases(session, cluster, request.runs, stored)
    if not first:
        await _missing(session, context, cluster, request, seen, stored)
    seen.runs |= {report.run_id for report in request.runs}
    return True


async def _stored(session: AsyncSession, cluster: Cluster, reports: Sequence[RunReport]) -> dict[UUID, Row[Any]]:
    """Return what is stored of the cluster's live runs and of all reported ones: most have not changed since the last report."""
    query = select(
        *(RunRow.id, RunRow.phase, RunRow.lease_token, RunRow.cluster_id, RunRow.claimed_by, RunRow.progress, RunRow.reasons),
        *(TaskRow.kind, TaskRow.cancel_requested_at),
    ).join(TaskRow, TaskRow.id == RunRow.task_id)
    return await _here_or_reported(session, query, cluster, reports)


async def _here_or_reported(
    session: AsyncSession, query: Select[*tuple[Any, ...]], cluster: Cluster, reports: Sequence[RunReport]
) -> dict[UUID, Row[Any]]:
    """Return the rows of *query*, which names the run's id ``id``, of the cluster's live runs and of all reported ones."""
    here = query.where(RunRow.cluster_id == cluster.id, RunRow.phase.in_(LIVE))
    found: dict[UUID, Row[Any]] = {row.id: row for row in await session.execute(here)}
    others = [report.run_id for report in reports if report.run_id not in found]
    for start in range(0, len(others), PIECE):
        some = query.where(RunRow.id.in_(others[start : start + PIECE]))
        found |= {row.id: row for row in await session.execute(some)}
    return found


async def _take_phases(
    session: AsyncSession, cluster: Cluster, reports: Sequence[RunReport], stored: Mapping[UUID, Row[Any]]
) -> None:
    """Move runs to where their cluster says they are: those that go on there together, the others one by one."""
    going: dict[UUID, Step] = {}
    single: list[tuple[RunReport, Row[Any]]] = []
    progressed: list[RunReport] = []
    for report in reports:
        found = stored.get(report.run_id)
        if found is None or found.cluster_id != cluster.id or found.lease_token != report.lease_token:
            continue
        if found.kind == TaskKind.WORKSPACE.value:
            continue  # its spawner tells
        before = Phase(found.phase)
        told = report.progress is not None and report.progress.model_dump(mode="json") != (found.progress or {})
        if report.phase in GOES_ON and report.phase is not before and report.phase in FOLLOWS[before]:
            why = () if report.reason is None else (report.reason,)
            going[report.run_id] = Step(report.phase, f"cluster:{cluster.name}", why, report.at, native_id=report.native_id)
        elif report.phase is not before or before in WAITING:
            single.append((report, found))
        if told and not before.final:
            progressed.append(report)
    tokens = {report.run_id: report.lease_token for report in reports}
    for start in range(0, len(going), PIECE):
        locked = await lock_runs(session, list(going)[start : start + PIECE])
        for run_id, (run, task) in locked.items():
            if run.lease_token == tokens[run_id]:
                advance(session, run, task, going[run_id])
    for report, found in single:
        await _apply_phase(session, cluster, report, found)
    for report in progressed:
        await store_progress(session, report)


async def _apply_phase(session: AsyncSession, cluster: Cluster, report: RunReport, found: Row[Any]) -> None:
    """Take an end, a return to the queue, or why a run waits; its lease is current."""
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


async def _missing(
    session: AsyncSession,
    context: Context,
    cluster: Cluster,
    request: SyncRequest,
    seen: Seen,
    stored: Mapping[UUID, Row[Any]],
) -> None:
    """Runs that should be at the cluster and are not reported: gone if this session has shown them, else UNKNOWN first."""
    reported = {report.run_id for report in request.runs}
    now = datetime.now(UTC)
    for run in stored.values():
        if run.id in reported or run.kind == TaskKind.WORKSPACE.value:
            continue
        if run.claimed_by is None and run.phase in (*UNSTARTED, Phase.UNKNOWN.value):
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
    known = await _standing(session, cluster, request.runs)
    for report in request.runs:
        _order_for(answer, cluster, report, known.get(report.run_id), first=first)
    await _add_graces(session, answer)
    if "queues" in cluster.capabilities:
        queues = await desired_queues(session, cluster)
        answer.queues = queues if queues.hash != request.queues_hash else None
    wanted: list[Row[Any]] = []
    for run in known.values():
        if run.id in reports or run.cluster_id != cluster.id or run.lease_token is None or run.cancel_requested_at is not None:
            continue
        workspace = run.kind == TaskKind.WORKSPACE.value
        fresh = run.phase in (*UNSTARTED, Phase.UNKNOWN.value) and run.claimed_by is None
        starts = run.phase in UNSTARTED or (fresh and not workspace)
        if starts and (run.principal_id, run.tenant_id) not in members:
            continue
        if fresh or (workspace and run.phase in LIVE):
            wanted.append(run)
    wanted.sort(key=lambda run: run.reserved_at or run.queued_at)
    answer.leases = await leases(session, context, [run.id for run in wanted], request.accept_max)
    return answer


async def _standing(session: AsyncSession, cluster: Cluster, reports: Sequence[RunReport]) -> dict[UUID, Row[Any]]:
    """Return what decides about orders, of the cluster's live runs and of all reported ones; no specification is read."""
    query = select(
        *(RunRow.id, RunRow.phase, RunRow.cluster_id, RunRow.lease_token, RunRow.claimed_by, RunRow.reserved_at),
        *(RunRow.queued_at, TaskRow.kind, TaskRow.principal_id, TaskRow.tenant_id),
        *(TaskRow.cancel_requested_at, TaskRow.cancel_why, TaskRow.suspend_requested),
    ).join(TaskRow, TaskRow.id == RunRow.task_id)
    return await _here_or_reported(session, query, cluster, reports)


def _order_for(answer: SyncAnswer, cluster: Cluster, report: RunReport, run: Row[Any] | None, *, first: bool) -> None:
    current = run is not None and run.cluster_id == cluster.id and run.lease_token == report.lease_token
    over = report.phase.final or report.phase is Phase.QUEUED
    if run is None or not current or Phase(run.phase).final:
        if first:
            return  # the first contact of an epoch never deletes
        if over or (run is not None and run.kind == TaskKind.WORKSPACE.value):
            answer.forget.append(report.run_id)
        else:
            answer.cancels.append(Cancel(run_id=report.run_id, lease_token=report.lease_token, why="stale", grace_seconds=0))
        return
    if run.cancel_requested_at is not None and not over and run.kind != TaskKind.WORKSPACE.value:
        why = "preempt" if run.cancel_why == "preempt" else "cancel"
        answer.cancels.append(Cancel(run_id=run.id, lease_token=run.lease_token, why=why))
    elif run.suspend_requested and report.phase is Phase.RUNNING:
        answer.suspends.append(run.id)
    elif not run.suspend_requested and report.phase is Phase.SUSPENDED:
        answer.resumes.append(run.id)


async def _add_graces(session: AsyncSession, answer: SyncAnswer) -> None:
    """Give the orders to end a run the grace of its specification."""
    asked = {cancel.run_id: cancel for cancel in answer.cancels if cancel.why != "stale"}
    query = select(RunRow.id, TaskRow.spec).join(TaskRow, TaskRow.id == RunRow.task_id)
    for start in range(0, len(asked), PIECE):
        for row in await session.execute(query.where(RunRow.id.in_(list(asked)[start : start + PIECE]))):
            asked[row.id].grace_seconds = stored_lifecycle(row.spec).grace_seconds


def says_something(answer: SyncAnswer) -> bool:
    """Whether the answer holds an order that a repeat of the same cancel would not."""
    return bool(answer.leases or answer.cancels or answer.forget or answer.suspends or answer.resumes or answer.queues)

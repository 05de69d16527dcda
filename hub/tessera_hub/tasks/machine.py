"""The state machine of a run: the only code that changes a phase.

Every transition locks the run's row, is checked against :data:`FOLLOWS`, writes the run, mirrors it to the task, inserts
an event, gives the quota back when the run ended, and leaves a note for the scheduler, all in the caller's transaction.
A repeat of the current phase is no transition. Source: docs/explanation/protocol.md, "Task and run".
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

import structlog
from sqlalchemy import event, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tessera_hub.quota.usage import deltas_for, give_back, path_to_root
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.tasks import Phase
from tessera_hub.store.notify import SCHEDULE, cluster_topic, note, task_topic, tenant_topic
from tessera_hub.store.tables import RunChange, RunRow, TaskEventRow, TaskRow

log = structlog.get_logger(__name__)

_TOLD: Final = "tessera_phases"
"""Key of a session's steps that are logged when they are committed."""
_ENDS: Final = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED, Phase.PREEMPTED})
_ON_CLUSTER: Final = frozenset({Phase.PENDING, Phase.STARTING, Phase.RUNNING, Phase.SUSPENDED, Phase.UNKNOWN})

GOES_ON: Final = _ON_CLUSTER | {Phase.DISPATCHED}
"""Phases at a cluster, in which a run keeps what it holds."""

FOLLOWS: Final[Mapping[Phase, frozenset[Phase]]] = {
    # A reservation that was never taken up returns to the queue; so does a run whose Proxy gave it back unstarted.
    Phase.QUEUED: frozenset({Phase.RESERVED, Phase.CANCELLED, Phase.FAILED}),
    Phase.RESERVED: frozenset({Phase.DISPATCHED, Phase.QUEUED, *_ON_CLUSTER, *_ENDS}),
    Phase.DISPATCHED: frozenset({Phase.QUEUED, *_ON_CLUSTER, *_ENDS}),
    Phase.PENDING: frozenset({Phase.QUEUED, *(_ON_CLUSTER - {Phase.PENDING}), *_ENDS}),
    Phase.STARTING: frozenset({Phase.QUEUED, Phase.PENDING, Phase.RUNNING, Phase.SUSPENDED, Phase.UNKNOWN, *_ENDS}),
    Phase.RUNNING: frozenset({Phase.SUSPENDED, Phase.UNKNOWN, *_ENDS}),
    Phase.SUSPENDED: frozenset({Phase.PENDING, Phase.STARTING, Phase.RUNNING, Phase.UNKNOWN, *_ENDS}),
    Phase.UNKNOWN: frozenset({Phase.QUEUED, Phase.DISPATCHED, *(_ON_CLUSTER - {Phase.UNKNOWN}), *_ENDS}),
    Phase.SUCCEEDED: frozenset(),
    Phase.FAILED: frozenset(),
    Phase.CANCELLED: frozenset(),
    Phase.PREEMPTED: frozenset(),
}

LIVE: Final = tuple(p.value for p in Phase if p not in _ENDS)
"""Phases that hold, or may come to hold, resources."""


class TransitionError(Exception):
    """A transition that the machine does not know, or a writer whose lease is stale. Nothing was changed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Transition:
    """What happened."""

    run_id: UUID
    task_id: UUID
    before: Phase
    after: Phase
    at: datetime


async def lock_run(session: AsyncSession, run_id: UUID) -> tuple[RunRow, TaskRow]:
    """Return run and task, both locked until the end of the transaction, always task first (no dead-lock).

    Raises:
        TransitionError: ``run.unknown``.
    """
    task_id = await session.scalar(select(RunRow.task_id).where(RunRow.id == run_id))
    if task_id is None:
        raise TransitionError("run.unknown", f"no run {run_id}")
    task = (
        await session.scalars(
            select(TaskRow).where(TaskRow.id == task_id).with_for_update(), execution_options={"populate_existing": True}
        )
    ).one()
    run = (
        await session.scalars(
            select(RunRow).where(RunRow.id == run_id).with_for_update(), execution_options={"populate_existing": True}
        )
    ).one()
    return run, task


async def lock_runs(session: AsyncSession, run_ids: Collection[UUID]) -> dict[UUID, tuple[RunRow, TaskRow]]:
    """Return runs and tasks by id of the run, all locked, tasks first and in the order of their ids (no dead-lock).

    The caller holds no lock of a run, a task or a quota yet. An id that is unknown is left out.
    """
    fresh = {"populate_existing": True}
    wanted = select(RunRow.task_id).where(RunRow.id.in_(run_ids))
    query = select(TaskRow).where(TaskRow.id.in_(wanted)).order_by(TaskRow.id).with_for_update()
    tasks = {task.id: task for task in await session.scalars(query, execution_options=fresh)}
    runs = select(RunRow).where(RunRow.id.in_(run_ids)).order_by(RunRow.task_id).with_for_update()
    return {run.id: (run, tasks[run.task_id]) for run in await session.scalars(runs, execution_options=fresh)}


async def transition(
    session: AsyncSession,
    run_id: UUID,
    to: Phase,
    *,
    actor: str,
    reasons: Sequence[Reason] = (),
    lease_token: str | None = None,
    at: datetime | None = None,
    event_id: UUID | None = None,
    exit_code: int | None = None,
    native_id: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> Transition | None:
    """Move *run_id* to *to* and return what happened, None if it is there already.

    Args:
        actor: ``user:ada``, ``scheduler``, ``cluster:local``, ``service``.
        reasons: why, ranked; stored with the run and, the first, with the event.
        lease_token: when given it must be the run's current one.
        at: the engine's own time of it; now when None. Never before the run was queued, a start never before the previous phase.
        event_id: id made by the reporter, so that a repeat is seen.

    Raises:
        TransitionError: ``run.unknown``, ``run.stale_lease`` or ``run.illegal_transition``.
    """
    run, task = await lock_run(session, run_id)
    if lease_token is not None and lease_token != run.lease_token:
        raise TransitionError("run.stale_lease", f"run {run_id}: the lease token is not the current one")
    before = Phase(run.phase)
    if before is to:
        return None
    if to not in FOLLOWS[before]:
        raise TransitionError("run.illegal_transition", f"run {run_id}: {before} cannot become {to}")
    if to is Phase.QUEUED or to.final:
        await release(session, run)
    step = Step(to, actor, tuple(reasons), at, event_id, exit_code, native_id, detail or {})
    return _move(session, run, task, step)


@dataclass(frozen=True, slots=True)
class Step:
    """Where a run goes, see :func:`transition`."""

    to: Phase
    actor: str
    reasons: tuple[Reason, ...] = ()
    at: datetime | None = None
    event_id: UUID | None = None
    exit_code: int | None = None
    native_id: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


def advance(session: AsyncSession, run: RunRow, task: TaskRow, step: Step) -> Transition | None:
    """Move a run that the caller has locked (:func:`lock_runs`) on at its cluster; None: it is there, or past it.

    Only to a phase of :data:`GOES_ON`: an end and a return to the queue, which give something back, are :func:`transition`'s.
    """
    if step.to not in GOES_ON or step.to is Phase(run.phase) or step.to not in FOLLOWS[Phase(run.phase)]:
        return None
    return _move(session, run, task, step)


def _move(session: AsyncSession, run: RunRow, task: TaskRow, step: Step) -> Transition:
    """Write a step that is allowed; what it held was given back before, if it gives anything back."""
    to, at, reasons = step.to, step.at, step.reasons
    before = Phase(run.phase)
    now = datetime.now(UTC)
    # Engines tell a start to the second or by another clock: it is not before the phase it follows. An end may have been while
    # nothing was heard.
    earliest = run.phase_at if to is Phase.RUNNING and before is not Phase.UNKNOWN else run.queued_at
    moment = max(min(at or now, now), earliest)
    run.phase, run.phase_at = to.value, moment
    if reasons or to in (Phase.RUNNING, Phase.SUCCEEDED):
        run.reasons = [r.model_dump(mode="json") for r in reasons]
    if step.exit_code is not None:
        run.exit_code = step.exit_code
    if step.native_id is not None:
        run.native_id = step.native_id
    if to is Phase.UNKNOWN:
        run.unknown_since, run.phase_before_unknown = moment, before.value
    elif before is Phase.UNKNOWN:
        run.unknown_since = run.phase_before_unknown = None
    if to is Phase.RUNNING and run.started_at is None:
        run.started_at = moment
    if to is Phase.QUEUED:
        run.cluster_id = run.lease_token = run.card_class = run.reserved_at = run.expires_at = None
        # Whoever claimed it had the lease that is gone, and began nothing; the next one claims anew.
        run.claimed_by = run.claimed_at = None
        session.add(RunChange(run_id=run.id))
    if to.final:
        run.finished_at = max(moment, run.started_at or moment)
        session.add(RunChange(run_id=run.id))
    _mirror(task, run)
    session.add(
        TaskEventRow(
            id=step.event_id or uuid4(),
            task_id=task.id,
            run_id=run.id,
            at=moment,
            recorded_at=now,
            actor=step.actor,
            kind="phase",
            phase_from=before.value,
            phase_to=to.value,
            reason=reasons[0].model_dump(mode="json") if reasons else None,
            detail=dict(step.detail),
        )
    )
    announce(session, task, run)
    note(session, SCHEDULE)
    told = {"task": str(task.id), "run": str(run.id), "phase_from": before.value, "phase": to.value, "actor": step.actor}
    if reasons:
        told["reason"] = reasons[0].code
    waiting: list[dict[str, str]] = session.info.setdefault(_TOLD, [])
    if not waiting:
        event.listen(session.sync_session, "after_commit", _log_phases, once=True)
    waiting.append(told)
    return Transition(run.id, task.id, before, to, moment)


def _log_phases(session: Session) -> None:
    for told in session.info.pop(_TOLD, ()):
        log.info("run_phase", **told)


def note_of(run: RunRow, task: TaskRow, why: Reason, *, actor: str, at: datetime, event_id: UUID | None = None) -> TaskEventRow:
    """Return the event that tells something of a run which changes no phase."""
    return TaskEventRow(
        id=event_id or uuid4(),
        task_id=task.id,
        run_id=run.id,
        at=at,
        recorded_at=datetime.now(UTC),
        actor=actor,
        kind="note",
        phase_from=None,
        phase_to=None,
        reason=why.model_dump(mode="json"),
        detail={},
    )


def announce(session: AsyncSession, task: TaskRow, run: RunRow | None = None) -> None:
    """Tell everybody who watches *task* (and the Manager of its cluster) after the commit."""
    topics = [task_topic(task.id), f"{tenant_topic(task.tenant_id)}/task/{task.id}"]
    if run is not None and run.cluster_id is not None:
        topics.append(cluster_topic(run.cluster_id))
    note(session, *topics)


def _mirror(task: TaskRow, run: RunRow) -> None:
    if task.run_id != run.id:
        return
    task.phase = run.phase
    task.version += 1
    task.started_at = run.started_at
    task.finished_at = run.finished_at


async def release(session: AsyncSession, run: RunRow) -> None:
    """Give back what *run* (locked by the caller) holds of its queue path; a second call finds nothing."""
    charge = {d: int(a) for d, a in (run.charge or {}).items() if int(a)}
    run.charge = {}
    if charge:
        await give_back(session, deltas_for(await path_to_root(session, run.queue_id), charge))


@dataclass(frozen=True, slots=True)
class Placement:
    """A decision to store: this run goes to that cluster and holds *charge* of its queue path (already taken)."""

    run_id: UUID
    cluster_id: int
    card_class: str | None
    charge: dict[str, int]
    decision_id: int | None
    lease_token: str
    expires_at: datetime | None = None


async def reserve_many(session: AsyncSession, placements: Sequence[Placement], *, now: datetime) -> set[UUID]:
    """Move queued runs to RESERVED in bulk and return those that were still queued and not asked to be cancelled.

    The caller took the quota for all of *placements* in this transaction and gives back what belongs to runs that are
    not in the answer. Equivalent to :func:`transition` for each, with four statements instead of four per run.
    """
    if not placements:
        return set()
    by_id = {p.run_id: p for p in placements}
    rows = (
        await session.execute(
            select(RunRow.id, RunRow.task_id, TaskRow.tenant_id)
            .join(TaskRow, TaskRow.id == RunRow.task_id)
            .where(RunRow.id.in_(by_id), RunRow.phase == Phase.QUEUED.value, TaskRow.cancel_requested_at.is_(None))
            .order_by(TaskRow.id)
            .with_for_update()
        )
    ).all()
    if not rows:
        return set()
    if session.get_bind().dialect.name == "sqlite":
        await _reserve_each(session, [(by_id[row.id], row.task_id) for row in rows], now)
    else:
        await _reserve_at_once(session, [(by_id[row.id], row.task_id) for row in rows], now)
    for row in rows:
        note(session, task_topic(row.task_id), f"{tenant_topic(row.tenant_id)}/task/{row.task_id}")
    note(session, *{cluster_topic(by_id[row.id].cluster_id) for row in rows})
    return {row.id for row in rows}


async def _reserve_each(session: AsyncSession, placed: Sequence[tuple[Placement, UUID]], now: datetime) -> None:
    """Write the placements of locked runs, each with the id of its task."""
    await session.execute(
        update(RunRow),
        [
            {
                "id": p.run_id,
                "phase": Phase.RESERVED.value,
                "phase_at": now,
                "reserved_at": now,
                "cluster_id": p.cluster_id,
                "card_class": p.card_class,
                "charge": p.charge,
                "decision_id": p.decision_id,
                "lease_token": p.lease_token,
                "expires_at": p.expires_at,
                "reasons": [],
            }
            for p, _task_id in placed
        ],
    )
    for p, task_id in placed:
        await session.execute(
            update(TaskRow)
            .where(TaskRow.id == task_id, TaskRow.run_id == p.run_id)
            .values(phase=Phase.RESERVED.value, version=TaskRow.version + 1)
            .execution_options(synchronize_session=False)
        )
    await session.execute(
        insert(TaskEventRow),
        [
            {
                "id": uuid4(),
                "task_id": task_id,
                "run_id": p.run_id,
                "at": now,
                "recorded_at": now,
                "actor": "scheduler",
                "kind": "phase",
                "phase_from": Phase.QUEUED.value,
                "phase_to": Phase.RESERVED.value,
                "reason": None,
                "detail": {},
            }
            for p, task_id in placed
        ],
    )


# As _reserve_each, by one statement that is given all placements as one JSON array.
_RESERVE = text(
    "WITH w AS (SELECT * FROM jsonb_to_recordset(CAST(:placed AS jsonb)) AS w(run uuid, task uuid, cluster bigint, class text,"
    " charge jsonb, decision bigint, token text, expiry timestamptz)),"
    " r AS (UPDATE run SET phase = 'RESERVED', phase_at = :now, reserved_at = :now, cluster_id = w.cluster, card_class = w.class,"
    " charge = w.charge, decision_id = w.decision, lease_token = w.token, expires_at = w.expiry, reasons = '[]'"
    " FROM w WHERE run.id = w.run),"
    " t AS (UPDATE task SET phase = 'RESERVED', version = version + 1 FROM w WHERE task.id = w.task AND task.run_id = w.run)"
    " INSERT INTO task_event (id, task_id, run_id, at, recorded_at, actor, kind, phase_from, phase_to, detail)"
    " SELECT gen_random_uuid(), w.task, w.run, :now, :now, 'scheduler', 'phase', 'QUEUED', 'RESERVED', '{}' FROM w"
)


async def _reserve_at_once(session: AsyncSession, placed: Sequence[tuple[Placement, UUID]], now: datetime) -> None:
    given = [
        {
            "run": p.run_id,
            "task": task_id,
            "cluster": p.cluster_id,
            "class": p.card_class,
            "charge": p.charge,
            "decision": p.decision_id,
            "token": p.lease_token,
            "expiry": p.expires_at,
        }
        for p, task_id in placed
    ]
    await session.execute(_RESERVE, {"placed": json.dumps(given, default=str), "now": now})

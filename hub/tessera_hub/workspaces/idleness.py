"""Idle workspaces: warned about, kept on request, stopped after the grace.

The workspace itself reports since when nothing runs in it (``tessera_lab/activity.py``), and every decision is made with such a
report in hand: what stops is idle at that moment, and a service, hub or network that was away stops nothing. A workspace that
never reports is never stopped as idle; its time limit holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.api.context import Settings
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.tasks import Phase
from tessera_hub.schemas.workspaces import ActivityReport, Idleness
from tessera_hub.store.tables import RunRow, TaskRow, WorkspaceActivity
from tessera_hub.tasks.control import request_cancel
from tessera_hub.tasks.machine import TransitionError, announce, lock_run, note_of
from tessera_hub.tasks.reasons import reason

KEEP: Final = timedelta(hours=1)
"""For how long a person keeps an idle workspace at a time."""


@dataclass(frozen=True, slots=True)
class IdleLimits:
    """When an idle workspace is warned about and how much later it is stopped; ``idle`` None: never."""

    idle: timedelta | None
    grace: timedelta


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done with a workspace: ``warned_at`` None: nothing."""

    warned_at: datetime | None = None
    stops_at: datetime | None = None
    stop: bool = False


def limits_of(settings: Settings, environment: str, *, cards: bool) -> IdleLimits:
    """Return the limits of a workspace in *environment*: the environment's own, else the installation's."""
    seconds = settings.card_idle_seconds if cards else settings.idle_seconds
    if (rule := settings.environment_rules.get(environment)) is not None:
        own = rule.card_idle_seconds if cards else rule.idle_seconds
        seconds = seconds if own is None else own
    return IdleLimits(timedelta(seconds=seconds) if seconds else None, timedelta(seconds=settings.idle_grace_seconds))


def judge(
    now: datetime, active_at: datetime, warned_at: datetime | None, kept_until: datetime | None, limits: IdleLimits
) -> Verdict:
    """Return what becomes of a workspace that was last in use at *active_at*.

    A warning stands from the moment it is given, so that nobody gets less than the grace; use or a wish to keep it takes it back.
    """
    if limits.idle is None:
        return Verdict()
    due = active_at + limits.idle
    if kept_until is not None:
        due = max(due, kept_until)
    if now < due:
        return Verdict()
    warned = now if warned_at is None or active_at > warned_at else warned_at
    return Verdict(warned, warned + limits.grace, stop=now >= warned + limits.grace)


async def take_report(session: AsyncSession, settings: Settings, task_id: UUID, given: ActivityReport) -> Idleness:
    """Take a workspace's own report and return how it stands; one that has been idle for too long is stopped.

    Raises:
        TransitionError: ``workspace.ended``.
    """
    run, task, kept = await _live(session, task_id)
    now = datetime.now(UTC)
    # Nothing was idle before it ran; a report that comes late or twice never makes it look idle for longer.
    seen = max(now - timedelta(seconds=given.idle_seconds), run.started_at or now)
    kept.active_at = max(kept.active_at, seen)
    if Phase(run.phase) is not Phase.RUNNING or task.cancel_requested_at is not None:
        return _told(kept, Verdict())
    limits = _limits(settings, run, task)
    found = judge(now, kept.active_at, kept.warned_at, kept.kept_until, limits)
    if found.warned_at is not None and kept.warned_at is None:
        minutes, grace = (now - kept.active_at) // timedelta(minutes=1), -(-limits.grace // timedelta(minutes=1))
        _note(session, run, task, reason("workspace.idle_warned", minutes=minutes, grace_minutes=grace), "service")
    elif found.warned_at is None and kept.warned_at is not None:
        _note(session, run, task, reason("workspace.active"), "service")
    kept.warned_at = found.warned_at
    if found.stop:
        await request_cancel(session, task.id, actor="service", why="idle")
    return _told(kept, found)


async def keep(session: AsyncSession, task_id: UUID, *, actor: str) -> Idleness:
    """Keep a workspace for :data:`KEEP` from now, idle or not.

    Raises:
        TransitionError: ``workspace.ended``.
    """
    run, task, kept = await _live(session, task_id)
    kept.kept_until, kept.warned_at = datetime.now(UTC) + KEEP, None
    _note(session, run, task, reason("workspace.kept", minutes=KEEP // timedelta(minutes=1)), actor)
    return _told(kept, Verdict())


async def idleness(session: AsyncSession, settings: Settings, run_id: UUID) -> Idleness | None:
    """Return how a workspace's run stands by its last report, None if there was none."""
    kept, run = await session.get(WorkspaceActivity, run_id), await session.get(RunRow, run_id)
    task = None if run is None else await session.get(TaskRow, run.task_id)
    if kept is None or run is None or task is None:
        return None
    limits = _limits(settings, run, task)
    return _told(kept, Verdict(kept.warned_at, None if kept.warned_at is None else kept.warned_at + limits.grace))


def why_idle(kept: WorkspaceActivity | None, ended_at: datetime) -> Reason:
    """Return the reason of a stop for idleness."""
    if kept is None:
        return reason("workspace.idle")
    return reason("workspace.idle", minutes=(ended_at - kept.active_at) // timedelta(minutes=1))


async def _live(session: AsyncSession, task_id: UUID) -> tuple[RunRow, TaskRow, WorkspaceActivity]:
    """Return a workspace's run, task and activity, locked."""
    found = await session.get(TaskRow, task_id)
    if found is None:
        raise TransitionError("workspace.ended", f"no task {task_id}")
    run, task = await lock_run(session, found.run_id)
    if Phase(run.phase).final:
        raise TransitionError("workspace.ended", f"workspace {task_id} has ended")
    kept = await session.get(WorkspaceActivity, run.id, populate_existing=True)
    if kept is None:
        kept = WorkspaceActivity(run_id=run.id, active_at=run.started_at or datetime.now(UTC))
        session.add(kept)
    return run, task, kept


def _limits(settings: Settings, run: RunRow, task: TaskRow) -> IdleLimits:
    return limits_of(settings, str(task.spec["environment"]), cards=run.card_class is not None)


def _told(kept: WorkspaceActivity, found: Verdict) -> Idleness:
    return Idleness(active_at=kept.active_at, warned_at=found.warned_at, stops_at=found.stops_at, kept_until=kept.kept_until)


def _note(session: AsyncSession, run: RunRow, task: TaskRow, why: Reason, actor: str) -> None:
    session.add(note_of(run, task, why, actor=actor, at=datetime.now(UTC)))
    task.version += 1
    announce(session, task, run)

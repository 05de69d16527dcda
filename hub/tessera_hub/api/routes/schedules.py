"""Recurring tasks: make, list, stop, let go on and remove them."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID, uuid4

from fastapi import APIRouter, Response
from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.api.auth import Caller, Ctx, Reader, Submitter
from tessera_hub.api.errors import Problem, not_found
from tessera_hub.api.intake import check, problem_of
from tessera_hub.cron import CronError, next_firing
from tessera_hub.i18n import gettext as _
from tessera_hub.schedules import MOST_PER_PERSON, TOPIC, view
from tessera_hub.scheduling.lease import database_now
from tessera_hub.schemas.schedules import RecurringTask, RecurringTaskChange
from tessera_hub.schemas.tasks import TaskKind, TaskSpec
from tessera_hub.store.notify import note
from tessera_hub.store.tables import Principal, Tenant
from tessera_hub.store.tables import RecurringTask as Row
from tessera_hub.tasks.submission import SubmissionError

router = APIRouter(prefix="/schedules", tags=["schedules"])


def _own(caller: Caller) -> Select[Row, str, str]:
    """Return the query of the schedules that *caller* may see and change: theirs, in tenants they still belong to."""
    query = (
        select(Row, Principal.hub_name, Tenant.name)
        .join(Principal, Principal.id == Row.principal_id)
        .join(Tenant, Tenant.id == Row.tenant_id)
    )
    if caller.operator:
        return query
    return query.where(Row.principal_id == caller.principal_id, Row.tenant_id.in_(caller.tenants.values()))


async def _one(session: AsyncSession, caller: Caller, schedule_id: UUID) -> tuple[Row, str, str]:
    query = _own(caller).where(Row.id == schedule_id)
    found = (await session.execute(query, execution_options={"populate_existing": True})).first()
    if found is None:
        raise not_found("schedule")
    return found[0], found[1], found[2]


def _following(cron: str, zone: str, now: datetime) -> datetime:
    try:
        return next_firing(cron, zone, now)
    except CronError as error:
        raise problem_of(SubmissionError(error.code, cron=cron, time_zone=zone)) from error


@router.post("", status_code=201)
async def create(spec: TaskSpec, caller: Submitter, context: Ctx, response: Response) -> RecurringTask:
    """Submit the task whenever ``schedule.cron`` fires. What a single task would be refused for is refused now."""
    if spec.schedule is None or spec.schedule.cron is None:
        raise problem_of(SubmissionError("schedule.cron", cron=None))
    if spec.kind is TaskKind.WORKSPACE:
        raise Problem(422, "kind.workspace", _("Workspaces are started by POST /workspaces."))
    cron, zone = spec.schedule.cron, spec.schedule.time_zone
    try:
        where = await check(context, caller, spec.model_copy(update={"schedule": None}))
    except SubmissionError as error:
        raise problem_of(error, context.settings.contact) from error
    async with context.store.write() as session:
        count = await session.scalar(select(func.count()).where(Row.principal_id == caller.principal_id))
        if (count or 0) >= MOST_PER_PERSON:
            title = _("You have {count} schedules; that is the most one person may have.", count=count)
            raise Problem(409, "schedule.too_many", title, hint=_("Remove one first."))
        now = await database_now(session)
        row = Row(
            id=uuid4(),
            principal_id=caller.principal_id,
            tenant_id=where.tenant_id,
            spec=spec.model_dump(mode="json"),
            cron=cron,
            time_zone=zone,
            next_at=_following(cron, zone, now),
            enabled=True,
            created_at=now,
        )
        session.add(row)
        note(session, TOPIC)
    response.headers["Location"] = f"{context.api_prefix}/schedules/{row.id}"
    return view(row, caller.name, where.tenant)


@router.get("")
async def list_schedules(caller: Reader, context: Ctx) -> list[RecurringTask]:
    """Return the caller's recurring tasks, newest first; all of them for an operator."""
    async with context.store.read() as session:
        rows = (await session.execute(_own(caller).order_by(Row.created_at.desc(), Row.id))).all()
    return [view(row[0], row[1], row[2]) for row in rows]


@router.get("/{schedule_id}")
async def show(schedule_id: UUID, caller: Reader, context: Ctx) -> RecurringTask:
    """Return one recurring task."""
    async with context.store.read() as session:
        return view(*await _one(session, caller, schedule_id))


@router.patch("/{schedule_id}")
async def change(schedule_id: UUID, change: RecurringTaskChange, caller: Submitter, context: Ctx) -> RecurringTask:
    """Stop a recurring task, or let it go on from now; what it missed meanwhile is not made up for."""
    async with context.store.write() as session:
        row, owner, tenant = await _one(session, caller, schedule_id)
        if change.enabled and not row.enabled:
            row.next_at = _following(row.cron, row.time_zone, await database_now(session))
        row.enabled = change.enabled
        note(session, TOPIC)
        return view(row, owner, tenant)


@router.delete("/{schedule_id}", status_code=204)
async def remove(schedule_id: UUID, caller: Submitter, context: Ctx) -> None:
    """Remove a recurring task; the tasks it has submitted stay."""
    async with context.store.write() as session:
        row, _owner, _tenant = await _one(session, caller, schedule_id)
        await session.delete(row)

"""Recurring tasks: at each firing of a cron schedule one task is submitted, by one of all replicas.

A firing is one transaction: a conditional update moves ``next_at`` on, and the task is stored with the key
``cron/<schedule>/<time of the firing>``. Whoever comes second finds another ``next_at`` and does nothing. ``next_at`` moves to
the first time after *now*, so what was missed while the service was down fires once, not once each. Times are the database's;
when its clock was set back, ``next_at`` is found anew, and a time that has fired already does not fire again.

The owner's membership and the specification are checked when it fires: who left the tenant has the schedule stopped; what cannot
be accepted any more becomes a task that failed with the reason, so that it is seen where people look.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import CursorResult, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.api.auth import Caller
from tessera_hub.api.context import Context
from tessera_hub.api.errors import Problem
from tessera_hub.api.intake import check
from tessera_hub.cron import CronError, next_firing
from tessera_hub.manager.membership import is_member
from tessera_hub.scheduling.lease import database_now
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.schedules import RecurringTask as RecurringTaskView
from tessera_hub.schemas.stored import stored_spec
from tessera_hub.schemas.tasks import Phase, TaskSpec
from tessera_hub.store.tables import Principal, Queue, RecurringTask, Tenant
from tessera_hub.tasks.machine import transition
from tessera_hub.tasks.reasons import REASONS, reason
from tessera_hub.tasks.storing import Submission, store_tasks
from tessera_hub.tasks.submission import Destination, SubmissionError, specification_hash

log = structlog.get_logger(__name__)

TOPIC: Final = "recurring"
"""Said when a schedule was made or changed."""
POLL_SECONDS: Final = 5.0
"""Longest time between two looks; a clock that jumps is noticed within it."""
TOLERANCE_SECONDS: Final = 2.0
"""By how much the clock may fall behind between two looks before it counts as set back."""
PIECE: Final = 100
MOST_PER_PERSON: Final = 100


@dataclass(frozen=True, slots=True)
class Due:
    """A schedule whose time has come."""

    row: RecurringTask
    principal: Principal
    tenant: Tenant

    @property
    def key(self) -> str:
        """Idempotency key of this firing."""
        return f"cron/{self.row.id}/{self.row.next_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


async def run(context: Context) -> None:
    """Fire what is due for as long as the service runs."""
    looked: tuple[float, datetime] | None = None
    with context.store.notifier.subscribe(TOPIC) as changes:
        while True:
            async with context.store.read() as session:
                now = await database_now(session)
            here = time.monotonic()
            if looked is None or (now - looked[1]).total_seconds() < here - looked[0] - TOLERANCE_SECONDS:
                await find_anew(context, now)
            looked = here, now
            await changes.wait(await step(context))


async def find_anew(context: Context, now: datetime) -> int:
    """Take back every ``next_at`` that lies beyond the next firing after *now* and return how many there were."""
    query = select(RecurringTask).where(RecurringTask.enabled.is_(True), RecurringTask.next_at > now)
    async with context.store.read() as session:
        rows = (await session.scalars(query)).all()
    found = 0
    for row in rows:
        try:
            following = next_firing(row.cron, row.time_zone, now)
        except CronError as error:
            log.error("schedule_unreadable", schedule=str(row.id), error=str(error))
            continue
        if following < row.next_at:
            found += 1
            async with context.store.write() as session:
                await session.execute(
                    update(RecurringTask)
                    .where(RecurringTask.id == row.id, RecurringTask.next_at == row.next_at)
                    .values(next_at=following)
                    .execution_options(synchronize_session=False)
                )
    if found:
        log.warning("schedules_found_anew", count=found, now=now.isoformat())
    return found


async def step(context: Context) -> float:
    """Fire what is due and return how many seconds to wait, at most :data:`POLL_SECONDS`."""
    async with context.store.read() as session:
        now = await database_now(session)
        query = (
            select(RecurringTask, Principal, Tenant)
            .join(Principal, Principal.id == RecurringTask.principal_id)
            .join(Tenant, Tenant.id == RecurringTask.tenant_id)
            .where(RecurringTask.enabled.is_(True), RecurringTask.next_at <= now)
            .order_by(RecurringTask.next_at)
            .limit(PIECE)
        )
        due = [Due(*row) for row in (await session.execute(query)).all()]
    failed = False
    for schedule in due:
        try:
            await fire(context, schedule, now)
        except Exception:
            # One schedule must not hold up the others; it is tried again at the next look.
            log.exception("schedule_not_fired", schedule=str(schedule.row.id))
            failed = True
    if failed:
        return POLL_SECONDS
    async with context.store.read() as session:
        following = await session.scalar(select(func.min(RecurringTask.next_at)).where(RecurringTask.enabled.is_(True)))
        now = await database_now(session)
    return POLL_SECONDS if following is None else min(max((following - now).total_seconds(), 0.0), POLL_SECONDS)


async def fire(context: Context, due: Due, now: datetime) -> UUID | None:
    """Submit the task of a due schedule and return its id, None when another replica did or the schedule was stopped."""
    try:
        following = next_firing(due.row.cron, due.row.time_zone, now)
    except CronError as error:
        log.error("schedule_unreadable", schedule=str(due.row.id), error=str(error))
        await _stop(context, due)
        return None
    if not await is_member(context, due.principal, due.tenant):
        log.info("schedule_stopped", schedule=str(due.row.id), owner=due.principal.hub_name, tenant=due.tenant.name)
        await _stop(context, due)
        return None
    spec = stored_spec(due.row.spec).model_copy(update={"schedule": None, "tenant": due.tenant.name})
    where, refusal = await _examined(context, due, spec)
    body = spec.model_dump(mode="json")
    item = Submission(spec, where, due.key, body, specification_hash(body))
    async with context.store.write() as session:
        moved: CursorResult[Any] = await session.execute(  # type: ignore[assignment]
            update(RecurringTask)
            .where(RecurringTask.id == due.row.id, RecurringTask.enabled.is_(True), RecurringTask.next_at == due.row.next_at)
            .values(next_at=following)
            .execution_options(synchronize_session=False)
        )
        if moved.rowcount != 1:
            return None
        (stored,) = await store_tasks(session, [item], principal_id=due.principal.id, actor=f"schedule:{due.row.id}")
        if isinstance(stored, SubmissionError):
            # The key was used for another specification, which only a clock set back can bring about.
            log.warning("schedule_key_used", schedule=str(due.row.id), key=due.key)
            return None
        await session.execute(
            update(RecurringTask)
            .where(RecurringTask.id == due.row.id)
            .values(last_task_id=stored.task.id)
            .execution_options(synchronize_session=False)
        )
        if refusal is not None and stored.run is not None:
            await transition(session, stored.run.id, Phase.FAILED, actor="service", reasons=[refusal])
    log.info("schedule_fired", schedule=str(due.row.id), task=str(stored.task.id), at=due.row.next_at.isoformat())
    return stored.task.id


async def _stop(context: Context, due: Due) -> None:
    async with context.store.write() as session:
        await session.execute(
            update(RecurringTask)
            .where(RecurringTask.id == due.row.id, RecurringTask.next_at == due.row.next_at)
            .values(enabled=False)
            .execution_options(synchronize_session=False)
        )


async def _examined(context: Context, due: Due, spec: TaskSpec) -> tuple[Destination, Reason | None]:
    """Return where the task goes, and why it is refused."""
    tenants = {due.tenant.name: due.tenant.id}
    owner = Caller(
        due.principal.id,
        due.principal.kind,
        due.principal.hub_name,
        admin=False,
        scopes=frozenset(),
        tenants=tenants,
        by_cookie=False,
        groups=await _groups(context, due.principal, spec.environment),
    )
    try:
        return await check(context, owner, spec), None
    except SubmissionError as error:
        why = _reason(error.code, error.detail)
    except Problem as problem:
        why = problem.reasons[0] if problem.reasons else _reason(problem.code, {})
    async with context.store.read() as session:
        return await _any_queue(session, due.tenant), why


async def _groups(context: Context, owner: Principal, environment: str) -> frozenset[str]:
    """Return the owner's groups if the environment asks for some.

    Raises:
        HubError: the hub does not tell; the schedule is tried again at the next look.
    """
    if environment not in context.settings.environment_rules:
        return frozenset()
    person = await context.hub.user(owner.hub_name)
    return frozenset() if person is None or person["created"] != owner.hub_created else frozenset(person["groups"])


def _reason(code: str, detail: dict[str, Any]) -> Reason:
    known = {"inputs.not_uploaded": "inputs.missing"}.get(code, code)
    return reason(known, **detail) if known in REASONS else reason("schedule.refused", refused=code, **detail)


async def _any_queue(session: AsyncSession, tenant: Tenant) -> Destination:
    """Return the tenant's root, where a task is shown that found no queue."""
    queue = (await session.scalars(select(Queue).where(Queue.path == tenant.name))).one()
    return Destination(tenant.id, tenant.name, queue.id, queue.path)


def view(row: RecurringTask, owner: str, tenant: str) -> RecurringTaskView:
    """Return a schedule as the API shows it."""
    return RecurringTaskView(
        id=row.id,
        owner=owner,
        tenant=tenant,
        cron=row.cron,
        time_zone=row.time_zone,
        enabled=row.enabled,
        next_at=row.next_at if row.enabled else None,
        last_task_id=row.last_task_id,
        created_at=row.created_at,
        spec=stored_spec(row.spec),
    )

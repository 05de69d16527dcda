"""Submit, list, look at, cancel and retry tasks."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import structlog
from fastapi import APIRouter, Header, Query, Response
from pydantic import ValidationError
from sqlalchemy import and_, or_, select

from tessera_hub.api.access import listed, own_task, owns
from tessera_hub.api.auth import Caller, Ctx, Reader, Submitter
from tessera_hub.api.context import Context
from tessera_hub.api.errors import Problem
from tessera_hub.api.intake import accept, accept_batch, examine, refuse_recurring
from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.capacity import Estimate
from tessera_hub.schemas.tasks import (
    LONGEST_RUN_SECONDS,
    Phase,
    Submitted,
    Task,
    TaskBatch,
    TaskDetail,
    TaskDraft,
    TaskEvent,
    TaskKind,
    TaskPage,
    TaskSpec,
)
from tessera_hub.store.tables import Decision, RunRow, TaskRow
from tessera_hub.tasks.control import request_cancel, retry
from tessera_hub.tasks.machine import TransitionError
from tessera_hub.tasks.reasons import localised, reason
from tessera_hub.tasks.suspension import request_suspension
from tessera_hub.tasks.views import detail_view, events_view, fetch, records, task_view

log = structlog.get_logger(__name__)
router = APIRouter(tags=["tasks"])

Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)]
_GROUPS = {
    "waiting": (Phase.QUEUED,),
    "active": (Phase.RESERVED, Phase.DISPATCHED, Phase.PENDING, Phase.STARTING, Phase.RUNNING, Phase.SUSPENDED, Phase.UNKNOWN),
    "done": (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED, Phase.PREEMPTED),
}


@router.post("/estimate")
async def estimate(
    spec: TaskDraft, caller: Reader, context: Ctx, seconds: Annotated[int | None, Query(ge=1, le=LONGEST_RUN_SECONDS)] = None
) -> Estimate:
    """Return what a task would cost, what its quota would be and whether it could start now, without submitting it."""
    return await examine(context, caller, spec, seconds)


@router.post("/tasks", status_code=201)
async def submit(
    spec: TaskSpec, caller: Submitter, context: Ctx, response: Response, key: Key = None, dry_run: bool = False
) -> Task | dict[str, Any]:
    """Submit a task. The same Idempotency-Key with the same body answers the same task; with another body 409."""
    refuse_recurring(spec)
    if dry_run:
        response.status_code = 200
        looked = await examine(context, caller, spec, None)
        return {"spec": spec.model_dump(mode="json"), "estimate": looked.model_dump(mode="json")}
    record, created = await accept(context, caller, spec, key)
    if created:
        log.info("task_submitted", task=str(record.task.id), run=str(record.task.run_id), by=caller.actor)
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"{context.api_prefix}/tasks/{record.task.id}"
    return task_view(record)


@router.post("/tasks/batch")
async def submit_batch(batch: TaskBatch, caller: Submitter, context: Ctx) -> list[Submitted]:
    """Submit up to 1,000 tasks; each is accepted or refused on its own, in the order given."""
    keys = batch.idempotency_keys
    if keys is not None and len(keys) != len(batch.tasks):
        raise Problem(422, "request.invalid", _("Give as many idempotency keys as tasks."))
    answers = await accept_batch(context, caller, batch.tasks, keys)
    made = [str(answer.task.id) for answer in answers if answer.task is not None]
    log.info("tasks_submitted", tasks=made, by=caller.actor)
    return answers


@router.get("/tasks")
async def list_tasks(
    caller: Reader,
    context: Ctx,
    phase: Annotated[list[Phase] | None, Query()] = None,
    group: Literal["waiting", "active", "done"] | None = None,
    kind: Annotated[list[TaskKind] | None, Query()] = None,
    tenant: str | None = None,
    mine: bool = False,
    q: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> TaskPage:
    """List tasks, newest first. ``next`` of the answer is the cursor of the following page."""
    conditions = [listed(caller)]
    phases = [*(phase or ()), *(_GROUPS[group] if group else ())]
    if phases:
        conditions.append(TaskRow.phase.in_([p.value for p in phases]))
    if kind:
        conditions.append(TaskRow.kind.in_([k.value for k in kind]))
    if tenant is not None:
        conditions.append(TaskRow.tenant_id == caller.tenants.get(tenant, -1))
    if mine:
        conditions.append(TaskRow.principal_id == caller.principal_id)
    if q:
        conditions.append(TaskRow.name.icontains(q, autoescape=True))
    if cursor:
        at, last = _read_cursor(cursor)
        conditions.append(or_(TaskRow.created_at < at, and_(TaskRow.created_at == at, TaskRow.id < last)))
    query = records().where(*conditions).order_by(TaskRow.created_at.desc(), TaskRow.id.desc()).limit(limit + 1)
    async with context.store.read() as session:
        found = await fetch(session, query)
    page = found[:limit]
    more = _cursor(page[-1].task) if len(found) > limit else None
    items = []
    for record in page:
        task = task_view(record)
        if not owns(caller, record.task):
            task.cost, task.entry = None, None
        items.append(task)
    return TaskPage(items=items, next=more)


def _cursor(task: TaskRow) -> str:
    return base64.urlsafe_b64encode(json.dumps([task.created_at.isoformat(), str(task.id)]).encode()).decode()


def _read_cursor(cursor: str) -> tuple[datetime, UUID]:
    try:
        at, last = json.loads(base64.urlsafe_b64decode(cursor))
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None:
            raise ValueError("no zone")
        return moment, UUID(last)
    except (ValueError, TypeError, binascii.Error) as error:
        raise Problem(422, "request.cursor", _("The cursor is not one that a list answered.")) from error


@router.get("/tasks/{task_id}")
async def show(
    task_id: UUID,
    caller: Reader,
    context: Ctx,
    response: Response,
    if_none_match: Annotated[str | None, Header()] = None,
) -> TaskDetail:
    """Return a task with its specification and runs; 304 when nothing but the ticking cost changed."""
    async with context.store.read() as session:
        record = await own_task(session, caller, task_id)
        etag = f'"{record.task.version}"'
        if if_none_match == etag:
            response.status_code = 304
            return Response(status_code=304, headers={"ETag": etag})  # type: ignore[return-value]
        response.headers["ETag"] = etag
        try:
            return await detail_view(session, record)
        except ValidationError as error:  # its line in the list says the same
            raise Problem(409, "task.unreadable", localised(reason("task.unreadable")).message) from error


@router.post("/tasks/{task_id}/cancel", status_code=202)
async def cancel(task_id: UUID, caller: Submitter, context: Ctx) -> Task:
    """Cancel a task: at once if it waits, with its grace period if it runs. A repeat changes nothing."""
    async with context.store.write() as session:
        await own_task(session, caller, task_id)
        await request_cancel(session, task_id, actor=caller.actor)
    async with context.store.read() as session:
        return task_view(await own_task(session, caller, task_id))


@router.post("/tasks/{task_id}/retry", status_code=202)
async def run_again(task_id: UUID, caller: Submitter, context: Ctx) -> Task:
    """Queue a new attempt of a task that ended."""
    async with context.store.write() as session:
        record = await own_task(session, caller, task_id)
        if not Phase(record.task.phase).final:
            raise Problem(409, "task.not_final", _("The task has not ended yet; cancel it first."))
        if record.task.kind == TaskKind.WORKSPACE.value:
            raise Problem(409, "task.workspace", _("Start a new workspace instead."))
        await retry(session, task_id, actor=caller.actor)
    async with context.store.read() as session:
        return task_view(await own_task(session, caller, task_id))


@router.post("/tasks/{task_id}/suspend", status_code=202)
async def suspend(task_id: UUID, caller: Submitter, context: Ctx) -> Task:
    """Hold a running task still, where its cluster can do that; it keeps its memory and cards. A repeat changes nothing."""
    return await _suspended(task_id, caller, context, wanted=True)


@router.post("/tasks/{task_id}/resume", status_code=202)
async def resume(task_id: UUID, caller: Submitter, context: Ctx) -> Task:
    """Let a suspended task go on."""
    return await _suspended(task_id, caller, context, wanted=False)


async def _suspended(task_id: UUID, caller: Caller, context: Context, *, wanted: bool) -> Task:
    async with context.store.write() as session:
        await own_task(session, caller, task_id)
        try:
            await request_suspension(session, task_id, wanted)
        except TransitionError as error:
            hint = _("Only a task that runs on a cluster with this ability can be suspended; a workspace cannot.")
            raise Problem(409, error.code, _("The task cannot be suspended or resumed now."), hint=hint) from error
    async with context.store.read() as session:
        return task_view(await own_task(session, caller, task_id))


@router.get("/tasks/{task_id}/events")
async def events(task_id: UUID, caller: Reader, context: Ctx) -> list[TaskEvent]:
    """Return every transition with time, actor and reason, oldest first."""
    async with context.store.read() as session:
        await own_task(session, caller, task_id)
        return await events_view(session, task_id)


@router.get("/tasks/{task_id}/decision")
async def decision(task_id: UUID, caller: Reader, context: Ctx) -> dict[str, Any]:
    """Return why the scheduler placed the task where it is, or why it waits: scores and rejected clusters."""
    async with context.store.read() as session:
        record = await own_task(session, caller, task_id)
        query = select(Decision).join(RunRow, RunRow.decision_id == Decision.id).where(RunRow.id == record.run.id)
        found = (await session.scalars(query)).first()
        return {"at": found.at.isoformat(), **_in_words(found.body)} if found else {}


def _in_words(body: dict[str, Any]) -> dict[str, Any]:
    """Return an explanation with its reasons in the caller's language."""
    reasons = [localised(why).model_dump(mode="json") for why in body.get("reasons") or ()]
    rejected = [
        {**entry, "message": localised({"tier": entry["tier"], "code": entry["code"]}).message}
        for entry in body.get("rejected") or ()
    ]
    return {**body, "reasons": reasons, "rejected": rejected}

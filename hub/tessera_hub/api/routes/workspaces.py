"""Ask for a workspace."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Response
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.api.access import own_task
from tessera_hub.api.auth import Caller, Ctx, Submitter
from tessera_hub.api.context import Context
from tessera_hub.api.errors import Problem, not_found
from tessera_hub.api.intake import accept
from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.tasks import Task, TaskKind
from tessera_hub.schemas.workspaces import DEFAULT_NAME, ActivityReport, Idleness, WorkspaceRequest
from tessera_hub.tasks.machine import TransitionError
from tessera_hub.tasks.views import TaskRecord, task_view
from tessera_hub.workspaces import idleness
from tessera_hub.workspaces.reservations import live_workspace, workspace_key

router = APIRouter(tags=["workspaces"])


async def reserve(context: Context, caller: Caller, wanted: WorkspaceRequest) -> TaskRecord:
    """Store the workspace's task; the service starts the server when it is granted.

    Raises:
        Problem: 409 ``workspace.exists`` with the task's id, 422 ``workspace.kind``, or whatever refuses a task.
    """
    if caller.kind != "user":
        raise Problem(403, "workspace.person", _("Only a person can have a workspace."))
    if wanted.spec.kind is not TaskKind.WORKSPACE:
        raise Problem(422, "workspace.kind", _("The specification of a workspace has kind 'workspace'."))
    if len(wanted.spec.roles) != 1 or wanted.spec.roles[0].replicas != 1:
        raise Problem(422, "workspace.single", _("A workspace runs on one node."))
    async with context.store.read() as session:
        live = await live_workspace(session, caller.principal_id, wanted.server_name)
        key = await workspace_key(session, caller.principal_id, wanted.server_name)
    if live is not None:
        raise _exists(str(live.id))
    try:
        # Pages find the server by the task's name.
        spec = wanted.spec.model_copy(update={"name": wanted.server_name or DEFAULT_NAME})
        record, created = await accept(context, caller, spec, key, server_name=wanted.server_name)
    except Problem as problem:
        if problem.code == "idempotency.mismatch":  # another tab asked for something else in the same instant
            raise _exists(str(problem.extra.get("detail", {}).get("task_id", ""))) from problem
        raise
    if not created and record.task.kind != TaskKind.WORKSPACE.value:
        raise _exists(str(record.task.id))
    return record


def _exists(task_id: str) -> Problem:
    title = _("This workspace already exists.")
    return Problem(409, "workspace.exists", title, hint=_("Open it, or stop it first."), detail={"task_id": task_id})


@router.post("/workspaces", status_code=201)
async def create(wanted: WorkspaceRequest, caller: Submitter, context: Ctx, response: Response) -> Task:
    """Reserve a workspace. Its server starts by itself when the reservation is granted."""
    record = await reserve(context, caller, wanted)
    response.headers["Location"] = f"{context.api_prefix}/tasks/{record.task.id}"
    return task_view(record)


async def _own(session: AsyncSession, caller: Caller, task_id: UUID) -> None:
    if (await own_task(session, caller, task_id)).task.kind != TaskKind.WORKSPACE.value:
        raise not_found("workspace")


def _ended() -> Problem:
    return Problem(409, "workspace.ended", _("The workspace has ended."), hint=_("Start it again."))


@router.post("/workspaces/{task_id}/activity")
async def activity(task_id: UUID, report: ActivityReport, caller: Submitter, context: Ctx) -> Idleness:
    """Take the workspace's own word on since when nothing runs in it; one that has been idle for too long is stopped."""
    try:
        async with context.store.write() as session:
            await _own(session, caller, task_id)
            return await idleness.take_report(session, context.settings, task_id, report)
    except TransitionError as error:
        raise _ended() from error


@router.post("/workspaces/{task_id}/keep")
async def keep(task_id: UUID, caller: Submitter, context: Ctx) -> Idleness:
    """Keep the workspace for an hour although it is idle."""
    try:
        async with context.store.write() as session:
            await _own(session, caller, task_id)
            return await idleness.keep(session, task_id, actor=caller.actor)
    except TransitionError as error:
        raise _ended() from error

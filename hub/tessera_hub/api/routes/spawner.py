"""What JupyterHub's spawner asks and reports; needs the scope ``custom:tessera:spawner``."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from tessera_hub.api.auth import Ctx, Spawner
from tessera_hub.schemas.workspaces import Reservation, WorkspaceState
from tessera_hub.workspaces.reservations import report, reservation_of

router = APIRouter(prefix="/spawner/reservations", tags=["spawner"])


@router.get("")
async def find(
    _caller: Spawner,
    context: Ctx,
    user: Annotated[str, Query(min_length=1, max_length=255)],
    server: Annotated[str, Query(max_length=30)] = "",
) -> Reservation:
    """Return the reservation of a person's server."""
    async with context.store.read() as session:
        return await reservation_of(session, context, user, server)


@router.post("/{run_id}/state", status_code=204)
async def state(run_id: UUID, body: WorkspaceState, caller: Spawner, context: Ctx) -> Response:
    """Take a report. 409 ``run.stale_lease`` or ``run.illegal_transition`` when the run is not the spawner's any more."""
    async with context.store.write() as session:
        await report(session, run_id, body, actor=caller.actor)
    return Response(status_code=204)

"""Is it alive, is it ready, and its metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from tessera_hub.api.auth import Ctx, Operator
from tessera_hub.hubapi import HubError

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Answer as long as the process serves requests."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(context: Ctx) -> Response:
    """Answer 200 when database and hub can be used, else 503 with what is wrong."""
    checks = {"database": "ok", "hub": "ok"}
    try:
        async with context.store.read() as session:
            await session.execute(text("SELECT 1"))
    except (SQLAlchemyError, OSError) as error:
        checks["database"] = type(error).__name__
    try:
        await context.hub.tenant_groups()
    except HubError as error:
        checks["hub"] = str(error)
    ready = all(v == "ok" for v in checks.values())
    return JSONResponse({"status": "ready" if ready else "not ready", "checks": checks}, 200 if ready else 503)


@router.get("/metrics")
async def metrics(_operator: Operator) -> Response:
    """Return Prometheus metrics of this process, to a token that may operate."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

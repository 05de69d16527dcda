"""Connect, look at, drain and remove clusters (operators)."""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.api.auth import Ctx, Operator
from tessera_hub.api.errors import Problem, not_found
from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.resources import Strict
from tessera_hub.store.notify import SCHEDULE, note
from tessera_hub.store.tables import Cluster, RunRow
from tessera_hub.tasks.machine import LIVE

router = APIRouter(tags=["clusters"])


class NewCluster(Strict):
    """A cluster to connect."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    workspaces: bool = False
    tenants: list[str] | None = None


class ClusterChange(Strict):
    """What an operator changes; what is left out stays."""

    draining: bool | None = None
    workspaces: bool | None = None
    tenants: list[str] | None = None


class ClusterView(Strict):
    """A cluster as its operator sees it."""

    name: str
    driver: str
    state: str
    draining: bool
    workspaces: bool
    tenants: list[str] | None
    agent_version: str
    capabilities: list[str]
    epoch: int
    last_contact_at: datetime | None
    live_runs: int
    inventory: dict[str, Any] | None


class NewClusterAnswer(Strict):
    """The cluster and, once only, the token its Proxy starts with."""

    cluster: ClusterView
    bootstrap_token: str
    command: list[str]
    """argv to run at the cluster; the token goes into the named file."""


def token_hash(token: str) -> str:
    """Return how a token is stored: only its SHA-256 (tokens are random, so no salt is needed)."""
    return hashlib.sha256(token.encode()).hexdigest()


async def _view(session: AsyncSession, cluster: Cluster) -> ClusterView:
    live = await session.scalar(select(func.count()).where(RunRow.cluster_id == cluster.id, RunRow.phase.in_(LIVE)))
    return ClusterView(
        name=cluster.name,
        driver=cluster.driver,
        state=cluster.state,
        draining=cluster.draining,
        workspaces=cluster.workspaces,
        tenants=cluster.tenants,
        agent_version=cluster.agent_version,
        capabilities=cluster.capabilities,
        epoch=cluster.epoch,
        last_contact_at=cluster.last_contact_at,
        live_runs=live or 0,
        inventory=cluster.inventory,
    )


async def _cluster(session: AsyncSession, name: str) -> Cluster:
    found = (await session.scalars(select(Cluster).where(Cluster.name == name))).first()
    if found is None:
        raise not_found("cluster")
    return found


@router.get("/clusters")
async def list_clusters(_operator: Operator, context: Ctx) -> list[ClusterView]:
    """Return all clusters."""
    async with context.store.read() as session:
        return [await _view(session, c) for c in (await session.scalars(select(Cluster).order_by(Cluster.name))).all()]


@router.post("/clusters", status_code=201)
async def connect(new: NewCluster, _operator: Operator, context: Ctx) -> NewClusterAnswer:
    """Register a cluster; the answer holds the bootstrap token, which is shown only here."""
    token = secrets.token_urlsafe(32)
    cluster = Cluster(
        name=new.name,
        bootstrap_hash=token_hash(token),
        workspaces=new.workspaces,
        tenants=new.tenants,
        capabilities=[],
        created_at=datetime.now(UTC),
    )
    async with context.store.write() as session:
        session.add(cluster)
        try:
            await session.flush()
        except IntegrityError as error:
            raise Problem(409, "cluster.exists", _("There is a cluster of this name already.")) from error
        view = await _view(session, cluster)
    url = f"{context.settings.public_url}{context.settings.prefix}"
    command = ["tessera", "proxy", "--cluster", new.name, "--url", url, "--bootstrap-token-file", "TOKEN_FILE"]
    return NewClusterAnswer(cluster=view, bootstrap_token=token, command=command)


@router.get("/clusters/{name}")
async def show_cluster(name: str, _operator: Operator, context: Ctx) -> ClusterView:
    """Return one cluster with its inventory."""
    async with context.store.read() as session:
        return await _view(session, await _cluster(session, name))


@router.patch("/clusters/{name}")
async def change_cluster(name: str, change: ClusterChange, _operator: Operator, context: Ctx) -> ClusterView:
    """Drain a cluster, open it for workspaces, or limit it to tenants."""
    async with context.store.write() as session:
        cluster = await _cluster(session, name)
        for field, value in change.model_dump(exclude_unset=True).items():
            if value is not None or field == "tenants":
                setattr(cluster, field, value)
        cluster.version += 1
        note(session, SCHEDULE)
        return await _view(session, cluster)


@router.delete("/clusters/{name}", status_code=204)
async def remove(name: str, _operator: Operator, context: Ctx) -> None:
    """Remove a cluster on which nothing runs; its history stays."""
    async with context.store.write() as session:
        cluster = await _cluster(session, name)
        if (await _view(session, cluster)).live_runs:
            hint = _("Drain it and wait, or cancel what runs there.")
            raise Problem(409, "cluster.busy", _("Tasks still run on this cluster."), hint=hint)
        ever = await session.scalar(select(func.count()).where(RunRow.cluster_id == cluster.id))
        if ever:
            # Bills and logs name it: it is shut out, not erased.
            cluster.bootstrap_hash = cluster.session_hash = ""
            cluster.draining, cluster.state, cluster.epoch = True, "unreachable", cluster.epoch + 1
        else:
            await session.delete(cluster)

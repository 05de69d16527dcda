"""Who am I, and what there is to choose from."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter

from tessera_hub.api.auth import AnyCaller, Ctx, Reader
from tessera_hub.catalogue import capacities, datasets, environments
from tessera_hub.environments import opener
from tessera_hub.schemas.capacity import ClusterCapacity, DatasetView, Environment, Me

router = APIRouter(tags=["you"])


@router.get("/me")
async def me(caller: AnyCaller, context: Ctx) -> Me:
    """Return the caller as the service sees them."""
    tenants = sorted(caller.tenants)
    return Me(
        name=caller.name,
        admin=caller.operator,
        tenants=tenants,
        default_tenant=tenants[0] if len(tenants) == 1 else None,
        scopes=sorted(s for s in caller.scopes if s.startswith("custom:tessera:")),
        currency=context.settings.currency,
        single_person=context.settings.single_person,
        server_time=datetime.now(UTC),
    )


@router.get("/environments")
async def list_environments(caller: Reader, context: Ctx) -> list[Environment]:
    """Return the software environments that connected clusters offer to the caller."""
    async with context.store.read() as session:
        tenants = None if caller.operator else set(caller.tenants)
        return await environments(session, tenants, opener(context.settings.environment_rules, caller.groups))


@router.get("/datasets")
async def list_datasets(caller: Reader, context: Ctx) -> list[DatasetView]:
    """Return the data sets that the caller's tenants may read, and the clusters that have them."""
    async with context.store.read() as session:
        return await datasets(session, None if caller.operator else set(caller.tenants), set(caller.tenants))


@router.get("/capacity")
async def list_capacity(caller: Reader, context: Ctx) -> list[ClusterCapacity]:
    """Return what every cluster open to the caller has and has free."""
    async with context.store.read() as session:
        return await capacities(session, None if caller.operator else set(caller.tenants))

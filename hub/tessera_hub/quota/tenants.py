"""Principals, tenants and memberships, kept in step with JupyterHub at every contact (at most every 30 s per token)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.hubapi import Identity
from tessera_hub.store.tables import Membership, Principal, Queue, Tenant

DEFAULT_QUEUE = "default"
"""Queue below a tenant's root that takes work for which no queue is named."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A principal and the tenants it belongs to now (name → id), in name order."""

    principal_id: int
    tenants: dict[str, int]


async def synchronise(session: AsyncSession, issuer: str, identity: Identity, tenants_by_group: dict[str, str]) -> Standing:
    """Record what the hub says about *identity* and return its standing; creates what is missing, removes what ended."""
    now = datetime.now(UTC)
    insert = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert
    key = {"issuer": issuer, "kind": identity.kind, "hub_name": identity.name, "hub_created": identity.created}
    await session.execute(insert(Principal).values(**key, admin=identity.admin, created_at=now).on_conflict_do_nothing())
    principal = (await session.scalars(select(Principal).filter_by(**key))).one()
    if principal.admin != identity.admin:
        principal.admin = identity.admin
    names = sorted({tenants_by_group[g] for g in identity.groups if g in tenants_by_group})
    standing: dict[str, int] = {}
    for name in names:
        standing[name] = await ensure_tenant(session, name)
    present = set((await session.scalars(select(Membership.tenant_id).where(Membership.principal_id == principal.id))).all())
    wanted = set(standing.values())
    if present - wanted:
        await session.execute(
            delete(Membership).where(Membership.principal_id == principal.id, Membership.tenant_id.in_(present - wanted))
        )
    for tenant_id in sorted(wanted - present):
        values = {"principal_id": principal.id, "tenant_id": tenant_id, "role": "member", "synced_at": now}
        await session.execute(insert(Membership).values(**values).on_conflict_do_nothing())
    return Standing(principal.id, standing)


async def ensure_tenant(session: AsyncSession, name: str) -> int:
    """Return the id of tenant *name*, made with its root queue and a default queue when it is new."""
    insert = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert
    found = await session.scalar(select(Tenant.id).where(Tenant.name == name))
    if found is not None:
        return found
    await session.execute(insert(Tenant).values(name=name, created_at=datetime.now(UTC)).on_conflict_do_nothing())
    tenant_id = (await session.scalars(select(Tenant.id).where(Tenant.name == name))).one()
    root = {"tenant_id": tenant_id, "parent_id": None, "name": name, "path": name}
    await session.execute(insert(Queue).values(**root).on_conflict_do_nothing())
    root_id = (await session.scalars(select(Queue.id).where(Queue.path == name))).one()
    leaf = {"tenant_id": tenant_id, "parent_id": root_id, "name": DEFAULT_QUEUE, "path": f"{name}/{DEFAULT_QUEUE}"}
    await session.execute(insert(Queue).values(**leaf).on_conflict_do_nothing())
    return tenant_id


async def belongs(session: AsyncSession, principal_id: int, tenant_id: int) -> bool:
    """Whether the principal is a member of the tenant, by the last answer of the hub."""
    found = await session.get(Membership, (principal_id, tenant_id))
    return found is not None

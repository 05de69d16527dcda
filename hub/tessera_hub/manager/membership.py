"""The owner's membership, asked again when a run is dispatched: who has left a tenant uses nothing of it any more."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import and_, or_, select

from tessera_hub.api.context import Context
from tessera_hub.hubapi import HubError
from tessera_hub.quota.tenants import belongs
from tessera_hub.schemas.tasks import Phase, TaskKind
from tessera_hub.store.tables import Principal, RunRow, TaskRow, Tenant
from tessera_hub.tasks.machine import FOLLOWS, transition
from tessera_hub.tasks.reasons import reason

log = structlog.get_logger(__name__)

UNSTARTED: Final = (Phase.RESERVED.value, Phase.DISPATCHED.value)
PIECE: Final = 1000
"""Runs looked at in one sync; the others follow in the next."""

Pair = tuple[int, int]
"""Principal and tenant, by id."""


@dataclass(frozen=True, slots=True)
class _Owner:
    kind: str
    name: str
    created: str
    tenant: str


async def dismiss_strangers(context: Context, cluster_id: int) -> set[Pair]:
    """End the runs about to be dispatched whose owner has left the tenant; return the pairs whose runs may be leased.

    JupyterHub is asked, by its answers of the last 30 s. While it does not answer, the membership as last recorded counts:
    a restart of the hub ends no task. Programs (hub services) are in no group that could be asked for; their recorded
    membership counts, too. No database session is held while the hub is asked.
    """
    query = (
        select(RunRow.id, TaskRow.principal_id, TaskRow.tenant_id, Tenant.name.label("tenant"))
        .add_columns(Principal.kind, Principal.hub_name, Principal.hub_created)
        .join(TaskRow, TaskRow.id == RunRow.task_id)
        .join(Tenant, Tenant.id == TaskRow.tenant_id)
        .join(Principal, Principal.id == TaskRow.principal_id)
        .where(RunRow.cluster_id == cluster_id, RunRow.claimed_by.is_(None))
        .where(
            or_(
                RunRow.phase.in_(UNSTARTED),
                and_(RunRow.phase == Phase.UNKNOWN.value, TaskRow.kind != TaskKind.WORKSPACE.value),
            )
        )
        .order_by(RunRow.reserved_at)
        .limit(PIECE)
    )
    async with context.store.read() as session:
        rows = (await session.execute(query)).all()
    owners = {(row.principal_id, row.tenant_id): _Owner(row.kind, row.hub_name, row.hub_created, row.tenant) for row in rows}
    verdicts = await _verdicts(context, owners)
    for row in rows:
        if not verdicts[row.principal_id, row.tenant_id]:
            await _dismiss(context, row.id, row.hub_name, row.tenant)
    return {pair for pair, member in verdicts.items() if member}


async def is_member(context: Context, principal: Principal, tenant: Tenant) -> bool:
    """Whether the person belongs to the tenant now, by the rules of :func:`dismiss_strangers`."""
    pair = (principal.id, tenant.id)
    owner = _Owner(principal.kind, principal.hub_name, principal.hub_created, tenant.name)
    return (await _verdicts(context, {pair: owner}))[pair]


async def _verdicts(context: Context, owners: dict[Pair, _Owner]) -> dict[Pair, bool]:
    if not owners:
        return {}
    answers: dict[Pair, bool | None] = dict.fromkeys(owners)
    try:
        tenants = await context.hub.tenant_groups()
        found = await asyncio.gather(*(_asked(context, owner, tenants) for owner in owners.values()))
        answers = dict(zip(owners, found, strict=True))
    except HubError as error:
        log.warning("membership_not_checked", error=str(error))
    verdicts = {pair: answer for pair, answer in answers.items() if answer is not None}
    if len(verdicts) < len(owners):
        async with context.store.read() as session:
            for principal_id, tenant_id in owners.keys() - verdicts.keys():
                verdicts[principal_id, tenant_id] = await belongs(session, principal_id, tenant_id)
    return verdicts


async def _asked(context: Context, owner: _Owner, tenants: dict[str, str]) -> bool | None:
    """Whether the hub's present user of that name is this person and in a group of the tenant; None: cannot be asked."""
    if owner.kind != "user":
        return None
    person = await context.hub.user(owner.name)
    if person is None or person["created"] != owner.created:
        return False
    return any(tenants.get(group) == owner.tenant for group in person["groups"])


async def _dismiss(context: Context, run_id: UUID, owner: str, tenant: str) -> None:
    async with context.store.write() as session:
        run = await session.get(RunRow, run_id, populate_existing=True, with_for_update=True)
        if run is None or run.claimed_by is not None or Phase.FAILED not in FOLLOWS[Phase(run.phase)]:
            return
        why = reason("policy.membership", owner=owner, tenant=tenant)
        await transition(session, run_id, Phase.FAILED, actor="service", reasons=[why])
    log.info("run_dismissed", run=str(run_id), owner=owner, tenant=tenant)

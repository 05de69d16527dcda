"""The price book: everybody sees what holds for them, operators add versions."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_billing import BillingError
from tessera_billing.dimensions import split
from tessera_billing.prices import PriceVersion, add_price
from tessera_hub.api.auth import BillReader, Ctx, Operator
from tessera_hub.api.errors import Problem
from tessera_hub.api.routes.bills import billing_problem
from tessera_hub.cards import CATALOGUE
from tessera_hub.catalogue import open_clusters, prices
from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.prices import NewPrice, Price
from tessera_hub.store.tables import Cluster, Tenant

router = APIRouter(tags=["bills"])


@router.get("/prices")
async def list_prices(caller: BillReader, context: Ctx) -> list[Price]:
    """Return the price book, past and planned versions included; what others agreed on is not shown."""
    async with context.store.read() as session:
        book = await prices(session)
        clusters = {c.name for c in await open_clusters(session, None if caller.operator else set(caller.tenants))}
    return [
        _view(v)
        for v in book.versions
        if caller.operator or ((v.tenant is None or v.tenant in caller.tenants) and (v.cluster is None or v.cluster in clusters))
    ]


@router.post("/prices", status_code=201)
async def create_price(new: NewPrice, operator: Operator, context: Ctx) -> Price:
    """Add a version. Nothing that was used before it begins is priced anew, unless it is backdated."""
    now = int(time.time())
    async with context.store.write() as session:
        await _check_scope(session, new)
        try:
            family, card_class = split(new.dimension)
            version = await session.run_sync(
                lambda s: add_price(
                    s.connection(),
                    family=family.name,
                    unit=new.unit or next(iter(family.pricing_units)),
                    nano_per_unit_hour=new.nano_per_unit_hour,
                    valid_from=now if new.valid_from is None else int(new.valid_from.timestamp()),
                    valid_to=None if new.valid_to is None else int(new.valid_to.timestamp()),
                    card_class=card_class,
                    tenant=new.tenant,
                    cluster=new.cluster,
                    mode=new.mode,
                    backdated=new.backdated,
                    now=now,
                    actor=operator.name,
                )
            )
        except BillingError as error:
            raise billing_problem(error) from error
        book = await prices(session)
    return next(_view(found) for found in book.versions if found.version_id == version)


async def _check_scope(session: AsyncSession, new: NewPrice) -> None:
    """Refuse a scope that holds nothing: most likely a slip of the pen, and the price would never be used."""
    if new.tenant is not None and await session.scalar(select(Tenant.id).where(Tenant.name == new.tenant)) is None:
        raise Problem(422, "price.scope", _("There is no tenant {name}.", name=new.tenant))
    if new.cluster is not None and await session.scalar(select(Cluster.id).where(Cluster.name == new.cluster)) is None:
        raise Problem(422, "price.scope", _("There is no cluster {name}.", name=new.cluster))
    card_class = new.dimension.partition("/")[2]
    if card_class and card_class not in CATALOGUE:
        inventories = (await session.scalars(select(Cluster.inventory))).all()
        there = {pool.get("card_class") for found in inventories for pool in (found or {}).get("pools", ())}
        if card_class not in there:
            known = ", ".join(sorted({*CATALOGUE, *filter(None, there)}))
            raise Problem(422, "price.scope", _("There is no card class {name}.", name=card_class), hint=known)


def _view(version: PriceVersion) -> Price:
    return Price(
        dimension=f"{version.family}/{version.card_class}" if version.card_class else version.family,
        unit=version.unit,
        unit_size=version.unit_size,
        nano_per_unit_hour=version.nano_per_unit_hour,
        currency=version.currency,
        valid_from=datetime.fromtimestamp(version.valid_from, UTC) if version.valid_from > 0 else None,
        valid_to=datetime.fromtimestamp(version.valid_to, UTC) if version.valid_to is not None else None,
        tenant=version.tenant,
        cluster=version.cluster,
        mode=version.mode,
    )

"""Bills and costs."""

from __future__ import annotations

import time
from datetime import UTC, datetime, tzinfo
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query
from sqlalchemy import select

from tessera_billing import BillingError
from tessera_billing.accrual import accrual
from tessera_billing.bills import cost_by, month_bill, task_bill
from tessera_billing.dimensions import split
from tessera_billing.periods import zone as zone_of
from tessera_hub.api.access import listed, own_task
from tessera_hub.api.auth import BillReader, Caller, Ctx
from tessera_hub.api.errors import Problem, not_found
from tessera_hub.catalogue import prices
from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.bills import BillLine, CostRow, CostTable, MonthBill, TaskBill
from tessera_hub.schemas.tasks import Accrual
from tessera_hub.store.tables import TaskRow
from tessera_hub.tasks.views import accrual_view

router = APIRouter(tags=["bills"])


def billing_problem(error: BillingError) -> Problem:
    """Return the problem document of the ledger's refusal."""
    hint = _(error.hint_template, **error.values) if error.hint_template else ""
    return Problem(422, error.code, _(error.template, **error.values), hint=hint)


def person(caller: Caller) -> str:
    """Return the ledger's name of a caller: its principal, which a re-created user of the same name does not share."""
    return f"principal:{caller.principal_id}"


@router.get("/tasks/{task_id}/bill")
async def bill_of_task(task_id: UUID, caller: BillReader, context: Ctx) -> TaskBill:
    """Return what a task cost so far, line by line."""
    now = int(time.time())
    async with context.store.read() as session:
        await own_task(session, caller, task_id)
        zone = context.settings.time_zone
        bill = await session.run_sync(lambda s: task_bill(s.connection(), str(task_id), now, tz=zone))
        book = await prices(session)
    seconds = 0 if bill.first_second is None else (bill.last_second or now) - bill.first_second
    lines = []
    for line in bill.lines:
        version = book.at(now, tenant=bill.tenant or "", cluster="", dimension=line.dimension, mode="on-demand")
        lines.append(
            BillLine(
                sku=line.sku,
                dimension=line.dimension,
                unit=version.unit if version else split(line.dimension)[0].name,
                unit_seconds=line.unit_seconds,
                nano_per_unit_hour=version.nano_per_unit_hour if version else 0,
                amount_micro=line.amount_micro,
                provisional=line.provisional,
            )
        )
    return TaskBill(
        task_id=task_id,
        currency=bill.currency,
        amount_micro=bill.amount_micro,
        seconds=seconds,
        lines=lines,
        as_of=datetime.fromtimestamp(now, UTC),
    )


def _tenant_of(caller: Caller, tenant: str) -> str:
    if tenant not in caller.tenants and not caller.operator:
        raise not_found("tenant")
    return tenant


@router.get("/bills/{tenant}/{month}")
async def bill_of_month(
    tenant: str,
    month: Annotated[str, Path(pattern=r"^\d{4}-\d{2}$")],
    caller: BillReader,
    context: Ctx,
    tz: Annotated[str | None, Query(max_length=64)] = None,
) -> MonthBill:
    """Return a tenant's bill of a month; the amount is the sum of the lines to the last digit."""
    now, zone = int(time.time()), tz or context.settings.time_zone
    _tenant_of(caller, tenant)
    try:
        async with context.store.read() as session:
            bill = await session.run_sync(lambda s: month_bill(s.connection(), tenant, month, zone, now))
    except BillingError as error:
        raise billing_problem(error) from error
    lines = [
        BillLine(
            sku=line.sku,
            dimension=line.dimension,
            unit=line.priced[0].unit if line.priced else "",
            unit_seconds=line.unit_seconds,
            nano_per_unit_hour=line.priced[0].nano_per_unit_hour if line.priced else 0,
            amount_micro=line.amount_micro,
            provisional=line.provisional,
        )
        for line in bill.lines
    ]
    return MonthBill(
        tenant=tenant,
        month=month,
        time_zone=zone,
        currency=bill.currency,
        amount_micro=bill.total_micro,
        lines=lines,
        as_of=datetime.fromtimestamp(now, UTC),
    )


def _in_zone(moment: datetime, zone: tzinfo) -> datetime:
    """Take a day, or a time without a zone, as one of the bills' zone."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)


@router.get("/costs")
async def costs(
    caller: BillReader,
    context: Ctx,
    by: Literal["day", "task", "resource", "person"] = "day",
    start: datetime | None = None,
    end: datetime | None = None,
    tenant: str | None = None,
    mine: bool = True,
    tz: Annotated[str | None, Query(max_length=64)] = None,
) -> CostTable:
    """Return costs grouped by day, task, resource or person; of the caller (``mine``) or of a whole tenant they belong to.

    What each member of a tenant spent is shown to operators only.
    """
    now = datetime.now(UTC)
    zone = tz or context.settings.time_zone
    try:
        here = zone_of(zone)
    except BillingError as error:
        raise billing_problem(error) from error
    until = _in_zone(end or now, here)
    month = until.astimezone(here).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    since = _in_zone(start or month, here)
    if until <= since:
        raise Problem(422, "period.order", _("The start must be before the end."))
    if tenant is not None:
        _tenant_of(caller, tenant)
    elif not mine:
        raise Problem(422, "tenant.choose", _("Name the tenant whose costs are meant."))
    if not mine and by in ("task", "person") and not caller.operator:
        title = _("What each member of a tenant spent is shown to operators only.")
        raise Problem(403, "costs.members", title, hint=_("Group the tenant's costs by day or resource."))
    whose = person(caller) if mine else None
    first, last, moment = int(since.timestamp()), int(until.timestamp()), int(now.timestamp())
    try:
        async with context.store.read() as session:
            table = await session.run_sync(
                lambda s: cost_by(s.connection(), first, last, by, zone, now=moment, tenant=tenant, principal=whose)
            )
            titles = {}
            if by == "task":
                ids = [UUID(row.key[0]) for row in table.rows]
                query = select(TaskRow).where(TaskRow.id.in_(ids), listed(caller))
                titles = {str(t.id): t.name for t in (await session.scalars(query)).all()}
    except BillingError as error:
        raise billing_problem(error) from error
    rows = [
        CostRow(
            key=row.key[0],
            title=titles.get(row.key[0], ""),
            currency=table.currency,
            amount_micro=row.amount_micro,
            unit_seconds=dict(row.unit_seconds),
        )
        for row in table.rows
    ]
    return CostTable(by=by, start=since, end=until, currency=table.currency, amount_micro=table.amount_micro, rows=rows)


@router.get("/costs/live")
async def live(caller: BillReader, context: Ctx, since: datetime | None = None, tenant: str | None = None) -> Accrual:
    """Return what the caller (or a tenant they belong to) has spent since *since* (default: this month) and the current speed."""
    now = datetime.now(UTC)
    begin = since or now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    if tenant is not None:
        _tenant_of(caller, tenant)
    async with context.store.read() as session:
        found = await session.run_sync(
            lambda s: accrual(
                s.connection(),
                int(now.timestamp()),
                start=int(begin.timestamp()),
                tenant=tenant,
                principal=None if tenant else person(caller),
            )
        )
    return accrual_view(found)

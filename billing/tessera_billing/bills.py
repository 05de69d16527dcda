"""Bills as people ask for them: of a task, of a tenant's month, and costs by day, task, resource or person."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from tessera_billing import adjustments, ledger
from tessera_billing.adjustments import Adjustment
from tessera_billing.dimensions import split
from tessera_billing.errors import BillingError
from tessera_billing.invoice import Cell, Invoice, InvoiceLine, PricedQuantity, invoice, together
from tessera_billing.money import Money
from tessera_billing.periods import Period, days, month, months
from tessera_billing.prices import DEFAULT_BOOK, PriceList, price_list
from tessera_billing.tables import usage_interval


class By(StrEnum):
    """What costs can be split by."""

    DAY = "day"
    TASK = "task"
    RESOURCE = "resource"
    """The SKU: dimension and mode."""
    PERSON = "person"
    QUEUE = "queue"
    KIND = "kind"
    CLUSTER = "cluster"
    TENANT = "tenant"


@dataclass(frozen=True, slots=True)
class MonthBill:
    """A tenant's month [start, end) as of a second; amounts in micro-units.

    ``total_micro`` is the sum of the lines and the adjustments. ``provisional``: the month goes on or something still runs.
    """

    tenant: str
    month: str
    tz: str
    start: int
    end: int
    as_of: int
    currency: str
    lines: tuple[InvoiceLine, ...]
    adjustments: tuple[Adjustment, ...]
    usage_micro: int
    adjustments_micro: int
    total_micro: int
    provisional: bool
    estimated: bool
    unpriced: bool


@dataclass(frozen=True, slots=True)
class TaskLine:
    """What a task used of one SKU in one month; ``amount_micro`` is its share of the tenant's invoice line."""

    month: str
    sku: str
    dimension: str
    unit: str
    unit_seconds: int
    amount_micro: int
    priced: tuple[PricedQuantity, ...]
    provisional: bool
    estimated: bool
    unpriced: bool


@dataclass(frozen=True, slots=True)
class TaskBill:
    """All a task has cost as of a second, in micro-units. A task that never ran has no lines, and no tenant here."""

    task_id: str
    tenant: str | None
    as_of: int
    currency: str
    lines: tuple[TaskLine, ...]
    amount_micro: int
    first_second: int | None
    last_second: int | None
    """UTC second after the last one billed; None while the task goes on or if it never ran."""
    billed_seconds: int
    """Seconds in which anything was held; waiting and pauses are not in it."""
    provisional: bool
    estimated: bool
    unpriced: bool


@dataclass(frozen=True, slots=True)
class CostRow:
    """Cost of one group. ``key`` has one text per grouping; ``unit_seconds`` are (dimension, metered units times seconds)."""

    key: tuple[str, ...]
    amount_micro: int
    unit_seconds: tuple[tuple[str, int], ...]
    provisional: bool
    estimated: bool
    unpriced: bool


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of whole days [start, end), split by something, without adjustments."""

    by: tuple[By, ...]
    tz: str
    start: int
    end: int
    as_of: int
    currency: str
    rows: tuple[CostRow, ...]
    amount_micro: int


def month_bill(
    connection: sa.Connection, tenant: str, month_name: str, tz: str, now: int, *, book: str = DEFAULT_BOOK
) -> MonthBill:
    """Return a tenant's bill of a month (YYYY-MM, its edges those of ``tz``), counting what happened before ``now``.

    Raises:
        BillingError: ``period.month``, ``period.zone``, ``price.book``.
        TypeError: an adjustment of the month is in another currency than the price book.
    """
    prices = price_list(connection, book)
    period = month(month_name, tz)
    made = _invoice(connection, prices, tenant, period, tz, now)
    corrections = adjustments.of_month(connection, tenant, month_name)
    # Through Money, so that another currency is refused and not added.
    total = Money(prices.currency)
    for correction in corrections:
        total += correction.money
    usage = sum(line.amount_micro for line in made.lines)
    return MonthBill(
        tenant=tenant,
        month=month_name,
        tz=tz,
        start=period.start,
        end=period.end,
        as_of=now,
        currency=prices.currency,
        lines=made.lines,
        adjustments=corrections,
        usage_micro=usage,
        adjustments_micro=total.micro,
        total_micro=usage + total.micro,
        provisional=now < period.end or any(line.provisional for line in made.lines),
        estimated=any(line.estimated for line in made.lines),
        unpriced=any(line.unpriced for line in made.lines),
    )


def task_bill(connection: sa.Connection, task_id: str, now: int, *, tz: str = "UTC", book: str = DEFAULT_BOOK) -> TaskBill:
    """Return what a task has cost, counting what happened before ``now``.

    Args:
        tz: the zone of the invoices' months, the same as in ``month_bill``.

    Raises:
        BillingError: ``period.zone``, ``price.book``.
    """
    prices = price_list(connection, book)
    own = ledger.intervals(connection, 0, now, task_ids=[task_id])
    lines: defaultdict[tuple[str, str, str], list[Cell]] = defaultdict(list)
    ends = [interval.t1 for interval in own]
    open_or_later = None in ends
    if own:
        first, last = min(i.t0 for i in own), max(now if i.t1 is None else min(i.t1, now) for i in own)
        for tenant in sorted({interval.tenant for interval in own}):
            for period in months(first, last, tz):
                for cell in _invoice(connection, prices, tenant, period, tz, now).cells:
                    if cell.task_id == task_id:
                        lines[cell.month, cell.sku, cell.dimension].append(cell)
    made = tuple(_task_line(name, sku, dimension, cells) for (name, sku, dimension), cells in sorted(lines.items()))
    return TaskBill(
        task_id=task_id,
        tenant=own[0].tenant if own else None,
        as_of=now,
        currency=prices.currency,
        lines=made,
        amount_micro=sum(line.amount_micro for line in made),
        first_second=min((i.t0 for i in own), default=None),
        last_second=None if open_or_later else max((t1 for t1 in ends if t1 is not None), default=None),
        billed_seconds=_covered((i.t0, now if i.t1 is None else min(i.t1, now)) for i in own),
        provisional=open_or_later,
        estimated=any(line.estimated for line in made),
        unpriced=any(line.unpriced for line in made),
    )


def cost_by(
    connection: sa.Connection,
    start: int,
    end: int,
    by: By | str | Sequence[By | str],
    tz: str = "UTC",
    *,
    now: int,
    tenant: str | None = None,
    principal: str | None = None,
    task_ids: Sequence[str] | None = None,
    book: str = DEFAULT_BOOK,
) -> Costs:
    """Return costs of the whole days that touch [start, end), split by one thing or by several at once.

    The rows are sums of shares of the invoice lines, so that those of a tenant's whole month add up to its invoice.

    Args:
        by: one of ``By`` or several, such as ``("day", "resource")``.
        tenant, principal, task_ids: whose costs; at least one of the first two. A person is one of the tenants' principals.

    Raises:
        BillingError: ``cost.scope``, ``cost.by``, ``period.zone``, ``price.book``.
    """
    if tenant is None and principal is None:
        raise BillingError("cost.scope", "Costs are those of a tenant or of a person.", "Name one of them.")
    groups = _groups(by)
    prices = price_list(connection, book)
    span = days(start, end, tz)
    wanted = {day.name for day in span}
    found: defaultdict[tuple[str, ...], list[Cell]] = defaultdict(list)
    first, last = (span[0].start, span[-1].end) if span else (start, start)
    for owner in [tenant] if tenant is not None else _tenants(connection, principal, first, last):
        for period in months(first, min(last, max(now, first)), tz):
            for cell in _invoice(connection, prices, owner, period, tz, now).cells:
                mine = (principal in (None, cell.principal)) and (task_ids is None or cell.task_id in task_ids)
                if mine and cell.day in wanted:
                    found[tuple(_group_of(cell, owner, group) for group in groups)].append(cell)
    rows = tuple(_cost_row(key, cells) for key, cells in sorted(found.items()))
    amount = sum(row.amount_micro for row in rows)
    return Costs(groups, tz, first, last, now, prices.currency, rows, amount)


def _invoice(connection: sa.Connection, prices: PriceList, tenant: str, period: Period, tz: str, now: int) -> Invoice:
    used = ledger.intervals(connection, period.start, min(period.end, max(now, period.start)), tenant=tenant)
    return invoice(used, prices, period, tz, now)


def _groups(by: By | str | Sequence[By | str]) -> tuple[By, ...]:
    names = [by] if isinstance(by, str) else list(by)
    try:
        return tuple(By(name) for name in names)
    except ValueError as error:
        raise BillingError(
            "cost.by", "Costs cannot be split by {by}.", "Use one or more of {allowed}.", by=repr(by), allowed=", ".join(By)
        ) from error


def _group_of(cell: Cell, tenant: str, group: By) -> str:
    match group:
        case By.DAY:
            return cell.day
        case By.TASK:
            return cell.task_id
        case By.RESOURCE:
            return cell.sku
        case By.PERSON:
            return cell.principal
        case By.QUEUE:
            return cell.queue
        case By.KIND:
            return cell.kind
        case By.CLUSTER:
            return cell.cluster
        case By.TENANT:
            return tenant


def _tenants(connection: sa.Connection, principal: str | None, start: int, end: int) -> list[str]:
    table = usage_interval.c
    touching = (table.principal == principal, table.t0 < end, sa.or_(table.t1.is_(None), table.t1 > start))
    return sorted(connection.execute(sa.select(table.tenant).where(*touching).distinct()).scalars())


def _task_line(month_name: str, sku: str, dimension: str, cells: list[Cell]) -> TaskLine:
    unit_seconds, amount = _sums(cells)
    priced = together(part for cell in cells for part in cell.priced)
    return TaskLine(month_name, sku, dimension, split(dimension)[0].unit, unit_seconds, amount, priced, *_flags(cells))


def _covered(spans: Iterable[tuple[int, int]]) -> int:
    """Return how many seconds are in at least one span."""
    seconds = reached = 0
    for start, end in sorted(spans):
        seconds += max(0, end - max(start, reached))
        reached = max(reached, end)
    return seconds


def _cost_row(key: tuple[str, ...], cells: list[Cell]) -> CostRow:
    used: defaultdict[str, int] = defaultdict(int)
    for cell in cells:
        used[cell.dimension] += cell.unit_seconds
    _, amount = _sums(cells)
    return CostRow(key, amount, tuple(sorted(used.items())), *_flags(cells))


def _sums(cells: Iterable[Cell]) -> tuple[int, int]:
    cells = list(cells)
    return sum(cell.unit_seconds for cell in cells), sum(cell.amount_micro for cell in cells)


def _flags(cells: Iterable[Cell]) -> tuple[bool, bool, bool]:
    cells = list(cells)
    return any(c.provisional for c in cells), any(c.estimated for c in cells), any(c.unpriced for c in cells)

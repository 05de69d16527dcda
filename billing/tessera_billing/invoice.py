"""One tenant's month: its invoice lines, and the shares of them that days and tasks bear.

An invoice line is (tenant, month, SKU). It is rounded once. Its days are largest-remainder shares of it and the tasks of a day
are largest-remainder shares of the day, so that every view, by day, task, person or resource, adds up to the invoice.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction

from tessera_billing import dimensions
from tessera_billing.intervals import Quality, UsageInterval
from tessera_billing.money import largest_remainder, round_micro
from tessera_billing.periods import Period, days
from tessera_billing.prices import PriceList, PriceVersion
from tessera_billing.rating import ExactSum, RatedLine, rate


@dataclass(frozen=True, slots=True)
class PricedQuantity:
    """How much of a line was charged at one price. ``price_version`` is None where nothing is priced."""

    price_version: int | None
    unit: str
    unit_size: int
    nano_per_unit_hour: int
    unit_seconds: int


@dataclass(frozen=True, slots=True)
class Cell:
    """What one task used of one SKU on one day. ``amount_micro`` is its share of the invoice line."""

    month: str
    day: str
    sku: str
    dimension: str
    task_id: str
    principal: str
    queue: str
    kind: str
    cluster: str
    unit_seconds: int
    amount_micro: int
    priced: tuple[PricedQuantity, ...]
    provisional: bool
    estimated: bool
    unpriced: bool


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """One SKU of a tenant's month. ``unit`` is the metered one; ``amount_micro`` is 10**-6 of the currency."""

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
class Invoice:
    """A tenant's usage of one month, as lines and as cells."""

    month: str
    lines: tuple[InvoiceLine, ...]
    cells: tuple[Cell, ...]


CellKey = tuple[str, str, str, str, str]
"""(task id, principal, queue, kind, cluster)."""


@dataclass(slots=True)
class _Usage:
    unit_seconds: int = 0
    amount: ExactSum = field(default_factory=ExactSum)
    versions: defaultdict[PriceVersion | None, int] = field(default_factory=lambda: defaultdict(int))
    provisional: bool = False
    estimated: bool = False
    unpriced: bool = False

    def add(self, line: RatedLine) -> None:
        self.unit_seconds += line.unit_seconds
        self.amount.add(line.numerator, line.divisor)
        self.versions[line.price] += line.unit_seconds
        self.provisional |= line.provisional
        self.estimated |= line.interval.quality is Quality.ESTIMATED
        self.unpriced |= line.price is None


@dataclass(slots=True)
class _Line:
    dimension: str
    usage: _Usage = field(default_factory=_Usage)
    cells: defaultdict[str, defaultdict[CellKey, _Usage]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(_Usage))
    )


def invoice(intervals: Iterable[UsageInterval], prices: PriceList, month: Period, tz: str, now: int) -> Invoice:
    """Return one tenant's month from its intervals (those of other times are left out), up to ``now``.

    Raises:
        ValueError: the intervals belong to more than one tenant.
    """
    mine = list(intervals)
    if len({interval.tenant for interval in mine}) > 1:
        raise ValueError("an invoice is one tenant's")
    edges = days(month.start, month.end, tz)
    starts = [day.start for day in edges]
    skus: dict[str, _Line] = {}
    for rated in rate(mine, prices, month.start, month.end, now, cuts=starts):
        used = rated.interval
        sku = dimensions.stock_keeping_unit(used.dimension, used.mode)
        line = skus.setdefault(sku, _Line(used.dimension))
        line.usage.add(rated)
        day = edges[bisect.bisect_right(starts, rated.t0) - 1].name
        key = (used.task_id, used.principal, used.queue, used.kind, used.cluster)
        line.cells[day][key].add(rated)
    lines = []
    cells: list[Cell] = []
    for sku, line in sorted(skus.items()):
        made = _invoice_line(sku, line)
        lines.append(made)
        cells += _cells(month.name, made, line)
    return Invoice(month.name, tuple(lines), tuple(cells))


def _invoice_line(sku: str, line: _Line) -> InvoiceLine:
    family, _ = dimensions.split(line.dimension)
    return InvoiceLine(
        sku=sku,
        dimension=line.dimension,
        unit=family.unit,
        unit_seconds=line.usage.unit_seconds,
        amount_micro=round_micro(line.usage.amount.nano),
        priced=_priced(line.usage.versions),
        provisional=line.usage.provisional,
        estimated=line.usage.estimated,
        unpriced=line.usage.unpriced,
    )


def together(parts: Iterable[PricedQuantity]) -> tuple[PricedQuantity, ...]:
    """Return quantities with those of the same price added up, oldest version first."""
    found: dict[int | None, PricedQuantity] = {}
    for part in parts:
        known = found.get(part.price_version)
        found[part.price_version] = part if known is None else replace(part, unit_seconds=part.unit_seconds + known.unit_seconds)
    return tuple(sorted(found.values(), key=lambda part: part.price_version or 0))


def _priced(versions: dict[PriceVersion | None, int]) -> tuple[PricedQuantity, ...]:
    return together(
        PricedQuantity(None, "", 1, 0, seconds)
        if version is None
        else PricedQuantity(version.version_id, version.unit, version.unit_size, version.nano_per_unit_hour, seconds)
        for version, seconds in versions.items()
    )


def _cells(month: str, made: InvoiceLine, line: _Line) -> list[Cell]:
    exact_cells = {day: {key: _micro(usage) for key, usage in cells.items()} for day, cells in sorted(line.cells.items())}
    exact_days = {day: sum(cells.values(), Fraction(0)) for day, cells in exact_cells.items()}
    day_shares = largest_remainder(made.amount_micro, exact_days)
    found = []
    for day, exact in exact_cells.items():
        shares = largest_remainder(day_shares[day], exact)
        for key in sorted(exact):
            usage = line.cells[day][key]
            task_id, principal, queue, kind, cluster = key
            found.append(
                Cell(
                    month=month,
                    day=day,
                    sku=made.sku,
                    dimension=made.dimension,
                    task_id=task_id,
                    principal=principal,
                    queue=queue,
                    kind=kind,
                    cluster=cluster,
                    unit_seconds=usage.unit_seconds,
                    amount_micro=shares[key],
                    priced=_priced(usage.versions),
                    provisional=usage.provisional,
                    estimated=usage.estimated,
                    unpriced=usage.unpriced,
                )
            )
    return found


def _micro(usage: _Usage) -> Fraction:
    return usage.amount.nano * Fraction(1, 1000)

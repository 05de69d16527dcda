"""Money as it ticks: what has been spent so far and how fast, exactly, so that a page can count on by itself between polls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import sqlalchemy as sa

from tessera_billing import ledger
from tessera_billing.intervals import UsageInterval
from tessera_billing.money import SECONDS_PER_HOUR, round_micro
from tessera_billing.prices import DEFAULT_BOOK, PriceList, price_list
from tessera_billing.rating import rate, total


@dataclass(frozen=True, slots=True)
class Accrual:
    """Spent so far, and the current speed.

    Attributes:
        currency: ISO code.
        as_of: UTC second up to which ``nano`` counts.
        nano: exact nano-units.
        nano_per_hour: exact nano-units per hour from ``as_of`` on.
        until: UTC second at which a price changes and the speed with it, or None if no change is known.
        unpriced: something counted here has no price.
    """

    currency: str
    as_of: int
    nano: Fraction
    nano_per_hour: Fraction
    until: int | None
    unpriced: bool

    @property
    def amount_micro(self) -> int:
        """Spent so far in micro-units, rounded half to even; the invoice rounds per line, so it may differ in the last digit."""
        return round_micro(self.nano)

    @property
    def rate_nano_per_hour(self) -> int:
        """Nano-units per hour, rounded half to even: what to show, and fine to count on with for hours."""
        return round(self.nano_per_hour)

    @property
    def nano_per_second(self) -> Fraction:
        """Exact nano-units per second."""
        return self.nano_per_hour * Fraction(1, SECONDS_PER_HOUR)

    def at(self, when: int) -> int:
        """Return micro-units spent at a later second (up to ``until``) if nothing starts, stops or changes."""
        return round_micro(self.nano + self.nano_per_second * (when - self.as_of))


def accrual(
    connection: sa.Connection,
    now: int,
    *,
    start: int = 0,
    tenant: str | None = None,
    principal: str | None = None,
    book: str = DEFAULT_BOOK,
) -> Accrual:
    """Return what a tenant, a person or both together (a person within a tenant) have spent since ``start``, and their speed.

    Without either it is that of the whole installation.

    Raises:
        BillingError: ``price.book``.
    """
    prices = price_list(connection, book)
    return accrue(ledger.intervals(connection, start, now + 1, tenant=tenant, principal=principal), prices, start, now)


def task_accruals(
    connection: sa.Connection, task_ids: Sequence[str], now: int, *, book: str = DEFAULT_BOOK
) -> dict[str, Accrual]:
    """Return the accrual of each task, also of those that have not started (zero).

    Raises:
        BillingError: ``price.book``.
    """
    prices = price_list(connection, book)
    of_task: defaultdict[str, list[UsageInterval]] = defaultdict(list)
    for interval in ledger.intervals(connection, 0, now + 1, task_ids=list(task_ids)):
        of_task[interval.task_id].append(interval)
    return {task_id: accrue(of_task[task_id], prices, 0, now) for task_id in task_ids}


def accrue(intervals: Iterable[UsageInterval], prices: PriceList, start: int, now: int) -> Accrual:
    """Return the accrual of some intervals since ``start``. Pure; bills use the same rating."""
    used = list(intervals)
    so_far = rate(used, prices, start, now, now)
    # The speed is what the next second will cost, times 3600.
    coming = rate(used, prices, now, now + 1, now + 1)
    changes = [
        change
        for line in coming
        for change in prices.timeline(
            line.interval.tenant, line.interval.cluster, line.interval.dimension, line.interval.mode
        ).changes
        if change > now
    ]
    return Accrual(
        currency=prices.currency,
        as_of=now,
        nano=total(so_far),
        nano_per_hour=total(coming) * SECONDS_PER_HOUR,
        until=min(changes, default=None),
        unpriced=any(line.price is None for line in (*so_far, *coming)),
    )

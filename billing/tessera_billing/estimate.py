"""What something will cost before it starts, by the very rating code that will bill it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from tessera_billing import dimensions
from tessera_billing.errors import BillingError
from tessera_billing.intervals import Basis, Quality, UsageInterval
from tessera_billing.money import SECONDS_PER_HOUR, round_micro
from tessera_billing.prices import PriceList
from tessera_billing.rating import RatedLine, rate, total


@dataclass(frozen=True, slots=True)
class EstimatedLine:
    """One dimension of an estimate. ``nano_per_hour`` is exact and for the whole amount asked for."""

    dimension: str
    qty: int
    nano_per_hour: Fraction
    low_micro: int
    high_micro: int
    unpriced: bool


@dataclass(frozen=True, slots=True)
class Estimate:
    """Cost range of a spec that runs from ``start`` (UTC seconds) for between ``seconds_low`` and ``seconds_high`` seconds.

    Rounded line by line as an invoice is. ``nano_per_hour`` is the exact price of an hour at the start's prices; the range also
    knows of later changes of price that are in the book already.
    """

    currency: str
    start: int
    seconds_low: int
    seconds_high: int
    lines: tuple[EstimatedLine, ...]
    nano_per_hour: Fraction
    low_micro: int
    high_micro: int
    unpriced: tuple[str, ...]

    @property
    def per_hour_nano(self) -> int:
        """Nano-units per hour, rounded half to even."""
        return round(self.nano_per_hour)

    @property
    def per_second_nano(self) -> Fraction:
        """Exact nano-units per second."""
        return self.nano_per_hour * Fraction(1, SECONDS_PER_HOUR)


def estimate(
    prices: PriceList,
    spec: Mapping[str, int],
    seconds_low: int,
    seconds_high: int,
    *,
    start: int,
    tenant: str = "",
    cluster: str = "",
    mode: str = "on-demand",
) -> Estimate:
    """Return what it costs to hold ``spec`` (dimension to integer amount) from ``start`` on.

    Raises:
        BillingError: ``estimate.seconds`` unless 0 <= low <= high, ``estimate.spec``, ``dimension.unknown``.
    """
    if type(seconds_low) is not int or type(seconds_high) is not int or not 0 <= seconds_low <= seconds_high:
        raise BillingError(
            "estimate.seconds",
            "An estimate needs whole seconds, the shorter time first, not {low} to {high}.",
            low=repr(seconds_low),
            high=repr(seconds_high),
        )
    lines = []
    for dimension, qty in sorted(spec.items()):
        dimensions.split(dimension)
        if type(qty) is not int or qty < 0:
            raise BillingError(
                "estimate.spec",
                "The amount of {dimension} must be a whole number, not {qty}.",
                dimension=dimension,
                qty=repr(qty),
            )
        interval = UsageInterval(
            cluster, "", dimension, Basis.REQUEST, start, None, qty, Quality.ESTIMATED, tenant, "", "", None, "", "", mode
        )
        lines.append(_line(interval, prices, start, seconds_low, seconds_high))
    return Estimate(
        currency=prices.currency,
        start=start,
        seconds_low=seconds_low,
        seconds_high=seconds_high,
        lines=tuple(lines),
        nano_per_hour=sum((line.nano_per_hour for line in lines), Fraction(0)),
        low_micro=sum(line.low_micro for line in lines),
        high_micro=sum(line.high_micro for line in lines),
        unpriced=tuple(line.dimension for line in lines if line.unpriced),
    )


def _line(interval: UsageInterval, prices: PriceList, start: int, low: int, high: int) -> EstimatedLine:
    def until(seconds: int) -> list[RatedLine]:
        return rate([interval], prices, start, start + seconds, start + seconds)

    return EstimatedLine(
        dimension=interval.dimension,
        qty=interval.qty,
        nano_per_hour=total(until(1)) * SECONDS_PER_HOUR,
        low_micro=round_micro(total(until(low))),
        high_micro=round_micro(total(until(high))),
        unpriced=any(line.price is None for line in until(max(high, 1))),
    )

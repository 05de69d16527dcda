"""Intervals times prices: the one rating code, used by bills, live accrual and estimates alike. Pure, exact, no rounding.

A price is per unit-hour, so a rated piece is ``unit_seconds * nano_per_unit_hour`` over ``unit_size * 3600``; the division is
left to the end, where an invoice line is rounded.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from tessera_billing.intervals import UsageInterval
from tessera_billing.money import SECONDS_PER_HOUR
from tessera_billing.prices import PriceList, PriceVersion


@dataclass(frozen=True, slots=True)
class RatedLine:
    """A piece of an interval during which one price held: [t0, t1), UTC seconds.

    ``price`` is None where nothing is priced; that is shown, and costs nothing. ``provisional`` means that the interval is open.
    """

    interval: UsageInterval
    t0: int
    t1: int
    price: PriceVersion | None
    provisional: bool

    @property
    def unit_seconds(self) -> int:
        """Metered units times seconds."""
        return self.interval.qty * (self.t1 - self.t0)

    @property
    def numerator(self) -> int:
        """Exact amount in nano-units, still to be divided by ``divisor``."""
        return 0 if self.price is None else self.unit_seconds * self.price.nano_per_unit_hour

    @property
    def divisor(self) -> int:
        """What ``numerator`` has to be divided by."""
        return 1 if self.price is None else self.price.unit_size * SECONDS_PER_HOUR


class ExactSum:
    """Sum of rated pieces. Keeps one integer per divisor, which is much faster than adding fractions."""

    def __init__(self) -> None:
        self._numerators: defaultdict[int, int] = defaultdict(int)

    def add(self, numerator: int, divisor: int) -> None:
        """Add ``numerator / divisor`` nano-units."""
        self._numerators[divisor] += numerator

    @property
    def nano(self) -> Fraction:
        """The exact sum in nano-units."""
        return sum((Fraction(numerator, divisor) for divisor, numerator in self._numerators.items()), Fraction(0))


def rate(
    intervals: Iterable[UsageInterval], prices: PriceList, start: int, end: int, now: int, cuts: Sequence[int] = ()
) -> list[RatedLine]:
    """Return the priced pieces of intervals within [start, end), up to now, in the order of the intervals.

    A piece ends where its interval, its price or the window does. Open intervals are counted up to ``now`` and marked
    provisional; nothing is counted that has not happened yet.

    Args:
        cuts: further UTC seconds at which to cut, sorted, such as the edges of days. They never change a sum.
    """
    return [line for interval in intervals for line in _pieces(interval, prices, start, min(end, now), cuts)]


def _pieces(interval: UsageInterval, prices: PriceList, start: int, end: int, cuts: Sequence[int]) -> Iterator[RatedLine]:
    t0 = max(interval.t0, start)
    t1 = end if interval.t1 is None else min(interval.t1, end)
    if t0 >= t1:
        return
    timeline = prices.timeline(interval.tenant, interval.cluster, interval.dimension, interval.mode)
    inner = cuts[bisect.bisect_right(cuts, t0) : bisect.bisect_left(cuts, t1)]
    edges = sorted({t0, t1, *inner, *timeline.changes_within(t0, t1)})
    for begin, finish in pairwise(edges):
        yield RatedLine(interval, begin, finish, timeline.at(begin), provisional=interval.t1 is None)


def total(lines: Iterable[RatedLine]) -> Fraction:
    """Return the exact amount of rated lines in nano-units."""
    amount = ExactSum()
    for line in lines:
        amount.add(line.numerator, line.divisor)
    return amount.nano

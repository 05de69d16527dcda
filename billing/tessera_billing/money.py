"""Exact money: a currency and a fraction of nano-units, rounded once, where an invoice line is made.

Nano-units (10**-9 of the currency) are what prices are written in, micro-units (10**-6) what lines are rounded to.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

NANO_PER_MICRO = 1000
SECONDS_PER_HOUR = 3600

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Money:
    """An exact amount of one currency. Adding another currency is a ``TypeError``."""

    currency: str
    nano: Fraction = Fraction(0)

    def _same(self, other: object) -> Money:
        if not isinstance(other, Money) or other.currency != self.currency:
            raise TypeError(f"cannot combine {self!r} with {other!r}")
        return other

    def __add__(self, other: Money) -> Money:
        return Money(self.currency, self.nano + self._same(other).nano)

    def __sub__(self, other: Money) -> Money:
        return Money(self.currency, self.nano - self._same(other).nano)

    def __lt__(self, other: Money) -> bool:
        return self.nano < self._same(other).nano

    @property
    def micro(self) -> int:
        """Micro-units, rounded half to even."""
        return round_micro(self.nano)


@dataclass(frozen=True, slots=True)
class Quantity:
    """Unit-seconds of one metered unit. Adding another unit is a ``TypeError``."""

    unit: str
    unit_seconds: int = 0

    def __add__(self, other: Quantity) -> Quantity:
        if not isinstance(other, Quantity) or other.unit != self.unit:
            raise TypeError(f"cannot combine {self!r} with {other!r}")
        return Quantity(self.unit, self.unit_seconds + other.unit_seconds)


def round_micro(nano: Fraction) -> int:
    """Return nano-units as whole micro-units, rounded half to even."""
    return round(nano * Fraction(1, NANO_PER_MICRO))


def largest_remainder(total: int, exact: Mapping[Key, Fraction], order: Mapping[Key, str] | None = None) -> dict[Key, int]:
    """Split a rounded total into whole shares that add up to it, each less than one unit away from its exact value.

    Every share is first rounded down; the units that are left go to the largest remainders, ties by the key's text, so that the
    same input always gives the same shares.

    Args:
        total: between the sum of the exact values rounded down and rounded up.
        exact: the exact value of each share.
        order: text for breaking ties, by key; the key's own ``repr`` by default.

    Raises:
        ValueError: ``total`` is not the rounded sum of ``exact``.
    """
    floors = {key: value.numerator // value.denominator for key, value in exact.items()}
    left = total - sum(floors.values())
    remainders = {key: exact[key] - floors[key] for key in exact if exact[key] != floors[key]}
    if not 0 <= left <= len(remainders):
        raise ValueError(f"{total} is not the rounded sum of {len(exact)} shares")
    text = order or {key: repr(key) for key in remainders}
    for key in sorted(remainders, key=lambda key: (-remainders[key], text[key]))[:left]:
        floors[key] += 1
    return floors

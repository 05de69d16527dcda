"""What is metered, in which integer unit, and by which larger unit it is priced.

A dimension is a plain string: ``cpu`` (millicores), ``memory`` (MiB), ``cards/<class>`` (centi-cards, 100 = one card),
``card_memory/<class>`` (MiB). The part before the slash is its family; quota and scheduling use the same names.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tessera_billing.errors import BillingError


class StartRule(StrEnum):
    """From when on a family is charged; queueing is free under both."""

    PROCESS = "process"
    """From the start of the process or container to its exit."""
    ASSIGNED = "assigned"
    """From the moment devices are held exclusively, image pull and start-up included, until they are given back."""


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of resource: the unit it is metered in and the units a price may name.

    ``pricing_units`` maps a unit to how many metered units it holds, so that a price per GiB stays an integer and the division
    by 1024 stays exact until the invoice line is rounded.
    """

    name: str
    unit: str
    pricing_units: dict[str, int]
    start_rule: StartRule
    has_class: bool


FAMILIES = {
    family.name: family
    for family in (
        Family("cpu", "millicore", {"core": 1000, "millicore": 1}, StartRule.PROCESS, has_class=False),
        Family("memory", "MiB", {"GiB": 1024, "MiB": 1}, StartRule.PROCESS, has_class=False),
        Family("cards", "centi-card", {"card": 100, "centi-card": 1}, StartRule.ASSIGNED, has_class=True),
        Family("card_memory", "MiB", {"GiB": 1024, "MiB": 1}, StartRule.ASSIGNED, has_class=True),
    )
}


def split(dimension: str) -> tuple[Family, str | None]:
    """Return a dimension's family and its card class (None where the family has none).

    Raises:
        BillingError: ``dimension.unknown``.
    """
    name, slash, card_class = dimension.partition("/")
    family = FAMILIES.get(name)
    if family is None or family.has_class != bool(slash and card_class):
        raise BillingError(
            "dimension.unknown",
            "{dimension} is not something that is metered.",
            "Use cpu, memory, cards/CLASS or card_memory/CLASS.",
            dimension=repr(dimension),
        )
    return family, card_class or None


def stock_keeping_unit(dimension: str, mode: str) -> str:
    """Return the SKU, the name under which an invoice lists a dimension used in a mode."""
    return f"{dimension}:{mode}"

"""What instances cost, in our units. Pure.

AWS sells instances by the hour, in dollars; an inventory has nano-units of the hub's currency per metered unit and hour. A
processor costs what the cheapest instance without cards says, memory is part of that, a card costs the rest of its instance.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from statistics import median
from typing import Any, Final

from tessera_hub.proxy.drivers.aws_batch.instances import InstanceType
from tessera_hub.schemas.resources import CENTI_CARDS_PER_CARD

Hourly = dict[str, Decimal]
"""Instance type → dollars an hour."""
MILLICORES: Final = 1000
NANO: Final = 10**9


def hourly_of_product(document: Mapping[str, Any]) -> Decimal | None:
    """Return the on-demand price of a product of the price list; None if it has none by the hour.

    Source: AWS Price List Query API, "GetProducts", service ``AmazonEC2``.
    """
    for term in (document.get("terms") or {}).get("OnDemand", {}).values():
        for dimension in term.get("priceDimensions", {}).values():
            price = _decimal((dimension.get("pricePerUnit") or {}).get("USD"))
            if dimension.get("unit") == "Hrs" and price:
                return price
    return None


def spot_hourly(entries: Iterable[Mapping[str, Any]]) -> Hourly:
    """Return the spot prices: of each availability zone the newest, of these the median."""
    newest: dict[tuple[str, str], tuple[datetime, Decimal]] = {}
    for entry in entries:
        price = _decimal(entry.get("SpotPrice"))
        if price is None or not str(entry.get("ProductDescription", "")).startswith("Linux/UNIX"):
            continue
        key = str(entry["InstanceType"]), str(entry["AvailabilityZone"])
        if key not in newest or newest[key][0] < entry["Timestamp"]:
            newest[key] = entry["Timestamp"], price
    zones: dict[str, list[Decimal]] = defaultdict(list)
    for (name, _zone), (_at, price) in newest.items():
        zones[name].append(price)
    return {name: median(prices) for name, prices in zones.items()}


def prices_of(hourly: Hourly, types: Mapping[str, InstanceType], per_usd: Decimal) -> dict[str, int]:
    """Return prices by dimension, rounded up, so that nothing is sold below what it costs.

    Args:
        per_usd: units of the hub's currency for a dollar.
    """
    plain = [price / types[name].vcpus for name, price in hourly.items() if name in types and types[name].card is None]
    found: dict[str, int] = {}
    vcpu = min(plain, default=Decimal(0))
    if plain:
        found = {"cpu": _nano(vcpu * per_usd / MILLICORES), "memory": 0}
    cards: dict[str, list[Decimal]] = defaultdict(list)
    for name, price in hourly.items():
        kind = types.get(name)
        if kind is not None and kind.card is not None and kind.cards:
            cards[kind.card.name].append(max(price - vcpu * kind.vcpus, Decimal(0)) / (kind.cards * CENTI_CARDS_PER_CARD))
    for name, each in cards.items():
        found |= {f"cards/{name}": _nano(min(each) * per_usd), f"card_memory/{name}": 0}
    return found


def _nano(amount: Decimal) -> int:
    return math.ceil(amount * NANO)


def _decimal(text: Any) -> Decimal | None:
    try:
        found = Decimal(str(text))
    except InvalidOperation:
        return None
    return found if found.is_finite() and found >= 0 else None

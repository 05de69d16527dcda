"""What a new installation charges for a whole card until its operator says otherwise.

Round figures per card-hour in the installation's currency, in the order of what clouds ask for these cards; they are a
start for the price book, not advice. An operator sets real ones by adding versions to the book.
"""

from __future__ import annotations

from typing import Final

from tessera_hub.cards import CATALOGUE

_UNITS_PER_CARD_HOUR: Final[dict[str, int]] = {
    "V100-16G": 4,
    "V100-32G": 5,
    "T4-16G": 2,
    "A10-24G": 4,
    "A30-24G": 5,
    "A40-48G": 6,
    "A100-40G": 10,
    "A100-80G": 13,
    "A800-80G": 13,
    "RTX3090-24G": 2,
    "RTX4090-24G": 3,
    "RTX5090-32G": 4,
    "L4-24G": 3,
    "L20-48G": 5,
    "L40S-48G": 7,
    "H20-96G": 12,
    "H100-80G": 22,
    "H800-80G": 22,
    "H200-141G": 28,
    "B200-180G": 40,
    "Ascend310P-24G": 2,
    "Ascend910B-32G": 7,
    "Ascend910B-64G": 9,
    "Ascend910C-128G": 16,
    "MLU370-24G": 3,
    "MLU370-48G": 5,
    "MLU590-80G": 8,
    "DCU-Z100-32G": 4,
    "DCU-K100-64G": 6,
}
_OTHER: Final = 5
"""A class that has no figure of its own yet."""


def default_card_prices() -> dict[str, int]:
    """Return card class → nano-units per hour of one whole card, for every class of the catalogue."""
    return {name: _UNITS_PER_CARD_HOUR.get(name, _OTHER) * 1_000_000_000 for name in CATALOGUE}

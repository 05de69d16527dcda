"""The catalogue of cards: what a card class is, for simulated cards and to recognise real ones.

A class is written model and memory, ``A100-80G``. Memory is what the maker's tools show as total, in MiB, rounded down to
whole GiB for the simulated ones. Source: the makers' product pages; ``pattern`` matches the name the driver reports.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tessera_hub.schemas.resources import CardMode

WHOLE_AND_SHARED: Final = (CardMode.WHOLE, CardMode.VCUDA)
ALL_MODES: Final = (CardMode.WHOLE, CardMode.VCUDA, CardMode.MIG)
WHOLE_ONLY: Final = (CardMode.WHOLE,)


@dataclass(frozen=True, slots=True)
class CardClass:
    """One model of card.

    Attributes:
        memory_mib: of one card.
        generation: the maker's name of the architecture.
        pattern: regular expression on the name that the driver reports.
    """

    name: str
    vendor: str
    memory_mib: int
    generation: str
    modes: tuple[CardMode, ...]
    pattern: str


def _class(name: str, vendor: str, gib: int, generation: str, modes: tuple[CardMode, ...], pattern: str) -> tuple[str, CardClass]:
    return name, CardClass(name, vendor, gib * 1024, generation, modes, pattern)


CATALOGUE: Final[dict[str, CardClass]] = dict(
    [
        _class("V100-16G", "nvidia", 16, "volta", WHOLE_AND_SHARED, r"V100.*16GB"),
        _class("V100-32G", "nvidia", 32, "volta", WHOLE_AND_SHARED, r"V100.*32GB"),
        _class("T4-16G", "nvidia", 16, "turing", WHOLE_AND_SHARED, r"\bT4\b"),
        _class("A10-24G", "nvidia", 24, "ampere", WHOLE_AND_SHARED, r"\bA10G?\b"),
        _class("A30-24G", "nvidia", 24, "ampere", ALL_MODES, r"\bA30\b"),
        _class("A40-48G", "nvidia", 48, "ampere", WHOLE_AND_SHARED, r"\bA40\b"),
        _class("A100-40G", "nvidia", 40, "ampere", ALL_MODES, r"A100.*40GB"),
        _class("A100-80G", "nvidia", 80, "ampere", ALL_MODES, r"A100.*80GB"),
        _class("A800-80G", "nvidia", 80, "ampere", ALL_MODES, r"A800.*80GB"),
        _class("RTX3090-24G", "nvidia", 24, "ampere", WHOLE_AND_SHARED, r"RTX 3090"),
        _class("RTX4090-24G", "nvidia", 24, "ada", WHOLE_AND_SHARED, r"RTX 4090"),
        _class("RTX5090-32G", "nvidia", 32, "blackwell", WHOLE_AND_SHARED, r"RTX 5090"),
        _class("L4-24G", "nvidia", 24, "ada", WHOLE_AND_SHARED, r"\bL4\b"),
        _class("L20-48G", "nvidia", 48, "ada", WHOLE_AND_SHARED, r"\bL20\b"),
        _class("L40S-48G", "nvidia", 48, "ada", WHOLE_AND_SHARED, r"L40S"),
        _class("H20-96G", "nvidia", 96, "hopper", ALL_MODES, r"\bH20\b"),
        _class("H100-80G", "nvidia", 80, "hopper", ALL_MODES, r"\bH100\b"),
        _class("H800-80G", "nvidia", 80, "hopper", ALL_MODES, r"\bH800\b"),
        _class("H200-141G", "nvidia", 141, "hopper", ALL_MODES, r"\bH200\b"),
        _class("B200-180G", "nvidia", 180, "blackwell", ALL_MODES, r"\bB200\b"),
        _class("Ascend310P-24G", "huawei", 24, "ascend", WHOLE_ONLY, r"310P"),
        _class("Ascend910B-32G", "huawei", 32, "ascend", WHOLE_ONLY, r"910B4"),
        _class("Ascend910B-64G", "huawei", 64, "ascend", WHOLE_ONLY, r"910B[1-3]"),
        _class("Ascend910C-128G", "huawei", 128, "ascend", WHOLE_ONLY, r"910C"),
        _class("MLU370-24G", "cambricon", 24, "mlu", WHOLE_ONLY, r"MLU370-X4|MLU370-S4"),
        _class("MLU370-48G", "cambricon", 48, "mlu", WHOLE_ONLY, r"MLU370-X8"),
        _class("MLU590-80G", "cambricon", 80, "mlu", WHOLE_ONLY, r"MLU590"),
        _class("DCU-Z100-32G", "hygon", 32, "dcu", WHOLE_ONLY, r"Z100"),
        _class("DCU-K100-64G", "hygon", 64, "dcu", WHOLE_ONLY, r"K100"),
    ]
)
"""Card class by name."""

_SIMULATED: Final = re.compile(r"(\d{1,3})x([A-Za-z0-9._-]+)")


def recognise(driver_name: str, memory_mib: int) -> CardClass:
    """Return the class of a real card; one that the catalogue lacks gets a class named after itself, whole cards only."""
    for known in CATALOGUE.values():
        if re.search(known.pattern, driver_name):
            return known
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", driver_name.removeprefix("NVIDIA ")).strip("-")
    return CardClass(f"{words}-{round(memory_mib / 1024)}G", "nvidia", memory_mib, "", WHOLE_ONLY, re.escape(driver_name))


def parse_simulated(text: str) -> list[tuple[CardClass, int]]:
    """Return what ``2xA100-80G,1xL4-24G`` asks to simulate.

    Raises:
        ValueError: not of this form, or a class that the catalogue lacks; the message names it.
    """
    found: list[tuple[CardClass, int]] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = _SIMULATED.fullmatch(part)
        if match is None or int(match[1]) < 1:
            raise ValueError(f"{part!r} is not of the form 2xA100-80G")
        if match[2] not in CATALOGUE:
            raise ValueError(f"no card class {match[2]!r}; known: {', '.join(CATALOGUE)}")
        if any(card.name == match[2] for card, _count in found):
            raise ValueError(f"card class {match[2]!r} occurs twice")
        found.append((CATALOGUE[match[2]], int(match[1])))
    return found

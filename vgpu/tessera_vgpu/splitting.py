"""One request on several cards: the fewest cards, then the split that strands least, in equal parts when nearly as good."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import comb
from typing import Final

from tessera_vgpu.cards import Card, Part
from tessera_vgpu.catalogue import CENTI_CARDS_PER_CARD
from tessera_vgpu.fragmentation import CARD, Workload

LINK_COST: Final = CARD // 50
"""What one step further apart counts: as much as 2 % of a card that is stranded."""
EQUAL_TOLERANCE: Final = CARD // 40
"""Unequal parts make the ranks of data-parallel training wait for the smallest; equal ones may strand 2.5 % of a card more."""
MOST_COMBINATIONS: Final = 3000
_FARTHEST: Final = 3


@dataclass(frozen=True, slots=True)
class Topology:
    """How far two cards are apart: 0 NVLink, 1 a switch, 2 a NUMA node, 3 farther. A pair that is missing follows from NUMA."""

    distances: Mapping[frozenset[str], int] = field(default_factory=dict)

    def distance(self, one: Card, other: Card) -> int:
        """Return the distance of two cards."""
        known = self.distances.get(frozenset((one.uuid, other.uuid)))
        if known is not None:
            return known
        return _FARTHEST if one.numa is None or one.numa != other.numa else 2

    def cost(self, cards: Sequence[Card]) -> int:
        """Return the mean distance of these cards' pairs as a score."""
        pairs = [self.distance(a, b) for a, b in combinations(cards, 2)]
        return LINK_COST * sum(pairs) // len(pairs) if pairs else 0


def in_proportion(total: int, weights: Sequence[int]) -> tuple[int, ...]:
    """Return *total* in integer parts by *weights* (their sum positive); the parts sum to it exactly, by largest remainder."""
    whole = sum(weights)
    parts = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(total * weights[i] % whole), i))
    for index in by_remainder[: total - sum(parts)]:
        parts[index] += 1
    return tuple(parts)


def room(card: Card, centi_cards: int, memory_mib: int | None) -> int:
    """Return how many centi-cards of such a request fit on *card*, its memory in proportion."""
    if memory_mib is None:
        return min(card.free_centi_cards, card.free_memory_mib * CENTI_CARDS_PER_CARD // card.memory_mib)
    if memory_mib == 0:
        return card.free_centi_cards
    return min(card.free_centi_cards, card.free_memory_mib * centi_cards // memory_mib)


def memory_parts(cards: Sequence[Card], compute: Sequence[int], memory_mib: int | None) -> tuple[int, ...]:
    """Return the memory beside these parts of compute: that of the request in proportion, else each card's own."""
    if memory_mib is None:
        return tuple(card.memory_mib * part // CENTI_CARDS_PER_CARD for card, part in zip(cards, compute, strict=True))
    return in_proportion(memory_mib, compute)


def split(
    cards: Sequence[Card], centi_cards: int, memory_mib: int | None, max_cards: int, topology: Topology, workload: Workload
) -> tuple[int, tuple[Part, ...]] | None:
    """Return score and parts of a split over two cards or more of one model, None if *max_cards* are not enough.

    The caller has found that no single card has room.
    """
    groups = [[card for card in cards if card.model == model] for model in sorted({card.model for card in cards})]
    for count in range(2, max_cards + 1):
        found: list[tuple[int, bool, tuple[Part, ...]]] = []
        for group in groups:
            rooms = {card.uuid: room(card, centi_cards, memory_mib) for card in group}
            usable = sorted((card for card in group if rooms[card.uuid]), key=lambda card: (-rooms[card.uuid], card.uuid))
            if len(usable) < count or sum(rooms[card.uuid] for card in usable[:count]) < centi_cards:
                continue
            for chosen in sets(usable, count):
                caps = [rooms[card.uuid] for card in chosen]
                if sum(caps) < centi_cards:
                    continue
                distance = topology.cost(chosen)
                for equal, compute in _ways(centi_cards, caps):
                    memory = memory_parts(chosen, compute, memory_mib)
                    if min(memory) < 1:
                        continue
                    gradients = (workload.gradient(c, a, b) for c, a, b in zip(chosen, compute, memory, strict=True))
                    parts = tuple(Part(c.uuid, a, b) for c, a, b in zip(chosen, compute, memory, strict=True))
                    found.append((distance + sum(gradients), not equal, parts))
        if found:
            best = min(found, key=_order)
            equals = [way for way in found if not way[1]]
            nearly = min(equals, key=_order, default=None)
            score, _unequal, parts = nearly if nearly is not None and nearly[0] <= best[0] + EQUAL_TOLERANCE else best
            return score, parts
    return None


def _order(way: tuple[int, bool, tuple[Part, ...]]) -> tuple[int, bool, tuple[tuple[str, int], ...]]:
    return way[0], way[1], tuple((part.uuid, part.centi_cards) for part in way[2])


def sets(usable: Sequence[Card], count: int) -> Iterator[tuple[Card, ...]]:
    """Sets of cards to look at: all, or where these are too many, neighbours in the given order and by NUMA node."""
    if comb(len(usable), count) <= MOST_COMBINATIONS:
        yield from combinations(usable, count)
        return
    by_place = sorted(usable, key=lambda card: (card.numa is None, card.numa or 0))
    for order in (usable, by_place):
        for first in range(len(order) - count + 1):
            yield tuple(order[first : first + count])


def _ways(centi_cards: int, caps: Sequence[int]) -> Iterator[tuple[bool, tuple[int, ...]]]:
    """Ways to divide on cards of which no fewer are enough: in equal parts, and filling all cards but one."""
    equal = in_proportion(centi_cards, [1] * len(caps))
    if all(part <= cap for part, cap in zip(equal, caps, strict=True)):
        yield True, equal
    for rest in range(len(caps)):
        others = sum(caps) - caps[rest]
        yield False, tuple(centi_cards - others if i == rest else cap for i, cap in enumerate(caps))

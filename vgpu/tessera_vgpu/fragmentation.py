"""How much of a card is stranded: free, but of no use to what people typically ask for.

Source: fragmentation gradient descent (Weng et al., USENIX ATC 2023): a task goes where it increases the expected amount of
unusable free resources least. Here with two amounts per card, compute and memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tessera_vgpu.cards import Card
from tessera_vgpu.catalogue import CENTI_CARDS_PER_CARD
from tessera_vgpu.errors import VgpuError

WHOLE_WEIGHT: Final = 100
CARD: Final = 20_000 * WHOLE_WEIGHT
"""The score of a whole card that nobody can use: 10,000 basis points of compute and as many of memory, at full weight."""


@dataclass(frozen=True, slots=True)
class Typical:
    """A typical request. ``memory_mib`` None: in proportion to the compute. ``weight`` is its part in percent."""

    centi_cards: int
    weight: int
    memory_mib: int | None = None


class Workload:
    """What is typically asked for; the weights sum to 100.

    Raises:
        VgpuError: ``workload.weights``.
    """

    def __init__(self, typical: Iterable[Typical]) -> None:
        self.typical: Final = tuple(typical)
        total = sum(t.weight for t in self.typical)
        if total != WHOLE_WEIGHT or any(t.weight < 0 for t in self.typical):
            raise VgpuError("workload.weights", "The weights of the typical requests sum to {total}, not to 100.", total=total)

    def stranded(self, free_centi_cards: int, free_memory_mib: int, memory_mib: int) -> int:
        """Return how much is stranded of a card with that much free, in basis points times weight; 0 to :data:`CARD`."""
        free = free_centi_cards * 100 + free_memory_mib * 10_000 // memory_mib
        weight = 0
        for task in self.typical:
            memory = task.memory_mib
            if memory is None:
                memory = memory_mib * task.centi_cards // CENTI_CARDS_PER_CARD
            if task.centi_cards > free_centi_cards or memory > free_memory_mib:
                weight += task.weight
        return free * weight

    def gradient(self, card: Card, centi_cards: int, memory_mib: int) -> int:
        """Return by how much more is stranded once that much is taken of *card*; negative where a remnant is used up."""
        return self.stranded(
            card.free_centi_cards - centi_cards, card.free_memory_mib - memory_mib, card.memory_mib
        ) - self.stranded(card.free_centi_cards, card.free_memory_mib, card.memory_mib)


TYPICAL: Final = Workload(
    (Typical(10, 10), Typical(25, 20), Typical(50, 25), Typical(75, 10), Typical(100, 35)),
)
"""Where an operator has no figures: mostly whole cards, halves and quarters, as in public traces of fractional cards."""

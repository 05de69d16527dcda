"""Cards of a node and what is taken of them: plain frozen data, integers only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from tessera_vgpu.catalogue import CENTI_CARDS_PER_CARD, Continuous, Placements, Templates
from tessera_vgpu.errors import VgpuError

Cut = Continuous | Templates | Placements


class Mode(StrEnum):
    """How a card is asked for; the values are those of the hub."""

    WHOLE = "whole"
    SHARE = "vcuda"
    PARTITION = "mig"


@dataclass(frozen=True, slots=True, order=True)
class Piece:
    """A template or partition that is taken; ``start`` is its first memory slice, -1 where a vendor has none."""

    name: str
    start: int = -1


@dataclass(frozen=True, slots=True)
class Card:
    """One card and what is free of it.

    Attributes:
        memory_mib: what can be given away, so net of what the driver and the processes' contexts need.
        cut: how this card is cut on this node; None: it is given whole only.
        numa: its NUMA node, None where unknown.
        taken: templates or partitions in use; shares are in the free amounts alone.
    """

    uuid: str
    model: str
    memory_mib: int
    free_centi_cards: int
    free_memory_mib: int
    cut: Cut | None = None
    numa: int | None = None
    taken: tuple[Piece, ...] = ()

    def __post_init__(self) -> None:
        if not (0 <= self.free_centi_cards <= CENTI_CARDS_PER_CARD and 0 <= self.free_memory_mib <= self.memory_mib):
            raise _overcommitted(self.uuid)

    @property
    def idle(self) -> bool:
        """Whether nothing of it is taken."""
        return (self.free_centi_cards, self.free_memory_mib, self.taken) == (CENTI_CARDS_PER_CARD, self.memory_mib, ())


@dataclass(frozen=True, slots=True)
class Part:
    """What a request gets of one card.

    Attributes:
        exclusive: the rest of the card stays empty.
        piece: the template or partition, None for a plain share.
    """

    uuid: str
    centi_cards: int
    memory_mib: int
    exclusive: bool = False
    piece: Piece | None = None


def new_card(uuid: str, model: str, memory_mib: int, cut: Cut | None = None, numa: int | None = None) -> Card:
    """Return an idle card."""
    return Card(uuid, model, memory_mib, CENTI_CARDS_PER_CARD, memory_mib, cut, numa)


def take(card: Card, part: Part) -> Card:
    """Return *card* with *part* taken.

    Raises:
        VgpuError: ``cards.overcommitted``; never more is taken than is there.
    """
    if part.exclusive:
        if not card.idle or part.centi_cards > CENTI_CARDS_PER_CARD or part.memory_mib > card.memory_mib:
            raise _overcommitted(card.uuid)
        taken = card.taken if part.piece is None else (part.piece,)
        return replace(card, free_centi_cards=0, free_memory_mib=0, taken=taken)
    if part.centi_cards < 0 or part.memory_mib < 0:
        raise _overcommitted(card.uuid)
    if part.piece is None:
        return replace(
            card,
            free_centi_cards=card.free_centi_cards - part.centi_cards,
            free_memory_mib=card.free_memory_mib - part.memory_mib,
        )
    if not piece_fits(card, part.piece):
        raise _overcommitted(card.uuid)
    return replace(
        card,
        free_centi_cards=card.free_centi_cards - part.centi_cards,
        # The driver's rounding can make the pieces of a full card a little larger than the card.
        free_memory_mib=max(card.free_memory_mib - part.memory_mib, 0),
        taken=tuple(sorted((*card.taken, part.piece))),
    )


def piece_fits(card: Card, piece: Piece) -> bool:
    """Whether a template or partition has room beside those that are taken."""
    cut = card.cut
    if isinstance(cut, Placements):
        profile = cut.profiles.get(piece.name)
        if profile is None or piece.start not in profile.starts:
            return False
        if profile.most is not None and sum(p.name == piece.name for p in card.taken) >= profile.most:
            return False
        if cut.compute_of(piece.name) + sum(cut.compute_of(p.name) for p in card.taken) > cut.compute_slices:
            return False
        mine = range(piece.start, piece.start + profile.size)
        return all(other.start >= mine.stop or other.start + cut.profiles[other.name].size <= mine.start for other in card.taken)
    if isinstance(cut, Templates):
        sizes = {t.name: t for t in cut.templates}
        if piece.name not in sizes:
            return False
        pieces = [sizes[p.name] for p in (*card.taken, piece)]
        return sum(p.compute for p in pieces) <= cut.compute and sum(p.memory_mib for p in pieces) <= card.memory_mib
    return False


def _overcommitted(uuid: str) -> VgpuError:
    return VgpuError(
        "cards.overcommitted",
        "Card {uuid} has not that much left.",
        "This is a fault of the node agent, which refused it; please report it with the agent's log.",
        uuid=uuid,
    )

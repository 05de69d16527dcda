"""Which cards of a node serve a request: a pure function of the cards and the request.

One card first, the one whose use strands least; else the fewest cards and the split that strands least. Partitions get an
explicit place, the one that keeps most other places possible. A template is the smallest that is large enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from tessera_vgpu.cards import Card, Mode, Part, Piece, piece_fits
from tessera_vgpu.catalogue import CENTI_CARDS_PER_CARD, Continuous, Placements, Templates
from tessera_vgpu.errors import VgpuError
from tessera_vgpu.fragmentation import TYPICAL, Workload
from tessera_vgpu.splitting import LINK_COST, Topology, memory_parts, room, sets, split

MOST_CARDS: Final = 1024


@dataclass(frozen=True, slots=True)
class Request:
    """What a container asks of a node.

    Attributes:
        centi_cards: compute, 100 is a card; for whole cards a multiple of 100.
        memory_mib: in total; None: in proportion to the compute.
        max_cards: most cards that a share may be split over.
        exclusive: nobody else gets the rest of the cards.
        profile: a partition by its name, instead of one that is large enough.
        numa: NUMA node of the processors, None if it does not matter.
    """

    centi_cards: int
    memory_mib: int | None = None
    max_cards: int = 1
    exclusive: bool = False
    model: str | None = None
    mode: Mode = Mode.SHARE
    profile: str | None = None
    numa: int | None = None

    def __post_init__(self) -> None:
        whole = self.mode is not Mode.WHOLE or self.centi_cards % CENTI_CARDS_PER_CARD == 0
        if not (1 <= self.centi_cards <= MOST_CARDS * CENTI_CARDS_PER_CARD and self.max_cards >= 1 and whole):
            raise VgpuError(
                "request.amount",
                "{centi_cards} hundredths of a card on at most {max_cards} cards cannot be given.",
                "Ask for at least 1; whole cards come in multiples of 100.",
                centi_cards=self.centi_cards,
                max_cards=self.max_cards,
            )
        if self.memory_mib is not None and self.memory_mib < 1:
            raise VgpuError(
                "request.amount", "{memory_mib} MiB cannot be given.", "Ask for at least 1 MiB.", memory_mib=self.memory_mib
            )


@dataclass(frozen=True, slots=True)
class Placement:
    """Parts on distinct cards, in the order in which the container sees them, and by how much more is stranded."""

    parts: tuple[Part, ...]
    score: int


def choose(cards: Sequence[Card], request: Request, topology: Topology | None = None, workload: Workload = TYPICAL) -> Placement:
    """Return where a request goes; the same answer for the same cards in any order.

    Guaranteed: no part is larger than what its card has free; parts of a split share sum to the request exactly.

    Raises:
        VgpuError: ``placement.no_model``, ``placement.no_mode``, ``placement.never`` (idle cards would not be enough either) or
            ``placement.no_room``.
    """
    topology = Topology() if topology is None else topology
    ordered = sorted(cards, key=lambda card: card.uuid)
    of_model = [card for card in ordered if request.model in (None, card.model)]
    if not of_model:
        raise VgpuError(
            "placement.no_model",
            "This node has no card {model}.",
            "Here there are: {models}. Ask for one that a node has, or for any.",
            model=request.model or "",
            models=", ".join(sorted({card.model for card in cards})) or "-",
        )
    suitable = [card for card in of_model if _suits(card, request)]
    if not suitable:
        raise VgpuError(
            "placement.no_mode",
            "No card of this node is given as {mode}.",
            "Ask for another mode, or let the node's operator change how its cards are cut.",
            mode=request.mode.value,
        )
    found = _place(suitable, request, topology, workload)
    if found is not None:
        return found
    idle = [replace(card, free_centi_cards=CENTI_CARDS_PER_CARD, free_memory_mib=card.memory_mib, taken=()) for card in suitable]
    memory = request.memory_mib
    if memory is None:
        memory = suitable[0].memory_mib * request.centi_cards // CENTI_CARDS_PER_CARD
    if _place(idle, request, topology, workload) is None:
        raise VgpuError(
            "placement.never",
            "{centi_cards} hundredths of a card and {memory_mib} MiB do not fit on this node, even if it were idle.",
            "Ask for less, or let it be split over more cards by vgpu.tessera.io/max-cards.",
            centi_cards=request.centi_cards,
            memory_mib=memory,
        )
    raise VgpuError(
        "placement.no_room",
        "This node has not enough left for {centi_cards} hundredths of a card and {memory_mib} MiB.",
        "Wait until others end, ask for less, or let it be split over more cards by vgpu.tessera.io/max-cards.",
        centi_cards=request.centi_cards,
        memory_mib=memory,
    )


def _suits(card: Card, request: Request) -> bool:
    match request.mode:
        case Mode.WHOLE:
            return not isinstance(card.cut, Placements)
        case Mode.PARTITION:
            return isinstance(card.cut, Placements)
        case Mode.SHARE:
            return isinstance(card.cut, Continuous | Templates)


def _place(cards: Sequence[Card], request: Request, topology: Topology, workload: Workload) -> Placement | None:
    if request.mode is Mode.PARTITION:
        return _partition(cards, request)
    if request.mode is Mode.WHOLE:
        return _whole(cards, request, request.centi_cards // CENTI_CARDS_PER_CARD, topology)
    candidates = [way for card in cards if (way := _on_one(card, request, workload)) is not None]
    if candidates:
        _key, score, part = min(candidates, key=lambda way: way[0])
        return Placement((part,), score)
    # A vendor's own cutting hands out one piece of one card.
    divisible = [c for c in cards if isinstance(c.cut, Continuous) and (c.cut.step_centi_cards, c.cut.step_memory_mib) == (1, 1)]
    if request.exclusive:
        divisible = [card for card in divisible if card.idle]
    found = split(divisible, request.centi_cards, request.memory_mib, request.max_cards, topology, workload)
    if found is None:
        return None
    score, parts = found
    return Placement(tuple(replace(part, exclusive=request.exclusive) for part in parts), score)


_Way = tuple[tuple[int, int, int, str], int, Part]


def _on_one(card: Card, request: Request, workload: Workload) -> _Way | None:
    """Return key, score and part of a share on one card, None without room."""
    if request.exclusive and not card.idle:
        return None
    part = _of_template(card, request) if isinstance(card.cut, Templates) else _of_share(card, request)
    if part is None:
        return None
    centi, memory = part.centi_cards, min(part.memory_mib, card.free_memory_mib)
    if part.exclusive:
        centi, memory = card.free_centi_cards, card.free_memory_mib
    score = workload.gradient(card, centi, memory)
    if request.numa is not None and card.numa != request.numa:
        score += LINK_COST
    return (score, card.free_centi_cards - centi, card.free_memory_mib - memory, card.uuid), score, part


def _of_share(card: Card, request: Request) -> Part | None:
    assert isinstance(card.cut, Continuous)
    centi = _up(request.centi_cards, card.cut.step_centi_cards)
    wanted = request.memory_mib
    if centi > CENTI_CARDS_PER_CARD or room(card, centi, wanted) < centi:
        return None
    memory = _up(memory_parts((card,), (centi,), wanted)[0], card.cut.step_memory_mib)
    if memory > card.free_memory_mib:
        return None
    return Part(card.uuid, centi, memory, request.exclusive)


def _of_template(card: Card, request: Request) -> Part | None:
    """Return the smallest template that is large enough and has room; the whole card where none is as large as the request."""
    cut = card.cut
    assert isinstance(cut, Templates)
    wanted = request.memory_mib
    if wanted is None:
        wanted = card.memory_mib * request.centi_cards // CENTI_CARDS_PER_CARD
    large = [
        t
        for t in cut.templates
        if t.compute * CENTI_CARDS_PER_CARD >= request.centi_cards * cut.compute and t.memory_mib >= wanted
    ]
    if not large:
        if card.idle and request.centi_cards <= CENTI_CARDS_PER_CARD and wanted <= card.memory_mib:
            return Part(card.uuid, CENTI_CARDS_PER_CARD, card.memory_mib, exclusive=True)
        return None
    smallest = min(large, key=lambda t: (t.memory_mib, t.compute, t.name))
    piece = Piece(smallest.name)
    if not piece_fits(card, piece) or cut.centi_cards(smallest) > card.free_centi_cards:
        return None
    return Part(card.uuid, cut.centi_cards(smallest), smallest.memory_mib, request.exclusive, piece)


def _whole(cards: Sequence[Card], request: Request, count: int, topology: Topology) -> Placement | None:
    """Return *count* idle cards of one model that are near each other."""
    best: tuple[int, tuple[str, ...], tuple[Card, ...]] | None = None
    for model in sorted({card.model for card in cards}):
        idle = [card for card in cards if card.model == model and card.idle]
        enough = [card for card in idle if request.memory_mib is None or card.memory_mib * count >= request.memory_mib]
        for chosen in sets(enough, count):
            near = topology.cost(chosen)
            if request.numa is not None:
                near += LINK_COST * sum(card.numa != request.numa for card in chosen)
            key = near, tuple(card.uuid for card in chosen)
            if best is None or key < best[:2]:
                best = (*key, chosen)
    if best is None:
        return None
    return Placement(tuple(Part(c.uuid, CENTI_CARDS_PER_CARD, c.memory_mib, exclusive=True) for c in best[2]), best[0])


def _partition(cards: Sequence[Card], request: Request) -> Placement | None:
    """Return the smallest partition that is large enough, at the place that keeps most other places possible."""
    best: tuple[tuple[int, int, int, int, int, str], Part] | None = None
    for card in cards:
        cut = card.cut
        assert isinstance(cut, Placements)
        before = _places(card)
        for name, profile in cut.profiles.items():
            if not _large_enough(cut, name, request):
                continue
            for start in profile.starts:
                piece = Piece(name, start)
                if not piece_fits(card, piece):
                    continue
                part = Part(card.uuid, cut.centi_cards(name), cut.memory_mib(name), piece=piece)
                lost = before - _places(replace(card, taken=tuple(sorted((*card.taken, piece)))))
                key = (cut.memory_mib(name), cut.compute_of(name), profile.size, lost, start, card.uuid)
                if best is None or key < best[0]:
                    best = key, part
    return None if best is None else Placement((best[1],), best[0][3])


def _large_enough(cut: Placements, name: str, request: Request) -> bool:
    if request.profile is not None:
        return name == request.profile
    # Media engines are few, so a partition with them is only given by name.
    return (
        not name.endswith(".me")
        and cut.compute_of(name) * CENTI_CARDS_PER_CARD >= request.centi_cards * cut.compute_slices
        and cut.memory_mib(name) >= (request.memory_mib or 0)
    )


def _places(card: Card) -> int:
    """Return how many places are possible on *card*, each counted by its size."""
    cut = card.cut
    assert isinstance(cut, Placements)
    return sum(
        profile.size for name, profile in cut.profiles.items() for start in profile.starts if piece_fits(card, Piece(name, start))
    )


def _up(amount: int, step: int) -> int:
    return -(-amount // step) * step

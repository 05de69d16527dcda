"""What this machine has and what is free after our runs: processors, memory, cards and their shares."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import psutil

from tessera_hub.cards import CardClass, recognise
from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.schemas.protocol import NodeShape, Pool
from tessera_hub.schemas.resources import CENTI_CARDS_PER_CARD, CardMode, CardRequest, ResourceVector

POOL: Final = "machine"


@dataclass(frozen=True, slots=True)
class Card:
    """One card. ``native`` is the driver's own id, empty for a simulated card."""

    index: int
    kind: CardClass
    memory_mib: int
    native: str = ""


@dataclass(frozen=True, slots=True)
class CardShare:
    """Part of one card given to a run."""

    index: int
    centi_cards: int
    memory_mib: int

    def document(self) -> dict[str, int]:
        """The form it is kept in."""
        return {"index": self.index, "centi_cards": self.centi_cards, "memory_mib": self.memory_mib}


@dataclass(frozen=True, slots=True)
class Held:
    """What one run holds of the machine."""

    cpu_millicores: int
    memory_mib: int
    shares: tuple[CardShare, ...] = ()


def real_cards() -> list[Card]:
    """Return the NVIDIA cards, by nvidia-ml-py where it and a driver are present; no cards otherwise."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # noqa: BLE001 - no package, no driver, no permission: no cards for us
        return []
    found: list[Card] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory_mib = int(nvml.nvmlDeviceGetMemoryInfo(handle).total) >> 20
        name = _text(nvml.nvmlDeviceGetName(handle))
        found.append(Card(index, recognise(name, memory_mib), memory_mib, _text(nvml.nvmlDeviceGetUUID(handle))))
    return found


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def simulated_cards(wanted: Iterable[tuple[CardClass, int]]) -> list[Card]:
    """Return cards that are accounted and scheduled but enforce nothing."""
    found: list[Card] = []
    for kind, count in wanted:
        found += [Card(len(found) + i, kind, kind.memory_mib) for i in range(count)]
    return found


class Machine:
    """The machine's capacity and the arithmetic of what is free. Holds no state of its own: what runs hold is given."""

    def __init__(self, cards: list[Card], *, memory_reserve_mib: int, simulated: bool) -> None:
        self.cards = cards
        self.simulated = simulated
        self.cpu_millicores = (psutil.cpu_count() or 1) * 1000
        self.memory_mib = max((psutil.virtual_memory().total >> 20) - memory_reserve_mib, 16)

    def card_classes(self) -> list[str]:
        """Return the classes present, in order of their first card."""
        return list(dict.fromkeys(card.kind.name for card in self.cards))

    def free_cards(self, held: Iterable[Held]) -> dict[int, tuple[int, int]]:
        """Return index → (free centi-cards, free MiB) of each card."""
        free = {card.index: (CENTI_CARDS_PER_CARD, card.memory_mib) for card in self.cards}
        for one in held:
            for share in one.shares:
                centi, memory = free.get(share.index, (0, 0))
                free[share.index] = (max(centi - share.centi_cards, 0), max(memory - share.memory_mib, 0))
        return free

    def assign(self, request: CardRequest, card_class: str | None, held: Iterable[Held]) -> tuple[CardShare, ...]:
        """Choose cards for a request: whole cards that are empty, or the fullest cards that still hold the share.

        Raises:
            DriverError: ``capacity.no_free_cards``, to be given back; ``never.no_card_class``.
        """
        suitable = [card for card in self.cards if card_class in (None, card.kind.name)]
        suitable = [card for card in suitable if request.model in (None, card.kind.name)]
        suitable = [card for card in suitable if request.vendor in (None, card.kind.vendor) and request.mode in card.kind.modes]
        if not suitable:
            raise DriverError("never.no_card_class", f"this machine has no card {card_class or request.model or 'at all'}")
        free = self.free_cards(held)
        if request.mode is CardMode.WHOLE:
            count = request.centi_cards // CENTI_CARDS_PER_CARD
            empty = [card for card in suitable if free[card.index] == (CENTI_CARDS_PER_CARD, card.memory_mib)][:count]
            if len(empty) == count:
                return tuple(CardShare(card.index, CENTI_CARDS_PER_CARD, card.memory_mib) for card in empty)
        elif request.max_cards == 1:
            for card in sorted(suitable, key=lambda c: (free[c.index], c.index)):
                memory = request.memory_mib or card.memory_mib * request.centi_cards // CENTI_CARDS_PER_CARD
                if free[card.index][0] >= request.centi_cards and free[card.index][1] >= memory:
                    return (CardShare(card.index, request.centi_cards, memory),)
        elif shares := _split(request, suitable, free):
            return shares
        raise DriverError("capacity.no_free_cards", "the cards were taken meanwhile", give_back=True)

    def pools(self, held: Iterable[Held]) -> list[Pool]:
        """Return the machine as pools: one without cards, or one per card class.

        With several classes each pool shows the processors and memory of the same machine, which their common node group
        says.
        """
        runs = list(held)
        cpu = max(self.cpu_millicores - sum(h.cpu_millicores for h in runs), 0)
        memory = max(self.memory_mib - sum(h.memory_mib for h in runs), 0)
        total: ResourceVector = {"cpu": self.cpu_millicores, "memory": self.memory_mib}
        free: ResourceVector = {"cpu": cpu, "memory": memory}
        if not self.cards:
            return [Pool(name=POOL, total=total, free=free, shapes=[NodeShape(free_cpu=cpu, free_memory=memory)])]
        left = self.free_cards(runs)
        classes = self.card_classes()
        return [self._pool(name, len(classes) == 1, total, free, left) for name in classes]

    def _pool(
        self, name: str, only: bool, total: ResourceVector, free: ResourceVector, left: Mapping[int, tuple[int, int]]
    ) -> Pool:
        mine = [card for card in self.cards if card.kind.name == name]
        cards = [left[card.index] for card in mine]
        kind = mine[0].kind
        whole = {
            f"cards/{name}": CENTI_CARDS_PER_CARD * len(mine),
            f"card_memory/{name}": sum(card.memory_mib for card in mine),
        }
        rest = {f"cards/{name}": sum(c for c, _m in cards), f"card_memory/{name}": sum(m for _c, m in cards)}
        return Pool(
            name=POOL if only else f"{POOL}-{name}",
            card_class=name,
            vendor=kind.vendor,
            card_memory_mib=mine[0].memory_mib,
            # A hardware partition needs the node agent; the bare machine hands out whole cards and accounted shares.
            card_modes=[
                mode.value for mode in kind.modes if mode is not CardMode.MIG and (self.simulated or mode is CardMode.WHOLE)
            ],
            total=total | whole,
            free=free | rest,
            shapes=[NodeShape(free_cpu=free["cpu"], free_memory=free["memory"], cards=cards, card_class=name)],
            simulated=self.simulated,
            node_group=None if only else POOL,
        )

    def fits(self, wanted: Held, held: Iterable[Held]) -> bool:
        """Whether processors and memory for *wanted* are free."""
        runs = list(held)
        cpu = self.cpu_millicores - sum(h.cpu_millicores for h in runs)
        memory = self.memory_mib - sum(h.memory_mib for h in runs)
        return wanted.cpu_millicores <= cpu and wanted.memory_mib <= memory

    def variables(self, shares: Iterable[CardShare]) -> dict[str, str]:
        """Return the environment variables that tell a run its cards, and hide all others from it."""
        by_index = {card.index: card for card in self.cards}
        mine = [(by_index[share.index], share) for share in shares if share.index in by_index]
        found = {"CUDA_VISIBLE_DEVICES": ",".join(card.native for card, _share in mine if card.native)} if self.cards else {}
        if mine:
            found["TESSERA_CARD_CLASS"] = mine[0][0].kind.name
            found["TESSERA_CARDS"] = ",".join(f"{card.index}:{share.centi_cards}" for card, share in mine)
            found["TESSERA_CARDS_SIMULATED"] = "1" if self.simulated else "0"
        return found


def _split(request: CardRequest, suitable: list[Card], free: Mapping[int, tuple[int, int]]) -> tuple[CardShare, ...] | None:
    """Spread a share over at most ``max_cards`` cards, the emptiest first, so that as few as possible are used."""
    shares: list[CardShare] = []
    rest = request.centi_cards
    for card in sorted(suitable, key=lambda c: (-free[c.index][0], c.index))[: request.max_cards]:
        centi = min(rest, free[card.index][0])
        if centi <= 0:
            break
        wanted = request.memory_mib or card.memory_mib * request.centi_cards // CENTI_CARDS_PER_CARD
        memory = -(-wanted * centi // request.centi_cards)
        if memory > free[card.index][1]:
            return None
        shares.append(CardShare(card.index, centi, memory))
        rest -= centi
    return tuple(shares) if rest == 0 else None

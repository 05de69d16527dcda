"""What the form of a workspace offers: cards by class, whole or in shares, partitions as choices of their own, and data sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace

from tessera_hub.schemas.capacity import CardCapacity, DatasetView
from tessera_hub.schemas.resources import CENTI_CARDS_PER_CARD, CardMode
from tessera_spawner.options import partition_value


@dataclass(frozen=True, slots=True)
class ClassTile:
    """Cards of one class over all clusters and pools that hand them out whole or in shares; amounts in centi-cards and MiB.

    Attributes:
        kinds: of the form's kinds of compute those for which it can be chosen.
    """

    card_class: str
    memory_mib: int
    total: int
    free: int
    largest_share: int
    kinds: tuple[str, ...]
    nano_per_card_hour: int | None


@dataclass(frozen=True, slots=True)
class PartitionTile:
    """Hardware partitions of one class and size.

    Attributes:
        value: the form's field.
        total: how many there are, of which *free* are free.
        nano_per_hour: price of one.
    """

    value: str
    card_class: str
    name: str
    centi_cards: int
    memory_mib: int
    total: int
    free: int
    nano_per_hour: int | None


@dataclass(frozen=True, slots=True)
class DatasetTile:
    """A data set.

    Attributes:
        tenants: those of the person's tenants whose workspaces can have it; none: only jobs and services have it, if any.
        known: whether it is offered at all; what a link names need not be.
    """

    name: str
    description: str
    tenants: tuple[str, ...]
    chosen: bool
    known: bool = True


_KINDS = {CardMode.VCUDA.value: "share", CardMode.WHOLE.value: "whole"}


def class_tiles(cards: Iterable[CardCapacity]) -> list[ClassTile]:
    """Return the classes that are handed out whole or in shares, as they come."""
    found: dict[str, ClassTile] = {}
    for card in cards:
        kinds = tuple(_KINDS[mode] for mode in card.modes if mode in _KINDS)
        if card.partition is not None or not kinds:
            continue
        largest = min(card.largest_share_centi_cards, CENTI_CARDS_PER_CARD)
        known = found.get(card.card_class)
        if known is None:
            found[card.card_class] = ClassTile(
                card.card_class,
                card.memory_mib,
                card.total_centi_cards,
                card.free_centi_cards,
                largest,
                kinds,
                card.nano_per_card_hour,
            )
        else:
            found[card.card_class] = replace(
                known,
                total=known.total + card.total_centi_cards,
                free=known.free + card.free_centi_cards,
                largest_share=max(known.largest_share, largest),
                kinds=tuple(dict.fromkeys((*known.kinds, *kinds))),
            )
    return list(found.values())


def partition_tiles(cards: Iterable[CardCapacity]) -> list[PartitionTile]:
    """Return the partitions that are handed out, the small ones of a class first."""
    found: dict[str, PartitionTile] = {}
    for card in cards:
        part = card.partition
        if part is None or CardMode.MIG.value not in card.modes:
            continue
        value = partition_value(card.card_class, part.centi_cards, part.memory_mib)
        total, free = card.total_centi_cards // part.centi_cards, card.free_centi_cards // part.centi_cards
        if (known := found.get(value)) is not None:
            found[value] = replace(known, total=known.total + total, free=known.free + free)
            continue
        price = None
        if card.nano_per_card_hour is not None:
            price = card.nano_per_card_hour * part.centi_cards // CENTI_CARDS_PER_CARD
            price += (card.nano_per_mib_hour or 0) * part.memory_mib
        found[value] = PartitionTile(value, card.card_class, part.name, part.centi_cards, part.memory_mib, total, free, price)
    return sorted(found.values(), key=lambda tile: (tile.card_class, tile.centi_cards, tile.memory_mib))


def dataset_tiles(offered: Iterable[DatasetView], own: Set[str], chosen: Sequence[str]) -> list[DatasetTile]:
    """Return what the person's tenants (*own*) may read, by name, and what is *chosen* although it is not offered."""
    found = {}
    for dataset in offered:
        readers = {tenant for place in dataset.places for tenant in place.tenants}
        if readers & own:
            workspaces = {tenant for place in dataset.places if place.workspaces for tenant in place.tenants}
            name = dataset.name
            found[name] = DatasetTile(name, dataset.description, tuple(sorted(workspaces & own)), name in chosen)
    unknown = [DatasetTile(name, "", (), chosen=True, known=False) for name in chosen if name not in found]
    return [*found.values(), *unknown]

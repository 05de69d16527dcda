"""What was promised to whom, as plain data: its form in the journal, what it holds of the cards, the limits it means."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from math import ceil
from typing import Any, Final

from tessera_vgpu.catalogue import CENTI_CARDS_PER_CARD
from tessera_vgpu.errors import VgpuError
from tessera_vgpu.layout import MOST_PROCESSES
from tessera_vgpu.pages import CardLimits, DeviceMode, Limits
from tessera_vgpu.splitting import in_proportion

VERSION: Final = 1
_BYTES_PER_MIB: Final = 1 << 20
_MOST_MIB: Final = 1 << 30
_MOST_WEIGHT: Final = 10_000


@dataclass(frozen=True, slots=True)
class Owner:
    """The container that a promise is for."""

    pod_uid: str
    namespace: str
    pod: str
    container: str


@dataclass(frozen=True, slots=True)
class Terms:
    """What besides its size a container asked for; ``limit_centi_cards`` caps what it may use of idle time."""

    limit_centi_cards: int | None = None
    priority_class: int = 0
    weight: int = 1
    mode: DeviceMode = DeviceMode.CARDS


@dataclass(frozen=True, slots=True)
class Contexts:
    """What processes' contexts need of cards, beside the memory of slices.

    Attributes:
        per_card: for how many a card keeps room.
        bytes_of: card → what one costs there.
    """

    per_card: int
    bytes_of: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Share:
    """What a container has of one card: a centi-card per device id.

    ``still_held_mib`` is what it may hold from before its memory was made less, until it is seen to have given that back.
    """

    uuid: str
    device_ids: tuple[str, ...]
    memory_mib: int
    still_held_mib: int = 0

    @property
    def taken_mib(self) -> int:
        """What nobody else can get of the card's memory."""
        return max(self.memory_mib, self.still_held_mib)

    def contexts(self, per_card: int) -> int:
        """Return how many processes may have a context there: its part of those that the card has room for, at least one."""
        return max(per_card * len(self.device_ids) // CENTI_CARDS_PER_CARD, 1)


@dataclass(frozen=True, slots=True)
class Binding:
    """Whose a promise is, and on which cards, in the order in which the container sees them."""

    owner: Owner
    shares: tuple[Share, ...]
    exclusive: bool
    terms: Terms

    def limits(self, contexts: Contexts | None = None) -> Limits:
        """Return the limits that this means. The cap is divided over the cards as the request is."""
        requests = [len(share.device_ids) for share in self.shares]
        caps = in_proportion(max(self.terms.limit_centi_cards or 0, sum(requests)), requests)
        cards = tuple(
            CardLimits(
                share.uuid,
                share.memory_mib * _BYTES_PER_MIB,
                request,
                min(max(cap, request), CENTI_CARDS_PER_CARD),
                self.terms.weight,
                contexts.bytes_of.get(share.uuid, 0) if contexts is not None else 0,
            )
            for share, request, cap in zip(self.shares, requests, caps, strict=True)
        )
        processes = MOST_PROCESSES if contexts is None else min(share.contexts(contexts.per_card) for share in self.shares)
        most = min(processes, MOST_PROCESSES)
        return Limits(self.owner.pod_uid, self.owner.container, cards, self.terms.priority_class, self.terms.mode, most)


@dataclass(frozen=True, slots=True)
class Slot:
    """One answer to the kubelet: its nonce and device ids; bound once the pod is known."""

    nonce: str
    device_ids: tuple[str, ...]
    binding: Binding | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """What is taken of a card; ``contexts`` is how many processes may have one there."""

    centi_cards: int
    memory_mib: int
    exclusive: bool
    contexts: int = 0


def resized(binding: Binding, memory_mib: int | None, limit_centi_cards: int | None, weight: int | None) -> Binding:
    """Return a binding with other limits; what is None stays.

    Args:
        memory_mib: of all its cards together, divided as its compute is.
        limit_centi_cards: cap of compute, from what was requested to its cards' sum.
        weight: 1 to 10,000.

    Raises:
        VgpuError: ``slots.resize``.
    """
    counts = [len(share.device_ids) for share in binding.shares]
    bounds = (
        ("memory_mib", memory_mib, len(counts), _MOST_MIB),
        ("limit_centi_cards", limit_centi_cards, sum(counts), CENTI_CARDS_PER_CARD * len(counts)),
        ("weight", weight, 1, _MOST_WEIGHT),
    )
    for name, value, least, most in bounds:
        if value is not None and not least <= value <= most:
            raise VgpuError(
                "slots.resize",
                "{name} of this slice cannot be {value}.",
                "It must be a number from {least} to {most}.",
                name=name,
                value=value,
                least=least,
                most=most,
            )
    shares = binding.shares
    if memory_mib is not None:
        parts = in_proportion(memory_mib, counts)
        shares = tuple(
            replace(share, memory_mib=part, still_held_mib=share.taken_mib if part < share.taken_mib else 0)
            for share, part in zip(shares, parts, strict=True)
        )
    terms = replace(
        binding.terms,
        limit_centi_cards=binding.terms.limit_centi_cards if limit_centi_cards is None else limit_centi_cards,
        weight=binding.terms.weight if weight is None else weight,
    )
    return replace(binding, shares=shares, terms=terms)


def held(bindings: Iterable[Binding], contexts_per_card: int = 0) -> dict[str, Held]:
    """Return what these bindings take of each card, by UUID.

    Containers of a pod that share device ids (init containers and the later ones) share what these stand for: it counts once,
    with the larger memory.
    """
    memory: dict[str, dict[tuple[str, str], Fraction]] = {}
    contexts: dict[str, dict[tuple[str, str], Fraction]] = {}
    exclusive: set[str] = set()
    for binding in bindings:
        for share in binding.shares:
            mib, processes = memory.setdefault(share.uuid, {}), contexts.setdefault(share.uuid, {})
            each = Fraction(share.taken_mib, len(share.device_ids))
            context = Fraction(share.contexts(contexts_per_card), len(share.device_ids))
            for device_id in share.device_ids:
                key = binding.owner.pod_uid, device_id
                mib[key] = max(mib.get(key, Fraction(0)), each)
                processes[key] = max(processes.get(key, Fraction(0)), context)
            if binding.exclusive:
                exclusive.add(share.uuid)
    return {
        uuid: Held(len(ids), _sum(ids), uuid in exclusive, _sum(contexts[uuid]) if contexts_per_card else 0)
        for uuid, ids in memory.items()
    }


def _sum(amounts: Mapping[tuple[str, str], Fraction]) -> int:
    return ceil(sum(amounts.values(), Fraction(0)))


def encode(slot: Slot) -> bytes:
    """Return a slot as the journal keeps it."""
    return json.dumps({"version": VERSION, **asdict(slot)}, sort_keys=True).encode()


def decode(content: bytes) -> Slot:
    """Return what :func:`encode` wrote.

    Raises:
        ValueError: it is something else.
    """
    try:
        read = json.loads(content)
        if read["version"] != VERSION:
            raise ValueError(f"version {read['version']}")
        return Slot(str(read["nonce"]), tuple(map(str, read["device_ids"])), _binding(read["binding"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a promise: {error!r}") from error


def _binding(read: Mapping[str, Any] | None) -> Binding | None:
    if read is None:
        return None
    terms = read["terms"] | {"mode": DeviceMode(read["terms"]["mode"])}
    shares = tuple(
        Share(str(s["uuid"]), tuple(map(str, s["device_ids"])), int(s["memory_mib"]), int(s["still_held_mib"]))
        for s in read["shares"]
    )
    return Binding(Owner(**read["owner"]), shares, bool(read["exclusive"]), Terms(**terms))

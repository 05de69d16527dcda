"""What was promised to whom, as plain data: its form in the journal, what it holds of the cards, the limits it means."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from math import ceil
from typing import Any, Final

from tessera_vgpu.catalogue import CENTI_CARDS_PER_CARD
from tessera_vgpu.pages import CardLimits, DeviceMode, Limits
from tessera_vgpu.splitting import in_proportion

VERSION: Final = 1
_BYTES_PER_MIB: Final = 1 << 20


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
class Share:
    """What a container has of one card: a centi-card per device id."""

    uuid: str
    device_ids: tuple[str, ...]
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Binding:
    """Whose a promise is, and on which cards, in the order in which the container sees them."""

    owner: Owner
    shares: tuple[Share, ...]
    exclusive: bool
    terms: Terms

    def limits(self) -> Limits:
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
            )
            for share, request, cap in zip(self.shares, requests, caps, strict=True)
        )
        return Limits(self.owner.pod_uid, self.owner.container, cards, self.terms.priority_class, self.terms.mode)


@dataclass(frozen=True, slots=True)
class Slot:
    """One answer to the kubelet: its nonce and device ids; bound once the pod is known."""

    nonce: str
    device_ids: tuple[str, ...]
    binding: Binding | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """What is taken of a card."""

    centi_cards: int
    memory_mib: int
    exclusive: bool


def held(bindings: Iterable[Binding]) -> dict[str, Held]:
    """Return what these bindings take of each card, by UUID.

    Containers of a pod that share device ids (init containers and the later ones) share what these stand for: it counts once,
    with the larger memory.
    """
    memory: dict[str, dict[tuple[str, str], Fraction]] = {}
    exclusive: set[str] = set()
    for binding in bindings:
        for share in binding.shares:
            of_card = memory.setdefault(share.uuid, {})
            each = Fraction(share.memory_mib, len(share.device_ids))
            for device_id in share.device_ids:
                key = binding.owner.pod_uid, device_id
                of_card[key] = max(of_card.get(key, Fraction(0)), each)
            if binding.exclusive:
                exclusive.add(share.uuid)
    return {uuid: Held(len(ids), ceil(sum(ids.values(), Fraction(0))), uuid in exclusive) for uuid, ids in memory.items()}


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
    shares = tuple(Share(str(s["uuid"]), tuple(map(str, s["device_ids"])), int(s["memory_mib"])) for s in read["shares"])
    return Binding(Owner(**read["owner"]), shares, bool(read["exclusive"]), Terms(**terms))

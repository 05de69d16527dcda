"""Cards as Kubernetes shows them: extended resources of a node, with the model in the node's labels.

Sources: NVIDIA GPU feature discovery (labels ``nvidia.com/gpu.product``, ``nvidia.com/gpu.memory``), NVIDIA MIG naming, Volcano's
and the makers' device plugins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tessera_hub.cards import CATALOGUE, CardClass, recognise
from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.schemas.resources import CENTI_CARDS_PER_CARD, CardMode, CardRequest, Partition

NVIDIA: Final = "nvidia.com/gpu"
VGPU: Final = "tessera.io/vgpu"
VGPU_MEMORY: Final = "tessera.io/vgpu-memory"
MAX_CARDS_ANNOTATION: Final = "vgpu.tessera.io/max-cards"
VOLCANO_NUMBER: Final = "volcano.sh/vgpu-number"
VOLCANO_MEMORY: Final = "volcano.sh/vgpu-memory"
VOLCANO_CORES: Final = "volcano.sh/vgpu-cores"
CLASS_LABEL: Final = "tessera.io/card-class"
"""An operator's own word on what a node's cards are; counts before the makers' labels."""
MODEL_LABELS: Final = (
    "nvidia.com/gpu.product",
    "amd.com/gpu.product-name",
    "accelerator-type",
    "cambricon.com/mlu.product",
    "hygon.com/dcu.product",
)
MEMORY_LABEL: Final = "nvidia.com/gpu.memory"
WHOLE: Final[Mapping[str, str]] = {
    NVIDIA: "nvidia",
    "amd.com/gpu": "amd",
    "huawei.com/Ascend910": "huawei",
    "huawei.com/Ascend310P": "huawei",
    "cambricon.com/mlu": "cambricon",
    "cambricon.com/vmlu": "cambricon",
    "hygon.com/dcu": "hygon",
}
"""Resource of whole cards → maker. Any other ``huawei.com/Ascend…`` or ``cambricon.com/mlu…`` is read alike."""
_MIG_PREFIX: Final = "nvidia.com/mig-"
_MIG: Final = re.compile(rf"{re.escape(_MIG_PREFIX)}(\d)g\.(\d+)gb(?:\.me)?")
_OTHERS: Final = (
    (re.compile(r"huawei\.com/Ascend\w+"), "huawei"),  # not its -memory or -core, which count what a share of it has
    (re.compile(r"cambricon\.com/mlu\d*"), "cambricon"),  # nor .smlu.vcore and the like
)
_MIG_PARTS: Final[Mapping[str, int]] = {"A30-24G": 4}
"""Compute slices of a card by its class; all others have seven. Source: NVIDIA MIG User Guide, supported profiles."""
_MIG_PARTS_USUAL: Final = 7
_SIMPLE_NAMES: Final = {"huawei.com/Ascend310P": "Ascend310P-24G", "huawei.com/Ascend910": "Ascend910B-64G"}


@dataclass(frozen=True, slots=True)
class Device:
    """Devices of one resource at a node.

    Attributes:
        count: how many; for ``vcuda`` how many cards.
        centi_cards: of one device.
        memory_mib: of one device.
    """

    resource: str
    kind: CardClass
    mode: CardMode
    count: int
    centi_cards: int
    memory_mib: int

    @property
    def partition(self) -> Partition | None:
        """What one device is of its card, if it is a hardware partition."""
        if self.mode is not CardMode.MIG:
            return None
        return Partition(name=self.resource.removeprefix(_MIG_PREFIX), centi_cards=self.centi_cards, memory_mib=self.memory_mib)


def maker_of(resource: str) -> str | None:
    """Return whose whole cards a resource counts, None for another resource."""
    if resource in WHOLE:
        return WHOLE[resource]
    return next((maker for pattern, maker in _OTHERS if pattern.fullmatch(resource)), None)


def is_card(resource: str) -> bool:
    """Whether a resource is cards, or shares of them."""
    return (
        maker_of(resource) is not None
        or _MIG.fullmatch(resource) is not None
        or resource.startswith(("tessera.io/vgpu", "volcano.sh/vgpu-"))
    )


def class_of(labels: Mapping[str, str], resource: str) -> CardClass:
    """Return the class of a node's cards: by the operator's label, the maker's, or named after the resource."""
    if (named := labels.get(CLASS_LABEL)) in CATALOGUE:
        return CATALOGUE[str(named)]
    memory = int(labels[MEMORY_LABEL]) if labels.get(MEMORY_LABEL, "").isdigit() else 0
    maker = maker_of(resource) or "nvidia"
    for label in MODEL_LABELS:
        if model := labels.get(label):
            # GPU feature discovery writes blanks as hyphens, and appends -SHARED or the MIG profile.
            words = re.sub(r"-(SHARED|MIG-[\w.]+)$", "", model).replace("-", " ")
            found = recognise(words, memory or 1024)
            return found if found.name in CATALOGUE else _own(words, maker, memory)
    if resource in _SIMPLE_NAMES:
        return CATALOGUE[_SIMPLE_NAMES[resource]]
    return _own(resource.partition("/")[2], maker, memory)


def _own(words: str, maker: str, memory_mib: int) -> CardClass:
    """A class for a card that the catalogue lacks; whole cards only."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", words).strip("-")
    gib = round(memory_mib / 1024)
    return CardClass(f"{name}-{gib}G" if gib else name, maker, max(memory_mib, 1), "", (CardMode.WHOLE,), re.escape(words))


def devices_of(labels: Mapping[str, str], amounts: Mapping[str, int]) -> list[Device]:
    """Return the devices among a node's resources (plain numbers; memory of shares in MiB)."""
    found: list[Device] = []
    for resource, count in sorted(amounts.items()):
        if count <= 0:
            continue
        if mig := _MIG.fullmatch(resource):
            kind = class_of(labels, NVIDIA)
            centi = CENTI_CARDS_PER_CARD * int(mig[1]) // _MIG_PARTS.get(kind.name, _MIG_PARTS_USUAL)
            found.append(Device(resource, kind, CardMode.MIG, count, centi, int(mig[2]) * 1024))
        elif resource in (VGPU, VOLCANO_NUMBER):
            kind = class_of(labels, NVIDIA)
            cards = count // CENTI_CARDS_PER_CARD if resource == VGPU else _volcano_cards(amounts, kind)
            memory = kind.memory_mib
            if resource == VGPU and cards and VGPU_MEMORY in amounts:
                # The node agent keeps room for contexts: not all of a card's memory can be given away.
                memory = amounts[VGPU_MEMORY] // cards
            if memory < 1:
                continue  # its agent has told of the cards and not yet of their memory
            found.append(Device(resource, kind, CardMode.VCUDA, cards, CENTI_CARDS_PER_CARD, memory))
        elif maker_of(resource) is not None:
            kind = class_of(labels, resource)
            found.append(Device(resource, kind, CardMode.WHOLE, count, CENTI_CARDS_PER_CARD, kind.memory_mib))
    return found


def _volcano_cards(amounts: Mapping[str, int], kind: CardClass) -> int:
    """Volcano's plug-in counts shares; the cards follow from its percent of processors, or from the memory."""
    if cores := amounts.get(VOLCANO_CORES):
        return max(cores // CENTI_CARDS_PER_CARD, 1)
    return max(amounts.get(VOLCANO_MEMORY, 0) // kind.memory_mib, 1)


def resources_of(request: CardRequest, card_class: str | None, offered: Iterable[Device]) -> dict[str, str]:
    """Return the resource limits that ask a cluster for cards.

    Args:
        card_class: the class that the placement chose.
        offered: devices of all nodes, to know how the cluster hands its cards out.

    Raises:
        DriverError: ``never.no_card_class`` or ``never.no_card_mode``.
    """
    wanted = card_class or request.model
    devices = [d for d in offered if wanted in (None, d.kind.name) and request.vendor in (None, d.kind.vendor)]
    if not devices:
        raise DriverError("never.no_card_class", f"no node has cards {wanted or ''}".strip(), {"class": wanted})
    devices = [d for d in devices if d.mode is request.mode]
    if not devices:
        raise DriverError("never.no_card_mode", f"no node hands out {wanted or 'its cards'} as {request.mode.value}")
    if request.mode is CardMode.WHOLE:
        return {devices[0].resource: str(request.centi_cards // CENTI_CARDS_PER_CARD)}
    if request.mode is CardMode.MIG:
        memory = request.memory_mib or 0
        enough = [
            d for d in devices if d.memory_mib >= memory and d.centi_cards >= min(request.centi_cards, CENTI_CARDS_PER_CARD)
        ]
        if not enough:
            raise DriverError("never.no_card_mode", "no MIG profile is large enough", {"memory_mib": memory})
        return {min(enough, key=lambda d: (d.memory_mib, d.centi_cards)).resource: "1"}
    # Cards of several nodes may have unequal room; a share in proportion must fit on each of them.
    device = min(devices, key=lambda d: d.memory_mib)
    memory = request.memory_mib or device.memory_mib * request.centi_cards // CENTI_CARDS_PER_CARD
    if device.resource == VGPU:
        return {VGPU: str(request.centi_cards), VGPU_MEMORY: str(memory)}
    shares = min(request.max_cards, -(-request.centi_cards // CENTI_CARDS_PER_CARD))
    return {
        VOLCANO_NUMBER: str(shares),
        VOLCANO_CORES: str(request.centi_cards // shares),
        VOLCANO_MEMORY: str(memory // shares),
    }


def annotations_of(request: CardRequest | None, limits: Mapping[str, str]) -> dict[str, str]:
    """Return what a pod with these resource limits tells the node agent besides: over how many cards its share may be split."""
    if request is None or VGPU not in limits or request.max_cards == 1:
        return {}
    return {MAX_CARDS_ANNOTATION: str(request.max_cards)}


def used_of(device: Device, requested: Mapping[str, int]) -> tuple[int, int]:
    """Return (centi-cards, MiB) of a node's devices that these requests take."""
    taken = requested.get(device.resource, 0)
    if device.mode is not CardMode.VCUDA:
        return taken * device.centi_cards, taken * device.memory_mib
    if device.resource == VGPU:
        return taken, requested.get(VGPU_MEMORY, taken * device.memory_mib // CENTI_CARDS_PER_CARD)
    cores = requested.get(VOLCANO_CORES, taken * CENTI_CARDS_PER_CARD)
    return cores, requested.get(VOLCANO_MEMORY, cores * device.memory_mib // CENTI_CARDS_PER_CARD)


def node_selection(card_class: str | None, nodes: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the node affinity that leads to a class of cards where several classes share a resource; None if it needs none."""
    if card_class is None:
        return None
    values: dict[str, set[str]] = {}
    for node in nodes:
        labels = node["metadata"].get("labels") or {}
        for label in (CLASS_LABEL, *MODEL_LABELS):
            if label in labels:
                resource = next((r for r in (node.get("status", {}).get("allocatable") or {}) if is_card(r)), NVIDIA)
                if class_of(labels, resource).name == card_class:
                    values.setdefault(label, set()).add(labels[label])
                break
    terms = [
        {"matchExpressions": [{"key": label, "operator": "In", "values": sorted(found)}]}
        for label, found in sorted(values.items())
    ]
    if not terms:
        return None
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}

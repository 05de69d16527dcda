"""Nodes and pods as pools: what there is, what is free, what others hold. Pure functions over the API's objects."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tessera_hub.proxy.drivers.kubernetes.cards import Device, devices_of, is_card, used_of
from tessera_hub.proxy.drivers.kubernetes.options import RUN
from tessera_hub.proxy.drivers.kubernetes.quantities import mebibytes, millicores, number
from tessera_hub.schemas.protocol import NodeShape, Pool
from tessera_hub.schemas.resources import CardMode, ResourceVector

Requests = dict[str, int]
"""``cpu`` in millicores, ``memory`` in MiB, ``pods``, and card resources in their own numbers."""
_FINAL: Final = ("Succeeded", "Failed")
_REPELLING: Final = ("NoSchedule", "NoExecute")


@dataclass(frozen=True, slots=True)
class PodUse:
    """What a pod takes from its node."""

    node: str
    ours: bool
    requests: Requests


def requests_of(pod: Mapping[str, Any]) -> Requests:
    """Return what the scheduler counts for a pod: the sum of its containers and sidecars, or its largest init container.

    Source: kubernetes ``pkg/api/v1/resource`` (PodRequests).
    """
    spec = pod.get("spec") or {}
    steady: Counter[str] = Counter()
    for container in spec.get("containers") or ():
        steady.update(_amounts((container.get("resources") or {}).get("requests") or {}))
    peak: Counter[str] = Counter()
    sidecars: Counter[str] = Counter()
    for container in spec.get("initContainers") or ():
        wanted = Counter(_amounts((container.get("resources") or {}).get("requests") or {}))
        if container.get("restartPolicy") == "Always":
            sidecars.update(wanted)
            peak |= sidecars
        else:
            peak |= wanted + sidecars
    found = Counter(steady + sidecars) | peak
    found.update(_amounts(spec.get("overhead") or {}))
    return {**found, "pods": 1}


def _amounts(resources: Mapping[str, Any], *, up: bool = True) -> Requests:
    found: Requests = {}
    for name, value in resources.items():
        if name == "cpu":
            found[name] = millicores(value)
        elif name == "memory":
            found[name] = mebibytes(value, up=up)
        elif is_card(name):
            found[name] = number(value)
    return found


def use_of(pod: Mapping[str, Any]) -> PodUse | None:
    """Return what a pod takes, None if it is over or on no node."""
    node = (pod.get("spec") or {}).get("nodeName")
    if not node or (pod.get("status") or {}).get("phase") in _FINAL:
        return None
    return PodUse(node, RUN in (pod["metadata"].get("labels") or {}), requests_of(pod))


def is_usable(node: Mapping[str, Any]) -> bool:
    """Whether runs can be placed on a node: ready, not cordoned, and no taint but those of card resources."""
    spec, status = node.get("spec") or {}, node.get("status") or {}
    if spec.get("unschedulable"):
        return False
    if any(t.get("effect") in _REPELLING and not is_card(str(t.get("key"))) for t in spec.get("taints") or ()):
        return False
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ())


def _slots(node: Mapping[str, Any]) -> int:
    return number((node.get("status") or {}).get("allocatable", {}).get("pods", 110))


def free_slots(nodes: Iterable[Mapping[str, Any]], pods: Iterable[PodUse]) -> int:
    """Return how many more pods the nodes take that take runs."""
    taken = Counter(pod.node for pod in pods)
    return sum(max(_slots(node) - taken[str(node["metadata"]["name"])], 0) for node in nodes if is_usable(node))


def devices_of_node(node: Mapping[str, Any]) -> list[Device]:
    """Return the cards of a node."""
    amounts = _amounts((node.get("status") or {}).get("allocatable") or {}, up=False)
    return devices_of(node["metadata"].get("labels") or {}, amounts)


def pools_of(nodes: Iterable[Mapping[str, Any]], pods: Iterable[PodUse]) -> list[Pool]:
    """Return a pool for each class of card, way to hand it out and size of its partitions, and one for the nodes without cards.

    A node that has several classes is in several pools, which their common node group says. Nodes that take no runs are left out.
    """
    ours: dict[str, Counter[str]] = defaultdict(Counter)
    others: dict[str, Counter[str]] = defaultdict(Counter)
    for pod in pods:
        (ours if pod.ours else others)[pod.node].update(pod.requests)
    gathered: dict[tuple[str, ...], _Gathered] = {}
    for node in sorted(nodes, key=lambda n: str(n["metadata"]["name"])):
        if not is_usable(node):
            continue
        name = str(node["metadata"]["name"])
        devices = devices_of_node(node)
        kinds = {_kind(device) for device in devices} or {()}
        for kind in sorted(kinds):
            mine = [device for device in devices if _kind(device) == kind]
            gathered.setdefault(kind, _Gathered(kind)).add(node, mine, ours[name], others[name], shared=len(kinds) > 1)
    return [found.pool() for _kind, found in sorted(gathered.items())]


def _kind(device: Device) -> tuple[str, ...]:
    part = device.partition
    return (device.kind.name, device.mode.value, *([part.name] if part else []))


class _Gathered:
    """The nodes of one pool."""

    def __init__(self, kind: tuple[str, ...]) -> None:
        self.name = "-".join(kind) or "nodes"
        self.device: Device | None = None
        self.total: Counter[str] = Counter()
        self.free: Counter[str] = Counter()
        self.foreign: Counter[str] = Counter()
        self.shapes: Counter[tuple[int, int, tuple[tuple[int, int], ...]]] = Counter()
        self.group: str | None = None
        self.card_memory_mib: int | None = None

    def add(
        self,
        node: Mapping[str, Any],
        devices: list[Device],
        ours: Mapping[str, int],
        others: Mapping[str, int],
        *,
        shared: bool,
    ) -> None:
        allocatable = _amounts((node.get("status") or {}).get("allocatable") or {}, up=False)
        taken = Counter(ours) + Counter(others)
        room = _slots(node) > taken["pods"]
        for dimension in ("cpu", "memory"):
            total = allocatable.get(dimension, 0)
            free = max(total - taken[dimension], 0) if room else 0
            self.total[dimension] += total
            self.free[dimension] += free
            self.foreign[dimension] += min(others.get(dimension, 0), total)
        free_cpu = max(allocatable.get("cpu", 0) - taken["cpu"], 0) if room else 0
        free_memory = max(allocatable.get("memory", 0) - taken["memory"], 0) if room else 0
        cards: list[tuple[int, int]] = []
        for device in devices:
            self.device = device
            whole = device.memory_mib if device.mode is CardMode.VCUDA else device.kind.memory_mib
            self.card_memory_mib = min(whole, self.card_memory_mib or whole)
            cards += self._cards(device, taken, others)
        self.shapes[free_cpu, free_memory, tuple(sorted(cards))] += 1
        if shared:
            self.group = "mixed"

    def _cards(self, device: Device, taken: Mapping[str, int], others: Mapping[str, int]) -> list[tuple[int, int]]:
        """Free (centi-cards, MiB) of each device; the node tells totals only, so shares are taken from the first cards."""
        used, used_memory = used_of(device, taken)
        foreign, foreign_memory = used_of(device, others)
        found = []
        for _index in range(device.count):
            centi, memory = min(used, device.centi_cards), min(used_memory, device.memory_mib)
            used, used_memory = used - centi, used_memory - memory
            found.append((device.centi_cards - centi, device.memory_mib - memory))
        name = device.kind.name
        for dimension, whole, free, held in (
            (f"cards/{name}", device.centi_cards, sum(c for c, _m in found), foreign),
            (f"card_memory/{name}", device.memory_mib, sum(m for _c, m in found), foreign_memory),
        ):
            self.total[dimension] += whole * device.count
            self.free[dimension] += free
            self.foreign[dimension] += min(held, whole * device.count)
        return found

    def pool(self) -> Pool:
        device = self.device
        shapes = [
            NodeShape(
                count=count, free_cpu=cpu, free_memory=memory, cards=list(cards), card_class=device.kind.name if device else None
            )
            for (cpu, memory, cards), count in sorted(self.shapes.items())
        ]
        total: ResourceVector = dict(self.total)
        return Pool(
            name=self.name,
            card_class=device.kind.name if device else None,
            vendor=device.kind.vendor if device else None,
            card_memory_mib=self.card_memory_mib,
            card_modes=[device.mode.value] if device else [],
            partition=device.partition if device else None,
            total=total,
            free={dimension: self.free[dimension] for dimension in total},
            foreign={dimension: amount for dimension, amount in self.foreign.items() if amount},
            shapes=shapes,
            node_group=self.group,
        )


def has_shares(pools: Iterable[Pool]) -> bool:
    """Whether fractions of cards are handed out."""
    return any(CardMode.VCUDA.value in pool.card_modes or CardMode.MIG.value in pool.card_modes for pool in pools)

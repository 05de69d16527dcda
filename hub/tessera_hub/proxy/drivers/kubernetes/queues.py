"""The service's queue tree as Volcano queues: names, sizes, and the order of changes that Volcano takes. Pure.

Volcano refuses a queue whose children together deserve or keep more than it does, one that may have more than the nearest queue
above it that is bounded, and one that keeps more than it deserves or deserves more than it may have. So what shrinks is changed
first, children before their parents, and then what grows, parents before their children: every state in between keeps the rules
if the first and the last do. Jobs run in leaves only, so a queue with children gets a leaf of its own. A queue below a closed one
is closed, too, and is opened after it.

Sources: Volcano ``pkg/webhooks/admission/queues``, and its documents on capacity scheduling and hierarchical queues.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from tessera_hub.proxy.drivers.kubernetes.cards import VGPU, VGPU_MEMORY, VOLCANO_CORES, VOLCANO_NUMBER, Device
from tessera_hub.proxy.drivers.kubernetes.options import SITE
from tessera_hub.proxy.drivers.kubernetes.quantities import millicores, number
from tessera_hub.schemas.protocol import DesiredQueue
from tessera_hub.schemas.resources import CENTI_CARDS_PER_CARD, CardMode, ResourceVector
from volcano_client.objects import Named, queue

PATH: Final = "tessera.io/queue"
"""Annotation of a mirrored queue: its path at the service."""
_OWN: Final = "/."
"""What is added to the path of a queue with children for the leaf that its own jobs run in; no queue can be called so."""
_STATES: Final[Mapping[str, State]] = {"Open": "Open", "Closed": "Closed"}
_MEBIBYTE: Final = 1 << 20
State = Literal["Open", "Closing", "Closed"]
Amounts = Mapping[str, int]
"""Resource name → amount: processors in thousandths, all others in their own unit (memory in bytes)."""


@dataclass(frozen=True, slots=True)
class Size:
    """What a queue has. In ``capability`` a missing resource is unlimited, in the others it is none."""

    capability: Amounts = field(default_factory=dict)
    deserved: Amounts = field(default_factory=dict)
    guarantee: Amounts = field(default_factory=dict)

    def least(self, other: Size) -> Size:
        """Return what both allow."""
        both = self.capability.keys() & other.capability.keys()
        capability = {**self.capability, **other.capability} | {
            name: min(self.capability[name], other.capability[name]) for name in both
        }
        return Size(capability, _least(self.deserved, other.deserved), _least(self.guarantee, other.guarantee))


@dataclass(frozen=True, slots=True)
class Node:
    """A queue of the engine, wanted or found."""

    name: str
    path: str
    parent: str | None
    state: State = "Open"
    priority: int = 0
    size: Size = field(default_factory=Size)
    uid: str = ""

    def document(self, prefix: str) -> dict[str, Any]:
        """Return the object."""
        named = Named(self.name, labels={SITE: prefix}, annotations={PATH: self.path})
        return queue(
            named,
            capability=_quantities(self.size.capability),
            deserved=_quantities(self.size.deserved),
            guarantee=_quantities(self.size.guarantee),
            parent=self.parent,
            priority=self.priority,
        )


@dataclass(frozen=True, slots=True)
class Step:
    """One change. ``node`` is the queue as it is afterwards."""

    action: Literal["create", "resize", "open", "close", "delete"]
    node: Node


def queue_name(path: str, prefix: str) -> str:
    """Return the name of a path's queue at the engine: readable, and different for every path."""
    words = re.sub(r"[^a-z0-9]+", "-", path.lower()).strip("-")[:30].strip("-")
    digest = hashlib.sha256(path.encode()).hexdigest()[:8]
    return "-".join(part for part in (prefix, words, digest) if part)


def leaf_path(path: str, parents: Iterable[str]) -> str:
    """Return the path of the leaf that jobs of a queue run in; *parents* are the paths that have children."""
    return path + _OWN if path in set(parents) else path


def wanted(queues: Sequence[DesiredQueue], devices: Sequence[Device], prefix: str) -> list[Node]:
    """Return the queues that the engine should have, parents first.

    Args:
        devices: all cards of the cluster; of classes that it lacks nothing is said.
    """
    known = {q.path for q in queues}
    parents = {q.parent for q in queues if q.parent in known}
    found: dict[str, Node] = {}
    bounds: dict[str, Amounts] = {}
    for q in sorted(queues, key=lambda q: (q.path.count("/"), q.path)):
        above = found.get(q.parent) if q.parent else None
        bound = bounds.get(q.parent or "", {})
        capability = _within(_resources(q.limit, devices, all_of=True), bound)
        bounds[q.path] = {**bound, **capability}
        size = Size(capability, _resources(q.deserved, devices), _resources(q.guarantee, devices))
        # A draining queue takes no new task at the service; what waits there still runs.
        state: State = "Closed" if q.state == "closed" or (above and above.state == "Closed") else "Open"
        name = queue_name(q.path, prefix)
        found[q.path] = Node(name, q.path, above.name if above else None, state, q.priority, size)
    for path in sorted(parents - {None}, key=str):
        own = leaf_path(str(path), [str(path)])
        found[own] = Node(queue_name(own, prefix), own, found[str(path)].name, found[str(path)].state, found[str(path)].priority)
    return _balanced(list(found.values()))


def found_nodes(documents: Iterable[Mapping[str, Any]]) -> list[Node]:
    """Return the queues of the engine from its objects."""
    nodes: list[Node] = []
    for document in documents:
        metadata, spec, status = document["metadata"], document.get("spec") or {}, document.get("status") or {}
        size = Size(
            _amounts(spec.get("capability")),
            _amounts(spec.get("deserved")),
            _amounts((spec.get("guarantee") or {}).get("resource")),
        )
        parent = spec.get("parent")
        nodes.append(
            Node(
                metadata["name"],
                (metadata.get("annotations") or {}).get(PATH, ""),
                None if parent in (None, "", "root") else str(parent),
                _STATES.get(status.get("state") or "Open", "Closing"),
                int(spec.get("priority") or 0),
                size,
                metadata.get("uid", ""),
            )
        )
    return nodes


def steps(want: Sequence[Node], have: Sequence[Node]) -> list[Step]:
    """Return what is to be done, in an order that Volcano takes. A queue that is not wanted is emptied, closed, then deleted."""
    old = {node.name: node for node in have}
    new = {node.name: node for node in want}
    gone = [node for node in have if node.name not in new]
    goals = {**{node.name: replace(node, size=Size(node.size.capability)) for node in gone}, **new}
    depth = _depths({**old, **new})
    least: dict[str, Size] = {}
    bounds: dict[str, Amounts] = {}
    for name in sorted(old, key=depth):
        size = old[name].size.least(goals[name].size)
        bound = bounds.get(old[name].parent or "", {})
        least[name] = replace(size, capability=_within(size.capability, bound))
        bounds[name] = {**bound, **least[name].capability}
    upwards = sorted(old, key=lambda name: (-depth(name), name))
    found = [Step("resize", replace(old[name], size=least[name])) for name in upwards if least[name] != old[name].size]
    for name in sorted(new, key=lambda name: (depth(name), name)):
        if name not in old:
            found.append(Step("create", new[name]))
        else:
            goal = replace(new[name], uid=old[name].uid)
            if least[name] != goal.size or old[name].priority != goal.priority:
                found.append(Step("resize", goal))
    found += [
        Step("open", old[name]) for name in reversed(upwards) if name in new and new[name].state == "Open" != old[name].state
    ]
    staying = set(old)
    for name in upwards:
        if name not in new and old[name].state == "Open":
            found.append(Step("close", old[name]))
        elif name not in new:
            if old[name].state == "Closed" and not any(old[other].parent == name for other in staying):
                staying.discard(name)
                found.append(Step("delete", old[name]))
        elif new[name].state == "Closed" and old[name].state == "Open":
            found.append(Step("close", old[name]))
    return found


def resize_patch(before: Node, after: Node) -> dict[str, Any]:
    """Return the merge patch of a queue's size; what is no more is taken out."""

    def change(old: Amounts, fresh: Amounts) -> dict[str, str | None]:
        return {**dict.fromkeys(old, None), **_quantities(fresh)}

    size = {
        "capability": change(before.size.capability, after.size.capability),
        "deserved": change(before.size.deserved, after.size.deserved),
        "guarantee": {"resource": change(before.size.guarantee, after.size.guarantee)},
    }
    return {"spec": {**size, "priority": after.priority}}


# --- amounts ----------------------------------------------------------------------------------------------------------


def _within(capability: Amounts, above: Amounts) -> dict[str, int]:
    """Return a capability that is nowhere larger than the parent's."""
    return {name: min(amount, above.get(name, amount)) for name, amount in capability.items()}


def _least(one: Amounts, other: Amounts) -> dict[str, int]:
    return {name: min(one[name], other[name]) for name in one.keys() & other.keys() if min(one[name], other[name])}


def _amounts(resources: Mapping[str, Any] | None) -> dict[str, int]:
    return {name: millicores(value) if name == "cpu" else number(value) for name, value in (resources or {}).items()}


def _quantities(amounts: Amounts) -> dict[str, str]:
    def text(name: str, amount: int) -> str:
        if name == "cpu":
            return f"{amount}m"
        return f"{amount // _MEBIBYTE}Mi" if name == "memory" and amount % _MEBIBYTE == 0 else str(amount)

    return {name: text(name, amount) for name, amount in sorted(amounts.items())}


def _resources(vector: ResourceVector, devices: Sequence[Device], *, all_of: bool = False) -> dict[str, int]:
    """Return a vector of the service as the engine's resources, cards by the resources of the classes that are here.

    Several classes may share a resource, which then has their sum.

    Args:
        all_of: a resource is said only if every class that shares it is in *vector*: what bounds one class bounds not the others.
    """
    found: dict[str, int] = {}
    if "cpu" in vector:
        found["cpu"] = vector["cpu"]
    if "memory" in vector:
        found["memory"] = vector["memory"] * _MEBIBYTE
    shares: dict[str, dict[str, int | None]] = defaultdict(dict)
    for device in devices:
        for resource, dimension, convert in _dimensions(device):
            amount = vector.get(f"{dimension}/{device.kind.name}")
            shares[resource][device.kind.name] = None if amount is None else convert(amount)
    for resource, by_class in shares.items():
        known = [amount for amount in by_class.values() if amount is not None]
        if known and (len(known) == len(by_class) or not all_of):
            found[resource] = sum(known)
    return found if all_of else {name: amount for name, amount in found.items() if amount}


def _dimensions(device: Device) -> list[tuple[str, str, Callable[[int], int]]]:
    """The resources of a device, each with the dimension that it counts. MIG profiles are counted by the service alone."""
    if device.mode is CardMode.WHOLE:
        return [(device.resource, "cards", lambda centi: centi // CENTI_CARDS_PER_CARD)]
    if device.resource == VGPU:
        return [(VGPU, "cards", lambda centi: centi), (VGPU_MEMORY, "card_memory", lambda mebibytes: mebibytes)]
    if device.resource == VOLCANO_NUMBER:
        return [(VOLCANO_CORES, "cards", lambda centi: centi)]
    return []


def _balanced(nodes: list[Node]) -> list[Node]:
    """Let sizes add up as the engine wants it: each parent deserves and keeps at least what its children do together.

    Where that is more than it may have, its children get less, in proportion.
    """
    sizes = {node.name: node.size for node in nodes}
    children: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        if node.parent:
            children[node.parent].append(node.name)
    downwards = sorted(nodes, key=lambda node: node.path.count("/"))
    for node in reversed(downwards):
        below = [sizes[name] for name in children[node.name]]
        guarantee = _most(node.size.guarantee, _sum(size.guarantee for size in below))
        deserved = _most(node.size.deserved, _sum(size.deserved for size in below))
        sizes[node.name] = Size(node.size.capability, _most(deserved, guarantee), guarantee)
    for node in downwards:
        size = sizes[node.name]
        deserved = _within(size.deserved, size.capability)
        sizes[node.name] = size = Size(size.capability, deserved, _least(size.guarantee, deserved))
        below = [sizes[name] for name in children[node.name]]
        all_deserved, all_kept = _sum(each.deserved for each in below), _sum(each.guarantee for each in below)
        for name in children[node.name]:
            child = sizes[name]
            less = _part(child.deserved, all_deserved, size.deserved)
            sizes[name] = Size(child.capability, less, _part(child.guarantee, all_kept, size.guarantee))
    return [replace(node, size=sizes[node.name]) for node in nodes]


def _sum(several: Iterable[Amounts]) -> dict[str, int]:
    total: dict[str, int] = defaultdict(int)
    for amounts in several:
        for name, amount in amounts.items():
            total[name] += amount
    return total


def _most(one: Amounts, other: Amounts) -> dict[str, int]:
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in {*one, *other}}


def _part(amounts: Amounts, total: Amounts, there: Amounts) -> dict[str, int]:
    """Return the part of *there* that is due to one of those who want *total* together, no more than it wants."""
    found = {name: amount * min(there.get(name, 0), total[name]) // total[name] for name, amount in amounts.items()}
    return {name: amount for name, amount in found.items() if amount}


def _depths(nodes: Mapping[str, Node]) -> Callable[[str], int]:
    def depth(name: str) -> int:
        seen = {name}
        parent = nodes[name].parent
        while parent is not None and parent in nodes and parent not in seen:  # what somebody else wrote may run in a circle
            seen.add(parent)
            parent = nodes[parent].parent
        return len(seen) - 1

    return depth

"""What a Slurm centre has: partitions as pools, typed cards as card classes, shards and MPS as fractions.

What is free comes from ``gres_used`` of the nodes and never from the jobs' requests, which miss cards of other users and
steps. A node counts once, in the first partition that has it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from tessera_hub.cards import CATALOGUE, WHOLE_ONLY, CardClass
from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.proxy.drivers.slurm.jobs import SUSPENDED, Job
from tessera_hub.proxy.drivers.slurm.nodes import Gres, Node, Partition, parse_gres
from tessera_hub.proxy.drivers.slurm.settings import PartitionSettings, SlurmSettings
from tessera_hub.schemas.protocol import Lease, NodeShape, Pool
from tessera_hub.schemas.resources import CENTI_CARDS_PER_CARD, CardMode, ResourceVector

UNTYPED: Final = "gpu"
SHARES: Final = ("shard", "mps")
MPS_PER_CARD: Final = 100
_GIB: Final = re.compile(r"-(\d+)G$")


def class_named(name: str) -> CardClass:
    """Return a card class by name; one that the catalogue lacks has whole cards only, of the memory in its name (``X-16G``)."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    match = _GIB.search(name)
    return CardClass(name, "nvidia", int(match[1]) * 1024 if match else 1024, "", WHOLE_ONLY, re.escape(name))


class Cards:
    """Types of Slurm's GRES ``gpu`` and our card classes.

    Args:
        names: type → card class, by the operator; others are recognised by their type, or named after it.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = dict(names)
        self.share: str | None = None
        self.per_card = 0
        self._types: dict[str, str] = {}
        self._shares: dict[str, dict[int, int]] = {}

    @property
    def known(self) -> bool:
        """Whether any node has cards."""
        return bool(self._types)

    def class_of(self, kind: str) -> CardClass:
        """Return the class of a type."""
        kind = kind or UNTYPED
        if kind in self._names:
            return class_named(self._names[kind])
        wanted = re.sub(r"[^a-z0-9]", "", kind.lower())
        for name, known in CATALOGUE.items():
            model = name.rpartition("-")[0]
            if wanted in (re.sub(r"[^a-z0-9]", "", name.lower()), re.sub(r"[^a-z0-9]", "", model.lower())):
                return known
        return class_named(re.sub(r"[^A-Za-z0-9._-]+", "-", kind))

    def learn(self, nodes: Iterable[Node], jobs: Iterable[Job] = ()) -> None:
        """Look at what the nodes have: the type of each class, how a card is shared, and what jobs have of which card."""
        self._shares = {}
        for job in jobs:
            if job.state in ("RUNNING", *SUSPENDED) and job.node_count == 1:
                for gres in (part for text in job.gres for part in parse_gres(text)):
                    if gres.name in SHARES and gres.indices is not None and len(gres.indices) == 1:
                        known = self._shares.setdefault(job.nodes, {})
                        known[gres.indices[0]] = known.get(gres.indices[0], 0) + gres.count
        for node in nodes:
            count = sum(gres.count for gres in node.gres if gres.name == "gpu")
            for gres in node.gres:
                if gres.name == "gpu":
                    self._types.setdefault(self.class_of(gres.kind).name, gres.kind)
            for name in SHARES:
                shares = sum(gres.count for gres in node.gres if gres.name == name)
                if count and shares and self.share in (None, name):
                    self.share, self.per_card = name, shares // count

    def gres(self, lease: Lease) -> str | None:
        """Return what a replica of a lease asks of a node, ``gpu:a100:2`` or ``shard:3``; None without cards.

        Raises:
            DriverError: ``never.no_card_class`` or ``never.no_card_mode``.
        """
        request = lease.spec.roles[0].resources.cards
        if request is None:
            return None
        name = lease.card_class or request.model
        if name is None or name not in self._types:
            raise DriverError("never.no_card_class", f"this centre has no card {name or 'at all'}")
        if request.mode is CardMode.WHOLE:
            kind = self._types[name]
            return f"gpu:{kind + ':' if kind else ''}{request.centi_cards // CENTI_CARDS_PER_CARD}"
        if request.mode is not CardMode.VCUDA or request.centi_cards > CENTI_CARDS_PER_CARD or self.share is None:
            raise DriverError(
                "never.no_card_mode", "this centre hands out whole cards, and shares of one card where it has shards or MPS"
            )
        return f"{self.share}:{-(-request.centi_cards * self.per_card // CENTI_CARDS_PER_CARD)}"

    def free_of(self, node: Node, name: str) -> list[tuple[int, int]]:
        """Return (free centi-cards, free MiB) of each card of a class on a node."""
        total = sum(gres.count for gres in node.gres if gres.name == "gpu" and self.class_of(gres.kind).name == name)
        memory = self.class_of(self._types.get(name, name)).memory_mib
        used = [gres for gres in node.gres_used if gres.name == "gpu" and self.class_of(gres.kind).name == name]
        left = [CENTI_CARDS_PER_CARD] * total
        for gres in used:
            for index in _taken(gres, left):
                left[index] = 0
        self._take_shares(node, left)
        return [(centi, memory * centi // CENTI_CARDS_PER_CARD) for centi in left]

    def _take_shares(self, node: Node, left: list[int]) -> None:
        """Take what shards or MPS have in use on each card.

        Newer versions tell it per card. 22.05 tells only which cards are shared, and the jobs how much of which card they have;
        a shared card that no job explains counts as full.
        """
        for gres in node.gres_used:
            if gres.name not in SHARES or not gres.count or not self.per_card:
                continue
            if gres.per_card is not None:
                shares = dict(enumerate(gres.per_card))
            else:
                known = self._shares.get(node.name, {})
                shares = {index: known.get(index, self.per_card) for index in gres.indices or range(len(left))}
            for index, share in shares.items():
                if index < len(left):
                    left[index] = max(left[index] - -(-share * CENTI_CARDS_PER_CARD // self.per_card), 0)


def _taken(gres: Gres, left: Sequence[int]) -> list[int]:
    """Return which cards of a node are in use; with several types in it the indices are the node's, so the count decides."""
    if gres.indices is not None and len(gres.indices) == gres.count and all(index < len(left) for index in gres.indices):
        return list(gres.indices)
    return [index for index, centi in enumerate(left) if centi][: gres.count]


def partitions_in_use(settings: SlurmSettings, partitions: Sequence[Partition]) -> list[PartitionSettings]:
    """Return the partitions that runs may use: those that the settings name, else all that are up."""
    up = {partition.name for partition in partitions if partition.up}
    if settings.partitions:
        return [partition for partition in settings.partitions if partition.name in up]
    return [PartitionSettings(name=partition.name) for partition in partitions if partition.name in up]


def homes_of(nodes: Iterable[Node], partitions: Sequence[PartitionSettings]) -> dict[str, list[Node]]:
    """Return partition → its nodes, each node in the first partition that has it."""
    found: dict[str, list[Node]] = {partition.name: [] for partition in partitions}
    for node in nodes:
        home = next((partition.name for partition in partitions if partition.name in node.partitions), None)
        if home is not None:
            found[home].append(node)
    return {name: members for name, members in found.items() if members}


def pools_of(homes: Mapping[str, Sequence[Node]], cards: Cards, ours: Mapping[str, ResourceVector]) -> list[Pool]:
    """Return the pools: per partition one for the nodes of each set of card classes, and in it one per class.

    Args:
        ours: what our running jobs hold, by partition; the rest of what is used is foreign.
    """
    found: list[Pool] = []
    for partition, nodes in homes.items():
        groups: dict[tuple[str, ...], list[Node]] = {}
        for node in nodes:
            names = sorted({cards.class_of(gres.kind).name for gres in node.gres if gres.name == "gpu" and gres.count})
            groups.setdefault(tuple(names), []).append(node)
        for classes, members in groups.items():
            alone = len(groups) == 1 and len(classes) <= 1
            label = partition if alone or not classes else f"{partition}-{'-'.join(classes)}"
            if not classes:
                found.append(_pool(label if alone else f"{partition}-cpu", members, None, cards, None))
            for name in classes:
                group = label if len(classes) > 1 else None
                found.append(_pool(label if group is None else f"{label}-{name}", members, name, cards, group))
        _mark_foreign(
            [pool for pool in found if pool.name == partition or pool.name.startswith(f"{partition}-")], ours.get(partition, {})
        )
    return found


def _pool(label: str, nodes: Sequence[Node], name: str | None, cards: Cards, group: str | None) -> Pool:
    total: Counter[str] = Counter()
    free: Counter[str] = Counter()
    shapes: Counter[tuple[int, int, tuple[tuple[int, int], ...]]] = Counter()
    memory = 0 if name is None else class_named(name).memory_mib
    for node in nodes:
        cpu = max(node.cpus - node.cpus_used, 0) * 1000
        mib = max(node.memory_mib - node.memory_used_mib, 0)
        left = [] if name is None else cards.free_of(node, name)
        total.update({"cpu": node.cpus * 1000, "memory": node.memory_mib})
        free.update({"cpu": cpu, "memory": mib})
        if name is not None:
            total.update({f"cards/{name}": CENTI_CARDS_PER_CARD * len(left), f"card_memory/{name}": memory * len(left)})
            free.update({f"cards/{name}": sum(c for c, _m in left), f"card_memory/{name}": sum(m for _c, m in left)})
        shapes[cpu, mib, tuple(sorted(left))] += 1
    kind = None if name is None else class_named(name)
    modes = (
        []
        if kind is None
        else [CardMode.WHOLE.value, *([CardMode.VCUDA.value] if cards.share and CardMode.VCUDA in kind.modes else [])]
    )
    return Pool(
        name=label,
        card_class=name,
        vendor=None if kind is None else kind.vendor,
        card_memory_mib=None if kind is None else memory,
        card_modes=modes,
        total=dict(total),
        free={dimension: free[dimension] for dimension in total},
        shapes=[
            NodeShape(count=count, free_cpu=cpu, free_memory=mib, cards=list(left), card_class=name)
            for (cpu, mib, left), count in sorted(shapes.items())
        ],
        node_group=group,
    )


def _mark_foreign(pools: Sequence[Pool], ours: ResourceVector) -> None:
    """Split what is used into ours and the others'."""
    left = dict(ours)
    for pool in pools:
        for dimension, total in pool.total.items():
            used = total - pool.free[dimension]
            own = min(left.get(dimension, 0), used)
            left[dimension] = left.get(dimension, 0) - own
            if used > own:
                pool.foreign[dimension] = used - own

"""Instance types and compute environments as pools. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from tessera_hub.cards import CATALOGUE, CardClass, recognise
from tessera_hub.proxy.drivers.aws_batch.jobs import requirements
from tessera_hub.schemas.protocol import Lease, NodeShape, Pool
from tessera_hub.schemas.resources import CENTI_CARDS_PER_CARD, CardMode

OPTIMAL: Final = ("c5.*", "m5.*", "r5.*")
"""What Batch may choose from when it is told ``optimal``; which generation it takes is its own."""


@dataclass(frozen=True, slots=True)
class InstanceType:
    """A type of instance: processors, memory in MiB, cards."""

    name: str
    vcpus: int
    memory_mib: int
    card: CardClass | None = None
    cards: int = 0


FARGATE_SIZE: Final = InstanceType("fargate", 16, 122_880)
"""The largest container of Fargate."""


def instance_type_of(document: Mapping[str, Any]) -> InstanceType:
    """Read a description of ``DescribeInstanceTypes``; cards of two kinds in one type do not exist."""
    vcpus, memory = int(document["VCpuInfo"]["DefaultVCpus"]), int(document["MemoryInfo"]["SizeInMiB"])
    gpus = (document.get("GpuInfo") or {}).get("Gpus") or ()
    if not gpus:
        return InstanceType(str(document["InstanceType"]), vcpus, memory)
    size = int((gpus[0].get("MemoryInfo") or {}).get("SizeInMiB") or 0)
    card = recognise(f"{gpus[0]['Name']} {round(size / 1024)}GB", size)
    return InstanceType(str(document["InstanceType"]), vcpus, memory, card, sum(int(gpu["Count"]) for gpu in gpus))


def families(names: Iterable[str]) -> set[str]:
    """Return what to ask EC2 for: types as they are, families (``p4d``) as patterns."""
    found: set[str] = set()
    for name in names:
        found |= set(OPTIMAL) if name == "optimal" else {name if "." in name else f"{name}.*"}
    return found


@dataclass(frozen=True, slots=True)
class Environment:
    """A managed compute environment that takes jobs."""

    arn: str
    name: str
    kind: str
    max_vcpus: int
    instance_types: tuple[str, ...]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self | None:
        """Read a description; None if it takes no jobs, or its size is not known (unmanaged ones)."""
        resources = document.get("computeResources") or {}
        if document.get("state") != "ENABLED" or document.get("status") not in ("VALID", "UPDATING") or not resources:
            return None
        return cls(
            arn=str(document["computeEnvironmentArn"]),
            name=str(document["computeEnvironmentName"]),
            kind=str(resources.get("type", "")),
            max_vcpus=int(resources.get("maxvCpus", 0)),
            instance_types=tuple(str(name) for name in resources.get("instanceTypes") or ()),
        )

    @property
    def is_fargate(self) -> bool:
        """Whether it has no instances of ours."""
        return self.kind.startswith("FARGATE")

    @property
    def is_spot(self) -> bool:
        """Whether it may lose its instances at any time."""
        return self.kind in ("SPOT", "FARGATE_SPOT")

    def members(self, types: Mapping[str, InstanceType]) -> list[InstanceType]:
        """Return the types that it may start, those that are too large for it left out."""
        if self.is_fargate:
            return [FARGATE_SIZE]
        patterns = families(self.instance_types)
        found = [kind for kind in types.values() if kind.name in patterns or f"{kind.name.partition('.')[0]}.*" in patterns]
        return [kind for kind in found if kind.vcpus <= self.max_vcpus]


@dataclass(slots=True)
class Use:
    """What jobs of a queue hold: ``cpu`` in vCPUs, ``cards`` in cards, and how much of it is not ours."""

    cpu: int
    cards: int
    foreign_cpu: int
    foreign_cards: int

    @classmethod
    def of(cls, ours: Mapping[str, int], queue: str, foreign: Mapping[str, int]) -> Self:
        """Add up ours, by queue, and the others'."""
        cpu, cards = ours.get(f"{queue}/cpu", 0), ours.get(f"{queue}/cards", 0)
        return cls(cpu + foreign.get("cpu", 0), cards + foreign.get("cards", 0), foreign.get("cpu", 0), foreign.get("cards", 0))

    def take(self, what: str, most: int) -> tuple[int, int]:
        """Take at most *most* of what is held, and return it with how much of it is the others'."""
        taken = min(getattr(self, what), most)
        others = min(getattr(self, f"foreign_{what}"), taken)
        setattr(self, what, getattr(self, what) - taken)
        setattr(self, f"foreign_{what}", getattr(self, f"foreign_{what}") - others)
        return taken, others


def use_of_lease(lease: Lease, fargate: bool, queue: str) -> dict[str, int]:
    """Return what a run of ours holds: vCPUs rounded up, as Batch counts them."""
    found = {entry["type"]: entry["value"] for entry in requirements(lease, fargate=fargate)}
    return {f"{queue}/cpu": -(-round(float(found["VCPU"]) * 1000) // 1000), f"{queue}/cards": int(found.get("GPU", 0))}


def use_of_job(document: Mapping[str, Any]) -> dict[str, int]:
    """Return what a job of somebody else holds."""
    container = document.get("container") or {}
    found = {str(entry["type"]): entry["value"] for entry in container.get("resourceRequirements") or ()}
    cpu = float(found.get("VCPU") or container.get("vcpus") or 1)
    return {"cpu": -(-round(cpu * 1000) // 1000), "cards": int(found.get("GPU", 0))}


def pools_of(
    queues: Mapping[str, Sequence[str]],
    environments: Mapping[str, Environment],
    types: Mapping[str, InstanceType],
    uses: Mapping[str, Use],
) -> list[Pool]:
    """Return the pools: per environment one for each class of card, and one for its instances without.

    What a queue's jobs hold is taken from its environments in their order, as Batch fills them.
    """
    found: list[Pool] = []
    done: set[str] = set()
    for queue, order in queues.items():
        for arn in order:
            environment = environments.get(arn)
            if environment is None or arn in done:
                continue
            done.add(arn)
            classes: dict[str, InstanceType] = {}
            for kind in environment.members(types):
                name = kind.card.name if kind.card else ""
                known = classes.get(name)
                if known is None or (kind.cards, kind.vcpus, kind.memory_mib) > (known.cards, known.vcpus, known.memory_mib):
                    classes[name] = kind
            cpu = uses[queue].take("cpu", environment.max_vcpus)
            for name, kind in sorted(classes.items()):
                group = environment.name if len(classes) > 1 else None
                found.append(_pool(environment, name, kind, cpu, uses[queue], group))
    return found


def _pool(environment: Environment, name: str, kind: InstanceType, cpu: tuple[int, int], use: Use, group: str | None) -> Pool:
    count = environment.max_vcpus // kind.vcpus
    vcpus = environment.max_vcpus if kind.card is None else count * kind.vcpus
    taken, others = use.take("cards", count * kind.cards)
    shapes = _shapes(kind, max(vcpus - cpu[0], 0), count * kind.cards - taken)
    total: Counter[str] = Counter({"cpu": vcpus * 1000, "memory": kind.memory_mib * vcpus // kind.vcpus})
    free: Counter[str] = Counter()
    for (millicores, memory, cards), number in shapes.items():
        free.update({"cpu": millicores * number, "memory": memory * number} | _amounts(kind.card, cards * number))
    foreign = {"cpu": min(cpu[1], vcpus) * 1000} | _amounts(kind.card, others)
    total.update(_amounts(kind.card, count * kind.cards))
    return Pool(
        name=f"{environment.name}-{name}" if name else environment.name,
        card_class=name or None,
        vendor=kind.card.vendor if kind.card else None,
        card_memory_mib=_memory(kind.card) if kind.card else None,
        card_modes=[CardMode.WHOLE.value] if kind.card else [],
        total=dict(total),
        free={dimension: free[dimension] for dimension in total},
        foreign={dimension: amount for dimension, amount in foreign.items() if amount},
        shapes=[
            NodeShape(
                count=number,
                free_cpu=millicores,
                free_memory=memory,
                cards=[(CENTI_CARDS_PER_CARD, _memory(kind.card))] * cards if kind.card else [],
                card_class=name or None,
            )
            for (millicores, memory, cards), number in sorted(shapes.items())
        ],
        node_group=group,
    )


def _shapes(kind: InstanceType, free_vcpus: int, free_cards: int) -> Counter[tuple[int, int, int]]:
    """Return (free millicores, free MiB, free cards) of whole instances and of one that is partly held."""
    full, rest = divmod(free_vcpus, kind.vcpus)
    found: Counter[tuple[int, int, int]] = Counter()
    for size in [kind.vcpus] * full + [rest] * bool(rest):
        cards = min(free_cards, kind.cards)
        free_cards -= cards
        found[size * 1000, kind.memory_mib * size // kind.vcpus, cards] += 1
    return found


def _amounts(card: CardClass | None, number: int) -> dict[str, int]:
    if card is None:
        return {}
    return {f"cards/{card.name}": CENTI_CARDS_PER_CARD * number, f"card_memory/{card.name}": _memory(card) * number}


def _memory(card: CardClass) -> int:
    return CATALOGUE.get(card.name, card).memory_mib

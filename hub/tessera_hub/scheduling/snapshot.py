"""What a scheduling cycle looks at: plain frozen data, without a database and without a schema library.

Amounts are integers: millicores, MiB, centi-cards (100 = one card). A dimension is a string: ``cpu``, ``memory``,
``cards/<class>``, ``card_memory/<class>``; a resource vector maps a dimension to an amount. A dimension that a limit or
a total does not name is unlimited.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from hashlib import blake2b
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from tessera_hub.scheduling.pending import PendingSet

Amounts: TypeAlias = Mapping[str, int]

_NOTHING: Amounts = MappingProxyType({})


def nothing() -> Amounts:
    """Return the empty resource vector."""
    return _NOTHING


CPU = "cpu"
MEMORY = "memory"
SHARED = (CPU, MEMORY)
"""Dimensions that pools of one node group have in common."""
WHOLE_CARD = 100


def cards_of(card_class: str) -> str:
    """Return the dimension that counts centi-cards of a class."""
    return f"cards/{card_class}"


def card_memory_of(card_class: str) -> str:
    """Return the dimension that counts MiB of card memory of a class."""
    return f"card_memory/{card_class}"


class ClusterCondition(StrEnum):
    """How a cluster can be used at the moment."""

    OK = "ok"
    SUSPECT = "suspect"
    UNREACHABLE = "unreachable"
    DRAINING = "draining"


class QueueCondition(StrEnum):
    """``closed`` places nothing; ``draining`` takes no new submission, but what waits is still placed."""

    OPEN = "open"
    CLOSED = "closed"
    DRAINING = "draining"


class Dequeue(StrEnum):
    """What a queue does when its first run cannot be placed: let the next ones pass, or wait with it."""

    BACKFILL = "backfill"
    STRICT = "strict"


class CardMode(StrEnum):
    """How a card is handed out."""

    WHOLE = "whole"
    VCUDA = "vcuda"
    MIG = "mig"


@dataclass(frozen=True, slots=True)
class NodeShape:
    """``count`` nodes that look alike: free millicores, free MiB, and (free centi-cards, free MiB) of each card."""

    cpu: int
    memory: int
    cards: tuple[tuple[int, int], ...] = ()
    count: int = 1


@dataclass(frozen=True, slots=True)
class PoolState:
    """Nodes of one kind at a cluster.

    Attributes:
        name: unique within its cluster.
        free: what is free in all its nodes together, by dimension.
        total: what it has in all, by dimension; 0 or absent means that it has none.
        card_class: the one model of card in it, or None.
        card_memory_mib: memory of one whole card.
        vendor: who made the cards.
        card_modes: how its cards can be handed out.
        partition: (centi-cards, MiB) of what its cards are divided into in hardware; only that is handed out, one for a replica.
        nodes: its nodes as they are now; empty if the engine does not tell (a cloud, a batch service): then only sums count.
        empty_nodes: the same nodes with nothing on them, for "fits never" and for the choice of a reservation.
        prices: nano-units of the cluster's currency per unit and hour, by dimension.
        labels: free words of the operator.
        tenants: who may use it; None: everybody.
        node_group: pools of a cluster with the same one are the same nodes, once for each class of card in them:
            processors and memory are shared. None: nodes of its own.
    """

    name: str
    free: Amounts
    total: Amounts
    card_class: str | None = None
    card_memory_mib: int = 0
    vendor: str | None = None
    card_modes: frozenset[CardMode] = frozenset({CardMode.WHOLE})
    partition: tuple[int, int] | None = None
    nodes: tuple[NodeShape, ...] = ()
    empty_nodes: tuple[NodeShape, ...] = ()
    prices: Amounts = field(default_factory=nothing)
    labels: Mapping[str, str] = field(default_factory=dict)
    tenants: frozenset[str] | None = None
    node_group: str | None = None


@dataclass(frozen=True, slots=True)
class ClusterState:
    """A compute centre as its Proxy last reported it.

    Attributes:
        capabilities: words such as ``gang``, ``suspend``.
        environments: names of the environments that it has.
        workspaces: interactive sessions may be placed here.
        accept_more: how many runs it can still take.
        preference: the operator's order for ``fifo`` (smaller first).
        tenants: who may use it; None: everybody.
        datasets: data sets that it has → who may read them; None: everybody.
        workspace_datasets: those of them that workspaces have, too.
    """

    id: str
    name: str
    kind: str
    pools: tuple[PoolState, ...]
    state: ClusterCondition = ClusterCondition.OK
    capabilities: frozenset[str] = frozenset()
    environments: frozenset[str] = frozenset()
    workspaces: bool = False
    accept_more: int = 1_000_000
    preference: int = 0
    tenants: frozenset[str] | None = None
    datasets: Mapping[str, frozenset[str] | None] = field(default_factory=dict)
    workspace_datasets: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class QueueState:
    """A node of the queue tree; a root belongs to a tenant.

    Attributes:
        policy: name of the placement policy of the runs in it.
        priority: queues of a higher one are served before their siblings.
        limit: never passed, on this node and on every ancestor.
        used: what is taken now, by this node and all below it.
        deserved: the share that the fair order compares with.
    """

    id: str
    parent: str | None = None
    state: QueueCondition = QueueCondition.OPEN
    policy: str = "fifo"
    priority: int = 0
    limit: Amounts = field(default_factory=nothing)
    used: Amounts = field(default_factory=nothing)
    deserved: Amounts = field(default_factory=nothing)
    dequeue: Dequeue = Dequeue.BACKFILL


@dataclass(frozen=True, slots=True)
class CardRequest:
    """Cards of one replica: ``count`` distinct cards, of each ``centi_cards`` and ``memory_mib``.

    ``memory_mib`` 0 means the same part of the memory as of the card (all of it for a whole card). ``classes`` None
    means any class; otherwise each of the named ones will do.
    """

    count: int = 1
    centi_cards: int = WHOLE_CARD
    memory_mib: int = 0
    mode: CardMode = CardMode.WHOLE
    classes: frozenset[str] | None = None
    vendor: str | None = None


@dataclass(frozen=True, slots=True)
class RoleRequest:
    """``replicas`` equal parts of a run, each of which must fit on one node; all start together or none."""

    name: str = "main"
    replicas: int = 1
    cpu: int = 0
    memory: int = 0
    cards: CardRequest | None = None


@dataclass(frozen=True)
class Shape:
    """All of a run that decides *where* it can go. Runs of an equal shape share one verdict.

    Attributes:
        workspace: an interactive session, for clusters with ``workspaces`` only.
        service: runs until it is stopped, for clusters with the capability ``services`` only.
        allowed_clusters: None means each.
        environment: name of the environment that a cluster must have; None: none is needed.
        excluded_clusters: places it was given back from.
        datasets: data sets that a cluster must have, open to the tenant.
    """

    roles: tuple[RoleRequest, ...]
    workspace: bool = False
    allowed_clusters: frozenset[str] | None = None
    environment: str | None = None
    excluded_clusters: frozenset[str] = frozenset()
    service: bool = False
    datasets: frozenset[str] = frozenset()

    @cached_property
    def digest(self) -> str:
        """A stable name of the shape (16 hex digits), the same in each process."""
        parts = [repr((r.name, r.replicas, r.cpu, r.memory, _card_words(r.cards))) for r in self.roles]
        sets = (self.allowed_clusters, self.excluded_clusters, self.datasets)
        parts += [repr((self.workspace, self.service, self.environment)), *(repr(None if s is None else sorted(s)) for s in sets)]
        return blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()

    @cached_property
    def replicas(self) -> int:
        """How many parts start together."""
        return sum(role.replicas for role in self.roles)

    @cached_property
    def centi_cards(self) -> int:
        """Centi-cards over all replicas, whatever their class."""
        return sum(r.replicas * r.cards.count * r.cards.centi_cards for r in self.roles if r.cards is not None)


def _card_words(cards: CardRequest | None) -> tuple[object, ...] | None:
    if cards is None:
        return None
    classes = None if cards.classes is None else sorted(cards.classes)
    return (cards.count, cards.centi_cards, cards.memory_mib, cards.mode.value, classes, cards.vendor)


@dataclass(frozen=True, slots=True)
class PendingRun:
    """A run that waits for a place.

    Attributes:
        priority: 0 to 100, greater first, within its queue.
        policy: overrides its queue's.
        excluded_nodes: passed on with the lease; the hub knows nodes only by shape.
    """

    run_id: str
    task_id: str
    queue_id: str
    tenant_id: str
    submitted_at: datetime
    shape: Shape
    priority: int = 50
    policy: str | None = None
    excluded_nodes: frozenset[str] = frozenset()

    @property
    def order(self) -> tuple[int, datetime, str]:
        """Its place within a queue: priority, then age, then a stable tie-break."""
        return (-self.priority, self.submitted_at, self.run_id)


@dataclass(frozen=True, slots=True)
class Reservation:
    """Room kept for a run that smaller ones overtook (docs/explanation/scheduling.md, "Nobody waits for ever").

    Either a pool (``cluster_id``, ``pool``) or a node of the queue tree (``queue_node``) is held. The cycle gives
    reservations out; its caller puts them into the next snapshot.
    """

    run_id: str
    since: datetime
    cluster_id: str | None = None
    pool: str | None = None
    queue_node: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a cycle sees. The order of clusters, queues and runs in it means nothing.

    Attributes:
        pending: the waiting runs, grouped; not changed by a cycle.
        drain_per_hour: (queue id, dimension) → amount that this queue lately started per hour, for estimates.
    """

    clusters: tuple[ClusterState, ...]
    queues: tuple[QueueState, ...]
    pending: PendingSet
    reservations: tuple[Reservation, ...] = ()
    drain_per_hour: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        clusters: Iterable[ClusterState],
        queues: Iterable[QueueState],
        runs: Iterable[PendingRun],
        reservations: Iterable[Reservation] = (),
    ) -> Snapshot:
        """Build a snapshot from loose parts."""
        from tessera_hub.scheduling.pending import PendingSet

        return cls(tuple(clusters), tuple(queues), PendingSet(runs), tuple(reservations))

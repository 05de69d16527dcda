"""From stored rows and schemas to the plain data of a snapshot, in one place for the loop, submit-time checks and estimates.

Ids: clusters by their database id as text, queues likewise, runs by UUID text, tenants by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tessera_hub.catalogue import held_of
from tessera_hub.quota.tree import QueueTree
from tessera_hub.scheduling.capacity import Nodes, demand_of
from tessera_hub.scheduling.places import pool_excludes
from tessera_hub.scheduling.snapshot import (
    SHARED,
    CardMode,
    CardRequest,
    ClusterCondition,
    ClusterState,
    NodeShape,
    PoolState,
    QueueCondition,
    QueueState,
    RoleRequest,
    Shape,
)
from tessera_hub.schemas.protocol import Inventory, Pool
from tessera_hub.schemas.resources import CENTI_CARDS_PER_CARD
from tessera_hub.schemas.resources import CardMode as AskedMode
from tessera_hub.schemas.resources import CardRequest as AskedCards
from tessera_hub.schemas.tasks import Role, TaskDraft, TaskKind
from tessera_hub.store.tables import Cluster
from tessera_hub.store.types import UNLIMITED


def condition(cluster: Cluster) -> ClusterCondition:
    """Return how *cluster* can be used; one that never connected counts as unreachable."""
    if cluster.state == "ok":
        return ClusterCondition.DRAINING if cluster.draining else ClusterCondition.OK
    return ClusterCondition.SUSPECT if cluster.state == "suspect" else ClusterCondition.UNREACHABLE


def pool_state(pool: Pool, prices: Mapping[str, int], held: Mapping[str, int]) -> PoolState:
    """Return a pool as reported, minus *held*: what was promised since the report and is not in it."""
    nodes = tuple(
        NodeShape(cpu=s.free_cpu, memory=s.free_memory, cards=tuple((c, m) for c, m in s.cards), count=s.count)
        for s in pool.shapes
    )
    return PoolState(
        name=pool.name,
        free={d: max(0, a - held.get(d, 0)) for d, a in pool.free.items()},
        total=dict(pool.total),
        card_class=pool.card_class,
        card_memory_mib=pool.card_memory_mib or 0,
        nodes=tuple(_after(n, held) for n in nodes) if held and len(nodes) == 1 and nodes[0].count == 1 else nodes,
        empty_nodes=empty_nodes(pool),
        prices=prices,
        vendor=pool.vendor,
        card_modes=frozenset(CardMode(mode) for mode in pool.card_modes),
        partition=_size(pool),
        node_group=pool.node_group,
    )


def empty_nodes(pool: Pool) -> tuple[NodeShape, ...]:
    """Return the nodes of *pool* with nothing on them: equal parts of its total, as many as it reports."""
    count = sum(s.count for s in pool.shapes)
    if not count:
        return ()
    centi_cards, memory_mib = _size(pool) or (CENTI_CARDS_PER_CARD, pool.card_memory_mib or 0)
    cards = pool.total.get(f"cards/{pool.card_class}", 0) // centi_cards // count if pool.card_class else 0
    return (
        NodeShape(
            cpu=pool.total.get("cpu", 0) // count,
            memory=pool.total.get("memory", 0) // count,
            cards=((centi_cards, memory_mib),) * cards,
            count=count,
        ),
    )


def _size(pool: Pool) -> tuple[int, int] | None:
    return None if pool.partition is None else (pool.partition.centi_cards, pool.partition.memory_mib)


def _after(node: NodeShape, held: Mapping[str, int]) -> NodeShape:
    """Take *held* from the only node of a pool: cards from the fullest that can give it, as a node agent would."""
    cards = sorted(node.cards)
    share = sum(amount for d, amount in held.items() if d.startswith("cards/"))
    memory = sum(amount for d, amount in held.items() if d.startswith("card_memory/"))
    for index, (free, free_memory) in enumerate(cards):
        taken = min(free, share)
        part = memory if share <= free else memory * taken // share if share else 0
        cards[index] = (free - taken, max(0, free_memory - part))
        share, memory = share - taken, memory - part
        if share <= 0:
            break
    return NodeShape(
        max(0, node.cpu - held.get("cpu", 0)), max(0, node.memory - held.get("memory", 0)), tuple(sorted(cards)), node.count
    )


@dataclass(frozen=True, slots=True)
class PromisedRuns:
    """Runs that are alike, promised to a cluster since its last report; the class of card is the one they settled on."""

    shape: Shape
    card_class: str | None
    count: int


def cluster_state(
    cluster: Cluster,
    prices: Mapping[str, int],
    held: Mapping[str, int],
    accepted: int = 0,
    runs: Sequence[PromisedRuns] = (),
) -> ClusterState:
    """Return a cluster for a snapshot.

    Args:
        prices: nano-units per unit-hour by dimension, the price book's (a cluster's own report wins).
        held: resources promised there since its last report, by dimension.
        accepted: runs promised since its last report that it has not taken.
        runs: what was promised, run by run, to take it from the nodes of a pool.
    """
    inventory = Inventory.model_validate(cluster.inventory) if cluster.inventory else Inventory(pools=[])
    own = dict(prices) | inventory.prices
    pools = []
    left = dict(held)
    taken: dict[str | None, dict[str, int]] = {}
    for pool in inventory.pools:
        known = taken.get(pool.node_group)
        here = {d: min(left[d], pool.free[d]) for d in SHARED if known is None and d in left and d in pool.free}
        for dimension, amount in here.items():
            left[dimension] -= amount
        here |= held_of(pool, left)
        if known is not None:
            here |= known  # the same nodes as a pool before: it is gone here, too, and not once more
        elif pool.node_group is not None:
            taken[pool.node_group] = {d: here.get(d, 0) for d in SHARED}
        pools.append(pool_state(pool, {d: p for d, p in own.items() if d in pool.total}, here))
    return ClusterState(
        id=str(cluster.id),
        name=cluster.name,
        kind=cluster.driver,
        pools=_with_promised(pools, runs),
        state=condition(cluster),
        capabilities=frozenset(cluster.capabilities),
        environments=frozenset(inventory.environments),
        workspaces=cluster.workspaces,
        accept_more=max(0, cluster.accept_max - accepted),
        tenants=None if cluster.tenants is None else frozenset(cluster.tenants),
        datasets={n: None if d.tenants is None else frozenset(d.tenants) for n, d in inventory.datasets.items()},
        workspace_datasets=frozenset(n for n, d in inventory.datasets.items() if d.workspaces),
    )


def _with_promised(pools: Sequence[PoolState], runs: Sequence[PromisedRuns]) -> tuple[PoolState, ...]:
    """Take *runs* from the nodes of those *pools* that have several, as the cycle did that placed them.

    Sums are not enough there: two runs of three cores leave two nodes of four with one each, not with two together. A run
    that fits on no node any more is in the report already, or somewhere else; the sums still count it.
    """
    several = {i: Nodes(pool.nodes) for i, pool in enumerate(pools) if sum(n.count for n in pool.nodes) > 1}
    if not several or not runs:
        return tuple(pools)
    for promised in runs:
        left, cards = promised.count, promised.shape.centi_cards > 0
        for index, nodes in several.items():
            fits = not cards or pools[index].card_class == promised.card_class
            if left and fits and pool_excludes(promised.shape, "", pools[index]) is None:
                left = nodes.take_all(demand_of(promised.shape, pools[index]), left)
    return tuple(replace(pool, nodes=several[i].shapes()) if i in several else pool for i, pool in enumerate(pools))


def queue_states(tree: QueueTree) -> tuple[QueueState, ...]:
    """Return the queue tree for a snapshot."""
    return tuple(
        QueueState(
            id=str(node.id),
            parent=None if node.parent_id is None else str(node.parent_id),
            state=QueueCondition(node.state),
            policy=node.policy,
            priority=node.priority,
            limit={d: s.limit for d, s in node.dimensions.items() if s.limit < UNLIMITED},
            used={d: s.used for d, s in node.dimensions.items() if s.used},
            deserved={d: s.deserved for d, s in node.dimensions.items() if s.deserved},
        )
        for node in tree.nodes.values()
    )


def card_request(asked: AskedCards) -> CardRequest:
    """Return the cards of one replica. A share of more than one card is spread evenly, rounded up, over as few as hold it."""
    classes = frozenset({asked.model}) if asked.model else None
    mode = CardMode(asked.mode.value)
    count = -(-asked.centi_cards // CENTI_CARDS_PER_CARD)
    return CardRequest(
        count=count,
        centi_cards=-(-asked.centi_cards // count),
        memory_mib=0 if asked.mode is AskedMode.WHOLE else -(-(asked.memory_mib or 0) // count),
        mode=mode,
        classes=classes,
        vendor=asked.vendor,
    )


def shape_of(spec: TaskDraft, *, cluster_ids: Mapping[str, str], excluded: Iterable[str] = ()) -> Shape:
    """Return the part of a specification that decides where it can go.

    Args:
        cluster_ids: cluster name → id.
        excluded: ids of clusters that gave the task back.
    """
    return shape_of_parts(
        spec.kind,
        spec.roles,
        spec.environment,
        spec.clusters,
        cluster_ids=cluster_ids,
        excluded=excluded,
        datasets=spec.datasets,
    )


def shape_of_parts(
    kind: TaskKind,
    roles: Iterable[Role],
    environment: str,
    clusters: Iterable[str] | None,
    *,
    cluster_ids: Mapping[str, str],
    excluded: Iterable[str] = (),
    datasets: Iterable[str] = (),
) -> Shape:
    """Return the shape of those fields of a specification that matter to it, see :func:`shape_of`."""
    return Shape(
        roles=tuple(
            RoleRequest(
                name=role.name,
                replicas=role.replicas,
                cpu=role.resources.cpu_millicores,
                memory=role.resources.memory_mib,
                cards=card_request(role.resources.cards) if role.resources.cards else None,
            )
            for role in roles
        ),
        workspace=kind is TaskKind.WORKSPACE,
        service=kind is TaskKind.SERVICE,
        allowed_clusters=None if clusters is None else frozenset(cluster_ids.get(name, name) for name in clusters),
        environment=environment,
        excluded_clusters=frozenset(excluded),
        datasets=frozenset(datasets),
    )

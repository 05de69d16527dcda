"""Small clusters, queues and runs for the tests of the scheduling core, by hand and by Hypothesis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from tessera_hub.scheduling import (
    CardMode,
    CardRequest,
    ClusterCondition,
    ClusterState,
    Decision,
    NodeShape,
    PendingRun,
    PoolState,
    QueueState,
    RoleRequest,
    Shape,
    Snapshot,
)

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
CARD = "A100-80G"
CARD_MIB = 81920


def pool(
    nodes: Iterable[NodeShape],
    *,
    name: str = "gpu",
    card_class: str | None = CARD,
    empty: Iterable[NodeShape] | None = None,
    prices: dict[str, int] | None = None,
    tenants: frozenset[str] | None = None,
) -> PoolState:
    """A pool whose sums agree with its nodes; ``empty`` are the same nodes with nothing on them."""
    now = tuple(nodes)
    unused = now if empty is None else tuple(empty)
    return PoolState(
        name,
        free=sums(now, card_class),
        total=sums(unused, card_class),
        card_class=card_class,
        card_memory_mib=CARD_MIB if card_class else 0,
        vendor="nvidia" if card_class else None,
        card_modes=frozenset(CardMode),
        nodes=now,
        empty_nodes=unused,
        prices=prices or {},
        tenants=tenants,
    )


def sums(nodes: Iterable[NodeShape], card_class: str | None) -> dict[str, int]:
    """Free of all nodes together, by dimension."""
    total = {"cpu": 0, "memory": 0}
    if card_class is not None:
        total |= {f"cards/{card_class}": 0, f"card_memory/{card_class}": 0}
    for node in nodes:
        total["cpu"] += node.cpu * node.count
        total["memory"] += node.memory * node.count
        if card_class is not None:
            total[f"cards/{card_class}"] += node.count * sum(share for share, _ in node.cards)
            total[f"card_memory/{card_class}"] += node.count * sum(memory for _, memory in node.cards)
    return total


def node(cards: int = 0, *, cpu: int = 64_000, memory: int = 512_000, count: int = 1, used_cards: int = 0) -> NodeShape:
    """A node with ``cards`` cards, of which ``used_cards`` are taken."""
    return NodeShape(cpu, memory, ((0, 0),) * used_cards + ((100, CARD_MIB),) * (cards - used_cards), count)


def cluster(
    name: str,
    *pools: PoolState,
    state: ClusterCondition = ClusterCondition.OK,
    workspaces: bool = True,
    accept_more: int = 1000,
    tenants: frozenset[str] | None = None,
    environments: frozenset[str] = frozenset({"default"}),
    capabilities: frozenset[str] = frozenset({"gang"}),
    datasets: Mapping[str, frozenset[str] | None] | None = None,
    workspace_datasets: frozenset[str] = frozenset(),
) -> ClusterState:
    """A cluster that is ready unless said otherwise."""
    return ClusterState(
        name,
        name,
        "local",
        pools,
        state=state,
        workspaces=workspaces,
        accept_more=accept_more,
        tenants=tenants,
        environments=environments,
        capabilities=capabilities,
        datasets=datasets or {},
        workspace_datasets=workspace_datasets,
    )


def shape(cards: int = 0, *, share: int = 100, cpu: int = 1000, memory: int = 1024, replicas: int = 1, **more: object) -> Shape:
    """One role; ``share`` below 100 asks for a fraction of each card."""
    mode = CardMode.WHOLE if share == 100 else CardMode.VCUDA
    request = CardRequest(cards, share, mode=mode) if cards else None
    return Shape((RoleRequest("main", replicas, cpu, memory, request),), **more)  # type: ignore[arg-type]


def run(
    run_id: str,
    what: Shape,
    *,
    queue: str = "q",
    priority: int = 50,
    age_s: int = 0,
    policy: str | None = None,
    tenant: str = "t",
) -> PendingRun:
    """A run submitted ``age_s`` seconds before noon."""
    return PendingRun(run_id, f"task-{run_id}", queue, tenant, NOON - timedelta(seconds=age_s), what, priority, policy)


def placed(decisions: Iterable[Decision]) -> dict[str, str | None]:
    """run id → cluster of what was placed, in the order of placement."""
    return {d.run_id: d.cluster_id for d in decisions if d.action == "place"}


def codes(decisions: Iterable[Decision], run_id: str) -> list[str]:
    """Reason codes of the verdict whose first run is ``run_id``."""
    return [reason.code.token for d in decisions if d.run_id == run_id for reason in d.reasons]


SHAPES = st.builds(
    shape,
    st.integers(0, 3),
    share=st.sampled_from([100, 100, 50, 25]),
    cpu=st.integers(1, 8).map(lambda n: n * 500),
    memory=st.sampled_from([512, 4096]),
    replicas=st.sampled_from([1, 1, 2, 3]),
)


@st.composite
def nodes_with_use(draw: st.DrawFn) -> tuple[NodeShape, NodeShape]:
    """(now, empty) of a few nodes that look alike."""
    cards = draw(st.integers(0, 4))
    now = tuple(
        sorted(
            (share, CARD_MIB * share // 100)
            for share in draw(st.lists(st.sampled_from([0, 25, 50, 100]), min_size=cards, max_size=cards))
        )
    )
    count = draw(st.integers(1, 3))
    cpu = draw(st.integers(0, 16)) * 1000
    return (
        NodeShape(cpu, draw(st.sampled_from([2048, 16384])), now, count),
        NodeShape(16_000, 16_384, ((100, CARD_MIB),) * cards, count),
    )


@st.composite
def clusters(draw: st.DrawFn, name: str) -> ClusterState:
    """A cluster of one or two pools, in any condition."""
    pools = []
    for pool_name in draw(st.sampled_from([("gpu",), ("gpu", "more")])):
        drawn = draw(st.lists(nodes_with_use(), min_size=1, max_size=3))
        price = draw(st.integers(0, 9))
        pools.append(
            pool(
                [n for n, _ in drawn],
                name=pool_name,
                empty=[e for _, e in drawn],
                prices={"cpu": price, f"cards/{CARD}": price * 7},
            )
        )
    return cluster(
        name,
        *pools,
        state=draw(st.sampled_from([ClusterCondition.OK] * 5 + [ClusterCondition.SUSPECT])),
        accept_more=draw(st.integers(0, 12)),
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """A tree of two tenants with sub-queues and limits, some clusters, up to thirty runs of a few shapes."""
    limits = st.fixed_dictionaries({}, optional={"cpu": st.integers(0, 40_000), f"cards/{CARD}": st.integers(0, 800)})
    policies = st.sampled_from(["fifo", "most-idle", "lowest-price"])
    queues = []
    for tenant in ("t", "u"):
        queues.append(QueueState(tenant, limit=draw(limits)))
        for leaf in ("a", "b"):
            limit = draw(limits)
            used = {d: draw(st.integers(0, most)) for d, most in limit.items()}
            queues.append(
                QueueState(
                    f"{tenant}/{leaf}",
                    tenant,
                    policy=draw(policies),
                    limit=limit,
                    used=used,
                    deserved={"cpu": draw(st.integers(1, 20_000))},
                )
            )
    # What the leaves use, their parent uses.
    known = {q.id: q for q in queues}
    for tenant in ("t", "u"):
        below: dict[str, int] = {}
        for leaf in ("a", "b"):
            for dimension, amount in known[f"{tenant}/{leaf}"].used.items():
                below[dimension] = below.get(dimension, 0) + amount
        old = known[tenant]
        known[tenant] = QueueState(old.id, limit=old.limit, used=below)
    shapes = draw(st.lists(SHAPES, min_size=1, max_size=4))
    runs = []
    for index in range(draw(st.integers(0, 30))):
        tenant = draw(st.sampled_from(["t", "u"]))
        runs.append(
            run(
                f"r{index:02d}",
                draw(st.sampled_from(shapes)),
                queue=f"{tenant}/{draw(st.sampled_from('ab'))}",
                priority=draw(st.sampled_from([10, 50, 90])),
                age_s=draw(st.integers(0, 2000)),
                tenant=tenant,
            )
        )
    return Snapshot.of([draw(clusters(name)) for name in ("c1", "c2", "c3")], known.values(), runs)

"""A node with several classes of cards is shown by several pools: its processors and memory are there once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from tests.hub.scheduling.worlds import NOON, cluster, pool, run

from tessera_billing.prices import PriceList
from tessera_hub.catalogue import _capacity
from tessera_hub.scheduling import Action, CardRequest, NodeShape, PoolState, RoleRequest, Shape, Snapshot, schedule
from tessera_hub.scheduling.places import Yard
from tessera_hub.scheduling.snapshot import QueueState, Reservation
from tessera_hub.scheduling.translation import cluster_state
from tessera_hub.schemas.protocol import Inventory, Pool
from tessera_hub.schemas.protocol import NodeShape as ReportedShape
from tessera_hub.store.tables import Cluster

SMALL = "L4-24G"
LARGE = "A100-80G"


def machine(cpu: int = 8000, memory: int = 16_000) -> tuple[PoolState, ...]:
    """One machine with two large and one small card."""
    large = pool([NodeShape(cpu, memory, ((100, 81920),) * 2)], name="machine-large", card_class=LARGE)
    small = replace(
        pool([NodeShape(cpu, memory, ((100, 24576),))], name="machine-small", card_class=SMALL), card_memory_mib=24576
    )
    return tuple(replace(one, node_group="machine") for one in (large, small))


def asks(cpu: int, card: str | None = None) -> Shape:
    cards = CardRequest(classes=frozenset({card})) if card else None
    return Shape((RoleRequest("main", 1, cpu, 1000, cards),))


def placed(*shapes: Shape, reservations: tuple[Reservation, ...] = (), queues: int = 1) -> dict[str, str | None]:
    """Place runs ``0``, ``1``, … submitted in that order and return the pool of each that was placed."""
    runs = [run(str(n), what, queue=f"q{n % queues}", age_s=1000 - n) for n, what in enumerate(shapes)]
    snapshot = Snapshot.of([cluster("c", *machine())], [QueueState(f"q{n}") for n in range(queues)], runs, reservations)
    return {d.run_id: d.pool for d in schedule(snapshot, NOON) if d.action is Action.PLACE}


def test_what_a_run_takes_through_one_pool_is_gone_from_the_other() -> None:
    assert placed(asks(5000, LARGE), asks(5000, SMALL)) == {"0": "machine-large"}
    assert placed(asks(5000, LARGE), asks(3000, SMALL)) == {"0": "machine-large", "1": "machine-small"}


def test_runs_without_cards_fill_the_machine_once() -> None:
    assert len(placed(*[asks(1000)] * 20)) == 8


def test_each_class_gets_its_card_and_a_share_of_the_processors() -> None:
    found = placed(asks(1000, SMALL), asks(1000, LARGE), asks(1000, LARGE), asks(1000, SMALL))
    assert found == {"0": "machine-small", "1": "machine-large", "2": "machine-large"}


def test_the_whole_counts_shared_nodes_once() -> None:
    whole = Yard([cluster("c", *machine()), cluster("d", *machine())]).whole()
    assert (whole["cpu"], whole["memory"]) == (16_000, 32_000)
    assert (whole[f"cards/{LARGE}"], whole[f"cards/{SMALL}"]) == (400, 200)


def test_room_that_is_kept_in_one_pool_is_kept_in_the_other() -> None:
    busy = tuple(replace(p, free=p.free | {"cpu": 4000}, nodes=(replace(p.nodes[0], cpu=4000),)) for p in machine())
    waits = run("big", asks(6000, LARGE), queue="q0", age_s=2000)
    small = run("small", asks(2000, SMALL), queue="q1", age_s=10)
    kept = Reservation("big", NOON - timedelta(seconds=60), cluster_id="c", pool="machine-large")
    snapshot = Snapshot.of([cluster("c", *busy)], [QueueState("q0"), QueueState("q1")], [waits, small], (kept,))
    assert [d.run_id for d in schedule(snapshot, NOON) if d.action is Action.PLACE] == []
    without = replace(snapshot, reservations=())
    assert [d.run_id for d in schedule(without, NOON) if d.action is Action.PLACE] == ["small"]


def reported() -> Cluster:
    """The cluster as a Proxy reports such a machine."""
    pools = []
    for name, count, memory in ((LARGE, 2, 81920), (SMALL, 1, 24576)):
        total = {"cpu": 8000, "memory": 16_000, f"cards/{name}": 100 * count, f"card_memory/{name}": memory * count}
        shape = ReportedShape(free_cpu=8000, free_memory=16_000, cards=[(100, memory)] * count, card_class=name)
        pools.append(
            Pool(
                name=f"machine-{name}",
                card_class=name,
                card_memory_mib=memory,
                card_modes=["whole"],
                total=total,
                free=total,
                shapes=[shape],
                node_group="machine",
            )
        )
    return Cluster(
        id=1,
        name="local",
        driver="local",
        state="ok",
        draining=False,
        workspaces=True,
        accept_max=10,
        capabilities=[],
        inventory=Inventory(pools=pools).model_dump(mode="json"),
        last_contact_at=datetime.now(UTC),
    )


def test_what_was_promised_since_the_report_is_gone_from_all_pools_of_the_machine_and_only_once() -> None:
    state = cluster_state(reported(), {}, {"cpu": 3000, "memory": 1000, f"cards/{SMALL}": 100, f"card_memory/{SMALL}": 24576})
    assert [p.free["cpu"] for p in state.pools] == [5000, 5000]
    assert [p.nodes[0].cpu for p in state.pools] == [5000, 5000]
    assert [p.nodes[0].cards for p in state.pools] == [((100, 81920), (100, 81920)), ((0, 0),)]
    assert {p.node_group for p in state.pools} == {"machine"}


def test_the_catalogue_shows_the_machine_once() -> None:
    row = reported()
    shown = _capacity(row, Inventory.model_validate(row.inventory), {"cpu": 1000}, PriceList("CNY", []), 0)
    assert (shown.total["cpu"], shown.total["memory"], shown.free["cpu"]) == (8000, 16_000, 7000)
    assert [(c.card_class, c.total_centi_cards) for c in shown.cards] == [(LARGE, 200), (SMALL, 100)]

"""What must hold for every cycle, whatever the snapshot."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hub.scheduling.worlds import CARD_MIB, NOON, SHAPES, cluster, node, pool, run, shape, snapshots

from tessera_hub.scheduling import Limits, NodeShape, QueueState, Reservation, Snapshot, schedule
from tessera_hub.scheduling.capacity import Nodes, demand_of

T = TypeVar("T")
LIMITS = st.builds(Limits, max_placements=st.sampled_from([0, 1, 3, 1000]))


def paths(snapshot: Snapshot) -> dict[str, list[str]]:
    parents = {queue.id: queue.parent for queue in snapshot.queues}
    found = {}
    for queue_id in parents:
        path, above = [queue_id], parents[queue_id]
        while above is not None:
            path.append(above)
            above = parents[above]
        found[queue_id] = path
    return found


@given(snapshots(), LIMITS)
def test_no_limit_of_a_queue_is_passed(snapshot: Snapshot, limits: Limits) -> None:
    path_of = paths(snapshot)
    used: Counter[tuple[str, str]] = Counter()
    for queue in snapshot.queues:
        used.update({(queue.id, dimension): amount for dimension, amount in queue.used.items()})
    touched = set()
    for decision in schedule(snapshot, NOON, limits):
        for queue_id in path_of[decision.queue_id] if decision.action == "place" else ():
            for dimension, amount in decision.charge.items():
                used[queue_id, dimension] += amount
                touched.add((queue_id, dimension))
    for queue in snapshot.queues:
        for dimension, limit in queue.limit.items():
            if (queue.id, dimension) in touched:
                assert used[queue.id, dimension] <= limit


@given(snapshots(), LIMITS)
def test_no_room_of_a_pool_is_passed_and_gangs_fit_on_nodes(snapshot: Snapshot, limits: Limits) -> None:
    pools = {(c.id, p.name): (c, p) for c in snapshot.clusters for p in c.pools}
    left = {place: dict(p.free) for place, (_c, p) in pools.items()}
    nodes = {place: Nodes(p.nodes) for place, (_c, p) in pools.items()}
    runs_at: Counter[str] = Counter()
    decisions = schedule(snapshot, NOON, limits)
    assert sum(d.action == "place" for d in decisions) <= limits.max_placements
    for decision in decisions:
        if decision.action != "place":
            continue
        assert decision.cluster_id is not None
        assert decision.pool is not None
        place = (decision.cluster_id, decision.pool)
        target, pool_state = pools[place]
        waiting = snapshot.pending.get(decision.run_id)
        assert waiting is not None
        assert target.state == "ok"
        demand = demand_of(waiting.shape, pool_state)
        assert decision.charge == demand.charge
        change = nodes[place].pack(demand.parts)
        assert change is not None  # every replica of every role has its node, or the run is not placed at all
        nodes[place].apply(change)
        for dimension, amount in decision.charge.items():
            left[place][dimension] -= amount
            assert left[place][dimension] >= 0
        runs_at[decision.cluster_id] += 1
    for target in snapshot.clusters:
        assert runs_at[target.id] <= target.accept_more


@given(snapshots(), LIMITS, st.randoms(use_true_random=False))
def test_the_order_of_the_input_means_nothing(snapshot: Snapshot, limits: Limits, shuffle: random.Random) -> None:
    def shuffled(parts: Iterable[T]) -> list[T]:
        items = list(parts)
        shuffle.shuffle(items)
        return items

    again = Snapshot.of(
        [replace(c, pools=tuple(shuffled(c.pools))) for c in shuffled(snapshot.clusters)],
        shuffled(snapshot.queues),
        shuffled(snapshot.pending),
    )
    assert schedule(again, NOON, limits) == schedule(snapshot, NOON, limits)


@given(snapshots(), LIMITS)
def test_a_cycle_changes_nothing_and_repeats_itself(snapshot: Snapshot, limits: Limits) -> None:
    before = sorted(waiting.run_id for waiting in snapshot.pending)
    first = schedule(snapshot, NOON, limits)
    assert schedule(snapshot, NOON, limits) == first
    assert sorted(waiting.run_id for waiting in snapshot.pending) == before


@given(snapshots(), LIMITS)
def test_each_run_has_at_most_one_verdict_and_each_wait_a_reason(snapshot: Snapshot, limits: Limits) -> None:
    decisions = schedule(snapshot, NOON, limits)
    names = [d.run_id for d in decisions]
    assert len(set(names)) == len(names)
    assert all(name in snapshot.pending for name in names)
    for decision in decisions:
        if decision.action == "wait":
            assert decision.reasons
            assert [r.tier for r in decision.reasons] == sorted(r.tier for r in decision.reasons)
    if limits.max_placements == 1000:
        covered = sum(d.covers for d in decisions)
        assert covered == len(snapshot.pending)


@given(snapshots(), LIMITS)
def test_of_one_shape_in_one_queue_the_more_urgent_goes_first(snapshot: Snapshot, limits: Limits) -> None:
    order = [d.run_id for d in schedule(snapshot, NOON, limits) if d.action == "place"]
    gone = set(order)
    lanes: dict[tuple[str, str], list] = {}  # type: ignore[type-arg]
    for waiting in snapshot.pending:
        lanes.setdefault((waiting.queue_id, waiting.shape.digest), []).append(waiting)
    for lane in lanes.values():
        lane.sort(key=lambda waiting: waiting.order)
        served = [waiting.run_id for waiting in lane if waiting.run_id in gone]
        assert served == [waiting.run_id for waiting in lane[: len(served)]]
        assert [name for name in order if name in set(served)] == served


@st.composite
def growing(draw: st.DrawFn) -> tuple[Snapshot, Snapshot]:
    """A snapshot with runs of one shape, and the same with one more node or with more room on one."""
    what = draw(SHAPES)
    cards = st.lists(st.sampled_from([25, 50, 75, 100]), max_size=4)
    drawn = draw(st.lists(st.tuples(st.integers(1, 16), cards), min_size=1, max_size=4))
    shapes = [NodeShape(cpu * 1000, 65_536, tuple((s, CARD_MIB) for s in free)) for cpu, free in drawn]
    empty = [NodeShape(64_000, 512_000, ((100, CARD_MIB),) * 8, 20)]
    more = list(shapes)
    at = draw(st.integers(0, len(shapes)))
    if at == len(shapes):
        more.append(node(draw(st.integers(0, 4)), cpu=4000))
    else:
        more[at] = replace(shapes[at], cpu=shapes[at].cpu + 1000, cards=(*shapes[at].cards, (100, CARD_MIB)))
    runs = [run(f"r{i}", what, age_s=i) for i in range(draw(st.integers(1, 20)))]
    policy = draw(st.sampled_from(["fifo", "most-idle", "lowest-price"]))
    queue = QueueState("q", policy=policy)
    other = cluster("b", pool([node(2, cpu=3000)], empty=empty))
    small, large = (Snapshot.of([cluster("a", pool(n, empty=empty)), other], [queue], runs) for n in (shapes, more))
    return small, large


@given(growing())
def test_more_room_never_places_fewer_of_one_shape(pair: tuple[Snapshot, Snapshot]) -> None:
    small, large = (sum(d.action == "place" for d in schedule(s, NOON)) for s in pair)
    assert large >= small


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.sampled_from([1, 2]))
def test_a_large_run_is_not_starved_by_a_stream_of_small_ones(seed: int, large_nodes: int) -> None:
    """Small runs of ten minutes arrive for ever; without the rule the eight cards are never free together."""
    dice = random.Random(seed)
    large = run("large", shape(8, replicas=large_nodes))
    waiting = [large]
    running: dict[str, tuple[int, int]] = {}
    reservations: tuple[Reservation, ...] = ()
    nodes_total = 2
    for minute in range(240):
        running = {name: (until, at) for name, (until, at) in running.items() if until > minute}
        waiting.extend(
            run(f"s{minute:03d}-{i}", shape(1, cpu=500), age_s=-60 * minute, queue=dice.choice(["p", "q"]))
            for i in range(dice.randint(3, 6))
        )
        taken = Counter(at for _until, at in running.values())
        nodes = [node(8, used_cards=min(taken[i], 8)) for i in range(nodes_total)]
        now = NOON + timedelta(minutes=minute)
        snapshot = Snapshot.of(
            [cluster("c", pool(nodes, empty=[node(8, count=nodes_total)]))],
            [QueueState("p"), QueueState("q")],
            waiting,
            reservations,
        )
        decisions = schedule(snapshot, now)
        reservations = tuple(d.reservation for d in decisions if d.reservation is not None)
        for decision in decisions:
            if decision.action != "place":
                continue
            if decision.run_id == "large":
                return
            free = [i for i in range(nodes_total) if taken[i] < 8]
            at = dice.choice(free)
            taken[at] += 1
            running[decision.run_id] = (minute + dice.randint(5, 15), at)
        gone = {d.run_id for d in decisions if d.action == "place"}
        waiting = [w for w in waiting if w.run_id not in gone]
    raise AssertionError("the large run waits after four hours")

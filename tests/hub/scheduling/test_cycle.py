"""The order of a cycle and the reasons it gives, by example."""

from __future__ import annotations

import json
from datetime import timedelta

from tests.hub.scheduling.worlds import CARD, CARD_MIB, NOON, cluster, codes, node, placed, pool, run, shape

from tessera_hub.scheduling import (
    Action,
    CardRequest,
    ClusterCondition,
    ClusterState,
    Dequeue,
    Limits,
    QueueCondition,
    QueueState,
    Reservation,
    RoleRequest,
    Shape,
    Snapshot,
    schedule,
    standing_of,
)


def test_priority_then_age_decide_within_a_queue() -> None:
    snapshot = Snapshot.of(
        [cluster("c", pool([node(2)]))],
        [QueueState("q")],
        [run("young", shape(1), age_s=1), run("old", shape(1), age_s=9), run("urgent", shape(1), priority=90)],
    )
    decisions = schedule(snapshot, NOON)
    assert list(placed(decisions)) == ["urgent", "old"]
    assert codes(decisions, "young") == ["capacity.no_free_cards"]


def test_a_placement_is_charged_by_the_class_it_settled_on() -> None:
    snapshot = Snapshot.of([cluster("c", pool([node(2)]))], [QueueState("q")], [run("r", shape(1, share=50, cpu=1500))])
    (decision,) = schedule(snapshot, NOON)
    assert decision.card_class == CARD
    assert decision.charge == {"cpu": 1500, "memory": 1024, f"cards/{CARD}": 50, f"card_memory/{CARD}": CARD_MIB // 2}


def test_queues_share_by_what_they_deserve() -> None:
    queues = [QueueState("big", deserved={"cpu": 3000}), QueueState("small", deserved={"cpu": 1000})]
    runs = [run(f"{q}{i}", shape(cpu=1000), queue=q, age_s=i) for q in ("big", "small") for i in range(8)]
    snapshot = Snapshot.of([cluster("c", pool([node(cpu=8000)], card_class=None))], queues, runs)
    won = [name.rstrip("0123456789") for name in placed(schedule(snapshot, NOON))]
    assert won.count("big") == 6
    assert won.count("small") == 2


def test_fairness_holds_between_tenants_before_it_holds_between_their_queues() -> None:
    queues = [QueueState("t"), QueueState("u"), *(QueueState(f"u/{i}", "u") for i in range(3))]
    runs = [run(f"t{i}", shape(cpu=1000), queue="t") for i in range(9)]
    runs += [run(f"u{i}{k}", shape(cpu=1000), queue=f"u/{i}") for i in range(3) for k in range(9)]
    snapshot = Snapshot.of([cluster("c", pool([node(cpu=12_000)], card_class=None))], queues, runs)
    won = [name[0] for name in placed(schedule(snapshot, NOON))]
    assert (won.count("t"), won.count("u")) == (6, 6)


def test_a_limit_of_an_ancestor_binds_and_is_named() -> None:
    queues = [QueueState("t", limit={"cpu": 2000}), QueueState("t/a", "t"), QueueState("t/b", "t")]
    runs = [run("a", shape(cpu=1500), queue="t/a", age_s=5), run("b", shape(cpu=1000), queue="t/b")]
    decisions = schedule(Snapshot.of([cluster("c", pool([node(1)]))], queues, runs), NOON)
    assert len(placed(decisions)) == 1
    (waiting,) = [d for d in decisions if d.action is Action.WAIT]
    assert waiting.reasons[0].code.token == "quota.waiting"
    assert waiting.reasons[0].detail["queue"] == "t"
    assert waiting.reasons[0].detail["limit"] == 2000


def test_a_full_queue_and_a_full_cluster_are_both_told() -> None:
    queues = [QueueState("q", limit={f"cards/{CARD}": 100}, used={f"cards/{CARD}": 100})]
    decisions = schedule(
        Snapshot.of([cluster("c", pool([node(2, used_cards=2)], empty=[node(2)]))], queues, [run("r", shape(1))]), NOON
    )
    assert codes(decisions, "r") == ["quota.waiting", "capacity.no_free_cards"]


def test_sums_do_not_make_a_node() -> None:
    snapshot = Snapshot.of(
        [cluster("c", pool([node(4, used_cards=2, count=2)], empty=[node(4, count=2)]))],
        [QueueState("q")],
        [run("r", shape(4)), run("gang", shape(3, replicas=2))],
    )
    decisions = schedule(snapshot, NOON)
    assert placed(decisions) == {}
    assert "capacity.fragmented" in codes(decisions, "r")
    assert "capacity.no_free_cards" in codes(decisions, "gang")


def test_a_gang_starts_whole_or_not_at_all() -> None:
    what = Shape((RoleRequest("master", 1, 1000, 1024), RoleRequest("worker", 3, 1000, 1024, CardRequest(2))))
    runs = [run("r", what)]
    tight = Snapshot.of([cluster("c", pool([node(3, count=2)], empty=[node(4, count=2)]))], [QueueState("q")], runs)
    assert codes(schedule(tight, NOON), "r") == ["capacity.gang"]
    wide = Snapshot.of([cluster("c", pool([node(4, count=2)]))], [QueueState("q")], runs)
    assert placed(schedule(wide, NOON)) == {"r": "c"}


def test_a_share_goes_to_the_fullest_card_so_that_a_whole_one_stays() -> None:
    snapshot = Snapshot.of(
        [cluster("c", pool([node(2)]))],
        [QueueState("q")],
        [run("s1", shape(1, share=50), age_s=9), run("s2", shape(1, share=50), age_s=8), run("whole", shape(1))],
    )
    assert set(placed(schedule(snapshot, NOON))) == {"s1", "s2", "whole"}


def test_workspaces_go_only_where_they_may() -> None:
    here, there = (
        cluster("hub", pool([node()], card_class=None)),
        cluster("far", pool([node()], card_class=None), workspaces=False),
    )
    runs = [run("w", shape(workspace=True))]
    assert placed(schedule(Snapshot.of([there, here], [QueueState("q")], runs), NOON)) == {"w": "hub"}
    decisions = schedule(Snapshot.of([there], [QueueState("q")], runs), NOON)
    assert "cluster.no_workspaces" in codes(decisions, "w")


def test_a_run_goes_where_all_its_data_sets_are_open_to_its_tenant() -> None:
    def at(name: str, **datasets: frozenset[str] | None) -> ClusterState:
        return cluster(name, pool([node(2)]), datasets=datasets)

    clusters = [at("a"), at("b", digits=None), at("c", digits=None, faces=frozenset({"red"}))]
    runs = [
        run("one", shape(1, datasets=frozenset({"digits"})), tenant="blue", age_s=3),
        run("both", shape(1, datasets=frozenset({"digits", "faces"})), tenant="red", age_s=2),
        run("closed", shape(1, datasets=frozenset({"digits", "faces"})), tenant="blue", age_s=1),
        run("none", shape(1, datasets=frozenset({"words"})), tenant="red"),
    ]
    decisions = schedule(Snapshot.of(clusters, [QueueState("q")], runs), NOON)
    where = placed(decisions)
    assert where.keys() == {"one", "both"}
    assert (where["one"] in ("b", "c"), where["both"]) == (True, "c")
    for name in ("closed", "none"):
        assert {"never.no_cluster", "cluster.no_dataset"} <= set(codes(decisions, name))


def test_a_workspace_goes_where_workspaces_have_its_data_sets_too() -> None:
    has = {"digits": None}
    here = cluster("here", pool([node(2)]), datasets=has)
    there = cluster("there", pool([node(2)]), datasets=has, workspace_datasets=frozenset({"digits"}))
    runs = [run("w", shape(workspace=True, datasets=frozenset({"digits"})))]
    assert placed(schedule(Snapshot.of([here, there], [QueueState("q")], runs), NOON)) == {"w": "there"}
    assert "cluster.no_dataset" in codes(schedule(Snapshot.of([here], [QueueState("q")], runs), NOON), "w")


def test_cluster_conditions_back_pressure_and_permissions_are_told_apart() -> None:
    def why(target: ClusterState, what: Shape | None = None) -> list[str]:
        return codes(schedule(Snapshot.of([target], [QueueState("q")], [run("r", what or shape(1))]), NOON), "r")

    gpu = pool([node(2)])
    assert why(cluster("c", gpu, state=ClusterCondition.UNREACHABLE)) == ["cluster.unreachable"]
    assert why(cluster("c", gpu, state=ClusterCondition.SUSPECT)) == ["cluster.suspect"]
    assert why(cluster("c", gpu, accept_more=0)) == ["cluster.back_pressure"]
    assert "cluster.not_allowed" in why(cluster("c", gpu, tenants=frozenset({"other"})))
    assert "cluster.not_allowed" in why(cluster("c", pool([node(2)], tenants=frozenset({"other"}))))
    assert why(cluster("c", gpu), shape(1, environment="torch"))[0] == "environment.unknown"
    assert "cluster.gave_back" in why(cluster("c", gpu), shape(1, excluded_clusters=frozenset({"c"})))
    assert "never.no_services" in why(cluster("c", gpu, capabilities=frozenset({"gang"})), shape(1, service=True))
    assert why(cluster("c", gpu, capabilities=frozenset({"services"})), shape(1, service=True)) == []
    assert "never.no_gang" in why(cluster("c", gpu, capabilities=frozenset()), shape(1, replicas=2))


def test_closed_queues_wait_and_unknown_ones_are_refused() -> None:
    queues = [
        QueueState("t", state=QueueCondition.CLOSED),
        QueueState("t/q", "t"),
        QueueState("d", state=QueueCondition.DRAINING),
    ]
    runs = [run("a", shape(), queue="t/q"), run("b", shape(), queue="nowhere"), run("c", shape(), queue="d")]
    decisions = schedule(Snapshot.of([cluster("c", pool([node()], card_class=None))], queues, runs), NOON)
    assert {d.run_id: d.action for d in decisions} == {"a": "wait", "b": "reject", "c": "place"}
    assert codes(decisions, "a") == ["policy.queue_closed"]
    assert codes(decisions, "b") == ["queue.unknown"]


def test_small_runs_pass_a_blocked_one_unless_the_queue_is_strict() -> None:
    def order(dequeue: Dequeue) -> list[str]:
        runs = [run("large", shape(4), age_s=60), run("small", shape(1))]
        snapshot = Snapshot.of([cluster("c", pool([node(2)], empty=[node(4)]))], [QueueState("q", dequeue=dequeue)], runs)
        decisions = schedule(snapshot, NOON)
        if dequeue is Dequeue.STRICT:
            assert "quota.behind" in codes(decisions, "small")
        return list(placed(decisions))

    assert order(Dequeue.BACKFILL) == ["small"]
    assert order(Dequeue.STRICT) == []


def test_an_overtaken_run_earns_a_reservation_and_is_served_from_it() -> None:
    now_nodes, empty = [node(4, used_cards=2)], [node(4)]
    runs = [run("large", shape(4), age_s=900), run("small", shape(1))]
    first = schedule(Snapshot.of([cluster("c", pool(now_nodes, empty=empty))], [QueueState("q")], runs), NOON)
    assert list(placed(first)) == ["small"]
    kept = [d.reservation for d in first if d.reservation]
    assert kept == [Reservation("large", NOON, "c", "gpu")]

    more = [runs[0], run("later", shape(1))]
    still = [node(4, used_cards=3)]
    second = schedule(Snapshot.of([cluster("c", pool(still, empty=empty))], [QueueState("q")], more, kept), NOON)
    assert placed(second) == {}
    assert "capacity.holds_reservation" in codes(second, "large")
    assert "capacity.reserved" in codes(second, "later")
    assert [d.reservation for d in second if d.reservation] == kept

    third = schedule(Snapshot.of([cluster("c", pool(empty))], [QueueState("q")], more, kept), NOON)
    assert list(placed(third)) == ["large"]


def test_nobody_earns_a_reservation_before_its_time_or_from_equals() -> None:
    def kept(large_age_s: int, other_cards: int) -> list[Reservation]:
        runs = [run("old", shape(2), age_s=large_age_s), run("new", shape(other_cards), queue="p")]
        queues = [QueueState("q", used={"cpu": 9000}), QueueState("p")]
        snapshot = Snapshot.of([cluster("c", pool([node(4, used_cards=2)], empty=[node(4)]))], queues, runs)
        two = schedule(snapshot, NOON)
        assert "new" in placed(two)
        return [d.reservation for d in two if d.reservation]

    assert kept(900, 1)
    assert not kept(30, 1)
    assert not kept(900, 2)


def test_a_reservation_lapses() -> None:
    runs = [run("large", shape(4), age_s=9000), run("small", shape(1))]
    old = [Reservation("large", NOON - timedelta(hours=3), "c", "gpu")]
    decisions = schedule(
        Snapshot.of([cluster("c", pool([node(4, used_cards=3)], empty=[node(4)]))], [QueueState("q")], runs, old), NOON
    )
    assert list(placed(decisions)) == ["small"]


def test_quota_is_kept_for_an_overtaken_run_too() -> None:
    queues = [QueueState("q", limit={"cpu": 4000}, used={"cpu": 1000})]
    world = [cluster("c", pool([node()], card_class=None))]
    runs = [run("large", shape(cpu=4000), age_s=900), run("small", shape(cpu=500))]
    first = schedule(Snapshot.of(world, queues, runs), NOON)
    kept = [d.reservation for d in first if d.reservation]
    assert kept == [Reservation("large", NOON, queue_node="q")]
    second = schedule(Snapshot.of(world, queues, [runs[0], run("later", shape(cpu=500))], kept), NOON)
    assert placed(second) == {}
    assert "quota.reserved" in codes(second, "later")


def test_a_cycle_stops_at_its_bound_and_says_nothing_of_the_rest() -> None:
    runs = [run(f"r{i}", shape(), age_s=9 - i) for i in range(5)]
    snapshot = Snapshot.of([cluster("c", pool([node()], card_class=None))], [QueueState("q")], runs)
    decisions = schedule(snapshot, NOON, Limits(max_placements=2))
    assert [(d.run_id, d.action) for d in decisions] == [("r0", "place"), ("r1", "place")]


def test_runs_of_a_shape_share_one_verdict_with_position_and_estimate() -> None:
    runs = [run(f"r{i}", shape(1), age_s=100 - i) for i in range(10)]
    runs += [run(f"x{i}", shape(2), age_s=50) for i in range(3)]
    parts = Snapshot.of([cluster("c", pool([node(2, used_cards=2)], empty=[node(2)]))], [QueueState("q")], runs)
    snapshot = Snapshot(parts.clusters, parts.queues, parts.pending, drain_per_hour={("q", "cards"): 1000})
    first, second = schedule(snapshot, NOON)
    assert (first.run_id, first.covers, first.position, first.eta_seconds) == ("r0", 10, 1, 360)
    assert (second.run_id, second.covers, second.position, second.eta_seconds) == ("x0", 3, 11, (1000 + 200) * 3600 // 1000)
    assert "quota.behind" in codes([second], "x0")
    ahead = standing_of(snapshot, "x2")
    assert ahead is not None
    assert (ahead.runs, ahead.centi_cards) == (12, 1400)


def test_without_a_rate_there_is_no_estimate() -> None:
    snapshot = Snapshot.of(
        [cluster("c", pool([node(1, used_cards=1)], empty=[node(1)]))], [QueueState("q")], [run("r", shape(1))]
    )
    (decision,) = schedule(snapshot, NOON)
    assert decision.eta_seconds is None


def test_an_explanation_says_why_here_and_why_not_elsewhere() -> None:
    world = [
        cluster("a", pool([node(4, used_cards=3)], empty=[node(4)])),
        cluster("b", pool([node(4, used_cards=1)], empty=[node(4)])),
        cluster("full", pool([node(4, used_cards=4)], empty=[node(4)])),
        cluster("cpu", pool([node()], card_class=None)),
    ]
    (decision,) = schedule(Snapshot.of(world, [QueueState("q", policy="most-idle")], [run("r", shape(1))]), NOON)
    explanation = json.loads(json.dumps(decision.explanation))
    assert [s["cluster"] for s in explanation["scores"]] == ["b", "a"]
    assert explanation["scores"][0]["parts"] == {"idle": 500_000}
    assert explanation["rejected"] == [
        {"tier": 1, "code": "never.no_card_class", "places": ["cpu/gpu"]},
        {"tier": 4, "code": "capacity.no_free_cards", "places": ["full/gpu"]},
    ]

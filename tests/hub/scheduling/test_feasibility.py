"""What can never fit is said at submit time."""

from __future__ import annotations

import pytest
from hypothesis import given
from tests.hub.scheduling.worlds import CARD, NOON, cluster, node, placed, pool, run, shape, snapshots

from tessera_hub.scheduling import (
    CardRequest,
    ClusterCondition,
    ClusterState,
    NodeShape,
    PendingRun,
    QueueState,
    RoleRequest,
    Shape,
    Snapshot,
    never_fits,
    schedule,
)

WORLD = [cluster("c", pool([node(4, used_cards=4, count=2)], empty=[node(4, count=2)]))]


def why(waiting: PendingRun, world: list[ClusterState] | None = None, queue: QueueState | None = None) -> list[str]:
    snapshot = Snapshot.of(WORLD if world is None else world, [queue or QueueState("q")], [])
    return [reason.code.token for reason in never_fits(waiting, snapshot)]


def test_what_only_has_to_wait_is_no_never() -> None:
    assert why(run("r", shape(4, replicas=2))) == []


@pytest.mark.parametrize(
    ("what", "code"),
    [
        (shape(5), "never.too_large"),
        (shape(9), "never.too_large"),
        (shape(3, replicas=3), "never.gang_too_large"),
        (shape(1, replicas=5, cpu=25_000), "never.gang_too_large"),
        (shape(cpu=65_000), "never.too_large"),
        (Shape((RoleRequest("main", 1, 1000, 1024, CardRequest(classes=frozenset({"H100-80G"}))),)), "never.no_card_class"),
        (shape(1, environment="torch"), "environment.unknown"),
        (shape(cpu=-1), "request.empty"),
        (Shape(()), "request.empty"),
    ],
)
def test_each_way_of_never_fitting_has_its_code(what: Shape, code: str) -> None:
    assert why(run("r", what))[0] == code


def test_a_limit_that_no_class_could_keep_is_a_never() -> None:
    queue = QueueState("q", limit={f"cards/{CARD}": 100}, used={f"cards/{CARD}": 100})
    assert why(run("r", shape(2)), queue=queue) == ["never.exceeds_limit"]
    assert why(run("r", shape(1)), queue=queue) == []


def test_another_class_within_its_limit_saves_a_request_for_any_card() -> None:
    h100 = pool([NodeShape(64_000, 512_000, ((100, 81920),) * 4)], name="h", card_class="H100-80G")
    queue = QueueState("q", limit={f"cards/{CARD}": 100})
    assert why(run("r", shape(2)), [*WORLD, cluster("d", h100)], queue) == []


def test_a_cluster_that_cannot_be_reached_may_come_back() -> None:
    gone = [cluster("c", pool([node(8)]), state=ClusterCondition.UNREACHABLE), cluster("new")]
    assert why(run("r", shape(8)), gone) == []
    assert why(run("r", shape(9)), [cluster("new", state=ClusterCondition.UNREACHABLE)]) == []


@given(snapshots())
def test_what_never_fits_is_never_placed(snapshot: Snapshot) -> None:
    for run_id in placed(schedule(snapshot, NOON)):
        waiting = snapshot.pending.get(run_id)
        assert waiting is not None
        assert never_fits(waiting, snapshot) == ()

"""Placement policies: what each prefers, and how one is added."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.hub.scheduling.worlds import CARD, NOON, cluster, codes, node, placed, pool, run, shape

from tessera_hub.scheduling import BUILTIN, Limits, Policy, PolicyError, QueueState, Snapshot, schedule
from tessera_hub.scheduling.policies import cheapness, installed

WORLD = [
    cluster("cheap-busy", pool([node(8, used_cards=6)], empty=[node(8)], prices={f"cards/{CARD}": 3})),
    cluster("dear-idle", pool([node(8)], prices={f"cards/{CARD}": 9})),
]


def where(policy: str, override: str | None = None, limits: Limits | None = None) -> str | None:
    snapshot = Snapshot.of(WORLD, [QueueState("q", policy=policy)], [run("r", shape(1), policy=override)])
    return placed(schedule(snapshot, NOON, limits or Limits()))["r"]


def test_the_cheapest_place_wins_under_lowest_price() -> None:
    assert where("lowest-price") == "cheap-busy"


def test_the_idlest_place_wins_under_most_idle() -> None:
    assert where("most-idle") == "dear-idle"


def test_fifo_fills_what_is_in_use_already() -> None:
    assert where("fifo") == "cheap-busy"


def test_a_run_may_name_its_own_policy() -> None:
    assert where("lowest-price", override="most-idle") == "dear-idle"


def test_equal_prices_are_decided_by_idleness() -> None:
    world = [cluster(name, pool([node(8, used_cards=used)], empty=[node(8)])) for name, used in (("a", 5), ("b", 1), ("c", 3))]
    snapshot = Snapshot.of(world, [QueueState("q", policy="lowest-price")], [run("r", shape(1))])
    assert placed(schedule(snapshot, NOON)) == {"r": "b"}


def test_work_without_cards_leaves_the_card_nodes_free() -> None:
    world = [cluster("c", pool([node(8)]), pool([node(cpu=64_000)], name="cpu", card_class=None))]
    for policy in ("fifo", "most-idle"):
        (decision,) = schedule(Snapshot.of(world, [QueueState("q", policy=policy)], [run("r", shape())]), NOON)
        assert decision.pool == "cpu"


def test_a_policy_with_a_filter_rejects_by_name() -> None:
    near = Policy("near", (("price", 1, cheapness),), filters=(("near-only", lambda place: place.cluster.id == "dear-idle"),))
    limits = Limits(policies={**BUILTIN, "near": near})
    assert where("near", limits=limits) == "dear-idle"
    nowhere = Policy("nowhere", (("price", 1, cheapness),), filters=(("none", lambda place: False),))
    snapshot = Snapshot.of(WORLD, [QueueState("q", policy="nowhere")], [run("r", shape(1))])
    assert codes(schedule(snapshot, NOON, Limits(policies={"nowhere": nowhere})), "r") == ["policy.filtered"]


def test_an_unknown_policy_is_a_misconfiguration() -> None:
    snapshot = Snapshot.of(WORLD, [QueueState("q", policy="lucky")], [run("r", shape(1))])
    assert codes(schedule(snapshot, NOON), "r") == ["policy.unknown"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory on the path where a distribution with entry points can be put."""
    monkeypatch.syspath_prepend(tmp_path)
    installed.cache_clear()
    yield tmp_path
    installed.cache_clear()


def install(directory: Path, target: str) -> None:
    information = directory / "green_policies-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: green-policies\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[tessera.scheduling.policies]\ngreen = {target}\n")
    (directory / "green_policies.py").write_text(
        "from tessera_hub.scheduling.policies import FIFO, Policy, preference\n"
        "GREEN = Policy('green', (('preference', 1, preference),))\nNUMBER = 7\nTAKEN = FIFO\n"
    )


def test_a_package_adds_a_policy(package: Path) -> None:
    install(package, "green_policies:GREEN")
    assert set(installed()) == {"fifo", "most-idle", "lowest-price", "green"}


@pytest.mark.parametrize(("target", "says"), [("NUMBER", "not a Policy"), ("TAKEN", "is used"), ("ABSENT", "does not load")])
def test_a_broken_policy_is_named(package: Path, target: str, says: str) -> None:
    install(package, f"green_policies:{target}")
    with pytest.raises(PolicyError, match=says):
        installed()

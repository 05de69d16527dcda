"""The device plugin on a real kubelet and containerd: real pods, whose cards are harmless devices."""

from __future__ import annotations

import base64
import os
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tessera_vgpu.pages import Limits, read_limits, read_usage
from tests.vgpu.conftest import Kubernetes

pytestmark = pytest.mark.root
PAIRS = int(os.environ.get("TESSERA_TEST_PAIRS", "50"))
"""A soak sets more."""


def limits_of(seen: dict[str, Any], folder: Path) -> Limits:
    path = folder / "seen"
    path.write_bytes(base64.b64decode(seen["limits"]))
    return read_limits(path)[1]


def test_a_container_sees_its_card_and_its_limits_and_nothing_else(kubernetes: Kubernetes, tmp_path: Path) -> None:
    kubernetes.create("slice", 30, 8192, limit="60", priority="5")
    seen = kubernetes.seen("slice")
    assert (seen["cards"], seen["writable"], seen["visible"]) == (["GPU-a"], False, "void")
    limits = limits_of(seen, tmp_path)
    assert (limits.pod_uid, limits.container) == (kubernetes.pod("slice")["metadata"]["uid"], "main")
    assert limits.priority_class == 5
    (card,) = limits.cards
    assert (card.memory_limit_bytes, card.compute_request_centi, card.compute_limit_centi) == (8192 << 20, 30, 60)
    (slot,) = kubernetes.store.slots()
    # What the container, which is not root, wrote into its page is seen by the agent.
    assert read_usage(kubernetes.store.folder(slot.nonce) / "usage", 1).limits_generation == 7
    kubernetes.delete("slice")
    assert kubernetes.plugin.reconcile() == 1
    assert kubernetes.store.slots() == ()


def test_a_container_on_two_cards(kubernetes: Kubernetes, tmp_path: Path) -> None:
    kubernetes.create("left", 60, 1000)
    kubernetes.create("right", 60, 1000)
    kubernetes.seen("left")
    kubernetes.seen("right")
    kubernetes.create("wide", 60, 20_001, max_cards="2")
    seen = kubernetes.seen("wide")
    assert seen["cards"] == ["GPU-a", "GPU-b"]
    assert [(c.uuid, c.compute_request_centi) for c in limits_of(seen, tmp_path).cards] == [("GPU-a", 30), ("GPU-b", 30)]
    for name in ("left", "right", "wide"):
        kubernetes.delete(name)
    assert kubernetes.plugin.reconcile() == 3


def test_what_cannot_be_given_stays_pending_says_why_and_starts_when_it_can(kubernetes: Kubernetes) -> None:
    # 170 are free on the node, but no card has 90.
    kubernetes.create("half", 20, 1000)
    kubernetes.create("other", 95, 1000)
    kubernetes.seen("half")
    kubernetes.seen("other")
    kubernetes.create("large", 85, 1000)
    kubernetes.wait(
        lambda: "This node has not enough left for 85 hundredths of a card" in kubernetes.events("large"), 30, "the reason"
    )
    assert kubernetes.pod("large")["status"]["phase"] == "Pending"
    kubernetes.delete("half")
    kubernetes.plugin.reconcile()
    assert kubernetes.seen("large")["cards"] in (["GPU-a"], ["GPU-b"])
    for name in ("other", "large"):
        kubernetes.delete(name)
    kubernetes.plugin.reconcile()


def test_a_container_that_restarts_keeps_its_card(kubernetes: Kubernetes) -> None:
    kubernetes.create("again", 20, 1000, then="import time; time.sleep(1); raise SystemExit(1)")
    first = kubernetes.seen("again")

    def restarted() -> bool:
        status = kubernetes.pod("again")["status"]["containerStatuses"][0]
        return status["restartCount"] >= 1 and "running" in status["state"]

    kubernetes.wait(restarted, 60, "the restart")
    assert kubernetes.seen("again") == first
    kubernetes.delete("again")
    kubernetes.plugin.reconcile()


def test_an_init_container_and_the_next_share_a_card(kubernetes: Kubernetes, tmp_path: Path) -> None:
    kubernetes.create("steps", 20, 1000, init=30)
    main, init = kubernetes.seen("steps"), kubernetes.seen("steps", "init")
    assert main["cards"] == init["cards"]
    assert limits_of(main, tmp_path).cards[0].compute_request_centi == 20
    assert limits_of(init, tmp_path).cards[0].compute_request_centi == 30
    assert sorted(c.free_centi_cards for c in kubernetes.store.free(kubernetes.cards)) == [70, 100]
    kubernetes.delete("steps")
    kubernetes.plugin.reconcile()


def test_an_agent_that_restarts_or_a_state_that_is_emptied_loses_no_slice(kubernetes: Kubernetes) -> None:
    kubernetes.create("kept", 40, 1000, then="import time; time.sleep(20); raise SystemExit(1)")
    first = kubernetes.seen("kept")
    kubernetes.stop()
    (kubernetes.folder / "state").rename(kubernetes.folder / "emptied")
    kubernetes.start()
    assert kubernetes.store.slots() == ()

    def restarted() -> bool:
        status = kubernetes.pod("kept")["status"]["containerStatuses"][0]
        return status["restartCount"] >= 1 and "running" in status["state"]

    kubernetes.wait(restarted, 60, "the restart")
    assert kubernetes.seen("kept") == first
    assert sorted(c.free_centi_cards for c in kubernetes.store.free(kubernetes.cards)) == [60, 100]
    kubernetes.delete("kept")
    kubernetes.plugin.reconcile()


def test_a_kubelet_that_restarts_is_registered_with_again(kubernetes: Kubernetes) -> None:
    kubernetes.create("before", 40, 1000)
    kubernetes.seen("before")
    uid = kubernetes.pod("before")["metadata"]["uid"]
    kubernetes.machine.stop_part("kubelet")
    kubernetes.machine.start_kubelet()
    time.sleep(1)
    kubernetes.wait_for_slots()
    kubernetes.create("after", 40, 1000)
    kubernetes.seen("after")
    before = kubernetes.pod("before")
    assert (before["metadata"]["uid"], before["status"]["phase"]) == (uid, "Running")
    assert before["status"]["containerStatuses"][0]["restartCount"] == 0
    for name in ("before", "after"):
        kubernetes.delete(name)
    kubernetes.plugin.reconcile()


def quantiles(seconds: list[float]) -> str:
    """Return a line that says how long things took."""
    ordered = sorted(seconds)
    named = {"median": 0.5, "p99": 0.99, "most": 1.0}
    found = {name: ordered[min(int(part * len(ordered)), len(ordered) - 1)] for name, part in named.items()}
    return f"{len(ordered)} containers: " + ", ".join(f"{name} {value:.2f} s" for name, value in found.items())


def test_pods_that_start_in_the_same_second_are_never_swapped(kubernetes: Kubernetes, tmp_path: Path) -> None:
    """Pair after pair; the one before goes meanwhile."""
    took: list[float] = []
    ending: list[Future[None]] = []
    returned = 0
    with ThreadPoolExecutor(4) as pool:
        for pair in range(PAIRS):
            asked = {f"p{pair}-a": (1, 100 + pair), f"p{pair}-b": (2, 2000 + pair)}
            list(pool.map(lambda one: kubernetes.create(one[0], one[1][0], one[1][1], then=""), asked.items()))
            for name, (centi, memory) in asked.items():
                limits = limits_of(kubernetes.seen(name), tmp_path)
                assert limits.pod_uid == kubernetes.pod(name)["metadata"]["uid"]
                assert (limits.cards[0].compute_request_centi, limits.cards[0].memory_limit_bytes) == (centi, memory << 20)
                (slot,) = (s for s in kubernetes.store.slots() if s.binding is not None and s.binding.owner.pod == name)
                took.append(kubernetes.began[name] - kubernetes.store.asked[slot.nonce])
            for end in ending:
                end.result()
            returned += kubernetes.plugin.reconcile()
            ending = [pool.submit(kubernetes.delete, name) for name in asked]
    assert returned + kubernetes.plugin.reconcile() == 2 * PAIRS
    sys.stdout.write(f"from Allocate to the program's first line: {quantiles(took)}\n")

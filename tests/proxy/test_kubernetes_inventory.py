"""Nodes and pods as pools, cards by resource and label: pure, on objects as the API server gives them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.proxy.drivers.kubernetes.cards import annotations_of, class_of, devices_of, node_selection, resources_of
from tessera_hub.proxy.drivers.kubernetes.inventory import devices_of_node, pools_of, requests_of, use_of
from tessera_hub.proxy.drivers.kubernetes.options import RUN
from tessera_hub.proxy.drivers.kubernetes.quantities import mebibytes, millicores, quantity
from tessera_hub.schemas.resources import CardMode, CardRequest, Partition

A100 = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB", "nvidia.com/gpu.memory": "81920"}


def node(name: str, labels: dict[str, str] | None = None, *, ready: str = "True", **more: Any) -> dict[str, Any]:
    allocatable = {"cpu": "8", "memory": "16Gi", "pods": "110", **more.pop("resources", {})}
    status = {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": ready}]}
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": more, "status": status}


def pod(where: str | None, *requests: dict[str, str], ours: bool = False, phase: str = "Running", **spec: Any) -> dict[str, Any]:
    labels = {RUN: "1"} if ours else {}
    containers = [{"resources": {"requests": wanted}} for wanted in requests]
    return {
        "metadata": {"name": "p", "namespace": "n", "labels": labels},
        "spec": {"nodeName": where, "containers": containers, **spec},
        "status": {"phase": phase},
    }


def pools(nodes: list[dict[str, Any]], *pods: dict[str, Any]) -> dict[str, Any]:
    return {pool.name: pool for pool in pools_of(nodes, [use for use in map(use_of, pods) if use is not None])}


@pytest.mark.parametrize(
    ("text", "millis", "mib"),
    [
        ("1", 1000, 0),
        ("1500m", 1500, 0),
        ("24684084Ki", 24684084000 * 1024, 24105),
        ("2Gi", (2 << 30) * 1000, 2048),
        ("1k", 10**6, 0),
    ],
)
def test_quantities_are_read_as_the_api_server_writes_them(text: str, millis: int, mib: int) -> None:
    assert millicores(text) == millis
    assert mebibytes(text) == mib


@given(st.integers(0, 10**12))
def test_a_plain_number_is_itself(number: int) -> None:
    assert quantity(number) == quantity(str(number)) == quantity(f"{number}000m") == number
    assert quantity(f"{number}Mi") == number << 20


def test_foreign_work_is_told_apart_and_what_is_over_holds_nothing() -> None:
    found = pools(
        [node("a"), node("b")],
        pod("a", {"cpu": "2", "memory": "1Gi"}),
        pod("a", {"cpu": "1500m", "memory": "2Gi"}, ours=True),
        pod("b", {"cpu": "8"}, phase="Succeeded"),
        pod(None, {"cpu": "8"}),
    )["nodes"]
    assert found.total == {"cpu": 16000, "memory": 32768}
    assert found.free == {"cpu": 12500, "memory": 29696}
    assert found.foreign == {"cpu": 2000, "memory": 1024}
    assert {(shape.free_cpu, shape.free_memory, shape.count) for shape in found.shapes} == {(4500, 13312, 1), (8000, 16384, 1)}


def test_equal_nodes_are_one_shape_and_nodes_that_take_nothing_are_left_out() -> None:
    nodes = [node(f"n{i}") for i in range(5)]
    nodes += [node("cordoned", unschedulable=True), node("dead", ready="Unknown")]
    nodes += [node("taint", taints=[{"key": "team", "effect": "NoSchedule"}])]
    [shape] = pools(nodes)["nodes"].shapes
    assert (shape.count, shape.free_cpu) == (5, 8000)


def test_a_pod_holds_its_containers_or_its_largest_beginning() -> None:
    first = {"initContainers": [{"resources": {"requests": {"cpu": "3"}}}]}
    assert requests_of(pod("a", {"cpu": "1"}, {"cpu": "1"}, **first))["cpu"] == 3000
    sidecar = {"initContainers": [{"restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}}]}
    assert requests_of(pod("a", {"cpu": "1"}, **sidecar))["cpu"] == 1500


def test_whole_cards_are_counted_by_model() -> None:
    cards = node("gpu", A100, resources={"nvidia.com/gpu": "4"}, taints=[{"key": "nvidia.com/gpu", "effect": "NoSchedule"}])
    found = pools([cards, node("plain")], pod("gpu", {"cpu": "1", "nvidia.com/gpu": "1"}))
    pool = found["A100-80G-whole"]
    assert (pool.card_class, pool.vendor, pool.card_modes) == ("A100-80G", "nvidia", ["whole"])
    assert (pool.total["cards/A100-80G"], pool.free["cards/A100-80G"], pool.foreign["cards/A100-80G"]) == (400, 300, 100)
    assert pool.shapes[0].cards.count((100, 81920)) == 3
    assert "nodes" in found


@pytest.mark.parametrize(
    ("labels", "resource", "name"),
    [
        (A100, "nvidia.com/gpu", "A100-80G"),
        ({"nvidia.com/gpu.product": "Tesla-T4-SHARED"}, "nvidia.com/gpu", "T4-16G"),
        ({"nvidia.com/gpu.product": "NVIDIA-GeForce-RTX-4090"}, "nvidia.com/gpu", "RTX4090-24G"),
        ({}, "huawei.com/Ascend310P", "Ascend310P-24G"),
        ({"tessera.io/card-class": "MLU590-80G"}, "cambricon.com/mlu", "MLU590-80G"),
        ({"nvidia.com/gpu.product": "NVIDIA-X1", "nvidia.com/gpu.memory": "20480"}, "nvidia.com/gpu", "NVIDIA-X1-20G"),
    ],
)
def test_a_card_has_the_class_of_its_label(labels: dict[str, str], resource: str, name: str) -> None:
    assert class_of(labels, resource).name == name


def test_mig_partitions_and_shares_are_cards_of_their_own_size() -> None:
    mig = node("mig", A100, resources={"nvidia.com/mig-1g.10gb": "7"})
    shares = node("shares", A100, resources={"tessera.io/vgpu": "200", "tessera.io/vgpu-memory": "163840"})
    found = pools([mig, shares], pod("shares", {"tessera.io/vgpu": "30", "tessera.io/vgpu-memory": "8192"}, ours=True))
    assert found["A100-80G-mig-1g.10gb"].shapes[0].cards == [(14, 10240)] * 7
    assert found["A100-80G-mig-1g.10gb"].partition == Partition(name="1g.10gb", centi_cards=14, memory_mib=10240)
    quarter = node("a30", {"nvidia.com/gpu.product": "NVIDIA-A30"}, resources={"nvidia.com/mig-1g.6gb": "4"})
    assert pools([quarter])["A30-24G-mig-1g.6gb"].shapes[0].cards == [(25, 6144)] * 4
    assert found["A100-80G-vcuda"].partition is None
    assert sorted(found["A100-80G-vcuda"].shapes[0].cards) == [(70, 73728), (100, 81920)]


def test_a_shared_card_has_the_memory_that_its_node_agent_hands_out() -> None:
    shares = node("shares", A100, resources={"tessera.io/vgpu": "200", "tessera.io/vgpu-memory": "142208"})
    found = pools([shares])["A100-80G-vcuda"]
    assert (found.card_memory_mib, found.total["card_memory/A100-80G"]) == (71104, 142208)
    assert found.shapes[0].cards == [(100, 71104)] * 2
    asked = CardRequest(centi_cards=100, mode=CardMode.VCUDA)
    assert resources_of(asked, None, offered(shares)) == {"tessera.io/vgpu": "100", "tessera.io/vgpu-memory": "71104"}


def test_a_node_that_has_not_told_of_its_memory_yet_offers_no_shares() -> None:
    begins = node("begins", A100, resources={"tessera.io/vgpu": "200", "tessera.io/vgpu-memory": "0"})
    shares = node("shares", A100, resources={"tessera.io/vgpu": "200", "tessera.io/vgpu-memory": "142208"})
    asked = CardRequest(centi_cards=100, mode=CardMode.VCUDA)
    assert devices_of_node(begins) == []
    assert resources_of(asked, None, offered(begins, shares)) == {"tessera.io/vgpu": "100", "tessera.io/vgpu-memory": "71104"}


def test_a_share_that_may_be_split_says_over_how_many_cards() -> None:
    request = CardRequest(centi_cards=150, max_cards=2, mode=CardMode.VCUDA)
    assert annotations_of(request, {"tessera.io/vgpu": "150"}) == {"vgpu.tessera.io/max-cards": "2"}
    assert annotations_of(request, {"volcano.sh/vgpu-number": "2"}) == {}
    assert annotations_of(CardRequest(centi_cards=30, mode=CardMode.VCUDA), {"tessera.io/vgpu": "30"}) == {}


def test_partitions_of_several_sizes_at_a_node_are_pools_of_their_own_on_the_same_node() -> None:
    both = node("both", A100, resources={"nvidia.com/mig-1g.10gb": "3", "nvidia.com/mig-3g.40gb": "1"})
    found = pools([both], pod("both", {"nvidia.com/mig-1g.10gb": "1", "cpu": "2"}, ours=True))
    small, large = found["A100-80G-mig-1g.10gb"], found["A100-80G-mig-3g.40gb"]
    assert small.shapes[0].cards == [(0, 0), (14, 10240), (14, 10240)]
    assert (small.total["cards/A100-80G"], small.free["card_memory/A100-80G"]) == (42, 20480)
    assert large.shapes[0].cards == [(42, 40960)]
    assert (small.node_group, large.node_group) == ("mixed", "mixed")
    assert (small.free["cpu"], large.free["cpu"]) == (6000, 6000)


def offered(*nodes: dict[str, Any]) -> list[Any]:
    return [device for found in nodes for device in devices_of_node(found)]


def test_a_request_becomes_the_resources_that_the_cluster_has() -> None:
    whole = offered(node("a", A100, resources={"nvidia.com/gpu": "4"}))
    assert resources_of(CardRequest(centi_cards=200), "A100-80G", whole) == {"nvidia.com/gpu": "2"}
    mig = offered(node("a", A100, resources={"nvidia.com/mig-1g.10gb": "7", "nvidia.com/mig-3g.40gb": "1"}))
    asked = CardRequest(centi_cards=10, memory_mib=20000, mode=CardMode.MIG)
    assert resources_of(asked, "A100-80G", mig) == {"nvidia.com/mig-3g.40gb": "1"}
    ours = offered(node("a", A100, resources={"tessera.io/vgpu": "100"}))
    share = CardRequest(centi_cards=25, mode=CardMode.VCUDA)
    assert resources_of(share, None, ours) == {"tessera.io/vgpu": "25", "tessera.io/vgpu-memory": "20480"}
    names = {"volcano.sh/vgpu-number": "10", "volcano.sh/vgpu-cores": "100", "volcano.sh/vgpu-memory": "81920"}
    volcano = offered(node("a", A100, resources=names))
    expected = {"volcano.sh/vgpu-number": "1", "volcano.sh/vgpu-cores": "25", "volcano.sh/vgpu-memory": "20480"}
    assert resources_of(share, None, volcano) == expected
    npu = offered(node("a", {"accelerator-type": "Ascend910B1"}, resources={"huawei.com/Ascend910": "8"}))
    assert resources_of(CardRequest(centi_cards=100, vendor="huawei"), None, npu) == {"huawei.com/Ascend910": "1"}


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (CardRequest(centi_cards=100, model="T4-16G"), "never.no_card_class"),
        (CardRequest(centi_cards=5, mode=CardMode.MIG), "never.no_card_mode"),
    ],
)
def test_what_the_cluster_has_not_is_said(request_: CardRequest, code: str) -> None:
    with pytest.raises(DriverError) as told:
        resources_of(request_, request_.model, offered(node("a", A100, resources={"nvidia.com/gpu": "4"})))
    assert told.value.code == code


def test_a_class_is_chosen_by_the_nodes_labels() -> None:
    nodes = [
        node("a", A100, resources={"nvidia.com/gpu": "1"}),
        node("b", {"nvidia.com/gpu.product": "Tesla-T4"}, resources={"nvidia.com/gpu": "1"}),
    ]
    found = node_selection("A100-80G", nodes)
    assert found is not None
    [term] = found["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [{"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-A100-SXM4-80GB"]}]
    assert devices_of({}, {}) == []


@pytest.mark.parametrize(
    "resource",
    [
        "huawei.com/Ascend910B3-memory",
        "huawei.com/Ascend910B3-core",
        "cambricon.com/mlu.smlu.vmemory",
        "cambricon.com/mlu.smlu.vcore",
    ],
)
def test_what_counts_memory_or_cores_of_shares_is_no_card(resource: str) -> None:
    assert offered(node("npu", {}, resources={resource: "65536"})) == []

"""A centre of many nodes as Kubernetes shows it: card models of several makers, whole and in MIG profiles, and plain nodes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Final

from tessera_hub.proxy.drivers.kubernetes.options import RUN

Document = dict[str, Any]
NODES: Final = 1000
PODS: Final = 10_000
FAKE: Final = "kwok.x-k8s.io/node"
"""Annotation of the nodes that are only simulated."""
KINDS: Final[tuple[tuple[int, dict[str, str], dict[str, str]], ...]] = (
    (400, {}, {"cpu": "128", "memory": "512Gi"}),
    (200, {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}, {"cpu": "128", "memory": "1Ti", "nvidia.com/gpu": "8"}),
    (100, {"nvidia.com/gpu.product": "Tesla-T4"}, {"cpu": "64", "memory": "256Gi", "nvidia.com/gpu": "4"}),
    (
        80,
        {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"},
        {"cpu": "128", "memory": "1Ti", "nvidia.com/mig-1g.10gb": "28", "nvidia.com/mig-3g.40gb": "8"},
    ),
    (100, {}, {"cpu": "192", "memory": "1536Gi", "huawei.com/Ascend910": "8"}),
    (50, {}, {"cpu": "64", "memory": "256Gi", "huawei.com/Ascend310P": "4"}),
    (70, {"tessera.io/card-class": "MLU590-80G"}, {"cpu": "128", "memory": "1Ti", "cambricon.com/mlu": "8"}),
)
"""How many of a thousand nodes are of a kind, its labels, and what it has."""


def nodes(count: int = NODES) -> Iterator[Document]:
    """Yield *count* nodes, ready, in the shares of :data:`KINDS`."""
    number = 0
    for index, (share, labels, has) in enumerate(KINDS):
        for _ in range(share * count // NODES):
            name = f"fake-{number:05}"
            yield {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": name,
                    "uid": name,
                    "annotations": {FAKE: "fake"},
                    "labels": {**labels, "kubernetes.io/hostname": name, "kind": f"kind-{index}"},
                },
                "spec": {},
                "status": {
                    "capacity": {**has, "pods": "110"},
                    "allocatable": {**has, "pods": "110"},
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            }
            number += 1


def pods(of: list[Document], count: int = PODS, seed: int = 1) -> Iterator[Document]:
    """Yield *count* pods that work on these nodes, half of them ours, some with a card of the node's first kind."""
    chance = random.Random(seed)
    for number in range(count):
        node = chance.choice(of)
        requests = {"cpu": f"{chance.choice((1, 2, 4))}", "memory": f"{chance.choice((4, 8, 16))}Gi"}
        cards = [name for name in node["status"]["allocatable"] if "/" in name]
        if cards and chance.random() < 0.3:
            requests[cards[0]] = "1"
        yield {
            "metadata": {"name": f"pod-{number}", "namespace": "n", "labels": {RUN: str(number)} if number % 2 else {}},
            "spec": {"nodeName": node["metadata"]["name"], "containers": [{"resources": {"requests": requests}}]},
            "status": {"phase": "Running"},
        }

"""A public trace of a cluster with fractional cards: its nodes and what its pods ask for.

Source: Alibaba cluster-trace-gpu-v2023 ("openb"), as published with fragmentation gradient descent (Weng et al., ATC 2023).
"""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
MOST_CARDS = 8


@dataclass(frozen=True, slots=True)
class Pod:
    """What a pod asks for: *cards* devices of *centi_cards* each (a share where it is below 100)."""

    cpu: int
    memory: int
    cards: int
    centi_cards: int

    @property
    def demand(self) -> int:
        """Centi-cards in total."""
        return self.cards * self.centi_cards


@dataclass(slots=True)
class Cluster:
    """What is free: a row per node, with one column per card in ``gpu`` (0 where a node has fewer)."""

    cpu: Ints
    memory: Ints
    gpu: Ints
    has: Ints

    def copy(self) -> Cluster:
        """Return a copy to fill."""
        return Cluster(self.cpu.copy(), self.memory.copy(), self.gpu.copy(), self.has)


def read_cluster(folder: Path) -> Cluster:
    """Return all nodes, idle."""
    with (folder / "openb_node_list_gpu_node.csv").open(encoding="utf-8") as file:
        nodes = list(csv.DictReader(file))
    has = np.array([int(node["gpu"]) for node in nodes], dtype=np.int64)
    gpu = np.where(np.arange(MOST_CARDS)[None, :] < has[:, None], 100, 0).astype(np.int64)
    cpu = np.array([int(node["cpu_milli"]) for node in nodes], dtype=np.int64)
    return Cluster(cpu, np.array([int(node["memory_mib"]) for node in nodes], dtype=np.int64), gpu, has)


def read_pods(folder: Path) -> list[Pod]:
    """Return what each pod with cards asks for, in the order of the trace; the others have nodes of their own."""
    with gzip.open(folder / "openb_pod_list_default.csv.gz", "rt", encoding="utf-8") as file:
        return [
            Pod(int(p["cpu_milli"]), int(p["memory_mib"]), int(p["num_gpu"]), int(p["gpu_milli"]) // 10)
            for p in csv.DictReader(file)
            if int(p["num_gpu"])
        ]


def typical(pods: list[Pod]) -> tuple[list[Pod], NDArray[np.float64]]:
    """Return the kinds of pods, most frequent first, and their weights, which sum to 1."""
    common = Counter(pods).most_common()
    weights = np.array([count for _pod, count in common], dtype=np.float64)
    return [pod for pod, _count in common], weights / weights.sum()

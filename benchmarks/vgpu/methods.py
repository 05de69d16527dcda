"""Where a pod goes: fragmentation gradient descent, best fit, spread, dot product, all without splitting."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from benchmarks.vgpu.openb import MOST_CARDS, Cluster, Ints, Pod

Floats = NDArray[np.float64]
_NONE = np.float64(np.inf)


class Method(ABC):
    """Chooses node and card for pods; a lower cost is better. Costs are kept per kind of pod until their node changes."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._changed = np.ones(len(cluster.cpu), dtype=np.int64)
        self._clock = 1
        self._known: dict[Pod, tuple[Floats, Ints, Ints]] = {}

    def choose(self, pod: Pod) -> tuple[int, tuple[int, ...]] | None:
        """Return a node and the cards of it, None without room."""
        count = len(self.cluster.cpu)
        costs, cards, when = self._known.setdefault(
            pod, (np.full(count, _NONE), np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64))
        )
        stale = np.nonzero(self._changed > when)[0]
        if len(stale):
            costs[stale], cards[stale] = self._costs(pod, stale)
            when[stale] = self._clock
        node = int(np.argmin(costs))
        if costs[node] == _NONE:
            return None
        if pod.cards == 1 and pod.centi_cards < 100:
            return node, (int(cards[node]),)
        return node, tuple(np.nonzero(self.cluster.gpu[node] == 100)[0][: pod.cards].tolist())

    def take(self, node: int, pod: Pod, parts: dict[int, int]) -> None:
        """Take the pod's processor and memory, and *parts* of the node's cards."""
        self.cluster.cpu[node] -= pod.cpu
        self.cluster.memory[node] -= pod.memory
        for card, centi_cards in parts.items():
            self.cluster.gpu[node, card] -= centi_cards
        if self.cluster.gpu[node].min() < 0 or self.cluster.cpu[node] < 0 or self.cluster.memory[node] < 0:
            raise AssertionError("overcommitted")
        self._clock += 1
        self._changed[node] = self._clock

    def _costs(self, pod: Pod, nodes: Ints) -> tuple[Floats, Ints]:
        """Return the cost of each node at its best card, infinite without room, and that card."""
        cpu, memory, gpu = self.cluster.cpu[nodes] - pod.cpu, self.cluster.memory[nodes] - pod.memory, self.cluster.gpu[nodes]
        fits = (cpu >= 0) & (memory >= 0)
        if pod.cards == 1 and pod.centi_cards < 100:
            after = gpu[:, None, :] - pod.centi_cards * np.eye(MOST_CARDS, dtype=np.int64)[None, :, :]
            possible = fits[:, None] & (gpu >= pod.centi_cards)
        else:
            idle = gpu == 100
            taken = idle & (np.cumsum(idle, axis=1) <= pod.cards)
            after = (gpu - 100 * taken)[:, None, :]
            possible = (fits & (idle.sum(axis=1) >= pod.cards))[:, None]
        costs = np.full(possible.shape, _NONE)
        row, way = np.nonzero(possible)
        if len(row):
            costs[row, way] = self.cost(pod, nodes[row], cpu[row], memory[row], after[row, way], way)
        best = np.argmin(costs, axis=1)
        return costs[np.arange(len(nodes)), best], best

    @abstractmethod
    def cost(self, pod: Pod, nodes: Ints, cpu: Ints, memory: Ints, gpu: Ints, card: Ints) -> Floats:
        """Return the cost of these states of nodes after the pod came."""


class FragmentationGradient(Method):
    """Least increase of the expected amount of cards that typical pods cannot use.

    Written from the paper (Weng et al., ATC 2023): cards of a node that cannot take a typical pod at all are stranded; else those
    whose rest is smaller than it asks of a card.
    """

    def __init__(self, cluster: Cluster, pods: list[Pod], weights: Floats) -> None:
        super().__init__(cluster)
        self.weights = weights
        self.cpu = np.array([p.cpu for p in pods])
        self.memory = np.array([p.memory for p in pods])
        self.cards = np.array([p.cards for p in pods])
        # Many kinds differ in processors and memory only, so cards are looked at once per size of share.
        self.shares, self.which = np.unique([p.centi_cards for p in pods], return_inverse=True)

    def stranded(self, cpu: Ints, memory: Ints, gpu: Ints) -> Floats:
        """Return the expected stranded centi-cards of nodes."""
        enough = gpu[:, None, :] >= self.shares[None, :, None]
        count = enough.sum(axis=2)[:, self.which]
        small = np.where(enough, 0, gpu[:, None, :]).sum(axis=2)[:, self.which]
        runs = (count >= self.cards) & (cpu[:, None] >= self.cpu) & (memory[:, None] >= self.memory)
        total = gpu.sum(axis=1)[:, None]
        return np.where(runs, small, total) @ self.weights

    def cost(self, pod: Pod, nodes: Ints, cpu: Ints, memory: Ints, gpu: Ints, card: Ints) -> Floats:
        """Return the gradient."""
        own, where = np.unique(nodes, return_inverse=True)
        before = self.stranded(self.cluster.cpu[own], self.cluster.memory[own], self.cluster.gpu[own])
        return self.stranded(cpu, memory, gpu) - before[where]


class BestFit(Method):
    """Least left on the node, in parts of the largest node; then least left on the card."""

    def cost(self, pod: Pod, nodes: Ints, cpu: Ints, memory: Ints, gpu: Ints, card: Ints) -> Floats:
        """Return what is left."""
        return cpu / 128_000 + memory / 1_048_576 + gpu.sum(axis=1) / 800 + _left(gpu, card) / 1e6


class Spread(Method):
    """Most left on the node, in parts of itself; then most left on the card."""

    def cost(self, pod: Pod, nodes: Ints, cpu: Ints, memory: Ints, gpu: Ints, card: Ints) -> Floats:
        """Return what is left, negated."""
        return -gpu.sum(axis=1) / (100 * np.maximum(self.cluster.has[nodes], 1)) - _left(gpu, card) / 1e6


class DotProduct(Method):
    """Largest product of what is asked and what is free, as Tetris does (Grandl et al., SIGCOMM 2014); then the fullest card."""

    def cost(self, pod: Pod, nodes: Ints, cpu: Ints, memory: Ints, gpu: Ints, card: Ints) -> Floats:
        """Return the product, negated."""
        free = self.cluster
        product = (
            pod.cpu * free.cpu[nodes] / 128_000**2
            + pod.memory * free.memory[nodes] / 1_048_576**2
            + pod.demand * free.gpu[nodes].sum(axis=1) / 800**2
        )
        return -product + _left(gpu, card) / 1e9


def _left(gpu: Ints, card: Ints) -> Ints:
    return gpu[np.arange(len(gpu)), card]

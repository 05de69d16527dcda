"""What stays unallocated when a cluster with fractional cards is full: the node agent's chooser, which splits, against others.

Pods are drawn from a public trace until they ask for 130 % of the cards of its 1,213 nodes; one that has no room is turned away
and nothing ends, as in the paper of fragmentation gradient descent (FGD). The node is chosen by FGD in ours as well, so that the
difference is the chooser: where no card of the cluster has room for a *share*, it is split over at most two cards of a node
(``ours_4``: four). Requests of whole cards are never split. What processors or memory leave stranded counts for all alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from benchmarks.rows import Row
from benchmarks.traces import trace_folder
from benchmarks.vgpu.methods import BestFit, DotProduct, FragmentationGradient, Method, Spread
from benchmarks.vgpu.openb import Cluster, Pod, read_cluster, read_pods, typical
from tessera_vgpu.cards import Card, new_card, take
from tessera_vgpu.cards import Part as CardPart
from tessera_vgpu.catalogue import load
from tessera_vgpu.choosing import Placement, Request, choose
from tessera_vgpu.errors import VgpuError

SEEDS = (1, 2)
DEMAND = 1.3
BENCH = "placement"
_SHAPE = load().cards["T4-16G"].continuous
_MIB = 10_000


class Splitting(FragmentationGradient):
    """FGD for the node; the node agent's chooser for the cards, with splits where no single card has room."""

    def __init__(self, cluster: Cluster, pods: list[Pod], weights: np.ndarray, max_cards: int) -> None:
        super().__init__(cluster, pods, weights)
        self.max_cards = max_cards
        self._placements: dict[tuple[tuple[int, ...], int], Placement | None] = {}

    def split(self, pod: Pod) -> tuple[int, dict[int, int]] | None:
        """Return node and parts of a split share: the fewest cards, then least stranded."""
        free = self.cluster
        best: tuple[int, int, int] | None = None
        able = (free.cpu >= pod.cpu) & (free.memory >= pod.memory) & (free.gpu.sum(axis=1) >= pod.centi_cards)
        for node in np.nonzero(able)[0].tolist():
            found = self._placement(tuple(sorted(free.gpu[node].tolist())), pod.centi_cards)
            if found is not None and (best is None or (len(found.parts), found.score, node) < best):
                best = len(found.parts), found.score, node
        if best is None:
            return None
        node = best[2]
        order = np.argsort(free.gpu[node], kind="stable")
        found = self._placement(tuple(sorted(free.gpu[node].tolist())), pod.centi_cards)
        assert found is not None
        return node, {int(order[int(part.uuid)]): part.centi_cards for part in found.parts}

    def on_node(self, node: int, pod: Pod) -> dict[int, int]:
        """Return the card that the chooser takes for a share on a node that has room on one."""
        order = np.argsort(self.cluster.gpu[node], kind="stable")
        found = self._placement(tuple(sorted(self.cluster.gpu[node].tolist())), pod.centi_cards)
        assert found is not None
        return {int(order[int(part.uuid)]): part.centi_cards for part in found.parts}

    def _placement(self, free: tuple[int, ...], centi_cards: int) -> Placement | None:
        key = free, centi_cards
        if key not in self._placements:
            cards = [_card(str(index), amount) for index, amount in enumerate(free) if amount]
            try:
                self._placements[key] = choose(cards, Request(centi_cards, max_cards=self.max_cards))
            except VgpuError:
                self._placements[key] = None
        return self._placements[key]


def _card(uuid: str, free: int) -> Card:
    return take(new_card(uuid, "any", _MIB, _SHAPE), CardPart(uuid, 100 - free, _MIB - free * _MIB // 100))


@dataclass
class Outcome:
    """What a method reached: centi-cards that stay free of those that there are, pods by what became of them."""

    free: int = 0
    total: int = 0
    placed: int = 0
    shares: int = 0
    split: int = 0
    cards: int = 0
    refused: int = 0


def fill(method: Method, pods: list[Pod], seed: int, into: Outcome) -> None:
    """Let pods of the trace come until they ask for more than there is."""
    random = np.random.default_rng(seed)
    capacity = int(method.cluster.has.sum()) * 100
    asked = 0
    while asked < capacity * DEMAND:
        pod = pods[int(random.integers(len(pods)))]
        asked += pod.demand
        share = pod.cards == 1 and pod.centi_cards < 100
        found = method.choose(pod)
        if found is not None:
            node, cards = found
            parts = dict.fromkeys(cards, pod.centi_cards)
            if isinstance(method, Splitting) and share:
                parts = method.on_node(node, pod)
        elif isinstance(method, Splitting) and share and (pieces := method.split(pod)) is not None:
            node, parts = pieces
        else:
            into.refused += 1
            continue
        method.take(node, pod, parts)
        into.placed += 1
        if share:
            into.shares += 1
            into.split += len(parts) > 1
            into.cards += len(parts)
    into.free += int(method.cluster.gpu.sum())
    into.total += capacity


def rows() -> Iterable[Row]:
    """Replay the trace with each method."""
    folder = trace_folder("openb")
    empty, pods = read_cluster(folder), read_pods(folder)
    kinds, weights = typical(pods)
    methods: dict[str, Callable[[Cluster], Method]] = {
        "fgd": lambda cluster: FragmentationGradient(cluster, kinds, weights),
        "best_fit": BestFit,
        "spread": Spread,
        "dot_product": DotProduct,
        "ours": lambda cluster: Splitting(cluster, kinds, weights, 2),
        "ours_4": lambda cluster: Splitting(cluster, kinds, weights, 4),
    }
    outcomes: dict[str, Outcome] = {name: Outcome() for name in methods}
    for name, make in methods.items():
        for seed in SEEDS:
            fill(make(empty.copy()), pods, seed, outcomes[name])
    base = 100 * outcomes["fgd"].free / outcomes["fgd"].total
    for name, outcome in outcomes.items():
        yield Row(BENCH, name, "unallocated_percent", 100 * outcome.free / outcome.total, "%", baseline=base)
        yield Row(
            BENCH, name, "refused_pods", outcome.refused / len(SEEDS), "pods", baseline=outcomes["fgd"].refused / len(SEEDS)
        )
        if name.startswith("ours"):
            yield Row(BENCH, name, "split_shares_percent", 100 * outcome.split / outcome.shares, "%")
            yield Row(BENCH, name, "cards_per_share", outcome.cards / outcome.shares, "cards", baseline=1.0)
    yield Row(BENCH, "all", "unallocated_ratio_to_fgd", outcomes["ours"].free / outcomes["fgd"].free, "ratio", "< 1", 1.0)

"""Room in pools: what a shape needs there, whether it fits on the nodes, and what remains after it.

Node shapes, not sums, decide: four free cards on four nodes do not hold a run that needs four on one. Placing here is
an estimate that keeps the hub from sending more than fits; the engine places for real and its next report corrects us.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from typing import TypeAlias

from tessera_hub.scheduling.reasons import Code, Reason, because
from tessera_hub.scheduling.snapshot import (
    CPU,
    MEMORY,
    SHARED,
    WHOLE_CARD,
    Amounts,
    CardMode,
    ClusterState,
    NodeShape,
    PoolState,
    RoleRequest,
    Shape,
    card_memory_of,
    cards_of,
)

Cards: TypeAlias = tuple[tuple[int, int], ...]
"""Free (centi-cards, MiB) of each card of a node, ascending."""

Node: TypeAlias = tuple[int, int, int, Cards]
"""Free centi-cards of all cards together (so that card-less and fuller nodes sort first), millicores, MiB, cards."""


@dataclass(frozen=True, slots=True)
class Part:
    """A role as a pool would hold it: all amounts of one replica are settled."""

    replicas: int
    cpu: int
    memory: int
    cards: int = 0
    centi_cards: int = 0
    card_memory: int = 0

    def each_card_holds(self, card: tuple[int, int]) -> int:
        """Return how many cards' worth of this part fit on one free card."""
        by_share = card[0] // self.centi_cards
        return min(by_share, card[1] // self.card_memory) if self.card_memory else by_share


@dataclass(frozen=True, slots=True)
class Demand:
    """A shape settled on a pool's card class: its parts, largest first, and the sum by dimension."""

    parts: tuple[Part, ...]
    charge: Amounts


def demand_of(shape: Shape, pool: PoolState) -> Demand:
    """Settle a shape on a pool. The pool must have cards if the shape asks for some."""
    parts: list[Part] = []
    charge: dict[str, int] = {}
    for role in shape.roles:
        part = _settle(role, pool)
        parts.append(part)
        amounts = {CPU: part.cpu, MEMORY: part.memory}
        if pool.card_class is not None and part.cards:
            amounts[cards_of(pool.card_class)] = part.cards * part.centi_cards
            amounts[card_memory_of(pool.card_class)] = part.cards * part.card_memory
        for dimension, amount in amounts.items():
            if amount:
                charge[dimension] = charge.get(dimension, 0) + amount * part.replicas
    parts.sort(key=lambda part: (-part.cards * part.centi_cards, -part.cpu, -part.memory, -part.replicas))
    return Demand(tuple(parts), charge)


def _settle(role: RoleRequest, pool: PoolState) -> Part:
    cards = role.cards
    if cards is None or cards.count == 0:
        return Part(role.replicas, role.cpu, role.memory)
    share = WHOLE_CARD if cards.mode is CardMode.WHOLE else cards.centi_cards
    memory = cards.memory_mib
    if cards.mode is CardMode.WHOLE or memory == 0:
        memory = pool.card_memory_mib * share // WHOLE_CARD
    return Part(role.replicas, role.cpu, role.memory, cards.count, share, memory)


def as_node(shape: NodeShape) -> Node:
    """Return the sortable form of a node shape."""
    cards = tuple(sorted(shape.cards))
    return (sum(card[0] for card in cards), shape.cpu, shape.memory, cards)


@lru_cache(maxsize=16_384)
def take_from(node: Node, part: Part) -> Node | None:
    """Return what is left of a node after one replica of ``part``, or None if it does not fit.

    A single card is taken from the fullest one that still holds it, so that whole cards stay whole. Several distinct
    cards are taken from the emptiest, which keeps the number of further equal replicas greatest.
    """
    total, cpu, memory, cards = node
    if cpu < part.cpu or memory < part.memory:
        return None
    if not part.cards:
        return (total, cpu - part.cpu, memory - part.memory, cards)
    if part.cards == 1:
        chosen = next((index for index, card in enumerate(cards) if part.each_card_holds(card)), None)
        if chosen is None:
            return None
        taken = [chosen]
    else:
        holding = sorted(((part.each_card_holds(card), card, index) for index, card in enumerate(cards)), reverse=True)
        if len(holding) < part.cards or not holding[part.cards - 1][0]:
            return None
        taken = [index for _holds, _card, index in holding[: part.cards]]
    left = list(cards)
    for index in taken:
        share, card_memory = left[index]
        left[index] = (share - part.centi_cards, card_memory - part.card_memory)
    left.sort()
    return (total - part.cards * part.centi_cards, cpu - part.cpu, memory - part.memory, tuple(left))


class Nodes:
    """A changeable multiset of nodes, kept sorted: nodes with the fewest free cards, then the least CPU, come first."""

    __slots__ = ("_counts", "_order")

    def __init__(self, shapes: Iterable[NodeShape]) -> None:
        self._counts: dict[Node, int] = {}
        for shape in shapes:
            if shape.count > 0:
                node = as_node(shape)
                self._counts[node] = self._counts.get(node, 0) + shape.count
        self._order: list[Node] = sorted(self._counts)

    def pack(self, parts: Iterable[Part]) -> dict[Node, int] | None:
        """Return the change of each node's count that holds all ``parts``, or None if they do not all fit."""
        change: dict[Node, int] = {}
        for part in parts:
            missing = part.replicas
            for node in (*sorted(node for node, n in change.items() if n > 0), *self._order):
                if missing == 0:
                    break
                missing = self._fill(node, part, missing, change)
            if missing:
                return None
        return change

    def _fill(self, node: Node, part: Part, missing: int, change: dict[Node, int]) -> int:
        """Put as many replicas as possible on the nodes of one shape; return how many are still missing."""
        available = self._counts.get(node, 0) + change.get(node, 0)
        while missing and available > 0:
            held, after = 0, node
            while held < missing:
                further = take_from(after, part)
                if further is None:
                    break
                held, after = held + 1, further
            if held == 0:
                return missing
            filled = min(available, missing // held)
            change[node] = change.get(node, 0) - filled
            change[after] = change.get(after, 0) + filled
            available -= filled
            missing -= filled * held
        return missing

    def apply(self, change: dict[Node, int]) -> None:
        """Take what :meth:`pack` found."""
        for node, by in change.items():
            if by == 0:
                continue
            count = self._counts.get(node, 0) + by
            if count:
                if node not in self._counts:
                    insort(self._order, node)
                self._counts[node] = count
            else:
                del self._counts[node]
                self._order.remove(node)

    def shapes(self) -> tuple[NodeShape, ...]:
        """Return the nodes as they are now."""
        return tuple(
            NodeShape(cpu, memory, cards, self._counts[node]) for node in self._order for _, cpu, memory, cards in (node,)
        )

    def take_all(self, demand: Demand, runs: int) -> int:
        """Take a demand up to ``runs`` times and return how often it did not fit."""
        while runs and (change := self.pack(demand.parts)) is not None:
            self.apply(change)
            runs -= 1
        return runs


class ClusterRoom:
    """How many runs a cluster can still take in this cycle."""

    __slots__ = ("accept_more", "state")

    def __init__(self, state: ClusterState) -> None:
        self.state = state
        self.accept_more = state.accept_more


class PoolRoom:
    """What is left of a pool in this cycle. ``held`` is kept for a reservation and counts as taken for everybody else.

    ``siblings`` are the other pools of its node group: what is taken here of the shared dimensions is gone there, too.
    """

    __slots__ = ("cluster", "free", "held", "held_for", "index", "label", "nodes", "place", "siblings", "state", "tie")

    def __init__(self, index: int, cluster: ClusterRoom, state: PoolState) -> None:
        self.index = index
        self.cluster = cluster
        self.state = state
        self.place = f"{cluster.state.id}/{state.name}"
        self.label = f"{cluster.state.name}/{state.name}"
        self.tie = blake2b(self.place.encode(), digest_size=8).digest()
        self.free: dict[str, int] = dict(state.free)
        self.held: dict[str, int] = {}
        self.held_for: str | None = None
        self.nodes: Nodes | None = None
        self.siblings: tuple[PoolRoom, ...] = ()

    def shortage(self, demand: Demand) -> Reason | None:
        """Return why the demand does not fit now, None if it does."""
        if self.cluster.accept_more <= 0:
            return because(Code.BACK_PRESSURE)
        for dimension, asked in demand.charge.items():
            free = self.free.get(dimension, 0)
            if free < asked:
                code = Code.NO_FREE_CARDS if dimension.startswith("card") else Code.NO_FREE_NODE
                return because(code, dimension=dimension, asked=asked, free=max(free, 0))
        if self.held and any(self.free.get(d, 0) - self.held.get(d, 0) < asked for d, asked in demand.charge.items()):
            return because(Code.RESERVED)
        if self.packing(demand) is None:
            return because(Code.GANG if sum(p.replicas for p in demand.parts) > 1 else Code.FRAGMENTED)
        return None

    def packing(self, demand: Demand) -> dict[Node, int] | None:
        """Return the change on the nodes that holds the demand (nothing if the engine does not tell its nodes), or None."""
        if not self.state.nodes:
            return {}
        if self.nodes is None:
            self.nodes = Nodes(self.state.nodes)
        return self.nodes.pack(demand.parts)

    def take(self, demand: Demand) -> None:
        """Take a demand that :meth:`shortage` found to fit."""
        change = self.packing(demand)
        if change is None:
            raise ValueError(f"{self.place} does not hold the demand")
        if self.nodes is not None:
            self.nodes.apply(change)
        for dimension, amount in demand.charge.items():
            self.free[dimension] = self.free.get(dimension, 0) - amount
        self.cluster.accept_more -= 1
        for sibling in self.siblings:
            sibling._lose(demand)  # noqa: SLF001  # of the same class

    def _lose(self, demand: Demand) -> None:
        """Note what a demand took of the shared nodes through another pool; which of several nodes it was is a guess."""
        for dimension in SHARED:
            self.free[dimension] = self.free.get(dimension, 0) - demand.charge.get(dimension, 0)
        bare = Demand(tuple(replace(part, cards=0, centi_cards=0, card_memory=0) for part in demand.parts), {})
        change = self.packing(bare)
        if change and self.nodes is not None:
            self.nodes.apply(change)

    def hold(self, demand: Demand, run_id: str) -> None:
        """Keep room for a run that does not fit yet.

        What is short is kept whole. If the sums suffice and only the nodes do not, all of the asked dimensions are kept,
        since any further run could keep the nodes apart.
        """
        fragmented = all(self.free.get(d, 0) >= asked for d, asked in demand.charge.items())
        for dimension, asked in demand.charge.items():
            free = max(self.free.get(dimension, 0), 0)
            kept = free if fragmented else min(asked, free)
            for room in (self, *self.siblings) if dimension in SHARED else (self,):
                room.held[dimension] = room.held.get(dimension, 0) + kept
        self.held_for = run_id


def fits_when_empty(demand: Demand, pool: PoolState) -> Reason | None:
    """Return why a pool could not hold the demand even with nothing on it, None if it could."""
    nodes = Nodes(pool.empty_nodes)
    for part in demand.parts if pool.empty_nodes else ():
        if nodes.pack((replace(part, replicas=1),)) is None:
            return because(Code.TOO_LARGE, **_first_excess(demand, pool))
    parts = sum(part.replicas for part in demand.parts)
    excess = _first_excess(demand, pool)
    if excess:
        return because(Code.GANG_TOO_LARGE if parts > 1 else Code.TOO_LARGE, **excess)
    if pool.empty_nodes and nodes.pack(demand.parts) is None:
        return because(Code.GANG_TOO_LARGE)
    return None


def _first_excess(demand: Demand, pool: PoolState) -> dict[str, str | int | None]:
    """Return the numbers of the first dimension whose total the demand passes, nothing if none."""
    for dimension, asked in demand.charge.items():
        total = pool.total.get(dimension, 0)
        if total < asked:
            return {"dimension": dimension, "asked": asked, "total": total}
    return {}

"""Which places can take a shape: the part that never changes in a cycle, and what is free right now.

All runs of a shape share one :class:`ShapeView`. A view looks again only at pools that changed since its last look, so
the cost of a cycle follows what happens in it and not how much waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import nsmallest
from typing import TypeAlias

from tessera_hub.scheduling.capacity import ClusterRoom, Demand, PoolRoom, demand_of, fits_when_empty
from tessera_hub.scheduling.policies import Place, Policy
from tessera_hub.scheduling.reasons import Code, Reason, because, ranked
from tessera_hub.scheduling.snapshot import SHARED, CardMode, CardRequest, ClusterCondition, ClusterState, PoolState, Shape

Rank: TypeAlias = tuple[int, tuple[int, ...], bytes, int]
"""Order of candidates: score (negative), tie-breakers, stable hash of the place, index of the pool."""

_CONDITIONS = {
    ClusterCondition.SUSPECT: Code.SUSPECT,
    ClusterCondition.UNREACHABLE: Code.UNREACHABLE,
    ClusterCondition.DRAINING: Code.DRAINING,
}


def cluster_excludes(shape: Shape, tenant_id: str, cluster: ClusterState) -> Reason | None:
    """Return why a cluster can never take the shape as things are set up, None if it may."""
    if shape.allowed_clusters is not None and cluster.id not in shape.allowed_clusters:
        return because(Code.NOT_ALLOWED)
    if cluster.tenants is not None and tenant_id not in cluster.tenants:
        return because(Code.NOT_ALLOWED)
    if shape.workspace and not cluster.workspaces:
        return because(Code.NO_WORKSPACES)
    if shape.environment is not None and shape.environment not in cluster.environments:
        return because(Code.NO_ENVIRONMENT)
    for name in sorted(shape.datasets):
        readers = cluster.datasets.get(name, frozenset())
        if (readers is not None and tenant_id not in readers) or (shape.workspace and name not in cluster.workspace_datasets):
            return because(Code.NO_DATASET, dataset=name)
    if cluster.id in shape.excluded_clusters:
        return because(Code.GAVE_BACK)
    if shape.service and "services" not in cluster.capabilities:
        return because(Code.NO_SERVICES)
    if shape.replicas > 1 and "gang" not in cluster.capabilities:
        return because(Code.NO_GANG)
    return None


def pool_excludes(shape: Shape, tenant_id: str, pool: PoolState) -> Reason | None:
    """Return why a pool can never take the shape, whatever runs there, None if it may."""
    if pool.tenants is not None and tenant_id not in pool.tenants:
        return because(Code.NOT_ALLOWED)
    for role in shape.roles:
        if role.cards is not None and role.cards.count:
            if not _offers(pool, role.cards):
                return because(Code.NO_CARD_CLASS)
            if role.cards.mode not in pool.card_modes:
                return because(Code.NO_CARD_MODE, mode=role.cards.mode.value)
            if role.cards.mode is CardMode.MIG and (
                role.cards.count != 1 or pool.partition != (role.cards.centi_cards, role.cards.memory_mib)
            ):
                # What is charged is what is taken: a smaller request would get the whole partition.
                return because(Code.NO_PARTITION)
    return None


def _offers(pool: PoolState, cards: CardRequest) -> bool:
    if pool.card_class is None or (cards.classes is not None and pool.card_class not in cards.classes):
        return False
    return cards.vendor is None or cards.vendor == pool.vendor


class ShapeView:
    """Where the runs of one shape, tenant access and policy can go.

    Attributes:
        options: the pools that could hold the shape when empty, with its demand there, by index of the pool.
        excluded: the others, with why.
    """

    __slots__ = ("_fits", "_log", "_rejected", "_seen", "blocked", "excluded", "highest_cost", "options", "policy", "shape")

    def __init__(self, shape: Shape, tenant_id: str, policy: Policy, yard: Yard) -> None:
        self.shape = shape
        self.policy = policy
        self.options: dict[int, tuple[PoolRoom, Demand, int]] = {}
        self.excluded: dict[str, Reason] = {}
        self.blocked: dict[int, Reason] = {}
        self._fits: dict[int, tuple[Rank, dict[str, int]]] = {}
        self._log = yard.changed
        self._rejected: list[dict[str, object]] | None = None
        for cluster in yard.clusters:
            why = cluster_excludes(shape, tenant_id, cluster.state)
            if why is None and not cluster.state.pools:
                why = because(_CONDITIONS.get(cluster.state.state, Code.UNREACHABLE))
            if why is not None:
                self.excluded[cluster.state.name] = why
                continue
            for room in yard.rooms[cluster.state.id]:
                self._consider(room, tenant_id)
        self.highest_cost = max((cost for _room, _demand, cost in self.options.values()), default=0)
        self._seen = len(self._log)
        for index in self.options:
            self._look(index)

    def _consider(self, room: PoolRoom, tenant_id: str) -> None:
        why = pool_excludes(self.shape, tenant_id, room.state)
        if why is None:
            demand = demand_of(self.shape, room.state)
            why = fits_when_empty(demand, room.state)
            if why is None:
                cost = sum(amount * room.state.prices.get(dimension, 0) for dimension, amount in demand.charge.items())
                self.options[room.index] = (room, demand, cost)
                return
        self.excluded[room.label] = why

    def _look(self, index: int) -> None:
        room, demand, cost = self.options[index]
        cluster = room.cluster.state
        condition = _CONDITIONS.get(cluster.state)
        why = room.shortage(demand) if condition is None else because(condition)
        if why is None:
            place = Place(self.shape, cluster, room.state, room.free, demand.charge, cost, self.highest_cost)
            rule = self.policy.rejects(place)
            if rule is None:
                score, said = self.policy.score(place)
                self._fits[index] = ((-score, self.policy.tie(place), room.tie, index), said)
                return
            why = because(Code.FILTERED, rule=rule)
        self._fits.pop(index, None)
        self.blocked[index] = why
        self._rejected = None

    def refresh(self) -> None:
        """Look again at the pools that changed. Room only shrinks within a cycle, so what is blocked stays blocked."""
        if self._seen < len(self._log):
            for index in dict.fromkeys(self._log[self._seen :]):
                if index in self._fits:
                    self._look(index)
            self._seen = len(self._log)

    def candidates(self) -> Iterator[tuple[PoolRoom, Demand]]:
        """Return the places that hold the shape now, the best first."""
        if not self._fits:
            return
        best = min(self._fits.values(), key=_rank)[0]
        yield self.options[best[3]][:2]
        for rank, _said in sorted(self._fits.values(), key=_rank)[1:]:
            yield self.options[rank[3]][:2]

    def reasons(self) -> tuple[Reason, ...]:
        """Return why no place takes the shape now; empty if one does.

        A place that may take it later counts for more than all that never will: their reasons appear only if there is
        no other place.
        """
        if self._fits:
            return ()
        passing = [*self.blocked.values(), *(why for why in self.excluded.values() if not why.code.permanent)]
        if passing:
            return ranked(passing)
        found = ranked(self.excluded.values())
        if self.excluded and all(why.code is Code.NO_ENVIRONMENT for why in self.excluded.values()):
            found = (because(Code.UNKNOWN_ENVIRONMENT), *found)
        elif not any(why.tier == Code.NO_CLUSTER.tier for why in found):
            found = (because(Code.NO_CLUSTER), *found)
        return found

    def scores(self, most: int) -> list[dict[str, object]]:
        """Return the best places with their scores, for explanations."""
        best = nsmallest(most, self._fits.values(), key=_rank)
        return [
            {
                "cluster": (room := self.options[rank[3]][0]).cluster.state.name,
                "pool": room.state.name,
                "card_class": room.state.card_class,
                "score": -rank[0],
                "parts": said,
            }
            for rank, said in best
        ]

    def rejected(self) -> list[dict[str, object]]:
        """Return who cannot take the shape now and why, places of one code together; the same object until it changes."""
        if self._rejected is None:
            by_code: dict[Code, list[str]] = {}
            for place, why in self.excluded.items():
                by_code.setdefault(why.code, []).append(place)
            for index, why in self.blocked.items():
                by_code.setdefault(why.code, []).append(self.options[index][0].label)
            self._rejected = [
                {"tier": code.tier, "code": code.token, "places": sorted(by_code[code])} for code in Code if code in by_code
            ]
        return self._rejected


def _rank(entry: tuple[Rank, dict[str, int]]) -> Rank:
    return entry[0]


class Yard:
    """All rooms of a cycle, in an order that does not depend on the snapshot's, and the views on them."""

    def __init__(self, clusters: Iterable[ClusterState]) -> None:
        self.clusters = [ClusterRoom(state) for state in sorted(clusters, key=lambda cluster: cluster.id)]
        self.rooms: dict[str, list[PoolRoom]] = {}
        self.changed: list[int] = []
        self._by_place: dict[str, PoolRoom] = {}
        self._views: dict[tuple[str, frozenset[str], str], ShapeView] = {}
        self._fenced: dict[str, frozenset[str]] = {}
        index = 0
        for cluster in self.clusters:
            rooms = self.rooms[cluster.state.id] = []
            for pool in sorted(cluster.state.pools, key=lambda pool: pool.name):
                room = PoolRoom(index, cluster, pool)
                rooms.append(room)
                self._by_place[room.place] = room
                index += 1
            for room in rooms:
                if room.state.node_group is not None:
                    same = (r for r in rooms if r is not room and r.state.node_group == room.state.node_group)
                    room.siblings = tuple(same)
            if cluster.state.tenants is not None:
                self._fenced[cluster.state.id] = cluster.state.tenants
            for name, readers in cluster.state.datasets.items():
                if readers is not None:
                    self._fenced[f"{cluster.state.id}:{name}"] = readers
            for room in rooms:
                if room.state.tenants is not None:
                    self._fenced[room.place] = room.state.tenants

    def whole(self) -> dict[str, int]:
        """Return the total of all clusters by dimension; nodes that several pools show count once."""
        total: dict[str, int] = {}
        for room in self._by_place.values():
            repeats = any(sibling.index < room.index for sibling in room.siblings)
            for dimension, amount in room.state.total.items():
                if not (repeats and dimension in SHARED):
                    total[dimension] = total.get(dimension, 0) + amount
        return total

    def room(self, cluster_id: str | None, pool: str | None) -> PoolRoom | None:
        """Return a pool's room, None if it has gone."""
        return self._by_place.get(f"{cluster_id}/{pool}")

    def view(self, shape: Shape, tenant_id: str, policy: Policy) -> ShapeView:
        """Return the view of a shape; tenants that may enter the same fenced places share it."""
        access = frozenset(place for place, tenants in self._fenced.items() if tenant_id in tenants)
        key = (shape.digest, access, policy.name)
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = ShapeView(shape, tenant_id, policy, self)
        else:
            view.refresh()
        return view

    def take(self, room: PoolRoom, demand: Demand) -> None:
        """Place a demand in a room."""
        room.take(demand)
        if room.cluster.accept_more > 0:
            self.changed.extend((room.index, *(sibling.index for sibling in room.siblings)))
        else:
            self.changed.extend(other.index for other in self.rooms[room.cluster.state.id])

    def hold(self, room: PoolRoom, demand: Demand, run_id: str) -> None:
        """Keep room for a run that waits."""
        room.hold(demand, run_id)
        self.changed.extend((room.index, *(sibling.index for sibling in room.siblings)))

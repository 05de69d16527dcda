"""The leader's picture of the world: loaded once, then kept current from the outbox of changed runs.

A refresh reads what entered or left the queue since the last one, the quota rows and the clusters; it does not read what
only goes on waiting. Everything is applied after the transaction that read it has committed.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from pydantic import TypeAdapter
from sqlalchemy import Select, Text, cast, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.catalogue import by_partition, prices
from tessera_hub.quota.tree import load_tree
from tessera_hub.scheduling.admission import prices_of
from tessera_hub.scheduling.pending import PendingSet
from tessera_hub.scheduling.snapshot import ClusterState, PendingRun, QueueState, Reservation, Shape, Snapshot
from tessera_hub.scheduling.translation import PromisedRuns, cluster_state, queue_states, shape_of_parts
from tessera_hub.schemas.tasks import Phase, Role, TaskKind
from tessera_hub.store.tables import Cluster, RunChange, RunRow, TaskRow, Tenant

_ROLES: Final = TypeAdapter(list[Role])
_PIECE: Final = 5000
PRICES_LAST_SECONDS: Final = 10.0
PROMISED: Final = (Phase.RESERVED.value, Phase.DISPATCHED.value, Phase.PENDING.value)
"""Phases in which a run holds nothing yet that a cluster's report could know: one that waits there is on no node."""


@dataclass(frozen=True, slots=True)
class Promised:
    """What was promised at a cluster and its report cannot know yet.

    Attributes:
        amounts: by dimension.
        untaken: runs that it has not taken yet.
        runs: all of them, those that are alike together.
    """

    amounts: dict[str, int] = field(default_factory=dict)
    untaken: int = 0
    runs: tuple[PromisedRuns, ...] = ()


@dataclass(slots=True)
class Refresh:
    """What one refresh read."""

    changed: list[UUID]
    rows: list[Any]
    queues: tuple[QueueState, ...]
    clusters: tuple[ClusterState, ...]
    everything: bool


class SnapshotLoader:
    """Keeps the waiting runs and the last state of queues and clusters.

    Attributes:
        linked: run id → the decision row that the run points to, for those that wait.
        settled: lanes of which every run points to the lane's explanation.
    """

    def __init__(self) -> None:
        self.pending = PendingSet()
        self.linked: dict[str, int | None] = {}
        self.settled: set[str] = set()
        self.queues: tuple[QueueState, ...] = ()
        self.clusters: tuple[ClusterState, ...] = ()
        self.names: dict[str, str] = {}
        self._shapes: dict[tuple[object, ...], Shape] = {}
        self._clusters: dict[int, tuple[tuple[object, ...], ClusterState]] = {}
        self._prices: dict[str, int] = {}
        self._price_version = 0
        self._prices_read_at: float | None = None
        # The id decides between runs of the same moment; runs themselves have no order.
        self._delayed: list[tuple[datetime, str, PendingRun, int | None]] = []
        self._cluster_ids: dict[str, str] = {}

    async def read(self, session: AsyncSession, *, everything: bool = False) -> Refresh:
        """Read the changes, or all; the caller applies them with :meth:`apply` after the commit.

        The outbox is emptied first: what commits later is in the next one, and what both show is applied twice without harm.
        """
        emptied = delete(RunChange).execution_options(synchronize_session=False)
        changed: list[UUID] = []
        if everything:
            await session.execute(emptied)
        else:
            changed = list(dict.fromkeys((await session.execute(emptied.returning(RunChange.run_id))).scalars().all()))
        clusters = await self._read_clusters(session)
        queues = queue_states(await load_tree(session))
        rows: list[Any] = []
        waiting = _waiting(sqlite=session.get_bind().dialect.name == "sqlite")
        if everything:
            rows = list((await session.execute(waiting)).all())
        else:
            for start in range(0, len(changed), _PIECE):
                rows += (await session.execute(waiting.where(RunRow.id.in_(changed[start : start + _PIECE])))).all()
        return Refresh(changed, rows, queues, clusters, everything)

    def apply(self, refresh: Refresh, now: datetime) -> bool:
        """Take over what was read; return whether anything differs from before."""
        same = refresh.queues == self.queues and refresh.clusters == self.clusters
        self.queues, self.clusters = refresh.queues, refresh.clusters
        self.names = {cluster.id: cluster.name for cluster in refresh.clusters}
        if refresh.everything:
            self.pending, self.linked, self.settled, self._delayed = PendingSet(), {}, set(), []
        gone = {str(run_id) for run_id in refresh.changed}
        self.forget(gone)
        if gone and self._delayed:
            self._delayed = [entry for entry in self._delayed if entry[1] not in gone]
            heapq.heapify(self._delayed)
        come: list[PendingRun] = []
        for row in refresh.rows:
            run = self._run(row)
            if row.not_before is not None and row.not_before > now:
                heapq.heappush(self._delayed, (row.not_before, run.run_id, run, row.decision_id))
            else:
                come.append(run)
                self.linked[run.run_id] = row.decision_id
        due = self._due(now)
        self.pending.add_many([*come, *due])
        for run in (*come, *due):
            lane = self.pending.lane_of(run.run_id)
            if lane is not None:
                self.settled.discard(lane.group)
        return not same or bool(refresh.changed or come or due)

    def _due(self, now: datetime) -> list[PendingRun]:
        due: list[PendingRun] = []
        while self._delayed and self._delayed[0][0] <= now:
            _at, run_id, run, decision_id = heapq.heappop(self._delayed)
            self.linked[run_id] = decision_id
            due.append(run)
        return due

    def next_due(self) -> datetime | None:
        """Return when the next planned run enters the queue, None if none is planned."""
        return self._delayed[0][0] if self._delayed else None

    def forget(self, run_ids: Iterable[str]) -> None:
        """Drop runs that wait no more."""
        run_ids = list(run_ids)
        self.pending.remove_many(run_ids)
        for run_id in run_ids:
            self.linked.pop(run_id, None)

    def paths(self) -> dict[str, tuple[int, ...]]:
        """Return queue id → ids from that queue up to its root; a queue whose parents form a ring has none."""
        parents = {queue.id: queue.parent for queue in self.queues}
        found: dict[str, tuple[int, ...]] = {}
        for queue_id in parents:
            path, above = [queue_id], parents[queue_id]
            while above is not None and above in parents and above not in path:
                path.append(above)
                above = parents[above]
            if above is None:
                found[queue_id] = tuple(map(int, path))
        return found

    def snapshot(self, reservations: Sequence[Reservation], drain_per_hour: dict[tuple[str, str], int]) -> Snapshot:
        """Return what a cycle looks at; valid until the next :meth:`apply` or :meth:`forget`."""
        return Snapshot(self.clusters, self.queues, self.pending, tuple(reservations), drain_per_hour)

    def _run(self, row: Any) -> PendingRun:
        excluded = () if row.excluded is None else tuple(map(str, json.loads(row.excluded)))
        shape = self._shape(row.kind, row.roles, row.environment, row.clusters, excluded, row.datasets)
        return PendingRun(
            run_id=str(row.id),
            task_id=str(row.task_id),
            queue_id=str(row.queue_id),
            tenant_id=row.tenant,
            submitted_at=row.queued_at,
            shape=shape,
            priority=row.priority,
            policy=row.policy,
            excluded_nodes=frozenset(place for place in excluded if place not in self._cluster_ids),
        )

    def _shape(
        self,
        kind: str,
        roles: str,
        environment: str,
        clusters: str | None,
        excluded: tuple[str, ...],
        datasets: str | None = None,
    ) -> Shape:
        """Return the shape of those fields of a specification, as JSON texts, that decide where it can go."""
        key = (kind, roles, environment, clusters, excluded, datasets)
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = shape_of_parts(
                TaskKind(kind),
                _ROLES.validate_json(roles),
                environment,
                None if clusters is None else json.loads(clusters),
                cluster_ids=self._cluster_ids,
                excluded=(self._cluster_ids.get(place, place) for place in excluded),
                datasets=() if datasets is None else json.loads(datasets),
            )
        return shape

    async def _read_clusters(self, session: AsyncSession) -> tuple[ClusterState, ...]:
        """Read the clusters; the inventory only of those whose hash is new."""
        columns = (
            Cluster.id,
            Cluster.name,
            Cluster.driver,
            Cluster.state,
            Cluster.draining,
            Cluster.workspaces,
            Cluster.tenants,
            Cluster.capabilities,
            Cluster.accept_max,
            Cluster.inventory_hash,
        )
        rows = (await session.execute(select(*columns))).all()
        promised = await self._read_promised(session, [row.id for row in rows])
        await self._read_prices(session)
        ids = {row.name: str(row.id) for row in rows}
        if ids != self._cluster_ids:
            self._cluster_ids = ids
            self._shapes.clear()
        found: dict[int, tuple[tuple[object, ...], ClusterState]] = {}
        stale: dict[int, tuple[object, ...]] = {}
        for row in rows:
            held = promised.get(row.id, Promised())
            tenants = None if row.tenants is None else tuple(row.tenants)
            state = (
                *row[:6],
                tenants,
                tuple(row.capabilities),
                *row[8:],
                tuple(sorted(held.amounts.items())),
                held.untaken,
                held.runs,
                self._price_version,
            )
            known = self._clusters.get(row.id)
            if known is not None and known[0] == state:
                found[row.id] = known
            else:
                stale[row.id] = state
        for start in range(0, len(stale), _PIECE):
            some = list(stale)[start : start + _PIECE]
            query = select(Cluster).where(Cluster.id.in_(some)).execution_options(populate_existing=True)
            for cluster in (await session.scalars(query)).all():
                held = promised.get(cluster.id, Promised())
                state_now = cluster_state(cluster, self._prices, held.amounts, held.untaken, held.runs)
                found[cluster.id] = (stale[cluster.id], state_now)
        self._clusters = found
        return tuple(found[cluster_id][1] for cluster_id in sorted(found))

    async def _read_promised(self, session: AsyncSession, clusters: list[int]) -> dict[int, Promised]:
        """Read what was promised, runs that are alike together."""
        each = (
            select(
                RunRow.cluster_id,
                RunRow.phase,
                RunRow.card_class,
                cast(RunRow.charge, Text).label("charge"),
                TaskRow.kind,
                cast(TaskRow.spec["roles"], Text).label("roles"),
            )
            .join(TaskRow, TaskRow.id == RunRow.task_id)
            .where(RunRow.cluster_id.in_(clusters), RunRow.phase.in_(PROMISED))
            .subquery()
        )
        query = select(*each.c, func.count().label("runs")).group_by(*each.c).order_by(*each.c)
        amounts: dict[int, dict[str, int]] = {}
        untaken: dict[int, int] = {}
        runs: dict[int, list[PromisedRuns]] = {}
        for row in (await session.execute(query)).all():
            held = amounts.setdefault(row.cluster_id, {})
            for dimension, amount in by_partition(json.loads(row.charge), row.card_class, json.loads(row.roles)).items():
                held[dimension] = held.get(dimension, 0) + amount * row.runs
            if row.phase == Phase.RESERVED.value:
                untaken[row.cluster_id] = untaken.get(row.cluster_id, 0) + row.runs
            shape = self._shape(row.kind, row.roles, "", None, ())
            runs.setdefault(row.cluster_id, []).append(PromisedRuns(shape, row.card_class, row.runs))
        return {at: Promised(held, untaken.get(at, 0), tuple(runs[at])) for at, held in amounts.items()}

    async def _read_prices(self, session: AsyncSession) -> None:
        """Read the price book now and then, for the dimensions that any cluster has."""
        if self._prices_read_at is not None and time.monotonic() - self._prices_read_at < PRICES_LAST_SECONDS:
            return
        inventories = (await session.execute(select(Cluster.inventory).where(Cluster.inventory.is_not(None)))).scalars()
        dimensions = {d for inventory in inventories for pool in inventory.get("pools", ()) for d in pool.get("total", ())}
        found = prices_of(await prices(session), dimensions)
        if found != self._prices:
            self._prices = found
            self._price_version += 1
        self._prices_read_at = time.monotonic()


def _waiting(*, sqlite: bool) -> Select[Any]:
    """The columns of waiting runs: of a specification only what decides a shape, and texts where most are alike or ids."""
    spec = TaskRow.spec
    ids = (RunRow.id, RunRow.task_id) if sqlite else (cast(RunRow.id, Text), cast(RunRow.task_id, Text))
    return (  # pyright: ignore[reportReturnType]  # more columns than the class of a query has types for
        select(
            ids[0].label("id"),
            ids[1].label("task_id"),
            RunRow.queue_id,
            RunRow.queued_at,
            func.nullif(cast(RunRow.excluded, Text), "[]").label("excluded"),
            RunRow.decision_id,
            TaskRow.priority,
            TaskRow.kind,
            TaskRow.not_before,
            Tenant.name.label("tenant"),
            cast(spec["roles"], Text).label("roles"),
            func.nullif(cast(spec["clusters"], Text), "null").label("clusters"),
            func.nullif(func.nullif(cast(spec["datasets"], Text), "[]"), "null").label("datasets"),
            spec["environment"].as_string().label("environment"),
            spec["policy"].as_string().label("policy"),
        )
        .join(TaskRow, TaskRow.id == RunRow.task_id)
        .join(Tenant, Tenant.id == TaskRow.tenant_id)
        .where(RunRow.phase == Phase.QUEUED.value, TaskRow.cancel_requested_at.is_(None))
    )

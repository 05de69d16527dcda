"""What can be said at once about a task that is not in the queue: never, now, or wait, and where.

The view of clusters and queues is kept for two seconds, so that a thousand submits ask the database once. It can refuse
only what can *never* fit, which two seconds do not change; whether something starts now is an estimate by nature.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from weakref import WeakKeyDictionary

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_billing.prices import PriceList
from tessera_hub.catalogue import prices, promised
from tessera_hub.quota.tree import QueueTree, load_tree
from tessera_hub.scheduling.cycle import schedule
from tessera_hub.scheduling.decision import Action
from tessera_hub.scheduling.feasibility import never_fits
from tessera_hub.scheduling.pending import PendingSet
from tessera_hub.scheduling.reasons import Reason as DecidedReason
from tessera_hub.scheduling.snapshot import ClusterState, PendingRun, QueueState, Snapshot
from tessera_hub.scheduling.standing import due
from tessera_hub.scheduling.translation import cluster_state, queue_states, shape_of
from tessera_hub.schemas.protocol import Inventory
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.resources import ResourceVector
from tessera_hub.schemas.tasks import Phase, TaskDraft, TaskKind
from tessera_hub.store import Store
from tessera_hub.store.tables import Cluster, RunRow, TaskRow
from tessera_hub.tasks.submission import Destination, SubmissionError

KEEP_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What would happen to a task.

    Attributes:
        never: it can never be placed; the reasons say why.
        now: the next cycle would place it.
        clusters: names of the clusters that could take it now, best first.
        cluster: the one a cycle would choose.
        charge: what it would take from its queue, classes settled; empty when unknown.
        ahead: waiting tasks of the same queue, without those planned for later.
    """

    never: bool
    now: bool
    reasons: tuple[Reason, ...]
    clusters: tuple[str, ...] = ()
    cluster: str | None = None
    charge: ResourceVector = field(default_factory=dict)
    ahead: int = 0


_kept: WeakKeyDictionary[Store, tuple[float, Admission]] = WeakKeyDictionary()
_reading: WeakKeyDictionary[Store, asyncio.Lock] = WeakKeyDictionary()


class Admission:
    """Clusters and queues as they were up to two seconds ago."""

    def __init__(
        self,
        clusters: tuple[ClusterState, ...],
        queues: tuple[QueueState, ...],
        environments: dict[str, frozenset[str]],
        kernels: dict[str, frozenset[str]],
        waiting: dict[int, int],
    ) -> None:
        self.clusters = clusters
        self.queues = queues
        self.queue_ids = frozenset(queue.id for queue in queues)
        self.environments = environments
        self.kernels = kernels
        self.waiting = waiting
        self.cluster_ids = {c.name: c.id for c in clusters}
        self.names = {c.id: c.name for c in clusters}
        self._never: dict[tuple[str, str, str, str | None], tuple[Reason, ...]] = {}

    @classmethod
    async def current(cls, store: Store, session: AsyncSession, where: Destination | None = None) -> Admission:
        """Return the kept view, or read a new one: after two seconds, or if *where* is a queue that was made since."""

        def good() -> Admission | None:
            since, view = _kept.get(store) or (-KEEP_SECONDS, None)
            if view is None or time.monotonic() - since >= KEEP_SECONDS:
                return None
            return view if where is None or str(where.queue_id) in view.queue_ids else None

        if (view := good()) is not None:
            return view
        async with _reading.setdefault(store, asyncio.Lock()):  # a hundred that wait read it once
            if (view := good()) is None:
                view = await cls.load(session)
                _kept[store] = (time.monotonic(), view)
            return view

    @classmethod
    async def load(cls, session: AsyncSession) -> Admission:
        """Read clusters, queues and how many wait."""
        rows = (await session.scalars(select(Cluster), execution_options={"populate_existing": True})).all()
        tree: QueueTree = await load_tree(session)
        held = await promised(session)
        price_by_dimension = await _prices(session, rows)
        waiting = await session.execute(
            select(RunRow.queue_id, func.count())
            .join(TaskRow, TaskRow.id == RunRow.task_id)
            .where(RunRow.phase == Phase.QUEUED.value, due(datetime.now(UTC)))
            .group_by(RunRow.queue_id)
        )
        environments: dict[str, set[str]] = {}
        kernels: dict[str, set[str]] = {}
        for row in rows:
            inventory = Inventory.model_validate(row.inventory) if row.inventory else Inventory(pools=[])
            for name, how in inventory.environments.items():
                environments.setdefault(name, set()).add(str(row.id))
                kernels.setdefault(name, set()).update(str(k) for k in how.get("kernels") or ())
        return cls(
            tuple(cluster_state(row, price_by_dimension, held.get(row.id, {})) for row in rows),
            queue_states(tree),
            {n: frozenset(ids) for n, ids in environments.items()},
            {n: frozenset(k) for n, k in kernels.items()},
            {row[0]: row[1] for row in waiting.all()},
        )

    def check_names(self, spec: TaskDraft, is_open: Callable[[str], bool], tenant: str) -> None:
        """Refuse names that no connected cluster knows, an environment that *is_open* says is not the person's, and a data set
        that *tenant* may not read, or no workspace has where one is asked for, as if it were not there.

        Before any cluster ever connected no name is unknown, but for data sets.

        Raises:
            SubmissionError: ``cluster.unknown``, ``dataset.unknown``, ``environment.not_allowed``, ``environment.unknown`` or
                ``kernel.unknown``.
        """
        mine = self._datasets_of(tenant, workspaces=spec.kind is TaskKind.WORKSPACE) if spec.datasets else frozenset()
        for name in spec.datasets:
            if name not in mine:
                raise SubmissionError("dataset.unknown", dataset=name, tenant=tenant, datasets=sorted(mine))
        for name in spec.clusters or ():
            if name not in self.cluster_ids:
                raise SubmissionError("cluster.unknown", cluster=name, clusters=sorted(self.cluster_ids))
        if not is_open(spec.environment) or (self.environments and spec.environment not in self.environments):
            code = "environment.unknown" if is_open(spec.environment) else "environment.not_allowed"
            raise SubmissionError(code, environment=spec.environment, environments=sorted(filter(is_open, self.environments)))
        known = self.kernels.get(spec.environment)
        if spec.kernel and known and spec.kernel not in known:
            raise SubmissionError("kernel.unknown", kernel=spec.kernel, environment=spec.environment, kernels=sorted(known))

    def _datasets_of(self, tenant: str, *, workspaces: bool) -> frozenset[str]:
        """Return the data sets that a tenant may read, at the clusters that it may use; with *workspaces* only in those."""
        return frozenset(
            name
            for cluster in self.clusters
            if cluster.tenants is None or tenant in cluster.tenants
            for name, readers in cluster.datasets.items()
            if readers is None or tenant in readers
            if not workspaces or (cluster.workspaces and name in cluster.workspace_datasets)
        )

    def never(self, spec: TaskDraft, where: Destination) -> tuple[Reason, ...]:
        """Return why *spec* can never start in that queue as things are set up; empty if it can.

        Before any cluster has reported what it has, nothing is known never to fit. The answer for one shape is worked out
        once for the life of this view.
        """
        if not self.environments:
            return ()
        run = self._asked(spec, where)
        key = (run.shape.digest, run.queue_id, run.tenant_id, run.policy)
        found = self._never.get(key)
        if found is None:
            snapshot = Snapshot(self.clusters, self.queues, PendingSet())
            found = self._never[key] = tuple(_reason(r) for r in never_fits(run, snapshot))
        return found

    def _asked(self, spec: TaskDraft, where: Destination) -> PendingRun:
        return PendingRun(
            run_id="asked",
            task_id="asked",
            queue_id=str(where.queue_id),
            tenant_id=where.tenant,
            submitted_at=datetime.now(UTC),
            shape=shape_of(spec, cluster_ids=self.cluster_ids),
            priority=spec.priority,
            policy=spec.policy,
        )

    def judge(self, spec: TaskDraft, where: Destination) -> Verdict:
        """Return what the next cycle would do with *spec* if nothing else waited before it."""
        ahead = self.waiting.get(where.queue_id, 0)
        never = self.never(spec, where)
        if never:
            return Verdict(True, False, never, ahead=ahead)
        snapshot = Snapshot.of(self.clusters, self.queues, [self._asked(spec, where)])
        decision = next(iter(schedule(snapshot, datetime.now(UTC))), None)
        if decision is None or decision.action is not Action.PLACE:
            reasons = tuple(_reason(r) for r in decision.reasons) if decision else ()
            return Verdict(False, False, reasons, ahead=ahead)
        scores = decision.explanation.get("scores")
        names = [str(s.get("cluster")) for s in scores if isinstance(s, dict)] if isinstance(scores, list) else []
        best = self.names.get(decision.cluster_id or "", "")
        ordered = tuple(dict.fromkeys([best, *(self.names.get(n, n) for n in names)]))
        return Verdict(False, ahead == 0, (), ordered, best, dict(decision.charge), ahead)


def _reason(found: DecidedReason) -> Reason:
    return Reason.model_validate(found.as_json())


async def _prices(session: AsyncSession, rows: Sequence[Cluster]) -> dict[str, int]:
    """Return the prices of every dimension that *rows* have."""
    book = await prices(session)
    return prices_of(book, {d for row in rows for pool in (row.inventory or {}).get("pools", ()) for d in pool.get("total", ())})


def prices_of(book: PriceList, dimensions: Iterable[str]) -> dict[str, int]:
    """Return nano-units per unit-hour of the metered unit, by dimension, as the scheduler compares them."""
    now = int(time.time())
    found = {}
    for dimension in sorted(dimensions):
        version = book.at(now, tenant="", cluster="", dimension=dimension, mode="on-demand")
        if version is not None:
            found[dimension] = version.nano_per_unit_hour // version.unit_size
    return found

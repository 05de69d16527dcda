"""Waiting runs, grouped so that a cycle need not touch each of them.

A *lane* holds the runs of one queue that are alike in all that decides a verdict (shape, tenant, policy), in the order
in which the queue serves them. If the first one of a lane cannot be placed, none of the lane can, so a cycle looks at
heads only. Adding and removing cost a binary search, whatever else waits.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from datetime import datetime
from hashlib import blake2b
from typing import TypeAlias

from tessera_hub.scheduling.snapshot import PendingRun, Shape

OrderKey: TypeAlias = tuple[int, datetime, str]
LaneKey: TypeAlias = tuple[str, str, str, str | None]


class Lane:
    """Runs of one queue that share a verdict. ``order`` is sorted; ``group`` names the lane in stored decisions."""

    __slots__ = ("group", "key", "order", "policy", "queue_id", "runs", "shape", "tenant_id")

    def __init__(self, run: PendingRun) -> None:
        self.key: LaneKey = lane_key(run)
        self.queue_id = run.queue_id
        self.tenant_id = run.tenant_id
        self.shape: Shape = run.shape
        self.policy = run.policy
        self.order: list[OrderKey] = []
        self.runs: dict[str, PendingRun] = {}
        self.group = blake2b(repr(self.key).encode(), digest_size=12).hexdigest()

    def __len__(self) -> int:
        return len(self.order)

    def at(self, position: int) -> PendingRun:
        """Return the run at a position of the order."""
        return self.runs[self.order[position][2]]

    def count_before(self, key: OrderKey) -> int:
        """Return how many runs of this lane come before ``key``."""
        return bisect_left(self.order, key)


def lane_key(run: PendingRun) -> LaneKey:
    """Return what must be equal for two runs to share a verdict."""
    return (run.queue_id, run.shape.digest, run.tenant_id, run.policy)


class PendingSet:
    """All waiting runs. The loop changes it between cycles; a cycle only reads."""

    __slots__ = ("_by_run", "lanes")

    def __init__(self, runs: Iterable[PendingRun] = ()) -> None:
        self.lanes: dict[LaneKey, Lane] = {}
        self._by_run: dict[str, Lane] = {}
        self.add_many(runs)

    def __len__(self) -> int:
        return len(self._by_run)

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._by_run

    def __iter__(self) -> Iterator[PendingRun]:
        return (lane.runs[run_id] for run_id, lane in self._by_run.items())

    def get(self, run_id: str) -> PendingRun | None:
        """Return the waiting run of this id, or None."""
        lane = self._by_run.get(run_id)
        return None if lane is None else lane.runs[run_id]

    def lane_of(self, run_id: str) -> Lane | None:
        """Return the lane that a run waits in, or None."""
        return self._by_run.get(run_id)

    def add(self, run: PendingRun) -> None:
        """Add a run, or replace the one of the same id (another priority, for example)."""
        self.remove(run.run_id)
        insort(self._place(run).order, run.order)

    def add_many(self, runs: Iterable[PendingRun]) -> None:
        """Add many runs at once, in any order; as :meth:`add` of each, but sorting each lane once."""
        unique = {run.run_id: run for run in runs}
        self.remove_many(run_id for run_id in unique if run_id in self._by_run)
        touched: dict[LaneKey, Lane] = {}
        for run in unique.values():
            lane = self._place(run)
            lane.order.append(run.order)
            touched[lane.key] = lane
        for lane in touched.values():
            lane.order.sort()

    def remove(self, run_id: str) -> bool:
        """Remove a run; False if it does not wait here."""
        return self.remove_many((run_id,)) == 1

    def remove_many(self, run_ids: Iterable[str]) -> int:
        """Remove runs and return how many of them waited here."""
        gone: dict[LaneKey, list[OrderKey]] = {}
        for run_id in run_ids:
            lane = self._by_run.pop(run_id, None)
            if lane is not None:
                gone.setdefault(lane.key, []).append(lane.runs.pop(run_id).order)
        for key, orders in gone.items():
            lane = self.lanes[key]
            if not lane.runs:
                del self.lanes[key]
            elif len(orders) == 1:
                del lane.order[bisect_left(lane.order, orders[0])]
            else:
                leaving = set(orders)
                lane.order = [order for order in lane.order if order not in leaving]
        return sum(map(len, gone.values()))

    def _place(self, run: PendingRun) -> Lane:
        key = lane_key(run)
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = Lane(run)
        lane.runs[run.run_id] = run
        self._by_run[run.run_id] = lane
        return lane

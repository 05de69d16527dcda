"""Nobody waits for ever: which waiting run gets room kept for it.

Smaller runs may pass a run that does not fit, or cards would stand idle. A run earns a reservation when it has waited
for ``reservation_after``, is the first of its queue that waits for room (or for quota), and in this very cycle a smaller
run that came later was placed where it could have gone. Equal runs of other queues do not count: their order is the
fair one. A pool holds room for one run at a time, and the oldest is served first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tessera_hub.scheduling.capacity import Demand, PoolRoom
from tessera_hub.scheduling.pending import Lane
from tessera_hub.scheduling.places import ShapeView
from tessera_hub.scheduling.policies import MILLION
from tessera_hub.scheduling.reasons import Reason
from tessera_hub.scheduling.snapshot import Amounts, ClusterCondition, PendingRun, Reservation
from tessera_hub.scheduling.tree import QueueNode


@dataclass(frozen=True, slots=True)
class Placed:
    """A placement of this cycle, as far as it matters here."""

    submitted_at: datetime
    room: int
    charge: Amounts
    queue: QueueNode


@dataclass(slots=True)
class Waiting:
    """A lane that this cycle could not serve further: its first run, from position ``at``, and why.

    ``quota`` is the node of the queue tree whose limit stopped it, None if none did.
    """

    lane: Lane
    at: int
    head: PendingRun
    reasons: tuple[Reason, ...]
    view: ShapeView | None = None
    quota: QueueNode | None = None
    reservation: Reservation | None = None


def grant(waiting: Sequence[Waiting], placed: Sequence[Placed], *, now: datetime, after: timedelta, most: int) -> None:
    """Give ``waiting`` entries their reservations, at most ``most`` new ones."""
    if not placed:
        return
    queues = {entry.lane.queue_id for entry in waiting if entry.reservation is not None}
    pools = {(entry.reservation.cluster_id, entry.reservation.pool) for entry in waiting if entry.reservation is not None}
    by_room: dict[int, list[Placed]] = {}
    for other in placed:
        by_room.setdefault(other.room, []).append(other)
    for entry in sorted(_first_of_queues(waiting), key=lambda entry: (entry.head.submitted_at, entry.head.run_id)):
        if most <= 0 or now - entry.head.submitted_at < after:
            return
        if entry.view is None or entry.lane.queue_id in queues:
            continue
        if entry.quota is not None:
            found = _for_quota(entry, entry.quota, placed, now)
        else:
            found = _for_room(entry, entry.view, by_room, now, pools)
        if found is not None:
            entry.reservation = found
            queues.add(entry.lane.queue_id)
            pools.add((found.cluster_id, found.pool))
            most -= 1


def _first_of_queues(waiting: Sequence[Waiting]) -> list[Waiting]:
    """Return, for each queue, the first that waits for room and the first that waits for quota."""
    first: dict[tuple[str, bool], Waiting] = {}
    for entry in waiting:
        if entry.view is not None:
            key = (entry.lane.queue_id, entry.quota is None)
            known = first.get(key)
            if known is None or entry.head.order < known.head.order:
                first[key] = entry
    return list(first.values())


def _overtaken(head: PendingRun, demand: Demand, short: list[str], placed: Sequence[Placed]) -> bool:
    return any(
        other.submitted_at > head.submitted_at
        and any(0 < other.charge.get(dimension, 0) < demand.charge[dimension] for dimension in short)
        for other in placed
    )


def _for_quota(entry: Waiting, node: QueueNode, placed: Sequence[Placed], now: datetime) -> Reservation | None:
    assert entry.view is not None
    inside = [other for other in placed if node in other.queue.path]
    for _room, demand, _cost in entry.view.options.values():
        short = [d for d in demand.charge if d in node.state.limit]
        if _overtaken(entry.head, demand, short, inside):
            return Reservation(entry.head.run_id, now, queue_node=node.state.id)
    return None


def _for_room(
    entry: Waiting,
    view: ShapeView,
    by_room: Mapping[int, Sequence[Placed]],
    now: datetime,
    pools: set[tuple[str | None, str | None]],
) -> Reservation | None:
    overtaken = False
    best: tuple[int, bytes, PoolRoom] | None = None
    for index, (room, demand, _cost) in view.options.items():
        if room.cluster.state.state is not ClusterCondition.OK:
            continue
        short = [d for d, asked in demand.charge.items() if room.free.get(d, 0) < asked] or list(demand.charge)
        near = [other for i in (index, *(s.index for s in room.siblings)) for other in by_room.get(i, ())]
        overtaken = overtaken or _overtaken(entry.head, demand, short, near)
        if (room.cluster.state.id, room.state.name) not in pools:
            ready = min(min(room.free.get(d, 0), asked) * MILLION // asked for d, asked in demand.charge.items())
            if best is None or (-ready, room.tie) < best[:2]:
                best = (-ready, room.tie, room)
    if not overtaken or best is None:
        return None
    room = best[2]
    return Reservation(entry.head.run_id, now, cluster_id=room.cluster.state.id, pool=room.state.name)

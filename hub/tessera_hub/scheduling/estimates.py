"""Who is ahead of a waiting run, and when it may start.

An estimate is honest or absent: what is ahead divided by what the queue lately started per hour. Without a rate there is
no estimate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tessera_hub.scheduling.decision import Ahead
from tessera_hub.scheduling.pending import Lane, OrderKey
from tessera_hub.scheduling.reservations import Waiting
from tessera_hub.scheduling.snapshot import CPU, PendingRun, Shape, Snapshot

CARDS = "cards"
"""Key of a drain rate: centi-cards of any class."""

MOST_LANES = 64
"""A queue with more lanes than this gets no positions in a cycle's verdicts; :func:`standing_of` answers for one run."""


def cpu_of(shape: Shape) -> int:
    """Return the millicores of all replicas."""
    return sum(role.cpu * role.replicas for role in shape.roles)


def ahead_of(order: OrderKey, waiting: Sequence[Waiting]) -> Ahead | None:
    """Return what comes before ``order`` in the lanes that still wait in its queue, None if there are too many lanes."""
    if len(waiting) > MOST_LANES:
        return None
    return _sum((entry.lane, entry.lane.count_before(order) - entry.at) for entry in waiting)


def standing_of(snapshot: Snapshot, run_id: str) -> Ahead | None:
    """Return what comes before one waiting run in its queue, None if it does not wait."""
    run: PendingRun | None = snapshot.pending.get(run_id)
    if run is None:
        return None
    lanes = (lane for lane in snapshot.pending.lanes.values() if lane.queue_id == run.queue_id)
    return _sum((lane, lane.count_before(run.order)) for lane in lanes)


def _sum(counts: Iterable[tuple[Lane, int]]) -> Ahead:
    runs = centi_cards = cpu = 0
    for lane, count in counts:
        if count > 0:
            runs += count
            centi_cards += count * lane.shape.centi_cards
            cpu += count * cpu_of(lane.shape)
    return Ahead(runs, centi_cards, cpu)


def eta_seconds(shape: Shape, queue_id: str, ahead: Ahead | None, drain_per_hour: Mapping[tuple[str, str], int]) -> int | None:
    """Return the seconds until a run of ``shape`` behind ``ahead`` starts at the queue's rate, None if unknown."""
    if ahead is None:
        return None
    own = shape.centi_cards
    work = ahead.centi_cards + own if own else ahead.cpu + cpu_of(shape)
    rate = drain_per_hour.get((queue_id, CARDS if own else CPU), 0)
    return work * 3600 // rate if rate > 0 else None

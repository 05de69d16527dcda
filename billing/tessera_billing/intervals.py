"""From the events of one subject to the intervals it is billed for: a pure function of the set of events.

Duplicates are gone before (they share an id) and the order of arrival plays no part, so a stream that was cut off, repeated or
mixed up gives the same intervals as soon as the same events are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from tessera_billing.events import Action, Evidence, MeterEvent


class Basis(StrEnum):
    """Which part of max(request, usage) = request + max(0, usage - request) an interval is."""

    REQUEST = "request"


class Quality(StrEnum):
    """How far an interval can be trusted; every bill line shows the worst of its parts."""

    MEASURED = "measured"
    ESTIMATED = "estimated"
    """One of its ends is a guess."""
    NEGATIVE = "negative"
    """It stopped before it started; counted as no time at all."""


@dataclass(frozen=True, slots=True)
class UsageInterval:
    """A constant quantity of one dimension during [t0, t1), UTC seconds; ``t1`` is None while it goes on."""

    cluster: str
    subject: str
    dimension: str
    basis: Basis
    t0: int
    t1: int | None
    qty: int
    quality: Quality
    tenant: str
    principal: str
    task_id: str
    run_id: str | None
    queue: str
    kind: str
    mode: str


@dataclass(frozen=True, slots=True)
class _Held:
    since: int
    qty: int
    estimated: bool


def project(events: Iterable[MeterEvent]) -> list[UsageInterval]:
    """Return the intervals of one subject, by dimension and time.

    - It lives from its first START (earliest effective time) to its best STOP: engine or observed evidence before an estimate,
      then the earliest. Without a STOP the last intervals are open; without a START there is nothing to bill.
    - SPEC (and any later START) changes what is held from its second on; the last word within one second counts, in the order of
      START, SPEC and, among equals, guesses before knowledge and then of the event ids.
    - PAUSE leaves only what it names; RESUME brings back its spec or what was held before. Both within one second change nothing.
    - Events before the START or after the STOP change nothing; a STOP before the START makes an empty interval that is flagged.
    """
    ordered = sorted(_without_confirmed_guesses(events), key=_order)
    start = next((event for event in ordered if event.action is Action.START), None)
    if start is None:
        return []
    stops = [event for event in ordered if event.action is Action.STOP]
    stop = min(stops, key=lambda event: (event.evidence is Evidence.ESTIMATED, event.effective_at), default=None)
    if stop is not None and stop.effective_at <= start.effective_at:
        return [_empty_life(start, stop, dimension, qty) for dimension, qty in start.spec.items()]
    return sorted(_sweep(ordered, start, stop), key=lambda interval: (interval.dimension, interval.t0))


_RANK = {
    action: rank
    for rank, action in enumerate((Action.START, Action.SPEC, Action.PAUSE, Action.RESUME, Action.HEARTBEAT, Action.STOP))
}


def _order(event: MeterEvent) -> tuple[int, int, bool, bytes]:
    return event.effective_at, _RANK[event.action], event.evidence is not Evidence.ESTIMATED, event.event_id().bytes


def _without_confirmed_guesses(events: Iterable[MeterEvent]) -> Iterator[MeterEvent]:
    events = list(events)
    known = {_meaning(event) for event in events if event.evidence is not Evidence.ESTIMATED}
    return (event for event in events if event.evidence is not Evidence.ESTIMATED or _meaning(event) not in known)


def _meaning(event: MeterEvent) -> tuple[Action, int, tuple[tuple[str, int], ...]]:
    return event.action, event.effective_at, tuple(event.spec.items())


def _sweep(ordered: Iterable[MeterEvent], start: MeterEvent, stop: MeterEvent | None) -> Iterator[UsageInterval]:
    """Walk second by second through the changes; equal neighbours stay one interval."""
    held: dict[str, _Held] = {}
    for second, changes in _levels(ordered, start, stop):
        level, estimated = changes
        for dimension in sorted(held.keys() | level.keys()):
            before, qty = held.get(dimension), level.get(dimension, 0)
            if before is not None and before.qty == qty:
                continue
            if before is not None:
                yield _interval(start, dimension, before, second, estimated)
                del held[dimension]
            if qty:
                held[dimension] = _Held(second, qty, estimated)
    for dimension, before in held.items():
        if stop is None:
            yield _interval(start, dimension, before, None, estimated=False)
        else:
            yield _interval(start, dimension, before, stop.effective_at, stop.evidence is Evidence.ESTIMATED)


def _levels(
    ordered: Iterable[MeterEvent], start: MeterEvent, stop: MeterEvent | None
) -> Iterator[tuple[int, tuple[Mapping[str, int], bool]]]:
    """Yield each second at which something was said, with what is held from then on and whether that rests on a guess."""
    running: Mapping[str, int] = {}
    suspended: Mapping[str, int] | None = None
    for second, group in groupby(ordered, key=lambda event: event.effective_at):
        if second < start.effective_at:
            continue
        if stop is not None and second >= stop.effective_at:
            return
        now = [event for event in group if event.action not in (Action.HEARTBEAT, Action.STOP)]
        for event in now:
            if event.action in (Action.START, Action.SPEC):
                running = event.spec
        pauses = [event for event in now if event.action is Action.PAUSE]
        resumes = [event for event in now if event.action is Action.RESUME]
        if pauses and not resumes:
            suspended = pauses[-1].spec
        elif resumes and not pauses:
            suspended = None
            running = resumes[-1].spec or running
        yield second, (running if suspended is None else suspended, any(e.evidence is Evidence.ESTIMATED for e in now))


def _interval(start: MeterEvent, dimension: str, held: _Held, end: int | None, estimated: bool) -> UsageInterval:
    quality = Quality.ESTIMATED if held.estimated or estimated else Quality.MEASURED
    return _attributed(start, dimension, held.since, end, held.qty, quality)


def _empty_life(start: MeterEvent, stop: MeterEvent, dimension: str, qty: int) -> UsageInterval:
    quality = Quality.NEGATIVE if stop.effective_at < start.effective_at else Quality.MEASURED
    return _attributed(start, dimension, start.effective_at, start.effective_at, qty, quality)


def _attributed(start: MeterEvent, dimension: str, t0: int, t1: int | None, qty: int, quality: Quality) -> UsageInterval:
    return UsageInterval(
        cluster=start.cluster,
        subject=start.subject,
        dimension=dimension,
        basis=Basis.REQUEST,
        t0=t0,
        t1=t1,
        qty=qty,
        quality=quality,
        tenant=start.tenant,
        principal=start.principal,
        task_id=start.task_id,
        run_id=start.run_id,
        queue=start.queue,
        kind=start.kind,
        mode=start.mode,
    )

"""The event ledger: writing events once, and keeping the intervals that follow from them."""

from __future__ import annotations

import hashlib
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from tessera_billing.events import Action, Evidence, MeterEvent
from tessera_billing.intervals import Basis, Quality, UsageInterval, project
from tessera_billing.tables import meter_event, usage_interval

Item = TypeVar("Item")
Subject = tuple[str, str]
"""(cluster, native uid)."""

_ATTRIBUTION = ("tenant", "principal", "task_id", "run_id", "queue", "kind", "mode")
_BATCH = 500
_LOCK_NAMESPACE = 0x7E55
_LOCKS = 256


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a batch of events.

    Attributes:
        accepted: how many were new.
        duplicate: how many were in the ledger already, or twice in the batch.
        conflicting: ids that are in the ledger for another tenant, person, task or the like; the first one stands.
        waiting: subjects of the batch that have no START yet and so are not billed yet.
    """

    accepted: int
    duplicate: int
    conflicting: tuple[uuid.UUID, ...] = ()
    waiting: tuple[Subject, ...] = ()


def record(connection: sa.Connection, events: Iterable[MeterEvent]) -> Recorded:
    """Add events to the ledger and bring their subjects' intervals up to date, in the caller's transaction.

    Any event may come any number of times, in any order. On PostgreSQL the subjects are locked until the transaction ends, so
    two writers never project from half of the events (isolation READ COMMITTED, the default); record at most one batch per
    transaction, or two writers may wait for each other until PostgreSQL ends one of them.
    """
    batch = list(events)
    unique = {event.event_id(): event for event in batch}
    if not unique:
        return Recorded(0, 0)
    subjects = {(event.cluster, event.subject) for event in unique.values()}
    _lock(connection, subjects)
    fresh = _insert(connection, unique)
    known = [event_id for event_id in unique if event_id not in fresh]
    changed = {(unique[i].cluster, unique[i].subject) for i in fresh if unique[i].action is not Action.HEARTBEAT}
    started = _reproject(connection, changed)
    waiting = (subjects - changed) - _with_intervals(connection, subjects - changed)
    return Recorded(
        accepted=len(fresh),
        duplicate=len(batch) - len(fresh),
        conflicting=tuple(_conflicts(connection, {i: unique[i] for i in known})),
        waiting=tuple(sorted((changed - started) | waiting)),
    )


def rebuild(connection: sa.Connection) -> int:
    """Throw all intervals away and derive them again from the ledger; return how many there are."""
    connection.execute(sa.delete(usage_interval))
    everything = connection.execute(sa.select(meter_event.c.cluster, meter_event.c.subject).distinct()).all()
    subjects = sorted((cluster, subject) for cluster, subject in everything)
    for some in _batches(subjects):
        _reproject(connection, set(some))
    return connection.execute(sa.select(sa.func.count()).select_from(usage_interval)).scalar_one()


def events_of(connection: sa.Connection, subjects: Iterable[Subject]) -> dict[Subject, list[MeterEvent]]:
    """Return what the ledger holds about some subjects, in no particular order."""
    found: dict[Subject, list[MeterEvent]] = defaultdict(list)
    for some in _batches(sorted(subjects)):
        for row in connection.execute(sa.select(meter_event).where(_any_subject(meter_event, some))).mappings():
            values = {name: value for name, value in row.items() if name != "event_id"}
            values |= {"action": Action(row["action"]), "evidence": Evidence(row["evidence"])}
            found[row["cluster"], row["subject"]].append(MeterEvent(**values))
    return found


def intervals(
    connection: sa.Connection,
    start: int,
    end: int,
    *,
    tenant: str | None = None,
    principal: str | None = None,
    task_ids: Sequence[str] | None = None,
) -> list[UsageInterval]:
    """Return the intervals that touch [start, end), UTC seconds, in a fixed order, those without length included."""
    table = usage_interval.c
    conditions = [table.t0 < end, sa.or_(table.t1.is_(None), table.t1 > start, sa.and_(table.t1 == table.t0, table.t0 >= start))]
    for column, value in ((table.tenant, tenant), (table.principal, principal)):
        if value is not None:
            conditions.append(column == value)
    if task_ids is not None:
        conditions.append(table.task_id.in_(task_ids))
    order = (table.cluster, table.subject, table.dimension, table.basis, table.t0)
    rows = connection.execute(sa.select(usage_interval).where(*conditions)).mappings()
    found = [UsageInterval(**{**row, "basis": Basis(row["basis"]), "quality": Quality(row["quality"])}) for row in rows]
    # In Python, since databases sort text by different rules.
    return sorted(found, key=lambda interval: tuple(getattr(interval, column.name) for column in order))


def _lock(connection: sa.Connection, subjects: Iterable[Subject]) -> None:
    if connection.dialect.name != "postgresql":
        return  # SQLite has one writer
    keys = sorted({hashlib.sha256(repr(subject).encode()).digest()[0] % _LOCKS for subject in subjects})
    key = sa.func.unnest(sa.cast(sa.literal(keys), postgresql.ARRAY(sa.Integer))).column_valued("key")
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_NAMESPACE, key)))


def _insert(connection: sa.Connection, events: dict[uuid.UUID, MeterEvent]) -> set[uuid.UUID]:
    """Insert what is not there and return the ids of it."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(meter_event).on_conflict_do_nothing().returning(meter_event.c.event_id)
    # One order for all writers, so that two of them with the same events wait for each other and do not deadlock.
    rows = [{"event_id": event_id, **asdict(events[event_id])} for event_id in sorted(events)]
    return set(connection.execute(statement, rows).scalars())


def _conflicts(connection: sa.Connection, events: dict[uuid.UUID, MeterEvent]) -> Iterator[uuid.UUID]:
    columns = [meter_event.c[name] for name in _ATTRIBUTION]
    for some in _batches(sorted(events)):
        rows = connection.execute(sa.select(meter_event.c.event_id, *columns).where(meter_event.c.event_id.in_(some)))
        for event_id, *stored in rows:
            if stored != [getattr(events[event_id], name) for name in _ATTRIBUTION]:
                yield event_id


def _reproject(connection: sa.Connection, subjects: set[Subject]) -> set[Subject]:
    """Derive the intervals of some subjects anew and return those that have any."""
    rows: list[dict[str, Any]] = []
    started = set()
    events = events_of(connection, subjects)
    for subject in sorted(events):
        projected = project(events[subject])
        rows += [asdict(interval) for interval in projected]
        if projected:
            started.add(subject)
    for some in _batches(sorted(subjects)):
        connection.execute(sa.delete(usage_interval).where(_any_subject(usage_interval, some)))
    if rows:
        connection.execute(sa.insert(usage_interval), rows)
    return started


def _with_intervals(connection: sa.Connection, subjects: set[Subject]) -> set[Subject]:
    found: set[Subject] = set()
    for some in _batches(sorted(subjects)):
        columns = (usage_interval.c.cluster, usage_interval.c.subject)
        found |= {(c, s) for c, s in connection.execute(sa.select(*columns).where(_any_subject(usage_interval, some)).distinct())}
    return found


def _any_subject(table: sa.Table, subjects: Sequence[Subject]) -> sa.ColumnElement[bool]:
    by_cluster: dict[str, list[str]] = defaultdict(list)
    for cluster, subject in subjects:
        by_cluster[cluster].append(subject)
    return sa.or_(sa.false(), *(sa.and_(table.c.cluster == c, table.c.subject.in_(s)) for c, s in sorted(by_cluster.items())))


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch

"""Checked specifications into the store: one task, one queued run, one event each, a few statements for all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import insert as core_insert
from sqlalchemy import text
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.schemas.tasks import Phase, TaskSpec
from tessera_hub.store.notify import SCHEDULE, note
from tessera_hub.store.tables import RunChange, RunRow, TaskEventRow, TaskRow
from tessera_hub.tasks.machine import announce
from tessera_hub.tasks.submission import (
    Destination,
    SubmissionError,
    check_repeat,
    made_by_keys,
    requested,
    specification_hash,
)


@dataclass(frozen=True, slots=True)
class Submission:
    """A checked specification on its way into the store.

    Attributes:
        key: idempotency key.
        body: the specification as JSON.
        digest: its :func:`specification_hash`.
        server_name: JupyterHub server of a workspace.
    """

    spec: TaskSpec
    where: Destination
    key: str | None
    body: dict[str, Any]
    digest: str
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored task. ``run`` is its first run when it is ``new``; a repeat of a key says only which task it made."""

    task: TaskRow
    run: RunRow | None
    new: bool


async def store_tasks(
    session: AsyncSession, items: Sequence[Submission], *, principal_id: int, actor: str
) -> list[Stored | SubmissionError]:
    """Store checked tasks of one principal, each with its first run, QUEUED, a fixed number of statements for all of them.

    Two calls with the same key in the same instant make one task, and so do two items with the same key: the unique
    constraint decides, the loser is told the winner's. A key that was used for another specification is an
    ``idempotency.mismatch`` in its place of the answer; the other items are stored.
    """
    now = datetime.now(UTC)
    made = [_rows(item, principal_id, actor, now) for item in items]
    # In the order of the keys, so that two calls that repeat each other do not lock each other out.
    ordered = [made[i] for i in sorted(range(len(items)), key=lambda i: (items[i].key or "", i))]
    sqlite = session.get_bind().dialect.name == "sqlite"
    stored = await (_insert_each_table if sqlite else _insert_at_once)(session, ordered)
    if stored:
        note(session, SCHEDULE)
    refused = [item.key for item, rows in zip(items, made, strict=True) if rows.task["id"] not in stored]
    earlier = await made_by_keys(session, principal_id, refused) if refused else {}
    answers: list[Stored | SubmissionError] = []
    for item, rows in zip(items, made, strict=True):
        if rows.task["id"] in stored:
            task = TaskRow(**rows.task)
            announce(session, task)
            answers.append(Stored(task, RunRow(**rows.run), True))
            continue
        try:
            check_repeat(earlier[item.key or ""], item.digest)
            answers.append(Stored(earlier[item.key or ""], None, False))
        except SubmissionError as error:
            answers.append(error)
    return answers


async def _insert_each_table(session: AsyncSession, made: Sequence[_Rows]) -> set[UUID]:
    """Insert the rows of those tasks whose key is new, and return the tasks' ids."""
    statement = sqlite_insert(TaskRow).on_conflict_do_nothing().returning(TaskRow.id)
    stored = set((await session.execute(statement, [rows.task for rows in made])).scalars().all())
    new = [rows for rows in made if rows.task["id"] in stored]
    if new:
        await session.execute(core_insert(RunRow), [rows.run for rows in new])
        await session.execute(core_insert(RunChange), [{"run_id": rows.run["id"]} for rows in new])
        await session.execute(core_insert(TaskEventRow), [rows.event for rows in new])
    return stored


# What is stored arrives as three JSON arrays that have the form of their tables.
_INSERT = text(
    "WITH t AS (INSERT INTO task (id, name, kind, principal_id, tenant_id, queue_id, priority, phase, spec, request, server_name,"
    " idempotency_key, idempotency_hash, not_before, run_id, attempts, created_at, version)"
    " SELECT id, name, kind, principal_id, tenant_id, queue_id, priority, phase, spec, request, server_name,"
    " idempotency_key, idempotency_hash, not_before, run_id, attempts, created_at, version"
    " FROM ROWS FROM (jsonb_populate_recordset(NULL::task, CAST(:task AS jsonb))) WITH ORDINALITY AS w ORDER BY w.ordinality"
    " ON CONFLICT DO NOTHING RETURNING id, run_id),"
    " r AS (INSERT INTO run (id, task_id, queue_id, attempt, phase, phase_at, queued_at, charge, reasons, progress, excluded)"
    " SELECT w.id, w.task_id, w.queue_id, w.attempt, w.phase, w.phase_at, w.queued_at, w.charge, w.reasons, w.progress,"
    " w.excluded FROM jsonb_populate_recordset(NULL::run, CAST(:run AS jsonb)) AS w JOIN t ON t.run_id = w.id),"
    " c AS (INSERT INTO run_change (run_id) SELECT run_id FROM t),"
    " e AS (INSERT INTO task_event (id, task_id, run_id, at, recorded_at, actor, kind, phase_from, phase_to, reason, detail)"
    " SELECT w.id, w.task_id, w.run_id, w.at, w.recorded_at, w.actor, w.kind, w.phase_from, w.phase_to, w.reason, w.detail"
    " FROM jsonb_populate_recordset(NULL::task_event, CAST(:event AS jsonb)) AS w JOIN t ON t.id = w.task_id)"
    " SELECT id FROM t"
)


async def _insert_at_once(session: AsyncSession, made: Sequence[_Rows]) -> set[UUID]:
    """As :func:`_insert_each_table`, in one statement of PostgreSQL."""
    given = {
        "task": json.dumps([rows.task for rows in made], default=str),
        "run": json.dumps([rows.run for rows in made], default=str),
        "event": json.dumps([rows.event for rows in made], default=str),
    }
    return set((await session.execute(_INSERT, given)).scalars().all())


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of one new task, as plain values."""

    task: dict[str, Any]
    run: dict[str, Any]
    event: dict[str, Any]


def _rows(item: Submission, principal_id: int, actor: str, now: datetime) -> _Rows:
    task_id, run_id = uuid4(), uuid4()
    spec, where = item.spec, item.where
    at = spec.schedule.at if spec.schedule else None
    task = {
        "id": task_id,
        "name": spec.name,
        "kind": spec.kind.value,
        "principal_id": principal_id,
        "tenant_id": where.tenant_id,
        "queue_id": where.queue_id,
        "priority": spec.priority,
        "phase": Phase.QUEUED.value,
        "spec": item.body,
        "request": requested(spec),
        "server_name": item.server_name,
        "idempotency_key": item.key,
        "idempotency_hash": item.digest,
        "not_before": at.astimezone(UTC) if at and at > now else None,
        "run_id": run_id,
        "attempts": 1,
        "created_at": now,
        "version": 1,
    }
    return _Rows(
        task,
        _run_values(run_id, task_id, where.queue_id, attempt=1, now=now, excluded=[]),
        _queued_event(run_id, task_id, attempt=1, actor=actor, now=now),
    )


def _run_values(
    run_id: UUID, task_id: UUID, queue_id: int, *, attempt: int, now: datetime, excluded: list[str]
) -> dict[str, Any]:
    return {
        "id": run_id,
        "task_id": task_id,
        "queue_id": queue_id,
        "attempt": attempt,
        "phase": Phase.QUEUED.value,
        "phase_at": now,
        "queued_at": now,
        "charge": {},
        "reasons": [],
        "progress": {},
        "excluded": excluded,
    }


def _queued_event(run_id: UUID, task_id: UUID, *, attempt: int, actor: str, now: datetime) -> dict[str, Any]:
    return {
        "id": uuid4(),
        "task_id": task_id,
        "run_id": run_id,
        "at": now,
        "recorded_at": now,
        "actor": actor,
        "kind": "phase",
        "phase_from": None,
        "phase_to": Phase.QUEUED.value,
        "reason": None,
        "detail": {"attempt": attempt},
    }


async def store_task(
    session: AsyncSession,
    spec: TaskSpec,
    where: Destination,
    *,
    principal_id: int,
    actor: str,
    key: str | None,
    server_name: str | None = None,
) -> tuple[TaskRow, bool]:
    """Store one checked task as :func:`store_tasks` does, and return it and whether it is new.

    Raises:
        SubmissionError: ``idempotency.mismatch``.
    """
    body = spec.model_dump(mode="json")
    item = Submission(spec, where, key, body, specification_hash(body), server_name)
    (answer,) = await store_tasks(session, [item], principal_id=principal_id, actor=actor)
    if isinstance(answer, SubmissionError):
        raise answer
    return answer.task, answer.new


def add_run(
    session: AsyncSession,
    run_id: UUID,
    task_id: UUID,
    queue_id: int,
    *,
    attempt: int,
    actor: str,
    now: datetime,
    excluded: list[str] | None = None,
) -> None:
    """Add a queued run with its event and tell the scheduler."""
    session.add(RunRow(**_run_values(run_id, task_id, queue_id, attempt=attempt, now=now, excluded=excluded or [])))
    session.add(RunChange(run_id=run_id))
    session.add(TaskEventRow(**_queued_event(run_id, task_id, attempt=attempt, actor=actor, now=now)))
    note(session, SCHEDULE)

"""Workspaces: from the reservation to the running server and back.

A workspace is a task like any other: it waits in the queue, holds quota, is metered. When the scheduler has reserved its
resources, :class:`WorkspaceKeeper` asks JupyterHub to start the server; the spawner fetches the reservation, starts the
process and reports start and end, which are metered here. A reservation that is not taken up in time, a server that ended
while nobody could report it, and a wish to cancel are settled by the keeper, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_billing.events import Action, Evidence, MeterEvent
from tessera_billing.ledger import events_of, record
from tessera_hub.api.context import Context
from tessera_hub.hubapi import HubError
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.tasks import Phase, TaskKind, TaskSpec
from tessera_hub.schemas.workspaces import Reservation, WorkspaceState
from tessera_hub.store.notify import SCHEDULE
from tessera_hub.store.tables import Cluster, Principal, Queue, RunRow, TaskRow, Tenant
from tessera_hub.tasks.control import request_cancel
from tessera_hub.tasks.machine import LIVE, TransitionError, announce, lock_run, transition
from tessera_hub.tasks.reasons import reason

log = structlog.get_logger(__name__)

GRANTED: Final = (Phase.RESERVED, Phase.DISPATCHED, Phase.PENDING, Phase.STARTING)
RETRY_SECONDS: Final = 5.0
"""Pause between two attempts to make the hub start a server."""
GONE_SECONDS: Final = 20.0
"""How long the hub must not know a server before its run is ended without a report."""
HEARTBEAT_SECONDS: Final = 60.0


async def run(context: Context) -> None:
    """Keep workspaces in step for as long as the service runs."""
    await WorkspaceKeeper(context).run()


async def principal_of(session: AsyncSession, context: Context, user: str) -> Principal | None:
    """Return the principal of the hub's present user of that name."""
    model = await context.hub.user(user)
    if model is None:
        return None
    query = select(Principal).where(
        Principal.issuer == context.settings.hub_api_url,
        Principal.kind == "user",
        Principal.hub_name == user,
        Principal.hub_created == model["created"],
    )
    return (await session.scalars(query)).first()


async def live_workspace(session: AsyncSession, principal_id: int, server: str) -> TaskRow | None:
    """Return the workspace of that server which has not ended, None if there is none."""
    query = (
        select(TaskRow)
        .where(
            TaskRow.principal_id == principal_id,
            TaskRow.kind == TaskKind.WORKSPACE.value,
            TaskRow.server_name == server,
            TaskRow.phase.in_(LIVE),
        )
        .order_by(TaskRow.created_at.desc())
    )
    return (await session.scalars(query, execution_options={"populate_existing": True})).first()


async def workspace_key(session: AsyncSession, principal_id: int, server: str) -> str:
    """Return the idempotency key of the server's next workspace, so that two requests at once make one task."""
    query = select(func.count()).where(
        TaskRow.principal_id == principal_id, TaskRow.kind == TaskKind.WORKSPACE.value, TaskRow.server_name == server
    )
    return f"workspace/{server}/{int(await session.scalar(query) or 0)}"


async def reservation_of(session: AsyncSession, principal: Principal, server: str) -> Reservation:
    """Return what the server of that person is granted now."""
    task = await live_workspace(session, principal.id, server)
    if task is None:
        return Reservation(state="none")
    run = await session.get(RunRow, task.run_id, populate_existing=True)
    assert run is not None
    granted = Phase(run.phase) in GRANTED and run.lease_token is not None and task.cancel_requested_at is None
    if not granted:
        waiting = Phase(run.phase) is Phase.QUEUED
        return Reservation(state="waiting" if waiting else "none", task_id=str(task.id), run_id=str(run.id))
    tenant = await session.get(Tenant, task.tenant_id)
    cluster = await session.get(Cluster, run.cluster_id)
    queue = await session.get(Queue, task.queue_id)
    assert tenant is not None and cluster is not None and run.lease_token is not None  # noqa: PT018
    return Reservation(
        state="granted",
        task_id=str(task.id),
        run_id=str(run.id),
        lease_token=run.lease_token,
        principal_id=principal.id,
        tenant_id=tenant.id,
        tenant=tenant.name,
        cluster=cluster.name,
        queue=queue.path if queue is not None else "",
        spec=TaskSpec.model_validate(task.spec),
        card_class=run.card_class,
        expires_at=run.expires_at,
    )


async def report(session: AsyncSession, run_id: UUID, state: WorkspaceState, *, actor: str) -> None:
    """Take a spawner's report: move the run and meter its start and end.

    Raises:
        TransitionError: ``run.unknown``, ``run.stale_lease``, or ``run.illegal_transition`` for a run that has ended.
    """
    run, task = await lock_run(session, run_id)
    if run.lease_token != state.lease_token:
        raise TransitionError("run.stale_lease", f"run {run_id}: the lease token is not the current one")
    to = Phase(state.phase)
    charge = {d: int(a) for d, a in run.charge.items() if int(a)}
    before = Phase(run.phase)
    reasons = [reason(state.reason, **state.detail)] if state.reason else []
    if to.final and task.cancel_why == "limit":
        reasons = [reason("limit.time")]
    if to is Phase.SUCCEEDED and before is not Phase.RUNNING and before is not Phase.UNKNOWN and task.cancel_requested_at:
        to = Phase.CANCELLED
    if to is before is Phase.STARTING:
        await store_reasons(session, run, task, reasons)
        return
    done = await transition(
        session, run_id, to, actor=actor, reasons=reasons, lease_token=state.lease_token, at=state.at, native_id=state.native_id
    )
    if done is None:
        return
    if to is Phase.RUNNING:
        run.expires_at = None
        await meter(session, run, task, Action.START, done.at, charge)
    elif to.final and run.started_at is not None:
        await meter(session, run, task, Action.STOP, done.at)


async def store_reasons(session: AsyncSession, run: RunRow, task: TaskRow, reasons: list[Reason]) -> None:
    """Keep why a server takes its time to start, which changes while its phase does not."""
    new = [reason.model_dump(mode="json") for reason in reasons]
    if new != (run.reasons or []):
        run.reasons = new
        task.version += 1
        announce(session, task, run)


async def meter(
    session: AsyncSession,
    run: RunRow,
    task: TaskRow,
    action: Action,
    at: datetime,
    spec: dict[str, int] | None = None,
    evidence: Evidence = Evidence.ENGINE,
) -> None:
    """Write one event of a workspace to the ledger, in the caller's transaction."""
    tenant = await session.get(Tenant, task.tenant_id)
    queue = await session.get(Queue, task.queue_id)
    cluster = await session.get(Cluster, run.cluster_id)
    assert tenant is not None and queue is not None and cluster is not None  # noqa: PT018
    event = MeterEvent(
        cluster=cluster.name,
        subject=f"workspace/{run.id}",
        action=action,
        effective_at=int(at.timestamp()),
        observed_at=int(time.time()),
        tenant=tenant.name,
        principal=f"principal:{task.principal_id}",
        task_id=str(task.id),
        run_id=str(run.id),
        kind=task.kind,
        queue=queue.path,
        spec=spec or {},
        source="spawner",
        evidence=evidence,
    )
    await session.run_sync(lambda s: record(s.connection(), [event]))


@dataclass(frozen=True, slots=True)
class _Live:
    """A workspace run that has not ended, as the keeper needs it."""

    run_id: UUID
    phase: Phase
    user: str
    hub_created: str
    server: str
    task_id: UUID
    expires_at: datetime | None
    """Until when a reservation waits for its server."""
    ends_at: datetime | None
    """When the person's time limit is reached."""
    cancel: bool


@dataclass(slots=True)
class WorkspaceKeeper:
    """Keeps reservations and servers in step. One per service process; a second one does no harm."""

    context: Context
    interval: float = 1.0
    _asked: dict[UUID, float] = field(default_factory=dict)
    _requests: dict[UUID, asyncio.Task[None]] = field(default_factory=dict)
    _missing: dict[UUID, float] = field(default_factory=dict)
    _heartbeat: float = 0.0

    async def run(self) -> None:
        """Go on until cancelled; an unreachable hub or database is tried again."""
        try:
            with self.context.store.notifier.subscribe(SCHEDULE, "tenant/", "*") as changes:
                while True:
                    await _logged(self.step())
                    await changes.wait(self.interval)
                    await asyncio.sleep(0.05)
        finally:
            for request in self._requests.values():
                request.cancel()

    async def step(self) -> None:
        """Do once whatever is due."""
        live = await self._live()
        now = time.monotonic()
        known = {run.run_id for run in live}
        for memory in (self._asked, self._missing):
            for run_id in [r for r in memory if r not in known]:
                del memory[run_id]
        for run in live:
            if run.phase in (Phase.RESERVED, Phase.DISPATCHED) and not run.cancel:
                self._ask(run, now, self._start)
            elif run.cancel:
                self._ask(run, now, self._stop)
            elif run.ends_at is not None and run.ends_at <= datetime.now(UTC):
                async with self.context.store.write() as session:
                    await request_cancel(session, run.task_id, actor="service", why="limit")
        started = [run for run in live if run.phase in (Phase.STARTING, Phase.RUNNING, Phase.UNKNOWN)]
        await self._find_gone(started, now)

    async def _live(self) -> list[_Live]:
        query = (
            select(
                RunRow.id,
                RunRow.phase,
                Principal.hub_name,
                Principal.hub_created,
                TaskRow.server_name,
                RunRow.expires_at,
                RunRow.reserved_at,
                RunRow.started_at,
                RunRow.task_id,
                TaskRow.spec,
                TaskRow.cancel_requested_at,
            )
            .join(TaskRow, TaskRow.run_id == RunRow.id)
            .join(Principal, Principal.id == TaskRow.principal_id)
            .where(
                TaskRow.kind == TaskKind.WORKSPACE.value,
                RunRow.phase.in_([p for p in LIVE if p != Phase.QUEUED.value]),
            )
        )
        patience = timedelta(seconds=self.context.settings.reservation_seconds)
        async with self.context.store.read() as session:
            rows = (await session.execute(query)).all()
        return [
            _Live(
                row.id,
                Phase(row.phase),
                row.hub_name,
                row.hub_created,
                row.server_name or "",
                row.task_id,
                row.expires_at or (row.reserved_at + patience if row.reserved_at else None),
                _limit(row.spec, row.started_at),
                row.cancel_requested_at is not None,
            )
            for row in rows
        ]

    def _ask(self, run: _Live, now: float, what: Callable[[_Live], Coroutine[Any, Any, None]]) -> None:
        """Do *what* beside the loop, at most one thing a run: the hub answers only after many seconds when a server is slow."""
        if run.run_id in self._requests or now - self._asked.get(run.run_id, -RETRY_SECONDS) < RETRY_SECONDS:
            return
        self._asked[run.run_id] = now
        request = self._requests[run.run_id] = asyncio.create_task(_logged(what(run)))
        request.add_done_callback(lambda _done: self._requests.pop(run.run_id, None))

    async def _start(self, run: _Live) -> None:
        if run.expires_at is not None and run.expires_at < datetime.now(UTC):
            await self._end(run, Phase.CANCELLED, "workspace.expired")
            return
        model = await self._person(run.user)
        if model is None or model["created"] != run.hub_created:
            await self._end(run, Phase.CANCELLED, "policy.membership")
            return
        answer = await self.context.hub.request("POST", _server_path(run))
        if answer.status_code not in (201, 202):
            # 400 while it is running or pending already: the spawner's report or the expiry will settle it.
            log.info("workspace_not_started_yet", run_id=str(run.run_id), status=answer.status_code, answer=answer.text[:300])

    async def _stop(self, run: _Live) -> None:
        answer = await self.context.hub.request("DELETE", _server_path(run))
        if answer.status_code == 404:
            await self._end(run, Phase.CANCELLED, "policy.cancelled")

    async def _find_gone(self, runs: list[_Live], now: float) -> None:
        """End runs whose server the hub does not know, and note signs of life of the others."""
        beat = now - self._heartbeat >= HEARTBEAT_SECONDS
        people: dict[str, dict[str, Any] | None] = {}
        alive = []
        for run in runs:
            if run.run_id not in self._missing and not beat and now - self._asked.get(run.run_id, 0) < RETRY_SECONDS:
                continue
            self._asked[run.run_id] = now
            if run.user not in people:
                people[run.user] = await self._person(run.user)
            model = people[run.user]
            if model is not None and model["created"] == run.hub_created and run.server in model.get("servers", {}):
                self._missing.pop(run.run_id, None)
                if run.phase is not Phase.STARTING:
                    alive.append(run)
                continue
            since = self._missing.setdefault(run.run_id, now)
            if now - since >= GONE_SECONDS:
                await self._end(run, Phase.SUCCEEDED if run.phase is not Phase.STARTING else Phase.FAILED, "workspace.gone")
        if beat and alive:
            self._heartbeat = now
            async with self.context.store.write() as session:
                for run in alive:
                    row, task = await lock_run(session, run.run_id)
                    if row.started_at is not None and not Phase(row.phase).final:
                        await meter(session, row, task, Action.HEARTBEAT, datetime.now(UTC), evidence=Evidence.OBSERVED)

    async def _person(self, name: str) -> dict[str, Any] | None:
        """Return the hub's model of a person as it is now, not as it was cached."""
        answer = await self.context.hub.request("GET", f"/users/{quote(name, safe='')}")
        if answer.status_code == 404:
            return None
        if answer.status_code != 200:
            raise HubError(f"the service's token may not read users: {answer.status_code}", answer.status_code)
        model: dict[str, Any] = answer.json()
        return model

    async def _end(self, run: _Live, to: Phase, code: str) -> None:
        with contextlib.suppress(TransitionError):
            async with self.context.store.write() as session:
                row, task = await lock_run(session, run.run_id)
                if Phase(row.phase).final:
                    return
                seen = await _last_seen(session, row) if code == "workspace.gone" else None
                done = await transition(session, run.run_id, to, actor="service", reasons=[reason(code)], at=seen)
                if done is not None and row.started_at is not None:
                    evidence = Evidence.OBSERVED if seen is None else Evidence.ESTIMATED
                    await meter(session, row, task, Action.STOP, done.at, evidence=evidence)
                log.info("workspace_ended", run_id=str(run.run_id), phase=to.value, reason=code)


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except HubError as error:
        log.warning("workspaces_hub_unavailable", error=str(error))
    except Exception:
        log.exception("workspaces_step_failed")


async def _last_seen(session: AsyncSession, run: RunRow) -> datetime | None:
    """Return when the workspace was last known to live: what nobody saw afterwards is not billed."""
    cluster = await session.get(Cluster, run.cluster_id)
    assert cluster is not None
    subject = (cluster.name, f"workspace/{run.id}")
    events = (await session.run_sync(lambda s: events_of(s.connection(), [subject]))).get(subject, [])
    return max((datetime.fromtimestamp(e.effective_at, UTC) for e in events), default=None)


def _limit(spec: dict[str, Any], started_at: datetime | None) -> datetime | None:
    seconds = (spec.get("lifecycle") or {}).get("max_run_seconds")
    return None if started_at is None or not seconds else started_at + timedelta(seconds=seconds)


def _server_path(run: _Live) -> str:
    user = quote(run.user, safe="")
    return f"/users/{user}/servers/{quote(run.server, safe='')}" if run.server else f"/users/{user}/server"

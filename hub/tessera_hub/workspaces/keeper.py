"""The keeper: starts what is granted, stops what is not wanted any more, and settles what nobody reports.

A reservation that is not taken up in time, a server that ended while nobody could report it, a time limit that is reached and a
wish to cancel are all settled here.
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
from sqlalchemy import select

from tessera_billing.events import Action, Evidence
from tessera_hub.api.context import Context
from tessera_hub.environments import is_open
from tessera_hub.hubapi import HubError
from tessera_hub.schemas.tasks import Phase, TaskKind
from tessera_hub.store.notify import SCHEDULE
from tessera_hub.store.tables import Principal, RunRow, TaskRow
from tessera_hub.tasks.control import request_cancel
from tessera_hub.tasks.machine import LIVE, TransitionError, lock_run, transition
from tessera_hub.tasks.reasons import reason
from tessera_hub.workspaces.reservations import last_seen, meter

log = structlog.get_logger(__name__)

RETRY_SECONDS: Final = 5.0
"""Pause between two attempts to make the hub start a server."""
GONE_SECONDS: Final = 20.0
"""How long the hub must not know a server before its run is ended without a report."""
HEARTBEAT_SECONDS: Final = 60.0


async def run(context: Context) -> None:
    """Keep workspaces in step for as long as the service runs."""
    await WorkspaceKeeper(context).run()


@dataclass(frozen=True, slots=True)
class _Live:
    """A workspace run that has not ended, as the keeper needs it."""

    run_id: UUID
    phase: Phase
    user: str
    hub_created: str
    server: str
    environment: str
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
                str(row.spec["environment"]),
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
        if not is_open(self.context.settings.environment_rules, run.environment, model["groups"]):
            await self._end(run, Phase.CANCELLED, "environment.not_allowed")
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
                seen = await last_seen(session, row) if code == "workspace.gone" else None
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


def _limit(spec: dict[str, Any], started_at: datetime | None) -> datetime | None:
    seconds = (spec.get("lifecycle") or {}).get("max_run_seconds")
    return None if started_at is None or not seconds else started_at + timedelta(seconds=seconds)


def _server_path(run: _Live) -> str:
    user = quote(run.user, safe="")
    return f"/users/{user}/servers/{quote(run.server, safe='')}" if run.server else f"/users/{user}/server"

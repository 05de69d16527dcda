"""What a Proxy calls: session, sync, events, metering, usage (docs/explanation/protocol.md)."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Query, Request
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from tessera_hub.api.auth import Ctx, bearer_token
from tessera_hub.api.context import Context
from tessera_hub.manager import sessions
from tessera_hub.manager.events import meter, take_event
from tessera_hub.manager.membership import dismiss_strangers
from tessera_hub.manager.reconcile import orders, says_something, take_report
from tessera_hub.schemas.protocol import (
    EventsAnswer,
    EventsRequest,
    MeteringAnswer,
    MeteringRequest,
    SessionAnswer,
    SessionRequest,
    SyncAnswer,
    SyncRequest,
    UsageRequest,
)
from tessera_hub.store.notify import cluster_topic
from tessera_hub.store.tables import Cluster, RunRow, UsageSampleRow

router = APIRouter(prefix="/proxies/{cluster}", tags=["proxies"])

POLL_SECONDS = 2.0
"""How often a waiting sync looks without having been woken."""
GATHER_SECONDS = 0.02
GATHER_MOST_SECONDS = 0.5
"""After a wake-up more changes are gathered for the first of these, or three times as long as a look takes, up to the second."""


@router.post("/sessions")
async def begin_session(cluster: str, body: SessionRequest, request: Request, context: Ctx) -> SessionAnswer:
    """Begin a session with the cluster's bootstrap token."""
    async with context.store.write() as session:
        return await sessions.begin(session, cluster, bearer_token(request), body, context.settings)


@router.post("/sync")
async def sync(
    cluster: str, body: SyncRequest, request: Request, context: Ctx, wait: Annotated[float, Query(ge=0, le=120)] = 0.0
) -> SyncAnswer:
    """Take a report and answer with orders, at once if there are any, else after *wait* seconds; holds no connection."""
    token = bearer_token(request)
    deadline = time.monotonic() + wait
    async with context.store.write() as session:
        row = sessions.check(await sessions.locked(session, cluster), token, body.epoch)
        first, cluster_id = row.first_contact, row.id
        if not await take_report(session, context, row, body):
            return SyncAnswer(ack_seq=row.last_seq, inventory_hash=row.inventory_hash, next_wait=0.0)
    topic = cluster_topic(cluster_id)
    with context.store.notifier.subscribe(topic) as changes:
        while True:
            began = time.monotonic()
            members = await dismiss_strangers(context, cluster_id)
            async with context.store.read() as session:
                query = select(Cluster).where(Cluster.name == cluster).execution_options(populate_existing=True)
                row = sessions.check((await session.scalars(query)).first(), token, body.epoch)
                if row.last_seq > body.seq:  # its Proxy has reported anew: nobody waits for this answer any more
                    return SyncAnswer(ack_seq=row.last_seq, inventory_hash=row.inventory_hash, next_wait=0.0)
                answer = await orders(session, context, row, body, members, first=first)
            now = time.monotonic()
            left = deadline - now
            if says_something(answer) or first or left <= 0 or context.store.notifier.closing:
                return answer
            if await changes.wait(min(left, POLL_SECONDS)):
                await asyncio.sleep(min(max(GATHER_SECONDS, 3 * (now - began)), GATHER_MOST_SECONDS))


@router.post("/events")
async def events(cluster: str, body: EventsRequest, request: Request, context: Ctx) -> EventsAnswer:
    """Take events, each in its own transaction, in any order and any number of times."""
    cluster_id = await _authenticated(context, cluster, request, body.epoch)
    answer = EventsAnswer(results={})
    for event in body.events:
        async with context.store.write() as session:
            answer.results[event.event_id] = await take_event(session, cluster_id, cluster, event)
    return answer


@router.post("/metering")
async def metering(cluster: str, body: MeteringRequest, request: Request, context: Ctx) -> MeteringAnswer:
    """Record metering facts and the new checkpoint in one transaction."""
    async with context.store.write() as session:
        row = sessions.check(await sessions.locked(session, cluster), bearer_token(request), body.epoch)
        return await meter(session, row, body)


@router.post("/usage", status_code=204)
async def usage(cluster: str, body: UsageRequest, request: Request, context: Ctx) -> None:
    """Append samples of runs of this cluster; a repeat inserts nothing."""
    cluster_id = await _authenticated(context, cluster, request, body.epoch)
    insert = sqlite_insert if context.store.sqlite else postgresql_insert
    async with context.store.write() as session:
        ids = {sample.run_id for sample in body.samples}
        query = select(RunRow.id).where(RunRow.id.in_(ids), RunRow.cluster_id == cluster_id)
        ours = set((await session.scalars(query)).all())
        rows = [sample.model_dump() for sample in body.samples if sample.run_id in ours]
        if rows:
            await session.execute(insert(UsageSampleRow).on_conflict_do_nothing(), rows)


async def _authenticated(context: Context, cluster: str, request: Request, epoch: int) -> int:
    async with context.store.read() as session:
        row = (await session.scalars(select(Cluster).where(Cluster.name == cluster))).first()
        return sessions.check(row, bearer_token(request), epoch).id

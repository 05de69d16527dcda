"""A claim and a run that is given back at the same time, on PostgreSQL, where one may commit between two steps of the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from tessera_hub.manager.events import take_event
from tessera_hub.manager.reconcile import take_report
from tessera_hub.quota.tenants import ensure_tenant
from tessera_hub.schemas.protocol import RunEvent, RunReport, SyncRequest
from tessera_hub.schemas.reasons import MAY_HAVE_BEGUN, Reason, Tier
from tessera_hub.schemas.tasks import Phase
from tessera_hub.store import migrate
from tessera_hub.store.engine import Store
from tessera_hub.store.tables import Cluster, Principal, Queue, RunRow, TaskRow

NOW = datetime.now(UTC)
LEASE = "the-lease"
REASON = Reason(tier=Tier.CLUSTER, code="cluster.gave_back", detail={MAY_HAVE_BEGUN: True}, message="node here is gone")
WAITS = sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


@pytest.fixture
async def store(postgres_database: str) -> AsyncIterator[Store]:
    await asyncio.to_thread(migrate.upgrade, postgres_database)
    opened = Store(postgres_database)
    yield opened
    await opened.close()


async def starting_run(store: Store) -> tuple[int, UUID]:
    """Insert a cluster and a run that starts there, and return their ids."""
    task_id, run_id = uuid4(), uuid4()
    async with store.write() as session:
        await ensure_tenant(session, "red")
        person = {"issuer": "hub", "kind": "user", "hub_name": "ada", "hub_created": NOW.isoformat(), "admin": False}
        principal = Principal(created_at=NOW, **person)
        cluster = Cluster(name="farm", bootstrap_hash="", created_at=NOW)
        session.add_all([principal, cluster])
        await session.flush()
        queue = (await session.scalars(sa.select(Queue).where(Queue.path == "red/default"))).one()
        owner = {"principal_id": principal.id, "tenant_id": queue.tenant_id, "queue_id": queue.id}
        what = {"name": "t", "kind": "script", "spec": {"kind": "script", "entry": "x.py"}, "request": {}, "created_at": NOW}
        session.add(TaskRow(id=task_id, run_id=run_id, phase="STARTING", **owner, **what))
        await session.flush()
        placed = {"cluster_id": cluster.id, "lease_token": LEASE, "phase_at": NOW, "queued_at": NOW}
        session.add(RunRow(id=run_id, task_id=task_id, queue_id=queue.id, attempt=1, phase="STARTING", charge={}, **placed))
        return cluster.id, run_id


async def tell_event(store: Store, cluster_id: int, run_id: UUID) -> None:
    """The cluster gives the run back by an event."""
    told: dict[str, Any] = {"lease_token": LEASE, "kind": "phase", "phase": Phase.QUEUED, "reason": REASON, "at": NOW}
    async with store.write() as session:
        assert await take_event(session, cluster_id, "farm", RunEvent(event_id=uuid4(), run_id=run_id, **told)) == "accepted"


async def tell_report(store: Store, cluster_id: int, run_id: UUID) -> None:
    """The cluster gives the run back in its report."""
    report = RunReport(run_id=run_id, lease_token=LEASE, phase=Phase.QUEUED, reason=REASON, at=NOW)
    async with store.write() as session:
        cluster = await session.get_one(Cluster, cluster_id)
        # Of the first report of an epoch nothing is looked up in the service's settings.
        await take_report(session, cast("Any", store), cluster, SyncRequest(epoch=0, seq=1, inventory_hash="", runs=[report]))


@pytest.mark.parametrize("tell", [tell_event, tell_report])
async def test_what_is_claimed_while_it_is_given_back_is_not_begun_again(store: Store, tell: Any) -> None:
    cluster_id, run_id = await starting_run(store)
    async with store.write() as session:
        claim = sa.update(RunRow).where(RunRow.id == run_id, RunRow.claimed_by.is_(None))
        await session.execute(claim.values(claimed_by="a pod", claimed_at=NOW))
        telling = asyncio.create_task(tell(store, cluster_id, run_id))
        async with asyncio.timeout(60), store.read() as looking:
            while not await looking.scalar(WAITS):
                assert not telling.done(), "it waits for the claim"
                await looking.rollback()
                await asyncio.sleep(0.02)
    await telling
    async with store.read() as session:
        run = await session.get_one(RunRow, run_id)
        assert (run.phase, run.claimed_by, run.reasons[0]["code"]) == ("FAILED", "a pod", "cluster.lost")

"""The state machine: every pair of phases, and random orders of events that never leave an end nor lose quota."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from tessera_hub.quota import deltas_for, take
from tessera_hub.quota.tenants import ensure_tenant
from tessera_hub.quota.usage import path_to_root
from tessera_hub.schemas.tasks import Phase
from tessera_hub.store import migrate
from tessera_hub.store.engine import Store
from tessera_hub.store.tables import Principal, Queue, QueueDimension, RunRow, TaskEventRow, TaskRow
from tessera_hub.tasks.machine import FOLLOWS, TransitionError, transition

CHARGE = {"cpu": 1000, "memory": 512}
SEED = 20261124


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    url = f"sqlite:///{tmp_path / 'tessera.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres_database")
    await asyncio.to_thread(migrate.upgrade, url)
    opened = Store(url)
    now = datetime.now(UTC)
    async with opened.write() as session:
        await ensure_tenant(session, "red")
        session.add(
            Principal(issuer="hub", kind="user", hub_name="ada", hub_created=now.isoformat(), admin=False, created_at=now)
        )
    yield opened
    await opened.close()


async def make_run(store: Store, phase: Phase, *, holding: bool = False) -> UUID:
    """Insert a task with one run in *phase*, which holds :data:`CHARGE` of its queue path when asked."""
    now, task_id, run_id = datetime.now(UTC), uuid4(), uuid4()
    async with store.write() as session:
        queue = (await session.scalars(sa.select(Queue).where(Queue.path == "red/default"))).one()
        principal = (await session.scalars(sa.select(Principal.id))).one()
        owner = {"principal_id": principal, "tenant_id": queue.tenant_id, "queue_id": queue.id}
        what = {"name": "t", "kind": "script", "spec": {}, "request": CHARGE, "created_at": now}
        session.add(TaskRow(id=task_id, run_id=run_id, phase=phase.value, **owner, **what))
        await session.flush()
        charge = CHARGE if holding else {}
        times = {"phase_at": now, "queued_at": now}
        session.add(RunRow(id=run_id, task_id=task_id, queue_id=queue.id, attempt=1, phase=phase.value, charge=charge, **times))
        if holding:
            await take(session, deltas_for(await path_to_root(session, queue.id), CHARGE))
    return run_id


@pytest.mark.parametrize("before", list(Phase))
async def test_every_transition(store: Store, before: Phase) -> None:
    for after in Phase:
        run_id = await make_run(store, before)
        if after is before or after in FOLLOWS[before]:
            async with store.write() as session:
                happened = await transition(session, run_id, after, actor="service")
            assert (happened is None) == (after is before)
            expected = after
        else:
            with pytest.raises(TransitionError) as refusal:
                async with store.write() as session:
                    await transition(session, run_id, after, actor="service")
            assert refusal.value.code == "run.illegal_transition"
            expected = before
        async with store.read() as session:
            assert await session.scalar(sa.select(RunRow.phase).where(RunRow.id == run_id)) == expected.value
            assert await session.scalar(sa.select(TaskRow.phase).where(TaskRow.run_id == run_id)) == expected.value
            events = sa.select(sa.func.count()).select_from(TaskEventRow).where(TaskEventRow.run_id == run_id)
            assert await session.scalar(events) == (before is not expected)


async def test_random_orders_end_once_and_give_the_quota_back_once(store: Store) -> None:
    draw = random.Random(SEED)
    for _ in range(25):
        run_id = await make_run(store, Phase.RESERVED, holding=True)
        seen = [Phase.RESERVED]
        for to in draw.choices(list(Phase), k=12):
            try:
                async with store.write() as session:
                    happened = await transition(session, run_id, to, actor="cluster:local")
            except TransitionError:
                continue
            if happened is not None:
                seen.append(happened.after)
        if not seen[-1].final:
            async with store.write() as session:
                await transition(session, run_id, Phase.CANCELLED, actor="user:ada")
            seen.append(Phase.CANCELLED)
        assert [phase.final for phase in seen].count(True) == 1, seen
        assert all(after in FOLLOWS[before] for before, after in itertools.pairwise(seen)), seen
        async with store.read() as session:
            assert set(await session.scalars(sa.select(QueueDimension.used))) == {0}, (SEED, seen)


async def test_a_start_that_an_engine_tells_to_the_second_is_not_before_the_dispatch(store: Store) -> None:
    run_id = await make_run(store, Phase.RESERVED)
    async with store.write() as session:
        sent = await transition(session, run_id, Phase.DISPATCHED, actor="cluster:local")
    assert sent is not None
    early = sent.at.replace(microsecond=0) - timedelta(seconds=1)
    async with store.write() as session:
        started = await transition(session, run_id, Phase.RUNNING, actor="cluster:local", at=early)
    assert started is not None
    assert started.at == sent.at


async def test_two_ends_at_once_give_the_quota_back_once(store: Store) -> None:
    held, run_id = await make_run(store, Phase.RUNNING, holding=True), await make_run(store, Phase.RUNNING, holding=True)

    async def end(to: Phase) -> bool:
        try:
            async with store.write() as session:
                return await transition(session, run_id, to, actor="service") is not None
        except TransitionError:
            return False

    ends = [Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED, Phase.PREEMPTED] * 3
    assert sum(await asyncio.gather(*map(end, ends))) == 1
    async with store.read() as session:
        rows = (await session.execute(sa.select(QueueDimension.dimension, QueueDimension.used))).all()
    assert {(d, u) for d, u in rows} == set(CHARGE.items()), f"what run {held} holds is still held"


async def test_a_stale_lease_changes_nothing(store: Store) -> None:
    run_id = await make_run(store, Phase.RUNNING)
    with pytest.raises(TransitionError) as refusal:
        async with store.write() as session:
            await transition(session, run_id, Phase.FAILED, actor="cluster:local", lease_token="old")
    assert refusal.value.code == "run.stale_lease"
    async with store.read() as session:
        assert await session.scalar(sa.select(RunRow.phase).where(RunRow.id == run_id)) == "RUNNING"

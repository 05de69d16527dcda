"""200 takings at once, mixed over two levels of the tree, never pass a limit and never lose room."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tessera_hub.quota import QuotaExceeded, deltas_for, give_back, take
from tessera_hub.quota.tenants import ensure_tenant
from tessera_hub.quota.usage import path_to_root, take_all
from tessera_hub.store import migrate
from tessera_hub.store.engine import Store
from tessera_hub.store.tables import Queue, QueueDimension

ROOT_LIMIT, LEAF_LIMIT = 90_000, 60_000
TAKES = {"one by one": take, "together": take_all}


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    url = f"sqlite:///{tmp_path / 'tessera.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres_database")
    await asyncio.to_thread(migrate.upgrade, url)
    opened = Store(url, pool_size=20)
    yield opened
    await opened.close()


async def make_queues(store: Store) -> tuple[int, int]:
    """Return (root, leaf) of a tenant, limited in cpu."""
    async with store.write() as session:
        await ensure_tenant(session, "red")
        root = (await session.scalars(sa.select(Queue.id).where(Queue.path == "red"))).one()
        leaf = (await session.scalars(sa.select(Queue.id).where(Queue.path == "red/default"))).one()
        for queue, limit in ((root, ROOT_LIMIT), (leaf, LEAF_LIMIT)):
            session.add(QueueDimension(queue_id=queue, dimension="cpu", guarantee=0, deserved=0, limit=limit, used=0))
    return root, leaf


async def used(store: Store, dimension: str) -> dict[int, int]:
    async with store.read() as session:
        statement = sa.select(QueueDimension.queue_id, QueueDimension.used).where(QueueDimension.dimension == dimension)
        return {row.queue_id: row.used for row in (await session.execute(statement)).all()}


@pytest.mark.parametrize("how", sorted(TAKES))
async def test_limits_hold_in_a_race(store: Store, how: str) -> None:
    root, leaf = await make_queues(store)

    async def attempt(queue: int) -> int | None:
        try:
            async with store.write() as session:
                path = await path_to_root(session, queue)
                await TAKES[how](session, deltas_for(path, {"cpu": 1000, "memory": 512}))
        except QuotaExceeded:
            return None
        return queue

    asked = [root, leaf] * 100
    random.Random(7).shuffle(asked)
    taken = Counter(found for found in await asyncio.gather(*map(attempt, asked)) if found is not None)
    assert sum(taken.values()) == ROOT_LIMIT // 1000, "the root is filled to its limit, no more and no less"
    assert taken[leaf] <= LEAF_LIMIT // 1000
    assert await used(store, "cpu") == {root: ROOT_LIMIT, leaf: taken[leaf] * 1000}
    assert await used(store, "memory") == {root: sum(taken.values()) * 512, leaf: taken[leaf] * 512}, "refusals leave nothing"

    async def undo(queue: int) -> None:
        async with store.write() as session:
            path = await path_to_root(session, queue)
            await give_back(session, deltas_for(path, {"cpu": 1000, "memory": 512}))

    await asyncio.gather(*map(undo, taken.elements()))
    assert set((await used(store, "cpu")).values()) == {0}
    assert set((await used(store, "memory")).values()) == {0}

"""The scheduling cycle on a real PostgreSQL: 100,000 queued runs, 100 clusters.

Measured per cycle: reading the changes, computing, and committing placements, quota, events and explanations. Between
cycles, outside the measured time, what was placed ends and as much is submitted, so that the queue stays as long. The slowest
of twenty cycles stands for the 99th percentile. A cycle that takes long on a busy machine makes the next ones place fewer;
``median_cpu_s`` is the processor's time of this process, without PostgreSQL. The baseline is the simple method in the same run:
reload everything and look at each run by itself.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import text
from tests.postgres import PostgresServer

from benchmarks.rows import Row
from tessera_billing.prices import ensure_default_prices
from tessera_hub.card_prices import default_card_prices
from tessera_hub.scheduling.capacity import ClusterRoom, PoolRoom, demand_of, fits_when_empty
from tessera_hub.scheduling.cycle import Limits
from tessera_hub.scheduling.lease import acquire
from tessera_hub.scheduling.loader import SnapshotLoader
from tessera_hub.scheduling.loop import LoopSettings, Scheduler
from tessera_hub.scheduling.places import cluster_excludes, pool_excludes
from tessera_hub.schemas.protocol import Inventory, NodeShape, Pool
from tessera_hub.schemas.resources import CardMode, CardRequest, Resources
from tessera_hub.schemas.tasks import InputFile, Inputs, Role, TaskKind, TaskSpec
from tessera_hub.store import Store
from tessera_hub.store.migrate import upgrade

RUNS, CLUSTERS, TENANTS, LEAVES, CYCLES, BATCH = 100_000, 100, 20, 10, 20, 1000
CLASSES = ("A100-80G", "H100-80G", "V100-32G", "L40S-48G")
SUBMIT = """
WITH s AS (SELECT gen_random_uuid() t, gen_random_uuid() r, n FROM generate_series(:first, :last) n),
t AS (INSERT INTO task (id, name, kind, principal_id, tenant_id, queue_id, priority, phase, spec, request, run_id, attempts,
 created_at, version) SELECT s.t, 'b', 'script', 1, q.tenant_id, q.id, 40 + 10 * (n % 3), 'QUEUED',
 (CAST(:specs AS jsonb)) -> (n % :shapes)::int, '{}', s.r, 1, now(), 1
 FROM s JOIN (SELECT id, tenant_id, row_number() OVER (ORDER BY id) - 1 i FROM queue WHERE parent_id IS NOT NULL) q
 ON q.i = (n / :shapes) % :queues RETURNING id, run_id, queue_id),
c AS (INSERT INTO run_change (run_id) SELECT run_id FROM t)
INSERT INTO run (id, task_id, queue_id, attempt, phase, phase_at, charge, reasons, progress, excluded, queued_at)
 SELECT run_id, id, queue_id, 1, 'QUEUED', now(), '{}', '[]', '{}', '[]', now() FROM t
"""


def specifications() -> list[dict[str, object]]:
    """A dozen shapes: CPU only, shares, whole cards, gangs."""
    asks = [
        (1, 1000, 2048, None),
        (1, 4000, 16000, None),
        (1, 4000, 32000, CardRequest(centi_cards=100)),
        (1, 8000, 64000, CardRequest(centi_cards=200)),
        (1, 32000, 256000, CardRequest(centi_cards=800)),
        (4, 16000, 64000, CardRequest(centi_cards=800)),
        (1, 2000, 8000, CardRequest(centi_cards=25, mode=CardMode.VCUDA)),
        (1, 2000, 8000, CardRequest(centi_cards=50, mode=CardMode.VCUDA)),
        (2, 4000, 16000, CardRequest(centi_cards=400)),
        (1, 4000, 16000, CardRequest(centi_cards=100, model="H100-80G")),
        (1, 16000, 64000, None),
        (1, 48000, 400000, CardRequest(centi_cards=800, model="A100-80G")),
    ]
    return [
        TaskSpec(
            name="b",
            kind=TaskKind.SCRIPT,
            entry="b.py",
            inputs=Inputs(files=[InputFile(path="b.py", sha256="0" * 64, size=0)]),
            roles=[Role(replicas=n, resources=Resources(cpu_millicores=cpu, memory_mib=memory, cards=cards))],
        ).model_dump(mode="json")
        for n, cpu, memory, cards in asks
    ]


def inventory(index: int) -> dict[str, object]:
    """A pool of twenty nodes of eight cards, a fifth of them used to different degrees."""
    card, nodes = CLASSES[index % 4], 20
    shapes = [
        NodeShape(
            count=4,
            free_cpu=64_000 - 4000 * j,
            free_memory=512_000,
            card_class=card,
            cards=[(100 if c >= j else 0, 80_000 if c >= j else 0) for c in range(8)],
        )
        for j in range(5)
    ]
    free = {
        "cpu": sum(s.free_cpu * s.count for s in shapes),
        "memory": 512_000 * nodes,
        f"cards/{card}": sum(s.count * sum(c for c, _ in s.cards) for s in shapes),
        f"card_memory/{card}": sum(s.count * sum(m for _, m in s.cards) for s in shapes),
    }
    total = {
        "cpu": 64_000 * nodes,
        "memory": 512_000 * nodes,
        f"cards/{card}": 800 * nodes,
        f"card_memory/{card}": 640_000 * nodes,
    }
    pool = Pool(
        name="gpu",
        card_class=card,
        vendor="nvidia",
        card_memory_mib=80_000,
        card_modes=["whole", "vcuda"],
        total=total,
        free=free,
        shapes=shapes,
    )
    return Inventory(pools=[pool], environments={"default": {}}).model_dump(mode="json")


async def seed(store: Store) -> None:
    """Make tenants, queues, clusters and the waiting runs."""
    async with store.write() as session:
        await session.run_sync(
            lambda s: ensure_default_prices(s.connection(), int(time.time()), default_card_prices(), currency="CNY")
        )
        await session.execute(
            text(
                "INSERT INTO principal (issuer, kind, hub_name, hub_created, admin, created_at)"
                " VALUES ('hub', 'user', 'b', '1', false, now())"
            )
        )
        await session.execute(
            text("INSERT INTO tenant (name, created_at) SELECT 't' || n, now() FROM generate_series(1, :n) n"), {"n": TENANTS}
        )
        await session.execute(
            text(
                "INSERT INTO queue (tenant_id, name, path, state, policy, priority, version)"
                " SELECT id, name, name, 'open', 'fifo', 50, 1 FROM tenant"
            )
        )
        await session.execute(
            text(
                "INSERT INTO queue (tenant_id, parent_id, name, path, state, policy, priority, version) SELECT q.tenant_id, q.id,"
                " 'q' || n, q.path || '/q' || n, 'open', (ARRAY['fifo','most-idle','lowest-price'])[1 + n % 3], 50, 1"
                " FROM queue q, generate_series(1, :n) n"
            ),
            {"n": LEAVES},
        )
        for index in range(CLUSTERS):
            await session.execute(
                text(
                    "INSERT INTO cluster (name, driver, bootstrap_hash, epoch, first_contact, last_seq, state, draining,"
                    " workspaces, agent_version, capabilities, accept_max, inventory, inventory_hash, version, created_at)"
                    " VALUES (:n, 'kubernetes', '', 1, true, 0, 'ok', false, false, '', '[\"gang\"]', 1000,"
                    " CAST(:i AS jsonb), :n, 1, now())"
                ),
                {"n": f"c{index:03d}", "i": json.dumps(inventory(index))},
            )
    await submit(store, 0, RUNS - 1)


async def submit(store: Store, first: int, last: int) -> None:
    """Queue runs ``first`` to ``last``."""
    specs = specifications()
    async with store.write() as session:
        await session.execute(
            text(SUBMIT),
            {"first": first, "last": last, "specs": json.dumps(specs), "shapes": len(specs), "queues": TENANTS * LEAVES},
        )


async def finish(store: Store) -> None:
    """End all that was placed and give its quota back."""
    async with store.write() as session:
        await session.execute(text("UPDATE run SET phase = 'SUCCEEDED', charge = '{}' WHERE phase = 'RESERVED'"))
        await session.execute(text("UPDATE queue_dimension SET used = 0"))


async def simple_cycle(store: Store) -> float:
    """Seconds that the simple method takes to read everything and to look at each run alone, without storing anything."""
    began = time.perf_counter()
    loader = SnapshotLoader()
    async with store.write() as session:
        loader.apply(await loader.read(session, everything=True), datetime.now(UTC))
        await session.rollback()
    rooms = [PoolRoom(0, ClusterRoom(c), pool) for c in loader.clusters for pool in c.pools]
    placed = 0
    for run in sorted(loader.pending, key=lambda run: run.order):
        for room in rooms:
            cluster = room.cluster.state
            if cluster_excludes(run.shape, run.tenant_id, cluster) or pool_excludes(run.shape, run.tenant_id, room.state):
                continue
            demand = demand_of(run.shape, room.state)
            if fits_when_empty(demand, room.state) is None and room.shortage(demand) is None:
                room.take(demand)
                placed += 1
                break
        if placed >= BATCH or time.perf_counter() - began > 60:
            break
    return time.perf_counter() - began


async def measure(url: str) -> list[Row]:
    """Run the cycles."""
    store = Store(url)
    try:
        await seed(store)
        async with store.write() as session:
            await session.execute(text("ANALYZE"))
            lease = await acquire(session, "scheduler", "bench", timedelta(minutes=5))
        assert lease is not None
        scheduler = Scheduler(store, lease, LoopSettings(limits=Limits(max_placements=BATCH)))
        first = await scheduler.cycle()
        reports, processor, upto = [], [], RUNS
        for _ in range(CYCLES):
            await finish(store)
            await submit(store, upto, upto + BATCH - 1)
            upto += BATCH
            before = time.process_time()
            reports.append(await scheduler.cycle())
            processor.append(time.process_time() - before)
        simple = await simple_cycle(store)
    finally:
        await store.close()
    seconds = sorted(r.seconds for r in reports)
    rate = sum(r.placed for r in reports) / sum(seconds)
    return [
        Row("scheduling", "all", "cycle_p99_s", seconds[-1], "s", "< 2", simple),
        Row("scheduling", "all", "placements_per_s", rate, "1/s", ">= 500", BATCH / simple),
        Row("scheduling", "takeover", "first_cycle_s", first.seconds, "s"),
        Row("scheduling", "cycle", "median_s", statistics.median(seconds), "s"),
        *(
            Row("scheduling", "cycle", f"median_{part}", statistics.median(getattr(r, part) for r in reports), "s")
            for part in ("read_s", "compute_s", "store_s")
        ),
        Row("scheduling", "cycle", "median_placed", statistics.median(r.placed for r in reports), "1"),
        Row("scheduling", "cycle", "median_cpu_s", statistics.median(processor), "s"),
    ]


def rows() -> Iterable[Row]:
    """Start a PostgreSQL, measure, stop it."""
    with tempfile.TemporaryDirectory(prefix="tessera-bench-") as directory:
        server = PostgresServer(Path(directory))
        server.create()
        server.start()
        try:
            url = server.url(server.create_database())
            upgrade(url)
            return asyncio.run(measure(url))
        finally:
            server.stop()

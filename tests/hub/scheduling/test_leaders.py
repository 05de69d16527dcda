"""Two leaders on one database, killed at random points; 200 submits at once: no run twice, no limit passed, nothing lost."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.hub_double import HubDouble
from tests.service import ServiceProcess, script_spec, upload

from tessera_billing.prices import ensure_default_prices
from tessera_hub.card_prices import default_card_prices
from tessera_hub.quota.tenants import ensure_tenant
from tessera_hub.schemas.protocol import Inventory, NodeShape, Pool
from tessera_hub.schemas.resources import Resources
from tessera_hub.schemas.tasks import InputFile, Inputs, Phase, Role, TaskKind, TaskSpec
from tessera_hub.store import Store
from tessera_hub.store.engine import sync_url
from tessera_hub.store.migrate import upgrade
from tessera_hub.store.tables import Cluster, Leader, Principal, Queue, QueueDimension, RunRow, TaskEventRow
from tessera_hub.tasks.machine import transition
from tessera_hub.tasks.storing import store_task
from tessera_hub.tasks.submission import Destination

pytestmark = pytest.mark.faults

RUNS, KILLS = 300, 10
LIMITS = {"red": 50_000, "red/default": 30_000}
"""Millicores; a run asks for 1,000. The children of the root may take more together than the root may."""
PATIENCE = 200.0
SNAPSHOT = Inputs(files=[InputFile(path="t.py", sha256="0" * 64, size=0)])


def cluster() -> Cluster:
    """A cluster that takes whatever it is given: the limits decide."""
    shape = NodeShape(count=50, free_cpu=64_000, free_memory=512_000)
    total = {"cpu": 3_200_000, "memory": 25_600_000}
    inventory = Inventory(pools=[Pool(name="cpu", total=total, free=total, shapes=[shape])], environments={"default": {}})
    return Cluster(
        name="centre",
        driver="kubernetes",
        bootstrap_hash="",
        state="ok",
        first_contact=False,
        accept_max=10_000,
        last_contact_at=datetime.now(UTC),
        capabilities=[],
        inventory=inventory.model_dump(mode="json"),
        inventory_hash="1",
        created_at=datetime.now(UTC),
    )


class Books:
    """Compares the quota rows with what the runs hold, in one snapshot of the database, as often as asked."""

    def __init__(self, url: str) -> None:
        engine = sa.create_engine(sync_url(url), pool_size=1)
        self.engine = engine if engine.dialect.name == "sqlite" else engine.execution_options(isolation_level="REPEATABLE READ")
        self.samples = 0
        self.wrong: list[str] = []
        self.highest: Counter[str] = Counter()

    def look(self) -> None:
        """Take one sample."""
        with self.engine.begin() as connection:
            if self.engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN")  # without it each of sqlite3's reads has a snapshot of its own
            queues = {row.id: row for row in connection.execute(sa.select(Queue.id, Queue.path, Queue.parent_id))}
            rows = connection.execute(sa.select(QueueDimension.queue_id, QueueDimension.dimension, QueueDimension.used)).all()
            held = connection.execute(sa.select(RunRow.queue_id, RunRow.charge)).all()
        due: Counter[tuple[int, str]] = Counter()
        for queue_id, charge in held:
            node: int | None = queue_id
            while node is not None:
                for dimension, amount in (charge or {}).items():
                    due[node, dimension] += amount
                node = queues[node].parent_id
        self.samples += 1
        for queue_id, dimension, used in rows:
            path = queues[queue_id].path
            if used != due.pop((queue_id, dimension), 0):
                self.wrong.append(f"{path} {dimension}: {used} used, but the runs hold something else")
            if dimension == "cpu":
                self.highest[path] = max(self.highest[path], used)
                if used > LIMITS.get(path, used):
                    self.wrong.append(f"{path}: {used} used of {LIMITS[path]}")
        self.wrong += [f"{key}: runs hold {amount} that no row shows" for key, amount in due.items() if amount]

    def phases(self) -> Counter[str]:
        """Return how many runs are in each phase."""
        with self.engine.begin() as connection:
            return Counter(dict(connection.execute(sa.select(RunRow.phase, sa.func.count()).group_by(RunRow.phase)).all()))


async def set_up(store: Store) -> None:
    """A tenant with limits on both levels, one person, one cluster, and runs on both levels."""
    now = datetime.now(UTC)
    async with store.write() as session:
        await session.run_sync(
            lambda s: ensure_default_prices(s.connection(), int(now.timestamp()), default_card_prices(), currency="CNY")
        )
        tenant = await ensure_tenant(session, "red")
        session.add(cluster())
        session.add(Principal(issuer="hub", kind="user", hub_name="ada", hub_created="1", created_at=now))
        await session.flush()
        person = (await session.scalars(sa.select(Principal.id))).one()
        queues = (await session.scalars(sa.select(Queue).order_by(Queue.id))).all()
        for queue in queues:
            session.add(QueueDimension(queue_id=queue.id, dimension="cpu", limit=LIMITS[queue.path]))
        spec = TaskSpec(
            name="t",
            kind=TaskKind.SCRIPT,
            entry="t.py",
            inputs=SNAPSHOT,
            roles=[Role(resources=Resources(cpu_millicores=1000, memory_mib=512))],
        )
        for number in range(RUNS):
            queue = queues[number % 2]
            where = Destination(tenant, "red", queue.id, queue.path)
            await store_task(session, spec, where, principal_id=person, actor="user:ada", key=None)


async def finish(store: Store, dice: random.Random, most: int) -> None:
    """End some of the placed runs, as their cluster would."""
    async with store.read() as session:
        placed = list((await session.scalars(sa.select(RunRow.id).where(RunRow.phase == Phase.RESERVED.value))).all())
    for run_id in dice.sample(placed, min(most, len(placed))):
        async with store.write() as session:
            await transition(session, run_id, Phase.SUCCEEDED, actor="cluster:centre")


def start_leader(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(Path(__file__).with_name("leader.py")), url])


@pytest.mark.parametrize("seed", [int(os.environ.get("TESSERA_SEED", "20261124"))])
async def test_leaders_killed_at_random_points_place_no_run_twice(postgres_database: str, seed: int) -> None:
    print(f"seed {seed}")  # noqa: T201
    dice = random.Random(seed)
    upgrade(postgres_database)
    store = Store(postgres_database)
    books = Books(postgres_database)
    leaders: list[subprocess.Popen[bytes]] = []
    try:
        await set_up(store)
        leaders += [start_leader(postgres_database) for _ in range(2)]
        killed: list[int] = []
        deadline = monotonic() + PATIENCE
        while books.highest["red"] < LIMITS["red"]:  # the limit is reached, or it would prove nothing
            assert monotonic() < deadline, books.phases()
            await asyncio.to_thread(books.look)
            await asyncio.sleep(0.02)
        while len(killed) < KILLS:
            assert monotonic() < deadline, (killed, books.phases())
            for _ in range(dice.randrange(1, 6)):
                await finish(store, dice, 4)
                await asyncio.to_thread(books.look)
                await asyncio.sleep(dice.random() * 0.1)
            async with store.read() as session:
                row = (await session.execute(sa.select(Leader.holder, Leader.expires_at))).first()
            leading = [p for p in leaders if row is not None and f":{p.pid}:" in row.holder]
            if not leading or (row is not None and row.expires_at < datetime.now(UTC)):
                continue  # nobody leads at the moment
            leading[0].send_signal(signal.SIGKILL)
            leading[0].wait()
            killed.append(leading[0].pid)
            leaders.remove(leading[0])
            leaders.append(start_leader(postgres_database))
        epoch = 0
        # The last runs may have been placed before the last kill: wait for the leader after it, too.
        while books.phases()["SUCCEEDED"] < RUNS or epoch <= KILLS:
            assert monotonic() < deadline, (killed, epoch, books.phases())
            await finish(store, dice, 50)
            await asyncio.to_thread(books.look)
            await asyncio.sleep(0.02)
            async with store.read() as session:
                epoch = (await session.scalars(sa.select(Leader.epoch))).one()
        async with store.read() as session:
            events = (await session.execute(sa.select(TaskEventRow.run_id, TaskEventRow.phase_to))).all()
    finally:
        for process in leaders:
            process.kill()
            process.wait()
        await store.close()
    books.look()
    assert books.wrong == []
    assert len(set(killed)) == KILLS
    counted: Counter[tuple[UUID, str | None]] = Counter((run, to) for run, to in events)
    assert set(counted.values()) == {1}, "a run was placed, or ended, twice"
    assert Counter(to for _run, to in counted) == {"QUEUED": RUNS, "RESERVED": RUNS, "SUCCEEDED": RUNS}


@pytest.fixture(params=["sqlite", "postgresql"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServiceProcess]:
    """The real service with its scheduler, on each kind of database."""
    hub = HubDouble()
    hub.start()
    url = request.getfixturevalue("postgres_database") if request.param == "postgresql" else None
    timers = {"suspect": 3600.0, "unreachable": 7200.0, "lost": 10_800.0, "lease_ack": 3600.0}
    process = ServiceProcess(tmp_path / "service", hub, url, timers=timers)
    try:
        yield process.start()
    finally:
        process.stop()
        hub.stop()


def test_two_hundred_submits_at_once_on_two_levels_never_pass_a_limit(service: ServiceProcess) -> None:
    ada = service.hub.add_user("ada", "red")
    root = service.hub.add_user("root", "red", operator=True)
    books = Books(service.database_url)
    with service.api(ada) as api, service.api(root) as operator:
        spec = script_spec(*upload(api, b"print('hello')\n"), roles=[{"resources": {"cpu_millicores": 1000, "memory_mib": 512}}])
        for queue in operator.get("/queues").json():
            limit = {"cpu": {"limit": LIMITS[queue["path"]]}}
            assert operator.put(f"/queues/{queue['id']}", json={"quota": limit}).status_code == 200
    store = sa.create_engine(sync_url(service.database_url))
    with store.begin() as connection:
        made = cluster()
        values = {c.name: getattr(made, c.name) for c in Cluster.__table__.columns if getattr(made, c.name) is not None}
        connection.execute(sa.insert(Cluster).values(**values))
    store.dispose()
    over = threading.Event()

    def sample() -> None:
        while not over.is_set():
            books.look()
            sleep(0.01)

    def submit(number: int) -> str:
        with service.api(ada) as own:
            answer = own.post("/tasks", json=spec | {"name": f"t{number}", "queue": "red" if number % 2 else "red/default"})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    with ThreadPoolExecutor(201) as pool:
        sampling = pool.submit(sample)
        try:
            tasks = list(pool.map(submit, range(200)))
            deadline = monotonic() + PATIENCE
            with service.api(ada) as api:
                while sum(books.phases()[phase] for phase in ("QUEUED", "RESERVED")):
                    assert monotonic() < deadline, books.phases()
                    placed = api.get("/tasks", params={"phase": "RESERVED", "limit": 200}).json()["items"]
                    answers = pool.map(lambda task: api.post(f"/tasks/{task['id']}/cancel").status_code, placed)
                    assert set(answers) <= {202}
                    sleep(0.05)
        finally:
            over.set()
        sampling.result()
    books.look()
    assert books.wrong == []
    assert books.samples > 20
    assert len(set(tasks)) == 200
    assert books.phases() == {"CANCELLED": 200}
    assert books.highest["red"] == LIMITS["red"], "the limit was reached, or it proves nothing"
    assert 0 < books.highest["red/default"] <= LIMITS["red/default"]

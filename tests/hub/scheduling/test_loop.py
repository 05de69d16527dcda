"""The leader's loop on a real database: SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from tessera_billing.prices import ensure_default_prices
from tessera_hub.api.app import make_context
from tessera_hub.api.context import Settings
from tessera_hub.card_prices import default_card_prices
from tessera_hub.manager import watch
from tessera_hub.quota.tenants import ensure_tenant
from tessera_hub.scheduling.cycle import Limits
from tessera_hub.scheduling.lease import DeposedError, Lease, acquire
from tessera_hub.scheduling.loop import LoopSettings, Scheduler
from tessera_hub.scheduling.standing import standings
from tessera_hub.schemas.protocol import Dataset, Inventory, NodeShape, Pool, Timers
from tessera_hub.schemas.resources import Resources
from tessera_hub.schemas.tasks import InputFile, Inputs, Phase, Role, Schedule, TaskKind, TaskSpec
from tessera_hub.store import Store
from tessera_hub.store.migrate import upgrade
from tessera_hub.store.tables import Cluster, Decision, Leader, Principal, Queue, QueueDimension, RunRow, TaskEventRow, TaskRow
from tessera_hub.tasks.machine import transition
from tessera_hub.tasks.storing import store_task
from tessera_hub.tasks.submission import Destination

LASTS = timedelta(seconds=15)
SNAPSHOT = Inputs(files=[InputFile(path="t.py", sha256="0" * 64, size=0)])


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """A migrated database of each kind with one tenant, one person and one cluster of 8 cores."""
    url = f"sqlite:///{tmp_path / 'hub.sqlite'}" if request.param == "sqlite" else request.getfixturevalue("postgres_database")
    upgrade(url)
    opened = Store(url)
    total = {"cpu": 8000, "memory": 16_384}
    shape = NodeShape(free_cpu=8000, free_memory=16_384)
    inventory = Inventory(pools=[Pool(name="cpu", total=total, free=total, shapes=[shape])], environments={"default": {}})
    now = datetime.now(UTC)
    async with opened.write() as session:
        await session.run_sync(
            lambda s: ensure_default_prices(s.connection(), int(now.timestamp()), default_card_prices(), currency="CNY")
        )
        await ensure_tenant(session, "lab")
        session.add(Principal(issuer="hub", kind="user", hub_name="ada", hub_created="1", created_at=now))
        session.add(
            Cluster(
                name="here",
                driver="local",
                bootstrap_hash="",
                state="ok",
                accept_max=100,
                inventory=inventory.model_dump(mode="json"),
                inventory_hash="1",
                created_at=now,
            )
        )
    yield opened
    await opened.close()


async def submit(
    store: Store, count: int, *, cpu: int = 1000, at: datetime | None = None, priority: int = 50, datasets: Sequence[str] = ()
) -> list[UUID]:
    """Queue runs of ada in lab/default, as the API does."""
    async with store.write() as session:
        queue = (await session.scalars(select(Queue).where(Queue.path == "lab/default"))).one()
        person = (await session.scalars(select(Principal.id))).one()
        where = Destination(queue.tenant_id, "lab", queue.id, queue.path)
        role = Role(resources=Resources(cpu_millicores=cpu, memory_mib=512))
        schedule = None if at is None else Schedule(at=at)
        spec = TaskSpec(
            name="t",
            kind=TaskKind.SCRIPT,
            entry="t.py",
            inputs=SNAPSHOT,
            priority=priority,
            roles=[role],
            schedule=schedule,
            datasets=list(datasets),
        )
        tasks = [
            (await store_task(session, spec, where, principal_id=person, actor="user:ada", key=None))[0] for _ in range(count)
        ]
        return [task.run_id for task in tasks]


async def lead(store: Store, holder: str = "a") -> Lease:
    async with store.write() as session:
        lease = await acquire(session, "scheduler", holder, LASTS)
    assert lease is not None
    return lease


async def phases(store: Store, run_ids: list[UUID]) -> list[str]:
    async with store.read() as session:
        rows = dict((await session.execute(select(RunRow.id, RunRow.phase).where(RunRow.id.in_(run_ids)))).all())
    return [rows[run_id] for run_id in run_ids]


async def used(store: Store, path: str, dimension: str = "cpu") -> int:
    async with store.read() as session:
        query = select(QueueDimension.used).join(Queue).where(Queue.path == path, QueueDimension.dimension == dimension)
        return int((await session.execute(query)).scalar_one_or_none() or 0)


def settings(most: int = 1000) -> LoopSettings:
    return LoopSettings(limits=Limits(max_placements=most))


async def test_runs_are_reserved_with_quota_event_token_and_explanation(store: Store) -> None:
    runs = await submit(store, 10)
    scheduler = Scheduler(store, await lead(store), settings())
    report = await scheduler.cycle()
    assert (report.placed, report.waiting) == (8, 2)
    assert await phases(store, runs) == ["RESERVED"] * 8 + ["QUEUED"] * 2
    assert await used(store, "lab/default") == await used(store, "lab") == 8000
    async with store.read() as session:
        first = (await session.scalars(select(RunRow).where(RunRow.id == runs[0]))).one()
        assert first.lease_token
        assert first.charge == {"cpu": 1000, "memory": 512}
        task = (await session.scalars(select(TaskRow).where(TaskRow.run_id == runs[0]))).one()
        assert task.phase == "RESERVED"
        event = (
            await session.scalars(select(TaskEventRow).where(TaskEventRow.run_id == runs[0], TaskEventRow.phase_to == "RESERVED"))
        ).one()
        assert event.actor == "scheduler"
        why = (await session.scalars(select(Decision).where(Decision.id == first.decision_id))).one()
        assert why.body["cluster"] == "here"
        assert why.body["scores"][0]["cluster"] == "here"
        waiting = (await session.execute(select(RunRow.decision_id).where(RunRow.id.in_(runs[8:])))).scalars().all()
        assert len(set(waiting)) == 1  # both share one explanation
        shared = (await session.scalars(select(Decision).where(Decision.id == waiting[0]))).one()
        assert shared.body["reasons"][0]["code"] == "capacity.no_free_node"
        assert shared.body["runs"] == 2


async def test_a_data_set_that_is_closed_again_keeps_a_run_waiting_until_it_is_opened(store: Store) -> None:
    async def declare(hash_: str, **datasets: Dataset) -> None:
        async with store.write() as session:
            cluster = (await session.scalars(select(Cluster))).one()
            there = Inventory.model_validate(cluster.inventory).model_copy(update={"datasets": datasets})
            cluster.inventory, cluster.inventory_hash = there.model_dump(mode="json"), hash_

    await declare("2", digits=Dataset(tenants=["other"]))
    runs = await submit(store, 1, datasets=["digits"])
    scheduler = Scheduler(store, await lead(store), settings())
    await scheduler.cycle()
    assert await phases(store, runs) == ["QUEUED"]
    async with store.read() as session:
        why = (await session.scalars(select(Decision).join(RunRow, RunRow.decision_id == Decision.id))).one()
        assert "cluster.no_dataset" in [reason["code"] for reason in why.body["reasons"]]
    await declare("3", digits=Dataset(tenants=["other", "lab"]))
    await scheduler.cycle()
    assert await phases(store, runs) == ["RESERVED"]


async def test_a_quiet_queue_writes_nothing(store: Store) -> None:
    await submit(store, 10)
    scheduler = Scheduler(store, await lead(store), settings())
    for _ in range(3):
        await scheduler.cycle()
    async with store.read() as session:
        before = (await session.execute(select(func.count(), func.max(Decision.at)).select_from(Decision))).one()
    report = await scheduler.cycle()
    assert (report.placed, report.explained, report.linked) == (0, 0, 0)
    async with store.read() as session:
        assert (await session.execute(select(func.count(), func.max(Decision.at)).select_from(Decision))).one() == before


async def test_changes_reach_the_next_cycle(store: Store) -> None:
    runs = await submit(store, 9)
    scheduler = Scheduler(store, await lead(store), settings())
    await scheduler.cycle()
    async with store.write() as session:
        await transition(session, runs[8], Phase.CANCELLED, actor="user:ada")
        await transition(session, runs[0], Phase.CANCELLED, actor="user:ada")
    late = await submit(store, 1)
    await scheduler.cycle()
    assert await phases(store, [runs[0], runs[8], *late]) == ["CANCELLED", "CANCELLED", "RESERVED"]
    assert await used(store, "lab") == 8000


async def test_what_waits_in_a_cluster_for_a_node_holds_its_room(store: Store) -> None:
    runs = await submit(store, 8)
    scheduler = Scheduler(store, await lead(store), settings())
    await scheduler.cycle()
    late = await submit(store, 1)
    for phase in (Phase.DISPATCHED, Phase.PENDING):
        async with store.write() as session:
            for run in runs:
                await transition(session, run, phase, actor="cluster:here")
        await scheduler.cycle()
        assert await phases(store, late) == ["QUEUED"], f"no node knows of those that are {phase.value}"
    async with store.write() as session:
        await transition(session, runs[0], Phase.STARTING, actor="cluster:here")  # on a node, and in the cluster's own report
    await scheduler.cycle()
    assert await phases(store, late) == ["RESERVED"]


async def test_a_planned_run_waits_for_its_time(store: Store) -> None:
    (run,) = await submit(store, 1, at=datetime.now(UTC) + timedelta(hours=1))
    scheduler = Scheduler(store, await lead(store), settings())
    assert (await scheduler.cycle()).placed == 0
    assert scheduler.loader.next_due() is not None
    assert await phases(store, [run]) == ["QUEUED"]


async def test_a_lowered_limit_is_not_passed(store: Store) -> None:
    await submit(store, 8)
    scheduler = Scheduler(store, await lead(store), settings(most=2))
    await scheduler.cycle()
    real = scheduler.loader.read

    async def read_then_lower(session, *, everything=False):  # type: ignore[no-untyped-def]
        refresh = await real(session, everything=everything)
        queue = (await session.scalars(select(Queue.id).where(Queue.path == "lab"))).one()
        await session.execute(
            update(QueueDimension).where(QueueDimension.queue_id == queue, QueueDimension.dimension == "cpu").values(limit=3000)
        )
        return refresh

    scheduler.loader.read = read_then_lower  # type: ignore[method-assign]
    assert (await scheduler.cycle()).placed == 0
    scheduler.loader.read = real  # type: ignore[method-assign]
    while not (await scheduler.cycle()).complete:
        pass
    assert await used(store, "lab") == 3000


async def test_an_older_leader_writes_nothing(store: Store) -> None:
    runs = await submit(store, 4)
    old = Scheduler(store, await lead(store, "old"), settings(most=1))
    await old.cycle()
    async with store.write() as session:
        await session.execute(update(Leader).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    new = Scheduler(store, await lead(store, "new"), settings(most=1))
    assert new.lease.epoch == old.lease.epoch + 1
    with pytest.raises(DeposedError):
        await old.cycle()
    assert (await phases(store, runs)).count("RESERVED") == 1
    await new.cycle()
    assert (await phases(store, runs)).count("RESERVED") == 2


async def test_only_one_leads_and_a_lease_given_up_is_free_at_once(store: Store) -> None:
    lease = await lead(store, "a")
    async with store.write() as session:
        assert await acquire(session, "scheduler", "b", LASTS) is None
    async with store.write() as session:
        await lease.give_up(session)
    assert (await lead(store, "b")).epoch == lease.epoch + 1


async def test_explanations_that_nobody_refers_to_are_deleted_after_an_hour(store: Store) -> None:
    runs = await submit(store, 10)
    scheduler = Scheduler(store, await lead(store), settings())
    await scheduler.cycle()
    lone = await explanations(store)
    assert len(lone) == 9  # one per placement, one for both that wait
    assert await scheduler.tidy() == 0, "a first look keeps what is younger than an hour"
    async with store.write() as session:
        await session.execute(update(Decision).values(at=datetime.now(UTC) - timedelta(hours=2)))
        await transition(session, runs[0], Phase.CANCELLED, actor="user:ada")
        await transition(session, runs[1], Phase.CANCELLED, actor="user:ada")
    await scheduler.cycle()
    assert await phases(store, runs[8:]) == ["RESERVED", "RESERVED"]
    assert len(await explanations(store)) == 11
    for group, known in scheduler.recorder.verdicts.items():
        scheduler.recorder.verdicts[group] = replace(known, at=known.at - timedelta(hours=2))
    scheduler._tidied = datetime.now(UTC) - timedelta(minutes=2)
    assert await scheduler.tidy() == 1, "that of the two which waited"
    assert len(await explanations(store)) == 10, "each placement keeps its own"
    (late,) = await submit(store, 1)
    await scheduler.cycle()
    async with store.read() as session:
        assert await session.scalar(select(RunRow.decision_id).where(RunRow.id == late)) is not None


async def test_a_new_leader_deletes_what_its_predecessors_left(store: Store) -> None:
    async with store.write() as session:
        old = datetime.now(UTC) - timedelta(hours=2)
        session.add_all([Decision(at=old, epoch=1, body={}), Decision(at=datetime.now(UTC), epoch=1, body={})])
    scheduler = Scheduler(store, await lead(store), settings())
    assert await scheduler.tidy() == 0, "not before it has loaded who refers to what"
    await scheduler.cycle()
    assert await scheduler.tidy() == 1
    assert len(await explanations(store)) == 1


async def test_what_was_promised_is_taken_from_each_node(store: Store) -> None:
    """Two runs of three cores leave two nodes of four with one core each, not with two on one of them."""
    total = {"cpu": 8000, "memory": 16_384}
    shape = NodeShape(count=2, free_cpu=4000, free_memory=8192)
    inventory = Inventory(pools=[Pool(name="cpu", total=total, free=total, shapes=[shape])], environments={"default": {}})
    async with store.write() as session:
        await session.execute(update(Cluster).values(inventory=inventory.model_dump(mode="json"), inventory_hash="2"))
    first = await submit(store, 2, cpu=3000)
    scheduler = Scheduler(store, await lead(store), settings())
    assert (await scheduler.cycle()).placed == 2
    wide = await submit(store, 1, cpu=2000)
    narrow = await submit(store, 2, cpu=1000)
    assert (await scheduler.cycle()).placed == 2
    assert await phases(store, [*first, *wide, *narrow]) == ["RESERVED"] * 2 + ["QUEUED"] + ["RESERVED"] * 2
    async with store.write() as session:
        await transition(session, first[0], Phase.CANCELLED, actor="user:ada")
    assert (await scheduler.cycle()).placed == 1
    assert await phases(store, wide) == ["RESERVED"]


async def test_a_reservation_that_nobody_takes_up_returns_to_the_queue(store: Store, tmp_path: Path) -> None:
    (run,) = await submit(store, 1)
    scheduler = Scheduler(store, await lead(store), settings())
    await scheduler.cycle()
    async with store.read() as session:
        token = await session.scalar(select(RunRow.lease_token).where(RunRow.id == run))
    settled = Settings(database_url=store.url, data_dir=tmp_path, timers=Timers(lease_ack=60.0))
    context = make_context(settled)
    async with store.write() as session:
        await session.execute(update(Cluster).values(last_contact_at=datetime.now(UTC)))
    try:
        await watch.look(context, datetime.now(UTC) - timedelta(hours=1))
        assert await phases(store, [run]) == ["RESERVED"], "its time is not over"
        async with store.write() as session:
            await session.execute(update(RunRow).values(reserved_at=datetime.now(UTC) - timedelta(seconds=61)))
        await watch.look(context, datetime.now(UTC))
        assert await phases(store, [run]) == ["RESERVED"], "an outage of the service is not counted"
        await watch.look(context, datetime.now(UTC) - timedelta(hours=1))
    finally:
        await context.hub.close()
        await context.store.close()
    assert await phases(store, [run]) == ["QUEUED"]
    assert await used(store, "lab") == await used(store, "lab/default") == 0
    await scheduler.cycle()
    assert await phases(store, [run]) == ["RESERVED"]
    async with store.read() as session:
        assert await session.scalar(select(RunRow.lease_token).where(RunRow.id == run)) != token


async def test_a_reserved_task_that_nobody_can_read_fails_instead_of_going_round(store: Store, tmp_path: Path) -> None:
    (run,) = await submit(store, 1)
    await Scheduler(store, await lead(store), settings()).cycle()
    async with store.write() as session:
        await session.execute(update(TaskRow).values(spec={"kind": "of another world"}))
        await session.execute(update(RunRow).values(reserved_at=datetime.now(UTC) - timedelta(seconds=61)))
        await session.execute(update(Cluster).values(last_contact_at=datetime.now(UTC)))
    context = make_context(Settings(database_url=store.url, data_dir=tmp_path, timers=Timers(lease_ack=60.0)))
    try:
        await watch.look(context, datetime.now(UTC) - timedelta(hours=1))
    finally:
        await context.hub.close()
        await context.store.close()
    assert await phases(store, [run]) == ["FAILED"]
    async with store.read() as session:
        reasons = await session.scalar(select(RunRow.reasons).where(RunRow.id == run))
    assert reasons is not None
    assert reasons[0]["code"] == "task.unreadable"
    assert await used(store, "lab") == 0


async def test_each_waiting_run_knows_its_place(store: Store) -> None:
    """The higher priority first, then the older; each queue by itself; who does not wait has no place."""
    first = await submit(store, 3, cpu=9000, priority=50)
    urgent = await submit(store, 1, cpu=9000, priority=80)
    async with store.write() as session:
        await session.execute(
            update(RunRow).where(RunRow.id == first[2]).values(queued_at=datetime.now(UTC) - timedelta(hours=1))
        )
        await transition(session, first[1], Phase.CANCELLED, actor="user:ada")
    async with store.read() as session:
        found = await standings(session, [*first, *urgent])
    assert {run: standing.position.position for run, standing in found.items()} == {urgent[0]: 1, first[2]: 2, first[0]: 3}


async def explanations(store: Store) -> list[int]:
    async with store.read() as session:
        return list((await session.scalars(select(Decision.id))).all())

"""Processes killed, networks cut, answers lost: no task is lost, no user code starts twice, one result and bill each.

Scenarios of one kind run beside each other, each in a centre of its own. ``TESSERA_FAULT_SEED=n`` tries another seed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Awaitable, Callable

import pytest

from tests.faults.centre import TIMERS, Centre
from tests.faults.conftest import Check, Maker
from tests.faults.network import seeded
from tests.postgres import PostgresServer

pytestmark = [pytest.mark.faults, pytest.mark.timeout(280)]


def seeds(*usual: int) -> list[int]:
    """The seeds to try, or the one of the environment."""
    return [int(own)] if (own := os.environ.get("TESSERA_FAULT_SEED")) else list(usual)


async def beside(centres: Maker, *scenarios: Callable[[Centre], Awaitable[None]]) -> None:
    """Run scenarios at once, each in a new centre; the first that fails ends all."""
    made = [await centres() for _ in scenarios]
    async with asyncio.TaskGroup() as group:
        for scenario, centre in zip(scenarios, made, strict=True):
            group.create_task(_kept(scenario, centre))


async def _kept(scenario: Callable[[Centre], Awaitable[None]], centre: Centre) -> None:
    await scenario(centre)


@pytest.mark.parametrize("faults", [("before", "after", "half_request"), ("twice", "late", "half_answer")], ids="+".join)
async def test_every_kind_of_call_harmed_once(centres: Maker, check: Check, faults: tuple[str, ...]) -> None:
    """Calls dropped before and after they arrive, cut in their middle, repeated at once and late."""

    def harmed_by(fault: str) -> Callable[[Centre], Awaitable[None]]:
        async def scenario(centre: Centre) -> None:
            harmed: set[bytes] = set()

            def choose(line: bytes) -> str | None:
                words = line.split(b"?")[0].split(b"/")
                kind = line.split(b" ")[0] + b" " + b"/".join(w for w in words[6:8] if len(w) < 30) + words[-1][:12]
                if kind in harmed:
                    return None
                harmed.add(kind)
                return fault

            centre.link.choose = choose
            await centre.start_service()
            centre.start_proxy()
            for number in range(3):
                await centre.submit(notebook=number == 0)
            await centre.wait("SUCCEEDED", seconds=90)
            await check(centre, f"each call {fault}")

        return scenario

    await beside(centres, *map(harmed_by, faults))


async def test_a_network_that_harms_a_third_of_all_calls(centres: Maker, check: Check) -> None:
    def harmed(seed: int) -> Callable[[Centre], Awaitable[None]]:
        async def scenario(centre: Centre) -> None:
            centre.damage.seeds.append(seed)
            centre.link.choose = seeded(seed, 0.33)
            await centre.start_service()
            centre.start_proxy()
            for number in range(4):
                await centre.submit(notebook=number == 0)
            await centre.wait("SUCCEEDED", seconds=150)
            await check(centre, "bad network")

        return scenario

    await beside(centres, *map(harmed, seeds(1, 2, 3)))


async def test_proxy_killed_at_random_points(centres: Maker, check: Check) -> None:
    def killed(seed: int) -> Callable[[Centre], Awaitable[None]]:
        async def scenario(centre: Centre) -> None:
            chance = random.Random(seed)
            centre.damage.seeds.append(seed)
            await centre.start_service()
            for number in range(6):
                await centre.submit(seconds=chance.uniform(0.1, 3.0), notebook=number < 2)
            for _ in range(8):
                proxy = centre.start_proxy()
                await asyncio.sleep(chance.uniform(0.5, 5.0))
                centre.kill_proxy(proxy)
            centre.start_proxy()
            await centre.wait("SUCCEEDED", seconds=120)
            await check(centre, "proxy killed")

        return scenario

    await beside(centres, *map(killed, seeds(11, 12, 13)))


async def test_service_killed_at_random_points(centres: Maker, check: Check) -> None:
    def killed(seed: int) -> Callable[[Centre], Awaitable[None]]:
        async def scenario(centre: Centre) -> None:
            chance = random.Random(seed)
            centre.damage.seeds.append(seed)
            await centre.start_service()
            centre.start_proxy()
            for number in range(4):
                await centre.submit(seconds=chance.uniform(0.1, 3.0), notebook=number == 0)
            for _ in range(4):
                await asyncio.sleep(chance.uniform(0.3, 2.5))
                centre.kill_service()
                await asyncio.sleep(chance.uniform(0.0, 2.0))
                await centre.start_service()
            await centre.wait("SUCCEEDED", seconds=120)
            await check(centre, "service killed")

        return scenario

    await beside(centres, *map(killed, seeds(21, 22)))


async def test_network_cut_longer_than_each_timer(centres: Maker, check: Check) -> None:
    def cut(timer: str) -> Callable[[Centre], Awaitable[None]]:
        async def scenario(centre: Centre) -> None:
            await centre.start_service()
            centre.start_proxy()
            task = await centre.submit(seconds=4.0, notebook=timer == "lost")
            await centre.wait("RUNNING")
            centre.link.cut = True
            centre.link.cut_now()
            if timer != "suspect":
                await centre.wait("UNKNOWN", seconds=30)
            await asyncio.sleep(TIMERS[timer] * 1.2)
            centre.link.cut = False
            await centre.wait("SUCCEEDED", seconds=60)
            assert (await centre.task(task)).attempts == 1
            await check(centre, f"cut longer than {timer}")

        return scenario

    await beside(centres, *map(cut, ("suspect", "unreachable", "lost")))


async def test_what_is_lost_for_long_is_queued_anew_if_it_may_overlap(centres: Maker, check: Check) -> None:
    async def requeued(centre: Centre) -> None:
        await centre.start_service()
        proxy = centre.start_proxy()
        task = await centre.submit(seconds=2.0, on_lost="requeue")
        await centre.wait("RUNNING")
        centre.kill_proxy(proxy)
        deadline = time.monotonic() + 90
        while (await centre.task(task)).attempts == 1:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
        centre.start_proxy()
        await centre.wait("SUCCEEDED", seconds=60)
        assert (await centre.task(task)).attempts == 2
        await check(centre, "on_lost requeue")

    await beside(centres, requeued)


async def test_a_cluster_emptied_and_brought_back(centres: Maker, check: Check) -> None:
    """A Proxy on an empty directory knows no run: they are UNKNOWN, start nowhere else, and are there again with it."""

    async def brought_back(centre: Centre) -> None:
        await centre.start_service()
        proxy = centre.start_proxy()
        tasks = [await centre.submit(seconds=8.0), await centre.submit(seconds=8.0, notebook=True)]
        await centre.wait("RUNNING")
        centre.kill_proxy(proxy)
        empty = centre.start_proxy(data="empty")
        await centre.wait("UNKNOWN", seconds=60)
        await asyncio.sleep(2.0)
        centre.kill_proxy(empty)
        centre.start_proxy()
        await centre.wait("SUCCEEDED", seconds=60)
        assert [(await centre.task(task)).attempts for task in tasks] == [1, 1]
        await check(centre, "emptied, brought back")

    async def gone_for_good(centre: Centre) -> None:
        await centre.start_service()
        proxy = centre.start_proxy()
        await centre.submit(seconds=60.0)
        await centre.wait("RUNNING")
        centre.kill_proxy(proxy)
        centre.start_proxy(data="empty")
        await centre.wait("UNKNOWN", seconds=60)
        begun = time.monotonic()
        await centre.wait("FAILED", seconds=60)
        assert time.monotonic() - begun > TIMERS["lost"] * 0.8, "not before it is surely lost"
        assert await centre.reason() == "cluster.lost"
        await check(centre, "emptied for good", destroyed=1)

    await beside(centres, brought_back, gone_for_good)


async def test_two_proxies_for_one_cluster(centre: Centre, check: Check) -> None:
    await centre.start_service()
    first = centre.start_proxy(data="one")
    await centre.submit(seconds=3.0)
    await centre.wait("RUNNING")
    second = centre.start_proxy(data="two")
    await asyncio.to_thread(first.wait, 60)
    assert first.returncode == 3, "the older one stops by itself"
    assert second.poll() is None
    await asyncio.sleep(2.0)
    assert (await centre.task(centre.tasks[0])).phase in ("RUNNING", "UNKNOWN", "SUCCEEDED"), "nothing is declared lost"
    second.terminate()
    await asyncio.to_thread(second.wait, 30)
    centre.start_proxy(data="one")
    await centre.wait("SUCCEEDED", seconds=60)
    await check(centre, "two proxies")


async def test_what_happens_behind_our_back_is_shown_at_once(centres: Maker, check: Check) -> None:
    async def killed(centre: Centre) -> None:
        await centre.start_service()
        centre.start_proxy()
        await centre.submit(seconds=60.0)
        await centre.wait("RUNNING")
        os.kill(json.loads((centre.run_directory() / "shim.pid.json").read_text())["pid"], signal.SIGKILL)
        await centre.wait("FAILED", seconds=20)
        assert await centre.reason() == "cluster.lost"
        await check(centre, "job killed", destroyed=1)

    async def purged(centre: Centre) -> None:
        await centre.start_service()
        centre.start_proxy()
        await centre.submit(seconds=60.0)
        await centre.wait("RUNNING")
        await asyncio.sleep(1.0)
        shutil.rmtree(centre.run_directory())
        await centre.wait("FAILED", seconds=20)
        await check(centre, "history purged", destroyed=1)

    await beside(centres, killed, purged)


async def test_database_restarted(postgres_centre: Centre, postgres_server: object, check: Check) -> None:
    assert isinstance(postgres_server, PostgresServer)
    await postgres_centre.start_service()
    postgres_centre.start_proxy()
    for number in range(3):
        await postgres_centre.submit(seconds=2.0, notebook=number == 0)
    await asyncio.sleep(1.5)
    # From this thread: the server is told to end when the thread that started it does.
    postgres_server.restart(signal.SIGQUIT)
    await postgres_centre.wait("SUCCEEDED", seconds=90)
    await check(postgres_centre, "database restarted")

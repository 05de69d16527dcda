"""Runs as jobs of a real Slurm: accounts, and cards."""

from __future__ import annotations

import asyncio
import pwd
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tessera_hub.proxy.drivers.base import Driver
from tessera_hub.schemas.protocol import Pool
from tests.proxy.conformance import SLEEPER
from tests.proxy.conftest import LeaseMaker
from tests.slurm.cluster import SlurmCluster
from tests.slurm.site import SlurmSite

pytestmark = pytest.mark.root
A100 = {"model": "A100-80G", "centi_cards": 100}


def command(site: SlurmSite, *argv: str) -> str:
    return site.cluster.command(*argv)


async def test_a_run_has_the_account_of_its_person(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    lease, source = make_lease("import os\nprint('ids', os.getuid(), os.getgid(), os.environ['USER'])\nopen('made', 'w')")
    await site.submit(lease, source)
    assert (await site.wait(lease)).phase == "SUCCEEDED"
    ada = pwd.getpwnam("tessera-ada")
    output = await driver.logs(lease.run_id, "output", 0, 1 << 16)
    assert f"ids {ada.pw_uid} {ada.pw_gid} tessera-ada".encode() in output
    [made] = (await driver.results(lease.run_id)).outputs
    assert made.owner == ada.pw_uid


async def test_people_do_not_read_each_others_runs(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    lease, source = make_lease(SLEEPER.format(seconds=5))
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    other = site.directory / "proxy" / "runs" / str(lease.run_id)
    spy, spy_source = make_lease(f"""
import os
for path in ("{other}/run", "{other}/run/launch.json", "{other}/lease.json", "{other}/native.json"):
    try:
        os.listdir(path) if path.endswith("run") else open(path).read()
        print("READ", path)
    except PermissionError:
        print("closed")
""")
    spy = spy.model_copy(update={"owner": "bob", "principal_id": 2})
    await site.submit(spy, spy_source)
    ended = await site.wait(spy)
    text = (await driver.logs(spy.run_id, "output", 0, 1 << 16)).decode()
    assert ended.phase == "SUCCEEDED", text
    assert "READ" not in text
    assert text.count("closed") == 4


@pytest.mark.parametrize("owner", ["eve", "root", "tessera-bob", "--help", "ada; id"])
async def test_a_person_without_an_account_runs_nothing(site: SlurmSite, make_lease: LeaseMaker, owner: str) -> None:
    await site.start()
    lease, source = make_lease("print('never')")
    lease = lease.model_copy(update={"owner": owner})
    await site.submit(lease, source)
    run = await site.wait(lease)
    assert (run.phase, run.reason.code if run.reason else "") == ("FAILED", "principal.no_account")
    assert source.fetched == 0


async def test_a_path_of_the_tasks_own_is_its_programs_also_where_it_is_a_secret(
    slurm: SlurmCluster, make_lease: LeaseMaker, tmp_path: Path
) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "path").write_text("/mine:/bin")
    async with SlurmSite(slurm, secrets=str(tmp_path)) as site:
        driver = await site.start()
        for own in ({"variables": {"PATH": "/mine:/bin"}}, {"secrets": {"PATH": "path"}}):
            lease, source = make_lease("import os; print(os.environ['PATH'])", **own)
            await site.submit(lease, source)
            assert (await site.wait(lease)).phase == "SUCCEEDED"
            assert b"/mine:/bin\n" in await driver.logs(lease.run_id, "output", 0, 1000)


async def test_an_account_of_the_system_runs_nothing(slurm: SlurmCluster, make_lease: LeaseMaker) -> None:
    async with SlurmSite(slurm, accounts={"ada": "root", "bob": "games"}) as site:
        await site.start()
        for owner in ("ada", "bob"):
            lease, source = make_lease("print('never')")
            lease = lease.model_copy(update={"owner": owner})
            await site.submit(lease, source)
            run = await site.wait(lease)
            assert (run.phase, run.reason.code if run.reason else "") == ("FAILED", "principal.no_account")
            assert run.reason is not None
            assert "below 1000" in run.reason.message


async def card_pool(driver: Driver, until: Callable[[Pool], bool]) -> Pool:
    """The pool with the cards once it is as waited for, or after ten seconds: the nodes are looked at now and then only."""
    deadline = time.monotonic() + 10
    while True:
        pool = next(pool for pool in (await driver.inventory()).pools if pool.name == "gpu")
        if until(pool) or time.monotonic() > deadline:
            return pool
        await asyncio.sleep(0.1)


async def test_cards_are_given_and_missing_in_the_inventory(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    before = {pool.name: pool for pool in (await driver.inventory()).pools}
    assert before["gpu"].card_class == "A100-80G"
    assert before["gpu"].total["cards/A100-80G"] == 400
    assert before["gpu"].card_modes == ["whole", "vcuda"]
    assert before["cpu"].card_class is None
    text = "import os, time\nprint('cards', os.environ['CUDA_VISIBLE_DEVICES'], os.environ['TESSERA_CARD_CLASS'], flush=True)\n"
    lease, source = make_lease(text + "time.sleep(8)", resources={"cards": {**A100, "centi_cards": 200}}, card_class="A100-80G")
    await site.submit(lease, source)
    assert b"cards 0,1 A100-80G" in await site.wait_for_output(lease, b"cards")
    run = await site.wait(lease, "RUNNING")
    assert run.meter[0].spec == {"cpu": 100, "memory": 256, "cards/A100-80G": 200, "card_memory/A100-80G": 163840}
    pool = await card_pool(driver, until=lambda pool: pool.free["cards/A100-80G"] != 400)
    assert pool.free["cards/A100-80G"] == 200
    assert pool.foreign == {}
    assert sorted(cards for shape in pool.shapes for cards in [shape.cards] * shape.count) == [
        [(0, 0), (0, 0)],
        [(100, 81920), (100, 81920)],
    ]
    assert (await site.wait(lease)).phase == "SUCCEEDED"


async def test_a_share_of_a_card_becomes_shards(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    text = "import os, time\nprint('shards', os.environ.get('SLURM_SHARDS_ON_NODE'), flush=True)\ntime.sleep(8)"
    share = {"model": "A100-80G", "mode": "vcuda", "centi_cards": 30}
    lease, source = make_lease(text, resources={"cards": share}, card_class="A100-80G")
    await site.submit(lease, source)
    # 30 of 100, in quarters: two of the four shards of a card.
    assert b"shards 2\n" in await site.wait_for_output(lease, b"\n")
    await site.wait(lease, "RUNNING")
    pool = await card_pool(driver, until=lambda pool: pool.free["cards/A100-80G"] != 400)
    assert pool.free["cards/A100-80G"] == 350, command(site, "sinfo", "-N", "-O", "Gres:40,GresUsed:60")
    assert (await site.wait(lease)).phase == "SUCCEEDED"


async def test_work_of_others_is_foreign(site: SlurmSite) -> None:
    driver = await site.start()
    job = command(
        site, "sbatch", "--parsable", "-p", "gpu", "--gres=gpu:a100:1", "-c2", "--mem=512", "-o/dev/null", "--wrap=sleep 30"
    )
    while "RUNNING" not in command(site, "squeue", "-h", "-o%T"):
        await asyncio.sleep(0.05)
    pool = await card_pool(driver, until=lambda pool: bool(pool.foreign))
    assert pool.foreign == {"cpu": 2000, "memory": 512, "cards/A100-80G": 100, "card_memory/A100-80G": 81920}
    command(site, "scancel", job.strip())


async def test_a_card_that_nobody_has_never_fits(site: SlurmSite, make_lease: LeaseMaker) -> None:
    await site.start()
    lease, source = make_lease("", resources={"cards": {"model": "H100-80G", "centi_cards": 100}}, card_class="H100-80G")
    await site.submit(lease, source)
    run = await site.wait(lease)
    assert (run.phase, run.reason.code if run.reason else "") == ("FAILED", "never.no_card_class")

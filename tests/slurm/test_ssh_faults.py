"""The login node goes away at each step of a run: its connections are cut, or it only stops answering (half-open).

After each: nothing is lost, user code began once, and what is shown is true. What came of it is printed at the end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tessera_hub.proxy.drivers.base import NativeRun
from tests.proxy.conformance import OBEDIENT, SLEEPER
from tests.proxy.conftest import LeaseMaker
from tests.slurm.cluster import SlurmCluster
from tests.slurm.login import LoginNode, login, ssh_programs
from tests.slurm.outcomes import Tell
from tests.slurm.proxy import Door
from tests.slurm.site import SlurmSite
from tests.slurm.test_ssh import site_of

__all__ = ["login", "ssh_programs"]
pytestmark = [pytest.mark.faults, pytest.mark.root]
OUTAGE_SECONDS = 2.0
BOTH = pytest.mark.parametrize("fault", ["cut", "half_open"])


@pytest.fixture
def door(slurm: SlurmCluster, login: LoginNode) -> Iterator[Door]:
    """An sbatch at the centre that stops where the test wants it."""
    found = Door(Path(slurm.shared, f"door-{login.port}"))
    yield found
    found.remove()


def far_site(slurm: SlurmCluster, login: LoginNode, **fields: str) -> SlurmSite:
    return site_of(slurm, login, command_seconds=5, alive_seconds=1, **fields)


def break_off(login: LoginNode, fault: str) -> None:
    if fault == "cut":
        login.cut()
    else:
        login.freeze()


def mend(login: LoginNode) -> None:
    """The login node is back; connections of before are gone."""
    if login.process is not None:
        login.cut()
    login.start()


async def finished(site: SlurmSite, run: NativeRun, tell: Tell) -> tuple[int, int]:
    """How often user code began and how many jobs had begun it; none is left in Slurm's queue."""
    assert site.current is not None
    began = (await site.current.logs(run.run_id, "output", 0, 1 << 20)).count(b"began")
    deadline = time.monotonic() + 20
    while site.cluster.command("squeue", "-h", f"--name={run.run_id}") and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    assert site.cluster.command("squeue", "-h", f"--name={run.run_id}") == ""
    jobs = len(site.cluster.command("squeue", "-h", "--states=all", f"--name={run.run_id}", "-o%i").split())
    tell(run, began, jobs)
    return began, jobs


@BOTH
@pytest.mark.parametrize("where", ["before", "after"])
async def test_in_the_middle_of_a_submit(
    slurm: SlurmCluster, login: LoginNode, door: Door, make_lease: LeaseMaker, fault: str, where: str, tell: Tell
) -> None:
    async with far_site(slurm, login, path=f"{door.folder}:{slurm.environment['PATH']}") as site:
        await site.start()
        door.stop_at(where)
        lease, source = make_lease(SLEEPER.format(seconds=3))
        await site.submit(lease, source)
        await asyncio.to_thread(door.wait_until_stopped)
        break_off(login, fault)
        await asyncio.sleep(OUTAGE_SECONDS)
        assert (await site.wait(lease, "STARTING")).native_id is None
        mend(login)
        if where == "before":
            # A second sbatch has come through meanwhile; now the first, whose caller is long gone, goes on as well.
            await site.wait_for_output(lease, b"began")
        door.go_on(where)
        run = await site.wait(lease, seconds=60)
        began, jobs = await finished(site, run, tell)
        assert (run.phase, began) == ("SUCCEEDED", 1)
        assert jobs == 1 if where == "after" else jobs <= 2


@BOTH
async def test_between_two_looks(slurm: SlurmCluster, login: LoginNode, make_lease: LeaseMaker, fault: str, tell: Tell) -> None:
    async with far_site(slurm, login) as site:
        await site.start()
        lease, source = make_lease(SLEEPER.format(seconds=4))
        await site.submit(lease, source)
        await site.wait_for_output(lease, b"began")
        before = await site.wait(lease, "RUNNING")
        break_off(login, fault)
        await asyncio.sleep(5.0)  # it ends meanwhile
        during = await site.run(lease)
        assert during is not None
        assert (during.phase, during.meter) == ("RUNNING", before.meter)
        mend(login)
        run = await site.wait(lease, seconds=60)
        found = await finished(site, run, tell)
        assert (run.phase, run.meter[0], found) == ("SUCCEEDED", before.meter[0], (1, 1))
        assert [fact.effective_at for fact in run.meter] == site.times(run), "billed by Slurm's clock, not by the outage"


@BOTH
async def test_in_the_middle_of_a_log(
    slurm: SlurmCluster, login: LoginNode, make_lease: LeaseMaker, fault: str, tell: Tell
) -> None:
    async with far_site(slurm, login) as site:
        driver = await site.start()
        lease, source = make_lease(
            "import time\nprint('began', flush=True)\n"
            "for i in range(160):\n    print(f'{i:04d}', flush=True)\n    time.sleep(0.05)\n"
        )
        await site.submit(lease, source)
        await site.wait_for_output(lease, b"0005\n")
        break_off(login, fault)
        await asyncio.sleep(OUTAGE_SECONDS)
        there = await driver.logs(lease.run_id, "output", 0, 1 << 16)
        mend(login)
        run = await site.wait(lease, seconds=60)
        text = await driver.logs(lease.run_id, "output", 0, 1 << 16)
        assert text.startswith(there), "what was shown stays as it was"
        assert text.splitlines() == [b"began", *(f"{i:04d}".encode() for i in range(160))]
        assert (run.phase, await finished(site, run, tell)) == ("SUCCEEDED", (1, 1))


@BOTH
async def test_before_a_cancel(slurm: SlurmCluster, login: LoginNode, make_lease: LeaseMaker, fault: str, tell: Tell) -> None:
    async with far_site(slurm, login) as site:
        driver = await site.start()
        lease, source = make_lease(OBEDIENT)
        await site.submit(lease, source)
        await site.wait_for_output(lease, b"began")
        await site.wait(lease, "RUNNING")
        break_off(login, fault)
        asked = time.monotonic()
        await driver.cancel(lease.run_id, "cancel", 8)
        assert time.monotonic() - asked < 12, "the Proxy has more to do than to wait for one centre"
        assert (await site.wait(lease, "RUNNING")).reason is None
        mend(login)
        run = await site.wait(lease, seconds=60)
        assert (run.phase, run.reason.code if run.reason else "") == ("CANCELLED", "policy.cancelled")
        assert (await driver.logs(lease.run_id, "output", 0, 1 << 16)).count(b"saved") == 1
        assert await finished(site, run, tell) == (1, 1)

"""What becomes of a run when its node is lost, its submit is not answered, or it has a second job."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tessera_hub.proxy.drivers.slurm.settings import PartitionSettings
from tessera_hub.proxy.drivers.slurm.submission import job_arguments, job_options
from tessera_hub.proxy.drivers.slurm.transport import TransportError
from tests.proxy.conformance import SLEEPER
from tests.proxy.conftest import LeaseMaker
from tests.slurm.cluster import SlurmCluster, running
from tests.slurm.site import SlurmSite

pytestmark = pytest.mark.root


def command(site: SlurmSite, *argv: str) -> str:
    return site.cluster.command(*argv)


async def test_a_submit_whose_answer_is_lost_starts_once(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    real, lost = driver.slurm.submit, 0  # type: ignore[attr-defined]

    async def forgetful(*arguments: object) -> str:
        nonlocal lost
        job: str = await real(*arguments)
        if lost < 2:
            lost += 1
            raise TransportError("the answer was lost")
        return job

    driver.slurm.submit = forgetful  # type: ignore[attr-defined]
    lease, source = make_lease("print('began')")
    await site.submit(lease, source)
    assert (await site.wait(lease)).phase == "SUCCEEDED"
    assert lost == 1
    assert len(command(site, "squeue", "-h", "--states=all", f"--name={lease.run_id}", "-o%i").split()) == 1


async def test_a_second_job_of_a_run_starts_nothing_and_goes(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    lease, source = make_lease(SLEEPER.format(seconds=2))
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    first = await site.wait(lease, "RUNNING")
    preparation = driver.preparation  # type: ignore[attr-defined]
    run = driver._entries[lease.run_id].run  # type: ignore[attr-defined]
    place = preparation.files.place(run)
    options = job_options(lease, site.settings, PartitionSettings(name="cpu"), preparation.cards, place)
    arguments = job_arguments(lease, preparation.environment_of(lease), place)
    second = await driver.slurm.submit(options, place.script, arguments, "tessera-ada")  # type: ignore[attr-defined]
    ended = await site.wait(lease)
    assert (ended.phase, ended.native_id) == ("SUCCEEDED", first.native_id)
    assert second != first.native_id
    assert (await driver.logs(lease.run_id, "output", 0, 1 << 16)).count(b"began") == 1


async def test_a_node_that_is_lost_ends_the_run(slurm: SlurmCluster, make_lease: LeaseMaker) -> None:
    with running(("SlurmdTimeout=3", "TCPTimeout=2", "MessageTimeout=3")) as cluster:
        async with SlurmSite(cluster, partitions=[{"name": "cpu"}]) as site:
            await site.start()
            lease, source = make_lease(SLEEPER.format(seconds=60))
            await site.submit(lease, source)
            await site.wait_for_output(lease, b"began")
            await site.wait(lease, "RUNNING")
            await asyncio.to_thread(cluster.stop_node, "n3", signal.SIGKILL)
            cluster.command("scontrol", "update", "nodename=n3", "state=down", "reason=gone")
            ended = await site.wait(lease, seconds=60)
            assert (ended.phase, ended.reason.code if ended.reason else "") == ("FAILED", "cluster.lost")
            assert [fact.action for fact in ended.meter] == ["START", "STOP"]

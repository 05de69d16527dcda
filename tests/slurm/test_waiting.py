"""Jobs of a real Slurm that wait, never fit, are preempted or put back into its queue."""

from __future__ import annotations

import asyncio

import pytest

from tests.proxy.conformance import OBEDIENT, SLEEPER
from tests.proxy.conftest import LeaseMaker
from tests.slurm.cluster import SlurmCluster
from tests.slurm.site import SlurmSite

pytestmark = pytest.mark.root
A100 = {"model": "A100-80G", "centi_cards": 100}


def command(site: SlurmSite, *argv: str) -> str:
    return site.cluster.command(*argv)


async def test_a_waiting_run_says_why_and_when(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    many = {"cards": {**A100, "centi_cards": 200}}
    leases = []
    for _ in range(4):
        lease, source = make_lease(
            SLEEPER.format(seconds=20), resources=many, card_class="A100-80G", lifecycle={"max_run_seconds": 60}
        )
        await site.submit(lease, source)
        leases.append(lease)
        await site.wait(lease, "RUNNING" if len(leases) <= 2 else "PENDING")
    third = await site.wait(leases[2], "PENDING")
    async with asyncio.timeout(20):
        while not third.reason or "expected_start" not in third.reason.detail or third.reason.code != "capacity.no_free_cards":
            await asyncio.sleep(0.1)
            third = await site.wait(leases[2], "PENDING")
    assert third.reason.detail["native"] == "Resources"
    fourth = await site.wait(leases[3], "PENDING")
    async with asyncio.timeout(20):
        while not fourth.reason or fourth.reason.code != "cluster.queued":
            await asyncio.sleep(0.1)
            fourth = await site.wait(leases[3], "PENDING")
    assert fourth.meter == ()
    await driver.cancel(leases[3].run_id, "cancel", 5)
    run = await site.wait(leases[3])
    assert (run.phase, run.meter) == ("CANCELLED", ())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("scontrol", "hold", "{job}"), "cluster.held"),
        (("scontrol", "update", "jobid={job}", "starttime=now+1hour"), "policy.not_before"),
        (("scontrol", "update", "nodename=n3", "state=drain", "reason=test"), "cluster.nodes_down"),
        (("scontrol", "update", "partitionname=cpu", "state=down"), "cluster.nodes_down"),
    ],
)
async def test_slurms_reasons_become_ours(
    slurm: SlurmCluster, make_lease: LeaseMaker, change: tuple[str, ...], code: str
) -> None:
    blocker = slurm.command("sbatch", "--parsable", "-p", "cpu", "-c4", "--mem=64", "-o/dev/null", "--wrap=sleep 60").strip()
    site = SlurmSite(slurm, partitions=[{"name": "cpu"}])
    try:
        await site.start()
        lease, source = make_lease("")
        await site.submit(lease, source)
        run = await site.wait(lease, "PENDING")
        command(site, *(word.replace("{job}", run.native_id or "") for word in change))
        if "drain" in " ".join(change):
            command(site, "scancel", blocker)
        async with asyncio.timeout(30):
            while run.reason is None or run.reason.code != code:
                await asyncio.sleep(0.1)
                run = await site.wait(lease, "PENDING")
    finally:
        command(site, "scontrol", "update", "partitionname=cpu", "state=up")
        site.cluster.command("scontrol", "update", "nodename=n3", "state=resume", check=False)
        site.cluster.command("scancel", "--quiet", blocker, check=False)
        await site.finish()


async def test_what_no_node_can_hold_is_refused_at_once(site: SlurmSite, make_lease: LeaseMaker) -> None:
    await site.start()
    lease, source = make_lease("", resources={"cpu_millicores": 64000})
    await site.submit(lease, source)
    run = await site.wait(lease)
    assert (run.phase, run.reason.code if run.reason else "", run.meter) == ("FAILED", "never.too_large", ())


async def test_more_time_than_the_partition_gives_is_refused(slurm: SlurmCluster, make_lease: LeaseMaker) -> None:
    async with SlurmSite(slurm, partitions=[{"name": "short"}]) as site:
        driver = await site.start()
        lease, source = make_lease("", lifecycle={"max_run_seconds": 3600})
        await site.submit(lease, source)
        run = await site.wait(lease)
        assert (run.phase, run.reason.code if run.reason else "") == ("FAILED", "never.time_limit")
        driver.preparation.limits = {}  # type: ignore[attr-defined]
        lease, source = make_lease("", lifecycle={"max_run_seconds": 3600})
        driver._look_at_nodes = _nothing  # type: ignore[attr-defined]
        await site.submit(lease, source)
        async with asyncio.timeout(20):
            while (found := await site.wait(lease, "PENDING")).reason is None or found.reason.code != "never.time_limit":
                await asyncio.sleep(0.1)
        await driver.cancel(lease.run_id, "cancel", 0)
        await site.wait(lease)


async def _nothing(_nodes: object, _jobs: object) -> None:
    """Stands for a look that brings nothing new."""


async def test_a_preempted_job_ends_as_preempted_and_is_not_started_again(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    both = {"cards": {**A100, "centi_cards": 200}}
    victims = []
    for _ in range(2):
        lease, source = make_lease(OBEDIENT, resources=both, card_class="A100-80G", preemptible=True)
        await site.submit(lease, source)
        await site.wait_for_output(lease, b"began")
        victims.append(lease)
    assert command(site, "squeue", "-h", "-o%P").split() == ["low", "low"]
    winner, source = make_lease("print('won')", resources=both, card_class="A100-80G")
    await site.submit(winner, source)
    assert (await site.wait(winner)).phase == "SUCCEEDED"
    await asyncio.sleep(0.5)
    ended = [run for run in await driver.list_runs() if run.phase == "PREEMPTED"]
    assert len(ended) == 1
    assert ended[0].reason is not None
    assert ended[0].reason.code == "policy.preempted"
    assert [fact.action for fact in ended[0].meter] == ["START", "STOP"]
    assert (await driver.logs(ended[0].run_id, "output", 0, 1 << 16)).count(b"began") == 1


async def test_a_requeued_job_does_not_start_user_code_twice(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    lease, source = make_lease(SLEEPER.format(seconds=60))
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    run = await site.wait(lease, "RUNNING")
    assert run.native_id is not None
    # What an operator or a plugin of the site may do: allow it, and put it back.
    command(site, "scontrol", "update", f"jobid={run.native_id}", "requeue=1")
    command(site, "scontrol", "requeue", run.native_id)
    ended = await site.wait(lease)
    assert (ended.phase, ended.reason.code if ended.reason else "") == ("FAILED", "cluster.lost")
    async with asyncio.timeout(20):
        while command(site, "squeue", "-h"):
            await asyncio.sleep(0.1)
    assert (await driver.logs(lease.run_id, "output", 0, 1 << 16)).count(b"began") == 1
    assert [fact.action for fact in ended.meter] == ["START", "STOP"]


async def test_a_job_that_slurm_starts_again_while_nobody_looks_runs_nothing(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    lease, source = make_lease(SLEEPER.format(seconds=60))
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    run = await site.wait(lease, "RUNNING")
    job = run.native_id or ""
    await site.abandon(driver)
    site.current = None
    command(site, "scontrol", "update", f"jobid={job}", "requeue=1")
    command(site, "scontrol", "requeue", job)
    async with asyncio.timeout(30):
        while "PENDING" not in command(site, "squeue", "-h", "-o%T"):
            await asyncio.sleep(0.1)
        command(site, "scontrol", "update", f"jobid={job}", "starttime=now")
        while command(site, "squeue", "-h"):
            await asyncio.sleep(0.1)
    driver = await site.start()
    ended = await site.wait(lease)
    assert ended.phase == "FAILED"
    output = await driver.logs(lease.run_id, "output", 0, 1 << 16)
    assert output.count(b"began") == 1
    assert [fact.action for fact in ended.meter] == ["START", "STOP"]

"""Jobs that slurmctld has forgotten, told by a real slurmdbd: times, exit codes and reasons of their ends."""

from __future__ import annotations

import asyncio
import time

import pytest

from tessera_hub.proxy.drivers.base import NativeRun
from tessera_hub.schemas.protocol import Lease
from tests.proxy.conformance import SLEEPER
from tests.proxy.conftest import LeaseMaker
from tests.slurm.accounting import AccountedCluster, accounted
from tests.slurm.site import SlurmSite

__all__ = ["accounted"]
pytestmark = pytest.mark.root


def site_of(cluster: AccountedCluster, **fields: float) -> SlurmSite:
    return SlurmSite(cluster, partitions=[{"name": "cpu"}], **fields)


async def recorded(cluster: AccountedCluster, lease: Lease, state: str) -> dict[str, int]:
    """Wait until accounting knows the end of a run's job; return its start and end."""
    async with asyncio.timeout(30):
        while True:
            text = await asyncio.to_thread(_sacct, cluster, lease)
            found = text.strip().split("|")
            if len(found) == 3 and found[0].startswith(state) and found[2].isdigit():
                return {"start": int(found[1]) if found[1].isdigit() else 0, "end": int(found[2])}
            await asyncio.sleep(0.2)


def _sacct(cluster: AccountedCluster, lease: Lease) -> str:
    command = ("sacct", "-n", "-P", "-X", f"--name={lease.run_id}", "-o", "State,Start,End")
    return cluster.command("env", "SLURM_TIME_FORMAT=%s", *command)


async def away(site: SlurmSite) -> None:
    """The Proxy is away from here on."""
    assert site.current is not None
    await site.abandon(site.current)
    site.current = None


async def told(site: SlurmSite, lease: Lease) -> tuple[NativeRun, str]:
    """Let Slurm forget all jobs, come back, and return the run's end and its reason's code."""
    await site.purge()
    await site.start()
    run = await site.wait(lease)
    return run, run.reason.code if run.reason else ""


async def test_the_end_of_a_forgotten_job_has_the_times_of_accounting(
    accounted: AccountedCluster, make_lease: LeaseMaker
) -> None:
    async with site_of(accounted) as site:
        await site.start()
        lease, source = make_lease(SLEEPER.format(seconds=2) + "raise SystemExit(3)")
        await site.submit(lease, source)
        await site.wait(lease, "RUNNING")
        await away(site)
        known = await recorded(accounted, lease, "FAILED")
        run, code = await told(site, lease)
        assert (run.phase, code, run.exit_code) == ("FAILED", "script.exit", 3)
        facts = [(fact.action, fact.effective_at, fact.evidence) for fact in run.meter]
        assert facts == [("START", known["start"], "engine"), ("STOP", known["end"], "engine")]


async def test_a_job_that_nobody_saw_run_is_billed_by_accounting(accounted: AccountedCluster, make_lease: LeaseMaker) -> None:
    accounted.command("sbatch", "--job-name=block", "-p", "cpu", "-c4", "--mem=64", "-o/dev/null", "--wrap=sleep 60")
    async with site_of(accounted) as site:
        driver = await site.start()
        lease, source = make_lease(SLEEPER.format(seconds=2))
        await site.submit(lease, source)
        assert (await site.wait(lease, "PENDING")).meter == ()
        await away(site)
        accounted.command("scancel", "--name=block")
        known = await recorded(accounted, lease, "COMPLETED")
        # What the program on the node wrote of its times is gone: accounting alone can tell them.
        for path in (site.directory / "proxy" / "runs" / str(lease.run_id) / "run").glob("shim*.json"):
            path.unlink()
        run, _code = await told(site, lease)
        facts = [(fact.action, fact.effective_at, fact.evidence) for fact in run.meter]
        assert run.phase == "SUCCEEDED"
        assert facts == [("START", known["start"], "engine"), ("STOP", known["end"], "engine")]
        assert site.current is not driver


async def test_why_a_forgotten_job_ended(accounted: AccountedCluster, make_lease: LeaseMaker) -> None:
    async with site_of(accounted) as site:
        await site.start()
        leases = {}
        for name in ("cancelled", "failed node", "waiting"):
            if name == "waiting":
                accounted.command("scontrol", "update", "nodename=n3", "state=drain", "reason=test")
            leases[name], source = make_lease(SLEEPER.format(seconds=120))
            await site.submit(leases[name], source)
            await site.wait(leases[name], "PENDING" if name == "waiting" else "RUNNING")
        await away(site)
        for name in ("waiting", "cancelled"):
            accounted.command("scancel", f"--name={leases[name].run_id}")
            await recorded(accounted, leases[name], "CANCELLED")
        accounted.command("scontrol", "update", "nodename=n3", "state=down", "reason=test")
        await recorded(accounted, leases["failed node"], "NODE_FAIL")
        accounted.command("scontrol", "update", "nodename=n3", "state=resume")
        run, code = await told(site, leases["cancelled"])
        assert (run.phase, code, [fact.action for fact in run.meter]) == ("FAILED", "cluster.cancelled", ["START", "STOP"])
        run = await site.wait(leases["failed node"])
        assert run.reason is not None
        assert (run.phase, run.reason.code, run.reason.message) == ("FAILED", "cluster.lost", "the node failed")
        run = await site.wait(leases["waiting"])
        assert (run.phase, run.reason.code if run.reason else "", run.meter) == ("FAILED", "cluster.cancelled", ())


async def ended_unseen(site: SlurmSite, accounted: AccountedCluster, make_lease: LeaseMaker) -> tuple[Lease, dict[str, int]]:
    """Return a run that ended while no Proxy looked, and what accounting knows of it."""
    lease, source = make_lease(SLEEPER.format(seconds=1))
    await site.submit(lease, source)
    await site.wait(lease, "RUNNING")
    await away(site)
    return lease, await recorded(accounted, lease, "COMPLETED")


async def test_an_end_waits_for_accounting_and_not_for_ever(accounted: AccountedCluster, make_lease: LeaseMaker) -> None:
    async with site_of(accounted) as site:
        await site.start()
        lease, known = await ended_unseen(site, accounted, make_lease)
        accounted.stop_database_daemon()
        await site.purge()
        await site.start()
        await asyncio.sleep(2.0)
        assert (await site.wait(lease, "RUNNING")).reason is None
        await asyncio.to_thread(accounted.start_database_daemon)
        run = await site.wait(lease)
        assert (run.phase, run.meter[1].effective_at, run.meter[1].evidence) == ("SUCCEEDED", known["end"], "engine")
    async with site_of(accounted, accounting_seconds=2.0) as site:
        await site.start()
        lease, known = await ended_unseen(site, accounted, make_lease)
        accounted.stop_database_daemon()
        try:
            await site.purge()
            began = time.monotonic()
            await site.start()
            run = await site.wait(lease)
        finally:
            await asyncio.to_thread(accounted.start_database_daemon)
        assert time.monotonic() - began >= 2.0
        assert (run.phase, run.meter[1].evidence) == ("SUCCEEDED", "observed")
        assert abs(run.meter[1].effective_at - known["end"]) <= 2


async def test_a_job_of_another_person_with_the_runs_name_is_not_asked_for(
    accounted: AccountedCluster, make_lease: LeaseMaker
) -> None:
    async with site_of(accounted) as site:
        driver = await site.start()
        lease, _source = make_lease("")
        command = ("sbatch", "--parsable", f"--job-name={lease.run_id}", "-p", "cpu", "--mem=64", "-o/dev/null", "--wrap=true")
        accounted.command(*command, user="tessera-bob")
        await recorded(accounted, lease, "COMPLETED")
        assert await driver.slurm.past(str(lease.run_id), "tessera-ada") == []  # type: ignore[attr-defined]
        assert len(await driver.slurm.past(str(lease.run_id), "tessera-bob")) == 1  # type: ignore[attr-defined]

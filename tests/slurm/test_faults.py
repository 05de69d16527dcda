"""slurmctld is killed, or stopped in an orderly way, and started again at each step of a run.

After each: nothing is lost, user code began at most once, and what is shown is true. What came of it is printed at the end.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator

import pytest

from tessera_hub.schemas.protocol import Lease
from tests.proxy.conformance import OBEDIENT, SLEEPER
from tests.proxy.conftest import LeaseMaker
from tests.proxy.sites import processes_of
from tests.slurm.cluster import SlurmCluster, running
from tests.slurm.outcomes import Tell
from tests.slurm.site import SlurmSite

pytestmark = [pytest.mark.faults, pytest.mark.root]
SAVED_SECONDS = 6.0
"""slurmctld saves within five seconds what has changed."""
OUTAGE_SECONDS = 1.5
BOTH = pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: signal.Signals(number).name)


@pytest.fixture(scope="module")
def own() -> Iterator[SlurmCluster]:
    """A Slurm that may lose its memory."""
    with running() as cluster:
        yield cluster


@pytest.fixture
def block(own: SlurmCluster) -> Iterator[None]:
    """Nothing can start in the partition ``cpu`` until :func:`unblock`, and slurmctld has saved that."""
    own.command("sbatch", "--job-name=block", "-p", "cpu", "-c4", "--mem=64", "-o/dev/null", "--wrap=sleep 120")
    while "RUNNING" not in own.command("squeue", "-h", "--name=block", "-o%T"):
        time.sleep(0.1)
    time.sleep(SAVED_SECONDS)
    yield
    unblock(own)


@pytest.fixture(autouse=True)
def _usable(own: SlurmCluster) -> Iterator[None]:
    """A node that Slurm has drained for what a test did serves the next one again."""
    yield
    if "drain" in own.command("sinfo", "-h", "-n", "n3", "-o", "%T"):
        own.command("scontrol", "update", "nodename=n3", "state=resume")


def unblock(cluster: SlurmCluster) -> None:
    cluster.command("scancel", "--name=block")


def site_of(cluster: SlurmCluster, poll_seconds: float = 0.2) -> SlurmSite:
    return SlurmSite(cluster, partitions=[{"name": "cpu"}], poll_seconds=poll_seconds)


async def counts(site: SlurmSite, lease: Lease) -> tuple[int, int]:
    """How often user code began, and how many jobs of the run Slurm knows."""
    assert site.current is not None
    output = await site.current.logs(lease.run_id, "output", 0, 1 << 20)
    jobs = site.cluster.command("squeue", "-h", "--states=all", f"--name={lease.run_id}", "-o%i").split()
    return output.count(b"began"), len(jobs)


async def saved(cluster: SlurmCluster) -> None:
    """Let slurmctld save that a job runs: by itself it may be late with a start, never with a submit."""
    await asyncio.to_thread(cluster.command, "sbatch", "--hold", "--job-name=save", "-p", "cpu", "-o/dev/null", "--wrap=true")
    await asyncio.sleep(SAVED_SECONDS)
    await asyncio.to_thread(cluster.command, "scancel", "--name=save")


async def outage(cluster: SlurmCluster, end: signal.Signals) -> None:
    await asyncio.to_thread(cluster.stop_controller, end)
    await asyncio.sleep(OUTAGE_SECONDS)
    await asyncio.to_thread(cluster.start_controller)


@BOTH
async def test_while_a_submit_is_on_its_way(own: SlurmCluster, make_lease: LeaseMaker, end: signal.Signals, tell: Tell) -> None:
    async with site_of(own) as site:
        await site.start()
        # Stopped first: sbatch has connected and waits for its answer when slurmctld dies.
        own.processes["slurmctld"].send_signal(signal.SIGSTOP)
        lease, source = make_lease("print('began')")
        await site.submit(lease, source)
        await asyncio.sleep(OUTAGE_SECONDS)
        own.processes["slurmctld"].send_signal(signal.SIGKILL if end is signal.SIGKILL else signal.SIGCONT)
        await outage(own, end)
        run = await site.wait(lease, seconds=60)
        tell(run, *(found := await counts(site, lease)))
        assert (run.phase, found) == ("SUCCEEDED", (1, 1))


@BOTH
async def test_before_a_submit(own: SlurmCluster, make_lease: LeaseMaker, end: signal.Signals, tell: Tell) -> None:
    async with site_of(own) as site:
        await site.start()
        await asyncio.to_thread(own.stop_controller, end)
        lease, source = make_lease("print('began')")
        await site.submit(lease, source)
        await asyncio.sleep(OUTAGE_SECONDS)
        await asyncio.to_thread(own.start_controller)
        run = await site.wait(lease)
        tell(run, *(found := await counts(site, lease)))
        assert (run.phase, found) == ("SUCCEEDED", (1, 1))


@BOTH
@pytest.mark.usefixtures("block")
async def test_while_a_job_waits(own: SlurmCluster, make_lease: LeaseMaker, end: signal.Signals, tell: Tell) -> None:
    async with site_of(own) as site:
        await site.start()
        lease, source = make_lease("print('began')")
        await site.submit(lease, source)
        before = await site.wait(lease, "PENDING")
        await asyncio.sleep(SAVED_SECONDS)
        await asyncio.to_thread(own.stop_controller, end)
        await asyncio.sleep(OUTAGE_SECONDS)
        during = await site.run(lease)
        assert during is not None
        assert (during.phase, during.native_id) == ("PENDING", before.native_id)
        await asyncio.to_thread(own.start_controller)
        unblock(own)
        run = await site.wait(lease)
        tell(run, *(found := await counts(site, lease)))
        assert (run.phase, run.native_id, found) == ("SUCCEEDED", before.native_id, (1, 1))


@BOTH
async def test_while_a_job_runs(own: SlurmCluster, make_lease: LeaseMaker, end: signal.Signals, tell: Tell) -> None:
    async with site_of(own) as site:
        await site.start()
        lease, source = make_lease(SLEEPER.format(seconds=SAVED_SECONDS + 7))
        await site.submit(lease, source)
        await site.wait_for_output(lease, b"began")
        before = await site.wait(lease, "RUNNING")
        await saved(own)
        await asyncio.to_thread(own.stop_controller, end)
        await asyncio.sleep(OUTAGE_SECONDS)
        assert await site.run(lease) == before
        await asyncio.to_thread(own.start_controller)
        run = await site.wait(lease)
        tell(run, *(found := await counts(site, lease)))
        assert (run.phase, run.meter[0], found) == ("SUCCEEDED", before.meter[0], (1, 1))
        assert run.meter[1].effective_at == site.times(run)[1], "to its end by Slurm's clock, not to our look"


@BOTH
async def test_while_a_job_ends(own: SlurmCluster, make_lease: LeaseMaker, end: signal.Signals, tell: Tell) -> None:
    async with site_of(own) as site:
        await site.start()
        lease, source = make_lease(SLEEPER.format(seconds=SAVED_SECONDS + 5) + "raise SystemExit(3)")
        await site.submit(lease, source)
        await site.wait_for_output(lease, b"began")
        before = await site.wait(lease, "RUNNING")
        await saved(own)
        await asyncio.to_thread(own.stop_controller, end)
        await site.wait_for_output(lease, b"done")
        await asyncio.sleep(OUTAGE_SECONDS)
        during = await site.run(lease)
        assert during is not None
        assert (during.phase, during.meter) == ("RUNNING", before.meter), "not over until Slurm says when"
        await asyncio.to_thread(own.start_controller)
        run = await site.wait(lease, seconds=60)
        tell(run, *(found := await counts(site, lease)))
        assert (run.phase, run.exit_code, run.meter[0], found) == ("FAILED", 3, before.meter[0], (1, 1))


@BOTH
async def test_before_a_cancel(own: SlurmCluster, make_lease: LeaseMaker, end: signal.Signals, tell: Tell) -> None:
    async with site_of(own) as site:
        driver = await site.start()
        lease, source = make_lease(OBEDIENT)
        await site.submit(lease, source)
        await site.wait_for_output(lease, b"began")
        await site.wait(lease, "RUNNING")
        await saved(own)
        await asyncio.to_thread(own.stop_controller, end)
        await driver.cancel(lease.run_id, "cancel", 8)
        await asyncio.sleep(OUTAGE_SECONDS)
        assert (await site.wait(lease, "RUNNING")).reason is None
        await asyncio.to_thread(own.start_controller)
        run = await site.wait(lease)
        tell(run, *(found := await counts(site, lease)))
        assert (run.phase, run.reason.code if run.reason else "", found) == ("CANCELLED", "policy.cancelled", (1, 1))
        assert (await driver.logs(lease.run_id, "output", 0, 1 << 16)).count(b"saved") == 1


# --- with the state of some seconds ago -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("block")
async def test_a_waiting_job_that_slurmctld_lost_is_submitted_again(
    own: SlurmCluster, make_lease: LeaseMaker, tell: Tell
) -> None:
    async with site_of(own) as site:
        driver = await site.start()
        own.keep_state()
        lease, source = make_lease("print('began')")
        await site.submit(lease, source)
        lost = await site.wait(lease, "PENDING")
        # Its number goes to another job of the same person, which must not suffer for it: nobody looks until then.
        async with driver._look_lock:  # type: ignore[attr-defined]
            await asyncio.to_thread(own.lose_state)
            other, other_source = make_lease(SLEEPER.format(seconds=1))
            await site.submit(other, other_source)
            async with asyncio.timeout(site.patience):
                while (found := await site.run(other)) is None or found.native_id is None:
                    await asyncio.sleep(0.05)
            assert found.native_id == lost.native_id
        async with asyncio.timeout(site.patience):
            while (again := await site.wait(lease, "PENDING", "STARTING")).native_id in (None, lost.native_id):
                await asyncio.sleep(0.05)
        assert again.uid == lost.uid
        unblock(own)
        assert (await site.wait(other)).phase == "SUCCEEDED"
        run = await site.wait(lease)
        tell(run, *(counted := await counts(site, lease)))
        assert (run.phase, counted, source.fetched) == ("SUCCEEDED", (1, 1), 1)


@pytest.mark.usefixtures("block")
async def test_a_waiting_job_that_was_cancelled_long_ago_is_not_submitted_again(
    own: SlurmCluster, make_lease: LeaseMaker, tell: Tell
) -> None:
    """The Proxy was away for longer than Slurm remembers: that the job is missing says nothing of a loss."""
    async with site_of(own) as site:
        driver = await site.start()
        lease, source = make_lease("print('began')")
        await site.submit(lease, source)
        await site.wait(lease, "PENDING")
        driver.slurm.min_job_age = 1  # type: ignore[attr-defined]
        async with driver._look_lock:  # type: ignore[attr-defined]
            own.command("scancel", f"--name={lease.run_id}")
            await asyncio.to_thread(own.forget_jobs)
            await asyncio.sleep(2.0)
        run = await site.wait(lease)
        tell(run, *(found := await counts(site, lease)))
        assert (run.phase, run.reason.code if run.reason else "", run.meter, found) == ("FAILED", "cluster.lost", (), (0, 0))


@pytest.mark.usefixtures("block")
async def test_a_cancel_of_a_job_that_slurmctld_lost_reaches_no_other(
    own: SlurmCluster, make_lease: LeaseMaker, tell: Tell
) -> None:
    async with site_of(own, poll_seconds=10) as site:
        driver = await site.start()
        own.keep_state()
        lease, source = make_lease("print('began')")
        await site.submit(lease, source)
        lost = await site.wait(lease, "PENDING")
        await asyncio.to_thread(own.lose_state)
        other, other_source = make_lease("print('began')")
        await site.submit(other, other_source)
        assert (await site.wait(other, "PENDING")).native_id == lost.native_id
        await driver.cancel(lease.run_id, "cancel", 0)
        run = await site.wait(lease)
        unblock(own)
        assert (await site.wait(other)).phase == "SUCCEEDED"
        tell(run, *(found := await counts(site, lease)))
        assert (run.phase, run.meter, found) == ("CANCELLED", (), (0, 0))


async def test_a_running_job_that_slurmctld_lost_is_told_as_lost_when_it_is_gone(
    own: SlurmCluster, make_lease: LeaseMaker, tell: Tell
) -> None:
    async with site_of(own) as site:
        await site.start()
        own.keep_state()
        lease, source = make_lease(SLEEPER.format(seconds=120))
        await site.submit(lease, source)
        await site.wait_for_output(lease, b"began")
        before = await site.wait(lease, "RUNNING")
        await asyncio.to_thread(own.lose_state)
        run = await site.wait(lease, seconds=60)
        tell(run, *(found := await counts(site, lease)))
        assert (run.phase, run.reason.code if run.reason else "", found) == ("FAILED", "cluster.lost", (1, 0))
        assert processes_of(lease.run_id) == [], "told as over only when nothing of it runs"
        assert [fact.action for fact in run.meter] == ["START", "STOP"]
        assert run.meter[0] == before.meter[0]

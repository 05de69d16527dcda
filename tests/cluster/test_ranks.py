"""Runs of several pods on the real cluster: they start together, find each other, and end together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from tessera_hub.proxy.drivers.base import DriverError, NativeRun
from tessera_hub.proxy.drivers.kubernetes.objects import PLAIN_JOBS, PODS
from tessera_hub.proxy.drivers.kubernetes.options import SITE
from tessera_hub.schemas.protocol import Lease
from tests.cluster.machine import Machine
from tests.cluster.site import KubernetesSite
from tests.proxy.conformance import OBEDIENT
from tests.proxy.conftest import Inputs, LeaseMaker, make_lease
from volcano_client import Collection, Transport

__all__ = ["make_lease"]
MEETING = """
import os, pathlib, socket, time
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
hosts = pathlib.Path(os.environ["TESSERA_HOSTFILE"]).read_text().split()
assert hosts[0] == address[0] and hosts[1::2] == ["slots=1"] * size, hosts
assert os.environ["LOCAL_RANK"] == "0"
if rank == 0:
    with socket.create_server(address) as server:
        total = 0
        for _ in range(size - 1):
            peer, (host, _port) = server.accept()
            assert host in hosts, (host, hosts)
            total += int(peer.recv(10))
    print("sum", total, "of", size, flush=True)
    pathlib.Path("sum.txt").write_text(str(total))
else:
    deadline = time.monotonic() + 20
    while True:
        try:
            peer = socket.create_connection(address)
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    peer.send(b"%d" % (rank * 10))
    print("rank", rank, "sent", flush=True)
    pathlib.Path("../output/from.txt").write_text(str(rank))
"""

ADDING = """
import os, pathlib, sys
from mpi4py import MPI
world = MPI.COMM_WORLD
total = world.allreduce(10 ** world.rank)
hosts = world.gather(os.environ["TESSERA_POD_UID"])
pathlib.Path(f"rank-{world.rank}.txt").write_text(sys.argv[1])
if world.rank == 0:
    print("sum", total, "of", world.size, "in", len(set(hosts)), "pods", flush=True)
"""


@pytest_asyncio.fixture
async def site(cluster: Machine) -> AsyncIterator[KubernetesSite]:
    found = KubernetesSite(cluster)
    yield found
    await found.finish()


def several(made: tuple[Lease, Inputs], parts: int, **resources: Any) -> tuple[Lease, Inputs]:
    """Make a run of several pods of a lease."""
    lease, source = made
    body = lease.spec.model_dump(mode="json")
    body["roles"][0]["replicas"] = parts
    body["roles"][0]["resources"] |= {"memory_mib": 128, **resources}
    return lease.model_copy(update={"spec": type(lease.spec).model_validate(body)}), source


async def outputs_of(site: KubernetesSite, lease: Lease) -> dict[str, bytes]:
    """Return the files that a run gave back."""
    assert site.current is not None
    results = await site.current.results(lease.run_id)
    return {found.path: found.file.read_bytes() for found in results.outputs}


async def output(site: KubernetesSite, lease: Lease) -> bytes:
    assert site.current is not None
    return await site.current.logs(lease.run_id, "output", 0, 1 << 16)


async def test_two_ranks_meet_and_each_gives_back_its_log(site: KubernetesSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    lease, source = several(make_lease(MEETING, kind="training", framework="pytorch"), 2)
    await site.submit(lease, source)
    run = await site.wait(lease)
    text = await output(site, lease)
    assert (run.phase, run.exit_code, run.reason) == ("SUCCEEDED", 0, None), text
    assert b"sum 10 of 2\n" in text
    assert b"rank 1" not in text, "the first part's output is its own"
    files = await outputs_of(site, lease)
    assert set(files) == {"sum.txt", "logs/part-1.log", "parts/1/from.txt"}
    assert files["sum.txt"] == b"10"
    assert b"rank 1 sent\n" in files["logs/part-1.log"]
    assert [fact.action for fact in run.meter] == ["START", "STOP"]
    assert run.meter[0].spec == {"cpu": 200, "memory": 256}, "one subject holds what all parts hold"
    assert set(source.claims) == {run.uid}, "what is not claimed under the same name is not billed"
    again = next(found for found in await driver.list_runs() if found.run_id == lease.run_id)
    assert again.uid == run.uid


async def test_the_output_of_each_part_arrives_while_it_runs(site: KubernetesSite, make_lease: LeaseMaker) -> None:
    await site.start()
    text = "import os, time\nprint('I am part', os.environ['RANK'], flush=True)\ntime.sleep(60)"
    lease, source = several(make_lease(text, kind="training", framework="pytorch"), 2)
    await site.submit(lease, source)
    run = str(lease.run_id)
    async with asyncio.timeout(site.patience):
        while site.double.logs[run, "part-1"] != b"I am part 1\n" or site.double.logs[run, "output"] != b"I am part 0\n":
            await asyncio.sleep(0.1)
    assert site.current is not None
    await site.current.cancel(lease.run_id, "cancel", 1)
    assert (await site.wait(lease)).phase == "CANCELLED"


async def test_mpirun_in_the_first_part_starts_processes_in_all(site: KubernetesSite, make_lease: LeaseMaker) -> None:
    await site.start()
    files = {"add.py": ADDING.encode()}
    made = make_lease("set -e\nmpirun python add.py kept\n", entry="go.sh", kind="training", framework="mpi", files=files)
    lease, source = several(made, 2, cpu_millicores=100)
    await site.submit(lease, source)
    run = await site.wait(lease)
    text = await output(site, lease)
    assert (run.phase, run.exit_code, run.reason) == ("SUCCEEDED", 0, None), text
    assert b"sum 11 of 2 in 2 pods\n" in text, text
    files = await outputs_of(site, lease)
    assert (files["rank-0.txt"], files["parts/1/rank-1.txt"]) == (b"kept", b"kept")


async def test_a_part_that_fails_ends_the_others_and_is_named(site: KubernetesSite, make_lease: LeaseMaker) -> None:
    await site.start()
    text = (
        "import os, sys, time, signal\n"
        "print('began', flush=True)\n"
        "if os.environ['RANK'] == '1':\n    time.sleep(1)\n    sys.exit(5)\n"
        "time.sleep(60)\n"
    )
    lease, source = several(make_lease(text, kind="training"), 2)
    await site.submit(lease, source)
    run = await site.wait(lease)
    assert (run.phase, run.exit_code) == ("FAILED", 5)
    assert run.reason is not None
    assert (run.reason.code, run.reason.detail["rank"]) == ("script.exit", 1)
    assert run.reason.message.startswith("part 1")
    assert run.meter[-1].effective_at - run.meter[0].effective_at < 20


async def test_cancel_reaches_all_parts(site: KubernetesSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    lease, source = several(make_lease(OBEDIENT, kind="training"), 2)
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    await asyncio.sleep(0.5)
    await driver.cancel(lease.run_id, "cancel", 8)
    run = await site.wait(lease)
    assert (run.phase, run.reason.code if run.reason else "") == ("CANCELLED", "policy.cancelled")
    assert b"saved" in await output(site, lease)
    assert b"saved" in (await outputs_of(site, lease))["logs/part-1.log"]


async def test_a_new_proxy_adopts_suspends_and_resumes_all_parts(site: KubernetesSite, make_lease: LeaseMaker) -> None:
    await site.start()
    text = "import time\nfor i in range(80):\n    print(i, flush=True)\n    time.sleep(0.1)\nprint('done')\n"
    lease, source = several(make_lease(text, kind="training"), 2)
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"3\n")
    before = await site.wait(lease, "RUNNING")
    driver = await site.start()
    after = await site.wait(lease, "RUNNING")
    assert (after.uid, after.meter[0]) == (before.uid, before.meter[0])
    await driver.suspend(lease.run_id)
    await site.wait(lease, "SUSPENDED")
    held = await output(site, lease)
    await asyncio.sleep(1.5)
    assert await output(site, lease) == held
    await driver.resume(lease.run_id)
    run = await site.wait(lease)
    assert (run.phase, run.reason) == ("SUCCEEDED", None)
    assert [fact.action for fact in run.meter] == ["START", "PAUSE", "RESUME", "STOP"]
    assert b"done" in (await outputs_of(site, lease))["logs/part-1.log"]
    assert (await output(site, lease)).count(b"done") == 1


async def test_half_a_company_starts_nothing_and_is_given_back(site: KubernetesSite, make_lease: LeaseMaker) -> None:
    site.options = {"gang_seconds": 3}
    await site.start()
    share = await site.call(most_of_the_node)
    lease, source = several(make_lease("print('never')", kind="training"), 2, cpu_millicores=share)
    await site.submit(lease, source)
    waiting = await reason_of(site, lease, "capacity.gang")
    assert waiting.reason is not None
    assert (waiting.reason.detail["placed"], waiting.reason.detail["parts"]) == (1, 2)
    assert waiting.meter == ()
    run = await site.wait(lease)
    assert (run.phase, run.reason.code if run.reason else "", run.meter) == ("QUEUED", "cluster.gave_back", ())
    assert await output(site, lease) == b""


def most_of_the_node(transport: Transport) -> int:
    """Return millicores that one more pod can have, and two cannot."""
    from tessera_hub.proxy.drivers.kubernetes.inventory import use_of
    from tessera_hub.proxy.drivers.kubernetes.objects import NODES
    from tessera_hub.proxy.drivers.kubernetes.quantities import millicores

    [node] = list(Collection(transport, NODES).list())
    uses = [use for pod in Collection(transport, PODS).list() if (use := use_of(pod)) is not None]
    whole = millicores(node["status"]["allocatable"]["cpu"])
    free = whole - sum(use.requests.get("cpu", 0) for use in uses)
    half = whole * 51 // 100  # of which there can never be two; where others hold much, most of what is left
    return half if half <= free else free * 6 // 10


async def reason_of(site: KubernetesSite, lease: Lease, code: str) -> NativeRun:
    """Return the run once it says *code*."""
    async with asyncio.timeout(site.patience):
        while True:
            run = await site.run(lease)
            assert run is not None
            if run.reason is not None and run.reason.code == code:
                return run
            await asyncio.sleep(0.05)


async def test_a_refused_claim_starts_no_part(site: KubernetesSite, make_lease: LeaseMaker) -> None:
    await site.start()
    lease, source = several(make_lease("print('never')", kind="training"), 2)
    source.refuse = DriverError("claimed.elsewhere", "another was first")
    await site.submit(lease, source)
    run = await site.wait(lease)
    assert (run.phase, run.reason.code if run.reason else "", run.meter) == ("FAILED", "claimed.elsewhere", ())
    assert await output(site, lease) == b""


async def test_a_pod_taken_away_ends_the_run_and_nothing_is_left(site: KubernetesSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    lease, source = several(make_lease(OBEDIENT, kind="training", lifecycle={"grace_seconds": 2}), 2)
    await site.submit(lease, source)
    async with asyncio.timeout(site.patience):
        while any(site.double.logs[str(lease.run_id), part] != b"began\n" for part in ("output", "part-1")):
            await asyncio.sleep(0.1)
    await site.kill(await site.wait(lease, "RUNNING"))
    run = await site.wait(lease)
    assert (run.phase, run.reason.code if run.reason else "") == ("FAILED", "cluster.cancelled")
    await driver.forget(lease.run_id)

    def left(transport: Transport) -> int:
        return sum(len(list(Collection(transport, kind).list(labels=f"{SITE}={site.prefix}"))) for kind in (PODS, PLAIN_JOBS))

    async with asyncio.timeout(30):
        while await site.call(left):
            await asyncio.sleep(0.2)

"""Runs of several parts on a real Slurm, started together by srun."""

from __future__ import annotations

import asyncio

import pytest

from tests.proxy.conformance import OBEDIENT
from tests.proxy.conftest import LeaseMaker
from tests.slurm.site import SlurmSite

pytestmark = pytest.mark.root
A100 = {"model": "A100-80G", "centi_cards": 100}


async def test_several_parts_run_together_and_know_each_other(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    text = (
        "import os, socket, time, pathlib\n"
        "rank, size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])\n"
        "address = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])\n"
        "if rank == 0:\n"
        "    with socket.create_server(address) as server:\n"
        "        peer, _ = server.accept()\n"
        "        print('rank 0 heard', peer.recv(10), os.environ['SLURMD_NODENAME'], flush=True)\n"
        "else:\n"
        "    for _ in range(100):\n"
        "        try:\n"
        "            socket.create_connection(address).send(b'rank%d' % rank)\n"
        "            break\n"
        "        except ConnectionRefusedError:\n"
        "            time.sleep(0.1)\n"
        "    print('rank', rank, 'of', size, os.environ['SLURMD_NODENAME'], flush=True)\n"
        "    pathlib.Path('../output/from-%d.txt' % rank).write_text('x')\n"
    )
    lease, source = make_lease(text, kind="training", framework="pytorch", card_class="A100-80G")
    body = lease.spec.model_dump(mode="json")
    body["roles"][0] |= {"replicas": 2, "resources": {"cpu_millicores": 1000, "memory_mib": 256, "cards": A100}}
    lease = lease.model_copy(update={"spec": type(lease.spec).model_validate(body)})
    await site.submit(lease, source)
    run = await site.wait(lease)
    output = (await driver.logs(lease.run_id, "output", 0, 1 << 16)).decode()
    assert (run.phase, run.reason) == ("SUCCEEDED", None), output
    assert "rank 0 heard b'rank1' n1" in output
    results = {found.path: found for found in (await driver.results(lease.run_id)).outputs}
    assert {"logs/part-1.log", "from-1.txt"} <= set(results)
    assert "rank 1 of 2 n2" in results["logs/part-1.log"].file.read_text()
    assert run.meter[0].spec["cards/A100-80G"] == 200


async def test_one_failing_part_ends_the_others(site: SlurmSite, make_lease: LeaseMaker) -> None:
    await site.start()
    text = "import os, sys, time\nif os.environ['RANK'] == '1':\n    sys.exit(5)\ntime.sleep(60)"
    lease, source = make_lease(text, kind="training")
    body = lease.spec.model_dump(mode="json")
    body["roles"][0] |= {"replicas": 3}
    lease = lease.model_copy(update={"spec": type(lease.spec).model_validate(body)})
    await site.submit(lease, source)
    run = await site.wait(lease)
    assert run.phase == "FAILED"


async def test_cancel_reaches_all_parts(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    lease, source = make_lease(OBEDIENT, kind="training")
    body = lease.spec.model_dump(mode="json")
    body["roles"][0] |= {"replicas": 2}
    lease = lease.model_copy(update={"spec": type(lease.spec).model_validate(body)})
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    await asyncio.sleep(0.5)
    await driver.cancel(lease.run_id, "cancel", 8)
    run = await site.wait(lease)
    assert run.phase == "CANCELLED"
    assert b"saved" in await driver.logs(lease.run_id, "output", 0, 1 << 16)
    logs = next(found for found in (await driver.results(lease.run_id)).outputs if found.path == "logs/part-1.log")
    assert "saved" in logs.file.read_text()

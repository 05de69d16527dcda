"""An MPI program of two ranks on a real Slurm: srun starts the ranks, PMIx brings them together.

Both are on one node: PMIx of Slurm 22.05 has one folder per machine, which several slurmd of one machine cannot share.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from tessera_hub.schemas.protocol import Lease
from tests.proxy.conftest import LeaseMaker
from tests.slurm.site import SlurmSite

pytestmark = pytest.mark.root
SOURCE = Path(__file__).with_name("ring.c")


def of_two(lease: Lease, **fields: object) -> Lease:
    """Make a lease one of two parts."""
    body = lease.spec.model_dump(mode="json") | fields
    body["roles"][0] |= {"replicas": 2, "resources": {"cpu_millicores": 1000, "memory_mib": 512}}
    return lease.model_copy(update={"spec": type(lease.spec).model_validate(body)})


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The compiled program."""
    if shutil.which("mpicc") is None:
        pytest.fail("mpicc not found; on Debian: apt-get install openmpi-bin libopenmpi-dev gcc libpmix2", pytrace=False)
    program = tmp_path_factory.mktemp("mpi") / "ring"
    subprocess.run(["mpicc", "-o", str(program), str(SOURCE)], check=True)
    return program.read_bytes()


async def test_two_ranks_pass_a_number_round(site: SlurmSite, make_lease: LeaseMaker, ring: bytes) -> None:
    driver = await site.start()
    text = (
        "import os, subprocess\n"
        "os.chmod('ring', 0o700)\n"
        "done = subprocess.run([os.path.abspath('ring')], capture_output=True, text=True)\n"
        "print(os.environ['SLURMD_NODENAME'], done.stdout, done.stderr, flush=True)\n"
        "raise SystemExit(done.returncode)\n"
    )
    lease, source = make_lease(text, kind="training", framework="mpi", files={"ring": ring})
    transport = {"OMPI_MCA_btl": "tcp,self", "OMPI_MCA_btl_tcp_if_include": "lo", "OMPI_MCA_pml": "ob1"}
    lease = of_two(lease, variables={**lease.spec.variables, **transport})
    await site.submit(lease, source)
    run = await site.wait(lease)
    output = (await driver.logs(lease.run_id, "output", 0, 1 << 16)).decode()
    assert (run.phase, run.reason) == ("SUCCEEDED", None), output
    assert "n3 sum 101 of 2 ranks" in output
    other = next(found for found in (await driver.results(lease.run_id)).outputs if found.path == "logs/part-1.log")
    assert other.file.read_text().startswith("n3")


async def test_the_output_of_each_part_is_there_while_it_runs(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    text = "import os, time\nprint('I am part', os.environ['SLURM_PROCID'], flush=True)\ntime.sleep(60)"
    lease, source = make_lease(text, kind="training")
    lease = of_two(lease)
    assert driver.streams(lease) == ("output", "progress", "part-1")
    await site.submit(lease, source)
    await site.wait(lease, "RUNNING")
    assert await site.wait_for_output(lease, b"part 0\n")
    async with asyncio.timeout(site.patience):
        while await driver.logs(lease.run_id, "part-1", 0, 100) != b"I am part 1\n":
            await asyncio.sleep(0.1)
    assert await driver.logs(lease.run_id, "part-2", 0, 100) == b""
    await driver.cancel(lease.run_id, "cancel", 1)
    assert (await site.wait(lease)).phase == "CANCELLED"

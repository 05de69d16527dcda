"""A real Slurm that is asked for text, as one without the plugin for JSON is."""

from __future__ import annotations

import pytest

from tessera_hub.proxy.drivers.slurm.engine import Slurm
from tests.proxy.conformance import SLEEPER
from tests.proxy.conftest import LeaseMaker
from tests.slurm.site import SlurmSite

pytestmark = pytest.mark.root
A100 = {"model": "A100-80G", "centi_cards": 100}


async def test_text_says_what_json_says(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    slurm: Slurm = driver.slurm  # type: ignore[attr-defined]
    both = {"cards": {**A100, "centi_cards": 200}}
    lease, source = make_lease(SLEEPER.format(seconds=6), resources=both, card_class="A100-80G")
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    await site.wait(lease, "RUNNING")
    nodes, [job] = await slurm.nodes(), [job for job in await slurm.jobs() if job.name == str(lease.run_id)]
    slurm._json = False
    assert {node.name: node for node in await slurm.nodes()} == {node.name: node for node in nodes}
    [text] = [job for job in await slurm.jobs() if job.name == str(lease.run_id)]
    for name in ("job_id", "state", "user", "partition", "nodes", "start", "submitted", "cpus", "memory_mib", "comment"):
        assert getattr(text, name) == getattr(job, name), name
    assert (await site.wait(lease)).phase == "SUCCEEDED"


async def test_a_run_without_json_is_told_as_with_it(site: SlurmSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    driver.slurm._json = False  # type: ignore[attr-defined]
    lease, source = make_lease(SLEEPER.format(seconds=2))
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    run = await site.wait(lease)
    assert (run.phase, run.exit_code, [fact.action for fact in run.meter]) == ("SUCCEEDED", 0, ["START", "STOP"])
    assert 2 <= run.meter[1].effective_at - run.meter[0].effective_at <= 5
    failing, source = make_lease("import os; os.kill(os.getppid(), 9)")
    await site.submit(failing, source)
    assert (await site.wait(failing)).phase == "FAILED"

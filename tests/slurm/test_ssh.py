"""A centre behind SSH: a real sshd as its login node, a key per person, files carried there and back."""

from __future__ import annotations

import asyncio
import os
import pwd
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.conformance import OBEDIENT, SLEEPER, notebook
from tests.proxy.conftest import LeaseMaker
from tests.proxy.escapes import Escapes
from tests.slurm.cluster import SlurmCluster
from tests.slurm.login import LoginNode, login, ssh_programs
from tests.slurm.site import SlurmSite

__all__ = ["login", "ssh_programs"]
pytestmark = pytest.mark.root
SERVICE = "tessera-bob"
"""The account of the Proxy's own commands; it is no operator of Slurm."""


def site_of(slurm: SlurmCluster, login: LoginNode, alive_seconds: int = 10, **fields: Any) -> SlurmSite:
    directory = slurm.shared / f"centre-{login.port}"
    directory.mkdir()
    uid = pwd.getpwnam(SERVICE)

    os.chown(directory, uid.pw_uid, uid.pw_gid)
    return SlurmSite(
        slurm,
        directory=str(directory),
        accounts={"ada": "tessera-ada"},
        python=sys.executable,
        suspend=False,
        ssh={
            "host": "127.0.0.1",
            "port": login.port,
            "user": SERVICE,
            "key": str(login.keys / SERVICE),
            "keys": str(login.keys),
            "known_hosts": str(login.known_hosts),
            "alive_seconds": alive_seconds,
        },
        **{"command_seconds": 20, **fields},
    )


async def test_a_notebook_runs_behind_ssh(slurm: SlurmCluster, login: LoginNode, make_lease: LeaseMaker) -> None:
    async with site_of(slurm, login) as site:
        driver = await site.start()
        source_text = (
            "import os\nprint(os.getuid())\nopen('made.bin', 'wb').write(bytes(3 << 20))\nopen('data/a', 'w').write('new')"
        )
        lease, source = make_lease(
            notebook(source_text),
            entry="dir/train.ipynb",
            resources={"memory_mib": 1024},
            files={"dir/data/a": b"1", "dir/data/b": b"2"},
        )
        await site.submit(lease, source)
        run = await site.wait(lease, seconds=60)
        assert (run.phase, run.reason) == ("SUCCEEDED", None)
        found = await driver.notebook(lease.run_id, None)
        assert found is not None
        assert str(pwd.getpwnam("tessera-ada").pw_uid).encode() in found[1]
        results = {output.path: output for output in (await driver.results(lease.run_id)).outputs}
        assert {"dir/made.bin", "dir/data/a"} <= set(results)
        assert "dir/data/b" not in results
        assert results["dir/made.bin"].size == 3 << 20
        assert results["dir/data/a"].file.read_bytes() == b"new"
        there = Path(site.settings.directory or "") / "runs" / str(lease.run_id)
        assert there.stat().st_uid == pwd.getpwnam("tessera-ada").pw_uid
        assert there.stat().st_mode & 0o777 == 0o700
        await driver.forget(lease.run_id)
        assert not there.exists()
        assert await driver.list_runs() == []


async def test_texts_and_names_behind_ssh_are_what_they_were(
    slurm: SlurmCluster, login: LoginNode, make_lease: LeaseMaker
) -> None:
    """There and back they go through archives and frames, which a place that shares its files has not."""
    async with site_of(slurm, login) as site:
        for index in (1, 3):
            await Escapes().test_every_text_arrives_as_it_was_written(site, make_lease, index)
        await Escapes().test_names_of_results_come_back_as_they_are_or_are_told_as_left_out(site, make_lease)


async def test_logs_grow_while_a_run_goes_on_and_cancel_gives_grace(
    slurm: SlurmCluster, login: LoginNode, make_lease: LeaseMaker
) -> None:
    async with site_of(slurm, login) as site:
        driver = await site.start()
        lease, source = make_lease(OBEDIENT)
        await site.submit(lease, source)
        await site.wait_for_output(lease, b"began")
        await site.wait(lease, "RUNNING")
        await driver.cancel(lease.run_id, "cancel", 5)
        run = await site.wait(lease)
        assert (run.phase, run.reason.code if run.reason else "") == ("CANCELLED", "policy.cancelled")
        output = await driver.logs(lease.run_id, "output", 0, 1 << 16)
        assert (output.count(b"began"), output.count(b"saved")) == (1, 1)


async def test_a_run_outlives_a_cut_connection_and_a_new_proxy(
    slurm: SlurmCluster, login: LoginNode, make_lease: LeaseMaker
) -> None:
    async with site_of(slurm, login) as site:
        await site.start()
        lease, source = make_lease(SLEEPER.format(seconds=4))
        await site.submit(lease, source)
        await site.wait_for_output(lease, b"began")
        before = await site.wait(lease, "RUNNING")
        login.cut()
        late, late_source = make_lease("print('late')")
        await site.submit(late, late_source)
        await asyncio.sleep(1.5)
        assert (await site.wait(lease, "RUNNING")).meter == before.meter
        login.start()
        assert (await site.wait(late, seconds=60)).phase == "SUCCEEDED"
        driver = await site.start()
        run = await site.wait(lease)
        assert (run.phase, run.meter[0], run.uid) == ("SUCCEEDED", before.meter[0], before.uid)
        output = await driver.logs(lease.run_id, "output", 0, 1 << 16)
        assert (output.count(b"began"), output.count(b"done")) == (1, 1)


async def test_a_host_that_is_not_known_is_not_trusted(slurm: SlurmCluster, login: LoginNode) -> None:
    from tessera_hub.proxy.drivers.slurm.transport import TransportError, transport_of

    login.known_hosts.write_text("")
    site = site_of(slurm, login)
    transport = transport_of(site.settings)
    with pytest.raises(TransportError, match="Host key verification failed"):
        await transport.run(["true"])
    await transport.close()
    await site.clean()


@pytest.mark.parametrize("word", ["a b", "$(id)", "`id`", "'; id; '", "a\nb", "*", "~", "-n", "\\", '"', "ü", ""])
async def test_arguments_arrive_as_they_are(slurm: SlurmCluster, login: LoginNode, word: str) -> None:
    from tessera_hub.proxy.drivers.slurm.transport import transport_of

    site = site_of(slurm, login)
    transport = transport_of(site.settings)
    answer = await transport.run(["printf", "[%s]", word], account="tessera-ada", data=b"ignored")
    assert (answer.status, answer.text) == (0, f"[{word}]")
    await transport.close()
    await site.clean()

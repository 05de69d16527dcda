"""``tessera proxy --driver slurm`` as a process beside the real service."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from pathlib import Path

import httpx

from tests.proxy.machine import LocalProxy
from tests.service import ServiceProcess
from tests.slurm.cluster import SlurmCluster
from tests.slurm.site import ACCOUNTS

SBATCH = """#!/bin/sh
# Stands before the real sbatch and stops where the test wants it: before or after the job is taken.
door={door}
if [ -e $door/before ] && mkdir $door/reached 2>/dev/null; then
    while [ -e $door/before ]; do sleep 0.05; done
fi
/usr/bin/sbatch "$@"
status=$?
if [ -e $door/after ] && mkdir $door/reached 2>/dev/null; then
    while [ -e $door/after ]; do sleep 0.05; done
fi
exit $status
"""


class Door:
    """A folder with an ``sbatch`` that stops on order; to be the first on the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        folder.chmod(0o777)
        program = folder / "sbatch"
        program.write_text(SBATCH.replace("{door}", str(folder)))
        program.chmod(0o755)

    def stop_at(self, where: str) -> None:
        """Let the next sbatch stop ``before`` or ``after`` the job is taken."""
        (self.folder / where).touch()

    def wait_until_stopped(self, seconds: float = 30.0) -> None:
        """Wait until an sbatch stands there."""
        deadline = time.monotonic() + seconds
        while not (self.folder / "reached").exists():
            assert time.monotonic() < deadline, "no sbatch came"
            time.sleep(0.02)

    def go_on(self, where: str) -> None:
        """Let it go on."""
        (self.folder / where).unlink()

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)


class SlurmProxy(LocalProxy):
    """The Proxy of a Slurm centre, with the settings file that an operator would write."""

    def __init__(
        self, service: ServiceProcess, cluster: SlurmCluster, directory: Path, api: httpx.Client, more: str = ""
    ) -> None:
        super().__init__(service, directory, api)
        self.cluster = cluster
        self.data_dir = directory / "slurm"
        self.door = Door(directory / "door")
        accounts = "\n".join(f'"{person}" = "{account}"' for person, account in ACCOUNTS.items())
        settings = directory / "slurm.toml"
        settings.write_text(f"""
suspend = true
poll_seconds = 0.3
slurm_conf = "{cluster.config}"
path = "{self.door.folder}:{cluster.environment["PATH"]}"
{more}
[accounts]
{accounts}
[environments.default]
python = "{sys.executable}"
[[partitions]]
name = "gpu"
preemptible = "low"
[[partitions]]
name = "cpu"
[cards]
a100 = "A100-80G"
""")
        self.options = ("--driver", "slurm", "--settings", str(settings))

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        self.process = None

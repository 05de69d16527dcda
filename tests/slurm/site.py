"""The Slurm of :mod:`tests.slurm.cluster` as a site of the conformance suite."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tessera_hub.proxy.drivers.base import Driver, NativeRun
from tessera_hub.proxy.drivers.slurm import slurm_driver
from tessera_hub.proxy.drivers.slurm.settings import SlurmSettings
from tests.proxy.sites import Site
from tests.slurm.cluster import SlurmCluster

ACCOUNTS = {"ada": "tessera-ada", "bob": "tessera-bob"}


def settings_of(cluster: SlurmCluster, **fields: Any) -> SlurmSettings:
    """Return settings with which a Proxy on this machine uses the cluster."""
    fields = {
        "accounts": {} if fields.get("shared_account") else ACCOUNTS,
        "environments": {"default": {"python": sys.executable}},
        "partitions": [{"name": "gpu", "preemptible": "low"}, {"name": "cpu"}],
        "cards": {"a100": "A100-80G"},
        "poll_seconds": 0.2,
        "suspend": True,
        "slurm_conf": str(cluster.config),
        "path": cluster.environment["PATH"],
        **fields,
    }
    return SlurmSettings.model_validate(fields)


class SlurmSite(Site):
    """Runs as batch jobs of ``tessera-ada``."""

    name = "slurm"

    def __init__(self, cluster: SlurmCluster, **fields: Any) -> None:
        super().__init__()
        self.cluster = cluster
        self.directory = Path(tempfile.mkdtemp(prefix="proxy-", dir=cluster.shared))
        self.directory.chmod(0o711)
        self.settings = settings_of(cluster, **fields)

    async def make(self) -> Driver:
        return slurm_driver(self.settings, self.directory / "proxy")

    async def abandon(self, driver: Driver) -> None:
        await driver.close()

    async def kill(self, run: NativeRun) -> None:
        assert run.native_id is not None
        await asyncio.to_thread(self.cluster.command, "scancel", run.native_id)

    async def purge(self) -> None:
        await asyncio.to_thread(self.cluster.forget_jobs)

    def times(self, run: NativeRun) -> list[int]:
        """Start and end of a run's job by Slurm's clock, while Slurm remembers it."""
        command = ("env", "SLURM_TIME_FORMAT=%s", "squeue", "-h", "--states=all", f"--name={run.run_id}", "-o%S %e")
        return [int(word) for word in self.cluster.command(*command).split()]

    async def clean(self) -> None:
        deadline = time.monotonic() + 15
        while await asyncio.to_thread(self.cluster.command, "squeue", "-h") and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory)

    def diagnosis(self) -> str:
        shown = self.cluster.command("squeue", "--states=all", "-o", "%i %j %T %r %N", check=False)
        return shown + self.cluster.command("sinfo", "-R", check=False) + self.cluster.logs()

"""The AWS Batch driver as a site of the conformance suite, on moto with the compute double."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

from tessera_hub.proxy.drivers.aws_batch import AwsBatchOptions
from tessera_hub.proxy.drivers.aws_batch.driver import AwsBatchDriver
from tessera_hub.proxy.drivers.base import Driver, NativeRun
from tessera_hub.schemas.protocol import Lease
from tests.aws.account import BUCKET, DEFINITION, QUEUE, REGION, SPOT_QUEUE, Account
from tests.cluster.service_double import ServiceDouble
from tests.proxy.conftest import Inputs
from tests.proxy.delivered import Delivered
from tests.proxy.sites import Site


class DeliveredAwsBatch(Delivered, AwsBatchDriver):
    """The driver, and for the suite's eyes what its runs delivered themselves."""

    def __init__(self, options: AwsBatchOptions, double: ServiceDouble, folder: Path) -> None:
        super().__init__(options)
        self.double = double
        self.folder = folder


class AwsBatchSite(Site):
    """One Proxy's share of the account: a prefix of its own."""

    name = "aws_batch"
    patience = 60.0

    def __init__(self, account: Account, **options: Any) -> None:
        super().__init__()
        self.account = account
        self.prefix = f"c{uuid4().hex[:8]}"
        self.folder = Path(tempfile.mkdtemp(prefix="tessera-site-"))
        self.double = ServiceDouble(lambda run_id: self.sources.setdefault(run_id, Inputs({})), "127.0.0.1")
        self.started = False
        self.options = options

    def settings(self, **options: Any) -> AwsBatchOptions:
        """Return the options of this site's drivers."""
        given: dict[str, Any] = {
            "queue": QUEUE,
            "spot_queue": SPOT_QUEUE,
            "bucket": BUCKET,
            "prefix": self.prefix,
            "environments": {"default": DEFINITION},
            "service_url": self.double.url,
            "region": REGION,
            "endpoint_url": self.account.url,
            "python": sys.executable,
            "look_seconds": 0.3,
            "poll_seconds": 0.2,
            "inventory_seconds": 1.0,
            "settle_seconds": 1.0,
        }
        return AwsBatchOptions(**(given | self.options | options))

    async def make(self) -> Driver:
        if not self.started:
            await self.double.start()
            self.started = True
        return DeliveredAwsBatch(self.settings(), self.double, self.folder)

    async def submit(self, lease: Lease, source: Inputs) -> None:
        self.double.knows(lease.run_id, [file.model_dump(mode="json") for file in lease.spec.inputs.files])
        await super().submit(lease, source)

    async def abandon(self, driver: Driver) -> None:
        self.double.drop_calls()
        await driver.close()

    async def kill(self, run: NativeRun) -> None:
        batch = self.account.client("batch")
        await asyncio.to_thread(lambda: batch.terminate_job(jobId=run.native_id, reason="ended by an administrator"))

    async def purge(self) -> None:
        await asyncio.to_thread(self.account.ask, "purge")

    async def clean(self) -> None:
        await self.double.stop()
        shutil.rmtree(self.folder)

    def diagnosis(self) -> str:
        logs = sorted(self.account.folder.glob("*.log"), key=lambda path: path.stat().st_mtime)[-3:]
        return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-2000:]}" for path in logs)

"""What the conformance suite needs of a kind of cluster: a driver that can be started again and again, and rough hands."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self
from uuid import UUID

from tessera_hub.proxy.drivers.base import Driver, NativeRun
from tessera_hub.proxy.drivers.launching import LocalOptions
from tessera_hub.proxy.drivers.local import LocalDriver
from tessera_hub.schemas.protocol import Lease
from tests.proxy.conftest import Inputs


class Site(ABC):
    """One cluster under test. Subclass it for a driver of your own and name it in ``test_conformance.py``.

    Attributes:
        patience: seconds that the engine may take for one step.
        clock_slack: seconds by which the engine's clock may differ from ours.
    """

    name: ClassVar[str]
    patience: ClassVar[float] = 30.0
    clock_slack: ClassVar[int] = 2

    def __init__(self) -> None:
        self.current: Driver | None = None
        self.sources: dict[UUID, Inputs] = {}

    @abstractmethod
    async def make(self) -> Driver:
        """Return a new driver of the same cluster, not started."""

    @abstractmethod
    async def abandon(self, driver: Driver) -> None:
        """Leave a driver as ``kill -9`` does: nothing is told to the engine, but its locks are free."""

    @abstractmethod
    async def kill(self, run: NativeRun) -> None:
        """End what runs by the engine's own means, behind the driver's back."""

    @abstractmethod
    async def purge(self) -> None:
        """Make the engine forget all that has ended."""

    @abstractmethod
    async def clean(self) -> None:
        """Remove everything of the cluster that the test made."""

    async def start(self) -> Driver:
        """Start a driver, a new one in place of a former."""
        if self.current is not None:
            await self.abandon(self.current)
        self.current = await self.make()
        async with asyncio.timeout(2 * self.patience):
            await self.current.start(lambda lease: self.sources.setdefault(lease.run_id, Inputs({})))
        return self.current

    async def submit(self, lease: Lease, source: Inputs) -> None:
        """Submit to the current driver."""
        assert self.current is not None
        self.sources[lease.run_id] = source
        await self.current.submit(lease, source)

    async def run(self, lease: Lease) -> NativeRun | None:
        """Return the run as the current driver shows it."""
        assert self.current is not None
        return next((run for run in await self.current.list_runs() if run.run_id == lease.run_id), None)

    async def wait(self, lease: Lease, *phases: str, seconds: float | None = None) -> NativeRun:
        """Return the run once it is in one of *phases*, by default in a final one or given back."""
        found: NativeRun | None = None
        try:
            async with asyncio.timeout(seconds or self.patience):
                while True:
                    found = await self.run(lease)
                    assert found is not None, "the driver does not know the run"
                    if found.phase in phases or (not phases and (found.phase.final or found.phase == "QUEUED")):
                        return found
                    await asyncio.sleep(0.02)
        except TimeoutError as error:
            shown = None if found is None else (str(found.phase), found.native_id, found.reason)
            raise AssertionError(f"not in {phases or 'a final phase'}: {shown}\n{self.diagnosis()}") from error

    async def wait_for_output(self, lease: Lease, words: bytes) -> bytes:
        """Return the output once it has *words*."""
        assert self.current is not None
        async with asyncio.timeout(self.patience):
            while words not in (text := await self.current.logs(lease.run_id, "output", 0, 1 << 20)):
                found = await self.run(lease)
                assert found is not None
                assert not (found.phase.final and found.reason), (found, text)
                await asyncio.sleep(0.02)
        return text

    def diagnosis(self) -> str:
        """Return what may explain a failure."""
        return ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.finish()

    async def finish(self) -> None:
        """End what still runs, then remove everything."""
        if self.current is not None:
            for run in await self.current.list_runs():
                if not run.phase.final and run.phase != "QUEUED":
                    await self.current.cancel(run.run_id, "stale", 0)
                    await self.wait(run.lease)
            await self.current.close()
        await self.clean()


class LocalSite(Site):
    """Processes of this machine."""

    name = "local"

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="tessera-proxy-"))
        self.directory.chmod(0o711)
        self.options = options

    async def make(self) -> Driver:
        return LocalDriver(LocalOptions(data_dir=self.directory / "local", **self.options))

    async def abandon(self, driver: Driver) -> None:
        await driver.close()

    async def kill(self, run: NativeRun) -> None:
        assert run.native_id is not None
        os.kill(int(run.native_id.partition("@")[0]), signal.SIGKILL)

    async def purge(self) -> None:
        """The process table forgets by itself."""

    async def clean(self) -> None:
        shutil.rmtree(self.directory)


def processes_of(run_id: object) -> list[int]:
    """Return the processes on this machine that have the run's id in their environment."""
    mark = f"TESSERA_RUN_ID={run_id}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found

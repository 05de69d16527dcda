"""Fixtures of the Proxy's tests.

make_lease       function  a lease of a script or notebook with given text, for the local driver
drivers          function  starts local drivers on one data directory; ends all they started
hub              module    a hub double
service          module    the real service as a process, cluster ``local`` registered, hub answers not cached
ada, operator    function  HTTP clients of a member of tenant red and of an operator
proxy            function  a Proxy played by hand at that service
machine          function  the real local Proxy at that service, started; tasks are ada's
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from tessera_hub.proxy.drivers.base import DriverError, NativeRun
from tessera_hub.proxy.drivers.launching import LocalOptions
from tessera_hub.proxy.drivers.local import LocalDriver
from tessera_hub.schemas.protocol import Lease
from tessera_hub.schemas.tasks import InputFile, TaskSpec
from tests.hub_double import HubDouble
from tests.proxy.by_hand import BOOTSTRAP, ProxyByHand, inventory
from tests.proxy.machine import LocalProxy
from tests.service import ServiceProcess

CONFORMANCE = re.compile(r"test_conformance\.py::TestConformance::\w+\[([a-z_]+)")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how each driver stands in the conformance suite, one line per driver."""
    counts: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            match = CONFORMANCE.search(report.nodeid)
            if match is not None and (report.when == "call" or outcome != "passed"):
                counts.setdefault(match[1], Counter())[outcome] += 1
    if counts:
        terminalreporter.section("conformance")
    for driver, found in sorted(counts.items()):
        line = f"{driver}: {found['passed']} passed, {found['failed'] + found['error']} failed"
        terminalreporter.write_line(line, red=bool(found["failed"] or found["error"]))


class Inputs:
    """An input source with files in memory; counts fetches and claims, and can refuse the claim."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.fetched = 0
        self.claims: list[str] = []
        self.refuse: DriverError | None = None
        self.before_claim: Callable[[], Awaitable[None]] | None = None

    async def fetch(self, directory: Path, files: Sequence[InputFile]) -> None:
        self.fetched += 1
        for file in files:
            target = directory / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.files[file.path])

    async def claim(self, who: str) -> None:
        self.claims.append(who)
        if self.before_claim is not None:
            await self.before_claim()
        if self.refuse is not None:
            raise self.refuse


LeaseMaker = Callable[..., tuple[Lease, Inputs]]


@pytest.fixture
def make_lease() -> LeaseMaker:
    """Make a lease and its inputs: ``make_lease("print(1)", memory_mib=64, …)``."""

    def make(
        text: str = "print('hello')",
        *,
        entry: str = "main.py",
        principal_id: int = 1,
        resources: dict[str, Any] | None = None,
        files: dict[str, bytes] | None = None,
        card_class: str | None = None,
        lifecycle: dict[str, Any] | None = None,
        **spec: Any,
    ) -> tuple[Lease, Inputs]:
        content = {entry: text.encode(), **(files or {})}
        manifest = [
            {"path": path, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for path, data in content.items()
        ]
        body = {
            "name": "test",
            "kind": "notebook" if entry.endswith(".ipynb") else "script",
            "entry": entry,
            "inputs": {"files": manifest},
            "roles": [{"resources": {"cpu_millicores": 100, "memory_mib": 256, **(resources or {})}}],
            "lifecycle": {"grace_seconds": 5, **(lifecycle or {})},
            **spec,
        }
        lease = Lease(
            run_id=uuid4(),
            task_id=uuid4(),
            attempt=1,
            lease_token=uuid4().hex,
            run_token="unused",
            tenant="physics",
            tenant_id=1,
            principal_id=principal_id,
            owner="ada",
            spec=TaskSpec.model_validate(body),
            card_class=card_class,
        )
        return lease, Inputs(content)

    return make


class Drivers:
    """Local drivers on one data directory, as a Proxy that is started again and again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.current: LocalDriver | None = None
        self.sources: dict[Any, Inputs] = {}

    async def start(self, **options: Any) -> LocalDriver:
        if self.current is not None:
            await self.current.close()
        self.current = LocalDriver(LocalOptions(data_dir=self.directory / "local", **options))
        await self.current.start(lambda lease: self.sources.setdefault(lease.run_id, Inputs({})))
        return self.current

    async def submit(self, lease: Lease, source: Inputs) -> None:
        assert self.current is not None
        self.sources[lease.run_id] = source
        await self.current.submit(lease, source)

    async def run(self, lease: Lease) -> NativeRun:
        assert self.current is not None
        return next(r for r in await self.current.list_runs() if r.run_id == lease.run_id)

    async def wait(self, lease: Lease, *phases: str, seconds: float = 30.0) -> NativeRun:
        """Wait until the run is in one of *phases*, by default in a final one."""
        async with asyncio.timeout(seconds):
            while True:
                found = await self.run(lease)
                if found.phase in phases or (not phases and (found.phase.final or found.phase == "QUEUED")):
                    return found
                await asyncio.sleep(0.02)


@pytest_asyncio.fixture
async def drivers() -> AsyncIterator[Drivers]:
    """Start drivers by ``await drivers.start(…)``; at the end every run of theirs is ended."""
    directory = Path(tempfile.mkdtemp(prefix="tessera-proxy-"))
    directory.chmod(0o711)
    found = Drivers(directory)
    yield found
    if found.current is not None:
        for run in await found.current.list_runs():
            if not run.phase.final:
                await found.current.cancel(run.run_id, "stale", 0)
                with contextlib.suppress(TimeoutError):
                    await found.wait(run.lease, seconds=10)
        await found.current.close()
    shutil.rmtree(directory)


def is_root() -> bool:
    """Whether people can get their own uids here."""
    return os.geteuid() == 0


@contextlib.contextmanager
def serving(directory: Path, hub: HubDouble, **timers: float) -> Iterator[ServiceProcess]:
    """Run the real service with its loops; what the hub says is asked anew each time."""
    process = ServiceProcess(
        directory,
        hub,
        local_token=BOOTSTRAP,
        schedule_interval=0.1,
        hub_cache_seconds=0.0,
        timers={"log_interval": 0.1, **timers},
    )
    process.start()
    try:
        yield process
    finally:
        process.stop()


@pytest.fixture(scope="module")
def hub() -> Iterator[HubDouble]:
    """A hub double; what it says is believed for no longer than a request (see ``service``)."""
    double = HubDouble()
    double.start()
    yield double
    double.stop()


@pytest.fixture(scope="module")
def service(hub: HubDouble, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[ServiceProcess]:
    """The real service with its loops; an indirect parameter gives timers other than the usual ones."""
    with serving(tmp_path_factory.mktemp("service"), hub, **getattr(request, "param", {})) as process:
        yield process


@pytest.fixture
def ada(hub: HubDouble, service: ServiceProcess) -> httpx.Client:
    """A client of ada, who belongs to tenant red; a new person in each test."""
    hub.broken = False
    hub.add_tenant("red")
    return service.api(hub.add_user("ada", "red"))


@pytest.fixture
def operator(hub: HubDouble, service: ServiceProcess) -> httpx.Client:
    """A client of an operator."""
    return service.api(hub.add_user("root", "ops", operator=True))


@pytest.fixture
def proxy(service: ServiceProcess) -> ProxyByHand:
    """The local cluster's Proxy, played by hand; the test begins its session."""
    return ProxyByHand(service, inventory=inventory())


@pytest.fixture
def machine(service: ServiceProcess, ada: httpx.Client, tmp_path: Path) -> Iterator[LocalProxy]:
    """The real local Proxy; at the end its runs are ended, too."""
    tmp_path.chmod(0o711)
    found = LocalProxy(service, tmp_path / "machine", ada)
    found.start()
    yield found
    if found.process is not None:
        found.stop()
    for record in found.data_dir.glob("runs/*/shim.pid.json"):
        (record.parent / "cancel.json").write_text('{"why": "stale", "grace_seconds": 0}')
        with contextlib.suppress(ProcessLookupError):
            os.kill(json.loads(record.read_text())["pid"], signal.SIGTERM)

"""A service and the Proxies of its one cluster as real processes, all timers at a fiftieth, and what became of their tasks.

User code leaves a line outside of everything for each time it is started, so that a start too many cannot hide.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import select, text

from tessera_hub.manager.tokens import token_hash
from tessera_hub.quota.tenants import ensure_tenant
from tessera_hub.schemas.protocol import Timers
from tessera_hub.schemas.tasks import TaskSpec
from tessera_hub.store import Store
from tessera_hub.store.blobs import BlobStore
from tessera_hub.store.migrate import upgrade
from tessera_hub.store.tables import Cluster, Membership, Principal, RunRow, TaskEventRow, TaskRow
from tessera_hub.tasks.storing import store_task
from tessera_hub.tasks.submission import destination
from tests.faults.network import Link
from tests.service import free_port

TIMERS = {name: value / 50 for name, value in Timers().model_dump().items()} | {"session": 3600.0, "log_interval": 0.1}
PATHS = os.pathsep.join([".", "hub", "extensions", "billing", "spawner", "widgets"])
ROOT = Path(__file__).parents[2]
START_SECONDS = 240.0
"""How long a living process may take to come up on a busy machine; one that died fails at once."""


@dataclass(slots=True)
class Verdict:
    """What a test found after its faults."""

    tasks: int
    starts: int
    lost: int
    doubled: int
    results_doubled: int
    bills_doubled: int
    phases: dict[str, int]


@dataclass(slots=True)
class Damage:
    """What a test did."""

    kills: int = 0
    seeds: list[int] = field(default_factory=list)


class Centre:
    """A service and the Proxies of its one cluster."""

    def __init__(self, directory: Path, database_url: str) -> None:
        self.directory = directory
        self.url = database_url
        self.port = free_port()
        self.store = Store(database_url)
        self.service: subprocess.Popen[bytes] | None = None
        self.proxies: list[subprocess.Popen[bytes]] = []
        self.link = Link(self.port)
        self.starts = directory / "starts"
        self.tasks: list[UUID] = []
        self.tenant_id = self.principal_id = 0
        self.damage = Damage()

    async def prepare(self) -> None:
        upgrade(self.url)
        self.starts.mkdir(mode=0o777)
        self.starts.chmod(0o1777)
        (self.directory / "token").write_text("bootstrap")
        async with self.store.write() as session:
            self.tenant_id = await ensure_tenant(session, "physics")
            now = datetime.now(UTC)
            principal = Principal(issuer="test", kind="user", hub_name="ada", hub_created="1", created_at=now)
            cluster = Cluster(name="local", bootstrap_hash=token_hash("bootstrap"), capabilities=[], created_at=now)
            session.add_all([principal, cluster])
            await session.flush()
            self.principal_id = principal.id
            # There is no hub here: what was recorded last counts.
            session.add(Membership(principal_id=principal.id, tenant_id=self.tenant_id, synced_at=now))
        await self.link.start()

    def _spawn(self, name: str, argv: list[str], **more: str) -> subprocess.Popen[bytes]:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": PATHS, "HOME": str(self.directory), **more}
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(argv, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    async def start_service(self) -> None:
        arguments = [str(self.port), str(self.directory / "data"), self.url, json.dumps(TIMERS)]
        self.service = self._spawn("service", [sys.executable, "-m", "tests.faults.service", *arguments])
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                _reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                assert self.service.poll() is None, f"the service died:\n{self.log('service')}"
                assert time.monotonic() < deadline, f"the service lives and does not listen:\n{self.log('service')}"
                await asyncio.sleep(0.1)
            else:
                writer.close()
                return

    def log(self, name: str) -> str:
        """The end of a process's output."""
        path = self.directory / f"{name}.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def kill_service(self) -> None:
        """End the service as a power cut would."""
        assert self.service is not None
        self.service.kill()
        self.service.wait()
        self.damage.kills += 1

    def kill_proxy(self, process: subprocess.Popen[bytes]) -> None:
        """End a Proxy as a power cut would."""
        process.kill()
        process.wait()
        self.damage.kills += 1

    def start_proxy(
        self, *, data: str = "local", python: tuple[str, ...] = (sys.executable,), **environment: str
    ) -> subprocess.Popen[bytes]:
        """Start a Proxy with its runs in *data*, by the words that start Python."""
        url = f"http://127.0.0.1:{self.link.port}/services/tessera"
        argv = [*python, "-m", "tessera_hub.cli", "proxy", "--cluster", "local", "--url", url]
        argv += ["--bootstrap-token-file", str(self.directory / "token"), "--data-dir", str(self.directory / data)]
        process = self._spawn(f"proxy-{data}", argv, **environment)
        self.proxies.append(process)
        return process

    async def submit(self, seconds: float = 0.3, *, notebook: bool = False, **lifecycle: Any) -> UUID:
        """Submit a script or notebook that leaves a line with its run's id outside, once per start, then works for *seconds*."""
        entry, source = "main.py", _program(self.starts, seconds)
        memory_mib = 64
        if notebook:
            entry, source, memory_mib = "main.ipynb", _notebook(source), 512
        data = source.encode()
        digest = hashlib.sha256(data).hexdigest()
        blob = BlobStore(self.directory / "data" / "blobs").path(self.tenant_id, digest)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        spec = TaskSpec.model_validate(
            {
                "name": "fault",
                "kind": "notebook" if notebook else "script",
                "entry": entry,
                "inputs": {"files": [{"path": entry, "sha256": digest, "size": len(data)}]},
                "roles": [{"resources": {"cpu_millicores": 50, "memory_mib": memory_mib}}],
                "lifecycle": {"grace_seconds": 1, **lifecycle},
            }
        )
        async with self.store.write() as session:
            where = await destination(session, spec, {"physics": self.tenant_id})
            task, _new = await store_task(session, spec, where, principal_id=self.principal_id, actor="test", key=None)
        self.tasks.append(task.id)
        return task.id

    async def task(self, task_id: UUID) -> TaskRow:
        async with self.store.read() as session:
            return (await session.scalars(select(TaskRow).where(TaskRow.id == task_id))).one()

    async def wait(self, *phases: str, seconds: float = 60.0) -> None:
        """Wait until every task is in one of *phases*."""
        deadline = time.monotonic() + seconds
        while True:
            found = [(await self.task(task_id)).phase for task_id in self.tasks]
            if all(phase in phases for phase in found):
                return
            if time.monotonic() >= deadline:
                why = await self.reason()
                raise AssertionError(f"{Counter(found)} {why}, not {phases}\n{self.log('service')}\n{self.log('proxy-local')}")
            await asyncio.sleep(0.1)

    def started(self, task_id: UUID) -> list[str]:
        """Return the run ids under which user code of the task was started."""
        path = self.starts / str(task_id)
        return path.read_text().split() if path.exists() else []

    async def verdict(self) -> Verdict:
        """Return what became of all tasks."""
        found = Verdict(len(self.tasks), 0, 0, 0, 0, 0, {})
        phases: Counter[str] = Counter()
        async with self.store.read() as session:
            for task_id in self.tasks:
                task = await session.get(TaskRow, task_id, populate_existing=True)
                assert task is not None
                phases[task.phase] += 1
                starts = Counter(self.started(task_id))
                found.starts += sum(starts.values())
                found.lost += task.phase != "SUCCEEDED"
                found.doubled += sum(count - 1 for count in starts.values())
                ends = select(TaskEventRow).where(TaskEventRow.task_id == task_id, TaskEventRow.phase_to == "SUCCEEDED")
                found.results_doubled += max(len((await session.scalars(ends)).all()) - 1, 0)
                for run in (await session.scalars(select(RunRow).where(RunRow.task_id == task_id))).all():
                    query = text("SELECT subject, action, count(*) FROM meter_event WHERE run_id = :run GROUP BY subject, action")
                    rows = (await session.execute(query, {"run": str(run.id)})).all()
                    found.bills_doubled += max(len({subject for subject, _action, _count in rows}) - 1, 0)
                    found.bills_doubled += sum(int(count) - 1 for _subject, _action, count in rows)
        found.phases = dict(phases)
        return found

    def run_directory(self, data: str = "local") -> Path:
        """The directory of the only run of a Proxy."""
        (found,) = (path for path in (self.directory / data / "runs").iterdir() if not path.name.startswith("."))
        return found

    async def reason(self) -> str:
        """The code of the first reason of the last submitted task's run, empty if there is none."""
        async with self.store.read() as session:
            run = await session.get(RunRow, (await self.task(self.tasks[-1])).run_id, populate_existing=True)
            assert run is not None
            return str(run.reasons[0]["code"]) if run.reasons else ""

    async def close(self) -> None:
        for process in [*self.proxies, self.service]:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        await self.link.stop()
        await self.store.close()
        for record in self.directory.glob("*/runs/*/shim.pid.json"):
            pid = json.loads(record.read_text())["pid"]
            (record.parent / "cancel.json").write_text('{"why": "stale", "grace_seconds": 0}')
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
            for _ in range(100):
                if not Path(f"/proc/{pid}").exists():
                    break
                await asyncio.sleep(0.05)
        shutil.rmtree(self.directory, ignore_errors=True)


def _program(starts: Path, seconds: float) -> str:
    return (
        "import os, time\n"
        f"with open('{starts}/' + os.environ['TESSERA_TASK_ID'], 'a') as trace:\n"
        "    trace.write(os.environ['TESSERA_RUN_ID'] + '\\n')\n"
        f"time.sleep({seconds})\n"
        "open('result.txt', 'w').write(os.environ['TESSERA_RUN_ID'])\n"
    )


def _notebook(source: str) -> str:
    cells = [
        {"cell_type": "code", "source": text, "metadata": {}, "outputs": [], "execution_count": None, "id": f"cell-{number}"}
        for number, text in enumerate([source, "print(6 * 7)"])
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})

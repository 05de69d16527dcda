"""The Slurm driver: each run is one batch job, found again by its run directory and by its name, which is the run's id."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Final
from uuid import UUID

import structlog

from tessera_hub.proxy.drivers.base import CancelReason, Driver, DriverError, InputSource, NativeRun, Results, Stream, Usage
from tessera_hub.proxy.drivers.datasets import told
from tessera_hub.proxy.drivers.launching import kernels_of, of_os_error
from tessera_hub.proxy.drivers.outcome import reason_of
from tessera_hub.proxy.drivers.results import notebook_so_far
from tessera_hub.proxy.drivers.rundirectory import RunDirectory
from tessera_hub.proxy.drivers.slurm.engine import Slurm
from tessera_hub.proxy.drivers.slurm.entries import Entry, conclude, conclude_order, held_here, living, over
from tessera_hub.proxy.drivers.slurm.files import Files
from tessera_hub.proxy.drivers.slurm.inventory import Cards, homes_of, partitions_in_use, pools_of
from tessera_hub.proxy.drivers.slurm.jobs import Job
from tessera_hub.proxy.drivers.slurm.nodes import Node
from tessera_hub.proxy.drivers.slurm.orders import see_to_order
from tessera_hub.proxy.drivers.slurm.preparation import Preparation, held_by
from tessera_hub.proxy.drivers.slurm.records import Native
from tessera_hub.proxy.drivers.slurm.results import collect, usage_of
from tessera_hub.proxy.drivers.slurm.settings import SlurmSettings
from tessera_hub.proxy.drivers.slurm.transport import Transport, TransportError
from tessera_hub.proxy.drivers.slurm.vanished import judge_vanished
from tessera_hub.proxy.errors import ProxyError
from tessera_hub.schemas.protocol import DesiredQueue, Inventory, Lease
from tessera_hub.schemas.tasks import Phase

log = structlog.get_logger(__name__)

ORDER_SECONDS: Final = 10.0
"""Most that an order waits for the centre; it is recorded, and the looks see to it."""
LOG_FILES: Final[Mapping[str, str]] = {"output": "output.log", "progress": "progress.jsonl"}


class SlurmDriver(Driver):
    """Batch jobs of one Slurm.

    Args:
        settings: how the centre is set up.
        data_dir: the Proxy's folder.
        transport: the way to the centre.
        files: where runs lie.
        service_url: address of the service for programs inside the run.
    """

    name: ClassVar[str] = "slurm"

    def __init__(
        self, settings: SlurmSettings, data_dir: Path, transport: Transport, files: Files, service_url: str = ""
    ) -> None:
        self.settings = settings
        self.root = data_dir / "runs"
        self.data_dir = data_dir
        self.transport = transport
        self.files = files
        self.slurm = Slurm(transport)
        self.cards = Cards(settings.cards)
        self.preparation = Preparation(settings, self.slurm, files, self.cards, service_url)
        self._entries: dict[UUID, Entry] = {}
        self._source_of: Callable[[Lease], InputSource] | None = None
        self._inventory = Inventory(pools=[])
        self._kernels: dict[str, list[str]] = {}
        self._lock: int | None = None
        self._polling: asyncio.Task[None] | None = None
        self._look_lock = asyncio.Lock()
        self._look_wanted = asyncio.Event()
        """Set by whatever changes something at the centre; one look serves all that came meanwhile."""

    @property
    def capabilities(self) -> frozenset[str]:
        """What this centre can do."""
        found = {"gang", "preempt", "logs"}
        if self.cards.known:
            found |= {"cards", "fraction"} if self.cards.share else {"cards"}
        return frozenset(found | ({"suspend"} if self.settings.suspend else set()))

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self, source_of: Callable[[Lease], InputSource]) -> None:
        """Take the folder, find all runs in it, look at Slurm and go on with interrupted starts.

        Raises:
            ProxyError: ``proxy.data_dir_in_use`` or ``proxy.data_dir_unusable``.
        """
        try:
            for path in (self.data_dir, self.root):
                path.mkdir(parents=True, exist_ok=True, mode=0o711)
                path.chmod(0o711)  # people's runs pass through, nobody lists
            self._take_directory()
            await self.preparation.patiently(self.files.start)
        except OSError as error:
            message = f"{self.data_dir} cannot be written: {error.strerror}; make room, or use another folder"
            raise ProxyError("proxy.data_dir_unusable", message) from error
        await self.preparation.patiently(self.slurm.look)
        for name, environment in self.settings.environments.items():
            known = environment.kernels
            if known is None and environment.kind == "local path" and self.settings.ssh is None:
                known = await kernels_of(Path(environment.interpreter))
            self._kernels[name] = ["python3"] if known is None else known
        waiting, self._source_of = [], source_of
        for path in sorted(self.root.iterdir()):
            if not path.name.startswith(".") and (run := RunDirectory.load(path)) is not None:
                entry = self._entries[run.lease.run_id] = Entry(run, Native.load(run), held_by(run.lease))
                if not entry.native.job_id and run.read("end.json") is None:
                    waiting.append(entry)
        await self.preparation.patiently(self.look)
        for entry in waiting:
            entry.start = asyncio.create_task(self._start(entry, source_of(entry.run.lease)))
        self._polling = asyncio.create_task(self._poll_for_ever())

    def _take_directory(self) -> None:
        self._lock = os.open(self.data_dir / "proxy.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            self._lock = None
            message = f"another Proxy works in {self.data_dir}; stop it, or use another --data-dir"
            raise ProxyError("proxy.data_dir_in_use", message) from error

    async def close(self) -> None:
        """Interrupt starts and let the centre go; jobs go on."""
        tasks = [entry.start for entry in self._entries.values() if entry.start is not None]
        tasks += [self._polling] if self._polling is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.transport.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- looking --------------------------------------------------------------------------------------------------

    async def _poll_for_ever(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.poll_seconds):
                    await self._look_wanted.wait()
            self._look_wanted.clear()
            try:
                await self.look()
            except TransportError as error:
                log.warning("slurm_unreachable", error=str(error))
            except Exception:
                log.exception("slurm_look_failed")

    async def look(self) -> None:
        """Ask Slurm once for everything, take it in, and do what is still to be done about each run.

        Raises:
            TransportError: the centre cannot be reached; what was known stays.
        """
        async with self._look_lock:
            known = {run_id for run_id, entry in self._entries.items() if entry.native.job_id}
            # Nodes first: what starts in between is then not taken for somebody else's.
            nodes = await self.slurm.nodes()
            jobs = await self.slurm.jobs()
            by_name: dict[str, list[Job]] = {}
            for job in jobs:
                by_name.setdefault(job.name, []).append(job)
            for run_id, entry in list(self._entries.items()):
                if run_id in known and not entry.native.ended:
                    try:
                        await self._observe(entry, by_name.get(str(run_id), []))
                    except TransportError as error:  # one person's account may be closed to us; the others go on
                        log.warning("run_not_observed", run=str(run_id), error=str(error))
            await self._look_at_nodes(nodes, jobs)

    async def _observe(self, entry: Entry, jobs: Sequence[Job]) -> None:
        """Take in what Slurm shows of one run.

        Its end counts only when all that it wrote is here, so that nothing is missing in what is told of it.
        """
        run, now = entry.run, int(time.time())
        native = Native.load(run)
        job = next((job for job in jobs if job.job_id == native.job_id), None)
        account = self.preparation.account_name(run)
        for other in jobs:  # a submit whose answer was lost and that was repeated; its job starts nothing
            if other is not job and not other.ended and self.preparation.ours(run, other):
                await self.slurm.cancel(other.job_id, other.name, account)
        entry.notice(job, now)
        if job is not None:
            changed = native.observe(job, now)
            if native.ended and not job.ended:  # put back into Slurm's queue: it must not start again
                await self.slurm.cancel(job.job_id, job.name, account)
        else:
            patience = self.settings.accounting_seconds
            verdict = await judge_vanished(entry, native, self.slurm, self.files, account, patience)
            if verdict == "lost":
                self._submit_again(entry)
                return
            changed = verdict == "ended"
        if native.ended or job is None or job.state != "PENDING":
            await self.files.refresh(run, ended=bool(native.ended))
        if changed:
            entry.native = native
            native.save(run)
        if native.ended:
            log.info("job_ended", run=str(run.lease.run_id), job=native.job_id, state=native.ended)
        else:
            await self._see_to_order(entry)

    async def _look_at_nodes(self, nodes: Sequence[Node], jobs: Sequence[Job]) -> None:
        partitions = await self.slurm.partitions()
        self.cards.learn(nodes, jobs)
        used = partitions_in_use(self.settings, partitions)
        self.preparation.know(used, homes_of(nodes, used), partitions)
        usable = homes_of((node for node in nodes if node.usable), used)
        pools = pools_of(usable, self.cards, held_here(self._entries.values(), used))
        environments = {
            name: {"kind": environment.kind, "kernels": self._kernels.get(name, ["python3"])}
            for name, environment in self.settings.environments.items()
        }
        self._inventory = Inventory(pools=pools, environments=environments, datasets=told(self.settings.datasets))

    async def inventory(self) -> Inventory:
        """The partitions as they were at the last look."""
        return self._inventory

    # --- starting -------------------------------------------------------------------------------------------------

    async def submit(self, lease: Lease, source: InputSource) -> None:
        """Record the lease and begin to start it."""
        if lease.managed_by != "proxy":
            raise DriverError("cluster.no_workspaces", "workspaces do not start at a Slurm centre")
        known = self._entries.get(lease.run_id)
        if known is not None:
            if known.run.lease.lease_token == lease.lease_token:
                return
            if over(known) is None:
                raise DriverError("cluster.back_pressure", "an older lease of this run is still being ended", give_back=True)
            await self.forget(lease.run_id)
        try:
            run = await asyncio.to_thread(RunDirectory.create, self.root, lease, self.name)
        except OSError as error:
            raise of_os_error(error) from error
        entry = self._entries[lease.run_id] = Entry(run, Native(), held_by(lease))
        entry.start = asyncio.create_task(self._start(entry, source))

    async def _start(self, entry: Entry, source: InputSource) -> None:
        """Bring a recorded lease to a job, or to a recorded end. May be repeated from the beginning."""
        run = entry.run
        try:
            if run.read("cancel.json") is not None and run.read("submitting.json") is None:
                conclude_order(run)
                return
            if run.read("prepared.json") is None:
                entry.stage = Phase.STARTING
                await self.preparation.prepare(run, source)
            entry.submitting = True
            await self.preparation.submit(run, entry.native)
            self._look_wanted.set()
        except DriverError as error:
            log.warning("run_not_started", run=str(run.lease.run_id), code=error.code, error=error.message)
            conclude(run, "gave_back" if error.give_back else "failed", error.reason)
        except OSError as error:
            conclude(run, "failed", of_os_error(error).reason)
        except Exception as error:
            log.exception("run_not_started", run=str(run.lease.run_id))
            conclude(run, "failed", reason_of("cluster.start_failed", f"{type(error).__name__}: {error}"))
        finally:
            entry.submitting = False
            entry.start = None

    def _submit_again(self, entry: Entry) -> None:
        """Submit a run whose job Slurm lost before it began."""
        log.warning("job_lost_before_it_began", run=str(entry.run.lease.run_id), job=entry.native.job_id)
        assert self._source_of is not None
        entry.native, entry.absent = Native(), 0
        entry.native.save(entry.run)
        entry.stage = Phase.STARTING
        entry.start = asyncio.create_task(self._start(entry, self._source_of(entry.run.lease)))

    # --- orders ---------------------------------------------------------------------------------------------------

    async def cancel(self, run_id: UUID, why: CancelReason, grace_seconds: int) -> None:
        """Order the end: a waiting job is taken back, a running one gets the signal and its grace."""
        entry = self._entries.get(run_id)
        if entry is None or over(entry) is not None:
            return
        order = entry.run.read("cancel.json")
        if order is not None and int(order["grace_seconds"]) <= grace_seconds:
            return
        document = {"why": why, "grace_seconds": grace_seconds, "at": datetime.now(UTC).isoformat()}
        entry.run.write("cancel.json", document)
        entry.signalled = False
        if entry.start is not None and not entry.submitting:
            entry.start.cancel()
            await asyncio.gather(entry.start, return_exceptions=True)
            if entry.run.read("submitting.json") is None:
                conclude_order(entry.run)
                return
        try:
            async with asyncio.timeout(ORDER_SECONDS):
                await self._see_to_order(entry)
        except (TransportError, TimeoutError) as error:  # it is recorded; the next look sees to it
            log.warning("slurm_unreachable", error=str(error))
        self._look_wanted.set()

    async def _see_to_order(self, entry: Entry) -> None:
        await see_to_order(entry, self.slurm, self.files, self.preparation.account_name(entry.run))

    async def suspend(self, run_id: UUID) -> None:
        """``scontrol suspend``, where the settings say that the Proxy may."""
        await self._change(run_id, self.slurm.suspend)

    async def resume(self, run_id: UUID) -> None:
        """``scontrol resume``."""
        await self._change(run_id, self.slurm.resume)

    async def _change(self, run_id: UUID, change: Callable[[str], Any]) -> None:
        entry = self._entries.get(run_id)
        if entry is None or not entry.native.job_id or entry.native.ended or not self.settings.suspend:
            return
        try:
            await change(entry.native.job_id)
            self._look_wanted.set()
        except TransportError as error:
            log.warning("slurm_unreachable", error=str(error))

    # --- telling --------------------------------------------------------------------------------------------------

    async def list_runs(self) -> list[NativeRun]:
        """All runs in the folder. A run whose folder was taken away is not among them any more."""
        found = []
        for run_id, entry in list(self._entries.items()):
            if (run := over(entry)) is not None:
                found.append(run)
            elif (entry.run.path / "lease.json").exists():
                found.append(living(entry))
            else:
                log.error("run_directory_vanished", run=str(run_id))
                del self._entries[run_id]
                if entry.native.job_id:
                    with contextlib.suppress(TransportError):
                        await self.slurm.cancel(entry.native.job_id, str(run_id), None)
        return found

    def streams(self, lease: Lease) -> Sequence[Stream]:
        """Those of the first part, and the output of the others."""
        return (*LOG_FILES, *(f"part-{rank}" for rank in range(1, lease.spec.roles[0].replicas)))

    async def logs(self, run_id: UUID, stream: Stream, offset: int, limit: int) -> bytes:
        """Bytes of ``output.log`` or ``progress.jsonl`` of the run's first part, or of another's ``output.log``."""
        entry = self._entries.get(run_id)
        if entry is None:
            return b""
        name = LOG_FILES.get(stream) or f"ranks/{stream.removeprefix('part-')}/output.log"
        return entry.run.read_owned(name, limit, offset) or b""

    async def notebook(self, run_id: UUID, known: str | None) -> tuple[str, bytes] | None:
        """``output/<entry's name>``, which the runner replaces after each cell."""
        entry = self._entries.get(run_id)
        return None if entry is None else await asyncio.to_thread(notebook_so_far, entry.run, known)

    async def results(self, run_id: UUID) -> Results:
        """Files, checkpoint, notes, and the logs of all parts but the first."""
        entry = self._entries.get(run_id)
        return Results() if entry is None else await asyncio.to_thread(collect, entry.run)

    async def usage(self) -> Sequence[Usage]:
        """What the program on the node told about processors and memory."""
        found = []
        for entry in self._entries.values():
            if entry.ended is None and entry.native.facts:
                use, entry.used = usage_of(entry.run, entry.used)
                found += [use] if use is not None else []
        return found

    async def forget(self, run_id: UUID) -> None:
        """Remove what is left of an ended run."""
        entry = self._entries.get(run_id)
        if entry is None or over(entry) is None:
            return
        try:
            await self.files.remove(entry.run)
        except TransportError as error:  # the service asks again
            log.warning("slurm_unreachable", error=str(error))
            return
        del self._entries[run_id]

    async def apply_queues(self, desired: Sequence[DesiredQueue]) -> None:
        """Slurm's associations belong to its operators; the hub holds back what a queue may not start."""

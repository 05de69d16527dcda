"""The local driver: runs are processes on this machine, each owned by a shim that outlives the Proxy."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Final
from uuid import UUID

import structlog

from tessera_hub.proxy.drivers.accounts import Accounts
from tessera_hub.proxy.drivers.base import CancelReason, Driver, DriverError, InputSource, NativeRun, Results, Stream, Usage
from tessera_hub.proxy.drivers.datasets import folders, told
from tessera_hub.proxy.drivers.launching import (
    LocalOptions,
    check_lease,
    hand_over,
    kernels_of,
    launch_document,
    live_folder,
    new_run_folder,
    note_inputs,
    of_os_error,
    run_document,
    run_environment,
    spawn_shim,
)
from tessera_hub.proxy.drivers.leftovers import kill_leftovers
from tessera_hub.proxy.drivers.machine import CardShare, Held, Machine, real_cards, simulated_cards
from tessera_hub.proxy.drivers.outcome import (
    ORDERED,
    Ending,
    concluded,
    ending,
    last_sign_of_life,
    meter_facts,
    reason_of,
    shim_lives,
    time_of,
)
from tessera_hub.proxy.drivers.results import checkpoint_directory, collect_results, notebook_so_far, progress_so_far
from tessera_hub.proxy.drivers.rundirectory import RunDirectory
from tessera_hub.proxy.drivers.usage import UsageMeter
from tessera_hub.proxy.errors import ProxyError
from tessera_hub.proxy.shim import boot_id
from tessera_hub.schemas.protocol import DesiredQueue, Inventory, Lease
from tessera_hub.schemas.reasons import ENDED_OUTSIDE, MACHINE_RESTARTED, Reason
from tessera_hub.schemas.resources import ResourceVector
from tessera_hub.schemas.tasks import Phase

log = structlog.get_logger(__name__)

LOG_FILES: Final[Mapping[str, str]] = {"output": "output.log", "progress": "progress.jsonl"}


@dataclass(slots=True)
class Entry:
    """What the driver has in mind about one run; all of it follows from the directory."""

    run: RunDirectory
    held: Held
    vector: ResourceVector
    start: asyncio.Task[None] | None = None
    spawning: bool = False
    stage: Phase = Phase.DISPATCHED
    ended: NativeRun | None = None


class LocalDriver(Driver):
    """Processes of this machine.

    Args:
        options: how it is set up.
    """

    name: ClassVar[str] = "local"

    def __init__(self, options: LocalOptions) -> None:
        self.options = options
        self.root = options.data_dir / "runs"
        self.archive = options.data_dir / "runner" / "runner.pyz"
        self.accounts = Accounts(options.data_dir / "principal.json", base=options.uid_base, count=options.uid_count)
        self._entries: dict[UUID, Entry] = {}
        self._lock: int | None = None
        self._kernels: dict[str, list[str]] = {}
        self._unrecorded: dict[UUID, Ending] = {}
        self._usage = UsageMeter()
        simulated = options.simulated is not None
        cards = real_cards() if options.simulated is None else simulated_cards(options.simulated)
        self.machine = Machine(cards, memory_reserve_mib=options.memory_reserve_mib, simulated=simulated)

    @property
    def capabilities(self) -> frozenset[str]:
        """What processes on one machine can do."""
        found = {"suspend", "preempt", "logs", "workspaces"}
        if self.machine.cards:
            found |= {"cards", "fraction"} if self.machine.simulated else {"cards"}
        return frozenset(found | ({"shared_storage"} if self.options.homes else set()))

    async def start(self, source_of: Callable[[Lease], InputSource]) -> None:
        """Take the data directory, find all runs in it and go on with interrupted starts.

        Raises:
            ProxyError: ``proxy.data_dir_in_use`` or ``proxy.data_dir_unusable``.
        """
        from tessera_lab.runner import build_zipapp

        try:
            for path in (self.options.data_dir, self.root, self.archive.parent):
                path.mkdir(parents=True, exist_ok=True, mode=0o711)
                path.chmod(0o711)  # people's runs pass through, nobody lists
            self._take_directory()
            build_zipapp(self.archive)
        except OSError as error:
            message = f"{self.options.data_dir} cannot be written: {error.strerror}; make room, or use another --data-dir"
            raise ProxyError("proxy.data_dir_unusable", message) from error
        programs = [[str(python), "-I", str(self.archive), "--help"] for python in self.options.environments.values()]
        await asyncio.to_thread(self.accounts.probe, programs, self.root)
        if self.accounts.single_person is not None:
            log.warning("single_person_mode", why=self.accounts.single_person)
        for name, python in self.options.environments.items():
            self._kernels[name] = await kernels_of(python)
        for path in sorted(self.root.iterdir()):
            if not path.name.startswith(".") and (run := RunDirectory.load(path)) is not None:
                self._adopt(run, source_of)

    def _take_directory(self) -> None:
        self._lock = os.open(self.options.data_dir / "proxy.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            self._lock = None
            message = f"another Proxy works in {self.options.data_dir}; stop it, or use another --data-dir"
            raise ProxyError("proxy.data_dir_in_use", message) from error

    def _adopt(self, run: RunDirectory, source_of: Callable[[Lease], InputSource]) -> None:
        entry = self._entry(run)
        self._entries[run.lease.run_id] = entry
        log.info("run_adopted", run=str(run.lease.run_id), started=shim_lives(run))
        if run.lease.managed_by == "proxy" and ending(run) is None and shim_lives(run) is None:
            if run.read("cancel.json") is not None:
                self._conclude_order(run)
            else:
                entry.start = asyncio.create_task(self._start(entry, source_of(run.lease)))

    def _entry(self, run: RunDirectory) -> Entry:
        """Build the entry of a run; its cards are those in its directory."""
        resources = run.lease.spec.roles[0].resources
        assigned = (run.read("assigned.json") or {}).get("cards", [])
        shares = tuple(CardShare(int(s["index"]), int(s["centi_cards"]), int(s["memory_mib"])) for s in assigned)
        return self._with_shares(Entry(run, Held(resources.cpu_millicores, resources.memory_mib), {}), shares)

    def _with_shares(self, entry: Entry, shares: tuple[CardShare, ...]) -> Entry:
        held = entry.held
        entry.held = Held(held.cpu_millicores, held.memory_mib, shares)
        entry.vector = {"cpu": held.cpu_millicores, "memory": held.memory_mib}
        names = {card.index: card.kind.name for card in self.machine.cards}
        for share in shares:
            name = names.get(share.index) or entry.run.lease.card_class or "unknown"
            for dimension, amount in ((f"cards/{name}", share.centi_cards), (f"card_memory/{name}", share.memory_mib)):
                entry.vector[dimension] = entry.vector.get(dimension, 0) + amount
        return entry

    def _held(self, but: UUID | None = None) -> list[Held]:
        """What runs hold that are not over."""
        return [e.held for run_id, e in self._entries.items() if run_id != but and e.ended is None and ending(e.run) is None]

    async def close(self) -> None:
        """Interrupt starts and let the directory go; runs go on."""
        starts = [entry.start for entry in self._entries.values() if entry.start is not None]
        for task in starts:
            task.cancel()
        await asyncio.gather(*starts, return_exceptions=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def inventory(self) -> Inventory:
        """The machine, less what our runs hold."""
        environments = {
            name: {"kind": "local path", "python": str(python), "kernels": self._kernels.get(name, [])}
            for name, python in self.options.environments.items()
        }
        homes = self.options.homes
        return Inventory(
            pools=self.machine.pools(self._held()),
            environments=environments,
            datasets=told(self.options.datasets),
            shared_storage=None if homes is None else str(homes),
        )

    async def submit(self, lease: Lease, source: InputSource) -> None:
        """Record the lease and begin to start it."""
        known = self._entries.get(lease.run_id)
        if known is not None:
            if known.run.lease.lease_token == lease.lease_token:
                return
            if ending(known.run) is None:
                raise DriverError("cluster.back_pressure", "an older lease of this run is still being ended", give_back=True)
            await self.forget(lease.run_id)
        try:
            run = await asyncio.to_thread(RunDirectory.create, self.root, lease)
        except OSError as error:
            raise of_os_error(error) from error
        entry = self._entries[lease.run_id] = self._entry(run)
        if lease.managed_by == "proxy":
            entry.start = asyncio.create_task(self._start(entry, source))
        else:
            with contextlib.suppress(DriverError, OSError):
                self._assign(entry)

    def _assign(self, entry: Entry) -> None:
        """Give the run its cards, once: what stands in its directory counts."""
        request = entry.run.lease.spec.roles[0].resources.cards
        if request is None or entry.held.shares:
            return
        shares = self.machine.assign(request, entry.run.lease.card_class, self._held(but=entry.run.lease.run_id))
        entry.run.write("assigned.json", {"cards": [share.document() for share in shares]})
        self._with_shares(entry, shares)

    async def _start(self, entry: Entry, source: InputSource) -> None:
        """Bring a recorded lease to a running shim, or to a recorded end. May be repeated from the beginning."""
        run = entry.run
        try:
            # Once it is prepared, an interrupted start may have a shim on its way: the directory is not touched again.
            if run.read("prepared.json") is None:
                await self._prepare(entry, source)
            entry.spawning = True
            await asyncio.shield(spawn_shim(run))
        except DriverError as error:
            log.warning("run_not_started", run=str(run.lease.run_id), code=error.code, error=error.message)
            self._conclude(run, "gave_back" if error.give_back else "failed", error.reason)
        except OSError as error:
            self._conclude(run, "failed", of_os_error(error).reason)
        except Exception as error:
            log.exception("run_not_started", run=str(run.lease.run_id))
            self._conclude(run, "failed", reason_of("cluster.start_failed", type(error).__name__))
        finally:
            entry.spawning = False
            entry.start = None
        if run.read("cancel.json") is not None:
            self._signal(run, signal.SIGTERM)

    async def _prepare(self, entry: Entry, source: InputSource) -> None:
        run, options = entry.run, self.options
        python = check_lease(run.lease, options)
        datasets = folders(run.lease, options.datasets)
        account = self.accounts.account(run.lease.principal_id)
        if not self.machine.fits(entry.held, self._held(but=run.lease.run_id)):
            raise DriverError("capacity.no_free_node", "processors or memory were taken meanwhile", give_back=True)
        self._assign(entry)
        live = live_folder(run.lease, options) if run.lease.spec.inputs.kind == "live" else None
        environment = run_environment(
            run.lease, options, python, run.run if live is None else live, self.machine.variables(entry.held.shares)
        )
        entry.stage = Phase.STARTING
        work = await asyncio.to_thread(new_run_folder, run, live)
        if live is None:
            await source.fetch(work, run.lease.spec.inputs.files)
        checkpoint = checkpoint_directory(run, live=live is not None)
        if run.lease.checkpoint and checkpoint is not None:
            await source.fetch(checkpoint, run.lease.checkpoint)
        await source.claim(run.uid)
        run.write("launch.json", launch_document(run, options, python, self.archive, account, environment))
        await asyncio.to_thread(note_inputs, run)
        run.put("run.json", run_document(run.lease, options.output_bytes, datasets))
        await asyncio.to_thread(hand_over, run, account)
        run.write("prepared.json", {"at": datetime.now(UTC).isoformat()})

    def _conclude(self, run: RunDirectory, state: str, reason: Reason | None, *, at: datetime | None = None, **more: Any) -> None:
        """Write our own conclusion; a full disk must not keep it from being told, so room is made first."""
        moment = (at or datetime.now(UTC)).isoformat()
        document = {"state": state, "reason": None if reason is None else reason.model_dump(mode="json"), "at": moment, **more}
        if run.read("shim.pid.json") is None:
            shutil.rmtree(run.run, ignore_errors=True)
        try:
            run.write("end.json", document)
        except OSError as error:  # told from memory; after a crash the start is tried again from the beginning
            log.warning("end_not_recorded", run=str(run.lease.run_id), error=str(error))
            self._unrecorded[run.lease.run_id] = concluded(document, datetime.fromisoformat(moment))

    def _conclude_order(self, run: RunDirectory) -> None:
        why = str((run.read("cancel.json") or {}).get("why"))
        state, code = ORDERED.get(why, ORDERED["cancel"])
        self._conclude(run, state, reason_of(code))

    async def cancel(self, run_id: UUID, why: CancelReason, grace_seconds: int) -> None:
        """Order the end; the shim sees to it."""
        entry = self._entries.get(run_id)
        if entry is None or entry.run.lease.managed_by == "spawner" or ending(entry.run) is not None:
            return
        run = entry.run
        order = run.read("cancel.json")
        if order is not None and int(order["grace_seconds"]) <= grace_seconds:
            return
        with contextlib.suppress(OSError):  # on a full disk it ends all the same, with the grace of its lease
            run.write("cancel.json", {"why": why, "grace_seconds": grace_seconds, "at": datetime.now(UTC).isoformat()})
        if entry.start is not None and not entry.spawning:
            entry.start.cancel()
            await asyncio.gather(entry.start, return_exceptions=True)
            if shim_lives(run) is None:
                self._conclude_order(run)
                return
        if shim_lives(run) is not None:
            if why in ("cancel", "preempt"):
                with contextlib.suppress(OSError):
                    run.put("stop.json", {"why": why, "grace_seconds": grace_seconds})
            self._signal(run, signal.SIGTERM)

    def _signal(self, run: RunDirectory, number: signal.Signals) -> None:
        pid = run.read("shim.pid.json")
        if pid is not None and shim_lives(run):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid["pid"]), number)

    async def suspend(self, run_id: UUID) -> None:
        """Stop all processes of the run by SIGSTOP."""
        if (entry := self._entries.get(run_id)) is not None:
            self._signal(entry.run, signal.SIGUSR1)

    async def resume(self, run_id: UUID) -> None:
        """Let them go on."""
        if (entry := self._entries.get(run_id)) is not None:
            self._signal(entry.run, signal.SIGUSR2)

    async def list_runs(self) -> list[NativeRun]:
        """All runs in the data directory. A run whose directory was taken away is not among them any more."""
        return [found for entry in list(self._entries.values()) if (found := self._look(entry)) is not None]

    def _look(self, entry: Entry) -> NativeRun | None:
        if entry.ended is not None:
            return entry.ended
        run = entry.run
        if not (run.path / "lease.json").exists():
            kill_leftovers(run.lease.run_id)
            self._entries.pop(run.lease.run_id, None)
            log.error("run_directory_vanished", run=str(run.lease.run_id))
            return None
        alive = shim_lives(run)
        end = ending(run) or self._unrecorded.get(run.lease.run_id)
        if end is None and alive is False and (end := ending(run)) is None:
            end = self._conclude_lost(run)
        if end is None:
            return self._living(entry, alive)
        entry.ended = self._native(entry, end.phase, end.at, end.reason, end.exit_code)
        return entry.ended

    def _living(self, entry: Entry, alive: bool | None) -> NativeRun:
        run = entry.run
        if alive is None:
            return self._native(entry, entry.stage, run.received_at)
        suspends = run.suspends()
        if suspends and suspends[-1][0] == "suspended":
            return self._native(entry, Phase.SUSPENDED, suspends[-1][1])
        at = suspends[-1][1] if suspends else time_of(run.read("shim.pid.json") or {}, "started_at")
        return self._native(entry, Phase.RUNNING, at)

    def _native(
        self, entry: Entry, phase: Phase, at: datetime, reason: Reason | None = None, exit_code: int | None = None
    ) -> NativeRun:
        run = entry.run
        pid = run.read("shim.pid.json")
        return NativeRun(
            run_id=run.lease.run_id,
            lease=run.lease,
            phase=phase,
            uid=run.uid,
            at=at,
            native_id=None if pid is None else f"{pid['pid']}@{pid['start_ticks']}",
            reason=reason,
            exit_code=exit_code,
            progress=progress_so_far(run),
            meter=meter_facts(run, entry.vector),
            managed_by_spawner=run.lease.managed_by == "spawner",
        )

    def _conclude_lost(self, run: RunDirectory) -> Ending:
        """The shim is gone without a record: killed from outside, or the machine went down. Nothing of it may go on."""
        killed = kill_leftovers(run.lease.run_id)
        rebooted = (run.read("shim.pid.json") or {}).get("boot_id") != boot_id()
        at = last_sign_of_life(run) if rebooted else datetime.now(UTC)
        words = MACHINE_RESTARTED if rebooted else ENDED_OUTSIDE
        reason = reason_of("cluster.lost", words, {"rebooted": rebooted, "killed": killed})
        self._conclude(run, "failed", reason, at=at, evidence="estimated" if rebooted else "observed")
        return ending(run) or Ending(Phase.FAILED, at, reason)

    async def logs(self, run_id: UUID, stream: Stream, offset: int, limit: int) -> bytes:
        """Bytes of the shim's ``output.log`` or the runner's ``progress.jsonl``."""
        entry = self._entries.get(run_id)
        if entry is None:
            return b""
        if stream == "progress":
            return entry.run.read_owned(LOG_FILES[stream], limit, offset) or b""
        try:
            with (entry.run.path / LOG_FILES[stream]).open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            return b""

    async def notebook(self, run_id: UUID, known: str | None) -> tuple[str, bytes] | None:
        """``output/<entry's name>``, which the runner replaces after each cell."""
        entry = self._entries.get(run_id)
        return None if entry is None else await asyncio.to_thread(notebook_so_far, entry.run, known)

    async def results(self, run_id: UUID) -> Results:
        """Files of ``output/``, those in ``work/`` that are new or changed, and the checkpoint directory."""
        entry = self._entries.get(run_id)
        return Results() if entry is None else await asyncio.to_thread(collect_results, entry.run)

    async def usage(self) -> Sequence[Usage]:
        """Processors and memory of the process tree of each running run."""
        roots: dict[UUID, tuple[int, datetime]] = {}
        for run_id, entry in self._entries.items():
            pid = entry.run.read("shim.pid.json") if entry.ended is None else None
            if pid is not None and shim_lives(entry.run):
                roots[run_id] = int(pid["pid"]), time_of(pid, "started_at")
        return await asyncio.to_thread(self._usage.look, roots) if roots else ()

    async def forget(self, run_id: UUID) -> None:
        """Remove the directory of an ended run."""
        entry = self._entries.get(run_id)
        over = entry is not None and (ending(entry.run) is not None or run_id in self._unrecorded)
        if entry is None or (entry.run.lease.managed_by == "proxy" and not over):
            return
        del self._entries[run_id]
        self._unrecorded.pop(run_id, None)
        if entry.run.lease.managed_by == "spawner":
            # A hub that was killed while it started a server does not know it any more: what is over for the service ends.
            await asyncio.to_thread(kill_leftovers, run_id)
        await asyncio.to_thread(entry.run.remove)

    async def apply_queues(self, desired: Sequence[DesiredQueue]) -> None:
        """Processes have no queues."""

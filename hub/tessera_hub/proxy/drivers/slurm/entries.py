"""What the driver has in mind about one run, and how it is shown and concluded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tessera_hub.proxy.drivers.base import NativeRun
from tessera_hub.proxy.drivers.outcome import ORDERED, reason_of
from tessera_hub.proxy.drivers.results import progress_so_far
from tessera_hub.proxy.drivers.rundirectory import RunDirectory
from tessera_hub.proxy.drivers.slurm.jobs import STARTING, SUSPENDED, Job
from tessera_hub.proxy.drivers.slurm.pending import pending_reason
from tessera_hub.proxy.drivers.slurm.records import Native, ending, record
from tessera_hub.proxy.drivers.slurm.settings import PartitionSettings
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.resources import ResourceVector
from tessera_hub.schemas.tasks import Phase


@dataclass(slots=True)
class Entry:
    """What the driver has in mind about one run; all of it follows from its directory and from Slurm."""

    run: RunDirectory
    native: Native
    held: ResourceVector
    start: asyncio.Task[None] | None = None
    submitting: bool = False
    stage: Phase = Phase.DISPATCHED
    job: Job | None = None
    absent: int = 0
    """How many looks have not shown the job."""
    vanished_at: float = 0.0
    """Monotonic seconds of the first of them."""
    seen: int = 0
    """Second UTC of the last look that showed it."""
    signalled: bool = False
    ended: NativeRun | None = None
    used: tuple[float, int] = (0.0, 0)

    def notice(self, job: Job | None, now: int) -> None:
        """Take in whether a look showed the job."""
        self.job = job
        if job is not None:
            self.absent, self.seen = 0, now
            return
        self.absent += 1
        if self.absent == 1:
            self.vanished_at = time.monotonic()


def over(entry: Entry) -> NativeRun | None:
    """The run's end, None while it goes on."""
    if entry.ended is None:
        found = ending(entry.run, entry.native)
        if found is not None:
            entry.ended = shown(entry, found.phase, found.at, found.reason, found.exit_code)
    return entry.ended


def living(entry: Entry) -> NativeRun:
    run, job, native = entry.run, entry.job, entry.native
    received = run.received_at
    if not native.job_id:
        return shown(entry, entry.stage, received)
    if job is None:
        return shown(entry, Phase.RUNNING if native.facts else Phase.STARTING, received)
    if job.state == "PENDING":
        cards = run.lease.spec.roles[0].resources.cards is not None
        return shown(entry, Phase.PENDING, _time(job.submitted), pending_reason(job, cards=cards))
    if job.state in SUSPENDED:
        return shown(entry, Phase.SUSPENDED, _time(native.facts[-1][1] if native.facts else job.suspended_at))
    if job.flags & STARTING or record(run, "shim.pid.json") is None:
        return shown(entry, Phase.STARTING, _time(job.start))
    last = native.facts[-1] if native.facts else None
    return shown(entry, Phase.RUNNING, _time(last[1] if last else job.start))


def shown(entry: Entry, phase: Phase, at: datetime, reason: Reason | None = None, exit_code: int | None = None) -> NativeRun:
    run = entry.run
    return NativeRun(
        run_id=run.lease.run_id,
        lease=run.lease,
        phase=phase,
        uid=run.uid,
        at=at,
        native_id=entry.native.job_id or None,
        reason=reason,
        exit_code=exit_code,
        progress=progress_so_far(run),
        meter=entry.native.meter(entry.held),
    )


def conclude(run: RunDirectory, state: str, reason: Reason | None) -> None:
    """Write our own conclusion about a run that has no job."""
    document = {"state": state, "reason": None if reason is None else reason.model_dump(mode="json")}
    run.write("end.json", {**document, "at": datetime.now(UTC).isoformat()})


def conclude_order(run: RunDirectory) -> None:
    """Conclude as the order to end it says."""
    state, code = ORDERED.get(str((run.read("cancel.json") or {}).get("why")), ORDERED["cancel"])
    conclude(run, state, reason_of(code))


def held_here(entries: Iterable[Entry], partitions: Sequence[PartitionSettings]) -> dict[str, ResourceVector]:
    """Return partition → what our running jobs hold of its nodes: processors and memory as Slurm allocated them."""
    partition_of = {alias: p.name for p in partitions for alias in (p.name, p.preemptible) if alias}
    found: dict[str, ResourceVector] = {}
    for entry in entries:
        job = entry.job
        if job is None or not entry.native.start or entry.native.ended:
            continue
        mine = found.setdefault(partition_of.get(job.partition, job.partition), {})
        taken = {**entry.held, "cpu": job.cpus * 1000, "memory": job.memory_mib or entry.held["memory"]}
        for dimension, amount in taken.items():
            mine[dimension] = mine.get(dimension, 0) + amount
    return found


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC) if seconds else datetime.now(UTC)

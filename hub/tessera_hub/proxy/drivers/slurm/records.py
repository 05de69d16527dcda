"""What we know of a run's job after any crash: Slurm's own times, kept in the run's directory until Slurm forgets the job."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Self

from tessera_hub.proxy.drivers.base import Evidence, MeterAction, MeterFact
from tessera_hub.proxy.drivers.foreign import read_foreign
from tessera_hub.proxy.drivers.outcome import (
    ORDERED,
    STATUS_CODES,
    Ending,
    concluded,
    exit_code_of,
    reason_of,
    time_of,
    told_by,
)
from tessera_hub.proxy.drivers.rundirectory import RunDirectory
from tessera_hub.proxy.drivers.slurm.jobs import REQUEUED, SUSPENDED, Job, PastJob
from tessera_hub.proxy.drivers.slurm.submission import END_SLACK_SECONDS
from tessera_hub.schemas.reasons import ENDED_OUTSIDE, JOB_FORGOTTEN
from tessera_hub.schemas.resources import ResourceVector
from tessera_hub.schemas.tasks import Phase

AGAIN: Final = "REQUEUED"
PURGED: Final = "PURGED"
_RECORD_BYTES: Final = 1 << 20
_LOG_TAIL: Final = 2000
_NEAR_LIMIT_SECONDS: Final = 5


@dataclass(slots=True)
class Native:
    """A run's job as it was last seen.

    Attributes:
        ended: Slurm's last word on it, ``COMPLETED``; ``REQUEUED`` when Slurm put it back after it had begun, ``PURGED`` when
            it vanished from Slurm; empty while it lives.
        restarts: how often Slurm had put it back before it began.
        facts: (action, second, second it was observed, evidence).
    """

    job_id: str = ""
    ended: str = ""
    end: int = 0
    start: int = 0
    exit_code: int | None = None
    signal: int | None = None
    time_limit_minutes: int | None = None
    preempted: bool = False
    restarts: int = 0
    facts: list[tuple[MeterAction, int, int, Evidence]] = field(default_factory=list)

    @classmethod
    def load(cls, run: RunDirectory) -> Self:
        """Return what the run's directory knows."""
        document = run.read("native.json") or {}
        found = cls(**{name: value for name, value in document.items() if name in cls.__slots__})
        found.facts = [tuple(fact) for fact in found.facts]  # type: ignore[misc]
        return found

    def save(self, run: RunDirectory) -> None:
        """Keep it."""
        run.write("native.json", asdict(self))

    def _fact(self, action: MeterAction, at: int, now: int, evidence: Evidence = "engine") -> None:
        last = self.facts[-1][1] if self.facts else 0
        self.facts.append((action, max(at, last), now, evidence))

    def observe(self, job: Job, now: int) -> bool:
        """Take in what Slurm shows; whether anything is new. Once it has ended nothing changes any more."""
        before = asdict(self)
        if self.ended:
            return False
        self.job_id = self.job_id or job.job_id
        self.time_limit_minutes = job.time_limit_minutes
        begun = bool(self.facts)
        if begun and (job.restarts > self.restarts or job.flags & REQUEUED):
            self.preempted = bool(job.preempted_at)
            self._fact("STOP", job.preempted_at or now, now, "engine" if job.preempted_at else "observed")
            self.ended, self.end = AGAIN, self.facts[-1][1]
            return True
        if job.nodes and job.start and job.state != "PENDING" and not begun:
            self.start, self.restarts = job.start, job.restarts
            self._fact("START", job.start, now)
        if self.facts and job.state in SUSPENDED and self.facts[-1][0] != "PAUSE":
            self._fact("PAUSE", job.suspended_at or now, now, "engine" if job.suspended_at else "observed")
        elif self.facts and job.state == "RUNNING" and self.facts[-1][0] == "PAUSE":
            self._fact("RESUME", job.suspended_at or now, now, "engine" if job.suspended_at else "observed")
        if job.ended:
            self.ended, self.end = job.state, job.end or now
            self.exit_code, self.signal = job.exit_code, job.signal
            self.preempted = job.state == "PREEMPTED"
            if self.facts:
                self._fact("STOP", self.end, now)
        return asdict(self) != before

    def conclude_purged(self, run: RunDirectory, past: PastJob | None, now: int) -> None:
        """Slurm does not know the job any more: its end is what accounting says, else what the program on the node wrote."""
        started, finished = record(run, "shim.pid.json"), record(run, "shim.json")
        if past is not None and past.end:
            self.ended, self.exit_code, self.signal = past.state, past.exit_code, past.signal
            start, end, evidence = past.start, past.end, _engine()
        else:
            self.ended, evidence = PURGED, "observed" if finished else "estimated"
            start = 0 if started is None else int(time_of(started, "started_at").timestamp())
            end = int(last_sign(run, now) if finished is None else time_of(finished, "finished_at").timestamp())
        if not self.facts and start:
            self.start = start
            self._fact("START", start, now, evidence)
        self.end = max(end, self.start)
        if self.facts:
            self._fact("STOP", self.end, now, evidence)

    def meter(self, held: ResourceVector) -> tuple[MeterFact, ...]:
        """Return the facts; a suspended run holds memory and cards."""
        resting = {dimension: amount for dimension, amount in held.items() if dimension != "cpu"}
        spec = {"START": held, "RESUME": held, "PAUSE": resting, "STOP": {}}
        return tuple(MeterFact(action, at, seen, spec[action], evidence) for action, at, seen, evidence in self.facts)


def _engine() -> Evidence:
    return "engine"


def record(run: RunDirectory, name: str) -> dict[str, Any] | None:
    """Return a record that the program on the node made; it could be user code's, so nothing in it is trusted with money."""
    data = run.read_owned(name, _RECORD_BYTES)
    return read_foreign(data) if data else None


def last_sign(run: RunDirectory, now: int) -> float:
    """Return when the program on the node last told that it lived; now if it never did."""
    use = record(run, "use.json") or record(run, "shim.pid.json")
    return now if use is None else min(time_of(use, "at" if "at" in use else "started_at").timestamp(), now)


def ending(run: RunDirectory, native: Native) -> Ending | None:
    """Return how the run ended, None while it has not.

    The runner's ``exit.json`` says what user code did, Slurm when the job was over and, where nobody ordered the end, why.
    """
    own = run.read("end.json")
    if own is not None:
        return concluded(own, time_of(own, "at"))
    if not native.ended:
        return None
    at = datetime.fromtimestamp(native.end, UTC)
    order = run.read("cancel.json")
    told = run.exit_record()
    if told is not None:
        failed = _failed_part(run, at) if order is None else None
        if told["state"] == "preempted" and order is None:
            return failed or _by_slurm(run, native, at) or told_by(run, told, at)
        return failed or told_by(run, told, at)
    if order is not None:
        state, code = ORDERED.get(str(order.get("why")), ORDERED["cancel"])
        phase = {"cancelled": Phase.CANCELLED, "preempted": Phase.PREEMPTED}.get(state, Phase.FAILED)
        return Ending(phase, at, reason_of(code), native.exit_code)
    return _by_slurm(run, native, at) or _by_status(run, native, at)


def _failed_part(run: RunDirectory, at: datetime) -> Ending | None:
    """A run with several parts has failed with the first part that did; the others were ended for it, whatever they say."""
    for rank in range(1, run.lease.spec.roles[0].replicas):
        told = record(run, f"ranks/{rank}/exit.json")
        if told is not None and told.get("state") != "failed":
            continue
        reason = told.get("reason") if told else None
        words = str(reason.get("message", ""))[:1000] if isinstance(reason, dict) else "it left no record"
        reason_given = reason_of("script.exit", f"part {rank}: {words}", {"rank": rank})
        return Ending(Phase.FAILED, at, reason_given, exit_code_of(told.get("exit_code")) if told else None)
    return None


def _by_slurm(run: RunDirectory, native: Native, at: datetime) -> Ending | None:
    """What Slurm did to the job of its own accord; None if it did nothing."""
    detail = {"native": native.ended, "job": native.job_id}
    if native.preempted or native.ended == "PREEMPTED":
        return Ending(Phase.PREEMPTED, at, reason_of("policy.preempted", "Slurm needed its place", detail))
    if native.ended in ("TIMEOUT", "DEADLINE") or _signalled_before_limit(run, native):
        return Ending(Phase.FAILED, at, reason_of("limit.time", "", detail))
    found = {
        "OUT_OF_MEMORY": ("limit.memory", ""),
        "CANCELLED": ("cluster.cancelled", ""),
        "NODE_FAIL": ("cluster.lost", "the node failed"),
        "BOOT_FAIL": ("cluster.lost", "the node did not start"),
        "REVOKED": ("cluster.lost", "Slurm revoked the job"),
        AGAIN: ("cluster.lost", "Slurm put the job back into its queue after it had begun"),
    }.get(native.ended)
    return None if found is None else Ending(Phase.FAILED, at, reason_of(found[0], found[1], detail), native.exit_code)


def _signalled_before_limit(run: RunDirectory, native: Native) -> bool:
    """Whether the signal that ``--signal`` orders before the time limit had been due when the job ended."""
    if native.time_limit_minutes is None or not native.start:
        return False
    due = native.start + native.time_limit_minutes * 60 - run.lease.spec.lifecycle.grace_seconds - END_SLACK_SECONDS
    return native.end >= due - _NEAR_LIMIT_SECONDS


def _by_status(run: RunDirectory, native: Native, at: datetime) -> Ending:
    """By what the program on the node recorded, or the bare status of the job: the runner could not write a record."""
    shim = record(run, "shim.json")
    detail = {"native": native.ended, "job": native.job_id, "exit_code": native.exit_code, "signal": native.signal}
    if shim is None and record(run, "shim.pid.json") is None and native.ended != PURGED:
        reason = reason_of("cluster.start_failed", _last_words(run), detail)
        return Ending(Phase.FAILED, at, reason, native.exit_code)
    if shim is not None:
        cause, code = shim.get("cause"), shim.get("exit_code")
        if cause == "start_failed":
            return Ending(Phase.FAILED, at, reason_of("cluster.start_failed", str(shim.get("problem"))[:1000], detail))
        if cause in ("limit.time", "limit.memory"):
            return Ending(Phase.FAILED, at, reason_of(str(cause), "", detail))
        if type(code) is int and code in STATUS_CODES:
            return Ending(Phase.FAILED, at, reason_of(STATUS_CODES[code], "", detail), code)
    words = JOB_FORGOTTEN if native.ended == PURGED else ENDED_OUTSIDE
    return Ending(Phase.FAILED, at, reason_of("cluster.lost", words, detail), native.exit_code)


def _last_words(run: RunDirectory) -> str:
    """The end of what the batch script printed."""
    data = run.read_owned("slurm.log", _LOG_TAIL) or b""
    lines = data.decode(errors="replace").strip().splitlines()
    return lines[-1][:1000] if lines else ""

"""How a run stands, from its record, what Batch says of its job, and what the run told. Pure.

A job's container prepares itself before any user code, so a run has begun when its courier says so; it is billed from the
engine's start of the container. Where Batch has forgotten a job, the courier's own clock stands in, as observed evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from tessera_hub.proxy.drivers.aws_batch.boot import NOTHING_BEGUN
from tessera_hub.proxy.drivers.aws_batch.jobs import Job
from tessera_hub.proxy.drivers.aws_batch.reasons import (
    lost_its_host,
    ran_out_of_memory,
    start_failure,
    waiting_reason,
    was_ended_by_somebody,
    was_timed_out,
)
from tessera_hub.proxy.drivers.aws_batch.record import Record
from tessera_hub.proxy.drivers.base import Evidence, MeterFact, NativeRun
from tessera_hub.proxy.drivers.couriers import fact, meter_since, progress_of, told_outcome
from tessera_hub.proxy.drivers.foreign import count_of
from tessera_hub.proxy.drivers.outcome import EXIT_CODE_LIMIT, ORDERED, STATES, STATUS_CODES, reason_of
from tessera_hub.proxy.drivers.runrecords import End, moment
from tessera_hub.schemas.reasons import ENDED_OUTSIDE, MAY_HAVE_BEGUN, Reason
from tessera_hub.schemas.tasks import Phase, Progress


@dataclass(frozen=True, slots=True)
class Seen:
    """What is seen of a run.

    Attributes:
        job: None: there is none, or Batch has forgotten it.
        told: the run's last words; empty before the first.
        trouble: why AWS cannot be asked, where it cannot.
    """

    job: Job | None = None
    told: Mapping[str, Any] = field(default_factory=dict)
    trouble: Reason | None = None

    @property
    def has_begun(self) -> bool:
        """Whether user code may have started."""
        return self.told.get("phase") in ("began", "ended")

    @property
    def has_last_words(self) -> bool:
        """Whether the courier has said all that it will."""
        return self.told.get("phase") in ("refused", "ended")


def started_at(record: Record, seen: Seen) -> datetime | None:
    """Return when the container of a run that has begun started: by the engine if it was ever seen, else by the courier."""
    if not seen.has_begun:
        return None
    return record.started_at or (seen.job.started_at if seen.job is not None else None) or _time(seen.told, "began_at")


def meter_of(record: Record, seen: Seen) -> tuple[MeterFact, ...]:
    """Return what is billed of a run, without its end."""
    at = started_at(record, seen)
    if at is None:
        return ()
    facts = meter_since(record.lease, record.suspends, at)
    by_engine = record.started_at is not None or (seen.job is not None and seen.job.started_at is not None)
    return facts if by_engine else (replace(facts[0], evidence="observed"), *facts[1:])


def living(record: Record, seen: Seen) -> NativeRun:
    """Return the run as it goes on."""
    job = seen.job
    if (began := started_at(record, seen)) is not None:
        told = seen.told.get("suspended")
        # A stop is shown when it was obeyed, and a resume as well.
        if record.suspends and (record.is_suspended if not isinstance(told, bool) else told):
            return _native(record, seen, Phase.SUSPENDED, record.suspends[-1][1], seen.trouble)
        return _native(record, seen, Phase.RUNNING, record.suspends[-1][1] if record.suspends else began, seen.trouble)
    if job is None:
        return _native(record, seen, Phase.DISPATCHED, record.received_at, seen.trouble)
    phase = Phase.STARTING if job.status in ("STARTING", "RUNNING") else Phase.PENDING
    return _native(
        record, seen, phase, job.started_at or job.created_at or record.received_at, seen.trouble or waiting_reason(job)
    )


def ended(record: Record, seen: Seen, now: datetime) -> End:
    """Return the end of a run of which nothing lives any more."""
    started = started_at(record, seen)
    if started is None:
        return End(_unstarted(record, seen, now), delivered=False)
    report = seen.told.get("report")
    report = report if isinstance(report, dict) else {}
    evidence: Evidence = "engine"
    finished = seen.job.stopped_at if seen.job is not None else None
    if finished is None:
        finished = _time(report, "finished_at")
        evidence = "observed" if finished else "estimated"
    finished = max(finished or now, started)
    phase, reason, code = _outcome(record, seen, report)
    run = _native(record, seen, phase, finished, reason, code, _progress(report))
    meter = (*meter_of(record, seen), fact("STOP", finished, {}, evidence))
    notes = {str(key): dict(value) for key, value in (report.get("notes") or {}).items() if isinstance(value, dict)}
    return End(replace(run, meter=meter), notes, count_of(report.get("checkpoint")) or 0, delivered=bool(report))


def _unstarted(record: Record, seen: Seen, now: datetime) -> NativeRun:
    """The end of a run whose user code never began."""
    job = seen.job
    at = (job.stopped_at if job is not None else None) or now
    code = seen.told.get("code")
    if record.order is not None:
        state, ordered = ORDERED[record.order.why]
        return _native(record, seen, STATES[state], at, reason_of(ordered))
    if isinstance(code, str) and seen.told.get("phase") == "refused":
        detail = seen.told.get("detail")
        words = str(seen.told.get("message", ""))
        return _native(record, seen, Phase.FAILED, at, reason_of(code, words, detail if isinstance(detail, dict) else {}))
    if job is None:
        return _native(record, seen, Phase.FAILED, at, reason_of("cluster.lost", "AWS knows nothing of its job"))
    if lost_its_host(job) or job.exit_code == NOTHING_BEGUN:
        words = job.status_reason if lost_its_host(job) else "its container could not fetch the courier"
        # A host may be gone between the claim and the first word of the program.
        detail = {MAY_HAVE_BEGUN: True} if lost_its_host(job) else {}
        return _native(record, seen, Phase.QUEUED, at, reason_of("cluster.gave_back", words[:1000], detail))
    if seen.told.get("stopped") is True or was_ended_by_somebody(job):
        return _native(record, seen, Phase.FAILED, at, reason_of("cluster.cancelled", job.status_reason[:1000]))
    return _native(record, seen, Phase.FAILED, at, start_failure(job))


def _outcome(record: Record, seen: Seen, report: Mapping[str, Any]) -> tuple[Phase, Reason | None, int | None]:
    job = seen.job
    code = job.exit_code if job is not None and job.exit_code is not None else seen.told.get("exit_code")
    status = code if type(code) is int and 0 <= code <= EXIT_CODE_LIMIT else None
    told = report.get("exit")
    if isinstance(told, dict) and told.get("state") in ("succeeded", "failed", "cancelled", "preempted"):
        return told_outcome(told, record.order, status, _taken(job))
    detail = {"exit_code": status}
    if job is not None and ran_out_of_memory(job):
        return Phase.FAILED, reason_of("limit.memory", "", detail), status
    if record.order is not None:
        state, ordered = ORDERED[record.order.why]
        return STATES[state], reason_of(ordered, "", detail), status
    if job is not None and was_timed_out(job):
        return Phase.FAILED, reason_of("limit.time", "", detail), status
    if job is not None and (lost_its_host(job) or was_ended_by_somebody(job)):
        return *_taken(job), status
    if status in STATUS_CODES:
        return Phase.FAILED, reason_of(STATUS_CODES[status], "", detail), status
    return Phase.FAILED, reason_of("cluster.lost", ENDED_OUTSIDE, detail), status


def _taken(job: Job | None) -> tuple[Phase, Reason]:
    """What became of a run that was stopped, and not by us: an instance was taken, or it is somebody's doing."""
    if job is not None and lost_its_host(job):
        return Phase.PREEMPTED, reason_of("cluster.evicted", job.status_reason[:1000])
    return Phase.FAILED, reason_of("cluster.cancelled", "" if job is None else job.status_reason[:1000])


def _native(
    record: Record,
    seen: Seen,
    phase: Phase,
    at: datetime,
    reason: Reason | None = None,
    exit_code: int | None = None,
    progress: Progress | None = None,
) -> NativeRun:
    return NativeRun(
        run_id=record.lease.run_id,
        lease=record.lease,
        phase=phase,
        uid=record.uid,
        at=at,
        native_id=record.job_id,
        reason=reason,
        exit_code=exit_code,
        progress=progress or _progress(seen.told),
        meter=meter_of(record, seen),
    )


def _progress(told: Mapping[str, Any]) -> Progress | None:
    found = told.get("progress")
    return progress_of(found) if isinstance(found, dict) else None


def _time(told: Mapping[str, Any], name: str) -> datetime | None:
    try:
        return moment(str(told[name]))
    except (KeyError, ValueError):
        return None

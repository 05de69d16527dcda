"""How a run stands, from its record and what Kubernetes shows of its job and pod. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from tessera_hub.proxy.drivers.base import Evidence, MeterFact, NativeRun
from tessera_hub.proxy.drivers.couriers import fact, meter_since, progress_of, told_outcome
from tessera_hub.proxy.drivers.foreign import count_of, read_foreign
from tessera_hub.proxy.drivers.kubernetes.reasons import MISSING, reason_for
from tessera_hub.proxy.drivers.kubernetes.record import Record
from tessera_hub.proxy.drivers.outcome import EXIT_CODE_LIMIT, ORDERED, STATES, STATUS_CODES, reason_of
from tessera_hub.proxy.drivers.runrecords import End, moment
from tessera_hub.schemas.reasons import ENDED_OUTSIDE, MAY_HAVE_BEGUN, Reason
from tessera_hub.schemas.tasks import Phase, Progress
from volcano_client.pending import Cause, causes_of_pod

Document = Mapping[str, Any]
NODE_LOST: Final = "NodeLost"
"""Our own reason of a pod whose node is gone (:mod:`.lostnodes`)."""
_GIVEN_BACK: Final = (NODE_LOST, "UnexpectedAdmissionError", "OutOf", "NodeAffinity", "NodeShutdown", "Terminated", "Preempting")
"""Beginnings of the reasons with which a kubelet turns a pod away that has not begun."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What Kubernetes shows of a run.

    Attributes:
        job: None: there is none (any more).
        causes: of events, where the pod itself does not say why it waits.
        progress: what the courier told last.
        suspended: what the courier told last; None: nothing yet.
        ranks: the pods of a run that has several; then ``pod`` is the one that holds it up.
    """

    job: Document | None
    pod: Document | None
    causes: Sequence[Cause] = ()
    progress: Progress | None = None
    suspended: bool | None = None
    ranks: Mapping[int, Document] = field(default_factory=dict)


NEVER: Final = "1970-"
"""How the kubelet begins the time at which a container began that its runtime could not start."""
UNKNOWN_END: Final = "ContainerStatusUnknown"
"""The kubelet's reason of a container that it cannot find: it ran, and its node was started anew, or it never was there."""


def living(record: Record, seen: Seen) -> NativeRun:
    """Return the run as it goes on."""
    pod = seen.pod
    if pod is None:
        phase = Phase.DISPATCHED if seen.job is None else Phase.PENDING
        return _native(record, seen, phase, record.received_at, reason_for(seen.causes))
    main = state_of(pod, "containerStatuses", "main")
    if started := main.get("startedAt"):
        # A stop is shown when it was obeyed, and a resume as well.
        if record.suspends and (record.is_suspended if seen.suspended is None else seen.suspended):
            return _native(record, seen, Phase.SUSPENDED, record.suspends[-1][1])
        at = record.suspends[-1][1] if record.suspends else moment(started)
        return _native(record, seen, Phase.RUNNING, at)
    causes = causes_of_pod(pod)
    held = [cause for cause in causes if cause.kind != "starting"] or list(seen.causes) or causes
    if not (pod.get("spec") or {}).get("nodeName"):
        return _native(record, seen, Phase.PENDING, moment(pod["metadata"]["creationTimestamp"]), reason_for(held))
    at = (pod.get("status") or {}).get("startTime") or pod["metadata"]["creationTimestamp"]
    return _native(record, seen, Phase.STARTING, moment(at), reason_for(held))


def has_begun(pod: Document | None) -> bool:
    """Whether user code may have started."""
    return pod is not None and bool(state_of(pod, "containerStatuses", "main").get("startedAt"))


def is_over(record: Record, seen: Seen) -> bool:
    """Whether nothing of the run lives any more."""
    pod = seen.pod
    if pod is None:
        # Without an order a job whose pod is not there yet may still make one; a job that was taken away does not.
        taken = record.job_uid is not None and (seen.job is None or seen.job["metadata"].get("deletionTimestamp") is not None)
        return taken or _has_failed(seen.job) or (record.order is not None and seen.job is None)
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed") or cannot_begin(pod):
        return True
    deleted = pod["metadata"].get("deletionTimestamp") is not None
    return deleted and not (pod.get("spec") or {}).get("nodeName")


def cannot_begin(pod: Document) -> bool:
    """Whether the program could not even be started: who delivers in the same pod waits for it, and so the pod does not end."""
    main = state_of(pod, "containerStatuses", "main")
    return "exitCode" in main and not main.get("startedAt")


def misses(pod: Document | None, seconds: int, now: datetime) -> Reason | None:
    """Return what a pod's program has waited for that long and that will not come by itself; None if there is no such thing."""
    reason = None if pod is None else reason_for(causes_of_pod(pod))
    if pod is None or reason is None or reason.code not in MISSING:
        return None
    prepared = state_of(pod, "initContainerStatuses", "prepare").get("finishedAt")
    return reason if prepared and now - moment(prepared) > timedelta(seconds=seconds) else None


def native_reason(pod: Document) -> str:
    """Return Kubernetes' own word for how a pod stands, such as ``Evicted``; mostly empty."""
    return str((pod.get("status") or {}).get("reason") or "")


def was_turned_away(pod: Document) -> bool:
    """Whether a node did not keep a pod, for a reason that has nothing to do with it."""
    return native_reason(pod).startswith(_GIVEN_BACK)


def _has_failed(job: Document | None) -> bool:
    if job is None:
        return False
    status = job.get("status") or {}
    if (status.get("state") or {}).get("phase") in ("Failed", "Aborted", "Terminated"):
        return True
    return any(c.get("type") == "Failed" and c.get("status") == "True" for c in status.get("conditions") or ())


def ended(record: Record, seen: Seen, now: datetime) -> End:
    """Return the end of a run that is over."""
    pod = seen.pod
    if pod is None:
        return _without_pod(record, seen, now)
    main = state_of(pod, "containerStatuses", "main")
    report = _report(pod)
    told = report.get("exit") if isinstance(report.get("exit"), dict) else None
    if not main.get("startedAt"):
        return End(unstarted(record, seen, now))
    finished = moment(main["finishedAt"]) if main.get("finishedAt") else now
    evidence: Evidence = "engine" if main.get("finishedAt") else "observed"
    evidence = "estimated" if is_estimated(main) else evidence
    phase, reason, code = _outcome(record, pod, main, told)
    run = _native(record, seen, phase, finished, reason, code, _progress(report) or seen.progress)
    meter = (*meter_of(record, pod), fact("STOP", max(finished, moment(main["startedAt"])), {}, evidence))
    notes = {str(key): dict(value) for key, value in (report.get("notes") or {}).items() if isinstance(value, dict)}
    checkpoint = count_of(report.get("checkpoint")) or 0
    return End(replace(run, meter=meter), notes, checkpoint, delivered=bool(report))


def is_estimated(main: Document) -> bool:
    """Whether nobody saw when a container ended."""
    return main.get("reason") in (NODE_LOST, UNKNOWN_END)


def meter_of(record: Record, pod: Document) -> tuple[MeterFact, ...]:
    """Return what is billed of a run that has begun, without its end: by the engine's clock, the pauses by ours."""
    main = state_of(pod, "containerStatuses", "main")
    return meter_since(record.lease, record.suspends, moment(main["startedAt"])) if main.get("startedAt") else ()


def _native(
    record: Record,
    seen: Seen,
    phase: Phase,
    at: datetime,
    reason: Reason | None = None,
    exit_code: int | None = None,
    progress: Progress | None = None,
) -> NativeRun:
    pod, job = seen.pod, seen.job
    uid = pod["metadata"]["uid"] if pod is not None else record.job_uid or record.uid
    name = (pod or job or {}).get("metadata", {}).get("name")
    return NativeRun(
        run_id=record.lease.run_id,
        lease=record.lease,
        phase=phase,
        uid=uid,
        at=at,
        native_id=None if name is None else f"{record.namespace}/{name}",
        reason=reason,
        exit_code=exit_code,
        progress=progress or seen.progress,
        meter=() if pod is None else meter_of(record, pod),
        managed_by_spawner=record.lease.managed_by == "spawner",
    )


def _without_pod(record: Record, seen: Seen, now: datetime) -> End:
    if record.gave_back is not None:
        return End(_given_back(record, seen, now, record.gave_back), delivered=False)
    if record.order is not None:
        state, code = ORDERED[record.order.why]
        return End(_native(record, seen, STATES[state], now, reason_of(code)), delivered=False)
    if record.gave_up is not None:
        return End(_native(record, seen, Phase.FAILED, now, record.gave_up), delivered=False)
    why = seen.causes[0].message if seen.causes else "its job was taken away in the cluster itself"
    return End(_native(record, seen, Phase.FAILED, now, reason_of("cluster.lost", why[:1000])), delivered=False)


def unstarted(record: Record, seen: Seen, now: datetime) -> NativeRun:
    """The end of a run whose user code never began."""
    assert seen.pod is not None
    status = seen.pod.get("status") or {}
    prepare = state_of(seen.pod, "initContainerStatuses", "prepare")
    at = moment(prepare["finishedAt"]) if prepare.get("finishedAt") else now
    if record.order is not None:
        state, code = ORDERED[record.order.why]
        return _native(record, seen, STATES[state], at, reason_of(code))
    if record.gave_back is not None:
        return _given_back(record, seen, at, record.gave_back)
    if record.gave_up is not None:
        return _native(record, seen, Phase.FAILED, at, record.gave_up)
    told = read_foreign(str(prepare.get("message") or "").encode())
    if told is not None and isinstance(told.get("code"), str):
        detail = told.get("detail")
        reason = reason_of(told["code"], str(told.get("message", "")), detail if isinstance(detail, dict) else {})
        return _native(record, seen, Phase.FAILED, at, reason)
    if cannot_begin(seen.pod):
        main = state_of(seen.pod, "containerStatuses", "main")
        detail = {"reason": str(main.get("reason") or ""), "exit_code": main["exitCode"]}
        words = str(main.get("message") or "")[:1000]
        return _native(record, seen, Phase.FAILED, at, reason_of("cluster.start_failed", words, detail))
    native, message = native_reason(seen.pod), str(status.get("message") or "")
    if was_turned_away(seen.pod):
        # Parts begin together, once each was shown the list of all, which a lost one would still have.
        unseen = native == NODE_LOST and record.size == 1
        detail = {"reason": native} | ({MAY_HAVE_BEGUN: True} if unseen else {})
        return _native(record, seen, Phase.QUEUED, at, reason_of("cluster.gave_back", message[:1000], detail))
    if seen.pod["metadata"].get("deletionTimestamp"):
        phase, taken = _taken(seen.pod)
        return _native(record, seen, phase, at, taken)
    detail = {"reason": native, "exit_code": prepare.get("exitCode")}
    return _native(record, seen, Phase.FAILED, at, reason_of("cluster.start_failed", message[:1000], detail))


def _given_back(record: Record, seen: Seen, at: datetime, why: str) -> NativeRun:
    return _native(record, seen, Phase.QUEUED, at, reason_of("cluster.gave_back", why))


def has_words(pod: Document) -> bool:
    """Whether a pod's preparation says why it failed."""
    return bool(state_of(pod, "initContainerStatuses", "prepare").get("message"))


def was_stopped(pod: Document) -> bool:
    """Whether a pod's program says that it was told to stop."""
    told = _report(pod).get("exit")
    return isinstance(told, dict) and told.get("state") in ("cancelled", "preempted")


def finished_text(pod: Document) -> str:
    """Return when a pod's program was gone by its own clock, finer than the engine tells it; only to compare."""
    return str(_report(pod).get("finished_at") or "~")


def _taken(pod: Document) -> tuple[Phase, Reason]:
    """What became of a run whose pod was deleted, and not by us: an eviction makes room, anything else is somebody's doing."""
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            detail = {"reason": str(condition.get("reason", ""))}
            return Phase.PREEMPTED, reason_of("cluster.evicted", str(condition.get("message", ""))[:1000], detail)
    return Phase.FAILED, reason_of("cluster.cancelled")


def _stopped(pod: Document) -> tuple[Phase, Reason]:
    """What became of a run whose program was stopped, and not by us."""
    if native_reason(pod) == "DeadlineExceeded":
        return Phase.FAILED, reason_of("limit.time")
    return _taken(pod)


def _outcome(
    record: Record, pod: Document, main: Document, told: Mapping[str, Any] | None
) -> tuple[Phase, Reason | None, int | None]:
    code = main.get("exitCode") if main.get("reason") != UNKNOWN_END else None  # the kubelet's own word then, no program's
    status = code if type(code) is int and 0 <= code <= EXIT_CODE_LIMIT else None
    if told is not None and told.get("state") in ("succeeded", "failed", "cancelled", "preempted"):
        return told_outcome(told, record.order, status, _stopped(pod))
    detail = {"exit_code": status}
    if main.get("reason") == "OOMKilled":
        return Phase.FAILED, reason_of("limit.memory", "", detail), status
    if record.order is not None:
        state, ordered = ORDERED[record.order.why]
        return STATES[state], reason_of(ordered, "", detail), status
    native, message = native_reason(pod), str((pod.get("status") or {}).get("message") or "")
    if native == "DeadlineExceeded":
        return Phase.FAILED, reason_of("limit.time", "", detail), status
    if native == NODE_LOST:
        return Phase.FAILED, reason_of("cluster.lost", message[:1000], {"reason": native}), status
    if native == "Evicted":
        return Phase.PREEMPTED, reason_of("cluster.evicted", message[:1000], {"reason": native}), status
    if pod["metadata"].get("deletionTimestamp"):
        return *_taken(pod), status
    if status in STATUS_CODES:
        return Phase.FAILED, reason_of(STATUS_CODES[status], "", detail), status
    return Phase.FAILED, reason_of("cluster.lost", ENDED_OUTSIDE, detail), status


def state_of(pod: Document, kind: str, name: str) -> dict[str, Any]:
    """Return a container's running or terminated state, empty before; without ``startedAt`` where it could not be started."""
    for container in (pod.get("status") or {}).get(kind) or ():
        if container.get("name") == name:
            state = container.get("state") or {}
            found: dict[str, Any] = state.get("terminated") or state.get("running") or {}
            if str(found.get("startedAt") or "").startswith(NEVER):
                return {key: value for key, value in found.items() if key != "startedAt"}
            if found.get("reason") == UNKNOWN_END and kind == "containerStatuses":
                return _vanished(pod, found)
            return found
    return {}


def _vanished(pod: Document, found: dict[str, Any]) -> dict[str, Any]:
    """Return the end of a container that the kubelet cannot find any more, empty if it never began.

    The kubelet tells neither time. A pod is ready once its containers run, and no longer when its node falls silent or is back
    without them; one that was never ready has not ceased to be so since it was prepared. When the container began was told while
    it ran, and of two beginnings the first is billed: so nothing is billed too much where it is said to have begun when it ended.
    """
    conditions = {one.get("type"): one for one in (pod.get("status") or {}).get("conditions") or ()}
    ceased = (conditions.get("Ready") or {}).get("lastTransitionTime")
    prepared = (conditions.get("Initialized") or {}).get("lastTransitionTime")
    if not ceased or not prepared or moment(ceased) < moment(prepared):
        return {}
    return {**found, "startedAt": ceased, "finishedAt": ceased}


def _report(pod: Document) -> dict[str, Any]:
    """Return the courier's last words; empty if it had none."""
    return read_foreign(str(state_of(pod, "containerStatuses", "deliver").get("message") or "").encode()) or {}


def _progress(report: Mapping[str, Any]) -> Progress | None:
    found = report.get("progress")
    return progress_of(found) if isinstance(found, dict) else None

"""How a run of one pod or several stands. Pure; :mod:`.standing` reads one pod, and this puts them together.

Several pods are one run with one subject of metering, the job: it begins when all of them are there, and ends with the last. No
user code runs before the Proxy has shown every pod the list of all (annotation ``tessera.io/company``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tessera_hub.proxy.drivers.base import Evidence, MeterFact, NativeRun
from tessera_hub.proxy.drivers.couriers import fact, meter_since
from tessera_hub.proxy.drivers.kubernetes import services, standing
from tessera_hub.proxy.drivers.kubernetes.options import COMPANY, RECORD
from tessera_hub.proxy.drivers.kubernetes.record import Record
from tessera_hub.proxy.drivers.kubernetes.standing import Document, Seen
from tessera_hub.proxy.drivers.outcome import ORDERED, STATES, reason_of
from tessera_hub.proxy.drivers.runrecords import End, moment
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.tasks import Phase
from volcano_client.pending import causes_of_pod

INDEX: Final = "batch.kubernetes.io/job-completion-index"
VOLCANO_TASK: Final = "volcano.sh/task-spec"


def rank_of(pod: Document) -> int | None:
    """Return which part of a run a pod is; None for a pod that says nothing of it."""
    annotations = pod["metadata"].get("annotations") or {}
    index = annotations.get(INDEX)
    if index is None and VOLCANO_TASK in annotations:
        index = str(pod["metadata"]["name"]).rpartition("-")[2]
    return int(index) if index is not None and index.isdigit() else None


def by_rank(pods: Sequence[Document]) -> dict[int, Document]:
    """Return the pods by rank; of several for one rank that which belongs to the company, then the one that has begun."""
    found: dict[int, Document] = {}
    for pod in sorted(pods, key=lambda p: (_company(p) != "", standing.has_begun(p), p["metadata"]["creationTimestamp"])):
        rank = rank_of(pod)
        if rank is not None:
            found[rank] = pod
    return found


def _company(pod: Document) -> str:
    return str((pod["metadata"].get("annotations") or {}).get(COMPANY) or "")


def has_begun(record: Record, seen: Seen) -> bool:
    """Whether user code may have started."""
    if record.size == 1:
        return standing.has_begun(seen.pod)
    return any(_company(pod) for pod in seen.ranks.values())


def company_of(record: Record, seen: Seen) -> str | None:
    """Return the list of all parts as every pod is to be shown it; None while they are not all prepared.

    A list that a pod was shown before is never changed: a pod that came in later for a lost one is not in it, and never starts.
    """
    told = next((text for pod in seen.ranks.values() if (text := _company(pod))), None)
    if told is not None:
        return told
    pods = [seen.ranks.get(rank) for rank in range(record.size)]
    parts = []
    for pod in pods:
        address = None if pod is None else (pod.get("status") or {}).get("podIP")
        if pod is None or not address or not _runs(pod) or RECORD not in (pod["metadata"].get("finalizers") or ()):
            return None
        parts.append({"uid": pod["metadata"]["uid"], "address": address})
    return json.dumps({"parts": parts})


def _runs(pod: Document) -> bool:
    main = standing.state_of(pod, "containerStatuses", "main")
    return bool(main.get("startedAt")) and not main.get("finishedAt") and not pod["metadata"].get("deletionTimestamp")


def lacks_company(pod: Document) -> bool:
    """Whether a pod was not shown the list yet."""
    return not _company(pod)


def cannot_meet(record: Record, seen: Seen) -> bool:
    """Whether a part could not be started, or its node did not keep it: the others, who have not begun, wait for it in vain."""
    if has_begun(record, seen):
        return False
    return any(standing.cannot_begin(pod) or standing.was_turned_away(pod) for pod in seen.ranks.values())


def failed_part(seen: Seen) -> int | None:
    """Return the first part whose program has failed, or is being ended by somebody."""
    for rank, pod in sorted(seen.ranks.items()):
        if standing.state_of(pod, "containerStatuses", "main").get("exitCode") or pod["metadata"].get("deletionTimestamp"):
            return rank
    return None


def left_waiting(record: Record, seen: Seen) -> list[Document]:
    """Return the parts that serve the first one of an MPI program's run, where that has ended well; it tells them itself, too."""
    first = seen.ranks.get(0)
    if record.lease.spec.framework != "mpi" or first is None:
        return []
    mains = {rank: standing.state_of(pod, "containerStatuses", "main") for rank, pod in seen.ranks.items()}
    if mains[0].get("exitCode") != 0:
        return []
    return [pod for rank, pod in sorted(seen.ranks.items()) if "exitCode" not in mains[rank]]


def half_placed_since(record: Record, seen: Seen) -> datetime | None:
    """Return since when some parts hold a node while others have none; None if none or all do."""
    if record.size == 1 or has_begun(record, seen):
        return None
    placed = [pod for pod in seen.ranks.values() if (pod.get("spec") or {}).get("nodeName")]
    since = [str(at) for pod in placed if (at := (pod.get("status") or {}).get("startTime"))]
    return moment(min(since)) if since and len(placed) < record.size else None


def held_up_by(record: Record, seen: Seen) -> Document | None:
    """Return the pod that the others wait for; None: it is not made yet."""
    pods = [seen.ranks.get(rank) for rank in range(record.size)]
    if any(pod is None for pod in pods):
        return None
    return next((p for p in pods if p and not (p.get("spec") or {}).get("nodeName")), None) or next(
        (p for p in pods if p and not standing.has_begun(p)), pods[0]
    )


def living(record: Record, seen: Seen) -> NativeRun:
    """Return the run as it goes on."""
    if record.is_service:
        return services.living(record, seen)
    if record.size == 1:
        return standing.living(record, seen)
    uid = record.job_uid or record.uid
    if has_begun(record, seen):
        run = standing.living(record, replace(seen, pod=seen.ranks[min(seen.ranks)]))
        return replace(run, uid=uid, meter=meter_of(record, seen))
    pod = held_up_by(record, seen)
    run = replace(standing.living(record, replace(seen, pod=pod)), uid=uid, meter=())
    if run.phase in (Phase.RUNNING, Phase.SUSPENDED):  # all are prepared, and about to be told
        return replace(run, phase=Phase.STARTING, reason=None)
    placed = sum(bool((p.get("spec") or {}).get("nodeName")) for p in seen.ranks.values())
    fitting = placed + sum(any("possible_node" in cause.detail for cause in causes_of_pod(p)) for p in seen.ranks.values())
    if run.reason is not None and run.reason.code.startswith("capacity.") and fitting:
        detail = {**run.reason.detail, "placed": placed, "parts": record.size, "also": [run.reason.code]}
        run = replace(run, reason=reason_of("capacity.gang", run.reason.message, detail))
    return run


def meter_of(record: Record, seen: Seen) -> tuple[MeterFact, ...]:
    """Return what is billed of a run of several pods that has begun, without its end: from when the last of them was there."""
    return meter_since(record.lease, record.suspends, max(_main(pod, "startedAt") for pod in seen.ranks.values()))


def _main(pod: Document, name: str) -> datetime:
    """A time of the program's container; that of the pod's making if it has none."""
    main = standing.state_of(pod, "containerStatuses", "main")
    return moment(main.get(name) or pod["metadata"]["creationTimestamp"])


def is_over(record: Record, seen: Seen) -> bool:
    """Whether nothing of the run lives any more."""
    if record.size == 1 or not seen.ranks:
        return standing.is_over(record, seen)
    if not all(standing.is_over(record, replace(seen, pod=pod)) for pod in seen.ranks.values()):
        return False
    return len(seen.ranks) == record.size or standing.is_over(record, replace(seen, pod=None))


def ended(record: Record, seen: Seen, now: datetime) -> End:
    """Return the end of a run that is over."""
    if record.size == 1 or not seen.ranks:
        return standing.ended(record, seen, now)
    uid = record.job_uid or record.uid
    if not has_begun(record, seen):
        run = standing.unstarted(record, replace(seen, pod=min(seen.ranks.values(), key=_silence)), now)
        return End(replace(run, uid=uid, meter=()), delivered=False)
    ends = {rank: standing.ended(record, replace(seen, pod=pod), now) for rank, pod in sorted(seen.ranks.items())}
    rank = _telling(record, seen, ends)
    chosen, first_end = ends[rank], ends[min(ends)]
    at = max(end.run.at for end in ends.values())
    states = [standing.state_of(pod, "containerStatuses", "main") for pod in seen.ranks.values()]
    evidence: Evidence = "engine" if all(state.get("finishedAt") for state in states) else "observed"
    evidence = "estimated" if any(map(standing.is_estimated, states)) else evidence
    meter = meter_of(record, seen)
    stop = fact("STOP", max(at, moment_of(meter[-1])), {}, evidence)
    run = replace(
        first_end.run,
        phase=chosen.run.phase,
        reason=_reason(rank, chosen.run.reason) if chosen.run.phase is Phase.FAILED else chosen.run.reason,
        exit_code=chosen.run.exit_code,
        uid=uid,
        at=at,
        meter=(*meter, stop),
    )
    notes: dict[str, dict[str, Any]] = {}
    for end in ends.values():
        notes = {**end.notes, **notes}
    return End(run, notes, first_end.checkpoint, delivered=first_end.delivered)


def _silence(pod: Document) -> tuple[bool, bool, bool, bool]:
    """Order the pods of a run that never began: one that could not be prepared, started or kept says why; others ended for it."""
    deleted = bool(pod["metadata"].get("deletionTimestamp"))
    return not standing.has_words(pod), not standing.cannot_begin(pod), not standing.was_turned_away(pod), deleted


def moment_of(fact: MeterFact) -> datetime:
    """Return when a fact took effect."""
    return datetime.fromtimestamp(fact.effective_at, UTC)


def _telling(record: Record, seen: Seen, ends: Mapping[int, End]) -> int:
    """Return the part whose end is the run's: the first that failed by itself, or, after an order, the first that obeyed."""
    bad = [rank for rank, end in ends.items() if end.run.phase is not Phase.SUCCEEDED]
    if not bad:
        return min(ends)
    if record.order is not None:
        ordered = STATES[ORDERED[record.order.why][0]]
        return min(bad, key=lambda rank: (ends[rank].run.phase is not ordered, rank))

    def place(rank: int) -> tuple[bool, datetime, str, int]:
        pod, run = seen.ranks[rank], ends[rank].run
        was_stopped = standing.was_stopped(pod) and run.phase is not Phase.PREEMPTED
        return was_stopped, run.at, standing.finished_text(pod), rank

    return min(bad, key=place)


def _reason(rank: int, reason: Reason | None) -> Reason:
    """Name the part in a reason."""
    given = reason or reason_of("script.exit")
    message = f"part {rank}: {given.message}".removesuffix(": ")
    return reason_of(given.code, message[:1000], {**given.detail, "rank": rank})


def is_late(since: datetime | None, seconds: int, now: datetime) -> bool:
    """Whether something that began *since* lasts too long."""
    return since is not None and now - since > timedelta(seconds=seconds)

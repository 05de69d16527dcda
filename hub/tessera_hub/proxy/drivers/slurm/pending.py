"""Slurm's own reasons for waiting, as ours. Source: squeue(1), "JOB REASON CODES", 22.05 to 25.05."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

from tessera_hub.proxy.drivers.outcome import reason_of
from tessera_hub.proxy.drivers.slurm.jobs import Job
from tessera_hub.schemas.reasons import Reason

TABLE: Final = (
    (
        r"None|Cleaning|Prolog|NodeConfig\w*|PowerNotAvail|PowerReserved|StageInPending|BurstBuffer\w*|FrontEndDown",
        "cluster.waiting",
    ),
    (r"Priority|Fragmentation|SchedDefer", "cluster.queued"),
    (r"Resources|Licenses|NetworkQuota|OverlapReservation", "capacity.no_free_node"),
    (r"Reservation|ReservationDeleted|ReservedForMaintenance|BackfillReserved", "capacity.reserved"),
    (r"\w*(MaxWall|TimeLimit)\w*", "never.time_limit"),
    (r"PartitionNodeLimit|\w*Max\w*(NodePerJob|NodePerUserJob|NodePerJobLimit)\w*|QOSMaxNodeMinutes\w*", "never.gang_too_large"),
    (
        r"BadConstraints|ReqNodeNotFound|AccountNotAllowed|QOSNotAllowed|PartitionConfig|InvalidConstraints|NodeNotFound",
        "never.too_large",
    ),
    (
        r"\w*Max(Cpu|CPU|GRES|Memory|BB|Billing)PerJob\w*|\w*Max(Cpu|GRES|Mem)PerNode\w*|\w*Min(Cpus|GRES|Memory|Billing)\w*",
        "never.exceeds_limit",
    ),
    (
        r"InvalidAccount|InvalidQOS|AssociationNotFound|AccountingPolicy|SystemFailure|JobLaunchFailure|NonZeroExitCode|RaisedSignal:.*",
        "cluster.refused",
    ),
    (r"QOS\w*|Assoc\w*|Association\w*|JobArrayTaskLimit|Max\w*PerAccount", "quota.native"),
    (
        r"ReqNodeNotAvail.*|NodeDown|Nodes_required_for_job_are_DOWN.*|PartitionDown|PartitionInactive|NoReservation|Node\w*Fail\w*",
        "cluster.nodes_down",
    ),
    (
        r"JobHeld\w*|JobHoldMaxRequeue|job_requeued_in_held_state|launch_failed_requeued_held|UserHold|AdminHold|Held",
        "cluster.held",
    ),
    (r"BeginTime", "policy.not_before"),
    (r"Dependency\w*", "cluster.waiting"),
)
"""Pattern of Slurm's word (whole word) → our code; the first that matches counts."""
_COMPILED: Final = tuple((re.compile(pattern), code) for pattern, code in TABLE)


def code_of(native: str, *, cards: bool) -> str:
    """Return our code for one of Slurm's reasons; *cards*: whether the job asks for any."""
    word = (
        re.sub(r"[\s(].*", "", native.strip().replace(" ", "_"))
        if not native.startswith("Nodes required")
        else native.replace(" ", "_")
    )
    found = next((code for pattern, code in _COMPILED if pattern.fullmatch(word)), "cluster.waiting")
    return "capacity.no_free_cards" if found == "capacity.no_free_node" and cards and word == "Resources" else found


def pending_reason(job: Job, *, cards: bool) -> Reason:
    """Return why a job waits, with Slurm's word and, where its scheduler has one, the expected start."""
    native = job.words if job.words.startswith("Nodes required") else job.reason or "None"
    detail: dict[str, Any] = {"native": native, "job": job.job_id, "partition": job.partition}
    if job.start:
        detail["expected_start"] = datetime.fromtimestamp(job.start, UTC).isoformat()
    return reason_of(code_of(native, cards=cards), "", detail)

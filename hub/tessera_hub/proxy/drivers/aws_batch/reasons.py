"""What Batch says of a job that waits or has failed, as our reasons.

Source: AWS Batch User Guide, "Jobs stuck in a RUNNABLE status" and "Troubleshooting"; ECS Developer Guide, "Stopped tasks error
messages".
"""

from __future__ import annotations

import re
from typing import Final

from tessera_hub.proxy.drivers.aws_batch.jobs import Job
from tessera_hub.proxy.drivers.outcome import reason_of
from tessera_hub.schemas.reasons import Reason

WAITING: Final = (
    ("CAPACITY:", "capacity.no_free_node"),
    ("MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE", "quota.native"),
    ("MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT", "never.too_large"),
    ("MISCONFIGURATION:SERVICE_ROLE_PERMISSIONS", "cluster.refused"),
    ("MISCONFIGURATION:", "cluster.held"),
    ("ACTION_REQUIRED", "cluster.held"),
    ("UNDETERMINED", "cluster.waiting"),
)
"""Beginning of a RUNNABLE job's ``statusReason`` → reason code."""
STATES: Final = {
    "SUBMITTED": "cluster.waiting",
    "PENDING": "cluster.waiting",
    "RUNNABLE": "cluster.queued",
    "STARTING": "cluster.starting",
}
LOST_HOST: Final = re.compile(r"^Host EC2 .*terminated|spot|SpotInterruption|instance .*(terminated|stopped)", re.IGNORECASE)
TIMED_OUT: Final = re.compile(r"attempt duration exceeded timeout", re.IGNORECASE)
_STARTS: Final = (
    (re.compile(r"CannotPull|ImageNotFound|pull access denied|manifest .*not found", re.IGNORECASE), "cluster.image"),
    (re.compile(r"ResourceInitializationError|CannotCreateVolume|VolumeError", re.IGNORECASE), "cluster.volume"),
)
_MEMORY: Final = re.compile(r"OutOfMemory", re.IGNORECASE)
_ENGINE: Final = re.compile(r"^Essential container in task exited$|^$")


def waiting_reason(job: Job) -> Reason:
    """Return why a job has not begun."""
    if job.status == "RUNNABLE":
        for beginning, code in WAITING:
            if job.status_reason.startswith(beginning):
                return reason_of(code, job.status_reason[:1000])
    return reason_of(STATES.get(job.status, "cluster.starting"), job.status_reason[:1000])


def lost_its_host(job: Job) -> bool:
    """Whether its instance was taken away, as happens to spot instances."""
    return bool(LOST_HOST.search(job.status_reason) or LOST_HOST.search(job.container_reason))


def ran_out_of_memory(job: Job) -> bool:
    """Whether the kernel ended it at its container's limit."""
    return bool(_MEMORY.search(job.container_reason))


def was_timed_out(job: Job) -> bool:
    """Whether Batch ended it at its timeout."""
    return bool(TIMED_OUT.search(job.status_reason))


def was_ended_by_somebody(job: Job) -> bool:
    """Whether ``statusReason`` is what somebody said who cancelled or terminated it."""
    return (
        not _ENGINE.search(job.status_reason) and not was_timed_out(job) and not lost_its_host(job) and not job.container_reason
    )


def start_failure(job: Job) -> Reason:
    """Return why a container never ran the courier."""
    words = job.container_reason or job.status_reason
    for pattern, code in _STARTS:
        if pattern.search(words):
            return reason_of(code, words[:1000])
    return reason_of("cluster.start_failed", words[:1000], {"exit_code": job.exit_code})

"""The states of Volcano's objects. Source: volcano.sh/apis, ``batch/v1alpha1`` and ``scheduling/v1beta1``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


class JobPhase(StrEnum):
    """Phases of a Job."""

    PENDING = "Pending"
    ABORTING = "Aborting"
    ABORTED = "Aborted"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    COMPLETING = "Completing"
    COMPLETED = "Completed"
    TERMINATING = "Terminating"
    TERMINATED = "Terminated"
    FAILED = "Failed"

    @property
    def final(self) -> bool:
        """Whether nothing can follow; an aborted job can be resumed."""
        return self in _FINAL


_FINAL: Final = frozenset({JobPhase.COMPLETED, JobPhase.FAILED, JobPhase.TERMINATED})


class PodGroupPhase(StrEnum):
    """Phases of a PodGroup."""

    PENDING = "Pending"
    INQUEUE = "Inqueue"
    RUNNING = "Running"
    UNKNOWN = "Unknown"
    COMPLETED = "Completed"


@dataclass(frozen=True, slots=True)
class JobState:
    """A Job's status, with what is absent as zero. ``phase`` None: the controller has not seen the job yet."""

    phase: JobPhase | None = None
    reason: str = ""
    message: str = ""
    pending: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    terminating: int = 0
    retries: int = 0
    since: str | None = None


def job_state(document: Mapping[str, Any]) -> JobState:
    """Return the state of a Job; a phase that we do not know reads as not seen yet."""
    status = document.get("status") or {}
    state = status.get("state") or {}
    name = state.get("phase")
    return JobState(
        phase=JobPhase(name) if name in set(JobPhase) else None,
        reason=str(state.get("reason") or ""),
        message=str(state.get("message") or ""),
        pending=int(status.get("pending") or 0),
        running=int(status.get("running") or 0),
        succeeded=int(status.get("succeeded") or 0),
        failed=int(status.get("failed") or 0),
        terminating=int(status.get("terminating") or 0),
        retries=int(status.get("retryCount") or 0),
        since=state.get("lastTransitionTime"),
    )

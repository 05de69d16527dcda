"""What a run is at AWS: the request that submits it, and what a job's description says. Pure.

A run is one job of one attempt. Its command is a constant, its variables are one signed address, its names are made of ids:
nothing of a person's own text reaches Batch. Everything else comes to the container by the courier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

from tessera_hub.proxy.drivers.aws_batch.boot import BOOT, VARIABLE
from tessera_hub.proxy.drivers.aws_batch.options import AwsBatchOptions
from tessera_hub.proxy.drivers.aws_batch.record import Record
from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.schemas.protocol import Lease
from tessera_hub.schemas.resources import CENTI_CARDS_PER_CARD, CardMode

WALL_SLACK_SECONDS: Final = 600
SHORTEST_SECONDS: Final = 60
"""Batch takes no shorter timeout."""
MEMORY_SLACK_MIB: Final = 768
"""Above what was asked for: the runner ends a run at its limit and tells so, and the courier needs some for itself."""
FARGATE: Final = (
    (250, (512, 1024, 2048)),
    (500, tuple(range(1024, 4096 + 1, 1024))),
    (1000, tuple(range(2048, 8192 + 1, 1024))),
    (2000, tuple(range(4096, 16384 + 1, 1024))),
    (4000, tuple(range(8192, 30720 + 1, 1024))),
    (8000, tuple(range(16384, 61440 + 1, 4096))),
    (16000, tuple(range(32768, 122880 + 1, 8192))),
)
"""Millicores → memory in MiB that Fargate offers. Source: Batch's API reference, "ResourceRequirement"."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as Batch describes it; times by Batch's clock."""

    job_id: str
    status: str
    status_reason: str = ""
    container_reason: str = ""
    exit_code: int | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    stopped_at: datetime | None = None
    log_stream: str | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Read a description of ``DescribeJobs``."""
        container = document.get("container") or {}
        code = container.get("exitCode")
        return cls(
            job_id=str(document["jobId"]),
            status=str(document["status"]),
            status_reason=str(document.get("statusReason") or ""),
            container_reason=str(container.get("reason") or ""),
            exit_code=code if type(code) is int else None,
            created_at=_moment(document.get("createdAt")),
            started_at=_moment(document.get("startedAt")),
            stopped_at=_moment(document.get("stoppedAt")),
            log_stream=container.get("logStreamName"),
        )

    @property
    def is_over(self) -> bool:
        """Whether its container is gone, or never will be."""
        return self.status in ("SUCCEEDED", "FAILED")


def _moment(milliseconds: Any) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


def job_name(record: Record, options: AwsBatchOptions) -> str:
    """Return the name by which a run's job is found again: of the run and its lease."""
    return f"{options.prefix}-{record.lease.run_id}-{record.mark}"


def queue_of(lease: Lease, options: AwsBatchOptions) -> str:
    """Return the job queue of a lease."""
    return options.spot_queue if lease.spec.preemptible and options.spot_queue else options.queue


def submission(record: Record, options: AwsBatchOptions, settings_url: str, *, fargate: bool) -> dict[str, Any]:
    """Return the request that submits a run.

    Args:
        settings_url: signed address of what the courier is told.
        fargate: the job's queue runs it without instances of ours.

    Raises:
        DriverError: it can never run there.
    """
    lease = record.lease
    longest, grace = lease.spec.lifecycle.max_run_seconds, lease.spec.lifecycle.grace_seconds
    request: dict[str, Any] = {
        "jobName": job_name(record, options),
        "jobQueue": record.queue,
        "jobDefinition": options.environments[lease.spec.environment],
        "retryStrategy": {"attempts": 1},
        "containerOverrides": {
            "command": [options.python, "-I", "-c", BOOT],
            "environment": [{"name": VARIABLE, "value": settings_url}],
            "resourceRequirements": requirements(lease, fargate=fargate),
        },
        "tags": {"tessera:run": str(lease.run_id), "tessera:tenant": str(lease.tenant_id), "tessera:site": options.prefix},
    }
    if longest is not None:
        request["timeout"] = {"attemptDurationSeconds": max(longest + grace + WALL_SLACK_SECONDS, SHORTEST_SECONDS)}
    return request


def requirements(lease: Lease, *, fargate: bool) -> list[dict[str, str]]:
    """Return what a job asks for: whole processors on instances, one of the offered sizes on Fargate.

    Raises:
        DriverError: ``never.no_card_mode``, ``never.too_large``.
    """
    resources = lease.spec.roles[0].resources
    cpu, memory = resources.cpu_millicores, resources.memory_mib + resources.memory_mib // 10 + MEMORY_SLACK_MIB
    cards = resources.cards
    if fargate:
        if cards is not None:
            raise DriverError("never.no_card_class", "Fargate has no cards")
        for millicores, sizes in FARGATE:
            size = next((size for size in sizes if size >= memory), None)
            if millicores >= cpu and size is not None:
                return [{"type": "VCPU", "value": f"{millicores / 1000:g}"}, {"type": "MEMORY", "value": str(size)}]
        raise DriverError("never.too_large", f"Fargate has no container of {cpu} millicores and {memory} MiB")
    found = [{"type": "VCPU", "value": str(max(-(-cpu // 1000), 1))}, {"type": "MEMORY", "value": str(memory)}]
    if cards is not None:
        if cards.mode is not CardMode.WHOLE:
            raise DriverError("never.no_card_mode", "AWS Batch hands out whole cards")
        found.append({"type": "GPU", "value": str(cards.centi_cards // CENTI_CARDS_PER_CARD)})
    return found


def fault_of(definition: Mapping[str, Any]) -> str | None:
    """Return why a job definition is not fit for runs of people who are not trusted, None if it is.

    The container has to start as root, so that user code can be another user who cannot read the run's token; a role,
    privileges or a folder of the host would be user code's, too.
    """
    container = definition.get("containerProperties")
    if definition.get("type") != "container" or not container:
        return "it is not of type container"
    if container.get("user") not in (None, "", "root", "0", "0:0", "root:root"):
        return "its user is not root"
    if container.get("privileged"):
        return "it is privileged"
    if container.get("jobRoleArn"):
        return "it has a job role, which user code could use"
    if any((volume.get("host") or {}).get("sourcePath") for volume in container.get("volumes") or ()):
        return "it has a folder of the host"
    return None

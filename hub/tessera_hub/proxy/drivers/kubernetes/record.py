"""What the Proxy has written down about a run: annotations of its Secret, all that a Proxy reads which comes back.

``tessera.io/order``: the order to end it; ``tessera.io/suspends``: when it was stopped and continued; ``tessera.io/job``: the uid
of its job, so that one which is gone was taken away and not never made; ``tessera.io/gave-back``: why we ended it before it
began, to be placed anew; ``tessera.io/end``: how it ended, which stays when Kubernetes has forgotten the pod.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, cast

from tessera_hub.proxy.drivers.base import CancelReason, Evidence, MeterAction, MeterFact, NativeRun
from tessera_hub.proxy.drivers.kubernetes.objects import lease_of
from tessera_hub.proxy.drivers.kubernetes.options import END, ORDER
from tessera_hub.schemas.protocol import Lease
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.tasks import Phase, Progress

SUSPENDS: Final = "tessera.io/suspends"
JOB: Final = "tessera.io/job"
GAVE_BACK: Final = "tessera.io/gave-back"


@dataclass(frozen=True, slots=True)
class Order:
    """The order to end a run."""

    why: CancelReason
    grace_seconds: int
    at: datetime

    def document(self) -> dict[str, Any]:
        """As it is written down."""
        return {"why": self.why, "grace_seconds": self.grace_seconds, "at": self.at.isoformat()}


@dataclass(frozen=True, slots=True)
class End:
    """How a run ended, with all that is told of it afterwards."""

    run: NativeRun
    notes: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    checkpoint: int = 0
    delivered: bool = True
    """The courier has sent everything."""


@dataclass(frozen=True, slots=True)
class Record:
    """One run's Secret."""

    lease: Lease
    namespace: str
    name: str
    uid: str
    received_at: datetime
    job_uid: str | None = None
    order: Order | None = None
    suspends: tuple[tuple[str, datetime], ...] = ()
    end: End | None = None
    gave_back: str | None = None
    """Why we ended it before it began, so that it may be placed anew."""

    @property
    def size(self) -> int:
        """Pods of the run."""
        return 1 if self.lease.managed_by == "spawner" else self.lease.spec.roles[0].replicas

    @property
    def is_suspended(self) -> bool:
        """Whether the last order of this kind was to stop."""
        return bool(self.suspends) and self.suspends[-1][0] == "suspended"


def parsed(secret: Mapping[str, Any]) -> Record:
    """Read a record.

    Raises:
        ValueError: the Secret is none of ours.
    """
    metadata = secret["metadata"]
    annotations = metadata.get("annotations") or {}
    lease = lease_of(secret)
    found = Record(
        lease=lease,
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        received_at=moment(metadata["creationTimestamp"]),
        job_uid=annotations.get(JOB),
        gave_back=annotations.get(GAVE_BACK),
    )
    try:
        if text := annotations.get(ORDER):
            order = json.loads(text)
            found = replace(found, order=Order(order["why"], int(order["grace_seconds"]), moment(order["at"])))
        if text := annotations.get(SUSPENDS):
            found = replace(found, suspends=tuple((str(state), moment(at)) for state, at in json.loads(text)))
        if text := annotations.get(END):
            found = replace(found, end=read_end(found, json.loads(text)))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{found.name}: {error!r}") from error
    return found


def end_document(end: End) -> dict[str, Any]:
    """Return the end as it is written down."""
    run = end.run
    return {
        "phase": run.phase.value,
        "uid": run.uid,
        "at": run.at.isoformat(),
        "native_id": run.native_id,
        "reason": None if run.reason is None else run.reason.model_dump(mode="json"),
        "exit_code": run.exit_code,
        "progress": None if run.progress is None else run.progress.model_dump(mode="json"),
        "meter": [[f.action, f.effective_at, f.observed_at, f.spec, f.evidence] for f in run.meter],
        "notes": dict(end.notes),
        "checkpoint": end.checkpoint,
        "delivered": end.delivered,
    }


def read_end(record: Record, document: Mapping[str, Any]) -> End:
    """Return the end of a run as it was written down."""
    facts = tuple(
        MeterFact(cast("MeterAction", action), effective, observed, dict(spec), cast("Evidence", evidence))
        for action, effective, observed, spec, evidence in document["meter"]
    )
    run = NativeRun(
        run_id=record.lease.run_id,
        lease=record.lease,
        phase=Phase(document["phase"]),
        uid=str(document["uid"]),
        at=moment(document["at"]),
        native_id=document["native_id"],
        reason=None if document["reason"] is None else Reason.model_validate(document["reason"]),
        exit_code=document["exit_code"],
        progress=None if document["progress"] is None else Progress.model_validate(document["progress"]),
        meter=facts,
        managed_by_spawner=record.lease.managed_by == "spawner",
    )
    return End(run, dict(document["notes"]), int(document["checkpoint"]), bool(document["delivered"]))


def moment(text: str) -> datetime:
    """Return a time of the API or of ours, in UTC."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)

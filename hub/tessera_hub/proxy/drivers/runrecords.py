"""What a driver has written down about a run whose engine may forget it: the order to end it, and how it ended.

For engines that keep no such thing themselves; the document lies wherever the driver's records lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self, cast

from tessera_hub.proxy.drivers.base import CancelReason, Evidence, MeterAction, MeterFact, NativeRun
from tessera_hub.schemas.protocol import Lease
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.tasks import Phase, Progress


@dataclass(frozen=True, slots=True)
class Order:
    """The order to end a run."""

    why: CancelReason
    grace_seconds: int
    at: datetime

    def document(self) -> dict[str, Any]:
        """As it is written down."""
        return {"why": self.why, "grace_seconds": self.grace_seconds, "at": self.at.isoformat()}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """Return it from what was written down.

        Raises:
            KeyError: it is none.
        """
        return cls(document["why"], int(document["grace_seconds"]), moment(document["at"]))


@dataclass(frozen=True, slots=True)
class End:
    """How a run ended, with all that is told of it afterwards."""

    run: NativeRun
    notes: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    checkpoint: int = 0
    delivered: bool = True
    """The courier has sent everything."""


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
        "meter": [[f.action, f.effective_at, f.observed_at, f.spec, f.evidence, f.subject] for f in run.meter],
        "notes": dict(end.notes),
        "checkpoint": end.checkpoint,
        "delivered": end.delivered,
    }


def read_end(lease: Lease, document: Mapping[str, Any]) -> End:
    """Return the end of a run as it was written down."""
    facts = tuple(
        MeterFact(cast("MeterAction", action), effective, observed, dict(spec), cast("Evidence", evidence), *subject)
        for action, effective, observed, spec, evidence, *subject in document["meter"]
    )
    run = NativeRun(
        run_id=lease.run_id,
        lease=lease,
        phase=Phase(document["phase"]),
        uid=str(document["uid"]),
        at=moment(document["at"]),
        native_id=document["native_id"],
        reason=None if document["reason"] is None else Reason.model_validate(document["reason"]),
        exit_code=document["exit_code"],
        progress=None if document["progress"] is None else Progress.model_validate(document["progress"]),
        meter=facts,
        managed_by_spawner=lease.managed_by == "spawner",
    )
    return End(run, dict(document["notes"]), int(document["checkpoint"]), bool(document["delivered"]))


def moment(text: str) -> datetime:
    """Return a time of the API or of ours, in UTC."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)

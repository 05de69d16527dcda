"""What the Proxy has written down about a run at AWS: one object of the bucket, all that a Proxy reads which comes back.

Batch forgets a job some days after its end, finds a job just made not always at once, and takes the same job twice: so the record
has the lease, the moment before each submit, the job's id, and when the engine says that it started.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import ValidationError

from tessera_hub.proxy.drivers.couriers import Suspends
from tessera_hub.proxy.drivers.runrecords import End, Order, end_document, moment, read_end
from tessera_hub.schemas.bounds import STORED
from tessera_hub.schemas.protocol import Lease

SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class Record:
    """One run's record.

    Attributes:
        asked_at: when a submit was begun whose outcome is not known; None: none was.
        queue: the job queue.
        started_at: when the job's container started, by the engine's clock; written down when it was seen.
    """

    lease: Lease
    queue: str
    received_at: datetime
    asked_at: datetime | None = None
    job_id: str | None = None
    started_at: datetime | None = None
    order: Order | None = None
    suspends: Suspends = ()
    end: End | None = None

    @property
    def mark(self) -> str:
        """What stands for the lease where its token must not be seen."""
        return hashlib.sha256(self.lease.lease_token.encode()).hexdigest()[:16]

    @property
    def uid(self) -> str:
        """What is metered: the job's id; before there is one, a name that no job has."""
        return self.job_id or f"unsubmitted-{self.lease.run_id}-{self.mark}"

    @property
    def is_suspended(self) -> bool:
        """Whether the last order of this kind was to stop."""
        return bool(self.suspends) and self.suspends[-1][0] == "suspended"

    def document(self) -> dict[str, Any]:
        """As it is written down."""
        return {
            "schema": SCHEMA,
            "lease": self.lease.model_dump(mode="json"),
            "queue": self.queue,
            "received_at": self.received_at.isoformat(),
            "asked_at": None if self.asked_at is None else self.asked_at.isoformat(),
            "job_id": self.job_id,
            "started_at": None if self.started_at is None else self.started_at.isoformat(),
            "order": None if self.order is None else self.order.document(),
            "suspends": [[state, at.isoformat()] for state, at in self.suspends],
            "end": None if self.end is None else end_document(self.end),
        }


def parsed(document: Mapping[str, Any]) -> Record:
    """Read a record.

    Raises:
        ValueError: the document is none of ours.
    """
    if document.get("schema") != SCHEMA:
        raise ValueError(f"a record is not of schema {SCHEMA}")
    try:
        found = Record(
            lease=Lease.model_validate(document["lease"], context=STORED),
            queue=str(document["queue"]),
            received_at=moment(document["received_at"]),
            asked_at=_time(document["asked_at"]),
            job_id=document["job_id"],
            started_at=_time(document["started_at"]),
            order=None if document["order"] is None else Order.read(document["order"]),
            suspends=tuple((str(state), moment(at)) for state, at in document["suspends"]),
        )
        return found if document["end"] is None else replace(found, end=read_end(found.lease, document["end"]))
    except (KeyError, TypeError, ValidationError) as error:
        raise ValueError(f"a record cannot be read: {error!r}") from error


def _time(text: str | None) -> datetime | None:
    return None if text is None else moment(text)


def now() -> datetime:
    """Return our clock's time in whole seconds, as it is told."""
    return datetime.now(UTC).replace(microsecond=0)

"""What the Proxy has written down about a run: annotations of its Secret, all that a Proxy reads which comes back.

``tessera.io/order``: the order to end it; ``tessera.io/suspends``: when it was stopped and continued; ``tessera.io/job``: the uid
of its job, so that one which is gone was taken away and not never made; ``tessera.io/gave-back``: why we ended it before it
began, to be placed anew; ``tessera.io/gave-up``: why, where that would be in vain; ``tessera.io/served``: when the pods of a
service began and ended; ``tessera.io/end``: how it ended, which stays when Kubernetes has forgotten the pod.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, cast

import structlog

from tessera_hub.proxy.drivers.base import Evidence, MeterAction
from tessera_hub.proxy.drivers.kubernetes.objects import NAMESPACES, SECRETS, lease_of
from tessera_hub.proxy.drivers.kubernetes.options import END, ORDER, RUN, SITE
from tessera_hub.proxy.drivers.runrecords import End, Order, moment, read_end
from tessera_hub.schemas.protocol import Lease
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.tasks import TaskKind
from volcano_client.collection import Collection
from volcano_client.transport import Transport

log = structlog.get_logger(__name__)

SUSPENDS: Final = "tessera.io/suspends"
JOB: Final = "tessera.io/job"
GAVE_BACK: Final = "tessera.io/gave-back"
GAVE_UP: Final = "tessera.io/gave-up"
SERVED: Final = "tessera.io/served"


@dataclass(frozen=True, slots=True)
class Served:
    """A fact of metering of one pod of a service."""

    action: MeterAction
    pod: str
    at: datetime
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Record:
    """One run's Secret."""

    lease: Lease
    namespace: str
    name: str
    uid: str
    received_at: datetime
    job_uid: str | None = None
    """Of its job, once that was made; of a Volcano job of several parts the name under which they claim, which ends with it."""
    order: Order | None = None
    suspends: tuple[tuple[str, datetime], ...] = ()
    end: End | None = None
    gave_back: str | None = None
    """Why we ended it before it began, so that it may be placed anew."""
    gave_up: Reason | None = None
    """Why we ended it before it began, for good."""
    served: tuple[Served, ...] = ()
    """Of a service, in the order in which it was seen; only ever added to."""

    @property
    def size(self) -> int:
        """Pods of the run."""
        return 1 if self.lease.managed_by == "spawner" else self.lease.spec.roles[0].replicas

    @property
    def is_service(self) -> bool:
        """Whether it runs until it is stopped."""
        return self.lease.spec.kind is TaskKind.SERVICE and self.lease.managed_by == "proxy"

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
            found = replace(found, order=Order.read(json.loads(text)))
        if text := annotations.get(SUSPENDS):
            found = replace(found, suspends=tuple((str(state), moment(at)) for state, at in json.loads(text)))
        if text := annotations.get(GAVE_UP):
            found = replace(found, gave_up=Reason.model_validate_json(text))
        if text := annotations.get(SERVED):
            found = replace(found, served=served_of(text))
        if text := annotations.get(END):
            found = replace(found, end=read_end(lease, json.loads(text)))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{found.name}: {error!r}") from error
    return found


def all_records(transport: Transport, prefix: str) -> list[Record]:
    """Return the records in all namespaces of a prefix that can be read.

    Raises:
        ClusterApiError: refused or unreachable.
    """
    found: list[Record] = []
    secrets = Collection(transport, SECRETS)
    for namespace in Collection(transport, NAMESPACES).list(labels=f"{SITE}={prefix}"):
        name = namespace["metadata"]["name"]
        for secret in secrets.list(name, labels=f"{SITE}={prefix},{RUN}"):
            try:
                found.append(parsed(secret))
            except ValueError as error:
                log.warning("record_unreadable", secret=f"{name}/{secret['metadata']['name']}", error=str(error))
    return found


def served_text(served: Sequence[Served]) -> str:
    """Return the facts as they are written down."""
    return json.dumps([[one.action, one.pod, int(one.at.timestamp()), one.evidence] for one in served])


def served_of(text: str) -> tuple[Served, ...]:
    """Read them.

    Raises:
        ValueError, TypeError: they are none.
    """
    return tuple(
        Served(cast("MeterAction", action), str(pod), datetime.fromtimestamp(at, UTC), cast("Evidence", evidence))
        for action, pod, at, evidence in json.loads(text)
    )

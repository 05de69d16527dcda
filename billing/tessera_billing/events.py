"""What a meter reports about one metered object."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tessera_billing import dimensions
from tessera_billing.errors import BillingError

NAMESPACE = uuid.UUID("7e5567ab-1c5e-5d2b-9f0e-6d65746572a1")
LARGEST_AMOUNT = 2**53
LATEST_TIME = 2**36
AHEAD_S = 86_400
"""An event may be effective this long after it was observed; more means a broken clock."""


class Action(StrEnum):
    """What happened. The spec of an event is what is held from then on."""

    START = "START"
    """The object lives; ``spec`` is what it holds. A second START of a subject counts as SPEC."""
    SPEC = "SPEC"
    """It holds something else."""
    PAUSE = "PAUSE"
    """It is suspended; ``spec`` is what it still holds meanwhile, usually nothing."""
    RESUME = "RESUME"
    """It goes on with ``spec``, or, if that is empty, with what it held before."""
    STOP = "STOP"
    """It is over."""
    HEARTBEAT = "HEARTBEAT"
    """It was seen alive. Changes no bill; bounds the guess if its STOP is lost."""


class Evidence(StrEnum):
    """How the effective time is known."""

    ENGINE = "engine"
    """The engine's own record: process start time, exit record, container status, accounting."""
    OBSERVED = "observed"
    """The observer's clock at the moment of seeing it."""
    ESTIMATED = "estimated"
    """A guess from the last sign of life; shown on the bill and replaced by anything better."""


@dataclass(frozen=True, slots=True)
class MeterEvent:
    """One event of one subject. Validated when made.

    Attributes:
        cluster: where it runs.
        subject: the engine's own unique id of the object (pod uid, ``pid@start``, Slurm job and submit time), never a name.
        action: what happened.
        effective_at: UTC seconds, when it happened, by the engine's clock.
        observed_at: UTC seconds, when the meter saw it.
        spec: dimension to integer amount; needed by START and SPEC, allowed with PAUSE and RESUME. Zeros are dropped.
        tenant, principal, task_id, run_id, queue, kind, mode: to whom and what it belongs; the bill takes those of the START.
        source: which meter saw it, such as ``local``, ``watch``, ``slurm``.
        evidence: how ``effective_at`` is known.

    Raises:
        BillingError: ``event.field``, ``event.time``, ``event.spec``, ``dimension.unknown``.
    """

    cluster: str
    subject: str
    action: Action
    effective_at: int
    observed_at: int
    tenant: str
    principal: str
    task_id: str
    kind: str
    queue: str
    spec: Mapping[str, int] = field(default_factory=dict, hash=False)
    run_id: str | None = None
    mode: str = "on-demand"
    source: str = "local"
    evidence: Evidence = Evidence.ENGINE

    def __post_init__(self) -> None:
        for name in ("cluster", "subject", "tenant", "principal", "task_id", "kind", "queue", "mode", "source"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value or "\0" in value:
                raise BillingError(
                    "event.field", "A meter event needs {name} as text, not {value}.", name=name, value=repr(value)
                )
        for name, kinds in (("action", Action), ("evidence", Evidence)):
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, kinds(value))
            except ValueError as error:
                raise BillingError(
                    "event.field",
                    "{value} is not the {name} of a meter event.",
                    "Use one of {allowed}.",
                    name=name,
                    value=repr(value),
                    allowed=", ".join(kinds),
                ) from error
        self._check_times()
        self._check_spec()

    def _check_times(self) -> None:
        for name in ("effective_at", "observed_at"):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value < LATEST_TIME:
                raise BillingError(
                    "event.time", "{name} must be whole seconds since 1970 in UTC, not {value}.", name=name, value=repr(value)
                )
        if self.effective_at > self.observed_at + AHEAD_S:
            raise BillingError(
                "event.time",
                "{subject} reports {action} for a time {ahead} s after it was seen.",
                "Check the clock of cluster {cluster}.",
                subject=self.subject,
                action=self.action,
                ahead=self.effective_at - self.observed_at,
                cluster=self.cluster,
            )

    def _check_spec(self) -> None:
        if not isinstance(self.spec, Mapping):
            raise BillingError(
                "event.spec", "The amounts of a meter event must be a mapping, not {value}.", value=repr(self.spec)
            )
        for dimension, amount in self.spec.items():
            dimensions.split(dimension)
            if type(amount) is not int or not 0 <= amount <= LARGEST_AMOUNT:
                raise BillingError(
                    "event.spec",
                    "The amount of {dimension} must be a whole number from 0 to 2**53, not {amount}.",
                    dimension=dimension,
                    amount=repr(amount),
                )
        spec = {dimension: amount for dimension, amount in sorted(self.spec.items()) if amount}
        if self.action in (Action.START, Action.SPEC) and not spec:
            raise BillingError("event.spec", "{action} must say what is held.", action=self.action)
        if self.action in (Action.STOP, Action.HEARTBEAT) and spec:
            raise BillingError("event.spec", "{action} cannot hold anything.", action=self.action)
        object.__setattr__(self, "spec", spec)

    def event_id(self) -> uuid.UUID:
        """Return the id that every observer of the same event computes.

        uuid5 of cluster, subject, action, hash of the spec and effective time: neither the time of seeing nor the observer
        counts, so a watch, a new listing and a second collector make one event. A guess is another event than the knowledge
        of the same thing, else the one that comes first would keep the other out.
        """
        said = [self.spec, "estimated"] if self.evidence is Evidence.ESTIMATED else self.spec
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        return uuid.uuid5(NAMESPACE, json.dumps([self.cluster, self.subject, self.action, digest, self.effective_at]))

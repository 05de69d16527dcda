"""Messages between a Proxy and its Manager (docs/explanation/protocol.md). Version 1."""

from __future__ import annotations

import operator
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, Field

from .bounds import MOST_DATASETS, DatasetName, printable
from .reasons import Reason
from .resources import Partition, ResourceVector, Strict
from .tasks import InputFile, Phase, Progress, TaskSpec

PROTOCOL_VERSION = 1


class Timers(Strict):
    """All timers of the protocol, in seconds; tests run them at a fiftieth."""

    sync_wait: float = 20.0
    suspect: float = 60.0
    unreachable: float = 180.0
    lost: float = 900.0
    lease_ack: float = 60.0
    session: float = 3600.0
    log_interval: float = 0.5
    usage_interval: float = 60.0


class SessionRequest(Strict):
    """A Proxy introduces itself."""

    agent_version: str
    protocol_version: int = PROTOCOL_VERSION
    instance: str
    """Random per process, for the audit only."""
    driver: str
    capabilities: list[str]
    """Of ``cards gang suspend preempt fraction logs queues shared_storage workspaces services``."""


class SessionAnswer(Strict):
    """The Proxy's session: ``epoch`` fences any older agent."""

    session_token: str
    epoch: int
    timers: Timers
    meter_checkpoint: str | None
    cluster: str


class NodeShape(Strict):
    """*count* nodes that look the same right now."""

    count: int = 1
    free_cpu: int
    free_memory: int
    cards: list[tuple[int, int]] = Field(default_factory=list)
    """Per card: free centi-cards, free MiB."""
    card_class: str | None = None


class Pool(Strict):
    """Equal nodes of a cluster."""

    name: str
    card_class: str | None = None
    vendor: str | None = None
    card_memory_mib: int | None = None
    card_modes: list[str] = Field(default_factory=list)
    partition: Partition | None = None
    """What its cards are divided into, when the mode is ``mig``; pools of one class differ by it."""
    total: ResourceVector
    free: ResourceVector
    foreign: ResourceVector = Field(default_factory=dict)
    """Used by work that is not ours."""
    shapes: list[NodeShape]
    simulated: bool = False
    node_group: str | None = None
    """Pools of the same group are the same nodes, once for each class of card in them: processors and memory, which all of
    them show, are there once. None: nodes of its own."""


class Dataset(Strict):
    """Data that runs at a cluster may read, as its operator declares it; how it is reached is the Proxy's own business."""

    description: Annotated[str, Field(max_length=500), AfterValidator(printable)] = ""
    tenants: Annotated[list[str], Field(max_length=10_000)] | None = None
    """Who may read it; None: every tenant that may use the cluster."""
    workspaces: Annotated[bool, Field(exclude_if=operator.not_)] = False
    """Whether the cluster's workspaces have it, too. Sent only where they do: an older service takes all others."""

    def is_open(self, tenant: str) -> bool:
        """Whether the runs of a tenant may read it."""
        return self.tenants is None or tenant in self.tenants


class Inventory(Strict):
    """What a cluster has."""

    pools: list[Pool]
    environments: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Environment name → how it exists here (``local path``, ``image``, …) and its kernels."""
    datasets: dict[DatasetName, Dataset] = Field(default_factory=dict, max_length=MOST_DATASETS, exclude_if=operator.not_)
    """Sent only where there are some: a service from before data sets takes all others."""
    prices: dict[str, int] = Field(default_factory=dict)
    """Optional own prices, nano-units per unit-hour by dimension."""
    shared_storage: str | None = None


class RunReport(Strict):
    """State of one run as the engine shows it."""

    run_id: UUID
    lease_token: str
    phase: Phase
    native_id: str | None = None
    reason: Reason | None = None
    claimed_by: str | None = None
    progress: Progress | None = None
    at: datetime


class SyncRequest(Strict):
    """Heartbeat, report and order in one: the answer is *desired minus reported*, so a lost answer heals itself."""

    epoch: int
    seq: int
    inventory_hash: str
    inventory: Inventory | None = None
    """Sent when its hash differs from the one the Manager acknowledged last."""
    runs: list[RunReport]
    queues_hash: str | None = None
    """Hash of the queues that the Proxy was told last; only one with the capability ``queues`` is told."""
    accept_max: Annotated[int, Field(ge=0)] = 100
    log_follow: list[UUID] = Field(default_factory=list)


class DesiredQueue(Strict):
    """One queue of the tree as an engine that has queues is to have it. Its parent comes before it."""

    path: str
    parent: str | None
    state: Literal["open", "closed", "draining"]
    priority: int
    limit: ResourceVector
    """Only what is limited."""
    deserved: ResourceVector
    guarantee: ResourceVector


class DesiredQueues(Strict):
    """All queues of the tenants that may use a cluster."""

    hash: str
    queues: list[DesiredQueue]


class Lease(Strict):
    """Start this run. The run's own token is good for its logs, blobs and claim only."""

    run_id: UUID
    task_id: UUID
    attempt: int
    lease_token: str
    run_token: str
    tenant: str
    tenant_id: int
    principal_id: int
    owner: str
    queue: str | None = None
    """Path of the task's queue."""
    spec: TaskSpec
    card_class: str | None = None
    managed_by: Literal["proxy", "spawner"] = "proxy"
    checkpoint: list[InputFile] = Field(default_factory=list)
    """What the last attempt left in its checkpoint directory, by path below it."""


class Cancel(Strict):
    """End this run, with its grace period."""

    run_id: UUID
    lease_token: str | None
    why: Literal["cancel", "stale", "preempt", "limit"]
    grace_seconds: int = 30


class SyncAnswer(Strict):
    """What to do now; empty lists mean nothing."""

    ack_seq: int
    inventory_hash: str | None
    """The last inventory the Manager holds."""
    leases: list[Lease] = Field(default_factory=list)
    cancels: list[Cancel] = Field(default_factory=list)
    suspends: list[UUID] = Field(default_factory=list)
    resumes: list[UUID] = Field(default_factory=list)
    forget: list[UUID] = Field(default_factory=list)
    """Finished runs whose end is stored: their local directory may be removed."""
    queues: DesiredQueues | None = None
    """Where they differ from what the Proxy was told last."""
    next_wait: float


EventKind = Literal["phase", "progress", "note", "claim"]


class RunEvent(Strict):
    """Something that happened to a run. ``event_id`` makes a repeat harmless."""

    event_id: UUID
    run_id: UUID
    lease_token: str
    kind: EventKind
    phase: Phase | None = None
    reason: Reason | None = None
    exit_code: int | None = None
    native_id: str | None = None
    progress: Progress | None = None
    detail: dict[str, Any] = Field(default_factory=dict)
    at: datetime


class EventsRequest(Strict):
    """A batch of events, in any order."""

    epoch: int
    events: list[RunEvent] = Field(max_length=1000)


class EventsAnswer(Strict):
    """Verdict per event id."""

    results: dict[UUID, Literal["accepted", "duplicate", "stale"]]


class MeterReport(Strict):
    """One event for the ledger; the service adds tenant, task and owner from the run."""

    run_id: UUID
    subject: str
    action: Literal["START", "SPEC", "PAUSE", "RESUME", "STOP", "HEARTBEAT"]
    effective_at: int
    observed_at: int
    spec: ResourceVector
    source: str
    evidence: str = ""


class MeteringRequest(Strict):
    """Object events and the new checkpoint of the watch; both commit together."""

    epoch: int
    checkpoint: str
    events: list[MeterReport] = Field(max_length=5000)


class MeteringAnswer(Strict):
    """What the ledger took."""

    accepted: int
    duplicate: int
    checkpoint: str


class ClaimRequest(Strict):
    """A runner asks to be the one that starts user code."""

    lease_token: str
    who: str


class UsageSample(Strict):
    """Measured use of a run over an interval."""

    run_id: UUID
    at: datetime
    cpu_millicores: int
    memory_mib: int


class UsageRequest(Strict):
    """Append-only samples."""

    epoch: int
    samples: list[UsageSample] = Field(max_length=5000)

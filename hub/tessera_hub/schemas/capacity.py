"""What is free, what it costs and what would happen: the data behind forms and dialogs."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from .reasons import Reason
from .resources import Partition, Resources, ResourceVector, Strict
from .tasks import QueuePosition


class CardCapacity(Strict):
    """Cards of one class in one pool."""

    card_class: str
    vendor: str
    memory_mib: int
    """Of one card."""
    total_centi_cards: int
    free_centi_cards: int
    whole_cards_free: int
    largest_share_centi_cards: int
    modes: list[str]
    partition: Partition | None = None
    """What the cards are divided into, when the mode is ``mig``: only that can be asked for."""
    nano_per_card_hour: int | None = None
    nano_per_mib_hour: int | None = None


class ClusterCapacity(Strict):
    """One compute centre as a submitter sees it."""

    name: str
    kind: str
    state: Literal["ok", "suspect", "unreachable", "draining", "never_connected"]
    workspaces: bool
    gang: bool = False
    """Whether it runs tasks of several nodes, all of them or none."""
    services: bool = False
    """Whether it keeps tasks of kind ``service`` running."""
    last_contact: datetime | None
    cards: list[CardCapacity]
    free: ResourceVector
    total: ResourceVector
    waiting_tasks: int
    eta_seconds_p50: int | None = None


class Environment(Strict):
    """A named software environment and where it exists."""

    name: str
    title: str
    description: str
    digest: str
    clusters: list[str]
    kernels: list[str] = Field(default_factory=list)


class DatasetPlace(Strict):
    """A cluster that has a data set."""

    cluster: str
    tenants: list[str]
    """Those of the caller's tenants that may read it there."""
    workspaces: bool
    """Whether workspaces have it there, too, and not only jobs and services."""


class DatasetView(Strict):
    """A data set that the caller's tenants may read, and where it is; its path in a run is ``$TESSERA_DATASETS/<name>``."""

    name: str
    description: str
    clusters: list[str]
    places: list[DatasetPlace] = Field(default_factory=list)
    """The same clusters, each with who may read it there and how."""


class QuotaLine(Strict):
    """One dimension of a queue: ``limit`` None means unlimited."""

    dimension: str
    used: int
    limit: int | None
    guarantee: int = 0
    deserved: int = 0


class Queue(Strict):
    """A node of the queue tree; a tenant is the root of a tree."""

    id: int
    path: str
    tenant: str
    parent: str | None
    state: Literal["open", "closed", "draining"]
    policy: str
    priority: int
    quota: list[QuotaLine]
    waiting_tasks: int = 0
    running_tasks: int = 0


class Estimate(Strict):
    """Answer to *what would this cost and when would it start*, by the same code that bills and schedules."""

    currency: str
    nano_per_hour: int
    low_micro: int | None
    high_micro: int | None
    seconds_low: int | None
    seconds_high: int | None
    quota_after: list[QuotaLine]
    verdict: Literal["now", "wait", "never"]
    reasons: list[Reason]
    position: QueuePosition | None = None
    clusters: list[str]
    """Where it would fit, best first."""


class ResourcePreset(Strict):
    """A ready choice of the form."""

    name: str
    title: str
    resources: Resources


class Me(Strict):
    """The caller, as the service sees them."""

    name: str
    admin: bool
    tenants: list[str]
    default_tenant: str | None
    scopes: list[str]
    currency: str
    single_person: bool
    server_time: datetime

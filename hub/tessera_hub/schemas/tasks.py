"""Tasks (what a person submits) and runs (one attempt of a task on one cluster)."""

from __future__ import annotations

import operator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, Field, JsonValue, ValidationInfo, field_validator, model_validator

from tessera_hub.i18n import gettext as _

from .bounds import (
    MOST_READ,
    DatasetName,
    LabelName,
    LabelValue,
    Name,
    SecretReference,
    check_arguments,
    check_parameters,
    check_variables,
    checked_path,
    is_stored,
    printable,
)
from .reasons import Reason
from .resources import Framework, Resources, ResourceVector, Strict

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class TaskKind(StrEnum):
    """What is run. ``workspace`` is an interactive server started by JupyterHub."""

    NOTEBOOK = "notebook"
    SCRIPT = "script"
    TRAINING = "training"
    FINETUNE = "finetune"
    SERVICE = "service"
    WORKSPACE = "workspace"


SCRIPT_KINDS: Final = frozenset({TaskKind.SCRIPT, TaskKind.TRAINING, TaskKind.FINETUNE})
"""What runs a program from its start to its end; they differ in what people call them, for lists and bills."""
DEFAULT_PORT: Final = 8080
"""Where a service listens that names no port."""


class Phase(StrEnum):
    """Phases of a run; a task shows the phase of its latest run."""

    QUEUED = "QUEUED"
    RESERVED = "RESERVED"
    DISPATCHED = "DISPATCHED"
    PENDING = "PENDING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    UNKNOWN = "UNKNOWN"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    PREEMPTED = "PREEMPTED"

    @property
    def final(self) -> bool:
        """Whether nothing can follow."""
        return self in _FINAL


_FINAL = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED, Phase.PREEMPTED})


LONGEST_PLAN_DAYS: Final = 36_525
LONGEST_RUN_SECONDS: Final = 31_622_400


def _optional_path(path: str | None, info: ValidationInfo) -> str | None:
    return None if path is None else checked_path(path, info)


class InputFile(Strict):
    """One file of a snapshot; its bytes are a blob of the tenant's store, uploaded before the submit."""

    path: str
    sha256: Sha256
    size: Annotated[int, Field(ge=0)]
    mode: Annotated[int, Field(ge=0, le=0o777)] = 0o644

    _path = field_validator("path")(checked_path)


class Inputs(Strict):
    """What the task works on: a snapshot of files, or the live folder where cluster and workspace share storage."""

    kind: Literal["snapshot", "live"] = "snapshot"
    files: list[InputFile] = Field(default_factory=list, max_length=20_000)
    live_folder: str | None = None
    """Absolute folder of the person's own storage; accepted only where the cluster declares shared storage."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "live" and not self.live_folder:
            raise ValueError(_("live inputs need live_folder"))
        if self.kind == "snapshot" and self.live_folder:
            raise ValueError(_("live_folder goes with kind 'live'"))
        paths = {f.path for f in self.files}
        if len(paths) != len(self.files):
            raise ValueError(_("a path occurs twice in the snapshot"))
        for path in paths:
            if any(str(parent) in paths for parent in PurePosixPath(path).parents):
                raise ValueError(_("{path} lies below a path that is a file", path=repr(path)))
        return self


class Role(Strict):
    """A group of equal replicas; a single-process task has one role ``main``."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")] = "main"
    replicas: Annotated[int, Field(ge=1, le=10_000)] = 1
    minimum: Annotated[int, Field(ge=1)] | None = None
    """Fewest replicas that must start together; None: all."""
    resources: Resources = Field(default_factory=Resources)
    command: list[str] | None = Field(default=None, max_length=1000)
    """argv for kinds that run a command; None: what the kind runs by itself (the notebook, the script)."""


class Lifecycle(Strict):
    """How long and how often."""

    max_run_seconds: Annotated[int, Field(ge=1, le=LONGEST_RUN_SECONDS)] | None = None
    retries: Annotated[int, Field(ge=0, le=20)] = 0
    on_preemption: Literal["requeue", "fail"] = "requeue"
    on_lost: Literal["wait", "requeue"] = "wait"
    """``requeue`` may overlap with the lost run; see docs/explanation/protocol.md."""
    checkpoint_directory: str = "checkpoint"
    grace_seconds: Annotated[int, Field(ge=0, le=3600)] = 30

    _checkpoint = field_validator("checkpoint_directory")(checked_path)


class Schedule(Strict):
    """When the task enters the queue."""

    at: AwareDatetime | None = None
    """Not before this moment."""
    cron: Annotated[str, Field(max_length=200)] | None = None
    """Five fields of cron; goes with POST /schedules, not with POST /tasks."""
    time_zone: Annotated[str, Field(max_length=64)] = "UTC"
    """IANA name of the zone in which ``cron`` is read."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.at is not None and self.at > datetime.now(UTC) + timedelta(days=LONGEST_PLAN_DAYS):
            raise ValueError(_("'at' is at most {days} days away", days=LONGEST_PLAN_DAYS))
        if self.at is not None and self.cron is not None:
            raise ValueError(_("give either 'at' or 'cron'"))
        return self


class TaskDraft(Strict):
    """Everything a person decides about a task, before its files are gathered: enough for an estimate."""

    name: Name
    kind: TaskKind
    tenant: Name | None = None
    """Name of the tenant (hub group) that pays; None: the caller's only one."""
    queue: Name | None = None
    """Path of a queue below the tenant's root, ``research/vision``; None: the tenant's default queue."""
    priority: Annotated[int, Field(ge=0, le=100)] = 50
    preemptible: bool = False
    policy: Name | None = None
    """Placement policy that overrides the queue's: ``fifo``, ``most-idle``, ``lowest-price``."""
    clusters: list[Name] | None = Field(default=None, max_length=100)
    """Only these clusters; None: any."""
    environment: Name = "default"
    entry: str | None = None
    """Path of the notebook or script inside the inputs."""
    kernel: Name | None = None
    """Kernel name of a notebook; None: the one in its metadata."""
    port: Annotated[int, Field(ge=1024, le=65535)] | None = None
    """Where a service listens, told to it as ``TESSERA_PORT``; None: 8080."""
    parameters: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], JsonValue] = Field(
        default_factory=dict, max_length=200
    )
    variables: dict[str, str] = Field(default_factory=dict, max_length=200)
    """Environment variables of the run. Never secrets: reference those by ``secrets``."""
    secrets: dict[str, SecretReference] = Field(default_factory=dict, max_length=50)
    """Variable name → reference of a secret, resolved at the Proxy."""
    datasets: list[DatasetName] = Field(default_factory=list, max_length=MOST_READ, exclude_if=operator.not_)
    """Data sets that the run reads, at ``$TESSERA_DATASETS/<name>``; only clusters that have them all take it. Written only where
    there are some: what came before data sets reads all others."""
    inputs: Inputs = Field(default_factory=Inputs)
    output_folder: str | None = None
    """Folder of the workspace, relative to its root, where results are placed; None: beside the notebook."""
    _output_folder = field_validator("output_folder")(_optional_path)
    roles: list[Role] = Field(default_factory=lambda: [Role()], min_length=1, max_length=20)
    framework: Framework = "none"
    lifecycle: Lifecycle = Field(default_factory=Lifecycle)
    schedule: Schedule | None = None
    labels: dict[LabelName, LabelValue] = Field(default_factory=dict, max_length=50)

    @field_validator("name")
    @classmethod
    def _printable(cls, name: str, info: ValidationInfo) -> str:
        return name if is_stored(info) else printable(name)

    @field_validator("variables", "secrets")
    @classmethod
    def _variables(cls, values: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        check_variables(values, stored=is_stored(info))
        return values

    @field_validator("parameters")
    @classmethod
    def _parameters(cls, values: dict[str, JsonValue], info: ValidationInfo) -> dict[str, JsonValue]:
        if is_stored(info):
            return values
        if info.data.get("kind", TaskKind.NOTEBOOK) is not TaskKind.NOTEBOOK:
            check_arguments(values)
        return check_parameters(values)

    @model_validator(mode="after")
    def _roles(self) -> Self:
        if len({r.name for r in self.roles}) != len(self.roles):
            raise ValueError(_("roles: a name occurs twice"))
        if any(r.minimum is not None and r.minimum > r.replicas for r in self.roles):
            raise ValueError(_("roles: minimum is above replicas"))
        if self.kind is TaskKind.SERVICE and sum(r.replicas for r in self.roles) != 1:
            raise ValueError(_("roles: a service has one part"))
        if len(set(self.datasets)) != len(self.datasets):
            raise ValueError(_("datasets: a name occurs twice"))
        if self.port is not None and self.kind is not TaskKind.SERVICE:
            raise ValueError(_("port: only a service listens"))
        return self


class TaskSpec(TaskDraft):
    """A specification that can be submitted: what runs is there. Stored as given; never changed after the submit."""

    _entry_path = field_validator("entry")(_optional_path)

    @model_validator(mode="after")
    def _entry(self) -> Self:
        if self.kind is not TaskKind.WORKSPACE and not self.entry:
            raise ValueError(_("entry: name the notebook or script to run"))
        if self.kind is TaskKind.NOTEBOOK and self.entry and not self.entry.endswith(".ipynb"):
            raise ValueError(_("entry: a notebook's name ends with .ipynb; use kind 'script' for other files"))
        if self.entry and self.inputs.kind == "snapshot" and self.entry not in {f.path for f in self.inputs.files}:
            raise ValueError(_("entry: {name} is not among the files of the snapshot", name=repr(self.entry)))
        return self


class Money(Strict):
    """An amount in micro-units of a currency, as a decimal integer string-free int (1 CNY = 1,000,000)."""

    currency: str
    micro: int


class Progress(Strict):
    """How far a notebook or script is."""

    cells_done: int = 0
    cells_total: int | None = None
    current_cell: int | None = None
    note: str = ""
    address: str | None = None
    """Where a service answers, ``host:port``, for the tenant's own tasks on its cluster; None: not a service."""


class Run(Strict):
    """One attempt of a task on one cluster."""

    id: UUID
    task_id: UUID
    attempt: int
    phase: Phase
    cluster: str | None
    native_id: str | None = None
    reasons: list[Reason] = Field(default_factory=list)
    progress: Progress = Field(default_factory=Progress)
    exit_code: int | None = None
    queued_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    unknown_since: datetime | None = None


class QueuePosition(Strict):
    """Where a waiting task stands."""

    position: int
    ahead_tasks: int
    ahead_centi_cards: int = 0
    eta_seconds_p50: int | None = None
    eta_seconds_p90: int | None = None


class Accrual(Strict):
    """Live cost: ``micro`` at ``as_of``, then ``nano_per_hour`` until the next poll, so that a page ticks by itself."""

    currency: str
    micro: int
    nano_per_hour: int
    as_of: datetime


class Task(Strict):
    """A task as the API shows it."""

    id: UUID
    name: str
    kind: TaskKind
    owner: str
    tenant: str
    queue: str
    priority: int
    phase: Phase
    cancel_requested: bool = False
    cluster: str | None = None
    attempts: int
    reasons: list[Reason] = Field(default_factory=list)
    """All of them, ranked; the first is what a page shows."""
    position: QueuePosition | None = None
    progress: Progress = Field(default_factory=Progress)
    resources: ResourceVector
    cost: Accrual | None = None
    entry: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    run_id: UUID
    version: int
    """Grows with every change; the ETag of the task is made from it."""


class TaskDetail(Task):
    """A task with its specification and runs."""

    spec: TaskSpec
    runs: list[Run]


class TaskEvent(Strict):
    """One transition or note in a task's life."""

    id: UUID
    run_id: UUID
    at: datetime
    actor: str
    kind: str
    phase_from: Phase | None = None
    phase_to: Phase | None = None
    reason: Reason | None = None
    detail: dict[str, Any] = Field(default_factory=dict)


class OutputFile(Strict):
    """A file a run gave back."""

    path: str
    sha256: Sha256
    size: int
    mode: int = 0o644
    run_id: UUID


class TaskPage(Strict):
    """A page of tasks, newest first; ``next`` is the cursor of the following page."""

    items: list[Task]
    next: str | None = None


class Submitted(Strict):
    """Answer to one item of a batch submit: the task, or the problem."""

    task: Task | None = None
    problem: dict[str, Any] | None = None


class TaskBatch(Strict):
    """Many tasks in one call; each is accepted or refused on its own."""

    tasks: list[TaskSpec] = Field(min_length=1, max_length=1000)
    idempotency_keys: list[str] | None = None

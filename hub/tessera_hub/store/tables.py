"""The tables of the hub service.

Everything that is promised about money, quotas and single starts rests on the constraints here:

* a quota is one row per (queue node, dimension), taken by a conditional update on the node and its ancestors;
* a run holds at most one lease token, and only its holder may write its state;
* an event has a caller-made id, so that a repeat inserts nothing.

The ledger's tables are ``tessera_billing.tables``; both belong to the same Alembic history.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, MetaData, String, Text, UniqueConstraint, Uuid, false, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from .types import UNLIMITED, Json, Serial, UtcDateTime

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Base(DeclarativeBase):
    """Base of all mapped classes."""

    metadata = metadata
    type_annotation_map = {dict[str, Any]: Json, list[Any]: Json, datetime: UtcDateTime, UUID: Uuid, int: Serial}  # noqa: RUF012


class Principal(Base):
    """A person or program. A re-created hub user of the same name has another ``hub_created`` and inherits nothing."""

    __tablename__ = "principal"
    __table_args__ = (UniqueConstraint("issuer", "kind", "hub_name", "hub_created"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    issuer: Mapped[str] = mapped_column(String(255))
    kind: Mapped[str] = mapped_column(String(16))
    hub_name: Mapped[str] = mapped_column(String(255))
    hub_created: Mapped[str] = mapped_column(String(40))
    admin: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]


class Tenant(Base):
    """Who pays: a hub group with the property ``tessera.tenant``."""

    __tablename__ = "tenant"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    created_at: Mapped[datetime]


class Membership(Base):
    """Who belongs to which tenant, as the hub said at ``synced_at``."""

    __tablename__ = "membership"
    principal_id: Mapped[int] = mapped_column(ForeignKey("principal.id", ondelete="CASCADE"), primary_key=True)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenant.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str] = mapped_column(String(16), default="member")
    synced_at: Mapped[datetime]


class Queue(Base):
    """A node of the queue tree; the root of each tree is a tenant (``parent_id`` NULL, path = tenant's name)."""

    __tablename__ = "queue"
    __table_args__ = (
        UniqueConstraint("parent_id", "name"),
        CheckConstraint("state IN ('open','closed','draining')", name="state"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenant.id"), index=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("queue.id"))
    name: Mapped[str] = mapped_column(String(120))
    path: Mapped[str] = mapped_column(String(1000), unique=True)
    state: Mapped[str] = mapped_column(String(16), default="open")
    policy: Mapped[str] = mapped_column(String(40), default="fifo")
    priority: Mapped[int] = mapped_column(default=50)
    version: Mapped[int] = mapped_column(default=1)


class QueueDimension(Base):
    """Guarantee, deserved, limit and use of one dimension at one queue node.

    ``used`` is changed only by :mod:`tessera_hub.quota`, and ``used <= limit`` holds for every taking; lowering a limit
    below what is used is allowed and blocks new takings until enough is given back.
    """

    __tablename__ = "queue_dimension"
    __table_args__ = (CheckConstraint("used >= 0", name="used_not_negative"), CheckConstraint('"limit" >= 0', name="limit"))
    queue_id: Mapped[int] = mapped_column(ForeignKey("queue.id", ondelete="CASCADE"), primary_key=True)
    dimension: Mapped[str] = mapped_column(String(120), primary_key=True)
    guarantee: Mapped[int] = mapped_column(default=0)
    deserved: Mapped[int] = mapped_column(default=0)
    limit: Mapped[int] = mapped_column(default=UNLIMITED)
    used: Mapped[int] = mapped_column(default=0)


class Cluster(Base):
    """One compute centre and its Proxy's session."""

    __tablename__ = "cluster"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(63), unique=True)
    driver: Mapped[str] = mapped_column(String(32), default="")
    bootstrap_hash: Mapped[str] = mapped_column(String(64))
    session_hash: Mapped[str | None] = mapped_column(String(64))
    session_expires_at: Mapped[datetime | None]
    epoch: Mapped[int] = mapped_column(default=0)
    first_contact: Mapped[bool] = mapped_column(default=True)
    """True until the first sync of this epoch was answered: such a sync never deletes."""
    last_seq: Mapped[int] = mapped_column(default=0)
    last_contact_at: Mapped[datetime | None]
    state: Mapped[str] = mapped_column(String(20), default="never_connected")
    draining: Mapped[bool] = mapped_column(default=False)
    workspaces: Mapped[bool] = mapped_column(default=False)
    tenants: Mapped[list[Any] | None]
    """Names of tenants that may use it; NULL: all."""
    agent_version: Mapped[str] = mapped_column(String(40), default="")
    capabilities: Mapped[list[Any]] = mapped_column(default=list)
    accept_max: Mapped[int] = mapped_column(default=0)
    inventory: Mapped[dict[str, Any] | None]
    inventory_hash: Mapped[str] = mapped_column(String(64), default="")
    meter_checkpoint: Mapped[str | None] = mapped_column(Text)
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime]


class TaskRow(Base):
    """What was submitted. ``phase`` mirrors the latest run; ``version`` grows with every visible change."""

    __tablename__ = "task"
    __table_args__ = (
        UniqueConstraint("principal_id", "idempotency_key"),
        Index("ix_task_tenant_created", "tenant_id", "created_at", "id"),
        Index("ix_task_principal_created", "principal_id", "created_at", "id"),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(120))
    kind: Mapped[str] = mapped_column(String(16))
    principal_id: Mapped[int] = mapped_column(ForeignKey("principal.id"))
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenant.id"))
    queue_id: Mapped[int] = mapped_column(ForeignKey("queue.id"), index=True)
    priority: Mapped[int] = mapped_column(default=50)
    phase: Mapped[str] = mapped_column(String(16))
    spec: Mapped[dict[str, Any]]
    request: Mapped[dict[str, Any]]
    """Resource vector of the whole task, cards under their asked class or ``any``; for lists and totals."""
    server_name: Mapped[str | None] = mapped_column(String(255))
    """JupyterHub server of a workspace."""
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    idempotency_hash: Mapped[str | None] = mapped_column(String(64))
    not_before: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    cancel_why: Mapped[str | None] = mapped_column(String(20))
    suspend_requested: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Wish that the present run is held still; carried out by its cluster's Proxy."""
    run_id: Mapped[UUID]
    """The latest run."""
    attempts: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(default=1)


class RunRow(Base):
    """One attempt. Only :mod:`tessera_hub.tasks.machine` changes ``phase``."""

    __tablename__ = "run"
    __table_args__ = (
        UniqueConstraint("task_id", "attempt"),
        Index("ix_run_cluster_live", "cluster_id", "phase"),
        Index(
            "ix_run_queued",
            "queue_id",
            "queued_at",
            postgresql_where=text("phase = 'QUEUED'"),
            sqlite_where=text("phase = 'QUEUED'"),
        ),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True)
    task_id: Mapped[UUID] = mapped_column(ForeignKey("task.id"), index=True)
    queue_id: Mapped[int] = mapped_column(ForeignKey("queue.id"))
    attempt: Mapped[int]
    phase: Mapped[str] = mapped_column(String(16))
    phase_at: Mapped[datetime]
    cluster_id: Mapped[int | None] = mapped_column(ForeignKey("cluster.id"))
    card_class: Mapped[str | None] = mapped_column(String(80))
    charge: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """What this run holds of its queue path now; emptied in the transaction that gives it back."""
    lease_token: Mapped[str | None] = mapped_column(String(64))
    native_id: Mapped[str | None] = mapped_column(String(255))
    claimed_by: Mapped[str | None] = mapped_column(String(255))
    claimed_at: Mapped[datetime | None]
    reasons: Mapped[list[Any]] = mapped_column(default=list)
    progress: Mapped[dict[str, Any]] = mapped_column(default=dict)
    exit_code: Mapped[int | None]
    excluded: Mapped[list[Any]] = mapped_column(default=list)
    """Clusters or nodes that gave it back."""
    decision_id: Mapped[int | None] = mapped_column(ForeignKey("decision.id"), index=True)
    queued_at: Mapped[datetime]
    reserved_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    """Until when a workspace's reservation waits for its server."""
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    unknown_since: Mapped[datetime | None]
    phase_before_unknown: Mapped[str | None] = mapped_column(String(16))
    notebook_etag: Mapped[str | None] = mapped_column(String(64))


class WorkspaceActivity(Base):
    """When a workspace was last in use, by its own reports, and what its person was told and wished."""

    __tablename__ = "workspace_activity"
    run_id: Mapped[UUID] = mapped_column(ForeignKey("run.id"), primary_key=True)
    active_at: Mapped[datetime]
    warned_at: Mapped[datetime | None]
    kept_until: Mapped[datetime | None]


class RunChange(Base):
    """Outbox of the scheduler: ids of runs that entered, left or changed in the queue since the leader last looked.

    The leader deletes what it read in the transaction that reads it, so commits out of order are never missed (a
    counter column would miss them); a new leader loads everything afresh and empties the outbox.
    """

    __tablename__ = "run_change"
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[UUID]


class TaskEventRow(Base):
    """Every transition and note, with time, actor and reason. ``id`` is made by who reports it."""

    __tablename__ = "task_event"
    __table_args__ = (Index("ix_task_event_task_at", "task_id", "at"),)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    task_id: Mapped[UUID] = mapped_column(ForeignKey("task.id"))
    run_id: Mapped[UUID]
    at: Mapped[datetime]
    recorded_at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(255))
    kind: Mapped[str] = mapped_column(String(20))
    phase_from: Mapped[str | None] = mapped_column(String(16))
    phase_to: Mapped[str | None] = mapped_column(String(16))
    reason: Mapped[dict[str, Any] | None]
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)


class Decision(Base):
    """Explanation of a placement or a wait, shared by all runs of the same shape in the same cycle."""

    __tablename__ = "decision"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    epoch: Mapped[int]
    body: Mapped[dict[str, Any]]


class Leader(Base):
    """Who runs a singleton loop. ``epoch`` grows with every change of holder and fences the writes of the older one."""

    __tablename__ = "leader"
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    holder: Mapped[str] = mapped_column(String(120))
    epoch: Mapped[int]
    expires_at: Mapped[datetime]


class Blob(Base):
    """A content-addressed file of one tenant, possibly still arriving. Knowing a hash gives no access."""

    __tablename__ = "blob"
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenant.id"), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    size: Mapped[int]
    complete: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]


class RunOutput(Base):
    """A file a run gave back."""

    __tablename__ = "run_output"
    run_id: Mapped[UUID] = mapped_column(ForeignKey("run.id"), primary_key=True)
    path: Mapped[str] = mapped_column(String(1024), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int]
    mode: Mapped[int] = mapped_column(default=0o644)


class RunCheckpoint(Base):
    """A file that a run left in its checkpoint directory, for the next attempt of its task."""

    __tablename__ = "run_checkpoint"
    run_id: Mapped[UUID] = mapped_column(ForeignKey("run.id"), primary_key=True)
    path: Mapped[str] = mapped_column(String(1024), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int]
    mode: Mapped[int] = mapped_column(default=0o644)


class RecurringTask(Base):
    """A cron schedule: at each firing one task is submitted with key ``cron/<id>/<fire time>``."""

    __tablename__ = "recurring_task"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    principal_id: Mapped[int] = mapped_column(ForeignKey("principal.id"), index=True)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenant.id"))
    spec: Mapped[dict[str, Any]]
    cron: Mapped[str] = mapped_column(String(200))
    time_zone: Mapped[str] = mapped_column(String(64))
    enabled: Mapped[bool] = mapped_column(default=True)
    next_at: Mapped[datetime]
    last_task_id: Mapped[UUID | None]
    created_at: Mapped[datetime]


class UsageSampleRow(Base):
    """Measured use of a run, as reported by its Proxy."""

    __tablename__ = "usage_sample"
    run_id: Mapped[UUID] = mapped_column(ForeignKey("run.id"), primary_key=True)
    at: Mapped[datetime] = mapped_column(primary_key=True)
    cpu_millicores: Mapped[int]
    memory_mib: Mapped[int]

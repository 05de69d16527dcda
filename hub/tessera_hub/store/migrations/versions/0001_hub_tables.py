"""The hub's tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Text
from sqlalchemy.dialects import postgresql

import tessera_hub.store.types

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "cluster",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("driver", sa.String(length=32), nullable=False),
        sa.Column("bootstrap_hash", sa.String(length=64), nullable=False),
        sa.Column("session_hash", sa.String(length=64), nullable=True),
        sa.Column("session_expires_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=True),
        sa.Column("epoch", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("first_contact", sa.Boolean(), nullable=False),
        sa.Column("last_seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("last_contact_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=True),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("draining", sa.Boolean(), nullable=False),
        sa.Column("workspaces", sa.Boolean(), nullable=False),
        sa.Column("tenants", sa.JSON().with_variant(postgresql.JSONB(astext_type=Text()), "postgresql"), nullable=True),
        sa.Column("agent_version", sa.String(length=40), nullable=False),
        sa.Column("capabilities", sa.JSON().with_variant(postgresql.JSONB(astext_type=Text()), "postgresql"), nullable=False),
        sa.Column("accept_max", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("inventory", sa.JSON().with_variant(postgresql.JSONB(astext_type=Text()), "postgresql"), nullable=True),
        sa.Column("inventory_hash", sa.String(length=64), nullable=False),
        sa.Column("meter_checkpoint", sa.Text(), nullable=True),
        sa.Column("version", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("created_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cluster")),
        sa.UniqueConstraint("name", name=op.f("uq_cluster_name")),
    )
    op.create_table(
        "decision",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=False),
        sa.Column("epoch", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("body", sa.JSON().with_variant(postgresql.JSONB(astext_type=Text()), "postgresql"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decision")),
    )
    op.create_table(
        "leader",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("holder", sa.String(length=120), nullable=False),
        sa.Column("epoch", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("expires_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leader")),
    )
    op.create_table(
        "principal",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("issuer", sa.String(length=255), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("hub_name", sa.String(length=255), nullable=False),
        sa.Column("hub_created", sa.String(length=40), nullable=False),
        sa.Column("admin", sa.Boolean(), nullable=False),
        sa.Column("created_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_principal")),
        sa.UniqueConstraint(
            "issuer", "kind", "hub_name", "hub_created", name=op.f("uq_principal_issuer_kind_hub_name_hub_created")
        ),
    )
    op.create_table(
        "run_change",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_change")),
    )
    op.create_table(
        "tenant",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("created_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenant")),
        sa.UniqueConstraint("name", name=op.f("uq_tenant_name")),
    )
    op.create_table(
        "blob",
        sa.Column("tenant_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("created_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_blob_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("tenant_id", "sha256", name=op.f("pk_blob")),
    )
    op.create_table(
        "membership",
        sa.Column("principal_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("tenant_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("synced_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["principal_id"], ["principal.id"], name=op.f("fk_membership_principal_id_principal"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_membership_tenant_id_tenant"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("principal_id", "tenant_id", name=op.f("pk_membership")),
    )
    op.create_table(
        "queue",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("tenant_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("parent_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("path", sa.String(length=1000), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("policy", sa.String(length=40), nullable=False),
        sa.Column("priority", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("version", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.CheckConstraint("state IN ('open','closed','draining')", name=op.f("ck_queue_state")),
        sa.ForeignKeyConstraint(["parent_id"], ["queue.id"], name=op.f("fk_queue_parent_id_queue")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_queue_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_queue")),
        sa.UniqueConstraint("parent_id", "name", name=op.f("uq_queue_parent_id_name")),
        sa.UniqueConstraint("path", name=op.f("uq_queue_path")),
    )
    with op.batch_alter_table("queue", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_queue_tenant_id"), ["tenant_id"], unique=False)

    op.create_table(
        "recurring_task",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("principal_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("tenant_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("spec", sa.JSON().with_variant(postgresql.JSONB(astext_type=Text()), "postgresql"), nullable=False),
        sa.Column("cron", sa.String(length=200), nullable=False),
        sa.Column("time_zone", sa.String(length=64), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("next_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=False),
        sa.Column("last_task_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["principal_id"], ["principal.id"], name=op.f("fk_recurring_task_principal_id_principal")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_recurring_task_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_recurring_task")),
    )
    with op.batch_alter_table("recurring_task", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_recurring_task_principal_id"), ["principal_id"], unique=False)

    op.create_table(
        "queue_dimension",
        sa.Column("queue_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("dimension", sa.String(length=120), nullable=False),
        sa.Column("guarantee", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("deserved", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("limit", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("used", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.CheckConstraint('"limit" >= 0', name=op.f("ck_queue_dimension_limit")),
        sa.CheckConstraint("used >= 0", name=op.f("ck_queue_dimension_used_not_negative")),
        sa.ForeignKeyConstraint(["queue_id"], ["queue.id"], name=op.f("fk_queue_dimension_queue_id_queue"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("queue_id", "dimension", name=op.f("pk_queue_dimension")),
    )
    op.create_table(
        "task",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("principal_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("tenant_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("queue_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("priority", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("spec", sa.JSON().with_variant(postgresql.JSONB(astext_type=Text()), "postgresql"), nullable=False),
        sa.Column("request", sa.JSON().with_variant(postgresql.JSONB(astext_type=Text()), "postgresql"), nullable=False),
        sa.Column("server_name", sa.String(length=255), nullable=True),
        sa.Column("idempotency_key", sa.String(length=200), nullable=True),
        sa.Column("idempotency_hash", sa.String(length=64), nullable=True),
        sa.Column("not_before", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=True),
        sa.Column("cancel_why", sa.String(length=20), nullable=True),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("attempts", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("created_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=False),
        sa.Column("started_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=True),
        sa.Column("finished_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=True),
        sa.Column("version", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(["principal_id"], ["principal.id"], name=op.f("fk_task_principal_id_principal")),
        sa.ForeignKeyConstraint(["queue_id"], ["queue.id"], name=op.f("fk_task_queue_id_queue")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_task_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task")),
        sa.UniqueConstraint("principal_id", "idempotency_key", name=op.f("uq_task_principal_id_idempotency_key")),
    )
    with op.batch_alter_table("task", schema=None) as batch_op:
        batch_op.create_index("ix_task_principal_created", ["principal_id", "created_at", "id"], unique=False)
        batch_op.create_index(batch_op.f("ix_task_queue_id"), ["queue_id"], unique=False)
        batch_op.create_index("ix_task_tenant_created", ["tenant_id", "created_at", "id"], unique=False)

    op.create_table(
        "run",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("queue_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("attempt", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("phase_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=False),
        sa.Column("cluster_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("card_class", sa.String(length=80), nullable=True),
        sa.Column("charge", sa.JSON().with_variant(postgresql.JSONB(astext_type=Text()), "postgresql"), nullable=False),
        sa.Column("lease_token", sa.String(length=64), nullable=True),
        sa.Column("native_id", sa.String(length=255), nullable=True),
        sa.Column("claimed_by", sa.String(length=255), nullable=True),
        sa.Column("claimed_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=True),
        sa.Column("reasons", sa.JSON().with_variant(postgresql.JSONB(astext_type=Text()), "postgresql"), nullable=False),
        sa.Column("progress", sa.JSON().with_variant(postgresql.JSONB(astext_type=Text()), "postgresql"), nullable=False),
        sa.Column("exit_code", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("excluded", sa.JSON().with_variant(postgresql.JSONB(astext_type=Text()), "postgresql"), nullable=False),
        sa.Column("decision_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("queued_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=False),
        sa.Column("reserved_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=True),
        sa.Column("expires_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=True),
        sa.Column("started_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=True),
        sa.Column("finished_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=True),
        sa.Column("unknown_since", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=True),
        sa.Column("phase_before_unknown", sa.String(length=16), nullable=True),
        sa.Column("notebook_etag", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(["cluster_id"], ["cluster.id"], name=op.f("fk_run_cluster_id_cluster")),
        sa.ForeignKeyConstraint(["decision_id"], ["decision.id"], name=op.f("fk_run_decision_id_decision")),
        sa.ForeignKeyConstraint(["queue_id"], ["queue.id"], name=op.f("fk_run_queue_id_queue")),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name=op.f("fk_run_task_id_task")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run")),
        sa.UniqueConstraint("task_id", "attempt", name=op.f("uq_run_task_id_attempt")),
    )
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.create_index("ix_run_cluster_live", ["cluster_id", "phase"], unique=False)
        batch_op.create_index(
            "ix_run_queued",
            ["queue_id", "queued_at"],
            unique=False,
            postgresql_where=sa.text("phase = 'QUEUED'"),
            sqlite_where=sa.text("phase = 'QUEUED'"),
        )
        batch_op.create_index(batch_op.f("ix_run_task_id"), ["task_id"], unique=False)

    op.create_table(
        "task_event",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=False),
        sa.Column("recorded_at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=255), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("phase_from", sa.String(length=16), nullable=True),
        sa.Column("phase_to", sa.String(length=16), nullable=True),
        sa.Column("reason", sa.JSON().with_variant(postgresql.JSONB(astext_type=Text()), "postgresql"), nullable=True),
        sa.Column("detail", sa.JSON().with_variant(postgresql.JSONB(astext_type=Text()), "postgresql"), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name=op.f("fk_task_event_task_id_task")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task_event")),
    )
    with op.batch_alter_table("task_event", schema=None) as batch_op:
        batch_op.create_index("ix_task_event_task_at", ["task_id", "at"], unique=False)

    op.create_table(
        "run_output",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("path", sa.String(length=1024), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("mode", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_run_output_run_id_run")),
        sa.PrimaryKeyConstraint("run_id", "path", name=op.f("pk_run_output")),
    )
    op.create_table(
        "usage_sample",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("at", tessera_hub.store.types.UtcDateTime(timezone=True), nullable=False),
        sa.Column("cpu_millicores", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("memory_mib", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_usage_sample_run_id_run")),
        sa.PrimaryKeyConstraint("run_id", "at", name=op.f("pk_usage_sample")),
    )


def downgrade() -> None:
    op.drop_table("usage_sample")
    op.drop_table("run_output")
    with op.batch_alter_table("task_event", schema=None) as batch_op:
        batch_op.drop_index("ix_task_event_task_at")

    op.drop_table("task_event")
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_run_task_id"))
        batch_op.drop_index(
            "ix_run_queued", postgresql_where=sa.text("phase = 'QUEUED'"), sqlite_where=sa.text("phase = 'QUEUED'")
        )
        batch_op.drop_index("ix_run_cluster_live")

    op.drop_table("run")
    with op.batch_alter_table("task", schema=None) as batch_op:
        batch_op.drop_index("ix_task_tenant_created")
        batch_op.drop_index(batch_op.f("ix_task_queue_id"))
        batch_op.drop_index("ix_task_principal_created")

    op.drop_table("task")
    op.drop_table("queue_dimension")
    with op.batch_alter_table("recurring_task", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_recurring_task_principal_id"))

    op.drop_table("recurring_task")
    with op.batch_alter_table("queue", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_queue_tenant_id"))

    op.drop_table("queue")
    op.drop_table("membership")
    op.drop_table("blob")
    op.drop_table("tenant")
    op.drop_table("run_change")
    op.drop_table("principal")
    op.drop_table("leader")
    op.drop_table("decision")
    op.drop_table("cluster")

"""The ledger's tables, insert-only by triggers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tessera_billing.tables import ExactInteger, create_triggers, drop_triggers

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "adjustment",
        sa.Column(
            "adjustment_id", sa.Uuid(), nullable=False, comment="chosen by the caller, so that a repeated call adds nothing"
        ),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("period", sa.Text(), nullable=False, comment="month whose bill carries it, YYYY-MM"),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column(
            "amount_micro",
            ExactInteger(),
            nullable=False,
            comment="10**-6 of the currency; negative: in the tenant's favour",
        ),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False, comment="UTC seconds"),
        sa.PrimaryKeyConstraint("adjustment_id", name=op.f("pk_adjustment")),
        comment="insert-only: refunds, credits and corrections",
    )
    with op.batch_alter_table("adjustment", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_adjustment_tenant_period"), ["tenant", "period"], unique=False)

    op.create_table(
        "meter_event",
        sa.Column("event_id", sa.Uuid(), nullable=False, comment="uuid5 of cluster, subject, action, spec hash, effective_at"),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False, comment="the engine's own unique id, never a name"),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("effective_at", sa.BigInteger(), nullable=False, comment="UTC seconds by the engine's clock"),
        sa.Column("observed_at", sa.BigInteger(), nullable=False, comment="UTC seconds"),
        sa.Column("spec", sa.JSON(), nullable=False, comment="dimension to integer amount"),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_meter_event")),
        comment="append-only: what happened to each metered object",
    )
    with op.batch_alter_table("meter_event", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_meter_event_cluster_subject"), ["cluster", "subject"], unique=False)

    op.create_table(
        "price_book",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False, comment="ISO 4217 code"),
        sa.Column("created_at", sa.BigInteger(), nullable=False, comment="UTC seconds"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_price_book")),
        sa.UniqueConstraint("name", name=op.f("uq_price_book_name")),
        comment="insert-only",
    )
    op.create_table(
        "usage_interval",
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("dimension", sa.Text(), nullable=False),
        sa.Column("basis", sa.Text(), nullable=False),
        sa.Column("t0", sa.BigInteger(), nullable=False, comment="UTC seconds, first one counted"),
        sa.Column("t1", sa.BigInteger(), nullable=True, comment="UTC seconds, first one not counted; NULL while open"),
        sa.Column("qty", sa.BigInteger(), nullable=False, comment="in the metered unit of the dimension"),
        sa.Column("quality", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.CheckConstraint("qty > 0", name=op.f("ck_usage_interval_something_held")),
        sa.CheckConstraint("t1 IS NULL OR t1 >= t0", name=op.f("ck_usage_interval_not_negative")),
        sa.PrimaryKeyConstraint("cluster", "subject", "dimension", "basis", "t0", name=op.f("pk_usage_interval")),
        comment="projection of meter_event, rebuilt at will: half-open intervals of constant quantity",
    )
    with op.batch_alter_table("usage_interval", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_usage_interval_principal_t0"), ["principal", "t0"], unique=False)
        batch_op.create_index(batch_op.f("ix_usage_interval_task_id"), ["task_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_usage_interval_tenant_t0"), ["tenant", "t0"], unique=False)

    op.create_table(
        "price_version",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("book_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("family", sa.Text(), nullable=False, comment="dimension without the card class"),
        sa.Column("card_class", sa.Text(), nullable=True, comment="NULL: any"),
        sa.Column("tenant", sa.Text(), nullable=True, comment="NULL: any"),
        sa.Column("cluster", sa.Text(), nullable=True, comment="NULL: any"),
        sa.Column("mode", sa.Text(), nullable=True, comment="NULL: any"),
        sa.Column("valid_from", sa.BigInteger(), nullable=False, comment="UTC seconds"),
        sa.Column("valid_to", sa.BigInteger(), nullable=True, comment="UTC seconds, excluded; NULL: until a later version"),
        sa.Column("unit", sa.Text(), nullable=False, comment="what one price is for, such as core, GiB, card"),
        sa.Column("unit_size", sa.BigInteger(), nullable=False, comment="metered units in one unit"),
        sa.Column("nano_per_unit_hour", ExactInteger(), nullable=False, comment="10**-9 of the book's currency"),
        sa.Column("start_rule", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False, comment="UTC seconds"),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.CheckConstraint("unit_size > 0", name=op.f("ck_price_version_unit_size")),
        sa.CheckConstraint("valid_to IS NULL OR valid_to > valid_from", name=op.f("ck_price_version_validity")),
        sa.ForeignKeyConstraint(["book_id"], ["price_book.id"], name=op.f("fk_price_version_book_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_price_version")),
        comment="insert-only: a change of price is a later version",
    )
    with op.batch_alter_table("price_version", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_price_version_book_id"), ["book_id"], unique=False)

    create_triggers(op.get_bind())


def downgrade() -> None:
    drop_triggers(op.get_bind())
    with op.batch_alter_table("price_version", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_price_version_book_id"))

    op.drop_table("price_version")
    with op.batch_alter_table("usage_interval", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_usage_interval_tenant_t0"))
        batch_op.drop_index(batch_op.f("ix_usage_interval_task_id"))
        batch_op.drop_index(batch_op.f("ix_usage_interval_principal_t0"))

    op.drop_table("usage_interval")
    op.drop_table("price_book")
    with op.batch_alter_table("meter_event", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_meter_event_cluster_subject"))

    op.drop_table("meter_event")
    with op.batch_alter_table("adjustment", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_adjustment_tenant_period"))

    op.drop_table("adjustment")

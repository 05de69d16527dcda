"""When a workspace was last in use, and what was said about its stop."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "workspace_activity",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("active_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("warned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("kept_until", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_workspace_activity_run_id_run")),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_workspace_activity")),
    )


def downgrade() -> None:
    op.drop_table("workspace_activity")

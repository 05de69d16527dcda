"""Find the runs of an explanation, so that those that nobody refers to can be deleted without a look at every run."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_run_decision_id", "run", ["decision_id"])


def downgrade() -> None:
    op.drop_index("ix_run_decision_id", "run")

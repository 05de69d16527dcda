"""Recurring tasks."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from .resources import Strict
from .tasks import TaskSpec


class RecurringTask(Strict):
    """A specification that is submitted whenever its cron expression fires."""

    id: UUID
    owner: str
    tenant: str
    cron: str
    time_zone: str
    enabled: bool
    next_at: datetime | None
    """When it fires next; None while it is not enabled."""
    last_task_id: UUID | None
    """The task of the last firing."""
    created_at: datetime
    spec: TaskSpec


class RecurringTaskChange(Strict):
    """Stop it for a while, or let it go on from now."""

    enabled: bool

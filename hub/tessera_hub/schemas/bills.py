"""Bills and costs. Amounts are integers in micro-units of the currency; quantities are unit-seconds."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import Field

from .resources import Strict


class BillLine(Strict):
    """Cost of one dimension; ``unit_seconds`` of millicores, MiB or centi-cards."""

    sku: str
    dimension: str
    unit: str
    unit_seconds: int
    nano_per_unit_hour: int
    amount_micro: int
    provisional: bool = False


class TaskBill(Strict):
    """What one task cost so far."""

    task_id: UUID
    currency: str
    amount_micro: int
    seconds: int
    lines: list[BillLine]
    as_of: datetime


class MonthBill(Strict):
    """A tenant's month; ``amount_micro`` equals the sum of the lines exactly."""

    tenant: str
    month: str
    time_zone: str
    currency: str
    amount_micro: int
    lines: list[BillLine]
    as_of: datetime


class CostRow(Strict):
    """One row of a cost table; ``key`` is a day, a task id, a dimension or a person."""

    key: str
    title: str = ""
    currency: str
    amount_micro: int
    unit_seconds: dict[str, int] = Field(default_factory=dict)


class CostTable(Strict):
    """Cost grouped one way over a period."""

    by: str
    start: datetime
    end: datetime
    currency: str
    amount_micro: int
    rows: list[CostRow]

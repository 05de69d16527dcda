"""Refunds, credits and corrections: rows of their own with a reason and an actor, never changes of what was billed."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from fractions import Fraction

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from tessera_billing import periods
from tessera_billing.errors import BillingError
from tessera_billing.money import NANO_PER_MICRO, Money
from tessera_billing.tables import adjustment


class AdjustmentKind(StrEnum):
    """Why an amount is added or taken off."""

    REFUND = "refund"
    CREDIT = "credit"
    CORRECTION = "correction"
    CHARGE = "charge"


@dataclass(frozen=True, slots=True)
class Adjustment:
    """An amount on a tenant's bill of a month (YYYY-MM); negative in the tenant's favour, 10**-6 of the currency.

    ``adjustment_id`` is chosen by the caller (uuid), so that a repeated call adds nothing.
    """

    adjustment_id: uuid.UUID
    tenant: str
    period: str
    kind: AdjustmentKind
    amount_micro: int
    currency: str
    reason: str
    actor: str
    recorded_at: int
    task_id: str | None = None

    @property
    def money(self) -> Money:
        """The amount with its currency."""
        return Money(self.currency, Fraction(self.amount_micro * NANO_PER_MICRO))


def adjust(connection: sa.Connection, row: Adjustment) -> bool:
    """Write an adjustment; return whether it is new.

    Raises:
        BillingError: ``adjustment.reason`` without a reason or an actor, ``adjustment.amount``, ``adjustment.conflict`` if the id
            is taken by a different adjustment, ``period.month``.
    """
    periods.month(row.period, "UTC")
    if not row.reason.strip() or not row.actor:
        raise BillingError("adjustment.reason", "An adjustment needs a reason and the person who made it.")
    favourable = row.kind in (AdjustmentKind.REFUND, AdjustmentKind.CREDIT)
    wrong_sign = (favourable and row.amount_micro > 0) or (row.kind is AdjustmentKind.CHARGE and row.amount_micro < 0)
    if type(row.amount_micro) is not int or row.amount_micro == 0 or wrong_sign:
        raise BillingError(
            "adjustment.amount",
            "A {kind} cannot be {amount}.",
            "Refunds and credits are negative, charges positive, in whole micro-units.",
            kind=row.kind,
            amount=row.amount_micro,
        )
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(adjustment).values(asdict(row)).on_conflict_do_nothing().returning(adjustment.c.adjustment_id)
    if connection.execute(statement).scalar_one_or_none() is not None:
        return True
    query = sa.select(adjustment).where(adjustment.c.adjustment_id == row.adjustment_id)
    stored = _read(connection.execute(query).mappings().one())
    if [getattr(stored, f.name) for f in fields(row) if f.name != "recorded_at"] != [
        getattr(row, f.name) for f in fields(row) if f.name != "recorded_at"
    ]:
        raise BillingError(
            "adjustment.conflict", "{id} is another adjustment.", "Give a new adjustment an id of its own.", id=row.adjustment_id
        )
    return False


def of_month(connection: sa.Connection, tenant: str, month: str) -> tuple[Adjustment, ...]:
    """Return a tenant's adjustments of a month, oldest first."""
    query = sa.select(adjustment).where(adjustment.c.tenant == tenant, adjustment.c.period == month)
    found = [_read(row) for row in connection.execute(query).mappings()]
    return tuple(sorted(found, key=lambda row: (row.recorded_at, row.adjustment_id)))


def _read(row: sa.RowMapping) -> Adjustment:
    return Adjustment(**{**row, "kind": AdjustmentKind(row["kind"])})

"""Metering and billing: events to intervals, intervals and prices to bills, all in integers and all replayable."""

from tessera_billing.errors import BillingError

__all__ = ["BillingError"]

"""Column types that mean the same on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Integer
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator

Json = JSON().with_variant(JSONB(), "postgresql")
"""JSONB on PostgreSQL; text on SQLite."""

Serial = BigInteger().with_variant(Integer, "sqlite")
"""A 64-bit key that SQLite increments by itself (there only INTEGER does)."""

UNLIMITED = 1 << 62
"""Stored where a quota has no limit: sums with it still fit 64 bits, so that ``used + :d <= limit`` needs no NULL case."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time. SQLite has no zone: stored naive in UTC there and made aware when read.

    Raises:
        ValueError: a naive time is written.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without zone cannot be stored; use datetime.now(UTC)")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        result: datetime = value
        return result.replace(tzinfo=UTC) if result.tzinfo is None else result.astimezone(UTC)

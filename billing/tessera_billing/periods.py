"""Days and months of a time zone as UTC seconds. Zones matter only here; everywhere else time is UTC seconds.

A day begins at its first local midnight, so a day of a clock change has 23 or 25 hours and no second is in two days or in none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from tessera_billing.errors import BillingError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Period:
    """A named half-open span [start, end) of UTC seconds: a day (2026-11-24) or a month (2026-11)."""

    name: str
    start: int
    end: int


def zone(name: str) -> ZoneInfo:
    """Return a time zone.

    Raises:
        BillingError: ``period.zone``.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise BillingError(
            "period.zone",
            "There is no time zone {zone}.",
            "Use a name of the IANA database, as in Asia/Shanghai.",
            zone=repr(name),
        ) from error


def month(name: str, tz: str) -> Period:
    """Return the month YYYY-MM.

    Raises:
        BillingError: ``period.month``, ``period.zone``.
    """
    match = re.fullmatch(r"(\d{4})-(\d{2})", name)
    if match is None or not (1971 <= int(match[1]) <= 2999 and 1 <= int(match[2]) <= 12):
        raise BillingError("period.month", "{month} is not a month.", "Write it as in 2026-11.", month=repr(name))
    return _month_of(date(int(match[1]), int(match[2]), 1), zone(tz))


def months(start: int, end: int, tz: str) -> list[Period]:
    """Return the whole months that touch [start, end)."""
    return _spans(start, end, zone(tz), _month_of)


def days(start: int, end: int, tz: str) -> list[Period]:
    """Return the whole days that touch [start, end)."""
    return _spans(start, end, zone(tz), _day_of)


def _month_of(day: date, here: ZoneInfo) -> Period:
    after = date(day.year + day.month // 12, day.month % 12 + 1, 1)
    return Period(f"{day:%Y-%m}", _midnight(day.replace(day=1), here), _midnight(after, here))


def _day_of(day: date, here: ZoneInfo) -> Period:
    return Period(day.isoformat(), _midnight(day, here), _midnight(day + _DAY, here))


def _spans(start: int, end: int, here: ZoneInfo, span_of: Callable[[date, ZoneInfo], Period]) -> list[Period]:
    found: list[Period] = []
    at = start
    while at < end:
        day = datetime.fromtimestamp(at, here).date()
        # The local date can be one that is over: Samoa left out a day, St John's set its clocks back over midnight.
        while (span := span_of(day, here)).end <= at:
            day += _DAY
        found.append(span)
        at = span.end
    return found


def _midnight(day: date, here: ZoneInfo) -> int:
    return (datetime(day.year, day.month, day.day, tzinfo=here).astimezone(UTC) - _EPOCH) // _SECOND

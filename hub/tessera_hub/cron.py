"""When a cron expression fires, in a time zone with daylight saving.

Five fields as in crontab(5). As cron has it, a fixed hour is a wall-clock time: it fires once a day, also when the hour does
not exist (then right after the gap) or comes twice (then the first time). A wildcard hour (``*``, ``*/2``) is an interval: it
fires whenever the clock shows a matching time, also in both of two equal hours. Source: crontab(5) of Debian's cron, "Special
considerations exist when the clock is changed".
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from croniter import croniter
from croniter.croniter import CroniterError

FIELDS = 5
_LOOKED_AT = 5000
"""Wall-clock times of one offset that are looked at; more than a day of minutes around a change of the clock."""


class CronError(ValueError):
    """An expression that cannot be read or never fires (``schedule.cron``), or an unknown time zone (``schedule.zone``)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@lru_cache(maxsize=256)
def zone_of(name: str) -> ZoneInfo:
    """Return the time zone of an IANA name.

    Raises:
        CronError: ``schedule.zone``.
    """
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        raise CronError("schedule.zone", f"there is no time zone {name!r}") from error


def next_firing(expression: str, zone: str, after: datetime) -> datetime:
    """Return the first firing later than *after*, both aware, the answer in UTC.

    Raises:
        CronError: the expression or the zone cannot be used.
    """
    if len(expression.split()) != FIELDS:
        raise CronError("schedule.cron", f"{expression!r} does not have five fields")
    place = zone_of(zone)
    try:
        if expression.split()[1].startswith("*"):
            return _interval(expression, place, after.astimezone(UTC))
        return _wall_clock(expression, place, after.astimezone(UTC))
    except (CroniterError, ValueError, OverflowError) as error:
        raise CronError("schedule.cron", f"{expression!r}: {error}") from error


def _wall_clock(expression: str, zone: ZoneInfo, after: datetime) -> datetime:
    times = croniter(expression, after.astimezone(zone).replace(tzinfo=None))
    while True:
        # Without a fold: the first of two equal hours; a time in a gap lies, by the offset before it, right after the gap.
        found = _next(times).replace(tzinfo=zone).astimezone(UTC)
        if found > after:
            return found


def _interval(expression: str, zone: ZoneInfo, after: datetime) -> datetime:
    """Step through the wall-clock times of each offset that may hold until the next firing; the earliest real one counts."""
    local = _next(croniter(expression, after.astimezone(zone).replace(tzinfo=None)))
    latest = local.replace(tzinfo=zone).astimezone(UTC) + timedelta(days=1)
    offsets = [after.astimezone(zone).utcoffset(), *(local.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))]
    best: datetime | None = None
    for offset in dict.fromkeys(o for o in offsets if o is not None):
        times = croniter(expression, (after + offset).replace(tzinfo=None))
        for _ in range(_LOOKED_AT):
            found = _next(times).replace(tzinfo=UTC) - offset
            if found >= (best or latest):
                break
            if found.astimezone(zone).utcoffset() == offset:
                best = found
                break
    if best is None:
        raise CronError("schedule.cron", f"{expression!r} never fires")
    return best


def _next(times: croniter) -> datetime:
    found = times.get_next(datetime)
    assert isinstance(found, datetime)
    return found

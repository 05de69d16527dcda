"""Cron expressions over changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import given
from hypothesis import strategies as st

from tessera_hub.cron import CronError, next_firing

BERLIN = "Europe/Berlin"
"""Forward on 29 March 2026 at 01:00 UTC (02:00 becomes 03:00), back on 25 October 2026 at 01:00 UTC (03:00 becomes 02:00)."""


def firings(expression: str, zone: str, begin: datetime, count: int) -> list[str]:
    found, moment = [], begin
    for _ in range(count):
        moment = next_firing(expression, zone, moment)
        found.append(f"{moment:%d %H:%M}")
    return found


def test_a_daily_time_follows_the_wall_clock() -> None:
    begin = datetime(2026, 3, 27, 12, tzinfo=UTC)
    assert firings("0 7 * * *", BERLIN, begin, 3) == ["28 06:00", "29 05:00", "30 05:00"]


def test_a_time_that_does_not_exist_fires_once_right_after_the_gap() -> None:
    begin = datetime(2026, 3, 28, 12, tzinfo=UTC)
    assert firings("30 2 * * *", BERLIN, begin, 2) == ["29 01:30", "30 00:30"]


def test_a_time_that_comes_twice_fires_once() -> None:
    begin = datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert firings("30 2 * * *", BERLIN, begin, 2) == ["25 00:30", "26 01:30"]
    # Also for a service that starts between the two.
    assert firings("30 2 * * *", BERLIN, datetime(2026, 10, 25, 1, 10, tzinfo=UTC), 1) == ["26 01:30"]


def test_an_interval_goes_on_through_both_of_two_equal_hours() -> None:
    begin = datetime(2026, 10, 25, 0, 25, tzinfo=UTC)
    assert firings("*/30 * * * *", BERLIN, begin, 5) == ["25 00:30", "25 01:00", "25 01:30", "25 02:00", "25 02:30"]


def test_an_interval_skips_the_hour_that_does_not_exist() -> None:
    begin = datetime(2026, 3, 29, 0, 20, tzinfo=UTC)
    assert firings("*/30 * * * *", BERLIN, begin, 3) == ["29 00:30", "29 01:00", "29 01:30"]
    assert firings("0 */2 * * *", BERLIN, begin, 2) == ["29 02:00", "29 04:00"]


@pytest.mark.parametrize("zone", ["Pacific/Chatham", "Australia/Lord_Howe", "America/St_Johns", "Asia/Kathmandu", "UTC"])
def test_a_year_of_quarter_hours_has_no_hole_and_no_repeat(zone: str) -> None:
    """Also where a clock moves by half an hour or stands at a quarter to."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    for _ in range(3000):
        following = next_firing("*/15 * * * *", zone, moment)
        assert timedelta() < following - moment <= timedelta(minutes=15), (moment, following)
        moment = following + timedelta(minutes=160)


@given(
    st.integers(1_735_689_600, 1_893_456_000),
    st.sampled_from(["* * * * *", "7 * * * *", "*/20 */3 * * *", "15 4 * * *", "0 0 1 * *", "30 2 * * 0", "5 1-3 * * 1-5"]),
    st.sampled_from([BERLIN, "America/New_York", "Asia/Shanghai", "Australia/Lord_Howe"]),
)
def test_a_firing_is_later_and_its_clock_shows_a_matching_time(second: int, expression: str, zone: str) -> None:
    after = datetime.fromtimestamp(second, UTC)
    found = next_firing(expression, zone, after)
    assert found > after
    local = found.astimezone(ZoneInfo(zone))
    exact = croniter.match(expression, local.replace(tzinfo=None))
    in_gap = any((local - timedelta(minutes=m)).utcoffset() != local.utcoffset() for m in (30, 60, 120))
    assert exact or (in_gap and not expression.split()[1].startswith("*")), local


@pytest.mark.parametrize(
    "expression", ["", "* * * *", "* * * * * *", "61 * * * *", "* * * * nobody", "0 0 30 2 *", "@daily", "x" * 200, "*/0 * * * *"]
)
def test_what_cannot_be_read_or_never_fires_is_refused(expression: str) -> None:
    with pytest.raises(CronError) as error:
        next_firing(expression, "UTC", datetime(2026, 1, 1, tzinfo=UTC))
    assert error.value.code == "schedule.cron"


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../etc/passwd", "/etc/localtime", "Europe"])
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(CronError) as error:
        next_firing("* * * * *", zone, datetime(2026, 1, 1, tzinfo=UTC))
    assert error.value.code == "schedule.zone"

"""Days and months of time zones, the odd ones too."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.billing.streams import HOUR, utc

from tessera_billing import BillingError
from tessera_billing.periods import days, month, months

pytestmark = pytest.mark.billing

ZONES = [
    "UTC",
    "Asia/Shanghai",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",
    "Pacific/Apia",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
]


def test_a_month_begins_at_local_midnight():
    assert (month("2026-11", "UTC").start, month("2026-11", "UTC").end) == (utc(2026, 11, 1), utc(2026, 12, 1))
    assert month("2026-12", "Asia/Shanghai").start == utc(2026, 11, 30, 16)
    assert month("2026-12", "Asia/Shanghai").end == utc(2026, 12, 31, 16)


def test_days_of_a_clock_change_have_23_and_25_hours():
    spring, autumn = (month(name, "Europe/Berlin") for name in ("2026-03", "2026-10"))
    hours = {day.name: (day.end - day.start) // HOUR for m in (spring, autumn) for day in days(m.start, m.end, "Europe/Berlin")}
    assert {name: h for name, h in hours.items() if h != 24} == {"2026-03-29": 23, "2026-10-25": 25}
    assert len(hours) == 62


def test_a_skipped_day_has_no_seconds():
    december = month("2011-12", "Pacific/Apia")
    names = [day.name for day in days(december.start, december.end, "Pacific/Apia")]
    assert "2011-12-30" not in names
    assert len(names) == 30


def test_clocks_set_back_over_midnight_end_a_month_once():
    # On 2009-11-01 at 00:01 the clocks of St John's went back to 23:01 of October.
    after_the_change = utc(2009, 11, 1, 2, 45)
    assert [m.name for m in months(after_the_change, after_the_change + 1, "America/St_Johns")] == ["2009-11"]
    assert [d.name for d in days(after_the_change, after_the_change + 1, "America/St_Johns")] == ["2009-11-01"]


@given(st.sampled_from(ZONES), st.integers(utc(1972, 1, 1), utc(2037, 1, 1)), st.integers(1, 100 * 86_400))
def test_every_second_is_in_one_day_and_one_month(tz, start, length):
    for spans in (days(start, start + length, tz), months(start, start + length, tz)):
        assert spans[0].start <= start
        assert start + length <= spans[-1].end
        assert all(one.end == two.start for one, two in pairwise(spans))
        assert len({span.name for span in spans}) == len(spans)
        assert all(span.start < span.end for span in spans)


@pytest.mark.parametrize("name", ["2026-13", "2026-00", "2026", "26-11", "2026-11-01", ""])
def test_what_is_not_a_month_is_refused(name):
    with pytest.raises(BillingError, match="is not a month"):
        month(name, "UTC")


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd", "/etc/passwd"])
def test_what_is_not_a_zone_is_refused(name):
    with pytest.raises(BillingError, match="There is no time zone"):
        month("2026-11", name)

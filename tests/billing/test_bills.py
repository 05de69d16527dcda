"""Bills: every view adds up to the invoice, and doing it again gives the same digits."""

import dataclasses
import json
import re
import uuid
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.billing.streams import CARD, CARDS, DIMENSIONS, HOUR, T, event, life, utc

from tessera_billing import BillingError
from tessera_billing.adjustments import Adjustment, AdjustmentKind, adjust
from tessera_billing.bills import By, cost_by, month_bill, task_bill
from tessera_billing.dimensions import FAMILIES
from tessera_billing.ledger import intervals, record
from tessera_billing.periods import days, month
from tessera_billing.prices import add_price, create_book, ensure_default_prices, price_list
from tessera_billing.rating import rate, total

pytestmark = pytest.mark.billing

CARD_PRICE = {CARD: 12_000_000_000}
# Months with a day of 23 hours, one of 25, a skipped day, and a plain one.
MONTHS = [
    ("2026-03", "Europe/Berlin"),
    ("2026-10", "Europe/Berlin"),
    ("2011-12", "Pacific/Apia"),
    ("2009-11", "America/St_Johns"),
    ("2026-11", "Asia/Shanghai"),
]


def test_a_task_costs_its_amounts_times_its_seconds(connection):
    ensure_default_prices(connection, T, CARD_PRICE)
    spec = {"cpu": 4000, "memory": 8192, CARDS: 50, f"card_memory/{CARD}": 40_960}
    record(connection, life(T, T + 5400, spec))
    bill = task_bill(connection, "task-of-uid-1", now=T + HOUR * 9)
    # 1.5 h of 4 cores at 0.10, 8 GiB at 0.02 and half a card at 12.
    assert {line.sku: line.amount_micro for line in bill.lines} == {
        "cpu:on-demand": 600_000,
        "memory:on-demand": 240_000,
        f"{CARDS}:on-demand": 9_000_000,
        f"card_memory/{CARD}:on-demand": 0,
    }
    assert (bill.amount_micro, bill.currency, bill.tenant) == (9_840_000, "CNY", "physics")
    assert (bill.first_second, bill.last_second, bill.billed_seconds) == (T, T + 5400, 5400)
    assert (bill.provisional, bill.estimated, bill.unpriced) == (False, False, False)


def test_a_task_that_never_ran_costs_nothing(connection):
    ensure_default_prices(connection, T)
    bill = task_bill(connection, "unknown", now=T)
    assert (bill.lines, bill.amount_micro, bill.tenant, bill.provisional) == ((), 0, None, False)


def test_a_running_task_is_billed_up_to_now_and_provisional(connection):
    ensure_default_prices(connection, T)
    record(connection, life(T, None, {"cpu": 1000}))
    bill = task_bill(connection, "task-of-uid-1", now=T + HOUR)
    assert (bill.amount_micro, bill.provisional, bill.last_second) == (100_000, True, None)
    assert month_bill(connection, "physics", "2026-11", "UTC", T + HOUR).provisional


def test_a_pause_is_not_in_the_billed_seconds_and_each_price_is_named(connection):
    ensure_default_prices(connection, T)
    dearer = {"nano_per_unit_hour": 300_000_000, "valid_from": T + 30}
    add_price(connection, family="cpu", unit="core", now=T, actor="grace", **dearer)
    pause = [event("PAUSE", T + 10), event("RESUME", T + 20)]
    record(connection, [*life(T, T + 90_000, {"cpu": 1000, "memory": 1}), *pause])
    bill = task_bill(connection, "task-of-uid-1", now=T + 40)
    assert bill.billed_seconds == 30
    assert [(p.nano_per_unit_hour, p.unit_seconds) for p in bill.lines[0].priced] == [
        (100_000_000, 20_000),
        (300_000_000, 10_000),
    ]
    bill = task_bill(connection, "task-of-uid-1", now=T + 100_000)
    assert bill.billed_seconds == 89_990
    assert [p.unit_seconds for p in bill.lines[0].priced] == [20_000, 89_970_000]
    assert [line.unit for line in bill.lines] == ["millicore", "MiB"]


def test_a_guess_and_a_missing_price_are_shown(connection):
    ensure_default_prices(connection, T)
    events = life(T, None, {"cpu": 1000, "cards/H20": 100})
    record(connection, [*events, event("STOP", T + 60, evidence="estimated")])
    bill = task_bill(connection, "task-of-uid-1", now=T + HOUR)
    assert (bill.estimated, bill.unpriced) == (True, True)
    assert {line.dimension: line.unpriced for line in bill.lines} == {"cpu": False, "cards/H20": True}


def test_a_task_over_two_months_has_lines_in_both(connection):
    ensure_default_prices(connection, T)
    midnight = month("2026-12", "Asia/Shanghai").start
    record(connection, life(midnight - HOUR, midnight + 2 * HOUR, {"cpu": 1000}))
    bill = task_bill(connection, "task-of-uid-1", midnight + 9 * HOUR, tz="Asia/Shanghai")
    assert [(line.month, line.amount_micro) for line in bill.lines] == [("2026-11", 100_000), ("2026-12", 200_000)]
    assert month_bill(connection, "physics", "2026-11", "Asia/Shanghai", T).total_micro == 0
    assert month_bill(connection, "physics", "2026-11", "Asia/Shanghai", midnight + 1).total_micro == 100_000


def test_a_month_shows_at_which_price_what_was_used(connection):
    ensure_default_prices(connection, T)
    dearer = add_price(
        connection, family="cpu", unit="core", nano_per_unit_hour=300_000_000, valid_from=T + HOUR, now=T, actor="grace"
    )
    record(connection, life(T, T + 3 * HOUR, {"cpu": 1000}))
    (line,) = month_bill(connection, "physics", "2026-11", "UTC", T + 9 * HOUR).lines
    assert line.amount_micro == 100_000 + 2 * 300_000
    assert [(p.nano_per_unit_hour, p.unit, p.unit_seconds) for p in line.priced] == [
        (100_000_000, "core", 1000 * HOUR),
        (300_000_000, "core", 2000 * HOUR),
    ]
    assert line.priced[1].price_version == dearer


def test_tenants_do_not_see_each_other(connection):
    ensure_default_prices(connection, T)
    record(connection, life(T, T + HOUR, {"cpu": 1000}, "a"))
    record(connection, life(T, T + HOUR, {"cpu": 2000}, "b", tenant="chemistry", principal="bob"))
    assert month_bill(connection, "physics", "2026-11", "UTC", T + HOUR).total_micro == 100_000
    assert month_bill(connection, "chemistry", "2026-11", "UTC", T + HOUR).total_micro == 200_000
    assert cost_by(connection, T, T + 1, By.PERSON, now=T + HOUR, tenant="chemistry").rows[0].key == ("bob",)
    assert cost_by(connection, T, T + 1, By.TASK, now=T + HOUR, principal="ada").amount_micro == 100_000
    assert cost_by(connection, T, T + 1, By.TASK, now=T + HOUR, tenant="chemistry", principal="ada").rows == ()


def test_a_person_in_two_tenants_has_costs_in_both(connection):
    ensure_default_prices(connection, T)
    record(connection, [*life(T, T + HOUR, {"cpu": 1000}, "a"), *life(T, T + HOUR, {"cpu": 1000}, "b", tenant="chemistry")])
    costs = cost_by(connection, T, T + HOUR, "tenant", now=T + HOUR, principal="ada")
    assert [(row.key, row.amount_micro) for row in costs.rows] == [(("chemistry",), 100_000), (("physics",), 100_000)]


def test_costs_by_several_things_at_once(connection):
    ensure_default_prices(connection, T)
    midnight = utc(2026, 11, 25)
    record(connection, life(midnight - HOUR, midnight + HOUR, {"cpu": 1000, "memory": 1024}))
    costs = cost_by(connection, midnight - HOUR, midnight + HOUR, ("day", "resource"), now=midnight + HOUR, tenant="physics")
    assert [(row.key, row.amount_micro) for row in costs.rows] == [
        (("2026-11-24", "cpu:on-demand"), 100_000),
        (("2026-11-24", "memory:on-demand"), 20_000),
        (("2026-11-25", "cpu:on-demand"), 100_000),
        (("2026-11-25", "memory:on-demand"), 20_000),
    ]
    assert costs.rows[0].unit_seconds == (("cpu", 1000 * HOUR),)


@pytest.mark.parametrize(("values", "code"), [({}, "cost.scope"), ({"tenant": "physics", "by": "colour"}, "cost.by")])
def test_costs_of_nobody_or_by_nothing_are_refused(connection, values, code):
    ensure_default_prices(connection, T)
    with pytest.raises(BillingError) as refused:
        cost_by(connection, T, T + 1, **{"by": "day", "now": T, **values})
    assert refused.value.code == code


def test_adjustments_are_lines_with_a_reason_and_count_once(connection):
    ensure_default_prices(connection, T)
    record(connection, life(T, T + HOUR, {"cpu": 1000}))
    refund = Adjustment(uuid.uuid4(), "physics", "2026-11", AdjustmentKind.REFUND, -40_000, "CNY", "node failed", "grace", T)
    assert adjust(connection, refund)
    assert not adjust(connection, dataclasses.replace(refund, recorded_at=T + 5))
    bill = month_bill(connection, "physics", "2026-11", "UTC", T + HOUR)
    assert (bill.usage_micro, bill.adjustments_micro, bill.total_micro) == (100_000, -40_000, 60_000)
    assert bill.adjustments == (refund,)
    with pytest.raises(BillingError, match="is another adjustment"):
        adjust(connection, dataclasses.replace(refund, amount_micro=-50_000))


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"reason": " "}, "adjustment.reason"),
        ({"actor": ""}, "adjustment.reason"),
        ({"amount_micro": 5}, "adjustment.amount"),
        ({"amount_micro": 0}, "adjustment.amount"),
        ({"amount_micro": -0.5}, "adjustment.amount"),
        ({"period": "November"}, "period.month"),
    ],
)
def test_a_bad_adjustment_is_refused(connection, values, code):
    refund = Adjustment(uuid.uuid4(), "physics", "2026-11", AdjustmentKind.REFUND, -1, "CNY", "outage", "grace", T)
    with pytest.raises(BillingError) as refused:
        adjust(connection, dataclasses.replace(refund, **values))
    assert refused.value.code == code


def test_an_adjustment_in_another_currency_is_a_type_error(connection):
    ensure_default_prices(connection, T)
    adjust(connection, Adjustment(uuid.uuid4(), "physics", "2026-11", AdjustmentKind.REFUND, -1, "EUR", "outage", "grace", T))
    with pytest.raises(TypeError, match="EUR"):
        month_bill(connection, "physics", "2026-11", "UTC", T)


# --- sums ---


@st.composite
def usage(draw, start, end):
    """Lives of several tasks of two people within a span, some still open, with prices that end in thirds of micro-units."""
    events = []
    for number in range(draw(st.integers(1, 6))):
        begin = draw(st.integers(start - HOUR, end))
        stop = draw(st.none() | st.integers(0, 3 * 86_400).map(lambda length, begin=begin: begin + length))
        spec = draw(st.dictionaries(st.sampled_from(DIMENSIONS), st.integers(1, 9999), min_size=1))
        principal = draw(st.sampled_from(["ada", "bob"]))
        events += life(begin, stop, spec, f"uid-{number}", principal=principal, task_id=f"task-{number % 3}")
    return events


@pytest.mark.parametrize(("name", "tz"), MONTHS)
@settings(max_examples=20)
@given(data=st.data())
def test_days_tasks_people_and_resources_add_up_to_the_month(lite, name, tz, data):
    period = month(name, tz)
    events = data.draw(usage(period.start, period.end))
    now = data.draw(st.integers(period.start, period.end + HOUR))
    with lite() as connection:
        create_book(connection, "default", "CNY", 0)
        for dimension in DIMENSIONS:
            family = dimension.partition("/")[0]
            odd = data.draw(st.integers(0, 10**11))
            unit = next(iter(FAMILIES[family].pricing_units))
            add_price(connection, family=family, unit=unit, nano_per_unit_hour=odd, valid_from=0, now=0, actor="grace")
        record(connection, events)
        bill = month_bill(connection, "physics", name, tz, now)
        for by in By:
            costs = cost_by(connection, period.start, period.end, by, tz, now=now, tenant="physics")
            assert costs.amount_micro == bill.total_micro
        by_day = cost_by(connection, period.start, period.end, ("resource", "day"), tz, now=now, tenant="physics")
        single = [
            cost_by(connection, d.start, d.end, "task", tz, now=now, tenant="physics") for d in days(period.start, period.end, tz)
        ]
        assert sum(costs.amount_micro for costs in single) == bill.total_micro
        # Each day is less than one micro-unit away from what it costs exactly.
        prices = price_list(connection)
        everything = intervals(connection, period.start, period.end)
        edges = {d.name: d for d in days(period.start, period.end, tz)}
        for row in by_day.rows:
            sku, day = row.key
            mine = [i for i in everything if f"{i.dimension}:{i.mode}" == sku]
            exact = total(rate(mine, prices, edges[day].start, edges[day].end, now)) * Fraction(1, 1000)
            assert abs(row.amount_micro - exact) < 1
        tasks = {e.task_id for e in events}
        whole_life = sum(task_bill(connection, t, now, tz=tz).amount_micro for t in tasks)
        span = (min(e.effective_at for e in events), now)
        if span[0] < span[1]:
            assert whole_life == cost_by(connection, *span, "task", tz, now=now, tenant="physics").amount_micro


def digits(connection, now):
    views = [month_bill(connection, "physics", "2026-11", "Asia/Shanghai", now)]
    views += [task_bill(connection, f"task-{n}", now) for n in range(3)]
    views += [cost_by(connection, T, T + 86_400, by, now=now, tenant="physics") for by in By]
    # The database numbers price versions; in another database they have other numbers.
    text = json.dumps([dataclasses.asdict(view) for view in views], sort_keys=True)
    return re.sub(r'"price_version": \d+', "", text)


@settings(max_examples=15)
@given(data=st.data())
def test_rating_again_gives_the_same_digits(scratch, data):
    events = data.draw(usage(T, T + 86_400))
    now = T + data.draw(st.integers(0, 86_400))
    found = set()
    for some in (events, data.draw(st.permutations(events))):
        with scratch() as connection:
            ensure_default_prices(connection, 0, CARD_PRICE)
            for one in some:
                record(connection, [one])
            found |= {digits(connection, now), digits(connection, now)}
    assert len(found) == 1


def test_what_is_recorded_late_changes_only_what_it_should(connection):
    ensure_default_prices(connection, T)
    record(connection, life(T, None, {"cpu": 1000}))
    assert task_bill(connection, "task-of-uid-1", T + HOUR).amount_micro == 100_000
    record(connection, [event("STOP", T + HOUR, observed_at=T + 9 * HOUR)])
    assert task_bill(connection, "task-of-uid-1", T + 9 * HOUR).amount_micro == 100_000

"""Money before and while it is spent: the same digits as the bill that follows."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.billing.streams import CARDS, HOUR, SIMPLE, SPAN, T, event, life, price, price_lists, prices, specs, streams

from tessera_billing import BillingError
from tessera_billing.accrual import accrual, accrue, task_accruals
from tessera_billing.bills import task_bill
from tessera_billing.estimate import estimate
from tessera_billing.intervals import project
from tessera_billing.ledger import record
from tessera_billing.prices import add_price, ensure_default_prices, price_list
from tessera_billing.rating import rate, total

pytestmark = pytest.mark.billing


@given(streams(), price_lists(), st.integers(T, T + SPAN))
def test_the_speed_is_what_the_next_second_costs(events, book, now):
    used = project({e.event_id(): e for e in events}.values())
    one, two = (accrue(used, book, 0, when) for when in (now, now + 1))
    assert one.nano + one.nano_per_second == two.nano
    assert one.nano == total(rate(used, book, 0, now, now))


@given(specs, st.integers(0, SPAN))
def test_a_page_can_count_on_by_itself(spec, later):
    used = project(life(T, None, spec))
    assert accrue(used, SIMPLE, 0, T + 7).at(T + 7 + later) == accrue(used, SIMPLE, 0, T + 7 + later).amount_micro


def test_a_page_knows_when_the_price_changes():
    book = prices(price("cpu", 100_000_000, 1), price("cpu", 200_000_000, 2, T + 60))
    now = accrue(project(life(T, None, {"cpu": 1000})), book, 0, T)
    assert (now.rate_nano_per_hour, now.until) == (100_000_000, T + 60)
    later = accrue(project(life(T, None, {"cpu": 1000})), book, 0, T + 60)
    assert (later.rate_nano_per_hour, later.until) == (200_000_000, None)


def test_tasks_tick_each_by_itself(connection):
    ensure_default_prices(connection, T)
    record(connection, [*life(T, None, {"cpu": 1000}, "a"), *life(T, T + HOUR, {"cpu": 500}, "b")])
    found = task_accruals(connection, ["task-of-a", "task-of-b", "waiting"], T + 2 * HOUR)
    assert {name: (a.amount_micro, a.rate_nano_per_hour) for name, a in found.items()} == {
        "task-of-a": (200_000, 100_000_000),
        "task-of-b": (50_000, 0),
        "waiting": (0, 0),
    }


def test_a_task_that_starts_this_very_second_ticks_already(connection):
    ensure_default_prices(connection, T)
    record(connection, life(T, None, {"cpu": 1000}))
    found = task_accruals(connection, ["task-of-uid-1"], T)["task-of-uid-1"]
    assert (found.amount_micro, found.rate_nano_per_hour) == (0, 100_000_000)


def test_a_paused_task_does_not_tick(connection):
    ensure_default_prices(connection, T)
    record(connection, [*life(T, None, {"cpu": 1000}), event("PAUSE", T + HOUR)])
    found = task_accruals(connection, ["task-of-uid-1"], T + 3 * HOUR)["task-of-uid-1"]
    assert (found.amount_micro, found.rate_nano_per_hour) == (100_000, 0)


def test_a_tenant_and_a_person_tick_since_a_moment(connection):
    ensure_default_prices(connection, T)
    record(connection, life(T, None, {"cpu": 1000}, "a"))
    record(connection, life(T, None, {"cpu": 2000}, "b", principal="bob"))
    record(connection, life(T, None, {"cpu": 4000}, "c", tenant="chemistry"))
    now = T + 2 * HOUR

    def speed(**scope):
        found = accrual(connection, now, start=T + HOUR, **scope)
        return found.amount_micro, found.rate_nano_per_hour

    assert speed(tenant="physics") == (300_000, 300_000_000)
    assert speed(tenant="physics", principal="bob") == (200_000, 200_000_000)
    assert speed(principal="ada") == (500_000, 500_000_000)
    assert speed() == (700_000, 700_000_000)


def test_an_estimate_is_the_bill_that_follows(connection):
    ensure_default_prices(connection, T, {"A100-80G": 12_345_678_901})
    add_price(connection, family="cpu", unit="core", nano_per_unit_hour=7, valid_from=T + 100, now=T, actor="grace")
    spec = {"cpu": 1500, "memory": 3000, CARDS: 33}
    guess = estimate(price_list(connection), spec, 90, 4321, start=T, tenant="physics", cluster="local")
    record(connection, life(T, T + 4321, spec))
    assert task_bill(connection, "task-of-uid-1", T + HOUR * 9).amount_micro == guess.high_micro
    assert 0 < guess.low_micro < guess.high_micro
    assert guess.unpriced == ()


def test_an_estimate_shows_price_per_hour_and_second():
    guess = estimate(SIMPLE, {"cpu": 4000, "memory": 8192, CARDS: 50}, HOUR, 2 * HOUR, start=T)
    assert guess.per_hour_nano == 400_000_000 + 160_000_000 + 6_000_000_000
    assert guess.per_second_nano == Fraction(6_560_000_000, 3600)
    assert (guess.low_micro, guess.high_micro) == (6_560_000, 13_120_000)


def test_an_estimate_names_what_has_no_price():
    guess = estimate(SIMPLE, {"cards/H20": 100, "cpu": 1000}, 0, 0, start=T)
    assert (guess.unpriced, guess.low_micro, guess.high_micro) == (("cards/H20",), 0, 0)


@pytest.mark.parametrize(
    ("spec", "low", "high", "code"),
    [
        ({"cpu": 1}, 2, 1, "estimate.seconds"),
        ({"cpu": 1}, -1, 1, "estimate.seconds"),
        ({"cpu": 1}, 0.5, 1, "estimate.seconds"),
        ({"cpu": -1}, 0, 1, "estimate.spec"),
        ({"disk": 1}, 0, 1, "dimension.unknown"),
    ],
)
def test_a_bad_estimate_is_refused(spec, low, high, code):
    with pytest.raises(BillingError) as refused:
        estimate(SIMPLE, spec, low, high, start=T)
    assert refused.value.code == code

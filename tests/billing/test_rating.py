"""Rating is exact: it equals counting second by second, and no way of cutting changes a sum."""

import itertools
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.billing.streams import CARD, CARDS, DIMENSIONS, HOUR, SIMPLE, SPAN, T, life, price, price_lists, prices, streams

from tessera_billing.events import Action
from tessera_billing.intervals import project
from tessera_billing.money import Money, Quantity, largest_remainder, round_micro
from tessera_billing.prices import PriceList
from tessera_billing.rating import rate, total

pytestmark = pytest.mark.billing

seconds = st.integers(T - 5, T + SPAN + 5)


def used_by(events):
    return project({e.event_id(): e for e in events}.values())


def nano(intervals, book, start=0, end=T + 10 * SPAN, now=T + 10 * SPAN):
    return total(rate(intervals, book, start, end, now))


def holding(versions, interval, second):
    """The version of the highest precedence in one second, found by looking at all of them."""
    name, _, card_class = interval.dimension.partition("/")
    fitting = [
        v
        for v in versions
        if v.family == name
        and v.tenant in (None, interval.tenant)
        and v.cluster in (None, interval.cluster)
        and v.card_class in (None, card_class)
        and v.mode in (None, interval.mode)
        and v.valid_from <= second
        and (v.valid_to is None or second < v.valid_to)
    ]
    rank = {True: 0, False: 1}
    fitting.sort(
        key=lambda v: (
            *(rank[part is not None] for part in (v.tenant, v.cluster, v.card_class, v.mode)),
            -v.valid_from,
            -v.version_id,
        )
    )
    return fitting[0] if fitting else None


def second_by_second(intervals, versions, start, end, now):
    amount = Fraction(0)
    for second, interval in itertools.product(range(start, min(end, now)), intervals):
        if interval.t0 <= second and (interval.t1 is None or second < interval.t1):
            version = holding(versions, interval, second)
            if version is not None:
                amount += Fraction(interval.qty * version.nano_per_unit_hour, version.unit_size * HOUR)
    return amount


@given(streams(), price_lists(), seconds, seconds, seconds)
def test_rating_equals_counting_second_by_second(events, book, start, end, now):
    used = used_by(events)
    assert nano(used, book, start, end, now) == second_by_second(used, book.versions, start, end, now)


@given(streams(), price_lists(), st.lists(seconds, max_size=6))
def test_cutting_an_interval_changes_nothing(events, book, cuts):
    used = used_by(events)
    pieces = []
    for interval in used:
        inside = sorted({c for c in cuts if interval.t0 < c and (interval.t1 is None or c < interval.t1)})
        edges = [interval.t0, *inside, interval.t1]
        pieces += [replace(interval, t0=a, t1=b) for a, b in itertools.pairwise(edges)]
    assert nano(pieces, book) == nano(used, book)
    whole = rate(used, book, T, T + SPAN, T + SPAN, cuts=sorted(set(cuts)))
    assert total(whole) == nano(used, book, T, T + SPAN, T + SPAN)


@given(streams(), price_lists(), seconds)
def test_windows_add_up(events, book, cut):
    used = used_by(events)
    now = T + SPAN
    assert nano(used, book, T, cut, now) + nano(used, book, max(T, cut), now, now) == nano(used, book, T, now, now)


@given(streams(), st.integers(0, 10**12), st.integers(0, 10**12), st.integers(T, T + SPAN))
def test_a_change_of_price_equals_two_bills_cut_there(events, before, after, change):
    used = used_by(events)
    both = prices(
        *(price(d, n, i, at) for i, (d, (n, at)) in enumerate(itertools.product(DIMENSIONS, [(before, 0), (after, change)])))
    )
    old = prices(*(price(d, before, i) for i, d in enumerate(DIMENSIONS)))
    new = prices(*(price(d, after, i) for i, d in enumerate(DIMENSIONS)))
    end = T + SPAN
    assert nano(used, both, T, end, end) == nano(used, old, T, change, end) + nano(used, new, change, end, end)


@given(streams(), st.integers(1, 5), st.integers(1, SPAN), st.integers(0, 10**12))
def test_a_bill_grows_with_amount_time_and_price(events, more, later, dearer):
    used = used_by(events)
    now = T + SPAN
    plain = nano(used, SIMPLE, T, now, now)
    assert nano([replace(i, qty=i.qty + more) for i in used], SIMPLE, T, now, now) >= plain
    assert nano([replace(i, t1=None if i.t1 is None else i.t1 + later) for i in used], SIMPLE, T, now, now) >= plain
    up = PriceList("CNY", [replace(v, nano_per_unit_hour=v.nano_per_unit_hour + dearer) for v in SIMPLE.versions])
    assert nano(used, up, T, now, now) >= plain
    assert nano(used, SIMPLE, T, now, now + later) >= plain


@given(st.integers(1, 10**6), st.integers(0, 10**13))
def test_four_quarter_cards_cost_one_card(length, nano_per_hour):
    book = prices(price(CARDS, nano_per_hour))
    quarters = [i for n in range(4) for i in project(life(T, T + length, {CARDS: 25}, f"quarter-{n}"))]
    one = project(life(T, T + length, {CARDS: 100}))
    until = T + length
    assert nano(quarters, book, T, until, until) == nano(one, book, T, until, until) == Fraction(length * nano_per_hour, HOUR)


@given(st.lists(st.integers(0, SPAN), min_size=4, max_size=4), st.integers(0, 10**12))
def test_tasks_and_idle_make_up_a_whole_card(stops, nano_per_hour):
    book = prices(price(CARDS, nano_per_hour))
    end = T + SPAN
    tasks = [i for n, stop in enumerate(stops) for i in project(life(T, T + stop, {CARDS: 25}, f"quarter-{n}"))]
    idle = [i for n, stop in enumerate(stops) for i in project(life(T + stop, end, {CARDS: 25}, f"idle-{n}"))]
    assert nano(tasks + idle, book, T, end, end) == Fraction(SPAN * nano_per_hour, HOUR)


def test_an_open_interval_is_counted_up_to_now_and_marked():
    used = project(life(T, None, {"cpu": 1000}))
    (line,) = rate(used, SIMPLE, 0, T + HOUR, now=T + 10)
    assert (line.t1, line.unit_seconds, line.provisional) == (T + 10, 10_000, True)
    (line,) = rate(project(life(T, T + 10, {"cpu": 1000})), SIMPLE, 0, T + HOUR, now=T + HOUR)
    assert not line.provisional


def test_what_has_no_price_costs_nothing_and_says_so():
    (line,) = rate(project(life(T, T + 10, {"cards/H20": 100})), SIMPLE, 0, T + HOUR, T + HOUR)
    assert (line.price, line.numerator) == (None, 0)


@pytest.mark.parametrize(
    "scopes",
    list(itertools.pairwise([{}, {"mode": "on-demand"}, {"card_class": CARD}, {"cluster": "local"}, {"tenant": "physics"}])),
)
def test_the_closer_scope_wins_whatever_came_later(scopes):
    wide, close = scopes
    book = prices(
        price(CARDS, 5, 1, **{"card_class": None, **close}),
        price(CARDS, 7, 2, valid_from=T, **{"card_class": None, **wide}),
    )
    found = book.at(T, tenant="physics", cluster="local", dimension=CARDS, mode="on-demand")
    assert found is not None
    assert found.nano_per_unit_hour == 5


def test_a_special_price_ends_and_the_general_one_is_back():
    book = prices(price("cpu", 5, 1), price("cpu", 1, 2, T, valid_to=T + 10, tenant="physics"))
    costs = [
        book.at(t, tenant="physics", cluster="c", dimension="cpu", mode="m").nano_per_unit_hour for t in (T - 1, T, T + 9, T + 10)
    ]
    assert costs == [5, 1, 1, 5]


def test_currencies_do_not_mix():
    with pytest.raises(TypeError, match="EUR"):
        PriceList("CNY", [price("cpu", 1), replace(price("cpu", 1), currency="EUR")])
    with pytest.raises(TypeError):
        Money("CNY", Fraction(1)) + Money("EUR", Fraction(1))
    with pytest.raises(TypeError):
        sorted([Money("CNY", Fraction(1)), Money("EUR", Fraction(1))])
    assert (Money("CNY", Fraction(1)) + Money("CNY", Fraction(2)) - Money("CNY", Fraction(4))).nano == -1


def test_units_do_not_mix():
    with pytest.raises(TypeError):
        Quantity("MiB", 1) + Quantity("millicore", 1)
    assert Quantity("MiB", 1) + Quantity("MiB", 2) == Quantity("MiB", 3)


@pytest.mark.parametrize(("nano", "micro"), [(499, 0), (500, 0), (501, 1), (1500, 2), (2500, 2), (-500, 0), (-1500, -2)])
def test_lines_are_rounded_half_to_even(nano, micro):
    assert round_micro(Fraction(nano)) == micro


@given(st.dictionaries(st.text(max_size=3), st.fractions(0, 1000), max_size=8))
def test_shares_add_up_and_none_is_a_unit_off(exact):
    whole = round(sum(exact.values(), Fraction(0)))
    shares = largest_remainder(whole, exact)
    assert sum(shares.values()) == whole
    assert all(abs(shares[key] - exact[key]) < 1 for key in exact)
    assert shares == largest_remainder(whole, dict(reversed(exact.items())))


def test_shares_of_a_wrong_sum_are_refused():
    with pytest.raises(ValueError, match="not the rounded sum"):
        largest_remainder(9, {"a": Fraction(1, 2)})


def test_only_money_that_was_earned_is_counted_for_a_suspended_task():
    events = [*life(T, T + 30, {"cpu": 1000})]
    pause = [
        replace(events[0], action=Action.PAUSE, spec={}, effective_at=T + 10),
        replace(events[0], action=Action.RESUME, spec={}, effective_at=T + 20),
    ]
    assert nano(project([*events, *pause]), SIMPLE) == nano(project(life(T, T + 20, {"cpu": 1000})), SIMPLE)

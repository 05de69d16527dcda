"""The price book: seeded once, only ever added to, clear about what it refuses."""

import threading

import pytest
import sqlalchemy as sa
from tests.billing.streams import CARD, CARDS, HOUR, T

from tessera_billing import BillingError
from tessera_billing.prices import add_price, create_book, ensure_default_prices, price_list
from tessera_billing.tables import metadata, price_version

pytestmark = pytest.mark.billing

CPU = {"family": "cpu", "unit": "core", "nano_per_unit_hour": 1, "valid_from": T, "now": T, "actor": "grace"}


def cost_at(connection, when, dimension="cpu", tenant="physics"):
    found = price_list(connection).at(when, tenant=tenant, cluster="local", dimension=dimension, mode="on-demand")
    return None if found is None else found.nano_per_unit_hour


def test_default_prices_are_there_once_and_since_ever(connection):
    assert ensure_default_prices(connection, T, {CARD: 12_000_000_000}) == 4
    assert ensure_default_prices(connection, T + 5, {CARD: 99}) == 0
    assert cost_at(connection, 0) == cost_at(connection, T + HOUR) == 100_000_000
    assert cost_at(connection, T, CARDS) == 12_000_000_000
    assert cost_at(connection, T, "cards/H20") is None


def test_a_card_that_comes_later_is_priced_from_then_on(connection):
    ensure_default_prices(connection, T)
    assert ensure_default_prices(connection, T + HOUR, {CARD: 7}) == 1
    assert [cost_at(connection, when, CARDS) for when in (T + HOUR - 1, T + HOUR)] == [None, 7]


def test_an_operators_price_stays_when_the_service_starts_again(connection):
    ensure_default_prices(connection, T)
    add_price(connection, **{**CPU, "nano_per_unit_hour": 5})
    ensure_default_prices(connection, T + HOUR)
    assert cost_at(connection, T + HOUR) == 5


def test_a_change_of_price_leaves_the_past_alone(connection):
    ensure_default_prices(connection, T)
    add_price(connection, **{**CPU, "nano_per_unit_hour": 5, "valid_from": T + 10})
    assert [cost_at(connection, when) for when in (T + 9, T + 10)] == [100_000_000, 5]
    # A second thought before it begins: the version recorded last counts.
    add_price(connection, **{**CPU, "nano_per_unit_hour": 6, "valid_from": T + 10})
    assert [cost_at(connection, when) for when in (T + 9, T + 10)] == [100_000_000, 6]


def test_a_tenants_own_price_is_only_the_tenants(connection):
    ensure_default_prices(connection, T)
    add_price(connection, **CPU, tenant="physics")
    assert (cost_at(connection, T), cost_at(connection, T, tenant="chemistry")) == (1, 100_000_000)


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"family": "disk"}, "price.unit"),
        ({"unit": "card"}, "price.unit"),
        ({"card_class": CARD}, "price.scope"),
        ({"nano_per_unit_hour": -1}, "price.amount"),
        ({"nano_per_unit_hour": 0.5}, "price.amount"),
        ({"valid_to": T}, "price.validity"),
        ({"valid_from": T - 1}, "price.past"),
        ({"book": "none"}, "price.book"),
    ],
)
def test_a_bad_price_is_refused_and_leaves_nothing(connection, values, code):
    ensure_default_prices(connection, T)
    count = sa.select(sa.func.count()).select_from(price_version)
    before = connection.execute(count).scalar_one()
    with pytest.raises(BillingError) as refused:
        add_price(connection, **{**CPU, **values})
    assert refused.value.code == code
    assert refused.value.message
    assert connection.execute(count).scalar_one() == before


def test_a_price_of_the_past_has_to_be_meant(connection):
    ensure_default_prices(connection, T)
    add_price(connection, **{**CPU, "valid_from": T - 10}, backdated=True)
    assert [cost_at(connection, when) for when in (T - 11, T - 10)] == [100_000_000, 1]


@pytest.mark.parametrize("currency", ["cny", "¥", "RMBY", ""])
def test_a_currency_is_a_code(connection, currency):
    with pytest.raises(BillingError, match="is not a currency code"):
        create_book(connection, "other", currency, T)


def test_a_book_keeps_its_currency(connection):
    ensure_default_prices(connection, T)
    with pytest.raises(BillingError, match="is in CNY, not EUR"):
        ensure_default_prices(connection, T, currency="EUR")


def test_services_that_start_together_seed_once(postgres_database):
    engine = sa.create_engine(postgres_database)
    metadata.create_all(engine)
    added = []

    def start():
        with engine.begin() as connection:
            added.append(ensure_default_prices(connection, T, {CARD: 1}))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(price_version)).scalar_one() == 4
    engine.dispose()
    assert sorted(added) == [0, 0, 0, 4]

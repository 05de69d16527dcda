"""What the database itself refuses, and what it keeps exactly."""

import uuid

import pytest
import sqlalchemy as sa
from tests.billing.streams import T, life

from tessera_billing import tables
from tessera_billing.adjustments import Adjustment, AdjustmentKind, adjust, of_month
from tessera_billing.ledger import record
from tessera_billing.prices import add_price, ensure_default_prices, price_list

pytestmark = pytest.mark.billing


def fill(connection):
    record(connection, life(T, T + 10, {"cpu": 1000}))
    ensure_default_prices(connection, T)
    adjust(connection, Adjustment(uuid.uuid4(), "physics", "2026-11", AdjustmentKind.REFUND, -1, "CNY", "outage", "grace", T))


@pytest.mark.parametrize("table", tables.INSERT_ONLY, ids=lambda table: table.name)
@pytest.mark.parametrize("verb", ["UPDATE", "DELETE", "TRUNCATE"])
def test_insert_only_tables_refuse_change(connection, table, verb):
    fill(connection)
    column = next(iter(table.primary_key.columns))
    statement = {"UPDATE": sa.update(table).values({column: column}), "DELETE": sa.delete(table)}.get(verb)
    if verb == "TRUNCATE":
        # SQLite has no TRUNCATE; without CASCADE PostgreSQL would refuse for the foreign key alone.
        name = connection.dialect.identifier_preparer.format_table(table)
        statement = sa.delete(table) if connection.dialect.name == "sqlite" else sa.text(f"TRUNCATE {name} CASCADE")
    with pytest.raises(sa.exc.DBAPIError, match="is insert-only"), connection.begin_nested():
        connection.execute(statement)
    assert connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() > 0


def test_triggers_can_be_made_twice_and_undone(connection):
    tables.create_triggers(connection)
    fill(connection)
    tables.drop_triggers(connection)
    assert connection.execute(sa.delete(tables.meter_event)).rowcount == 2
    fill(connection)
    tables.create_triggers(connection)
    with pytest.raises(sa.exc.DBAPIError, match="meter_event is insert-only"), connection.begin_nested():
        connection.execute(sa.delete(tables.meter_event))


@pytest.mark.parametrize("number", [0, -1, 2**63, -(2**63) - 1, 10**77])
def test_integers_beyond_64_bits_are_kept_exactly(connection, number):
    if number >= 0:
        ensure_default_prices(connection, T)
        version = add_price(
            connection, family="cpu", unit="core", nano_per_unit_hour=number, valid_from=T, now=T, actor="grace", tenant="physics"
        )
        assert {v.version_id: v.nano_per_unit_hour for v in price_list(connection).versions}[version] == number
    if number:
        kind = AdjustmentKind.CORRECTION
        adjust(connection, Adjustment(uuid.uuid4(), "physics", "2026-11", kind, number, "CNY", "migration", "grace", T))
        assert [row.amount_micro for row in of_month(connection, "physics", "2026-11")] == [number]


@pytest.mark.parametrize("value", [1.5, "1", True])
def test_an_exact_integer_is_an_int_and_nothing_else(connection, value):
    row = {"adjustment_id": uuid.uuid4(), "tenant": "t", "period": "2026-11", "kind": "refund", "amount_micro": value}
    row |= {"currency": "CNY", "reason": "r", "actor": "a", "recorded_at": 0}
    with pytest.raises(sa.exc.StatementError, match="is not an int"), connection.begin_nested():
        connection.execute(sa.insert(tables.adjustment).values(row))


def test_intervals_of_negative_length_are_refused(connection):
    record(connection, life(T, T + 10, {"cpu": 1000}))
    with pytest.raises(sa.exc.IntegrityError), connection.begin_nested():
        connection.execute(sa.update(tables.usage_interval).values(t1=T - 1))

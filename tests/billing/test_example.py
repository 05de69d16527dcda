"""The example of docs/explanation/billing.md has the digits that the code gives."""

from pathlib import Path

import pytest
from tests.billing.streams import CARD, CARDS, T, life

from tessera_billing.bills import month_bill, task_bill
from tessera_billing.ledger import record
from tessera_billing.prices import ensure_default_prices

pytestmark = pytest.mark.billing

PAGE = (Path(__file__).parents[2] / "docs/explanation/billing.md").read_text("utf-8")


def row(name):
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| {name} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_worked_example_is_what_a_bill_says(connection):
    ensure_default_prices(connection, T, {CARD: 12_000_000_000})
    record(connection, life(T, T + 5400, {"cpu": 4000, "memory": 8192, CARDS: 50}))
    bill = task_bill(connection, "task-of-uid-1", T + 9000)
    for name, line in zip(("card", "CPU", "memory"), bill.lines, strict=True):
        cells = row(name)
        assert cells[1].endswith(f"= {line.unit_seconds}")
        assert cells[3] == f"{line.amount_micro // 10**6}.{line.amount_micro % 10**6:06}"
    assert row("total")[3] == f"{bill.amount_micro // 10**6}.{bill.amount_micro % 10**6:06}"


def test_the_example_of_shares_is_what_three_tasks_pay(connection):
    ensure_default_prices(connection, T)
    for name in "abc":
        record(connection, life(T, T + 1, {"cpu": 1000}, name))
    paid = [task_bill(connection, f"task-of-{name}", T + 9).amount_micro for name in "abc"]
    whole = month_bill(connection, "physics", "2026-11", "UTC", T + 9).total_micro
    assert f"rounded to {whole}." in PAGE
    assert ", ".join(map(str, paid)) in PAGE
    assert sum(paid) == whole

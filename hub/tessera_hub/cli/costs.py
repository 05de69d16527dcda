"""``tessera bill``."""

from __future__ import annotations

from collections.abc import Iterable

import click

from tessera_hub.client import TesseraClient
from tessera_hub.client.wording import dimension, duration, money, needs_places, quantity
from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.bills import BillLine

from .output import connected, find_task, print_facts, print_json, print_table


@click.command()
@click.argument("task", required=False)
@click.option("--month", metavar="YYYY-MM", help="The bill of a tenant's month; needs --tenant.")
@click.option("--tenant", metavar="NAME", help="Only this tenant.")
@click.option(
    "--by",
    type=click.Choice(["day", "task", "resource", "person"]),
    default="day",
    show_default=True,
    help="How cost is grouped.",
)
@click.option("--start", metavar="DAY", help="First day, such as 2026-11-01.")
@click.option("--end", metavar="DAY", help="First day that is not included.")
@click.option("--all", "everybody", is_flag=True, help="Not only your own work.")
@connected
def bill(
    client: TesseraClient,
    task: str | None,
    month: str | None,
    tenant: str | None,
    by: str,
    start: str | None,
    end: str | None,
    everybody: bool,
    as_json: bool,
) -> None:
    """Show what a task costs, a tenant's month, or your work by day, task, resource or person."""
    if task and month:
        raise click.UsageError(_("Name either a task or a month."))
    if task:
        one = find_task(client, task).bill()
        if as_json:
            print_json(one)
            return
        print_facts([(_("Run time"), duration(one.seconds)), (_("Cost"), money(one.amount_micro, one.currency))])
        _print_lines(one.lines, one.currency)
    elif month:
        whole = client.month_bill(tenant or _only_tenant(client), month)
        if as_json:
            print_json(whole)
            return
        print_facts(
            [(_("Tenant"), whole.tenant), (_("Month"), whole.month), (_("Cost"), money(whole.amount_micro, whole.currency))]
        )
        _print_lines(whole.lines, whole.currency)
    else:
        table = client.costs(by, start=start, end=end, tenant=tenant, mine=not everybody)
        if as_json:
            print_json(table)
            return
        heading = {"day": _("Day"), "task": _("Task"), "resource": _("Resource"), "person": _("Person")}[by]
        exact = needs_places(row.amount_micro for row in table.rows)
        rows = [[row.title or row.key, money(row.amount_micro, row.currency, exact=exact)] for row in table.rows]
        print_table([heading, _("Cost")], rows, right=(1,), empty=_("Nothing was spent in this time."))
        if rows:
            click.echo(_("Total: {amount}", amount=money(table.amount_micro, table.currency, exact=exact)))


def _only_tenant(client: TesseraClient) -> str:
    me = client.me()
    if me.default_tenant is None:
        raise click.UsageError(_("Name a tenant with --tenant: {names}", names=", ".join(me.tenants)))
    return me.default_tenant


def _print_lines(lines: Iterable[BillLine], currency: str) -> None:
    lines = list(lines)
    exact = needs_places(line.amount_micro for line in lines)
    print_table(
        [_("Item"), _("Resource"), _("Quantity"), _("Amount"), ""],
        (
            [
                line.sku,
                dimension(line.dimension),
                quantity(line.dimension, line.unit_seconds),
                money(line.amount_micro, currency, exact=exact),
                _("provisional") if line.provisional else "",
            ]
            for line in lines
        ),
        right=(2, 3),
        empty=_("Nothing was spent yet."),
    )

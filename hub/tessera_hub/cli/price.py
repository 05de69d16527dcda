"""``tessera price``: the price book, through the API."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from tessera_hub.client import TesseraClient, TesseraError, calls
from tessera_hub.client.quantities import exact
from tessera_hub.client.wording import money
from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.prices import NewPrice, Price

from .output import connected, print_json, print_table
from .tasks import local_time

_NANO = 1_000_000_000


@click.group("price")
def command() -> None:
    """Show the price book and add versions. To add needs the scope of an operator."""


@command.command("list")
@click.option("--all", "every", is_flag=True, help="Past versions, too.")
@connected
def list_prices(client: TesseraClient, every: bool, as_json: bool) -> None:
    """Show what resources cost now and from later on."""
    now = datetime.now(UTC)
    found = [price for price in client.call(calls.prices()) if every or price.valid_to is None or price.valid_to > now]
    if as_json:
        print_json(found)
        return
    print_table(
        [_("Resource"), _("Price per hour"), _("For"), _("From"), _("Until"), _("Tenant"), _("Cluster"), _("Mode")],
        (_row(price) for price in found),
        right=(1,),
        empty=_("There are no prices yet."),
    )


def _row(price: Price) -> list[str]:
    return [
        price.dimension,
        money(price.nano_per_unit_hour // 1000, price.currency),
        price.unit,
        local_time(price.valid_from) if price.valid_from else "",
        local_time(price.valid_to) if price.valid_to else "",
        price.tenant or _("every"),
        price.cluster or _("every"),
        price.mode or _("every"),
    ]


@command.command("add")
@click.argument("resource")
@click.argument("amount")
@click.option("--unit", metavar="UNIT", help="What it is for; by default core, GiB or card.")
@click.option("--from", "valid_from", type=click.DateTime(), help="When it begins, in UTC; by default now.")
@click.option("--until", "valid_to", type=click.DateTime(), help="When it ends, in UTC; by default with a later version.")
@click.option("--tenant", metavar="NAME", help="Only for this tenant.")
@click.option("--cluster", metavar="NAME", help="Only on this cluster.")
@click.option("--mode", metavar="MODE", help="Only for use of this mode.")
@click.option("--backdated", is_flag=True, help="Let it begin in the past: bills that people have seen change.")
@connected
def add(
    client: TesseraClient,
    resource: str,
    amount: str,
    unit: str | None,
    valid_from: datetime | None,
    valid_to: datetime | None,
    tenant: str | None,
    cluster: str | None,
    mode: str | None,
    backdated: bool,
    as_json: bool,
) -> None:
    """Say what an hour of a resource costs from now or a given time on: `tessera price add cards/A100-80G 15.00`.

    RESOURCE is cpu, memory, cards/CLASS or card_memory/CLASS; AMOUNT is in the currency of the price book. What was used before
    keeps its price.
    """
    try:
        new = NewPrice(
            dimension=resource,
            nano_per_unit_hour=_nano(amount),
            unit=unit,
            valid_from=valid_from and valid_from.replace(tzinfo=UTC),
            valid_to=valid_to and valid_to.replace(tzinfo=UTC),
            tenant=tenant,
            cluster=cluster,
            mode=mode,
            backdated=backdated,
        )
    except ValueError as error:
        raise TesseraError(
            "price.unit",
            _("{resource} is not something that has a price.", resource=repr(resource)),
            _("Use cpu, memory, cards/CLASS or card_memory/CLASS."),
        ) from error
    made = client.call(calls.add_price(new))
    if as_json:
        print_json(made)
    else:
        click.echo(
            _(
                "{resource} costs {price} per {unit} and hour from {time} on.",
                resource=made.dimension,
                price=money(made.nano_per_unit_hour // 1000, made.currency),
                unit=made.unit,
                time=local_time(made.valid_from),
            )
        )


def _nano(amount: str) -> int:
    nano = exact(amount, _NANO)
    if nano is None or not 0 <= nano < 1 << 62:
        raise TesseraError(
            "price.amount", _("{amount} is not a price.", amount=repr(amount)), _("Write it like 0.35; nine decimals at most.")
        )
    return nano

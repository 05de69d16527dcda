"""``tessera queues``, ``clusters`` and ``capacity``."""

from __future__ import annotations

import click

from tessera_hub.client import TesseraClient
from tessera_hub.client.wording import amount, cards, dimension, duration, memory, rate
from tessera_hub.i18n import gettext as _

from .output import connected, print_json, print_table
from .tasks import local_time


def state_text(state: str) -> str:
    """Return the name of a cluster's or queue's state."""
    return {
        "ok": _("connected"),
        "suspect": _("late"),
        "unreachable": _("not reachable"),
        "draining": _("draining"),
        "never_connected": _("never connected"),
        "open": _("open"),
        "closed": _("closed"),
    }.get(state, state)


@click.command()
@connected
def queues(client: TesseraClient, as_json: bool) -> None:
    """Show queues and what of their quotas is used."""
    found = client.queues()
    if as_json:
        print_json(found)
        return
    print_table(
        [_("Queue"), _("Tenant"), _("State"), _("Running"), _("Waiting"), _("Resource"), _("Used"), _("Limit")],
        (
            [
                queue.path if first else "",
                queue.tenant if first else "",
                state_text(queue.state) if first else "",
                str(queue.running_tasks) if first else "",
                str(queue.waiting_tasks) if first else "",
                dimension(line.dimension) if line else "",
                amount(line.dimension, line.used) if line else "",
                "" if line is None else _("none") if line.limit is None else amount(line.dimension, line.limit),
            ]
            for queue in found
            for first, line in [(True, queue.quota[0] if queue.quota else None), *((False, line) for line in queue.quota[1:])]
        ),
        right=(3, 4, 6, 7),
        empty=_("No queues. Ask your administrator to put you into a tenant."),
    )


@click.command()
@connected
def datasets(client: TesseraClient, as_json: bool) -> None:
    """Show the data sets that your tasks may read, and where they are."""
    found = client.datasets()
    if as_json:
        print_json(found)
        return
    print_table(
        [_("Data set"), _("Description"), _("Clusters")],
        ([dataset.name, dataset.description, ", ".join(dataset.clusters)] for dataset in found),
        empty=_("No data sets. An operator declares them in a cluster's settings."),
    )


@click.command()
@connected
def clusters(client: TesseraClient, as_json: bool) -> None:
    """Show the connected clusters."""
    found = client.capacity()
    if as_json:
        print_json(found)
        return
    print_table(
        [_("Cluster"), _("Kind"), _("State"), _("Last contact"), _("Workspaces"), _("Waiting")],
        (
            [
                cluster.name,
                cluster.kind,
                state_text(cluster.state),
                local_time(cluster.last_contact),
                _("yes") if cluster.workspaces else _("no"),
                str(cluster.waiting_tasks),
            ]
            for cluster in found
        ),
        right=(5,),
        empty=_("No cluster is connected. An operator adds one with: tessera cluster add NAME"),
    )


@click.command()
@connected
def capacity(client: TesseraClient, as_json: bool) -> None:
    """Show what is free where, and its price."""
    found = client.capacity()
    if as_json:
        print_json(found)
        return
    currency = client.me().currency if any(cluster.cards for cluster in found) else ""
    rows = []
    for cluster in found:
        wait = "" if cluster.eta_seconds_p50 is None else duration(cluster.eta_seconds_p50)
        for name in ("cpu", "memory"):
            if name in cluster.total:
                free, total = amount(name, cluster.free.get(name, 0)), amount(name, cluster.total[name])
                rows.append([cluster.name, dimension(name), free, total, "", "", wait])
        for card in cluster.cards:
            price = "" if card.nano_per_card_hour is None else rate(card.nano_per_card_hour, currency)
            free, total = cards(card.free_centi_cards), cards(card.total_centi_cards)
            largest = cards(card.largest_share_centi_cards)
            rows.append([cluster.name, f"{card.card_class} ({memory(card.memory_mib)})", free, total, largest, price, wait])
    print_table(
        [_("Cluster"), _("Resource"), _("Free"), _("Total"), _("Largest share"), _("Price of a card"), _("Typical wait")],
        rows,
        right=(2, 3, 4),
        empty=_("No cluster is connected. An operator adds one with: tessera cluster add NAME"),
    )

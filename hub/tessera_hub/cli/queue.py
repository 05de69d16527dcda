"""``tessera queue``: the queue tree and its quotas for operators, through the API."""

from __future__ import annotations

import re
from typing import Any

import click

from tessera_hub.client import TesseraClient, TesseraError, calls
from tessera_hub.client.quantities import quota_amount
from tessera_hub.client.wording import amount, dimension
from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.capacity import Queue
from tessera_hub.schemas.resources import DIMENSION

from .output import connected, print_json, print_table
from .places import queues


@click.group("queue")
def command() -> None:
    """Add queues and set their quotas. Needs the scope of an operator; `tessera queues` shows them."""


@command.command("add")
@click.argument("path")
@connected
def add(client: TesseraClient, path: str, as_json: bool) -> None:
    """Add a queue below another one, such as physics/vision; the first part is the tenant."""
    parent, _slash, name = path.rpartition("/")
    if not parent:
        raise TesseraError(
            "queue.path",
            _("{path} has no queue above it.", path=path),
            _("Tenants come from the hub's groups; write TENANT/NAME."),
        )
    made = client.call(calls.add_queue(_find(client, parent).id, name))
    if as_json:
        print_json(made)
    else:
        click.echo(_("Queue {path} is there.", path=made.path))


@command.command("set")
@click.argument("path")
@click.option("--limit", "limits", multiple=True, metavar="RESOURCE=AMOUNT", help="Most that may be in use; none lifts it.")
@click.option("--guarantee", "guarantees", multiple=True, metavar="RESOURCE=AMOUNT", help="Kept for it even if idle.")
@click.option("--deserved", "deserved", multiple=True, metavar="RESOURCE=AMOUNT", help="Its fair part when others wait.")
@click.option("--priority", type=click.IntRange(0, 100), help="Of its tasks among the tenant's queues.")
@click.option("--policy", metavar="NAME", help="How a cluster is chosen.")
@click.option("--state", type=click.Choice(["open", "closed", "draining"]), help="Closed takes no tasks; draining starts none.")
@connected
def change(
    client: TesseraClient,
    path: str,
    limits: tuple[str, ...],
    guarantees: tuple[str, ...],
    deserved: tuple[str, ...],
    as_json: bool,
    **settings: Any,
) -> None:
    """Set quotas and other settings of a queue; what is left out stays.

    RESOURCE is cpu, memory, cards/CLASS or card_memory/CLASS; AMOUNT is in cores, memory such as 64GiB, or cards.
    """
    queue = _find(client, path)
    changes = {name: value for name, value in settings.items() if value is not None}
    quota = {line.dimension: line.model_dump(include={"limit", "guarantee", "deserved"}) for line in queue.quota}
    touched = set()
    for kind, given in (("limit", limits), ("guarantee", guarantees), ("deserved", deserved)):
        for text in given:
            name, value = _amount(text, kind)
            quota.setdefault(name, {})[kind] = value
            touched.add(name)
    if touched:
        changes["quota"] = {name: quota[name] for name in sorted(touched)}
    if not changes:
        raise click.UsageError(_("Say what to set, such as --limit cpu=8."))
    changed = client.call(calls.change_queue(queue.id, **changes))
    if as_json:
        print_json(changed)
        return
    print_table(
        [_("Resource"), _("Used"), _("Limit"), _("Guarantee"), _("Deserved")],
        (
            [
                dimension(line.dimension),
                amount(line.dimension, line.used),
                _("none") if line.limit is None else amount(line.dimension, line.limit),
                amount(line.dimension, line.guarantee),
                amount(line.dimension, line.deserved),
            ]
            for line in changed.quota
        ),
        right=(1, 2, 3, 4),
        empty=_("No quotas."),
    )


def _find(client: TesseraClient, path: str) -> Queue:
    for queue in client.queues():
        if queue.path == path:
            return queue
    raise TesseraError("queue.unknown", _("There is no queue {path}.", path=path), _("`tessera queues` shows them."))


def _amount(text: str, kind: str) -> tuple[str, int | None]:
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(DIMENSION, name):
        raise TesseraError(
            "quota.amount",
            _("{text} does not name a resource and an amount.", text=repr(text)),
            _("Write it like cpu=8, memory=64GiB or cards/A100-80G=4."),
        )
    return name, None if kind == "limit" and value == "none" else quota_amount(name, value)


command.add_command(queues, "list")

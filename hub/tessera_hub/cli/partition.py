"""``tessera vgpu partition``: the MIG layout of a card of this node."""

from __future__ import annotations

from typing import Any, Final

import click
import pynvml as _pynvml

from tessera_hub.i18n import gettext as _
from tessera_vgpu.catalogue import Placements, load
from tessera_vgpu.errors import VgpuError
from tessera_vgpu.partitions import PartitionedCard, arrange, as_many_as_fit

from .output import ExitCode, print_json, print_table
from .refusal import Refused

pynvml: Final[Any] = _pynvml


class Failed(click.ClickException):
    """What was asked cannot be done; nothing was changed."""

    exit_code = ExitCode.REFUSED


@click.command("partition")
@click.argument("card")
@click.argument("profiles", nargs=-1)
@click.option("--fill", is_flag=True, help="The one profile as often as it fits.")
@click.option("--off", is_flag=True, help="Remove all partitions and turn MIG off.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def partition(card: str, profiles: tuple[str, ...], fill: bool, off: bool, as_json: bool) -> None:
    """Show the partitions of a card with MIG, or lay it out anew: `tessera vgpu partition GPU-… 3g.40gb 3g.40gb`.

    CARD is its UUID or index. Partitions that processes use are never touched: nothing is changed then.
    """
    if fill and len(profiles) != 1:
        raise click.UsageError(_("Name one profile with --fill."))
    if off and profiles:
        raise click.UsageError(_("Name no profiles with --off."))
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise Failed(_("The driver's NVML does not answer here: {error}.", error=error)) from error
    try:
        found = PartitionedCard(_uuid(card))
        if off:
            found.reconcile({})
            found.switch(on=False)
        elif profiles:
            cut = _cut(card)
            pieces = as_many_as_fit(cut, profiles[0]) if fill else arrange(cut, profiles)
            found.switch(on=True)
            found.reconcile({str(number): piece for number, piece in enumerate(pieces)})
        there = found.instances()
    except VgpuError as error:
        raise Refused(error) from error
    finally:
        pynvml.nvmlShutdown()
    rows = [(i.piece.name, i.piece.start, i.uuid or "", i.used) for i in sorted(there, key=lambda i: i.piece.start)]
    if as_json:
        print_json([dict(zip(("profile", "start", "uuid", "used"), row, strict=True)) for row in rows])
        return
    print_table(
        [_("Profile"), _("First slice"), _("Device"), _("In use")],
        ([name, str(start), uuid, _("yes") if used else _("no")] for name, start, uuid, used in rows),
        right=(1,),
        empty=_("The card has no partitions."),
    )


def _handle(card: str) -> Any:
    try:
        return pynvml.nvmlDeviceGetHandleByIndex(int(card)) if card.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(card)
    except pynvml.NVMLError as error:
        raise Failed(_("There is no card {card} on this node.", card=card)) from error


def _uuid(card: str) -> str:
    return str(pynvml.nvmlDeviceGetUUID(_handle(card)))


def _cut(card: str) -> Placements:
    name = str(pynvml.nvmlDeviceGetName(_handle(card)))
    model = load().recognise(name)
    if model is None or model.placements is None:
        raise Failed(_("{name} cannot be partitioned.", name=name))
    return model.placements

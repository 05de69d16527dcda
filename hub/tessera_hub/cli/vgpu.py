"""``tessera vgpu``: slices of cards on this node, and simulated cards."""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from tessera_hub.i18n import gettext as _
from tessera_vgpu.errors import VgpuError
from tessera_vgpu.simulate import make_machine, parse_cards, read_cards
from tessera_vgpu.status import STATE_FOLDER, ContainerCard, read_status
from tessera_vgpu.trial import parse_memory, slice_environment

from .output import ExitCode, print_json, print_table

_MIB_PER_GIB: Final = 1024


class Refused(click.ClickException):
    """A refusal of the node agent, in the language of the terminal."""

    exit_code = ExitCode.REFUSED

    def __init__(self, error: VgpuError) -> None:
        texts = (error.template, error.hint_template)
        super().__init__(" ".join(_(text, **error.values) for text in texts if text))


@click.group("vgpu")
def command() -> None:
    """Look at slices of cards on this node, or simulate cards."""


@command.command("status")
@click.option(
    "--state-dir", type=click.Path(path_type=Path), default=STATE_FOLDER, show_default=True, help="Folder of the node agent."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def status(state_dir: Path, as_json: bool) -> None:
    """Show what each container has of the cards, and what it says it uses."""
    try:
        found = read_status(state_dir)
    except VgpuError as error:
        raise Refused(error) from error
    if as_json:
        print_json([asdict(line) for line in found])
        return
    print_table(
        [
            _("Card"),
            _("Pod"),
            _("Container"),
            _("Share"),
            _("Limit"),
            _("Memory"),
            _("Reserved"),
            _("Device time"),
            _("Waited"),
            _("Throttled"),
            _("Processes"),
            _("Remarks"),
        ],
        (_cells(line) for line in found),
        right=(3, 4, 5, 6, 7, 8, 9, 10),
        empty=_("No container has a slice of a card on this node."),
    )


@command.command("simulate", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--cards", required=True, metavar="NxMODEL", help="Cards to simulate, such as 2xA100-80G.")
@click.option("--memory", metavar="SIZE", help="Give the program a slice of so much memory of each card, such as 8GiB.")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
def simulate(cards: str, memory: str | None, program: tuple[str, ...]) -> None:
    """Run a program that finds simulated NVIDIA cards, and end with its exit status."""
    folder = Path(tempfile.mkdtemp(prefix="tessera-simulated-"))
    try:
        machine = make_machine(folder / "machine", parse_cards(cards, read_cards()))
        status = machine.run(program, slice_environment(machine, parse_memory(memory)) if memory is not None else None)
    except VgpuError as error:
        raise Refused(error) from error
    except OSError as error:
        raise click.ClickException(_("{name} cannot be started: {reason}", name=program[0], reason=error.strerror)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    # A program that a signal ended: what a shell says.
    sys.exit(status if status >= 0 else 128 - status)


def _cells(line: ContainerCard) -> list[str]:
    return [
        line.card,
        f"{line.namespace}/{line.pod}",
        line.container,
        f"{line.centi_cards / 100:.2f}",
        f"{line.limit_centi_cards / 100:.2f}",
        _gib(line.memory_mib),
        _gib(line.reserved_mib),
        f"{line.device_time_s:.1f} s",
        f"{line.waiting_s:.1f} s",
        f"{line.throttled_s:.1f} s",
        str(line.processes),
        ", ".join(line.remarks),
    ]


def _gib(memory_mib: int) -> str:
    return f"{memory_mib / _MIB_PER_GIB:.2f} GiB"

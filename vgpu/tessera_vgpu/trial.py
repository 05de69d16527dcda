"""A slice of simulated cards: what enforces slices in containers, tried on a program of one's own."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final

from tessera_vgpu.errors import VgpuError
from tessera_vgpu.inside import PAGES_VARIABLE
from tessera_vgpu.pages import CardLimits, Limits, create_limits, create_usage
from tessera_vgpu.simulate import VGPU, Card, Machine
from tessera_vgpu.turns import create_turns, write_rosters

NODE_VARIABLE: Final = "TESSERA_TRIAL_NODE"
LIBRARY: Final = VGPU / "build" / "interposer" / "libtessera_vgpu_trial.so"
_SIZE: Final = re.compile(r"(\d+)(MiB|GiB)")
_MIB: Final = 1 << 20
_MIB_PER_GIB: Final = 1024


def parse_memory(wanted: str) -> int:
    """Return the MiB that a text such as ``8GiB`` or ``512MiB`` asks for.

    Raises:
        VgpuError: ``simulate.memory``, it is no such text, or nothing.
    """
    match = _SIZE.fullmatch(wanted.strip())
    mib = int(match[1]) * (_MIB_PER_GIB if match[2] == "GiB" else 1) if match else 0
    if not 0 < mib < 1 << 30:
        raise VgpuError("simulate.memory", "{wanted} is no amount of memory.", "Write it as 8GiB or 512MiB.", wanted=wanted)
    return mib


def slice_environment(
    machine: Machine, memory_mib: int | None, centi_cards: int = 100, base: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return *base*, or this process's environment, with a slice of each card; its pages lie beside the machine.

    Args:
        memory_mib: limit of each card; None: all that its driver gives to a program.
        centi_cards: limit of each card's time.

    Raises:
        VgpuError: ``simulate.enforcement``, the library is not built; ``simulate.memory``, a card has not so much.
    """
    if not LIBRARY.exists():
        raise VgpuError(
            "simulate.enforcement",
            "The library that enforces slices is not in {folder}.",
            "Build it with: make interposer",
            folder=LIBRARY.parent,
        )
    for card in machine.cards:
        if memory_mib is not None and memory_mib > _most_mib(card):
            raise VgpuError(
                "simulate.memory",
                "A slice of a card {card} has at most {most} MiB, not {memory_mib}.",
                "Ask for less; the driver and the program's context take the rest.",
                card=card.name,
                most=_most_mib(card),
                memory_mib=memory_mib,
            )
    pages = machine.state.with_name(f"{machine.state.name}-slice")
    pages.mkdir(exist_ok=True)
    cards = tuple(
        CardLimits(uuid, (memory_mib or _most_mib(card)) * _MIB, centi_cards, centi_cards, context_bytes=card.context_mib * _MIB)
        for uuid, card in zip(machine.uuids, machine.cards, strict=True)
    )
    limits, node = Limits("simulated", "program", cards), pages / "node"
    create_limits(pages / "limits", limits)
    for name in ("usage", "turns"):
        (pages / name).unlink(missing_ok=True)
    node.mkdir(exist_ok=True)
    create_usage(pages / "usage")
    create_turns(pages / "turns", node, limits.container)
    write_rosters(node, {limits.container: limits})
    environment = dict(os.environ if base is None else base)
    before = environment.get("LD_PRELOAD")
    environment["LD_PRELOAD"] = f"{LIBRARY}:{before}" if before else str(LIBRARY)
    environment[PAGES_VARIABLE] = str(pages)
    environment[NODE_VARIABLE] = str(node)
    return environment


def _most_mib(card: Card) -> int:
    """Return what one program can have of a card."""
    return card.memory_mib - card.reserved_mib - card.context_mib

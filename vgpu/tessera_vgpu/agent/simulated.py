"""A node without cards whose agent shares simulated ones: their state, which containers share, and nodes that stand for cards."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tessera_vgpu.agent.nodes import SHARED
from tessera_vgpu.plugin import IN_CONTAINER
from tessera_vgpu.simulate import STATE_VARIABLE, make_machine, parse_cards, read_cards

FOLDER_IN_CONTAINER: Final = IN_CONTAINER / "simulated"
_MACHINE: Final = "machine"
_NULL: Final = os.makedev(1, 3)
"""The simulated driver opens no device; the null device stands for each."""


@dataclass(frozen=True, slots=True)
class SimulatedCards:
    """Where they are; all of it in the agent's folder, so that an agent that comes back finds the same cards.

    Attributes:
        state: folder that every process on the cards writes into, in whatever container.
        nodes: folder of the device nodes.
    """

    state: Path
    nodes: Path

    @property
    def environment(self) -> dict[str, str]:
        """What leads programs in containers to them."""
        return {STATE_VARIABLE: str(FOLDER_IN_CONTAINER / _MACHINE)}

    def use(self) -> None:
        """Let the driver in this process, and in those that it starts, find them."""
        os.environ[STATE_VARIABLE] = str(self.state / _MACHINE)


def simulated_cards(folder: Path, wanted: str) -> SimulatedCards:
    """Return the cards of *folder*, made there if there are none yet.

    Args:
        wanted: such as ``2xA100-80G``; cards that are there stay what they are.

    Raises:
        VgpuError: ``simulate.cards``, ``simulate.libraries``.
    """
    found = SimulatedCards(folder / "simulated", folder / "simulated-nodes")
    for part in (found.state, found.nodes):
        part.mkdir(parents=True, exist_ok=True)
    # Programs of all users make shared memory there.
    found.state.chmod(0o777)
    cards = parse_cards(wanted, read_cards())
    if not (found.state / _MACHINE).exists():
        make_machine(found.state / _MACHINE, cards, mode=0o666)
    for name in (*SHARED, *(f"nvidia{number}" for number in range(len(cards)))):
        if not (found.nodes / name).exists():
            os.mknod(found.nodes / name, stat.S_IFCHR | 0o666, _NULL)
    return found

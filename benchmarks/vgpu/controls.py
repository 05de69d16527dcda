"""The methods of control that are compared: no control, four of others' (``rivals/rivals.c``), and this project's library."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from benchmarks.vgpu.machines import HERE, Container, Control, Setting, compile_program
from tessera_vgpu.pages import CardLimits, Limits, create_limits, create_usage
from tessera_vgpu.simulate import LIBRARIES, VGPU, Machine
from tessera_vgpu.turns import create_turns, write_rosters

MIB = 1 << 20
LIBRARY = VGPU / "build" / "interposer" / "libtessera_vgpu_trial.so"


class NoControl(Control):
    """The card's own turns."""

    name = "no_control"

    def prepare(self, machine: Machine, folder: Path, containers: Sequence[Container], setting: Setting) -> list[dict[str, str]]:
        """Return empty environments."""
        return [{} for _ in containers]


@cache
def rivals() -> Path:
    """Compile the library of the others' methods."""
    folder = VGPU / "build" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    options = ["-shared", "-fPIC", "-fvisibility=hidden", f"-L{LIBRARIES}", "-l:libnvidia-ml.so.1"]
    return compile_program(folder / "librivals.so", HERE / "rivals" / "rivals.c", *options)


class Rival(Control):
    """One of the others' methods, by its name in ``rivals.c``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def prepare(self, machine: Machine, folder: Path, containers: Sequence[Container], setting: Setting) -> list[dict[str, str]]:
        """Make the page that all containers share."""
        page = folder / "rivals"
        page.touch()
        return [
            {
                "LD_PRELOAD": str(rivals()),
                "RIVAL_METHOD": self.name,
                "RIVAL_PAGE": str(page),
                "RIVAL_PLACE": str(place),
                "RIVAL_REQUEST": str(container.request),
                "RIVAL_LIMIT": str(container.limit),
                "RIVAL_PRIORITY": str(container.priority),
                "RIVAL_DILATION_PPM": str(setting.ppm),
            }
            for place, container in enumerate(containers)
        ]


class Ours(Control):
    """The library that enforces slices, with a folder of pages for each container and one that they share."""

    name = "ours"

    def prepare(self, machine: Machine, folder: Path, containers: Sequence[Container], setting: Setting) -> list[dict[str, str]]:
        """Make the containers' pages."""
        environments = []
        given: dict[str, Limits] = {}
        node = folder / "node"
        node.mkdir()
        model = setting.model()
        room = (model.memory_mib - model.reserved_mib) * MIB // len(containers) - MIB
        for place, container in enumerate(containers):
            pages = folder / f"container-{place}"
            pages.mkdir()
            card = CardLimits(
                machine.uuids[0],
                room,
                container.request,
                container.limit,
                container.weight,
                context_bytes=model.context_mib * MIB,
            )
            limits = Limits(f"pod-{place}", "main", (card,), container.priority)
            create_limits(pages / "limits", limits)
            create_usage(pages / "usage")
            create_turns(pages / "turns", node, pages.name)
            given[pages.name] = limits
            environments.append(
                {
                    "LD_PRELOAD": str(LIBRARY),
                    "TESSERA_TRIAL_PAGES": str(pages),
                    "TESSERA_TRIAL_NODE": str(node),
                    "TESSERA_TRIAL_DILATION_PPM": str(setting.ppm),
                }
            )
        write_rosters(node, given)
        return environments


OURS = Ours()
OTHERS: tuple[Control, ...] = (
    NoControl(),
    *(Rival(name) for name in ("block_count_linear", "block_count_squared", "aimd", "exclusive_quantum")),
)
EVERYONE: tuple[Control, ...] = (OURS, *OTHERS)

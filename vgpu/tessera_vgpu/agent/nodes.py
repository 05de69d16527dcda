"""The device nodes of a slice: copies of the machine's own, of the chosen cards and of what every program of the driver needs."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tessera_vgpu.errors import VgpuError

SHARED: Final = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
_READ_WRITE: Final = 0o666


@dataclass(frozen=True, slots=True)
class DeviceNodes:
    """Makes the ``dev`` of a slice.

    Args:
        root: where the machine's nodes are, ``/dev`` or that of a driver container.
        minors: card → number of its node.
    """

    root: Path
    minors: Mapping[str, int]

    def make(self, folder: Path, uuids: Sequence[str]) -> None:
        """Make the nodes of cards in a new folder. Their numbers are read from the machine's nodes each time.

        Raises:
            VgpuError: ``devices.missing``, ``devices.unknown_card``.
        """
        for uuid in uuids:
            if uuid not in self.minors:
                raise VgpuError(
                    "devices.unknown_card",
                    "Card {card} is not on this node any more.",
                    "Delete the pod; its controller makes another.",
                    card=uuid,
                )
        for name in (*(f"nvidia{self.minors[uuid]}" for uuid in uuids), *SHARED):
            device = self._device(name)
            os.mknod(folder / name, stat.S_IFCHR | _READ_WRITE, device)
            # mknod obeys the umask.
            (folder / name).chmod(_READ_WRITE)

    def _device(self, name: str) -> int:
        try:
            found = (self.root / name).stat()
        except OSError:
            found = None
        if found is None or not stat.S_ISCHR(found.st_mode):
            raise VgpuError(
                "devices.missing",
                "The device node {path} is missing on this node.",
                "Run nvidia-modprobe -u -c 0 there, or start nvidia-persistenced with it.",
                path=self.root / name,
            )
        return found.st_rdev

"""What the containers of a node have and use, read from the agent's folder without asking the agent."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tessera_vgpu.agent.view import Seen, read_seen
from tessera_vgpu.bindings import Slot, decode
from tessera_vgpu.errors import VgpuError
from tessera_vgpu.pages import read_usage

STATE_FOLDER: Final = Path("/run/tessera-vgpu")
"""Where the node agent keeps its promises, on a file system that a restart of the machine empties."""


@dataclass(frozen=True, slots=True)
class ContainerCard:
    """A container's part of one card. Times are seconds of all its processes.

    Attributes:
        driver_mib: what the driver says that its processes have, contexts included; None where no agent has looked lately.
        remarks: what its page cannot mean, and how the agent found it to go around its limits.
    """

    namespace: str
    pod: str
    container: str
    card: str
    centi_cards: int
    limit_centi_cards: int
    memory_mib: int
    reserved_mib: int
    driver_mib: int | None
    device_time_s: float
    waiting_s: float
    throttled_s: float
    processes: int
    remarks: tuple[str, ...]


def read_status(folder: Path = STATE_FOLDER) -> list[ContainerCard]:
    """Return what containers have, by card and pod. Figures of use are the containers' own words.

    Raises:
        VgpuError: ``status.unreadable``.
    """
    try:
        slots = [decode(path.read_bytes()) for path in sorted((folder / "journal").iterdir()) if path.suffix == ".json"]
    except (OSError, ValueError) as error:
        raise VgpuError(
            "status.unreadable",
            "The node agent's folder {folder} cannot be read: {reason}.",
            "Run this as root on the node of the cards, where tessera vgpu agent runs.",
            folder=folder,
            reason=getattr(error, "strerror", None) or error,
        ) from error
    seen = read_seen(folder, time.time())
    found = [line for slot in slots for line in _lines(folder, slot, seen)]
    return sorted(found, key=lambda line: (line.card, line.namespace, line.pod, line.container))


def _lines(folder: Path, slot: Slot, seen: Seen) -> list[ContainerCard]:
    if slot.binding is None:
        return []
    usage = read_usage(folder / "slots" / slot.nonce / "usage", len(slot.binding.shares))
    owner, limits = slot.binding.owner, slot.binding.limits()
    lines: list[ContainerCard] = []
    for index, (share, card) in enumerate(zip(slot.binding.shares, limits.cards, strict=True)):
        total, reserved = usage.totals[index], usage.reserved_bytes[index]
        over = ("over_limit",) if max(reserved, total.bytes) > card.memory_limit_bytes else ()
        lines.append(
            ContainerCard(
                owner.namespace,
                owner.pod,
                owner.container,
                share.uuid,
                len(share.device_ids),
                card.compute_limit_centi,
                share.memory_mib,
                -(-reserved // (1 << 20)),
                -(-driver // (1 << 20)) if (driver := seen.driver_bytes.get((slot.nonce, share.uuid))) is not None else None,
                total.device_time_ns / 1e9,
                total.waiting_ns / 1e9,
                total.throttled_ns / 1e9,
                len(usage.processes),
                tuple(dict.fromkeys((*usage.anomalies, *over, *seen.findings.get((slot.nonce, share.uuid), ())))),
            )
        )
    return lines

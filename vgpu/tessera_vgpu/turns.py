"""Who has a part of a card, and the pages through which these containers take turns on it.

A folder of the node, read-only in every container, holds the turns page of each container and a roster for each card; each
container writes its own page, which is the same file under another name. The protocol is in ``vgpu/interposer/turns.c``, the
layout in ``pages.h``. A roster says what counts of request, limit, weight and class, so a tenant gains nothing by writing
other numbers into its own page.
"""

from __future__ import annotations

import ctypes
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tessera_vgpu.errors import VgpuError
from tessera_vgpu.layout import (
    MOST_NEIGHBOURS,
    ROSTER_MAGIC,
    TURNS_MAGIC,
    VERSION,
    NeighbourBytes,
    RosterBytes,
    TurnsCardBytes,
    TurnsPageBytes,
)
from tessera_vgpu.pages import CardLimits, Limits, copy_page

STALE_NS: Final = 200_000_000
"""Who has said nothing for so long is not active, as in ``turns.c``."""
_LONG_WAIT_NS: Final = 50_000_000


@dataclass(frozen=True, slots=True)
class Claim:
    """What a container says of a card: ``active`` that it has work there or wants to, ``wants`` that it does without a pause.

    Who has its turn with work on the card wants it, and who has waited for longer than turns of others take.
    """

    active: bool = False
    wants: bool = False


def read_claims(path: Path, card_count: int, now_ns: int) -> tuple[Claim, ...]:
    """Return what a turns page says of the container's first *card_count* cards. Raises nothing, whatever the page holds.

    Args:
        now_ns: of the monotonic clock, in which the container's processes write.
    """
    size = ctypes.sizeof(TurnsPageBytes)
    content, _anomalies = copy_page(path, size)
    page = TurnsPageBytes.from_buffer_copy(content.ljust(size, b"\0"))
    return tuple(_claim(card, now_ns) for card in page.cards[:card_count])


def _claim(card: TurnsCardBytes, now_ns: int) -> Claim:
    fresh = [
        seat
        for place, seat in enumerate(card.seats)
        if card.seats_in_use >> place & 1 and now_ns - STALE_NS < seat.active_ns <= now_ns + STALE_NS
    ]
    wants = any((seat.held_ns and seat.until_ns > now_ns) or 0 < seat.wanted_ns < now_ns - _LONG_WAIT_NS for seat in fresh)
    return Claim(bool(fresh), wants)


def create_turns(path: Path, folder: Path, name: str) -> None:
    """Write an empty turns page that every user may change, and show it to others as *name* in the node's *folder*.

    Both must be on one file system. A page that is there, with its name in the folder, stays as it is.
    """
    shown = folder / name
    if path.exists() and shown.exists() and path.samefile(shown):
        return
    shown.unlink(missing_ok=True)
    if not path.exists():
        page = TurnsPageBytes(magic=TURNS_MAGIC, version=VERSION, size=ctypes.sizeof(TurnsPageBytes))
        new = path.with_name(f".{path.name}")
        new.unlink(missing_ok=True)
        _write(new, bytes(page), 0o666)
        new.replace(path)
    shown.hardlink_to(path)


def write_rosters(folder: Path, containers: Mapping[str, Limits]) -> None:
    """Write who has a part of which card, each roster wholly or not at all, and remove what belongs to nobody any more.

    Args:
        folder: the node's; nobody else writes rosters there at the same time.
        containers: name of the turns page in *folder* → the container's limits.

    Raises:
        VgpuError: ``turns.too_many``, more containers on one card than a roster holds; nothing is written for that card.
    """
    cards: dict[str, list[NeighbourBytes]] = {}
    for name, limits in sorted(containers.items()):
        for place, card in enumerate(limits.cards):
            cards.setdefault(card.uuid, []).append(_neighbour(name, place, card, limits.priority_class))
    for uuid, neighbours in cards.items():
        if len(neighbours) > MOST_NEIGHBOURS:
            raise VgpuError(
                "turns.too_many",
                "More than {most} containers have a part of card {card}.",
                "Let some of them end first.",
                most=MOST_NEIGHBOURS,
                card=uuid,
            )
        roster = RosterBytes(magic=ROSTER_MAGIC, version=VERSION, size=ctypes.sizeof(RosterBytes), count=len(neighbours))
        for place, neighbour in enumerate(neighbours):
            roster.neighbours[place] = neighbour
        path = folder / f"roster-{uuid}"
        if not path.exists() or path.read_bytes() != bytes(roster):
            temporary = folder / f".{path.name}.{secrets.token_hex(4)}"
            _write(temporary, bytes(roster), 0o444)
            temporary.replace(path)
    kept = {*containers, *(f"roster-{uuid}" for uuid in cards)}
    for path in list(folder.iterdir()):
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _neighbour(name: str, place: int, card: CardLimits, priority_class: int) -> NeighbourBytes:
    return NeighbourBytes(
        page=name.encode(),
        place=place,
        compute_request_centi=card.compute_request_centi,
        compute_limit_centi=card.compute_limit_centi,
        weight=card.weight,
        priority_class=priority_class,
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, content)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)

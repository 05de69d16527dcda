"""What the agent has found out last: plain frozen data, from which metrics, the status page and the status file are made."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from tessera_vgpu.agent.meters import Times
from tessera_vgpu.bindings import Owner

FILE: Final = "seen.json"


class Bypass(StrEnum):
    """How a container was found to go around its limits."""

    NO_LIBRARY = "no_library"
    """A process has a card open, or a context there, and the library is not mapped in it."""
    HIDDEN_MEMORY = "hidden_memory"
    """The driver says that a process has more than it has booked."""
    OVER_LIMIT = "over_limit"
    """The driver says that a container has more than its limit, whatever its books say."""
    HIDDEN_TIME = "hidden_time"
    """The driver says that a container uses more of a card's time than its processes book."""
    TAKEN_TIME = "taken_time"
    """A container has more of a card's time than is its part, by the driver's account, while others say that they wait."""
    OVER_TIME_LIMIT = "over_time_limit"
    """The driver says that a container uses more of a card's time than its limit, without a pause."""
    FOREIGN_CARD = "foreign_card"
    """A process has a context on a card that its container was not given."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A container that goes around its limits.

    ``pid`` is the machine's number of the process, 0 for the whole container; ``bytes`` are what the driver says, and no part of
    which finding it is.
    """

    kind: Bypass
    nonce: str
    card: str
    pid: int = 0
    bytes: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class CardUse:
    """A card: what can be given of it, what is given, and what the driver says is used by whom.

    ``other_bytes`` belong to processes that are no pod's with a slice.
    """

    uuid: str
    model: str
    memory_mib: int
    given_centi_cards: int
    given_memory_mib: int
    slices_bytes: int
    other_bytes: int
    healthy: bool = True


@dataclass(frozen=True, slots=True)
class ContainerUse:
    """A container's part of one card. ``driver_bytes`` are what the driver says, ``reserved_bytes`` what its page does."""

    nonce: str
    owner: Owner
    card: str
    centi_cards: int
    limit_centi_cards: int
    memory_mib: int
    reserved_bytes: int
    driver_bytes: int
    processes: int
    times: Times
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class View:
    """The node at one moment. ``unix_s`` is when; ``counts`` are findings since the agent started."""

    unix_s: float = 0.0
    cards: Sequence[CardUse] = ()
    containers: Sequence[ContainerUse] = ()
    findings: Sequence[Finding] = ()
    counts: Mapping[Bypass, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """What an agent left for ``tessera vgpu status``, by promise and card: kinds of findings, and the driver's word."""

    findings: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    driver_bytes: Mapping[tuple[str, str], int] = field(default_factory=dict)


def write_seen(folder: Path, view: View) -> None:
    """Leave what the agent sees for who reads it without the agent."""
    content = {
        "unix_s": view.unix_s,
        "findings": [[finding.nonce, finding.card, finding.kind.value] for finding in view.findings],
        "driver_bytes": [[use.nonce, use.card, use.driver_bytes] for use in view.containers],
    }
    temporary = folder / f".{FILE}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file)
    temporary.replace(folder / FILE)


def read_seen(folder: Path, now_unix_s: float, most_age_s: float = 60.0) -> Seen:
    """Return what an agent left, or nothing where that is older: an agent that is away has not looked."""
    try:
        found = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return Seen()
    if now_unix_s - found["unix_s"] > most_age_s:
        return Seen()
    findings: dict[tuple[str, str], tuple[str, ...]] = {}
    for nonce, card, kind in found["findings"]:
        findings[nonce, card] = (*findings.get((nonce, card), ()), kind)
    return Seen(findings, {(nonce, card): amount for nonce, card, amount in found["driver_bytes"]})

"""States, amounts and money as a person reads them; shared by the command line and the widgets."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.resources import CENTI_CARDS_PER_CARD, ResourceVector
from tessera_hub.schemas.tasks import Phase, Progress, Task

_MICRO: Final = 1_000_000
_CENT: Final = 10_000


def phase_text(phase: Phase) -> str:
    """Return the name of a phase."""
    return {
        Phase.QUEUED: _("Queued"),
        Phase.RESERVED: _("Reserved"),
        Phase.DISPATCHED: _("Sent to the cluster"),
        Phase.PENDING: _("Pending"),
        Phase.STARTING: _("Starting"),
        Phase.RUNNING: _("Running"),
        Phase.SUSPENDED: _("Suspended"),
        Phase.UNKNOWN: _("Cluster not reachable"),
        Phase.SUCCEEDED: _("Succeeded"),
        Phase.FAILED: _("Failed"),
        Phase.CANCELLED: _("Cancelled"),
        Phase.PREEMPTED: _("Preempted"),
    }[phase]


def money(micro: int, currency: str, *, exact: bool = False) -> str:
    """Return an amount with two decimals, rounded half up, or with as many of six as a small one needs: ``CNY 0.000417``.

    Args:
        exact: all six decimals, for amounts that stand below one another.
    """
    sign = "-" if micro < 0 else ""
    value = abs(micro)
    if exact:
        return f"{currency} {sign}{value // _MICRO:,}.{value % _MICRO:06d}"
    if value < _MICRO // 10:
        return f"{currency} {sign}0.{f'{value:06d}'.rstrip('0').ljust(2, '0')}"
    whole, cents = divmod((value + _CENT // 2) // _CENT, 100)
    return f"{currency} {sign}{whole:,}.{cents:02d}"


def needs_places(amounts: Iterable[int]) -> bool:
    """Whether one of *amounts* is so small that all of a column are better shown exactly."""
    return any(0 < abs(micro) < _MICRO // 10 for micro in amounts)


def rate(nano_per_hour: int, currency: str) -> str:
    """Return a price per hour."""
    return _("{amount} per hour", amount=money(nano_per_hour // 1000, currency))


def duration(seconds: int) -> str:
    """Return a length of time: ``42 s``, ``3 min 05 s``, ``2 h 10 min``, ``3 d 4 h``."""
    if seconds < 60:
        return _("{seconds} s", seconds=seconds)
    if seconds < 3600:
        return _("{minutes} min {seconds} s", minutes=seconds // 60, seconds=f"{seconds % 60:02d}")
    if seconds < 86_400:
        return _("{hours} h {minutes} min", hours=seconds // 3600, minutes=f"{seconds // 60 % 60:02d}")
    return _("{days} d {hours} h", days=seconds // 86_400, hours=seconds // 3600 % 24)


def memory(mib: int) -> str:
    """Return an amount of memory, in GiB from one GiB on."""
    if mib < 1024:
        return f"{mib} MiB"
    gib = f"{mib / 1024:.1f}".removesuffix(".0")
    return f"{gib} GiB"


def cards(centi_cards: int) -> str:
    """Return a number of cards: ``1``, ``0.5``."""
    whole, share = divmod(centi_cards, CENTI_CARDS_PER_CARD)
    return f"{whole}.{share:02d}".rstrip("0").rstrip(".") if share else str(whole)


def dimension(name: str) -> str:
    """Return the name of a dimension."""
    what, _slash, card_class = name.partition("/")
    match what:
        case "cpu":
            return _("Processor cores")
        case "memory":
            return _("Memory")
        case "cards":
            return _("Cards {card_class}", card_class=card_class)
        case "card_memory":
            return _("Card memory {card_class}", card_class=card_class)
    return name


def amount(dimension_name: str, value: int) -> str:
    """Return an amount of a dimension with its unit."""
    match dimension_name.partition("/")[0]:
        case "cpu":
            return f"{value / 1000:g}"
        case "cards":
            return cards(value)
        case _:
            return memory(value)


def quantity(dimension_name: str, unit_seconds: int) -> str:
    """Return what a bill counts, *unit_seconds* of millicores, MiB or centi-cards: ``0.5 core-seconds``, ``12 GiB-hours``."""
    what = dimension_name.partition("/")[0]
    seconds = Decimal(unit_seconds) / {"cpu": 1000, "cards": CENTI_CARDS_PER_CARD}.get(what, 1024)
    hours = seconds >= 3600
    shown = f"{seconds / 3600 if hours else seconds:,.3f}".rstrip("0").rstrip(".")
    match what:
        case "cpu":
            return _("{amount} core-hours", amount=shown) if hours else _("{amount} core-seconds", amount=shown)
        case "cards":
            return _("{amount} card-hours", amount=shown) if hours else _("{amount} card-seconds", amount=shown)
    return _("{amount} GiB-hours", amount=shown) if hours else _("{amount} GiB-seconds", amount=shown)


def resources(vector: ResourceVector) -> str:
    """Return a short line such as ``1 CPU · 2 GiB · 0.5 × A100-80G``."""
    parts = []
    if cpu := vector.get("cpu"):
        parts.append(f"{cpu / 1000:g} CPU")
    if mib := vector.get("memory"):
        parts.append(memory(mib))
    parts += [f"{cards(value)} × {name.removeprefix('cards/')}" for name, value in vector.items() if name.startswith("cards/")]
    return " · ".join(parts)


def progress(state: Progress) -> str:
    """Return how far a task is: ``3/7``, or nothing when that is not known."""
    return f"{state.cells_done}/{state.cells_total}" if state.cells_total else ""


def situation(task: Task) -> str:
    """Return what a person wants to know first: the reason, the position in the queue, or the progress."""
    if task.reasons and task.phase is not Phase.SUCCEEDED:
        return task.reasons[0].message or task.reasons[0].code
    if task.phase is Phase.QUEUED and task.position is not None:
        return _("Position {position} in the queue", position=task.position.position)
    if cells := progress(task.progress):
        return _("Cell {cells}", cells=cells)
    if task.progress.address and not task.phase.final:
        return _("Answers at {address}", address=task.progress.address)
    return ""

"""How numbers, times and states are written on pages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.tasks import Phase, Task

NO_BREAK: Final = "\N{NO-BREAK SPACE}"
SYMBOLS: Final = {"CNY": "¥", "EUR": "€", "USD": "$", "GBP": "£", "JPY": "¥"}
TONES: Final = {
    Phase.QUEUED: "wait",
    Phase.RESERVED: "work",
    Phase.DISPATCHED: "work",
    Phase.PENDING: "work",
    Phase.STARTING: "work",
    Phase.RUNNING: "good",
    Phase.SUSPENDED: "wait",
    Phase.UNKNOWN: "warn",
    Phase.SUCCEEDED: "done",
    Phase.FAILED: "bad",
    Phase.CANCELLED: "mute",
    Phase.PREEMPTED: "warn",
}


def phase_label(phase: Phase) -> str:
    """Return the state in words."""
    labels = {
        Phase.QUEUED: _("Waiting"),
        Phase.RESERVED: _("Reserved"),
        Phase.DISPATCHED: _("Sent"),
        Phase.PENDING: _("Pending"),
        Phase.STARTING: _("Starting"),
        Phase.RUNNING: _("Running"),
        Phase.SUSPENDED: _("Suspended"),
        Phase.UNKNOWN: _("No contact"),
        Phase.SUCCEEDED: _("Succeeded"),
        Phase.FAILED: _("Failed"),
        Phase.CANCELLED: _("Cancelled"),
        Phase.PREEMPTED: _("Preempted"),
    }
    return labels[phase]


def workspace_label(phase: Phase) -> str:
    """Return the state of a workspace in words."""
    return _("Stopped") if phase in (Phase.SUCCEEDED, Phase.CANCELLED) else phase_label(phase)


def cluster_state(state: str) -> str:
    """Return the state of a cluster in words."""
    labels = {
        "ok": _("Connected"),
        "suspect": _("Silent"),
        "unreachable": _("Out of contact"),
        "draining": _("Draining"),
        "never_connected": _("Not connected yet"),
    }
    return labels.get(state, state)


def queue_state(state: str) -> str:
    """Return the state of a queue in words."""
    return {"open": _("Accepting"), "closed": _("Closed"), "draining": _("Draining")}.get(state, state)


def policy_label(policy: str) -> str:
    """Return the name of a placement policy in words; one that a package added keeps its own."""
    labels = {"fifo": _("First that fits"), "most-idle": _("Most idle"), "lowest-price": _("Lowest price")}
    return labels.get(policy, policy)


def actor_label(actor: str) -> str:
    """Return in words who did something: ``user:ada``, ``cluster:local``, ``scheduler`` and so on."""
    kind, _colon, name = actor.partition(":")
    if kind == "cluster":
        return _("cluster {name}", name=name)
    if kind == "schedule":
        return _("schedule {name}", name=name[:8])
    return name or {"scheduler": _("scheduler"), "service": _("Tessera")}.get(kind, kind)


def file_size(size: int) -> str:
    """Return bytes as a readable size."""
    if size < 1024:
        return f"{size} B"
    value = Decimal(size)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1024 or unit == "TiB":
            break
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"


def money(micro: int, currency: str, digits: int = 2) -> str:
    """Return an amount; micro-units, never a float. What is not nothing never shows as zero."""
    value = Decimal(micro) / 1_000_000
    shown = value.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    while shown == 0 and value != 0 and digits < 6:
        digits += 1
        shown = value.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return f"{SYMBOLS.get(currency, currency + ' ')}{shown:,.{digits}f}"


def places(total_micro: int) -> int:
    """Return how many decimals the amounts of a table have: all of a small sum, so that what stands below one another adds up."""
    return 6 if 0 < abs(total_micro) < 10_000_000 else 2


def per_hour(nano: int, currency: str) -> str:
    """Return a price per hour."""
    return money(round(Decimal(nano) / 1000), currency)


def unit_price(unit: str, nano: int, currency: str) -> str:
    """Return the price of one unit for an hour, in words; four places where two would round it."""
    units = {"core": _("core"), "card": _("card")}
    price = money(nano // 1000, currency, 2 if nano % 10_000_000 == 0 else 4)
    return _("{price} per {unit} and hour", price=price, unit=units.get(unit, unit))


def per_second(nano: int, currency: str) -> str:
    """Return a price per second, to six places."""
    value = Decimal(nano) / 1_000_000_000 / 3600
    return f"{SYMBOLS.get(currency, currency + ' ')}{value:.6f}"


def amount(dimension: str, value: int) -> str:
    """Return an amount of a dimension with its unit."""
    family, _slash, card = dimension.partition("/")
    if family == "cpu":
        return _("{count} CPU", count=quantity(dimension, value))
    if family == "memory":
        return gibibytes(value)
    if family == "cards":
        return _("{count} × {card}", count=fraction(value), card=_("any card") if card.startswith("any") else card)
    return _("{size} on {card}", size=gibibytes(value), card=card)


def quantity(dimension: str, value: int) -> str:
    """Return an amount without the name of its dimension."""
    family = dimension.partition("/")[0]
    if family == "cpu":
        text = f"{Decimal(value) / 1000:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    if family == "cards":
        return fraction(value)
    return gibibytes(value)


def dimension_label(dimension: str) -> str:
    """Return the name of a dimension."""
    family, _slash, card = dimension.partition("/")
    if family == "cpu":
        return _("Processor cores")
    if family == "memory":
        return _("Memory")
    label = _("Cards {card}", card=card) if family == "cards" else _("Card memory {card}", card=card)
    return label.strip()


def fraction(centi: int) -> str:
    """Return centi-cards as cards: ½, 0.35, 2."""
    known = {25: "¼", 50: "½", 75: "¾"}
    return known.get(centi) or f"{Decimal(centi) / 100:.2f}".rstrip("0").rstrip(".")


def gibibytes(mib: int) -> str:
    """Return MiB as a readable size."""
    if mib < 1024:
        return f"{mib} MiB"
    return f"{Decimal(mib) / 1024:.1f}".removesuffix(".0") + " GiB"


def resources(vector: Mapping[str, int]) -> str:
    """Return a resource vector in one line, cards first."""
    order = {"cards": 0, "card_memory": 1, "cpu": 2, "memory": 3}
    parts = sorted(vector.items(), key=lambda item: order.get(item[0].partition("/")[0], 9))
    # An amount and its unit stay on one line.
    return " · ".join(amount(d, a).replace(" ", NO_BREAK) for d, a in parts if a)


def duration(seconds: float) -> str:
    """Return a length of time in two units."""
    total = max(0, int(seconds))
    hours, minutes, rest = total // 3600, total % 3600 // 60, total % 60
    if hours >= 48:
        return _("{days} d {hours} h", days=hours // 24, hours=hours % 24)
    if hours:
        return _("{hours} h {minutes} min", hours=hours, minutes=minutes)
    return _("{minutes} min {seconds} s", minutes=minutes, seconds=rest) if minutes else _("{seconds} s", seconds=rest)


def elapsed(task: Task, now: datetime) -> str:
    """Return how long a task has run or waited."""
    begin = task.started_at or task.created_at
    return duration(((task.finished_at or now) - begin).total_seconds())


def percent(used: int, limit: int | None) -> int:
    """Return how much of a limit is used, 0 to 100."""
    return 0 if not limit else min(100, used * 100 // limit)

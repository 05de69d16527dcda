"""The quota dashboard: what I hold, what my queues and my tenants hold, for every dimension."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from tessera_hub.client import TesseraClient
from tessera_hub.client.wording import amount, dimension
from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.capacity import Queue, QuotaLine
from tessera_hub.schemas.tasks import Phase, Task
from tessera_widgets.live import STATIC, LiveView, View

HOLDING = [phase.value for phase in Phase if not phase.final and phase is not Phase.QUEUED]
"""Phases in which a task holds its resources."""


def quota_view(queues: Iterable[Queue], mine: Iterable[Task], now: datetime) -> View:
    """Return what the dashboard shows: a group for me, one for each queue, one for each tenant."""
    held: dict[str, int] = {}
    for task in mine:
        for name, value in task.resources.items():
            held[name] = held.get(name, 0) + value
    listed = list(queues)
    own = [_bar(name, value, None, amount(name, value)) for name, value in sorted(held.items())]
    groups = [{"title": _("Mine"), "bars": own, "note": "" if own else _("Nothing is in use.")}]
    groups += [_group(_("Queue {path}", path=queue.path), queue.quota) for queue in listed if queue.parent is not None]
    groups += [_group(_("Tenant {name}", name=queue.tenant), queue.quota) for queue in listed if queue.parent is None]
    return {"title": _("Quota"), "groups": groups, "as_of": now.isoformat(timespec="seconds")}


def _group(title: str, lines: Iterable[QuotaLine]) -> dict[str, Any]:
    bars = []
    for line in lines:
        used = amount(line.dimension, line.used)
        limit = _("no limit") if line.limit is None else amount(line.dimension, line.limit)
        text = _("{used} of {limit}", used=used, limit=limit) if line.limit is not None else f"{used} ({limit})"
        bars.append(_bar(line.dimension, line.used, line.limit, text))
    return {"title": title, "bars": bars, "note": "" if bars else _("No limits, and nothing is in use.")}


def _bar(name: str, used: int, limit: int | None, text: str) -> dict[str, Any]:
    return {"name": dimension(name), "used": used, "limit": limit, "text": text}


class QuotaView(LiveView):
    """``QuotaView()``: my quota, live."""

    _esm = STATIC / "quota.js"

    def __init__(self, client: TesseraClient | None = None, *, every_seconds: float = 5.0, **traits: Any) -> None:
        super().__init__(client, every_seconds=every_seconds, **traits)

    def load(self) -> tuple[View, bool]:
        """Ask for queues and what I hold."""
        queues = self._client.queues()
        mine = [task.task for task in self._client.tasks(phase=HOLDING, mine=True)]
        return quota_view(queues, mine, datetime.now(UTC)), True

"""A task, live: state with its reason, cells, the end of the output, seconds and money."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from tessera_hub.client import TaskHandle, TesseraClient, TesseraError
from tessera_hub.client.following import LogReader
from tessera_hub.client.wording import duration, money, phase_text, resources, situation
from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.tasks import Task
from tessera_widgets.live import STATIC, LiveView, View

LOG_TAIL_CHARACTERS: Final = 8000


def task_view(task: Task, log: str, now: datetime) -> View:
    """Return what the view of a task shows."""
    begin, end = task.started_at, task.finished_at or now
    seconds = int((end - begin).total_seconds()) if begin else 0
    facts: list[dict[str, Any]] = [
        {"name": _("Task"), "value": str(task.id)[:8]},
        {"name": _("Cluster"), "value": task.cluster or "–"},
        {"name": _("Resources"), "value": resources(task.resources)},
        {"name": _("Run time"), "value": duration(max(0, seconds))},
    ]
    cost = None
    if task.cost is not None:
        facts.append({"name": _("Cost"), "value": money(task.cost.micro, task.cost.currency), "ticks": True})
        cost = {
            "currency": task.cost.currency,
            "micro": task.cost.micro,
            "nano_per_hour": 0 if task.phase.final else task.cost.nano_per_hour,
            "as_of": task.cost.as_of.isoformat(),
        }
    total = task.progress.cells_total
    return {
        "title": task.name,
        "phase": task.phase.value,
        "state": phase_text(task.phase),
        "situation": situation(task),
        "final": task.phase.final,
        "cells": {"done": task.progress.cells_done, "total": total} if total else None,
        "facts": facts,
        "cost": cost,
        "log": log,
        "as_of": now.isoformat(timespec="seconds"),
    }


class TaskView(LiveView):
    """``TaskView(client.submit(…))`` or ``TaskView("<id>")``: one task, until it has ended."""

    _esm = STATIC / "task.js"

    def __init__(self, task: TaskHandle | UUID | str, client: TesseraClient | None = None, **options: Any) -> None:
        if isinstance(task, TaskHandle):
            client = client or task.client
        self._task_id = task.id if isinstance(task, TaskHandle) else UUID(str(task))
        self._reader: LogReader | None = None
        self._log = ""
        super().__init__(client, **options)
        self.on_msg(self._message)

    def load(self) -> tuple[View, bool]:
        """Ask for the task and the new part of its output."""
        task = self._client.task(self._task_id).task
        if self._reader is None or self._reader.run != task.run_id:
            self._reader, self._log = LogReader(self._task_id, run=task.run_id), ""
        while text := self._client.run(self._reader.read()):
            self._log = (self._log + text)[-LOG_TAIL_CHARACTERS:]
        # Its state may still come a moment before the rest of its output.
        more = not task.phase.final or not self._reader.final
        now = datetime.now(UTC) if not task.phase.final else task.finished_at or datetime.now(UTC)
        return task_view(task, self._log, now), more

    def _message(self, _widget: Any, content: Any, _buffers: Any) -> None:
        if isinstance(content, dict) and content.get("action") == "cancel":
            threading.Thread(target=self._cancel, name="tessera-cancel", daemon=True).start()

    def _cancel(self) -> None:
        try:
            self._client.task(self._task_id).cancel()
        except TesseraError as error:
            self.tell(error)
        self.refresh()

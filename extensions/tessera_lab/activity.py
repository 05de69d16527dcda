"""Since when nothing works in this workspace: no kernel, no card, no program in a terminal, and nobody who saves a file.

The service decides what follows from it (``tessera_hub/workspaces/idleness.py``). Requests of the browser are no work: an open
tab makes them for ever.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil

SLICE: Final = Path("/run/tessera/limits")
"""Is there in a container that has a slice of a card; NVML then lists the container's own processes and no others."""
CONTENTS_EVENTS: Final = "https://events.jupyter.org/jupyter_server/contents_service/v1"


class Cards:
    """The NVIDIA cards that this process sees, if there is a driver."""

    def __init__(self) -> None:
        self._nvml: Any = None
        with contextlib.suppress(Exception):  # no package, no driver, no permission: no cards to look at
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml

    def work(self) -> bool:
        """Whether a card works for this workspace at the moment."""
        if self._nvml is None:
            return False
        with contextlib.suppress(self._nvml.NVMLError):
            handles = [self._nvml.nvmlDeviceGetHandleByIndex(index) for index in range(self._nvml.nvmlDeviceGetCount())]
            return any(self._works(handle) for handle in handles)
        return True  # a card that cannot be asked is not known to be unused

    def _works(self, handle: Any) -> bool:
        if not self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu:
            return False
        return may_be_ours([process.pid for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)])


def may_be_ours(pids: Iterable[int], *, in_slice: bool | None = None) -> bool:
    """Whether the work of a card, whose processes NVML lists as *pids*, may be that of this workspace.

    Cards are shared: it is not ours if all processes are known to be others'. Drivers list none, or the machine's own numbers,
    to a container that has the whole card: then it is ours.
    """
    listed = list(pids)
    if SLICE.exists() if in_slice is None else in_slice:
        return bool(listed)
    if not listed:
        return True
    ours = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    return any(pid in ours or not psutil.pid_exists(pid) for pid in listed)


def has_foreground_program(terminal: Any) -> bool:
    """Whether a program runs in the foreground of a terminal (``terminado``'s), rather than its shell waiting for a command."""
    shell = terminal.ptyproc
    try:
        return os.tcgetpgrp(shell.fd) != os.getpgid(shell.pid)
    except OSError:
        return False  # it has ended


class Activity:
    """Watches a Jupyter server. Call it from the server's own thread."""

    def __init__(self, serverapp: Any, cards: Cards | None = None) -> None:
        self._server = serverapp
        self._cards = cards or Cards()
        self._active_at = datetime.now(UTC)
        serverapp.event_logger.add_listener(schema_id=CONTENTS_EVENTS, listener=self._saved)

    async def _saved(self, logger: Any, schema_id: str, data: dict[str, Any]) -> None:
        if data.get("action") == "save":
            self._active_at = datetime.now(UTC)

    def idle_seconds(self) -> int:
        """Return for how many whole seconds nothing has worked here, 0 while something does."""
        now = datetime.now(UTC)
        kernels = self._server.kernel_manager.list_kernels()
        manager = self._server.web_app.settings.get("terminal_manager")
        terminals = list(manager.terminals.values()) if manager is not None else []
        busy = any(kernel.get("execution_state") == "busy" for kernel in kernels)
        if busy or any(map(has_foreground_program, terminals)) or self._cards.work():
            self._active_at = now
        else:
            seen = [datetime.fromisoformat(kernel["last_activity"]) for kernel in kernels]
            seen += [terminal.last_activity for terminal in terminals if hasattr(terminal, "last_activity")]
            self._active_at = max([self._active_at, *seen])
        return max(int((now - self._active_at).total_seconds()), 0)

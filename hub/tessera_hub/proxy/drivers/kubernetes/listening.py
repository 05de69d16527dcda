"""Reading the last lines of couriers' logs, beside the looks at runs: a node that is down keeps such a call waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from tessera_hub.proxy.drivers.couriers import progress_of
from tessera_hub.proxy.drivers.foreign import read_foreign
from tessera_hub.proxy.drivers.kubernetes import objects
from tessera_hub.proxy.drivers.kubernetes.calls import in_thread
from volcano_client.errors import ClusterApiError
from volcano_client.transport import Transport

if TYPE_CHECKING:
    from tessera_hub.proxy.drivers.kubernetes.tending import Entry

TOLD_SECONDS: Final = 0.8
"""Pause between two readings of what a courier told."""
LISTENING_AT_ONCE: Final = 16
"""Fewer than there are threads for calls: those that a dead node keeps waiting leave some to the others."""


class Listener:
    """Reads one courier's last line now and then.

    Args:
        woken: called when something new was told.
    """

    def __init__(self, transport: Transport, woken: Callable[[], None]) -> None:
        self._transport = transport
        self._woken = woken
        self._gate = asyncio.Semaphore(LISTENING_AT_ONCE)
        self._reading: set[asyncio.Task[None]] = set()

    def listen(self, entry: Entry, pod: Mapping[str, Any] | None) -> None:
        """Begin to read, unless that was just done or still goes on; what is told stands in the entry afterwards."""
        now = asyncio.get_running_loop().time()
        if pod is None or entry.listens or now - entry.told_at <= TOLD_SECONDS:
            return
        entry.listens = True
        task = asyncio.create_task(self._read(entry, pod))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _read(self, entry: Entry, pod: Mapping[str, Any]) -> None:
        path = objects.PODS.path(pod["metadata"]["namespace"], f"{pod['metadata']['name']}/log")
        try:
            async with self._gate:
                text = await in_thread(lambda: self._transport.raw("GET", path, query={"container": "deliver", "tailLines": 1}))
        except ClusterApiError:
            return
        finally:
            entry.told_at, entry.listens = asyncio.get_running_loop().time(), False
        told = read_foreign(text.strip()) or {}
        before = entry.progress, entry.suspended
        if isinstance(told.get("progress"), dict):
            entry.progress = progress_of(told["progress"]) or entry.progress
        if isinstance(told.get("suspended"), bool):
            entry.suspended = told["suspended"]
        if before != (entry.progress, entry.suspended):
            entry.look_soon()
            self._woken()

"""Keeps Volcano's queues as the service wants them: after each word from it, and now and then, since people change them, too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from tessera_hub.proxy.drivers.kubernetes.cards import Device
from tessera_hub.proxy.drivers.kubernetes.options import SITE
from tessera_hub.proxy.drivers.kubernetes.permissions import system_namespace
from tessera_hub.proxy.drivers.kubernetes.queues import (
    Node,
    Step,
    found_nodes,
    leaf_path,
    queue_name,
    resize_patch,
    steps,
    wanted,
)
from tessera_hub.schemas.protocol import DesiredQueue
from volcano_client.collection import Collection
from volcano_client.errors import ClusterApiError
from volcano_client.kinds import COMMANDS, QUEUES
from volcano_client.objects import Action, Named, Owner, command
from volcano_client.transport import Transport

log = structlog.get_logger(__name__)

LOOK_AGAIN: Final = 60.0
LOOK_SOON: Final = 1.0
"""First pause after a look that had something to do: a queue is closed before it is deleted, and Volcano's admission knows a new
parent a moment late. It doubles while there is something left, up to :data:`LOOK_AGAIN`."""
PATIENCE: Final = 5.0
"""Seconds that an answer of the service waits for the queues before its other orders are obeyed."""


class QueueMirror:
    """The queues of one Proxy at a cluster with Volcano.

    Args:
        prefix: of the names, and the mark of what is ours.
        devices: returns all cards of the cluster.
        namespace: of the orders to Volcano; empty: that of the manifest.
    """

    def __init__(self, transport: Transport, prefix: str, devices: Callable[[], Sequence[Device]], namespace: str = "") -> None:
        self._queues = Collection(transport, QUEUES)
        self._commands = Collection(transport, COMMANDS)
        self._prefix = prefix
        self._namespace = namespace or system_namespace(prefix)
        self._devices = devices
        self._desired: Sequence[DesiredQueue] | None = None
        self._there: frozenset[str] = frozenset()
        self._told: set[str] = set()
        self._again = asyncio.Event()
        self._done = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Stop looking; the queues stay."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def apply(self, desired: Sequence[DesiredQueue]) -> None:
        """Take the service's word; waits a little for it to be done."""
        self._desired = list(desired)
        self._done.clear()
        self._again.set()
        try:
            async with asyncio.timeout(PATIENCE):
                await self._done.wait()
        except TimeoutError:
            log.warning("queues_take_long")

    def name_of(self, path: str | None) -> str | None:
        """Return the engine's queue for runs of a queue; None where it is not there (yet)."""
        if path is None or self._desired is None:
            return None
        name = queue_name(leaf_path(path, {q.parent for q in self._desired if q.parent}), self._prefix)
        return name if name in self._there else None

    async def _keep(self) -> None:
        pause = LOOK_SOON
        while True:
            if self._again.is_set():
                pause = LOOK_SOON
            self._again.clear()
            rests = True
            if self._desired is not None:
                desired = self._desired
                try:
                    rests = not await asyncio.to_thread(self._make, desired)
                except ClusterApiError as error:
                    self._tell("queues_not_mirrored", str(error))
                if desired is self._desired:
                    self._done.set()
            try:
                async with asyncio.timeout(LOOK_AGAIN if rests else pause):
                    await self._again.wait()
            except TimeoutError:
                pause = LOOK_SOON if rests else min(2 * pause, LOOK_AGAIN)

    def _make(self, desired: Sequence[DesiredQueue]) -> bool:
        """Bring the engine's queues to *desired*, as far as it takes the steps; return whether there was anything to do.

        Raises:
            ClusterApiError: the queues cannot even be read.
        """
        have = found_nodes(self._queues.list(labels=f"{SITE}={self._prefix}"))
        there = {node.name: node for node in have}
        self._there = frozenset(there)
        found = steps(wanted(desired, self._devices(), self._prefix), have)
        for step in found:
            try:
                self._do(step, there)
            except ClusterApiError as error:
                self._tell("queue_refused", f"{step.action} {step.node.path or step.node.name}: {error}")
        self._there = frozenset(there)
        return bool(found)

    def _do(self, step: Step, there: dict[str, Node]) -> None:
        name = step.node.name
        match step.action:
            case "create":
                self._queues.create_or_get(step.node.document(self._prefix))
                there[name] = step.node
            case "resize":
                self._queues.patch(name, resize_patch(there[name], step.node))
                there[name] = step.node
            case "delete":
                self._queues.delete(name, uid=step.node.uid or None)
                del there[name]
            case "open" | "close":
                action: Action = "OpenQueue" if step.action == "open" else "CloseQueue"
                # One order at a time: it bears the queue's name, and goes when Volcano has taken it.
                named = Named(f"{name}-{step.action}", self._namespace, {SITE: self._prefix})
                target = Owner(QUEUES.api_version, QUEUES.kind, name, step.node.uid)
                self._commands.create_or_get(command(named, action, target, reason="the service's queue"))

    def _tell(self, event: str, text: str) -> None:
        """Say it once, not every minute."""
        if text not in self._told:
            self._told.add(text)
            log.warning(event, error=text)

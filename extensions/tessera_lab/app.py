"""The Jupyter Server extension."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import platformdirs
from jupyter_server.extension.application import ExtensionApp
from traitlets import Bool, Float, Integer

from tessera_hub.client import AsyncTesseraClient, TesseraError, calls
from tessera_hub.client.lab import ROOT_VARIABLE
from tessera_hub.schemas.workspaces import Idleness
from tessera_lab.activity import Activity
from tessera_lab.handlers import routes
from tessera_lab.placement import Placer
from tessera_lab.usage import Meter

_STATUS_SECONDS: Final = 5.0
"""How long an answer about the connection is good for; several panels ask at once."""
_WARNED_SECONDS: Final = 5.0
"""Pause between two looks at the activity while the workspace is about to be stopped."""


class Gate:
    """This server's connection to the service, and its contents root."""

    def __init__(
        self,
        root: Path,
        record: Path,
        *,
        snapshot_limit_bytes: int,
        allow_hidden: bool,
        places_outputs: bool,
        log: logging.Logger,
    ) -> None:
        self.root = root
        self.snapshot_limit_bytes = snapshot_limit_bytes
        self.allow_hidden = allow_hidden
        self.places_outputs = places_outputs
        self.placer = Placer(root, record, log)
        self.meter = Meter()
        self.idleness: Idleness | None = None
        """How the service sees this workspace, None before it has said so."""
        self._clients: dict[str, AsyncTesseraClient] = {}
        self._looked = 0.0
        self._status: dict[str, Any] = {"connected": False, "since": datetime.now(UTC).isoformat()}

    def client(self, speaks: str = "en") -> AsyncTesseraClient:
        """Return the client of a language.

        Raises:
            TesseraError: ``client.not_configured``.
        """
        if speaks not in self._clients:
            self._clients[speaks] = AsyncTesseraClient(speak=speaks, snapshot_limit_bytes=self.snapshot_limit_bytes)
        return self._clients[speaks]

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.close()

    async def status(self) -> dict[str, Any]:
        """Return whether the service answers, since when that is so, who we are there, and what this workspace holds."""
        if time.monotonic() - self._looked < _STATUS_SECONDS:
            return self._status
        workspace = os.environ.get("TESSERA_TASK_ID") or None
        found: dict[str, Any] = {
            "connected": False,
            "service_url": None,
            "user": None,
            "slice": None,
            "workspace_task_id": workspace,
            "places_outputs": self.places_outputs,
        }
        try:
            client = self.client()
            found["service_url"] = client.connection.url
            found["user"] = (await client.me()).name
            found["connected"] = True
            if workspace:
                found["slice"] = await self._slice(client, workspace)
        except TesseraError as error:
            found["problem"] = error.code
        since = self._status["since"] if self._status["connected"] == found["connected"] else datetime.now(UTC).isoformat()
        self._status, self._looked = {**found, "since": since}, time.monotonic()
        return self._status

    async def _slice(self, client: AsyncTesseraClient, workspace: str) -> dict[str, Any] | None:
        try:
            held = (await client.task(workspace)).task.resources
        except TesseraError:
            return None
        for name, amount in held.items():
            if name.startswith("cards/"):
                card_class = name.removeprefix("cards/")
                memory = held.get(f"card_memory/{card_class}") or await self._share_of_memory(client, card_class, amount)
                return {"card_class": card_class, "centi_cards": amount, "memory_mib": memory}
        return None

    async def _share_of_memory(self, client: AsyncTesseraClient, card_class: str, centi_cards: int) -> int:
        """Memory in MiB that goes with a share for which no memory was named."""
        try:
            cards = [card for cluster in await client.capacity() for card in cluster.cards if card.card_class == card_class]
        except TesseraError:
            return 0
        return cards[0].memory_mib * centi_cards // 100 if cards else 0


class TesseraExtension(ExtensionApp):
    """Same-origin API of Tessera for JupyterLab."""

    name = "tessera_lab"
    extension_url = "/tessera"
    load_other_extensions = True

    snapshot_limit_mib = Integer(
        512,
        config=True,
        help="""Largest snapshot of files that is sent with a job, in MiB.

        For example::

            c.TesseraExtension.snapshot_limit_mib = 2048
        """,
    )
    place_outputs = Bool(
        True,
        config=True,
        help="""Whether outputs of finished jobs are placed beside the notebook by themselves.

        For example::

            c.TesseraExtension.place_outputs = False
        """,
    )
    place_seconds = Float(
        20.0,
        config=True,
        help="""Pause between two looks for finished jobs, in seconds.

        For example::

            c.TesseraExtension.place_seconds = 60.0
        """,
    )

    activity_seconds = Float(
        30.0,
        config=True,
        help="""Pause between two reports of whether something works in this workspace, in seconds.

        For example::

            c.TesseraExtension.activity_seconds = 10.0
        """,
    )

    _tasks: tuple[asyncio.Task[None], ...] = ()
    _gate: Gate | None = None

    def initialize_handlers(self) -> None:
        """Add the routes."""
        assert self.serverapp is not None  # linked before handlers are made
        manager = self.serverapp.contents_manager
        root = Path(getattr(manager, "root_dir", "") or self.serverapp.root_dir)
        os.environ[ROOT_VARIABLE] = str(root)  # for `tessera submit` in terminals and the SDK in kernels
        record = platformdirs.user_state_path("tessera") / "placed.json"
        self._gate = Gate(
            root,
            record,
            snapshot_limit_bytes=self.snapshot_limit_mib << 20,
            allow_hidden=bool(getattr(manager, "allow_hidden", False)),
            places_outputs=self.place_outputs,
            log=self.log,
        )
        self.handlers.extend(routes(self._gate))

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        """Begin to look for finished jobs, and to report whether something works here."""
        if self._tasks:
            return
        loops = [self._place_for_ever()] if self.place_outputs else []
        if workspace := os.environ.get("TESSERA_TASK_ID"):
            loops.append(self._report_for_ever(workspace, Activity(serverapp)))
        self._tasks = tuple(asyncio.create_task(loop) for loop in loops)

    async def _report_for_ever(self, workspace: str, activity: Activity) -> None:
        assert self._gate is not None  # handlers come first
        while True:
            try:
                self._gate.idleness = await self._gate.client().call(calls.report_activity(workspace, activity.idle_seconds()))
            except TesseraError as error:
                self._gate.idleness = None
                self.log.debug("activity not reported: %s", error.message)
            except Exception:
                # What cannot be looked at once may be seen the next time; without a report nothing is stopped.
                self._gate.idleness = None
                self.log.exception("the look at the activity failed")
            warned = self._gate.idleness is not None and self._gate.idleness.stops_at is not None
            await asyncio.sleep(min(self.activity_seconds, _WARNED_SECONDS) if warned else self.activity_seconds)

    async def _place_for_ever(self) -> None:
        assert self._gate is not None  # handlers come first
        while True:
            try:
                for path in await self._gate.placer.sweep(self._gate.client()):
                    self.log.info("placed %s", path)
            except TesseraError as error:
                self.log.debug("no look for finished jobs: %s", error.message)
            except Exception:
                # One bad answer must not end the way back of all later outputs.
                self.log.exception("the look for finished jobs failed")
            await asyncio.sleep(self.place_seconds)

    async def stop_extension(self) -> None:
        """End the loops and close the connections."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._gate is not None:
            await self._gate.close()

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

from tessera_hub.client import AsyncTesseraClient, TesseraError
from tessera_hub.client.lab import ROOT_VARIABLE
from tessera_lab.handlers import routes
from tessera_lab.placement import Placer
from tessera_lab.usage import Meter

_STATUS_SECONDS: Final = 5.0
"""How long an answer about the connection is good for; several panels ask at once."""


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

    _poller: asyncio.Task[None] | None = None
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
        """Begin to look for finished jobs."""
        if self.place_outputs and self._poller is None:
            self._poller = asyncio.create_task(self._place_for_ever(), name="tessera-placement")

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
        """End the look for finished jobs and close the connections."""
        if self._poller is not None:
            self._poller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poller
        if self._gate is not None:
            await self._gate.close()

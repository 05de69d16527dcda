"""Event streams of the service over a WebSocket.

A browser opens six plain connections to a host, and an event stream holds one for as long as it lasts: a few open jobs, or a
second window, and no page of the hub would load any more. WebSockets are not counted among the six.

The first message is JSON, ``{"status": 200}`` or a problem document; each one after it is a piece of the stream's bytes.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
from jupyter_server.auth.decorator import ws_authenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from tessera_hub.client import TesseraError
from tessera_hub.client.errors import error_of_transport
from tessera_hub.i18n import choose_language
from tessera_lab.passing import SILENCE_SECONDS, passed_query
from tessera_lab.placement import problem

EVENT_ID = re.compile(r"[0-9a-f-]{1,64}")
"""What the service gives its events as ids: nothing that could end a header."""


class StreamHandler(WebSocketMixin, WebSocketHandler, JupyterHandler):  # pyright: ignore[reportIncompatibleMethodOverride]
    """Passes one event stream on, from the event ``last_event_id`` if it is named, in ``language``."""

    _track_activity = False
    _relay: asyncio.Task[None] | None = None

    def initialize(self, gate: Any) -> None:
        """Take the extension's connection to the service."""
        self.gate = gate

    def set_default_headers(self) -> None:
        """Leave out the headers of pages, which mean nothing here."""

    @ws_authenticated
    async def get(self, path: str) -> None:
        """Become a WebSocket."""
        await super().get(path)

    def open(self, path: str) -> None:
        """Begin to pass on."""
        super().open(path)
        self._relay = asyncio.create_task(self._pass(path))

    def on_message(self, message: str | bytes) -> None:
        """Nothing is asked here."""

    def on_close(self) -> None:
        """Stop a stream that nobody reads any more."""
        if self._relay is not None:
            self._relay.cancel()

    async def _pass(self, path: str) -> None:
        try:
            await self._through(path)
        except TesseraError as error:
            await self.write_message(json.dumps(problem(error)))
        except WebSocketClosedError:
            return
        self.close()

    async def _through(self, path: str) -> None:
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        if EVENT_ID.fullmatch(last := self.get_query_argument("last_event_id", "")):
            headers["Last-Event-ID"] = last
        asked = self.get_query_argument("language", "") or self.request.headers.get("Accept-Language")
        client = self.gate.client(choose_language(asked))
        query = passed_query(self.request.query_arguments, "last_event_id", "language")
        url = f"{client.connection.api}/{path}{query}"
        begun = False
        try:
            async with client.http.stream(
                "GET", url, headers=headers, timeout=httpx.Timeout(30.0, read=SILENCE_SECONDS)
            ) as answer:
                if answer.status_code != 200:
                    await answer.aread()
                    await self.write_message(json.dumps({"status": answer.status_code} | _document(answer)))
                    return
                begun = True
                await self.write_message(json.dumps({"status": 200}))
                async for piece in answer.aiter_raw():
                    await self.write_message(piece, binary=True)
        except httpx.TransportError as error:
            if not begun:
                raise error_of_transport(error, client.connection.url) from error


def _document(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}

"""The same-origin way to the service: what may go through, and nothing else.

Cookies, the XSRF token and the Jupyter server's own token stay here; the service sees the workspace's hub token. Answers are
passed on piece by piece, so that event streams are live, and never as a page of this origin.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx
from jupyter_server.base.handlers import APIHandler
from tornado import web
from tornado.iostream import StreamClosedError

from tessera_hub.client import AsyncTesseraClient, TesseraError
from tessera_hub.client.errors import error_of_transport
from tessera_hub.i18n import choose_language, speak
from tessera_lab.placement import problem

REQUEST_LIMIT_BYTES: Final = 8 * 1024 * 1024
SENT_HEADERS: Final = (
    *("Accept", "Accept-Language", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID", "Range"),
    *("Upload-Length", "Upload-Offset"),
)
RETURNED_HEADERS: Final = (
    *("Content-Disposition", "Content-Length", "ETag", "Retry-After", "Upload-Complete", "Upload-Offset"),
    *("X-Log-End", "X-Log-Final", "X-Log-Offset", "X-Request-ID"),
)
_SAFE_TYPES: Final = (
    *("application/json", "application/problem+json", "application/x-ipynb+json", "application/octet-stream"),
    *("text/plain", "text/event-stream"),
)
_KEPT_BACK: Final = frozenset({"_xsrf", "token"})
SILENCE_SECONDS: Final = 60.0


def passed_query(arguments: Mapping[str, list[bytes]], *kept_back: str) -> str:
    """Return the query for the service, with its question mark: what the Jupyter server itself reads stays here."""
    kept = _KEPT_BACK | set(kept_back)
    query = [(name, value.decode()) for name, values in arguments.items() if name not in kept for value in values]
    return f"?{urlencode(query)}" if query else ""


class TesseraHandler(APIHandler):
    """Base: refusals as problem documents, in the browser's language; polling does not count as a person's activity."""

    _track_activity = False

    def initialize(self, gate: Any) -> None:
        """Take the extension's connection to the service."""
        self.gate = gate

    async def prepare(self, **options: Any) -> None:
        """Choose the language and refuse a body that is too large."""
        speak(self.speaks)
        await super().prepare(**options)
        if not self._finished and len(self.request.body) > REQUEST_LIMIT_BYTES:
            raise web.HTTPError(413, reason="Request body too large")

    @property
    def speaks(self) -> str:
        """Language of this request."""
        return choose_language(self.request.headers.get("Accept-Language"))

    def client(self) -> AsyncTesseraClient:
        """The client that speaks the browser's language.

        Raises:
            TesseraError: ``client.not_configured``.
        """
        client: AsyncTesseraClient = self.gate.client(self.speaks)
        return client

    def refuse(self, error: TesseraError) -> None:
        """Answer with a problem document."""
        body = problem(error)
        self.set_status(body["status"])
        self.finish(json.dumps(body), set_content_type="application/problem+json")

    def answer(self, body: Any) -> None:
        """Answer with JSON."""
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(body))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say what went wrong in the form of all other refusals."""
        caught = kwargs.get("exc_info", (None, None, None))[1]
        message = (caught.log_message or caught.reason) if isinstance(caught, web.HTTPError) else None
        body = {"title": message or f"HTTP {status_code}", "status": status_code, "code": f"http.{status_code}"}
        self.finish(json.dumps(body), set_content_type="application/problem+json")


class PassHandler(TesseraHandler):
    """Passes a request on to the service and its answer back."""

    _relay: asyncio.Task[None] | None = None

    @web.authenticated
    async def get(self, path: str) -> None:
        """Read."""
        await self._pass("GET", path)

    @web.authenticated
    async def head(self, path: str) -> None:
        """Read the headers."""
        await self._pass("HEAD", path)

    @web.authenticated
    async def post(self, path: str) -> None:
        """Act."""
        await self._pass("POST", path)

    @web.authenticated
    async def put(self, path: str) -> None:
        """Replace."""
        await self._pass("PUT", path)

    @web.authenticated
    async def patch(self, path: str) -> None:
        """Append."""
        await self._pass("PATCH", path)

    @web.authenticated
    async def delete(self, path: str) -> None:
        """Remove."""
        await self._pass("DELETE", path)

    def on_connection_close(self) -> None:
        """Stop a stream that nobody reads any more."""
        if self._relay is not None:
            self._relay.cancel()
        super().on_connection_close()

    async def _pass(self, method: str, path: str) -> None:
        parts = path.split("/")
        if any(part in ("", ".", "..") or "\\" in part for part in parts):
            raise web.HTTPError(404)
        self._relay = asyncio.create_task(self._through(method, "/" + "/".join(quote(part, safe="") for part in parts)))
        try:
            await self._relay
        except TesseraError as error:
            if not self._headers_written:
                self.refuse(error)
        except (StreamClosedError, asyncio.CancelledError):
            # The browser has gone.
            return

    async def _through(self, method: str, path: str) -> None:
        client = self.client()
        headers = {name: self.request.headers[name] for name in SENT_HEADERS if name in self.request.headers}
        # Unchanged bytes, so that length and hash stay true.
        headers["Accept-Encoding"] = "identity"
        url = client.connection.api + path + passed_query(self.request.query_arguments)
        body = self.request.body if method in ("POST", "PUT", "PATCH") else None
        timeout = httpx.Timeout(30.0, read=SILENCE_SECONDS)
        try:
            async with client.http.stream(method, url, headers=headers, content=body, timeout=timeout) as response:
                self._begin(response)
                if method != "HEAD":
                    async for piece in response.aiter_raw():
                        self.write(piece)
                        await self.flush()
        except httpx.TransportError as error:
            if self._headers_written:
                # Half an answer must not look whole.
                self.request.connection.stream.close()  # type: ignore[union-attr]
                return
            raise error_of_transport(error, client.connection.url) from error
        await self.finish(set_content_type=self._type)

    def _begin(self, response: httpx.Response) -> None:
        status = response.status_code
        if 300 <= status < 400 and status != 304:
            raise TesseraError("service.answer", "The service redirects; check TESSERA_URL.", status=502)
        self.set_status(status)
        kind = response.headers.get("Content-Type", "application/octet-stream")
        # What a program wrote must never become a page of this origin.
        self._type = kind if kind.partition(";")[0].strip() in _SAFE_TYPES else "application/octet-stream"
        self.set_header("Content-Type", self._type)
        self.set_header("Content-Security-Policy", "sandbox; default-src 'none'")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")
        if self._type.startswith("text/event-stream"):
            self.set_header("X-Accel-Buffering", "no")
        for name in RETURNED_HEADERS:
            if name in response.headers:
                self.set_header(name, response.headers[name])

"""The agent's two HTTP services: metrics for whoever may reach the port, and changes of slices for root on this machine only.

The second is a Unix socket: the kernel says who is at its other end, so there is no secret to keep.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from threading import BoundedSemaphore, Thread
from typing import Any, Final

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from tessera_vgpu.agent.metrics import Metrics, page
from tessera_vgpu.agent.view import View
from tessera_vgpu.errors import VgpuError

LOG: Final = logging.getLogger(__name__)
MOST_BODY: Final = 1 << 16
_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"
_PATIENCE_S: Final = 10.0
_MOST_REQUESTS: Final = 32
"""At the same time; more are closed unanswered, so that nobody can fill the agent with threads."""

Answer = tuple[HTTPStatus, str, bytes]


class _Handler(BaseHTTPRequestHandler):
    """One request a connection; who sends it slowly is not waited for."""

    timeout = _PATIENCE_S
    server_version = "tessera-vgpu"
    sys_version = ""

    def send(self, answer: Answer) -> None:
        """Send an answer."""
        status, kind, body = answer
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def address_string(self) -> str:
        """Return who asks; a Unix socket has no name."""
        return str(self.client_address[0]) if self.client_address else "local"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Keep requests out of the log."""


class MetricsServer:
    """``/metrics`` for Prometheus, ``/`` the same for people, ``/healthz``.

    Args:
        address: host and port; port 0 takes a free one.
        healthy: whether the agent does its work.
    """

    def __init__(self, address: tuple[str, int], view: Callable[[], View], healthy: Callable[[], bool]) -> None:
        registry = Metrics(view).registry()

        def answer(path: str) -> Answer:
            if path == "/metrics":
                return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(registry)
            if path == "/":
                return HTTPStatus.OK, _TEXT, page(view()).encode()
            if path == "/healthz":
                well = healthy()
                return HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, b"ok\n" if well else b"not ok\n"
            return HTTPStatus.NOT_FOUND, _TEXT, b"not found\n"

        class Handler(_Handler):
            def do_GET(self) -> None:
                self.send(answer(self.path.partition("?")[0]))

            def do_HEAD(self) -> None:
                self.do_GET()

        room = BoundedSemaphore(_MOST_REQUESTS)

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET

            def process_request(self, request: Any, client_address: Any) -> None:
                if room.acquire(blocking=False):
                    super().process_request(request, client_address)
                else:
                    self.shutdown_request(request)

            def process_request_thread(self, request: Any, client_address: Any) -> None:
                try:
                    super().process_request_thread(request, client_address)
                finally:
                    room.release()

        self._server = Server(address, Handler)
        self._thread = Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    @property
    def address(self) -> str:
        """Host and port."""
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def start(self) -> None:
        """Serve until :meth:`stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()


class _LocalServer(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


class ControlServer:
    """``GET /slices`` and ``PATCH /slices/<namespace>/<pod>/<container>`` for root, on a Unix socket.

    Args:
        path: of the socket; one that is left over is replaced.
        slices: returns what there is.
        change: changes one, by namespace, pod, container and the fields of the body, and returns it.
    """

    def __init__(
        self, path: Path, slices: Callable[[], Any], change: Callable[[str, str, str, Mapping[str, int]], Mapping[str, Any]]
    ) -> None:
        self._path = path

        class Handler(_Handler):
            def do_GET(self) -> None:
                self._answer(lambda: slices() if self.path == "/slices" else None)

            def do_PATCH(self) -> None:
                parts = self.path.split("/")
                if len(parts) == 5 and parts[1] == "slices":
                    self._answer(lambda: change(parts[2], parts[3], parts[4], _fields(self)))
                else:
                    self._answer(lambda: None)

            def _answer(self, act: Callable[[], Any]) -> None:
                if not _is_root(self.connection):
                    error = VgpuError("control.not_root", "Only root may change slices on this node.")
                    self.send(_refusal(HTTPStatus.FORBIDDEN, error))
                    return
                try:
                    found = act()
                except VgpuError as error:
                    status = _STATUS.get(error.code, HTTPStatus.UNPROCESSABLE_ENTITY)
                    self.send(_refusal(status, error))
                    return
                if found is None:
                    self.send((HTTPStatus.NOT_FOUND, _TEXT, b"not found\n"))
                    return
                self.send((HTTPStatus.OK, _JSON, json.dumps(found).encode()))

        path.unlink(missing_ok=True)
        # The socket is nobody else's from the moment on at which it is there.
        before = os.umask(0o177)
        try:
            self._server = _LocalServer(str(path), Handler)
        finally:
            os.umask(before)
        self._thread = Thread(target=self._server.serve_forever, name="control", daemon=True)

    def start(self) -> None:
        """Serve until :meth:`stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Close the socket."""
        self._server.shutdown()
        self._server.server_close()
        with suppress(FileNotFoundError):
            self._path.unlink()


_STATUS: Final = {"slots.no_slice": HTTPStatus.NOT_FOUND, "placement.no_room": HTTPStatus.CONFLICT}


def _is_root(connection: socket.socket) -> bool:
    """Whether root, or the agent's own user, is at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _pid, uid, _gid = struct.unpack("3i", credentials)
    return uid in (0, os.geteuid())


def _fields(request: BaseHTTPRequestHandler) -> dict[str, int]:
    """Return the body of a request: whole numbers by name.

    Raises:
        VgpuError: ``control.body``.
    """
    try:
        length = int(request.headers.get("Content-Length") or 0)
        if not 0 <= length <= MOST_BODY:
            raise ValueError("too long")
        found = json.loads(request.rfile.read(length))
        if not isinstance(found, dict) or not all(type(value) is int for value in found.values()):
            raise ValueError("not whole numbers by name")
    except (ValueError, OSError, RecursionError) as error:
        raise VgpuError("control.body", "The request cannot be read: {reason}.", reason=error) from error
    return found


def _refusal(status: HTTPStatus, error: VgpuError) -> Answer:
    body = {"code": error.code, "message": error.template, "hint": error.hint_template, "values": error.values}
    return status, _JSON, json.dumps(body, default=str).encode()

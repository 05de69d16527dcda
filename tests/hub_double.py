"""A double of JupyterHub's REST API: the few routes the service asks, over real HTTP, with people, groups and tokens.

It stands in where a test needs many people or a hub that misbehaves; the browser tests and ``tessera demo`` run the real hub.
Answers have the form of JupyterHub 6.1 (fields that the service reads). ``broken`` makes it answer 500.
"""

from __future__ import annotations

import json
import secrets
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

USER_SCOPES = ("custom:tessera:tasks:read", "custom:tessera:tasks:submit", "custom:tessera:bills:read")
OPERATOR_SCOPES = (*USER_SCOPES, "custom:tessera:operate")


@dataclass
class HubDouble:
    """People, groups and tokens of the double; change them at will while it serves."""

    service_token: str = field(default_factory=lambda: secrets.token_hex(16))
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    tokens: dict[str, tuple[str, str, tuple[str, ...]]] = field(default_factory=dict)
    """token → (kind, name, scopes)"""
    broken: bool = False
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    server: ThreadingHTTPServer | None = None

    def add_tenant(self, name: str) -> None:
        """Add a group that is a tenant."""
        self.groups[name] = {"name": name, "properties": {"tessera.tenant": name}}

    def add_user(self, name: str, *tenants: str, operator: bool = False, scopes: tuple[str, ...] | None = None) -> str:
        """Add (or create anew) a user in *tenants* and return a token of theirs."""
        for tenant in tenants:
            if tenant not in self.groups:
                self.add_tenant(tenant)
        created = datetime.now(UTC).isoformat()
        self.users[name] = {"kind": "user", "name": name, "created": created, "groups": list(tenants), "admin": operator}
        return self.add_token("user", name, scopes or (OPERATOR_SCOPES if operator else USER_SCOPES))

    def add_server(self, user: str, name: str) -> None:
        """Let *user* have a running server."""
        self.users[user].setdefault("servers", {})[name] = {"name": name, "ready": True}

    def add_token(self, kind: str, name: str, scopes: tuple[str, ...]) -> str:
        """Return a new token."""
        token = secrets.token_hex(16)
        self.tokens[token] = (kind, name, scopes)
        return token

    @property
    def url(self) -> str:
        """Address of the API."""
        assert self.server is not None
        return f"http://127.0.0.1:{self.server.server_address[1]}/hub/api"

    def start(self) -> None:
        """Serve on a free port."""
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Stop serving."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()

    def answer(self, method: str, path: str, token: str, body: Any) -> tuple[int, Any]:
        """Return status and JSON of one call."""
        self.calls.append((method, path, body))
        if self.broken:
            return 500, {"status": 500, "message": "broken"}
        own = token == self.service_token
        if path == "/user":
            if token not in self.tokens:
                return 403, {"status": 403, "message": "Forbidden"}
            kind, name, scopes = self.tokens[token]
            if kind == "user" and name not in self.users:
                return 403, {"status": 403, "message": "Forbidden"}
            model = self.users[name] if kind == "user" else {"name": name, "admin": False, "groups": []}
            return 200, {"kind": kind, "scopes": list(scopes), **{k: model[k] for k in ("name", "admin", "groups")}}
        if not own:
            return 403, {"status": 403, "message": "Forbidden"}
        if path == "/groups":
            return 200, list(self.groups.values())
        if path.startswith("/users/"):
            parts = [unquote(p) for p in path.split("/")[2:]]
            if parts[0] not in self.users:
                return 404, {"status": 404, "message": "No such user"}
            return (200, self.users[parts[0]]) if len(parts) == 1 else (202, None)
        return 404, {"status": 404, "message": "Not Found"}


def _handler(double: HubDouble) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            token = self.headers.get("Authorization", "").partition(" ")[2]
            path = self.path.partition("?")[0].removeprefix("/hub/api")
            status, data = double.answer(self.command, path, token, json.loads(raw) if raw else None)
            payload = b"" if data is None else json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = _serve  # noqa: N815

        def log_message(self, *_args: Any) -> None:
            """Keep the test's output clean."""

    return Handler

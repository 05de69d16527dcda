"""A relay to AWS (or its double) that answers some calls as AWS does when an account makes too many."""

from __future__ import annotations

import http.client
import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

ERRORS: Final = {"TooManyRequestsException": 429, "ThrottlingException": 400}
"""Code → HTTP status; both occur with AWS Batch."""


class ThrottlingRelay:
    """Passes calls on, or refuses them.

    Attributes:
        share: of the calls to AWS Batch that are refused, between 0 and 1.
        operations: words of the paths of calls that are refused; empty: all of Batch.
        refused: code → how many calls got it.
    """

    def __init__(self, target: int, seed: int = 1) -> None:
        self.share = 0.0
        self.operations: tuple[str, ...] = ()
        self.refused = dict.fromkeys(ERRORS, 0)
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                pass

            def serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                code = relay.choose(self.path)
                if code is not None:
                    told = json.dumps({"__type": code, "message": "Rate exceeded"}).encode()
                    self._answer(ERRORS[code], {"Content-Type": "application/json", "x-amzn-ErrorType": code}, told)
                    return
                with_ = http.client.HTTPConnection("127.0.0.1", target, timeout=60)
                skipped = ("connection", "expect")
                headers = {name: value for name, value in self.headers.items() if name.lower() not in skipped}
                with_.request(self.command, self.path, body, headers)
                answer = with_.getresponse()
                data = answer.read()
                kept = {n: v for n, v in answer.getheaders() if n.lower() not in ("connection", "transfer-encoding")}
                self._answer(answer.status, kept, data)
                with_.close()

            def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
                self.send_response_only(status)
                if self.command != "HEAD":
                    headers = {n: v for n, v in headers.items() if n.lower() != "content-length"}
                    headers["Content-Length"] = str(len(data))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

        for method in ("GET", "POST", "PUT", "DELETE", "HEAD"):
            setattr(Handler, f"do_{method}", Handler.serve)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def choose(self, path: str) -> str | None:
        """Return the code with which a call is refused, None if it is passed on."""
        named = path.startswith("/v1/") and (not self.operations or path.rpartition("/")[2] in self.operations)
        with self._lock:
            if not named or self._chance.random() >= self.share:
                return None
            code = self._chance.choice(list(ERRORS))
            self.refused[code] += 1
            return code

    def close(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()

"""Calls to the service with the run's own token. Every call may be repeated after a lost answer."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from tessera_hub.proxy.courier.settings import Settings

PIECE: Final = 1 << 20
CALL_SECONDS: Final = 60.0
FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 15.0
ATTEMPTS: Final = 3

T = TypeVar("T")


class RefusedError(Exception):
    """The service refused: HTTP status and stable code."""

    def __init__(self, status: int, code: str, detail: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        self.detail = dict(detail)


class UnreachableError(Exception):
    """No answer, or one of a server in trouble: a repeat later may succeed."""


class DamagedError(Exception):
    """An input did not arrive as it was announced, several times."""


class Service:
    """The run's own routes at the service."""

    def __init__(self, settings: Settings) -> None:
        self._base = f"{settings.url.rstrip('/')}/runs/{settings.run_id}"
        self._settings = settings

    def _request(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Any:
        url, sent = f"{self._base}/{path}", {"Authorization": f"Bearer {self._settings.run_token}", **headers}
        request = urllib.request.Request(url, data=body, method=method, headers=sent)  # noqa: S310 - the Proxy's address
        try:
            return urllib.request.urlopen(request, timeout=CALL_SECONDS)  # noqa: S310
        except urllib.error.HTTPError as error:
            with error:
                try:
                    found = json.loads(error.read() or b"{}")
                except (OSError, ValueError, http.client.HTTPException):
                    found = {}
            detail = found if isinstance(found, dict) else {}
            code = str(detail.get("code", ""))
            if error.code >= 500 and code != "disk.full":
                raise UnreachableError(f"status {error.code}") from error
            raise RefusedError(error.code, code, detail) from error
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(str(getattr(error, "reason", error))) from error

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> tuple[Mapping[str, str], bytes]:
        """Call and return headers and body.

        Raises:
            RefusedError: the service refused.
            UnreachableError: it cannot be reached.
        """
        target = f"{path}?{urllib.parse.urlencode(query)}" if query else path
        with self._request(method, target, headers or {}, body) as answer:
            try:
                return answer.headers, answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise UnreachableError(str(error)) from error

    def claim(self, who: str) -> None:
        """Claim the run for *who*."""
        body = json.dumps({"lease_token": self._settings.lease_token, "who": who}).encode()
        self.call("POST", "claim", headers={"Content-Type": "application/json"}, body=body)

    def inputs(self) -> list[dict[str, Any]]:
        """The files of the snapshot."""
        found: list[dict[str, Any]] = json.loads(self.call("GET", "inputs")[1])
        return found

    def fetch(self, file: Mapping[str, Any], target: Path) -> None:
        """Bring one input to *target*, going on where it was cut.

        Raises:
            DamagedError: it arrived wrong.
        """
        for _attempt in range(ATTEMPTS):
            have = target.stat().st_size if target.exists() else 0
            with target.open("ab") as out:
                if have < file["size"]:
                    with self._request("GET", f"inputs/{file['sha256']}", {"Range": f"bytes={have}-"}, None) as answer:
                        if have and answer.status == 200:
                            out.truncate(0)
                        try:
                            while data := answer.read(PIECE):
                                out.write(data)
                        except http.client.HTTPException as error:
                            raise UnreachableError(str(error)) from error
            with target.open("rb") as written:
                if hashlib.file_digest(written, "sha256").hexdigest() == file["sha256"]:
                    return
            target.unlink()
        raise DamagedError(f"{file['path']} arrived damaged {ATTEMPTS} times")

    def put_log(self, stream: str, offset: int, data: bytes) -> int:
        """Write log bytes at *offset* and return from where to go on."""
        answer = self.call("PUT", f"logs/{stream}", query={"offset": offset}, body=data)[1]
        return int(json.loads(answer)["end"])

    def put_notebook(self, data: bytes) -> None:
        """Replace the executed notebook so far."""
        self.call("PUT", "notebook", body=data)

    def put_output(self, path: str, descriptor: int, kind: Literal["output", "checkpoint"]) -> None:
        """Give back one file: its missing bytes, then its name."""
        status = os.fstat(descriptor)
        with os.fdopen(os.dup(descriptor), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        names = {"path": path, "mode": status.st_mode & 0o777, "size": status.st_size, "kind": kind}
        offset = 0
        try:
            offset = int(self.call("HEAD", f"outputs/{digest}")[0]["Upload-Offset"])
        except RefusedError as error:
            if error.status != 404:
                raise
        while offset < status.st_size or status.st_size == 0:
            data = os.pread(descriptor, PIECE, offset)
            headers = {"Upload-Offset": str(offset), "Upload-Length": str(status.st_size)}
            try:
                self.call("PATCH", f"outputs/{digest}", query=names, headers=headers, body=data)
            except RefusedError as error:
                if error.code != "blob.offset":
                    raise
                offset = int(error.detail["offset"])
                continue
            offset += len(data)
            if not data:
                break
        self.call("PUT", f"outputs/{digest}", query=names)


def patiently(call: Callable[[], T], seconds: float | None = None, tell: Callable[[str], None] | None = None) -> T:
    """Repeat *call* while the service cannot be reached, for ever or for some time: its outage ends nothing.

    Raises:
        UnreachableError: the time is over.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    pause = FIRST_PAUSE
    while True:
        try:
            return call()
        except UnreachableError as error:
            if deadline is not None and time.monotonic() + pause > deadline:
                raise
            if tell is not None:
                with contextlib.suppress(OSError):
                    tell(str(error))
        time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        pause = min(pause * 2, LONGEST_PAUSE)

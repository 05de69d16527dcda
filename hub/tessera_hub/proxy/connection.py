"""Calls of a Proxy to the service. Every call may be repeated after a lost answer."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import httpx

from tessera_hub.proxy.drivers.base import DriverError, OutputPath
from tessera_hub.proxy.errors import ProxyError
from tessera_hub.schemas.bounds import STORED
from tessera_hub.schemas.protocol import (
    ClaimRequest,
    EventsAnswer,
    EventsRequest,
    Lease,
    MeteringAnswer,
    MeteringRequest,
    SessionAnswer,
    SessionRequest,
    SyncAnswer,
    SyncRequest,
    UsageRequest,
)
from tessera_hub.schemas.tasks import InputFile

API: Final = "/api/v1"
PIECE: Final = 1 << 20
ATTEMPTS: Final = 3
"""How often an input that arrives damaged is fetched."""


class CallError(Exception):
    """The service refused a call: HTTP status and stable code."""

    def __init__(self, status: int, code: str, detail: dict[str, Any]) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        self.detail = detail


class Connection:
    """One Proxy's client. Network errors are ``httpx.HTTPError``; refusals are :class:`CallError`."""

    def __init__(self, url: str, cluster: str) -> None:
        base = url.rstrip("/")
        self._base = base if base.endswith(API) else base + API
        self._proxies = f"{self._base}/proxies/{cluster}"
        limits = httpx.Limits(max_connections=16, max_keepalive_connections=8)
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(30.0, connect=5.0), limits=limits)
        self.token = ""
        self._renewals = 0
        """Sessions that are about to begin: then a call of the one before may be refused as if another Proxy were there."""

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _call(self, method: str, url: str, *, token: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}
        response = await self._client.request(method, url, headers=headers, **options)
        if response.is_success:
            return response
        try:
            body = response.json()
        except ValueError:
            body = {}
        code = str(body.get("code", "")) if isinstance(body, dict) else ""
        if response.status_code >= 500 and code != "disk.full":
            raise httpx.HTTPStatusError(f"status {response.status_code}", request=response.request, response=response)
        raise CallError(response.status_code, code, body if isinstance(body, dict) else {})

    async def session(self, bootstrap: str, request: SessionRequest) -> SessionAnswer:
        """Begin a session and use its token from now on.

        Raises:
            ProxyError: ``proxy.refused``.
        """
        self._renewals += 1
        try:
            response = await self._call(
                "POST", f"{self._proxies}/sessions", token=bootstrap, json=request.model_dump(mode="json")
            )
            answer = SessionAnswer.model_validate_json(response.content)
            self.token = answer.session_token
        except CallError as error:
            message = f"the service refuses this Proxy ({error.code}); check the cluster's name and its bootstrap token"
            raise ProxyError("proxy.refused", message) from error
        finally:
            self._renewals -= 1
        return answer

    async def _proxy_call(self, name: str, body: Any, **options: Any) -> httpx.Response:
        sent_with = self.token
        try:
            return await self._call(
                "POST",
                f"{self._proxies}/{name}",
                token=sent_with,
                content=body.model_dump_json(),
                headers={"Content-Type": "application/json"},
                **options,
            )
        except CallError as error:
            if error.code != "proxy.fenced":
                raise
            if self._renewals or self.token != sent_with:
                raise CallError(401, "proxy.session", error.detail) from error  # it is ourselves who are newer
            raise ProxyError("proxy.fenced", "a newer Proxy serves this cluster; this one stops") from error

    async def sync(self, request: SyncRequest, wait: float) -> SyncAnswer:
        """Report and get orders; the service may wait *wait* seconds for something to say."""
        response = await self._proxy_call("sync", request, params={"wait": wait}, timeout=httpx.Timeout(wait + 15.0, connect=5.0))
        return SyncAnswer.model_validate_json(response.content, context=STORED)

    async def events(self, request: EventsRequest) -> EventsAnswer:
        """Report events."""
        return EventsAnswer.model_validate_json((await self._proxy_call("events", request)).content)

    async def metering(self, request: MeteringRequest) -> MeteringAnswer:
        """Report metering facts."""
        return MeteringAnswer.model_validate_json((await self._proxy_call("metering", request)).content)

    async def usage(self, request: UsageRequest) -> None:
        """Report samples of use."""
        await self._proxy_call("usage", request)

    async def put_log(self, lease: Lease, stream: str, offset: int, data: bytes) -> int:
        """Write log bytes at *offset* and return from where to go on."""
        url = f"{self._base}/runs/{lease.run_id}/logs/{stream}"
        response = await self._call("PUT", url, token=lease.run_token, params={"offset": offset}, content=data)
        return int(response.json()["end"])

    async def put_notebook(self, lease: Lease, data: bytes) -> None:
        """Replace the executed notebook so far."""
        await self._call("PUT", f"{self._base}/runs/{lease.run_id}/notebook", token=lease.run_token, content=data)

    async def claim(self, lease: Lease, who: str) -> None:
        """Claim a run.

        Raises:
            CallError: another was first, or the lease is stale.
        """
        body = ClaimRequest(lease_token=lease.lease_token, who=who).model_dump()
        await self._call("POST", f"{self._base}/runs/{lease.run_id}/claim", token=lease.run_token, json=body)

    async def put_output(self, lease: Lease, output: OutputPath, data_file: int, kind: Literal["output", "checkpoint"]) -> None:
        """Give back one file: its missing bytes, then its name."""
        digest = await asyncio.to_thread(_digest, data_file)
        url = f"{self._base}/runs/{lease.run_id}/outputs/{digest}"
        names: dict[str, Any] = {"path": output.path, "mode": output.mode, "size": output.size, "kind": kind}
        offset = 0
        try:
            found = await self._call("HEAD", url, token=lease.run_token)
            offset = int(found.headers["Upload-Offset"])
        except CallError as error:
            if error.status != 404:
                raise
        while offset < output.size or output.size == 0:
            data = os.pread(data_file, PIECE, offset)
            headers = {"Upload-Offset": str(offset), "Upload-Length": str(output.size)}
            try:
                await self._call("PATCH", url, token=lease.run_token, params=names, headers=headers, content=data)
            except CallError as error:
                if error.code != "blob.offset":
                    raise
                offset = int(error.detail["offset"])  # a repeat, or a piece that was cut in its middle
                continue
            offset += len(data)
            if not data:
                break
        await self._call("PUT", url, token=lease.run_token, params=names)

    async def input_bytes(self, lease: Lease, sha256: str, offset: int) -> AsyncIterator[bytes]:
        """Yield the bytes of an input from *offset*."""
        url = f"{self._base}/runs/{lease.run_id}/inputs/{sha256}"
        headers = {"Authorization": f"Bearer {lease.run_token}", "Range": f"bytes={offset}-"}
        async with self._client.stream("GET", url, headers=headers) as response:
            if response.status_code in (401, 403, 404, 409, 410):
                raise CallError(response.status_code, "inputs.missing", {})
            response.raise_for_status()
            async for piece in response.aiter_bytes(PIECE):
                yield piece


def _digest(descriptor: int) -> str:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ServiceInputs:
    """The :class:`InputSource` of a lease: inputs and claim at the service, with patience for a network that is down."""

    def __init__(self, connection: Connection, lease: Lease, patience: Any) -> None:
        self._connection = connection
        self._lease = lease
        self._patience = patience

    async def fetch(self, directory: Path, files: Sequence[InputFile]) -> None:
        """See :meth:`InputSource.fetch`."""
        for file in files:
            target = directory / file.path
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            for _attempt in range(ATTEMPTS):
                await self._patience(lambda file=file, target=target: self._one(file.sha256, file.size, target))
                if await asyncio.to_thread(_digest_of, target) == file.sha256:
                    break
                target.unlink()
            else:
                detail = {"sha256": file.sha256, "path": file.path}
                raise DriverError("inputs.missing", f"{file.path} arrived damaged {ATTEMPTS} times", detail)
            target.chmod(file.mode | 0o600)

    async def _one(self, sha256: str, size: int, target: Path) -> None:
        """Bring what is missing of one file; goes on where it was cut."""
        have = target.stat().st_size if target.exists() else 0
        with target.open("ab") as out:
            if have < size:
                try:
                    async for piece in self._connection.input_bytes(self._lease, sha256, have):
                        out.write(piece)
                except CallError as error:
                    raise DriverError("inputs.missing", f"an input is not to be had: {error}", {"sha256": sha256}) from error

    async def claim(self, who: str) -> None:
        """See :meth:`InputSource.claim`."""

        async def once() -> None:
            try:
                await self._connection.claim(self._lease, who)
            except CallError as error:
                raise DriverError(
                    "claimed.elsewhere", f"the claim was refused: {error.code}", {"run": str(self._lease.run_id)}
                ) from error

        await self._patience(once)

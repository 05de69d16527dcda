"""A stand-in for the service's routes of a run, in the test's own loop: what a pod's courier asks for, answered from memory.

A test decides what the claim says, and sees what was delivered.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from uuid import UUID

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tessera_hub.proxy.drivers.base import DriverError
from tests.cluster.configuration import GATEWAY
from tests.proxy.conftest import Inputs


class ServiceDouble:
    """Listens where pods (or other runs) reach it.

    Attributes:
        logs, notebooks, named: what was delivered, by run; ``named`` is (kind, path) → bytes.
    """

    def __init__(self, source_of: Callable[[UUID], Inputs], host: str = GATEWAY) -> None:
        self.source_of = source_of
        self.logs: dict[tuple[str, str], bytearray] = defaultdict(bytearray)
        self.notebooks: dict[str, bytes] = {}
        self.blobs: dict[str, bytearray] = {}
        self.named: dict[str, dict[tuple[str, str], tuple[bytes, int]]] = defaultdict(dict)
        self._waiting: set[asyncio.Task[None]] = set()
        self._manifests: dict[str, list[dict[str, Any]]] = {}
        self._socket = socket.socket()
        self._socket.bind((host, 0))
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"
        run = "/api/v1/runs/{run}"
        routes = [
            Route(f"{run}/claim", self._claim, methods=["POST"]),
            Route(f"{run}/inputs", self._inputs),
            Route(f"{run}/inputs/{{sha}}", self._input),
            Route(f"{run}/logs/{{stream}}", self._log, methods=["PUT"]),
            Route(f"{run}/notebook", self._notebook, methods=["PUT"]),
            Route(f"{run}/outputs/{{sha}}", self._output, methods=["HEAD", "PATCH", "PUT"]),
        ]
        settings = uvicorn.Config(Starlette(routes=routes), log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(settings)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to answer."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started:
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """End."""
        self.drop_calls()
        self._server.should_exit = True
        if self._task is not None:
            await self._task

    def drop_calls(self) -> None:
        """Break the calls that hang, as the death of a service does."""
        for task in self._waiting:
            task.cancel()

    def knows(self, run_id: UUID, files: list[dict[str, Any]]) -> None:
        """Take the manifest of a run's inputs."""
        self._manifests[str(run_id)] = files

    async def _claim(self, request: Request) -> Response:
        source = self.source_of(UUID(request.path_params["run"]))
        body = await request.json()
        task = asyncio.create_task(source.claim(body["who"]))
        self._waiting.add(task)
        try:
            await task
        except DriverError as error:
            return JSONResponse({"code": error.code}, 409)
        except asyncio.CancelledError:
            return Response(status_code=503)
        finally:
            self._waiting.discard(task)
        return JSONResponse({"claimed_by": body["who"]})

    async def _inputs(self, request: Request) -> Response:
        run = request.path_params["run"]
        self.source_of(UUID(run)).fetched += 1
        return JSONResponse(self._manifests[run])

    async def _input(self, request: Request) -> Response:
        source = self.source_of(UUID(request.path_params["run"]))
        for data in source.files.values():
            if hashlib.sha256(data).hexdigest() == request.path_params["sha"]:
                first = int(request.headers["Range"].removeprefix("bytes=").partition("-")[0])
                return Response(data[first:], 206 if first else 200)
        return JSONResponse({"code": "not_found"}, 404)

    async def _log(self, request: Request) -> Response:
        held = self.logs[request.path_params["run"], request.path_params["stream"]]
        offset, data = int(request.query_params["offset"]), await request.body()
        if offset <= len(held):
            held[offset : offset + len(data)] = data
        return JSONResponse({"end": len(held)})

    async def _notebook(self, request: Request) -> Response:
        self.notebooks[request.path_params["run"]] = await request.body()
        return JSONResponse({})

    async def _output(self, request: Request) -> Response:
        sha, held = request.path_params["sha"], self.blobs.get(request.path_params["sha"])
        if request.method == "HEAD":
            return Response(status_code=404) if held is None else Response(headers={"Upload-Offset": str(len(held))})
        if request.method == "PATCH":
            data = self.blobs.setdefault(sha, bytearray())
            if int(request.headers["Upload-Offset"]) != len(data):
                return JSONResponse({"code": "blob.offset", "offset": len(data)}, 409)
            data += await request.body()
            return Response(status_code=204)
        query = request.query_params
        assert hashlib.sha256(held or b"").hexdigest() == sha
        self.named[request.path_params["run"]][query["kind"], query["path"]] = bytes(held or b""), int(query["mode"])
        return Response(status_code=204)

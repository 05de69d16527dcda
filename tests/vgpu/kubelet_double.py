"""Doubles of a kubelet and an API server on real sockets, which do what the tests say: forget, restart, contradict, be away."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc

from tessera_vgpu.kubelet_api import PLUGIN_SERVICE, plugin, pod_resources
from tessera_vgpu.plugin import Kubelet

RESOURCE = "tessera.io/vgpu"


def unary(call: Any, request: Any, answer: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        call, request_deserializer=request.FromString, response_serializer=answer.SerializeToString
    )


class KubeletDouble:
    """Books of pods and devices; calls the plugin in the order in which a kubelet does."""

    def __init__(self, folder: Path) -> None:
        self.paths = Kubelet(folder / "plugins", folder / "podres.sock")
        self.paths.plugins.mkdir()
        self.registrations: list[Any] = []
        self.entries: list[dict[str, Any]] = []
        self.listed: dict[tuple[str, str], list[str]] = {}
        self._free = [f"slot-{number:04d}" for number in range(200)]
        self._lock = threading.Lock()
        self._servers: list[grpc.Server] = []
        self.start()

    def start(self) -> None:
        """Come up: remove plugins' sockets, serve the own ones."""
        for socket in self.paths.plugins.glob("*.sock"):
            socket.unlink()

        def register(request: Any, _context: grpc.ServicerContext) -> Any:
            self.registrations.append(request)
            return plugin["Empty"]()

        def listing(_request: Any, _context: grpc.ServicerContext) -> Any:
            answer = pod_resources["ListPodResourcesResponse"]()
            for (namespace, name), ids in list(self.listed.items()):
                pod = answer.pod_resources.add(namespace=namespace, name=name)
                # Without NUMA information the kubelet gives each id an entry of its own.
                container = pod.containers.add(name="main")
                for device in ids:
                    container.devices.add(resource_name=RESOURCE, device_ids=[device])
            return answer

        services = (
            (
                self.paths.socket,
                "v1beta1.Registration",
                {"Register": unary(register, plugin["RegisterRequest"], plugin["Empty"])},
            ),
            (
                self.paths.pod_resources,
                "v1.PodResourcesLister",
                {"List": unary(listing, pod_resources["ListPodResourcesRequest"], pod_resources["ListPodResourcesResponse"])},
            ),
        )
        for socket, name, methods in services:
            server = grpc.server(ThreadPoolExecutor(8))
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
            server.add_insecure_port(f"unix://{socket}")
            server.start()
            self._servers.append(server)

    def stop(self) -> None:
        """Go away."""
        for server in self._servers:
            server.stop(0).wait()
        self._servers = []

    def call(self, method: str, request: Any, answer: str, timeout_s: float = 10) -> Any:
        """Call the plugin."""
        with grpc.insecure_channel(f"unix://{self.paths.plugins / self.registrations[-1].endpoint}") as channel:
            made: Any = channel.unary_unary(
                f"/{PLUGIN_SERVICE}/{method}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=plugin[answer].FromString,
            )
            return made(request, timeout=timeout_s)

    def admit(self, pod: Mapping[str, Any], container: str, count: int, ids: Sequence[str] = ()) -> tuple[list[str], Any]:
        """Give a container devices, ask the plugin about them, and keep its answer; return ids and answer."""
        with self._lock:
            chosen = list(ids) or [self._free.pop(0) for _device in range(count)]
        request = plugin["AllocateRequest"]()
        request.container_requests.add().devices_ids.extend(chosen)
        (answer,) = self.call("Allocate", request, "AllocateResponse").container_responses
        with self._lock:
            self.entries.append(
                {
                    "PodUID": pod["metadata"]["uid"],
                    "ContainerName": container,
                    "ResourceName": RESOURCE,
                    "DeviceIDs": {"-1": chosen},
                    "AllocResp": base64.b64encode(answer.SerializeToString()).decode(),
                }
            )
            if not container.startswith("init"):
                self.listed[pod["metadata"]["namespace"], pod["metadata"]["name"]] = chosen
            self.write_books()
        return chosen, answer

    def write_books(self) -> None:
        """Replace the checkpoint."""
        new = self.paths.plugins / "new"
        new.write_text(json.dumps({"Data": {"PodDeviceEntries": self.entries, "RegisteredDevices": {}}, "Checksum": 1}))
        new.replace(self.paths.checkpoint)

    def pre_start(self, ids: Sequence[str], timeout_s: float = 30) -> None:
        """Ask the plugin to get the devices ready, as before each start of a container."""
        request = plugin["PreStartContainerRequest"](devices_ids=ids)
        self.call("PreStartContainer", request, "PreStartContainerResponse", timeout_s)


class ApiServerDouble:
    """Pods and one node over HTTP; keeps the events that it is told."""

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.capacity: dict[str, str] = {"cpu": "8"}
        self.events: list[dict[str, Any]] = []
        self.away = False
        self.requests: list[tuple[str, str, str | None]] = []
        double = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer()

            def do_PATCH(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                double.requests.append((self.command, self.path, self.headers.get("Authorization")))
                content: Any = {"metadata": {"name": "node-1"}, "status": {"capacity": double.capacity}}
                if self.path.startswith("/api/v1/pods"):
                    content = {"items": list(double.pods.values())}
                elif self.command == "POST":
                    double.events.append(json.loads(body))
                elif self.command == "PATCH":
                    for change in json.loads(body):
                        double.capacity[change["path"].rpartition("/")[2].replace("~1", "/")] = change["value"]
                sent = json.dumps(content).encode()
                self.send_response(503 if double.away else 200)
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                """Be quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the socket."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, name: str, memory: str | None, containers: Sequence[str] = ("main",), **annotations: str) -> dict[str, Any]:
        """Add a pod that is pending; names of annotations without their prefix, ``_`` for ``-``."""
        limits = {} if memory is None else {"tessera.io/vgpu-memory": memory}
        pod = {
            "metadata": {
                "uid": f"uid-{name}",
                "namespace": "lab",
                "name": name,
                "annotations": {f"vgpu.tessera.io/{key.replace('_', '-')}": value for key, value in annotations.items()},
            },
            "spec": {
                "initContainers": [{"name": c, "resources": {"limits": limits}} for c in containers if c.startswith("init")],
                "containers": [{"name": c, "resources": {"limits": limits}} for c in containers if not c.startswith("init")],
            },
            "status": {"phase": "Pending"},
        }
        self.pods[f"uid-{name}"] = pod
        return pod

"""The device plugin's socket, and its registration with a kubelet that restarts and forgets."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

import grpc

from tessera_vgpu.asking import RESOURCE
from tessera_vgpu.errors import VgpuError
from tessera_vgpu.kubelet_api import PLUGIN_VERSION, REGISTER, plugin
from tessera_vgpu.plugin import DevicePlugin

LOG: Final = logging.getLogger(__name__)
ENDPOINT: Final = "tessera-vgpu.sock"
_THREADS: Final = 32
"""One each for the kubelet's stream and for the containers that start at the same time."""


class PluginServer:
    """Serves a plugin and registers it again whenever the kubelet has made its socket anew.

    Args:
        poll_s: how often it looks; the kubelet rejects waiting pods for good if a plugin is away too long.
        failed: told why the service ended before :meth:`stop`: ``plugin.folder``, or what nothing expected.
    """

    def __init__(
        self, device_plugin: DevicePlugin, poll_s: float = 0.3, failed: Callable[[BaseException], None] = lambda _error: None
    ) -> None:
        self._plugin = device_plugin
        self._kubelet = device_plugin.kubelet
        self._poll_s = poll_s
        self._failed = failed
        self._stop = Event()
        self.registered = Event()
        """Set once the kubelet has taken the plugin."""
        self._thread = Thread(target=self._run, name="device-plugin", daemon=True)

    def start(self) -> None:
        """Serve until :meth:`stop`."""
        self._thread.start()

    def stop(self) -> None:
        """End the service; what containers have stays."""
        self._stop.set()
        self._plugin.close()
        self._thread.join()

    @property
    def socket(self) -> Path:
        """The plugin's own socket."""
        return self._kubelet.plugins / ENDPOINT

    def _run(self) -> None:
        try:
            self._keep_registered()
        except BaseException as error:  # noqa: BLE001  # an agent without its plugin would look well and serve nobody
            self._failed(error)

    def _keep_registered(self) -> None:
        server: grpc.Server | None = None
        known: tuple[int, int] | None = None
        while not self._stop.is_set():
            # A kubelet that starts removes all plugins' sockets and makes its own.
            seen = _identity(self._kubelet.socket)
            if server is None or not self.socket.exists():
                if server is not None:
                    server.stop(None)
                server, known = self._serve(), None
            if seen is not None and seen != known and self._register():
                known = seen
            self._stop.wait(self._poll_s)
        if server is not None:
            server.stop(1).wait()
        self.socket.unlink(missing_ok=True)

    def _serve(self) -> grpc.Server:
        server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix="device-plugin"))
        server.add_generic_rpc_handlers((self._plugin.handler(),))
        try:
            self.socket.unlink(missing_ok=True)
            server.add_insecure_port(f"unix://{self.socket}")
        except (OSError, RuntimeError) as error:
            raise VgpuError(
                "plugin.folder",
                "The kubelet's folder for plugins {folder} cannot be used: {reason}.",
                "Name that folder of this node with --kubelet-plugins.",
                folder=self._kubelet.plugins,
                reason="there is no such folder" if not self._kubelet.plugins.is_dir() else error,
            ) from error
        server.start()
        return server

    def _register(self) -> bool:
        request = plugin["RegisterRequest"](
            version=PLUGIN_VERSION, endpoint=ENDPOINT, resource_name=RESOURCE, options=self._plugin.options()
        )
        try:
            with grpc.insecure_channel(f"unix://{self._kubelet.socket}") as channel:
                call: Any = channel.unary_unary(
                    REGISTER,
                    request_serializer=plugin["RegisterRequest"].SerializeToString,
                    response_deserializer=plugin["Empty"].FromString,
                )
                call(request, timeout=10)
        except grpc.RpcError as error:
            LOG.warning("the kubelet did not register %s: %s", RESOURCE, error)
            return False
        LOG.info("registered %s with the kubelet", RESOURCE)
        self.registered.set()
        return True


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a socket from one that was made later in its place."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns

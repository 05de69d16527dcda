"""The few things that the node agent asks of the Kubernetes API server: its node's pods, and the node's memory of cards."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import httpx

from tessera_vgpu.asking import MEMORY_RESOURCE, quantity
from tessera_vgpu.errors import VgpuError

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
ENDED: Final = frozenset({"Succeeded", "Failed"})


class Pods(Protocol):
    """Who knows the pods of this node."""

    def pods(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the node's pods by UID, as the API server gives them.

        Raises:
            VgpuError: ``apiserver.unreachable``.
        """
        ...


class ApiServer:
    """A client with the rights of one node's agent: read its pods, patch the node's status.

    Args:
        url: such as ``https://kubernetes.default.svc``.
        token_file: read at each call, since it is renewed; None without one.
        verify: certificates to trust.
    """

    def __init__(self, url: str, node: str, token_file: Path | None, verify: ssl.SSLContext | bool = True) -> None:
        self.node = node
        self._token_file = token_file
        self._client = httpx.Client(base_url=url, verify=verify, timeout=10)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def pods(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the node's pods by UID."""
        answer = self._call("GET", "/api/v1/pods", params={"fieldSelector": f"spec.nodeName={self.node}"})
        return {pod["metadata"]["uid"]: pod for pod in answer["items"]}

    def show_memory(self, memory_mib: int) -> bool:
        """Set the node's card memory if it is not set so; return whether it had to be.

        It is lost when the Node object is made anew or the kubelet starts without its checkpoint: call this again and again.
        """
        node = self._call("GET", f"/api/v1/nodes/{self.node}")
        shown = (node["status"].get("capacity") or {}).get(MEMORY_RESOURCE)
        if shown is not None and quantity(shown) == memory_mib:
            return False
        path = "/status/capacity/" + MEMORY_RESOURCE.replace("/", "~1")
        self._call(
            "PATCH",
            f"/api/v1/nodes/{self.node}/status",
            json=[{"op": "add", "path": path, "value": str(memory_mib)}],
            headers={"Content-Type": "application/json-patch+json"},
        )
        return True

    def warn(self, namespace: str, pod: str, uid: str, reason: str, message: str) -> None:
        """Put a warning among the events of a pod.

        Raises:
            VgpuError: ``apiserver.unreachable``.
        """
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "metadata": {"generateName": "tessera-vgpu-", "namespace": namespace},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": pod, "uid": uid},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "source": {"component": "tessera-vgpu", "host": self.node},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        self._call("POST", f"/api/v1/namespaces/{namespace}/events", json=event)

    def _call(self, method: str, path: str, headers: Mapping[str, str] | None = None, **more: Any) -> Any:
        try:
            token = {} if self._token_file is None else {"Authorization": f"Bearer {self._token_file.read_text('utf-8').strip()}"}
            answer = self._client.request(method, path, headers={**token, **(headers or {})}, **more)
            answer.raise_for_status()
            return answer.json()
        except (httpx.HTTPError, OSError, ValueError) as error:
            reason = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else type(error).__name__
            raise VgpuError(
                "apiserver.unreachable",
                "The Kubernetes API server did not answer {method} {path}: {reason}.",
                "It is tried again; check the node agent's service account and the network.",
                method=method,
                path=path,
                reason=reason,
            ) from error

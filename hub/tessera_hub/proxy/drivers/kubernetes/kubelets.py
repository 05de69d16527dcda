"""The kubelets' own figures, read by an account that may read nothing else.

The API server's way to a kubelet (``nodes/proxy``) opens all of it, commands in any container among that, and a node could keep
what the Proxy shows it. So each kubelet is asked directly, its certificate checked by the cluster's authority, with a token of
some minutes for an account whose only right is ``get nodes/stats``. Source: Kubernetes, "Kubelet authentication/authorization".
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from tessera_hub.proxy.drivers.kubernetes.options import USAGE_ACCOUNT
from volcano_client.errors import ClusterApiError
from volcano_client.transport import Transport

SUMMARY: Final = "/stats/summary"
TOKEN_SECONDS: Final = 600
"""The shortest that the API server gives."""


def address_of(node: Mapping[str, Any]) -> str:
    """Return the address of a node's kubelet.

    Raises:
        ValueError: the node tells none.
    """
    status = node.get("status") or {}
    port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port")
    found = next((str(a["address"]) for a in status.get("addresses") or () if a.get("type") == "InternalIP"), None)
    if found is None or type(port) is not int or not 0 < port < 1 << 16:
        raise ValueError("the node tells no address of its kubelet")
    address = ipaddress.ip_address(found)
    return f"https://[{address}]:{port}" if address.version == 6 else f"https://{address}:{port}"


class Kubelets:
    """The kubelets of a cluster. May be used from several threads.

    Args:
        namespace: of the account, which is the Proxy's own.
    """

    def __init__(self, transport: Transport, namespace: str) -> None:
        self._transport = transport
        self._path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{USAGE_ACCOUNT}/token"
        self._lock = threading.Lock()
        self._token = ""
        self._renew_at = 0.0

    def summary(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a kubelet tells of its pods' processors and memory.

        Raises:
            ClusterApiError: it refuses, cannot be reached, or is not who it should be.
            ValueError: the node tells no address.
        """
        way = self._transport.to_another(address_of(node), self._current_token())
        try:
            return way.call("GET", SUMMARY, query={"only_cpu_and_memory": "true"})
        finally:
            way.close()

    def _current_token(self) -> str:
        with self._lock:
            if time.monotonic() >= self._renew_at:
                body = {
                    "apiVersion": "authentication.k8s.io/v1",
                    "kind": "TokenRequest",
                    "spec": {"expirationSeconds": TOKEN_SECONDS},
                }
                token = (self._transport.call("POST", self._path, body=body).get("status") or {}).get("token")
                if not token:
                    raise ClusterApiError(0, "NoToken", "the API server gave no token")
                self._token, self._renew_at = str(token), time.monotonic() + TOKEN_SECONDS / 2
            return self._token

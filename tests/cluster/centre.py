"""A centre on the real cluster: the real service, and the real Proxy as a process with exactly the rights of its manifest."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from tessera_hub.proxy.drivers.kubernetes.permissions import ACCOUNT, manifest
from tests.cluster.machine import Machine
from tests.cluster.parts import RUNS_IMAGE
from tests.cluster.relay import Relay
from tests.cluster.site import remove_site
from tests.proxy.machine import LocalProxy
from tests.service import PREFIX, ServiceProcess
from volcano_client import Collection, Kind, Transport

PLURALS = {"ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings", "ServiceAccount": "serviceaccounts"}
ADMISSION = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")


def kind_of(document: dict[str, Any]) -> Kind:
    """Return the kind of an object of the manifest."""
    name = document["kind"]
    plural = PLURALS.get(name) or (name[:-1] + "ies" if name.endswith("y") else name.lower() + "s")
    return Kind(document["apiVersion"], name, plural.lower(), namespaced="namespace" in document["metadata"])


def apply(transport: Transport, documents: Iterable[dict[str, Any]]) -> None:
    """Make the objects of a manifest."""
    for document in documents:
        Collection(transport, kind_of(document)).create_or_get(document)


def remove(transport: Transport, documents: Iterable[dict[str, Any]]) -> None:
    """Delete them."""
    for document in documents:
        Collection(transport, kind_of(document)).delete(document["metadata"]["name"], document["metadata"].get("namespace"))


def account_token(transport: Transport, namespace: str, account: str = ACCOUNT) -> str:
    """Return a token of a service account, by default the Proxy's."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    return str(transport.call("POST", path, body=body)["status"]["token"])


class ClusterProxy(LocalProxy):
    """``tessera proxy --driver kubernetes`` with the kubeconfig of its own service account."""

    def __init__(self, cluster: Machine, service: ServiceProcess, directory: Path, api: httpx.Client, admin: Transport) -> None:
        super().__init__(service, directory, api)
        self.cluster = cluster
        self.admin = admin
        self.relay = Relay(service.port)
        self.prefix = f"e{uuid4().hex[:8]}"
        self.objects = manifest(self.prefix, kubelets=True)
        apply(admin, self.objects)
        self.kubeconfig = directory / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(cluster.kubeconfig_for(account_token(admin, f"{self.prefix}-system"))))
        url = f"http://{self.relay.host}:{self.relay.port}{PREFIX}"
        settings = f'namespace_prefix = "{self.prefix}"\nservice_url = "{url}"\nplain_gangs = true\nkubelets = true\n'
        (directory / "settings.toml").write_text(settings)

    def start(self) -> None:
        """Start the process."""
        self._logged = len(self.log_path.read_text()) if self.log_path.exists() else 0
        command = [sys.executable, "-m", "tessera_hub.cli", "proxy", "--cluster", "local", "--url", self.service.url]
        command += ["--bootstrap-token-file", str(self.directory / "token"), "--driver", "kubernetes"]
        command += ["--kubeconfig", str(self.kubeconfig), "--settings", str(self.directory / "settings.toml")]
        command += ["--environment", f"default={RUNS_IMAGE}", "--environment", "absent=tessera.test/absent:1", *self.options]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_for_inventory(self, seconds: float = 30.0) -> None:
        """Wait until the service knows what the cluster has."""
        deadline = time.monotonic() + seconds
        while not any(cluster["total"].get("memory") for cluster in self.api.get("/capacity").json()):
            assert time.monotonic() < deadline, self.log_path.read_text()[-3000:]
            time.sleep(0.1)

    def kill(self) -> None:
        """End the process as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self.process = None

    def tenant_namespace(self) -> str:
        """Return the namespace of the one tenant there is."""
        found = [n for n in self.namespaces() if "-tenant-" in n]
        assert len(found) == 1, found
        return found[0]

    def namespaces(self) -> list[str]:
        """Names of the namespaces that are ours."""
        kind = Kind("v1", "Namespace", "namespaces", namespaced=False)
        names = [namespace["metadata"]["name"] for namespace in Collection(self.admin, kind).list()]
        return [name for name in names if name.startswith(f"{self.prefix}-")]

    def remove_everything(self) -> None:
        """Delete what the Proxy made, and its rights."""
        remove_site(self.admin, self.prefix)
        remove(self.admin, self.objects)
        self.relay.close()

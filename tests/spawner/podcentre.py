"""A hub whose workspaces are pods of the real cluster: ``tessera up`` with ``use_pods``, and a Proxy of that cluster beside it.

The hub's account has the rights that docs/how-to name, no more; its namespace is held to Pod Security's level ``restricted``.
"""

from __future__ import annotations

import getpass
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from tessera_hub.demo import token_of
from tessera_hub.installation import Installation, free_port
from tessera_hub.proxy.drivers.kubernetes.objects import NAMESPACES, PODS
from tessera_hub.proxy.drivers.kubernetes.permissions import manifest, system_namespace
from tests.browser.running import RunningHub, until
from tests.cluster.centre import account_token, apply, remove
from tests.cluster.configuration import NODE
from tests.cluster.machine import Machine
from tests.cluster.relay import Relay
from tests.cluster.site import remove_site
from tests.helm.images import image
from volcano_client import Collection, Kind, Transport

VOLUMES = Kind("v1", "PersistentVolume", "persistentvolumes", namespaced=False)
CLAIMS = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
HOMES = 4
PATIENCE_SECONDS = 12
EXTRA = """
from pathlib import Path
from tessera_hub.installation import Installation
from tessera_hub.pods import use_pods

here = Installation.load(Path({data!r}))
use_pods(c, here, environments={environments!r}, datasets={datasets!r}, hub_url={hub_url!r}, pod_service_url={service_url!r},
         hub_listen="127.0.0.1",  # pods come by a relay
         namespace={namespace!r}, site={site!r}, home_size="64Mi", storage_class={site!r})
c.JupyterHub.authenticate_prometheus = False
c.TesseraKubeSpawner.patience_seconds = {patience}
c.TesseraKubeSpawner.poll_interval = 2
c.TesseraKubeSpawner.start_timeout = 90
"""


@contextmanager
def pod_centre(cluster: Machine) -> Iterator[PodCentre]:
    """Have a hub whose workspaces are pods, for as long as it is wanted."""
    transport = Transport.from_kubeconfig(cluster.kubeconfig)
    centre = PodCentre(cluster, transport)
    try:
        yield centre.start()
    finally:
        centre.remove()
        transport.close()


class PodCentre:
    """The hub, its cluster, and what a test does with both."""

    def __init__(self, cluster: Machine, transport: Transport) -> None:
        self.cluster = cluster
        self.transport = transport
        self.site = f"w{uuid4().hex[:8]}"
        self.namespace = f"{self.site}-workspaces"
        self.folder = Path(tempfile.mkdtemp(prefix="tessera-pods-"))
        self.notebook = image("notebook").load(cluster)
        self.environments = {"default": self.notebook, "closed": self.notebook, "absent": "tessera.test/absent:1"}
        # The hub's inner port is chosen here: its relay has to be known before it starts.
        here = Installation(self.folder, getpass.getuser(), single_person=False, hub_port=free_port(set()))
        here.save()
        port = free_port({here.hub_port})
        self.hub_relay, self.door_relay = Relay(here.hub_port), Relay(port)
        self.objects = [*manifest(self.site), *self._hub_objects(), *self._volumes()]
        self.hub = RunningHub(
            *("--person", "ben:vision", "--person", "eve:speech"),
            data_dir=self.folder,
            port=port,
            environment={
                "KUBECONFIG": str(self.folder / "hub.kubeconfig"),
                "TESSERA_CONFIG": str(self.folder / "tessera_config.py"),
            },
        )
        self.proxy: subprocess.Popen[bytes] | None = None

    def start(self) -> PodCentre:
        """Start the hub, then the cluster's Proxy; from then on workspaces start nowhere else."""
        apply(self.transport, self.objects)
        self._kubeconfig("hub.kubeconfig", self._token("hub", self.namespace))
        self._kubeconfig("proxy.kubeconfig", account_token(self.transport, system_namespace(self.site)))
        door = f"http://{self.door_relay.host}:{self.door_relay.port}/services/tessera"
        extra = EXTRA.format(
            datasets={"birds": {"claim": "birds", "folder": "v1"}},
            data=str(self.folder),
            environments=self.environments,
            hub_url=f"http://{self.hub_relay.host}:{self.hub_relay.port}",
            service_url=door,
            namespace=self.namespace,
            site=self.site,
            patience=PATIENCE_SECONDS,
        )
        (self.folder / "jupyterhub_extra.py").write_text(extra)
        rules = {"closed": {"groups": ["speech"]}}
        (self.folder / "tessera_config.py").write_text(f"c.TesseraService.environment_rules = {rules!r}\n")
        self.hub.start()
        self.operator = httpx.Client(
            base_url=f"{self.hub.here.service_url}/api/v1",
            headers={"Authorization": f"token {token_of(self.hub.here, None, self._operator_scopes())}"},
            timeout=30,
        )
        made = self.operator.post("/clusters", json={"name": "pods", "workspaces": True})
        assert made.status_code == 201, made.text
        assert self.operator.patch("/clusters/local", json={"workspaces": False}).status_code == 200
        self._start_proxy(made.json()["bootstrap_token"], door)
        try:
            until(lambda: self._total("memory"), 60)
        except AssertionError as error:
            words = (self.folder / "proxy.log").read_text()[-3000:]
            raise AssertionError(f"the cluster's Proxy does not tell what there is: {words}") from error
        return self

    def _operator_scopes(self) -> list[str]:
        from tessera_hub.hub_pages import PERSON_SCOPES

        return [*PERSON_SCOPES, "custom:tessera:operate"]

    def _total(self, dimension: str) -> int:
        found = {c["name"]: c for c in self.operator.get("/capacity").json()}
        return int(found.get("pods", {}).get("total", {}).get(dimension, 0))

    def _start_proxy(self, bootstrap: str, door: str) -> None:
        (self.folder / "bootstrap").write_text(bootstrap)
        # The Proxy says of one data set more than the hub that workspaces have it.
        sets = "".join(f'[datasets.{name}]\nclaim = "birds"\nworkspaces = true\n' for name in ("birds", "elsewhere"))
        (self.folder / "settings.toml").write_text(f'namespace_prefix = "{self.site}"\nservice_url = "{door}"\n{sets}')
        command = [sys.executable, "-m", "tessera_hub.cli", "proxy", "--cluster", "pods", "--driver", "kubernetes"]
        command += ["--url", self.hub.here.internal_service_url, "--bootstrap-token-file", str(self.folder / "bootstrap")]
        command += ["--kubeconfig", str(self.folder / "proxy.kubeconfig"), "--settings", str(self.folder / "settings.toml")]
        for name, reference in self.environments.items():
            command += ["--environment", f"{name}={reference}"]
        with (self.folder / "proxy.log").open("wb") as log:
            self.proxy = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def remove(self) -> None:
        """Stop all and leave nothing behind."""
        if self.proxy is not None:
            self.proxy.terminate()
            self.proxy.wait(20)
        self.hub.remove()
        remove_site(self.transport, self.site)
        remove(self.transport, self.objects)
        for relay in (self.hub_relay, self.door_relay):
            relay.close()

    # --- what is in the cluster -----------------------------------------------------------------------------------

    def pods(self) -> list[dict[str, Any]]:
        """Return the workspaces' pods."""
        return list(Collection(self.transport, PODS).list(self.namespace))

    def claims(self) -> list[str]:
        """Return the names of the homes."""
        found = (claim["metadata"]["name"] for claim in Collection(self.transport, CLAIMS).list(self.namespace))
        return sorted(name for name in found if name.startswith("home-"))

    def delete_pod(self, name: str) -> None:
        """Delete a pod behind the hub's back."""
        Collection(self.transport, PODS).delete(name, self.namespace, grace_seconds=0)

    @contextmanager
    def cards(self, count: int) -> Iterator[None]:
        """Give the node cards, as a device plugin would."""
        resource, product = "nvidia.com/gpu", "nvidia.com/gpu.product"
        self._patch_node({"metadata": {"labels": {product: "NVIDIA-A100-SXM4-80GB"}}})
        self._patch_node({"status": {"capacity": {resource: str(count)}, "allocatable": {resource: str(count)}}}, "/status")
        try:
            until(lambda: self._total("cards/A100-80G"), 30)
            yield
        finally:
            self._patch_node({"status": {"capacity": {resource: None}, "allocatable": {resource: None}}}, "/status")
            self._patch_node({"metadata": {"labels": {product: None}}})

    def _patch_node(self, change: dict[str, Any], part: str = "") -> None:
        path = f"/api/v1/nodes/{NODE}{part}"
        self.transport.call("PATCH", path, body=change, content_type="application/merge-patch+json")

    # --- what it is made of ---------------------------------------------------------------------------------------

    def _kubeconfig(self, name: str, token: str) -> None:
        path = self.folder / name
        path.touch(0o600)
        path.write_text(json.dumps(self.cluster.kubeconfig_for(token)))

    def _token(self, account: str, namespace: str) -> str:
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
        return str(self.transport.call("POST", path, body=body)["status"]["token"])

    def _hub_objects(self) -> list[dict[str, Any]]:
        rbac, everything = "rbac.authorization.k8s.io/v1", ["get", "list", "watch", "create", "delete"]
        restricted = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
        subject = [{"kind": "ServiceAccount", "name": "hub", "namespace": self.namespace}]
        rules = [
            {"apiGroups": [""], "resources": ["pods", "persistentvolumeclaims"], "verbs": everything},
            {"apiGroups": [""], "resources": ["events"], "verbs": ["get", "list", "watch"]},
        ]
        wide = [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]
        here, all_over = {"name": "hub", "namespace": self.namespace}, {"name": f"{self.site}-hub"}
        api = "rbac.authorization.k8s.io"
        return [
            {
                "apiVersion": NAMESPACES.api_version,
                "kind": "Namespace",
                "metadata": {"name": self.namespace, "labels": restricted},
            },
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": here},
            {"apiVersion": rbac, "kind": "Role", "metadata": here, "rules": rules},
            {
                "apiVersion": rbac,
                "kind": "RoleBinding",
                "metadata": here,
                "roleRef": {"apiGroup": api, "kind": "Role", "name": "hub"},
                "subjects": subject,
            },
            {"apiVersion": rbac, "kind": "ClusterRole", "metadata": all_over, "rules": wide},
            {
                "apiVersion": rbac,
                "kind": "ClusterRoleBinding",
                "metadata": all_over,
                "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": f"{self.site}-hub"},
                "subjects": subject,
            },
        ]

    def _volumes(self) -> list[dict[str, Any]]:
        """Volumes for the homes: folders of this machine, which only the cluster's operator may name."""
        found = []
        for number in range(HOMES):
            path = self.folder / "volumes" / str(number)
            path.mkdir(parents=True)
            terms = [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}]}]
            spec = {
                "capacity": {"storage": "64Mi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": self.site,
                "local": {"path": str(path)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": terms}},
            }
            metadata = {"name": f"{self.site}-{number}"}
            found.append({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec})
        return [*found, *self._data()]

    def _data(self) -> list[dict[str, Any]]:
        """A data set in the workspaces' namespace, whose files would let every pod write."""
        folder = self.folder / "data" / "v1"
        folder.mkdir(parents=True)
        (folder / "data.txt").write_text("21")
        for path in (folder.parent, folder, folder / "data.txt"):
            path.chmod(0o777)
        amount = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
        size, name = {"storage": "1Gi"}, f"{self.site}-birds"
        volume = {"capacity": size, "hostPath": {"path": str(folder.parent), "type": "Directory"}, **amount}
        claim = {"volumeName": name, "resources": {"requests": size}, **amount}
        here = {"name": "birds", "namespace": self.namespace}
        return [
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": volume},
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": here, "spec": claim},
        ]

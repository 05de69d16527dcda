"""The chart installed on the test cluster, with images built from the chart's Containerfiles, and how people reach it."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from tessera_hub.client import TesseraClient
from tessera_hub.hub_pages import PERSON_SCOPES
from tessera_hub.installation import SERVICE_PREFIX
from tessera_hub.passwords import password_of
from tests.cluster.configuration import NODE
from tests.cluster.machine import Machine
from tests.helm.chart import CHART, NAMESPACE, RELEASE, SECONDS, WORKSPACES, Document, run, written
from tests.helm.images import image
from volcano_client import Collection, Kind, Transport

NAMESPACES: Final = Kind("v1", "Namespace", "namespaces", namespaced=False)
VOLUMES: Final = Kind("v1", "PersistentVolume", "persistentvolumes", namespaced=False)
CLAIMS: Final = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
SECRETS: Final = Kind("v1", "Secret", "secrets")
SERVICES: Final = Kind("v1", "Service", "services")
PODS: Final = Kind("v1", "Pod", "pods")
STORAGE: Final = "tessera-test"
WAITING: Final = ("--wait", "--timeout", f"{SECONDS - 60}s")
OPERATOR: Final = "ada"
PERSON: Final = "bob"


def until(what: str, ready: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Return what *ready* gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < deadline, what
        time.sleep(0.3)
    return found


class Installed:
    """One release."""

    def __init__(self, cluster: Machine, admin: Transport, folder: Path) -> None:
        self.cluster = cluster
        self.admin = admin
        self.folder = folder
        self.volumes = cluster.home / "test-volumes"
        self.values: dict[str, Any] = {}
        self._tokens: dict[tuple[str, ...], str] = {}

    # --- helm -----------------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Build the images, make volumes and the namespace, and install; returns when every pod is ready."""
        notebook = image("notebook").load(self.cluster)
        built = {"hub": image("hub"), "frontDoor": image("proxy"), "postgresql": image("postgresql")}
        references = {key: found.load(self.cluster) for key, found in built.items()}
        self.make_volumes({"service": "1Gi", "postgresql": "2Gi", "home": "3Gi"})
        label = {"pod-security.kubernetes.io/enforce": "restricted"}
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": label}}
        Collection(self.admin, NAMESPACES).create_or_get(space)
        self.values = {
            "operators": [OPERATOR],
            "people": {OPERATOR: "physics", PERSON: "physics"},
            "environments": {"default": notebook},
            "images": {"pullPolicy": "Never", **references},
            "service": {"storage": {"size": "1Gi", "className": STORAGE}},
            "postgresql": {"storage": {"size": "2Gi", "className": STORAGE}},
            "workspaces": {"home": {"size": "3Gi", "className": STORAGE}},
        }
        self.again()

    def again(self) -> None:
        """Install with the same values."""
        self.helm("install", RELEASE, str(CHART), *written(self.values, self.folder), *WAITING)

    def helm(self, *arguments: str) -> str:
        """Run helm in the release's namespace."""
        return run(*arguments, "--namespace", NAMESPACE, kubeconfig=self.cluster.kubeconfig)

    def upgrade(self, changes: Mapping[str, Any]) -> None:
        """Upgrade to the same values with *changes* on top."""
        former, changed = written(self.values, self.folder), written(changes, self.folder)
        self.helm("upgrade", RELEASE, str(CHART), *former, *changed, *WAITING)

    def make_volumes(self, sizes: Mapping[str, str]) -> None:
        """Make volumes on the node's disk, as an operator without a storage class would."""
        term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}]}
        for name, size in sizes.items():
            path = self.volumes / name
            path.mkdir(parents=True, exist_ok=True)
            Collection(self.admin, VOLUMES).create_or_get(
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolume",
                    "metadata": {"name": f"tessera-test-{name}", "labels": {"tessera.test/helm": "true"}},
                    "spec": {
                        "capacity": {"storage": size},
                        "accessModes": ["ReadWriteOnce"],
                        "persistentVolumeReclaimPolicy": "Retain",
                        "storageClassName": STORAGE,
                        "local": {"path": str(path)},
                        "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
                    },
                }
            )

    # --- what is there --------------------------------------------------------------------------------------------

    def secret(self) -> dict[str, str]:
        """Return the generated keys."""
        found = Collection(self.admin, SECRETS).get(f"{RELEASE}-secrets", NAMESPACE)
        assert found is not None
        return {name: base64.b64decode(value).decode() for name, value in found["data"].items()}

    def pods(self) -> dict[str, Document]:
        """Return component → its pod, of those that are not ending."""
        labels = f"app.kubernetes.io/instance={RELEASE}"
        found = [
            p for p in Collection(self.admin, PODS).list(NAMESPACE, labels=labels) if "deletionTimestamp" not in p["metadata"]
        ]
        return {pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod for pod in found}

    @property
    def url(self) -> str:
        """Address of the front door as this machine reaches it."""
        service = Collection(self.admin, SERVICES).get(f"{RELEASE}-front-door", NAMESPACE)
        assert service is not None
        return f"http://{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}"

    def logs(self, component: str, lines: int = 60) -> str:
        """Return the end of a component's output."""
        name = self.pods()[component]["metadata"]["name"]
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/log?tailLines={lines}"
        return self.cluster.get(path).decode(errors="replace")

    # --- people ---------------------------------------------------------------------------------------------------

    @contextmanager
    def signed_in(self, name: str) -> Iterator[httpx.Client]:
        """Give a browser in which *name* has signed in."""
        with httpx.Client(base_url=self.url, timeout=30.0, follow_redirects=False) as browser:
            browser.get("/hub/login")
            form = {
                "username": name,
                "password": password_of(self.secret()["sign-in-key"], name),
                "_xsrf": browser.cookies.get("_xsrf", path="/hub/") or "",
            }
            answer = browser.post("/hub/login", data=form)
            assert answer.status_code == 302, (answer.status_code, self.logs("hub"))
            yield browser

    def token(self, name: str, *scopes: str) -> str:
        """Return a hub token of a person, made as the page *Tokens* does."""
        key = (name, *scopes)
        if key not in self._tokens:
            with self.signed_in(name) as browser:
                browser.get("/hub/token")
                headers = {"X-XSRFToken": browser.cookies.get("_xsrf", path="/hub/") or "", "Referer": f"{self.url}/hub/token"}
                body = {"note": "test", "expires_in": 86_400, "scopes": list(scopes) or PERSON_SCOPES}
                made = browser.post(f"/hub/api/users/{name}/tokens", json=body, headers=headers)
                assert made.status_code == 201, made.text
                self._tokens[key] = str(made.json()["token"])
        return self._tokens[key]

    def client(self, name: str) -> TesseraClient:
        """Return the SDK of a person."""
        return TesseraClient(f"{self.url}{SERVICE_PREFIX}", self.token(name))

    def clusters(self) -> list[Document]:
        """Return the clusters as the operator sees them."""
        token = self.token(OPERATOR, "custom:tessera:operate", "access:services!service=tessera")
        answer = httpx.get(
            f"{self.url}{SERVICE_PREFIX}/api/v1/clusters", headers={"Authorization": f"token {token}"}, timeout=30.0
        )
        assert answer.status_code == 200, answer.text
        found: list[Document] = json.loads(answer.text)
        return found

    # --- the end --------------------------------------------------------------------------------------------------

    def remove_everything(self) -> None:
        """Delete the release, if it is there, and what it keeps."""
        listed = json.loads(self.helm("list", "--all", "--output", "json"))
        if any(release["name"] == RELEASE for release in listed):
            self.helm("uninstall", RELEASE, "--wait", "--timeout", "120s")
        spaces = Collection(self.admin, NAMESPACES)
        tenants = [n["metadata"]["name"] for n in spaces.list(labels="tessera.io/site=tessera")]
        for namespace in tenants:
            for pod in Collection(self.admin, PODS).list(namespace):
                Collection(self.admin, PODS).patch(pod["metadata"]["name"], {"metadata": {"finalizers": None}}, namespace)
        for name in (NAMESPACE, WORKSPACES, *tenants):
            spaces.delete(name)
        gone = (NAMESPACE, WORKSPACES, *tenants)
        until("the namespaces go", lambda: not [n for n in gone if spaces.get(n) is not None], 120)
        for volume in Collection(self.admin, VOLUMES).list(labels="tessera.test/helm=true"):
            Collection(self.admin, VOLUMES).delete(volume["metadata"]["name"])
        shutil.rmtree(self.volumes, ignore_errors=True)

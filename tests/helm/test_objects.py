"""The chart's objects at a real API server: it takes them all, and its accounts can do what they must and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.cluster.centre import kind_of
from tests.cluster.machine import Machine
from tests.helm.chart import RELEASE, Document, named, pod_templates, template
from tests.helm.test_chart import CASES
from volcano_client import ClusterApiError, Collection, Kind, Transport

NAMESPACES = Kind("v1", "Namespace", "namespaces", namespaced=False)
SERVICES = Kind("v1", "Service", "services")
SLICES = Kind("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
FIRST = ("PriorityClass", "ServiceAccount")
"""What a pod names must be there before it is looked at."""
RIGHTS = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
PLURALS = {"NetworkPolicy": "networkpolicies", "PriorityClass": "priorityclasses", "Ingress": "ingresses"}


def kind(document: Document) -> Kind:
    found = kind_of(document)
    plural = PLURALS.get(found.kind, found.plural)
    return Kind(found.api_version, found.kind, plural, namespaced="namespace" in document["metadata"])


class Place:
    """Namespaces of the test's own with what a rendered chart needs there."""

    def __init__(self, admin: Transport, folder: Path, kubeconfig: Path) -> None:
        self.admin = admin
        self.kubeconfig = kubeconfig
        self.folder = folder
        self.prefix = f"h{uuid4().hex[:8]}"
        self.namespace = f"{self.prefix}-system"
        self.made: list[Document] = []
        self.make_namespace(self.namespace)

    def make_namespace(self, name: str) -> None:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})

    def make(self, document: Document) -> None:
        _found, made = Collection(self.admin, kind(document)).create_or_get(document)
        if made:
            self.made.append(document)

    def render(self, values: dict[str, Any]) -> list[Document]:
        own = {**values, "proxy": {**values.get("proxy", {}), "namespacePrefix": self.prefix}}
        return template(own, self.folder, namespace=self.namespace)

    def close(self) -> None:
        for document in reversed(self.made):
            Collection(self.admin, kind(document)).delete(document["metadata"]["name"], document["metadata"].get("namespace"))


@pytest.fixture(scope="module")
def place(cluster: Machine, transport: Transport, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    assert cluster.is_up()
    found = Place(transport, tmp_path_factory.mktemp("objects"), cluster.kubeconfig)
    yield found
    found.close()


@pytest.mark.parametrize("case", CASES)
def test_the_api_server_takes_every_object_and_every_pod(place: Place, case: str) -> None:
    documents = place.render(CASES[case])
    [workspaces] = [d["metadata"]["name"] for d in documents if d["kind"] == "Namespace"]
    place.make_namespace(workspaces)
    for document in documents:
        if document["kind"] in FIRST:
            place.make(document)
    for document in documents:
        if document["kind"] not in (*FIRST, "Namespace"):
            Collection(place.admin, kind(document)).check(document)
    for name, pod in pod_templates(documents):
        # As a pod of its own, so that Pod Security refuses and does not only warn.
        found = {"apiVersion": "v1", "kind": "Pod", "metadata": {**pod["metadata"], "name": name, "namespace": place.namespace}}
        found["spec"] = pod["spec"]
        Collection(place.admin, kind(found)).check(found)


def test_hub_and_proxy_reach_the_api_server_that_the_cluster_tells_and_nothing_else_of_its_kind(place: Place) -> None:
    values = {"networkPolicies": {"apiServer": {"cidrs": [], "ports": [6443]}}}
    asked = ("--dry-run=server", "--kubeconfig", str(place.kubeconfig))
    documents = template(values, place.folder, *asked, namespace=place.namespace)
    service, slice_ = (Collection(place.admin, kind).get("kubernetes", "default") for kind in (SERVICES, SLICES))
    assert service is not None
    assert slice_ is not None
    addresses = [*service["spec"]["clusterIPs"], *(a for end in slice_["endpoints"] for a in end["addresses"])]
    wanted = {
        "to": [{"ipBlock": {"cidr": f"{address}/32"}} for address in dict.fromkeys(addresses)],
        "ports": [{"protocol": "TCP", "port": port} for port in dict.fromkeys([6443, 443, slice_["ports"][0]["port"]])],
    }
    for name in ("hub", "proxy"):
        policy = named(documents, "NetworkPolicy", f"{RELEASE}-{name}")
        assert wanted in policy["spec"]["egress"]
        Collection(place.admin, kind(policy)).check(policy)


def test_pod_security_would_refuse_what_is_not_restricted(place: Place) -> None:
    documents = place.render({})
    for document in documents:
        if document["kind"] in FIRST:
            place.make(document)
    name, pod = next(pod_templates(documents))
    spec = {**pod["spec"], "volumes": [*pod["spec"]["volumes"], {"name": "host", "hostPath": {"path": "/"}}]}
    metadata = {**pod["metadata"], "name": name, "namespace": place.namespace}
    found = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    with pytest.raises(ClusterApiError, match="hostPath"):
        Collection(place.admin, kind(found)).check(found)


@pytest.fixture(scope="module")
def bound(place: Place) -> Document:
    """The rights of the chart, made; what they are for."""
    documents = place.render({})
    [workspaces] = [d["metadata"]["name"] for d in documents if d["kind"] == "Namespace"]
    place.make_namespace(workspaces)
    for document in documents:
        if document["kind"] in (*FIRST, *RIGHTS):
            place.make(document)
    found: Document = {"workspaces": workspaces, "system": place.namespace}
    deadline = time.monotonic() + 20
    while not may(place, "hub", "create", "pods", workspaces):
        assert time.monotonic() < deadline, "the rights are not taken up"
        time.sleep(0.2)
    return found


def may(place: Place, component: str, verb: str, resource: str, namespace: str = "", name: str = "") -> bool:
    """Whether a component's account may do something, as the API server says."""
    plural, _slash, sub = resource.partition("/")
    group, dot, plain = plural.rpartition(":")
    attributes = {"verb": verb, "group": group if dot else "", "resource": plain, "subresource": sub}
    attributes |= {"namespace": namespace, "name": name}
    account = f"system:serviceaccount:{place.namespace}:{RELEASE}-{component}"
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{place.namespace}", "system:authenticated"]
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": account, "groups": groups, "resourceAttributes": attributes},
    }
    return bool(place.admin.call("POST", REVIEWS, body=body)["status"]["allowed"])


def test_the_hub_may_start_servers_where_people_are_and_nowhere_else(place: Place, bound: Document) -> None:
    people = bound["workspaces"]
    for verb in ("get", "list", "watch", "create", "delete"):
        assert may(place, "hub", verb, "pods", people)
        assert may(place, "hub", verb, "persistentvolumeclaims", people)
    assert may(place, "hub", "list", "events", people)
    assert may(place, "hub", "list", "nodes")
    for elsewhere in (bound["system"], "kube-system", "default", f"{place.prefix}-tenant-1"):
        assert not any(may(place, "hub", verb, "pods", elsewhere) for verb in ("get", "list", "create", "delete"))


@pytest.mark.parametrize("component", ["hub", "service", "front-door", "proxy", "postgresql"])
def test_nobody_reads_secrets_runs_commands_in_pods_or_gives_rights(place: Place, bound: Document, component: str) -> None:
    for namespace in (bound["system"], bound["workspaces"], "kube-system", "default"):
        for verb in ("get", "list", "create", "update", "delete"):
            assert not may(place, component, verb, "secrets", namespace), (verb, namespace)
        assert not may(place, component, "create", "pods/exec", namespace)
        assert not may(place, component, "create", "serviceaccounts/token", namespace)
        assert not may(place, component, "create", "rbac.authorization.k8s.io:roles", namespace)
        assert not may(place, component, "update", "rbac.authorization.k8s.io:rolebindings", namespace)
    for verb in ("create", "update", "patch", "bind", "escalate"):
        assert not may(place, component, verb, "rbac.authorization.k8s.io:clusterroles", name="cluster-admin")
    assert not may(place, component, "create", "rbac.authorization.k8s.io:clusterrolebindings")
    assert not may(place, component, "impersonate", "users", name="admin")
    assert not may(place, component, "delete", "namespaces", name="default")
    assert not may(place, component, "patch", "nodes", name="any")
    assert not may(place, component, "get", "nodes/proxy", name="any")


@pytest.mark.parametrize("component", ["service", "front-door", "postgresql"])
def test_who_does_not_speak_with_the_api_server_has_no_rights_at_all(place: Place, bound: Document, component: str) -> None:
    for namespace in (bound["system"], bound["workspaces"]):
        for resource in ("pods", "configmaps", "services", "persistentvolumeclaims", "apps:deployments", "batch:jobs"):
            assert not any(may(place, component, verb, resource, namespace) for verb in ("get", "list", "create", "delete"))

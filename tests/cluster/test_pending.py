"""Why a run waits, from situations made on the real cluster: what Kubernetes says, as our codes, told while it waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tessera_hub.proxy.drivers.kubernetes.objects import NODES, PODS
from tessera_hub.proxy.drivers.kubernetes.options import RUN
from tessera_hub.proxy.drivers.kubernetes.tenants import QUOTAS
from tests.cluster.centre import ClusterProxy
from tests.cluster.configuration import NODE
from tests.cluster.test_journey import submit
from volcano_client import Collection, Kind


def wait_for_reason(proxy: ClusterProxy, task_id: str, code: str) -> dict[str, Any]:
    """Return the reason once it is shown first."""
    deadline = time.monotonic() + 40
    while True:
        task = proxy.task(task_id)
        if task["reasons"] and task["reasons"][0]["code"] == code:
            found: dict[str, Any] = task["reasons"][0]
            return found
        assert time.monotonic() < deadline, (task["phase"], task["reasons"])
        time.sleep(0.2)


def cancel(proxy: ClusterProxy, task_id: str) -> None:
    """End a task that waits."""
    assert proxy.api.post(f"/tasks/{task_id}/cancel").is_success
    task = proxy.wait(task_id)
    assert task["phase"] == "CANCELLED"
    selection = {"labels": f"{RUN}={task['run_id']}", "fields": "status.phase=Running"}
    assert not list(Collection(proxy.admin, PODS).list(proxy.tenant_namespace(), **selection))


@contextmanager
def node_changed(proxy: ClusterProxy, change: dict[str, Any], back: dict[str, Any]) -> Iterator[None]:
    """Change the node for a while."""
    nodes = Collection(proxy.admin, NODES)
    nodes.patch(NODE, change)
    try:
        yield
    finally:
        nodes.patch(NODE, back)


def test_an_image_that_is_not_to_be_had(centre_proxy: ClusterProxy) -> None:
    task_id = submit(centre_proxy, "print(1)", environment="absent")
    reason = wait_for_reason(centre_proxy, task_id, "cluster.image")
    assert reason["detail"]["image"] == "tessera.test/absent:1"
    assert centre_proxy.task(task_id)["phase"] == "STARTING"
    cancel(centre_proxy, task_id)


def test_a_quota_of_the_namespace(centre_proxy: ClusterProxy) -> None:
    centre_proxy.wait(submit(centre_proxy, "print('so that there is a namespace')"))
    namespace = centre_proxy.tenant_namespace()
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "tight", "namespace": namespace}}
    quotas = Collection(centre_proxy.admin, QUOTAS)
    quotas.create_or_get({**quota, "spec": {"hard": {"requests.cpu": "1m"}}})
    time.sleep(1)
    task_id = submit(centre_proxy, "print(1)")
    reason = wait_for_reason(centre_proxy, task_id, "quota.native")
    assert "exceeded quota: tight" in reason["message"]
    assert centre_proxy.task(task_id)["phase"] == "PENDING"
    quotas.delete("tight", namespace)
    cancel(centre_proxy, task_id)


HELD = {"spec": {"unschedulable": True}}
FREE = {"spec": {"unschedulable": None, "taints": None}}
TAINT = {"spec": {"taints": [{"key": "team", "value": "other", "effect": "NoSchedule"}]}}


@pytest.mark.parametrize(("change", "code"), [(HELD, "cluster.nodes_down"), (TAINT, "cluster.taint")])
def test_a_node_that_takes_nothing(centre_proxy: ClusterProxy, change: dict[str, Any], code: str) -> None:
    # Our own placement sends no run to a node that takes none, so the pod is made by hand.
    pods = Collection(centre_proxy.admin, PODS)
    centre_proxy.wait(submit(centre_proxy, "print('so that there is a namespace')"))
    with node_changed(centre_proxy, change, FREE):
        document = pods.create_or_get(bare_pod(centre_proxy.tenant_namespace()))[0]
        name, namespace = document["metadata"]["name"], document["metadata"]["namespace"]
        deadline = time.monotonic() + 20
        while not (codes := codes_of(pods.get(name, namespace) or {})):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        pods.delete(name, namespace)
    assert codes == [code]


def bare_pod(namespace: str, **spec: Any) -> dict[str, Any]:
    """Return a pod of no run."""
    closed = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {"name": "main", "image": "tessera.test/pause:1", "securityContext": closed} | spec.pop("container", {})
    metadata = {"name": f"bare-{time.monotonic_ns()}", "namespace": namespace}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [container], "securityContext": security, "terminationGracePeriodSeconds": 0, **spec},
    }


def codes_of(pod: dict[str, Any]) -> list[str]:
    """Return the codes of why a pod waits."""
    from tessera_hub.proxy.drivers.kubernetes.reasons import CODES
    from volcano_client import causes_of_pod

    return [CODES[cause.kind] for cause in causes_of_pod(pod)]


VOLUME = {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "none"}}]}
CASES = {
    "processors": ({"container": {"resources": {"requests": {"cpu": "1000"}}}}, "capacity.no_free_node"),
    "memory": ({"container": {"resources": {"requests": {"memory": "9Ti"}}}}, "capacity.no_free_node"),
    "cards": ({"container": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}}, "capacity.no_free_cards"),
    "selector": ({"nodeSelector": {"kind": "none"}}, "cluster.affinity"),
    "claim": (VOLUME, "cluster.volume"),
}


def test_a_claim_that_nobody_serves(centre_proxy: ClusterProxy) -> None:
    centre_proxy.wait(submit(centre_proxy, "print('so that there is a namespace')"))
    namespace = centre_proxy.tenant_namespace()
    claims = Collection(centre_proxy.admin, Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims"))
    wants = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}, "storageClassName": ""}
    metadata = {"name": "waits", "namespace": namespace}
    claims.create_or_get({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": wants})
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "waits"}}]
    pods = Collection(centre_proxy.admin, PODS)
    name = pods.create_or_get(bare_pod(namespace, volumes=volumes))[0]["metadata"]["name"]
    deadline = time.monotonic() + 20
    while not (codes := codes_of(pods.get(name, namespace) or {})):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    pods.delete(name, namespace)
    claims.delete("waits", namespace)
    assert codes == ["cluster.volume"]


@pytest.mark.parametrize("case", CASES)
def test_what_the_scheduler_says_has_a_code(centre_proxy: ClusterProxy, case: str) -> None:
    centre_proxy.wait(submit(centre_proxy, "print('so that there is a namespace')"))
    spec, code = CASES[case]
    pods = Collection(centre_proxy.admin, PODS)
    document = pods.create_or_get(bare_pod(centre_proxy.tenant_namespace(), **dict(spec)))[0]
    name, namespace = document["metadata"]["name"], document["metadata"]["namespace"]
    deadline = time.monotonic() + 20
    while not (codes := codes_of(pods.get(name, namespace) or {})):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    pods.delete(name, namespace)
    assert codes == [code]

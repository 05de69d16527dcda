"""Tasks of kind ``service`` on the real cluster: reached by name, brought back, billed pod by pod, and gone when cancelled."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from tessera_hub.proxy.drivers.kubernetes.objects import PODS, SECRETS, SERVICES
from tessera_hub.proxy.drivers.kubernetes.options import RUN
from tessera_hub.proxy.drivers.kubernetes.services import DEPLOYMENTS
from tessera_hub.proxy.drivers.kubernetes.tenants import POLICIES
from tests.cluster.centre import ClusterProxy
from tests.cluster.test_journey import SIZE, bill, submit
from volcano_client import Collection

T = TypeVar("T")
SERVER = """
import http.server, os
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/fall":
            os._exit(3)
        body = f"pod {os.environ['HOSTNAME']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
print("listens", flush=True)
http.server.ThreadingHTTPServer(("", int(os.environ["TESSERA_PORT"])), Answer).serve_forever()
"""
CALLER = """
import sys, time, urllib.request
deadline = time.monotonic() + 90
while True:
    try:
        print("heard", urllib.request.urlopen({url!r}, timeout=5).read().decode(), flush=True)
        break
    except OSError as error:
        if time.monotonic() > deadline:
            raise
        if {once!r}:
            print("nothing", error, flush=True)
            break
        time.sleep(0.3)
"""


def until(found: Callable[[], T], seconds: float = 90.0) -> T:
    """Return what *found* returns once it is something."""
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return answer


def serve(proxy: ClusterProxy, **fields: Any) -> dict[str, Any]:
    """Submit a service and return its task when it runs."""
    task_id = submit(proxy, SERVER, kind="service", lifecycle={"grace_seconds": 2}, **fields)
    return proxy.wait(task_id, "RUNNING", seconds=120)


def heard(proxy: ClusterProxy, task: dict[str, Any], path: str = "/", *, once: bool = False) -> str:
    """Ask the service from another pod of the tenant, and return what that one printed."""
    url = f"http://{task['progress']['address']}{path}"
    caller = submit(proxy, CALLER.format(url=url, once=once))
    assert proxy.wait(caller, seconds=150)["phase"] == "SUCCEEDED"
    return proxy.output(caller)


def pods_of(proxy: ClusterProxy, task: dict[str, Any]) -> list[dict[str, Any]]:
    labels = f"{RUN}={task['run_id']}"
    return list(Collection(proxy.admin, PODS).list(proxy.tenant_namespace(), labels=labels))


def objects_of(proxy: ClusterProxy, task: dict[str, Any]) -> list[str]:
    """What is left of a run."""
    return [
        f"{kind.kind}/{found['metadata']['name']}"
        for kind in (SECRETS, DEPLOYMENTS, SERVICES, PODS)
        for found in Collection(proxy.admin, kind).list(proxy.tenant_namespace(), labels=f"{RUN}={task['run_id']}")
    ]


def cancel(proxy: ClusterProxy, task: dict[str, Any]) -> dict[str, Any]:
    assert proxy.api.post(f"/tasks/{task['id']}/cancel").is_success
    return proxy.wait(task["id"], seconds=120)


def test_a_service_answers_comes_back_is_billed_pod_by_pod_and_leaves_nothing(centre_proxy: ClusterProxy) -> None:
    task = serve(centre_proxy, port=9000)
    namespace = centre_proxy.tenant_namespace()
    assert task["progress"]["address"] == f"tessera-{task['run_id']}.{namespace}.svc:9000"
    (first,) = pods_of(centre_proxy, task)
    assert f"heard pod {first['metadata']['name']}" in heard(centre_proxy, task)

    # A program that falls is started again by the kubelet, in the same pod.
    heard(centre_proxy, task, "/fall", once=True)
    until(lambda: centre_proxy.output(task["id"]).count("listens") == 2)
    assert [pod["metadata"]["uid"] for pod in pods_of(centre_proxy, task)] == [first["metadata"]["uid"]]

    # A pod that is lost is replaced by the Deployment, and the Proxy that died meanwhile has missed nothing.
    centre_proxy.kill()
    Collection(centre_proxy.admin, PODS).delete(first["metadata"]["name"], namespace)
    centre_proxy.start()
    centre_proxy.wait_for_session()
    until(lambda: all(pod["metadata"]["uid"] != first["metadata"]["uid"] for pod in pods_of(centre_proxy, task)))
    (second,) = until(lambda: pods_of(centre_proxy, task))
    assert f"heard pod {second['metadata']['name']}" in heard(centre_proxy, task)
    until(lambda: centre_proxy.output(task["id"]).count("listens") == 3)
    assert centre_proxy.task(task["id"])["phase"] == "RUNNING"

    task = cancel(centre_proxy, task)
    assert (task["phase"], task["attempts"]) == ("CANCELLED", 1)
    until(lambda: not objects_of(centre_proxy, task))
    lines = {line["dimension"]: line["unit_seconds"] for line in bill(centre_proxy, task["id"])["lines"]}
    assert lines["cpu"] * SIZE["memory_mib"] == lines["memory"] * SIZE["cpu_millicores"]
    assert lines["cpu"] > 0


def test_a_service_is_held_still_goes_on_and_ends_at_its_limit(centre_proxy: ClusterProxy) -> None:
    task = serve(centre_proxy)
    assert centre_proxy.api.post(f"/tasks/{task['id']}/suspend").is_success
    centre_proxy.wait(task["id"], "SUSPENDED", seconds=60)
    assert centre_proxy.api.post(f"/tasks/{task['id']}/resume").is_success
    centre_proxy.wait(task["id"], "RUNNING", seconds=60)
    assert "heard" in heard(centre_proxy, task)
    assert cancel(centre_proxy, task)["phase"] == "CANCELLED"
    lines = {line["dimension"]: line["unit_seconds"] for line in bill(centre_proxy, task["id"])["lines"]}
    assert lines["cpu"] * SIZE["memory_mib"] < lines["memory"] * SIZE["cpu_millicores"], "processors rest while it is held"
    limited = submit(centre_proxy, SERVER, kind="service", lifecycle={"grace_seconds": 1, "max_run_seconds": 2})
    task = centre_proxy.wait(limited, seconds=120)
    assert (task["phase"], task["reasons"][0]["code"]) == ("FAILED", "limit.time")


def test_a_deployment_taken_away_behind_our_back_is_told(centre_proxy: ClusterProxy) -> None:
    task = serve(centre_proxy)
    name, namespace = f"tessera-{task['run_id']}", centre_proxy.tenant_namespace()
    (policy,) = Collection(centre_proxy.admin, POLICIES).list(namespace)
    assert policy["spec"]["podSelector"] == {}
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": {}}]}], "the tenant's own pods, and nobody else"
    Collection(centre_proxy.admin, DEPLOYMENTS).delete(name, namespace)
    task = centre_proxy.wait(task["id"], seconds=120)
    assert (task["phase"], task["reasons"][0]["code"]) == ("FAILED", "cluster.cancelled")
    until(lambda: not objects_of(centre_proxy, task))

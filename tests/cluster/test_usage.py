"""What pods of the real cluster use: told by the real kubelet to whom may ask it, and by the metrics API where it is."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from tessera_hub.proxy.drivers.kubernetes.kubelets import SUMMARY, Kubelets, address_of
from tessera_hub.proxy.drivers.kubernetes.objects import NODES, PODS
from tessera_hub.proxy.drivers.kubernetes.options import RUN, SITE, USAGE_ACCOUNT
from tessera_hub.proxy.drivers.kubernetes.permissions import system_namespace
from tessera_hub.proxy.drivers.kubernetes.usage import POD_METRICS, UsageReader
from tests.cluster.centre import ClusterProxy, account_token
from tests.cluster.configuration import NODE
from tests.cluster.definitions import pod_metrics_definition
from tests.cluster.parts import program
from tests.cluster.rights import refused
from tests.cluster.test_journey import submit
from tests.cluster.test_permissions import TenantRights, rights
from tests.hub_double import HubDouble
from tests.proxy.conftest import serving
from tests.service import ServiceProcess
from volcano_client import ClusterApiError, Collection, Transport
from volcano_client.kinds import DEFINITIONS

__all__ = ["rights"]
RUN_ID = UUID(int=7)
BUSY = """
import time
held = bytearray(80 << 20)
held[::4096] = b"1" * len(held[::4096])
print("ready", flush=True)
end = time.monotonic() + 12
while time.monotonic() < end:
    pass
"""


@pytest.fixture(scope="module")
def service(hub: HubDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with serving(tmp_path_factory.mktemp("service"), hub, usage_interval=1.0) as process:
        yield process


@pytest.fixture
def node(transport: Transport) -> dict[str, object]:
    found = Collection(transport, NODES).get(NODE)
    assert found is not None
    return found


def test_what_a_pod_uses_is_seen_while_it_runs(centre_proxy: ClusterProxy) -> None:
    task_id = submit(centre_proxy, BUSY, roles=[{"resources": {"cpu_millicores": 200, "memory_mib": 256}}])
    centre_proxy.wait_for_output(task_id, "ready\n")
    deadline = time.monotonic() + 30
    while len(centre_proxy.api.get(f"/tasks/{task_id}/usage").json()) < 4:
        assert time.monotonic() < deadline, centre_proxy.log_path.read_text()[-3000:]
        time.sleep(0.2)
    assert centre_proxy.task(task_id)["phase"] == "RUNNING"
    assert centre_proxy.wait(task_id)["phase"] == "SUCCEEDED"
    samples = centre_proxy.api.get(f"/tasks/{task_id}/usage").json()
    assert 80 <= max(sample["memory_mib"] for sample in samples) < 300, samples
    assert 100 < max(sample["cpu_millicores"] for sample in samples) < 2500, samples


# --- who may ask a kubelet --------------------------------------------------------------------------------------------


def status_of(transport: Transport, path: str) -> int:
    """Return how a server answers."""
    try:
        transport.raw("GET", path)
    except ClusterApiError as error:
        return error.status
    return 200


def test_the_way_through_the_api_server_to_all_of_a_kubelet_is_closed(rights: TenantRights) -> None:
    for path in ("stats/summary", "pods", f"containerLogs/{rights.namespace}/x/main"):
        assert refused(lambda path=path: rights.mine.call("GET", f"/api/v1/nodes/{NODE}/proxy/{path}"))


def test_a_kubelet_answers_the_account_for_use_and_not_the_proxys_own(rights: TenantRights, node: dict[str, object]) -> None:
    system = system_namespace(rights.prefix)
    told = Kubelets(rights.mine, system).summary(node)
    assert told["node"]["nodeName"] == NODE
    own = rights.mine.to_another(address_of(node), account_token(rights.admin, system))
    assert status_of(own, SUMMARY) == 403
    own.close()


def test_the_account_for_use_may_do_nothing_else(rights: TenantRights, node: dict[str, object]) -> None:
    token = account_token(rights.mine, system_namespace(rights.prefix), USAGE_ACCOUNT)
    at_kubelet, at_server = (rights.mine.to_another(host, token) for host in (address_of(node), rights.mine.server))
    assert status_of(at_kubelet, SUMMARY) == 200
    for path in ("/pods", "/configz", f"/containerLogs/{rights.namespace}/x/main", f"/exec/{rights.namespace}/x/main?command=id"):
        assert status_of(at_kubelet, path) == 403, path
    assert refused(lambda: list(Collection(at_server, PODS).list()))
    assert refused(lambda: at_server.call("GET", f"/api/v1/nodes/{NODE}/proxy/stats/summary"))
    for way in (at_kubelet, at_server):
        way.close()


def test_no_token_of_another_account_is_to_be_had(rights: TenantRights) -> None:
    assert refused(lambda: account_token(rights.mine, system_namespace(rights.prefix)))
    assert refused(lambda: account_token(rights.mine, rights.namespace, "default"))


def test_a_server_that_is_not_of_the_cluster_is_shown_no_token(rights: TenantRights, tmp_path: Path) -> None:
    new = [program("openssl"), "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-batch", "-days", "1", "-subj", "/CN=other"]
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{tmp_path}/key", "-out", f"{tmp_path}/crt"]
    subprocess.run([*new, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _address = server.accept()
            with suppress(OSError), peer, context.wrap_socket(peer, server_side=True) as secure:
                heard.append(secure.recv(1000))

        thread = threading.Thread(target=serve)
        thread.start()
        way = rights.mine.to_another(f"https://127.0.0.1:{server.getsockname()[1]}", "a-token")
        assert status_of(way, SUMMARY) == 0
        thread.join(10)
        way.close()
    assert b"".join(heard) == b""


# --- the metrics API --------------------------------------------------------------------------------------------------


@pytest.fixture
def metrics(transport: Transport) -> Iterator[Collection]:
    """The metrics API, played by the API server itself."""
    definition = pod_metrics_definition()
    Collection(transport, DEFINITIONS).create_or_get(definition)
    served = Collection(transport, POD_METRICS)
    deadline = time.monotonic() + 20
    while status_of(transport, POD_METRICS.path()) != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield served
    Collection(transport, DEFINITIONS).delete(definition["metadata"]["name"])


def told(namespace: str, name: str, cpu: str, labels: dict[str, str]) -> dict[str, object]:
    usage = {"cpu": cpu, "memory": "131072Ki"}
    return {
        "apiVersion": POD_METRICS.api_version,
        "kind": POD_METRICS.kind,
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "timestamp": "2026-01-02T03:04:05Z",
        "window": "20s",
        "containers": [{"name": "main", "usage": usage}, {"name": "deliver", "usage": usage}],
    }


async def test_the_metrics_api_is_asked_first_and_in_tenants_namespaces_only(rights: TenantRights, metrics: Collection) -> None:
    labels = {SITE: rights.prefix, RUN: str(RUN_ID)}
    for name, cpu, found in (("mine", "250m", labels), ("other", "9", {"app": "x"})):
        metrics.create_or_get(told(rights.namespace, name, cpu, found))
    began = {"name": "main", "state": {"running": {"startedAt": datetime.now(UTC).isoformat()}}}
    pod = {
        "metadata": {"namespace": rights.namespace, "name": "mine"},
        "spec": {"nodeName": NODE},
        "status": {"containerStatuses": [began]},
    }
    reader = UsageReader(rights.mine, rights.prefix, Kubelets(rights.mine, "nobody-is-asked-here"))
    deadline = time.monotonic() + 20
    while not (samples := await reader.look({RUN_ID: [pod]}, lambda _name: None)):
        assert time.monotonic() < deadline, "the rights of a new kind are taken up within some seconds"
        time.sleep(0.2)
    [sample] = samples
    assert (sample.run_id, sample.cpu_millicores, sample.memory_mib) == (RUN_ID, 250, 128)
    assert refused(lambda: list(Collection(rights.mine, POD_METRICS).list("default")))
    assert refused(lambda: list(Collection(rights.mine, POD_METRICS).list()))

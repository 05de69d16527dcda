"""Fixtures of the tests on a real Kubernetes; its index.

cluster    session   the test cluster of this machine (tests/cluster/fixture.py)
transport  session   the administrator's connection to it
defined    module    the same, with Volcano's kinds as far as we use them
namespace  function  a fresh namespace, deleted after the test
hub, service   module   a hub double and the real service
centre_proxy   module   the real Proxy of the cluster at that service, with its own service account; tasks are ada's
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.cluster.centre import ClusterProxy
from tests.cluster.definitions import definitions
from tests.cluster.machine import Machine
from tests.hub_double import HubDouble
from tests.proxy.conftest import serving
from tests.service import ServiceProcess
from volcano_client import COMMANDS, JOBS, POD_GROUPS, QUEUES, ClusterApiError, Collection, Kind, Transport
from volcano_client.kinds import DEFINITIONS

# Real Volcano is in no registry: its tests are collected where somebody put it into the test cluster.
collect_ignore_glob = [] if os.environ.get("TESSERA_TEST_VOLCANO") == "1" else ["test_volcano*.py"]
NAMESPACES = Kind("v1", "Namespace", "namespaces", namespaced=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests here need root."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.root)


@pytest.fixture(scope="session")
def transport(cluster: Machine) -> Iterator[Transport]:
    found = Transport.from_kubeconfig(cluster.kubeconfig)
    yield found
    found.close()


@pytest.fixture(scope="module")
def defined(transport: Transport) -> Iterator[Transport]:
    """The cluster with Volcano's kinds, as far as we use them."""
    collection = Collection(transport, DEFINITIONS)
    for document in definitions():
        collection.create_or_get(document)
    deadline = time.monotonic() + 20
    for kind in (JOBS, POD_GROUPS, QUEUES, COMMANDS):
        while True:
            try:
                list(Collection(transport, kind).list())
                break
            except ClusterApiError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
    yield transport
    for document in definitions():
        collection.delete(document["metadata"]["name"])
    while any(collection.get(document["metadata"]["name"]) for document in definitions()):
        assert time.monotonic() < deadline + 30
        time.sleep(0.2)


@pytest.fixture
def namespace(transport: Transport) -> Iterator[str]:
    name = f"test-{uuid4().hex[:8]}"
    namespaces = Collection(transport, NAMESPACES)
    namespaces.create_or_get({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    namespaces.delete(name)


@pytest.fixture(scope="module")
def hub() -> Iterator[HubDouble]:
    double = HubDouble()
    double.start()
    yield double
    double.stop()


@pytest.fixture(scope="module")
def service(hub: HubDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with serving(tmp_path_factory.mktemp("service"), hub) as process:
        yield process


@pytest.fixture(scope="module")
def centre_proxy(
    cluster: Machine, transport: Transport, hub: HubDouble, service: ServiceProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClusterProxy]:
    api = service.api(hub.add_user("ada", "red"))
    found = ClusterProxy(cluster, service, tmp_path_factory.mktemp("proxy"), api, transport)
    found.start()
    found.wait_for_session()
    found.wait_for_inventory()
    yield found
    if found.process is not None:
        found.stop()
    found.remove_everything()

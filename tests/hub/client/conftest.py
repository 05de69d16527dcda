"""Fixtures of the SDK's tests.

hub      module  a double of JupyterHub's API
service  module  the real service, without its loops
token    module  alice's token; she is in tenant ``physics``
client   function  a blocking client of alice's
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tessera_hub.client import TesseraClient
from tests.hub_double import HubDouble
from tests.service import ServiceProcess


@pytest.fixture(scope="module")
def hub() -> Iterator[HubDouble]:
    double = HubDouble()
    double.start()
    yield double
    double.stop()


@pytest.fixture(scope="module")
def service(hub: HubDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    process = ServiceProcess(tmp_path_factory.mktemp("service"), hub, background=False, snapshot_limit_bytes=64 << 20).start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def token(hub: HubDouble) -> str:
    return hub.add_user("alice", "physics")


@pytest.fixture
def client(service: ServiceProcess, token: str) -> Iterator[TesseraClient]:
    with TesseraClient(service.url, token, speak="en") as connected:
        yield connected

"""Fixtures of the API's tests.

hub       module    a hub double with tenants ``red`` and ``blue``
service   module    the real service as a process, without the background loops
people    module    tokens: ada (red), bob (red), eve (blue), root (operator, red)
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.hub_double import HubDouble
from tests.service import ServiceProcess


@pytest.fixture(scope="module")
def hub() -> Iterator[HubDouble]:
    double = HubDouble()
    double.add_tenant("red")
    double.add_tenant("blue")
    double.start()
    yield double
    double.stop()


@pytest.fixture(scope="module")
def service(hub: HubDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    process = ServiceProcess(tmp_path_factory.mktemp("service"), hub, background=False)
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def people(hub: HubDouble) -> SimpleNamespace:
    return SimpleNamespace(
        ada=hub.add_user("ada", "red"),
        bob=hub.add_user("bob", "red"),
        eve=hub.add_user("eve", "blue"),
        root=hub.add_user("root", "red", operator=True),
    )

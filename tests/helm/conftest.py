"""Fixtures of the tests of the chart; its index.

transport  session  the administrator's connection to the test cluster
installed  module   the chart, installed there from images of the chart's Containerfiles
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.machine import Machine
from tests.helm.installed import Installed
from volcano_client import Transport


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests here need root: images and the cluster."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.root)


@pytest.fixture(scope="session")
def transport(cluster: Machine) -> Iterator[Transport]:
    found = Transport.from_kubeconfig(cluster.kubeconfig)
    yield found
    found.close()


@pytest.fixture(scope="module")
def installed(cluster: Machine, transport: Transport, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    found = Installed(cluster, transport, tmp_path_factory.mktemp("release"))
    try:
        found.install()
        yield found
    finally:
        found.remove_everything()

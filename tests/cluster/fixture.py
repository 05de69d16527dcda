"""The cluster as a fixture that other folders' tests may use, too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.machine import Machine


@pytest.fixture(scope="session")
def cluster() -> Iterator[Machine]:
    """The test cluster of this machine: the one that is up, or its own, taken down at the end."""
    machine = Machine()
    mine = not machine.is_up()
    machine.up()
    yield machine
    if mine:
        machine.down()

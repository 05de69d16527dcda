"""Fixture ``slurm``: the Slurm of :mod:`tests.slurm.cluster`, once per session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import SlurmCluster, missing, running


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    """A real Slurm; without its packages or root the tests that need it fail with what to install."""
    lacking = missing()
    if lacking is not None:
        pytest.fail(lacking, pytrace=False)
    with running() as cluster:
        yield cluster

"""Fixtures of the Slurm tests.

make_lease, hub, service, ada   as in tests/proxy
site         function  the session's Slurm as ada's centre
tell         function  keeps what came of a fault, for the table of faults (tests/faults/table.py)
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.proxy.conftest import LeaseMaker, ada, hub, make_lease, service
from tests.slurm.cluster import SlurmCluster
from tests.slurm.outcomes import tell
from tests.slurm.site import SlurmSite

__all__ = ["LeaseMaker", "ada", "hub", "make_lease", "service", "tell"]


@pytest_asyncio.fixture
async def site(slurm: SlurmCluster) -> AsyncIterator[SlurmSite]:
    """A folder of its own on the session's Slurm; every run in it is ended afterwards."""
    found = SlurmSite(slurm)
    yield found
    await found.finish()

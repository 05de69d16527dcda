"""The conformance suite for every driver there is: ``make test ONLY=conformance``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tests.proxy.conformance import Conformance
from tests.proxy.sites import LocalSite, Site


def local(request: pytest.FixtureRequest) -> Site:
    """Processes of this machine."""
    return LocalSite()


def slurm(request: pytest.FixtureRequest) -> Site:
    """Batch jobs of a real Slurm."""
    from tests.slurm.site import SlurmSite

    return SlurmSite(request.getfixturevalue("slurm"))


def kubernetes(request: pytest.FixtureRequest) -> Site:
    """Pods of a real Kubernetes."""
    from tests.cluster.site import KubernetesSite

    return KubernetesSite(request.getfixturevalue("cluster"))


def aws_batch(request: pytest.FixtureRequest) -> Site:
    """Jobs of AWS Batch as moto serves it, run by a double of its compute environment."""
    from tests.aws.site import AwsBatchSite

    return AwsBatchSite(request.getfixturevalue("aws_account"))


SITES: dict[str, Callable[[pytest.FixtureRequest], Site]] = {
    "local": local,
    "slurm": slurm,
    "kubernetes": kubernetes,
    "aws_batch": aws_batch,
}


NEEDS_ROOT = {"slurm", "kubernetes", "aws_batch"}


@pytest_asyncio.fixture(params=[pytest.param(name, marks=pytest.mark.root if name in NEEDS_ROOT else ()) for name in SITES])
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """A fresh site of one kind of cluster."""
    found = SITES[request.param](request)
    yield found
    await found.finish()


@pytest.mark.conformance
class TestConformance(Conformance):
    """See :mod:`tests.proxy.conformance`."""

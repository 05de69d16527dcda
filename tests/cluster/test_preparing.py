"""A run that is ended while its pod prepares: nobody waits for a grace that only user code needs."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio

from tessera_hub.proxy.drivers.base import CancelReason
from tessera_hub.proxy.drivers.kubernetes.objects import DELIVERY_SECONDS, KILL_SLACK_SECONDS
from tessera_hub.proxy.drivers.kubernetes.tending import grace_of_unbegun
from tessera_hub.proxy.drivers.runrecords import Order
from tests.cluster.machine import Machine
from tests.cluster.site import KubernetesSite
from tests.proxy.conftest import LeaseMaker, make_lease

__all__ = ["make_lease"]


@pytest_asyncio.fixture
async def site(cluster: Machine) -> AsyncIterator[KubernetesSite]:
    found = KubernetesSite(cluster)
    yield found
    await found.finish()


def preparing(pod_uid: str) -> list[int]:
    """Return the processes of a pod's preparation on this machine, which is the node."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words, groups = (folder / "cmdline").read_bytes().split(b"\0"), (folder / "cgroup").read_text()
        except OSError:
            continue
        if b"prepare" in words and pod_uid in groups.replace("_", "-"):
            found.append(int(folder.name))
    return found


async def test_a_preparation_that_does_not_hear_its_signal_is_ended_all_the_same(
    site: KubernetesSite, make_lease: LeaseMaker
) -> None:
    driver = await site.start()
    lease, source = make_lease("print('never')")
    reached, never = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        reached.set()
        await never.wait()

    source.before_claim = hang
    await site.submit(lease, source)
    await asyncio.wait_for(reached.wait(), site.patience)
    run = await site.wait(lease, "STARTING")
    # A stopped process takes no signal, like process 1 of a container before it listens.
    deaf = preparing(run.uid)
    assert deaf
    for process in deaf:
        os.kill(process, signal.SIGSTOP)
    await driver.cancel(lease.run_id, "cancel", 0)
    run = await site.wait(lease, seconds=150)  # the pod's own grace is above five minutes
    assert (run.phase, run.meter, run.reason.code if run.reason else "") == ("CANCELLED", (), "policy.cancelled")
    assert await driver.logs(lease.run_id, "output", 0, 100) == b""


@pytest.mark.parametrize(("why", "grace"), [("cancel", 30), ("preempt", 600)])
def test_user_code_that_began_unseen_keeps_the_grace_of_its_order(why: CancelReason, grace: int) -> None:
    pod_grace = grace_of_unbegun(Order(why, grace, datetime.now(UTC)))
    assert grace + KILL_SLACK_SECONDS < pod_grace < grace + KILL_SLACK_SECONDS + DELIVERY_SECONDS


def test_what_nobody_gave_a_grace_is_ended_at_once() -> None:
    assert grace_of_unbegun(Order("cancel", 0, datetime.now(UTC))) == grace_of_unbegun(None) == KILL_SLACK_SECONDS

"""The driver on real Volcano: the whole suite, and what only Volcano does.

Collected where ``TESSERA_TEST_VOLCANO=1`` says that the test cluster has Volcano's controllers and scheduler; then it must pass.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.proxy.drivers.kubernetes.driver import KubernetesDriver
from tessera_hub.proxy.drivers.kubernetes.objects import NAMESPACES, PLAIN_JOBS, PODS, VOLCANO_JOBS
from tessera_hub.proxy.drivers.kubernetes.options import RUN, SITE
from tessera_hub.proxy.drivers.kubernetes.queues import queue_name
from tessera_hub.schemas.protocol import Lease
from tests.cluster.centre import ClusterProxy
from tests.cluster.machine import Machine
from tests.cluster.site import KubernetesSite
from tests.cluster.test_journey import submit
from tests.cluster.test_ranks import (
    several,
    test_a_new_proxy_adopts_suspends_and_resumes_all_parts,
    test_a_part_that_fails_ends_the_others_and_is_named,
    test_a_pod_taken_away_ends_the_run_and_nothing_is_left,
    test_a_refused_claim_starts_no_part,
    test_cancel_reaches_all_parts,
    test_mpirun_in_the_first_part_starts_processes_in_all,
    test_two_ranks_meet_and_each_gives_back_its_log,
)
from tests.cluster.volcano import TREE, Urgent, free_of, until
from tests.proxy.conformance import OBEDIENT, SLEEPER, Conformance
from tests.proxy.conftest import LeaseMaker, make_lease
from tests.proxy.sites import Site
from tests.proxy.test_preemption import TRAINING
from volcano_client import (
    COMMANDS,
    QUEUES,
    Collection,
    JobPhase,
    Transport,
    command,
    job_state,
    queue,
)
from volcano_client.objects import Named, Owner

__all__ = [
    "make_lease",
    "test_a_new_proxy_adopts_suspends_and_resumes_all_parts",
    "test_a_part_that_fails_ends_the_others_and_is_named",
    "test_a_pod_taken_away_ends_the_run_and_nothing_is_left",
    "test_a_refused_claim_starts_no_part",
    "test_cancel_reaches_all_parts",
    "test_mpirun_in_the_first_part_starts_processes_in_all",
    "test_two_ranks_meet_and_each_gives_back_its_log",
]


class VolcanoSite(KubernetesSite):
    """The same cluster, its runs Volcano's jobs."""

    name = "volcano"

    async def purge(self) -> None:
        def remove(transport: Transport) -> None:
            for found in Collection(transport, VOLCANO_JOBS).list(labels=f"{SITE}={self.prefix}"):
                if job_state(found).phase in (JobPhase.COMPLETED, JobPhase.FAILED, JobPhase.ABORTED):
                    Collection(transport, VOLCANO_JOBS).delete(found["metadata"]["name"], found["metadata"]["namespace"])

        await self.call(remove)


@pytest_asyncio.fixture
async def site(cluster: Machine) -> AsyncIterator[Site]:
    found = VolcanoSite(cluster)
    yield found
    await found.finish()


class TestVolcanoConformance(Conformance):
    """See :mod:`tests.proxy.conformance`."""


async def test_the_runs_are_volcanos_jobs(site: VolcanoSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    assert isinstance(driver, KubernetesDriver)
    assert driver.uses_volcano
    lease, source = make_lease("import time; time.sleep(1)")
    await site.submit(lease, source)
    await site.wait(lease, "RUNNING")

    def found(transport: Transport) -> tuple[int, int]:
        selection = f"{SITE}={site.prefix}"
        counts = [len(list(Collection(transport, kind).list(labels=selection))) for kind in (VOLCANO_JOBS, PLAIN_JOBS)]
        return counts[0], counts[1]

    assert await site.call(found) == (1, 0)
    assert (await site.wait(lease)).phase == "SUCCEEDED"


async def shows(site: VolcanoSite, lease: Lease, code: str) -> None:
    """Wait until a run that waits gives this reason."""
    shown: list[object] = []

    async def says() -> bool:
        run = await site.run(lease)
        shown[:] = [run and (run.phase, run.reason)]
        return run is not None and run.phase == "PENDING" and run.reason is not None and run.reason.code == code

    await until(says, lambda: shown)


# --- why a run waits --------------------------------------------------------------------------------------------------


async def test_a_queue_without_room_is_told(site: VolcanoSite, make_lease: LeaseMaker) -> None:
    await site.call(
        lambda t: Collection(t, QUEUES).create_or_get(queue(Named("tiny"), capability={"cpu": "10m", "memory": "1Mi"}))
    )
    site.options = {"queue": "tiny"}
    await site.start()
    lease, source = make_lease("print(1)")
    await site.submit(lease, source)
    await shows(site, lease, "quota.native")


async def test_a_gang_that_only_half_fits_starts_nothing_and_then_all(site: VolcanoSite, make_lease: LeaseMaker) -> None:
    driver = await site.start()
    free = await site.call(free_of)
    holds, held_source = make_lease(SLEEPER.format(seconds=300), resources={"cpu_millicores": free * 55 // 100})
    await site.submit(holds, held_source)
    await site.wait(holds, "RUNNING")
    lease, source = several(make_lease("print('both')", kind="training"), 2, cpu_millicores=free * 26 // 100)
    await site.submit(lease, source)
    await shows(site, lease, "capacity.gang")
    selection = f"{RUN}={lease.run_id}"
    pods = await site.call(lambda t: list(Collection(t, PODS).list(labels=selection)))
    assert [pod["spec"].get("nodeName") for pod in pods] == [None, None], "one of them had room"
    await driver.cancel(holds.run_id, "cancel", 0)
    run = await site.wait(lease)
    assert (run.phase, run.reason) == ("SUCCEEDED", None)


async def test_a_full_cluster_is_told(site: VolcanoSite, make_lease: LeaseMaker) -> None:
    await site.start()
    free = await site.call(free_of)
    lease, source = several(make_lease("print('never')", kind="training"), 2, cpu_millicores=free)
    await site.submit(lease, source)
    await shows(site, lease, "capacity.no_free_node")


async def test_a_run_for_a_queue_that_takes_nothing_is_given_back(site: VolcanoSite, make_lease: LeaseMaker) -> None:
    name = f"closed-{site.prefix}"
    made = await site.call(lambda t: Collection(t, QUEUES).create_or_get(queue(Named(name)))[0])
    target = Owner(QUEUES.api_version, QUEUES.kind, name, made["metadata"]["uid"])
    await site.call(
        lambda t: Collection(t, COMMANDS).create_or_get(command(Named(f"{name}-close", "default"), "CloseQueue", target))
    )

    async def closed() -> bool:
        found = await site.call(lambda t: Collection(t, QUEUES).get(name))
        return bool((found or {}).get("status", {}).get("state") == "Closed")

    await until(closed)
    site.options = {"queue": name}
    await site.start()
    lease, source = make_lease("print('never')")
    with pytest.raises(DriverError) as told:
        await site.submit(lease, source)
    assert told.value.give_back
    await site.call(lambda t: Collection(t, QUEUES).delete(name))


# --- making room ------------------------------------------------------------------------------------------------------


async def test_a_run_that_makes_room_for_others_saves_its_checkpoint(
    site: VolcanoSite, make_lease: LeaseMaker, transport: Transport, namespace: str
) -> None:
    driver = await site.start()
    free = await site.call(free_of)
    saving = 'open(__import__("os").environ["TESSERA_CHECKPOINT_DIR"] + "/state", "w").write("7")'
    text = OBEDIENT.replace('print("saved", flush=True)', saving)
    lease, source = make_lease(text, resources={"cpu_millicores": free * 60 // 100}, preemptible=True)
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    urgent = Urgent(transport, namespace, free * 50 // 100)
    run = await site.wait(lease)
    assert (run.phase, run.reason.code if run.reason else "") == ("PREEMPTED", "cluster.evicted")
    assert [file.path for file in (await driver.results(lease.run_id)).checkpoint] == ["state"]
    assert [fact.action for fact in run.meter] == ["START", "STOP"]
    await until(lambda: asyncio.to_thread(urgent.runs))
    urgent.end()


async def test_a_run_that_is_not_preemptible_stays(
    site: VolcanoSite, make_lease: LeaseMaker, transport: Transport, namespace: str
) -> None:
    driver = await site.start()
    free = await site.call(free_of)
    lease, source = make_lease(SLEEPER.format(seconds=300), resources={"cpu_millicores": free * 60 // 100})
    await site.submit(lease, source)
    await site.wait_for_output(lease, b"began")
    urgent = Urgent(transport, namespace, free * 50 // 100)
    await until(lambda: asyncio.to_thread(urgent.is_told_to_wait))
    run = await site.wait(lease, "RUNNING")
    assert run.reason is None
    await driver.cancel(lease.run_id, "cancel", 0)
    await until(lambda: asyncio.to_thread(urgent.runs))
    urgent.end()


def test_a_task_that_made_room_goes_on_where_it_saved(centre_proxy: ClusterProxy, transport: Transport, namespace: str) -> None:
    size = {"cpu_millicores": free_of(transport) * 60 // 100, "memory_mib": 256}
    text = TRAINING.replace("epoch < 40", "epoch < 150")
    task_id = submit(centre_proxy, text, roles=[{"resources": size}], lifecycle={"grace_seconds": 10}, preemptible=True)
    centre_proxy.wait_for_output(task_id, "epoch 3\n")
    [ours] = Collection(transport, VOLCANO_JOBS).list(labels=f"{SITE}={centre_proxy.prefix}")
    assert ours["spec"]["queue"] == queue_name("red/default", centre_proxy.prefix)
    urgent = Urgent(transport, namespace, free_of(transport) + 300, ours["spec"]["queue"])
    asyncio.run(until(lambda: centre_proxy.task(task_id)["phase"] == "QUEUED", urgent.told))
    asyncio.run(until(urgent.runs))
    evicted = min(centre_proxy.task(task_id)["runs"], key=lambda run: run["attempt"])
    assert (evicted["phase"], evicted["reasons"][0]["code"]) == ("PREEMPTED", "cluster.evicted")
    urgent.end()
    task = centre_proxy.wait(task_id, seconds=120)
    assert (task["phase"], task["attempts"]) == ("SUCCEEDED", 2)
    begun = re.search(r"begin at (\d+) attempt 2\n", centre_proxy.output(task_id))
    assert begun is not None
    assert int(begun[1]) > 3


# --- queues -----------------------------------------------------------------------------------------------------------


async def test_jobs_run_in_the_queue_of_their_task(site: VolcanoSite, make_lease: LeaseMaker) -> None:
    await site.call(lambda t: Collection(t, NAMESPACES).create_or_get(namespace_of(site.prefix)))
    driver = await site.start()
    await driver.apply_queues(TREE)
    lease, source = make_lease("print(1)")
    lease = lease.model_copy(update={"queue": "red/a/x"})

    async def taken() -> bool:
        try:
            await site.submit(lease, source)
        except DriverError as error:  # until Volcano has opened the queue
            if not error.give_back:
                raise
            return False
        return True

    await until(taken)
    found = await site.call(lambda t: list(Collection(t, VOLCANO_JOBS).list(labels=f"{SITE}={site.prefix}")))
    assert [each["spec"]["queue"] for each in found] == [queue_name("red/a/x", site.prefix)]
    assert (await site.wait(lease)).phase == "SUCCEEDED"
    await driver.forget(lease.run_id)
    await driver.apply_queues([])

    async def gone() -> bool:
        return not await site.call(lambda t: list(Collection(t, QUEUES).list(labels=f"{SITE}={site.prefix}")))

    await until(gone)


def namespace_of(prefix: str) -> dict[str, Any]:
    """Return the Proxy's own namespace, where its orders lie."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"{prefix}-system", "labels": {SITE: prefix}}}

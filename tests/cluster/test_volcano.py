"""The driver on real Volcano: the whole suite, and what only Volcano does.

Collected where ``TESSERA_TEST_VOLCANO=1`` says that the test cluster has Volcano's controllers and scheduler; then it must pass.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from tessera_hub.proxy.drivers.kubernetes.driver import KubernetesDriver
from tessera_hub.proxy.drivers.kubernetes.objects import PLAIN_JOBS, VOLCANO_JOBS
from tessera_hub.proxy.drivers.kubernetes.options import SITE
from tests.cluster.machine import Machine
from tests.cluster.parts import RUNS_IMAGE
from tests.cluster.site import KubernetesSite
from tests.proxy.conformance import Conformance
from tests.proxy.conftest import LeaseMaker, make_lease
from tests.proxy.sites import Site
from volcano_client import (
    COMMANDS,
    JOBS,
    POD_GROUPS,
    QUEUES,
    Collection,
    JobPhase,
    Task,
    Transport,
    causes_of_event,
    causes_of_pod_group,
    command,
    detect,
    job,
    job_state,
    queue,
)
from volcano_client.kinds import Kind
from volcano_client.objects import Named, Owner

__all__ = ["make_lease"]
EVENTS = Kind("v1", "Event", "events")


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


async def test_a_queue_without_room_is_told(site: VolcanoSite, make_lease: LeaseMaker) -> None:
    await site.call(
        lambda t: Collection(t, QUEUES).create_or_get(queue(Named("tiny"), capability={"cpu": "10m", "memory": "1Mi"}))
    )
    site.options = {"queue": "tiny"}
    await site.start()
    lease, source = make_lease("print(1)")
    await site.submit(lease, source)
    run = await site.wait(lease, "PENDING")
    deadline = time.monotonic() + 40
    while run is None or run.reason is None or run.reason.code != "quota.native":
        assert time.monotonic() < deadline, run and run.reason
        await asyncio.sleep(0.2)
        run = await site.run(lease)


def gang(namespace: str, cpu: str) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": RUNS_IMAGE,
        "command": ["sleep", "60"],
        "resources": {"requests": {"cpu": cpu}},
    }
    template = {"spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container]}}
    return job(
        Named("gang", namespace), [Task("master", 1, template), Task("worker", 2, template)], plugins={"svc": [], "env": []}
    )


def wait_for(true: Any, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_features_are_those_of_the_real_definitions(transport: Transport) -> None:
    found = detect(transport)
    assert found.jobs
    assert found.floor


def test_a_gang_starts_whole_is_stopped_and_goes_on_by_commands(transport: Transport, namespace: str) -> None:
    jobs = Collection(transport, JOBS)
    made, _new = jobs.create_or_get(gang(namespace, "100m"))
    wait_for(lambda: job_state(jobs.get("gang", namespace) or {}).running == 3)
    target = Owner(JOBS.api_version, JOBS.kind, "gang", made["metadata"]["uid"])
    Collection(transport, COMMANDS).create_or_get(command(Named("stop", namespace), "AbortJob", target, reason="suspend"))
    wait_for(lambda: job_state(jobs.get("gang", namespace) or {}).phase is JobPhase.ABORTED)
    Collection(transport, COMMANDS).create_or_get(command(Named("go", namespace), "ResumeJob", target))
    wait_for(lambda: job_state(jobs.get("gang", namespace) or {}).running == 3)
    jobs.delete("gang", namespace)


def test_a_gang_that_only_half_fits_does_not_start_and_says_so(transport: Transport, namespace: str) -> None:
    jobs = Collection(transport, JOBS)
    jobs.create_or_get(gang(namespace, "900m"))

    def told() -> set[str]:
        groups = list(Collection(transport, POD_GROUPS).list(namespace))
        kinds = {cause.kind for group in groups for cause in causes_of_pod_group(group)}
        for group in groups:
            uid = group["metadata"]["uid"]
            for event in Collection(transport, EVENTS).list(namespace, fields=f"involvedObject.uid={uid}"):
                kinds |= {cause.kind for cause in causes_of_event(event)}
        return kinds

    wait_for(lambda: told() & {"gang", "overused"})
    assert job_state(jobs.get("gang", namespace) or {}).running == 0
    jobs.delete("gang", namespace)

"""What the tests on real Volcano share: waiting, a job of somebody else that wants room, and a tree of queues."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tessera_hub.proxy.drivers.kubernetes.inventory import use_of
from tessera_hub.proxy.drivers.kubernetes.objects import NODES, PODS
from tessera_hub.proxy.drivers.kubernetes.quantities import millicores
from tests.cluster.parts import RUNS_IMAGE
from tests.proxy.test_kubernetes_queues import desired
from volcano_client import JOBS, POD_GROUPS, Collection, Task, Transport, causes_of_pod_group, job, job_state
from volcano_client.kinds import Kind
from volcano_client.objects import Named

PRIORITIES = Kind("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", namespaced=False)
PATIENCE = 60.0
TREE = [
    desired("red", limit={"cpu": 1000, "memory": 2000}, deserved={"cpu": 600}, guarantee={"cpu": 200}),
    desired("red/a", limit={"cpu": 500}, deserved={"cpu": 300}, guarantee={"cpu": 100}),
    desired("red/a/x", limit={"cpu": 400, "memory": 1000}, deserved={"cpu": 300}),
    desired("red/b", priority=70, deserved={"cpu": 300}),
    desired("blue"),
]


async def until(true: Callable[[], Awaitable[bool]] | Callable[[], bool], told: Callable[[], object] = lambda: None) -> None:
    """Wait until something holds; *told* says what is there instead."""
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                found = true()
                if found if isinstance(found, bool) else await found:
                    return
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise AssertionError(told()) from None


def free_of(transport: Transport) -> int:
    """Return the millicores that no pod holds."""
    [node] = list(Collection(transport, NODES).list())
    uses = [use for pod in Collection(transport, PODS).list() if (use := use_of(pod)) is not None]
    return millicores(node["status"]["allocatable"]["cpu"]) - sum(use.requests.get("cpu", 0) for use in uses)


def pod_template(cpu: str, program: list[str]) -> dict[str, Any]:
    """Return a template for pods that do this and nothing else."""
    container = {"name": "main", "image": RUNS_IMAGE, "command": program, "resources": {"requests": {"cpu": cpu}}}
    return {"spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container]}}


class Urgent:
    """A job of somebody else that is more important than ours, in the same queue: from others Volcano takes nothing for it."""

    def __init__(self, transport: Transport, namespace: str, cpu: int, queue: str = "default") -> None:
        self.transport, self.namespace = transport, namespace
        name = f"urgent-{namespace}"
        document = {"apiVersion": PRIORITIES.api_version, "kind": "PriorityClass", "metadata": {"name": name}, "value": 1000}
        Collection(transport, PRIORITIES).create_or_get(document)
        template = pod_template(f"{cpu}m", ["sleep", "300"])
        template["spec"]["priorityClassName"] = name
        Collection(transport, JOBS).create_or_get(
            job(Named("urgent", namespace), [Task("main", 1, template)], queue=queue, priority_class=name)
        )

    def runs(self) -> bool:
        """Whether it has got its room."""
        return job_state(Collection(self.transport, JOBS).get("urgent", self.namespace) or {}).running == 1

    def is_told_to_wait(self) -> bool:
        """Whether Volcano has looked for room in vain, evictions included."""
        groups = Collection(self.transport, POD_GROUPS).list(self.namespace)
        return any(cause.kind == "gang" for group in groups for cause in causes_of_pod_group(group))

    def told(self) -> list[object]:
        """What Volcano says of it."""
        return [(group["spec"], group.get("status")) for group in Collection(self.transport, POD_GROUPS).list(self.namespace)]

    def end(self) -> None:
        """Take it away."""
        Collection(self.transport, JOBS).delete("urgent", self.namespace)
        Collection(self.transport, PRIORITIES).delete(f"urgent-{self.namespace}")

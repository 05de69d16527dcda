"""Volcano itself by our client: what it takes of our objects, and what it makes of them.

Collected, as ``test_volcano.py``, where ``TESSERA_TEST_VOLCANO=1``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

from tessera_hub.proxy.drivers.kubernetes.mirror import QueueMirror
from tessera_hub.proxy.drivers.kubernetes.objects import EVENTS, PODS
from tessera_hub.proxy.drivers.kubernetes.options import SITE
from tessera_hub.proxy.drivers.kubernetes.queues import Node, found_nodes, wanted
from tessera_hub.schemas.protocol import DesiredQueue
from tessera_spawner.pods import QUEUE_ANNOTATION
from tests.cluster.volcano import TREE, pod_template, until
from tests.proxy.test_kubernetes_queues import desired
from volcano_client import (
    COMMANDS,
    JOBS,
    POD_GROUPS,
    QUEUES,
    Collection,
    JobPhase,
    JobState,
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
from volcano_client.objects import PREEMPTABLE, SCHEDULER, Named, Owner

# --- queues -----------------------------------------------------------------------------------------------------------


GROWN = [
    desired("red", limit={"cpu": 4000, "memory": 1000}, deserved={"cpu": 3000}, guarantee={"cpu": 2000}),
    desired("red/a", deserved={"cpu": 2000}, guarantee={"cpu": 2000}),
    desired("red/a/x", limit={"cpu": 9000}, deserved={"cpu": 2000}, guarantee={"cpu": 2000}, priority=90),
    desired("red/b", limit={"cpu": 2000}, deserved={"cpu": 5000}),
    desired("blue"),
    desired("green"),
]
CLOSED = [TREE[0].model_copy(update={"state": "closed"}), *TREE[1:]]


async def test_volcano_takes_the_tree_and_every_change_of_it(transport: Transport, namespace: str) -> None:
    prefix = f"q{uuid4().hex[:8]}"
    mirror = QueueMirror(transport, prefix, list, namespace)

    def there() -> Mapping[str, Node]:
        found = Collection(transport, QUEUES).list(labels=f"{SITE}={prefix}")
        return {node.path: replace(node, uid="") for node in found_nodes(found)}

    async def becomes(tree: list[DesiredQueue]) -> None:
        await mirror.apply(tree)
        wants = {node.path: node for node in wanted(tree, [], prefix)}
        await until(lambda: there() == wants, lambda: (there(), wants))

    mirror.start()
    for tree in (TREE, GROWN, TREE, CLOSED, TREE, []):
        await becomes(tree)
    await mirror.stop()


# --- jobs -------------------------------------------------------------------------------------------------------------


def gang(namespace: str, cpu: str) -> dict[str, Any]:
    template = pod_template(cpu, ["sleep", "60"])
    return job(
        Named("gang", namespace), [Task("master", 1, template), Task("worker", 2, template)], plugins={"svc": [], "env": []}
    )


def test_features_are_those_of_the_real_definitions(transport: Transport) -> None:
    found = detect(transport)
    assert found.jobs
    assert found.floor


async def test_a_gang_starts_whole_is_stopped_and_goes_on_by_commands(transport: Transport, namespace: str) -> None:
    jobs = Collection(transport, JOBS)
    made, _new = jobs.create_or_get(gang(namespace, "100m"))

    def state() -> JobState:
        return job_state(jobs.get("gang", namespace) or {})

    await until(lambda: state().running == 3, state)
    target = Owner(JOBS.api_version, JOBS.kind, "gang", made["metadata"]["uid"])
    Collection(transport, COMMANDS).create_or_get(command(Named("stop", namespace), "AbortJob", target, reason="suspend"))
    await until(lambda: state().phase is JobPhase.ABORTED, state)
    Collection(transport, COMMANDS).create_or_get(command(Named("go", namespace), "ResumeJob", target))
    await until(lambda: state().running == 3, state)
    assert state().retries == 1, "a resume counts as one"
    jobs.delete("gang", namespace)


async def test_a_gang_that_only_half_fits_does_not_start_and_says_so(transport: Transport, namespace: str) -> None:
    jobs = Collection(transport, JOBS)
    jobs.create_or_get(gang(namespace, "900m"))

    def told() -> set[object]:
        groups = list(Collection(transport, POD_GROUPS).list(namespace))
        kinds: set[object] = {cause.kind for group in groups for cause in causes_of_pod_group(group)}
        for group in groups:
            uid = group["metadata"]["uid"]
            for event in Collection(transport, EVENTS).list(namespace, fields=f"involvedObject.uid={uid}"):
                kinds |= {cause.kind for cause in causes_of_event(event)}
        return kinds

    await until(lambda: bool(told() & {"gang", "cpu"}), told)
    assert job_state(jobs.get("gang", namespace) or {}).running == 0
    jobs.delete("gang", namespace)


TELLS = """
import json, os, pathlib
names = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "TF_CONFIG", "MPI_HOST", "VC_TASK_INDEX", "VC_MASTER_HOSTS",
         "VC_WORKER_HOSTS", "VC_WORKER_NUM")
told = {name: os.environ[name] for name in names if name in os.environ}
told["hosts"] = {path.name: path.read_text().split() for path in pathlib.Path("/etc/volcano").glob("*.host")}
told["keys"] = sorted(path.name for path in pathlib.Path("/root/.ssh").glob("*"))
pathlib.Path("/dev/termination-log").write_text(json.dumps(told))
"""
PLUGINS = {
    "pytorch": {"pytorch": ["--master=master", "--worker=worker", "--port=23456"]},
    "tensorflow": {"tensorflow": ["--ps=master", "--worker=worker", "--port=2222"], "svc": []},
    "mpi": {"mpi": ["--master=master", "--worker=worker", "--port=22"], "ssh": [], "svc": []},
}


async def test_what_volcanos_plugins_tell_the_pods_arrives(transport: Transport, namespace: str) -> None:
    jobs = Collection(transport, JOBS)
    told: dict[tuple[str, str], dict[str, Any]] = {}
    template = pod_template("50m", ["python3", "-c", TELLS])
    template["spec"]["securityContext"] = {"runAsUser": 0}
    for name, plugins in PLUGINS.items():
        tasks = [Task("master", 1, template), Task("worker", 1, template)]
        tasks[1] = replace(tasks[1], policies=[("TaskCompleted", "CompleteJob")])
        jobs.create_or_get(job(Named(name, namespace), tasks, plugins={**plugins, "env": []}))

    def ended() -> bool:
        for pod in Collection(transport, PODS).list(namespace):
            for status in pod.get("status", {}).get("containerStatuses") or ():
                if message := status["state"].get("terminated", {}).get("message"):
                    name, task, _index = pod["metadata"]["name"].split("-")
                    told[name, task] = json.loads(message)
        return len(told) == 2 * len(PLUGINS)

    await until(ended, lambda: told)
    torch = told["pytorch", "worker"]
    assert (torch["RANK"], torch["WORLD_SIZE"], torch["MASTER_PORT"]) == ("1", "2", "23456")
    assert torch["MASTER_ADDR"].startswith("pytorch-master-0.pytorch")
    assert told["pytorch", "master"]["RANK"] == "0"
    flow = json.loads(told["tensorflow", "worker"]["TF_CONFIG"])
    assert flow["task"] == {"type": "worker", "index": 0}
    assert flow["cluster"]["ps"] == ["tensorflow-master-0.tensorflow:2222"]
    assert told["mpi", "master"]["MPI_HOST"] == "mpi-worker-0.mpi"
    assert {"id_rsa", "id_rsa.pub", "authorized_keys", "config"} <= set(told["mpi", "worker"]["keys"])
    for (name, _task), words in told.items():
        assert words["VC_TASK_INDEX"] == "0"
        assert words["hosts"] == {"master.host": [f"{name}-master-0.{name}"], "worker.host": [f"{name}-worker-0.{name}"]}
        assert (words["VC_WORKER_HOSTS"], words["VC_WORKER_NUM"]) == (f"{name}-worker-0.{name}", "1")
    for name in PLUGINS:
        jobs.delete(name, namespace)


async def test_a_pod_that_names_a_queue_gets_a_group_in_it(transport: Transport, namespace: str) -> None:
    name = f"q-{namespace}"
    Collection(transport, QUEUES).create_or_get(queue(Named(name)))
    spec = {**pod_template("50m", ["sleep", "60"])["spec"], "schedulerName": SCHEDULER}
    metadata = {"name": "workspace", "namespace": namespace, "annotations": {QUEUE_ANNOTATION: name, PREEMPTABLE: "false"}}
    pods = Collection(transport, PODS)
    pods.create_or_get({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    await until(lambda: (pods.get("workspace", namespace) or {})["status"].get("phase") == "Running")
    [group] = Collection(transport, POD_GROUPS).list(namespace)
    assert group["spec"]["queue"] == name
    pods.delete("workspace", namespace, grace_seconds=0)
    await until(lambda: not list(Collection(transport, POD_GROUPS).list(namespace)))
    Collection(transport, QUEUES).delete(name)

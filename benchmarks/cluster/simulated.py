"""Many simulated nodes beside the test cluster's real API server, controllers and scheduler.

The nodes are those of :mod:`benchmarks.cluster.nodes`; kwok plays their kubelets: a pod that the scheduler has put on one of them
is running at once, and nothing runs. The cluster's real node takes no pod meanwhile.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.cluster.configuration import NODE
from tests.cluster.gotools import built
from tests.cluster.machine import Machine

from benchmarks.cluster.nodes import FAKE, NODES, nodes
from tessera_hub.proxy.drivers.kubernetes.objects import NAMESPACES, PODS
from tessera_hub.proxy.drivers.kubernetes.objects import NODES as NODE_KIND
from volcano_client import Collection, Transport

SOURCES = Path(__file__).parent / "kwok"
GRACE = "--node-monitor-grace-period=1h"
"""Simulated nodes do not tell that they live: their heartbeats are not what is measured."""
AT_ONCE = 16
RUNNING = """
{{ $now := Now }}
phase: Running
startTime: {{ $now | Quote }}
hostIP: {{ NodeIPWith .spec.nodeName | Quote }}
podIP: {{ PodIPWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace | Quote }}
conditions:
{{ range $type := list "Initialized" "ContainersReady" "Ready" }}
- type: {{ $type | Quote }}
  status: "True"
  lastTransitionTime: {{ $now | Quote }}
{{ end }}
initContainerStatuses:
{{ range .spec.initContainers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: true
  restartCount: 0
  state: {terminated: {exitCode: 0, reason: Completed, startedAt: {{ $now | Quote }}, finishedAt: {{ $now | Quote }}}}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
"""


def stage(name: str, keys: dict[str, str], following: dict[str, Any], kind: str = "Pod") -> dict[str, Any]:
    """Return what kwok does with an object for which these fields exist or do not."""
    selector = {"matchExpressions": [{"key": key, "operator": operator} for key, operator in keys.items()]}
    spec = {"resourceRef": {"apiGroup": "v1", "kind": kind}, "selector": selector, "next": following}
    return {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Stage", "metadata": {"name": name}, "spec": spec}


STAGES = (
    stage("runs", {".metadata.deletionTimestamp": "DoesNotExist", ".status.podIP": "DoesNotExist"}, {"statusTemplate": RUNNING}),
    stage("goes", {".metadata.deletionTimestamp": "Exists"}, {"finalizers": {"empty": True}, "delete": True}),
    # Without a stage of ours kwok would write all nodes anew every few seconds; they are made ready.
    stage("node", {".metadata.deletionTimestamp": "Exists"}, {"delete": True}, "Node"),
)


class Simulated:
    """The cluster with its simulated nodes, for the length of a ``with`` block; what was up before is as before afterwards.

    Args:
        count: how many nodes.

    Attributes:
        stays: the cluster was up before, so what was made in it has to be removed.
    """

    def __init__(self, count: int = NODES) -> None:
        self.count = count
        self.stays = False
        self.machine = Machine()
        self._folder = tempfile.TemporaryDirectory(prefix="tessera-bench-nodes-")
        self._kwok: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        program = built(SOURCES, {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}) / "kwok"
        self.stays = self.machine.is_up()
        self.machine.up()
        self.transport = Transport.from_kubeconfig(self.machine.kubeconfig)
        try:
            self._controllers(GRACE)
            self._cordon(True)
            config = Path(self._folder.name) / "stages.yaml"
            config.write_text("\n---\n".join(json.dumps(each) for each in STAGES))
            command = [str(program), f"--kubeconfig={self.machine.kubeconfig}", f"--config={config}"]
            command += [f"--manage-nodes-with-annotation-selector={FAKE}=fake", "--node-lease-duration-seconds=0"]
            with (Path(self._folder.name) / "kwok.log").open("wb") as log:
                self._kwok = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            self._make(nodes(self.count))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None) -> None:
        if self.stays:
            self.transport.call("DELETE", NODE_KIND.path(), query={"labelSelector": "kind"})
            self._cordon(False)
            self._controllers()
        if self._kwok is not None:
            self._kwok.terminate()
            self._kwok.wait(20)
        self.transport.close()
        if not self.stays:
            self.machine.down()
        self._folder.cleanup()

    def _controllers(self, *more: str) -> None:
        for part in ("scheduler", "controllers"):
            self.machine.stop_part(part)
        self.machine.start_controllers(*more)

    def _cordon(self, held: bool) -> None:
        Collection(self.transport, NODE_KIND).patch(NODE, {"spec": {"unschedulable": held or None, "taints": None}})

    def _make(self, documents: Iterable[dict[str, Any]]) -> None:
        collection = Collection(self.transport, NODE_KIND)

        def one(document: dict[str, Any]) -> None:
            metadata = {name: value for name, value in document["metadata"].items() if name != "uid"}
            collection.create_or_get({**document, "metadata": metadata})

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(one, documents))
        self._wait(self._are_ready, 120)

    def _are_ready(self) -> bool:
        found = [node for node in Collection(self.transport, NODE_KIND).list(labels="kind") if not node["spec"].get("taints")]
        return len(found) == self.count

    def remove_namespaces(self, labels: str) -> None:
        """Delete namespaces with all that is in them, and wait until they are gone."""
        namespaces, pods = Collection(self.transport, NAMESPACES), Collection(self.transport, PODS)
        names = [found["metadata"]["name"] for found in namespaces.list(labels=labels)]

        def let_go(pod: dict[str, Any]) -> None:
            name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
            pods.patch(name, {"metadata": {"finalizers": None}}, namespace)
            pods.delete(name, namespace, grace_seconds=0)

        for name in names:  # first, so that no job makes a pod anew
            namespaces.delete(name)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for name in names:
                list(pool.map(let_go, pods.list(name)))
        self._wait(lambda: not list(namespaces.list(labels=labels)), 300)

    @staticmethod
    def _wait(true: Any, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the simulated cluster is not as it should be after {seconds:.0f} s")
            time.sleep(0.5)

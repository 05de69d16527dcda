"""Fixtures of the tests of slices on a node; its index.

kubernetes  module  the real cluster with our device plugin on its kubelet: two cards, whose nodes are harmless devices
"""

from __future__ import annotations

import json
import os
import ssl
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tessera_vgpu.apiserver import ApiServer
from tessera_vgpu.bindings import Slot
from tessera_vgpu.cards import new_card
from tessera_vgpu.catalogue import load
from tessera_vgpu.plugin import DevicePlugin, Kubelet
from tessera_vgpu.serving import PluginServer
from tessera_vgpu.slots import SlotStore
from tests.cluster.configuration import GATEWAY, NODE
from tests.cluster.machine import Machine
from tests.cluster.parts import RUNS_IMAGE

MIB: Final = 81920
HARMLESS: Final = {"GPU-a": (1, 3), "GPU-b": (1, 5)}
"""Card → major and minor number: the null and the zero device stand for cards."""
LOOK: Final = """
import time
began = time.time()
import base64, json, os
limits = open("/run/tessera/limits", "rb").read()
with open("/run/tessera/usage", "r+b") as usage:
    usage.seek(16)
    usage.write((7).to_bytes(8, "little"))
cards = sorted(name for name in os.listdir("/dev") if name.startswith("GPU-"))
for card in cards:
    os.close(os.open("/dev/" + card, os.O_RDWR))
try:
    open("/run/tessera/limits", "r+b")
    writable = True
except OSError:
    writable = False
print(json.dumps({"cards": cards, "limits": base64.b64encode(limits).decode(), "writable": writable,
    "visible": os.environ["NVIDIA_VISIBLE_DEVICES"], "began": began}), flush=True)
"""


def make_nodes(folder: Path, uuids: Sequence[str]) -> None:
    """Make the device nodes of cards."""
    for uuid in uuids:
        os.mknod(folder / uuid, 0o666 | stat.S_IFCHR, os.makedev(*HARMLESS[uuid]))
        (folder / uuid).chmod(0o666)


class Store(SlotStore):
    """One that knows when the kubelet asked for each promise."""

    def __init__(self, folder: Path) -> None:
        self.asked: dict[str, float] = {}
        """Nonce → seconds since the epoch."""
        super().__init__(folder, make_nodes)

    def allocate(self, device_ids: Iterable[str]) -> Slot:
        began = time.time()
        slot = super().allocate(device_ids)
        self.asked[slot.nonce] = began
        return slot


class Kubernetes:
    """The cluster with the node agent's device plugin; pods in the namespace ``default``, deleted at the end."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine, self.folder = machine, folder
        known = machine.known()
        context = ssl.create_default_context(cafile=str(machine.home / "pki" / "ca.crt"))
        url = f"https://{GATEWAY}:{known['port']}"
        (folder / "token").write_text(known["tokens"]["admin"])
        headers = {"Authorization": f"Bearer {known['tokens']['admin']}"}
        self.http = httpx.Client(base_url=url, verify=context, headers=headers, timeout=30)
        self.client = ApiServer(url, NODE, folder / "token", context)
        shape = load().cards["A100-80G"].continuous
        self.cards = [new_card(uuid, "A100-80G", MIB, shape) for uuid in HARMLESS]
        self.pods: list[str] = []
        self.began: dict[str, float] = {}
        """Pod → when the program of its container began that was last seen."""
        self.start()

    def start(self) -> None:
        """Start the agent and wait until the scheduler may use its slots."""
        self.store = Store(self.folder / "state")
        kubelet = Kubelet(pod_resources=self.machine.home / "kubelet" / "pod-resources" / "kubelet.sock")
        self.plugin = DevicePlugin(self.store, lambda: self.cards, 2, self.client, kubelet)
        self.server = PluginServer(self.plugin)
        self.server.start()
        # What the node shows may be of an earlier agent; a pod that comes before this one is registered is rejected for good.
        self.wait(self.server.registered.is_set, 60, "the registration")
        self.wait_for_slots()

    def wait_for_slots(self) -> None:
        """Wait until the node has slots and memory."""

        def there() -> bool:
            self.client.show_memory(2 * MIB)
            free: dict[str, str] = self.http.get(f"/api/v1/nodes/{NODE}").json()["status"]["allocatable"]
            return free.get("tessera.io/vgpu") == "200" and free.get("tessera.io/vgpu-memory") == str(2 * MIB)

        self.wait(there, 90, "slots on the node")

    def stop(self) -> None:
        """Stop the agent; pods stay."""
        self.server.stop()
        self.store.close()

    def wait(self, true: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, f"{what} did not come"
            time.sleep(0.1)

    def create(
        self, name: str, centi: int, memory: int | None = None, then: str = "import time; time.sleep(600)", **more: Any
    ) -> None:
        """Make a pod whose container prints what it sees; ``more`` are annotations, ``init`` the slots of an init container."""
        limits = {"tessera.io/vgpu": str(centi), **({} if memory is None else {"tessera.io/vgpu-memory": str(memory)})}
        before = more.pop("init", None)
        notes = {f"vgpu.tessera.io/{key.replace('_', '-')}": value for key, value in more.items()}

        def container(label: str, program: str, count: str) -> dict[str, Any]:
            command = ["python3", "-c", LOOK + program]
            return {
                "name": label,
                "image": RUNS_IMAGE,
                "imagePullPolicy": "Never",
                "command": command,
                "resources": {"limits": {**limits, "tessera.io/vgpu": count}},
            }

        spec = {
            "containers": [container("main", then, str(centi))],
            "initContainers": [container("init", "", str(before))] if before else [],
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
        }
        pod = {"metadata": {"name": name, "annotations": notes}, "spec": spec}
        self.http.post("/api/v1/namespaces/default/pods", json=pod).raise_for_status()
        self.pods.append(name)

    def pod(self, name: str) -> dict[str, Any]:
        """Return a pod."""
        found: dict[str, Any] = self.http.get(f"/api/v1/namespaces/default/pods/{name}").json()
        return found

    def seen(self, name: str, container: str = "main") -> dict[str, Any]:
        """Return what a container printed, once it has."""
        text = ""

        def printed() -> bool:
            nonlocal text
            answer = self.http.get(f"/api/v1/namespaces/default/pods/{name}/log", params={"container": container})
            text = answer.text if answer.status_code == 200 else ""
            return text.startswith("{") and "\n" in text

        try:
            self.wait(printed, 60, f"output of {name}")
        except AssertionError as late:
            raise AssertionError(f"{late}: {text!r} {self.pod(name).get('status')} {self.events(name)}") from late
        found: dict[str, Any] = json.loads(text.splitlines()[0])
        self.began[name] = found.pop("began")
        return found

    def events(self, name: str) -> str:
        """Return the texts of a pod's events."""
        answer = self.http.get("/api/v1/namespaces/default/events", params={"fieldSelector": f"involvedObject.name={name}"})
        return "\n".join(str(event.get("message")) for event in answer.json()["items"])

    def delete(self, name: str) -> None:
        """Delete a pod and wait until it is gone."""
        self.http.delete(f"/api/v1/namespaces/default/pods/{name}", params={"gracePeriodSeconds": "0"})
        self.wait(lambda: self.http.get(f"/api/v1/namespaces/default/pods/{name}").status_code == 404, 60, f"the end of {name}")
        self.pods.remove(name)

    def close(self) -> None:
        """Remove pods, plugin, and the memory of the node."""
        for name in list(self.pods):
            with suppress(AssertionError, httpx.HTTPError):
                self.delete(name)
        self.stop()
        path = "/status/capacity/tessera.io~1vgpu-memory"
        self.http.patch(
            f"/api/v1/nodes/{NODE}/status",
            json=[{"op": "remove", "path": path}],
            headers={"Content-Type": "application/json-patch+json"},
        )
        self.client.close()
        self.http.close()


@pytest.fixture(scope="module")
def kubernetes(cluster: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    made = Kubernetes(cluster, tmp_path_factory.mktemp("node"))
    yield made
    made.close()

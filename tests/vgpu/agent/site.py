"""A real kubelet and containerd whose device plugin is the node agent's process, and pods on two simulated cards.

The agent has an account with the rights of docs/how-to/share-the-cards-of-a-node.md and no others.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tessera_vgpu.agent.nodes import SHARED
from tessera_vgpu.simulate import LIBRARIES, make_machine, parse_cards, read_cards
from tests.cluster.configuration import GATEWAY, NODE
from tests.cluster.machine import Machine
from tests.cluster.parts import RUNS_IMAGE
from tests.vgpu.conftest import Kubernetes
from tests.vgpu.interposer.conftest import BUILD
from tests.vgpu.simulator.conftest import compiler

CARD_MIB: Final = 81920 - 640 - 32 * 318
PROGRAMS: Final = Path(__file__).parent / "programs"
TAKE: Final = ["python3", "/work/take.py"]
ACCOUNT: Final = "tessera-vgpu"
RULES: Final = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
]


def administrator(machine: Machine) -> httpx.Client:
    """Return a client of the cluster with all rights."""
    known = machine.known()
    headers = {"Authorization": f"Bearer {known['tokens']['admin']}"}
    return httpx.Client(base_url=f"https://{GATEWAY}:{known['port']}", verify=False, headers=headers, timeout=30)


class Site(Kubernetes):
    """The cluster with ``tessera vgpu agent`` as its device plugin; two simulated cards."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.simulated = folder / "state" / "simulated"
        self.simulated.mkdir(parents=True)
        # Containers are ordinary users, and make shared memory beside it.
        self.simulated.chmod(0o777)
        self.cards_of = make_machine(self.simulated / "machine", parse_cards("2xA100-80G", read_cards()), mode=0o666)
        (folder / "nodes").mkdir()
        for name in (*SHARED, "nvidia0", "nvidia1"):
            os.mknod(folder / "nodes" / name, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        self.log = folder / "log"
        self.agent: subprocess.Popen[bytes] | None = None
        super().__init__(machine, folder)

    def start(self) -> None:
        if not (self.folder / "agent-token").exists():
            self._account()
        command = [
            sys.executable,
            "-m",
            "tessera_hub.cli",
            "vgpu",
            "agent",
            "--node",
            NODE,
            "--state-dir",
            str(self.folder / "state"),
        ]
        command += ["--library-dir", str(self.folder / "library"), "--library", str(BUILD / "libtessera_vgpu.so")]
        command += [
            "--api-server",
            f"https://{GATEWAY}:{self.machine.known()['port']}",
            "--token-file",
            str(self.folder / "agent-token"),
        ]
        command += ["--ca-file", str(self.machine.home / "pki" / "ca.crt"), *self.card_options()]
        command += ["--pod-resources", str(self.machine.home / "kubelet" / "pod-resources" / "kubelet.sock")]
        command += ["--listen", "127.0.0.1:0", "--upkeep-s", "0.5"]
        with self.log.open("w") as log:
            self.agent = subprocess.Popen(command, env=self.cards_of.environment(), stderr=log)
        # The kubelet shows the slots of an agent that was killed for a while.
        self.wait(lambda: "registered tessera.io/vgpu" in self.log.read_text(), 60, "the registration")
        self.wait_for_slots()

    def card_options(self) -> list[str]:
        """Return what leads the agent to the cards."""
        return ["--device-root", str(self.folder / "nodes"), "--driver-dir", str(LIBRARIES)]

    def wait_for_slots(self) -> None:
        def there() -> bool:
            self.check()
            free: dict[str, str] = self.http.get(f"/api/v1/nodes/{NODE}").json()["status"]["allocatable"]
            return free.get("tessera.io/vgpu") == "200" and free.get("tessera.io/vgpu-memory") == str(2 * CARD_MIB)

        self.wait(there, 90, "slots on the node")

    def check(self) -> None:
        """The agent has not ended."""
        assert self.agent is not None
        assert self.agent.poll() is None, self.log.read_text()

    def _account(self) -> None:
        name = {"metadata": {"name": ACCOUNT}}
        subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": "default"}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ACCOUNT}
        made = (
            ("/api/v1/namespaces/default/serviceaccounts", name),
            ("/apis/rbac.authorization.k8s.io/v1/clusterroles", {**name, "rules": RULES}),
            ("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {**name, "subjects": [subject], "roleRef": role}),
        )
        for path, body in made:
            self.http.post(path, json=body).raise_for_status()
        token = self.http.post(f"/api/v1/namespaces/default/serviceaccounts/{ACCOUNT}/token", json={"spec": {}})
        (self.folder / "agent-token").write_text(token.raise_for_status().json()["status"]["token"])

    def stop(self) -> None:
        assert self.agent is not None
        self.agent.send_signal(signal.SIGTERM)
        assert self.agent.wait(30) == 0, self.log.read_text()

    def kill(self) -> None:
        """End the agent as a power cut does."""
        assert self.agent is not None
        self.agent.kill()
        self.agent.wait()

    def close(self) -> None:
        super().close()
        self.remove_account()

    def remove_account(self) -> None:
        """Remove what the agent's account is made of."""
        with administrator(self.machine) as http:
            for path in ("clusterrolebindings", "clusterroles"):
                http.delete(f"/apis/rbac.authorization.k8s.io/v1/{path}/{ACCOUNT}").raise_for_status()
            http.delete(f"/api/v1/namespaces/default/serviceaccounts/{ACCOUNT}").raise_for_status()

    def pod_of(self, name: str, command: list[str], centi: int, memory: int, **annotations: str) -> Path:
        """Make a pod on a slice of simulated cards, and return the folder that its container has as ``/work``."""
        work = self.folder / f"work-{name}"
        work.mkdir()
        work.chmod(0o777)
        shutil.copy(PROGRAMS / "take.py", work)
        subprocess.run([compiler(), "-static", "-o", str(work / "opens"), str(PROGRAMS / "opens.c")], check=True)
        limits = {"tessera.io/vgpu": str(centi), "tessera.io/vgpu-memory": str(memory)}
        container = {
            "name": "main",
            "image": RUNS_IMAGE,
            "imagePullPolicy": "Never",
            "command": command,
            "resources": {"limits": limits},
            "env": [{"name": "GPU_SIMULATOR_STATE", "value": "/simulated/machine"}],
            "volumeMounts": [{"name": "simulated", "mountPath": "/simulated"}, {"name": "work", "mountPath": "/work"}],
        }
        volumes = [
            {"name": key, "hostPath": {"path": str(path)}} for key, path in (("simulated", self.simulated), ("work", work))
        ]
        spec = {
            "containers": [container],
            "volumes": volumes,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
        }
        notes = {f"vgpu.tessera.io/{key}": value for key, value in annotations.items()}
        pod = {"metadata": {"name": name, "annotations": notes}, "spec": spec}
        self.http.post("/api/v1/namespaces/default/pods", json=pod).raise_for_status()
        self.pods.append(name)
        return work

    def printed(self, name: str) -> list[dict[str, Any]]:
        """Return the lines that a container printed."""
        answer = self.http.get(f"/api/v1/namespaces/default/pods/{name}/log")
        return (
            [json.loads(line) for line in answer.text.splitlines() if line.startswith("{")] if answer.status_code == 200 else []
        )

    def metrics_url(self) -> str:
        """Return where the agent's metrics are."""
        found = re.search(r"metrics at (http://\S+)", self.log.read_text())
        assert found is not None
        return found[1]

    def metrics(self) -> dict[tuple[str, str], float]:
        """Return a scrape's figures of containers: name and pod → value."""
        text = httpx.get(self.metrics_url()).raise_for_status().text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {
            (sample.labels.get("remark", sample.name), sample.labels["pod"]): sample.value
            for sample in samples
            if "pod" in sample.labels
        }

"""Fixtures of the tests of the node agent's process.

make_node  function  a node: simulated cards, a kubelet and an API server (doubles), and the agent as a process of its own
node       function  one with two cards
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tessera_vgpu.agent.nodes import SHARED
from tessera_vgpu.pages import Limits, read_limits
from tessera_vgpu.simulate import Machine, make_machine, parse_cards, read_cards
from tests.vgpu.interposer.conftest import BUILD, answer, built
from tests.vgpu.kubelet_double import ApiServerDouble, KubeletDouble

__all__ = ["built"]
SECONDS = 30
NULL = os.makedev(1, 3)
MIB = 1 << 20
IN_GROUP = 'echo $$ > "$0"; exec "$@"'


def eventually(true: Callable[[], Any], what: str, seconds: float = SECONDS) -> float:
    """Wait for a condition and return how long that took."""
    begin = time.monotonic()
    while not true():
        assert time.monotonic() < begin + seconds, f"{what} did not come"
        time.sleep(0.02)
    return time.monotonic() - begin


def control_groups() -> Path:
    """Return where control groups can be made: version 2, or the hierarchy of pids of version 1."""
    unified = Path("/sys/fs/cgroup/cgroup.procs")
    return unified.parent if unified.exists() else Path("/sys/fs/cgroup/pids")


@dataclass
class Container:
    """A container as the agent sees it: its promise, and the control group that its processes are in."""

    node: Node
    pod: dict[str, Any]
    ids: list[str]
    answer: Any
    group: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """What the container sees of its promise."""
        return Path(self.answer.devices[0].host_path).parent

    def limits(self) -> Limits:
        return read_limits(self.folder / "limits")[1]

    def environment(self, library: bool = True) -> dict[str, str]:
        """Return what its programs find; without the library they go around it."""
        # The simulated driver does not look at nodes: it is told which cards have one.
        given = self.node.machine.environment() | {"CUDA_VISIBLE_DEVICES": ",".join(card.uuid for card in self.limits().cards)}
        if library:
            mounts = {mount.container_path: mount.host_path for mount in self.answer.mounts}
            given |= {
                "LD_PRELOAD": mounts["/usr/local/lib/tessera/libtessera_vgpu.so"],
                "TESSERA_TRIAL_PAGES": str(self.folder),
                "TESSERA_TRIAL_NODE": mounts["/run/tessera/node"],
            }
        return given

    def start(self, command: Sequence[str], library: bool = True) -> subprocess.Popen[str]:
        """Start a program in the container, and return it when it has said "ready"."""
        process = subprocess.Popen(
            ["sh", "-c", IN_GROUP, str(self.group / "cgroup.procs"), *command],
            # The shell has no card and no library; what it becomes has.
            env=self.environment(library),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        answer(process, None, "ready")
        return process

    def worker(self, library: bool = True) -> subprocess.Popen[str]:
        """Start a program that allocates what it is told."""
        return self.start([str(self.node.programs["worker"]), "told"], library)

    def units(self) -> int:
        """How many units of 32 MiB a further program gets."""
        command = [str(self.node.programs["fill"]), "linear", "linked"]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[0])

    def end(self) -> None:
        for process in self.started:
            process.kill()
            process.communicate()
        self.started = []
        for _try in range(100):
            with suppress(OSError):
                self.group.rmdir()
                break
            time.sleep(0.02)


class Node:
    """A node with its agent. ``options`` are further ones of ``tessera vgpu agent``."""

    def __init__(self, folder: Path, programs: dict[str, Path], machine: Machine, *options: str) -> None:
        self.folder, self.programs, self.machine = folder, programs, machine
        self.kubelet = KubeletDouble(folder)
        self.api = ApiServerDouble()
        self.groups = control_groups() / f"tessera-{os.getpid()}-{folder.name}" / "kubepods"
        self.groups.mkdir(parents=True)
        self.devices = folder / "nodes"
        self.devices.mkdir()
        for name in (*SHARED, *(f"nvidia{number}" for number in range(len(machine.uuids)))):
            os.mknod(self.devices / name, 0o666 | stat.S_IFCHR, NULL)
        (folder / "token").write_text("secret")
        self.state = folder / "state"
        self.options = options
        self.containers: list[Container] = []
        self._admitted: dict[str, tuple[list[str], Any]] = {}
        self.log = folder / "log"
        self.agent: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        made = [sys.executable, "-m", "tessera_hub.cli", "vgpu", "agent", "--node", "node-1", "--state-dir", str(self.state)]
        made += ["--library-dir", str(self.folder / "library"), "--library", str(BUILD / "libtessera_vgpu_trial.so")]
        made += ["--api-server", self.api.url, "--token-file", str(self.folder / "token")]
        made += ["--kubelet-plugins", str(self.kubelet.paths.plugins), "--pod-resources", str(self.kubelet.paths.pod_resources)]
        made += ["--device-root", str(self.devices), "--listen", "127.0.0.1:0", "--look-s", "0.2", "--upkeep-s", "0.2"]
        return made + list(self.options)

    def spawn(self, **variables: str) -> subprocess.Popen[bytes]:
        """Start the agent without waiting for it."""
        self.log.write_text("")
        environment = self.machine.environment() | variables
        with self.log.open("w") as log:
            self.agent = subprocess.Popen(self.command(), env=environment, stderr=log)
        return self.agent

    def start(self, **variables: str) -> None:
        """Start the agent and wait until the kubelet has it."""
        before = len(self.kubelet.registrations)
        agent = self.spawn(**variables)
        ready = lambda: agent.poll() is not None or (len(self.kubelet.registrations) > before and self._address())  # noqa: E731
        eventually(ready, "the agent")
        assert agent.poll() is None, self.log.read_text()
        self.url = f"http://{self._address()}"

    def _address(self) -> str:
        found = re.search(r"metrics at http://(\S+)/metrics", self.log.read_text())
        return found[1] if found is not None else ""

    def kill(self) -> None:
        """End the agent as a power cut does."""
        assert self.agent is not None
        self.agent.kill()
        self.agent.wait()

    def stop(self) -> int:
        """Ask the agent to end, and return its exit status."""
        assert self.agent is not None
        self.agent.send_signal(signal.SIGTERM)
        return self.agent.wait(SECONDS)

    def run(self, name: str, count: int, memory: str | None = None, ids: Sequence[str] = (), **annotations: str) -> Container:
        """Bring a pod with one container so far that it runs."""
        pod = self.api.add(name, memory, **annotations)
        ids, made = self.kubelet.admit(pod, "main", count, ids)
        self._admitted[name] = (ids, made)
        return self.again(name)

    def again(self, name: str) -> Container:
        """Start the container of a pod that the kubelet has admitted."""
        ids, made = self._admitted[name]
        self.kubelet.pre_start(ids)
        pod = self.api.pods[f"uid-{name}"]
        identity = f"{len(self.containers):064x}"
        pod["status"] = {"phase": "Running", "containerStatuses": [{"name": "main", "containerID": f"containerd://{identity}"}]}
        group = self.groups / f"pod{pod['metadata']['uid']}" / identity
        group.mkdir(parents=True)
        container = Container(self, pod, ids, made, group)
        self.containers.append(container)
        return container

    def delete(self, name: str) -> None:
        """Delete a pod, which the kubelet forgets."""
        uid = self.api.pods.pop(f"uid-{name}")["metadata"]["uid"]
        self.kubelet.entries = [entry for entry in self.kubelet.entries if entry["PodUID"] != uid]
        self.kubelet.listed.pop(("lab", name), None)
        self.kubelet.write_books()

    def admitted(self, name: str) -> bool:
        """Whether the kubelet has got devices for a pod."""
        return name in self._admitted

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Return what a scrape gives: name and values of labels, in the order of their names → value."""
        text = httpx.get(f"{self.url}/metrics").raise_for_status().text
        return {
            (sample.name, *(value for _name, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def uses(self, name: str, container: Container) -> float:
        """Return a metric of a container on its first card, -1 before the agent has looked at it."""
        card = container.limits().cards[0].uuid
        return self.metrics().get((f"tessera_vgpu_container_{name}", card, "main", "lab", container.pod["metadata"]["name"]), -1)

    def remarks(self, container: Container) -> set[str]:
        """Return what the agent has to say against a container."""
        name = container.pod["metadata"]["name"]
        return {key[-1] for key in self.metrics() if key[0] == "tessera_vgpu_container_remark" and key[4] == name}

    def local(self) -> httpx.Client:
        """Return a client of the agent's socket."""
        return httpx.Client(transport=httpx.HTTPTransport(uds=str(self.state / "control.sock")), base_url="http://agent")

    def resize(self, pod: str, container: str = "main", **fields: object) -> httpx.Response:
        """Ask for other limits."""
        with self.local() as client:
            return client.patch(f"/slices/lab/{pod}/{container}", json=fields)

    def slices(self) -> list[dict[str, Any]]:
        """Return what the agent's socket shows."""
        with self.local() as client:
            found: list[dict[str, Any]] = client.get("/slices").raise_for_status().json()
            return found

    def close(self) -> None:
        for container in self.containers:
            container.end()
        if self.agent is not None and self.agent.poll() is None:
            self.kill()
        self.kubelet.stop()
        self.api.stop()
        for folder, _folders, _files in os.walk(self.groups.parent, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()
        shutil.rmtree(self.folder / "nodes")


@pytest.fixture
def make_node(built: dict[str, Path], tmp_path: Path) -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def make(*options: str, cards: str = "2xA100-80G") -> Node:
        folder = tmp_path / f"n{len(made)}"
        folder.mkdir()
        machine = make_machine(folder / "machine", parse_cards(cards, read_cards()))
        node = Node(folder, built, machine, *options)
        made.append(node)
        return node

    yield make
    for node in made:
        node.close()


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    made = make_node()
    made.start()
    return made

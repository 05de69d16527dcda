"""Parts of a real Kubernetes are killed and started again while runs wait, work and end; so is the Proxy meanwhile.

Whatever happens: no task is lost, no user code starts twice, each run has one result and one bill.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest

from tessera_hub.proxy.drivers.kubernetes.objects import NODES
from tests.cluster.centre import ClusterProxy
from tests.cluster.configuration import BRIDGE, GATEWAY, GATEWAY_MAC, NODE
from tests.cluster.conftest import centre_proxy, hub, service, transport
from tests.cluster.leftovers import RUN
from tests.cluster.machine import Machine
from tests.faults.outcomes import tell, trial_of
from volcano_client import Collection

__all__ = ["centre_proxy", "hub", "service", "transport"]
pytestmark = [pytest.mark.faults, pytest.mark.root, pytest.mark.timeout(600)]
SECONDS = 10.0
"""How long a part is away."""
HELD_SECONDS, LET_GO_SECONDS = 4.0, 0.5
"""How long etcd is held up, and how long it works in between."""


@contextmanager
def kept() -> Iterator[None]:
    """Hold the machine's lock, so that nobody takes a cluster that does not answer for dead and makes it anew."""
    with (RUN / "lock").open("w") as lock:
        flock(lock, LOCK_EX)
        yield


@contextmanager
def kubelet_killed(machine: Machine) -> Iterator[None]:
    machine.stop_part("kubelet", signal.SIGKILL)
    try:
        yield
    finally:
        machine.start_kubelet()


@contextmanager
def control_plane_killed(machine: Machine) -> Iterator[None]:
    for part in ("apiserver", "scheduler", "controllers"):
        machine.stop_part(part, signal.SIGKILL)
    try:
        yield
    finally:
        machine.start_apiserver()


@contextmanager
def etcd_slow(machine: Machine) -> Iterator[None]:
    """Hold etcd up again and again, for longer than most calls take and for shorter than the API server gives up."""
    ends, pid = threading.Event(), machine.pid_of("etcd")

    def hold_up() -> None:
        while not ends.is_set():
            os.kill(pid, signal.SIGSTOP)
            ends.wait(HELD_SECONDS)
            os.kill(pid, signal.SIGCONT)
            ends.wait(LET_GO_SECONDS)

    thread = threading.Thread(target=hold_up)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


FAULTS = {
    "kubelet killed": kubelet_killed,
    "API server, scheduler, controllers killed": control_plane_killed,
}


def test_the_pods_gateway_keeps_its_address_whichever_pods_come_and_go(cluster: Machine) -> None:
    """Else a kubelet that comes back and clears up takes the way out from the pods that it has just started."""
    assert cluster.is_up()
    assert Path("/sys/class/net", BRIDGE, "address").read_text().strip() == GATEWAY_MAC


@pytest.mark.parametrize("fault", FAULTS)
def test_a_part_is_away_for_a_while(centre_proxy: ClusterProxy, request: pytest.FixtureRequest, fault: str) -> None:
    with trial_of(centre_proxy, GATEWAY) as trial:
        trial.wait_until_begun(trial.submit(SECONDS + 8), trial.submit(4))
        for _ in range(2):
            trial.submit(1)
        with kept(), FAULTS[fault](centre_proxy.cluster):
            for _ in range(2):
                trial.submit(1)
            trial.hold(SECONDS / 3)
            trial.kill_proxy()
            trial.hold(SECONDS)
        ends = trial.finish()
        tell(request, trial, f"{fault}, Proxy killed", "kubernetes", ends)
        said = trial.said()
    assert ends == Counter({"SUCCEEDED": 6}), said


def test_etcd_is_slow_while_runs_are_submitted_run_and_cancelled(
    centre_proxy: ClusterProxy, request: pytest.FixtureRequest
) -> None:
    with trial_of(centre_proxy, GATEWAY) as trial:
        unwanted = trial.submit(600)
        trial.wait_until_begun(unwanted, trial.submit(SECONDS))
        with kept(), etcd_slow(centre_proxy.cluster):
            for _ in range(2):
                trial.submit(1)
            trial.hold(SECONDS)
            trial.cancel(unwanted)
            trial.submit(1)
            trial.hold(SECONDS)
        ends = trial.finish()
        tell(request, trial, "etcd held up again and again", "kubernetes", ends)
        said = trial.said()
    assert ends == Counter({"SUCCEEDED": 4, "CANCELLED (policy.cancelled)": 1}), said


@contextmanager
def node_silent(machine: Machine) -> Iterator[None]:
    """The kubelet is gone, as if the node had lost its power, and Kubernetes has noticed; its containers go on, unseen."""
    machine.restart_controllers("--node-monitor-grace-period=8s", "--node-monitor-period=1s")
    machine.stop_part("kubelet", signal.SIGKILL)
    try:
        deadline = time.monotonic() + 90
        while ready(machine) == "True":
            assert time.monotonic() < deadline
            time.sleep(0.5)
        yield
    finally:
        machine.start_kubelet()
        machine.restart_controllers()
        deadline = time.monotonic() + 90
        while ready(machine) != "True":
            assert time.monotonic() < deadline
            time.sleep(0.5)


def ready(machine: Machine) -> str:
    """Return the node's condition ``Ready``, empty if there is no node."""
    nodes = json.loads(machine.get("/api/v1/nodes"))["items"]
    conditions = [one for node in nodes if node["metadata"]["name"] == NODE for one in node["status"]["conditions"]]
    return next((str(one["status"]) for one in conditions if one["type"] == "Ready"), "")


def test_a_node_is_lost_and_its_run_is_neither_shown_for_ever_nor_started_twice(
    centre_proxy: ClusterProxy, request: pytest.FixtureRequest
) -> None:
    with trial_of(centre_proxy, GATEWAY) as trial:
        lost = trial.submit(600)
        trial.wait_until_begun(lost)
        centre_proxy.wait(lost, "RUNNING")
        # The other one cannot fetch its inputs, so that its pod is on the node and its program has not begun.
        centre_proxy.relay.cut()
        begins = trial.submit(1)
        centre_proxy.wait(begins, "STARTING")
        with kept(), node_silent(centre_proxy.cluster):
            silent = time.time()
            trial.hold(3)
            assert centre_proxy.task(lost)["phase"] == "RUNNING", "a silence may end"
            trial.submit(1)
            Collection(centre_proxy.admin, NODES).delete(NODE)
            # Kubernetes collects the pods of a node that is not there after forty seconds.
            task = centre_proxy.wait(lost, seconds=180)
            centre_proxy.wait(begins, "QUEUED", "DISPATCHED", "PENDING", seconds=60)
            centre_proxy.relay.mend()
        ends = trial.finish()
        tell(request, trial, "node silent, then deleted", "kubernetes", ends)
        said = trial.said()
        bill = centre_proxy.api.get(f"/tasks/{lost}/bill").raise_for_status().json()
    assert ends == Counter({"FAILED (cluster.lost)": 1, "SUCCEEDED": 2}), said
    began = datetime.fromisoformat(task["started_at"]).timestamp()
    assert bill["seconds"] <= silent - began + 1, "what nobody could see any more is not billed"
    assert bill["seconds"] >= 1

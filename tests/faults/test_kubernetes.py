"""Parts of a real Kubernetes are killed and started again while runs wait, work and end; so is the Proxy meanwhile.

Whatever happens: no task is lost, no user code starts twice, each run has one result and one bill.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, flock

import pytest

from tests.cluster.centre import ClusterProxy
from tests.cluster.conftest import centre_proxy, hub, service, transport
from tests.cluster.machine import GATEWAY, RUN, Machine
from tests.faults.outcomes import tell, trial_of

__all__ = ["centre_proxy", "hub", "service", "transport"]
pytestmark = [pytest.mark.faults, pytest.mark.root, pytest.mark.timeout(600)]
SECONDS = 10.0
"""How long a part is away."""


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


FAULTS = {
    "kubelet killed": kubelet_killed,
    "API server, scheduler, controllers killed": control_plane_killed,
}


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

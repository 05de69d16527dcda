"""A whole centre for tests: the real service with its loops, and a real local Proxy, so that tasks really run.

It is shared by a test session. A test looks only at tasks of its own, and leaves limits, queues and clusters as they were.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.hub_double import HubDouble
from tests.service import ServiceProcess


@dataclass
class Centre:
    """A service and its Proxy."""

    service: ServiceProcess
    hub: HubDouble
    token: str
    operator: str


@pytest.fixture(scope="session")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    """Alice of tenant ``physics``, an operator, and the cluster ``local`` that runs what is sent."""
    hub = HubDouble()
    hub.start()
    folder = tmp_path_factory.mktemp("centre")
    service = ServiceProcess(folder / "service", hub).start()
    token, operator = hub.add_user("alice", "physics"), hub.add_user("root", "physics", operator=True)
    with service.api(operator) as api:
        answer = api.post("/clusters", json={"name": "local"})
        assert answer.status_code == 201, answer.text
    (folder / "token").write_text(answer.json()["bootstrap_token"])
    (folder / "token").chmod(0o600)
    with (folder / "proxy.log").open("wb") as log:
        proxy = subprocess.Popen(
            [
                *(sys.executable, "-m", "tessera_hub.cli", "proxy", "--cluster", "local", "--url", service.url),
                *("--bootstrap-token-file", str(folder / "token"), "--data-dir", str(folder / "runs")),
                *("--memory-reserve-mib", "64"),
            ],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    try:
        deadline = time.monotonic() + 60
        with service.api(token) as api:
            while not any(cluster["state"] == "ok" for cluster in api.get("/capacity").json()):
                assert proxy.poll() is None, (folder / "proxy.log").read_text()
                assert time.monotonic() < deadline, (folder / "proxy.log").read_text()
                time.sleep(0.2)
        yield Centre(service, hub, token, operator)
    finally:
        proxy.terminate()
        proxy.wait(20)
        service.stop()
        hub.stop()

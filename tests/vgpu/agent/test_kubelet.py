"""The node agent's process on a real kubelet and containerd: real pods on simulated cards, with the library for containers."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.machine import Machine
from tests.vgpu.agent.site import TAKE, Site
from tests.vgpu.interposer.conftest import MIB, built

__all__ = ["built"]
pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def node(cluster: Machine, built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(cluster, tmp_path_factory.mktemp("agent"))
    yield made
    made.close()


def test_a_real_container_is_held_to_its_memory_however_its_programs_start(node: Site) -> None:
    node.pod_of("held", TAKE, 30, 1024, limit="60")
    node.wait(lambda: len(node.printed("held")) > 0, 150, "output")
    (seen,) = node.printed("held")
    (card,) = (name for name in seen["devices"] if name in ("nvidia0", "nvidia1"))
    assert seen == {
        "total": 1024,
        "units": 32,
        "devices": sorted((card, "nvidia-uvm", "nvidia-uvm-tools", "nvidiactl")),
        "library": True,
        # A child with an empty environment, beside its parent that has freed all.
        "bare": 32,
        "error": "",
    }
    key = "tessera_vgpu_container_memory_driver_bytes", "held"
    node.wait(lambda: node.metrics().get(key) == (320 + 318) * MIB, 10, "the driver's word")
    assert node.metrics()["tessera_vgpu_container_memory_reserved_bytes", "held"] == 320 * MIB
    assert not {"hidden_memory", "no_library", "over_limit"} & {remark for remark, pod in node.metrics() if pod == "held"}


def test_its_limit_changes_while_it_runs_also_across_a_killed_agent(node: Site) -> None:
    work = node.folder / "work-held"
    status = node.pod("held")["status"]["containerStatuses"][0]
    node.kill()
    node.start()
    command = [sys.executable, "-m", "tessera_hub.cli", "vgpu", "resize", "default/held", "--memory", "2GiB"]
    subprocess.run([*command, "--state-dir", str(node.folder / "state")], check=True, capture_output=True)
    (work / "ask").write_text("more")
    node.wait(lambda: len(node.printed("held")) > 1, 20, "more")
    # 10 units of 32 MiB were held before.
    assert node.printed("held")[1] == {"more": 54}
    assert node.pod("held")["status"]["containerStatuses"][0] == status
    node.delete("held")
    node.wait(lambda: list((node.folder / "state" / "slots").iterdir()) == [], 20, "the release")


def test_a_static_program_is_found_and_its_pod_says_so(node: Site) -> None:
    node.pod_of("static", ["/work/opens", "/dev/nvidia0", "/dev/nvidia1"], 30, 1024)
    node.wait(lambda: node.printed("static") == [{}], 90, "its start")
    begin = time.monotonic()
    node.wait(lambda: ("no_library", "static") in node.metrics(), 10, "the finding")
    assert time.monotonic() - begin < 8
    node.wait(lambda: "goes around the limits of its slice" in node.events("static"), 10, "the event")
    node.delete("static")


def test_the_nodes_resources_come_back_after_the_kubelets_restart(node: Site) -> None:
    node.machine.stop_part("kubelet")
    node.machine.start_kubelet()
    node.wait(lambda: node.log.read_text().count("registered tessera.io/vgpu") >= 2, 30, "the registration")
    node.wait_for_slots()
    node.pod_of("after", TAKE, 10, 512)
    node.wait(lambda: len(node.printed("after")) > 0, 150, "output")
    assert node.printed("after")[0]["units"] == 16
    node.delete("after")

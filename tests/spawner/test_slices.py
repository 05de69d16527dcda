"""A workspace and a job on a slice of a card: browser, hub, service, Proxy, node agent and kubelet are real, cards are simulated.

The cell of the guide runs in the workspace's kernel, and the job's script is the same: what they print proves the limits.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tessera_hub.client import TesseraClient
from tessera_hub.demo import token_of
from tessera_vgpu.simulate import VGPU
from tests.browser.running import until
from tests.chromium import browser
from tests.cluster.configuration import NODE
from tests.cluster.machine import Machine
from tests.spawner.jupyter import Jupyter
from tests.spawner.podcentre import PodCentre, pod_centre
from tests.spawner.workspaces import ended, nothing_is_held
from tests.vgpu.agent.site import CARD_MIB, Site

__all__ = ["browser"]
pytestmark = [pytest.mark.timeout(280), pytest.mark.root]
GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "share-the-cards-of-a-node.md"
CARDS = "2xA100-80G"
FORM = {"#share": "30", "#card_memory": "8", "#cpu": "0.2", "#memory": "0.5"}
"""What a person fills in the form."""


class Simulated(Site):
    """The node agent as the guide starts it where there are no cards."""

    def card_options(self) -> list[str]:
        return ["--simulate-cards", CARDS]

    def label(self, name: str | None) -> None:
        """Say which cards the node has, as the guide does; None: say nothing."""
        kind = {"Content-Type": "application/merge-patch+json"}
        change = {"metadata": {"labels": {"tessera.io/card-class": name}}}
        self.http.patch(f"/api/v1/nodes/{NODE}", content=json.dumps(change), headers=kind).raise_for_status()


@pytest.fixture(scope="module")
def node(cluster: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    for part in ("simulator", "interposer"):
        subprocess.run(["make", "--silent", "-C", str(VGPU / part), f"PYTHON={sys.executable}"], check=True)
    made = Simulated(cluster, tmp_path_factory.mktemp("agent"))
    made.label("A100-80G")
    yield made
    made.label(None)
    made.close()


@pytest.fixture(scope="module")
def pods(cluster: Machine, node: Simulated) -> Iterator[PodCentre]:
    with pod_centre(cluster) as centre:
        yield centre


@pytest.fixture
def ben(pods: PodCentre) -> Iterator[TesseraClient]:
    with pods.hub.client("ben") as client:
        yield client
        for handle in client.tasks(mine=True):
            if not handle.task.phase.final:
                handle.cancel()
                ended(handle)


def cell() -> str:
    """The guide's cell."""
    found = re.search(r"```python\n(import tessera_vgpu\n.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def proved(said: str, memory_mib: int) -> None:
    """Hold that the cell's output shows 0.30 of a card and its memory, and that neither could be exceeded."""
    share, memory, compute = (line for line in said.splitlines() if "GPU-" in line)
    assert f"0.30 of a card, up to 0.30; 0 of {memory_mib} MiB in use" in share, said
    assert memory.startswith("passed: GPU-"), said
    # The driver gives pieces of 2 MiB.
    assert f"has a limit of {memory_mib} MiB, gave {memory_mib // 2 * 2} MiB and refused more" in memory
    assert f"the driver shows {memory_mib} MiB" in memory
    assert compute.startswith("passed: GPU-"), said
    assert "has a limit of 0.30 of its time" in compute


def limits_of(pod: dict[str, Any], container: str) -> dict[str, str]:
    (found,) = (one for one in pod["spec"]["containers"] if one["name"] == container)
    return {name: value for name, value in found["resources"]["limits"].items() if name.startswith("tessera.io/")}


def test_what_the_form_offers_is_what_the_node_agent_hands_out(pods: PodCentre, ben: TesseraClient) -> None:
    (cluster,) = (found for found in ben.capacity() if found.name == "pods")
    assert cluster.total["cards/A100-80G"] == 200
    assert cluster.total["card_memory/A100-80G"] == 2 * CARD_MIB


def test_a_person_starts_a_workspace_on_a_slice_and_proves_its_limits_in_a_cell(
    pods: PodCentre, ben: TesseraClient, browser: Browser
) -> None:
    page = browser.new_page(viewport={"width": 1500, "height": 950})
    pods.hub.sign_in(page, "ben")
    page.goto(f"{pods.hub.url}/services/tessera/workspaces/new")
    page.locator("label[for=compute-share]").click()
    for field, value in FORM.items():
        page.locator(field).fill(value)
    expect(page.locator("#summary")).to_contain_text("A100-80G")
    page.locator("button.t-start").click()
    page.wait_for_url(re.compile(r"/user/ben/lab"), timeout=150_000)
    [handle] = ben.tasks(kind="workspace", mine=True)
    assert handle.refresh().phase == "RUNNING"
    [pod] = pods.pods()
    assert limits_of(pod, "notebook") == {"tessera.io/vgpu": "30", "tessera.io/vgpu-memory": "8192"}
    assert not [volume for volume in pod["spec"]["volumes"] if "hostPath" in volume]
    jupyter = Jupyter(f"{pods.hub.url}/user/ben/", token_of(pods.hub.here, "ben", ["access:servers!user"]))
    jupyter.save_notebook("proof.ipynb", cell())
    page.goto(f"{pods.hub.url}/user/ben/lab/tree/proof.ipynb?reset")
    # Whoever is quicker than the kernel is asked which it shall be.
    expect(page.get_by_text(re.compile(r"\| Idle"))).to_be_visible(timeout=60_000)
    page.locator(".jp-Notebook .jp-Cell .cm-content").first.click()
    page.keyboard.press("Control+Enter")
    expect(page.locator(".jp-OutputArea-output")).to_contain_text("of its time", timeout=90_000)
    proved(page.locator(".jp-OutputArea-output").inner_text(), 8192)
    page.context.close()
    handle.cancel()
    ended(handle)
    lines = {line.dimension: line.unit_seconds for line in handle.bill().lines}
    seconds = handle.bill().seconds
    assert (lines["cards/A100-80G"], lines["card_memory/A100-80G"]) == (30 * seconds, 8192 * seconds)
    assert nothing_is_held(ben)


def test_a_job_on_a_slice_has_the_proof_in_its_log(pods: PodCentre, ben: TesseraClient, tmp_path: Path) -> None:
    (tmp_path / "proof.py").write_text(cell())
    # Without a word on memory it is in proportion to what the node agent hands out.
    handle = ben.submit(tmp_path / "proof.py", cards="A100-80G:0.3", cpu=0.2, memory="512MiB", cluster="pods")
    task = handle.wait(timeout_seconds=150)
    assert (task.phase, task.reasons) == ("SUCCEEDED", []), "".join(handle.logs())
    proved("".join(handle.logs()), CARD_MIB * 30 // 100)
    assert nothing_is_held(ben)


def test_the_node_has_everything_back(node: Simulated, pods: PodCentre, ben: TesseraClient) -> None:
    until(lambda: list((node.folder / "state" / "slots").iterdir()) == [], 60)

"""The node agent as a process: from the driver's cards to a container's limits, and back when the pod is gone."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tessera_vgpu.agent.metrics import Metrics
from tessera_vgpu.agent.nodes import SHARED
from tessera_vgpu.agent.view import View
from tests.vgpu.agent.conftest import MIB, Node, eventually
from tests.vgpu.interposer.conftest import answer

pytestmark = pytest.mark.root
OUT_OF_MEMORY = "2"
CONTEXT_MIB = 318
A100_MIB = 81920 - 640 - 32 * CONTEXT_MIB


def test_a_container_gets_library_nodes_and_limits_and_cannot_have_more(node: Node) -> None:
    container = node.run("train", 30, "1024", limit="60")
    limits = container.limits()
    assert (limits.pod_uid, limits.container, limits.most_processes) == ("uid-train", "main", 9)
    (card,) = limits.cards
    assert card.memory_limit_bytes == 1024 * MIB
    assert (card.compute_request_centi, card.compute_limit_centi) == (30, 60)
    # What a context costs was measured on the card itself.
    assert card.context_bytes == CONTEXT_MIB * MIB
    minor = node.machine.uuids.index(card.uuid)
    assert {path.name for path in (container.folder / "dev").iterdir()} == {f"nvidia{minor}", *SHARED}
    mounts = {mount.container_path: (Path(mount.host_path), mount.read_only) for mount in container.answer.mounts}
    assert {path for path, (_host, read_only) in mounts.items() if not read_only} == {"/run/tessera/usage", "/run/tessera/turns"}
    preload, _read_only = mounts["/etc/ld.so.preload"]
    assert preload.read_text() == "/usr/local/lib/tessera/libtessera_vgpu.so\n"
    assert container.units() == 32
    worker = container.worker()
    assert answer(worker, "alloc 1000") == "0"
    assert answer(worker, "alloc 100") == OUT_OF_MEMORY


def test_metrics_and_the_page_show_what_driver_and_container_say(node: Node) -> None:
    container = node.run("train", 30, "1024", limit="60")
    worker = container.worker()
    assert answer(worker, "alloc 600") == "0"
    eventually(lambda: node.uses("memory_driver_bytes", container) == (600 + CONTEXT_MIB) * MIB, "the driver's word")
    assert node.uses("memory_reserved_bytes", container) == 600 * MIB
    assert node.uses("memory_limit_bytes", container) == 1024 * MIB
    assert (node.uses("share_cards", container), node.uses("limit_cards", container)) == (0.3, 0.6)
    assert node.uses("processes", container) == 1
    card = container.limits().cards[0].uuid
    seen = node.metrics()
    assert seen["tessera_vgpu_card_memory_bytes", card, "A100-80G"] == A100_MIB * MIB
    assert seen["tessera_vgpu_card_given_cards", card, "A100-80G"] == 0.3
    assert seen["tessera_vgpu_card_given_memory_bytes", card, "A100-80G"] == 1024 * MIB
    assert seen["tessera_vgpu_card_slices_bytes", card, "A100-80G"] == (600 + CONTEXT_MIB) * MIB
    assert sum(value for key, value in seen.items() if key[0] == "tessera_vgpu_card_healthy") == 2
    page = httpx.get(node.url).raise_for_status()
    assert page.headers["content-type"] == "text/plain; charset=utf-8"
    assert f"lab/train/main {card} share_cards=0.3 limit_cards=0.6" in page.text
    assert httpx.get(f"{node.url}/healthz").text == "ok\n"
    assert httpx.get(f"{node.url}/other").status_code == 404


def test_the_reference_names_every_metric_and_no_other() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "vgpu.md").read_text("utf-8")
    families = Metrics(View).collect()
    names = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert set(re.findall(r"`(tessera_vgpu_[a-z_]+)`", page)) == names


def test_what_others_have_of_a_card_is_shown_apart(node: Node) -> None:
    stranger = subprocess.Popen(
        [str(node.programs["worker"]), "hold", "500"],
        env=node.machine.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    answer(stranger, None, "ready")
    key = ("tessera_vgpu_card_other_bytes", node.machine.uuids[0], "A100-80G")
    eventually(lambda: node.metrics()[key] == (500 + CONTEXT_MIB) * MIB, "the stranger's memory")
    stranger.kill()
    stranger.communicate()
    eventually(lambda: node.metrics()[key] == 0, "its end")


def test_an_agent_that_starts_on_full_cards_knows_what_a_context_costs(node: Node) -> None:
    assert node.stop() == 0
    hogs = [
        subprocess.Popen(
            [str(node.programs["worker"]), "hold", str(81920 - 640 - CONTEXT_MIB)],
            env=node.machine.environment() | {"CUDA_VISIBLE_DEVICES": uuid},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for uuid in node.machine.uuids
    ]
    for hog in hogs:
        answer(hog, None, "ready")
    node.start()
    assert node.run("train", 30).limits().cards[0].context_bytes == CONTEXT_MIB * MIB
    for hog in hogs:
        hog.kill()
        hog.communicate()


def test_a_deleted_pod_gives_its_slice_back(node: Node) -> None:
    container = node.run("train", 100, None)
    folder = container.folder
    assert folder.exists()
    del node.api.pods["uid-train"]
    eventually(lambda: not folder.exists(), "the release")
    assert node.run("next", 100, None).limits().cards[0].memory_limit_bytes == A100_MIB * MIB


def test_the_nodes_memory_is_kept_and_the_kubelet_may_restart(node: Node) -> None:
    eventually(lambda: node.api.capacity.get("tessera.io/vgpu-memory") == str(2 * A100_MIB), "the memory")
    del node.api.capacity["tessera.io/vgpu-memory"]
    eventually(lambda: node.api.capacity.get("tessera.io/vgpu-memory") == str(2 * A100_MIB), "it again")
    before = len(node.kubelet.registrations)
    node.kubelet.stop()
    node.kubelet.start()
    eventually(lambda: len(node.kubelet.registrations) > before, "the registration")
    assert node.run("train", 10, "512").units() == 16


def test_an_api_server_that_is_away_ends_nothing(node: Node) -> None:
    container = node.run("train", 30, "512")
    node.api.away = True
    eventually(lambda: "did not answer" in node.log.read_text(), "the complaint")
    assert container.units() == 16
    assert node.metrics()["tessera_vgpu_bypasses_total", "hidden_memory"] == 0
    node.api.away = False
    del node.api.pods["uid-train"]
    eventually(lambda: not container.folder.exists(), "the release")


def test_a_missing_device_node_keeps_the_container_from_starting_and_says_why(node: Node) -> None:
    (node.devices / "nvidia-uvm").rename(node.devices / "away")
    with pytest.raises(Exception, match=r"nvidia-uvm is missing on this node\. Run nvidia-modprobe"):
        node.run("train", 30)
    (node.devices / "away").rename(node.devices / "nvidia-uvm")
    node.kubelet.pre_start(node.kubelet.listed["lab", "train"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--library", "/nowhere/library.so"), "/nowhere/library.so"),
        (("--library", __file__), "not a library"),
        (("--contexts", "300"), "No card of this node can be shared"),
        (("--driver-dir", "/nowhere"), "libcuda.so.1 is not in /nowhere"),
        (("--listen", "somewhere"), "somewhere"),
        (("--kubelet-plugins", "/nowhere"), "/nowhere cannot be used: there is no such folder. Name that folder of this node"),
    ],
)
def test_what_it_lacks_it_says_and_ends(make_node: Callable[..., Node], options: tuple[str, ...], text: str) -> None:
    node = make_node(*options)
    assert node.spawn().wait(30) == 2
    assert text in node.log.read_text()


def test_a_port_that_is_taken_is_named(node: Node, make_node: Callable[..., Node]) -> None:
    other = make_node("--listen", node.url.removeprefix("http://"))
    assert other.spawn().wait(30) == 2
    assert "The node agent cannot go on" in other.log.read_text()
    assert "in use" in other.log.read_text()


def test_it_ends_in_good_order_and_two_never_serve_one_node(node: Node) -> None:
    container = node.run("train", 30, "512")
    second = subprocess.run(node.command(), env=node.machine.environment(), capture_output=True, text=True, timeout=60)
    assert second.returncode == 2
    assert "Another node agent uses" in second.stderr
    assert node.stop() == 0
    assert container.units() == 16


def test_the_drivers_libraries_are_given_where_the_operator_says(make_node: Callable[..., Node]) -> None:
    libraries = Path(__file__).parents[3] / "vgpu" / "build" / "simulator"
    node = make_node("--driver-dir", str(libraries), "--driver-inside", "/usr/lib64")
    node.start()
    mounts = {mount.container_path: mount.host_path for mount in node.run("train", 30).answer.mounts}
    assert mounts["/usr/lib64/libcuda.so.1"] == str(libraries / "libcuda.so.1")
    assert mounts["/usr/lib64/libnvidia-ml.so.1"] == str(libraries / "libnvidia-ml.so.1")


def test_a_folder_from_which_nothing_can_be_executed_is_refused(make_node: Callable[..., Node], tmp_path: Path) -> None:
    folder = tmp_path / "noexec"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "none", str(folder)], check=True)
    try:
        node = make_node("--library-dir", str(folder))
        assert node.spawn().wait(30) == 2
        assert "containers would start without the library" in node.log.read_text()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_in_a_pod_it_finds_the_drivers_libraries_below_the_nodes_root(make_node: Callable[..., Node], tmp_path: Path) -> None:
    (tmp_path / "host" / "opt").mkdir(parents=True)
    (tmp_path / "host" / "opt" / "driver").symlink_to(Path(__file__).parents[3] / "vgpu" / "build" / "simulator")
    node = make_node("--driver-dir", "/opt/driver", "--host-root", str(tmp_path / "host"))
    # It and the program that measures contexts have no other way to find them.
    node.start(LD_LIBRARY_PATH="/nowhere")
    container = node.run("train", 30)
    mounts = {mount.container_path: mount.host_path for mount in container.answer.mounts}
    assert mounts["/usr/lib/x86_64-linux-gnu/libcuda.so.1"] == "/opt/driver/libcuda.so.1"
    assert container.limits().cards[0].context_bytes == CONTEXT_MIB * MIB

"""The device plugin over real sockets, against a kubelet that restarts, forgets and asks for many pods at once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tessera_vgpu.apiserver import ApiServer
from tessera_vgpu.asking import asked, quantity
from tessera_vgpu.cards import Card, new_card
from tessera_vgpu.catalogue import load
from tessera_vgpu.errors import VgpuError
from tessera_vgpu.kubelet import read_checkpoint
from tessera_vgpu.kubelet_api import PLUGIN_SERVICE, plugin
from tessera_vgpu.pages import DeviceMode, read_limits
from tessera_vgpu.plugin import DevicePlugin
from tessera_vgpu.serving import PluginServer
from tessera_vgpu.slots import SlotStore
from tests.vgpu.kubelet_double import RESOURCE, ApiServerDouble, KubeletDouble

SHAPE = load().cards["A100-80G"].continuous
MIB = 81920


def nodes(folder: Path, uuids: Sequence[str]) -> None:
    for uuid in uuids:
        (folder / uuid).write_text("node")


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Node:
    """A node with two cards: kubelet, API server, and our plugin."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cards: list[Card] = [new_card(f"GPU-{name}", "A100-80G", MIB, SHAPE) for name in "ab"]
        self.kubelet = KubeletDouble(folder)
        self.api = ApiServerDouble()
        (folder / "token").write_text("secret\n")
        self.client = ApiServer(self.api.url, "node-1", folder / "token")
        self.start("state")

    def start(self, state: str) -> None:
        """Start the agent on a state directory."""
        self.store = SlotStore(self.folder / state, nodes)
        self.plugin = DevicePlugin(self.store, lambda: self.cards, 2, self.client, self.kubelet.paths)
        self.server = PluginServer(self.plugin, poll_s=0.05)
        self.server.start()
        assert self.server.registered.wait(20)

    def stop(self) -> None:
        """Stop the agent."""
        self.server.stop()
        self.store.close()

    def run(self, name: str, count: int, memory: str | None = None, **annotations: str) -> tuple[list[str], Any]:
        """Bring a pod as far as its container's start."""
        pod = self.api.add(name, memory, **annotations)
        ids, answer = self.kubelet.admit(pod, "main", count)
        self.kubelet.pre_start(ids)
        return ids, answer


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.stop()
    made.kubelet.stop()
    made.api.stop()
    made.client.close()


def seen(answer: Any) -> dict[str, Path]:
    """What a runtime would mount or walk: path inside → path on the host."""
    return {m.container_path: Path(m.host_path) for m in [*answer.mounts, *answer.devices]}


def test_it_registers_and_does_so_again_when_the_kubelet_restarts(node: Node) -> None:
    (first,) = node.kubelet.registrations
    assert (first.version, first.resource_name) == ("v1beta1", RESOURCE)
    assert first.options.pre_start_required
    assert first.options.get_preferred_allocation_available
    options = node.kubelet.call("GetDevicePluginOptions", plugin["Empty"](), "DevicePluginOptions")
    assert options == first.options
    ids, _answer = node.run("one", 10)
    node.kubelet.stop()
    node.kubelet.start()
    eventually(lambda: len(node.kubelet.registrations) == 2 and node.server.socket.exists())
    # What runs is untouched, and a container that starts again keeps its card.
    node.kubelet.pre_start(ids)
    node.run("two", 10)


def test_a_plugin_that_starts_before_the_kubelet_waits_for_it(tmp_path: Path) -> None:
    kubelet, api = KubeletDouble(tmp_path), ApiServerDouble()
    kubelet.stop()
    store = SlotStore(tmp_path / "state", nodes)
    server = PluginServer(DevicePlugin(store, list, 0, ApiServer(api.url, "n", None), kubelet.paths), poll_s=0.05)
    server.start()
    assert not server.registered.wait(0.5)
    kubelet.start()
    assert server.registered.wait(20)
    server.stop()
    store.close()
    kubelet.stop()
    api.stop()


def test_slots_are_a_hundred_a_card_and_go_with_an_ill_one(node: Node) -> None:
    held, _answer = node.run("one", 10)
    with grpc.insecure_channel(f"unix://{node.server.socket}") as channel:
        call: Any = channel.unary_stream(
            f"/{PLUGIN_SERVICE}/ListAndWatch",
            request_serializer=plugin["Empty"].SerializeToString,
            response_deserializer=plugin["ListAndWatchResponse"].FromString,
        )
        stream = call(plugin["Empty"](), timeout=30)
        assert [d.health for d in next(stream).devices] == ["Healthy"] * 200
        ill = node.cards.pop()
        node.plugin.cards_changed()
        devices = {d.ID: d.health for d in next(stream).devices}
        assert sorted(devices.values()) == ["Healthy"] * 100 + ["Unhealthy"] * 100
        assert {devices[device] for device in held} == {"Healthy"}
        node.cards.append(ill)
        node.plugin.cards_changed()
        assert {d.health for d in next(stream).devices} == {"Healthy"}
        stream.cancel()


def test_nothing_is_there_for_a_runtime_until_the_pod_is_known(node: Node) -> None:
    pod = node.api.add("one", "8k")
    ids, answer = node.kubelet.admit(pod, "main", 30)
    paths = seen(answer)
    assert set(paths) == {f"/run/tessera/{name}" for name in ("limits", "usage", "turns", "node")} | {"/dev"}
    assert [name for name, path in paths.items() if path.exists()] == ["/run/tessera/node"]
    assert dict(answer.envs) == {"NVIDIA_VISIBLE_DEVICES": "void"}
    assert [(m.container_path, m.read_only) for m in answer.mounts] == [
        ("/run/tessera/limits", True),
        ("/run/tessera/usage", False),
        ("/run/tessera/turns", False),
        ("/run/tessera/node", True),
    ]
    node.kubelet.pre_start(ids)
    assert [p.name for p in paths["/dev"].iterdir()] == ["GPU-a"]
    limits = read_limits(paths["/run/tessera/limits"])[1]
    assert (limits.pod_uid, limits.container) == ("uid-one", "main")
    assert limits.cards[0].memory_limit_bytes == 8000 << 20
    assert limits.cards[0].compute_request_centi == 30


def test_annotations_reach_the_limits(node: Node) -> None:
    _ids, answer = node.run("one", 30, "8192", limit="60", priority="7", weight="3", devices="one")
    limits = read_limits(seen(answer)["/run/tessera/limits"])[1]
    assert (limits.priority_class, limits.mode) == (7, DeviceMode.ONE_DEVICE)
    assert (limits.cards[0].compute_limit_centi, limits.cards[0].weight) == (60, 3)


def test_fifty_pairs_of_pods_in_the_same_second_are_never_swapped(node: Node) -> None:
    start = threading.Barrier(2)

    def one(name: str, count: int, memory: int) -> None:
        pod = node.api.add(name, str(memory))
        start.wait()
        ids, answer = node.kubelet.admit(pod, "main", count)
        node.kubelet.pre_start(ids)
        limits = read_limits(seen(answer)["/run/tessera/limits"])[1]
        assert (limits.pod_uid, limits.cards[0].compute_request_centi) == (f"uid-{name}", count)
        assert limits.cards[0].memory_limit_bytes == memory << 20

    with ThreadPoolExecutor(2) as pool:
        for pair in range(50):
            for done in [pool.submit(one, f"a{pair}", 1, 100 + pair), pool.submit(one, f"b{pair}", 2, 1000 + pair)]:
                done.result()
    assert len(node.store.slots()) == 100


def test_a_failure_before_the_start_says_why_and_the_next_try_succeeds(node: Node) -> None:
    pod = node.api.add("one", "8192")
    ids, answer = node.kubelet.admit(pod, "main", 30)
    node.api.away = True
    with pytest.raises(grpc.RpcError) as caught:
        node.kubelet.pre_start(ids)
    refusal: Any = caught.value
    assert refusal.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "The Kubernetes API server did not answer GET /api/v1/pods: 503." in refusal.details()
    assert not seen(answer)["/dev"].exists()
    node.api.away = False
    node.kubelet.pre_start(ids)
    assert seen(answer)["/dev"].is_dir()
    assert node.api.requests[-1][2] == "Bearer secret"


def test_a_full_node_says_so_and_serves_when_a_pod_ends(node: Node) -> None:
    for name in ("one", "two"):
        node.run(name, 60)
    pod = node.api.add("three", None)
    ids, answer = node.kubelet.admit(pod, "main", 60)
    with pytest.raises(grpc.RpcError, match="This node has not enough left for 60 hundredths of a card"):
        node.kubelet.pre_start(ids)
    node.api.pods["uid-one"]["status"]["phase"] = "Succeeded"
    assert node.plugin.reconcile() == 1
    node.kubelet.pre_start(ids)
    assert seen(answer)["/dev"].is_dir()


def test_a_request_over_two_cards(node: Node) -> None:
    node.run("one", 60)
    node.run("two", 60)
    _ids, answer = node.run("wide", 60, "20001", max_cards="2")
    limits = read_limits(seen(answer)["/run/tessera/limits"])[1]
    assert [(c.uuid, c.compute_request_centi) for c in limits.cards] == [("GPU-a", 30), ("GPU-b", 30)]
    assert sum(c.memory_limit_bytes for c in limits.cards) == 20001 << 20


def test_more_than_a_card_needs_the_word_for_it(node: Node) -> None:
    for more in ({}, {"limit": "200"}):
        with pytest.raises(VgpuError, match="150 hundredths of a card do not come from at most 1 cards") as caught:
            asked(node.api.add("one", None, **more), ["main"], 150)
        assert caught.value.hint == 'More than one card needs the annotation vgpu.tessera.io/max-cards: "2".'
    request, terms = asked(node.api.add("one", None, max_cards="2", limit="200"), ["main"], 150)
    assert (request.max_cards, terms.limit_centi_cards) == (2, 200)


def test_a_wrong_annotation_is_shown_to_the_person(node: Node) -> None:
    pod = node.api.add("one", None, priority="high")
    ids, _answer = node.kubelet.admit(pod, "main", 10)
    with pytest.raises(grpc.RpcError, match=r"vgpu\.tessera\.io/priority cannot be 'high'\. It must be a number from 0 to 1000"):
        node.kubelet.pre_start(ids)


def test_after_a_reboot_the_kubelets_old_answers_are_good_again(node: Node) -> None:
    ids, answer = node.run("one", 30, "8192")
    node.stop()
    (node.folder / "state").rename(node.folder / "emptied")
    node.start("state")
    assert not seen(answer)["/dev"].exists()
    node.kubelet.pre_start(ids)
    assert read_limits(seen(answer)["/run/tessera/limits"])[1].pod_uid == "uid-one"
    assert seen(answer)["/dev"].is_dir()


def test_a_restarted_agent_adopts_what_runs(node: Node) -> None:
    ids, answer = node.run("one", 60)
    inode = seen(answer)["/run/tessera/limits"].stat().st_ino
    node.stop()
    node.start("state")
    node.kubelet.pre_start(ids)
    assert seen(answer)["/run/tessera/limits"].stat().st_ino == inode
    _ids, other = node.run("two", 60)
    assert read_limits(seen(other)["/run/tessera/limits"])[1].cards[0].uuid == "GPU-b"


def test_an_init_container_and_the_next_have_one_card(node: Node) -> None:
    pod = node.api.add("one", "4096", ("init", "main"))
    ids, first = node.kubelet.admit(pod, "init", 40)
    _ids, second = node.kubelet.admit(pod, "main", 20, ids[:20])
    # The kubelet's service does not list the init container.
    node.kubelet.listed.clear()
    node.kubelet.pre_start(ids)
    node.kubelet.listed["lab", "one"] = ids[:20]
    node.kubelet.pre_start(ids[:20])
    assert [p.name for p in seen(first)["/dev"].iterdir()] == [p.name for p in seen(second)["/dev"].iterdir()] == ["GPU-a"]
    assert [c.free_centi_cards for c in node.store.free(node.cards)] == [60, 100]


def test_a_pod_is_never_guessed(node: Node) -> None:
    pod = node.api.add("one", None)
    ids, answer = node.kubelet.admit(pod, "main", 10)
    node.api.add("another", None)
    node.kubelet.listed["lab", "another"] = ids
    with pytest.raises(grpc.RpcError, match="name different pods for the same devices"):
        node.kubelet.pre_start(ids)
    del node.kubelet.listed["lab", "another"]
    del node.api.pods["uid-one"]
    with pytest.raises(grpc.RpcError, match="No pods of this node have the devices"):
        node.kubelet.pre_start(ids)
    node.kubelet.paths.checkpoint.unlink()
    with pytest.raises(grpc.RpcError, match=r"checkpoint .* cannot be read"):
        node.kubelet.pre_start(ids)
    assert not seen(answer)["/dev"].exists()
    assert all(slot.binding is None for slot in node.store.slots())


def test_a_kubelet_that_gave_up_gets_nothing_late(node: Node) -> None:
    pod = node.api.add("one", None)
    ids, _answer = node.kubelet.admit(pod, "main", 10)
    with pytest.raises(VgpuError, match="has stopped waiting for pod one"):
        node.plugin.pre_start(ids, lambda: False)
    assert all(slot.binding is None for slot in node.store.slots())


def test_only_the_api_servers_word_ends_a_slice(node: Node) -> None:
    ids, answer = node.run("one", 30)
    node.kubelet.entries.clear()
    node.kubelet.listed.clear()
    node.kubelet.write_books()
    assert node.plugin.reconcile() == 0
    node.api.away = True
    with pytest.raises(VgpuError):
        node.plugin.reconcile()
    assert seen(answer)["/dev"].is_dir()
    # The kubelet gave the ids of the living pod away: the new pod does not get its slice.
    node.api.away = False
    pod = node.api.add("two", None)
    node.kubelet.admit(pod, "main", 30, ids)
    node.kubelet.pre_start(ids)
    assert [c.free_centi_cards for c in node.store.free(node.cards)] == [40, 100]
    del node.api.pods["uid-one"]
    assert node.plugin.reconcile() == 1
    assert not seen(answer)["/dev"].exists()


def test_a_pod_that_starts_while_the_ended_are_looked_for_keeps_its_slice(node: Node) -> None:
    class Slow:
        """The pods as they were before another one started."""

        def pods(self) -> Any:
            before = node.client.pods()
            node.plugin._pods = node.client
            _ids, self.answer = node.run("late", 30)
            return before

    node.run("first", 10)
    slow = Slow()
    node.plugin._pods = slow
    assert node.plugin.reconcile() == 0
    assert seen(slow.answer)["/dev"].is_dir()


def test_ids_of_living_pods_are_preferred_last(node: Node) -> None:
    held, _answer = node.run("one", 2)
    request = plugin["PreferredAllocationRequest"]()
    free = ["slot-0100", "slot-0101"]
    request.container_requests.add(available_deviceIDs=[*held, *free], must_include_deviceIDs=[], allocation_size=2)
    request.container_requests.add(available_deviceIDs=[*held, *free], must_include_deviceIDs=held[:1], allocation_size=2)
    answer = node.kubelet.call("GetPreferredAllocation", request, "PreferredAllocationResponse")
    assert [list(one.deviceIDs) for one in answer.container_responses] == [free, [held[0], free[0]]]


def test_the_nodes_memory_is_shown_and_again_when_it_is_lost(node: Node) -> None:
    assert node.client.show_memory(2 * MIB)
    assert node.api.capacity["tessera.io/vgpu-memory"] == "163840"
    assert not node.client.show_memory(2 * MIB)
    node.api.capacity["tessera.io/vgpu-memory"] = "0"
    assert node.client.show_memory(2 * MIB)
    node.api.capacity["tessera.io/vgpu-memory"] = "1k"
    assert not node.client.show_memory(1000)


@pytest.mark.parametrize(("text", "value"), [("1000", 1000), ("1k", 1000), ("8Ki", 8192), ("2M", 2_000_000), (7, 7)])
def test_whole_amounts_are_read(text: object, value: int) -> None:
    assert quantity(text) == value


@pytest.mark.parametrize("text", ["", "1.5", "-1", "1e3", "1Ti ", "one", None])
def test_other_amounts_are_refused(text: object) -> None:
    with pytest.raises(VgpuError, match="is not a whole amount"):
        quantity(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "5"),
        ("limit", "101"),
        ("weight", "0"),
        ("max-cards", "x"),
        ("exclusive", "yes"),
        ("devices", "two"),
        ("limits", "1"),
    ],
)
def test_annotations_out_of_range_are_refused(name: str, value: str) -> None:
    pod = {"metadata": {"annotations": {f"vgpu.tessera.io/{name}": value}}, "spec": {"containers": [{"name": "main"}]}}
    with pytest.raises(VgpuError) as caught:
        asked(pod, ["main"], 10)
    assert caught.value.code == "request.annotation"
    assert name in caught.value.message


def test_a_pod_without_annotations_asks_in_proportion() -> None:
    pod = {"metadata": {}, "spec": {"containers": [{"name": "main"}]}}
    request, terms = asked(pod, ["main"], 10)
    assert (request.centi_cards, request.memory_mib, request.max_cards, request.exclusive) == (10, None, 1, False)
    assert (terms.limit_centi_cards, terms.priority_class, terms.weight) == (10, 0, 1)


@pytest.mark.parametrize(
    "books", ["", "[]", '{"Data": {}}', '{"Data": {"PodDeviceEntries": [{"ResourceName": "tessera.io/vgpu"}]}}']
)
def test_books_of_another_form_are_refused(tmp_path: Path, books: str) -> None:
    (tmp_path / "books").write_text(books)
    with pytest.raises(VgpuError, match="cannot be read"):
        read_checkpoint(tmp_path / "books", RESOURCE)


def test_empty_books_and_other_peoples_answers_are_read(tmp_path: Path) -> None:
    (tmp_path / "books").write_text('{"Data": {"PodDeviceEntries": null}}')
    assert read_checkpoint(tmp_path / "books", RESOURCE) == []
    entry = {
        "PodUID": "u",
        "ContainerName": "c",
        "ResourceName": RESOURCE,
        "DeviceIDs": {"0": ["a"], "1": ["b"]},
        "AllocResp": "%%",
    }
    (tmp_path / "books").write_text(json.dumps({"Data": {"PodDeviceEntries": [entry]}}))
    (found,) = read_checkpoint(tmp_path / "books", RESOURCE)
    assert (found.device_ids, found.nonce) == (frozenset("ab"), "")

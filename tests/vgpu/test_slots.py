"""Promises of a node: exact, sticky, never two for more than a card, whatever is killed when."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera_vgpu.bindings import Binding, Owner, Share, Slot, Terms, decode, encode, held
from tessera_vgpu.cards import new_card
from tessera_vgpu.catalogue import load
from tessera_vgpu.choosing import Request
from tessera_vgpu.errors import VgpuError
from tessera_vgpu.pages import DeviceMode, read_limits, read_usage
from tessera_vgpu.slots import SlotStore

SHAPE = load().cards["A100-80G"].continuous
MIB = 81920
CARDS = [new_card(f"GPU-{name}", "A100-80G", MIB, SHAPE) for name in "ab"]


def nodes(folder: Path, uuids: Sequence[str]) -> None:
    """Write a file a card, where a node makes device nodes."""
    for uuid in uuids:
        (folder / uuid).write_text("node")


def ids(first: int, count: int) -> list[str]:
    return [f"slot-{number:04d}" for number in range(first, first + count)]


def owner(pod: str, container: str = "main") -> Owner:
    return Owner(f"uid-{pod}", "lab", pod, container)


@pytest.fixture
def store(tmp_path: Path):
    made = SlotStore(tmp_path / "state", nodes)
    yield made
    made.close()


def places(slot: Slot) -> list[tuple[str, int, int]]:
    assert slot.binding is not None
    return [(s.uuid, len(s.device_ids), s.memory_mib) for s in slot.binding.shares]


def free(store: SlotStore) -> dict[str, tuple[int, int]]:
    return {c.uuid: (c.free_centi_cards, c.free_memory_mib) for c in store.free(CARDS)}


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(VgpuError) as caught:
        call()
    return caught.value.code


def test_a_promise_is_durable_before_the_pod_is_known_and_shows_nothing_yet(store: SlotStore) -> None:
    slot = store.allocate(ids(0, 30))
    assert decode((store.journal / f"{slot.nonce}.json").read_bytes()) == slot
    # The runtime refuses to start a container without this folder: it fails closed.
    assert not store.folder(slot.nonce).exists()
    assert free(store) == {"GPU-a": (100, MIB), "GPU-b": (100, MIB)}


def test_a_pod_gets_its_card_its_limits_and_its_page(store: SlotStore) -> None:
    slot = store.allocate(ids(0, 30))
    terms = Terms(limit_centi_cards=60, priority_class=5, weight=3, mode=DeviceMode.ONE_DEVICE)
    (bound,) = store.bind(ids(0, 30), owner("one"), Request(30, 8192), CARDS, terms)
    assert bound.nonce == slot.nonce
    assert places(bound) == [("GPU-a", 30, 8192)]
    folder = store.folder(slot.nonce)
    assert [p.name for p in (folder / "dev").iterdir()] == ["GPU-a"]
    generation, limits = read_limits(folder / "limits")
    assert (generation, limits.pod_uid, limits.container, limits.priority_class) == (1, "uid-one", "main", 5)
    (card,) = limits.cards
    assert (card.uuid, card.memory_limit_bytes) == ("GPU-a", 8192 << 20)
    assert (card.compute_request_centi, card.compute_limit_centi, card.weight) == (30, 60, 3)
    assert read_usage(folder / "usage", 1).anomalies == ()
    assert (folder / "usage").stat().st_mode & 0o777 == 0o666
    assert free(store)["GPU-a"] == (70, MIB - 8192)


def test_a_restarted_container_keeps_its_card_and_its_books(store: SlotStore) -> None:
    store.allocate(ids(0, 30))
    (first,) = store.bind(ids(0, 30), owner("one"), Request(30, 8192), CARDS)
    usage = store.folder(first.nonce) / "usage"
    usage.write_bytes(b"books of a process")
    # Meanwhile the other card became the better one.
    store.allocate(ids(30, 60))
    store.bind(ids(30, 60), owner("two"), Request(60), CARDS)
    assert store.bind(ids(0, 30), owner("one"), Request(30, 8192), CARDS) == (first,)
    assert usage.read_bytes() == b"books of a process"


def test_two_pods_never_get_each_others_promise(store: SlotStore) -> None:
    first, second = store.allocate(ids(0, 30)), store.allocate(ids(30, 20))
    (b,) = store.bind(ids(30, 20), owner("b"), Request(20, 2000), CARDS)
    (a,) = store.bind(ids(0, 30), owner("a"), Request(30, 3000), CARDS)
    assert (a.nonce, b.nonce) == (first.nonce, second.nonce)
    assert read_limits(store.folder(first.nonce) / "limits")[1].pod_uid == "uid-a"
    assert refused(lambda: store.bind(ids(0, 30), owner("b"), Request(30), CARDS)) == "slots.unknown"
    assert refused(lambda: store.bind(ids(0, 29), owner("a"), Request(29), CARDS)) == "slots.unknown"


def test_device_ids_that_the_kubelet_gave_away_twice_are_counted_twice(store: SlotStore) -> None:
    """After its checkpoint was lost, the kubelet may give a living pod's ids to another."""
    store.allocate(ids(0, 80))
    (old,) = store.bind(ids(0, 80), owner("old"), Request(80), CARDS)
    again = store.allocate(ids(0, 80))
    (new,) = store.bind(ids(0, 80), owner("new"), Request(80), CARDS)
    assert new.nonce == again.nonce
    assert {places(old)[0][0], places(new)[0][0]} == {"GPU-a", "GPU-b"}
    store.allocate(ids(0, 80))
    assert refused(lambda: store.bind(ids(0, 80), owner("third"), Request(80), CARDS)) == "placement.no_room"


def test_a_share_on_two_cards_has_limits_on_each(store: SlotStore) -> None:
    for number, pod in enumerate("xy"):
        store.allocate(ids(100 * number, 60))
        store.bind(ids(100 * number, 60), owner(pod), Request(60), CARDS)
    slot = store.allocate(ids(300, 61))
    (bound,) = store.bind(ids(300, 61), owner("wide"), Request(61, 30_001, max_cards=2), CARDS, Terms(limit_centi_cards=100))
    assert places(bound) == [("GPU-a", 31, 15_246), ("GPU-b", 30, 14_755)]
    limits = read_limits(store.folder(slot.nonce) / "limits")[1]
    assert [(c.compute_request_centi, c.compute_limit_centi) for c in limits.cards] == [(31, 51), (30, 49)]
    assert sum(c.memory_limit_bytes for c in limits.cards) == 30_001 << 20


def test_an_init_container_and_the_next_share_what_they_hold(store: SlotStore) -> None:
    store.allocate(ids(0, 50))
    store.allocate(ids(0, 30))
    store.bind(ids(0, 50), owner("one", "init"), Request(50, 10_000), CARDS)
    (app,) = store.bind(ids(0, 30), owner("one"), Request(30, 9000), CARDS)
    assert places(app) == [("GPU-a", 30, 9000)]
    # 30 ids at 300 MiB each, the others at 200: not 80 centi-cards and 19,000 MiB.
    assert free(store)["GPU-a"] == (50, MIB - 13_000)


def test_init_and_next_container_with_the_same_ids_get_the_same_card(store: SlotStore) -> None:
    both = {store.allocate(ids(0, 30)).nonce, store.allocate(ids(0, 30)).nonce}
    bound = store.bind(ids(0, 30), owner("one"), Request(30, 9000), CARDS)
    assert {slot.nonce for slot in bound} == both
    assert all((store.folder(nonce) / "dev").is_dir() for nonce in both)
    assert free(store)["GPU-a"] == (70, MIB - 9000)


def test_a_later_container_that_needs_more_memory_than_is_left_is_refused(store: SlotStore) -> None:
    store.allocate(ids(0, 30))
    store.bind(ids(0, 30), owner("one", "init"), Request(30, 1000), CARDS[:1])
    store.allocate(ids(50, 50))
    store.bind(ids(50, 50), owner("two"), Request(50, MIB - 1000), CARDS[:1])
    store.allocate(ids(0, 20))
    assert refused(lambda: store.bind(ids(0, 20), owner("one"), Request(20, 2000), CARDS[:1])) == "placement.no_room"
    assert free(store)["GPU-a"] == (20, 0)


def test_a_released_pod_leaves_nothing(store: SlotStore) -> None:
    slots = [store.allocate(ids(0, 30)), store.allocate(ids(30, 40))]
    for slot in slots:
        store.bind(slot.device_ids, owner("one"), Request(len(slot.device_ids)), CARDS)
    assert store.release("uid-one") == 2
    assert store.release("uid-one") == 0
    assert not list(store.journal.iterdir())
    assert not list(store.folders.iterdir())
    assert free(store) == {"GPU-a": (100, MIB), "GPU-b": (100, MIB)}


def test_a_promise_that_nobody_came_for_is_taken_back(store: SlotStore) -> None:
    lost, known, bound = store.allocate(ids(0, 1)), store.allocate(ids(1, 1)), store.allocate(ids(2, 1))
    store.bind(bound.device_ids, owner("one"), Request(1), CARDS)
    assert store.prune({known.nonce}, 60) == 0
    assert store.prune({known.nonce}, 0) == 1
    assert lost.nonce not in {slot.nonce for slot in store.slots()}
    assert len(store.slots()) == 2


def test_only_one_agent_at_a_time(store: SlotStore, tmp_path: Path) -> None:
    assert refused(lambda: SlotStore(tmp_path / "state", nodes)) == "slots.locked"
    store.close()
    store.__init__(tmp_path / "state", nodes)


def test_after_a_restart_everything_is_as_it_was(tmp_path: Path) -> None:
    store = SlotStore(tmp_path, nodes)
    store.allocate(ids(0, 30))
    store.allocate(ids(30, 50))
    (bound,) = store.bind(ids(0, 30), owner("one"), Request(30, 8192, exclusive=True), CARDS, Terms(priority_class=2))
    (store.folders / "of nobody").mkdir()
    before, room = set(store.slots()), free(store)
    store.close()
    again = SlotStore(tmp_path, nodes)
    assert (set(again.slots()), free(again)) == (before, room)
    assert room["GPU-a"] == (0, 0)
    assert [p.name for p in again.folders.iterdir()] == [bound.nonce]
    again.close()


def test_after_a_reboot_the_kubelets_promises_are_taken_back(tmp_path: Path) -> None:
    store = SlotStore(tmp_path / "before", nodes)
    old = store.allocate(ids(0, 30))
    store.bind(ids(0, 30), owner("one"), Request(30, 8192), CARDS)
    store.close()
    emptied = SlotStore(tmp_path / "emptied", nodes)
    assert refused(lambda: emptied.bind(ids(0, 30), owner("one"), Request(30, 8192), CARDS)) == "slots.unknown"
    emptied.remember(old.nonce, old.device_ids)
    (bound,) = emptied.bind(ids(0, 30), owner("one"), Request(30, 8192), CARDS)
    assert bound.nonce == old.nonce
    assert (emptied.folder(old.nonce) / "dev").is_dir()
    emptied.close()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 2}', b'{"version": 1, "nonce": "x"}'])
def test_a_damaged_journal_stops_the_agent_and_names_the_file(tmp_path: Path, content: bytes) -> None:
    store = SlotStore(tmp_path, nodes)
    slot = store.allocate(ids(0, 1))
    store.close()
    (store.journal / f"{slot.nonce}.json").write_bytes(content)
    with pytest.raises(VgpuError, match=slot.nonce) as caught:
        SlotStore(tmp_path, nodes)
    assert caught.value.code == "slots.damaged"


@pytest.mark.parametrize("nonce", ["../../etc", "A" * 32, "", "0" * 31])
def test_a_nonce_is_never_a_path(store: SlotStore, nonce: str) -> None:
    assert refused(lambda: store.remember(nonce, ids(0, 1))) == "slots.nonce"
    assert refused(lambda: store.allocate([])) == "slots.empty"


STEPS: list[tuple[str, Callable[[SlotStore], Any]]] = [
    ("allocate a", lambda store: store.remember("a" * 32, ids(0, 60))),
    ("bind a", lambda store: store.bind(ids(0, 60), owner("a"), Request(60), CARDS)),
    ("allocate b", lambda store: store.remember("b" * 32, ids(100, 70))),
    ("bind b", lambda store: store.bind(ids(100, 70), owner("b"), Request(70), CARDS)),
    ("allocate c", lambda store: store.remember("c" * 32, ids(200, 70))),
    ("bind c", lambda store: store.bind(ids(200, 70), owner("c"), Request(70, max_cards=2), CARDS)),
    ("release a", lambda store: store.release("uid-a")),
    ("allocate d", lambda store: store.remember("d" * 32, ids(0, 60))),
    ("bind d", lambda store: store.bind(ids(0, 60), owner("d"), Request(60, max_cards=2), CARDS)),
]
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "open")


def killed_at(folder: Path, number: int) -> tuple[bool, list[str]]:
    """Run the steps in a child that is killed before its *number*-th change of the file system; return what was done before."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        left = number

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event in CHANGES and (event != "open" or arguments[2] & (os.O_CREAT | os.O_TRUNC)):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        code = 70
        try:
            sys.addaudithook(watch)
            store = SlotStore(folder, nodes)
            for name, step in STEPS:
                step(store)
                os.write(writing, f"{name}\n".encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as acknowledged:
        done = acknowledged.read().split("\n")[:-1]
    _pid, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return status == 0, done


def check(store: SlotStore, done: list[str]) -> None:
    """What was answered holds, nothing is given twice, and each container sees what it shall."""
    slots = {slot.nonce[0]: slot for slot in store.slots()}
    for name in "abcd":
        gone = name == "a" and "release a" in done
        if f"allocate {name}" in done and not gone:
            assert name in slots or (name == "a" and "bind c" in done)
        if f"bind {name}" in done and name in slots:
            assert slots[name].binding is not None
        if gone:
            assert name not in slots
    for card in held(slot.binding for slot in slots.values() if slot.binding is not None).values():
        assert card.centi_cards <= 100
        assert card.memory_mib <= MIB
    folders = {path.name[0] for path in store.folders.iterdir()}
    bound = {name for name, slot in slots.items() if slot.binding is not None}
    assert folders == bound
    for name in bound:
        binding, folder = slots[name].binding, store.folder(name * 32)
        assert binding is not None
        assert {p.name for p in (folder / "dev").iterdir()} == {share.uuid for share in binding.shares}
        assert read_limits(folder / "limits") == (1, binding.limits())
        assert read_usage(folder / "usage", 1).anomalies == ()
        assert not [p for p in folder.iterdir() if p.name.startswith((".dev", ".usage"))]


def test_killed_before_any_change_of_a_file_it_loses_and_doubles_nothing(tmp_path: Path) -> None:
    number, finished = 0, False
    while not finished:
        number += 1
        folder = tmp_path / str(number)
        finished, done = killed_at(folder, number)
        store = SlotStore(folder, nodes)
        check(store, done)
        # The kubelet and the agent repeat what was not answered; all ends as if nothing had happened.
        for name, step in STEPS[len(done) :]:
            step(store)
            done.append(name)
        check(store, done)
        assert {slot.nonce[0]: sum(n for _u, n, _m in places(slot)) for slot in store.slots()} == {"b": 70, "c": 70, "d": 60}
        store.close()
    assert number > 60


def test_a_container_on_the_cards_of_its_pods_first_one_has_memory_on_each(tmp_path: Path) -> None:
    store = SlotStore(tmp_path, nodes)
    store.bind(store.allocate(ids(0, 105)).device_ids, owner("a"), Request(105, 11, max_cards=2), CARDS)
    (slot,) = store.bind(store.allocate(ids(0, 6)).device_ids, owner("a"), Request(6, 1, max_cards=2), CARDS)
    (other,) = store.bind(store.allocate(ids(50, 30)).device_ids, owner("a"), Request(30, 1, max_cards=2), CARDS)
    for bound in (slot, other):
        assert bound.binding is not None
        assert [share.memory_mib for share in bound.binding.shares] == [1] * len(bound.binding.shares)
    store.close()


actions = st.lists(
    st.tuples(
        st.sampled_from(["bind", "bind", "release", "restart"]), st.integers(0, 5), st.integers(1, 150), st.integers(1, MIB)
    ),
    max_size=15,
)


@settings(max_examples=40)
@given(actions)
def test_no_sequence_of_pods_and_restarts_gives_a_card_away_twice(
    tmp_path_factory, sequence: list[tuple[str, int, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("state")
    store = SlotStore(folder, nodes)
    for action, pod, count, memory in sequence:
        if action == "release":
            store.release(f"uid-{pod}")
        elif action == "restart":
            before = free(store)
            store.close()
            store = SlotStore(folder, nodes)
            assert free(store) == before
        else:
            slot = store.allocate(ids(200 * pod, count))
            try:
                store.bind(slot.device_ids, owner(str(pod)), Request(count, memory, max_cards=2), CARDS)
            except VgpuError as error:
                if not error.code.startswith("placement."):
                    raise
                store.forget(slot.nonce)
        taken = held(slot.binding for slot in store.slots() if slot.binding is not None)
        assert all(card.centi_cards <= 100 and card.memory_mib <= MIB for card in taken.values())
    store.close()


def test_the_journal_keeps_every_field() -> None:
    terms = Terms(50, 2, 3, DeviceMode.ONE_DEVICE)
    slot = Slot("0" * 32, ("x", "y"), Binding(owner("p"), (Share("GPU-a", ("x", "y"), 5),), True, terms))
    assert decode(encode(slot)) == slot
    assert decode(encode(Slot("0" * 32, ("x",)))) == Slot("0" * 32, ("x",))

"""The queue tree at Volcano: its names and sizes, and that every change on the way keeps Volcano's own rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tessera_hub.cards import CATALOGUE
from tessera_hub.proxy.drivers.kubernetes.cards import NVIDIA, VGPU, VGPU_MEMORY, Device
from tessera_hub.proxy.drivers.kubernetes.queues import Node, Size, Step, found_nodes, leaf_path, queue_name, steps, wanted
from tessera_hub.schemas.protocol import DesiredQueue
from tessera_hub.schemas.resources import CardMode

A100 = Device(NVIDIA, CATALOGUE["A100-80G"], CardMode.WHOLE, 4, 100, 81920)
H100 = Device(NVIDIA, CATALOGUE["H100-80G"], CardMode.WHOLE, 4, 100, 81920)
SHARED = Device(VGPU, CATALOGUE["A100-80G"], CardMode.VCUDA, 4, 100, 81920)


def desired(path: str, **changes: object) -> DesiredQueue:
    parent = path.rpartition("/")[0] or None
    plain = {"path": path, "parent": parent, "state": "open", "priority": 50, "limit": {}, "deserved": {}, "guarantee": {}}
    return DesiredQueue.model_validate({**plain, **changes})


# --- names and sizes --------------------------------------------------------------------------------------------------


def test_names_are_names_and_differ() -> None:
    paths = ["red", "red/default", "red/Default", "red-default", "模型/训练", "a" * 300, "a" * 301, "red/."]
    names = [queue_name(path, "tessera") for path in paths]
    assert len(set(names)) == len(names)
    for name in names:
        assert len(name) <= 63
        assert all(c.islower() or c.isdigit() or c == "-" for c in name), name
        assert name.startswith("tessera-")
        assert not name.endswith("-")


def test_sizes_are_the_engines_resources() -> None:
    line = {"cpu": 2500, "memory": 4096, "cards/A100-80G": 350, "card_memory/A100-80G": 1000, "cards/T4": 100}
    [node] = wanted([desired("red", limit=line)], [A100, SHARED], "t")
    assert node.size.capability == {"cpu": 2500, "memory": 4 << 30, NVIDIA: 3, VGPU: 350, VGPU_MEMORY: 1000}
    spec = node.document("t")["spec"]
    assert spec["capability"] == {"cpu": "2500m", "memory": "4096Mi", NVIDIA: "3", VGPU: "350", VGPU_MEMORY: "1000"}
    [again] = found_nodes([node.document("t") | {"status": {"state": "Open"}}])
    assert again == node


def test_classes_that_share_a_resource_are_bounded_together_only_if_all_are() -> None:
    [one] = wanted([desired("red", limit={"cards/A100-80G": 200})], [A100, H100], "t")
    assert NVIDIA not in one.size.capability
    [both] = wanted([desired("red", limit={"cards/A100-80G": 200, "cards/H100-80G": 100})], [A100, H100], "t")
    assert both.size.capability[NVIDIA] == 3
    [none] = wanted([desired("red", limit={"cards/A100-80G": 0})], [A100], "t")
    assert none.size.capability[NVIDIA] == 0


def test_a_queue_with_children_has_a_leaf_for_its_own_jobs() -> None:
    nodes = {node.path: node for node in wanted([desired("red"), desired("red/a", limit={"cpu": 5})], [], "t")}
    assert set(nodes) == {"red", "red/a", "red/."}
    assert nodes["red/."].parent == nodes["red/a"].parent == nodes["red"].name
    assert leaf_path("red", ["red"]) == "red/."
    assert leaf_path("red/a", ["red"]) == "red/a"


def test_a_child_may_have_no_more_than_its_parent_and_a_parent_deserves_what_its_children_do() -> None:
    queues = [
        desired("red", limit={"cpu": 10}),
        desired("red/a", limit={"cpu": 50}, deserved={"cpu": 3}, guarantee={"cpu": 4}),
        desired("red/b", deserved={"cpu": 3}),
    ]
    nodes = {node.path: node for node in wanted(queues, [], "t")}
    assert nodes["red/a"].size.capability == {"cpu": 10}
    assert nodes["red/a"].size.deserved == {"cpu": 4}
    assert nodes["red"].size == Size({"cpu": 10}, {"cpu": 7}, {"cpu": 4})


def test_children_who_deserve_more_than_their_parent_may_have_get_less_in_proportion() -> None:
    queues = [
        desired("red", limit={"cpu": 10}),
        desired("red/a"),
        desired("red/a/x", limit={"cpu": 99}, deserved={"cpu": 30}, guarantee={"cpu": 12}),
        desired("red/b", deserved={"cpu": 10}, guarantee={"cpu": 4}),
    ]
    sizes = {node.path: node.size for node in wanted(queues, [], "t")}
    assert sizes["red"] == Size({"cpu": 10}, {"cpu": 10}, {"cpu": 10})
    assert sizes["red/a/x"] == Size({"cpu": 10}, {"cpu": 7}, {"cpu": 7}), "the nearest limit above counts, not the parent's only"
    assert sizes["red/b"] == Size({}, {"cpu": 2}, {"cpu": 2})


def test_a_queue_below_a_closed_one_is_closed_and_opened_after_it() -> None:
    tree = [desired("red"), desired("red/a"), desired("red/a/x")]
    there = wanted([tree[0], desired("red/a", state="closed"), tree[2]], [], "t")
    assert {node.path for node in there if node.state == "Closed"} == {"red/a", "red/a/x", "red/a/."}
    opened = [step.node.path for step in steps(wanted(tree, [], "t"), there)]
    assert opened[0] == "red/a"
    assert set(opened[1:]) == {"red/a/x", "red/a/."}


# --- the way from one tree to another -----------------------------------------------------------------------------------


def broken(nodes: Iterable[Node]) -> list[str]:
    """What Volcano's admission would refuse in this state."""
    there = {node.name: node for node in nodes}
    below: dict[str, list[Node]] = defaultdict(list)
    found: list[str] = []
    for node in there.values():
        most, deserved, kept = node.size.capability, node.size.deserved, node.size.guarantee
        found += [f"{node.name} deserves more {r} than it may have" for r, n in deserved.items() if n > most.get(r, n)]
        found += [f"{node.name} keeps more {r} than it deserves" for r, n in kept.items() if n > deserved.get(r, 0)]
        if node.parent is None:
            continue
        if node.parent not in there:
            found.append(f"{node.name} has no parent")
            continue
        below[node.parent].append(node)
        for resource, amount in most.items():
            above: Node | None = there[node.parent]
            while above is not None and resource not in above.size.capability:
                above = there[above.parent] if above.parent else None
            if above is not None and amount > above.size.capability[resource]:
                found.append(f"{node.name} may have more {resource} than {above.name}")
    for parent, children in below.items():
        for what in ("deserved", "guarantee"):
            total: dict[str, int] = defaultdict(int)
            for child in children:
                for resource, amount in getattr(child.size, what).items():
                    total[resource] += amount
            mine = getattr(there[parent].size, what)
            found += [f"{parent}'s children: {what} {r}" for r, amount in total.items() if amount > mine.get(r, 0)]
    return found


AMOUNTS = st.dictionaries(st.sampled_from(["cpu", "memory"]), st.integers(1, 9), max_size=2)


@st.composite
def trees(draw: st.DrawFn) -> list[Node]:
    paths = {"t"}
    for path in draw(st.lists(st.sampled_from(["t/a", "t/b", "t/a/x", "t/a/y", "t/b/z"]), unique=True)):
        paths |= {path, path.rpartition("/")[0]}
    queues = [
        desired(
            path,
            state=draw(st.sampled_from(["open", "closed"])),
            limit=draw(AMOUNTS),
            deserved=draw(AMOUNTS),
            guarantee=draw(AMOUNTS),
            priority=draw(st.integers(0, 2)),
        )
        for path in sorted(paths)
    ]
    return wanted(queues, [], "t")


def done(step: Step, there: dict[str, Node]) -> None:
    name = step.node.name
    if step.action in ("create", "resize"):
        there[name] = step.node if step.action == "create" else replace(step.node, state=there[name].state)
        if step.action == "create":  # Volcano makes open queues
            there[name] = replace(there[name], state="Open")
    elif step.action == "delete":
        assert there[name].state == "Closed", "Volcano deletes closed queues only"
        del there[name]
    elif step.action == "open":
        above = there.get(there[name].parent or "")
        assert above is None or above.state == "Open", "Volcano opens no queue below a closed one"
        there[name] = replace(there[name], state="Open")
    else:
        closing = [name]
        while closing:  # Volcano closes what is below
            there[closing[0]] = replace(there[closing[0]], state="Closed")
            closing = [*closing[1:], *(node.name for node in there.values() if node.parent == closing[0])]


@given(trees(), trees())
def test_every_state_on_the_way_is_one_that_volcano_takes(old: list[Node], new: list[Node]) -> None:
    there = {node.name: node for node in old}
    assert broken(old) == []
    assert broken(new) == []
    for _round in range(5):
        for step in steps(new, list(there.values())):
            done(step, there)
            assert broken(there.values()) == [], step
    assert there == {node.name: node for node in new}
    assert steps(new, list(there.values())) == []

"""The agent killed at any moment: containers keep their limits, nothing is given twice, the next agent takes up what it finds."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.vgpu.agent.conftest import MIB, Node, eventually
from tests.vgpu.interposer.conftest import answer

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]
STEP = int(os.environ.get("TESSERA_TEST_KILL_STEP", "4"))
"""A soak takes 1: every change of a file."""
IDS = [f"slot-{number:04d}" for number in range(100, 150)]
KILLING = str(Path(__file__).parent / "killing")


def journal(node: Node) -> dict[str, str]:
    """Return pod by promise, of those that are bound."""
    read: list[dict[str, Any]] = []
    for path in (node.state / "journal").glob("*.json"):
        # One that is taken back meanwhile is gone.
        with suppress(FileNotFoundError):
            read.append(json.loads(path.read_bytes()))
    return {slot["nonce"]: slot["binding"]["owner"]["pod"] for slot in read if slot["binding"] is not None}


def begin(node: Node, number: int) -> subprocess.Popen[bytes]:
    """Start an agent that is killed before its *number*-th change, and wait until it serves or is gone."""
    before = len(node.kubelet.registrations)
    agent = node.spawn(PYTHONPATH=KILLING, KILL_AT=str(number), KILL_BELOW=str(node.state))
    eventually(lambda: len(node.kubelet.registrations) > before or agent.poll() is not None, "a start")
    return agent


def live(node: Node, name: str, agent: subprocess.Popen[bytes]) -> None:
    """A pod's life: it starts, gets another size, and is deleted."""
    node.run(name, 50, "2048", IDS)
    node.resize(name, memory_mib=1000, limit_centi_cards=70).raise_for_status()
    node.delete(name)
    eventually(lambda: agent.poll() is not None or name not in journal(node).values(), "the release")


def test_before_each_change_of_a_file(make_node: Callable[..., Node]) -> None:
    node = make_node("--context-mib", "318")
    node.start()
    kept = node.run("kept", 30, "1024")
    worker = kept.worker()
    assert answer(worker, "alloc 500") == "0"
    assert node.stop() == 0
    number, finished = 1, False
    while not finished:
        name = f"p{number}"
        agent = begin(node, number)
        with suppress(grpc.RpcError, httpx.HTTPError):
            live(node, name, agent)
            finished = agent.poll() is None
        if finished:
            node.kill()
        assert agent.wait(20) == -9
        # Nobody is there now, and what runs goes on within its limits.
        assert answer(worker, "info").split()[1] == "1024"
        assert kept.limits().cards[0].memory_limit_bytes == 1024 * MIB
        node.start()
        assert (kept.folder / "dev").is_dir()
        if f"uid-{name}" in node.api.pods:
            # The kubelet asks again for what was not answered.
            made = node.again(name) if node.admitted(name) else node.run(name, 50, "2048", IDS)
            assert made.limits().cards[0].compute_request_centi == 50
            done = node.resize(name, memory_mib=1000, limit_centi_cards=70)
            assert done.status_code == 200, done.text
            assert [card["memory_mib"] for card in done.json()["cards"]] == [1000]
            node.delete(name)
        eventually(lambda: set(journal(node).values()) == {"kept"}, "the release")
        assert {path.name for path in (node.state / "slots").iterdir()} == set(journal(node))
        assert node.stop() == 0
        number += STEP
    assert number > 20
    assert answer(worker, "alloc 600") == "2"


def test_while_many_containers_start(make_node: Callable[..., Node]) -> None:
    node = make_node("--context-mib", "318")
    node.start()
    kept = node.run("kept", 10, "512")
    pods = [node.api.add(f"p{i}", "1024") for i in range(8)]
    admitted = [node.kubelet.admit(pod, "main", 20)[0] for pod in pods]

    def begin(ids: list[str]) -> None:
        with suppress(grpc.RpcError):
            node.kubelet.pre_start(ids)

    for delay in (0.0, 0.005, 0.02, 0.05):
        starting = [threading.Thread(target=begin, args=(ids,)) for ids in admitted]
        for thread in starting:
            thread.start()
        threading.Event().wait(delay)
        node.kill()
        for thread in starting:
            thread.join()
        node.start()
    for ids in admitted:
        node.kubelet.pre_start(ids)
    taken: dict[str, int] = {}
    for slice_ in node.slices():
        for card in slice_["cards"]:
            taken[card["card"]] = taken.get(card["card"], 0) + card["centi_cards"]
    assert sum(taken.values()) == 170
    assert max(taken.values()) <= 100
    assert kept.units() == 16


def test_a_page_that_lags_behind_the_journal_is_brought_up(make_node: Callable[..., Node]) -> None:
    node = make_node("--context-mib", "318")
    node.start()
    container = node.run("train", 30, "1024")
    worker = container.worker()
    assert answer(worker, "info") == "1024 1024"
    node.kill()
    # As if it had been killed between the two.
    (path,) = (node.state / "journal").glob("*.json")
    slot = json.loads(path.read_bytes())
    slot["binding"]["shares"][0]["memory_mib"] = 2048
    path.write_text(json.dumps(slot))
    node.start()
    assert answer(worker, "info") == "2048 2048"


def test_a_pod_that_ends_while_the_agent_is_away_gives_its_slice_back(make_node: Callable[..., Node]) -> None:
    node = make_node("--context-mib", "318")
    node.start()
    container = node.run("train", 100)
    node.kill()
    del node.api.pods["uid-train"]
    node.start()
    eventually(lambda: not container.folder.exists(), "the release")
    node.run("next", 100)


def test_a_bypass_that_began_while_the_agent_was_away_is_found(make_node: Callable[..., Node]) -> None:
    node = make_node("--context-mib", "318")
    node.start()
    container = node.run("train", 30, "1024")
    node.kill()
    thief = container.worker(library=False)
    assert answer(thief, "alloc 2000") == "0"
    node.start()
    eventually(lambda: {"hidden_memory", "no_library"} <= node.remarks(container), "the finding")

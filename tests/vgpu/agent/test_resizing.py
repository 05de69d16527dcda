"""Limits of running containers are changed by root, on this machine, within what the card has."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vgpu.agent.conftest import MIB, Node
from tests.vgpu.interposer.conftest import answer

pytestmark = pytest.mark.root
A100_MIB = 81920 - 640 - 32 * 318
AS_NOBODY = """
import os, sys, socket
os.setgid(65534); os.setuid(65534)
with socket.socket(socket.AF_UNIX) as client:
    client.connect(sys.argv[1])
    client.sendall(b"PATCH /slices/lab/train/main HTTP/1.1\\r\\nContent-Length: 20\\r\\n\\r\\n")
    client.sendall(b'{"memory_mib": 4000}')
    print(b"".join(iter(lambda: client.recv(4096), b"")).decode())
"""


def tessera(node: Node, *words: str, language: str = "en") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tessera_hub.cli", "vgpu", "resize", *words, "--state-dir", str(node.state)]
    environment = {**os.environ, "TESSERA_LANGUAGE": language, "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_a_running_program_gets_more_and_less(node: Node) -> None:
    container = node.run("train", 30, "1024")
    worker = container.worker()
    assert answer(worker, "alloc 1000") == "0"
    assert answer(worker, "alloc 1000") == "2"
    done = tessera(node, "lab/train", "--memory", "4GiB", "--limit", "80", "--weight", "7")
    assert done.returncode == 0, done.stderr
    assert container.limits().cards[0].uuid in done.stdout
    assert "0.80" in done.stdout
    assert "4.00 GiB" in done.stdout
    assert answer(worker, "alloc 1000") == "0"
    (card,) = container.limits().cards
    assert (card.memory_limit_bytes, card.compute_limit_centi, card.weight) == (4096 * MIB, 80, 7)
    assert tessera(node, "lab/train", "--memory", "1GiB").returncode == 0
    # What it has stays, and nothing is added.
    assert answer(worker, "info") == "0 1024"
    assert answer(worker, "alloc 1") == "2"
    (card,) = container.limits().cards
    assert (card.memory_limit_bytes, card.compute_limit_centi, card.weight) == (1024 * MIB, 80, 7)


def test_a_slice_of_two_cards_is_divided_as_its_compute_is(node: Node) -> None:
    node.run("narrow", 70, "1000")
    wide = node.run("wide", 110, "20000", max_cards="2")
    requests = [card.compute_request_centi for card in wide.limits().cards]
    assert node.resize("wide", memory_mib=11_000).status_code == 200
    assert [card.memory_limit_bytes // MIB for card in wide.limits().cards] == [100 * centi for centi in requests]


def test_nobody_gets_what_others_have(node: Node) -> None:
    first, second = node.run("first", 50, "30000"), node.run("second", 50, "30000")
    assert first.limits().cards[0].uuid == second.limits().cards[0].uuid
    refused = node.resize("first", memory_mib=A100_MIB - 30_000 + 1)
    assert (refused.status_code, refused.json()["code"]) == (409, "placement.no_room")
    assert first.limits().cards[0].memory_limit_bytes == 30_000 * MIB
    assert node.resize("first", memory_mib=A100_MIB - 30_000).status_code == 200
    assert node.resize("second", memory_mib=30_001).status_code == 409


def test_other_values_are_refused_and_change_nothing(node: Node) -> None:
    node.run("train", 30, "1024")
    before = node.slices()
    for fields, code in (
        ({"memory_mib": 0}, "slots.resize"),
        ({"memory_mib": -1}, "slots.resize"),
        ({"memory_mib": 1 << 62}, "slots.resize"),
        ({"limit_centi_cards": 29}, "slots.resize"),
        ({"limit_centi_cards": 101}, "slots.resize"),
        ({"weight": 0}, "slots.resize"),
        ({"weight": 10_001}, "slots.resize"),
        ({"memory_mib": "8"}, "control.body"),
        ({"memory_mib": True}, "control.body"),
        ({"pod_uid": 1}, "control.field"),
    ):
        refused = node.resize("train", **fields)
        assert (refused.status_code, refused.json()["code"]) == (422, code), fields
    assert node.slices() == before


def test_only_root_may_ask(node: Node) -> None:
    container = node.run("train", 30, "1024")
    path = node.state / "control.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    assert node.state.stat().st_mode & 0o077 == 0
    # Even where somebody can reach the socket, the kernel says who it is.
    path.chmod(0o666)
    for folder in [node.state, *node.state.parents][:-2]:
        folder.chmod(folder.stat().st_mode | 0o011)
    done = subprocess.run([sys.executable, "-c", AS_NOBODY, str(path)], capture_output=True, text=True, timeout=30)
    assert done.stdout.startswith("HTTP/1.0 403"), done.stderr
    assert "control.not_root" in done.stdout
    assert container.limits().cards[0].memory_limit_bytes == 1024 * MIB


def test_what_is_not_there_is_not_found_and_requests_of_nonsense_harm_nothing(node: Node) -> None:
    node.run("train", 30, "1024")
    assert node.resize("other", memory_mib=1).status_code == 404
    assert node.resize("train", container="other", memory_mib=1).status_code == 404
    for raw in (
        b"\0" * 100,
        b"PATCH / HTTP/1.1\r\n\r\n",
        b"PATCH /slices/lab/train/main HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
    ):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(str(node.state / "control.sock"))
            client.sendall(raw)
            client.recv(4096)
    deep = b"[" * 60_000
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(node.state / "control.sock"))
        client.sendall(b"PATCH /slices/lab/train/main HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(deep) + deep)
        assert b"422" in client.recv(4096)
    assert node.resize("train", memory_mib=2048).status_code == 200


def test_without_an_agent_it_says_so(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tessera_hub.cli",
        "vgpu",
        "resize",
        "lab/train",
        "--memory",
        "1GiB",
        "--state-dir",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TESSERA_LANGUAGE": "zh_CN"})
    assert done.returncode == 2
    assert "没有应答" in done.stderr
    done = subprocess.run([*command[:5], "train", *command[6:]], capture_output=True, text=True)
    assert "train is no pod; write it as namespace/name" in done.stderr

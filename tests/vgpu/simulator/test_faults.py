"""Processes that are killed at any moment: the others go on, and the books are right."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.vgpu.simulator.conftest import REAL, SECONDS, Card

pytestmark = [pytest.mark.faults, pytest.mark.skipif(REAL, reason="a real card is not tortured")]


def books(card: Card) -> tuple[int, list[int], int]:
    """What the card counts as used, who uses it, and what they use, all at one moment."""
    assert card.machine is not None
    seen = card.machine.inspect()
    pids = sorted(process.pid for process in seen.processes)
    return seen.cards[0].used_bytes, pids, sum(process.cards[0].used_bytes for process in seen.processes)


def test_killed_processes_wedge_nobody_and_leave_nothing(make_card: Callable[..., Card]) -> None:
    card = make_card("Small-20SM")
    chance = random.Random(7)
    workers = [card.start("worker", "churn", seed) for seed in range(4)]
    until = time.monotonic() + 5
    killed = 0
    while time.monotonic() < until:
        time.sleep(chance.uniform(0.01, 0.06))
        place = chance.randrange(len(workers))
        workers[place].kill()
        workers[place].wait()
        killed += 1
        workers[place] = card.start("worker", "churn", 100 + killed)
    used, pids, by_process = books(card)
    assert used == by_process
    assert pids == sorted(worker.pid for worker in workers)
    assert all(worker.poll() is None for worker in workers), [worker.communicate() for worker in workers if worker.poll()]
    assert killed > 10
    for worker in workers:
        worker.kill()
        worker.wait()
    assert books(card) == (0, [], 0)
    assert float(card.go(card.start("worker", "measure", 1, 1_000_000, 3))[0]) < 5


def test_the_work_of_a_killed_process_ends_with_it(card: Card) -> None:
    flood = card.start("worker", "flood", 50_000_000)
    time.sleep(0.3)
    flood.kill()
    flood.wait()
    assert float(card.go(card.start("worker", "measure", 1, 5_000_000, 10))[0]) < 120


def test_a_stopped_process_costs_only_its_slices(card: Card) -> None:
    flood = card.start("worker", "flood", 1_000_000)
    stopped = card.start("worker", "flood", 1_000_000)
    time.sleep(0.1)
    subprocess.run(["kill", "-STOP", str(stopped.pid)], check=True)
    time.sleep(0.1)
    measured = float(card.go(card.start("worker", "measure", 1, 1_000_000, 50))[0])
    assert 95 < measured < 400
    flood.kill()


def test_sixty_processes_start_together(make_card: Callable[..., Card]) -> None:
    card = make_card("A100-80G")
    began = time.monotonic()
    processes = [
        subprocess.Popen(
            card.command("worker", "hold", 1), env=card.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(60)
    ]
    card.started += processes
    lines = [process.stdout.readline() for process in processes if process.stdout]
    assert lines == ["ready\n"] * 60
    assert time.monotonic() - began < SECONDS
    used, pids, by_process = books(card)
    assert used == by_process
    assert len(pids) == 60

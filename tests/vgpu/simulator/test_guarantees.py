"""What the real driver guarantees, by its documentation: the same programs pass on a real card (``REAL_GPU=1``)."""

from __future__ import annotations

import re

import pytest

from tests.vgpu.simulator.conftest import PROGRAMS, Card

PARTS = re.findall(r'\{"(\w+)", \w+\}', (PROGRAMS / "guarantees.c").read_text("utf-8"))


@pytest.mark.parametrize("part", PARTS)
def test_the_driver_keeps_its_word(card: Card, part: str) -> None:
    card.run("guarantees", part)


@pytest.mark.parametrize("part", ["memory", "streams", "callbacks", "graphs", "modules", "pools"])
def test_programs_built_for_per_thread_default_streams_run(card: Card, part: str) -> None:
    card.run("guarantees_per_thread", part)


def test_every_part_of_the_program_is_run(card: Card) -> None:
    assert card.run("guarantees").split() == PARTS
    assert len(PARTS) >= 18


@pytest.mark.parametrize("program", ["entries", "entries_per_thread"])
def test_entry_points_are_found_by_version_and_flags(card: Card, program: str) -> None:
    card.run(program)


@pytest.mark.parametrize("part", ["forked", "forked_before", "share 1000", "share 4194304", "share_physical"])
def test_processes_share_what_they_may(card: Card, part: str) -> None:
    assert card.run("worker", *part.split()).strip() in {"alive", "shared"}


def test_two_processes_on_one_card_see_each_others_time(card: Card) -> None:
    alone = float(card.go(card.start("worker", "measure", 1, 5_000_000, 60))[0])
    assert 300 <= alone < 450  # a machine that is busy otherwise submits late
    both = [float(text) for text in card.go(*(card.start("worker", "measure", 1, 5_000_000, 60) for _ in range(2)))]
    # The second begins a moment later, and has the card for itself at the end.
    assert max(both) > 1.7 * 300
    assert min(both) > 1.3 * 300
    assert max(both) < 3 * 300


def test_memory_of_a_killed_process_is_free_again(card: Card) -> None:
    watcher = card.start("worker", "hold", 1)
    holder = card.start("worker", "hold", 2000)
    probe = card.start("worker", "hold", 1)
    with_holder = int(card.go(probe)[0])
    holder.kill()
    holder.wait()
    without = int(card.go(watcher)[0])
    assert without - with_holder >= 2000


def test_a_process_that_closes_its_descriptors_keeps_its_memory(card: Card) -> None:
    before = int(card.go(card.start("worker", "hold", 1))[0])
    process = card.start("worker", "close_descriptors")
    during = int(card.go(card.start("worker", "hold", 1))[0])
    assert before - during >= 100
    assert card.go(process) == ["alive"]


def test_a_program_may_close_the_library_and_end(card: Card) -> None:
    source = """
import ctypes, _ctypes, os, subprocess
cuda = ctypes.CDLL("libcuda.so.1")
assert cuda.cuInit(0) == 0
_ctypes.dlclose(cuda._handle)
subprocess.run(["true"], check=True)
pid = os.fork()
if pid == 0:
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
again = ctypes.CDLL("libcuda.so.1")
count = ctypes.c_int()
assert again.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value >= 1
print("closed")
"""
    assert card.python(source).strip() == "closed"

"""Whether a card works for a workspace: simulated cards with real processes on them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.vgpu.simulator.conftest import Card, card, libraries, make_card, programs

from tessera_lab.activity import may_be_ours

__all__ = ["card", "libraries", "make_card", "programs"]

LOOK = """
import json, subprocess, sys, time
from tessera_lab.activity import Cards
cards, command = Cards(), json.loads(sys.argv[1]) if len(sys.argv) > 1 else None

def ever():
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        if cards.work():
            return True
        time.sleep(0.2)
    return False
"""


def look(where: Card, source: str, **words: Any) -> Any:
    return json.loads(where.python(LOOK + source.format(**words)).splitlines()[-1])


def test_a_card_nobody_uses_does_not_work(card: Card) -> None:
    assert look(card, "print(json.dumps(ever()))") is False


def test_work_of_ones_own_child_counts_and_memory_that_is_only_held_does_not(card: Card) -> None:
    source = """
child = subprocess.Popen({command}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
found = ever()
child.kill()
print(json.dumps(found))
"""
    assert look(card, source, command=card.command("worker", "flood", 1_000_000)) is True
    assert look(card, source, command=card.command("worker", "hold", 500)) is False


def test_work_of_others_on_the_same_card_does_not_count(card: Card) -> None:
    card.start("worker", "flood", 1_000_000)
    assert look(card, "print(json.dumps(ever()))") is False


def test_no_driver_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    from tessera_lab.activity import Cards

    monkeypatch.setattr("pynvml.nvmlInit", no_driver)
    assert Cards().work() is False


def no_driver() -> None:
    import pynvml

    raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)


def test_whose_work_it_is_by_what_the_driver_lists() -> None:
    nobody = next(pid for pid in range(2**22 - 1, 2, -1) if not Path(f"/proc/{pid}").exists())
    # In a slice the list is the container's own; else nothing, or numbers of another name space, mean a card of one's own.
    assert [may_be_ours(pids, in_slice=True) for pids in ([], [nobody], [1])] == [False, True, True]
    assert [may_be_ours(pids, in_slice=False) for pids in ([], [nobody], [1], [1, os.getpid()])] == [True, True, False, True]

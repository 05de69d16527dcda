"""A program in a slice sees what it has, and proves that it cannot have more; without the library the proof fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tessera_vgpu
from tessera_vgpu.errors import VgpuError
from tests.vgpu.interposer.conftest import MIB, Slice, answer, built, make_slice
from tests.vgpu.test_status import tessera

__all__ = ["built", "make_slice"]
LOOK = """
import json, tessera_vgpu
mine, tests = tessera_vgpu.slice(), tessera_vgpu.self_test()
print(json.dumps([[card.memory_limit_bytes for card in mine.cards], [test.granted_bytes for test in tests],
    [test.passed for test in tests], [str(test) for test in tests], str(mine)]))
"""


def test_in_a_slice_of_simulated_cards_the_limit_is_proved() -> None:
    done = tessera("vgpu", "simulate", "--cards", "2xA100-80G", "--memory", "3GiB", "--", sys.executable, "-c", LOOK)
    assert done.returncode == 0, done.stderr
    limits, granted, passed, texts, text = json.loads(done.stdout)
    assert (limits, granted, passed) == ([3072 * MIB] * 2, [3072 * MIB] * 2, [True] * 2)
    assert texts[0].startswith("passed: GPU-")
    assert "1.00 of a card, up to 1.00; 0 of 3072 MiB in use" in text


def test_without_an_amount_of_memory_a_slice_has_what_the_card_gives() -> None:
    program = (sys.executable, "-c", "import tessera_vgpu; print(tessera_vgpu.self_test(seconds=0.2)[0])")
    done = tessera("vgpu", "simulate", "--cards", "A100-80G", "--compute", "30", "--", *program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("passed: GPU-")
    assert "80962 MiB" in done.stdout
    refused = tessera("vgpu", "simulate", "--cards", "A100-80G", "--memory", "800GiB", "--", "true")
    assert refused.returncode == 2
    assert "A slice of a card A100-80G has at most 80962 MiB, not 819200." in refused.stderr


def test_what_other_programs_of_the_slice_have_is_counted(make_slice: Callable[..., Slice]) -> None:
    slice_ = make_slice(mib=501)
    worker = slice_.start("told")
    assert answer(worker, "alloc 100") == "0"
    limits, granted, passed, _texts, text = json.loads(slice_.run_command([sys.executable, "-c", LOOK]))
    assert (limits, granted, passed) == ([501 * MIB], [500 * MIB], [True])
    assert "100 of 501 MiB in use" in text
    # All is given back.
    assert answer(worker, "alloc 400") == "0"


def test_where_nothing_enforces_the_slice_the_test_says_so(make_slice: Callable[..., Slice]) -> None:
    slice_ = make_slice(mib=500)
    environment = slice_.environment()
    del environment["LD_PRELOAD"]
    done = subprocess.run([sys.executable, "-c", LOOK], env=environment, capture_output=True, text=True, timeout=60)
    _limits, granted, passed, texts, _text = json.loads(done.stdout)
    assert granted[0] > 500 * MIB
    assert passed == [False]
    assert "FAILED" in texts[0]
    assert "DID NOT REFUSE" in texts[0]


def test_outside_of_a_slice_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(VgpuError, match=r"This program has no slice of a card: .*limits is not there\."):
        tessera_vgpu.slice(tmp_path)

"""Programs nobody here wrote run on a simulated card and on a slice of it; those with large packages with ``make foreign``."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tessera_vgpu.simulate import VGPU
from tests.vgpu.others.foreign import SMALL, STARTED, Program, differences, run


@pytest.fixture(scope="module")
def built() -> None:
    for part in ("simulator", "interposer"):
        subprocess.run(["make", "--silent", "-C", str(VGPU / part), f"PYTHON={sys.executable}"], check=True, timeout=280)


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("sliced", [False, True], ids=["card", "slice"])
@pytest.mark.parametrize("program", SMALL, ids=lambda program: program.name)
def test_a_foreign_program_goes_as_far_as_it_is_said(program: Program, sliced: bool) -> None:
    said = run([sys.executable, str(program.source)], sliced=sliced)
    assert differences(program, said, sliced=sliced) == []


def test_what_differs_is_found() -> None:
    fine = dict.fromkeys((*STARTED.works, *STARTED.stops), "CUDA_ERROR_OUT_OF_MEMORY") | {"total_gib": "8"}
    assert differences(STARTED, fine, sliced=True) == []
    assert differences(STARTED, fine, sliced=False) == ["total_gib: 8, not 79"]
    assert differences(STARTED, fine | {"arrays": "stopped: x"}, sliced=True) == ["arrays: stopped: x"]
    assert differences(STARTED, fine | {"too_much": "given"}, sliced=True) == ["too_much: given"]
    assert differences(STARTED, fine | {"end": "stopped: -11 "}, sliced=True) == ["end: stopped: -11 "]
    assert len(differences(STARTED, {}, sliced=True)) == len(STARTED.works) + len(STARTED.stops) + 1

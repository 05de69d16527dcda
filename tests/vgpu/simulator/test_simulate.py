"""Machines are described in words, and the file that programs share is what the C side expects."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest

from tessera_vgpu.errors import VgpuError
from tessera_vgpu.simulate import (
    MAX_CARDS,
    VGPU,
    Machine,
    _CardDescription,
    _MachineDescription,
    _ProfileDescription,
    make_machine,
    parse_cards,
    read_cards,
    scaled,
)
from tests.vgpu.simulator.conftest import compiler

MODELS = read_cards()


def test_cards_are_asked_for_by_number_and_model() -> None:
    assert [card.name for card in parse_cards("2xA100-80G, T4-16G", MODELS)] == ["A100-80G", "A100-80G", "T4-16G"]
    assert {"A100-80G", "H100-80G", "H200-141G", "A30-24G", "T4-16G", "Small-20SM", "RTX-188SM-96G"} == set(MODELS)


@pytest.mark.parametrize("wanted", ["", "A100", "0xA100-80G", "17xA100-80G", "-1xA100-80G", "2x", "A100-80G;true"])
def test_what_is_no_card_is_refused(wanted: str) -> None:
    with pytest.raises(VgpuError) as refusal:
        parse_cards(wanted, MODELS)
    assert refusal.value.code == "simulate.cards"


def test_a_misspelt_description_is_refused(tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text("name: X\nmemory: 3\n")
    with pytest.raises(VgpuError) as refusal:
        read_cards(tmp_path)
    assert refusal.value.code == "simulate.description"


def test_costs_are_scaled() -> None:
    card = scaled(MODELS["A100-80G"], 0.5, 2)
    assert (card.slice_ns, card.switch_ns) == (1_000_000, 200_000)


def test_machines_without_libraries_or_with_too_many_cards_are_refused(tmp_path: Path, libraries: Path) -> None:
    with pytest.raises(VgpuError) as refusal:
        make_machine(tmp_path / "state", [MODELS["T4-16G"]], libraries=tmp_path)
    assert refusal.value.code == "simulate.libraries"
    with pytest.raises(VgpuError) as refusal:
        make_machine(tmp_path / "state", [MODELS["T4-16G"]] * (MAX_CARDS + 1), libraries=libraries)
    assert refusal.value.code == "simulate.cards"


def test_the_layout_is_the_one_of_the_c_side(tmp_path: Path) -> None:
    fields = [
        (kind, structure, [name for name, *_rest in structure._fields_])
        for kind, structure in (
            ("struct profile_description", _ProfileDescription),
            ("struct card_description", _CardDescription),
            ("struct machine_description", _MachineDescription),
        )
    ]
    lines = []
    for kind, _structure, names in fields:
        lines.append(f'printf("%zu\\n", sizeof({kind}));')
        lines += [f'printf("%zu\\n", offsetof({kind}, {name}));' for name in names]
    source = tmp_path / "layout.c"
    source.write_text(f'#include "description.h"\n#include <stddef.h>\n#include <stdio.h>\nint main(void){{{"".join(lines)}}}\n')
    subprocess.run([compiler(), "-I", str(VGPU / "simulator" / "core"), "-o", str(tmp_path / "layout"), str(source)], check=True)
    seen = subprocess.run([str(tmp_path / "layout")], check=True, capture_output=True, text=True).stdout.split()
    wanted = []
    for _kind, structure, names in fields:
        wanted.append(ctypes.sizeof(structure))
        wanted += [getattr(structure, name).offset for name in names]
    assert list(map(int, seen)) == wanted


def test_a_program_is_run_on_the_machine(tmp_path: Path, libraries: Path) -> None:
    machine = make_machine(tmp_path / "state", parse_cards("3xT4-16G", MODELS), libraries=libraries)
    assert isinstance(machine, Machine)
    assert machine.run(["python3", "-c", "import ctypes; c = ctypes.CDLL('libcuda.so.1'); raise SystemExit(c.cuInit(0))"]) == 0
    assert machine.environment({"LD_LIBRARY_PATH": "/x"})["LD_LIBRARY_PATH"] == f"{libraries}:/x"
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600
    shared = make_machine(tmp_path / "shared", parse_cards("T4-16G", MODELS), libraries=libraries, mode=0o666)
    assert shared.state.stat().st_mode & 0o777 == 0o666


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\0" * 100_000, b"GPUSIMU1" + b"\xff" * 60_000])
def test_a_file_that_is_no_machine_is_no_device(tmp_path: Path, libraries: Path, content: bytes) -> None:
    (tmp_path / "state").write_bytes(content)
    machine = Machine(tmp_path / "state", libraries)
    assert machine.run(["python3", "-c", "import ctypes; raise SystemExit(ctypes.CDLL('libcuda.so.1').cuInit(0))"]) == 100
    assert (tmp_path / "state").read_bytes() == content

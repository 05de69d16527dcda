"""Programs that link the CUDA runtime run on the simulated one; what NVIDIA guarantees also on NVIDIA's (``REAL_GPU=1``)."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from pathlib import Path

import pytest

from tests.vgpu.simulator.conftest import PROGRAMS, REAL, Card, compiler, headers


def nvidias() -> Path:
    """NVIDIA's own runtime, of the package nvidia-cuda-runtime."""
    files = importlib.metadata.files("nvidia-cuda-runtime") or []
    return Path(str(next(entry.locate() for entry in files if entry.name == "libcudart.so.13")))


@pytest.fixture(scope="session")
def program(libraries: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("runtime") / "runtime"
    source = PROGRAMS / "runtime" / "runtime.c"
    command = [compiler(), "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-isystem", str(headers())]
    folder = nvidias().parent if REAL else libraries
    where = [f"-L{folder}", f"-Wl,-rpath,{folder}", "-l:libcudart.so.13", "-l:libcuda.so.1"]
    subprocess.run([*command, "-o", str(target), str(source), *where], check=True, timeout=60)
    return target


def test_the_runtime_keeps_its_word(card: Card, program: Path) -> None:
    assert card.run_command([str(program)]) == "done\n"


@pytest.mark.skipif(REAL, reason="its image is for the simulated card")
def test_kernels_and_variables_that_compilers_register_are_found(card: Card, program: Path) -> None:
    assert card.run_command([str(program), "registered"]) == "done\n"


@pytest.mark.skipif(REAL, reason="about the simulator's own library")
def test_every_function_of_the_runtime_is_exported_as_nvidia_does(libraries: Path) -> None:
    declared = set(re.findall(r"CUDARTAPI\s+(cuda\w+)\s*\(", (headers() / "cuda_runtime_api.h").read_text("latin-1")))
    command = ["nm", "-D", "--defined-only", str(libraries / "libcudart.so.13")]
    listed = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [line.split() for line in listed.stdout.splitlines()]
    symbols = [name.partition("@@") for _address, kind, name in lines if kind != "A"]
    assert len(declared) > 300
    assert declared - {name for name, _at, _version in symbols} == set()
    assert {version for _name, _at, version in symbols} == {"libcudart.so.13"}


@pytest.mark.skipif(REAL, reason="NVIDIA's runtime works there")
def test_nvidias_own_runtime_is_told_that_the_driver_is_not_nvidias(card: Card) -> None:
    source = f"""
import ctypes
runtime = ctypes.CDLL({str(nvidias())!r})
count, version = ctypes.c_int(-1), ctypes.c_int()
print(runtime.cudaGetDeviceCount(ctypes.byref(count)), runtime.cudaDriverGetVersion(ctypes.byref(version)), version.value)
"""
    assert card.python(source).split() == ["801", "0", "13000"]

"""Programs nobody here wrote: which packages they need, how far each goes on simulated cards, and where it stops."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
TESSERA = Path(sys.executable).parent / "tessera"
CARDS = "A100-80G"
SLICE = ("--memory", "8GiB", "--compute", "30")
SECONDS = 280


@dataclass(frozen=True)
class Program:
    """``works`` and ``stops`` name all its steps; those that stop with a piece of what is said then.

    ``total`` are the steps that tell the card's memory in GiB: 79 of the whole card, 8 of the slice.
    """

    name: str
    packages: tuple[str, ...]
    works: tuple[str, ...]
    stops: dict[str, str] = field(default_factory=dict)
    total: tuple[str, ...] = ()
    cudart: str = ""

    @property
    def source(self) -> Path:
        return next(PROGRAMS.glob(f"{self.name}_program.*"))


STARTED = Program(
    "numba",
    ("numba-cuda",),
    ("cards", "name", "total_gib", "arrays", "streams"),
    {"too_much": "CUDA_ERROR_OUT_OF_MEMORY"},
    ("total_gib",),
)
BINDINGS = Program(
    "cuda_python",
    ("cuda-python", "nvidia-ml-py"),
    ("total_gib", "management_total_gib", "device", "kernel"),
    {"too_much": "CUDA_ERROR_OUT_OF_MEMORY", "runtime": "cudaErrorNotSupported"},
    ("total_gib",),
)
TINYGRAD = Program("tinygrad", ("tinygrad", "numpy"), ("kernels", "matmul"), {"too_much": "MemoryError"})
SMALL = (STARTED, BINDINGS, TINYGRAD)
"""Those that the tests run; their packages are among the tests'."""
COMPILED = Program("numba_kernel", ("numba-cuda[cu13]",), ("available", "kernel"))
PYTORCH = Program(
    "pytorch",
    ("torch", "numpy"),
    (
        *("available", "name", "total_gib", "first_allocation", "copies", "kernels", "streams", "events"),
        *("graph", "training", "compiled"),
    ),
    {
        "too_much": "CUDA out of memory",
        "matmul": "CUBLAS_STATUS_NOT_INITIALIZED",
        "convolution": "CUDNN_STATUS_NOT_INITIALIZED",
    },
    ("total_gib",),
)
CUPY = Program(
    "cupy", ("cupy-cuda12x",), ("driver_version",), dict.fromkeys(("devices", "array"), "cudaErrorNotSupported"), cudart="inside"
)
TAICHI = Program("taichi", ("taichi",), ("backend", "kernel", "copy"))
WARP = Program("warp", ("warp-lang",), ("devices", "name", "total_gib"), {"array": "Failed to allocate"}, ("total_gib",))
NVCC = ("nvidia-cuda-nvcc", "nvidia-cuda-runtime", "nvidia-cuda-crt", "nvidia-cuda-cccl", "nvidia-nvvm")
STEPS = ("devices", "total_gib", "allocation", "fill", "variable", "stream", "kernel", "wait", "graph")
SHARED = Program("runtime", NVCC, STEPS, {"too_much": "cudaErrorMemoryAllocation"}, ("total_gib",), "shared")
STATIC = Program("runtime", NVCC, (), dict.fromkeys((*STEPS, "too_much"), "cudaErrorNotSupported"), cudart="static")
EVERY = (*SMALL, COMPILED, PYTORCH, TAICHI, WARP, CUPY, SHARED, STATIC)


def run(command: Sequence[str], *, sliced: bool) -> dict[str, str]:
    """Run a program on a simulated card, or on a slice of it, and return what each of its steps said."""
    options = SLICE if sliced else ()
    whole = [str(TESSERA), "vgpu", "simulate", "--cards", CARDS, *options, "--", *command]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=SECONDS)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    said = {line["step"]: line.get("value", "") or f"stopped: {line.get('error')}" for line in lines}
    if done.returncode != 0:
        said["end"] = f"stopped: {done.returncode} {done.stderr[-400:]}"
    return said


def differences(program: Program, said: dict[str, str], *, sliced: bool) -> list[str]:
    """Return in which steps the program did not do what is written above."""
    wrong = [f"{step}: {said[step]}" for step in said if step not in (*program.works, *program.stops)]
    wrong += [f"{step}: {said.get(step)}" for step in program.works if said.get(step, "stopped").startswith("stopped")]
    wrong += [f"{step}: {said.get(step)}" for step, why in program.stops.items() if why not in said.get(step, "")]
    total = "8" if sliced else "79"
    return wrong + [f"{step}: {said.get(step)}, not {total}" for step in program.total if said.get(step) != total]

"""What the library adds to a launch, in real time of the calling thread.

Measured on the simulated driver whose own costs of a launch are set to nothing, so that what is left is its code, with the
library and without it in turns; each figure is the median over batches, and the row the median of the differences. The card is
given a limit, so that the library's control is on, but the kernels take no time, so that it never makes anybody wait.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from benchmarks.rows import Row
from benchmarks.vgpu.controls import OURS
from benchmarks.vgpu.machines import Container, Setting, programs
from tessera_vgpu.simulate import make_machine

ROUNDS = 9
LIMITED = Container("limited", "", request=50, limit=50)
_FREE = {"launch_host_ns": 0, "launch_device_ns": 0, "event_host_ns": 0, "event_device_ns": 0, "allocation_host_ns": 0}
_PATIENCE_S = 60


def compare(what: str) -> tuple[float, float]:
    """Return the median nanoseconds of a call of ``programs/costs.c`` without the library, and what it adds."""
    bare: list[float] = []
    added: list[float] = []
    setting = Setting(dilation=1.0)
    for _round in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="vgpu-bench-") as name:
            folder = Path(name)
            machine = make_machine(folder / "machine", [setting.model().model_copy(update=_FREE)])
            [extra] = OURS.prepare(machine, folder, [LIMITED], setting)
            times = []
            for more in ({}, extra):
                command = [str(programs()["costs"]), what]
                environment = machine.environment() | more
                done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=_PATIENCE_S)
                times.append(float(done.stdout))
            bare.append(times[0])
            added.append(times[1] - times[0])
    return statistics.median(bare), statistics.median(added)


def rows() -> Iterable[Row]:
    """Compare launches."""
    bare, added = compare("launch")
    yield Row("overhead", "simulated driver", "launch_ns_median", bare, "ns")
    yield Row("overhead", "ours", "launch_added_ns_median", added, "ns", "<= 100")

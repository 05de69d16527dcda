"""Containers on one simulated card under a method of control, and the truth about what they got.

The truth is the simulator's own book, looked at every few simulated milliseconds by ``programs/sampler.c``; what programs or
libraries say of themselves is not used for shares.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tests.vgpu.simulator.conftest import compiler, headers

from tessera_vgpu.simulate import LIBRARIES, VGPU, Card, Machine, make_machine, read_cards, scaled

HERE: Final = Path(__file__).parent
FULL: Final = bool(os.environ.get("FULL"))
"""All methods on all cases, with more time to settle."""
COSTS: Final = float(os.environ.get("COSTS") or 1)
"""How long the card's slice and switch take, against what is assumed, which is in no vendor's papers."""
PPM: Final = 1_000_000
NS: Final = 1_000_000_000
MS: Final = 1_000_000
_PATIENCE_S: Final = 120
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Container:
    """What one tenant was given, and the program that its processes run: ``mode`` and ``options`` of ``programs/workload.c``."""

    name: str
    mode: str
    options: Mapping[str, int] = field(default_factory=dict)
    processes: int = 1
    request: int = 100
    limit: int = 100
    weight: int = 1
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """The card, with slice and switch ``costs`` times as long as assumed, and how many seconds one of the simulated takes."""

    card: str = "A100-80G"
    dilation: float = 2.0
    warm_up_s: float = 3.0
    window_s: float = 10.0
    sample_ns: int = 10 * MS
    costs: float = COSTS

    @property
    def ppm(self) -> int:
        """The dilation as the simulator has it."""
        return round(self.dilation * PPM)

    def model(self) -> Card:
        """Return the card's description."""
        return scaled(read_cards()[self.card], self.costs, self.costs)


class Control(ABC):
    """A method of dividing a card's time."""

    name: str

    @abstractmethod
    def prepare(self, machine: Machine, folder: Path, containers: Sequence[Container], setting: Setting) -> list[dict[str, str]]:
        """Make what the containers need in *folder*, and return what each one's programs get into their environment."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened in the window.

    Attributes:
        now_ns, real_ns: times of the looks, simulated and by CLOCK_MONOTONIC.
        busy_ns, switching_ns: of the card, since its beginning.
        each_ns: by look and container, time with its kernels on the card.
        said: by container, what each of its processes printed.
    """

    now_ns: Integers
    real_ns: Integers
    busy_ns: Integers
    switching_ns: Integers
    each_ns: Integers
    said: list[list[dict[str, Any]]]

    @property
    def span_ns(self) -> int:
        """The window."""
        return int(self.now_ns[-1] - self.now_ns[0])

    def shares(self) -> list[float]:
        """Return each container's percent of the card's time."""
        used: list[int] = (self.each_ns[-1] - self.each_ns[0]).tolist()
        return [100 * one / self.span_ns for one in used]

    def idle_percent(self) -> float:
        """Return the percent of the time without a kernel or a change of context."""
        used = int(self.busy_ns[-1] - self.busy_ns[0] + self.switching_ns[-1] - self.switching_ns[0])
        return 100 * (1 - used / self.span_ns)

    def switching_percent(self) -> float:
        """Return the percent of the time that changes of context took."""
        return 100 * int(self.switching_ns[-1] - self.switching_ns[0]) / self.span_ns

    def simulated(self, real_ns: Sequence[int]) -> Integers:
        """Return simulated times of moments of CLOCK_MONOTONIC."""
        return np.interp(np.asarray(real_ns, dtype=np.float64), self.real_ns, self.now_ns).astype(np.int64)


def compile_program(target: Path, source: Path, *options: str) -> Path:
    """Compile one C file with the driver's headers against the simulated driver, and return what was made."""
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-isystem", str(headers())]
    after = [f"-L{LIBRARIES}", "-l:libcuda.so.1", "-lm"]
    subprocess.run([compiler(), *flags, "-o", str(target), str(source), *options, *after], check=True, timeout=60)
    return target


@cache
def programs() -> dict[str, Path]:
    """Compile the benchmark's programs once and return them by name."""
    folder = VGPU / "build" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    sources = HERE / "programs"
    core = ["-D_GNU_SOURCE", "-I" + str(VGPU / "simulator" / "core"), *map(str, sorted((LIBRARIES / "core").glob("*.o")))]
    made = {name: compile_program(folder / name, sources / f"{name}.c") for name in ("workload", "costs")}
    made["sampler"] = compile_program(folder / "sampler", sources / "sampler.c", *core)
    return made


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], **streams: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a program and kill it at the end if it still runs."""
    process = subprocess.Popen(list(command), env=dict(environment), stdin=subprocess.PIPE, text=True, **streams)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def say(process: subprocess.Popen[str], line: str) -> None:
    """Give a program a line."""
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def run(control: Control, containers: Sequence[Container], setting: Setting) -> Outcome:
    """Run the containers' programs together, and return what the card's book says of the window after the warm-up.

    Raises:
        RuntimeError: a program ended early or did not start; its last words are in the message.
    """
    with tempfile.TemporaryDirectory(prefix="vgpu-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        machine = make_machine(folder / "machine", [setting.model()], dilation=setting.dilation)
        environments = control.prepare(machine, folder, containers, setting)
        book = stack.enter_context((folder / "samples").open("w+", encoding="ascii"))
        sampler = stack.enter_context(
            running([str(programs()["sampler"]), str(setting.sample_ns)], machine.environment(), stdout=book)
        )
        groups: list[list[subprocess.Popen[str]]] = []
        for number, (container, extra) in enumerate(zip(containers, environments, strict=True)):
            options = [f"{key}={value}" for key, value in container.options.items()]
            group = []
            for place in range(container.processes):
                command = [
                    str(programs()["workload"]),
                    container.mode,
                    f"dilation_ppm={setting.ppm}",
                    f"seed={number * 100 + place + 1}",
                ]
                group.append(
                    stack.enter_context(running([*command, *options], machine.environment() | extra, stdout=subprocess.PIPE))
                )
            groups.append(group)
        everyone = [process for group in groups for process in group]
        for process in everyone:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"a workload did not start, status {process.wait(10)}")
        for process in everyone:
            say(process, "go")
        begin = time.monotonic_ns() + round(setting.warm_up_s * setting.dilation * NS)
        end = begin + round(setting.window_s * setting.dilation * NS)
        while (left := end - time.monotonic_ns()) > 0:
            time.sleep(min(0.5, left / NS))
            if any(process.poll() is not None for process in everyone):
                raise RuntimeError("a workload ended early")
        sampler.communicate(timeout=_PATIENCE_S)
        said = [[json.loads(process.communicate(timeout=_PATIENCE_S)[0]) for process in group] for group in groups]
        book.seek(0)
        pids = [[process.pid for process in group] for group in groups]
        return _read(book.read().splitlines(), pids, begin, end, said)


def _read(lines: Sequence[str], pids: Sequence[Sequence[int]], begin: int, end: int, said: list[list[dict[str, Any]]]) -> Outcome:
    """Return the looks of the window."""
    container = {pid: place for place, group in enumerate(pids) for pid in group}
    times: list[list[int]] = []
    each: list[list[int]] = []
    for line in lines:
        words = line.split()
        numbers = [int(word) for word in words[:4]]
        if not begin <= numbers[1] <= end:
            continue
        row = [0] * len(pids)
        for word in words[4:]:
            pid, _, busy = word.partition("=")
            row[container[int(pid)]] += int(busy)
        times.append(numbers)
        each.append(row)
    table = np.asarray(times, dtype=np.int64)
    return Outcome(table[:, 0], table[:, 1], table[:, 2], table[:, 3], np.asarray(each, dtype=np.int64), said)

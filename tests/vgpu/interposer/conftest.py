"""Fixtures of the tests of the library that enforces slices.

make_slice  function  makes a simulated machine and a container's slice of it, and runs compiled programs in that container
slice_      function  one of 256 MiB of one card, with contexts of 64 MiB
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tessera_vgpu.pages import CardLimits, Limits, Usage, create_limits, create_usage, read_usage
from tessera_vgpu.simulate import LIBRARIES, VGPU, Machine, make_machine, parse_cards, read_cards
from tests.vgpu.simulator.conftest import PROGRAMS as SIMULATOR_PROGRAMS
from tests.vgpu.simulator.conftest import compiler, headers

BUILD = VGPU / "build" / "interposer"
PROGRAMS = Path(__file__).parent / "programs"
SECONDS = 100
EFFORT = int(os.environ.get("TESSERA_TEST_EFFORT", "1"))
"""How many times as much as in CI is tried where chance decides what; `make soak` sets more."""
MIB = 1 << 20
CONTEXT = 64 * MIB


@dataclass
class Slice:
    """A container: its pages, and the environment of its programs."""

    machine: Machine
    programs: dict[str, Path]
    pages: Path
    uuids: tuple[str, ...]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def limits(self, mib: int, processes: int = 512, pod: str = "pod-a", cards: int | None = None) -> Limits:
        chosen = self.uuids[:cards]
        each = tuple(CardLimits(uuid, mib * MIB, 30, 30, context_bytes=CONTEXT) for uuid in chosen)
        return Limits(pod, "main", each, most_processes=processes)

    def environment(self, **variables: str) -> dict[str, str]:
        library = str(BUILD / "libtessera_vgpu_trial.so")
        base = self.machine.environment() | {"LD_PRELOAD": library, "TESSERA_TRIAL_PAGES": str(self.pages)}
        return base | variables

    def run(self, program: str, *arguments: object, **variables: str) -> str:
        """Run a program to its end and return what it printed; it must succeed."""
        return self.run_command([str(self.programs[program]), *map(str, arguments)], **variables)

    def run_command(self, command: Sequence[str], **variables: str) -> str:
        environment = self.environment(**variables)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, (command, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def units(self, family: str = "linear", way: str = "linked") -> int:
        """How many units of 32 MiB (of others of that family) a further program gets."""
        return int(self.run("fill", family, way).split()[0])

    def start(self, *arguments: object, inside: bool = True) -> subprocess.Popen[str]:
        """Start a worker, in the container or outside of it, and return it when it has said "ready"."""
        process = subprocess.Popen(
            [str(self.programs["worker"]), *map(str, arguments)],
            env=self.environment() if inside else self.machine.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        answer(process, None, "ready")
        return process

    def usage(self) -> Usage:
        return read_usage(self.pages / "usage", len(self.uuids))

    def end(self) -> None:
        for process in self.started:
            process.kill()
            process.communicate()


def answer(process: subprocess.Popen[str], line: str | None, expected: str | None = None) -> str:
    """Give a program a line, and return the line that it prints."""
    assert process.stdin is not None
    assert process.stdout is not None
    if line is not None:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
    got = process.stdout.readline().strip()
    assert expected is None or got == expected, (got, process.poll(), process.stderr and process.stderr.read())
    return got


def go(*programs: subprocess.Popen[str]) -> None:
    """Let programs that have said "ready" begin."""
    for program in programs:
        assert program.stdin is not None
        program.stdin.write("go\n")
        program.stdin.flush()


@contextmanager
def scribbling(page: Path, write: Callable[[int], None]) -> Iterator[None]:
    """Call *write* with a descriptor of a container's page, as a program in it can, again and again."""
    done = threading.Event()

    def scribble() -> None:
        with page.open("r+b", buffering=0) as file:
            while not done.wait(0.001):
                write(file.fileno())

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    for part in ("simulator", "interposer"):
        subprocess.run(["make", "--silent", "-C", str(VGPU / part), f"PYTHON={sys.executable}"], check=True, timeout=280)
    folder = tmp_path_factory.mktemp("programs")
    made = {}
    # Programs of the driver's guarantees, too, which know nothing of slices.
    wanted: list[tuple[str, Path, tuple[str, ...]]] = [(source.stem, source, ()) for source in sorted(PROGRAMS.glob("*.c"))]
    for name in ("guarantees", "entries", "worker"):
        source = SIMULATOR_PROGRAMS / f"{name}.c"
        wanted.append((f"driver_{name}", source, ()))
        wanted.append((f"driver_{name}_per_thread", source, ("-DCUDA_API_PER_THREAD_DEFAULT_STREAM",)))
    for name, source, options in wanted:
        target = folder / name
        command = [compiler(), "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-isystem", str(headers()), *options]
        subprocess.run([*command, "-o", str(target), str(source), f"-L{LIBRARIES}", "-l:libcuda.so.1"], check=True, timeout=60)
        made[name] = target
    return made


@pytest.fixture
def make_slice(built: dict[str, Path], tmp_path: Path) -> Iterator[Callable[..., Slice]]:
    made: list[Slice] = []

    def make(mib: int = 256, cards: str = "A100-80G", of_slice: int | None = None) -> Slice:
        folder = tmp_path / f"slice-{len(made)}"
        folder.mkdir()
        machine = make_machine(folder / "machine", parse_cards(cards, read_cards()))
        new = Slice(machine, built, folder, machine.uuids[:of_slice])
        create_limits(folder / "limits", new.limits(mib))
        create_usage(folder / "usage")
        made.append(new)
        return new

    yield make
    for one in made:
        one.end()


@pytest.fixture
def slice_(make_slice: Callable[..., Slice]) -> Slice:
    return make_slice()

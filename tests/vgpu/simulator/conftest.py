"""Fixtures of the simulator's tests.

card      function  runs compiled programs on a fresh simulated machine, or on this machine's real card where REAL_GPU=1
programs  session   the compiled programs of ``programs/``, by name

What the real driver guarantees is tested on either; the rest (``simulated``) knows the simulator's own clock or file.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tessera_vgpu.simulate import LIBRARIES, VGPU, Machine, make_machine, parse_cards, read_cards

REAL = os.environ.get("REAL_GPU") == "1"
PROGRAMS = Path(__file__).parent / "programs"
SECONDS = 60


def headers() -> Path:
    """The folder with cuda.h and nvml.h, of the packages nvidia-cuda-runtime and nvidia-nvml-dev."""
    files = importlib.metadata.files("nvidia-cuda-runtime") or []
    return Path(str(next(entry.locate() for entry in files if entry.name == "cuda.h"))).parent


def compiler() -> str:
    found = shutil.which("gcc")
    if found is None:
        pytest.fail("no C compiler: install Debian's package gcc")
    return found


@dataclass
class Card:
    """Where programs run: ``environment`` for all of them."""

    environment: dict[str, str]
    programs: dict[str, Path]
    machine: Machine | None
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def command(self, program: str, *arguments: object) -> list[str]:
        return [str(self.programs[program]), *map(str, arguments)]

    def run(self, program: str, *arguments: object, **variables: str) -> str:
        """Run a program to its end and return what it printed; it must succeed."""
        return self.run_command(self.command(program, *arguments), **variables)

    def run_command(self, command: Sequence[str], **variables: str) -> str:
        done = subprocess.run(command, env=self.environment | variables, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, (command, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def python(self, source: str, **variables: str) -> str:
        return self.run_command([sys.executable, "-c", source], **variables)

    def start(self, program: str, *arguments: object, **variables: str) -> subprocess.Popen[str]:
        """Start a program that says "ready", and return it when it has."""
        process = subprocess.Popen(
            self.command(program, *arguments),
            env=self.environment | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "ready\n", (line, process.stderr and process.stderr.read())
        return process

    def go(self, *processes: subprocess.Popen[str]) -> list[str]:
        """Give each its line, and return what they print."""
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return [process.communicate(timeout=SECONDS)[0].strip() for process in processes]

    def end(self) -> None:
        for process in self.started:
            process.kill()
            process.communicate()


@pytest.fixture(scope="session")
def libraries() -> Path:
    if not REAL:
        make = ["make", "--silent", "-C", str(VGPU / "simulator"), f"PYTHON={sys.executable}"]
        subprocess.run(make, check=True, timeout=280)
    return LIBRARIES


@pytest.fixture(scope="session")
def programs(libraries: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("programs")
    built = {}
    where = [] if REAL else [f"-L{libraries}"]
    for source in sorted(PROGRAMS.glob("*.c")):
        for suffix, options in (("", []), ("_per_thread", ["-DCUDA_API_PER_THREAD_DEFAULT_STREAM"])):
            target = folder / f"{source.stem}{suffix}"
            command = [compiler(), "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-isystem", str(headers()), *options]
            subprocess.run([*command, "-o", str(target), str(source), *where, "-l:libcuda.so.1"], check=True, timeout=60)
            built[target.name] = target
    return built


@pytest.fixture
def make_card(libraries: Path, programs: dict[str, Path], tmp_path: Path) -> Iterator[Callable[..., Card]]:
    made: list[Card] = []

    def make(cards: str = "A100-80G", *, virtual_clock: bool = False, dilation: float = 1.0) -> Card:
        if REAL:
            card = Card(dict(os.environ), programs, None)
        else:
            chosen = parse_cards(cards, read_cards())
            state = tmp_path / f"machine-{len(made)}"
            machine = make_machine(state, chosen, virtual_clock=virtual_clock, dilation=dilation, libraries=libraries)
            card = Card(machine.environment(), programs, machine)
        made.append(card)
        return card

    yield make
    for card in made:
        card.end()


@pytest.fixture
def card(make_card: Callable[..., Card]) -> Card:
    return make_card()

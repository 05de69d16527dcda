"""No address, leak, undefined behaviour or race in the library, by the sanitizers' word."""

from __future__ import annotations

import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.vgpu.interposer.conftest import EFFORT, Slice, answer
from tests.vgpu.interposer.sanitized import KINDS, Build, Sanitized, build

MODES = {"async": 200_000, "sync": 200_000, "graph": 50_000, "cooperative": 200_000, "extended": 200_000, "capture": 200_000}
FAMILIES = (
    ("linear", "dlsym"),
    ("small", "found"),
    ("pitch", "address"),
    ("managed", "linked"),
    ("ordered", "per_thread"),
    ("pool", "old_address"),
    ("physical", "default"),
    ("array", "dlsym"),
    ("array3d", "address"),
    ("mipmap", "linked"),
    ("context", "dlsym"),
    ("graph", "per_thread"),
)


@pytest.fixture(scope="module", params=list(KINDS))
def build_(request: pytest.FixtureRequest, built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Build:
    assert built  # and with it the simulated driver
    return build(request.param, tmp_path_factory.mktemp("sanitized"))


@pytest.fixture
def sanitized(build_: Build, tmp_path: Path) -> Iterator[Sanitized]:
    made = Sanitized(tmp_path, build_)
    yield made
    made.end()


def start(container: Slice, *command: object) -> subprocess.Popen[str]:
    """Start a program, and return it when it has said "ready"."""
    process = subprocess.Popen(
        [str(container.programs[str(command[0])]), *map(str, command[1:])],
        env=container.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    container.started.append(process)
    answer(process, None, "ready")
    return process


def ended(process: subprocess.Popen[str]) -> str:
    """Let a program that waits for lines go to its end, and return the last line; it must end well."""
    output, errors = process.communicate("go\ngo\n", timeout=250 + 10 * EFFORT)
    assert process.returncode == 0, (process.args, process.returncode, output, errors)
    return output.splitlines()[-1]


@pytest.mark.parametrize("fault", ["overflow", "undefined", "leak", "race"])
def test_a_fault_is_reported(sanitized: Sanitized, build_: Build, fault: str) -> None:
    """The others would pass without a word if sanitizers did not work here."""
    seen = (fault == "race") == (build_.kind == "thread")
    container = sanitized.containers[0]
    command = [str(container.programs["faulty"]), fault]
    done = subprocess.run(command, env=container.environment(), timeout=60, check=False, capture_output=True, text=True)
    assert (done.returncode != 0) == seen
    assert ("faulty.c" in sanitized.reports() + done.stderr) == seen


def test_many_threads_of_two_containers(sanitized: Sanitized) -> None:
    seed = secrets.randbits(16)
    sys.stdout.write(f"seed {seed}\n")
    storms = [start(container, "storm", seed + place, 4, 1000 * EFFORT) for place, container in enumerate(sanitized.containers)]
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(ended, storms)) == ["done", "done"]
    sanitized.check()


def test_torture_with_killed_processes(sanitized: Sanitized) -> None:
    seed = secrets.randbits(16)
    sys.stdout.write(f"seed {seed}\n")
    chance = random.Random(seed)
    (container, _other) = sanitized.containers
    lasting = [start(container, "worker", "torture", seed + place, 3, 1500 * EFFORT, 300, 1) for place in range(2)]
    with ThreadPoolExecutor() as pool:
        results = [pool.submit(ended, process) for process in lasting]
        while not all(result.done() for result in results):
            killed = start(container, "worker", "torture", chance.getrandbits(15), 2, 0, 200, 1)
            time.sleep(chance.random() / 3)
            killed.kill()
            killed.communicate()
            assert killed.returncode == -signal.SIGKILL
        assert [result.result() for result in results] == ["done", "done"]
    assert ended(start(container, "worker", "forked", 100)) == "freed"
    assert ended(start(container, "worker", "hold_without_descriptors", 100)) == "freed"
    sanitized.check()


def test_all_ways_to_launch(sanitized: Sanitized) -> None:
    loads = [
        start(sanitized.containers[place % 2], "load", mode, ns, 0.7 * EFFORT) for place, (mode, ns) in enumerate(MODES.items())
    ]
    with ThreadPoolExecutor() as pool:
        assert all(int(launched) > 0 for launched in pool.map(ended, loads))
    sanitized.check()


def test_all_kinds_of_memory(sanitized: Sanitized) -> None:
    def fill(place: int) -> str:
        return sanitized.containers[place % 2].run("fill", *FAMILIES[place])

    with ThreadPoolExecutor(2) as pool:
        # At the same time, so what each gets depends on the others.
        assert all(len(printed.split()) == 5 for printed in pool.map(fill, range(len(FAMILIES))))
    sanitized.check()


def test_a_sanitized_program_runs_with_the_library_as_it_is(sanitized: Sanitized) -> None:
    """A runtime asks dlsym for the functions that it stands in front of, before any of them works."""
    (container, _other) = sanitized.containers
    plain = Slice.environment(container)["LD_PRELOAD"]
    assert container.build is not None
    preload = f"{container.build.runtime} {plain}"
    assert container.run("fill", "linear", "dlsym", LD_PRELOAD=preload).split()[0] == "16"
    sanitized.check()

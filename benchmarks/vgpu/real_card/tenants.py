"""Containers on one card, their slices, and the processes in them.

Nothing here but the standard library and our pages, so that it runs on a bare machine.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tessera_vgpu.pages import CardLimits, Limits, change_limits, create_limits, create_usage
from tessera_vgpu.turns import create_turns, write_rosters

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[2]
BUILD: Final = ROOT / "vgpu" / "build"
LIBRARY: Final = BUILD / "interposer" / "libtessera_vgpu_trial.so"
MADE: Final = BUILD / "real_card"
GUARANTEES: Final = ROOT / "tests" / "vgpu" / "simulator" / "programs"
MIB: Final = 1 << 20
_PATIENCE_S: Final = 60


class Unusable(Exception):
    """Something that the run needs is missing; the message says what."""


def programs() -> dict[str, Path]:
    """Compile the programs where a compiler and the headers are, and return what is there by name.

    They are linked with the simulated driver, whose name and functions are those of the real one.

    Raises:
        Unusable: they are not there and cannot be made.
    """
    sources = {"worker": HERE / "worker.c", "guarantees": GUARANTEES / "guarantees.c"}
    made = {name: MADE / name for name in sources}
    # By content, since copying a tree to another machine gives all of it new times.
    inputs = (*sources.values(), HERE / "kernels.h", HERE.parent / "programs" / "calls.h", GUARANTEES / "check.h")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()
    stamp = MADE / "sources"
    if stamp.exists() and stamp.read_text("ascii") == digest and all(path.exists() for path in made.values()):
        return made
    found = [Path(entry) / "nvidia" / "cu13" / "include" for entry in sys.path]
    include = next((folder for folder in found if (folder / "cuda.h").exists()), None)
    compiler = shutil.which("gcc")
    if include is None or compiler is None or not (BUILD / "simulator" / "libcuda.so.1").exists():
        raise Unusable(
            "build first, on a machine with gcc: make simulator interposer, then run this once; vgpu/build is all it needs"
        )
    MADE.mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        command = [compiler, "-O2", "-pthread", "-isystem", str(include), "-o", str(made[name]), str(source)]
        subprocess.run([*command, f"-L{BUILD / 'simulator'}", "-l:libcuda.so.1", "-lm"], check=True, timeout=120)
    stamp.write_text(digest, "ascii")
    return made


@dataclass
class Process:
    """One process that answers each line with a line."""

    popen: subprocess.Popen[str]
    words: list[str] = field(default_factory=list)

    def ask(self, line: str = "go", seconds: float = _PATIENCE_S) -> str:
        """Give it a line and return its answer."""
        self.say(line)
        return self.hear(seconds)

    def say(self, line: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(f"{line}\n")
        self.popen.stdin.flush()

    def hear(self, seconds: float = _PATIENCE_S) -> str:
        """Return its next line.

        Raises:
            RuntimeError: it ended, or said nothing for so long and was killed.
        """
        assert self.popen.stdout is not None
        clock = threading.Timer(seconds, self.popen.kill)
        clock.start()
        answer = self.popen.stdout.readline().strip()
        clock.cancel()
        if not answer:
            raise RuntimeError(f"process {self.popen.pid} ended or was silent for {seconds:g} s")
        return answer

    def end(self) -> None:
        """Close its input and wait; kill it if it does not end."""
        with suppress(BrokenPipeError):
            if self.popen.stdin is not None:
                self.popen.stdin.close()
        try:
            self.popen.wait(20)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


@dataclass
class Tenants:
    """The card, and containers with slices of it, by name. Their pages are in *folder*, which only this run has."""

    folder: Path
    uuid: str
    memory_bytes: int
    worker: Path
    limits: dict[str, Limits] = field(default_factory=dict)

    def give(self, name: str, request: int, limit: int, *, memory_mib: int = 0, weight: int = 1, priority: int = 0) -> None:
        """Give a container a slice: hundredths of the card's time; ``memory_mib`` 0 is all of the memory."""
        bytes_ = memory_mib * MIB or self.memory_bytes
        card = CardLimits(self.uuid, bytes_, request, limit, weight)
        self.limits[name] = Limits(f"pod-{name}", "main", (card,), priority)
        pages = self.folder / name
        if pages.exists():
            change_limits(pages / "limits", self.limits[name])
        else:
            pages.mkdir()
            (self.folder / "node").mkdir(exist_ok=True)
            create_limits(pages / "limits", self.limits[name])
            create_usage(pages / "usage")
            create_turns(pages / "turns", self.folder / "node", name)
        write_rosters(self.folder / "node", self.limits)

    def take_back(self) -> None:
        """Take all slices back; their processes must have ended."""
        for name in self.limits:
            shutil.rmtree(self.folder / name)
        self.limits.clear()
        write_rosters(self.folder / "node", {})

    def environment(self, name: str | None) -> Mapping[str, str]:
        """Return the environment of a container's programs; None: of those that no slice holds."""
        inside = {
            "LD_PRELOAD": " ".join(filter(None, (str(LIBRARY), os.environ.get("LD_PRELOAD")))),
            "TESSERA_TRIAL_PAGES": str(self.folder / str(name)),
            "TESSERA_TRIAL_NODE": str(self.folder / "node"),
        }
        return dict(os.environ) | (inside if name is not None else {})

    def start(self, name: str | None, *command: object) -> Process:
        """Start a worker that waits for lines."""
        popen = subprocess.Popen(
            [str(self.worker), *map(str, command)],
            env=self.environment(name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        process = Process(popen)
        if process.hear() != "ready":
            process.end()
            raise RuntimeError(f"{command} did not start")
        return process

    def output(self, name: str | None, *command: object) -> str:
        """Run a worker to its end and return what it printed."""
        whole = [str(self.worker), *map(str, command)]
        done = subprocess.run(whole, env=self.environment(name), check=True, capture_output=True, text=True, timeout=_PATIENCE_S)
        return done.stdout.strip()

"""The library built with sanitizers, and containers whose programs are.

A report of AddressSanitizer or ThreadSanitizer is a file; :meth:`Sanitized.check` fails when there is one. Undefined behaviour
ends the program with an error. Their runtimes come first in LD_PRELOAD, as they want.

The simulated driver is built without: its objects end with their contexts, which a search for leaks cannot know. What
ThreadSanitizer sees are the threads of one process; between processes, which share pages without locks, it sees nothing.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tessera_vgpu.pages import CardLimits, Limits, create_limits, create_usage
from tessera_vgpu.simulate import LIBRARIES, VGPU, Machine, make_machine, parse_cards, read_cards
from tessera_vgpu.turns import create_turns, write_rosters
from tests.vgpu.interposer.conftest import CONTEXT, MIB, PROGRAMS, Slice
from tests.vgpu.simulator.conftest import compiler, headers

KINDS: Final = {"address": ("address,undefined", "libasan.so"), "thread": ("thread", "libtsan.so")}
"""Kind → what the compiler calls it, and its runtime."""
SUPPRESSED: Final = "leak:libcuda.so\n"


@dataclass(frozen=True)
class Build:
    """The library and the programs of one kind."""

    kind: str
    library: Path
    runtime: Path
    programs: dict[str, Path]


def build(kind: str, folder: Path) -> Build:
    """Build library and programs; objects of an earlier time are used again."""
    flag, runtime = KINDS[kind]
    made = VGPU / "build" / "sanitized" / kind
    # ThreadSanitizer does not know fences; the one in limits.c stands between reads of a page that other processes write.
    options = ["-O1", "-g", "-fno-omit-frame-pointer", "-Wno-tsan", f"-fsanitize={flag}", "-fno-sanitize-recover=undefined"]
    library = made / "libtessera_vgpu_trial.so"
    make = ["make", "--silent", "-j2", "-C", str(VGPU / "interposer"), f"PYTHON={sys.executable}", f"BUILD={made}"]
    subprocess.run([*make, f"CFLAGS={' '.join(options)}", str(library)], check=True, timeout=280)
    programs = {}
    for source in sorted(PROGRAMS.glob("*.c")):
        programs[source.stem] = folder / f"{source.stem}-{kind}"
        command = [compiler(), *options, "-Wall", "-Wextra", "-Werror", "-pthread", "-isystem", str(headers()), str(source)]
        command += ["-o", str(programs[source.stem]), f"-L{LIBRARIES}", "-l:libcuda.so.1"]
        subprocess.run(command, check=True, timeout=60)
    answer = subprocess.run([compiler(), f"-print-file-name={runtime}"], check=True, capture_output=True, text=True).stdout
    return Build(kind, library, Path(answer.strip()).resolve(), programs)


@dataclass
class Container(Slice):
    """One whose programs are sanitized; ``node`` is the folder that all containers see."""

    build: Build | None = None
    node: Path = Path()

    def environment(self, **variables: str) -> dict[str, str]:
        assert self.build is not None
        log = f"log_path={self.node.parent / 'report'}"
        options = {
            "ASAN_OPTIONS": f"{log}:detect_leaks=1",
            "LSAN_OPTIONS": f"suppressions={self.node.parent / 'suppressed'}:print_suppressions=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            # A child of a program with threads is what is tested, among other things.
            "TSAN_OPTIONS": f"{log}:die_after_fork=0",
        }
        trial = {"LD_PRELOAD": f"{self.build.runtime} {self.build.library}", "TESSERA_TRIAL_NODE": str(self.node)}
        return super().environment() | options | trial | variables


class Sanitized:
    """A card and two containers that have half of it each, and may have more of its time."""

    def __init__(self, folder: Path, built: Build) -> None:
        self.folder = folder
        self.machine: Machine = make_machine(folder / "machine", parse_cards("A100-80G", read_cards()))
        (folder / "node").mkdir()
        (folder / "suppressed").write_text(SUPPRESSED)
        limits = {name: self._limits(name) for name in ("a", "b")}
        self.containers = []
        for name, each in limits.items():
            pages = folder / name
            pages.mkdir()
            create_limits(pages / "limits", each)
            create_usage(pages / "usage")
            create_turns(pages / "turns", folder / "node", name)
            container = Container(self.machine, built.programs, pages, self.machine.uuids, build=built, node=folder / "node")
            self.containers.append(container)
        write_rosters(folder / "node", limits)

    def _limits(self, name: str) -> Limits:
        card = CardLimits(self.machine.uuids[0], 512 * MIB, 50, 90, context_bytes=CONTEXT)
        return Limits(f"pod-{name}", "main", (card,))

    def reports(self) -> str:
        """Return what the sanitizers have said."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("report.*")))

    def check(self) -> None:
        """Fail if they have said anything."""
        reports = self.reports()
        assert not reports, reports[:20_000]

    def end(self) -> None:
        for container in self.containers:
            container.end()

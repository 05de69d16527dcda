"""What the limit of memory costs, and whether it holds: random operations of many processes, some of which are killed.

The torture is the tests' own program (``tests/vgpu/interposer/programs/worker.c``): eight processes of two threads allocate and
free at random, while others come, fork and are killed. First they want more than the slice has: at no look may the books or the
simulator's truth be above the limit (``violations``). Then they want no more than it has, and nothing may be refused
(``false_oom`` counts the processes that were). At the end each process's ledger is compared with what the simulator says.

Joining is measured with 64 processes that stay, one after the other, since two processors would make them wait for each other
otherwise; how long it takes if they all begin at once is told beside it, with the driver's own part as the baseline.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rows import Row
from benchmarks.vgpu.controls import MIB, OURS
from benchmarks.vgpu.machines import HERE, MS, Container, Setting, compile_program, programs, running, say
from benchmarks.vgpu.overhead import compare
from tessera_vgpu.pages import CardLimits, Limits, Usage, change_limits, read_usage
from tessera_vgpu.simulate import VGPU, Machine, make_machine

BENCH = "memory"
SEED = 1
PROCESSES, THREADS, OPERATIONS = 8, 2, 31_250
"""Twice 8 x 2 x 31,250 operations: a million."""
LIMIT_MIB = 512
JOINING, JOIN_ROUNDS = 64, 5
_ALONE = Container("alone", "")


class Site:
    """A machine and one container on it, with *limit_mib* of its card."""

    def __init__(self, folder: Path, limit_mib: int) -> None:
        setting = Setting(dilation=1.0)
        model = setting.model().model_copy(update={"allocation_host_ns": 0, "launch_host_ns": 0, "event_host_ns": 0})
        self.machine: Machine = make_machine(folder / "machine", [model])
        [extra] = OURS.prepare(self.machine, folder, [_ALONE], setting)
        self.pages = Path(extra["TESSERA_TRIAL_PAGES"])
        self.context = model.context_mib * MIB
        self.limit = limit_mib * MIB
        card = CardLimits(self.machine.uuids[0], self.limit, 100, 100, context_bytes=self.context)
        change_limits(self.pages / "limits", Limits("pod-0", "main", (card,)))
        self.environment = self.machine.environment() | extra
        self.worker = compile_program(VGPU / "build" / "benchmarks" / "worker", _worker())

    @contextmanager
    def start(self, *arguments: object) -> Iterator[subprocess.Popen[str]]:
        """Run a program of the container until the end of the block; it has said "ready"."""
        command = [str(self.worker), *map(str, arguments)]
        with running(command, self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            answer(process)
            yield process

    def usage(self) -> Usage:
        """Return what the container's page says."""
        return read_usage(self.pages / "usage", 1)

    def truth(self) -> dict[int, int]:
        """Return what each process has allocated, by the simulator, without its context."""
        found = {process.pid: process.cards[0].used_bytes for process in self.machine.inspect().processes}
        return {pid: max(0, used - self.context) for pid, used in found.items()}


def _worker() -> Path:
    return HERE.parents[1] / "tests" / "vgpu" / "interposer" / "programs" / "worker.c"


def answer(process: subprocess.Popen[str]) -> str:
    """Return the next line that a program prints; empty if it has ended."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


class Watch(threading.Thread):
    """Looks every 10 ms whether more is reserved, or used in truth, than the limit."""

    def __init__(self, site: Site) -> None:
        super().__init__(daemon=True)
        self.site, self.violations, self.looks = site, 0, 0
        self.over = threading.Event()

    def run(self) -> None:
        """Look until it is over."""
        while not self.over.wait(0.01):
            most = max(self.site.usage().reserved_bytes[0], sum(self.site.truth().values()))
            self.violations += most > self.site.limit
            self.looks += 1


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the torture: MiB that the lasting, the killed and the forking processes want, and whether all may be refused."""

    lasting_mib: int
    killed_mib: int
    forking_mib: int
    may_refuse: bool


PARTS = (Part(LIMIT_MIB // 2, LIMIT_MIB // 2, 8, may_refuse=True), Part(56, 32, 8, may_refuse=False))
assert PARTS[1].lasting_mib * PROCESSES + PARTS[1].killed_mib + PARTS[1].forking_mib <= LIMIT_MIB


def torture(site: Site, part: Part) -> tuple[int, int]:
    """Let all processes do their operations.

    Returns:
        How many were refused something although they may not have been; the difference between books and truth in bytes, with
        what the page still has when all have ended.
    """
    chance = random.Random(SEED)
    refuse = int(part.may_refuse)
    with ExitStack() as stack, ThreadPoolExecutor(PROCESSES) as pool:
        lasting = [
            stack.enter_context(site.start("torture", seed, THREADS, OPERATIONS, part.lasting_mib, refuse))
            for seed in range(PROCESSES)
        ]
        for process in lasting:
            say(process, "go")
        answers = [pool.submit(answer, process) for process in lasting]
        refused = 0
        while not all(one.done() for one in answers):
            with site.start("torture", chance.getrandbits(16), THREADS, 0, part.killed_mib, refuse) as endless:
                time.sleep(chance.random() / 5)
                refused += endless.poll() is not None
                endless.kill()
                endless.wait()
            with site.start("forked", part.forking_mib) as parent:
                # It ends at once if it was refused, which the first part allows.
                with suppress(BrokenPipeError):
                    say(parent, "go")
                refused += answer(parent) != "freed" and not part.may_refuse
        refused += sum(one.result() == "" for one in answers)
        usage, truth = site.usage(), site.truth()
        pids = {process.pid for process in lasting}
        ledgers = {process.pid: process.ledgers[0].bytes for process in usage.processes if process.pid in pids}
        difference = sum(abs(ledgers.get(pid, 0) - truth.get(pid, 0)) for pid in pids)
        difference += abs(usage.reserved_bytes[0] - sum(process.ledgers[0].bytes for process in usage.processes))
        for process in lasting:
            process.kill()
            process.wait()
    with site.start("hold", 1) as last:  # who comes next gives back what the dead had
        say(last, "go")
        answer(last)
        left = site.usage().reserved_bytes[0]
    return refused, difference + left


def join(environment: dict[str, str], at_once: bool) -> float:
    """Return the median milliseconds of ``cuInit`` of 64 processes that stay, all at once or one after the other."""
    with ExitStack() as stack:
        command = [str(programs()["costs"]), "join"]
        everyone = [stack.enter_context(running(command, environment, stdout=subprocess.PIPE)) for _place in range(JOINING)]
        for process in everyone:
            answer(process)
        if at_once:
            for process in everyone:
                say(process, "go")
            return statistics.median(float(answer(process)) for process in everyone) / MS
        times = []
        for process in everyone:
            say(process, "go")
            times.append(float(answer(process)))
        return statistics.median(times) / MS


def joining(at_once: bool) -> tuple[float, float]:
    """Return the median of some rounds without the library, and with it."""
    found: tuple[list[float], list[float]] = [], []
    for _round in range(JOIN_ROUNDS):
        with tempfile.TemporaryDirectory(prefix="vgpu-bench-") as name:
            site = Site(Path(name), LIMIT_MIB)
            for times, environment in zip(found, (site.machine.environment(), site.environment), strict=True):
                times.append(join(environment, at_once))
    return statistics.median(found[0]), statistics.median(found[1])


def tortures() -> Sequence[int]:
    """Return violations, looks, false refusals and bytes of difference over both parts."""
    sums = [0, 0, 0, 0]
    for part in PARTS:
        with tempfile.TemporaryDirectory(prefix="vgpu-bench-") as name:
            site = Site(Path(name), LIMIT_MIB)
            watch = Watch(site)
            watch.start()
            refused, difference = torture(site, part)
            watch.over.set()
            watch.join()
            sums = [a + b for a, b in zip(sums, (watch.violations, watch.looks, refused, difference), strict=True)]
    return sums


def rows() -> Iterable[Row]:
    """Measure costs, then torture."""
    bare, added = compare("allocate")
    yield Row(BENCH, "simulated driver", "alloc_ns_median", bare, "ns")
    yield Row(BENCH, "ours", "alloc_added_ns_median", added, "ns", "< 1000")
    without, with_library = joining(at_once=False)
    yield Row(BENCH, "ours", "join64_ms_p50", with_library, "ms", "< 1", without)
    without, with_library = joining(at_once=True)
    yield Row(BENCH, "ours", "join64_at_once_ms_p50", with_library, "ms", baseline=without)
    violations, looks, refused, difference = tortures()
    yield Row(BENCH, "ours", "looks", looks, "looks")
    yield Row(BENCH, "ours", "violations", violations, "looks", "<= 0")
    yield Row(BENCH, "ours", "false_oom", refused, "processes", "<= 0")
    yield Row(BENCH, "ours", "book_difference_bytes", difference, "bytes", "<= 0")

"""How near a container comes to its share of a card's time, and two containers to theirs, by each method.

A case is one container with a cap; its error is the distance between cap and share in points, and what it achieved is
share ÷ cap, so that nobody is exact by giving less. In a split two containers have work all the time; their shares are of the
time that kernels ran, since changes of context belong to neither; what they achieved is of all time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

from benchmarks.rows import Row
from benchmarks.vgpu.controls import EVERYONE, OURS, rivals
from benchmarks.vgpu.machines import FULL, MS, Container, Control, Outcome, Setting, programs
from benchmarks.vgpu.plots import run_and_draw

BENCH = "share"
AT_ONCE, AT_ONCE_LIGHT = 3, 4
"""Of those that keep the processors busy, and of the others."""
_BUSY = 3.0
SETTLING_S = 20.0 if FULL else 2.0
"""Before the window; and ten launches at least."""
_US = 1000
_A100, _SMALL, _LARGE = "A100-80G", "Small-20SM", "RTX-188SM-96G"


@dataclass(frozen=True, slots=True)
class Case:
    """One container with a cap. ``window_s`` is the longer of 10 s and 20 launches at the cap."""

    card: str
    mode: str
    kernel_ns: int
    cap: int
    processes: int = 1
    dilation: float = 1.0
    nodes: int = 1

    @property
    def name(self) -> str:
        span = f"{self.kernel_ns / MS:g} ms"
        many = f"graphs of {self.nodes} x {span}" if self.nodes > 1 else f"{self.mode} {span}"
        return f"{many}, cap {self.cap}, {self.processes} proc, {self.card}"

    @property
    def container(self) -> Container:
        options = {"kernel_ns": self.kernel_ns, "nodes": self.nodes}
        return Container("capped", self.mode, options, self.processes, request=self.cap, limit=self.cap)

    @property
    def setting(self) -> Setting:
        launch_s = self.kernel_ns * self.nodes / 1e9 / (self.cap / 100)
        warm_up_s = max(SETTLING_S, 10 * launch_s)
        return Setting(self.card, self.dilation, warm_up_s, window_s=max(10.0, 20 * launch_s))


CASES = (
    Case(_A100, "async", 20 * _US, 50, dilation=6),
    Case(_A100, "sync", 20 * _US, 20, dilation=6),
    Case(_A100, "graph", 20 * _US, 40, nodes=20, dilation=3),
    Case(_A100, "async", 1 * MS, 30),
    Case(_LARGE, "async", 1 * MS, 50),
    Case(_SMALL, "async", 1 * MS, 70, processes=4, dilation=4),
    Case(_A100, "sync", 1 * MS, 50, processes=4, dilation=3),
    Case(_LARGE, "graph", 1 * MS, 80, processes=8, nodes=10, dilation=10),
    Case(_SMALL, "cooperative", 1 * MS, 25),
    Case(_SMALL, "sync", 50 * MS, 10),
    Case(_A100, "async", 50 * MS, 70, processes=2),
    Case(_LARGE, "cooperative", 50 * MS, 60, processes=8, dilation=10),
    Case(_A100, "async", 500 * MS, 60),
    Case(_LARGE, "sync", 500 * MS, 90, processes=2),
)
CAPS = tuple(Case(_A100, mode, 1 * MS, cap) for mode in ("async", "sync") for cap in range(10, 100, 10))
"""Further ones where all is wanted."""
FEW = (CASES[2], CASES[3], CASES[4], CASES[6], CASES[8])
"""What the other methods are measured with, unless all is wanted."""

SPLITS = ((30, 70), (10, 90))
KERNELS = ((1 * MS, 1 * MS), (200 * _US, 5 * MS))
"""Of the two containers in a split."""


@dataclass(frozen=True, slots=True)
class Job:
    """A run: ``group`` is ``cap`` or ``split_30_70`` and the like."""

    control: Control
    group: str
    name: str
    containers: Sequence[Container]
    setting: Setting


def split_job(control: Control, parts: tuple[int, int], kernels: tuple[int, int], setting: Setting) -> Job:
    """Return a run of two containers with work all the time."""
    containers = [
        Container(f"part {part}", "async", {"kernel_ns": ns}, request=part, limit=part)
        for part, ns in zip(parts, kernels, strict=True)
    ]
    name = f"{parts[0]}/{parts[1]}, kernels of {kernels[0] / MS:g} and {kernels[1] / MS:g} ms"
    return Job(control, f"split_{parts[0]}_{parts[1]}", name, containers, setting)


def jobs() -> list[Job]:
    """Return all runs, the costly ones first."""
    settled = Setting(warm_up_s=SETTLING_S)
    found = [
        Job(control, "cap", case.name, [case.container], case.setting)
        for control in EVERYONE
        for case in (CASES + CAPS if FULL else CASES if control is OURS else FEW)
    ]
    for control, parts, kernels in product(EVERYONE, SPLITS, KERNELS):
        if FULL or control in (OURS, EVERYONE[1]) or kernels == KERNELS[0]:
            found.append(split_job(control, parts, kernels, settled))
    return sorted(found, key=lambda job: -job.setting.dilation * (job.setting.warm_up_s + job.setting.window_s))


def measure(job: Job) -> Outcome:
    """Run one."""
    return run_and_draw(f"{job.control.name}: {job.name}", job.control, job.containers, job.setting)


def rows() -> Iterable[Row]:
    """Run all, some at once: they have machines of their own and mostly sleep."""
    programs()
    rivals()
    every = jobs()
    errors: dict[tuple[str, str], list[float]] = {}
    ratios: dict[tuple[str, str], list[float]] = {}
    few = {case.name for case in FEW}
    with ThreadPoolExecutor(AT_ONCE) as heavy, ThreadPoolExecutor(AT_ONCE_LIGHT) as light:
        found = [(heavy if job.setting.dilation >= _BUSY else light).submit(measure, job) for job in every]
        for job, future in zip(every, found, strict=True):
            outcome = future.result()
            shares = outcome.shares()
            whole = sum(shares) if len(shares) > 1 else 100
            gap = max(abs(100 * share / whole - one.limit) for share, one in zip(shares, job.containers, strict=True))
            ratio = min(share / one.limit for share, one in zip(shares, job.containers, strict=True))
            case = f"{job.control.name}: {job.name}"
            yield Row(BENCH, case, "error_points", gap, "points")
            yield Row(BENCH, case, "achieved_ratio", ratio, "ratio")
            for key in [job.group, *(["few"] if job.group == "cap" and job.name in few else [])]:
                errors.setdefault((job.control.name, key), []).append(gap)
                ratios.setdefault((job.control.name, key), []).append(ratio)
    yield from _summary(errors, ratios)


def _summary(errors: dict[tuple[str, str], list[float]], ratios: dict[tuple[str, str], list[float]]) -> Iterable[Row]:
    nothing = "no_control"
    for control in EVERYONE:
        name, ours = control.name, control is OURS
        mean = {key: sum(errors[key, "few"]) / len(errors[key, "few"]) for key in (name, nothing)}
        caps = errors[name, "cap"]
        yield Row(
            BENCH,
            name,
            "mean_error_points",
            sum(caps) / len(caps),
            "points",
            "<= 3" if ours else None,
            None if ours else mean[nothing],
        )
        yield Row(BENCH, name, "achieved_ratio", min(ratios[name, "cap"]), "ratio", ">= 0.95" if ours else None)
        split = min(ratio for low, high in SPLITS for ratio in ratios[name, f"split_{low}_{high}"])
        yield Row(BENCH, name, "split_achieved_ratio", split, "ratio")
        for low, high in SPLITS:
            key = f"split_{low}_{high}"
            worst = max(errors[name, key])
            yield Row(BENCH, name, f"{key}_error_points", worst, "points", "<= 2" if ours else None, max(errors[nothing, key]))
    same = errors[OURS.name, "few"]
    yield Row(BENCH, "ours, the others' cases", "mean_error_points", sum(same) / len(same), "points")

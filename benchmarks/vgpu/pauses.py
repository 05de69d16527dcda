"""A program that waits for each of its kernels and computes in between, as notebooks do, beside one that has work all the time.

Both requested half of the card. Alone the first could use two thirds of it, so it is due its half: ``achieved_ratio`` is what it
gets of that. The other is to have what the first leaves, so what nobody has is told, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from benchmarks.rows import Row
from benchmarks.vgpu.controls import EVERYONE, rivals
from benchmarks.vgpu.machines import MS, Container, Control, Outcome, Setting, programs
from benchmarks.vgpu.plots import run_and_draw

BENCH = "pauses"
AT_ONCE = 2
SETTING = Setting(dilation=8.0, warm_up_s=2.0, window_s=4.0)
PAUSING = Container("pausing", "sync", {"kernel_ns": MS, "pause_ns": MS // 2}, request=50)
BUSY = Container("busy", "async", {"kernel_ns": MS}, request=50)


def measure(control: Control) -> Outcome:
    """Run one."""
    return run_and_draw(f"pauses {control.name}", control, [PAUSING, BUSY], SETTING)


def rows() -> Iterable[Row]:
    """Run both for each method."""
    programs()
    rivals()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(measure, EVERYONE))
    for control, outcome in zip(EVERYONE, found, strict=True):
        pausing, busy = outcome.shares()
        yield Row(BENCH, control.name, "achieved_ratio", pausing / PAUSING.request, "ratio")
        yield Row(BENCH, control.name, "busy_share_percent", busy, "%")
        yield Row(BENCH, control.name, "device_idle_percent", outcome.idle_percent(), "%")

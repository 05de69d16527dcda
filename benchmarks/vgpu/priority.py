"""What requests of a more important container wait for a less important one that floods the card, and what that one gets.

Requests come by themselves (Poisson, the same each time): five kernels of 1 ms and a wait, one after the other, a quarter of the
card. A latency is from arrival to the end by the card's clock. It is compared with the same requests alone on the card, without
any library. What is left is the time that the important container does not use; changes of context are part of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.rows import Row
from benchmarks.vgpu.controls import EVERYONE, OTHERS, OURS, rivals
from benchmarks.vgpu.machines import MS, Container, Control, Outcome, Setting, programs, run
from benchmarks.vgpu.plots import draw

BENCH = "priority"
AT_ONCE = 5
"""Of the others; the two that are compared with each other run by themselves."""
SETTING = Setting(dilation=4.0, warm_up_s=6.0, window_s=12.0)
HIGH = Container("high", "requests", {"kernel_ns": MS, "kernels": 5, "mean_ns": 20 * MS}, request=70, priority=10)
LOW = Container("low", "async", {"kernel_ns": MS // 2}, request=30)


def p99_ms(outcome: Outcome) -> float:
    """Return the 99th percentile of the important container's latencies, of the requests that arrived in the window."""
    [said] = outcome.said[0]
    first, last = outcome.real_ns[0], outcome.real_ns[-1]
    every = zip(said["began_ns"], said["latency_ns"], strict=False)
    return float(np.percentile([latency for began, latency in every if first <= began <= last], 99)) / MS


def measure(job: tuple[Control, list[Container]]) -> Outcome:
    """Run one."""
    control, containers = job
    outcome = run(control, containers, SETTING)
    draw(f"priority {control.name}: {len(containers)} containers", containers, outcome, SETTING)
    return outcome


def rows() -> Iterable[Row]:
    """Run the requests alone, then with each method."""
    programs()
    rivals()
    [nothing, *_] = OTHERS
    every = [(nothing, [HIGH]), *((control, [HIGH, LOW]) for control in EVERYONE)]
    with ThreadPoolExecutor(2) as pool:
        alone, first = pool.map(measure, every[:2])
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = [first, *pool.map(measure, every[2:])]
    base = p99_ms(alone)
    yield Row(BENCH, "alone", "high_p99_ms", base, "ms")
    for control, outcome in zip(EVERYONE, found, strict=True):
        name, ours = control.name, control is OURS
        high, low = outcome.shares()
        p99 = p99_ms(outcome)
        yield Row(BENCH, name, "high_p99_ms", p99, "ms", baseline=base)
        yield Row(BENCH, name, "high_p99_increase_percent", 100 * (p99 / base - 1), "%", "<= 10" if ours else None)
        yield Row(BENCH, name, "low_share_of_rest_percent", 100 * low / (100 - high), "%", ">= 80" if ours else None)

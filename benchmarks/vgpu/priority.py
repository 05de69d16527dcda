"""What requests of a more important container wait for a less important one that floods the card, and what that one gets.

Requests come by themselves (Poisson, the same each time): five kernels of 1 ms and a wait, one after the other, a quarter of the
card. A latency is from arrival to the end by the card's clock. It is compared with the same requests alone on the card, without
any library; both run twice, and the lower percentile counts, since what else the machine does can only add to it. What is left is
the time that the important container does not use; changes of context are part of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from benchmarks.rows import Row
from benchmarks.vgpu.controls import EVERYONE, OTHERS, OURS, rivals
from benchmarks.vgpu.machines import MS, Container, Control, Outcome, Setting, programs
from benchmarks.vgpu.plots import run_and_draw

BENCH = "priority"
AT_ONCE = 5
"""Of the others; the two that are compared with each other run by themselves."""
SETTING = Setting(dilation=4.0, window_s=12.0)
HIGH = Container("high", "requests", {"kernel_ns": MS, "kernels": 5, "mean_ns": 20 * MS}, request=70, priority=10)
LOW = Container("low", "async", {"kernel_ns": MS // 2}, request=30)


def p99_ms(outcome: Outcome) -> float:
    """Return the 99th percentile of the important container's latencies, of the requests that arrived in the window."""
    [said] = outcome.said[0]
    first, last = outcome.real_ns[0], outcome.real_ns[-1]
    every = zip(said["began_ns"], said["latency_ns"], strict=False)
    return float(np.percentile([latency for began, latency in every if first <= began <= last], 99)) / MS


def measure(job: tuple[Control, list[Container], float]) -> Outcome:
    """Run one, with so many seconds before the window."""
    control, containers, warm_up_s = job
    setting = replace(SETTING, warm_up_s=warm_up_s)
    return run_and_draw(f"priority {control.name}: {len(containers)} containers", control, containers, setting)


def rows() -> Iterable[Row]:
    """Run the requests alone, then with each method."""
    programs()
    rivals()
    [nothing, *_] = OTHERS
    pair = [(nothing, [HIGH], 2.0), (OURS, [HIGH, LOW], 2.0)]
    with ThreadPoolExecutor(2) as pool:
        alone, ours, alone_again, ours_again = pool.map(measure, pair * 2)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        # Some of the others look at priorities every 5 s only.
        others = list(pool.map(measure, [(control, [HIGH, LOW], 6.0) for control in OTHERS]))
    base = min(p99_ms(alone), p99_ms(alone_again))
    yield Row(BENCH, "alone", "high_p99_ms", base, "ms")
    for control, outcomes in zip(EVERYONE, [[ours, ours_again], *([other] for other in others)], strict=True):
        name, is_ours = control.name, control is OURS
        high, low = (sum(shares) / len(outcomes) for shares in zip(*(outcome.shares() for outcome in outcomes), strict=True))
        p99 = min(p99_ms(outcome) for outcome in outcomes)
        yield Row(BENCH, name, "high_p99_ms", p99, "ms", baseline=base)
        yield Row(BENCH, name, "high_p99_increase_percent", 100 * (p99 / base - 1), "%", "<= 10" if is_ours else None)
        yield Row(BENCH, name, "low_share_of_rest_percent", 100 * low / (100 - high), "%", ">= 80" if is_ours else None)

"""What is measured on a card. Shares are rates of finished work, against the same program alone on the card without a slice."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from benchmarks.rows import Row
from benchmarks.vgpu.real_card.tenants import MIB, Process, Tenants

BENCH: Final = "real_card"
KINDS: Final = ("matmul", "stream", "graph")
CAPS: Final = (30, 60)
MEAN_NS: Final = 20_000_000
FEWEST: Final = 20
_PATIENCE_S: Final = 60
_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Times:
    """How long is looked, in seconds, and how often: ``rounds``. The short ones only show that everything runs."""

    settling_s: float = 2.0
    window_s: float = 4.0
    requests_s: float = 8.0
    rounds: int = 5


SHORT: Final = Times(0.3, 0.5, 0.5, 1)


def rates(processes: Sequence[Process], window_s: float) -> list[float]:
    """Return launches per second that ended on the card, of each of the loads, in a window from now, longer if few end.

    Raises:
        RuntimeError: next to none ends.
    """

    def look() -> list[tuple[int, int]]:
        answers = [process.ask().split() for process in processes]
        return [(int(done), int(at)) for done, at in answers]

    before = look()
    time.sleep(window_s)
    after = look()
    patience = time.monotonic() + _PATIENCE_S
    while any(done - first < FEWEST for (done, _at), (first, _began) in zip(after, before, strict=True)):
        if time.monotonic() > patience:
            raise RuntimeError(f"in {_PATIENCE_S} s a program did not end {FEWEST} launches")
        time.sleep(0.1)
        after = look()
    return [(done - first) * _NS / (at - began) for (done, at), (first, began) in zip(after, before, strict=True)]


def together(tenants: Tenants, loads: Sequence[tuple[str | None, str]], times: Times) -> list[float]:
    """Run loads, container and kind of each, and return their rates once they have settled."""
    with ExitStack() as stack:
        processes = []
        for name, kind in loads:
            process = tenants.start(name, "load", kind)
            stack.callback(process.end)
            processes.append(process)
        for process in processes:
            process.say("go")
        time.sleep(times.settling_s)
        return rates(processes, times.window_s)


def guarantees(tenants: Tenants, program: str) -> Iterable[Row]:
    """Run each part of the suite of what the driver guarantees, without a slice and with one of the whole card."""
    parts = subprocess.run([program], env=tenants.environment(None), check=True, capture_output=True, text=True).stdout.split()
    tenants.give("whole", 100, 100)
    for case, name in (("without the library", None), ("with the library", "whole")):
        failed = []
        for part in parts:
            command = [program, part]
            done = subprocess.run(command, check=False, env=tenants.environment(name), capture_output=True, text=True, timeout=60)
            if done.returncode != 0:
                failed.append(f"{part} ({done.stderr.strip()[-200:]})")
        told = f"{case}; failed: {', '.join(failed)}" if failed else case
        yield Row(BENCH, told, "guarantees_kept", len(parts) - len(failed), "parts", f">= {len(parts)}")
    tenants.take_back()


def overhead(tenants: Tenants, times: Times) -> Iterable[Row]:
    """Compare launches and allocations with the library and without, in turns."""
    tenants.give("limited", 50, 50)
    for what, metric, target in (("launch", "launch", "<= 100"), ("allocate", "alloc", "< 1000")):
        pairs = [(float(tenants.output(None, what)), float(tenants.output("limited", what))) for _ in range(times.rounds)]
        yield Row(BENCH, "without the library", f"{metric}_ns_median", statistics.median(bare for bare, _with in pairs), "ns")
        added = statistics.median(with_library - bare for bare, with_library in pairs)
        yield Row(BENCH, "ours", f"{metric}_added_ns_median", added, "ns", target)
    tenants.take_back()


def context(tenants: Tenants, times: Times) -> Iterable[Row]:
    """Measure what a process's context with a small module takes of the card's memory."""
    watcher = tenants.start(None, "hold")
    try:
        seen = []
        for _round in range(times.rounds):
            before = int(watcher.ask())
            other = tenants.start(None, "hold")
            seen.append(before - int(watcher.ask()))
            other.end()
    finally:
        watcher.end()
    yield Row(BENCH, "without the library", "context_mib", statistics.median(seen) / MIB, "MiB")


def shares(tenants: Tenants, times: Times) -> Iterable[Row]:
    """Measure caps, with each kind of work, and two weights with work all the time."""
    alone = {}
    for kind in KINDS:
        [alone[kind]] = together(tenants, [(None, kind)], times)
        yield Row(BENCH, f"{kind}, alone", "launches_per_s", alone[kind], "1/s")
        for cap in (100, *CAPS):
            tenants.give("capped", cap, cap)
            [rate] = together(tenants, [("capped", kind)], times)
            tenants.take_back()
            share = 100 * rate / alone[kind]
            yield Row(BENCH, f"{kind}, cap {cap}", "share_percent", share, "%")
            if cap in CAPS:
                yield Row(BENCH, f"{kind}, cap {cap}", "share_error_points", abs(share - cap), "points", "<= 3")
    tenants.give("light", 10, 100, weight=1)
    tenants.give("heavy", 10, 100, weight=3)
    found = together(tenants, [("light", "matmul"), ("heavy", "matmul")], times)
    tenants.take_back()
    light, heavy = (100 * rate / alone["matmul"] for rate in found)
    yield Row(BENCH, "weights 1 and 3, requests 10", "light_share_percent", light, "%", baseline=30)
    yield Row(BENCH, "weights 1 and 3, requests 10", "heavy_share_percent", heavy, "%", baseline=70)
    yield Row(
        BENCH, "weights 1 and 3, requests 10", "split_error_points", abs(100 * light / (light + heavy) - 30), "points", "<= 3"
    )


def _requests(tenants: Tenants, name: str | None, seconds: float) -> tuple[float, float]:
    process = tenants.start(name, "requests", MEAN_NS)
    try:
        process.say("go")
        time.sleep(seconds)
        _count, median, p99 = map(float, process.ask().split())
    finally:
        process.end()
    return median, p99


def priority(tenants: Tenants, times: Times) -> Iterable[Row]:
    """Measure latencies of requests of a more important container alone, beside a flood, and beside it without the library."""
    tenants.give("high", 50, 100, priority=10)
    tenants.give("low", 50, 100)
    median, p99 = _requests(tenants, "high", times.requests_s)
    yield Row(BENCH, "alone", "high_median_us", median, "us")
    yield Row(BENCH, "alone", "high_p99_us", p99, "us")
    for case, low, high in (("no_control", None, None), ("ours", "low", "high")):
        flood = tenants.start(low, "load", "matmul")
        try:
            flood.say("go")
            time.sleep(1)
            beside, beside_p99 = _requests(tenants, high, times.requests_s)
        finally:
            flood.end()
        target = "<= 10" if low else None
        yield Row(BENCH, case, "high_median_us", beside, "us", baseline=median)
        yield Row(BENCH, case, "high_p99_increase_percent", 100 * (beside_p99 / p99 - 1), "%", target)
    tenants.take_back()


def sharing(tenants: Tenants) -> Iterable[Row]:
    """Let two processes of a container share memory over CUDA IPC."""
    tenants.give("pair", 50, 50, memory_mib=1024)
    owner = tenants.start("pair", "share")
    try:
        other = tenants.start("pair", "open", owner.ask())
        same = other.ask()
        other.end()
    finally:
        owner.end()
    tenants.take_back()
    yield Row(BENCH, "ours", "ipc_found_the_same", float(same == "same"), "1 or 0", ">= 1")


def resizing(tenants: Tenants, times: Times) -> Iterable[Row]:
    """Change both limits while programs run: memory at once, compute in rates before and after."""
    tenants.give("changed", 30, 30, memory_mib=512)
    grower = tenants.start("changed", "grow")
    first = int(grower.ask())
    tenants.give("changed", 30, 30, memory_mib=1024)
    second = int(grower.ask())
    grower.end()
    yield Row(BENCH, "limit of 512 MiB, then 1024", "pieces_of_64_mib_at_first", first, "pieces", "<= 8")
    yield Row(BENCH, "limit of 512 MiB, then 1024", "pieces_of_64_mib_later", second, "pieces", f">= {2 * first}")
    tenants.give("changed", 30, 30)
    load = tenants.start("changed", "load", "matmul")
    try:
        load.say("go")
        time.sleep(times.settling_s)
        [before] = rates([load], times.window_s)
        tenants.give("changed", 60, 60)
        time.sleep(0.5)
        [after] = rates([load], times.window_s)
    finally:
        load.end()
    tenants.take_back()
    yield Row(BENCH, "cap 30, then 60", "rate_after_to_before", after / before, "ratio", ">= 1.8")

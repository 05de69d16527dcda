"""Measure all that a real card can tell in one run of less than 8 minutes.

``python3 -m benchmarks.vgpu.real_card --json rows.jsonl`` runs programs on the card and changes nothing of it: no mode, no clock.
It needs Python 3.11 and ``vgpu/build``, made by ``make simulator interposer`` and one run with ``--build`` where there is gcc; no
package of Python besides. Without a card it is checked with
``tessera vgpu simulate --cards A100-80G -- python -m benchmarks.vgpu.real_card --short``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[3]), str(Path(__file__).parents[3] / "vgpu")]

from benchmarks.rows import Row  # noqa: E402 - as a script on a bare machine
from benchmarks.vgpu.real_card import measuring  # noqa: E402
from benchmarks.vgpu.real_card.tenants import LIBRARY, Tenants, Unusable, programs  # noqa: E402

LONGEST_S = 7 * 60


def say(line: str) -> None:
    sys.stderr.write(line + "\n")


def measure(tenants: Tenants, suite: str, times: measuring.Times) -> tuple[list[Row], list[str]]:
    """Run all parts and return their rows and what went wrong; one that fails does not lose the others' figures."""
    parts: dict[str, Callable[[], Iterable[Row]]] = {
        "guarantees": lambda: measuring.guarantees(tenants, suite),
        "overhead": lambda: measuring.overhead(tenants, times),
        "context": lambda: measuring.context(tenants, times),
        "sharing": lambda: measuring.sharing(tenants),
        "resizing": lambda: measuring.resizing(tenants, times),
        "priority": lambda: measuring.priority(tenants, times),
        "shares": lambda: measuring.shares(tenants, times),
    }
    found: list[Row] = []
    failures: list[str] = []
    began = time.monotonic()
    for name, part in parts.items():
        if time.monotonic() - began > LONGEST_S:
            failures.append(f"{name} was not begun: the time was over")
            continue
        try:
            for row in part():
                found.append(row)
                say(f"{row.case}: {row.metric} {row.value:.4g} {row.unit} {'' if row.ok is None else row.ok}")
        except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
            traceback.print_exc()
            failures.append(f"{name} failed: {error}")
            tenants.take_back()
    say(f"{time.monotonic() - began:.0f} s")
    return found, failures


def main() -> int:
    parser = argparse.ArgumentParser(prog="real_card")
    parser.add_argument("--json", type=Path, help="write one JSON object a line")
    parser.add_argument("--csv", type=Path, help="write a table for a spreadsheet")
    parser.add_argument(
        "--short", action="store_true", help="look so shortly that the figures say little, to see that everything runs"
    )
    parser.add_argument("--build", action="store_true", help="only compile the programs, for another machine")
    options = parser.parse_args()
    try:
        made = programs()
    except Unusable as missing:
        say(str(missing))
        return 2
    if not LIBRARY.exists():
        say(f"{LIBRARY} is missing: make interposer")
        return 2
    if options.build:
        return 0
    known = subprocess.run([str(made["worker"]), "about"], check=True, capture_output=True, text=True).stdout.strip()
    uuid, memory, version, name = known.split(maxsplit=3)
    simulated = " (simulated)" if "GPU_SIMULATOR_STATE" in os.environ else ""
    say(f"{name}{simulated}, driver {version}, {os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="vgpu-real-card-") as folder:
        (Path(folder) / "node").mkdir()
        tenants = Tenants(Path(folder), uuid, int(memory), made["worker"])
        found, failures = measure(tenants, str(made["guarantees"]), measuring.SHORT if options.short else measuring.Times())
    written = [row.as_json() | {"card": name + simulated} for row in found]
    if options.json is not None:
        options.json.write_text("".join(json.dumps(row) + "\n" for row in written), "utf-8")
    if options.csv is not None and written:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(written[0]))
            writer.writeheader()
            writer.writerows(written)
    for row in found:
        if row.ok is False:
            say(f"miss: {row.metric} ({row.case}) is {row.value:.4g} {row.unit}, target {row.target}")
    for failure in failures:
        say(failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

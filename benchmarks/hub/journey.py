"""The main job as a person lives it: ``tessera up`` on a fresh data directory, a notebook as a job, a log followed live.

Submit to first cell: from the call of the SDK (snapshot, upload and submit) to the moment at which the first cell runs, as the
cell itself says; scheduler, Proxy, runner and the start of the kernel lie between. Log latency: a script prints the time, a
client follows the task's event stream and notes when each line arrives. Both processes are on one machine and one clock.
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.browser.running import RunningHub

from benchmarks.rows import Row
from tessera_hub.client import TesseraClient

SUBMITS, LINES = 12, 150
SAID = re.compile(r"at (\d+\.\d+)")

NOTEBOOK: dict[str, Any] = {
    "cells": [
        {
            "cell_type": "code",
            "id": "first",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": "import time\nprint('at', time.time(), flush=True)",
        }
    ],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}
SCRIPT = f"""import time
for _ in range({LINES}):
    print("at", time.time(), flush=True)
    time.sleep(0.1)
"""


def percentile(values: list[float], percent: int) -> float:
    """Return the percentile of *values* (linear between neighbours)."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


FIRST = "first cell"


def first_cell(client: TesseraClient, notebook: Path) -> dict[str, float]:
    """Submit a notebook and return the seconds until each phase and until its first cell ran."""
    began = time.time()
    task = client.submit(notebook)
    end = task.wait(120)
    said = SAID.search("".join(task.logs()))
    if said is None:
        raise RuntimeError(f"the notebook did not run: {end}")
    reached = {event.phase_to.value: event.at.timestamp() - began for event in task.events() if event.phase_to is not None}
    return reached | {FIRST: float(said.group(1)) - began}


def log_latencies(client: TesseraClient, script: Path) -> list[float]:
    """Submit a script that prints the time and return how long each line took to arrive."""
    task = client.submit(script)
    seconds: list[float] = []
    text = ""
    for update in task.follow():
        if update.kind != "log":
            continue
        arrived = time.time()
        *lines, text = (text + update.data["text"]).split("\n")
        seconds += [arrived - float(said.group(1)) for line in lines if (said := SAID.search(line))]
    if len(seconds) != LINES:
        raise RuntimeError(f"{len(seconds)} of {LINES} lines arrived")
    return seconds


def rows() -> Iterable[Row]:
    """Start Tessera, measure, stop it."""
    hub = RunningHub()
    try:
        hub.start()
        with tempfile.TemporaryDirectory(prefix="tessera-bench-") as directory, hub.client() as client:
            notebook, script = Path(directory) / "one.ipynb", Path(directory) / "clock.py"
            notebook.write_text(json.dumps(NOTEBOOK))
            script.write_text(SCRIPT)
            first_cell(client, notebook)  # Python's caches of a new installation are not the product's time
            reached = [first_cell(client, notebook) for _ in range(SUBMITS)]
            latencies = log_latencies(client, script)
        ready = hub.ready_seconds
    finally:
        hub.remove()
    starts = [steps[FIRST] for steps in reached]
    phases = {  # a phase that passes faster than it is reported is missing now and then
        name: statistics.median(steps[name] for steps in reached if name in steps)
        for name in ("QUEUED", "RESERVED", "DISPATCHED", "STARTING", "RUNNING", FIRST)
        if any(name in steps for steps in reached)
    }
    return [
        Row("journey", "all", "submit_to_first_cell_p95_s", percentile(starts, 95), "s", "<= 3"),
        Row("journey", "all", "log_latency_p95_s", percentile(latencies, 95), "s", "<= 1"),
        Row("journey", "notebook", "submit_to_first_cell_p50_s", percentile(starts, 50), "s"),
        *(Row("journey", f"submit to {name}", "median_s", seconds, "s") for name, seconds in phases.items()),
        Row("journey", "log", "latency_p50_s", percentile(latencies, 50), "s"),
        Row("journey", "log", "latency_max_s", max(latencies), "s"),
        Row("journey", "up", "ready_s", ready, "s"),
    ]

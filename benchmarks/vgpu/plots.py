"""Shares over time, as a table and a picture, where ``PLOTS`` names a folder; nothing of it belongs into the repository."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.vgpu.machines import MS, Container, Control, Outcome, Setting, run

_STEP_NS = 100 * MS


def run_and_draw(title: str, control: Control, containers: Sequence[Container], setting: Setting) -> Outcome:
    """Run containers under a method, and draw what came of it."""
    outcome = run(control, containers, setting)
    draw(title, containers, outcome, setting)
    return outcome


def draw(title: str, containers: Sequence[Container], outcome: Outcome, setting: Setting) -> None:
    """Write a CSV and an HTML file of each container's percent of the card in steps of 100 ms, or nothing without ``PLOTS``."""
    wanted = os.environ.get("PLOTS")
    if not wanted:
        return
    # plotly takes a second to import, which only who wants pictures should wait for.
    from plotly import graph_objects

    folder = Path(wanted)
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-")
    step = max(_STEP_NS, setting.sample_ns)
    ticks = np.arange(outcome.now_ns[0], outcome.now_ns[-1], step)
    seconds = (ticks[1:] - ticks[0]) / 1e9
    figure = graph_objects.Figure()
    columns = [seconds]
    for place, container in enumerate(containers):
        used = np.interp(ticks, outcome.now_ns, outcome.each_ns[:, place])
        columns.append(100 * np.diff(used) / step)
        figure.add_scatter(x=seconds, y=columns[-1], name=f"{container.name} ({container.request}-{container.limit} %)")
    figure.update_layout(title=title, xaxis_title="simulated seconds", yaxis_title="percent of the card", yaxis_range=[0, 100])
    figure.write_html(folder / f"{name}.html", include_plotlyjs="cdn")
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["seconds", *(container.name for container in containers)])
        writer.writerows(zip(*columns, strict=True))

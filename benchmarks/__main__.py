"""``python -m benchmarks --only hub --json file``: run benchmarks, print a table, write rows, name each miss.

A benchmark is a module of this package with ``def rows() -> Iterable[Row]``; add its name to :data:`GROUPS`.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.rows import Row

VGPU = ("share", "idle", "pauses", "priority", "overhead", "memory", "placement")
GROUPS: dict[str, tuple[str, ...]] = {
    "hub": ("benchmarks.hub.api", "benchmarks.hub.scheduling", "benchmarks.hub.journey", "benchmarks.hub.lab"),
    "vgpu": tuple(f"benchmarks.vgpu.{name}" for name in VGPU),
    "cluster": ("benchmarks.cluster.inventory", "benchmarks.cluster.dispatch", "benchmarks.cluster.spawn"),
}
"""Group → modules. ``--only`` takes a group or the last part of a module's name."""


def chosen(only: str | None) -> list[str]:
    """Return the modules to run."""
    every = [(group, module) for group, modules in GROUPS.items() for module in modules]
    found = [m for g, m in every if only in (None, "", g, m.rpartition(".")[2])]
    if not found:
        names = ", ".join(module.rpartition(".")[2] for _group, module in every)
        raise click.BadParameter(f"no benchmark {only!r}; groups: {', '.join(GROUPS)}; benchmarks: {names}", param_hint="--only")
    return found


def number(value: float) -> str:
    """Return four digits of *value*."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def measure(modules: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Run *modules* and return their rows and what went wrong; one that fails does not lose the others' figures."""
    found: list[Row] = []
    failures: list[str] = []
    for name in modules:
        click.echo(f"{name} …", err=True)
        try:
            found += importlib.import_module(name).rows()
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            failures.append(f"{name} failed: {error}")
    return found, failures


@click.command()
@click.option("--only", help="a group, or one benchmark")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="write one JSON object a line")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="write a table for a spreadsheet")
def main(only: str | None, json_file: Path | None, csv_file: Path | None) -> None:
    """Run benchmarks; ends with 1 if a target is missed."""
    found, failures = measure(chosen(only))
    table = Table("bench", "case", "metric", "value", "unit", "target", "ok", "baseline")
    for row in found:
        ok = {None: "", True: "yes", False: "NO"}[row.ok]
        base = "" if row.baseline is None else number(row.baseline)
        table.add_row(row.bench, row.case, row.metric, number(row.value), row.unit, row.target or "", ok, base)
    Console(width=max(Console().width, 110)).print(table)
    click.echo(f"{os.cpu_count()} processors; load average at the end {os.getloadavg()[1]:.1f} (5 min)")
    written = [row.as_json() for row in found]
    if json_file is not None:
        json_file.write_text("".join(json.dumps(row) + "\n" for row in written), "utf-8")
    if csv_file is not None:
        with csv_file.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*Row.__dataclass_fields__, "ok"])
            writer.writeheader()
            writer.writerows(written)
    misses = [row for row in found if row.ok is False]
    for row in misses:
        click.echo(f"miss: {row.bench}.{row.metric} ({row.case}) is {number(row.value)} {row.unit}, target {row.target}")
    for failure in failures:
        click.echo(failure)
    sys.exit(1 if misses or failures else 0)


if __name__ == "__main__":
    main()

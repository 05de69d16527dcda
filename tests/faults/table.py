"""The table of faults: fault × driver × outcome, each row from a test that made the fault on the real engine.

A test adds rows with :func:`note`. At the end of a test run, ``make test ONLY=faults`` for all of them, the table is printed, and
for each driver how many of its fault tests passed and failed; one that failed before it had anything to tell is counted, too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import astuple, dataclass

import pytest

MARK = "fault"
HEADINGS = ("driver", "fault", "tasks", "outcome", "starts", "twice", "billed twice", "test")
DRIVERS = {
    "tests/faults/test_faults.py": "local",
    "tests/faults/test_clocks.py": "local",
    "tests/faults/test_cloud.py": "aws_batch",
    "tests/faults/test_kubernetes.py": "kubernetes",
    "tests/slurm/test_faults.py": "slurm",
    "tests/slurm/test_ssh_faults.py": "slurm",
}
"""File of fault tests → driver."""


@dataclass(frozen=True, slots=True)
class Row:
    """What came of a fault.

    Attributes:
        outcome: how many tasks ended how.
        starts: how often user code began, in all.
        twice: how many of these were too many.
        billed_twice: entries of the meter too many; None: no meter was there.
    """

    driver: str
    fault: str
    tasks: int
    outcome: str
    starts: int
    twice: int
    billed_twice: int | None


def note(request: pytest.FixtureRequest, row: Row) -> None:
    """Keep a row of this test."""
    request.node.user_properties.append((MARK, astuple(row)))


def words_of(ends: Counter[str]) -> str:
    """Return how many tasks ended how."""
    return ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))


def show(reporter: pytest.TerminalReporter) -> None:
    """Print table and counts."""
    reports = [
        (outcome, report)
        for outcome in ("passed", "failed", "error")
        for report in reporter.stats.get(outcome, [])
        if driver_of(report) and (report.when == "call" or outcome != "passed")
    ]
    rows = [
        (*("-" if cell is None else str(cell) for cell in value), outcome)
        for outcome, report in reports
        for name, value in report.user_properties
        if name == MARK
    ]
    if not reports:
        return
    reporter.section("faults: fault, driver, outcome")
    table = [HEADINGS, *sorted(rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADINGS))]
    for row in table:
        reporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for driver in sorted({driver_of(report) for _outcome, report in reports}):
        counts = Counter(outcome for outcome, report in reports if driver_of(report) == driver)
        failed, made = counts["failed"] + counts["error"], sum(row[0] == driver for row in rows)
        line = f"{driver}: {made} faults made; tests: {counts['passed']} passed, {failed} failed"
        reporter.write_line(line, red=bool(failed))


def driver_of(report: pytest.TestReport) -> str:
    """Return whose faults a test makes, empty for another test."""
    return DRIVERS.get(report.nodeid.partition("::")[0], "")

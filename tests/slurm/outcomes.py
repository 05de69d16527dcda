"""What came of each fault that a test made, told at the end of the test run as a table."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tessera_hub.proxy.drivers.base import NativeRun

MARK = "slurm fault"
Tell = Callable[[NativeRun, int, int], None]
"""Takes the run's end, how often user code began, and how many jobs it had."""


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """Keep the outcome of this test's fault."""

    def keep(run: NativeRun, began: int, jobs: int) -> None:
        words = run.phase.value if run.reason is None else f"{run.phase.value} ({run.reason.code})"
        request.node.user_properties.append((MARK, (request.node.name, words, str(began), str(jobs))))

    return keep


def show(reporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    rows = [
        (*value, outcome)
        for outcome in ("passed", "failed")
        for report in reporter.stats.get(outcome, [])
        if report.when == "call"
        for name, value in report.user_properties
        if name == MARK
    ]
    if rows:
        reporter.section("Slurm: fault and outcome")
    for row in [("fault", "end of the run", "began", "jobs", "test")] * bool(rows) + rows:
        reporter.write_line(f"{row[0]:<78} {row[1]:<28} {row[2]:>5} {row[3]:>5}  {row[4]}")

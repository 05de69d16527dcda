"""What came of each fault that a test made, for the table of faults."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tessera_hub.proxy.drivers.base import NativeRun
from tests.faults.table import Row, note

Tell = Callable[[NativeRun, int, int], None]
"""Takes the run's end, how often user code began, and how many jobs it had."""
HOW = {
    "SIGKILL": "slurmctld killed",
    "SIGTERM": "slurmctld stopped",
    "cut": "SSH cut",
    "half open": "SSH half-open",
}
"""Parameter of a test → what it does."""


def fault_of(test: str) -> str:
    """Return what a test breaks, and when, in words."""
    name, _bracket, parameter = test.removeprefix("test_").replace("_", " ").rstrip("]").partition("[")
    when, _hyphen, how = parameter.rpartition("-")
    return ", ".join(filter(None, (HOW.get(how, how), name, when)))


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """Keep the outcome of this test's fault."""

    def keep(run: NativeRun, began: int, jobs: int) -> None:
        words = run.phase.value if run.reason is None else f"{run.phase.value} ({run.reason.code})"
        note(request, Row("slurm", fault_of(request.node.name), 1, f"1 {words}; jobs: {jobs}", began, max(began - 1, 0), None))

    return keep

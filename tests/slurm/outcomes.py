"""What came of each fault that a test made, for the table of faults."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tessera_hub.proxy.drivers.base import NativeRun
from tests.faults.table import Row, note

Tell = Callable[[NativeRun, int, int], None]
"""Takes the run's end, how often user code began, and how many jobs it had."""


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """Keep the outcome of this test's fault."""

    def keep(run: NativeRun, began: int, jobs: int) -> None:
        words = run.phase.value if run.reason is None else f"{run.phase.value} ({run.reason.code})"
        fault = request.node.name.removeprefix("test_").replace("_", " ")
        note(request, Row("slurm", f"{fault}; jobs: {jobs}", 1, f"1 {words}", began, max(began - 1, 0), None))

    return keep

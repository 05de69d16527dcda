"""Fixtures that any test may use. Those of one component are in its own folder's conftest.

postgres_server    session   a real PostgreSQL in a temporary directory, for tests that stop and restart it
postgres_url       session   URL of one empty database in it
postgres_database  function  URL of a fresh empty database, dropped after the test
centre             session   a real service and a real local Proxy: tasks really run
slurm              session   a real Slurm on loopback
cluster            session   a real Kubernetes on this machine
aws_account        session   moto's server with a queue whose jobs really run
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.aws.fixture import aws_account
from tests.centre import centre
from tests.cluster.fixture import cluster
from tests.faults.table import show
from tests.postgres import postgres_database, postgres_server, postgres_url
from tests.slurm.centre import slurm

__all__ = ["aws_account", "centre", "cluster", "postgres_database", "postgres_server", "postgres_url", "slurm"]

# A slow machine is no failure; a failing example is printed so that it can be tried again.
settings.register_profile("tessera", deadline=None, print_blob=True)
settings.load_profile("tessera")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Stop at once where a chosen test needs root and we are not; ``-m "not root"`` has taken them out by now."""
    if os.geteuid() == 0 or config.option.collectonly:
        return
    if needing := sorted(
        {item.path.relative_to(config.rootpath).as_posix() for item in items if item.get_closest_marker("root")}
    ):
        pytest.exit(
            "These tests need root, for Unix users, small disks, containers: " + ", ".join(needing) + ".\n"
            "Run them as root, or all others with: make test ONLY=unprivileged",
            returncode=1,
        )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of faults, and what failed at first of tests that were run again (``.ci/run``): none is lost from sight."""
    show(terminalreporter)
    reports = terminalreporter.stats.get("rerun", [])
    if reports:
        terminalreporter.section("failed at first, then run again")
    for report in reports:
        terminalreporter.write_line(f"{report.nodeid} ({report.when})", bold=True)
        terminalreporter.write_line(report.longreprtext)

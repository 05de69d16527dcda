"""Processes of a run that outlived what should have ended them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from uuid import UUID

from tessera_hub.proxy import shim


def kill_leftovers(run_id: UUID | str) -> int:
    """Kill the processes of a run whose shim is gone; return how many.

    They are known by the run's control group, which user code cannot leave, and where there is none by the run's id in their
    environment, which it can.
    """
    killed: set[int] = set()
    for _attempt in range(100):  # until a look finds nothing new: a process may fork while the list is read
        found = processes_of(run_id)
        if not found:
            break
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        killed |= found
        time.sleep(0.01)
    for group in shim.control_groups(str(run_id)):
        with contextlib.suppress(OSError):
            group.rmdir()
    return len(killed)


def processes_of(run_id: UUID | str) -> set[int]:
    """Return the pids of the living processes of a run, less our own."""
    return (_in_group(run_id) | _by_environment(run_id)) - {os.getpid()}


def _in_group(run_id: UUID | str) -> set[int]:
    found: set[int] = set()
    for group in shim.control_groups(str(run_id)):
        with contextlib.suppress(OSError):
            found |= {int(line) for line in (group / "cgroup.procs").read_text().split()}
    return {pid for pid in found if _runs(pid)}


def _by_environment(run_id: UUID | str) -> set[int]:
    mark = f"TESSERA_RUN_ID={run_id}".encode()
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.add(int(entry.name))
    return {pid for pid in found if _runs(pid)}


def _runs(pid: int) -> bool:
    state = shim.stat_of(pid)
    return state is not None and state[0] not in "ZX"

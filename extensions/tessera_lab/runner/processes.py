"""The processes of a run, read from ``/proc``: the whole tree below the runner, daemons included.

The runner makes itself the reaper of orphans, so a process that user code sends into the background stays below it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)
_PROC = Path("/proc")


def become_reaper() -> None:
    """Adopt orphaned descendants, so that none escapes accounting and the final kill (``prctl(2)``)."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """For use between fork and exec: end when the runner is killed, so that no user code outlives it unseen (``prctl(2)``)."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


@dataclass(frozen=True)
class ProcessStat:
    """One line of ``/proc/<pid>/stat``: parent, state letter, start time in clock ticks since boot."""

    parent: int
    state: str
    start_ticks: int


def process_stat(pid: int) -> ProcessStat | None:
    """The state of ``pid``, or ``None`` when it is gone (``proc_pid_stat(5)``)."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The command name may hold spaces and brackets: the fields start after the last one.
    fields = text.rpartition(")")[2].split()
    return ProcessStat(parent=int(fields[1]), state=fields[0], start_ticks=int(fields[19]))


def start_ticks(pid: int) -> int:
    """Start time of ``pid`` in clock ticks since boot, which with the pid names a process for good; 0 when it is gone."""
    found = process_stat(pid)
    return 0 if found is None else found.start_ticks


def descendants(root: int) -> dict[int, ProcessStat]:
    """Every process below ``root``, without it; zombies included."""
    stats: dict[int, ProcessStat] = {}
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        name = entry.name
        if name.isdigit() and (found := process_stat(int(name))) is not None:
            stats[int(name)] = found
            children.setdefault(found.parent, []).append(int(name))
    below: dict[int, ProcessStat] = {}
    waiting = [root]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in below:
                below[child] = stats[child]
                waiting.append(child)
    return below


def kill_descendants(root: int, seconds: float = 5.0) -> bool:
    """Kill everything below ``root`` and wait until it is gone; whether it is.

    Repeats, since a process may fork while the list is read.
    """
    deadline = time.monotonic() + seconds
    while True:
        living = [pid for pid, found in descendants(root).items() if found.state not in "ZX"]
        if not living:
            return True
        for pid in living:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)


def reap_orphans(parent: int, own_children: set[int], below: dict[int, ProcessStat]) -> None:
    """Collect adopted children of this process that have ended; ``own_children`` are waited for by whoever started them."""
    for pid, found in below.items():
        if found.parent == parent and found.state == "Z" and pid not in own_children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def resident_mib(pids: list[int]) -> tuple[int, int]:
    """Sum of resident memory of ``pids`` and the highest any single one ever had, in MiB (``VmRSS``, ``VmHWM``)."""
    total_kib = 0
    highest_kib = 0
    for pid in pids:
        try:
            text = (_PROC / str(pid) / "status").read_text(errors="replace")
        except OSError:
            continue
        for line in text.splitlines():
            if line.startswith("VmRSS:"):
                total_kib += int(line.split()[1])
            elif line.startswith("VmHWM:"):
                highest_kib = max(highest_kib, int(line.split()[1]))
    return total_kib // 1024, highest_kib // 1024


def proportional_mib(pids: list[int]) -> int | None:
    """Sum of proportional set sizes in MiB, which counts shared pages once; ``None`` where the kernel does not tell."""
    total_kib = 0
    for pid in pids:
        try:
            text = (_PROC / str(pid) / "smaps_rollup").read_text(errors="replace")
        except FileNotFoundError:
            if (_PROC / str(pid)).exists():
                return None
            continue
        except OSError:
            continue
        total_kib += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total_kib // 1024

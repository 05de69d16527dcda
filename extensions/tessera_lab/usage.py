"""What the processes of this workspace use: the Jupyter server, its kernels and terminals, and what those started."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Final, TypedDict

import psutil

_MIB: Final = 1 << 20


class Usage(TypedDict):
    """Use now and limits; millicores and MiB, a limit that nobody set is None."""

    cpu_millicores: int
    memory_mib: int
    cpu_limit: int | None
    memory_limit: int | None


class Meter:
    """Measures a process and all below it. The use of CPU is the mean since the last reading."""

    def __init__(self, pid: int | None = None) -> None:
        self._root = psutil.Process(pid)
        self._read_at = time.monotonic()
        self._seconds = self._look()[0]

    def read(self) -> Usage:
        """Return use and limits; the limits are those that JupyterHub tells its servers."""
        now = time.monotonic()
        seconds, memory = self._look()
        # A process that ended took its seconds away, which must not look like negative use.
        used: dict[int, float] = {pid: s - self._seconds.get(pid, 0.0) for pid, s in seconds.items()}
        elapsed = max(now - self._read_at, 0.1)
        self._seconds, self._read_at = seconds, now
        return {
            "cpu_millicores": round(sum(used.values()) / elapsed * 1000),
            "memory_mib": memory // _MIB,
            "cpu_limit": _limit("CPU_LIMIT", 1000),
            "memory_limit": _limit("MEM_LIMIT", 1 / _MIB),
        }

    def _look(self) -> tuple[dict[int, float], int]:
        """CPU seconds by process id, and bytes of memory of all."""
        seconds: dict[int, float] = {}
        memory = 0
        for process in [self._root, *self._root.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                memory += process.memory_info().rss
                seconds[process.pid] = times.user + times.system
        return seconds, memory


def _limit(variable: str, factor: float) -> int | None:
    try:
        value = float(os.environ[variable]) * factor
    except (KeyError, ValueError):
        return None
    return round(value) if value > 0 else None

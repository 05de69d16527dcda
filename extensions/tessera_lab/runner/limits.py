"""Bounds of a run: time and memory, watched from outside the user's processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tessera_lab.runner.processes import descendants, kill_descendants, proportional_mib, reap_orphans, resident_mib

SAMPLE_SECONDS: Final = 0.25
_CGROUP_COUNTERS: Final = (
    # version 2, then version 1; a container sees its own group at the root of the mount.
    ("/sys/fs/cgroup", "memory.events"),
    ("/sys/fs/cgroup/memory", "memory.oom_control"),
)


class MemoryWatch:
    """Samples the memory of the process tree below the runner and ends it when it passes the limit.

    The runner's own memory is not counted. Pages that processes share are counted once where the kernel tells
    (proportional set size), so that forked workers are not taken for more than they are.

    Args:
        limit_mib: bound in MiB, ``None`` for accounting only.
        on_exceeded: called once with the use in MiB, after the tree has been killed.
        own_children: pids that others wait for.
    """

    def __init__(self, limit_mib: int | None, on_exceeded: Callable[[int], None], own_children: set[int]) -> None:
        self._limit_mib = limit_mib
        self._on_exceeded = on_exceeded
        self._own_children = own_children
        self._oom_kills_before = out_of_memory_kills()
        self.peak_mib = 0

    async def watch(self) -> None:
        """Sample until cancelled or until the limit is passed."""
        while True:
            if self.sample():
                return
            await asyncio.sleep(SAMPLE_SECONDS)

    def sample(self) -> bool:
        """Take one sample; whether the limit was passed and the tree killed."""
        found = descendants(os.getpid())
        pids = [pid for pid, stat in found.items() if stat.state not in "ZX"]
        # A child that is being started is not known yet; taking its status would take it from whoever waits for it.
        if self._own_children:
            reap_orphans(os.getpid(), self._own_children, found)
        total, highest = resident_mib(pids)
        limit = self._limit_mib
        if limit is not None and total > limit and len(pids) > 1:
            shared_once = proportional_mib(pids)
            total = total if shared_once is None else min(total, shared_once)
        self.peak_mib = max(self.peak_mib, total, highest if len(pids) == 1 else 0)
        if limit is None or total <= limit:
            return False
        kill_descendants(os.getpid())
        self._on_exceeded(total)
        return True

    def was_out_of_memory(self) -> bool:
        """Whether a process that was killed was killed for memory: the cgroup counted it, or the peak was at the limit."""
        if out_of_memory_kills() > self._oom_kills_before:
            return True
        return self._limit_mib is not None and self.peak_mib * 100 >= self._limit_mib * 95


def out_of_memory_kills() -> int:
    """How many processes of this cgroup the kernel has killed for memory (``oom_kill``); 0 where it cannot be read."""
    for mount, name in _CGROUP_COUNTERS:
        folder = Path(mount) / _own_group(mount).lstrip("/")
        for path in (folder / name, Path(mount) / name):
            try:
                lines = path.read_text().splitlines()
            except OSError:
                continue
            for line in lines:
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
    return 0


def _own_group(mount: str) -> str:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == ("memory" if mount.endswith("memory") else ""):
            return path
    return ""

"""What runs use of processors and memory, from ``/proc``: the whole process tree below each run's shim."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID

from tessera_hub.proxy.drivers.base import Usage

TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Process:
    """One line of ``/proc/<pid>/stat``: CPU time in clock ticks, its own and that of ended children, and resident pages."""

    parent: int
    own_ticks: int
    children_ticks: int
    pages: int


def processes() -> dict[int, Process]:
    """Return all processes of the machine by pid."""
    found: dict[int, Process] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - thousands of entries
        if not name.isdigit():
            continue
        try:
            text = Path(f"/proc/{name}/stat").read_text(errors="replace")
        except OSError:
            continue
        # Counted from the last bracket, since a name may hold brackets: 1 parent, 11 to 14 times, 21 resident pages.
        fields = text.rpartition(")")[2].split()
        times = [int(field) for field in fields[11:15]]
        found[int(name)] = Process(int(fields[1]), times[0] + times[1], times[2] + times[3], int(fields[21]))
    return found


def tree_use(root: int, table: Mapping[int, Process], children: Mapping[int, Iterable[int]]) -> tuple[int, int]:
    """Return CPU time so far in clock ticks and resident MiB of everything below *root*, the ended children of *root* too.

    Pages that several processes share are counted for each.
    """
    if root not in table:
        return 0, 0
    ticks, pages, waiting = table[root].children_ticks, 0, list(children.get(root, ()))
    while waiting:
        pid = waiting.pop()
        process = table[pid]
        ticks += process.own_ticks + process.children_ticks
        pages += process.pages
        waiting.extend(children.get(pid, ()))
    return ticks, pages * PAGE_BYTES >> 20


class UsageMeter:
    """Turns growing CPU times into averages since the last look."""

    def __init__(self) -> None:
        self._last: dict[UUID, tuple[float, int]] = {}

    def look(self, roots: Mapping[UUID, tuple[int, datetime]]) -> list[Usage]:
        """Return the use of each run, given its shim's pid and start; the first average is that since the start."""
        table = processes()
        children: dict[int, list[int]] = {}
        for pid, process in table.items():
            children.setdefault(process.parent, []).append(pid)
        now, clock = datetime.now(UTC), time.monotonic()
        found: list[Usage] = []
        for run_id, (root, started_at) in roots.items():
            ticks, memory_mib = tree_use(root, table, children)
            age = max((now - started_at).total_seconds(), 0.0)
            since, before = self._last.get(run_id, (clock - age, 0))
            seconds = clock - since
            self._last[run_id] = clock, ticks
            if seconds > 0:
                cpu_millicores = round(max(ticks - before, 0) * 1000 / TICKS_PER_SECOND / seconds)
                found.append(Usage(run_id, now, cpu_millicores, memory_mib))
        self._last = {run_id: self._last[run_id] for run_id in roots}
        return found

"""What a run at a Slurm centre gives back besides a local one: the logs of its parts, and what it uses."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime

from tessera_hub.proxy.drivers.base import OutputPath, Results, Usage
from tessera_hub.proxy.drivers.outcome import time_of
from tessera_hub.proxy.drivers.results import collect_results
from tessera_hub.proxy.drivers.rundirectory import RunDirectory
from tessera_hub.proxy.drivers.slurm.carried import not_taken
from tessera_hub.proxy.drivers.slurm.records import record
from tessera_hub.schemas.bounds import is_safe


def collect(run: RunDirectory) -> Results:
    """Return files, checkpoint and notes of the first part, and of the others ``logs/part-<n>.log`` and ``parts/<n>/…``."""
    found = collect_results(run)
    parts: list[OutputPath] = []
    left_out = [*found.left_out, *not_taken(run)]
    owner = run.file_uid()
    for rank in range(1, run.lease.spec.roles[0].replicas):
        own = run.run / "ranks" / str(rank)
        names = [(own / "output.log", f"logs/part-{rank}.log")]
        output = own / "output"
        if output.is_dir() and not output.is_symlink():
            names += [(output / name, f"parts/{rank}/{name}") for name in sorted(os.listdir(output))]  # noqa: PTH208
        for path, name in names:
            if not is_safe(name):
                left_out.append(name.encode(errors="replace").decode())
                continue
            descriptor = run.open_owned(path, owner)
            if descriptor is not None:
                status = os.fstat(descriptor)
                os.close(descriptor)
                parts.append(OutputPath(name, path, status.st_size, status.st_mode & 0o777, owner))
    taken = {output.path for output in found.outputs}
    outputs = (*found.outputs, *(part for part in parts if part.path not in taken))
    return replace(found, outputs=outputs, left_out=tuple(left_out))


def usage_of(run: RunDirectory, before: tuple[float, int]) -> tuple[Usage | None, tuple[float, int]]:
    """Return what the run used since *before* = (second, processor milliseconds then), and what to remember.

    Told by a program under the person's account, so it informs and is never billed.
    """
    told = record(run, "use.json")
    if told is None:
        return None, before
    at = time_of(told, "at").timestamp()
    milliseconds, memory = told.get("cpu_milliseconds"), told.get("memory_mib")
    if type(milliseconds) is not int or type(memory) is not int or at <= before[0] or milliseconds < 0 or memory < 0:
        return None, before
    since = before[0] or time_of(told, "started_at").timestamp()
    seconds = max(at - since, 1.0)
    cpu_millicores = round(max(milliseconds - before[1], 0) / seconds)
    use = Usage(run.lease.run_id, datetime.fromtimestamp(at, UTC), min(cpu_millicores, 1 << 31), min(memory, 1 << 31))
    return use, (at, milliseconds)

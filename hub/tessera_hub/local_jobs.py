"""Jobs of the local cluster as seen from its directory, for when service and Proxy are not there to be asked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import psutil

from tessera_hub.proxy.shim import is_alive


@dataclass(frozen=True, slots=True)
class LocalJob:
    """A running shim: its process, when that started in clock ticks, and in which boot of the machine."""

    run_id: str
    pid: int
    start_ticks: int
    boot_id: str


def running_jobs(work_dir: Path) -> list[LocalJob]:
    """Return the runs of *work_dir* whose shim lives (same process id *and* start time)."""
    found = []
    for record in sorted((work_dir / "runs").glob("*/shim.pid.json")):
        try:
            values = json.loads(record.read_text("utf-8"))
            job = LocalJob(record.parent.name, int(values["pid"]), int(values["start_ticks"]), str(values["boot_id"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if alive(job):
            found.append(job)
    return found


def alive(job: LocalJob) -> bool:
    """Whether the very process of *job* lives."""
    return is_alive(job.pid, job.start_ticks, job.boot_id)


def end_jobs(jobs: list[LocalJob], seconds: float = 30.0) -> None:
    """Ask the shims to end (they give their work its grace) and wait; kill what is left."""
    processes = []
    for job in jobs:
        if alive(job):
            process = psutil.Process(job.pid)
            process.terminate()
            processes.append(process)
    _gone, left = psutil.wait_procs(processes, timeout=seconds)
    for process in left:
        process.kill()

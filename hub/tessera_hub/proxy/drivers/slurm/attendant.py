"""The program on a node: starts the runner of one run, once, and stays with it.

Standard library only; packed with the local driver's shim, whose work it does inside a job: output to a file, limits, signals,
the record of the end. In the run's directory it makes ``shim.pid.json`` by ``link(2)`` before anything else: a job that Slurm
starts a second time (requeued by a preemption, an operator, a lost node) finds it there and ends without user code.

Of several parts (``srun``) each has a directory of its own below ``ranks/``, except the first, which has the run's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Final

from tessera_hub.proxy import shim

KEPT: Final = (
    "SLURM_",
    "SLURMD_",
    "CUDA_",
    "NVIDIA_",
    "ROCR_",
    "HIP_",
    "GPU_DEVICE_",
    "ASCEND_",
    "ZE_",
    "PMIX_",
    "PMI_",
    "PMI2_",
    "OMPI_",
    "UCX_",
)
NOT_KEPT: Final = ("SLURM_JWT",)
FIRST_PORT: Final = 20_000
ALIVE_SECONDS: Final = 10.0


class Attendant(shim.Shim):
    """A shim inside a job; orders lie in the run's directory, records in the part's own."""

    def __init__(self, run: Path, control: Path, launch: dict[str, Any]) -> None:
        super().__init__(control, launch)
        self.orders = run
        self._told = 0.0

    def _touch_alive(self) -> None:
        """Tell from time to time that we live, and what the run uses."""
        now = time.monotonic()
        if now - self._told < ALIVE_SECONDS and self._told:
            return
        self._told = now
        ticks = sum(_ticks(pid) for pid in shim.descendants(os.getpid()))
        document = {
            "at": self.now_text(),
            "started_at": self.started_wall.isoformat(timespec="milliseconds"),
            "cpu_milliseconds": ticks * 1000 // os.sysconf("SC_CLK_TCK"),
            "memory_mib": self._resident_mib(),
        }
        with contextlib.suppress(OSError):
            shim.write_atomic(self.control / "use.json", document)


def _ticks(pid: int) -> int:
    """Processor time of a process and its ended children, in clock ticks."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return 0
    return sum(int(field) for field in text.rpartition(")")[2].split()[11:15])


def variables(launch: dict[str, Any]) -> dict[str, str]:
    """Return the variables of the runner: those of the run, and what Slurm and its cards say about this part of the job."""
    own = {name: value for name, value in os.environ.items() if name.startswith(KEPT) and not name.startswith(NOT_KEPT)}
    found = {**own, **launch["env"]}
    if launch.get("inherit"):
        found = {**os.environ, **found}
        found["PATH"] = os.pathsep.join(filter(None, (launch["env"].get("PATH"), os.environ.get("PATH"))))
    if "SLURM_STEP_ID" in os.environ and os.environ.get("SLURM_NTASKS", "1") != "1":
        rank, size = os.environ.get("SLURM_PROCID", "0"), os.environ.get("SLURM_NTASKS", "1")
        job = int(os.environ.get("SLURM_JOB_ID", "0"))
        found |= {
            "RANK": rank,
            "WORLD_SIZE": size,
            "LOCAL_RANK": os.environ.get("SLURM_LOCALID", "0"),
            "MASTER_ADDR": os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"),
            "MASTER_PORT": str(FIRST_PORT + job % FIRST_PORT),
        }
    return found


def part_directory(run: Path, rank: int) -> Path:
    """Return the directory of one part; made here for all but the first."""
    if rank == 0:
        return run
    own = run / "ranks" / str(rank)
    own.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("output", "work"):
        with contextlib.suppress(FileExistsError):
            (own / name).mkdir(mode=0o700) if name == "output" else (own / name).symlink_to(run / "work")
    shutil.copyfile(run / "run.json", own / "run.json")
    return own


def main(arguments: list[str]) -> int:
    """Start the run in a directory unless it was started before; returns the status of the runner."""
    run = Path(arguments[0])
    os.umask(0o077)
    launch = json.loads((run / "launch.json").read_bytes())
    rank = int(os.environ.get("SLURM_PROCID", "0")) if "SLURM_STEP_ID" in os.environ else 0
    control = part_directory(run, rank)
    mark = {"job_id": os.environ.get("SLURM_JOB_ID", ""), "restarts": int(os.environ.get("SLURM_RESTART_COUNT", "0"))}
    launch |= {"argv": [*launch["argv"], str(control)], "cwd": str(control), "env": variables(launch), "mark": mark}
    attendant = Attendant(run, control, launch)
    if not attendant.take():
        sys.stderr.write("[tessera] this run was started before; nothing is started again\n")
        return shim.TAKEN
    shim.become_reaper()
    problem = attendant.start()
    if problem is None:
        attendant.run()
    attendant.record(problem)
    if attendant.status is None:
        return shim.START_FAILED
    code = os.waitstatus_to_exitcode(attendant.status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

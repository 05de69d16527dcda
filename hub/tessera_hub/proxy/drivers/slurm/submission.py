"""From a lease to a batch job: options, the constant script, and what the program on the node is told.

Nothing that a person wrote becomes an option, an argument or shell text. The job's name is the run's id, its comment the id
and a digest of the lease; everything else travels in JSON files of the run's own directory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tessera_hub.proxy.drivers.launching import LocalOptions
from tessera_hub.proxy.drivers.slurm.inventory import Cards
from tessera_hub.proxy.drivers.slurm.settings import EnvironmentSettings, PartitionSettings, SlurmSettings
from tessera_hub.schemas.protocol import Lease

SCRIPT: Final = """#!/bin/sh
# One run of Tessera. Always these bytes: what differs comes as arguments that the driver makes, and in files.
set -u
modules=$1
shift
if [ -n "$modules" ]; then
    if ! command -v module >/dev/null 2>&1; then
        for init in /etc/profile.d/modules.sh /etc/profile.d/lmod.sh /usr/share/modules/init/sh; do
            if [ -r "$init" ]; then . "$init"; break; fi
        done
    fi
    for name in $modules; do module load "$name" || exit 69; done
fi
exec "$@"
"""
END_SLACK_SECONDS: Final = 60
"""Between the end of a run by its own limit or grace and the end by Slurm's."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where on the centre's file system a run and the programs lie."""

    run: str
    programs: str

    @property
    def attendant(self) -> str:
        """The program that starts and watches the runner on a node."""
        return f"{self.programs}/attendant.pyz"

    @property
    def runner(self) -> str:
        """The runner."""
        return f"{self.programs}/runner.pyz"

    @property
    def script(self) -> str:
        """The batch script."""
        return f"{self.programs}/job.sh"


def comment_of(lease: Lease) -> str:
    """Return a job's comment. The token itself does not appear: everybody at the centre may read comments."""
    digest = hashlib.sha256(lease.lease_token.encode()).hexdigest()[:16]
    return f"tessera {lease.run_id} {digest}"


def minutes_of(lease: Lease, settings: SlurmSettings) -> int | None:
    """Return the time limit of the job: behind the run's own, its grace and what its end takes; None: the partition's default."""
    lifecycle = lease.spec.lifecycle
    if lifecycle.max_run_seconds is None:
        return settings.default_minutes
    return -(-(lifecycle.max_run_seconds + lifecycle.grace_seconds + 2 * END_SLACK_SECONDS) // 60)


def job_options(
    lease: Lease,
    settings: SlurmSettings,
    partition: PartitionSettings,
    cards: Cards,
    place: Place,
    default_minutes: int | None = None,
) -> list[str]:
    """Return the options of ``sbatch``.

    Args:
        default_minutes: time limit that the partition gives to a job that names none; None: not known, or none.

    Raises:
        DriverError: the centre hands its cards out differently.
    """
    spec, role = lease.spec, lease.spec.roles[0]
    resources = role.resources
    cpus = -(-resources.cpu_millicores // 1000)
    minutes = minutes_of(lease, settings)
    limit = minutes or default_minutes
    # Too short a limit would have the signal come at the start.
    before_end = spec.lifecycle.grace_seconds + END_SLACK_SECONDS
    preemptible = spec.preemptible and (partition.preemptible or partition.preemptible_qos)
    whom = "B:" if role.replicas == 1 else ""
    options: dict[str, str | None] = {
        "job-name": str(lease.run_id),
        "comment": comment_of(lease),
        "chdir": place.run,
        "output": f"{place.run}/slurm.log",
        "open-mode": "append",
        "partition": (partition.preemptible if preemptible else None) or partition.name,
        "account": partition.account,
        "qos": (partition.preemptible_qos if preemptible else None) or partition.qos,
        "reservation": partition.reservation,
        "constraint": partition.constraint,
        "cpus-per-task": str(cpus),
        "ntasks": str(role.replicas),
        "nice": str(100 - spec.priority),
        # To the batch script, which is the program on the node; with several parts to all of them.
        "signal": None if limit is not None and limit * 60 <= 2 * before_end else f"{whom}TERM@{before_end}",
    }
    gres = cards.gres(lease)
    if role.replicas == 1 or gres is not None:
        # A replica with cards is a node's share: --gres counts per node.
        options |= {"nodes": str(role.replicas), "ntasks-per-node": "1", "mem": f"{resources.memory_mib}M"}
    else:
        options["mem-per-cpu"] = f"{-(-resources.memory_mib // cpus)}M"
    options["gres"] = gres
    options["time"] = None if minutes is None else str(minutes)
    # A run starts once. Whether it is tried again is the service's decision, as a new run.
    return ["--no-requeue", *(f"--{name}={value}" for name, value in options.items() if value is not None)]


def job_arguments(lease: Lease, environment: EnvironmentSettings, place: Place, datasets: Iterable[str] = ()) -> list[str]:
    """Return the arguments of the script: modules, then the program and its arguments.

    Args:
        datasets: folders that the run reads.
    """
    program = [environment.interpreter, "-I", place.attendant, place.run]
    if environment.image is not None:
        read_only = [f"{folder}:{folder}:ro" for folder in datasets]
        binds = [word for bind in (place.run, place.programs, *environment.binds, *read_only) for word in ("--bind", bind)]
        program = ["apptainer", "exec", "--nv", *binds, "--pwd", place.run, environment.image, *program]
    if lease.spec.roles[0].replicas > 1:
        mpi = ["--mpi=pmix"] if lease.spec.framework == "mpi" else []
        program = ["srun", "--kill-on-bad-exit=1", "--export=ALL", *mpi, *program]
    return [" ".join(environment.modules), *program]


def launch_document(
    lease: Lease, options: LocalOptions, place: Place, environment: EnvironmentSettings, variables: Mapping[str, str]
) -> dict[str, Any]:
    """Return ``launch.json``, what the program on the node starts and watches."""
    spec = lease.spec
    return {
        "run_id": str(lease.run_id),
        "argv": [environment.interpreter, "-I", place.runner],
        "env": dict(variables),
        # Modules and images bring variables of their own; a bare interpreter gets only those of Slurm and its cards.
        "inherit": environment.kind != "local path",
        "cwd": place.run,
        "uid": None,
        "max_seconds": spec.lifecycle.max_run_seconds,
        "grace_seconds": spec.lifecycle.grace_seconds,
        "memory_mib": spec.roles[0].resources.memory_mib,
        "output_bytes": options.output_bytes,
        "framework": spec.framework,
    }

"""From a lease to what the shim starts: the checks, the directory, ``run.json``, ``launch.json``, the clean environment."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tessera_hub.cards import CardClass
from tessera_hub.proxy import shim
from tessera_hub.proxy.drivers.accounts import UID_BASE, UID_COUNT, Account, home_of
from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.proxy.drivers.datasets import FolderDataset
from tessera_hub.proxy.drivers.rundirectory import RunDirectory
from tessera_hub.schemas.protocol import Lease
from tessera_hub.schemas.tasks import SCRIPT_KINDS, TaskKind

RUN_SCHEMA: Final = 1
DEFAULT_OUTPUT_BYTES: Final = 64 << 20
_KERNELS: Final = (
    "import json\n"
    "from jupyter_client.kernelspec import KernelSpecManager\n"
    "print(json.dumps(sorted(KernelSpecManager().find_kernel_specs())))\n"
)


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """How the local driver is set up.

    Attributes:
        homes: directory of the people's home directories, for live folders; None: snapshots only.
        environments: environment name → its Python.
        simulated: card classes and how many of each; None: the real cards.
        secrets: directory with ``<tenant id>/<reference>``, each file the value of one secret.
        variables: given to every run on top, by the operator.
        service_url: address of the service for programs inside the run.
        datasets: name → folder that runs may read.
    """

    data_dir: Path
    homes: Path | None = None
    environments: Mapping[str, Path] = field(default_factory=lambda: {"default": Path(sys.executable)})
    simulated: tuple[tuple[CardClass, int], ...] | None = None
    memory_reserve_mib: int = 1024
    output_bytes: int = DEFAULT_OUTPUT_BYTES
    uid_base: int = UID_BASE
    uid_count: int = UID_COUNT
    secrets: Path | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    service_url: str = ""
    datasets: Mapping[str, FolderDataset] = field(default_factory=dict)


def check_lease(lease: Lease, options: LocalOptions) -> Path:
    """Return the Python that runs the lease.

    Raises:
        DriverError: this driver can never run it, with a typed reason.
    """
    spec = lease.spec
    if spec.kind is not TaskKind.NOTEBOOK and spec.kind not in SCRIPT_KINDS:
        raise DriverError("never.no_cluster", f"the local driver does not run kind {spec.kind.value}")
    if len(spec.roles) != 1 or spec.roles[0].replicas != 1:
        raise DriverError("never.gang_too_large", "the local driver runs one process per task")
    if not spec.entry:
        raise DriverError("script.missing", "the task names no notebook or script")
    python = options.environments.get(spec.environment)
    if python is None:
        detail = {"environment": spec.environment, "known": sorted(options.environments)}
        raise DriverError("environment.unknown", f"no environment {spec.environment}", detail)
    return python


def live_folder(lease: Lease, options: LocalOptions) -> Path:
    """Return the folder of a live task, checked to lie in the owner's home after following links.

    Raises:
        DriverError: ``inputs.live_refused``.
    """
    asked = lease.spec.inputs.live_folder or ""
    if options.homes is not None:
        home = home_of(options.homes, lease.owner).resolve()
        found = Path(asked).resolve()
        if found.is_dir() and found.is_relative_to(home):
            return found
    message = f"{asked} is not a folder in the home directory of {lease.owner} on this machine"
    raise DriverError("inputs.live_refused", message, {"folder": asked})


def secret_values(lease: Lease, options: LocalOptions) -> dict[str, str]:
    """Resolve the secrets of a task; their values exist only here and in the run's environment.

    Raises:
        DriverError: ``secret.unknown``.
    """
    values: dict[str, str] = {}
    for name, reference in lease.spec.secrets.items():
        path = None if options.secrets is None else options.secrets / str(lease.tenant_id) / reference
        if path is None or "/" in reference or reference.startswith(".") or not path.is_file():
            detail = {"variable": name, "reference": reference}
            raise DriverError("secret.unknown", f"no secret {reference} at this cluster", detail)
        values[name] = path.read_text().rstrip("\n")
    return values


def run_document(lease: Lease, output_bytes: int, datasets: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return ``run.json``, what the runner is asked to do (docs/reference/runner.md).

    Args:
        datasets: name → folder, as the run sees it.
    """
    spec = lease.spec
    role = spec.roles[0]
    return {
        "schema": RUN_SCHEMA,
        "run_id": str(lease.run_id),
        "task_id": str(lease.task_id),
        "attempt": lease.attempt,
        "lease_token": lease.lease_token,
        "kind": "notebook" if spec.kind is TaskKind.NOTEBOOK else "script",
        "entry": spec.entry,
        "parameters": spec.parameters,
        "datasets": dict(datasets or {}),
        "kernel": spec.kernel,
        "limits": {
            # The runner counts from its own start, and that of a service is one of many.
            "max_seconds": None if spec.kind is TaskKind.SERVICE else spec.lifecycle.max_run_seconds,
            "memory_mib": role.resources.memory_mib,
            "output_bytes": output_bytes,
        },
        "grace_seconds": spec.lifecycle.grace_seconds,
        "checkpoint_dir": spec.lifecycle.checkpoint_directory,
        "claim": {"kind": "mkdir"},
    }


def run_environment(lease: Lease, options: LocalOptions, python: Path, home: Path, cards: Mapping[str, str]) -> dict[str, str]:
    """Return all variables of a run: a list of our own making; nothing of the Proxy's environment, no token of ours."""
    base = {
        "PATH": os.pathsep.join([str(python.parent), "/usr/local/bin", "/usr/bin", "/bin"]),
        "HOME": str(home),
        "USER": lease.owner,
        "LOGNAME": lease.owner,
        "LANG": "C.UTF-8",
        "SHELL": "/bin/sh",
        "TESSERA_URL": options.service_url,
        "TESSERA_RUN_ID": str(lease.run_id),
        "TESSERA_TASK_ID": str(lease.task_id),
        "TESSERA_TENANT": lease.tenant,
    }
    if time_zone := os.environ.get("TZ"):
        base["TZ"] = time_zone
    return {**base, **options.variables, **lease.spec.variables, **secret_values(lease, options), **cards}


def launch_document(
    run: RunDirectory, options: LocalOptions, python: Path, archive: Path, account: Account, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Return ``launch.json``, what the shim starts and watches."""
    lifecycle = run.lease.spec.lifecycle
    return {
        "run_id": str(run.lease.run_id),
        "argv": [str(python), "-I", str(archive), str(run.run)],
        "env": dict(environment),
        "cwd": str(run.run),
        "uid": account.uid,
        "max_seconds": lifecycle.max_run_seconds,
        "grace_seconds": lifecycle.grace_seconds,
        "memory_mib": run.lease.spec.roles[0].resources.memory_mib,
        "cpu_millicores": run.lease.spec.roles[0].resources.cpu_millicores,
        "output_bytes": options.output_bytes,
    }


def new_run_folder(run: RunDirectory, live: Path | None) -> Path:
    """Make ``run/`` afresh, closed to everybody but the Proxy until the inputs are in, and return where they go."""
    shutil.rmtree(run.run, ignore_errors=True)
    run.run.mkdir(mode=0o700)
    work = run.run / "work"
    if live is not None:
        work.symlink_to(live)
    else:
        work.mkdir(mode=0o700)
    (run.run / "output").mkdir(mode=0o700)
    return work


def note_inputs(run: RunDirectory) -> None:
    """Remember the inputs as they came, so that files which the run changed or made can be told from them."""
    work = run.run / "work"
    known: dict[str, Any] = {}
    if not work.is_symlink():
        for folder, _folders, names in os.walk(work):
            for name in names:
                found = os.lstat(Path(folder, name))
                known[str(Path(folder, name).relative_to(work))] = [found.st_mtime_ns, found.st_size]
    run.write("inputs.json", known)


def hand_over(run: RunDirectory, account: Account) -> None:
    """Give ``run/`` to the person's uid. From here on the Proxy treats everything in it as foreign."""
    if account.uid is None:
        return
    for folder, folders, names in os.walk(run.run):
        for name in (*folders, *names):
            os.chown(Path(folder, name), account.uid, account.uid, follow_symlinks=False)
    os.chown(run.run, account.uid, account.uid, follow_symlinks=False)


async def spawn_shim(run: RunDirectory) -> None:
    """Start the run's shim; when this returns, the run was started by this call or one before it.

    Raises:
        DriverError: ``cluster.start_failed``, the shim itself cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(Path(shim.__file__)),
        str(run.path),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        start_new_session=True,
    )
    _nothing, words = await process.communicate()
    if process.returncode not in (0, shim.TAKEN) and run.read("shim.pid.json") is None:
        message = words.decode(errors="replace").strip().splitlines()
        last = message[-1] if message else f"the shim ended with {process.returncode}"
        if os.strerror(errno.ENOSPC) in last or os.strerror(errno.EDQUOT) in last:
            raise DriverError("disk.full", "the disk of the machine is full")
        raise DriverError("cluster.start_failed", last)


def of_os_error(error: OSError) -> DriverError:
    """Return what a person is told about a failed system call."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DriverError("disk.full", "the disk of the machine is full")
    # Without the path: folders of the Proxy are nobody else's business.
    return DriverError("cluster.start_failed", error.strerror or type(error).__name__)


async def kernels_of(python: Path) -> list[str]:
    """Names of the kernels that an environment has; none if it has no jupyter_client."""
    try:
        process = await asyncio.create_subprocess_exec(
            str(python),
            "-I",
            "-c",
            _KERNELS,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return []
    answer, _nothing = await process.communicate()
    if process.returncode:
        return []
    try:
        return [str(name) for name in json.loads(answer)]
    except ValueError:
        return []

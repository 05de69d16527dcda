"""Workspaces as processes of this machine.

As root each person's server runs under an own Unix user id (no entry in the password file is needed) with a closed home.
Otherwise everything runs as the person who started the hub: single-person mode, in which nobody else may sign in.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psutil
from jupyterhub.spawner import LocalProcessSpawner
from traitlets import Bool, Integer, Unicode, default

from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.proxy.drivers.datasets import opened, read_local
from tessera_hub.proxy.drivers.leftovers import kill_leftovers, processes_of
from tessera_hub.proxy.drivers.outcome import reason_of
from tessera_hub.proxy.errors import ProxyError
from tessera_hub.proxy.shim import PROCESSES_LIMIT, Cgroup
from tessera_hub.schemas.workspaces import Reservation
from tessera_spawner.base import TesseraSpawner, memory_limit_mib
from tessera_spawner.failures import refused

LINKS: Final = ".datasets"
"""Folder beside the homes."""
UID_BASE: Final = 200_000
"""People's Unix user ids begin here, in a range no distribution gives out; principal 7 is 200007."""
BASHRC: Final = "PS1='${LOGNAME}:\\w\\$ '\n"
"""Prompt of a new home: the name is in no password file, and bash would say that it has none."""
EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"


def end_processes(run_id: str, grace_seconds: float = 3.0) -> None:
    """End all processes of a run: SIGTERM, and SIGKILL for those that live on after *grace_seconds*."""
    found = []
    for pid in processes_of(run_id):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            process.terminate()
            found.append(process)
    psutil.wait_procs(found, timeout=grace_seconds)
    kill_leftovers(run_id)


class LocalTesseraSpawner(TesseraSpawner, LocalProcessSpawner):  # type: ignore[misc]  # JupyterHub has no types
    """JupyterLab as a local process."""

    homes_dir = Unicode(help="Folder of the homes. Example: ``c.LocalTesseraSpawner.homes_dir = '/var/lib/tessera/homes'``").tag(
        config=True
    )
    log_dir = Unicode("", help="Folder of the servers' output; empty: with the hub's.").tag(config=True)
    single_person = Bool(True, help="Run everything as the hub's own user.").tag(config=True)
    uid_base = Integer(UID_BASE, help="Unix user id of principal 0.").tag(config=True)
    datasets_file = Unicode("", help="File that declares the data sets, that of the local Proxy; empty: there are none.").tag(
        config=True
    )
    examples_dir = Unicode(str(EXAMPLES), help="Copied as ``examples`` into a new home.").tag(config=True)

    _datasets: Path | None = None
    """Folder of the links to the data sets of this start."""

    @default("cmd")
    def _default_command(self) -> list[str]:
        return [sys.executable, "-m", "tessera_hub.launcher", "jupyterhub.singleuser"]

    @property
    def home(self) -> Path:
        """The person's home."""
        return Path(self.homes_dir) / str(self.user.name)

    @property
    def uid(self) -> int | None:
        """Unix user id of the server, None: the hub's own."""
        if self.single_person or self.reservation is None:
            return None
        return int(self.uid_base) + self.reservation.principal_id

    @property
    def shell(self) -> str:
        """Program of the terminals: the person's own if it is known, else bash."""
        own = os.environ.get("SHELL") if self.single_person else None
        return own or shutil.which("bash") or "/bin/sh"

    def get_args(self) -> list[str]:
        """Return the server's arguments; the operator's come last and win."""
        # No login shell, as Jupyter would start: /etc/profile would take `tessera` and the environment's Python off the path.
        return [f"--ServerApp.terminado_settings=shell_command={self.shell}", *super().get_args()]

    def user_env(self, env: dict[str, str]) -> dict[str, str]:
        """Set the home without asking the password file."""
        home = str(self.home)
        env |= {"USER": self.user.name, "LOGNAME": self.user.name, "HOME": home, "SHELL": self.shell}
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
        env["JUPYTERHUB_SINGLEUSER_APP"] = "jupyter_server.serverapp.ServerApp"
        # A process may use all processors it sees; libraries are told what was granted.
        if self.cpu_limit:
            env["OMP_NUM_THREADS"] = str(max(1, int(self.cpu_limit)))
        if self._datasets is not None:
            env["TESSERA_DATASETS"] = str(self._datasets)
        return env

    def make_preexec_fn(self, name: str) -> Callable[[], None]:
        """Return what the child does before it becomes the server: drop to the person's id, go home."""
        uid, home = self.uid, str(self.home)
        # Kept for the person's own processes: nothing leaves the group, so its end and its memory are those of the workspace.
        group = self.control_group() if uid is not None else None

        def prepare() -> None:
            if group is not None:
                group.join()
            if uid is not None:
                resource.setrlimit(resource.RLIMIT_NPROC, (PROCESSES_LIMIT, PROCESSES_LIMIT))
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            os.umask(0o077)
            os.chdir(home)

        return prepare

    def control_group(self) -> Cgroup | None:
        """Make the control group of the workspace: its memory and what jobs get above theirs, its processors as a weight."""
        if self.reservation is None or not self.mem_limit:
            return None
        millicores = round(self.cpu_limit * 1000) if self.cpu_limit else None
        return Cgroup(self.reservation.run_id, memory_limit_mib(int(self.mem_limit) >> 20), millicores)

    async def start(self) -> Any:
        """Start the server.

        Raises:
            SpawnException: no granted reservation.
        """
        if self.log_dir:
            Path(self.log_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
            name = f"workspace-{self.user.name}{'-' + self.name if self.name else ''}.log"
            with (Path(self.log_dir) / name).open("ab") as output:
                self.popen_kwargs = {"stdout": output, "stderr": output}
                return await super().start()
        return await super().start()

    def apply_reservation(self, reservation: Any) -> None:
        """Take what was granted and make the home ready for its owner."""
        super().apply_reservation(reservation)
        self.make_home()
        if self._datasets is not None:
            shutil.rmtree(self._datasets, ignore_errors=True)  # of a former start that failed
        self._datasets = self.link_datasets(reservation)

    def link_datasets(self, reservation: Reservation) -> Path | None:
        """Return a folder with a link to each data set that was granted, as a run has; None: there are none.

        It lies beside the homes, where only the hub writes: in a home the person could lead the links elsewhere.

        Raises:
            StartRefused: ``dataset.unknown`` or ``dataset.missing``.
        """
        assert reservation.spec is not None
        if not reservation.spec.datasets:
            return None
        try:
            declared = read_local(Path(self.datasets_file) if self.datasets_file else None)
            read = opened(reservation.spec.datasets, reservation.tenant, declared)
        except ProxyError as error:
            self.log.error("data sets: %s", error)
            raise refused(reason_of("dataset.missing"), self._language()) from error
        except DriverError as error:
            raise refused(error.reason, self._language()) from error
        folder = self.links_of(reservation.run_id)
        for place in (folder.parent, folder):
            place.mkdir(exist_ok=True)
            place.chmod(0o711 if place != folder else 0o755)
        for name, dataset in read.items():
            with contextlib.suppress(FileExistsError):  # of a hub that was killed while it started this very run
                (folder / name).symlink_to(dataset.path)
        return folder

    def links_of(self, run_id: str) -> Path:
        """Return where the links to the data sets of a run are."""
        return Path(self.homes_dir) / LINKS / run_id

    def make_home(self) -> None:
        """Make the home with the examples in it; it belongs to the person and is closed to others."""
        home, uid = self.home, self.uid
        if uid is not None and home.exists() and home.stat().st_uid != uid:
            # A re-created person of the same name is another principal and inherits nothing.
            former = home.parent / f".former-{home.name}-{home.stat().st_uid}-{int(time.time())}"
            home.rename(former)
            former.chmod(0o700)
        fresh = not home.exists()
        if not fresh:
            return
        home.mkdir(mode=0o700, parents=True)
        if Path(self.examples_dir).is_dir():
            shutil.copytree(self.examples_dir, home / "examples", ignore=shutil.ignore_patterns("__pycache__", ".*"))
        if uid is None:
            return
        (home / ".bashrc").write_text(BASHRC, "ascii")
        for folder, folders, files in os.walk(home):
            for entry in (*folders, *files):
                os.chown(Path(folder) / entry, uid, uid, follow_symlinks=False)
        os.chown(home, uid, uid)

    async def stop(self, now: bool = False) -> None:
        """Stop the server and whatever it or its kernels and terminals left running."""
        run_id = self.reservation.run_id if self.reservation else ""
        await super().stop(now=now)
        await self.end_leftovers(run_id)

    async def poll(self) -> Any:
        """Return None while the server lives, else its status; what it left running is ended."""
        run_id = self.reservation.run_id if self.reservation else ""
        status = await super().poll()
        if status is not None and self.reservation is None:
            await self.end_leftovers(run_id)
        return status

    async def end_leftovers(self, run_id: str) -> None:
        """End the processes that carry *run_id* in their environment: nobody would account for them any more."""
        if run_id:
            await asyncio.to_thread(end_processes, run_id)
            await asyncio.to_thread(shutil.rmtree, self.links_of(run_id), ignore_errors=True)

    def native_id(self) -> str:
        """Return process id and start time."""
        try:
            started = psutil.Process(self.pid).create_time()
        except psutil.Error:
            started = 0.0
        return f"{self.pid}:{started:.2f}"

    async def move_certs(self, paths: dict[str, str]) -> dict[str, str]:
        """Leave the certificates where they are; servers here listen on loopback only."""
        return paths

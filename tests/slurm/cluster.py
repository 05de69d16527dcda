"""A real Slurm on this machine: munged, slurmctld and three slurmd on loopback, in a directory of its own.

Nodes ``n1`` and ``n2`` have two cards each, typed ``a100``, whose device files are ``/dev/null`` and ``/dev/zero`` (Slurm
only hands them out), and shards of them; ``n3`` has none. Partitions: ``gpu`` (default), ``low`` (the same nodes, preempted by
``gpu``), ``cpu``, and ``short`` (one minute, one node). Needs root, as slurmd starts jobs under people's accounts.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

from tessera_hub.installation import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo", "scontrol", "scancel")
PACKAGES = "slurmctld slurmd slurm-client munge"
PEOPLE = ("tessera-ada", "tessera-bob")
NODES = ("n1", "n2", "n3")
CPUS_PER_NODE = 4
C = TypeVar("C", bound="SlurmCluster")
MEMORY_MIB_PER_NODE = 4096


def missing() -> str | None:
    """Return what is lacking to run Slurm here, in words; None if nothing is."""
    if os.geteuid() != 0:
        return "the Slurm tests need root: slurmd starts jobs under people's accounts"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"{', '.join(absent)} not found; on Debian: apt-get install {PACKAGES}" if absent else None


@contextmanager
def people() -> Iterator[None]:
    """Unix accounts of two people; those that were not there before are removed again."""
    made = []
    for name in PEOPLE:
        try:
            pwd.getpwnam(name)
        except KeyError:
            subprocess.run(["useradd", "--no-create-home", "--shell", "/bin/sh", name], check=True, capture_output=True)
            made.append(name)
    try:
        yield
    finally:
        for name in made:
            subprocess.run(["userdel", name], check=False, capture_output=True)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listened on a moment ago, all different."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port(found))
    return sorted(found)


class SlurmCluster:
    """One Slurm; ``SLURM_CONF`` of :attr:`environment` leads any of its commands here.

    Args:
        directory: where everything of it lies; people must be able to pass through.
        settings: lines of slurm.conf, in place of those with the same key.
    """

    def __init__(self, directory: Path, settings: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.settings = settings
        self.config = directory / "etc" / "slurm.conf"
        self.shared = directory / "shared"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        controller, *daemons = free_ports(1 + len(NODES))
        self.controller_port, self.node_ports = controller, dict(zip(NODES, daemons, strict=True))

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which Slurm's commands find this cluster."""
        return {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "SLURM_CONF": str(self.config), "LANG": "C.UTF-8"}

    def start(self) -> None:
        """Start all daemons; returns when the nodes are idle."""
        self._write()
        self._spawn(
            "munged",
            *("munged", "--foreground", "--force", f"--key-file={self.directory}/munge/key"),
            *(f"--socket={self.directory}/munge/socket", f"--pid-file={self.directory}/munge/pid"),
            *(f"--seed-file={self.directory}/munge/seed", f"--log-file={self.directory}/munge/log"),
        )
        self._wait((self.directory / "munge" / "socket").exists, "munged")
        self.start_accounting()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self._wait(lambda: self.command("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split() != [], "sinfo")
        self._wait(lambda: set(self.command("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split()) == set(NODES), "the nodes")

    def start_accounting(self) -> None:
        """There is none."""

    def start_controller(self) -> None:
        """Start slurmctld, with the state it left."""
        self._spawn("slurmctld", "slurmctld", "-D", "-i", "-f", str(self.config))
        self._wait(lambda: "UP" in self.command("scontrol", "ping", check=False), "slurmctld")

    def stop_controller(self, number: int = signal.SIGTERM) -> None:
        """End slurmctld; jobs go on."""
        self._end("slurmctld", number)

    def forget_jobs(self) -> None:
        """Restart slurmctld without its memory of jobs, as if all had ended long ago."""
        self.stop_controller()
        self._spawn("slurmctld", "slurmctld", "-D", "-c", "-f", str(self.config))
        self._wait(lambda: "UP" in self.command("scontrol", "ping", check=False), "slurmctld")
        self._wait(lambda: set(self.command("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split()) == set(NODES), "the nodes")

    def keep_state(self) -> None:
        """Keep what slurmctld has saved so far."""
        shutil.copytree(self.directory / "state", self.directory / "kept", dirs_exist_ok=True)

    def lose_state(self) -> None:
        """Kill slurmctld if it runs, and start it with the state that was kept; of what came since then it has never heard."""
        self.stop_controller(signal.SIGKILL)
        shutil.rmtree(self.directory / "state")
        shutil.copytree(self.directory / "kept", self.directory / "state")
        self.start_controller()

    def start_node(self, node: str) -> None:
        """Start one slurmd."""
        self._spawn(node, "slurmd", "-D", "-N", node, "-f", str(self.config))

    def stop_node(self, node: str, number: int = signal.SIGTERM) -> None:
        """End one slurmd; steps on it go on."""
        self._end(node, number)

    def stop(self) -> None:
        """End all jobs and daemons."""
        if "slurmctld" in self.processes:
            self.command("scancel", "--quiet", "--state=PENDING", check=False)
            self.command("scancel", "--quiet", "--signal=KILL", "--full", "--state=RUNNING", check=False)
            self.command("scancel", "--quiet", "--state=RUNNING", check=False)
            self.command("scancel", "--quiet", "--state=SUSPENDED", check=False)
            deadline = time.monotonic() + 15
            while self.command("squeue", "-h", check=False).strip() and time.monotonic() < deadline:
                time.sleep(0.1)
        for name in reversed(list(self.processes)):
            self._end(name, signal.SIGTERM)
        self._kill_steps()

    def _kill_steps(self) -> None:
        """Kill what is left of this cluster's steps: found by its own spool directory on their command line or environment."""
        mark = str(self.directory).encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                if b"SLURM_CONF=" + mark in (entry / "environ").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)

    def command(self, *argv: str, check: bool = True, user: str | None = None) -> str:
        """Run a command at this cluster and return what it prints."""
        done = subprocess.run(
            argv, env=self.environment, capture_output=True, text=True, check=False, timeout=60, user=user, cwd="/"
        )
        assert not check or done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def logs(self) -> str:
        """Return the ends of the daemons' logs."""
        paths = sorted(path for path in (self.directory / "log").glob("*.log") if ".out." not in path.name)
        found = [f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-8:]) for path in paths]
        return "\n".join(found)

    def _spawn(self, name: str, *argv: str) -> None:
        with (self.directory / "log" / f"{name}.out.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                argv, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory
            )

    def _end(self, name: str, number: int) -> None:
        process = self.processes.pop(name, None)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def _wait(self, condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            dead = {name: process.returncode for name, process in self.processes.items() if process.poll() is not None}
            assert not dead, f"{dead} ended:\n{self.logs()}"
            assert time.monotonic() < deadline, f"{what} not ready in {seconds} s:\n{self.logs()}"
            time.sleep(0.1)

    def _write(self) -> None:
        for name in ("etc", "log", "state", "shared", *(f"spool/{node}" for node in NODES)):
            (self.directory / name).mkdir(parents=True)
        (self.directory / "munge").mkdir(mode=0o755)
        key = self.directory / "munge" / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        nodes = [
            f"NodeName={node} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={self.node_ports[node]}"
            f" CPUs={CPUS_PER_NODE} RealMemory={MEMORY_MIB_PER_NODE}" + ("" if node == "n3" else " Gres=gpu:a100:2,shard:8")
            for node in NODES
        ]
        lines = [
            "ClusterName=tessera-test",
            f"SlurmctldHost={socket.gethostname()}(127.0.0.1)",
            f"SlurmctldPort={self.controller_port}",
            "SlurmUser=root",
            "SlurmdUser=root",
            "AuthType=auth/munge",
            f"AuthInfo=socket={self.directory}/munge/socket",
            "CredType=cred/munge",
            "MpiDefault=none",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_CPU_Memory",
            "GresTypes=gpu,shard",
            "SlurmdParameters=config_overrides",
            "SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_min_age_reserve=0",
            "PreemptType=preempt/partition_prio",
            "PreemptMode=REQUEUE",
            "ReturnToService=2",
            "InactiveLimit=0",
            "KillWait=2",
            "MinJobAge=300",
            "AccountingStorageType=accounting_storage/none",
            "JobAcctGatherType=jobacct_gather/none",
            f"StateSaveLocation={self.directory}/state",
            f"SlurmdSpoolDir={self.directory}/spool/%n",
            f"SlurmctldPidFile={self.directory}/state/slurmctld.pid",
            f"SlurmdPidFile={self.directory}/spool/%n/slurmd.pid",
            f"SlurmctldLogFile={self.directory}/log/slurmctld.log",
            f"SlurmdLogFile={self.directory}/log/slurmd-%n.log",
            "SlurmctldDebug=info",
            "SlurmdDebug=info",
            *nodes,
            "PartitionName=gpu Nodes=n1,n2 Default=YES MaxTime=1-0 DefaultTime=60 State=UP PriorityTier=10",
            "PartitionName=low Nodes=n1,n2 MaxTime=1-0 DefaultTime=60 State=UP PriorityTier=1 GraceTime=0",
            "PartitionName=cpu Nodes=n3 MaxTime=1-0 DefaultTime=60 State=UP PriorityTier=10",
            "PartitionName=short Nodes=n3 MaxTime=1 MaxNodes=1 State=UP PriorityTier=10",
        ]
        given = {line.partition("=")[0] for line in self.settings}
        lines = [line for line in lines if line.partition("=")[0] not in given]
        self.config.write_text("\n".join([*lines, *self.settings, ""]))
        (self.directory / "etc" / "gres.conf").write_text(
            "NodeName=n[1-2] Name=gpu Type=a100 File=/dev/null\n"
            "NodeName=n[1-2] Name=gpu Type=a100 File=/dev/zero\n"
            "NodeName=n[1-2] Name=shard Count=4 File=/dev/null\n"
            "NodeName=n[1-2] Name=shard Count=4 File=/dev/zero\n"
        )


@contextmanager
def running_as(kind: type[C], settings: tuple[str, ...] = ()) -> Iterator[C]:
    """A cluster in a temporary directory, with people's accounts; nothing of it is left afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="tessera-slurm-"))
    directory.chmod(0o755)
    cluster = kind(directory, settings)
    with people():
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
            shutil.rmtree(directory, ignore_errors=True)


def running(settings: tuple[str, ...] = ()) -> AbstractContextManager[SlurmCluster]:
    """A cluster without accounting, as :func:`running_as` makes it."""
    return running_as(SlurmCluster, settings)

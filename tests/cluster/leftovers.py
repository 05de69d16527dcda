"""What a cluster has on this machine besides its folder (processes, mounts, cgroups, rules of the packet filter) and its removal.

All of it is found by looking: another process, or one that was killed, may have brought the cluster up.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.cluster.parts import program

RUN: Final = Path("/run/tessera-cluster")
"""Sockets (whose paths must be short), pids and the lock of the machine."""
CGROUP: Final = "tessera-cluster"
CGROUPS: Final = Path("/sys/fs/cgroup")


def start_ticks(pid: int) -> int | None:
    """Return when a living process began, in ticks since the machine did, or None."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def controllers() -> list[Path]:
    """Mount points of the cgroup controllers (version 1), or the one hierarchy of version 2."""
    found = [path for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink() and (path / "cgroup.procs").exists()]
    return [path for path in found if path.name != "unified"] or [CGROUPS]


def cgroup_pids() -> set[int]:
    """Return the processes in the cluster's cgroups."""
    found: set[int] = set()
    for controller in controllers():
        for procs in (controller / CGROUP).rglob("cgroup.procs"):
            with suppress(OSError):
                found |= {int(line) for line in procs.read_text().split()}
    return found - {0}


def remove_cgroups() -> None:
    """Remove the cluster's cgroups; those with processes stay."""
    for controller in [*controllers(), CGROUPS / "unified"]:
        root = controller / CGROUP
        if root.exists():
            for folder in sorted((p for p in root.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts)):
                with suppress(OSError):
                    folder.rmdir()
            with suppress(OSError):
                root.rmdir()


def pids_with_argument(argument: bytes) -> set[int]:
    """Return the processes with this argument."""
    found: set[int] = set()
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError):
                if argument in (path / "cmdline").read_bytes().split(b"\0"):
                    found.add(int(path.name))
    return found


def recorded_pids() -> set[int]:
    """Return the processes of the parts, as they were recorded."""
    return {int(record.read_text().split()[0]) for record in RUN.glob("*.pid")}


def unmount_below(*roots: str) -> None:
    """Take away all mounts below these folders, the deepest first."""
    for _attempt in range(3):
        lines = Path("/proc/mounts").read_text().splitlines()
        mounts = [line.split()[1].replace("\\040", " ") for line in lines]
        mine = [mount for mount in mounts if any(mount.startswith(f"{root}/") for root in roots)]
        for mount in sorted(mine, key=len, reverse=True):
            subprocess.run(["umount", "-l", mount], capture_output=True, check=False)
        if not mine:
            return


def iptables_used() -> bool:
    """Whether there are rules of Kubernetes."""
    done = subprocess.run([program("iptables"), "-S"], capture_output=True, text=True, check=False)
    return "KUBE-" in done.stdout


def remove_chains() -> None:
    """Remove what ``kube-proxy --cleanup`` leaves: the kubelet's hint chains."""
    for command in ("iptables", "ip6tables"):
        for table in ("filter", "nat", "mangle"):
            rules = subprocess.run([program(command), "-t", table, "-S"], capture_output=True, text=True, check=False).stdout
            lines = [line.split() for line in rules.splitlines()]
            for words in lines:
                if words[0] == "-A" and any(word.startswith("KUBE-") for word in words):
                    subprocess.run([program(command), "-t", table, "-D", *words[1:]], capture_output=True, check=False)
            for words in lines:
                if words[0] == "-N" and words[1].startswith("KUBE-"):
                    subprocess.run([program(command), "-t", table, "-F", words[1]], capture_output=True, check=False)
                    subprocess.run([program(command), "-t", table, "-X", words[1]], capture_output=True, check=False)

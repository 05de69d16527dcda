"""Processes of this machine as ``/proc`` shows them: whose they are, and whether they hold a card without the library.

Only what the kernel itself writes is read. Nothing is opened or looked at by a path of a container: its file systems are the
tenant's, and one of his own making could answer never. A process that ends meanwhile is no process.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
_POD: Final = re.compile(r"(?:^|[/-])pod([A-Za-z0-9][A-Za-z0-9_-]*?)(?:\.slice)?/([^\n]*)")
_CONTAINER: Final = re.compile(r"([0-9a-f]{16,})(?:\.scope)?(?:/|$)")
_CARD_NODE: Final = re.compile(r"/nvidia[0-9]+(?: \(deleted\))?$")
_START_FIELD: Final = 19
"""Of ``/proc/<pid>/stat`` after the name: the 22nd of all."""
_MOST_DESCRIPTORS: Final = 1 << 16
_MOST_MAPS_BYTES: Final = 64 << 20
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a pod.

    Attributes:
        pid: in the machine's name space.
        pid_inside: in its own, the innermost.
        container_id: of the container runtime; empty where the control group has none.
    """

    pid: int
    start_ticks: int
    pid_inside: int
    pod_uid: str
    container_id: str


def of_pod(pid: int) -> tuple[str, str] | None:
    """Return the pod's UID and the container's id of a process by its control groups, None for one outside of pods.

    A process can make groups below its own only, so the outermost name counts.
    """
    try:
        groups = (PROC / str(pid) / "cgroup").read_text("utf-8", "replace")
    except OSError:
        return None
    for line in groups.splitlines():
        path = line.split(":", 2)[-1]
        match = _POD.search(path)
        if match is not None:
            container = _CONTAINER.search(match[2])
            # systemd's names of groups have no hyphens.
            return match[1].replace("_", "-"), container[1] if container is not None else ""
    return None


def look(pid: int) -> Process | None:
    """Return what is known of a process, None if it is gone, has ended, or belongs to no pod."""
    whose = of_pod(pid)
    start = start_ticks(pid)
    if whose is None or start is None:
        return None
    try:
        status = (PROC / str(pid) / "status").read_text("utf-8", "replace")
    except OSError:
        return None
    inside = next((line.split()[-1] for line in status.splitlines() if line.startswith("NSpid:")), str(pid))
    return Process(pid, start, int(inside), *whose)


def start_ticks(pid: int) -> int | None:
    """Return when a process began, in ticks since the machine did; None if it is gone or has ended."""
    try:
        fields = (PROC / str(pid) / "stat").read_bytes().rpartition(b") ")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[_START_FIELD])
    except (OSError, IndexError, ValueError):
        return None


def of_pods(uids: Collection[str]) -> Iterator[int]:
    """Return the numbers of the processes of these pods."""
    if not uids:
        return
    with os.scandir(PROC) as entries:
        numbers = [int(entry.name) for entry in entries if entry.name.isascii() and entry.name.isdigit()]
    for pid in numbers:
        whose = of_pod(pid)
        if whose is not None and whose[0] in uids:
            yield pid


def holds_card(pid: int) -> bool:
    """Whether a process has a card's node open, by the names of its descriptors; it has at most 65,536 that are looked at."""
    try:
        with os.scandir(PROC / str(pid) / "fd") as entries:
            return any(_CARD_NODE.search(_target(Path(entry))) for entry in islice(entries, _MOST_DESCRIPTORS))
    except OSError:
        return False


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def has_library(pid: int, inodes: frozenset[int]) -> bool | None:
    """Whether a file with one of these inodes is mapped by a process; None if that cannot be told.

    A list of more than 64 MiB is no honest program's and counts as without it.
    """
    words = tuple(b" %d " % inode for inode in inodes)
    rest, seen = b"", 0
    try:
        with (PROC / str(pid) / "maps").open("rb", buffering=0) as maps:
            while seen < _MOST_MAPS_BYTES and (chunk := maps.read(_CHUNK)):
                seen += len(chunk)
                rest += chunk
                if any(word in rest for word in words):
                    return True
                rest = rest[-64:]
    except OSError:
        return None
    return None if seen == 0 else False


def end(process: Process) -> bool:
    """Kill a process, and no other that has its number by now; return whether it was there."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        # With the handle in hand the number cannot change its meaning any more.
        if look(process.pid) != process:
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True

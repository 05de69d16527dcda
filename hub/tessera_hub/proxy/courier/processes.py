"""The processes of a container, from ``/proc``."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def descendants(root: int) -> list[int]:
    """Return all processes below *root*."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - thousands of entries several times a second
        if name.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(name))
    below: list[int] = []
    waiting = [root]
    while waiting:
        found = children.get(waiting.pop(), [])
        below += found
        waiting += found
    return below

"""Ends a Python program by SIGKILL before its KILL_AT-th change of a file below KILL_BELOW, as a power cut would."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "open")
BELOW = os.environ.get("KILL_BELOW", "")
left = int(os.environ.get("KILL_AT", "0"))


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    global left
    if event not in CHANGES or not isinstance(arguments[0], str | os.PathLike):
        return
    path = os.fspath(arguments[0])
    if not path.startswith(BELOW) or "seen.json" in path or (event == "open" and not arguments[2] & (os.O_CREAT | os.O_TRUNC)):
        return
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


if BELOW:
    sys.addaudithook(watch)
